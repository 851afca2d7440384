// Command requests measures what consent requests cost that were abandoned: the steps of one that is not, beside up to a million
// of them, and sweeping them.
//
//	go run ./bench/requests -database-url postgres://…/postgres
//
// The role must be able to create databases; one is made and dropped. It is filled step by step, half with requests that are
// pending and half with ones that have expired and are kept for their retention, and after each step new requests are created, found, answered, brought back, used and
// revoked, many times. Then the retention of all is over, and they are swept while more are created. Medians are printed as Markdown.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/bench/internal/scratch"
	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// document is as long as that of a request with three scopes and a client with a logo, its sealed ticket included.
const document = 1400

func main() {
	url := flag.String("database-url", os.Getenv("DATABASE_URL"), "the server's maintenance database, as a superuser")
	rows := flag.String("rows", "0,100000,1000000", "abandoned requests, ascending")
	rounds := flag.Int("rounds", 500, "how often each step is measured")
	flag.Parse()
	if err := run(context.Background(), *url, *rows, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "requests:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, rows string, rounds int) error {
	return scratch.Run(ctx, url, "requests_bench", func(ctx context.Context, pool *pgxpool.Pool, version string) error {
		store, err := pgstore.New(pool, pgstore.Config{})
		if err != nil {
			return err
		}
		b := bench{pool: pool, store: store, rounds: rounds}
		return b.run(ctx, version, rows)
	})
}

type bench struct {
	pool   *pgxpool.Pool
	store  *pgstore.Store
	rounds int
	next   uint64 // id
}

func (b *bench) run(ctx context.Context, version, rows string) error {
	fmt.Printf("%s; medians of %d calls, in ms\n\n| abandoned |", version, b.rounds)
	for _, name := range steps {
		fmt.Printf(" %s |", name)
	}
	fmt.Printf(" bytes on disk, each |\n|---|%s---|\n", strings.Repeat("---|", len(steps)))
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
	return b.sweep(ctx)
}

// fill adds requests that nobody comes back to.
func (b *bench) fill(ctx context.Context, from, to int) error {
	const step = 100_000
	for ; from < to; from += step {
		last := min(from+step, to) - 1
		if _, err := b.pool.Exec(ctx, `INSERT INTO consent_requests (id, created_at, expires_at, challenge_hash, browser_hash, subject, client_id, login_session, document)
			SELECT lpad(to_hex(n), 32, '0')::uuid, now() - (n % 2) * interval '1 hour', now() + interval '30 minutes' - (n % 2) * interval '1 hour',
			       sha256(('challenge ' || n)::bytea), sha256(('browser ' || n)::bytea), 'user ' || n / 10, 'client ' || n % 100, 'login ' || n / 10, convert_to(repeat(md5(n::text), $3 / 32), 'UTF8')
			FROM generate_series($1::bigint, $2::bigint) AS n`, from+1, last+1, document); err != nil {
			return err
		}
	}
	_, err := b.pool.Exec(ctx, "VACUUM ANALYZE consent_requests")
	return err
}

var steps = []string{"create", "find", "answer", "find the answer", "use", "revoke a user's"}

// request returns a new one, above all others, and its answer.
func (b *bench) request() (*consentapi.Request, *consentapi.Answer) {
	b.next++
	var id fositeconsent.ID
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], b.next)
	hash := func(name string) consentapi.Hash { return sha256.Sum256(fmt.Append(nil, name, b.next)) }
	text := make([]byte, document/2)
	_, _ = rand.Read(text)
	return &consentapi.Request{
		ID: id, Challenge: hash("challenge"), Browser: hash("browser"), Subject: "the user", ClientID: "the client", LoginSession: "the login",
		Document: fmt.Appendf(nil, "%x", text), Lifespan: 30 * time.Minute,
	}, &consentapi.Answer{Accepted: true, Digest: hash("digest"), Verifier: hash("verifier"), Document: text[:200]}
}

func (b *bench) measure(ctx context.Context, abandoned int) error {
	times := make([][]time.Duration, len(steps))
	for range b.rounds {
		r, answer := b.request()
		unused, other := b.request()
		if err := b.store.CreateConsentRequest(ctx, unused); err != nil {
			return err
		}
		if _, err := b.store.AnswerConsentRequest(ctx, unused.ID, unused.Challenge, other); err != nil {
			return err
		}
		for i, step := range []func() error{
			func() error { return b.store.CreateConsentRequest(ctx, r) },
			func() error { _, err := b.store.FindConsentRequest(ctx, r.ID, r.Challenge); return err },
			func() error { _, err := b.store.AnswerConsentRequest(ctx, r.ID, r.Challenge, answer); return err },
			func() error {
				_, err := b.store.FindAnsweredConsentRequest(ctx, r.ID, answer.Verifier, r.Browser)
				return err
			},
			func() error { return b.store.UseConsentRequest(ctx, r.ID, answer.Verifier, r.Browser) },
			func() error {
				n, err := b.store.RevokeConsentRequests(ctx, fositeconsent.Selection{Subject: "the user"})
				if err == nil && n != 1 {
					err = fmt.Errorf("%d requests were revoked, expected the one that was not used", n)
				}
				return err
			},
		} {
			start := time.Now()
			if err := step(); err != nil {
				return fmt.Errorf("%s: %w", steps[i], err)
			}
			times[i] = append(times[i], time.Since(start))
		}
		// Else the user's own requests were what is measured.
		if _, err := b.pool.Exec(ctx, "DELETE FROM consent_requests WHERE subject = 'the user'"); err != nil {
			return err
		}
	}
	var bytes int64
	if err := b.pool.QueryRow(ctx, "SELECT pg_total_relation_size('consent_requests')").Scan(&bytes); err != nil {
		return err
	}
	fmt.Printf("| %d |", abandoned)
	for _, t := range times {
		fmt.Printf(" %s |", milliseconds(t))
	}
	if abandoned > 0 {
		bytes /= int64(abandoned)
	}
	fmt.Printf(" %d |\n", bytes)
	return nil
}

func milliseconds(times []time.Duration) string {
	slices.Sort(times)
	return fmt.Sprintf("%.2f", float64(times[len(times)/2].Microseconds())/1000)
}

// sweep ends the retention of all, and sweeps them while requests are created.
func (b *bench) sweep(ctx context.Context) error {
	if _, err := b.pool.Exec(ctx, "UPDATE consent_requests SET created_at = created_at - interval '3 days', expires_at = expires_at - interval '3 days'"); err != nil {
		return err
	}
	if _, err := b.pool.Exec(ctx, "VACUUM ANALYZE consent_requests"); err != nil {
		return err
	}
	sweeper, err := pgstore.NewSweeper(b.pool, pgstore.SweeperConfig{})
	if err != nil {
		return err
	}
	create := func() (time.Duration, error) {
		r, _ := b.request()
		start := time.Now()
		err := b.store.CreateConsentRequest(ctx, r)
		return time.Since(start), err
	}
	type result struct {
		n    int64
		err  error
		took time.Duration
	}
	done := make(chan result, 1)
	go func() {
		start := time.Now()
		n, err := sweeper.Sweep(ctx)
		done <- result{n, err, time.Since(start)}
	}()
	var beside []time.Duration
	for {
		select {
		case r := <-done:
			if r.err != nil {
				return r.err
			}
			fmt.Printf("\nSwept %d in %.1f s; a request that was created meanwhile took %s ms (median of %d).\n", r.n, r.took.Seconds(), milliseconds(beside), len(beside))
			return nil
		default:
			took, err := create()
			if err != nil {
				return err
			}
			beside = append(beside, took)
		}
	}
}
