package fositeconsent_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"
	"golang.org/x/crypto/bcrypt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// pushes is fosite's storage in memory, with pushed requests that can be read again.
type pushes struct {
	*storage.MemoryStore

	mu      sync.Mutex
	claimed []string
	fail    error // of a claim
	failGet error
}

var _ fositeconsent.PushedRequestStorage = (*pushes)(nil)

func (p *pushes) GetPARSession(ctx context.Context, requestURI string) (fosite.AuthorizeRequester, error) {
	if p.failGet != nil {
		return nil, p.failGet
	}
	return p.MemoryStore.GetPARSession(ctx, requestURI)
}

func (p *pushes) SetClientAssertionJWT(ctx context.Context, jti string, exp time.Time) error {
	if p.fail != nil {
		return p.fail
	}
	return p.MemoryStore.SetClientAssertionJWT(ctx, jti, exp)
}

func (p *pushes) DeletePARSession(context.Context, string) error { return nil }

func (p *pushes) ClaimPushedAuthorizeRequest(_ context.Context, requestURI string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	if slices.Contains(p.claimed, requestURI) {
		return fositeconsent.ErrRequestURIUsed
	}
	p.claimed = append(p.claimed, requestURI)
	return nil
}

// keepingPushes composes fosite with pushes.
func keepingPushes(h *host, _ *fositeconsent.Config) { h.composed = &pushes{MemoryStore: h.store} }

func (h *host) pushes() *pushes { return h.composed.(*pushes) }

// tryPush has the provider read a pushed request.
func (h *host) tryPush(r *http.Request) (*fosite.AuthorizeRequest, error) {
	h.t.Helper()
	ar, err := h.provider.NewPushedAuthorizeRequest(h.t.Context(), r)
	request, ok := ar.(*fosite.AuthorizeRequest)
	if !ok || request == nil {
		h.t.Fatalf("the request is a %T (%v)", ar, err)
	}
	return request, err
}

// accept stores a request that was pushed, and returns its request_uri.
func (h *host) accept(ar fosite.AuthorizeRequester) string {
	h.t.Helper()
	resp, err := h.provider.NewPushedAuthorizeResponse(h.t.Context(), ar, openid.NewDefaultSession())
	if err != nil {
		h.t.Fatal(explain(err))
	}
	return resp.GetRequestURI()
}

// push pushes a request that is good.
func (h *host) push(form url.Values) string {
	h.t.Helper()
	ar, err := h.tryPush(post(form))
	if err != nil {
		h.t.Fatal(explain(err))
	}
	return h.accept(ar)
}

func TestPushedRequestOutlivesLoginAndConsent(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	pushed := params("client_id", "signer", "resource", "https://r.example")
	form := url.Values{"client_id": {"signer"}, "request_uri": {h.push(pushed)}}
	pushed.Set("request_uri", form.Get("request_uri"))

	// The login page, the consent page, and the page once more in another tab.
	var tabs [2]*fositeconsent.Prompt
	for i := range tabs {
		ar := h.read1(form)
		if !reflect.DeepEqual(ar.Form, pushed) {
			t.Fatalf("the form is %v, expected %v", ar.Form, pushed)
		}
		var err error
		if tabs[i], err = h.gate.Prompt(t.Context(), ar, h.login("peter")); err != nil {
			t.Fatal(cause(err))
		}
	}
	// Both are approved; one of them is answered.
	for i, p := range tabs {
		ar := h.read1(form)
		token, err := h.gate.Mint(t.Context(), ar, h.login("peter"), p.Ticket, all(p))
		if err != nil {
			t.Fatal(cause(err))
		}
		before := h.stored()
		resp, err := h.respond(ar, h.login("peter"), token)
		if i == 0 {
			if err != nil || resp.GetCode() == "" {
				t.Fatalf("no code: %v", cause(err))
			}
			continue
		}
		if resp != nil || !errors.Is(err, fositeconsent.ErrRequestURIUsed) || !isClientError(err, fosite.ErrInvalidRequestURI) || fositeconsent.NeedsConsent(err) {
			t.Errorf("the second response: %v, %s", resp, explain(err))
		}
		if h.stored() != before {
			t.Error("something was stored for the second response")
		}
		if e := h.event(); e.Reason != "request_uri_used" {
			t.Errorf("the reason is %q", e.Reason)
		}
		w := httptest.NewRecorder()
		h.provider.WriteAuthorizeError(t.Context(), w, ar, err)
		if to, err := w.Result().Location(); err != nil || !strings.HasPrefix(to.String(), "https://app.example/cb?") || to.Query().Get("error") != "invalid_request_uri" || to.Query().Get("state") != "0123456789abcdef" {
			t.Errorf("the client hears of it at %s", to)
		}
	}
}

