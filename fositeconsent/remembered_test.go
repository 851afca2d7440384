package fositeconsent_test

import (
	"context"
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// spyConsents counts, and can be told to fail or to lie.
type spyConsents struct {
	fositeconsent.ConsentStorage
	mu       sync.Mutex
	found    int
	recorded []fositeconsent.Response
	onFind   func([]fositeconsent.Consent) ([]fositeconsent.Consent, error)
	onRecord func(context.Context, *fositeconsent.Response) error
	checked  int
	onCheck  func(n int, requestID string) error // before the nth check
	onRevoke func(context.Context, fositeconsent.Selection) error
	onList   func([]fositeconsent.Consent) ([]fositeconsent.Consent, error)
}

func (s *spyConsents) FindConsents(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	s.mu.Lock()
	s.found++
	s.mu.Unlock()
	list, err := s.ConsentStorage.FindConsents(ctx, issuer, subject, clientID)
	if err == nil && s.onFind != nil {
		return s.onFind(list)
	}
	return list, err
}

func (s *spyConsents) RecordResponse(ctx context.Context, r *fositeconsent.Response) error {
	s.mu.Lock()
	s.recorded = append(s.recorded, *r)
	s.mu.Unlock()
	if s.onRecord != nil {
		if err := s.onRecord(ctx, r); err != nil {
			return err
		}
	}
	return s.ConsentStorage.RecordResponse(ctx, r)
}

func (s *spyConsents) CheckResponse(ctx context.Context, requestID string) error {
	s.mu.Lock()
	s.checked++
	n := s.checked
	s.mu.Unlock()
	if s.onCheck != nil {
		if err := s.onCheck(n, requestID); err != nil {
			return err
		}
	}
	return s.ConsentStorage.CheckResponse(ctx, requestID)
}

func (s *spyConsents) RevokeConsents(ctx context.Context, selection fositeconsent.Selection, revoke func(context.Context, fositeconsent.Ended) error) (int, error) {
	if s.onRevoke != nil {
		if err := s.onRevoke(ctx, selection); err != nil {
			return 0, err
		}
	}
	return s.ConsentStorage.RevokeConsents(ctx, selection, revoke)
}

func (s *spyConsents) ListConsents(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	list, err := s.ConsentStorage.ListConsents(ctx, selection, before, limit)
	if s.onList != nil {
		return s.onList(list)
	}
	return list, err
}

// consentHost is a host that remembers.
type consentHost struct {
	*host
	consents *spyConsents
	looks    map[string]string // what the page says of a client, beside its id
}

func newConsentHost(t testing.TB, options ...option) *consentHost {
	t.Helper()
	h := &consentHost{looks: map[string]string{}}
	remembering := func(inner *host, config *fositeconsent.Config) {
		h.consents = &spyConsents{ConsentStorage: inner.grants.GrantStorage.(*consenttest.Storage)}
		config.Consents = h.consents
		config.DescribeClient = func(_ context.Context, client fosite.Client) ([]string, error) {
			return []string{client.GetID(), h.looks[client.GetID()]}, nil
		}
		for _, c := range []struct {
			id     string
			public bool
			at     string
		}{{"web", false, "https://web.example/cb"}, {"other", false, "https://other.example/cb"}, {"native", true, "com.example.app:/cb"}} {
			inner.store.Clients[c.id] = &client{DefaultClient: &fosite.DefaultClient{
				ID: c.id, Public: c.public, RedirectURIs: []string{c.at},
				ResponseTypes: []string{"code", "token", "id_token", "id_token token", "code id_token", "code token", "code id_token token"},
				GrantTypes:    []string{"authorization_code", "implicit", "refresh_token"},
				Scopes:        []string{"openid", "offline_access", "offline", "photos", "contacts"},
				Audience:      []string{"https://api.example", "https://other.example"},
			}}
		}
	}
	h.host = newHost(t, append([]option{remembering}, options...)...)
	return h
}

// ask sends a request with neither token nor decision.
func (h *consentHost) ask(form url.Values, subject string) (fosite.AuthorizeRequester, error) {
	h.t.Helper()
	ar := h.parse(form)
	resp, err := h.provider.NewAuthorizeResponse(context.Background(), ar, h.login(subject))
	if (resp == nil) != (err != nil) {
		h.t.Fatalf("a response %v with error %v", resp, err)
	}
	return ar, err
}

// decide approves in one step.
func (h *consentHost) decide(form url.Values, subject string, decide func(*fositeconsent.Decision)) (fosite.AuthorizeRequester, error) {
	h.t.Helper()
	p := h.prompt(form, subject)
	d := all(p)
	decide(&d)
	ar := h.parse(form)
	_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), p.Ticket, d), ar, h.login(subject))
	return ar, err
}

