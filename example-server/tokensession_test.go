package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"
)

// fullSession has every field set: one that fosite adds must not get lost.
func fullSession(t *testing.T) *tokenSession {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	s := &tokenSession{Extra: map[string]any{"department": "sales"}, DefaultSession: openid.DefaultSession{
		Claims: &jwt.IDTokenClaims{
			JTI: "jti", Issuer: "iss", Subject: "sub", Audience: []string{"aud"}, Nonce: "nonce", ExpiresAt: at, IssuedAt: at.Add(1),
			RequestedAt: at.Add(2), AuthTime: at.Add(3), AccessTokenHash: "at_hash", AuthenticationContextClassReference: "acr",
			AuthenticationMethodsReferences: []string{"amr"}, CodeHash: "c_hash", Extra: map[string]any{"name": "Alice", "": ""},
		},
		Headers:   &jwt.Headers{Extra: map[string]any{"kid": "key"}},
		ExpiresAt: map[fosite.TokenType]time.Time{fosite.AccessToken: at.Add(4)},
		Username:  "username", Subject: "subject",
	}}
	for _, part := range []any{*s, s.DefaultSession, *s.Claims, *s.Headers} {
		for v, i := reflect.ValueOf(part), 0; i < v.NumField(); i++ {
			if v.Field(i).IsZero() {
				t.Fatalf("%s.%s is not set here", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
	return s
}

// fositesSession stores fosite's session as fosite does.
type fositesSession struct {
	openid.DefaultSession
	Extra map[string]any `json:"extra,omitempty"`
}

func TestTokenSessionIsStoredAsFositesIs(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*tokenSession{"full": fullSession(t), "new": newTokenSession()} {
		fosites := fositesSession(*s)
		short, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		long, err := json.Marshal(&fosites)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{short, long} {
			ours := newTokenSession()
			if err := json.Unmarshal(text, ours); err != nil || !reflect.DeepEqual(ours, s) {
				t.Errorf("%s, %s: read as %+v, %v", name, text, ours, err)
			}
			theirs := fositesSession(*newTokenSession())
			if err := json.Unmarshal(text, &theirs); err != nil || !reflect.DeepEqual(theirs, fosites) {
				t.Errorf("%s, %s: fosite's reads %+v, %v", name, text, theirs, err)
			}
		}
		if name == "new" && strings.Contains(string(short), "0001") {
			t.Errorf("what is not set is stored: %s", short)
		}
	}
}

func TestTokenSessionSharesNothingWithItsClone(t *testing.T) {
	t.Parallel()
	s := fullSession(t)
	c, ok := s.Clone().(*tokenSession)
	if !ok || !reflect.DeepEqual(c, s) {
		t.Fatalf("the clone is %+v", c)
	}
	c.Username, c.Subject, c.Claims.Nonce = "another", "another", "another"
	c.Extra["department"] = "another"
	c.Claims.Audience[0], c.Claims.AuthenticationMethodsReferences[0], c.Claims.Extra["name"] = "another", "another", "another"
	c.Headers.Extra["kid"] = "another"
	c.SetExpiresAt(fosite.AccessToken, time.Time{})
	if !reflect.DeepEqual(s, fullSession(t)) {
		t.Errorf("a change of the clone changed it: %+v, %+v", s, s.Claims)
	}
	if empty, ok := new(tokenSession).Clone().(*tokenSession); !ok || !reflect.DeepEqual(empty, new(tokenSession)) {
		t.Errorf("the clone of an empty one is %+v", empty)
	}
}
