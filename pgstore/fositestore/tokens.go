package fositestore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// createToken queues the INSERT of a token, on the condition that what it was
// issued for was won.
func (s *Store) createToken(ctx context.Context, what, sql, exists string, w *row, access bool) error {
	return s.write(ctx, what, func(ctx context.Context, c scope) error {
		if access {
			for _, claim := range s.attempts(c).list {
				claim.issued = append(claim.issued, w.hash[:])
			}
		}
		if c.unit != nil {
			c.unit.Witness(exists, w.hash[:])
		}
		return c.queue(ctx, tx.Statement{
			SQL:    sql,
			Args:   []any{w.hash[:], w.requestID, w.clientID, w.subject, w.lifespan, w.text, s.clock()},
			Repeat: s.sql.sameToken,
			Check:  oneRow(ownError("there is another such token already")),
		})
	})
}

// CreateAccessTokenSession implements fosite's handler/oauth2.AccessTokenStorage.
func (s *Store) CreateAccessTokenSession(ctx context.Context, signature string, request fosite.Requester) error {
	const what = "create access token"
	w, err := s.rowOf(signature, request, fosite.AccessToken)
	if err != nil {
		return mapError(ctx, what, err)
	}
	return s.createToken(ctx, what, s.sql.createAccess, s.sql.accessExists, w, true)
}

// CreateRefreshTokenSession implements fosite's handler/oauth2.RefreshTokenStorage.
func (s *Store) CreateRefreshTokenSession(ctx context.Context, signature, _ string, request fosite.Requester) error {
	const what = "create refresh token"
	w, err := s.rowOf(signature, request, fosite.RefreshToken)
	if err != nil {
		return mapError(ctx, what, err)
	}
	return s.createToken(ctx, what, s.sql.createRefresh, s.sql.refreshExists, w, false)
}

// getToken returns the request of a token, and whether that has been ended.
func (s *Store) getToken(ctx context.Context, sql, signature string, session fosite.Session, kind fosite.TokenType, args ...any) (request *fosite.Request, ended bool, err error) {
	h := hashOf(signature)
	var id, clientID, text string
	var consent consentState
	err = s.read(ctx, func(db tx.DB) error {
		return db.QueryRow(ctx, sql, append([]any{h[:]}, args...)...).Scan(&id, &clientID, &ended, &consent, &text)
	})
	if isNoRows(err) {
		err = fosite.ErrNotFound
	}
	if err == nil && session != nil { // who passes none wants to revoke it
		err = consent.refusal()
	}
	if err != nil {
		return nil, false, err
	}
	d, err := decode(text)
	if err != nil {
		return nil, false, err
	}
	request, err = s.request(ctx, d, id, clientID)
	if err == nil && !ended {
		err = fill(session, request.Session, d, kind)
	}
	return request, ended, err
}

// GetAccessTokenSession implements fosite's handler/oauth2.AccessTokenStorage. A token
// that was deleted or revoked is fosite.ErrNotFound. Whether it has expired is
// fosite's to check. A session that is passed is filled, as with codes.
func (s *Store) GetAccessTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	const what = "get access token"
	request, ended, err := s.getToken(ctx, s.sql.readAccess, signature, session, fosite.AccessToken)
	if err == nil && ended {
		err = fosite.ErrNotFound
	}
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	return request, nil
}

// GetRefreshTokenSession implements fosite's handler/oauth2.RefreshTokenStorage. A token
// that was rotated, deleted or revoked is fosite.ErrInactiveToken and comes with
// its request. Whether it has expired is fosite's to check. A session that is passed is
// filled, as with codes. One whose consent is not live any more is fosite.ErrNotFound,
// which wraps fositeconsent.ErrConsentRevoked or ErrConsentExpired, unless no session is
// passed: fosite does so to revoke it.
func (s *Store) GetRefreshTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	const what = "get refresh token"
	request, ended, err := s.getToken(ctx, s.sql.readRefresh, signature, session, fosite.RefreshToken, s.clock())
	switch {
	case err != nil:
		return nil, mapError(ctx, what, err)
	case ended:
		return request, mapError(ctx, what, fosite.ErrInactiveToken)
	}
	return request, nil
}

// DeleteAccessTokenSession implements fosite's handler/oauth2.AccessTokenStorage. It
// ends the token; the row goes when it is swept.
func (s *Store) DeleteAccessTokenSession(ctx context.Context, signature string) error {
	return s.endToken(ctx, "delete access token", s.sql.endAccess, signature)
}

// DeleteRefreshTokenSession implements fosite's handler/oauth2.RefreshTokenStorage. It
// ends the token and keeps the row: fosite calls it for a token that is reused, which has to
// be recognised when it is used once more.
func (s *Store) DeleteRefreshTokenSession(ctx context.Context, signature string) error {
	return s.endToken(ctx, "delete refresh token", s.sql.endRefresh, signature)
}

