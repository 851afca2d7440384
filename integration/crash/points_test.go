// Package crash_test injects a fault before and after everything that happens
// between an authorization response and the database, and looks at what is left: the
// grant is consumed if, and only if, the code, its PKCE data and its OpenID Connect
// session are there, and with them the consent, its response and their record in the log; and the same approval, presented again, either leads to a code or
// is refused because it already has. The points are not listed by hand: a first
// response, which nothing happens to, is watched, and tells how many there are.
package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// way is a way to a response.
type way struct{ minted, pushed bool }

var ways = map[string]way{
	"a grant that was minted before":          {minted: true},
	"a decision that is minted with it":       {},
	"a decision on a request that was pushed": {pushed: true},
}

// site is a database, and a server on it that nothing happens to.
type site struct {
	url     string
	healthy *server

	mu       sync.Mutex
	subjects int
	points   map[string]int
	outcomes map[string]int
}

func newSite(t *testing.T, databaseURL string) *site {
	t.Helper()
	pool := pgtest.PoolAt(t, databaseURL)
	if err := pgstore.Migrate(context.Background(), pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	healthy, err := newServer(pool, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{url: databaseURL, healthy: healthy, points: map[string]int{}, outcomes: map[string]int{}}
	t.Cleanup(func() {
		t.Logf("crash points: %v; what the retry met: %v", s.points, s.outcomes)
	})
	return s
}

func (s *site) subject() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subjects++
	return "user-" + strconv.Itoa(s.subjects)
}

func (s *site) count(kind, outcome string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points[kind]++
	s.outcomes[outcome]++
}

// approve makes an approval on the healthy server.
func (s *site) approve(t *testing.T, way way) approval {
	t.Helper()
	a, err := s.healthy.prepare(context.Background(), s.subject(), way)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// verify presents the approval again, which waits for whatever is left of the first
// time, and looks at the tables.
func (s *site) verify(t *testing.T, kind string, a approval, code string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if (code == "") == (err == nil) {
		t.Errorf("the response was %q with the error %v", code, err)
	}
	again, retryErr := s.healthy.respond(ctx, a)
	outcome := "success"
	switch {
	case retryErr == nil && code != "":
		t.Errorf("a second code was issued")
	case retryErr == nil && again == "":
		t.Error("the retry returned neither a code nor an error")
	case retryErr == nil:
	case errors.Is(retryErr, fositeconsent.ErrGrantConsumed), errors.Is(retryErr, fositeconsent.ErrAlreadyDecided):
		outcome = "refused: there is a code already"
	default:
		t.Errorf("the retry was refused for the wrong reason: %v", retryErr)
	}
	s.count(kind, outcome)

	var consumed, grants, codes, complete, consents, responses, records int
	err = s.healthy.pool.QueryRow(ctx, `
SELECT (SELECT count(*) FROM consent_grants WHERE subject = $1 AND consumed_at IS NOT NULL),
       (SELECT count(*) FROM consent_grants WHERE subject = $1),
       (SELECT count(*) FROM consent_codes WHERE subject = $1),
       (SELECT count(*) FROM consent_codes WHERE subject = $1 AND pkce IS NOT NULL AND openid IS NOT NULL),
       (SELECT count(*) FROM consent_consents WHERE subject = $1),
       (SELECT count(*) FROM consent_responses AS r JOIN consent_consents AS c ON c.id = r.consent_id
        JOIN consent_codes AS k ON k.request_id = r.request_id WHERE c.subject = $1),
       (SELECT count(*) FROM consent_decisions AS d JOIN consent_consents AS c ON d.consent_ids = ARRAY[c.id]
        WHERE d.subject = $1 AND d.outcome = CASE WHEN $2 THEN 'passed' ELSE 'approved' END)`, a.Subject, a.Token != "").
		Scan(&consumed, &grants, &codes, &complete, &consents, &responses, &records)
	if err != nil {
		t.Fatal(err)
	}
	if consumed != 1 || grants != 1 || codes != 1 || complete != 1 {
		t.Errorf("after the retry (%s) there are %d grants, %d of them consumed, and %d codes, %d of them with PKCE and OpenID data: expected one of each",
			outcome, grants, consumed, codes, complete)
	}
	if consents != 1 || responses != 1 || records != 1 {
		t.Errorf("after the retry (%s) there are %d consents, %d responses of theirs and %d records of them in the log: expected one of each",
			outcome, consents, responses, records)
	}
}

// watch makes one response that nothing happens to and returns the messages of each of
// its round trips.
func (s *site) watch(t *testing.T, way way) []int {
	t.Helper()
	w := &wire{}
	srv := s.faulty(t, w, nil)
	a := s.approve(t, way)
	w.arm(nil, false, nil)
	code, err := srv.respond(context.Background(), a)
	trips, _ := w.disarm()
	if err != nil || code == "" || len(trips) < 1 {
		t.Fatalf("%d round trips, error %v", len(trips), err)
	}
	return trips
}

// faulty returns a server whose connections are watched. One is open already.
func (s *site) faulty(t *testing.T, w *wire, fault injector) *server {
	t.Helper()
	return s.faultyIn(t, eachForItself, impatience, w, fault)
}

func (s *site) faultyIn(t *testing.T, mode pgx.QueryExecMode, commitTimeout time.Duration, w *wire, fault injector) *server {
	t.Helper()
	pool, err := connect(s.url, w, mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := pool.Ping(context.Background()); err != nil {
		t.Fatal(err)
	}
	srv, err := newServer(pool, fault, commitTimeout)
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// plans are all points of the round trips: before the first message of each, between
// any two, after the last, and after the answer.
func plans(trips []int, everyMessage bool) []plan {
	var list []plan
	for write, messages := range trips {
		for n := 0; n <= messages; n++ {
			if everyMessage || n == 0 || n == messages {
				list = append(list, plan{write: write, messages: n})
			}
		}
		list = append(list, plan{write: write, answer: true})
	}
	return list
}

func (p plan) String() string {
	if p.answer {
		return fmt.Sprintf("round trip %d, the answer", p.write+1)
	}
	return fmt.Sprintf("round trip %d after %d messages", p.write+1, p.messages)
}

func TestCrashPoints(t *testing.T) {
	t.Parallel()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Database(t))
			trips := s.watch(t, way)
			t.Logf("messages of each round trip: %v", trips)
			t.Run("a call of a storage fails", func(t *testing.T) { s.failedCalls(t, way) })
			for _, p := range plans(trips, true) {
				t.Run("the connection is cut at "+p.String(), func(t *testing.T) {
					s.inProcess(t, "connection cut", way, p, false)
				})
				if way.pushed { // no more than that: it differs in what one transaction holds
					continue
				}
				t.Run("the network swallows all from "+p.String(), func(t *testing.T) {
					s.inProcess(t, "black hole", way, p, true)
				})
				t.Run("the process is killed at "+p.String(), func(t *testing.T) {
					s.killedProcess(t, way, p)
				})
			}
		})
	}
}

