package storagetest

import (
	"context"
	"errors"
	"net/url"

	"github.com/ory/fosite"
)

// What follows are fosite's handlers, as far as the storage sees them.

// authorize stores a code and what belongs to it, in the order of fosite's authorize
// handlers.
func (s *checked) authorize(ctx context.Context, code key, r *fosite.Request) error {
	s.Helper()
	if err := s.createCode(ctx, code, with(r, codeForm)); err != nil {
		return err
	}
	if s.pkce != nil {
		if err := s.createPKCE(ctx, code, with(r, pkceForm)); err != nil {
			return err
		}
	}
	if s.openid != nil {
		return s.createOpenID(ctx, code, with(r, openIDForm))
	}
	return nil
}

// inTX runs calls in a transaction, as handlers do, if the storage has any.
func (s *checked) inTX(ctx context.Context, calls func(ctx context.Context) error) error {
	s.Helper()
	if s.tx == nil {
		return calls(ctx)
	}
	inside, err := s.begin(ctx)
	if err != nil {
		return err
	}
	if err = calls(inside); err == nil {
		if err = s.commit(inside); err == nil {
			return nil
		}
	}
	if rollbackErr := s.rollback(inside); rollbackErr != nil {
		s.Errorf("Rollback after %v: got %v, want success", err, rollbackErr)
	}
	return err
}

// issue stores an access and a refresh token.
func (s *checked) issue(ctx context.Context, r *fosite.Request, t tokens) error {
	s.Helper()
	if err := s.createAccess(ctx, t.access, r); err != nil {
		return err
	}
	return s.createRefresh(ctx, t, r)
}

// redeem is the write of AuthorizeExplicitGrantHandler.PopulateTokenEndpointResponse.
func (s *checked) redeem(ctx context.Context, code key, r *fosite.Request, t tokens) error {
	s.Helper()
	return s.inTX(ctx, func(ctx context.Context) error {
		if err := s.invalidateCode(ctx, code); err != nil {
			return err
		}
		return s.issue(ctx, r, t)
	})
}

// rotate is the write of RefreshTokenGrantHandler.PopulateTokenEndpointResponse.
func (s *checked) rotate(ctx context.Context, r *fosite.Request, old key, t tokens) error {
	s.Helper()
	return s.inTX(ctx, func(ctx context.Context) error {
		if err := s.rotateRefresh(ctx, r.GetID(), old); err != nil {
			return err
		}
		return s.issue(ctx, r, t)
	})
}

// revoke ends all tokens of a request, as fosite does in three places. It is of no
// matter to fosite whether there are any.
func (s *checked) revoke(ctx context.Context, requestID string) error {
	s.Helper()
	if err := s.revokeRefresh(ctx, requestID); err != nil && !errors.Is(err, fosite.ErrNotFound) {
		return err
	}
	if err := s.revokeAccess(ctx, requestID); err != nil && !errors.Is(err, fosite.ErrNotFound) {
		return err
	}
	return nil
}

// replay is AuthorizeExplicitGrantHandler.HandleTokenEndpointRequest for a code. It
// returns whether that was used before, in which case it has ended the tokens.
func (s *checked) replay(ctx context.Context, code key) (used bool, err error) {
	s.Helper()
	r, err := s.getCode(ctx, code, s.config.NewSession())
	if !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
		return false, err
	}
	if err := s.revokeAccess(ctx, r.GetID()); err != nil && !errors.Is(err, fosite.ErrNotFound) {
		return true, err
	}
	if err := s.revokeRefresh(ctx, r.GetID()); err != nil && !errors.Is(err, fosite.ErrNotFound) {
		return true, err
	}
	return true, nil
}

// reuse is RefreshTokenGrantHandler.handleRefreshTokenReuse: the answer to a refresh
// token that is not active. Other than in [checked.revoke], a deletion that finds
// nothing is an error there.
func (s *checked) reuse(ctx context.Context, refresh key, requestID string) error {
	s.Helper()
	return s.inTX(ctx, func(ctx context.Context) error {
		if err := s.deleteRefresh(ctx, refresh); err != nil {
			return err
		}
		return s.revoke(ctx, requestID)
	})
}

// wantLive checks that both tokens can be used.
func (s *checked) wantLive(what string, t tokens) {
	s.Helper()
	_, err := s.getAccess(s.ctx, t.access, s.config.NewSession())
	s.want(what+": reading the access token", err, succeeded)
	_, err = s.getRefresh(s.ctx, t.refresh, s.config.NewSession())
	s.want(what+": reading the refresh token", err, succeeded)
}

// wantDead checks that neither of the tokens can be used.
func (s *checked) wantDead(what string, t tokens) {
	s.Helper()
	s.wantDeadAccess(what, t.access)
	s.wantDeadRefresh(what, t.refresh)
}

func (s *checked) wantDeadAccess(what string, k key) {
	s.Helper()
	_, err := s.getAccess(s.ctx, k, s.config.NewSession())
	s.want(what+": reading the access token", err, notFound, inactive)
}

func (s *checked) wantDeadRefresh(what string, k key) {
	s.Helper()
	_, err := s.getRefresh(s.ctx, k, s.config.NewSession())
	s.want(what+": reading the refresh token", err, notFound, inactive)
}

// wantNothing checks that there never were such tokens.
func (s *checked) wantNothing(what string, t tokens) {
	s.Helper()
	_, err := s.getAccess(s.ctx, t.access, s.config.NewSession())
	s.want(what+": reading the access token", err, notFound)
	_, err = s.getRefresh(s.ctx, t.refresh, s.config.NewSession())
	s.want(what+": reading the refresh token", err, notFound)
}

// wantFresh checks that a code and what belongs to it can still be redeemed.
func (s *checked) wantFresh(what string, code key, r *fosite.Request) {
	s.Helper()
	got, err := s.getCode(s.ctx, code, s.config.NewSession())
	s.want(what+": reading the code", err, succeeded)
	if err == nil && got.GetID() != r.ID {
		s.Errorf("%s: the code's request is %s, want %s", what, got.GetID(), r.ID)
	}
	if s.pkce != nil {
		got, err := s.getPKCE(s.ctx, code, s.config.NewSession())
		s.want(what+": reading the PKCE data", err, succeeded)
		if err == nil {
			s.wantForm(what+": PKCE data", got.GetRequestForm(), pkceForm, s.everyParameter(r))
		}
	}
	if s.openid != nil {
		got, err := s.getOpenID(s.ctx, code, s.config.NewSession())
		s.want(what+": reading the OpenID Connect session", err, succeeded)
		if err == nil {
			s.wantForm(what+": OpenID Connect session", got.GetRequestForm(), openIDForm, s.everyParameter(r))
		}
	}
}

// wantNoCode checks that a code and what belongs to it were never stored.
func (s *checked) wantNoCode(what string, code key) {
	s.Helper()
	_, err := s.getCode(s.ctx, code, s.config.NewSession())
	s.want(what+": reading the code", err, notFound)
	if s.pkce != nil {
		_, err := s.getPKCE(s.ctx, code, s.config.NewSession())
		s.want(what+": reading the PKCE data", err, notFound)
	}
	if s.openid != nil {
		_, err := s.getOpenID(s.ctx, code, s.config.NewSession())
		s.want(what+": reading the OpenID Connect session", err, notFound)
	}
}

// everyParameter is what a storage that keeps a code, its PKCE data and its OpenID
// Connect session in one place may return with any of them.
func (s *checked) everyParameter(r *fosite.Request) url.Values {
	return with(with(with(r, codeForm), pkceForm), openIDForm).Form
}
