package integration_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
)

// party is a relying party made of libraries that others wrote: x/oauth2 and go-oidc.
type party struct {
	s        *suite
	ctx      context.Context
	http     *http.Client
	provider *oidc.Provider
	oauth2   oauth2.Config
}

func (s *suite) party(clientID string, scopes ...string) *party {
	s.t.Helper()
	p := &party{s: s, http: clientFor(s.server)}
	p.ctx = oidc.ClientContext(context.Background(), p.http)
	var err error
	if p.provider, err = oidc.NewProvider(p.ctx, s.server.URL); err != nil {
		s.t.Fatal(err)
	}
	endpoint := p.provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if s.clients[clientID].Secret == "" {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	p.oauth2 = oauth2.Config{
		ClientID: clientID, ClientSecret: s.clients[clientID].Secret, Endpoint: endpoint, RedirectURL: callback, Scopes: scopes,
	}
	return p
}

func TestRealClientsGetTheirTokens(t *testing.T) {
	t.Parallel()
	for _, clientID := range []string{"web", "app"} {
		t.Run(clientID, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t)
			p := s.party(clientID, oidc.ScopeOpenID, "profile", oidc.ScopeOfflineAccess, "photos.read")
			state, nonce, proof := oauth2.GenerateVerifier(), oauth2.GenerateVerifier(), oauth2.GenerateVerifier()

			// The browser is led from the client to the password, to consent and back.
			browser := s.browser()
			page := browser.Open(p.oauth2.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(proof)))
			page = s.signInAt(page, "alice")
			if page.Form("/consent") == nil {
				t.Fatalf("no consent page after the login but: %s", page.Text())
			}
			s.wantCount(0, 0, 0)
			got := s.approve(page)
			s.wantCount(1, 0, 1)
			if got.Mode != "query" || got.URI != callback || got.Values.Get("state") != state {
				t.Fatalf("delivered by %s to %s with the state %q", got.Mode, got.URI, got.Values.Get("state"))
			}

			token, err := p.oauth2.Exchange(p.ctx, got.code, oauth2.VerifierOption(proof))
			if err != nil {
				t.Fatal(err)
			}
			raw, _ := token.Extra("id_token").(string)
			for what, secret := range map[string]string{"an access token": token.AccessToken, "a refresh token": token.RefreshToken, "an ID token": raw} {
				s.site.Forbid(what, secret)
			}
			idToken, err := p.provider.Verifier(&oidc.Config{ClientID: clientID}).Verify(p.ctx, raw)
			if err != nil {
				t.Fatal(err)
			}
			var claims struct {
				AuthTime int64 `json:"auth_time"`
			}
			if err := idToken.Claims(&claims); err != nil {
				t.Fatal(err)
			}
			if idToken.Subject != "alice" || idToken.Nonce != nonce || claims.AuthTime == 0 {
				t.Errorf("the ID token is about %q with nonce %q and auth_time %d", idToken.Subject, idToken.Nonce, claims.AuthTime)
			}
			if err := idToken.VerifyAccessToken(token.AccessToken); err != nil {
				t.Errorf("at_hash: %v", err)
			}
			info, err := p.provider.UserInfo(p.ctx, oauth2.StaticTokenSource(token))
			if err != nil || info.Subject != "alice" {
				t.Errorf("userinfo: %v, %v", info, err)
			}
			if in := s.introspect(s.server, token.AccessToken); !in.Active || sorted(in.Scope) != sorted("openid profile offline_access photos.read") || in.ClientID != clientID || in.Subject != "alice" {
				t.Errorf("introspection says %+v", in)
			}

			// A code is good once, and with its proof.
			if _, err := p.oauth2.Exchange(p.ctx, got.code, oauth2.VerifierOption(proof)); err == nil {
				t.Error("the code was exchanged twice")
			}
		})
	}
}

func TestRealClientRefreshesAndRevokes(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.party("web", oidc.ScopeOpenID, oidc.ScopeOfflineAccess)
	proof := oauth2.GenerateVerifier()
	page := s.signIn("alice").Open(p.oauth2.AuthCodeURL(oauth2.GenerateVerifier(), oauth2.S256ChallengeOption(proof)))
	token, err := p.oauth2.Exchange(p.ctx, s.approve(page).code, oauth2.VerifierOption(proof))
	if err != nil {
		t.Fatal(err)
	}

	expired := *token
	expired.Expiry = time.Now().Add(-time.Minute)
	fresh, err := p.oauth2.TokenSource(p.ctx, &expired).Token()
	if err != nil {
		t.Fatal(err)
	}
	s.site.Forbid("an access token", fresh.AccessToken)
	if fresh.AccessToken == token.AccessToken || fresh.RefreshToken == token.RefreshToken {
		t.Error("a refresh did not replace the tokens")
	}
	s.wantCount(1, 0, 1) // a refresh needs no decision

	if !s.introspect(s.server, fresh.AccessToken).Active {
		t.Error("the new access token is not active")
	}
	if status := s.post(s.server, "/oauth2/revoke", "web", url.Values{"token": {fresh.RefreshToken}}, new(any)); status != http.StatusOK {
		t.Errorf("revocation: status %d", status)
	}
	if s.introspect(s.server, fresh.AccessToken).Active || s.introspect(s.server, fresh.RefreshToken).Active {
		t.Error("a token is still active after the revocation")
	}
	if answer := s.tokenRequest(s.server, "web", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {fresh.RefreshToken}}); answer.Error == "" {
		t.Error("a revoked refresh token was exchanged")
	}
}

func TestDenialReachesTheRealClient(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	p := s.party("app", oidc.ScopeOpenID)
	page := s.signIn("bob").Open(p.oauth2.AuthCodeURL("a state that is long enough", oauth2.S256ChallengeOption(verifier)))
	answer := page.Form("/consent").Submit("deny")
	s.nothingIssued(answer)
	d := answer.Delivery()
	if d == nil || d.URI != callback || d.Values.Get("error") != "access_denied" || d.Values.Get("state") != "a state that is long enough" {
		t.Fatalf("the client got %+v", d)
	}
	s.wantCount(0, 1, 0)
}

// Behind a proxy that ends TLS the server is https to everybody, and its cookie is
// one that only it can have set.
func TestServerBehindTLS(t *testing.T) {
	t.Parallel()
	s := newSuite(t, func(c *authserver.Config) { c.Issuer = "https://login.example" })
	browser := s.signIn("alice")
	cookies := browser.Cookies()
	if len(cookies) != 1 || !strings.HasPrefix(cookies[0].Name, "__Host-") {
		t.Errorf("cookies: %v", cookies)
	}
	got := s.approve(s.consentPage(browser, authorization("web")))
	answer := s.redeem(s.server, "web", got.code, callback, verifier)
	if answer.Error != "" {
		t.Fatal(answer.Error)
	}
	if id := s.idToken(s.server, "web", answer.IDToken); id.Issuer != "https://login.example" {
		t.Errorf("issuer %q", id.Issuer)
	}
}
