package consenttest

import (
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// Options is what one test of [Run], [RunConsents] or [RunDecisions] needs of its storage.
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

// RunConsents checks that a storage keeps the contract of [fositeconsent.ConsentStorage],
// and with it that of the grants which a revocation ends. What is said of newStorage and of
// what cannot be checked at [Run], which checks the rest of what grants are, is true here, too.
func RunConsents[S interface {
	fositeconsent.GrantStorage
	fositeconsent.ConsentStorage
}](t *testing.T, newStorage func(t testing.TB, o Options) S) {
	t.Helper()
	t.Run("ConsentStorage", func(t *testing.T) {
		for _, c := range consentSuite {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(&consentProbe{T: t, newStorage: func(t testing.TB, o Options) consentStorage { return newStorage(t, o) }})
			})
		}
	})
}

// RunDecisions checks that a log keeps the contract of [fositeconsent.DecisionLog]. What is said of
// newStorage and of what cannot be checked at [Run] is true here, too.
func RunDecisions(t *testing.T, newStorage func(t testing.TB, o Options) fositeconsent.DecisionLog) {
	t.Helper()
	t.Run("DecisionLog", func(t *testing.T) {
		for _, c := range decisionSuite {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(&decisionProbe{T: t, newStorage: newStorage})
			})
		}
	})
}

// decisionSuite is every test of the log by the sentence that it proves.
var decisionSuite = []struct {
	name string
	test func(*decisionProbe)
}{
	{"a record is returned as it was appended", decisionReturnedAsAppended},
	{"nil and empty lists of a record are the same", decisionNilIsEmpty},
	{"text of a record is kept exactly or refused", decisionTextIsExact},
	{"a record is dated by the storage's clock", decisionDated},
	{"an incomplete call on the log is refused and nothing is added", incompleteDecisionRefused},
	{"a repeated record changes nothing", decisionRepeated},
	{"records are listed by what is selected and the oldest first", decisionsListed},
	{"records are listed in pages", decisionPages},
	{"the records of one subject are erased", decisionsErased},
	{"the caller's record is neither kept nor modified", callersDecisionIsTheCallers},
	{"records that are appended at once are all there", decisionsAppendedAtOnce},
	{"a cancelled call on the log is an error and changes nothing", cancelledDecisions},
	{"a backend that cannot be reached knows of no records", brokenDecisions},
}

// consentSuite is every test of consents by the sentence that it proves.
var consentSuite = []struct {
	name string
	test func(*consentProbe)
}{
	// consent_record_suite.go
	{"a consent is returned as it was recorded", consentReturnedAsRecorded},
	{"nil and empty lists and data of a consent are the same", consentNilIsEmpty},
	{"text of a consent is kept exactly or refused", consentTextIsExact},
	{"a consent is dated by the explicit clock", consentDatedByExplicitClock},
	{"a consent is dated by the storage's own clock", consentDatedByOwnClock},
	{"a consent expires at the end of its lifespan and not before", consentExpiresAtTheEnd},
	{"an incomplete response is refused and nothing is recorded", incompleteResponseRefused},
	{"a repeated response succeeds and changes nothing", responseRepeated},
	{"an approval is recorded for one response", approvalRecordedOnce},
	{"a response rests on live consents only", restsOnLiveConsents},
	{"the caller's response is neither kept nor modified", callersResponseIsTheCallers},
	{"a returned consent is the caller's to modify", returnedConsentIsTheCallers},

	// consent_find_suite.go
	{"a remembered consent is found for its issuer, subject and client alone", foundExactly},
	{"the newest remembered consents are found first", newestFoundFirst},
	{"of a response that was never recorded nothing is known", unknownResponse},
	{"a response is as good as each of its consents", asGoodAsEach},
	{"consents are listed by what is selected", listedBySelection},
	{"consents are listed in pages that others do not move", pagesStay},
	{"a selection that could mean everybody is refused", selectionOfEverybody},

	// consent_revoke_suite.go
	{"a revocation ends what is selected and nothing else", revokesSelection},
	{"a revocation ends the grants that nobody has consumed", revokesGrants},
	{"a revoked grant is refused for the first of several reasons", revokedGrantFirstReason},
	{"a response of a grant that was consumed before a revocation is refused after it", consumedBeforeRevocation},
	{"a revocation that fails has no effect and can be repeated", revocationFails},
	{"a revocation hands over a bounded number of responses", revocationIsBounded},
	{"what is revoked stays revoked and is not revoked again", revokedForEver},
	{"an expired consent is revoked too", expiredIsRevoked},
	{"nothing is recorded or found to be good while a revocation is under way", waitsForRevocation},
	{"of responses that race a revocation none outlives it", responsesRaceRevocation},
	{"of grants that race a revocation none leads to a response", grantsRaceRevocation},
	{"of many revocations one ends each consent", manyRevocations},

	// consent_failure_suite.go
	{"a cancelled call on consents is an error and changes nothing", cancelledConsents},
	{"a backend that cannot be reached knows nothing of consents", brokenConsents},
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
