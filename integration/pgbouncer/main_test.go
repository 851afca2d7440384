// Package pgbouncer_test shows what works behind PgBouncer in transaction mode, where
// each transaction may run on another connection to the server.
package pgbouncer_test

import (
	"context"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// testContext bounds what a test waits for. It is never waited out when things work.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
