package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

const issuer = "https://as.example"

// host is an authorization server inside the test: fosite with all its handlers and
// its in-memory storage, and consent grants in PostgreSQL. It is for what happens
// between a decision and its response, which is inside one HTTP request of the
// example server.
type host struct {
	t        testing.TB
	pool     *pgxpool.Pool
	grants   *pgstore.Store
	store    *storage.MemoryStore
	config   *fosite.Config
	gate     *fositeconsent.Gate
	provider fosite.OAuth2Provider

	mu     sync.Mutex
	events []fositeconsent.Event
}

// newHost makes one on a pool, nil for a new database.
func newHost(t testing.TB, pool *pgxpool.Pool, configure ...func(*fositeconsent.Config)) *host {
	t.Helper()
	h := &host{t: t, pool: pool, store: newMemory(), config: newFositeConfig()}
	if h.pool == nil {
		h.pool = pgtest.Pool(t)
	}
	if err := pgstore.Migrate(context.Background(), h.pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.grants, err = pgstore.New(h.pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	config := fositeconsent.Config{Issuer: issuer, OnEvent: func(_ context.Context, e fositeconsent.Event) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.events = append(h.events, e)
	}}
	for _, f := range configure {
		f(&config)
	}
	if h.gate, err = fositeconsent.NewGate(h.grants, config); err != nil {
		t.Fatal(err)
	}
	if h.provider, err = h.gate.Protect(composeWith(h.config, h.store, append([]compose.Factory{h.gate.Factory}, issuing...)...)); err != nil {
		t.Fatal(err)
	}
	return h
}

func newFositeConfig() *fosite.Config {
	return &fosite.Config{
		GlobalSecret: []byte("a global secret of at least 32 bytes"), IDTokenIssuer: issuer,
		ScopeStrategy: fosite.ExactScopeStrategy, AudienceMatchingStrategy: fosite.ExactAudienceMatchingStrategy,
		EnablePKCEPlainChallengeMethod: true,
	}
}

// newMemory returns fosite's own storage with the clients.
func newMemory() *storage.MemoryStore {
	store := storage.NewMemoryStore()
	for _, c := range clients {
		store.Clients[c.ID] = memoryClient{&fosite.DefaultClient{
			ID: c.ID, Public: true, RedirectURIs: c.RedirectURIs, ResponseTypes: c.ResponseTypes,
			GrantTypes: c.GrantTypes, Scopes: strings.Fields(c.Scope), Audience: c.Audience,
		}}
	}
	return store
}

type memoryClient struct{ *fosite.DefaultClient }

func (memoryClient) GetResponseModes() []fosite.ResponseModeType {
	return []fosite.ResponseModeType{fosite.ResponseModeDefault, fosite.ResponseModeQuery, fosite.ResponseModeFragment, fosite.ResponseModeFormPost}
}

// issuing make the handlers that answer authorization requests, and those that
// take what was issued.
var issuing = []compose.Factory{
	compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2AuthorizeImplicitFactory, compose.OAuth2RefreshTokenGrantFactory,
	compose.OpenIDConnectExplicitFactory, compose.OpenIDConnectImplicitFactory, compose.OpenIDConnectHybridFactory,
	compose.OpenIDConnectRefreshFactory, compose.OAuth2TokenIntrospectionFactory, compose.OAuth2PKCEFactory,
}

func composeWith(config *fosite.Config, store any, factories ...compose.Factory) fosite.OAuth2Provider {
	key := func(context.Context) (any, error) { return rsaKey(), nil }
	return compose.Compose(config, store, &compose.CommonStrategy{
		CoreStrategy: compose.NewOAuth2HMACStrategy(config), OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(key, config),
	}, factories...)
}

// parse is fosite's reading of a request with parameters in the query and in the body.
func (h *host) parse(query, body url.Values) (fosite.AuthorizeRequester, error) {
	r := httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+query.Encode(), nil)
	if body != nil {
		r = httptest.NewRequest(http.MethodPost, "/oauth2/auth?"+query.Encode(), strings.NewReader(body.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return h.provider.NewAuthorizeRequest(context.Background(), r)
}

func (h *host) request(params url.Values) fosite.AuthorizeRequester {
	h.t.Helper()
	ar, err := h.parse(params, nil)
	if err != nil {
		h.t.Fatalf("fosite does not accept the request: %v", explain(err))
	}
	return ar
}

// login is the session of somebody who signed in so long ago.
func login(subject string, ago time.Duration) *openid.DefaultSession {
	s := openid.NewDefaultSession()
	s.Subject, s.Claims.Subject = subject, subject
	s.Claims.RequestedAt = time.Now().Add(-ago)
	s.Claims.AuthTime = s.Claims.RequestedAt
	return s
}

func (h *host) prompt(params url.Values, subject string) *fositeconsent.Prompt {
	h.t.Helper()
	p, err := h.gate.Prompt(context.Background(), h.request(params), login(subject, time.Minute))
	if err != nil {
		h.t.Fatalf("Prompt: %v", explain(err))
	}
	return p
}

func everythingOf(p *fositeconsent.Prompt) fositeconsent.Decision {
	return fositeconsent.Decision{Scopes: p.Scopes, Audience: p.Audience}
}

// mint approves everything.
func (h *host) mint(params url.Values, subject string) fositeconsent.Token {
	h.t.Helper()
	p := h.prompt(params, subject)
	token, err := h.gate.Mint(context.Background(), h.request(params), login(subject, time.Minute), p.Ticket, everythingOf(p))
	if err != nil {
		h.t.Fatalf("Mint: %v", explain(err))
	}
	return token
}

// respond asks for the response with a token.
func (h *host) respond(ar fosite.AuthorizeRequester, session fosite.Session, token fositeconsent.Token) (fosite.AuthorizeResponder, error) {
	return h.provider.NewAuthorizeResponse(fositeconsent.WithToken(context.Background(), token), ar, session)
}

// stored says what is in fosite's storage.
func (h *host) stored() string {
	return fmt.Sprintf("%d codes, %d access tokens, %d refresh tokens, %d PKCE requests, %d OpenID sessions",
		len(h.store.AuthorizeCodes), len(h.store.AccessTokens), len(h.store.RefreshTokens), len(h.store.PKCES), len(h.store.IDSessions))
}

const nothingStored = "0 codes, 0 access tokens, 0 refresh tokens, 0 PKCE requests, 0 OpenID sessions"

// redeem exchanges a code.
func (h *host) redeem(params url.Values, code, verifier string) (fosite.AccessResponder, fosite.AccessRequester, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "client_id": {params.Get("client_id")}, "code": {code},
		"redirect_uri": {params.Get("redirect_uri")}, "code_verifier": {verifier},
	}
	r := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request, err := h.provider.NewAccessRequest(context.Background(), r, openid.NewDefaultSession())
	if err != nil {
		return nil, nil, err
	}
	response, err := h.provider.NewAccessResponse(context.Background(), request)
	return response, request, err
}

func (h *host) lastEvent() fositeconsent.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[len(h.events)-1]
}

// explain returns what an error says inside fosite's.
func explain(err error) string {
	text := fmt.Sprint(err)
	for e := err; e != nil; e = errors.Unwrap(e) {
		text = e.Error()
	}
	if rfc := fosite.ErrorToRFC6749Error(err); rfc != nil {
		text = rfc.ErrorField + ": " + rfc.HintField + " " + text
	}
	return text
}

// sameEffect compares two parsed requests without the library's own idea of that: all
// that fosite made of them, and every parameter that is not excluded by name.
func sameEffect(a, b fosite.AuthorizeRequester) bool {
	view := func(ar fosite.AuthorizeRequester) string {
		form := clone(ar.GetRequestForm())
		for _, name := range fositeconsent.UnboundParameters() {
			form.Del(name)
		}
		for _, name := range []string{"scope", "audience", "response_type", "response_mode"} {
			form.Del(name)
		}
		if form.Get("code_challenge") != "" && form.Get("code_challenge_method") == "" {
			form.Set("code_challenge_method", "plain")
		}
		set := func(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }
		return fmt.Sprintf("%q %q %q %q %q %q %q %q", ar.GetClient().GetID(), ar.GetRedirectURI(), set(ar.GetResponseTypes()), ar.GetResponseMode(),
			set(ar.GetRequestedScopes()), set(ar.GetRequestedAudience()), ar.GetState(), form.Encode())
	}
	return view(a) == view(b)
}

// placed is a mutation and where its result is sent.
type placed struct {
	name        string
	query, body url.Values
}

// placements sends the changed parameters in every way: as the query, as the body,
// and against the original ones in the other place.
func placements(name string, original, changed url.Values) []placed {
	return []placed{
		{name + ", in the query", changed, nil},
		{name + ", in the body", nil, changed},
		{name + ", in the body against the query", original, changed},
		{name + ", in the query against the body", changed, original},
	}
}

// Between the decision and the response: an approval of one request is presented
// with every other one.
func TestApprovalIsGoodForItsOwnRequestAlone(t *testing.T) {
	t.Parallel()
	for name, params := range targets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, nil)
			var cases []placed
			for _, m := range mutations(params) {
				changed := clone(params)
				m.apply(changed)
				cases = append(cases, placements(m.String(), params, changed)...)
			}
			h.attack(params, cases)
		})
	}
}

