package consentapi_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"
	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi/consentapitest"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	issuer  = "https://as.example"
	openURL = "https://consent.example/consent"
)

// signingKey is made once: an RSA key takes longer than all tests together.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// session has what an application may put into tokens.
type session struct {
	*openid.DefaultSession
	Extra map[string]any
}

func (s *session) GetExtraClaims() map[string]any {
	if s.Extra == nil {
		s.Extra = map[string]any{}
	}
	return s.Extra
}

func (s *session) Clone() fosite.Session {
	return &session{DefaultSession: s.DefaultSession.Clone().(*openid.DefaultSession), Extra: maps.Clone(s.Extra)}
}

// grantsAndRequests is what a host has one storage for.
type grantsAndRequests interface {
	fositeconsent.GrantStorage
	fositeconsent.ConsentStorage
	consentapi.RequestStorage
}

type inMemory struct {
	*grantsInMemory
	*requestsInMemory
}

// One name for each, so that both can be embedded.
type (
	grantsInMemory   struct{ *consenttest.Storage }
	requestsInMemory struct{ *consentapitest.Storage }
)

// host is an authorization server that has its consent pages elsewhere.
type host struct {
	t        testing.TB
	clock    atomic.Int64 // added to the time that the storages go by
	storage  grantsAndRequests
	gate     *fositeconsent.Gate
	api      *consentapi.API
	config   consentapi.Config
	provider fosite.OAuth2Provider
	server   *httptest.Server // what browsers reach
	internal *httptest.Server // what the application reaches
	log      strings.Builder

	mu       sync.Mutex
	codes    int     // responses that were issued
	refused  []error // what Resume and Respond said
	fail     error   // of the last authorize handler, if set
	signedIn string
	callback string
}

type options struct {
	gate func(*fositeconsent.Config)
	api  func(*consentapi.Config)
	wrap func(grantsAndRequests) grantsAndRequests
	on   string // postgres, or else memory
	// application is where the pages are, on a loopback address; the host has no TLS then.
	application string
	// callback is that of the client named browser.
	callback string
}

func (h *host) now() time.Time { return time.Now().Add(time.Duration(h.clock.Load())) }

func (h *host) GetClient(_ context.Context, id string) (fosite.Client, error) {
	client, ok := map[string]*fosite.DefaultOpenIDConnectClient{"browser": {
		DefaultClient: &fosite.DefaultClient{
			ID: "browser", Public: true, RedirectURIs: []string{h.callback}, ResponseTypes: []string{"code"},
			GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "photos"},
		},
	}, "app": {
		DefaultClient: &fosite.DefaultClient{
			ID: "app", Public: true,
			RedirectURIs:  []string{"https://app.example/cb"},
			ResponseTypes: []string{"code", "token", "id_token token"},
			GrantTypes:    []string{"authorization_code", "implicit", "refresh_token"},
			Scopes:        []string{"openid", "offline_access", "photos", "contacts", "photos.*"},
			Audience:      []string{"https://api.example", "https://other.example"},
		},
	}, "other": {
		DefaultClient: &fosite.DefaultClient{
			ID: "other", Public: true, RedirectURIs: []string{"https://other.example/cb"}, ResponseTypes: []string{"code"},
			GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "photos"},
		},
	}, "loopback": {
		DefaultClient: &fosite.DefaultClient{
			ID: "loopback", Public: true, RedirectURIs: []string{"http://127.0.0.1/cb"}, ResponseTypes: []string{"code"},
			GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "photos"},
		},
	}}[id]
	if !ok {
		return nil, fosite.ErrNotFound
	}
	client.TokenEndpointAuthMethod = "none"
	return client, nil
}

// failing is an authorize handler that fails after all others, if it is told to.
type failing struct{ h *host }

func (f *failing) HandleAuthorizeEndpointRequest(context.Context, fosite.AuthorizeRequester, fosite.AuthorizeResponder) error {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	return f.h.fail
}