// One request_uri, one response, whoever is first.
func TestOneResponseAmongConcurrentTabs(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	form := url.Values{"client_id": {"signer"}, "request_uri": {h.push(params("client_id", "signer"))}}
	const n = 16
	var requests [n]*fosite.AuthorizeRequest
	var tokens [n]fositeconsent.Token
	for i := range n {
		requests[i] = h.read1(form)
		p, err := h.gate.Prompt(t.Context(), requests[i], h.login("peter"))
		if err != nil {
			t.Fatal(cause(err))
		}
		if tokens[i], err = h.gate.Mint(t.Context(), requests[i], h.login("peter"), p.Ticket, all(p)); err != nil {
			t.Fatal(cause(err))
		}
	}
	var wg sync.WaitGroup
	var errs [n]error
	for i := range n {
		wg.Go(func() { _, errs[i] = h.respond(requests[i], h.login("peter"), tokens[i]) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, fositeconsent.ErrRequestURIUsed) {
			t.Error(cause(err))
		}
	}
	if won != 1 || len(h.store.AuthorizeCodes) != 1 {
		t.Errorf("%d responses and %d codes for one request_uri", won, len(h.store.AuthorizeCodes))
	}
}

// REQUIREMENTS 14: what is no longer allowed is not issued, also when it was approved.
func TestPolicyIsCheckedAgainWhenTheResponseIsIssued(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*host, *signer)
		want   error
	}{
		"the redirect URI is gone": {func(_ *host, c *signer) { c.RedirectURIs = c.RedirectURIs[1:] }, fosite.ErrInvalidRequest},
		"the response type":        {func(_ *host, c *signer) { c.ResponseTypes = []string{"token"} }, fosite.ErrUnsupportedResponseType},
		"a scope":                  {func(_ *host, c *signer) { c.Scopes = []string{"openid"} }, fosite.ErrInvalidScope},
		"the client":               {func(h *host, _ *signer) { delete(h.store.Clients, "signer") }, fosite.ErrInvalidClient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, carry := range carriers {
				h, l := newSignerHost(t, keepingPushes)
				form := carry(h, l, sign(t, claims()))
				ar := h.read1(form)
				p, err := h.gate.Prompt(t.Context(), ar, h.login("peter"))
				if err != nil {
					t.Fatal(cause(err))
				}
				token, err := h.gate.Mint(t.Context(), ar, h.login("peter"), p.Ticket, all(p))
				if err != nil {
					t.Fatal(cause(err))
				}
				changed := newSigner("signer")
				h.store.Clients["signer"] = changed
				test.change(h, &changed)
				resp, err := h.respond(ar, h.login("peter"), token)
				h.refused(resp, err, fositeconsent.ErrInvalidRequest)
				if !isClientError(err, test.want) || fositeconsent.NeedsConsent(err) || h.grants.consumed.Load() != 0 || len(h.pushes().claimed) != 0 {
					t.Errorf("%s; %d grants were consumed, %v claimed", explain(err), h.grants.consumed.Load(), h.pushes().claimed)
				}
			}
		})
	}
}

