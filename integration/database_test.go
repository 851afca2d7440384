package integration_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// The server's own limit for a request, and how long a browser may have to wait in
// all: the rest is for a machine that has much else to do.
const (
	requestTimeout = 2 * time.Second
	patience       = requestTimeout + 10*time.Second
)

// failing configures a server whose database is going to fail.
func failing(c *authserver.Config) {
	c.AllowErrors = true
	c.Flags = append(c.Flags, "-request-timeout", requestTimeout.String())
}

// unavailable fails the test unless the page says that the server has a problem, to
// the person or to the client, and brings nothing else.
func (s *suite) unavailable(page *useragent.Page) {
	s.t.Helper()
	s.nothingIssued(page)
	d := page.Delivery()
	switch {
	case d != nil:
		if e := d.Values.Get("error"); e != "server_error" && e != "temporarily_unavailable" {
			s.t.Errorf("the client is told %v", d.Values)
		}
	case page.Status != http.StatusServiceUnavailable:
		s.t.Errorf("status %d, %s", page.Status, page.Text())
	}
}

// inTime fails the test if f takes longer than the server may let a browser wait.
func inTime(t testing.TB, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > patience {
		t.Errorf("it took %v", took)
	}
}

// ready returns the status of the readiness check.
func (s *suite) ready() int {
	s.t.Helper()
	response, err := clientFor(s.server).Get(s.server.URL + "/readyz")
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// recovers fails the test unless the server, without having been restarted, works.
func (s *suite) recovers(browser *useragent.Agent) {
	s.t.Helper()
	eventually(s.t, "the server is ready again", func() bool { return s.ready() == http.StatusOK })
	params := authorization("web")
	allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(browser, params)))
}

// eventually asks until the answer is yes: what it asks about cannot be waited for.
func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("it does not come to this: %s", what)
		}
	}
}

// lockGrants keeps everybody from the table, until the returned function is called.
func (s *suite) lockGrants() (unlock func()) {
	s.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.database)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(ctx) })
	s.exec(conn, "BEGIN")
	s.exec(conn, "LOCK TABLE consent_grants IN ACCESS EXCLUSIVE MODE")
	return func() { s.t.Helper(); s.exec(conn, "ROLLBACK") }
}

func (s *suite) exec(conn *pgx.Conn, sql string) {
	s.t.Helper()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		s.t.Fatal(err)
	}
}

// waiting returns the process ids of the statements that wait for a lock.
func (s *suite) waiting() []int32 {
	s.t.Helper()
	rows, err := s.pool.Query(context.Background(), `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	if err != nil {
		s.t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		s.t.Fatal(err)
	}
	return pids
}

// nothingRuns reports whether no statement is under way. One that waits for a lock is not to be seen to do so
// while it looks for a deadlock.
func (s *suite) nothingRuns() bool {
	s.t.Helper()
	var active int
	err := s.pool.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()`).Scan(&active)
	if err != nil {
		s.t.Fatal(err)
	}
	return active == 0
}

func (s *suite) signal(function string, pid int32) {
	s.t.Helper()
	if _, err := s.pool.Exec(context.Background(), "SELECT "+function+"($1)", pid); err != nil {
		s.t.Fatal(err)
	}
}

// later runs f in a goroutine of its own and returns its result when asked.
func later[T any](f func() T) func() T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return func() T { return <-result }
}

// A statement that gets nowhere is given up in time; nothing is stored, and the page
// is still good.
func TestStuckStatementIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newSuite(t, failing)
	alice := s.signIn("alice")
	params := authorization("web")
	page := s.consentPage(alice, params)
	for _, button := range []string{"approve", "deny"} {
		unlock := s.lockGrants()
		inTime(t, func() { s.unavailable(page.Form("/consent").Submit(button)) })
		eventually(t, "the statement is cancelled", s.nothingRuns)
		unlock()
		s.wantCount(0, 0, 0)
	}
	allOf(params, "alice").check(s, s.server, s.approve(page))
	s.wantCount(1, 0, 1)
}

// A statement that an administrator cancels, or whose connection he ends.
func TestStatementThatIsCancelledOrTerminated(t *testing.T) {
	t.Parallel()
	s := newSuite(t, failing)
	alice := s.signIn("alice")
	params := authorization("web")

	// In either case the transaction is gone, and with it all of the decision.
	page := s.consentPage(alice, params)
	for _, function := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		unlock := s.lockGrants()
		answer := later(func() *useragent.Page { return page.Form("/consent").Submit("approve") })
		eventually(t, "the statement waits", func() bool { return len(s.waiting()) == 1 })
		s.signal(function, s.waiting()[0])
		s.unavailable(answer())
		unlock()
		s.wantCount(0, 0, 0)
	}
	allOf(params, "alice").check(s, s.server, s.approve(page))
	s.wantCount(1, 0, 1)
}

