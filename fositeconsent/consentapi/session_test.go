package consentapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// claimless is a session with a place for claims of access tokens, and nothing there.
type claimless struct{ *openid.DefaultSession }

func (claimless) GetExtraClaims() map[string]any { return nil }

func TestDataIsRefusedByWhatCannotTakeIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		session fosite.Session
		data    string
		want    error
	}{
		"no JSON":                         {openid.NewDefaultSession(), `{`, fositeconsent.ErrMisconfigured},
		"data of the host's own pages":    {openid.NewDefaultSession(), `{"session":{"id_token":{"email":"a"}}}`, fositeconsent.ErrMisconfigured},
		"data of another version":         {openid.NewDefaultSession(), `{"consentapi":2,"session":{"id_token":{"email":"a"}}}`, fositeconsent.ErrMisconfigured},
		"a reserved claim that is stored": {openid.NewDefaultSession(), `{"consentapi":1,"session":{"id_token":{"sub":"mallory"}}}`, fositeconsent.ErrStorage},
		"no ID token":                     {&fosite.DefaultSession{}, `{"consentapi":1,"session":{"id_token":{"email":"a"}}}`, fositeconsent.ErrMisconfigured},
		"no extra claims":                 {openid.NewDefaultSession(), `{"consentapi":1,"session":{"access_token":{"tier":"gold"}}}`, fositeconsent.ErrMisconfigured},
		"extra claims that are nil":       {claimless{openid.NewDefaultSession()}, `{"consentapi":1,"session":{"access_token":{"tier":"gold"}}}`, fositeconsent.ErrMisconfigured},
		"extra claims that are a copy":    {copying{openid.NewDefaultSession()}, `{"consentapi":1,"session":{"access_token":{"tier":"gold"}}}`, fositeconsent.ErrMisconfigured},
		"JWT claims of another kind":      {unsigned{signed{&oauth2.JWTSession{}, map[string]any{}}, &ownClaims{}}, `{"consentapi":1,"session":{"access_token":{"tier":"gold"}}}`, fositeconsent.ErrMisconfigured},
		"JWT claims that are made anew":   {afresh{signed{&oauth2.JWTSession{}, map[string]any{}}}, `{"consentapi":1,"session":{"access_token":{"tier":"gold"}}}`, fositeconsent.ErrMisconfigured},
		"JWT claims that are nil":         {unsigned{signed{&oauth2.JWTSession{}, map[string]any{}}, (*jwt.JWTClaims)(nil)}, `{"consentapi":1,"session":{"access_token":{"tier":"gold"}}}`, fositeconsent.ErrMisconfigured},
		"what the host says otherwise, in the ID token": {
			&openid.DefaultSession{Claims: &jwt.IDTokenClaims{Extra: map[string]any{"tenant": "acme"}}}, `{"consentapi":1,"session":{"id_token":{"tenant":"evil"}}}`, fositeconsent.ErrMisconfigured,
		},
		"what the host says otherwise, in the access token": {
			signed{&oauth2.JWTSession{}, map[string]any{"tenant": "acme"}}, `{"consentapi":1,"session":{"access_token":{"tenant":"evil"}}}`, fositeconsent.ErrMisconfigured,
		},
		"what the host says otherwise, in the JWT": {
			&oauth2.JWTSession{JWTClaims: &jwt.JWTClaims{Extra: map[string]any{"tenant": "acme"}}}, `{"consentapi":1,"session":{"access_token":{"tenant":"evil"}}}`, fositeconsent.ErrMisconfigured,
		},
		"what the host says, too": {
			&openid.DefaultSession{Claims: &jwt.IDTokenClaims{Extra: map[string]any{"tenants": []string{"acme"}, "floor": 7, "address": map[string]string{"b": "2", "a": "1"}}}},
			`{"consentapi":1,"session":{"id_token":{"tenants":["acme"],"floor":7,"address":{"a":"1","b":"2"}}}}`, nil,
		},
		"nothing to take": {&fosite.DefaultSession{}, `{"consentapi":1,"session":{"id_token":{}},"context":{"a":1}}`, nil},
	} {
		ar := fosite.NewAuthorizeRequest()
		ar.SetSession(c.session)
		if err := ApplyData(answered(t), ar, []byte(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// copying is a session that does not keep what is put into its claims.
type copying struct{ *openid.DefaultSession }

func (copying) GetExtraClaims() map[string]any { return map[string]any{} }

// signed is a session of one's own for JWT access tokens, with claims that are told at introspection.
type signed struct {
	*oauth2.JWTSession
	extra map[string]any
}

func (s signed) GetExtraClaims() map[string]any { return s.extra }

// unsigned has JWT claims of one's own.
type unsigned struct {
	signed
	claims jwt.JWTClaimsContainer
}

func (s unsigned) GetJWTClaims() jwt.JWTClaimsContainer { return s.claims }

// afresh makes its JWT claims whenever it is asked.
type afresh struct{ signed }

func (afresh) GetJWTClaims() jwt.JWTClaimsContainer { return &jwt.JWTClaims{} }

// ownClaims are none of fosite's.
type ownClaims struct{ jwt.JWTClaims }

// answered is the context of a response to an answer.
func answered(t *testing.T) context.Context {
	return context.WithValue(t.Context(), useKey{}, &use{storage: fails{}})
}

func TestDataReachesJWTAccessTokens(t *testing.T) {
	t.Parallel()
	own := signed{&oauth2.JWTSession{}, map[string]any{}}
	for name, session := range map[string]fosite.Session{
		"fosite's session": &oauth2.JWTSession{}, "one of a host's own": own,
		"one with claims": &oauth2.JWTSession{JWTClaims: &jwt.JWTClaims{Extra: map[string]any{"region": "north"}}},
	} {
		session.SetExpiresAt(fosite.AccessToken, time.Now().Add(time.Hour))
		ar := fosite.NewAuthorizeRequest()
		ar.SetSession(session)
		if err := ApplyData(answered(t), ar, []byte(`{"consentapi":1,"session":{"access_token":{"readonly":true,"account":9007199254740993}}}`)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		strategy := &oauth2.DefaultJWTStrategy{Config: &fosite.Config{AccessTokenIssuer: "https://as.example"}, Signer: &jwt.DefaultSigner{
			GetPrivateKey: func(context.Context) (any, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		}}
		token, _, err := strategy.GenerateAccessToken(t.Context(), ar)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil || !strings.Contains(string(claims), `"readonly":true`) || !strings.Contains(string(claims), `"account":9007199254740993`) {
			t.Errorf("%s: the token says %s, %v", name, claims, err)
		}
	}
	if own.extra["readonly"] != true {
		t.Errorf("introspection is told %v", own.extra)
	}
}

// fails is a storage whose uses fail, if there is an error.
type fails struct {
	RequestStorage
	err error
}

func (f fails) UseConsentRequest(context.Context, fositeconsent.ID, Hash, Hash) error { return f.err }

func TestAUseThatFailsHasTheGatesNameForIt(t *testing.T) {
	t.Parallel()
	unknown := errors.New("connection refused")
	for _, c := range []struct{ err, want error }{
		{ErrRequestNotFound, fositeconsent.ErrGrantNotFound},
		{ErrRequestUsed, fositeconsent.ErrAlreadyDecided},
		{ErrRequestRevoked, fositeconsent.ErrGrantRevoked},
		{ErrRequestExpired, fositeconsent.ErrGrantExpired},
		{unknown, fositeconsent.ErrStorage},
		{context.Canceled, fositeconsent.ErrStorage},
	} {
		use := &use{storage: fails{err: c.err}, done: true}
		ar := fosite.NewAuthorizeRequest()
		ar.SetSession(openid.NewDefaultSession())
		err := ApplyData(context.WithValue(t.Context(), useKey{}, use), ar, []byte(`{"consentapi":1,"session":{"id_token":{"email":"a"}}}`))
		if !errors.Is(err, c.want) || !errors.Is(err, c.err) || errors.Is(err, fositeconsent.ErrStorage) != errors.Is(c.want, fositeconsent.ErrStorage) || use.done {
			t.Errorf("%v: %v, done %v", c.err, err, use.done)
		}
		if s, _ := ar.GetSession().(*openid.DefaultSession); len(s.IDTokenClaims().Extra) > 0 {
			t.Errorf("%v: the session has %v", c.err, s.IDTokenClaims().Extra)
		}
	}
}
