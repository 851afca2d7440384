package pgstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

const minRetention = 2 * fositeconsent.MaxPromptLifespan

func newSweeper(t testing.TB, db pgstore.DB, config pgstore.SweeperConfig) *pgstore.Sweeper {
	t.Helper()
	s, err := pgstore.NewSweeper(db, config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sweep(t testing.TB, s *pgstore.Sweeper) int64 {
	t.Helper()
	deleted, err := s.Sweep(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return deleted
}

func count(t testing.TB, db pgstore.DB) (n int64) {
	t.Helper()
	if err := db.QueryRow(testContext(t), "SELECT count(*) FROM public.consent_grants").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSweepDeletesWhatIsPastItsRetentionAndNothingElse(t *testing.T) {
	t.Parallel()
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	pool := migrated(t, config)
	store := newStore(t, pool, config)
	const retention = minRetention + time.Hour
	s := newSweeper(t, pool, pgstore.SweeperConfig{Tables: config, Retention: retention})

	unspent, spent, denied, late := newGrant(), newGrant(), newGrant(), newGrant()
	denied.Denied = true
	late.Lifespan += time.Microsecond
	for _, g := range []*fositeconsent.Grant{unspent, spent, denied, late} {
		create(t, store, g)
	}
	if _, err := store.ConsumeConsentGrant(testContext(t), present(spent)); err != nil {
		t.Fatal(err)
	}
	clock.advance(unspent.Lifespan + retention - time.Microsecond)
	if deleted := sweep(t, s); deleted != 0 {
		t.Errorf("%d deleted too early", deleted)
	}
	if _, err := store.ConsumeConsentGrant(testContext(t), present(spent)); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
		t.Errorf("a replay within the retention got %v", err)
	}
	clock.advance(time.Microsecond)
	if deleted := sweep(t, s); deleted != 3 {
		t.Errorf("%d deleted", deleted)
	}
	if _, err := store.ConsumeConsentGrant(testContext(t), present(late)); !errors.Is(err, fositeconsent.ErrGrantExpired) {
		t.Errorf("the one that is left: %v", err)
	}
}

func TestSweepGoesByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	clock := newClock()
	past := newStore(t, pool, pgstore.Config{TestClock: clock.now})
	g := newGrant()
	create(t, newStore(t, pool, pgstore.Config{}), g)
	clock.advance(-g.Lifespan - minRetention - time.Minute)
	create(t, past, newGrant())
	if deleted := sweep(t, newSweeper(t, pool, pgstore.SweeperConfig{})); deleted != 1 {
		t.Errorf("%d deleted", deleted)
	}
}

func TestSweepInBatches(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	fillTable(t, pool, 10_000) // one each 10 seconds: 8640 within a day
	for size, statements := range map[int]int{1: 3, 2: 2, 1000: 1} {
		db := &executions{DB: pool}
		exec(t, pool, "UPDATE public.consent_grants SET decided_at = now() - interval '9 days', expires_at = now() - interval '8 days' WHERE id IN (SELECT id FROM public.consent_grants ORDER BY expires_at DESC LIMIT 2)")
		exec(t, pool, "DELETE FROM public.consent_grants WHERE expires_at < now() - interval '1 day' AND expires_at > now() - interval '7 days'")
		if deleted := sweep(t, newSweeper(t, db, pgstore.SweeperConfig{BatchSize: size})); deleted != 2 || db.calls != statements {
			t.Errorf("with batches of %d: %d deleted by %d statements, want 2 by %d", size, deleted, db.calls, statements)
		}
	}
}

// TestSweepStepsOverWhatItDeletedOnce sweeps in a transaction, so that Postgres has to keep what is deleted, as it does while somebody else's is open.
func TestSweepStepsOverWhatItDeletedOnce(t *testing.T) {
	t.Parallel()
	const rows, size = 2000, 50
	pool := migrated(t, pgstore.Config{})
	exec(t, pool, `INSERT INTO public.consent_requests (id, challenge_hash, browser_hash, subject, client_id, login_session, document, created_at, expires_at)
		SELECT gen_random_uuid(), sha256('c'), sha256('b'), 'somebody', 'photo-printer', '', '{}', made, made + interval '30 minutes'
		FROM (SELECT now() - interval '3 days' + i / 7 * interval '1 second' AS made FROM generate_series(1, $1) AS i) AS m`, rows)
	exec(t, pool, "VACUUM (ANALYZE) public.consent_requests")
	h := hold(t, pool)
	exec(t, h.tx, "SET LOCAL enable_bitmapscan = off") // the plan with many rows
	exec(t, h.tx, "SET LOCAL enable_seqscan = off")
	if deleted := sweep(t, newSweeper(t, h.tx, pgstore.SweeperConfig{BatchSize: size})); deleted != rows {
		t.Fatalf("%d deleted", deleted)
	}
	// From the front each time it would be 50 + 100 + … + 2000 entries. Seven requests expire at once.
	var seen int
	if err := h.tx.QueryRow(testContext(t), "SELECT pg_stat_get_xact_tuples_returned('public.consent_requests_expiry_idx'::regclass)").Scan(&seen); err != nil {
		t.Fatal(err)
	}
	if limit := rows + rows/size*7; seen < rows || seen > limit {
		t.Errorf("%d entries of the index were looked at, want %d to %d", seen, rows, limit)
	}
}

type executions struct {
	pgstore.DB
	mu    sync.Mutex
	calls int
	hook  func(call int) error
}

func (e *executions) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if strings.Contains(sql, "consent_requests") { // the tests that count are about grants
		return e.DB.QueryRow(ctx, sql, args...)
	}
	e.mu.Lock()
	e.calls++
	call, hook := e.calls, e.hook
	e.mu.Unlock()
	if hook != nil {
		if err := hook(call); err != nil {
			return fakeRow{err}
		}
	}
	return e.DB.QueryRow(ctx, sql, args...)
}

// fakeRow is what a statement returns that has failed, or that has found nothing to delete.
type fakeRow struct{ err error }

func (f fakeRow) Scan(...any) error { return f.err }

func TestSweepersShareTheWork(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(10))
	clock := newClock()
	clock.advance(-2 * minRetention)
	store := newStore(t, pool, pgstore.Config{TestClock: clock.now})
	const old = 40
	for range old {
		create(t, store, newGrant())
	}
	s := newSweeper(t, pool, pgstore.SweeperConfig{BatchSize: 5})

	// One of them is in the midst of a batch: the others wait neither for it nor for
	// a row that anybody else has locked.
	h := hold(t, pool)
	if deleted, err := newSweeper(t, &one{h.tx}, pgstore.SweeperConfig{BatchSize: 5}).Sweep(testContext(t)); !errors.Is(err, errOne) || deleted != 5 {
		t.Fatalf("deleted %d: %v", deleted, err)
	}
	locker := hold(t, pool)
	locker.exec("SELECT FROM (SELECT FROM public.consent_grants ORDER BY expires_at DESC LIMIT 3 FOR UPDATE) AS held")
	var total int64
	var mu sync.Mutex
	var nodes sync.WaitGroup
	for range 6 {
		nodes.Go(func() {
			deleted, err := s.Sweep(testContext(t))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += deleted
		})
	}
	nodes.Wait()
	if left := count(t, pool); total != old-5-3 || left != 5+3 {
		t.Errorf("%d deleted, %d left while both hold their rows", total, left)
	}
	h.end(rollback)
	locker.end(rollback)
	if deleted := sweep(t, s); deleted != 5+3 {
		t.Errorf("%d deleted at last", deleted)
	}
}

