package integration_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// others has another value for each parameter of an authorization request: one that
// the server would accept just as well, wherever there is such a value.
var others = map[string]string{
	"acr_values":            "urn:example:silver",
	"audience":              otherAPI,
	"authorization_details": `[{"type":"payment","amount":"9999"}]`,
	"claims":                `{"userinfo":{"email":null,"phone_number":null}}`,
	"claims_locales":        "fr",
	"client_id":             "mallory",
	"client_secret":         "some secret of another client",
	"code_challenge":        challenge(otherVerifier),
	"code_challenge_method": "plain",
	"custom":                "another value",
	"display":               "popup",
	"dpop_jkt":              "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
	"id_token_hint":         "e30.e30.e30",
	"login_hint":            "bob",
	"max_age":               "40000",
	"nonce":                 "the nonce of another request",
	"prompt":                "consent",
	"redirect_uri":          otherCallback,
	"registration":          "{}",
	"request":               "e30.e30.",
	"request_uri":           "https://client.example/request.jwt",
	"resource":              "https://other-resource.example",
	"response_mode":         "fragment",
	"response_type":         "code id_token",
	"scope":                 "openid offline_access photos.read photos.write",
	"state":                 "the state of another request",
	"ui_locales":            "fr",
}

// everything is a request with every parameter that changes what is issued.
func everything(clientID string, pairs ...string) url.Values {
	return authorization(clientID, append([]string{
		"resource", "https://resource.example",
		"claims", `{"userinfo":{"email":null}}`,
		"authorization_details", `[{"type":"payment","amount":"1"}]`,
		"dpop_jkt", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
		"acr_values", "urn:example:gold",
		"custom", "value", "max_age", "80000", "ui_locales", "en", "login_hint", "alice",
	}, pairs...)...)
}

// targets are the requests that are attacked.
var targets = map[string]url.Values{
	"a confidential client's code":     everything("web"),
	"a public client's hybrid":         everything("app", "response_type", "code id_token token", "response_mode", "form_post", "client_id", "app"),
	"a confidential client's tokens":   everything("web", "response_type", "id_token token", "code_challenge", "", "code_challenge_method", ""),
	"a code with little said about it": {"client_id": {"web"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"photos.read"}, "state": {"the state of this request"}},
}

// mutation is one change of a set of parameters.
type mutation struct {
	name, what string
	apply      func(url.Values)
}

func (m mutation) String() string { return m.name + " " + m.what }

// mutations returns every way to change, add, drop and double each parameter, those
// of the request and those that it does not have.
func mutations(params url.Values) []mutation {
	names := map[string]bool{}
	for name := range params {
		names[name] = true
	}
	for name := range others {
		names[name] = true
	}
	var list []mutation
	for name := range names {
		other := others[name]
		set := func(values ...string) func(url.Values) {
			return func(v url.Values) {
				if v.Del(name); values != nil {
					v[name] = values
				}
			}
		}
		if old, ok := params[name]; ok {
			if old[0] == other { // as it is, the request has the other value
				other += "x"
			}
			list = append(list,
				mutation{name, "changed", set(other)},
				mutation{name, "dropped", set()},
				mutation{name, "emptied", set("")},
				mutation{name, "doubled", set(old[0], old[0])},
				mutation{name, "doubled, with another value first", set(other, old[0])},
				mutation{name, "doubled, with another value last", set(old[0], other)},
				mutation{name, "with another case", set(swapCase(old[0]))},
				mutation{name, "with a space behind", set(old[0] + " ")},
				mutation{name, "with something behind", set(old[0] + "x")},
			)
		} else {
			list = append(list,
				mutation{name, "added", set(other)},
				mutation{name, "added empty", set("")},
				mutation{name, "added twice", set(other, other)},
			)
		}
	}
	list = append(list,
		mutation{"prompt", "none", func(v url.Values) { v["prompt"] = []string{"none"} }},
		mutation{"prompt", "login", func(v url.Values) { v["prompt"] = []string{"login"} }},
		mutation{"prompt", "none among others", func(v url.Values) { v["prompt"] = []string{"consent none"} }},
		mutation{"max_age", "0", func(v url.Values) { v["max_age"] = []string{"0"} }},
		mutation{"scope", "in another order", func(v url.Values) {
			words := strings.Fields(v.Get("scope"))
			slices.Reverse(words)
			v["scope"] = []string{strings.Join(words, " ")}
		}},
		mutation{"scope", "without the last", func(v url.Values) {
			words := strings.Fields(v.Get("scope"))
			v["scope"] = []string{strings.Join(words[:max(0, len(words)-1)], " ")}
		}},
		mutation{"everything", "of another request", func(v url.Values) {
			for name := range v {
				v.Set(name, others[name])
			}
		}},
	)
	slices.SortFunc(list, func(a, b mutation) int { return strings.Compare(a.String(), b.String()) })
	return list
}

