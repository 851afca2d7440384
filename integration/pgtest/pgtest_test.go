package pgtest

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func TestMain(m *testing.M) { Main(m) }

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestEachTestHasAnEmptyDatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]bool{}
	t.Run("at the same time", func(t *testing.T) {
		for i := range 8 {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				pool := Pool(t)
				var name string
				err := pool.QueryRow(within(t, time.Minute), "SELECT current_database()").Scan(&name)
				if err != nil {
					t.Error(err)
				}
				if _, err := pool.Exec(within(t, time.Minute), "CREATE TABLE same (n int)"); err != nil {
					t.Error(err)
				}
				if !strings.HasPrefix(name, "testeachtesthasanemptydatabaseofitsown") {
					t.Errorf("the name %s does not show the test's", name)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[name] = true
			})
		}
	})
	if len(seen) != 8 {
		t.Errorf("%d different databases", len(seen))
	}
	admin := PoolAt(t, Superuser(t))
	for name := range seen {
		var left int
		if err := admin.QueryRow(within(t, time.Minute), "SELECT count(*) FROM pg_database WHERE datname = $1", name).Scan(&left); err != nil || left != 0 {
			t.Errorf("after the test there are %d databases %s, %v", left, name, err)
		}
	}
	t.Log(Source(t), "major version", Version(t))
}

func TestPoolIsConfigurable(t *testing.T) {
	t.Parallel()
	pool := Pool(t, func(c *pgxpool.Config) { c.MaxConns = 3 }, func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	})
	if c := pool.Config(); c.MaxConns != 3 || c.ConnConfig.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol {
		t.Errorf("%d, %v", c.MaxConns, c.ConnConfig.DefaultQueryExecMode)
	}
}

func TestRoleMayDoNothingButWhatItIsGranted(t *testing.T) {
	t.Parallel()
	database := Database(t)
	owner := PoolAt(t, database)
	name, roleURL := Role(t, database)
	role := PoolAt(t, roleURL)
	ctx := within(t, time.Minute)
	if _, err := owner.Exec(ctx, "CREATE TABLE secret (n int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := role.Exec(ctx, "SELECT * FROM secret"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("without a grant: %v", err)
	}
	if _, err := owner.Exec(ctx, "GRANT SELECT ON secret TO "+pgx.Identifier{name}.Sanitize()); err != nil {
		t.Fatal(err)
	}
	if _, err := role.Exec(ctx, "SELECT * FROM secret"); err != nil {
		t.Errorf("with a grant: %v", err)
	}
}

func TestServerIsOpenToThisMachineOnlyAndAsksForAPassword(t *testing.T) {
	t.Parallel()
	if _, other := sharedServer(t).(*given); other {
		t.Log("the server is somebody else's")
		return
	}
	u, err := url.Parse(Superuser(t))
	if err != nil {
		t.Fatal(err)
	}
	if u.Hostname() != "127.0.0.1" {
		t.Errorf("it listens on %s", u.Hostname())
	}
	u.User = url.UserPassword("postgres", "wrong")
	if conn, err := pgx.Connect(within(t, time.Minute), u.String()); err == nil {
		_ = conn.Close(context.Background())
		t.Error("a wrong password is accepted")
	}
}

func TestNoServerIsAFailureWithEveryReason(t *testing.T) {
	t.Parallel()
	fail := func(_ context.Context, kind string) (server, error) { return nil, errors.New("no " + kind + " here") }
	_, err := startOwn(context.Background(), "", fail)
	for _, reason := range []string{"no docker here", "no local here", "no embedded here", "Install Docker"} {
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%v does not say %q", err, reason)
		}
	}
	if _, err := startOwn(context.Background(), "local", fail); err == nil || strings.Contains(err.Error(), "docker here") {
		t.Errorf("pinned: %v", err)
	}
	if _, err := startOwn(context.Background(), "mysql", fail); err == nil || !strings.Contains(err.Error(), "TEST_POSTGRES=mysql") {
		t.Errorf("unknown: %v", err)
	}
	_, err = reach(within(t, time.Minute), "postgres://someone:hunter2@127.0.0.1:1/x?sslmode=disable")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("unreachable: %v", err)
	}
}

func TestDedicatedServer(t *testing.T) {
	t.Parallel()
	s := Dedicated(t)
	pool := PoolAt(t, s.Database(), func(c *pgxpool.Config) { c.MaxConns = 2 })
	ctx := within(t, time.Minute)
	must := func(sql string) {
		t.Helper()
		// The first use of a connection that died meanwhile may fail.
		var err error
		for range 5 {
			if _, err = pool.Exec(ctx, sql); err == nil {
				return
			}
		}
		t.Fatalf("%s: %v", sql, err)
	}
	must("CREATE TABLE kept (n int)")
	address := s.URL()

	must("INSERT INTO kept VALUES (1)")
	s.Kill()
	if _, err := pool.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("a killed server answers")
	}
	s.Start()
	must("INSERT INTO kept VALUES (2)")

	s.Stop()
	if _, err := pool.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("a stopped server answers")
	}
	s.Start()
	must("INSERT INTO kept VALUES (3)")

	s.Pause()
	if _, err := pool.Exec(within(t, 200*time.Millisecond), "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused server: %v", err)
	}
	s.Unpause()
	s.Restart()
	must("INSERT INTO kept VALUES (4)")

	var sum int
	if err := pool.QueryRow(ctx, "SELECT sum(n) FROM kept").Scan(&sum); err != nil || sum != 10 {
		t.Errorf("what was committed: %d, %v", sum, err)
	}
	if s.URL() != address {
		t.Error("the address has changed")
	}
	t.Log(s.Source())
}

func TestDedicatedServerThatIsLeftPausedOrStoppedEndsWithItsTest(t *testing.T) {
	t.Parallel()
	t.Run("paused", func(t *testing.T) { t.Parallel(); Dedicated(t).Pause() })
	t.Run("stopped", func(t *testing.T) { t.Parallel(); Dedicated(t).Stop() })
}
