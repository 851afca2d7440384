package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// Login and consent pages that are elsewhere: the tests are the application. All that they know of the server is
// Hydra's API, through Hydra's own generated client.

const (
	loginPages     = "https://accounts.example/login"
	consentPages   = "https://accounts.example/consent"
	nativeCallback = "com.example.native:/callback"
	apiToken       = "the token of the application that has the pages"
)

// elsewhere is the example server without pages.
type elsewhere struct{ *suite }

func newElsewhere(t *testing.T, configure ...func(*authserver.Config)) elsewhere {
	t.Helper()
	return elsewhere{newSuite(t, append([]func(*authserver.Config){
		func(c *authserver.Config) { c.Users = nil },
		withFlags("-login-url", loginPages, "-consent-url", consentPages, "-api-listen", "127.0.0.1:0"),
	}, configure...)...)}
}

// in is the suite's, for a sub-test.
func (e elsewhere) in(t *testing.T) elsewhere { return elsewhere{e.suite.in(t)} }

// application returns Hydra's client for the API of a process.
func application(server *authserver.Server) hydra.OAuth2API {
	config := hydra.NewConfiguration()
	config.Servers = hydra.ServerConfigurations{{URL: server.API()}}
	config.HTTPClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}
	return hydra.NewAPIClient(config).OAuth2API
}

// call does one request of the client, and returns the status with the error.
func call[T any](request interface {
	Execute() (*T, *http.Response, error)
}) (*T, int, error) {
	value, response, err := request.Execute()
	if response == nil {
		return value, 0, err
	}
	_ = response.Body.Close()
	return value, response.StatusCode, err
}

// goneTo returns where the API says that the browser goes on, "" if the error says nothing of it.
func goneTo(err error) string {
	var refused *hydra.GenericOpenAPIError
	if !errors.As(err, &refused) {
		return ""
	}
	gone, _ := refused.Model().(hydra.OAuth2RedirectTo)
	return gone.RedirectTo
}

// handle returns the handle with which the browser was sent to the application.
func (e elsewhere) handle(page *useragent.Page, pages, name string) string {
	e.t.Helper()
	if page.Location == nil || !strings.HasPrefix(page.Location.String(), pages+"?") {
		e.t.Fatalf("the browser is not sent to %s but gets status %d, to %v: %s", pages, page.Status, page.Location, page.Text())
	}
	handle := page.Location.Query().Get(name)
	e.site.Forbid("a "+name, handle)
	return handle
}

func (e elsewhere) loginChallenge(page *useragent.Page) string {
	e.t.Helper()
	return e.handle(page, loginPages, "login_challenge")
}

func (e elsewhere) consentChallenge(page *useragent.Page) string {
	e.t.Helper()
	return e.handle(page, consentPages, "consent_challenge")
}

// loginRequest returns what the application is told.
func (e elsewhere) loginRequest(challenge string) *hydra.OAuth2LoginRequest {
	e.t.Helper()
	request, _, err := call(application(e.server).GetOAuth2LoginRequest(context.Background()).LoginChallenge(challenge))
	if err != nil {
		e.t.Fatal(err)
	}
	return request
}

func (e elsewhere) consentRequest(challenge string) *hydra.OAuth2ConsentRequest {
	e.t.Helper()
	request, _, err := call(application(e.server).GetOAuth2ConsentRequest(context.Background()).ConsentChallenge(challenge))
	if err != nil {
		e.t.Fatal(err)
	}
	return request
}

func acceptLogin(server *authserver.Server, challenge string, answer hydra.AcceptOAuth2LoginRequest) (string, int, error) {
	to, status, err := call(application(server).AcceptOAuth2LoginRequest(context.Background()).LoginChallenge(challenge).AcceptOAuth2LoginRequest(answer))
	if err != nil {
		return "", status, err
	}
	return to.RedirectTo, status, nil
}

