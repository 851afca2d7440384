package pgstore

import (
	"context"
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

// Store is a [fositeconsent.GrantStorage] on Postgres. It is as safe for
// concurrent use as its [DB]: a pool is, a connection and a transaction are not.
type Store struct {
	db     DB
	config Config
	names  names
	create string
	spend  string
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
		create: fmt.Sprintf(createSQL, n.grants()),
		spend:  fmt.Sprintf(consumeSQL, n.grants()),
		pool:   pool,
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

// createSQL inserts the grant, or, where its key is taken, returns a row only if
// the same secret is there. The empty assignment is what makes Postgres wait for
// a first try that has not committed yet, and compare with what that try left
// behind rather than with this statement's snapshot.
const createSQL = `
INSERT INTO %[1]s AS g (id, secret_hash, binding, subject, client_id, scopes, audience, data, denied, decided_at, expires_at)
VALUES ($1::uuid, $2::bytea, $3::bytea, $4::text, $5::text, $6::text[], $7::text[], $8::bytea, $9::boolean,
        coalesce($11::timestamptz, statement_timestamp()),
        coalesce($11::timestamptz, statement_timestamp()) + $10::bigint * interval '1 microsecond')
ON CONFLICT (id) DO UPDATE SET attempt = g.attempt WHERE g.secret_hash = excluded.secret_hash
RETURNING true`

// CreateConsentGrant implements [fositeconsent.GrantStorage]: one INSERT, in one
// round trip. Text that Postgres cannot store, invalid UTF-8 or a NUL byte, is an
// error besides those of the interface.
func (s *Store) CreateConsentGrant(ctx context.Context, grant *fositeconsent.Grant) error {
	const op = "create consent grant"
	if err := checkGrant(grant); err != nil {
		return fmt.Errorf("pgstore: %s: %w", op, err)
	}
	args := []any{
		uuid(grant.ID), grant.SecretHash[:], grant.Binding[:], grant.Subject, grant.ClientID,
		notNil(grant.Scopes), notNil(grant.Audience), nullIfEmpty(grant.Data), grant.Denied,
		grant.Lifespan.Microseconds(), s.config.clock(),
	}
	err := s.repeat(ctx, func(db DB) error {
		var created bool
		return db.QueryRow(ctx, s.create, args...).Scan(&created)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("pgstore: %s %s: %w", op, grant.ID, fositeconsent.ErrAlreadyDecided)
	}
	return mapError(ctx, op, grant.ID, err)
}

// consumeSQL decides in its UPDATE and explains in its SELECT.
//
// Both parts see the snapshot of the statement's start, but the UPDATE, when it
// has to wait for another transaction, looks again at what that one left behind.
// So a row that the SELECT sees unspent and unexpired, and that the UPDATE did
// not get, was spent in between. Both compare with the one moment at which the
// statement began: with a clock that moves on during the wait, a loser could not
// tell spent from expired.
const consumeSQL = `
WITH spent AS (
	UPDATE %[1]s
	SET consumed_at = coalesce(consumed_at, $5::timestamptz, statement_timestamp()), attempt = $4::uuid
	WHERE id = $1::uuid AND secret_hash = $2::bytea AND binding = $3::bytea AND NOT denied
	  AND ((consumed_at IS NULL AND expires_at > coalesce($5::timestamptz, statement_timestamp())) OR attempt = $4::uuid)
	RETURNING id
)
SELECT CASE
	WHEN g.binding <> $3::bytea THEN 'mismatch'
	WHEN EXISTS (SELECT FROM spent) THEN 'spent'
	WHEN g.consumed_at IS NULL AND g.expires_at <= coalesce($5::timestamptz, statement_timestamp()) THEN 'expired'
	ELSE 'consumed'
	END, g.subject, g.client_id, g.scopes, g.audience, g.data, g.decided_at
FROM %[1]s AS g
WHERE g.id = $1::uuid AND g.secret_hash = $2::bytea AND NOT g.denied`

// ConsumeConsentGrant implements [fositeconsent.GrantStorage]: one statement, in
// one round trip.
func (s *Store) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	const op = "consume consent grant"
	if p.Attempt == (fositeconsent.Attempt{}) {
		return nil, fmt.Errorf("pgstore: %s %s: zero Attempt", op, p.ID)
	}
	args := []any{uuid(p.ID), p.SecretHash[:], p.Binding[:], uuid(p.Attempt), s.config.clock()}
	grant := fositeconsent.Grant{ID: p.ID, SecretHash: p.SecretHash, Binding: p.Binding}
	var outcome string
	err := s.repeat(ctx, func(db DB) error {
		return db.QueryRow(ctx, s.spend, args...).Scan(&outcome,
			&grant.Subject, &grant.ClientID, &grant.Scopes, &grant.Audience, &grant.Data, &grant.DecidedAt)
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, mapError(ctx, op, p.ID, err)
	}
	var refusal error
	switch {
	case err != nil:
		refusal = fositeconsent.ErrGrantNotFound
	case outcome == "spent":
		grant.DecidedAt = grant.DecidedAt.UTC()
		return &grant, nil
	case outcome == "mismatch":
		refusal = fositeconsent.ErrBindingMismatch
	case outcome == "consumed":
		refusal = fositeconsent.ErrGrantConsumed
	case outcome == "expired":
		refusal = fositeconsent.ErrGrantExpired
	default:
		refusal = errors.New("the database answered something that the statement cannot return")
	}
	return nil, fmt.Errorf("pgstore: %s %s: %w", op, p.ID, refusal)
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
	}
	for _, text := range [][]string{{g.Subject, g.ClientID}, g.Scopes, g.Audience} {
		for _, s := range text {
			if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
				return errors.New("Subject, ClientID, Scopes or Audience has invalid UTF-8 or a NUL byte, which Postgres cannot store")
			}
		}
	}
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

// Pauses before the second, third and fourth try of a statement, each of them up to
// a half longer or shorter. A failover takes some hundred milliseconds.
var pauses = [...]time.Duration{0, 50 * time.Millisecond, 250 * time.Millisecond}
