package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func newTransactions(t testing.TB, pool *pgxpool.Pool, config pgstore.TransactionConfig) *pgstore.Transactions {
	t.Helper()
	txs, err := pgstore.NewTransactions(pool, config)
	if err != nil {
		t.Fatal(err)
	}
	return txs
}

func begin(t testing.TB, txs *pgstore.Transactions) context.Context {
	t.Helper()
	ctx, err := txs.BeginTX(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = txs.Rollback(ctx) })
	return ctx
}

// consumed reports whether the grant is spent.
func consumed(t testing.TB, store *pgstore.Store, g *fositeconsent.Grant) bool {
	t.Helper()
	p := present(g)
	p.Binding[0]++ // never spends it; told apart by the order of reasons only in the row itself
	if _, err := store.ConsumeConsentGrant(testContext(t), p); !errors.Is(err, fositeconsent.ErrBindingMismatch) {
		t.Fatalf("the grant is not there: %v", err)
	}
	_, err := store.ConsumeConsentGrant(testContext(t), present(g))
	if err != nil && !errors.Is(err, fositeconsent.ErrGrantConsumed) {
		t.Fatal(err)
	}
	return err != nil
}

func state(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

func TestWhatIsDoneInATransactionEndsWithIt(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	consume := func(t *testing.T, ctx context.Context, g *fositeconsent.Grant) {
		t.Helper()
		if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
			t.Fatal(err)
		}
	}
	fresh := func(t *testing.T) *fositeconsent.Grant { g := newGrant(); create(t, store, g); return g }

	t.Run("a commit keeps it", func(t *testing.T) {
		t.Parallel()
		g, ctx := fresh(t), begin(t, txs)
		consume(t, ctx, g)
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if !consumed(t, store, g) {
			t.Error("the grant is unspent")
		}
	})
	t.Run("a rollback gives the grant back", func(t *testing.T) {
		t.Parallel()
		g, ctx := fresh(t), begin(t, txs)
		consume(t, ctx, g)
		if err := txs.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("a grant minted and consumed in one is gone with a rollback", func(t *testing.T) {
		t.Parallel()
		g, ctx := newGrant(), begin(t, txs)
		if err := store.CreateConsentGrant(ctx, g); err != nil {
			t.Fatal(err)
		}
		consume(t, ctx, g)
		if err := txs.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := store.ConsumeConsentGrant(testContext(t), present(g)); !errors.Is(err, fositeconsent.ErrGrantNotFound) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a rollback whose context is over", func(t *testing.T) {
		t.Parallel()
		g := fresh(t)
		outer, cancel := context.WithCancel(testContext(t))
		ctx, err := txs.BeginTX(outer)
		if err != nil {
			t.Fatal(err)
		}
		consume(t, ctx, g)
		cancel()
		if err := txs.Commit(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Commit: %v", err)
		}
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("the host's own statements take part", func(t *testing.T) {
		t.Parallel()
		g, ctx := fresh(t), begin(t, txs)
		if _, err := txs.DB(ctx).Exec(ctx, "UPDATE consent_grants SET subject = 'bob' WHERE id = $1", g.ID.String()); err != nil {
			t.Fatal(err)
		}
		consume(t, ctx, g)
		var subject string
		if err := txs.DB(ctx).QueryRow(ctx, "SELECT subject FROM consent_grants WHERE id = $1", g.ID.String()).Scan(&subject); err != nil || subject != "bob" {
			t.Errorf("inside: %q, %v", subject, err)
		}
		if err := txs.DB(context.Background()).QueryRow(testContext(t), "SELECT subject FROM consent_grants WHERE id = $1", g.ID.String()).Scan(&subject); err != nil || subject != "alice" {
			t.Errorf("outside: %q, %v", subject, err)
		}
	})
	t.Run("a transaction of the host's is joined", func(t *testing.T) {
		t.Parallel()
		g := fresh(t)
		tx, err := pool.Begin(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		ctx := pgstore.WithTx(testContext(t), tx)
		consume(t, ctx, g)
		if _, err := txs.BeginTX(ctx); err == nil {
			t.Error("BeginTX accepted a transaction that it cannot end")
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("one of another pool is not", func(t *testing.T) {
		t.Parallel()
		g, other := fresh(t), pgtest.Pool(t)
		ctx := begin(t, newTransactions(t, other, pgstore.TransactionConfig{}))
		consume(t, ctx, g)
		if !consumed(t, store, g) {
			t.Error("the grant is unspent although its statement was not in the transaction")
		}
	})
	t.Run("a nested one is a part of the outer one", func(t *testing.T) {
		t.Parallel()
		for _, rollback := range []bool{false, true} {
			g, ctx := fresh(t), begin(t, txs)
			inner, err := txs.BeginTX(ctx)
			if err != nil {
				t.Fatal(err)
			}
			consume(t, inner, g)
			end := txs.Commit
			if rollback {
				end = txs.Rollback
			}
			if err := end(inner); err != nil {
				t.Fatal(err)
			}
			if err := txs.Commit(ctx); (err != nil) != rollback {
				t.Errorf("inner rollback %v: the outer Commit returned %v", rollback, err)
			}
			if consumed(t, store, g) == rollback {
				t.Errorf("inner rollback %v: the grant is in the wrong state", rollback)
			}
		}
	})
	t.Run("nothing happens in one that has ended", func(t *testing.T) {
		t.Parallel()
		g, ctx := fresh(t), begin(t, txs)
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := store.ConsumeConsentGrant(ctx, present(g)); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("consume: %v", err)
		}
		if err := txs.Commit(ctx); err == nil {
			t.Error("a second Commit succeeded")
		}
		if err := txs.Rollback(ctx); err != nil {
			t.Errorf("Rollback after Commit: %v", err)
		}
		if _, err := txs.BeginTX(ctx); err == nil {
			t.Error("BeginTX succeeded")
		}
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("a failed statement fails the commit", func(t *testing.T) {
		t.Parallel()
		g, ctx := fresh(t), begin(t, txs)
		consume(t, ctx, g)
		if _, err := txs.DB(ctx).Exec(ctx, "SELECT 1/0"); err == nil {
			t.Fatal("no error")
		}
		if err := txs.Commit(ctx); err == nil {
			t.Error("Commit succeeded")
		}
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("without a transaction there is nothing to end", func(t *testing.T) {
		t.Parallel()
		if txs.Commit(testContext(t)) == nil || txs.Rollback(testContext(t)) == nil {
			t.Error("no error")
		}
	})
}

// lostCommit prepares a transaction that has consumed a grant, over a proxy.
func lostCommit(t *testing.T, config pgstore.TransactionConfig) (*pgtest.Proxy, *pgxpool.Pool, *pgstore.Store, *pgstore.Transactions, *fositeconsent.Grant, context.Context) {
	t.Helper()
	direct := pgtest.Database(t)
	proxy, through := pgtest.ProxyTo(t, direct)
	pool, observer := pgtest.PoolAt(t, through), pgtest.PoolAt(t, direct)
	migrate(t, observer, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	txs := newTransactions(t, pool, config)
	g := newGrant()
	create(t, store, g)
	ctx := begin(t, txs)
	if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
		t.Fatal(err)
	}
	return proxy, observer, newStore(t, observer, pgstore.Config{}), txs, g, ctx
}

func TestACommitWhoseAnswerIsLostIsAskedAfter(t *testing.T) {
	t.Parallel()
	t.Run("it took effect", func(t *testing.T) {
		t.Parallel()
		proxy, _, store, txs, g, ctx := lostCommit(t, pgstore.TransactionConfig{})
		cut := proxy.CutAfter(pgtest.ToClient, 0)
		if err := txs.Commit(ctx); err != nil {
			t.Errorf("Commit: %v", err)
		}
		<-cut
		if !consumed(t, store, g) {
			t.Error("the grant is unspent")
		}
	})
	t.Run("it never arrived", func(t *testing.T) {
		t.Parallel()
		proxy, _, store, txs, g, ctx := lostCommit(t, pgstore.TransactionConfig{})
		cut := proxy.CutAfter(pgtest.ToServer, 0)
		if err := txs.Commit(ctx); state(err) != "40000" {
			t.Errorf("Commit: %v (SQLSTATE %q)", err, state(err))
		}
		<-cut
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("the server was told to end it", func(t *testing.T) {
		t.Parallel()
		_, observer, store, txs, g, ctx := lostCommit(t, pgstore.TransactionConfig{})
		var pid int
		if err := txs.DB(ctx).QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		var ended bool
		if err := observer.QueryRow(testContext(t), "SELECT pg_terminate_backend($1, 10000)", pid).Scan(&ended); err != nil || !ended {
			t.Fatal(ended, err)
		}
		if err := txs.Commit(ctx); state(err) != "40000" {
			t.Errorf("Commit: %v (SQLSTATE %q)", err, state(err))
		}
		if consumed(t, store, g) {
			t.Error("the grant is spent")
		}
	})
	t.Run("the caller's context ends while it is under way", func(t *testing.T) {
		t.Parallel()
		proxy, _, store, txs, g, ctx := lostCommit(t, pgstore.TransactionConfig{})
		proxy.Delay(200 * time.Millisecond)
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if err := txs.Commit(ctx); err != nil {
			t.Errorf("Commit: %v", err)
		}
		if ctx.Err() == nil {
			t.Error("the context has not ended")
		}
		if !consumed(t, store, g) {
			t.Error("the grant is unspent")
		}
	})
	t.Run("nobody can be asked", func(t *testing.T) {
		t.Parallel()
		proxy, _, store, txs, g, ctx := lostCommit(t, pgstore.TransactionConfig{CommitTimeout: 300 * time.Millisecond})
		proxy.Refuse()
		cut := proxy.CutAfter(pgtest.ToClient, 0)
		if err := txs.Commit(ctx); state(err) != "40003" {
			t.Errorf("Commit: %v (SQLSTATE %q)", err, state(err))
		}
		<-cut
		if !consumed(t, store, g) { // that is what nobody could know
			t.Error("the grant is unspent")
		}
	})
	t.Run("it is still under way", func(t *testing.T) {
		t.Parallel()
		proxy, _, _, txs, _, ctx := lostCommit(t, pgstore.TransactionConfig{CommitTimeout: 500 * time.Millisecond, IdleTimeout: time.Minute})
		proxy.Blackhole() // the server hears neither the commit nor the connection's end
		if err := txs.Commit(ctx); state(err) != "40003" {
			t.Errorf("Commit: %v (SQLSTATE %q)", err, state(err))
		}
		proxy.Heal() // what was held back arrives, or the connection's end does
	})
}

// What is left of a transaction whose process has died without a word does not
// hold the grant's row for longer than the time-out.
func TestARowIsNotLockedForLongerThanTheIdleTimeout(t *testing.T) {
	t.Parallel()
	proxy, _, store, _, g, _ := lostCommit(t, pgstore.TransactionConfig{IdleTimeout: 200 * time.Millisecond})
	proxy.Blackhole()
	defer proxy.Heal()
	// Waits for the row's lock, which only the server's own time-out can end.
	if _, err := store.ConsumeConsentGrant(testContext(t), present(g)); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestEachTransactionHasItsTimeouts(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
		c.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	}, func(c *pgxpool.Config) { c.MaxConns = 2 })
	txs := newTransactions(t, pool, pgstore.TransactionConfig{LockTimeout: 1234 * time.Millisecond, StatementTimeout: 4321 * time.Millisecond, IdleTimeout: 5678 * time.Millisecond})
	ctx := begin(t, txs)
	for setting, want := range map[string]string{
		"lock_timeout": "1234ms", "statement_timeout": "4321ms", "idle_in_transaction_session_timeout": "5678ms",
		"transaction_isolation": "read committed", "transaction_read_only": "off",
	} {
		var got string
		if err := txs.DB(ctx).QueryRow(ctx, "SELECT current_setting($1)", setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, expected %q (%v)", setting, got, want, err)
		}
	}
	if err := txs.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	var after string
	if err := pool.QueryRow(testContext(t), "SELECT current_setting('lock_timeout')").Scan(&after); err != nil || after != "0" {
		t.Errorf("after the transaction lock_timeout is %q (%v)", after, err)
	}
}

func TestTransactionConfigsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 4 })
	for want, config := range map[string]pgstore.TransactionConfig{
		"MaxOpen":          {MaxOpen: 4},
		"MaxOpen is -1":    {MaxOpen: -1},
		"Isolation":        {Isolation: pgx.ReadUncommitted},
		"LockTimeout":      {LockTimeout: time.Microsecond},
		"StatementTimeout": {StatementTimeout: -1},
		"IdleTimeout":      {IdleTimeout: 25 * time.Hour},
		"CommitTimeout":    {CommitTimeout: -time.Second},
	} {
		if _, err := pgstore.NewTransactions(pool, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := pgstore.NewTransactions(nil, pgstore.TransactionConfig{}); err == nil {
		t.Error("a nil pool was accepted")
	}
}

// A pool of four, and 64 presenters of one grant at once, each in a transaction: one
// wins, none starves, and statements that have nothing to do with it find a connection.
func TestASmallPoolIsNotStarvedByPresenters(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, func(c *pgxpool.Config) { c.MaxConns = 4 })
			store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{Isolation: level})
			g := newGrant()
			create(t, store, g)

			const presenters = 64
			winnerIn, letGo := make(chan struct{}), make(chan struct{})
			outcomes := make(chan string, presenters)
			attempt := func() (outcome string, again bool) {
				ctx, err := txs.BeginTX(testContext(t))
				if err != nil {
					return err.Error(), false
				}
				defer func() { _ = txs.Rollback(ctx) }()
				_, err = store.ConsumeConsentGrant(ctx, present(g))
				switch {
				case errors.Is(err, fositeconsent.ErrGrantConsumed):
					return "consumed", false
				case state(err) == "40001":
					return "", true
				case err != nil:
					return err.Error(), false
				}
				close(winnerIn) // a second winner would panic here
				<-letGo
				if err := txs.Commit(ctx); err != nil {
					return err.Error(), false
				}
				return "won", false
			}
			var all sync.WaitGroup
			for range presenters {
				all.Go(func() {
					for {
						if outcome, again := attempt(); !again {
							outcomes <- outcome
							return
						}
					}
				})
			}
			<-winnerIn
			// The winner holds the row, others wait for it on all places that there are.
			for range 50 {
				ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
				var one int
				if err := pool.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
					t.Errorf("an unrelated statement: %v", err)
				}
				cancel()
			}
			if open := pool.Stat().MaxConns() - 1; pool.Stat().AcquiredConns() > open {
				t.Errorf("%d connections are taken by transactions", pool.Stat().AcquiredConns())
			}
			close(letGo)
			all.Wait()
			close(outcomes)
			count := map[string]int{}
			for o := range outcomes {
				count[o]++
			}
			if count["won"] != 1 || count["consumed"] != presenters-1 {
				t.Errorf("outcomes: %v", count)
			}
		})
	}
}

// A transaction costs no round trip of its own: it begins with its first statement.
func TestATransactionBeginsWithItsFirstStatement(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	tracer := &batchTracer{}
	pool := pgtest.PoolAt(t, direct, func(c *pgxpool.Config) { c.ConnConfig.Tracer = tracer })
	migrate(t, pgtest.PoolAt(t, direct), pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	trips := func(f func()) string {
		tracer.reset()
		f()
		return tracer.String()
	}
	ctx := begin(t, txs)
	g := newGrant()
	if got := trips(func() { create(t, store, g) }); got != "query" {
		t.Errorf("create, outside: %s", got)
	}
	if got := trips(func() {
		if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
			t.Fatal(err)
		}
	}); got != "batch of 3" {
		t.Errorf("begin and consume: %s", got)
	}
	if got := trips(func() {
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}); got != "query" {
		t.Errorf("commit: %s", got)
	}
	if got := trips(func() {
		ctx := begin(t, txs)
		g := newGrant()
		if err := store.CreateConsentGrant(ctx, g); err != nil {
			t.Fatal(err)
		}
		if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
			t.Fatal(err)
		}
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if !consumed(t, store, g) {
			t.Error("the grant that was minted and consumed is not spent")
		}
	}); got != "batch of 1, query, query" { // and those that look
		t.Errorf("mint and consume: %s", got)
	}
	if got := trips(func() {
		ctx := begin(t, txs)
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}); got != "" {
		t.Errorf("an empty transaction: %s", got)
	}
}

// batchTracer writes round trips down.
type batchTracer struct {
	mu    sync.Mutex
	trips []string
}

func (b *batchTracer) add(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trips = append(b.trips, s)
}

func (b *batchTracer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trips = nil
}

func (b *batchTracer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.trips, ", ")
}

func (b *batchTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	b.add("query")
	return ctx
}
func (b *batchTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (b *batchTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	b.add(fmt.Sprintf("batch of %d", d.Batch.Len()))
	return ctx
}
func (b *batchTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (b *batchTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// holdback holds back what one connection sends, and goes on when it is told to.
type holdback struct {
	net.Conn
	mu   sync.Mutex
	hold bool
	held []byte
}

func (h *holdback) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hold {
		h.held = append(h.held, b...)
		return len(b), nil
	}
	return h.Conn.Write(b)
}

// Close leaves the connection open while something is held back: the network has
// not told the server yet.
func (h *holdback) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hold {
		return nil
	}
	return h.Conn.Close()
}

func (h *holdback) release(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.Conn.Write(h.held); err != nil {
		t.Error(err)
	}
	h.hold = false
}

// statusTracer says when the transaction's status has been asked for.
type statusTracer struct{ asked chan struct{} }

type statusKey struct{}

func (s statusTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, statusKey{}, strings.Contains(d.SQL, "pg_xact_status"))
}

func (s statusTracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(statusKey{}) == true {
		select {
		case s.asked <- struct{}{}:
		default:
		}
	}
}

// A commit that is late, and is still to come when its fate is asked for the first time.
func TestACommitThatIsStillUnderWayIsWaitedFor(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var first *holdback
	tracer := statusTracer{make(chan struct{}, 1)}
	direct := pgtest.Database(t)
	pool := pgtest.PoolAt(t, direct, func(c *pgxpool.Config) {
		c.ConnConfig.Tracer = tracer
		c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = &holdback{Conn: conn}
				return first, nil
			}
			return conn, nil
		}
	})
	migrate(t, pgtest.PoolAt(t, direct), pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	txs := newTransactions(t, pool, pgstore.TransactionConfig{CommitTimeout: time.Second})
	g := newGrant()
	create(t, store, g)
	ctx := begin(t, txs)
	if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
		t.Fatal(err)
	}
	first.mu.Lock()
	first.hold = true
	first.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- txs.Commit(ctx) }()
	for range 2 { // one answer is not believed
		select {
		case <-tracer.asked:
		case err := <-done:
			t.Fatalf("Commit did not wait: %v", err)
		}
	}
	first.release(t)
	if err := <-done; err != nil {
		t.Errorf("Commit: %v", err)
	}
	if !consumed(t, store, g) {
		t.Error("the grant is unspent")
	}
}
