package fositeconsent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"
	"github.com/ory/x/errorsx"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// refused checks that nothing came out, for this reason and no other.
func (h *host) refused(resp fosite.AuthorizeResponder, err error, reason error) {
	h.t.Helper()
	if resp != nil {
		h.t.Error("there is a response")
	}
	if !errors.Is(err, reason) {
		h.t.Errorf("refused with %v, expected %v", cause(err), reason)
	}
	if h.stored() != 0 {
		h.t.Errorf("%d rows were stored", h.stored())
	}
	for _, other := range []error{
		fositeconsent.ErrConsentRequired, fositeconsent.ErrMalformedToken, fositeconsent.ErrGrantNotFound, fositeconsent.ErrBindingMismatch,
		fositeconsent.ErrGrantConsumed, fositeconsent.ErrGrantExpired, fositeconsent.ErrAlreadyDecided, fositeconsent.ErrLoginRequired,
	} {
		if errors.Is(err, other) && !errors.Is(reason, other) {
			h.t.Errorf("the error is also %v", other)
		}
	}
}

// REQUIREMENTS 1: OpenID Connect Core 1.0, Section 3.1.2.4.
func TestNothingIsIssuedWithoutAToken(t *testing.T) {
	t.Parallel()
	for _, responseType := range []string{"code", "token", "id_token", "id_token token", "code id_token", "code token", "code id_token token"} {
		t.Run(responseType, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			resp, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(params("response_type", responseType)), h.login("peter"))
			h.refused(resp, err, fositeconsent.ErrConsentRequired)
			if !fositeconsent.NeedsConsent(err) {
				t.Error("NeedsConsent is false")
			}
			if h.grants.consumed.Load() != 0 {
				t.Error("the storage was asked")
			}
		})
	}
}

func TestApprovalLeadsToExactlyOneResponse(t *testing.T) {
	t.Parallel()
	for responseType, expected := range map[string][]string{
		"code":                {"code", "scope", "state"},
		"token":               {"access_token", "expires_in", "scope", "state", "token_type"},
		"id_token":            {"id_token", "state"},
		"id_token token":      {"access_token", "expires_in", "id_token", "scope", "state", "token_type"},
		"code id_token":       {"code", "id_token", "state"},
		"code token":          {"access_token", "code", "expires_in", "scope", "state", "token_type"},
		"code id_token token": {"access_token", "code", "expires_in", "id_token", "scope", "state", "token_type"},
	} {
		for _, mode := range []string{"", "fragment", "form_post"} {
			t.Run(responseType+" "+mode, func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				form := params("response_type", responseType, "response_mode", mode)
				token := h.approve(form, "peter")
				ar := h.parse(form)
				resp, err := h.respond(ar, h.login("peter"), token)
				if err != nil {
					t.Fatalf("refused: %v", cause(err))
				}
				var names []string
				for name := range resp.GetParameters() {
					names = append(names, name)
				}
				if !equalSets(names, expected) {
					t.Errorf("the response has %v, expected %v", names, expected)
				}
				if !equalSets(ar.GetGrantedScopes(), []string{"openid", "photos", "offline_access"}) || !equalSets(ar.GetGrantedAudience(), []string{"https://api.example"}) {
					t.Errorf("granted %v for %v", ar.GetGrantedScopes(), ar.GetGrantedAudience())
				}
				before := h.stored()
				if _, err := h.answer(form, "peter", token); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
					t.Errorf("the second presentation: %v", cause(err))
				}
				if h.stored() != before {
					t.Error("the second presentation stored something")
				}
			})
		}
	}
}

func TestOneWinnerAmongConcurrentPresentations(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	form := params()
	token := h.approve(form, "peter")
	const n = 64
	errs := make([]error, n)
	start, done := make(chan struct{}), sync.WaitGroup{}
	for i := range n {
		ar, session := h.parse(form), h.login("peter")
		done.Go(func() {
			<-start
			_, errs[i] = h.respond(ar, session, token)
		})
	}
	close(start)
	done.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, fositeconsent.ErrGrantConsumed):
			t.Errorf("a loser got %v", cause(err))
		}
	}
	if won != 1 || len(h.store.AuthorizeCodes) != 1 {
		t.Fatalf("%d winners and %d codes", won, len(h.store.AuthorizeCodes))
	}
	slices.SortFunc(h.grants.attempts, func(a, b fositeconsent.Attempt) int { return slices.Compare(a[:], b[:]) })
	if len(slices.Compact(h.grants.attempts)) != n {
		t.Error("attempts were used twice")
	}
}

func TestEveryChangeOfTheRequestIsRefusedAndDoesNotSpendTheGrant(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	form := params("resource", "https://api.example/a", "claims", `{"id_token":{}}`, "authorization_details", `[{"type":"a"}]`,
		"dpop_jkt", "a thumbprint", "acr_values", "gold", "max_age", "3600", "vendor", "x", "response_mode", "query")
	token := h.approve(form, "peter")
	for name := range form {
		for _, value := range []string{"", form.Get(name) + "x"} {
			change := url.Values{}
			for k, v := range form {
				change[k] = slices.Clone(v)
			}
			change.Set(name, value)
			switch { // what fosite itself would refuse, or resolve to the same
			case name == "client_id", name == "state" && value == "", name == "response_type", name == "response_mode" && value == "":
				continue
			case name == "redirect_uri":
				change.Set(name, "https://app.example/other")
			case name == "scope" && value != "":
				change.Set(name, "openid photos offline_access contacts")
			case name == "scope":
				change.Set(name, "openid photos")
			case name == "audience" && value != "":
				change.Set(name, "https://other.example")
			case name == "response_mode":
				change.Set(name, "form_post")
			case name == "max_age" && value != "":
				change.Set(name, "3601")
			}
			resp, err := h.answer(change, "peter", token)
			h.refused(resp, err, fositeconsent.ErrBindingMismatch)
			if value == "" && name != "scope" && name != "redirect_uri" {
				change.Del(name)
				resp, err := h.answer(change, "peter", token)
				h.refused(resp, err, fositeconsent.ErrBindingMismatch)
			}
		}
	}
	resp, err := h.answer(params("vendor2", "new"), "peter", token)
	h.refused(resp, err, fositeconsent.ErrBindingMismatch)
	resp, err = h.answer(form, "mallory", token)
	h.refused(resp, err, fositeconsent.ErrBindingMismatch)

	if _, err := h.answer(form, "peter", token); err != nil {
		t.Errorf("the grant was spent by another request: %v", cause(err))
	}
}

