package integration_test

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// Pushed authorization requests (RFC 9126) from the push to the tokens: what the
// project's list of requirements has as number 14.

// push has the client push its request, and returns what it sends the browser with.
func (s *suite) push(params url.Values) url.Values {
	s.t.Helper()
	var pushed struct {
		RequestURI string `json:"request_uri"`
		Error      string `json:"error"`
	}
	clientID := params.Get("client_id")
	if status := s.post(s.server, "/oauth2/par", clientID, clone(params), &pushed); status != http.StatusCreated || pushed.RequestURI == "" {
		s.t.Fatalf("pushed by %s: status %d, %q", clientID, status, pushed.Error)
	}
	s.site.Forbid("a request_uri", pushed.RequestURI)
	return url.Values{"client_id": {clientID}, "request_uri": {pushed.RequestURI}}
}

// noWayBack fails the test unless the page says, here and to nobody else, that the
// request is none.
func (s *suite) noWayBack(what string, page *useragent.Page) {
	s.t.Helper()
	if page.Status != http.StatusBadRequest || page.Delivery() != nil || page.Form("/login") != nil || !strings.Contains(page.Text(), "not known to this server, or has expired") {
		s.t.Errorf("%s: status %d, delivery %+v, %s", what, page.Status, page.Delivery(), page.Text())
	}
}

// RFC 9126, Section 4: "Authorization servers SHOULD treat request_uri values as one-time
// use but MAY allow for duplicate requests due to a user reloading/refreshing their user
// agent." The pages come and go, and the request stays until it is answered.
func TestRequirement14_PushedRequestOutlivesItsPages(t *testing.T) {
	t.Parallel()
	signer := testClient("signer", func(c *authserver.Client) { c.JWKS, c.RequestObjectSigningAlg = publicKeys(), "ES256" })
	s := newSuite(t, withClients(signer))
	object, inside := objectRequest(t, "signer", "ES256", "prompt", "login", "max_age", "600")
	for name, test := range map[string]struct{ params, means url.Values }{
		"of a confidential client": {params: authorization("web")},
		"of a public client":       {params: authorization("app", "response_type", "code id_token", "response_mode", "form_post")},
		"that wants a fresh login": {params: authorization("web", "prompt", "login consent", "login_hint", "alice")},
		"as a request object":      {object, inside},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			if test.means == nil {
				test.means = test.params
			}
			link := s.push(test.params)
			browser := s.browser()
			var last *useragent.Page
			login := func() *useragent.Page {
				t.Helper()
				last = s.authorize(browser, link)
				form := last.Form("/login")
				if form == nil {
					t.Fatalf("no login page but status %d, %s", last.Status, last.Text())
				}
				// What goes through the page is what the client has sent, and no more.
				if got := form.Values("").Get("authorization_request"); got != link.Encode() {
					t.Errorf("the login page passes on %q", got)
				}
				return last
			}
			login()
			login() // reload
			wrong := last.Form("/login").Set("username", "alice").Set("password", "not her password").Submit("")
			page := s.signInAt(wrong, "alice")
			if page.URL.RawQuery != link.Encode() {
				t.Errorf("after the login the address has %q", page.URL.RawQuery)
			}
			first := page
			for range 2 { // reload
				page = s.consentPage(browser, link)
			}
			if got := page.Form("/consent").Values("")["authorization_request"]; !slices.Equal(got, []string{link.Encode()}) {
				t.Errorf("the consent page passes on %q", got)
			}
			// "Not you?", and back.
			s.signInAt(page.Form("/logout").Submit(""), "alice")
			page = s.consentPage(browser, link)
			s.nothingIssued(first.Form("/consent").Submit("approve")) // of the login that is over
			back := s.consentPage(browser, link)
			s.consentPage(browser, link) // a tab more, and the page is still good
			allOf(test.means, "alice").check(s, s.server, s.approve(back))
			// The back button, to the page that was answered, and to another one.
			again := back.Form("/consent").Submit("approve")
			s.nothingIssued(again)
			if strings.Contains(test.means.Get("prompt"), "login") { // which was for the request that is answered
				s.signInAt(again, "alice")
			} else if again.Status != http.StatusConflict || !strings.Contains(again.Text(), "already been answered") || len(again.Elements("a")) != 0 {
				t.Errorf("answered twice: status %d, %s", again.Status, again.Text())
			}
			if answer := page.Form("/consent").Submit("approve"); s.issued(answer) != nil {
				t.Error("the request_uri is good twice")
			}
		})
	}
	s.codesAreThoseOfConsumedGrants()
}

