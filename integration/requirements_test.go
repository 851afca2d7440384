package integration_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// What the standards ask of a consent step. The numbers are those of the project's
// list of requirements; 14 and 19 are about pushed requests and about refreshing, which
// have tests of their own.

// OpenID Connect Core 1.0, Section 3.1.2.4: "Once the End-User is authenticated, the
// Authorization Server MUST obtain an authorization decision before releasing
// information to the Relying Party."
func TestRequirement01_NothingIsReleasedBeforeADecision(t *testing.T) {
	t.Parallel()
	t.Run("nothing is stored in any table", func(t *testing.T) {
		h := newHost(t, nil)
		for _, responseType := range responseTypes {
			for _, responseMode := range []string{"", "fragment", "form_post"} {
				params := authorization("app", "response_type", responseType, "response_mode", responseMode)
				resp, err := h.provider.NewAuthorizeResponse(context.Background(), h.request(params), login("alice", time.Minute))
				if err == nil || resp != nil || !fositeconsent.NeedsConsent(err) {
					t.Errorf("%s %s: a response without a decision: %v", responseType, responseMode, err)
				}
				if got := h.stored(); got != nothingStored {
					t.Fatalf("%s %s: the storage has %s", responseType, responseMode, got)
				}
			}
		}
		if rows := grantsIn(t, h.pool); rows != "" {
			t.Errorf("grants were stored: %s", rows)
		}
	})
	t.Run("only the exact value approves", func(t *testing.T) {
		s := newSuite(t)
		page := s.consentPage(s.signIn("alice"), authorization("web"))
		form := page.Form("/consent")
		values := form.Values("approve")
		for name, decision := range map[string][]string{
			"missing": nil, "empty": {""}, "unknown": {"perhaps"}, "true": {"true"}, "another case": {"Approve"}, "a space": {"approve "},
			"repeated": {"approve", "approve"}, "both": {"approve", "deny"}, "both, the other way": {"deny", "approve"}, "and empty": {"approve", ""},
		} {
			body := clone(values)
			if body["decision"] = decision; decision == nil {
				body.Del("decision")
			}
			s.nothingIssued(s.send(form, body))
			if approved, denied, _ := s.count(); approved+denied != 0 {
				t.Errorf("%s: %d approvals and %d denials were stored", name, approved, denied)
			}
		}
		s.approve(page)
		s.wantCount(1, 0, 1)
	})
}

// send posts something else than the form would.
func (s *suite) send(form *useragent.Form, body url.Values) *useragent.Page {
	s.t.Helper()
	return form.Agent().Post(form.Action, body.Encode())
}

// RFC 6749, Section 10.12: "The authorization server MUST implement CSRF protection for
// its authorization endpoint and ensure that a malicious client cannot obtain
// authorization without the awareness and explicit consent of the resource owner."
// OpenID Connect Core 1.0, Section 3.1.2.3: "The Authorization Server MUST employ
// appropriate measures against Cross-Site Request Forgery and Clickjacking".
func TestRequirement02_CrossSiteRequestNeverApproves(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	page := s.consentPage(alice, authorization("web"))
	form := page.Form("/consent")
	evil := "https://evil.example"
	for name, header := range map[string]http.Header{
		"cross-site":                          {"Sec-Fetch-Site": {"cross-site"}, "Origin": {evil}},
		"cross-site without an origin":        {"Sec-Fetch-Site": {"cross-site"}},
		"another host of the site":            {"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://sibling.127.0.0.1"}},
		"an older browser":                    {"Origin": {evil}},
		"a sandboxed frame":                   {"Origin": {"null"}},
		"a sandboxed frame, newer":            {"Origin": {"null"}, "Sec-Fetch-Site": {"cross-site"}},
		"another port":                        {"Origin": {"http://127.0.0.1:1"}},
		"another scheme":                      {"Origin": {strings.Replace(s.server.URL, "http:", "https:", 1) + "0"}},
		"an origin that begins like ours":     {"Origin": {s.server.URL + ".evil.example"}},
		"cross-site with an origin of ours":   {"Sec-Fetch-Site": {"cross-site"}, "Origin": {evil}, "Referer": {s.server.URL + "/consent"}},
		"a form with another content type":    {"Sec-Fetch-Site": {"same-origin"}, "Origin": {s.server.URL}, "Content-Type": {"text/plain"}},
		"a form of parts":                     {"Sec-Fetch-Site": {"same-origin"}, "Origin": {s.server.URL}, "Content-Type": {"multipart/form-data; boundary=x"}},
		"cross-site, method overridden":       {"Sec-Fetch-Site": {"cross-site"}, "Origin": {evil}, "X-Http-Method-Override": {"GET"}},
		"cross-site, an origin that was ours": {"Sec-Fetch-Site": {"cross-site"}, "Origin": {s.server.URL + "/"}},
	} {
		for _, target := range []string{form.Action, form.Action + "/", form.Action + "?x=y"} {
			for _, button := range []string{"approve", "deny"} {
				answer, err := alice.Do(useragent.Request{Method: http.MethodPost, URL: target, Body: form.Values(button).Encode(), Header: header})
				if err != nil {
					t.Fatal(err)
				}
				s.nothingIssued(answer)
				if answer.Status/100 != 4 {
					t.Errorf("%s: %s to %s: status %d", name, button, target, answer.Status)
				}
			}
		}
	}
	// With what a browser leaves out on the way from another site: the cookie.
	s.nothingIssued(s.browser().Post(form.Action, form.Values("approve").Encode()))
	// A link, or an image, cannot do it.
	for _, target := range []string{form.Action + "?" + form.Values("approve").Encode(), s.server.URL + "/oauth2/auth?" + form.Values("approve").Encode()} {
		s.nothingIssued(alice.Open(target))
	}
	s.wantCount(0, 0, 0)
	for _, cookie := range setCookies(s.browser(), s) {
		if cookie.SameSite != http.SameSiteLaxMode && cookie.SameSite != http.SameSiteStrictMode || !cookie.HttpOnly {
			t.Errorf("the session's cookie is %v", cookie)
		}
	}
	s.approve(page)
}

