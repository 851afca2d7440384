package consentapi_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// onEach runs a test on every storage.
func onEach(t *testing.T, test func(t *testing.T, on string)) {
	t.Helper()
	t.Parallel()
	for _, on := range []string{"memory", "postgres"} {
		t.Run("on "+on, func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

func claimsOf(t testing.TB, idToken any) map[string]any {
	t.Helper()
	text, _ := idToken.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("no ID token: %v", idToken)
	}
	return decodeJSON(t, parts[1])
}

func TestAnAcceptedRequestLeadsToTokens(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		challenge := b.start(params())
		asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
		if err != nil {
			t.Fatal(err, bodyOf(err))
		}
		if asked.Challenge != challenge || asked.GetSubject() != "alice" || asked.GetSkip() || asked.Client.GetClientId() != "app" || asked.Client.GetClientName() != "The app" ||
			strings.Join(asked.RequestedScope, " ") != "openid photos contacts" || strings.Join(asked.RequestedAccessTokenAudience, " ") != "https://api.example" ||
			asked.GetLoginSessionId() != "login-of-alice" || asked.GetLoginChallenge() != "login-challenge" || asked.GetAcr() != "urn:acr" || strings.Join(asked.Amr, " ") != "pwd" ||
			!strings.HasPrefix(asked.GetRequestUrl(), h.server.URL+"/oauth2/auth?") {
			t.Errorf("the application is told %+v of %+v", asked, asked.Client)
		}
		body := accepting("openid", "photos")
		body.Session = &hydra.AcceptOAuth2ConsentRequestSession{
			AccessToken: map[string]any{"tier": "gold", "count": 9007199254740993},
			IdToken:     map[string]any{"email": "alice@example.com", "nested": map[string]any{"account": 1152921504606846977}, "updated_at": 1700000000, "weight": 0.5},
		}
		code := b.wantCode(h.accept(challenge, body))
		tokens := h.exchange(code)
		if tokens["scope"] != "openid photos" {
			t.Errorf("the scope is %v", tokens)
		}
		claims := claimsOf(t, tokens["id_token"])
		if claims["email"] != "alice@example.com" || claims["sub"] != "alice" || claims["iss"] != issuer ||
			fmt.Sprintf("%v %v %v", claims["nested"], claims["updated_at"], claims["weight"]) != "map[account:1152921504606846977] 1700000000 0.5" {
			t.Errorf("the ID token has %v", claims)
		}
		info := h.post("/oauth2/introspect", url.Values{"token": {tokens["access_token"].(string)}})
		if info["tier"] != "gold" || info["sub"] != "alice" || info["active"] != true || fmt.Sprint(info["count"]) != "9007199254740993" {
			t.Errorf("introspection says %v", info)
		}
	})
}

func TestARejectedRequestIsFinal(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		for _, c := range []struct {
			body              hydra.RejectOAuth2Request
			wantError, within string
		}{
			{hydra.RejectOAuth2Request{}, "access_denied", "denied"},
			{hydra.RejectOAuth2Request{Error: hydra.PtrString("consent_required"), ErrorDescription: hydra.PtrString("Not today."), ErrorHint: hydra.PtrString("Ask tomorrow."), ErrorDebug: hydra.PtrString("a secret"), StatusCode: hydra.PtrInt64(403)}, "consent_required", "Not today. Ask tomorrow."},
		} {
			b := h.browser()
			challenge := b.start(params())
			to := h.reject(challenge, c.body)
			_, location, _ := b.get(to)
			query := location.Query()
			if query.Get("error") != c.wantError || !strings.Contains(query.Get("error_description"), c.within) || query.Get("code") != "" || query.Get("state") == "" {
				t.Errorf("the client is told %s", location)
			}
			wantStatus := http.StatusBadRequest
			if c.body.StatusCode != nil {
				wantStatus = int(*c.body.StatusCode)
			}
			if rfc := (*fosite.RFC6749Error)(nil); !errors.As(h.refused[len(h.refused)-1], &rfc) || rfc.CodeField != wantStatus {
				t.Errorf("the status is not %d: %+v", wantStatus, rfc)
			}
			if strings.Contains(location.String(), "a+secret") {
				t.Error("the client is told of error_debug")
			}
			_, resp, err := h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
			wantError(t, resp, err, http.StatusConflict)
			b.wantAskedAgain(to, fositeconsent.ErrAlreadyDecided)
		}
		if h.issued() != 0 {
			t.Errorf("%d responses were issued", h.issued())
		}
	})
}

func TestARejectionNeedsNoReason(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	for _, body := range []string{"", " \n", "{}", `{"error":null,"status_code":null}`, `{"status_code":0}`} {
		b := h.browser()
		resp, answer := h.call(http.MethodPut, pathRequest+"/reject?consent_challenge="+b.start(params()), body)
		to, _ := answer["redirect_to"].(string)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%q: %d, %v", body, resp.StatusCode, answer)
		}
		if _, location, _ := b.get(to); location.Query().Get("error") != "access_denied" {
			t.Errorf("%q: the client is told %s", body, location)
		}
	}
	b := h.browser()
	resp, answer := h.call(http.MethodPut, pathRequest+"/accept?consent_challenge="+b.start(params()), `{"grant_scope":["openid"],"session":null,"context":null,"remember":null}`)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("null for what may be left out: %d, %v", resp.StatusCode, answer)
	}
}

func TestARejectionIsBroughtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		to := h.reject(b.start(params()), hydra.RejectOAuth2Request{})
		b.get(to)
		b.wantAskedAgain(to, fositeconsent.ErrAlreadyDecided)
	})
}

// restore brings another browser's cookies: an attacker's does as it pleases.
func (b *browser) restore(cookies []*http.Cookie) {
	u, _ := url.Parse(b.h.server.URL)
	var list []*http.Cookie
	for _, c := range cookies {
		list = append(list, &http.Cookie{Name: c.Name, Value: c.Value, Path: "/", Secure: true})
	}
	b.Jar.SetCookies(u, list)
}

func TestAVerifierIsUsedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		to := h.accept(b.start(params()), accepting("openid"))
		b.wantCode(to)
		b.wantPage(to, consentapi.ErrRequestUsed)
		if h.issued() != 1 {
			t.Errorf("%d responses were issued, want 1", h.issued())
		}
	})
}

func TestOf64VerifiersAtOnceOneWins(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		to := h.accept(b.start(params()), accepting("openid"))
		kept := b.cookies()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				other := h.browser()
				other.restore(kept)
				if resp, err := other.Get(to); err == nil {
					resp.Body.Close()
				}
			})
		}
		wg.Wait()
		if h.issued() != 1 {
			t.Errorf("%d responses were issued, want 1", h.issued())
		}
		if len(h.refused) != 63 {
			t.Errorf("%d were refused, want 63", len(h.refused))
		}
		for _, err := range h.refused { // before the look, or after it; and nobody is told of a failure
			if !errors.Is(err, consentapi.ErrRequestUsed) && (!errors.Is(err, fositeconsent.ErrAlreadyDecided) || !fositeconsent.NeedsConsent(err)) {
				t.Errorf("refused with %v", err)
			}
		}
	})
}

func TestAnotherBrowserIsRefused(t *testing.T) {
	h := newHost(t, options{})
	t.Parallel()
	victim, attacker := h.browser(), h.browser()
	to := h.accept(victim.start(params()), accepting("openid"))
	attacker.wantPage(to, consentapi.ErrForeignBrowser)
	attacker.start(params()) // has a cookie, of another request
	attacker.wantPage(to, consentapi.ErrForeignBrowser)

	// Its own secret under the victim's name.
	own, theirs := attacker.cookies()[0], victim.cookies()[0]
	own.Name = theirs.Name
	attacker.restore([]*http.Cookie{own})
	attacker.wantPage(to, consentapi.ErrRequestNotFound)
	victim.wantCode(to)
}

func TestTwoTabsDoNotCollide(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		first, second := b.start(params("state", "state of the first tab")), b.start(params("state", "state of the second tab"))
		toFirst, toSecond := h.accept(first, accepting("openid", "photos")), h.accept(second, accepting("openid", "contacts"))
		_, location, _ := b.get(toSecond)
		if location.Query().Get("state") != "state of the second tab" || location.Query().Get("code") == "" {
			t.Errorf("the second tab is sent to %s", location)
		}
		_, location, _ = b.get(toFirst)
		if location.Query().Get("state") != "state of the first tab" || location.Query().Get("code") == "" {
			t.Errorf("the first tab is sent to %s", location)
		}
		if got := h.exchange(location.Query().Get("code")); got["scope"] != "openid photos" {
			t.Errorf("the first tab was granted %v", got)
		}
	})
}

func TestVerifiersCannotBeSwapped(t *testing.T) {
	h := newHost(t, options{})
	t.Parallel()
	b := h.browser()
	first, second := b.start(params()), b.start(params("client_id", "other", "redirect_uri", "https://other.example/cb", "scope", "openid photos", "audience", ""))
	to := h.accept(first, accepting("openid"))
	verifier, _ := url.Parse(to)
	text := verifier.Query().Get("consent_verifier")
	// The first one's secret with the second one's name, and the second one's handle as a verifier.
	for _, forged := range []string{swapID(text, second), "fcv_" + strings.TrimPrefix(second, "fcc_"), "fcv_" + strings.TrimPrefix(first, "fcc_")} {
		b.wantPage(h.server.URL+"/oauth2/resume?consent_verifier="+forged, consentapi.ErrRequestNotFound)
	}
	for _, malformed := range []string{"", "fcv_", text[:len(text)-1], text + "A", strings.ToUpper(text), first, text + "%0A", "%00"} {
		b.wantPage(h.server.URL+"/oauth2/resume?consent_verifier="+malformed, consentapi.ErrMalformedVerifier)
	}
	b.wantPage(to+"&consent_verifier="+text, consentapi.ErrMalformedVerifier)
	b.wantPage(h.server.URL+"/oauth2/resume", consentapi.ErrMalformedVerifier)
	// A look at where the address leads is no answer.
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodOptions} {
		r, err := http.NewRequestWithContext(t.Context(), method, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", method, resp.StatusCode)
		}
		h.wantNoted(consentapi.ErrMalformedVerifier)
	}
	b.wantCode(to)
}

func TestTheApplicationsHandleIsNoVerifier(t *testing.T) {
	h := newHost(t, options{})
	t.Parallel()
	b := h.browser()
	challenge := b.start(params())
	b.wantPage(h.server.URL+"/oauth2/resume?consent_verifier=fcv_"+strings.TrimPrefix(challenge, "fcc_"), consentapi.ErrRequestNotFound)
	resp, err := b.Get(h.internal.URL + "/admin/oauth2/auth/requests/consent?consent_challenge=fcv_" + strings.TrimPrefix(challenge, "fcc_"))
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestAnotherUserOrAnotherLoginIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		to := h.accept(b.start(params()), accepting("openid"))
		h.signIn("mallory")
		b.wantAskedAgain(to, fositeconsent.ErrForeignTicket)
		if h.issued() != 0 {
			t.Error("a response was issued to another user")
		}
		h.signIn("alice")
		b.wantCode(to)
	})
}

func TestAfterARevocationNothingThatWasAcceptedBeforePasses(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		for name, revoke := range map[string]func() (*http.Response, error){
			"one client": h.client().RevokeOAuth2ConsentSessions(t.Context()).Subject("alice").Client("app").Execute,
			"all":        h.client().RevokeOAuth2ConsentSessions(t.Context()).Subject("alice").All(true).Execute,
		} {
			b := h.browser()
			challenge := b.start(params())
			to := h.accept(challenge, accepting("openid"))
			if resp, err := revoke(); err != nil || resp.StatusCode != http.StatusNoContent {
				t.Fatalf("%s: %v, %v", name, resp, err)
			}
			b.wantPage(to, consentapi.ErrRequestRevoked)
			_, resp, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
			if gone := wantError(t, resp, err, http.StatusGone); gone == nil || !strings.HasPrefix(gone["redirect_to"].(string), h.server.URL+"/oauth2/auth?") {
				t.Errorf("%s: no way on: %v", name, gone)
			}
		}
		b := h.browser()
		to := h.accept(b.start(params()), accepting("openid"))
		if _, err := h.client().RevokeOAuth2ConsentSessions(t.Context()).Subject("bob").All(true).Execute(); err != nil {
			t.Fatal(err)
		}
		b.wantCode(to)
	})
}