func swapCase(s string) string {
	if upper := strings.ToUpper(s); upper != s {
		return upper
	}
	return strings.ToLower(s)
}

// attack is one attempt to have a page's approval stand for something else.
type attack struct {
	name        string
	query, body url.Values
}

// attacker has a page open and a measure of what may come of it.
type attacker struct {
	*suite
	browser *useragent.Agent
	params  url.Values // of the request
	shown   url.Values // what the page shows of them: the same, without a request object
	page    *useragent.Page
	form    url.Values // what the page would send
	issued  int
	refused int
}

func (s *suite) attacker(browser *useragent.Agent, params url.Values) *attacker {
	a := &attacker{suite: s, browser: browser, params: params, shown: params}
	a.open()
	return a
}

func (a *attacker) open() {
	a.t.Helper()
	a.page = a.consentPage(a.browser, a.params)
	a.form = a.page.Form("/consent").Values("approve")
}

// try sends something to the decision endpoint. What is issued is exactly what the
// page showed and what the body of the form ticked of that; or nothing is issued and
// nothing is stored.
func (a *attacker) try(attack attack) {
	a.t.Helper()
	before := a.grants()
	target := a.page.Form("/consent").Action
	if len(attack.query) > 0 {
		target += "?" + attack.query.Encode()
	}
	page := a.browser.Post(target, attack.body.Encode())
	got := a.suite.issued(page)
	if got == nil {
		a.refused++
		if d := page.Delivery(); d != nil && d.URI != a.shown.Get("redirect_uri") {
			a.t.Errorf("%s: the browser was sent to %s", attack.name, d.URI)
		}
		if after := a.grants(); after != before {
			a.t.Errorf("%s: nothing was issued, and the grants changed from\n%s\nto\n%s", attack.name, before, after)
		}
		return
	}
	a.issued++
	if !slices.Equal(attack.body["decision"], []string{"approve"}) {
		a.t.Errorf("%s: something was issued for the decision %q", attack.name, attack.body["decision"])
	}
	if slices.Contains(strings.Fields(a.shown.Get("scope")), "openid") && !slices.Contains(attack.body["scope"], "openid") {
		a.t.Errorf("%s: something was issued without openid, which cannot be declined alone", attack.name)
	}
	approved := allOf(a.shown, "alice")
	approved.scopes, approved.audience = strings.Join(attack.body["scope"], " "), strings.Join(attack.body["audience"], " ")
	for shown, ticked := range map[string][]string{a.shown.Get("scope"): attack.body["scope"], strings.Join(a.shown["audience"], " "): attack.body["audience"]} {
		for _, value := range ticked {
			if !slices.Contains(strings.Fields(shown), value) {
				a.t.Errorf("%s: something was issued for %q, which the page did not show", attack.name, value)
			}
		}
	}
	failed := a.t.Failed()
	approved.check(a.suite, a.server, got)
	if a.t.Failed() && !failed {
		a.t.Errorf("%s: what was issued is not what the page showed", attack.name)
	}
	a.open()
}

