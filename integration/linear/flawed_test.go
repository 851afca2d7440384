package linear_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// The ways in which a storage can be wrong. All but the last two are in [simple], which is
// right without them.
const (
	noFlaw            = "no flaw"
	readsThenWrites   = "reads, then writes without a condition"
	passesEverybody   = "passes every attempt once one has won"
	forgetsItsAttempt = "takes its own first try for a rival"
	ignoresDecided    = "says stored where it should say already decided"
	overwrites        = "overwrites the first decision"
	forgetsItsMint    = "takes its own mint for another decision"
	prolongs          = "prolongs a grant when its mint is repeated"
	unknownIsConsumed = "says consumed when it does not know"
	unknownIsStored   = "says stored when it does not know"
	unknownIsSpent    = "says spent when it does not know"
	ignoresExpiry     = "ignores expiry"
	lastsTooLong      = "lets a grant be consumed at the very end of its lifespan"
	ignoresDenial     = "lets a denial be consumed"
	ignoresBinding    = "ignores the binding"
	spendsOnMismatch  = "spends a grant on a mismatch"
	sweepsSpent       = "sweeps what is spent"
	sweepsExpired     = "sweeps what has just expired"
	repeatsInside     = "repeats inside a transaction"
	staysOutside      = "stays outside of the transaction"
	answersEarly      = "answers before it has written"
	remembersAbsence  = "remembers what was not there"
	sweepsAhead       = "pgstore, with a sweeper whose clock is a day ahead"
	otherPool         = "pgstore, with transactions of another pool"
)

var flaws = []string{
	readsThenWrites, passesEverybody, forgetsItsAttempt, ignoresDecided, overwrites, forgetsItsMint, prolongs, unknownIsConsumed,
	unknownIsStored, unknownIsSpent, ignoresExpiry, lastsTooLong, ignoresDenial, ignoresBinding, spendsOnMismatch, sweepsSpent,
	sweepsExpired, repeatsInside, staysOutside, answersEarly, remembersAbsence, sweepsAhead, otherPool,
}

func init() {
	for _, flaw := range append(slices.Clone(flaws), noFlaw) {
		storages[flaw] = implementation{migrateSimple, func(pool *pgxpool.Pool, c workerConfig) (func(func() time.Time) storage, error) {
			absent := new(sync.Map)
			return func(clock func() time.Time) storage {
				return &simple{pool: pool, table: pgx.Identifier{c.Prefix + "simple"}.Sanitize(), now: clock(), flaw: flaw, absent: absent}
			}, nil
		}}
	}
	storages[sweepsAhead] = implementation{migrate, func(pool *pgxpool.Pool, c workerConfig) (func(func() time.Time) storage, error) {
		open, err := openPgstore(pool, c)
		return func(clock func() time.Time) storage {
			s := open(clock).(onPostgres)
			s.sweeper = newSweeper(pool, c, func() time.Time { return clock().Add(retention * time.Second) })
			return s
		}, err
	}}
	storages[otherPool] = implementation{migrate, func(pool *pgxpool.Pool, c workerConfig) (func(func() time.Time) storage, error) {
		other, err := pgxpool.NewWithConfig(context.Background(), pool.Config())
		if err != nil {
			return nil, err
		}
		open, err := openPgstore(pool, c)
		if err != nil {
			return nil, err
		}
		transactions, err := pgstore.NewTransactions(other, pgstore.TransactionConfig{})
		return func(clock func() time.Time) storage {
			s := open(clock).(onPostgres)
			s.Transactions = transactions
			return s
		}, err
	}}
}

