package fositestore_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// What was queued and was to be sent with a statement that fails is gone. The transaction is
// not committed without it, whoever it was that was told and did not mind.
func TestWhatWasQueuedIsNotForgottenWithAStatementThatFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]struct {
		mode pgx.QueryExecMode
		sql  string
		args []any
	}{
		"that cannot be prepared":                         {pgx.QueryExecModeCacheStatement, "INSERT INTO public.nowhere VALUES (1)", nil},
		"that fails":                                      {pgx.QueryExecModeExec, "INSERT INTO public.nowhere VALUES (1)", nil},
		"whose parameter cannot be encoded":               {pgx.QueryExecModeCacheStatement, "SELECT $1::int", []any{struct{}{}}},
		"whose parameter cannot be encoded by its type":   {pgx.QueryExecModeExec, "SELECT $1::int", []any{struct{}{}}},
		"whose parameter cannot be written into the text": {pgx.QueryExecModeSimpleProtocol, "SELECT $1::int", []any{struct{}{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAnswersAt(t, pgstore.Config{}, withMode(fail.mode))
			exec(t, a.pool, "CREATE TABLE public.responses (n int)")
			for what, before := range map[string]func(context.Context) error{
				"a grant": func(context.Context) error { return nil },
				"a code": func(ctx context.Context) error {
					_, err := a.store.DB(ctx).Exec(ctx, "SELECT")
					return errors.Join(err, a.store.CreateAuthorizeCodeSession(ctx, "code of the response", a.r))
				},
			} {
				_ = a.answer(1, func(ctx context.Context) error {
					a.ok(before(ctx))
					db := a.store.DB(ctx)
					if _, err := db.Exec(ctx, fail.sql, fail.args...); err == nil {
						t.Error("the statement has not failed")
					}
					_, _ = db.Exec(ctx, "INSERT INTO public.responses VALUES ($1)", 1) // a storage of the host's
					return a.store.Commit(ctx)                                         // after which answer can do nothing more
				})
				if n := a.count("public.responses"); n != 0 {
					t.Errorf("%d responses without %s", n, what)
				}
			}
		})
	}
}

// Going back to a savepoint undoes what came after that, and nothing else.
func TestASavepointOfTheHostsIsOne(t *testing.T) {
	t.Parallel()
	a := newAnswers(t)
	a.ok(a.answer(1, func(ctx context.Context) error {
		db := a.store.DB(ctx)
		_, err := db.Exec(ctx, "SAVEPOINT s")
		a.ok(err)
		a.ok(a.store.CreateAuthorizeCodeSession(ctx, "undone", a.r))
		if _, err := db.Exec(ctx, "TABLE public.nowhere"); err == nil {
			t.Error("the statement has not failed")
		}
		_, err = db.Exec(ctx, "ROLLBACK TO s")
		return err
	}))
	if codes, _ := a.responses(); codes != 1 || a.count("public.consent_grants") != 1 {
		t.Errorf("%d codes and %d grants, want 1 and 1", codes, a.count("public.consent_grants"))
	}
}

func (a *answers) count(table string) (n int) {
	a.Helper()
	a.ok(a.pool.QueryRow(testContext(a), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

// An answer that is refused at the very end, by a constraint that is checked then, is refused.
func TestWhatFailsAtTheVeryEndIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			a := newAnswersAt(t, pgstore.Config{}, withMode(mode))
			exec(t, a.pool, `CREATE FUNCTION public.never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'never'; END $$`)
			exec(t, a.pool, `CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.consent_grants DEFERRABLE INITIALLY DEFERRED
				FOR EACH ROW EXECUTE FUNCTION public.never()`)
			for name, between := range map[string]string{"in one round trip": "", "in a transaction that was begun": "SELECT"} {
				var committed bool
				err := a.answer(1, func(ctx context.Context) error {
					if between != "" {
						_, err := a.store.DB(ctx).Exec(ctx, between)
						a.ok(err)
					}
					return nil
				})
				committed = err == nil
				if committed {
					t.Errorf("%s: it was answered", name)
				}
				if errors.Is(err, fositeconsent.ErrAlreadyDecided) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if codes, tokens := a.responses(); codes != 0 || tokens != 0 {
				t.Errorf("%d codes and %d tokens", codes, tokens)
			}
		})
	}
}

// A name of the tables may look like a parameter.
func TestNamesThatLookLikeParameters(t *testing.T) {
	t.Parallel()
	tables := pgstore.Config{TablePrefix: "t$1$2$3_"}
	a := newAnswersAt(t, tables)
	a.ok(a.answer(1, func(context.Context) error { return nil }))
	ctx, err := a.store.BeginTX(testContext(t))
	a.ok(err)
	a.ok(a.redeem(ctx))
	a.ok(a.store.CreateAccessTokenSession(ctx, "access", a.r))
	a.ok(a.store.Commit(ctx))
}