// stillGood approves the page as it is.
func (a *attacker) stillGood() {
	a.t.Helper()
	got := a.suite.issued(a.browser.Post(a.page.Form("/consent").Action, a.form.Encode()))
	if got == nil {
		a.t.Fatal("the page is no longer good for its own request")
	}
	allOf(a.shown, "alice").check(a.suite, a.server, got)
}

// Between the page and the decision, each parameter of the authorization request is
// changed where the form carries it.
func TestAdversaryChangesTheRequestInTheForm(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	for name, params := range targets {
		t.Run(name, func(t *testing.T) {
			a := s.in(t).attacker(s.signIn("alice"), params)
			unbound := fositeconsent.UnboundParameters()
			for _, m := range mutations(params) {
				changed := clone(params)
				m.apply(changed)
				body := clone(a.form)
				body.Set("authorization_request", changed.Encode())
				issued := a.issued
				a.try(attack{m.String(), nil, body})
				neutral := slices.Contains(unbound, m.name) || sameRequest(params, changed)
				if a.issued > issued && !neutral {
					t.Errorf("%s: passed, although it is bound", m)
				}
			}
			if a.issued == 0 || a.refused < 90 {
				t.Errorf("%d changes passed and %d were refused: the attack is not what it is meant to be", a.issued, a.refused)
			}
			a.stillGood()
		})
	}
}

// sameRequest tells whether two sets of parameters are one and the same request: sets
// are compared as sets, and what is sent empty is as if it were not sent where
// RFC 6749, Section 3.1 says so to fosite.
func sameRequest(a, b url.Values) bool {
	plain := func(v url.Values) string {
		v = clone(v)
		if v.Get("response_mode") == "" && len(v["response_mode"]) <= 1 {
			v.Set("response_mode", mode(v))
		}
		for _, name := range []string{"scope", "response_type", "audience"} {
			if name != "audience" && len(v[name]) > 1 {
				continue
			}
			words := slices.Sorted(slices.Values(strings.Fields(strings.Join(v[name], " "))))
			v[name] = slices.Compact(words)
		}
		return v.Encode()
	}
	return plain(a) == plain(b)
}

// The same parameters beside the form's fields: in the query, in the body, and in
// both with different values. fosite, which reads both, would take the body's.
func TestAdversaryAddsTheRequestToTheDecision(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	params := targets["a confidential client's code"]
	a := s.attacker(browser, params)
	for name, other := range others {
		if name == "scope" || name == "audience" { // which are fields of the form
			continue
		}
		own := params.Get(name)
		for _, place := range []struct {
			name        string
			query, body []string
		}{
			{"in the query", []string{other}, nil},
			{"in the body", nil, []string{other}},
			{"in both", []string{other}, []string{other}},
			{"in both with different values", []string{own}, []string{other}},
			{"in both with different values, the other way", []string{other}, []string{own}},
			{"in the query, as it was", []string{own}, nil},
			{"in the body, as it was", nil, []string{own}},
			{"twice in the body", nil, []string{own, other}},
		} {
			query, body := url.Values{}, clone(a.form)
			if place.query != nil {
				query[name] = place.query
			}
			if place.body != nil {
				body[name] = place.body
			}
			a.try(attack{name + " " + place.name, query, body})
		}
	}
	if a.issued > 0 {
		t.Errorf("%d of them passed, although the page has no such fields", a.issued)
	}
	a.stillGood()
}

