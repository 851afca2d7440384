package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// remember returns the form of an approval that is to be remembered.
func remember(form url.Values, more ...string) url.Values {
	return with(approve(form), append([]string{fieldRemember, ticked, fieldRememberFor, "always"}, more...)...)
}

// tokens exchanges a code, or a refresh token, as the client web.
func (ts *testServer) tokens(form url.Values) (access, refresh string, status int) {
	ts.t.Helper()
	r := ts.request(http.MethodPost, pathToken, form)
	r.SetBasicAuth("web", "web-secret-0123456789")
	a := ts.do(r)
	return jsonText(a.body, "access_token"), jsonText(a.body, "refresh_token"), a.StatusCode
}

func jsonText(body, name string) string {
	_, rest, _ := strings.Cut(body, `"`+name+`":"`)
	text, _, _ := strings.Cut(rest, `"`)
	return text
}

func codeForm(params url.Values) url.Values {
	return url.Values{"grant_type": {grantCode}, "code": params["code"], "redirect_uri": {"https://photos.example/cb"}, "code_verifier": {testVerifier}}
}

func refreshForm(token string) url.Values {
	return url.Values{"grant_type": {grantRefresh}, "refresh_token": {token}}
}

func TestARememberedDecisionIsNotAskedForAgain(t *testing.T) {
	ts := newTestServer(t)
	page := ts.signIn(ts.authorize(codeRequest()), "alice")
	if !strings.Contains(page.body, `name="remember" value="yes" aria`) || len(page.form()[fieldRemember]) != 0 {
		t.Fatalf("there is no box, or it is ticked:\n%s", page.body)
	}
	ts.post(pathConsent, approve(with(page.form(), fieldRememberFor, "always", fieldRememberOffline, ticked))).toClient(t) // not ticked, what is said of how counts for nothing
	page = ts.authorize(codeRequest())
	page.is(t, http.StatusOK, "Allow access?")

	ts.post(pathConsent, remember(page.form())).toClient(t)
	page = ts.authorize(codeRequest()) // offline_access was not said to be remembered
	page.is(t, http.StatusOK, "Allow access?")
	if _, known, ok := strings.Cut(page.body, "You have already allowed it to"); !ok || strings.Contains(known, "Stay connected</label>") || !strings.Contains(page.body, "It also wants to") {
		t.Errorf("what is new is not set apart:\n%s", page.body)
	}
	without := codeRequest("scope", "openid photos.read")
	if got := ts.authorize(without).toClient(t); got.Get("code") == "" || got.Get("scope") != "openid photos.read" {
		t.Errorf("the client gets %v", got)
	}

	ts.post(pathConsent, remember(page.form(), fieldRememberOffline, ticked)).toClient(t)
	for _, prompt := range []string{"", "none"} {
		got := ts.authorize(codeRequest("prompt", prompt, "state", "another-state-0123")).toClient(t)
		if got.Get("code") == "" || got.Get("state") != "another-state-0123" || got.Get("scope") != "openid photos.read offline_access" {
			t.Errorf("prompt=%s: the client gets %v", prompt, got)
		}
	}
	page = ts.authorize(codeRequest("prompt", "consent"))
	page.is(t, http.StatusOK, "Allow access?")
	if !strings.Contains(page.body, "wants access again") || strings.Contains(page.body, "also wants") {
		t.Errorf("nothing is new:\n%s", page.body)
	}
	ts.post(pathConsent, approve(page.form())).toClient(t)

	// It is alice's, and web's.
	bob := newBrowser(t, ts.url)
	bob.signIn(bob.authorize(codeRequest()), "bob").is(t, http.StatusOK, "Allow access?")
	if got := bob.authorize(codeRequest("prompt", "none")).toClient(t); got.Get("error") != "consent_required" {
		t.Errorf("bob's client gets %v", got)
	}
	ts.authorize(codeRequest("client_id", "app", "redirect_uri", "com.example.app:/cb", "scope", "openid photos.read", "audience", "")).is(t, http.StatusOK, "Allow access?")
}

