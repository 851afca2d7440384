package fositestore

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

var _ fositeconsent.PushedRequestStorage = (*Store)(nil)

// credentials authenticate the client where it pushes, and are no part of the request.
var credentials = []string{"client_secret", "client_assertion", "client_assertion_type"}

// CreatePARSession implements fosite.PARStorage (RFC 9126). The client's credentials
// are left out of what is stored. The request expires when its session's
// fosite.PushedAuthorizeRequestContext does, or after Config.PushedRequestLifespan.
func (s *Store) CreatePARSession(ctx context.Context, requestURI string, request fosite.AuthorizeRequester) error {
	const what = "create pushed request"
	w, err := s.rowOf(requestURI, request, fosite.PushedAuthorizeRequestContext)
	if err != nil {
		return mapError(ctx, what, err)
	}
	d := w.document
	d.Form = maps.Clone(d.Form)
	for _, name := range credentials {
		delete(d.Form, name)
	}
	d.Pushed = &pushedDocument{
		ResponseTypes: notEmpty(request.GetResponseTypes()),
		State:         request.GetState(),
		Mode:          string(request.GetResponseMode()),
		DefaultMode:   string(request.GetDefaultResponseMode()),
	}
	if uri := request.GetRedirectURI(); uri != nil {
		text := uri.String()
		d.Pushed.RedirectURI = &text
	}
	if r, ok := request.(*fosite.AuthorizeRequest); ok {
		d.Pushed.Handled = notEmpty(r.HandledResponseTypes)
	} else if request.DidHandleAllResponseTypes() {
		d.Pushed.Handled = d.Pushed.ResponseTypes
	}
	if !storable(d.Pushed.State, d.Pushed.Mode, d.Pushed.DefaultMode) || !storable(slices.Concat(d.Pushed.ResponseTypes, d.Pushed.Handled)...) {
		return mapError(ctx, what, errText)
	}
	text, err := d.encode()
	if err != nil {
		return mapError(ctx, what, err)
	}
	lifespan := s.config.PushedRequestLifespan.Microseconds()
	if w.lifespan != nil {
		lifespan = *w.lifespan
	}
	return s.write(ctx, what, func(ctx context.Context, c scope) error {
		if err := s.settle(ctx, c); err != nil {
			return err
		}
		return c.queue(ctx, tx.Statement{
			SQL:   s.sql.push,
			Args:  []any{w.hash[:], w.requestID, w.clientID, lifespan, text, s.clock()},
			Check: oneRow(ownError("there is another such request_uri already")),
		})
	})
}

// GetPARSession implements fosite.PARStorage. A pushed request can be read, also by
// somebody who comes back to it, until it expires; after that it is fosite.ErrNotFound.
func (s *Store) GetPARSession(ctx context.Context, requestURI string) (fosite.AuthorizeRequester, error) {
	const what = "get pushed request"
	h := hashOf(requestURI)
	var id, clientID, text string
	err := s.read(ctx, func(db tx.DB) error {
		return db.QueryRow(ctx, s.sql.readPushed, h[:], s.clock()).Scan(&id, &clientID, &text)
	})
	if isNoRows(err) {
		err = fosite.ErrNotFound
	}
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	d, err := decode(text)
	if err == nil && d.Pushed == nil {
		err = ownError("a stored request was not pushed")
	}
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	request, err := s.request(ctx, d, id, clientID)
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	ar := &fosite.AuthorizeRequest{
		ResponseTypes:        d.Pushed.ResponseTypes,
		HandledResponseTypes: d.Pushed.Handled,
		State:                d.Pushed.State,
		ResponseMode:         fosite.ResponseModeType(d.Pushed.Mode),
		DefaultResponseMode:  fosite.ResponseModeType(d.Pushed.DefaultMode),
		Request:              *request,
	}
	if d.Pushed.RedirectURI != nil {
		if ar.RedirectURI, err = url.Parse(*d.Pushed.RedirectURI); err != nil {
			return nil, mapError(ctx, what, ownError("a stored redirect URI cannot be parsed"))
		}
	}
	return ar, nil
}

// DeletePARSession implements fosite.PARStorage. It deletes nothing: fosite calls it as
// soon as the browser arrives, before there was any page. See
// [Store.ClaimPushedAuthorizeRequest].
func (s *Store) DeletePARSession(ctx context.Context, _ string) error { return ctx.Err() }

// ClaimPushedAuthorizeRequest implements fositeconsent.PushedRequestStorage: one
// statement, in the transaction of the context or in one of its own.
func (s *Store) ClaimPushedAuthorizeRequest(ctx context.Context, requestURI string) error {
	const what = "claim pushed request"
	h, attempt := hashOf(requestURI), newAttempt()
	var outcome string
	err := s.read(ctx, func(db tx.DB) error {
		return db.QueryRow(ctx, s.sql.claimPushed, h[:], attempt, s.clock()).Scan(&outcome)
	})
	switch {
	case isNoRows(err), err == nil && outcome == "expired":
		return mapError(ctx, what, fosite.ErrNotFound)
	case err != nil:
		return mapError(ctx, what, err)
	case outcome == "claimed":
		return nil
	}
	return fmt.Errorf("fositestore: %s: %w", what, fositeconsent.ErrRequestURIUsed)
}
