package fositestore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent/storagetest"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds what a test waits for. It is never waited out when things work.
const patience = 30 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func migrated(t testing.TB, config pgstore.Config, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t, configure...)
	if err := pgstore.Migrate(testContext(t), pool, config); err != nil {
		t.Fatal(err)
	}
	return pool
}

func newStore(t testing.TB, pool *pgxpool.Pool, config fositestore.Config) *fositestore.Store {
	t.Helper()
	if config.NewSession == nil {
		config.NewSession = newSession
	}
	store, err := fositestore.New(pool, config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func newSession() fosite.Session { return new(openid.DefaultSession) }

func withMode(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }
}

func withConns(n int32) func(*pgxpool.Config) { return func(c *pgxpool.Config) { c.MaxConns = n } }

// unreachable is a pool on a port of this machine at which nothing listens.
func unreachable(t testing.TB) *pgxpool.Pool {
	return pgtest.PoolAt(t, "postgres://nobody@127.0.0.1:1/none")
}

func suite(pool *pgxpool.Pool, tables pgstore.Config) storagetest.Config {
	return storagetest.Config{
		New: func(t testing.TB, o storagetest.Options) storagetest.Storage {
			tables := tables
			tables.TestClock = o.Now
			if o.Broken {
				return newStore(t, unreachable(t), fositestore.Config{Tables: tables})
			}
			return newStore(t, pool, fositestore.Config{Tables: tables})
		},
		AddClient: func(t testing.TB, s storagetest.Storage, client fosite.Client) {
			if err := s.(*fositestore.Store).CreateClient(testContext(t), client); err != nil {
				t.Fatal(err)
			}
		},
		NewSession: newSession,
		FillSession: func(session fosite.Session, subject string) {
			s := session.(*openid.DefaultSession)
			at := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
			s.Subject, s.Username = subject, "user of "+subject
			s.Claims = &jwt.IDTokenClaims{
				JTI: "jti", Issuer: "https://as.example", Subject: subject, Audience: []string{"b", "a"}, Nonce: "nonce",
				ExpiresAt: at.Add(time.Hour), IssuedAt: at, RequestedAt: at.Add(time.Second), AuthTime: at.Add(time.Minute),
				AccessTokenHash: "at_hash", AuthenticationContextClassReference: "acr", AuthenticationMethodsReferences: []string{"pwd", "otp"},
				CodeHash: "c_hash", Extra: map[string]any{"email": "a@example", "address": map[string]any{"country": "東京"}, "account": int64(1)<<53 + 1},
			}
			s.Headers = &jwt.Headers{Extra: map[string]any{"kid": "key 1"}}
		},
	}
}

func TestStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, suite(migrated(t, pgstore.Config{}, withMode(mode), withConns(30)), pgstore.Config{}))
		})
	}
}

func TestStoreKeepsTheContractUnderOtherNames(t *testing.T) {
	t.Parallel()
	tables := pgstore.Config{Schema: "My-Schema", TablePrefix: strings.Repeat("$Ü", 14)}
	storagetest.Run(t, suite(migrated(t, tables, withConns(30)), tables))
}
