// Package readme holds the code of README.md, so that it compiles and runs.
package readme

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html"
	"html/template"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// The server that the README's reader has.
type server struct {
	provider fosite.OAuth2Provider
	gate     *fositeconsent.Gate
}

const issuer = "https://as.example"

// login is what the reader's server knows of who is signed in.
type login struct {
	id, subject string
	at          time.Time
}

type loginKey struct{}

func loginOf(ctx context.Context) login {
	l, _ := ctx.Value(loginKey{}).(login)
	return l
}

func openStore(ctx context.Context, pool *pgxpool.Pool) (*pgstore.Store, error) {
	// README: store
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		return nil, err
	}
	store, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		return nil, err
	}
	// README: end
	return store, nil
}

func newServer(store fositeconsent.GrantStorage, config *fosite.Config, fositeStore, strategy any) (*server, error) {
	// README: construct
	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{
		Issuer: issuer,
		LoginSession: func(ctx context.Context, _ fosite.Session) (string, error) {
			return loginOf(ctx).id, nil // yours: new with each sign-in; none refuses
		},
		OnEvent: func(ctx context.Context, e fositeconsent.Event) {
			slog.InfoContext(ctx, "consent", "gate", e) // who, which client, what, and why not: the client is told next to nothing
		},
	})
	if err != nil {
		return nil, err
	}
	provider := compose.Compose(config, fositeStore, strategy,
		gate.Factory, // first, before everything that issues
		compose.OAuth2AuthorizeExplicitFactory,
		compose.OpenIDConnectExplicitFactory,
		compose.OAuth2PKCEFactory,
		// … and whatever else you compose: refresh tokens, introspection, …
	)
	provider, err = gate.Protect(provider) // fails if the gate is missing or not first
	if err != nil {
		return nil, err
	}
	// README: end
	return &server{provider: provider, gate: gate}, nil
}

// newRememberingServer is newServer with the edits of 7.
func newRememberingServer(store *pgstore.Store, config *fosite.Config, fositeStore, strategy any) (*server, error) {
	// README: remember
	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{
		Issuer:    issuer, // and the rest of 2
		Consents:  store,  // the pgstore.Store keeps both
		Decisions: store,  // and a record of everything that was decided
		DescribeClient: func(_ context.Context, client fosite.Client) ([]string, error) {
			return []string{client.GetID()}, nil // whatever your page shows of it: name, logo, policy, …
		},
	})
	// README: end
	if err != nil {
		return nil, err
	}
	provider := compose.Compose(config, fositeStore, strategy, gate.Factory,
		compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2RefreshTokenGrantFactory, compose.OpenIDConnectExplicitFactory, compose.OAuth2PKCEFactory)
	provider, err = gate.Protect(provider)
	if err != nil {
		return nil, err
	}
	return &server{provider: provider, gate: gate}, nil
}

func openServer(ctx context.Context, pool *pgxpool.Pool, store *pgstore.Store, config *fosite.Config, strategy any,
	getClient func(context.Context, string) (fosite.Client, error),
) (*server, error) {
	// README: transaction
	fositeStore, err := fositestore.New(pool, fositestore.Config{ // the pool of pgstore.New
		NewSession: func() fosite.Session { return openid.NewDefaultSession() }, // of the type that you use
		GetClient:  getClient,                                                   // yours; without it, clients are in a table
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(store.CheckSchema(ctx), fositeStore.CheckSchema(ctx)); err != nil {
		return nil, err
	}
	s, err := newServer(store, config, fositeStore, strategy) // as in 2
	if err != nil {
		return nil, err
	}
	client, err := getClient(ctx, "app") // any client of yours
	if err != nil {
		return nil, err
	}
	if err := s.gate.Check(ctx, client, newSession(login{subject: "start-up"})); err != nil { // is it one transaction?
		return nil, err
	}
	grants, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{})
	if err != nil {
		return nil, err
	}
	others, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{}) // codes, tokens, pushed requests, JWT IDs
	if err != nil {
		return nil, err
	}
	go func() { _ = grants.Run(ctx) }() // until ctx ends: the server's, not that of its start
	go func() { _ = others.Run(ctx) }()
	// README: end
	return s, nil
}

