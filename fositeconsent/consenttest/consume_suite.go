package consenttest

import (
	"fmt"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func unknownNotFound(p *probe) {
	s := p.open(Options{})
	grant, neighbour, denial := newGrant(), newGrant(), newDenial(newGrant())
	neighbour.Binding = grant.Binding // a second approval of the same request
	s.mint(grant)
	s.mint(neighbour)
	s.mint(denial)
	for _, c := range []struct {
		sentence string
		change   func(*fositeconsent.Presentation)
	}{
		{"nothing but an attempt", func(p *fositeconsent.Presentation) {
			*p = fositeconsent.Presentation{Attempt: newAttempt()}
		}},
		{"no ID", func(p *fositeconsent.Presentation) { p.ID = fositeconsent.ID{} }},
		{"no secret", func(p *fositeconsent.Presentation) { p.SecretHash = fositeconsent.SecretHash{} }},
		{"an unknown ID and secret", func(p *fositeconsent.Presentation) { p.ID, p.SecretHash = newID(), random32() }},
		{"the right ID and an unknown secret", func(p *fositeconsent.Presentation) { p.SecretHash = random32() }},
		{"the right ID and another grant's secret", func(p *fositeconsent.Presentation) { p.SecretHash = neighbour.SecretHash }},
		{"an unknown ID and the right secret", func(p *fositeconsent.Presentation) { p.ID = newID() }},
		{"another grant's ID and the right secret", func(p *fositeconsent.Presentation) { p.ID = neighbour.ID }},
		{"a denial's ID and the right secret", func(p *fositeconsent.Presentation) { p.ID = denial.ID }},
		{"a denial", func(p *fositeconsent.Presentation) {
			p.ID, p.SecretHash, p.Binding = denial.ID, denial.SecretHash, denial.Binding
		}},
		{"the binding in the secret's place", func(p *fositeconsent.Presentation) { p.SecretHash = fositeconsent.SecretHash(p.Binding) }},
	} {
		s.step(c.sentence, func(s *checked) {
			presentation := present(grant)
			c.change(&presentation)
			s.wantRefused(presentation, notFound)
			presentation.Binding = fositeconsent.Digest{}
			s.wantRefused(presentation, notFound)
		})
	}
	s.wantConsumed(present(grant), grant)
	s.wantConsumed(present(neighbour), neighbour)
}

// someBits returns bits to flip, among them one or two of every byte.
func someBits(size int) []int {
	bits := []int{0, 8*size - 1}
	for bit := 3; bit < 8*size; bit += 7 {
		bits = append(bits, bit)
	}
	return bits
}

func everyBitOfTheToken(p *probe) {
	s := p.open(Options{})
	grant := newGrant()
	s.mint(grant)
	for _, bit := range someBits(len(grant.ID)) {
		presentation := present(grant)
		presentation.ID[bit/8] ^= 1 << (bit % 8)
		s.wantRefused(presentation, notFound)
	}
	for _, bit := range someBits(len(grant.SecretHash)) {
		presentation := present(grant)
		presentation.SecretHash[bit/8] ^= 1 << (bit % 8)
		s.wantRefused(presentation, notFound)
	}
	s.wantConsumed(present(grant), grant)
}

func everyBitOfTheBinding(p *probe) {
	s := p.open(Options{})
	grant := newGrant()
	s.mint(grant)
	for _, bit := range someBits(len(grant.Binding)) {
		presentation := present(grant)
		presentation.Binding[bit/8] ^= 1 << (bit % 8)
		s.wantRefused(presentation, mismatched)
	}
	presentation := present(grant)
	presentation.Binding = fositeconsent.Digest{}
	s.wantRefused(presentation, mismatched)
	presentation.Binding = fositeconsent.Digest(grant.SecretHash)
	s.wantRefused(presentation, mismatched)

	presentation.Binding = grant.Binding // the attempt that failed is as good as a new one
	s.wantConsumed(presentation, grant)
	s.wantRefused(present(grant), alreadyConsumed)
}

func spentOnce(p *probe) {
	s, clock := p.openWithClock()
	grant := newGrant()
	s.mint(grant)
	s.wantConsumed(present(grant), grant)
	for range 3 {
		s.wantRefused(present(grant), alreadyConsumed)
		clock.advance(grant.Lifespan / 2)
	}
	almost := present(grant)
	for _, bit := range someBits(len(almost.Attempt)) {
		presentation := almost
		presentation.Attempt[bit/8] ^= 1 << (bit % 8)
		s.wantRefused(presentation, alreadyConsumed)
	}
}

func winnerMayAskAgain(p *probe) {
	s, clock := p.openWithClock()
	grant, decidedAt := newGrant(), clock.Now()
	s.mint(grant)
	winner := present(grant)
	s.wantConsumed(winner, grant)
	for range 4 {
		s.wantRefused(present(grant), alreadyConsumed)
		if got := s.wantConsumed(winner, grant).DecidedAt; !got.Equal(decidedAt) {
			s.Errorf("DecidedAt is %v, want %v: asking again changed it", got, decidedAt)
		}
		// The winner's attempt stands in for neither the secret nor the binding.
		wrong := winner
		wrong.Binding = random32()
		s.wantRefused(wrong, mismatched)
		wrong = winner
		wrong.SecretHash = random32()
		s.wantRefused(wrong, notFound)
		wrong = winner
		wrong.ID = newID()
		s.wantRefused(wrong, notFound)
		for _, bit := range someBits(len(winner.Attempt)) {
			other := winner
			other.Attempt[bit/8] ^= 1 << (bit % 8)
			s.wantRefused(other, alreadyConsumed)
		}
		clock.advance(grant.Lifespan / 2)
	}

	// An attempt is one call's: it wins nothing but its own grant.
	other := newGrant()
	s.mint(other)
	s.wantConsumed(present(other), other)
	presentation := present(other)
	presentation.Attempt = winner.Attempt
	s.wantRefused(presentation, alreadyConsumed)
}

func attemptRequired(p *probe) {
	s, clock := p.openWithClock()
	refused := func(s *checked, grant *fositeconsent.Grant) {
		s.Helper()
		presentation := present(grant)
		presentation.Attempt = fositeconsent.Attempt{}
		if _, err := s.consume(presentation); err == nil {
			s.Error("ConsumeConsentGrant: got success without an attempt, want an error")
		}
	}
	unspent, spent, expired := newGrant(), newGrant(), newGrant()
	expired.Lifespan = fositeconsent.MinGrantLifespan
	for _, grant := range []*fositeconsent.Grant{unspent, spent, expired} {
		s.mint(grant)
	}
	winner := present(spent)
	s.wantConsumed(winner, spent)
	clock.advance(expired.Lifespan)

	s.step("an unspent grant stays unspent", func(s *checked) {
		refused(s, unspent)
		presentation := present(unspent)
		presentation.Attempt = fositeconsent.Attempt{}
		s.wantRefused(presentation, failed) // every sentinel would be untrue
		s.wantConsumed(present(unspent), unspent)
	})
	s.step("a spent grant stays its winner's", func(s *checked) {
		refused(s, spent)
		s.wantConsumed(winner, spent)
		s.wantRefused(present(spent), alreadyConsumed)
	})
	s.step("an expired grant stays expired", func(s *checked) {
		refused(s, expired)
		s.wantRefused(present(expired), tooLate)
	})
	s.step("a denial stays a denial", func(s *checked) {
		denial := newDenial(newGrant())
		s.mint(denial)
		refused(s, denial)
		s.wantRefused(present(denial), notFound)
	})
}

// firstReason tries every combination of what can be wrong.
func firstReason(p *probe) {
	const (
		rightToken = iota
		wrongSecret
		wrongID
		denied
	)
	const (
		unspent = iota
		spentByAnother
		spentByThisAttempt
	)
	s, clock := p.openWithClock()
	for token, tokenText := range []string{"the right token", "a wrong secret", "a wrong ID", "a denial's token"} {
		for spent, spentText := range []string{"unspent", "spent by another attempt", "spent by this attempt"} {
			if token == denied && spent != unspent {
				continue // there is no such thing
			}
			for _, rightBinding := range []bool{true, false} {
				bindingText := map[bool]string{true: "the right binding", false: "a wrong binding"}[rightBinding]
				for _, expired := range []bool{false, true} {
					expiredText := map[bool]string{true: "expired", false: "not expired"}[expired]

					var want outcome
					switch {
					case token != rightToken:
						want = notFound
					case !rightBinding:
						want = mismatched
					case spent == spentByThisAttempt:
						want = succeeded
					case spent == spentByAnother:
						want = alreadyConsumed
					case expired:
						want = tooLate
					default:
						want = succeeded
					}
					s.step(fmt.Sprintf("%s and %s of a grant that is %s and %s", tokenText, bindingText, spentText, expiredText), func(s *checked) {
						grant := newGrant()
						grant.Denied = token == denied
						s.mint(grant)
						winner, presentation := present(grant), present(grant)
						if spent == spentByThisAttempt {
							winner.Attempt = presentation.Attempt
						}
						if spent != unspent {
							s.wantConsumed(winner, grant)
						}
						if expired {
							clock.advance(grant.Lifespan)
						}
						switch token {
						case wrongSecret:
							presentation.SecretHash = random32()
						case wrongID:
							presentation.ID = newID()
						}
						if !rightBinding {
							presentation.Binding = random32()
						}
						if want == succeeded {
							s.wantConsumed(presentation, grant)
						} else {
							s.wantRefused(presentation, want)
							s.wantRefused(presentation, want)
						}

						// Nothing has changed by that.
						s.wantCreate(again(grant), alreadyDecided)
						switch {
						case token == denied:
							s.wantRefused(present(grant), notFound)
						case spent != unspent:
							s.wantConsumed(winner, grant)
							s.wantRefused(present(grant), alreadyConsumed)
						case want == succeeded: // it has been spent just now
							s.wantConsumed(presentation, grant)
							s.wantRefused(present(grant), alreadyConsumed)
						case expired:
							s.wantRefused(present(grant), tooLate)
						default:
							s.wantConsumed(present(grant), grant)
						}
					})
				}
			}
		}
	}
}

func expiresAtTheEnd(p *probe) {
	const step = fositeconsent.MinGrantLifespan
	for _, lifespan := range []time.Duration{step, 2 * step, time.Second, 90*time.Second + 7*step, 10 * time.Minute, 25 * time.Hour} {
		s, clock := p.openWithClock()
		s.step(fmt.Sprintf("of %v", lifespan), func(s *checked) {
			first, last, late := newGrant(), newGrant(), newGrant()
			for _, grant := range []*fositeconsent.Grant{first, last, late} {
				grant.Lifespan = lifespan
				s.mint(grant)
			}
			s.wantConsumed(present(first), first)
			clock.advance(lifespan - step)
			winner := present(last)
			s.wantConsumed(winner, last)
			clock.advance(step) // exactly at its end
			s.wantRefused(present(late), tooLate)
			s.wantConsumed(winner, last)
			clock.advance(step)
			s.wantRefused(present(late), tooLate)
			clock.advance(time.Hour)
			s.wantRefused(present(late), tooLate)
			s.wantConsumed(winner, last)

			fresh := newGrant() // the clock that expires is the one that creates
			fresh.Lifespan = lifespan
			s.mint(fresh)
			s.wantConsumed(present(fresh), fresh)
		})
	}
}

// expiresByOwnClock lets time pass by asking for something else, ever longer,
// until a grant of the shortest lifespan is found expired.
func expiresByOwnClock(p *probe) {
	const limit = 3 * time.Second
	s := p.open(Options{})
	lasting := newGrant()
	s.mint(lasting)
	unknown := present(newGrant())
	for start, others := time.Now(), 1; time.Since(start) < limit; others *= 2 {
		grant := newGrant()
		grant.Lifespan = fositeconsent.MinGrantLifespan
		s.mint(grant)
		for i := 0; i < others && time.Since(start) < limit; i++ {
			s.wantRefused(unknown, notFound)
		}
		switch _, err := s.consume(present(grant)); outcomeOf(err) {
		case succeeded: // too early still
		case tooLate:
			s.wantConsumed(present(lasting), lasting)
			return
		default:
			s.Fatalf("ConsumeConsentGrant: got %v, want %s or %s", err, succeeded, tooLate)
		}
	}
	s.Errorf("a grant for %v had not expired after %v", fositeconsent.MinGrantLifespan, limit)
}

func recognisedForTheRetention(p *probe) {
	const retention = 2 * fositeconsent.MaxPromptLifespan
	s, clock := p.openWithClock()
	spent, expired, denial, lasting := newGrant(), newGrant(), newDenial(newGrant()), newGrant()
	expired.Lifespan = fositeconsent.MinGrantLifespan
	denial.Lifespan = fositeconsent.MinGrantLifespan
	lasting.Lifespan = retention + time.Hour
	for _, grant := range []*fositeconsent.Grant{spent, expired, denial, lasting} {
		s.mint(grant)
	}
	winner := present(spent)
	s.wantConsumed(winner, spent)

	clock.advance(retention - fositeconsent.MinGrantLifespan)
	for _, grant := range []*fositeconsent.Grant{spent, expired, denial, lasting} {
		s.wantCreate(again(grant), alreadyDecided)
		s.wantCreate(newDenial(grant), alreadyDecided)
		s.wantCreate(grant, succeeded)
	}
	s.wantRefused(present(spent), alreadyConsumed)
	s.wantConsumed(winner, spent)
	s.wantRefused(present(expired), tooLate)
	s.wantRefused(present(denial), notFound)

	clock.advance(time.Hour) // the lifespan counts, however long it is
	s.wantConsumed(present(lasting), lasting)
}

func returnedGrantIsTheCallers(p *probe) {
	s := p.open(Options{})
	grant := newGrant()
	s.mint(grant)
	presentation := present(grant)
	for range 3 {
		overwrite(s.wantConsumed(presentation, grant))
	}
	s.wantRefused(present(grant), alreadyConsumed)
}
