package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/example-server/loginapi"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// schema holds what this program itself keeps in the database: its sessions, in
// the form that scs's own stores for PostgreSQL have, and its keys.
const schema = `
CREATE TABLE IF NOT EXISTS sessions (
    token  text        PRIMARY KEY, -- hashed
    data   bytea       NOT NULL,
    expiry timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions (expiry);

CREATE TABLE IF NOT EXISTS example_server_keys (
    name       text        PRIMARY KEY,
    value      bytea       NOT NULL, -- secret: whoever can read this table can issue tokens
    created_at timestamptz NOT NULL DEFAULT statement_timestamp()
);

CREATE TABLE IF NOT EXISTS example_server_signing_keys (
    id          text        PRIMARY KEY, -- the kid in ID tokens and in the JWKS
    private_key bytea       NOT NULL,    -- secret as well
    created_at  timestamptz NOT NULL
);
` + loginapi.Schema

// schemaLock is the advisory lock under which the tables and the keys are made:
// CREATE TABLE IF NOT EXISTS alone fails when two processes start at once.
const schemaLock = 6033841820947721403

// openDatabase connects, brings the tables of all parts up to date and returns the
// pool and the keys that all processes on this database share. The issuer has to be theirs.
func openDatabase(ctx context.Context, url string, c config, issuer string, log *slog.Logger) (*pgxpool.Pool, *keys, error) {
	poolConfig, err := pgxpool.ParseConfig(url)
	if err != nil {
		// Not the error itself: it quotes the text, and with it some passwords.
		return nil, nil, errors.New("the database URL cannot be read: expected postgres://user:password@host:port/database")
	}
	if poolConfig.ConnConfig.ConnectTimeout == 0 {
		poolConfig.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if err := chooseExecMode(ctx, poolConfig.ConnConfig, strings.Contains(url, execModeParameter)); err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	k, err := prepareDatabase(ctx, pool, issuer, c.demo())
	if err == nil {
		k.signing = newSigningKeys(pool, c.keyRotation, log)
		err = k.signing.refresh(ctx)
	}
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	return pool, k, nil
}

// execModeParameter, in the database URL, says how pgx runs statements.
const execModeParameter = "default_query_exec_mode"

// chooseExecMode has nothing prepared, unless a mode was chosen, where something like PgBouncer
// stands before the database: in transaction mode the next transaction may run on another
// connection, and not every PgBouncer knows what has been prepared on which.
func chooseExecMode(ctx context.Context, config *pgx.ConnConfig, chosen bool) error {
	pooled, err := behindPooler(ctx, config)
	switch {
	case err != nil || !pooled:
		return err
	case config.DefaultQueryExecMode == pgx.QueryExecModeDescribeExec:
		// A statement is described in one transaction and run in the next, which may find
		// that of another client in its place.
		return fmt.Errorf("%s=describe_exec is unsafe behind a connection pooler: leave %[1]s out", execModeParameter)
	case !chosen:
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return nil
}

// behindPooler reports whether it is a pooler that answers at the database's address: the process
// that it gives the client to cancel statements with is none of the database's.
func behindPooler(ctx context.Context, config *pgx.ConnConfig) (bool, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing depends on it
	var pid uint32
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return pid != conn.PgConn().PID(), err
}

// checkTables reports what keeps the server from working: the database, or one of
// its tables.
func checkTables(ctx context.Context, pool *pgxpool.Pool, stores ...interface {
	CheckSchema(ctx context.Context) error
}) error {
	for _, store := range stores {
		if err := store.CheckSchema(ctx); err != nil {
			return err
		}
	}
	if _, err := pool.Exec(ctx, loginapi.CheckTable); err != nil {
		return err
	}
	_, err := pool.Exec(ctx, "SELECT token, data, expiry, name, value, id, private_key FROM sessions, example_server_keys, example_server_signing_keys LIMIT 0")
	return err
}

func prepareDatabase(ctx context.Context, pool *pgxpool.Pool, issuer string, withDemo bool) (k *keys, err error) {
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		return nil, err
	}
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(schemaLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, schema); err != nil {
			return err
		}
		k, err = loadKeys(ctx, tx, issuer, withDemo)
		return err
	})
	return k, err
}
