package pgstore

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
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
	if err := withoutValues(fmt.Errorf("query: %w", full)); !errors.As(err, &kept) {
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
