package linear_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// TestMain is also the main function of the workers: processes of this same program.
func TestMain(m *testing.M) {
	if config := os.Getenv(workerVariable); config != "" {
		if err := work(config); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	pgtest.Main(m)
}

const workerVariable = "LINEAR_WORKER"

// workerConfig is what a worker is told at its start.
type workerConfig struct {
	URL, Name string
	Mode      pgx.QueryExecMode
	Isolation pgx.TxIsoLevel
	Prefix    string // of its tables
	Storage   string // the name of one of the storages
}

// request asks a worker for a call.
type request struct {
	Number uint64 // of the request
	Run    uint64 // of the history: each has grants of its own
	Start  int64  // when the history began, in seconds
	Call   call
	// Timeout is how long the call may take.
	Timeout time.Duration
}

// response is what came of it. Detail is the error's text.
type response struct {
	Number  uint64
	Outcome outcome
	Detail  string
}

// storage is what a worker calls.
type storage interface {
	fositeconsent.GrantStorage
	Sweep(ctx context.Context) (int64, error)
	// BeginTX, Commit and Rollback follow fosite's convention: calls with the returned
	// context are in the transaction. An error of Commit with the SQLSTATE 40003
	// (statement_completion_unknown) says that the transaction may have been committed, any
	// other that it was not.
	BeginTX(ctx context.Context) (context.Context, error)
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// work is what a worker does: it makes calls, as many at once as it is asked for, until
// nobody asks any more.
func work(configuration string) error {
	var c workerConfig
	if err := json.Unmarshal([]byte(configuration), &c); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return err
	}
	config.MaxConns = 4
	config.ConnConfig.RuntimeParams["application_name"] = c.Name
	config.ConnConfig.DefaultQueryExecMode = c.Mode
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	implementation, ok := storages[c.Storage]
	if !ok {
		return fmt.Errorf("there is no storage %q", c.Storage)
	}
	open, err := implementation.open(pool, c)
	if err != nil {
		return err
	}
	in, out := gob.NewDecoder(os.Stdin), gob.NewEncoder(os.Stdout)
	var answering sync.Mutex
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			return nil //nolint:nilerr // whoever asked has gone, and this process goes too
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
			defer cancel()
			answer := response{Number: r.Number}
			got, err := r.run(ctx, open(func() time.Time { return r.time(r.Call.Now) }))
			answer.Outcome = got
			if err != nil {
				answer.Detail = err.Error()
			}
			answering.Lock()
			defer answering.Unlock()
			_ = out.Encode(answer) // nobody is left to be told, if this fails
		}()
	}
}

// epoch is when the first history of all begins.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func (r request) time(at int64) time.Time { return epoch.Add(time.Duration(r.Start+at) * time.Second) }

// run makes the call, in a transaction if it has one.
func (r request) run(ctx context.Context, s storage) (outcome, error) {
	if r.Call.End == noTransaction {
		return r.call(ctx, s)
	}
	tx, err := s.BeginTX(ctx)
	if err != nil {
		return outcome{Undone: true}, fmt.Errorf("begin: %w", err)
	}
	got, err := r.call(tx, s)
	if r.Call.End == die {
		os.Exit(diedInTransaction)
	}
	others := r.Call.Others
	if r.Call.End == rollback { // a mint that was put off is answered when it is sent
		others = max(1, others)
	}
	for range others {
		other, otherErr := asOutcome(r.other(tx, s))
		if other.Result == alreadyDecided {
			return outcome{Result: alreadyDecided, Undone: true}, s.Rollback(tx)
		}
		if otherErr != nil {
			got = r.unanswered(got)
			err = errors.Join(err, fmt.Errorf("another statement: %w", otherErr))
			break
		}
	}
	// Who is refused has nothing to commit, unless it was a consume alone: then it is tried.
	if r.Call.End == rollback || err != nil || r.Call.Kind == answer && got.Result != done {
		got.Undone = true
		return got, errors.Join(err, s.Rollback(tx))
	}
	switch err := s.Commit(tx); {
	case err == nil:
		return got, nil
	case errors.Is(err, fositeconsent.ErrAlreadyDecided):
		return outcome{Result: alreadyDecided, Undone: true}, nil
	case mayBeCommitted(err):
		return outcome{}, fmt.Errorf("commit: %w", err)
	default:
		got = r.unanswered(got)
		got.Undone = true
		return got, fmt.Errorf("commit: %w", err)
	}
}

