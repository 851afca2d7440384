package consentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ory/fosite"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

type useKey struct{}

// use is the answer that a response is being made for.
type use struct {
	storage           RequestStorage
	id                fositeconsent.ID
	verifier, browser Hash
	done              bool
}

// ApplyData is for [fositeconsent.Config.ApplyData]: it brings what the application had put into the tokens to the session, and
// uses up the answer in the transaction of the response. session.id_token becomes extra claims of the session's ID token claims, and session.access_token
// extra claims of a fosite.ExtraClaimsSession, and of its JWT claims if it has those of fosite's oauth2.JWTSession. A session that lacks what the data needs, or says something else under the
// same name, is an error. Where a request passes without an answer, by a consent that is remembered, the data of that is for the very same
// request only, and [fositeconsent.ErrConsentRequired] for another.
func ApplyData(ctx context.Context, ar fosite.AuthorizeRequester, data []byte) error {
	return applyDataWith(ctx, ar, data, applyToSession)
}

// ApplyDataWith is [ApplyData] for sessions of the host's own kind: apply is told of the data that there is, to put it into ar.GetSession(). It
// may change neither the session's subjects nor what is granted. An error refuses.
func ApplyDataWith(apply func(context.Context, fosite.AuthorizeRequester, SessionData) error) func(context.Context, fosite.AuthorizeRequester, []byte) error {
	return func(ctx context.Context, ar fosite.AuthorizeRequester, data []byte) error {
		return applyDataWith(ctx, ar, data, apply)
	}
}

func applyDataWith(ctx context.Context, ar fosite.AuthorizeRequester, text []byte, apply func(context.Context, fosite.AuthorizeRequester, SessionData) error) error {
	d, err := parseData(text)
	if err != nil {
		return err
	}
	if use, ok := ctx.Value(useKey{}).(*use); ok {
		err = use.up(ctx)
	} else if !d.Session.isEmpty() { // the request passes by a consent that is remembered, with that one's data
		err = d.passes(ar)
	}
	if err != nil || d.Session.isEmpty() {
		return err
	}
	return apply(ctx, ar, d.Session)
}

// up uses the answer up.
func (u *use) up(ctx context.Context) error {
	u.done = false // this may be a second attempt
	if err := u.storage.UseConsentRequest(ctx, u.id, u.verifier, u.browser); err != nil {
		return useError(err)
	}
	u.done = true
	return nil
}

// useError adds the gate's name for the reason, by which [fositeconsent.NeedsConsent] knows that the way on is to ask again. What is
// none of the reasons remains as it is: of the mint, perhaps, which a storage sends with this.
func useError(err error) error {
	for _, reason := range []struct{ ours, gates error }{
		{ErrRequestNotFound, fositeconsent.ErrGrantNotFound},
		{ErrRequestUsed, fositeconsent.ErrAlreadyDecided},
		{ErrRequestRevoked, fositeconsent.ErrGrantRevoked},
		{ErrRequestExpired, fositeconsent.ErrGrantExpired},
	} {
		if errors.Is(err, reason.ours) {
			return fmt.Errorf("%w: %w", reason.gates, reason.ours)
		}
	}
	return fmt.Errorf("%w: use the consent request: %w", fositeconsent.ErrStorage, err)
}

func applyToSession(_ context.Context, ar fosite.AuthorizeRequester, s SessionData) error {
	session := ar.GetSession()
	if len(s.IDToken) > 0 {
		oidc, ok := session.(interface{ IDTokenClaims() *jwt.IDTokenClaims })
		if !ok || oidc.IDTokenClaims() == nil {
			return fmt.Errorf("%w: the application set claims of the ID token, and the session (%T) has none: use an OpenID Connect session, or consentapi.ApplyDataWith", fositeconsent.ErrMisconfigured, session)
		}
		claims := oidc.IDTokenClaims()
		if claims.Extra == nil {
			claims.Extra = map[string]any{}
		}
		if err := add("session.id_token", s.IDToken, claims.Extra); err != nil {
			return err
		}
	}
	if len(s.AccessToken) == 0 {
		return nil
	}
	extra, ok := session.(fosite.ExtraClaimsSession)
	if !ok || extra.GetExtraClaims() == nil {
		return fmt.Errorf("%w: the application set data of the access token, and the session (%T) is no fosite.ExtraClaimsSession: add GetExtraClaims to it, or use consentapi.ApplyDataWith", fositeconsent.ErrMisconfigured, session)
	}
	// What JWT access tokens are made of (fosite's oauth2.JWTSessionContainer).
	if signed, ok := session.(interface{ GetJWTClaims() jwt.JWTClaimsContainer }); ok {
		claims, ok := signed.GetJWTClaims().(*jwt.JWTClaims)
		if !ok || claims == nil {
			return fmt.Errorf("%w: the application set data of the access token, and the JWT claims of the session (%T) are no *jwt.JWTClaims: use those, or consentapi.ApplyDataWith", fositeconsent.ErrMisconfigured, session)
		}
		if claims.Extra == nil {
			claims.Extra = map[string]any{}
		}
		if err := add("session.access_token", s.AccessToken, claims.Extra); err != nil {
			return err
		}
		if again, _ := signed.GetJWTClaims().(*jwt.JWTClaims); again == nil || !keeps(again.Extra, s.AccessToken) {
			return fmt.Errorf("%w: the application set data of the access token, and the session (%T) does not keep what is put into its GetJWTClaims: return those that it keeps, or use consentapi.ApplyDataWith", fositeconsent.ErrMisconfigured, session)
		}
	}
	if err := add("session.access_token", s.AccessToken, extra.GetExtraClaims()); err != nil {
		return err
	}
	if !keeps(extra.GetExtraClaims(), s.AccessToken) {
		return fmt.Errorf("%w: the application set data of the access token, and the session (%T) does not keep what is put into its GetExtraClaims: return the map itself, or use consentapi.ApplyDataWith", fositeconsent.ErrMisconfigured, session)
	}
	return nil
}

// keeps reports whether the claims are where they were put: that may have been a copy.
func keeps(claims, said map[string]any) bool {
	for name := range said {
		if _, ok := claims[name]; !ok {
			return false
		}
	}
	return true
}

// add adds what the application has said of a token to what the host says. They do not contradict each other.
func add(part string, said, claims map[string]any) error {
	for name, value := range said {
		if host, ok := claims[name]; ok && !sameJSON(host, value) {
			return fmt.Errorf("%w: the application's %s has the claim %q, which the host's session has with another value", fositeconsent.ErrMisconfigured, part, name)
		}
		claims[name] = value
	}
	return nil
}

// sameJSON reports whether two values are the same in a token.
func sameJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
