package fositeconsent_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

const issuer = "https://as.example"

// signingKey is made once: an RSA key takes longer than all tests together.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// host is an authorization server as a user of this package builds one, on
// fosite's own in-memory storage and with all of its handlers.
type host struct {
	t        testing.TB
	clock    atomic.Int64 // added to the time, in nanoseconds
	grants   *spyStorage
	store    *storage.MemoryStore
	composed any // what fosite gets in the store's place, if that is something else
	config   *fosite.Config
	gate     *fositeconsent.Gate
	raw      fosite.OAuth2Provider // as compose made it
	provider fosite.OAuth2Provider // as Protect returned it

	mu     sync.Mutex
	events []fositeconsent.Event
}

type option func(*host, *fositeconsent.Config)

func newHost(t testing.TB, options ...option) *host {
	t.Helper()
	h := &host{t: t, store: storage.NewMemoryStore()}
	h.advance(-time.Hour) // fosite refuses a login in the future, and asks the real clock
	h.grants = &spyStorage{GrantStorage: consenttest.NewStorage(h.now)}
	h.store.Clients["app"] = &client{DefaultClient: &fosite.DefaultClient{
		ID: "app", Public: true,
		RedirectURIs:  []string{"https://app.example/cb", "https://app.example/other"},
		ResponseTypes: []string{"code", "token", "id_token", "id_token token", "code id_token", "code token", "code id_token token"},
		GrantTypes:    []string{"authorization_code", "implicit", "refresh_token"},
		Scopes:        []string{"openid", "offline_access", "photos", "photos.*", "contacts", "OPENID", "Offline", "openİd", "offlİne", "pho\"tos"},
		Audience:      []string{"https://api.example", "https://other.example"},
	}}
	h.config = &fosite.Config{
		GlobalSecret:                   []byte("a global secret of at least 32 bytes"),
		ScopeStrategy:                  fosite.ExactScopeStrategy,
		IDTokenIssuer:                  issuer,
		EnablePKCEPlainChallengeMethod: true,
	}
	config := fositeconsent.Config{Issuer: issuer, OnEvent: func(_ context.Context, e fositeconsent.Event) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.events = append(h.events, e)
	}}
	for _, o := range options {
		o(h, &config)
	}
	var err error
	if h.gate, err = fositeconsent.NewGate(h.grants, config); err != nil {
		t.Fatal(err)
	}
	h.gate.SetClock(h.now)
	factories := append([]compose.Factory{h.gate.Factory}, issuingFactories...)
	if config.Consents != nil {
		factories = append(factories, h.gate.TokenFactory)
	}
	h.raw = h.compose(factories...)
	if h.provider, err = h.gate.Protect(h.raw); err != nil {
		t.Fatal(err)
	}
	return h
}

// issuingFactories make the handlers that answer authorization requests.
var issuingFactories = []compose.Factory{
	compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2AuthorizeImplicitFactory, compose.OAuth2RefreshTokenGrantFactory,
	compose.OpenIDConnectExplicitFactory, compose.OpenIDConnectImplicitFactory, compose.OpenIDConnectHybridFactory,
	compose.OpenIDConnectRefreshFactory, compose.OAuth2TokenIntrospectionFactory, compose.OAuth2PKCEFactory,
	compose.PushedAuthorizeHandlerFactory,
}

func (h *host) compose(factories ...compose.Factory) fosite.OAuth2Provider {
	key := func(context.Context) (interface{}, error) { return signingKey(), nil }
	var store any = h.store
	if h.composed != nil {
		store = h.composed
	}
	return compose.Compose(h.config, store, &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(h.config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(key, h.config),
		Signer:                     &jwt.DefaultSigner{GetPrivateKey: key},
	}, factories...)
}

func (h *host) now() time.Time          { return time.Now().Add(time.Duration(h.clock.Load())) }
func (h *host) advance(d time.Duration) { h.clock.Add(int64(d)) }
func (h *host) event() fositeconsent.Event { // the last one
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		h.t.Fatal("no event was sent")
	}
	return h.events[len(h.events)-1]
}

// client allows every response mode.
type client struct{ *fosite.DefaultClient }

func (c *client) GetResponseModes() []fosite.ResponseModeType {
	return []fosite.ResponseModeType{fosite.ResponseModeDefault, fosite.ResponseModeQuery, fosite.ResponseModeFragment, fosite.ResponseModeFormPost}
}

