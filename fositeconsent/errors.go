package fositeconsent

import (
	"context"
	"errors"
	"slices"

	"github.com/ory/fosite"
)

// The reasons for which the gate itself refuses; the storage's are beside
// [GrantStorage]. Every error that the gate returns is one of fosite's on the
// outside, for the client, and wraps one of these or of the storage's, for logs.
var (
	// ErrConsentRequired: the request came without a token, and nothing else lets it pass. See
	// [NeedsConsent].
	ErrConsentRequired = errors.New("fositeconsent: no consent token was presented")
	// ErrInvalidTicket: no prompt of this issuer has this ticket, or it was changed.
	ErrInvalidTicket = errors.New("fositeconsent: ticket was not sealed by this authorization server, or was changed")
	// ErrTicketExpired: the prompt was answered after [Config.PromptLifespan].
	ErrTicketExpired = errors.New("fositeconsent: ticket expired")
	// ErrForeignTicket: the prompt was shown to another subject or in another login session.
	ErrForeignTicket = errors.New("fositeconsent: ticket belongs to another subject or login session")
	// ErrInvalidDecision: the decision grants what was not requested or what
	// cannot be granted alone. What exactly stands in the error's text.
	ErrInvalidDecision = errors.New("fositeconsent: invalid decision")
	// ErrLoginRequired: the session has no subject, max_age is exceeded, or
	// prompt=login was not obeyed.
	ErrLoginRequired = errors.New("fositeconsent: the resource owner must sign in")
	// ErrInvalidRequest: the authorization request cannot be decided on.
	ErrInvalidRequest = errors.New("fositeconsent: invalid authorization request")
	// ErrMisconfigured: the host has to change its code. What to do stands in the
	// error's text.
	ErrMisconfigured = errors.New("fositeconsent: misconfigured")
	// ErrStorage: the storage failed, and what became of the grant is unknown.
	ErrStorage = errors.New("fositeconsent: storage failed")
)

// What a client is told. It depends on what the client asked for and never on
// the reason, so that nobody can probe for grants.
var (
	refusedError = fosite.ErrAccessDenied.
			WithDescription("The resource owner's consent to this authorization request was not established.").
			WithHint("Send the resource owner to the authorization endpoint again.")
	refusedSilentlyError = fosite.ErrConsentRequired.
				WithDescription("The resource owner's consent to this authorization request was not established.").
				WithHint("Send the resource owner to the authorization endpoint again, without prompt=none.")
	endedError = fosite.ErrInvalidGrant.
			WithHint("The resource owner's consent has ended. Send the resource owner to the authorization endpoint again.")
	usedError = fosite.ErrInvalidRequestURI.
			WithHint("The request_uri has been used. Push the authorization request again.")
)

// refusals are the reasons that showing the page again can mend.
var refusals = []error{
	ErrConsentRequired, ErrMalformedToken, ErrGrantNotFound, ErrBindingMismatch, ErrGrantConsumed, ErrGrantRevoked, ErrGrantExpired,
	ErrConsentRevoked, ErrConsentExpired, ErrInvalidTicket, ErrTicketExpired, ErrForeignTicket, ErrAlreadyDecided,
}

func isRefusal(reason error) bool {
	return slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(reason, r) })
}

// refusal is the cause inside every refusal's fosite error.
type refusal struct {
	reason error
	page   bool // a consent page is the way on
}

func (r *refusal) Error() string { return r.reason.Error() }
func (r *refusal) Unwrap() error { return r.reason }

// NeedsConsent reports whether the way on from err is to show a consent page:
// the request came without a token, or the token or the ticket that came with
// it is not, or no longer, good for it. It is false if the client forbade pages
// with prompt=none (OpenID Connect Core 1.0, Section 3.1.2.1), and for
// everything that a page cannot mend; write those errors to the client.
func NeedsConsent(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.page
}

// asClientError is the one place where a reason becomes what the client is told.
// Nothing is put into the error's debug field: fosite may send that to the client.
func asClientError(reason error, silent bool) error {
	switch {
	case reason == nil:
		return nil
	// First, since it may wrap what a storage should not have said.
	case errors.Is(reason, ErrStorage) && (errors.Is(reason, context.DeadlineExceeded) || errors.Is(reason, context.Canceled)):
		return fosite.ErrTemporarilyUnavailable.WithWrap(reason)
	case errors.Is(reason, ErrStorage):
		return fosite.ErrServerError.WithWrap(reason)
	case isRefusal(reason) && silent:
		return refusedSilentlyError.WithWrap(&refusal{reason: reason})
	case isRefusal(reason):
		return refusedError.WithWrap(&refusal{reason: reason, page: true})
	case errors.Is(reason, ErrInvalidDecision):
		return refusedError.WithWrap(reason)
	case errors.Is(reason, ErrLoginRequired):
		return fosite.ErrLoginRequired.WithWrap(reason)
	case errors.Is(reason, ErrRequestURIUsed):
		return usedError.WithWrap(reason)
	case errors.Is(reason, ErrInvalidRequest):
		// By the name that fosite has for what exactly is wrong with it.
		if named := (*fosite.RFC6749Error)(nil); errors.As(reason, &named) {
			return named.WithWrap(reason)
		}
		return fosite.ErrInvalidRequest.WithWrap(reason)
	}
	// ErrMisconfigured, too: fosite's own name for that is none that a client knows
	// (RFC 6749, Section 4.1.2.1).
	return fosite.ErrServerError.WithWrap(reason)
}
