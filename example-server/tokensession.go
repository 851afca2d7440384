package main

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"
)

// tokenSession is what is stored with every code and token: fosite's own session, some 150 bytes shorter, since what is
// not set is left out. It reads what fosite's writes, and is read by it. It is read into a new one: what is left out
// leaves alone what is there.
type tokenSession struct {
	openid.DefaultSession
	Extra map[string]any `json:"extra,omitempty"` // what a consent application wants told of an access token
}

var (
	_ openid.Session            = (*tokenSession)(nil)
	_ fosite.ExtraClaimsSession = (*tokenSession)(nil)
)

// newTokenSession returns the session that fosite fills from what it has stored.
func newTokenSession() *tokenSession {
	return &tokenSession{DefaultSession: openid.DefaultSession{
		Claims:  &jwt.IDTokenClaims{},
		Headers: &jwt.Headers{},
	}}
}

// GetExtraClaims implements fosite.ExtraClaimsSession.
func (s *tokenSession) GetExtraClaims() map[string]any {
	if s.Extra == nil {
		s.Extra = map[string]any{}
	}
	return s.Extra
}

// Clone implements fosite.Session, without the reflection by which fosite's own copies.
func (s *tokenSession) Clone() fosite.Session {
	if s == nil {
		return nil
	}
	c := *s
	c.Extra = maps.Clone(s.Extra) // its values are set as a whole
	c.ExpiresAt = maps.Clone(s.ExpiresAt)
	if s.Claims != nil {
		claims := *s.Claims
		claims.Audience, claims.AuthenticationMethodsReferences = slices.Clone(claims.Audience), slices.Clone(claims.AuthenticationMethodsReferences)
		claims.Extra = maps.Clone(claims.Extra)
		c.Claims = &claims
	}
	if s.Headers != nil {
		c.Headers = &jwt.Headers{Extra: maps.Clone(s.Headers.Extra)}
	}
	return &c
}

// MarshalJSON implements json.Marshaler.
func (s *tokenSession) MarshalJSON() ([]byte, error) {
	return json.Marshal(storedTokenSession{(*storedClaims)(s.Claims), (*storedHeaders)(s.Headers), s.ExpiresAt, s.Username, s.Subject, s.Extra})
}

// storedTokenSession and its parts have the names of fosite's.
type storedTokenSession struct {
	Claims    *storedClaims                  `json:"id_token_claims,omitempty"`
	Headers   *storedHeaders                 `json:"headers,omitzero"`
	ExpiresAt map[fosite.TokenType]time.Time `json:"expires_at,omitempty"`
	Username  string                         `json:"username,omitempty"`
	Subject   string                         `json:"subject,omitempty"`
	Extra     map[string]any                 `json:"extra,omitempty"`
}

type storedHeaders struct {
	Extra map[string]any `json:"extra,omitempty"`
}

// IsZero is what omitzero asks.
func (h *storedHeaders) IsZero() bool { return h == nil || len(h.Extra) == 0 }

type storedClaims struct {
	JTI                                 string         `json:"jti,omitempty"`
	Issuer                              string         `json:"iss,omitempty"`
	Subject                             string         `json:"sub,omitempty"`
	Audience                            []string       `json:"aud,omitempty"`
	Nonce                               string         `json:"nonce,omitempty"`
	ExpiresAt                           time.Time      `json:"exp,omitzero"`
	IssuedAt                            time.Time      `json:"iat,omitzero"`
	RequestedAt                         time.Time      `json:"rat,omitzero"`
	AuthTime                            time.Time      `json:"auth_time,omitzero"`
	AccessTokenHash                     string         `json:"at_hash,omitempty"`
	AuthenticationContextClassReference string         `json:"acr,omitempty"`
	AuthenticationMethodsReferences     []string       `json:"amr,omitempty"`
	CodeHash                            string         `json:"c_hash,omitempty"`
	Extra                               map[string]any `json:"ext,omitempty"`
}