// remember approves all that is requested, for later requests, too, and returns the consent's ID.
func (h *consentHost) remember(form url.Values, subject string, changes ...func(*fositeconsent.Decision)) fositeconsent.ID {
	h.t.Helper()
	_, err := h.decide(form, subject, func(d *fositeconsent.Decision) {
		d.Remember = &fositeconsent.Remember{}
		for _, change := range changes {
			change(d)
		}
	})
	if err != nil {
		h.t.Fatalf("not approved: %v", cause(err))
	}
	return h.event().GrantID
}

// passes checks that a request passes by consents that are remembered.
func (h *consentHost) passes(form url.Values, subject string) fosite.AuthorizeRequester {
	h.t.Helper()
	ar, err := h.ask(form, subject)
	if err != nil {
		h.t.Errorf("refused: %v", cause(err))
	} else if e := h.event(); e.Basis != fositeconsent.BasisRemembered || e.Action != fositeconsent.ActionConsume {
		h.t.Errorf("the event is %+v", e)
	}
	return ar
}

// isAsked checks that a request leads to a page, or to consent_required, and to nothing else.
func (h *consentHost) isAsked(form url.Values, subject string) {
	h.t.Helper()
	rows, recorded := h.stored(), len(h.consents.recorded)
	_, err := h.ask(form, subject)
	silent := form.Get("prompt") == "none"
	if !errors.Is(err, fositeconsent.ErrConsentRequired) || fositeconsent.NeedsConsent(err) == silent || errors.Is(err, fosite.ErrConsentRequired) != silent {
		h.t.Errorf("not asked, but: %v", cause(err))
	}
	if h.stored() != rows || len(h.consents.recorded) != recorded {
		h.t.Error("something was stored")
	}
}

func web(pairs ...string) url.Values {
	return params(append([]string{"client_id", "web", "redirect_uri", "https://web.example/cb", "scope", "openid photos"}, pairs...)...)
}

func TestARememberedConsentLetsTheSameRequestPass(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	form := web()
	h.isAsked(form, "peter")
	id := h.remember(form, "peter")
	ar := h.passes(form, "peter")
	if !equalSets(ar.GetGrantedScopes(), []string{"openid", "photos"}) || !equalSets(ar.GetGrantedAudience(), []string{"https://api.example"}) {
		t.Errorf("granted %v for %v", ar.GetGrantedScopes(), ar.GetGrantedAudience())
	}
	if e := h.event(); len(e.ConsentIDs) != 1 || e.ConsentIDs[0] != id || !e.GrantID.IsZero() || e.Consumed || !strings.Contains(e.LogValue().String(), "basis=remembered consent_ids=["+id.String()) {
		t.Errorf("the event logs %s", e.LogValue())
	}
	last := h.consents.recorded[len(h.consents.recorded)-1]
	if last.RequestID != ar.GetID() || last.Approval != nil || len(last.ConsentIDs) != 1 || last.ConsentIDs[0] != id {
		t.Errorf("recorded as %+v", last)
	}
	h.isAsked(form, "paul")
	h.isAsked(web("client_id", "other", "redirect_uri", "https://other.example/cb"), "peter")

	h.advance(time.Minute)
	if n, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter", ClientID: "web"}); err != nil || n != 1 {
		t.Fatalf("%d revoked: %v", n, err)
	}
	h.isAsked(form, "peter")
}

