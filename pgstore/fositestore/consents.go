package fositestore

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// consentState is what became of the consents under which something was issued.
type consentState int

const (
	consentLive consentState = iota // or there is none
	consentExpired
	consentRevoked
)

func (c consentState) reason() error {
	switch c {
	case consentLive:
		return nil
	case consentExpired:
		return fositeconsent.ErrConsentExpired
	case consentRevoked:
		return fositeconsent.ErrConsentRevoked
	}
	return ownError("the database answered something that the statement cannot return")
}

// refusal is what fosite answers with invalid_grant.
func (c consentState) refusal() error {
	reason := c.reason()
	if reason == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", fosite.ErrNotFound, reason)
}

// maxRequests is for how many requests one transaction locks the families, each of which
// takes a place in the database's table of locks.
const maxRequests = 256

// RevokeRequests ends every access and refresh token of the requests, also those that are
// being issued at that moment. It is what fositeconsent.Gate.Revoke calls, and
// pgstore.Store.RevokeConsents: the codes of these requests are refused then because of their
// consents. Where these tables know of no consent of a request, its codes are ended, too.
//
// In a transaction, also one of the host's (pgstore.WithTx), it is part of that, which has to be
// at read committed: at another level it would not see what it has waited for, and that is
// an error. Otherwise, some hundred requests at a time are a transaction of their own; after an
// error, call it again.
func (s *Store) RevokeRequests(ctx context.Context, requestIDs []string) error {
	const what = "revoke requests"
	ids := slices.DeleteFunc(slices.Clone(requestIDs), func(id string) bool { return !storable(id) }) // no token has such a request
	if err := ctx.Err(); err != nil || len(ids) == 0 {
		return mapError(ctx, what, err)
	}
	if db, _ := tx.In(ctx, s.pool); db != nil {
		return mapError(ctx, what, s.revokeRequestsIn(ctx, db, ids))
	}
	for some := range slices.Chunk(ids, maxRequests) {
		_, err := tx.Repeat(ctx, s.pool, func(db tx.Batcher) error { return s.revokeRequestsOn(ctx, db, some) })
		if err != nil {
			return mapError(ctx, what, err)
		}
	}
	return nil
}

// revokeRequestsIn is for a transaction that somebody else has begun.
func (s *Store) revokeRequestsIn(ctx context.Context, db tx.DB, ids []string) error {
	var level string
	var unrecorded bool
	if err := db.QueryRow(ctx, s.sql.lockRequests, ids).Scan(&level, nil, &unrecorded); err != nil {
		return err
	}
	if level != "read committed" {
		return ownError("the transaction in the context is at " + level + ", where what is being issued is not seen: use read committed")
	}
	statements := []string{s.sql.revokeRefresh, s.sql.revokeAccess}
	if unrecorded {
		statements = append([]string{s.sql.revokeCodes}, statements...)
	}
	for _, sql := range statements {
		if _, err := db.Exec(ctx, sql, ids, s.clock()); err != nil {
			return err
		}
	}
	return nil
}

// revokeRequestsOn makes a transaction of its own, in one round trip.
func (s *Store) revokeRequestsOn(ctx context.Context, db tx.Batcher, ids []string) error {
	var batch pgx.Batch
	batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	batch.Queue(s.sql.lockRequests, ids)
	batch.Queue(s.sql.revokeCodes, ids, s.clock())
	batch.Queue(s.sql.revokeRefresh, ids, s.clock())
	batch.Queue(s.sql.revokeAccess, ids, s.clock())
	batch.Queue("COMMIT")
	return db.SendBatch(ctx, &batch).Close()
}
