package schema

import (
	"cmp"
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// State is what the catalogs and the table of versions say.
type State struct {
	Schema   bool // whether it exists
	Versions map[int]bool
}

// These statements are sent unnamed: they run once,
// and PgBouncer may not know prepared ones.
const unprepared = pgx.QueryExecModeExec

// Querier is what is asked: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ReadState reads catalogs rather than to_regclass, which fails without USAGE on
// the schema.
func ReadState(ctx context.Context, db Querier, n Names) (State, error) {
	var s State
	var table bool
	err := db.QueryRow(ctx, `
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1::text),
       EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS s ON s.oid = c.relnamespace
               WHERE s.nspname = $1::text AND c.relname = $2::text)`,
		unprepared, n.Schema, n.Prefix+"migrations").Scan(&s.Schema, &table)
	if err != nil || !table {
		return s, err
	}
	rows, err := db.Query(ctx, "SELECT version FROM "+n.Table("migrations"), unprepared)
	if err != nil {
		return s, err
	}
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int])
	s.Versions = make(map[int]bool, len(versions))
	for _, v := range versions {
		s.Versions[v] = true
	}
	return s, err
}

// Privilege is one that is needed on a table or, if a column is named, on that.
type Privilege struct{ Table, Name, Column string }

// Missing names each migration, table and privilege that is not there. The
// migrations are named by their files, in order, without .sql.
func Missing(ctx context.Context, db Querier, n Names, migrations []string, needed []Privilege) ([]string, error) {
	var usage, readable bool
	err := db.QueryRow(ctx, `
SELECT coalesce(pg_catalog.has_schema_privilege(s.oid, 'USAGE'), true),
       coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true)
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname = $1::text
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname = $2::text`,
		unprepared, n.Schema, n.Prefix+"migrations").Scan(&usage, &readable)
	if err != nil {
		return nil, err
	}
	if !usage {
		return []string{"the role lacks: GRANT USAGE ON SCHEMA " + pgx.Identifier{n.Schema}.Sanitize()}, nil
	}
	if !readable {
		return []string{"the role lacks: GRANT SELECT ON " + n.Table("migrations")}, nil
	}
	state, err := ReadState(ctx, db, n)
	if err != nil {
		return nil, err
	}
	var missing []string
	for i, name := range migrations {
		if !state.Versions[i+1] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return []string{"migrations have not run: " + strings.Join(missing, ", ") +
			": call pgstore.Migrate, or run the files of pgstore.Migrations"}, nil
	}
	for _, need := range needed {
		var has *bool
		err := db.QueryRow(ctx, `
SELECT CASE WHEN $4::text = '' THEN pg_catalog.has_table_privilege(c.oid, $3::text)
            WHEN a.attname IS NOT NULL THEN pg_catalog.has_column_privilege(c.oid, a.attnum, $3::text)
       END
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname = $1::text
LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname = $2::text
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = $4::text AND NOT a.attisdropped`,
			unprepared, n.Schema, n.Prefix+need.Table, need.Name, need.Column).Scan(&has)
		if err != nil {
			return nil, err
		}
		what := need.Name
		if need.Column != "" {
			what += " (" + need.Column + ")"
		}
		switch {
		case has == nil:
			missing = append(missing, cmp.Or(need.Column, "the table")+" of "+n.Table(need.Table)+" does not exist, though its migration ran: restore it")
		case !*has:
			missing = append(missing, "the role lacks: GRANT "+what+" ON "+n.Table(need.Table))
		}
	}
	return missing, nil
}
