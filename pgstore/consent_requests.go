package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

var _ consentapi.RequestStorage = (*Store)(nil)

type requestStatements struct{ create, find, findAnswered, answer, use, revokeOf, revokeFor string }

func newRequestStatements(n schema.Names) requestStatements {
	parts := strings.NewReplacer("{requests}", n.Table("requests"), "{columns}", requestColumns, "{state}", requestStateSQL)
	render := func(sql, clock string) string {
		return strings.ReplaceAll(parts.Replace(sql), "{clock}", "coalesce("+clock+"::timestamptz, statement_timestamp())")
	}
	return requestStatements{
		create:       render(createRequestSQL, "$9"),
		find:         render(findRequestSQL, "$3"),
		findAnswered: render(findAnsweredSQL, "$4"),
		answer:       render(answerRequestSQL, "$7"),
		use:          render(useRequestSQL, "$4"),
		revokeOf:     render(strings.ReplaceAll(revokeRequestsSQL, "{selected}", "subject = $1::text AND ($2::text IS NULL OR client_id = $2::text)"), "$5"),
		revokeFor:    render(strings.ReplaceAll(revokeRequestsSQL, "{selected}", "$1::text IS NULL AND client_id = $2::text"), "$5"),
	}
}

// createRequestSQL returns a row if it has inserted one, or if the same one is there. The assignment that changes nothing is what makes
// Postgres wait for a first try that has not committed yet.
const createRequestSQL = `
INSERT INTO {requests} AS r (id, challenge_hash, browser_hash, subject, client_id, login_session, document, created_at, expires_at)
VALUES ($1::uuid, $2::bytea, $3::bytea, $4::text, $5::text, $6::text, $7::bytea, {clock}, {clock} + $8::bigint * interval '1 microsecond')
ON CONFLICT (id) DO UPDATE SET used_at = r.used_at
WHERE r.challenge_hash = excluded.challenge_hash AND r.browser_hash = excluded.browser_hash
RETURNING true`

// requestStateSQL is what has become of a request.
const requestStateSQL = `CASE
	WHEN r.used_at IS NOT NULL THEN 'used'
	WHEN r.revoked_at IS NOT NULL THEN 'revoked'
	WHEN r.expires_at <= {clock} THEN 'expired'
	WHEN r.accepted THEN 'accepted'
	WHEN r.accepted IS FALSE THEN 'rejected'
	ELSE 'pending'
	END`

const requestColumns = `r.challenge_hash, r.browser_hash, r.subject, r.client_id, r.login_session, r.document, r.created_at, r.expires_at,
	r.accepted, r.answer_digest, r.verifier_hash, r.answer, r.answered_at`

const findRequestSQL = `
SELECT {state}, {columns}
FROM {requests} AS r
WHERE r.id = $1::uuid AND r.challenge_hash = $2::bytea`

const findAnsweredSQL = `
SELECT {state}, {columns}
FROM {requests} AS r
WHERE r.id = $1::uuid AND r.verifier_hash = $2::bytea AND r.browser_hash = $3::bytea`

// answerRequestSQL decides in its UPDATE. Its SELECT returns the row as it was when the statement began, and when it was answered, if it
// was answered now. A row that is pending there and was not answered now was answered by another call meanwhile, which a
// second look tells.
const answerRequestSQL = `
WITH answered AS (
	UPDATE {requests}
	SET accepted = $3::boolean, answer_digest = $4::bytea, verifier_hash = $5::bytea, answer = $6::bytea, answered_at = {clock}
	WHERE id = $1::uuid AND challenge_hash = $2::bytea AND answered_at IS NULL AND expires_at > {clock}
	RETURNING answered_at
)
SELECT (SELECT answered_at FROM answered), {state}, {columns}
FROM {requests} AS r
WHERE r.id = $1::uuid AND r.challenge_hash = $2::bytea`

// useRequestSQL decides in its UPDATE and says why in its SELECT, as consumeSQL does.
const useRequestSQL = `
WITH used AS (
	UPDATE {requests}
	SET used_at = {clock}
	WHERE id = $1::uuid AND verifier_hash = $2::bytea AND browser_hash = $3::bytea AND accepted
	  AND used_at IS NULL AND revoked_at IS NULL AND expires_at > {clock}
	RETURNING id
)
SELECT EXISTS (SELECT FROM used), {state}
FROM {requests} AS r
WHERE r.id = $1::uuid AND r.verifier_hash = $2::bytea AND r.browser_hash = $3::bytea AND r.accepted`

// revokeRequestsSQL waits for uses that are under way, and looks again at what they left behind. For one subject it goes by an index; for
// all subjects of a client, which is rare, there is none, so that no INSERT pays for it.
const revokeRequestsSQL = `
WITH revoked AS (
	UPDATE {requests}
	SET revoked_at = {clock}
	WHERE id = ANY (ARRAY(
		SELECT id FROM {requests}
		WHERE {selected}
		  AND ($3::text IS NULL OR login_session = $3::text) AND ($4::uuid IS NULL OR id = $4::uuid)
		  AND accepted AND used_at IS NULL AND revoked_at IS NULL AND expires_at > {clock}
		ORDER BY id FOR UPDATE
	))
	RETURNING id
)
SELECT count(*) FROM revoked`

