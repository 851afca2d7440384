package integration_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
)

// One flow from process to process, each of which is killed as soon as it has answered:
// all that they have in common is the database.
func TestEveryProcessCanBeKilledAfterEachStep(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	next := func() {
		t.Helper()
		following := s.site.Start()
		s.server.Kill()
		s.server = following
	}
	refresh := func(old tokens) tokens {
		t.Helper()
		return s.tokenRequest(s.server, "web", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.RefreshToken}})
	}
	params := authorization("web")
	alice := s.signIn("alice")
	next()
	alice.Use(s.server)
	page := s.consentPage(alice, params)
	next()
	alice.Use(s.server)
	got := s.approve(page)
	next()
	first := s.redeem(s.server, "web", got.code, callback, verifier)
	if first.Error != "" || first.RefreshToken == "" {
		t.Fatalf("the code is not redeemed: %+v", first)
	}
	next()
	s.idToken(s.server, "web", first.IDToken)
	if in := s.introspect(s.server, first.AccessToken); !in.Active || in.Subject != "alice" || in.ClientID != "web" {
		t.Errorf("introspection: %+v", in)
	}
	next()
	second := refresh(first)
	if second.Error != "" || second.AccessToken == "" {
		t.Fatalf("the refresh token is refused: %+v", second)
	}
	next()
	s.idToken(s.server, "web", second.IDToken)
	// The code again: everything that came of it is over (RFC 6749, Section 4.1.2).
	if again := s.redeem(s.server, "web", got.code, callback, verifier); again.Error != "invalid_grant" {
		t.Errorf("the code is redeemed twice: %+v", again)
	}
	next()
	if s.introspect(s.server, second.AccessToken).Active {
		t.Error("a token is good whose code was used twice")
	}
	if again := refresh(second); again.Error != "invalid_grant" {
		t.Errorf("a refresh token is good whose code was used twice: %+v", again)
	}
	// The browser is still signed in, and the page still answered.
	alice.Use(s.server)
	s.nothingIssued(page.Form("/consent").Submit("approve"))
	allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(alice, params)))
	s.codesAreThoseOfConsumedGrants()
}

// A code, and then a refresh token, are used at two processes at the same moment: one gets
// tokens and the other invalid_grant (RFC 6749, Section 5.2), and nobody can tell which of the
// two was the thief, so that the tokens end (RFC 9700, Section 4.14.2).
func TestOfTwoAtOnceOneIsRefused(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	other := s.site.Start()
	alice := s.signIn("alice")
	atOnce := func(table string, form url.Values) {
		t.Helper()
		lock, err := s.pool.Begin(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Exec(context.Background(), "SELECT FROM "+table+" FOR UPDATE"); err != nil {
			t.Fatal(err)
		}
		first := later(func() tokens { return s.tokenRequest(s.server, "web", with(form)) })
		second := later(func() tokens { return s.tokenRequest(other, "web", with(form)) })
		eventually(t, "both wait", func() bool { return len(s.waiting()) == 2 })
		if err := lock.Rollback(context.Background()); err != nil {
			t.Fatal(err)
		}
		won, lost := first(), second()
		if won.Error != "" {
			won, lost = lost, won
		}
		if won.Error != "" || lost.Error != "invalid_grant" || lost.status != http.StatusBadRequest {
			t.Errorf("%s: one got %q, and the other %q with status %d", table, won.Error, lost.Error, lost.status)
		}
		if s.introspect(s.server, won.AccessToken).Active {
			t.Errorf("%s: the tokens outlive the reuse", table)
		}
	}
	code := func() url.Values {
		t.Helper()
		got := s.approve(s.consentPage(alice, authorization("web")))
		return url.Values{"grant_type": {"authorization_code"}, "code": {got.code}, "redirect_uri": {callback}, "code_verifier": {verifier}}
	}
	atOnce("consent_codes", code())
	issued := s.tokenRequest(s.server, "web", code())
	atOnce("consent_refresh_tokens", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {issued.RefreshToken}})
}
