package fositeconsent_test

import (
	"context"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// A page costs no look of its own after the response that it was asked instead of; but whatever else it is
// about is looked for.
func TestAPageIsLookedForOnce(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.remember(web("scope", "openid photos"), "peter")
	form := web("scope", "openid photos contacts")
	refused := func(subject string) fosite.AuthorizeRequester {
		t.Helper()
		ar := h.parse(form)
		if _, err := h.provider.NewAuthorizeResponse(context.Background(), ar, h.login(subject)); !fositeconsent.NeedsConsent(err) {
			t.Fatal(cause(err))
		}
		return ar
	}
	page := func(ar fosite.AuthorizeRequester, subject string, wantLooks int, wantNew ...string) {
		t.Helper()
		before := h.consents.found
		p, err := h.gate.Prompt(context.Background(), ar, h.login(subject))
		if err != nil {
			t.Fatal(cause(err))
		}
		if looks := h.consents.found - before; looks != wantLooks || !equalSets(p.NewScopes, wantNew) {
			t.Errorf("after %d looks %v is new, want %d and %v", h.consents.found-before, p.NewScopes, wantLooks, wantNew)
		}
	}
	ar := refused("peter")
	page(ar, "peter", 0, "contacts")
	page(ar, "peter", 1, "contacts") // it may be another page, much later
	page(refused("peter"), "paul", 1, "openid", "photos", "contacts")
	page(refused("paul"), "peter", 1, "contacts")
	page(refused("paul"), "paul", 0, "openid", "photos", "contacts")
	page(h.parse(form), "peter", 1, "contacts")
	ar = refused("peter")
	h.advance(6 * time.Second)
	page(ar, "peter", 1, "contacts")
}
