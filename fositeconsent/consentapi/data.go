package consentapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"

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
	return digestOf("session-data", sorted(scopes), sorted(audience), []string{further})
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

// digestOf is of the lists as Go quotes them: no two are the same text.
func digestOf(domain string, lists ...[]string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "fosite-consent/%s\x00%q", domain, lists))
	return hex.EncodeToString(sum[:])
}

// sorted returns the texts, each once.
func sorted(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

// passes refuses a request that would get what the application has put into the tokens of another one. It can be asked about all but
// those with prompt=none ([API.Authorize]).
func (d *data) passes(ar fosite.AuthorizeRequester) error {
	if d.For != madeFor(ar.GetGrantedScopes(), ar.GetGrantedAudience(), furtherOf(ar.GetRequestForm())) {
		return fmt.Errorf("%w: what the application has put into the tokens was for another request", fositeconsent.ErrConsentRequired)
	}
	return nil
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
