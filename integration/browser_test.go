package integration_test

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/browser"
)

// TestBrowser holds all tests with a real browser, so that they share its process.
func TestBrowser(t *testing.T) {
	t.Parallel()
	chromium := browser.Start(t)
	turn := make(chan struct{}, 2) // more at once would only wait for each other's processors
	for _, test := range []struct {
		name      string
		run       func(*visit)
		configure func(*authserver.Config)
	}{
		{name: "SignInUntickApprove", run: browserSignsInUnticksAndApproves},
		{name: "DenyThenBack", run: browserDeniesAndGoesBack},
		{name: "ApproveThenBack", run: browserApprovesAndGoesBack},
		{name: "DoubleClick", run: browserClicksTwice},
		{name: "DoubleClickWithoutScripts", run: browserClicksTwiceWithoutScripts},
		{name: "TwoTabsTwoRequests", run: browserAnswersTwoRequests},
		{name: "TwoTabsOneRequest", run: browserAnswersOneRequestTwice},
		{name: "PushedRequest", run: browserBringsAPushedRequest},
		{name: "SignOutInOtherTab", run: browserSignsOutElsewhere},
		{name: "SignInAgainInOtherTab", run: browserSignsInElsewhere},
		{name: "WithoutScripts", run: browserRunsNoScripts},
		{name: "FormPostAndFragment", run: browserDeliversInAllModes},
		{name: "Framing", run: browserFramesNothing},
		{name: "CrossSite", run: browserIsLuredElsewhere},
		{name: "Keyboard", run: browserHasNoMouse},
		{name: "Remember", run: browserRemembers},
		{name: "RememberWithoutScripts", run: browserRemembersWithoutScripts},
		{name: "TakeBack", run: browserTakesBack},
		{name: "TakeBackByKeyboard", run: browserTakesBackByKeyboard},
		{name: "Demo", run: browserSeesTheDemo, configure: asDemo},
		{name: "DemoTakenBack", run: browserTakesTheDemoBack, configure: asDemo},
		{name: "Looks", run: browserLooks},
		{name: "LooksOfTheDemo", run: browserLooksAtTheDemo, configure: asDemo},
		{name: "LooksOfAwkwardNames", run: browserLooksAtAwkwardNames, configure: withAwkwardUser},
		{name: "LooksOfApplications", run: browserLooksAtApplications, configure: withAwkwardUser},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			turn <- struct{}{}
			t.Cleanup(func() { <-turn })
			client := newClientSite(t)
			s := newSuite(t, withClients(awkwardClient(client)), func(c *authserver.Config) {
				for i := range c.Clients {
					c.Clients[i].RedirectURIs = []string{client.callback()}
				}
				if test.configure != nil {
					test.configure(c)
				}
			})
			test.run(&visit{suite: s, t: t, client: client, profile: chromium.Profile(t)})
		})
	}
}

// asDemo has the server run its demo.
func asDemo(c *authserver.Config) { c.Clients, c.Users = nil, nil }

// visit is a test with a server, a client, and a browser in which nobody is signed in.
type visit struct {
	*suite
	t       *testing.T
	client  *clientSite
	profile *browser.Profile
}

// clientSite is a client's web server, on a port of its own.
type clientSite struct {
	*httptest.Server
	mu       sync.Mutex
	arrivals []arrival
}

// arrival is what a browser has brought to the client.
type arrival struct {
	mode   string // query, fragment or form_post
	values url.Values
}

func newClientSite(t *testing.T) *clientSite {
	c := new(clientSite)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" { // then there should be a fragment, which only a script sees
			writeHTML(w, `<script>location.replace("/fragment?" + location.hash.slice(1))</script>`)
			return
		}
		c.arrive(w, "query", r.URL.Query())
	})
	mux.HandleFunc("GET /fragment", func(w http.ResponseWriter, r *http.Request) { c.arrive(w, "fragment", r.URL.Query()) })
	mux.HandleFunc("GET /logo.svg", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/svg+xml")
		_, _ = w.Write([]byte(`<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle cx="4" cy="4" r="4" fill="teal"/></svg>`))
	})
	mux.HandleFunc("POST /callback", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Errorf("the client got a malformed form: %v", err)
		}
		c.arrive(w, "form_post", r.PostForm)
	})
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *clientSite) callback() string { return c.URL + "/callback" }

func (c *clientSite) arrive(w http.ResponseWriter, mode string, values url.Values) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrivals = append(c.arrivals, arrival{mode, values})
	writeHTML(w, "<h1>Welcome back</h1><p>"+html.EscapeString(mode)+"</p>")
}

func writeHTML(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(`<!DOCTYPE html><html lang="en"><title>A client</title>` + body))
}

// arrived returns what has been brought to the client, and fails the test if there
// are not so many.
func (c *clientSite) arrived(t testing.TB, n int) []arrival {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.arrivals) != n {
		t.Fatalf("the client has had %d answers, want %d: %+v", len(c.arrivals), n, c.arrivals)
	}
	return slices.Clone(c.arrivals)
}

