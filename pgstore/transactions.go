package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// TransactionConfig bounds what one transaction may cost the others. The zero value
// is complete. A transaction of which nothing had to be sent before its Commit is one
// round trip, which CommitTimeout alone bounds, at the database's own isolation level.
type TransactionConfig struct {
	// Isolation is the isolation level. Defaults to read committed, whatever the
	// database's own default is.
	Isolation pgx.TxIsoLevel
	// LockTimeout is the longest wait for a row that another transaction has locked
	// (Postgres's lock_timeout), in whole milliseconds. Defaults to 2 seconds.
	LockTimeout time.Duration
	// StatementTimeout is the longest that one statement may take (Postgres's
	// statement_timeout), in whole milliseconds. Defaults to 5 seconds.
	StatementTimeout time.Duration
	// IdleTimeout is the longest pause between two statements, after which Postgres
	// rolls back (idle_in_transaction_session_timeout) and with that lets go of the
	// locks of a process that has died without a word, in whole milliseconds.
	// Defaults to 10 seconds.
	IdleTimeout time.Duration
	// CommitTimeout is the longest that a commit may take and, if its answer was
	// lost, asking what became of it. Both go on when the context ends meanwhile.
	// Defaults to 5 seconds.
	CommitTimeout time.Duration
	// MaxOpen is how many transactions may be open at once; others wait, for as long
	// as their context lets them. Less than the pool's MaxConns, so that other
	// statements find a connection while transactions wait for each other. Defaults
	// to three quarters of MaxConns, rounded down, and at least 1.
	MaxOpen int
}

// Transactions puts a transaction into a context, by the methods that fosite looks for
// on a storage (fosite/storage.Transactional). Embed it in a fosite storage of your own
// whose statements run on [Transactions.DB]; pgstore/fositestore has it already. A
// [Store] on the same pool joins by itself. It is safe for concurrent use; one
// transaction is for one goroutine at a time.
//
// Only one part of a storage may have these methods: of two that are embedded side by
// side Go takes neither, without a word. fositeconsent.Gate.Check finds that.
type Transactions struct{ manager tx.Manager }

// NewTransactions returns the transactions of a pool. It opens no connection. An
// error means a nil pool or a value in config that cannot be used.
func NewTransactions(pool *pgxpool.Pool, config TransactionConfig) (*Transactions, error) {
	if pool == nil {
		return nil, errors.New("pgstore: NewTransactions needs a pool, not nil")
	}
	if config.Isolation == "" {
		config.Isolation = pgx.ReadCommitted
	}
	switch config.Isolation {
	case pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable:
	default:
		return nil, fmt.Errorf("pgstore: TransactionConfig.Isolation is %q: use pgx.ReadCommitted, pgx.RepeatableRead or pgx.Serializable", config.Isolation)
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"LockTimeout", &config.LockTimeout, 2 * time.Second},
		{"StatementTimeout", &config.StatementTimeout, 5 * time.Second},
		{"IdleTimeout", &config.IdleTimeout, 10 * time.Second},
		{"CommitTimeout", &config.CommitTimeout, 5 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
		if *d.value < time.Millisecond || *d.value > 24*time.Hour {
			return nil, fmt.Errorf("pgstore: TransactionConfig.%s is %v: use %v to %v", d.name, *d.value, time.Millisecond, 24*time.Hour)
		}
	}
	conns := int(pool.Config().MaxConns)
	if config.MaxOpen == 0 {
		config.MaxOpen = max(1, conns*3/4)
	}
	if config.MaxOpen < 1 || config.MaxOpen >= conns && conns > 1 || config.MaxOpen > conns {
		return nil, fmt.Errorf("pgstore: TransactionConfig.MaxOpen is %d with a pool of %d connections: use at least 1 and fewer than the pool has", config.MaxOpen, conns)
	}
	return &Transactions{tx.Manager{
		Pool:             pool,
		Isolation:        config.Isolation,
		LockTimeout:      config.LockTimeout,
		StatementTimeout: config.StatementTimeout,
		IdleTimeout:      config.IdleTimeout,
		CommitTimeout:    config.CommitTimeout,
		Slots:            make(chan struct{}, config.MaxOpen),
	}}, nil
}

// BeginTX returns a context with a transaction. If ctx has one already, that is joined:
// it ends with the outermost Commit or Rollback, and an inner Rollback fails the
// outer Commit. Nothing is sent, and no connection taken, before the first statement.
func (t *Transactions) BeginTX(ctx context.Context) (context.Context, error) {
	inner, err := t.manager.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgstore: begin: %w", err)
	}
	return inner, nil
}

// Commit commits the transaction in the context. If the connection is lost while the
// commit is under way, Commit finds out what became of it, and returns nil if it took
// effect. Every error means that it must be taken not to have: one with the method
// SQLState and the SQLSTATE 40003 (statement_completion_unknown) that it could not be
// found out, or that only what was left for after it has failed, a revocation for
// instance; any other that nothing was committed.
func (t *Transactions) Commit(ctx context.Context) error {
	return tx.MapError(ctx, "commit", t.manager.Commit(ctx))
}

// Rollback rolls the transaction in the context back, also when the context is over.
// After a Commit, even one that failed, it does nothing.
func (t *Transactions) Rollback(ctx context.Context) error {
	return tx.MapError(ctx, "roll back", t.manager.Rollback(ctx))
}

// DB returns what statements for this context run on: the transaction in it, or else
// the pool.
func (t *Transactions) DB(ctx context.Context) DB {
	if db, _ := tx.In(ctx, t.manager.Pool); db != nil {
		return db
	}
	return t.manager.Pool
}

// WithTx returns a context with a transaction of the host's, which the host ends. All
// stores of this module on a pool run their statements in it, whatever pool they were
// given, so it has to be one of the same database. [Transactions.BeginTX] refuses
// such a context.
func WithTx(ctx context.Context, transaction pgx.Tx) context.Context {
	return tx.With(ctx, transaction)
}
