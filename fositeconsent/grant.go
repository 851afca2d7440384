package fositeconsent

import (
	"context"
	"crypto/rand"
	"errors"
	"time"
)

// The reasons for which a storage refuses. Each is exact: it says what the
// storage knows, for logs and metrics, and is never shown to a client. When
// several hold, the first of this list is returned. They are sentinels of this
// package: fosite compares its own errors by name, so that its consent_required
// would equal any other error of that name.
var (
	// ErrGrantNotFound: no grant has this ID and this secret. A denied prompt
	// has no token, so that its grant is not found either.
	ErrGrantNotFound = errors.New("fositeconsent: consent grant not found")
	// ErrBindingMismatch: the grant exists and was minted for another
	// authorization request, or for another subject. It remains unspent.
	ErrBindingMismatch = errors.New("fositeconsent: consent grant is bound to another authorization request")
	// ErrGrantConsumed: the grant has been spent before.
	ErrGrantConsumed = errors.New("fositeconsent: consent grant already consumed")
	// ErrGrantRevoked: the approval was taken back before it was used.
	ErrGrantRevoked = errors.New("fositeconsent: consent grant revoked")
	// ErrGrantExpired: nobody spent the grant within its lifespan.
	ErrGrantExpired = errors.New("fositeconsent: consent grant expired")
)

// ErrAlreadyDecided is returned when a prompt has been answered before, whatever
// the answer was: exactly one decision is ever taken on one prompt.
var ErrAlreadyDecided = errors.New("fositeconsent: this prompt has already been decided; show a new one")

// MinGrantLifespan is the shortest lifespan a [GrantStorage] accepts, the
// coarsest resolution of the clocks that one may be built on.
const MinGrantLifespan = time.Millisecond

// Grant is the stored result of one decision.
type Grant struct {
	// ID is the prompt's. It is the storage's key.
	ID ID
	// SecretHash is what the storage compares the presented token with. A denial
	// has one too, of a secret that nobody knows: it tells a retried call from
	// a second one.
	SecretHash SecretHash
	// Binding is the digest of the authorization request and the subject as they
	// were when the prompt was shown.
	Binding Digest
	// Subject is the resource owner who decided. It is covered by the Binding, and
	// here for logs and for finding a person's grants.
	Subject string
	// ClientID is the client that the decision is about. It is covered by the Binding.
	ClientID string
	// Scopes and Audience are what was granted: subsets of what was requested.
	// Their order is kept; nil and empty are the same.
	Scopes, Audience []string
	// Data is the host's, opaque here: [Decision.Data]. Nil and empty are the same.
	Data []byte
	// Remember is set if the approval stands for later requests, too: [Decision.Remember].
	// It is kept until the grant is consumed.
	Remember *Remember
	// Shown is the digest of what the page showed of the client, zero if the gate keeps
	// neither consents nor a log of decisions.
	Shown Digest
	// Denied marks a denial. It can never be consumed.
	Denied bool
	// Lifespan is how long after its creation, by the storage's clock, the grant
	// can be consumed. At least [MinGrantLifespan], and from a gate never more than
	// [MaxPromptLifespan]; a storage may round it down to a whole millisecond.
	// Zero in what ConsumeConsentGrant returns.
	Lifespan time.Duration
	// DecidedAt is when the storage created the grant, by its own clock.
	// Ignored by CreateConsentGrant, set in what ConsumeConsentGrant returns, but for a
	// grant that was created in the same transaction and has not been sent yet.
	DecidedAt time.Time
}

// Attempt names one call of the gate. It makes a consume repeatable: whoever lost
// the connection after sending its claim presents the same Attempt again and
// learns whether it won.
type Attempt [16]byte

// newAttempt returns a random attempt.
func newAttempt() (a Attempt) {
	_, _ = rand.Read(a[:])
	return a
}

// Presentation is one attempt to spend a grant.
type Presentation struct {
	// ID and SecretHash are those of the presented token.
	ID         ID
	SecretHash SecretHash
	// Binding is computed from the request that is about to be answered.
	Binding Digest
	// Attempt is random for each call of the gate and the same in all its retries.
	Attempt Attempt
}

// GrantStorage keeps consent grants. Its two methods are all that the gate needs,
// and everything that this package promises under concurrency rests on them:
// among any number of calls, in any number of processes, one wins.
//
// The noun is in the method names because fosite hosts embed all their storages
// in one struct.
//
// Implementations are checked by consenttest.Run. What holds for both methods:
//
//   - They are safe for concurrent use.
//   - One clock decides, the storage's own, for creation and for expiry. A
//     database asks the database.
//   - An error that is none of the sentinels named below means that the outcome
//     is unknown; the gate then refuses, as for every error. A timeout, a lost
//     connection or a cancelled context must never be reported as one of the
//     sentinels, and above all never as success. Where this contract says "an
//     error" without a name, it is such an error.
//   - A call whose context is over before it begins changes nothing.
//   - On a transaction of the host's under snapshot isolation the reasons are those
//     of its snapshot; a conflict with another transaction is an error.
//   - No error may hold the secret's hash or the binding.
//   - Text is kept byte for byte, or the call is refused with an error; it is
//     never altered. (PostgreSQL, for one, cannot keep NUL or malformed UTF-8.)
//   - What was created stays recognisable until 2 × [MaxPromptLifespan] after its
//     creation, and at least as long as it can be consumed: a key that vanished
//     could be minted again, and a replay would read as not found.
type GrantStorage interface {
	// CreateConsentGrant stores the result of a decision, an approval or a
	// denial, under its ID. It takes effect at once and durably, or not at all.
	//
	// If the ID exists, with whatever content and in whatever state, nothing is
	// changed and the error is [ErrAlreadyDecided]; except that a call which
	// repeats the ID and the SecretHash of the grant that is there is a retry of
	// the call that created it, and succeeds without a change.
	//
	// In a transaction (BeginTX of the host's fosite storage) a storage may put the
	// statement off until something has to be sent. ErrAlreadyDecided is then the error
	// of the call that sends it, the Commit at the latest, and nothing of the transaction
	// takes effect. A grant that is also consumed before that is then a new one or
	// ErrAlreadyDecided, never a retry.
	//
	// A zero ID, SecretHash or Binding, an empty Subject or ClientID and a
	// Lifespan below [MinGrantLifespan] are errors, also in a retry, and nothing is
	// stored. The grant must not be nil, and is not kept or modified after the call.
	CreateConsentGrant(ctx context.Context, grant *Grant) error

	// ConsumeConsentGrant spends the grant named by the presentation and returns
	// it, or returns the first of these that holds, and then changes nothing:
	//
	//   - [ErrGrantNotFound]: no grant has this ID and this SecretHash, or it is a
	//     denial;
	//   - [ErrBindingMismatch]: its Binding is another one;
	//   - [ErrGrantConsumed]: another Attempt has spent it;
	//   - [ErrGrantRevoked]: it was revoked ([ConsentStorage.RevokeConsents]);
	//   - [ErrGrantExpired]: its lifespan is over. At the very end of its lifespan
	//     a grant is expired.
	//
	// A presentation whose Attempt is the one that spent the grant succeeds again,
	// also after the grant has expired, and changes nothing. A zero Attempt is an
	// error.
	ConsumeConsentGrant(ctx context.Context, presentation Presentation) (*Grant, error)
}