// page serves a page on another port, and another site if the host is: 127.0.0.1 and
// localhost are two.
func page(t *testing.T, host, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeHTML(w, body) }))
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "127.0.0.1", host, 1) + "/page"
}

// ask is a request that the client makes.
type ask struct {
	*party
	address      string
	state, proof string
}

// The scopes of most requests.
var someScopes = []string{oidc.ScopeOpenID, "photos.read", oidc.ScopeOfflineAccess}

// asks has the client make a request for a code.
func (v *visit) asks(clientID string, scopes []string, options ...oauth2.AuthCodeOption) *ask {
	v.t.Helper()
	a := &ask{party: v.party(clientID, scopes...), state: oauth2.GenerateVerifier(), proof: oauth2.GenerateVerifier()}
	a.oauth2.RedirectURL = v.client.callback()
	a.address = a.oauth2.AuthCodeURL(a.state, append(options, oidc.Nonce(oauth2.GenerateVerifier()), oauth2.S256ChallengeOption(a.proof))...)
	return a
}

// redeems has the client exchange what it has got for tokens of these scopes.
func (v *visit) redeems(a *ask, got arrival, scopes ...string) {
	v.t.Helper()
	if got.values.Get("state") != a.state {
		v.t.Errorf("the client got the state %q, want %q", got.values.Get("state"), a.state)
	}
	code := got.values.Get("code")
	v.site.Forbid("a code", code)
	token, err := a.oauth2.Exchange(a.ctx, code, oauth2.VerifierOption(a.proof))
	if err != nil {
		v.t.Fatalf("the client cannot exchange what it has got, %v: %v", got, err)
	}
	v.site.Forbid("an access token", token.AccessToken)
	want := sorted(strings.Join(scopes, " "))
	if scope, _ := token.Extra("scope").(string); sorted(scope) != want {
		v.t.Errorf("the token response has the scopes %q, want %q", sorted(scope), want)
	}
	if in := v.introspect(v.server, token.AccessToken); !in.Active || sorted(in.Scope) != want {
		v.t.Errorf("the token is good for %+v, want the scopes %q", in, want)
	}
}

// at returns an address of the server.
func (v *visit) at(path string) string { return v.server.URL + path }

// signsIn fills the login page in.
func (v *visit) signsIn(tab *browser.Tab, user, password string) {
	v.t.Helper()
	if user != "" { // else it is there already
		tab.Type("#username", user)
	}
	tab.Type("#password", password)
	tab.Click("form[action='/login'] button")
}

// comesToConsent opens the client's request and signs the user in if need be.
func (v *visit) comesToConsent(tab *browser.Tab, a *ask) {
	v.t.Helper()
	tab.Open(a.address)
	tab.Arrive(v.at("/oauth2/auth"))
	if tab.Count("#password") > 0 {
		v.signsIn(tab, "alice", users["alice"])
		tab.Arrive(v.at("/oauth2/auth"))
	}
	v.sees(tab, "wants access")
}

// sees fails the test unless the page's heading has the text.
func (v *visit) sees(tab *browser.Tab, heading string) {
	v.t.Helper()
	if got := tab.Text("h1"); !strings.Contains(got, heading) {
		v.t.Fatalf("the page says %q, want %q", got, heading)
	}
}

// status fails the test unless the document came with it.
func (v *visit) status(d browser.Document, want int64) {
	v.t.Helper()
	if d.Status != want {
		v.t.Errorf("%s came with status %d, want %d", d.URL.Path, d.Status, want)
	}
}

const (
	approveButton = "button[value=approve]"
	denyButton    = "button[value=deny]"
	alreadyText   = "already been answered"
)

