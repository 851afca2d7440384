package consenttest

import (
	"sync"
	"sync/atomic"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// rounds is how often a race is run.
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
		s.wantTally(got, tally{nil: 1, fositeconsent.ErrGrantConsumed: presenters - 1})
		if winner.Load() != nil {
			s.wantConsumed(*winner.Load(), grant)
		}
		s.wantRefused(present(grant), fositeconsent.ErrGrantConsumed)
	}
}

func manyRepeatedAttempts(p *probe) {
	const attempts = 8
	s := p.open(Options{})
	for range rounds {
		grant := newGrant()
		s.mint(grant)
		var presentations [attempts]fositeconsent.Presentation
		for i := range presentations {
			presentations[i] = present(grant)
		}
		var wins [attempts]atomic.Int32
		got := s.race(presenters, func(i int) error {
			_, err := s.consume(presentations[i%attempts])
			if err == nil {
				wins[i%attempts].Add(1)
			}
			return err
		})
		s.wantTally(got, tally{nil: presenters / attempts, fositeconsent.ErrGrantConsumed: presenters - presenters/attempts})
		for i := range wins {
			if n := wins[i].Load(); n != 0 && n != presenters/attempts {
				s.Errorf("one attempt, made %d times, succeeded %d times: want all or none", presenters/attempts, n)
			}
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
		s.wantTally(got, tally{nil: presenters})
		s.wantRefused(present(grant), fositeconsent.ErrGrantConsumed)
	}
}

func wrongPresentersInTheRace(p *probe) {
	s := p.open(Options{})
	for range rounds {
		grant := newGrant()
		s.mint(grant)
		got := s.race(presenters, func(i int) error {
			presentation := present(grant)
			switch i % 4 {
			case 0:
				presentation.Binding = random32()
			case 1:
				presentation.SecretHash = random32()
			}
			_, err := s.consume(presentation)
			return err
		})
		s.wantTally(got, tally{
			nil:                              1,
			fositeconsent.ErrGrantConsumed:   presenters/2 - 1,
			fositeconsent.ErrBindingMismatch: presenters / 4,
			fositeconsent.ErrGrantNotFound:   presenters / 4,
		})

		// Where only wrong ones race, the grant survives.
		grant = newGrant()
		s.mint(grant)
		got = s.race(presenters, func(int) error {
			presentation := present(grant)
			presentation.Binding = random32()
			_, err := s.consume(presentation)
			return err
		})
		s.wantTally(got, tally{fositeconsent.ErrBindingMismatch: presenters})
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
	s.wantTally(got, tally{nil: 1, fositeconsent.ErrAlreadyDecided: len(decisions) - 1})
	return winner.Load()
}

// onlyTaken sees that of all decisions on one prompt only the taken one counts.
func (s *checked) onlyTaken(taken *fositeconsent.Grant, decisions []*fositeconsent.Grant) {
	s.Helper()
	for _, decision := range decisions {
		if decision != taken {
			s.wantRefused(present(decision), fositeconsent.ErrGrantNotFound)
		}
	}
	switch {
	case taken == nil:
	case taken.Denied:
		s.wantRefused(present(taken), fositeconsent.ErrGrantNotFound)
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
		s.wantTally(got, tally{nil: presenters})
		s.wantCreate(again(grant), fositeconsent.ErrAlreadyDecided)
		s.wantConsumed(present(grant), grant)
		s.wantRefused(present(grant), fositeconsent.ErrGrantConsumed)
	}
}

func mintsAndDenials(p *probe) {
	s := p.open(Options{})
	for range rounds {
		for _, n := range []int{2, presenters} {
			prompt := newGrant()
			decisions := make([]*fositeconsent.Grant, n)
			for i := range decisions {
				if i%2 == 0 {
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
	for range rounds {
		grant := newGrant()
		var wins atomic.Int32
		got := s.race(presenters, func(i int) error {
			if i == 0 {
				return s.create(grant)
			}
			returned, err := s.consume(present(grant))
			if err == nil {
				wins.Add(1)
				s.wantSame(returned, grant)
			}
			return err
		})
		if got[nil] != 1+int(wins.Load()) {
			s.Error("the create failed because the grant was being presented")
		}
		if wins.Load() == 0 {
			s.wantTally(got, tally{nil: 1, fositeconsent.ErrGrantNotFound: presenters - 1})
			s.wantConsumed(present(grant), grant)
			continue
		}
		early := got[fositeconsent.ErrGrantNotFound]
		s.wantTally(got, tally{nil: 2, fositeconsent.ErrGrantNotFound: early, fositeconsent.ErrGrantConsumed: presenters - 2 - early})
		s.wantRefused(present(grant), fositeconsent.ErrGrantConsumed)
	}
}

func independentGrants(p *probe) {
	s := p.open(Options{})
	var grants sync.Map
	got := s.race(presenters, func(i int) error {
		grant := newGrant()
		grants.Store(i, grant)
		if err := s.create(grant); err != nil {
			return err
		}
		returned, err := s.consume(present(grant))
		if err == nil {
			s.wantSame(returned, grant)
		}
		return err
	})
	s.wantTally(got, tally{nil: presenters})
	grants.Range(func(_, grant any) bool {
		s.wantRefused(present(grant.(*fositeconsent.Grant)), fositeconsent.ErrGrantConsumed)
		return true
	})
}
