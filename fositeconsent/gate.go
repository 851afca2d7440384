package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ory/fosite"
)

// Config is what a gate needs to know of its host. Only Issuer has no default.
// There is no switch that turns a check off.
type Config struct {
	// Issuer is the authorization server's issuer identifier (RFC 8414, Section 2),
	// a part of every binding: several issuers may share one storage and one
	// secret, if each has a provider and a gate of its own. Required.
	Issuer string

	// GrantLifespan is the longest time between a decision and the response that
	// it leads to, from [MinGrantLifespan] to [MaxPromptLifespan]. A host that
	// does both in one HTTP request needs no more than the default. Defaults to
	// one minute.
	GrantLifespan time.Duration

	// PromptLifespan is how long a consent page may stay open, at most
	// [MaxPromptLifespan]. Defaults to 30 minutes.
	PromptLifespan time.Duration

	// Secrets returns the secrets that seal tickets, each of at least 32 random
	// bytes: the first one seals, all of them open. To rotate, put the new one first
	// and keep the old one for PromptLifespan. It is called on every use and must be
	// safe for concurrent use. Defaults to the GlobalSecret and the
	// RotatedGlobalSecrets of the fosite.Config that the gate was composed with;
	// tickets use keys derived from them, never the secrets themselves.
	Secrets func(context.Context) ([][]byte, error)

	// UnboundParameters are further parameters of the authorization request that
	// change nothing that is issued, for instance a host's own tracking parameter.
	// They are not bound, in addition to those of [UnboundParameters]. Defaults to
	// none.
	UnboundParameters []string

	// LoginSession returns the id of the login that the fosite session belongs to,
	// stable from sign-in to sign-out and different for each login; the context is
	// the caller's. If it is set, a prompt can be answered and a grant consumed only
	// in the login that the page was shown to. An error or an empty id refuses.
	// Defaults to binding no login session.
	LoginSession func(context.Context, fosite.Session) (string, error)

	// TokenSubject returns the sub that the tokens for this request must carry, for
	// hosts with pairwise subjects (OpenID Connect Core 1.0, Section 8.1). An error or
	// an empty text refuses. Defaults to the session's subject.
	TokenSubject func(ctx context.Context, ar fosite.AuthorizeRequester, subject string) (string, error)

	// ApplyData brings [Decision.Data] to the session, ar.GetSession(), before any
	// code or token is made. It is called only if there is data. It may change
	// neither the session's subjects nor what is granted, which is checked. An
	// error refuses. Defaults to none: a decision with data is then refused.
	ApplyData func(ctx context.Context, ar fosite.AuthorizeRequester, data []byte) error

	// Consents keeps what was approved: to let requests pass that remembered consents cover,
	// to list it and to revoke it. It has to be the storage of the grants, or one beside it that knows
	// them: for pgstore, the same Store. Defaults to none: every request is asked for,
	// and nothing can be revoked.
	//
	// A request that comes with neither a token nor a decision is covered if the live remembered
	// consents of its subject for its client, given when DescribeClient said what it says now,
	// together have all that it asks for, word for word: scopes, audience, the parts of the
	// response type and [Consent.Details]. They add up in their scopes, or in their audiences, if each
	// has everything else: what was approved for one audience, or for a code, is not covered for
	// another audience, or as a token in the front channel, because another scope is. A request without an
	// audience, a resource or any other parameter but claims and authorization_details is not one
	// for less: it is covered by what was approved without, too. Consents
	// whose Data differ do not add up. Never covered is what prompt=consent or an unknown prompt asks
	// for; nor, for anybody could pass for the client, a public one, or a response with tokens in it, if
	// the redirect URI is not a claimed https one (RFC 8252, Section 8.6).
	Consents ConsentStorage

	// DescribeClient returns what the consent page shows of a client: its name, logo,
	// policy and so on, in a fixed order. When that changes, or the client's redirect URIs do,
	// the resource owner is asked again. Required with Consents and with Decisions, otherwise not used. An error refuses.
	DescribeClient func(context.Context, fosite.Client) ([]string, error)

	// Decisions keeps a record of everything that was decided: what was approved, denied, passed
	// without asking, refused and revoked. Where [Gate.Protect] has transactions, a response and its record are
	// stored in one, and so are the answer to a page and its record: neither is there without the other. A refusal
	// is recorded by itself, and stands if that fails or takes more than a second ([Event.Unrecorded]); of requests that nobody has signed in
	// for, that come without any proof or that the server failed to answer there are events alone. Each refusal of somebody
	// who has signed in adds a record: limit how often one may ask. [Gate.Mint] and [Gate.Deny] begin a transaction of the provider's storage then, or
	// join one of BeginTX; in one of the host's that the storage cannot join (pgstore.WithTx) they fail. In a transaction of the host's a refusal is
	// a part of that, and gone if it is rolled back. [Gate.Check] tells whether the log takes part. Defaults to none.
	Decisions DecisionLog

	// PreApproved reports whether the host itself has approved everything that this client
	// requests of this subject, as for a first-party client, so that nobody is asked. It is called
	// with the client as it is registered now, and not for what needs a page all the same: an
	// unknown prompt or prompt=consent, a scope that no decision could grant, and where anybody could
	// pass for the client, as with Consents. The decision
	// is visible in [Event.Basis] and, with Consents, leaves a consent that is not remembered, to be
	// listed and revoked. An error refuses. Defaults to none: nobody is pre-approved.
	PreApproved func(ctx context.Context, ar fosite.AuthorizeRequester, subject string) (bool, error)

	// OnEvent is told of every decision of the gate, for logs and metrics. It is
	// called in the request's goroutine and must be safe for concurrent use.
	// Defaults to none.
	OnEvent func(context.Context, Event)
}

