package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// What becomes of a pushed request is in the folder integration: fosite's storage in
// memory forgets it as soon as the browser arrives.

// push is a request to the endpoint by the client web.
func (ts *testServer) push(form url.Values, change ...func(*http.Request)) answer {
	ts.t.Helper()
	r := ts.request(http.MethodPost, pathPush, form)
	r.SetBasicAuth("web", "web-secret-0123456789")
	for _, f := range change {
		f(r)
	}
	return ts.do(r)
}

// pushed pushes a request of the client web and returns what the browser is led to.
func (ts *testServer) pushed(form url.Values) url.Values {
	ts.t.Helper()
	var pushed struct {
		RequestURI string `json:"request_uri"`
	}
	if a := ts.push(form); json.Unmarshal([]byte(a.body), &pushed) != nil || pushed.RequestURI == "" {
		ts.t.Fatalf("%s: %s", a.Status, a.body)
	}
	return url.Values{"client_id": {"web"}, "request_uri": {pushed.RequestURI}}
}

// refused fails the test unless the answer is the error.
func (a answer) refused(t *testing.T, status int, name string) {
	t.Helper()
	var e struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || a.StatusCode != status || e.Error != name {
		t.Errorf("got %s: %s, want %d and %s", a.Status, a.body, status, name)
	}
}

func TestPushedRequestGetsARequestURI(t *testing.T) {
	ts := newTestServer(t)
	seen := map[string]bool{}
	for name, form := range map[string]url.Values{
		"with client_id": codeRequest(), "without, since the client has authenticated": with(codeRequest(), "client_id", ""),
	} {
		if form.Get("client_id") == "" {
			form.Del("client_id")
		}
		a := ts.push(form)
		var pushed struct {
			RequestURI string `json:"request_uri"`
			ExpiresIn  int    `json:"expires_in"`
		}
		if err := json.Unmarshal([]byte(a.body), &pushed); err != nil || a.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s: %s", name, a.Status, a.body)
		}
		// 32 random bytes (RFC 9126, Section 7.1).
		if id, ok := strings.CutPrefix(pushed.RequestURI, "urn:ietf:params:oauth:request_uri:"); !ok || len(id) != 43 || seen[id] || pushed.ExpiresIn != 600 {
			t.Errorf("%s: %+v", name, pushed)
		}
		seen[pushed.RequestURI] = true
		if a.Header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") || a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", name, a.Header)
		}
	}
	// A public client has only its name.
	r := ts.request(http.MethodPost, pathPush, url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"photos.read"}, "redirect_uri": {"com.example.app:/cb"},
		"state": {"state-0123456789"}, "code_challenge": {challenge()}, "code_challenge_method": {"S256"}})
	if a := ts.do(r); a.StatusCode != http.StatusCreated {
		t.Errorf("the public client: %s: %s", a.Status, a.body)
	}
	for _, secret := range []string{"web-secret-0123456789", "state-0123456789", "request_uri:"} {
		if strings.Contains(ts.log.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, ts.log)
		}
	}
}

