package fositeconsent_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// signer is a client that may send request objects, and push.
type signer struct {
	*fosite.DefaultOpenIDConnectClient
}

func (c signer) GetResponseModes() []fosite.ResponseModeType {
	return []fosite.ResponseModeType{fosite.ResponseModeQuery, fosite.ResponseModeFragment, fosite.ResponseModeFormPost}
}

func newSigner(id string) signer {
	return signer{&fosite.DefaultOpenIDConnectClient{
		DefaultClient: &fosite.DefaultClient{
			ID: id, Public: true,
			RedirectURIs:  []string{"https://app.example/cb", "https://app.example/other"},
			ResponseTypes: []string{"code", "code id_token"},
			GrantTypes:    []string{"authorization_code", "implicit"},
			Scopes:        []string{"openid", "OPENID", "offline_access", "photos", "contacts"},
			Audience:      []string{"https://api.example", "https://other.example"},
		},
		TokenEndpointAuthMethod: "none",
		JSONWebKeys:             &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signingKey().Public(), Use: "sig"}}},
	}}
}

// library is where a client keeps a request object.
type library struct {
	*httptest.Server
	answer  atomic.Pointer[http.HandlerFunc]
	fetched atomic.Int32
}

func (l *library) location() string { return l.URL + "/request.jwt" }

func (l *library) serve(f http.HandlerFunc) { l.answer.Store(&f) }

func (l *library) keep(object string) {
	l.serve(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, object) })
}

// newSignerHost is a host with the client "signer", whose library is returned.
func newSignerHost(t testing.TB, options ...option) (*host, *library) {
	t.Helper()
	l := &library{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.fetched.Add(1)
		(*l.answer.Load())(w, r)
	}))
	t.Cleanup(l.Close)
	return newHost(t, append([]option{func(h *host, _ *fositeconsent.Config) {
		client := newSigner("signer")
		client.RequestURIs = []string{l.location()}
		h.store.Clients["signer"] = client
		fetch := retryablehttp.NewClient()
		fetch.Logger, fetch.RetryMax = nil, 0
		fetch.HTTPClient = &http.Client{
			Transport:     l.Client().Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		h.config.HTTPClient = fetch
	}}, options...)...), l
}

// claims are the parameters of an authorization request of the signer.
func claims(pairs ...any) map[string]any {
	all := map[string]any{}
	for name, values := range params("client_id", "signer") {
		all[name] = values[0]
	}
	for i := 0; i < len(pairs); i += 2 {
		if name, _ := pairs[i].(string); pairs[i+1] == nil {
			delete(all, name)
		} else {
			all[name] = pairs[i+1]
		}
	}
	return all
}