func TestWhatIsNewIsAskedForTogetherWithTheRest(t *testing.T) {
	ts := newTestServer(t)
	page := ts.signIn(ts.authorize(codeRequest("scope", "openid photos.read")), "alice")
	ts.post(pathConsent, remember(page.form())).toClient(t)

	more := codeRequest("scope", "openid photos.read photos.write")
	more["audience"] = []string{"https://api.example", "https://other.example"}
	page = ts.authorize(more)
	if !strings.Contains(page.body, "wants more access") {
		t.Errorf("%s", page.body)
	}
	first, then, _ := strings.Cut(page.body, "You have already allowed it to")
	if !strings.Contains(first, "Add photos") || strings.Contains(first, "See your photos") || !strings.Contains(then, "See your photos") || strings.Contains(then, "Add photos") {
		t.Errorf("what is new is not set apart:\n%s", page.body)
	}
	if n := strings.Count(then, "already allowed</span>"); n != 1 || strings.Index(then, "https://other.example") > strings.Index(then, "https://api.example") {
		t.Errorf("the new audience is not set apart:\n%s", then)
	}
	form := page.form()
	if got := slices.Sorted(slices.Values(form[fieldScope])); !slices.Equal(got, []string{"openid", "photos.read", "photos.write"}) || len(form[fieldAudience]) != 2 {
		t.Errorf("the decision would be on %q and %q", got, form[fieldAudience])
	}

	// What is unticked now is not granted now, whatever was allowed before.
	form[fieldScope] = slices.DeleteFunc(form[fieldScope], func(s string) bool { return s == "photos.read" })
	if got := ts.post(pathConsent, remember(form)).toClient(t).Get("scope"); got != "openid photos.write" {
		t.Errorf("granted %q", got)
	}
	// Approvals add up, but what was unticked for the new audience is not allowed there.
	more.Set("prompt", "none")
	if got := ts.authorize(more).toClient(t); got.Get("error") != "consent_required" {
		t.Errorf("the client gets %v", got)
	}
	if got := ts.authorize(with(more, "audience", "https://api.example")).toClient(t); got.Get("code") == "" {
		t.Errorf("the client gets %v", got)
	}
}

func TestOnlyWhatWasGrantedIsRemembered(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest("scope", "openid photos.read")), "alice").form()
	ts.post(pathConsent, with(remember(form), fieldDecision, decisionDeny)).toClient(t)
	none := codeRequest("scope", "openid photos.read", "prompt", "none")
	if got := ts.authorize(none).toClient(t); got.Get("error") != "consent_required" {
		t.Errorf("after a denial the client gets %v", got)
	}
	form = ts.authorize(codeRequest("scope", "openid photos.read")).form()
	ts.post(pathConsent, remember(with(form, fieldScope, "openid"))).toClient(t)
	if got := ts.authorize(none).toClient(t); got.Get("error") != "consent_required" {
		t.Errorf("after photos.read was unticked the client gets %v", got)
	}
	if got := ts.authorize(with(none, "scope", "openid")).toClient(t); got.Get("code") == "" {
		t.Errorf("for what was allowed the client gets %v", got)
	}
}

func TestADecisionIsRememberedForATime(t *testing.T) {
	ts := newTestServer(t)
	request := codeRequest("scope", "openid photos.read")
	form := ts.signIn(ts.authorize(request), "alice").form()
	ts.post(pathConsent, remember(form, fieldRememberFor, "30-days")).toClient(t)
	ts.later.Store(int64(30*24*time.Hour - time.Minute))
	if got := ts.authorize(request).toClient(t); got.Get("code") == "" {
		t.Errorf("on the thirtieth day the client gets %v", got)
	}
	if page := ts.get(pathApplications); !strings.Contains(page.body, "Photo &amp; Book") || strings.Contains(page.body, "you take it back") {
		t.Errorf("%s", page.body)
	}
	ts.later.Store(int64(30 * 24 * time.Hour))
	if got := ts.authorize(with(request, "prompt", "none")).toClient(t); got.Get("error") != "consent_required" {
		t.Errorf("after thirty days the client gets %v", got)
	}
	page := ts.authorize(request)
	page.is(t, http.StatusOK, "Allow access?")
	if strings.Contains(page.body, "already allowed") {
		t.Errorf("what is over is called allowed:\n%s", page.body)
	}
	if page := ts.get(pathApplications); !strings.Contains(page.body, "No application has access.") {
		t.Errorf("%s", page.body)
	}
}

