package fositeconsent_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func unasked(d *fositeconsent.Decision) { d.Unasked = true }

// What nobody was asked for rests on what was asked for before, in the record, in the log and in the event.
func TestADecisionThatNobodyWasAskedForRestsOnWhatCoversTheRequest(t *testing.T) {
	t.Parallel()
	h := newLogHost(t, func(h *host, c *fositeconsent.Config) {
		inTransactions(h, c)
		c.ApplyData = func(context.Context, fosite.AuthorizeRequester, []byte) error { return nil }
	})
	id := h.remember(web(), "peter", func(d *fositeconsent.Decision) { d.Remember.Lifespan = time.Hour })
	before := len(h.log.records)
	ar, err := h.decide(web(), "peter", func(d *fositeconsent.Decision) {
		d.Unasked, d.Scopes, d.Data = true, []string{"openid"}, []byte("for these tokens") // it may say less than is covered
	})
	if err != nil {
		t.Fatal(cause(err))
	}
	if !slices.Equal(ar.GetGrantedScopes(), []string{"openid"}) {
		t.Errorf("granted %v", ar.GetGrantedScopes())
	}
	last := h.consents.recorded[len(h.consents.recorded)-1]
	if last.Approval != nil || !slices.Equal(last.ConsentIDs, []fositeconsent.ID{id}) || last.RequestID != ar.GetID() {
		t.Errorf("recorded as %+v", last)
	}
	if e := h.event(); e.Action != fositeconsent.ActionApprove || e.Basis != fositeconsent.BasisRemembered || !slices.Equal(e.ConsentIDs, []fositeconsent.ID{id}) || e.GrantID.IsZero() || e.GrantID == id || !e.Consumed {
		t.Errorf("the event is %+v", e)
	}
	h.wantRecord(before+1, fositeconsent.DecisionRecord{
		Outcome: fositeconsent.OutcomePassed, Basis: fositeconsent.BasisRemembered, Subject: "peter", ClientID: "web",
		RequestedScopes: []string{"openid", "photos"}, RequestedAudience: []string{"https://api.example"},
		Scopes: []string{"openid"}, Audience: []string{"https://api.example"}, ConsentIDs: []fositeconsent.ID{id},
	})
	if list, err := h.gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "peter"}, fositeconsent.ID{}, 10); err != nil || len(list) != 1 || list[0].ID != id {
		t.Errorf("listed %+v, %v", list, err)
	}
	if err := h.consents.CheckResponse(t.Context(), ar.GetID()); err != nil {
		t.Error(err)
	}
	h.advance(time.Hour)
	if err := h.consents.CheckResponse(t.Context(), ar.GetID()); !errors.Is(err, fositeconsent.ErrConsentExpired) {
		t.Errorf("when what it rests on is over: %v", err)
	}
}

func TestADecisionThatNobodyWasAskedForMayRestOnTheHostsApproval(t *testing.T) {
	t.Parallel()
	approved := true
	h := newLogHost(t, inTransactions, func(_ *host, c *fositeconsent.Config) {
		c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return approved, nil }
	})
	ar, err := h.decide(web(), "peter", unasked)
	if err != nil {
		t.Fatal(cause(err))
	}
	e := h.event()
	if e.Basis != fositeconsent.BasisPreApproved {
		t.Errorf("the event is %+v", e)
	}
	last := h.consents.recorded[len(h.consents.recorded)-1]
	if last.Approval == nil || last.Approval.ID != e.GrantID || last.Approval.Remembered || last.RequestID != ar.GetID() {
		t.Errorf("recorded as %+v", last)
	}
	if r := h.log.records[len(h.log.records)-1]; r.Outcome != fositeconsent.OutcomePassed || r.Basis != fositeconsent.BasisPreApproved {
		t.Errorf("in the log: %+v", r)
	}
	bare := newLogHost(t, inTransactions, func(_ *host, c *fositeconsent.Config) {
		c.Consents = nil
		c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return true, nil }
	})
	if _, err := bare.decide(web(), "peter", unasked); err != nil {
		t.Fatal(cause(err))
	}
	if r := bare.log.records[len(bare.log.records)-1]; r.Outcome != fositeconsent.OutcomePassed || r.ConsentIDs != nil {
		t.Errorf("in the log of a gate that keeps no consents: %+v", r)
	}
	approved = false
	h.refusesUnasked("not approved any more", fositeconsent.ErrConsentRequired, unasked)
}

