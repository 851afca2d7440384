package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2/memstore"
	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// These tests drive the handlers on storages in memory. The whole program on
// PostgreSQL, real clients and a real browser are in the folder integration.

var testSigningKey = sync.OnceValue(func() *jose.JSONWebKey {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}
	key, err := parseSigningKey(der)
	if err != nil {
		panic(err)
	}
	return key
})

// testSigningKeys are keys that never grow old, of no database.
func testSigningKeys() *signingKeys {
	k := newSigningKeys(nil, time.Hour, slog.New(slog.DiscardHandler))
	now := time.Now()
	k.now = func() time.Time { return now }
	k.state.Store(&keyState{keys: []signingKey{{testSigningKey(), now}}, asOf: now, read: now})
	return k
}

const testClients = `[
	{"client_id": "web", "client_secret": "web-secret-0123456789", "client_name": "<b>Photo & Book</b>",
	 "client_uri": "https://photos.example", "logo_uri": "https://cdn.photos.example/logo.png", "policy_uri": "https://photos.example/privacy", "tos_uri": "https://photos.example/terms",
	 "redirect_uris": ["https://photos.example/cb", "https://photos.example/other"],
	 "grant_types": ["authorization_code", "refresh_token", "implicit", "client_credentials"],
	 "response_types": ["code", "token", "id_token", "id_token token", "code id_token", "code token", "code id_token token"],
	 "scope": "openid profile photos.read photos.write offline_access", "audience": ["https://api.example", "https://other.example"]},
	{"client_id": "app", "token_endpoint_auth_method": "none", "redirect_uris": ["com.example.app:/cb"], "scope": "openid photos.read"}
]`