// CreateConsentRequest implements [consentapi.RequestStorage]: one INSERT, in one round trip. Text that Postgres cannot store,
// invalid UTF-8 or a NUL byte, is an error besides those of the interface.
func (s *Store) CreateConsentRequest(ctx context.Context, r *consentapi.Request) error {
	const op = "create consent request"
	if err := checkRequest(r); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	_, err := s.run(ctx, func(db DB) error {
		var created bool
		return db.QueryRow(ctx, s.requests.create, uuid(r.ID), r.Challenge[:], r.Browser[:], r.Subject, r.ClientID, r.LoginSession, r.Document,
			r.Lifespan.Microseconds(), s.config.clock()).Scan(&created)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("pgstore: %s %s: there is another one with this ID", op, r.ID)
	}
	return tx.MapError(ctx, op+" "+r.ID.String(), err)
}

// requestRow is what a statement returns of a request.
type requestRow struct {
	consentapi.Request
	state              string
	challenge, browser []byte
	accepted           *bool
	digest, verifier   []byte
	answer             []byte
	answeredAt         *time.Time
}

func (r *requestRow) targets() []any {
	return []any{
		&r.state, &r.challenge, &r.browser, &r.Subject, &r.ClientID, &r.LoginSession, &r.Document, &r.CreatedAt, &r.ExpiresAt,
		&r.accepted, &r.digest, &r.verifier, &r.answer, &r.answeredAt,
	}
}

// request returns what was scanned.
func (r *requestRow) request(id fositeconsent.ID) (*consentapi.Request, error) {
	r.ID, r.State = id, consentapi.State(r.state)
	r.CreatedAt, r.ExpiresAt = r.CreatedAt.UTC(), r.ExpiresAt.UTC()
	err := errors.Join(setHash(&r.Challenge, r.challenge), setHash(&r.Browser, r.browser))
	if r.accepted != nil && r.answeredAt != nil {
		r.Answer = &consentapi.Answer{Accepted: *r.accepted, Document: r.answer, AnsweredAt: r.answeredAt.UTC()}
		err = errors.Join(err, setHash(&r.Answer.Digest, r.digest), setHash(&r.Answer.Verifier, r.verifier))
	}
	if err != nil {
		return nil, err
	}
	return &r.Request, nil
}

func setHash(h *consentapi.Hash, stored []byte) error {
	if len(stored) != len(h) {
		return fmt.Errorf("a hash of %d bytes is stored, expected %d", len(stored), len(h))
	}
	copy(h[:], stored)
	return nil
}

// findRequest runs one of the statements that look.
func (s *Store) findRequest(ctx context.Context, op, sql string, id fositeconsent.ID, args ...any) (*consentapi.Request, error) {
	var row requestRow
	_, err := s.run(ctx, func(db DB) error {
		row = requestRow{}
		return db.QueryRow(ctx, sql, args...).Scan(row.targets()...)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("pgstore: %s %s: %w", op, id, consentapi.ErrRequestNotFound)
	}
	if err != nil {
		return nil, tx.MapError(ctx, op+" "+id.String(), err)
	}
	request, err := row.request(id)
	if err != nil {
		return nil, fmt.Errorf("pgstore: %s %s: %w", op, id, err)
	}
	return request, nil
}

// FindConsentRequest implements [consentapi.RequestStorage]: one statement.
func (s *Store) FindConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
	return s.findRequest(ctx, "find consent request", s.requests.find, id, uuid(id), challenge[:], s.config.clock())
}

// FindAnsweredConsentRequest implements [consentapi.RequestStorage]: one statement.
func (s *Store) FindAnsweredConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) (*consentapi.Request, error) {
	return s.findRequest(ctx, "find answered consent request", s.requests.findAnswered, id, uuid(id), verifier[:], browser[:], s.config.clock())
}