func TestWhatIsRecordedOfAnApproval(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		remember *fositeconsent.Remember
		scopes   []string // that are remembered
	}{
		"not remembered":                       {nil, nil},
		"remembered":                           {&fositeconsent.Remember{}, []string{"openid", "photos"}},
		"remembered with offline access":       {&fositeconsent.Remember{OfflineAccess: true}, []string{"openid", "photos", "offline_access", "offline"}},
		"remembered for a while":               {&fositeconsent.Remember{Lifespan: time.Minute}, []string{"openid", "photos"}},
		"remembered for the shortest possible": {&fositeconsent.Remember{Lifespan: fositeconsent.MinGrantLifespan}, []string{"openid", "photos"}},
	} {
		for _, twoSteps := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
					c.LoginSession = func(context.Context, fosite.Session) (string, error) { return "login-1", nil }
					c.UnboundParameters = []string{"campaign"}
					c.ApplyData = func(context.Context, fosite.AuthorizeRequester, []byte) error { return nil }
				})
				form := web("scope", "openid photos offline_access offline contacts", "response_type", "code id_token", "response_mode", "form_post",
					"resource", "https://r.example", "claims", `{"id_token":{}}`, "acr_values", "gold", "max_age", "100", "display", "page", "campaign", "x", "a=b", "c=d", "id_token_hint", "", "login_hint", "peter")
				form.Add("resource", "https://b.example")
				p := h.prompt(form, "peter")
				d := fositeconsent.Decision{Scopes: []string{"openid", "photos", "offline_access", "offline", "photos"}, Audience: []string{"https://api.example"}, Data: []byte("data"), Remember: c.remember}
				ar := h.parse(form)
				ctx := fositeconsent.WithDecision(t.Context(), p.Ticket, d)
				if twoSteps {
					token, err := h.gate.Mint(t.Context(), h.parse(form), h.login("peter"), p.Ticket, d)
					if err != nil {
						t.Fatal(cause(err))
					}
					if len(h.consents.recorded) != 0 {
						t.Error("something was recorded before there was a response")
					}
					ctx = fositeconsent.WithToken(t.Context(), token)
				}
				if _, err := h.provider.NewAuthorizeResponse(ctx, ar, h.login("peter")); err != nil {
					t.Fatal(cause(err))
				}
				if len(h.consents.recorded) != 1 {
					t.Fatalf("%d responses were recorded", len(h.consents.recorded))
				}
				got := h.consents.recorded[0]
				if got.RequestID != ar.GetID() || got.Approval == nil || len(got.ConsentIDs) != 0 {
					t.Fatalf("recorded as %+v", got)
				}
				if got.Approval.Shown == (fositeconsent.Digest{}) {
					t.Error("what was shown is not recorded")
				}
				want := fositeconsent.Consent{
					ID: p.ID, Issuer: issuer, Subject: "peter", ClientID: "web", LoginSession: "login-1",
					Scopes: []string{"openid", "photos", "offline_access", "offline"}, RememberedScopes: c.scopes,
					Audience: []string{"https://api.example"}, ResponseTypes: []string{"code", "id_token"},
					Details: []string{"a%3Db=c=d", `claims={"id_token":{}}`, "resource=https://b.example", "resource=https://r.example", "response_mode=form_post"},
					Shown:   got.Approval.Shown, Data: []byte("data"), Remembered: c.remember != nil,
				}
				if c.remember != nil {
					want.Lifespan = c.remember.Lifespan
				}
				if !reflect.DeepEqual(*got.Approval, want) {
					t.Errorf("recorded\n%+v, expected\n%+v", *got.Approval, want)
				}
				for _, code := range h.store.AuthorizeCodes { // what a revocation looks for
					if code.GetID() != got.RequestID {
						t.Error("the code is stored under another ID")
					}
				}
				if e := h.event(); e.Basis != fositeconsent.BasisGrant || len(e.ConsentIDs) != 1 || e.ConsentIDs[0] != p.ID {
					t.Errorf("the event is %+v", e)
				}
			})
		}
	}
}

// Hosts may have refresh tokens issued for scopes of their own, which fosite compares in lower case.
func TestOfflineAccessIsWhatFositeIssuesRefreshTokensFor(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		h := newConsentHost(t)
		h.config.RefreshTokenScopes = []string{"Contacts"}
		h.remember(web("scope", "openid photos contacts offline"), "peter", func(d *fositeconsent.Decision) { d.Remember.OfflineAccess = offline })
		h.passes(web("scope", "openid photos"), "peter")
		for _, scope := range []string{"openid contacts", "openid offline"} {
			if offline {
				h.passes(web("scope", scope), "peter")
			} else {
				h.isAsked(web("scope", scope), "peter")
			}
		}
	}
}

