// Package tx is a transaction in a context: begun late, committed with what was
// queued for it, and asked after when its end was not seen.
package tx

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DB is what statements run on.
type DB interface {
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Manager begins transactions on one pool.
type Manager struct {
	Pool      *pgxpool.Pool
	Isolation pgx.TxIsoLevel
	// LockTimeout, StatementTimeout and IdleTimeout are Postgres's settings for each
	// transaction, in whole milliseconds.
	LockTimeout, StatementTimeout, IdleTimeout time.Duration
	// CommitTimeout is how long a commit, and asking what became of one, may take.
	CommitTimeout time.Duration
	// Slots has the capacity of how many may be open at once.
	Slots chan struct{}
}

// Statement is one that was queued, to be sent later.
type Statement struct {
	// SQL may have one {if}, which becomes what was required before it was queued
	// ([Unit.Require]).
	SQL string
	// Args are fixed when it is sent, not when it is queued, if Late is set.
	Args []any
	Late func() []any
	// Repeat, if set, is added to SQL where the statement may be sent twice: an ON CONFLICT
	// clause that recognises the first time. Without it the INSERT fails.
	Repeat string
	// Check, if set, is told what the statement did. Its error fails the
	// transaction. Where nothing has needed an answer before the commit, it is told only
	// after everything has been committed, and what was queued later must depend on it by {if}.
	Check func(pgconn.CommandTag) error
	// Follows says that, where what it depends on by {if} holds, the statement does what
	// it is for, or has done so before, which it recognises without a Repeat. Its Check has
	// nothing to refuse then.
	Follows bool

	required int // of the unit's conditions
}

// Condition is an SQL expression, with parameters from $1 on.
type Condition struct {
	SQL  string
	Args []any
	Late func() []any // as for a Statement
}

const conditional = "{if}"

// parameter finds parameters, and the names that may look as if they had some.
var parameter = regexp.MustCompile(`"[^"]*"|\$[0-9]+`)

// Render puts the conditions into the SQL, and their parameters after its own.
func Render(sql string, args []any, conditions []Condition) (string, []any) {
	if !strings.Contains(sql, conditional) {
		return sql, args
	}
	parts := []string{"true"}
	args = slices.Clone(args)
	for i, c := range conditions {
		if c.Late != nil {
			c.Args = c.Late()
		}
		if i == 0 {
			parts = nil
		}
		parts = append(parts, parameter.ReplaceAllStringFunc(c.SQL, func(found string) string {
			if n, err := strconv.Atoi(found[1:]); found[0] == '$' && err == nil {
				return fmt.Sprintf("$%d", n+len(args))
			}
			return found
		}))
		args = append(args, c.Args...)
	}
	return strings.Replace(sql, conditional, strings.Join(parts, " AND "), 1), args
}

// Unit is one transaction. Its statements are those of one goroutine at a time.
type Unit struct {
	manager *Manager

	mu      sync.Mutex
	depth   int // of nested BeginTX
	conn    *pgxpool.Conn
	xid     string // once it has begun in the database
	ended   bool
	doomed  error // why it must not be committed
	queue   []Statement
	require []Condition
	witness *Condition
	values  map[any]any
	after   []func(context.Context, DB) error
}

var (
	errEnded  = errors.New("the transaction in the context has ended")
	errNoTx   = errors.New("there is no transaction in the context: pass the context that BeginTX returned")
	errDoomed = errors.New("the transaction was rolled back, since a part of it was")
)

type unitKey struct{}
type foreignKey struct{}

// With returns a context with a transaction that somebody else began and ends.
func With(ctx context.Context, tx pgx.Tx) context.Context {
	return context.WithValue(ctx, foreignKey{}, tx)
}

// Begin returns a context with a transaction, the one that is there already or a
// new one. Nothing is sent before the first statement.
func (m *Manager) Begin(ctx context.Context) (context.Context, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, ok := ctx.Value(foreignKey{}).(pgx.Tx); ok {
		return nil, errors.New("the context has a transaction of the host's, which only the host can nest and end")
	}
	if u := m.find(ctx); u != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.ended {
			return nil, errEnded
		}
		u.depth++
		return ctx, nil
	}
	return context.WithValue(ctx, unitKey{}, &Unit{manager: m, depth: 1}), nil
}

func (m *Manager) find(ctx context.Context) *Unit {
	u, _ := ctx.Value(unitKey{}).(*Unit)
	if u == nil || u.manager.Pool != m.Pool {
		return nil
	}
	return u
}