// The same with several changes at once, chosen at random.
func TestApprovalIsGoodForNoRandomRequest(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	params := targets["a confidential client's code"]
	h := newHost(t, nil)
	list := mutations(params)
	var cases []placed
	for range 400 {
		query, body := clone(params), url.Values{}
		var names []string
		for range 1 + random.IntN(4) {
			m := list[random.IntN(len(list))]
			names = append(names, m.String())
			if random.IntN(3) == 0 {
				before := clone(query)
				m.apply(query)
				for name := range query { // what was changed is sent in the body, and the query keeps its own
					if !slices.Equal(query[name], before[name]) {
						body[name] = query[name]
						query[name] = before[name]
					}
				}
			} else {
				m.apply(query)
			}
		}
		if random.IntN(2) == 0 {
			body = nil
		}
		cases = append(cases, placed{strings.Join(names, "; "), query, body})
	}
	h.attack(params, cases)
}

// attack presents one approval with each of the requests, and with its own at the end.
func (h *host) attack(params url.Values, cases []placed) {
	h.t.Helper()
	subject := "alice"
	own := h.request(params)
	token := h.mint(params, subject)
	issued, refused, unparsed := 0, 0, 0
	for _, c := range cases {
		ar, err := h.parse(c.query, c.body)
		if err != nil {
			unparsed++ // fosite itself has refused
			continue
		}
		same := sameEffect(ar, own) && !repeats(ar)
		resp, err := h.respond(ar, login(subject, time.Minute), token)
		switch {
		case err == nil && !same:
			h.t.Errorf("%s: a response was made", c.name)
		case err == nil:
			issued++
			if got := resp.GetParameters().Get("state"); got != own.GetState() {
				h.t.Errorf("%s: state %q", c.name, got)
			}
			if !slices.Equal(ar.GetGrantedScopes(), own.GetRequestedScopes()) {
				h.t.Errorf("%s: granted %q", c.name, ar.GetGrantedScopes())
			}
			h.forget()
			token = h.mint(params, subject)
			continue
		default:
			refused++
			if got := h.stored(); got != nothingStored {
				h.t.Fatalf("%s: refused, and the storage has %s", c.name, got)
			}
			if resp != nil {
				h.t.Errorf("%s: refused, with a response", c.name)
			}
			if reason := h.lastEvent().Reason; reason != "binding_mismatch" && reason != "invalid_request" && reason != "login_required" {
				h.t.Errorf("%s: refused for the reason %s: %s", c.name, reason, explain(err))
			}
		}
	}
	if _, _, consumed := countIn(h.t, h.pool); consumed != issued {
		h.t.Errorf("%d grants were consumed for %d responses", consumed, issued)
	}
	if issued == 0 || refused < len(cases)/4 {
		h.t.Errorf("%d of %d presentations passed, %d were refused, %d could not be parsed: the attack is not what it is meant to be", issued, len(cases), refused, unparsed)
	}
	h.t.Logf("%d presentations: %d passed, %d refused, %d not parsed", len(cases), issued, refused, unparsed)
	// After all that, the approval is good for its own request, with its own proof key.
	resp, err := h.respond(h.request(params), login(subject, time.Minute), token)
	if err != nil {
		h.t.Fatalf("the approval is no longer good for its own request: %s", explain(err))
	}
	if code := resp.GetCode(); code != "" {
		proof := verifier
		if params.Get("code_challenge") == "" {
			proof = ""
		}
		if _, request, err := h.redeem(params, code, proof); err != nil {
			h.t.Errorf("its code cannot be redeemed: %s", explain(err))
		} else if !slices.Equal(request.GetGrantedScopes(), own.GetRequestedScopes()) {
			h.t.Errorf("the token has the scopes %q", request.GetGrantedScopes())
		}
	}
}

