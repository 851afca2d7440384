package pgstore

import (
	"archive/zip"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the key of the advisory lock that every migration takes, ours
// and the files themselves; it spells "fcggrant".
const migrationLock = 0x6663676772616e74

// Beginner is what [Migrate] needs: a [*pgxpool.Pool] or a [*pgx.Conn].
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

var (
	_ Beginner = (*pgxpool.Pool)(nil)
	_ Beginner = (*pgx.Conn)(nil)
)

type migration struct {
	version int
	name    string // of the file, without .sql
	sql     string
}

// migrationsFor returns the migrations in their order, rendered.
//
// The files are plain SQL for the zero Config. What differs elsewhere is always
// written in double quotes there, and nothing else is.
func migrationsFor(n schema.Names) ([]migration, error) {
	entries, err := migrationFiles.ReadDir("migrations") // sorted by name
	if err != nil {
		return nil, err
	}
	// Both replacements are of names that checkIdentifier let pass: no quotes.
	render := strings.NewReplacer(
		`"`+schema.DefaultSchema+`"`, pgx.Identifier{n.Schema}.Sanitize(),
		`"`+schema.DefaultPrefix, `"`+n.Prefix,
	)
	migrations := make([]migration, 0, len(entries))
	for _, entry := range entries {
		text, err := migrationFiles.ReadFile("migrations/" + entry.Name())
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(entry.Name(), ".sql")
		digits, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(digits)
		if err != nil || version != len(migrations)+1 {
			return nil, fmt.Errorf("pgstore: migration %s is out of order", entry.Name())
		}
		migrations = append(migrations, migration{version: version, name: name, sql: render.Replace(string(text))})
	}
	return migrations, nil
}

// Migrations returns the migrations as files, rendered for config, for tools that
// run migrations themselves: 0001_….sql, 0002_….sql, forward only, each for one
// transaction and for a schema that exists. goose (by the comment in their first
// line) and tern take them as they are. However a file is run, it records itself
// in the table of versions, so that [Store.CheckSchema] and a later [Migrate] know.
// The files for the zero [Config] are also in the source, in pgstore/migrations.
func Migrations(config Config) (fs.FS, error) {
	n, err := config.names()
	if err != nil {
		return nil, err
	}
	migrations, err := migrationsFor(n)
	if err != nil {
		return nil, err
	}
	// The standard library's file system over bytes, outside of its testing packages.
	var buffer bytes.Buffer
	w := zip.NewWriter(&buffer)
	for _, m := range migrations {
		file, err := w.Create(m.name + ".sql")
		if err != nil {
			return nil, err
		}
		if _, err := file.Write([]byte(m.sql)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return zip.NewReader(bytes.NewReader(buffer.Bytes()), int64(buffer.Len()))
}

// Migrate brings the tables up to what this version of the package needs: all of
// it in one transaction, or nothing. Where nothing is missing it changes nothing,
// so that every node can call it at its start: they queue up behind an advisory
// lock (of the transaction, so that PgBouncer's transaction mode is fine), for as
// long as ctx lets them. It creates the schema if that does not exist. Migrations of
// a later version of the package are left alone.
//
// The role needs CREATE on the schema, or on the database where the schema does
// not exist yet, and becomes the owner of the tables. See the package's
// documentation for the roles that work with them.
func Migrate(ctx context.Context, db Beginner, config Config) error {
	if isNil(db) {
		return errors.New("pgstore: Migrate needs a pool or a connection, not nil")
	}
	n, err := config.names()
	if err != nil {
		return err
	}
	migrations, err := migrationsFor(n)
	if err != nil {
		return err
	}
	// Read committed: what the node before us did must be visible after the wait for
	// the lock, whatever the database's default is.
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	err = pgx.BeginTxFunc(ctx, db, options, func(tx pgx.Tx) error {
		return migrate(ctx, tx, n, migrations)
	})
	if err != nil {
		return fmt.Errorf("pgstore: migrate schema %q: %w", n.Schema, err)
	}
	return nil
}

func migrate(ctx context.Context, tx pgx.Tx, n schema.Names, migrations []migration) error {
	if _, err := tx.Exec(ctx, "SELECT pg_catalog.pg_advisory_xact_lock("+strconv.Itoa(migrationLock)+")"); err != nil {
		return fmt.Errorf("wait for other migrations: %w", err)
	}
	state, err := schema.ReadState(ctx, tx, n)
	if err != nil {
		return err
	}
	// CREATE SCHEMA IF NOT EXISTS asks for the privilege even if it exists.
	if !state.Schema {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{n.Schema}.Sanitize()); err != nil {
			return err
		}
	}
	for _, m := range migrations {
		if state.Versions[m.version] {
			continue
		}
		if _, err := tx.Exec(ctx, m.sql); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// ErrSchema is what [Store.CheckSchema] returns when the tables are not what this
// version of the package needs.
var ErrSchema = errors.New("pgstore: the schema is not ready")

// needed are the privileges that the store's statements take.
var needed = []schema.Privilege{
	{Table: "grants", Name: "SELECT"}, {Table: "grants", Name: "INSERT"},
	{Table: "grants", Name: "UPDATE", Column: "consumed_at"}, {Table: "grants", Name: "UPDATE", Column: "attempt"},
	{Table: "grants", Name: "UPDATE", Column: "revoked_at"},
	{Table: "consents", Name: "SELECT"}, {Table: "consents", Name: "INSERT"}, {Table: "consents", Name: "UPDATE", Column: "revoked_at"},
	{Table: "responses", Name: "SELECT"}, {Table: "responses", Name: "INSERT"},
	{Table: "decisions", Name: "SELECT"}, {Table: "decisions", Name: "INSERT"},
	{Table: "requests", Name: "SELECT"}, {Table: "requests", Name: "INSERT"},
	{Table: "requests", Name: "UPDATE", Column: "answered_at"}, {Table: "requests", Name: "UPDATE", Column: "accepted"},
	{Table: "requests", Name: "UPDATE", Column: "answer_digest"}, {Table: "requests", Name: "UPDATE", Column: "verifier_hash"},
	{Table: "requests", Name: "UPDATE", Column: "answer"}, {Table: "requests", Name: "UPDATE", Column: "used_at"},
	{Table: "requests", Name: "UPDATE", Column: "revoked_at"},
}

// CheckSchema is for the host's start-up and readiness: an error of kind
// [ErrSchema] names each migration, table or privilege that the store lacks and
// what to do. Any other error means that it could not be found out. It changes nothing.
//
// A schema that is newer than this package is fine: migrations only ever add what
// the release before can ignore, so that nodes can be replaced one by one.
func (s *Store) CheckSchema(ctx context.Context) error {
	migrations, err := migrationsFor(s.names)
	if err != nil {
		return err
	}
	names := make([]string, len(migrations))
	for i, m := range migrations {
		names[i] = m.name
	}
	missing, err := schema.Missing(ctx, s.db, s.names, names, needed)
	if err != nil {
		return fmt.Errorf("pgstore: check schema %q: %w", s.names.Schema, err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", ErrSchema, strings.Join(missing, "; "))
	}
	return nil
}