var errOne = errors.New("one statement only")

// one lets one statement pass.
type one struct{ pgx.Tx }

func (o *one) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if o.Tx == nil {
		return fakeRow{errOne}
	}
	tx := o.Tx
	o.Tx = nil
	return tx.QueryRow(ctx, sql, args...)
}

func TestPresenterDoesNotWaitForASweeper(t *testing.T) {
	t.Parallel()
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	pool := migrated(t, config)
	store := newStore(t, pool, config)
	g := newGrant()
	create(t, store, g)
	clock.advance(2 * minRetention)
	h := hold(t, pool)
	if deleted := sweep(t, newSweeper(t, h.tx, pgstore.SweeperConfig{Tables: config})); deleted != 1 {
		t.Fatalf("%d deleted", deleted)
	}
	if _, err := store.ConsumeConsentGrant(testContext(t), present(g)); !errors.Is(err, fositeconsent.ErrGrantExpired) {
		t.Error(err)
	}
}

func TestSweepInEveryExecMode(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	migrate(t, pgtest.PoolAt(t, database), pgstore.Config{})
	clock := newClock()
	clock.advance(-2 * minRetention)
	for _, mode := range execModes {
		pool := pgtest.PoolAt(t, database, withMode(mode))
		create(t, newStore(t, pool, pgstore.Config{TestClock: clock.now}), newGrant())
		if deleted := sweep(t, newSweeper(t, pool, pgstore.SweeperConfig{})); deleted != 1 {
			t.Errorf("%s: %d deleted", mode, deleted)
		}
		create(t, newStore(t, pool, pgstore.Config{TestClock: clock.now}), newGrant())
		if deleted := sweep(t, newSweeper(t, pool, pgstore.SweeperConfig{Tables: pgstore.Config{TestClock: time.Now}})); deleted != 1 {
			t.Errorf("%s with a clock: %d deleted", mode, deleted)
		}
	}
}