func (s *Store) endToken(ctx context.Context, what, sql, signature string) error {
	h := hashOf(signature)
	return s.write(ctx, what, func(ctx context.Context, c scope) error {
		if err := s.settle(ctx, c); err != nil {
			return err
		}
		return c.queue(ctx, tx.Statement{SQL: sql, Args: []any{h[:], s.clock()}})
	})
}

// RotateRefreshToken implements fosite's handler/oauth2.RefreshTokenStorage: it ends the
// refresh token, and every access token of its request. Of any number of calls for one
// token, one wins. In a transaction, the call is queued, and it is the Commit that
// fails for the others, with fosite.ErrInactiveToken, after every token of the request was
// revoked (RFC 9700, Section 4.14.2). Without one, a token that is unknown, or of another
// request, is fosite.ErrNotFound and an expired one fosite.ErrTokenExpired.
func (s *Store) RotateRefreshToken(ctx context.Context, requestID, signature string) error {
	const what = "rotate refresh token"
	if !storable(requestID) {
		return mapError(ctx, what, fosite.ErrNotFound)
	}
	_, within := tx.In(ctx, s.pool)
	mine := &claim{condition: s.sql.rotatedBy, hash: hashOf(signature), id: newAttempt(), issued: [][]byte{}}
	return s.claim(ctx, what, mine, within == nil, claimSQL{
		explain: s.sql.reusedToken, refusal: fosite.ErrInactiveToken,
	}, tx.Statement{SQL: s.sql.rotate, Args: []any{mine.hash[:], mine.id, requestID, s.clock()}},
		tx.Statement{SQL: s.sql.endAccessOf, Late: func() []any {
			return []any{requestID, mine.issued, s.clock()}
		}})
}

// RevokeRefreshToken implements fosite's handler/oauth2.TokenRevocationStorage: it ends
// every token of the request, also those that are being issued at that moment. That is
// access tokens too (RFC 7009, Section 2.1): fosite, which revokes both in two calls, would
// miss the one that a rotation issues in between. In a
// transaction it takes effect when that has ended, whichever way: the error that a
// reuse is answered with rolls back. Where the transaction is the host's own
// (pgstore.WithTx), it is part of that.
func (s *Store) RevokeRefreshToken(ctx context.Context, requestID string) error {
	return s.revoke(ctx, "revoke refresh tokens", requestID, s.sql.revokeRefresh, s.sql.revokeAccess)
}

// RevokeAccessToken implements fosite's handler/oauth2.TokenRevocationStorage: it ends
// every access token of the request, as RevokeRefreshToken does, and no refresh token.
func (s *Store) RevokeAccessToken(ctx context.Context, requestID string) error {
	return s.revoke(ctx, "revoke access tokens", requestID, s.sql.revokeAccess)
}

func (s *Store) revoke(ctx context.Context, what, requestID string, statements ...string) error {
	if !storable(requestID) {
		return mapError(ctx, what, ctx.Err()) // no token has such a request
	}
	switch db, unit := tx.In(ctx, s.pool); {
	case unit != nil:
		return mapError(ctx, what, unit.After(func(ctx context.Context, db tx.DB) error {
			return mapError(ctx, what, s.revokeOn(ctx, db, true, requestID, statements...))
		}))
	case db != nil:
		return mapError(ctx, what, s.revokeOn(ctx, db, false, requestID, statements...))
	}
	_, err := tx.Repeat(ctx, s.pool, func(db tx.Batcher) error {
		return s.revokeOn(ctx, db, true, requestID, statements...)
	})
	return mapError(ctx, what, err)
}

// revokeOn waits until nobody issues tokens of the request, and ends those that are
// there then. That is at read committed, where each statement looks anew, whatever
// the database's default is; in a transaction of the host's, its level.
func (s *Store) revokeOn(ctx context.Context, db tx.DB, begin bool, requestID string, statements ...string) error {
	batcher, ok := db.(tx.Batcher)
	if !ok {
		return ownError("the transaction in the context cannot send batches")
	}
	var batch pgx.Batch
	if begin {
		batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	}
	batch.Queue(lockRevoking, requestID)
	for _, sql := range statements {
		batch.Queue(sql, []string{requestID}, s.clock())
	}
	if begin {
		batch.Queue("COMMIT")
	}
	err := batcher.SendBatch(ctx, &batch).Close()
	if conn, ok := db.(*pgxpool.Conn); ok && begin && err != nil {
		_, _ = conn.Exec(ctx, "ROLLBACK") // others may need the connection; where that fails, the pool drops it
	}
	return err
}

// joined is both errors, the first of which is what is asked for.
func joined(err, other error) error {
	if other == nil {
		return err
	}
	return errors.Join(err, other)
}