func browserSignsInUnticksAndApproves(v *visit) {
	a := v.asks("web", someScopes, oauth2.SetAuthURLParam("audience", api))
	tab := v.profile.Tab()
	tab.Open(a.address)
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "Sign in")

	v.signsIn(tab, "alice", "not her password")
	v.status(tab.Arrive(v.at("/login")), http.StatusForbidden)
	if text := tab.Text("[role=alert]"); !strings.Contains(text, "wrong") {
		v.t.Errorf("after a wrong password the page says %q", text)
	}
	if tab.Value("#username") != "alice" || tab.Value("#password") != "" {
		v.t.Error("after a wrong password the name is gone or the password is not")
	}
	tab.Type("#password", users["alice"])
	tab.Keys(kb.Enter)
	v.status(tab.Arrive(v.at("/oauth2/auth")), http.StatusOK)

	v.sees(tab, "The client web wants access")
	text := tab.Text("main")
	for _, want := range []string{"alice", "Know who you are", "See your photos", "Stay connected", "1 hour", api, strings.TrimPrefix(v.client.URL, "http://")} {
		if !strings.Contains(text, want) {
			v.t.Errorf("the consent page does not say %q", want)
		}
	}
	boxes := browser.Evaluate[map[string]string](tab, `Object.fromEntries([...document.querySelectorAll("[type=checkbox]")].map(
		(e) => [e.labels[0].innerText, (e.checked ? "ticked" : "empty") + (e.disabled ? ", fixed" : "")]))`)
	if fmt.Sprint(boxes) != fmt.Sprint(map[string]string{
		"Know who you are": "ticked, fixed", "See your photos": "ticked", "Stay connected": "ticked", api: "ticked",
		"Remember this decision": "empty", "Remember “Stay connected”, too": "empty", // which is not to be seen yet
	}) {
		v.t.Errorf("the checkboxes are %v", boxes)
	}
	v.wantCount(0, 0, 0)
	v.client.arrived(v.t, 0)

	tab.Click("input[value='photos.read']")
	tab.Click(approveButton)
	v.status(tab.Arrive(v.client.callback()), http.StatusOK)
	v.redeems(a, v.client.arrived(v.t, 1)[0], oidc.ScopeOpenID, oidc.ScopeOfflineAccess)
	v.wantCount(1, 0, 1)
}

// back goes back to the consent page. Chromium keeps the page in memory and shows it
// again, with the ticket in it; a browser that has forgotten it gets a new one, and so
// another decision. It returns whether the page is the same.
func (v *visit) back(tab *browser.Tab, ticket string) (same bool) {
	v.t.Helper()
	tab.Back()
	d := tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "wants access")
	same = tab.Value("[name=ticket]") == ticket
	if same != d.Back {
		v.t.Fatalf("the page was kept: %v; it is the same: %v", d.Back, same)
	}
	if !same {
		v.t.Log("this browser asks for the page anew when it goes back")
	}
	return same
}

func browserDeniesAndGoesBack(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	v.comesToConsent(tab, a)
	ticket := tab.Value("[name=ticket]")
	tab.Click(denyButton)
	tab.Arrive(v.client.callback())
	got := v.client.arrived(v.t, 1)[0]
	if got.values.Get("error") != "access_denied" || got.values.Get("state") != a.state || got.values.Has("code") {
		v.t.Errorf("the client got %v", got.values)
	}
	v.wantCount(0, 1, 0)

	if v.back(tab, ticket) {
		tab.Click(approveButton)
		v.status(tab.Arrive(v.at("/consent")), http.StatusConflict)
		v.sees(tab, alreadyText)
	}
	v.client.arrived(v.t, 1)
	v.wantCount(0, 1, 0)
}

func browserApprovesAndGoesBack(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	v.comesToConsent(tab, a)
	ticket := tab.Value("[name=ticket]")
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.client.arrived(v.t, 1)

	if v.back(tab, ticket) {
		tab.Click(approveButton)
		v.status(tab.Arrive(v.at("/consent")), http.StatusConflict)
		v.sees(tab, alreadyText)
		tab.Reload() // sends the form again
		v.status(tab.Arrive(v.at("/consent")), http.StatusConflict)
		v.sees(tab, alreadyText)
	}
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)
	v.wantCount(1, 0, 1)
}

func browserClicksTwice(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	v.comesToConsent(tab, a)
	tab.Hold("*/consent")
	tab.ClickTwice(approveButton, func() { tab.AwaitHeld(1) })
	tab.Release()
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)
	v.wantCount(1, 0, 1)
	if got := v.server.Decisions(0); fmt.Sprint(got) != "[approve]" {
		v.t.Errorf("the gate decided %v: the second click was sent", got)
	}
}

// Without scripts the second click is sent, and the answer to the first one is lost
// when it has not arrived yet.
func browserClicksTwiceWithoutScripts(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	tab.WithoutScripts()
	v.comesToConsent(tab, a)
	tab.Hold("*/consent")
	tab.ClickTwice(approveButton, func() { tab.AwaitHeld(1) })
	tab.AwaitHeld(2)
	tab.Release()
	v.status(tab.Arrive(v.at("/consent")), http.StatusConflict)
	v.sees(tab, alreadyText)
	v.client.arrived(v.t, 0)
	v.wantCount(1, 0, 1)

	tab.Click("a.button")
	tab.Arrive(v.at("/oauth2/auth"))
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)
	v.wantCount(2, 0, 2)
}