// sign makes a request object of claims, or of a payload as it is.
func sign(t testing.TB, claims any) string {
	t.Helper()
	payload, ok := claims.(string)
	if !ok {
		text, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(text)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: signingKey()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	object, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// read has the provider read an authorization request.
func (h *host) read(r *http.Request) (*fosite.AuthorizeRequest, error) {
	h.t.Helper()
	ar, err := h.provider.NewAuthorizeRequest(h.t.Context(), r)
	request, ok := ar.(*fosite.AuthorizeRequest)
	if !ok || request == nil {
		h.t.Fatalf("the request is a %T (%v)", ar, err)
	}
	return request, err
}

func get(form url.Values) *http.Request {
	return httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+form.Encode(), nil)
}

func post(form url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/oauth2/auth", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

// carriers are the ways of an object to the authorization endpoint; the parameters are
// those of the request there.
var carriers = map[string]func(*host, *library, string) url.Values{
	"by value": func(_ *host, _ *library, object string) url.Values {
		return url.Values{"client_id": {"signer"}, "request": {object}}
	},
	"by reference": func(_ *host, l *library, object string) url.Values {
		l.keep(object)
		return url.Values{"client_id": {"signer"}, "request_uri": {l.location()}}
	},
	"pushed": func(h *host, _ *library, object string) url.Values {
		return url.Values{"client_id": {"signer"}, "request_uri": {h.push(url.Values{"client_id": {"signer"}, "request": {object}})}}
	},
}

// effect is what an authorization request comes to.
type effect struct {
	Form          url.Values
	Scopes        []string
	Audience      []string
	State         string
	ResponseTypes []string
	ResponseMode  fosite.ResponseModeType
	RedirectURI   string
	ClientID      string
}

func effectOf(ar fosite.AuthorizeRequester) effect {
	return effect{
		ar.GetRequestForm(), ar.GetRequestedScopes(), ar.GetRequestedAudience(), ar.GetState(), ar.GetResponseTypes(),
		ar.GetResponseMode(), ar.GetRedirectURI().String(), ar.GetClient().GetID(),
	}
}

// beside are parameters that would change much if they were read.
var beside = url.Values{
	"state": {"another state that is long"}, "redirect_uri": {"https://app.example/other"}, "scope": {"openid contacts"},
	"response_type": {"code id_token"}, "response_mode": {"form_post"}, "audience": {"https://other.example"}, "nonce": {"another nonce"},
	"code_challenge": {"another"}, "code_challenge_method": {"plain"}, "max_age": {"1"}, "claims": {"{}"}, "prompt": {"none"},
	"resource": {"https://r.example", "https://s.example"}, "authorization_details": {"[]"}, "id_token_hint": {"e30.e30."}, "registration": {"{}"},
	"login_hint": {"mallory"}, "custom": {"value"}, "aud": {"x"}, "": {"x"}, "client_secret": {"x"},
}

// REQUIREMENTS 15: RFC 9101, Section 6.3; RFC 9126, Section 4.
func TestParametersBesideAPushedOrSignedRequestChangeNothing(t *testing.T) {
	t.Parallel()
	for carrier, carry := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			// The object has little, so that there is much to add.
			bare := claims("nonce", nil, "audience", nil, "code_challenge", nil, "code_challenge_method", nil)
			h, l := newSignerHost(t, keepingPushes)
			alone := carry(h, l, sign(t, bare))
			ar, err := h.read(get(alone))
			if err != nil {
				t.Fatal(explain(err))
			}
			want := effectOf(ar)
			if want.State != "0123456789abcdef" || want.RedirectURI != "https://app.example/cb" || !slices.Equal(want.Scopes, []string{"openid", "photos", "offline_access"}) ||
				len(want.Audience) != 0 || want.ResponseMode != fosite.ResponseModeQuery || want.ClientID != "signer" {
				t.Fatalf("the object is read as %+v", want)
			}
			everything := url.Values{}
			for name, values := range beside {
				everything[name] = values
				for how, sent := range map[string][]string{"added": values, "added empty": {""}, "added twice": {values[0], "x"}} {
					with := maps.Clone(alone)
					with[name] = sent
					for method, r := range map[string]*http.Request{"get": get(with), "post": post(with), "half": half(alone, url.Values{name: sent})} {
						ar, err := h.read(r)
						if err != nil {
							t.Fatalf("%s %s by %s: %v", name, how, method, explain(err))
						}
						if got := effectOf(ar); !reflect.DeepEqual(got, want) {
							t.Errorf("%s %s by %s: %+v\nexpected %+v", name, how, method, got, want)
						}
					}
				}
			}
			maps.Copy(everything, alone)
			if ar, err := h.read(post(everything)); err != nil || !reflect.DeepEqual(effectOf(ar), want) {
				t.Errorf("all at once: %+v, %v", ar, err)
			}
		})
	}
}

// half sends some parameters in the query and others in the body, which comes first.
func half(query, body url.Values) *http.Request {
	r := post(body)
	r.URL.RawQuery = query.Encode()
	return r
}

func TestClaimsOfARequestObjectMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	const details = `[{"type":"payment","amount":1.50,"to":{"z":null,"a":"\u003c"}}]`
	payload := `{"iss":"signer","aud":["https://as.example"],"jti":"1","iat":1600000000,"exp":99999999999,
		"client_id":"signer","redirect_uri":"https://app.example/cb","response_type":"code","scope":"openid photos","state":"0123456789abcdef",
		"nonce":"fedcba9876543210","code_challenge":"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM","code_challenge_method":"S256",
		"max_age":60,"claims":{"userinfo":{"email":null,"name":{"essential":true}}},"authorization_details":` + details + `,
		"resource":["https://b.example","https://a.example"],"flag":true,"off":false,"nothing":null,"acr_values":"a b"}`
	object := sign(t, payload)
	for carrier, carry := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			h, l := newSignerHost(t, keepingPushes)
			form := carry(h, l, object)
			ar, err := h.read(get(form))
			if err != nil {
				t.Fatal(explain(err))
			}
			want := url.Values{
				"client_id": {"signer"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"}, "scope": {"openid photos"},
				"state": {"0123456789abcdef"}, "nonce": {"fedcba9876543210"},
				"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
				"max_age": {"60"}, "claims": {`{"userinfo":{"email":null,"name":{"essential":true}}}`}, "authorization_details": {details},
				"resource": {"https://b.example", "https://a.example"}, "flag": {"true"}, "off": {"false"}, "acr_values": {"a b"},
			}
			if carrier != "by reference" {
				want.Set("request", object)
			}
			if carrier != "by value" {
				want.Set("request_uri", form.Get("request_uri"))
			}
			if got := ar.GetRequestForm(); !reflect.DeepEqual(got, want) {
				t.Errorf("the form is %v, expected %v", got, want)
			}

			// A max_age that is a number is one.
			p, err := h.gate.Prompt(t.Context(), ar, h.login("peter"))
			if err != nil {
				t.Fatal(cause(err))
			}
			token, err := h.gate.Mint(t.Context(), ar, h.login("peter"), p.Ticket, all(p))
			if err != nil {
				t.Fatal(cause(err))
			}
			session := h.login("peter")
			session.Claims.AuthTime = h.now().Add(-61 * time.Second)
			session.Claims.RequestedAt = session.Claims.AuthTime
			if ar, err = h.read(get(form)); err != nil {
				t.Fatal(explain(err))
			}
			resp, err := h.respond(ar, session, token)
			h.refused(resp, err, fositeconsent.ErrLoginRequired)
			if ar, err = h.read(get(form)); err != nil {
				t.Fatal(explain(err))
			}
			if resp, err = h.respond(ar, h.login("peter"), token); err != nil || resp.GetCode() == "" {
				t.Errorf("no code: %v", cause(err))
			}
		})
	}
}

// explain is what an error says to the client, and to the logs.
func explain(err error) string {
	e := fosite.ErrorToRFC6749Error(err)
	return fmt.Sprintf("%s: %s (%v)", e.ErrorField, e.HintField, cause(err))
}

func TestScopeOfARequestObjectDecides(t *testing.T) {
	t.Parallel()
	for carrier, carry := range carriers {
		h, l := newSignerHost(t, keepingPushes)
		for _, beside := range []string{"", "openid", "photos", "openid contacts", "OPENID"} {
			for scope, want := range map[any][]string{
				nil: {"openid"}, "openid": {"openid"}, "openid  photos ": {"openid", "photos"}, "photos openid": {"photos", "openid"},
				"OPENID openid": {"OPENID", "openid"},
			} {
				form := carry(h, l, sign(t, claims("scope", scope)))
				if beside != "" {
					form.Set("scope", beside)
				}
				ar, err := h.read(get(form))
				if err != nil || !slices.Equal(ar.GetRequestedScopes(), want) || !slices.Equal(fosite.RemoveEmpty(strings.Split(ar.Form.Get("scope"), " ")), want) {
					t.Errorf("%s, %v beside %q: %v %v, %s", carrier, scope, beside, ar.GetRequestedScopes(), ar.Form["scope"], explain(err))
				}
			}
		}
	}
}

