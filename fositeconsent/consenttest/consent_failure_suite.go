package consenttest

import (
	"context"
	"crypto/rand"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func cancelledConsents(p *consentProbe) {
	l := p.open(Options{})
	l.overContexts(func(s *checked, over context.Context) {
		l := &ledger{checked: s, consents: l.consents}
		consent := newConsent()
		grant := grantOf(consent)
		l.mint(grant)
		first := l.approve(consent)

		second := &fositeconsent.Response{RequestID: rand.Text(), Approval: another(consent)}
		l.compare("RecordResponse", l.recordIn(over, second), failed)
		silent := &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: []fositeconsent.ID{consent.ID}}
		l.compare("RecordResponse", l.recordIn(over, silent), failed)
		l.compare("CheckResponse", l.checkIn(over, first), failed)
		_, err := l.findIn(over, consent.Issuer, consent.Subject, consent.ClientID)
		l.compare("FindConsents", err, failed)
		_, err = l.listIn(over, only(consent), fositeconsent.ID{}, 10)
		l.compare("ListConsents", err, failed)
		h := l.collector()
		n, err := l.revokeIn(over, only(consent), h.take)
		l.compare("RevokeConsents", err, failed)
		if n != 0 || h.calls != 0 {
			l.Errorf("RevokeConsents ended %d consents and handed responses over %d times, want 0", n, h.calls)
		}

		l.wantFound(consent, consent.ID)
		l.wantCheck(first, succeeded)
		l.wantConsumed(present(grant), grant)
		l.wantRevoked(only(consent), 1, first)
		l.compare("CheckResponse", l.checkIn(over, first), failed)
		l.compare("RecordResponse", l.recordIn(over, silent), failed)
	})
}

func brokenConsents(p *consentProbe) {
	l := p.open(Options{Broken: true})
	consent := newConsent()
	h := l.collector()
	// All at once: a storage that tries again takes its time over each of them.
	calls := []func(context.Context) error{
		func(ctx context.Context) error {
			return l.recordIn(ctx, &fositeconsent.Response{RequestID: rand.Text(), Approval: another(consent)})
		},
		func(ctx context.Context) error {
			return l.recordIn(ctx, &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: []fositeconsent.ID{consent.ID}})
		},
		func(ctx context.Context) error { return l.checkIn(ctx, rand.Text()) },
		func(ctx context.Context) error {
			_, err := l.findIn(ctx, consent.Issuer, consent.Subject, consent.ClientID)
			return err
		},
		func(ctx context.Context) error {
			_, err := l.listIn(ctx, only(consent), fositeconsent.ID{}, 10)
			return err
		},
		func(ctx context.Context) error {
			n, err := l.revokeIn(ctx, only(consent), h.take)
			if n != 0 {
				l.Errorf("RevokeConsents ended %d consents, want 0", n)
			}
			return err
		},
	}
	got := l.race(presenters, func(i int) error { return calls[i%len(calls)](l.ctx) })
	l.wantTally(got, tally{failed: presenters})
	if h.calls != 0 {
		l.Error("RevokeConsents handed responses over that nobody can know of")
	}
	l.overContexts(func(s *checked, over context.Context) {
		for _, call := range calls {
			s.compare("a call", call(over), failed)
		}
	})
}
