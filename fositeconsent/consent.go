package fositeconsent

import (
	"context"
	"errors"
	"time"
)

// The reasons for which a [ConsentStorage] refuses.
var (
	// ErrConsentRevoked: what the resource owner had approved was taken back.
	ErrConsentRevoked = errors.New("fositeconsent: the resource owner's consent was revoked")
	// ErrConsentExpired: what the resource owner had approved was approved for a time,
	// and that is over.
	ErrConsentExpired = errors.New("fositeconsent: the resource owner's consent expired")
)

// Remember asks that an approval stands for later requests, too.
type Remember struct {
	// Lifespan is for how long after the decision, by the storage's clock; zero is until
	// it is revoked. When it is over, what was issued under it can be neither exchanged nor
	// refreshed any more. A storage may round it down to a whole millisecond, but not to zero.
	Lifespan time.Duration
	// OfflineAccess has the scopes offline_access and offline remembered too, and those that
	// fosite's RefreshTokenScopes name instead. Without it the resource owner is asked again
	// whenever they are requested (OpenID Connect Core 1.0, Section 11). Where fosite is told to issue
	// refresh tokens whatever the scope, it says nothing.
	OfflineAccess bool
}

// Consent is what a resource owner allows a client. Each approval that led to a response
// leaves one, by which it can be found and revoked; one that is Remembered lets the gate pass
// later requests without a new grant.
type Consent struct {
	// ID is that of the grant, and so of the prompt. Consents are listed by it: it is
	// ordered by time.
	ID ID
	// Issuer, Subject and ClientID say who allows whom.
	Issuer, Subject, ClientID string
	// LoginSession is the login in which it was decided, "" if the host binds none.
	LoginSession string
	// Scopes and Audience are what was granted, and, if it is Remembered, the audience that later
	// requests may be granted by it: exact strings.
	Scopes, Audience []string
	// RememberedScopes are those among Scopes that later requests may be granted by it: none if
	// it is not Remembered, and none for refresh tokens unless [Remember.OfflineAccess] said so.
	RememberedScopes []string
	// ResponseTypes are the parts of the approved response type: code, token, id_token.
	ResponseTypes []string
	// Details are the other parameters of the approved request that say what is
	// granted, such as claims, resource and authorization_details, and response_mode if it is not
	// the default: "name=value" each, the name escaped as in a query. All that is not
	// known to differ from one request to the next counts.
	Details []string
	// Shown is the digest of what the page showed of the client.
	Shown Digest
	// Data is the host's: [Decision.Data].
	Data []byte
	// Remembered says whether it covers later requests.
	Remembered bool
	// Lifespan is that of [Remember]; zero if it lasts until it is revoked. Zero in what a
	// storage returns.
	Lifespan time.Duration

	// What follows is set by the storage, by its own clock, and ignored when a consent is
	// recorded.

	// DecidedAt is when the consent was recorded.
	DecidedAt time.Time
	// ExpiresAt is the end of the lifespan, zero if there is none.
	ExpiresAt time.Time
	// LastUsedAt is when the last response was issued under it.
	LastUsedAt time.Time
}

// Response is one authorization response that is being issued.
type Response struct {
	// RequestID is fosite's id of the request, under which its storage keeps
	// everything that is issued for it.
	RequestID string
	// Approval is the consent that the response is issued under, if that is a new one.
	Approval *Consent
	// ConsentIDs are those of the remembered consents that it is issued under otherwise.
	ConsentIDs []ID
}

// Selection says which consents are meant: all that have what is set here. The Issuer and at
// least one of Subject and ClientID have to be set; without them a storage returns an error.
type Selection struct {
	// Issuer is that of the gate, which sets it.
	Issuer            string
	Subject, ClientID string
	// EverySubject has a selection without a Subject mean everybody's consents to the client. The gate asks for it, lest the
	// subject of somebody who has signed out mean everybody; storages need not.
	EverySubject bool
	// ConsentID is one consent's. It never stands alone, so that nobody reaches another
	// person's consent by its ID.
	ConsentID ID
	// LoginSession has only those that were decided in that login.
	LoginSession string
}

