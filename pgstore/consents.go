package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

var _ fositeconsent.ConsentStorage = (*Store)(nil)

const (
	// maxFound bounds how many consents are added up to cover one request. Of whoever has
	// more of them remembered, for one client, the newest count.
	maxFound = 1000
	// consentsAtOnce bounds how many consents one transaction revokes, and requestsAtOnce how
	// many RequestIDs one call of its function gets.
	consentsAtOnce = 100
	requestsAtOnce = 500
	// late is for how long after a grant's end its response may still be recorded, if that
	// is done in another transaction than the one that consumed it.
	late = 10 * time.Minute
	// undoTimeout is how long a rollback may take.
	undoTimeout = 5 * time.Second
	// minLifespan is what the expiry of a consent can be told by.
	minLifespan = time.Millisecond
)

// What recording and checking answer. A statement that is queued tells only how many rows it
// returned, and so it returns as many as this.
const (
	isLive = iota + 1
	isRevoked
	isExpired
	isAnother // the ID was recorded with another response
)

type consentStatements struct {
	// approve and approveSpent record an approval; the second one where the transaction has
	// consumed the grant itself, and so has it locked.
	approve, approveSpent, approved string
	silent, recorded                string
	check                           string
	find, list                      string
	endGrants, endConsents, issued  string
}

func newConsentStatements(n schema.Names) consentStatements {
	tables := strings.NewReplacer(
		"{grants}", n.Table("grants"),
		"{consents}", n.Table("consents"),
		"{responses}", n.Table("responses"),
	)
	render := func(sql string) string { return tables.Replace(strings.ReplaceAll(sql, "{columns}", consentColumns)) }
	return consentStatements{
		approve:      render(strings.NewReplacer("{grant}", lockGrantSQL, "{revoked}", grantRevokedSQL).Replace(approveSQL)),
		approveSpent: render(strings.NewReplacer("{grant}", "", "{revoked}", "false").Replace(approveSQL)),
		approved:     render(approvedSQL),
		silent:       render(silentSQL),
		recorded:     render(recordedSQL),
		check:        render(checkSQL),
		find:         render(findSQL),
		list:         render(listSQL),
		endGrants:    render(endGrantsSQL),
		endConsents:  render(endConsentsSQL),
		issued:       render(issuedSQL),
	}
}

// approveSQL records a consent and the response that it led to. The assignment that changes
// nothing is what makes Postgres wait for a first try that has not committed yet, and return
// what that try left behind.
const approveSQL = `
WITH {grant}consent AS (
	INSERT INTO {consents} AS c (id, issuer, subject, client_id, login_session, scopes, audience, response_types, details,
	                             shown, data, remembered, request_id, decided_at, expires_at, remembered_scopes)
	SELECT $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::text[], $7::text[], $8::text[], $9::text[],
	       $10::bytea, $11::bytea, $12::boolean, $13::text, coalesce($15::timestamptz, statement_timestamp()),
	       coalesce($15::timestamptz, statement_timestamp()) + $14::bigint * interval '1 microsecond', $16::text[]
	WHERE {if} AND NOT {revoked}
	ON CONFLICT (id) DO UPDATE SET revoked_at = c.revoked_at
	RETURNING c.id, CASE
		WHEN c.request_id = $13::text AND c.issuer = $2::text AND c.subject = $3::text AND c.client_id = $4::text THEN CASE
			WHEN c.revoked_at IS NOT NULL THEN 2
			WHEN c.expires_at <= coalesce($15::timestamptz, statement_timestamp()) THEN 3
			ELSE 1
			END
		ELSE 4
		END AS state
), recorded AS (
	INSERT INTO {responses} (consent_id, request_id, issued_at)
	SELECT id, $13::text, coalesce($15::timestamptz, statement_timestamp()) FROM consent WHERE state = 1
	ON CONFLICT (request_id, consent_id) DO NOTHING
)
SELECT state FROM (
	SELECT CASE WHEN {revoked} THEN 2 ELSE (SELECT state FROM consent) END AS state
) AS answer, generate_series(1, state)`