// failedCalls has each call that the handlers make of the storages fail.
func (s *site) failedCalls(t *testing.T, way way) {
	dry := &calls{}
	if _, err := s.faulty(t, &wire{}, dry).respond(context.Background(), s.approve(t, way)); err != nil {
		t.Fatal(err)
	}
	for _, call := range dry.seen {
		a := s.approve(t, way)
		code, err := s.faulty(t, &wire{}, &calls{at: call}).respond(context.Background(), a)
		if err == nil {
			t.Errorf("%s: no error", call)
		}
		s.verify(t, "storage error", a, code, err)
	}
}

func (s *site) inProcess(t *testing.T, kind string, way way, p plan, keep bool) {
	t.Parallel()
	w := &wire{}
	srv := s.faulty(t, w, nil)
	a := s.approve(t, way)
	w.arm(&p, keep, nil)
	limit := patience
	if keep { // nothing else ends it
		limit = 500 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	code, err := srv.respond(ctx, a)
	if _, fired := w.disarm(); !fired {
		t.Fatal("the point was not reached")
	}
	w.end()
	s.verify(t, kind, a, code, err)
}

// The child is this test binary, run once more as the process that is killed.
const childVariable = "CRASH_TEST_CHILD"

type childTask struct {
	URL      string
	Approval approval
	Call     call // instead, if it has an endpoint
	Plan     [3]int
}

func (s *site) killedProcess(t *testing.T, way way, p plan) {
	t.Parallel()
	a := s.approve(t, way)
	s.verify(t, "SIGKILL", a, "", kill(t, childTask{URL: s.url, Approval: a}, p))
}

// kill has a child do the task and die at the point, and returns how it ended.
func kill(t *testing.T, task childTask, p plan) error {
	t.Helper()
	task.Plan = [3]int{p.write, p.messages, 0}
	if p.answer {
		task.Plan[2] = 1
	}
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the process was not killed: %v\n%s", err, out)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the process ended by itself: %v\n%s", err, out)
	}
	return err
}

// child makes one response, or one call, and kills itself on the way.
func child() int {
	var task childTask
	if err := json.Unmarshal([]byte(os.Getenv(childVariable)), &task); err != nil {
		fmt.Println(err)
		return 2
	}
	w := &wire{}
	pool, err := connect(task.URL, w, eachForItself)
	if err == nil {
		err = pool.Ping(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return 2
	}
	srv, err := newServer(pool, nil, impatience)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	w.arm(&plan{write: task.Plan[0], messages: task.Plan[1], answer: task.Plan[2] == 1}, false, func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it takes a moment
	})
	if task.Call.Endpoint != "" {
		_, err = srv.call(context.Background(), task.Call)
	} else {
		_, err = srv.respond(context.Background(), task.Approval)
	}
	fmt.Println("not killed:", err)
	return 3
}

// The server, too: at the beginning and the end of each round trip.
func TestCrashPointsOfTheDatabase(t *testing.T) {
	t.Parallel()
	database := pgtest.Dedicated(t)
	s := newSite(t, database.Database())
	for name, way := range ways {
		if way.pushed {
			continue
		}
		for _, p := range plans(s.watch(t, way), false) {
			t.Run(name+": the database is killed at "+p.String(), func(t *testing.T) {
				s.withDatabase(t, "database killed", way, p, false, database.Kill, database.Start)
			})
			t.Run(name+": the database is paused at "+p.String(), func(t *testing.T) {
				s.withDatabase(t, "database paused", way, p, true, database.Pause, database.Unpause)
			})
		}
	}
}

func (s *site) withDatabase(t *testing.T, kind string, way way, p plan, keep bool, fail, heal func()) {
	w := &wire{}
	srv := s.faulty(t, w, nil)
	a := s.approve(t, way)
	w.arm(&p, keep, fail)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	code, err := srv.respond(ctx, a)
	_, fired := w.disarm()
	heal()
	if !fired {
		t.Fatal("the point was not reached")
	}
	w.end()
	wait(t, s.healthy.pool)
	s.verify(t, kind, a, code, err)
}

// wait waits for the database to answer on connections that live.
func wait(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pool.Reset()
	for pool.Ping(ctx) != nil {
		if ctx.Err() != nil {
			t.Fatal("the database does not come back")
		}
	}
}