// repeats tells whether a parameter is there twice that may be there once.
func repeats(ar fosite.AuthorizeRequester) bool {
	for name, values := range ar.GetRequestForm() {
		if len(values) > 1 && name != "audience" && name != "resource" {
			return true
		}
	}
	return false
}

// forget empties fosite's storage.
func (h *host) forget() {
	h.store.AuthorizeCodes = map[string]storage.StoreAuthorizeCode{}
	clear(h.store.AccessTokens)
	clear(h.store.RefreshTokens)
	clear(h.store.PKCES)
	clear(h.store.IDSessions)
}

// Between the page and the decision, without a form in between.
func TestTicketIsGoodForItsOwnRequestAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	params := targets["a public client's hybrid"]
	own, p := h.request(params), h.prompt(params, "alice")
	refused := 0
	for _, m := range mutations(params) {
		changed := clone(params)
		m.apply(changed)
		for _, c := range placements(m.String(), params, changed) {
			ar, err := h.parse(c.query, c.body)
			if err != nil || sameEffect(ar, own) && !repeats(ar) && !ar.GetRequestForm().Has("prompt") {
				continue
			}
			refused++
			if _, err := h.gate.Mint(context.Background(), ar, login("alice", time.Minute), p.Ticket, everythingOf(p)); err == nil && !sameEffect(ar, own) {
				t.Errorf("%s: minted", c.name)
			} else if err == nil { // prompt=consent or login
				p = h.prompt(params, "alice")
			}
			if !sameEffect(ar, own) {
				if err := h.gate.Deny(context.Background(), ar, login("alice", time.Minute), p.Ticket); err == nil {
					t.Errorf("%s: denied", c.name)
				}
			}
		}
	}
	if refused < 100 {
		t.Errorf("only %d of the requests were others", refused)
	}
	if _, err := h.gate.Mint(context.Background(), h.request(params), login("alice", time.Minute), p.Ticket, everythingOf(p)); err != nil {
		t.Errorf("the ticket is no longer good: %s", explain(err))
	}
}

