package fositeconsent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// Prompt is one rendering of a consent page: what to show and the ticket to put
// into its form.
type Prompt struct {
	// ID will be the name of the grant. For logs.
	ID ID
	// Ticket goes into the form, as a hidden field. It pins what this page
	// shows to this subject; by itself it approves nothing. Text of a few hundred
	// URL-safe characters, too long and too personal for a URL.
	Ticket string
	// Client is the one that asks (RFC 6749, Section 10.2: name it).
	Client fosite.Client
	// Subject is the resource owner who is asked.
	Subject string
	// LoginSession is the login in which they are asked, as [Config.LoginSession] has it; "" without that.
	LoginSession string
	// Scopes and Audience are what is requested, in the order of the request.
	Scopes, Audience []string
	// NewScopes and NewAudience are those among Scopes and Audience that the subject has not
	// allowed this client already, by consents that are remembered. All of them, if the gate
	// keeps no consents, or if another can pass for the client (RFC 8252, Section 8.6).
	NewScopes, NewAudience []string
	// Rememberable reports whether a remembered decision could let a later request of the client
	// pass: whether to offer it. False if the gate keeps no consents, or if another can pass for
	// the client.
	Rememberable bool
	// RequiredScopes are those among Scopes that a decision cannot leave out.
	RequiredScopes []string
	// RedirectURI is where the browser will be sent.
	RedirectURI string
	// ExpiresAt is when the page can no longer be answered.
	ExpiresAt time.Time
}

// Decision is what the resource owner approved. To deny there is [Gate.Deny].
type Decision struct {
	// Scopes are the granted ones among the requested, as exact strings. Nothing
	// is granted that is not listed here. A scope with an asterisk cannot be
	// granted: fosite's default strategy would take it for a pattern.
	Scopes []string
	// Audience is the granted part of the requested audience, as exact strings.
	Audience []string
	// Data is the host's own, handed to [Config.ApplyData] when the grant is
	// consumed; at most [MaxDataSize] bytes. It is stored as it is.
	Data []byte
	// Remember, if set, has the approval stand for later requests of the client that ask
	// for no more. It is an error without [Config.Consents]. Nothing is remembered of an approval
	// that led to no response, where the response is made in one transaction.
	Remember *Remember
	// Unasked says that the resource owner was shown no page, since [Gate.Covers] had said that nothing
	// needed one. The response rests on what covers the request when it is made, then, as if it had come without
	// a decision: it is recorded, listed and revoked under that, and over when that is. If nothing covers it any more, the
	// decision is worth nothing, and refused with [ErrConsentRequired], [ErrConsentRevoked] or [ErrConsentExpired]. For [WithDecision] only, and nothing of it is
	// remembered.
	Unasked bool
}

// MaxDataSize bounds [Decision.Data], in bytes.
const MaxDataSize = 64 << 10

// Prompt prepares a consent page for the authorization request, for the session's
// subject. Nothing is stored: a page that nobody answers leaves no trace.
//
// The errors are fosite's, to be written to the client: login_required if the
// session has no subject or its login is not what max_age or prompt=login ask for,
// consent_required if the client sent prompt=none, invalid_request, or a server error.
func (g *Gate) Prompt(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) (prompt *Prompt, err error) {
	err = g.observe(ctx, ActionPrompt, func(ctx context.Context, step *step) (err error) {
		prompt, err = g.prompt(ctx, step, ar, session)
		return asClientError(err, step.request.silent)
	})
	return prompt, err
}

func (g *Gate) prompt(ctx context.Context, step *step, ar fosite.AuthorizeRequester, session fosite.Session) (*Prompt, error) {
	r, err := g.inspect(ctx, ar, session)
	step.request = r
	if err != nil {
		return nil, err
	}
	if r.silent {
		return nil, ErrConsentRequired
	}
	now := g.now()
	shown, err := g.shownNow(ctx, &r)
	if err != nil {
		return nil, err
	}
	t := ticket{
		id:           newID(now),
		binding:      r.binding,
		shown:        shown,
		expires:      now.Add(g.config.PromptLifespan),
		subject:      r.subject,
		loginSession: r.loginSession,
	}
	step.id = t.id
	text, err := g.tickets.seal(ctx, t)
	if err != nil {
		return nil, err
	}
	prompt := &Prompt{
		ID:          t.id,
		Ticket:      text,
		Client:      ar.GetClient(),
		Subject:     r.subject,
		RedirectURI: ar.GetRedirectURI().String(),
		ExpiresAt:   t.expires,
	}
	if r.loginSession != nil {
		prompt.LoginSession = *r.loginSession
	}
	if r.client != nil { // the one that the ticket is about
		prompt.Client = r.client
	}
	prompt.Scopes, prompt.NewScopes = twoCopies(ar.GetRequestedScopes())
	prompt.Audience, prompt.NewAudience = twoCopies(ar.GetRequestedAudience())
	if err := g.leaveOutAllowed(ctx, r, prompt, shown); err != nil {
		return nil, err
	}
	if slices.Contains(prompt.Scopes, "openid") {
		prompt.RequiredScopes = []string{"openid"}
	}
	return prompt, nil
}