// Each field of the form itself.
func TestAdversaryChangesTheForm(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	params := targets["a confidential client's code"]
	foreign := s.consentPage(browser, with(params, "scope", others["scope"], "audience", otherAPI, "state", others["state"])).Form("/consent").Values("approve")
	bobs := s.consentPage(s.signIn("bob"), params).Form("/consent").Values("approve")
	a := s.attacker(browser, params)
	ticket := a.form.Get("ticket")
	values := map[string][]string{
		"ticket": {foreign.Get("ticket"), bobs.Get("ticket"), ticket[:len(ticket)-1], ticket + "A", ticket[:40] + flip(ticket[40]) + ticket[41:],
			"fct_", "fct_AAAA", "fcg_" + strings.Repeat("A", 64), strings.Repeat("A", 300_000)},
		"decision":              {"Approve", "APPROVE", "approve ", " approve", "approved", "yes", "true", "1", "on", "approve,deny", "approve\x00"},
		"scope":                 {"photos.write", "OPENID", "photos.*", "*", "openid photos.read", "photos.read ", "profile"},
		"audience":              {otherAPI, strings.ToUpper(api), api + "/", api + " " + otherAPI, "*"},
		"authorization_request": {foreign.Get("authorization_request"), "%", "client_id=web", a.form.Get("authorization_request") + "&state=another", "https://evil.example"},
		"unknown":               {"value"},
	}
	for name, list := range values {
		own := a.form[name]
		for i, value := range append(list, "") {
			label := fmt.Sprintf("%s, value %d, ", name, i)
			change := func(how string, query, body []string) {
				t.Helper()
				attack := attack{label + how, url.Values{}, clone(a.form)}
				if name == "ticket" && slices.Equal(body, own) { // of the page that is open now
					body = a.form[name]
				}
				attack.body[name] = body
				if body == nil {
					attack.body.Del(name)
				}
				if query != nil {
					attack.query[name] = query
				}
				a.try(attack)
			}
			change("in its place", nil, []string{value})
			change("before it", nil, append([]string{value}, own...))
			change("behind it", nil, append(slices.Clone(own), value))
			change("in the query instead", []string{value}, nil)
			change("in the query too", []string{value}, own)
			change("in its place, and itself in the query", own, []string{value})
		}
		change := func(how string, query, body []string) {
			t.Helper()
			attack := attack{name + " " + how, url.Values{}, clone(a.form)}
			if attack.body[name] = body; body == nil {
				attack.body.Del(name)
			}
			if query != nil {
				attack.query[name] = query
			}
			a.try(attack)
		}
		change("dropped", nil, nil)
		own = a.form[name]
		if own == nil {
			continue
		}
		change("doubled", nil, append(slices.Clone(own), own...))
		change("moved to the query", own, nil)
		change("also in the query", own, own)
	}
	// What passes is the resource owner's to choose: the audience dropped or emptied.
	t.Logf("%d changes of the form passed, %d were refused", a.issued, a.refused)
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodHead} {
		before := s.grants()
		page, err := browser.Do(useragent.Request{Method: method, URL: "/consent?" + a.form.Encode(), Header: browser.SameOrigin()})
		if err != nil {
			t.Fatal(err)
		}
		s.nothingIssued(page)
		if after := s.grants(); after != before {
			t.Errorf("%s /consent changed the grants", method)
		}
	}
	a.stillGood()
}

func flip(b byte) string {
	if b == 'A' {
		return "B"
	}
	return "A"
}

// The decision's form sent to the authorization endpoint, with the token where
// somebody might look for one, decides nothing.
func TestAdversarySendsTheDecisionToTheAuthorizationEndpoint(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	params := authorization("web")
	page := s.consentPage(browser, params)
	form := page.Form("/consent").Values("approve")
	extra := clone(params)
	for name, values := range form {
		if name != "scope" && name != "audience" {
			extra[name] = values
		}
	}
	for _, name := range []string{"token", "consent_token", "consent", "grant", "approve"} {
		extra.Set(name, form.Get("ticket"))
	}
	s.nothingIssued(browser.Open(browser.URL("/oauth2/auth?" + extra.Encode())))
	s.nothingIssued(browser.Post("/oauth2/auth", extra.Encode()))
	s.nothingIssued(browser.Post("/oauth2/auth?"+params.Encode(), form.Encode()))
	s.wantCount(0, 0, 0)
	s.approve(page)
}