const (
	defaultGrantLifespan  = time.Minute
	defaultPromptLifespan = 30 * time.Minute
)

// Gate lets an authorization response pass only against a consent grant for
// exactly that response; or, if [Config.Consents] or [Config.PreApproved] is set, where
// what was approved before covers all of it. Make one for each fosite provider, with [NewGate], compose
// its [Gate.Factory] first and use the provider that [Gate.Protect] returns. After
// that it is safe for concurrent use.
type Gate struct {
	storage GrantStorage
	config  Config
	now     func() time.Time
	tickets ticketSealer
	handler authorizeHandler
	looks   looks
	appends chan struct{} // has room for the refusals that are being recorded

	tokenHandler tokenHandler

	composed atomic.Pointer[fosite.Configurator] // the configuration of the provider that the gate is in
	provider atomic.Pointer[protected]           // what Protect returned
}

// NewGate returns a gate that keeps its grants in storage. It opens no connection
// and starts nothing. The error says which field of the config cannot be used.
func NewGate(storage GrantStorage, config Config) (*Gate, error) {
	if isNil(storage) {
		return nil, fmt.Errorf("%w: NewGate needs a GrantStorage, for instance pgstore.New(pool, pgstore.Config{})", ErrMisconfigured)
	}
	if config.Issuer == "" {
		return nil, fmt.Errorf("%w: Config.Issuer is empty: set the authorization server's issuer URL", ErrMisconfigured)
	}
	if config.GrantLifespan == 0 {
		config.GrantLifespan = defaultGrantLifespan
	}
	if config.GrantLifespan < MinGrantLifespan || config.GrantLifespan > MaxPromptLifespan {
		return nil, fmt.Errorf("%w: Config.GrantLifespan is %v: use %v to %v", ErrMisconfigured, config.GrantLifespan, MinGrantLifespan, MaxPromptLifespan)
	}
	if config.PromptLifespan == 0 {
		config.PromptLifespan = defaultPromptLifespan
	}
	if config.PromptLifespan < time.Second || config.PromptLifespan > MaxPromptLifespan {
		return nil, fmt.Errorf("%w: Config.PromptLifespan is %v: use %v to %v", ErrMisconfigured, config.PromptLifespan, time.Second, MaxPromptLifespan)
	}
	for _, name := range config.UnboundParameters {
		if slices.Contains(mandatoryParameters, name) {
			return nil, fmt.Errorf("%w: Config.UnboundParameters names %q, which changes what is issued", ErrMisconfigured, name)
		}
	}
	config.UnboundParameters = slices.Clone(config.UnboundParameters)
	if isNil(config.Consents) {
		config.Consents = nil
	}
	if isNil(config.Decisions) {
		config.Decisions = nil
	}
	if (config.Consents != nil || config.Decisions != nil) && config.DescribeClient == nil {
		return nil, fmt.Errorf("%w: Config.DescribeClient is not set: with Consents or Decisions it has to return what the page shows of a client, so that a changed client is asked for again and it is known what was approved", ErrMisconfigured)
	}

	g := &Gate{storage: storage, config: config, now: time.Now, appends: make(chan struct{}, maxAppends)}
	g.handler.gate, g.tokenHandler.gate = g, g
	g.tickets = ticketSealer{issuer: config.Issuer, secrets: config.Secrets}
	if config.Secrets == nil {
		g.tickets.secrets = g.fositeSecrets
	}
	return g, nil
}

