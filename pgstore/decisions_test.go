package pgstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func newDecision() *fositeconsent.DecisionRecord {
	c := newConsent()
	return &fositeconsent.DecisionRecord{
		ID: newID(), Outcome: fositeconsent.OutcomeApproved, Issuer: c.Issuer, Subject: c.Subject, ClientID: c.ClientID,
		RequestedScopes: c.Scopes, RequestedAudience: c.Audience, Scopes: c.Scopes, Audience: c.Audience,
		ConsentIDs: []fositeconsent.ID{c.ID}, Shown: c.Shown,
	}
}

// idAt is an ID that is made at that time.
func idAt(at time.Time) fositeconsent.ID {
	id := newID()
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli()))
	copy(id[:6], ms[2:])
	return id
}

func appendDecision(t testing.TB, store *pgstore.Store, r *fositeconsent.DecisionRecord) {
	t.Helper()
	if err := store.AppendDecision(testContext(t), r); err != nil {
		t.Fatal(err)
	}
}

// decisions are the IDs of an issuer's records.
func decisions(t testing.TB, store *pgstore.Store, issuer string) (ids []fositeconsent.ID) {
	t.Helper()
	list, err := store.ListDecisions(testContext(t), fositeconsent.DecisionSelection{Issuer: issuer}, fositeconsent.ID{}, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	return ids
}

// A record is there if, and only if, what it is about is.
func TestARecordIsPartOfItsTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	txs := newTransactions(t, pool, pgstore.TransactionConfig{})
	there := func(r *fositeconsent.DecisionRecord) bool {
		t.Helper()
		return slices.Contains(decisions(t, store, r.Issuer), r.ID)
	}
	for _, sent := range []bool{false, true} {
		r := newDecision()
		ctx := begin(t, txs)
		if err := store.AppendDecision(ctx, r); err != nil {
			t.Fatal(err)
		}
		if sent {
			exec(t, txs.DB(ctx), "SELECT")
		}
		if there(r) {
			t.Error("it can be seen before it is committed")
		}
		if err := txs.Rollback(ctx); err != nil || there(r) {
			t.Errorf("after a rollback it is there: %t, %v", there(r), err)
		}

		ctx = begin(t, txs)
		if err := store.AppendDecision(ctx, r); err != nil {
			t.Fatal(err)
		}
		if sent {
			exec(t, txs.DB(ctx), "SELECT")
		}
		if err := txs.Commit(ctx); err != nil || !there(r) {
			t.Errorf("after a commit it is there: %t, %v", there(r), err)
		}
	}
	// Of two answers to one page one is recorded: the one that was taken.
	g := newGrant()
	for i, want := range []bool{true, false} {
		r := newDecision()
		ctx := begin(t, txs)
		again := *g
		fill(again.SecretHash[:])
		if err := store.CreateConsentGrant(ctx, &again); err != nil {
			t.Fatal(err)
		}
		if err := store.AppendDecision(ctx, r); err != nil {
			t.Fatal(err)
		}
		err := txs.Commit(ctx)
		if errors.Is(err, fositeconsent.ErrAlreadyDecided) == want || want && err != nil || there(r) != want {
			t.Errorf("answer %d: %v, and recorded: %t", i+1, err, there(r))
		}
	}
	// In a transaction of the host's.
	r := newDecision()
	tx, err := pool.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := pgstore.WithTx(testContext(t), tx)
	if err := store.AppendDecision(ctx, r); err != nil {
		t.Fatal(err)
	}
	if list, err := store.ListDecisions(ctx, fositeconsent.DecisionSelection{Issuer: r.Issuer}, fositeconsent.ID{}, 1); len(list) != 1 || err != nil {
		t.Errorf("the transaction sees %d of its records, %v", len(list), err)
	}
	if err := tx.Rollback(testContext(t)); err != nil || there(r) {
		t.Errorf("after a rollback it is there: %t, %v", there(r), err)
	}
}

