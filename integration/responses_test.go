package integration_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

// approval is what a resource owner saw and approved: the measure of what is issued.
type approval struct {
	params           url.Values // of the authorization request
	user             string
	scopes, audience string // approved, with spaces between them
}

// allOf is the approval of everything that the request asks for.
func allOf(params url.Values, user string) approval {
	return approval{params, user, params.Get("scope"), strings.Join(params["audience"], " ")}
}

// mode returns how the response to the request has to be delivered.
func mode(params url.Values) string {
	switch m := params.Get("response_mode"); {
	case m != "":
		return m
	case strings.TrimSpace(params.Get("response_type")) == "code":
		return "query"
	}
	return "fragment"
}

// check holds what was issued against what was approved: where it went, by which way,
// what it is, whose it is, and what can be done with it. It redeems the code.
func (a approval) check(s *suite, server *authserver.Server, got *issued) {
	s.t.Helper()
	clientID, kinds := a.params.Get("client_id"), strings.Fields(a.params.Get("response_type"))
	if got.URI != a.params.Get("redirect_uri") || got.Mode != mode(a.params) {
		s.t.Errorf("delivered by %s to %s, want %s to %s", got.Mode, got.URI, mode(a.params), a.params.Get("redirect_uri"))
	}
	if !slices.Equal(got.Values["state"], a.params["state"]) {
		s.t.Errorf("state %q, want %q", got.Values["state"], a.params["state"])
	}
	for kind, value := range map[string]string{"code": got.code, "token": got.accessToken, "id_token": got.idToken} {
		if slices.Contains(kinds, kind) != (value != "") || len(got.Values["code"]) > 1 {
			s.t.Errorf("response type %q: the presence of a %s is %t", kinds, kind, value != "")
		}
	}
	if got.accessToken != "" {
		a.checkAccess(s, server, got.accessToken)
	}
	if got.idToken != "" {
		id := s.idToken(server, clientID, got.idToken)
		var claims struct {
			CodeHash string `json:"c_hash"`
		}
		if err := id.Claims(&claims); err != nil {
			s.t.Fatal(err)
		}
		if id.Subject != a.user || id.Nonce != a.params.Get("nonce") {
			s.t.Errorf("the ID token has sub %q and nonce %q", id.Subject, id.Nonce)
		}
		if got.accessToken != "" {
			if err := id.VerifyAccessToken(got.accessToken); err != nil {
				s.t.Errorf("at_hash: %v", err)
			}
		}
		if sum := sha256.Sum256([]byte(got.code)); got.code != "" && claims.CodeHash != base64.RawURLEncoding.EncodeToString(sum[:16]) {
			s.t.Errorf("c_hash %q is not the code's", claims.CodeHash)
		}
	}
	if got.code == "" {
		return
	}
	proof := verifier
	if a.params.Get("code_challenge") == "" {
		proof = ""
	}
	answer := s.redeem(server, clientID, got.code, a.params.Get("redirect_uri"), proof)
	if answer.Error != "" {
		s.t.Errorf("the code cannot be redeemed as the request said: %s", answer.Error)
		return
	}
	if sorted(answer.Scope) != sorted(a.scopes) {
		s.t.Errorf("the token response says scope %q, want %q", answer.Scope, a.scopes)
	}
	a.checkAccess(s, server, answer.AccessToken)
	granted := strings.Fields(a.scopes)
	if (answer.RefreshToken != "") != slices.Contains(granted, "offline_access") {
		s.t.Errorf("with the scopes %q the presence of a refresh token is %t", granted, answer.RefreshToken != "")
	}
	if (answer.IDToken != "") != slices.Contains(granted, "openid") {
		s.t.Errorf("with the scopes %q the presence of an ID token is %t", granted, answer.IDToken != "")
	}
	if answer.IDToken != "" {
		if id := s.idToken(server, clientID, answer.IDToken); id.Subject != a.user || id.Nonce != a.params.Get("nonce") {
			s.t.Errorf("the code's ID token has sub %q and nonce %q", id.Subject, id.Nonce)
		}
	}
}

func (a approval) checkAccess(s *suite, server *authserver.Server, token string) {
	s.t.Helper()
	in := s.introspect(server, token)
	if !in.Active || sorted(in.Scope) != sorted(a.scopes) || in.ClientID != a.params.Get("client_id") || in.Subject != a.user || sorted(strings.Join(in.Audience, " ")) != sorted(a.audience) {
		s.t.Errorf("introspection says %+v, want scope %q, client %q, subject %q, audience %q", in, a.scopes, a.params.Get("client_id"), a.user, a.audience)
	}
}