// fakeDB deletes nothing and notes when it was asked to.
type fakeDB struct {
	pgstore.DB
	at   []time.Time
	exec func(ctx context.Context, call int) error
}

func (f *fakeDB) QueryRow(ctx context.Context, sql string, _ ...any) pgx.Row {
	if strings.Contains(sql, "consent_requests") { // the second statement of the same pass
		return fakeRow{}
	}
	f.at = append(f.at, time.Now())
	if f.exec != nil {
		return fakeRow{f.exec(ctx, len(f.at))}
	}
	return fakeRow{}
}

func TestRun(t *testing.T) {
	t.Parallel()

	t.Run("sweeps at once, then at jittered intervals, until the context ends", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { // which also fails if anything is left running
			db := &fakeDB{}
			s := newSweeper(t, db, pgstore.SweeperConfig{Interval: time.Hour})
			synctest.Wait()
			if len(db.at) != 0 {
				t.Error("the constructor sweeps")
			}
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Hour)
			defer cancel()
			if err := s.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if len(db.at) < 150 || len(db.at) > 270 {
				t.Errorf("%d passes in 200 hours", len(db.at))
			}
			if !db.at[0].Equal(begin) {
				t.Errorf("first pass after %v", db.at[0].Sub(begin))
			}
			different := map[time.Duration]bool{}
			for i := 1; i < len(db.at); i++ {
				pause := db.at[i].Sub(db.at[i-1])
				different[pause] = true
				if pause < 30*time.Minute || pause > 90*time.Minute {
					t.Errorf("a pause of %v", pause)
				}
			}
			if len(different) < 100 {
				t.Errorf("only %d different pauses", len(different))
			}
		})
	})

	t.Run("reports a pass that fails and goes on", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var log bytes.Buffer
			db := &fakeDB{}
			db.exec = func(_ context.Context, call int) error {
				switch call {
				case 1:
					return &pgconn.PgError{Severity: "ERROR", Code: "42501", Message: "permission denied"}
				case 3:
					cancel()
				}
				return nil
			}
			s := newSweeper(t, db, pgstore.SweeperConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if len(db.at) != 3 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "permission denied") {
				t.Errorf("%d passes, log: %s", len(db.at), log.String())
			}
		})
	})

	t.Run("outlives a server that falls silent", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			db := &fakeDB{}
			db.exec = func(ctx context.Context, call int) error {
				if call == 2 {
					cancel()
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			s := newSweeper(t, db, pgstore.SweeperConfig{Logger: slog.New(slog.DiscardHandler)})
			if err := s.Run(ctx); !errors.Is(err, context.Canceled) || len(db.at) != 2 {
				t.Fatalf("%d passes, %v", len(db.at), err)
			}
			if waited := db.at[1].Sub(db.at[0]); waited > time.Hour {
				t.Errorf("the next pass began after %v", waited)
			}
		})
	})
}

func TestSweeperMetrics(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	pool := migrated(t, pgstore.Config{})
	clock := newClock()
	clock.advance(-2 * minRetention)
	store := newStore(t, pool, pgstore.Config{TestClock: clock.now})
	for range 3 {
		create(t, store, newGrant())
	}
	db := &executions{DB: pool, hook: func(call int) error {
		if call == 2 {
			return errors.New("no")
		}
		return nil
	}}
	s := newSweeper(t, db, pgstore.SweeperConfig{BatchSize: 2, MeterProvider: provider})
	if deleted, err := s.Sweep(testContext(t)); deleted != 2 || err == nil {
		t.Errorf("deleted %d, %v", deleted, err)
	}
	sweep(t, s)
	canceled, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := s.Sweep(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}

	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(testContext(t), &metrics); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				got[m.Name] = fmt.Sprint(data.DataPoints[0].Value)
			case metricdata.Histogram[float64]:
				got[m.Name] = fmt.Sprintf("%d passes", data.DataPoints[0].Count)
			}
		}
	}
	want := map[string]string{
		"fositeconsent.sweep.deleted": "3", "fositeconsent.sweep.failures": "1", "fositeconsent.sweep.duration": "3 passes",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUnusableSweeperConfigIsRefused(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]pgstore.SweeperConfig{
		"a retention below what the contract promises": {Retention: minRetention - 1},
		"a negative retention":                         {Retention: -time.Hour},
		"a negative interval":                          {Interval: -1},
		"a negative batch":                             {BatchSize: -1},
		"an unbounded batch":                           {BatchSize: 1 << 30},
	} {
		if _, err := pgstore.NewSweeper(unreachable(t), config); err == nil {
			t.Error(name)
		}
	}
	newSweeper(t, unreachable(t), pgstore.SweeperConfig{Retention: minRetention, Interval: 1, BatchSize: 1})
}
