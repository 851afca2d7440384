package fositestore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// consents records that the family's request rests on consents, one for each ID, a byte.
func (f *family) consents(ids ...byte) {
	f.Helper()
	for _, id := range ids {
		exec(f, f.pool, fmt.Sprintf(`INSERT INTO public.consent_consents (id, decided_at, remembered, issuer, subject, client_id,
			login_session, scopes, audience, response_types, details, shown, request_id)
			VALUES ('%s', statement_timestamp(), true, 'https://as.example', 'user', 'app', '', '{}', '{}', '{}', '{}', sha256(''), '') ON CONFLICT DO NOTHING`, consentID(id)))
		exec(f, f.pool, fmt.Sprintf(`INSERT INTO public.consent_responses (consent_id, issued_at, request_id)
			VALUES ('%s', statement_timestamp(), '%s')`, consentID(id), f.r.GetID()))
	}
}

func consentID(id byte) fositeconsent.ID { return fositeconsent.ID{15: id} }

// revoking is a transaction that has ended a consent, and has not come to its tokens.
func (f *family) revoking(id byte) pgx.Tx {
	f.Helper()
	revoking, err := f.pool.Begin(testContext(f))
	f.ok(err)
	_, err = revoking.Exec(testContext(f), "UPDATE public.consent_consents SET revoked_at = statement_timestamp() WHERE id = $1", consentID(id).String())
	f.ok(err)
	return revoking
}

// claims are what a consent has to be live for, with the error of who comes second.
var claims = map[string]struct {
	claim func(*family, context.Context) error
	lost  error
}{
	"a code":          {(*family).redeem, fosite.ErrInvalidatedAuthorizeCode},
	"a refresh token": {(*family).rotate, fosite.ErrInactiveToken},
}

// ways are those in which a claim is made, with the tokens that follow.
var ways = map[string]func(*family, func(context.Context) error, string) error{
	"alone": func(f *family, claim func(context.Context) error, _ string) error { return claim(testContext(f)) },
	"in one round trip": func(f *family, claim func(context.Context) error, name string) error {
		return f.inTransaction(claim, name, false)
	},
	"in a transaction": func(f *family, claim func(context.Context) error, name string) error {
		return f.inTransaction(claim, name, true)
	},
	"in a transaction of the host's": func(f *family, claim func(context.Context) error, name string) error {
		tx, err := f.pool.Begin(testContext(f))
		if err != nil {
			return err
		}
		ctx := pgstore.WithTx(testContext(f), tx)
		if err := errors.Join(claim(ctx), f.store.CreateAccessTokenSession(ctx, "access "+name, f.r)); err != nil {
			return errors.Join(err, tx.Rollback(ctx))
		}
		return tx.Commit(ctx)
	},
}

func (f *family) inTransaction(claim func(context.Context) error, name string, begun bool) error {
	ctx, err := f.store.BeginTX(testContext(f))
	if err != nil {
		return err
	}
	if begun {
		if _, err := f.store.DB(ctx).Exec(ctx, "SELECT"); err != nil {
			return err
		}
	}
	err = errors.Join(claim(ctx), f.store.CreateAccessTokenSession(ctx, "access "+name, f.r),
		f.store.CreateRefreshTokenSession(ctx, "refresh "+name, "access "+name, f.r))
	if err == nil {
		err = f.store.Commit(ctx)
	}
	return errors.Join(err, f.store.Rollback(ctx))
}

// Who issues holds the consents, and is seen by a revocation that comes meanwhile.
func TestARevocationOfAConsentWaitsForWhoIssues(t *testing.T) {
	t.Parallel()
	for name, c := range claims {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFamily(t, migrated(t, pgstore.Config{}, withConns(8)))
			f.consents(1, 2)
			issuing := f.issue(func(ctx context.Context) error { return c.claim(f, ctx) }, "1")
			revoked := make(chan pgx.Tx, 1)
			go func() { revoked <- f.revoking(2) }()
			waiting(t, f.pool, 1)
			f.ok(f.store.Commit(issuing))
			revoking := <-revoked
			f.ok(f.store.RevokeRequests(pgstore.WithTx(testContext(t), revoking), []string{f.r.ID}))
			if n := f.live(); n == 0 {
				t.Error("a revocation that is not committed has taken effect")
			}
			f.ok(revoking.Commit(testContext(t)))
			if n := f.live(); n != 0 {
				t.Errorf("%d tokens outlive the revocation", n)
			}
		})
	}
}