// RFC 9126, Section 2.2: "The request_uri value MUST be bound to the client that posted the
// authorization request." Another client can neither use it nor use it up.
func TestRequirement14_RequestURIIsGoodForItsClientAlone(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	params := authorization("web")
	link := s.push(params)
	alice, nobody := s.signIn("alice"), s.browser()
	page := s.consentPage(alice, link)
	for what, other := range map[string]url.Values{
		"another client":              with(link, "client_id", "mallory"),
		"a public client":             with(link, "client_id", "app"),
		"a client that is not there":  with(link, "client_id", "nobody"),
		"no client":                   with(link, "client_id", ""),
		"another client's whole":      authorization("mallory", "request_uri", link.Get("request_uri")),
		"a request_uri that is not":   with(link, "request_uri", link.Get("request_uri")+"x"),
		"a request_uri in upper case": with(link, "request_uri", strings.ToUpper(link.Get("request_uri"))),
	} {
		for _, browser := range []*useragent.Agent{nobody, alice} {
			answer := s.authorize(browser, other)
			if answer.Status != http.StatusBadRequest || answer.Delivery() != nil || len(answer.Forms) != 0 {
				t.Errorf("%s: status %d, delivery %+v, %s", what, answer.Status, answer.Delivery(), answer.Text())
			}
		}
		// Nor does it in the form of the page.
		answer := page.Form("/consent").Set("authorization_request", other.Encode()).Submit("approve")
		if s.nothingIssued(answer); answer.Delivery() != nil {
			t.Errorf("%s: %+v", what, answer.Delivery())
		}
	}
	s.wantCount(0, 0, 0)
	page.Form("/consent").Set("authorization_request", link.Encode())
	allOf(params, "alice").check(s, s.server, s.approve(page))
}

// An approval of one pushed request is none of another, even if both say the same.
func TestRequirement14_ConsentToOneIsNoneToAnother(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	params := authorization("web")
	first, second := s.push(params), s.push(params)
	page := s.consentPage(alice, first)
	for what, other := range map[string]url.Values{"the same pushed again": second, "the same unpushed": params} {
		answer := page.Form("/consent").Set("authorization_request", other.Encode()).Submit("approve")
		if s.nothingIssued(answer); answer.Status != http.StatusConflict || answer.Form("/consent") == nil {
			t.Errorf("%s: status %d, %s", what, answer.Status, answer.Text())
		}
	}
	s.wantCount(0, 0, 0)
	page.Form("/consent").Set("authorization_request", first.Encode())
	allOf(params, "alice").check(s, s.server, s.approve(page))
	allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(alice, second)))
}

// RFC 9126, Section 7.3: "the authorization server SHOULD make the request URIs one-time
// use." Of all tabs, in two processes, one gets the code; the others are sent back to the
// client, which hears why.
func TestRequirement14_OneCodeForEachRequestURI(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	other := s.site.Start()
	alice := s.signIn("alice")
	params := authorization("web")
	link := s.push(params)

	// A denial is no response that would use it up.
	denied := s.consentPage(alice, link)
	if d := denied.Form("/consent").Submit("deny").Delivery(); d == nil || d.Values.Get("error") != "access_denied" {
		t.Errorf("denied: %+v", d)
	}
	const tabs = 8
	pages, answers := make([]*useragent.Page, tabs), make([]*useragent.Page, tabs)
	for i := range pages {
		pages[i] = s.consentPage([]*useragent.Agent{alice, alice.At(other)}[i%2], link)
	}
	start := make(chan struct{})
	var all sync.WaitGroup
	for i, page := range pages {
		all.Go(func() {
			<-start
			answers[i] = page.Form("/consent").Submit("approve")
		})
	}
	close(start)
	all.Wait()
	lost := func(what string, answer *useragent.Page) {
		t.Helper()
		d := answer.Delivery()
		if d == nil || d.URI != callback || d.Values.Get("error") != "invalid_request_uri" || !slices.Equal(d.Values["state"], params["state"]) || d.Values.Has("code") {
			t.Errorf("%s: status %d, delivery %+v, %s", what, answer.Status, d, answer.Text())
		}
	}
	var won *issued
	for _, answer := range answers {
		switch got := s.issued(answer); {
		case got == nil:
			lost("a tab that lost", answer)
		case won != nil:
			t.Error("two tabs have won")
		default:
			won = got
		}
	}
	if won == nil {
		t.Fatal("no tab has won")
	}
	// Whoever comes later, with a page from before or with a new one.
	lost("a page that is opened afterwards", s.consentPage(alice, link).Form("/consent").Submit("approve"))
	s.wantCount(1, 1, 1) // the approvals that lost are not spent for nothing, but undone
	s.codesAreThoseOfConsumedGrants()
	allOf(params, "alice").check(s, s.server, won)
	for _, server := range []*authserver.Server{s.server, other} {
		if reasons := server.Decisions(0); !slices.Contains(reasons, "approve request_uri_used") {
			t.Errorf("the reason is not in the log: %q", reasons)
		}
	}
}

