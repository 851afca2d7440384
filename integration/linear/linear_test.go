package linear_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// TestConsentGrantsAreLinearizable checks as many histories as LINEAR_HISTORIES says; if it
// says nothing 2,000, or fewer where that takes too long, but at least 200.
func TestConsentGrantsAreLinearizable(t *testing.T) {
	t.Parallel()
	for storage, share := range map[string]int{"pgstore": 4, "pgstore in transactions of the host's": 1} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			seed, most := seedOf(t), share*setting(t, "LINEAR_HISTORIES", 2000)/5
			least := most
			if os.Getenv("LINEAR_HISTORIES") == "" {
				least /= 10
			}
			total, found := explore(t, newLanes(t, share, storage, style{processes: 2, calls: 14, faults: 0.05}), seed, least, most)
			t.Log(total)
			report(t, seed, found)
			if total.histories >= 800 && found == nil {
				total.checkVariety(t)
			}
		})
	}
}

// TestNothingIsUnknownUnlessSomethingFails is about what the check cannot see: an error
// fits into every history.
func TestNothingIsUnknownUnlessSomethingFails(t *testing.T) {
	t.Parallel()
	for _, storage := range []string{"pgstore", "pgstore in transactions of the host's"} {
		t.Run(storage, func(t *testing.T) {
			t.Parallel()
			seed := seedOf(t)
			total, found := explore(t, newLanes(t, 1, storage, style{processes: 2, calls: 14}), seed, 60, 60)
			t.Log(total)
			report(t, seed, found)
			if n := total.results[unknown]; n > 0 {
				t.Errorf("%d answers are unknown", n)
			}
		})
	}
}

// TestConsentGrantsAreLinearizableAlthoughTheServerCrashes checks as many histories as
// LINEAR_CRASHES says, in each of which the server is killed once.
func TestConsentGrantsAreLinearizableAlthoughTheServerCrashes(t *testing.T) {
	t.Parallel()
	seed, histories := seedOf(t), setting(t, "LINEAR_CRASHES", 5)
	server := pgtest.Dedicated(t)
	url := server.Database()
	l := newLane(t, 0, "pgstore", style{processes: 2, calls: 40, faults: 0.04}, pgtest.PoolAt(t, url), server.Proxy(), url)
	for number := range histories {
		p := newPlan(seed, number, l.style)
		var steps int
		for _, c := range p.clients {
			steps += len(c)
		}
		var mu sync.Mutex
		fatal := 1 + rand.New(rand.NewPCG(seed, uint64(number))).IntN(steps/2) // the call at which it happens
		crash, recovered := make(chan struct{}), make(chan struct{})
		l.calling = func() {
			mu.Lock()
			defer mu.Unlock()
			if fatal--; fatal == 0 {
				close(crash)
			}
		}
		l.settling = func() { <-recovered }
		history := make(chan *recorder)
		go func() { history <- l.run(p) }()
		<-crash
		server.Kill()
		server.Start()
		l.counts.fault(serverCrashed)
		close(recovered)
		if v := l.check(seed, number, <-history); v != nil {
			report(t, seed, v)
			break
		}
	}
	t.Log(l.counts)
	if l.counts.results[unknown] == 0 || l.counts.results[done] == 0 {
		t.Error("nobody noticed that the server was gone, or that it came back")
	}
}

// checkVariety fails the test if something that was meant to happen never did.
func (c *counts) checkVariety(t *testing.T) {
	t.Helper()
	for k := mint; k <= sweep; k++ {
		atLeastOnce(t, c.calls, k)
	}
	for e := commit; e <= die; e++ {
		atLeastOnce(t, c.transactions, e)
	}
	for f := cutStatement; f < serverCrashed; f++ {
		atLeastOnce(t, c.faults, f)
	}
	if c.undone == 0 {
		t.Error("nothing was undone")
	}
	c.checkAnswers(t)
}

// checkAnswers is the part of checkVariety that is about a storage's own doing.
func (c *counts) checkAnswers(t *testing.T) {
	t.Helper()
	for r := unknown; r <= expired; r++ {
		atLeastOnce(t, c.results, r)
	}
	var answers int
	for _, n := range c.results {
		answers += n
	}
	if c.results[unknown] > answers/5 {
		t.Errorf("%d of %d outcomes are unknown: too many to learn something", c.results[unknown], answers)
	}
}

func atLeastOnce[K interface {
	comparable
	String() string
}](t *testing.T, m map[K]int, k K) {
	t.Helper()
	if m[k] == 0 {
		t.Errorf("never: %v", k)
	}
}

// report fails the test for a violation.
func report(t *testing.T, seed uint64, v *violation) {
	t.Helper()
	if v == nil {
		return
	}
	text, path, err := v.history.explain("")
	if err != nil {
		t.Error(err)
	}
	t.Errorf("history %d of LINEAR_SEED=%d is not linearizable; for a picture open %s\n%s", v.number, seed, path, text)
}

// seedOf returns LINEAR_SEED or a random seed. It makes the same plans again; what
// happens still depends on how the processes are scheduled, so that a violation may need
// many runs to show itself again.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("LINEAR_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LINEAR_SEED: %v", err)
		}
	}
	t.Logf("LINEAR_SEED=%d", seed)
	return seed
}

// setting returns the number in an environment variable.
func setting(t *testing.T, name string, unset int) int {
	t.Helper()
	text := strings.TrimSpace(os.Getenv(name))
	if text == "" {
		return unset
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is not a number of histories", name, text)
	}
	return n
}