func TestPushedRequestIsClaimedOnce(t *testing.T) {
	t.Parallel()
	h, l := newSignerHost(t, keepingPushes)
	one := url.Values{"client_id": {"signer"}, "request_uri": {h.push(params("client_id", "signer"))}}
	two := url.Values{"client_id": {"signer"}, "request_uri": {h.push(params("client_id", "signer"))}}
	for _, form := range []url.Values{one, two} {
		if err := fositeconsent.Claim(t.Context(), h.provider, h.read1(form)); err != nil {
			t.Errorf("the first claim: %v", cause(err))
		}
		err := fositeconsent.Claim(t.Context(), h.provider, h.read1(form))
		if !errors.Is(err, fositeconsent.ErrRequestURIUsed) || !errors.Is(err, fosite.ErrInvalidRequestURI) || fositeconsent.NeedsConsent(err) {
			t.Errorf("the second claim: %s", explain(err))
		}
	}
	if want := []string{one.Get("request_uri"), two.Get("request_uri")}; !slices.Equal(h.pushes().claimed, want) {
		t.Errorf("claimed %v, expected %v", h.pushes().claimed, want)
	}

	// What was not pushed is not claimed.
	object := sign(t, claims())
	for _, form := range []url.Values{params(), params("request_uri", ""), carriers["by value"](h, l, object), carriers["by reference"](h, l, object)} {
		if err := fositeconsent.Claim(t.Context(), h.provider, h.read1(form)); err != nil {
			t.Error(cause(err))
		}
	}
	if len(h.pushes().claimed) != 2 {
		t.Errorf("claimed %v", h.pushes().claimed)
	}

	ar := h.read1(one)
	for fail, want := range map[error]error{
		fosite.ErrNotFound:                      fosite.ErrInvalidRequestURI,
		errors.New("the database is gone"):      fosite.ErrServerError,
		context.DeadlineExceeded:                fosite.ErrTemporarilyUnavailable,
		fositeconsent.ErrGrantConsumed:          fosite.ErrServerError, // not for this method to say
		fositeconsent.ErrConsentRequired:        fosite.ErrServerError,
		fositeconsent.ErrRequestURIUsed:         fosite.ErrInvalidRequestURI,
		errors.Join(fosite.ErrNotFound, nil):    fosite.ErrInvalidRequestURI,
		fosite.ErrNotFound.WithDebug("a debug"): fosite.ErrInvalidRequestURI,
	} {
		h.pushes().fail = fail
		if err := fositeconsent.Claim(t.Context(), h.provider, ar); !isClientError(err, want) || fositeconsent.NeedsConsent(err) || strings.Contains(fosite.ErrorToRFC6749Error(err).Debug(), "debug") {
			t.Errorf("%v: %s", fail, explain(err))
		}
	}
}

func TestWithoutClaimsAPushedRequestIsGoodForOneVisit(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t)
	form := url.Values{"client_id": {"signer"}, "request_uri": {h.push(params("client_id", "signer"))}}
	if _, err := h.read(get(url.Values{"request_uri": form["request_uri"]})); !errors.Is(err, fosite.ErrInvalidRequest) { // whose visit is none
		t.Error(explain(err))
	}
	if err := fositeconsent.Claim(t.Context(), h.provider, h.read1(form)); err != nil {
		t.Error(cause(err))
	}
	if ar, err := h.read(get(form)); !errors.Is(err, fosite.ErrInvalidRequestURI) || ar.IsRedirectURIValid() {
		t.Error(explain(err))
	}
}

func TestStorageThatFailsIsNoAnswer(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	form := url.Values{"client_id": {"signer"}, "request_uri": {h.push(params("client_id", "signer"))}}
	for fail, want := range map[error]error{
		fosite.ErrNotFound:                 fosite.ErrInvalidRequestURI,
		errors.New("the database is gone"): fosite.ErrServerError,
		context.DeadlineExceeded:           fosite.ErrTemporarilyUnavailable,
	} {
		h.pushes().failGet = fail
		if ar, err := h.read(get(form)); !errors.Is(err, want) || errors.Is(err, fositeconsent.ErrStorage) == errors.Is(want, fosite.ErrInvalidRequestURI) || ar.IsRedirectURIValid() {
			t.Errorf("%v: %s", fail, explain(err))
		}
	}
	h.pushes().failGet = nil
	h.read1(form)

	// Nor is it the request object's fault.
	h.config.TokenURL = "https://as.example/token"
	h.store.Clients["key"] = confidential(t, "key", "private_key_jwt")
	h.pushes().fail = errors.New("the database is gone")
	_, err := h.tryPush(post(url.Values{
		"client_id": {"key"}, "request": {sign(t, claims("client_id", "key"))},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {sign(t, assertion())},
	}))
	if !errors.Is(err, h.pushes().fail) || fosite.ErrorToRFC6749Error(err).CodeField < 500 {
		t.Error(explain(err))
	}
}

