package linear_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// faultKind is something that goes wrong during a call.
type faultKind int

const (
	none          faultKind = iota
	cutStatement            // the connection ends after some bytes to the server
	cutAnswer               // the connection ends after some bytes from the server
	cutAll                  // every connection ends
	refuse                  // every connection ends, and there is no new one during the call
	terminate               // the server ends a session
	cancel                  // the server cancels a statement
	deadline                // the caller has lost its patience
	killProcess             // the caller's process is killed
	processDied             // the caller's process ended itself inside a transaction
	serverCrashed           // the server was killed and started again
)

var faultNames = map[faultKind]string{
	cutStatement: "statement cut off", cutAnswer: "answer cut off", cutAll: "all connections cut", refuse: "connections refused",
	terminate: "session terminated", cancel: "statement cancelled", deadline: "deadline met", killProcess: "process killed",
	processDied: "process died in its transaction", serverCrashed: "server killed and started again",
}

func (k faultKind) String() string { return faultNames[k] }

// fault is one that is planned.
type fault struct {
	Kind  faultKind
	Bytes int64 // that pass before a cut
}

var noFault = fault{}

func (f fault) String() string {
	if f.Kind == cutStatement || f.Kind == cutAnswer {
		return fmt.Sprintf("%v after %d bytes", f.Kind, f.Bytes)
	}
	return f.Kind.String()
}

func newFault(r *rand.Rand) fault {
	switch n := r.IntN(200); {
	case n < 4:
		return fault{Kind: killProcess}
	case n < 10:
		return fault{Kind: refuse}
	case n < 20:
		return fault{Kind: cutAll}
	case n < 60:
		return fault{Kind: cutStatement, Bytes: int64(r.IntN(1200))}
	case n < 100:
		return fault{Kind: cutAnswer, Bytes: int64(r.IntN(300))}
	case n < 130:
		return fault{Kind: terminate}
	case n < 160:
		return fault{Kind: cancel}
	}
	return fault{Kind: deadline}
}

// saboteur causes faults for the calls of a lane.
type saboteur struct {
	proxy *pgtest.Proxy
	admin *pgxpool.Pool // not through the proxy
	name  string        // application_name of the lane's connections
	count func(faultKind)

	mu   sync.Mutex
	cuts map[faultKind]<-chan struct{} // that were ordered and not seen yet
}

// during starts a fault. The returned function ends it when the call has ended.
func (s *saboteur) during(ctx context.Context, f fault, w *worker) (end func()) {
	switch f.Kind {
	case cutStatement:
		s.order(f, pgtest.ToServer)
	case cutAnswer:
		s.order(f, pgtest.ToClient)
	case cutAll:
		s.proxy.Cut()
		s.count(cutAll)
	case refuse:
		s.proxy.Refuse()
		s.proxy.Cut()
		s.count(refuse)
		return s.proxy.Heal
	case killProcess:
		// Together with the call: at its start, half-way, or when it has ended.
		return together(func() {
			if w.kill() {
				s.count(killProcess)
			}
		})
	case terminate:
		return together(func() { s.signal(ctx, terminate, "pg_terminate_backend") })
	case cancel:
		return together(func() { s.signal(ctx, cancel, "pg_cancel_backend") })
	}
	return func() {}
}

// together runs f beside what is done until the returned function is called.
func together(f func()) (wait func()) {
	var running sync.WaitGroup
	running.Go(f)
	return running.Wait
}

// order has the proxy cut a connection, whichever is the next to pass so many bytes.
func (s *saboteur) order(f fault, d pgtest.Direction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collect(f.Kind)
	s.cuts[f.Kind] = s.proxy.CutAfter(d, f.Bytes)
}

// collect counts a cut that has happened.
func (s *saboteur) collect(k faultKind) {
	select {
	case <-s.cuts[k]:
		s.count(k)
	default:
	}
	delete(s.cuts, k)
}

// signal has the server do something to a session of the lane, to a busy one if there is
// one.
func (s *saboteur) signal(ctx context.Context, k faultKind, function string) {
	var busy, hit bool
	err := s.admin.QueryRow(ctx, `
		SELECT state <> 'idle', `+function+`(pid) FROM pg_stat_activity
		WHERE application_name = $1 ORDER BY state = 'idle', random() LIMIT 1`, s.name).Scan(&busy, &hit)
	if err == nil && hit && (busy || k == terminate) {
		s.count(k)
	}
}

// heal ends everything that was ordered.
func (s *saboteur) heal() {
	s.proxy.Heal()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collect(cutStatement)
	s.collect(cutAnswer)
}