// testServer is a running server and a browser in front of it.
type testServer struct {
	t        *testing.T
	server   *server
	consents *consenttest.Storage
	later    *atomic.Int64 // how far its clock is ahead
	url      string
	log      *syncBuffer
	events   *eventLog
	*browser
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type eventLog struct {
	mu   sync.Mutex
	list []fositeconsent.Event
}

func (l *eventLog) add(_ context.Context, e fositeconsent.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

// count returns how many events there are of the action with the reason.
func (l *eventLog) count(action fositeconsent.Action, reason string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.list {
		if e.Action == action && e.Reason == reason {
			n++
		}
	}
	return n
}

// memoryStorage is fosite's storage in memory, from which can be taken back what was issued.
type memoryStorage struct{ *storage.MemoryStore }

func (m memoryStorage) RevokeRequests(ctx context.Context, requestIDs []string) error {
	for _, id := range requestIDs {
		for signature, code := range m.AuthorizeCodes {
			if code.GetID() != id {
				continue
			}
			if err := m.InvalidateAuthorizeCodeSession(ctx, signature); err != nil {
				return err
			}
		}
		if err := errors.Join(m.RevokeRefreshToken(ctx, id), m.RevokeAccessToken(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

func newTestServer(t *testing.T, change ...func(*server, *providerConfig)) *testServer {
	t.Helper()
	clients, err := parseClientsText(t, testClients)
	if err != nil {
		t.Fatal(err)
	}
	hash := []byte(bcryptHash(t, "wonderland"))
	accounts, err := newUsers(map[string][]byte{"alice": hash, "bob": hash})
	if err != nil {
		t.Fatal(err)
	}
	log, events := &syncBuffer{}, &eventLog{}
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	front := httptest.NewUnstartedServer(nil)
	s := &server{
		config: config{requestTimeout: 10 * time.Second}, issuer: "http://" + front.Listener.Addr().String(), log: logger,
		keys: &keys{secret: bytes.Repeat([]byte{7}, 32), signing: testSigningKeys()}, users: accounts, clients: map[string]*client{},
		ready: func(context.Context) error { return nil },
	}
	memory := memoryStorage{storage.NewMemoryStore()}
	later := new(atomic.Int64)
	consents := consenttest.NewStorage(func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	logEvent := logEvents(logger)
	c := providerConfig{
		issuer: s.issuer, keys: s.keys, storage: memory, grants: consents, consents: consents, decisions: consents, grantLifespan: time.Minute,
		onEvent: func(ctx context.Context, e fositeconsent.Event) { logEvent(ctx, e); events.add(ctx, e) },
	}
	for _, client := range clients {
		s.clients[client.ID] = client
	}
	for _, f := range change {
		f(s, &c)
	}
	c.issuer = s.issuer
	if s.sessions == nil {
		s.sessions = newSessions(memstore.NewWithCleanupInterval(0), "session", isHTTPS(s.issuer))
	}
	for id, client := range s.clients {
		memory.Clients[id] = client
	}
	if s.provider, s.gate, s.fositeConfig, err = newProvider(c); err != nil {
		t.Fatal(err)
	}
	if front.Config.Handler, err = s.handler(); err != nil {
		t.Fatal(err)
	}
	front.Start()
	t.Cleanup(front.Close)
	return &testServer{t: t, server: s, consents: consents, later: later, url: front.URL, log: log, events: events, browser: newBrowser(t, front.URL)}
}

// browser keeps cookies and follows redirects by hand.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, base, &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is a response that was read.
type answer struct {
	*http.Response
	body string
}

func (b *browser) do(r *http.Request) answer {
	b.t.Helper()
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp, string(body)}
}

func (b *browser) request(method, path string, form url.Values) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func (b *browser) get(path string) answer {
	b.t.Helper()
	return b.do(b.request(http.MethodGet, path, nil))
}

func (b *browser) post(path string, form url.Values) answer {
	b.t.Helper()
	return b.do(b.request(http.MethodPost, path, form))
}

// authorize sends an authorization request.
func (b *browser) authorize(params url.Values) answer {
	b.t.Helper()
	return b.get(pathAuthorize + "?" + params.Encode())
}

var (
	hiddenField   = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
	checkboxField = regexp.MustCompile(`<input type="checkbox" id="[^"]*" name="([^"]*)" value="([^"]*)" checked`)
)

// form returns what the browser would send with the decision, besides the button.
func (a answer) form() url.Values {
	_, decision, found := strings.Cut(a.body, `id="decision"`)
	if !found {
		decision = a.body
	}
	form := url.Values{}
	for _, m := range append(hiddenField.FindAllStringSubmatch(decision, -1), checkboxField.FindAllStringSubmatch(decision, -1)...) {
		form.Add(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return form
}

func (a answer) is(t *testing.T, status int, title string) {
	t.Helper()
	if m := titlePattern.FindStringSubmatch(a.body); a.StatusCode != status || m == nil || html.UnescapeString(m[1]) != title {
		t.Fatalf("got %s to %q with %v, want %d and the page %q", a.Status, a.Header.Get("Location"), m, status, title)
	}
}

// toClient returns the parameters that the browser takes to the client.
func (a answer) toClient(t *testing.T) url.Values {
	t.Helper()
	location, err := url.Parse(a.Header.Get("Location"))
	if err != nil || a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(location.String(), "https://photos.example/cb") {
		t.Fatalf("got %s to %q, want a redirect to the client:\n%s", a.Status, a.Header.Get("Location"), a.body)
	}
	params, err := url.ParseQuery(location.RawQuery + location.Fragment)
	if err != nil {
		t.Fatal(err)
	}
	return params
}

// signIn fills in the login page's form and returns what comes after it.
func (b *browser) signIn(page answer, user string) answer {
	b.t.Helper()
	page.is(b.t, http.StatusOK, "Sign in")
	form := page.form()
	form.Set("username", user)
	form.Set("password", "wonderland")
	return b.follow(b.post(pathLogin, form))
}

// follow goes where a redirect of ours leads.
func (b *browser) follow(a answer) answer {
	b.t.Helper()
	location := a.Header.Get("Location")
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(location, "/") || strings.HasPrefix(location, "//") {
		b.t.Fatalf("got %s to %q, want a redirect of ours:\n%s", a.Status, location, a.body)
	}
	return b.get(location)
}

func with(form url.Values, pairs ...string) url.Values {
	out := url.Values{}
	for name, values := range form {
		out[name] = slices.Clone(values)
	}
	for i := 0; i < len(pairs); i += 2 {
		out.Set(pairs[i], pairs[i+1])
	}
	return out
}

const testVerifier = "0123456789-0123456789-0123456789-0123456789"

func challenge() string {
	sum := sha256.Sum256([]byte(testVerifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// codeRequest is an authorization request of the client web.
func codeRequest(pairs ...string) url.Values {
	return with(url.Values{
		"client_id": {"web"}, "response_type": {"code"}, "redirect_uri": {"https://photos.example/cb"},
		"scope": {"openid photos.read offline_access"}, "audience": {"https://api.example"},
		"state": {"state-0123456789"}, "nonce": {"nonce-0123456789"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}, pairs...)
}

func approve(form url.Values) url.Values { return with(form, fieldDecision, decisionApprove) }
func deny(form url.Values) url.Values    { return with(form, fieldDecision, decisionDeny) }

func TestCodeFlowIssuesWhatWasApproved(t *testing.T) {
	ts := newTestServer(t)
	consent := ts.signIn(ts.authorize(codeRequest()), "alice")
	consent.is(t, http.StatusOK, "Allow access?")
	form := consent.form()
	if want := []string{"openid", "photos.read", "offline_access"}; !slices.Equal(form[fieldScope], want) {
		t.Errorf("scopes on the page: %q, want %q", form[fieldScope], want)
	}
	form[fieldScope] = []string{"openid", "offline_access"} // photos.read unticked
	delete(form, fieldAudience)
	params := ts.post(pathConsent, approve(form)).toClient(t)
	if params.Get("state") != "state-0123456789" || params.Get("scope") != "openid offline_access" {
		t.Errorf("the client gets %v", params)
	}

	token := func(form url.Values) map[string]any {
		t.Helper()
		r := ts.request(http.MethodPost, pathToken, form)
		r.SetBasicAuth("web", "web-secret-0123456789")
		a := ts.do(r)
		var out map[string]any
		if err := json.Unmarshal([]byte(a.body), &out); err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", a.Status, a.body)
		}
		return out
	}
	tokens := token(url.Values{"grant_type": {grantCode}, "code": params["code"], "redirect_uri": {"https://photos.example/cb"}, "code_verifier": {testVerifier}})
	if tokens["scope"] != "openid offline_access" {
		t.Errorf("tokens: %v", tokens)
	}
	idToken, _ := tokens["id_token"].(string)
	jwks := ts.get(pathJWKS)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(jwks.body), &set); err != nil {
		t.Fatal(err)
	}
	signed, err := jose.ParseSigned(idToken)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := signed.Verify(set)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["sub"] != "alice" || claims["iss"] != ts.url || claims["nonce"] != "nonce-0123456789" || claims["auth_time"] == nil {
		t.Errorf("ID token: %v", claims)
	}
	if strings.Contains(jwks.body, `"d":`) {
		t.Error("the private key is published")
	}

	bearer := func(token any) answer {
		r := ts.request(http.MethodGet, pathUserinfo, nil)
		r.Header.Set("Authorization", "Bearer "+token.(string))
		return ts.do(r)
	}
	if a := bearer(tokens["access_token"]); a.StatusCode != http.StatusOK || !strings.Contains(a.body, `"sub":"alice"`) {
		t.Errorf("userinfo: %s %s", a.Status, a.body)
	}
	if a := bearer(tokens["refresh_token"]); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("userinfo with a refresh token: %s", a.Status)
	}
	if a := ts.get(pathUserinfo + "?access_token=" + url.QueryEscape(tokens["access_token"].(string))); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("userinfo with a token in the address: %s", a.Status)
	}
	refreshed := token(url.Values{"grant_type": {grantRefresh}, "refresh_token": {tokens["refresh_token"].(string)}})
	revoke := ts.request(http.MethodPost, pathRevoke, url.Values{"token": {refreshed["refresh_token"].(string)}})
	revoke.SetBasicAuth("web", "web-secret-0123456789")
	if a := ts.do(revoke); a.StatusCode != http.StatusOK {
		t.Errorf("revocation: %s %s", a.Status, a.body)
	}
	if a := bearer(refreshed["access_token"]); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("userinfo after revocation: %s", a.Status)
	}
}

func TestOnlyTheExactDecisionCounts(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	for name, decision := range map[string]url.Values{
		"missing":            form,
		"empty":              with(form, fieldDecision, ""),
		"unknown":            with(form, fieldDecision, "yes"),
		"in capital letters": with(form, fieldDecision, "Approve"),
		"with a space":       with(form, fieldDecision, "approve "),
		"repeated":           {fieldDecision: {"approve", "approve"}, fieldTicket: form[fieldTicket], fieldRequest: form[fieldRequest]},
		"both":               {fieldDecision: {"deny", "approve"}, fieldTicket: form[fieldTicket], fieldRequest: form[fieldRequest]},
		"with a field more":  with(form, fieldDecision, decisionApprove, "client_id", "web"),
		"without a ticket":   with(form, fieldDecision, decisionApprove, fieldTicket, ""),
		"without a request":  with(form, fieldDecision, decisionApprove, fieldRequest, ""),
		"with a scope twice": {fieldDecision: {"approve"}, fieldTicket: form[fieldTicket], fieldRequest: form[fieldRequest], fieldScope: {"openid", "openid"}},
	} {
		t.Run(name, func(t *testing.T) {
			ts.post(pathConsent, decision).is(t, http.StatusBadRequest, "This could not be understood")
		})
	}
	ts.post(pathConsent+"?decision=approve", form).is(t, http.StatusBadRequest, "This could not be understood")
	r := ts.request(http.MethodPost, pathConsent, approve(form))
	r.Header.Set("Content-Type", "text/plain")
	ts.do(r).is(t, http.StatusBadRequest, "This could not be understood")
	ts.get(pathConsent+"?"+approve(form).Encode()).is(t, http.StatusNotFound, "There is nothing here")

	if n := ts.events.count(fositeconsent.ActionApprove, ""); n != 0 {
		t.Fatalf("%d grants were minted", n)
	}
	ts.post(pathConsent, approve(form)).toClient(t) // the page is still good
}

// Who approves and ticks nothing is asked again: a code without a scope is of no use to
// the client, and not what a person means. A request that asks for none can be approved.
func TestAnApprovalOfNothingIsAskedAgain(t *testing.T) {
	ts := newTestServer(t)
	request := codeRequest("scope", "photos.read offline_access") // openid could not be unticked
	form := ts.signIn(ts.authorize(request), "alice").form()
	withoutScopes := with(form)
	delete(withoutScopes, fieldScope)
	onlyAudience := approve(withoutScopes)
	nothing := with(onlyAudience)
	delete(nothing, fieldAudience)
	for name, decision := range map[string]url.Values{"nothing": nothing, "the audience alone": onlyAudience} {
		page := ts.post(pathConsent, decision)
		page.is(t, http.StatusBadRequest, "Allow access?")
		if again := page.form(); !strings.Contains(page.body, "Tick something, or deny.") || again.Get(fieldTicket) == form.Get(fieldTicket) ||
			!slices.Equal(again[fieldScope], form[fieldScope]) || again.Get(fieldRequest) != form.Get(fieldRequest) {
			t.Errorf("with %s ticked, the page is not there again as it was, with the reason:\n%s", name, page.body)
		}
		if page.Header.Get("Location") != "" {
			t.Errorf("with %s ticked, the browser is sent to %q", name, page.Header.Get("Location"))
		}
		form = page.form()
	}
	if n := ts.events.count(fositeconsent.ActionApprove, ""); n != 0 {
		t.Fatalf("%d grants were minted", n)
	}
	if got := ts.post(pathConsent, approve(form)).toClient(t); got.Get("code") == "" || got.Get("scope") != "photos.read offline_access" {
		t.Errorf("the page that was shown again brings %v", got)
	}

	form = ts.authorize(request).form()
	delete(form, fieldScope)
	if got := ts.post(pathConsent, deny(form)).toClient(t); got.Get("error") != "access_denied" {
		t.Errorf("a denial with nothing ticked brings %v", got)
	}
	page := ts.authorize(codeRequest("scope", ""))
	page.is(t, http.StatusOK, "Allow access?")
	if got := ts.post(pathConsent, approve(page.form())).toClient(t); got.Get("code") == "" {
		t.Errorf("an approval of a request without a scope brings %v", got)
	}
}

func TestADecisionOnAnotherRequestIsRefused(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	for name, params := range map[string]url.Values{
		"another client":       codeRequest("client_id", "app", "redirect_uri", "com.example.app:/cb", "scope", "openid photos.read", "audience", ""),
		"another redirect URI": codeRequest("redirect_uri", "https://photos.example/other"),
		"another scope":        codeRequest("scope", "openid photos.write"),
		"a scope more":         codeRequest("scope", "openid photos.read offline_access photos.write"),
		"another state":        codeRequest("state", "state-9876543210"),
		"another nonce":        codeRequest("nonce", "nonce-9876543210"),
		"another challenge":    codeRequest("code_challenge", strings.Repeat("x", 43)),
		"another audience":     codeRequest("audience", "https://other.example"),
		"another type":         codeRequest("response_type", "code id_token"),
		"another mode":         codeRequest("response_mode", "form_post"),
		"claims":               codeRequest("claims", `{"id_token":{"email":null}}`),
		"something unknown":    codeRequest("shoe_size", "43"),
	} {
		t.Run(name, func(t *testing.T) {
			a := ts.post(pathConsent, approve(with(form, fieldRequest, params.Encode())))
			a.is(t, http.StatusConflict, "Allow access?")
			if a.form().Get(fieldTicket) == form.Get(fieldTicket) || !strings.Contains(a.body, "Please look again") {
				t.Errorf("not a new page:\n%s", a.body)
			}
			if d := ts.post(pathConsent, deny(with(form, fieldRequest, params.Encode()))); d.StatusCode != http.StatusConflict {
				t.Errorf("denied: %s", d.Status)
			}
		})
	}
	for name, params := range map[string]url.Values{
		"a redirect URI of somebody else": codeRequest("redirect_uri", "https://evil.example/cb"),
		"a client that is not there":      codeRequest("client_id", "evil"),
		"a scope that it may not have":    codeRequest("scope", "openid admin"),
		"prompt=none":                     codeRequest("prompt", "none"),
	} {
		t.Run(name, func(t *testing.T) {
			ts.post(pathConsent, approve(with(form, fieldRequest, params.Encode()))).is(t, http.StatusBadRequest, "This request can no longer be answered")
		})
	}
	ts.post(pathConsent, approve(with(form, fieldRequest, "client_id=web&client_id=web"))).is(t, http.StatusBadRequest, "This could not be understood")
	for name, change := range map[string][]string{
		"a scope that was not asked for":    {fieldScope, "photos.write"},
		"an audience that was not":          {fieldAudience, "https://other.example"},
		"no openid, which cannot be denied": {fieldScope, "photos.read"},
	} {
		t.Run(name, func(t *testing.T) {
			ts.post(pathConsent, approve(with(form, change...))).is(t, http.StatusBadRequest, "This could not be understood")
		})
	}
	ts.post(pathConsent, approve(with(form, fieldTicket, form.Get(fieldTicket)+"x"))).is(t, http.StatusConflict, "Allow access?")
	if n := ts.events.count(fositeconsent.ActionApprove, "") + ts.events.count(fositeconsent.ActionDeny, ""); n != 0 {
		t.Fatalf("%d decisions were stored", n)
	}
	ts.post(pathConsent, approve(form)).toClient(t) // the page is still good
}

func TestAPageIsAnsweredOnce(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	if ts.post(pathConsent, approve(form)).toClient(t).Get("code") == "" {
		t.Fatal("no code")
	}
	for _, again := range []url.Values{approve(form), deny(form)} {
		a := ts.post(pathConsent, again)
		a.is(t, http.StatusConflict, "This page has already been answered")
		if !strings.Contains(a.body, `href="/oauth2/auth?`) {
			t.Error("there is no way on")
		}
	}

	form = ts.authorize(codeRequest()).form()
	params := ts.post(pathConsent, deny(form)).toClient(t)
	if params.Get("error") != "access_denied" || params.Get("state") != "state-0123456789" || params.Get("code") != "" {
		t.Errorf("denied: %v", params)
	}
	ts.post(pathConsent, approve(form)).is(t, http.StatusConflict, "This page has already been answered")
	if n := ts.events.count(fositeconsent.ActionApprove, ""); n != 1 {
		t.Errorf("%d codes", n)
	}
}

// failingGrants is a storage of grants that fails as often as it is told to.
type failingGrants struct {
	fositeconsent.GrantStorage
	failures atomic.Int64
}

func (f *failingGrants) CreateConsentGrant(ctx context.Context, grant *fositeconsent.Grant) error {
	if f.failures.Add(-1) >= 0 {
		return io.ErrUnexpectedEOF
	}
	return f.GrantStorage.CreateConsentGrant(ctx, grant)
}

func TestADecisionThatCouldNotBeStoredCanBeMadeAgain(t *testing.T) {
	var grants failingGrants
	ts := newTestServer(t, func(_ *server, c *providerConfig) {
		grants.GrantStorage = c.grants
		c.grants = &grants
	})
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	for name, decision := range map[string]url.Values{"approved": approve(form), "denied": deny(form)} {
		grants.failures.Store(1)
		a := ts.post(pathConsent, decision)
		a.is(t, http.StatusServiceUnavailable, "This is not working right now")
		if !strings.Contains(a.body, "Nothing was approved") || a.Header.Get("Retry-After") == "" || strings.Contains(a.body, "EOF") {
			t.Errorf("%s: the page says %s", name, a.body)
		}
		again := retryLink.FindStringSubmatch(a.body)
		if again == nil {
			t.Fatalf("%s: there is no way on: %s", name, a.body)
		}
		ts.get(html.UnescapeString(again[1])).is(t, http.StatusOK, "Allow access?")
	}
	if ts.post(pathConsent, approve(form)).toClient(t).Get("code") == "" { // the page is still good
		t.Error("no code")
	}
}

func TestADecisionWithAnUnknownOutcomeIsNotCalledUndone(t *testing.T) {
	ts := newTestServer(t)
	ctx, told := withEvent(t.Context())
	noteEvent(func(context.Context, fositeconsent.Event) {})(ctx, fositeconsent.Event{Consumed: true})
	if !told.Consumed {
		t.Fatal("the event did not arrive")
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, pathConsent, nil)
	ts.server.refuseDecision(w, r, nil, standing{}, decision{query: codeRequest().Encode()}, *told, fosite.ErrServerError)
	body := w.Body.String()
	if again := retryLink.FindStringSubmatch(body); w.Code != http.StatusServiceUnavailable || strings.Contains(body, "Nothing was approved") || again == nil {
		t.Fatalf("status %d, %s", w.Code, body)
	}
}

var retryLink = regexp.MustCompile(`<a class="button primary wide" href="([^"]*)">Try again</a>`)

func TestAPageIsAnsweredByTheLoginThatSawIt(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()

	for _, user := range []string{"bob", "alice"} {
		other := newBrowser(t, ts.url)
		other.signIn(other.get(pathLogin), user)
		other.post(pathConsent, approve(form)).is(t, http.StatusConflict, "Allow access?")
	}
	stranger := newBrowser(t, ts.url)
	stranger.follow(stranger.post(pathConsent, approve(form))).is(t, http.StatusOK, "Sign in")

	if n := ts.events.count(fositeconsent.ActionApprove, "foreign_ticket"); n != 2 {
		t.Errorf("%d refusals", n)
	}
	ts.post(pathConsent, approve(form)).toClient(t)
}

func TestNotYouSignsOutAndGoesOn(t *testing.T) {
	ts := newTestServer(t)
	consent := ts.signIn(ts.authorize(codeRequest()), "alice")
	form := consent.form()
	login := ts.follow(ts.post(pathLogout, url.Values{fieldRequest: form[fieldRequest]}))
	consent = ts.signIn(login, "bob")
	consent.is(t, http.StatusOK, "Allow access?")
	if !strings.Contains(consent.body, "<strong>bob</strong>") {
		t.Errorf("not bob's page:\n%s", consent.body)
	}
	ts.post(pathConsent, approve(form)).is(t, http.StatusConflict, "Allow access?") // alice's page
}

func TestPromptNoneNeverShowsAPage(t *testing.T) {
	ts := newTestServer(t)
	for _, test := range []struct{ prompt, want string }{{"none", "login_required"}, {"none login", "invalid_request"}} {
		if params := ts.authorize(codeRequest("prompt", test.prompt)).toClient(t); params.Get("error") != test.want || params.Get("state") == "" {
			t.Errorf("prompt=%s before a login: %v", test.prompt, params)
		}
	}
	ts.signIn(ts.get(pathLogin), "alice")
	for _, test := range []struct{ prompt, want string }{{"none", "consent_required"}, {"none login", "invalid_request"}} {
		if params := ts.authorize(codeRequest("prompt", test.prompt)).toClient(t); params.Get("error") != test.want {
			t.Errorf("prompt=%s after a login: %v", test.prompt, params)
		}
	}
	if n := ts.events.count(fositeconsent.ActionPrompt, ""); n != 0 {
		t.Errorf("%d pages", n)
	}
}

func TestAFreshLoginIsAskedForOncePerRequest(t *testing.T) {
	for _, demand := range [][]string{{"prompt", "login"}, {"prompt", "login consent"}, {"prompt", "select_account"}, {"max_age", "0"}} {
		for _, before := range []string{"", "alice"} {
			t.Run(strings.Join(demand, "=")+" signed in as "+before, func(t *testing.T) {
				ts := newTestServer(t)
				if before != "" {
					ts.signIn(ts.get(pathLogin), before)
				}
				request := codeRequest(demand...)
				login := ts.authorize(request)
				login.is(t, http.StatusOK, "Sign in")
				if before != "" {
					ts.authorize(request).is(t, http.StatusOK, "Sign in") // a reload is no login
				}
				consent := ts.signIn(login, "alice")
				consent.is(t, http.StatusOK, "Allow access?")
				ts.authorize(request).is(t, http.StatusOK, "Allow access?") // nor does a reload need another one
				if params := ts.post(pathConsent, approve(consent.form())).toClient(t); params.Get("code") == "" {
					t.Fatalf("the client gets %v", params)
				}
				ts.authorize(request).is(t, http.StatusOK, "Sign in") // the same request again is a new one
				ts.authorize(codeRequest()).is(t, http.StatusOK, "Allow access?")
			})
		}
	}
}

// Nobody signs in again for a request because the answer to it could not be stored.
func TestAFreshLoginIsGoodUntilTheRequestIsAnswered(t *testing.T) {
	for name, answer := range map[string]func(url.Values) url.Values{"approved": approve, "denied": deny} {
		t.Run(name, func(t *testing.T) {
			var grants failingGrants
			ts := newTestServer(t, func(_ *server, c *providerConfig) {
				grants.GrantStorage = c.grants
				c.grants = &grants
			})
			request := codeRequest("prompt", "login")
			form := ts.signIn(ts.authorize(request), "alice").form()
			grants.failures.Store(1)
			failed := ts.post(pathConsent, answer(form))
			failed.is(t, http.StatusServiceUnavailable, "This is not working right now")
			again := retryLink.FindStringSubmatch(failed.body)
			if again == nil {
				t.Fatalf("there is no way on: %s", failed.body)
			}
			ts.get(html.UnescapeString(again[1])).is(t, http.StatusOK, "Allow access?")
			ts.post(pathConsent, approve(with(form, fieldTicket, form.Get(fieldTicket)+"x"))).is(t, http.StatusConflict, "Allow access?")
			ts.post(pathConsent, approve(with(form, fieldScope, "photos.write"))).is(t, http.StatusBadRequest, "This could not be understood")
			ts.post(pathConsent, answer(form)).toClient(t)        // the page is still good
			ts.authorize(request).is(t, http.StatusOK, "Sign in") // the same request again is a new one
		})
	}
}

// A request that is answered with an error is answered.
func TestAFreshLoginIsNotGoodAfterAnError(t *testing.T) {
	ts := newTestServer(t, func(_ *server, c *providerConfig) { c.storage = &usedUp{c.storage.(memoryStorage)} })
	pushed := ts.pushed(codeRequest("prompt", "login"))
	form := ts.signIn(ts.authorize(pushed), "alice").form()
	if params := ts.post(pathConsent, approve(form)).toClient(t); params.Get("error") != "invalid_request_uri" || params.Get("state") != "state-0123456789" {
		t.Errorf("the client gets %v", params)
	}
	ts.authorize(pushed).is(t, http.StatusOK, "Sign in")
}

// usedUp is a storage whose pushed requests somebody else has always answered.
type usedUp struct{ memoryStorage }

func (*usedUp) DeletePARSession(context.Context, string) error { return nil }

func (*usedUp) ClaimPushedAuthorizeRequest(context.Context, string) error {
	return fositeconsent.ErrRequestURIUsed
}

// flakySessions is a store of sessions that can be told to fail.
type flakySessions struct {
	*memstore.MemStore
	fail atomic.Bool
}

func (f *flakySessions) Commit(token string, data []byte, expiry time.Time) error {
	if f.fail.Load() {
		return io.ErrUnexpectedEOF
	}
	return f.MemStore.Commit(token, data, expiry)
}

func TestAnAnswerIsNotLostWithTheSession(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(url.Values) url.Values
		field  string
	}{"approved": {approve, "code"}, "denied": {deny, "error"}} {
		t.Run(name, func(t *testing.T) {
			sessions := &flakySessions{MemStore: memstore.NewWithCleanupInterval(0)}
			ts := newTestServer(t, func(s *server, _ *providerConfig) { s.sessions = newSessions(sessions, "session", false) })
			form := ts.signIn(ts.authorize(codeRequest("prompt", "login")), "alice").form()
			sessions.fail.Store(true)
			if params := ts.post(pathConsent, test.answer(form)).toClient(t); params.Get(test.field) == "" {
				t.Errorf("the client gets %v", params)
			}
			if log := ts.log.String(); !strings.Contains(log, `"level":"ERROR","msg":"session could not be stored after the answer"`) {
				t.Errorf("%s", log)
			}
		})
	}
}

// TestALoginThatIsTooOldIsRenewedOnce is about max_age in seconds, without waiting.
func TestALoginThatIsTooOldIsRenewedOnce(t *testing.T) {
	ts := newTestServer(t)
	s := ts.server
	ctx, err := s.sessions.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"max_age": {"60"}}
	at := func(age time.Duration) context.Context {
		return withLogin(ctx, &login{username: "alice", sessionID: "x", at: time.Now().Add(-age)})
	}
	if st := s.stand(at(50*time.Second), form, "q"); st.signIn || st.remember {
		t.Errorf("young enough: %+v", st)
	}
	if st := s.stand(at(70*time.Second), form, "q"); !st.signIn || !st.remember {
		t.Errorf("too old: %+v", st)
	}
	s.setFreshLogins(ctx, []freshLogin{{requestKey("q"), time.Now().Add(-65 * time.Second).UnixMicro()}})
	if st := s.stand(at(70*time.Second), form, "q"); !st.signIn || st.remember {
		t.Errorf("too old, and seen: %+v", st)
	}
	// Signed in for this request, and then it took too long: that is for the gate to
	// tell the client, not for another password.
	if st := s.stand(at(62*time.Second), form, "q"); st.signIn {
		t.Errorf("signed in for it: %+v", st)
	}
	if st := s.stand(at(62*time.Second), form, "another"); !st.signIn {
		t.Errorf("signed in for another one: %+v", st)
	}
}

func TestTheSessionRemembersFewRequests(t *testing.T) {
	ts := newTestServer(t)
	ctx, err := ts.server.sessions.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		ts.server.rememberRequest(ctx, rand.Text())
	}
	if n := len(ts.server.freshLogins(ctx)); n != maxFreshLogins {
		t.Errorf("%d requests", n)
	}
}

func TestNobodyIsSentToAClientBeforeSigningIn(t *testing.T) {
	ts := newTestServer(t)
	invalid := map[string]struct {
		params url.Values
		want   string
	}{
		"a scope that it may not have":  {codeRequest("scope", "openid admin"), "invalid_scope"},
		"a state that is short":         {codeRequest("state", "x"), "invalid_state"},
		"a parameter twice":             {url.Values{"client_id": {"web"}, "response_type": {"code"}, "redirect_uri": {"https://photos.example/cb"}, "state": {"state-0123456789", "state-9876543210"}}, "invalid_request"},
		"a max_age that is not one":     {codeRequest("max_age", "soon"), "invalid_request"},
		"a nonce that is short":         {codeRequest("nonce", "x"), "insufficient_entropy"},
		"a challenge method of its own": {codeRequest("code_challenge_method", "S512"), "invalid_request"},
		"plain PKCE":                    {codeRequest("code_challenge_method", "plain"), "invalid_request"},
		"an unknown prompt":             {codeRequest("prompt", "magic"), "invalid_request"},
		"tokens in the query":           {codeRequest("response_type", "code id_token", "response_mode", "query"), "unsupported_response_mode"},
	}
	for name, test := range invalid {
		t.Run(name, func(t *testing.T) { ts.authorize(test.params).is(t, http.StatusOK, "Sign in") })
	}
	ts.signIn(ts.get(pathLogin), "alice")
	for name, test := range invalid {
		t.Run(name+", signed in", func(t *testing.T) {
			if params := ts.authorize(test.params).toClient(t); params.Get("error") != test.want || params.Get("code") != "" {
				t.Errorf("the client gets %v, want %s", params, test.want)
			}
		})
	}
	if n := ts.events.count(fositeconsent.ActionPrompt, ""); n != 0 {
		t.Errorf("%d pages for requests that cannot be answered", n)
	}
}

func TestRequestsWithoutAWayBackGetAPage(t *testing.T) {
	ts := newTestServer(t)
	for _, user := range []string{"", "alice"} {
		if user != "" {
			ts.signIn(ts.get(pathLogin), user)
		}
		for name, query := range map[string]string{
			"no parameters":                   "",
			"a client that is not there":      codeRequest("client_id", "evil").Encode(),
			"no client":                       codeRequest("client_id", "").Encode(),
			"two clients":                     codeRequest().Encode() + "&client_id=app",
			"a redirect URI of somebody else": codeRequest("redirect_uri", "https://evil.example/cb").Encode(),
			"a redirect URI that is longer":   codeRequest("redirect_uri", "https://photos.example/cb/../x").Encode(),
			"the same, without a page":        codeRequest("redirect_uri", "https://evil.example/cb", "prompt", "none").Encode(),
			"two redirect URIs":               codeRequest().Encode() + "&redirect_uri=https%3A%2F%2Fevil.example",
			"no redirect URI of two":          codeRequest("redirect_uri", "").Encode(),
			"a pushed request":                codeRequest("request_uri", "urn:ietf:params:oauth:request_uri:x").Encode(),
			"a query that is broken":          codeRequest().Encode() + "&x=%zz",
			"a query that is too long":        codeRequest("x", strings.Repeat("x", maxAuthorizationRequest)).Encode(),
		} {
			t.Run(name+" "+user, func(t *testing.T) {
				a := ts.get(pathAuthorize + "?" + query)
				a.is(t, http.StatusBadRequest, "This link does not work")
				if a.Header.Get("Location") != "" || strings.Contains(a.body, "evil.example") {
					t.Errorf("to %q:\n%s", a.Header.Get("Location"), a.body)
				}
			})
		}
	}
}

func TestAPostedAuthorizationRequestComesAgainWithGet(t *testing.T) {
	ts := newTestServer(t)
	r := ts.request(http.MethodPost, pathAuthorize, with(codeRequest(), "client_secret", "web-secret-0123456789"))
	r.Header.Set("Sec-Fetch-Site", "cross-site") // clients may post here
	a := ts.do(r)
	if strings.Contains(a.Header.Get("Location"), "secret") {
		t.Errorf("to %s", a.Header.Get("Location"))
	}
	ts.signIn(ts.follow(a), "alice").is(t, http.StatusOK, "Allow access?")

	// What the body and the query both say is refused, not chosen from.
	both := ts.follow(ts.post(pathAuthorize+"?state=state-9876543210", codeRequest()))
	if params := both.toClient(t); params.Get("error") != "invalid_request" {
		t.Errorf("the client gets %v", params)
	}
	ts.post(pathAuthorize+"?client_id=app", codeRequest()).is(t, http.StatusBadRequest, "This link does not work")
	ts.post(pathAuthorize, url.Values{}).is(t, http.StatusBadRequest, "This link does not work")
}

func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	for path, fields := range map[string]url.Values{
		pathConsent: approve(form),
		pathLogout:  {},
		pathLogin:   {"username": {"bob"}, "password": {"wonderland"}},
	} {
		for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
			r := ts.request(http.MethodPost, path, fields)
			r.Header.Set(header, value)
			ts.do(r).is(t, http.StatusForbidden, "Another site tried to answer for you")
		}
	}
	ts.authorize(codeRequest()).is(t, http.StatusOK, "Allow access?") // still signed in
	r := ts.request(http.MethodPost, pathConsent, approve(form))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Origin", ts.url)
	ts.do(r).toClient(t)
}

func TestTheLoginPageLeadsNowhereElse(t *testing.T) {
	ts := newTestServer(t)
	for _, request := range []string{"", "https://evil.example", "//evil.example", "/\\evil.example", "a=b#c", "x\r\nLocation: https://evil.example", "?//evil.example", "@evil.example"} {
		for path, form := range map[string]url.Values{
			pathLogin:  {"username": {"alice"}, "password": {"wonderland"}, fieldRequest: {request}},
			pathLogout: {fieldRequest: {request}},
		} {
			a := ts.post(path, form)
			location, err := url.Parse(a.Header.Get("Location"))
			if err != nil || location.Host != "" || location.Scheme != "" || (location.Path != pathAuthorize && location.Path != pathLogin) {
				t.Errorf("%s with %q leads to %q", path, request, a.Header.Get("Location"))
			}
		}
	}
}

func TestSigningIn(t *testing.T) {
	ts := newTestServer(t)
	for name, form := range map[string]url.Values{
		"a wrong password": {"username": {"alice"}, "password": {"nope"}},
		"no password":      {"username": {"alice"}},
		"a wrong user":     {"username": {"carol"}, "password": {"wonderland"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := ts.post(pathLogin, form)
			a.is(t, http.StatusForbidden, "Sign in")
			if !strings.Contains(a.body, "That did not match") || strings.Contains(a.body, "nope") || len(a.Cookies()) > 0 {
				t.Errorf("%v\n%s", a.Cookies(), a.body)
			}
		})
	}
	ts.post(pathLogin, url.Values{"username": {"alice", "bob"}, "password": {"wonderland"}}).is(t, http.StatusBadRequest, "This could not be understood")
	ts.post(pathLogin, url.Values{"username": {"alice"}, "password": {"wonderland"}, "next": {"/x"}}).is(t, http.StatusBadRequest, "This could not be understood")

	// A cookie from before the login is worth nothing after it.
	ts.authorize(codeRequest("prompt", "login"))
	base, err := url.Parse(ts.url)
	if err != nil {
		t.Fatal(err)
	}
	planted := ts.http.Jar.Cookies(base)
	ts.signIn(ts.get(pathLogin), "alice").is(t, http.StatusOK, "Signed in")
	thief := newBrowser(t, ts.url)
	thief.http.Jar.SetCookies(base, planted)
	thief.get(pathLogin).is(t, http.StatusOK, "Sign in")
}

func TestEveryPageCarriesItsHeaders(t *testing.T) {
	ts := newTestServer(t)
	login := ts.authorize(codeRequest())
	consent := ts.signIn(login, "alice")
	formPost := ts.authorize(codeRequest("response_mode", "form_post"))
	for name, test := range map[string]struct {
		answer
		policy string
	}{
		"login":             {login, loginPolicy},
		"consent":           {consent, pagePolicy + "; script-src 'self'; img-src 'self' https://cdn.photos.example"},
		"answered":          {ts.post(pathConsent, approve(formPost.form())), formPostPolicy},
		"error":             {ts.get(pathAuthorize), defaultPolicy},
		"not found":         {ts.get("/nope"), defaultPolicy},
		"account":           {ts.get(pathLogin), defaultPolicy},
		"bad form":          {ts.post(pathConsent, nil), defaultPolicy},
		"jwks":              {ts.get(pathJWKS), defaultPolicy},
		"applications":      {ts.get(pathApplications), pagePolicy + "; form-action 'self'; img-src 'self' https://cdn.photos.example"},
		"access taken back": {ts.get(pathTakeBack), defaultPolicy + "; script-src 'self'"},
	} {
		t.Run(name, func(t *testing.T) {
			h := test.Header
			if got := h.Get("Content-Security-Policy"); got != test.policy || !strings.Contains(got, "frame-ancestors 'none'") || strings.Contains(got, "unsafe") {
				t.Errorf("policy %q, want %q", got, test.policy)
			}
			if h.Get("X-Frame-Options") != "DENY" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "same-origin" {
				t.Errorf("%v", h)
			}
			if name != "jwks" && (h.Get("Cache-Control") != "no-store" || !strings.HasPrefix(strings.ToLower(h.Get("Content-Type")), "text/html")) {
				t.Errorf("%v", h)
			}
			if strings.Contains(test.body, "<script>") || strings.Contains(test.body, "style=") || strings.Contains(test.body, "onload") {
				t.Errorf("something is inline:\n%s", test.body)
			}
		})
	}
}

func TestFormPostResponseSendsItself(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest("response_mode", "form_post", "response_type", "code id_token", "state", `"><script>0123`)), "alice").form()
	a := ts.post(pathConsent, approve(form))
	a.is(t, http.StatusOK, "Back to the application")
	fields := a.form()
	if fields.Get("code") == "" || fields.Get("id_token") == "" || fields.Get("state") != `"><script>0123` {
		t.Errorf("the client gets %v", fields)
	}
	if !strings.Contains(a.body, `action="https://photos.example/cb"`) || !strings.Contains(a.body, `src="/assets/form-post.js`) || !strings.Contains(a.body, "<button") {
		t.Errorf("%s", a.body)
	}
	for name := range assets {
		path, err := assetPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if a := ts.get(path); a.StatusCode != http.StatusOK || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	ts.get(pathAssets+"login.html").is(t, http.StatusNotFound, "There is nothing here")
}

func TestTheConsentPageSaysEverythingAndEscapesIt(t *testing.T) {
	ts := newTestServer(t)
	a := ts.signIn(ts.authorize(codeRequest("state", `"><script>alert(1)</script>`, "login_hint", `"><script>`)), "alice")
	for _, want := range []string{
		"&lt;b&gt;Photo &amp; Book&lt;/b&gt;", `href="https://photos.example"`, `src="https://cdn.photos.example/logo.png"`,
		`href="https://photos.example/privacy" rel="noopener noreferrer"`, `href="https://photos.example/terms"`, "<strong>alice</strong>", "Not you?",
		"See your photos", "Stay connected", "https://api.example", "photos.example</strong>", "1 hour", "30 days",
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
	if strings.Contains(a.body, "<script>") || strings.Contains(a.body, "<b>") {
		t.Errorf("not escaped:\n%s", a.body)
	}
	public := ts.authorize(url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"photos.read"}, "redirect_uri": {"com.example.app:/cb"},
		"state": {"state-0123456789"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"}})
	for _, want := range []string{"An app on this device", "com.example.app", "cannot prove who it is", "you are asked every time"} {
		if !strings.Contains(public.body, want) {
			t.Errorf("%q is not on the page of the public client", want)
		}
	}
}

func TestNoSecretIsLogged(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	params := ts.post(pathConsent, approve(form)).toClient(t)
	ts.post(pathConsent, approve(form))
	ts.post(pathConsent, approve(with(form, fieldRequest, codeRequest("state", "state-tampered").Encode())))
	ts.post(pathLogin, url.Values{"username": {"alice"}, "password": {"a-wrong-password"}})
	ts.get("/nope/" + params.Get("code"))
	for _, redeem := range []string{"web-secret-0123456789", "a-wrong-secret"} {
		r := ts.request(http.MethodPost, pathToken, url.Values{"grant_type": {grantCode}, "code": params["code"], "redirect_uri": {"https://photos.example/cb"}, "code_verifier": {testVerifier}})
		r.SetBasicAuth("web", redeem)
		ts.do(r)
	}
	log := ts.log.String()
	if !strings.Contains(log, `"action":"approve"`) || !strings.Contains(log, `"route":"POST /consent"`) {
		t.Fatalf("the log misses something:\n%s", log)
	}
	for _, secret := range []string{
		params.Get("code"), form.Get(fieldTicket), "state-0123456789", "state-tampered", "nonce-0123456789", challenge(), testVerifier,
		"wonderland", "a-wrong-password", "web-secret-0123456789", "a-wrong-secret", "fcg_", "fct_", "ory_at_", "ory_rt_",
	} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log:\n%s", secret, log)
		}
	}
	base, err := url.Parse(ts.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, cookie := range ts.http.Jar.Cookies(base) {
		if strings.Contains(log, cookie.Value) {
			t.Errorf("the cookie %s is in the log", cookie.Name)
		}
	}
}

func TestCookiesOfHTTPSArePinnedToTheHost(t *testing.T) {
	ts := newTestServer(t, func(s *server, _ *providerConfig) { s.issuer = "https://op.example" })
	a := ts.post(pathLogin, url.Values{"username": {"alice"}, "password": {"wonderland"}})
	cookies := a.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%v", cookies)
	}
	if c := cookies[0]; c.Name != "__Host-session" || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode {
		t.Errorf("%v", c)
	}
	if a.Header.Get("Strict-Transport-Security") == "" {
		t.Error("no Strict-Transport-Security")
	}
	plain := newTestServer(t)
	if c := plain.post(pathLogin, url.Values{"username": {"alice"}, "password": {"wonderland"}}).Cookies()[0]; c.Name != "session" || c.Secure || !c.HttpOnly {
		t.Errorf("%v", c)
	}
}

func TestNamesThatOnlyLeadToThisMachineAreRefused(t *testing.T) {
	ts := newTestServer(t)
	for host, want := range map[string]int{"evil.example": http.StatusMisdirectedRequest, "localhost:1": http.StatusOK, "[::1]:1": http.StatusOK} {
		r := ts.request(http.MethodGet, pathLogin, nil)
		r.Host = host
		if a := ts.do(r); a.StatusCode != want {
			t.Errorf("%s: %s", host, a.Status)
		}
	}
}

func TestDiscoverySaysWhatIsThere(t *testing.T) {
	ts := newTestServer(t)
	var d map[string]any
	if err := json.Unmarshal([]byte(ts.get("/.well-known/openid-configuration").body), &d); err != nil {
		t.Fatal(err)
	}
	if d["issuer"] != ts.url {
		t.Errorf("issuer %v", d["issuer"])
	}
	for _, name := range []string{"authorization_endpoint", "token_endpoint", "introspection_endpoint", "revocation_endpoint", "pushed_authorization_request_endpoint", "userinfo_endpoint", "jwks_uri"} {
		endpoint, _ := d[name].(string)
		if a := ts.get(strings.TrimPrefix(endpoint, ts.url)); endpoint == "" || a.StatusCode == http.StatusNotFound {
			t.Errorf("%s: nothing at %s", name, endpoint)
		}
	}
	if d["require_pushed_authorization_requests"] != false { // nor is it left out: not everybody knows the default
		t.Errorf("require_pushed_authorization_requests %v", d["require_pushed_authorization_requests"])
	}
}

func TestAFailingDatabaseIsAPageAndNoRedirect(t *testing.T) {
	ts := newTestServer(t, func(s *server, _ *providerConfig) {
		s.sessions = newSessions(brokenStore{}, "session", false)
		s.ready = func(context.Context) error { return io.ErrUnexpectedEOF }
	})
	if a := ts.post(pathLogin, url.Values{"username": {"alice"}, "password": {"wonderland"}}); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Location") != "" || len(a.Cookies()) > 0 {
		t.Errorf("%s to %q with %v", a.Status, a.Header.Get("Location"), a.Cookies())
	}
	query := codeRequest().Encode()
	for _, r := range []*http.Request{
		ts.request(http.MethodGet, pathAuthorize+"?"+query, nil),
		ts.request(http.MethodPost, pathConsent, url.Values{fieldRequest: {query}}),
		ts.request(http.MethodPost, pathLogin, url.Values{fieldRequest: {query}}),
	} {
		r.Header.Set("Cookie", "session=x")
		a := ts.do(r)
		a.is(t, http.StatusServiceUnavailable, "This is not working right now")
		if again := retryLink.FindStringSubmatch(a.body); again == nil || html.UnescapeString(again[1]) != pathAuthorize+"?"+query {
			t.Errorf("%s %s: it is tried again at %v", r.Method, r.URL.Path, again)
		}
	}
	r := ts.request(http.MethodPost, pathConsent, url.Values{fieldRequest: {"client_id=web&client_id=web"}})
	r.Header.Set("Cookie", "session=x")
	a := ts.do(r)
	a.is(t, http.StatusServiceUnavailable, "This is not working right now")
	if strings.Contains(a.body, "Try again</a>") {
		t.Errorf("a link to something that is no request:\n%s", a.body)
	}
	if strings.Contains(a.body, "EOF") {
		t.Errorf("the page tells what went wrong inside:\n%s", a.body)
	}
	if a := ts.get("/readyz"); a.StatusCode != http.StatusServiceUnavailable || strings.Contains(a.body, "EOF") {
		t.Errorf("%s %s", a.Status, a.body)
	}
	if a := ts.get("/healthz"); a.StatusCode != http.StatusOK {
		t.Errorf("%s", a.Status)
	}
}

