package pgstore

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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
func migrationsFor(n names) ([]migration, error) {
	entries, err := migrationFiles.ReadDir("migrations") // sorted by name
	if err != nil {
		return nil, err
	}
	// Both replacements are of names that checkIdentifier let pass: no quotes.
	render := strings.NewReplacer(
		`"`+defaultSchema+`"`, pgx.Identifier{n.schema}.Sanitize(),
		`"`+defaultPrefix, `"`+n.prefix,
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
		return fmt.Errorf("pgstore: migrate schema %q: %w", n.schema, err)
	}
	return nil
}

func migrate(ctx context.Context, tx pgx.Tx, n names, migrations []migration) error {
	if _, err := tx.Exec(ctx, "SELECT pg_catalog.pg_advisory_xact_lock("+strconv.Itoa(migrationLock)+")"); err != nil {
		return fmt.Errorf("wait for other migrations: %w", err)
	}
	state, err := readState(ctx, tx, n)
	if err != nil {
		return err
	}
	// CREATE SCHEMA IF NOT EXISTS asks for the privilege even if it exists.
	if !state.schema {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{n.schema}.Sanitize()); err != nil {
			return err
		}
	}
	for _, m := range migrations {
		if state.versions[m.version] {
			continue
		}
		if _, err := tx.Exec(ctx, m.sql); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// state is what the catalogs and the table of versions say.
type state struct {
	schema   bool
	versions map[int]bool
}

// The statements of this file and of CheckSchema are sent unnamed: they run once,
// and PgBouncer may not know prepared ones.
const unprepared = pgx.QueryExecModeExec

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// readState reads catalogs rather than to_regclass, which fails without USAGE on
// the schema.
func readState(ctx context.Context, db querier, n names) (state, error) {
	var s state
	var table bool
	err := db.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1::text),
       EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
               WHERE s.nspname = $1::text AND c.relname = $2::text)`,
		unprepared, n.schema, n.prefix+"migrations").Scan(&s.schema, &table)
	if err != nil || !table {
		return s, err
	}
	rows, err := db.Query(ctx, "SELECT version FROM "+n.migrations(), unprepared)
	if err != nil {
		return s, err
	}
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int])
	s.versions = make(map[int]bool, len(versions))
	for _, v := range versions {
		s.versions[v] = true
	}
	return s, err
}

// ErrSchema is what [Store.CheckSchema] returns when the tables are not what this
// version of the package needs.
var ErrSchema = errors.New("pgstore: the schema is not ready")

// needed are the privileges on the grants' table that the store's statements take.
var needed = []struct{ privilege, column string }{
	{"SELECT", ""}, {"INSERT", ""}, {"UPDATE", "consumed_at"}, {"UPDATE", "attempt"},
}

// CheckSchema is for the host's start-up and readiness: an error of kind
// [ErrSchema] names each migration, table or privilege that the store lacks and
// what to do. Any other error means that it could not be found out. It changes nothing.
//
// A schema that is newer than this package is fine: migrations only ever add what
// the release before can ignore, so that nodes can be replaced one by one.
func (s *Store) CheckSchema(ctx context.Context) error {
	n := s.names
	const op = "pgstore: check schema %q: %w"
	migrations, err := migrationsFor(n)
	if err != nil {
		return err
	}
	missing, err := s.missing(ctx, n, migrations)
	if err != nil {
		return fmt.Errorf(op, n.schema, err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", ErrSchema, strings.Join(missing, "; "))
	}
	return nil
}

func (s *Store) missing(ctx context.Context, n names, migrations []migration) ([]string, error) {
	var usage, readable bool
	err := s.db.QueryRow(ctx, `
SELECT coalesce(pg_catalog.has_schema_privilege(s.oid, 'USAGE'), true),
       coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true)
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname = $1::text
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname = $2::text`,
		unprepared, n.schema, n.prefix+"migrations").Scan(&usage, &readable)
	if err != nil {
		return nil, err
	}
	if !usage {
		return []string{"the role lacks: GRANT USAGE ON SCHEMA " + pgx.Identifier{n.schema}.Sanitize()}, nil
	}
	if !readable {
		return []string{"the role lacks: GRANT SELECT ON " + n.migrations()}, nil
	}
	state, err := readState(ctx, s.db, n)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, m := range migrations {
		if !state.versions[m.version] {
			missing = append(missing, m.name)
		}
	}
	if len(missing) > 0 {
		return []string{"migrations have not run: " + strings.Join(missing, ", ") +
			": call pgstore.Migrate, or run the files of pgstore.Migrations"}, nil
	}
	for _, need := range needed {
		var has *bool
		err := s.db.QueryRow(ctx, `
SELECT CASE WHEN $4::text = '' THEN pg_catalog.has_table_privilege(c.oid, $3::text)
            WHEN a.attname IS NOT NULL THEN pg_catalog.has_column_privilege(c.oid, a.attnum, $3::text)
       END
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname = $1::text
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname = $2::text
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = $4::text AND NOT a.attisdropped`,
			unprepared, n.schema, n.prefix+"grants", need.privilege, need.column).Scan(&has)
		if err != nil {
			return nil, err
		}
		what := need.privilege
		if need.column != "" {
			what += " (" + need.column + ")"
		}
		switch {
		case has == nil:
			missing = append(missing, cmp.Or(need.column, "the table")+" of "+n.grants()+" does not exist, though its migration ran: restore it")
		case !*has:
			missing = append(missing, "the role lacks: GRANT "+what+" ON "+n.grants())
		}
	}
	return missing, nil
}
