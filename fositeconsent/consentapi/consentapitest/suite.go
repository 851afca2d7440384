package consentapitest

import (
	"context"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

func returnedAsCreated(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	s.wantState(r, nil, consentapi.StatePending)

	bare := newRequest()
	bare.LoginSession = ""
	s.create(bare)
	s.wantState(bare, nil, consentapi.StatePending)

	large := newRequest()
	large.Document = []byte(strings.Repeat("ä{}\x00\xff\n", 20_000))
	s.create(large)
	s.wantState(large, nil, consentapi.StatePending)
}

func textIsExact(p *probe) {
	s := p.open(consenttest.Options{})
	for _, text := range []string{"ünïcode 界", "'; DROP TABLE requests; --", `\x00 $1 %s`, " space ", "line\nbreak\t", "e\u0301", "\xff\xfe", "nul\x00nul", strings.Repeat("long", 500)} {
		for _, set := range []func(*consentapi.Request){
			func(r *consentapi.Request) { r.Subject = text },
			func(r *consentapi.Request) { r.ClientID = text },
			func(r *consentapi.Request) { r.LoginSession = text },
		} {
			r := newRequest()
			set(r)
			if err := s.createIn(s.ctx, r); err != nil {
				s.want("CreateConsentRequest", err, errFailed)
				_, err = s.findIn(s.ctx, r.ID, r.Challenge)
				s.want("FindConsentRequest of what was refused", err, consentapi.ErrRequestNotFound)
				continue
			}
			s.wantState(r, nil, consentapi.StatePending)
		}
	}
}

func expiresAtTheEnd(p *probe) {
	s, clock := p.openWithClock()
	pending, accepted, rejected := s.create(newRequest()), s.create(newRequest()), s.create(newRequest())
	yes, no := s.answer(accepted, newAnswer(true)), s.answer(rejected, newAnswer(false))
	inTime := s.create(newRequest())
	inTimeYes := newAnswer(true)

	found, err := s.findIn(s.ctx, pending.ID, pending.Challenge)
	if s.want("FindConsentRequest", err, nil) && (!found.CreatedAt.Equal(clock.Now()) || !found.ExpiresAt.Equal(clock.Now().Add(pending.Lifespan))) {
		s.Errorf("created at %v and expires at %v, want %v and %v later", found.CreatedAt, found.ExpiresAt, clock.Now(), pending.Lifespan)
	}
	clock.advance(pending.Lifespan - time.Millisecond)
	s.wantState(pending, nil, consentapi.StatePending)
	s.wantState(accepted, yes, consentapi.StateAccepted)
	s.wantState(rejected, no, consentapi.StateRejected)
	s.answer(inTime, inTimeYes)
	if found, err := s.findIn(s.ctx, inTime.ID, inTime.Challenge); s.want("FindConsentRequest", err, nil) && !found.Answer.AnsweredAt.Equal(clock.Now()) {
		s.Errorf("answered at %v, want %v", found.Answer.AnsweredAt, clock.Now())
	}
	s.want("UseConsentRequest in the last moment", s.use(inTime, inTimeYes), nil)

	clock.advance(time.Millisecond)
	s.wantState(pending, nil, consentapi.StateExpired)
	s.wantState(accepted, yes, consentapi.StateExpired)
	s.wantState(rejected, no, consentapi.StateExpired)
	_, err = s.answerIn(s.ctx, pending, newAnswer(true))
	s.want("AnswerConsentRequest at the end", err, consentapi.ErrRequestExpired)
	_, err = s.answerIn(s.ctx, pending, newAnswer(false))
	s.want("AnswerConsentRequest at the end", err, consentapi.ErrRequestExpired)
	s.want("UseConsentRequest at the end", s.use(accepted, yes), consentapi.ErrRequestExpired)
	if n := s.revoke(fositeconsent.Selection{Subject: accepted.Subject}); n != 0 {
		s.Errorf("RevokeConsentRequests of an expired request: got %d, want 0", n)
	}

	clock.advance(fositeconsent.MaxPromptLifespan)
	s.wantState(pending, nil, consentapi.StateExpired)
	s.wantState(inTime, inTimeYes, consentapi.StateUsed)
}

func datedByOwnClock(p *probe) {
	s := p.open(consenttest.Options{})
	before := time.Now()
	r := s.create(newRequest())
	found, err := s.findIn(s.ctx, r.ID, r.Challenge)
	if !s.want("FindConsentRequest", err, nil) {
		return
	}
	const leeway = 10 * time.Minute // of another machine's clock
	if found.CreatedAt.Before(before.Add(-leeway)) || found.CreatedAt.After(time.Now().Add(leeway)) {
		s.Errorf("created at %v, and it is %v", found.CreatedAt, time.Now())
	}
	if got := found.ExpiresAt.Sub(found.CreatedAt); got != r.Lifespan {
		s.Errorf("it lives for %v, want %v", got, r.Lifespan)
	}
}

func incompleteRefused(p *probe) {
	s := p.open(consenttest.Options{})
	for what, set := range map[string]func(*consentapi.Request){
		"no ID":                    func(r *consentapi.Request) { r.ID = fositeconsent.ID{} },
		"no challenge":             func(r *consentapi.Request) { r.Challenge = consentapi.Hash{} },
		"no browser":               func(r *consentapi.Request) { r.Browser = consentapi.Hash{} },
		"no subject":               func(r *consentapi.Request) { r.Subject = "" },
		"no client":                func(r *consentapi.Request) { r.ClientID = "" },
		"no document":              func(r *consentapi.Request) { r.Document = nil },
		"no lifespan":              func(r *consentapi.Request) { r.Lifespan = 0 },
		"a negative lifespan":      func(r *consentapi.Request) { r.Lifespan = -time.Hour },
		"a lifespan that is short": func(r *consentapi.Request) { r.Lifespan = fositeconsent.MinGrantLifespan - 1 },
		"a lifespan that is long":  func(r *consentapi.Request) { r.Lifespan = fositeconsent.MaxPromptLifespan + 1 },
	} {
		r := newRequest()
		set(r)
		s.want(what, s.createIn(s.ctx, r), errFailed)
		_, err := s.findIn(s.ctx, r.ID, r.Challenge)
		s.want(what+": FindConsentRequest", err, consentapi.ErrRequestNotFound)
	}
}

func createRepeated(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	s.create(r)
	s.wantState(r, nil, consentapi.StatePending)

	retry := *r
	retry.Subject = "somebody else"
	s.create(&retry)
	s.wantState(r, nil, consentapi.StatePending)

	for _, set := range []func(*consentapi.Request){
		func(r *consentapi.Request) { r.Challenge = newHash() },
		func(r *consentapi.Request) { r.Browser = newHash() },
	} {
		other := *r
		set(&other)
		s.want("CreateConsentRequest with an ID that exists", s.createIn(s.ctx, &other), errFailed)
	}
	yes := s.answer(r, newAnswer(true))
	s.create(r)
	s.wantState(r, yes, consentapi.StateAccepted)
}

func everyBitOfTheChallenge(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	missed := func(id fositeconsent.ID, challenge consentapi.Hash) {
		_, err := s.findIn(s.ctx, id, challenge)
		s.want("FindConsentRequest", err, consentapi.ErrRequestNotFound)
		_, err = s.answerIn(s.ctx, &consentapi.Request{ID: id, Challenge: challenge}, newAnswer(true))
		s.want("AnswerConsentRequest", err, consentapi.ErrRequestNotFound)
	}
	for _, id := range flipped(r.ID, 16) {
		missed(id, r.Challenge)
	}
	for _, challenge := range flipped(r.Challenge, 32) {
		missed(r.ID, challenge)
	}
	missed(fositeconsent.ID{}, consentapi.Hash{})
	missed(r.ID, consentapi.Hash{})
	missed(r.ID, r.Browser)
	s.wantState(r, nil, consentapi.StatePending)
}

func everyBitOfTheVerifier(p *probe) {
	s := p.open(consenttest.Options{})
	r, other := s.create(newRequest()), s.create(newRequest())
	yes := s.answer(r, newAnswer(true))
	otherYes := s.answer(other, newAnswer(true))
	missed := func(id fositeconsent.ID, verifier, browser consentapi.Hash) {
		_, err := s.answeredIn(s.ctx, id, verifier, browser)
		s.want("FindAnsweredConsentRequest", err, consentapi.ErrRequestNotFound)
		s.want("UseConsentRequest", s.use(&consentapi.Request{ID: id, Browser: browser}, &consentapi.Answer{Verifier: verifier}), consentapi.ErrRequestNotFound)
	}
	for _, id := range flipped(r.ID, 16) {
		missed(id, yes.Verifier, r.Browser)
	}
	for _, verifier := range flipped(yes.Verifier, 32) {
		missed(r.ID, verifier, r.Browser)
	}
	for _, browser := range flipped(r.Browser, 32) {
		missed(r.ID, yes.Verifier, browser)
	}
	missed(r.ID, consentapi.Hash{}, r.Browser)
	missed(r.ID, yes.Verifier, consentapi.Hash{})
	missed(r.ID, otherYes.Verifier, r.Browser)
	missed(r.ID, yes.Verifier, other.Browser)
	missed(other.ID, yes.Verifier, r.Browser)
	s.wantState(r, yes, consentapi.StateAccepted)
	s.want("UseConsentRequest", s.use(r, yes), nil)
	// Who has no right to it is not told that it was used either.
	missed(other.ID, yes.Verifier, r.Browser)
	missed(r.ID, otherYes.Verifier, r.Browser)
	missed(r.ID, yes.Verifier, other.Browser)
}

func returnedAsAnswered(p *probe) {
	s := p.open(consenttest.Options{})
	for _, accepted := range []bool{true, false} {
		r, a := s.create(newRequest()), newAnswer(accepted)
		a.Document = []byte("{\"ä\":\"\\u0000\"}\x00\xff")
		s.answer(r, a)
		want := consentapi.StateRejected
		if accepted {
			want = consentapi.StateAccepted
		}
		s.wantState(r, a, want)
	}
}

func incompleteAnswerRefused(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	for what, set := range map[string]func(*consentapi.Answer){
		"no digest":   func(a *consentapi.Answer) { a.Digest = consentapi.Hash{} },
		"no verifier": func(a *consentapi.Answer) { a.Verifier = consentapi.Hash{} },
		"no document": func(a *consentapi.Answer) { a.Document = nil },
	} {
		a := newAnswer(true)
		set(a)
		_, err := s.answerIn(s.ctx, r, a)
		s.want(what, err, errFailed)
	}
	_, err := s.answerIn(s.ctx, r, nil)
	s.want("no answer", err, errFailed)
	s.wantState(r, nil, consentapi.StatePending)
}

func firstAnswerStands(p *probe) {
	s := p.open(consenttest.Options{})
	for _, accepted := range []bool{true, false} {
		r := s.create(newRequest())
		first := s.answer(r, newAnswer(accepted))
		opposite := *first
		opposite.Accepted = !accepted
		for _, other := range []*consentapi.Answer{newAnswer(true), newAnswer(false), &opposite} {
			_, err := s.answerIn(s.ctx, r, other)
			s.want("AnswerConsentRequest with another answer", err, consentapi.ErrRequestAnswered)
		}
		found, err := s.findIn(s.ctx, r.ID, r.Challenge)
		if s.want("FindConsentRequest", err, nil) {
			s.wantSame(found, r, first)
		}
	}
}

func sameAnswerAgain(p *probe) {
	s, clock := p.openWithClock()
	again := func(r *consentapi.Request, first *consentapi.Answer, state consentapi.State) {
		s.Helper()
		retry := *first
		retry.Verifier, retry.Document = newHash(), []byte("another spelling") // under another secret
		got, err := s.answerIn(s.ctx, r, &retry)
		if s.want("AnswerConsentRequest once more", err, nil) {
			s.wantSame(got, r, first)
			if got.State != state {
				s.Errorf("the state is %q, want %q", got.State, state)
			}
		}
		s.wantState(r, first, state)
	}
	accepted, rejected, used, revoked := s.create(newRequest()), s.create(newRequest()), s.create(newRequest()), s.create(newRequest())
	yes, no, usedYes, revokedYes := s.answer(accepted, newAnswer(true)), s.answer(rejected, newAnswer(false)), s.answer(used, newAnswer(true)), s.answer(revoked, newAnswer(true))
	again(accepted, yes, consentapi.StateAccepted)
	again(rejected, no, consentapi.StateRejected)
	s.want("UseConsentRequest", s.use(used, usedYes), nil)
	again(used, usedYes, consentapi.StateUsed)
	if n := s.revoke(fositeconsent.Selection{Subject: revoked.Subject}); n != 1 {
		s.Errorf("revoked %d, want 1", n)
	}
	again(revoked, revokedYes, consentapi.StateRevoked)
	clock.advance(accepted.Lifespan)
	again(accepted, yes, consentapi.StateExpired)
	_, err := s.answerIn(s.ctx, accepted, newAnswer(true))
	s.want("AnswerConsentRequest with another answer, when it has expired", err, consentapi.ErrRequestAnswered)
}

func usedOnce(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	yes := s.answer(r, newAnswer(true))
	s.want("UseConsentRequest", s.use(r, yes), nil)
	for range 3 {
		s.want("UseConsentRequest once more", s.use(r, yes), consentapi.ErrRequestUsed)
	}
	s.wantState(r, yes, consentapi.StateUsed)
}

func neverUsed(p *probe) {
	s := p.open(consenttest.Options{})
	pending, rejected := s.create(newRequest()), s.create(newRequest())
	no := s.answer(rejected, newAnswer(false))
	s.want("UseConsentRequest of a rejection", s.use(rejected, no), consentapi.ErrRequestNotFound)
	s.want("UseConsentRequest of a pending request", s.use(pending, newAnswer(true)), consentapi.ErrRequestNotFound)
	s.want("UseConsentRequest of a pending request", s.use(pending, &consentapi.Answer{}), consentapi.ErrRequestNotFound)
	_, err := s.answeredIn(s.ctx, pending.ID, consentapi.Hash{}, pending.Browser)
	s.want("FindAnsweredConsentRequest of a pending request", err, consentapi.ErrRequestNotFound)
	s.wantState(pending, nil, consentapi.StatePending)
	s.wantState(rejected, no, consentapi.StateRejected)
}

func revokesSelection(p *probe) {
	s := p.open(consenttest.Options{})
	like := newRequest()
	of := func(set func(*consentapi.Request)) (*consentapi.Request, *consentapi.Answer) {
		r := newRequest()
		r.Subject, r.ClientID, r.LoginSession = like.Subject, like.ClientID, like.LoginSession
		if set != nil {
			set(r)
		}
		return s.create(r), s.answer(r, newAnswer(true))
	}
	for _, c := range []struct {
		selection fositeconsent.Selection
		spares    func(*consentapi.Request)
	}{
		{fositeconsent.Selection{Subject: like.Subject}, func(r *consentapi.Request) { r.Subject = like.Subject + "2" }},
		{fositeconsent.Selection{ClientID: like.ClientID}, func(r *consentapi.Request) { r.ClientID = like.ClientID + "2" }},
		{fositeconsent.Selection{Subject: like.Subject, ClientID: like.ClientID}, func(r *consentapi.Request) { r.ClientID = "another" }},
		{fositeconsent.Selection{Subject: like.Subject, ClientID: like.ClientID}, func(r *consentapi.Request) { r.Subject = "another" }},
		{fositeconsent.Selection{Subject: like.Subject, LoginSession: like.LoginSession}, func(r *consentapi.Request) { r.LoginSession = "another" }},
		{fositeconsent.Selection{Issuer: "https://issuer.example", Subject: like.Subject}, func(r *consentapi.Request) { r.Subject = "another" }},
	} {
		hit, hitYes := of(nil)
		spared, sparedYes := of(c.spares)
		if n := s.revoke(c.selection); n != 1 {
			s.Errorf("%+v: revoked %d, want 1", c.selection, n)
		}
		s.wantState(hit, hitYes, consentapi.StateRevoked)
		s.wantState(spared, sparedYes, consentapi.StateAccepted)
		s.want("UseConsentRequest of what was revoked", s.use(hit, hitYes), consentapi.ErrRequestRevoked)
		s.want("UseConsentRequest of what was spared", s.use(spared, sparedYes), nil)
		if n := s.revoke(c.selection); n != 0 {
			s.Errorf("%+v again: revoked %d, want 0", c.selection, n)
		}
	}

	one, oneYes := of(nil)
	two, twoYes := of(nil)
	if n := s.revoke(fositeconsent.Selection{Subject: like.Subject, ConsentID: one.ID}); n != 1 {
		s.Errorf("by its ID: revoked %d, want 1", n)
	}
	if n := s.revoke(fositeconsent.Selection{Subject: "another", ConsentID: two.ID}); n != 0 {
		s.Errorf("by its ID, of another subject: revoked %d, want 0", n)
	}
	s.wantState(one, oneYes, consentapi.StateRevoked)
	s.wantState(two, twoYes, consentapi.StateAccepted)

	// A page that is open can still be answered, and a rejection stands.
	pending, rejected := newRequest(), newRequest()
	pending.Subject, rejected.Subject = two.Subject, two.Subject
	s.create(pending)
	no := s.answer(s.create(rejected), newAnswer(false))
	if n := s.revoke(fositeconsent.Selection{Subject: two.Subject}); n != 1 {
		s.Errorf("revoked %d, want the one that was accepted", n)
	}
	s.wantState(pending, nil, consentapi.StatePending)
	s.wantState(rejected, no, consentapi.StateRejected)
}

func everybodyRefused(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	yes := s.answer(r, newAnswer(true))
	for _, selection := range []fositeconsent.Selection{{}, {Issuer: "https://issuer.example"}, {ConsentID: r.ID}, {LoginSession: r.LoginSession}} {
		n, err := s.under.RevokeConsentRequests(s.ctx, selection)
		s.want("RevokeConsentRequests", err, errFailed)
		if n != 0 {
			s.Errorf("revoked %d, want 0", n)
		}
	}
	s.wantState(r, yes, consentapi.StateAccepted)
}

func firstState(p *probe) {
	s, clock := p.openWithClock()
	used, revoked := s.create(newRequest()), s.create(newRequest())
	usedYes, revokedYes := s.answer(used, newAnswer(true)), s.answer(revoked, newAnswer(true))
	s.want("UseConsentRequest", s.use(used, usedYes), nil)
	if n := s.revoke(fositeconsent.Selection{Subject: used.Subject}); n != 0 {
		s.Errorf("revoked %d of what was used, want 0", n)
	}
	s.revoke(fositeconsent.Selection{Subject: revoked.Subject})
	clock.advance(used.Lifespan)
	s.wantState(used, usedYes, consentapi.StateUsed)
	s.wantState(revoked, revokedYes, consentapi.StateRevoked)
	s.want("UseConsentRequest", s.use(used, usedYes), consentapi.ErrRequestUsed)
	s.want("UseConsentRequest", s.use(revoked, revokedYes), consentapi.ErrRequestRevoked)
}

func callersOwn(p *probe) {
	s := p.open(consenttest.Options{})
	r, yes := newRequest(), newAnswer(true)
	created, given := clone(r), *yes
	created.Document, given.Document = append([]byte(nil), r.Document...), append([]byte(nil), yes.Document...)
	s.create(r)
	r.Document[0] ^= 1
	got, err := s.answerIn(s.ctx, &created, yes)
	if !s.want("AnswerConsentRequest", err, nil) {
		return
	}
	yes.Document[0] ^= 1
	for range 2 {
		got.Document[0] ^= 1
		got.Answer.Document[0] ^= 1
		if got, err = s.findIn(s.ctx, created.ID, created.Challenge); !s.want("FindConsentRequest", err, nil) {
			return
		}
		s.wantSame(got, &created, &given)
	}
}

func manyAnswers(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	s.wantTally(s.race(callers, func(int) error {
		_, err := s.answerIn(s.ctx, r, newAnswer(true))
		return err
	}), map[error]int{nil: 1, consentapi.ErrRequestAnswered: callers - 1})
}

func acceptsAndRejects(p *probe) {
	s := p.open(consenttest.Options{})
	for range 8 {
		r, yes, no := s.create(newRequest()), newAnswer(true), newAnswer(false)
		s.wantTally(s.race(callers, func(i int) error {
			a := yes
			if i%2 == 0 {
				a = no
			}
			_, err := s.answerIn(s.ctx, r, a)
			return err
		}), map[error]int{nil: callers / 2, consentapi.ErrRequestAnswered: callers / 2})
	}
}

func oneAnswerManyTimes(p *probe) {
	s := p.open(consenttest.Options{})
	r, yes := s.create(newRequest()), newAnswer(true)
	s.wantTally(s.race(callers, func(int) error {
		got, err := s.answerIn(s.ctx, r, yes)
		if err == nil {
			s.wantSame(got, r, yes)
		}
		return err
	}), map[error]int{nil: callers})
}

func manyUses(p *probe) {
	s := p.open(consenttest.Options{})
	r := s.create(newRequest())
	yes := s.answer(r, newAnswer(true))
	s.wantTally(s.race(callers, func(int) error { return s.use(r, yes) }), map[error]int{nil: 1, consentapi.ErrRequestUsed: callers - 1})
}

func useRacesRevocation(p *probe) {
	s := p.open(consenttest.Options{})
	for round := range 16 {
		r := s.create(newRequest())
		yes := s.answer(r, newAnswer(true))
		var revoked int
		outcomes := s.race(2, func(i int) (err error) {
			if i == round%2 { // a scheduler under load may start them in one order, always
				return s.use(r, yes)
			}
			revoked, err = s.under.RevokeConsentRequests(s.ctx, fositeconsent.Selection{Subject: r.Subject})
			return err
		})
		switch revoked {
		case 0:
			s.wantTally(outcomes, map[error]int{nil: 2})
			s.wantState(r, yes, consentapi.StateUsed)
		case 1:
			s.wantTally(outcomes, map[error]int{nil: 1, consentapi.ErrRequestRevoked: 1})
			s.wantState(r, yes, consentapi.StateRevoked)
		default:
			s.Errorf("revoked %d, want 0 or 1", revoked)
		}
	}
}

func cancelled(p *probe) {
	s := p.open(consenttest.Options{})
	s.overContexts(func(over context.Context) {
		r := newRequest()
		s.want("CreateConsentRequest", s.createIn(over, r), errFailed)
		_, err := s.findIn(s.ctx, r.ID, r.Challenge)
		s.want("FindConsentRequest", err, consentapi.ErrRequestNotFound)

		s.create(r)
		yes := newAnswer(true)
		_, err = s.answerIn(over, r, yes)
		s.want("AnswerConsentRequest", err, errFailed)
		s.wantState(r, nil, consentapi.StatePending)
		_, err = s.findIn(over, r.ID, r.Challenge)
		s.want("FindConsentRequest", err, errFailed)

		s.answer(r, yes)
		_, err = s.answeredIn(over, r.ID, yes.Verifier, r.Browser)
		s.want("FindAnsweredConsentRequest", err, errFailed)
		s.want("UseConsentRequest", s.useIn(over, r, yes), errFailed)
		n, err := s.under.RevokeConsentRequests(over, fositeconsent.Selection{Subject: r.Subject})
		s.want("RevokeConsentRequests", err, errFailed)
		if n != 0 {
			s.Errorf("revoked %d, want 0", n)
		}
		s.wantState(r, yes, consentapi.StateAccepted)
	})
}

func brokenBackend(p *probe) {
	s := p.open(consenttest.Options{Broken: true})
	r, yes := newRequest(), newAnswer(true)
	calls := []func() error{
		func() error { return s.createIn(s.ctx, r) },
		func() error { _, err := s.findIn(s.ctx, r.ID, r.Challenge); return err },
		func() error { _, err := s.answerIn(s.ctx, r, yes); return err },
		func() error { _, err := s.answeredIn(s.ctx, r.ID, yes.Verifier, r.Browser); return err },
		func() error { return s.use(r, yes) },
		func() error {
			_, err := s.under.RevokeConsentRequests(s.ctx, fositeconsent.Selection{Subject: r.Subject})
			return err
		},
	}
	s.wantTally(s.race(len(calls), func(i int) error { return calls[i]() }), map[error]int{errFailed: len(calls)})
}