func acceptConsent(server *authserver.Server, challenge string, answer hydra.AcceptOAuth2ConsentRequest) (string, int, error) {
	to, status, err := call(application(server).AcceptOAuth2ConsentRequest(context.Background()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(answer))
	if err != nil {
		return "", status, err
	}
	return to.RedirectTo, status, nil
}

// signInThere accepts the login of the page, and leads the browser back.
func (e elsewhere) signInThere(a *useragent.Agent, page *useragent.Page, answer hydra.AcceptOAuth2LoginRequest) *useragent.Page {
	e.t.Helper()
	to, _, err := acceptLogin(e.server, e.loginChallenge(page), answer)
	if err != nil {
		e.t.Fatal(err)
	}
	return a.Open(to)
}

// approveThere accepts all that the page asks for, and leads the browser back.
func (e elsewhere) approveThere(a *useragent.Agent, page *useragent.Page) *useragent.Page {
	e.t.Helper()
	return a.Open(e.accepted(page, nil))
}

// accepted accepts all that the page asks for, and returns where the browser goes on.
func (e elsewhere) accepted(page *useragent.Page, change func(*hydra.AcceptOAuth2ConsentRequest)) string {
	e.t.Helper()
	challenge := e.consentChallenge(page)
	answer := acceptAll(e, challenge)
	if change != nil {
		change(&answer)
	}
	to, _, err := acceptConsent(e.server, challenge, answer)
	if err != nil {
		e.t.Fatal(err)
	}
	return to
}

// acceptAll accepts all that the request asks for.
func acceptAll(e elsewhere, challenge string) hydra.AcceptOAuth2ConsentRequest {
	e.t.Helper()
	request := e.consentRequest(challenge)
	return hydra.AcceptOAuth2ConsentRequest{GrantScope: request.RequestedScope, GrantAccessTokenAudience: request.RequestedAccessTokenAudience}
}

// signedIn is a browser in which the user has signed in for this request, at the consent pages.
func (e elsewhere) signedIn(user string, params url.Values) (*useragent.Agent, *useragent.Page) {
	e.t.Helper()
	a := e.browser()
	return a, e.signInThere(a, e.authorize(a, params), hydra.AcceptOAuth2LoginRequest{Subject: user})
}

// stored returns all rows of login and consent requests.
func (e elsewhere) stored() string {
	e.t.Helper()
	var text string
	err := e.pool.QueryRow(context.Background(), `SELECT coalesce((SELECT string_agg(l::text, '') FROM example_server_login_requests AS l), '')
		|| coalesce((SELECT string_agg(r::text, '') FROM consent_requests AS r), '')`).Scan(&text)
	if err != nil {
		e.t.Fatal(err)
	}
	return text
}

func TestPagesElsewhere(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, func(c *authserver.Config) {
		c.Clients = append(slices.Clone(c.Clients), testClient("native", func(c *authserver.Client) {
			c.Secret, c.TokenEndpointAuthMethod, c.RedirectURIs = "", "none", []string{nativeCallback}
		}))
	})

	t.Run("the application is told what is asked, and what it answers is what is issued", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		params := authorization("web", "acr_values", "silver gold", "login_hint", "alice@example", "ui_locales", "de fr", "display", "page")
		page := e.authorize(a, params)
		challenge := e.loginChallenge(page)
		login := e.loginRequest(challenge)
		client := login.GetClient()
		oidc := login.GetOidcContext()
		if login.Challenge != challenge || login.Skip || login.Subject != "" || client.GetClientId() != "web" || client.GetClientName() != "The client web" || client.GetClientSecret() != "" ||
			!slices.Equal(login.RequestedScope, strings.Fields(params.Get("scope"))) || !slices.Equal(login.RequestedAccessTokenAudience, []string{api}) ||
			!slices.Equal(oidc.AcrValues, []string{"silver", "gold"}) || oidc.GetLoginHint() != "alice@example" || !slices.Equal(oidc.UiLocales, []string{"de", "fr"}) || oidc.GetDisplay() != "page" ||
			login.GetSessionId() == "" || login.RequestUrl != a.URL("/oauth2/auth?"+params.Encode()) {
			t.Errorf("the login request: %+v", login)
		}
		page = e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{
			Subject: "alice", Acr: hydra.PtrString("gold"), Amr: []string{"pwd", "otp"}, Context: map[string]any{"tenant": "north"},
		})
		consentChallenge := e.consentChallenge(page)
		consent := e.consentRequest(consentChallenge)
		client = consent.GetClient()
		if consent.Challenge != consentChallenge || consent.GetSkip() || consent.GetSubject() != "alice" || client.GetClientName() != "The client web" || consent.GetLoginChallenge() != challenge ||
			consent.GetLoginSessionId() != login.GetSessionId() || consent.GetAcr() != "gold" || !slices.Equal(consent.Amr, []string{"pwd", "otp"}) || fmt.Sprint(consent.Context) != "map[tenant:north]" {
			t.Errorf("the consent request: %+v", consent)
		}
		stored := e.stored()
		for name, value := range map[string]string{"the login challenge": challenge, "the consent challenge": consentChallenge} {
			if strings.Contains(stored, value) {
				t.Errorf("%s is in the database", name)
			}
		}
		to, _, err := acceptConsent(e.server, consentChallenge, hydra.AcceptOAuth2ConsentRequest{
			GrantScope: []string{"openid", "photos.read"},
			Session:    &hydra.AcceptOAuth2ConsentRequestSession{IdToken: map[string]any{"email": "alice@example"}, AccessToken: map[string]any{"department": "Photography"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		got := e.issued(a.Open(to))
		if got == nil || got.Values.Get("state") != params.Get("state") {
			t.Fatalf("nothing was issued: %+v", got)
		}
		tokens := e.redeem(e.server, "web", got.code, callback, verifier)
		var claims struct {
			Email string   `json:"email"`
			ACR   string   `json:"acr"`
			AMR   []string `json:"amr"`
		}
		idToken := e.idToken(e.server, "web", tokens.IDToken)
		if err := idToken.Claims(&claims); err != nil {
			t.Fatal(err)
		}
		if idToken.Subject != "alice" || claims.Email != "alice@example" || claims.ACR != "gold" || !slices.Equal(claims.AMR, []string{"pwd", "otp"}) {
			t.Errorf("the ID token of %s: %+v", idToken.Subject, claims)
		}
		var introspected struct {
			introspection
			Department string `json:"department"`
		}
		e.post(e.server, "/oauth2/introspect", "web", url.Values{"token": {tokens.AccessToken}}, &introspected)
		if !introspected.Active || introspected.Scope != "openid photos.read" || len(introspected.Audience) != 0 || introspected.Department != "Photography" {
			t.Errorf("introspection: %+v", introspected)
		}
	})

	t.Run("a login that is remembered is confirmed without a page, and one that is not is forgotten", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		first := e.authorize(a, authorization("web", "state", "the first of these states"))
		one := e.loginRequest(e.loginChallenge(first))
		e.approveThere(a, e.signInThere(a, first, hydra.AcceptOAuth2LoginRequest{Subject: "alice"}))
		second := e.authorize(a, authorization("web", "state", "the second of these states"))
		two := e.loginRequest(e.loginChallenge(second))
		if two.Skip || two.Subject != "" || two.GetSessionId() == one.GetSessionId() {
			t.Errorf("after a login that was not to be remembered: %+v", two)
		}
		got := e.issued(e.approveThere(a, e.signInThere(a, second, hydra.AcceptOAuth2LoginRequest{Subject: "alice", Remember: hydra.PtrBool(true), RememberFor: hydra.PtrInt64(3600)})))
		signedInAt := e.authTime(got)
		third := e.authorize(a, authorization("web", "state", "the third of these states"))
		challenge := e.loginChallenge(third)
		three := e.loginRequest(challenge)
		if !three.Skip || three.Subject != "alice" || three.GetSessionId() != two.GetSessionId() {
			t.Errorf("after a login that was remembered: %+v", three)
		}
		if _, status, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "bob"}); status != http.StatusBadRequest {
			t.Errorf("another user than the one who is signed in: status %d, %v", status, err)
		}
		got = e.issued(e.approveThere(a, e.signInThere(a, third, hydra.AcceptOAuth2LoginRequest{Subject: "alice"})))
		if again := e.authTime(got); !again.Equal(signedInAt) {
			t.Errorf("a confirmation counts as a login: auth_time %v, and the login was at %v", again, signedInAt)
		}
		// Signed out: then nobody is there to be confirmed.
		a.Post(a.URL("/logout"), "")
		if four := e.loginRequest(e.loginChallenge(e.authorize(a, authorization("web", "state", "the fourth of these states")))); four.Skip {
			t.Error("skip after signing out")
		}
	})

	t.Run("a login that is not remembered leaves that of the browser as long as it was", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a, page := e.signedInFor(authorization("web"), "stays")
		e.approveThere(a, page)
		ends := func() (at time.Time) {
			t.Helper()
			if err := e.pool.QueryRow(context.Background(), `SELECT expiry FROM sessions WHERE convert_from(data, 'UTF8') LIKE '%"username":"stays"%'`).Scan(&at); err != nil {
				t.Fatal(err)
			}
			return at
		}
		before := ends()
		e.approveThere(a, e.signInThere(a, e.authorize(a, authorization("web", "prompt", "login")), hydra.AcceptOAuth2LoginRequest{Subject: "passes"}))
		if after := ends(); !after.Equal(before) {
			t.Errorf("it ends at %v, and not at %v", after, before)
		}
		if request := e.loginRequest(e.loginChallenge(e.authorize(a, authorization("web")))); !request.Skip || request.Subject != "stays" {
			t.Errorf("signed in is %q", request.Subject)
		}
	})

	t.Run("a login is as old as it is, however often it is confirmed", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a, page := e.signedInFor(authorization("web"), "aged")
		e.approveThere(a, page)
		at := e.age("aged", 2*time.Hour)
		page = e.authorize(a, authorization("web"))
		challenge := e.loginChallenge(page)
		if !e.loginRequest(challenge).Skip {
			t.Fatal("no skip")
		}
		if got := e.authTime(e.issued(e.approveThere(a, e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{Subject: "aged"})))); !got.Equal(at.Truncate(time.Second)) {
			t.Errorf("auth_time is %v, and the login was at %v", got, at)
		}
		if e.loginRequest(e.loginChallenge(e.authorize(a, authorization("web", "max_age", "3600")))).Skip {
			t.Error("a login of two hours ago is good for max_age=3600")
		}
		if !e.loginRequest(e.loginChallenge(e.authorize(a, authorization("web", "max_age", "10800")))).Skip {
			t.Error("a login of two hours ago is not good for max_age=10800")
		}
	})

	t.Run("a login is remembered for as long as the application says", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		signIn := func(state string, answer hydra.AcceptOAuth2LoginRequest) {
			t.Helper()
			answer.Subject = "limited"
			page := e.authorize(a, authorization("web", "prompt", "login", "state", "the state for "+state))
			e.approveThere(a, e.signInThere(a, page, answer))
		}
		confirm := func(state string, answer hydra.AcceptOAuth2LoginRequest) {
			t.Helper()
			answer.Subject = "limited"
			page := e.authorize(a, authorization("web", "state", "the state for "+state))
			if !e.loginRequest(e.loginChallenge(page)).Skip {
				t.Fatalf("%s: no skip", state)
			}
			e.approveThere(a, e.signInThere(a, page, answer))
		}
		remember, extend := hydra.PtrBool(true), hydra.PtrBool(true)
		within := func(until, from time.Time, want time.Duration) bool {
			return until.Sub(from) > want-time.Minute && until.Sub(from) < want+time.Minute
		}
		signIn("an hour", hydra.AcceptOAuth2LoginRequest{Remember: remember, RememberFor: hydra.PtrInt64(3600)})
		now := time.Now()
		if until := e.loginUntil("limited"); !within(until, now, time.Hour) {
			t.Errorf("an hour ends at %v", until)
		}
		confirm("a confirmation", hydra.AcceptOAuth2LoginRequest{Remember: remember, RememberFor: hydra.PtrInt64(7200)})
		if until := e.loginUntil("limited"); !within(until, now, time.Hour) {
			t.Errorf("a confirmation has prolonged it, to %v", until)
		}
		confirm("an extension", hydra.AcceptOAuth2LoginRequest{Remember: remember, RememberFor: hydra.PtrInt64(7200), ExtendSessionLifespan: extend})
		if until := e.loginUntil("limited"); !within(until, now, 2*time.Hour) {
			t.Errorf("an extension ends at %v", until)
		}
		e.changeSession("limited", `"login_until":"`, "1")
		if e.loginRequest(e.loginChallenge(e.authorize(a, authorization("web", "state", "the state for afterwards")))).Skip {
			t.Error("it is remembered when its time is over")
		}
		signIn("good", hydra.AcceptOAuth2LoginRequest{Remember: remember})
		if until := e.loginUntil("limited"); !until.IsZero() {
			t.Errorf("without an end it ends at %v", until)
		}
		confirm("the last", hydra.AcceptOAuth2LoginRequest{})
	})

	t.Run("a session that somebody has planted is not signed in", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		page := e.authorize(a, authorization("web", "prompt", "login")) // which begins a session
		planted := a.CloneProfile()
		if len(planted.Cookies()) < 2 {
			t.Fatalf("the cookies are %v", planted.Cookies())
		}
		e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{Subject: "alice", Remember: hydra.PtrBool(true)})
		if text := a.Open(a.URL("/login")).Text(); !strings.Contains(text, "signed in as alice") {
			t.Errorf("the browser: %s", text)
		}
		if text := planted.Open(planted.URL("/login")).Text(); !strings.Contains(text, "not signed in") {
			t.Errorf("who has planted the session: %s", text)
		}
	})

	t.Run("a confirmation is of the login that there was", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		for name, meanwhile := range map[string]func(*useragent.Agent){
			"signed out": func(a *useragent.Agent) { a.Post(a.URL("/logout"), "") },
			"signed in again": func(a *useragent.Agent) {
				e.signInThere(a, e.authorize(a, authorization("web", "prompt", "login")), hydra.AcceptOAuth2LoginRequest{Subject: "confirmed", Remember: hydra.PtrBool(true)})
			},
		} {
			a, page := e.signedInFor(authorization("web"), "confirmed")
			e.approveThere(a, page)
			page = e.authorize(a, authorization("web", "state", "the state of the confirmation"))
			challenge := e.loginChallenge(page)
			if !e.loginRequest(challenge).Skip {
				t.Fatalf("%s: no skip", name)
			}
			to, _, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "confirmed"})
			if err != nil {
				t.Fatal(err)
			}
			meanwhile(a)
			if next := e.loginChallenge(a.Open(to)); next == challenge {
				t.Errorf("%s: the same login request", name)
			}
		}
	})

	t.Run("who wants a new login gets one", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a, page := e.signedInFor(authorization("web", "state", "the state of before"), "alice")
		e.approveThere(a, page)
		for _, pair := range [][2]string{{"prompt", "login"}, {"max_age", "0"}, {"prompt", "select_account"}} {
			page := e.authorize(a, authorization("web", pair[0], pair[1]))
			if request := e.loginRequest(e.loginChallenge(page)); request.Skip || request.Subject != "" {
				t.Errorf("%s=%s: skip", pair[0], pair[1])
			}
			before := time.Now().Truncate(time.Second)
			got := e.issued(e.approveThere(a, e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{Subject: "alice", Remember: hydra.PtrBool(true)})))
			if got == nil {
				t.Fatalf("%s=%s: nothing was issued", pair[0], pair[1])
			}
			if at := e.authTime(got); at.Before(before) {
				t.Errorf("%s=%s: auth_time is %v, before the request of %v", pair[0], pair[1], at, before)
			}
		}
	})

	t.Run("prompt=none shows no page, there neither", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		silent := authorization("web", "prompt", "none", "scope", "openid photos.read")
		wantError(t, e.authorize(a, silent), "login_required")
		page := e.signInThere(a, e.authorize(a, authorization("web", "scope", "openid photos.read")), hydra.AcceptOAuth2LoginRequest{Subject: "silent", Remember: hydra.PtrBool(true)})
		wantError(t, e.authorize(a, silent), "consent_required")
		a.Open(e.accepted(page, func(answer *hydra.AcceptOAuth2ConsentRequest) { answer.Remember = hydra.PtrBool(true) }))
		if got := e.issued(e.authorize(a, silent)); got == nil {
			t.Error("what was remembered does not cover the request")
		}
		// With a page allowed, the login is confirmed, and the consent application not asked.
		page = e.authorize(a, authorization("web", "scope", "openid photos.read"))
		if got := e.issued(e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{Subject: "silent"})); got == nil {
			t.Error("what was remembered is asked for again")
		}
	})

	t.Run("what the application puts into tokens it says for each of them", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		ctx := context.Background()
		says := func(account int64, change func(*hydra.AcceptOAuth2ConsentRequest)) func(*hydra.AcceptOAuth2ConsentRequest) {
			return func(answer *hydra.AcceptOAuth2ConsentRequest) {
				answer.Session = &hydra.AcceptOAuth2ConsentRequestSession{IdToken: map[string]any{"account": account}}
				if change != nil {
					change(answer)
				}
			}
		}
		account := func(got *issued) (tokens, int64) {
			t.Helper()
			if got == nil {
				t.Fatal("nothing was issued")
			}
			tokens := e.redeem(e.server, "web", got.code, callback, verifier)
			var claims struct {
				Account int64 `json:"account"`
			}
			if err := e.idToken(e.server, "web", tokens.IDToken).Claims(&claims); err != nil {
				t.Fatal(err)
			}
			return tokens, claims.Account
		}
		const first, second = 9007199254740993, 1700000000 // which no float64 is, and which Go writes as 1.7e+09
		wide, narrow := authorization("web", "scope", "openid photos.read offline_access"), authorization("web", "scope", "openid offline_access")
		a, page := e.signedInFor(wide, "said")
		if _, got := account(e.issued(a.Open(e.accepted(page, says(first, func(answer *hydra.AcceptOAuth2ConsentRequest) { answer.Remember = hydra.PtrBool(true) }))))); got != first {
			t.Errorf("the ID token has the account %d", got)
		}
		login := func(params url.Values) *useragent.Page {
			t.Helper()
			return e.signInThere(a, e.authorize(a, params), hydra.AcceptOAuth2LoginRequest{Subject: "said"})
		}
		page = login(narrow)
		if request := e.consentRequest(e.consentChallenge(page)); !request.GetSkip() {
			t.Error("skip is false of what is remembered")
		}
		skipped, got := account(e.issued(a.Open(e.accepted(page, says(second, nil)))))
		if got != second {
			t.Errorf("the ID token has the account %d", got)
		}
		silently := func(params url.Values) url.Values { params.Set("prompt", "none"); return params }
		wantError(t, e.authorize(a, silently(narrow)), "consent_required")
		if _, got := account(e.issued(e.authorize(a, silently(wide)))); got != first {
			t.Errorf("without a page, the ID token has the account %d", got)
		}
		// What was skipped rests on what was remembered, of which there is one.
		list, _, err := application(e.server).ListOAuth2ConsentSessions(ctx).Subject("said").Execute() //nolint:bodyclose // the client has read it
		if err != nil || len(list) != 1 {
			t.Fatalf("listed %v, %v", list, err)
		}
		if again := e.refresh(e.server, "web", skipped.RefreshToken); again.Error != "" {
			t.Errorf("refused before anything was taken back: %+v", again)
		} else {
			skipped = again
		}
		request, err := http.NewRequest(http.MethodDelete, e.server.API()+"/admin/oauth2/auth/sessions/consent?subject=said&consent_request_id="+url.QueryEscape(list[0].ConsentRequest.GetChallenge()), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if again := e.refresh(e.server, "web", skipped.RefreshToken); response.StatusCode != http.StatusNoContent || again.Error != "invalid_grant" || e.introspect(e.server, skipped.AccessToken).Active {
			t.Errorf("after status %d: %+v", response.StatusCode, again)
		}
	})

	t.Run("rejections are the application's, and final", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		ctx := context.Background()
		a := e.browser()
		page := e.authorize(a, authorization("web"))
		challenge := e.loginChallenge(page)
		to, _, err := call(application(e.server).RejectOAuth2LoginRequest(ctx).LoginChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{
			Error: hydra.PtrString("login_required"), ErrorDescription: hydra.PtrString("Nobody is there."), StatusCode: hydra.PtrInt64(503),
		}))
		if err != nil {
			t.Fatal(err)
		}
		if _, status, _ := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "alice"}); status != http.StatusConflict {
			t.Errorf("accepted after it was rejected: status %d", status)
		}
		delivery := wantError(t, a.Open(to.RedirectTo), "login_required")
		if delivery.Values.Get("state") == "" || !strings.Contains(delivery.Values.Get("error_description"), "Nobody is there.") {
			t.Errorf("the client is told %v", delivery.Values)
		}

		// No form can be posted to an app on the user's device.
		page = e.authorize(a, authorization("native", "redirect_uri", nativeCallback, "response_mode", "form_post"))
		to, _, err = call(application(e.server).RejectOAuth2LoginRequest(ctx).LoginChallenge(e.loginChallenge(page)).RejectOAuth2Request(hydra.RejectOAuth2Request{}))
		if err != nil {
			t.Fatal(err)
		}
		if page = a.Open(to.RedirectTo); page.Location == nil || page.Location.Scheme != "com.example.native" || page.Location.Query().Get("error") != "access_denied" {
			t.Errorf("status %d, to %v: %s", page.Status, page.Location, page.Text())
		}

		a, page = e.signedIn("alice", authorization("web"))
		challenge = e.consentChallenge(page)
		to, _, err = call(application(e.server).RejectOAuth2ConsentRequest(ctx).ConsentChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{
			Error: hydra.PtrString("access_denied"), ErrorDescription: hydra.PtrString("No, thanks."), StatusCode: hydra.PtrInt64(503),
		}))
		if err != nil {
			t.Fatal(err)
		}
		if _, status, _ := acceptConsent(e.server, challenge, hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"openid"}}); status != http.StatusConflict {
			t.Errorf("accepted after it was rejected: status %d", status)
		}
		delivery = wantError(t, a.Open(to.RedirectTo), "access_denied")
		if !strings.Contains(delivery.Values.Get("error_description"), "No, thanks.") {
			t.Errorf("the client is told %v", delivery.Values)
		}
	})

	t.Run("a pushed request", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		params := authorization("app")
		page := e.authorize(a, e.push(params))
		if login := e.loginRequest(e.loginChallenge(page)); !slices.Equal(login.RequestedScope, strings.Fields(params.Get("scope"))) {
			t.Errorf("the login request of a pushed request: %+v", login)
		}
		page = e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{Subject: "alice"})
		to := e.accepted(page, nil)
		got := e.issued(a.Open(to))
		if got == nil {
			t.Fatal("nothing was issued")
		}
		allOf(params, "alice").check(e.suite, e.server, got)
		again := a.Open(to)
		if again.Status != http.StatusConflict || again.Delivery() != nil || len(again.Elements("a")) != 0 { // only the client can push another
			t.Errorf("the way back, again: status %d, %s", again.Status, again.Text())
		}
	})
}