func browserAnswersTwoRequests(v *visit) {
	first := v.asks("web", []string{oidc.ScopeOpenID, "photos.read"})
	second := v.asks("web", []string{oidc.ScopeOpenID, "photos.write"})
	firstTab, secondTab := v.profile.Tab(), v.profile.Tab()
	v.comesToConsent(firstTab, first)
	v.comesToConsent(secondTab, second)
	for _, in := range []struct {
		tab *browser.Tab
		of  string
	}{{firstTab, "See your photos"}, {secondTab, "Add photos"}} {
		if text := in.tab.Text("#decision fieldset"); !strings.Contains(text, in.of) {
			v.t.Errorf("the page does not ask for %q but for %q", in.of, text)
		}
	}

	secondTab.Click(approveButton)
	secondTab.Arrive(v.client.callback())
	v.redeems(second, v.client.arrived(v.t, 1)[0], oidc.ScopeOpenID, "photos.write")
	firstTab.Click(approveButton)
	firstTab.Arrive(v.client.callback())
	v.redeems(first, v.client.arrived(v.t, 2)[1], oidc.ScopeOpenID, "photos.read")
	v.wantCount(2, 0, 2)
}

// Each page is a decision of its own, and answers for no other.
func browserAnswersOneRequestTwice(v *visit) {
	a := v.asks("web", someScopes)
	firstTab, secondTab := v.profile.Tab(), v.profile.Tab()
	v.comesToConsent(firstTab, a)
	v.comesToConsent(secondTab, a)
	ticket := firstTab.Value("[name=ticket]")
	if secondTab.Value("[name=ticket]") == ticket {
		v.t.Fatal("two pages have one ticket")
	}

	firstTab.Click(denyButton)
	firstTab.Arrive(v.client.callback())
	if got := v.client.arrived(v.t, 1)[0]; got.values.Get("error") != "access_denied" {
		v.t.Errorf("the client got %v", got.values)
	}
	secondTab.Click("input[value='photos.read']")
	secondTab.Click(approveButton)
	secondTab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 2)[1], oidc.ScopeOpenID, oidc.ScopeOfflineAccess)
	v.wantCount(1, 1, 1)

	// The approval in the other tab has not made the denial undone.
	if v.back(firstTab, ticket) {
		firstTab.Click(approveButton)
		v.status(firstTab.Arrive(v.at("/consent")), http.StatusConflict)
		v.sees(firstTab, alreadyText)
	}
	v.client.arrived(v.t, 2)
	v.wantCount(1, 1, 1)
}

// The request that the client has pushed is still there after the login, a reload and a
// second tab, and is answered once (RFC 9126, Section 4; REQUIREMENTS 14).
func browserBringsAPushedRequest(v *visit) {
	a := v.asks("web", someScopes)
	a.address = v.at("/oauth2/auth?" + v.push(must(url.Parse(a.address)).Query()).Encode())
	firstTab, secondTab := v.profile.Tab(), v.profile.Tab()
	firstTab.Open(a.address)
	firstTab.Arrive(v.at("/oauth2/auth"))
	v.sees(firstTab, "Sign in")
	firstTab.Reload()
	firstTab.Arrive(v.at("/oauth2/auth"))
	v.signsIn(firstTab, "alice", users["alice"])
	firstTab.Arrive(v.at("/oauth2/auth"))
	v.sees(firstTab, "wants access")
	firstTab.Reload()
	v.status(firstTab.Arrive(v.at("/oauth2/auth")), http.StatusOK)
	v.sees(firstTab, "wants access")
	v.comesToConsent(secondTab, a)

	ticket := firstTab.Value("[name=ticket]")
	firstTab.Click(approveButton)
	firstTab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)
	secondTab.Click(approveButton)
	secondTab.Arrive(v.client.callback())
	if got := v.client.arrived(v.t, 2)[1]; got.values.Get("error") != "invalid_request_uri" || got.values.Get("state") != a.state || got.values.Has("code") {
		v.t.Errorf("from the second tab the client got %v", got.values)
	}
	if v.back(firstTab, ticket) {
		firstTab.Click(approveButton)
		v.status(firstTab.Arrive(v.at("/consent")), http.StatusConflict)
		v.sees(firstTab, alreadyText)
	}
	v.client.arrived(v.t, 2)
	v.wantCount(1, 0, 1)
}

func browserSignsOutElsewhere(v *visit) {
	a := v.asks("web", someScopes)
	tab, other := v.profile.Tab(), v.profile.Tab()
	v.comesToConsent(tab, a)
	other.Open(v.at("/login"))
	other.Arrive(v.at("/login"))
	v.sees(other, "You are signed in")
	other.Click("form[action='/logout'] button")
	other.Arrive(v.at("/login"))
	v.sees(other, "Sign in")

	tab.Click(approveButton)
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "Sign in")
	v.client.arrived(v.t, 0)
	v.wantCount(0, 0, 0)

	// It goes on from there, for whoever signs in.
	v.signsIn(tab, "bob", users["bob"])
	tab.Arrive(v.at("/oauth2/auth"))
	if who := tab.Text(".who"); !strings.Contains(who, "bob") || strings.Contains(who, "alice") {
		v.t.Errorf("the consent page is for %q", who)
	}
	// "Not you?" leads back to the same request.
	tab.Click(".who button")
	tab.Arrive(v.at("/oauth2/auth"))
	v.signsIn(tab, "alice", users["alice"])
	tab.Arrive(v.at("/oauth2/auth"))
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)
	v.wantCount(1, 0, 1)
}

