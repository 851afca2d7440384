package integration_test

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// The server behind PgBouncer in transaction mode, with every way of running
// statements that can work there. TestPgBouncer is skipped on a machine without
// PgBouncer, and nowhere else.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, from := range pgtest.PgBouncerOrigins {
		t.Run(from.String(), func(t *testing.T) {
			t.Parallel()
			// Fewer connections to the database than two processes have to PgBouncer.
			bouncer := pgtest.PgBouncer(t, from, pgtest.Superuser(t), 3)
			t.Log("version", bouncer.Version())
			modes := []string{"", "cache_describe", "simple_protocol"} // without one it is exec
			if bouncer.KnowsPreparedStatements() {
				modes = append(modes, "cache_statement")
			}
			for _, mode := range modes {
				name := mode
				if name == "" {
					name = "without a mode"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					behindPgBouncer(t, bouncer, mode)
				})
			}
			t.Run("the mode that is unsafe is refused", func(t *testing.T) {
				t.Parallel()
				unsafeMode(t, throughPgBouncer(t, bouncer, pgtest.Database(t), "describe_exec"))
			})
		})
	}
}

// throughPgBouncer returns the URL of the database through PgBouncer, with pgx's mode
// unless that is empty.
func throughPgBouncer(t testing.TB, bouncer *pgtest.Bouncer, database, mode string) string {
	t.Helper()
	u, err := url.Parse(bouncer.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	if mode != "" {
		query := u.Query()
		query.Set("default_query_exec_mode", mode)
		u.RawQuery = query.Encode()
	}
	return u.String()
}

// behindPgBouncer has two processes make one flow, the first of which is killed in the middle
// of a decision, which the pooler has passed on.
func behindPgBouncer(t *testing.T, bouncer *pgtest.Bouncer, mode string) {
	ctx := context.Background()
	database := pgtest.Database(t)
	s := newSuite(t, func(c *authserver.Config) { c.DatabaseURL = throughPgBouncer(t, bouncer, database, mode) })
	s.database, s.pool = database, pgtest.PoolAt(t, database)
	first := s.server

	// Something for the second process to do besides: to sweep, and to replace the key.
	if _, err := s.pool.Exec(ctx, `
		INSERT INTO consent_nonces (expires_at, nonce_hash) VALUES (now() - interval '1 year', sha256('old'));
		UPDATE example_server_signing_keys SET created_at = created_at - interval '1 year'`); err != nil {
		t.Fatal(err)
	}
	second := s.site.Start()
	count := func(what string) (n int) {
		t.Helper()
		if err := s.pool.QueryRow(ctx, "SELECT count(*) FROM "+what).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count("example_server_signing_keys"); n != 2 {
		t.Errorf("there are %d signing keys, expected the old one and its successor", n)
	}
	eventually(t, "what is old is swept", func() bool { return count("consent_nonces") == 0 })

	// Sign-in at one process, and an approval that it does not survive.
	params := authorization("web")
	alice := s.signIn("alice")
	page := s.consentPage(alice.At(second), params)
	form := page.Form("/consent")
	unlock := s.lockGrants()
	lost := later(func() error {
		_, err := alice.Do(useragent.Request{Method: http.MethodPost, URL: form.Action, Body: form.Values("approve").Encode(), Header: alice.SameOrigin()})
		return err
	})
	eventually(t, "the statement waits", func() bool { return len(s.waiting()) == 1 })
	first.Kill()
	if err := lost(); err == nil {
		t.Error("a killed server has answered")
	}
	unlock()
	s.settled()
	s.codesAreThoseOfConsumedGrants()

	// The other process takes over: the decision, with which nobody got anything, or the page, if
	// the pooler had it cancelled; then the code, and what comes of it.
	_, _, consumed := s.count()
	if consumed == 1 {
		s.nothingIssued(form.Submit("approve"))
		page = s.consentPage(alice.At(second), params)
	}
	got := s.approve(page)
	s.wantCount(consumed+1, 0, consumed+1)
	tokens := s.redeem(second, "web", got.code, callback, verifier)
	if tokens.Error != "" || tokens.RefreshToken == "" {
		t.Fatalf("the code is not redeemed: %+v", tokens)
	}
	s.idToken(second, "web", tokens.IDToken)
	third := s.site.Start()
	refreshed := s.tokenRequest(third, "web", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}})
	if refreshed.Error != "" || refreshed.RefreshToken == "" {
		t.Fatalf("the refresh token is refused: %+v", refreshed)
	}
	s.idToken(second, "web", refreshed.IDToken)
	if s.introspect(second, tokens.AccessToken).Active || !s.introspect(second, refreshed.AccessToken).Active {
		t.Error("a refresh at one process does not replace the access token at the other")
	}
	var nothing struct{}
	if status := s.post(third, "/oauth2/revoke", "web", url.Values{"token": {refreshed.RefreshToken}}, &nothing); status != http.StatusOK {
		t.Errorf("revocation: status %d", status)
	}
	if s.introspect(second, refreshed.AccessToken).Active {
		t.Error("a token that was revoked at one process is good at the other")
	}
	if again := s.redeem(third, "web", got.code, callback, verifier); again.Error != "invalid_grant" {
		t.Errorf("the code is redeemed twice: %+v", again)
	}
	s.nothingIssued(form.Submit("approve"))

	// A request that was pushed to one of them is answered at the other.
	s.server = second
	got = s.approve(s.consentPage(alice.At(third), s.push(params)))
	if tokens := s.redeem(second, "web", got.code, callback, verifier); tokens.Error != "" {
		t.Errorf("the code of a pushed request is not redeemed: %+v", tokens)
	}
	s.codesAreThoseOfConsumedGrants()

	// Nothing is left on a connection that is somebody else's next.
	if n := count("pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"); n != 0 {
		t.Errorf("%d advisory locks were left behind", n)
	}
	for _, server := range []*authserver.Server{second, third} {
		for _, line := range server.Lines() {
			if line.Level == "WARN" && line.Gate == nil {
				t.Errorf("in the background: %s", line.Text)
			}
		}
	}
}

// unsafeMode expects that the server does not start, and says what to change.
func unsafeMode(t *testing.T, databaseURL string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server := exec.CommandContext(ctx, authserver.Binary(t), "-listen", "127.0.0.1:0")
	server.Env = append(os.Environ(), "DATABASE_URL="+databaseURL)
	var log bytes.Buffer
	server.Stderr = &log
	if err := server.Run(); err == nil || ctx.Err() != nil || !strings.Contains(log.String(), "leave default_query_exec_mode out") {
		t.Errorf("the server ended with %v:\n%s", err, &log)
	}
}
