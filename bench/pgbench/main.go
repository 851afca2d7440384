// Command pgbench compares the throughput of pgstore with that of PostgreSQL's own
// benchmark program, which runs the same two statements, prepared, on the same
// server in the same run:
//
//	go run ./bench/pgbench -database-url postgres://…/postgres
//
// The role must be allowed to create databases; one is made and dropped. The
// statements are taken from pgstore at run time, so that they are the same.
// pgbench has no variables that hold text: it sends a number, and the statement
// makes a key of it, which costs the server less than a microsecond.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func main() {
	var b bench
	flag.StringVar(&b.url, "database-url", os.Getenv("DATABASE_URL"), "the server's maintenance database, as a role that may create databases")
	flag.StringVar(&b.program, "pgbench", "pgbench", "the program")
	flag.IntVar(&b.workers, "workers", 8, "connections")
	flag.IntVar(&b.each, "n", 1000, "statements for each connection and round")
	flag.IntVar(&b.rounds, "rounds", 11, "rounds")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "pgbench:", err)
		os.Exit(1)
	}
}

type bench struct {
	url, program          string
	workers, each, rounds int
	pool                  *pgxpool.Pool
	store                 *pgstore.Store
	directory             string
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.url == "" {
		return errors.New("-database-url is missing")
	}
	admin, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.Close(ctx)) }()
	name := fmt.Sprintf("consent_bench_%d", os.Getpid())
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
	config.MaxConns, config.MinConns = int32(b.workers), int32(b.workers)
	if b.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	defer b.pool.Close()
	if err := pgstore.Migrate(ctx, b.pool, pgstore.Config{}); err != nil {
		return err
	}
	if b.store, err = pgstore.New(b.pool, pgstore.Config{}); err != nil {
		return err
	}
	if b.directory, err = os.MkdirTemp("", "pgbench"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.directory)) }()

	var version string
	if err := b.pool.QueryRow(ctx, "SELECT version() || ', fsync ' || current_setting('fsync') || ', synchronous_commit ' || current_setting('synchronous_commit')").Scan(&version); err != nil {
		return err
	}
	fmt.Printf("%s\n%d connections, %d statements each, median of %d rounds\n\n", version, b.workers, b.each, b.rounds)

	create, consume, err := statements(ctx)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, sql string
		params    []string
		ours      func(context.Context, int) error
		setUp     func(context.Context) error
	}{
		{"create", create, createParams, b.create, b.empty},
		{"consume", consume, consumeParams, b.consume, b.fill},
	} {
		script := filepath.Join(b.directory, c.name+".sql")
		if err := os.WriteFile(script, []byte(pgbenchScript(c.sql, c.params)), 0o600); err != nil {
			return err
		}
		// Both run in each round, in turns in front, so that whatever else the machine
		// does meets both; the ratio is the median of the rounds' ratios.
		var ours, theirs, ratios []float64
		for round := range b.rounds {
			var rates [2]float64
			for turn := range rates {
				if err := c.setUp(ctx); err != nil {
					return err
				}
				side := (turn + round) % 2
				if side == 0 {
					rates[side], err = b.measure(ctx, c.ours)
				} else {
					rates[side], err = b.pgbench(ctx, config.ConnConfig, script)
				}
				if err != nil {
					return err
				}
			}
			ours, theirs, ratios = append(ours, rates[0]), append(theirs, rates[1]), append(ratios, rates[0]/rates[1])
		}
		fmt.Printf("%-8s  ours %6.0f/s   pgbench %6.0f/s   ours ÷ pgbench %.2f   (rounds: %.2f)\n",
			c.name, median(ours), median(theirs), median(ratios), ratios)
	}
	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// Both sides use the same keys: worker and count, with the count in front, so that
// they come nearly in order as those of the gate do.
const keyOf = `(lpad(to_hex((%s)::bigint), 12, '0') || '70008000000000000000')::uuid`

func key(worker, count int) (id fositeconsent.ID) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(count*1024+worker))
	copy(id[:], b[2:])
	id[6], id[8] = 0x70, 0x80
	return id
}

var (
	hash    = fositeconsent.SecretHash{1}
	binding = fositeconsent.Digest{2}
)

func hexOf(b [32]byte) string { return fmt.Sprintf(`\x%x`, b[:]) }

// What stands for each parameter in pgbench's script. Its variables are the
// command line's and the script's own.
var (
	createParams = []string{
		fmt.Sprintf(keyOf, ":key"), ":hash", ":binding", ":subject", ":client", ":scopes", ":audience", "NULL", "false", ":lifespan", "NULL", "NULL",
	}
	consumeParams = []string{fmt.Sprintf(keyOf, ":key"), ":hash", ":binding", ":attempt", "NULL"}
)

var param = regexp.MustCompile(`\$(\d+)`)