// refusesUnasked checks that such a decision gets nothing, and leaves the page as it was.
func (h *consentHost) refusesUnasked(what string, reason error, change func(*fositeconsent.Decision)) {
	h.t.Helper()
	p := h.prompt(web(), "peter")
	d := all(p)
	change(&d)
	rows, recorded := h.stored(), len(h.consents.recorded)
	_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), p.Ticket, d), h.parse(web()), h.login("peter"))
	if !errors.Is(err, reason) || fositeconsent.NeedsConsent(err) != !errors.Is(err, fositeconsent.ErrInvalidDecision) {
		h.t.Errorf("%s: %v", what, cause(err))
	}
	if h.stored() != rows || len(h.consents.recorded) != recorded {
		h.t.Errorf("%s: something was stored", what)
	}
	if _, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), p.Ticket, all(p)), h.parse(web()), h.login("peter")); err != nil {
		h.t.Errorf("%s: and the page cannot be answered: %v", what, cause(err))
	}
}

func TestADecisionThatNobodyWasAskedForIsWorthNothingByItself(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, inTransactions)
	h.refusesUnasked("nothing covers the request", fositeconsent.ErrConsentRequired, unasked)
	h.remember(web("scope", "openid"), "peter")
	h.refusesUnasked("a part of it is covered", fositeconsent.ErrConsentRequired, func(d *fositeconsent.Decision) {
		d.Unasked, d.Scopes = true, []string{"openid"}
	})
	h.remember(web(), "mary")
	h.refusesUnasked("another's is", fositeconsent.ErrConsentRequired, unasked)
	h.remember(web(), "peter")
	h.refusesUnasked("it is to be remembered", fositeconsent.ErrInvalidDecision, func(d *fositeconsent.Decision) {
		d.Unasked, d.Remember = true, &fositeconsent.Remember{}
	})
	h.refusesUnasked("more than was requested", fositeconsent.ErrInvalidDecision, func(d *fositeconsent.Decision) {
		d.Unasked, d.Scopes = true, append(d.Scopes, "contacts")
	})

	if _, err := h.decide(web("prompt", "consent"), "peter", unasked); !errors.Is(err, fositeconsent.ErrConsentRequired) {
		t.Errorf("a page was asked for: %v", cause(err))
	}
	h.looks["web"] = "another name"
	h.refusesUnasked("of a client that looked different", fositeconsent.ErrConsentRequired, unasked)
	delete(h.looks, "web")

	// The same page is good once.
	p := h.prompt(web(), "peter")
	d := all(p)
	d.Unasked = true
	for i, want := range []error{nil, fositeconsent.ErrAlreadyDecided} {
		_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, d), h.parse(web()), h.login("peter"))
		if !errors.Is(err, want) {
			t.Errorf("answer %d: %v", i, cause(err))
		}
	}

	if _, err := h.gate.Mint(t.Context(), h.parse(web()), h.login("peter"), h.prompt(web(), "peter").Ticket, d); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("Mint: %v", cause(err))
	}
	if err := p.Check(fositeconsent.Decision{Scopes: d.Scopes, Unasked: true, Remember: &fositeconsent.Remember{}}); !errors.Is(err, fositeconsent.ErrInvalidDecision) {
		t.Errorf("Check: %v", err)
	}
}

// A revocation that comes after the look is not passed.
func TestADecisionThatNobodyWasAskedForEndsWithARevocationMeanwhile(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, inTransactions)
	h.remember(web(), "peter")
	p := h.prompt(web(), "peter")
	d := all(p)
	d.Unasked = true
	h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
		if _, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"}); err != nil {
			t.Error(err)
		}
		return list, nil
	}
	codes := len(h.store.AuthorizeCodes)
	_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, d), h.parse(web()), h.login("peter"))
	if !errors.Is(err, fositeconsent.ErrConsentRevoked) || !fositeconsent.NeedsConsent(err) || len(h.store.AuthorizeCodes) != codes {
		t.Errorf("%v", cause(err))
	}
}

// Without consents and without PreApproved there is nothing that it could rest on.
func TestADecisionThatNobodyWasAskedForNeedsAGateThatRemembers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.prompt(params(), "alice")
	d := all(p)
	d.Unasked = true
	_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, d), h.parse(params()), h.login("alice"))
	if !errors.Is(err, fositeconsent.ErrConsentRequired) {
		t.Errorf("%v", cause(err))
	}
}
