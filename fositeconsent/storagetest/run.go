package storagetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ory/fosite"
)

// Config is what [Run] has to know of the storage under test.
type Config struct {
	// New returns a storage. It is called once or more for each test, from several
	// goroutines at once, with that test's t: for fatal errors and for Cleanup. The
	// storages may all share one backend, which need not be empty: every key and
	// every client ID is random. A storage of a pool of connections is tested
	// hardest if that has room for a few dozen. Mandatory.
	New func(t testing.TB, o Options) Storage
	// AddClient registers a client, a *fosite.DefaultClient, with a storage that
	// New has returned. Mandatory.
	AddClient func(t testing.TB, s Storage, client fosite.Client)
	// NewSession returns an empty session of the type under test, as a server
	// passes it to fosite. The storage has to be able to make one by itself too, for
	// calls that come without. Defaults to *fosite.DefaultSession.
	NewSession func() fosite.Session
	// FillSession gives a session of NewSession that subject, and a value that
	// survives being stored to every other field there is but the times at which
	// tokens expire. Its Clone method must copy all of it. Mandatory with NewSession.
	FillSession func(session fosite.Session, subject string)
	// Without lists what the storage does not have. Run reports it, and fails if it
	// is not so: nothing is left out by accident. Defaults to nothing.
	Without []Part
}

// Options is what one test of [Run] needs of its storage.
type Options struct {
	// Now is the clock that the storage must ask instead of its own. It is safe for
	// concurrent use, starts a day or so from now at a whole millisecond, in a time
	// zone that need not be UTC, moves only when a test moves it, and never
	// backwards. Nil means the storage's own clock. It is never set without [Clock].
	Now func() time.Time
	// Broken asks for a storage whose backend cannot be reached: a closed pool, an
	// address at which nothing listens. Each of its calls has to fail, soon. It is
	// never set without [Outage].
	Broken bool
}

// Run checks that a storage does what fosite's handlers and their security expect
// of it. It returns when all its tests, which are sub-tests of t and run in
// parallel, are over. Each is named by the sentence that it proves.
//
// What it cannot check, and the storage's own tests have to: that several processes
// agree, that nothing is lost in a crash, that what a sweep deletes is not needed
// any more, and that nothing but hashes or signatures is at rest.
func Run(t *testing.T, config Config) {
	t.Helper()
	config.check(t)
	t.Run("Storage", func(t *testing.T) {
		for _, c := range suite {
			if i := slices.IndexFunc(c.needs, config.lacks); i >= 0 {
				t.Logf("not tested, for want of %s: %s", c.needs[i], c.name)
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(&probe{T: t, config: config})
			})
		}
	})
}

// check sets the defaults, and ends the test if the configuration is not what the storage is.
func (c *Config) check(t *testing.T) {
	t.Helper()
	switch {
	case c.New == nil:
		t.Fatal("storagetest: Config.New is missing")
	case c.AddClient == nil:
		t.Fatal("storagetest: Config.AddClient is missing")
	case (c.NewSession == nil) != (c.FillSession == nil):
		t.Fatal("storagetest: Config.NewSession and Config.FillSession go together")
	}
	if c.NewSession == nil {
		c.NewSession = func() fosite.Session { return new(fosite.DefaultSession) }
		c.FillSession = fillDefaultSession
	}
	storage := c.New(t, Options{})
	if storage == nil {
		t.Fatal("storagetest: Config.New returned nil")
	}
	for _, part := range c.Without {
		if !slices.ContainsFunc(parts, func(p struct {
			part   Part
			seenIn func(Storage) bool
		}) bool {
			return p.part == part
		}) {
			t.Fatalf("storagetest: Config.Without lists %q, which is no part", part)
		}
	}
	var wrong []error
	for _, p := range parts {
		switch left := c.lacks(p.part); {
		case left && p.seenIn != nil && p.seenIn(storage):
			wrong = append(wrong, fmt.Errorf("storagetest: the storage has what Config.Without lists: %s", p.part))
		case !left && p.seenIn != nil && !p.seenIn(storage):
			wrong = append(wrong, fmt.Errorf("storagetest: the storage lacks the methods of a part that Config.Without does not list: %s", p.part))
		case left:
			t.Logf("storagetest: not implemented, as Config.Without says: %s", p.part)
		}
	}
	for _, err := range wrong {
		t.Error(err)
	}
	if len(wrong) > 0 {
		t.FailNow()
	}
}