func TestPushedRequestIsForTheClientThatPushedIt(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	requestURI := h.push(params("client_id", "signer"))
	for _, other := range []string{"app", "nobody", "Signer"} {
		ar, err := h.read(get(url.Values{"client_id": {other}, "request_uri": {requestURI}, "state": {"a state beside"}}))
		// Nobody is sent to the client that pushed, who knows nothing of this.
		if !errors.Is(err, fosite.ErrInvalidRequest) || ar.IsRedirectURIValid() || ar.State != "" || len(ar.Form) != 2 {
			t.Errorf("%s: %s, %v", other, explain(err), ar.Form)
		}
	}
	h.read1(url.Values{"client_id": {"signer"}, "request_uri": {requestURI}})
}

// fosite compares with the client_id of the form, not with who has authenticated.
func TestOneClientCannotPushInTheNameOfAnother(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	h.store.Clients["web"] = confidential(t, "web", "client_secret_basic")
	for name, form := range map[string]url.Values{
		"of a public client":       params("client_id", "signer"),
		"of a client with a key":   {"client_id": {"signer"}, "request": {sign(t, claims())}},
		"of one that is not there": params("client_id", "nobody"),
	} {
		r := post(form)
		r.SetBasicAuth("web", "the secret of web")
		ar, err := h.tryPush(r)
		if !errors.Is(err, fosite.ErrInvalidClient) {
			t.Errorf("%s: %s pushed as %v: %v", name, "web", ar.GetClient().GetID(), err)
		}
	}
	// An object that names another client than the one that authenticated.
	r := post(url.Values{"request": {sign(t, claims("client_id", "signer"))}})
	r.SetBasicAuth("web", "the secret of web")
	if _, err := h.tryPush(r); !errors.Is(err, fosite.ErrInvalidRequestObject) {
		t.Errorf("by an object: %s", explain(err))
	}
	// In its own name it can, also without saying so.
	for _, form := range []url.Values{params("client_id", "web"), params("client_id", ""), {"request": {sign(t, claims("client_id", "web"))}}, {"request": {sign(t, claims("client_id", nil))}}} {
		r := post(form)
		r.SetBasicAuth("web", "the secret of web")
		ar, err := h.tryPush(r)
		if err != nil || ar.GetClient().GetID() != "web" || ar.Form.Get("client_id") != "web" {
			t.Errorf("its own name: %s, %v", explain(err), ar.Form)
		}
	}
}

// confidential is a client with a secret and a key.
func confidential(t *testing.T, id, method string) signer {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("the secret of "+id), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	c := newSigner(id)
	c.Public, c.Secret, c.TokenEndpointAuthMethod, c.TokenEndpointAuthSigningAlgorithm = false, hash, method, "RS256"
	return c
}