func TestRefusalsAreOfOneKindAtTheClientAndExactInside(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	form := params()
	consumed := h.approve(form, "peter")
	if _, err := h.answer(form, "peter", consumed); err != nil {
		t.Fatal(cause(err))
	}
	expired := h.approve(form, "peter")
	h.advance(time.Minute)
	other := h.approve(params("state", "another state"), "peter")
	unknown := newHost(t).approve(form, "peter")

	outer := map[string]bool{}
	for reason, token := range map[error]fositeconsent.Token{
		fositeconsent.ErrGrantConsumed:   consumed,
		fositeconsent.ErrGrantExpired:    expired,
		fositeconsent.ErrBindingMismatch: other,
		fositeconsent.ErrGrantNotFound:   unknown,
		fositeconsent.ErrMalformedToken:  {},
	} {
		for _, prompt := range []string{"", "consent", "none"} {
			form := params("prompt", prompt)
			_, err := h.answer(form, "peter", token)
			if !errors.Is(err, reason) {
				t.Errorf("refused with %v, expected %v", cause(err), reason)
			}
			if got := fositeconsent.NeedsConsent(err); got != (prompt != "none") {
				t.Errorf("%v with prompt=%q: NeedsConsent is %v", reason, prompt, got)
			}
			e := fosite.ErrorToRFC6749Error(err)
			if e.DebugField != "" {
				t.Errorf("the error has debug text: %s", e.DebugField)
			}
			outer[fmt.Sprint(prompt == "none", " ", e.WithExposeDebug(true).WithLegacyFormat(true).ToValues())] = true
			if want := map[bool]*fosite.RFC6749Error{true: fosite.ErrConsentRequired, false: fosite.ErrAccessDenied}[prompt == "none"]; !errors.Is(err, want) {
				t.Errorf("%v with prompt=%q is %s at the client", reason, prompt, e.ErrorField)
			}
			if e := h.event(); e.Err == nil || e.Reason == "" || e.Reason == "error" || e.GrantID != token.ID() {
				t.Errorf("%v: the event is %+v", reason, e)
			}
		}
	}
	if len(outer) != 2 {
		t.Errorf("a client can tell reasons apart: %v", outer)
	}
}

func TestMalformedTokenNeverReachesTheStorage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	resp, err := h.answer(params(), "peter", fositeconsent.Token{})
	h.refused(resp, err, fositeconsent.ErrMalformedToken)
	if h.grants.consumed.Load() != 0 {
		t.Error("the storage was asked")
	}
}

// REQUIREMENTS 11.
func TestPromptNoneNeverLeadsToAPage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	form := params("prompt", "none")
	_, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(form), h.login("peter"))
	if !errors.Is(err, fosite.ErrConsentRequired) || fositeconsent.NeedsConsent(err) {
		t.Errorf("the response: %v, NeedsConsent %v", err, fositeconsent.NeedsConsent(err))
	}
	if _, err := h.gate.Prompt(t.Context(), h.parse(form), h.login("peter")); !errors.Is(err, fosite.ErrConsentRequired) || fositeconsent.NeedsConsent(err) {
		t.Errorf("Prompt: %v", err)
	}
	if _, err := h.gate.Prompt(t.Context(), h.parse(form), h.login("")); !errors.Is(err, fosite.ErrLoginRequired) {
		t.Errorf("Prompt without a login: %v", err)
	}
	// A page that was shown without it cannot be answered with it.
	p := h.prompt(params(), "peter")
	if _, err := h.gate.Mint(t.Context(), h.parse(form), h.login("peter"), p.Ticket, all(p)); !errors.Is(err, fositeconsent.ErrBindingMismatch) || fositeconsent.NeedsConsent(err) {
		t.Errorf("Mint: %v", cause(err))
	}
	for _, prompt := range []string{"none login", "login none", "none consent", "none  none"} {
		if _, err := h.gate.Prompt(t.Context(), h.parse(params("prompt", prompt)), h.login("peter")); !errors.Is(err, fosite.ErrInvalidRequest) {
			t.Errorf("prompt=%q: %v", prompt, err)
		}
	}
	// With a grant it passes like any other request.
	resp, err := h.answer(form, "peter", h.approve(params(), "peter"))
	if err != nil || resp.GetCode() == "" {
		t.Errorf("with a grant: %v", cause(err))
	}
}

func TestSessionWithoutSubjectIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	token := h.approve(params(), "peter")
	for name, session := range map[string]fosite.Session{
		"no subject": h.login(""), "nil": nil, "a nil pointer": (*fosite.DefaultSession)(nil),
	} {
		resp, err := h.respond(h.parse(params()), session, token)
		h.refused(resp, err, fositeconsent.ErrLoginRequired)
		if !errors.Is(err, fosite.ErrLoginRequired) || fositeconsent.NeedsConsent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h.grants.consumed.Load() != 0 {
		t.Error("the storage was asked")
	}
}

// jwtTokenSession is a session for fosite's JWT access tokens.
type jwtTokenSession struct{ *oauth2.JWTSession }

func TestEverySubjectInTheSessionMustBeTheOneThatDecided(t *testing.T) {
	t.Parallel()
	otherID := func(h *host) fosite.Session { s := h.login("peter"); s.Claims.Subject = "mallory"; return s }
	noID := func(h *host) fosite.Session { s := h.login("peter"); s.Claims.Subject = ""; return s }
	otherJWT := func(*host) fosite.Session {
		return &jwtTokenSession{&oauth2.JWTSession{JWTClaims: &jwt.JWTClaims{Subject: "mallory"}, Subject: "peter"}}
	}
	extraJWT := func(*host) fosite.Session {
		return &jwtTokenSession{&oauth2.JWTSession{JWTClaims: &jwt.JWTClaims{Subject: "mallory", Extra: map[string]interface{}{"sub": 7}}, Subject: "peter"}}
	}
	goodJWT := func(*host) fosite.Session {
		return &jwtTokenSession{&oauth2.JWTSession{JWTClaims: &jwt.JWTClaims{Subject: "peter"}, Subject: "peter"}}
	}
	for name, c := range map[string]struct {
		scope   string
		session func(*host) fosite.Session
		ok      bool
	}{
		"another ID token subject":                       {"openid photos", otherID, false},
		"no ID token subject with openid":                {"openid photos", noID, false},
		"another ID token subject without openid":        {"photos", otherID, false},
		"no ID token subject without openid":             {"photos", noID, true},
		"another access token subject":                   {"photos", otherJWT, false},
		"another access token subject, in the extra too": {"photos", extraJWT, false},
		"the right access token subject":                 {"photos", goodJWT, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			form := params("scope", c.scope)
			token := h.approve(form, "peter")
			resp, err := h.respond(h.parse(form), c.session(h), token)
			if c.ok {
				if err != nil {
					t.Fatalf("refused: %v", cause(err))
				}
				return
			}
			h.refused(resp, err, fositeconsent.ErrMisconfigured)
			if _, err := h.answer(form, "peter", token); err != nil {
				t.Errorf("the grant was spent: %v", cause(err))
			}
			if _, err := h.gate.Prompt(t.Context(), h.parse(form), c.session(h)); !errors.Is(err, fositeconsent.ErrMisconfigured) {
				t.Errorf("a page was made all the same: %v", err)
			}
		})
	}
}

func TestPairwiseSubjects(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(_ *host, c *fositeconsent.Config) {
		c.TokenSubject = func(_ context.Context, ar fosite.AuthorizeRequester, subject string) (string, error) {
			switch subject {
			case "broken":
				return "", errors.New("no salt")
			case "blank":
				return "", nil
			}
			return subject + "@" + ar.GetClient().GetID(), nil
		}
	})
	pairwise := func(subject, tokens string) fosite.Session {
		s := h.login(subject)
		s.Claims.Subject = tokens
		return s
	}
	good := pairwise("peter", "peter@app")
	p, err := h.gate.Prompt(t.Context(), h.parse(params()), good)
	if err != nil {
		t.Fatal(cause(err))
	}
	token, err := h.gate.Mint(t.Context(), h.parse(params()), good, p.Ticket, all(p))
	if err != nil {
		t.Fatal(cause(err))
	}
	for _, session := range []fosite.Session{pairwise("peter", "peter"), pairwise("peter", ""), pairwise("broken", "broken"), pairwise("blank", ""), pairwise("blank", "blank")} {
		if _, err := h.respond(h.parse(params()), session, token); err == nil {
			t.Errorf("a session for %q was accepted", session.GetSubject())
		}
	}
	if _, err := h.respond(h.parse(params()), good, token); err != nil {
		t.Errorf("refused: %v", cause(err))
	}
}

