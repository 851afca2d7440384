package integration_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/hydranpm"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// Hydra's public reference application for login and consent, as it is on npm, has the pages of the example server.
func TestNodeReferenceApplication(t *testing.T) {
	t.Parallel()
	there := newPages(t)
	client := newClientSite(t)
	s := newSuite(t, withClients(), func(c *authserver.Config) {
		for i := range c.Clients {
			c.Clients[i].RedirectURIs = []string{client.callback()}
		}
	}, there.at)
	there.leadTo(t, hydranpm.StartReferenceApp(t, s.server.API()))
	v := &visit{suite: s, t: t, client: client}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A person who reads nothing: what a page asks is answered, until the client is there.
	browser := &http.Client{Jar: jar, Timeout: time.Minute}
	visit := func(address string, answers ...url.Values) {
		t.Helper()
		response, err := browser.Get(address)
		for err == nil {
			var body []byte
			if body, err = io.ReadAll(response.Body); err != nil {
				break
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Fatalf("%s: status %d, %s", response.Request.URL, response.StatusCode, body)
			}
			if len(answers) == 0 {
				return
			}
			fields, action := hidden(t, response.Request.URL, string(body))
			for name, values := range answers[0] {
				fields[name] = values
			}
			answers = answers[1:]
			response, err = browser.PostForm(action, fields)
		}
		t.Fatal(err)
	}
	login := url.Values{"email": {"foo@bar.com"}, "password": {"foobar"}, "submit": {"Log in"}, "remember": {"1"}}
	approve := url.Values{"grant_scope": {"openid", "photos.read", "offline_access"}, "submit": {"Allow access"}, "remember": {"1"}}
	scopes := []string{"openid", "photos.read", "offline_access"} // the last of which its one box has remembered, too

	first := v.asks("web", scopes)
	visit(first.address, login, approve)
	v.redeems(first, client.arrived(t, 1)[0], scopes...)

	again := v.asks("web", scopes) // its login page has nothing to ask, and the decision was remembered
	visit(again.address)
	v.redeems(again, client.arrived(t, 2)[1], scopes...)

	more := v.asks("web", []string{"openid", "photos.read", "photos.write", "offline_access"})
	visit(more.address, url.Values{"submit": {"Deny access"}})
	if got := client.arrived(t, 3)[2]; got.values.Get("error") != "access_denied" || got.values.Has("code") || got.values.Get("state") != more.state {
		t.Errorf("the client got %v", got.values)
	}
}

// hidden returns the hidden fields of the page's form, and where it is sent to.
func hidden(t *testing.T, page *url.URL, body string) (fields url.Values, action string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	fields = url.Values{}
	for n := range doc.Descendants() {
		switch {
		case n.Type != html.ElementNode:
		case n.Data == "form":
			to, err := page.Parse(useragent.Attribute(n, "action"))
			if err != nil {
				t.Fatal(err)
			}
			action = to.String()
		case n.Data == "input" && useragent.Attribute(n, "type") == "hidden":
			fields.Set(useragent.Attribute(n, "name"), useragent.Attribute(n, "value"))
		}
	}
	if action == "" {
		t.Fatalf("%s has no form: %s", page, body)
	}
	return fields, action
}