func TestPushedRequestIsRefusedForWhatItWouldBeRefusedForLater(t *testing.T) {
	ts := newTestServer(t)
	for name, test := range map[string]struct {
		form   url.Values
		change func(*http.Request)
		status int
		want   string
	}{
		"another method":                  {codeRequest(), func(r *http.Request) { r.Method = http.MethodPut }, http.StatusMethodNotAllowed, "invalid_request"},
		"another kind of body":            {codeRequest(), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, http.StatusBadRequest, "invalid_request"},
		"a form of parts":                 {codeRequest(), func(r *http.Request) { setParts(r, codeRequest()) }, http.StatusBadRequest, "invalid_request"},
		"parameters in the address":       {codeRequest(), func(r *http.Request) { r.URL.RawQuery = "prompt=login" }, http.StatusBadRequest, "invalid_request"},
		"a body that is broken":           {codeRequest(), func(r *http.Request) { setBody(r, codeRequest().Encode()+"&x=%zz") }, http.StatusBadRequest, "invalid_request"},
		"a body that is too long":         {codeRequest("x", strings.Repeat("x", maxAuthorizationRequest)), nil, http.StatusRequestEntityTooLarge, "invalid_request"},
		"a wrong secret":                  {codeRequest(), func(r *http.Request) { r.SetBasicAuth("web", "a-wrong-secret-0123") }, http.StatusUnauthorized, "invalid_client"},
		"no secret":                       {codeRequest(), func(r *http.Request) { r.Header.Del("Authorization") }, http.StatusUnauthorized, "invalid_client"},
		"a client that is not there":      {codeRequest("client_id", "evil"), func(r *http.Request) { r.Header.Del("Authorization") }, http.StatusUnauthorized, "invalid_client"},
		"in the name of another client":   {codeRequest("client_id", "app"), nil, http.StatusUnauthorized, "invalid_client"},
		"a pushed request in it":          {codeRequest("request_uri", requestURIPrefix+"x"), nil, http.StatusBadRequest, "invalid_request"},
		"a redirect URI of somebody else": {codeRequest("redirect_uri", "https://evil.example/cb"), nil, http.StatusBadRequest, "invalid_request"},
		"a scope that it may not have":    {codeRequest("scope", "openid admin"), nil, http.StatusBadRequest, "invalid_scope"},
		"a parameter twice":               {url.Values{"client_id": {"web"}, "nonce": {"nonce-0123456789", "nonce-9876543210"}}, nil, http.StatusBadRequest, "invalid_request"},
		"a state that is short":           {codeRequest("state", "x"), nil, http.StatusBadRequest, "invalid_state"},
		"plain PKCE":                      {codeRequest("code_challenge_method", "plain"), nil, http.StatusBadRequest, "invalid_request"},
		"tokens in the query":             {codeRequest("response_type", "code id_token", "response_mode", "query"), nil, http.StatusBadRequest, "unsupported_response_mode"},
		"an unknown prompt":               {codeRequest("prompt", "magic"), nil, http.StatusBadRequest, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.change == nil {
				test.change = func(*http.Request) {}
			}
			a := ts.push(test.form, test.change)
			a.refused(t, test.status, test.want)
			if a.Header.Get("Cache-Control") != "no-store" || (a.StatusCode == http.StatusUnauthorized) != (a.Header.Get("WWW-Authenticate") != "") ||
				(a.StatusCode == http.StatusMethodNotAllowed) != (a.Header.Get("Allow") != "") {
				t.Errorf("%v", a.Header)
			}
		})
	}
	r := ts.request(http.MethodPost, pathPush, url.Values{"client_id": {"app"}, "response_type": {"code"}, "redirect_uri": {"com.example.app:/cb"}, "state": {"state-0123456789"}})
	ts.do(r).refused(t, http.StatusBadRequest, "invalid_request") // a public client without PKCE
}

func setBody(r *http.Request, text string) {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
}

func setParts(r *http.Request, form url.Values) {
	var body strings.Builder
	parts := multipart.NewWriter(&body)
	for name := range form {
		_ = parts.WriteField(name, form.Get(name))
	}
	_ = parts.Close()
	r.Header.Set("Content-Type", parts.FormDataContentType())
	setBody(r, body.String())
}

// A client that has to push its requests (RFC 9126, Section 6).
func TestRequestThatWasNotPushedIsRefusedWithoutAPage(t *testing.T) {
	ts := newTestServer(t)
	ts.authorize(codeRequest()).is(t, http.StatusOK, "Sign in")
	page := ts.signIn(ts.authorize(codeRequest()), "alice")
	page.is(t, http.StatusOK, "Allow access?")
	prompts := ts.events.count(fositeconsent.ActionPrompt, "")

	ts.server.clients["web"].mustPush = true
	for name, params := range map[string]url.Values{"plain": codeRequest(), "for no page": codeRequest("prompt", "none"), "posted": codeRequest("nonce", "nonce-9876543210")} {
		a := ts.authorize(params)
		if name == "posted" {
			a = ts.follow(ts.post(pathAuthorize, params))
		}
		if got := a.toClient(t); got.Get("error") != "invalid_request" || got.Get("state") != "state-0123456789" || !strings.Contains(got.Get("error_description"), "push") {
			t.Errorf("%s: the client gets %v", name, got)
		}
	}
	for _, uri := range []string{"https://photos.example/request", "urn:ietf:params:oauth:", "URN:ietf:params:oauth:request_uri:x", " " + requestURIPrefix + "x"} {
		ts.authorize(codeRequest("request_uri", uri)).is(t, http.StatusBadRequest, "This link does not work")
	}
	// The page was shown when the client need not push yet.
	ts.post(pathConsent, approve(page.form())).is(t, http.StatusBadRequest, "This request can no longer be answered")
	if n := ts.events.count(fositeconsent.ActionPrompt, "") - prompts; n != 0 {
		t.Errorf("%d pages", n)
	}
	if n := ts.events.count(fositeconsent.ActionApprove, ""); n != 0 {
		t.Errorf("%d codes", n)
	}
	newBrowser(t, ts.url).authorize(codeRequest()).is(t, http.StatusOK, "Sign in") // nobody is sent away before that
	if a := ts.push(codeRequest()); a.StatusCode != http.StatusCreated {
		t.Errorf("pushed: %s: %s", a.Status, a.body)
	}
}

