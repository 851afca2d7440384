package consenttest

import (
	"sync/atomic"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// rounds is how often a race is run, with the calls in different orders where
// they differ: the scheduler starts goroutines in an order of its own.
const rounds = 4

func manyConsumers(p *probe) {
	s := p.open(Options{})
	for range rounds {
		grant := newGrant()
		s.mint(grant)
		var winner atomic.Pointer[fositeconsent.Presentation]
		got := s.race(presenters, func(int) error {
			presentation := present(grant)
			returned, err := s.consume(presentation)
			if err == nil {
				winner.Store(&presentation)
				s.wantSame(returned, grant)
			}
			return err
		})
		s.wantTally(got, tally{succeeded: 1, alreadyConsumed: presenters - 1})
		if winner.Load() != nil {
			s.wantConsumed(*winner.Load(), grant)
		}
		s.wantRefused(present(grant), alreadyConsumed)
	}
}

func manyRepeatedAttempts(p *probe) {
	const attempts = 8
	s, clock := p.openWithClock()
	for range rounds {
		grant := newGrant()
		s.mint(grant)
		var presentations [attempts]fositeconsent.Presentation
		for i := range presentations {
			presentations[i] = present(grant)
		}
		var wins [attempts]atomic.Int32
		for again := range 2 { // the second time after the end of the lifespan
			got := s.race(presenters, func(i int) error {
				_, err := s.consume(presentations[i%attempts])
				if err == nil {
					wins[i%attempts].Add(1)
				}
				return err
			})
			s.wantTally(got, tally{succeeded: presenters / attempts, alreadyConsumed: presenters - presenters/attempts})
			for i := range wins {
				if n, all := int(wins[i].Load()), (again+1)*presenters/attempts; n != 0 && n != all {
					s.Errorf("one attempt, made %d times, succeeded %d times: want all or none", all, n)
				}
			}
			clock.advance(grant.Lifespan)
		}
	}
}

func oneAttemptManyTimes(p *probe) {
	s := p.open(Options{})
	for range rounds {
		grant := newGrant()
		s.mint(grant)
		presentation := present(grant)
		got := s.race(presenters, func(int) error {
			returned, err := s.consume(presentation)
			if err == nil {
				s.wantSame(returned, grant)
				overwrite(returned) // each has one of its own
			}
			return err
		})
		s.wantTally(got, tally{succeeded: presenters})
		s.wantRefused(present(grant), alreadyConsumed)
	}
}

func wrongPresentersInTheRace(p *probe) {
	s := p.open(Options{})
	for round := range rounds {
		grant := newGrant()
		s.mint(grant)
		got := s.race(presenters, func(i int) error {
			presentation := present(grant)
			switch (i + round) % 4 { // each kind is once the one that starts first
			case 0:
				presentation.Binding = random32()
			case 1:
				presentation.SecretHash = random32()
			}
			_, err := s.consume(presentation)
			return err
		})
		s.wantTally(got, tally{
			succeeded:       1,
			alreadyConsumed: presenters/2 - 1,
			mismatched:      presenters / 4,
			notFound:        presenters / 4,
		})

		// The right one among wrong ones, wherever it starts, and then none at all.
		grant = newGrant()
		s.mint(grant)
		right := round * (presenters - 1) / (rounds - 1)
		got = s.race(presenters, func(i int) error {
			presentation := present(grant)
			if i != right {
				presentation.Binding = random32()
			}
			_, err := s.consume(presentation)
			return err
		})
		s.wantTally(got, tally{succeeded: 1, mismatched: presenters - 1})

		grant = newGrant()
		s.mint(grant)
		got = s.race(presenters, func(int) error {
			presentation := present(grant)
			presentation.Binding = random32()
			_, err := s.consume(presentation)
			return err
		})
		s.wantTally(got, tally{mismatched: presenters})
		s.wantConsumed(present(grant), grant)
	}
}

// decide lets all the decisions race and returns the one that was taken, if it
// was exactly one.
func (s *checked) decide(decisions []*fositeconsent.Grant) *fositeconsent.Grant {
	s.Helper()
	var winner atomic.Pointer[fositeconsent.Grant]
	got := s.race(len(decisions), func(i int) error {
		err := s.create(decisions[i])
		if err == nil {
			winner.Store(decisions[i])
		}
		return err
	})
	s.wantTally(got, tally{succeeded: 1, alreadyDecided: len(decisions) - 1})
	return winner.Load()
}

// onlyTaken sees that of all decisions on one prompt only the taken one counts.
func (s *checked) onlyTaken(taken *fositeconsent.Grant, decisions []*fositeconsent.Grant) {
	s.Helper()
	for _, decision := range decisions {
		if decision != taken {
			s.wantRefused(present(decision), notFound)
		}
	}
	switch {
	case taken == nil:
	case taken.Denied:
		s.wantRefused(present(taken), notFound)
	default:
		s.wantConsumed(present(taken), taken)
	}
}

func manyMints(p *probe) {
	s := p.open(Options{})
	for range rounds {
		prompt := newGrant()
		mints := make([]*fositeconsent.Grant, presenters)
		for i := range mints {
			mints[i] = again(prompt)
		}
		s.onlyTaken(s.decide(mints), mints)
	}
}

func oneMintManyTimes(p *probe) {
	s := p.open(Options{})
	for range rounds {
		grant := newGrant()
		got := s.race(presenters, func(int) error { return s.create(grant) })
		s.wantTally(got, tally{succeeded: presenters})
		s.wantCreate(again(grant), alreadyDecided)
		s.wantConsumed(present(grant), grant)
		s.wantRefused(present(grant), alreadyConsumed)
	}
}

func mintsAndDenials(p *probe) {
	s := p.open(Options{})
	for round := range rounds {
		for _, n := range []int{2, presenters} {
			prompt := newGrant()
			decisions := make([]*fositeconsent.Grant, n)
			for i := range decisions {
				if (i+round)%2 == 0 { // each kind is as often the one that starts first
					decisions[i] = again(prompt)
				} else {
					decisions[i] = newDenial(prompt)
				}
			}
			s.onlyTaken(s.decide(decisions), decisions)
		}
	}
}

func consumeRacesCreate(p *probe) {
	s := p.open(Options{})
	for round := range rounds {
		grant := newGrant()
		creator := round * (presenters - 1) / (rounds - 1) // early, late and in between
		var wins atomic.Int32
		got := s.race(presenters, func(i int) error {
			if i == creator {
				return s.create(grant)
			}
			returned, err := s.consume(present(grant))
			if err == nil {
				wins.Add(1)
				s.wantSame(returned, grant)
			}
			return err
		})
		if got[succeeded] != 1+int(wins.Load()) {
			s.Error("the create failed because the grant was being presented")
		}
		if wins.Load() == 0 {
			s.wantTally(got, tally{succeeded: 1, notFound: presenters - 1})
			s.wantConsumed(present(grant), grant)
			continue
		}
		early := got[notFound]
		s.wantTally(got, tally{succeeded: 2, notFound: early, alreadyConsumed: presenters - 2 - early})
		s.wantRefused(present(grant), alreadyConsumed)
	}
}

func independentGrants(p *probe) {
	s := p.open(Options{})
	grants := make([]*fositeconsent.Grant, presenters)
	for i := range grants {
		grants[i] = newGrant()
	}
	got := s.race(presenters, func(i int) error {
		grant := grants[i]
		if err := s.create(grant); err != nil {
			return err
		}
		returned, err := s.consume(present(grant))
		if err == nil {
			s.wantSame(returned, grant)
		}
		return err
	})
	s.wantTally(got, tally{succeeded: presenters})
	for _, grant := range grants {
		s.wantRefused(present(grant), alreadyConsumed)
	}
}
