package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// recorder notes the statements that it is given and runs none.
type recorder struct{ statements []string }

var errRecorded = errors.New("recorded")

func (r *recorder) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	r.statements = append(r.statements, sql)
	return pgconn.CommandTag{}, errRecorded
}

func (r *recorder) Query(context.Context, string, ...any) (pgx.Rows, error) { panic("not used") }

func (r *recorder) QueryRow(_ context.Context, sql string, _ ...any) pgx.Row {
	r.statements = append(r.statements, sql)
	return recordedRow{}
}

type recordedRow struct{}

func (recordedRow) Scan(...any) error { return errRecorded }

// statements returns the SQL that the package sends, each with arguments for an
// EXECUTE that finds something.
func statements(t testing.TB) (create, consume, sweep string) {
	t.Helper()
	var r recorder
	store := newStore(t, &r, pgstore.Config{})
	sweeper, err := pgstore.NewSweeper(&r, pgstore.SweeperConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		store.CreateConsentGrant(testContext(t), newGrant()),
		func() error {
			_, err := store.ConsumeConsentGrant(testContext(t), present(newGrant()))
			return err
		}(),
		func() error {
			_, err := sweeper.Sweep(testContext(t))
			return err
		}(),
	} {
		if !errors.Is(err, errRecorded) {
			t.Fatal(err)
		}
	}
	if len(r.statements) != 4 { // the last is the sweep of consent requests
		t.Fatalf("%d statements for three calls", len(r.statements))
	}
	return r.statements[0], r.statements[1], r.statements[2]
}

// fillTable stores many grants that nobody looks at, some of them past retention.
func fillTable(t testing.TB, db pgstore.DB, rows int) {
	t.Helper()
	exec(t, db, `INSERT INTO public.consent_grants (id, secret_hash, binding, subject, client_id, scopes, audience, denied, decided_at, expires_at)
		SELECT (lpad(to_hex(i), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid, sha256(i::text::bytea), sha256('b'), 'alice', 'photo-printer',
		       '{openid,photos.read}', '{https://photos.example}', false,
		       statement_timestamp() - i * interval '10 seconds', statement_timestamp() - i * interval '10 seconds' + interval '5 minutes'
		FROM generate_series(1, $1::int) AS i`, rows)
	exec(t, db, "VACUUM (ANALYZE) public.consent_grants")
}

func TestEveryStatementGoesByAnIndex(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	migrate(t, conn, pgstore.Config{})
	fillTable(t, conn, 20_000)
	create, consume, sweep := statements(t)

	const id = `'00000000-0001-7000-8000-000000000001'`
	const hash = `'\x0000000000000000000000000000000000000000000000000000000000000000'`
	for _, c := range []struct {
		name, sql, args string
		want            []string
	}{
		{
			"create", create, id + "," + hash + "," + hash + `, 's', 'c', '{}', '{}', NULL, false, 1000000, NULL, NULL, NULL, NULL`,
			[]string{"Conflict Arbiter Indexes: consent_grants_pkey"},
		},
		{
			"consume", consume, id + "," + hash + "," + hash + "," + id + ", NULL",
			[]string{"Index Scan using consent_grants_pkey on consent_grants", "Index Scan using consent_grants_pkey on consent_grants g"},
		},
		{
			"sweep", sweep, "86400000000, 1000, NULL, NULL",
			[]string{"Index Scan using consent_grants_expires_at_idx", "Index Scan using consent_grants_pkey"},
		},
	} {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			t.Run(c.name+" with "+mode, func(t *testing.T) {
				exec(t, conn, "SET plan_cache_mode = "+mode)
				exec(t, conn, "PREPARE statement AS "+c.sql)
				defer exec(t, conn, "DEALLOCATE statement")
				rows, err := conn.Query(ctx, "EXPLAIN EXECUTE statement ("+c.args+")")
				if err != nil {
					t.Fatal(err)
				}
				lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
				if err != nil {
					t.Fatal(err)
				}
				plan := strings.Join(lines, "\n")
				for _, want := range c.want {
					if !strings.Contains(plan, want) {
						t.Errorf("no %q in\n%s", want, plan)
					}
				}
				if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Bitmap") {
					t.Errorf("not by the index alone:\n%s", plan)
				}
			})
		}
	}
}

