package tx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// outcomeError is a commit whose answer was lost.
type outcomeError struct {
	state string
	text  string
	err   error
}

func (e *outcomeError) Error() string    { return e.text + ": " + e.err.Error() }
func (e *outcomeError) Unwrap() error    { return e.err }
func (e *outcomeError) SQLState() string { return e.state }

const (
	stateRolledBack = "40000" // transaction_rollback
	stateUnknown    = "40003" // statement_completion_unknown
)

func rolledBack(err error) error {
	return &outcomeError{stateRolledBack, "the connection was lost before the commit took effect, and nothing was committed", err}
}

func unknown(err error) error {
	return &outcomeError{stateUnknown, "the connection was lost during the commit, and whether it took effect could not be found out", err}
}

// isOnePiece reports whether the queue takes effect as a whole or not at all, without
// anybody looking before it is committed: if each statement can only do what it is for, or
// fail; or if the first one alone can do nothing, and all others depend on it.
func (u *Unit) isOnePiece() bool {
	for i, s := range u.queue {
		dependent := s.required > 0 && strings.Contains(s.SQL, conditional)
		if i > 0 && (s.decides() && !(s.Follows && dependent) || u.queue[0].decides() && !dependent) {
			return false
		}
	}
	return true
}

// decides reports whether the statement may do nothing, which its Check then refuses.
func (s Statement) decides() bool { return s.Check != nil && s.Repeat == "" }

// commitAtOnce sends the queue as one implicit transaction: no statement has needed
// an answer, so none needs a transaction to be held open. The statements can be
// repeated: each recognises what it has done before. Like a commit, that does not
// depend on the caller's patience.
func (u *Unit) commitAtOnce(ctx context.Context) error {
	if len(u.queue) == 0 {
		return nil
	}
	// The wait for a connection does depend on it, and is no lost commit: nothing has been sent.
	waiting, done := context.WithTimeout(ctx, u.manager.CommitTimeout)
	conn, err := u.manager.Pool.Acquire(waiting)
	done()
	if err != nil {
		return err
	}
	first := func(try func(Batcher) error) error {
		defer conn.Release()
		return try(conn)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.manager.CommitTimeout)
	defer cancel()
	// What is sent is fixed once, and put into a batch for each try: a batch that was sent
	// remembers what its connection had prepared.
	var fixed pgx.Batch
	for _, s := range u.queue {
		u.add(&fixed, s, true)
	}
	maybe := false // it took effect, and nobody has said so
	try := func(db Batcher) error {
		var batch pgx.Batch
		for _, q := range fixed.QueuedQueries {
			batch.Queue(q.SQL, q.Arguments...)
		}
		results := db.SendBatch(ctx, &batch)
		err := check(results, u.queue)
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
		if err == nil && maybe {
			err = replicated(ctx, db)
		}
		return err
	}
	for tries := 1; ; tries++ {
		underWay, err := repeat(ctx, u.manager.Pool, try, first)
		first = func(try func(Batcher) error) error { return try(u.manager.Pool) }
		maybe = maybe || underWay
		switch {
		case err == nil || errors.As(err, new(refusal)):
			return err
		case maybe && ctx.Err() == nil && connectionLost(err):
			// It is asked as long as any other commit is.
		case maybe || ctx.Err() != nil && !pgconn.SafeToRetry(err):
			return unknown(err)
		case tries >= MaxTries || !TakenBack(err):
			return err
		}
		// Where the database's default is another level than read committed, a conflict
		// says no more than that there was one. Asked anew, the statements find out who won.
	}
}

// MaxTries bounds how often what the database has taken back because of others is sent.
const MaxTries = 5

// TakenBack reports a serialization failure or a deadlock.
func TakenBack(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "40001" || pgErr.Code == "40P01")
}

// undecided reports whether what the statement did has to be known before the commit: not
// of an INSERT that without its ON CONFLICT clause can only do what it is for, or fail.
func (s Statement) undecided() bool {
	return s.Check != nil && (s.Repeat == "" || s.required > 0)
}