// A remembered decision answers no request that wants a new login, before that.
func TestARememberedDecisionIsNoLogin(t *testing.T) {
	ts := newTestServer(t)
	plain := codeRequest("scope", "openid photos.read")
	form := ts.signIn(ts.authorize(plain), "alice").form()
	ts.post(pathConsent, remember(form)).toClient(t)
	for _, demand := range [][]string{{"prompt", "login"}, {"prompt", "select_account"}, {"max_age", "0"}} {
		request := with(plain, demand...)
		for range 2 { // answered, the same request is a new one
			login := ts.authorize(request)
			login.is(t, http.StatusOK, "Sign in")
			form := login.form()
			form.Set("username", "alice")
			form.Set("password", "wonderland")
			back := ts.post(pathLogin, form)
			if got := ts.get(back.Header.Get("Location")).toClient(t); got.Get("code") == "" {
				t.Errorf("%v: the client gets %v", demand, got)
			}
		}
	}
	stranger := newBrowser(t, ts.url)
	stranger.authorize(plain).is(t, http.StatusOK, "Sign in")
}

func TestRememberingIsOfferedWhereItCounts(t *testing.T) {
	ts := newTestServer(t)
	page := ts.signIn(ts.authorize(codeRequest("client_id", "app", "redirect_uri", "com.example.app:/cb", "scope", "openid photos.read", "audience", "")), "alice")
	page.is(t, http.StatusOK, "Allow access?")
	if strings.Contains(page.body, fieldRemember) {
		t.Errorf("a public client's page offers to remember:\n%s", page.body)
	}
	if page := ts.authorize(codeRequest("scope", "openid")); !strings.Contains(page.body, `name="remember"`) || strings.Contains(page.body, fieldRememberOffline) {
		t.Errorf("the page offers to remember what was not asked for:\n%s", page.body)
	}
}

func TestOnlyAPlainTickRemembers(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	for name, change := range map[string][]string{
		"no tick":             {fieldRemember, "on"},
		"an empty tick":       {fieldRemember, ""},
		"no time":             {fieldRememberFor, ""},
		"an unknown time":     {fieldRememberFor, "9999-days"},
		"an offline non-tick": {fieldRememberOffline, "no"},
	} {
		ts.post(pathConsent, with(remember(form), change...)).is(t, http.StatusBadRequest, "This could not be understood")
		twice := remember(form)
		twice[change[0]] = []string{remember(form).Get(change[0]), remember(form).Get(change[0])}
		if a := ts.post(pathConsent, twice); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: twice: %s", name, a.Status)
		}
	}
	timeless := remember(form)
	delete(timeless, fieldRememberFor)
	ts.post(pathConsent, timeless).is(t, http.StatusBadRequest, "This could not be understood")
	ts.post(pathConsent, remember(form)).toClient(t)
}

// takeBack confirms on the page for one client, or for all.
func (b *browser) takeBack(client string) answer {
	b.t.Helper()
	path := pathTakeBack
	if client != "" {
		path += "?client=" + url.QueryEscape(client)
	}
	page := b.get(path)
	page.is(b.t, http.StatusOK, "Take access back?")
	return b.follow(b.post(pathTakeBack, takeBackForm(page)))
}

// takeBackForm is what the page's button sends.
func takeBackForm(page answer) url.Values {
	form := page.form()
	form.Set(fieldWhat, whatAll)
	if form.Has(fieldClient) {
		form.Set(fieldWhat, whatOne)
	}
	return form
}

