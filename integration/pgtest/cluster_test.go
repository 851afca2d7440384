package pgtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func TestClusterFailsOver(t *testing.T) {
	t.Parallel()
	for name, replication := range map[string]Replication{"asynchronous": Asynchronous, "synchronous": Synchronous} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := NewCluster(t, replication)
			database := c.Database()
			pool := PoolAt(t, database, func(c *pgxpool.Config) { c.MaxConns = 1 })
			ctx := within(t, time.Minute)
			insert := func(at *pgxpool.Pool, n int) {
				t.Helper()
				if _, err := at.Exec(ctx, "INSERT INTO kept VALUES ($1)", n); err != nil {
					t.Fatal(err)
				}
			}
			// expect waits for nothing: what is not there yet is missing.
			expect := func(at string, want int) {
				t.Helper()
				var sum int
				if err := PoolAt(t, at).QueryRow(ctx, "SELECT coalesce(sum(n), 0) FROM kept").Scan(&sum); err != nil || sum != want {
					t.Errorf("there is %d, want %d (%v)", sum, want, err)
				}
			}
			if _, err := pool.Exec(ctx, "CREATE TABLE kept (n int)"); err != nil {
				t.Fatal(err)
			}
			insert(pool, 1)
			c.CatchUp()
			expect(c.At(database, true), 1)
			_, err := PoolAt(t, c.At(database, true)).Exec(ctx, "INSERT INTO kept VALUES (16)")
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != "25006" { // read_only_sql_transaction
				t.Errorf("the standby takes writes: %v", err)
			}

			c.Detach()
			done := make(chan error, 1)
			go func() {
				_, err := pool.Exec(ctx, "INSERT INTO kept VALUES (2)")
				done <- err
			}()
			if replication == Synchronous {
				c.until(c.first, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")
				select {
				case err := <-done:
					t.Errorf("acknowledged without the standby: %v", err)
				default:
				}
				c.Attach()
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if replication == Asynchronous {
				expect(c.At(database, true), 1)
				c.Attach()
			}
			c.CatchUp()
			expect(c.At(database, true), 3)

			c.Kill()
			connecting, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if conn, err := pgx.Connect(connecting, database); err == nil {
				_ = conn.Close(ctx)
				t.Error("a killed server answers")
			}
			c.Promote()
			pool.Reset()
			insert(pool, 4)
			insert(PoolAt(t, c.Hosts(database)), 8)
			expect(database, 15)
			t.Log(c.Source())
		})
	}
}