func TestWhatIsNotRememberedIsAskedAgain(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	if _, err := h.decide(web(), "peter", func(*fositeconsent.Decision) {}); err != nil {
		t.Fatal(cause(err))
	}
	h.isAsked(web(), "peter")
	list, err := h.gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "peter"}, fositeconsent.ID{}, 10)
	if err != nil || len(list) != 1 || list[0].Remembered {
		t.Errorf("listed %+v, %v", list, err)
	}
}

func TestParametersOfOneRequestDoNotMatterAndOthersDo(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) { c.UnboundParameters = []string{"campaign"} })
	h.remember(web(), "peter")
	for _, pairs := range [][]string{
		{"state", "another state"}, {"nonce", "another nonce"}, {"code_challenge", "another-challenge-that-is-as-long-as-they-are"}, {"code_challenge", "", "code_challenge_method", ""},
		{"max_age", "100"}, {"acr_values", "gold"}, {"dpop_jkt", "a thumbprint"}, {"response_mode", "query"}, {"scope", "photos openid"}, {"scope", "photos"},
		{"display", "page"}, {"ui_locales", "de"}, {"claims_locales", "de"}, {"login_hint", "paul"}, {"campaign", "x"}, {"redirect_uri", "", "scope", "photos"}, {"client_secret", "x"},
	} {
		h.passes(web(pairs...), "peter")
	}
	for _, pairs := range [][]string{
		{"claims", "{}"}, {"resource", "https://r.example"}, {"authorization_details", "[]"}, {"vendor", "x"}, {"Claims", "{}"}, {"State", "x"}, {"response_mode", "form_post"}, {"response_mode", "fragment"},
		{"scope", "openid photos contacts"}, {"audience", "https://other.example"}, {"audience", ""}, {"response_type", "token"},
	} {
		h.isAsked(web(pairs...), "peter")
	}
	form := web()
	form["claims"] = []string{""}
	h.isAsked(form, "peter")
}

// A parameter that nobody knows must not be approved in place of one that everybody knows.
func TestDetailsHaveOneReading(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.remember(web(`claims={"id_token":{"acr":{"value":"a`, `b"}}}`), "peter")
	h.isAsked(web("claims", `{"id_token":{"acr":{"value":"a=b"}}}`), "peter")
	h.passes(web(`claims={"id_token":{"acr":{"value":"a`, `b"}}}`), "peter")
	h.remember(web("a%3Db", "c"), "peter")
	h.isAsked(web("a=b", "c"), "peter")
}

func TestWhoCanPassForTheClientIsAskedAgain(t *testing.T) {
	t.Parallel()
	for uri, claimed := range map[string]bool{
		"https://app.example/cb":             true,
		"https://app.example:8443/cb":        true,
		"https://APP.example/cb":             true,
		"https://app.example./cb":            true,
		"https://0x7f.example/cb":            true,
		"https://xn--p8j9a0d.example/cb":     true,
		"com.example.app:/cb":                false,
		"com.example.app://web.example/cb":   false,
		"http://localhost/cb":                false,
		"http://127.0.0.1:1234/cb":           false,
		"https://localhost/cb":               false,
		"https://localhost:8443/cb":          false,
		"https://LocalHost/cb":               false,
		"https://localhost./cb":              false,
		"https://app.localhost/cb":           false,
		"https://localhost.localdomain/cb":   false,
		"https://127.0.0.1/cb":               false,
		"https://127.1/cb":                   false,
		"https://127.0.0.1./cb":              false,
		"https://2130706433/cb":              false,
		"https://0x7f000001/cb":              false,
		"https://127.0.0.0x1/cb":             false,
		"https://0.0.0.0/cb":                 false,
		"https://[::1]/cb":                   false,
		"https://[::ffff:127.0.0.1]/cb":      false,
		"https://ｌｏｃａｌｈｏｓｔ/cb":               false,
		"https://app.ｌｏｃａｌｈｏｓｔ/cb":           false,
		"https://ip6-localhost/cb":           false,
		"https://app.example@localhost:1/cb": false,
	} {
		for _, kind := range []struct {
			public bool
			types  string
		}{{true, "code"}, {true, "code id_token"}, {false, "code"}, {false, "code token"}, {false, "id_token"}} {
			h := newConsentHost(t)
			c := h.store.Clients["web"].(*client)
			c.Public, c.RedirectURIs = kind.public, []string{uri}
			form := web("redirect_uri", uri, "response_type", kind.types)
			h.remember(form, "peter")
			p := h.prompt(form, "peter")
			if claimed || !kind.public && kind.types == "code" { // which has to be redeemed with a secret
				h.passes(form, "peter")
				if len(p.NewScopes) != 0 || len(p.NewAudience) != 0 {
					t.Errorf("%s: new are %v and %v", uri, p.NewScopes, p.NewAudience)
				}
				continue
			}
			h.isAsked(form, "peter")
			if !slices.Equal(p.NewScopes, p.Scopes) || !slices.Equal(p.NewAudience, p.Audience) {
				t.Errorf("%s: new are %v and %v", uri, p.NewScopes, p.NewAudience)
			}
			if t.Failed() {
				t.Fatalf("%s: %+v", uri, kind)
			}
		}
	}
}