// TestCheckCatchesEveryFlaw lets histories happen on storages that are wrong in one way
// each, until one is found that has no order. There has to be one soon.
func TestCheckCatchesEveryFlaw(t *testing.T) {
	t.Parallel()
	const soon = 1000
	s := style{processes: 2, calls: 14, faults: 0.15}
	for _, flaw := range flaws {
		t.Run(flaw, func(t *testing.T) {
			t.Parallel()
			seed := seedOf(t)
			total, found := explore(t, newLanes(t, 1, flaw, s), seed, soon, soon)
			if found == nil {
				t.Fatalf("not caught in %v", total)
			}
			text, path, err := found.history.explain(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if picture, err := os.ReadFile(path); err != nil || len(picture) == 0 || text == "" {
				t.Errorf("the violation is not explained: %d bytes, %v, %q", len(picture), err, text)
			}
			t.Logf("caught in history %d of %d:\n%s", found.number, total.histories, text)
		})
	}
	t.Run(noFlaw, func(t *testing.T) {
		t.Parallel()
		seed := seedOf(t)
		total, found := explore(t, newLanes(t, 1, noFlaw, s), seed, 60, 60)
		t.Log(total)
		report(t, seed, found)
		total.checkAnswers(t)
	})
}

// simple is a storage that makes every call a transaction, locks the row, and decides in
// Go; or something worse, according to its flaw.
type simple struct {
	pool   *pgxpool.Pool
	table  string
	now    time.Time
	flaw   string
	absent *sync.Map // of ids that were asked for and not there
}

func migrateSimple(ctx context.Context, pool *pgxpool.Pool, prefix string) error {
	_, err := pool.Exec(ctx, fmt.Sprintf(`CREATE TABLE %s (
		id bytea PRIMARY KEY, secret_hash bytea NOT NULL, binding bytea NOT NULL, content jsonb NOT NULL,
		decided_at timestamptz NOT NULL, expires_at timestamptz NOT NULL, attempt bytea)`,
		pgx.Identifier{prefix + "simple"}.Sanitize()))
	return err
}

// content is what is stored of a grant and not compared.
type content struct {
	Subject, ClientID string
	Scopes, Audience  []string
	Data              []byte
	Denied            bool
}

// row is what is stored.
type row struct {
	grant     fositeconsent.Grant
	expiresAt time.Time
	attempt   []byte
}

func (s *simple) CreateConsentGrant(ctx context.Context, g *fositeconsent.Grant) error {
	err := s.do(ctx, func(tx pgx.Tx) error { return s.create(ctx, tx, g) })
	if s.flaw == unknownIsStored && isUnknown(err) {
		return nil
	}
	return err
}

func (s *simple) create(ctx context.Context, tx pgx.Tx, g *fositeconsent.Grant) error {
	content, err := json.Marshal(content{g.Subject, g.ClientID, g.Scopes, g.Audience, g.Data, g.Denied})
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, "INSERT INTO "+s.table+" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
		g.ID[:], g.SecretHash[:], g.Binding[:], content, s.now, s.now.Add(g.Lifespan))
	if err != nil || tag.RowsAffected() == 1 {
		return err
	}
	there, err := s.lock(ctx, tx, g.ID)
	same := err == nil && there.grant.SecretHash == g.SecretHash
	switch {
	case err != nil:
		return err
	case same && s.flaw == forgetsItsMint:
		return fositeconsent.ErrAlreadyDecided
	case same && s.flaw == prolongs:
		_, err = tx.Exec(ctx, "UPDATE "+s.table+" SET expires_at = $2 WHERE id = $1", g.ID[:], s.now.Add(g.Lifespan))
		return err
	case same, s.flaw == ignoresDecided:
		return nil
	case s.flaw == overwrites:
		_, err = tx.Exec(ctx, "UPDATE "+s.table+" SET secret_hash = $2, binding = $3, content = $4 WHERE id = $1",
			g.ID[:], g.SecretHash[:], g.Binding[:], content)
		return err
	}
	return fositeconsent.ErrAlreadyDecided
}

func (s *simple) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (granted *fositeconsent.Grant, err error) {
	err = s.do(ctx, func(tx pgx.Tx) error {
		granted, err = s.consume(ctx, tx, p)
		return err
	})
	switch {
	case s.flaw == unknownIsConsumed && isUnknown(err):
		return nil, fositeconsent.ErrGrantConsumed
	case s.flaw == unknownIsSpent && isUnknown(err):
		err = s.alone(context.WithoutCancel(ctx), func(tx pgx.Tx) error {
			r, err := s.lock(ctx, tx, p.ID)
			granted = &r.grant
			return err
		})
	}
	return granted, err
}

