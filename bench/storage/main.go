// Command storage measures what the choice of keys and indexes costs on a table
// of some million grants, with pgstore's own statements:
//
//	go run ./bench/storage -database-url postgres://…/postgres
//
// For each variant of the table it mints and consumes pairs over some connections
// and reads PostgreSQL's own counters: write-ahead log and heap-only updates. The
// role must be a superuser; two databases are made and dropped. The variants take
// turns for some rounds, each on a fresh copy, and the medians are printed as Markdown.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func main() {
	var b bench
	flag.StringVar(&b.url, "database-url", os.Getenv("DATABASE_URL"), "the server's maintenance database, as a superuser")
	flag.IntVar(&b.rows, "rows", 3_000_000, "grants that are there beforehand")
	flag.IntVar(&b.pairs, "pairs", 20_000, "pairs of mint and consume for each variant and round")
	flag.IntVar(&b.workers, "workers", 8, "connections")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "storage:", err)
		os.Exit(1)
	}
}

type bench struct {
	url                          string
	rows, pairs, workers, rounds int
}

const (
	withIndex    = "CREATE INDEX consent_grants_expires_at_idx ON public.consent_grants (expires_at)"
	withoutIndex = ""
	partialIndex = "CREATE INDEX consent_grants_expires_at_idx ON public.consent_grants (expires_at) WHERE consumed_at IS NULL"
)

type variant struct {
	name       string
	random     bool
	fillfactor int
	index      string
	held       bool // a long transaction of somebody else keeps pages from being cleaned up
}

var variants = []variant{
	{"random key (UUIDv4), fillfactor 70", true, 70, withIndex, false},
	{"time-ordered key (UUIDv7), fillfactor 100", false, 100, withIndex, false},
	{"**time-ordered key, fillfactor 70 (as shipped)**", false, 70, withIndex, false},
	{"time-ordered key, fillfactor 70, no index on `expires_at`", false, 70, withoutIndex, false},
	{"time-ordered key, fillfactor 70, index `WHERE consumed_at IS NULL`", false, 70, partialIndex, false},
	{"fillfactor 100, beside a long transaction", false, 100, withIndex, true},
	{"fillfactor 70, beside a long transaction", false, 70, withIndex, true},
	{"fillfactor 50, beside a long transaction", false, 50, withIndex, true},
}

type result struct{ rate, wal, images, hot float64 }

func (b *bench) run(ctx context.Context) (err error) {
	if b.url == "" {
		return errors.New("-database-url is missing")
	}
	admin, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.Close(ctx)) }()

	var version string
	if err := admin.QueryRow(ctx, `SELECT 'PostgreSQL ' || current_setting('server_version') || ', shared_buffers ' || current_setting('shared_buffers') ||
		', fsync ' || current_setting('fsync') || ', full_page_writes ' || current_setting('full_page_writes')`).Scan(&version); err != nil {
		return err
	}
	results := map[string][]result{}
	for _, random := range []bool{true, false} {
		if err := b.withDatabase(ctx, admin, random, results); err != nil {
			return err
		}
	}
	fmt.Printf("%s; %d rows, %d connections, %d pairs, median of %d rounds\n\n", version, b.rows, b.workers, b.pairs, b.rounds)
	fmt.Println("| | pairs/s | WAL per pair | of it full pages | heap-only updates |")
	fmt.Println("|---|---|---|---|---|")
	for _, v := range variants {
		r := results[v.name]
		of := func(f func(result) float64) float64 {
			values := make([]float64, len(r))
			for i := range r {
				values[i] = f(r[i])
			}
			slices.Sort(values)
			return values[len(values)/2]
		}
		fmt.Printf("| %s | %.0f | %.0f bytes | %.1f | %.1f %% |\n", v.name,
			of(func(r result) float64 { return r.rate }), of(func(r result) float64 { return r.wal }),
			of(func(r result) float64 { return r.images }), of(func(r result) float64 { return 100 * r.hot }))
	}
	return nil
}

