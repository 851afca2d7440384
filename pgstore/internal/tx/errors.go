package tx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Batcher is a DB that also sends batches: a pool, or a connection of one.
type Batcher interface {
	DB
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// Pauses before the second, third and fourth try of a statement, each of them up to
// a half longer or shorter. A failover takes some hundred milliseconds.
var pauses = [...]time.Duration{0, 50 * time.Millisecond, 250 * time.Millisecond}

// Repeat runs try, and runs it again while its connection was lost: what it sends
// must recognise its own first try, whether that took effect or not. The number of
// tries is bounded, by ctx as well. It also returns whether a try that was lost may
// still be under way in the server, and take effect after the last one has answered.
func Repeat(ctx context.Context, pool *pgxpool.Pool, try func(Batcher) error) (underWay bool, err error) {
	return repeat(ctx, pool, try, func(try func(Batcher) error) error { return try(pool) })
}

// repeat is Repeat, whose first try is made by first.
func repeat(ctx context.Context, pool *pgxpool.Pool, try func(Batcher) error, first func(func(Batcher) error) error) (underWay bool, err error) {
	noted := func(db Batcher) error {
		err := try(db)
		if err == nil {
			err = ctx.Err() // a commit that is given up may be answered as if it were done: see replicated
		}
		underWay = underWay || err != nil && mayBeUnderWay(err)
		return err
	}
	err = first(noted)
	for _, pause := range pauses {
		if err == nil || ctx.Err() != nil || !connectionLost(err) {
			return underWay, err
		}
		if pause > 0 {
			timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // spreads retries, hides nothing
			select {
			case <-ctx.Done():
				timer.Stop()
				return underWay, err
			case <-timer.C:
			}
		}
		err = onLiveConnection(ctx, pool, func(conn *pgxpool.Conn) error {
			err := noted(conn)
			if err == nil && underWay { // there may have been nothing left to write
				err = replicated(ctx, conn)
			}
			return err
		})
	}
	return underWay, err
}

// mayBeUnderWay reports whether the server may go on with what was sent over a
// connection that was lost: not if nothing was sent, nor if the session's own end was
// the answer. A pooler in between, which answers with class 08, knows no more than we do.
func mayBeUnderWay(err error) bool {
	var connect *pgconn.ConnectError
	if !connectionLost(err) || errors.As(err, &connect) || pgconn.SafeToRetry(err) {
		return false
	}
	var pgErr *pgconn.PgError
	return !errors.As(err, &pgErr) || strings.HasPrefix(pgErr.Code, "08")
}

// onLiveConnection runs try on a connection of the pool that has just answered:
// after a restart of the server all idle ones are dead.
func onLiveConnection(ctx context.Context, pool *pgxpool.Pool, try func(*pgxpool.Conn) error) (err error) {
	for range pool.Stat().MaxConns() + 1 {
		var conn *pgxpool.Conn
		conn, err = pool.Acquire(ctx)
		if err != nil {
			return err
		}
		if err = conn.Ping(ctx); err == nil {
			defer conn.Release()
			return try(conn)
		}
		conn.Release() // which drops it, dead as it is
	}
	return err
}

// connectionLost reports whether the error says that the connection ended, or
// that there was none to be had, so that another one may know more. It does not
// say whether the statement ran.
//
// Not among them: an ERROR of a connection that lives on. Read-only (25006) is
// one: a pool that is still connected to a demoted primary gives the same
// connection again (target_session_attrs=read-write and a connection lifetime are
// the remedy), and 40001, 40P01, 55P03 and 57014 are the caller's to handle.
func connectionLost(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch {
		case len(pgErr.Code) == 5 && pgErr.Code[:2] == "08": // connection exception; PgBouncer's, too
			return true
		case pgErr.Code == "57P03", pgErr.Code == "53300": // starting up or shutting down; too many connections
			return true
		}
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) {
			return false // wrong password, no such database, …
		}
		// The session ended: shutdown, crash of another backend, idle timeout, pg_terminate_backend.
		return fatal(pgErr)
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func fatal(err *pgconn.PgError) bool {
	severity := err.SeverityUnlocalized
	if severity == "" {
		severity = err.Severity
	}
	return severity == "FATAL" || severity == "PANIC"
}

// MapError says what was done when err happened, and keeps out of the error whatever
// pgx or Postgres print of parameters and rows. It returns nil for nil.
func MapError(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	err = WithoutValues(err)
	// A statement that Postgres cancelled because of ctx is about ctx.
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("pgstore: %s: %w: %w", what, cause, err)
	}
	return fmt.Errorf("pgstore: %s: %w", what, err)
}

// refusal is what a statement's Check said. It is not the driver's, and has no values.
type refusal struct{ err error }

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

// WithoutValues returns err, or what may be shown of it.
func WithoutValues(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // this very error: each part is looked at
		var shown []error
		for _, part := range joined.Unwrap() {
			shown = append(shown, WithoutValues(part))
		}
		return errors.Join(shown...)
	}
	var refused refusal
	if errors.As(err, &refused) {
		return err
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return err // nothing was sent
	}
	var outcome *outcomeError
	if errors.As(err, &outcome) {
		return &outcomeError{outcome.state, outcome.text, WithoutValues(outcome.err)}
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		// Error does not print these, loggers that know the type do: Detail holds the
		// key or the failing row, the others may hold parts of a statement, into which
		// the simple protocol writes the parameters.
		shown := *pgErr
		shown.Detail, shown.Where, shown.InternalQuery, shown.Hint = "", "", "", ""
		return &shown
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.SafeToRetry(err) || errors.Is(err, pgx.ErrTxClosed) ||
		errors.Is(err, errEnded) || errors.Is(err, errNoTx) || errors.Is(err, errDoomed) ||
		err.Error() == "closed pool" { // of the pool's own dependency, which exports it to nobody else
		return err
	}
	return withheld{err}
}

// withheld stands for an error of a kind that is not known to be free of values:
// pgx prints a parameter that it cannot encode. [errors.Is] sees through it,
// printing does not.
type withheld struct{ err error }

func (w withheld) Error() string {
	return fmt.Sprintf("the database driver failed with a %T; its text is withheld, it may hold parameters", w.err)
}

func (w withheld) Is(target error) bool { return errors.Is(w.err, target) }