func TestAnAnswerAndItsRecordAreOneRoundTrip(t *testing.T) {
	t.Parallel()
	var trips batchTracer
	pool := migrated(t, pgstore.Config{}, func(c *pgxpool.Config) { c.ConnConfig.Tracer = &trips })
	store := newStore(t, pool, pgstore.Config{})
	txs := newTransactions(t, pool, pgstore.TransactionConfig{})
	trips.reset()
	for range 2 { // the second one finds its statements prepared
		trips.reset()
		ctx := begin(t, txs)
		for _, err := range []error{store.CreateConsentGrant(ctx, newGrant()), store.AppendDecision(ctx, newDecision()), txs.Commit(ctx)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := trips.String(); got != "batch of 2" {
		t.Errorf("sent: %s", got)
	}
}

// Others delete the same records: a sweeper, or somebody who erases the same subject.
func TestAnErasureEndsWhenNothingIsLeft(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	ctx := testContext(t)
	r := newDecision()
	exec(t, pool, `INSERT INTO public.consent_decisions (id, recorded_at, outcome, issuer, subject, client_id)
		SELECT (lpad(to_hex(i), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid, now(), 'approved', $2::text, $3::text, 'client' FROM generate_series(1, $1::int) AS i`,
		2500, r.Issuer, r.Subject)
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "DELETE FROM public.consent_decisions WHERE id IN (SELECT id FROM public.consent_decisions ORDER BY id LIMIT 10)")
	type erased struct {
		n   int
		err error
	}
	done := make(chan erased, 1)
	go func() {
		n, err := store.EraseDecisions(ctx, r.Issuer, r.Subject)
		done <- erased{n, err}
	}()
	for waiting := 0; waiting == 0; { // for the rows that are being deleted
		if err := pool.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if e := <-done; e.n != 2490 || e.err != nil {
		t.Errorf("erased %d, %v, want 2490", e.n, e.err)
	}
	if left := decisions(t, store, r.Issuer); len(left) != 0 {
		t.Errorf("%d are left", len(left))
	}
}

// Times that the database cannot tell apart, and those that it does not know.
func TestDecisionsAreSelectedByAnyTime(t *testing.T) {
	t.Parallel()
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	store := newStore(t, migrated(t, config), config)
	r := newDecision()
	appendDecision(t, store, r)
	at := clock.now()
	far := time.Date(10_900, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name         string
		since, until time.Time
		want         int
	}{
		{"since a moment later than the clock can tell", at.Add(500), time.Time{}, 0},
		{"until a moment later than the clock can tell", time.Time{}, at.Add(500), 1},
		{"until then", time.Time{}, at, 0},
		{"since before there were computers", time.Date(1815, 12, 10, 0, 0, 0, 0, time.UTC), time.Time{}, 1},
		{"since before Christ", time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC), time.Time{}, 1},
		{"until before there were computers", time.Time{}, time.Date(1815, 12, 10, 0, 0, 0, 0, time.UTC), 0},
		{"until the far future", time.Time{}, far, 1},
		{"since the far future", far, time.Time{}, 0},
		{"in another zone", at.In(time.FixedZone("", 3600)), at.Add(time.Second).In(time.FixedZone("", -3600)), 1},
	} {
		list, err := store.ListDecisions(testContext(t), fositeconsent.DecisionSelection{Issuer: r.Issuer, Since: c.since, Until: c.until}, fositeconsent.ID{}, 10)
		if len(list) != c.want || err != nil {
			t.Errorf("%s: %d records, %v, want %d", c.name, len(list), err, c.want)
		}
		if len(list) == 1 && list[0].RecordedAt.Location() != time.UTC {
			t.Errorf("dated in %v", list[0].RecordedAt.Location())
		}
	}
	for _, text := range []string{"\xff", "a\x00"} {
		if list, err := store.ListDecisions(testContext(t), fositeconsent.DecisionSelection{Issuer: r.Issuer, Subject: text}, fositeconsent.ID{}, 1); len(list) != 0 || err != nil {
			t.Errorf("listed %v, %v of what cannot be there", list, err)
		}
		if n, err := store.EraseDecisions(testContext(t), r.Issuer, text); n != 0 || err != nil {
			t.Errorf("erased %d, %v of what cannot be there", n, err)
		}
	}
}

// A record that is queued in a context that is over is an error at once.
func TestNoRecordIsQueuedTooLate(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	txs := newTransactions(t, pool, pgstore.TransactionConfig{})
	ctx, cancel := context.WithCancel(begin(t, txs))
	cancel()
	if err := store.AppendDecision(ctx, newDecision()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Who waits for a connection waits no longer than the context lets it, and nothing has happened then.
func TestACommitInOnePieceWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(2))
	store := newStore(t, pool, pgstore.Config{})
	txs := newTransactions(t, pool, pgstore.TransactionConfig{CommitTimeout: time.Hour})
	for range 2 {
		conn, err := pool.Acquire(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Release)
	}
	soon, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	ctx, err := txs.BeginTX(soon)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.CreateConsentGrant(ctx, newGrant()), store.AppendDecision(ctx, newDecision())); err != nil {
		t.Fatal(err)
	}
	if err := txs.Commit(ctx); !errors.Is(err, context.DeadlineExceeded) || state(err) != "" {
		t.Errorf("got %v, SQLSTATE %q: want that the time was over, and no doubt", err, state(err))
	}
}