// A page is for one login: after another, even of the same user, it is shown anew.
func browserSignsInElsewhere(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	others := map[string]*browser.Tab{"alice": v.profile.Tab(), "bob": v.profile.Tab()}
	for _, other := range others { // while nobody is signed in
		other.Open(v.at("/login"))
		other.Arrive(v.at("/login"))
	}
	v.comesToConsent(tab, a)

	for _, user := range []string{"alice", "bob"} {
		v.signsIn(others[user], user, users[user])
		others[user].Arrive(v.at("/login"))
		v.sees(others[user], "You are signed in")
		tab.Click(approveButton)
		v.status(tab.Arrive(v.at("/consent")), http.StatusConflict)
		v.sees(tab, "wants access")
		if notice, who := tab.Text("[role=alert]"), tab.Text(".who"); !strings.Contains(notice, "Nothing was approved") || !strings.Contains(who, user) {
			v.t.Errorf("the page is for %q and says %q", who, notice)
		}
		v.client.arrived(v.t, 0)
		v.wantCount(0, 0, 0)
	}
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)
	v.wantCount(1, 0, 1)
}

func browserRunsNoScripts(v *visit) {
	a := v.asks("app", someScopes, oauth2.SetAuthURLParam("response_mode", "form_post"))
	tab := v.profile.Tab()
	tab.WithoutScripts()
	tab.Open(a.address)
	tab.Arrive(v.at("/oauth2/auth"))
	v.signsIn(tab, "alice", "not her password")
	v.status(tab.Arrive(v.at("/login")), http.StatusForbidden)
	v.signsIn(tab, "", users["alice"])
	tab.Arrive(v.at("/oauth2/auth"))
	tab.Click("input[value='offline_access']")
	tab.Click(approveButton)

	// The answer waits for the button, since there is no script that sends it.
	v.status(tab.Arrive(v.at("/consent")), http.StatusOK)
	v.sees(tab, "Back to the application")
	v.client.arrived(v.t, 0)
	tab.Click("button")
	tab.Arrive(v.client.callback())
	got := v.client.arrived(v.t, 1)[0]
	if got.mode != "form_post" {
		v.t.Errorf("delivered by %s", got.mode)
	}
	v.redeems(a, got, oidc.ScopeOpenID, "photos.read")
	v.wantCount(1, 0, 1)
}

func browserDeliversInAllModes(v *visit) {
	tab := v.profile.Tab()
	for i, mode := range []string{"query", "fragment", "form_post"} {
		path := map[string]string{"fragment": "/fragment"}[mode]
		a := v.asks("web", someScopes, oauth2.SetAuthURLParam("response_mode", mode))
		v.comesToConsent(tab, a)
		tab.Click(approveButton)
		tab.Arrive(v.client.URL + or(path, "/callback"))
		got := v.client.arrived(v.t, 2*i+1)[2*i]
		if got.mode != mode {
			v.t.Errorf("delivered by %s, want %s", got.mode, mode)
		}
		v.redeems(a, got, someScopes...)

		// An error comes the same way.
		a = v.asks("web", someScopes, oauth2.SetAuthURLParam("response_mode", mode))
		v.comesToConsent(tab, a)
		tab.Click(denyButton)
		tab.Arrive(v.client.URL + or(path, "/callback"))
		if got = v.client.arrived(v.t, 2*i+2)[2*i+1]; got.mode != mode || got.values.Get("error") != "access_denied" || got.values.Get("state") != a.state {
			v.t.Errorf("denied by %s: %v, want %s", got.mode, got.values, mode)
		}
	}
	v.wantCount(3, 3, 3)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Nobody sees one of the server's pages through a hole in another (RFC 9700, Section 4.16;
// REQUIREMENTS 8).
func browserFramesNothing(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	v.comesToConsent(tab, a)

	// The port is another one and the site is the same, so cookies would come along.
	for what, address := range map[string]string{
		"the consent page": a.address,
		"the account page": v.at("/login"),
		"an error page":    v.at("/nowhere"),
	} {
		trap := page(v.t, "127.0.0.1", `<iframe src="`+html.EscapeString(address)+`"></iframe><iframe src="/control"></iframe>`)
		tab.Open(trap)
		tab.Arrive(trap)
		frames := tab.Frames()
		if len(frames) != 2 || strings.HasPrefix(frames[0], v.server.URL) || !strings.HasSuffix(frames[1], "/control") {
			v.t.Errorf("%s in a frame: the frames are %q", what, frames)
		}
		if complaints := fmt.Sprint(tab.Complaints()); !strings.Contains(complaints, "frame") {
			v.t.Errorf("%s in a frame: the browser does not say that it refuses: %s", what, complaints)
		}
	}
}

// A page of another site makes the browser send what it wants to have sent
// (RFC 6749, Section 10.12; REQUIREMENTS 2).
func browserIsLuredElsewhere(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	v.comesToConsent(tab, a)
	fields := browser.Evaluate[[][]string](tab, `[...new FormData(document.querySelector("#decision")).entries()]`)
	if len(fields) != 3+len(someScopes) {
		v.t.Fatalf("the form has the fields %q", fields)
	}
	fields = append(fields, []string{"decision", "approve"})

	// To one of them the browser sends the cookie, to the other it does not.
	other := v.profile.Tab()
	for _, host := range []string{"127.0.0.1", "localhost"} {
		for path, fields := range map[string][][]string{
			"/consent": fields, // even with the ticket of a page that is open
			"/login":   {{"username", "bob"}, {"password", users["bob"]}},
			"/logout":  nil,
			takeBack:   {{"what", "all"}, {"username", "alice"}},
		} {
			lure := page(v.t, host, autoForm(v.at(path), fields))
			other.Open(lure)
			v.status(other.Arrive(v.at(path)), http.StatusForbidden)
			v.sees(other, "Another site tried to answer for you")
			other.Open(v.at("/login"))
			other.Arrive(v.at("/login"))
			if text := other.Text("main"); !strings.Contains(text, "as alice") {
				v.t.Errorf("after a post from %s to %s the account page says %q", host, path, text)
			}
		}
	}
	v.client.arrived(v.t, 0)
	v.wantCount(0, 0, 0)

	// The page that all this was about is still good.
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], someScopes...)

	// Where clients may post, they may: to ask.
	a = v.asks("web", someScopes)
	query := must(url.Parse(a.address)).Query()
	fields = nil
	for name := range query {
		fields = append(fields, []string{name, query.Get(name)})
	}
	tab.Open(page(v.t, "localhost", autoForm(v.at("/oauth2/auth"), fields)))
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "wants access")
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 2)[1], someScopes...)
}