func TestPartialConsent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ scopes, audience []string }{
		"everything":   {[]string{"openid", "photos", "offline_access"}, []string{"https://api.example"}},
		"a part":       {[]string{"openid", "photos"}, []string{"https://api.example"}},
		"no audience":  {[]string{"openid", "photos"}, nil},
		"openid alone": {[]string{"openid"}, nil},
		"listed twice": {[]string{"openid", "photos", "openid"}, []string{"https://api.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			p := h.prompt(params(), "peter")
			token, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: c.scopes, Audience: c.audience})
			if err != nil {
				t.Fatal(cause(err))
			}
			ar := h.parse(params())
			if _, err := h.respond(ar, h.login("peter"), token); err != nil {
				t.Fatal(cause(err))
			}
			unique := slices.Compact(slices.Sorted(slices.Values(c.scopes)))
			if !equalSets(ar.GetGrantedScopes(), unique) || len(ar.GetGrantedAudience()) != min(1, len(c.audience)) {
				t.Errorf("granted %v for %v", ar.GetGrantedScopes(), ar.GetGrantedAudience())
			}
			for _, code := range h.store.AuthorizeCodes {
				if !equalSets(code.GetGrantedScopes(), unique) {
					t.Errorf("the code carries %v", code.GetGrantedScopes())
				}
			}
		})
	}
}

func TestDecisionBeyondTheRequestIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	request := params("scope", "openid photos photos.* OPENID Offline openİd offlİne pho\"tos")
	for name, d := range map[string]fositeconsent.Decision{
		"a scope that was not requested":          {Scopes: []string{"openid", "contacts"}},
		"another case":                            {Scopes: []string{"openid", "Photos"}},
		"a space in it":                           {Scopes: []string{"openid photos"}},
		"an empty scope":                          {Scopes: []string{"openid", ""}},
		"an audience that was not requested":      {Scopes: []string{"openid"}, Audience: []string{"https://other.example"}},
		"an empty audience":                       {Scopes: []string{"openid"}, Audience: []string{""}},
		"openid declined":                         {Scopes: []string{"photos"}},
		"everything declined":                     {},
		"a wildcard that was requested":           {Scopes: []string{"openid", "photos.*"}},
		"what fosite takes for openid":            {Scopes: []string{"openid", "OPENID"}},
		"openid declined but for another case":    {Scopes: []string{"OPENID"}},
		"what fosite takes for openid by folding": {Scopes: []string{"openid", "openİd"}},
		"a quote":                                  {Scopes: []string{"openid", "pho\"tos"}},
		"more than was requested":                  {Scopes: slices.Repeat([]string{"openid"}, 9)},
		"more audience than was requested":         {Scopes: []string{"openid"}, Audience: []string{"https://api.example", "https://api.example"}},
		"what fosite takes for offline by folding": {Scopes: []string{"openid", "offlİne"}},
		"what fosite takes for offline":            {Scopes: []string{"openid", "Offline"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			p := h.prompt(request, "peter")
			token, err := h.gate.Mint(t.Context(), h.parse(request), h.login("peter"), p.Ticket, d)
			if !errors.Is(err, fositeconsent.ErrInvalidDecision) || fositeconsent.NeedsConsent(err) || token != (fositeconsent.Token{}) {
				t.Errorf("Mint: %v", cause(err))
			}
			if !errors.Is(err, fosite.ErrAccessDenied) || h.grants.created.Load() != 0 {
				t.Errorf("%v, and %d calls of the storage", err, h.grants.created.Load())
			}
			// The page can still be answered.
			if _, err := h.gate.Mint(t.Context(), h.parse(request), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: []string{"openid"}}); err != nil {
				t.Errorf("afterwards: %v", cause(err))
			}
		})
	}
}

// Long lists are compared in another way than short ones.
func TestLongDecisions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var scopes []string
	for i := range 40 {
		scopes = append(scopes, fmt.Sprintf("scope%d", i))
	}
	registered := h.store.Clients["app"].(*client)
	registered.Scopes = scopes
	form := params("scope", strings.Join(scopes, " "))
	for position := range scopes {
		wrong := slices.Clone(scopes)
		wrong[position] = "contacts"
		p := h.prompt(form, "peter")
		if _, err := h.gate.Mint(t.Context(), h.parse(form), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: wrong}); !errors.Is(err, fositeconsent.ErrInvalidDecision) {
			t.Errorf("a scope that was not requested in place %d: %v", position, cause(err))
		}
	}
	p := h.prompt(form, "peter")
	token, err := h.gate.Mint(t.Context(), h.parse(form), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: scopes[:39]})
	if err != nil {
		t.Fatal(cause(err))
	}
	ar := h.parse(form)
	if _, err := h.respond(ar, h.login("peter"), token); err != nil || !equalSets(ar.GetGrantedScopes(), scopes[:39]) {
		t.Errorf("granted %v: %v", ar.GetGrantedScopes(), cause(err))
	}
	more := h.approve(form, "peter")
	h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, &meddler{
		func(_ context.Context, ar fosite.AuthorizeRequester, _ fosite.AuthorizeResponder) error {
			ar.GrantScope("contacts")
			return nil
		},
	})
	if resp, err := h.answer(form, "peter", more); resp != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("one more than was decided: %v", cause(err))
	}
}

func TestWhatTheHostGrantedBeforehandIsRefusedNotDropped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		grant func(fosite.AuthorizeRequester)
		ok    bool
	}{
		"a declined scope":     {func(ar fosite.AuthorizeRequester) { ar.GrantScope("photos") }, false},
		"an unrequested scope": {func(ar fosite.AuthorizeRequester) { ar.GrantScope("contacts") }, false},
		"another case":         {func(ar fosite.AuthorizeRequester) { ar.GrantScope("OpenID") }, false},
		"a declined audience":  {func(ar fosite.AuthorizeRequester) { ar.GrantAudience("https://api.example") }, false},
		"what was approved":    {func(ar fosite.AuthorizeRequester) { ar.GrantScope("openid") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			p := h.prompt(params(), "peter")
			token, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: []string{"openid"}})
			if err != nil {
				t.Fatal(cause(err))
			}
			ar := h.parse(params())
			c.grant(ar)
			resp, err := h.respond(ar, h.login("peter"), token)
			if c.ok {
				if err != nil || !equalSets(ar.GetGrantedScopes(), []string{"openid"}) {
					t.Errorf("granted %v: %v", ar.GetGrantedScopes(), cause(err))
				}
				return
			}
			h.refused(resp, err, fositeconsent.ErrMisconfigured)
			if text := cause(err).Error(); !strings.Contains(text, "remove the host's calls of GrantScope") {
				t.Errorf("the error does not say what to do: %s", text)
			}
		})
	}
}

// meddler is a handler of the host's that comes after the gate.
type meddler struct {
	meddle func(context.Context, fosite.AuthorizeRequester, fosite.AuthorizeResponder) error
}

func (m *meddler) HandleAuthorizeEndpointRequest(ctx context.Context, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder) error {
	return m.meddle(ctx, ar, resp)
}