// signedInFor is signedIn with a login that is remembered.
func (e elsewhere) signedInFor(params url.Values, user string) (*useragent.Agent, *useragent.Page) {
	e.t.Helper()
	a := e.browser()
	return a, e.signInThere(a, e.authorize(a, params), hydra.AcceptOAuth2LoginRequest{Subject: user, Remember: hydra.PtrBool(true)})
}

// changeSession changes what follows the text in the session of the user, up to the next quotation mark.
func (e elsewhere) changeSession(user, after, to string) {
	e.t.Helper()
	tag, err := e.pool.Exec(context.Background(), `UPDATE sessions SET data = convert_to(regexp_replace(convert_from(data, 'UTF8'), '('||$2||')[^"]*', '\1'||$3), 'UTF8')
		WHERE convert_from(data, 'UTF8') LIKE '%"username":"'||$1||'"%'`, user, after, to)
	if err != nil || tag.RowsAffected() != 1 {
		e.t.Fatalf("%d sessions were changed: %v", tag.RowsAffected(), err)
	}
}

// fromSession returns what follows the text in the session of the user, "" if it is not there.
func (e elsewhere) fromSession(user, after string) (text string) {
	e.t.Helper()
	err := e.pool.QueryRow(context.Background(), `SELECT coalesce(substring(convert_from(data, 'UTF8') FROM $2||'([^"]*)'), '') FROM sessions
		WHERE convert_from(data, 'UTF8') LIKE '%"username":"'||$1||'"%'`, user, after).Scan(&text)
	if err != nil {
		e.t.Fatal(err)
	}
	return text
}