// A host that sets the gate up in a way in which something could be issued past it
// does not start.
func TestHostThatLeavesTheGateOutDoesNotStart(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	grants, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	newGate := func() *fositeconsent.Gate {
		gate, err := fositeconsent.NewGate(grants, fositeconsent.Config{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		return gate
	}
	for name, test := range map[string]struct {
		protect func() (fosite.OAuth2Provider, error)
		advice  string
	}{
		"left out": {func() (fosite.OAuth2Provider, error) {
			return newGate().Protect(composeWith(newFositeConfig(), newMemory(), issuing...))
		}, "first factory"},
		"last": {func() (fosite.OAuth2Provider, error) {
			gate := newGate()
			return gate.Protect(composeWith(newFositeConfig(), newMemory(), append(slices.Clone(issuing), gate.Factory)...))
		}, "those before it would issue without consent"},
		"second": {func() (fosite.OAuth2Provider, error) {
			gate := newGate()
			return gate.Protect(composeWith(newFositeConfig(), newMemory(), append([]compose.Factory{issuing[0], gate.Factory}, issuing[1:]...)...))
		}, "those before it would issue without consent"},
		"another gate": {func() (fosite.OAuth2Provider, error) {
			return newGate().Protect(composeWith(newFositeConfig(), newMemory(), append([]compose.Factory{newGate().Factory}, issuing...)...))
		}, "another gate"},
		"a configuration that another provider uses": {func() (fosite.OAuth2Provider, error) {
			config := newFositeConfig()
			composeWith(config, newMemory(), issuing...)
			gate := newGate()
			return gate.Protect(composeWith(config, newMemory(), append([]compose.Factory{gate.Factory}, issuing...)...))
		}, "those before it would issue without consent"},
		"one gate for two providers": {func() (fosite.OAuth2Provider, error) {
			gate := newGate()
			factories := append([]compose.Factory{gate.Factory}, issuing...)
			if _, err := gate.Protect(composeWith(newFositeConfig(), newMemory(), factories...)); err != nil {
				t.Error(err)
			}
			return gate.Protect(composeWith(newFositeConfig(), newMemory(), factories...))
		}, "one gate for each provider"},
		"a provider that was wrapped before": {func() (fosite.OAuth2Provider, error) {
			gate := newGate()
			return gate.Protect(struct{ fosite.OAuth2Provider }{composeWith(newFositeConfig(), newMemory(), append([]compose.Factory{gate.Factory}, issuing...)...)})
		}, "compose.Compose returned"},
		"none": {func() (fosite.OAuth2Provider, error) { return newGate().Protect(nil) }, "compose.Compose returned"},
	} {
		t.Run(name, func(t *testing.T) {
			provider, err := test.protect()
			if err == nil || provider != nil {
				t.Fatal("it starts")
			}
			if !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), test.advice) {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

// A host that puts handlers in front of the gate after the start, or that does not
// use what Protect returned, issues nothing either.
func TestHostThatMovesTheGateIssuesNothing(t *testing.T) {
	t.Parallel()
	params := authorization("app")
	t.Run("handlers exchanged later", func(t *testing.T) {
		h := newHost(t, nil)
		token := h.mint(params, "alice")
		handlers := h.config.AuthorizeEndpointHandlers
		slices.Reverse(handlers)
		if _, err := h.respond(h.request(params), login("alice", time.Minute), token); !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("got %v", err)
		}
		h.config.AuthorizeEndpointHandlers = handlers[:len(handlers)-1] // the gate, which is the last now
		if _, err := h.respond(h.request(params), login("alice", time.Minute), token); !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("got %v", err)
		}
		if got := h.stored(); got != nothingStored {
			t.Errorf("the storage has %s", got)
		}
	})
	t.Run("the provider from before Protect", func(t *testing.T) {
		h := newHost(t, nil)
		gate, err := fositeconsent.NewGate(h.grants, fositeconsent.Config{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		raw := composeWith(newFositeConfig(), h.store, append([]compose.Factory{gate.Factory}, issuing...)...)
		if _, err := gate.Protect(raw); err != nil {
			t.Fatal(err)
		}
		token := h.mint(params, "alice")
		if _, err := raw.NewAuthorizeResponse(fositeconsent.WithToken(context.Background(), token), h.request(params), login("alice", 0)); err == nil {
			t.Error("a response was made")
		}
		if got := h.stored(); got != nothingStored {
			t.Errorf("the storage has %s", got)
		}
	})
}