func TestWhatWasAcceptedEndsWithItsLogin(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		for name, describe := range map[string]func(context.Context, fosite.AuthorizeRequester, fosite.Session, *consentapi.Login) error{
			"a host that says nothing of the login": nil,
			"a host that says something else": func(_ context.Context, _ fosite.AuthorizeRequester, _ fosite.Session, l *consentapi.Login) error {
				l.SessionID = "another"
				return nil
			},
		} {
			h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.DescribeLogin = describe }})
			b := h.browser()
			challenge := b.start(params())
			asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
			if err != nil || asked.GetLoginSessionId() != "login-of-alice" {
				t.Errorf("%s: the login is %q, %v", name, asked.GetLoginSessionId(), err)
			}
			to := h.accept(challenge, accepting("openid"))
			if resp, _ := h.call(http.MethodDelete, pathSessions+"?subject=alice&all=true&login_session_id=login-of-alice", ""); resp.StatusCode != http.StatusNoContent {
				t.Fatalf("%s: %d", name, resp.StatusCode)
			}
			b.wantPage(to, consentapi.ErrRequestRevoked)
		}
		h := newHost(t, options{on: on, gate: func(c *fositeconsent.Config) { c.LoginSession = nil }})
		asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(h.browser().start(params())).Execute()
		if err != nil || asked.GetLoginSessionId() != "login-of-alice" {
			t.Errorf("without the gate's LoginSession: %q, %v", asked.GetLoginSessionId(), err)
		}
	})
}

// revoking revokes when the answer has been looked up and before it is used.
type revoking struct {
	grantsAndRequests
	revoke func()
}

func (r *revoking) UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
	if r.revoke != nil {
		r.revoke()
	}
	return r.grantsAndRequests.UseConsentRequest(ctx, id, verifier, browser)
}

func TestARevocationBetweenLookAndUseWins(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		storage := &revoking{}
		h := newHost(t, options{on: on, wrap: func(under grantsAndRequests) grantsAndRequests {
			storage.grantsAndRequests = under
			return storage
		}})
		storage.revoke = func() {
			if _, err := h.api.Revoke(context.Background(), fositeconsent.Selection{Subject: "alice"}); err != nil {
				t.Error(err)
			}
		}
		b := h.browser()
		b.wantAskedAgain(h.accept(b.start(params()), accepting("openid")), fositeconsent.ErrGrantRevoked)
		if h.issued() != 0 {
			t.Error("a response was issued under an approval that had been revoked")
		}
		list, err := h.gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "alice"}, fositeconsent.ID{}, 10)
		if len(list) != 0 || err != nil {
			t.Errorf("listed %v, %v", list, err)
		}
	})
}

func TestAnExpiredRequestIsRefusedAtEveryStep(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.Lifespan = 10 * time.Minute }})
		b := h.browser()
		pending, accepted := b.start(params()), b.start(params())
		to := h.accept(accepted, accepting("openid"))
		h.clock.Store(int64(10 * time.Minute))

		_, resp, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(pending).Execute()
		if gone := wantError(t, resp, err, http.StatusGone); !strings.HasPrefix(gone["redirect_to"].(string), h.server.URL+"/oauth2/auth?") {
			t.Errorf("no way on: %v", gone)
		}
		_, resp, err = h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(pending).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
		wantError(t, resp, err, http.StatusGone)
		_, resp, err = h.client().RejectOAuth2ConsentRequest(t.Context()).ConsentChallenge(pending).RejectOAuth2Request(hydra.RejectOAuth2Request{}).Execute()
		wantError(t, resp, err, http.StatusGone)
		b.wantPage(to, consentapi.ErrRequestExpired)
		if again := h.accept(accepted, accepting("openid")); again != to {
			t.Error("the same answer once more leads elsewhere")
		}
		if h.issued() != 0 {
			t.Error("a response was issued after the end")
		}
	})
}

func TestAFailedResponseLosesNoApproval(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{on: "postgres"})
	b := h.browser()
	to := h.accept(b.start(params()), accepting("openid"))
	h.failWith(errors.New("a handler that fails after everything was stored"))
	if status, location, _ := b.get(to); status != http.StatusSeeOther || location.Query().Get("error") != "error" && location.Query().Get("error") != "server_error" || location.Query().Get("code") != "" {
		t.Errorf("got %d, %s", status, location)
	}
	h.failWith(nil)
	b.wantCode(to)
	b.wantPage(to, consentapi.ErrRequestUsed)
	if h.issued() != 1 {
		t.Errorf("%d responses were issued, want 1", h.issued())
	}
}

// takenBack is what a database says when it has rolled a transaction back for what others did.
type takenBack struct{}

func (takenBack) Error() string    { return "could not serialize access" }
func (takenBack) SQLState() string { return "40001" }

// retried has the first use of each answer rolled back after it was made.
type retried struct {
	grantsAndRequests
	uses atomic.Int64
}

func (r *retried) UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
	err := r.grantsAndRequests.UseConsentRequest(ctx, id, verifier, browser)
	if r.uses.Add(1) == 1 && err == nil {
		return takenBack{}
	}
	return err
}