func (c *Config) lacks(part Part) bool { return slices.Contains(c.Without, part) }

func fillDefaultSession(session fosite.Session, subject string) {
	s, ok := session.(*fosite.DefaultSession)
	if !ok {
		panic(fmt.Sprintf("storagetest: %T is not *fosite.DefaultSession", session))
	}
	s.Subject = subject
	s.Username = "user of " + subject
	s.Extra = map[string]any{
		"text":   "with \"quotes\", \\ and 東京",
		"number": 1.5,
		"whole":  int64(1)<<53 + 1, // which no float64 is
		"flag":   true,
		"list":   []any{"b", "a", "b"},
		"nested": map[string]any{"a": map[string]any{"b": "c"}},
	}
}

// test is one test of the suite: the sentence that it proves, and the parts that it is about.
type test struct {
	name  string
	test  func(*probe)
	needs []Part
}

// suite is every test.
var suite = []test{
	// request_suite.go
	{"a client is returned as it was registered", clientReturned, nil},
	{"a code is returned with its whole request", func(p *probe) { returnedAsStored(p, "code") }, nil},
	{"an access token is returned with its whole request", func(p *probe) { returnedAsStored(p, "access token") }, nil},
	{"a refresh token is returned with its whole request", func(p *probe) { returnedAsStored(p, "refresh token") }, nil},
	{"PKCE data are returned with their whole request", func(p *probe) { returnedAsStored(p, "PKCE data") }, []Part{PKCE}},
	{"an OpenID Connect session is returned with its whole request", func(p *probe) { returnedAsStored(p, "OpenID Connect session") }, []Part{OpenIDConnect}},
	{"a pushed request is returned with its whole request", func(p *probe) { returnedAsStored(p, "pushed request") }, []Part{PAR}},
	{"text is kept exactly or refused", textIsExact, nil},
	{"a stored request is independent of the object that it was stored from", callersRequestIsTheCallers, nil},
	{"a returned request is the caller's to modify", returnedRequestIsTheCallers, nil},
	{"the session that is passed with a code is filled with what is stored", passedSessionIsFilled, nil},
	{"the session that is passed with a code keeps the expiry times that are not stored", passedSessionKeepsItsTimes, nil},
	{"what has expired is returned as it is or not found", expiredStaysExpired, nil},
	{"a token is read without a session", readWithoutSession, nil},
	{"what is unknown is not found", unknownNotFound, nil},
	{"a key finds only what was stored under exactly that key", keysAreExact, nil},
	{"a key finds only the kind that was stored under it", kindsAreApart, nil},

	// code_suite.go
	{"a code flow in fosite's order succeeds", codeFlow, nil},
	{"an invalidated code is reported as such and comes with its request", invalidatedCode, nil},
	{"an invalidated code cannot be invalidated again", invalidatedOnce, nil},
	{"an unknown code cannot be invalidated", unknownCodeInvalidated, nil},
	{"of many redemptions of one code one wins and only its tokens are stored", manyRedemptions, nil},
	{"redemptions of different codes do not disturb each other", independentRedemptions, nil},
	{"a code that is presented again ends the tokens of its request", replayedCode, nil},
	{"a replay that races with the redemption leaves no live token", replayRacesRedemption, nil},
	{"PKCE data outlive a failed verifier", pkceOutlivesFailure, []Part{PKCE}},
	{"a code without PKCE data has none", noPKCEData, []Part{PKCE}},
	{"an OpenID Connect session is found by the whole code only", openIDByWholeCode, []Part{OpenIDConnect}},
	{"an OpenID Connect session outlives the redemption of its code", openIDOutlivesRedemption, []Part{OpenIDConnect}},
	{"an OpenID Connect session is kept as it was when it was stored", openIDSessionOfItsOwn, []Part{OpenIDConnect}},
	{"a code without an OpenID Connect session has none", noOpenIDSession, []Part{OpenIDConnect}},

	// token_suite.go
	{"a deleted token is dead", deletedTokens, nil},
	{"a revocation ends the access token and the refresh token of a request", revokedTokens, nil},
	{"a revocation ends every access token of a request", revokedAccessTokens, nil},
	{"a revocation ends every refresh token of a request", revokedRefreshTokens, nil},
	{"a revocation ends nothing of other requests", revokedOnlyItsOwn, nil},
	{"a revocation can be repeated", revokedAgain, nil},
	{"a rotated refresh token is inactive and comes with its request", rotatedToken, nil},
	{"a rotation ends the access token that was issued with the refresh token", rotationEndsAccess, nil},
	{"a rotated refresh token cannot be rotated again", rotatedOnce, nil},
	{"a revoked refresh token cannot be rotated", revokedNotRotated, nil},
	{"a rotation for another request is refused and changes nothing", rotationForAnother, nil},
	{"a rotation of an unknown refresh token is refused and changes nothing", rotationOfUnknown, nil},
	{"of many rotations of one refresh token one wins and only its tokens are stored", manyRotations, nil},
	{"rotations of different refresh tokens do not disturb each other", independentRotations, nil},
	{"a refresh token that is presented again ends every token of its request", reusedToken, nil},
	{"a reuse can be handled again and again", reusedAgain, nil},
	{"a revocation that races with a rotation leaves no live token", revocationRacesRotation, nil},

	// par_suite.go
	{"a pushed request stays readable although it is deleted", pushedStaysReadable, []Part{PAR}},
	{"a pushed request that has expired is refused", pushedExpired, []Part{PAR}},
	{"a pushed request expires by the explicit clock and not before", pushedExpiresByClock, []Part{PAR, Clock}},
	{"a pushed request without an expiry is refused or expires within a day", pushedWithoutExpiry, []Part{PAR, Clock}},
	{"a pushed request is kept without the credentials of its client", pushedWithoutCredentials, []Part{PAR}},

	// jti_suite.go
	{"a client's JWT is accepted once", clientJWTOnce, nil},
	{"of many presentations of one client's JWT one wins", manyClientJWTs, nil},
	{"the ID of an expired client's JWT may be used again", clientJWTExpired, nil},
	{"the ID of a client's JWT is free again after it has expired by the explicit clock and not before", clientJWTExpiresByClock, []Part{Clock}},
	{"the ID of a client's JWT is kept letter for letter or refused", clientJWTExact, nil},
	{"a bearer's JWT is accepted once", bearerJWTOnce, []Part{JWTBearer}},
	{"of many presentations of one bearer's JWT one wins", manyBearerJWTs, []Part{JWTBearer}},
	{"the ID of an expired bearer's JWT may be used again", bearerJWTExpired, []Part{JWTBearer}},
	{"the ID of a bearer's JWT is free again after it has expired by the explicit clock and not before", bearerJWTExpiresByClock, []Part{JWTBearer, Clock}},
	{"the ID of a bearer's JWT is kept letter for letter or refused", bearerJWTExact, []Part{JWTBearer}},
	{"a nonce is valid for its access token only", nonceForItsToken, []Part{Nonces}},
	{"an expired nonce is refused", nonceExpired, []Part{Nonces}},
	{"a nonce expires by the explicit clock and not before", nonceExpiresByClock, []Part{Nonces, Clock}},

	// transaction_suite.go
	{"what is rolled back was never stored", rolledBack, []Part{Transactions}},
	{"a redemption that is rolled back leaves the code as it was", redemptionRolledBack, []Part{Transactions}},
	{"a rotation that is rolled back leaves the tokens as they were", rotationRolledBack, []Part{Transactions}},
	{"what is not committed is seen inside its transaction only", seenInsideOnly, []Part{Transactions}},
	{"a transaction inside another joins it", nestedTransactions, []Part{Transactions}},
	{"a failed commit stores nothing and can be rolled back", failedCommit, []Part{Transactions}},
	{"transactions whose context has ended can be rolled back and hold nothing", endedTransactions, []Part{Transactions}},
	{"a commit without a transaction is an error", commitWithoutTransaction, []Part{Transactions}},
	{"a revocation survives the rollback of the transaction around it", revocationSurvivesRollback, []Part{Transactions}},

	// failure_suite.go
	{"a write whose context has ended is an error and changes nothing", interruptedWrites, nil},
	{"a read whose context has ended is no answer", interruptedReads, nil},
	{"a backend that cannot be reached is no answer", brokenBackend, []Part{Outage}},
	{"no error tells a code, a token or a signature", errorsTellNothing, nil},
}