// age has the user have signed in earlier, and returns when that was.
func (e elsewhere) age(user string, by time.Duration) time.Time {
	e.t.Helper()
	at := time.Now().Add(-by)
	e.changeSession(user, `"auth_time":"`, strconv.FormatInt(at.UnixMicro(), 10))
	return at
}

// loginUntil returns when the user's login ends before the session, zero if it does not.
func (e elsewhere) loginUntil(user string) time.Time {
	e.t.Helper()
	text := e.fromSession(user, `"login_until":"`)
	if text == "" {
		return time.Time{}
	}
	micros, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		e.t.Fatal(err)
	}
	return time.UnixMicro(micros)
}

// authTime redeems the code and returns the ID token's auth_time.
func (e elsewhere) authTime(got *issued) time.Time {
	e.t.Helper()
	if got == nil {
		e.t.Fatal("nothing was issued")
	}
	tokens := e.redeem(e.server, "web", got.code, callback, verifier)
	var claims struct {
		AuthTime int64 `json:"auth_time"`
	}
	if err := e.idToken(e.server, "web", tokens.IDToken).Claims(&claims); err != nil || claims.AuthTime == 0 {
		e.t.Fatalf("no auth_time: %v", err)
	}
	return time.Unix(claims.AuthTime, 0)
}

