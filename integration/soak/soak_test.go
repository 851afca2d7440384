// Package soak_test runs two authorization servers on one database for a while, each with
// its sweepers, and looks for what grows: memory, goroutines, tables.
//
// site_test.go has the servers, visits_test.go what is done with them, and what must not
// come of it.
package soak_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	random "math/rand/v2"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	workers = 6
	// rate is how many visits a second there are, if the machine can. It is far below what
	// the servers can do, since what is there at a time goes with it.
	rate = 100
	// Until then, things only come; from then on, as many go.
	settled = lifespan + retention + 2*sweepInterval + time.Second
	// Within which the second half of the samples has to be the first half again. What
	// there is of rows differs with the moment at which sweepers came by, pages are not given
	// back, and a pool's or the runtime's own memory is not all there at the beginning.
	moreRows, morePages, moreHeap = 1.25, 1.25, 1.02
	someRows, somePages, someHeap = 20, 16, 384 << 10
	someGoroutines                = 4
)

// TestNothingGrows runs for as long as SOAK_DURATION says.
func TestNothingGrows(t *testing.T) {
	t.Parallel()
	duration := setting(t, "SOAK_DURATION", 20*time.Second)
	databaseURL := pgtest.Database(t)
	goroutines := runtime.NumGoroutine()

	l := newLoad(t, databaseURL)
	started := time.Now()
	l.start()
	var samples []sample
	var early int // of them
	for at := time.Duration(0); at <= duration; at += max(time.Second/2, duration/60) {
		time.Sleep(time.Until(started.Add(at))) // the samples' pace: time is what is measured here
		s := sample{visits: l.done()}
		if at >= settled {
			s = l.sample()
		} else {
			early++
		}
		s.at = time.Since(started)
		samples = append(samples, s)
		samples[len(samples)-1].pace = pace(samples)
	}
	samples = samples[early:]
	l.stop()
	took := time.Since(started)
	l.empties()
	l.close()
	l.log(samples, took)
	if done := l.done(); l.excused.Load() > 1+done/100 {
		t.Errorf("%d of %d visits took too long", l.excused.Load(), done)
	}
	compare(t, samples)
	back(t, goroutines)
}

// load is what goes on.
type load struct {
	t         *testing.T
	ctx       context.Context
	admin     *pgx.Conn
	instances []*instance

	working, sweeping context.CancelFunc
	workers, sweepers sync.WaitGroup
	visiting          sync.RWMutex // for reading, by each visit
	visits            []atomic.Int64
	excused           atomic.Int64
}

func newLoad(t *testing.T, databaseURL string) *load {
	t.Helper()
	l := &load{t: t, ctx: context.Background(), visits: make([]atomic.Int64, len(kinds))}
	var err error
	if l.admin, err = pgx.Connect(l.ctx, databaseURL); err != nil {
		t.Fatal(err)
	}
	if err := pgstore.Migrate(l.ctx, l.admin, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	s, err := newSecrets()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		in, err := newInstance(l.ctx, databaseURL, s, slog.New(slog.NewTextHandler(failing{t}, nil)))
		if err != nil {
			t.Fatal(err)
		}
		l.instances = append(l.instances, in)
	}
	return l
}

// failing fails the test with what is logged.
type failing struct{ t *testing.T }

func (f failing) Write(line []byte) (int, error) {
	f.t.Errorf("logged: %s", line)
	return len(line), nil
}

func (l *load) start() {
	var working, sweeping context.Context
	working, l.working = context.WithCancel(l.ctx)
	sweeping, l.sweeping = context.WithCancel(l.ctx)
	for _, in := range l.instances {
		l.sweepers.Go(func() { in.sweep(sweeping) })
	}
	for range workers {
		l.workers.Go(func() { l.work(working) })
	}
}

// work makes visits until ctx ends. Those for which it was too slow it leaves out.
func (l *load) work(ctx context.Context) {
	ticker := time.NewTicker(workers * time.Second / rate)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			l.visit(random.IntN(len(kinds)))
		}
	}
}

