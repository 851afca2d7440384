package fositestore

import (
	"context"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// pendingCode is a code that is queued in a transaction, and what belongs to it.
type pendingCode struct {
	row          *row // nil if the code is not of this transaction
	pkce, openid *string
	sent         bool
}

// codeLifespan is for codes whose session does not say when they expire, as fosite's
// own handlers' always do. It is fosite's default.
const codeLifespan = 15 * time.Minute

type codeKey struct {
	store *Store
	hash  hash
}

func (s *Store) pending(c scope, h hash) *pendingCode {
	if c.unit == nil {
		return &pendingCode{sent: true}
	}
	return c.unit.Value(codeKey{s, h}, func() any { return new(pendingCode) }).(*pendingCode) //nolint:errcheck // what create made
}

// CreateAuthorizeCodeSession implements fosite's handler/oauth2.AuthorizeCodeStorage.
// In a transaction, the code, its PKCE data and its OpenID Connect session are one
// INSERT, sent together with the COMMIT.
func (s *Store) CreateAuthorizeCodeSession(ctx context.Context, signature string, request fosite.Requester) error {
	const what = "create authorize code"
	w, err := s.rowOf(signature, request, fosite.AuthorizeCode)
	if err != nil {
		return mapError(ctx, what, err)
	}
	if w.lifespan == nil {
		lifespan := codeLifespan.Microseconds()
		w.lifespan = &lifespan
	}
	return s.write(ctx, what, func(ctx context.Context, c scope) error {
		if err := s.settle(ctx, c); err != nil {
			return err
		}
		p := s.pending(c, w.hash)
		p.row, p.sent = w, false
		if c.unit != nil {
			c.unit.Witness(s.sql.codeExists, w.hash[:])
		}
		return c.queue(ctx, tx.Statement{
			SQL: s.sql.createCode,
			Late: func() []any {
				p.sent = true
				return []any{w.hash[:], w.requestID, w.clientID, w.subject, *w.lifespan, w.text, p.pkce, p.openid, s.clock()}
			},
			Repeat: s.sql.sameCode,
			Check:  oneRow(ownError("there is another such code already")),
		})
	})
}

// extend stores what belongs to a code.
func (s *Store) extend(ctx context.Context, what string, h hash, d document, sql string, field func(*pendingCode) **string) error {
	return s.write(ctx, what, func(ctx context.Context, c scope) error {
		if err := s.settle(ctx, c); err != nil {
			return err
		}
		p := s.pending(c, h)
		if p.row != nil && !p.sent {
			text, err := d.without(p.row.document).encode()
			*field(p) = &text
			return err
		}
		text, err := d.explicit().encode()
		if err != nil {
			return err
		}
		return c.queue(ctx, tx.Statement{SQL: sql, Args: []any{h[:], text}, Check: oneRow(
			fmt.Errorf("there is no such code that could be used: %w", fosite.ErrNotFound))})
	})
}

// codeRow is what is stored of a code. It is not changed once it was read.
type codeRow struct {
	requestID, clientID string
	used                bool
	consent             consentState
	document            document
	pkce, openid        *string
}

func (s *Store) readCode(ctx context.Context, h hash) (*codeRow, error) {
	within, _ := tx.In(ctx, s.pool)
	if within == nil && ctx.Err() == nil {
		if r := s.exchanges.recall(ctx, h); r != nil {
			return r, nil
		}
	}
	var r codeRow
	var text string
	err := s.read(ctx, func(db tx.DB) error {
		return db.QueryRow(ctx, s.sql.readCode, h[:], s.clock()).
			Scan(&r.requestID, &r.clientID, &r.used, &r.consent, &text, &r.pkce, &r.openid)
	})
	if isNoRows(err) {
		return nil, fosite.ErrNotFound
	}
	if err == nil {
		r.document, err = decode(text)
	}
	if err == nil && within == nil {
		s.exchanges.remember(ctx, h, &r)
	}
	return &r, err
}

// part returns a request that belongs to the code, or nil if there is none.
func (r *codeRow) part(text *string) (*document, error) {
	if text == nil {
		return nil, fosite.ErrNotFound
	}
	d, err := decode(*text)
	if err != nil {
		return nil, err
	}
	d = d.over(r.document)
	return &d, nil
}

// GetAuthorizeCodeSession implements fosite's handler/oauth2.AuthorizeCodeStorage.
// The request has a session of its own, from Config.NewSession; the one that is passed is
// filled too, unless it was before: fosite checks on that whether the code has
// expired, and later passes it again. When a code is used, this storage checks that as well. One
// whose consent is not live any more is fosite.ErrNotFound, which wraps
// fositeconsent.ErrConsentRevoked or ErrConsentExpired.
func (s *Store) GetAuthorizeCodeSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	const what = "get authorize code"
	r, err := s.readCode(ctx, hashOf(signature))
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	request, err := s.request(ctx, r.document, r.requestID, r.clientID)
	switch {
	case err != nil:
		return nil, mapError(ctx, what, err)
	case r.used:
		return request, mapError(ctx, what, fosite.ErrInvalidatedAuthorizeCode)
	case r.consent != consentLive:
		return nil, mapError(ctx, what, r.consent.refusal())
	}
	if err := fill(session, request.Session, r.document, fosite.AuthorizeCode); err != nil {
		return nil, mapError(ctx, what, err)
	}
	return request, nil
}