// A revocation that comes between the consumption and the recording of a grant marks that. It
// waits for whoever has locked it, and is waited for.
const (
	lockGrantSQL    = "grant_of AS (SELECT revoked_at FROM {grants} WHERE id = $1::uuid FOR SHARE), "
	grantRevokedSQL = "EXISTS (SELECT FROM grant_of WHERE revoked_at IS NOT NULL)"
)

// approvedSQL is how the transaction finds out, on the way, that it was recorded.
const approvedSQL = `EXISTS (SELECT FROM {responses} WHERE request_id = $1::text AND consent_id = $2::uuid)`

// silentSQL records a response that rests on consents, and holds these until the transaction
// ends, in the order in which a revocation locks them. Postgres looks again at those that
// it had to wait for. FOR SHARE would do, but those who share a row pass whoever waits to change
// it: a client that comes back all the time would keep a revocation waiting.
const silentSQL = `
WITH held AS (
	SELECT id, expires_at FROM {consents}
	WHERE id = ANY ($1::text[]::uuid[]) AND revoked_at IS NULL
	ORDER BY id FOR NO KEY UPDATE
), answer AS (
	SELECT CASE
		WHEN count(*) < cardinality($1::text[]) THEN 2
		WHEN count(*) FILTER (WHERE expires_at <= coalesce($3::timestamptz, statement_timestamp())) > 0 THEN 3
		ELSE 1
		END AS state
	FROM held
), recorded AS (
	INSERT INTO {responses} (consent_id, request_id, issued_at)
	SELECT held.id, $2::text, coalesce($3::timestamptz, statement_timestamp()) FROM held, answer WHERE state = 1
	ON CONFLICT (request_id, consent_id) DO NOTHING
)
SELECT state FROM answer, generate_series(1, state)`

// recordedSQL is how the transaction finds that out: who was recorded before, and is revoked since,
// was not.
const recordedSQL = `(
	SELECT count(*) FROM {responses} AS r JOIN {consents} AS c ON c.id = r.consent_id AND c.revoked_at IS NULL
	WHERE r.request_id = $2::text AND r.consent_id = ANY ($1::text[]::uuid[])
) = cardinality($1::text[])`

// checkSQL takes a consent that is not there any more for a revoked one.
const checkSQL = `
WITH held AS (
	SELECT c.revoked_at, c.expires_at FROM {responses} AS r JOIN {consents} AS c ON c.id = r.consent_id
	WHERE r.request_id = $1::text
	ORDER BY c.id FOR NO KEY UPDATE OF c
)
SELECT CASE
	WHEN count(revoked_at) > 0 OR count(*) < (SELECT count(*) FROM {responses} WHERE request_id = $1::text) THEN 2
	WHEN count(*) FILTER (WHERE expires_at <= coalesce($2::timestamptz, statement_timestamp())) > 0 THEN 3
	ELSE 1
	END
FROM held`

const consentColumns = `c.id, c.issuer, c.subject, c.client_id, c.login_session, c.scopes, c.remembered_scopes, c.audience, c.response_types, c.details,
       c.shown, c.data, c.remembered, c.decided_at, c.expires_at, coalesce(
	(SELECT r.issued_at FROM {responses} AS r WHERE r.consent_id = c.id ORDER BY r.issued_at DESC LIMIT 1), c.decided_at)`

const findSQL = `
SELECT {columns}
FROM {consents} AS c
WHERE c.subject = $2::text AND c.client_id = $3::text AND c.issuer = $1::text AND c.remembered AND c.revoked_at IS NULL
  AND (c.expires_at IS NULL OR c.expires_at > coalesce($5::timestamptz, statement_timestamp()))
ORDER BY c.id DESC LIMIT $4::integer`

const listSQL = `
SELECT {columns}
FROM {consents} AS c
WHERE c.revoked_at IS NULL
  AND (c.expires_at IS NULL OR c.expires_at > coalesce($1::timestamptz, statement_timestamp()))
  AND {selected}
ORDER BY c.id DESC LIMIT $2::integer`