func TestLaterHandlerCannotChangeWhatWasDecided(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(fosite.AuthorizeRequester){
		"a scope more":     func(ar fosite.AuthorizeRequester) { ar.GrantScope("contacts") },
		"an audience more": func(ar fosite.AuthorizeRequester) { ar.GrantAudience("https://other.example") },
		"a scope less":     func(ar fosite.AuthorizeRequester) { ar.(*fosite.AuthorizeRequest).GrantedScope = nil },
		"another subject": func(ar fosite.AuthorizeRequester) {
			ar.GetSession().(interface{ SetSubject(string) }).SetSubject("mallory")
		},
		"no session": func(ar fosite.AuthorizeRequester) { ar.SetSession(nil) },
		"another redirect URI": func(ar fosite.AuthorizeRequester) {
			ar.(*fosite.AuthorizeRequest).RedirectURI, _ = url.Parse("https://evil.example/cb")
		},
		"another state":         func(ar fosite.AuthorizeRequester) { ar.(*fosite.AuthorizeRequest).State = "another" },
		"another response mode": func(ar fosite.AuthorizeRequester) { ar.(*fosite.AuthorizeRequest).ResponseMode = "fragment" },
		"another client": func(ar fosite.AuthorizeRequester) {
			ar.(*fosite.AuthorizeRequest).Client = &fosite.DefaultClient{ID: "other"}
		},
		"no PKCE": func(ar fosite.AuthorizeRequester) { ar.GetRequestForm().Del("code_challenge") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, &meddler{
				func(_ context.Context, ar fosite.AuthorizeRequester, _ fosite.AuthorizeResponder) error {
					meddle(ar)
					return nil
				},
			})
			resp, err := h.answer(params(), "peter", h.approve(params(), "peter"))
			if resp != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) {
				t.Errorf("a response came out: %v", cause(err))
			}
		})
	}
}

func TestFailureOfALaterHandlerIsPassedOn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, &meddler{
		func(context.Context, fosite.AuthorizeRequester, fosite.AuthorizeResponder) error {
			return errorsx.WithStack(fosite.ErrServerError.WithHint("disk full").WithWrap(errors.New("no space left")))
		},
	})
	resp, err := h.answer(params(), "peter", h.approve(params(), "peter"))
	if resp != nil || !errors.Is(err, fosite.ErrServerError) || fosite.ErrorToRFC6749Error(err).HintField != "disk full" || fositeconsent.NeedsConsent(err) {
		t.Errorf("%v, %v", resp, err)
	}
	if e := h.event(); e.Reason != "response_failed" || e.GrantID.IsZero() || len(e.GrantedScopes) == 0 || !e.Consumed || !strings.Contains(e.LogValue().String(), "no space left") || !strings.Contains(e.LogValue().String(), "disk full") {
		t.Errorf("the event is %+v and logs %s", e, e.LogValue())
	}
}

func TestDataReachesTheSessionBeforeAnyToken(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(_ *host, c *fositeconsent.Config) {
		c.ApplyData = func(_ context.Context, ar fosite.AuthorizeRequester, data []byte) error {
			switch string(data) {
			case "fail":
				return errors.New("unreadable")
			case "grant":
				ar.GrantScope("contacts")
			case "subject":
				ar.GetSession().(interface{ SetSubject(string) }).SetSubject("mallory")
			case "replace":
				s := openid.NewDefaultSession()
				s.Subject, s.Claims.Subject = "mallory", "mallory"
				ar.SetSession(s)
			case "redirect":
				ar.(*fosite.AuthorizeRequest).RedirectURI, _ = url.Parse("https://app.example/other")
			}
			ar.GetSession().(interface{ IDTokenClaims() *jwt.IDTokenClaims }).IDTokenClaims().Extra = map[string]interface{}{"data": string(data)}
			return nil
		}
	})
	mint := func(data string) fositeconsent.Token {
		p := h.prompt(params(), "peter")
		d := all(p)
		d.Data = []byte(data)
		token, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, d)
		if err != nil {
			t.Fatal(cause(err))
		}
		return token
	}
	for _, data := range []string{"fail", "grant", "subject", "replace", "redirect"} {
		resp, err := h.answer(params(), "peter", mint(data))
		if resp != nil || err == nil || h.stored() != 0 {
			t.Errorf("data %q: %v, and %d rows", data, cause(err), h.stored())
		}
	}
	if _, err := h.answer(params(), "peter", mint("hello")); err != nil {
		t.Fatal(cause(err))
	}
	for _, code := range h.store.AuthorizeCodes {
		if got := code.GetSession().(interface{ IDTokenClaims() *jwt.IDTokenClaims }).IDTokenClaims().Extra["data"]; got != "hello" {
			t.Errorf("the stored session has %v", got)
		}
	}
	p := h.prompt(params(), "peter")
	d := all(p)
	d.Data = make([]byte, fositeconsent.MaxDataSize+1)
	if _, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, d); !errors.Is(err, fositeconsent.ErrInvalidDecision) {
		t.Errorf("too much data: %v", cause(err))
	}
	plain := newHost(t)
	p = plain.prompt(params(), "peter")
	d = all(p)
	d.Data = []byte("x")
	if _, err := plain.gate.Mint(t.Context(), plain.parse(params()), plain.login("peter"), p.Ticket, d); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("data without a hook: %v", cause(err))
	}
	token := plain.approve(params(), "peter")
	plain.grants.onConsume = func(g *fositeconsent.Grant, err error) (*fositeconsent.Grant, error) {
		g.Data = []byte("minted by a node that has the hook")
		return g, err
	}
	resp, err := plain.answer(params(), "peter", token)
	plain.refused(resp, err, fositeconsent.ErrMisconfigured)
}

