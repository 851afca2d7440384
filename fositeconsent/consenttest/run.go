package consenttest

import (
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// Options is what one test of [Run] needs of its storage.
type Options struct {
	// Now is the clock that the storage must ask instead of its own, for creation
	// and for expiry. It is safe for concurrent use, starts a day or so from now
	// at a whole millisecond, in a time zone that need not be UTC, moves only when
	// a test moves it, and never backwards. Nil means the storage's own clock.
	Now func() time.Time
	// Broken asks for a storage whose backend cannot be reached: a closed pool, an
	// address at which nothing listens. Each of its calls has to fail, soon, with
	// an error that is none of fositeconsent's sentinels.
	Broken bool
}

// Run checks that a storage keeps the contract of [fositeconsent.GrantStorage].
// It returns when all its tests, which are sub-tests of t and run in parallel,
// are over.
//
// It calls newStorage once or more for each of them, from several goroutines at
// once, with that test's t: for fatal errors and for Cleanup. The storages may all
// share one backend, which need not be empty: every key is random, and nothing
// but what a test itself has created is looked at. They must not be inside a
// transaction that one failed call would end. A storage whose backend runs
// many calls at once is tested hardest by a pool of connections with room for
// that; 64 calls are in flight in the tests of races.
//
// What it cannot check, and the storage's own tests have to: that several processes
// agree, that nothing is lost in a crash, and that what shares a database
// transaction with the storage is committed and rolled back with it.
func Run(t *testing.T, newStorage func(t testing.TB, o Options) fositeconsent.GrantStorage) {
	t.Helper()
	// The group makes Run wait for its parallel tests, so that the caller may
	// close what the storages share when Run returns.
	t.Run("GrantStorage", func(t *testing.T) {
		for _, c := range suite {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(&probe{T: t, newStorage: newStorage})
			})
		}
	})
}

// suite is every test by the sentence that it proves.
var suite = []struct {
	name string
	test func(*probe)
}{
	// create_suite.go
	{"a grant is returned as it was stored", returnedAsStored},
	{"nil and empty lists and data are the same", nilIsEmpty},
	{"text is kept exactly or refused", textIsExact},
	{"the grant is dated by the explicit clock", datedByExplicitClock},
	{"the grant is dated by the storage's own clock", datedByOwnClock},
	{"a prompt is decided once whatever the second answer is", decidedOnce},
	{"a spent or expired grant can be neither minted again nor denied", decidedForEver},
	{"a repeated create succeeds and changes nothing", createRepeated},
	{"an incomplete grant is refused and nothing is stored", incompleteRefused},
	{"a lifespan that is too short is refused and nothing is stored", shortLifespanRefused},
	{"the caller's grant is neither kept nor modified", callersGrantIsTheCallers},

	// consume_suite.go
	{"blank and unknown presentations are not found", unknownNotFound},
	{"an ID or a secret that differs in one bit is not found", everyBitOfTheToken},
	{"a binding that differs in one bit is a mismatch and spends nothing", everyBitOfTheBinding},
	{"a grant is spent once", spentOnce},
	{"the attempt that won may ask again", winnerMayAskAgain},
	{"a presentation without an attempt never succeeds", attemptRequired},
	{"the first of several reasons is returned", firstReason},
	{"a grant expires at the end of its lifespan and not before", expiresAtTheEnd},
	{"a grant expires by the storage's own clock", expiresByOwnClock},
	{"what was created is recognised until twice the longest prompt lifespan has passed", recognisedForTheRetention},
	{"a returned grant is the caller's to modify", returnedGrantIsTheCallers},

	// race_suite.go
	{"of many consumers one wins", manyConsumers},
	{"of many attempts that are each made several times one wins each time", manyRepeatedAttempts},
	{"one attempt made many times at once always succeeds", oneAttemptManyTimes},
	{"presenters of a wrong binding do not disturb the winner", wrongPresentersInTheRace},
	{"of many mints of one prompt one wins", manyMints},
	{"one mint made many times at once always succeeds", oneMintManyTimes},
	{"of mints and denials of one prompt one wins", mintsAndDenials},
	{"a consume that races the create finds the grant or does not", consumeRacesCreate},
	{"grants are independent of each other", independentGrants},

	// failure_suite.go
	{"a cancelled create is an error and stores nothing", cancelledCreate},
	{"a cancelled consume is an error and spends nothing", cancelledConsume},
	{"a create that is cancelled under way is settled by repeating it", createCancelledUnderWay},
	{"a consume that is cancelled under way is settled by repeating it", consumeCancelledUnderWay},
	{"a backend that cannot be reached is no reason for a refusal", brokenBackend},
}