// endGrantsSQL also ends the grants that were consumed, and whose responses are not recorded
// yet: looked for one by one, where NOT EXISTS might read the whole table. It locks them in one
// order, and waits for whoever consumes or records one.
const endGrantsSQL = `
UPDATE {grants} SET revoked_at = greatest(consumed_at, coalesce($1::timestamptz, statement_timestamp()))
WHERE id = ANY (ARRAY(
	SELECT c.id FROM {grants} AS c
	WHERE c.revoked_at IS NULL AND NOT c.denied
	  AND c.expires_at > coalesce($1::timestamptz, statement_timestamp()) - $2::bigint * interval '1 microsecond'
	  AND (c.consumed_at IS NULL OR (SELECT true FROM {consents} AS recorded WHERE recorded.id = c.id) IS NULL)
	  AND {selected}
	ORDER BY c.id FOR UPDATE
))`

// endConsentsSQL waits for the transactions that issue under the consents. What they have
// recorded is for the next statement to see.
const endConsentsSQL = `
UPDATE {consents} AS c SET revoked_at = coalesce($1::timestamptz, statement_timestamp())
WHERE c.id = ANY (ARRAY(
	SELECT c.id FROM {consents} AS c WHERE c.revoked_at IS NULL AND {selected}
	ORDER BY c.id LIMIT $2::integer FOR UPDATE
))
RETURNING {columns}`

const issuedSQL = `SELECT DISTINCT request_id FROM {responses} WHERE consent_id = ANY ($1::text[]::uuid[])`

// state is the error that an answer stands for, nil if what it is about is live.
func state(answer int64) error {
	switch answer {
	case isLive:
		return nil
	case isRevoked:
		return fositeconsent.ErrConsentRevoked
	case isExpired:
		return fositeconsent.ErrConsentExpired
	case isAnother:
		return errors.New("the approval was recorded with another RequestID, or is of somebody else")
	default:
		return errors.New("the database answered something that the statement cannot return")
	}
}

// FindConsents implements [fositeconsent.ConsentStorage]: one statement. Of more than a
// thousand it returns the newest. In a transaction of [Transactions] it is no part of that,
// and has nothing sent.
func (s *Store) FindConsents(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	const op = "find consents"
	if !storable([]string{issuer, subject, clientID}) {
		return nil, nil // none can be stored
	}
	args := []any{issuer, subject, clientID, maxFound, s.config.clock()}
	db, unit := tx.In(ctx, s.pool)
	if unit != nil {
		db = unit.Look()
	}
	consents, err := s.query(ctx, db, s.consents.find, args)
	return consents, tx.MapError(ctx, op, err)
}