func newHost(t testing.TB, o options) *host {
	t.Helper()
	h := &host{t: t, signedIn: "alice", callback: o.callback}
	config := &fosite.Config{
		GlobalSecret: []byte("a global secret of at least 32 bytes"), ScopeStrategy: fosite.ExactScopeStrategy,
		IDTokenIssuer: issuer, RefreshTokenScopes: []string{"offline_access"},
	}
	var store any
	switch o.on {
	case "postgres":
		pool := pgtest.Pool(t)
		pg := pgstore.Config{TestClock: h.now}
		if err := pgstore.Migrate(t.Context(), pool, pg); err != nil {
			t.Fatal(err)
		}
		grants, err := pgstore.New(pool, pg)
		if err != nil {
			t.Fatal(err)
		}
		h.storage = grants
		store, err = fositestore.New(pool, fositestore.Config{
			NewSession: func() fosite.Session { return &session{DefaultSession: openid.NewDefaultSession()} }, GetClient: h.GetClient,
		})
		if err != nil {
			t.Fatal(err)
		}
	default:
		memory := storage.NewMemoryStore()
		for _, id := range []string{"app", "other", "loopback", "browser"} {
			memory.Clients[id], _ = h.GetClient(t.Context(), id)
		}
		store = memory
		h.storage = inMemory{&grantsInMemory{consenttest.NewStorage(h.now)}, &requestsInMemory{consentapitest.NewStorage(h.now)}}
	}
	if o.wrap != nil {
		h.storage = o.wrap(h.storage)
	}
	gateConfig := fositeconsent.Config{
		Issuer: issuer, Consents: h.storage, ApplyData: consentapi.ApplyData,
		DescribeClient: func(_ context.Context, c fosite.Client) ([]string, error) { return []string{c.GetID()}, nil },
		LoginSession:   func(context.Context, fosite.Session) (string, error) { return h.login(), nil },
	}
	if o.gate != nil {
		o.gate(&gateConfig)
	}
	var err error
	if h.gate, err = fositeconsent.NewGate(h.storage, gateConfig); err != nil {
		t.Fatal(err)
	}
	key := func(context.Context) (any, error) { return signingKey(), nil }
	last := func(fosite.Configurator, any, any) any { return nil }
	if gateConfig.Consents != nil {
		last = h.gate.TokenFactory
	}
	provider := compose.Compose(config, store, &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(key, config),
		Signer:                     &jwt.DefaultSigner{GetPrivateKey: key},
	}, h.gate.Factory, compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2AuthorizeImplicitFactory, compose.OAuth2RefreshTokenGrantFactory,
		compose.OpenIDConnectExplicitFactory, compose.OpenIDConnectImplicitFactory, compose.OpenIDConnectRefreshFactory,
		compose.OAuth2TokenIntrospectionFactory, compose.OAuth2PKCEFactory, compose.PushedAuthorizeHandlerFactory,
		func(fosite.Configurator, any, any) any { return &failing{h} }, last)
	if h.provider, err = h.gate.Protect(provider); err != nil {
		t.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.HandleFunc("/oauth2/auth", h.authorize)
	mux.HandleFunc("/oauth2/resume", h.resume)
	mux.HandleFunc("POST /oauth2/token", h.token)
	mux.HandleFunc("POST /oauth2/par", h.push)
	mux.HandleFunc("POST /oauth2/introspect", h.introspect)
	h.server = httptest.NewUnstartedServer(mux)
	consentURL := openURL
	if o.application == "" {
		h.server.StartTLS()
	} else {
		h.server.Start()
		consentURL = o.application
	}
	t.Cleanup(h.server.Close)
	apiConfig := consentapi.Config{
		ConsentURL: consentURL + "?lang=en", AuthorizationURL: h.server.URL + "/oauth2/auth", ResumeURL: h.server.URL + "/oauth2/resume",
		Secrets:   func(context.Context) ([][]byte, error) { return [][]byte{config.GlobalSecret}, nil },
		GetClient: h.GetClient, Logger: slog.New(slog.NewTextHandler(&h.log, nil)),
		DescribeClient: func(_ context.Context, c fosite.Client, shown *consentapi.Client) error {
			shown.ClientName = "The " + c.GetID()
			return nil
		},
		DescribeLogin: func(_ context.Context, _ fosite.AuthorizeRequester, _ fosite.Session, l *consentapi.Login) error {
			l.SessionID, l.Challenge, l.ACR, l.AMR, l.Context = h.login(), "login-challenge", "urn:acr", []string{"pwd"}, json.RawMessage(`{"from":"login"}`)
			return nil
		},
	}
	if o.api != nil {
		o.api(&apiConfig)
	}
	h.config = apiConfig
	if h.api, err = consentapi.New(h.gate, h.storage, apiConfig); err != nil {
		t.Fatal(err)
	}
	h.internal = httptest.NewServer(h.api.Handler())
	t.Cleanup(h.internal.Close)
	return h
}

func (h *host) login() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return "login-of-" + h.signedIn
}

func (h *host) signIn(subject string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signedIn = subject
}

func (h *host) failWith(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

func (h *host) newSession() fosite.Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now().UTC()
	return &session{DefaultSession: &openid.DefaultSession{
		Subject: h.signedIn, Claims: &jwt.IDTokenClaims{Subject: h.signedIn, AuthTime: now.Add(-time.Minute), RequestedAt: now}, Headers: &jwt.Headers{},
	}}
}

