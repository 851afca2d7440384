// Package consenttest has what a host or the author of a storage needs to test
// consent grants: [Run], [RunConsents] and [RunDecisions], the conformance suites that every
// [fositeconsent.GrantStorage], every [fositeconsent.ConsentStorage] and every
// [fositeconsent.DecisionLog] has to pass, and [Storage], which is all of them and lives in memory.
// It depends on the standard library and on fositeconsent only.
package consenttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// Storage is a [fositeconsent.GrantStorage], a [fositeconsent.ConsentStorage] and a
// [fositeconsent.DecisionLog] in memory, for tests: it forgets everything when the process exits, knows nothing of
// a second process, takes part in no transaction, and never frees what it was given.
// Beyond that it keeps the whole contract, and is safe for concurrent use.
type Storage struct {
	now  func() time.Time
	turn chan struct{} // has room for whoever must not meet a revocation under way

	mu       sync.Mutex
	grants   map[fositeconsent.ID]*record
	consents map[fositeconsent.ID]*consent

	decisions []fositeconsent.DecisionRecord
}

var _ fositeconsent.GrantStorage = (*Storage)(nil)

// record is a grant and what has become of it.
type record struct {
	grant     fositeconsent.Grant
	expiresAt time.Time
	spentBy   fositeconsent.Attempt // zero: unspent
	revoked   bool                  // before its response was recorded
}

// NewStorage returns an empty Storage whose clock is now, which is called by
// several goroutines at once. Nil means [time.Now].
func NewStorage(now func() time.Time) *Storage {
	if now == nil {
		now = time.Now
	}
	return &Storage{
		now:      now,
		turn:     make(chan struct{}, 1),
		grants:   make(map[fositeconsent.ID]*record),
		consents: make(map[fositeconsent.ID]*consent),
	}
}

// CreateConsentGrant implements [fositeconsent.GrantStorage].
func (s *Storage) CreateConsentGrant(ctx context.Context, grant *fositeconsent.Grant) error {
	if err := check(grant); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return err
	}
	if r, ok := s.grants[grant.ID]; ok {
		if r.grant.SecretHash == grant.SecretHash {
			return nil // the call that created it, once more
		}
		return fositeconsent.ErrAlreadyDecided
	}
	r := &record{grant: clone(grant)}
	r.grant.DecidedAt = s.now()
	r.grant.Lifespan = 0
	r.expiresAt = r.grant.DecidedAt.Add(grant.Lifespan)
	s.grants[grant.ID] = r
	return nil
}

// ConsumeConsentGrant implements [fositeconsent.GrantStorage].
func (s *Storage) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	if p.Attempt == (fositeconsent.Attempt{}) {
		return nil, errors.New("consenttest: the presentation has no attempt")
	}
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	defer s.done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return nil, err
	}
	r, ok := s.grants[p.ID]
	switch {
	// Plain comparisons: the presenter would have to find a SHA-256 preimage to
	// make use of what their timing tells.
	case !ok, r.grant.SecretHash != p.SecretHash, r.grant.Denied:
		return nil, fositeconsent.ErrGrantNotFound
	case r.grant.Binding != p.Binding:
		return nil, fositeconsent.ErrBindingMismatch
	case r.spentBy == p.Attempt:
		// The winner asks again.
	case r.spentBy != fositeconsent.Attempt{}:
		return nil, fositeconsent.ErrGrantConsumed
	case r.revoked:
		return nil, fositeconsent.ErrGrantRevoked
	case !s.now().Before(r.expiresAt):
		return nil, fositeconsent.ErrGrantExpired
	}
	r.spentBy = p.Attempt
	grant := clone(&r.grant)
	return &grant, nil
}

// check refuses what no storage may store.
func check(grant *fositeconsent.Grant) error {
	var missing string
	switch {
	case grant.ID.IsZero():
		missing = "ID"
	case grant.SecretHash == fositeconsent.SecretHash{}:
		missing = "SecretHash"
	case grant.Binding == fositeconsent.Digest{}:
		missing = "Binding"
	case grant.Subject == "":
		missing = "Subject"
	case grant.ClientID == "":
		missing = "ClientID"
	case grant.Lifespan < fositeconsent.MinGrantLifespan:
		return fmt.Errorf("consenttest: the grant's lifespan of %v is shorter than %v", grant.Lifespan, fositeconsent.MinGrantLifespan)
	default:
		return nil
	}
	return fmt.Errorf("consenttest: the grant has no %s", missing)
}

// interrupted is asked under the lock, so that whoever gave up while waiting for
// it changes nothing.
func interrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("consenttest: gave up: %w", err)
	}
	return nil
}

// clone shares nothing with the original.
func clone(grant *fositeconsent.Grant) fositeconsent.Grant {
	c := *grant
	c.Scopes = slices.Clone(c.Scopes)
	c.Audience = slices.Clone(c.Audience)
	c.Data = slices.Clone(c.Data)
	if c.Remember != nil {
		remember := *c.Remember
		c.Remember = &remember
	}
	return c
}
