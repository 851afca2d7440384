package pgtest

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestPgBouncer is skipped on a machine without PgBouncer, and nowhere else.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, from := range PgBouncerOrigins {
		t.Run(from.String(), func(t *testing.T) {
			t.Parallel()
			database := Database(t)
			b := PgBouncer(t, from, database, 1)
			ctx := within(t, time.Minute)
			connect := func() *pgx.Conn {
				c, err := pgx.Connect(ctx, b.URL(database))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close(context.Background()) })
				return c
			}
			pid := func(c *pgx.Conn) (pid int) {
				t.Helper()
				if err := c.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid); err != nil {
					t.Fatal(err)
				}
				return pid
			}
			first, second := connect(), connect()
			if pid(first) != pid(second) {
				t.Error("two clients have a connection to the server each: this is not transaction mode")
			}
			_, err := first.Exec(ctx, "SELECT $1::int", pgx.QueryExecModeCacheStatement, 1)
			if err == nil {
				_, err = second.Exec(ctx, "SELECT $1::int", pgx.QueryExecModeCacheStatement, 1)
			}
			if knows := err == nil; knows != b.KnowsPreparedStatements() {
				t.Errorf("version %s, and of prepared statements by two clients: %v", b.Version(), err)
			}

			wrong, err := url.Parse(b.URL(database))
			if err != nil {
				t.Fatal(err)
			}
			wrong.User = url.UserPassword(wrong.User.Username(), "wrong")
			if c, err := pgx.Connect(ctx, wrong.String()); err == nil {
				_ = c.Close(ctx)
				t.Error("a wrong password is accepted")
			}
			if wrong.Hostname() != "127.0.0.1" {
				t.Errorf("it listens on %s", wrong.Hostname())
			}
		})
	}
}
