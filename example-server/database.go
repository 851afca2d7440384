package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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
);`

// schemaLock is the advisory lock under which the tables and the keys are made:
// CREATE TABLE IF NOT EXISTS alone fails when two processes start at once.
const schemaLock = 6033841820947721403

// openDatabase connects, brings the tables of all parts up to date and returns the
// pool and the keys that all processes on this database share.
func openDatabase(ctx context.Context, url string, withDemo bool) (*pgxpool.Pool, *keys, error) {
	poolConfig, err := pgxpool.ParseConfig(url)
	if err != nil {
		// Not the error itself: it quotes the text, and with it some passwords.
		return nil, nil, errors.New("the database URL cannot be read: expected postgres://user:password@host:port/database")
	}
	if poolConfig.ConnConfig.ConnectTimeout == 0 {
		poolConfig.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	k, err := prepareDatabase(ctx, pool, withDemo)
	if err != nil {
		pool.Close()
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	return pool, k, nil
}

// checkTables reports what keeps the server from working: the database, or one of
// its tables.
func checkTables(ctx context.Context, pool *pgxpool.Pool, store *pgstore.Store) error {
	if err := store.CheckSchema(ctx); err != nil {
		return err
	}
	_, err := pool.Exec(ctx, "SELECT token, data, expiry, name, value FROM sessions, example_server_keys LIMIT 0")
	return err
}

func prepareDatabase(ctx context.Context, pool *pgxpool.Pool, withDemo bool) (k *keys, err error) {
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
		k, err = loadKeys(ctx, tx, withDemo)
		return err
	})
	return k, err
}
