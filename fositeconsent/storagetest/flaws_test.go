package storagetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent/internal/flawtest"
)

// flaw is one way to break the contract, or, without caughtBy, an unusual one to keep
// it. Its fields change parts of [reference]; what is zero is as it should be.
type flaw struct {
	name     string
	caughtBy string
	without  []Part // what is left out

	// What is stored and how it is found.
	key                             func(kind, key string) string
	stored                          func(kind string, kept *row)
	whenStored                      func(d *data, kind string, kept *row)
	thawed                          func(kind string, session fosite.Session)
	answered                        func(kind string, r fosite.Requester, err error) (fosite.Requester, error)
	unknownIn                       func(s *reference, d *data, kind string) (row, bool)
	unknownClient                   error
	client                          func(fosite.Client) fosite.Client
	refuses                         func(texts []string) bool
	sameKinds, takesAnyText, folded bool
	aliasesStored, aliasesReturned  bool
	needsSession, fillsItsOwn       bool

	// Codes and what belongs to them.
	invalidatesTwice, invalidatesUnknown, racesCodes, forgetsCodes bool
	deletesPKCE, codeIsPKCE, codeIsOpenID, openIDEndsWithCode      bool
	deletionError                                                  error

	// Tokens.
	rotatesTwice, rotatesForAny, rotatesUnknown, racesRotations bool
	keepsAccess, keepsRotated, forgetsRotated, rotationEndsAll  bool
	rotationsUnchecked, storesRevoked                           bool
	deletesNothing, deletesOnce, revokesOnce, nothingToRevoke   bool
	rotationError                                               error
	endsLastOnly                                                string
	revokes                                                     func(kind string) bool
	rotatesByRequest, rotationEndsFirst                         bool
	sameRequest                                                 func(r row, requestID string) bool
	sameRequestIn                                               func(d *data, r row, requestID string) bool

	// Pushed requests, IDs of JWTs, nonces, and time.
	deletesPushed, returnsExpired, forEver                 bool
	keepsCredentials                                       []string
	pushes                                                 func(fosite.AuthorizeRequester)
	racesJTIs, overwritesJTIs, forgetsJTIs, unsureIsUnused bool
	jtiError                                               error
	jtiKey                                                 func(string) string
	nonce                                                  func(token string) string
	nonceForAny                                            bool
	expires                                                func(what string, at time.Time) time.Time
	clock                                                  func(explicit func() time.Time) func() time.Time

	// Transactions.
	nestedIsApart, nestedIsOuter, innerRollbackIgnored bool
	commitsNothing, commitsLate, commitsTheRest        bool
	commitEnds                                         bool
	rollbackInterrupted, rollbackOfNothing             bool
	rollbackTwice, revocationRolledBack, readsOutside  bool
	rollbackFails                                      bool
	refusesCommit                                      func(s *reference, tx *transaction) bool
	rollbackCommits                                    func(ctx context.Context) bool
	forgetsCommit                                      func(tx *transaction) bool
	outside                                            func(name string) bool

	// Failures.
	late, ignoresContext, readsNothing func(name string) bool
	outage                             func() error
	tells                              func(name, secret string, err error) error
}

// TestSuiteCatchesEveryFlaw runs the suite on storages that each break the
// contract in one way, in a process of its own, and expects the test that is
// named beside the flaw to fail; and on storages that keep the contract in
// unusual ways, which have to pass all of it. Run it with -v to see what caught what.
func TestSuiteCatchesEveryFlaw(t *testing.T) {
	if flawtest.Inside() {
		runFlaws(t)
		return
	}
	t.Parallel()
	caughtBy := make(map[string]string)
	for _, f := range flaws {
		caughtBy[f.name] = f.caughtBy
	}
	var odd []string
	for _, f := range oddities {
		odd = append(odd, f.name)
	}
	flawtest.Want(t, caughtBy, odd)
}

func runFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			config := f.config()
			config.check(t)
			for _, c := range suite {
				if c.name == f.caughtBy {
					t.Run(c.name, func(t *testing.T) { c.test(&probe{T: t, config: config}) })
				}
			}
		})
	}
	for _, f := range oddities {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			Run(t, f.config())
		})
	}
}

// TestEveryTestOfTheSuiteCatchesSomething fails for a test that no flaw is known for.
func TestEveryTestOfTheSuiteCatchesSomething(t *testing.T) {
	t.Parallel()
	names := make(map[string]int)
	for _, f := range slices.Concat(flaws, oddities) {
		names["flaw: "+f.name]++
	}
	for _, c := range suite {
		names["test: "+c.name]++
		if !slices.ContainsFunc(flaws, func(f flaw) bool { return f.caughtBy == c.name }) {
			t.Errorf("%q catches no flaw", c.name)
		}
	}
	for name, n := range names {
		if n > 1 {
			t.Errorf("%q is there %d times", name, n)
		}
	}
}

// of says whether a call or a kind is one of these.
func of(names ...string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, name) }
}

// loses changes what is stored of one kind.
func loses(kind string, change func(*fosite.AuthorizeRequest)) func(string, *row) {
	return func(of string, kept *row) {
		if of == kind {
			change(&kept.request)
		}
	}
}

// losesAll changes what is stored of every kind.
func losesAll(change func(*row)) func(string, *row) {
	return func(_ string, kept *row) { change(kept) }
}

// answers changes an answer of one kind.
func answers(kind string, change func(r fosite.Requester, err error) (fosite.Requester, error)) func(string, fosite.Requester, error) (fosite.Requester, error) {
	return func(of string, r fosite.Requester, err error) (fosite.Requester, error) {
		if of == kind {
			return change(r, err)
		}
		return r, err
	}
}

