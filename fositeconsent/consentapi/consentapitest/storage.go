// Package consentapitest has what a host or the author of a storage needs to test consent requests:
// [Run], the conformance suite that every [consentapi.RequestStorage] has to pass, and [Storage], which is one in memory.
// It depends on the standard library, on fositeconsent and on its consentapi and consenttest only.
package consentapitest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// Storage is a [consentapi.RequestStorage] in memory, for tests: it forgets everything when the process exits, knows nothing of a
// second process, takes part in no transaction, and never frees what it was given. Beyond that it
// keeps the whole contract, and is safe for concurrent use.
type Storage struct {
	now func() time.Time

	mu       sync.Mutex
	requests map[fositeconsent.ID]*record
}

var _ consentapi.RequestStorage = (*Storage)(nil)

// record is a request and what has become of it.
type record struct {
	consentapi.Request
	used, revoked bool
}

// NewStorage returns an empty Storage whose clock is now, which is called by several goroutines at once.
// Nil means [time.Now].
func NewStorage(now func() time.Time) *Storage {
	if now == nil {
		now = time.Now
	}
	return &Storage{now: now, requests: make(map[fositeconsent.ID]*record)}
}

// CreateConsentRequest implements [consentapi.RequestStorage].
func (s *Storage) CreateConsentRequest(ctx context.Context, request *consentapi.Request) error {
	switch {
	case request == nil, request.ID.IsZero(), request.Challenge == consentapi.Hash{}, request.Browser == consentapi.Hash{},
		request.Subject == "", request.ClientID == "", len(request.Document) == 0:
		return errors.New("consentapitest: the consent request is incomplete")
	case request.Lifespan < fositeconsent.MinGrantLifespan, request.Lifespan > fositeconsent.MaxPromptLifespan:
		return fmt.Errorf("consentapitest: the consent request has a lifespan of %v", request.Lifespan)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return err
	}
	if r, ok := s.requests[request.ID]; ok {
		if r.Challenge == request.Challenge && r.Browser == request.Browser {
			return nil // the call that created it, once more
		}
		return errors.New("consentapitest: there is another consent request with this ID")
	}
	r := &record{Request: clone(request)}
	r.CreatedAt = s.now()
	r.ExpiresAt = r.CreatedAt.Add(request.Lifespan)
	r.Lifespan, r.State, r.Answer = 0, "", nil
	s.requests[request.ID] = r
	return nil
}

// FindConsentRequest implements [consentapi.RequestStorage].
func (s *Storage) FindConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
	return s.look(ctx, id, func(r *record) bool { return r.Challenge == challenge })
}

// FindAnsweredConsentRequest implements [consentapi.RequestStorage].
func (s *Storage) FindAnsweredConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) (*consentapi.Request, error) {
	return s.look(ctx, id, func(r *record) bool { return r.Answer != nil && r.Answer.Verifier == verifier && r.Browser == browser })
}

// look returns a request as it is now. Plain comparisons will do: who presents a hash would have to find a preimage
// to make use of what their timing tells.
func (s *Storage) look(ctx context.Context, id fositeconsent.ID, named func(*record) bool) (*consentapi.Request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return nil, err
	}
	r, ok := s.requests[id]
	if !ok || !named(r) {
		return nil, consentapi.ErrRequestNotFound
	}
	return s.give(r), nil
}

// give returns a copy, with the state of this moment.
func (s *Storage) give(r *record) *consentapi.Request {
	request := clone(&r.Request)
	request.State = s.state(r)
	return &request
}

func (s *Storage) state(r *record) consentapi.State {
	switch {
	case r.used:
		return consentapi.StateUsed
	case r.revoked:
		return consentapi.StateRevoked
	case !s.now().Before(r.ExpiresAt):
		return consentapi.StateExpired
	case r.Answer == nil:
		return consentapi.StatePending
	case r.Answer.Accepted:
		return consentapi.StateAccepted
	default:
		return consentapi.StateRejected
	}
}

// AnswerConsentRequest implements [consentapi.RequestStorage].
func (s *Storage) AnswerConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, answer *consentapi.Answer) (*consentapi.Request, error) {
	if answer == nil || answer.Digest == (consentapi.Hash{}) || answer.Verifier == (consentapi.Hash{}) || len(answer.Document) == 0 {
		return nil, errors.New("consentapitest: the answer is incomplete")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return nil, err
	}
	r, ok := s.requests[id]
	switch {
	case !ok, r.Challenge != challenge:
		return nil, consentapi.ErrRequestNotFound
	case r.Answer != nil && r.Answer.Digest == answer.Digest && r.Answer.Accepted == answer.Accepted:
		return s.give(r), nil // the same once more
	case r.Answer != nil:
		return nil, consentapi.ErrRequestAnswered
	case !s.now().Before(r.ExpiresAt):
		return nil, consentapi.ErrRequestExpired
	}
	a := *answer
	a.Document = slices.Clone(a.Document)
	a.AnsweredAt = s.now()
	r.Answer = &a
	return s.give(r), nil
}

// UseConsentRequest implements [consentapi.RequestStorage].
func (s *Storage) UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return err
	}
	r, ok := s.requests[id]
	if !ok || r.Answer == nil || !r.Answer.Accepted || r.Answer.Verifier != verifier || r.Browser != browser {
		return consentapi.ErrRequestNotFound
	}
	switch s.state(r) {
	case consentapi.StateUsed:
		return consentapi.ErrRequestUsed
	case consentapi.StateRevoked:
		return consentapi.ErrRequestRevoked
	case consentapi.StateExpired:
		return consentapi.ErrRequestExpired
	}
	r.used = true
	return nil
}

// RevokeConsentRequests implements [consentapi.RequestStorage].
func (s *Storage) RevokeConsentRequests(ctx context.Context, selection fositeconsent.Selection) (int, error) {
	if selection.Subject == "" && selection.ClientID == "" {
		return 0, errors.New("consentapitest: the selection has neither a Subject nor a ClientID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return 0, err
	}
	n := 0
	for _, r := range s.requests {
		if selected(selection, &r.Request) && s.state(r) == consentapi.StateAccepted {
			r.revoked = true
			n++
		}
	}
	return n, nil
}

func selected(s fositeconsent.Selection, r *consentapi.Request) bool {
	return (s.Subject == "" || s.Subject == r.Subject) && (s.ClientID == "" || s.ClientID == r.ClientID) &&
		(s.ConsentID.IsZero() || s.ConsentID == r.ID) && (s.LoginSession == "" || s.LoginSession == r.LoginSession)
}

// interrupted is asked under the lock, so that whoever gave up while waiting for it changes nothing.
func interrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("consentapitest: gave up: %w", err)
	}
	return nil
}

// clone shares nothing with the original.
func clone(r *consentapi.Request) consentapi.Request {
	c := *r
	c.Document = slices.Clone(c.Document)
	if c.Answer != nil {
		a := *c.Answer
		a.Document = slices.Clone(a.Document)
		c.Answer = &a
	}
	return c
}
