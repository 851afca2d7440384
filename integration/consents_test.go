package integration_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// remember answers the page with an approval that is to be remembered, for as long as named.
func (s *suite) remember(page *useragent.Page, lasting string) *issued {
	s.t.Helper()
	page.Form("/consent").Tick("remember").Tick("remember_offline").Set("remember_for", lasting)
	return s.approve(page)
}

// silent expects that the request is answered without a page.
func (s *suite) silent(a *useragent.Agent, params url.Values) *issued {
	s.t.Helper()
	page := s.authorize(a, params)
	i := s.issued(page)
	if i == nil {
		s.t.Fatalf("nothing was issued without a page: status %d, delivery %+v", page.Status, page.Delivery())
	}
	return i
}

// asked fails the test unless the request leads to the page.
func (s *suite) asked(a *useragent.Agent, params url.Values) {
	s.t.Helper()
	s.consentPage(a, params)
	if d := s.authorize(a, with(params, "prompt", "none")).Delivery(); d == nil || d.Values.Get("error") != "consent_required" {
		s.t.Errorf("prompt=none is answered with %+v", d)
	}
}

// takeBack answers the confirmation for one client, or for all, and returns the page after it.
func (s *suite) takeBack(a *useragent.Agent, clientID string) *useragent.Page {
	s.t.Helper()
	button, path := "all", takeBack
	if clientID != "" {
		button, path = "one", takeBack+"?client="+url.QueryEscape(clientID)
	}
	form := a.Open(a.URL(path)).Form(takeBack)
	if form == nil {
		s.t.Fatalf("nothing is there to be taken back from %q", clientID)
	}
	page := form.Submit(button)
	if page.Status != http.StatusOK || page.URL.Path != applications {
		s.t.Fatalf("status %d at %s: %s", page.Status, page.URL.Path, page.Text())
	}
	return page
}

