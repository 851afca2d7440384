package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A request that read the session before the sign-out must not write it back after it.
func TestSessionThatHasEndedStaysSo(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	if _, err := pool.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	store, expiry := sessionStore{pool}, time.Now().Add(time.Hour)
	for range 2 { // made and changed
		if err := store.CommitCtx(t.Context(), "token", []byte("alice"), expiry); err != nil {
			t.Fatal(err)
		}
	}
	if data, found, err := store.FindCtx(t.Context(), "token"); err != nil || !found || !bytes.Equal(data, []byte("alice")) {
		t.Fatalf("found %q, %v, %v", data, found, err)
	}
	if err := store.DeleteCtx(t.Context(), "token"); err != nil {
		t.Fatal(err)
	}
	if err := store.CommitCtx(t.Context(), "token", []byte("alice"), expiry); err == nil {
		t.Error("the session was brought back")
	}
	if _, found, err := store.FindCtx(t.Context(), "token"); err != nil || found {
		t.Errorf("after the sign-out: %v, %v", found, err)
	}
}

// ownClients is a configuration that is not the demo's.
var ownClients = config{clientsFile: "clients.json", usersFile: "users.json", keyRotation: time.Hour}

func TestReadinessSeesEveryTable(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"sessions", "example_server_keys", "example_server_signing_keys", "consent_grants", "consent_codes"} {
		pool, _, err := openDatabase(t.Context(), pgtest.Database(t), ownClients, "https://as.example", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		store, err := pgstore.New(pool, pgstore.Config{})
		if err != nil {
			t.Fatal(err)
		}
		storage, err := fositestore.New(pool, fositestore.Config{NewSession: func() fosite.Session { return newTokenSession() }})
		if err != nil {
			t.Fatal(err)
		}
		if err := checkTables(t.Context(), pool, store, storage); err != nil {
			t.Errorf("with all tables: %v", err)
		}
		if _, err := pool.Exec(t.Context(), "DROP TABLE "+table); err != nil {
			t.Fatal(err)
		}
		if checkTables(t.Context(), pool, store, storage) == nil {
			t.Errorf("without %s the server is ready", table)
		}
	}
}

func TestDatabaseErrorsDoNotPrintThePassword(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"host=127.0.0.1 user=u password = 'S3CRET pw' sslmode=bogus", "postgres//u:S3CRET:pw@h/db", "postgres:/u:S3C@S3CRETpw@h/db",
		"postgres://u:S3CRET@h:99999999/db", "postgres://u:S3CRET@127.0.0.1:1/db?connect_timeout=1",
	} {
		_, _, err := openDatabase(t.Context(), text, ownClients, "https://as.example", slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "S3C") || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLoginEndsWithItsPassword(t *testing.T) {
	ts := newTestServer(t)
	ts.signIn(ts.authorize(codeRequest()), "alice").is(t, http.StatusOK, "Allow access?")
	ts.authorize(codeRequest()).is(t, http.StatusOK, "Allow access?")
	ts.server.users.hashes["alice"] = []byte(bcryptHash(t, "another password"))
	ts.authorize(codeRequest()).is(t, http.StatusOK, "Sign in")
	delete(ts.server.users.hashes, "alice")
	ts.authorize(codeRequest()).is(t, http.StatusOK, "Sign in")
}

func TestDemoIsForThisMachineAlone(t *testing.T) {
	t.Parallel()
	if _, err := parseConfig([]string{"-issuer", "https://as.example"}, environment(), io.Discard); err == nil || !strings.Contains(err.Error(), "-clients and -users") {
		t.Errorf("a public demo: %v", err)
	}
	for _, args := range [][]string{nil, {"-issuer", "http://localhost:9096"}, {"-issuer", "https://as.example", "-clients", "c", "-users", "u"}} {
		if _, err := parseConfig(args, environment(), io.Discard); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestUsersFileWithHashesThatTellUsersApartIsRefused(t *testing.T) {
	t.Parallel()
	cheap, dear := bcryptHash(t, "a"), ""
	if hash, err := bcrypt.GenerateFromPassword([]byte("b"), bcrypt.MinCost+1); err != nil {
		t.Fatal(err)
	} else {
		dear = string(hash)
	}
	for text, want := range map[string]string{
		fmt.Sprintf(`{"a": %q, "b": %q}`, cheap, dear):              "give all of them the same",
		fmt.Sprintf(`{"a": %q}`, cheap[:7]+strings.Repeat("!", 53)): "expected a bcrypt hash",
	} {
		if _, err := parseUsersText(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := parseUsersText(fmt.Sprintf(`{"a": %q, "b": %q}`, cheap, bcryptHash(t, "c"))); err != nil {
		t.Errorf("hashes of one cost: %v", err)
	}
}

func TestDecisionWithManyValuesIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	form := url.Values{fieldRequest: {"a=b"}, fieldTicket: {"t"}, fieldDecision: {decisionApprove}}
	for i := range maxValues + 1 {
		if _, err := parseDecision(form); err != nil {
			t.Fatalf("%d values: %v", i, err)
		}
		form.Add(fieldScope, fmt.Sprint(i))
	}
	if _, err := parseDecision(form); err == nil {
		t.Error("more values than any page has")
	}
}

func TestRequestsThatCouldNotBeAnsweredAreRefusedBeforeConsent(t *testing.T) {
	ts := newTestServer(t)
	ts.signIn(ts.authorize(codeRequest()), "alice")
	for name, c := range map[string]struct {
		params url.Values
		want   string
	}{
		"a form for an app's own scheme": {codeRequest("client_id", "app", "redirect_uri", "com.example.app:/cb", "scope", "openid photos.read", "audience", "",
			"response_mode", "form_post"), "error=unsupported_response_mode"},
	} {
		a := ts.authorize(c.params)
		if location := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || !strings.Contains(location, c.want) {
			t.Errorf("%s: %s to %q", name, a.Status, location)
		}
	}
}

func TestTokenEndpointsSayHowToAuthenticate(t *testing.T) {
	ts := newTestServer(t)
	for _, path := range []string{pathToken, pathIntrospect} {
		r := ts.request(http.MethodPost, path, url.Values{"grant_type": {"client_credentials"}, "token": {"x"}})
		r.SetBasicAuth("web", "a wrong secret")
		if a := ts.do(r); a.StatusCode != http.StatusUnauthorized || a.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %s, %q", path, a.Status, a.Header.Get("WWW-Authenticate"))
		}
	}
	r := ts.request(http.MethodPost, pathToken, url.Values{"grant_type": {"client_credentials"}, "pad": {strings.Repeat("x", maxTokenRequest)}})
	r.SetBasicAuth("web", "web-secret-0123456789")
	if a := ts.do(r); a.StatusCode < 400 {
		t.Errorf("a body of more than %d bytes: %s", maxTokenRequest, a.Status)
	}
}

func TestUserinfoIsAboutAUser(t *testing.T) {
	ts := newTestServer(t)
	r := ts.request(http.MethodPost, pathToken, url.Values{"grant_type": {"client_credentials"}, "scope": {"openid profile"}})
	r.SetBasicAuth("web", "web-secret-0123456789")
	a := ts.do(r)
	_, token, _ := strings.Cut(a.body, `"access_token":"`)
	token, _, found := strings.Cut(token, `"`)
	if a.StatusCode != http.StatusOK || !found {
		t.Fatalf("%s: %s", a.Status, a.body)
	}
	r = ts.request(http.MethodGet, pathUserinfo, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	if a := ts.do(r); a.StatusCode != http.StatusForbidden {
		t.Errorf("%s: %s", a.Status, a.body)
	}
}