// fositeSecrets returns the secrets of the fosite configuration.
func (g *Gate) fositeSecrets(ctx context.Context) ([][]byte, error) {
	config := g.composed.Load()
	if config == nil {
		return nil, errNotProtected
	}
	current, err := (*config).GetGlobalSecret(ctx)
	if err != nil {
		return nil, err
	}
	rotated, err := (*config).GetRotatedGlobalSecrets(ctx)
	if err != nil {
		return nil, err
	}
	return append([][]byte{current}, rotated...), nil
}

type tokenKey struct{}

// WithToken returns a context that carries the token to the gate, for a call of
// NewAuthorizeResponse with the same authorization request. There is no other way
// for a token to get there, so that none ever travels in a request's parameters.
func WithToken(ctx context.Context, token Token) context.Context {
	return context.WithValue(ctx, tokenKey{}, token)
}

type decisionKey struct{}

type presentedDecision struct {
	ticket   string
	decision Decision
}

// WithDecision returns a context that carries the resource owner's approval of the
// page that the ticket comes from to the gate, for a call of NewAuthorizeResponse with
// the same authorization request. It is [Gate.Mint] and [WithToken] in one, for a host
// that answers the client in the same HTTP request, with what Mint demands of the
// approval: the grant is minted in the transaction that consumes it, so that nothing
// of it remains if no response is made, and the page can be answered again. No token
// ever exists outside. It takes the decisions, too, that nobody was asked for ([Decision.Unasked]).
func WithDecision(ctx context.Context, ticket string, decision Decision) context.Context {
	return context.WithValue(ctx, decisionKey{}, presentedDecision{ticket, decision})
}

// presents reports whether the context has anything that the gate could let pass.
func presents(ctx context.Context) bool {
	return ctx.Value(tokenKey{}) != nil || ctx.Value(decisionKey{}) != nil
}

// presented returns the token of the context, or that of the decision in it, which is
// minted now.
func (g *Gate) presented(ctx context.Context, step *step, r request) (Token, error) {
	token, hasToken := ctx.Value(tokenKey{}).(Token)
	d, decided := ctx.Value(decisionKey{}).(presentedDecision)
	switch {
	case hasToken && decided:
		return Token{}, fmt.Errorf("%w: the context has a token and a decision: use WithToken or WithDecision", ErrMisconfigured)
	case decided:
		token, grant, err := g.approval(ctx, step, r, d.ticket, d.decision)
		if err != nil {
			return Token{}, err
		}
		if err := g.storage.CreateConsentGrant(ctx, grant); err != nil { // recorded when it is consumed
			return Token{}, storageError(err, ErrAlreadyDecided)
		}
		return token, nil
	case !hasToken:
		return Token{}, ErrConsentRequired
	case !token.valid():
		return Token{}, ErrMalformedToken
	}
	return token, nil
}

