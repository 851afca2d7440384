package fositeconsent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// verifier is that of the challenge in params.
const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

// code has alice approve a request, and returns the code.
func (h *consentHost) code(remember *fositeconsent.Remember) string {
	h.t.Helper()
	p := h.prompt(params(), "alice")
	d := all(p)
	d.Remember = remember
	resp, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), p.Ticket, d), h.parse(params()), h.login("alice"))
	if err != nil {
		h.t.Fatalf("not approved: %v", cause(err))
	}
	return resp.GetParameters().Get("code")
}

// post is a call of the token endpoint, as a host makes it, and returns what it got.
func (h *host) post(form url.Values) (fosite.AccessResponder, error) {
	h.t.Helper()
	ctx := context.Background()
	r := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	ar, err := h.provider.NewAccessRequest(ctx, r, openid.NewDefaultSession())
	if err != nil {
		return nil, err
	}
	resp, err := h.provider.NewAccessResponse(ctx, ar)
	if (resp == nil) != (err != nil) {
		h.t.Fatalf("a response %v with error %v", resp, err)
	}
	return resp, err
}

func (h *host) exchange(code string) (fosite.AccessResponder, error) {
	h.t.Helper()
	return h.post(url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"app"}, "code": {code},
		"redirect_uri": {"https://app.example/cb"}, "code_verifier": {verifier},
	})
}

func (h *host) refresh(token string) (fosite.AccessResponder, error) {
	h.t.Helper()
	return h.post(url.Values{"grant_type": {"refresh_token"}, "client_id": {"app"}, "refresh_token": {token}})
}

// exchanged returns the refresh token that a code was exchanged for.
func (h *host) exchanged(resp fosite.AccessResponder, err error) string {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("refused: %v", cause(err))
	}
	token, _ := resp.GetExtra("refresh_token").(string)
	if token == "" {
		h.t.Fatal("there is no refresh token")
	}
	return token
}

// isActive reports whether an access token passes introspection.
func (h *host) isActive(token string) bool {
	_, _, err := h.provider.IntrospectToken(context.Background(), token, fosite.AccessToken, openid.NewDefaultSession())
	return err == nil
}

var everything = fositeconsent.Selection{Subject: "alice"}

// mark revokes for the storage of consents only, as if fosite's had nothing to revoke yet.
func (h *consentHost) mark() {
	h.t.Helper()
	selection := everything
	selection.Issuer = issuer
	n, err := h.consents.ConsentStorage.RevokeConsents(context.Background(), selection, func(context.Context, fositeconsent.Ended) error { return nil })
	if n != 1 || err != nil {
		h.t.Fatalf("RevokeConsents: %d, %v", n, err)
	}
}

// wantEnded checks what a client and the operator are told.
func (h *consentHost) wantEnded(err, reason error, label string) {
	h.t.Helper()
	if !errors.Is(err, fosite.ErrInvalidGrant) || !errors.Is(err, reason) {
		h.t.Fatalf("got %v, want invalid_grant because of %v", cause(err), reason)
	}
	tokens := 0
	for _, e := range h.events {
		if e.Action == fositeconsent.ActionToken {
			tokens++
		}
	}
	if tokens != 1 {
		h.t.Errorf("%d events of the token endpoint", tokens)
	}
	if e := h.event(); e.Action != fositeconsent.ActionToken || e.Reason != label || !errors.Is(e.Err, reason) || e.Subject != "alice" || e.ClientID != "app" {
		h.t.Errorf("the event is %+v", e)
	}
	h.events = nil
}

func TestACodeIsNotExchangedAfterARevocation(t *testing.T) {
	t.Parallel()
	for name, remember := range map[string]*fositeconsent.Remember{"remembered": {}, "not remembered": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newConsentHost(t)
			code := h.code(remember)
			if n, err := h.gate.Revoke(t.Context(), everything); n != 1 || err != nil {
				t.Fatalf("Revoke: %d, %v", n, err)
			}
			_, err := h.exchange(code)
			h.wantEnded(err, fositeconsent.ErrConsentRevoked, "consent_revoked")
			if len(h.store.AccessTokens)+len(h.store.RefreshTokens) != 0 {
				t.Error("something was issued")
			}
		})
	}
}

func TestARefreshIsRefusedAfterARevocation(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	refresh := h.exchanged(h.exchange(h.code(nil)))
	refresh = h.exchanged(h.refresh(refresh)) // it is good until then
	stored := len(h.store.RefreshTokens)
	h.mark()
	_, err := h.refresh(refresh)
	h.wantEnded(err, fositeconsent.ErrConsentRevoked, "consent_revoked")
	if len(h.store.RefreshTokens) != stored {
		t.Error("something was issued")
	}
}