// setCookies signs in and returns the cookies that were set.
func setCookies(a *useragent.Agent, s *suite) []*http.Cookie {
	var list []*http.Cookie
	a.OnResponse = func(r *http.Response, _ []byte) { list = append(list, r.Cookies()...) }
	s.signInAt(a.Open(a.URL("/login")), "alice")
	if len(list) == 0 {
		s.t.Error("no cookie was set")
	}
	return list
}

// RFC 6749, Section 4.1.2: "The client MUST NOT use the authorization code more than
// once." RFC 9700, Section 4.5, has codes bound to one transaction. One approval is one
// code, however often it is presented.
func TestRequirement03_OneGrantIsSpentOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	params := authorization("app")
	token := h.mint(params, "alice")
	const presenters = 64
	requests := make([]fosite.AuthorizeRequester, presenters)
	for i := range requests {
		requests[i] = h.request(params)
	}
	results, start := make([]error, presenters), make(chan struct{})
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			<-start
			_, results[i] = h.respond(requests[i], login("alice", time.Minute), token)
		})
	}
	close(start)
	all.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
		} else if !fositeconsent.NeedsConsent(err) || explainsNot(err, fositeconsent.ErrGrantConsumed) {
			t.Errorf("refused with %s", explain(err))
		}
	}
	if won != 1 {
		t.Errorf("%d of %d presentations were answered", won, presenters)
	}
	if got := h.stored(); got != "1 codes, 0 access tokens, 0 refresh tokens, 1 PKCE requests, 1 OpenID sessions" {
		t.Errorf("the storage has %s", got)
	}
}

func explainsNot(err, reason error) bool { return !strings.Contains(explain(err), reason.Error()) }

// RFC 6749, Section 10.10: "The probability of an attacker guessing generated tokens (and
// other credentials not intended for handling by end-users) MUST be less than or equal to
// 2^(-128) and SHOULD be less than or equal to 2^(-160)."
func TestRequirement04_TokenCannotBeGuessed(t *testing.T) {
	// Not parallel: the source of randomness is the process's.
	mint := func(t *testing.T) []byte {
		gate, err := fositeconsent.NewGate(consenttest.NewStorage(time.Now), fositeconsent.Config{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		h := &host{t: t, store: newMemory(), config: newFositeConfig(), gate: gate}
		if h.provider, err = gate.Protect(composeWith(h.config, h.store, gate.Factory)); err != nil {
			t.Fatal(err)
		}
		return must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(h.mint(authorization("app"), "alice").Reveal(), "fcg_")))
	}
	seen, ones := map[string]bool{}, 0
	const samples = 500
	for range samples {
		raw := mint(t)
		secret := raw[16:]
		if len(secret)*8 < 160 {
			t.Fatalf("the secret has %d bits", len(secret)*8)
		}
		if seen[string(secret)] {
			t.Fatal("a secret came twice")
		}
		seen[string(secret)] = true
		for _, b := range secret {
			ones += bits.OnesCount8(b)
		}
	}
	if share := float64(ones) / (samples * 256); share < 0.48 || share > 0.52 { // 14 standard deviations
		t.Errorf("%.3f of the bits are ones", share)
	}
	// It is the process's cryptographic generator that it comes from, and nothing else.
	t.Run("from crypto/rand", func(t *testing.T) {
		secret := func(seed uint64) string {
			var s string
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, seed)
				s = hex.EncodeToString(mint(t)[16:])
			})
			return s
		}
		if first := secret(1); first != secret(1) || first == secret(2) {
			t.Error("the secret does not follow the seed of the generator")
		}
	})
}

// RFC 6749, Section 4.1.2.1: "access_denied: The resource owner or authorization server
// denied the request." and "state: REQUIRED if a "state" parameter was present in the
// client authorization request. The exact value received from the client."
func TestRequirement05_DenialReachesTheClientAndIsFinal(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	for _, responseType := range responseTypes {
		for _, responseMode := range []string{"", "fragment", "form_post"} {
			params := authorization("web", "response_type", responseType, "response_mode", responseMode, "state", `a state with "quotes", <tags> & ampersands; =+%20ü`)
			page := s.consentPage(alice, params)
			answer := page.Form("/consent").Submit("deny")
			s.nothingIssued(answer)
			d := answer.Delivery()
			if d == nil || d.Mode != mode(params) || d.URI != callback || d.Values.Get("error") != "access_denied" || !slices.Equal(d.Values["state"], params["state"]) {
				t.Errorf("%s %s: the client got %+v", responseType, responseMode, d)
			}
			again := page.Form("/consent").Submit("approve")
			s.nothingIssued(again)
			if again.Delivery() != nil {
				t.Errorf("%s %s: the approval after the denial reached the client", responseType, responseMode)
			}
		}
	}
	s.wantCount(0, len(responseTypes)*3, 0)
}

