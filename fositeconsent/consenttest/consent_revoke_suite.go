package consenttest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func revokesSelection(p *consentProbe) {
	l := p.open(Options{})
	for _, of := range newWorld().selections() {
		l.step(of.sentence, func(l *ledger) {
			w := newWorld() // each choice has one of its own
			w.record(l)
			choices := w.selections()
			c := choices[slices.IndexFunc(choices, func(c choice) bool { return c.sentence == of.sentence })]
			// One that rests on two of them, of which the selection may have one.
			across := l.pass(w.consents[0].ID, w.consents[6].ID)
			w.responses[w.consents[0].ID] = append(w.responses[w.consents[0].ID], across)
			w.responses[w.consents[6].ID] = append(w.responses[w.consents[6].ID], across)

			ended := make(map[string]bool)
			of := make(map[fositeconsent.ID]*fositeconsent.Consent)
			n := 0
			for _, consent := range w.consents {
				if c.has(consent) {
					n++
					of[consent.ID] = consent
					for _, requestID := range w.responses[consent.ID] {
						ended[requestID] = true
					}
				}
			}
			l.wantRevokedOf(of, c.Selection, n, slices.Collect(maps.Keys(ended))...)
			for _, consent := range w.consents {
				found := slices.ContainsFunc(l.find(consent), func(f fositeconsent.Consent) bool { return f.ID == consent.ID })
				if want := consent.Remembered && !c.has(consent); found != want {
					l.Errorf("after the revocation: a consent was found: %t, want %t", found, want)
				}
				for _, requestID := range w.responses[consent.ID] {
					want := succeeded
					if ended[requestID] {
						want = consentRevoked
					}
					l.wantCheck(requestID, want)
				}
			}
		})
	}
}

// grantOf returns an approval of the same people.
func grantOf(consent *fositeconsent.Consent) *fositeconsent.Grant {
	grant := newGrant()
	grant.Subject, grant.ClientID = consent.Subject, consent.ClientID
	return grant
}

func revokesGrants(p *consentProbe) {
	l := p.open(Options{})
	for _, c := range []struct {
		sentence string
		set      func(*fositeconsent.Selection, *fositeconsent.Grant)
		// Whether the grant of another subject or for another client is selected, too,
		// and another one of the same.
		otherSubject, otherClient, second bool
	}{
		{"by subject", func(s *fositeconsent.Selection, g *fositeconsent.Grant) { s.Subject = g.Subject }, false, true, true},
		{"by client", func(s *fositeconsent.Selection, g *fositeconsent.Grant) { s.ClientID = g.ClientID }, true, false, true},
		{"by subject and client", func(s *fositeconsent.Selection, g *fositeconsent.Grant) {
			s.Subject, s.ClientID = g.Subject, g.ClientID
		}, false, false, true},
		{"by subject and ID", func(s *fositeconsent.Selection, g *fositeconsent.Grant) { s.Subject, s.ConsentID = g.Subject, g.ID }, false, false, false},
		{"by client and ID", func(s *fositeconsent.Selection, g *fositeconsent.Grant) { s.ClientID, s.ConsentID = g.ClientID, g.ID }, false, false, false},
		{"by subject and login, which a grant does not tell", func(s *fositeconsent.Selection, g *fositeconsent.Grant) {
			s.Subject, s.LoginSession = g.Subject, rand.Text()
		}, false, true, true},
	} {
		l.step(c.sentence, func(l *ledger) {
			grant := newGrant()
			otherSubject, otherClient, second, consumed, denial := newGrant(), newGrant(), newGrant(), newGrant(), newGrant()
			otherSubject.ClientID, otherClient.Subject = grant.ClientID, grant.Subject
			for _, g := range []*fositeconsent.Grant{second, consumed, denial} {
				g.Subject, g.ClientID = grant.Subject, grant.ClientID
			}
			denial = newDenial(denial)
			for _, g := range []*fositeconsent.Grant{grant, otherSubject, otherClient, second, consumed, denial} {
				l.mint(g)
			}
			winner := present(consumed)
			l.wantConsumed(winner, consumed)
			selection := fositeconsent.Selection{Issuer: newConsent().Issuer}
			c.set(&selection, grant)

			for range 2 {
				l.wantRevoked(selection, 0)
				l.wantRefused(present(grant), grantRevoked)
				l.wantRefused(present(denial), notFound)
				l.wantRefused(present(consumed), alreadyConsumed)
				l.wantConsumed(winner, consumed)
				// It is there still: it cannot be minted again, and a retried mint gives it no new life.
				l.wantCreate(again(grant), alreadyDecided)
				l.wantCreate(grant, succeeded)
				l.wantRefused(present(grant), grantRevoked)
			}
			for _, other := range []struct {
				*fositeconsent.Grant
				revoked bool
			}{{otherSubject, c.otherSubject}, {otherClient, c.otherClient}, {second, c.second}} {
				if other.revoked {
					l.wantRefused(present(other.Grant), grantRevoked)
				} else {
					l.wantConsumed(present(other.Grant), other.Grant)
				}
			}
			fresh := again(grant)
			fresh.ID = newID()
			l.mint(fresh) // an approval after the revocation is a new one
			l.wantConsumed(present(fresh), fresh)
		})
	}
}