// withDatabase runs all variants of one kind of key, each on a copy of one database.
// Its pages are full, so that what a variant inserts goes to pages of its own.
func (b *bench) withDatabase(ctx context.Context, admin *pgx.Conn, random bool, results map[string][]result) (err error) {
	name := fmt.Sprintf("consent_storage_%d", os.Getpid())
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return err
	}
	defer func() {
		_, dropErr := admin.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		err = errors.Join(err, dropErr)
	}()
	config, err := pgxpool.ParseConfig(b.url)
	if err != nil {
		return err
	}
	config.ConnConfig.Database = name
	config.MaxConns = int32(b.workers) + 2
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, "ALTER TABLE public.consent_grants SET (fillfactor = 100)"); err != nil {
		return err
	}
	key := "(lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid" // in the order of the rows
	if random {
		key = "gen_random_uuid()"
	}
	_, err = pool.Exec(ctx, `
		INSERT INTO public.consent_grants (id, secret_hash, binding, subject, client_id, scopes, audience, denied, decided_at, expires_at, consumed_at, attempt)
		SELECT `+key+`, sha256(int4send(i)), sha256(int4send(-i)), 'subject-' || i, 'client-' || i % 100, '{openid,offline_access,photos.read}', '{https://photos.example}',
		       false, t, t + interval '5 minutes', t + interval '1 second', gen_random_uuid()
		FROM generate_series(1, $1::int) AS i, LATERAL (SELECT now() - interval '23 hours' + i * interval '20 milliseconds') AS at (t)`, b.rows)
	if err == nil {
		_, err = pool.Exec(ctx, "VACUUM (ANALYZE) public.consent_grants")
	}
	pool.Close()
	if err != nil {
		return err
	}
	config.ConnConfig.Database = name + "_copy"
	for range b.rounds {
		for _, v := range variants {
			if v.random != random {
				continue
			}
			if _, err := admin.Exec(ctx, "CREATE DATABASE "+name+"_copy TEMPLATE "+name+" STRATEGY file_copy"); err != nil {
				return err
			}
			r, err := b.measure(ctx, config, v)
			_, dropErr := admin.Exec(ctx, "DROP DATABASE "+name+"_copy WITH (FORCE)")
			if err := errors.Join(err, dropErr); err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			fmt.Fprintf(os.Stderr, "%-70s %+v\n", v.name, r)
			results[v.name] = append(results[v.name], r)
		}
	}
	return nil
}

func (b *bench) measure(ctx context.Context, config *pgxpool.Config, v variant) (r result, err error) {
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return r, err
	}
	closed := false
	defer func() {
		if !closed {
			pool.Close()
		}
	}()
	statements := []string{fmt.Sprintf("ALTER TABLE public.consent_grants SET (fillfactor = %d)", v.fillfactor)}
	if v.index != withIndex { // the copy has that one
		statements = append(statements, "DROP INDEX public.consent_grants_expires_at_idx", v.index)
	}
	for _, statement := range append(statements, "CHECKPOINT") {
		if _, err := pool.Exec(ctx, statement); err != nil {
			return r, err
		}
	}
	if v.held {
		tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			return r, err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if _, err := tx.Exec(ctx, "SELECT FROM public.consent_grants LIMIT 1"); err != nil {
			return r, err
		}
	}
	store, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		return r, err
	}
	before, err := read(ctx, config)
	if err != nil {
		return r, err
	}
	start := time.Now()
	errs := make([]error, b.workers)
	var all sync.WaitGroup
	for worker := range b.workers {
		all.Go(func() { errs[worker] = b.pairsOf(ctx, store, v.random) })
	}
	all.Wait()
	elapsed := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return r, err
	}
	pairs := float64(b.pairs / b.workers * b.workers)
	var after counters
	// Sessions hand in their statistics within a second or so.
	for deadline := time.Now().Add(time.Minute); after.updates-before.updates < pairs; {
		if after, err = read(ctx, config); err != nil {
			return r, err
		}
		if time.Now().After(deadline) {
			return r, errors.New("the statistics do not arrive")
		}
		if !v.held {
			pool.Close()
			closed = true
		} else {
			pool.Reset()
		}
	}
	return result{
		rate: pairs / elapsed.Seconds(),
		wal:  (after.wal - before.wal) / pairs, images: (after.images - before.images) / pairs,
		hot: (after.hot - before.hot) / (after.updates - before.updates),
	}, nil
}

type counters struct{ wal, images, updates, hot float64 }

func read(ctx context.Context, config *pgxpool.Config) (c counters, err error) {
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	err = conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, (SELECT wal_fpi FROM pg_stat_wal), n_tup_upd, n_tup_hot_upd
		FROM pg_stat_user_tables WHERE relname = 'consent_grants'`).Scan(&c.wal, &c.images, &c.updates, &c.hot)
	return c, err
}

func (b *bench) pairsOf(ctx context.Context, store *pgstore.Store, random bool) error {
	for range b.pairs / b.workers {
		grant := fositeconsent.Grant{
			Subject: "subject", ClientID: "client", Scopes: []string{"openid", "offline_access", "photos.read"},
			Audience: []string{"https://photos.example"}, Lifespan: 5 * time.Minute,
		}
		p := fositeconsent.Presentation{}
		for _, b := range [][]byte{grant.ID[:], grant.SecretHash[:], grant.Binding[:], p.Attempt[:]} {
			_, _ = rand.Read(b)
		}
		if !random {
			var ms [8]byte
			binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
			copy(grant.ID[:6], ms[2:])
		}
		if err := store.CreateConsentGrant(ctx, &grant); err != nil {
			return err
		}
		p.ID, p.SecretHash, p.Binding = grant.ID, grant.SecretHash, grant.Binding
		if _, err := store.ConsumeConsentGrant(ctx, p); err != nil {
			return err
		}
	}
	return nil
}