func TestRequestObjectsThatAreNotClearAreRefused(t *testing.T) {
	t.Parallel()
	for name, object := range map[string]any{
		"an audience that is a list":         claims("audience", []string{"https://api.example"}),
		"a scope that is a list":             claims("scope", []string{"openid"}),
		"a response_type that is a list":     claims("response_type", []string{"code"}),
		"a response_mode that is none":       claims("response_mode", true),
		"a state that is a number":           claims("state", 12345678901),
		"a redirect_uri that is a list":      claims("redirect_uri", []string{"https://app.example/cb"}),
		"a registration":                     claims("registration", map[string]any{}),
		"a client_id of another client":      claims("client_id", "app"),
		"a client_id that is a number":       claims("client_id", 1),
		"an empty client_id":                 claims("client_id", ""),
		"an object in the object":            claims("request", "e30.e30."),
		"a pushed request in the object":     claims("request_uri", "urn:ietf:params:oauth:request_uri:x"),
		"an empty request_uri in the object": claims("request_uri", ""),
		"a scope without openid":             claims("scope", "photos"),
		"an empty scope":                     claims("scope", ""),
		"openid in capitals":                 claims("scope", "OPENID photos"),
		"a max_age with a fraction":          claims("max_age", json.RawMessage("60.5")),
		"a max_age with an exponent":         claims("max_age", json.RawMessage("6e1")),
		"an expiry that is text":             claims("exp", "99999999999"),
		"an expiry that says never":          claims("exp", 0),
		"an expiry in the past":              claims("exp", 1700000000),
		"a time to come":                     claims("nbf", 99999999999),
		"half a surrogate pair":              claims("nonce", json.RawMessage(`"\ud800"`)),
		"a scope that is null":               claims("scope", json.RawMessage("null")),
		"a state that is null":               claims("state", json.RawMessage("null")),
		"the same claim twice":               `{"scope":"openid","state":"0123456789abcdef","state":"0123456789abcdef"}`,
		"the same claim twice, deep": `{"client_id":"signer","redirect_uri":"https://app.example/cb","response_type":"code","scope":"openid",
			"state":"0123456789abcdef","claims":{"userinfo":{"a":null,"a":null}}}`,
		"a list":  `[]`,
		"null":    `null`,
		"no JSON": `{`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := sign(t, object)
			for carrier, carry := range carriers {
				h, l := newSignerHost(t, keepingPushes)
				var ar *fosite.AuthorizeRequest
				var err error
				if carrier == "pushed" {
					ar, err = h.tryPush(post(url.Values{"client_id": {"signer"}, "request": {text}, "state": {"a state beside"}, "redirect_uri": {"https://app.example/other"}}))
				} else {
					form := carry(h, l, text)
					form.Set("state", "a state beside")
					form.Set("redirect_uri", "https://app.example/other")
					ar, err = h.read(get(form))
				}
				if !errors.Is(err, fosite.ErrInvalidRequestObject) {
					t.Errorf("%s: %s", carrier, explain(err))
				}
				h.checkError(ar, err)
			}
		})
	}
}

// checkError has an error written. It goes to the place that the object names, with the
// state of the object; or nowhere.
func (h *host) checkError(ar *fosite.AuthorizeRequest, err error) {
	h.t.Helper()
	if ar.State != "" && ar.State != "0123456789abcdef" {
		h.t.Errorf("the state is %q", ar.State)
	}
	if ar.Form.Has("state") && ar.Form.Get("state") != ar.State || slices.ContainsFunc(ar.Form["scope"], func(s string) bool { return s == "openid " }) {
		h.t.Errorf("the form is %v", ar.Form)
	}
	w := httptest.NewRecorder()
	h.provider.WriteAuthorizeError(h.t.Context(), w, ar, err)
	location := w.Result().Header.Get("Location")
	if location != "" && !strings.HasPrefix(location, "https://app.example/cb?") || strings.Contains(location, "beside") || strings.Contains(location, "%25%21") {
		h.t.Errorf("the error goes to %s", location)
	}
	if w.Code >= 500 {
		h.t.Errorf("it looks like a failure of the server: %d", w.Code)
	}
}

func TestRequestObjectThatIsNotVerifiedIsRefused(t *testing.T) {
	t.Parallel()
	good := sign(t, claims())
	parts := strings.Split(good, ".")
	payload := func(object string) string { return strings.Split(object, ".")[1] }
	flat, err := json.Marshal(map[string]string{"protected": parts[0], "payload": parts[1], "signature": parts[2]})
	if err != nil {
		t.Fatal(err)
	}
	for name, object := range map[string]string{
		"garbage":                 "garbage",
		"another payload":         parts[0] + "." + payload(sign(t, claims("scope", "openid contacts"))) + "." + parts[2],
		"no signature":            parts[0] + "." + parts[1] + ".",
		"as JSON":                 string(flat),
		"with a line break in it": parts[0] + "." + parts[1][:8] + "\n" + parts[1][8:] + "." + parts[2],
		"padded":                  parts[0] + "." + parts[1] + "=." + parts[2],
		"too long":                sign(t, claims("pad", strings.Repeat("x", 64<<10))),
		"deep":                    base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte("["), 1<<20)) + ".c2ln",
	} {
		for carrier, carry := range carriers {
			h, l := newSignerHost(t, keepingPushes)
			var ar *fosite.AuthorizeRequest
			var err error
			if carrier == "pushed" {
				ar, err = h.tryPush(post(url.Values{"client_id": {"signer"}, "request": {object}, "state": {"a state beside"}, "redirect_uri": {"https://app.example/other"}}))
			} else {
				form := carry(h, l, object)
				form.Set("state", "a state beside")
				form.Set("redirect_uri", "https://app.example/other")
				ar, err = h.read(get(form))
			}
			want := fosite.ErrInvalidRequestObject
			if carrier == "by reference" && len(object) > 64<<10 {
				want = fosite.ErrInvalidRequestURI
			}
			if !errors.Is(err, want) {
				t.Errorf("%s %s: %s", name, carrier, explain(err))
			}
			h.checkError(ar, err)
		}
	}
}