func TestATransactionThatIsTriedAgainUsesTheAnswerOnce(t *testing.T) {
	t.Parallel()
	storage := &retried{}
	h := newHost(t, options{on: "postgres", wrap: func(under grantsAndRequests) grantsAndRequests {
		storage.grantsAndRequests = under
		return storage
	}})
	b := h.browser()
	body := accepting("openid")
	body.Session = &hydra.AcceptOAuth2ConsentRequestSession{IdToken: map[string]any{"email": "alice@example.com"}}
	to := h.accept(b.start(params()), body)
	kept := b.cookies()
	if claims := claimsOf(t, h.exchange(b.wantCode(to))["id_token"]); claims["email"] != "alice@example.com" {
		t.Errorf("the ID token has %v", claims)
	}
	if n := storage.uses.Load(); n != 2 {
		t.Errorf("used in %d tries, want 2", n)
	}
	b.restore(kept)
	b.wantPage(to, consentapi.ErrRequestUsed)
	list, err := h.gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "alice"}, fositeconsent.ID{}, 10)
	if err != nil || len(list) != 1 {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestWithoutApplyDataNothingIsIssued(t *testing.T) {
	t.Parallel()
	for name, apply := range map[string]func(context.Context, fosite.AuthorizeRequester, []byte) error{
		"none at all":   nil,
		"one of others": func(context.Context, fosite.AuthorizeRequester, []byte) error { return nil },
	} {
		h := newHost(t, options{gate: func(c *fositeconsent.Config) { c.ApplyData = apply }})
		b := h.browser()
		_, location, _ := b.get(h.accept(b.start(params()), accepting("openid")))
		if location.Query().Get("error") != "server_error" || location.Query().Get("code") != "" {
			t.Errorf("%s: got %s", name, location)
		}
		h.wantNoted(fositeconsent.ErrMisconfigured)
	}
}

func TestSessionsOfTheHostsOwnKind(t *testing.T) {
	t.Parallel()
	var got consentapi.SessionData
	h := newHost(t, options{gate: func(c *fositeconsent.Config) {
		c.ApplyData = consentapi.ApplyDataWith(func(_ context.Context, _ fosite.AuthorizeRequester, s consentapi.SessionData) error {
			got = s
			return nil
		})
	}})
	b := h.browser()
	body := accepting("openid")
	body.Session = &hydra.AcceptOAuth2ConsentRequestSession{AccessToken: map[string]any{"n": 1, "f": 1.5, "list": []int{1 << 60}}}
	b.wantCode(h.accept(b.start(params()), body))
	list, _ := got.AccessToken["list"].([]any)
	if got.AccessToken["n"] != int64(1) || got.AccessToken["f"] != 1.5 || len(list) != 1 || list[0] != int64(1<<60) {
		t.Errorf("the hook got %v", got)
	}
}

func TestAnEndpointWithParametersOfItsOwn(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{api: func(c *consentapi.Config) {
		c.AuthorizationURL += "?tenant=a"
		c.ResumeURL += "?tenant=a"
	}})
	b := h.browser()
	challenge := b.start(params("tenant", "a"))
	asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
	if err != nil {
		t.Fatal(err)
	}
	again, err := url.Parse(asked.GetRequestUrl())
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Query()["tenant"]; len(got) != 1 || got[0] != "a" {
		t.Errorf("the request is made again at %s", again)
	}
	b.start(again.Query())
	to := h.accept(challenge, accepting("openid"))
	if !strings.Contains(to, "tenant=a") {
		t.Errorf("the way back is %s", to)
	}
	b.wantCode(to)
}

func TestPushedRequestsPassThroughTheApplication(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{on: "postgres"})
	pushed := h.post("/oauth2/par", params())
	uri, _ := pushed["request_uri"].(string)
	if uri == "" {
		t.Fatalf("got %v", pushed)
	}
	b := h.browser()
	to := h.accept(b.start(url.Values{"client_id": {"app"}, "request_uri": {uri}}), accepting("openid", "photos"))
	if got := h.exchange(b.wantCode(to))["scope"]; got != "openid photos" {
		t.Errorf("granted %v", got)
	}
}

