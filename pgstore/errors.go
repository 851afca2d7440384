package pgstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// repeat runs try, and runs it again while its connection was lost, with the same
// arguments: both statements recognise their own first try, whether it took
// effect or not. The number of tries is bounded, by ctx as well.
func (s *Store) repeat(ctx context.Context, try func(DB) error) error {
	err := try(s.db)
	if s.pool == nil {
		return err
	}
	for _, pause := range pauses {
		if err == nil || ctx.Err() != nil || !connectionLost(err) {
			return err
		}
		if pause > 0 {
			timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // spreads retries, hides nothing
			select {
			case <-ctx.Done():
				timer.Stop()
				return err
			case <-timer.C:
			}
		}
		err = s.onLiveConnection(ctx, try)
	}
	return err
}

// onLiveConnection runs try on a connection of the pool that has just answered:
// after a restart of the server all idle ones are dead.
func (s *Store) onLiveConnection(ctx context.Context, try func(DB) error) (err error) {
	for range s.pool.Stat().MaxConns() + 1 {
		var conn *pgxpool.Conn
		conn, err = s.pool.Acquire(ctx)
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

// mapError names the call and the grant, and keeps out of the error whatever pgx
// or Postgres print of the parameters and the row. It returns nil for nil.
func mapError(ctx context.Context, op string, id fositeconsent.ID, err error) error {
	if err == nil {
		return nil
	}
	err = withoutValues(err)
	// A statement that Postgres cancelled because of ctx is about ctx.
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("pgstore: %s %s: %w: %w", op, id, cause, err)
	}
	return fmt.Errorf("pgstore: %s %s: %w", op, id, err)
}

// withoutValues returns err, or what may be shown of it.
func withoutValues(err error) error {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return err // nothing was sent
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