// authorize and resume are what a host writes.
func (h *host) authorize(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The request could not be read.", http.StatusBadRequest)
		return
	}
	query := r.Form.Encode()
	ar, err := h.provider.NewAuthorizeRequest(ctx, r)
	if err != nil {
		h.provider.WriteAuthorizeError(ctx, w, ar, err)
		return
	}
	resp, sent, err := h.api.Authorize(w, r, h.provider, ar, h.newSession(), query)
	if !sent {
		h.answer(w, r, ar, resp, err)
	}
}

func (h *host) resume(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	resumed, err := h.api.Resume(r)
	if err != nil {
		h.note(err)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, "page:", err)
		return
	}
	ar, err := h.provider.NewAuthorizeRequest(ctx, resumed.Request(ctx))
	if err != nil {
		h.answer(w, r, ar, nil, err)
		return
	}
	resp, err := resumed.Respond(ctx, h.provider, ar, h.newSession())
	if fositeconsent.NeedsConsent(err) {
		h.note(err)
		http.Redirect(w, r, "/oauth2/auth?"+resumed.Query, http.StatusSeeOther)
		return
	}
	h.answer(w, r, ar, resp, err)
}

func (h *host) answer(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder, err error) {
	if err != nil {
		h.note(err)
		h.provider.WriteAuthorizeError(r.Context(), w, ar, err)
		return
	}
	h.mu.Lock()
	h.codes++
	h.mu.Unlock()
	h.provider.WriteAuthorizeResponse(r.Context(), w, ar, resp)
}

func (h *host) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused = append(h.refused, err)
}

// wantNoted compares the last error.
func (h *host) wantNoted(want error) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.refused) == 0 || !errors.Is(h.refused[len(h.refused)-1], want) {
		h.t.Errorf("got the errors %v, want %v at last", h.refused, want)
	}
}

func (h *host) issued() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.codes
}

