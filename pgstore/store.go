package pgstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// DB is what the statements run on: a [*pgxpool.Pool], a [*pgx.Conn], a [pgx.Tx],
// or something of the host's with the same methods.
type DB interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

var (
	_ DB                         = (*pgxpool.Pool)(nil)
	_ DB                         = (*pgx.Conn)(nil)
	_ DB                         = pgx.Tx(nil)
	_ fositeconsent.GrantStorage = (*Store)(nil)
)

// Store is a [fositeconsent.GrantStorage], a [fositeconsent.ConsentStorage] and a
// [fositeconsent.DecisionLog] on Postgres. It is as safe for concurrent use as its [DB]: a pool is, a connection and a transaction are not.
type Store struct {
	db     DB
	config Config
	names  schema.Names
	create string
	spend  string
	look   string
	spent  string
	minted string

	consents  consentStatements
	decisions decisionStatements
	requests  requestStatements
	// revoking begins the transactions of RevokeConsents.
	revoking tx.Manager

	// pool is the db if that is one, else nil. A statement whose connection was lost
	// may run again only where it was a transaction of its own and another connection
	// can be had.
	pool *pgxpool.Pool
}

// New returns a store on db. It opens no connection, starts nothing and does not
// look at the schema; [Store.CheckSchema] does. An error means a nil db or a name
// in config that cannot be used.
func New(db DB, config Config) (*Store, error) {
	if isNil(db) {
		return nil, errors.New("pgstore: New needs a pool, a connection or a transaction, not nil")
	}
	n, err := config.names()
	if err != nil {
		return nil, err
	}
	pool, _ := db.(*pgxpool.Pool)
	return &Store{
		db:     db,
		config: config,
		names:  n,
		create: fmt.Sprintf(createSQL, n.Table("grants")),
		spend:  fmt.Sprintf(consumeSQL+outcomeSQL, n.Table("grants"), "EXISTS (SELECT FROM spent)"),
		look:   fmt.Sprintf(outcomeSQL, n.Table("grants"), "false"),
		spent:  fmt.Sprintf(spentSQL, n.Table("grants")),
		minted: fmt.Sprintf(mintedSQL, n.Table("grants")),

		consents:  newConsentStatements(n),
		decisions: newDecisionStatements(n),
		requests:  newRequestStatements(n),
		revoking:  newRevoking(pool),

		pool: pool,
	}, nil
}