func TestCredentialsAreNotKeptWithAPushedRequest(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		clientID, method string
		credentials      url.Values
		basic            string
		fails            bool
	}{
		"a secret":           {"web", "client_secret_post", url.Values{"client_secret": {"the secret of web"}}, "", false},
		"a secret as header": {"web", "client_secret_basic", nil, "the secret of web", false},
		"a wrong secret":     {"web", "client_secret_post", url.Values{"client_secret": {"the secret of somebody"}}, "", true},
		"an assertion": {"key", "private_key_jwt", url.Values{
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {sign(t, assertion())}}, "", false},
		"a wrong assertion": {"key", "private_key_jwt", url.Values{
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {sign(t, map[string]any{"sub": "key"})}}, "", true},
		"a secret that nobody asked for": {"signer", "none", url.Values{"client_assertion": {"x"}}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, form := range map[string]url.Values{
				"parameters": params("client_id", test.clientID),
				"an object":  {"client_id": {test.clientID}, "request": {sign(t, claims("client_id", test.clientID, "client_secret", "in the object", "client_assertion", "in the object"))}},
			} {
				h, _ := newSignerHost(t, keepingPushes)
				h.config.TokenURL = "https://as.example/token"
				if test.clientID != "signer" {
					h.store.Clients[test.clientID] = confidential(t, test.clientID, test.method)
				}
				maps.Copy(form, test.credentials)
				r := post(form)
				if test.basic != "" {
					r.SetBasicAuth(test.clientID, test.basic)
				}
				ar, err := h.tryPush(r)
				if (err != nil) != test.fails || test.fails && !errors.Is(err, fosite.ErrInvalidClient) {
					t.Errorf("%s: %s", how, explain(err))
				}
				text, errText := json.Marshal(ar.Form)
				if errText != nil || slices.ContainsFunc([]string{"client_secret", "client_assertion", "client_assertion_type"}, ar.Form.Has) || strings.Contains(string(text), "the secret of") {
					t.Errorf("%s: the form is %s", how, text)
				}
				if !test.fails {
					if ar := h.read1(url.Values{"client_id": {test.clientID}, "request_uri": {h.accept(ar)}}); ar.State != "0123456789abcdef" {
						t.Errorf("%s: the state is %q", how, ar.State)
					}
				}
			}
		})
	}
}

// assertion authenticates the client "key".
func assertion() map[string]any {
	return map[string]any{"iss": "key", "sub": "key", "aud": "https://as.example/token", "exp": time.Now().Add(time.Hour).Unix(), "jti": "1"}
}

func TestParametersBesideAPushedRequestObjectChangeNothing(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	alone := url.Values{"client_id": {"signer"}, "request": {sign(t, claims("nonce", nil, "audience", nil, "max_age", 60))}}
	ar, err := h.tryPush(post(alone))
	if err != nil {
		t.Fatal(explain(err))
	}
	want := effectOf(ar)
	if want.Form.Get("max_age") != "60" || !slices.Equal(want.Scopes, []string{"openid", "photos", "offline_access"}) || want.State != "0123456789abcdef" {
		t.Fatalf("pushed %+v", want)
	}
	for name, values := range beside {
		with := maps.Clone(alone)
		with[name] = values[:1]
		if name == "client_secret" {
			continue // fosite reads it
		}
		for method, r := range map[string]*http.Request{"body": post(with), "query": half(url.Values{name: values[:1]}, alone)} {
			if ar, err := h.tryPush(r); err != nil || !reflect.DeepEqual(effectOf(ar), want) {
				t.Errorf("%s in the %s: %+v, %v", name, method, ar, err)
			}
		}
	}
}

