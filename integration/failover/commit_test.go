package failover_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// A primary makes a commit visible when it gives up waiting for its standby, and tells
// nobody who asks later. What is asked, or done again, after a call was lost must not fall
// for that: if the standby is promoted, it never happened.
func TestNothingIsAcknowledgedBeforeTheStandbyHasIt(t *testing.T) {
	t.Parallel()
	c, database := cluster(t, pgtest.Synchronous)
	ctx := testContext(t)
	asked := make(chan struct{}, 1)
	n := newNode(t, database, func(c *pgxpool.Config) { c.ConnConfig.Tracer = tracer{asked} })
	// This one has the server cancel what the caller gives up, and the server answers a
	// commit whose wait was cancelled as if it had not been.
	canceling := newNode(t, database, func(c *pgxpool.Config) {
		c.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
		}
	})
	primary := pgtest.PoolAt(t, c.At(database, false))
	grant := make([]*fositeconsent.Grant, 5)
	for i := range grant {
		grant[i] = n.mint(t)
	}
	code := must(n.respond(ctx, must(n.approve(ctx, "alice", false))(t)))(t)
	token := must(n.exchange(ctx, code))(t)

	step := func(what string, do func()) { // each goes on with what the one before has left
		if !t.Failed() {
			t.Log(what)
			do()
		}
	}
	step("a standby is not asked what became of a commit: it knows less", func() {
		c.Detach()
		result := spendInTransaction(t, n.store, n.grants, grant[0])
		waiting(t, primary, 0, result)
		c.Proxy().SetTarget(host(t, c.At(database, true)))
		c.Proxy().Cut()
		for range 2 { // the first answer is not believed
			select {
			case <-asked:
			case err := <-result:
				t.Fatalf("Commit has not waited: %v", err)
			}
		}
		c.Proxy().SetTarget(host(t, c.At(database, false)))
		c.Proxy().Cut()
		c.Attach()
		if err := <-result; err != nil {
			t.Errorf("Commit: %v", err)
		}
		c.CatchUp()
	})
	step("a commit whose session was ended counts when the standby has it", func() {
		c.Detach()
		result := spendInTransaction(t, n.store, n.grants, grant[1])
		waiting(t, primary, terminate(t, primary, waiting(t, primary, 0, result)), result)
		c.Attach()
		if err := <-result; err != nil {
			t.Errorf("Commit: %v", err)
		}
		c.CatchUp()
		if !spent(t, c.At(database, true), grant[1]) {
			t.Error("the standby does not have it")
		}
	})
	step("a revocation that finds nothing left to do when it is repeated waits again", func() {
		c.Detach()
		_, request, err := n.provider.IntrospectToken(ctx, token, fosite.AccessToken, openid.NewDefaultSession())
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		go func() { result <- n.store.RevokeAccessToken(ctx, request.GetID()) }()
		waiting(t, primary, terminate(t, primary, waiting(t, primary, 0, result)), result)
		if n.live(ctx, token) {
			t.Error("the revocation is not visible, so this shows nothing")
		}
		c.Attach()
		if err := <-result; err != nil {
			t.Error(err)
		}
		c.CatchUp()
		if newNode(t, c.At(database, true)).live(ctx, token) {
			t.Error("the standby does not have the revocation")
		}
	})
	step("a call that is given up is no success", func() {
		c.Detach()
		ctx, cancel := context.WithCancel(ctx)
		result := make(chan error, 1)
		go func() {
			_, err := canceling.grants.ConsumeConsentGrant(ctx, present(grant[2]))
			result <- err
		}()
		waiting(t, primary, 0, result)
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("ConsumeConsentGrant: %v", err)
		}
	})
	step("nor is a commit that is given up", func() {
		hasty := must(pgstore.NewTransactions(canceling.pool, pgstore.TransactionConfig{CommitTimeout: 200 * time.Millisecond}))(t)
		if err := <-spendInTransaction(t, hasty, canceling.grants, grant[3]); !outcomeUnknown(err) {
			t.Errorf("Commit: %v", err)
		}
	})
	step("a commit did not happen if the standby is promoted without it", func() {
		result := spendInTransaction(t, n.store, n.grants, grant[4])
		waiting(t, primary, terminate(t, primary, waiting(t, primary, 0, result)), result)
		c.Promote()
		var state interface{ SQLState() string }
		if err := <-result; !errors.As(err, &state) || state.SQLState() != "40000" { // transaction_rollback
			t.Errorf("Commit: %v", err)
		}
	})
	for _, g := range grant[2:] {
		if !spent(t, c.At(database, false), g) {
			t.Error("the old primary does not show the grant as spent, so this has shown nothing")
		}
		if _, err := n.grants.ConsumeConsentGrant(ctx, present(g)); err != nil {
			t.Errorf("what nobody was told has happened: %v", err)
		}
	}
}

