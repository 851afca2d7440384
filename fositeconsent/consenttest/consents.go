package consenttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

var _ fositeconsent.ConsentStorage = (*Storage)(nil)

// revokedAtOnce is how many responses one call of a revoke function is about.
const revokedAtOnce = 100

// consent is a consent and what has become of it.
type consent struct {
	fositeconsent.Consent
	revoked    bool
	requestIDs []string // of the responses that rest on it
}

// FindConsents implements [fositeconsent.ConsentStorage].
func (s *Storage) FindConsents(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return nil, err
	}
	selection := fositeconsent.Selection{Issuer: issuer, Subject: subject, ClientID: clientID}
	return s.page(func(c *consent) bool {
		// Not by what is set alone: of nobody, or for no client, there is none.
		return c.Remembered && c.Subject == subject && c.ClientID == clientID && selected(selection, c)
	}), nil
}

// ListConsents implements [fositeconsent.ConsentStorage].
func (s *Storage) ListConsents(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	if err := checkSelection(selection); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, fmt.Errorf("consenttest: a page of %d consents", limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return nil, err
	}
	found := s.page(func(c *consent) bool {
		return (before.IsZero() || bytes.Compare(c.ID[:], before[:]) < 0) && selected(selection, c)
	})
	return found[:min(limit, len(found))], nil
}

// page returns copies of the live consents that are wanted, the newest first.
func (s *Storage) page(wanted func(*consent) bool) []fositeconsent.Consent {
	now := s.now()
	var found []fositeconsent.Consent
	for _, c := range s.consents {
		if dead(c, now) == nil && wanted(c) {
			found = append(found, cloneConsent(&c.Consent))
		}
	}
	slices.SortFunc(found, func(a, b fositeconsent.Consent) int { return bytes.Compare(b.ID[:], a.ID[:]) })
	return found
}

// RecordResponse implements [fositeconsent.ConsentStorage].
func (s *Storage) RecordResponse(ctx context.Context, response *fositeconsent.Response) error {
	if err := checkResponse(response); err != nil {
		return err
	}
	if err := s.await(ctx); err != nil {
		return err
	}
	defer s.done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return err
	}
	now := s.now()
	if response.Approval != nil {
		return s.recordApproval(response.Approval, response.RequestID, now)
	}
	for _, id := range response.ConsentIDs {
		if err := dead(s.consents[id], now); err != nil {
			return err
		}
	}
	for _, id := range response.ConsentIDs {
		s.consents[id].rests(response.RequestID, now)
	}
	return nil
}

// recordApproval records a new consent and its first response.
func (s *Storage) recordApproval(approval *fositeconsent.Consent, requestID string, now time.Time) error {
	if c, ok := s.consents[approval.ID]; ok {
		if !slices.Contains(c.requestIDs, requestID) {
			return errors.New("consenttest: the approval was recorded for another response")
		}
		return dead(c, now) // the call that recorded it, once more
	}
	// The grant was consumed when it was revoked, and the response was not there to be seen.
	if r, ok := s.grants[approval.ID]; ok && r.revoked {
		return fositeconsent.ErrConsentRevoked
	}
	c := &consent{Consent: cloneConsent(approval)}
	c.DecidedAt = now
	c.ExpiresAt = time.Time{}
	if c.Lifespan > 0 {
		c.ExpiresAt = now.Add(c.Lifespan)
	}
	c.Lifespan = 0
	c.rests(requestID, now)
	s.consents[c.ID] = c
	return nil
}

// rests notes that a response rests on the consent, unless that is known.
func (c *consent) rests(requestID string, now time.Time) {
	if !slices.Contains(c.requestIDs, requestID) {
		c.requestIDs = append(c.requestIDs, requestID)
		c.LastUsedAt = now
	}
}

// CheckResponse implements [fositeconsent.ConsentStorage].
func (s *Storage) CheckResponse(ctx context.Context, requestID string) error {
	if err := s.await(ctx); err != nil {
		return err
	}
	defer s.done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return err
	}
	now := s.now()
	var reason error
	for _, c := range s.consents {
		if !slices.Contains(c.requestIDs, requestID) {
			continue
		}
		switch err := dead(c, now); {
		case errors.Is(err, fositeconsent.ErrConsentRevoked):
			return err
		case err != nil:
			reason = err
		}
	}
	return reason
}