func TestPushThatHasNoSingleMeaningIsRefused(t *testing.T) {
	t.Parallel()
	h, l := newSignerHost(t, keepingPushes)
	object := sign(t, claims())
	pushed := h.push(params("client_id", "signer"))
	for name, form := range map[string]url.Values{
		"a pushed request in a pushed one": params("client_id", "signer", "request_uri", pushed),
		"a reference in a pushed one":      params("client_id", "signer", "request_uri", l.location()),
		"a request_uri twice, once empty":  merged(params("client_id", "signer"), url.Values{"request_uri": {"", pushed}}),
		"a request_uri twice, both empty":  merged(params("client_id", "signer"), url.Values{"request_uri": {"", ""}}),
		"an object and a request_uri":      {"client_id": {"signer"}, "request": {object}, "request_uri": {pushed}},
		"two objects":                      {"client_id": {"signer"}, "request": {object, object}},
		"a state twice":                    merged(params("client_id", "signer"), url.Values{"state": {"0123456789abcdef", "0123456789abcdef"}}),
		"a state twice beside an object":   {"client_id": {"signer"}, "request": {object}, "state": {"a", "b"}},
		"text that is none":                params("client_id", "signer", "custom", "\xff"),
		"a secret twice":                   merged(params("client_id", "signer"), url.Values{"client_secret": {"", "x"}}),
	} {
		if _, err := h.tryPush(post(form)); !errors.Is(err, fosite.ErrInvalidRequest) {
			t.Errorf("%s: %s", name, explain(err))
		}
	}
	r := get(params("client_id", "signer"))
	if _, err := h.tryPush(r); !errors.Is(err, fosite.ErrInvalidRequest) {
		t.Errorf("by GET: %s", explain(err))
	}
	// An empty one is as good as none (RFC 6749, Section 3.1), and does not stand in the place
	// of the one that comes of the push.
	for _, form := range []url.Values{
		merged(params("client_id", "signer"), url.Values{"request_uri": {""}}),
		{"client_id": {"signer"}, "request": {object}, "request_uri": {""}},
	} {
		ar := h.read1(url.Values{"client_id": {"signer"}, "request_uri": {h.push(form)}})
		if err := fositeconsent.Claim(t.Context(), h.provider, ar); err != nil || len(h.pushes().claimed) == 0 {
			t.Errorf("not claimed: %v", cause(err))
		}
		h.pushes().claimed = nil
	}
}

// A push that somebody stored without this package.
func TestPushedRequestCannotNameAnother(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	ar, err := h.tryPush(post(params("client_id", "signer")))
	if err != nil {
		t.Fatal(explain(err))
	}
	ar.Form.Set("request_uri", "")
	ar.Form.Set("client_id", "app")
	requestURI := h.accept(ar)
	got := h.read1(url.Values{"client_id": {"signer"}, "request_uri": {requestURI}})
	if got.Form.Get("request_uri") != requestURI || got.Form.Get("client_id") != "signer" {
		t.Errorf("the form is %v", got.Form)
	}
}

func merged(form, more url.Values) url.Values {
	maps.Copy(form, more)
	return form
}

// A storage may hand out what it keeps, and fosite writes errors into the redirect URI.
func TestPushedRequestIsNotChangedByItsVisitors(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t, keepingPushes)
	form := url.Values{"client_id": {"signer"}, "request_uri": {h.push(params("client_id", "signer"))}}
	first := h.read1(form)
	want := first.RedirectURI.String()
	h.provider.WriteAuthorizeError(t.Context(), httptest.NewRecorder(), first, fosite.ErrAccessDenied)
	first.Form.Set("state", "changed")
	first.Form.Set("request_uri", "changed")
	second := h.read1(form)
	if second.RedirectURI.String() != want || second.Form.Get("state") != "0123456789abcdef" {
		t.Errorf("it goes to %s with %v", second.RedirectURI, second.Form)
	}
}