// finds has a kind found under other keys, too.
func finds(kind string, fold func(string) string) func(kind, key string) string {
	return func(of, key string) string {
		if of == kind {
			return fold(key)
		}
		return key
	}
}

// instead returns one error in place of another.
func instead(of, other error) func(fosite.Requester, error) (fosite.Requester, error) {
	return func(r fosite.Requester, err error) (fosite.Requester, error) {
		if errors.Is(err, of) {
			return r, other
		}
		return r, err
	}
}

var errOther = errors.New("something is wrong")

// resets sets back the session of a kind, in which what is stored is read.
func resets(kind string) func(string, fosite.Session) {
	return func(of string, session fosite.Session) {
		if of == kind {
			*session.(*fosite.DefaultSession) = fosite.DefaultSession{}
		}
	}
}

// oddities keep the contract. The first one shows that it is their flaws for
// which the others are refused.
var oddities = []flaw{
	{name: "no flaw at all"},
	{name: "only what every storage has", without: []Part{PKCE, OpenIDConnect, PAR, JWTBearer, Nonces, Transactions}},
	{name: "no transactions", without: []Part{Transactions}},
	{name: "no explicit clock and no outage", without: []Part{Clock, Outage}},
	{name: "PKCE data and OpenID Connect sessions are kept with the code", folded: true},
	{name: "a text column that takes no zero bytes", refuses: func(texts []string) bool {
		return slices.ContainsFunc(texts, func(text string) bool {
			return strings.Contains(text, "\x00") || strings.Contains(text, `\u0000`) || !utf8.ValidString(text)
		})
	}},
	{name: "every answer of an error is wrapped", tells: func(name, _ string, err error) error { return fmt.Errorf("%s: %w", name, err) }},
	{name: "a conflict is reported as such", rotationError: fosite.ErrSerializationFailure},
	{name: "a revocation that finds nothing says so", nothingToRevoke: true},
	{name: "a rotation ends every access token of the request", rotationEndsAll: true},
	{name: "no language is kept", stored: losesAll(func(kept *row) { kept.request.Lang = fosite.Request{}.Lang })},
	{name: "what has expired is not found", answered: func(kind string, r fosite.Requester, err error) (fosite.Requester, error) {
		at := map[string]fosite.TokenType{"code": fosite.AuthorizeCode, "access": fosite.AccessToken, "refresh": fosite.RefreshToken}[kind]
		if err == nil && at != "" && !r.GetSession().GetExpiresAt(at).IsZero() && r.GetSession().GetExpiresAt(at).Before(time.Now()) {
			return nil, fosite.ErrNotFound
		}
		return r, err
	}},
	{name: "a clock of whole milliseconds", clock: func(explicit func() time.Time) func() time.Time {
		if explicit == nil {
			explicit = time.Now
		}
		return func() time.Time { return explicit().Truncate(time.Millisecond) }
	}},
}