func TestTheOwnerSeesWhoHasAccessAndTakesItBack(t *testing.T) {
	ts := newTestServer(t)
	login := ts.get(pathApplications)
	ts.signIn(login, "alice").is(t, http.StatusOK, "Connected applications") // not somewhere else

	// What two approvals allow together; the second one was not to be remembered.
	form := ts.authorize(codeRequest("scope", "openid photos.read")).form()
	ts.post(pathConsent, remember(form)).toClient(t)
	form = ts.authorize(codeRequest("scope", "openid offline_access photos.write")).form()
	access, refresh, status := ts.tokens(codeForm(ts.post(pathConsent, approve(form)).toClient(t)))
	if status != http.StatusOK || refresh == "" {
		t.Fatalf("status %d", status)
	}
	// And one that bob has allowed.
	bob := &testServer{t: t, server: ts.server, url: ts.url, browser: newBrowser(t, ts.url)}
	form = bob.signIn(bob.authorize(codeRequest()), "bob").form()
	_, bobs, _ := bob.tokens(codeForm(bob.post(pathConsent, remember(form, fieldRememberOffline, ticked)).toClient(t)))
	if page := ts.get(pathTakeBack + "?client=app"); page.StatusCode != http.StatusSeeOther {
		t.Errorf("about an application without access: %s", page.Status)
	}

	page := ts.get(pathApplications)
	page.is(t, http.StatusOK, "Connected applications")
	for _, want := range []string{
		"&lt;b&gt;Photo &amp; Book&lt;/b&gt;", "https://cdn.photos.example/logo.png", "Know who you are <span class=\"tag\">remembered", "See your photos <span class=\"tag\">remembered",
		"<li>Add photos</li>", "<li>Stay connected</li>", "https://api.example", "you take it back", "you are not asked again", time.Now().UTC().Format("2 January 2006"),
	} {
		if !strings.Contains(page.body, want) {
			t.Errorf("%q is not on the page:\n%s", want, page.body)
		}
	}
	if n := strings.Count(page.body, "<article"); n != 1 {
		t.Errorf("%d applications", n)
	}
	if page.Header.Get("Content-Security-Policy") != pagePolicy+"; form-action 'self'; img-src 'self' https://cdn.photos.example" {
		t.Errorf("policy %q", page.Header.Get("Content-Security-Policy"))
	}

	// To look and to ask changes nothing.
	for _, path := range []string{pathApplications, pathTakeBack, pathTakeBack + "?client=web", pathTakeBack + "?what=all&username=alice", pathTakeBack + "?client=web&what=one&username=alice"} {
		ts.get(path)
	}
	if _, refresh, status = ts.tokens(refreshForm(refresh)); status != http.StatusOK {
		t.Fatalf("a refresh before it was taken back: status %d", status)
	}

	confirm := ts.get(pathTakeBack + "?client=web")
	confirm.is(t, http.StatusOK, "Take access back?")
	if !strings.Contains(confirm.body, "<bdi>&lt;b&gt;Photo &amp; Book&lt;/b&gt;</bdi>?") {
		t.Errorf("%s", confirm.body)
	}
	page = ts.follow(ts.post(pathTakeBack, takeBackForm(confirm)))
	page.is(t, http.StatusOK, "Connected applications")
	if !strings.Contains(page.body, "&lt;b&gt;Photo &amp; Book&lt;/b&gt; has no access any more") || strings.Contains(page.body, "<article") {
		t.Errorf("%s", page.body)
	}
	if again := ts.get(pathApplications); strings.Contains(again.body, "any more") || !strings.Contains(again.body, "No application has access.") {
		t.Errorf("the notice is still there:\n%s", again.body)
	}
	if _, _, status = ts.tokens(refreshForm(refresh)); status != http.StatusBadRequest {
		t.Errorf("a refresh after it was taken back: status %d", status)
	}
	r := ts.request(http.MethodGet, pathUserinfo, nil)
	r.Header.Set("Authorization", "Bearer "+access)
	if a := ts.do(r); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("userinfo after it was taken back: %s", a.Status)
	}
	ts.authorize(codeRequest("scope", "openid photos.read")).is(t, http.StatusOK, "Allow access?")

	// Bob's is his.
	if _, bobs, status = bob.tokens(refreshForm(bobs)); status != http.StatusOK {
		t.Errorf("bob's refresh: status %d", status)
	}
	if got := bob.authorize(codeRequest("prompt", "none")).toClient(t); got.Get("code") == "" {
		t.Errorf("bob's client gets %v", got)
	}
	if page := bob.takeBack(""); !strings.Contains(page.body, "No application has access any more") {
		t.Errorf("%s", page.body)
	}
	if _, _, status = bob.tokens(refreshForm(bobs)); status != http.StatusBadRequest {
		t.Errorf("bob's refresh after he took all back: status %d", status)
	}
}