func TestRememberedConsentsAndSkip(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		remember := func(h *host) {
			t.Helper()
			b := h.browser()
			body := accepting("openid", "photos")
			body.Remember, body.RememberFor = hydra.PtrBool(true), hydra.PtrInt64(3600)
			b.wantCode(h.accept(b.start(params("scope", "openid photos")), body))
		}
		skip := func(h *host, challenge string) bool {
			t.Helper()
			asked, _, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
			if err != nil {
				t.Fatal(err)
			}
			return asked.GetSkip()
		}
		t.Run("what is covered passes silently by default, and what is not is asked for", func(t *testing.T) {
			h := newHost(t, options{on: on})
			remember(h)
			b := h.browser()
			b.wantCode(h.server.URL + "/oauth2/auth?" + params("scope", "openid photos").Encode())
			if skip(h, b.start(params("scope", "openid photos contacts"))) || skip(h, b.start(params("scope", "openid photos", "prompt", "consent"))) {
				t.Error("skip is true of what is not covered")
			}
			h.clock.Store(int64(time.Hour))
			if skip(h, b.start(params("scope", "openid photos"))) {
				t.Error("skip is true of what has expired")
			}
		})
		t.Run("everything goes to the application if the host wants it so", func(t *testing.T) {
			h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.AskAlways = true }})
			b := h.browser()
			if skip(h, b.start(params("scope", "openid photos"))) {
				t.Error("skip is true of what nobody has approved")
			}
			remember(h)
			challenge := b.start(params("scope", "openid photos"))
			if !skip(h, challenge) || skip(h, b.start(params())) || skip(h, b.start(params("scope", "openid photos", "prompt", "consent"))) {
				t.Error("skip is not true of exactly what is covered")
			}
			b.wantCode(h.accept(challenge, accepting("openid", "photos")))
			b.wantCode(h.server.URL + "/oauth2/auth?" + params("scope", "openid photos", "prompt", "none").Encode())
			_, location, _ := b.get(h.server.URL + "/oauth2/auth?" + params("prompt", "none").Encode())
			if location.Query().Get("error") != "consent_required" {
				t.Errorf("prompt=none without cover: %s", location)
			}
			_, location, _ = b.get(h.reject(b.start(params("scope", "openid photos")), hydra.RejectOAuth2Request{}))
			if location.Query().Get("error") != "access_denied" {
				t.Errorf("a covered request that the application rejects: %s", location)
			}
		})
		t.Run("what was skipped lasts no longer for it", func(t *testing.T) {
			h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.AskAlways = true }})
			remember(h)
			h.clock.Store(int64(40 * time.Minute))
			b := h.browser()
			body := accepting("openid", "photos")
			body.Remember, body.RememberFor = hydra.PtrBool(true), hydra.PtrInt64(3600)
			b.wantCode(h.accept(b.start(params("scope", "openid photos")), body))
			h.clock.Store(int64(time.Hour))
			if skip(h, b.start(params("scope", "openid photos"))) {
				t.Error("skip is true when what the resource owner said is over")
			}
		})
		t.Run("what was skipped ends with what it rests on", func(t *testing.T) {
			h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.AskAlways, c.RememberOfflineAccess = true, true }})
			b := h.browser()
			values := params("scope", "openid offline_access photos")
			accept := func(body *hydra.AcceptOAuth2ConsentRequest) (refresh string) {
				t.Helper()
				body.GrantScope = []string{"openid", "offline_access", "photos"}
				tokens := h.exchange(b.wantCode(h.accept(b.start(values), body)))
				refresh, _ = tokens["refresh_token"].(string)
				return refresh
			}
			wantEnded := func(what, refresh string) {
				t.Helper()
				if got := h.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {"app"}}); got["error"] != "invalid_grant" {
					t.Errorf("%s: refreshed with %v", what, got)
				}
			}
			hour := accepting()
			hour.Remember, hour.RememberFor = hydra.PtrBool(true), hydra.PtrInt64(3600)
			accept(hour)
			h.clock.Store(int64(59 * time.Minute))
			refresh := accept(accepting())
			h.clock.Store(int64(61 * time.Minute))
			wantEnded("after an hour", refresh)

			always := accepting()
			always.Remember = hydra.PtrBool(true)
			accept(always)
			listed, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").Execute()
			if err != nil || len(listed) != 1 {
				t.Fatal(listed, err)
			}
			refresh = accept(accepting())
			if again, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").Execute(); err != nil || len(again) != 1 {
				t.Errorf("what was skipped is listed by itself: %v, %v", again, err)
			}
			id, err := fositeconsent.ParseID(listed[0].ConsentRequest.GetChallenge())
			if err != nil {
				t.Fatal(err)
			}
			if n, err := h.api.Revoke(t.Context(), fositeconsent.Selection{Subject: "alice", ConsentID: id}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			wantEnded("after a revocation", refresh)
		})
		t.Run("the application is asked what it puts into other tokens", func(t *testing.T) {
			h := newHost(t, options{on: on})
			b := h.browser()
			both := "https://api.example https://other.example"
			saying := func(permissions string, scopes ...string) *hydra.AcceptOAuth2ConsentRequest {
				body := accepting(scopes...)
				body.GrantAccessTokenAudience = strings.Fields(both)
				body.Session = &hydra.AcceptOAuth2ConsentRequestSession{AccessToken: map[string]any{"permissions": permissions}, IdToken: map[string]any{"role": permissions}}
				return body
			}
			wantSaid := func(code, permissions string) {
				t.Helper()
				tokens := h.exchange(code)
				info := h.post("/oauth2/introspect", url.Values{"token": {tokens["access_token"].(string)}})
				if got := fmt.Sprint(info["permissions"], claimsOf(t, tokens["id_token"])["role"]); got != fmt.Sprint(permissions, permissions) {
					t.Errorf("the tokens say %s, want %s", got, permissions)
				}
			}
			body := saying("everything", "openid", "photos")
			body.Remember = hydra.PtrBool(true)
			b.wantCode(h.accept(b.start(params("scope", "openid photos", "audience", both)), body))
			for _, scope := range []string{"openid", "openid photos"} {
				challenge := b.start(params("scope", scope, "audience", both))
				if !skip(h, challenge) {
					t.Errorf("%s: skip is false", scope)
				}
				wantSaid(b.wantCode(h.accept(challenge, saying("little", strings.Fields(scope)...))), "little")
			}
			_, location, _ := b.get(h.reject(b.start(params("scope", "openid photos", "audience", both)), hydra.RejectOAuth2Request{}))
			if location.Query().Get("error") != "access_denied" {
				t.Errorf("rejected: %s", location)
			}
			// With prompt=none it cannot be asked.
			address := func(set ...string) string {
				return h.server.URL + "/oauth2/auth?" + params(append(set, "prompt", "none")...).Encode()
			}
			wantSaid(b.wantCode(address("scope", "photos openid", "audience", both)), "everything")
			claims := []string{"scope", "openid photos", "audience", both, "claims", `{"id_token":{"email":null}}`}
			for _, other := range [][]string{{"scope", "openid", "audience", both}, {"scope", "openid photos"}, claims} {
				_, location, _ = b.get(address(other...))
				if location.Query().Get("error") != "consent_required" {
					t.Errorf("%v without a page: %s", other, location)
				}
			}
			body = saying("with claims", "openid", "photos")
			body.Remember = hydra.PtrBool(true)
			b.wantCode(h.accept(b.start(params(claims...)), body))
			wantSaid(b.wantCode(address(claims...)), "with claims")
			_, location, _ = b.get(address(claims[:4]...))
			if location.Query().Get("error") != "consent_required" {
				t.Errorf("without the claims that the newest approval was for: %s", location)
			}
			// Of two resources, one is covered as well.
			resources := params(claims[:4]...)
			resources["resource"] = []string{"https://one.example", "https://two.example"}
			body = saying("with resources", "openid", "photos")
			body.Remember = hydra.PtrBool(true)
			b.wantCode(h.accept(b.start(resources), body))
			resources.Set("prompt", "none")
			slices.Reverse(resources["resource"])
			wantSaid(b.wantCode(h.server.URL+"/oauth2/auth?"+resources.Encode()), "with resources")
			resources["resource"] = resources["resource"][:1]
			_, location, _ = b.get(h.server.URL + "/oauth2/auth?" + resources.Encode())
			if location.Query().Get("error") != "consent_required" {
				t.Errorf("for one of the resources: %s", location)
			}
		})
		t.Run("skip is worth nothing once what it rests on is over", func(t *testing.T) {
			var approved atomic.Bool
			h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.AskAlways = true }, gate: func(c *fositeconsent.Config) {
				c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return approved.Load(), nil }
			}})
			b := h.browser()
			for name, c := range map[string]struct{ begin, end func() }{
				"revoked": {func() { remember(h) }, func() {
					if _, err := h.client().RevokeOAuth2ConsentSessions(t.Context()).Subject("alice").All(true).Execute(); err != nil {
						t.Fatal(err)
					}
				}},
				"expired": {func() {
					remember(h)
					h.clock.Add(int64(50 * time.Minute))
				}, func() { h.clock.Add(int64(10 * time.Minute)) }},
				"not approved any more": {func() { approved.Store(true) }, func() { approved.Store(false) }},
			} {
				c.begin()
				challenge, good := b.start(params("scope", "openid photos")), b.start(params("scope", "openid photos"))
				if !skip(h, challenge) {
					t.Fatalf("%s: skip is false", name)
				}
				b.wantCode(h.accept(good, accepting("openid", "photos")))
				issued := h.issued()
				c.end()
				b.wantAskedAgain(h.accept(challenge, accepting("openid", "photos")), fositeconsent.ErrConsentRequired)
				if h.issued() != issued {
					t.Errorf("%s: a response was issued, and nobody was asked", name)
				}
				if skip(h, b.start(params("scope", "openid photos"))) {
					t.Errorf("%s: skip is still true", name)
				}
			}
		})
		t.Run("what the host has pre-approved is skipped", func(t *testing.T) {
			h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.AskAlways = true }, gate: func(c *fositeconsent.Config) {
				c.PreApproved = func(_ context.Context, ar fosite.AuthorizeRequester, _ string) (bool, error) {
					return ar.GetClient().GetID() == "other", nil
				}
			}})
			b := h.browser()
			if !skip(h, b.start(params("client_id", "other", "redirect_uri", "https://other.example/cb", "scope", "openid photos", "audience", ""))) || skip(h, b.start(params())) {
				t.Error("skip is not true of exactly what is pre-approved")
			}
		})
		t.Run("offline_access is remembered only if the host says so", func(t *testing.T) {
			for _, offline := range []bool{false, true} {
				h := newHost(t, options{on: on, api: func(c *consentapi.Config) { c.RememberOfflineAccess, c.AskAlways = offline, true }})
				b := h.browser()
				values := params("scope", "openid offline_access")
				body := accepting("openid", "offline_access")
				body.Remember = hydra.PtrBool(true)
				b.wantCode(h.accept(b.start(values), body))
				if got := skip(h, b.start(values)); got != offline {
					t.Errorf("with %v: skip is %v", offline, got)
				}
				if !skip(h, b.start(params("scope", "openid"))) {
					t.Errorf("with %v: the rest is not remembered", offline)
				}
			}
		})
		t.Run("nothing is remembered of a client that anybody can pass for", func(t *testing.T) {
			h := newHost(t, options{on: on})
			loopback := params("client_id", "loopback", "redirect_uri", "http://127.0.0.1/cb", "scope", "openid photos", "audience", "")
			b := h.browser()
			body := &hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"openid", "photos"}, Remember: hydra.PtrBool(true)}
			b.wantCode(h.accept(b.start(loopback), body))
			b.start(loopback)
			list, err := h.gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "alice"}, fositeconsent.ID{}, 10)
			if err != nil || len(list) != 1 || list[0].Remembered {
				t.Errorf("listed %+v, %v", list, err)
			}
		})
		t.Run("a gate that keeps no consents issues all the same", func(t *testing.T) {
			h := newHost(t, options{on: on, gate: func(c *fositeconsent.Config) { c.Consents, c.DescribeClient = nil, nil }})
			b := h.browser()
			body := accepting("openid")
			body.Remember = hydra.PtrBool(true)
			b.wantCode(h.accept(b.start(params()), body))
		})
	})
}

func TestCookiesAreBoundToTheHostAndBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	b := h.browser()
	resp, err := b.Get(h.server.URL + "/oauth2/auth?" + params().Encode())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	set := resp.Cookies()
	if len(set) != 1 {
		t.Fatalf("the cookies %v", set)
	}
	c := set[0]
	if !strings.HasPrefix(c.Name, "__Host-consent-") || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge < 1700 || c.MaxAge > 1800 {
		t.Errorf("the cookie %+v", c)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	var challenges []string
	for range 20 {
		challenges = append(challenges, b.start(params()))
	}
	if n := len(b.cookies()); n != 8 {
		t.Errorf("the browser has %d cookies, want 8", n)
	}
	b.wantCode(h.accept(challenges[len(challenges)-1], accepting("openid")))
	b.wantPage(h.accept(challenges[0], accepting("openid")), consentapi.ErrForeignBrowser)
}

func TestNothingIsSentToTheApplicationWithoutALogin(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	h.signIn("")
	_, location, _ := h.browser().get(h.server.URL + "/oauth2/auth?" + params().Encode())
	if location.Query().Get("error") != "login_required" {
		t.Errorf("got %s", location)
	}
}

func TestAStorageThatFailsIsNeverAYes(t *testing.T) {
	t.Parallel()
	storage := &breaking{}
	h := newHost(t, options{wrap: func(under grantsAndRequests) grantsAndRequests {
		storage.grantsAndRequests = under
		return storage
	}})
	b := h.browser()
	challenge := b.start(params())
	to := h.accept(challenge, accepting("openid"))
	for name, c := range map[string]struct {
		err    error
		want   string
		status int
	}{
		"a failure":      {errors.New("connection refused"), "server_error", http.StatusInternalServerError},
		"a deadline":     {context.DeadlineExceeded, "temporarily_unavailable", http.StatusServiceUnavailable},
		"a cancellation": {context.Canceled, "temporarily_unavailable", http.StatusServiceUnavailable},
	} {
		storage.err = c.err
		if _, location, body := b.get(h.server.URL + "/oauth2/auth?" + params().Encode()); location.Query().Get("error") != c.want {
			t.Errorf("%s: the authorization endpoint says %s, %s", name, location, body)
		}
		logged := h.log.Len()
		_, resp, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
		if got := wantError(t, resp, err, c.status); got["error"] != c.want || strings.Contains(bodyOf(err), "connection refused") {
			t.Errorf("%s: GET says %v, %s", name, resp, bodyOf(err))
		}
		if !strings.Contains(h.log.String()[logged:], c.err.Error()) {
			t.Errorf("%s: the log says %s", name, h.log.String()[logged:])
		}
		_, resp, err = h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
		if resp == nil || resp.StatusCode < 500 {
			t.Errorf("%s: PUT says %v, %s", name, resp, bodyOf(err))
		}
		resp, err = h.client().RevokeOAuth2ConsentSessions(t.Context()).Subject("alice").All(true).Execute()
		if resp == nil || resp.StatusCode < 500 || err == nil {
			t.Errorf("%s: DELETE says %v, %v", name, resp, err)
		}
		b.wantPage(to, fositeconsent.ErrStorage)
	}
	storage.err, storage.useErr = nil, errors.New("connection refused")
	if _, location, _ := b.get(to); location.Query().Get("error") != "server_error" {
		t.Errorf("a use that fails: %s", location)
	}
	if h.issued() != 0 {
		t.Errorf("%d responses were issued", h.issued())
	}
}

