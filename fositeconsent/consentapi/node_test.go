package consentapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/integration/hydranpm"
)

// TestNode drives every endpoint with Hydra's two clients for JavaScript, unchanged.
func TestNode(t *testing.T) {
	t.Parallel()
	hydranpm.Folder(t) // or skip
	for _, name := range []string{hydranpm.Axios, hydranpm.Fetch} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("a request is looked up and accepted, and leads to tokens", func(t *testing.T) {
				t.Parallel()
				nodeAccepts(t, name)
			})
			t.Run("a request is rejected, and the client is told why", func(t *testing.T) {
				t.Parallel()
				nodeRejects(t, name)
			})
			t.Run("consents are listed in pages and revoked", func(t *testing.T) {
				t.Parallel()
				nodeLists(t, name)
			})
			t.Run("errors have the shape that the caller expects, and nothing changes", func(t *testing.T) {
				t.Parallel()
				nodeFails(t, name)
			})
			t.Run("it is let in as it comes, with the token that it is configured with", func(t *testing.T) {
				t.Parallel()
				nodeIsLetIn(t, name)
			})
		})
	}
}

type object = map[string]any

// returned checks that the client has returned, and reads what.
func returned[T any](t *testing.T, r hydranpm.Result, status int) (data T) {
	t.Helper()
	if r.Error != "" || r.Status != status {
		t.Fatalf("got %s, %d, %s, want status %d", r.Error, r.Status, r.Data, status)
	}
	if err := json.Unmarshal(r.Data, &data); err != nil {
		t.Fatalf("%v: %s", err, r.Data)
	}
	return data
}

// thrown checks that the client has thrown its error, with Hydra's object in it.
func thrown(t *testing.T, name string, r hydranpm.Result, status int, code string) object {
	t.Helper()
	class := map[string]string{hydranpm.Axios: "AxiosError", hydranpm.Fetch: "ResponseError"}[name]
	var body object
	if err := json.Unmarshal(r.Data, &body); err != nil || r.Error != class || r.Status != status ||
		body["error"] != code || body["error_description"] == "" || body["status_code"] != float64(status) {
		t.Errorf("got %s, %d, %s, %v, want %s, %d, %s", r.Error, r.Status, r.Data, err, class, status, code)
	}
	return body
}

func nodeAccepts(t *testing.T, name string) {
	h := newHost(t, options{})
	b, node := h.browser(), hydranpm.NewClient(t, name, h.internal.URL, "")
	challenge := b.start(params())
	asked := returned[hydra.OAuth2ConsentRequest](t, node.Call("getOAuth2ConsentRequest", object{"consentChallenge": challenge}), http.StatusOK)
	if asked.Challenge != challenge || asked.GetSubject() != "alice" || asked.GetSkip() || asked.Client.GetClientId() != "app" || asked.Client.GetClientName() != "The app" ||
		strings.Join(asked.RequestedScope, " ") != "openid photos contacts" || strings.Join(asked.RequestedAccessTokenAudience, " ") != "https://api.example" ||
		asked.GetLoginSessionId() != "login-of-alice" || !strings.HasPrefix(asked.GetRequestUrl(), h.server.URL+"/oauth2/auth?") {
		t.Errorf("the application is told %+v of %+v", asked, asked.Client)
	}
	accept := object{"consentChallenge": challenge, "acceptOAuth2ConsentRequest": object{
		"grant_scope": asked.RequestedScope[:2], "grant_access_token_audience": asked.RequestedAccessTokenAudience, "remember": true, "remember_for": 3600, "context": object{"k": "v"},
		"handled_at": time.Now().UTC().Format(time.RFC3339Nano),
		"session":    object{"id_token": object{"email": "alice@example.com"}, "access_token": object{"tier": "gold"}},
	}}
	if name == hydranpm.Fetch {
		delete(accept["acceptOAuth2ConsentRequest"].(object), "handled_at") // it wants a Date, which JSON has not
	}
	to := returned[hydra.OAuth2RedirectTo](t, node.Call("acceptOAuth2ConsentRequest", accept), http.StatusOK).RedirectTo
	if again := returned[hydra.OAuth2RedirectTo](t, node.Call("acceptOAuth2ConsentRequest", accept), http.StatusOK).RedirectTo; again != to {
		t.Errorf("the same answer leads to %s, want %s", again, to)
	}
	if h.issued() != 0 {
		t.Error("a code was issued before the browser was back")
	}
	tokens := h.exchange(b.wantCode(to))
	if claims := claimsOf(t, tokens["id_token"]); tokens["scope"] != "openid photos" || claims["email"] != "alice@example.com" || claims["sub"] != "alice" {
		t.Errorf("the tokens are %v, with %v", tokens, claims)
	}
	if info := h.post("/oauth2/introspect", url.Values{"token": {tokens["access_token"].(string)}}); info["tier"] != "gold" || info["active"] != true {
		t.Errorf("introspection says %v", info)
	}
	kept := h.consents("alice")
	if len(kept) != 1 || !kept[0].GetRemember() || kept[0].GetRememberFor() != 3600 || strings.Join(kept[0].GrantScope, " ") != "openid photos" {
		t.Errorf("what is kept is %+v", kept)
	}
}

