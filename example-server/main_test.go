package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// These tests are about the program as a whole, on PostgreSQL.

// migrated returns a pool on a database of the test's own that has all tables, and a key,
// which takes longer to make than everything else.
func migrated(t *testing.T) (pool *pgxpool.Pool, address string) {
	t.Helper()
	address = pgtest.Database(t)
	pool = pgtest.PoolAt(t, address)
	if err := pgstore.Migrate(t.Context(), pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	key := testSigningKey()
	der, err := x509.MarshalPKCS8PrivateKey(key.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "INSERT INTO example_server_signing_keys VALUES ($1, $2, statement_timestamp())", key.KeyID, der); err != nil {
		t.Fatal(err)
	}
	return pool, address
}

// withPostgres has the server keep its grants on one pool and the rest on another.
func withPostgres(t *testing.T, grants, codes *pgxpool.Pool) func(*server, *providerConfig) {
	t.Helper()
	return func(s *server, c *providerConfig) {
		store, err := pgstore.New(grants, pgstore.Config{})
		if err != nil {
			t.Fatal(err)
		}
		storage, err := fositestore.New(codes, fositestore.Config{NewSession: func() fosite.Session { return newTokenSession() }, GetClient: s.getClient})
		if err != nil {
			t.Fatal(err)
		}
		c.grants, c.consents, c.decisions, c.storage = store, store, store, storage
	}
}

// program runs the program until the test, or the program, ends. It returns where the
// server is, "" if it has ended without ever listening, and what waits for the exit code.
func program(t *testing.T, databaseURL string, flags ...string) (base string, wait func() (code int, log string)) {
	t.Helper()
	base, _, wait = launch(t, databaseURL, flags...)
	return base, wait
}

// launch is program, and returns what was logged until the server was listening, too.
func launch(t *testing.T, databaseURL string, flags ...string) (base, started string, wait func() (code int, log string)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	accounts := filepath.Join(t.TempDir(), "users.json")
	if err := os.WriteFile(accounts, fmt.Appendf(nil, `{"alice": %q}`, bcryptHash(t, "wonderland")), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-listen", "127.0.0.1:0", "-clients", "samples/clients.json", "-users", accounts}
	args = append(args, flags...)
	log := &syncBuffer{}
	listening, out := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, args, environment("DATABASE_URL", databaseURL), io.Discard, io.MultiWriter(log, out))
		_ = out.Close()
	}()
	wait = func() (int, string) {
		stop()
		_, _ = io.Copy(io.Discard, listening)
		c := <-code
		code <- c
		return c, log.String()
	}
	t.Cleanup(func() { _, _ = wait() })
	var text strings.Builder
	for b := make([]byte, 4096); ; {
		n, err := listening.Read(b)
		text.Write(b[:n])
		if found := listeningAt.FindStringSubmatch(text.String()); found != nil {
			go func() { _, _ = io.Copy(io.Discard, listening) }()
			return found[1], text.String(), wait
		}
		if err != nil {
			return "", text.String(), wait
		}
	}
}

var listeningAt = regexp.MustCompile(`msg=listening addr=\S+ issuer=(\S+)`)

func TestServerIsReadyWithAllItsTablesAlone(t *testing.T) {
	t.Parallel()
	pool, address := migrated(t)
	base, _ := program(t, address)
	if base == "" {
		t.Fatal("the server does not start")
	}
	ready := func() int {
		return newBrowser(t, base).get("/readyz").StatusCode
	}
	rows, err := pool.Query(t.Context(), "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 10 {
		t.Fatalf("%q, %v", tables, err)
	}
	for _, table := range tables {
		for _, step := range []struct {
			sql  string
			want int
		}{
			{"ALTER TABLE %s RENAME TO elsewhere", http.StatusServiceUnavailable},
			{"ALTER TABLE elsewhere RENAME TO %s", http.StatusOK},
		} {
			if _, err := pool.Exec(t.Context(), fmt.Sprintf(step.sql, table)); err != nil {
				t.Fatal(err)
			}
			if got := ready(); got != step.want {
				t.Errorf("%s: %d, want %d", fmt.Sprintf(step.sql, table), got, step.want)
			}
		}
	}
}