// wantError fails the test unless the client is told this error.
func wantError(t testing.TB, page *useragent.Page, name string) *useragent.Delivery {
	t.Helper()
	delivery := page.Delivery()
	if delivery == nil || delivery.Values.Get("error") != name || delivery.Values.Get("code") != "" {
		t.Fatalf("the client gets %+v, want the error %s; status %d, %s", delivery, name, page.Status, page.Text())
	}
	return delivery
}

// Whoever has a way back that is not theirs, or that has led to something, gets a page, and nobody gets a code.
func TestPagesElsewhereAgainstAnAdversary(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	refused := func(t *testing.T, what string, page *useragent.Page, status int, text string) {
		t.Helper()
		if page.Status != status || page.Delivery() != nil || !strings.Contains(page.Text(), text) || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: status %d, delivery %+v, to %v, %s", what, page.Status, page.Delivery(), page.Location, page.Text())
		}
	}

	t.Run("another browser signs in with nothing, and approves nothing", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		page := e.authorize(a, authorization("web"))
		to, _, err := acceptLogin(e.server, e.loginChallenge(page), hydra.AcceptOAuth2LoginRequest{Subject: "mallory", Remember: hydra.PtrBool(true)})
		if err != nil {
			t.Fatal(err)
		}
		victim := e.browser()
		e.authorize(victim, authorization("web")) // which is on its way to its own login
		refused(t, "a login that another browser has begun", victim.Open(to), http.StatusForbidden, "not started here")
		if text := victim.Open(victim.URL("/login")).Text(); !strings.Contains(text, "You are not signed in") {
			t.Errorf("the victim's browser: %s", text)
		}
		page = a.Open(to)
		back := e.accepted(page, nil)
		refused(t, "an approval that another browser has asked for", victim.Open(back), http.StatusForbidden, "Nobody is waiting for this")
		if got := e.issued(a.Open(back)); got == nil {
			t.Error("the browser that it is for gets nothing any more")
		}
		refused(t, "the same approval again", a.Open(back), http.StatusConflict, "already been used")
		e.nothingIssued(a.Open(back))
		for _, path := range []string{"/login/back", "/login/back?login_verifier=", "/login/back?login_verifier=x&login_verifier=y", "/consent/back", "/consent/back?consent_verifier=fcv_x"} {
			refused(t, path, a.Open(a.URL(path)), http.StatusForbidden, "Go back to the application")
		}
	})

	// The application may know the victim already, and answer without a word.
	t.Run("whoever sends somebody to the login page for a request of their own is not signed in as them", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		attacker, victim := e.browser(), e.browser()
		challenge := e.loginChallenge(e.authorize(attacker, authorization("web")))
		to, _, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "lured", Remember: hydra.PtrBool(true)})
		if err != nil {
			t.Fatal(err)
		}
		refused(t, "the login of a request of another browser", victim.Open(to), http.StatusForbidden, "not started here")
		// The attacker opens the same page. The application sends the browser where the API says.
		_, status, err := call(application(e.server).GetOAuth2LoginRequest(context.Background()).LoginChallenge(challenge))
		if status != http.StatusGone {
			t.Fatalf("the page of a login that was answered: status %d, %v", status, err)
		}
		page := attacker.Open(goneTo(err))
		for page.Location != nil && strings.HasPrefix(page.Location.String(), attacker.URL("/oauth2/")) {
			page = attacker.Open(page.Location.String())
		}
		if request := e.loginRequest(e.loginChallenge(page)); request.Skip || request.Subject != "" {
			t.Errorf("the attacker is signed in: %+v", request)
		}
	})

	t.Run("handles of one thing are none of another", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		ctx := context.Background()
		api := application(e.server)
		a := e.browser()
		page := e.authorize(a, authorization("web"))
		login := e.loginChallenge(page)
		to, _, err := acceptLogin(e.server, login, hydra.AcceptOAuth2LoginRequest{Subject: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		back, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		loginVerifier := back.Query().Get("login_verifier")
		if page = a.Open(a.URL("/login/back?login_verifier=" + login)); page.Status != http.StatusForbidden {
			t.Errorf("a challenge as a verifier: status %d", page.Status)
		}
		if _, status, _ := call(api.GetOAuth2LoginRequest(ctx).LoginChallenge(loginVerifier)); status != http.StatusNotFound {
			t.Errorf("a verifier as a challenge: status %d", status)
		}
		if _, status, _ := call(api.GetOAuth2ConsentRequest(ctx).ConsentChallenge(login)); status != http.StatusNotFound {
			t.Errorf("a login's challenge at the consent's endpoint: status %d", status)
		}
		consent := e.consentChallenge(a.Open(to))
		if _, status, _ := call(api.GetOAuth2LoginRequest(ctx).LoginChallenge(consent)); status != http.StatusNotFound {
			t.Errorf("a consent's challenge at the login's endpoint: status %d", status)
		}
		if page = a.Open(a.URL("/consent/back?consent_verifier=" + consent)); page.Status != http.StatusForbidden {
			t.Errorf("a consent's challenge as a verifier: status %d", page.Status)
		}
	})

	t.Run("nobody is asked twice for one answer", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		page := e.authorize(a, authorization("web"))
		challenge := e.loginChallenge(page)
		to, _, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "alice", Acr: hydra.PtrString("1")})
		if err != nil {
			t.Fatal(err)
		}
		same, _, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "alice", Acr: hydra.PtrString("1")})
		if err != nil || same != to {
			t.Errorf("the same answer again leads elsewhere: %v", err)
		}
		if _, status, _ := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "bob"}); status != http.StatusConflict {
			t.Errorf("another answer: status %d", status)
		}
		_, status, err := call(application(e.server).GetOAuth2LoginRequest(context.Background()).LoginChallenge(challenge))
		if status != http.StatusGone || !strings.HasPrefix(goneTo(err), a.URL("/oauth2/auth?")) {
			t.Errorf("the page of a login that was answered: status %d, %v", status, err)
		}
		first := a.Open(to)
		second := a.Open(to) // a reload
		if e.consentRequest(e.consentChallenge(first)).GetSubject() != "alice" || e.consentRequest(e.consentChallenge(second)).GetSubject() != "alice" {
			t.Error("somebody else is signed in")
		}
		_, status, err = call(application(e.server).GetOAuth2LoginRequest(context.Background()).LoginChallenge(challenge))
		if status != http.StatusGone || !strings.HasPrefix(goneTo(err), a.URL("/oauth2/auth?")) {
			t.Errorf("the page of a login that was used: status %d, %v", status, err)
		}
	})

	t.Run("a request that has expired is asked for anew", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a := e.browser()
		page := e.authorize(a, authorization("web", "state", "the state of the late login"))
		challenge := e.loginChallenge(page)
		to, _, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		e.expire("example_server_login_requests", "request->>'query' LIKE '%late+login%'")
		page = a.Open(to)
		if next := e.loginChallenge(page); next == challenge {
			t.Error("the same login request")
		}
		page = e.signInThere(a, page, hydra.AcceptOAuth2LoginRequest{Subject: "late"})
		consent := e.consentChallenge(page)
		back := e.accepted(page, nil)
		e.expire("consent_requests", "subject = 'late'")
		refused(t, "an approval that comes too late", a.Open(back), http.StatusConflict, "took too long")
		_, status, err := call(application(e.server).GetOAuth2ConsentRequest(context.Background()).ConsentChallenge(consent))
		if status != http.StatusGone || !strings.HasPrefix(goneTo(err), a.URL("/oauth2/auth?")) {
			t.Errorf("the page of a consent that has expired: status %d, %v", status, err)
		}
		if got := e.issued(e.approveThere(a, a.Open(goneTo(err)))); got == nil {
			t.Error("the way on leads to nothing")
		}
	})

	t.Run("what was revoked is not issued", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a, page := e.signedIn("revoker", authorization("web"))
		back := e.accepted(page, nil)
		response, err := application(e.server).RevokeOAuth2ConsentSessions(context.Background()).Subject("revoker").All(true).Execute()
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		refused(t, "an approval that was revoked", a.Open(back), http.StatusConflict, "taken back")
		e.nothingIssued(a.Open(back))
	})

	t.Run("of 64 with the same way back one gets a code", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		a, page := e.signedIn("many", authorization("web"))
		back := e.accepted(page, nil)
		var mu sync.Mutex
		codes := map[string]bool{}
		var group sync.WaitGroup
		for range 64 {
			group.Go(func() {
				page, err := a.Do(useragent.Request{Method: http.MethodGet, URL: back})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if got := e.issued(page); got != nil {
					codes[got.code] = true
				} else if page.Delivery() != nil || page.Status < http.StatusBadRequest {
					t.Errorf("status %d: %s", page.Status, page.Text())
				}
			})
		}
		group.Wait()
		if len(codes) != 1 {
			t.Errorf("%d codes were issued", len(codes))
		}
	})

	t.Run("of accept and reject at the same moment one counts", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		ctx := context.Background()
		a, page := e.signedIn("torn", authorization("web"))
		challenge := e.consentChallenge(page)
		var mu sync.Mutex
		ways := map[string]int{}
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				var to *hydra.OAuth2RedirectTo
				var status int
				var err error
				if i%2 == 0 {
					to, status, err = call(application(e.server).AcceptOAuth2ConsentRequest(ctx).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"openid"}}))
				} else {
					to, status, err = call(application(e.server).RejectOAuth2ConsentRequest(ctx).ConsentChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{}))
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					ways[to.RedirectTo]++
				case status != http.StatusConflict:
					t.Errorf("status %d, %v", status, err)
				}
			})
		}
		group.Wait()
		if len(ways) != 1 {
			t.Fatalf("%d ways on", len(ways))
		}
		for to, n := range ways {
			if n != 8 {
				t.Errorf("%d of 8 with the same answer were told so", n)
			}
			if page := a.Open(to); page.Delivery() == nil {
				t.Errorf("the way on: status %d, %s", page.Status, page.Text())
			}
		}
	})

	t.Run("a login that was left is not for whoever comes next", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		left := authorization("web", "state", "the state of a request that was left")
		a, page := e.signedIn("left", left)
		back := e.accepted(page, nil)
		e.signInThere(a, e.authorize(a, authorization("web", "state", "the state of whoever comes next")), hydra.AcceptOAuth2LoginRequest{Subject: "next"})
		if request := e.loginRequest(e.loginChallenge(e.authorize(a, left))); request.Skip || request.Subject != "" {
			t.Errorf("skip for %q", request.Subject)
		}
		e.loginChallenge(a.Open(back)) // nor is the approval
	})

	t.Run("somebody else signs in meanwhile", func(t *testing.T) {
		t.Parallel()
		e := e.in(t)
		params := authorization("web")
		a, page := e.signedIn("first", params)
		back := e.accepted(page, nil)
		a.Post(a.URL("/logout"), "")
		e.signInThere(a, e.authorize(a, params), hydra.AcceptOAuth2LoginRequest{Subject: "second"})
		page = a.Open(back)
		e.nothingIssued(page)
		if request := e.consentRequest(e.consentChallenge(page)); request.GetSubject() != "second" {
			t.Errorf("asked is %s", request.GetSubject())
		}
	})
}