// authorizeHandler is the fosite handler. It is a type of its own because fosite
// drops a second handler of the same Go type without a word, and because nobody
// but fosite is to call it.
type authorizeHandler struct{ gate *Gate }

// HandleAuthorizeEndpointRequest implements fosite.AuthorizeEndpointHandler, for
// every response type. It marks none as handled: that is left to the handlers
// that issue something.
func (h *authorizeHandler) HandleAuthorizeEndpointRequest(ctx context.Context, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder) error {
	pass, _ := ctx.Value(passageKey{}).(*passage)
	if pass == nil || pass.provider.gate != h.gate || pass.requester != ar {
		return h.gate.observe(ctx, ActionConsume, func(_ context.Context, step *step) error {
			step.request.AuthorizeRequester = ar
			return asClientError(fmt.Errorf("%w: NewAuthorizeResponse was called on an unprotected provider: %w", ErrMisconfigured, errNotProtected), false)
		})
	}
	grant, err := h.gate.consume(ctx, pass, resp)
	if err != nil {
		return asClientError(err, pass.request.silent)
	}
	pass.grant = grant
	return nil
}

// consume spends the grant of the token in the context, or finds that the request passes
// without one, puts what was decided on the request and returns the grant. Its errors
// are reasons.
func (g *Gate) consume(ctx context.Context, pass *passage, resp fosite.AuthorizeResponder) (*Grant, error) {
	ar := pass.requester
	r, err := g.inspect(ctx, ar, ar.GetSession())
	r.client = pass.client
	pass.request = r
	if err != nil {
		return nil, err
	}
	if len(resp.GetParameters()) > 0 || len(resp.GetHeader()) > 0 || resp.GetCode() != "" {
		return nil, fmt.Errorf("%w: another handler has already written to the response: compose gate.Factory before all other factories", ErrMisconfigured)
	}
	basis := BasisGrant
	if pass.standing != nil {
		if pass.standing.binding != r.binding {
			return nil, ErrConsentRequired
		}
		basis = pass.standing.basis
	}
	var grant *Grant
	if pass.standing != nil && !presents(ctx) {
		grant = pass.standing.grant(r)
	} else if grant, err = g.spend(ctx, pass, r); err != nil {
		return nil, err
	}
	if !subset(ar.GetGrantedScopes(), grant.Scopes) || !subset(ar.GetGrantedAudience(), grant.Audience) {
		return nil, fmt.Errorf("%w: the request came with granted scopes or audience that the resource owner did not approve: remove the host's calls of GrantScope and GrantAudience, the gate makes them", ErrMisconfigured)
	}
	if err := pass.provider.claim(ctx, ar); err != nil {
		return nil, err
	}
	for _, scope := range grant.Scopes {
		ar.GrantScope(scope)
	}
	for _, audience := range grant.Audience {
		ar.GrantAudience(audience)
	}
	if err := g.applyData(ctx, r, grant); err != nil {
		return nil, err
	}
	if err := g.record(ctx, pass, r, grant); err != nil {
		return nil, err
	}
	if err := g.appendResponse(ctx, pass, basis, grant); err != nil {
		return nil, err
	}
	pass.basis = basis
	return grant, nil
}