// The browser goes away in the middle of a statement.
func TestBrowserThatGoesAway(t *testing.T) {
	t.Parallel()
	s := newSuite(t, failing)
	alice := s.signIn("alice")
	params := authorization("web")
	page := s.consentPage(alice, params)
	form := page.Form("/consent")
	unlock := s.lockGrants()
	ctx, stop := context.WithCancel(context.Background())
	gone := later(func() error {
		_, err := alice.DoContext(ctx, useragent.Request{Method: http.MethodPost, URL: form.Action, Body: form.Values("approve").Encode(), Header: alice.SameOrigin()})
		return err
	})
	eventually(t, "the statement waits", func() bool { return len(s.waiting()) == 1 })
	stop()
	if err := gone(); err == nil {
		t.Error("there was an answer")
	}
	eventually(t, "the statement is cancelled", s.nothingRuns)
	unlock()
	s.wantCount(0, 0, 0)
	allOf(params, "alice").check(s, s.server, s.approve(page))
	s.wantCount(1, 0, 1)
}

// Each of the two statements fails, and with it all that the decision stores.
func TestStatementThatFails(t *testing.T) {
	t.Parallel()
	s := newSuite(t, failing)
	alice := s.signIn("alice")
	params := authorization("web")
	ctx := context.Background()
	for _, code := range []string{"53100", "40001", "40P01", "25006", "55P03", "57014", "XX000", "23514"} {
		for _, table := range []string{"consent_grants", "consent_codes"} {
			page := s.consentPage(alice, params)
			before := s.grants()
			_, err := s.pool.Exec(ctx, `CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '`+code+`'; END $$;
				CREATE TRIGGER fail BEFORE INSERT ON `+table+` FOR EACH ROW EXECUTE FUNCTION fail()`)
			if err != nil {
				t.Fatal(err)
			}
			s.unavailable(page.Form("/consent").Submit("approve"))
			if _, err := s.pool.Exec(ctx, `DROP TRIGGER fail ON `+table); err != nil {
				t.Fatal(err)
			}
			if s.grants() != before {
				t.Errorf("%s with %s: the grants changed", table, code)
			}
			if answer := page.Form("/consent").Submit("approve"); s.issued(answer) == nil {
				t.Errorf("%s with %s: the page is no longer good", table, code)
			}
		}
	}
	// The table is not there at all.
	page := s.consentPage(alice, params)
	if _, err := s.pool.Exec(ctx, `ALTER TABLE consent_grants RENAME TO elsewhere`); err != nil {
		t.Fatal(err)
	}
	s.unavailable(page.Form("/consent").Submit("approve"))
	if status := s.ready(); status != http.StatusServiceUnavailable {
		t.Errorf("without its table the server is ready: %d", status)
	}
	if _, err := s.pool.Exec(ctx, `ALTER TABLE elsewhere RENAME TO consent_grants`); err != nil {
		t.Fatal(err)
	}
	s.recovers(alice)
}

// The server is killed while PostgreSQL works at what it has sent, the grant and the code in
// one: the decision counts, and the code is one that nobody has. The page says so, and its
// way on leads to a page of its own.
func TestServerThatCrashesInTheMiddleOfADecision(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"consent_grants", "consent_codes"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t, failing)
			ctx := context.Background()
			alice := s.signIn("alice")
			page := s.consentPage(alice, authorization("web"))
			if _, err := s.pool.Exec(ctx, `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
				CREATE TRIGGER hold BEFORE INSERT ON `+table+` FOR EACH ROW EXECUTE FUNCTION hold()`); err != nil {
				t.Fatal(err)
			}
			holder, err := pgx.Connect(ctx, s.database)
			if err != nil {
				t.Fatal(err)
			}
			s.exec(holder, "SELECT pg_advisory_lock(1)")
			form := page.Form("/consent")
			lost := later(func() error {
				_, err := alice.Do(useragent.Request{Method: http.MethodPost, URL: form.Action, Body: form.Values("approve").Encode(), Header: alice.SameOrigin()})
				return err
			})
			eventually(t, "the statement waits", func() bool { return len(s.waiting()) == 1 })
			s.server.Kill()
			if err := lost(); err == nil {
				t.Error("a killed server has answered")
			}
			_ = holder.Close(ctx) // and with it the lock
			s.settled()
			s.wantCount(1, 0, 1)
			s.codesAreThoseOfConsumedGrants()

			s.server = s.site.Start()
			alice.Use(s.server)
			if answer := form.Submit("approve"); s.issued(answer) != nil || answer.Status != http.StatusConflict {
				t.Errorf("the page, answered again: status %d, delivery %+v", answer.Status, answer.Delivery())
			}
			s.recovers(alice)
			s.wantCount(2, 0, 2)
			s.codesAreThoseOfConsumedGrants()
		})
	}
}

