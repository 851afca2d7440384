package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func exec(t testing.TB, db pgstore.DB, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(testContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// objects lists the relations and constraints outside of Postgres's own schemas.
func objects(t testing.TB, db pgstore.DB) []string {
	t.Helper()
	rows, err := db.Query(testContext(t), `
		SELECT n.nspname || '.' || c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
		WHERE n.nspname !~ '^(pg_|information_schema)'
		UNION ALL
		SELECT n.nspname || ' ' || conname FROM pg_constraint AS c JOIN pg_namespace AS n ON n.oid = c.connamespace
		WHERE n.nspname !~ '^(pg_|information_schema)'
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestMigrateFromManyNodesAtOnce(t *testing.T) {
	t.Parallel()
	// At the strictest default, a node would read what was there before it waited.
	for _, level := range []string{"read committed", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t, withConns(8), func(c *pgxpool.Config) {
				c.ConnConfig.RuntimeParams["default_transaction_isolation"] = level
			})
			config := pgstore.Config{Schema: "consent"}
			var nodes sync.WaitGroup
			for range 8 {
				nodes.Go(func() {
					if err := pgstore.Migrate(testContext(t), pool, config); err != nil {
						t.Error(err)
					}
				})
			}
			nodes.Wait()
			if err := newStore(t, pool, config).CheckSchema(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every node waits for the one that holds the lock, whoever runs the files.
func TestMigrationsWaitForTheAdvisoryLock(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"Migrate", "the files"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t)
			h := hold(t, pool)
			h.exec("SELECT pg_advisory_xact_lock(7377854308561284724)")
			done := make(chan error, 1)
			go func() {
				if by == "Migrate" {
					done <- pgstore.Migrate(testContext(t), pool, pgstore.Config{})
				} else {
					done <- runFiles(testContext(t), pool, pgstore.Config{})
				}
			}()
			waiting(t, pool, 1)
			h.end(rollback)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMigrateTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	before := objects(t, pool)
	var stamp string
	read := func() (s string) {
		if err := pool.QueryRow(testContext(t), "SELECT string_agg(m::text, ' ') FROM public.consent_migrations AS m").Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	stamp = read()
	migrate(t, pool, pgstore.Config{})
	if after := objects(t, pool); fmt.Sprint(after) != fmt.Sprint(before) || read() != stamp {
		t.Errorf("before %v, after %v", before, after)
	}
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	// Something in the way of the last object that the migration makes.
	exec(t, pool, "CREATE SCHEMA consent")
	exec(t, pool, "CREATE SEQUENCE consent.consent_grants_expires_at_idx")
	before := objects(t, pool)
	config := pgstore.Config{Schema: "consent"}
	err := pgstore.Migrate(testContext(t), pool, config)
	if err == nil || !strings.Contains(err.Error(), "0001_consent_grants") || !strings.Contains(err.Error(), "consent_grants_expires_at_idx") {
		t.Errorf("got %v", err)
	}
	if after := objects(t, pool); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("left behind: %v", after)
	}
	exec(t, pool, "DROP SEQUENCE consent.consent_grants_expires_at_idx")
	migrate(t, pool, config)
}

func TestTwoSchemasAndPrefixesLiveSideBySide(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	g := newGrant()
	for _, config := range []pgstore.Config{
		{}, {Schema: "a"}, {Schema: "a", TablePrefix: "x_"}, {Schema: "consent_", TablePrefix: "public"},
		{Schema: strings.Repeat("s", 63), TablePrefix: strings.Repeat("p", 42)},
	} {
		migrate(t, pool, config)
		store := newStore(t, pool, config)
		if err := store.CheckSchema(testContext(t)); err != nil {
			t.Error(err)
		}
		create(t, store, g) // the same grant everywhere, and it is new each time
		if _, err := store.ConsumeConsentGrant(testContext(t), present(g)); err != nil {
			t.Error(err)
		}
	}
}

func runFiles(ctx context.Context, pool *pgxpool.Pool, config pgstore.Config) error {
	files, err := pgstore.Migrations(config)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		return fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(files, path)
			if err != nil {
				return err
			}
			_, err = tx.Exec(ctx, string(text))
			return err
		})
	})
}

func TestMigrationsAsFiles(t *testing.T) {
	t.Parallel()

	t.Run("are a file system", func(t *testing.T) {
		t.Parallel()
		files, err := pgstore.Migrations(pgstore.Config{Schema: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(files, "0001_consent_grants.sql"); err != nil {
			t.Error(err)
		}
	})

	t.Run("are those in the source for the zero Config", func(t *testing.T) {
		t.Parallel()
		files, err := pgstore.Migrations(pgstore.Config{})
		if err != nil {
			t.Fatal(err)
		}
		source := os.DirFS("migrations")
		names, err := fs.Glob(source, "*")
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			want, err := fs.ReadFile(source, name)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := fs.ReadFile(files, name); err != nil || string(got) != string(want) {
				t.Errorf("%s differs: %v", name, err)
			}
			if !strings.HasPrefix(string(want), "-- +goose Up\n") {
				t.Errorf("%s does not begin with goose's comment", name)
			}
			if strings.Contains(string(want), "{{") {
				t.Errorf("%s has what tern takes for a template", name)
			}
		}
	})

	t.Run("make what Migrate makes, and record it", func(t *testing.T) {
		t.Parallel()
		config := pgstore.Config{Schema: "other"}
		byFiles, byMigrate := pgtest.Pool(t), pgtest.Pool(t)
		exec(t, byFiles, "CREATE SCHEMA other")
		if err := runFiles(testContext(t), byFiles, config); err != nil {
			t.Fatal(err)
		}
		migrate(t, byMigrate, config)
		if a, b := objects(t, byFiles), objects(t, byMigrate); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%v\n%v", a, b)
		}
		if err := newStore(t, byFiles, config).CheckSchema(testContext(t)); err != nil {
			t.Error(err)
		}
		migrate(t, byFiles, config)
	})
}

func TestCheckSchema(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := pgtest.Database(t)
	admin := pgtest.PoolAt(t, database)
	role, roleURL := pgtest.Role(t, database)
	role = pgx.Identifier{role}.Sanitize()
	store := newStore(t, pgtest.PoolAt(t, roleURL), pgstore.Config{})
	want := func(parts ...string) {
		t.Helper()
		err := store.CheckSchema(ctx)
		if len(parts) == 0 && err != nil {
			t.Errorf("got %v", err)
		}
		if len(parts) > 0 && !errors.Is(err, pgstore.ErrSchema) {
			t.Errorf("got %v", err)
		}
		for _, part := range parts {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("got %v, without %s", err, part)
			}
		}
	}
	exec(t, admin, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
	want("GRANT USAGE ON SCHEMA")
	exec(t, admin, "GRANT USAGE ON SCHEMA public TO "+role)
	want("0001_consent_grants", "pgstore.Migrate")
	migrate(t, admin, pgstore.Config{})
	want(`GRANT SELECT ON "public"."consent_migrations"`)
	exec(t, admin, "GRANT SELECT ON public.consent_migrations TO "+role)
	want("GRANT SELECT ON", "GRANT INSERT ON", "GRANT UPDATE (consumed_at) ON", "GRANT UPDATE (attempt) ON", `"public"."consent_grants"`)
	exec(t, admin, "GRANT SELECT, INSERT, UPDATE (attempt, revoked_at) ON public.consent_grants TO "+role)
	want("GRANT UPDATE (consumed_at) ON")
	exec(t, admin, "GRANT UPDATE (consumed_at) ON public.consent_grants TO "+role)
	for _, missing := range []string{"SELECT", "INSERT", "UPDATE (revoked_at)"} {
		want("GRANT " + missing + ` ON "public"."consent_consents"`)
		exec(t, admin, "GRANT "+missing+" ON public.consent_consents TO "+role)
	}
	for _, missing := range []string{"SELECT", "INSERT"} {
		want("GRANT " + missing + ` ON "public"."consent_responses"`)
		exec(t, admin, "GRANT "+missing+" ON public.consent_responses TO "+role)
	}
	for _, missing := range []string{"SELECT", "INSERT"} {
		want("GRANT " + missing + ` ON "public"."consent_decisions"`)
		exec(t, admin, "GRANT "+missing+" ON public.consent_decisions TO "+role)
	}
	for _, missing := range []string{"SELECT", "INSERT", "UPDATE (answered_at)", "UPDATE (accepted)", "UPDATE (answer_digest)", "UPDATE (verifier_hash)", "UPDATE (answer)", "UPDATE (used_at)", "UPDATE (revoked_at)"} {
		want("GRANT " + missing + ` ON "public"."consent_requests"`)
		exec(t, admin, "GRANT "+missing+" ON public.consent_requests TO "+role)
	}
	want()
	exec(t, admin, "INSERT INTO public.consent_migrations VALUES (1000, 'of a later release')")
	want()
	migrate(t, admin, pgstore.Config{})
	want()
	exec(t, admin, "ALTER TABLE public.consent_grants RENAME COLUMN attempt TO gone")
	want("attempt", "does not exist")
	exec(t, admin, "DROP TABLE public.consent_grants")
	want("the table", "does not exist")

	err := newStore(t, unreachable(t), pgstore.Config{}).CheckSchema(ctx)
	if err == nil || errors.Is(err, pgstore.ErrSchema) {
		t.Errorf("a server that cannot be reached: %v", err)
	}
	err = newStore(t, admin, pgstore.Config{Schema: "nowhere"}).CheckSchema(ctx)
	if !errors.Is(err, pgstore.ErrSchema) || !strings.Contains(err.Error(), "0001_consent_grants") {
		t.Errorf("a schema that does not exist: %v", err)
	}
}

func TestUnusableConfigIsRefused(t *testing.T) {
	t.Parallel()
	pool := unreachable(t)
	for name, config := range map[string]pgstore.Config{
		"a quote in the schema":         {Schema: `a"b`},
		"a semicolon in the prefix":     {TablePrefix: "a;"},
		"a dot in the schema":           {Schema: "a.b"},
		"a NUL byte":                    {Schema: "a\x00b"},
		"invalid UTF-8":                 {TablePrefix: "a\xff"},
		"a schema that would be cut":    {Schema: strings.Repeat("s", 64)},
		"a prefix that would be cut":    {TablePrefix: strings.Repeat("p", 43)},
		"a template of another program": {TablePrefix: "{{.x}}"},
	} {
		if _, err := pgstore.New(pool, config); err == nil {
			t.Errorf("%s: New", name)
		}
		if err := pgstore.Migrate(testContext(t), pool, config); err == nil {
			t.Errorf("%s: Migrate", name)
		}
		if _, err := pgstore.Migrations(config); err == nil {
			t.Errorf("%s: Migrations", name)
		}
		if _, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{Tables: config}); err == nil {
			t.Errorf("%s: NewSweeper", name)
		}
	}
	var none *pgxpool.Pool
	for _, db := range []pgstore.DB{nil, none} {
		if _, err := pgstore.New(db, pgstore.Config{}); err == nil {
			t.Error("New without a database")
		}
		if _, err := pgstore.NewSweeper(db, pgstore.SweeperConfig{}); err == nil {
			t.Error("NewSweeper without a database")
		}
	}
	if err := pgstore.Migrate(testContext(t), none, pgstore.Config{}); err == nil {
		t.Error("Migrate without a database")
	}
}

// Whatever name is accepted, the rendered files differ from those of the zero
// Config in their quoted names only, and no name is long enough to be cut.
func FuzzConfigNames(f *testing.F) {
	f.Add("public", "consent_")
	f.Add(`a"; DROP SCHEMA public; --`, "x")
	f.Add("My-Schema", "Ünïcode$1_")
	f.Add("consent_", "public")
	f.Add(strings.Repeat("é", 31), strings.Repeat("p", 42))
	f.Fuzz(func(t *testing.T, schema, prefix string) {
		files, err := pgstore.Migrations(pgstore.Config{Schema: schema, TablePrefix: prefix})
		if err != nil {
			return
		}
		if schema == "" {
			schema = "public"
		}
		if prefix == "" {
			prefix = "consent_"
		}
		got, err := fs.ReadFile(files, "0001_consent_grants.sql")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile("migrations/0001_consent_grants.sql")
		if err != nil {
			t.Fatal(err)
		}
		g, w := strings.Split(string(got), `"`), strings.Split(string(want), `"`)
		if len(g) != len(w) {
			t.Fatalf("%d quotes, want %d", len(g)-1, len(w)-1)
		}
		for i := range g {
			part := w[i]
			if i%2 == 1 { // between quotes
				if part == "public" {
					part = schema
				} else {
					part = strings.Replace(part, "consent_", prefix, 1)
				}
				if len(part) > 63 || strings.ContainsAny(part, "\";\\'\n\x00") {
					t.Errorf("the name %q", part)
				}
			}
			if g[i] != part {
				t.Errorf("got %q, want %q", g[i], part)
			}
		}
	})
}