func pgbenchScript(sql string, params []string) string {
	text := param.ReplaceAllStringFunc(sql, func(p string) string {
		n, _ := strconv.Atoi(p[1:])
		return params[n-1]
	})
	return "\\set n :n + 1\n\\set key :n * 1024 + :client_id\n" + string(bytes.ReplaceAll([]byte(text[1:]), []byte("\n"), []byte(" "))) + ";\n"
}

func (b *bench) pgbench(ctx context.Context, config *pgx.ConnConfig, script string) (float64, error) {
	run := exec.CommandContext(ctx, b.program, "-n", "-M", "prepared", "-f", script,
		"-c", strconv.Itoa(b.workers), "-j", strconv.Itoa(min(b.workers, 2)), "-t", strconv.Itoa(b.each),
		"-D", "n=0", "-D", "hash="+hexOf(hash), "-D", "binding="+hexOf(binding), "-D", "subject=alice", "-D", "client=photo-printer",
		"-D", "scopes={openid,photos.read}", "-D", "audience={https://photos.example}", "-D", "lifespan=300000000",
		"-D", "attempt=01890000-0000-4000-8000-000000000001")
	run.Env = append(os.Environ(), "PGHOST="+config.Host, fmt.Sprint("PGPORT=", config.Port),
		"PGUSER="+config.User, "PGPASSWORD="+config.Password, "PGDATABASE="+config.Database)
	out, err := run.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	found := regexp.MustCompile(`tps = ([0-9.]+) \(without`).FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("no result in: %s", out)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

func (b *bench) measure(ctx context.Context, f func(context.Context, int) error) (float64, error) {
	errs := make([]error, b.workers)
	var all sync.WaitGroup
	start := time.Now()
	for worker := range b.workers {
		all.Go(func() { errs[worker] = f(ctx, worker) })
	}
	all.Wait()
	return float64(b.workers*b.each) / time.Since(start).Seconds(), errors.Join(errs...)
}

func (b *bench) create(ctx context.Context, worker int) error {
	for i := range b.each {
		grant := fositeconsent.Grant{
			ID: key(worker, i+1), SecretHash: hash, Binding: binding, Subject: "alice", ClientID: "photo-printer",
			Scopes: []string{"openid", "photos.read"}, Audience: []string{"https://photos.example"}, Lifespan: 5 * time.Minute,
		}
		if err := b.store.CreateConsentGrant(ctx, &grant); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) consume(ctx context.Context, worker int) error {
	for i := range b.each {
		p := fositeconsent.Presentation{ID: key(worker, i+1), SecretHash: hash, Binding: binding}
		_, _ = rand.Read(p.Attempt[:])
		if _, err := b.store.ConsumeConsentGrant(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) empty(ctx context.Context) error {
	_, err := b.pool.Exec(ctx, "TRUNCATE public.consent_grants")
	if err == nil {
		_, err = b.pool.Exec(ctx, "CHECKPOINT")
	}
	return err
}

func (b *bench) fill(ctx context.Context) error {
	if err := b.empty(ctx); err != nil {
		return err
	}
	_, err := b.pool.Exec(ctx, `
		INSERT INTO public.consent_grants (id, secret_hash, binding, subject, client_id, scopes, audience, denied, decided_at, expires_at)
		SELECT `+fmt.Sprintf(keyOf, "n * 1024 + worker")+`, $1, $2, 'alice', 'photo-printer', '{openid,photos.read}', '{https://photos.example}', false,
		       now(), now() + interval '1 hour'
		FROM generate_series(1, $3::int) AS n, generate_series(0, $4::int - 1) AS worker ORDER BY n, worker`, hash[:], binding[:], b.each, b.workers)
	if err != nil {
		return err
	}
	if _, err = b.pool.Exec(ctx, "VACUUM (ANALYZE) public.consent_grants"); err == nil {
		_, err = b.pool.Exec(ctx, "CHECKPOINT")
	}
	return err
}

// statements returns what pgstore sends.
func statements(ctx context.Context) (create, consume string, err error) {
	var r recorder
	store, err := pgstore.New(&r, pgstore.Config{})
	if err != nil {
		return "", "", err
	}
	_ = store.CreateConsentGrant(ctx, &fositeconsent.Grant{
		ID: key(0, 1), SecretHash: hash, Binding: binding, Subject: "s", ClientID: "c", Lifespan: time.Minute,
	})
	_, _ = store.ConsumeConsentGrant(ctx, fositeconsent.Presentation{Attempt: fositeconsent.Attempt{1}})
	if len(r.sql) != 2 {
		return "", "", errors.New("pgstore does not send one statement for each call")
	}
	return r.sql[0], r.sql[1], nil
}

// recorder notes statements and runs none.
type recorder struct {
	pgstore.DB
	sql []string
}

func (r *recorder) QueryRow(_ context.Context, sql string, _ ...any) pgx.Row {
	r.sql = append(r.sql, sql)
	return r
}

func (*recorder) Scan(...any) error { return &pgconn.PgError{Code: "00000"} }
