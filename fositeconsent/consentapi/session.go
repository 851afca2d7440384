package consentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ory/fosite"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// SessionData is what the application had put into the tokens: objects of JSON, numbers as int64 where they are whole and else as float64.
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
}

// reservedClaims say who issued what to whom, when and for what: nobody but the authorization server says that. RFC 7519, Section 4.1;
// OpenID Connect Core 1.0, Sections 2, 3.1.3.6 and 3.3.2.11; RFC 7662, Section 2.2; RFC 9068, Section 2.2; RFC 8693, Section 4; RFC 7800, Section 3.1; RFC 9396, Section 9.
var reservedClaims = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "rat",
	"auth_time", "nonce", "acr", "amr", "azp", "at_hash", "c_hash", "s_hash", "sid",
	"active", "scope", "scp", "client_id", "username", "token_type", "act", "may_act", "cnf", "authorization_details",
}

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

type useKey struct{}

// use is the answer that a response is being made for.
type use struct {
	storage           RequestStorage
	id                fositeconsent.ID
	verifier, browser Hash
	lapsed            bool // it was given without asking, and that does not hold any more
	done              bool
}

// ApplyData is for [fositeconsent.Config.ApplyData]: it brings what the application had put into the tokens to the session, and
// uses up the answer in the transaction of the response. session.id_token becomes extra claims of the session's ID token claims, and session.access_token
// extra claims of a fosite.ExtraClaimsSession. A session that lacks what the data needs is an error.
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
	// Without it, the request passes by a consent that is remembered, with that one's data.
	if use, ok := ctx.Value(useKey{}).(*use); ok {
		use.done = false // this may be a second attempt
		if use.lapsed {
			return useError(ErrRequestRevoked)
		}
		if err := use.storage.UseConsentRequest(ctx, use.id, use.verifier, use.browser); err != nil {
			return useError(err)
		}
		use.done = true
	}
	if len(d.Session.AccessToken) == 0 && len(d.Session.IDToken) == 0 {
		return nil
	}
	return apply(ctx, ar, d.Session)
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
		for name, value := range s.IDToken {
			claims.Add(name, value)
		}
	}
	if len(s.AccessToken) > 0 {
		extra, ok := session.(fosite.ExtraClaimsSession)
		if !ok || extra.GetExtraClaims() == nil {
			return fmt.Errorf("%w: the application set data of the access token, and the session (%T) is no fosite.ExtraClaimsSession: add GetExtraClaims to it, or use consentapi.ApplyDataWith", fositeconsent.ErrMisconfigured, session)
		}
		claims := extra.GetExtraClaims()
		for name, value := range s.AccessToken {
			claims[name] = value
		}
	}
	return nil
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
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	var err error
	d.Version = raw.Version
	if d.Session.AccessToken, err = object(raw.Session.AccessToken); err != nil {
		return err
	}
	if d.Session.IDToken, err = object(raw.Session.IDToken); err != nil {
		return err
	}
	d.Context, err = value(raw.Context)
	return err
}