// usedIfIssued fails the test unless as many answers were used as codes were issued, with one transaction for both.
func (e elsewhere) usedIfIssued(want int) {
	e.t.Helper()
	var used, codes int
	err := e.pool.QueryRow(context.Background(), "SELECT (SELECT count(*) FROM consent_requests WHERE used_at IS NOT NULL), (SELECT count(*) FROM consent_codes)").Scan(&used, &codes)
	if err != nil || used != codes || want >= 0 && used != want {
		e.t.Errorf("%d answers were used and %d codes issued, want %d: %v", used, codes, want, err)
	}
	e.codesAreThoseOfConsumedGrants()
}

// expire ends requests, by the database's clock.
func (e elsewhere) expire(table, where string) {
	e.t.Helper()
	set := "expires_at = statement_timestamp() - interval '1 second'"
	if table == "consent_requests" { // which knows that it was answered in time
		set += ", answered_at = CASE WHEN answered_at IS NOT NULL THEN statement_timestamp() - interval '2 seconds' END, created_at = statement_timestamp() - interval '1 hour'"
	}
	tag, err := e.pool.Exec(context.Background(), "UPDATE "+table+" SET "+set+" WHERE "+where)
	if err != nil || tag.RowsAffected() == 0 {
		e.t.Fatalf("%d requests were ended: %v", tag.RowsAffected(), err)
	}
}