// Ended is what a revocation hands over, in the transaction in which it ends it.
type Ended struct {
	// Consents are what it ends, complete.
	Consents []Consent
	// RequestIDs are those of everything that was issued under these consents, at most 1000.
	RequestIDs []string
}

// ConsentStorage keeps consents, and which responses were issued under them. It is the one that
// keeps the grants, too: revoking ends both.
//
// Implementations are checked by consenttest.RunConsents. What holds for every method:
// they are safe for concurrent use; the storage's own clock decides; text is kept byte for
// byte or refused; an error that is none of the sentinels named below means that the outcome
// is unknown, and a call whose context is over before it begins changes nothing.
// In a transaction of the host's fosite storage (BeginTX) all but FindConsents are a part of that.
type ConsentStorage interface {
	// FindConsents returns the remembered consents of a subject for a client that are live,
	// neither revoked nor expired, the newest first, by ID; none is no error. It is a look only: what
	// it returned may have been revoked a moment later.
	FindConsents(ctx context.Context, issuer, subject, clientID string) ([]Consent, error)

	// RecordResponse records a response under its RequestID, together with its Approval or
	// with the ConsentIDs that it rests on. If one of these is not live, or unknown, the error is
	// [ErrConsentRevoked] or [ErrConsentExpired] and nothing is recorded; otherwise they stay
	// live until the transaction has ended: a revocation waits, and then finds the response.
	//
	// As with CreateConsentGrant, a storage may put the statement off until something
	// has to be sent; the error is then that of the call that sends it, the Commit at the
	// latest, and nothing of the transaction takes effect. A call that repeats the RequestID
	// and the consents succeeds without a change, as long as these are live.
	//
	// An empty RequestID, neither or both of Approval and ConsentIDs, and an Approval with a
	// zero ID or without an Issuer, a Subject or a ClientID or with a negative Lifespan are errors.
	// So is an Approval whose ID was recorded with another RequestID. The response must not be
	// nil, and is not kept or modified after the call.
	RecordResponse(ctx context.Context, response *Response) error

	// CheckResponse returns nil if every consent under which the response was issued is live,
	// and otherwise [ErrConsentRevoked] or [ErrConsentExpired], the first if both hold. Of a
	// RequestID that was never recorded it knows nothing, and returns nil. It waits for a
	// revocation that is under way.
	CheckResponse(ctx context.Context, requestID string) error

	// ListConsents returns at most limit live consents of the selection, the newest first,
	// those with an ID below before, or from the newest on if that is zero. What is
	// recorded or revoked meanwhile moves no other from one page to another. A limit below 1
	// is an error.
	ListConsents(ctx context.Context, selection Selection, before ID, limit int) ([]Consent, error)

	// RevokeConsents ends the consents of the selection that are not revoked yet, those that have
	// expired too, and the grants that nobody has consumed yet, which then are [ErrGrantRevoked]:
	// those of the selection's Subject, ClientID and ConsentID, since a grant's issuer and
	// login session are not known. It calls revoke, in the transaction in which
	// they are ended, with these consents, each in one call, and with the RequestIDs of everything that was
	// issued under them, as often as that takes; if that returns an error, nothing of that transaction takes
	// effect and the error is returned. It may use several transactions one after the other. A call
	// that failed is to be repeated. It returns how many consents it ended.
	//
	// A response that is being recorded meanwhile is either seen, or is refused. So are responses
	// of grants that were created before, and consumed meanwhile: if such a response is recorded
	// afterwards, the error is [ErrConsentRevoked].
	RevokeConsents(ctx context.Context, selection Selection, revoke func(ctx context.Context, ended Ended) error) (int, error)
}
