package pgstore_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
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

// migrated returns a pool on a fresh database that has the tables of config.
func migrated(t testing.TB, config pgstore.Config, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t, configure...)
	migrate(t, pool, config)
	return pool
}

func migrate(t testing.TB, db pgstore.Beginner, config pgstore.Config) {
	t.Helper()
	if err := pgstore.Migrate(testContext(t), db, config); err != nil {
		t.Fatal(err)
	}
}

func newStore(t testing.TB, db pgstore.DB, config pgstore.Config) *pgstore.Store {
	t.Helper()
	store, err := pgstore.New(db, config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// newID makes what the gate makes: a UUIDv7.
func newID() (id fositeconsent.ID) {
	fill(id[:])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

func newAttempt() (a fositeconsent.Attempt) {
	fill(a[:])
	return a
}

func fill(b []byte) { _, _ = rand.Read(b) }

func newGrant() *fositeconsent.Grant {
	g := &fositeconsent.Grant{
		ID:       newID(),
		Subject:  "alice",
		ClientID: "photo-printer",
		Scopes:   []string{"openid", "photos.read"},
		Audience: []string{"https://photos.example"},
		Lifespan: time.Minute,
	}
	fill(g.SecretHash[:])
	fill(g.Binding[:])
	return g
}

// present makes a presentation of the grant by a new attempt.
func present(g *fositeconsent.Grant) fositeconsent.Presentation {
	return fositeconsent.Presentation{ID: g.ID, SecretHash: g.SecretHash, Binding: g.Binding, Attempt: newAttempt()}
}

func create(t testing.TB, store *pgstore.Store, g *fositeconsent.Grant) {
	t.Helper()
	if err := store.CreateConsentGrant(testContext(t), g); err != nil {
		t.Fatal(err)
	}
}

// testClock is an explicit clock.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *testClock { return &testClock{at: time.Now().Truncate(time.Millisecond)} }

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// pgError is one of a SQLSTATE.
func pgError(state string) error {
	return &pgconn.PgError{Severity: "ERROR", Code: state, Message: "of the test"}
}
