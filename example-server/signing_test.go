package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// timeline is the time of a database and of every process on it.
type timeline struct {
	mu  sync.Mutex
	at  time.Time
	log syncBuffer // of every process
}

func (l *timeline) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at
}

func (l *timeline) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = l.at.Add(d)
}

// keysDatabase returns a database with the table of keys and no key in it.
func keysDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.Pool(t)
	if _, err := pool.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	return pool
}

// process returns the keys as one process has them.
func (l *timeline) process(pool *pgxpool.Pool, rotation time.Duration) *signingKeys {
	k := newSigningKeys(pool, rotation, slog.New(slog.NewTextHandler(&l.log, nil)))
	k.now = l.now
	k.at = func() *time.Time { at := l.now(); return &at }
	return k
}

func mustRefresh(t *testing.T, k *signingKeys) {
	t.Helper()
	if err := k.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func signingID(t *testing.T, k *signingKeys) string {
	t.Helper()
	key, err := k.signing()
	if err != nil {
		t.Fatal(err)
	}
	return key.KeyID
}

func publishedIDs(t *testing.T, k *signingKeys) []string {
	t.Helper()
	set, err := k.published()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, key := range set.Keys {
		if !key.IsPublic() {
			t.Fatal("a private key is published")
		}
		ids = append(ids, key.KeyID)
	}
	return ids
}

// Through several generations of keys: whatever JWKS a client can have when it gets an ID
// token, and until that expires, has the key that the token was signed with.
func TestEveryJWKSHasTheKeyOfEveryValidIDToken(t *testing.T) {
	t.Parallel()
	line := &timeline{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	k := line.process(keysDatabase(t), time.Hour)
	const step = time.Minute
	var signed []string
	var published [][]string
	for range 4 * time.Hour / step {
		mustRefresh(t, k)
		signed = append(signed, signingID(t, k))
		published = append(published, publishedIDs(t, k))
		line.pass(step)
	}
	// A JWKS that a process answers with may be as old as what it knows, and as a client's copy.
	oldest := int((maxKeyAge + jwksMaxAge) / step)
	longest := int(idTokenLifespan / step)
	for i, id := range signed {
		for j := max(0, i-oldest); j <= min(i+longest, len(published)-1); j++ {
			if !slices.Contains(published[j], id) {
				t.Fatalf("the key that signs in minute %d is not in the JWKS of minute %d", i, j)
			}
		}
	}
	if generations := len(slices.Compact(slices.Clone(signed))); generations != 4 {
		t.Errorf("%d keys have signed in 4 hours", generations)
	}
	for minute, ids := range published {
		if len(ids) > 3 {
			t.Errorf("%d keys are published in minute %d: none is ever deleted", len(ids), minute)
		}
	}
	var rows int
	if err := k.pool.QueryRow(t.Context(), "SELECT count(*) FROM example_server_signing_keys").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if last := published[len(published)-1]; rows != len(last) {
		t.Errorf("%d keys are stored and %d published", rows, len(last))
	}
}

// Processes that look at different times sign with the same key at the same time.
func TestEveryProcessSignsWithTheSameKey(t *testing.T) {
	t.Parallel()
	line := &timeline{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	pool := keysDatabase(t)
	a, b := line.process(pool, 24*time.Hour), line.process(pool, 24*time.Hour)
	mustRefresh(t, a)
	line.pass(time.Minute)
	mustRefresh(t, b)
	first := signingID(t, a)
	line.pass(24 * time.Hour)
	mustRefresh(t, b) // makes the second key
	line.pass(keySettles - 2*time.Minute)
	mustRefresh(t, a)
	line.pass(time.Minute)
	mustRefresh(t, b)
	line.pass(time.Minute - 1)
	if signingID(t, a) != first || signingID(t, b) != first {
		t.Error("a key signs that is not known everywhere yet")
	}
	line.pass(1)
	second := signingID(t, a)
	if second == first || signingID(t, b) != second {
		t.Error("the second key does not sign, or not everywhere at once")
	}
	for _, k := range []*signingKeys{a, b} {
		if ids := publishedIDs(t, k); !slices.Equal(ids, []string{second, first}) {
			t.Errorf("published: %v", ids)
		}
	}
}

func TestProcessesThatLookAtOnceMakeOneKey(t *testing.T) {
	t.Parallel()
	line := &timeline{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	pool := keysDatabase(t)
	for generation := 1; generation <= 2; generation++ {
		var wg sync.WaitGroup
		processes := make([]*signingKeys, 6)
		for i := range processes {
			processes[i] = line.process(pool, time.Hour)
			wg.Go(func() {
				if err := processes[i].refresh(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		for _, k := range processes {
			if ids := publishedIDs(t, k); len(ids) != generation || !slices.Equal(ids, publishedIDs(t, processes[0])) {
				t.Errorf("generation %d: a process knows %v", generation, ids)
			}
		}
		// Who watches the log learns of every key once, and of no private one.
		log := line.log.String()
		kid := publishedIDs(t, processes[0])[0]
		if strings.Count(log, "signing key made") != generation || strings.Count(log, "kid="+kid+" ") != 1 || strings.Contains(log, "rivate") {
			t.Errorf("generation %d, key %s: the log is\n%s", generation, kid, log)
		}
		line.pass(time.Hour)
	}
}

// A process that has lost sight of the keys must not sign with one that others have
// deleted, nor publish what is incomplete.
func TestKeysThatCouldNotBeReadForTooLongAreNotUsed(t *testing.T) {
	ts := newTestServer(t)
	k := ts.server.keys.signing
	start := k.now()
	for age, want := range map[time.Duration]int{maxKeyAge: http.StatusOK, maxKeyAge + 1: http.StatusServiceUnavailable, -1: http.StatusServiceUnavailable} {
		k.now = func() time.Time { return start.Add(age) }
		if a := ts.get(pathJWKS); a.StatusCode != want || (want != http.StatusOK && a.Header.Get("Cache-Control") != "no-store") {
			t.Errorf("JWKS after %v: %s, %v", age, a.Status, a.Header)
		}
		if _, err := k.signing(); (err == nil) != (want == http.StatusOK) {
			t.Errorf("signing after %v: %v", age, err)
		}
	}
	var none signingKeys
	if _, err := none.signing(); err == nil {
		t.Error("a process signs that has never seen a key")
	}
}

// The key changes between the code and its redemption: the token is signed with the new
// one, and says so.
func TestIDTokensNameTheKeyThatSignedThem(t *testing.T) {
	ts := newTestServer(t)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	code := ts.post(pathConsent, approve(form)).toClient(t).Get("code")

	k := ts.server.keys.signing
	newer, _, err := newSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	old := k.state.Load()
	k.state.Store(&keyState{
		keys: []signingKey{{newer, old.asOf.Add(-keySettles)}, old.keys[0]}, asOf: old.asOf, read: old.read,
	})
	r := ts.request(http.MethodPost, pathToken, url.Values{"grant_type": {grantCode}, "code": {code}, "redirect_uri": {"https://photos.example/cb"}, "code_verifier": {testVerifier}})
	r.SetBasicAuth("web", "web-secret-0123456789")
	var tokens struct {
		IDToken string `json:"id_token"`
	}
	if err := json.Unmarshal([]byte(ts.do(r).body), &tokens); err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(ts.get(pathJWKS).body), &set); err != nil {
		t.Fatal(err)
	}
	parsed, err := jose.ParseSigned(tokens.IDToken)
	if err != nil {
		t.Fatal(err)
	}
	id := parsed.Signatures[0].Header.KeyID
	if id != newer.KeyID || len(set.Key(id)) != 1 {
		t.Fatalf("signed with %q, expected %q", id, newer.KeyID)
	}
	if _, err := parsed.Verify(set.Key(id)[0]); err != nil {
		t.Error(err)
	}
}

func TestHintsSignedWithAnOlderKeyAreRead(t *testing.T) {
	t.Parallel()
	keys := testSigningKeys()
	signer := newTokenSigner(keys)
	ctx := t.Context()
	claims := jwt.MapClaims{"sub": "alice"}
	older, _, err := signer.Generate(ctx, claims, jwt.NewHeaders())
	if err != nil {
		t.Fatal(err)
	}
	newer, _, err := newSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	state := keys.state.Load()
	keys.state.Store(&keyState{keys: []signingKey{{newer, state.asOf.Add(-keySettles)}, state.keys[0]}, asOf: state.asOf, read: state.read})
	if token, err := signer.Decode(ctx, older); err != nil || token.Claims["sub"] != "alice" {
		t.Errorf("%v, %v", token, err)
	}
	if _, err := signer.Validate(ctx, older); err != nil {
		t.Error(err)
	}
	header, payload, _ := strings.Cut(older, ".")
	if _, err := signer.Decode(ctx, header+"."+"e30"+payload[strings.Index(payload, "."):]); err == nil {
		t.Error("a changed token is read")
	}
	keys.state.Store(&keyState{keys: []signingKey{{newer, state.asOf}}, asOf: state.asOf, read: state.read})
	for _, token := range []string{older, "", "e30.e30.e30"} {
		if _, err := signer.Decode(ctx, token); err == nil {
			t.Errorf("%q is read, with none of our keys", token)
		}
	}
}
