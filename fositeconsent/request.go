package fositeconsent

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/token/jwt"
)

// request is what the gate knows of one authorization request in one login.
type request struct {
	fosite.AuthorizeRequester
	session      fosite.Session
	subject      string
	loginSession *string
	silent       bool // prompt=none
	binding      Digest
	client       fosite.Client // as it is registered now, nil if it was not looked up
}

// inspect reads a request as every step of a flow does: on the page, at the
// decision and before the response. Its errors are reasons.
func (g *Gate) inspect(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) (request, error) {
	if isNil(ar) || isNil(ar.GetClient()) || ar.GetClient().GetID() == "" || ar.GetRedirectURI() == nil || len(ar.GetResponseTypes()) == 0 {
		return request{}, fmt.Errorf("%w: it has no client, no redirect URI or no response type: pass only what NewAuthorizeRequest returned without an error", ErrInvalidRequest)
	}
	r := request{AuthorizeRequester: ar, session: session}
	if !isNil(session) {
		r.subject = session.GetSubject()
	}
	// First of all, since it decides what the client is told of everything below.
	prompts := prompts(ar)
	r.silent = slices.Contains(prompts, "none")
	if err := checkParameters(ar.GetRequestForm()); err != nil {
		return r, fmt.Errorf("%w: %w", ErrInvalidRequest, err)
	}
	if r.silent && len(prompts) > 1 { // OpenID Connect Core 1.0, Section 3.1.2.1
		return r, fmt.Errorf("%w: prompt=none was combined with another value", ErrInvalidRequest)
	}
	if r.subject == "" {
		return r, fmt.Errorf("%w: the session has no subject", ErrLoginRequired)
	}
	if err := g.checkSubject(ctx, r); err != nil {
		return r, err
	}
	if err := checkLogin(r, slices.Contains(prompts, "login"), g.now()); err != nil {
		return r, err
	}
	if g.config.LoginSession != nil {
		id, err := g.config.LoginSession(ctx, session)
		if err != nil {
			return r, fmt.Errorf("fositeconsent: Config.LoginSession: %w", err)
		}
		if id == "" {
			return r, fmt.Errorf("%w: Config.LoginSession returned no id for a session with a subject", ErrMisconfigured)
		}
		r.loginSession = &id
	}
	r.binding = g.bind(r)
	return r, nil
}

// prompts returns the values of the parameter prompt.
func prompts(ar fosite.AuthorizeRequester) []string {
	return fosite.RemoveEmpty(strings.Split(ar.GetRequestForm().Get("prompt"), " "))
}

// bind computes the binding of a request as it is now.
func (g *Gate) bind(r request) Digest {
	return bindingInput{
		issuer: g.config.Issuer, subject: r.subject, loginSession: r.loginSession, unbound: g.config.UnboundParameters,
	}.digest(r.AuthorizeRequester)
}

// isNil reports whether v is nil or holds a nil pointer.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	rv := reflect.ValueOf(v)
	return rv.Kind() == reflect.Pointer && rv.IsNil()
}

// openIDSession is what an OpenID Connect session of fosite has, without its package.
type openIDSession interface{ IDTokenClaims() *jwt.IDTokenClaims }

// jwtSession is what a session for fosite's JWT access tokens has.
type jwtSession interface {
	GetJWTClaims() jwt.JWTClaimsContainer
}

// checkSubject compares the subjects that tokens will carry with the one who
// decides. fosite keeps up to three and compares none of them.
func (g *Gate) checkSubject(ctx context.Context, r request) error {
	if r.session.GetSubject() != r.subject {
		return fmt.Errorf("%w: the session's subject was changed after the consent had been checked", ErrMisconfigured)
	}
	expected := r.subject
	if g.config.TokenSubject != nil {
		var err error
		if expected, err = g.config.TokenSubject(ctx, r.AuthorizeRequester, r.subject); err != nil {
			return fmt.Errorf("fositeconsent: Config.TokenSubject: %w", err)
		}
		if expected == "" {
			return fmt.Errorf("%w: Config.TokenSubject returned no subject", ErrMisconfigured)
		}
	}
	if s, ok := r.session.(openIDSession); ok {
		var subject string
		if claims := s.IDTokenClaims(); claims != nil {
			subject = claims.Subject
		}
		// Without the scope openid there is no ID token, and the claims may stay empty.
		if subject != expected && (subject != "" || slices.ContainsFunc(r.GetRequestedScopes(), isOpenID)) {
			return fmt.Errorf("%w: the session's ID token claims have another subject than the session: set both to the resource owner, or set Config.TokenSubject for pairwise subjects", ErrMisconfigured)
		}
	}
	if s, ok := r.session.(jwtSession); ok {
		if claims := s.GetJWTClaims(); !isNil(claims) {
			if subject, ok := claims.ToMapClaims()["sub"]; ok && subject != expected {
				return fmt.Errorf("%w: the session's JWT claims have another subject than the session: set both to the resource owner, or set Config.TokenSubject for pairwise subjects", ErrMisconfigured)
			}
		}
	}
	return nil
}

// authTimeLeeway is how far another node's clock may be ahead; the same that fosite allows.
const authTimeLeeway = 5 * time.Second

// checkLogin compares the login with what the request demands of it, prompt=login
// and max_age (OpenID Connect Core 1.0, Section 3.1.2.1), as of now. fosite does so
// for openid alone and after codes have been stored; it compares max_age with the
// time the request came in, and ignores 0 and what is no number.
func checkLogin(r request, again bool, now time.Time) error {
	var authTime, requestedAt time.Time
	if s, ok := r.session.(openIDSession); ok {
		if claims := s.IDTokenClaims(); claims != nil {
			authTime, requestedAt = claims.AuthTime, claims.RequestedAt
		}
	}
	if again && authTime.Before(requestedAt) {
		return fmt.Errorf("%w: prompt=login asks for a login after the request came in", ErrLoginRequired)
	}
	maxAge := r.GetRequestForm().Get("max_age")
	if maxAge == "" { // as if it were absent: RFC 6749, Section 3.1
		return nil
	}
	seconds, err := strconv.ParseUint(maxAge, 10, 31)
	if err != nil {
		return fmt.Errorf("%w: max_age is no whole number of seconds", ErrInvalidRequest)
	}
	if authTime.IsZero() {
		return fmt.Errorf("%w: max_age was requested and the session (%T) does not say when the resource owner signed in: set AuthTime in its ID token claims", ErrMisconfigured, r.session)
	}
	if authTime.After(now.Add(authTimeLeeway)) {
		return fmt.Errorf("%w: the session's AuthTime is in the future", ErrLoginRequired)
	}
	if seconds == 0 {
		// It asks for a new login, as prompt=login does. Any age above zero would
		// exceed it, so what counts is that the login was made for this request.
		if requestedAt.IsZero() || authTime.Before(requestedAt) {
			return fmt.Errorf("%w: max_age=0 asks for a login after the request came in: set RequestedAt and AuthTime in the session's ID token claims", ErrLoginRequired)
		}
		return nil
	}
	if now.Sub(authTime) > time.Duration(seconds)*time.Second {
		return fmt.Errorf("%w: the login is older than max_age", ErrLoginRequired)
	}
	return nil
}

// isOpenID reports whether fosite takes the scope for openid: it compares scopes
// in lower case, which is not what strings.EqualFold does.
func isOpenID(scope string) bool { return strings.ToLower(scope) == "openid" }