// leaveOutAllowed leaves in the prompt's NewScopes and NewAudience what the resource owner has
// not allowed the client before, as it is shown now, and sets Rememberable.
func (g *Gate) leaveOutAllowed(ctx context.Context, r request, prompt *Prompt, shown Digest) error {
	if prompt.Rememberable = g.config.Consents != nil && r.isAssured(); !prompt.Rememberable {
		return nil
	}
	consents, ok := g.looks.take(r, g.now())
	if !ok {
		var err error
		if consents, err = g.findConsents(ctx, r); err != nil {
			return err
		}
	}
	for _, c := range shownAs(consents, shown) {
		prompt.NewScopes = slices.DeleteFunc(prompt.NewScopes, func(scope string) bool { return slices.Contains(c.RememberedScopes, scope) })
		prompt.NewAudience = slices.DeleteFunc(prompt.NewAudience, func(a string) bool { return slices.Contains(c.Audience, a) })
	}
	return nil
}

// twoCopies returns two copies of the list, in one piece of memory.
func twoCopies(list []string) (a, b []string) {
	both := slices.Concat(list, list)
	return both[:len(list):len(list)], both[len(list):]
}

// Mint records the resource owner's approval of the page that the ticket comes
// from and returns the proof of it. Call it only on the exact approve value of the
// page's form, sent by the page itself: protection against cross-site requests is
// the host's (RFC 6749, Section 10.12).
//
// ar and session are those of the request that is about to be answered, parsed
// anew or kept; the ticket decides whether they are what the page showed. Of any
// number of calls for one page, on any number of nodes, one succeeds.
//
// [NeedsConsent] is true for the error if a new page is the way on: the ticket is
// invalid, expired, another user's or for another request, or has been decided
// already. Then nothing was stored. A host that has a page of its own for a second
// answer asks errors.Is(err, [ErrAlreadyDecided]) first. A decision that grants what
// was not requested, or leaves out one of [Prompt.RequiredScopes], is refused as a
// whole with [ErrInvalidDecision].
func (g *Gate) Mint(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session, ticket string, decision Decision) (token Token, err error) {
	err = g.observe(ctx, ActionMint, func(ctx context.Context, step *step) (err error) {
		token, err = g.mint(ctx, step, ar, session, ticket, decision)
		return asClientError(err, step.request.silent)
	})
	return token, err
}

func (g *Gate) mint(ctx context.Context, step *step, ar fosite.AuthorizeRequester, session fosite.Session, ticket string, decision Decision) (Token, error) {
	r, err := g.inspect(ctx, ar, session)
	step.request = r
	if err != nil {
		return Token{}, err
	}
	if decision.Unasked {
		return Token{}, fmt.Errorf("%w: Mint was called with a decision that nobody was asked for: a token would not say what it rests on, use WithDecision", ErrMisconfigured)
	}
	token, grant, err := g.approval(ctx, step, r, ticket, decision)
	if err != nil {
		return Token{}, err
	}
	if err := g.storeDecision(ctx, grant, decided(OutcomeApproved, r, grant)); err != nil {
		return Token{}, err
	}
	step.grant = grant
	return token, nil
}

// approval is the grant of a decision, to be stored. Its errors are reasons.
func (g *Gate) approval(ctx context.Context, step *step, r request, ticket string, decision Decision) (Token, *Grant, error) {
	grant, err := g.decide(ctx, step, r, ticket)
	if err != nil {
		return Token{}, nil, err
	}
	if err := checkDecision(r, decision.Scopes, decision.Audience); err != nil {
		return Token{}, nil, err
	}
	if err := checkRemember(decision); err != nil {
		return Token{}, nil, err
	}
	if decision.Remember != nil && g.config.Consents == nil {
		return Token{}, nil, errNoConsents
	}
	if len(decision.Data) > MaxDataSize {
		return Token{}, nil, fmt.Errorf("%w: its data has %d bytes: use at most %d", ErrInvalidDecision, len(decision.Data), MaxDataSize)
	}
	if len(decision.Data) > 0 && g.config.ApplyData == nil {
		return Token{}, nil, errNoApplyData
	}
	token := newToken(grant.ID)
	grant.SecretHash = token.secretHash()
	grant.Scopes = slices.Clone(decision.Scopes)
	grant.Audience = slices.Clone(decision.Audience)
	grant.Data = decision.Data
	if decision.Remember != nil {
		remember := *decision.Remember
		grant.Remember = &remember
	}
	return token, grant, nil
}

