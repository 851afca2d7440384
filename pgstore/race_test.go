package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// holder is a transaction that a test holds open while others run into it.
type holder struct {
	t     testing.TB
	tx    pgx.Tx
	store *pgstore.Store
}

func hold(t testing.TB, pool *pgxpool.Pool) *holder {
	t.Helper()
	tx, err := pool.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return &holder{t, tx, newStore(t, tx, pgstore.Config{})}
}

func (h *holder) consume(p fositeconsent.Presentation) {
	h.t.Helper()
	if _, err := h.store.ConsumeConsentGrant(testContext(h.t), p); err != nil {
		h.t.Fatal(err)
	}
}

func (h *holder) create(g *fositeconsent.Grant) {
	h.t.Helper()
	create(h.t, h.store, g)
}

func (h *holder) exec(sql string, args ...any) {
	h.t.Helper()
	if _, err := h.tx.Exec(testContext(h.t), sql, args...); err != nil {
		h.t.Fatal(err)
	}
}

func (h *holder) end(commit bool) {
	h.t.Helper()
	end := h.tx.Rollback
	if commit {
		end = h.tx.Commit
	}
	if err := end(testContext(h.t)); err != nil {
		h.t.Fatal(err)
	}
}

// call is a store's call that runs on a connection of its own.
type call struct {
	t      testing.TB
	pool   *pgxpool.Pool
	pid    uint32
	result chan error
	err    error
	done   bool
}

// start begins a call, in a transaction of the given isolation level or, with an
// empty one, without a transaction.
func start(t testing.TB, pool *pgxpool.Pool, level pgx.TxIsoLevel, f func(context.Context, *pgstore.Store) error) *call {
	t.Helper()
	ctx := testContext(t)
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &call{t: t, pool: pool, pid: conn.Conn().PgConn().PID(), result: make(chan error, 1)}
	run := func() error {
		if level == "" {
			return f(ctx, newStore(t, conn.Conn(), pgstore.Config{}))
		}
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
			return f(ctx, newStore(t, tx, pgstore.Config{}))
		})
	}
	go func() {
		defer conn.Release()
		c.result <- run()
	}()
	t.Cleanup(func() { c.wait() })
	return c
}

func startConsume(t testing.TB, pool *pgxpool.Pool, level pgx.TxIsoLevel, p fositeconsent.Presentation) *call {
	t.Helper()
	return start(t, pool, level, func(ctx context.Context, s *pgstore.Store) error {
		_, err := s.ConsumeConsentGrant(ctx, p)
		return err
	})
}

func startCreate(t testing.TB, pool *pgxpool.Pool, level pgx.TxIsoLevel, g *fositeconsent.Grant) *call {
	t.Helper()
	return start(t, pool, level, func(ctx context.Context, s *pgstore.Store) error {
		return s.CreateConsentGrant(ctx, g)
	})
}

// blocked returns once the call waits for another transaction's lock. It fails if
// the call ends instead.
func (c *call) blocked() *call {
	c.t.Helper()
	ctx := testContext(c.t)
	for {
		var waits bool
		err := c.pool.QueryRow(ctx, "SELECT cardinality(pg_blocking_pids($1)) > 0", c.pid).Scan(&waits)
		if err != nil {
			c.t.Fatal(err)
		}
		if waits {
			return c
		}
		select {
		case err := <-c.result:
			c.result <- err
			c.t.Fatalf("the call did not wait: %v", err)
		default:
		}
	}
}

func (c *call) wait() error {
	if !c.done {
		c.err, c.done = <-c.result, true
	}
	return c.err
}

func (c *call) want(reason error) {
	c.t.Helper()
	if err := c.wait(); !errors.Is(err, reason) {
		c.t.Errorf("got %v, want %v", err, reason)
	}
}

// wantSQLState also checks that the error is no reason.
func (c *call) wantSQLState(code string) {
	c.t.Helper()
	err := c.wait()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code || isReason(err) {
		c.t.Errorf("got %v, want only the SQLSTATE %s", err, code)
	}
}

