package fositestore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// waiting returns when n connections wait for a lock.
func waiting(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	ctx := testContext(t)
	for got := -1; got != n; {
		err := pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&got)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// family is tokens of one request.
type family struct {
	*testing.T
	pool  *pgxpool.Pool
	store *fositestore.Store
	r     *fosite.Request
}

func newFamily(t *testing.T, pool *pgxpool.Pool) *family {
	return newFamilyAt(t, pool, pgstore.Config{})
}

func newFamilyAt(t *testing.T, pool *pgxpool.Pool, tables pgstore.Config) *family {
	f := &family{T: t, pool: pool, store: newStore(t, pool, fositestore.Config{Tables: tables}), r: fosite.NewRequest()}
	f.r.Client, f.r.Session = &fosite.DefaultClient{ID: "app"}, newSession()
	for _, kind := range []fosite.TokenType{fosite.AuthorizeCode, fosite.AccessToken, fosite.RefreshToken} {
		f.r.Session.SetExpiresAt(kind, time.Now().Add(time.Hour))
	}
	f.ok(f.store.CreateClient(testContext(t), f.r.Client))
	f.ok(f.store.CreateAuthorizeCodeSession(testContext(t), "code", f.r))
	f.ok(f.store.CreateAccessTokenSession(testContext(t), "access 0", f.r))
	f.ok(f.store.CreateRefreshTokenSession(testContext(t), "refresh 0", "access 0", f.r))
	return f
}

func (f *family) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// issue makes a transaction in which a claim wins that is followed by tokens. It is
// begun, and holds its locks, when issue returns.
func (f *family) issue(claim func(context.Context) error, name string) context.Context {
	f.Helper()
	ctx, err := f.store.BeginTX(testContext(f))
	f.ok(err)
	f.ok(claim(ctx))
	f.ok(f.store.CreateAccessTokenSession(ctx, "access "+name, f.r))
	f.ok(f.store.CreateRefreshTokenSession(ctx, "refresh "+name, "access "+name, f.r))
	if _, err := f.store.DB(ctx).Exec(ctx, "SELECT"); err != nil {
		f.Fatal(err)
	}
	return ctx
}

func (f *family) rotate(ctx context.Context) error {
	return f.store.RotateRefreshToken(ctx, f.r.ID, "refresh 0")
}

func (f *family) redeem(ctx context.Context) error {
	return f.store.InvalidateAuthorizeCodeSession(ctx, "code")
}

// live counts the tokens that can be used.
func (f *family) live() (n int) {
	f.Helper()
	err := f.pool.QueryRow(testContext(f), `SELECT (SELECT count(*) FROM public.consent_access_tokens WHERE ended_at IS NULL)
		+ (SELECT count(*) FROM public.consent_refresh_tokens WHERE ended_at IS NULL)`).Scan(&n)
	f.ok(err)
	return n
}

func (f *family) rows() (n int) {
	f.Helper()
	err := f.pool.QueryRow(testContext(f), `SELECT (SELECT count(*) FROM public.consent_access_tokens)
		+ (SELECT count(*) FROM public.consent_refresh_tokens)`).Scan(&n)
	f.ok(err)
	return n
}

// A revocation that comes while tokens are being issued waits, and ends those as well.
func TestRevocationWaitsForWhoIssues(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"read committed", "repeatable read"} { // the database's default
		for name, claim := range map[string]func(*family, context.Context) error{
			"a rotation": (*family).rotate, "a redemption": (*family).redeem,
		} {
			t.Run(name+" at "+level, func(t *testing.T) {
				t.Parallel()
				pool := migrated(t, pgstore.Config{}, withConns(8), func(c *pgxpool.Config) {
					c.ConnConfig.RuntimeParams["default_transaction_isolation"] = level
				})
				f := newFamily(t, pool)
				issuing := f.issue(func(ctx context.Context) error { return claim(f, ctx) }, "1")
				revoked := make(chan error, 1)
				go func() { revoked <- f.store.RevokeRefreshToken(testContext(t), f.r.ID) }()
				waiting(t, pool, 1)
				f.ok(f.store.Commit(issuing))
				f.ok(<-revoked)
				if n := f.live(); n != 0 {
					t.Errorf("%d tokens outlive the revocation", n)
				}
			})
		}
	}
}