// Deny records that the resource owner refused the page that the ticket comes
// from. It is final: no call of [Gate.Mint] for the same page succeeds after it.
// On success write fosite.ErrAccessDenied to the client (RFC 6749, Section
// 4.1.2.1). The errors are those of Mint.
func (g *Gate) Deny(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session, ticket string) error {
	return g.observe(ctx, ActionDeny, func(ctx context.Context, step *step) error {
		return asClientError(g.deny(ctx, step, ar, session, ticket), step.request.silent)
	})
}

func (g *Gate) deny(ctx context.Context, step *step, ar fosite.AuthorizeRequester, session fosite.Session, ticket string) error {
	r, err := g.inspect(ctx, ar, session)
	step.request = r
	if err != nil {
		return err
	}
	grant, err := g.decide(ctx, step, r, ticket)
	if err != nil {
		return err
	}
	grant.Denied = true
	grant.SecretHash = newToken(grant.ID).secretHash() // of a secret that is gone when this line is over
	return g.storeDecision(ctx, grant, decided(OutcomeDenied, r, grant))
}

// decide holds the ticket against the request and the session that it came back with.
func (g *Gate) decide(ctx context.Context, step *step, r request, text string) (*Grant, error) {
	if r.silent { // prompt is not bound: the page was shown without none
		return nil, ErrBindingMismatch
	}
	t, err := g.tickets.open(ctx, text)
	if err != nil {
		return nil, err
	}
	step.id = t.id
	switch {
	case t.subject != r.subject, !sameText(t.loginSession, r.loginSession):
		return nil, ErrForeignTicket
	case !g.now().Before(t.expires):
		return nil, ErrTicketExpired
	case t.binding != r.binding:
		return nil, ErrBindingMismatch
	}
	switch shown, err := g.shownNow(ctx, &r); {
	case err != nil:
		return nil, err
	case t.shown != shown:
		return nil, fmt.Errorf("%w: the client is not what the page showed", ErrBindingMismatch)
	}
	step.shown = t.shown
	return &Grant{
		ID: t.id, Binding: t.binding, Subject: t.subject, ClientID: r.GetClient().GetID(), Shown: t.shown, Lifespan: g.config.GrantLifespan,
	}, nil
}

// checkDecision refuses what was not requested, and what cannot be granted as if
// it stood alone.
func checkDecision(r request, scopes, audience []string) error {
	// Before anything is compared: what a form sends has no bound of its own.
	if len(scopes) > len(r.GetRequestedScopes()) || len(audience) > len(r.GetRequestedAudience()) {
		return fmt.Errorf("%w: it lists more scopes or audiences than were requested", ErrInvalidDecision)
	}
	if scope, ok := firstMissing(scopes, r.GetRequestedScopes()); ok {
		return fmt.Errorf("%w: scope %q was not requested", ErrInvalidDecision, scope)
	}
	if a, ok := firstMissing(audience, r.GetRequestedAudience()); ok {
		return fmt.Errorf("%w: audience %q was not requested", ErrInvalidDecision, a)
	}
	for _, scope := range scopes {
		if strings.ContainsFunc(scope, notInScopes) {
			return fmt.Errorf("%w: scope %q has a character that RFC 6749, Section 3.3 does not allow", ErrInvalidDecision, scope)
		}
		if strings.Contains(scope, "*") {
			return fmt.Errorf("%w: scope %q has a wildcard and would cover scopes that nobody saw: leave it out", ErrInvalidDecision, scope)
		}
		for _, special := range []string{"openid", "offline", "offline_access"} {
			if scope != special && strings.ToLower(scope) == special { // as fosite compares
				return fmt.Errorf("%w: fosite would take scope %q for %q: leave it out", ErrInvalidDecision, scope, special)
			}
		}
	}
	// Without openid fosite skips the checks of prompt, max_age and id_token_hint
	// and leaves ID tokens out, or refuses them with a misleading error.
	if slices.Contains(r.GetRequestedScopes(), "openid") && !slices.Contains(scopes, "openid") {
		return fmt.Errorf("%w: the scope openid was requested and cannot be declined alone: grant it, or deny the request", ErrInvalidDecision)
	}
	return nil
}

// notInScopes reports what RFC 6749, Section 3.3 leaves out of a scope token.
func notInScopes(c rune) bool { return c < '!' || c > '~' || c == '"' || c == '\\' }

func sameText(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