// TestARevocationEndsTokens: by fosite's own storage.
func TestARevocationEndsTokens(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	resp, err := h.exchange(h.code(&fositeconsent.Remember{}))
	refresh := h.exchanged(resp, err)
	other := h.exchanged(h.exchange(func() string { // somebody else's
		form := params()
		token := h.approve(form, "bob")
		resp, err := h.answer(form, "bob", token)
		if err != nil {
			t.Fatal(cause(err))
		}
		return resp.GetCode()
	}()))
	if !h.isActive(resp.GetAccessToken()) {
		t.Fatal("the access token was never good")
	}
	if n, err := h.gate.Revoke(t.Context(), everything); n != 1 || err != nil {
		t.Fatalf("Revoke: %d, %v", n, err)
	}
	if h.isActive(resp.GetAccessToken()) {
		t.Error("the access token outlived the revocation")
	}
	if _, err := h.refresh(refresh); !errors.Is(err, fosite.ErrInvalidGrant) {
		t.Errorf("a refresh: %v", cause(err))
	}
	h.exchanged(h.refresh(other))
	h.isAsked(params("prompt", ""), "alice")
}

func TestNothingIsIssuedUnderAnExpiredConsent(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	remember := &fositeconsent.Remember{Lifespan: 5 * time.Minute, OfflineAccess: true}
	code, second := h.code(remember), h.code(remember)
	refresh := h.exchanged(h.exchange(code))
	h.advance(5*time.Minute - time.Second)
	refresh = h.exchanged(h.refresh(refresh))
	h.advance(time.Second)
	_, err := h.refresh(refresh)
	h.wantEnded(err, fositeconsent.ErrConsentExpired, "consent_expired")
	_, err = h.exchange(second)
	h.wantEnded(err, fositeconsent.ErrConsentExpired, "consent_expired")
}

// TestARevocationBesideTheIssueEndsIt has the revocation come after the first check. It looks
// for tokens before there are any, or, as fosite's storage goes, when there are.
func TestARevocationBesideTheIssueEndsIt(t *testing.T) {
	t.Parallel()
	for name, refreshing := range map[string]bool{"an exchange": false, "a refresh": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newConsentHost(t)
			code := h.code(nil)
			var refresh string
			if refreshing {
				refresh = h.exchanged(h.exchange(code))
			}
			before := len(h.store.RefreshTokens)
			h.consents.checked = 0
			var issued []string
			h.consents.onCheck = func(n int, _ string) error {
				switch n {
				case 1:
					if len(h.store.RefreshTokens) != before {
						t.Error("issued before the first check")
					}
				case 2:
					if len(h.store.RefreshTokens) != before+1 {
						t.Error("the second check comes before anything is issued")
					}
					for signature := range h.store.AccessTokens {
						issued = append(issued, signature)
					}
					h.mark() // which sees no tokens, as if it had looked before they were there
				}
				return nil
			}
			var err error
			if refreshing {
				_, err = h.refresh(refresh)
			} else {
				_, err = h.exchange(code)
			}
			h.wantEnded(err, fositeconsent.ErrConsentRevoked, "consent_revoked")
			if len(issued) != 1 || len(h.store.AccessTokens) != 0 {
				t.Errorf("of the access tokens %v these are left: %v", issued, h.store.AccessTokens)
			}
			for signature := range h.store.RefreshTokens {
				if _, err := h.store.GetRefreshTokenSession(t.Context(), signature, nil); !errors.Is(err, fosite.ErrInactiveToken) {
					t.Errorf("a refresh token is good: %v", err)
				}
			}
		})
	}
}

func TestWhatIsNotKnownOfConsentsPasses(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	code := h.code(nil)
	for _, stored := range h.store.AuthorizeCodes {
		stored.Requester.SetID("from before consents were kept")
	}
	refresh := h.exchanged(h.exchange(code))
	h.mark()
	h.exchanged(h.refresh(refresh))
}