func TestSweepDeletesRecordsThatArePastTheirRetention(t *testing.T) {
	t.Parallel()
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	pool := migrated(t, config)
	store := newStore(t, pool, config)
	const retention = 400 * 24 * time.Hour
	forever := newSweeper(t, pool, pgstore.SweeperConfig{Tables: config})
	s := newSweeper(t, pool, pgstore.SweeperConfig{Tables: config, DecisionRetention: retention, BatchSize: 2})
	first := newDecision()
	add := func(id fositeconsent.ID) fositeconsent.ID {
		t.Helper()
		r := newDecision()
		r.Issuer, r.ID = first.Issuer, id
		appendDecision(t, store, r)
		return id
	}
	var old []fositeconsent.ID
	for range 5 {
		old = append(old, add(idAt(clock.now())))
	}
	add(idAt(clock.now().Add(50 * time.Minute))) // by a process whose clock is fast
	add(idAt(clock.now().Add(-50 * time.Minute)))
	clock.advance(time.Microsecond)
	late := add(idAt(clock.now()))
	clock.advance(retention - 2*time.Microsecond)
	if deleted := sweep(t, s); deleted != 0 {
		t.Errorf("%d deleted too early", deleted)
	}
	clock.advance(time.Microsecond)
	if deleted := sweep(t, forever); deleted != 0 {
		t.Errorf("%d deleted of what is kept for ever", deleted)
	}

	// While somebody else sweeps them nobody waits.
	tx, err := pool.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := sweep(t, newSweeper(t, tx, pgstore.SweeperConfig{Tables: config, DecisionRetention: retention, BatchSize: 2})); n != 7 {
		t.Errorf("%d deleted in a transaction", n)
	}
	if deleted := sweep(t, s); deleted != 0 {
		t.Errorf("%d deleted beside another sweeper", deleted)
	}
	if err := tx.Rollback(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if deleted := sweep(t, s); deleted != 7 {
		t.Errorf("%d deleted, want 7: %v", deleted, old)
	}
	if left := decisions(t, store, first.Issuer); len(left) != 1 || left[0] != late {
		t.Errorf("left are %v, want %v", left, late)
	}
	if deleted := sweep(t, s); deleted != 0 {
		t.Errorf("%d deleted again", deleted)
	}
	for _, d := range []time.Duration{-1, 1, 24*time.Hour - 1} {
		if _, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{DecisionRetention: d}); err == nil || !strings.Contains(err.Error(), "DecisionRetention") {
			t.Errorf("%v: %v", d, err)
		}
	}
}

// TestEveryStatementOnDecisionsGoesByAnIndex looks at the plans beside many records of others.
func TestEveryStatementOnDecisionsGoesByAnIndex(t *testing.T) {
	t.Parallel()
	var n noting
	pool := migrated(t, pgstore.Config{}, func(c *pgxpool.Config) { c.ConnConfig.Tracer = &n })
	exec(t, pool, `INSERT INTO public.consent_decisions (id, recorded_at, outcome, issuer, subject, client_id)
		SELECT (lpad(to_hex((extract(epoch FROM now() - i * interval '1 minute') * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid,
		       now() - i * interval '1 minute', 'approved', 'https://as.example', 'user ' || i % 5000, 'client ' || i % 3
		FROM generate_series(1, 50000) AS i`)
	exec(t, pool, "VACUUM (ANALYZE) public.consent_decisions")
	store := newStore(t, pool, pgstore.Config{})
	const key, bySubject = "consent_decisions_pkey", "consent_decisions_subject_idx"
	hour := time.Hour
	for _, c := range []struct {
		name  string
		call  func(ctx context.Context) error
		index string
	}{
		{"the first page of all", func(ctx context.Context) error {
			_, err := store.ListDecisions(ctx, fositeconsent.DecisionSelection{Issuer: "https://as.example"}, fositeconsent.ID{}, 100)
			return err
		}, key},
		{"a later page of all", func(ctx context.Context) error {
			_, err := store.ListDecisions(ctx, fositeconsent.DecisionSelection{Issuer: "https://as.example"}, idAt(time.Now().Add(-100*hour)), 100)
			return err
		}, key},
		{"an hour of long ago", func(ctx context.Context) error {
			_, err := store.ListDecisions(ctx, fositeconsent.DecisionSelection{Issuer: "https://as.example", Since: time.Now().Add(-100 * hour), Until: time.Now().Add(-99 * hour)}, fositeconsent.ID{}, 100)
			return err
		}, key},
		{"one subject's", func(ctx context.Context) error {
			_, err := store.ListDecisions(ctx, fositeconsent.DecisionSelection{Issuer: "https://as.example", Subject: "user 7"}, fositeconsent.ID{}, 100)
			return err
		}, bySubject},
		{"an erasure", func(ctx context.Context) error {
			_, err := store.EraseDecisions(ctx, "https://as.example", "user 8")
			return err
		}, bySubject},
		{"a sweep", func(ctx context.Context) error {
			s := newSweeper(t, pool, pgstore.SweeperConfig{DecisionRetention: 34 * 24 * hour})
			_, err := s.Sweep(ctx)
			return err
		}, key},
	} {
		n.reset()
		if err := c.call(testContext(t)); err != nil {
			t.Fatal(c.name, err)
		}
		found := false
		for _, s := range n.sent {
			if !strings.Contains(s.sql, "consent_decisions") {
				continue
			}
			found = true
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				plan := explain(t, pool, mode, s)
				if !strings.Contains(plan, c.index) || strings.Contains(plan, "Seq Scan on consent_decisions") {
					t.Errorf("%s, %s:\n%s", c.name, mode, plan)
				}
			}
		}
		if !found {
			t.Errorf("%s sent %v", c.name, n.sent)
		}
	}
}

