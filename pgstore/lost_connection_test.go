package pgstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// tries is how often a call runs its statement before it gives up.
const tries = 4

type direction string

const (
	ofTheStatement direction = "of the statement"
	ofTheAnswer    direction = "of the answer"
)

var bothDirections = []direction{ofTheStatement, ofTheAnswer}

// cutter cuts the connections of a pool in the midst of the store's statements or
// of the answers to them. Everything else passes, except the cancel requests that
// pgx sends when it loses a connection: the network that lost it would lose them too,
// and what the server has begun goes on.
type cutter struct {
	mu    sync.Mutex
	where direction
	after int
	times int
	cuts  int
	conns []net.Conn
	// late, if set, gets what was sent when a statement is cut off: the network has it, and
	// brings it to the server when the returned function is called.
	late func(arrive func())
}

// all cuts every connection.
func (c *cutter) all() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// cut lets f make its calls. The first so many of their statements lose the
// connection when after bytes of the statement or of its answer have passed. It
// returns how many did.
func (c *cutter) cut(where direction, after, times int, f func()) int {
	c.mu.Lock()
	c.where, c.after, c.times, c.cuts = where, after, times, 0
	c.mu.Unlock()
	f()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times = 0
	return c.cuts
}

// next says that n bytes have passed, and returns whether the connection ends here.
func (c *cutter) next(where direction, passed, n int) (allowed int, ends bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == 0 || c.where != where || passed+n < c.after || passed+n == 0 {
		return n, false
	}
	// A whole answer that has passed is an answer; a whole statement is one to cut after.
	if where == ofTheAnswer && passed+n == c.after {
		return n, false
	}
	c.times--
	c.cuts++
	return c.after - passed, true
}

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return &cutConn{Conn: conn, cutter: c}, nil
}

// cancelRequest begins a message of the protocol: its length and its code.
var cancelRequest = []byte{0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e}

type cutConn struct {
	net.Conn
	cutter    *cutter
	mu        sync.Mutex
	statement bool // one is under way
	got       int  // bytes of its answer
	lost      bool // for the client; the network still has it
}

var errCut = fmt.Errorf("cut by the test: %w", syscall.ECONNRESET)

func (c *cutConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		return 0, errCut
	}
	if bytes.HasPrefix(b, cancelRequest) {
		_ = c.Conn.Close()
		return 0, errCut
	}
	if c.statement = bytes.Contains(b, []byte("consent_grants")) || bytes.Contains(b, []byte("consent_consents")); !c.statement {
		return c.Conn.Write(b)
	}
	c.got = 0
	allowed, ends := c.cutter.next(ofTheStatement, 0, len(b))
	if !ends {
		return c.Conn.Write(b)
	}
	if late := c.cutter.late; late != nil {
		c.lost = true
		sent, conn := bytes.Clone(b), c.Conn
		late(func() {
			_ = conn.SetDeadline(time.Now().Add(patience)) // the client's own is over
			_, _ = conn.Write(sent)
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			_, _ = io.Copy(io.Discard, conn) // until the server has done it and hung up
			_ = conn.Close()
		})
		return len(b), errCut
	}
	n, _ := c.Conn.Write(b[:allowed])
	_ = c.Conn.Close()
	return n, errCut
}

func (c *cutConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost {
		return nil
	}
	return c.Conn.Close()
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || !c.statement {
		return n, err
	}
	allowed, ends := c.cutter.next(ofTheAnswer, c.got, n)
	c.got += n
	if !ends {
		return n, nil
	}
	_ = c.Conn.Close()
	return allowed, errCut
}

// cutting is a store on a pool whose connections can be cut.
type cutting struct {
	cutter
	url    string
	direct *pgxpool.Pool // is never cut
	pool   *pgxpool.Pool
	store  *pgstore.Store
}

// newCutting needs a mode in which pgx sends a statement in one message.
func newCutting(t testing.TB, mode pgx.QueryExecMode) *cutting {
	t.Helper()
	c := &cutting{url: pgtest.Database(t)}
	c.direct = pgtest.PoolAt(t, c.url)
	migrate(t, c.direct, pgstore.Config{})
	c.pool = pgtest.PoolAt(t, plain(t, c.url), withMode(mode), withConns(4), func(config *pgxpool.Config) {
		config.ConnConfig.DialFunc = c.dial
	})
	c.store = newStore(t, c.pool, pgstore.Config{})
	return c
}