// One flow from process to process, each of which is killed as soon as it has answered; what the application asks is asked
// of another process than the one that the browser came from.
func TestPagesElsewhereWhileProcessesAreKilled(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	a := e.browser()
	next := func() {
		t.Helper()
		following := e.site.Start()
		e.server.Kill()
		e.server = following
		a.Use(following)
	}
	params := authorization("web")
	page := e.authorize(a, params)
	next()
	to, _, err := acceptLogin(e.server, e.loginChallenge(page), hydra.AcceptOAuth2LoginRequest{Subject: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	next()
	page = a.Open(to)
	next()
	back := e.accepted(page, nil)
	next()
	got := e.issued(a.Open(back))
	if got == nil {
		t.Fatal("nothing was issued")
	}
	next()
	allOf(params, "alice").check(e.suite, e.server, got)
	e.nothingIssued(a.Open(back))
	e.usedIfIssued(1)
}

// The process dies, or the database's connection is cut, in the middle of the response: the way back is still good, or has led to the code.
func TestPagesElsewhereKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	a, page := e.signedIn("alice", authorization("web"))
	back := e.accepted(page, nil)
	// The response waits for this lock, with the transaction open.
	lock, err := e.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(context.Background(), "SELECT FROM consent_requests FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	first := later(func() error { _, err := a.Do(useragent.Request{Method: http.MethodGet, URL: back}); return err })
	eventually(t, "the response waits", func() bool { return len(e.waiting()) == 1 })
	following := e.site.Start()
	e.server.Kill()
	if err := first(); err == nil {
		t.Error("a process that was killed has answered")
	}
	if err := lock.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the transaction of the process that was killed is over", e.nothingRuns)
	e.server = following
	a.Use(following)
	e.settled()
	e.usedIfIssued(-1)
	page = a.Open(back)
	if got := e.issued(page); got == nil && page.Status != http.StatusConflict {
		t.Errorf("the way back, after the crash: status %d, %s", page.Status, page.Text())
	}
	e.usedIfIssued(1)
}

// Whatever the database refuses, the person is told so, on a page, and the client nothing; and when it works again, the way back is
// still good.
func TestPagesElsewhereWhileTheDatabaseFails(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, failing)
	ctx := context.Background()
	execute := func(sql string) {
		t.Helper()
		if _, err := e.pool.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	without := func(table string, visit func() *useragent.Page) {
		t.Helper()
		execute("ALTER TABLE " + table + " RENAME TO gone")
		page := visit()
		execute("ALTER TABLE gone RENAME TO " + table)
		if page.Status != http.StatusServiceUnavailable || page.Delivery() != nil || page.Location != nil || page.Header.Get("Retry-After") == "" {
			t.Errorf("without %s: status %d, delivery %+v, to %v: %s", table, page.Status, page.Delivery(), page.Location, page.Text())
		}
	}
	a := e.browser()
	without("example_server_login_requests", func() *useragent.Page { return e.authorize(a, authorization("web")) })
	page := e.authorize(a, authorization("web"))
	challenge := e.loginChallenge(page)
	execute("ALTER TABLE example_server_login_requests RENAME TO gone")
	if _, status, _ := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "alice"}); status != http.StatusInternalServerError {
		t.Errorf("the login API answers with status %d", status)
	}
	execute("ALTER TABLE gone RENAME TO example_server_login_requests")
	to, _, err := acceptLogin(e.server, challenge, hydra.AcceptOAuth2LoginRequest{Subject: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	without("example_server_login_requests", func() *useragent.Page { return a.Open(to) })
	back := e.accepted(a.Open(to), nil)
	without("consent_requests", func() *useragent.Page { return a.Open(back) })
	without("consent_codes", func() *useragent.Page { return a.Open(back) })
	e.usedIfIssued(0)
	if got := e.issued(a.Open(back)); got == nil {
		t.Error("the way back is not good any more")
	}
	e.usedIfIssued(1)
}

// Who decides for everybody has to be somebody.
func TestInternalAPIIsForTheApplication(t *testing.T) {
	t.Parallel()
	token := strings.ReplaceAll(apiToken, " ", "-")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newElsewhere(t, withFlags("-api-token-file", file))
	e.site.Forbid("the application's token", token)
	page := e.authorize(e.browser(), authorization("web"))
	challenge := e.loginChallenge(page)
	for what, test := range map[string]struct {
		header http.Header
		status int
	}{
		"no token":                       {nil, http.StatusUnauthorized},
		"another token":                  {http.Header{"Authorization": {"Bearer " + strings.ToUpper(token)}}, http.StatusUnauthorized},
		"the token, in another way":      {http.Header{"Authorization": {"Basic " + token}}, http.StatusUnauthorized},
		"the token, from a page":         {http.Header{"Authorization": {"Bearer " + token}, "Origin": {"https://evil.example"}}, http.StatusForbidden},
		"the token, from the same site":  {http.Header{"Authorization": {"Bearer " + token}, "Sec-Fetch-Site": {"same-origin"}}, http.StatusForbidden},
		"the token":                      {http.Header{"Authorization": {"Bearer " + token}}, http.StatusOK},
		"the token, and Node's own kind": {http.Header{"Authorization": {"bearer " + token}, "Sec-Fetch-Mode": {"cors"}}, http.StatusOK},
	} {
		for _, path := range []string{"/admin/oauth2/auth/requests/login?login_challenge=" + challenge, "/admin/oauth2/auth/sessions/consent?subject=alice"} {
			request, err := http.NewRequest(http.MethodGet, e.server.API()+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = test.header
			request.Host = "authorization-server.internal" // by which an application may know it, if it has the token
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.Header.Get("Cache-Control") != "no-store" || response.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: the header %v", what, response.Header)
			}
			if response.StatusCode != test.status {
				t.Errorf("%s, %s: status %d, want %d", what, strings.SplitN(path, "?", 2)[0], response.StatusCode, test.status)
			}
		}
	}
	for _, path := range []string{"/admin/oauth2/auth/requests/login", "/admin/oauth2/auth/sessions/consent?subject=alice", "/consent", "/oauth2/auth/sessions/consent"} {
		if page := e.browser().Open(e.server.URL + path); page.Status != http.StatusNotFound {
			t.Errorf("browsers reach %s: status %d", path, page.Status)
		}
	}
	for _, path := range []string{"/login", "/consent"} { // of the server's own pages, which are not there
		a := e.browser()
		if page := a.Post(a.URL(path), "decision=approve"); page.Status != http.StatusNotFound && page.Status != http.StatusMethodNotAllowed {
			t.Errorf("%s takes a form: status %d", path, page.Status)
		}
	}
}

// A page of a site whose name was made to lead to this machine is of the same origin as what it asks for, and over plain http
// browsers then send neither Origin nor Sec-Fetch-Site with a GET.
func TestInternalAPIWithoutATokenHasNoNameOfAnotherSite(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t)
	address := e.server.API() + "/admin/oauth2/auth/sessions/consent?subject=alice"
	_, port, err := net.SplitHostPort(strings.TrimPrefix(e.server.API(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"evil.example:" + port: http.StatusMisdirectedRequest, "evil.example": http.StatusMisdirectedRequest, "127.0.0.1.evil.example": http.StatusMisdirectedRequest,
		"127.0.0.1:" + port: http.StatusOK, "localhost:" + port: http.StatusOK, "[::1]:" + port: http.StatusOK,
	} {
		request, err := http.NewRequest(http.MethodGet, address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var answer any
		err = json.NewDecoder(response.Body).Decode(&answer)
		_ = response.Body.Close()
		if response.StatusCode != want || err != nil {
			t.Errorf("as %s: status %d, want %d; %v", host, response.StatusCode, want, err)
		}
		if refused, _ := answer.(map[string]any); want != http.StatusOK && (refused["status_code"] != float64(want) || refused["error"] != "misdirected_request") {
			t.Errorf("as %s: %v is not in Hydra's shape", host, answer)
		}
	}
}