// changes are what a client's registration can change by, as far as a page shows it.
var changes = map[string]func(*consentHost, *client){
	"its name":            func(h *consentHost, _ *client) { h.looks["web"] = "another name" },
	"a redirect URI more": func(_ *consentHost, c *client) { c.RedirectURIs = append(c.RedirectURIs, "https://evil.example/cb") },
	"that it is public":   func(_ *consentHost, c *client) { c.Public = true },
	"a redirect URI in another": func(_ *consentHost, c *client) {
		c.RedirectURIs = []string{c.RedirectURIs[0], "https://web.example/b", "https://web.example/c"}
	},
}

func TestAClientThatHasChangedIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, change := range changes {
		h := newConsentHost(t)
		registered := *h.store.Clients["web"].(*client).DefaultClient
		h.remember(web(), "peter")
		fresh := registered
		kept := h.parse(web())
		h.store.Clients["web"] = &client{DefaultClient: &fresh}
		change(h, h.store.Clients["web"].(*client))
		h.isAsked(web(), "peter")
		// A request that was read before the change is no way round it.
		if _, err := h.provider.NewAuthorizeResponse(t.Context(), kept, h.login("peter")); !fositeconsent.NeedsConsent(err) {
			t.Errorf("%s: a request of before: %v", name, cause(err))
		}
		if p := h.prompt(web(), "peter"); len(p.NewScopes) != 2 || len(p.NewAudience) != 1 {
			t.Errorf("%s: new are %v and %v", name, p.NewScopes, p.NewAudience)
		}
		h.store.Clients["web"], h.looks["web"] = &client{DefaultClient: &registered}, ""
		h.passes(web(), "peter")
	}
	h := newConsentHost(t)
	c := h.store.Clients["web"].(*client)
	c.RedirectURIs = []string{"https://web.example/cb", "https://web.example/b"}
	h.remember(web(), "peter")
	c.RedirectURIs = []string{"https://web.example/b", "https://web.example/cb"}
	h.passes(web(), "peter") // the order says nothing
	c.RedirectURIs = []string{"https://web.example/b"}
	if _, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web("redirect_uri", "https://web.example/b")), h.login("peter")); !fositeconsent.NeedsConsent(err) {
		t.Errorf("one redirect URI fewer: %v", cause(err))
	}
}

func TestAClientThatChangesWhileItsPageIsOpenIsShownAgain(t *testing.T) {
	t.Parallel()
	for name, change := range changes {
		h := newConsentHost(t)
		kept, untouched := h.parse(web()), h.parse(web())
		p := h.prompt(web(), "peter")
		fresh := *h.store.Clients["web"].(*client).DefaultClient
		h.store.Clients["web"] = &client{DefaultClient: &fresh}
		change(h, h.store.Clients["web"].(*client))
		if again, err := h.gate.Prompt(t.Context(), untouched, h.login("peter")); err != nil || again.Client.IsPublic() != fresh.Public || len(again.Client.GetRedirectURIs()) != len(fresh.RedirectURIs) {
			t.Errorf("%s: a request of before leads to a page about %+v: %v", name, again.Client, cause(err))
		}
		for _, ar := range []fosite.AuthorizeRequester{h.parse(web()), kept} {
			_, err := h.gate.Mint(t.Context(), ar, h.login("peter"), p.Ticket, all(p))
			h.refused(nil, err, fositeconsent.ErrBindingMismatch)
			err = errors.Join(err, h.gate.Deny(t.Context(), ar, h.login("peter"), p.Ticket))
			resp, decided := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, all(p)), ar, h.login("peter"))
			h.refused(resp, decided, fositeconsent.ErrBindingMismatch)
			for _, err := range append(err.(interface{ Unwrap() []error }).Unwrap(), decided) {
				if !errors.Is(err, fositeconsent.ErrBindingMismatch) || !fositeconsent.NeedsConsent(err) {
					t.Errorf("%s: %v", name, cause(err))
				}
			}
			// The page that is shown then is about the client as it is, and can be answered.
			again, err := h.gate.Prompt(t.Context(), ar, h.login("peter"))
			if err != nil {
				t.Fatal(cause(err))
			}
			if again.Client.IsPublic() != fresh.Public || len(again.Client.GetRedirectURIs()) != len(fresh.RedirectURIs) {
				t.Errorf("%s: the page is about %+v", name, again.Client)
			}
			if _, err := h.gate.Mint(t.Context(), ar, h.login("peter"), again.Ticket, all(again)); err != nil {
				t.Errorf("%s: the new page: %v", name, cause(err))
			}
		}
		if h.grants.created.Load() != 2 {
			t.Errorf("%s: %d grants were created", name, h.grants.created.Load())
		}
	}
}