// What is wrong with a request that was verified, the client hears where the request says.
func TestErrorGoesWhereTheRequestObjectSays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		claims map[string]any
		want   error
		state  string
	}{
		{claims("scope", "openid unknown"), fosite.ErrInvalidScope, "0123456789abcdef"},
		{claims("response_type", "token"), fosite.ErrUnsupportedResponseType, "0123456789abcdef"},
		{claims("response_type", nil), fosite.ErrUnsupportedResponseType, "0123456789abcdef"},
		{claims("audience", "https://unknown.example"), fosite.ErrInvalidRequest, "0123456789abcdef"},
		{claims("state", nil), fosite.ErrInvalidState, ""},
		{claims("max_age", 1.5), fosite.ErrInvalidRequestObject, "0123456789abcdef"},
		{claims("claims", json.RawMessage(`{"a":1,"a":2}`), "scope", "openid"), fosite.ErrInvalidRequestObject, "nowhere"},
	} {
		h, l := newSignerHost(t)
		for _, carrier := range []string{"by value", "by reference"} {
			form := carriers[carrier](h, l, sign(t, test.claims))
			for _, name := range []string{"state", "redirect_uri", "scope", "response_type", "response_mode"} {
				form[name] = beside[name]
			}
			ar, err := h.read(get(form))
			if !errors.Is(err, test.want) {
				t.Errorf("%v: %s", test.claims, explain(err))
			}
			w := httptest.NewRecorder()
			h.provider.WriteAuthorizeError(t.Context(), w, ar, err)
			to, err := w.Result().Location()
			if test.state == "nowhere" {
				if err == nil {
					t.Errorf("%v: sent to %s", test.claims, to)
				}
				continue
			}
			if err != nil || !strings.HasPrefix(to.String(), "https://app.example/cb?") || to.Query().Get("state") != test.state {
				t.Errorf("%v: sent to %s: %d %s", test.claims, to, w.Code, w.Body)
			}
		}
	}
}

func TestWhoAsksForWhatIsSaidOnce(t *testing.T) {
	t.Parallel()
	h, l := newSignerHost(t, keepingPushes)
	object := sign(t, claims())
	l.keep(object)
	pushed := h.push(url.Values{"client_id": {"signer"}, "request": {object}})
	for name, form := range map[string]url.Values{
		"two objects":                    {"client_id": {"signer"}, "request": {object, object}},
		"an object and nothing":          {"client_id": {"signer"}, "request": {"", object}},
		"two locations":                  {"client_id": {"signer"}, "request_uri": {l.location(), pushed}},
		"a pushed request twice":         {"client_id": {"signer"}, "request_uri": {pushed, pushed}},
		"a pushed request and nothing":   {"client_id": {"signer"}, "request_uri": {pushed, ""}},
		"two clients":                    {"client_id": {"signer", "app"}, "request_uri": {pushed}},
		"two clients and an object":      {"client_id": {"signer", "signer"}, "request": {object}},
		"an object and a location":       {"client_id": {"signer"}, "request": {object}, "request_uri": {l.location()}},
		"an object and a pushed request": {"client_id": {"signer"}, "request": {object}, "request_uri": {pushed}},
		"no client":                      {"request_uri": {pushed}},
		"an empty client":                {"client_id": {""}, "request_uri": {pushed}},
	} {
		for method, r := range map[string]*http.Request{"get": get(form), "post": post(form)} {
			ar, err := h.read(r)
			if !errors.Is(err, fosite.ErrInvalidRequest) || ar.IsRedirectURIValid() {
				t.Errorf("%s by %s: %s", name, method, explain(err))
			}
		}
	}
	twice := params("client_id", "signer")
	twice["client_id"] = []string{"signer", "signer"}
	if ar, err := h.read(get(twice)); !errors.Is(err, fosite.ErrInvalidRequest) || ar.IsRedirectURIValid() {
		t.Errorf("two clients and no object: %s", explain(err))
	}
	// One in the body and one in the query.
	form := url.Values{"client_id": {"signer"}, "request": {object}}
	if _, err := h.read(half(form, form)); !errors.Is(err, fosite.ErrInvalidRequest) {
		t.Errorf("in the body and in the query: %s", explain(err))
	}
	if n := l.fetched.Load(); n != 0 {
		t.Errorf("%d objects were fetched for it", n)
	}
	if _, err := h.read(get(url.Values{"client_id": {"signer"}, "request_uri": {pushed}})); err != nil {
		t.Errorf("the pushed request itself: %s", explain(err))
	}
}

