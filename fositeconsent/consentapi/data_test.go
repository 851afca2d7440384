package consentapi

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func TestNumbersAreReadAsTheyWereGiven(t *testing.T) {
	t.Parallel()
	a, err := parseAccept([]byte(`{"session":{"access_token":{"large":1e20,"odd":1.2345678901234567e20,"most":18446744073709551615,"least":-9223372036854775808,"part":0.1}}}`), &document{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"large": 1e20, "odd": 1.2345678901234567e20, "most": uint64(math.MaxUint64), "least": int64(math.MinInt64), "part": 0.1}
	if d, err := parseData(a.Data); err != nil || !maps.Equal(d.Session.AccessToken, want) {
		t.Errorf("%+v, %v", d, err)
	}
}

// Without an answer, what was said is for the very same request; what does not say for which is for none.
func TestSessionDataIsForOneRequest(t *testing.T) {
	t.Parallel()
	ar := fosite.NewAuthorizeRequest()
	ar.SetSession(openid.NewDefaultSession())
	ar.GrantedScope, ar.GrantedAudience = fosite.Arguments{"photos", "openid"}, fosite.Arguments{"https://api.example"}
	ar.Form = url.Values{"claims": {"{}"}, "state": {"a state"}}
	scopes, audience, claims := []string{"openid", "photos"}, []string{"https://api.example"}, furtherOf(url.Values{"claims": {"{}"}})
	for name, c := range map[string]struct {
		madeFor string
		want    error
	}{
		"the same":              {madeFor(scopes, audience, claims), nil},
		"nothing that is known": {"", fositeconsent.ErrConsentRequired},
		"more scopes":           {madeFor(append(scopes, "contacts"), audience, claims), fositeconsent.ErrConsentRequired},
		"fewer scopes":          {madeFor(scopes[:1], audience, claims), fositeconsent.ErrConsentRequired},
		"no audience":           {madeFor(scopes, nil, claims), fositeconsent.ErrConsentRequired},
		"the audience a scope":  {madeFor(append(scopes, audience...), nil, claims), fositeconsent.ErrConsentRequired},
		"other claims":          {madeFor(scopes, audience, furtherOf(url.Values{"claims": {"{ }"}})), fositeconsent.ErrConsentRequired},
		"no claims":             {madeFor(scopes, audience, furtherOf(nil)), fositeconsent.ErrConsentRequired},
		"no further parameters": {madeFor(scopes, audience, ""), fositeconsent.ErrConsentRequired},
	} {
		text := fmt.Appendf(nil, `{"consentapi":1,"session":{"id_token":{"email":"a"}},"for":%q}`, c.madeFor)
		if err := ApplyData(t.Context(), ar, text); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if furtherOf(url.Values{"claims": {"\xff"}}) == furtherOf(url.Values{"claims": {"\xfe"}}) {
		t.Error("two texts that are no UTF-8 are one")
	}
}