func TestAStorageThatCannotBeAskedIssuesNothing(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{
		"an error":                      errors.New("connection refused"),
		"a deadline":                    context.DeadlineExceeded,
		"a reason of another call":      fositeconsent.ErrGrantConsumed,
		"a name by which fosite goes":   fmt.Errorf("query: %w", fosite.ErrUnknownRequest),
		"not found":                     fosite.ErrNotFound,
		"a failure that names a reason": fmt.Errorf("%w: %w", fositeconsent.ErrStorage, fositeconsent.ErrConsentRevoked),
	} {
		for _, at := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s at check %d", name, at), func(t *testing.T) {
				t.Parallel()
				h := newConsentHost(t)
				code := h.code(nil)
				h.consents.checked = 0
				h.consents.onCheck = func(n int, _ string) error {
					if n == at {
						return failure
					}
					return nil
				}
				_, err := h.exchange(code)
				if !errors.Is(err, fosite.ErrServerError) || !errors.Is(err, fositeconsent.ErrStorage) || errors.Is(err, fosite.ErrUnknownRequest) {
					t.Errorf("got %v, want server_error", cause(err))
				}
				if e := h.event(); e.Action != fositeconsent.ActionToken || e.Reason != "storage" {
					t.Errorf("the event is %+v", e)
				}
				if h.consents.checked != at || len(h.store.AccessTokens) != 0 {
					t.Errorf("after %d checks there are %d access tokens", h.consents.checked, len(h.store.AccessTokens))
				}
			})
		}
	}
}

// TestTheClientHearsOneThing: whatever ended the consent.
func TestTheClientHearsOneThing(t *testing.T) {
	t.Parallel()
	bodies := make(map[string]bool)
	for _, reason := range []error{fositeconsent.ErrConsentRevoked, fositeconsent.ErrConsentExpired} {
		for _, at := range []int{1, 2} {
			h := newConsentHost(t)
			h.config.SendDebugMessagesToClients = true
			code := h.code(nil)
			h.consents.checked = 0
			h.consents.onCheck = func(n int, _ string) error {
				if n == at {
					return reason
				}
				return nil
			}
			_, err := h.exchange(code)
			w := httptest.NewRecorder()
			h.provider.WriteAccessError(t.Context(), w, nil, err)
			bodies[fmt.Sprint(w.Code, w.Body.String())] = true
		}
	}
	for body := range bodies {
		if len(bodies) > 1 || !strings.Contains(body, `"invalid_grant"`) || strings.Contains(body, "fositeconsent") {
			t.Errorf("the client hears %s", body)
		}
	}
}

func TestOtherGrantsAreNotTheGatesBusiness(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.store.Clients["service"] = &fosite.DefaultClient{
		ID: "service", Secret: []byte("$2a$10$IxMdI6d.LIRZPpSfEwNoeu4rY3FhDREsxFJXikcgdRRAStxUlsuEO"), // foobar
		GrantTypes: []string{"client_credentials"},
	}
	h.config.TokenEndpointHandlers = nil
	h.config.AuthorizeEndpointHandlers = nil
	var err error
	h.provider, err = h.gate.Protect(h.composeOn(h.store, h.gate.Factory, compose.OAuth2ClientCredentialsGrantFactory, compose.OAuth2AuthorizeExplicitFactory, h.gate.TokenFactory))
	if err != nil {
		t.Fatal(err)
	}
	h.consents.onCheck = func(int, string) error { return errors.New("not to be asked") }
	resp, err := h.post(url.Values{"grant_type": {"client_credentials"}, "client_id": {"service"}, "client_secret": {"foobar"}})
	if err != nil || resp.GetAccessToken() == "" {
		t.Errorf("client_credentials: %v", cause(err))
	}
	// A grant that nobody handles is not handled by the gate either.
	if _, err := h.refresh("ory_rt_a.b"); !errors.Is(err, fosite.ErrInvalidRequest) {
		t.Errorf("a refresh that nobody handles: %v", cause(err))
	}
	if h.consents.checked != 0 {
		t.Error("the storage was asked")
	}
	handler := h.gate.TokenFactory(nil, nil, nil).(fosite.TokenEndpointHandler)
	// Not even what somebody has found, and may not answer for.
	found := fosite.NewAccessRequest(nil)
	found.GrantTypes = fosite.Arguments{"refresh_token"}
	found.SetID("found")
	h.consents.onCheck = nil
	if err := handler.HandleTokenEndpointRequest(t.Context(), found); !errors.Is(err, fosite.ErrUnknownRequest) || h.consents.checked != 1 {
		t.Errorf("a request that was found: %v after %d checks", err, h.consents.checked)
	}
	for _, grants := range []fosite.Arguments{{"client_credentials"}, {"password"}, {"refresh_token", "password"}, {"Authorization_Code"}, {}, {"urn:ietf:params:oauth:grant-type:device_code"}} {
		request := fosite.NewAccessRequest(nil)
		request.GrantTypes = grants
		if handler.CanHandleTokenEndpointRequest(t.Context(), request) || handler.CanSkipClientAuth(t.Context(), request) {
			t.Errorf("the gate handles %v", grants)
		}
		if err := handler.HandleTokenEndpointRequest(t.Context(), request); !errors.Is(err, fosite.ErrUnknownRequest) {
			t.Errorf("%v: %v", grants, err)
		}
		if err := handler.PopulateTokenEndpointResponse(t.Context(), request, fosite.NewAccessResponse()); !errors.Is(err, fosite.ErrUnknownRequest) {
			t.Errorf("%v: %v", grants, err)
		}
	}
}