func TestEachCallIsOneStatement(t *testing.T) {
	t.Parallel()
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	db := &counting{DB: migrated(t, config)}
	store := newStore(t, db, config)
	ctx := testContext(t)
	g, again, expired := newGrant(), newGrant(), newGrant()
	again.ID = g.ID
	expired.Lifespan = fositeconsent.MinGrantLifespan
	mint := func(g *fositeconsent.Grant) func() error {
		return func() error { return store.CreateConsentGrant(ctx, g) }
	}
	spend := func(p fositeconsent.Presentation) func() error {
		return func() error {
			_, err := store.ConsumeConsentGrant(ctx, p)
			return err
		}
	}
	winner, mismatch := present(g), present(g)
	mismatch.Binding[0] ^= 1
	for i, c := range []struct {
		call func() error
		want error
	}{
		{mint(g), nil},
		{mint(g), nil},
		{mint(again), fositeconsent.ErrAlreadyDecided},
		{mint(expired), nil},
		{spend(present(newGrant())), fositeconsent.ErrGrantNotFound},
		{spend(mismatch), fositeconsent.ErrBindingMismatch},
		{spend(winner), nil},
		{spend(winner), nil},
		{spend(present(g)), fositeconsent.ErrGrantConsumed},
		{func() error { clock.advance(fositeconsent.MinGrantLifespan); return spend(present(expired))() }, fositeconsent.ErrGrantExpired},
	} {
		db.calls = 0
		if err := c.call(); !errors.Is(err, c.want) || db.calls != 1 {
			t.Errorf("call %d: %d statements, got %v, want %v", i, db.calls, err, c.want)
		}
	}
}