// RFC 6749, Section 10.2: "The authorization server SHOULD [...] provide the resource
// owner with information about the client and the requested authorization scope and
// lifetime."
func TestRequirement06_PageSaysWhoWantsWhatForHowLong(t *testing.T) {
	t.Parallel()
	params := authorization("odd", "scope", "openid photos.read photos.write offline_access something.odd", "audience", otherAPI)
	odd := testClient("odd", func(c *authserver.Client) {
		c.Name, c.Scope = "Odd & Sons", allScopes+" something.odd"
		c.URI, c.PolicyURI, c.TOSURI, c.LogoURI = "https://odd.example/", "https://odd.example/policy", "https://odd.example/tos", "https://odd.example/logo.png"
	})
	s := newSuite(t, withClients(odd))
	page := s.consentPage(s.signIn("alice"), params)
	text := page.Text()
	for what, expected := range map[string]string{
		"the client": "Odd & Sons", "who is asked": "alice", "where the browser will be sent": "client.example", "the audience": otherAPI,
		"a scope in words": "See your photos", "another scope in words": "Add photos", "offline access in words": "Stay connected",
		"a scope that has no words": "something.odd", "for how long": "Access lasts for 1 hour", "for how long it is renewed": "30 days",
	} {
		if !strings.Contains(text, expected) {
			t.Errorf("the page does not say %s (%q): %s", what, expected, text)
		}
	}
	// Each scope has its checkbox, with words of its own, and openid cannot be declined.
	labels := map[string]string{}
	for _, label := range page.Elements("label") {
		labels[useragent.Attribute(label, "for")] = label.FirstChild.Data
	}
	boxes := map[string]bool{}
	for _, input := range page.Elements("input") {
		if useragent.Attribute(input, "type") != "checkbox" {
			continue
		}
		if labels[useragent.Attribute(input, "id")] == "" {
			t.Errorf("a checkbox has no label: %v", input.Attr)
		}
		if useragent.Attribute(input, "name") == "scope" {
			boxes[useragent.Attribute(input, "value")] = true
		}
	}
	for _, scope := range strings.Fields(params.Get("scope")) {
		if boxes[scope] == (scope == "openid") {
			t.Errorf("scope %s may be declined: %t", scope, boxes[scope])
		}
	}
	var links []string
	for _, a := range page.Elements("a") {
		links = append(links, useragent.Attribute(a, "href"))
	}
	for _, link := range []string{odd.URI, odd.PolicyURI, odd.TOSURI} {
		if !slices.Contains(links, link) {
			t.Errorf("there is no link to %s", link)
		}
	}
	// What the page offers is what is issued, in whole and in part.
	approved := allOf(params, "alice")
	approved.scopes = "openid photos.read"
	form := page.Form("/consent").Untick("scope", "photos.write").Untick("scope", "offline_access").Untick("scope", "something.odd")
	got := s.issued(form.Submit("approve"))
	if got == nil {
		t.Fatal("nothing was issued")
	}
	approved.check(s, s.server, got)
}

// RFC 6749, Section 10.2: "The authorization server SHOULD NOT process repeated
// authorization requests automatically (without active resource owner interaction)
// without authenticating the client or relying on other measures". RFC 8252, Section 8.6:
// "the authorization server SHOULD NOT process authorization requests automatically
// without user consent or interaction, except when the identity of the client can be
// assured."
func TestRequirement07_NoSilentApprovalForAPublicClient(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	params := authorization("app")
	for round := range 3 { // also when the same was approved before
		for _, prompt := range []string{"none", ""} {
			page := s.authorize(alice, with(params, "prompt", prompt))
			s.nothingIssued(page)
			switch d := page.Delivery(); {
			case prompt == "none" && (d == nil || d.Values.Get("error") != "consent_required"):
				t.Errorf("round %d, prompt=none: %+v", round, d)
			case prompt == "" && page.Form("/consent") == nil:
				t.Errorf("round %d: no page but status %d", round, page.Status)
			}
		}
		s.wantCount(round, 0, round)
		page := s.consentPage(alice, params)
		if !strings.Contains(page.Text(), "cannot prove who it is") {
			t.Error("the page does not say that nobody vouches for the client")
		}
		s.approve(page)
	}
}