// autoForm is a form that sends itself.
func autoForm(action string, fields [][]string) string {
	var body strings.Builder
	fmt.Fprintf(&body, `<form method="post" action="%s">`, html.EscapeString(action))
	for _, f := range fields {
		fmt.Fprintf(&body, `<input type="hidden" name="%s" value="%s">`, html.EscapeString(f[0]), html.EscapeString(f[1]))
	}
	body.WriteString(`</form><script>document.forms[0].submit()</script>`)
	return body.String()
}

// browserHasNoMouse signs in and decides with Tab, Space and Enter alone.
func browserHasNoMouse(v *visit) {
	a := v.asks("web", someScopes)
	tab := v.profile.Tab()
	tab.Open(a.address)
	tab.Arrive(v.at("/oauth2/auth"))
	v.focused(tab, "#username")
	tab.Keys("alice")
	tab.Keys(kb.Tab)
	v.focused(tab, "#password")
	tab.Keys("not her password" + kb.Enter)
	tab.Arrive(v.at("/login"))
	v.focused(tab, "[role=alert]")
	v.tabsTo(tab, "#password", 3)
	tab.Keys(users["alice"] + kb.Enter)
	tab.Arrive(v.at("/oauth2/auth"))

	v.tabsTo(tab, "input[value='photos.read']", 3)
	tab.Keys(" ")
	if browser.Evaluate[bool](tab, `document.activeElement.checked`) {
		v.t.Error("the space bar does not untick")
	}
	v.tabsTo(tab, approveButton, 4)
	tab.Keys(kb.Enter)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], oidc.ScopeOpenID, oidc.ScopeOfflineAccess)

	// Enter on a checkbox is the form's first button, which must never approve.
	a = v.asks("web", someScopes)
	v.comesToConsent(tab, a)
	v.tabsTo(tab, "input[value='photos.read']", 3)
	tab.Keys(kb.Enter)
	tab.Arrive(v.client.callback())
	if got := v.client.arrived(v.t, 2)[1]; got.values.Get("error") != "access_denied" {
		v.t.Errorf("Enter on a checkbox led to %v", got.values)
	}
	v.wantCount(1, 1, 1)
}

// focused fails the test unless the element has the focus and shows that it has.
func (v *visit) focused(tab *browser.Tab, selector string) {
	v.t.Helper()
	if is := v.focus(tab, selector); !is.Wanted {
		v.t.Fatalf("the focus is on %s, want %s", is.What, selector)
	}
}

type focus struct {
	What                 string
	Wanted, Ring, InView bool
}

func (v *visit) focus(tab *browser.Tab, selector string) focus {
	v.t.Helper()
	tab.Settle()
	is := browser.Evaluate[focus](tab, fmt.Sprintf(`(() => {
		const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
		return {
			What: e.outerHTML.slice(0, 100),
			Wanted: e.matches(%q),
			Ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
			InView: box.bottom > 0 && box.top < innerHeight,
		};
	})()`, selector))
	if !is.Ring || !is.InView {
		v.t.Errorf("one cannot see that the focus is on %s: outline %v, in the window %v", is.What, is.Ring, is.InView)
	}
	return is
}

