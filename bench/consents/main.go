// Command consents measures what finding, listing and revoking consents costs beside millions
// of other users':
//
//	go run ./bench/consents -database-url postgres://…/postgres
//
// The role must be able to create databases; one is made and dropped. It is filled step by
// step, and after each step one user's consents are found, listed and revoked, many times. The
// medians are printed as Markdown.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/bench/internal/scratch"
	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

const (
	issuer = "https://as.example"
	// What the one user has: applications, and responses of each.
	applications, responses = 20, 5
)

func main() {
	url := flag.String("database-url", os.Getenv("DATABASE_URL"), "the server's maintenance database, as a superuser")
	rows := flag.String("rows", "0,100000,10000000", "consents of others, ascending")
	rounds := flag.Int("rounds", 50, "how often each call is measured")
	flag.Parse()
	if err := run(context.Background(), *url, *rows, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "consents:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, rows string, rounds int) error {
	return scratch.Run(ctx, url, "consents_bench", func(ctx context.Context, pool *pgxpool.Pool, version string) error {
		b := bench{pool: pool, rounds: rounds}
		if err := b.open(); err != nil {
			return err
		}
		return b.run(ctx, version, rows)
	})
}

func (b *bench) run(ctx context.Context, version, rows string) error {
	fmt.Printf("%s; medians of %d calls\n\n", version, b.rounds)
	fmt.Printf("| consents of others | find | list a user's %d | list 50 of a client's | revoke one of a user's | revoke the other %d, with %d responses |\n|---|---|---|---|---|---|\n",
		applications, applications-1, (applications-1)*responses)
	filled := 0
	for _, text := range strings.Split(rows, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < filled {
			return fmt.Errorf("-rows has %q, expected ascending numbers", text)
		}
		if err := b.fill(ctx, filled, n); err != nil {
			return err
		}
		filled = n
		if err := b.measure(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	pool   *pgxpool.Pool
	store  *pgstore.Store
	tokens *fositestore.Store
	rounds int
	next   uint64 // id
}

func (b *bench) open() (err error) {
	if b.store, err = pgstore.New(b.pool, pgstore.Config{}); err != nil {
		return err
	}
	b.tokens, err = fositestore.New(b.pool, fositestore.Config{NewSession: func() fosite.Session { return openid.NewDefaultSession() }})
	return err
}

// fill adds consents of others, each with one response and one refresh token: of a hundred
// clients, and of a user for every ten of them.
func (b *bench) fill(ctx context.Context, from, to int) error {
	const step = 500_000
	for ; from < to; from += step {
		last := min(from+step, to) - 1
		for _, sql := range []string{
			`INSERT INTO consent_consents (id, decided_at, remembered, issuer, subject, client_id, login_session, scopes, audience, response_types, details, shown, request_id, remembered_scopes)
			 SELECT lpad(to_hex(n), 32, '0')::uuid, now(), true, '` + issuer + `', 'user ' || n / 10, 'client ' || n % 100, '', '{photos.read,photos.write}', '{}', '{code}', '{}',
			        sha256('shown'), 'request ' || n, '{photos.read,photos.write}' FROM generate_series($1::bigint, $2::bigint) AS n`,
			`INSERT INTO consent_responses (consent_id, issued_at, request_id)
			 SELECT lpad(to_hex(n), 32, '0')::uuid, now(), 'request ' || n FROM generate_series($1::bigint, $2::bigint) AS n`,
			`INSERT INTO consent_refresh_tokens (signature_hash, request_id, client_id, subject, request)
			 SELECT sha256(n::text::bytea), 'request ' || n, 'client ' || n % 100, 'user ' || n / 10, '{"v": 1}' FROM generate_series($1::bigint, $2::bigint) AS n`,
		} {
			if _, err := b.pool.Exec(ctx, sql, from+1, last+1); err != nil {
				return err
			}
		}
	}
	_, err := b.pool.Exec(ctx, "VACUUM ANALYZE")
	return err
}

// id returns IDs above those of all others.
func (b *bench) id() (id fositeconsent.ID) {
	b.next++
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], b.next)
	return id
}

// allow has the user allow all applications.
func (b *bench) allow(ctx context.Context, subject string) error {
	for i := range applications {
		c := &fositeconsent.Consent{
			ID: b.id(), Issuer: issuer, Subject: subject, ClientID: fmt.Sprint("client ", i), Scopes: []string{"photos.read"}, RememberedScopes: []string{"photos.read"}, ResponseTypes: []string{"code"},
			Remembered: true,
		}
		for j := range responses {
			r := &fositeconsent.Response{RequestID: fmt.Sprint(subject, " ", i, " ", j), Approval: c}
			if j > 0 {
				r.Approval, r.ConsentIDs = nil, []fositeconsent.ID{c.ID}
			}
			if err := b.store.RecordResponse(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) measure(ctx context.Context, others int) error {
	times := make([][]time.Duration, 5)
	for round := range b.rounds {
		subject := fmt.Sprint("the user ", others, " ", round)
		if err := b.allow(ctx, subject); err != nil {
			return err
		}
		all := fositeconsent.Selection{Issuer: issuer, Subject: subject}
		list := func(selection fositeconsent.Selection, limit, expected int) func() error {
			return func() error {
				list, err := b.store.ListConsents(ctx, selection, fositeconsent.ID{}, limit)
				return expect(len(list), expected, err)
			}
		}
		revoke := func(selection fositeconsent.Selection, expected int) func() error {
			return func() error {
				n, err := b.store.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
					return b.tokens.RevokeRequests(ctx, ended.RequestIDs)
				})
				return expect(n, expected, err)
			}
		}
		one := all
		one.ClientID = "client 1"
		for i, call := range []func() error{
			func() error {
				found, err := b.store.FindConsents(ctx, issuer, subject, "client 1")
				return expect(len(found), 1, err)
			},
			list(all, 50, applications),
			list(fositeconsent.Selection{Issuer: issuer, ClientID: "client 2"}, 50, min(50, (others+97)/100+1)),
			revoke(one, 1),
			revoke(all, applications-1),
		} {
			start := time.Now()
			if err := call(); err != nil {
				return err
			}
			times[i] = append(times[i], time.Since(start))
		}
	}
	fmt.Printf("| %d |", others)
	for _, t := range times {
		slices.Sort(t)
		fmt.Printf(" %.2f ms |", float64(t[len(t)/2].Microseconds())/1000)
	}
	fmt.Println()
	return nil
}

func expect(got, expected int, err error) error {
	if err == nil && got != expected {
		err = fmt.Errorf("got %d consents, expected %d", got, expected)
	}
	return err
}