// plain turns encryption off, which would hide the statements.
func plain(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return u.String()
}

// Wherever the connection is cut, within the statement or within its answer, the
// call learns what became of it.
func TestCallSurvivesACutAfterEveryByte(t *testing.T) {
	t.Parallel()
	for _, where := range bothDirections {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
			t.Run(fmt.Sprintf("%s in mode %s", where, mode), func(t *testing.T) {
				t.Parallel()
				c := newCutting(t, mode)
				direct := newStore(t, c.direct, pgstore.Config{})
				// The statement does nothing before its last byte: no need to try them all.
				step := map[direction]int{ofTheStatement: 97, ofTheAnswer: 1}[where]
				if mode == pgx.QueryExecModeSimpleProtocol {
					step = 2*step + 1
				}
				for _, what := range []string{"create", "consume"} {
					for at := 0; ; at += step {
						g := newGrant()
						p := present(g)
						var err error
						var cuts int
						if what == "create" {
							cuts = c.cut(where, at, 1, func() { err = c.store.CreateConsentGrant(testContext(t), g) })
							other := newGrant()
							other.ID = g.ID
							if second := direct.CreateConsentGrant(testContext(t), other); !errors.Is(second, fositeconsent.ErrAlreadyDecided) {
								t.Fatalf("cut after byte %d: a second mint got %v", at, second)
							}
						} else {
							create(t, direct, g)
							cuts = c.cut(where, at, 1, func() { _, err = c.store.ConsumeConsentGrant(testContext(t), p) })
							if _, attempt := spentAt(t, c.direct, g.ID); attempt != fositeconsent.ID(p.Attempt).String() {
								t.Fatalf("cut after byte %d: spent by %q", at, attempt)
							}
						}
						if err != nil {
							t.Fatalf("%s, cut after byte %d: %v", what, at, err)
						}
						if cuts == 0 {
							t.Logf("%s: cut at up to %d bytes %s", what, at, where)
							if at < 20 {
								t.Error("too few to be true")
							}
							break
						}
					}
				}
			})
		}
	}
}

func TestCallSurvivesSeveralCutsAndGivesUpAfterAll(t *testing.T) {
	t.Parallel()
	for _, where := range bothDirections {
		for times := 1; times <= tries; times++ {
			t.Run(fmt.Sprintf("%d %s", times, where), func(t *testing.T) {
				t.Parallel()
				c := newCutting(t, pgx.QueryExecModeExec)
				g := newGrant()
				check := func(what string, cuts int, err error) {
					t.Helper()
					if cuts != times {
						t.Errorf("%s: %d cuts", what, cuts)
					}
					if times < tries && err != nil {
						t.Errorf("%s: %v", what, err)
					}
					if times == tries && (err == nil || isReason(err)) {
						t.Errorf("%s: got %v, want an error that is no reason", what, err)
					}
				}
				var err error
				cuts := c.cut(where, 0, times, func() { err = c.store.CreateConsentGrant(testContext(t), g) })
				check("create", cuts, err)
				create(t, c.store, g) // what gave up is settled by repeating it

				cuts = c.cut(where, 0, times, func() { _, err = c.store.ConsumeConsentGrant(testContext(t), present(g)) })
				check("consume", cuts, err)
				_, err = c.store.ConsumeConsentGrant(testContext(t), present(g))
				switch spent := times < tries || where == ofTheAnswer; {
				case spent && !errors.Is(err, fositeconsent.ErrGrantConsumed):
					t.Errorf("a rival got %v", err)
				case !spent && err != nil:
					t.Errorf("no statement reached the server, and yet: %v", err)
				}
			})
		}
	}
}

