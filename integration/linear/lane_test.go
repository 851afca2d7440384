package linear_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// lane is where one history happens at a time: a table, a clock, and processes that
// reach the table through one proxy.
type lane struct {
	t        testing.TB
	style    style
	counts   *counts
	clock    clock
	workers  []*worker
	saboteur *saboteur
	runs     uint64
	// calling, if set, is called before each call, and settling before the closing ones.
	calling, settling func()
}

// isolations are the levels of the transactions; each lane has one.
var isolations = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.ReadCommitted, pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

// modes are pgx's ways to send a statement; each lane has one.
var modes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
}

// newLane makes one for a storage. The admin's connections are never cut, those of its
// workers go to the URL, which leads through the proxy.
func newLane(t testing.TB, number int, storage string, s style, admin *pgxpool.Pool, proxy *pgtest.Proxy, url string) *lane {
	t.Helper()
	config := workerConfig{
		URL: url, Name: fmt.Sprintf("lane %d of %s", number, t.Name()), Mode: modes[number%len(modes)],
		Isolation: isolations[number%len(isolations)], Prefix: fmt.Sprintf("lane_%d_", number), Storage: storage,
	}
	config.Name = config.Name[:min(len(config.Name), 63)] // as the server does
	if err := storages[storage].migrate(context.Background(), admin, config.Prefix); err != nil {
		t.Fatal(err)
	}
	l := &lane{t: t, style: s, counts: newCounts()}
	l.saboteur = &saboteur{proxy: proxy, admin: admin, name: config.Name, count: l.counts.fault, cuts: map[faultKind]<-chan struct{}{}}
	for range s.processes {
		l.workers = append(l.workers, &worker{t: t, config: config, onDied: func() { l.counts.fault(processDied) }})
	}
	t.Cleanup(func() {
		for _, w := range l.workers {
			w.stop()
		}
	})
	return l
}

// newLanes makes several in a database of their own, each with a proxy.
func newLanes(t testing.TB, n int, storage string, s style) []*lane {
	t.Helper()
	url := pgtest.Database(t)
	admin := pgtest.PoolAt(t, url)
	var lanes []*lane
	for i := range n {
		proxy, through := pgtest.ProxyTo(t, url)
		lanes = append(lanes, newLane(t, i, storage, s, admin, proxy, through))
	}
	return lanes
}

// clock is what the time is in all processes: each call takes it along.
type clock struct {
	calls sync.RWMutex // held for reading by those that are under way
	now   atomic.Int64
}

// call starts a call, so many seconds after the one before. It returns the time, and a
// function for the call's end.
func (c *clock) call(advance int64) (now int64, end func()) {
	c.calls.RLock()
	return c.now.Add(advance), c.calls.RUnlock
}

func (c *clock) jump(by int64) {
	c.calls.Lock()
	defer c.calls.Unlock()
	c.now.Add(by)
}

// run has a plan happen.
func (l *lane) run(p plan) *recorder {
	r := newRecorder(len(p.clients))
	l.runs++
	start := l.clock.now.Load()
	names := make([]int, len(p.clients)) // by which the clients go now
	var clients sync.WaitGroup
	for client, steps := range p.clients {
		clients.Go(func() {
			names[client] = client
			for _, s := range steps {
				names[client] = l.step(r, start, names[client], s)
			}
		})
	}
	clients.Wait()
	for _, round := range p.rounds {
		for client, s := range round {
			clients.Go(func() { names[client] = l.step(r, start, names[client], s) })
		}
		clients.Wait()
	}
	if l.settling != nil {
		l.settling()
	}
	l.saboteur.heal()
	for _, s := range p.closing {
		names[0] = l.step(r, start, names[0], s)
	}
	return r
}