// Access that lasts is on the list also where it was not remembered: it can be taken back.
func TestWhatIsNotRememberedOfADecisionIsListedToo(t *testing.T) {
	for _, offline := range []bool{false, true} {
		ts := newTestServer(t)
		form := ts.signIn(ts.authorize(codeRequest("scope", "openid offline_access")), "alice").form()
		var also []string
		if offline {
			also = []string{fieldRememberOffline, ticked}
		}
		if _, refresh, status := ts.tokens(codeForm(ts.post(pathConsent, remember(form, also...)).toClient(t))); status != http.StatusOK || refresh == "" {
			t.Fatalf("status %d", status)
		}
		page := ts.get(pathApplications)
		if !strings.Contains(page.body, `Know who you are <span class="tag">remembered`) || !strings.Contains(page.body, "<li>Stay connected") ||
			strings.Contains(page.body, `Stay connected <span class="tag">remembered`) != offline {
			t.Errorf("offline access remembered: %t; the page is\n%s", offline, page.body)
		}
	}
}

func TestACodeThatWasNotRedeemedIsTakenBackToo(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	codes := map[string]url.Values{"by a page": ts.post(pathConsent, remember(form, fieldRememberOffline, ticked)).toClient(t), "without one": ts.authorize(codeRequest()).toClient(t)}
	ts.takeBack("web")
	for how, params := range codes {
		if _, _, status := ts.tokens(codeForm(params)); status != http.StatusBadRequest {
			t.Errorf("issued %s: status %d", how, status)
		}
	}
}

func TestAccessIsTakenBackByItsOwnerOnly(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	_, refresh, _ := ts.tokens(codeForm(ts.post(pathConsent, remember(form)).toClient(t)))
	one, all := takeBackForm(ts.get(pathTakeBack+"?client=web")), takeBackForm(ts.get(pathTakeBack))

	for name, form := range map[string]url.Values{
		"nothing": {}, "no word": with(one, fieldWhat, ""), "one of none": with(all, fieldWhat, whatOne), "one without a name": with(one, fieldClient, ""),
		"all and one": with(one, fieldWhat, whatAll), "a field more": with(one, "subject", "alice"), "both": {fieldWhat: {whatOne, whatAll}, fieldUser: {"alice"}},
	} {
		if a := ts.post(pathTakeBack, form); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", name, a.Status)
		}
	}
	ts.post(pathTakeBack+"?what=all&username=alice", nil).is(t, http.StatusBadRequest, "This could not be understood")
	for _, site := range []string{"cross-site", "same-site"} {
		r := ts.request(http.MethodPost, pathTakeBack, all)
		r.Header.Set("Sec-Fetch-Site", site)
		ts.do(r).is(t, http.StatusForbidden, "Another site tried to answer for you")
	}
	stranger := newBrowser(t, ts.url)
	stranger.follow(stranger.post(pathTakeBack, all)).is(t, http.StatusOK, "Sign in")
	stranger.get(pathTakeBack+"?client=web").is(t, http.StatusOK, "Sign in")
	// Bob has signed in where alice's page was left open; and his own page says nothing of hers.
	bob := newBrowser(t, ts.url)
	bob.signIn(bob.get(pathLogin), "bob")
	if page := bob.get(pathApplications); strings.Contains(page.body, "<article") {
		t.Errorf("bob sees alice's applications:\n%s", page.body)
	}
	bob.post(pathConsent, remember(bob.authorize(codeRequest()).form())).toClient(t)
	for _, form := range []url.Values{one, all} {
		if page := bob.follow(bob.post(pathTakeBack, form)); !strings.Contains(page.body, "<article") {
			t.Errorf("bob has answered alice's page with his own applications:\n%s", page.body)
		}
	}
	bob.follow(bob.post(pathTakeBack, with(one, fieldUser, "bob"))).is(t, http.StatusOK, "Connected applications")
	if _, _, status := ts.tokens(refreshForm(refresh)); status != http.StatusOK {
		t.Errorf("what is alice's was taken back: status %d", status)
	}
}

