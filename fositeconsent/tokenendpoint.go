package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ory/fosite"
)

// TokenFactory is a compose.Factory for the token endpoint. Pass gate.TokenFactory to
// compose.Compose after every other factory: its handler refuses to exchange a code, and to
// refresh, once the resource owner's consent is revoked or expired. The client is told
// invalid_grant, and why stands in [Event.Reason]. Other grants are not its business.
//
// It asks [ConsentStorage.CheckResponse] before anything is issued, and again when that has
// been stored, so that what was issued beside a revocation ends with it: what was stored is revoked then,
// and never leaves the server. If it cannot be asked, nothing leaves either.
//
// A storage with the method RevokeRequests, such as pgstore/fositestore, does all that itself,
// in the statements that issue; with any other one, [Gate.Protect] demands this handler if
// there is [Config.Consents]. What it cannot reach is what nobody asks about: an access token that
// a resource server accepts without introspection lasts until it expires.
func (g *Gate) TokenFactory(_ fosite.Configurator, _, _ interface{}) interface{} {
	return &g.tokenHandler
}

// tokenHandler is the fosite handler of the token endpoint.
type tokenHandler struct{ gate *Gate }

// CanSkipClientAuth implements fosite.TokenEndpointHandler.
func (h *tokenHandler) CanSkipClientAuth(context.Context, fosite.AccessRequester) bool { return false }

// CanHandleTokenEndpointRequest implements fosite.TokenEndpointHandler.
func (h *tokenHandler) CanHandleTokenEndpointRequest(_ context.Context, request fosite.AccessRequester) bool {
	grants := request.GetGrantTypes()
	return grants.ExactOne(string(fosite.GrantTypeAuthorizationCode)) || grants.ExactOne(string(fosite.GrantTypeRefreshToken))
}

// HandleTokenEndpointRequest implements fosite.TokenEndpointHandler. It handles nothing: what it
// does not refuse is for others to answer.
func (h *tokenHandler) HandleTokenEndpointRequest(ctx context.Context, request fosite.AccessRequester) error {
	if !h.CanHandleTokenEndpointRequest(ctx, request) {
		return fosite.ErrUnknownRequest
	}
	if r, ok := request.(*fosite.AccessRequest); ok && r.ID == "" {
		// Nobody has found what was presented, so far. Asked for it, it would make one up.
		return fosite.ErrUnknownRequest
	}
	start := time.Now()
	if reason := h.check(ctx, request); reason != nil {
		return h.refuse(ctx, start, request, reason)
	}
	return fosite.ErrUnknownRequest
}

// PopulateTokenEndpointResponse implements fosite.TokenEndpointHandler, when all others have
// issued and stored what they had to.
func (h *tokenHandler) PopulateTokenEndpointResponse(ctx context.Context, request fosite.AccessRequester, response fosite.AccessResponder) error {
	if !h.CanHandleTokenEndpointRequest(ctx, request) {
		return fosite.ErrUnknownRequest
	}
	start := time.Now()
	if response.GetAccessToken() == "" {
		return h.refuse(ctx, start, request, fmt.Errorf("%w: nothing has been issued yet: %w", ErrMisconfigured, errTokenOrder))
	}
	reason := h.check(ctx, request)
	if reason == nil {
		return nil
	}
	return h.refuse(ctx, start, request, h.end(ctx, request.GetID(), reason))
}

var errTokenOrder = errors.New("pass gate.TokenFactory to compose.Compose after all other factories")

// check returns the reason for which nothing may be issued for the request.
func (h *tokenHandler) check(ctx context.Context, request fosite.AccessRequester) error {
	consents := h.gate.config.Consents
	if isNil(consents) {
		return errNoConsents
	}
	if err := consents.CheckResponse(ctx, request.GetID()); err != nil {
		return storageError(err, ErrConsentRevoked, ErrConsentExpired)
	}
	return nil
}

// endWithin bounds what is done for a request that may be over.
const endWithin = 10 * time.Second