// What consume writes must stay on the row's page and out of every index. All
// grants are minted before the first is consumed, and fewer are consumed than the
// pages have room for, so that nothing depends on when Postgres cleans a page up
// (which a long transaction of anybody on the server puts off).
func TestConsumeIsHeapOnly(t *testing.T) {
	t.Parallel()
	const rows, each = 3000, 4
	pool := migrated(t, pgstore.Config{})
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	store := newStore(t, conn, pgstore.Config{})
	grants := make([]*fositeconsent.Grant, rows)
	for i := range grants {
		grants[i] = newGrant()
		if err := store.CreateConsentGrant(ctx, grants[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < rows; i += each {
		if _, err := store.ConsumeConsentGrant(ctx, present(grants[i])); err != nil {
			t.Fatal(err)
		}
	}
	// A session that ends hands in its statistics, on every version.
	if err := conn.Close(ctx); err != nil {
		t.Fatal(err)
	}
	var updates, heapOnly int
	for updates < rows/each {
		err := pool.QueryRow(ctx, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'consent_grants'").Scan(&updates, &heapOnly)
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d updates, %d of them heap-only", updates, heapOnly)
	if heapOnly < updates*99/100 {
		t.Errorf("%d of %d updates are heap-only", heapOnly, updates)
	}
}

// Every invariant that the code keeps, the table keeps too.
func TestTableRefusesWhatMustNotBe(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	valid := map[string]string{
		"id": "'01890000-0000-7000-8000-000000000001'", "secret_hash": "sha256('s')", "binding": "sha256('b')",
		"subject": "'alice'", "client_id": "'c'", "scopes": "'{}'", "audience": "'{}'", "data": "NULL", "denied": "false",
		"decided_at": "'2024-01-01'", "expires_at": "'2024-01-02'", "consumed_at": "NULL", "attempt": "NULL",
		"revoked_at": "NULL",
	}
	insert := func(changes map[string]string) error {
		var columns, values []string
		for column, value := range valid {
			if changed, ok := changes[column]; ok {
				value = changed
			}
			columns, values = append(columns, column), append(values, value)
		}
		ctx := testContext(t)
		_, err := pool.Exec(ctx, fmt.Sprintf("INSERT INTO public.consent_grants (%s) VALUES (%s)",
			strings.Join(columns, ","), strings.Join(values, ",")))
		if err == nil {
			_, err = pool.Exec(ctx, "DELETE FROM public.consent_grants")
		}
		return err
	}
	const someone = "'01890000-0000-7000-8000-000000000002'"
	for _, c := range []struct {
		constraint string
		changes    map[string]string
	}{
		{"", nil},
		{"", map[string]string{"consumed_at": "'2024-01-01 12:00'", "attempt": someone, "data": `'\x00'`}},
		{"id_not_zero", map[string]string{"id": "'00000000-0000-0000-0000-000000000000'"}},
		{"secret_hash_is_sha256", map[string]string{"secret_hash": `'\x00'`}},
		{"binding_is_sha256", map[string]string{"binding": `sha512('b')`}},
		{"subject_not_empty", map[string]string{"subject": "''"}},
		{"client_id_not_empty", map[string]string{"client_id": "''"}},
		{"scopes_without_null", map[string]string{"scopes": "'{a,NULL}'"}},
		{"audience_without_null", map[string]string{"audience": "'{NULL}'"}},
		{"data_null_when_empty", map[string]string{"data": "''"}},
		{"expires_after_decided", map[string]string{"expires_at": "'2024-01-01'"}},
		{"denied_never_consumed", map[string]string{"denied": "true", "consumed_at": "'2024-01-01'", "attempt": someone}},
		{"consumed_before_expiry", map[string]string{"consumed_at": "'2024-01-02'", "attempt": someone}},
		{"consumed_by_an_attempt", map[string]string{"consumed_at": "'2024-01-01'"}},
		{"consumed_by_an_attempt", map[string]string{"attempt": someone}},
		{"", map[string]string{"revoked_at": "'2024-01-01 12:00'"}},
		{"", map[string]string{"revoked_at": "'2024-01-01 12:00'", "consumed_at": "'2024-01-01 12:00'", "attempt": someone}},
		{"revoked_never_consumed", map[string]string{"revoked_at": "'2024-01-01 12:00'", "consumed_at": "'2024-01-01 12:01'", "attempt": someone}},
	} {
		err := insert(c.changes)
		var pgErr *pgconn.PgError
		switch {
		case c.constraint == "" && err != nil:
			t.Errorf("%v: %v", c.changes, err)
		case c.constraint != "" && (!errors.As(err, &pgErr) || pgErr.ConstraintName != c.constraint):
			t.Errorf("%v: got %v, want a violation of %s", c.changes, err, c.constraint)
		}
	}
	var checks int
	if err := pool.QueryRow(testContext(t), "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = 'public.consent_grants'::regclass").Scan(&checks); err != nil {
		t.Fatal(err)
	}
	if checks != 13 {
		t.Errorf("%d CHECK constraints, of which 13 are tested here", checks)
	}
	var without []string
	err := pool.QueryRow(testContext(t), `SELECT coalesce(array_agg(attrelid::regclass || '.' || attname), '{}') FROM pg_attribute
		WHERE attrelid = ANY ('{public.consent_grants,public.consent_consents,public.consent_responses}'::regclass[])
		  AND attnum > 0 AND col_description(attrelid, attnum) IS NULL`).Scan(&without)
	if err != nil || len(without) > 0 {
		t.Errorf("columns without a comment: %v, %v", without, err)
	}
}

func TestIncompleteGrantIsNotSent(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fositeconsent.Grant){
		"zero ID":                       func(g *fositeconsent.Grant) { g.ID = fositeconsent.ID{} },
		"zero SecretHash":               func(g *fositeconsent.Grant) { g.SecretHash = fositeconsent.SecretHash{} },
		"zero Binding":                  func(g *fositeconsent.Grant) { g.Binding = fositeconsent.Digest{} },
		"empty Subject":                 func(g *fositeconsent.Grant) { g.Subject = "" },
		"empty ClientID":                func(g *fositeconsent.Grant) { g.ClientID = "" },
		"short Lifespan":                func(g *fositeconsent.Grant) { g.Lifespan = fositeconsent.MinGrantLifespan - 1 },
		"a NUL byte in the Subject":     func(g *fositeconsent.Grant) { g.Subject = "a\x00b" },
		"invalid UTF-8 in the ClientID": func(g *fositeconsent.Grant) { g.ClientID = "a\xff" },
		"a NUL byte in a scope":         func(g *fositeconsent.Grant) { g.Scopes = []string{"a", "\x00"} },
		"invalid UTF-8 in the audience": func(g *fositeconsent.Grant) { g.Audience = []string{"\xc3"} },
	} {
		var r recorder
		g := newGrant()
		change(g)
		if err := newStore(t, &r, pgstore.Config{}).CreateConsentGrant(testContext(t), g); err == nil || isReason(err) || len(r.statements) != 0 {
			t.Errorf("%s: %v, %d statements", name, err, len(r.statements))
		}
	}
	var r recorder
	p := present(newGrant())
	p.Attempt = fositeconsent.Attempt{}
	if _, err := newStore(t, &r, pgstore.Config{}).ConsumeConsentGrant(testContext(t), p); err == nil || isReason(err) || len(r.statements) != 0 {
		t.Errorf("zero Attempt: %v, %d statements", err, len(r.statements))
	}
	if err := newStore(t, &r, pgstore.Config{}).CreateConsentGrant(testContext(t), nil); err == nil {
		t.Error("nil grant")
	}
}