// README: authorize
func (s *server) authorize(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The request could not be read.", http.StatusBadRequest)
		return
	}
	params := r.Form.Encode() // before fosite merges a request object into them
	ar, err := s.provider.NewAuthorizeRequest(ctx, r)
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, ar, err)
		return
	}
	session := newSession(loginOf(ctx)) // who is signed in, as before; if nobody is: your sign-in page, and back here with params
	resp, err := s.provider.NewAuthorizeResponse(ctx, ar, session)
	if fositeconsent.NeedsConsent(err) {
		prompt, err := s.gate.Prompt(ctx, ar, session)
		if err != nil {
			s.provider.WriteAuthorizeError(ctx, w, ar, err)
			return
		}
		s.consentPage(w, prompt, params) // shows the prompt; its form carries prompt.Ticket and params
		return
	}
	s.answer(ctx, w, ar, resp, err)
}

// README: end

// README: decide
func (s *server) decide(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	// The request that the page was for, and nothing of the form besides it: the
	// ticket knows whether it is the one that was shown.
	params, ticket := r.PostFormValue("params"), r.PostFormValue("ticket")
	original := &http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: params}}
	ar, err := s.provider.NewAuthorizeRequest(ctx, original)
	if err != nil {
		s.answer(ctx, w, ar, nil, err)
		return
	}
	decision := r.PostForm["decision"]
	if len(decision) != 1 {
		http.Error(w, "This form was changed.", http.StatusBadRequest)
		return
	}
	if decision[0] == "approve" && len(r.PostForm["scope"]) == 0 && len(ar.GetRequestedScopes()) > 0 { // nothing was ticked
		http.Redirect(w, r, "/oauth2/auth?"+params, http.StatusSeeOther)
		return
	}
	session := newSession(loginOf(ctx)) // if nobody is signed in any more: back to /oauth2/auth?params, too

	var resp fosite.AuthorizeResponder
	switch decision[0] {
	case "approve":
		resp, err = s.provider.NewAuthorizeResponse(fositeconsent.WithDecision(ctx, ticket, fositeconsent.Decision{
			Scopes:   r.PostForm["scope"], // what was ticked
			Audience: ar.GetRequestedAudience(),
		}), ar, session)
	case "deny":
		if err = s.gate.Deny(ctx, ar, session, ticket); err == nil {
			err = fosite.ErrAccessDenied
		}
	default:
		http.Error(w, "This form was changed.", http.StatusBadRequest)
		return
	}
	if fositeconsent.NeedsConsent(err) { // a double click, the back button, a changed form: ask again
		http.Redirect(w, r, "/oauth2/auth?"+params, http.StatusSeeOther)
		return
	}
	s.answer(ctx, w, ar, resp, err)
}

func (s *server) answer(ctx context.Context, w http.ResponseWriter, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder, err error) {
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, ar, err)
		return
	}
	s.provider.WriteAuthorizeResponse(ctx, w, ar, resp)
}

// README: end

// README: forget
func remember(form url.Values) *fositeconsent.Remember {
	if form.Get("remember") != "on" { // a checkbox of your page, off by default
		return nil
	}
	return &fositeconsent.Remember{
		Lifespan: 30 * 24 * time.Hour, // refresh tokens end then, too; zero: until it is revoked
		// OfflineAccess: true has the scopes for refresh tokens (offline_access, offline) remembered as well, if
		// your page says so. Without it, whoever asks for one of them is asked every time.
	}
}