// REQUIREMENTS 22.
func TestMaxAgeIsEvaluatedWhenTheResponseIsIssued(t *testing.T) {
	t.Parallel()
	for _, scope := range []string{"openid photos", "photos"} {
		h := newHost(t)
		form := params("max_age", "60", "scope", scope)
		session := h.login("peter")
		p, err := h.gate.Prompt(t.Context(), h.parse(form), session)
		if err != nil {
			t.Fatal(cause(err))
		}
		h.advance(40 * time.Second)
		token, err := h.gate.Mint(t.Context(), h.parse(form), session, p.Ticket, all(p))
		if err != nil {
			t.Fatal(cause(err))
		}
		h.advance(30 * time.Second)
		resp, err := h.respond(h.parse(form), session, token)
		h.refused(resp, err, fositeconsent.ErrLoginRequired)
		if _, err := h.answer(form, "peter", token); err != nil { // a new login, and the grant is still good
			t.Errorf("after a new login: %v", cause(err))
		}
	}
	h := newHost(t)
	for value, reason := range map[string]error{
		"-1": fositeconsent.ErrInvalidRequest, "1.5": fositeconsent.ErrInvalidRequest, "abc": fositeconsent.ErrInvalidRequest, "%!s(int64=60)": fositeconsent.ErrInvalidRequest,
		"99999999999999999999": fositeconsent.ErrInvalidRequest, " 60": fositeconsent.ErrInvalidRequest,
		"0": fositeconsent.ErrLoginRequired,
	} {
		session := h.login("peter")
		session.Claims.RequestedAt = h.now().Add(time.Second)
		if _, err := h.gate.Prompt(t.Context(), h.parse(params("max_age", value)), session); !errors.Is(err, reason) {
			t.Errorf("max_age=%s: %v, expected %v", value, cause(err), reason)
		}
	}
	for name, c := range map[string]struct {
		maxAge      string
		age         time.Duration
		noRequested bool
		ok          bool
	}{
		"as old as allowed":          {"60", 60 * time.Second, false, true},
		"a moment older":             {"60", 60*time.Second + 1, false, false},
		"ahead, as clocks are":       {"60", -5 * time.Second, false, true},
		"further ahead":              {"60", -5*time.Second - 1, false, false},
		"an unknown time of arrival": {"0", 0, true, false},
		"signed in when it came in":  {"0", 0, false, true},
		"an empty value is no value": {"", 24 * time.Hour, false, true},
	} {
		h := newHost(t)
		now := h.now().Round(0)
		h.gate.SetClock(func() time.Time { return now })
		session := h.login("peter")
		session.Claims.AuthTime = now.Add(-c.age)
		session.Claims.RequestedAt = session.Claims.AuthTime
		if c.noRequested {
			session.Claims.RequestedAt = time.Time{}
		}
		form := params()
		form.Set("max_age", c.maxAge)
		if _, err := h.gate.Prompt(t.Context(), h.parse(form), session); (err == nil) != c.ok || err != nil && !errors.Is(err, fositeconsent.ErrLoginRequired) {
			t.Errorf("%s: %v", name, cause(err))
		}
	}
	fresh := h.login("peter")
	fresh.Claims.RequestedAt = fresh.Claims.AuthTime.Add(-time.Second)
	if _, err := h.gate.Prompt(t.Context(), h.parse(params("max_age", "0")), fresh); err != nil {
		t.Errorf("max_age=0 after a login for this request: %v", cause(err))
	}
	future := h.login("peter")
	future.Claims.AuthTime = h.now().Add(time.Minute)
	if _, err := h.gate.Prompt(t.Context(), h.parse(params("max_age", "60")), future); !errors.Is(err, fositeconsent.ErrLoginRequired) {
		t.Errorf("a login in the future: %v", cause(err))
	}
	if _, err := h.gate.Prompt(t.Context(), h.parse(params("max_age", "60", "scope", "photos")), &fosite.DefaultSession{Subject: "peter"}); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("a session without AuthTime: %v", cause(err))
	}
}

func TestPromptLoginAsksForALoginSinceTheRequestCameIn(t *testing.T) {
	t.Parallel()
	for _, scope := range []string{"openid photos", "photos"} { // fosite looks only with openid, and only after a code was stored
		h := newHost(t)
		form := params("prompt", "login", "scope", scope)
		token := h.approve(form, "peter")
		old := h.login("peter")
		old.Claims.RequestedAt = old.Claims.AuthTime.Add(time.Nanosecond)
		resp, err := h.respond(h.parse(form), old, token)
		h.refused(resp, err, fositeconsent.ErrLoginRequired)
		if _, err := h.gate.Prompt(t.Context(), h.parse(form), old); !errors.Is(err, fositeconsent.ErrLoginRequired) {
			t.Errorf("a page was made: %v", cause(err))
		}
		if _, err := h.answer(form, "peter", token); err != nil {
			t.Errorf("after a login: %v", cause(err))
		}
	}
}

func TestResponseIsWrittenForItsOwnRequestAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	form := params()
	write := func(ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder) *url.URL {
		w := httptest.NewRecorder()
		h.provider.WriteAuthorizeResponse(t.Context(), w, ar, resp)
		location, err := w.Result().Location()
		if err != nil {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		return location
	}
	issue := func() (fosite.AuthorizeRequester, fosite.AuthorizeResponder) {
		ar := h.parse(form)
		resp, err := h.respond(ar, h.login("peter"), h.approve(form, "peter"))
		if err != nil {
			t.Fatal(cause(err))
		}
		return ar, resp
	}
	other := h.parse(params("redirect_uri", "https://app.example/other"))
	_, resp := issue()
	if u := write(other, resp); u.Query().Has("code") || u.Query().Get("error") != "server_error" {
		t.Errorf("for another request: %s", u)
	}
	if e := h.event(); e.Reason != "misconfigured" || e.Consumed || e.Action != fositeconsent.ActionConsume {
		t.Errorf("the event is %+v", e)
	}
	changed, resp := issue()
	changed.(*fosite.AuthorizeRequest).RedirectURI, _ = url.Parse("https://app.example/other")
	if u := write(changed, resp); u.Query().Has("code") {
		t.Errorf("for a request that was changed: %s", u)
	}
	forged := fosite.NewAuthorizeResponse()
	forged.AddParameter("code", "forged")
	if u := write(h.parse(form), forged); u.Query().Has("code") {
		t.Errorf("a response of the host's own: %s", u)
	}
	ar, resp := issue()
	if u := write(ar, resp); u.Query().Get("code") != resp.GetCode() || u.Path != "/cb" || u.Query().Get("state") != form.Get("state") {
		t.Errorf("for its own request: %s", u)
	}
}

// A context that went through the gate for one request opens nothing else.
func TestPassageIsForOneRequestOfOneProvider(t *testing.T) {
	t.Parallel()
	h, another := newHost(t), newHost(t)
	token, anothers := h.approve(params(), "peter"), another.approve(params(), "peter")
	var inside context.Context
	h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, &meddler{
		func(ctx context.Context, _ fosite.AuthorizeRequester, _ fosite.AuthorizeResponder) error {
			inside = ctx //nolint:fatcontext // of the one call below
			return nil
		},
	})
	ar := h.parse(params())
	if _, err := h.respond(ar, h.login("peter"), token); err != nil {
		t.Fatal(cause(err))
	}
	second := h.approve(params(), "peter")
	if _, err := h.raw.NewAuthorizeResponse(fositeconsent.WithToken(inside, second), h.parse(params()), h.login("peter")); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("another request: %v", cause(err))
	}
	resp, err := another.raw.NewAuthorizeResponse(fositeconsent.WithToken(inside, anothers), ar, another.login("peter"))
	another.refused(resp, err, fositeconsent.ErrMisconfigured)
}

func TestRequestThatIsNotCompleteIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for name, change := range map[string]func(*fosite.AuthorizeRequest){
		"no client":           func(ar *fosite.AuthorizeRequest) { ar.Client = nil },
		"a nil client":        func(ar *fosite.AuthorizeRequest) { ar.Client = (*fosite.DefaultClient)(nil) },
		"a client without id": func(ar *fosite.AuthorizeRequest) { ar.Client = &fosite.DefaultClient{} },
		"no redirect URI":     func(ar *fosite.AuthorizeRequest) { ar.RedirectURI = nil },
		"no response type":    func(ar *fosite.AuthorizeRequest) { ar.ResponseTypes = nil },
		"malformed UTF-8":     func(ar *fosite.AuthorizeRequest) { ar.Form.Set("resource", "\xff") },
	} {
		token := h.approve(params(), "peter")
		ar := h.parse(params()).(*fosite.AuthorizeRequest)
		change(ar)
		if _, err := h.gate.Prompt(t.Context(), ar, h.login("peter")); !errors.Is(err, fositeconsent.ErrInvalidRequest) {
			t.Errorf("%s: a page: %v", name, cause(err))
		}
		resp, err := h.respond(ar, h.login("peter"), token)
		h.refused(resp, err, fositeconsent.ErrInvalidRequest)
	}
	if _, err := h.gate.Prompt(t.Context(), nil, h.login("peter")); !errors.Is(err, fositeconsent.ErrInvalidRequest) {
		t.Errorf("no request: %v", cause(err))
	}
}