// RFC 9700, Section 4.16: "Authorization servers MUST prevent clickjacking attacks." It
// names X-Frame-Options and Content Security Policy, to be used together.
func TestRequirement08_NoPageCanBeFramed(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	seen := map[string]int{}
	check := func(what string, page *useragent.Page) {
		t.Helper()
		for _, hop := range page.Hops {
			policy := hop.Header.Get("Content-Security-Policy")
			if !slices.Contains(regexp.MustCompile(`\s*;\s*`).Split(policy, -1), "frame-ancestors 'none'") || hop.Header.Get("X-Frame-Options") != "DENY" {
				t.Errorf("%s: %s %s: policy %q, X-Frame-Options %q", what, hop.Method, hop.URL.Path, policy, hop.Header.Get("X-Frame-Options"))
			}
		}
		seen[fmt.Sprint(page.Status)]++
	}
	anonymous, alice := s.browser(), s.signIn("alice")
	do := func(r useragent.Request) *useragent.Page {
		page, err := alice.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	params := authorization("web")
	check("login", anonymous.Open(anonymous.URL("/login")))
	check("login for a client", s.authorize(anonymous, params))
	check("login refused", anonymous.Open(anonymous.URL("/login")).Form("/login").Set("username", "alice").Set("password", "wrong").Submit(""))
	check("account", alice.Open(alice.URL("/login")))
	check("applications for somebody", anonymous.Open(anonymous.URL(applications)))
	check("applications", alice.Open(alice.URL(applications)))
	page := s.consentPage(alice, params)
	check("consent", page)
	check("no such client", s.authorize(alice, with(params, "client_id", "nobody")))
	check("no such redirect URI", s.authorize(alice, with(params, "redirect_uri", "https://evil.example/")))
	check("nothing there", alice.Open(alice.URL("/nothing")))
	check("bad form", page.Form("/consent").Submit(""))
	check("a form of another site", do(useragent.Request{Method: http.MethodPost, URL: "/consent", Header: http.Header{"Sec-Fetch-Site": {"cross-site"}}}))
	check("another request", s.send(page.Form("/consent"), with(page.Form("/consent").Values("approve"), "authorization_request", with(params, "state", others["state"]).Encode())))
	check("approved", page.Form("/consent").Submit("approve"))
	check("answered before", page.Form("/consent").Submit("approve"))
	question := alice.Open(alice.URL(takeBack + "?client=web"))
	check("take access back", question)
	check("taken back", question.Form(takeBack).Submit("one"))
	check("form_post", s.consentPage(alice, with(params, "response_mode", "form_post")).Form("/consent").Submit("approve"))
	check("form_post of an error", s.consentPage(alice, with(params, "response_mode", "form_post")).Form("/consent").Submit("deny"))
	check("a method that there is not", do(useragent.Request{Method: http.MethodPut, URL: "/consent"}))
	for _, status := range []string{"200", "303", "400", "403", "404", "409"} {
		if seen[status] == 0 {
			t.Errorf("no page with status %s was looked at: %v", status, seen)
		}
	}
}

// RFC 9700, Section 4.11.2: "the authorization server MUST always authenticate the user
// first and, with the exception of the silent authentication use case, prompt the user for
// credentials when needed, before redirecting the user."
func TestRequirement09_NobodyIsRedirectedBeforeTheLogin(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	good := authorization("web")
	wrong := map[string]url.Values{
		"nothing":                      good,
		"a scope that it may not have": with(good, "scope", "openid admin"),
		"an unknown response type":     with(good, "response_type", "magic"),
		"an unknown response mode":     with(good, "response_mode", "magic"),
		"a state without entropy":      with(good, "state", "x"),
		"no state":                     with(good, "state", ""),
		"an audience of others":        with(good, "audience", "https://others.example"),
		"an unknown prompt":            with(good, "prompt", "magic"),
		"a max_age that is no number":  with(good, "max_age", "soon"),
		"a request object":             with(good, "request", "e30.e30."),
		"a registration":               with(good, "registration", "{}"),
		"no proof key":                 with(authorization("app"), "code_challenge", "", "code_challenge_method", ""),
		"a parameter twice":            {"client_id": {"web"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid"}, "state": {"the state", "twice"}},
	}
	for name, params := range wrong {
		page := s.authorize(s.browser(), params)
		if page.Location != nil || page.Delivery() != nil {
			t.Errorf("with %s wrong, somebody who has not signed in is sent to %+v", name, page.Delivery())
		}
		if name == "nothing" && page.Form("/login") == nil {
			t.Errorf("no login page but status %d", page.Status)
		}
		silent := s.authorize(s.browser(), with(params, "prompt", "none"))
		if d := silent.Delivery(); name == "nothing" && (d == nil || d.Values.Get("error") != "login_required") {
			t.Errorf("prompt=none: %+v", d)
		}
	}
	// To a place that is not registered nobody is sent, signed in or not.
	for _, browser := range []*useragent.Agent{s.browser(), s.signIn("alice")} {
		for _, params := range []url.Values{
			with(good, "redirect_uri", "https://evil.example/"), with(good, "client_id", "nobody"), with(good, "client_id", ""), with(good, "redirect_uri", ""),
			with(good, "redirect_uri", "https://evil.example/", "prompt", "none"), {"client_id": {"web"}, "redirect_uri": {callback, "https://evil.example/"}, "response_type": {"code"}},
		} {
			if page := s.authorize(browser, params); page.Location != nil || page.Delivery() != nil || page.Status != http.StatusBadRequest {
				t.Errorf("%v: status %d, sent to %v", params, page.Status, page.Location)
			}
		}
	}
}

// RFC 9700, Section 4.12: a server that redirects a request which may contain the user's
// credentials "MUST NOT use the HTTP 307 status code" and "SHOULD use HTTP status code
// 303 (See Other)".
func TestRequirement10_PostIsAnsweredWith303(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.browser()
	params := authorization("web")
	posts := 0
	check := func(page *useragent.Page) *useragent.Page {
		t.Helper()
		for _, hop := range page.Hops {
			if hop.Status/100 == 3 {
				if hop.Status != http.StatusSeeOther {
					t.Errorf("%s %s was answered with %d", hop.Method, hop.URL.Path, hop.Status)
				}
				if hop.Method == http.MethodPost {
					posts++
				}
			}
		}
		return page
	}
	page := check(s.signInAt(check(s.authorize(browser, params)), "alice"))
	check(page.Form("/consent").Submit("approve"))
	check(s.consentPage(browser, params).Form("/consent").Submit("deny"))
	check(browser.Post("/oauth2/auth", params.Encode()))
	check(s.consentPage(browser, with(params, "response_mode", "fragment")).Form("/consent").Submit("approve"))
	page = s.consentPage(browser, params)
	check(page.Form("/logout").Submit(""))
	check(page.Form("/consent").Submit("approve")) // by somebody who has signed out
	if posts < 7 {
		t.Errorf("only %d posts were answered with a redirect", posts)
	}
}

// OpenID Connect Core 1.0, Section 3.1.2.1: "none: The Authorization Server MUST NOT
// display any authentication or consent user interface pages." and "If this parameter
// contains none with any other value, an error is returned."; Section 3.1.2.6 has the
// errors login_required and consent_required.
func TestRequirement11_PromptIsObeyed(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	for _, clientID := range []string{"web", "app"} {
		for _, responseType := range responseTypes {
			params := authorization(clientID, "response_type", responseType)
			for name, test := range map[string]struct {
				browser       *useragent.Agent
				prompt, error string
			}{
				"signed in":             {alice, "none", "consent_required"},
				"not signed in":         {s.browser(), "none", "login_required"},
				"with consent":          {alice, "none consent", "invalid_request"},
				"with login":            {alice, "login none", "invalid_request"},
				"with itself":           {alice, "none none", "invalid_request"},
				"not signed in, others": {s.browser(), "none consent", "invalid_request"},
			} {
				page := s.authorize(test.browser, with(params, "prompt", test.prompt))
				s.nothingIssued(page)
				d := page.Delivery()
				if d == nil || page.Form("/login") != nil || page.Form("/consent") != nil {
					t.Errorf("%s %s, %s: a page was shown: status %d, %s", clientID, responseType, name, page.Status, page.Text())
				} else if e := d.Values.Get("error"); e != test.error || !slices.Equal(d.Values["state"], params["state"]) {
					t.Errorf("%s %s, %s: error %q, want %q", clientID, responseType, name, e, test.error)
				}
			}
		}
		// prompt=consent shows the page, whatever was approved before.
		params := authorization(clientID, "prompt", "consent")
		for range 2 {
			s.approve(s.consentPage(alice, params))
		}
		// prompt=login asks for the password, and then once only.
		page := s.authorize(alice, with(params, "prompt", "login"))
		if page.Form("/login") == nil {
			t.Errorf("prompt=login: status %d", page.Status)
		} else if page = s.signInAt(page, "alice"); page.Form("/consent") == nil {
			t.Errorf("prompt=login: after the login status %d, %s", page.Status, page.Text())
		}
	}
}

// OpenID Connect Core 1.0, Section 11: "the Authorization Server MUST ensure that the
// prompt parameter contains consent unless other conditions for processing the request
// permitting offline access [...] are in place", and "MUST explicitly receive or have
// consent for all Clients when the registered application_type is web".
func TestRequirement12_OfflineAccessNeedsExplicitConsent(t *testing.T) {
	t.Parallel()
	t.Run("at the page", func(t *testing.T) {
		s := newSuite(t)
		alice := s.signIn("alice")
		for _, clientID := range []string{"web", "app"} {
			params := authorization(clientID)
			whole, part := allOf(params, "alice"), allOf(params, "alice")
			whole.check(s, s.server, s.approve(s.consentPage(alice, params))) // a refresh token comes with it, which check sees
			form := s.consentPage(alice, params).Form("/consent").Untick("scope", "offline_access")
			part.scopes = "openid photos.read"
			got := s.issued(form.Submit("approve"))
			if got == nil {
				t.Fatal("nothing was issued")
			}
			part.check(s, s.server, got)
			if page := s.authorize(alice, with(params, "prompt", "none")); s.issued(page) != nil {
				t.Error("it was granted without a page")
			}
		}
	})
	t.Run("not by the host", func(t *testing.T) {
		h := newHost(t, nil)
		params := authorization("app")
		p := h.prompt(params, "alice")
		token, err := h.gate.Mint(context.Background(), h.request(params), login("alice", time.Minute), p.Ticket,
			fositeconsent.Decision{Scopes: []string{"openid", "photos.read"}, Audience: p.Audience})
		if err != nil {
			t.Fatal(explain(err))
		}
		ar := h.request(params)
		ar.GrantScope("offline_access")
		if _, err := h.respond(ar, login("alice", time.Minute), token); err == nil {
			t.Error("offline access was granted without the resource owner's consent")
		}
		if got := h.stored(); got != nothingStored {
			t.Errorf("the storage has %s", got)
		}
	})
}

// tampered has alice open a page for the request and answer it with another one in the
// form; nothing may be issued, nothing stored, and the page stays good.
func (s *suite) tampered(alice *useragent.Agent, params url.Values, changes map[string]url.Values) {
	s.t.Helper()
	page := s.consentPage(alice, params)
	form := page.Form("/consent")
	before := s.grants()
	for name, changed := range changes {
		if changed.Encode() == params.Encode() {
			s.t.Fatalf("%s: nothing is changed", name)
		}
		answer := s.send(form, with(form.Values("approve"), "authorization_request", changed.Encode()))
		s.nothingIssued(answer)
		if s.grants() != before {
			s.t.Errorf("%s: the grants changed", name)
		}
	}
	if s.issued(form.Submit("approve")) == nil {
		s.t.Error("the page is no longer good for its own request")
	}
}

// OpenID Connect Core 1.0, Section 5.5: the claims parameter "is used to request that
// specific Claims be returned". What is to be returned is consented to.
func TestRequirement13_ClaimsAreConsentedTo(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	claims := `{"userinfo":{"email":null,"name":{"essential":true}}}`
	params := authorization("web", "claims", claims)
	s.tampered(s.signIn("alice"), params, map[string]url.Values{
		"another claim":   with(params, "claims", `{"userinfo":{"email":null,"phone_number":{"essential":true}}}`),
		"one more":        with(params, "claims", `{"userinfo":{"email":null,"name":{"essential":true},"address":null}}`),
		"none":            with(params, "claims", ""),
		"in the ID token": with(params, "claims", `{"id_token":{"email":null,"name":{"essential":true}}}`),
		"a value":         with(params, "claims", `{"userinfo":{"email":null,"name":{"essential":true,"value":"Bob"}}}`),
	})
	bare := authorization("web")
	s.tampered(s.signIn("alice"), bare, map[string]url.Values{"added": with(bare, "claims", claims)})
}

// RFC 9101, Section 6.3: "The authorization server MUST only use the parameters in the
// Request Object, even if the same parameter is provided in the query parameter."
func TestRequirement15_ParametersBesideARequestObjectChangeNothing(t *testing.T) {
	t.Parallel()
	s := newSuite(t, withClients(signers()...))
	alice := s.signIn("alice")
	params, inside := objectRequest(t, "rs256", "RS256", "claims", "")

	// These say which object it is, and whose.
	which := []string{"client_id", "request", "request_uri"}
	// Added before the page, none of the others is read.
	for name, other := range others {
		if !slices.Contains(which, name) {
			allOf(inside, "alice").check(s, s.server, s.approve(s.consentPage(alice, with(params, name, other))))
		}
	}
	// Added, changed or dropped after the page neither.
	a := s.attacker(alice, params)
	a.shown = inside
	for _, m := range mutations(params) {
		changed := clone(params)
		m.apply(changed)
		if slices.Contains(which, m.name) || m.name == "everything" || m.String() == "redirect_uri added twice" { // which the server does not even read
			continue
		}
		body := clone(a.form)
		body.Set("authorization_request", changed.Encode())
		issued := a.issued
		if a.try(attack{m.String(), nil, body}); a.issued == issued {
			t.Errorf("%s beside the object made a difference", m)
		}
	}
	for _, m := range mutations(params) {
		if m.name != "client_id" && m.name != "request_uri" || m.what == "added empty" {
			continue
		}
		changed := clone(params)
		m.apply(changed)
		body := clone(a.form)
		body.Set("authorization_request", changed.Encode())
		issued := a.issued
		if a.try(attack{m.String(), nil, body}); a.issued > issued {
			t.Errorf("%s passed", m)
		}
	}
	if a.issued < 50 || a.refused < 10 {
		t.Errorf("%d changes passed and %d were refused: the attack is not what it is meant to be", a.issued, a.refused)
	}
	a.stillGood()

	// Another object, signed by the same client.
	page := s.consentPage(alice, params)
	for _, name := range []string{"state", "nonce", "redirect_uri", "code_challenge", "audience", "response_type"} {
		other, _ := objectRequest(t, "rs256", "RS256", name, others[name])
		form := page.Form("/consent")
		answer := s.send(form, with(form.Values("approve"), "authorization_request", other.Encode()))
		if s.issued(answer) != nil {
			t.Errorf("a request object with another %s was answered", name)
		}
	}
	allOf(inside, "alice").check(s, s.server, s.approve(page))
}

// RFC 8707, Section 2.1: "When the resource parameter is used in an authorization request
// to the authorization endpoint, it indicates the identity of the protected resource(s) to
// which access is being requested."
func TestRequirement16_ResourceIsConsentedTo(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	one := authorization("web", "resource", "https://one.example/")
	two := clone(one)
	two["resource"] = []string{"https://one.example/", "https://two.example/"}
	swapped := clone(two)
	slices.Reverse(swapped["resource"])
	s.tampered(alice, one, map[string]url.Values{
		"another": with(one, "resource", "https://two.example/"), "none": with(one, "resource", ""), "one more": two,
		"a path": with(one, "resource", "https://one.example/a"), "no slash": with(one, "resource", "https://one.example"),
	})
	s.tampered(alice, two, map[string]url.Values{"one fewer": one, "another order": swapped, "none": with(two, "resource", "")})
	bare := authorization("web")
	s.tampered(alice, bare, map[string]url.Values{"added": one, "two added": two})
}

// RFC 9396, Section 2: "The request parameter authorization_details contains, in JSON
// notation, an array of objects." What two servers make of two spellings of one array is
// nobody's to know.
func TestRequirement17_AuthorizationDetailsAreConsentedToByteForByte(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	details := `[{"type":"payment","amount":"1"},{"type":"account","actions":["read","list"]}]`
	params := authorization("web", "authorization_details", details)
	s.tampered(s.signIn("alice"), params, map[string]url.Values{
		"another amount":    with(params, "authorization_details", strings.Replace(details, `"1"`, `"1000"`, 1)),
		"another order":     with(params, "authorization_details", `[{"type":"account","actions":["read","list"]},{"type":"payment","amount":"1"}]`),
		"actions reordered": with(params, "authorization_details", strings.Replace(details, `"read","list"`, `"list","read"`, 1)),
		"members reordered": with(params, "authorization_details", strings.Replace(details, `"type":"payment","amount":"1"`, `"amount":"1","type":"payment"`, 1)),
		"a space":           with(params, "authorization_details", strings.Replace(details, ":", ": ", 1)),
		"an escape":         with(params, "authorization_details", strings.Replace(details, "payment", `\u0070ayment`, 1)),
		"none":              with(params, "authorization_details", ""),
		"twice":             {"authorization_details": {details, details}},
	})
}

// RFC 7636, Section 4.4: "the server MUST associate the "code_challenge" and
// "code_challenge_method" values with the authorization code so it can be verified later."
// RFC 9449, Section 10, does the same for a key, and RFC 9700, Section 4.8, is about the
// attacker who takes them away.
func TestRequirement18_ProofOfPossessionCannotBeChanged(t *testing.T) {
	t.Parallel()
	s := newSuite(t, withFlags("-pkce-plain"))
	alice := s.signIn("alice")
	for _, clientID := range []string{"web", "app"} {
		params := authorization(clientID, "dpop_jkt", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I")
		s.tampered(alice, params, map[string]url.Values{
			"another challenge":    with(params, "code_challenge", challenge(otherVerifier)),
			"no challenge":         with(params, "code_challenge", ""),
			"no challenge at all":  with(params, "code_challenge", "", "code_challenge_method", ""),
			"plain":                with(params, "code_challenge_method", "plain"),
			"no method":            with(params, "code_challenge_method", ""),
			"another key":          with(params, "dpop_jkt", others["dpop_jkt"]),
			"no key":               with(params, "dpop_jkt", ""),
			"a plain challenge":    with(params, "code_challenge", otherVerifier, "code_challenge_method", "plain"),
			"the challenge padded": with(params, "code_challenge", params.Get("code_challenge")+"="),
		})
	}
	bare := authorization("web", "code_challenge", "", "code_challenge_method", "")
	s.tampered(alice, bare, map[string]url.Values{
		"a challenge added": with(bare, "code_challenge", challenge(otherVerifier), "code_challenge_method", "S256"),
		"a key added":       with(bare, "dpop_jkt", others["dpop_jkt"]),
	})
}

// RFC 9700, Section 2.1: "authorization servers MUST utilize exact string matching except
// for port numbers in localhost redirection URIs of native apps"; Section 4.1 has what
// happens otherwise.
func TestRequirement20_RedirectURIIsTheOneThatWasShown(t *testing.T) {
	t.Parallel()
	uris := []string{
		"https://client.example/callback", "https://client.example/callback/", "https://client.example/Callback",
		"https://client.example/callback?a=b", "https://client.example/callback?a=b&c=d", "https://CLIENT.example/callback", "https://client.example:443/callback",
		"com.example.app:/callback", "http://127.0.0.1/callback",
	}
	s := newSuite(t, withClients(testClient("many", func(c *authserver.Client) { c.RedirectURIs = uris })))
	alice := s.signIn("alice")
	all := append(slices.Clone(uris), "http://127.0.0.1:1111/callback", "http://127.0.0.1:2222/callback")
	for _, uri := range all {
		if uri == "http://127.0.0.1/callback" {
			continue // has a port in all that follows
		}
		params := authorization("many", "redirect_uri", uri)
		page := s.consentPage(alice, params)
		u := must(url.Parse(uri))
		if shown := cmp.Or(u.Host, u.Scheme); !strings.Contains(page.Text(), shown) {
			t.Errorf("the page does not show %q", shown)
		}
		changes := map[string]url.Values{}
		for _, other := range all {
			if other != uri {
				changes[other] = with(params, "redirect_uri", other)
			}
		}
		s.tampered(alice, params, changes)
		answer := page.Form("/consent").Submit("approve")
		got := s.issued(answer)
		if got == nil {
			t.Errorf("%s: nothing was issued", uri)
			continue
		}
		if location := answer.Header.Get("Location"); !strings.HasPrefix(strings.ToLower(location), strings.ToLower(strings.SplitN(uri, "?", 2)[0])) || u.RawQuery != "" && !strings.Contains(location, u.RawQuery) {
			t.Errorf("the browser was sent to %s, the page was for %s", location, uri)
		}
		if answer := s.redeem(s.server, "many", got.code, uri, verifier); answer.Error != "" {
			t.Errorf("%s: the code cannot be redeemed: %s", uri, answer.Error)
		}
	}
	// Nothing but what is registered is shown at all.
	for _, uri := range []string{"https://client.example/callback2", "https://client.example/callback%2f", "https://client.example/callback/../other", "https://client.example", "https://client.example/callback#x", "https://client.example.evil.example/callback", "https://client.example@evil.example/callback"} {
		if page := s.authorize(alice, authorization("many", "redirect_uri", uri)); page.Form("/consent") != nil || page.Location != nil {
			t.Errorf("%s: status %d", uri, page.Status)
		}
	}
}

// RFC 6749, Section 10.14: "The authorization server and client MUST sanitize (and
// validate when possible) any value received -- in particular, the value of the state and
// redirect_uri parameters."
func TestRequirement21_NothingThatCameInIsMarkup(t *testing.T) {
	t.Parallel()
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>'<a href="javascript:alert(1)">{{.}}&lt;b&gt;`
	s := newSuite(t, withClients(testClient("evil", func(c *authserver.Client) {
		c.Name = "Evil" + evil
		c.RedirectURIs = []string{callback, "https://client.example/callback?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"}
		c.URI = "https://client.example/%22onmouseover=alert(1)"
	})))
	alice := s.signIn("alice")
	looked := 0
	check := func(what string, page *useragent.Page) *useragent.Page {
		t.Helper()
		looked++
		for _, script := range page.Elements("script") {
			if src := useragent.Attribute(script, "src"); !strings.HasPrefix(src, "/assets/") || script.FirstChild != nil {
				t.Errorf("%s: a script %q", what, src)
			}
		}
		for _, name := range []string{"img", "a", "form", "input", "button", "link", "h1", "p", "strong", "span", "iframe", "object", "b"} {
			for _, n := range page.Elements(name) {
				for _, a := range n.Attr {
					if strings.HasPrefix(a.Key, "on") || strings.HasPrefix(strings.ToLower(strings.TrimSpace(a.Val)), "javascript:") {
						t.Errorf("%s: <%s %s=%q>", what, name, a.Key, a.Val)
					}
				}
				if name == "iframe" || name == "object" || name == "b" || name == "img" && useragent.Attribute(n, "src") == "x" {
					t.Errorf("%s: an element %s", what, name)
				}
			}
		}
		for _, script := range []string{"script-src 'unsafe", "'unsafe-inline'", "'unsafe-eval'"} {
			if strings.Contains(page.Header.Get("Content-Security-Policy"), script) {
				t.Errorf("%s: policy %s", what, page.Header.Get("Content-Security-Policy"))
			}
		}
		return page
	}
	params := authorization("evil", "state", evil, "nonce", evil, "login_hint", evil, "ui_locales", evil, "display", evil, "custom"+evil, evil)
	check("login", s.authorize(s.browser(), params))
	failed := s.authorize(s.browser(), params).Form("/login").Set("username", evil).Set("password", "wrong").Submit("")
	check("login refused", failed)
	page := check("consent", s.consentPage(alice, params))
	if !strings.Contains(page.Text(), "Evil"+strings.Join(strings.Fields(evil), " ")) {
		t.Errorf("the client's name is not shown as it is: %s", page.Text())
	}
	check("no such client", s.authorize(alice, with(params, "client_id", evil)))
	check("no such redirect URI", s.authorize(alice, with(params, "redirect_uri", "javascript:alert(1)//"+evil)))
	check("scope", s.authorize(alice, with(params, "scope", "openid "+evil)))
	check("another request", s.send(page.Form("/consent"), with(page.Form("/consent").Values("approve"), "authorization_request", with(params, "state", evil+"x").Encode())))
	check("a bad form", s.send(page.Form("/consent"), url.Values{evil: {evil}}))
	got := page.Form("/consent").Submit("approve")
	if d := got.Delivery(); d == nil || d.Values.Get("state") != evil || strings.ContainsAny(got.Header.Get("Location"), "<>\"' ") {
		t.Errorf("the state did not come back as it was, or not encoded: %q", got.Header.Get("Location"))
	}
	for _, button := range []string{"approve", "deny"} {
		form := check("form_post", s.consentPage(alice, with(params, "response_mode", "form_post", "redirect_uri", "https://client.example/callback?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")).Form("/consent").Submit(button))
		if d := form.Delivery(); d == nil || d.Mode != "form_post" || d.Values.Get("state") != evil {
			t.Errorf("form_post: %+v", form.Delivery())
		}
	}
	if looked != 10 {
		t.Errorf("%d pages were looked at", looked)
	}
}

// OpenID Connect Core 1.0, Section 3.1.2.1: "max_age: Maximum Authentication Age. [...] If
// the elapsed time is greater than this value, the OP MUST attempt to actively
// re-authenticate the End-User."
func TestRequirement22_LoginIsNotTooOldWhenTheResponseIsMade(t *testing.T) {
	t.Parallel()
	t.Run("at the server", func(t *testing.T) {
		s := newSuite(t)
		alice := s.signIn("alice")
		params := authorization("web", "max_age", "600")
		page := s.consentPage(alice, params)
		s.age(10*time.Minute + time.Second)
		answer := page.Form("/consent").Submit("approve")
		s.nothingIssued(answer)
		s.wantCount(0, 0, 0)
		if answer.Form("/login") == nil {
			t.Fatalf("no login page but status %d, %s", answer.Status, answer.Text())
		}
		// After a new login there is a new page, and auth_time is the new one.
		page = s.signInAt(answer, "alice")
		got := s.approve(page)
		tokens := s.redeem(s.server, "web", got.code, callback, verifier)
		var claims struct {
			AuthTime int64 `json:"auth_time"`
		}
		if err := s.idToken(s.server, "web", tokens.IDToken).Claims(&claims); err != nil {
			t.Fatal(err)
		}
		if age := time.Since(time.Unix(claims.AuthTime, 0)); age > 5*time.Minute {
			t.Errorf("auth_time is %v ago", age)
		}
		// Without max_age the same page would have been good.
		page = s.consentPage(alice, with(params, "max_age", ""))
		s.age(10*time.Minute + time.Second)
		s.approve(page)
		// The page is not shown at all when it is too late by then.
		if page := s.authorize(alice, params); page.Form("/login") == nil {
			t.Errorf("no login page but status %d", page.Status)
		}
		if d := s.authorize(alice, with(params, "prompt", "none")).Delivery(); d == nil || d.Values.Get("error") != "login_required" {
			t.Errorf("prompt=none: %+v", d)
		}
	})
	t.Run("at the gate", func(t *testing.T) {
		h := newHost(t, nil)
		for _, scope := range []string{"openid photos.read", "photos.read"} { // fosite looks only where there is openid
			params := authorization("app", "max_age", "600", "scope", scope)
			token := h.mint(params, "alice")
			if _, err := h.respond(h.request(params), login("alice", 11*time.Minute), token); err == nil {
				t.Errorf("%s: a response was made for a login that is too old", scope)
			} else if got := fosite.ErrorToRFC6749Error(err).ErrorField; got != "login_required" {
				t.Errorf("%s: %s", scope, got)
			}
			if got := h.stored(); got != nothingStored {
				t.Errorf("%s: the storage has %s", scope, got)
			}
			if _, err := h.respond(h.request(params), login("alice", 9*time.Minute), token); err != nil {
				t.Errorf("%s: %s", scope, explain(err))
			}
			h.forget()
		}
	})
}

// age makes every login in the database older, in place of waiting.
func (s *suite) age(by time.Duration) {
	s.t.Helper()
	aged, err := s.pool.Exec(context.Background(), `UPDATE sessions SET data = convert_to(jsonb_set(text::jsonb, '{values,auth_time}',
			to_jsonb(((text::jsonb #>> '{values,auth_time}')::bigint - $1::bigint)::text))::text, 'UTF8')
		FROM (SELECT token AS of, convert_from(data, 'UTF8') AS text FROM sessions WHERE data <> '') AS stored
		WHERE token = of AND text::jsonb #>> '{values,auth_time}' <> ''`, by.Microseconds())
	if err != nil {
		s.t.Fatal(err)
	}
	if aged.RowsAffected() == 0 {
		s.t.Fatal("there is no login to make older")
	}
}