// attempts are what a transaction has claimed, a code or a refresh token.
type attempts struct{ list []*claim }

type claim struct {
	condition string // with $1 and $2 for the hash and the id
	hash      hash
	id        pgtype.UUID
	sent      bool
	lost      bool
	issued    [][]byte // the hashes of the access tokens that follow
}

type attemptsKey struct{ store *Store }

func (s *Store) attempts(c scope) *attempts {
	if c.unit == nil {
		return new(attempts)
	}
	return c.unit.Value(attemptsKey{s}, func() any { return new(attempts) }).(*attempts) //nolint:errcheck // what create made
}

// InvalidateAuthorizeCodeSession implements fosite's handler/oauth2.AuthorizeCodeStorage.
// Of any number of calls for one code, one wins. In a transaction, the call is queued, and it
// is the Commit that fails for the others: with fosite.ErrInvalidatedAuthorizeCode, after
// every token of the code's request was revoked (RFC 6749, Section 4.1.2). Without one, an
// unknown code is fosite.ErrNotFound and an expired one fosite.ErrTokenExpired.
func (s *Store) InvalidateAuthorizeCodeSession(ctx context.Context, signature string) error {
	const what = "use authorize code"
	_, within := tx.In(ctx, s.pool)
	mine := &claim{condition: s.sql.codeUsedBy, hash: hashOf(signature), id: newAttempt()}
	s.exchanges.used(ctx, mine.hash)
	return s.claim(ctx, what, mine, within == nil, claimSQL{
		explain: s.sql.reusedCode, refusal: fosite.ErrInvalidatedAuthorizeCode,
	}, tx.Statement{SQL: s.sql.useCode, Args: []any{mine.hash[:], mine.id, s.clock()}})
}

// claimSQL is what is done when a claim is lost: explain says of which request it was,
// whether it has been used, by somebody else, and what became of the consents.
type claimSQL struct {
	explain string
	refusal error
}

// lostClaim is the error of a claim that did not win. Its reason is known once that was
// looked up, which is after the transaction has ended.
type lostClaim struct {
	what            string
	refusal, reason error
}

func (e *lostClaim) Error() string {
	if e.reason != nil {
		return fmt.Sprintf("fositestore: %s: %v: %v", e.what, e.reason, e.refusal)
	}
	return fmt.Sprintf("fositestore: %s: somebody else has, or it cannot be used any more: %v", e.what, e.refusal)
}

func (e *lostClaim) Unwrap() []error {
	if e.reason != nil {
		return []error{e.refusal, e.reason}
	}
	return []error{e.refusal}
}

// claim queues statements of which the first decides.
func (s *Store) claim(ctx context.Context, what string, mine *claim, explain bool, on claimSQL, first tx.Statement, more ...tx.Statement) error {
	args := first.Args
	first.Late = func() []any {
		mine.sent = true
		return args
	}
	refused := &lostClaim{what: what, refusal: on.refusal}
	first.Check = func(tag pgconn.CommandTag) error {
		if mine.lost = tag.RowsAffected() != 1; mine.lost {
			return refused
		}
		return nil
	}
	var found, used bool
	err := s.write(ctx, what, func(ctx context.Context, c scope) error {
		// Of two that are queued, the second would not know that the first has lost.
		if err := s.settle(ctx, c); err != nil {
			return err
		}
		a := s.attempts(c)
		a.list = append(a.list, mine)
		lost := func(ctx context.Context, db tx.DB) error {
			if !mine.lost {
				return nil
			}
			var requestID string
			var reused bool
			var consent consentState
			err := db.QueryRow(ctx, on.explain, mine.hash[:], mine.id, s.clock()).Scan(&requestID, &used, &reused, &consent)
			found = err == nil
			switch {
			case isNoRows(err):
				return nil
			case err == nil && consent != consentLive && !reused:
				refused.reason = consent.reason()
			case err == nil && used:
				err = s.revokeOn(ctx, db, c.unit != nil, requestID, s.sql.revokeRefresh, s.sql.revokeAccess)
			}
			return mapError(ctx, "revoke after a reuse", err)
		}
		if c.unit != nil {
			c.unit.Witness(mine.condition, mine.hash[:], mine.id)
			if err := c.unit.After(lost); err != nil {
				return err
			}
		}
		for i, statement := range append([]tx.Statement{first}, more...) {
			if err := c.queue(ctx, statement); err != nil {
				if c.unit == nil && mine.lost {
					return joined(err, lost(ctx, c.db))
				}
				return err
			}
			if i == 0 && c.unit != nil {
				c.unit.Require(tx.Condition{SQL: mine.condition, Args: []any{mine.hash[:], mine.id}})
			}
		}
		return nil
	})
	switch {
	case !explain || !mine.lost || err == nil || refused.reason != nil:
		return err
	case !found:
		return mapError(ctx, what, fosite.ErrNotFound)
	case !used:
		return mapError(ctx, what, fosite.ErrTokenExpired)
	}
	return err
}