func revokedGrantFirstReason(p *consentProbe) {
	l, clock := p.openWithClock()
	grant := newGrant()
	l.mint(grant)
	l.wantRevoked(fositeconsent.Selection{Issuer: newConsent().Issuer, Subject: grant.Subject}, 0)
	for range 2 { // and once more when it has expired, too
		l.wantRefused(present(grant), grantRevoked)
		wrong := present(grant)
		wrong.SecretHash = random32()
		l.wantRefused(wrong, notFound)
		wrong = present(grant)
		wrong.Binding = random32()
		l.wantRefused(wrong, mismatched)
		clock.advance(grant.Lifespan)
	}
	late := newGrant()
	l.mint(late)
	clock.advance(late.Lifespan)
	l.wantRefused(present(late), tooLate)
}

func consumedBeforeRevocation(p *consentProbe) {
	l := p.open(Options{})
	for _, remembered := range []bool{true, false} {
		consent, untouched := newConsent(), newConsent()
		consent.Remembered, untouched.Remembered = remembered, remembered
		for _, c := range []*fositeconsent.Consent{consent, untouched} {
			grant := grantOf(c)
			grant.ID = c.ID
			l.mint(grant)
			l.wantConsumed(present(grant), grant)
		}
		l.wantRevoked(fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject}, 0)
		requestID := rand.Text()
		l.wantRecord(&fositeconsent.Response{RequestID: requestID, Approval: consent}, consentRevoked)
		l.wantFound(consent)
		l.wantListed(fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject})
		l.approve(untouched)
		l.wantConsent(untouched)
	}
}

func revocationFails(p *consentProbe) {
	l := p.open(Options{})
	consent, second, other := newConsent(), newConsent(), newConsent()
	second.Issuer, second.Subject = consent.Issuer, consent.Subject
	grant := grantOf(consent)
	l.mint(grant)
	l.approve(other)
	requestIDs := []string{l.approve(consent), l.approve(second), l.pass(consent.ID, second.ID), l.pass(other.ID, consent.ID)}
	selection := fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject}
	broken := errors.New("the tokens' storage is down")
	for range 2 {
		calls := 0
		n, err := l.revokeIn(l.ctx, selection, func(context.Context, fositeconsent.Ended) error {
			calls++
			return fmt.Errorf("revoke: %w", broken)
		})
		if n != 0 || !errors.Is(err, broken) || calls != 1 {
			l.Errorf("RevokeConsents: got %d, %v after %d calls, want 0, what revoke returned, and 1", n, err, calls)
		}
		l.wantConsent(consent)
		l.wantConsent(second)
		for _, requestID := range requestIDs {
			l.wantCheck(requestID, succeeded)
		}
		requestIDs = append(requestIDs, l.pass(consent.ID))
	}
	spent := grantOf(consent)
	l.mint(spent)
	l.wantConsumed(present(spent), spent)
	l.wantRevoked(selection, 2, requestIDs...)
	for _, requestID := range requestIDs {
		l.wantCheck(requestID, consentRevoked)
	}
	l.wantRefused(present(grant), grantRevoked)
}