// In returns what statements on the pool run on: the transaction in the context, or
// nil if there is none. The unit is nil for a transaction of the host's.
func In(ctx context.Context, pool *pgxpool.Pool) (DB, *Unit) {
	if tx, ok := ctx.Value(foreignKey{}).(pgx.Tx); ok {
		return tx, nil
	}
	if u, _ := ctx.Value(unitKey{}).(*Unit); u != nil && pool != nil && u.manager.Pool == pool {
		return u, u
	}
	return nil, nil
}

// Queue has the statement sent with the next one that has to be sent, the commit at
// the latest.
func (u *Unit) Queue(s Statement) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return errEnded
	}
	s.required = len(u.require)
	u.queue = append(u.queue, s)
	return nil
}

// Require has what is queued from now on take effect only where the condition holds: that
// a statement that is queued already has done what it is for.
func (u *Unit) Require(c Condition) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.require = append(u.require, c)
}

// Witness names an expression that is true if, and only if, this very transaction was
// committed. The first one counts.
func (u *Unit) Witness(sql string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.witness == nil {
		u.witness = &Condition{SQL: sql, Args: args}
	}
}

// After has do called when the transaction has ended, whichever way, outside of it
// and on its connection if that still lives. It is called again where a connection was lost.
func (u *Unit) After(do func(context.Context, DB) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return errEnded
	}
	u.after = append(u.after, do)
	return nil
}

// Look is what a look runs on that does not matter to the transaction, so that nobody needs a
// second connection: its own if it has begun, else nil. What is queued is not sent.
func (u *Unit) Look() DB {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn == nil || u.xid == "" || u.ended {
		return nil
	}
	return u.conn
}

// Value returns what is kept under the key with this transaction, made by create
// when it is asked for first.
func (u *Unit) Value(key any, create func() any) any {
	u.mu.Lock()
	defer u.mu.Unlock()
	v, ok := u.values[key]
	if !ok {
		v = create()
		if u.values == nil {
			u.values = map[any]any{}
		}
		u.values[key] = v
	}
	return v
}

// Exec implements DB.
func (u *Unit) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.xid != "" && len(u.queue) == 0 && !u.ended {
		return u.conn.Exec(ctx, sql, args...)
	}
	results, err := u.send(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return tag, err
}

// QueryRow implements DB.
func (u *Unit) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.xid != "" && len(u.queue) == 0 && !u.ended {
		return u.conn.QueryRow(ctx, sql, args...)
	}
	results, err := u.send(ctx, sql, args)
	if err != nil {
		return failedRow{err}
	}
	return lastRow{results}
}

// Query implements DB.
func (u *Unit) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.xid == "" || len(u.queue) > 0 || u.ended {
		results, err := u.send(ctx, "", nil)
		if err == nil {
			err = results.Close()
		}
		if err != nil {
			return nil, err
		}
	}
	return u.conn.Query(ctx, sql, args...) //nolint:sqlclosecheck // the caller's
}

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }

// lastRow is the last result of a batch.
type lastRow struct{ results pgx.BatchResults }

func (r lastRow) Scan(dest ...any) error {
	err := r.results.QueryRow().Scan(dest...)
	if closeErr := r.results.Close(); err == nil {
		err = closeErr
	}
	return err
}

// send sends, in one round trip, the beginning of the transaction if it has not
// begun, what is queued, and the statement, if there is one, whose result is left to
// be read.
func (u *Unit) send(ctx context.Context, sql string, args []any) (pgx.BatchResults, error) {
	if u.ended {
		return nil, errEnded
	}
	if u.conn == nil {
		if err := u.acquire(ctx); err != nil {
			return nil, err
		}
	}
	var batch pgx.Batch
	begin := u.xid == ""
	if begin {
		u.manager.queueBegin(&batch)
	}
	queued := u.queue
	u.queue = nil
	for _, s := range queued {
		u.add(&batch, s, false)
	}
	if sql != "" {
		batch.Queue(sql, args...)
	}
	results := u.conn.SendBatch(ctx, &batch)
	err := func() error {
		if begin {
			if _, err := results.Exec(); err != nil {
				return err
			}
			var xid string
			if err := results.QueryRow().Scan(nil, nil, nil, &xid); err != nil {
				return err
			}
			u.xid = xid
		}
		return check(results, queued)
	}()
	if err != nil {
		_ = results.Close() // the first error is the one that counts
		// Where the database knows of no failure, or was never asked, it would commit the rest.
		if errors.As(err, new(refusal)) || len(queued) > 0 && u.conn.Conn().PgConn().TxStatus() != 'E' {
			u.doom(err)
		}
		return nil, err
	}
	return results, nil
}

// Doom has the commit fail with the error, whatever becomes of that until then.
func (u *Unit) Doom(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.doom(err)
}

