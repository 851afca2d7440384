package consentapitest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
	"github.com/fosite-consent/fosite-consent/fositeconsent/internal/flawtest"
)

// flaw is one way to break the contract. Its hooks stand in for the methods of [Storage]; nil ones are as they should be.
type flaw struct {
	name, caughtBy string

	clock  func(func() time.Time) func() time.Time
	broken consentapi.RequestStorage

	create       func(*Storage, context.Context, *consentapi.Request) error
	find         func(*Storage, context.Context, fositeconsent.ID, consentapi.Hash) (*consentapi.Request, error)
	answer       func(*Storage, context.Context, fositeconsent.ID, consentapi.Hash, *consentapi.Answer) (*consentapi.Request, error)
	findAnswered func(*Storage, context.Context, fositeconsent.ID, consentapi.Hash, consentapi.Hash) (*consentapi.Request, error)
	use          func(*Storage, context.Context, fositeconsent.ID, consentapi.Hash, consentapi.Hash) error
	revoke       func(*Storage, context.Context, fositeconsent.Selection) (int, error)
}

func (f flaw) newStorage(_ testing.TB, o consenttest.Options) consentapi.RequestStorage {
	if o.Broken {
		if f.broken != nil {
			return f.broken
		}
		return unreachable{}
	}
	if f.clock != nil {
		o.Now = f.clock(o.Now)
	}
	return &flawed{NewStorage(o.Now), f}
}

// flawed keeps the contract as far as its flaw lets it.
type flawed struct {
	*Storage
	flaw flaw
}

func (f *flawed) CreateConsentRequest(ctx context.Context, r *consentapi.Request) error {
	if f.flaw.create != nil {
		return f.flaw.create(f.Storage, ctx, r)
	}
	return f.Storage.CreateConsentRequest(ctx, r)
}

func (f *flawed) FindConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
	if f.flaw.find != nil {
		return f.flaw.find(f.Storage, ctx, id, challenge)
	}
	return f.Storage.FindConsentRequest(ctx, id, challenge)
}

func (f *flawed) AnswerConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
	if f.flaw.answer != nil {
		return f.flaw.answer(f.Storage, ctx, id, challenge, a)
	}
	return f.Storage.AnswerConsentRequest(ctx, id, challenge, a)
}

func (f *flawed) FindAnsweredConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) (*consentapi.Request, error) {
	if f.flaw.findAnswered != nil {
		return f.flaw.findAnswered(f.Storage, ctx, id, verifier, browser)
	}
	return f.Storage.FindAnsweredConsentRequest(ctx, id, verifier, browser)
}

func (f *flawed) UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
	if f.flaw.use != nil {
		return f.flaw.use(f.Storage, ctx, id, verifier, browser)
	}
	return f.Storage.UseConsentRequest(ctx, id, verifier, browser)
}

func (f *flawed) RevokeConsentRequests(ctx context.Context, s fositeconsent.Selection) (int, error) {
	if f.flaw.revoke != nil {
		return f.flaw.revoke(f.Storage, ctx, s)
	}
	return f.Storage.RevokeConsentRequests(ctx, s)
}

// with does something to a request under the lock.
func with(s *Storage, id fositeconsent.ID, do func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.requests[id]; r != nil {
		do(r)
	}
}

// creating changes what is stored.
func creating(change func(*consentapi.Request)) func(*Storage, context.Context, *consentapi.Request) error {
	return func(s *Storage, ctx context.Context, r *consentapi.Request) error {
		c := clone(r)
		change(&c)
		return s.CreateConsentRequest(ctx, &c)
	}
}

// incomplete completes what should be refused.
func incomplete(r *consentapi.Request) {
	if r.Subject == "" {
		r.Subject = "nobody"
	}
}

// pause is what a storage takes between its look and its change.
func pause() { time.Sleep(5 * time.Millisecond) }

// racy lets others come between the look and the change, as a storage does that has no lock.
func racy(s *Storage, id fositeconsent.ID, meanwhile func(*Storage, fositeconsent.ID), look func(*record) bool, change func(*record)) bool {
	found := false
	with(s, id, func(r *record) { found = look(r) })
	if found {
		meanwhile(s, id)
		with(s, id, change)
	}
	return found
}

// something may happen meanwhile.
func something(*Storage, fositeconsent.ID) { pause() }

// place is one request of one storage.
type place struct {
	storage *Storage
	id      fositeconsent.ID
}

