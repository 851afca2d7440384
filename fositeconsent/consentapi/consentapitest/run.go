package consentapitest

import (
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// Run checks that a storage keeps the contract of [consentapi.RequestStorage]. What is said at
// [consenttest.Run] of newStorage, of its options and of what cannot be checked is true here, too: above all, that a use which is
// rolled back was none, and that a revocation waits for a use under way, is for the storage's own tests.
func Run(t *testing.T, newStorage func(t testing.TB, o consenttest.Options) consentapi.RequestStorage) {
	t.Helper()
	t.Run("RequestStorage", func(t *testing.T) {
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
	{"a request is returned as it was created", returnedAsCreated},
	{"text of a request is kept exactly or refused", textIsExact},
	{"a request expires at the end of its lifespan and not before", expiresAtTheEnd},
	{"a request is dated by the storage's own clock", datedByOwnClock},
	{"an incomplete request is refused and nothing is stored", incompleteRefused},
	{"a repeated create succeeds and changes nothing", createRepeated},
	{"an ID or a challenge that differs in one bit is not found", everyBitOfTheChallenge},
	{"a verifier or a browser that differs in one bit is not found", everyBitOfTheVerifier},
	{"an answer is returned as it was given", returnedAsAnswered},
	{"an incomplete answer is refused and nothing is answered", incompleteAnswerRefused},
	{"the first answer stands", firstAnswerStands},
	{"the same answer succeeds again whatever has become of it", sameAnswerAgain},
	{"an acceptance is used once", usedOnce},
	{"a rejection or a pending request is never used", neverUsed},
	{"a revocation ends what is selected and nothing else", revokesSelection},
	{"a selection of everybody is refused", everybodyRefused},
	{"the first of several states is told", firstState},
	{"what is given and returned is the caller's", callersOwn},
	{"of many different answers one stands", manyAnswers},
	{"of accepts and rejects one stands", acceptsAndRejects},
	{"one answer given many times at once always succeeds", oneAnswerManyTimes},
	{"of many uses one succeeds", manyUses},
	{"a use that races a revocation wins or loses", useRacesRevocation},
	{"a cancelled call is an error and changes nothing", cancelled},
	{"a backend that cannot be reached knows nothing", brokenBackend},
}
