package consenttest

import (
	"context"
	"errors"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// overContexts runs a step with each kind of context that is over before the call.
func (s *checked) overContexts(test func(s *checked, over context.Context)) {
	s.Helper()
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	withCause, cancelCause := context.WithCancelCause(s.ctx)
	cancelCause(errors.New("the browser went away"))
	late, cancelLate := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancelLate()
	s.step("by the caller", func(s *checked) { test(s, cancelled) })
	s.step("by the caller with a cause", func(s *checked) { test(s, withCause) })
	s.step("by a deadline that is passed", func(s *checked) { test(s, late) })
}

func cancelledCreate(p *probe) {
	p.open(Options{}).overContexts(func(s *checked, over context.Context) {
		wantInterrupted := func(grant *fositeconsent.Grant) {
			s.Helper()
			s.compare("CreateConsentGrant", s.createIn(over, grant), failed)
		}
		for _, denied := range []bool{false, true} {
			first := newGrant()
			first.Denied = denied
			wantInterrupted(first)
			s.wantRefused(present(first), notFound)

			second := again(first) // nobody has decided yet
			second.Denied = false
			s.mint(second)
			wantInterrupted(second)
			wantInterrupted(first)
			s.wantRefused(present(first), notFound)
			s.wantConsumed(present(second), second)
		}
	})
}

func cancelledConsume(p *probe) {
	p.open(Options{}).overContexts(func(s *checked, over context.Context) {
		wantInterrupted := func(presentation fositeconsent.Presentation) {
			s.Helper()
			_, err := s.consumeIn(over, presentation)
			s.compare("ConsumeConsentGrant", err, failed)
		}
		grant := newGrant()
		wantInterrupted(present(grant))
		s.mint(grant)
		wrong := present(grant)
		wrong.Binding = random32()
		wantInterrupted(wrong)
		wantInterrupted(present(grant))
		winner := present(grant)
		s.wantConsumed(winner, grant) // by another attempt than the cancelled one: it spent nothing
		wantInterrupted(winner)
		wantInterrupted(present(grant))
		s.wantConsumed(winner, grant)
	})
}

// contenders is how many cancelled calls race each other: a cancelled call may
// cost a storage its connection.
const contenders = 16

// soon returns a context that ends at some moment of the next millisecond, the
// earlier the smaller i is, by its deadline or by a cancellation.
func (s *checked) soon(i int) context.Context {
	after := time.Duration(i) * time.Millisecond / contenders
	if i%2 == 0 {
		ctx, cancel := context.WithTimeout(s.ctx, after)
		s.Cleanup(cancel)
		return ctx
	}
	ctx, cancel := context.WithCancel(s.ctx)
	timer := time.AfterFunc(after, cancel)
	s.Cleanup(func() { timer.Stop(); cancel() })
	return ctx
}

func createCancelledUnderWay(p *probe) {
	s := p.open(Options{})
	for range rounds {
		// Each of a prompt of its own: nobody else can have decided it.
		alone := make([]*fositeconsent.Grant, contenders)
		for i := range alone {
			alone[i] = newGrant()
		}
		told := s.contend(func(ctx context.Context, i int) error { return s.createIn(ctx, alone[i]) })
		for i, grant := range alone {
			s.consistent("CreateConsentGrant", told[i], outcomeOf(s.create(grant)), succeeded)
			s.wantConsumed(present(grant), grant)
		}

		// All of one prompt.
		prompt := newGrant()
		decisions := make([]*fositeconsent.Grant, contenders)
		for i := range decisions {
			decisions[i] = again(prompt)
		}
		told = s.contend(func(ctx context.Context, i int) error { return s.createIn(ctx, decisions[i]) })
		var taken *fositeconsent.Grant
		for i, decision := range decisions {
			settled := outcomeOf(s.create(decision))
			s.consistent("CreateConsentGrant", told[i], settled, alreadyDecided)
			if settled == succeeded {
				if taken != nil {
					s.Error("two decisions were taken on one prompt")
				}
				taken = decision
			}
		}
		if taken == nil {
			s.Error("no decision was taken although each of them was repeated")
		}
		s.onlyTaken(taken, decisions)
	}
}

func consumeCancelledUnderWay(p *probe) {
	s := p.open(Options{})
	for range rounds {
		// Each for a grant of its own: nobody else can have spent it.
		alone := make([]*fositeconsent.Grant, contenders)
		presentations := make([]fositeconsent.Presentation, contenders)
		for i := range alone {
			alone[i] = newGrant()
			s.mint(alone[i])
			presentations[i] = present(alone[i])
		}
		told := s.contend(func(ctx context.Context, i int) error {
			_, err := s.consumeIn(ctx, presentations[i])
			return err
		})
		for i, presentation := range presentations {
			_, err := s.consume(presentation)
			s.consistent("ConsumeConsentGrant", told[i], outcomeOf(err), succeeded)
			s.wantRefused(present(alone[i]), alreadyConsumed)
		}

		// All for one grant.
		grant := newGrant()
		s.mint(grant)
		for i := range presentations {
			presentations[i] = present(grant)
		}
		told = s.contend(func(ctx context.Context, i int) error {
			_, err := s.consumeIn(ctx, presentations[i])
			return err
		})
		winners := 0
		for i, presentation := range presentations {
			_, err := s.consume(presentation)
			settled := outcomeOf(err)
			s.consistent("ConsumeConsentGrant", told[i], settled, alreadyConsumed)
			if settled == succeeded {
				winners++
			}
		}
		if winners != 1 {
			s.Errorf("%d attempts spent one grant after each of them was repeated: want 1", winners)
		}
	}
}

// contend runs calls at once under contexts that end while they are under way,
// and returns what each of them was told.
func (s *checked) contend(call func(ctx context.Context, i int) error) []outcome {
	s.Helper()
	told := make([]outcome, contenders)
	s.race(contenders, func(i int) error {
		err := call(s.soon(i), i)
		told[i] = outcomeOf(err)
		return err
	})
	return told
}

// consistent compares what a call was told at first, under a context that ended
// under way, with what it was told when it was repeated: that it succeeded, or
// that it lost, which is succeeded as well for one that nobody can have beaten.
func (s *checked) consistent(call string, told, settled, lost outcome) {
	s.Helper()
	switch {
	case settled != succeeded && settled != lost:
		s.Errorf("%s, repeated after an interruption: got %s", call, settled)
	case told != failed && told != settled:
		s.Errorf("%s: got %s at first and %s when it was repeated", call, told, settled)
	}
}

func brokenBackend(p *probe) {
	s := p.open(Options{Broken: true})
	grant := newGrant()
	// All at once: a storage that tries again takes its time over each of them.
	calls := []func() error{
		func() error { return s.create(grant) },
		func() error { return s.create(again(grant)) },
		func() error { return s.create(newDenial(grant)) },
		func() error {
			_, err := s.consume(present(grant))
			return err
		},
	}
	got := s.race(presenters, func(i int) error { return calls[i%len(calls)]() })
	s.wantTally(got, tally{failed: presenters})
	s.overContexts(func(s *checked, over context.Context) {
		s.compare("CreateConsentGrant", s.createIn(over, grant), failed)
		_, err := s.consumeIn(over, present(grant))
		s.compare("ConsumeConsentGrant", err, failed)
	})
}