func (s *simple) consume(ctx context.Context, tx pgx.Tx, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	if _, absent := s.absent.Load(p.ID); absent && s.flaw == remembersAbsence {
		return nil, fositeconsent.ErrGrantNotFound
	}
	r, err := s.lock(ctx, tx, p.ID)
	mine := err == nil && string(r.attempt) == string(p.Attempt[:])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		s.absent.Store(p.ID, true)
		return nil, fositeconsent.ErrGrantNotFound
	case err != nil:
		return nil, err
	case r.grant.Denied && s.flaw != ignoresDenial, r.grant.SecretHash != p.SecretHash:
		return nil, fositeconsent.ErrGrantNotFound
	case r.grant.Binding != p.Binding && s.flaw != ignoresBinding:
		if s.flaw == spendsOnMismatch {
			err = s.spend(ctx, tx, p)
		}
		return nil, errors.Join(err, fositeconsent.ErrBindingMismatch)
	case r.attempt != nil && (!mine || s.flaw == forgetsItsAttempt) && s.flaw != passesEverybody:
		return nil, fositeconsent.ErrGrantConsumed
	case r.attempt == nil && s.flaw != ignoresExpiry && !s.now.Before(r.expiresAt) &&
		(s.flaw != lastsTooLong || s.now.After(r.expiresAt)):
		return nil, fositeconsent.ErrGrantExpired
	}
	if s.flaw == answersEarly {
		go func() {
			_ = s.alone(context.WithoutCancel(ctx), func(tx pgx.Tx) error { return s.spend(context.WithoutCancel(ctx), tx, p) })
		}()
		return &r.grant, nil
	}
	return &r.grant, s.spend(ctx, tx, p)
}

func (s *simple) spend(ctx context.Context, tx pgx.Tx, p fositeconsent.Presentation) error {
	_, err := tx.Exec(ctx, "UPDATE "+s.table+" SET attempt = $2 WHERE id = $1", p.ID[:], p.Attempt[:])
	return err
}

// lock reads a row that nobody else can change then.
func (s *simple) lock(ctx context.Context, tx pgx.Tx, id fositeconsent.ID) (r row, err error) {
	query := "SELECT secret_hash, binding, content, decided_at, expires_at, attempt FROM " + s.table + " WHERE id = $1"
	if s.flaw != readsThenWrites {
		query += " FOR UPDATE"
	}
	var secretHash, binding, text []byte
	var decidedAt time.Time
	if err := tx.QueryRow(ctx, query, id[:]).Scan(&secretHash, &binding, &text, &decidedAt, &r.expiresAt, &r.attempt); err != nil {
		return r, err
	}
	var c content
	err = json.Unmarshal(text, &c)
	r.grant = fositeconsent.Grant{
		ID: id, Subject: c.Subject, ClientID: c.ClientID, Scopes: c.Scopes, Audience: c.Audience, Data: c.Data, Denied: c.Denied, DecidedAt: decidedAt,
	}
	copy(r.grant.SecretHash[:], secretHash)
	copy(r.grant.Binding[:], binding)
	return r, err
}

func (s *simple) Sweep(ctx context.Context) (int64, error) {
	query := "DELETE FROM " + s.table + " WHERE expires_at <= $1"
	before := s.now.Add(-retention * time.Second)
	switch s.flaw {
	case sweepsSpent:
		query += " OR attempt IS NOT NULL"
	case sweepsExpired:
		before = s.now
	}
	tag, err := s.pool.Exec(ctx, query, before)
	return tag.RowsAffected(), err
}

// do runs f in the transaction of the context, or in one of its own, a second time if that
// was lost.
func (s *simple) do(ctx context.Context, f func(pgx.Tx) error) error {
	if tx := hostTransaction(ctx); tx != nil && s.flaw != staysOutside {
		err := f(tx)
		if s.flaw == repeatsInside && isUnknown(err) && ctx.Err() == nil {
			return s.alone(ctx, f)
		}
		return err
	}
	err := s.alone(ctx, f)
	if isUnknown(err) && ctx.Err() == nil {
		return s.alone(ctx, f)
	}
	return err
}

// alone runs f in a transaction of its own. What f refuses is committed too.
func (s *simple) alone(ctx context.Context, f func(pgx.Tx) error) error {
	var refusal error
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := f(tx)
		if !isUnknown(err) {
			refusal, err = err, nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return refusal
}

func isUnknown(err error) bool {
	got, _ := asOutcome(err)
	return got.Result == unknown
}

func (s *simple) transactions() hostTransactions {
	return hostTransactions{s.pool, pgx.ReadCommitted}
}

func (s *simple) BeginTX(ctx context.Context) (context.Context, error) {
	return s.transactions().BeginTX(ctx)
}
func (s *simple) Commit(ctx context.Context) error   { return s.transactions().Commit(ctx) }
func (s *simple) Rollback(ctx context.Context) error { return s.transactions().Rollback(ctx) }