func (l *lane) step(r *recorder, start int64, client int, s step) int {
	if s.Jump != 0 {
		l.clock.jump(s.Jump)
		return client
	}
	now, ended := l.clock.call(s.Advance)
	defer ended()
	s.Call.Now = now - start
	w := l.workers[s.Process]
	if s.Fault.Kind != none {
		r.note(s.Fault.String())
	}
	healed := l.saboteur.during(context.Background(), s.Fault, w)
	if l.calling != nil {
		l.calling()
	}
	answered := r.call(client, s.Call)
	got, detail := w.do(request{Run: l.runs, Start: start, Call: s.Call, Timeout: s.Timeout})
	client = answered(got, detail)
	healed()
	l.counts.call(s.Call, got)
	if s.Fault.Kind == deadline && got.Result == unknown && strings.Contains(detail, context.DeadlineExceeded.Error()) {
		l.counts.fault(deadline)
	}
	return client
}

// violation is a history that has no order.
type violation struct {
	number  int
	history *recorder
}

// check checks a history that has happened, and returns it if it has no order.
func (l *lane) check(seed uint64, number int, r *recorder) *violation {
	l.counts.history()
	switch r.check() {
	case porcupine.Illegal:
		return &violation{number, r}
	case porcupine.Unknown:
		l.t.Errorf("history %d of LINEAR_SEED=%d could not be checked in %v", number, seed, checkTimeout)
	}
	return nil
}

// patienceWithMachine is after how long a machine that has much else to do is asked for
// no more histories than the least.
const patienceWithMachine = 45 * time.Second

// explore has histories happen in all lanes, until the first violation or failure: as many
// as most, or fewer if that takes long, but not fewer than least. Their plans are the first
// ones of the seed.
func explore(t testing.TB, lanes []*lane, seed uint64, least, most int) (*counts, *violation) {
	t.Helper()
	start := time.Now()
	var next atomic.Int64
	var found atomic.Pointer[violation]
	var running sync.WaitGroup
	for _, l := range lanes {
		running.Go(func() {
			for found.Load() == nil && !t.Failed() {
				number := int(next.Add(1)) - 1
				if number >= most || number >= least && time.Since(start) > patienceWithMachine {
					return
				}
				r := l.run(newPlan(seed, number, l.style))
				if v := l.check(seed, number, r); v != nil {
					found.CompareAndSwap(nil, v)
				}
			}
		})
	}
	running.Wait()
	total := newCounts()
	for _, l := range lanes {
		total.add(l.counts)
	}
	return total, found.Load()
}

// counts counts what happened.
type counts struct {
	mu           sync.Mutex
	histories    int
	calls        map[kind]int
	transactions map[end]int
	results      map[result]int
	undone       int
	faults       map[faultKind]int
}

func newCounts() *counts {
	return &counts{calls: map[kind]int{}, transactions: map[end]int{}, results: map[result]int{}, faults: map[faultKind]int{}}
}

func (c *counts) history() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.histories++
}

func (c *counts) call(call call, got outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call.Kind]++
	if call.End != noTransaction {
		c.transactions[call.End]++
	}
	c.results[got.Result]++
	if got.Undone {
		c.undone++
	}
}

func (c *counts) fault(k faultKind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[k]++
}

func (c *counts) add(other *counts) {
	other.mu.Lock()
	defer other.mu.Unlock()
	c.histories += other.histories
	c.undone += other.undone
	addTo(c.calls, other.calls)
	addTo(c.transactions, other.transactions)
	addTo(c.results, other.results)
	addTo(c.faults, other.faults)
}

func addTo[K comparable](sums, m map[K]int) {
	for k, n := range m {
		sums[k] += n
	}
}

func (c *counts) String() string {
	return fmt.Sprintf("%d histories; calls: %s; transactions: %s; answers: %s, of which %d were undone; faults: %s",
		c.histories, list(c.calls), list(c.transactions), list(c.results), c.undone, list(c.faults))
}

// list prints numbers and their sum.
func list[K interface {
	comparable
	fmt.Stringer
}](m map[K]int) string {
	var sum int
	var each []string
	for k, n := range m {
		sum += n
		each = append(each, fmt.Sprintf("%v %d", k, n))
	}
	slices.Sort(each)
	return fmt.Sprintf("%d (%s)", sum, strings.Join(each, ", "))
}