// lying returns what no storage should.
type lying struct {
	grantsAndRequests
	find, findAnswered, answer func(*consentapi.Request) *consentapi.Request
}

func (l *lying) FindConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
	r, err := l.grantsAndRequests.FindConsentRequest(ctx, id, challenge)
	if err == nil && l.find != nil {
		r = l.find(r)
	}
	return r, err
}

func (l *lying) FindAnsweredConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) (*consentapi.Request, error) {
	r, err := l.grantsAndRequests.FindAnsweredConsentRequest(ctx, id, verifier, browser)
	if err == nil && l.findAnswered != nil {
		r = l.findAnswered(r)
	}
	return r, err
}

func (l *lying) AnswerConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
	r, err := l.grantsAndRequests.AnswerConsentRequest(ctx, id, challenge, a)
	if err == nil && l.answer != nil {
		r = l.answer(r)
	}
	return r, err
}

func TestAStorageIsNotBelieved(t *testing.T) {
	t.Parallel()
	storage := &lying{}
	h := newHost(t, options{wrap: func(under grantsAndRequests) grantsAndRequests {
		storage.grantsAndRequests = under
		return storage
	}})
	lies := map[string]func(*consentapi.Request) *consentapi.Request{
		"nothing at all":          func(*consentapi.Request) *consentapi.Request { return nil },
		"another request":         func(r *consentapi.Request) *consentapi.Request { r.ID[15]++; return r },
		"no document":             func(r *consentapi.Request) *consentapi.Request { r.Document = nil; return r },
		"a document without text": func(r *consentapi.Request) *consentapi.Request { r.Document = []byte("{}"); return r },
		"an unknown state":        func(r *consentapi.Request) *consentapi.Request { r.State = "approved"; return r },
	}
	with := func(more map[string]func(*consentapi.Request) *consentapi.Request) map[string]func(*consentapi.Request) *consentapi.Request {
		all := maps.Clone(lies)
		maps.Copy(all, more)
		return all
	}
	b := h.browser()
	challenge := b.start(params())
	for name, lie := range with(map[string]func(*consentapi.Request) *consentapi.Request{
		"another challenge": func(r *consentapi.Request) *consentapi.Request { r.Challenge[0]++; return r },
		"accepted, without an answer": func(r *consentapi.Request) *consentapi.Request {
			r.State = consentapi.StateAccepted
			return r
		},
		"rejected, without an answer": func(r *consentapi.Request) *consentapi.Request {
			r.State = consentapi.StateRejected
			return r
		},
	}) {
		storage.find = lie
		_, resp, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
		if wantError(t, resp, err, http.StatusInternalServerError); t.Failed() {
			t.Fatalf("a look that finds %s", name)
		}
	}
	storage.find = nil
	to := h.accept(challenge, accepting("openid"))
	for name, lie := range map[string]func(*consentapi.Request) *consentapi.Request{
		"nothing at all":  lies["nothing at all"],
		"another request": lies["another request"],
		"no answer":       func(r *consentapi.Request) *consentapi.Request { r.Answer = nil; return r },
		"another answer":  func(r *consentapi.Request) *consentapi.Request { r.Answer.Digest[0]++; return r },
		"a rejection":     func(r *consentapi.Request) *consentapi.Request { r.Answer.Accepted = false; return r },
		"another verifier": func(r *consentapi.Request) *consentapi.Request {
			r.Answer.Verifier[0]++
			return r
		},
	} {
		storage.answer = lie
		_, resp, err := h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
		if wantError(t, resp, err, http.StatusInternalServerError); t.Failed() {
			t.Fatalf("an answer that returns %s", name)
		}
	}
	storage.answer = nil
	for name, lie := range with(map[string]func(*consentapi.Request) *consentapi.Request{
		"another browser":  func(r *consentapi.Request) *consentapi.Request { r.Browser[0]++; return r },
		"another verifier": func(r *consentapi.Request) *consentapi.Request { r.Answer.Verifier[0]++; return r },
		"no answer":        func(r *consentapi.Request) *consentapi.Request { r.Answer = nil; return r },
		"no answer's text": func(r *consentapi.Request) *consentapi.Request { r.Answer.Document = nil; return r },
		"still pending":    func(r *consentapi.Request) *consentapi.Request { r.State = consentapi.StatePending; return r },
		"a rejection":      func(r *consentapi.Request) *consentapi.Request { r.State = consentapi.StateRejected; return r },
		"a rejection that says what was accepted": func(r *consentapi.Request) *consentapi.Request {
			r.State, r.Answer.Accepted = consentapi.StateRejected, false
			return r
		},
	}) {
		storage.findAnswered = lie
		if b.wantPage(to, fositeconsent.ErrStorage); t.Failed() {
			t.Fatalf("a look that finds %s", name)
		}
	}
	storage.findAnswered = nil
	rejected := h.reject(b.start(params()), hydra.RejectOAuth2Request{})
	for _, state := range []consentapi.State{consentapi.StatePending, consentapi.StateAccepted, "approved", ""} {
		storage.findAnswered = func(r *consentapi.Request) *consentapi.Request { r.State = state; return r }
		if b.wantPage(rejected, fositeconsent.ErrStorage); t.Failed() {
			t.Fatalf("a rejection that is %q", state)
		}
	}
	storage.findAnswered = nil
	if h.issued() != 0 {
		t.Errorf("%d responses were issued", h.issued())
	}
	b.wantCode(to)
}

