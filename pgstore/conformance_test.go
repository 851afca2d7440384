package pgstore_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// execModes are all of pgx's ways to run a statement.
var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement,
	pgx.QueryExecModeCacheDescribe,
	pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec,
	pgx.QueryExecModeSimpleProtocol,
}

func withMode(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }
}

func withConns(n int32) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.MaxConns = n }
}

func TestStoreKeepsTheContractInEveryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withMode(mode), withConns(16))
			consenttest.Run(t, storages(pool))
			consenttest.RunConsents(t, consentStorages(pool))
			consenttest.RunDecisions(t, decisionLogs(pool))
		})
	}
}

func TestStoreKeepsTheContractOnOneConnection(t *testing.T) {
	t.Parallel()
	o := &oneAtATime{url: pgtest.Database(t)}
	t.Cleanup(func() { _ = o.conn.Close(context.Background()) })
	conn, err := o.connection(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	migrate(t, conn, pgstore.Config{})
	consenttest.Run(t, storages(o))
}

func TestStoreKeepsTheContractUnderOtherNames(t *testing.T) {
	t.Parallel()
	config := pgstore.Config{Schema: "My-Schema", TablePrefix: "Consent$Über_"}
	pool := migrated(t, config, withConns(16))
	newStorage := func(t testing.TB, o consenttest.Options) *pgstore.Store {
		config := config
		config.TestClock = o.Now
		if o.Broken {
			return newStore(t, unreachable(t), config)
		}
		return newStore(t, pool, config)
	}
	consenttest.Run(t, func(t testing.TB, o consenttest.Options) fositeconsent.GrantStorage { return newStorage(t, o) })
	consenttest.RunConsents(t, newStorage)
	consenttest.RunDecisions(t, func(t testing.TB, o consenttest.Options) fositeconsent.DecisionLog { return newStorage(t, o) })
}

func decisionLogs(db pgstore.DB) func(testing.TB, consenttest.Options) fositeconsent.DecisionLog {
	return func(t testing.TB, o consenttest.Options) fositeconsent.DecisionLog { return consentStorages(db)(t, o) }
}

func storages(db pgstore.DB) func(testing.TB, consenttest.Options) fositeconsent.GrantStorage {
	return func(t testing.TB, o consenttest.Options) fositeconsent.GrantStorage { return consentStorages(db)(t, o) }
}

func consentStorages(db pgstore.DB) func(testing.TB, consenttest.Options) *pgstore.Store {
	return func(t testing.TB, o consenttest.Options) *pgstore.Store {
		if o.Broken {
			return newStore(t, unreachable(t), pgstore.Config{TestClock: o.Now})
		}
		return newStore(t, db, pgstore.Config{TestClock: o.Now})
	}
}

// unreachable is a pool on a port of this machine at which nothing listens.
func unreachable(t testing.TB) *pgxpool.Pool {
	return pgtest.PoolAt(t, "postgres://nobody@127.0.0.1:1/none")
}

// oneAtATime lets many goroutines share one connection, which pgx does not, and
// replaces it where a cancelled statement has cost it.
type oneAtATime struct {
	url  string
	mu   sync.Mutex
	conn *pgx.Conn
}

func (o *oneAtATime) connection(ctx context.Context) (*pgx.Conn, error) {
	if o.conn == nil || o.conn.IsClosed() {
		conn, err := pgx.Connect(ctx, o.url)
		if err != nil {
			return nil, err
		}
		o.conn = conn
	}
	return o.conn, nil
}

func (o *oneAtATime) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	panic("the store's statements return a row")
}

func (o *oneAtATime) Query(context.Context, string, ...any) (pgx.Rows, error) {
	panic("the store's statements return one row")
}

func (o *oneAtATime) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return lockedRow{o, ctx, sql, args}
}

type lockedRow struct {
	o    *oneAtATime
	ctx  context.Context
	sql  string
	args []any
}

func (r lockedRow) Scan(dest ...any) error {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	conn, err := r.o.connection(r.ctx)
	if err != nil {
		return err
	}
	return conn.QueryRow(r.ctx, r.sql, r.args...).Scan(dest...)
}