// unanswered takes a mint's answer back: what should have sent it has failed for
// another reason.
func (r request) unanswered(got outcome) outcome {
	if r.Call.Kind == consume {
		return got
	}
	return outcome{}
}

// diedInTransaction is the exit code of a process that was asked to.
const diedInTransaction = 77

func mayBeCommitted(err error) bool {
	var state interface{ SQLState() string }
	return errors.As(err, &state) && state.SQLState() == "40003"
}

// other is a statement that changes nothing: nobody has minted what it asks for.
func (r request) other(ctx context.Context, s storage) error {
	p := r.presentation()
	p.ID = first16(r.hash("no grant"))
	_, err := s.ConsumeConsentGrant(ctx, p)
	return err
}

func (r request) call(ctx context.Context, s storage) (outcome, error) {
	switch r.Call.Kind {
	case sweep:
		_, err := s.Sweep(ctx)
		return asOutcome(err)
	case answer:
		if got, err := asOutcome(s.CreateConsentGrant(ctx, r.grant(r.Call))); got.Result != done {
			return got, err
		}
		fallthrough
	case consume:
		granted, err := s.ConsumeConsentGrant(ctx, r.presentation())
		got, err := asOutcome(err)
		if got.Result == done {
			got.Minted, got.MintedAt = r.origin(granted)
		}
		return got, err
	}
	return asOutcome(s.CreateConsentGrant(ctx, r.grant(r.Call)))
}

// asOutcome reads an error as the contract of [fositeconsent.GrantStorage] has it. It
// returns the error again if that does not say what came of the call.
func asOutcome(err error) (outcome, error) {
	for sentinel, r := range map[error]result{
		fositeconsent.ErrAlreadyDecided:  alreadyDecided,
		fositeconsent.ErrGrantNotFound:   notFound,
		fositeconsent.ErrBindingMismatch: mismatch,
		fositeconsent.ErrGrantConsumed:   consumed,
		fositeconsent.ErrGrantExpired:    expired,
	} {
		if errors.Is(err, sentinel) {
			return outcome{Result: r}, nil
		}
	}
	if err != nil {
		return outcome{Result: unknown}, err
	}
	return outcome{Result: done}, nil
}

// grant is what a mint stores. What is in it says which mint it was.
func (r request) grant(c call) *fositeconsent.Grant {
	text := strconv.Itoa(c.Number)
	return &fositeconsent.Grant{
		ID:         first16(r.hash("grant", c.Grant)),
		SecretHash: r.hash("secret", c.Grant, c.Secret),
		Binding:    r.hash("binding", c.Grant, c.Binding),
		Subject:    "subject " + text,
		ClientID:   "client " + text,
		Scopes:     []string{"scope", text},
		Audience:   []string{text},
		Data:       []byte(text),
		Denied:     c.Kind == deny,
		Lifespan:   time.Duration(c.Lifespan) * time.Second,
	}
}

func (r request) presentation() fositeconsent.Presentation {
	g := r.grant(r.Call)
	return fositeconsent.Presentation{
		ID: g.ID, SecretHash: g.SecretHash, Binding: g.Binding,
		Attempt: first16(r.hash("attempt", r.Call.Attempt)),
	}
}

// origin returns which mint a grant came from, and when that was; -1 if the grant is not
// as that mint, or any, had it.
func (r request) origin(g *fositeconsent.Grant) (number int, at int64) {
	number, err := strconv.Atoi(string(g.Data))
	if err != nil {
		return -1, -1
	}
	c := r.Call
	c.Number = number
	want := r.grant(c)
	since := g.DecidedAt.Sub(r.time(0))
	if c.Kind == answer && g.DecidedAt.IsZero() { // the mint has not been sent yet
		since = r.time(c.Now).Sub(r.time(0))
	}
	if g.ID != want.ID || g.SecretHash != want.SecretHash || g.Binding != want.Binding || g.Subject != want.Subject ||
		g.ClientID != want.ClientID || !slices.Equal(g.Scopes, want.Scopes) || !slices.Equal(g.Audience, want.Audience) ||
		g.Denied || since%time.Second != 0 {
		return -1, -1
	}
	return number, int64(since / time.Second)
}