func TestTheLoginPageLeadsToNoOtherPlace(t *testing.T) {
	ts := newTestServer(t)
	form := ts.get(pathLogin).form()
	form.Set("username", "alice")
	form.Set("password", "wonderland")
	for _, next := range []string{"", "https://evil.example/", "//evil.example", pathApplications} {
		ts.post(pathLogin, with(form, "next", next)).is(t, http.StatusBadRequest, "This could not be understood")
	}
	wrong := with(ts.get(pathApplications).form(), "username", "alice", "password", "wrong")
	page := ts.post(pathLogin, wrong)
	page.is(t, http.StatusForbidden, "Sign in")
	if a := ts.post(pathLogin, with(page.form(), "username", "alice", "password", "wonderland")); a.Header.Get("Location") != pathApplications {
		t.Errorf("after a wrong password the way leads to %q", a.Header.Get("Location"))
	}
}

// seed records a consent as if it had been given on a page.
func (ts *testServer) seed(n int, subject, clientID string, change func(*fositeconsent.Consent)) fositeconsent.ID {
	ts.t.Helper()
	id := fositeconsent.ID{1, 0, 0, 0, byte(n >> 8), byte(n), 0x70, 0, 0x80}
	c := &fositeconsent.Consent{ID: id, Issuer: ts.server.issuer, Subject: subject, ClientID: clientID, Scopes: []string{"openid"}, RememberedScopes: []string{"openid"}, ResponseTypes: []string{"code"}, Remembered: true}
	if change != nil {
		change(c)
	}
	if err := ts.consents.RecordResponse(ts.t.Context(), &fositeconsent.Response{RequestID: fmt.Sprint("request ", n), Approval: c}); err != nil {
		ts.t.Fatal(err)
	}
	return id
}

