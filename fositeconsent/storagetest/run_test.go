package storagetest

import (
	"slices"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent/internal/flawtest"
)

// coreOnly has none of the parts.
type coreOnly struct{ Storage }

func (s coreOnly) reference() *reference { return s.Storage.(*reference) }

// withoutTransactions has all of the parts but one.
type withoutTransactions struct {
	Storage
	pkceStorage
	openIDStorage
	fosite.PARStorage
	jwtBearerStorage
	nonceStorage
}

func (s withoutTransactions) reference() *reference { return s.Storage.(*reference) }

// config returns how a storage with a flaw is tested.
func (f flaw) config() Config {
	newSession := func() fosite.Session { return new(fosite.DefaultSession) }
	return Config{
		New: func(_ testing.TB, o Options) Storage {
			s := newReference(f, newSession, o)
			switch {
			case slices.Contains(f.without, PKCE):
				return coreOnly{s}
			case slices.Contains(f.without, Transactions):
				return withoutTransactions{s, s, s, s, s, s}
			}
			return s
		},
		AddClient: addToReference,
		Without:   f.without,
	}
}

func TestReferenceKeepsTheContract(t *testing.T) {
	t.Parallel()
	Run(t, flaw{}.config())
}

func TestReferenceKeepsTheContractForOpenIDConnectSessions(t *testing.T) {
	t.Parallel()
	newSession := func() fosite.Session { return new(openid.DefaultSession) }
	Run(t, Config{
		New:         func(_ testing.TB, o Options) Storage { return newReference(flaw{}, newSession, o) },
		AddClient:   addToReference,
		NewSession:  newSession,
		FillSession: fillOpenIDSession,
	})
}

func fillOpenIDSession(session fosite.Session, subject string) {
	s, ok := session.(*openid.DefaultSession)
	if !ok {
		panic("not an OpenID Connect session")
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	s.Subject, s.Username = subject, "user of "+subject
	s.Claims = &jwt.IDTokenClaims{
		JTI: "jti", Issuer: "https://as.example", Subject: subject, Audience: []string{"b", "a"}, Nonce: "nonce",
		ExpiresAt: at.Add(time.Hour), IssuedAt: at, RequestedAt: at.Add(time.Second), AuthTime: at.Add(time.Minute),
		AccessTokenHash: "at_hash", AuthenticationContextClassReference: "acr", AuthenticationMethodsReferences: []string{"pwd", "otp"},
		CodeHash: "c_hash", Extra: map[string]any{"email": "a@example", "address": map[string]any{"country": "東京"}, "account": int64(1)<<53 + 1},
	}
	s.Headers = &jwt.Headers{Extra: map[string]any{"kid": "key 1"}}
}

// TestRunRefusesWrongConfigurations: nothing may be left out by accident.
func TestRunRefusesWrongConfigurations(t *testing.T) {
	right := flaw{}.config()
	core := flaw{without: []Part{PKCE, OpenIDConnect, PAR, JWTBearer, Nonces, Transactions}}.config()
	configs := map[string]func() Config{
		"no storage":               func() Config { return Config{AddClient: addToReference} },
		"nil storage":              func() Config { c := right; c.New = func(testing.TB, Options) Storage { return nil }; return c },
		"no AddClient":             func() Config { c := right; c.AddClient = nil; return c },
		"half of a session":        func() Config { c := right; c.FillSession = fillOpenIDSession; return c },
		"the other half":           func() Config { c := right; c.NewSession = func() fosite.Session { return nil }; return c },
		"a part that is no part":   func() Config { c := right; c.Without = []Part{"everything"}; return c },
		"a part that there is":     func() Config { c := right; c.Without = []Part{Nonces}; return c },
		"a part that is not there": func() Config { c := core; c.Without = c.Without[1:]; return c },
		"parts that are not there": func() Config { c := core; c.Without = nil; return c },
	}
	if flawtest.Inside() {
		for name, config := range configs {
			t.Run(name, func(t *testing.T) { Run(t, config()) })
		}
		return
	}
	t.Parallel()
	results, out := flawtest.Run(t)
	for name := range configs {
		if got := results[flawtest.Name(name)]; got != "FAIL" {
			t.Errorf("%q: got %q, want a failure\n%s", name, got, out)
		}
		if _, ran := results[flawtest.Name(name)+"/Storage"]; ran {
			t.Errorf("%q: the suite was run", name)
		}
	}
}