func TestEveryResponseTypeInEveryMode(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	decided := 0
	for _, clientID := range []string{"web", "app"} {
		for _, responseType := range responseTypes {
			for _, responseMode := range []string{"", "query", "fragment", "form_post"} {
				t.Run(clientID+" "+responseType+" "+responseMode, func(t *testing.T) {
					s := s.in(t)
					params := authorization(clientID, "response_type", responseType, "response_mode", responseMode)
					if responseMode == "query" && responseType != "code" {
						// A token in a query ends up in logs and in the Referer header.
						page := s.authorize(browser, params)
						if d := page.Delivery(); d == nil || d.Values.Get("error") != "unsupported_response_mode" || page.Form("/consent") != nil {
							t.Errorf("status %d, delivery %+v", page.Status, d)
						}
						return
					}
					page := s.consentPage(browser, params)
					allOf(params, "alice").check(s, s.server, s.approve(page))
					decided++
					s.wantCount(decided, 0, decided)
				})
			}
		}
	}
}

// in returns the suite for a sub-test.
func (s *suite) in(t testing.TB) *suite {
	c := *s
	c.t = t
	return &c
}

func TestProofKeysAreEnforcedAsApproved(t *testing.T) {
	t.Parallel()
	s := newSuite(t, withFlags("-pkce-plain"))
	browser := s.signIn("alice")
	methods := map[string][]string{
		"S256":                      {"code_challenge", challenge(verifier), "code_challenge_method", "S256"},
		"plain":                     {"code_challenge", verifier, "code_challenge_method", "plain"},
		"no method, which is plain": {"code_challenge", verifier, "code_challenge_method", ""},
	}
	for name, pairs := range methods {
		for _, clientID := range []string{"web", "app"} {
			for _, responseType := range []string{"code", "code id_token token"} {
				t.Run(clientID+" "+responseType+" "+name, func(t *testing.T) {
					s := s.in(t)
					params := authorization(clientID, append(pairs, "response_type", responseType)...)
					allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(browser, params)))
					for what, wrong := range map[string]string{"another verifier": otherVerifier, "no verifier": "", "the challenge": params.Get("code_challenge") + "x"} {
						got := s.approve(s.consentPage(browser, params))
						if answer := s.redeem(s.server, clientID, got.code, callback, wrong); answer.Error == "" {
							t.Errorf("the code was redeemed with %s", what)
						}
					}
				})
			}
		}
	}
	t.Run("a confidential client may do without", func(t *testing.T) {
		s := s.in(t)
		params := authorization("web", "code_challenge", "", "code_challenge_method", "")
		allOf(params, "alice").check(s, s.server, s.approve(s.consentPage(browser, params)))
		got := s.approve(s.consentPage(browser, params))
		if answer := s.redeem(s.server, "web", got.code, callback, verifier); answer.Error == "" {
			t.Error("a verifier was accepted without a challenge")
		}
	})
	t.Run("a public client may not", func(t *testing.T) {
		s := s.in(t)
		page := s.authorize(browser, authorization("app", "code_challenge", "", "code_challenge_method", ""))
		if d := page.Delivery(); d == nil || d.Values.Get("error") != "invalid_request" {
			t.Errorf("status %d, delivery %+v", page.Status, page.Delivery())
		}
	})
}

func TestPlainProofKeyIsRefusedUnlessItIsAllowed(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	for _, method := range []string{"plain", "", "S512"} {
		page := s.authorize(browser, authorization("web", "code_challenge", verifier, "code_challenge_method", method))
		if d := page.Delivery(); d == nil || d.Values.Get("error") != "invalid_request" || page.Form("/consent") != nil {
			t.Errorf("method %q: status %d, delivery %+v", method, page.Status, d)
		}
	}
}

func TestCodeOfOneClientIsWorthNothingToAnother(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	for what, redeem := range map[string]func(code string) tokens{
		"another client":       func(code string) tokens { return s.redeem(s.server, "mallory", code, callback, verifier) },
		"another redirect URI": func(code string) tokens { return s.redeem(s.server, "web", code, otherCallback, verifier) },
		"no redirect URI":      func(code string) tokens { return s.redeem(s.server, "web", code, "", verifier) },
	} {
		if answer := redeem(s.approve(s.consentPage(browser, authorization("web"))).code); answer.Error == "" {
			t.Errorf("a code was redeemed with %s", what)
		}
	}
}

// signers are clients that send request objects.
var signers = func() []authserver.Client {
	signer := func(id, alg string) authserver.Client {
		return testClient(id, func(c *authserver.Client) { c.JWKS, c.RequestObjectSigningAlg = publicKeys(), alg })
	}
	return []authserver.Client{signer("rs256", "RS256"), signer("es256", "ES256"), signer("unsigned", "none"), signer("any", "")}
}