func isReason(err error) bool {
	for _, reason := range []error{
		fositeconsent.ErrGrantNotFound, fositeconsent.ErrBindingMismatch, fositeconsent.ErrGrantConsumed,
		fositeconsent.ErrGrantRevoked, fositeconsent.ErrGrantExpired, fositeconsent.ErrAlreadyDecided,
		fositeconsent.ErrConsentRevoked, fositeconsent.ErrConsentExpired,
	} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

const (
	readCommitted = "" // the default, without a transaction
	commit        = true
	rollback      = false
)

// spentAt reads when, and by which attempt, the grant was spent.
func spentAt(t testing.TB, db pgstore.DB, id fositeconsent.ID) (at, attempt string) {
	t.Helper()
	err := db.QueryRow(testContext(t), "SELECT coalesce(consumed_at::text, ''), coalesce(attempt::text, '') FROM public.consent_grants WHERE id = $1",
		id.String()).Scan(&at, &attempt)
	if err != nil {
		t.Fatal(err)
	}
	return at, attempt
}

func TestConsumeThatWaitsForAnotherTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(20))
	mint := func(t *testing.T) *fositeconsent.Grant {
		g := newGrant()
		create(t, newStore(t, pool, pgstore.Config{}), g)
		return g
	}

	for _, c := range []struct {
		name   string
		level  pgx.TxIsoLevel
		same   bool // the waiter repeats the holder's attempt
		commit bool
		reason error
		state  string
	}{
		{"another attempt loses to the one that commits", readCommitted, false, commit, fositeconsent.ErrGrantConsumed, ""},
		{"another attempt wins after the one that rolls back", readCommitted, false, rollback, nil, ""},
		{"the same attempt wins with its first try", readCommitted, true, commit, nil, ""},
		{"the same attempt wins after its first try was rolled back", readCommitted, true, rollback, nil, ""},
		{"another attempt in a transaction loses", pgx.ReadCommitted, false, commit, fositeconsent.ErrGrantConsumed, ""},
		{"another attempt in a transaction wins after a rollback", pgx.ReadCommitted, false, rollback, nil, ""},
		{"repeatable read gets no reason", pgx.RepeatableRead, false, commit, nil, "40001"},
		{"repeatable read wins after a rollback", pgx.RepeatableRead, false, rollback, nil, ""},
		{"serializable gets no reason", pgx.Serializable, false, commit, nil, "40001"},
		{"serializable wins after a rollback", pgx.Serializable, false, rollback, nil, ""},
		{"the same attempt at repeatable read gets no reason", pgx.RepeatableRead, true, commit, nil, "40001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := mint(t)
			first, second := present(g), present(g)
			if c.same {
				second.Attempt = first.Attempt
			}
			h := hold(t, pool)
			h.consume(first)
			waiter := startConsume(t, pool, c.level, second).blocked()
			h.end(c.commit)
			if c.state != "" {
				waiter.wantSQLState(c.state)
			} else {
				waiter.want(c.reason)
			}
			winner := first
			if !c.commit {
				winner = second
			}
			if _, attempt := spentAt(t, pool, g.ID); attempt != fositeconsent.ID(winner.Attempt).String() {
				t.Errorf("spent by %s, want %x", attempt, winner.Attempt)
			}
		})
	}

	t.Run("the moment of the first try is kept", func(t *testing.T) {
		t.Parallel()
		g := mint(t)
		p := present(g)
		h := hold(t, pool)
		h.consume(p)
		before, _ := spentAt(t, h.tx, g.ID)
		waiter := startConsume(t, pool, readCommitted, p).blocked()
		h.end(commit)
		waiter.want(nil)
		if after, _ := spentAt(t, pool, g.ID); after != before {
			t.Errorf("consumed_at moved from %s to %s", before, after)
		}
	})

	for _, end := range []bool{commit, rollback} {
		t.Run(fmt.Sprintf("of a retry and a rival one wins when the first try ends with commit=%v", end), func(t *testing.T) {
			t.Parallel()
			g := mint(t)
			first, rival := present(g), present(g)
			h := hold(t, pool)
			h.consume(first)
			other := startConsume(t, pool, readCommitted, rival).blocked()
			again := startConsume(t, pool, readCommitted, first).blocked()
			h.end(end)
			if end == commit {
				again.want(nil)
				other.want(fositeconsent.ErrGrantConsumed)
				return
			}
			// The queue's order is Postgres's affair: one of the two.
			a, o := again.wait(), other.wait()
			if (a == nil) == (o == nil) {
				t.Errorf("retry: %v, rival: %v", a, o)
			}
			for _, err := range []error{a, o} {
				if err != nil && !errors.Is(err, fositeconsent.ErrGrantConsumed) {
					t.Error(err)
				}
			}
		})
	}

	t.Run("a transaction that began before the winner committed learns the reason at read committed", func(t *testing.T) {
		t.Parallel()
		g := mint(t)
		h := hold(t, pool)
		h.exec("SELECT 1")
		if _, err := newStore(t, pool, pgstore.Config{}).ConsumeConsentGrant(testContext(t), present(g)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.store.ConsumeConsentGrant(testContext(t), present(g)); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
			t.Error(err)
		}
	})

	t.Run("a transaction that read before the winner committed gets no reason at repeatable read", func(t *testing.T) {
		t.Parallel()
		g := mint(t)
		ctx := testContext(t)
		tx, err := pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if _, err := tx.Exec(ctx, "SELECT FROM public.consent_grants LIMIT 1"); err != nil {
			t.Fatal(err)
		}
		if _, err := newStore(t, pool, pgstore.Config{}).ConsumeConsentGrant(ctx, present(g)); err != nil {
			t.Fatal(err)
		}
		_, err = newStore(t, tx, pgstore.Config{}).ConsumeConsentGrant(ctx, present(g))
		(&call{t: t, err: err, done: true}).wantSQLState("40001")
	})

	t.Run("a grant that a rolled-back transaction consumed is consumed no more", func(t *testing.T) {
		t.Parallel()
		g := mint(t)
		h := hold(t, pool)
		h.consume(present(g))
		if _, err := h.store.ConsumeConsentGrant(testContext(t), present(g)); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
			t.Errorf("inside of the transaction: %v", err)
		}
		h.end(rollback)
		startConsume(t, pool, readCommitted, present(g)).want(nil)
	})
}

