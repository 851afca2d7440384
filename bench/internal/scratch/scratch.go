// Package scratch gives a measurement a database of its own.
package scratch

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/pgstore"
)

// Run makes a database of this name, a plain identifier, on the server of the URL, whose role must be able to; calls measure with a pool on it, where
// pgstore's tables are, and the server's version; and drops it. One of this name that is there already is dropped first.
func Run(ctx context.Context, url, name string, measure func(ctx context.Context, pool *pgxpool.Pool, version string) error) (err error) {
	if url == "" {
		return errors.New("-database-url is missing")
	}
	admin, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer admin.Close(ctx)
	drop := func() error {
		_, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		return err
	}
	if err := drop(); err != nil {
		return err
	}
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return err
	}
	config.ConnConfig.Database = name
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		return err
	}
	var version string
	if err := pool.QueryRow(ctx, "SELECT version()").Scan(&version); err != nil {
		return err
	}
	return measure(ctx, pool, version)
}