// visit makes one visit. What went wrong in one that took so long that something may have
// expired, or that a lock was not waited for, is excused, except for what must never happen.
func (l *load) visit(kind int) {
	l.visiting.RLock()
	defer l.visiting.RUnlock()
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	began := time.Now()
	err := kinds[kind].do(newVisit(l.instances), ctx)
	switch took := time.Since(began); {
	case err == nil:
	case took > lifespan/2 && !errors.As(err, new(violation)):
		if l.excused.Add(1) <= 20 {
			l.t.Logf("excused: %s, after %v: %s", kinds[kind].name, took, explained(err))
		}
	default:
		l.t.Errorf("%s, after %v: %s", kinds[kind].name, took, explained(err))
	}
	l.visits[kind].Add(1)
}

// explained is an error with its causes, which fosite's leave out.
func explained(err error) string {
	text := fmt.Sprint(err)
	for cause := errors.Unwrap(err); cause != nil; cause = errors.Unwrap(cause) {
		text += ": " + cause.Error()
	}
	return text
}

func (l *load) done() (n int64) {
	for i := range l.visits {
		n += l.visits[i].Load()
	}
	return n
}

// stop ends the visits, and empties waits until the sweepers have left nothing.
func (l *load) stop() {
	l.working()
	l.workers.Wait()
}