// ListConsents implements [fositeconsent.ConsentStorage]: one statement.
func (s *Store) ListConsents(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	const op = "list consents"
	if err := checkSelection(selection); err != nil {
		return nil, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	if limit < 1 {
		return nil, fmt.Errorf("pgstore: %s: the limit is %d, expected at least 1", op, limit)
	}
	sql, args := selectConsents(s.consents.list, selection, s.config.clock(), min(limit, 1<<31-1))
	if !before.IsZero() {
		args = append(args, uuid(before))
		sql = strings.Replace(sql, "\nORDER BY", fmt.Sprintf(" AND c.id < $%d::uuid\nORDER BY", len(args)), 1)
	}
	db, _ := tx.In(ctx, s.pool)
	consents, err := s.query(ctx, db, sql, args)
	return consents, tx.MapError(ctx, op, err)
}

// query reads consents, on the db of a transaction or, if that is nil, on the store's.
func (s *Store) query(ctx context.Context, db DB, sql string, args []any) (consents []fositeconsent.Consent, err error) {
	try := func(db DB) error {
		consents, err = collect(ctx, db, sql, args, scanConsent)
		return err
	}
	switch {
	case db != nil:
		err = try(db)
	case s.pool == nil:
		err = try(s.db)
	default:
		_, err = tx.Repeat(ctx, s.pool, func(db tx.Batcher) error { return try(db) })
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return consents, nil
}

func scanConsent(row pgx.CollectableRow) (c fositeconsent.Consent, err error) {
	var id pgtype.UUID
	var shown []byte
	var expiresAt *time.Time
	err = row.Scan(&id, &c.Issuer, &c.Subject, &c.ClientID, &c.LoginSession, &c.Scopes, &c.RememberedScopes, &c.Audience, &c.ResponseTypes, &c.Details,
		&shown, &c.Data, &c.Remembered, &c.DecidedAt, &expiresAt, &c.LastUsedAt)
	if err != nil {
		return c, err
	}
	c.ID, c.DecidedAt, c.LastUsedAt = id.Bytes, c.DecidedAt.UTC(), c.LastUsedAt.UTC()
	if expiresAt != nil {
		c.ExpiresAt = expiresAt.UTC()
	}
	return c, setDigest(&c.Shown, shown)
}

// RecordResponse implements [fositeconsent.ConsentStorage]: one statement. In a transaction of
// [Transactions] it is sent with what has to be sent next, the Commit at the latest, and it is
// that which returns the error. A Lifespan of less than a millisecond is one, too.
func (s *Store) RecordResponse(ctx context.Context, response *fositeconsent.Response) error {
	const op = "record response"
	if err := checkResponse(response); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	_, unit := tx.In(ctx, s.pool)
	var record tx.Statement
	var recorded tx.Condition
	if c := response.Approval; c != nil {
		record = tx.Statement{SQL: s.consents.approve, Args: s.approveArgs(c, response.RequestID), Follows: true}
		if unit != nil && s.spentIn(unit)[c.ID] {
			record.SQL = s.consents.approveSpent
		}
		recorded = tx.Condition{SQL: s.consents.approved, Args: []any{response.RequestID, uuid(c.ID)}}
	} else {
		ids := consentIDs(response.ConsentIDs)
		record = tx.Statement{SQL: s.consents.silent, Args: []any{ids, response.RequestID, s.config.clock()}}
		recorded = tx.Condition{SQL: s.consents.recorded, Args: []any{ids, response.RequestID}}
	}
	if unit != nil {
		return tx.MapError(ctx, op, queueRecord(ctx, unit, record, recorded))
	}
	sql, args := tx.Render(record.SQL, record.Args, nil)
	var answer int64
	_, err := s.run(ctx, func(db DB) error { return db.QueryRow(ctx, sql, args...).Scan(&answer) })
	if err != nil {
		return tx.MapError(ctx, op, err)
	}
	if err := state(answer); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	return nil
}

func queueRecord(ctx context.Context, unit *tx.Unit, record tx.Statement, recorded tx.Condition) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	record.Check = func(tag pgconn.CommandTag) error {
		if err := state(tag.RowsAffected()); err != nil {
			return fmt.Errorf("pgstore: record response: %w", err)
		}
		return nil
	}
	if err := unit.Queue(record); err != nil {
		return err
	}
	unit.Require(recorded)
	return nil
}

// consentIDs are the IDs as text, each once, in their order.
func consentIDs(ids []fositeconsent.ID) []string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

func (s *Store) approveArgs(c *fositeconsent.Consent, requestID string) []any {
	var lifespan *int64
	if c.Lifespan > 0 {
		microseconds := c.Lifespan.Microseconds()
		lifespan = &microseconds
	}
	return []any{
		uuid(c.ID), c.Issuer, c.Subject, c.ClientID, c.LoginSession,
		notNil(slices.Clone(c.Scopes)), notNil(slices.Clone(c.Audience)), notNil(slices.Clone(c.ResponseTypes)), notNil(slices.Clone(c.Details)),
		slices.Clone(c.Shown[:]), nullIfEmpty(slices.Clone(c.Data)), c.Remembered, requestID, lifespan, s.config.clock(), slices.Clone(c.RememberedScopes),
	}
}

// CheckResponse implements [fositeconsent.ConsentStorage]: one statement. In a transaction, what
// it has found to be live stays so until that ends.
func (s *Store) CheckResponse(ctx context.Context, requestID string) error {
	const op = "check response"
	if !storable([]string{requestID}) {
		return nil // it was never recorded
	}
	var answer int64
	_, err := s.run(ctx, func(db DB) error {
		return db.QueryRow(ctx, s.consents.check, requestID, s.config.clock()).Scan(&answer)
	})
	if err != nil {
		return tx.MapError(ctx, op, err)
	}
	if err := state(answer); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	return nil
}

// newRevoking begins transactions at read committed: a revocation has to see what was
// committed while it waited. They take no more than a part of the pool.
func newRevoking(pool *pgxpool.Pool) tx.Manager {
	m := tx.Manager{
		Pool: pool, Isolation: pgx.ReadCommitted,
		// Longer than those who issue may take, by Transactions's defaults. What is revoked may
		// be elsewhere, and take its time.
		LockTimeout: 30 * time.Second, StatementTimeout: time.Minute, IdleTimeout: time.Minute, CommitTimeout: 5 * time.Second,
	}
	if pool != nil {
		m.Slots = make(chan struct{}, max(1, int(pool.Config().MaxConns)/4))
	}
	return m
}

// RevokeConsents implements [fositeconsent.ConsentStorage], and ends besides the answers of consent applications that have not
// led to a response ([consentapi.RequestStorage]). In a transaction, which has to be at
// read committed, it is a part of that, and if it fails, so does the Commit ([Transactions])
// or what it has done is undone ([WithTx]). Otherwise it uses transactions of its own, of at most
// a hundred consents each, and revoke is called in each of them, again if the database took it
// back because of others. What it does in the same pool it has to do in that transaction ([Transactions.DB]): another
// connection may be one that all others keep while they wait for these very consents. On a [DB] that is not a pool revoke
// is called without a transaction in its context. An error that is not revoke's may mean that the last one was committed.
func (s *Store) RevokeConsents(ctx context.Context, selection fositeconsent.Selection, revoke func(ctx context.Context, ended fositeconsent.Ended) error) (int, error) {
	const op = "revoke consents"
	if err := checkSelection(selection); err != nil {
		return 0, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	if revoke == nil {
		return 0, fmt.Errorf("pgstore: %s: there is no function that ends what was issued", op)
	}
	r := revocation{store: s, selection: selection, revoke: revoke}
	ended, err := r.run(ctx)
	var failed *revokeError
	switch {
	case errors.As(err, &failed):
		return ended, failed.err
	case errors.Is(err, errIsolation), errors.Is(err, errNoTransactions):
		return ended, fmt.Errorf("pgstore: %s: %w", op, err)
	}
	return ended, tx.MapError(ctx, op, err)
}

// revokeError is what the caller's function returned.
type revokeError struct{ err error }

func (e *revokeError) Error() string { return e.err.Error() }
func (e *revokeError) Unwrap() error { return e.err }

var (
	errIsolation = errors.New("the transaction is not at read committed, and would miss what is issued meanwhile")
	// errNoTransactions is about a DB of the host's.
	errNoTransactions = errors.New("the store's DB is no pool, connection or transaction")
)

// revocation is one that is under way. What it has reached is kept when a transaction has
// been committed.
type revocation struct {
	store     *Store
	selection fositeconsent.Selection
	revoke    func(ctx context.Context, ended fositeconsent.Ended) error

	grantsEnded bool
	last        fositeconsent.ID // of the consents that were ended
	done        bool
}

func (r *revocation) run(ctx context.Context) (ended int, err error) {
	within := r.own
	if db, unit := tx.In(ctx, r.store.pool); unit != nil {
		within = func(ctx context.Context, do func(context.Context, DB) error) error { return inUnit(ctx, unit, do) }
	} else if db != nil {
		within = func(ctx context.Context, do func(context.Context, DB) error) error {
			return inSavepoint(ctx, db, true, do)
		}
	}
	for !r.done {
		var next revocation
		var n int
		err := within(ctx, func(ctx context.Context, db DB) (err error) {
			next = *r // whatever an earlier try has reached
			n, err = next.batch(ctx, db)
			return err
		})
		if err != nil {
			return ended, err
		}
		*r = next
		ended += n
	}
	return ended, nil
}

// own has do called in a transaction of its own.
func (r *revocation) own(ctx context.Context, do func(context.Context, DB) error) error {
	s := r.store
	for tries := 1; ; tries++ {
		var err error
		switch db := s.db.(type) {
		case *pgxpool.Pool:
			err = inOwn(ctx, &s.revoking, do)
		case pgx.Tx:
			return inSavepoint(ctx, db, false, do)
		case Beginner:
			var own pgx.Tx
			if own, err = db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}); err == nil {
				err = inTx(ctx, own, do)
			}
		default:
			return errNoTransactions
		}
		if err == nil || tries == tx.MaxTries || !tx.TakenBack(err) || ctx.Err() != nil {
			return err
		}
	}
}

