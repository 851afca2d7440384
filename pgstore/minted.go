package pgstore

import (
	"bytes"
	"context"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// mintedGrants are the grants that a transaction mints.
type mintedGrants map[fositeconsent.ID]*mintedGrant

type mintedGrant struct {
	fositeconsent.Grant
	spentBy *pgtype.UUID // the attempt, if it is consumed before it is sent
	sent    bool
}

type (
	mintedKey struct{ store *Store }
	spentKey  struct{ store *Store }
)

func (s *Store) mintedIn(unit *tx.Unit) mintedGrants {
	return unit.Value(mintedKey{s}, func() any { return mintedGrants{} }).(mintedGrants) //nolint:errcheck // what create made
}

// spentIn are the grants that a transaction has consumed, and so holds.
func (s *Store) spentIn(unit *tx.Unit) map[fositeconsent.ID]bool {
	return unit.Value(spentKey{s}, func() any { return map[fositeconsent.ID]bool{} }).(map[fositeconsent.ID]bool) //nolint:errcheck // what create made
}

// mint queues the INSERT of a grant. What else the transaction stores depends on its
// being the first decision: two that answer one page at the same time are only told apart
// by the database, in the end.
func (s *Store) mint(ctx context.Context, unit *tx.Unit, grant *fositeconsent.Grant, taken error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g := &mintedGrant{Grant: clone(grant)}
	err := unit.Queue(tx.Statement{
		SQL: s.create,
		Late: func() []any {
			g.sent = true
			return s.createArgs(&g.Grant, g.spentBy)
		},
		Check: func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != 1 {
				return taken
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	unit.Require(tx.Condition{SQL: s.minted, Late: func() []any { return []any{uuid(g.ID), g.SecretHash[:], g.spentBy} }})
	s.mintedIn(unit)[g.ID] = g
	return nil
}

// spendMinted consumes a grant that its own transaction mints, before that is sent, so that
// both are one INSERT. It returns nil if there is none that the presentation would get:
// the database knows why.
func (s *Store) spendMinted(ctx context.Context, p fositeconsent.Presentation) *fositeconsent.Grant {
	_, unit := tx.In(ctx, s.pool)
	if unit == nil || ctx.Err() != nil {
		return nil
	}
	g := s.mintedIn(unit)[p.ID]
	if g == nil || g.sent || g.Denied || g.spentBy != nil || g.SecretHash != p.SecretHash || g.Binding != p.Binding {
		return nil
	}
	attempt := uuid(p.Attempt)
	g.spentBy = &attempt
	unit.Witness(s.spent, uuid(p.ID), attempt)
	s.spentIn(unit)[p.ID] = true
	grant := clone(&g.Grant)
	grant.Lifespan = 0
	return &grant
}

// clone shares nothing with the original.
func clone(grant *fositeconsent.Grant) fositeconsent.Grant {
	c := *grant
	c.Scopes, c.Audience, c.Data = slices.Clone(grant.Scopes), slices.Clone(grant.Audience), bytes.Clone(grant.Data)
	if grant.Remember != nil {
		remember := *grant.Remember
		c.Remember = &remember
	}
	return c
}
