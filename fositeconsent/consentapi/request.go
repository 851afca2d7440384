package consentapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The reasons for which a consent request cannot be answered, or its answer not be used. Where several
// hold, the first of this list is given.
var (
	// ErrRequestNotFound: there is no consent request with this handle; or no answer with this verifier
	// for this browser.
	ErrRequestNotFound = errors.New("consentapi: consent request not found")
	// ErrRequestAnswered: another answer was given before. The first one stands.
	ErrRequestAnswered = errors.New("consentapi: consent request was answered differently before")
	// ErrRequestUsed: the answer has led to a response before.
	ErrRequestUsed = errors.New("consentapi: the answer to the consent request was used before")
	// ErrRequestRevoked: what was approved was taken back before it was used.
	ErrRequestRevoked = errors.New("consentapi: the answer to the consent request was revoked")
	// ErrRequestExpired: the lifespan of the request is over.
	ErrRequestExpired = errors.New("consentapi: consent request expired")
)

// Hash is a SHA-256 of 256 bits that cannot be guessed, or of something that is no secret. It is all that a storage sees of a handle.
type Hash [sha256.Size]byte

// State is what has become of a consent request.
type State string

// The states. A pending request becomes accepted or rejected, and an accepted one used or revoked; one that is not used or revoked
// expires. Nothing leads back.
const (
	StatePending  State = "pending"
	StateAccepted State = "accepted"
	StateRejected State = "rejected"
	StateUsed     State = "used"
	StateRevoked  State = "revoked"
	StateExpired  State = "expired"
)

// Request is one consent request: a prompt that is being answered elsewhere.
type Request struct {
	// ID is the prompt's, and so that of the grant and of the consent that it may lead to. It is the storage's key.
	ID fositeconsent.ID
	// Challenge is the hash of the handle that the consent application has.
	Challenge Hash
	// Browser is the hash of what the browser's cookie holds.
	Browser Hash
	// Subject is the resource owner who is asked, and ClientID the client that asks. LoginSession is the login in which they are asked, ""
	// if the host names none. By them answers are revoked.
	Subject, ClientID, LoginSession string
	// Document is what the application is shown, what is needed to go on, and the prompt's ticket: opaque to a storage, kept byte for byte.
	Document []byte
	// Lifespan is how long after its creation, by the storage's clock, the request can be answered and the answer
	// be used. At least [fositeconsent.MinGrantLifespan] and at most
	// [fositeconsent.MaxPromptLifespan]; a storage may round it down to a whole millisecond. Zero in what a storage returns.
	Lifespan time.Duration

	// What follows is set by the storage, and ignored when a request is created.

	// CreatedAt and ExpiresAt are by the storage's clock. At ExpiresAt the request is expired.
	CreatedAt, ExpiresAt time.Time
	// State is as of the call, by the storage's clock: the first that holds of used, revoked, expired, accepted or rejected, pending.
	State State
	// Answer is nil until there is one.
	Answer *Answer
}

// Answer is what the consent application decided.
type Answer struct {
	// Accepted is false for a rejection.
	Accepted bool
	// Digest tells one answer from another: same digest, same answer.
	Digest Hash
	// Verifier is the hash of the handle by which the browser brings the answer.
	Verifier Hash
	// Document is the answer: opaque to a storage, kept byte for byte.
	Document []byte
	// AnsweredAt is by the storage's clock. Ignored in what a storage is given.
	AnsweredAt time.Time
}

// RequestStorage keeps consent requests. Package pgstore has one: the Store that keeps the grants, too. Package
// consentapitest has one in memory, for tests, and the suite that any other has to pass.
//
// The noun is in the method names because hosts embed their storages in one struct. What holds for
// every method:
//
//   - It is safe for concurrent use, in any number of processes. Of any number of different answers to one request
//     one is taken, and of any number of uses of one answer one succeeds.
//   - The storage's own clock decides, at creation and at expiry.
//   - An error that is none of the sentinels named below means that the outcome is unknown, and is a
//     refusal. A timeout, a lost connection or a cancelled context is never reported as a sentinel, nor as success. A call whose
//     context is over before it begins changes nothing. Where this contract says "an error" without a name, it is such an error.
//   - No error holds a hash or a document.
//   - Text and documents are kept byte for byte, or refused with an error.
//   - A request and what became of it stay recognisable until [fositeconsent.MaxPromptLifespan] after its expiry, at least.
//   - What is returned is the caller's to modify, and what is given is neither kept nor modified.
type RequestStorage interface {
	// CreateConsentRequest stores a request that is pending. A zero ID, Challenge or Browser, an empty
	// Subject, ClientID or Document and a Lifespan out of bounds are errors, and so is an ID that exists, unless the call
	// repeats the Challenge and the Browser that are there: that is a retry, and succeeds without a change.
	CreateConsentRequest(ctx context.Context, request *Request) error

	// FindConsentRequest returns the request with this ID and this Challenge, in whatever state, or [ErrRequestNotFound].
	FindConsentRequest(ctx context.Context, id fositeconsent.ID, challenge Hash) (*Request, error)

	// AnswerConsentRequest answers a pending request and returns it as it is then. A request that was answered before with
	// the same Digest and the same Accepted is returned as it is, with the answer that is there, and nothing is changed,
	// whatever has become of it since. Otherwise the error is the first that holds of [ErrRequestNotFound], [ErrRequestAnswered] and
	// [ErrRequestExpired], and nothing is changed. A nil answer, and one with a zero Digest or Verifier or an empty Document, is an error.
	AnswerConsentRequest(ctx context.Context, id fositeconsent.ID, challenge Hash, answer *Answer) (*Request, error)

	// FindAnsweredConsentRequest returns the request with this ID, Browser and the Verifier of its answer, in whatever state, or
	// [ErrRequestNotFound]. What is wrong with which of the two it does not say.
	FindAnsweredConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser Hash) (*Request, error)

	// UseConsentRequest marks an accepted request as used. It takes part in the transaction of the context (BeginTX of the host's fosite
	// storage), if the storage knows of one: when that is rolled back, the request was not used. Otherwise the error is the first
	// that holds of [ErrRequestNotFound], for a rejection, too, [ErrRequestUsed], [ErrRequestRevoked] and [ErrRequestExpired], and
	// nothing is changed.
	UseConsentRequest(ctx context.Context, id fositeconsent.ID, verifier, browser Hash) error

	// RevokeConsentRequests revokes the accepted requests of the selection that are neither used nor expired, and returns how many. A use that is under way
	// in a transaction is waited for: when the call has returned, every request that was accepted before it began is used, or revoked, or
	// expired. The selection's Issuer is not looked at; its ConsentID is the request's ID. A selection with neither a
	// Subject nor a ClientID is an error.
	RevokeConsentRequests(ctx context.Context, selection fositeconsent.Selection) (int, error)
}