// REQUIREMENTS 14: RFC 9126, Sections 4, 7.4 and 7.5.
func TestPolicyIsCheckedAgainAfterThePush(t *testing.T) {
	t.Parallel()
	full := params("client_id", "signer", "response_mode", "query")
	for name, test := range map[string]struct {
		form   url.Values
		change func(*host, *signer)
		want   error
		back   bool // the client can hear of it
	}{
		"nothing":                      {full, func(*host, *signer) {}, nil, true},
		"more is allowed":              {full, func(_ *host, c *signer) { c.Scopes = append(c.Scopes, "more") }, nil, true},
		"the redirect URI is gone":     {full, func(_ *host, c *signer) { c.RedirectURIs = []string{"https://app.example/other"} }, fosite.ErrInvalidRequest, false},
		"the redirect URI has a slash": {full, func(_ *host, c *signer) { c.RedirectURIs = []string{"https://app.example/cb/"} }, fosite.ErrInvalidRequest, false},
		"all redirect URIs are gone":   {full, func(_ *host, c *signer) { c.RedirectURIs = nil }, fosite.ErrInvalidRequest, false},
		"the response type":            {full, func(_ *host, c *signer) { c.ResponseTypes = []string{"code id_token", "token"} }, fosite.ErrUnsupportedResponseType, true},
		"all response types":           {full, func(_ *host, c *signer) { c.ResponseTypes = []string{} }, nil, true}, // fosite: code
		"the response mode":            {params("client_id", "signer", "response_mode", "form_post"), func(h *host, c *signer) { h.store.Clients["signer"] = c.DefaultOpenIDConnectClient }, fosite.ErrUnsupportedResponseMode, true},
		"the response mode alone":      {params("client_id", "signer", "response_mode", "form_post"), func(h *host, c *signer) { h.store.Clients["signer"] = queryClient{*c} }, fosite.ErrUnsupportedResponseMode, true},
		"another response mode":        {full, func(h *host, c *signer) { h.store.Clients["signer"] = queryClient{*c} }, nil, true},
		"a mode that is the default":   {params("client_id", "signer"), func(h *host, c *signer) { h.store.Clients["signer"] = c.DefaultOpenIDConnectClient }, nil, true},
		"a default in the fragment": {params("client_id", "signer", "response_type", "code id_token"), func(h *host, c *signer) {
			h.store.Clients["signer"] = c.DefaultOpenIDConnectClient
		}, nil, true},
		"a default that is spelled out": {full, func(h *host, c *signer) { h.store.Clients["signer"] = c.DefaultOpenIDConnectClient }, fosite.ErrUnsupportedResponseMode, true},
		"a scope":                       {full, func(_ *host, c *signer) { c.Scopes = []string{"openid", "offline_access"} }, fosite.ErrInvalidScope, true},
		"the audience":                  {full, func(_ *host, c *signer) { c.Audience = []string{"https://other.example"} }, fosite.ErrInvalidRequest, true},
		"the client":                    {full, func(h *host, _ *signer) { delete(h.store.Clients, "signer") }, fosite.ErrInvalidClient, false},
		"pushing is enforced":           {full, func(h *host, _ *signer) { h.config.IsPushedAuthorizeEnforced = true }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Once between the push and the page, and once between the page and the response.
			h, _ := newSignerHost(t, keepingPushes)
			visit := url.Values{"client_id": {"signer"}, "request_uri": {h.push(test.form)}}
			shown := h.read1(visit)
			changed := newSigner("signer")
			h.store.Clients["signer"] = changed
			test.change(h, &changed)
			check := func(ar *fosite.AuthorizeRequest, err error) {
				t.Helper()
				if test.want == nil && err != nil || test.want != nil && !isClientError(err, test.want) {
					t.Errorf("%s, expected %v", explain(err), test.want)
				}
				if err != nil && fositeconsent.NeedsConsent(err) {
					t.Error("a page cannot mend this")
				}
				if err != nil && ar.IsRedirectURIValid() != (test.back) {
					t.Errorf("the client can hear of it: %t", !test.back)
				}
				if err == nil && !reflect.DeepEqual(ar.GetClient(), h.store.Clients["signer"]) {
					t.Errorf("the client is that of the push: %+v", ar.GetClient())
				}
			}
			check(shown, fositeconsent.CheckPolicy(t.Context(), h.provider, shown))
			ar, err := h.read(get(visit))
			check(ar, err)
		})
	}
}

// isClientError reports whether the client is told of this error.
func isClientError(err, want error) bool {
	return err != nil && fosite.ErrorToRFC6749Error(err).ErrorField == fosite.ErrorToRFC6749Error(want).ErrorField
}