// The page of one is not answered by another, nor in another login of the same one.
func TestPageIsGoodForItsLoginAlone(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	params := authorization("web")
	alice := s.signIn("alice")
	page := s.consentPage(alice, params)
	form := page.Form("/consent")

	again := alice.CloneProfile() // and signs in once more there
	s.signInAt(s.authorize(again, with(params, "prompt", "login")), "alice")

	for who, browser := range map[string]*useragent.Agent{
		"another user":                     s.signIn("bob"),
		"the same user in another browser": s.signIn("alice"),
		"the same user after a new login":  again,
		"nobody":                           s.browser(),
	} {
		for _, button := range []string{"approve", "deny"} {
			answer := browser.Post(form.Action, form.Values(button).Encode())
			s.nothingIssued(answer)
			if d := answer.Delivery(); d != nil {
				t.Errorf("%s %s: the client got %v", who, button, d.Values)
			}
			s.wantCount(0, 0, 0)
		}
	}
	// The login that the page belongs to has ended with the new one in its browser.
	s.nothingIssued(form.Submit("approve"))
	s.wantCount(0, 0, 0)
}

func TestPageOutlivesWhatOthersDoWithIt(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice, params := s.signIn("alice"), authorization("web")
	page := s.consentPage(alice, params)
	form := page.Form("/consent")
	for _, browser := range []*useragent.Agent{s.signIn("bob"), s.signIn("alice"), s.browser()} {
		s.nothingIssued(browser.Post(form.Action, form.Values("approve").Encode()))
		s.nothingIssued(browser.Post(form.Action, form.Values("deny").Encode()))
	}
	allOf(params, "alice").check(s, s.server, s.approve(page))
	s.wantCount(1, 0, 1)
}

// After signing out, the page leads to the password, and after that to a new page.
func TestSignedOutPageApprovesNothing(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	page := s.consentPage(alice, authorization("web"))
	if out := page.Form("/logout").Submit(""); out.Form("/login") == nil {
		t.Fatalf("signing out leads to status %d, %s", out.Status, out.Text())
	}
	answer := page.Form("/consent").Submit("approve")
	s.nothingIssued(answer)
	if answer.Form("/login") == nil {
		t.Errorf("the decision led to status %d, %s", answer.Status, answer.Text())
	}
	s.wantCount(0, 0, 0)
	second := s.signInAt(answer, "alice")
	s.nothingIssued(second)
	s.nothingIssued(page.Form("/consent").Submit("approve")) // of the old login
	s.wantCount(0, 0, 0)
	s.approve(second)
}

func TestOneDecisionForEachPage(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")

	t.Run("a denial is final", func(t *testing.T) {
		s := s.in(t)
		page := s.consentPage(alice, authorization("web"))
		denied := page.Form("/consent").Submit("deny")
		if d := denied.Delivery(); d == nil || d.Values.Get("error") != "access_denied" {
			t.Fatalf("delivery %+v", d)
		}
		before := s.grants()
		for range 3 {
			answer := page.Form("/consent").Submit("approve")
			s.nothingIssued(answer)
			if answer.Status != http.StatusConflict {
				t.Errorf("status %d", answer.Status)
			}
		}
		if s.grants() != before {
			t.Error("the grants changed")
		}
	})
	t.Run("so is an approval", func(t *testing.T) {
		s := s.in(t)
		page := s.consentPage(alice, authorization("web"))
		got := s.approve(page)
		before := s.grants()
		for _, button := range []string{"approve", "deny", "approve"} {
			answer := page.Form("/consent").Submit(button)
			s.nothingIssued(answer)
			if answer.Delivery() != nil || answer.Status != http.StatusConflict {
				t.Errorf("%s: status %d, delivery %+v", button, answer.Status, answer.Delivery())
			}
		}
		if s.grants() != before {
			t.Error("the grants changed")
		}
		// What was issued before is not touched by all that.
		allOf(authorization("web"), "alice").check(s, s.server, got)
	})
	t.Run("with other scopes neither", func(t *testing.T) {
		s := s.in(t)
		page := s.consentPage(alice, authorization("web"))
		form := page.Form("/consent")
		form.Untick("scope", "photos.read")
		s.approve(page)
		again := form.Values("approve")
		again.Add("scope", "photos.read")
		s.nothingIssued(alice.Post(form.Action, again.Encode()))
	})
	t.Run("two pages are two decisions", func(t *testing.T) {
		s := s.in(t)
		params := authorization("web")
		first, second, third := s.consentPage(alice, params), s.consentPage(alice, params), s.consentPage(alice, params)
		s.nothingIssued(first.Form("/consent").Submit("deny"))
		one, two := s.approve(second), s.approve(third)
		if one.code == two.code {
			t.Error("one code for two decisions")
		}
		allOf(params, "alice").check(s, s.server, one)
		allOf(params, "alice").check(s, s.server, two)
	})
}