// RevokeConsents implements [fositeconsent.ConsentStorage]. The revoke function must not
// call the storage, which waits for it.
func (s *Storage) RevokeConsents(ctx context.Context, selection fositeconsent.Selection, revoke func(context.Context, fositeconsent.Ended) error) (int, error) {
	if err := checkSelection(selection); err != nil {
		return 0, err
	}
	if revoke == nil {
		return 0, errors.New("consenttest: there is no function that ends what was issued")
	}
	if err := s.await(ctx); err != nil {
		return 0, err
	}
	defer s.done()

	// Until it is done nobody records, checks or consumes, so that nothing has to be
	// undone if it fails.
	s.mu.Lock()
	err := interrupted(ctx)
	var ended []*consent
	var requestIDs []string
	for _, c := range s.consents {
		if !c.revoked && selected(selection, c) {
			ended = append(ended, c)
			requestIDs = append(requestIDs, c.requestIDs...)
		}
	}
	handed := hand(ended)
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	slices.Sort(requestIDs)
	requestIDs = slices.Compact(requestIDs)
	for ; len(handed.Consents)+len(requestIDs) > 0; handed = (fositeconsent.Ended{}) {
		n := min(len(requestIDs), revokedAtOnce)
		handed.RequestIDs, requestIDs = slices.Clone(requestIDs[:n]), requestIDs[n:]
		if err := revoke(ctx, handed); err != nil {
			return 0, err
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range ended {
		c.revoked = true
	}
	for id, r := range s.grants {
		// Of a consumed one, too: its response may be still to be recorded.
		if _, recorded := s.consents[id]; !recorded && selectedGrant(selection, &r.grant) {
			r.revoked = true
		}
	}
	return len(ended), nil
}

func hand(ended []*consent) (handed fositeconsent.Ended) {
	for _, c := range ended {
		handed.Consents = append(handed.Consents, cloneConsent(&c.Consent))
	}
	return handed
}

// await waits until no revocation is under way, and keeps others from beginning one
// until done is called.
func (s *Storage) await(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return interrupted(ctx)
	}
}

func (s *Storage) done() { <-s.turn }

// dead returns why a consent is not live, or nil. Of nil nothing is known.
func dead(c *consent, now time.Time) error {
	switch {
	case c == nil, c.revoked:
		return fositeconsent.ErrConsentRevoked
	case !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt):
		return fositeconsent.ErrConsentExpired
	}
	return nil
}

// selected reports whether the consent has all that is set.
func selected(selection fositeconsent.Selection, c *consent) bool {
	return c.Issuer == selection.Issuer &&
		(selection.Subject == "" || c.Subject == selection.Subject) &&
		(selection.ClientID == "" || c.ClientID == selection.ClientID) &&
		(selection.ConsentID.IsZero() || c.ID == selection.ConsentID) &&
		(selection.LoginSession == "" || c.LoginSession == selection.LoginSession)
}

// selectedGrant is the same for a grant, of which the issuer and the login are not known.
func selectedGrant(selection fositeconsent.Selection, grant *fositeconsent.Grant) bool {
	return (selection.Subject == "" || grant.Subject == selection.Subject) &&
		(selection.ClientID == "" || grant.ClientID == selection.ClientID) &&
		(selection.ConsentID.IsZero() || grant.ID == selection.ConsentID)
}

// checkSelection refuses one that could be meant for everybody.
func checkSelection(selection fositeconsent.Selection) error {
	switch {
	case selection.Issuer == "":
		return errors.New("consenttest: the selection has no Issuer")
	case selection.Subject == "" && selection.ClientID == "":
		return errors.New("consenttest: the selection has neither a Subject nor a ClientID")
	}
	return nil
}

// checkResponse refuses what no storage may record.
func checkResponse(response *fositeconsent.Response) error {
	approval := response.Approval
	var wrong string
	switch {
	case response.RequestID == "":
		wrong = "the response has no RequestID"
	case (approval != nil) == (len(response.ConsentIDs) > 0):
		wrong = "the response has to have either an Approval or ConsentIDs"
	case approval == nil:
		return nil
	case approval.ID.IsZero():
		wrong = "the approval has no ID"
	case approval.Issuer == "":
		wrong = "the approval has no Issuer"
	case approval.Subject == "":
		wrong = "the approval has no Subject"
	case approval.ClientID == "":
		wrong = "the approval has no ClientID"
	case approval.Lifespan < 0:
		wrong = "the approval has a negative Lifespan"
	default:
		return nil
	}
	return errors.New("consenttest: " + wrong)
}

// cloneConsent shares nothing with the original.
func cloneConsent(original *fositeconsent.Consent) fositeconsent.Consent {
	c := *original
	for _, list := range []*[]string{&c.Scopes, &c.RememberedScopes, &c.Audience, &c.ResponseTypes, &c.Details} {
		*list = slices.Clone(*list)
	}
	c.Data = slices.Clone(c.Data)
	return c
}