// Texts that stand in different places are different descriptions.
func TestDescriptionsHaveOneReading(t *testing.T) {
	t.Parallel()
	seen := map[fositeconsent.Digest][]string{}
	for _, texts := range [][]string{nil, {""}, {"", ""}, {"a"}, {"a", ""}, {"", "a"}, {"a", "b"}, {"ab"}, {"b", "a"}, {"a\x00b"}} {
		h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
			c.DescribeClient = func(context.Context, fosite.Client) ([]string, error) { return texts, nil }
		})
		h.remember(web(), "peter")
		shown := h.consents.recorded[0].Approval.Shown
		if before, ok := seen[shown]; ok {
			t.Errorf("%q and %q are one description", texts, before)
		}
		seen[shown] = texts
		if texts == nil { // nor do two clients with one description look alike
			twin := *h.store.Clients["web"].(*client).DefaultClient
			twin.ID = "twin"
			h.store.Clients["twin"] = &client{DefaultClient: &twin}
			h.remember(web("client_id", "twin"), "peter")
			seen[h.consents.recorded[1].Approval.Shown] = []string{"the twin's"}
		}
	}
	if len(seen) != 11 {
		t.Errorf("%d digests", len(seen))
	}
}

func TestAConsentEndsWithItsLifespan(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.remember(web(), "peter", func(d *fositeconsent.Decision) { d.Remember.Lifespan = 10 * time.Minute })
	h.remember(web("scope", "contacts"), "peter", func(d *fositeconsent.Decision) { d.Remember.Lifespan = 20 * time.Minute })
	h.advance(9 * time.Minute)
	h.passes(web("scope", "openid photos contacts"), "peter")
	h.advance(2 * time.Minute)
	h.isAsked(web("scope", "openid photos contacts"), "peter")
	h.isAsked(web(), "peter")
	if p := h.prompt(web("scope", "openid photos contacts"), "peter"); !slices.Equal(p.NewScopes, []string{"openid", "photos"}) {
		t.Errorf("new are %v", p.NewScopes)
	}
	h.passes(web("scope", "contacts"), "peter")
}

func TestThePageTellsWhatIsNew(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	both := web("scope", "openid photos offline_access contacts", "audience", "https://api.example https://other.example")
	check := func(form url.Values, user string, scopes, audience []string) {
		t.Helper()
		p := h.prompt(form, user)
		if !slices.Equal(p.NewScopes, scopes) || !slices.Equal(p.NewAudience, audience) {
			t.Errorf("new are %v and %v, expected %v and %v", p.NewScopes, p.NewAudience, scopes, audience)
		}
		if !slices.Equal(p.Scopes, strings.Fields(form.Get("scope"))) || !slices.Equal(p.Audience, strings.Fields(form.Get("audience"))) {
			t.Errorf("requested are %v and %v", p.Scopes, p.Audience)
		}
	}
	check(both, "peter", []string{"openid", "photos", "offline_access", "contacts"}, []string{"https://api.example", "https://other.example"})
	h.remember(web("scope", "openid photos offline_access"), "peter")
	check(both, "peter", []string{"offline_access", "contacts"}, []string{"https://other.example"})
	check(both, "paul", []string{"openid", "photos", "offline_access", "contacts"}, []string{"https://api.example", "https://other.example"})
	check(web("prompt", "consent"), "peter", []string{}, []string{})
	h.remember(web("scope", "contacts"), "peter")
	check(both, "peter", []string{"offline_access"}, []string{"https://other.example"})
	if _, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"}); err != nil {
		t.Fatal(err)
	}
	check(web(), "peter", []string{"openid", "photos"}, []string{"https://api.example"})

	plain := newHost(t)
	p := plain.prompt(params(), "peter")
	if !slices.Equal(p.NewScopes, p.Scopes) || !slices.Equal(p.NewAudience, p.Audience) || len(p.NewScopes) != 3 {
		t.Errorf("without consents new are %v and %v", p.NewScopes, p.NewAudience)
	}
	p.NewScopes[0] = "" // and they are the host's own
	if p.Scopes[0] != "openid" || len(append(p.Scopes, "x")) != 4 || p.NewScopes[0] != "" {
		t.Error("the lists are one")
	}
}