func TestRequestObjects(t *testing.T) {
	t.Parallel()
	s := newSuite(t, withClients(signers()...))
	browser := s.signIn("alice")

	for _, test := range []struct {
		clientID, alg string
		accepted      bool
	}{
		{"rs256", "RS256", true}, {"rs256", "ES256", false}, {"rs256", "none", false},
		{"es256", "ES256", true}, {"es256", "RS256", false}, {"es256", "none", false},
		{"unsigned", "none", true}, {"unsigned", "RS256", false},
		// OpenID Connect Dynamic Client Registration 1.0, Section 2: by default any.
		{"any", "RS256", true}, {"any", "ES256", true}, {"any", "none", true},
		{"web", "RS256", false}, // has registered no key
	} {
		t.Run(test.clientID+" "+test.alg, func(t *testing.T) {
			s := s.in(t)
			params, inside := objectRequest(t, test.clientID, test.alg)
			page := s.authorize(browser, params)
			if !test.accepted {
				s.nothingIssued(page)
				if page.Form("/consent") != nil {
					t.Error("a consent page was shown")
				}
				return
			}
			allOf(inside, "alice").check(s, s.server, s.approve(page))
		})
	}
	for what, spoil := range map[string]func(string) string{
		"signed by another": func(object string) string {
			parts := strings.Split(object, ".")
			return parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 256))
		},
		"without its signature": func(object string) string { return object[:strings.LastIndexByte(object, '.')+1] },
		"truncated":             func(object string) string { return object[:len(object)/2] },
		"empty claims":          func(string) string { return "e30.e30." },
	} {
		t.Run(what, func(t *testing.T) {
			s := s.in(t)
			params, _ := objectRequest(t, "rs256", "RS256")
			page := s.authorize(browser, with(params, "request", spoil(params.Get("request"))))
			s.nothingIssued(page)
			if page.Form("/consent") != nil {
				t.Error("a consent page was shown")
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		s := s.in(t)
		_, inside := objectRequest(t, "rs256", "RS256")
		claims := map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}
		for name := range inside {
			claims[name] = inside.Get(name)
		}
		page := s.authorize(browser, authorization("rs256", "request", requestObject(t, "RS256", claims)))
		s.nothingIssued(page)
		if page.Form("/consent") != nil {
			t.Error("a consent page was shown")
		}
		if page.Status != http.StatusBadRequest { // it is the client's fault, and no failure of the server
			t.Errorf("status %d", page.Status)
		}
	})
}

// objectRequest returns a request whose parameters are in a request object, and those
// parameters. In the URL is only what OAuth 2.0 demands.
func objectRequest(t testing.TB, clientID, alg string, pairs ...string) (params, inside url.Values) {
	t.Helper()
	inside = authorization(clientID, pairs...)
	claims := map[string]any{}
	for name := range inside {
		claims[name] = inside.Get(name)
	}
	return url.Values{
		"client_id": {clientID}, "response_type": {inside.Get("response_type")}, "scope": {"openid"},
		"request": {requestObject(t, alg, claims)},
	}, inside
}

// A client may post its request (OpenID Connect Core 1.0, Section 3.1.2.1).
func TestAuthorizationRequestMayBePosted(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	browser := s.signIn("alice")
	post := func(query, body url.Values) *useragent.Page {
		page, err := browser.Do(useragent.Request{
			Method: http.MethodPost, URL: "/oauth2/auth?" + query.Encode(), Body: body.Encode(),
			Header: http.Header{"Origin": {"https://client.example"}, "Sec-Fetch-Site": {"cross-site"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return page
	}
	params := authorization("web")
	page := post(nil, params)
	if page.Hops[0].Status != http.StatusSeeOther {
		t.Errorf("the post was answered with %d", page.Hops[0].Status)
	}
	allOf(params, "alice").check(s, s.server, s.approve(page))

	// A client's credentials do not appear in the address bar.
	page = post(nil, with(params, "client_secret", s.clients["web"].Secret))
	for _, hop := range page.Hops {
		if strings.Contains(hop.URL.RawQuery, "secret") {
			t.Errorf("the URL has the client's secret: %s", hop.URL)
		}
	}
	// What is in the body and in the query is there twice, and nobody's guess.
	for name := range params {
		page := post(url.Values{name: params[name]}, params)
		s.nothingIssued(page)
		if page.Form("/consent") != nil && !slices.Contains([]string{"audience"}, name) {
			t.Errorf("%s in the query and in the body leads to a consent page", name)
		}
	}
	s.wantCount(1, 0, 1)
}
