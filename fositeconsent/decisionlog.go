package fositeconsent

import (
	"context"
	"time"
)

// Outcome is what became of something that was to be decided.
type Outcome string

// The outcomes.
const (
	OutcomeApproved Outcome = "approved" // the resource owner approved a page
	OutcomeDenied   Outcome = "denied"   // the resource owner denied a page
	OutcomePassed   Outcome = "passed"   // a response was made by what had been approved before: [DecisionRecord.Basis]
	OutcomeRefused  Outcome = "refused"  // the gate refused: [DecisionRecord.Reason]
	OutcomeRevoked  Outcome = "revoked"  // a consent was taken back
)

// DecisionRecord is one entry of the log of decisions. It holds no secret: no token, no ticket, no
// binding.
type DecisionRecord struct {
	// ID is the record's own, a UUIDv7.
	ID ID
	// RecordedAt is when, by the storage's clock. Ignored when a record is appended.
	RecordedAt time.Time
	// Outcome is what was decided.
	Outcome Outcome
	// Reason says why the gate refused, as [Event.Reason] does; otherwise "".
	Reason string
	// Basis is by what a response passed: [BasisGrant] for one that was approved in an earlier
	// call of [Gate.Mint], [BasisRemembered] or [BasisPreApproved]. Otherwise "".
	Basis Basis
	// Issuer, Subject and ClientID say who decided about whom, and where.
	Issuer, Subject, ClientID string
	// RequestedScopes and RequestedAudience are what was asked for; nil for what was
	// revoked, and for a token request.
	RequestedScopes, RequestedAudience []string
	// Scopes and Audience are what was granted, or is not any more.
	Scopes, Audience []string
	// ConsentIDs are those under which it is listed and revoked; for an approval that of the grant. Nil
	// if there is none.
	ConsentIDs []ID
	// Shown is the digest of what the page showed of the client ([Consent.Shown]), zero where
	// nobody was shown anything, or it is not known.
	Shown Digest
}

// DecisionSelection says which records are meant: all that have what is set here.
type DecisionSelection struct {
	// Issuer is that of the gate, which sets it.
	Issuer            string
	Subject, ClientID string
	// Since and Until bound RecordedAt: from the first on, and before the second. Zero is
	// no bound.
	Since, Until time.Time
}

// DecisionLog keeps a record of everything that was decided, and changes none.
//
// Implementations are checked by consenttest.RunDecisions. What holds for every method: they
// are safe for concurrent use; the storage's own clock decides; text is kept byte for byte or
// refused; every error means that the outcome is unknown, and a call whose context is over
// before it begins changes nothing. In a transaction of the host's fosite storage (BeginTX) all
// are a part of that.
type DecisionLog interface {
	// AppendDecision adds a record. It takes effect at once and durably, or not at all; in a
	// transaction it may be put off until something has to be sent, the Commit at the latest, and what is
	// not stored fails that. A call that repeats the ID succeeds without a change. A zero ID and an
	// empty Outcome, Issuer or Subject are errors. The record must not be nil, and is not kept or
	// modified after the call.
	AppendDecision(ctx context.Context, record *DecisionRecord) error

	// ListDecisions returns at most limit records of the selection, the oldest first, by ID:
	// those with an ID above after. A selection without an Issuer, and a limit below 1, are
	// errors. What is being recorded meanwhile may get an ID that is below one which was returned, and so may what
	// another process records, whose clock is another.
	ListDecisions(ctx context.Context, selection DecisionSelection, after ID, limit int) ([]DecisionRecord, error)

	// EraseDecisions deletes every record of the subject, and returns how many there were, also
	// beside an error. It may use several transactions. A call that failed is to be repeated. An
	// empty issuer or subject is an error.
	EraseDecisions(ctx context.Context, issuer, subject string) (int, error)
}
