package fositeconsent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// errNoDecisions says that what was called needs the log.
var errNoDecisions = fmt.Errorf("%w: set Config.Decisions, for instance to the pgstore.Store that keeps the grants", ErrMisconfigured)

// appendDecision adds a record, if there is a log. Its errors are reasons.
func (g *Gate) appendDecision(ctx context.Context, record DecisionRecord) error {
	if g.config.Decisions == nil {
		return nil
	}
	record.ID, record.Issuer = newID(g.now()), g.config.Issuer
	if err := g.config.Decisions.AppendDecision(ctx, &record); err != nil {
		return fmt.Errorf("%w: the decision could not be recorded: %w", ErrStorage, err)
	}
	return nil
}

// decided is the record of a request that was decided on.
func decided(outcome Outcome, r request, grant *Grant) DecisionRecord {
	record := DecisionRecord{
		Outcome: outcome, Subject: r.subject, ClientID: r.GetClient().GetID(),
		RequestedScopes: unique(r.GetRequestedScopes()), RequestedAudience: unique(r.GetRequestedAudience()),
		Scopes: unique(grant.Scopes), Audience: unique(grant.Audience), Shown: grant.Shown,
	}
	if !grant.ID.IsZero() {
		record.ConsentIDs = []ID{grant.ID}
	}
	return record
}

// appendResponse records that the gate lets a response pass, in the transaction in which everything
// else of it is stored.
func (g *Gate) appendResponse(ctx context.Context, pass *passage, basis Basis, grant *Grant) error {
	record := decided(OutcomePassed, pass.request, grant)
	if pass.action == ActionApprove && basis == BasisGrant {
		record.Outcome = OutcomeApproved
	} else {
		record.Basis = basis
	}
	if basis != BasisGrant { // nobody was shown a page, whatever came with the request
		record.Shown, record.ConsentIDs = pass.standing.shown, nil
	}
	if pass.consentIDs != nil {
		record.ConsentIDs = pass.consentIDs
	}
	err := g.appendDecision(ctx, record)
	if late := pass.lateAnswer(err); late != nil {
		return late
	}
	return err
}

// storeDecision stores what was decided on a page, and the record of that, at once: in one transaction
// of the provider's storage, if that has any.
func (g *Gate) storeDecision(ctx context.Context, grant *Grant, record DecisionRecord) error {
	store := func(ctx context.Context) error {
		if err := g.storage.CreateConsentGrant(ctx, grant); err != nil {
			return storageError(err, ErrAlreadyDecided)
		}
		return g.appendDecision(ctx, record)
	}
	provider := g.provider.Load()
	if g.config.Decisions == nil || provider == nil || provider.transactions == nil {
		return store(ctx)
	}
	err := inOne(ctx, provider.transactions, store)
	if errors.Is(err, ErrStorage) && errors.Is(err, ErrAlreadyDecided) { // the answer to the first statement, put off
		return ErrAlreadyDecided
	}
	return err
}

// inOne does something in one transaction. Its errors are reasons.
func inOne(ctx context.Context, tx transactional, do func(context.Context) error) (err error) {
	inner, err := tx.BeginTX(ctx)
	if err == nil && inner == nil {
		err = errors.New("BeginTX returned no context")
	}
	if err != nil {
		return fmt.Errorf("%w: begin the transaction: %w", ErrStorage, err)
	}
	committed := false
	defer func() {
		if committed {
			return
		}
		if rollback := tx.Rollback(context.WithoutCancel(inner)); rollback != nil && err != nil {
			err = &rollbackError{err, rollback}
		}
	}()
	if err := do(inner); err != nil {
		return err
	}
	if err := tx.Commit(inner); err != nil {
		return fmt.Errorf("%w: commit the transaction: %w", ErrStorage, err)
	}
	committed = true
	return nil
}