// CreatePKCERequestSession implements fosite's handler/pkce.PKCERequestStorage. The
// code has to be there.
func (s *Store) CreatePKCERequestSession(ctx context.Context, signature string, request fosite.Requester) error {
	const what = "create PKCE data"
	d, err := documentOf(request)
	if err != nil {
		return mapError(ctx, what, err)
	}
	return s.extend(ctx, what, hashOf(signature), d, s.sql.setPKCE, func(p *pendingCode) **string { return &p.pkce })
}

// GetPKCERequestSession implements fosite's handler/pkce.PKCERequestStorage.
func (s *Store) GetPKCERequestSession(ctx context.Context, signature string, _ fosite.Session) (fosite.Requester, error) {
	const what = "get PKCE data"
	r, err := s.readCode(ctx, hashOf(signature))
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	return s.partOf(ctx, what, r, r.pkce, nil)
}

// partOf returns a request that belongs to a code.
func (s *Store) partOf(ctx context.Context, what string, r *codeRow, text *string, check func(*document) error) (fosite.Requester, error) {
	d, err := r.part(text)
	if err == nil && check != nil {
		err = check(d)
	}
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	request, err := s.request(ctx, *d, r.requestID, r.clientID)
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	return request, nil
}

// DeletePKCERequestSession implements fosite's handler/pkce.PKCERequestStorage. It deletes
// nothing: fosite calls it before it looks at the verifier, and a client that sent a wrong
// one could then come again with none. The data go with their code.
func (s *Store) DeletePKCERequestSession(ctx context.Context, _ string) error { return ctx.Err() }

// CreateOpenIDConnectSession implements fosite's handler/openid.OpenIDConnectRequestStorage.
// It is told the whole code, and stores a hash of that. The code has to be there.
func (s *Store) CreateOpenIDConnectSession(ctx context.Context, code string, request fosite.Requester) error {
	const what = "create OpenID Connect session"
	d, err := documentOf(request)
	if err != nil {
		return mapError(ctx, what, err)
	}
	whole := wholeCode(code)
	d.Code = whole[:]
	return s.extend(ctx, what, hashOf(s.config.CodeSignature(ctx, code)), d, s.sql.setOpenID,
		func(p *pendingCode) **string { return &p.openid })
}

// wholeCode is half of a hash, which is enough beside the whole one of the signature.
func wholeCode(code string) [16]byte {
	h := hashOf("code\x00" + code)
	return [16]byte(h[:16])
}

// GetOpenIDConnectSession implements fosite's handler/openid.OpenIDConnectRequestStorage.
// The session can still be read when the code has been used: fosite does so.
func (s *Store) GetOpenIDConnectSession(ctx context.Context, code string, _ fosite.Requester) (fosite.Requester, error) {
	const what = "get OpenID Connect session"
	r, err := s.readCode(ctx, hashOf(s.config.CodeSignature(ctx, code)))
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	return s.partOf(ctx, what, r, r.openid, func(d *document) error {
		whole := wholeCode(code)
		if subtle.ConstantTimeCompare(d.Code, whole[:]) != 1 {
			return fosite.ErrNotFound
		}
		return nil
	})
}

// DeleteOpenIDConnectSession implements fosite's handler/openid.OpenIDConnectRequestStorage.
// It deletes nothing: the session goes with its code, which can be used once only.
func (s *Store) DeleteOpenIDConnectSession(ctx context.Context, _ string) error { return ctx.Err() }