// hash makes bytes out of numbers, other ones for each history.
func (r request) hash(what string, numbers ...int) [32]byte {
	b := binary.BigEndian.AppendUint64([]byte(what), r.Run)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return sha256.Sum256(b)
}

func first16(b [32]byte) [16]byte { return [16]byte(b[:16]) }

// worker is a process that makes calls. It is started when it is needed, and again
// after it was killed.
type worker struct {
	t      testing.TB
	config workerConfig
	onDied func() // when it has died in a transaction, as it was asked to

	mu      sync.Mutex
	process *process
}

type process struct {
	command *exec.Cmd
	stdin   interface{ Close() error }
	stderr  bytes.Buffer
	killed  atomic.Bool // by its worker
	ended   chan struct{}

	mu      sync.Mutex
	out     *gob.Encoder
	number  uint64
	waiting map[uint64]chan response
}

var errNoAnswer = errors.New("the process ended before it answered")

// do has the process make a call.
func (w *worker) do(r request) (outcome, string) {
	p := w.running()
	answer := make(chan response, 1)
	p.mu.Lock()
	p.number++
	r.Number = p.number
	p.waiting[r.Number] = answer
	err := p.out.Encode(r)
	p.mu.Unlock()
	if err == nil {
		select {
		case a := <-answer:
			return a.Outcome, a.Detail
		case <-p.ended:
		}
	}
	select {
	case a := <-answer: // with its last breath
		return a.Outcome, a.Detail
	default:
	}
	// A transaction that was not to be committed has changed nothing.
	return outcome{Undone: r.Call.End == rollback || r.Call.End == die}, errNoAnswer.Error()
}

// kill ends the process, if it runs.
func (w *worker) kill() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.process != nil && !w.process.killed.Swap(true) && w.process.command.Process.Kill() == nil
}

// running returns a process that runs, as far as one can know.
func (w *worker) running() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.process; p != nil {
		select {
		case <-p.ended:
		default:
			if !p.killed.Load() {
				return p
			}
			<-p.ended
		}
	}
	p, err := w.start()
	if err != nil {
		panic(fmt.Sprintf("start a worker: %v", err)) // the program cannot run itself
	}
	w.process = p
	return p
}

func (w *worker) start() (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	configuration, err := json.Marshal(w.config)
	if err != nil {
		return nil, err
	}
	p := &process{command: exec.Command(program), ended: make(chan struct{}), waiting: map[uint64]chan response{}}
	// With the race detector, a process would go on for a second after it has ended, and
	// its connections and locks with it.
	race := "GORACE=atexit_sleep_ms=0 " + os.Getenv("GORACE")
	p.command.Env = append(os.Environ(), race, workerVariable+"="+string(configuration))
	p.command.Stderr = &p.stderr
	stdin, err := p.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdin, p.out = stdin, gob.NewEncoder(stdin)
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		in := gob.NewDecoder(stdout)
		for {
			var a response
			if in.Decode(&a) != nil {
				break
			}
			p.mu.Lock()
			p.waiting[a.Number] <- a
			delete(p.waiting, a.Number)
			p.mu.Unlock()
		}
		w.ended(p, p.command.Wait())
		close(p.ended)
	}()
	return p, nil
}

// ended fails the test for a process that ended without having been asked to: a crash
// must not pass for a fault.
func (w *worker) ended(p *process, err error) {
	switch {
	case err == nil, p.killed.Load():
	case p.command.ProcessState.ExitCode() == diedInTransaction:
		w.onDied()
	default:
		w.t.Errorf("a worker ended with %v\n%s", err, &p.stderr)
	}
}

// stop ends the process in good order.
func (w *worker) stop() {
	w.mu.Lock()
	p := w.process
	w.mu.Unlock()
	if p != nil {
		p.stdin.Close()
		<-p.ended
	}
}
