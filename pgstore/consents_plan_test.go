package pgstore_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// sent is a statement with its parameters.
type sent struct {
	sql  string
	args []any
}

// noting notes what a pool sends.
type noting struct {
	mu    sync.Mutex
	trips int
	sent  []sent
}

func (n *noting) note(trip bool, sql string, args []any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if trip {
		n.trips++
	}
	if sql != "" {
		n.sent = append(n.sent, sent{sql, args})
	}
}

func (n *noting) reset() { n.trips, n.sent = 0, nil }

func (n *noting) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	n.note(true, d.SQL, d.Args)
	return ctx
}
func (n *noting) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (n *noting) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	n.note(true, "", nil)
	for _, q := range d.Batch.QueuedQueries {
		n.note(false, q.SQL, q.Arguments)
	}
	return ctx
}
func (n *noting) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (n *noting) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// literals are the parameters as SQL has them.
func (s sent) literals(t testing.TB) string {
	t.Helper()
	var all []string
	for _, arg := range s.args {
		switch v := arg.(type) {
		case nil:
			all = append(all, "NULL")
		case *int64:
			all = append(all, "NULL")
			if v != nil {
				all[len(all)-1] = strconv.FormatInt(*v, 10)
			}
		case *pgtype.UUID:
			all = append(all, "NULL")
		case *string:
			all = append(all, "NULL")
		case time.Time:
			all = append(all, "'"+v.Format(time.RFC3339Nano)+"'")
		case string:
			all = append(all, "'"+v+"'")
		case []string:
			all = append(all, "'{"+strings.Join(v, ",")+"}'")
		case []byte:
			all = append(all, fmt.Sprintf(`'\x%x'`, v))
		case pgtype.UUID:
			all = append(all, "'"+v.String()+"'")
		case int, int64, bool:
			all = append(all, fmt.Sprint(v))
		default:
			t.Fatalf("a parameter of type %T", arg)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

// fillConsents stores many consents of others, half of them for one client.
func fillConsents(t testing.TB, db pgstore.DB, rows int) {
	t.Helper()
	const id = `(lpad(to_hex(i), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid`
	exec(t, db, `INSERT INTO public.consent_consents (id, decided_at, revoked_at, remembered, issuer, subject, client_id, login_session,
	                                                  scopes, audience, response_types, details, shown, request_id)
		SELECT `+id+`, now() - i * interval '10 seconds', CASE WHEN i % 10 = 0 THEN now() END, i % 3 = 0, '`+issuer+`', 'subject ' || i % 20000,
		       CASE WHEN i % 2 = 0 THEN 'popular' ELSE 'client ' || i % 1000 END, '', '{openid}', '{}', '{code}', '{}', sha256('x'), 'request ' || i
		FROM generate_series(1, $1::int) AS i`, rows)
	exec(t, db, `INSERT INTO public.consent_responses SELECT id, decided_at, request_id FROM public.consent_consents`)
	exec(t, db, "ANALYZE public.consent_consents, public.consent_responses")
}

var buffers = regexp.MustCompile(`Buffers: shared hit=(\d+)(?: read=(\d+))?`)

// However many consents there are of others, each statement goes by an index, and reads no more
// than it returns.
func TestEveryStatementOnConsentsGoesByAnIndex(t *testing.T) {
	t.Parallel()
	const most = 600 // pages, for a list of 50; to revoke a hundred writes some more
	var n noting
	pool := migrated(t, pgstore.Config{}, withConns(2), func(c *pgxpool.Config) { c.ConnConfig.Tracer = &n })
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	fillTable(t, pool, 20_000)
	fillConsents(t, pool, 100_000)
	mine := newConsent()
	mine.ClientID = "popular"
	first := record(t, store, approval(mine))
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })

	byClient := fositeconsent.Selection{Issuer: issuer, ClientID: "client 7"}
	popular := fositeconsent.Selection{Issuer: issuer, ClientID: "popular"}
	both := fositeconsent.Selection{Issuer: issuer, Subject: mine.Subject, ClientID: "popular"}
	one := both
	one.ConsentID = mine.ID
	list := func(selection fositeconsent.Selection, before fositeconsent.ID) func() error {
		return func() error {
			_, err := store.ListConsents(ctx, selection, before, 50)
			return err
		}
	}
	revoke := func(selection fositeconsent.Selection) func() error {
		return func() error {
			_, err := store.RevokeConsents(ctx, selection, func(context.Context, fositeconsent.Ended) error { return errUndone })
			if err == errUndone { //nolint:errorlint // as it was
				return nil
			}
			return err
		}
	}
	const (
		consentKey, grantKey, responseKey = "consent_consents_pkey", "consent_grants_pkey", "consent_responses_pkey"
		bySubject, byClientID             = "consent_consents_subject_idx", "consent_consents_client_idx"
		expiry, responses                 = "consent_grants_expires_at_idx", "consent_responses_consent_idx"
	)
	for _, c := range []struct {
		name string
		do   func() error
		want [][]string // of each statement, the indexes
	}{
		{"find", func() error {
			found, err := store.FindConsents(ctx, issuer, mine.Subject, mine.ClientID)
			if len(found) != 1 {
				t.Errorf("found %d", len(found))
			}
			return err
		}, [][]string{{"consent_consents_find_idx", responses}}},
		{"list by subject", list(of(mine), fositeconsent.ID{}), [][]string{{bySubject, responses}}},
		{"list by client", list(byClient, fositeconsent.ID{}), [][]string{{byClientID, responses}}},
		{"list by client, the next page", list(byClient, mine.ID), [][]string{{byClientID, responses}}},
		{"list by both", list(both, mine.ID), [][]string{{bySubject, responses}}},
		// Any order of IDs will do, of a client that every second consent is for.
		{"list by a popular client", list(popular, fositeconsent.ID{}), [][]string{{responses}}},
		{"list one", list(one, fositeconsent.ID{}), [][]string{{"id = ", responses}}},
		{"record", func() error { return store.RecordResponse(ctx, approval(newConsent())) },
			[][]string{{grantKey, "Conflict Arbiter Indexes: " + consentKey, "Conflict Arbiter Indexes: " + responseKey}}},
		{"record in a transaction", func() error {
			ctx := begin(t, txs)
			if err := store.RecordResponse(ctx, silent(mine)); err != nil {
				return err
			}
			return txs.Commit(ctx)
		}, [][]string{{consentKey, "Conflict Arbiter Indexes: " + responseKey}}},
		{"record two, one after the other", func() error {
			ctx := begin(t, txs)
			for _, r := range []*fositeconsent.Response{silent(mine), approval(newConsent()), silent(mine)} {
				if err := store.RecordResponse(ctx, r); err != nil {
					return err
				}
			}
			if _, err := txs.DB(ctx).Exec(ctx, "SELECT"); err != nil {
				return err
			}
			return txs.Commit(ctx)
		}, [][]string{nil, nil, {consentKey}, {consentKey, responseKey}, {consentKey, responseKey}, nil, nil}},
		{"check", func() error { return store.CheckResponse(ctx, first) }, [][]string{{responseKey, consentKey}}},
		{"revoke by subject", revoke(of(mine)), [][]string{nil, nil, {expiry, grantKey}, nil, {bySubject, consentKey}, {responses}, nil}},
		{"revoke by client", revoke(byClient), [][]string{nil, nil, {expiry, grantKey}, nil, {byClientID, consentKey}, {responses}, nil}},
		{"revoke by a popular client", revoke(popular), [][]string{nil, nil, {expiry, grantKey}, nil, {consentKey}, {responses}, nil}},
		{"revoke one", revoke(one), [][]string{nil, nil, {grantKey}, nil, {consentKey}, {responses}, nil}},
	} {
		n.reset()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		all := n.sent
		if len(all) != len(c.want) {
			t.Fatalf("%s: %d statements, want %d: %v", c.name, len(all), len(c.want), all)
		}
		for i, s := range all {
			if c.want[i] == nil {
				continue
			}
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				func() {
					exec(t, conn, "SET plan_cache_mode = "+mode)
					exec(t, conn, "PREPARE statement AS "+s.sql)
					defer exec(t, conn, "DEALLOCATE statement")
					exec(t, conn, "BEGIN")
					defer exec(t, conn, "ROLLBACK")
					rows, err := conn.Query(ctx, "EXPLAIN (ANALYZE, BUFFERS) EXECUTE statement"+s.literals(t), pgx.QueryExecModeSimpleProtocol)
					if err != nil {
						t.Fatal(err)
					}
					lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
					if err != nil {
						t.Fatal(s.literals(t), err)
					}
					plan := strings.Join(lines, "\n")
					for _, want := range c.want[i] {
						if !strings.Contains(plan, want) {
							t.Errorf("%s, %s: no %s in\n%s", c.name, mode, want, plan)
						}
					}
					if strings.Contains(plan, "Seq Scan") {
						t.Errorf("%s, %s: not by an index:\n%s", c.name, mode, plan)
					}
					pages := 0
					if found := buffers.FindStringSubmatch(plan); found != nil {
						hit, _ := strconv.Atoi(found[1])
						read, _ := strconv.Atoi(found[2])
						pages = hit + read
					}
					if pages > most && !(strings.HasPrefix(c.name, "revoke by ") && pages < 4*most) {
						t.Errorf("%s, %s: %d pages:\n%s", c.name, mode, pages, plan)
					}
				}()
			}
		}
	}
}