// tabsTo presses Tab until the element has the focus, at most so often.
func (v *visit) tabsTo(tab *browser.Tab, selector string, atMost int) {
	v.t.Helper()
	for range atMost {
		tab.Keys(kb.Tab)
		if v.focus(tab, selector).Wanted {
			return
		}
	}
	v.focused(tab, selector)
}

// The demo has one click through everything, knowing only what the pages say.
func browserSeesTheDemo(v *visit) {
	tab := v.profile.Tab()
	tab.Open(v.at("/"))
	tab.Arrive(v.at("/"))
	v.sees(tab, "See a consent grant at work")
	tab.Click("button[value=demo-web]")
	tab.Arrive(v.at("/oauth2/auth"))
	v.signsInToDemo(tab)
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "Photo Printer wants access")
	if !browser.Evaluate[bool](tab, `document.querySelector("img.logo").complete && document.querySelector("img.logo").naturalWidth > 0`) {
		v.t.Error("the client's logo is not there")
	}
	tab.Click("input[value='photos.read']")
	tab.Click(approveButton)
	tab.Arrive(v.at("/demo/result"))
	v.sees(tab, "Photo Printer is connected")
	given := browser.Evaluate[map[string]string](tab, `Object.fromEntries([...document.querySelectorAll("tbody tr")].map((r) => [r.cells[1].innerText, r.cells[2].innerText]))`)
	if fmt.Sprint(given) != fmt.Sprint(map[string]string{"openid": "Yes", "profile": "Yes", "photos.read": "No", "offline_access": "Yes"}) {
		v.t.Errorf("the demo says that it was given %v", given)
	}
	for i, want := range []string{`"sub": "alice"`, "ory_at_", "ory_rt_"} {
		tab.Click(fmt.Sprintf("details:nth-of-type(%d) summary", i+1))
		if got := tab.Text(fmt.Sprintf("details:nth-of-type(%d) pre", i+1)); !strings.Contains(got, want) {
			v.t.Errorf("token %d is %q, want %q in it", i, got, want)
		}
	}

	for what, want := range map[string]string{"page": "already_decided", "request": "binding_mismatch"} {
		tab.Click("button[value=" + what + "]")
		tab.Arrive(v.at("/demo/result"))
		text := tab.Text("#replay [role=status]")
		if !strings.Contains(text, "refused") || !strings.Contains(text, "409 Conflict") || !strings.Contains(text, want) {
			v.t.Errorf("the replay of the %s says %q, want %q in it", what, text, want)
		}
		if log := tab.Text(".events li:last-child"); !strings.Contains(log, want) {
			v.t.Errorf("the gate is said to have recorded %q, want %q in it", log, want)
		}
	}
	v.wantCount(1, 0, 1)

	// The other client, and the other answer. Nobody is asked for the password again.
	tab.Click("a[href='/']")
	tab.Arrive(v.at("/"))
	tab.Click("button[value=demo-app]")
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "Pocket Album wants access")
	if text := tab.Text("main"); !strings.Contains(text, "cannot prove who it is") {
		v.t.Error("the page does not warn of a public client")
	}
	tab.Click(denyButton)
	tab.Arrive(v.at("/demo/result"))
	v.sees(tab, "Pocket Album is not connected")
	if text := tab.Text(".alert"); !strings.Contains(text, "access_denied") {
		v.t.Errorf("the demo says %q", text)
	}
	v.wantCount(1, 1, 1)
}

var passwordOnPage = regexp.MustCompile(`Sign in as (\S+) with the password (\S+)`)

// signsInToDemo signs in with what the login page says.
func (v *visit) signsInToDemo(tab *browser.Tab) {
	v.t.Helper()
	account := passwordOnPage.FindStringSubmatch(tab.Text(".hint"))
	if account == nil {
		v.t.Fatalf("the login page does not say how to sign in to the demo: %q", tab.Text("main"))
	}
	v.signsIn(tab, account[1], account[2])
}

// looks inspects the page on a phone and a desktop, light and dark, and keeps
// screenshots in TEST_SCREENSHOTS, if that is set.
func (v *visit) looks(tab *browser.Tab, name string) {
	v.t.Helper()
	dir := os.Getenv("TEST_SCREENSHOTS")
	if dir == "" {
		dir = v.t.TempDir()
	}
	for _, screen := range []struct {
		name          string
		width, height int64
	}{{"phone", 390, 844}, {"desktop", 1280, 900}} {
		for _, scheme := range []string{"light", "dark"} {
			tab.Look(screen.width, screen.height, scheme)
			for _, finding := range tab.Inspect() {
				v.t.Errorf("%s, %s, %s: %s", name, screen.name, scheme, finding)
			}
			file := filepath.Join(dir, fmt.Sprintf("%s-%s-%s.png", name, screen.name, scheme))
			if err := os.WriteFile(file, tab.Screenshot(), 0o600); err != nil {
				v.t.Fatal(err)
			}
		}
	}
}

