package pgstore_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// documentedGrants reads the GRANT statements out of the package's documentation.
func documentedGrants(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var grants []string
	for line := range strings.Lines(string(text)) {
		if statement, ok := strings.CutPrefix(strings.TrimSpace(line), "//\tGRANT "); ok {
			grants = append(grants, "GRANT "+statement)
		}
	}
	if len(grants) < 4 {
		t.Fatalf("the documentation has the statements %v", grants)
	}
	return grants
}

func TestRolesOfTheDocumentationSuffice(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	admin := pgtest.PoolAt(t, database)
	role := func() (string, *pgxpool.Pool) {
		name, url := pgtest.Role(t, database)
		return pgx.Identifier{name}.Sanitize(), pgtest.PoolAt(t, url)
	}
	migratorName, migrator := role()
	serverName, server := role()
	sweeperName, sweeper := role()

	// The migrator owns the tables, the administrator the schema.
	exec(t, admin, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
	exec(t, admin, "GRANT CREATE, USAGE ON SCHEMA public TO "+migratorName)
	migrate(t, migrator, pgstore.Config{})
	names := strings.NewReplacer("consent_server", serverName, "consent_sweeper", sweeperName)
	for _, grant := range documentedGrants(t) {
		owner := migrator
		if strings.Contains(grant, "ON SCHEMA") {
			owner = admin
		}
		exec(t, owner, names.Replace(grant))
	}

	g, expired := newGrant(), newGrant()
	t.Run("the server's", func(t *testing.T) {
		ctx := testContext(t)
		store := newStore(t, server, pgstore.Config{})
		if err := store.CheckSchema(ctx); err != nil {
			t.Error(err)
		}
		create(t, store, g)
		create(t, store, g)
		p := present(g)
		for range 2 {
			if _, err := store.ConsumeConsentGrant(ctx, p); err != nil {
				t.Error(err)
			}
		}
		if _, err := store.ConsumeConsentGrant(ctx, present(g)); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
			t.Error(err)
		}
		c := newConsent()
		response := approval(c)
		for range 2 {
			record(t, store, response)
			record(t, store, silent(c))
		}
		if err := store.CheckResponse(ctx, response.RequestID); err != nil {
			t.Error(err)
		}
		if found, err := store.FindConsents(ctx, c.Issuer, c.Subject, c.ClientID); len(found) != 1 || err != nil {
			t.Error(found, err)
		}
		create(t, store, grantOf(another(c)))
		if ended, ids := revoke(t, store, of(c)); ended != 1 || len(ids) != 3 {
			t.Errorf("ended %d with %v", ended, ids)
		}
		d := newDecision()
		for range 2 {
			appendDecision(t, store, d)
		}
		if list := decisions(t, store, d.Issuer); len(list) != 1 {
			t.Errorf("%d records", len(list))
		}
		if n, err := store.EraseDecisions(ctx, d.Issuer, d.Subject); n != 0 || state(err) != "42501" {
			t.Errorf("the server's role erased %d records, %v", n, err)
		}
		for _, sql := range []string{"UPDATE public.consent_decisions SET outcome = 'denied'", "DELETE FROM public.consent_decisions"} {
			if _, err := server.Exec(ctx, sql); state(err) != "42501" {
				t.Errorf("%s: %v", sql, err)
			}
		}
	})
	t.Run("the server's, of consent requests", func(t *testing.T) {
		store := newStore(t, server, pgstore.Config{})
		for _, use := range []bool{true, false} {
			r, a := accepted(t, store)
			if use {
				if err := store.UseConsentRequest(testContext(t), r.ID, a.Verifier, r.Browser); err != nil {
					t.Error(err)
				}
			}
		}
		if n, err := store.RevokeConsentRequests(testContext(t), fositeconsent.Selection{Subject: "alice"}); n != 1 || err != nil {
			t.Errorf("revoked %d, %v", n, err)
		}
	})
	t.Run("the sweeper's", func(t *testing.T) {
		clock := newClock()
		clock.advance(-100 * minRetention)
		then := newStore(t, server, pgstore.Config{TestClock: clock.now})
		create(t, then, expired)
		accepted(t, then)
		d := newDecision()
		d.ID = idAt(clock.now())
		appendDecision(t, then, d)
		s, err := pgstore.NewSweeper(sweeper, pgstore.SweeperConfig{DecisionRetention: minRetention})
		if err != nil {
			t.Fatal(err)
		}
		if deleted, err := s.Sweep(testContext(t)); deleted != 3 || err != nil {
			t.Errorf("deleted %d, %v", deleted, err)
		}
		if _, err := sweeper.Exec(testContext(t), "UPDATE public.consent_decisions SET outcome = 'denied'"); state(err) != "42501" {
			t.Errorf("the sweeper's role changed a record: %v", err)
		}
	})

	const table = " public.consent_grants "
	for name, c := range map[string]struct {
		pool      *pgxpool.Pool
		forbidden []string
	}{
		"the server's may do nothing else": {server, []string{
			"DELETE FROM" + table, "TRUNCATE" + table, "DROP TABLE" + table,
			"UPDATE" + table + "SET expires_at = expires_at + interval '1 day'",
			"UPDATE" + table + "SET denied = false", "UPDATE" + table + "SET binding = binding",
			"UPDATE" + table + "SET secret_hash = secret_hash", "UPDATE" + table + "SET scopes = scopes",
			"UPDATE" + table + "SET subject = subject", "UPDATE" + table + "SET id = id",
			"DELETE FROM public.consent_consents", "UPDATE public.consent_consents SET scopes = scopes", "UPDATE public.consent_consents SET expires_at = NULL",
			"UPDATE public.consent_consents SET remembered = true", "UPDATE public.consent_consents SET id = id",
			"DELETE FROM public.consent_requests", "UPDATE public.consent_requests SET expires_at = expires_at", "UPDATE public.consent_requests SET document = document",
			"UPDATE public.consent_requests SET browser_hash = browser_hash", "UPDATE public.consent_requests SET challenge_hash = challenge_hash", "UPDATE public.consent_requests SET subject = subject",
			"DELETE FROM public.consent_responses", "UPDATE public.consent_responses SET request_id = ''",
			"DELETE FROM public.consent_migrations", "INSERT INTO public.consent_migrations VALUES (2, '')",
			"CREATE TABLE public.t ()",
		}},
		"the sweeper's may do nothing else": {sweeper, []string{
			"TABLE public.consent_consents", "TABLE public.consent_responses", "SELECT document FROM public.consent_requests", "UPDATE public.consent_requests SET answer = answer",
			"SELECT secret_hash FROM" + table, "SELECT data FROM" + table, "SELECT subject FROM" + table,
			"INSERT INTO" + table + "SELECT * FROM" + table, "TRUNCATE" + table,
			"UPDATE" + table + "SET consumed_at = NULL", "UPDATE" + table + "SET expires_at = expires_at",
			"UPDATE" + table + "SET consumed_at = NULL, attempt = NULL",
			"SELECT FROM public.consent_migrations", "CREATE TABLE public.t ()",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, statement := range c.forbidden {
				_, err := c.pool.Exec(testContext(t), statement)
				var pgErr *pgconn.PgError
				if !errors.As(err, &pgErr) || pgErr.Code != "42501" { // insufficient_privilege
					t.Errorf("%s: %v", statement, err)
				}
			}
		})
	}

	t.Run("a migrator who may create schemas makes one of its own", func(t *testing.T) {
		var name string
		if err := admin.QueryRow(testContext(t), "SELECT quote_ident(current_database())").Scan(&name); err != nil {
			t.Fatal(err)
		}
		exec(t, admin, "GRANT CREATE ON DATABASE "+name+" TO "+migratorName)
		migrate(t, migrator, pgstore.Config{Schema: "own"})
	})
}
