package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ory/fosite"
)

// checkPolicy holds a request against the client's registration and the configuration
// as they are now: what was allowed when a request was pushed or a page was shown need
// not be any more (RFC 9126, Sections 4 and 7.5). The request then has the client as it is now,
// for everything that comes after, the place where an error goes included; a request of
// another type than fosite's keeps its own. Its errors are reasons.
func (p *protected) checkPolicy(ctx context.Context, ar fosite.AuthorizeRequester) (fosite.Client, error) {
	client, err := p.currentClient(ctx, ar)
	if err != nil {
		return nil, err
	}
	return client, p.checkRegistration(ctx, ar, client)
}

func (p *protected) checkRegistration(ctx context.Context, ar fosite.AuthorizeRequester, client fosite.Client) error {
	if request, ok := ar.(*fosite.AuthorizeRequest); ok {
		request.Client = client
	}
	form := ar.GetRequestForm()

	redirectURI, err := fosite.MatchRedirectURIWithClientRedirectURIs(form.Get("redirect_uri"), client)
	if err != nil || !fosite.IsValidRedirectURI(redirectURI) || ar.GetRedirectURI() == nil || redirectURI.String() != ar.GetRedirectURI().String() {
		return policyError(fosite.ErrInvalidRequest, "The redirect URI is not, or no longer, registered for the client.")
	}
	types := ar.GetResponseTypes()
	if len(types) == 0 || !slices.ContainsFunc(client.GetResponseTypes(), func(allowed string) bool {
		return types.Matches(fosite.RemoveEmpty(strings.Split(allowed, " "))...)
	}) {
		return policyError(fosite.ErrUnsupportedResponseType, "The client is not allowed to request this response_type.")
	}
	if !p.allowsResponseMode(ctx, client, ar) {
		return policyError(fosite.ErrUnsupportedResponseMode, "The client is not allowed to request this response_mode.")
	}
	for _, scope := range ar.GetRequestedScopes() {
		if !p.fosite.Config.GetScopeStrategy(ctx)(client.GetScopes(), scope) {
			return policyError(fosite.ErrInvalidScope, "The client is not allowed to request one of the scopes.")
		}
	}
	if err := p.fosite.Config.GetAudienceStrategy(ctx)(client.GetAudience(), ar.GetRequestedAudience()); err != nil {
		return policyError(fosite.ErrInvalidRequest, "The client is not allowed to request this audience.")
	}
	if config := p.pushConfig(); config != nil && config.EnforcePushedAuthorize(ctx) && !p.isPushed(ctx, form.Get("request_uri")) {
		return policyError(fosite.ErrInvalidRequest, "Authorization requests have to be pushed.")
	}
	return nil
}

// currentClient loads the request's client anew.
func (p *protected) currentClient(ctx context.Context, ar fosite.AuthorizeRequester) (fosite.Client, error) {
	if isNil(ar) || isNil(ar.GetClient()) {
		return nil, fmt.Errorf("%w: it has no client", ErrInvalidRequest)
	}
	id := ar.GetClient().GetID()
	switch client, err := p.fosite.Store.GetClient(ctx, id); {
	case errors.Is(err, fosite.ErrNotFound):
		if request, ok := ar.(*fosite.AuthorizeRequest); ok {
			request.Client = &fosite.DefaultClient{ID: id} // nobody is sent to where it once was
		}
		return nil, policyError(fosite.ErrInvalidClient, "The client does not exist, or no longer.")
	case err != nil:
		return nil, fmt.Errorf("%w: GetClient: %w", ErrStorage, err)
	case isNil(client) || client.GetID() != id:
		return nil, fmt.Errorf("%w: GetClient returned another client", ErrStorage)
	default:
		return client, nil
	}
}

// allowsResponseMode reports whether the client may have this request answered in its
// response mode, and whether there still is somebody who can: fosite writes what nobody
// can into the query. A mode that was not asked for is the default of the response types.
func (p *protected) allowsResponseMode(ctx context.Context, client fosite.Client, ar fosite.AuthorizeRequester) bool {
	mode := ar.GetResponseMode()
	if ar.GetRequestForm().Get("response_mode") == "" {
		if mode == fosite.ResponseModeDefault || mode == defaultResponseMode(ar.GetResponseTypes()) {
			return true
		}
	}
	switch mode {
	case fosite.ResponseModeQuery, fosite.ResponseModeFragment, fosite.ResponseModeFormPost:
	default:
		if !p.fosite.ResponseModeHandler(ctx).ResponseModes().Has(mode) {
			return false
		}
	}
	allowed, ok := client.(fosite.ResponseModeClient)
	return ok && slices.Contains(allowed.GetResponseModes(), mode)
}

// defaultResponseMode returns how a response goes to the client if the request does not say.
func defaultResponseMode(types fosite.Arguments) fosite.ResponseModeType {
	if types.ExactOne("code") {
		return fosite.ResponseModeQuery
	}
	return fosite.ResponseModeFragment
}

// policyError is a reason that the client is told by fosite's name for it.
func policyError(name *fosite.RFC6749Error, hint string) error {
	return fmt.Errorf("%w: %s (%w)", ErrInvalidRequest, hint, name.WithHint(hint))
}