// breaking fails if it is told to.
type breaking struct {
	grantsAndRequests
	err, useErr error
}

func (b *breaking) CreateConsentRequest(ctx context.Context, r *consentapi.Request) error {
	if b.err != nil {
		return b.err
	}
	return b.grantsAndRequests.CreateConsentRequest(ctx, r)
}

func (b *breaking) FindConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.grantsAndRequests.FindConsentRequest(ctx, id, challenge)
}

func (b *breaking) FindAnsweredConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) (*consentapi.Request, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.grantsAndRequests.FindAnsweredConsentRequest(ctx, id, verifier, browser)
}

func (b *breaking) RevokeConsentRequests(ctx context.Context, s fositeconsent.Selection) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.grantsAndRequests.RevokeConsentRequests(ctx, s)
}

func (b *breaking) UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
	if b.useErr != nil {
		return b.useErr
	}
	return b.grantsAndRequests.UseConsentRequest(ctx, id, verifier, browser)
}

func TestSecretsAreRotated(t *testing.T) {
	t.Parallel()
	secrets := [][]byte{[]byte("the first secret of 32 bytes or more")}
	h := newHost(t, options{api: func(c *consentapi.Config) {
		c.Secrets = func(context.Context) ([][]byte, error) { return secrets, nil }
	}})
	b := h.browser()
	challenge := b.start(params())
	to := h.accept(challenge, accepting("openid"))
	secrets = [][]byte{[]byte("another secret of 32 bytes or more!!"), secrets[0]}
	if again := h.accept(challenge, accepting("openid")); again != to {
		t.Error("the same answer leads elsewhere after a rotation")
	}
	second := h.accept(b.start(params()), accepting("openid"))
	secrets = secrets[:1]
	_, resp, err := h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
	wantError(t, resp, err, http.StatusInternalServerError)
	b.wantCode(second)
	for _, bad := range [][][]byte{nil, {}, {[]byte("short")}, {secrets[0], nil}} {
		secrets = bad
		_, resp, err := h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(b.start(params())).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
		wantError(t, resp, err, http.StatusInternalServerError)
	}
}

func TestRespondNeedsAnAnswer(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, resumed := range []*consentapi.Resumed{nil, {}} {
		resp, err := resumed.Respond(r.Context(), h.provider, nil, nil)
		if resp != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("got %v, %v", resp, err)
		}
	}
}

func TestAnyNodeAnswersAnyStep(t *testing.T) {
	t.Parallel()
	first := newHost(t, options{on: "postgres"})
	second := first.anotherNode()
	b := first.browser()
	challenge := b.start(params())
	to := second.accept(challenge, accepting("openid"))
	if again := first.accept(challenge, accepting("openid")); again != to {
		t.Error("the same answer leads elsewhere on another node")
	}
	first.internal.Close() // and its process with it, as far as the application knows
	b.wantCode(to)
}

// anotherNode is another process with the same database, secrets and addresses. Browsers reach it by the first one's.
func (h *host) anotherNode() *host {
	h.t.Helper()
	node := &host{t: h.t, storage: h.storage, gate: h.gate, server: h.server}
	config := h.config
	config.Secrets = func(context.Context) ([][]byte, error) {
		return [][]byte{[]byte("a global secret of at least 32 bytes")}, nil
	}
	var err error
	if node.api, err = consentapi.New(node.gate, node.storage, config); err != nil {
		h.t.Fatal(err)
	}
	node.internal = httptest.NewServer(node.api.Handler())
	h.t.Cleanup(node.internal.Close)
	return node
}

// Pages may move from one place to the other: what was remembered on one of the host's own, which put no data to the decision, counts at the application's, too.
func TestWhatAnOwnPageHasRememberedCounts(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		ctx := t.Context()
		ar, err := h.provider.NewAuthorizeRequest(ctx, httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+params().Encode(), nil))
		if err != nil {
			t.Fatal(err)
		}
		session := h.newSession()
		prompt, err := h.gate.Prompt(ctx, ar, session)
		if err != nil {
			t.Fatal(err)
		}
		ctx = fositeconsent.WithDecision(ctx, prompt.Ticket, fositeconsent.Decision{Scopes: prompt.Scopes, Audience: prompt.Audience, Remember: &fositeconsent.Remember{OfflineAccess: true}})
		if _, err := h.provider.NewAuthorizeResponse(ctx, ar, session); err != nil {
			t.Fatal(err)
		}
		_, location, _ := h.browser().get(h.server.URL + "/oauth2/auth?" + params().Encode())
		if location == nil || location.Query().Get("code") == "" {
			t.Errorf("it leads to %v", location)
		}
	})
}