func TestStorageFailureIsNeverAYes(t *testing.T) {
	t.Parallel()
	timeout := fmt.Errorf("send: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		lie    func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error)
		client *fosite.RFC6749Error
	}{
		"an error":                {func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, errors.New("down") }, fosite.ErrServerError},
		"a time-out":              {func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, timeout }, fosite.ErrTemporarilyUnavailable},
		"a cancelled call":        {func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, context.Canceled }, fosite.ErrTemporarilyUnavailable},
		"a grant and an error":    {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) { return g, errors.New("down") }, fosite.ErrServerError},
		"neither grant nor error": {func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, nil }, fosite.ErrServerError}, //nolint:nilnil // the point
		"fosite's own error":      {func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, fosite.ErrNotFound }, fosite.ErrServerError},
		"a reason of another method": {func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) {
			return nil, fositeconsent.ErrAlreadyDecided
		}, fosite.ErrServerError},
		"a denied grant":  {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) { g.Denied = true; return g, nil }, fosite.ErrServerError},
		"another grant":   {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) { g.ID[15]++; return g, nil }, fosite.ErrServerError},
		"another binding": {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) { g.Binding[0]++; return g, nil }, fosite.ErrServerError},
		"another subject": {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) {
			g.Subject = "mallory"
			return g, nil
		}, fosite.ErrServerError},
		"another client": {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) {
			g.ClientID = "other"
			return g, nil
		}, fosite.ErrServerError},
		"more scopes": {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) {
			g.Scopes = append(g.Scopes, "contacts")
			return g, nil
		}, fosite.ErrServerError},
		"no scopes": {func(g *fositeconsent.Grant, _ error) (*fositeconsent.Grant, error) { g.Scopes = nil; return g, nil }, fosite.ErrServerError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			token := h.approve(params(), "peter")
			h.grants.onConsume = c.lie
			resp, err := h.answer(params(), "peter", token)
			h.refused(resp, err, fositeconsent.ErrStorage)
			if !errors.Is(err, c.client) || fositeconsent.NeedsConsent(err) || fosite.ErrorToRFC6749Error(err).DebugField != "" {
				t.Errorf("the client gets %v, a page: %v", err, fositeconsent.NeedsConsent(err))
			}
			if h.event().Reason != "storage" {
				t.Errorf("the event's reason is %q", h.event().Reason)
			}
		})
	}
}

func TestMintAndDenyFailWithTheStorage(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.grants.onCreate = func(*fositeconsent.Grant) error { return errors.New("down") }
	p := h.prompt(params(), "peter")
	token, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, all(p))
	if !errors.Is(err, fositeconsent.ErrStorage) || !errors.Is(err, fosite.ErrServerError) || token != (fositeconsent.Token{}) || fositeconsent.NeedsConsent(err) {
		t.Errorf("Mint: %v", cause(err))
	}
	if err := h.gate.Deny(t.Context(), h.parse(params()), h.login("peter"), p.Ticket); !errors.Is(err, fositeconsent.ErrStorage) {
		t.Errorf("Deny: %v", cause(err))
	}
}

// REQUIREMENTS 5.
func TestOnePageIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	mint := func(p *fositeconsent.Prompt) error {
		_, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, all(p))
		return err
	}
	deny := func(p *fositeconsent.Prompt) error {
		return h.gate.Deny(t.Context(), h.parse(params()), h.login("peter"), p.Ticket)
	}
	for _, first := range []func(*fositeconsent.Prompt) error{mint, deny} {
		p := h.prompt(params(), "peter")
		if err := first(p); err != nil {
			t.Fatal(cause(err))
		}
		for _, second := range []func(*fositeconsent.Prompt) error{mint, deny} {
			if err := second(p); !errors.Is(err, fositeconsent.ErrAlreadyDecided) || !fositeconsent.NeedsConsent(err) || !errors.Is(err, fosite.ErrAccessDenied) {
				t.Errorf("the second answer: %v", cause(err))
			}
		}
	}
	if !h.grants.lastCreate.Denied {
		t.Error("the denial is stored as an approval")
	}
	p := h.prompt(params(), "peter")
	won, done, mu := 0, sync.WaitGroup{}, sync.Mutex{}
	for range 64 {
		ar, session := h.parse(params()), h.login("peter")
		done.Go(func() {
			_, err := h.gate.Mint(context.Background(), ar, session, p.Ticket, all(p))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, fositeconsent.ErrAlreadyDecided) {
				t.Errorf("a loser got %v", cause(err))
			}
		})
	}
	done.Wait()
	if won != 1 {
		t.Errorf("%d of 64 mints won", won)
	}
}

func TestTicketIsGoodForItsPageAlone(t *testing.T) {
	t.Parallel()
	withLogin := func(_ *host, c *fositeconsent.Config) {
		c.LoginSession = func(_ context.Context, s fosite.Session) (string, error) {
			if s.GetUsername() == "fail" {
				return "", errors.New("no session store")
			}
			return s.GetUsername(), nil
		}
	}
	h := newHost(t, withLogin)
	in := func(login string) fosite.Session { s := h.login("peter"); s.Username = login; return s }
	p, err := h.gate.Prompt(t.Context(), h.parse(params()), in("login-1"))
	if err != nil {
		t.Fatal(cause(err))
	}
	mallory := h.login("mallory")
	mallory.Username = "login-1"
	foreign, err := newHost(t, withLogin, func(h *host, _ *fositeconsent.Config) {
		h.config.GlobalSecret = []byte("another global secret, of 32 bytes or more")
	}).gate.Prompt(t.Context(), h.parse(params()), in("login-1"))
	if err != nil {
		t.Fatal(cause(err))
	}
	otherIssuer, err := newHost(t, withLogin, func(_ *host, c *fositeconsent.Config) { c.Issuer = "https://other.example" }).
		gate.Prompt(t.Context(), h.parse(params()), in("login-1"))
	if err != nil {
		t.Fatal(cause(err))
	}
	for name, c := range map[string]struct {
		form    url.Values
		session fosite.Session
		ticket  string
		reason  error
	}{
		"another user":                     {params(), mallory, p.Ticket, fositeconsent.ErrForeignTicket},
		"another login of the same user":   {params(), in("login-2"), p.Ticket, fositeconsent.ErrForeignTicket},
		"no login":                         {params(), in(""), p.Ticket, fositeconsent.ErrMisconfigured},
		"a login that cannot be looked up": {params(), in("fail"), p.Ticket, fosite.ErrServerError},
		"nobody":                           {params(), &fosite.DefaultSession{}, p.Ticket, fositeconsent.ErrLoginRequired},
		"another request":                  {params("state", "another state"), in("login-1"), p.Ticket, fositeconsent.ErrBindingMismatch},
		"another scope":                    {params("scope", "openid"), in("login-1"), p.Ticket, fositeconsent.ErrBindingMismatch},
		"a changed ticket":                 {params(), in("login-1"), p.Ticket[:len(p.Ticket)-6] + "AAAAAA", fositeconsent.ErrInvalidTicket},
		"no ticket":                        {params(), in("login-1"), "", fositeconsent.ErrInvalidTicket},
		"another server's ticket":          {params(), in("login-1"), foreign.Ticket, fositeconsent.ErrInvalidTicket},
		"another issuer's ticket":          {params(), in("login-1"), otherIssuer.Ticket, fositeconsent.ErrInvalidTicket},
	} {
		if _, err := h.gate.Mint(t.Context(), h.parse(c.form), c.session, c.ticket, all(p)); !errors.Is(err, c.reason) {
			t.Errorf("%s mints: %v, expected %v", name, cause(err), c.reason)
		}
		if err := h.gate.Deny(t.Context(), h.parse(c.form), c.session, c.ticket); !errors.Is(err, c.reason) {
			t.Errorf("%s denies: %v, expected %v", name, cause(err), c.reason)
		}
	}
	if h.grants.created.Load() != 0 {
		t.Fatal("something was stored")
	}
	// The ticket is still good for its own page, to the last moment.
	h.advance(30*time.Minute - time.Second)
	token, err := h.gate.Mint(t.Context(), h.parse(params()), in("login-1"), p.Ticket, all(p))
	if err != nil {
		t.Fatal(cause(err))
	}
	if _, err := h.respond(h.parse(params()), in("login-2"), token); !errors.Is(err, fositeconsent.ErrBindingMismatch) {
		t.Errorf("another login of the same user consumes: %v", cause(err))
	}
	if _, err := h.respond(h.parse(params()), in("login-1"), token); err != nil {
		t.Errorf("refused: %v", cause(err))
	}
	clock := h.now().Truncate(time.Millisecond)
	h.gate.SetClock(func() time.Time { return clock })
	late, err := h.gate.Prompt(t.Context(), h.parse(params()), in("login-1"))
	if err != nil {
		t.Fatal(cause(err))
	}
	clock = late.ExpiresAt
	if _, err := h.gate.Mint(t.Context(), h.parse(params()), in("login-1"), late.Ticket, all(late)); !errors.Is(err, fositeconsent.ErrTicketExpired) {
		t.Errorf("at the end of its life: %v", cause(err))
	}
}

