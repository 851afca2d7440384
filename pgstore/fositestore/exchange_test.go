package fositestore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ory/fosite"
)

func tokenRequest() (context.Context, *fosite.AccessRequest) {
	request := fosite.NewAccessRequest(nil)
	return context.WithValue(context.Background(), fosite.AccessRequestContextKey, request), request
}

func TestATokenRequestRemembersItsCode(t *testing.T) {
	t.Parallel()
	var e exchanges
	mine, other := hashOf("mine"), hashOf("another")
	row := &codeRow{requestID: "request"}
	e.remember(context.Background(), mine, row) // no token request
	if e.recall(context.Background(), mine) != nil {
		t.Error("a code is remembered without a token request")
	}
	ctx, request := tokenRequest()
	e.used(ctx, mine)
	if e.recall(ctx, mine) != nil {
		t.Error("a code is remembered that was not read")
	}
	e.remember(ctx, mine, row)
	again := context.WithValue(context.Background(), fosite.AccessRequestContextKey, fosite.AccessRequester(request))
	if e.recall(again, mine) != row {
		t.Error("the code is not remembered")
	}
	if e.recall(ctx, other) != nil {
		t.Error("another code is taken for it")
	}
	stranger, _ := tokenRequest()
	if e.recall(stranger, mine) != nil {
		t.Error("another token request knows it")
	}
	e.used(ctx, mine)
	if got := e.recall(ctx, mine); got == nil || !got.used || row.used {
		t.Errorf("once used, it reads as %+v", got)
	}
}

func TestATokenRequestThatIsOverIsForgotten(t *testing.T) {
	t.Parallel()
	var e exchanges
	func() {
		for range 100 {
			ctx, _ := tokenRequest()
			e.remember(ctx, hashOf("code"), &codeRow{})
			e.used(ctx, hashOf("code"))
		}
	}()
	limit := time.Now().Add(time.Minute)
	for left := -1; left != 0; {
		if time.Now().After(limit) {
			t.Fatalf("%d are remembered for ever", left)
		}
		runtime.GC()
		left = 0
		e.codes.Range(func(any, any) bool { left++; return true })
	}
}

// A conflict can be tried again; not what may have taken effect, whatever came after.
func TestOnlyAConflictIsNamedSo(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "40P01"} {
		err := error(&pgconn.PgError{Severity: "ERROR", Code: code})
		if !errors.Is(conflict(fmt.Errorf("commit: %w", err)), fosite.ErrSerializationFailure) {
			t.Errorf("%s is no conflict", code)
		}
		if errors.Is(conflict(fmt.Errorf("commit: %w", unknownOutcome{err})), fosite.ErrSerializationFailure) {
			t.Errorf("an unknown outcome is a conflict, after %s", code)
		}
	}
}

type unknownOutcome struct{ error }

func (unknownOutcome) SQLState() string { return "40003" }
func (u unknownOutcome) Unwrap() error  { return u.error }