// looked is closed, for each place, when two have looked.
var looked sync.Map // of place to *meeting

type meeting struct {
	n    atomic.Int32
	both chan struct{}
}

// another has looked meanwhile, or does not come.
func another(s *Storage, id fositeconsent.ID) {
	found, _ := looked.LoadOrStore(place{s, id}, &meeting{both: make(chan struct{})})
	m, _ := found.(*meeting)
	if m.n.Add(1) == 2 {
		close(m.both)
	}
	select {
	case <-m.both:
	case <-time.After(5 * time.Second):
	}
}

var flaws = []flaw{
	{name: "the login session is lost", caughtBy: "a request is returned as it was created", create: creating(func(r *consentapi.Request) { r.LoginSession = "" })},
	{name: "the document is made valid UTF-8", caughtBy: "a request is returned as it was created", create: creating(func(r *consentapi.Request) { r.Document = bytes.ToValidUTF8(r.Document, []byte("?")) })},
	{name: "text is trimmed", caughtBy: "text of a request is kept exactly or refused", create: creating(func(r *consentapi.Request) { r.Subject = strings.TrimSpace(r.Subject) })},
	{name: "text is cut at NUL", caughtBy: "text of a request is kept exactly or refused", create: creating(func(r *consentapi.Request) { r.ClientID, _, _ = strings.Cut(r.ClientID, "\x00") })},
	{name: "a request lives a moment too long", caughtBy: "a request expires at the end of its lifespan and not before", create: creating(func(r *consentapi.Request) { r.Lifespan += time.Millisecond })},
	{name: "a request lives a moment too short", caughtBy: "a request expires at the end of its lifespan and not before", create: creating(func(r *consentapi.Request) { r.Lifespan -= time.Millisecond })},
	{name: "the explicit clock is not asked", caughtBy: "a request expires at the end of its lifespan and not before", clock: func(func() time.Time) func() time.Time { return time.Now }},
	{name: "an expired request is swept at once", caughtBy: "a request expires at the end of its lifespan and not before", find: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
		r, err := s.FindConsentRequest(ctx, id, challenge)
		if err == nil && r.State == consentapi.StateExpired {
			return nil, consentapi.ErrRequestNotFound
		}
		return r, err
	}},
	{name: "its own clock is an hour off", caughtBy: "a request is dated by the storage's own clock", clock: func(explicit func() time.Time) func() time.Time {
		if explicit != nil {
			return explicit
		}
		return func() time.Time { return time.Now().Add(-time.Hour) }
	}},
	{name: "a request of nobody is stored", caughtBy: "an incomplete request is refused and nothing is stored", create: creating(incomplete)},
	{name: "a long lifespan is cut", caughtBy: "an incomplete request is refused and nothing is stored", create: creating(func(r *consentapi.Request) { r.Lifespan = min(r.Lifespan, fositeconsent.MaxPromptLifespan) })},
	{name: "a second create replaces the first", caughtBy: "a repeated create succeeds and changes nothing", create: func(s *Storage, ctx context.Context, r *consentapi.Request) error {
		s.mu.Lock()
		delete(s.requests, r.ID)
		s.mu.Unlock()
		return s.CreateConsentRequest(ctx, r)
	}},
	{name: "a retried create fails", caughtBy: "a repeated create succeeds and changes nothing", create: func(s *Storage, ctx context.Context, r *consentapi.Request) error {
		exists := false
		with(s, r.ID, func(*record) { exists = true })
		if exists {
			return errors.New("duplicate key")
		}
		return s.CreateConsentRequest(ctx, r)
	}},
	{name: "a request is found by its ID alone", caughtBy: "an ID or a challenge that differs in one bit is not found", find: func(s *Storage, ctx context.Context, id fositeconsent.ID, _ consentapi.Hash) (*consentapi.Request, error) {
		return s.look(ctx, id, func(*record) bool { return true })
	}},
	{name: "the last byte of the challenge is not compared", caughtBy: "an ID or a challenge that differs in one bit is not found", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		with(s, id, func(r *record) {
			if bytes.Equal(r.Challenge[:31], challenge[:31]) {
				challenge = r.Challenge
			}
		})
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "the browser is not compared", caughtBy: "a verifier or a browser that differs in one bit is not found", findAnswered: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, _ consentapi.Hash) (*consentapi.Request, error) {
		return s.look(ctx, id, func(r *record) bool { return r.Answer != nil && r.Answer.Verifier == verifier })
	}},
	{name: "the browser is not compared at the use", caughtBy: "a verifier or a browser that differs in one bit is not found", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		with(s, id, func(r *record) { browser = r.Browser })
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "the verifier is not compared at the use", caughtBy: "a verifier or a browser that differs in one bit is not found", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		with(s, id, func(r *record) {
			if r.Answer != nil {
				verifier = r.Answer.Verifier
			}
		})
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "who has another verifier is told that the answer was used", caughtBy: "a verifier or a browser that differs in one bit is not found", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		used := false
		with(s, id, func(r *record) { used = r.used })
		if used {
			return consentapi.ErrRequestUsed
		}
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "the answer's document is lost", caughtBy: "an answer is returned as it was given", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		if a != nil && len(a.Document) > 0 {
			c := *a
			c.Document = []byte("{}")
			a = &c
		}
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "an answer without a verifier is taken", caughtBy: "an incomplete answer is refused and nothing is answered", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		if a != nil && a.Verifier == (consentapi.Hash{}) {
			c := *a
			c.Verifier = newHash()
			a = &c
		}
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "the last answer stands", caughtBy: "the first answer stands", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		with(s, id, func(r *record) {
			if r.Challenge == challenge && a != nil {
				r.Answer = nil
			}
		})
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "a rejection can be accepted by its digest", caughtBy: "the first answer stands", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		with(s, id, func(r *record) {
			if r.Answer != nil && a != nil && r.Answer.Digest == a.Digest {
				c := *a
				c.Accepted = r.Answer.Accepted
				a = &c
			}
		})
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "the same answer once more is a conflict", caughtBy: "the same answer succeeds again whatever has become of it", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		answered := false
		with(s, id, func(r *record) { answered = r.Answer != nil })
		if answered {
			return nil, consentapi.ErrRequestAnswered
		}
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "the same answer once more changes the verifier", caughtBy: "the same answer succeeds again whatever has become of it", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		with(s, id, func(r *record) {
			if r.Answer != nil && a != nil && r.Answer.Digest == a.Digest {
				r.Answer.Verifier = a.Verifier
			}
		})
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "an acceptance is used again", caughtBy: "an acceptance is used once", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		with(s, id, func(r *record) { r.used = false })
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "a use is not marked", caughtBy: "an acceptance is used once", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		err := s.UseConsentRequest(ctx, id, verifier, browser)
		with(s, id, func(r *record) { r.used = false })
		return err
	}},
	{name: "a rejection is used", caughtBy: "a rejection or a pending request is never used", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		rejected := false
		with(s, id, func(r *record) { rejected = r.Answer != nil && !r.Answer.Accepted })
		if rejected {
			return nil
		}
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "a revocation does not look at the client", caughtBy: "a revocation ends what is selected and nothing else", revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection) (int, error) {
		if selection.Subject != "" {
			selection.ClientID = ""
		}
		return s.RevokeConsentRequests(ctx, selection)
	}},
	{name: "a revocation does not look at the login session", caughtBy: "a revocation ends what is selected and nothing else", revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection) (int, error) {
		if selection.Subject != "" {
			selection.LoginSession = ""
		}
		return s.RevokeConsentRequests(ctx, selection)
	}},
	{name: "a revocation does not look at the ID", caughtBy: "a revocation ends what is selected and nothing else", revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection) (int, error) {
		if selection.Subject != "" {
			selection.ConsentID = fositeconsent.ID{}
		}
		return s.RevokeConsentRequests(ctx, selection)
	}},
	{name: "a revocation does nothing", caughtBy: "a revocation ends what is selected and nothing else", revoke: func(*Storage, context.Context, fositeconsent.Selection) (int, error) { return 1, nil }},
	{name: "a selection of everybody is taken", caughtBy: "a selection of everybody is refused", revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection) (int, error) {
		if selection.Subject == "" && selection.ClientID == "" {
			n := 0
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, r := range s.requests {
				r.revoked = true
				n++
			}
			return n, nil
		}
		return s.RevokeConsentRequests(ctx, selection)
	}},
	{name: "a used request expires", caughtBy: "the first of several states is told", find: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
		r, err := s.FindConsentRequest(ctx, id, challenge)
		if err == nil && !s.now().Before(r.ExpiresAt) {
			r.State = consentapi.StateExpired
		}
		return r, err
	}},
	{name: "the caller's document is kept", caughtBy: "what is given and returned is the caller's", create: func(s *Storage, ctx context.Context, r *consentapi.Request) error {
		err := s.CreateConsentRequest(ctx, r)
		with(s, r.ID, func(kept *record) { kept.Document = r.Document })
		return err
	}},
	{name: "two answers at once both stand", caughtBy: "of many different answers one stands", answer: racyAnswer},
	{name: "an accept and a reject at once both stand", caughtBy: "of accepts and rejects one stands", answer: racyAnswer},
	{name: "a retried answer that is under way is a conflict", caughtBy: "one answer given many times at once always succeeds", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		answered := false
		with(s, id, func(r *record) { answered = r.Answer != nil })
		if answered {
			return nil, consentapi.ErrRequestAnswered
		}
		return s.AnswerConsentRequest(ctx, id, challenge, a)
	}},
	{name: "two uses at once both succeed", caughtBy: "of many uses one succeeds", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		if racy(s, id, another, func(r *record) bool { return !r.used }, func(r *record) { r.used = true }) {
			return nil
		}
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "a revocation overlooks that a request was used meanwhile", caughtBy: "a use that races a revocation wins or loses", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		if racy(s, id, something, func(r *record) bool { return !r.used && !r.revoked }, func(r *record) { r.used = true }) {
			return nil
		}
		return s.UseConsentRequest(ctx, id, verifier, browser)
	}},
	{name: "a cancelled answer is taken", caughtBy: "a cancelled call is an error and changes nothing", answer: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
		return s.AnswerConsentRequest(context.WithoutCancel(ctx), id, challenge, a)
	}},
	{name: "a cancelled use is one", caughtBy: "a cancelled call is an error and changes nothing", use: func(s *Storage, ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
		return s.UseConsentRequest(context.WithoutCancel(ctx), id, verifier, browser)
	}},
	{name: "a cancelled look finds nothing", caughtBy: "a cancelled call is an error and changes nothing", find: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
		r, err := s.FindConsentRequest(ctx, id, challenge)
		if err != nil {
			return nil, consentapi.ErrRequestNotFound
		}
		return r, nil
	}},
	{name: "a backend that is gone has no requests", caughtBy: "a backend that cannot be reached knows nothing", broken: NewStorage(nil)},
	{name: "an error holds the challenge", caughtBy: "an ID or a challenge that differs in one bit is not found", find: func(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
		r, err := s.FindConsentRequest(ctx, id, challenge)
		if err != nil {
			return nil, fmt.Errorf("challenge %s: %w", hex.EncodeToString(challenge[:]), err)
		}
		return r, nil
	}},
}