var flaws = func() []flaw {
	const (
		aCode    = "a code is returned with its whole request"
		anAccess = "an access token is returned with its whole request"
		aRefresh = "a refresh token is returned with its whole request"
		aPKCE    = "PKCE data are returned with their whole request"
		anOpenID = "an OpenID Connect session is returned with its whole request"
		aPushed  = "a pushed request is returned with its whole request"
		exact    = "text is kept exactly or refused"
		unknown  = "what is unknown is not found"
		keys     = "a key finds only what was stored under exactly that key"
		flow     = "a code flow in fosite's order succeeds"
		client   = "a client is returned as it was registered"
		session  = "the session that is passed with a code is filled with what is stored"
		times    = "the session that is passed with a code keeps the expiry times that are not stored"
		stays    = "what has expired is returned as it is or not found"
		nobody   = "a token is read without a session"

		invalid  = "an invalidated code is reported as such and comes with its request"
		again    = "an invalidated code cannot be invalidated again"
		noCode   = "an unknown code cannot be invalidated"
		redeems  = "of many redemptions of one code one wins and only its tokens are stored"
		apart    = "redemptions of different codes do not disturb each other"
		replayed = "a code that is presented again ends the tokens of its request"
		replays  = "a replay that races with the redemption leaves no live token"
		outlives = "PKCE data outlive a failed verifier"
		noPKCE   = "a code without PKCE data has none"
		whole    = "an OpenID Connect session is found by the whole code only"
		redeemed = "an OpenID Connect session outlives the redemption of its code"
		itsOwn   = "an OpenID Connect session is kept as it was when it was stored"
		noOpenID = "a code without an OpenID Connect session has none"

		deleted   = "a deleted token is dead"
		revoked   = "a revocation ends the access token and the refresh token of a request"
		accesses  = "a revocation ends every access token of a request"
		refreshes = "a revocation ends every refresh token of a request"
		others    = "a revocation ends nothing of other requests"
		revokes2  = "a revocation can be repeated"
		rotated   = "a rotated refresh token is inactive and comes with its request"
		ends      = "a rotation ends the access token that was issued with the refresh token"
		twice     = "a rotated refresh token cannot be rotated again"
		dead      = "a revoked refresh token cannot be rotated"
		another   = "a rotation for another request is refused and changes nothing"
		noRefresh = "a rotation of an unknown refresh token is refused and changes nothing"
		rotates   = "of many rotations of one refresh token one wins and only its tokens are stored"
		rotates2  = "rotations of different refresh tokens do not disturb each other"
		reused    = "a refresh token that is presented again ends every token of its request"
		reused2   = "a reuse can be handled again and again"
		races     = "a revocation that races with a rotation leaves no live token"

		readable = "a pushed request stays readable although it is deleted"
		expired  = "a pushed request that has expired is refused"
		byClock  = "a pushed request expires by the explicit clock and not before"
		noExpiry = "a pushed request without an expiry is refused or expires within a day"
		secrets  = "a pushed request is kept without the credentials of its client"

		once        = "a client's JWT is accepted once"
		onceBearer  = "a bearer's JWT is accepted once"
		many        = "of many presentations of one client's JWT one wins"
		manyBearer  = "of many presentations of one bearer's JWT one wins"
		old         = "the ID of an expired client's JWT may be used again"
		oldBearer   = "the ID of an expired bearer's JWT may be used again"
		free        = "the ID of a client's JWT is free again after it has expired by the explicit clock and not before"
		freeBearer  = "the ID of a bearer's JWT is free again after it has expired by the explicit clock and not before"
		letters     = "the ID of a client's JWT is kept letter for letter or refused"
		lettersB    = "the ID of a bearer's JWT is kept letter for letter or refused"
		nonces      = "a nonce is valid for its access token only"
		oldNonce    = "an expired nonce is refused"
		nonceClock  = "a nonce expires by the explicit clock and not before"
		rollback    = "what is rolled back was never stored"
		undone      = "a redemption that is rolled back leaves the code as it was"
		undone2     = "a rotation that is rolled back leaves the tokens as they were"
		inside      = "what is not committed is seen inside its transaction only"
		joins       = "a transaction inside another joins it"
		noCommit    = "a failed commit stores nothing and can be rolled back"
		ended       = "transactions whose context has ended can be rolled back and hold nothing"
		commits     = "a commit without a transaction is an error"
		survives    = "a revocation survives the rollback of the transaction around it"
		interrupted = "a write whose context has ended is an error and changes nothing"
		noAnswer    = "a read whose context has ended is no answer"
		outage      = "a backend that cannot be reached is no answer"
		tells       = "no error tells a code, a token or a signature"
	)
	list := []flaw{
		// Requests as they are stored.
		{name: "a client loses its audience", caughtBy: client, client: func(c fosite.Client) fosite.Client {
			copied := *c.(*fosite.DefaultClient)
			copied.Audience = nil
			return &copied
		}},
		{name: "a client loses its secret", caughtBy: client, client: func(c fosite.Client) fosite.Client {
			copied := *c.(*fosite.DefaultClient)
			copied.Secret = nil
			return &copied
		}},
		{name: "a client loses its rotated secrets", caughtBy: client, client: func(c fosite.Client) fosite.Client {
			copied := *c.(*fosite.DefaultClient)
			copied.RotatedSecrets = nil
			return &copied
		}},
		{name: "a public client becomes confidential", caughtBy: client, client: func(c fosite.Client) fosite.Client {
			copied := *c.(*fosite.DefaultClient)
			copied.Public = false
			return &copied
		}},
		{name: "an unknown client is another error", caughtBy: client, unknownClient: errOther},
		{name: "a client's ID is matched without regard to case", caughtBy: client, key: finds("client", strings.ToLower), client: func(c fosite.Client) fosite.Client { return c }},

		{name: "a code loses what was granted", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.GrantedScope = nil })},
		{name: "a code grants what was requested", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.GrantedScope = r.RequestedScope })},
		{name: "a code gets an ID of its own", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.ID = newID() })},
		{name: "a code is dated when it is stored", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.RequestedAt = time.Now() })},
		{name: "a code's times are rounded to seconds", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.RequestedAt = r.RequestedAt.Round(time.Second) })},
		{name: "a code loses its form", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.Form = nil })},
		{name: "a code keeps one value of a parameter", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) {
			for name, values := range r.Form {
				r.Form[name] = values[:1]
			}
		})},
		{name: "a code's form gets another parameter", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { r.Form.Set("code_verifier", "") })},
		{name: "a code's form gets another language", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { _ = r.Lang.UnmarshalText([]byte("fr")) })},
		{name: "a code's scopes are sorted", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) { slices.Sort(r.RequestedScope) })},
		{name: "a code's scopes are joined by spaces", caughtBy: aCode, stored: loses("code", func(r *fosite.AuthorizeRequest) {
			r.GrantedScope = strings.Fields(strings.Join(r.GrantedScope, " "))
		})},
		{name: "an access token gets the requested audience", caughtBy: anAccess, stored: loses("access", func(r *fosite.AuthorizeRequest) { r.GrantedAudience = r.RequestedAudience })},
		{name: "an access token loses the requested audience", caughtBy: anAccess, stored: loses("access", func(r *fosite.AuthorizeRequest) { r.RequestedAudience = nil })},
		{name: "an access token loses its session", caughtBy: anAccess, stored: losesAll(func(kept *row) { kept.session = nil })},
		{name: "an access token's session keeps one time", caughtBy: anAccess, stored: losesAll(func(kept *row) {
			var s fosite.DefaultSession
			if readSession(kept.session, &s) == nil {
				delete(s.ExpiresAt, fosite.IDToken)
				kept.session, _ = json.Marshal(&s)
			}
		})},
		{name: "an access token's session loses what is nested", caughtBy: anAccess, stored: losesAll(func(kept *row) {
			var s fosite.DefaultSession
			if readSession(kept.session, &s) == nil {
				delete(s.Extra, "nested")
				kept.session, _ = json.Marshal(&s)
			}
		})},
		{name: "an access token's session gets its numbers rounded", caughtBy: anAccess, stored: losesAll(func(kept *row) {
			var s fosite.DefaultSession
			if json.Unmarshal(kept.session, &s) == nil {
				kept.session, _ = json.Marshal(&s)
			}
		})},
		{name: "an access token's session gets the subject for a user name", caughtBy: anAccess, stored: losesAll(func(kept *row) {
			var s fosite.DefaultSession
			if readSession(kept.session, &s) == nil {
				s.Username = s.Subject
				kept.session, _ = json.Marshal(&s)
			}
		})},
		{name: "a refresh token loses its scopes beyond a limit", caughtBy: aRefresh, stored: loses("refresh", func(r *fosite.AuthorizeRequest) {
			r.GrantedScope = r.GrantedScope[:min(len(r.GrantedScope), 100)]
		})},
		{name: "a refresh token's parameters are cut off", caughtBy: aRefresh, stored: loses("refresh", func(r *fosite.AuthorizeRequest) {
			for _, values := range r.Form {
				for i, value := range values {
					values[i] = value[:min(len(value), 4096)]
				}
			}
		})},
		{name: "a refresh token is another client's", caughtBy: aRefresh, stored: loses("refresh", func(r *fosite.AuthorizeRequest) { r.Client = newClient() })},
		{name: "PKCE data lose the method", caughtBy: aPKCE, stored: loses("PKCE", func(r *fosite.AuthorizeRequest) { delete(r.Form, "code_challenge_method") })},
		{name: "PKCE data lose the client", caughtBy: aPKCE, stored: loses("PKCE", func(r *fosite.AuthorizeRequest) { r.Client = nil })},
		{name: "an OpenID Connect session loses the nonce", caughtBy: anOpenID, stored: loses("OpenID", func(r *fosite.AuthorizeRequest) { delete(r.Form, "nonce") })},
		{name: "an OpenID Connect session grants nothing", caughtBy: anOpenID, stored: loses("OpenID", func(r *fosite.AuthorizeRequest) { r.GrantedScope = nil })},
		{name: "a pushed request loses its response types", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.ResponseTypes = nil })},
		{name: "a pushed request loses the handled response types", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.HandledResponseTypes = r.ResponseTypes })},
		{name: "a pushed request loses its redirect URI", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.RedirectURI = nil })},
		{name: "a pushed request's redirect URI loses its query", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.RedirectURI.RawQuery = "" })},
		{name: "a pushed request loses its state", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.State = "" })},
		{name: "a pushed request loses its response mode", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.ResponseMode = fosite.ResponseModeDefault })},
		{name: "a pushed request gets the default for its response mode", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.ResponseMode = r.DefaultResponseMode })},
		{name: "a pushed request loses its default response mode", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { r.DefaultResponseMode = "" })},
		{name: "a pushed request loses parameters without a value", caughtBy: aPushed, stored: loses("PAR", func(r *fosite.AuthorizeRequest) { delete(r.Form, "display") })},
		{name: "text is cut at a zero byte", caughtBy: exact, stored: losesAll(func(kept *row) {
			for i, scope := range kept.request.GrantedScope {
				kept.request.GrantedScope[i], _, _ = strings.Cut(scope, "\x00")
			}
		})},
		{name: "text that is not UTF-8 becomes so", caughtBy: exact, takesAnyText: true, stored: losesAll(func(kept *row) {
			for i, audience := range kept.request.RequestedAudience {
				kept.request.RequestedAudience[i] = strings.ToValidUTF8(audience, "\ufffd")
			}
		})},
		{name: "a subject that is not UTF-8 becomes so", caughtBy: exact, takesAnyText: true},
		{name: "text is composed", caughtBy: aCode, stored: losesAll(func(kept *row) {
			kept.session = bytes.ReplaceAll(kept.session, []byte("e\u0308"), []byte("\u00eb"))
		})},
		{name: "the object itself is kept", caughtBy: "a stored request is independent of the object that it was stored from", aliasesStored: true},
		{name: "the stored object is returned", caughtBy: "a returned request is the caller's to modify", aliasesReturned: true},
		{name: "the session that is passed is ignored", caughtBy: session, fillsItsOwn: true},
		{name: "the session that is passed with a code is replaced", caughtBy: times, thawed: resets("code")},
		{name: "the session that is passed with PKCE data is replaced", caughtBy: times, thawed: resets("PKCE")},
		{name: "times that have passed are not kept", caughtBy: stays, stored: losesAll(func(kept *row) {
			var s fosite.DefaultSession
			if readSession(kept.session, &s) == nil {
				for kind, at := range s.ExpiresAt {
					if at.Before(time.Now()) {
						delete(s.ExpiresAt, kind)
					}
				}
				kept.session, _ = json.Marshal(&s)
			}
		})},
		{name: "times that have passed are moved", caughtBy: stays, stored: losesAll(func(kept *row) {
			var s fosite.DefaultSession
			if readSession(kept.session, &s) == nil {
				for kind, at := range s.ExpiresAt {
					if at.Before(time.Now()) {
						s.ExpiresAt[kind] = time.Now().Add(time.Hour)
					}
				}
				kept.session, _ = json.Marshal(&s)
			}
		})},
		{name: "what has expired is another error", caughtBy: stays, answered: answers("code", func(r fosite.Requester, err error) (fosite.Requester, error) {
			if err == nil && r.GetSession().GetExpiresAt(fosite.AuthorizeCode).Before(time.Now()) {
				return nil, errOther
			}
			return r, err
		})},
		{name: "a session has to be passed", caughtBy: nobody, needsSession: true},
		{name: "an unknown code is another error", caughtBy: unknown, answered: answers("code", instead(fosite.ErrNotFound, errOther))},
		{name: "unknown PKCE data are another error", caughtBy: unknown, answered: answers("PKCE", instead(fosite.ErrNotFound, errOther))},
		{name: "an unknown OpenID Connect session is another error", caughtBy: unknown, answered: answers("OpenID", instead(fosite.ErrNotFound, errOther))},
		{name: "an unknown access token is inactive", caughtBy: unknown, answered: answers("access", func(_ fosite.Requester, err error) (fosite.Requester, error) {
			if errors.Is(err, fosite.ErrNotFound) {
				return fosite.NewRequest(), fosite.ErrInactiveToken
			}
			return nil, err
		})},
		{name: "an unknown refresh token is neither found nor not", caughtBy: unknown, answered: answers("refresh", func(r fosite.Requester, err error) (fosite.Requester, error) {
			if errors.Is(err, fosite.ErrNotFound) {
				return nil, nil
			}
			return r, err
		})},
		{name: "an unknown pushed request is another error", caughtBy: unknown, answered: answers("PAR", instead(fosite.ErrNotFound, errOther))},
		{name: "a signature is matched without regard to case", caughtBy: keys, key: finds("access", strings.ToLower)},
		{name: "a signature is matched without regard to spaces", caughtBy: keys, key: finds("refresh", strings.TrimSpace)},
		{name: "a long signature is cut off", caughtBy: keys, key: finds("code", func(key string) string { return key[:min(len(key), 255)] })},
		{name: "a code is matched by its end", caughtBy: keys, key: finds("OpenID", func(key string) string { return key[max(0, len(key)-20):] })},
		{name: "a request URI is matched without regard to case", caughtBy: keys, key: finds("PAR", strings.ToUpper)},
		{name: "all kinds have one table", caughtBy: "a key finds only the kind that was stored under it", sameKinds: true},

		// Codes.
		{name: "PKCE data cannot be deleted", caughtBy: flow, deletionError: errOther},
		{name: "a request gets one pair of tokens", caughtBy: flow, whenStored: func(d *data, kind string, kept *row) {
			if kind == "refresh" {
				d.revoked[kept.requestID] = true
			}
		}},
		{name: "an invalidated code comes without its request", caughtBy: invalid, answered: answers("code", func(r fosite.Requester, err error) (fosite.Requester, error) {
			if err != nil {
				return nil, err
			}
			return r, nil
		})},
		{name: "an invalidated code comes with an empty request", caughtBy: invalid, answered: answers("code", func(r fosite.Requester, err error) (fosite.Requester, error) {
			if errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
				return fosite.NewRequest(), err
			}
			return r, err
		})},
		{name: "an invalidated code is not found", caughtBy: invalid, forgetsCodes: true},
		{name: "an invalidated code is another error", caughtBy: invalid, answered: answers("code", instead(fosite.ErrInvalidatedAuthorizeCode, errOther))},
		{name: "an invalidated code is as good as before", caughtBy: invalid, answered: answers("code", instead(fosite.ErrInvalidatedAuthorizeCode, nil))},
		{name: "a code can be invalidated twice", caughtBy: again, invalidatesTwice: true},
		{name: "an unknown code can be invalidated", caughtBy: noCode, invalidatesUnknown: true},
		{name: "a code is read before it is invalidated", caughtBy: redeems, racesCodes: true},
		{name: "a commit stores what it can of the loser's", caughtBy: redeems, commitsTheRest: true},
		{name: "tokens are stored outside of the transaction", caughtBy: redeems, outside: of("CreateAccessTokenSession")},
		{name: "one transaction makes another fail", caughtBy: apart, refusesCommit: func(s *reference, tx *transaction) bool { return tx.data.serial < s.data.serial+len(tx.calls)-1 }},
		{name: "a replay ends access tokens only", caughtBy: replayed, revokes: of("access")},
		{name: "a replay ends refresh tokens only", caughtBy: replayed, revokes: of("refresh")},
		{name: "a replay ends everything", caughtBy: replayed, sameRequest: func(row, string) bool { return true }},
		{name: "an invalidation is seen before its transaction is committed", caughtBy: replays, outside: of("InvalidateAuthorizeCodeSession"), storesRevoked: true},
		{name: "tokens of a revoked request can be stored", caughtBy: replays, without: []Part{Transactions}, storesRevoked: true},
		{name: "PKCE data are deleted", caughtBy: outlives, deletesPKCE: true},
		{name: "every code has PKCE data", caughtBy: noPKCE, codeIsPKCE: true},
		{name: "PKCE data are found by their request", caughtBy: noPKCE, unknownIn: func(s *reference, d *data, kind string) (row, bool) {
			return s.anyOf(d, kind, "PKCE")
		}},
		{name: "every code has an OpenID Connect session", caughtBy: noOpenID, codeIsOpenID: true},
		{name: "an OpenID Connect session is found by any code", caughtBy: noOpenID, unknownIn: func(s *reference, d *data, kind string) (row, bool) {
			return s.anyOf(d, kind, "OpenID")
		}},
		{name: "an OpenID Connect session is kept under the signature", caughtBy: whole, key: finds("OpenID", func(key string) string { return key[strings.LastIndex(key, ".")+1:] })},
		{name: "an OpenID Connect session is kept under what is before the signature", caughtBy: whole, key: finds("OpenID", func(key string) string {
			before, _, _ := strings.Cut(key, ".")
			return before
		})},
		{name: "an OpenID Connect session is found without its prefix", caughtBy: whole, key: finds("OpenID", func(key string) string { return strings.TrimPrefix(key, "ory_ac_") })},
		{name: "an OpenID Connect session ends with its code", caughtBy: redeemed, openIDEndsWithCode: true},
		{name: "an OpenID Connect session is the code's", caughtBy: itsOwn, whenStored: func(d *data, kind string, kept *row) {
			for at, code := range d.rows {
				if kind == "OpenID" && at.kind == "code" && code.requestID == kept.requestID {
					kept.session = code.session
				}
			}
		}},
		{name: "an OpenID Connect session replaces the code's", caughtBy: itsOwn, whenStored: func(d *data, kind string, kept *row) {
			for at, code := range d.rows {
				if kind == "OpenID" && at.kind == "code" && code.requestID == kept.requestID {
					code.session = kept.session
					d.rows[at] = code
				}
			}
		}},

		// Tokens.
		{name: "a deletion deletes nothing", caughtBy: deleted, deletesNothing: true},
		{name: "a revocation leaves access tokens", caughtBy: revoked, revokes: of("refresh")},
		{name: "a revocation leaves refresh tokens", caughtBy: revoked, revokes: of("access")},
		{name: "a revocation finds nothing by that ID", caughtBy: revoked, sameRequest: func(row, string) bool { return false }},
		{name: "a revocation ends the last access token", caughtBy: accesses, endsLastOnly: "access"},
		{name: "a revocation ends the access tokens that have a refresh token", caughtBy: accesses, sameRequestIn: func(d *data, r row, requestID string) bool {
			if r.requestID != requestID || r.inactive {
				return false
			}
			for at, other := range d.rows {
				if at.kind == "refresh" && other.requestID == requestID && other.access == r.signature || r.access != "" {
					return true
				}
			}
			return false
		}},
		{name: "a revocation ends the last refresh token", caughtBy: refreshes, endsLastOnly: "refresh"},
		{name: "a revocation ends the subject's other tokens", caughtBy: others, sameRequest: func(r row, requestID string) bool { return requestID != "" && len(requestID) > 1 }},
		{name: "a revocation of a pattern", caughtBy: others, sameRequest: func(r row, requestID string) bool { return r.requestID == requestID || requestID == "%" }},
		{name: "a revocation of nothing is one of everything", caughtBy: others, sameRequest: func(r row, requestID string) bool { return r.requestID == requestID || requestID == "" }},
		{name: "request IDs are matched without regard to case", caughtBy: others, sameRequest: func(r row, requestID string) bool { return strings.EqualFold(r.requestID, requestID) }},
		{name: "request IDs are matched without regard to spaces", caughtBy: others, sameRequest: func(r row, requestID string) bool { return strings.TrimSpace(r.requestID) == requestID }},
		{name: "a second revocation is an error", caughtBy: revokes2, revokesOnce: true},
		{name: "a rotated token is not found", caughtBy: rotated, forgetsRotated: true},
		{name: "a rotated token comes without its request", caughtBy: rotated, answered: answers("refresh", func(r fosite.Requester, err error) (fosite.Requester, error) {
			if err != nil {
				return nil, err
			}
			return r, nil
		})},
		{name: "a rotated token is as good as before", caughtBy: rotated, keepsRotated: true},
		{name: "a rotation leaves the access token", caughtBy: ends, keepsAccess: true},
		{name: "a rotation ends the first access token", caughtBy: ends, keepsAccess: true, rotationEndsFirst: true},
		{name: "a refresh token can be rotated twice", caughtBy: twice, rotatesTwice: true},
		{name: "a second rotation is an error that fosite does not know", caughtBy: twice, rotationError: errOther},
		{name: "a revoked token can be rotated", caughtBy: dead, rotatesTwice: true, storesRevoked: true},
		{name: "a rotation takes any request ID", caughtBy: another, rotatesForAny: true},
		{name: "a rotation finds its token by the request ID", caughtBy: another, rotatesByRequest: true},
		{name: "an unknown token can be rotated", caughtBy: noRefresh, rotatesUnknown: true},
		{name: "an unknown token's rotation is an error that fosite does not know", caughtBy: noRefresh, rotationError: errOther},
		{name: "an unknown token's rotation rotates the request's", caughtBy: noRefresh, rotatesByRequest: true},
		{name: "a token is read before it is rotated", caughtBy: rotates, racesRotations: true},
		{name: "a rotation is not checked when it is committed", caughtBy: rotates, rotationsUnchecked: true},
		{name: "a refresh token is stored outside of the transaction", caughtBy: rotates, outside: of("CreateRefreshTokenSession")},
		{name: "one rotation makes another fail", caughtBy: rotates2, refusesCommit: func(s *reference, tx *transaction) bool { return tx.data.serial < s.data.serial+len(tx.calls)-1 }},
		{name: "a reuse ends nothing", caughtBy: reused, sameRequestIn: func(d *data, r row, requestID string) bool { return false }},
		{name: "a reuse ends access tokens only", caughtBy: reused, revokes: of("access")},
		{name: "a reuse ends everything", caughtBy: reused, sameRequest: func(row, string) bool { return true }},
		{name: "a reused token cannot be deleted again", caughtBy: reused2, deletesOnce: true},
		{name: "a second answer to a reuse is an error", caughtBy: reused2, revokesOnce: true},
		{name: "a rotation stores tokens after a revocation", caughtBy: races, rotationsUnchecked: true, storesRevoked: true},
		{name: "without transactions, a rotation stores tokens after a revocation", caughtBy: races, without: []Part{Transactions}, storesRevoked: true},

		// Pushed requests.
		{name: "a pushed request is deleted", caughtBy: readable, deletesPushed: true},
		{name: "a pushed request never expires", caughtBy: expired, expires: func(_ string, at time.Time) time.Time { return at.Add(1e6 * time.Hour) }},
		{name: "an expired pushed request comes with its error", caughtBy: expired, returnsExpired: true},
		{name: "a pushed request lives some days longer", caughtBy: expired, expires: func(_ string, at time.Time) time.Time { return at.Add(100 * time.Hour) }},
		{name: "a pushed request has an hour of grace", caughtBy: byClock, expires: func(_ string, at time.Time) time.Time { return at.Add(time.Hour) }},
		{name: "a pushed request has a second of grace", caughtBy: byClock, expires: func(_ string, at time.Time) time.Time { return at.Add(time.Second) }},
		{name: "a pushed request expires early", caughtBy: byClock, expires: func(_ string, at time.Time) time.Time { return at.Add(-2 * time.Second) }},
		{name: "a pushed request expires by the wrong clock", caughtBy: byClock, clock: ownClock},
		{name: "a pushed request without an expiry lives for ever", caughtBy: noExpiry, forEver: true},
		{name: "a pushed request keeps the client's secret", caughtBy: secrets, keepsCredentials: []string{"client_secret"}},
		{name: "a pushed request keeps the client's assertion", caughtBy: secrets, keepsCredentials: []string{"client_assertion"}},
		{name: "a pushed request keeps the assertion's type", caughtBy: secrets, keepsCredentials: []string{"client_assertion_type"}},
		{name: "the credentials are taken out of the caller's request", caughtBy: secrets, pushes: func(r fosite.AuthorizeRequester) { r.GetRequestForm().Del("client_secret") }},

		// IDs of JWTs, and nonces.
		{name: "a client's JWT can be used twice", caughtBy: once, overwritesJTIs: true},
		{name: "a client's JWT is forgotten", caughtBy: once, forgetsJTIs: true},
		{name: "a used client's JWT is another error", caughtBy: once, jtiError: errOther},
		{name: "a client's JWT is looked for before it is marked", caughtBy: many, racesJTIs: true},
		{name: "an expired client's JWT is remembered", caughtBy: old, expires: laterBy("JTI", 2000*time.Hour)},
		{name: "a client's JWT is remembered for an hour more", caughtBy: old, expires: laterBy("JTI", time.Hour)},
		{name: "a client's JWT is forgotten when it expires", caughtBy: free, expires: laterBy("JTI", -time.Second)},
		{name: "a client's JWT is remembered too long", caughtBy: free, expires: laterBy("JTI", 15*time.Minute)},
		{name: "a client's JWT expires by the wrong clock", caughtBy: free, clock: ownClock},
		{name: "the case of a client's JWT's ID is ignored", caughtBy: letters, jtiKey: strings.ToLower},
		{name: "a long ID of a client's JWT is cut off", caughtBy: letters, jtiKey: func(jti string) string { return jti[:min(len(jti), 255)] }},
		{name: "the spaces around the ID of a client's JWT are ignored", caughtBy: letters, jtiKey: strings.TrimSpace},
		{name: "the ID of a client's JWT is cut at a zero byte", caughtBy: letters, jtiKey: func(jti string) string {
			before, _, _ := strings.Cut(jti, "\x00")
			return before
		}},
		{name: "a bearer's JWT can be used twice", caughtBy: onceBearer, overwritesJTIs: true},
		{name: "a bearer's JWT is forgotten", caughtBy: onceBearer, forgetsJTIs: true},
		{name: "a bearer's JWT is looked for before it is marked", caughtBy: manyBearer, racesJTIs: true},
		{name: "an expired bearer's JWT is remembered", caughtBy: oldBearer, expires: laterBy("JTI", 2000*time.Hour)},
		{name: "a bearer's JWT is forgotten when it expires", caughtBy: freeBearer, expires: laterBy("JTI", -time.Second)},
		{name: "the case of a bearer's JWT's ID is ignored", caughtBy: lettersB, jtiKey: strings.ToLower},
		{name: "a nonce is valid for any token", caughtBy: nonces, nonceForAny: true},
		{name: "a nonce is always the same", caughtBy: nonces, nonce: func(string) string { return "a nonce that is always the same" }},
		{name: "a nonce can be guessed", caughtBy: nonces, nonce: func(string) string { return rand.Text()[:8] }},
		{name: "a nonce holds its token", caughtBy: nonces, nonce: func(token string) string { return rand.Text() + token }},
		{name: "a nonce never expires", caughtBy: oldNonce, expires: laterBy("nonce", 1e6*time.Hour)},
		{name: "a nonce lives an hour longer", caughtBy: oldNonce, expires: laterBy("nonce", time.Hour)},
		{name: "a nonce expires early", caughtBy: nonceClock, expires: laterBy("nonce", -2*time.Second)},
		{name: "a nonce lives some seconds longer", caughtBy: nonceClock, expires: laterBy("nonce", 5*time.Second)},

		// Transactions.
		{name: "a code is stored outside of the transaction", caughtBy: rollback, outside: of("CreateAuthorizeCodeSession")},
		{name: "PKCE data are stored outside of the transaction", caughtBy: rollback, outside: of("CreatePKCERequestSession")},
		{name: "an OpenID Connect session is stored outside of the transaction", caughtBy: rollback, outside: of("CreateOpenIDConnectSession")},
		{name: "an access token is stored outside of the transaction", caughtBy: rollback, outside: of("CreateAccessTokenSession")},
		{name: "a rollback commits", caughtBy: rollback, rollbackCommits: func(context.Context) bool { return true }},
		{name: "a rollback is an error", caughtBy: rollback, rollbackFails: true},
		{name: "a code is invalidated outside of the transaction", caughtBy: undone, outside: of("InvalidateAuthorizeCodeSession")},
		{name: "an OpenID Connect session is deleted outside of the transaction", caughtBy: undone, outside: of("DeleteOpenIDConnectSession")},
		{name: "a token is rotated outside of the transaction", caughtBy: undone2, outside: of("RotateRefreshToken")},
		{name: "what is not committed is seen outside", caughtBy: inside, outside: of("CreateAccessTokenSession", "CreateRefreshTokenSession")},
		{name: "what is not committed is not seen inside", caughtBy: inside, readsOutside: true},
		{name: "a commit stores nothing", caughtBy: inside, forgetsCommit: func(*transaction) bool { return true }},
		{name: "a transaction inside another is one of its own", caughtBy: joins, nestedIsApart: true},
		{name: "an inner commit is final", caughtBy: joins, nestedIsOuter: true},
		{name: "an inner rollback is ignored", caughtBy: joins, innerRollbackIgnored: true},
		{name: "a commit does not look at its context", caughtBy: noCommit, commitsLate: true},
		{name: "a rollback after a failed commit is an error", caughtBy: noCommit, commitEnds: true, rollbackTwice: true},
		{name: "a rollback when the context has ended is an error", caughtBy: ended, rollbackInterrupted: true},
		{name: "a rollback when the context has ended commits", caughtBy: ended, rollbackCommits: func(ctx context.Context) bool { return ctx.Err() != nil }},
		{name: "a commit without a transaction succeeds", caughtBy: commits, commitsNothing: true},
		{name: "a rollback without a transaction undoes something", caughtBy: commits, rollbackOfNothing: true},
		{name: "a revocation is rolled back", caughtBy: survives, revocationRolledBack: true},
		{name: "everything survives a rollback if a revocation does", caughtBy: survives, rollbackCommits: func(ctx context.Context) bool {
			h, _ := ctx.Value(txKey{}).(handle)
			return len(h.tx.revoking) > 0
		}},

		// Failures.
		{name: "no write looks at its context", caughtBy: interrupted, ignoresContext: of("CreateAuthorizeCodeSession", "CreateAccessTokenSession")},
		{name: "a JWT is marked when the context has ended", caughtBy: interrupted, late: of("SetClientAssertionJWT")},
		{name: "a code is invalidated when the context has ended", caughtBy: interrupted, late: of("InvalidateAuthorizeCodeSession")},
		{name: "a token is rotated when the context has ended", caughtBy: interrupted, late: of("RotateRefreshToken")},
		{name: "a request is pushed when the context has ended", caughtBy: interrupted, late: of("CreatePARSession")},
		{name: "a token is revoked when the context has ended", caughtBy: interrupted, late: of("RevokeAccessToken")},
		{name: "a used JWT is reported when the context has ended", caughtBy: interrupted, ignoresContext: of("SetClientAssertionJWT")},
		{name: "PKCE data are not found when the context has ended", caughtBy: noAnswer, readsNothing: of("GetPKCERequestSession")},
		{name: "an OpenID Connect session is not found when the context has ended", caughtBy: noAnswer, readsNothing: of("GetOpenIDConnectSession")},
		{name: "a code is not found when the context has ended", caughtBy: noAnswer, readsNothing: of("GetAuthorizeCodeSession")},
		{name: "a JWT is not used when the context has ended", caughtBy: noAnswer, unsureIsUnused: true},
		{name: "no client's JWT is used when the context has ended", caughtBy: noAnswer, ignoresContext: of("ClientAssertionJWTValid")},
		{name: "a nonce is valid when the context has ended", caughtBy: noAnswer, ignoresContext: of("IsNonceValid")},
		{name: "a pushed request is read when the context has ended", caughtBy: noAnswer, ignoresContext: of("GetPARSession")},
		{name: "nothing is found when the backend is gone", caughtBy: outage, outage: func() error { return fosite.ErrNotFound }},
		{name: "everything succeeds when the backend is gone", caughtBy: outage, outage: func() error { return nil }},
		{name: "no token is active when the backend is gone", caughtBy: outage, outage: func() error { return fmt.Errorf("%w: %w", fosite.ErrInactiveToken, errUnreachable) }},
		{name: "every JWT is known when the backend is gone", caughtBy: outage, outage: func() error { return fosite.ErrJTIKnown }},
	}
	// Errors that say too much.
	for name, told := range map[string]func(secret string, err error) error{
		"as it is":          func(secret string, err error) error { return fmt.Errorf("%w: key (%s) is unknown", err, secret) },
		"quoted":            func(secret string, err error) error { return fmt.Errorf("%w: %q", err, secret) },
		"in hexadecimal":    func(secret string, err error) error { return fmt.Errorf("%w: %x", err, secret) },
		"in upper-case hex": func(secret string, err error) error { return fmt.Errorf("%w: %X", err, secret) },
		"in base64": func(secret string, err error) error {
			return fmt.Errorf("%w: %s", err, base64.StdEncoding.EncodeToString([]byte(secret)))
		},
		"as numbers":          func(secret string, err error) error { return fmt.Errorf("%w: %v", err, []byte(secret)) },
		"abbreviated":         func(secret string, err error) error { return fmt.Errorf("%w: %.20s…", err, secret) },
		"in a hint of fosite": func(secret string, err error) error { return errors.Join(fosite.ErrNotFound.WithHint(secret), err) },
		"for debugging":       func(secret string, err error) error { return errors.Join(err, fosite.ErrServerError.WithDebug(secret)) },
	} {
		list = append(list, flaw{name: "an error holds a signature " + name, caughtBy: tells, tells: func(_, secret string, err error) error { return told(secret, err) }})
	}
	for _, name := range []string{
		"GetAuthorizeCodeSession", "GetAccessTokenSession", "GetRefreshTokenSession", "GetPKCERequestSession", "GetOpenIDConnectSession",
		"InvalidateAuthorizeCodeSession", "RotateRefreshToken", "CreateAuthorizeCodeSession", "CreatePKCERequestSession", "CreateOpenIDConnectSession",
		"CreateAccessTokenSession", "CreateRefreshTokenSession", "NewNonce", "IsNonceValid",
	} {
		list = append(list, flaw{name: "an error of " + name + " holds a secret", caughtBy: tells, tells: func(of, secret string, err error) error {
			if of == name {
				return fmt.Errorf("%w: %s", err, secret)
			}
			return err
		}})
	}
	return list
}()

// ownClock is one that does not ask the explicit clock.
func ownClock(func() time.Time) func() time.Time { return time.Now }

// laterBy moves when something expires.
func laterBy(what string, d time.Duration) func(string, time.Time) time.Time {
	return func(of string, at time.Time) time.Time {
		if of == what {
			return at.Add(d)
		}
		return at
	}
}
