package consentapi

import (
	"context"
	"errors"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

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
		"nothing to take":                 {&fosite.DefaultSession{}, `{"consentapi":1,"session":{"id_token":{}},"context":{"a":1}}`, nil},
	} {
		ar := fosite.NewAuthorizeRequest()
		ar.SetSession(c.session)
		if err := ApplyData(t.Context(), ar, []byte(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// fails is a storage whose uses fail.
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
