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
			if err := s.createIn(over, grant); reason(err) != errOther {
				s.Errorf("CreateConsentGrant: got %v, want %v", outcome(reason(err)), errOther)
			}
		}
		for _, denied := range []bool{false, true} {
			first := newGrant()
			first.Denied = denied
			wantInterrupted(first)
			s.wantRefused(present(first), fositeconsent.ErrGrantNotFound)

			second := again(first) // nobody has decided yet
			second.Denied = false
			s.mint(second)
			wantInterrupted(second)
			wantInterrupted(first)
			s.wantRefused(present(first), fositeconsent.ErrGrantNotFound)
			s.wantConsumed(present(second), second)
		}
	})
}

func cancelledConsume(p *probe) {
	p.open(Options{}).overContexts(func(s *checked, over context.Context) {
		wantInterrupted := func(presentation fositeconsent.Presentation) {
			s.Helper()
			if _, err := s.consumeIn(over, presentation); reason(err) != errOther {
				s.Errorf("ConsumeConsentGrant: got %v, want %v", outcome(reason(err)), errOther)
			}
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
		prompt := newGrant()
		decisions := make([]*fositeconsent.Grant, contenders)
		for i := range decisions {
			decisions[i] = again(prompt)
		}
		// What a contender was told must hold when it asks again.
		told := make([]error, contenders)
		s.race(contenders, func(i int) error {
			told[i] = reason(s.createIn(s.soon(i), decisions[i]))
			return told[i]
		})
		var taken *fositeconsent.Grant
		for i, decision := range decisions {
			settled := reason(s.create(decision))
			s.consistent("CreateConsentGrant", told[i], settled, fositeconsent.ErrAlreadyDecided)
			if settled == nil {
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
		grant := newGrant()
		s.mint(grant)
		presentations := make([]fositeconsent.Presentation, contenders)
		for i := range presentations {
			presentations[i] = present(grant)
		}
		told := make([]error, contenders)
		s.race(contenders, func(i int) error {
			_, err := s.consumeIn(s.soon(i), presentations[i])
			told[i] = reason(err)
			return err
		})
		winners := 0
		for i, presentation := range presentations {
			_, err := s.consume(presentation)
			settled := reason(err)
			s.consistent("ConsumeConsentGrant", told[i], settled, fositeconsent.ErrGrantConsumed)
			if settled == nil {
				winners++
			}
		}
		if winners != 1 {
			s.Errorf("%d attempts spent one grant after each of them was repeated: want 1", winners)
		}
	}
}

// consistent compares what a call was told at first, under a context that ended
// under way, with what it was told when it was repeated.
func (s *checked) consistent(call string, told, settled, lost error) {
	s.Helper()
	switch {
	case settled != nil && settled != lost:
		s.Errorf("%s, repeated: got %v, want success or %v", call, outcome(settled), lost)
	case told != errOther && told != settled:
		s.Errorf("%s: got %v at first and %v when it was repeated", call, outcome(told), outcome(settled))
	}
}

func brokenBackend(p *probe) {
	s := p.open(Options{Broken: true})
	grant := newGrant()
	for range 2 {
		s.wantCreate(grant, errOther)
		s.wantCreate(again(grant), errOther)
		s.wantCreate(newDenial(grant), errOther)
		s.wantRefused(present(grant), errOther)
		s.wantRefused(present(newGrant()), errOther)
	}
	got := s.race(presenters, func(i int) error {
		if i%2 == 0 {
			return s.create(grant)
		}
		_, err := s.consume(present(grant))
		return err
	})
	s.wantTally(got, tally{errOther: presenters})
	s.overContexts(func(s *checked, over context.Context) {
		if err := s.createIn(over, grant); reason(err) != errOther {
			s.Errorf("CreateConsentGrant: got %v, want %v", outcome(reason(err)), errOther)
		}
		if _, err := s.consumeIn(over, present(grant)); reason(err) != errOther {
			s.Errorf("ConsumeConsentGrant: got %v, want %v", outcome(reason(err)), errOther)
		}
	})
}