func TestPolicyIsCheckedForEveryRequest(t *testing.T) {
	t.Parallel()
	h, l := newSignerHost(t, keepingPushes)
	object := sign(t, claims())
	for name, form := range map[string]url.Values{
		"plain": params(), "no redirect URI": params("client_id", "one", "redirect_uri", "", "scope", "photos"),
		"every response type": params("response_type", "code id_token token"),
		"form_post":           params("response_mode", "form_post"),
		"by value":            carriers["by value"](h, l, object), "by reference": carriers["by reference"](h, l, object),
		"pushed": carriers["pushed"](h, l, object),
	} {
		one := newSigner("one")
		one.RedirectURIs = one.RedirectURIs[:1]
		h.store.Clients["one"] = one
		ar := h.read1(form)
		if err := fositeconsent.CheckPolicy(t.Context(), h.provider, ar); err != nil {
			t.Errorf("%s: %s", name, explain(err))
		}
		// With one redirect URI a request need not name it, and gets no other one for that.
		if !ar.Form.Has("redirect_uri") {
			one.RedirectURIs[0] = "https://app.example/other"
			if err := fositeconsent.CheckPolicy(t.Context(), h.provider, ar); !errors.Is(err, fosite.ErrInvalidRequest) || ar.IsRedirectURIValid() {
				t.Errorf("%s: %s", name, explain(err))
			}
		}
	}

	enforced := h.read1(params())
	pushed := h.read1(carriers["pushed"](h, l, object))
	h.config.IsPushedAuthorizeEnforced = true
	if err := fositeconsent.CheckPolicy(t.Context(), h.provider, enforced); !errors.Is(err, fosite.ErrInvalidRequest) {
		t.Errorf("not pushed: %s", explain(err))
	}
	if err := fositeconsent.CheckPolicy(t.Context(), h.provider, pushed); err != nil {
		t.Errorf("pushed: %s", explain(err))
	}
	h.config.IsPushedAuthorizeEnforced = false

	// A mode that nobody writes any more would end up in the query.
	pushed.ResponseMode = "query.jwt"
	h.store.Clients["signer"] = jwtClient{newSigner("signer")}
	if err := fositeconsent.CheckPolicy(t.Context(), h.provider, pushed); !errors.Is(err, fosite.ErrUnsupportedResponseMode) {
		t.Errorf("a mode that nobody writes: %s", explain(err))
	}
}

type queryClient struct{ signer }

func (queryClient) GetResponseModes() []fosite.ResponseModeType {
	return []fosite.ResponseModeType{fosite.ResponseModeQuery}
}

type jwtClient struct{ signer }

func (c jwtClient) GetResponseModes() []fosite.ResponseModeType {
	return append(c.signer.GetResponseModes(), "query.jwt")
}

// failing is a storage whose GetClient does something else.
type failing struct {
	*storage.MemoryStore
	client fosite.Client
	err    error
	on     bool
}

func (f *failing) GetClient(ctx context.Context, id string) (fosite.Client, error) {
	if f.on {
		return f.client, f.err
	}
	return f.MemoryStore.GetClient(ctx, id)
}

func TestClientThatCannotBeLoadedIsNoPermission(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		client fosite.Client
		err    error
		want   error
	}{
		"a failure":      {nil, errors.New("the database is gone"), fosite.ErrServerError},
		"a timeout":      {nil, context.DeadlineExceeded, fosite.ErrTemporarilyUnavailable},
		"nothing":        {nil, nil, fosite.ErrServerError},
		"no client":      {(*fosite.DefaultClient)(nil), nil, fosite.ErrServerError},
		"another client": {newSigner("other"), nil, fosite.ErrServerError},
	} {
		var store *failing
		h, _ := newSignerHost(t, func(h *host, _ *fositeconsent.Config) {
			store = &failing{MemoryStore: h.store, client: test.client, err: test.err}
			h.composed = store
		})
		ar := h.read1(params())
		store.on = true
		if err := fositeconsent.CheckPolicy(t.Context(), h.provider, ar); !errors.Is(err, test.want) || !errors.Is(err, fositeconsent.ErrStorage) {
			t.Errorf("%s: %s", name, explain(err))
		}
	}
	h, _ := newSignerHost(t)
	for _, ar := range []fosite.AuthorizeRequester{nil, (*fosite.AuthorizeRequest)(nil), &fosite.AuthorizeRequest{}} {
		if err := fositeconsent.CheckPolicy(t.Context(), h.provider, ar); !errors.Is(err, fositeconsent.ErrInvalidRequest) {
			t.Errorf("%v: %v", ar, err)
		}
	}
}
