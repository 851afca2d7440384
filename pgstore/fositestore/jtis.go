package fositestore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// The two kinds of JWTs whose IDs are remembered are apart from each other.
const (
	assertionJTI = "client assertion\x00" // RFC 7523, Section 2.2
	grantJTI     = "authorization grant\x00"
)

// jtiGrace is how much longer than its JWT an ID is remembered. fosite takes a JWT to the end
// of the second in which it expires, and by the clock of a process that may be behind that
// of the database.
const jtiGrace = time.Minute

var lastExpiry = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// ClientAssertionJWTValid implements fosite.ClientManager: fosite.ErrJTIKnown for the ID of
// a client assertion that was used and has not expired, or has not for more than a minute.
func (s *Store) ClientAssertionJWTValid(ctx context.Context, jti string) error {
	const what = "look for a client assertion"
	used, err := s.jtiUsed(ctx, assertionJTI+jti)
	if err == nil && used {
		err = fosite.ErrJTIKnown
	}
	return mapError(ctx, what, err)
}

// SetClientAssertionJWT implements fosite.ClientManager: of any number of calls for
// one ID, before it expires, one wins, and the others get fosite.ErrJTIKnown.
func (s *Store) SetClientAssertionJWT(ctx context.Context, jti string, exp time.Time) error {
	return s.useJTI(ctx, "use a client assertion", assertionJTI+jti, exp)
}

// IsJWTUsed implements fosite's handler/rfc7523.RFC7523KeyStorage.
func (s *Store) IsJWTUsed(ctx context.Context, jti string) (bool, error) {
	used, err := s.jtiUsed(ctx, grantJTI+jti)
	return used, mapError(ctx, "look for a JWT", err)
}

// MarkJWTUsedForTime implements fosite's handler/rfc7523.RFC7523KeyStorage: of any
// number of calls for one ID, before it expires, one wins, and the others get
// fosite.ErrJTIKnown (RFC 7523, Section 3).
func (s *Store) MarkJWTUsedForTime(ctx context.Context, jti string, exp time.Time) error {
	return s.useJTI(ctx, "use a JWT", grantJTI+jti, exp)
}

func (s *Store) jtiUsed(ctx context.Context, id string) (used bool, err error) {
	h := hashOf(id)
	err = s.read(ctx, func(db tx.DB) error { return db.QueryRow(ctx, s.sql.jtiUsed, h[:], s.clock()).Scan(&used) })
	return used, err
}

func (s *Store) useJTI(ctx context.Context, what, id string, exp time.Time) error {
	if exp.After(lastExpiry) { // pgx would write what does not fit as some other time
		return mapError(ctx, what, ownError("the JWT never expires"))
	}
	h, attempt := hashOf(id), newAttempt()
	var tag pgconn.CommandTag
	err := s.read(ctx, func(db tx.DB) (err error) {
		tag, err = db.Exec(ctx, s.sql.useJTI, h[:], exp.Add(jtiGrace), attempt, s.clock())
		return err
	})
	if err == nil && tag.RowsAffected() != 1 {
		err = fosite.ErrJTIKnown
	}
	return mapError(ctx, what, err)
}
