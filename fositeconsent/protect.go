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
// without it; and where consents can be revoked, unless [Gate.TokenFactory] was composed last or
// the storage sees to it. The provider must be the one that compose.Compose or
// fosite.NewOAuth2Provider returned; wrap it further only after Protect.
//
// The returned provider checks the order again on every call, since a host can
// change its configuration at any time, and lets no authorization response out
// that the gate did not pass, that grants something else than was decided, or that
// is written for another request. The gate refuses everything that does not come
// through it.
//
// Where the storage that the provider was composed with has fosite's methods BeginTX,
// Commit and Rollback, the returned provider's NewAuthorizeResponse runs all handlers
// in one transaction and returns a response only once that has been committed. An
// error or a panic rolls it back: then nothing was stored, the grant is unspent, and
// the given request is as it was, but for its client, which is the one that is
// registered now: the request is held against it again before anything is done. A
// transaction that the database took back because
// of others (SQLSTATE 40001 and 40P01) is tried again, five times at most, on copies of
// the request and of the session, made with its method Clone; of what is not a
// *fosite.AuthorizeRequest, or has no clone, there is one try, on the original. After
// success the request's session is the one that the response was made with.
// In a context that has a transaction of that storage already, all this is part of that: the
// response is good only once its owner's own Commit has returned nil.
// [Gate.Check] tells whether the grants' storage takes part; where it does not, or there
// are no such methods, a grant is still spent once, but for nothing if a later handler
// fails.
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
	if hidden := hiddenTransactions(f.Store); len(hidden) > 0 {
		return nil, errHidden(f.Store, hidden)
	}
	settle(f.Config)
	p := &protected{OAuth2Provider: f, fosite: f, gate: g}
	p.transactions, _ = f.Store.(transactional)
	g.provider.Store(p)
	return p, nil
}

// settle has fosite fill in what a configuration leaves out. It would do so when it is first
// asked for, without a lock: a data race between the first requests of a server.
func settle(config fosite.Configurator) {
	ctx := context.Background()
	config.GetScopeStrategy(ctx)
	config.GetAudienceStrategy(ctx)
	config.GetSecretsHasher(ctx)
}

// checkOrder finds the gate first, and once, among the authorize handlers, and last at the
// token endpoint, where it is needed there.
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
		return g.checkTokenOrder(ctx, f)
	case -1:
		return fmt.Errorf("%w: the gate is not among the provider's authorize handlers: %w", ErrMisconfigured, errNotProtected)
	}
	return fmt.Errorf("%w: the gate is number %d of the authorize handlers, and those before it would issue without consent: %w", ErrMisconfigured, position+1, errNotProtected)
}

// protected is a provider that answers no authorization request past the gate.
type protected struct {
	fosite.OAuth2Provider
	fosite       *fosite.Fosite
	gate         *Gate
	transactions transactional // of the provider's storage, nil if it has none
}

type passageKey struct{}

// passage is one authorization response on its way through the gate. Its grant is
// set if, and only if, the gate let it pass.
type passage struct {
	provider  *protected
	requester fosite.AuthorizeRequester
	client    fosite.Client // as it is registered now, nil if it was not looked up
	standing  *standing     // why it passes without a decision on it, nil if it does not
	*step

	recordedAs string // the RequestID under which the consents' storage was told of it
}

// NewAuthorizeResponse implements fosite.OAuth2Provider. Where the provider's storage
// has transactions, all of it happens in one: see [Gate.Protect].
func (p *protected) NewAuthorizeResponse(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) (resp fosite.AuthorizeResponder, err error) {
	action := ActionConsume
	if _, ok := ctx.Value(decisionKey{}).(presentedDecision); ok {
		action = ActionApprove
	}
	err = p.gate.observe(ctx, action, func(ctx context.Context, step *step) (err error) {
		if isNil(ar) {
			return asClientError(fmt.Errorf("%w: there is no authorization request: pass what NewAuthorizeRequest returned", ErrInvalidRequest), false)
		}
		if err := p.gate.checkOrder(ctx, p.fosite); err != nil {
			return asClientError(err, false)
		}
		resp, err = p.respond(ctx, step, ar, session)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
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
