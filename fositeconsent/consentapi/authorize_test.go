package consentapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// ask calls Authorize as the host does, with a query and cookies of the test's.
func (h *host) ask(query string, cookies ...*http.Cookie) (*http.Response, bool, error) {
	h.t.Helper()
	r := httptest.NewRequest(http.MethodGet, h.server.URL+"/oauth2/auth?"+params().Encode(), nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	ar, err := h.provider.NewAuthorizeRequest(r.Context(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	_, sent, err := h.api.Authorize(w, r, h.provider, ar, h.newSession(), query)
	return w.Result(), sent, err
}

func TestAQueryThatCannotBeMadeAgainIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	for name, query := range map[string]string{
		"too long":        "state=" + strings.Repeat("x", consentapi.MaxQuerySize),
		"not well-formed": "state=%zz",
		"no text":         "state=\xff",
	} {
		resp, sent, err := h.ask(query)
		if sent || !errors.Is(err, fosite.ErrInvalidRequest) || len(resp.Cookies()) > 0 || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %v, %v", name, sent, err)
		}
	}
	if _, sent, err := h.ask("state=" + strings.Repeat("x", consentapi.MaxQuerySize-len("state="))); !sent || err != nil {
		t.Errorf("as long as it may be: %v, %v", sent, err)
	}
}

func TestWhereTheHostSaysNoNothingIsSent(t *testing.T) {
	t.Parallel()
	no := errors.New("the host says no")
	for name, o := range map[string]options{
		"of a client": {api: func(c *consentapi.Config) {
			c.DescribeClient = func(context.Context, fosite.Client, *consentapi.Client) error { return no }
		}},
		"of a login": {api: func(c *consentapi.Config) {
			c.DescribeLogin = func(context.Context, fosite.AuthorizeRequester, fosite.Session, *consentapi.Login) error { return no }
		}},
		"of what it has approved": {
			api: func(c *consentapi.Config) { c.AskAlways = true },
			gate: func(c *fositeconsent.Config) {
				c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return false, no }
			},
		},
	} {
		h := newHost(t, o)
		if _, sent, err := h.ask(params().Encode()); sent || !errors.Is(err, no) || !errors.Is(err, fosite.ErrServerError) {
			t.Errorf("%s: %v, %v", name, sent, err)
		}
	}
	h := newHost(t, options{api: func(c *consentapi.Config) {
		c.DescribeLogin = func(_ context.Context, _ fosite.AuthorizeRequester, _ fosite.Session, l *consentapi.Login) error {
			l.Context = json.RawMessage("{")
			return nil
		}
	}})
	if _, sent, err := h.ask(params().Encode()); sent || !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("a context that is no JSON: %v, %v", sent, err)
	}
}

func TestASkipThatCannotBeLookedUpIsAnErrorAndLosesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		var fails atomic.Bool
		h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.AskAlways = true }, gate: func(c *fositeconsent.Config) {
			c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) {
				if fails.Load() {
					return true, errors.New("the host's own database is away")
				}
				return true, nil
			}
		}})
		b := h.browser()
		to := h.accept(b.start(params()), accepting("openid"))
		fails.Store(true)
		if _, location, _ := b.get(to); location.Query().Get("error") != "server_error" || location.Query().Get("code") != "" {
			t.Errorf("got %s", location)
		}
		fails.Store(false)
		b.wantCode(to)
	})
}

func TestAClientIsDescribedUnderItsOwnID(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{api: func(c *consentapi.Config) {
		c.DescribeClient = func(_ context.Context, _ fosite.Client, shown *consentapi.Client) error {
			shown.ClientID = "another"
			shown.RedirectURIs[0] = "https://another.example/"
			return nil
		}
	}})
	b := h.browser()
	challenge := b.start(params())
	asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
	if err != nil || asked.Client.GetClientId() != "app" || asked.Client.GetTokenEndpointAuthMethod() != "none" {
		t.Errorf("the client is %+v, %v", asked, err)
	}
	b.wantCode(h.accept(challenge, accepting("openid")))
}

// What fails although consent is there is no reason to ask for it.
func TestAResponseThatFailsIsNotSentToTheApplication(t *testing.T) {
	t.Parallel()
	failure := errors.New("a handler that fails")
	h := newHost(t, options{gate: func(c *fositeconsent.Config) {
		c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return true, nil }
	}})
	h.failWith(failure)
	if resp, sent, err := h.ask(params().Encode()); sent || !errors.Is(err, failure) || len(resp.Cookies()) > 0 {
		t.Errorf("got %v, %v", sent, err)
	}
	h.api, _ = consentapi.New(h.gate, h.storage, func() consentapi.Config { c := h.config; c.AskAlways = true; return c }())
	if _, sent, err := h.askNothing(); sent || !errors.Is(err, fositeconsent.ErrInvalidRequest) {
		t.Errorf("of no request: %v, %v", sent, err)
	}
}

func (h *host) askNothing() (*http.Response, bool, error) {
	w := httptest.NewRecorder()
	_, sent, err := h.api.Authorize(w, httptest.NewRequest(http.MethodGet, "/", nil), h.provider, nil, h.newSession(), "")
	return w.Result(), sent, err
}

func TestARequestLastsNoLongerThanThePromptAndTheCookieNoLongerThanThat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prompt, request time.Duration
		atMost          int
	}{{time.Minute, 10 * time.Minute, 60}, {10 * time.Minute, time.Minute, 60}, {time.Minute, 0, 60}, {time.Second, 0, 1}} {
		h := newHost(t, options{
			gate: func(g *fositeconsent.Config) { g.PromptLifespan = c.prompt },
			api:  func(a *consentapi.Config) { a.Lifespan = c.request },
		})
		resp, sent, err := h.ask(params().Encode())
		if !sent || err != nil {
			t.Fatal(err)
		}
		if got := resp.Cookies()[0].MaxAge; got > c.atMost || got < c.atMost-5 || got < 1 {
			t.Errorf("%+v: the cookie lasts %d seconds", c, got)
		}
	}
}