// Who wants to issue while a consent is being revoked waits, and gets nothing, and is not taken for
// somebody who comes second. If the revocation comes to nothing, nobody has noticed.
func TestWhoIssuesWaitsForTheRevocationOfAConsent(t *testing.T) {
	t.Parallel()
	for name, c := range claims {
		for way, issue := range ways {
			for _, level := range []string{"read committed", "serializable"} { // the database's default
				t.Run(name+" "+way+" at "+level, func(t *testing.T) {
					t.Parallel()
					f := newFamily(t, migrated(t, pgstore.Config{}, withConns(8), func(c *pgxpool.Config) {
						c.ConnConfig.RuntimeParams["default_transaction_isolation"] = level
					}))
					f.consents(1, 2, 3)
					meanwhile := func(end func(pgx.Tx) error) error {
						revoking := f.revoking(2)
						issued := make(chan error, 1)
						go func() { issued <- issue(f, func(ctx context.Context) error { return c.claim(f, ctx) }, "1") }()
						waiting(t, f.pool, 1)
						f.ok(end(revoking))
						return <-issued
					}
					err := meanwhile(func(tx pgx.Tx) error { return tx.Commit(testContext(t)) })
					if !errors.Is(err, fositeconsent.ErrConsentRevoked) && !(state(err) == "40001" && way == "in a transaction of the host's") {
						t.Errorf("the claim: %v", err)
					}
					if errors.Is(err, fosite.ErrTokenExpired) || errors.Is(err, fosite.ErrNotFound) {
						t.Errorf("the claim: %v", err)
					}
					if live, rows := f.live(), f.rows(); live != 2 || rows != 2 {
						t.Errorf("%d of %d tokens are live, want 2 of 2: that was no reuse, and the revocation has not ended any", live, rows)
					}
					exec(t, f.pool, "UPDATE public.consent_consents SET revoked_at = NULL")
					f.ok(meanwhile(func(tx pgx.Tx) error { return tx.Rollback(testContext(t)) }))
				})
			}
		}
	}
}