func inOwn(ctx context.Context, manager *tx.Manager, do func(context.Context, DB) error) error {
	inner, err := manager.Begin(ctx)
	if err != nil {
		return err
	}
	db, _ := tx.In(inner, manager.Pool)
	if err := do(inner, db); err != nil {
		return errors.Join(err, manager.Rollback(context.WithoutCancel(inner)))
	}
	return manager.Commit(inner)
}

// inUnit joins a transaction, and fails it if do fails.
func inUnit(ctx context.Context, unit *tx.Unit, do func(context.Context, DB) error) error {
	err := readsCommitted(ctx, unit)
	if err == nil {
		err = do(ctx, unit)
	}
	if err != nil {
		unit.Doom(err)
	}
	return err
}

// inSavepoint joins a transaction of the host's, and undoes what do has done if that fails.
func inSavepoint(ctx context.Context, db DB, pass bool, do func(context.Context, DB) error) error {
	outer, ok := db.(pgx.Tx)
	if !ok {
		return errNoTransactions
	}
	if err := readsCommitted(ctx, outer); err != nil {
		return err
	}
	inner, err := outer.Begin(ctx)
	if err != nil {
		return err
	}
	if pass {
		ctx = tx.With(ctx, inner)
	}
	return inTx(ctx, inner, do)
}

