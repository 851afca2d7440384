package fositestore_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

func exec(t testing.TB, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(testContext(t), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// The GRANT statements of the documentation are enough, and no more than is needed.
func TestRolesOfTheDocumentationSuffice(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	database := pgtest.Database(t)
	admin := pgtest.PoolAt(t, database)
	if err := pgstore.Migrate(testContext(t), admin, pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	role := func() (string, *pgxpool.Pool) {
		name, url := pgtest.Role(t, database)
		return pgx.Identifier{name}.Sanitize(), pgtest.PoolAt(t, url)
	}
	serverName, server := role()
	sweeperName, sweeper := role()
	names := strings.NewReplacer("consent_server", serverName, "consent_sweeper", sweeperName)
	store := newStore(t, server, fositestore.Config{})
	check := func(parts ...string) {
		t.Helper()
		err := store.CheckSchema(testContext(t))
		if (len(parts) > 0) != errors.Is(err, pgstore.ErrSchema) {
			t.Errorf("got %v", err)
		}
		for _, part := range parts {
			if err != nil && !strings.Contains(err.Error(), part) {
				t.Errorf("got %v, without %s", err, part)
			}
		}
	}
	check("consent_migrations")
	exec(t, admin, "GRANT SELECT ON public.consent_migrations TO "+serverName) // pgstore's
	check(`UPDATE (openid) ON "public"."consent_codes"`, `SELECT ON "public"."consent_issuer_keys"`, `INSERT ON "public"."consent_nonces"`)
	for line := range strings.Lines(string(text)) {
		if statement, ok := strings.CutPrefix(strings.TrimSpace(line), "//\tGRANT "); ok {
			exec(t, admin, "GRANT "+names.Replace(statement))
		}
	}
	check()

	// Whoever manages clients is somebody else.
	if err := store.CreateClient(testContext(t), &fosite.DefaultClient{ID: "other"}); err == nil {
		t.Error("the server's role stored a client")
	}
	newHost(t, admin)
	h := newHostOn(t, server)
	tokens := h.must(h.exchange(h.authorize("openid offline photos"), verifier))
	h.must(h.refresh(refreshToken(tokens)))
	_, err = h.refresh(refreshToken(tokens))
	h.want("a reuse", err, fosite.ErrInvalidGrant)
	r := fosite.NewAuthorizeRequest()
	r.Client = &fosite.DefaultClient{ID: "app"}
	ctx := testContext(t)
	_, nonceErr := h.store.NewNonce(ctx, "t", time.Now())
	past := time.Now().Add(-time.Hour) // so that the second one replaces the first
	for _, err := range []error{
		h.store.CreatePARSession(ctx, "urn:1", r), h.store.ClaimPushedAuthorizeRequest(ctx, "urn:1"),
		h.store.SetClientAssertionJWT(ctx, "1", past), h.store.SetClientAssertionJWT(ctx, "1", past), nonceErr,
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, sql := range []string{
		"DELETE FROM public.consent_codes", "UPDATE public.consent_codes SET expires_at = now()",
		"UPDATE public.consent_refresh_tokens SET request = '{}'", "DELETE FROM public.consent_jtis",
		"UPDATE public.consent_access_tokens SET expires_at = NULL", "INSERT INTO public.consent_clients VALUES ('x', '{}')",
	} {
		var pgErr *pgconn.PgError
		if _, err := server.Exec(ctx, sql); !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}

	clock := func() time.Time { return time.Now().Add(10_000 * time.Hour) }
	s, err := fositestore.NewSweeper(sweeper, fositestore.SweeperConfig{Tables: pgstore.Config{TestClock: clock}})
	if err != nil {
		t.Fatal(err)
	}
	// The code, two access and two refresh tokens, a pushed request, a JTI and a nonce.
	if deleted, err := s.Sweep(ctx); deleted != 8 || err != nil {
		t.Errorf("deleted %d rows, %v", deleted, err)
	}
}

// What is used, or revoked, is kept until its retention is over, and no longer.
func TestSweep(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	f := newFamily(t, pool)
	ctx := testContext(t)
	f.ok(f.redeem(ctx))
	f.ok(f.rotate(ctx))
	forever := fosite.NewRequest()
	forever.Client, forever.Session = f.r.Client, newSession()
	f.ok(f.store.CreateRefreshTokenSession(ctx, "for ever", "", forever))
	sweep := func(at time.Duration) int64 {
		t.Helper()
		s, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{BatchSize: 1, Retention: time.Minute, Tables: pgstore.Config{
			TestClock: func() time.Time { return time.Now().Add(at) },
		}})
		f.ok(err)
		deleted, err := s.Sweep(ctx)
		f.ok(err)
		return deleted
	}
	if n := sweep(time.Hour + 30*time.Second); n != 0 {
		t.Errorf("%d rows were deleted in their retention", n)
	}
	if _, err := f.store.GetAuthorizeCodeSession(ctx, "code", nil); !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
		t.Error(err)
	}
	if _, err := f.store.GetRefreshTokenSession(ctx, "refresh 0", nil); !errors.Is(err, fosite.ErrInactiveToken) {
		t.Error(err)
	}
	if n := sweep(time.Hour + 2*time.Minute); n != 3 {
		t.Errorf("%d rows were deleted, want the code and two tokens", n)
	}
	if _, err := f.store.GetRefreshTokenSession(ctx, "for ever", nil); err != nil {
		t.Error(err)
	}
}

func TestUnusableConfigIsRefused(t *testing.T) {
	t.Parallel()
	one := newSession()
	pool := unreachable(t)
	for name, c := range map[string]struct {
		pool   *pgxpool.Pool
		config fositestore.Config
	}{
		"no pool":                 {nil, fositestore.Config{NewSession: newSession}},
		"no session":              {pool, fositestore.Config{}},
		"a nil session":           {pool, fositestore.Config{NewSession: func() fosite.Session { return nil }}},
		"one session for all":     {pool, fositestore.Config{NewSession: func() fosite.Session { return one }}},
		"a nil client":            {pool, fositestore.Config{NewSession: newSession, NewClient: func() fosite.Client { return nil }}},
		"a name":                  {pool, fositestore.Config{NewSession: newSession, Tables: pgstore.Config{Schema: `"`}}},
		"a negative lifespan":     {pool, fositestore.Config{NewSession: newSession, PushedRequestLifespan: -1}},
		"a transaction's timeout": {pool, fositestore.Config{NewSession: newSession, Transactions: pgstore.TransactionConfig{LockTimeout: -1}}},
	} {
		if _, err := fositestore.New(c.pool, c.config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, config := range map[string]fositestore.SweeperConfig{
		"a retention": {Retention: -1}, "an interval": {Interval: -1}, "a batch size": {BatchSize: -1}, "a name": {Tables: pgstore.Config{Schema: `"`}},
	} {
		if _, err := fositestore.NewSweeper(pool, config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := fositestore.NewSweeper(nil, fositestore.SweeperConfig{}); err == nil {
		t.Error("a sweeper without a pool")
	}
}

func TestPasswordsAndClientsAreTheHosts(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	if _, err := newStore(t, unreachable(t), fositestore.Config{}).Authenticate(ctx, "alice", "secret"); !errors.Is(err, fosite.ErrNotFound) {
		t.Errorf("without Config.Authenticate: %v", err)
	}
	boom := errors.New("the host's own words")
	pool := migrated(t, pgstore.Config{})
	f := newFamily(t, pool)
	s := newStore(t, pool, fositestore.Config{GetClient: func(context.Context, string) (fosite.Client, error) { return nil, boom }})
	if _, err := s.GetAuthorizeCodeSession(ctx, "code", nil); !errors.Is(err, boom) || !strings.Contains(err.Error(), boom.Error()) {
		t.Errorf("an error of Config.GetClient: %v", err)
	}
	exec(t, pool, `INSERT INTO public.consent_clients SELECT 'alias', client FROM public.consent_clients WHERE id = 'app'`)
	if _, err := f.store.GetClient(ctx, "alias"); err == nil {
		t.Error("a client was returned for another")
	}
	// A client that is gone takes its tokens along.
	f.ok(f.store.DeleteClient(ctx, "app"))
	if _, err := f.store.GetAccessTokenSession(ctx, "access 0", nil); !errors.Is(err, fosite.ErrNotFound) {
		t.Errorf("a token of a deleted client: %v", err)
	}
}
