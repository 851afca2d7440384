package linear_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// recorder writes down one history. Moments are numbers of a counter that all share: what
// counts is which call ended before which other one began.
type recorder struct {
	mu          sync.Mutex
	moment      int64
	clients     int
	operations  []porcupine.Operation
	annotations []porcupine.Annotation
}

// newRecorder makes one for so many clients.
func newRecorder(clients int) *recorder { return &recorder{clients: clients} }

// never is after everything.
const never = math.MaxInt64

// call writes down that a client makes a call, before it does. The returned function
// writes down what came of it, after it has, and returns the number that the client goes
// by from then on: a call without an answer is still under way, and its client has no time
// for another.
func (r *recorder) call(client int, c call) func(outcome, string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moment++
	began := r.moment
	return func(got outcome, detail string) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.moment++
		o := porcupine.Operation{ClientId: client, Input: c, Call: began, Output: got, Return: r.moment, Metadata: detail}
		switch {
		case got.Result == unknown && got.Undone:
			return client // it has told nothing and changed nothing
		case got.Result == unknown, c.Kind == sweep:
			// What is past its retention may go from now on; when it does is not promised, and a
			// row that is locked is left for the next time.
			o.Output, o.Return = outcome{}, never
			r.clients++
			client = r.clients - 1
		}
		r.operations = append(r.operations, o)
		return client
	}
}

// note writes down something that happens at a moment and is no call.
func (r *recorder) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moment++
	r.annotations = append(r.annotations, porcupine.Annotation{Tag: "faults", Start: r.moment, Description: text})
}

// checkTimeout is for one history; it takes microseconds as a rule. One that takes longer
// fails the test.
const checkTimeout = 20 * time.Second

// check has porcupine look for an order.
func (r *recorder) check() porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model, r.operations, checkTimeout)
}

// explain returns the parts of the history for which there is no order, and writes
// porcupine's picture of all of it to a new file in dir, whose path it returns.
func (r *recorder) explain(dir string) (text, path string, err error) {
	file, err := os.CreateTemp(dir, "not-linearizable-*.html")
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	_, info := porcupine.CheckOperationsVerbose(model, r.operations, checkTimeout)
	info.AddAnnotations(r.annotations)
	if err := porcupine.Visualize(model, info, file); err != nil {
		return "", "", err
	}
	var b strings.Builder
	for _, part := range byGrant(r.operations) {
		if porcupine.CheckOperationsTimeout(model, part, checkTimeout) == porcupine.Ok {
			continue
		}
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		for _, o := range part {
			returned := fmt.Sprint(o.Return)
			if o.Return == never {
				returned = "…"
			}
			fmt.Fprintf(&b, "  [%d, %s] client %d, %s %s\n", o.Call, returned, o.ClientId, model.DescribeOperation(o.Input, o.Output), o.Metadata)
		}
	}
	return b.String(), file.Name(), nil
}