func racyAnswer(s *Storage, ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) { //nolint:revive // of the hook's type
	c := *a
	if racy(s, id, another, func(r *record) bool { return r.Answer == nil }, func(r *record) { c.AnsweredAt = s.now(); r.Answer = &c }) {
		return s.FindConsentRequest(ctx, id, challenge)
	}
	return s.AnswerConsentRequest(ctx, id, challenge, a)
}

// TestSuiteCatchesEveryFlaw runs itself as another process, in which tests have to fail.
func TestSuiteCatchesEveryFlaw(t *testing.T) {
	if flawtest.Inside() {
		runFlaws(t)
		return
	}
	t.Parallel()
	caughtBy := make(map[string]string)
	for _, f := range flaws {
		caughtBy[f.name] = f.caughtBy
	}
	flawtest.Want(t, caughtBy, nil)
}

func runFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range suite {
				if c.name == f.caughtBy {
					t.Run(c.name, func(t *testing.T) { c.test(&probe{T: t, newStorage: f.newStorage}) })
				}
			}
		})
	}
}

func TestEveryTestOfTheSuiteCatchesSomething(t *testing.T) {
	t.Parallel()
	names := make(map[string]int)
	for _, f := range flaws {
		names["flaw: "+f.name]++
	}
	for _, c := range suite {
		names["test: "+c.name]++
		if !slices.ContainsFunc(flaws, func(f flaw) bool { return f.caughtBy == c.name }) {
			t.Errorf("%q catches no flaw", c.name)
		}
	}
	for name, n := range names {
		if n > 1 {
			t.Errorf("%q is there %d times", name, n)
		}
	}
}
