package linear_test

import (
	"math/rand/v2"
	"time"
)

// step is one thing that a client does.
type step struct {
	// Jump, if not 0, has the clock go forward by so many seconds when no call is under
	// way, and nothing else: no statement lasts as long as a retention.
	Jump int64
	// Advance is by how many seconds the clock goes forward before the call.
	Advance int64
	Call    call
	// Process is which one makes the call.
	Process int
	// Timeout is how long the caller has patience.
	Timeout time.Duration
	Fault   fault
}

// plan is a history before it happens: what each of several clients does, one thing
// after the other; rounds in which each does one thing, all at once; and what is asked
// when all have finished and nothing fails any more. It follows from its seed; the times
// and the answers do not.
type plan struct {
	clients [][]step
	rounds  [][]step
	closing []step
}

// patience bounds what should never last. Calls that meet it count as unknown.
const patience = 20 * time.Second

// style is of which kind the plans are.
type style struct {
	processes int
	calls     int // at most, besides the closing ones
	faults    float64
}

// newPlan makes the plan with the number out of the many of a seed.
func newPlan(seed uint64, number int, s style) plan {
	r := rand.New(rand.NewPCG(seed, uint64(number)))
	p := plan{clients: make([][]step, 3+r.IntN(2))}
	grants := 2 + r.IntN(3)
	calls := 8 + r.IntN(s.calls-7)
	answers := map[int][]int{} // the secrets of each grant that mints of answers have
	for n := 1; n <= calls; n++ {
		client := r.IntN(len(p.clients))
		var next step
		switch {
		case n <= grants && r.IntN(10) != 0: // mostly, what is consumed is there
			next = newStep(r, s, n, mint)
			next.Call.Grant, next.Call.Secret, next.Call.Binding = n-1, 0, 0
		case r.IntN(15) == 0:
			next = step{Jump: oneOf[int64](r, 5, 12, retention-10, retention, retention+30)}
		default:
			next = newStep(r, s, n, oneOf(r, mint, mint, mint, deny, answer, sweep, sweep,
				consume, consume, consume, consume, consume, consume, consume, consume, consume, consume))
			next.Call.Grant = r.IntN(grants)
			secrets := answers[next.Call.Grant]
			switch {
			case next.Call.Kind == answer: // mints with a secret of its own, as the gate does
				next.Call.Secret = 1 + n
				answers[next.Call.Grant] = append(secrets, next.Call.Secret)
			case next.Call.Kind == consume && len(secrets) > 0 && r.IntN(2) == 0:
				next.Call.Secret = oneOf(r, secrets...)
			}
		}
		p.clients[client] = append(p.clients[client], next)
	}
	if r.IntN(2) == 0 { // a race for a grant that is there
		calls++
		first := newStep(r, s, calls, mint)
		first.Call.Grant, first.Call.Secret, first.Call.Binding, first.Call.Lifespan = grants, 0, 0, 15
		var race []step
		for client := range p.clients {
			calls++
			next := newStep(r, s, calls, consume)
			next.Call.Grant, next.Call.Secret, next.Call.Binding, next.Call.Attempt = grants, 0, 0, client+1
			race = append(race, next)
		}
		p.rounds = [][]step{{first}, race}
		grants++
	}
	// What became of every grant, as one sees it who may have called before or has not.
	for g := range grants {
		for _, secret := range append([]int{0}, answers[g]...) {
			calls++
			last := newStep(r, s, calls, consume)
			last.Call.Grant, last.Call.Attempt, last.Call.Secret, last.Call.Binding = g, oneOf(r, 1, attempts+1), secret, 0
			last.Call.End, last.Fault, last.Timeout = noTransaction, noFault, patience
			p.closing = append(p.closing, last)
		}
	}
	return p
}

// attempts is among how many the calls of one grant choose: the same one again is a
// retry, another one a replay.
const attempts = 4

func newStep(r *rand.Rand, s style, number int, k kind) step {
	next := step{
		Advance: int64(r.IntN(3)),
		Process: r.IntN(s.processes),
		Timeout: patience,
		Call: call{
			Number:   number,
			Kind:     k,
			Secret:   rarely(r, 1),
			Binding:  rarely(r, 1),
			Attempt:  1 + r.IntN(attempts),
			Lifespan: 1 + int64(r.IntN(12)),
		},
	}
	switch {
	case k == sweep:
	case k == answer, r.IntN(3) == 0:
		next.Call.End = oneOf(r, commit, commit, commit, rollback)
		if s.faults > 0 && r.IntN(200) == 0 {
			next.Call.End = die
		}
		next.Call.Others = r.IntN(4)
	}
	if r.Float64() < s.faults {
		next.Fault = newFault(r)
		if next.Fault.Kind == deadline {
			next.Timeout = time.Duration(r.IntN(4000)) * time.Microsecond
		}
	}
	return next
}

func oneOf[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func rarely(r *rand.Rand, n int) int {
	if r.IntN(8) == 0 {
		return n
	}
	return 0
}