// An approval is one round trip, with all that belongs to it, and so is a response under
// remembered consents.
func TestAResponseIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	var n noting
	pool := pgtest.Pool(t, withConns(2), func(c *pgxpool.Config) { c.ConnConfig.Tracer = &n })
	migrate(t, pool, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	c := newConsent()
	answer := func() {
		ctx, g := begin(t, txs), grantOf(c)
		g.Remember, g.Shown = &fositeconsent.Remember{Lifespan: 1, OfflineAccess: true}, fositeconsent.Digest{7}
		if err := store.CreateConsentGrant(ctx, g); err != nil {
			t.Fatal(err)
		}
		got, err := store.ConsumeConsentGrant(ctx, present(g))
		if err != nil || got.Remember == nil || *got.Remember != *g.Remember || got.Remember == g.Remember || got.Shown != g.Shown {
			t.Fatalf("consumed as %+v, %v", got, err)
		}
		if err := store.RecordResponse(ctx, approval(c)); err != nil {
			t.Fatal(err)
		}
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	pass := func() {
		ctx := begin(t, txs)
		if err := store.RecordResponse(ctx, silent(c)); err != nil {
			t.Fatal(err)
		}
		if err := txs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for what, do := range map[string]func(){"an approval": answer, "a silent response": pass} {
		if what != "an approval" {
			record(t, store, approval(c))
		}
		n.reset()
		do()
		if n.trips != 1 {
			t.Errorf("%s: %d round trips with %d statements", what, n.trips, len(n.sent))
		}
		c = newConsent()
	}
}