func nodeRejects(t *testing.T, name string) {
	h := newHost(t, options{})
	b, node := h.browser(), hydranpm.NewClient(t, name, h.internal.URL, "")
	reject := object{"consentChallenge": b.start(params()), "rejectOAuth2Request": object{"error": "access_denied", "error_description": "The resource owner denied the request"}}
	to := returned[hydra.OAuth2RedirectTo](t, node.Call("rejectOAuth2ConsentRequest", reject), http.StatusOK).RedirectTo
	if _, location, body := b.get(to); location.Host != "app.example" || location.Query().Get("error") != "access_denied" ||
		!strings.Contains(location.Query().Get("error_description"), "The resource owner denied the request") || location.Query().Get("code") != "" {
		t.Errorf("the browser is sent to %s, %s", location, body)
	}
	if h.issued() != 0 || len(h.consents("alice")) != 0 {
		t.Error("a rejection has become something")
	}
}

// consents are those that there are, as the client for Go sees them.
func (h *host) consents(subject string) []hydra.OAuth2ConsentSession {
	h.t.Helper()
	list, _, err := h.client().ListOAuth2ConsentSessions(h.t.Context()).Subject(subject).Execute()
	if err != nil {
		h.t.Fatal(err)
	}
	return list
}

func ids(list []hydra.OAuth2ConsentSession) (ids []string) {
	for _, s := range list {
		ids = append(ids, s.ConsentRequest.Challenge)
	}
	return ids
}

func nodeLists(t *testing.T, name string) {
	h := newHost(t, options{})
	b, node := h.browser(), hydranpm.NewClient(t, name, h.internal.URL, "")
	give := func(values url.Values) {
		b.wantCode(h.accept(b.start(values), &hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"openid"}}))
	}
	other := params("client_id", "other", "redirect_uri", "https://other.example/cb", "scope", "openid photos", "audience", "")
	for range 3 {
		give(params())
	}
	for range 2 {
		give(other)
	}
	want := ids(h.consents("alice")) // the newest first: two of other's, three of app's
	if len(want) != 5 {
		t.Fatalf("there are %v", want)
	}
	pages := returned[[][]hydra.OAuth2ConsentSession](t, node.Call("pages", object{"subject": "alice", "pageSize": 2}), http.StatusOK)
	var sizes []int
	var got []string
	for _, page := range pages {
		sizes, got = append(sizes, len(page)), append(got, ids(page)...)
	}
	if !slices.Equal(sizes, []int{2, 2, 1}) || !slices.Equal(got, want) {
		t.Errorf("pages of %v: %v, want %v", sizes, got, want)
	}
	list := func(parameters object, want []string) {
		t.Helper()
		got := ids(returned[[]hydra.OAuth2ConsentSession](t, node.Call("listOAuth2ConsentSessions", parameters), http.StatusOK))
		if !slices.Equal(got, want) {
			t.Errorf("%v: listed %v, want %v", parameters, got, want)
		}
	}
	list(object{"subject": "alice", "pageToken": "1", "pageSize": 500}, want) // the first page, as the client documents it
	list(object{"subject": "alice", "loginSessionId": "login-of-alice"}, want)
	list(object{"subject": "alice", "loginSessionId": "another"}, nil)
	list(object{"subject": "bob"}, nil)

	// Each revocation ends what it names, here, and an answer whose browser is not back.
	revoke := func(parameters object, left []string) {
		t.Helper()
		if r := node.Call("revokeOAuth2ConsentSessions", parameters); r.Error != "" || r.Status != http.StatusNoContent || string(r.Data) != "null" {
			t.Errorf("%v: %+v, %s", parameters, r, r.Data)
		}
		if got := ids(h.consents("alice")); !slices.Equal(got, left) {
			t.Errorf("%v: %v are left, want %v", parameters, got, left)
		}
	}
	revoke(object{"subject": "bob", "all": true}, want)
	if name == hydranpm.Axios { // the other's version has no such parameter
		revoke(object{"subject": "alice", "consentRequestId": want[4]}, want[:4])
		want = want[:4]
	}
	revoke(object{"subject": "alice", "client": "other"}, want[2:])
	way := h.accept(b.start(params()), &hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"openid"}})
	revoke(object{"subject": "alice", "all": true}, nil)
	b.wantPage(way, consentapi.ErrRequestRevoked)
}