// A revocation may end the tokens of each request for itself: who waits for the consent does
// not hold the family.
func TestWhoWaitsForAConsentKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	for name, c := range claims {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFamily(t, migrated(t, pgstore.Config{}, withConns(8)))
			f.consents(1)
			revoking := f.revoking(1)
			issued := make(chan error, 1)
			go func() {
				issued <- ways["in one round trip"](f, func(ctx context.Context) error { return c.claim(f, ctx) }, "1")
			}()
			waiting(t, f.pool, 1)
			var families int
			f.ok(f.pool.QueryRow(testContext(t), `SELECT count(*) FROM pg_locks
				WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&families))
			if families != 0 {
				t.Errorf("it holds %d families", families)
			}
			f.ok(f.store.RevokeRefreshToken(pgstore.WithTx(testContext(t), revoking), f.r.ID))
			f.ok(revoking.Commit(testContext(t)))
			if err := <-issued; !errors.Is(err, fositeconsent.ErrConsentRevoked) {
				t.Error(err)
			}
			if live, rows := f.live(), f.rows(); live != 0 || rows != 2 {
				t.Errorf("%d of %d tokens are live, want none of 2", live, rows)
			}
		})
	}
}

// A client that never stops refreshing does not keep a revocation waiting: who comes
// after the revocation has begun to wait does not get past it.
func TestNobodyPassesARevocationThatWaits(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	f := newFamily(t, pool)
	f.consents(1)
	other := &family{T: t, pool: pool, store: f.store, r: fosite.NewRequest()}
	other.r.Client, other.r.Session = f.r.Client, f.r.Session
	f.ok(f.store.CreateRefreshTokenSession(testContext(t), "other", "", other.r))
	other.consents(1)
	issuing := f.issue(func(ctx context.Context) error { return f.rotate(ctx) }, "1")
	revoked := make(chan pgx.Tx, 1)
	go func() { revoked <- f.revoking(1) }()
	waiting(t, pool, 1)
	issued := make(chan error, 1)
	go func() {
		issued <- other.inTransaction(func(ctx context.Context) error { return f.store.RotateRefreshToken(ctx, other.r.ID, "other") }, "2", false)
	}()
	waiting(t, pool, 2)
	f.ok(f.store.Commit(issuing))
	f.ok((<-revoked).Commit(testContext(t)))
	if err := <-issued; !errors.Is(err, fositeconsent.ErrConsentRevoked) {
		t.Errorf("who came after the revocation: %v", err)
	}
}

// A code is used, and a refresh token rotated, while each consent is live, and the one that is
// refused learns why.
func TestEveryConsentHasToBeLive(t *testing.T) {
	t.Parallel()
	const (
		revoke = "UPDATE public.consent_consents SET revoked_at = decided_at WHERE id = '%s'"
		expire = "UPDATE public.consent_consents SET expires_at = '2040-01-01T00:00:00Z' WHERE id = '%s'"
		remove = "DELETE FROM public.consent_consents WHERE id = '%s'"
	)
	end := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	pool := migrated(t, pgstore.Config{}, withConns(8))
	n := byte(0)
	for name, c := range map[string]struct {
		sql  [2]string // for each of two consents
		at   time.Duration
		want error
	}{
		"none":                      {want: nil},
		"two":                       {[2]string{"SELECT '%s'", "SELECT '%s'"}, 0, nil},
		"two, the first revoked":    {[2]string{revoke, "SELECT '%s'"}, 0, fositeconsent.ErrConsentRevoked},
		"two, the second revoked":   {[2]string{"SELECT '%s'", revoke}, 0, fositeconsent.ErrConsentRevoked},
		"two, one will expire":      {[2]string{"SELECT '%s'", expire}, -time.Microsecond, nil},
		"two, one has expired":      {[2]string{"SELECT '%s'", expire}, 0, fositeconsent.ErrConsentExpired},
		"one expired, one revoked":  {[2]string{expire, revoke}, time.Hour, fositeconsent.ErrConsentRevoked},
		"two, one of which is gone": {[2]string{"SELECT '%s'", remove}, 0, fositeconsent.ErrConsentRevoked},
	} {
		f := &family{T: t, pool: pool, r: fosite.NewRequest()}
		f.store = newStore(t, pool, fositestore.Config{Tables: pgstore.Config{TestClock: func() time.Time { return end.Add(c.at) }}})
		f.r.Client, f.r.Session = &fosite.DefaultClient{ID: fmt.Sprint("app", n)}, newSession()
		f.r.Session.SetExpiresAt(fosite.AuthorizeCode, end.Add(24*time.Hour))
		f.ok(f.store.CreateClient(testContext(t), f.r.Client))
		for _, sql := range c.sql {
			if n++; sql != "" {
				f.consents(n)
				exec(t, pool, fmt.Sprintf(sql, consentID(n)))
			}
		}
		reads := map[string]func(context.Context, string, fosite.Session) (fosite.Requester, error){
			"a code": f.store.GetAuthorizeCodeSession, "a refresh token": f.store.GetRefreshTokenSession,
		}
		for kind, claim := range map[string]func(context.Context, string) error{
			"a code":          f.store.InvalidateAuthorizeCodeSession,
			"a refresh token": func(ctx context.Context, name string) error { return f.store.RotateRefreshToken(ctx, f.r.ID, name) },
		} {
			for way, issue := range ways {
				what := name + ", " + kind + " " + way
				f.ok(f.store.CreateAuthorizeCodeSession(testContext(t), what, f.r))
				f.ok(f.store.CreateRefreshTokenSession(testContext(t), what, "", f.r))
				_, err := reads[kind](testContext(t), what, newSession())
				if !errors.Is(err, c.want) || errors.Is(err, fosite.ErrNotFound) != (c.want != nil) {
					t.Errorf("%s is read: %v, want %v", what, err, c.want)
				}
				_, err = reads[kind](testContext(t), what, nil)
				if kind != "a code" && err != nil {
					t.Errorf("%s is read to be revoked: %v", what, err)
				}
				before := f.live()
				err = issue(f, func(ctx context.Context) error { return claim(ctx, what) }, what)
				if !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("%s: %v, want %v", what, err, c.want)
				}
				for _, other := range []error{fosite.ErrTokenExpired, fosite.ErrNotFound, fositeconsent.ErrConsentRevoked, fositeconsent.ErrConsentExpired} {
					if errors.Is(err, other) && !errors.Is(c.want, other) {
						t.Errorf("%s: %v", what, err)
					}
				}
				if after := f.live(); c.want != nil && after != before {
					t.Errorf("%s: %d tokens are live, %d were", what, after, before)
				}
			}
		}
	}
}

// Who comes second is one who comes second, whatever became of the consent.
func TestAReuseIsOneWithoutConsent(t *testing.T) {
	t.Parallel()
	for name, c := range claims {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFamily(t, migrated(t, pgstore.Config{}))
			f.consents(1)
			f.ok(f.inTransaction(func(ctx context.Context) error { return c.claim(f, ctx) }, "1", false))
			exec(t, f.pool, "UPDATE public.consent_consents SET expires_at = decided_at")
			if err := c.claim(f, testContext(t)); !errors.Is(err, c.lost) || errors.Is(err, fositeconsent.ErrConsentExpired) {
				t.Errorf("the second one: %v", err)
			}
			if n := f.live(); n != 0 {
				t.Errorf("%d tokens outlive the reuse", n)
			}
		})
	}
}

// What is told to a client is invalid_grant, and why is in the error.
func TestWithoutConsentAGrantIsInvalid(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	h := newHost(t, pool)
	code := h.authorize("openid offline photos")
	tokens := h.must(h.exchange(h.authorize("openid offline photos"), verifier))
	var requests []string
	rows, err := pool.Query(testContext(t), "SELECT request_id FROM public.consent_codes")
	if err == nil {
		requests, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range requests {
		f := &family{T: t, pool: pool, r: &fosite.Request{ID: id}}
		f.consents(1)
	}
	for _, c := range []struct {
		sql  string
		want error
	}{
		{"revoked_at = NULL, expires_at = decided_at", fositeconsent.ErrConsentExpired},
		{"revoked_at = decided_at, expires_at = NULL", fositeconsent.ErrConsentRevoked},
	} {
		want := c.want
		exec(t, pool, "UPDATE public.consent_consents SET "+c.sql)
		_, err = h.exchange(code, verifier)
		h.want("the code", err, fosite.ErrInvalidGrant)
		h.want("the code", err, want)
		_, err = h.refresh(refreshToken(tokens))
		h.want("the refresh token", err, fosite.ErrInvalidGrant)
		h.want("the refresh token", err, want)
		if !h.live(tokens.GetAccessToken()) {
			t.Error("the access token has ended")
		}
	}
	if err := h.store.RevokeRequests(testContext(t), requests); err != nil {
		t.Fatal(err)
	}
	if h.live(tokens.GetAccessToken()) {
		t.Error("the access token outlives the revocation")
	}
	// It was ended by that, and not by being used: nobody has come second.
	_, err = h.refresh(refreshToken(tokens))
	h.want("the refresh token", err, fosite.ErrInvalidGrant)
	h.want("the refresh token", err, fositeconsent.ErrConsentRevoked)
	exec(t, pool, "UPDATE public.consent_consents SET revoked_at = NULL")
	_, err = h.exchange(code, verifier)
	if err != nil {
		t.Errorf("a code that was only looked at: %v", err)
	}
}

// Without consents, a revocation of requests is as sound as that of one.
func TestRevokingRequestsWaitsForWhoIssues(t *testing.T) {
	t.Parallel()
	for name, c := range claims {
		for _, within := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in a transaction: %t", name, within), func(t *testing.T) {
				t.Parallel()
				f := newFamily(t, migrated(t, pgstore.Config{}, withConns(8)))
				issuing := f.issue(func(ctx context.Context) error { return c.claim(f, ctx) }, "1")
				revoked := make(chan error, 1)
				go func() {
					ctx := testContext(t)
					if !within {
						revoked <- f.store.RevokeRequests(ctx, []string{f.r.ID})
						return
					}
					ctx, err := f.store.BeginTX(ctx)
					if err == nil {
						err = errors.Join(f.store.RevokeRequests(ctx, []string{f.r.ID}), f.store.Commit(ctx))
					}
					revoked <- err
				}()
				waiting(t, f.pool, 1)
				f.ok(f.store.Commit(issuing))
				f.ok(<-revoked)
				if live, rows := f.live(), f.rows(); live != 0 || rows != 4 {
					t.Errorf("%d of %d tokens outlive the revocation", live, rows)
				}
				if err := f.redeem(testContext(t)); !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
					t.Errorf("the code: %v", err)
				}
			})
		}
	}
}

// Whoever keeps consents in other tables has the codes ended, too.
func TestRevokingConsentsOfOtherTables(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	f := newFamily(t, pool)
	ctx := testContext(t)
	tables := pgstore.Config{TablePrefix: "other_"}
	f.ok(pgstore.Migrate(ctx, pool, tables))
	consents, err := pgstore.New(pool, tables)
	f.ok(err)
	f.ok(consents.RecordResponse(ctx, &fositeconsent.Response{RequestID: f.r.ID, Approval: &fositeconsent.Consent{
		ID: consentID(1), Issuer: "https://as.example", Subject: "user", ClientID: "app",
	}}))
	n, err := consents.RevokeConsents(ctx, fositeconsent.Selection{Issuer: "https://as.example", Subject: "user"}, revokes(f.store))
	if live := f.live(); n != 1 || err != nil || live != 0 {
		t.Errorf("%d revoked, %d tokens are live: %v", n, live, err)
	}
	if err := f.redeem(ctx); !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
		t.Errorf("the code: %v", err)
	}
}

func TestRevokingManyRequests(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			testRevokingManyRequests(t, newFamily(t, migrated(t, pgstore.Config{}, withConns(8), withMode(mode))))
		})
	}
}

func testRevokingManyRequests(t *testing.T, f *family) {
	ctx := testContext(t)
	ids := []string{f.r.ID, f.r.ID, "", "with\x00 a NUL byte"}
	for i := range 700 { // several transactions
		ids = append(ids, fmt.Sprint("request ", i))
	}
	exec(t, f.pool, `INSERT INTO public.consent_access_tokens (signature_hash, request_id, client_id, subject, request)
		SELECT sha256(i::text::bytea), 'request ' || i, 'app', 'user', '{}' FROM generate_series(0, 700) AS i`)
	f.ok(f.store.RevokeRequests(ctx, ids))
	if n := f.live(); n != 1 { // request 700
		t.Errorf("%d tokens are live, want 1", n)
	}
	f.ok(f.store.RevokeRequests(ctx, nil))

	// In somebody's transaction it is a part of that.
	f.ok(f.store.CreateAccessTokenSession(ctx, "access 1", f.r))
	inside, err := f.store.BeginTX(ctx)
	f.ok(err)
	f.ok(f.store.RevokeRequests(inside, ids))
	f.ok(f.store.Rollback(inside))
	if n := f.live(); n != 2 {
		t.Errorf("%d tokens are live after the rollback, want 2", n)
	}

	// Nobody issues for a consent that was revoked: the families need no locks.
	f.consents(1)
	revoking := f.revoking(1)
	f.ok(f.store.RevokeRequests(pgstore.WithTx(ctx, revoking), []string{f.r.ID}))
	var locks int
	f.ok(revoking.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()").Scan(&locks))
	f.ok(revoking.Commit(ctx))
	if n := f.live(); n != 1 || locks != 0 {
		t.Errorf("%d tokens are live, want 1, and %d locks", n, locks)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := f.store.RevokeRequests(canceled, ids); !errors.Is(err, context.Canceled) {
		t.Errorf("in a context that is over: %v", err)
	}
}

// At another level than read committed it would not see what it has waited for.
func TestRevokingRequestsAtAnotherLevelIsRefused(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		f := newFamily(t, migrated(t, pgstore.Config{}))
		tx, err := f.pool.BeginTx(testContext(t), pgx.TxOptions{IsoLevel: level})
		f.ok(err)
		err = f.store.RevokeRequests(pgstore.WithTx(testContext(t), tx), []string{f.r.ID})
		if err == nil || !strings.Contains(err.Error(), string(level)) {
			t.Errorf("%s: %v", level, err)
		}
		f.ok(tx.Rollback(testContext(t)))
		f.store = newStore(t, f.pool, fositestore.Config{Transactions: pgstore.TransactionConfig{Isolation: level}})
		inside, err := f.store.BeginTX(testContext(t))
		f.ok(err)
		if err := f.store.RevokeRequests(inside, []string{f.r.ID}); err == nil {
			t.Errorf("%s: it was accepted", level)
		}
		f.ok(f.store.Rollback(inside))
	}
}

// What is known of a consent is kept while it lets requests pass, or while anything is left that
// could be used and rests on it.
func TestSweepingConsents(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	ctx := testContext(t)
	const day = 24 * time.Hour
	now := time.Now()
	store := newStore(t, pool, fositestore.Config{})
	if err := store.CreateClient(ctx, &fosite.DefaultClient{ID: "app"}); err != nil {
		t.Fatal(err)
	}
	live := "UPDATE public.consent_consents SET decided_at = decided_at - interval '100 days' WHERE id = '%s'"
	once := "UPDATE public.consent_consents SET remembered = false WHERE id = '%s'"
	token := func(f *family) { f.ok(f.store.CreateRefreshTokenSession(ctx, "token of "+f.r.GetID(), "", f.r)) }
	access := func(f *family) { f.ok(f.store.CreateAccessTokenSession(ctx, "access of "+f.r.GetID(), f.r)) }
	ended := func(f *family) { token(f); f.ok(f.store.RevokeRequests(ctx, []string{f.r.ID})) }
	want := map[fositeconsent.ID]int{} // how many responses are left of it
	id := byte(0)
	consent := func(sql string, left int, ages []time.Duration, use func(*family)) {
		t.Helper()
		id++
		for i, age := range ages {
			f := &family{T: t, pool: pool, store: store, r: fosite.NewRequest()}
			f.r.Client, f.r.Session = &fosite.DefaultClient{ID: "app"}, newSession()
			f.consents(id)
			exec(t, pool, fmt.Sprintf("UPDATE public.consent_responses SET issued_at = statement_timestamp() - interval '%d hours' WHERE request_id = '%s'", int(age.Hours()), f.r.ID))
			if i == 0 && use != nil {
				use(f)
			}
		}
		exec(t, pool, fmt.Sprintf(live, consentID(id)))
		if sql != "" {
			exec(t, pool, fmt.Sprintf(sql, consentID(id)))
		}
		if left >= 0 {
			want[consentID(id)] = left
		}
	}
	old := []time.Duration{40 * day}
	consent("", 1, old, nil)
	consent("", 1, []time.Duration{40 * day, 39 * day, 38 * day}, nil)
	consent("", 2, []time.Duration{38 * day, 2 * day, day}, nil)
	consent("", 2, []time.Duration{40 * day, 39 * day}, token)
	consent("", 1, []time.Duration{40 * day, 39 * day}, ended)
	consent("", 2, []time.Duration{40 * day, 39 * day}, access)
	consent(once, 1, old, access)
	consent(once, -1, old, nil)
	consent(once, -1, []time.Duration{40 * day, 39 * day, 38 * day}, nil)
	consent(once, -1, old, ended)
	consent(once, 1, old, token)
	consent(once, 1, []time.Duration{day}, nil)
	consent("UPDATE public.consent_consents SET revoked_at = statement_timestamp() - interval '31 days' WHERE id = '%s'", -1, old, nil)
	consent("UPDATE public.consent_consents SET revoked_at = statement_timestamp() - interval '29 days' WHERE id = '%s'", 1, old, nil)
	consent("UPDATE public.consent_consents SET remembered = false, revoked_at = statement_timestamp() - interval '29 days' WHERE id = '%s'", 1, old, nil)
	consent("UPDATE public.consent_consents SET revoked_at = statement_timestamp() - interval '31 days' WHERE id = '%s'", 1, old, token)
	consent("UPDATE public.consent_consents SET revoked_at = statement_timestamp() - interval '31 days' WHERE id = '%s'", 2, []time.Duration{40 * day, 39 * day}, token)
	consent("UPDATE public.consent_consents SET expires_at = statement_timestamp() - interval '31 days' WHERE id = '%s'", -1, old, nil)
	consent("UPDATE public.consent_consents SET expires_at = statement_timestamp() - interval '29 days' WHERE id = '%s'", 1, old, nil)
	consent("UPDATE public.consent_consents SET expires_at = statement_timestamp() + interval '1 day' WHERE id = '%s'", 1, old, nil)
	consent(once, 1, old, nil)
	locked := consentID(id)

	holder, err := pool.Begin(ctx)
	if err == nil {
		_, err = holder.Exec(ctx, "SELECT FROM public.consent_consents WHERE id = $1 FOR SHARE", locked.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{BatchSize: 3, Tables: pgstore.Config{TestClock: func() time.Time { return now }}})
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for range 4 { // until nothing is left of what several passes delete
			if _, err := s.Sweep(ctx); err != nil {
				t.Fatal(err)
			}
		}
		got := map[fositeconsent.ID]int{}
		rows, err := pool.Query(ctx, "SELECT c.id, count(r.request_id) FROM public.consent_consents AS c LEFT JOIN public.consent_responses AS r ON r.consent_id = c.id GROUP BY 1")
		if err != nil {
			t.Fatal(err)
		}
		var id pgtype.UUID
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { got[id.Bytes] = n; return nil }); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		var orphans int
		if err := pool.QueryRow(ctx, "SELECT count(*) FROM public.consent_responses WHERE consent_id NOT IN (SELECT id FROM public.consent_consents)").Scan(&orphans); err != nil || orphans != 0 {
			t.Errorf("%d responses without a consent: %v", orphans, err)
		}
	}
	check()
	if err := holder.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	delete(want, locked)
	check()
	if _, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{ConsentRetention: 24*time.Hour - 1}); err == nil {
		t.Error("a retention was accepted that is too short")
	}
}

// A pass looks at some of the consents, and the next one goes on from there, and from the beginning
// when it has come to the end.
func TestSweepingManyConsents(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withMode(pgx.QueryExecModeSimpleProtocol))
	exec(t, pool, `INSERT INTO public.consent_consents (id, decided_at, revoked_at, remembered, issuer, subject, client_id,
		login_session, scopes, audience, response_types, details, shown, request_id)
		SELECT gen_random_uuid(), '2020-01-01', NULL, true, 'https://as.example', 'user', 'app', '', '{}', '{}', '{}', '{}', sha256(''), '' FROM generate_series(1, 150)`)
	end := func(order string) {
		exec(t, pool, "UPDATE public.consent_consents SET revoked_at = decided_at WHERE id = (SELECT id FROM public.consent_consents ORDER BY id "+order+" LIMIT 1)")
	}
	s, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{BatchSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, 1, 1} {
		if i != 1 {
			end([]string{0: "DESC", 2: "ASC"}[i])
		}
		if deleted, err := s.Sweep(testContext(t)); deleted != want || err != nil {
			t.Errorf("pass %d deleted %d, want %d: %v", i+1, deleted, want, err)
		}
	}
}

// revokes is what a gate does with what a revocation hands over.
func revokes(store *fositestore.Store) func(context.Context, fositeconsent.Ended) error {
	return func(ctx context.Context, ended fositeconsent.Ended) error {
		return store.RevokeRequests(ctx, ended.RequestIDs)
	}
}
