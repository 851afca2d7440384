package integration_test

import (
	"net/http"
	"slices"
	"strings"

	"github.com/chromedp/chromedp/kb"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fosite-consent/fosite-consent/integration/browser"
)

const (
	applications   = "/account/applications"
	takeBack       = "/account/applications/revoke"
	takeBackOne    = "button[value=one]"
	takeBackAll    = "button[value=all]"
	rememberBox    = "#remember"
	rememberStay   = "#remember-offline"
	takeBackButton = "form[action='" + takeBack + "'] button"
)

// silently has the client ask, and expects the way back to it without a page.
func (v *visit) silently(tab *browser.Tab, a *ask, scopes ...string) {
	v.t.Helper()
	v.client.mu.Lock()
	before := len(v.client.arrivals)
	v.client.mu.Unlock()
	tab.Open(a.address)
	v.status(tab.Arrive(v.client.callback()), http.StatusOK)
	v.redeems(a, v.client.arrived(v.t, before+1)[before], scopes...)
}

func browserRemembers(v *visit) {
	tab := v.profile.Tab()
	v.comesToConsent(tab, v.asks("web", someScopes))
	for _, hidden := range []string{"#remember-for", rememberStay} {
		if browser.Evaluate[bool](tab, `document.querySelector("`+hidden+`").checkVisibility()`) {
			v.t.Errorf("the page asks how to remember what is not to be remembered: %s", hidden)
		}
	}
	tab.Click(rememberBox)
	tab.Click(rememberStay)
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.client.arrived(v.t, 1)

	v.silently(tab, v.asks("web", someScopes), someScopes...)
	v.silently(tab, v.asks("web", []string{oidc.ScopeOpenID}, oauth2.SetAuthURLParam("prompt", "none")), oidc.ScopeOpenID)

	// More than was allowed: what is new comes first, and all of it is decided on.
	more := append(slices.Clone(someScopes), "photos.write")
	a := v.asks("web", more)
	v.comesToConsentAgain(tab, a, "wants more access")
	if first := tab.Text("#decision fieldset:nth-of-type(1)"); !strings.Contains(first, "It also wants to") || !strings.Contains(first, "Add photos") || strings.Contains(first, "See your photos") {
		v.t.Errorf("what is new is not set apart: %q", first)
	}
	if known := tab.Text("#decision fieldset:nth-of-type(2)"); !strings.Contains(known, "You have already allowed it to") || !strings.Contains(known, "See your photos") || !strings.Contains(known, "Stay connected") {
		v.t.Errorf("what is known is not there: %q", known)
	}
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.redeems(a, v.client.arrived(v.t, 4)[3], more...)
	v.comesToConsentAgain(tab, v.asks("web", more), "wants more access") // it was not to be remembered

	// Another client and another user are asked, and so is everybody with prompt=consent.
	v.comesToConsentAgain(tab, v.asks("mallory", someScopes), "wants access")
	v.comesToConsentAgain(tab, v.asks("web", someScopes, oauth2.SetAuthURLParam("prompt", "consent")), "wants access again")
	tab.Click(".who button")
	tab.Arrive(v.at("/oauth2/auth"))
	v.signsIn(tab, "bob", users["bob"])
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "wants access")
	if strings.Contains(tab.Text("main"), "already allowed") {
		v.t.Error("bob is told what alice has allowed")
	}
	v.comesToConsentAgain(tab, v.asks("web", someScopes), "wants access")
}

// comesToConsentAgain opens the client's request and expects the page with that heading.
func (v *visit) comesToConsentAgain(tab *browser.Tab, a *ask, heading string) {
	v.t.Helper()
	tab.Open(a.address)
	v.status(tab.Arrive(v.at("/oauth2/auth")), http.StatusOK)
	v.sees(tab, heading)
}

// Without scripts, and with what is remembered for a time.
func browserRemembersWithoutScripts(v *visit) {
	tab := v.profile.Tab()
	tab.WithoutScripts()
	scopes := []string{oidc.ScopeOpenID, "photos.read"}
	v.comesToConsent(tab, v.asks("web", scopes))
	tab.Click(rememberBox)
	tab.Click("#remember-for")
	tab.Keys(kb.ArrowDown)
	tab.Keys(kb.Enter)
	if got := tab.Value("#remember-for"); got != "30-days" {
		v.t.Fatalf("chosen is %q", got)
	}
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.client.arrived(v.t, 1)
	v.silently(tab, v.asks("web", scopes), scopes...)

	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	if text := tab.Text("article"); !strings.Contains(text, "The client web") || strings.Contains(text, "you take it back") {
		v.t.Errorf("the page says %q", text)
	}
	tab.Click(takeBackButton)
	tab.Arrive(v.at(takeBack))
	v.sees(tab, "Take access back from The client web?")
	tab.Click(takeBackOne)
	tab.Arrive(v.at(applications))
	if text := tab.Text("[role=status]"); !strings.Contains(text, "The client web has no access any more") {
		v.t.Errorf("the page says %q", text)
	}
	v.comesToConsentAgain(tab, v.asks("web", scopes), "wants access")
}