func TestRequestOfTheCallerIsLeftAlone(t *testing.T) {
	t.Parallel()
	h, l := newSignerHost(t, keepingPushes)
	object := sign(t, claims("max_age", 60))
	for carrier, carry := range carriers {
		form := carry(h, l, object)
		form["custom"] = []string{"a", "b"}
		form.Set("scope", "photos")
		for method, r := range map[string]*http.Request{"get": get(form), "post": post(form), "multipart": multipartPost(t, form)} {
			before := *r.URL
			if _, err := h.read(r); err != nil {
				t.Fatalf("%s by %s: %s", carrier, method, explain(err))
			}
			// It has been parsed, for its body can be read but once.
			if !reflect.DeepEqual(r.Form, form) || *r.URL != before {
				t.Errorf("%s by %s: the request has %v now", carrier, method, r.Form)
			}
		}
	}
	form := params()
	r := get(form)
	ar, err := h.read(r)
	if err != nil {
		t.Fatal(explain(err))
	}
	ar.Form.Set("state", "changed")
	ar.Form["nonce"][0] = "changed"
	if !reflect.DeepEqual(r.Form, form) {
		t.Errorf("the request has %v now", r.Form)
	}
}

func multipartPost(t *testing.T, form url.Values) *http.Request {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for name, values := range form {
		for _, value := range values {
			if err := w.WriteField(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/oauth2/auth", &body)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return r
}

func TestBodyThatCannotBeReadIsRefused(t *testing.T) {
	t.Parallel()
	h, _ := newSignerHost(t)
	r := multipartPost(t, url.Values{"client_id": {"signer"}})
	r.Header.Set("Content-Type", "multipart/form-data; boundary=another")
	if ar, err := h.read(r); !errors.Is(err, fosite.ErrInvalidRequest) || ar.IsRedirectURIValid() {
		t.Errorf("%v, %v", ar, err)
	}
	r = multipartPost(t, url.Values{"client_id": {"signer"}})
	r.Header.Set("Content-Type", "multipart/form-data; boundary=another")
	if _, err := h.tryPush(r); !errors.Is(err, fosite.ErrInvalidRequest) {
		t.Error(err)
	}
}

func TestRequestObjectByReference(t *testing.T) {
	t.Parallel()
	t.Run("is fetched once on every pass", func(t *testing.T) {
		t.Parallel()
		h, l := newSignerHost(t)
		form := carriers["by reference"](h, l, sign(t, claims()))
		for pass := range int32(3) {
			if _, err := h.read(get(form)); err != nil {
				t.Fatal(explain(err))
			}
			if n := l.fetched.Load(); n != pass+1 {
				t.Errorf("fetched %d times in %d passes", n, pass+1)
			}
		}
	})
	t.Run("is not fetched for nobody", func(t *testing.T) {
		t.Parallel()
		h, l := newSignerHost(t)
		l.keep(sign(t, claims()))
		h.store.Clients["plain"] = h.store.Clients["app"].(*client).DefaultClient
		for name, test := range map[string]struct {
			clientID, location string
			want               error
		}{
			"another location":             {"signer", l.location() + "?x", fosite.ErrInvalidRequestURI},
			"a location that is shorter":   {"signer", l.URL + "/", fosite.ErrInvalidRequestURI},
			"another case":                 {"signer", strings.ToUpper(l.location()), fosite.ErrInvalidRequestURI},
			"a client that has none":       {"plain", l.location(), fosite.ErrRequestURINotSupported},
			"a client that does not exist": {"nobody", l.location(), fosite.ErrInvalidClient},
		} {
			ar, err := h.read(get(url.Values{"client_id": {test.clientID}, "request_uri": {test.location}, "scope": {"openid"}, "redirect_uri": {"https://app.example/cb"}}))
			if !errors.Is(err, test.want) || ar.IsRedirectURIValid() {
				t.Errorf("%s: %s", name, explain(err))
			}
		}
		h.config.IsPushedAuthorizeEnforced = true
		if _, err := h.read(get(url.Values{"client_id": {"signer"}, "request_uri": {l.location()}})); !errors.Is(err, fosite.ErrInvalidRequest) {
			t.Errorf("where requests have to be pushed: %s", explain(err))
		}
		if n := l.fetched.Load(); n != 0 {
			t.Errorf("fetched %d times", n)
		}
	})
	t.Run("is what its own location says", func(t *testing.T) {
		t.Parallel()
		h, l := newSignerHost(t)
		object := sign(t, claims())
		form := carriers["by reference"](h, l, object)
		for name, serve := range map[string]http.HandlerFunc{
			"not found": http.NotFound,
			"created":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated); fmt.Fprint(w, object) },
			"a redirect": func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/elsewhere" {
					fmt.Fprint(w, object)
					return
				}
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
			},
			"endless": func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, object)
				for r.Context().Err() == nil {
					if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
						return
					}
				}
			},
			"cut off": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100000")
				fmt.Fprint(w, object)
			},
		} {
			l.serve(serve)
			ar, err := h.read(get(form))
			if !errors.Is(err, fosite.ErrInvalidRequestURI) || ar.IsRedirectURIValid() {
				t.Errorf("%s: %s", name, explain(err))
			}
			h.checkError(ar, err)
		}
	})
	t.Run("is not waited for longer than the caller waits", func(t *testing.T) {
		t.Parallel()
		h, l := newSignerHost(t)
		ctx, cancel := context.WithCancel(t.Context())
		l.serve(func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		_, err := h.provider.NewAuthorizeRequest(ctx, get(url.Values{"client_id": {"signer"}, "request_uri": {l.location()}}))
		if !errors.Is(err, fosite.ErrInvalidRequestURI) || !errors.Is(err, context.Canceled) {
			t.Error(explain(err))
		}
	})
	t.Run("is bound by what it says", func(t *testing.T) {
		t.Parallel()
		h, l := newSignerHost(t)
		form := carriers["by reference"](h, l, sign(t, claims("iat", 1600000000, "max_age", 600)))
		page := h.read1(form)
		p, err := h.gate.Prompt(t.Context(), page, h.login("peter"))
		if err != nil {
			t.Fatal(cause(err))
		}
		token, err := h.gate.Mint(t.Context(), page, h.login("peter"), p.Ticket, all(p))
		if err != nil {
			t.Fatal(cause(err))
		}
		for name, changed := range map[string]map[string]any{
			"max_age":         claims("max_age", 601),
			"no max_age":      claims(),
			"scope":           claims("max_age", 600, "scope", "openid photos"),
			"nonce":           claims("max_age", 600, "nonce", "another nonce that is long"),
			"state":           claims("max_age", 600, "state", "another state that is long"),
			"redirect_uri":    claims("max_age", 600, "redirect_uri", "https://app.example/other"),
			"code_challenge":  claims("max_age", 600, "code_challenge", "another"),
			"something added": claims("max_age", 600, "custom", "value"),
		} {
			l.keep(sign(t, changed))
			resp, err := h.respond(h.read1(form), h.login("peter"), token)
			h.refused(resp, err, fositeconsent.ErrBindingMismatch)
			if !fositeconsent.NeedsConsent(err) {
				t.Errorf("%s: no page is the way on", name)
			}
		}
		// Signed anew, it is the same request.
		l.keep(sign(t, claims("iat", 1600000001, "jti", "2", "max_age", 600)))
		if resp, err := h.respond(h.read1(form), h.login("peter"), token); err != nil || resp.GetCode() == "" {
			t.Errorf("no code for the same request: %v", cause(err))
		}
	})
}

// read1 is read for a request that is good.
func (h *host) read1(form url.Values) *fosite.AuthorizeRequest {
	h.t.Helper()
	ar, err := h.read(get(form))
	if err != nil {
		h.t.Fatal(explain(err))
	}
	return ar
}