// appendRevoked records what a revocation has ended.
func (g *Gate) appendRevoked(ctx context.Context, consents []Consent) error {
	for i := range consents {
		c := &consents[i]
		err := g.appendDecision(ctx, DecisionRecord{
			Outcome: OutcomeRevoked, Subject: c.Subject, ClientID: c.ClientID,
			Scopes: c.Scopes, Audience: c.Audience, ConsentIDs: []ID{c.ID}, Shown: c.Shown,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// recordedRefusals are the reasons that are about a decision. That there is none yet, or nobody has
// signed in, is how every flow begins; and where the server failed nobody has decided anything.
var recordedRefusals = []string{
	"malformed_token", "not_found", "binding_mismatch", "consumed", "revoked", "expired", "consent_revoked", "consent_expired",
	"already_decided", "invalid_ticket", "ticket_expired", "foreign_ticket", "invalid_decision", "request_uri_used", "invalid_request",
}

// appendWithin bounds how long a refusal waits to be recorded, and maxAppends how many are being recorded at a time: a
// refusal must not cost much more than it did, nor many of them everybody else the database.
const (
	appendWithin = time.Second
	maxAppends   = 16
)

// errBusy is why a refusal is not recorded where there are too many.
var errBusy = errors.New("fositeconsent: too many refusals are being recorded")

// appendRefusal records a refusal, whatever has become of its context and transaction.
func (g *Gate) appendRefusal(ctx context.Context, s *step, event *Event) {
	if g.config.Decisions == nil || event.Action == ActionPrompt || event.Subject == "" || !slices.Contains(recordedRefusals, event.Reason) {
		return
	}
	record := DecisionRecord{
		Outcome: OutcomeRefused, Reason: event.Reason, Subject: event.Subject, ClientID: event.ClientID,
		RequestedScopes: unique(event.RequestedScopes), Shown: s.shown,
	}
	if s.request.AuthorizeRequester != nil {
		record.RequestedAudience = unique(s.request.GetRequestedAudience())
	}
	if !event.GrantID.IsZero() {
		record.ConsentIDs = []ID{event.GrantID}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendWithin)
	defer cancel()
	select {
	case g.appends <- struct{}{}:
		defer func() { <-g.appends }()
		event.Unrecorded = g.appendDecision(ctx, record)
	case <-ctx.Done():
		event.Unrecorded = errBusy
	}
}

// exportedAtOnce is how many records are read, and are in memory, at a time.
const exportedAtOnce = 1000

// ExportDecisions writes the selected records as JSON, one to a line, the oldest first
// ([DecisionRecord.MarshalJSON]), and returns how many that were, also beside an error. The
// selection's Issuer is set to the gate's. Records are read a thousand at a time; those that
// are added meanwhile may be missing, or not.
//
// The error is [ErrMisconfigured] without [Config.Decisions], [ErrStorage], or the writer's.
func (g *Gate) ExportDecisions(ctx context.Context, w io.Writer, selection DecisionSelection) (n int, err error) {
	ctx, end := g.span(ctx, "Gate.export")
	defer func() { end(err) }()
	if g.config.Decisions == nil {
		return 0, errNoDecisions
	}
	selection.Issuer = g.config.Issuer
	lines := json.NewEncoder(w)
	var last ID
	for {
		list, err := g.config.Decisions.ListDecisions(ctx, selection, last, exportedAtOnce)
		if err != nil {
			return n, storageError(err)
		}
		if len(list) > exportedAtOnce {
			return n, fmt.Errorf("%w: ListDecisions returned %d records for a page of %d", ErrStorage, len(list), exportedAtOnce)
		}
		for i := range list {
			// What a storage of somebody else's returns is checked, not believed.
			if !selection.has(&list[i]) || bytes.Compare(list[i].ID[:], last[:]) <= 0 {
				return n, fmt.Errorf("%w: ListDecisions returned a record that was not asked for, or not in order", ErrStorage)
			}
			last = list[i].ID
			if err := lines.Encode(list[i]); err != nil {
				return n, fmt.Errorf("fositeconsent: export decisions: %w", err)
			}
			n++
		}
		if len(list) < exportedAtOnce {
			return n, nil
		}
	}
}

// has reports whether the record has all that is set.
func (s DecisionSelection) has(r *DecisionRecord) bool {
	return r.Issuer == s.Issuer &&
		(s.Subject == "" || r.Subject == s.Subject) &&
		(s.ClientID == "" || r.ClientID == s.ClientID) &&
		(s.Since.IsZero() || !r.RecordedAt.Before(s.Since)) &&
		(s.Until.IsZero() || r.RecordedAt.Before(s.Until))
}

// EraseSubject forgets what a subject has decided: it takes all of their consents back, as
// [Gate.Revoke] does, if the gate keeps any, and then deletes every record of theirs from
// the log. It returns how many records that were, also beside an error. A call that failed is to be
// repeated, and so is one for somebody who could still sign in meanwhile. Grants, and consents
// that are revoked, go when their storage sweeps them.
//
// The error is [ErrMisconfigured] without [Config.Decisions] and for an empty subject, and otherwise
// that of Revoke, or [ErrStorage].
func (g *Gate) EraseSubject(ctx context.Context, subject string) (records int, err error) {
	ctx, end := g.span(ctx, "Gate.erase")
	defer func() { end(err) }()
	switch {
	case g.config.Decisions == nil:
		return 0, errNoDecisions
	case subject == "":
		return 0, fmt.Errorf("%w: there is no subject to be erased", ErrMisconfigured)
	}
	if g.config.Consents != nil {
		if _, err := g.Revoke(ctx, Selection{Subject: subject}); err != nil {
			return 0, err
		}
	}
	records, err = g.config.Decisions.EraseDecisions(ctx, g.config.Issuer, subject)
	if err != nil {
		return records, storageError(err)
	}
	return records, nil
}

// span starts a span for what is no decision, and returns what ends it.
func (g *Gate) span(ctx context.Context, name string) (context.Context, func(error)) {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracerName).Start(ctx, name)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, reasonLabel(err))
		}
		span.End()
	}
}