func (h *host) composeOn(store any, factories ...compose.Factory) fosite.OAuth2Provider {
	return compose.Compose(h.config, store, &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(h.config)}, factories...)
}

// setBased is a storage that ends what was issued for many requests at once.
type setBased struct {
	*storage.MemoryStore
	revoked []string
}

func (s *setBased) RevokeRequests(_ context.Context, requestIDs []string) error {
	s.revoked = append(s.revoked, requestIDs...)
	return nil
}

func TestProtectFindsTheGateLastAtTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	plain, h, other := newHost(t), newConsentHost(t), newConsentHost(t)
	explicit, refresh := compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2RefreshTokenGrantFactory
	for name, c := range map[string]struct {
		gate      *fositeconsent.Gate
		store     any
		factories []compose.Factory
		says      string // "" if it is right
	}{
		"last":                          {h.gate, h.store, []compose.Factory{h.gate.Factory, explicit, refresh, h.gate.TokenFactory}, ""},
		"last but for what has no part": {h.gate, h.store, []compose.Factory{h.gate.Factory, explicit, h.gate.TokenFactory, compose.OAuth2TokenIntrospectionFactory}, ""},
		"left out":                      {h.gate, h.store, []compose.Factory{h.gate.Factory, explicit, refresh}, "codes could be exchanged after a revocation: pass gate.TokenFactory"},
		"left out where it may":         {h.gate, &setBased{MemoryStore: h.store}, []compose.Factory{h.gate.Factory, explicit, refresh}, ""},
		"first":                         {h.gate, h.store, []compose.Factory{h.gate.TokenFactory, h.gate.Factory, explicit, refresh}, "number 1 of 3 at the token endpoint"},
		"in between":                    {h.gate, h.store, []compose.Factory{h.gate.Factory, explicit, h.gate.TokenFactory, refresh}, "number 2 of 3 at the token endpoint"},
		"in between where it may be left out": {
			h.gate, &setBased{MemoryStore: h.store}, []compose.Factory{h.gate.Factory, explicit, h.gate.TokenFactory, refresh}, "number 2 of 3",
		},
		"another gate's":   {h.gate, h.store, []compose.Factory{h.gate.Factory, explicit, refresh, other.gate.TokenFactory}, "another gate"},
		"with no consents": {plain.gate, plain.store, []compose.Factory{plain.gate.Factory, explicit, refresh, plain.gate.TokenFactory}, "nobody to ask"},
	} {
		t.Run(name, func(t *testing.T) {
			fresh := &host{config: &fosite.Config{GlobalSecret: []byte("a global secret of at least 32 bytes")}}
			_, err := c.gate.Protect(fresh.composeOn(c.store, c.factories...))
			switch {
			case c.says == "" && err != nil && !strings.Contains(err.Error(), "already protects a provider"): // it was right
				t.Error(err)
			case c.says != "" && (!errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("Protect: %v, want it to say %q", err, c.says)
			}
		})
	}
}

// TestComposedTooEarlyIssuesNothing: a host can change its configuration at any time.
func TestComposedTooEarlyIssuesNothing(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	code := h.code(nil)
	handlers := h.config.TokenEndpointHandlers
	h.config.TokenEndpointHandlers = append(fosite.TokenEndpointHandlers{handlers[len(handlers)-1]}, handlers[:len(handlers)-1]...)
	h.mark()
	_, err := h.exchange(code)
	if !errors.Is(err, fosite.ErrServerError) || !errors.Is(err, fositeconsent.ErrMisconfigured) || len(h.store.AccessTokens) != 0 {
		t.Errorf("got %v and %d access tokens", cause(err), len(h.store.AccessTokens))
	}
	if _, err := h.ask(params(), "alice"); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("an authorization request: %v", cause(err))
	}
}