// isNil also finds the nil pool that an ignored error leaves behind.
func isNil(db any) bool {
	if db == nil {
		return true
	}
	v := reflect.ValueOf(db)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// createSQL inserts the grant, spent already if it is consumed in the same
// transaction, or, where its key is taken, returns a row only if the same secret is
// there, spent by the same attempt. The empty assignment is what makes Postgres wait
// for a first try that has not committed yet, and compare with what that try left
// behind rather than with this statement's snapshot.
const createSQL = `
INSERT INTO %[1]s AS g (id, secret_hash, binding, subject, client_id, scopes, audience, data, denied, decided_at, expires_at, consumed_at, attempt, remember, shown)
VALUES ($1::uuid, $2::bytea, $3::bytea, $4::text, $5::text, $6::text[], $7::text[], $8::bytea, $9::boolean,
        coalesce($11::timestamptz, statement_timestamp()),
        coalesce($11::timestamptz, statement_timestamp()) + $10::bigint * interval '1 microsecond',
        CASE WHEN $12::uuid IS NOT NULL THEN coalesce($11::timestamptz, statement_timestamp()) END, $12::uuid,
        $13::text::jsonb, $14::bytea)
ON CONFLICT (id) DO UPDATE SET attempt = g.attempt
WHERE g.secret_hash = excluded.secret_hash AND (excluded.attempt IS NULL OR g.attempt = excluded.attempt)
RETURNING true`

// CreateConsentGrant implements [fositeconsent.GrantStorage]: one INSERT, in one
// round trip. Text that Postgres cannot store, invalid UTF-8 or a NUL byte, is an
// error besides those of the interface.
//
// In a transaction of [Transactions], the INSERT is sent with what has to be sent next, the
// Commit at the latest, and it is that which returns [fositeconsent.ErrAlreadyDecided].
func (s *Store) CreateConsentGrant(ctx context.Context, grant *fositeconsent.Grant) error {
	const op = "create consent grant"
	if err := checkGrant(grant); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	taken := fmt.Errorf("pgstore: %s %s: %w", op, grant.ID, fositeconsent.ErrAlreadyDecided)
	var err error
	if _, unit := tx.In(ctx, s.pool); unit != nil {
		err = s.mint(ctx, unit, grant, taken)
	} else {
		_, err = s.run(ctx, func(db DB) error {
			var created bool
			return db.QueryRow(ctx, s.create, s.createArgs(grant, nil)...).Scan(&created)
		})
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return taken
	}
	return tx.MapError(ctx, op+" "+grant.ID.String(), err)
}

func (s *Store) createArgs(g *fositeconsent.Grant, spentBy *pgtype.UUID) []any {
	return []any{
		uuid(g.ID), g.SecretHash[:], g.Binding[:], g.Subject, g.ClientID,
		notNil(g.Scopes), notNil(g.Audience), nullIfEmpty(g.Data), g.Denied,
		g.Lifespan.Microseconds(), s.config.clock(), spentBy, rememberText(g.Remember), nullIfZero(g.Shown),
	}
}

// consumeSQL decides in its UPDATE and explains in its SELECT.
//
// Both parts see the snapshot of the statement's start, but the UPDATE, when it
// has to wait for another transaction, looks again at what that one left behind.
// So a row that the SELECT sees unspent, unrevoked and unexpired, and that the UPDATE did
// not get, was changed in between: spent or revoked, which a second look tells. (Or swept; who
// sees its own attempt there has won all the same.) Both compare with the one moment at which
// the statement began: with a clock that moves on during the wait, a loser could not tell what
// happened meanwhile from expired.
const consumeSQL = `
WITH spent AS (
	UPDATE %[1]s
	SET consumed_at = coalesce(consumed_at, $5::timestamptz, statement_timestamp()), attempt = $4::uuid
	WHERE id = $1::uuid AND secret_hash = $2::bytea AND binding = $3::bytea AND NOT denied
	  AND ((consumed_at IS NULL AND revoked_at IS NULL AND expires_at > coalesce($5::timestamptz, statement_timestamp()))
	       OR attempt = $4::uuid)
	RETURNING id
)`

// outcomeSQL is its SELECT, and the second look.
const outcomeSQL = `
SELECT CASE
	WHEN g.binding <> $3::bytea THEN 'mismatch'
	WHEN %[2]s OR g.attempt = $4::uuid THEN 'spent'
	WHEN g.consumed_at IS NOT NULL THEN 'consumed'
	WHEN g.revoked_at IS NOT NULL THEN 'revoked'
	WHEN g.expires_at <= coalesce($5::timestamptz, statement_timestamp()) THEN 'expired'
	ELSE 'changed'
	END, g.subject, g.client_id, g.scopes, g.audience, g.data, g.decided_at, g.remember::text, g.shown
FROM %[1]s AS g
WHERE g.id = $1::uuid AND g.secret_hash = $2::bytea AND NOT g.denied`

// spentSQL is how a transaction finds out that it has been committed.
const spentSQL = `EXISTS (SELECT FROM %[1]s WHERE id = $1::uuid AND attempt = $2::uuid)`

// mintedSQL is how it finds out, on the way, that its own mint came first.
const mintedSQL = `EXISTS (SELECT FROM %[1]s
	WHERE id = $1::uuid AND secret_hash = $2::bytea AND ($3::uuid IS NULL OR attempt = $3::uuid))`

// ConsumeConsentGrant implements [fositeconsent.GrantStorage]: one statement, in
// one round trip, and a second one only for who had to wait and lost. In the transaction of
// [Transactions] that also mints the grant, nothing is sent: the INSERT stores it as spent.
// DecidedAt is zero then.
func (s *Store) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	const op = "consume consent grant"
	if p.Attempt == (fositeconsent.Attempt{}) {
		return nil, fmt.Errorf("pgstore: %s %s: zero Attempt", op, p.ID)
	}
	if grant := s.spendMinted(ctx, p); grant != nil {
		return grant, nil
	}
	args := []any{uuid(p.ID), p.SecretHash[:], p.Binding[:], uuid(p.Attempt), s.config.clock()}
	grant := fositeconsent.Grant{ID: p.ID, SecretHash: p.SecretHash, Binding: p.Binding}
	var outcome string
	var remember *string
	var shown []byte
	ask := func(sql string) (underWay bool, err error) {
		return s.run(ctx, func(db DB) error {
			return db.QueryRow(ctx, sql, args...).Scan(&outcome, &grant.Subject, &grant.ClientID,
				&grant.Scopes, &grant.Audience, &grant.Data, &grant.DecidedAt, &remember, &shown)
		})
	}
	underWay, err := ask(s.spend)
	if err == nil && outcome == "changed" {
		if _, err = ask(s.look); errors.Is(err, pgx.ErrNoRows) {
			outcome, err = "consumed", nil // swept
		}
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, tx.MapError(ctx, op+" "+p.ID.String(), err)
	}
	var refusal error
	switch {
	case err != nil:
		refusal = fositeconsent.ErrGrantNotFound
	case outcome == "spent":
		if _, unit := tx.In(ctx, s.pool); unit != nil {
			unit.Witness(s.spent, uuid(p.ID), uuid(p.Attempt))
			s.spentIn(unit)[p.ID] = true
		}
		grant.DecidedAt = grant.DecidedAt.UTC()
		if grant.Remember, err = remembered(remember); err == nil {
			err = setDigest(&grant.Shown, shown)
		}
		if err != nil {
			return nil, fmt.Errorf("pgstore: %s %s: %w", op, p.ID, err)
		}
		return &grant, nil
	case outcome == "mismatch":
		refusal = fositeconsent.ErrBindingMismatch
	case outcome == "consumed":
		refusal = fositeconsent.ErrGrantConsumed
	case outcome == "revoked":
		refusal = fositeconsent.ErrGrantRevoked
	case outcome == "expired":
		refusal = fositeconsent.ErrGrantExpired
	default:
		refusal = errors.New("the database answered something that the statement cannot return")
	}
	if underWay && (errors.Is(refusal, fositeconsent.ErrGrantNotFound) || errors.Is(refusal, fositeconsent.ErrGrantExpired)) {
		// The last try has answered, and waited for none: a first one that waits for a
		// mint or a rival to end, or has hardly begun, may spend the grant after all.
		refusal = fmt.Errorf("the connection was lost, and what was sent over it may still take effect; asked again, the answer was: %v", refusal) //nolint:errorlint // it is not known to be the reason
	}
	return nil, fmt.Errorf("pgstore: %s %s: %w", op, p.ID, refusal)
}