func revocationIsBounded(p *consentProbe) {
	const atOnce = 50
	l := p.open(Options{})
	consent, second := newConsent(), newConsent()
	second.Issuer, second.Subject = consent.Issuer, consent.Subject
	ids := []fositeconsent.ID{consent.ID, second.ID}
	requestIDs := []string{l.approve(consent), l.approve(second)}
	for i := range mostAtOnce + mostAtOnce/10 {
		requestIDs = append(requestIDs, fmt.Sprint(requestIDs[0], "-", i))
	}
	for silent := range slices.Chunk(requestIDs[2:], atOnce) {
		got := l.race(len(silent), func(i int) error {
			return l.record(&fositeconsent.Response{RequestID: silent[i], ConsentIDs: ids[:1+i%2]})
		})
		l.wantTally(got, tally{succeeded: len(silent)})
	}
	selection := fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject}

	// The second call fails: whatever of the first took effect, nothing is lost.
	h := l.collector()
	n, err := l.revokeIn(l.ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
		if h.calls > 0 {
			return errors.New("the tokens' storage is down")
		}
		return h.take(ctx, ended)
	})
	l.compare("RevokeConsents", err, failed)
	clear(h.consents)
	again, err := l.revokeIn(l.ctx, selection, h.take)
	l.compare("RevokeConsents", err, succeeded)
	h.wantConsents(again)
	if n+again != len(ids) {
		l.Errorf("RevokeConsents ended %d consents and, repeated, %d, want %d in all", n, again, len(ids))
	}
	h.want(requestIDs...)
	if h.most > mostAtOnce {
		l.Errorf("RevokeConsents handed over %d responses at once, want %d at most", h.most, mostAtOnce)
	}
	for _, i := range []int{0, 1, 2, 3, len(requestIDs) - 1} {
		l.wantCheck(requestIDs[i], consentRevoked)
	}
}

func revokedForEver(p *consentProbe) {
	l, clock := p.openWithClock()
	consent := newConsent()
	first := l.approve(consent)
	selection := fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject, ClientID: consent.ClientID}
	l.wantRevoked(selection, 1, first)
	for range 2 {
		l.wantRevoked(selection, 0)
		l.wantRevoked(only(consent), 0)
		l.wantCheck(first, consentRevoked)
		l.wantFound(consent)
		l.wantListed(selection)
		clock.advance(400 * 24 * time.Hour)
	}
	// Another approval brings back nothing of it.
	fresh := another(consent)
	second := l.approve(fresh)
	l.wantFound(consent, fresh.ID)
	l.wantCheck(first, consentRevoked)
	l.wantCheck(second, succeeded)
	l.wantRevoked(selection, 1, second)
}

// expiredIsRevoked: what was issued under it may be good still, in other respects.
func expiredIsRevoked(p *consentProbe) {
	l, clock := p.openWithClock()
	consent := newConsent()
	consent.Lifespan = time.Minute
	first := l.approve(consent)
	clock.advance(time.Hour)
	l.wantCheck(first, consentExpired)
	l.wantRevoked(fositeconsent.Selection{Issuer: consent.Issuer, ClientID: consent.ClientID}, 1, first)
	l.wantCheck(first, consentRevoked)
}

// waitsForRevocation makes calls while a revocation is under way, which can wait no longer
// than their contexts last, and then has it fail and succeed.
func waitsForRevocation(p *consentProbe) {
	l := p.open(Options{})
	for _, outcome := range []error{errors.New("the tokens' storage is down"), nil} {
		consent := newConsent()
		grant := grantOf(consent)
		l.mint(grant)
		first := l.approve(consent)
		response := &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: []fositeconsent.ID{consent.ID}}
		called := false
		_, err := l.revokeIn(l.ctx, only(consent), func(context.Context, fositeconsent.Ended) error {
			called = true
			for call, try := range map[string]func(context.Context) error{
				"CheckResponse":  func(ctx context.Context) error { return l.checkIn(ctx, first) },
				"RecordResponse": func(ctx context.Context) error { return l.recordIn(ctx, response) },
			} {
				ctx, cancel := context.WithTimeout(l.ctx, 50*time.Millisecond)
				if err := try(ctx); err == nil {
					l.Errorf("%s succeeded while a revocation was under way", call)
				}
				cancel()
			}
			return outcome
		})
		if !errors.Is(err, outcome) || !called {
			l.Errorf("RevokeConsents: got %v, want %v", err, outcome)
		}
		if outcome != nil {
			l.wantCheck(first, succeeded)
			l.wantRecord(response, succeeded)
		} else {
			l.wantCheck(first, consentRevoked)
			l.wantRecord(response, consentRevoked)
		}
	}
}