func nodeFails(t *testing.T, name string) {
	h := newHost(t, options{api: func(c *consentapi.Config) { c.Lifespan = 10 * time.Minute }})
	b, node := h.browser(), hydranpm.NewClient(t, name, h.internal.URL, "")
	get := func(challenge string) hydranpm.Result {
		return node.Call("getOAuth2ConsentRequest", object{"consentChallenge": challenge})
	}
	accept := func(challenge string, scopes ...string) hydranpm.Result {
		return node.Call("acceptOAuth2ConsentRequest", object{"consentChallenge": challenge, "acceptOAuth2ConsentRequest": object{"grant_scope": scopes}})
	}
	reject := func(challenge string) hydranpm.Result {
		return node.Call("rejectOAuth2ConsentRequest", object{"consentChallenge": challenge, "rejectOAuth2Request": object{}})
	}
	challenge := b.start(params())

	// 404, and 400 with the request as it was.
	for _, r := range []hydranpm.Result{get("nonsense"), accept("nonsense", "openid"), reject("nonsense")} {
		thrown(t, name, r, http.StatusNotFound, "not_found")
	}
	thrown(t, name, accept(challenge, "openid", "photos.*"), http.StatusBadRequest, "invalid_request")
	thrown(t, name, accept(challenge), http.StatusBadRequest, "invalid_request")
	thrown(t, name, node.Call("listOAuth2ConsentSessions", object{"subject": ""}), http.StatusBadRequest, "invalid_request")
	thrown(t, name, node.Call("revokeOAuth2ConsentSessions", object{"subject": "alice"}), http.StatusBadRequest, "invalid_request")
	returned[object](t, get(challenge), http.StatusOK)

	// 409, and the first answer stands. 410 leads on, by the authorization request.
	restart := h.server.URL + "/oauth2/auth?"
	to := returned[hydra.OAuth2RedirectTo](t, accept(challenge, "openid"), http.StatusOK).RedirectTo
	thrown(t, name, accept(challenge, "openid", "photos"), http.StatusConflict, "conflict")
	thrown(t, name, reject(challenge), http.StatusConflict, "conflict")
	if gone := thrown(t, name, get(challenge), http.StatusGone, "gone"); !strings.HasPrefix(fmt.Sprint(gone["redirect_to"]), restart) {
		t.Errorf("the way on is %v", gone)
	}
	if tokens := h.exchange(b.wantCode(to)); tokens["scope"] != "openid" {
		t.Errorf("the tokens are %v", tokens)
	}
	if gone := thrown(t, name, get(challenge), http.StatusGone, "gone"); !strings.HasPrefix(fmt.Sprint(gone["redirect_to"]), restart) {
		t.Errorf("the way on is %v", gone)
	}

	// 410 to whoever answers too late.
	late := b.start(params("prompt", "consent"))
	h.clock.Store(int64(10 * time.Minute))
	for _, r := range []hydranpm.Result{get(late), accept(late, "openid"), reject(late)} {
		if gone := thrown(t, name, r, http.StatusGone, "gone"); !strings.HasPrefix(fmt.Sprint(gone["redirect_to"]), restart) {
			t.Errorf("the way on is %v", gone)
		}
	}
	if h.issued() != 1 {
		t.Errorf("%d codes were issued", h.issued())
	}
}

func nodeIsLetIn(t *testing.T, name string) {
	const token = "a token of 32 bytes at the very least"
	h := newHost(t, options{api: func(c *consentapi.Config) { c.Authenticate = consentapi.BearerToken(token) }})
	var mu sync.Mutex
	var sent []http.Header
	handler := h.api.Handler()
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		sent = append(sent, r.Header.Clone())
		mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(listener.Close)
	challenge := h.browser().start(params())
	get := object{"consentChallenge": challenge}
	accept := object{"consentChallenge": challenge, "acceptOAuth2ConsentRequest": object{"grant_scope": []string{"openid"}}}
	revoke := object{"subject": "alice", "all": true}

	stranger := hydranpm.NewClient(t, name, listener.URL, "")
	thrown(t, name, stranger.Call("getOAuth2ConsentRequest", get), http.StatusUnauthorized, "request_unauthorized")
	thrown(t, name, stranger.Call("acceptOAuth2ConsentRequest", accept), http.StatusUnauthorized, "request_unauthorized")

	node := hydranpm.NewClient(t, name, listener.URL, "Bearer "+token)
	returned[object](t, node.Call("getOAuth2ConsentRequest", get), http.StatusOK)
	returned[object](t, node.Call("acceptOAuth2ConsentRequest", accept), http.StatusOK)
	returned[[]any](t, node.Call("listOAuth2ConsentSessions", object{"subject": "alice"}), http.StatusOK)
	returned[any](t, node.Call("revokeOAuth2ConsentSessions", revoke), http.StatusNoContent)
	// Node's fetch sends a header of the family by which the API knows browsers. It must not be taken for one.
	mu.Lock()
	defer mu.Unlock()
	for _, header := range sent {
		if mode := header.Get("Sec-Fetch-Mode"); (mode != "") != (name == hydranpm.Fetch) {
			t.Errorf("Sec-Fetch-Mode is %q: this test has lost its reason", mode)
		}
	}
}
