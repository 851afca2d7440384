// Package linear_test checks that consent grants on PostgreSQL are linearizable:
// that calls from several processes, some of which lose their connection, their
// process or the server half-way, can be put into one order in which each call takes
// effect at one moment between its beginning and its end, and each answer is the one
// that the model gives.
//
// model_test.go has the model, plan_test.go what is called, worker_test.go the
// processes that call, faults_test.go what goes wrong, recorder_test.go what is
// written down and how it is checked, lane_test.go what ties them together, and
// flawed_test.go storages that the check has to catch.
package linear_test

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"
)

// kind is what a call does.
type kind int

const (
	mint kind = iota
	deny
	consume
	answer // mint and consume, in one transaction
	sweep
)

// end is how the transaction of a call ends, if it has one of its own.
type end int

const (
	noTransaction end = iota
	commit
	rollback
	die // with its process
)

// call is one call of the storage. Grants, secrets, bindings and attempts are
// numbers: what matters of them is which are the same. Times are in seconds since the
// history's beginning.
type call struct {
	Number   int // of all calls of the history; what a mint stores
	Kind     kind
	Grant    int
	Secret   int
	Binding  int
	Attempt  int // never 0
	Lifespan int64
	Now      int64
	End      end
	// Others is how many further statements the transaction has before its end.
	Others int
}

// result is what a call answered.
type result int

const (
	unknown result = iota // it may have taken effect, may do so later, or never
	done
	alreadyDecided
	notFound
	mismatch
	consumed
	expired
)

// outcome is a result with what came along.
type outcome struct {
	Result result
	// Minted is the number of the call that stored the grant which a consume
	// returned, and MintedAt when it did, as the storage says.
	Minted   int
	MintedAt int64
	// Undone: what was answered was rolled back afterwards.
	Undone bool
}

// retention is for how many seconds a grant stays recognisable after it has expired.
const retention = 24 * 60 * 60

// grant is one grant as it should be: the state of the model. The zero one is not there.
type grant struct {
	exists, denied  bool
	secret, binding int
	minted          int
	mintedAt        int64
	expiresAt       int64
	spentBy         int
}

// take is the model: what a grant answers to a call, and what it is afterwards.
//
// The time is the call's own. So "expired" needs no winner to have been refused: a
// call that began late may come before one that began in time and has not committed.
func (g grant) take(c call) (outcome, grant) {
	if c.Kind == answer {
		c.Kind = mint
		o, minted := g.take(c)
		if o.Result != done {
			return o, g
		}
		g, c.Kind = minted, consume
	}
	switch {
	case c.Kind == sweep && c.Now >= g.expiresAt+retention:
		return outcome{Result: done}, grant{}
	case c.Kind == sweep, c.Kind != consume && g.exists && g.secret == c.Secret:
		return outcome{Result: done}, g
	case c.Kind != consume && g.exists:
		return outcome{Result: alreadyDecided}, g
	case c.Kind != consume:
		return outcome{Result: done}, grant{true, c.Kind == deny, c.Secret, c.Binding, c.Number, c.Now, c.Now + c.Lifespan, 0}
	case !g.exists || g.denied || g.secret != c.Secret:
		return outcome{Result: notFound}, g
	case g.binding != c.Binding:
		return outcome{Result: mismatch}, g
	case g.spentBy != 0 && g.spentBy != c.Attempt:
		return outcome{Result: consumed}, g
	case g.spentBy == 0 && c.Now >= g.expiresAt:
		return outcome{Result: expired}, g
	}
	g.spentBy = c.Attempt
	return outcome{Result: done, Minted: g.minted, MintedAt: g.mintedAt}, g
}

// model is the same for porcupine, one grant at a time. A call whose outcome is unknown
// is one that has not returned (see recorder): it may take effect at any moment after
// it began, and one that never does takes effect after everything else.
var model = porcupine.Model{
	Partition: byGrant,
	Init:      func() any { return grant{} },
	Step: func(state, input, output any) (bool, any) {
		g, c, got := state.(grant), input.(call), output.(outcome)
		want, next := g.take(c)
		switch {
		case got.Result == unknown:
			return true, next
		case got.Undone:
			want.Undone = true
			return got == want, g
		}
		return got == want, next
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%v → %v", input.(call), output.(outcome))
	},
	DescribeState: func(state any) string { return state.(grant).String() },
}

// byGrant splits a history. A sweep is a call to each of the grants, since the rows
// that it deletes need not go at the same moment.
func byGrant(history []porcupine.Operation) [][]porcupine.Operation {
	var parts [][]porcupine.Operation
	for _, o := range history {
		c := o.Input.(call)
		for len(parts) <= c.Grant {
			parts = append(parts, nil)
		}
		if c.Kind != sweep {
			parts[c.Grant] = append(parts[c.Grant], o)
		}
	}
	for _, o := range history {
		if c := o.Input.(call); c.Kind == sweep {
			for i := range parts {
				parts[i] = append(parts[i], o)
			}
		}
	}
	return slices.DeleteFunc(parts, func(p []porcupine.Operation) bool { return len(p) == 0 })
}

func (k kind) String() string {
	return [...]string{"mint", "deny", "consume", "mint and consume", "sweep"}[k]
}

func (e end) String() string { return [...]string{"no transaction", "commit", "roll back", "die"}[e] }

func (r result) String() string {
	return [...]string{"unknown", "done", "already decided", "not found", "mismatch", "consumed", "expired"}[r]
}

func (c call) String() string {
	s := fmt.Sprintf("#%d at %d: %v", c.Number, c.Now, c.Kind)
	if c.Kind == sweep {
		return s
	}
	s += fmt.Sprintf(" grant %d secret %d binding %d", c.Grant, c.Secret, c.Binding)
	if c.Kind != consume {
		s += fmt.Sprintf(" for %d s", c.Lifespan)
	}
	if c.Kind == consume || c.Kind == answer {
		s += fmt.Sprintf(" attempt %d", c.Attempt)
	}
	if c.End != noTransaction {
		s += fmt.Sprintf(", %v", c.End)
	}
	return s
}

func (o outcome) String() string {
	s := o.Result.String()
	if o.Minted != 0 {
		s += fmt.Sprintf(", minted by #%d at %d", o.Minted, o.MintedAt)
	}
	if o.Undone {
		s += ", and undone"
	}
	return s
}

func (g grant) String() string {
	switch {
	case !g.exists:
		return "none"
	case g.denied:
		return fmt.Sprintf("denied by #%d until %d", g.minted, g.expiresAt)
	}
	return fmt.Sprintf("minted by #%d at %d until %d, secret %d, binding %d, spent by attempt %d", g.minted, g.mintedAt, g.expiresAt, g.secret, g.binding, g.spentBy)
}