// params is a request for a code that uses all that the client may have.
func params(pairs ...string) url.Values {
	form := url.Values{
		"client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"},
		"scope": {"openid photos offline_access"}, "audience": {"https://api.example"},
		"state": {"0123456789abcdef"}, "nonce": {"fedcba9876543210"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			form.Del(pairs[i])
		} else {
			form.Set(pairs[i], pairs[i+1])
		}
	}
	return form
}

// parse is fosite's reading of a request.
func (h *host) parse(form url.Values) fosite.AuthorizeRequester {
	h.t.Helper()
	ar, err := h.provider.NewAuthorizeRequest(context.Background(), httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+form.Encode(), nil))
	if err != nil {
		h.t.Fatalf("fosite does not accept the request: %v (%s)", err, fosite.ErrorToRFC6749Error(err).HintField)
	}
	return ar
}

// login is the session of somebody who has just signed in.
func (h *host) login(subject string) *openid.DefaultSession {
	s := openid.NewDefaultSession()
	s.Subject, s.Claims.Subject = subject, subject
	s.Claims.AuthTime = h.now()
	s.Claims.RequestedAt = s.Claims.AuthTime
	return s
}

func (h *host) prompt(form url.Values, subject string) *fositeconsent.Prompt {
	h.t.Helper()
	p, err := h.gate.Prompt(context.Background(), h.parse(form), h.login(subject))
	if err != nil {
		h.t.Fatalf("Prompt: %v", cause(err))
	}
	return p
}

// approve mints for everything that is requested.
func (h *host) approve(form url.Values, subject string) fositeconsent.Token {
	h.t.Helper()
	p := h.prompt(form, subject)
	token, err := h.gate.Mint(context.Background(), h.parse(form), h.login(subject), p.Ticket, all(p))
	if err != nil {
		h.t.Fatalf("Mint: %v", cause(err))
	}
	return token
}

func all(p *fositeconsent.Prompt) fositeconsent.Decision {
	return fositeconsent.Decision{Scopes: p.Scopes, Audience: p.Audience}
}

// respond asks for the response to a request in a session with a token.
func (h *host) respond(ar fosite.AuthorizeRequester, session fosite.Session, token fositeconsent.Token) (fosite.AuthorizeResponder, error) {
	return h.provider.NewAuthorizeResponse(fositeconsent.WithToken(context.Background(), token), ar, session)
}

// answer is respond for a request that is parsed anew.
func (h *host) answer(form url.Values, subject string, token fositeconsent.Token) (fosite.AuthorizeResponder, error) {
	h.t.Helper()
	return h.respond(h.parse(form), h.login(subject), token)
}

// stored is how many rows fosite's storage has.
func (h *host) stored() int {
	return len(h.store.AuthorizeCodes) + len(h.store.AccessTokens) + len(h.store.RefreshTokens) + len(h.store.PKCES) + len(h.store.IDSessions)
}

// cause is what an error says to a person who reads the logs.
func cause(err error) error {
	if err == nil {
		return nil
	}
	if e := fosite.ErrorToRFC6749Error(err); e.Cause() != nil {
		return e.Cause()
	}
	return err
}

// spyStorage counts, and can be told to fail or to lie.
type spyStorage struct {
	fositeconsent.GrantStorage
	created, consumed atomic.Int32
	onCreate          func(*fositeconsent.Grant) error
	onConsume         func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error)

	mu         sync.Mutex
	attempts   []fositeconsent.Attempt
	lastCreate *fositeconsent.Grant

	lastGranted *fositeconsent.Grant
}

// errAllBack, returned by onCreate, makes creating succeed and store nothing, as if
// it were rolled back.
var errAllBack = errors.New("rolled back")

func (s *spyStorage) CreateConsentGrant(ctx context.Context, g *fositeconsent.Grant) error {
	s.created.Add(1)
	s.mu.Lock()
	s.lastCreate = g
	s.mu.Unlock()
	if s.onCreate != nil {
		if err := s.onCreate(g); errors.Is(err, errAllBack) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return s.GrantStorage.CreateConsentGrant(ctx, g)
}

func (s *spyStorage) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	s.consumed.Add(1)
	s.mu.Lock()
	s.attempts = append(s.attempts, p.Attempt)
	s.mu.Unlock()
	g, err := s.GrantStorage.ConsumeConsentGrant(ctx, p)
	if s.onConsume != nil {
		return s.onConsume(g, err)
	}
	return g, err
}

func equalSets(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
