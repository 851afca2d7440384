package main

import (
	"maps"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"
)

// tokenSession is what fosite keeps with codes and tokens.
type tokenSession struct {
	*openid.DefaultSession
	Extra map[string]any `json:"extra,omitempty"` // what a consent application wants told of an access token
}

var (
	_ openid.Session            = (*tokenSession)(nil)
	_ fosite.ExtraClaimsSession = (*tokenSession)(nil)
)

// newTokenSession returns the session that fosite fills from what it has stored.
func newTokenSession() *tokenSession {
	return &tokenSession{DefaultSession: &openid.DefaultSession{
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

// Clone implements fosite.Session.
func (s *tokenSession) Clone() fosite.Session {
	if s == nil {
		return nil
	}
	clone := &tokenSession{Extra: maps.Clone(s.Extra)} // whose values nobody changes
	clone.DefaultSession, _ = s.DefaultSession.Clone().(*openid.DefaultSession)
	return clone
}