func TestPagesPassOnNothingBesideAPushedRequest(t *testing.T) {
	const want = "client_id=web&request_uri=urn%3Aietf%3Aparams%3Aoauth%3Arequest_uri%3Ax"
	pushed := url.Values{"client_id": {"web"}, "request_uri": {requestURIPrefix + "x"}}
	for name, params := range map[string]url.Values{
		"alone": pushed, "beside another request": codeRequest("request_uri", requestURIPrefix+"x"),
		"beside two redirect URIs": {"client_id": pushed["client_id"], "request_uri": pushed["request_uri"], "redirect_uri": {"https://a.example", "https://b.example"}},
	} {
		if got, err := returnQuery(params.Encode()); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// Which one is meant is the gate's to refuse.
	for name, params := range map[string]url.Values{
		"a request object beside it": with(pushed, "request", "x"),
		"two of them":                {"client_id": {"web"}, "request_uri": {requestURIPrefix + "x", requestURIPrefix + "y"}},
		"something else":             with(codeRequest(), "request_uri", "https://photos.example/request"),
	} {
		if got, err := returnQuery(params.Encode()); err != nil || got != params.Encode() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	ts := newTestServer(t)
	for _, more := range []string{"&request=x", "&request_uri=" + requestURIPrefix + "y"} {
		ts.get(pathAuthorize+"?"+want+more).is(t, http.StatusBadRequest, "This link does not work")
	}
	a := ts.post(pathAuthorize, codeRequest("request_uri", requestURIPrefix+"x"))
	if got := a.Header.Get("Location"); got != pathAuthorize+"?"+want {
		t.Errorf("posted, it leads to %q", got)
	}
}

// A client may name the server in its assertion by its issuer, by the token endpoint
// or by the endpoint that it pushes to (RFC 9126, Section 2).
func TestClientMayAssertItselfByAnyNameOfTheServer(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := parseClientsText(t, `[{"client_id": "signer", "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256", "jwks": `+string(public)+`,
		"redirect_uris": ["https://photos.example/cb"], "grant_types": ["authorization_code", "client_credentials"], "scope": "openid photos.read"}]`)
	if err != nil {
		t.Fatal(err)
	}
	ts := newTestServer(t, func(s *server, _ *providerConfig) { s.clients["signer"] = clients[0] })
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	assertion := func(audience string) url.Values {
		claims, err := json.Marshal(map[string]any{"iss": "signer", "sub": "signer", "aud": audience, "jti": rand.Text(), "exp": time.Now().Add(time.Minute).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return url.Values{"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {text}}
	}
	for audience, accepted := range map[string]bool{
		ts.url: true, ts.url + pathToken: true, ts.url + pathPush: true,
		ts.url + "/": false, ts.url + pathAuthorize: false, "https://other.example": false, "": false,
	} {
		for path, form := range map[string]url.Values{
			pathPush:  with(codeRequest("scope", "openid photos.read"), "client_id", "signer"),
			pathToken: {"grant_type": {"client_credentials"}},
		} {
			form.Del("audience")
			for name, values := range assertion(audience) {
				form[name] = values
			}
			a := ts.post(path, form)
			if (a.StatusCode/100 == 2) != accepted || !accepted && a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s, asserted for %q: %s: %s", path, audience, a.Status, a.body)
			}
		}
	}
}

// What a failing database leaves of it is an error that says whose fault it is.
func TestPushThatCannotBeStored(t *testing.T) {
	ts := newTestServer(t, func(_ *server, c *providerConfig) { c.storage = noPushes{c.storage.(memoryStorage)} })
	ts.push(codeRequest()).refused(t, http.StatusInternalServerError, "server_error")
	if log := ts.log.String(); !strings.Contains(log, `"level":"ERROR","msg":"pushed request refused"`) {
		t.Errorf("%s", log)
	}
}

// noPushes is a storage that keeps no pushed request.
type noPushes struct{ memoryStorage }

func (noPushes) CreatePARSession(context.Context, string, fosite.AuthorizeRequester) error {
	return io.ErrUnexpectedEOF
}
