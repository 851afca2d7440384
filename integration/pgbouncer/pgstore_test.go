package pgbouncer_test

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// poolAt returns a pool with more connections than PgBouncer has to the server.
func poolAt(t testing.TB, databaseURL string) *pgxpool.Pool {
	t.Helper()
	return pgtest.PoolAt(t, databaseURL, func(c *pgxpool.Config) { c.MaxConns = 2 * connections })
}

func newStore(t testing.TB, db pgstore.DB, config pgstore.Config) *pgstore.Store {
	t.Helper()
	store, err := pgstore.New(db, config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// migrated returns a pool on the database, which has the tables then.
func migrated(t testing.TB, databaseURL string) *pgxpool.Pool {
	t.Helper()
	pool := poolAt(t, databaseURL)
	if err := pgstore.Migrate(testContext(t), pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	return pool
}

func newGrant() *fositeconsent.Grant {
	g := &fositeconsent.Grant{
		Subject:  "alice",
		ClientID: "photo-printer",
		Scopes:   []string{"openid", "photos.read"},
		Audience: []string{"https://photos.example"},
		Lifespan: time.Minute,
	}
	for _, b := range [][]byte{g.ID[:], g.SecretHash[:], g.Binding[:]} {
		_, _ = rand.Read(b) // it never fails
	}
	return g
}

// present makes a presentation of the grant by a new attempt.
func present(g *fositeconsent.Grant) fositeconsent.Presentation {
	p := fositeconsent.Presentation{ID: g.ID, SecretHash: g.SecretHash, Binding: g.Binding}
	_, _ = rand.Read(p.Attempt[:]) // it never fails
	return p
}

// together runs f n times at once and returns what each returned.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		all.Go(func() { <-begin; errs[i] = f(i) })
	}
	close(begin)
	all.Wait()
	return errs
}

func migrating(t *testing.T, databaseURL string) {
	ctx := testContext(t)
	pools := []*pgxpool.Pool{poolAt(t, databaseURL), poolAt(t, databaseURL)}
	if err := newStore(t, pools[0], pgstore.Config{}).CheckSchema(ctx); !errors.Is(err, pgstore.ErrSchema) {
		t.Errorf("without tables: %v", err)
	}
	for _, err := range together(8, func(i int) error {
		return pgstore.Migrate(ctx, pools[i%2], pgstore.Config{})
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if err := newStore(t, pools[1], pgstore.Config{}).CheckSchema(ctx); err != nil {
		t.Error(err)
	}
	// The lock on migrating must have ended with each migration's transaction.
	var locks int
	if err := pools[0].QueryRow(ctx, `SELECT count(*) FROM pg_locks
		WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, pgx.QueryExecModeExec).Scan(&locks); err != nil || locks != 0 {
		t.Errorf("%d advisory locks were left behind, %v", locks, err)
	}
}

func contract(t *testing.T, databaseURL string) {
	pool := migrated(t, databaseURL)
	consenttest.Run(t, func(t testing.TB, o consenttest.Options) fositeconsent.GrantStorage {
		config := pgstore.Config{TestClock: o.Now}
		if o.Broken {
			return newStore(t, pgtest.PoolAt(t, "postgres://nobody@127.0.0.1:1/none"), config)
		}
		return newStore(t, pool, config)
	})
}

func nodesRace(t *testing.T, databaseURL string) {
	ctx := testContext(t)
	var nodes []*pgstore.Store
	for range 4 {
		nodes = append(nodes, newStore(t, migrated(t, databaseURL), pgstore.Config{}))
	}
	for range 8 {
		g := newGrant()
		if err := nodes[0].CreateConsentGrant(ctx, g); err != nil {
			t.Fatal(err)
		}
		won := 0
		for _, err := range together(64, func(i int) error {
			_, err := nodes[i%len(nodes)].ConsumeConsentGrant(ctx, present(g))
			return err
		}) {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, fositeconsent.ErrGrantConsumed):
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d of 64 presenters won", won)
		}
	}
}

// An administrator, or the server's own shutdown, ends a session: PgBouncer passes on
// what the server says (57P01).
func endedSession(t *testing.T, databaseURL string) {
	pool := migrated(t, databaseURL)
	lostConnection(t, pool, pool, func(pid uint32) error {
		_, err := pool.Exec(testContext(t), "SELECT pg_terminate_backend($1)", pid)
		return err
	})
}

// The connection between PgBouncer and the server breaks: PgBouncer says so in an error
// of its own (08P01).
func brokenConnection(t *testing.T, from pgtest.PgBouncerOrigin) {
	database := pgtest.Database(t)
	proxy, via := pgtest.ProxyTo(t, database)
	pool := poolAt(t, withMode(t, pgtest.PgBouncer(t, from, via, connections).URL(via), "exec"))
	lostConnection(t, migrated(t, database), pool, func(uint32) error { proxy.Cut(); return nil })
}

// lostConnection has a call wait for a lock, at the server, and loses its connection;
// sent once more, the call learns what became of it.
func lostConnection(t *testing.T, holder, pool *pgxpool.Pool, lose func(pid uint32) error) {
	ctx := testContext(t)
	store := newStore(t, pool, pgstore.Config{})
	g := newGrant()
	if err := store.CreateConsentGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	tx, err := holder.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := newStore(t, tx, pgstore.Config{}).ConsumeConsentGrant(ctx, present(g)); err != nil {
		t.Fatal(err)
	}
	p, result := present(g), make(chan error, 1)
	go func() {
		_, err := store.ConsumeConsentGrant(ctx, p)
		result <- err
	}()
	var waiting uint32
	for waiting == 0 {
		if err := holder.QueryRow(ctx, `SELECT coalesce(min(pid), 0) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if err := lose(waiting); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("the call was not settled: %v", err)
	}
	if _, err := store.ConsumeConsentGrant(ctx, present(g)); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
		t.Errorf("another presenter: %v", err)
	}
}

func sweeping(t *testing.T, databaseURL string) {
	ctx := testContext(t)
	const old, fresh = 300, 20
	past := pgstore.Config{TestClock: func() time.Time { return time.Now().Add(-48 * time.Hour) }}
	pools := []*pgxpool.Pool{migrated(t, databaseURL), poolAt(t, databaseURL)}
	for n, config := range map[int]pgstore.Config{old: past, fresh: {}} {
		store := newStore(t, pools[0], config)
		for _, err := range together(n, func(int) error { return store.CreateConsentGrant(ctx, newGrant()) }) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var mu sync.Mutex
	deleted := int64(0)
	for _, err := range together(4, func(i int) error {
		sweeper, err := pgstore.NewSweeper(pools[i%2], pgstore.SweeperConfig{BatchSize: 10})
		if err != nil {
			return err
		}
		n, err := sweeper.Sweep(ctx)
		mu.Lock()
		defer mu.Unlock()
		deleted += n
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	var left int
	if err := pools[0].QueryRow(ctx, "SELECT count(*) FROM consent_grants").Scan(&left); err != nil || left != fresh || deleted != old {
		t.Errorf("%d were deleted and %d are left, %v", deleted, left, err)
	}
}

// unreachable proves what contract cannot, of a server behind a PgBouncer that is there.
func unreachable(t *testing.T, databaseURL string) {
	ctx := testContext(t)
	store := newStore(t, poolAt(t, databaseURL), pgstore.Config{})
	g := newGrant()
	_, consumed := store.ConsumeConsentGrant(ctx, present(g))
	for _, err := range []error{consumed, store.CreateConsentGrant(ctx, g)} {
		if err == nil || ctx.Err() != nil || isReason(err) {
			t.Errorf("got %v", err)
		}
	}
}

// unnamedIsAnybodys shows why describe_exec is unfit behind PgBouncer: between the two
// round trips of a statement, that of another client can take its place.
func unnamedIsAnybodys(t *testing.T, from pgtest.PgBouncerOrigin) {
	ctx := testContext(t)
	database := pgtest.Database(t)
	via := pgtest.PgBouncer(t, from, database, 1).URL(database)
	connect := func() *pgconn.PgConn {
		c, err := pgconn.Connect(ctx, via)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return c
	}
	mine, other := connect(), connect()
	if _, err := mine.Prepare(ctx, "", "SELECT 'mine'", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Prepare(ctx, "", "SELECT 'not mine'", nil); err != nil {
		t.Fatal(err)
	}
	result := mine.ExecPrepared(ctx, "", nil, nil, nil).Read()
	if result.Err != nil || string(result.Rows[0][0]) != "not mine" {
		t.Errorf("got %v: if it is safe now, let describe_exec into the matrix", result)
	}
}

// failsHonestly shows what becomes of a mode that cannot work: calls fail, and each
// says so. What succeeds has happened, what fails has not, and no failure looks like a
// refusal.
func failsHonestly(t *testing.T, from pgtest.PgBouncerOrigin, mode string) {
	ctx := testContext(t)
	database := pgtest.Database(t)
	via := withMode(t, pgtest.PgBouncer(t, from, database, 1).URL(database), mode)
	direct := migrated(t, database)
	const clients, calls = 8, 40
	codes := make([]map[string]bool, clients)
	_ = together(clients, func(i int) error {
		codes[i] = map[string]bool{}
		note := func(err error) {
			var pgErr *pgconn.PgError
			if errors.As(err, &pgErr) {
				codes[i][pgErr.Code] = true
			}
		}
		store := newStore(t, poolAt(t, via), pgstore.Config{})
		for range calls {
			g := newGrant()
			err := store.CreateConsentGrant(ctx, g)
			note(err)
			wantHonest(t, direct, g, err, "id = $1")
			if err != nil {
				if err := newStore(t, direct, pgstore.Config{}).CreateConsentGrant(ctx, g); err != nil {
					t.Error(err)
				}
			}
			_, err = store.ConsumeConsentGrant(ctx, present(g))
			note(err)
			wantHonest(t, direct, g, err, "id = $1 AND attempt IS NOT NULL")
		}
		return nil
	})
	seen := map[string]bool{}
	for _, c := range codes {
		maps.Copy(seen, c)
	}
	// duplicate_prepared_statement; and, of an unnamed statement that is gone or is
	// another one with other parameters, invalid_sql_statement_name or protocol_violation.
	if mode == cacheStatement && !seen["42P05"] || mode == describeExec && !seen["26000"] && !seen["08P01"] {
		t.Errorf("the failures are %v: the test shows nothing", seen)
	}
}

// wantHonest fails the test unless there is such a row exactly if the call succeeded.
func wantHonest(t *testing.T, direct *pgxpool.Pool, g *fositeconsent.Grant, outcome error, condition string) {
	t.Helper()
	var there bool
	err := direct.QueryRow(context.Background(), "SELECT EXISTS (SELECT FROM consent_grants WHERE "+condition+")", g.ID.String()).Scan(&there)
	if err != nil {
		t.Error(err)
	}
	if there != (outcome == nil) {
		t.Errorf("the call returned %v, and that the row has changed is %v", outcome, there)
	}
	if isReason(outcome) {
		t.Errorf("a failure looks like a refusal: %v", outcome)
	}
}

func isReason(err error) bool {
	for _, reason := range []error{
		fositeconsent.ErrGrantNotFound, fositeconsent.ErrBindingMismatch, fositeconsent.ErrGrantConsumed,
		fositeconsent.ErrGrantExpired, fositeconsent.ErrAlreadyDecided,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}