// responsesRaceRevocation: a revocation in the middle of many responses hands over all that
// are recorded, and those after it are refused, or rest on an approval of their own.
func responsesRaceRevocation(p *consentProbe) {
	l := p.open(Options{})
	for round := range rounds {
		consent := newConsent()
		first := l.approve(consent)
		selection := fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject}
		h := l.collector()
		var ended int
		responses := make([]*fositeconsent.Response, presenters)
		recorded := make([]bool, presenters)
		revoker := round * (presenters - 1) / (rounds - 1) // early, late and in between
		for i := range responses {
			responses[i] = &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: []fositeconsent.ID{consent.ID}}
			if i%4 == 0 {
				responses[i] = &fositeconsent.Response{RequestID: rand.Text(), Approval: another(consent)}
			}
		}
		got := l.race(presenters, func(i int) (err error) {
			if i == revoker {
				ended, err = l.revokeIn(l.ctx, selection, h.take)
				return err
			}
			err = l.record(responses[i])
			recorded[i] = err == nil
			return err
		})
		l.wantTally(got, tally{succeeded: got[succeeded], consentRevoked: presenters - got[succeeded]})

		approvals := 1
		if !h.ids[first] {
			l.Error("the response that was recorded before was not handed over")
		}
		for i, response := range responses {
			switch {
			case i == revoker:
			case !recorded[i]:
				if h.ids[response.RequestID] {
					l.Error("a response that was refused was handed over")
				}
				l.wantCheck(response.RequestID, succeeded) // nothing is known of it
			case h.ids[response.RequestID]:
				l.wantCheck(response.RequestID, consentRevoked)
				if response.Approval != nil {
					approvals++
				}
			case response.Approval != nil: // it came after
				l.wantCheck(response.RequestID, succeeded)
			default:
				l.Error("a response was recorded and outlived the revocation")
			}
		}
		if ended != approvals {
			l.Errorf("RevokeConsents ended %d consents, want the %d of which it handed responses over", ended, approvals)
		}
	}
}

// grantsRaceRevocation: whatever had been approved before a revocation leads to no response
// that outlives it.
func grantsRaceRevocation(p *consentProbe) {
	l := p.open(Options{})
	for round := range rounds {
		like := newConsent()
		selection := fositeconsent.Selection{Issuer: like.Issuer, Subject: like.Subject, ClientID: like.ClientID}
		h := l.collector()
		var ended int
		var handedOver atomic.Int32
		revoker := round * (presenters - 1) / (rounds - 1)
		approvals := make([]*fositeconsent.Consent, presenters)
		grants := make([]*fositeconsent.Grant, presenters)
		requestIDs := make([]string, presenters)
		for i := range grants {
			approvals[i], grants[i], requestIDs[i] = another(like), grantOf(like), rand.Text()
			grants[i].ID = approvals[i].ID
			l.mint(grants[i])
		}
		got := l.race(presenters, func(i int) (err error) {
			if i == revoker {
				ended, err = l.revokeIn(l.ctx, selection, h.take)
				return err
			}
			if _, err := l.consume(present(grants[i])); err != nil {
				return err
			}
			err = l.record(&fositeconsent.Response{RequestID: requestIDs[i], Approval: approvals[i]})
			if err == nil {
				handedOver.Add(1)
			}
			return err
		})
		l.wantTally(got, tally{succeeded: got[succeeded], grantRevoked: got[grantRevoked], consentRevoked: presenters - got[succeeded] - got[grantRevoked]})
		if n := int(handedOver.Load()); ended != n || len(h.ids) != n {
			l.Errorf("%d responses were recorded, %d of them handed over and %d consents ended, want all", n, len(h.ids), ended)
		}
		for i, requestID := range requestIDs {
			if h.ids[requestID] {
				l.wantCheck(requestID, consentRevoked)
			} else {
				l.wantCheck(requestID, succeeded) // nothing is known of it
			}
			if i == revoker {
				l.wantRefused(present(grants[i]), grantRevoked)
			}
		}
		l.wantFound(like)
	}
}

func manyRevocations(p *consentProbe) {
	const consents = 8
	l := p.open(Options{})
	for range rounds {
		like := newConsent()
		var all []*fositeconsent.Consent
		var requestIDs []string
		for range consents {
			c := another(like)
			requestIDs = append(requestIDs, l.approve(c))
			all = append(all, c)
		}
		h := l.collector()
		var ended atomic.Int32
		got := l.race(presenters, func(i int) error {
			selection := fositeconsent.Selection{Issuer: like.Issuer, ClientID: like.ClientID}
			switch i % 3 {
			case 1:
				selection = only(all[i%consents])
			case 2:
				selection.ClientID, selection.Subject = "", like.Subject
			}
			n, err := l.revokeIn(l.ctx, selection, h.take)
			ended.Add(int32(n))
			return err
		})
		l.wantTally(got, tally{succeeded: presenters})
		if n := ended.Load(); n != consents {
			l.Errorf("%d consents were ended by many revocations, want %d", n, consents)
		}
		h.want(requestIDs...)
		for _, requestID := range requestIDs {
			l.wantCheck(requestID, consentRevoked)
		}
	}
}