func TestApplicationsComeInPages(t *testing.T) {
	ts := newTestServer(t)
	ts.signIn(ts.get(pathLogin), "alice")
	const clients = 2*applicationsOn + 5
	for n := range 6 * clients { // of each one several, in turn: more than are read at once
		ts.seed(n+1, "alice", fmt.Sprintf("client-%03d", n%clients), func(c *fositeconsent.Consent) {
			if n < clients { // the oldest
				c.Scopes = append(c.Scopes, "photos.read")
			}
		})
	}
	ts.seed(9999, "bob", "client-of-bob", nil)
	var seen []string
	path, pages := pathApplications, 0
	for ; path != "" && pages < 10; pages++ {
		page := ts.get(path)
		page.is(t, http.StatusOK, "Connected applications")
		for _, part := range strings.Split(page.body, "<article")[1:] {
			name, _, _ := strings.Cut(part, "</bdi>")
			_, name, _ = strings.Cut(name, "<bdi>")
			seen = append(seen, name)
			if !strings.Contains(part, "not registered here any more") || !strings.Contains(part, "See your photos") {
				t.Errorf("%s is shown as if it were there, or without what was allowed first", name)
			}
		}
		path = ""
		if _, rest, more := strings.Cut(page.body, `href="`+pathApplications+`?before=`); more {
			cursor, _, _ := strings.Cut(rest, `"`)
			path = pathApplications + "?before=" + html.UnescapeString(cursor)
		}
		if pages == 0 { // in between one of the first page comes anew, and one of a later page is taken back
			ts.seed(9000, "alice", seen[3], nil)
			ts.takeBack("client-000")
		}
	}
	want := make([]string, 0, clients)
	for n := clients - 1; n > 0; n-- {
		want = append(want, fmt.Sprintf("client-%03d", n))
	}
	if pages != 3 || !slices.Equal(seen, want) {
		t.Errorf("%d pages with\n%q, want\n%q", pages, seen, want)
	}
	ts.get(pathApplications+"?before=nonsense").is(t, http.StatusNotFound, "There is nothing here")
	if page := ts.get(pathApplications + "?before=" + (fositeconsent.ID{1}).String()); !strings.Contains(page.body, "There are no more.") {
		t.Errorf("%s", page.body)
	}
}

func TestWhatHasEndedIsNotCalledAccess(t *testing.T) {
	ts := newTestServer(t)
	ts.signIn(ts.get(pathLogin), "alice")
	ts.later.Store(int64(-2 * time.Hour))
	once := func(scopes ...string) func(*fositeconsent.Consent) {
		return func(c *fositeconsent.Consent) { c.Remembered, c.Scopes = false, scopes }
	}
	ts.seed(1, "alice", "ended", once("openid"))
	ts.seed(2, "alice", "connected", once("openid", "offline_access"))
	ts.seed(3, "alice", "remembered", nil)
	ts.later.Store(int64(-30 * time.Minute))
	ts.seed(4, "alice", "recent", once("openid"))
	page := ts.get(pathApplications)
	for name, want := range map[string]bool{"ended": false, "connected": true, "remembered": true, "recent": true} {
		if strings.Contains(page.body, "<bdi>"+name+"</bdi>") != want {
			t.Errorf("%s is on the page: %v", name, !want)
		}
	}
}

// failingConsents is a storage of consents that does not answer.
type failingConsents struct {
	*consenttest.Storage
	fail bool
}

func (f *failingConsents) ListConsents(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	if f.fail {
		return nil, errors.New("a secret of the database")
	}
	return f.Storage.ListConsents(ctx, selection, before, limit)
}

func (f *failingConsents) RevokeConsents(ctx context.Context, selection fositeconsent.Selection, revoke func(context.Context, fositeconsent.Ended) error) (int, error) {
	if f.fail {
		return 0, errors.New("a secret of the database")
	}
	return f.Storage.RevokeConsents(ctx, selection, revoke)
}

func TestWhatCouldNotBeTakenBackIsNotCalledSo(t *testing.T) {
	var failing failingConsents
	ts := newTestServer(t, func(_ *server, c *providerConfig) {
		failing.Storage = c.consents.(*consenttest.Storage)
		c.consents = &failing
	})
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	ts.post(pathConsent, remember(form)).toClient(t)
	confirm := takeBackForm(ts.get(pathTakeBack))
	failing.fail = true
	for name, a := range map[string]answer{
		"the list": ts.get(pathApplications), "the question": ts.get(pathTakeBack), "the answer": ts.post(pathTakeBack, confirm),
	} {
		a.is(t, http.StatusServiceUnavailable, "This is not working right now")
		if strings.Contains(a.body, "secret") || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s", name, a.body)
		}
		if name == "the answer" && (strings.Contains(a.body, "nothing was changed") || !strings.Contains(a.body, "once more")) {
			t.Errorf("%s", a.body)
		}
	}
	failing.fail = false
	if page := ts.get(pathApplications); !strings.Contains(page.body, "<article") || strings.Contains(page.body, "any more.") {
		t.Errorf("%s", page.body)
	}
}
