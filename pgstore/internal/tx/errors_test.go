package tx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// What a logger that knows the type would print of Postgres's error has no part of
// a row, a key or a statement.
func TestOnlyTheHarmlessPartsOfAPostgresErrorAreKept(t *testing.T) {
	t.Parallel()
	full := &pgconn.PgError{
		Severity: "ERROR", Code: "23514", Message: "violates", ConstraintName: "binding_is_sha256", TableName: "consent_grants",
		Detail: "secret", Hint: "secret", Where: "secret", InternalQuery: "secret",
	}
	var kept *pgconn.PgError
	if err := WithoutValues(fmt.Errorf("query: %w", full)); !errors.As(err, &kept) {
		t.Fatalf("got %v", err)
	}
	if kept.Code != "23514" || kept.ConstraintName != "binding_is_sha256" {
		t.Errorf("too little is kept: %+v", kept)
	}
	value := reflect.ValueOf(*kept)
	for i := range value.NumField() {
		if strings.Contains(fmt.Sprint(value.Field(i)), "secret") {
			t.Errorf("%s is kept", value.Type().Field(i).Name)
		}
	}
	if full.Detail != "secret" {
		t.Error("the caller's error was changed")
	}
}

func TestWhatMayBeUnderWayAfterItsConnectionWasLost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"no answer":                       {io.ErrUnexpectedEOF, true},
		"a reset":                         {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		"a pooler that has lost it":       {&pgconn.PgError{Severity: "FATAL", Code: "08P01"}, true},
		"the session ended by the server": {&pgconn.PgError{Severity: "FATAL", Code: "57P01"}, false},
		"an error of the statement's":     {&pgconn.PgError{Severity: "ERROR", Code: "57014"}, false},
		"no connection":                   {&pgconn.ConnectError{}, false},
		"nothing sent":                    {unsent{}, false},
		"the caller's impatience":         {context.Canceled, false}, // is not tried again
	} {
		if got := mayBeUnderWay(fmt.Errorf("query: %w", c.err)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestWhoMaySayThatNothingWasCommitted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"a conflict":                     {&pgconn.PgError{Severity: "ERROR", Code: "40001"}, true},
		"a constraint":                   {&pgconn.PgError{Severity: "ERROR", Code: "23505"}, true},
		"the session's end":              {&pgconn.PgError{Severity: "FATAL", Code: "57P01"}, false},
		"a pooler that has lost it":      {&pgconn.PgError{Severity: "FATAL", Code: "08P01"}, false},
		"an old pooler that has lost it": {&pgconn.PgError{Severity: "ERROR", Code: "08P01"}, false},
		"no answer":                      {io.ErrUnexpectedEOF, false},
	} {
		if got := refused(fmt.Errorf("commit: %w", c.err)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// unsent is how pgx says that nothing was sent.
type unsent struct{}

func (unsent) Error() string     { return "unsent" }
func (unsent) SafeToRetry() bool { return true }