// refresh uses a refresh token at a process.
func (s *suite) refresh(server *authserver.Server, clientID, token string) tokens {
	s.t.Helper()
	return s.tokenRequest(server, clientID, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// Whatever one process has issued, by a page or without one, is gone when another has taken it back:
// codes that nobody has redeemed, access and refresh tokens. What is another's stays.
func TestTakenBackAtOneProcessIsGoneAtAll(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	other := s.site.Start()
	alice, bob := s.signIn("alice"), s.signIn("bob")
	params := authorization("web")
	code := func(a *useragent.Agent) string { return s.silent(a, params).code }

	s.remember(s.consentPage(alice, params), "always")
	s.remember(s.consentPage(bob, params), "always")
	s.remember(s.consentPage(alice, authorization("mallory")), "always")
	web := s.redeem(s.server, "web", code(alice.At(other)), callback, verifier)
	renewed := s.refresh(s.server, "web", s.redeem(s.server, "web", code(alice), callback, verifier).RefreshToken)
	bobs := s.redeem(s.server, "web", code(bob), callback, verifier)
	mallorys := s.redeem(s.server, "mallory", s.silent(alice, authorization("mallory")).code, callback, verifier)
	once := s.redeem(s.server, "web", s.approve(s.consentPage(alice, with(params, "prompt", "consent"))).code, callback, verifier)
	pending := map[string]string{"by a page": s.approve(s.consentPage(alice, with(params, "prompt", "consent"))).code, "without one": code(alice), "at the other process": code(alice.At(other))}
	open := s.consentPage(alice, with(params, "prompt", "consent")) // decided on only after that

	page := s.takeBack(alice.At(other), "web")
	if !strings.Contains(page.Text(), "The client web has no access any more") || !strings.Contains(page.Text(), "The client mallory") {
		t.Errorf("the page says %s", page.Text())
	}
	for what, code := range pending {
		for _, server := range []*authserver.Server{s.server, other} {
			if got := s.redeem(server, "web", code, callback, verifier); got.Error != "invalid_grant" {
				t.Errorf("a code, issued %s, brings status %d", what, got.status)
			}
		}
	}
	for what, had := range map[string]tokens{"silent": web, "renewed": renewed, "once": once} {
		for _, server := range []*authserver.Server{s.server, other} {
			if s.introspect(server, had.AccessToken).Active {
				t.Errorf("%s: the access token is good", what)
			}
			if got := s.refresh(server, "web", had.RefreshToken); got.Error != "invalid_grant" {
				t.Errorf("%s: the refresh token brings status %d", what, got.status)
			}
		}
	}
	s.asked(alice, params)
	s.asked(alice.At(other), params)

	// What is bob's, or mallory's, is as it was.
	if got := s.refresh(other, "web", bobs.RefreshToken); got.AccessToken == "" {
		t.Errorf("bob's: %s", got.Error)
	}
	s.silent(bob, params)
	if got := s.refresh(other, "mallory", mallorys.RefreshToken); got.AccessToken == "" {
		t.Errorf("mallory's: %s", got.Error)
	}
	s.silent(alice, authorization("mallory"))

	// A page that was open meanwhile is a decision of its own, after it.
	if got := s.redeem(s.server, "web", s.approve(open).code, callback, verifier); got.AccessToken == "" || !s.introspect(s.server, got.AccessToken).Active {
		t.Errorf("what was allowed afterwards: %s", got.Error)
	}

	if page := s.takeBack(alice, ""); !strings.Contains(page.Text(), "No application has access any more") {
		t.Errorf("the page says %s", page.Text())
	}
	s.asked(alice, authorization("mallory"))
	s.silent(bob, params)
}

// A decision that was to be remembered for a time is over after that, and so is what was
// issued under it.
func TestRememberedForATimeEnds(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	alice := s.signIn("alice")
	params := authorization("web")
	s.remember(s.consentPage(alice, params), "30-days")
	had := s.redeem(s.server, "web", s.silent(alice, params).code, callback, verifier)
	pending := s.silent(alice, params).code
	if had = s.refresh(s.server, "web", had.RefreshToken); had.AccessToken == "" {
		t.Fatalf("before that: %s", had.Error)
	}
	expire := func(interval string) {
		t.Helper()
		tag, err := s.pool.Exec(context.Background(), `UPDATE consent_consents SET expires_at = statement_timestamp() + $1::interval`, interval)
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("%v, %v", tag, err)
		}
	}
	expire("1 minute")
	s.silent(alice, params)
	expire("0")
	s.asked(alice, params)
	if got := s.refresh(s.server, "web", had.RefreshToken); got.Error != "invalid_grant" {
		t.Errorf("the refresh token brings status %d", got.status)
	}
	if got := s.redeem(s.server, "web", pending, callback, verifier); got.Error != "invalid_grant" {
		t.Errorf("the code brings status %d", got.status)
	}
	if page := alice.Open(alice.URL(applications)); !strings.Contains(page.Text(), "No application has access.") {
		t.Errorf("the page says %s", page.Text())
	}
}

// A client whose registration has changed since is not the one that was approved; one that is not
// there any more is listed by its id.
func TestRememberedIsTheClientThatWasShown(t *testing.T) {
	t.Parallel()
	const issuer = "https://as.example"
	s := newSuite(t, func(c *authserver.Config) { c.Issuer = issuer })
	params := authorization("web")
	alice := s.signIn("alice")
	s.remember(s.consentPage(alice, params), "always")
	s.remember(s.consentPage(alice, authorization("mallory")), "always")
	for name, change := range map[string]func(*authserver.Client){
		"another name": func(c *authserver.Client) { c.Name = "Another client" },
		"a logo":       func(c *authserver.Client) { c.LogoURI = "https://client.example/logo.png" },
		"a policy":     func(c *authserver.Client) { c.PolicyURI = "https://client.example/policy" },
		"a redirect URI more": func(c *authserver.Client) {
			c.RedirectURIs = append(c.RedirectURIs[:2:2], "https://client.example/third")
		},
		"nothing but a secret": func(c *authserver.Client) { c.Secret += " and more" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSuite(t, func(c *authserver.Config) {
				c.DatabaseURL, c.Issuer = s.database, issuer
				c.Clients = []authserver.Client{testClient("web", change)}
			})
			alice := s.signIn("alice")
			if name == "nothing but a secret" {
				s.silent(alice, params)
			} else {
				s.asked(alice, params)
			}
			page := alice.Open(alice.URL(applications)).Text()
			if !strings.Contains(page, "mallory This application is not registered here any more.") || strings.Contains(page, "The client mallory") {
				t.Errorf("the page says %s", page)
			}
		})
	}
	s = newSuite(t, func(c *authserver.Config) {
		c.DatabaseURL, c.Issuer = s.database, issuer
		c.Clients = []authserver.Client{testClient("web", nil)}
	})
	alice = s.signIn("alice")
	if page := s.takeBack(alice, "mallory"); !strings.Contains(page.Text(), "mallory has no access any more") {
		t.Errorf("the page says %s", page.Text())
	}
	s.silent(alice, params)
}