// run runs try in the transaction of the context, once: when that is lost, so is
// what it was for. Without one, each try is a transaction of its own and repeated
// while its connection was lost, if another can be had.
func (s *Store) run(ctx context.Context, try func(DB) error) (underWay bool, err error) {
	if db, _ := tx.In(ctx, s.pool); db != nil {
		return false, try(db)
	}
	if s.pool == nil {
		if err := try(s.db); err != nil {
			return false, err
		}
		return false, ctx.Err() // as in Repeat
	}
	return tx.Repeat(ctx, s.pool, func(db tx.Batcher) error { return try(db) })
}

// checkGrant refuses what the table would refuse too, without a round trip and
// without a database error that prints the row.
func checkGrant(g *fositeconsent.Grant) error {
	switch {
	case g == nil:
		return errors.New("nil Grant")
	case g.ID.IsZero():
		return errors.New("zero ID")
	case g.SecretHash == (fositeconsent.SecretHash{}):
		return errors.New("zero SecretHash")
	case g.Binding == (fositeconsent.Digest{}):
		return errors.New("zero Binding")
	case g.Subject == "":
		return errors.New("empty Subject")
	case g.ClientID == "":
		return errors.New("empty ClientID")
	case g.Lifespan < fositeconsent.MinGrantLifespan:
		return fmt.Errorf("Lifespan is %v, expected at least %v", g.Lifespan, fositeconsent.MinGrantLifespan)
	case g.Remember != nil && g.Remember.Lifespan < 0:
		return fmt.Errorf("Remember.Lifespan is %v, expected at least 0", g.Remember.Lifespan)
	case !storable([]string{g.Subject, g.ClientID}, g.Scopes, g.Audience):
		return errors.New("Subject, ClientID, Scopes or Audience has invalid UTF-8 or a NUL byte, which Postgres cannot store")
	}
	return nil
}

func storable(texts ...[]string) bool {
	for _, text := range texts {
		for _, s := range text {
			if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
				return false
			}
		}
	}
	return true
}

// rememberJSON is the form in which a grant keeps what it was asked to be remembered for.
type rememberJSON struct {
	Lifespan      time.Duration `json:"lifespan"` // in nanoseconds
	OfflineAccess bool          `json:"offline_access"`
}

func rememberText(r *fositeconsent.Remember) any {
	if r == nil {
		return nil
	}
	text, _ := json.Marshal(rememberJSON(*r)) // numbers and booleans
	return string(text)
}

func remembered(text *string) (*fositeconsent.Remember, error) {
	if text == nil {
		return nil, nil
	}
	var r rememberJSON
	if err := json.Unmarshal([]byte(*text), &r); err != nil || r.Lifespan < 0 {
		return nil, errors.New("what it is to be remembered for cannot be read")
	}
	return (*fositeconsent.Remember)(&r), nil
}

func nullIfZero(d fositeconsent.Digest) any {
	if d == (fositeconsent.Digest{}) {
		return nil
	}
	return d[:]
}

// setDigest reads one back; NULL leaves zero.
func setDigest(d *fositeconsent.Digest, stored []byte) error {
	if stored != nil && len(stored) != len(d) {
		return fmt.Errorf("a digest of %d bytes is stored, expected %d", len(stored), len(d))
	}
	copy(d[:], stored)
	return nil
}

// pgx knows arrays of bytes only as lists of numbers, and prints them when it
// fails.
func uuid[T ~[16]byte](id T) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func nullIfEmpty(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}