type brokenStore struct{}

func (brokenStore) Find(string) ([]byte, bool, error)      { return nil, false, io.ErrUnexpectedEOF }
func (brokenStore) Commit(string, []byte, time.Time) error { return io.ErrUnexpectedEOF }
func (brokenStore) Delete(string) error                    { return io.ErrUnexpectedEOF }

func TestAPanicIsAPage(t *testing.T) {
	ts := newTestServer(t, func(s *server, _ *providerConfig) {
		s.ready = func(context.Context) error { panic("boom") }
	})
	a := ts.get("/readyz")
	a.is(t, http.StatusInternalServerError, "Something went wrong here")
	if strings.Contains(a.body, "boom") || !strings.Contains(ts.log.String(), "boom") {
		t.Errorf("%s", a.body)
	}
}

// FuzzDecision looks for a form that approves, or is remembered, without saying so.
func FuzzDecision(f *testing.F) {
	f.Add("authorization_request=a%3Db&ticket=t&decision=approve&scope=x")
	f.Add("authorization_request=a%3Db&ticket=t&decision=approve&decision=deny")
	f.Add("decision=approve&decision=")
	f.Add("authorization_request=a%3Db&ticket=t&decision=approve&scope=x&remember=yes&remember_offline=yes&remember_for=30-days")
	f.Add("authorization_request=a%3Db&ticket=t&decision=approve&remember=&remember_for=always")
	f.Fuzz(func(t *testing.T, text string) {
		form, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		d, err := parseDecision(form)
		if err != nil {
			return
		}
		if d.approved != slices.Equal(form[fieldDecision], []string{decisionApprove}) || d.ticket == "" {
			t.Errorf("%q is read as %+v", text, d)
		}
		yes := []string{ticked}
		if asked := slices.Equal(form[fieldRemember], yes); asked != (d.remember != nil) {
			t.Errorf("%q is read as %+v", text, d.remember)
		} else if asked && (d.remember.OfflineAccess != slices.Equal(form[fieldRememberOffline], yes) || (d.remember.Lifespan == 0) != (form.Get(fieldRememberFor) == "always")) {
			t.Errorf("%q is read as %+v", text, *d.remember)
		}
		if _, err := url.ParseQuery(d.query); err != nil || strings.ContainsAny(d.query, "#\r\n") {
			t.Errorf("%q leads to %q", text, d.query)
		}
	})
}

// FuzzReturnPath looks for a form that sends the browser elsewhere after signing in.
func FuzzReturnPath(f *testing.F) {
	f.Add("client_id=web")
	f.Add("//evil.example")
	f.Add("\\evil.example?x#y")
	f.Fuzz(func(t *testing.T, text string) {
		query, err := returnQuery(text)
		if err != nil {
			return
		}
		path := returnPath(query)
		u, err := url.Parse(path)
		if err != nil || u.Scheme != "" || u.Host != "" || u.Fragment != "" || (u.Path != pathAuthorize && u.Path != pathLogin) || strings.ContainsAny(path, "\r\n\\") {
			t.Errorf("%q leads to %q", text, path)
		}
	})
}