// Who wants to issue tokens while their family is being revoked waits, and gets none.
func TestWhoIssuesWaitsForTheRevocation(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	f := newFamily(t, pool)
	// A revocation that has the lock, and has not come to the tokens.
	revoking, err := pool.Begin(testContext(t))
	f.ok(err)
	if _, err := revoking.Exec(testContext(t), "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 7377854308561284724))", f.r.ID); err != nil {
		t.Fatal(err)
	}
	issued := make(chan error, 1)
	go func() {
		ctx, err := f.store.BeginTX(testContext(t))
		if err == nil {
			err = errors.Join(f.rotate(ctx), f.store.CreateAccessTokenSession(ctx, "access 1", f.r),
				f.store.CreateRefreshTokenSession(ctx, "refresh 1", "access 1", f.r), f.store.Commit(ctx))
		}
		issued <- err
	}()
	waiting(t, pool, 1)
	f.ok(f.store.RevokeRefreshToken(pgstore.WithTx(testContext(t), revoking), f.r.ID))
	f.ok(revoking.Commit(testContext(t)))
	if err := <-issued; !errors.Is(err, fosite.ErrInactiveToken) {
		t.Errorf("the rotation: %v", err)
	}
	if live, rows := f.live(), f.rows(); live != 0 || rows != 2 {
		t.Errorf("%d of %d tokens are live", live, rows)
	}
}

// Two have seen a good code, or refresh token. The second one waits for the first, is
// refused, stores nothing, and ends what the first one got.
func TestTheSecondOneEndsTheFamily(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		claim func(*family, context.Context) error
		want  error
	}{
		"a code":          {(*family).redeem, fosite.ErrInvalidatedAuthorizeCode},
		"a refresh token": {(*family).rotate, fosite.ErrInactiveToken},
	} {
		const atSerializable = "in one round trip, with a database that is serializable by default"
		for _, how := range []string{"in one round trip", atSerializable, "in a transaction", "in a transaction of the host's", "alone"} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				pool := migrated(t, pgstore.Config{}, withConns(8), func(c *pgxpool.Config) {
					if how == atSerializable {
						c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
					}
				})
				f := newFamily(t, pool)
				first := f.issue(func(ctx context.Context) error { return c.claim(f, ctx) }, "1")
				second := make(chan error, 1)
				go func() {
					ctx := testContext(t)
					switch how {
					case "alone":
						second <- c.claim(f, ctx)
						return
					case "in a transaction of the host's":
						tx, err := pool.Begin(ctx)
						if err == nil {
							err = c.claim(f, pgstore.WithTx(ctx, tx))
							err = errors.Join(err, tx.Commit(ctx)) // the host's to do
						}
						second <- err
						return
					}
					ctx, err := f.store.BeginTX(ctx)
					if err == nil && how == "in a transaction" {
						_, err = f.store.DB(ctx).Exec(ctx, "SELECT")
					}
					if err == nil {
						err = errors.Join(c.claim(f, ctx), f.store.CreateAccessTokenSession(ctx, "access 2", f.r),
							f.store.CreateRefreshTokenSession(ctx, "refresh 2", "access 2", f.r))
					}
					if err == nil {
						err = f.store.Commit(ctx)
					}
					second <- errors.Join(err, f.store.Rollback(ctx))
				}()
				waiting(t, pool, 1)
				f.ok(f.store.Commit(first))
				if err := <-second; !errors.Is(err, c.want) {
					t.Errorf("the second one: %v, want %v", err, c.want)
				}
				if live, rows := f.live(), f.rows(); live != 0 || rows != 4 {
					t.Errorf("%d of %d tokens are live, want 0 of 4", live, rows)
				}
			})
		}
	}
}

// Who gives up while the server is at it cannot say that nothing was committed.
func TestWhoGivesUpDoesNotKnow(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	f := newFamily(t, pool)
	first := f.issue(func(ctx context.Context) error { return f.redeem(ctx) }, "1")
	impatient, giveUp := context.WithCancel(testContext(t))
	second := make(chan error, 1)
	go func() {
		ctx, err := f.store.BeginTX(impatient)
		if err == nil {
			err = errors.Join(f.redeem(ctx), f.store.CreateAccessTokenSession(ctx, "access 2", f.r))
		}
		if err == nil {
			err = f.store.Commit(ctx)
		}
		second <- err
	}()
	waiting(t, pool, 1)
	giveUp()
	err := <-second
	if state(err) != "40003" || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	f.ok(f.store.Rollback(first))
}