// 64 submissions of one page, at once, to two processes.
func TestOneCodeFor64SubmissionsToTwoProcesses(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	second := s.site.Start()
	params := authorization("web")
	for round, buttons := range [][]string{{"approve"}, {"approve"}, {"approve", "deny"}} {
		alice := s.signIn("alice")
		form := s.consentPage(alice, params).Form("/consent")
		processes := []*authserver.Server{s.server, second}
		browsers := []*useragent.Agent{alice.At(s.server), alice.At(second)}
		approvedBefore, deniedBefore, _ := s.count()

		type outcome struct {
			page   *useragent.Page
			server *authserver.Server
		}
		outcomes := make([]outcome, 64)
		start := make(chan struct{})
		var all sync.WaitGroup
		for i := range outcomes {
			all.Go(func() {
				<-start
				outcomes[i] = outcome{browsers[i%2].Post(form.Action, form.Values(buttons[i/2%len(buttons)]).Encode()), processes[i%2]}
			})
		}
		close(start)
		all.Wait()

		codes, denials, conflicts := 0, 0, 0
		for _, o := range outcomes {
			got := s.issued(o.page)
			switch d := o.page.Delivery(); {
			case got != nil:
				codes++
				allOf(params, "alice").check(s, o.server, got)
			case d != nil && d.Values.Get("error") == "access_denied":
				denials++
			case o.page.Status == http.StatusConflict && d == nil:
				conflicts++
			default:
				t.Errorf("status %d, delivery %+v, %s", o.page.Status, d, o.page.Text())
			}
		}
		if codes+denials != 1 || conflicts != 63 || len(buttons) == 1 && codes != 1 {
			t.Errorf("round %d: %d codes, %d denials and %d conflicts", round, codes, denials, conflicts)
		}
		s.wantCount(approvedBefore+codes, deniedBefore+denials, approvedBefore+codes)
	}
}

// A page outlives the process that showed it; a decision does too.
func TestPagesAndDecisionsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice, params := s.signIn("alice"), authorization("web")
	answered, denied, open := s.consentPage(alice, params), s.consentPage(alice, params), s.consentPage(alice, params)
	s.approve(answered)
	s.nothingIssued(denied.Form("/consent").Submit("deny"))

	s.server.Stop()
	s.server = s.site.Start()
	alice.Use(s.server)

	before := s.grants()
	for _, page := range []*useragent.Page{answered, denied} {
		for _, button := range []string{"approve", "deny"} {
			answer := page.Form("/consent").Submit(button)
			s.nothingIssued(answer)
			if answer.Status != http.StatusConflict {
				t.Errorf("status %d", answer.Status)
			}
		}
	}
	if s.grants() != before {
		t.Error("the grants changed")
	}
	allOf(params, "alice").check(s, s.server, s.approve(open))
	s.wantCount(2, 1, 2)
}