func (h *host) token(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	request, err := h.provider.NewAccessRequest(ctx, r, &session{DefaultSession: openid.NewDefaultSession()})
	if err != nil {
		h.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	resp, err := h.provider.NewAccessResponse(ctx, request)
	if err != nil {
		h.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	h.provider.WriteAccessResponse(ctx, w, request, resp)
}

func (h *host) introspect(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	_, request, err := h.provider.IntrospectToken(ctx, r.PostFormValue("token"), fosite.AccessToken, &session{DefaultSession: openid.NewDefaultSession()})
	if err != nil {
		h.provider.WriteIntrospectionError(ctx, w, err)
		return
	}
	h.provider.WriteIntrospectionResponse(ctx, w, &fosite.IntrospectionResponse{Active: true, AccessRequester: request, TokenUse: fosite.AccessToken})
}

func (h *host) push(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	ar, err := h.provider.NewPushedAuthorizeRequest(ctx, r)
	if err != nil {
		h.provider.WritePushedAuthorizeError(ctx, w, ar, err)
		return
	}
	resp, err := h.provider.NewPushedAuthorizeResponse(ctx, ar, &session{DefaultSession: openid.NewDefaultSession()})
	if err != nil {
		h.provider.WritePushedAuthorizeError(ctx, w, ar, err)
		return
	}
	h.provider.WritePushedAuthorizeResponse(ctx, w, ar, resp)
}

// browser follows no redirect and keeps cookies.
type browser struct {
	h *host
	*http.Client
}

func (h *host) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		h.t.Fatal(err)
	}
	client := h.server.Client()
	return &browser{h, &http.Client{
		Transport: client.Transport, Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// get returns the status, where the browser is sent, and the body.
func (b *browser) get(address string) (status int, location *url.URL, body string) {
	b.h.t.Helper()
	resp, err := b.Get(address)
	if err != nil {
		b.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.h.t.Fatal(err)
	}
	location, err = resp.Location()
	if err != nil {
		location = &url.URL{}
	}
	return resp.StatusCode, location, string(text)
}

func params(set ...string) url.Values {
	values := url.Values{
		"client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"}, "state": {"a state that is long enough"},
		"scope": {"openid photos contacts"}, "audience": {"https://api.example"}, "nonce": {"a nonce that is long enough"},
	}
	for i := 0; i+1 < len(set); i += 2 {
		if set[i+1] == "" {
			values.Del(set[i])
		} else {
			values.Set(set[i], set[i+1])
		}
	}
	return values
}

// start goes to the authorization endpoint and returns the challenge.
func (b *browser) start(values url.Values) string {
	b.h.t.Helper()
	status, location, body := b.get(b.h.server.URL + "/oauth2/auth?" + values.Encode())
	challenge := location.Query().Get("consent_challenge")
	if status != http.StatusSeeOther || !strings.HasPrefix(location.String(), openURL) || location.Query().Get("lang") != "en" || challenge == "" {
		b.h.t.Fatalf("the browser was not sent to the application: %d, %s, %s", status, location, body)
	}
	return challenge
}

// client is the generated one.
func (h *host) client() *hydra.OAuth2APIService {
	config := hydra.NewConfiguration()
	config.Servers = hydra.ServerConfigurations{{URL: h.internal.URL}}
	api, _ := hydra.NewAPIClient(config).OAuth2API.(*hydra.OAuth2APIService)
	return api
}

func accepting(scopes ...string) *hydra.AcceptOAuth2ConsentRequest {
	return &hydra.AcceptOAuth2ConsentRequest{GrantScope: scopes, GrantAccessTokenAudience: []string{"https://api.example"}}
}

func (h *host) accept(challenge string, body *hydra.AcceptOAuth2ConsentRequest) string {
	h.t.Helper()
	to, _, err := h.client().AcceptOAuth2ConsentRequest(h.t.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(*body).Execute()
	if err != nil {
		h.t.Fatalf("accept: %v, %s", err, bodyOf(err))
	}
	return to.RedirectTo
}

func (h *host) reject(challenge string, body hydra.RejectOAuth2Request) string {
	h.t.Helper()
	to, _, err := h.client().RejectOAuth2ConsentRequest(h.t.Context()).ConsentChallenge(challenge).RejectOAuth2Request(body).Execute()
	if err != nil {
		h.t.Fatalf("reject: %v, %s", err, bodyOf(err))
	}
	return to.RedirectTo
}

func bodyOf(err error) string {
	var generic *hydra.GenericOpenAPIError
	if errors.As(err, &generic) {
		return string(generic.Body())
	}
	return ""
}

// wantError compares what the API answered, and the shape of it.
func wantError(t testing.TB, resp *http.Response, err error, status int) map[string]any {
	t.Helper()
	if resp == nil || resp.StatusCode != status || err == nil {
		t.Errorf("got %v, %v, want status %d", resp, err, status)
		return nil
	}
	var body map[string]any
	if json.Unmarshal([]byte(bodyOf(err)), &body) != nil || body["error"] == "" || body["error_description"] == "" || body["status_code"] != float64(status) {
		t.Errorf("the error is %s", bodyOf(err))
	}
	if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Error("the answer may be stored, or taken for something else")
	}
	return body
}

// wantCode goes to an address and expects to be sent to the client with a code.
func (b *browser) wantCode(address string) string {
	b.h.t.Helper()
	status, location, body := b.get(address)
	code := location.Query().Get("code")
	if status != http.StatusSeeOther || code == "" || location.Query().Get("state") == "" {
		b.h.t.Fatalf("no code was issued: %d, %s, %s; the host says %v", status, location, body, b.h.refused)
	}
	return code
}

// wantAskedAgain goes to an address and expects to be sent to the authorization endpoint of the host, without a code.
func (b *browser) wantAskedAgain(address string, reason error) {
	b.h.t.Helper()
	status, location, body := b.get(address)
	if status != http.StatusSeeOther || location.Path != "/oauth2/auth" {
		b.h.t.Errorf("not asked again: %d, %s, %s", status, location, body)
	}
	b.h.wantNoted(reason)
}

// wantPage goes to an address and expects the host's page about the reason.
func (b *browser) wantPage(address string, reason error) {
	b.h.t.Helper()
	if status, location, body := b.get(address); status != http.StatusBadRequest || !strings.HasPrefix(body, "page:") {
		b.h.t.Errorf("no page: %d, %s, %s", status, location, body)
	}
	b.h.wantNoted(reason)
}

// exchange redeems a code.
func (h *host) exchange(code string) map[string]any {
	h.t.Helper()
	return h.post("/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}})
}

func (h *host) post(path string, form url.Values) map[string]any {
	h.t.Helper()
	resp, err := h.server.Client().PostForm(h.server.URL+path, form)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	if err := dec.Decode(&body); err != nil {
		h.t.Fatal(err)
	}
	return body
}

// cookies are those that the browser has of this host.
func (b *browser) cookies() []*http.Cookie {
	u, _ := url.Parse(b.h.server.URL)
	list := b.Jar.Cookies(u)
	slices.SortFunc(list, func(a, b *http.Cookie) int { return strings.Compare(a.Name, b.Name) })
	return list
}