func TestTheOldestCookieGoesHoweverTheyAreSent(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	name := func(n int) string { return fmt.Sprintf("__Host-consent-%032x", n) }
	var cookies []*http.Cookie
	for _, n := range []int{5, 3, 9, 2, 8, 1, 4, 7, 6, 9, 9} {
		cookies = append(cookies, &http.Cookie{Name: name(n), Value: "x"})
	}
	// What has another form is somebody else's.
	cookies = append(cookies, &http.Cookie{Name: "__Host-consent-settings", Value: "x"}, &http.Cookie{Name: "session", Value: "x"})
	resp, _, err := h.ask(params().Encode(), cookies...)
	if err != nil {
		t.Fatal(err)
	}
	var dropped []string
	for _, c := range resp.Cookies() {
		if c.MaxAge < 0 {
			dropped = append(dropped, c.Name)
		}
	}
	if want := []string{name(1), name(2)}; !slices.Equal(dropped, want) {
		t.Errorf("dropped %v, want %v", dropped, want)
	}
}

// Of two cookies of one name, one was set by somebody who can set cookies for this host, and knows what it holds.
func TestTwoCookiesOfOneNameAreNone(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	b := h.browser()
	to := h.accept(b.start(params()), accepting("openid"))
	own := b.cookies()[0]
	for _, values := range [][]string{{own.Value, "x"}, {"x", own.Value}, {own.Value, own.Value}, {own.Value + "A"}, {own.Value[4:]}, {""}} {
		r := httptest.NewRequest(http.MethodGet, to, nil)
		for _, value := range values {
			r.AddCookie(&http.Cookie{Name: own.Name, Value: value})
		}
		if resumed, err := h.api.Resume(r); resumed != nil || !errors.Is(err, consentapi.ErrForeignBrowser) {
			t.Errorf("%q: %v", values, err)
		}
	}
	b.wantCode(to)
}

func TestAClientThatIsGoneIsListedByItsID(t *testing.T) {
	t.Parallel()
	var client fosite.Client
	var failure error
	h := newHost(t, options{api: func(c *consentapi.Config) {
		c.GetClient = func(context.Context, string) (fosite.Client, error) { return client, failure }
	}})
	b := h.browser()
	b.wantCode(h.accept(b.start(params()), accepting("openid")))
	for name, c := range map[string]struct {
		client fosite.Client
		err    error
		status int
	}{
		"not found":     {nil, fosite.ErrNotFound, http.StatusOK},
		"nil":           {nil, nil, http.StatusOK},
		"a nil pointer": {(*fosite.DefaultClient)(nil), nil, http.StatusOK},
		"a failure":     {nil, errors.New("connection refused"), http.StatusInternalServerError},
	} {
		client, failure = c.client, c.err
		list, resp, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").Execute()
		if resp == nil || resp.StatusCode != c.status || c.status == http.StatusOK && (len(list) != 1 || list[0].ConsentRequest.Client.GetClientId() != "app") {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
}

func TestWhatIsOverSaysWhatWasAsked(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	b := h.browser()
	want := params().Encode()
	for _, c := range []struct {
		reason error
		end    func(to string)
	}{
		{consentapi.ErrRequestUsed, func(to string) { b.wantCode(to) }},
		{consentapi.ErrRequestRevoked, func(string) {
			if _, err := h.api.Revoke(t.Context(), fositeconsent.Selection{Subject: "alice"}); err != nil {
				t.Fatal(err)
			}
		}},
		{consentapi.ErrRequestExpired, func(string) { h.clock.Add(int64(time.Hour)) }},
	} {
		to := h.accept(b.start(params()), accepting("openid"))
		r := httptest.NewRequest(http.MethodGet, to, nil)
		for _, cookie := range b.cookies() {
			r.AddCookie(cookie)
		}
		if resumed, err := h.api.Resume(r); err != nil || resumed.Query != want {
			t.Fatalf("before: %v", err)
		}
		c.end(to)
		resumed, err := h.api.Resume(r)
		if !errors.Is(err, c.reason) || resumed == nil || resumed.Query != want {
			t.Fatalf("%v: %+v, %v", c.reason, resumed, err)
		}
		resp, err := resumed.Respond(r.Context(), h.provider, nil, nil)
		if resp != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("%v: Respond says %v", c.reason, err)
		}
	}
}

// ending is a storage whose consents are taken back just after they were looked for.
type ending struct {
	grantsAndRequests
	found func()
}

func (e *ending) FindConsents(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	list, err := e.grantsAndRequests.FindConsents(ctx, issuer, subject, clientID)
	if found := e.found; found != nil && len(list) > 0 {
		e.found = nil
		found()
	}
	return list, err
}

func TestWhatEndsJustAfterTheLookIsAskedFor(t *testing.T) {
	t.Parallel()
	consents := &ending{}
	h := newHost(t, options{wrap: func(all grantsAndRequests) grantsAndRequests { consents.grantsAndRequests = all; return consents }})
	b := h.browser()
	body := accepting("openid")
	body.Remember = hydra.PtrBool(true)
	b.wantCode(h.accept(b.start(params("scope", "openid")), body))
	issued := h.issued()
	consents.found = func() {
		if n, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "alice"}); n != 1 || err != nil {
			t.Errorf("revoked %d: %v", n, err)
		}
	}
	asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(b.start(params("scope", "openid"))).Execute()
	if err != nil || asked.GetSkip() || h.issued() != issued || consents.found != nil {
		t.Errorf("asked %+v, %v", asked, err)
	}
}
