package fositestore_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/pgstore"
)

// tracer notes what is sent.
type tracer struct {
	mu    sync.Mutex
	trips [][]string // statements of each round trip
	args  map[string][]any
}

func (r *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	r.add(d.SQL, d.Args)
	return ctx
}
func (r *tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (r *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	r.mu.Lock()
	r.trips = append(r.trips, nil)
	r.mu.Unlock()
	for _, q := range d.Batch.QueuedQueries {
		r.mu.Lock()
		r.trips[len(r.trips)-1] = append(r.trips[len(r.trips)-1], q.SQL)
		r.args[q.SQL] = q.Arguments
		r.mu.Unlock()
	}
	return ctx
}
func (r *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (r *tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (r *tracer) add(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trips = append(r.trips, []string{sql})
	r.args[sql] = args
}

func (r *tracer) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trips = nil
}

func (r *tracer) counts() (trips, statements, writes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, trip := range r.trips {
		statements += len(trip)
		for _, sql := range trip {
			if f := strings.Fields(sql); f[0] == "INSERT" || f[0] == "UPDATE" {
				writes++
			}
		}
	}
	return len(r.trips), statements, writes
}

func traced(t testing.TB) (*pgxpool.Pool, *tracer) {
	r := &tracer{args: map[string][]any{}}
	return migrated(t, pgstore.Config{}, withConns(4), func(c *pgxpool.Config) { c.ConnConfig.Tracer = r }), r
}

func TestHowMuchIsSent(t *testing.T) {
	t.Parallel()
	pool, r := traced(t)
	h := newHost(t, pool)
	var code, refresh string
	for _, c := range []struct {
		what                      string
		do                        func()
		trips, statements, writes int
	}{
		// The client, and then the code, with its PKCE data and its OpenID Connect session, is one
		// INSERT, which is all that the transaction is for.
		{"an authorize response with openid", func() { code = h.authorize("openid offline photos") }, 2, 2, 1},
		// The code is read once. It is used, and both tokens are stored, in one round trip without BEGIN.
		{"the exchange of that code", func() { refresh = refreshToken(h.must(h.exchange(code, verifier))) }, 2, 4, 3},
		// As before, and the access token before it ends.
		{"a refresh", func() { refresh = refreshToken(h.must(h.refresh(refresh))) }, 2, 5, 4},
		{"an authorize response without openid", func() { code = h.authorize("photos") }, 1, 1, 1},
		{"the exchange of that code", func() { h.must(h.exchange(code, verifier)) }, 2, 3, 2},
	} {
		r.reset()
		c.do()
		trips, statements, writes := r.counts()
		if trips != c.trips || statements != c.statements || writes != c.writes {
			t.Errorf("%s: %d round trips, %d statements, %d of them write; want %d, %d, %d\n%s", c.what, trips, statements, writes,
				c.trips, c.statements, c.writes, r.text())
		}
	}
}

func (r *tracer) text() string {
	var b strings.Builder
	for i, trip := range r.trips {
		for _, sql := range trip {
			fmt.Fprintf(&b, "%d: %.100s\n", i+1, strings.Join(strings.Fields(sql), " "))
		}
	}
	return b.String()
}