// Expiry is decided when the statement begins. Otherwise a loser could not tell
// a grant that was spent while it waited from one that expired while it waited.
func TestGrantThatExpiresWhileAPresenterWaits(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	for _, c := range []struct {
		name   string
		commit bool
		reason error
	}{
		{"is consumed for whoever lost", commit, fositeconsent.ErrGrantConsumed},
		{"goes to whoever came in time", rollback, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			for lifespan := fositeconsent.MinGrantLifespan << 9; ; lifespan *= 2 {
				g := newGrant()
				g.Lifespan = lifespan
				create(t, newStore(t, pool, pgstore.Config{}), g)
				h := hold(t, pool)
				if _, err := h.store.ConsumeConsentGrant(ctx, present(g)); errors.Is(err, fositeconsent.ErrGrantExpired) {
					h.end(rollback)
					continue // too slow: once more with more time
				} else if err != nil {
					t.Fatal(err)
				}
				waiter := startConsume(t, pool, readCommitted, present(g))
				if !inTime(t, waiter, g) {
					h.end(rollback)
					_ = waiter.wait()
					continue
				}
				h.exec("SELECT pg_sleep_until(expires_at) FROM public.consent_grants WHERE id = $1", g.ID.String())
				h.end(c.commit)
				waiter.want(c.reason)
				startConsume(t, pool, readCommitted, present(g)).want(fositeconsent.ErrGrantConsumed)
				return
			}
		})
	}
}

// inTime reports whether the call's statement began before the grant expired, and
// returns once the call waits for a lock.
func inTime(t testing.TB, c *call, g *fositeconsent.Grant) bool {
	t.Helper()
	ctx := testContext(t)
	for {
		var waits, early bool
		err := c.pool.QueryRow(ctx, `
			SELECT cardinality(pg_blocking_pids($1)) > 0, coalesce(query_start < expires_at, false)
			FROM pg_stat_activity, public.consent_grants WHERE pid = $1 AND id = $2`, c.pid, g.ID.String()).Scan(&waits, &early)
		if err != nil {
			t.Fatal(err)
		}
		if waits {
			return early
		}
		select {
		case err := <-c.result:
			c.result <- err
			return false
		default:
		}
	}
}

func TestClockOfTheStatementNotOfTheTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	h := hold(t, pool)
	h.exec("SELECT 1") // now() is this moment, from here on
	g := newGrant()
	g.Lifespan = fositeconsent.MinGrantLifespan
	h.create(g)
	var created bool
	if err := h.tx.QueryRow(testContext(t), "SELECT decided_at > now() FROM public.consent_grants WHERE id = $1", g.ID.String()).Scan(&created); err != nil {
		t.Fatal(err)
	}
	if !created {
		t.Error("the grant is dated by the transaction's beginning")
	}
	h.exec("SELECT pg_sleep_until(expires_at) FROM public.consent_grants WHERE id = $1", g.ID.String())
	if _, err := h.store.ConsumeConsentGrant(testContext(t), present(g)); !errors.Is(err, fositeconsent.ErrGrantExpired) {
		t.Errorf("got %v", err)
	}
}