// RFC 9126, Section 4: "An expired request_uri MUST be rejected as invalid."
func TestRequirement14_ExpiredRequestURIIsRefused(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	params := authorization("web")
	expire := func() {
		t.Helper()
		if _, err := s.pool.Exec(context.Background(), "UPDATE consent_pushed_requests SET expires_at = statement_timestamp()"); err != nil {
			t.Fatal(err)
		}
	}
	link := s.push(params)
	nobody := s.browser()
	login, page := s.authorize(nobody, link), s.consentPage(alice, link)
	expire()
	s.noWayBack("the link", s.authorize(alice, link))
	s.noWayBack("the link, for nobody", s.authorize(s.browser(), link))
	s.noWayBack("after the login", s.signInAt(login, "alice"))
	for _, button := range []string{"approve", "deny"} {
		answer := page.Form("/consent").Submit(button)
		if s.nothingIssued(answer); answer.Status != http.StatusBadRequest || answer.Delivery() != nil || !strings.Contains(answer.Text(), "can no longer be answered") {
			t.Errorf("%s: status %d, delivery %+v, %s", button, answer.Status, answer.Delivery(), answer.Text())
		}
	}
	s.wantCount(0, 0, 0)

	// Also the one that was used.
	link = s.push(params)
	allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(alice, link)))
	expire()
	s.noWayBack("the link of a request that was answered", s.authorize(alice, link))
}

// RFC 9101, Section 6.3, which RFC 9126, Section 4 builds on: "The authorization server MUST
// only use the parameters in the Request Object, even if the same parameter is provided in
// the query parameter."
func TestRequirement14_ParametersBesideAPushedRequestChangeNothing(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	params := authorization("web")
	more := url.Values{
		"response_type": {"code id_token token"}, "response_mode": {"fragment"}, "redirect_uri": {otherCallback, "https://evil.example/"},
		"scope": {allScopes}, "audience": {otherAPI}, "resource": {otherAPI}, "state": {"another state than this"}, "nonce": {"another nonce than this"},
		"code_challenge": {challenge(otherVerifier)}, "code_challenge_method": {"plain"}, "prompt": {"none"}, "max_age": {"0"},
		"login_hint": {"bob"}, "claims": {`{"id_token":{"email":null}}`}, "authorization_details": {`[{"type":"payment"}]`}, "dpop_jkt": {"x"}, "shoe_size": {"43"},
	}
	beside := func(names ...string) url.Values {
		link := s.push(params)
		for _, name := range names {
			link[name] = more[name]
		}
		return link
	}
	for _, name := range slices.Sorted(maps.Keys(more)) {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			browser := s.browser()
			page := s.signInAt(s.authorize(browser, beside(name)), "alice")
			if page.Form("/consent") == nil {
				t.Fatalf("no consent page but status %d, %s", page.Status, page.Text())
			}
			allOf(params, "alice").check(s, s.server, s.approve(page))
		})
	}
	alice := s.signIn("alice")
	all := beside(slices.Collect(maps.Keys(more))...)
	page := s.consentPage(alice, all)
	page.Form("/consent").Set("authorization_request", all.Encode()) // and in the form
	allOf(params, "alice").check(s, s.server, s.approve(page))

	// A client may also post it.
	link := s.push(params)
	page = must(alice.Do(useragent.Request{Method: http.MethodPost, URL: "/oauth2/auth", Body: all.Encode(), Header: http.Header{"Origin": {"https://client.example"}, "Sec-Fetch-Site": {"cross-site"}}}))
	if page.URL.RawQuery != with(link, "request_uri", all.Get("request_uri")).Encode() {
		t.Errorf("posted, it leads to %q", page.URL.RawQuery)
	}
	// With a request object there, too, nobody can say which of them is meant.
	if answer := s.authorize(alice, with(link, "request", requestObject(t, "none", map[string]any{"client_id": "web"}))); answer.Status != http.StatusBadRequest || answer.Delivery() != nil || len(answer.Forms) != 0 {
		t.Errorf("with a request object: status %d, %s", answer.Status, answer.Text())
	}
}

// RFC 9126, Section 4: "Authorization server policy MAY dictate, either globally or on a
// per-client basis, that PAR be the only means for a client to pass authorization request
// data. In this case, the authorization server will refuse, using the invalid_request error
// code, to process any request to the authorization endpoint that does not have a
// request_uri parameter with a value obtained from the PAR endpoint."
func TestRequirement14_ClientThatHasToPush(t *testing.T) {
	t.Parallel()
	s := newSuite(t, withClients(testClient("bank", func(c *authserver.Client) { c.RequirePushedRequests, c.JWKS = true, publicKeys() })))
	alice := s.signIn("alice")
	params := authorization("bank")
	object, _ := objectRequest(t, "bank", "ES256")
	for what, params := range map[string]url.Values{
		"plain": params, "in a form": with(params, "response_mode", "form_post"), "for no page": with(params, "prompt", "none"), "in a request object": object,
	} {
		page := s.authorize(alice, params)
		s.nothingIssued(page)
		if d := page.Delivery(); d == nil || d.URI != callback || d.Values.Get("error") != "invalid_request" || d.Values.Get("state") != "the state of this request" {
			t.Errorf("%s: status %d, delivery %+v, %s", what, page.Status, d, page.Text())
		}
	}
	// What a page of a pushed request says is good for that request, and so for no plain one.
	page := s.consentPage(alice, s.push(params))
	answer := page.Form("/consent").Set("authorization_request", params.Encode()).Submit("approve")
	if s.nothingIssued(answer); answer.Status != http.StatusBadRequest {
		t.Errorf("status %d, %s", answer.Status, answer.Text())
	}
	s.wantCount(0, 0, 0)
	allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(alice, s.push(params))))
}