func (u *Unit) doom(err error) {
	if u.doomed == nil {
		u.doomed = err
	}
}

func (u *Unit) add(batch *pgx.Batch, s Statement, repeatable bool) {
	sql, args := s.SQL, s.Args
	if s.Late != nil {
		args = s.Late()
	}
	if repeatable {
		sql += s.Repeat
	}
	sql, args = Render(sql, args, u.require[:s.required])
	batch.Queue(sql, args...)
}

func check(results pgx.BatchResults, statements []Statement) error {
	for _, s := range statements {
		tag, err := results.Exec()
		if err == nil && s.Check != nil {
			if err = s.Check(tag); err != nil {
				err = refusal{err}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// queueBegin adds what begins a transaction. The id that it gets at once is what
// can be asked for if the commit's answer is lost.
func (m *Manager) queueBegin(batch *pgx.Batch) {
	batch.Queue("begin isolation level " + string(m.Isolation) + " read write")
	batch.Queue(`select set_config('lock_timeout', $1::text, true), set_config('statement_timeout', $2::text, true),
       set_config('idle_in_transaction_session_timeout', $3::text, true), pg_current_xact_id()::text`,
		milliseconds(m.LockTimeout), milliseconds(m.StatementTimeout), milliseconds(m.IdleTimeout))
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// acquire takes one of the places for transactions, and a connection.
func (u *Unit) acquire(ctx context.Context) error {
	select {
	case u.manager.Slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("all %d places for transactions are taken: %w", cap(u.manager.Slots), ctx.Err())
	}
	conn, err := u.manager.Pool.Acquire(ctx)
	if err != nil {
		<-u.manager.Slots
		return err
	}
	u.conn = conn
	return nil
}

// release gives back what acquire took, if it did.
func (u *Unit) release() {
	if u.conn != nil {
		u.conn.Release()
		u.conn = nil
		<-u.manager.Slots
	}
}

// Commit ends the transaction in the context. Any error means that the caller must
// not act on anything of it; its SQLSTATE (method SQLState) is 40000 if it is known
// that nothing was committed, and 40003 if that could not be found out, or if only what
// was to follow has failed.
func (m *Manager) Commit(ctx context.Context) error {
	u := m.find(ctx)
	if u == nil {
		return errNoTx
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.ended:
		return errEnded
	case u.depth > 1:
		u.depth--
		return nil
	}
	err := ctx.Err()
	switch {
	case err != nil:
		u.abandon(ctx)
	case u.doomed != nil:
		u.abandon(ctx)
		err = u.doomed
	case u.conn == nil && u.isOnePiece():
		err = u.commitAtOnce(ctx)
	default:
		err = u.commit(ctx)
	}
	after := u.finish(ctx)
	if err == nil && after != nil {
		// Not an error of the transaction's, which would say that nothing was committed.
		return &outcomeError{stateUnknown, "the transaction was committed, and what was to follow it has failed", after}
	}
	return errors.Join(err, after)
}

// Rollback ends the transaction in the context. It is no error if that has ended
// already: fosite rolls back what it failed to commit.
func (m *Manager) Rollback(ctx context.Context) error {
	u := m.find(ctx)
	if u == nil {
		return errNoTx
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.ended:
		return nil
	case u.depth > 1:
		u.depth--
		u.doom(errDoomed)
		return nil
	}
	u.abandon(ctx)
	return u.finish(ctx)
}

// abandon rolls back what was sent, also when ctx is over. If that fails the
// connection is closed, so that the server does it.
func (u *Unit) abandon(ctx context.Context) {
	u.queue = nil
	if u.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.manager.CommitTimeout)
	defer cancel()
	if _, err := u.conn.Exec(ctx, "rollback"); err != nil {
		_ = u.conn.Conn().Close(ctx) // it is lost
	}
}

// finish does what was left for after the end, and lets go of the connection.
func (u *Unit) finish(ctx context.Context) (err error) {
	u.ended = true
	defer u.release()
	if len(u.after) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.manager.CommitTimeout)
	defer cancel()
	for _, do := range u.after {
		err = errors.Join(err, u.afterwards(ctx, do))
	}
	return err
}

// afterwards does one thing on the transaction's connection or, if that is lost, on
// another, and again there while that is lost, too.
func (u *Unit) afterwards(ctx context.Context, do func(context.Context, DB) error) error {
	if u.conn != nil {
		if err := do(ctx, u.conn); !connectionLost(err) {
			return err
		}
		u.release() // never a second connection
	}
	_, err := Repeat(ctx, u.manager.Pool, func(db Batcher) error { return do(ctx, db) })
	return err
}