// AnswerConsentRequest implements [consentapi.RequestStorage]: one statement, and a second one only for who had to wait.
func (s *Store) AnswerConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, answer *consentapi.Answer) (*consentapi.Request, error) {
	const op = "answer consent request"
	if answer == nil || answer.Digest == (consentapi.Hash{}) || answer.Verifier == (consentapi.Hash{}) || len(answer.Document) == 0 {
		return nil, fmt.Errorf("pgstore: %s %s: the answer has no Digest, no Verifier or no Document", op, id)
	}
	var row requestRow
	var now *time.Time
	_, err := s.run(ctx, func(db DB) error {
		row, now = requestRow{}, nil
		return db.QueryRow(ctx, s.requests.answer, uuid(id), challenge[:], answer.Accepted, answer.Digest[:], answer.Verifier[:], answer.Document, s.config.clock()).
			Scan(append([]any{&now}, row.targets()...)...)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("pgstore: %s %s: %w", op, id, consentapi.ErrRequestNotFound)
	}
	if err != nil {
		return nil, tx.MapError(ctx, op+" "+id.String(), err)
	}
	if now != nil { // the row is as it was before
		row.accepted, row.digest, row.verifier, row.answer, row.answeredAt = &answer.Accepted, answer.Digest[:], answer.Verifier[:], append([]byte(nil), answer.Document...), now
		row.state = string(consentapi.StateRejected)
		if answer.Accepted {
			row.state = string(consentapi.StateAccepted)
		}
	}
	request, err := row.request(id)
	if err == nil && now == nil && request.State == consentapi.StatePending {
		if request, err = s.FindConsentRequest(ctx, id, challenge); err != nil {
			return nil, err
		}
	}
	switch {
	case err != nil:
	case request.Answer != nil && request.Answer.Digest == answer.Digest && request.Answer.Accepted == answer.Accepted:
		return request, nil
	case request.Answer != nil:
		err = consentapi.ErrRequestAnswered
	case request.State == consentapi.StateExpired:
		err = consentapi.ErrRequestExpired
	default:
		err = errors.New("the request was neither answered nor refused")
	}
	return nil, fmt.Errorf("pgstore: %s %s: %w", op, id, err)
}

// UseConsentRequest implements [consentapi.RequestStorage]: one statement, and a second one only for who had to wait. In a transaction of
// [Transactions] or [WithTx] it is a part of that. Outside of one, a call whose connection was lost and that had succeeded
// is told so as ErrRequestUsed: the resource owner is asked again.
func (s *Store) UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) error {
	const op = "use consent request"
	var used bool
	var state string
	_, err := s.run(ctx, func(db DB) error {
		return db.QueryRow(ctx, s.requests.use, uuid(id), verifier[:], browser[:], s.config.clock()).Scan(&used, &state)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("pgstore: %s %s: %w", op, id, consentapi.ErrRequestNotFound)
	}
	if err != nil {
		return tx.MapError(ctx, op+" "+id.String(), err)
	}
	if used {
		return nil
	}
	if state == string(consentapi.StateAccepted) { // it was used or revoked in between
		request, err := s.FindAnsweredConsentRequest(ctx, id, verifier, browser)
		if err != nil {
			return err
		}
		state = string(request.State)
	}
	var refusal error
	switch consentapi.State(state) {
	case consentapi.StateUsed:
		refusal = consentapi.ErrRequestUsed
	case consentapi.StateRevoked:
		refusal = consentapi.ErrRequestRevoked
	case consentapi.StateExpired:
		refusal = consentapi.ErrRequestExpired
	default:
		refusal = errors.New("the request was neither used nor refused")
	}
	return fmt.Errorf("pgstore: %s %s: %w", op, id, refusal)
}

// RevokeConsentRequests implements [consentapi.RequestStorage]: one statement, which RevokeConsents runs as well.
func (s *Store) RevokeConsentRequests(ctx context.Context, selection fositeconsent.Selection) (int, error) {
	const op = "revoke consent requests"
	if selection.Subject == "" && selection.ClientID == "" {
		return 0, fmt.Errorf("pgstore: %s: the selection has neither a Subject nor a ClientID", op)
	}
	if !storable([]string{selection.Subject, selection.ClientID, selection.LoginSession}) {
		return 0, nil // there is none
	}
	var n int
	_, err := s.run(ctx, func(db DB) (err error) {
		n, err = s.revokeRequests(ctx, db, selection)
		return err
	})
	if err != nil {
		return 0, tx.MapError(ctx, op, err)
	}
	return n, nil
}

func (s *Store) revokeRequests(ctx context.Context, db DB, selection fositeconsent.Selection) (n int, err error) {
	var id *pgtype.UUID
	if !selection.ConsentID.IsZero() {
		u := uuid(selection.ConsentID)
		id = &u
	}
	sql := s.requests.revokeFor
	if selection.Subject != "" {
		sql = s.requests.revokeOf
	}
	err = db.QueryRow(ctx, sql, nullIfBlank(selection.Subject), nullIfBlank(selection.ClientID), nullIfBlank(selection.LoginSession), id, s.config.clock()).Scan(&n)
	return n, err
}

func nullIfBlank(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// checkRequest refuses what the table would refuse too, without a database error that prints the row.
func checkRequest(r *consentapi.Request) error {
	switch {
	case r == nil:
		return errors.New("nil Request")
	case r.ID.IsZero():
		return errors.New("zero ID")
	case r.Challenge == (consentapi.Hash{}):
		return errors.New("zero Challenge")
	case r.Browser == (consentapi.Hash{}):
		return errors.New("zero Browser")
	case r.Subject == "":
		return errors.New("empty Subject")
	case r.ClientID == "":
		return errors.New("empty ClientID")
	case len(r.Document) == 0:
		return errors.New("empty Document")
	case r.Lifespan < fositeconsent.MinGrantLifespan || r.Lifespan > fositeconsent.MaxPromptLifespan:
		return fmt.Errorf("Lifespan is %v, expected %v to %v", r.Lifespan, fositeconsent.MinGrantLifespan, fositeconsent.MaxPromptLifespan)
	case !storable([]string{r.Subject, r.ClientID, r.LoginSession}):
		return errors.New("Subject, ClientID or LoginSession has invalid UTF-8 or a NUL byte, which Postgres cannot store")
	}
	return nil
}