// explain returns the plan of what was sent.
func explain(t testing.TB, pool *pgxpool.Pool, mode string, s sent) string {
	t.Helper()
	ctx := testContext(t)
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	exec(t, tx, "SET LOCAL plan_cache_mode = "+mode)
	exec(t, tx, "PREPARE statement AS "+s.sql)
	defer exec(t, tx, "DEALLOCATE statement")
	rows, err := tx.Query(ctx, "EXPLAIN EXECUTE statement"+s.literals(t), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestNoErrorShowsWhatIsRecorded(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withMode(mode))
			r := newDecision()
			r.Subject, r.Scopes, r.ClientID = "subject-of-the-leak-test", []string{"scope-of-the-leak-test"}, "client-of-the-leak-test"
			broken := pgtest.PoolAt(t, pool.Config().ConnString(), withMode(mode), func(c *pgxpool.Config) {
				c.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
					conn.TypeMap().RegisterType(&pgtype.Type{Name: "_text", OID: pgtype.TextArrayOID, Codec: pgtype.BoolCodec{}})
					return nil
				}
			})
			check := func(store *pgstore.Store) {
				t.Helper()
				_, listed := store.ListDecisions(testContext(t), fositeconsent.DecisionSelection{Issuer: r.Issuer, Subject: r.Subject}, fositeconsent.ID{}, 1)
				_, erased := store.EraseDecisions(testContext(t), r.Issuer, r.Subject)
				failed := 0
				for _, err := range []error{store.AppendDecision(testContext(t), r), listed, erased} {
					if err != nil {
						failed++
					}
					for e := err; e != nil; e = errors.Unwrap(e) {
						shown := fmt.Sprintf("%v %+v %#v", e, e, e)
						var pgErr *pgconn.PgError
						if errors.As(e, &pgErr) {
							shown += pgErr.Detail + pgErr.Where + pgErr.Hint + pgErr.InternalQuery
						}
						if strings.Contains(shown, "of-the-leak-test") {
							t.Errorf("%s", shown)
						}
					}
				}
				if failed == 0 {
					t.Error("nothing failed")
				}
			}
			check(newStore(t, broken, pgstore.Config{}))
			exec(t, pool, "ALTER TABLE public.consent_decisions ADD CONSTRAINT nobody CHECK (subject = '') NOT VALID")
			check(newStore(t, pool, pgstore.Config{}))
			exec(t, pool, "ALTER TABLE public.consent_decisions RENAME TO gone")
			check(newStore(t, pool, pgstore.Config{}))
		})
	}
}

// What is refused in the round trip that was to record it is not in the log: what a pass rests on was revoked, and
// only the statement before the record's finds that out.
func TestNoRecordOfAPassThatIsRefusedAtItsEnd(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	consent, live := newConsent(), newConsent()
	record(t, store, approval(consent))
	record(t, store, approval(live))
	if ended, _ := revoke(t, store, fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject, ConsentID: consent.ID}); ended != 1 {
		t.Fatalf("%d consents ended, want 1", ended)
	}
	for _, c := range []struct {
		consent *fositeconsent.Consent
		want    error
	}{{consent, fositeconsent.ErrConsentRevoked}, {live, nil}} {
		decision := newDecision()
		ctx := begin(t, txs)
		if err := errors.Join(store.RecordResponse(ctx, silent(c.consent)), store.AppendDecision(ctx, decision)); err != nil {
			t.Fatal(err)
		}
		if err := txs.Commit(ctx); !errors.Is(err, c.want) {
			t.Errorf("Commit: %v, want %v", err, c.want)
		}
		if recorded := slices.Contains(decisions(t, store, decision.Issuer), decision.ID); recorded != (c.want == nil) {
			t.Errorf("after %v: recorded is %t", c.want, recorded)
		}
	}
}
