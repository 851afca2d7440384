package fositeconsent_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// wantCovers compares what Covers says with what it should, and with what then happens.
func (h *consentHost) wantCovers(form url.Values, subject string, want bool) {
	h.t.Helper()
	recorded := len(h.consents.recorded)
	got, _, err := h.gate.Covers(context.Background(), h.parse(form), h.login(subject))
	if got != want || err != nil {
		h.t.Errorf("covers: %v, %v, want %v", got, err, want)
	}
	if len(h.consents.recorded) != recorded {
		h.t.Error("a look recorded a response")
	}
	if _, err := h.ask(form, subject); (err == nil) != want {
		h.t.Errorf("and the gate says: %v", cause(err))
	}
}

func TestCoversIsTrueOfExactlyWhatPasses(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
		c.PreApproved = func(_ context.Context, ar fosite.AuthorizeRequester, _ string) (bool, error) {
			return ar.GetClient().GetID() == "other", nil
		}
		c.ApplyData = func(context.Context, fosite.AuthorizeRequester, []byte) error { return nil }
	})
	h.wantCovers(web(), "peter", false)
	h.remember(web(), "peter", func(d *fositeconsent.Decision) { d.Remember.Lifespan, d.Data = time.Hour, []byte("said then") })
	events := len(h.events)
	if covers, data, err := h.gate.Covers(context.Background(), h.parse(web()), h.login("peter")); !covers || string(data) != "said then" || err != nil || len(h.events) != events {
		t.Errorf("%v, %q, %v", covers, data, err)
	}
	h.wantCovers(web(), "peter", true)
	h.wantCovers(web("prompt", "none"), "peter", true)
	h.wantCovers(web("prompt", "consent"), "peter", false)
	h.wantCovers(web("prompt", "unknown"), "peter", false)
	h.wantCovers(web("scope", "openid photos contacts"), "peter", false)
	h.wantCovers(web("resource", "https://api.example"), "peter", false)
	h.wantCovers(web(), "mary", false)
	other := web("client_id", "other", "redirect_uri", "https://other.example/cb")
	h.wantCovers(other, "mary", true)
	other.Set("prompt", "consent")
	h.wantCovers(other, "mary", false)
	h.advance(time.Hour)
	h.wantCovers(web(), "peter", false)

	if covers, _, err := h.gate.Covers(context.Background(), h.parse(web()), h.login("")); covers || !errors.Is(err, fosite.ErrLoginRequired) {
		t.Errorf("of nobody: %v, %v", covers, err)
	}
	if e := h.event(); e.Action != fositeconsent.ActionConsume || e.Reason != "login_required" || e.ClientID != "web" {
		t.Errorf("of nobody: the event is %+v", e)
	}
	if covers, _, err := h.gate.Covers(context.Background(), nil, h.login("peter")); covers || !errors.Is(err, fositeconsent.ErrInvalidRequest) {
		t.Errorf("of no request: %v, %v", covers, err)
	}
	h.consents.onFind = func([]fositeconsent.Consent) ([]fositeconsent.Consent, error) { return nil, errors.New("gone") }
	if covers, _, err := h.gate.Covers(context.Background(), h.parse(web()), h.login("peter")); covers || !errors.Is(err, fositeconsent.ErrStorage) {
		t.Errorf("of a storage that fails: %v, %v", covers, err)
	}
	if e := h.event(); e.Action != fositeconsent.ActionConsume || e.Reason != "storage" || e.Subject != "peter" {
		t.Errorf("of a storage that fails: the event is %+v", e)
	}
	plain := newHost(t)
	if covers, _, err := plain.gate.Covers(context.Background(), plain.parse(params()), plain.login("alice")); covers || err != nil {
		t.Errorf("of a gate that nothing passes without a page: %v, %v", covers, err)
	}
	if covers, _, err := plain.gate.Covers(context.Background(), plain.parse(params()), plain.login("")); covers || !errors.Is(err, fosite.ErrLoginRequired) || plain.event().Reason != "login_required" {
		t.Errorf("of nobody, by such a gate: %v, %v, %+v", covers, err, plain.event())
	}
	unprotected, err := fositeconsent.NewGate(consenttest.NewStorage(nil), fositeconsent.Config{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	if covers, _, err := unprotected.Covers(context.Background(), h.parse(web()), h.login("peter")); covers || err != nil {
		t.Errorf("before Protect: %v, %v", covers, err)
	}
}

func TestCheckSaysWhatMintWouldSay(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
		c.ApplyData = func(context.Context, fosite.AuthorizeRequester, []byte) error { return nil }
	})
	for name, d := range map[string]fositeconsent.Decision{
		"everything":          {Scopes: []string{"openid", "photos"}, Audience: []string{"https://api.example"}},
		"a part":              {Scopes: []string{"openid"}},
		"for an hour":         {Scopes: []string{"openid"}, Remember: &fositeconsent.Remember{Lifespan: time.Hour}},
		"as much as possible": {Scopes: []string{"openid"}, Data: make([]byte, fositeconsent.MaxDataSize)},
		"nothing":             {},
		"without openid":      {Scopes: []string{"photos"}},
		"another scope":       {Scopes: []string{"openid", "contacts"}},
		"another audience":    {Scopes: []string{"openid"}, Audience: []string{"https://other.example"}},
		"too many":            {Scopes: []string{"openid", "photos", "openid"}},
		"a negative time":     {Scopes: []string{"openid"}, Remember: &fositeconsent.Remember{Lifespan: -1}},
		"too much data":       {Scopes: []string{"openid"}, Data: []byte(strings.Repeat("x", fositeconsent.MaxDataSize+1))},
	} {
		p := h.prompt(web(), "peter")
		stored := &fositeconsent.Prompt{Scopes: p.Scopes, Audience: p.Audience} // what a host elsewhere has of it
		says := stored.Check(d)
		_, minted := h.gate.Mint(context.Background(), h.parse(web()), h.login("peter"), p.Ticket, d)
		if (says == nil) != (minted == nil) || says != nil && (!errors.Is(says, fositeconsent.ErrInvalidDecision) || !errors.Is(minted, fositeconsent.ErrInvalidDecision)) {
			t.Errorf("%s: Check says %v, and Mint %v", name, says, cause(minted))
		}
	}
}
