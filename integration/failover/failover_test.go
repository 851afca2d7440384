package failover_test

import (
	"testing"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// some is a number of authorizations that has every kind of them often.
const some = 60

// nodes are two of them: one that knows the address in front, and one that knows both
// servers.
func nodes(t *testing.T, c *pgtest.Cluster, databaseURL string) []*node {
	t.Helper()
	return []*node{newNode(t, databaseURL), newNode(t, c.Hosts(databaseURL))}
}

func TestSynchronousStandbyHasAllThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	c, database := cluster(t, pgtest.Synchronous)
	nodes := nodes(t, c, database)
	l := startLoad(t, nodes...)
	l.reach(some)
	c.Kill()
	c.Promote()
	l.reach(some)
	for kind, cases := range l.verify(nodes[0], database) {
		t.Errorf("%s: %d times, such as %s", kind, len(cases), cases[0])
	}
}

// The same load and the same check, where they must find something: the last writes
// before the failover never reach the standby.
func TestAsynchronousStandbyLacksWhatItHasNotReceived(t *testing.T) {
	t.Parallel()
	c, database := cluster(t, pgtest.Asynchronous)
	nodes := nodes(t, c, database)
	l := startLoad(t, nodes...)
	l.reach(some)
	c.Detach()
	l.reach(some)
	c.Kill()
	c.Promote()
	l.reach(some)
	problems := l.verify(nodes[0], database)
	for _, kind := range []string{lostMint, lostCode, lostToken, twice} {
		if len(problems[kind]) == 0 {
			t.Errorf("it is not found that %s", kind)
		}
		t.Logf("%s: %d times", kind, len(problems[kind]))
		delete(problems, kind)
	}
	// What was lost was lost together.
	for kind, cases := range problems {
		t.Errorf("%s: %d times, such as %s", kind, len(cases), cases[0])
	}
}