// A code whose use was taken back can be used by the same token request again: whoever
// meets a conflict may try once more.
func TestACodeIsNotRememberedAsUsedWhenThatWasTakenBack(t *testing.T) {
	t.Parallel()
	f := newFamily(t, migrated(t, pgstore.Config{}))
	request := fosite.NewAccessRequest(nil)
	ctx := context.WithValue(testContext(t), fosite.AccessRequestContextKey, request)
	read := func() error {
		_, err := f.store.GetAuthorizeCodeSession(ctx, "code", newSession())
		return err
	}
	use := func(token string, end func(context.Context) error) error {
		inner, err := f.store.BeginTX(ctx)
		f.ok(err)
		f.ok(f.redeem(inner))
		f.ok(f.store.CreateAccessTokenSession(inner, token, f.r))
		return end(inner)
	}
	f.ok(read())
	f.ok(use("access 1", f.store.Rollback))
	if err := read(); err != nil {
		t.Errorf("after a rollback: %v", err)
	}
	if err := use("access 0", func(ctx context.Context) error { // one that is there already
		_, err := f.store.DB(ctx).Exec(ctx, "SELECT")
		return errors.Join(err, f.store.Commit(ctx))
	}); err == nil {
		t.Error("a token was stored twice")
	}
	if err := read(); err != nil {
		t.Errorf("after a commit that failed: %v", err)
	}
	f.ok(use("access 1", f.store.Commit))
	if err := read(); !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
		t.Errorf("once it was used: %v", err)
	}
	runtime.KeepAlive(request)
}

// A grant that is there already and was not spent by this very transaction lets no code be
// stored, also one of the same secret.
func TestACodeDependsOnTheAttemptThatSpends(t *testing.T) {
	t.Parallel()
	a := newAnswers(t)
	g := &fositeconsent.Grant{
		ID: a.id, SecretHash: fositeconsent.SecretHash{1}, Binding: fositeconsent.Digest{1}, Subject: "user", ClientID: "app", Lifespan: time.Minute,
	}
	a.ok(a.grants.CreateConsentGrant(testContext(t), g))
	ctx, err := a.store.BeginTX(testContext(t))
	a.ok(err)
	a.ok(a.grants.CreateConsentGrant(ctx, g))
	_, err = a.grants.ConsumeConsentGrant(ctx, fositeconsent.Presentation{
		ID: g.ID, SecretHash: g.SecretHash, Binding: g.Binding, Attempt: fositeconsent.Attempt{1},
	})
	a.ok(err)
	a.ok(a.store.CreateAuthorizeCodeSession(ctx, "code 1", a.r))
	if err := a.store.Commit(ctx); !errors.Is(err, fositeconsent.ErrAlreadyDecided) {
		t.Errorf("the commit returned %v", err)
	}
	if codes, _ := a.responses(); codes != 0 {
		t.Errorf("%d codes, want none", codes)
	}
}

// What depends on a claim that the host has undone fails the transaction, with everything.
func TestNothingIsCommittedWithoutAClaimThatWasUndone(t *testing.T) {
	t.Parallel()
	f := newFamily(t, migrated(t, pgstore.Config{}))
	exec(t, f.pool, "CREATE TABLE public.responses (n int)")
	ctx, err := f.store.BeginTX(testContext(t))
	f.ok(err)
	do := func(sql string) {
		_, err := f.store.DB(ctx).Exec(ctx, sql)
		f.ok(err)
	}
	do("INSERT INTO public.responses VALUES (1)")
	do("SAVEPOINT s")
	f.ok(f.redeem(ctx))
	do("ROLLBACK TO s")
	f.ok(f.store.CreateAccessTokenSession(ctx, "access 1", f.r))
	if err := f.store.Commit(ctx); err == nil {
		t.Error("it was committed")
	}
	var n int
	f.ok(f.pool.QueryRow(testContext(t), "SELECT count(*) FROM public.responses").Scan(&n))
	if n != 0 || f.live() != 2 {
		t.Errorf("%d responses and %d tokens, want none and 2", n, f.live())
	}
}

// An answer that was sent in one round trip and took effect, but whose own answer was lost,
// recognises all that it has stored.
func TestAnAnswerIsRepeatedWhereItTookEffect(t *testing.T) {
	t.Parallel()
	proxy, through := pgtest.ProxyTo(t, pgtest.Database(t))
	pool := pgtest.PoolAt(t, through, withConns(1), withMode(pgx.QueryExecModeExec)) // which sends nothing before
	if err := pgstore.Migrate(testContext(t), pool, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	a := &answers{family: newFamily(t, pool), id: fositeconsent.ID{1}}
	var err error
	a.grants, err = pgstore.New(pool, pgstore.Config{})
	a.ok(err)
	var cut <-chan struct{}
	a.ok(a.answer(1, func(context.Context) error {
		cut = proxy.CutAfter(pgtest.ToClient, 0)
		return nil
	}))
	<-cut
	if codes, tokens := a.responses(); codes != 1 || tokens != 1 {
		t.Errorf("%d codes and %d tokens, want 1 and 1", codes, tokens)
	}
}

// In a transaction, a code is read as that sees it, and nothing of that is remembered.
func TestATransactionReadsACodeItself(t *testing.T) {
	t.Parallel()
	f := newFamily(t, migrated(t, pgstore.Config{}))
	for _, name := range []string{"code", "code 2"} {
		request := fosite.NewAccessRequest(nil)
		ctx := context.WithValue(testContext(t), fosite.AccessRequestContextKey, request)
		read := func(ctx context.Context) error {
			_, err := f.store.GetAuthorizeCodeSession(ctx, name, newSession())
			return err
		}
		inner, err := f.store.BeginTX(ctx)
		f.ok(err)
		first, then := ctx, inner
		if name != "code" {
			f.ok(f.store.CreateAuthorizeCodeSession(testContext(t), name, f.r))
			first, then = inner, ctx
		}
		f.ok(read(first))
		f.ok(f.store.InvalidateAuthorizeCodeSession(testContext(t), name)) // of another token request
		if err := read(then); !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
			t.Errorf("%s, which was used: %v", name, err)
		}
		f.ok(f.store.Rollback(inner))
		runtime.KeepAlive(request)
	}
}
