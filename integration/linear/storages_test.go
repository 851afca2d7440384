package linear_test

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/pgstore"
)

// implementation is something to check.
type implementation struct {
	migrate func(ctx context.Context, pool *pgxpool.Pool, prefix string) error
	// open is called once in each process, and what it returns for each call, with the
	// call's clock.
	open func(*pgxpool.Pool, workerConfig) (func(clock func() time.Time) storage, error)
}

// storages are all that workers can call, by name.
var storages = map[string]implementation{
	"pgstore":                               {migrate, openPgstore},
	"pgstore in transactions of the host's": {migrate, openPgstoreInHost},
}

func migrate(ctx context.Context, pool *pgxpool.Pool, prefix string) error {
	return pgstore.Migrate(ctx, pool, pgstore.Config{TablePrefix: prefix})
}

// onPostgres is what this package is about.
type onPostgres struct {
	*pgstore.Store
	*pgstore.Transactions
	sweeper
}

// sweeper makes a new one each time: a clock belongs to one call.
type sweeper func() *pgstore.Sweeper

func (s sweeper) Sweep(ctx context.Context) (int64, error) { return s().Sweep(ctx) }

func openPgstore(pool *pgxpool.Pool, c workerConfig) (func(func() time.Time) storage, error) {
	transactions, err := pgstore.NewTransactions(pool, pgstore.TransactionConfig{Isolation: c.Isolation})
	if err != nil {
		return nil, err
	}
	return func(clock func() time.Time) storage {
		return onPostgres{newStore(pool, c, clock), transactions, newSweeper(pool, c, clock)}
	}, nil
}

func newStore(pool *pgxpool.Pool, c workerConfig, clock func() time.Time) *pgstore.Store {
	store, err := pgstore.New(pool, pgstore.Config{TablePrefix: c.Prefix, TestClock: clock})
	if err != nil {
		panic(err) // a mistake of this package
	}
	return store
}

func newSweeper(pool *pgxpool.Pool, c workerConfig, clock func() time.Time) sweeper {
	return func() *pgstore.Sweeper {
		s, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{Tables: pgstore.Config{TablePrefix: c.Prefix, TestClock: clock}})
		if err != nil {
			panic(err) // a mistake of this package
		}
		return s
	}
}

// inHost is the same in transactions that the host begins and ends.
type inHost struct {
	*pgstore.Store
	hostTransactions
	sweeper
}

func openPgstoreInHost(pool *pgxpool.Pool, c workerConfig) (func(func() time.Time) storage, error) {
	return func(clock func() time.Time) storage {
		return inHost{newStore(pool, c, clock), hostTransactions{pool, c.Isolation}, newSweeper(pool, c, clock)}
	}, nil
}

// hostTransactions are plain ones, by pgx.
type hostTransactions struct {
	pool      *pgxpool.Pool
	isolation pgx.TxIsoLevel
}

type hostKey struct{}

func hostTransaction(ctx context.Context) pgx.Tx {
	tx, _ := ctx.Value(hostKey{}).(pgx.Tx)
	return tx
}

func (h hostTransactions) BeginTX(ctx context.Context) (context.Context, error) {
	tx, err := h.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: h.isolation})
	if err != nil {
		return nil, err
	}
	return pgstore.WithTx(context.WithValue(ctx, hostKey{}, tx), tx), nil
}

// Commit does not find out what became of a commit whose answer was lost.
func (h hostTransactions) Commit(ctx context.Context) error {
	if err := hostTransaction(ctx).Commit(ctx); err != nil {
		return unknownCommit{err}
	}
	return nil
}

func (h hostTransactions) Rollback(ctx context.Context) error {
	return hostTransaction(ctx).Rollback(context.WithoutCancel(ctx))
}

type unknownCommit struct{ error }

func (unknownCommit) SQLState() string { return "40003" }