func browserLooks(v *visit) {
	tab := v.profile.Tab()
	tab.Open(v.at("/login"))
	tab.Arrive(v.at("/login"))
	v.looks(tab, "login")
	v.signsIn(tab, "alice", "not her password")
	tab.Arrive(v.at("/login"))
	v.looks(tab, "login-failed")
	v.signsIn(tab, "", users["alice"])
	tab.Arrive(v.at("/login"))
	v.looks(tab, "account")

	a := v.asks("app", someScopes, oauth2.SetAuthURLParam("audience", api))
	v.comesToConsent(tab, a)
	v.looks(tab, "consent")
	ticket := tab.Value("[name=ticket]")
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	if v.back(tab, ticket) {
		tab.Click(approveButton)
		tab.Arrive(v.at("/consent"))
		v.looks(tab, "already-answered")
	}

	tab.Open(v.at("/oauth2/auth?client_id=nobody"))
	tab.Arrive(v.at("/oauth2/auth"))
	v.looks(tab, "error")

	tab.Open(v.at("/oauth2/auth?client_id=web&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Agone"))
	v.status(tab.Arrive(v.at("/oauth2/auth")), http.StatusBadRequest)
	v.looks(tab, "expired")
}

func browserLooksAtTheDemo(v *visit) {
	tab := v.profile.Tab()
	tab.Open(v.at("/"))
	tab.Arrive(v.at("/"))
	v.looks(tab, "demo")
	tab.Click("button[value=demo-web]")
	tab.Arrive(v.at("/oauth2/auth"))
	v.looks(tab, "demo-login")
	v.signsInToDemo(tab)
	tab.Arrive(v.at("/oauth2/auth"))
	v.looks(tab, "demo-consent")
	tab.Click(approveButton)
	tab.Arrive(v.at("/demo/result"))
	for _, what := range []string{"page", "request"} {
		tab.Click("button[value=" + what + "]")
		tab.Arrive(v.at("/demo/result"))
	}
	browser.Evaluate[any](tab, `document.querySelectorAll("details").forEach((e) => { e.open = true; })`)
	v.looks(tab, "demo-result")
}

// What is as long and as malicious as a registration may be (REQUIREMENTS 21).
const (
	longWord    = "Donaudampfschifffahrtsgesellschaftskapitaenswitwe"
	awkwardName = longWord + ` "><script>document.title = "gone"</script>` + "\u202egpj.exe"
	awkwardUser = longWord + "@" + longWord + ".example"
)

func withAwkwardUser(c *authserver.Config) {
	c.Users = map[string]string{awkwardUser: users["alice"]}
}

func awkwardClient(site *clientSite) authserver.Client {
	return testClient("awkward", func(c *authserver.Client) {
		c.Name = awkwardName
		c.Scope += " https://" + strings.ToLower(longWord) + ".example/auth/" + longWord + ".readonly"
		c.Audience = append(slices.Clone(c.Audience), "https://"+strings.ToLower(longWord)+".example/v1/"+longWord)
		c.URI = "https://" + strings.ToLower(longWord+"."+longWord) + ".example/"
		c.LogoURI = site.URL + "/logo.svg"
		c.PolicyURI, c.TOSURI = c.URI, c.URI
	})
}

func browserLooksAtAwkwardNames(v *visit) {
	client := v.clients["awkward"]
	scopes := strings.Fields(client.Scope)
	a := v.asks("awkward", scopes, oauth2.SetAuthURLParam("audience", strings.Join(client.Audience, " ")))
	tab := v.profile.Tab()
	tab.Open(a.address)
	tab.Arrive(v.at("/oauth2/auth"))
	v.looks(tab, "awkward-login")
	v.signsIn(tab, awkwardUser, users["alice"])
	tab.Arrive(v.at("/oauth2/auth"))
	v.looks(tab, "awkward-consent")
	v.sees(tab, `"><script>document.title = "gone"</script>`)
	if title := browser.Evaluate[string](tab, `document.title`); title != "Allow access?" {
		v.t.Errorf("the page's title is %q", title)
	}
	if !browser.Evaluate[bool](tab, `document.querySelector("img.logo").naturalWidth > 0`) {
		v.t.Error("the client's logo, which is on its own site, is not shown")
	}
	if n := tab.Count("input[name=scope]") + tab.Count("input[name=audience]"); n != len(scopes)+len(client.Audience) {
		v.t.Errorf("%d scopes and audiences are on the page, want %d", n, len(scopes)+len(client.Audience))
	}
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 1)[0], scopes...)
}