// On the database of another issuer, with its keys, the server would redeem that one's codes.
func TestServerDoesNotStartOnTheDatabaseOfAnotherIssuer(t *testing.T) {
	t.Parallel()
	pool, address := migrated(t)
	const first, second = "http://localhost:9101", "http://localhost:9102"
	start := func(issuer string) (base string, code int, log string) {
		base, wait := program(t, address, "-issuer", issuer)
		code, log = wait()
		return base, code, log
	}
	starts := func(issuer string) {
		t.Helper()
		if base, code, log := start(issuer); base != issuer || code != 0 {
			t.Errorf("%s: listens at %q and ends with %d:\n%s", issuer, base, code, log)
		}
	}
	starts(first)
	starts(first)
	base, code, log := start(second)
	if base != "" || code != 1 || !strings.Contains(log, first) || !strings.Contains(log, second) || !strings.Contains(log, "-issuer") {
		t.Errorf("with another issuer it listens at %q and ends with %d:\n%s", base, code, log)
	}
	starts(first)

	// It can be renamed in the way that the message tells, upon which no old code is good.
	secret := func() (value string) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), "SELECT encode(value, 'hex') FROM example_server_keys WHERE name = 'secret'").Scan(&value); err != nil {
			t.Fatal(err)
		}
		return value
	}
	before := secret()
	statement := regexp.MustCompile(`DELETE FROM example_server_keys WHERE name IN \('issuer', 'secret'\)`).FindString(log)
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	starts(second)
	if secret() == before {
		t.Error("the new issuer has the secret of the old one")
	}
}

func TestServerDoesNotStartWhenTheTransactionCannotBeTried(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"consent_grants", "consent_codes", "consent_consents", "consent_decisions"} {
		pool, address := migrated(t)
		if _, err := pool.Exec(t.Context(), "ALTER TABLE "+table+" ADD CONSTRAINT nothing_more CHECK (false) NOT VALID"); err != nil {
			t.Fatal(err)
		}
		base, wait := program(t, address)
		if code, log := wait(); code != 1 || base != "" || !strings.Contains(log, "fositeconsent: check the") {
			t.Errorf("nothing can be stored in %s: it listens at %q and ends with %d:\n%s", table, base, code, log)
		}
	}
}

func TestServerDoesNotStartWithStoragesThatShareNoTransaction(t *testing.T) {
	t.Parallel()
	first, address := migrated(t)
	second := pgtest.PoolAt(t, address)
	for name, test := range map[string]struct {
		change func(*server, *providerConfig)
		fit    bool
	}{
		"one pool":                  {withPostgres(t, first, first), true},
		"two pools on one database": {withPostgres(t, first, second), false},
		"consents elsewhere": {func(s *server, c *providerConfig) {
			consents := c.consents
			withPostgres(t, first, first)(s, c)
			c.consents = consents
		}, false},
		"a log elsewhere": {func(s *server, c *providerConfig) {
			log := c.decisions
			withPostgres(t, first, first)(s, c)
			c.decisions = log
		}, false},
		"a storage that has no such": {func(*server, *providerConfig) {}, false},
	} {
		s := newTestServer(t, test.change).server
		err := s.checkTransaction(t.Context(), []*client{s.clients["web"]})
		if test.fit != (err == nil) || !test.fit && !errors.Is(err, fositeconsent.ErrNotAtomic) {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.checkTransaction(t.Context(), nil); err == nil {
			t.Errorf("%s: without clients there is nothing to try it with", name)
		}
	}
}

// slowExchange is a storage in which something happens after a code was read for the
// first time.
type slowExchange struct {
	*fositestore.Store
	meanwhile func()
}

func (s *slowExchange) GetAuthorizeCodeSession(ctx context.Context, code string, session fosite.Session) (fosite.Requester, error) {
	request, err := s.Store.GetAuthorizeCodeSession(ctx, code, session)
	if f := s.meanwhile; f != nil {
		s.meanwhile = nil
		f()
	}
	return request, err
}

// "invalid_grant: The provided authorization grant [...] is invalid, expired, revoked"
// (RFC 6749, Section 5.2): so it is also for whoever has come a moment too late.
func TestExchangeThatLosesARaceIsAnInvalidGrant(t *testing.T) {
	t.Parallel()
	pool, _ := migrated(t)
	var slow slowExchange
	ts := newTestServer(t, withPostgres(t, pool, pool), func(_ *server, c *providerConfig) {
		slow.Store = c.storage.(*fositestore.Store)
		c.storage = &slow
	})
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	code := ts.post(pathConsent, approve(form)).toClient(t)["code"]
	exchange := func() answer {
		r := ts.request(http.MethodPost, pathToken, url.Values{"grant_type": {grantCode}, "code": code, "redirect_uri": {"https://photos.example/cb"}, "code_verifier": {testVerifier}})
		r.SetBasicAuth("web", "web-secret-0123456789")
		return ts.do(r)
	}
	var winner answer
	slow.meanwhile = func() { winner = exchange() }
	loser := exchange()
	if winner.Response == nil || winner.StatusCode != http.StatusOK {
		t.Fatalf("the winner gets %+v", winner)
	}
	loser.refused(t, http.StatusBadRequest, "invalid_grant")
	if log := ts.log.String(); strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("it is no fault of the server:\n%s", log)
	}
}