// remembers has the signed-in user approve and remember all of it.
func (v *visit) remembers(tab *browser.Tab, a *ask) *oauth2.Token {
	v.t.Helper()
	v.comesToConsent(tab, a)
	tab.Click(rememberBox)
	tab.Click(rememberStay)
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.client.mu.Lock()
	got := v.client.arrivals[len(v.client.arrivals)-1]
	v.client.mu.Unlock()
	token, err := a.oauth2.Exchange(a.ctx, got.values.Get("code"), oauth2.VerifierOption(a.proof))
	if err != nil {
		v.t.Fatalf("the client cannot exchange what it has got, %v: %v", got, err)
	}
	v.site.Forbid("an access token", token.AccessToken)
	v.site.Forbid("a refresh token", token.RefreshToken)
	return token
}

// refreshes reports whether the client can refresh its tokens, and keeps the new ones.
func (v *visit) refreshes(a *ask, token *oauth2.Token) bool {
	v.t.Helper()
	fresh, err := a.oauth2.TokenSource(a.ctx, &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
	if err != nil {
		if !strings.Contains(err.Error(), "invalid_grant") {
			v.t.Errorf("the refresh failed otherwise: %v", err)
		}
		return false
	}
	v.site.Forbid("an access token", fresh.AccessToken)
	v.site.Forbid("a refresh token", fresh.RefreshToken)
	*token = *fresh
	return true
}

func browserTakesBack(v *visit) {
	tab := v.profile.Tab()
	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	v.signsIn(tab, "alice", users["alice"])
	tab.Arrive(v.at(applications))
	if text := tab.Text("main"); !strings.Contains(text, "No application has access.") {
		v.t.Errorf("the page says %q", text)
	}
	web, mallory := v.asks("web", someScopes), v.asks("mallory", someScopes)
	webs, mallorys := v.remembers(tab, web), v.remembers(tab, mallory)

	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	if n := tab.Count("article"); n != 2 {
		v.t.Fatalf("%d applications", n)
	}
	text := tab.Text("article") // the newest
	for _, want := range []string{"The client mallory", "Know who you are", "See your photos", "Stay connected", "remembered", "Since", "Last connected", "you take it back", "you are not asked again"} {
		if !strings.Contains(text, want) {
			v.t.Errorf("the page does not say %q but %q", want, text)
		}
	}
	tab.Click("article:nth-of-type(2) button")
	tab.Arrive(v.at(takeBack))
	v.sees(tab, "Take access back from The client web?")
	tab.Click("a.button") // keeps it
	tab.Arrive(v.at(applications))
	if !v.refreshes(web, webs) {
		v.t.Error("what was kept is gone")
	}
	tab.Click("article:nth-of-type(2) button")
	tab.Arrive(v.at(takeBack))
	tab.Click(takeBackOne)
	tab.Arrive(v.at(applications))
	if text := tab.Text("[role=status]"); !strings.Contains(text, "The client web has no access any more") || tab.Count("article") != 1 {
		v.t.Errorf("the page says %q", text)
	}
	tab.Reload()
	tab.Arrive(v.at(applications))
	if n := tab.Count("[role=status]"); n != 0 {
		v.t.Error("the notice is there again")
	}
	if v.refreshes(web, webs) || v.introspect(v.server, webs.AccessToken).Active {
		v.t.Error("web has access still")
	}
	if !v.refreshes(mallory, mallorys) || !v.introspect(v.server, mallorys.AccessToken).Active {
		v.t.Error("mallory has lost its access")
	}
	v.comesToConsentAgain(tab, v.asks("web", someScopes), "wants access")

	// Another site cannot take anything back.
	lure := page(v.t, "localhost", autoForm(v.at(takeBack), [][]string{{"what", "all"}, {"username", "alice"}}))
	tab.Open(lure)
	v.status(tab.Arrive(v.at(takeBack)), http.StatusForbidden)
	if !v.refreshes(mallory, mallorys) {
		v.t.Fatal("another site has taken access back")
	}

	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	tab.Click("a[href='" + takeBack + "']")
	tab.Arrive(v.at(takeBack))
	v.sees(tab, "all applications")
	tab.Click(takeBackAll)
	tab.Arrive(v.at(applications))
	if text := tab.Text("main"); !strings.Contains(text, "No application has access any more") || tab.Count("article") != 0 {
		v.t.Errorf("the page says %q", text)
	}
	if v.refreshes(mallory, mallorys) || v.introspect(v.server, mallorys.AccessToken).Active {
		v.t.Error("mallory has access still")
	}
}

func browserTakesBackByKeyboard(v *visit) {
	tab := v.profile.Tab()
	v.comesToConsent(tab, v.asks("web", someScopes))
	v.tabsTo(tab, rememberBox, 20)
	tab.Keys(" ")
	tab.Settle()
	v.tabsTo(tab, rememberStay, 3)
	tab.Keys(" ")
	v.tabsTo(tab, approveButton, 3)
	tab.Keys(kb.Enter)
	tab.Arrive(v.client.callback())
	v.client.arrived(v.t, 1)
	v.silently(tab, v.asks("web", someScopes), someScopes...)

	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	v.tabsTo(tab, takeBackButton, 10)
	tab.Keys(kb.Enter)
	tab.Arrive(v.at(takeBack))
	v.tabsTo(tab, takeBackOne, 5)
	tab.Keys(kb.Enter)
	tab.Arrive(v.at(applications))
	if n := tab.Count("article"); n != 0 {
		v.t.Errorf("%d applications", n)
	}
}

func browserTakesTheDemoBack(v *visit) {
	tab := v.profile.Tab()
	tab.Open(v.at("/"))
	tab.Arrive(v.at("/"))
	tab.Click("button[value=demo-web]")
	tab.Arrive(v.at("/oauth2/auth"))
	v.signsInToDemo(tab)
	tab.Arrive(v.at("/oauth2/auth"))
	tab.Click(rememberBox)
	tab.Click(rememberStay)
	tab.Click(approveButton)
	tab.Arrive(v.at("/demo/result"))
	v.sees(tab, "Photo Printer is connected")

	for _, button := range []string{"again", "none"} {
		tab.Click("button[value=" + button + "]")
		tab.Arrive(v.at("/demo/result"))
		v.sees(tab, "Photo Printer is connected")
		if text := tab.Text("main"); !strings.Contains(text, "You were not asked") {
			v.t.Errorf("%s: the page says %q", button, text)
		}
	}
	v.wantCount(1, 0, 1)
	tab.Click("form[action='/demo/refresh'] button")
	tab.Arrive(v.at("/demo/result"))
	if text := tab.Text("#next"); !strings.Contains(text, "Renewed at") {
		v.t.Errorf("the page says %q", text)
	}

	tab.Click("#next a[href='" + applications + "']")
	tab.Arrive(v.at(applications))
	tab.Click(takeBackButton)
	tab.Arrive(v.at(takeBack))
	tab.Click(takeBackOne)
	tab.Arrive(v.at(applications))
	tab.Open(v.at("/demo/result"))
	tab.Arrive(v.at("/demo/result"))
	tab.Click("form[action='/demo/refresh'] button")
	tab.Arrive(v.at("/demo/result"))
	v.sees(tab, "Photo Printer is not connected any more")
	if text := tab.Text("main"); !strings.Contains(text, "invalid_grant") {
		v.t.Errorf("the page says %q", text)
	}
	tab.Click("button[value=none]")
	tab.Arrive(v.at("/demo/result"))
	if text := tab.Text(".alert"); !strings.Contains(text, "consent_required") {
		v.t.Errorf("the page says %q", text)
	}
	tab.Click("button[value=again]")
	tab.Arrive(v.at("/oauth2/auth"))
	v.sees(tab, "Photo Printer wants access")
}

func browserLooksAtApplications(v *visit) {
	tab := v.profile.Tab()
	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	v.signsIn(tab, awkwardUser, users["alice"])
	tab.Arrive(v.at(applications))
	v.looks(tab, "applications-none")

	client := v.clients["awkward"]
	scopes := strings.Fields(client.Scope)
	asks := func(scopes []string) *ask {
		return v.asks("awkward", scopes, oauth2.SetAuthURLParam("audience", strings.Join(client.Audience, " ")))
	}
	v.remembers(tab, asks(scopes[:3]))
	v.comesToConsentAgain(tab, asks(scopes), "wants more access")
	tab.Click(rememberBox)
	v.looks(tab, "consent-more")
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())
	v.comesToConsent(tab, v.asks("web", []string{oidc.ScopeOpenID}))
	tab.Click(approveButton)
	tab.Arrive(v.client.callback())

	tab.Open(v.at(applications))
	tab.Arrive(v.at(applications))
	v.looks(tab, "applications")
	tab.Click("article:nth-of-type(2) button")
	tab.Arrive(v.at(takeBack))
	v.looks(tab, "take-back")
	if title := browser.Evaluate[string](tab, `document.title`); title != "Take access back?" {
		v.t.Errorf("the page's title is %q", title)
	}
	tab.Click(takeBackOne)
	tab.Arrive(v.at(applications))
	v.looks(tab, "applications-taken-back")
	if text := tab.Text("[role=status]"); !strings.Contains(text, `"><script>`) || tab.Count("article") != 1 {
		v.t.Errorf("the page says %q", text)
	}
}