// state returns the SQLSTATE of an error, "" if it has none.
func state(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

// Nor does who is not answered at all, and that takes no longer than CommitTimeout.
func TestAServerThatFallsSilentIsGivenUp(t *testing.T) {
	t.Parallel()
	proxy, through := pgtest.ProxyTo(t, pgtest.Database(t))
	pool := pgtest.PoolAt(t, through)
	if err := pgstore.Migrate(testContext(t), pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	f := newFamily(t, pool)
	s := newStore(t, pool, fositestore.Config{Transactions: pgstore.TransactionConfig{CommitTimeout: 200 * time.Millisecond}})
	proxy.Blackhole()
	ctx := testContext(t)
	err := s.CreateAccessTokenSession(ctx, "access 1", f.r)
	proxy.Heal()
	if state(err) != "40003" || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

// Whether something that was committed at once took effect is asked for as long as
// CommitTimeout, while the database is away.
func TestAnAnswerThatWasLostIsAskedForAgain(t *testing.T) {
	t.Parallel()
	proxy, through := pgtest.ProxyTo(t, pgtest.Database(t))
	var away, dialed atomic.Int32
	pool := pgtest.PoolAt(t, through, withConns(1), func(c *pgxpool.Config) {
		c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if away.Load() == 1 && dialed.Add(1) == 8 { // more often than one call of Repeat tries
				proxy.Heal()
			}
			return nil
		}
	})
	if err := pgstore.Migrate(testContext(t), pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	f := newFamily(t, pool)
	inside, err := f.store.BeginTX(testContext(t))
	f.ok(err)
	f.ok(f.redeem(inside))
	f.ok(f.store.CreateAccessTokenSession(inside, "access 1", f.r))
	away.Store(1)
	proxy.Refuse()
	cut := proxy.CutAfter(pgtest.ToClient, 0)
	f.ok(f.store.Commit(inside))
	<-cut
	if live := f.live(); live != 3 {
		t.Errorf("%d tokens are live, want 3", live)
	}
}

// A revocation that is left for after a transaction is not lost with its connection.
func TestARevocationSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprintf("begun %t", begun), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withConns(1))
			f := newFamily(t, pool)
			ctx := testContext(t)
			inside, err := f.store.BeginTX(ctx)
			f.ok(err)
			if begun {
				_, err := f.store.DB(inside).Exec(inside, "SELECT")
				f.ok(err)
			}
			f.ok(f.store.RevokeRefreshToken(inside, f.r.ID))
			f.endSessions()
			f.ok(f.store.Rollback(inside))
			if live := f.live(); live != 0 {
				t.Errorf("%d tokens are live", live)
			}
		})
	}
}

// What follows a commit and fails says nothing of the commit.
func TestACommitIsNotDeniedForARevocationThatFails(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	f := newFamily(t, pool)
	ctx := testContext(t)
	inside, err := f.store.BeginTX(ctx)
	f.ok(err)
	f.ok(f.store.CreateAccessTokenSession(inside, "access 1", f.r))
	f.ok(f.store.RevokeRefreshToken(inside, f.r.ID))
	exec(t, pool, "ALTER TABLE public.consent_refresh_tokens RENAME TO elsewhere")
	if err := f.store.Commit(inside); state(err) != "40003" {
		t.Errorf("got %v", err)
	}
	if _, err := f.store.GetAccessTokenSession(ctx, "access 1", nil); err != nil {
		t.Error(err)
	}
}

// endSessions has the server end every connection of the pool.
func (f *family) endSessions() {
	f.Helper()
	ctx := testContext(f)
	admin, err := pgx.ConnectConfig(ctx, f.pool.Config().ConnConfig)
	f.ok(err)
	_, err = admin.Exec(ctx, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	f.ok(errors.Join(err, admin.Close(ctx)))
}

// What is sent at once is sent again where its connection was lost, in every mode in
// which pgx keeps what a connection has prepared.
func TestAWriteIsRepeatedOverAnotherConnection(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withMode(mode), withConns(1))
			f := newFamily(t, pool)
			ctx := testContext(t)
			f.endSessions()
			inside, err := f.store.BeginTX(ctx)
			f.ok(err)
			f.ok(f.redeem(inside))
			f.ok(f.store.CreateAccessTokenSession(inside, "access 1", f.r))
			f.ok(f.store.Commit(inside))
			if live := f.live(); live != 3 {
				t.Errorf("%d tokens are live, want 3", live)
			}
		})
	}
}