// After a restart of the server all idle connections of a pool are dead, more of
// them than a call has tries.
func TestCallSurvivesAPoolOfDeadConnections(t *testing.T) {
	t.Parallel()
	const conns = 3 * tries
	database := pgtest.Database(t)
	proxy, through := pgtest.ProxyTo(t, database)
	pool := pgtest.PoolAt(t, through, withConns(conns), func(c *pgxpool.Config) {
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	})
	migrate(t, pool, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	g := newGrant()
	for what, f := range map[string]func() error{
		"create": func() error { return store.CreateConsentGrant(testContext(t), g) },
		"create once more and consume": func() error {
			_, err := store.ConsumeConsentGrant(testContext(t), present(g))
			return errors.Join(err, store.CreateConsentGrant(testContext(t), g))
		},
	} {
		create(t, store, g)
		held := make([]*pgxpool.Conn, conns)
		for i := range held {
			conn, err := pool.Acquire(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			held[i] = conn
		}
		for _, conn := range held {
			conn.Release()
		}
		proxy.Cut()
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The connection dies while the first try still waits for a lock, so that it is
// uncommitted when the second one arrives.
func TestRetryMeetsItsFirstTryUnderWay(t *testing.T) {
	t.Parallel()
	for _, end := range []bool{commit, rollback} {
		t.Run(fmt.Sprintf("the rival that both wait for ends with commit=%v", end), func(t *testing.T) {
			t.Parallel()
			c := newCutting(t, pgx.QueryExecModeExec)
			g := newGrant()
			create(t, c.store, g)
			h := hold(t, c.direct)
			h.consume(present(g))
			result := make(chan error, 1)
			go func() {
				_, err := c.store.ConsumeConsentGrant(testContext(t), present(g))
				result <- err
			}()
			waiting(t, c.direct, 1)
			c.all()
			waiting(t, c.direct, 2)
			h.end(end)
			want := error(nil)
			if end == commit {
				want = fositeconsent.ErrGrantConsumed
			}
			if err := <-result; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}

// A first try that was lost may take effect when the second one has found no reason to
// wait for it: then what the second one was told is not how the call ends.
func TestFirstTryIsStillUnderWayWhenTheSecondIsRefused(t *testing.T) {
	t.Parallel()
	checkUnknown := func(t *testing.T, c *cutting, p fositeconsent.Presentation, err error) {
		t.Helper()
		if err == nil || isReason(err) {
			t.Errorf("got %v, want an error that is no reason", err)
		}
		if _, attempt := spentAt(t, c.direct, p.ID); attempt != fositeconsent.ID(p.Attempt).String() {
			t.Fatalf("this test is about nothing: the grant was spent by %q", attempt)
		}
	}

	t.Run("since the grant was not there yet", func(t *testing.T) {
		t.Parallel()
		c := newCutting(t, pgx.QueryExecModeExec)
		g := newGrant()
		p := present(g)
		var arrive func()
		c.late = func(f func()) { arrive = f }
		var err error
		c.cut(ofTheStatement, 0, 1, func() { _, err = c.store.ConsumeConsentGrant(testContext(t), p) })
		create(t, newStore(t, c.direct, pgstore.Config{}), g)
		arrive()
		checkUnknown(t, c, p, err)
	})

	t.Run("since the grant has expired while the first one waited", func(t *testing.T) {
		t.Parallel()
		c := newCutting(t, pgx.QueryExecModeExec)
		var disconnected atomic.Bool
		reconnect := make(chan struct{})
		pool := pgtest.PoolAt(t, plain(t, c.url), withMode(pgx.QueryExecModeExec), func(config *pgxpool.Config) {
			config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
				if disconnected.Load() {
					<-reconnect
				}
				conn, err := c.dial(ctx, network, address)
				return uncancelled{conn}, err
			}
		})
		store := newStore(t, pool, pgstore.Config{})
		g := newGrant()
		g.Lifespan = 8 * time.Second // for a machine that is busy until the first try begins
		p := present(g)
		create(t, store, g)
		h := hold(t, c.direct)
		const lock = "SELECT FROM public.consent_grants WHERE id = $1 FOR UPDATE"
		h.exec(lock, g.ID.String())
		result := make(chan error, 1)
		go func() {
			_, err := store.ConsumeConsentGrant(testContext(t), p)
			result <- err
		}()
		waiting(t, c.direct, 1)
		var first uint32
		if err := c.direct.QueryRow(testContext(t), `SELECT pid FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&first); err != nil {
			t.Fatal(err)
		}
		disconnected.Store(true)
		c.all()
		h.exec("SELECT pg_sleep(extract(epoch FROM expires_at - clock_timestamp())) FROM public.consent_grants WHERE id = $1", g.ID.String())
		close(reconnect)
		err := <-result
		h.end(rollback)
		for there := true; there; { // until the first try is done, and its process with it: nobody hears the answer
			if err := c.direct.QueryRow(testContext(t), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", first).Scan(&there); err != nil {
				t.Fatal(err)
			}
		}
		checkUnknown(t, c, p, err)
	})
}

// uncancelled swallows PostgreSQL's CancelRequest, which the driver sends after a connection
// that broke: it would end the first try, whose turn comes when the second one has answered.
type uncancelled struct{ net.Conn }

func (c uncancelled) Write(b []byte) (int, error) {
	if len(b) == 16 && binary.BigEndian.Uint32(b[4:]) == 80877102 {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// waiting returns when n backends of the pool's database wait for a lock.
func waiting(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	ctx := testContext(t)
	for got := -1; got != n; {
		err := pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&got)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerThatEndsTheSession(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(4))
	store := newStore(t, pool, pgstore.Config{})
	terminate := func(t *testing.T) {
		t.Helper()
		_, err := pool.Exec(testContext(t), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`)
		if err != nil {
			t.Fatal(err)
		}
	}

	t.Run("is asked again over another connection", func(t *testing.T) {
		g := newGrant()
		create(t, store, g)
		h := hold(t, pool)
		h.consume(present(g))
		result := make(chan error, 1)
		go func() {
			_, err := store.ConsumeConsentGrant(testContext(t), present(g))
			result <- err
		}()
		waiting(t, pool, 1)
		terminate(t)
		waiting(t, pool, 1)
		h.end(rollback)
		if err := <-result; err != nil {
			t.Error(err)
		}
	})

	t.Run("is not asked again inside of a transaction", func(t *testing.T) {
		g := newGrant()
		create(t, store, g)
		h := hold(t, pool)
		h.consume(present(g))
		c := startConsume(t, pool, pgx.ReadCommitted, present(g)).blocked()
		terminate(t)
		c.wantSQLState("57P01")
		h.end(rollback)
	})
}

func TestNothingIsRepeatedOutsideOfAPool(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"transaction", "connection"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := newCutting(t, pgx.QueryExecModeExec)
			ctx := testContext(t)
			conn, err := c.pool.Acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			counted := &counting{DB: conn.Conn()}
			if kind == "transaction" {
				if counted.DB, err = conn.Begin(ctx); err != nil {
					t.Fatal(err)
				}
			}
			c.cut(ofTheAnswer, 0, 1, func() { err = newStore(t, counted, pgstore.Config{}).CreateConsentGrant(ctx, newGrant()) })
			if err == nil || isReason(err) || counted.calls != 1 {
				t.Errorf("%d calls, %v", counted.calls, err)
			}
		})
	}
}

// counting counts the statements of a DB.
type counting struct {
	pgstore.DB
	calls int
}

func (c *counting) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	c.calls++
	return c.DB.QueryRow(ctx, sql, args...)
}

func TestTimeoutIsNoReason(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	g := newGrant()
	create(t, newStore(t, pool, pgstore.Config{}), g)
	h := hold(t, pool)
	h.consume(present(g))
	held := newGrant()
	h.create(held)

	for _, c := range []struct {
		name  string
		setup string
		code  string
	}{
		{"lock_timeout", "SET lock_timeout = '10ms'", "55P03"},
		{"statement_timeout", "SET statement_timeout = '10ms'", "57014"},
	} {
		for what, f := range map[string]func(context.Context, *pgstore.Store) error{
			"consume": func(ctx context.Context, s *pgstore.Store) error {
				_, err := s.ConsumeConsentGrant(ctx, present(g))
				return err
			},
			"create": func(ctx context.Context, s *pgstore.Store) error { return s.CreateConsentGrant(ctx, held) },
		} {
			t.Run(what+" with "+c.name, func(t *testing.T) {
				own := pgtest.PoolAt(t, pool.Config().ConnString(), func(config *pgxpool.Config) {
					config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
						_, err := conn.Exec(ctx, c.setup)
						return err
					}
				})
				err := f(testContext(t), newStore(t, own, pgstore.Config{}))
				(&call{t: t, err: err, done: true}).wantSQLState(c.code)
			})
			t.Run(what+" with the context's end for "+c.name, func(t *testing.T) {
				// Postgres is told to cancel, and answers 57014.
				own := pgtest.PoolAt(t, pool.Config().ConnString(), func(config *pgxpool.Config) {
					config.ConnConfig.BuildContextWatcherHandler = cancelRequests
				})
				ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
				defer cancel()
				err := f(ctx, newStore(t, own, pgstore.Config{}))
				if !errors.Is(err, context.DeadlineExceeded) || isReason(err) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func cancelRequests(c *pgconn.PgConn) ctxwatch.Handler {
	return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: patience}
}