func TestGlobalSecretsCanBeRotated(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.prompt(params(), "peter")
	h.config.RotatedGlobalSecrets = [][]byte{h.config.GlobalSecret}
	h.config.GlobalSecret = []byte("a new global secret of at least 32 bytes")
	if _, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, all(p)); err != nil {
		t.Errorf("a page of the rotated secret: %v", cause(err))
	}
	p = h.prompt(params(), "peter")
	h.config.RotatedGlobalSecrets = nil
	if _, err := h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, all(p)); err != nil {
		t.Errorf("a page of the new secret: %v", cause(err))
	}
}

func TestPromptSaysWhatIsRequested(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.prompt(params(), "peter")
	if p.Client.GetID() != "app" || p.Subject != "peter" || p.RedirectURI != "https://app.example/cb" || p.ID.IsZero() ||
		!slices.Equal(p.Scopes, []string{"openid", "photos", "offline_access"}) || !slices.Equal(p.RequiredScopes, []string{"openid"}) ||
		!slices.Equal(p.Audience, []string{"https://api.example"}) || p.ExpiresAt.Sub(h.now()).Round(time.Minute) != 30*time.Minute {
		t.Errorf("%+v", p)
	}
	if h.grants.created.Load() != 0 {
		t.Error("the prompt was stored")
	}
	h.approve(params(), "peter")
	if g := h.grants.lastCreate; g.Subject != "peter" || g.ClientID != "app" || g.Lifespan != time.Minute || g.Denied || g.SecretHash == (fositeconsent.SecretHash{}) {
		t.Errorf("stored was %+v", g)
	}
}

func TestParameterSentTwiceIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	token := h.approve(params(), "peter")
	for _, name := range []string{"state", "scope", "response_type", "nonce", "max_age", "vendor", "prompt", "login_hint"} { // client_id is not even read
		form := params(name, "5")
		if params().Has(name) {
			form = params()
		}
		form.Add(name, "another")
		ar := h.parse(form)
		if _, err := h.gate.Prompt(t.Context(), ar, h.login("peter")); !errors.Is(err, fosite.ErrInvalidRequest) {
			t.Errorf("a page for %s twice: %v", name, cause(err))
		}
		resp, err := h.respond(ar, h.login("peter"), token)
		h.refused(resp, err, fositeconsent.ErrInvalidRequest)
	}
}

// fosite fills these in when the first requests ask for them, without a lock.
func TestProtectLeavesNothingForTheFirstRequestsToFillIn(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(h *host, _ *fositeconsent.Config) { h.config.ScopeStrategy = nil })
	if c := h.config; c.ScopeStrategy == nil || c.AudienceMatchingStrategy == nil || c.ClientSecretsHasher == nil {
		t.Errorf("Protect left ScopeStrategy (%v), AudienceMatchingStrategy (%v) or ClientSecretsHasher (%v) of fosite.Config unset",
			c.ScopeStrategy != nil, c.AudienceMatchingStrategy != nil, c.ClientSecretsHasher != nil)
	}
}