// What the documentation warns of: each of these acknowledges what a synchronous standby
// does not have, and the approval is good for another code when that is promoted.
func TestWhatDoesNotWaitForTheStandbyIsLost(t *testing.T) {
	t.Parallel()
	c, database := cluster(t, pgtest.Synchronous)
	ctx := testContext(t)
	old := c.At(database, false)
	n, primary := newNode(t, database), pgtest.PoolAt(t, old)
	at := func(setting string) *node {
		return newNode(t, old, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["synchronous_commit"] = setting })
	}
	local, off, waits := at("local"), at("off"), at("on")
	respond := func(n *node) func(approval) (string, error) {
		return func(a approval) (string, error) { return n.respond(ctx, a) }
	}
	cases := []struct {
		what    string
		present func(approval) (string, error)
	}{
		{"synchronous_commit = local", respond(local)},
		{"synchronous_commit = off", respond(off)},
		{"an administrator cancels the wait", func(a approval) (code string, err error) {
			result := make(chan error, 1)
			go func() {
				code, err = waits.respond(ctx, a)
				result <- err
			}()
			if _, err := primary.Exec(ctx, "SELECT pg_cancel_backend($1)", waiting(t, primary, 0, result)); err != nil {
				t.Fatal(err)
			}
			err = <-result
			return code, err
		}},
		{"the old primary was left running", func(a approval) (string, error) {
			c.Promote()
			return local.respond(ctx, a)
		}},
	}
	var approvals []approval
	for range cases {
		approvals = append(approvals, must(n.approve(ctx, "alice", true))(t))
	}
	exchanged := must(n.respond(ctx, must(n.approve(ctx, "alice", false))(t)))(t)
	revoked := must(n.exchange(ctx, must(n.respond(ctx, must(n.approve(ctx, "alice", false))(t)))(t)))(t)
	_, request, err := n.provider.IntrospectToken(ctx, revoked, fosite.AccessToken, openid.NewDefaultSession())
	if err != nil {
		t.Fatal(err)
	}
	c.Detach()
	lost := must(local.exchange(ctx, exchanged))(t)
	if err := local.store.RevokeAccessToken(ctx, request.GetID()); err != nil || local.live(ctx, revoked) || !local.live(ctx, lost) {
		t.Fatal(err)
	}
	var codes []string
	for i, o := range cases {
		code, err := o.present(approvals[i])
		if err != nil {
			t.Fatalf("%s: %v", o.what, err)
		}
		codes = append(codes, code)
	}
	for i, o := range cases {
		if _, err := n.exchange(ctx, codes[i]); !errors.Is(err, fosite.ErrInvalidGrant) {
			t.Errorf("%s: the first code is answered with %v", o.what, err)
		}
		if _, err := n.respond(ctx, approvals[i]); err != nil {
			t.Errorf("%s: the approval is not good again, so the documentation is wrong: %v", o.what, err)
		}
		if _, err := n.respond(ctx, approvals[i]); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
			t.Errorf("%s: and once more: %v", o.what, err)
		}
	}
	if n.live(ctx, lost) || !n.live(ctx, revoked) {
		t.Error("the exchange, or the revocation, is not lost, so the documentation is wrong")
	}
	must(n.exchange(ctx, exchanged))(t)
	if _, err := n.exchange(ctx, exchanged); !errors.Is(err, fosite.ErrInvalidGrant) {
		t.Errorf("a code that has been exchanged again, and once more: %v", err)
	}
}

// tracer says when a transaction's status has been asked for.
type tracer struct{ asked chan struct{} }

type statusKey struct{}

func (r tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, statusKey{}, strings.Contains(d.SQL, "pg_xact_status"))
}

func (r tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	if ctx.Value(statusKey{}) == true && d.Err == nil {
		select {
		case r.asked <- struct{}{}:
		default:
		}
	}
}

// mint mints a grant.
func (n *node) mint(t *testing.T) *fositeconsent.Grant {
	t.Helper()
	g := newGrant("alice")
	if err := n.grants.CreateConsentGrant(testContext(t), g); err != nil {
		t.Fatal(err)
	}
	return g
}

type transactions interface {
	BeginTX(ctx context.Context) (context.Context, error)
	Commit(ctx context.Context) error
}

// spendInTransaction spends a grant in a transaction, and returns what Commit will.
func spendInTransaction(t *testing.T, in transactions, grants *pgstore.Store, g *fositeconsent.Grant) <-chan error {
	t.Helper()
	ctx := must(in.BeginTX(testContext(t)))(t)
	must(grants.ConsumeConsentGrant(ctx, present(g)))(t)
	result := make(chan error, 1)
	go func() { result <- in.Commit(ctx) }()
	return result
}

// waiting returns the primary's process, another than that of before, that waits for the
// standby to have a commit.
func waiting(t *testing.T, primary *pgxpool.Pool, before int, result <-chan error) (pid int) {
	t.Helper()
	ctx := testContext(t)
	for pid == 0 {
		select {
		case err := <-result:
			t.Fatalf("it has not waited for the standby: %v", err)
		case <-time.After(5 * time.Millisecond): // the server tells nobody by itself
		}
		if err := primary.QueryRow(ctx, "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> $1",
			before).Scan(&pid); err != nil {
			t.Fatal(err)
		}
	}
	return pid
}

// terminate ends a process, and returns its number.
func terminate(t *testing.T, primary *pgxpool.Pool, pid int) int {
	t.Helper()
	if _, err := primary.Exec(testContext(t), "SELECT pg_terminate_backend($1)", pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// spent reports whether a server shows the grant as spent.
func spent(t *testing.T, databaseURL string, g *fositeconsent.Grant) (spent bool) {
	t.Helper()
	if err := pgtest.PoolAt(t, databaseURL).QueryRow(testContext(t), "SELECT consumed_at IS NOT NULL FROM consent_grants WHERE id = $1",
		text(g.ID)).Scan(&spent); err != nil {
		t.Fatal(err)
	}
	return spent
}

func host(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}