// spend consumes the grant of the token in the context. Its errors are reasons.
func (g *Gate) spend(ctx context.Context, pass *passage, r request) (*Grant, error) {
	token, err := g.presented(ctx, pass.step, r)
	if err != nil {
		return nil, err
	}
	pass.id = token.id

	grant, err := g.storage.ConsumeConsentGrant(ctx, Presentation{
		ID: token.id, SecretHash: token.secretHash(), Binding: r.binding, Attempt: newAttempt(),
	})
	if err != nil {
		if late := pass.lateAnswer(err); late != nil {
			return nil, late
		}
		return nil, storageError(err, ErrGrantNotFound, ErrBindingMismatch, ErrGrantConsumed, ErrGrantRevoked, ErrGrantExpired)
	}
	pass.consumed = true
	// What a storage of somebody else's returns is checked, not believed.
	if grant == nil || grant.Denied || grant.ID != token.id || grant.Binding != r.binding || grant.Subject != r.subject || grant.ClientID != r.GetClient().GetID() {
		return nil, fmt.Errorf("%w: it returned another grant than the one that was presented", ErrStorage)
	}
	if err := errors.Join(checkDecision(r, grant.Scopes, grant.Audience), checkRemember(Decision{Remember: grant.Remember})); err != nil {
		return nil, fmt.Errorf("%w: it returned a grant that cannot have been minted: %w", ErrStorage, err)
	}
	if grant.Remember != nil && g.config.Consents == nil {
		return nil, errNoConsents
	}
	return grant, nil
}

// applyData has the host bring a decision's data to the session.
func (g *Gate) applyData(ctx context.Context, r request, grant *Grant) error {
	if len(grant.Data) == 0 {
		return nil
	}
	if g.config.ApplyData == nil {
		return errNoApplyData
	}
	if err := g.config.ApplyData(ctx, r.AuthorizeRequester, grant.Data); err != nil {
		return fmt.Errorf("fositeconsent: Config.ApplyData: %w", err)
	}
	return g.checkGranted(ctx, r, grant)
}

var errNoApplyData = fmt.Errorf("%w: the decision carries data and Config.ApplyData is not set", ErrMisconfigured)

// checkGranted holds what will be issued, and to whom, against what was decided:
// after the host's hook, so that nothing is made of what it changed, and when all
// handlers have run.
func (g *Gate) checkGranted(ctx context.Context, r request, grant *Grant) error {
	if !sameSet(r.GetGrantedScopes(), grant.Scopes) || !sameSet(r.GetGrantedAudience(), grant.Audience) {
		return fmt.Errorf("%w: the granted scopes or audience were changed after the gate had set them to what the resource owner approved", ErrMisconfigured)
	}
	r.session = r.GetSession()
	if isNil(r.session) {
		return fmt.Errorf("%w: the session was removed from the request", ErrMisconfigured)
	}
	if err := g.checkSubject(ctx, r); err != nil {
		return err
	}
	if g.bind(r) != grant.Binding {
		return fmt.Errorf("%w: the authorization request was changed after the resource owner had approved it", ErrMisconfigured)
	}
	return nil
}

// storageError passes the reasons on that the storage may give, and makes
// everything else a failure of the storage.
func storageError(err error, allowed ...error) error {
	for _, reason := range allowed {
		if errors.Is(err, reason) {
			return err
		}
	}
	if isRefusal(err) { // not one of this method's, and so not to be believed
		return fmt.Errorf("%w: unexpected error: %v", ErrStorage, err) //nolint:errorlint // hides it on purpose
	}
	return fmt.Errorf("%w: %w", ErrStorage, err)
}

// firstMissing returns the first of the list that is not among the others. It
// compares exact strings, which fosite's Arguments.Has does not, and takes no longer
// than a request takes to be read.
func firstMissing(list, others []string) (string, bool) {
	has := func(s string) bool { return slices.Contains(others, s) }
	if len(list) > 8 {
		set := make(map[string]struct{}, len(others))
		for _, s := range others {
			set[s] = struct{}{}
		}
		has = func(s string) bool { _, ok := set[s]; return ok }
	}
	for _, s := range list {
		if !has(s) {
			return s, true
		}
	}
	return "", false
}

func subset(list, of []string) bool {
	_, missing := firstMissing(list, of)
	return !missing
}

func sameSet(a, b []string) bool { return subset(a, b) && subset(b, a) }