// commit sends what is queued together with the commit. Once that is on its way it
// does not depend on the caller's patience any more.
func (u *Unit) commit(ctx context.Context) error {
	if u.conn == nil || slices.ContainsFunc(u.queue, Statement.undecided) {
		results, err := u.send(ctx, "", nil)
		if err == nil {
			err = results.Close()
		}
		if err != nil {
			u.abandon(ctx)
			return err
		}
	}
	var batch pgx.Batch
	queued := u.queue
	for _, s := range queued {
		u.add(&batch, s, false)
	}
	if u.xid == "" { // the beginning has failed
		u.abandon(ctx)
		return errors.New("the transaction could not be begun")
	}
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.manager.CommitTimeout)
	defer cancel()
	var tag pgconn.CommandTag
	var err error
	if len(queued) == 0 {
		tag, err = u.conn.Exec(sending, "commit")
	} else {
		// The server skips the commit if one of them fails.
		batch.Queue("commit")
		results := u.conn.SendBatch(sending, &batch)
		if err = check(results, queued); err == nil {
			tag, err = results.Exec()
		}
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
	}
	switch {
	case err == nil && tag.String() == "COMMIT" && sending.Err() == nil:
		return nil
	case err == nil && tag.String() == "COMMIT":
		err = sending.Err() // it was given up: see replicated
	case err == nil: // a statement had failed, and nobody had minded
		return fmt.Errorf("the database answered %s to commit", tag)
	case errors.As(err, new(refusal)), refused(err):
		u.abandon(ctx)
		return err
	}
	return u.resolve(ctx, err)
}

// refused reports whether the server says that nothing was committed: not if the session
// ended, nor if a pooler says that it has lost the server.
func refused(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && !connectionLost(err)
}

// resolve finds out what became of a commit whose answer was lost.
//
// The transaction's status says whether it is over. It does not say that it was
// this one: an id that never reached the disk is given out again after a crash, and
// a standby that was promoted gives out its own. So what is believed is the witness,
// something that only this transaction can have written, looked for when nothing
// is under way any more.
func (u *Unit) resolve(ctx context.Context, cause error) error {
	_ = u.conn.Conn().Close(ctx)
	u.release() // never a second connection
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.manager.CommitTimeout)
	defer cancel()
	if u.witness == nil {
		return unknown(cause)
	}
	pause := 5 * time.Millisecond
	for {
		over, committed, err := u.ask(ctx)
		switch {
		case err == nil && over && committed:
			return nil
		case err == nil && over:
			return rolledBack(cause)
		}
		// In progress: the server has not noticed yet, or waits for its standby.
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return unknown(cause)
		case <-timer.C:
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

func (u *Unit) ask(ctx context.Context) (over, committed bool, err error) {
	err = onLiveConnection(ctx, u.manager.Pool, func(conn *pgxpool.Conn) error {
		var status *string
		// A standby knows less than its primary, which may yet be asked.
		err := conn.QueryRow(ctx, "select case when pg_is_in_recovery() then 'in progress' else pg_xact_status($1::text::xid8) end",
			u.xid).Scan(&status)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "22023" { // an id that this server has not given out yet
			err = nil
		}
		if err != nil {
			return err
		}
		if status != nil && *status == "in progress" {
			return nil
		}
		over = true
		if err := conn.QueryRow(ctx, "SELECT "+u.witness.SQL, u.witness.Args...).Scan(&committed); err != nil || !committed {
			return err
		}
		return replicated(ctx, conn)
	})
	return over, committed, err
}

// replicated waits until a synchronous standby has what is visible now.
//
// Giving up on a commit that waits for it, by whatever ends or cancels the session's
// wait, makes the commit visible, with the standby none the wiser. A later commit waits
// for the standby to have all that was before it; one that has written nothing would
// not wait.
func replicated(ctx context.Context, db DB) error {
	_, err := db.Exec(ctx, "select pg_logical_emit_message(true, 'fosite-consent', '')")
	if err == nil {
		err = ctx.Err() // this wait was cancelled, too
	}
	return err
}
