package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/ory/fosite"
)

// errNotProtected says how to set a gate up.
var errNotProtected = errors.New("pass gate.Factory as the first factory to compose.Compose, and use the provider that gate.Protect returns")

// Factory is the gate's compose.Factory. Pass gate.Factory to compose.Compose,
// before every other factory. The storage and the strategy are not used.
//
// compose.Compose adds handlers to the configuration that it is given, so give
// each provider a fosite.Config, and a gate, of its own.
func (g *Gate) Factory(_ fosite.Configurator, _, _ interface{}) interface{} { return &g.handler }

// Protect returns the provider to use from now on. It fails, and says what to do,
// unless this gate comes first among the provider's authorize handlers and nowhere
// else, for otherwise something would be issued before the gate is asked, or
// without it. The provider must be the one that compose.Compose or
// fosite.NewOAuth2Provider returned; wrap it further only after Protect.
//
// The returned provider checks the order again on every call, since a host can
// change its configuration at any time, and lets no authorization response out
// that the gate did not pass, that grants something else than was decided, or that
// is written for another request. The gate refuses everything that does not come
// through it. All methods besides NewAuthorizeResponse and WriteAuthorizeResponse are
// those of the given provider.
//
// The order is checked here without a request's context. A configuration that
// depends on the context must show the gate first without one, too.
func (g *Gate) Protect(provider fosite.OAuth2Provider) (fosite.OAuth2Provider, error) {
	f, ok := provider.(*fosite.Fosite)
	if !ok || f == nil || isNil(f.Config) {
		return nil, fmt.Errorf("%w: Protect was given a provider of type %T: give it the *fosite.Fosite that compose.Compose returned, and wrap what Protect returns", ErrMisconfigured, provider)
	}
	if err := g.checkOrder(context.Background(), f); err != nil {
		return nil, err
	}
	if !g.composed.CompareAndSwap(nil, &f.Config) && *g.composed.Load() != f.Config {
		return nil, fmt.Errorf("%w: the gate already protects a provider with another configuration: make one gate for each provider", ErrMisconfigured)
	}
	return &protected{OAuth2Provider: f, fosite: f, gate: g}, nil
}

// checkOrder finds the gate first, and once, among the authorize handlers.
func (g *Gate) checkOrder(ctx context.Context, f *fosite.Fosite) error {
	position := -1
	for i, h := range f.Config.GetAuthorizeEndpointHandlers(ctx) {
		switch handler, ok := h.(*authorizeHandler); {
		case !ok:
		case handler != &g.handler:
			return fmt.Errorf("%w: the provider has the handler of another gate: use one fosite.Config and one gate for each provider", ErrMisconfigured)
		case position >= 0:
			return fmt.Errorf("%w: the gate is in the provider twice: pass gate.Factory to compose.Compose once", ErrMisconfigured)
		default:
			position = i
		}
	}
	switch position {
	case 0:
		return nil
	case -1:
		return fmt.Errorf("%w: the gate is not among the provider's authorize handlers: %w", ErrMisconfigured, errNotProtected)
	}
	return fmt.Errorf("%w: the gate is number %d of the authorize handlers, and those before it would issue without consent: %w", ErrMisconfigured, position+1, errNotProtected)
}

// protected is a provider that answers no authorization request past the gate.
type protected struct {
	fosite.OAuth2Provider
	fosite *fosite.Fosite
	gate   *Gate
}

type passageKey struct{}

// passage is one authorization response on its way through the gate. Its grant is
// set if, and only if, the gate let it pass.
type passage struct {
	gate      *Gate
	requester fosite.AuthorizeRequester
	*step
}

// NewAuthorizeResponse implements fosite.OAuth2Provider.
func (p *protected) NewAuthorizeResponse(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) (resp fosite.AuthorizeResponder, err error) {
	err = p.gate.observe(ctx, ActionConsume, func(ctx context.Context, step *step) (err error) {
		resp, err = p.newAuthorizeResponse(ctx, &passage{gate: p.gate, requester: ar, step: step}, session)
		return err
	})
	return resp, err
}

func (p *protected) newAuthorizeResponse(ctx context.Context, pass *passage, session fosite.Session) (fosite.AuthorizeResponder, error) {
	if isNil(pass.requester) {
		return nil, asClientError(fmt.Errorf("%w: there is no authorization request: pass what NewAuthorizeRequest returned", ErrInvalidRequest), false)
	}
	if err := p.gate.checkOrder(ctx, p.fosite); err != nil {
		return nil, asClientError(err, false)
	}
	resp, err := p.OAuth2Provider.NewAuthorizeResponse(context.WithValue(ctx, passageKey{}, pass), pass.requester, session)
	if err != nil {
		return nil, err
	}
	if pass.grant == nil {
		return nil, asClientError(fmt.Errorf("%w: a response was made without the gate: %w", ErrMisconfigured, errNotProtected), false)
	}
	if err := p.gate.checkGranted(ctx, pass.request, pass.grant); err != nil {
		return nil, asClientError(err, false)
	}
	return &response{AuthorizeResponder: resp, pass: pass}, nil
}

// response is a response that the gate let pass, and for which request.
type response struct {
	fosite.AuthorizeResponder
	pass *passage
}

// WriteAuthorizeResponse implements fosite.OAuth2Provider. It writes only what
// NewAuthorizeResponse of this provider returned, and only for the request that it
// was returned for, unchanged: the request says where the response goes.
func (p *protected) WriteAuthorizeResponse(ctx context.Context, rw http.ResponseWriter, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder) {
	r, ok := resp.(*response)
	if !ok || r == nil || r.pass.requester != ar || p.gate.bind(r.pass.request) != r.pass.grant.Binding {
		err := p.gate.observe(ctx, ActionConsume, func(_ context.Context, step *step) error {
			step.request.AuthorizeRequester = ar
			return asClientError(fmt.Errorf("%w: the response was made for another authorization request, or by another provider: write what NewAuthorizeResponse returned, with the request that it was given", ErrMisconfigured), false)
		})
		p.WriteAuthorizeError(ctx, rw, ar, err)
		return
	}
	p.OAuth2Provider.WriteAuthorizeResponse(ctx, rw, ar, r.AuthorizeResponder)
}
