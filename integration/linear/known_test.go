package linear_test

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// event is a call of a history that is written down by hand.
type event struct {
	began, returned int64 // never: it did not
	call            call
	outcome         outcome
}

func minted(began, returned int64) event {
	return event{began, returned, call{Kind: mint, Number: 1, Lifespan: 10}, outcome{Result: done}}
}

func consuming(began, returned int64, attempt int, now int64, r result) event {
	e := event{began, returned, call{Kind: consume, Attempt: attempt, Now: now}, outcome{Result: r}}
	if r == done {
		e.outcome.Minted = 1
	}
	return e
}

func sweeping(began, now int64) event {
	return event{began, never, call{Kind: sweep, Now: now}, outcome{}}
}

func undone(e event) event {
	e.outcome.Undone = true
	return e
}

// TestWhatIsAndIsNotLinearizable is about the model: what it has to allow, and what it must
// not.
func TestWhatIsAndIsNotLinearizable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want    porcupine.CheckResult
		history []event
	}{
		"one wins": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, 6, 1, 5, done), consuming(4, 5, 2, 5, consumed)}},
		"two win": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, 6, 1, 5, done), consuming(4, 5, 2, 5, done)}},
		"one wins twice": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, 4, 1, 5, done), consuming(5, 6, 1, 20, done)}},
		"nobody has won, and one is told so": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, 4, 1, 5, consumed)}},
		"somebody may have won": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, never, 1, 5, unknown), consuming(4, 5, 2, 5, consumed)}},
		"somebody may win later": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, never, 1, 5, unknown), consuming(4, 5, 2, 20, expired), consuming(6, 7, 3, 20, consumed)}},
		"somebody may win, but not before the call": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, 4, 2, 5, consumed), consuming(5, never, 1, 5, unknown)}},
		"somebody cannot have won": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, never, 1, 10, unknown), consuming(4, 5, 2, 5, consumed)}},
		"the same attempt learns that it has won": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, never, 1, 5, unknown), consuming(4, 5, 1, 20, done), consuming(6, 7, 2, 20, consumed)}},
		"expired, while a winner has not committed": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, 6, 1, 9, done), consuming(4, 5, 2, 10, expired)}},
		"expired, after a winner has committed": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, 4, 1, 9, done), consuming(5, 6, 2, 10, expired)}},
		"expired at the very end": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, 4, 1, 10, expired)}},
		"won at the very end": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, 4, 1, 10, done)}},
		"won, and rolled back": {porcupine.Ok, []event{
			minted(1, 2), undone(consuming(3, 4, 1, 5, done)), consuming(5, 6, 2, 5, done)}},
		"rolled back, and yet spent": {porcupine.Illegal, []event{
			minted(1, 2), undone(consuming(3, 4, 1, 5, done)), consuming(5, 6, 2, 5, consumed)}},
		"not found before the mint": {porcupine.Ok, []event{
			minted(1, 4), consuming(2, 3, 1, 0, notFound), consuming(5, 6, 1, 5, done)}},
		"not found after the mint": {porcupine.Illegal, []event{
			minted(1, 2), consuming(3, 4, 1, 5, notFound)}},
		"swept after its retention": {porcupine.Ok, []event{
			minted(1, 2), sweeping(3, 10+retention), consuming(4, 5, 1, 10+retention, expired), consuming(6, 7, 1, 10+retention, notFound)}},
		"swept before": {porcupine.Illegal, []event{
			minted(1, 2), sweeping(3, 9+retention), consuming(4, 5, 1, 10+retention, notFound)}},
		"of another mint": {porcupine.Illegal, []event{
			minted(1, 2), {3, 4, call{Kind: consume, Attempt: 1}, outcome{Result: done, Minted: 2}}}},
		"decided once more": {porcupine.Illegal, []event{
			minted(1, 2), {3, 4, call{Kind: deny, Number: 2, Secret: 1, Lifespan: 10}, outcome{Result: done}}}},
		"repeated": {porcupine.Ok, []event{
			minted(1, 2), {3, 4, call{Kind: deny, Number: 2, Lifespan: 90}, outcome{Result: done}}, consuming(5, 6, 1, 10, expired)}},
		"minted and consumed in one": {porcupine.Ok, []event{
			{1, 2, call{Kind: answer, Number: 1, Lifespan: 10, Attempt: 1, End: commit}, outcome{Result: done, Minted: 1}}, consuming(3, 4, 2, 5, consumed)}},
		"on two grants": {porcupine.Ok, []event{
			minted(1, 2), consuming(3, 4, 1, 5, done), {5, 6, call{Kind: consume, Grant: 1, Attempt: 2}, outcome{Result: notFound}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder(0)
			for _, e := range c.history {
				r.operations = append(r.operations, porcupine.Operation{Input: e.call, Output: e.outcome, Call: e.began, Return: e.returned})
			}
			if got := r.check(); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestRecorderLeavesWhatHasNoAnswerUnderWay(t *testing.T) {
	t.Parallel()
	r := newRecorder(2)
	if next := r.call(0, call{Kind: consume})(outcome{}, "lost"); next != 2 {
		t.Errorf("its client goes on as %d", next)
	}
	if next := r.call(1, call{Kind: consume, End: rollback})(outcome{Undone: true}, "lost"); next != 1 {
		t.Errorf("the client of what was undone goes on as %d", next)
	}
	if next := r.call(1, call{Kind: consume})(outcome{Result: done}, ""); next != 1 {
		t.Errorf("the client of what was answered goes on as %d", next)
	}
	if len(r.operations) != 2 || r.operations[0].Return != never || r.operations[1].Return == never {
		t.Errorf("recorded: %+v", r.operations)
	}
}
