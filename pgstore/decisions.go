package pgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

var _ fositeconsent.DecisionLog = (*Store)(nil)

// erasedAtOnce bounds how many records one statement erases.
const erasedAtOnce = 1000

type decisionStatements struct{ append, list, erase string }

func newDecisionStatements(n schema.Names) decisionStatements {
	render := strings.NewReplacer("{decisions}", n.Table("decisions")).Replace
	return decisionStatements{append: render(appendSQL), list: render(listDecisionsSQL), erase: render(eraseSQL)}
}

// appendSQL adds a record where what it is about takes effect. One that is there already is the
// first try's.
const appendSQL = `
INSERT INTO {decisions} (id, recorded_at, outcome, reason, basis, issuer, subject, client_id,
                         requested_scopes, requested_audience, scopes, audience, consent_ids, shown)
SELECT $1::uuid, coalesce($14::timestamptz, statement_timestamp()), $2::text, $3::text, $4::text, $5::text, $6::text, $7::text,
       $8::text[], $9::text[], $10::text[], $11::text[], $12::text[]::uuid[], $13::bytea
WHERE {if}
ON CONFLICT (id) DO NOTHING`

const listDecisionsSQL = `
SELECT d.id, d.recorded_at, d.outcome, coalesce(d.reason, ''), coalesce(d.basis, ''), d.issuer, d.subject, d.client_id,
       d.requested_scopes, d.requested_audience, d.scopes, d.audience, d.consent_ids::text[], d.shown
FROM {decisions} AS d
WHERE d.issuer = $1::text AND d.id > $2::uuid{selected}
ORDER BY d.id LIMIT $3::integer`

// eraseSQL returns how many records it has seen, and how many it has deleted: others may delete them, too, a sweeper
// for one, and fewer deleted are not fewer left.
const eraseSQL = `
WITH seen AS MATERIALIZED (
	SELECT d.id FROM {decisions} AS d WHERE d.subject = $2::text AND d.issuer = $1::text ORDER BY d.id LIMIT $3::integer
), gone AS (
	DELETE FROM {decisions} WHERE id = ANY (ARRAY(SELECT seen.id FROM seen)) RETURNING 1
)
SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM gone)`

// sweepDecisionsSQL deletes the oldest records, which have the lowest keys, but for those of a process whose
// clock is an hour fast or more: they go later. One sweeper at a time does it, and others find nothing to
// do: to pass over what somebody has locked would take the right to change records.
const sweepDecisionsSQL = `
WITH horizon AS MATERIALIZED (
	SELECT coalesce($3::timestamptz, statement_timestamp()) - $1::bigint * interval '1 microsecond' AS at
	WHERE pg_try_advisory_xact_lock(hashtextextended('{decisions}', 7377854308561284724))
), gone AS (
	DELETE FROM {decisions} WHERE id = ANY (ARRAY(
		SELECT d.id FROM horizon, {decisions} AS d
		WHERE d.id > coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid AND d.recorded_at <= horizon.at
		  AND d.id < (SELECT (lpad(to_hex(greatest(0, extract(epoch FROM at + interval '1 hour') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid FROM horizon)
		ORDER BY d.id LIMIT $2::integer
	)) RETURNING id
)
SELECT count(*), CASE WHEN count(*) = $2::integer THEN max(id::text) END FROM gone`

// idSlack is by how much a record's key, by the clock of the gate's process, may differ from its date, by the
// database's: so that none is missed where clocks are wrong.
const idSlack = 7 * 24 * time.Hour

// wholeMicroseconds rounds up to what the database's clock can tell apart: nothing that it has dated lies in between.
func wholeMicroseconds(t time.Time) time.Time {
	if t.Nanosecond()%1000 != 0 {
		t = t.Truncate(time.Microsecond).Add(time.Microsecond)
	}
	return t
}

// earliestID is below every ID that is made from that time on.
func earliestID(t time.Time) (id fositeconsent.ID) {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(min(max(0, t.UnixMilli()), 1<<48-1)))
	copy(id[:6], ms[2:])
	return id
}

// AppendDecision implements [fositeconsent.DecisionLog]: one INSERT. In a transaction of
// [Transactions] it is sent with what has to be sent next, the Commit at the latest, and only where that
// takes effect.
func (s *Store) AppendDecision(ctx context.Context, record *fositeconsent.DecisionRecord) error {
	const op = "append decision"
	if err := checkDecision(record); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	args := s.decisionArgs(record)
	if _, unit := tx.In(ctx, s.pool); unit != nil {
		err := ctx.Err()
		if err == nil {
			err = unit.Queue(tx.Statement{SQL: s.decisions.append, Args: args})
		}
		return tx.MapError(ctx, op, err)
	}
	sql, args := tx.Render(s.decisions.append, args, nil)
	_, err := s.run(ctx, func(db DB) error {
		_, err := db.Exec(ctx, sql, args...)
		return err
	})
	return tx.MapError(ctx, op, err)
}

func (s *Store) decisionArgs(r *fositeconsent.DecisionRecord) []any {
	var ids []string
	for _, id := range r.ConsentIDs {
		ids = append(ids, id.String())
	}
	return []any{
		uuid(r.ID), string(r.Outcome), nullIfNone(r.Reason), nullIfNone(string(r.Basis)), r.Issuer, r.Subject, r.ClientID,
		copyOrNull(r.RequestedScopes), copyOrNull(r.RequestedAudience), copyOrNull(r.Scopes), copyOrNull(r.Audience), copyOrNull(ids),
		nullIfZero(r.Shown), s.config.clock(),
	}
}