// inTx ends a transaction or a savepoint with what becomes of do. Where it cannot be undone
// the connection is closed, so that nobody commits it.
func inTx(ctx context.Context, transaction pgx.Tx, do func(context.Context, DB) error) error {
	err := do(ctx, transaction)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return transaction.Commit(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if undo := transaction.Rollback(ctx); undo != nil {
		err = errors.Join(err, undo, transaction.Conn().Close(ctx))
	}
	return err
}

// readsCommitted refuses a transaction that would not see what is committed while it waits.
func readsCommitted(ctx context.Context, db DB) error {
	var level string
	if err := db.QueryRow(ctx, "SELECT current_setting('transaction_isolation')").Scan(&level); err != nil {
		return err
	}
	if level != "read committed" {
		return errIsolation
	}
	return nil
}

// batch is what one transaction does. Whoever issues locks the grant first, then the answer that a
// consent application has given, then the consents, then tokens; so does this. After each wait a new statement looks, which sees what
// was waited for: a response of a grant that was consumed in time, and what was issued under a
// consent.
func (r *revocation) batch(ctx context.Context, db DB) (int, error) {
	s := r.store
	if !r.grantsEnded {
		sql, args := selectGrants(s.consents.endGrants, r.selection, s.config.clock(), late.Microseconds())
		if _, err := db.Exec(ctx, sql, args...); err != nil {
			return 0, err
		}
		if _, err := s.revokeRequests(ctx, db, r.selection); err != nil {
			return 0, err
		}
		r.grantsEnded = true
	}
	sql, args := selectConsents(s.consents.endConsents, r.selection, s.config.clock(), consentsAtOnce)
	if !r.last.IsZero() {
		args = append(args, uuid(r.last))
		sql = strings.Replace(sql, "\n\tORDER BY", fmt.Sprintf(" AND c.id > $%d::uuid\n\tORDER BY", len(args)), 1)
	}
	consents, err := collect(ctx, db, sql, args, scanConsent)
	if err != nil {
		return 0, err
	}
	r.done = len(consents) < consentsAtOnce
	if len(consents) == 0 {
		return 0, nil
	}
	ids := make([]string, len(consents))
	for i, c := range consents {
		ids[i] = c.ID.String()
		if bytes.Compare(c.ID[:], r.last[:]) > 0 {
			r.last = c.ID
		}
	}
	requestIDs, err := collect(ctx, db, s.consents.issued, []any{ids}, pgx.RowTo[string])
	if err != nil {
		return 0, err
	}
	slices.Sort(requestIDs) // one order for all, since rows are locked by them
	for ended := (fositeconsent.Ended{Consents: consents}); len(ended.Consents)+len(requestIDs) > 0; ended = (fositeconsent.Ended{}) {
		n := min(len(requestIDs), requestsAtOnce)
		ended.RequestIDs, requestIDs = requestIDs[:n:n], requestIDs[n:]
		if err := r.revoke(ctx, ended); err != nil {
			return 0, &revokeError{err}
		}
	}
	return len(consents), nil
}

func collect[T any](ctx context.Context, db DB, sql string, args []any, row pgx.RowToFunc[T]) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, row)
}