// applications is a page on which users see what they have allowed, and take it back.
func (s *server) applications(w http.ResponseWriter, r *http.Request) {
	ctx, subject := r.Context(), loginOf(r.Context()).subject
	if subject == "" {
		http.Error(w, "Sign in first.", http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodPost { // behind your protection against cross-site requests
		client := r.PostFormValue("client_id")
		if client == "" { // without it, every client would be meant
			http.Error(w, "Which application?", http.StatusBadRequest)
			return
		}
		if _, err := s.gate.Revoke(ctx, fositeconsent.Selection{Subject: subject, ClientID: client}); err != nil {
			http.Error(w, "This may not be done yet. Please try again.", http.StatusInternalServerError)
			return
		}
		http.Redirect(w, r, r.URL.Path, http.StatusSeeOther)
		return
	}
	consents, err := s.gate.ListConsents(ctx, fositeconsent.Selection{Subject: subject}, fositeconsent.ID{}, 50)
	if err != nil {
		slog.ErrorContext(ctx, "list consents", "error", err)
		http.Error(w, "Please try again.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "frame-ancestors 'none'") // nobody else's page around your button
	_ = applicationsPage.Execute(w, consents)                           // yours, with a form for each ClientID
}

// README: end

var applicationsPage = template.Must(template.New("").Parse(`{{range .}}{{.ClientID}} {{.Scopes}};{{end}}`))

// README: session
func newSession(l login) *openid.DefaultSession {
	return &openid.DefaultSession{
		Subject: l.subject,
		Claims: &jwt.IDTokenClaims{
			Subject:     l.subject,        // fosite does not copy it
			AuthTime:    l.at,             // of the sign-in, for max_age and prompt=login
			RequestedAt: time.Now().UTC(), // after a sign-in for this very request: when that first came
		},
		Headers: &jwt.Headers{},
	}
}

// README: end

var consentTemplate = template.Must(template.New("consent").Parse(
	// README: page
	`<p>{{.Prompt.Client.GetID}} asks {{.Prompt.Subject}} for {{.Prompt.Scopes}} at {{.Prompt.Audience}}. You go on to {{.Prompt.RedirectURI}}.</p>
<form method="post" action="/consent">
  <input type="hidden" name="ticket" value="{{.Prompt.Ticket}}">
  <input type="hidden" name="params" value="{{.Params}}">
  {{range .Prompt.RequiredScopes}}<input type="hidden" name="scope" value="{{.}}">{{end}}
  {{range .Optional}}<label><input type="checkbox" name="scope" value="{{.}}" checked> {{.}}</label>{{end}}
  <button name="decision" value="approve">Allow</button>
  <button name="decision" value="deny">Deny</button>
</form>`,
	// README: end
))

// README: consentpage
func (s *server) consentPage(w http.ResponseWriter, prompt *fositeconsent.Prompt, params string) {
	h := w.Header() // no other site may show this page in a frame and have it clicked; RFC 9700, Section 4.16
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Type", "text/html; charset=utf-8")
	var optional []string
	for _, scope := range prompt.Scopes {
		if !slices.Contains(prompt.RequiredScopes, scope) {
			optional = append(optional, scope)
		}
	}
	_ = consentTemplate.Execute(w, map[string]any{"Prompt": prompt, "Params": params, "Optional": optional})
}

// README: end

// field is the value of a hidden field of the page.
func field(page *httptest.ResponseRecorder, name string) string {
	match := regexp.MustCompile(`name="` + name + `" value="(.*?)"`).FindStringSubmatch(page.Body.String())
	if match == nil {
		return ""
	}
	return html.UnescapeString(match[1])
}

func TestMain(m *testing.M) { pgtest.Main(m) }

// readmeConfig has what the README tells its reader to set.
func readmeConfig() *fosite.Config {
	return &fosite.Config{
		GlobalSecret: []byte("a global secret of at least 32 bytes"), IDTokenIssuer: issuer, EnforcePKCE: true,
		ScopeStrategy: fosite.ExactScopeStrategy,
	}
}

func newStrategy(t *testing.T, config *fosite.Config) any {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	getKey := func(context.Context) (any, error) { return key, nil }
	return &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(getKey, config),
		Signer:                     &jwt.DefaultSigner{GetPrivateKey: getKey},
	}
}

func readmeClient() *fosite.DefaultClient {
	return &fosite.DefaultClient{
		ID: "app", Public: true, RedirectURIs: []string{"https://app.example/cb"}, ResponseTypes: []string{"code"},
		GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "photos", "contacts"},
	}
}

// TestReadmeServer runs edits 1 to 5, with a storage that has no transactions.
func TestReadmeServer(t *testing.T) {
	t.Parallel()
	config := readmeConfig()
	fositeStore := storage.NewMemoryStore()
	fositeStore.Clients["app"] = readmeClient()
	store, err := openStore(t.Context(), pgtest.Pool(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(store, config, fositeStore, newStrategy(t, config))
	if err != nil {
		t.Fatal(err)
	}
	tryServer(t, s, func() int { return len(fositeStore.AuthorizeCodes) })
}

// TestReadmeTransaction runs edit 6.
func TestReadmeTransaction(t *testing.T) {
	t.Parallel()
	config, pool := readmeConfig(), pgtest.Pool(t)
	store, err := openStore(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	getClient := func(_ context.Context, id string) (fosite.Client, error) {
		if id != "app" {
			return nil, fosite.ErrNotFound
		}
		return readmeClient(), nil
	}
	s, err := openServer(t.Context(), pool, store, config, newStrategy(t, config), getClient)
	if err != nil {
		t.Fatal(err)
	}
	tryServer(t, s, func() (codes int) {
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM consent_codes").Scan(&codes); err != nil {
			t.Fatal(err)
		}
		return codes
	})

	// A code that cannot be stored leaves the page good.
	page := s.ask()
	if _, err := pool.Exec(t.Context(), "ALTER TABLE consent_codes ADD CONSTRAINT nothing CHECK (false) NOT VALID"); err != nil {
		t.Fatal(err)
	}
	approval := url.Values{"params": {field(page, "params")}, "ticket": {field(page, "ticket")}, "decision": {"approve"}, "scope": {"openid"}}
	if u := leads(t, post(s.decide, "/consent", approval)); u.Query().Get("error") != "server_error" {
		t.Errorf("a code that cannot be stored leads to %s", u)
	}
	if _, err := pool.Exec(t.Context(), "ALTER TABLE consent_codes DROP CONSTRAINT nothing"); err != nil {
		t.Fatal(err)
	}
	if u := leads(t, post(s.decide, "/consent", approval)); u.Query().Get("code") == "" {
		t.Errorf("the same page, sent again, leads to %s", u)
	}
}

// TestReadmeRemember runs edit 7.
func TestReadmeRemember(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	config, pool := readmeConfig(), pgtest.Pool(t)
	store, err := openStore(ctx, pool)
	if err != nil {
		t.Fatal(err)
	}
	fositeStore, err := fositestore.New(pool, fositestore.Config{
		NewSession: func() fosite.Session { return openid.NewDefaultSession() },
		GetClient:  func(context.Context, string) (fosite.Client, error) { return readmeClient(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newRememberingServer(store, config, fositeStore, newStrategy(t, config))
	if err != nil {
		t.Fatal(err)
	}
	peter := login{"login 1", "peter", time.Now().UTC().Add(-time.Minute)}
	respond := func(decide func(ar fosite.AuthorizeRequester) context.Context) (string, error) {
		ar, err := s.provider.NewAuthorizeRequest(ctx, httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+readmeRequest().Encode(), nil))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.provider.NewAuthorizeResponse(decide(ar), ar, newSession(peter))
		if err != nil {
			return "", err
		}
		return resp.GetCode(), nil
	}
	silently := func(fosite.AuthorizeRequester) context.Context { return ctx }
	approve := func(form url.Values) func(ar fosite.AuthorizeRequester) context.Context {
		return func(ar fosite.AuthorizeRequester) context.Context {
			prompt, err := s.gate.Prompt(ctx, ar, newSession(peter))
			if err != nil {
				t.Fatal(err)
			}
			return fositeconsent.WithDecision(ctx, prompt.Ticket, fositeconsent.Decision{Scopes: prompt.Scopes, Remember: remember(form)})
		}
	}

	if _, err := respond(approve(url.Values{})); err != nil {
		t.Fatal(err)
	}
	if _, err := respond(silently); !fositeconsent.NeedsConsent(err) {
		t.Fatalf("nothing was remembered, and a silent request got %v", err)
	}
	if _, err := respond(approve(url.Values{"remember": {"on"}})); err != nil {
		t.Fatal(err)
	}
	code, err := respond(silently)
	if err != nil {
		t.Fatalf("after a remembered approval a silent request got %+v", err)
	}
	exchange(t, s, code)
	last, err := respond(silently)
	if err != nil {
		t.Fatal(err)
	}

	if w := do(s.applications, httptest.NewRequest(http.MethodGet, "/applications", nil), "login 1"); !strings.Contains(w.Body.String(), "app [openid photos contacts]") {
		t.Errorf("the page shows %d %s", w.Code, w.Body)
	}
	for _, r := range []*http.Request{httptest.NewRequest(http.MethodGet, "/applications", nil), postRequest("/applications", url.Values{"client_id": {"app"}})} {
		w := httptest.NewRecorder()
		s.applications(w, r) // of nobody, who would be everybody
		if w.Code != http.StatusUnauthorized {
			t.Errorf("%s without a login: %d", r.Method, w.Code)
		}
	}
	if w := post(s.applications, "/applications", url.Values{}); w.Code != http.StatusBadRequest {
		t.Errorf("a revocation of nothing in particular: %d", w.Code)
	}
	if u := leads(t, post(s.applications, "/applications", url.Values{"client_id": {"app"}})); u.Path != "/applications" {
		t.Errorf("a revocation leads to %s", u)
	}
	if w := do(s.applications, httptest.NewRequest(http.MethodGet, "/applications", nil), "login 1"); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "app") {
		t.Errorf("after the revocation the page shows %d %s", w.Code, w.Body)
	}
	if _, err := respond(silently); !fositeconsent.NeedsConsent(err) {
		t.Errorf("after the revocation a silent request got %v", err)
	}
	if _, err := s.provider.NewAccessRequest(ctx, exchangeRequest(last), openid.NewDefaultSession()); err == nil {
		t.Error("a code outlived the revocation")
	}
	var live int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM consent_access_tokens WHERE ended_at IS NULL").Scan(&live); err != nil || live != 0 {
		t.Errorf("%d access tokens outlived the revocation (%v)", live, err)
	}
}

const verifier = "a-code-verifier-that-has-its-forty-three-characters"

func readmeRequest() url.Values {
	challenge := sha256.Sum256([]byte(verifier))
	return url.Values{
		"client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"}, "scope": {"openid photos contacts"}, "state": {"0123456789"}, "nonce": {"9876543210"},
		"max_age": {"3600"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}
}

// do has a handler answer a request of somebody who is signed in.
func do(handler http.HandlerFunc, r *http.Request, id string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler(w, r.WithContext(context.WithValue(r.Context(), loginKey{}, login{id, "peter", time.Now().UTC().Add(-time.Minute)})))
	return w
}

func (s *server) ask() *httptest.ResponseRecorder {
	return do(s.authorize, httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+readmeRequest().Encode(), nil), "login 1")
}

func postRequest(target string, form url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func post(handler http.HandlerFunc, target string, form url.Values) *httptest.ResponseRecorder {
	return do(handler, postRequest(target, form), "login 1")
}

// leads is where the browser is sent to.
func leads(t *testing.T, w *httptest.ResponseRecorder) *url.URL {
	t.Helper()
	location, err := w.Result().Location()
	if err != nil {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return location
}

func tryServer(t *testing.T, s *server, codes func() int) {
	t.Helper()
	for name, ask := range map[string]func() *httptest.ResponseRecorder{
		"by GET":  s.ask,
		"by POST": func() *httptest.ResponseRecorder { return post(s.authorize, "/oauth2/auth", readmeRequest()) },
	} {
		before := codes()
		page := ask()
		if field(page, "ticket") == "" || codes() != before {
			t.Fatalf("%s: there is no consent page: %d %s", name, page.Code, page.Body)
		}
		if h := page.Header(); !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: the headers of the page are %v", name, h)
		}
		params := field(page, "params")
		form := func(params string, decision ...string) url.Values {
			return url.Values{"params": {params}, "ticket": {field(page, "ticket")}, "decision": decision, "scope": {"openid", "photos"}}
		}
		send := func(params string, decision ...string) *httptest.ResponseRecorder {
			return post(s.decide, "/consent", form(params, decision...))
		}
		for _, decision := range [][]string{nil, {""}, {"Approve"}, {"approve", "approve"}, {"approve", "deny"}} {
			if w := send(params, decision...); w.Code != http.StatusBadRequest {
				t.Errorf("%s: decision %q: %d", name, decision, w.Code)
			}
		}
		if w := send(strings.Replace(params, "client_id=app", "client_id=other", 1), "approve"); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "invalid_client") {
			t.Errorf("%s: a request of nobody is answered with %d %s", name, w.Code, w.Body)
		}
		if u := leads(t, send(strings.Replace(params, "photos+contacts", "photos", 1), "approve")); u.Path != "/oauth2/auth" {
			t.Errorf("%s: another request than the one shown leads to %s", name, u)
		}
		if u := leads(t, do(s.decide, postRequest("/consent", form(params, "approve")), "login 2")); u.Path != "/oauth2/auth" {
			t.Errorf("%s: the page of another login leads to %s", name, u)
		}
		nothing := form(params, "approve")
		nothing.Del("scope")
		if u := leads(t, post(s.decide, "/consent", nothing)); u.Path != "/oauth2/auth" {
			t.Errorf("%s: an approval of nothing leads to %s", name, u)
		}
		u := leads(t, send(params, "approve"))
		if u.Query().Get("code") == "" || u.Query().Get("scope") != "openid photos" {
			t.Fatalf("%s: an approval leads to %s", name, u)
		}
		for _, decision := range []string{"approve", "deny"} {
			if u := leads(t, send(params, decision)); u.Path != "/oauth2/auth" || u.Query().Encode() != readmeRequest().Encode() {
				t.Errorf("%s: a second answer leads to %s", name, u)
			}
		}
		if codes() != before+1 {
			t.Errorf("%s: %d codes were issued", name, codes()-before)
		}
		exchange(t, s, u.Query().Get("code"))
	}
	page := s.ask()
	w := post(s.decide, "/consent", url.Values{"params": {field(page, "params")}, "ticket": {field(page, "ticket")}, "decision": {"deny"}})
	if u := leads(t, w); u.Query().Get("error") != "access_denied" || u.Query().Get("state") != "0123456789" {
		t.Errorf("a denial leads to %s", u)
	}
}

func exchangeRequest(code string) *http.Request {
	return postRequest("/oauth2/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}, "code": {code}, "code_verifier": {verifier},
	})
}

// exchange redeems a code, for an ID token among others.
func exchange(t *testing.T, s *server, code string) {
	t.Helper()
	request, err := s.provider.NewAccessRequest(t.Context(), exchangeRequest(code), openid.NewDefaultSession())
	if err != nil {
		t.Fatalf("the code: %+v", err)
	}
	response, err := s.provider.NewAccessResponse(t.Context(), request)
	if err != nil {
		t.Fatalf("the code: %+v", err)
	}
	idToken, _ := response.GetExtra("id_token").(string)
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		t.Fatalf("the ID token is %q", idToken)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(claims), `"sub":"peter"`) || !strings.Contains(string(claims), `"auth_time":`) {
		t.Errorf("the ID token has %s, %v", claims, err)
	}
}

// The README's blocks of Go are the marked parts of this file, to the letter.
func TestReadmeShowsThisCode(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?s)\n(\t*)// README: \w+\n(.*?)\n\t*// README: end\n`).FindAllStringSubmatch(string(source), -1)
	if len(parts) != 10 {
		t.Fatalf("%d marked parts", len(parts))
	}
	imports := regexp.MustCompile(`(?m)^    \t("github\.com/[^"]+")`).FindAllStringSubmatch(string(readme), -1)
	for _, path := range imports {
		if !strings.Contains(string(source), "\t"+path[1]+"\n") {
			t.Errorf("README.md imports %s, and its code does not", path[1])
		}
	}
	if len(imports) < 5 {
		t.Errorf("README.md imports %v", imports)
	}
	shown := strings.Count(string(readme), "```go\n")
	for _, part := range parts {
		code := strings.TrimSpace(regexp.MustCompile(`(?m)^`+part[1]).ReplaceAllString(part[2], ""))
		block := "```go\n" + code + "\n```"
		if page, isPage := strings.CutPrefix(code, "`"); isPage {
			block = "```html\n" + strings.TrimSuffix(page, "`,") + "\n```"
			shown++
		}
		if !strings.Contains(string(readme), block) {
			t.Errorf("README.md does not show:\n%s", code)
		}
	}
	if shown != len(parts) {
		t.Errorf("README.md has %d blocks of Go, of which %d run", shown, len(parts))
	}
	// And the statement that it shows is the one that runs.
	store, err := os.ReadFile("pgstore/store.go")
	if err != nil {
		t.Fatal(err)
	}
	var statement string
	for _, name := range []string{"consumeSQL", "outcomeSQL"} {
		sql := regexp.MustCompile("(?s)const " + name + " = `(.*?)`").FindStringSubmatch(string(store))
		if sql == nil {
			t.Fatal("pgstore/store.go has no " + name)
		}
		statement += sql[1]
	}
	want := strings.NewReplacer("%[1]s", `"public"."consent_grants"`, "%[2]s", "EXISTS (SELECT FROM spent)").Replace(statement)
	if !strings.Contains(string(readme), "```sql"+want+"\n```") {
		t.Errorf("README.md does not show the statement:\n%s", want)
	}
}
