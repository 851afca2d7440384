package consentapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// SessionData is what the application had put into the tokens: objects of JSON, whole numbers of 64 bits that are written without an exponent as int64 or uint64, and others as float64.
type SessionData struct {
	// AccessToken is for the access token and what is told of it at introspection.
	AccessToken map[string]any `json:"access_token,omitempty"`
	// IDToken are claims of the ID token.
	IDToken map[string]any `json:"id_token,omitempty"`
}

// dataVersion is that of the form of [fositeconsent.Decision.Data].
const dataVersion = 1

// data is the form of [fositeconsent.Decision.Data].
type data struct {
	Version int         `json:"consentapi"`
	Session SessionData `json:"session"`
	Context any         `json:"context,omitempty"`

	// For is a digest of what the session data was made for; "" without any. What it would say for something else, only the
	// application knows.
	For string `json:"for,omitempty"`
}

// reservedClaims say who issued what to whom, when and for what: nobody but the authorization server says that. RFC 7519, Section 4.1;
// OpenID Connect Core 1.0, Sections 2, 3.1.3.6 and 3.3.2.11; RFC 7662, Section 2.2; RFC 9068, Section 2.2; RFC 8693, Section 4; RFC 7800, Section 3.1; RFC 9396, Section 9.
var reservedClaims = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "rat",
	"auth_time", "nonce", "acr", "amr", "azp", "at_hash", "c_hash", "s_hash", "sid",
	"active", "scope", "scp", "client_id", "username", "token_type", "act", "may_act", "cnf", "authorization_details",
}

func (s *SessionData) isEmpty() bool { return len(s.AccessToken)+len(s.IDToken) == 0 }

// check refuses what only the authorization server says.
func (s *SessionData) check() error {
	for _, part := range []struct {
		name   string
		claims map[string]any
	}{{"access_token", s.AccessToken}, {"id_token", s.IDToken}} {
		for claim := range part.claims {
			// Without regard to case as decoders of JSON do it: for Go's, "ſub" and "toKen_type" with a Kelvin sign are these names, too.
			if slices.ContainsFunc(reservedClaims, func(reserved string) bool { return strings.EqualFold(claim, reserved) }) {
				return fmt.Errorf("session.%s has the claim %q, which the authorization server sets", part.name, claim)
			}
		}
	}
	return nil
}

// madeFor digests what session data is made for: what is granted, and what else is asked for with it.
func madeFor(scopes, audience []string, further string) string {
	return digestOf("session-data", []any{sorted(scopes), sorted(audience), further})
}

// furtherOf digests what else is asked for that a consent for more of it may cover (RFC 9396; OpenID Connect Core 1.0, Section 5.5; RFC 8707).
func furtherOf(form url.Values) string {
	var list []string
	for _, name := range []string{"authorization_details", "claims", "resource"} {
		for _, value := range form[name] {
			list = append(list, name+"="+value)
		}
	}
	return digestOf("further-parameters", sorted(list))
}

func digestOf(domain string, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of texts there is none
	}
	sum := sha256.Sum256(append([]byte("fosite-consent/"+domain+"\x00"), text...))
	return hex.EncodeToString(sum[:])
}

// sorted returns the texts, each once.
func sorted(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

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

// passes refuses a request that would get what the application has put into the tokens of another one. It can be asked about all but
// those with prompt=none ([API.Authorize]).
func (d *data) passes(ar fosite.AuthorizeRequester) error {
	if d.For != madeFor(ar.GetGrantedScopes(), ar.GetGrantedAudience(), furtherOf(ar.GetRequestForm())) {
		return fmt.Errorf("%w: what the application has put into the tokens was for another request", fositeconsent.ErrConsentRequired)
	}
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

// parseData reads what an answer had put into the decision.
func parseData(text []byte) (*data, error) {
	var d data
	if err := unmarshalNumbers(text, &d); err != nil || d.Version != dataVersion {
		return nil, fmt.Errorf("%w: the decision's data is not of the consent API", fositeconsent.ErrMisconfigured)
	}
	if err := d.Session.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", fositeconsent.ErrStorage, err)
	}
	return &d, nil
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

// unmarshalNumbers is json.Unmarshal for what goes on into tokens. Large whole numbers are kept, and numbers are of a type that the JSON
// encoders of JWT libraries know.
func unmarshalNumbers(text []byte, d *data) error {
	var raw struct {
		Version int `json:"consentapi"`
		Session struct {
			AccessToken json.RawMessage `json:"access_token"`
			IDToken     json.RawMessage `json:"id_token"`
		} `json:"session"`
		Context json.RawMessage `json:"context"`
		For     string          `json:"for"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	var err error
	d.Version, d.For = raw.Version, raw.For
	if d.Session.AccessToken, err = object(raw.Session.AccessToken); err != nil {
		return err
	}
	if d.Session.IDToken, err = object(raw.Session.IDToken); err != nil {
		return err
	}
	d.Context, err = value(raw.Context)
	return err
}