func TestProtectFindsAGateThatIsNotFirst(t *testing.T) {
	t.Parallel()
	gate := func() *fositeconsent.Gate {
		g, err := fositeconsent.NewGate(newHost(t).grants, fositeconsent.Config{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	fresh := func() *host {
		h := newHost(t)
		h.config = &fosite.Config{GlobalSecret: h.config.GlobalSecret}
		return h
	}
	one, two := gate(), gate()
	for name, c := range map[string]struct {
		gate     *fositeconsent.Gate
		provider fosite.OAuth2Provider
		text     string
	}{
		"left out":          {one, fresh().compose(compose.OAuth2AuthorizeExplicitFactory), "not among the provider's authorize handlers: pass gate.Factory as the first factory"},
		"no handlers":       {one, fresh().compose(), "not among"},
		"last":              {one, fresh().compose(compose.OAuth2AuthorizeExplicitFactory, one.Factory), "the gate is number 2 of the authorize handlers"},
		"another gate":      {one, fresh().compose(two.Factory, compose.OAuth2AuthorizeExplicitFactory), "another gate"},
		"two gates":         {two, fresh().compose(one.Factory, two.Factory, compose.OAuth2AuthorizeExplicitFactory), "another gate"},
		"nil":               {one, nil, "<nil>"},
		"a nil pointer":     {one, (*fosite.Fosite)(nil), "*fosite.Fosite"},
		"no config":         {one, &fosite.Fosite{}, "*fosite.Fosite"},
		"a wrapped one":     {one, struct{ fosite.OAuth2Provider }{}, "wrap what Protect returns"},
		"already protected": {one, newHost(t).provider, "wrap what Protect returns"},
	} {
		p, err := c.gate.Protect(c.provider)
		if p != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := newHost(t)
	if _, err := h.gate.Protect(h.raw); err != nil {
		t.Errorf("protecting again: %v", err)
	}
	h.config = &fosite.Config{GlobalSecret: h.config.GlobalSecret}
	if _, err := h.gate.Protect(h.compose(h.gate.Factory)); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("a second provider: %v", err)
	}
	h = newHost(t)
	h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, h.config.AuthorizeEndpointHandlers[0])
	if _, err := h.gate.Protect(h.raw); !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the gate twice: %v", err)
	}
}

func TestOrderIsCheckedOnEveryCall(t *testing.T) {
	t.Parallel()
	for name, swap := range map[string]func(fosite.AuthorizeEndpointHandlers) fosite.AuthorizeEndpointHandlers{
		"removed": func(l fosite.AuthorizeEndpointHandlers) fosite.AuthorizeEndpointHandlers { return l[1:] },
		"moved": func(l fosite.AuthorizeEndpointHandlers) fosite.AuthorizeEndpointHandlers {
			l[0], l[1] = l[1], l[0]
			return l
		},
		"all gone": func(fosite.AuthorizeEndpointHandlers) fosite.AuthorizeEndpointHandlers { return nil },
		"twice":    func(l fosite.AuthorizeEndpointHandlers) fosite.AuthorizeEndpointHandlers { return append(l, l[0]) },
		"put behind": func(l fosite.AuthorizeEndpointHandlers) fosite.AuthorizeEndpointHandlers {
			return append(fosite.AuthorizeEndpointHandlers{&meddler{}}, l...)
		},
	} {
		h := newHost(t)
		token := h.approve(params(), "peter")
		h.config.AuthorizeEndpointHandlers = swap(h.config.AuthorizeEndpointHandlers)
		resp, err := h.answer(params(), "peter", token)
		h.refused(resp, err, fositeconsent.ErrMisconfigured)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func TestProviderThatIsNotProtectedIssuesNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	token := h.approve(params(), "peter")
	resp, err := h.raw.NewAuthorizeResponse(fositeconsent.WithToken(t.Context(), token), h.parse(params()), h.login("peter"))
	h.refused(resp, err, fositeconsent.ErrMisconfigured)
	if !errors.Is(err, fosite.ErrServerError) || !strings.Contains(cause(err).Error(), "gate.Protect") {
		t.Errorf("%v", cause(err))
	}
	if h.grants.consumed.Load() != 0 {
		t.Error("the grant was spent")
	}
	if e := h.event(); e.Action != fositeconsent.ActionConsume || e.Reason != "misconfigured" || e.ClientID != "app" {
		t.Errorf("the event is %+v", e)
	}
	resp, err = h.provider.NewAuthorizeResponse(t.Context(), nil, h.login("peter"))
	h.refused(resp, err, fositeconsent.ErrInvalidRequest)
}

func TestGateThatIsNotComposedSaysSo(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	g, err := fositeconsent.NewGate(h.grants, fositeconsent.Config{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Prompt(t.Context(), h.parse(params()), h.login("peter")); !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(cause(err).Error(), "gate.Protect") {
		t.Errorf("%v", cause(err))
	}
}

func TestHandlerThatWroteBeforeTheGateIsFound(t *testing.T) {
	t.Parallel()
	// The order is checked before, so this one hides in a configuration that
	// answers differently the second time.
	for name, write := range map[string]func(fosite.AuthorizeResponder){
		"a parameter": func(r fosite.AuthorizeResponder) { r.AddParameter("x", "y") },
		"a header":    func(r fosite.AuthorizeResponder) { r.AddHeader("x", "y") },
		"a code":      func(r fosite.AuthorizeResponder) { r.AddParameter("code", "c") },
	} {
		h := newHost(t)
		token := h.approve(params(), "peter")
		h.raw.(*fosite.Fosite).Config = &shifty{Config: h.config, first: &meddler{
			func(_ context.Context, _ fosite.AuthorizeRequester, resp fosite.AuthorizeResponder) error {
				write(resp)
				return nil
			},
		}}
		resp, err := h.answer(params(), "peter", token)
		h.refused(resp, err, fositeconsent.ErrMisconfigured)
		if !errors.Is(err, fosite.ErrServerError) || h.grants.consumed.Load() != 0 {
			t.Errorf("%s: %v", name, cause(err))
		}
	}
}

// shifty shows the right order once, and then puts a handler before the gate.
type shifty struct {
	*fosite.Config
	first fosite.AuthorizeEndpointHandler
	calls int
}

func (s *shifty) GetAuthorizeEndpointHandlers(ctx context.Context) fosite.AuthorizeEndpointHandlers {
	s.calls++
	if s.calls == 1 {
		return s.Config.GetAuthorizeEndpointHandlers(ctx)
	}
	return append(fosite.AuthorizeEndpointHandlers{s.first}, s.Config.GetAuthorizeEndpointHandlers(ctx)...)
}

func TestResponseMadeWithoutTheGateStaysInside(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.raw.(*fosite.Fosite).Config = &forgetful{Config: h.config}
	resp, err := h.answer(params(), "peter", h.approve(params(), "peter"))
	if resp != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("a response came out: %v", cause(err))
	}
}

// forgetful shows the right order once, and then leaves the gate out.
type forgetful struct {
	*fosite.Config
	calls int
}

func (f *forgetful) GetAuthorizeEndpointHandlers(ctx context.Context) fosite.AuthorizeEndpointHandlers {
	f.calls++
	handlers := f.Config.GetAuthorizeEndpointHandlers(ctx)
	if f.calls > 1 {
		return handlers[1:]
	}
	return handlers
}

func TestNewGateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	storage := newHost(t).grants
	for name, c := range map[string]struct {
		storage fositeconsent.GrantStorage
		config  fositeconsent.Config
		text    string
	}{
		"no storage":             {nil, fositeconsent.Config{Issuer: issuer}, "GrantStorage"},
		"a nil storage":          {(*spyStorage)(nil), fositeconsent.Config{Issuer: issuer}, "GrantStorage"},
		"no issuer":              {storage, fositeconsent.Config{}, "Issuer"},
		"a negative lifespan":    {storage, fositeconsent.Config{Issuer: issuer, GrantLifespan: -1}, "GrantLifespan"},
		"a tiny lifespan":        {storage, fositeconsent.Config{Issuer: issuer, GrantLifespan: 1}, "GrantLifespan"},
		"a long lifespan":        {storage, fositeconsent.Config{Issuer: issuer, GrantLifespan: 13 * time.Hour}, "GrantLifespan"},
		"a negative prompt":      {storage, fositeconsent.Config{Issuer: issuer, PromptLifespan: -1}, "PromptLifespan"},
		"a long prompt":          {storage, fositeconsent.Config{Issuer: issuer, PromptLifespan: fositeconsent.MaxPromptLifespan + 1}, "PromptLifespan"},
		"state unbound":          {storage, fositeconsent.Config{Issuer: issuer, UnboundParameters: []string{"x", "state"}}, `"state"`},
		"redirect_uri unbound":   {storage, fositeconsent.Config{Issuer: issuer, UnboundParameters: []string{"redirect_uri"}}, `"redirect_uri"`},
		"code_challenge unbound": {storage, fositeconsent.Config{Issuer: issuer, UnboundParameters: []string{"code_challenge"}}, `"code_challenge"`},
	} {
		g, err := fositeconsent.NewGate(c.storage, c.config)
		if g != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What the host does to its own slice later changes nothing.
	unbound := []string{"vendor"}
	h := newHost(t, func(_ *host, c *fositeconsent.Config) { c.UnboundParameters = unbound })
	unbound[0] = "nonce"
	token := h.approve(params("nonce", "another nonce"), "peter")
	if _, err := h.answer(params(), "peter", token); !errors.Is(err, fositeconsent.ErrBindingMismatch) {
		t.Errorf("the host's slice is shared: %v", cause(err))
	}
	// No field of the configuration turns the check off.
	for i := range reflect.TypeFor[fositeconsent.Config]().NumField() {
		field := reflect.TypeFor[fositeconsent.Config]().Field(i)
		if field.Type.Kind() == reflect.Bool {
			t.Errorf("Config.%s is a switch", field.Name)
		}
	}
}