// What else a transaction does takes for granted that it has won what it claimed.
func TestWhoHasLostDoesNothingElse(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	f := newFamily(t, pool)
	ctx := testContext(t)
	f.ok(f.store.CreateAuthorizeCodeSession(ctx, "other", f.r))
	f.ok(f.redeem(ctx))
	for name, do := range map[string]func(context.Context) error{
		"use another code":      func(ctx context.Context) error { return f.store.InvalidateAuthorizeCodeSession(ctx, "other") },
		"store a code":          func(ctx context.Context) error { return f.store.CreateAuthorizeCodeSession(ctx, "third", f.r) },
		"store an access token": func(ctx context.Context) error { return f.store.CreateAccessTokenSession(ctx, "third", f.r) },
	} {
		inside, err := f.store.BeginTX(ctx)
		f.ok(err)
		f.ok(f.redeem(inside))
		if err = do(inside); err == nil {
			err = f.store.Commit(inside)
		}
		f.ok(f.store.Rollback(inside))
		if !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.store.GetAuthorizeCodeSession(ctx, "third", nil); !errors.Is(err, fosite.ErrNotFound) {
		t.Errorf("the third code: %v", err)
	}
	if _, err := f.store.GetAccessTokenSession(ctx, "third", nil); !errors.Is(err, fosite.ErrNotFound) {
		t.Errorf("the token: %v", err)
	}
	f.ok(f.store.InvalidateAuthorizeCodeSession(ctx, "other"))
}

// A code, and a refresh token, is good until it expires by the database's clock.
func TestExpiryIsCheckedWhenItCounts(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	now := time.Now().Truncate(time.Millisecond)
	f := newFamily(t, pool)
	at := func(d time.Duration) *fositestore.Store {
		return newStore(t, pool, fositestore.Config{Tables: pgstore.Config{TestClock: func() time.Time { return now.Add(d) }}})
	}
	for _, kind := range []fosite.TokenType{fosite.AuthorizeCode, fosite.RefreshToken} {
		f.r.Session.SetExpiresAt(kind, now.Add(time.Minute))
	}
	ctx := testContext(t)
	for _, name := range []string{"a", "b"} {
		f.ok(at(0).CreateAuthorizeCodeSession(ctx, name, f.r))
		f.ok(at(0).CreateRefreshTokenSession(ctx, name, "", f.r))
	}
	for _, err := range []error{
		at(time.Minute).InvalidateAuthorizeCodeSession(ctx, "a"), at(time.Minute).RotateRefreshToken(ctx, f.r.ID, "a"),
	} {
		if !errors.Is(err, fosite.ErrTokenExpired) {
			t.Errorf("at the end: %v", err)
		}
	}
	live := f.live()
	f.ok(at(time.Minute-time.Microsecond).InvalidateAuthorizeCodeSession(ctx, "b"))
	if live != 4 {
		t.Errorf("%d of 4 tokens are live: lateness is no reuse", live)
	}
	f.ok(at(time.Minute-time.Microsecond).RotateRefreshToken(ctx, f.r.ID, "b"))
}

func TestOneClaimOfAPushedRequest(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(16))
	f := newFamily(t, pool)
	ctx := testContext(t)
	ar := fosite.NewAuthorizeRequest()
	ar.Request = *f.r
	ar.Session = nil // the lifespan is the configuration's
	f.ok(f.store.CreatePARSession(ctx, "urn:1", ar))
	later := func(d time.Duration) *fositestore.Store {
		return newStore(t, pool, fositestore.Config{Tables: pgstore.Config{TestClock: func() time.Time { return time.Now().Add(d) }}})
	}
	if err := later(5*time.Minute).ClaimPushedAuthorizeRequest(ctx, "urn:1"); !errors.Is(err, fosite.ErrNotFound) {
		t.Errorf("when it has expired: %v", err)
	}
	if err := f.store.ClaimPushedAuthorizeRequest(ctx, "urn:2"); !errors.Is(err, fosite.ErrNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	// Rolled back, it was never claimed.
	inside, err := f.store.BeginTX(ctx)
	f.ok(err)
	f.ok(f.store.ClaimPushedAuthorizeRequest(inside, "urn:1"))
	f.ok(f.store.Rollback(inside))

	var claims sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		claims.Go(func() { errs[i] = f.store.ClaimPushedAuthorizeRequest(ctx, "urn:1") })
	}
	claims.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, fositeconsent.ErrRequestURIUsed) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d claims won", won)
	}
	if _, err := f.store.GetPARSession(ctx, "urn:1"); err != nil {
		t.Errorf("a claimed request is not readable: %v", err)
	}
}

// An ID is remembered for longer than fosite takes its JWT, by any clock.
func TestAJWTThatExpiresCannotBeReplayed(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	exp := time.Now().Truncate(time.Second)
	at := func(d time.Duration) *fositestore.Store {
		return newStore(t, pool, fositestore.Config{Tables: pgstore.Config{TestClock: func() time.Time { return exp.Add(d) }}})
	}
	ctx := testContext(t)
	if err := at(-time.Second).SetClientAssertionJWT(ctx, "jti", exp); err != nil {
		t.Fatal(err)
	}
	if err := at(time.Minute-time.Microsecond).SetClientAssertionJWT(ctx, "jti", exp); !errors.Is(err, fosite.ErrJTIKnown) {
		t.Errorf("with a clock that is almost a minute ahead: %v", err)
	}
	// In microseconds, this expiry is 2^64 more than one in the past.
	const endless = 1<<64/1_000_000 + 1
	if err := at(0).SetClientAssertionJWT(ctx, "endless", time.Unix(endless, 0)); err == nil {
		t.Error("an ID was accepted that cannot be remembered")
	}
}