// A table says nothing when its last row goes: it is asked as often as it is swept.
func (l *load) empties() {
	l.t.Helper()
	for deadline := time.Now().Add(settled + patience); ; time.Sleep(sweepInterval) {
		left := l.tables()
		for name, is := range left {
			if is.rows == 0 {
				delete(left, name)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("never swept: %v", left)
			return
		}
	}
}

func (l *load) close() {
	l.sweeping()
	l.sweepers.Wait()
	for _, in := range l.instances {
		in.pool.Close()
	}
	_ = l.admin.Close(l.ctx)
}

// sample is what there is at one moment.
type sample struct {
	at         time.Duration
	visits     int64
	pace       float64 // how many visits a second have left the rows that are there
	heap       uint64
	goroutines int
	tables     map[string]table
}

// table is how large one is, with its indexes.
type table struct{ rows, pages int64 }

// sample measures after VACUUM, which makes room as the autovacuum of a server that runs
// for longer, and between visits, after a garbage collection.
func (l *load) sample() sample {
	l.t.Helper()
	for name := range l.tables() {
		if _, err := l.admin.Exec(l.ctx, "VACUUM "+pgx.Identifier{name}.Sanitize()); err != nil {
			l.t.Fatal(err)
		}
	}
	l.visiting.Lock()
	defer l.visiting.Unlock()
	runtime.GC()
	runtime.GC() // what a sync.Pool holds goes with the second one
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return sample{visits: l.done(), heap: memory.HeapAlloc, goroutines: runtime.NumGoroutine(), tables: l.tables()}
}

// pace is that of the last sample.
func pace(samples []sample) float64 {
	last := samples[len(samples)-1]
	since := last
	for i := len(samples) - 1; i >= 0 && last.at-since.at < lifespan+retention; i-- {
		since = samples[i]
	}
	return max(1, float64(last.visits-since.visits)) / max(1, (last.at-since.at).Seconds())
}

// tables returns those into which something was ever written, by name.
func (l *load) tables() map[string]table {
	l.t.Helper()
	rows, err := l.admin.Query(l.ctx, `SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
		AND relname NOT LIKE '%migrations' AND pg_relation_size(oid) > 0`)
	if err != nil {
		l.t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		l.t.Fatal(err)
	}
	tables := map[string]table{}
	for _, name := range names {
		var is table
		query := fmt.Sprintf("SELECT count(*), pg_total_relation_size('%[1]s') / current_setting('block_size')::int FROM %[1]s", pgx.Identifier{name}.Sanitize())
		if err := l.admin.QueryRow(l.ctx, query).Scan(&is.rows, &is.pages); err != nil {
			l.t.Fatal(err)
		}
		tables[name] = is
	}
	return tables
}

// halves are the means of something in the first and in the second half of the samples.
type halves struct{ first, second float64 }

func halvesOf(samples []sample, of func(sample) float64) halves {
	mean := func(samples []sample) (sum float64) {
		for _, s := range samples {
			sum += of(s) / float64(len(samples))
		}
		return sum
	}
	middle := len(samples) / 2
	return halves{mean(samples[:middle]), mean(samples[middle:])}
}

func (h halves) grew(factor, some float64) bool { return h.second > h.first*factor+some }

func (h halves) String() string { return fmt.Sprintf("%.0f, then %.0f", h.first, h.second) }

var (
	heap       = func(s sample) float64 { return float64(s.heap) }
	goroutines = func(s sample) float64 { return float64(s.goroutines) }
	// visitsASecond of the last ones.
	visitsASecond = func(s sample) float64 { return s.pace }
	rows          = func(table string) func(sample) float64 {
		return func(s sample) float64 { return float64(s.tables[table].rows) }
	}
	pages = func(table string) func(sample) float64 {
		return func(s sample) float64 { return float64(s.tables[table].pages) }
	}
)

// names are the tables' names.
func names(samples []sample) (names []string) {
	for name := range samples[len(samples)-1].tables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// compare fails the test if the second half of the samples has more than the first.
func compare(t *testing.T, samples []sample) {
	t.Helper()
	if len(samples) < 10 {
		t.Fatalf("%d samples say nothing", len(samples))
	}
	if h := halvesOf(samples, heap); h.grew(moreHeap, someHeap) {
		t.Errorf("bytes in memory: %v", h)
	}
	if h := halvesOf(samples, goroutines); h.grew(1, someGoroutines) {
		t.Errorf("goroutines: %v", h)
	}
	visits := halvesOf(samples, visitsASecond)
	for _, name := range names(samples) {
		is := halvesOf(samples, rows(name))
		// A machine that has more time for visits has more of what comes of them.
		each := halvesOf(samples, func(s sample) float64 { return rows(name)(s) / s.pace })
		if each.grew(moreRows, someRows/visits.second) {
			t.Errorf("rows of %s: %v, for %v visits a second", name, is, visits)
		}
		if h := halvesOf(samples, pages(name)); h.grew(morePages*max(1, is.second/max(1, is.first)), somePages) {
			t.Errorf("pages of %s: %v, for %v rows", name, h, is)
		}
	}
}

// log logs what was measured.
func (l *load) log(samples []sample, took time.Duration) {
	var b strings.Builder
	for i, k := range kinds {
		fmt.Fprintf(&b, "\n  %d × %s", l.visits[i].Load(), k.name)
	}
	fmt.Fprintf(&b, "\nmeans of the first and the second half of %d samples:", len(samples))
	fmt.Fprintf(&b, "\n  visits a second: %v", halvesOf(samples, visitsASecond))
	fmt.Fprintf(&b, "\n  bytes in memory: %v\n  goroutines: %v", halvesOf(samples, heap), halvesOf(samples, goroutines))
	for _, name := range names(samples) {
		fmt.Fprintf(&b, "\n  %s: %v rows; %v pages", name, halvesOf(samples, rows(name)), halvesOf(samples, pages(name)))
	}
	l.t.Logf("%d visits in %v, of which %d are excused for what took too long:%s", l.done(), took.Round(time.Second), l.excused.Load(), &b)
}

// back waits until there are no more goroutines than at the start. The runtime tells
// nobody when one has ended.
func back(t *testing.T, start int) {
	t.Helper()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > start; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			var b strings.Builder
			_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
			t.Fatalf("%d goroutines, %d at the start\n%s", runtime.NumGoroutine(), start, &b)
		}
	}
}

// setting returns the duration in an environment variable.
func setting(t *testing.T, name string, unset time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return unset
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < unset {
		t.Fatalf("%s=%s is not a duration of at least %v", name, text, unset)
	}
	return d
}