func nullIfNone(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// copyOrNull is nil, which is NULL, for an empty list.
func copyOrNull(list []string) []string { return append([]string(nil), list...) }

// ListDecisions implements [fositeconsent.DecisionLog]: one statement, by the index on the subject if
// that is selected, and otherwise by the key, which Since and Until bound, too: a record is found by these as long as the clock of the
// process that made it was wrong by less than a week.
func (s *Store) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	const op = "list decisions"
	switch {
	case selection.Issuer == "":
		return nil, fmt.Errorf("pgstore: %s: the selection has no Issuer", op)
	case limit < 1:
		return nil, fmt.Errorf("pgstore: %s: the limit is %d, expected at least 1", op, limit)
	case !storable([]string{selection.Issuer, selection.Subject, selection.ClientID}):
		return nil, ctx.Err() // none can be stored
	}
	args := []any{selection.Issuer, uuid(after), min(limit, 1<<31-1)}
	var conditions strings.Builder
	where := func(condition string, arg any) {
		args = append(args, arg)
		fmt.Fprintf(&conditions, " AND "+condition, len(args))
	}
	if selection.Subject != "" {
		where("d.subject = $%d::text", selection.Subject)
	}
	if selection.ClientID != "" {
		where("d.client_id = $%d::text", selection.ClientID)
	}
	if since := wholeMicroseconds(selection.Since); since.After(time.Unix(0, 0)) { // nothing is older
		where("d.recorded_at >= $%d::timestamptz", since)
		where("d.id > $%d::uuid", uuid(earliestID(since.Add(-idSlack))))
	}
	if until := wholeMicroseconds(selection.Until); !until.IsZero() && until.Year() < 10_000 {
		where("d.recorded_at < $%d::timestamptz", until)
		where("d.id < $%d::uuid", uuid(earliestID(until.Add(idSlack))))
	}
	sql := strings.Replace(s.decisions.list, "{selected}", conditions.String(), 1)
	var list []fositeconsent.DecisionRecord
	_, err := s.run(ctx, func(db DB) (err error) {
		list, err = collect(ctx, db, sql, args, scanDecision)
		return err
	})
	if err != nil {
		return nil, tx.MapError(ctx, op, err)
	}
	return list, nil
}

func scanDecision(row pgx.CollectableRow) (r fositeconsent.DecisionRecord, err error) {
	var id pgtype.UUID
	var consentIDs []string
	var shown []byte
	err = row.Scan(&id, &r.RecordedAt, &r.Outcome, &r.Reason, &r.Basis, &r.Issuer, &r.Subject, &r.ClientID,
		&r.RequestedScopes, &r.RequestedAudience, &r.Scopes, &r.Audience, &consentIDs, &shown)
	if err != nil {
		return r, err
	}
	r.ID, r.RecordedAt = id.Bytes, r.RecordedAt.UTC()
	for _, text := range consentIDs {
		consentID, err := fositeconsent.ParseID(text)
		if err != nil {
			return r, err
		}
		r.ConsentIDs = append(r.ConsentIDs, consentID)
	}
	return r, setDigest(&r.Shown, shown)
}

// EraseDecisions implements [fositeconsent.DecisionLog]: a thousand records in one statement, each of which is
// a transaction of its own unless there is one. The role needs DELETE for it, which nothing else here does.
func (s *Store) EraseDecisions(ctx context.Context, issuer, subject string) (erased int, err error) {
	const op = "erase decisions"
	switch {
	case issuer == "" || subject == "":
		return 0, fmt.Errorf("pgstore: %s: %w", op, errors.New("the issuer or the subject is empty"))
	case !storable([]string{issuer, subject}):
		return 0, ctx.Err() // none can be stored
	}
	for {
		var seen, gone int
		_, err := s.run(ctx, func(db DB) error {
			return db.QueryRow(ctx, s.decisions.erase, issuer, subject, erasedAtOnce).Scan(&seen, &gone)
		})
		if err != nil {
			return erased, tx.MapError(ctx, op, err)
		}
		// Until a look has seen none: what was added meanwhile, and what a first try that was lost may be
		// about to take back.
		if erased += gone; seen == 0 {
			return erased, nil
		}
	}
}

// checkDecision refuses what cannot be stored, without a round trip.
func checkDecision(r *fositeconsent.DecisionRecord) error {
	switch {
	case r == nil:
		return errors.New("nil DecisionRecord")
	case r.ID.IsZero():
		return errors.New("zero ID")
	case r.Outcome == "":
		return errors.New("empty Outcome")
	case r.Issuer == "":
		return errors.New("empty Issuer")
	case r.Subject == "":
		return errors.New("empty Subject")
	case !storable([]string{string(r.Outcome), r.Reason, string(r.Basis), r.Issuer, r.Subject, r.ClientID}, r.RequestedScopes, r.RequestedAudience, r.Scopes, r.Audience):
		return errors.New("the record has text with invalid UTF-8 or a NUL byte, which Postgres cannot store")
	}
	return nil
}