// settled waits until no transaction is under way.
func (s *suite) settled() {
	s.t.Helper()
	eventually(s.t, "the transaction is over", func() bool {
		var open int
		err := s.pool.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()`).Scan(&open)
		return err == nil && open == 0
	})
}

// codesAreThoseOfConsumedGrants fails the test unless there are as many codes as grants
// that were consumed.
func (s *suite) codesAreThoseOfConsumedGrants() {
	s.t.Helper()
	var codes int
	if err := s.pool.QueryRow(context.Background(), "SELECT count(*) FROM consent_codes").Scan(&codes); err != nil {
		s.t.Fatal(err)
	}
	if _, _, consumed := s.count(); codes != consumed {
		s.t.Errorf("%d codes are stored and %d grants consumed", codes, consumed)
	}
}

// proxied is newSuite with a proxy between the server and its database.
func proxied(t testing.TB) (*suite, *pgtest.Proxy) {
	t.Helper()
	direct := pgtest.Database(t)
	proxy, address := pgtest.ProxyTo(t, direct)
	s := newSuite(t, failing, func(c *authserver.Config) { c.DatabaseURL = address })
	s.database, s.pool = direct, pgtest.PoolAt(t, direct)
	return s, proxy
}

func TestDatabaseThatCannotBeReached(t *testing.T) {
	t.Parallel()
	s, proxy := proxied(t)
	alice := s.signIn("alice")
	params := authorization("web")
	page := s.consentPage(alice, params)
	for name, fail := range map[string]func(){
		"refuses":   func() { proxy.Refuse(); proxy.Cut() },
		"is silent": func() { proxy.Blackhole() },
		"is silent to what is new and has cut the rest off": func() { proxy.Blackhole(); proxy.Cut() },
		"is slower than anybody would wait":                 func() { proxy.Delay(4 * requestTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			fail()
			for _, button := range []string{"approve", "deny"} {
				inTime(t, func() { s.unavailable(page.Form("/consent").Submit(button)) })
			}
			inTime(t, func() { s.unavailable(s.authorize(alice, params)) })
			inTime(t, func() {
				if status := s.ready(); status != http.StatusServiceUnavailable {
					t.Errorf("the server says that it is ready: %d", status)
				}
			})
			proxy.Heal()
			s.recovers(alice)
		})
	}
	t.Run("is slow", func(t *testing.T) {
		s := s.in(t)
		proxy.Delay(50 * time.Millisecond)
		inTime(t, func() { allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(alice, params))) })
		proxy.Heal()
	})
	// The page from before all that: nothing was decided on it.
	allOf(params, "alice").check(s, s.server, s.approve(page))
}

// The connection is cut after each so many bytes, in either direction: statements that
// were never carried out, and statements whose answers were lost.
func TestConnectionThatIsCutAnywhere(t *testing.T) {
	t.Parallel()
	s, proxy := proxied(t)
	alice := s.signIn("alice")
	params := authorization("web")
	codes, failures := 0, 0
	for _, direction := range []pgtest.Direction{pgtest.ToServer, pgtest.ToClient} {
		for n := int64(0); n < 1600; n += 50 {
			page := s.consentPage(alice, params)
			cut := proxy.CutAfter(direction, n)
			var answer *useragent.Page
			inTime(t, func() { answer = page.Form("/consent").Submit("approve") })
			proxy.Heal()
			again := page.Form("/consent").Submit("approve")
			got, second := s.issued(answer), s.issued(again)
			if got != nil && second != nil {
				t.Errorf("cut after %d bytes in direction %d: two codes for one page", n, direction)
			}
			if got == nil {
				failures++
				s.unavailable(answer)
				if got = second; got == nil && again.Status != http.StatusConflict {
					t.Errorf("cut after %d bytes in direction %d: the page then leads to status %d", n, direction, again.Status)
				}
			}
			if got != nil {
				codes++
				allOf(params, "alice").check(s, s.server, got)
			}
			select {
			case <-cut:
			default: // the exchange was shorter
				n = 1 << 20
			}
		}
	}
	t.Logf("%d codes, %d failures", codes, failures)
	if approved, denied, consumed := s.count(); consumed != codes || approved < codes || denied != 0 {
		t.Errorf("%d codes were issued, and of %d approved grants %d were consumed", codes, approved, consumed)
	}
	s.recovers(alice)
}

// The database server itself stops, crashes, hangs, and comes back.
func TestDatabaseServerThatFails(t *testing.T) {
	t.Parallel()
	database := pgtest.Dedicated(t)
	s := newSuite(t, failing, func(c *authserver.Config) { c.DatabaseURL = database.Database() })
	alice := s.signIn("alice")
	params := authorization("web")
	for name, step := range map[string]struct{ fail, mend func() }{
		"stops":   {database.Stop, database.Start},
		"crashes": {database.Kill, database.Start},
		"hangs":   {database.Pause, database.Unpause},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			answered, open := s.consentPage(alice, params), s.consentPage(alice, params)
			s.approve(answered)
			before := s.grants()
			step.fail()
			for range 2 {
				inTime(t, func() { s.unavailable(open.Form("/consent").Submit("approve")) })
			}
			inTime(t, func() { s.unavailable(s.authorize(alice, params)) })
			step.mend()
			s.pool.Reset() // the test's own connections are gone as well
			eventually(t, "the server is ready again", func() bool { return s.ready() == http.StatusOK })
			if after := s.grants(); after != before {
				t.Errorf("the grants changed from\n%s\nto\n%s", before, after)
			}
			// What was committed counts, and what was not has not happened.
			s.nothingIssued(answered.Form("/consent").Submit("approve"))
			allOf(params, "alice").check(s, s.server, s.approve(open))
		})
	}
}