func TestATokenThatCannotBeRevokedDoesNotLeave(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) { h.composed = &brokenRevocation{MemoryStore: h.store} })
	code := h.code(nil)
	h.consents.checked = 0
	h.consents.onCheck = func(n int, _ string) error {
		if n == 2 {
			h.mark()
		}
		return nil
	}
	resp, err := h.exchange(code)
	if resp != nil || !errors.Is(err, errBrokenRevocation) {
		t.Errorf("got %v and %v", resp, cause(err))
	}
	h.wantEnded(err, fositeconsent.ErrConsentRevoked, "consent_revoked")
}

var errBrokenRevocation = errors.New("the tokens' storage is down")

// brokenRevocation is a storage that cannot revoke.
type brokenRevocation struct{ *storage.MemoryStore }

func (*brokenRevocation) RevokeRefreshToken(context.Context, string) error {
	return errBrokenRevocation
}

// TestTheCallersContextDoesNotSaveTokens: it may be over by then, which may be why the storage
// could not be asked.
func TestTheCallersContextDoesNotSaveTokens(t *testing.T) {
	t.Parallel()
	store := &contextual{}
	h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) {
		store.MemoryStore = h.store
		h.composed = store
	})
	code := h.code(nil)
	ctx, cancel := context.WithCancel(t.Context())
	h.consents.checked = 0
	h.consents.onCheck = func(n int, _ string) error {
		if n == 2 {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	r := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"app"}, "code": {code},
		"redirect_uri": {"https://app.example/cb"}, "code_verifier": {verifier},
	}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	ar, err := h.provider.NewAccessRequest(ctx, r, openid.NewDefaultSession())
	if err != nil {
		t.Fatal(cause(err))
	}
	if _, err := h.provider.NewAccessResponse(ctx, ar); !errors.Is(err, fositeconsent.ErrStorage) {
		t.Errorf("got %v", cause(err))
	}
	if ctx.Err() == nil || store.revoked != 1 || len(h.store.AccessTokens) != 0 {
		t.Errorf("%d refresh tokens were revoked, and %d access tokens are left", store.revoked, len(h.store.AccessTokens))
	}
}

// contextual is a storage that does nothing in a context that is over.
type contextual struct {
	*storage.MemoryStore
	revoked int
}

func (s *contextual) RevokeRefreshToken(ctx context.Context, requestID string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.revoked++
	return s.MemoryStore.RevokeRefreshToken(ctx, requestID)
}

// refusing is fosite's in-memory storage, which refuses by itself.
type refusing struct {
	*storage.MemoryStore
	read, use error
}

func (s *refusing) RevokeRequests(context.Context, []string) error { return nil }

func (s *refusing) GetAuthorizeCodeSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	if s.read != nil {
		return nil, s.read
	}
	return s.MemoryStore.GetAuthorizeCodeSession(ctx, signature, session)
}

func (s *refusing) InvalidateAuthorizeCodeSession(ctx context.Context, signature string) error {
	if s.use != nil {
		return s.use
	}
	return s.MemoryStore.InvalidateAuthorizeCodeSession(ctx, signature)
}

// What the storage itself refuses because of a consent, early or in a race, is answered and reported
// like what the gate's handler refuses. Other errors are fosite's.
func TestWhatTheStorageRefusesIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		read, use, want error
		label           string
	}{
		"early":       {read: fmt.Errorf("storage: %w: %w", fosite.ErrNotFound, fositeconsent.ErrConsentExpired), want: fositeconsent.ErrConsentExpired, label: "consent_expired"},
		"in a race":   {use: fmt.Errorf("storage: %w", fositeconsent.ErrConsentRevoked), want: fositeconsent.ErrConsentRevoked, label: "consent_revoked"},
		"for another": {use: errors.New("away")},
	} {
		h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) {
			h.composed = &refusing{MemoryStore: h.store, read: c.read, use: c.use}
		})
		code := h.code(nil)
		before := len(h.events)
		_, err := h.exchange(code)
		if c.want == nil {
			if !errors.Is(err, fosite.ErrServerError) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, fosite.ErrInvalidGrant) || !errors.Is(err, c.want) || fosite.ErrorToRFC6749Error(err).ErrorField != "invalid_grant" {
			t.Errorf("%s: %v", name, cause(err))
		}
		if e := h.event(); len(h.events) != before+1 || e.Action != fositeconsent.ActionToken || e.Reason != c.label || e.ClientID != "app" {
			t.Errorf("%s: %d events, the last one %+v", name, len(h.events)-before, e)
		}
	}
}