// end revokes what was issued for the request just now. Nobody has that, whether or not it
// succeeds. The context may be over, which may be the very reason.
func (h *tokenHandler) end(ctx context.Context, requestID string, reason error) error {
	provider := h.gate.provider.Load()
	if provider == nil {
		return fmt.Errorf("%w: %w", reason, errNotProtected)
	}
	revoke, err := provider.revoker()
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
		defer cancel()
		err = revoke(ctx, []string{requestID})
	}
	if err != nil {
		return fmt.Errorf("%w; and what was issued could not be revoked: %w", reason, err)
	}
	return reason
}

// reported is a reason that is in an [Event] already.
type reported struct{ error }

func (r reported) Unwrap() error { return r.error }

// NewAccessRequest implements fosite.OAuth2Provider. What a storage refuses because of a consent is
// reported, and answered, as TokenFactory's handler would.
func (p *protected) NewAccessRequest(ctx context.Context, r *http.Request, session fosite.Session) (fosite.AccessRequester, error) {
	start := time.Now()
	request, err := p.OAuth2Provider.NewAccessRequest(ctx, r, session)
	return request, p.ended(ctx, start, request, err)
}

// NewAccessResponse implements fosite.OAuth2Provider, like NewAccessRequest: who has lost a
// race against a revocation would be told of an error of the server's.
func (p *protected) NewAccessResponse(ctx context.Context, request fosite.AccessRequester) (fosite.AccessResponder, error) {
	start := time.Now()
	response, err := p.OAuth2Provider.NewAccessResponse(ctx, request)
	return response, p.ended(ctx, start, request, err)
}

func (p *protected) ended(ctx context.Context, start time.Time, request fosite.AccessRequester, err error) error {
	ended := errors.Is(err, ErrConsentRevoked) || errors.Is(err, ErrConsentExpired)
	if !ended || isNil(request) || errors.As(err, new(reported)) {
		return err
	}
	return p.gate.tokenHandler.refuse(ctx, start, request, err)
}

// refuse reports why, and returns what the client is told.
func (h *tokenHandler) refuse(ctx context.Context, start time.Time, request fosite.AccessRequester, reason error) error {
	return h.gate.observe(ctx, ActionToken, func(_ context.Context, step *step) error {
		step.start = start
		if client := request.GetClient(); !isNil(client) {
			step.clientID = client.GetID()
		}
		if session := request.GetSession(); !isNil(session) {
			step.request.subject = session.GetSubject()
		}
		return asTokenError(reported{reason})
	})
}

// asTokenError makes of a reason what the client is told (RFC 6749, Section 5.2).
func asTokenError(reason error) error {
	told := fosite.ErrServerError
	if !errors.Is(reason, ErrStorage) && (errors.Is(reason, ErrConsentRevoked) || errors.Is(reason, ErrConsentExpired)) {
		told = endedError
	}
	if errors.Is(reason, fosite.ErrUnknownRequest) {
		// By that name fosite would go on, whatever it stands in.
		reason = fmt.Errorf("%w: %v", ErrStorage, reason) //nolint:errorlint // hides it on purpose
	}
	return told.WithWrap(reason)
}

// checkTokenOrder finds the gate's handler last among those of the token endpoint, where it
// is needed.
func (g *Gate) checkTokenOrder(ctx context.Context, f *fosite.Fosite) error {
	handlers := f.Config.GetTokenEndpointHandlers(ctx)
	found := false
	for i, h := range handlers {
		switch handler, ok := h.(*tokenHandler); {
		case !ok:
		case handler != &g.tokenHandler:
			return fmt.Errorf("%w: the provider has the token handler of another gate: use one fosite.Config and one gate for each provider", ErrMisconfigured)
		case i < len(handlers)-1:
			return fmt.Errorf("%w: gate.TokenFactory's handler is number %d of %d at the token endpoint, and those after it would issue what it has not seen: %w", ErrMisconfigured, i+1, len(handlers), errTokenOrder)
		default:
			found = true
		}
	}
	if isNil(g.config.Consents) {
		if found {
			return fmt.Errorf("%w: gate.TokenFactory has nobody to ask: %w", ErrMisconfigured, errNoConsents)
		}
		return nil
	}
	if _, ok := f.Store.(requestsRevoker); !ok && !found {
		return fmt.Errorf("%w: with Config.Consents and the storage %T codes could be exchanged after a revocation: %w", ErrMisconfigured, f.Store, errTokenOrder)
	}
	return nil
}
