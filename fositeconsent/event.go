package fositeconsent

import (
	"errors"
	"log/slog"
	"time"

	"github.com/ory/fosite"
)

// Action is what the gate was asked to do.
type Action string

// The actions, in the order of a flow.
const (
	ActionPrompt  Action = "prompt"  // a consent page was shown
	ActionMint    Action = "mint"    // the resource owner approved
	ActionDeny    Action = "deny"    // the resource owner denied
	ActionConsume Action = "consume" // a response was asked for
	ActionApprove Action = "approve" // mint and consume in one: a response was asked for with a decision
	ActionToken   Action = "token"   // a code exchange or a refresh was refused by the handler of [Gate.TokenFactory], or by the storage because of a consent
	ActionRevoke  Action = "revoke"  // consents were taken back
)

// Basis is what a response rests on.
type Basis string

// The bases.
const (
	BasisGrant       Basis = "grant"        // a decision on this very request
	BasisRemembered  Basis = "remembered"   // consents that are remembered
	BasisPreApproved Basis = "pre_approved" // the host's own approval: Config.PreApproved
)

// Event says what the gate decided, and why. Exactly one is sent for each call of
// [Gate.Prompt], [Gate.Mint], [Gate.Deny] and [Gate.Revoke], for each authorization response
// that was asked for, for each [Gate.Covers] that failed, and for each token response that the gate's handler refused; and one more for a response that was refused when it was to be
// written, for another request than its own. It holds no secret of this package: no
// token, no ticket, no binding. It logs itself with log/slog, and with it, where a
// handler after the gate failed, what that handler and its storage say.
type Event struct {
	Action Action
	// Reason is "" if the action succeeded, and else one of a fixed set of labels,
	// fit for a metric: consent_required, malformed_token, not_found,
	// binding_mismatch, consumed, revoked, expired, consent_revoked, consent_expired, already_decided, invalid_ticket,
	// ticket_expired, foreign_ticket, invalid_decision, login_required,
	// request_uri_used, invalid_request, misconfigured, storage, response_failed (a
	// handler after the gate failed), panic, error.
	Reason string
	// Err is the error that was returned, nil if the action succeeded.
	Err error
	// Basis is what a response rests on, once the gate has passed it, and otherwise "".
	Basis Basis
	// ConsentIDs are the consents under which the response was recorded, by which it is listed and
	// revoked; the newest first. Nil without [Config.Consents]. Of a revocation, the one that
	// was selected, if one was.
	ConsentIDs []ID
	// Revoked is how many consents a revocation ended.
	Revoked int
	// GrantID is zero if no grant was named.
	GrantID ID
	// Consumed reports that the grant is spent by this response, whatever came after
	// that; and that it may be, where the outcome of the transaction is not known. It
	// is false if a transaction that had spent it was rolled back: that presumes a
	// storage that takes part, which [Gate.Check] finds out.
	Consumed bool
	// Subject, ClientID and RequestedScopes are those of the authorization
	// request, "" and nil if it has none; and the first two those of the token request, or what a
	// revocation was asked for.
	Subject, ClientID string
	RequestedScopes   []string
	// GrantedScopes and GrantedAudience are what was decided: set for a mint that
	// succeeded, and for a consume or an approve once the gate has passed it.
	GrantedScopes, GrantedAudience []string
	// Unrecorded is why [Config.Decisions] has no record of a refusal that it should have, or may have none;
	// otherwise nil.
	Unrecorded error
	// Duration is how long the action took, the storage's part included.
	Duration time.Duration
}

// Refused reports whether the gate said no.
func (e Event) Refused() bool { return e.Reason != "" }

// LogValue returns the event as a group of attributes.
func (e Event) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("action", string(e.Action))}
	if e.Refused() {
		attrs = append(attrs, slog.String("reason", e.Reason))
	}
	if cause := rootReason(e.Err); cause != nil {
		attrs = append(attrs, slog.String("error", cause.Error()))
	}
	// fosite's own errors say in the hint what went wrong, and in Error only a name.
	if outer := (*fosite.RFC6749Error)(nil); e.Reason == "response_failed" && errors.As(e.Err, &outer) {
		attrs = append(attrs, slog.String("hint", outer.Reason()), slog.String("debug", outer.Debug()))
	}
	if e.Unrecorded != nil {
		attrs = append(attrs, slog.String("unrecorded", e.Unrecorded.Error()))
	}
	if !e.GrantID.IsZero() {
		attrs = append(attrs, slog.String("grant_id", e.GrantID.String()))
	}
	if e.Basis != "" {
		attrs = append(attrs, slog.String("basis", string(e.Basis)))
	}
	if len(e.ConsentIDs) > 0 {
		attrs = append(attrs, slog.Any("consent_ids", idTexts(e.ConsentIDs)))
	}
	if e.Action == ActionRevoke {
		attrs = append(attrs, slog.Int("revoked", e.Revoked))
	}
	if e.Consumed {
		attrs = append(attrs, slog.Bool("consumed", true))
	}
	attrs = append(attrs,
		slog.String("subject", e.Subject),
		slog.String("client_id", e.ClientID),
		slog.Any("requested_scopes", e.RequestedScopes))
	if e.GrantedScopes != nil || e.GrantedAudience != nil {
		attrs = append(attrs, slog.Any("granted_scopes", e.GrantedScopes), slog.Any("granted_audience", e.GrantedAudience))
	}
	return slog.GroupValue(append(attrs, slog.Duration("duration", e.Duration))...)
}

func idTexts(ids []ID) []string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return texts
}

// reasons maps every reason to its label.
var reasons = []struct {
	err   error
	label string
}{
	{errPanicked, "panic"},
	{ErrStorage, "storage"}, // before the others, since it may wrap what a storage should not have said
	{ErrConsentRequired, "consent_required"},
	{ErrMalformedToken, "malformed_token"},
	{ErrGrantNotFound, "not_found"},
	{ErrBindingMismatch, "binding_mismatch"},
	{ErrGrantConsumed, "consumed"},
	{ErrGrantRevoked, "revoked"},
	{ErrGrantExpired, "expired"},
	{ErrConsentRevoked, "consent_revoked"},
	{ErrConsentExpired, "consent_expired"},
	{ErrAlreadyDecided, "already_decided"},
	{ErrInvalidTicket, "invalid_ticket"},
	{ErrTicketExpired, "ticket_expired"},
	{ErrForeignTicket, "foreign_ticket"},
	{ErrInvalidDecision, "invalid_decision"},
	{ErrLoginRequired, "login_required"},
	{ErrRequestURIUsed, "request_uri_used"},
	{ErrInvalidRequest, "invalid_request"},
	{ErrMisconfigured, "misconfigured"},
}

func reasonLabel(err error) string {
	if err == nil {
		return ""
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.label
		}
	}
	return "error"
}

// rootReason returns what stands inside fosite's error: fosite's own text is only
// the error's name.
func rootReason(err error) error {
	for {
		var outer *fosite.RFC6749Error
		if !errors.As(err, &outer) || outer.Unwrap() == nil {
			return err
		}
		err = outer.Unwrap()
	}
}
