package fositeconsent

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ory/fosite"
)

// errNoConsents says that what was called needs a storage for consents.
var errNoConsents = fmt.Errorf("%w: set Config.Consents, for instance to the pgstore.Store that keeps the grants", ErrMisconfigured)

// check refuses a selection of which it is not known whose consents are meant.
func (s Selection) check() error {
	switch {
	case s.Subject == "" && s.ClientID == "":
		return fmt.Errorf("%w: the selection has neither a Subject nor a ClientID: set at least one of them, beside a ConsentID or a LoginSession, too", ErrMisconfigured)
	case s.Subject == "" && !s.EverySubject:
		return fmt.Errorf("%w: the selection has no Subject: set it, and if nobody is signed in, select nothing; if everybody's consents to the client are meant, set EverySubject", ErrMisconfigured)
	case s.Subject != "" && s.EverySubject:
		return fmt.Errorf("%w: the selection has a Subject, and EverySubject is set: say which is meant", ErrMisconfigured)
	}
	return nil
}

// ListConsents returns at most limit live consents of the selection, the newest first, those
// with an ID below before, or from the newest on if that is zero: pass the ID of the last one to
// get the next page. The selection's Issuer is set to the gate's.
//
// The error is [ErrMisconfigured] without [Config.Consents], for a selection with neither a
// Subject nor a ClientID, or with both or none of Subject and EverySubject, and for a limit below 1; otherwise [ErrStorage].
func (g *Gate) ListConsents(ctx context.Context, selection Selection, before ID, limit int) (list []Consent, err error) {
	ctx, end := g.span(ctx, "Gate.list")
	defer func() { end(err) }()
	switch {
	case isNil(g.config.Consents):
		return nil, errNoConsents
	case limit < 1:
		return nil, fmt.Errorf("%w: a page of %d consents: ask for 1 at least", ErrMisconfigured, limit)
	}
	if err := selection.check(); err != nil {
		return nil, err
	}
	selection.Issuer, selection.EverySubject = g.config.Issuer, false
	list, err = g.config.Consents.ListConsents(ctx, selection, before, limit)
	if err != nil {
		return nil, storageError(err)
	}
	// What a storage of somebody else's returns is checked, not believed.
	if len(list) > limit {
		return nil, fmt.Errorf("%w: ListConsents returned %d consents for a page of %d", ErrStorage, len(list), limit)
	}
	last := before
	for i := range list {
		c := &list[i]
		if !selection.has(c) || !last.IsZero() && bytes.Compare(c.ID[:], last[:]) >= 0 {
			return nil, fmt.Errorf("%w: ListConsents returned a consent that was not asked for, or not in order", ErrStorage)
		}
		last = c.ID
	}
	return list, nil
}

// has reports whether the consent has all that is set.
func (s Selection) has(c *Consent) bool {
	return !c.ID.IsZero() && c.Issuer == s.Issuer &&
		(s.Subject == "" || c.Subject == s.Subject) &&
		(s.ClientID == "" || c.ClientID == s.ClientID) &&
		(s.ConsentID.IsZero() || c.ID == s.ConsentID) &&
		(s.LoginSession == "" || c.LoginSession == s.LoginSession)
}

// requestsRevoker is a storage that ends what was issued for many requests at once, and that
// issues nothing under a consent that has ended.
type requestsRevoker interface {
	RevokeRequests(ctx context.Context, requestIDs []string) error
}

// tokenRevoker is fosite's oauth2.TokenRevocationStorage, without what that embeds.
type tokenRevoker interface {
	RevokeRefreshToken(ctx context.Context, requestID string) error
	RevokeAccessToken(ctx context.Context, requestID string) error
}

// revoker returns how the provider's storage ends what was issued for requests.
func (p *protected) revoker() (func(ctx context.Context, requestIDs []string) error, error) {
	switch storage := p.fosite.Store.(type) {
	case requestsRevoker:
		return storage.RevokeRequests, nil
	case tokenRevoker:
		return func(ctx context.Context, requestIDs []string) error {
			for _, id := range requestIDs {
				// That there is none is what is wanted.
				if err := storage.RevokeRefreshToken(ctx, id); err != nil && !errors.Is(err, fosite.ErrNotFound) {
					return fmt.Errorf("revoke a refresh token: %w", err)
				}
				if err := storage.RevokeAccessToken(ctx, id); err != nil && !errors.Is(err, fosite.ErrNotFound) {
					return fmt.Errorf("revoke an access token: %w", err)
				}
			}
			return nil
		}, nil
	default:
		return nil, fmt.Errorf("%w: the storage %T has no RevokeRefreshToken and RevokeAccessToken", ErrMisconfigured, storage)
	}
}

// Revoke takes the selected consents back, and with them the grants that nobody has consumed
// yet and everything that was issued under them: codes, access and refresh tokens, by the storage
// that the provider was composed with. When it has returned, none of it is good any more, but for what
// [Gate.TokenFactory] names; nor does a response outlive it that was being issued meanwhile for what had been
// approved before. An approval that is given meanwhile, in one step with its response ([WithDecision],
// [Config.PreApproved]), may come after it. It returns how many consents it ended, also beside an
// error. A call that failed is to be repeated: until that has succeeded, tokens may be good. The
// selection's Issuer is set to the gate's.
//
// The error is [ErrMisconfigured] without [Config.Consents], before [Gate.Protect], where the
// provider's storage cannot revoke, and for a selection with neither a Subject nor a ClientID, or with both or none of
// Subject and EverySubject; otherwise [ErrStorage].
func (g *Gate) Revoke(ctx context.Context, selection Selection) (ended int, err error) {
	err = g.observe(ctx, ActionRevoke, func(ctx context.Context, step *step) (err error) {
		step.request.subject, step.clientID = selection.Subject, selection.ClientID
		if !selection.ConsentID.IsZero() {
			step.consentIDs = []ID{selection.ConsentID}
		}
		provider := g.provider.Load()
		switch {
		case isNil(g.config.Consents):
			return errNoConsents
		case provider == nil:
			return fmt.Errorf("%w: Revoke was called before Protect: %w", ErrMisconfigured, errNotProtected)
		}
		if err := selection.check(); err != nil {
			return err
		}
		revoke, err := provider.revoker()
		if err != nil {
			return err
		}
		selection.Issuer, selection.EverySubject = g.config.Issuer, false
		ended, err = g.config.Consents.RevokeConsents(ctx, selection, func(ctx context.Context, ended Ended) error {
			if err := g.appendRevoked(ctx, ended.Consents); err != nil {
				return err
			}
			if len(ended.RequestIDs) == 0 {
				return nil
			}
			return revoke(ctx, ended.RequestIDs)
		})
		step.revoked = ended
		if err != nil {
			return storageError(err)
		}
		return nil
	})
	return ended, err
}
