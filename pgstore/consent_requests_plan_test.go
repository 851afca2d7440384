package pgstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func TestEveryStatementOfConsentRequestsIsOneAndGoesByAnIndex(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	migrate(t, conn, pgstore.Config{})
	// Many that were abandoned, and are not swept yet.
	exec(t, conn, `INSERT INTO public.consent_requests (id, challenge_hash, browser_hash, subject, client_id, login_session, document, created_at, expires_at)
		SELECT (lpad(to_hex(i), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid, sha256(i::text::bytea), sha256('b'), 'subject ' || i % 5000, 'photo-printer', '', '{}',
		       statement_timestamp() - i * interval '4 seconds', statement_timestamp() - i * interval '4 seconds' + interval '30 minutes'
		FROM generate_series(1, 20000) AS i`)
	exec(t, conn, "VACUUM (ANALYZE) public.consent_requests")

	var r recorder
	store := newStore(t, &r, pgstore.Config{})
	sweeper, err := pgstore.NewSweeper(&r, pgstore.SweeperConfig{})
	if err != nil {
		t.Fatal(err)
	}
	q, a := newRequest(), &consentapi.Answer{Accepted: true, Document: []byte("{}"), Digest: consentapi.Hash{1}, Verifier: consentapi.Hash{1}}
	const id = `'00000000-0001-7000-8000-000000000001'`
	const hash = `'\x0000000000000000000000000000000000000000000000000000000000000001'`
	const byKey = "Index Scan using consent_requests_pkey on consent_requests"
	for _, c := range []struct {
		name, args string
		call       func() error
		want       string
	}{
		{"create", id + "," + hash + "," + hash + `, 's', 'c', '', '{}', 1000000, NULL`, func() error { return store.CreateConsentRequest(ctx, q) }, "Conflict Arbiter Indexes: consent_requests_pkey"},
		{"find", id + "," + hash + ", NULL", func() error { _, err := store.FindConsentRequest(ctx, q.ID, q.Challenge); return err }, byKey},
		{"answer", id + "," + hash + ", true, " + hash + "," + hash + ", '{}', NULL", func() error { _, err := store.AnswerConsentRequest(ctx, q.ID, q.Challenge, a); return err }, byKey},
		{"find answered", id + "," + hash + "," + hash + ", NULL", func() error {
			_, err := store.FindAnsweredConsentRequest(ctx, q.ID, a.Verifier, q.Browser)
			return err
		}, byKey},
		{"use", id + "," + hash + "," + hash + ", NULL", func() error { return store.UseConsentRequest(ctx, q.ID, a.Verifier, q.Browser) }, byKey},
		{"revoke", "'subject 1', NULL, NULL, NULL, NULL", func() error {
			_, err := store.RevokeConsentRequests(ctx, fositeconsent.Selection{Subject: "subject 1"})
			return err
		}, "Index Scan using consent_requests_subject_idx"},
		{"sweep", "86400000000, 1000, NULL, NULL", func() error { _, err := sweeper.Sweep(ctx); return err }, "Index Scan using consent_requests_expiry_idx"},
	} {
		r.statements = nil
		if err := c.call(); !errors.Is(err, errRecorded) {
			t.Fatalf("%s: %v", c.name, err)
		}
		sql := r.statements[len(r.statements)-1]
		if len(r.statements) != 1 && c.name != "sweep" { // which is of the grants first
			t.Errorf("%s: %d statements", c.name, len(r.statements))
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			exec(t, conn, "SET plan_cache_mode = "+mode)
			exec(t, conn, "PREPARE statement AS "+sql)
			rows, err := conn.Query(ctx, "EXPLAIN EXECUTE statement ("+c.args+")")
			if err != nil {
				t.Fatal(c.name, err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(c.name, err)
			}
			exec(t, conn, "DEALLOCATE statement")
			plan := strings.Join(lines, "\n")
			if !strings.Contains(plan, c.want) || strings.Contains(plan, "Seq Scan") {
				t.Errorf("%s with %s: no %q in\n%s", c.name, mode, c.want, plan)
			}
		}
	}
}