func TestPresenterWaitsForNobodyWhenItIsRefused(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	store := newStore(t, pool, pgstore.Config{})
	g := newGrant()
	create(t, store, g)
	h := hold(t, pool)
	h.consume(present(g))

	wrong := present(g)
	wrong.Binding[0] ^= 1
	startConsume(t, pool, readCommitted, wrong).want(fositeconsent.ErrBindingMismatch)
	wrong = present(g)
	wrong.SecretHash[0] ^= 1
	startConsume(t, pool, readCommitted, wrong).want(fositeconsent.ErrGrantNotFound)

	h.end(rollback)
	h = hold(t, pool)
	for _, change := range []func(*fositeconsent.Presentation){
		func(p *fositeconsent.Presentation) { p.Binding[0] ^= 1 },
		func(p *fositeconsent.Presentation) { p.SecretHash[0] ^= 1 },
	} {
		p := present(g)
		change(&p)
		if _, err := h.store.ConsumeConsentGrant(testContext(t), p); err == nil {
			t.Error("consumed")
		}
	}
	// The refused holder is still in its transaction, and has locked nothing.
	startConsume(t, pool, readCommitted, present(g)).want(nil)
}

func TestCreateThatWaitsForAnotherTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(20))
	denial := func(g *fositeconsent.Grant) *fositeconsent.Grant {
		d := newGrant()
		d.ID, d.Denied = g.ID, true
		return d
	}
	same := func(g *fositeconsent.Grant) *fositeconsent.Grant { return g }
	mint := func(g *fositeconsent.Grant) *fositeconsent.Grant {
		m := newGrant()
		m.ID = g.ID
		return m
	}
	for _, c := range []struct {
		name   string
		level  pgx.TxIsoLevel
		second func(*fositeconsent.Grant) *fositeconsent.Grant
		commit bool
		reason error
		state  string
	}{
		{"a retry succeeds with its first try", readCommitted, same, commit, nil, ""},
		{"a retry succeeds after its first try was rolled back", readCommitted, same, rollback, nil, ""},
		{"a second mint is too late", readCommitted, mint, commit, fositeconsent.ErrAlreadyDecided, ""},
		{"a second mint succeeds after a rollback", readCommitted, mint, rollback, nil, ""},
		{"a denial is too late", readCommitted, denial, commit, fositeconsent.ErrAlreadyDecided, ""},
		{"a denial succeeds after a rollback", readCommitted, denial, rollback, nil, ""},
		{"repeatable read is not told what it cannot see", pgx.RepeatableRead, mint, commit, nil, "40001"},
		{"serializable is not told what it cannot see", pgx.Serializable, mint, commit, nil, "40001"},
		{"a mint at serializable succeeds after a rollback", pgx.Serializable, mint, rollback, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first := newGrant()
			second := c.second(first)
			h := hold(t, pool)
			h.create(first)
			startConsume(t, pool, readCommitted, present(first)).want(fositeconsent.ErrGrantNotFound) // and does not wait
			waiter := startCreate(t, pool, c.level, second).blocked()
			h.end(c.commit)
			if c.state != "" {
				waiter.wantSQLState(c.state)
			} else {
				waiter.want(c.reason)
			}
			stored := first
			if !c.commit {
				stored = second
			}
			want := error(nil)
			if stored.Denied {
				want = fositeconsent.ErrGrantNotFound
			}
			startConsume(t, pool, readCommitted, present(stored)).want(want)
		})
	}

	for _, end := range []bool{commit, rollback} {
		t.Run(fmt.Sprintf("a retried create does not undo a consume that ends with commit=%v", end), func(t *testing.T) {
			t.Parallel()
			g := newGrant()
			create(t, newStore(t, pool, pgstore.Config{}), g)
			h := hold(t, pool)
			h.consume(present(g))
			retry := startCreate(t, pool, readCommitted, g).blocked()
			h.end(end)
			retry.want(nil)
			want := error(nil)
			if end == commit {
				want = fositeconsent.ErrGrantConsumed
			}
			startConsume(t, pool, readCommitted, present(g)).want(want)
		})
	}

	t.Run("a consume that meets a retried create wins", func(t *testing.T) {
		t.Parallel()
		g := newGrant()
		create(t, newStore(t, pool, pgstore.Config{}), g)
		h := hold(t, pool)
		h.create(g)
		waiter := startConsume(t, pool, readCommitted, present(g)).blocked()
		h.end(commit)
		waiter.want(nil)
	})
}