func TestDecisionsThatCannotBeRemembered(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	for _, lifespan := range []time.Duration{-1, -time.Hour, 1, time.Millisecond - 1} {
		for _, ask := range []func(*fositeconsent.Prompt, fositeconsent.Decision) error{
			func(p *fositeconsent.Prompt, d fositeconsent.Decision) error {
				_, err := h.gate.Mint(t.Context(), h.parse(web()), h.login("peter"), p.Ticket, d)
				return err
			},
			func(p *fositeconsent.Prompt, d fositeconsent.Decision) error {
				_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, d), h.parse(web()), h.login("peter"))
				return err
			},
		} {
			p := h.prompt(web(), "peter")
			d := all(p)
			d.Remember = &fositeconsent.Remember{Lifespan: lifespan}
			if err := ask(p, d); !errors.Is(err, fositeconsent.ErrInvalidDecision) || h.grants.created.Load() != 0 {
				t.Errorf("%v: %v", lifespan, cause(err))
			}
		}
	}
	plain := newHost(t)
	p := plain.prompt(params(), "peter")
	d := all(p)
	d.Remember = &fositeconsent.Remember{}
	if _, err := plain.gate.Mint(t.Context(), plain.parse(params()), plain.login("peter"), p.Ticket, d); !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error()+cause(err).Error(), "set Config.Consents") || plain.grants.created.Load() != 0 {
		t.Errorf("without consents: %v", cause(err))
	}
	// Nor is one remembered that another node has minted.
	token := plain.approve(params(), "peter")
	plain.grants.onConsume = func(g *fositeconsent.Grant, err error) (*fositeconsent.Grant, error) {
		g.Remember = &fositeconsent.Remember{}
		return g, err
	}
	resp, err := plain.answer(params(), "peter", token)
	plain.refused(resp, err, fositeconsent.ErrMisconfigured)
	// A storage may not make one of it that lasts for ever.
	for _, lifespan := range []time.Duration{-1, 1} {
		token = h.approve(web(), "peter")
		h.grants.onConsume = func(g *fositeconsent.Grant, err error) (*fositeconsent.Grant, error) {
			g.Remember = &fositeconsent.Remember{Lifespan: lifespan}
			return g, err
		}
		resp, err = h.answer(web(), "peter", token)
		h.refused(resp, err, fositeconsent.ErrStorage)
	}
}

func TestConsentsNeedADescriptionOfTheClient(t *testing.T) {
	t.Parallel()
	store := consenttest.NewStorage(nil)
	if _, err := fositeconsent.NewGate(store, fositeconsent.Config{Issuer: issuer, Consents: store}); !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), "DescribeClient") {
		t.Errorf("without: %v", err)
	}
	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{Issuer: issuer, Consents: (*consenttest.Storage)(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "peter"}, fositeconsent.ID{}, 1); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("a nil pointer is taken for a storage: %v", err)
	}
	unprotected, err := fositeconsent.NewGate(store, fositeconsent.Config{
		Issuer: issuer, Consents: store, Secrets: func(context.Context) ([][]byte, error) { return [][]byte{make([]byte, 32)}, nil },
		DescribeClient: func(context.Context, fosite.Client) ([]string, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	if _, err := unprotected.Prompt(t.Context(), h.parse(params()), h.login("peter")); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("a page before Protect: %v", cause(err))
	}
}