// selectConsents has the statement find what is selected. It puts the parameters after those
// that are given.
func selectConsents(sql string, selection fositeconsent.Selection, args ...any) (string, []any) {
	conditions, args := selected(selection, args)
	for _, c := range []struct{ column, value string }{{"issuer", selection.Issuer}, {"login_session", selection.LoginSession}} {
		if c.value != "" {
			args = append(args, c.value)
			conditions = append(conditions, fmt.Sprintf("c.%s = $%d::text", c.column, len(args)))
		}
	}
	return strings.Replace(sql, "{selected}", strings.Join(conditions, " AND "), 1), args
}

// selectGrants is the same for grants, of which the issuer and the login are not known.
func selectGrants(sql string, selection fositeconsent.Selection, args ...any) (string, []any) {
	conditions, args := selected(selection, args)
	return strings.Replace(sql, "{selected}", strings.Join(conditions, " AND "), 1), args
}

func selected(selection fositeconsent.Selection, args []any) (conditions []string, _ []any) {
	for _, c := range []struct{ column, value string }{{"subject", selection.Subject}, {"client_id", selection.ClientID}} {
		if c.value != "" {
			args = append(args, c.value)
			conditions = append(conditions, fmt.Sprintf("c.%s = $%d::text", c.column, len(args)))
		}
	}
	if !selection.ConsentID.IsZero() {
		args = append(args, uuid(selection.ConsentID))
		conditions = append(conditions, fmt.Sprintf("c.id = $%d::uuid", len(args)))
	}
	return conditions, args
}

// checkSelection refuses one that could be meant for everybody.
func checkSelection(selection fositeconsent.Selection) error {
	switch {
	case selection.Issuer == "":
		return errors.New("the selection has no Issuer")
	case selection.Subject == "" && selection.ClientID == "":
		return errors.New("the selection has neither a Subject nor a ClientID")
	case !storable([]string{selection.Issuer, selection.Subject, selection.ClientID, selection.LoginSession}):
		return errors.New("the selection has invalid UTF-8 or a NUL byte, which Postgres cannot store")
	}
	return nil
}

// checkResponse refuses what cannot be recorded, without a round trip.
func checkResponse(r *fositeconsent.Response) error {
	switch {
	case r == nil:
		return errors.New("nil Response")
	case r.RequestID == "":
		return errors.New("empty RequestID")
	case (r.Approval != nil) == (len(r.ConsentIDs) > 0):
		return errors.New("expected either an Approval or ConsentIDs")
	case !storable([]string{r.RequestID}):
		return errors.New("RequestID has invalid UTF-8 or a NUL byte, which Postgres cannot store")
	case r.Approval == nil:
		return nil
	}
	c := r.Approval
	switch {
	case c.ID.IsZero():
		return errors.New("zero ID")
	case c.Issuer == "":
		return errors.New("empty Issuer")
	case c.Subject == "":
		return errors.New("empty Subject")
	case c.ClientID == "":
		return errors.New("empty ClientID")
	case c.Lifespan != 0 && c.Lifespan < minLifespan:
		return fmt.Errorf("Lifespan is %v, expected 0 or at least %v", c.Lifespan, minLifespan)
	case !storable([]string{c.Issuer, c.Subject, c.ClientID, c.LoginSession}, c.Scopes, c.RememberedScopes, c.Audience, c.ResponseTypes, c.Details):
		return errors.New("Approval has text with invalid UTF-8 or a NUL byte, which Postgres cannot store")
	}
	return nil
}
