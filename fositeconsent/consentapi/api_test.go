package consentapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// call sends a request that the generated client cannot.
func (h *host) call(method, path, body string, header ...string) (*http.Response, map[string]any) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.internal.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	var answer map[string]any
	_ = json.Unmarshal(text, &answer)
	return resp, answer
}

const (
	pathRequest  = "/admin/oauth2/auth/requests/consent"
	pathSessions = "/admin/oauth2/auth/sessions/consent"
)

func TestUnknownHandlesAreNotFound(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	challenge := h.browser().start(params())
	for _, unknown := range []string{"fcc_", "nonsense", challenge[:len(challenge)-1], challenge + "A", "fcc_" + strings.Repeat("A", 64), strings.Replace(challenge, "fcc_", "fcv_", 1), challenge[:20] + "A" + challenge[21:]} {
		if unknown == challenge {
			continue
		}
		_, resp, err := h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(unknown).Execute()
		wantError(t, resp, err, http.StatusNotFound)
		_, resp, err = h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(unknown).AcceptOAuth2ConsentRequest(*accepting("openid")).Execute()
		wantError(t, resp, err, http.StatusNotFound)
		_, resp, err = h.client().RejectOAuth2ConsentRequest(t.Context()).ConsentChallenge(unknown).RejectOAuth2Request(hydra.RejectOAuth2Request{}).Execute()
		wantError(t, resp, err, http.StatusNotFound)
	}
	for _, query := range []string{"", "?consent_challenge=", "?consent_challenge=" + challenge + "&consent_challenge=" + challenge} {
		if resp, _ := h.call(http.MethodGet, pathRequest+query, ""); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %d", query, resp.StatusCode)
		}
	}
}

func TestWhatWasNotRequestedIsRefusedAndNothingChanges(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		challenge := b.start(params("scope", "openid photos photos.* offline_access"))
		huge := strings.Repeat("x", fositeconsent.MaxDataSize)
		for name, body := range map[string]string{
			"another scope":                 `{"grant_scope":["openid","contacts"]}`,
			"a scope in another case":       `{"grant_scope":["openid","Photos"]}`,
			"a scope and more":              `{"grant_scope":["openid","photos","photos","photos","photos"]}`,
			"a wildcard":                    `{"grant_scope":["openid","photos.*"]}`,
			"without openid":                `{"grant_scope":["photos"]}`,
			"nothing at all":                `{}`,
			"null":                          `{"grant_scope":null}`,
			"a list of null":                `{"grant_scope":[null]}`,
			"a scope without text":          `{"grant_scope":["openid",""]}`,
			"no body":                       ``,
			"no object":                     `[]`,
			"the literal null":              `null`,
			"another audience":              `{"grant_scope":["openid"],"grant_access_token_audience":["https://other.example"]}`,
			"a scope that is no text":       `{"grant_scope":[1]}`,
			"scopes that are no list":       `{"grant_scope":"openid"}`,
			"an unknown member":             `{"grant_scope":["openid"],"approve":true}`,
			"a member twice":                `{"grant_scope":["openid"],"grant_scope":["openid","photos"]}`,
			"a member in another case":      `{"grant_scope":["openid"],"Grant_Scope":["openid","photos"]}`,
			"something after it":            `{"grant_scope":["openid"]}{}`,
			"a negative remember_for":       `{"grant_scope":["openid"],"remember":true,"remember_for":-1}`,
			"a remember_for that overflows": `{"grant_scope":["openid"],"remember":true,"remember_for":9223372036854775807}`,
			"a remember_for that wraps":     `{"grant_scope":["openid"],"remember":true,"remember_for":18446744074}`,
			"a claim twice":                 `{"grant_scope":["openid"],"session":{"id_token":{"email":"a","email":"b"}}}`,
			"a name in the context twice":   `{"grant_scope":["openid"],"context":[{"a":{"b":1,"\u0062":2}}]}`,
			"a remember that is no bool":    `{"grant_scope":["openid"],"remember":"true"}`,
			"a handled_at that is no time":  `{"grant_scope":["openid"],"handled_at":"yesterday"}`,
			"a session that is no object":   `{"grant_scope":["openid"],"session":[]}`,
			"an unknown part of a session":  `{"grant_scope":["openid"],"session":{"refresh_token":{}}}`,
			"ID token data that is a list":  `{"grant_scope":["openid"],"session":{"id_token":[]}}`,
			"too much data":                 `{"grant_scope":["openid"],"session":{"id_token":{"x":"` + huge + `"}}}`,
			"too deep":                      `{"grant_scope":["openid"],"context":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
			"malformed UTF-8":               "{\"grant_scope\":[\"openid\"],\"context\":\"\xff\"}",
			"cut off":                       `{"grant_scope":["openid"]`,
			"a number that is out of range": `{"grant_scope":["openid"],"context":1e999}`,
			"a number of more than 64 bits": `{"grant_scope":["openid"],"context":[18446744073709551616]}`,
			"a claim of more than 64 bits":  `{"grant_scope":["openid"],"session":{"id_token":{"account":{"id":-9223372036854775809}}}}`,
		} {
			resp, answer := h.call(http.MethodPut, pathRequest+"/accept?consent_challenge="+challenge, body)
			if resp.StatusCode != http.StatusBadRequest || answer["error"] != "invalid_request" || answer["error_description"] == "" || answer["status_code"] != 400.0 {
				t.Errorf("%s: %d, %v", name, resp.StatusCode, answer)
			}
		}
		for _, claim := range []string{"sub", "iss", "aud", "exp", "iat", "nbf", "jti", "nonce", "auth_time", "acr", "amr", "azp", "at_hash", "c_hash", "sid", "SUB", "ſub", "iſſ", "to\u212aen_type", "client_id", "scope", "active", "cnf"} {
			for _, part := range []string{"access_token", "id_token"} {
				body := fmt.Sprintf(`{"grant_scope":["openid"],"session":{%q:{%q:"x"}}}`, part, claim)
				if resp, _ := h.call(http.MethodPut, pathRequest+"/accept?consent_challenge="+challenge, body); resp.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: %d", body, resp.StatusCode)
				}
			}
		}
		for name, body := range map[string]string{
			"an error code with a quote": `{"error":"a\"b"}`,
			"a line break":               `{"error":"a\nb"}`,
			"a backslash":                `{"error":"a\\b"}`,
			"an error code in Greek":     `{"error":"α"}`,
			"a status that is none":      `{"status_code":600}`,
			"a debug that is no text":    `{"error_debug":{}}`,
			"a status of success":        `{"status_code":200}`,
			"an unknown member":          `{"reason":"x"}`,
			"a text without an end":      `{"error_description":"` + strings.Repeat("x", 2000) + `"}`,
		} {
			if resp, _ := h.call(http.MethodPut, pathRequest+"/reject?consent_challenge="+challenge, body); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %d", name, resp.StatusCode)
			}
		}
		if resp, _ := h.call(http.MethodPut, pathRequest+"/accept?consent_challenge="+challenge, `{"context":"`+strings.Repeat("x", 200<<10)+`"}`); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a large body: %d", resp.StatusCode)
		}
		// Nothing has changed: it can still be accepted.
		b.wantCode(h.accept(challenge, &hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"photos", "openid"}}))
	})
}

// The reference application sends [null] for a form on which nothing is ticked, and for a request without a scope.
func TestNothingThatIsTickedIsNothingThatIsGranted(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	b := h.browser()
	for _, scope := range []string{"photos contacts", ""} {
		challenge := b.start(params("scope", scope))
		resp, answer := h.call(http.MethodPut, pathRequest+"/accept?consent_challenge="+challenge, `{"grant_scope":[null],"grant_access_token_audience":[null]}`)
		to, _ := answer["redirect_to"].(string)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("of %q: %d, %v", scope, resp.StatusCode, answer)
		}
		if tokens := h.exchange(b.wantCode(to)); tokens["scope"] != "" || tokens["access_token"] == nil {
			t.Errorf("of %q: granted %v", scope, tokens)
		}
	}
}

func TestTheSameAnswerLeadsToTheSameAddressAndAnotherIsAConflict(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		challenge := b.start(params())
		body := accepting("openid", "photos")
		body.Session = &hydra.AcceptOAuth2ConsentRequestSession{IdToken: map[string]any{"a": 1, "b": []any{true}}}
		body.Context = map[string]any{"k": "v"}
		now := time.Now()
		body.HandledAt = &now
		to := h.accept(challenge, body)
		later := now.Add(time.Minute)
		body.HandledAt, body.GrantScope = &later, []string{"photos", "openid"}
		if again := h.accept(challenge, body); again != to {
			t.Errorf("the same answer leads to %s, want %s", again, to)
		}
		others := []*hydra.AcceptOAuth2ConsentRequest{accepting("openid"), accepting("openid", "photos"), accepting("openid", "photos", "contacts")}
		remembered := *body
		remembered.Remember = hydra.PtrBool(true)
		for i, other := range append(others, &remembered) {
			_, resp, err := h.client().AcceptOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(*other).Execute()
			if wantError(t, resp, err, http.StatusConflict) == nil {
				t.Errorf("answer %d", i)
			}
		}
		_, resp, err := h.client().RejectOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{}).Execute()
		wantError(t, resp, err, http.StatusConflict)

		// Who looks again, by the back button, is told where to go: to the start, and not where the answer leads.
		_, resp, err = h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
		if gone := wantError(t, resp, err, http.StatusGone); !strings.HasPrefix(gone["redirect_to"].(string), h.server.URL+"/oauth2/auth?") {
			t.Errorf("the way on is %v", gone)
		}
		b.wantCode(to)
		_, resp, err = h.client().GetOAuth2ConsentRequest(t.Context()).ConsentChallenge(challenge).Execute()
		gone := wantError(t, resp, err, http.StatusGone)
		restart, _ := gone["redirect_to"].(string)
		if parsed, err := url.Parse(restart); err != nil || parsed.Path != "/oauth2/auth" || parsed.Query().Get("state") != params().Get("state") {
			t.Errorf("the way on is %v", gone)
		}
		b.start(params()) // as it would be at that address
	})
}

func TestAcceptsRaceRejects(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		for range 5 {
			b := h.browser()
			challenge := b.start(params())
			results := make(chan string, 16)
			for i := range cap(results) {
				go func() {
					path, body := "/accept", `{"grant_scope":["openid"]}`
					if i%2 == 0 {
						path, body = "/reject", `{}`
					}
					r, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, h.internal.URL+pathRequest+path+"?consent_challenge="+challenge, strings.NewReader(body))
					resp, err := http.DefaultClient.Do(r)
					if err != nil {
						results <- err.Error()
						return
					}
					defer resp.Body.Close()
					text, _ := io.ReadAll(resp.Body)
					results <- fmt.Sprint(path, resp.StatusCode, string(text))
				}()
			}
			outcomes := map[string]int{}
			for range cap(results) {
				got := <-results
				switch {
				case strings.HasPrefix(got, "/accept200"), strings.HasPrefix(got, "/reject200"):
					outcomes[got]++
				case strings.HasPrefix(got, "/accept409"), strings.HasPrefix(got, "/reject409"):
					outcomes["conflict"]++
				default:
					t.Error(got)
				}
			}
			if len(outcomes) != 2 || outcomes["conflict"] != 8 {
				t.Errorf("the outcomes are %v", outcomes)
			}
		}
	})
}

func TestSessionsAreListedInPagesAndRevoked(t *testing.T) {
	onEach(t, func(t *testing.T, on string) {
		h := newHost(t, options{on: on})
		b := h.browser()
		give := func(remember bool, values url.Values, scopes ...string) {
			body := &hydra.AcceptOAuth2ConsentRequest{GrantScope: scopes, Remember: hydra.PtrBool(remember), RememberFor: hydra.PtrInt64(3600),
				Session: &hydra.AcceptOAuth2ConsentRequestSession{IdToken: map[string]any{"email": "alice@example.com"}}, Context: map[string]any{"k": "v"}}
			b.wantCode(h.accept(b.start(values), body))
		}
		give(true, params("scope", "openid photos"), "openid", "photos")
		for range 3 {
			give(false, params("prompt", "consent"), "openid")
		}
		give(false, params("client_id", "other", "redirect_uri", "https://other.example/cb", "scope", "openid photos", "audience", ""), "openid")

		all, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").Execute()
		if err != nil || len(all) != 5 {
			t.Fatalf("listed %d, %v", len(all), err)
		}
		if got := all[0]; got.ConsentRequest.Client.GetClientId() != "other" || got.ConsentRequest.GetSubject() != "alice" || strings.Join(got.GrantScope, " ") != "openid" || got.GetRemember() {
			t.Errorf("the newest is %+v", got)
		}
		oldest := all[4]
		if !oldest.GetRemember() || oldest.GetRememberFor() != 3600 || oldest.ConsentRequest.GetLoginSessionId() != "login-of-alice" || oldest.GetHandledAt().IsZero() ||
			oldest.ConsentRequest.Client.GetClientName() != "The app" || oldest.Session == nil || fmt.Sprint(oldest.Session.IdToken) != "map[email:alice@example.com]" || fmt.Sprint(oldest.Context) != "map[k:v]" {
			t.Errorf("the oldest is %+v", oldest)
		}

		var paged []string
		path := pathSessions + "?subject=alice&page_size=2"
		pages := 0
		for path != "" {
			pages++
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, h.internal.URL+path, nil)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			var page []hydra.OAuth2ConsentSession
			if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			for _, s := range page {
				paged = append(paged, s.ConsentRequest.Challenge)
			}
			path = ""
			link := resp.Header.Get("Link")
			if !strings.Contains(link, `rel="first"`) {
				t.Errorf("no link to the first page: %s", link)
			}
			for part := range strings.SplitSeq(link, ",") {
				if before, found := strings.CutSuffix(part, `>; rel="next"`); found {
					path = strings.TrimPrefix(before, "<")
				}
			}
		}
		var want []string
		for _, s := range all {
			want = append(want, s.ConsentRequest.Challenge)
		}
		if pages != 3 || !slices.Equal(paged, want) {
			t.Errorf("in %d pages: %v, want %v", pages, paged, want)
		}

		// The documented first page of the generated client.
		if first, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").PageToken("1").PageSize(1000).Execute(); err != nil || len(first) != 5 {
			t.Errorf("page_token 1: %d, %v", len(first), err)
		}
		for query, want := range map[string]int{"login_session_id=login-of-alice": 5, "login_session_id=another": 0} {
			_, list := h.call(http.MethodGet, pathSessions+"?subject=alice&"+query, "")
			_ = list
			got, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").LoginSessionId(strings.TrimPrefix(query, "login_session_id=")).Execute()
			if err != nil || len(got) != want {
				t.Errorf("%s: %d, %v", query, len(got), err)
			}
		}
		if got, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("bob").Execute(); err != nil || len(got) != 0 || got == nil {
			t.Errorf("of nobody: %v, %v", got, err)
		}

		for _, bad := range []string{"", "?subject=", "?subject=alice", "?subject=alice&all=false", "?all=true", "?client=app", "?subject=alice&client=app&all=true", "?subject=alice&all=yes", "?subject=alice&client=&all=true",
			"?subject=alice&consent_request_id=x", "?subject=alice&consent_request_id=00000000-0000-0000-0000-000000000000", "?subject=alice&client=app&consent_request_id=x", "?consent_request_id=" + want[0], "?subject=alice&subject=bob&all=true",
			"?subject=alice&all=true&client=%zz", "?subject=alice&all=true&login_session_id=a;b", "?subject=alice&client=app&consent_request_id=%", "?subject=alice&login_session_id=login-of-alice"} {
			if resp, _ := h.call(http.MethodDelete, pathSessions+bad, ""); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("DELETE %s: %d", bad, resp.StatusCode)
			}
		}
		for _, bad := range []string{"", "?subject=", "?subject=alice&page_size=0", "?subject=alice&page_size=-1", "?subject=alice&page_size=x", "?subject=alice&page_token=x", "?subject=alice&page_token=00000000-0000-0000-0000-000000000000"} {
			if resp, _ := h.call(http.MethodGet, pathSessions+bad, ""); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("GET %s: %d", bad, resp.StatusCode)
			}
		}
		left := func(want int) {
			t.Helper()
			if got, _, err := h.client().ListOAuth2ConsentSessions(t.Context()).Subject("alice").Execute(); err != nil || len(got) != want {
				t.Errorf("%d are left, %v, want %d", len(got), err, want)
			}
		}
		left(5)
		revoke := func(query string) {
			t.Helper()
			if resp, body := h.call(http.MethodDelete, pathSessions+query, ""); resp.StatusCode != http.StatusNoContent {
				t.Errorf("DELETE %s: %d, %v", query, resp.StatusCode, body)
			}
		}
		revoke("?subject=bob&consent_request_id=" + want[0])
		left(5)
		revoke("?subject=alice&consent_request_id=" + want[0])
		left(4)
		revoke("?subject=alice&all=true&login_session_id=another")
		left(4)
		revoke("?subject=alice&client=other")
		left(4)
		if _, err := h.client().RevokeOAuth2ConsentSessions(t.Context()).Subject("alice").Client("app").Execute(); err != nil {
			t.Error(err)
		}
		left(0)
		b.start(params("scope", "openid photos")) // is not covered any more
	})
}

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	const token = "a token of 32 bytes at the very least"
	h := newHost(t, options{api: func(c *consentapi.Config) { c.Authenticate = consentapi.BearerToken(token) }})
	challenge := h.browser().start(params())
	path := pathRequest + "?consent_challenge=" + challenge
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer " + token + "x", "Basic " + token, token, "Bearer  " + token} {
		for _, c := range [][2]string{{http.MethodGet, path}, {http.MethodPut, pathRequest + "/accept?consent_challenge=" + challenge}, {http.MethodDelete, pathSessions + "?subject=alice&all=true"}, {http.MethodGet, "/nowhere"}} {
			resp, body := h.call(c[0], c[1], `{"grant_scope":["openid"]}`, "Authorization", header)
			if resp.StatusCode != http.StatusUnauthorized || body["error"] != "request_unauthorized" || resp.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%q: %d, %v", header, resp.StatusCode, body)
			}
		}
	}
	if resp, _ := h.call(http.MethodGet, path, "", "Authorization", "Bearer "+token); resp.StatusCode != http.StatusOK {
		t.Errorf("with the token: %d", resp.StatusCode)
	}
	for _, name := range []string{"Origin", "Sec-Fetch-Site"} {
		if resp, _ := h.call(http.MethodGet, path, "", "Authorization", "Bearer "+token, name, "null"); resp.StatusCode != http.StatusForbidden {
			t.Errorf("from a browser: %d", resp.StatusCode)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer short")
	if consentapi.BearerToken("short")(r) == nil {
		t.Error("a token that can be guessed lets in")
	}
	r.Header.Set("Authorization", "Bearer ")
	if consentapi.BearerToken("")(r) == nil {
		t.Error("no token lets in")
	}
}

// A page whose name has come to lead to 127.0.0.1 is of the same origin as what answers there, and its GETs have no Origin.
func TestALoopbackAddressUnderAnotherNameIsRefused(t *testing.T) {
	t.Parallel()
	const token = "a token of 32 bytes at the very least"
	open, guarded := newHost(t, options{}), newHost(t, options{api: func(c *consentapi.Config) { c.Authenticate = consentapi.BearerToken(token) }})
	get := func(h *host, name string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.internal.URL+pathSessions+"?subject=alice", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = name
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, name := range []string{"attacker.example", "attacker.example:9098", "localhost.attacker.example", "127.0.0.1.attacker.example", "10.0.0.1"} {
		if status := get(open, name); status != http.StatusForbidden {
			t.Errorf("%s: %d", name, status)
		}
		if status := get(guarded, name); status != http.StatusOK {
			t.Errorf("%s, with a token: %d", name, status)
		}
	}
	for _, name := range []string{"localhost", "LocalHost:9098", "127.0.0.1:9098", "[::1]:9098", "127.0.0.2"} {
		if status := get(open, name); status != http.StatusOK {
			t.Errorf("%s: %d", name, status)
		}
	}
	// A listener that others can reach has whatever name they have for it, and so has a Unix socket.
	for _, address := range []net.Addr{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, &net.UnixAddr{Name: "/run/consent.sock"}} {
		r := httptest.NewRequest(http.MethodGet, "http://consent-api"+pathSessions+"?subject=alice", nil)
		w := httptest.NewRecorder()
		open.api.Handler().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address)))
		if w.Code != http.StatusOK {
			t.Errorf("%v: %d", address, w.Code)
		}
	}
}

func TestPublicAddresses(t *testing.T) {
	t.Parallel()
	for address, public := range map[string]bool{
		"127.0.0.1:80": false, "127.1.2.3:80": false, "localhost:80": false, "[::1]:80": false, "/run/consent.sock": false, "@consent": false,
		":80": true, "0.0.0.0:80": true, "[::]:80": true, "10.0.0.1:80": true, "192.168.0.1:80": true, "example.com:80": true, "": true, "127.0.0.1": true, "localhost.example.com:80": true, "[fe80::1%eth0]:80": true,
	} {
		if got := consentapi.PublicAddress(address); got != public {
			t.Errorf("%q: %v", address, got)
		}
	}
	var log bytes.Buffer
	h := newHost(t, options{api: func(c *consentapi.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }})
	if h.api.WarnIfPublic(t.Context(), "127.0.0.1:0") || log.Len() > 0 || !h.api.WarnIfPublic(t.Context(), ":80") || !strings.Contains(log.String(), "Authenticate") {
		t.Errorf("the log is %s", log.String())
	}
	guarded := newHost(t, options{api: func(c *consentapi.Config) {
		c.Authenticate = func(*http.Request) error { return errors.New("nobody") }
	}})
	if guarded.api.WarnIfPublic(t.Context(), ":80") {
		t.Error("a warning about an API that has an authenticator")
	}
}

func TestUnusableConfigIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	good := func() consentapi.Config {
		return consentapi.Config{
			ConsentURL: "https://consent.example/", AuthorizationURL: "https://as.example/auth", ResumeURL: "https://as.example/resume",
			Secrets: func(context.Context) ([][]byte, error) { return nil, nil },
		}
	}
	if _, err := consentapi.New(h.gate, h.storage, good()); err != nil {
		t.Error(err)
	}
	for name, set := range map[string]func(*consentapi.Config){
		"ConsentURL":       func(c *consentapi.Config) { c.ConsentURL = "" },
		"consent over":     func(c *consentapi.Config) { c.ConsentURL = "http://consent.example/" },
		"a fragment":       func(c *consentapi.Config) { c.ConsentURL = "https://consent.example/#x" },
		"a path":           func(c *consentapi.Config) { c.AuthorizationURL = "/oauth2/auth" },
		"another scheme":   func(c *consentapi.Config) { c.ConsentURL = "javascript:alert(1)" },
		"user information": func(c *consentapi.Config) { c.ConsentURL = "https://u:p@consent.example/" },
		"another host":     func(c *consentapi.Config) { c.ResumeURL = "https://other.example/resume" },
		"another port":     func(c *consentapi.Config) { c.ResumeURL = "https://as.example:444/resume" },
		"Secrets":          func(c *consentapi.Config) { c.Secrets = nil },
		"Lifespan":         func(c *consentapi.Config) { c.Lifespan = -1 },
		"a long Lifespan":  func(c *consentapi.Config) { c.Lifespan = fositeconsent.MaxPromptLifespan + time.Second },
		"half a second":    func(c *consentapi.Config) { c.Lifespan = time.Second / 2 },
	} {
		config := good()
		set(&config)
		if api, err := consentapi.New(h.gate, h.storage, config); api != nil || !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := consentapi.New(nil, h.storage, good()); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Error(err)
	}
	if _, err := consentapi.New(h.gate, nil, good()); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Error(err)
	}
}

// TestNoHandleIsLoggedOrStored looks for the handles in everything that the storage was given.
func TestNoHandleIsLoggedOrStored(t *testing.T) {
	t.Parallel()
	spy := &spying{}
	h := newHost(t, options{wrap: func(under grantsAndRequests) grantsAndRequests {
		spy.grantsAndRequests = under
		return spy
	}})
	b := h.browser()
	challenge := b.start(params())
	to := h.accept(challenge, accepting("openid"))
	cookie := b.cookies()[0].Value
	b.wantCode(to)
	parsed, _ := url.Parse(to)
	for _, secret := range []string{challenge, parsed.Query().Get("consent_verifier"), cookie} {
		if secret = secret[len(secret)-20:]; strings.Contains(spy.seen.String(), secret) || strings.Contains(h.log.String(), secret) {
			t.Error("a handle was given to the storage, or logged")
		}
	}
	if spy.seen.Len() == 0 {
		t.Error("the storage was given nothing")
	}
}

type spying struct {
	grantsAndRequests
	seen strings.Builder
}

func (s *spying) CreateConsentRequest(ctx context.Context, r *consentapi.Request) error {
	fmt.Fprintf(&s.seen, "%+v %s\n", r, r.Document)
	return s.grantsAndRequests.CreateConsentRequest(ctx, r)
}

func (s *spying) AnswerConsentRequest(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash, a *consentapi.Answer) (*consentapi.Request, error) {
	fmt.Fprintf(&s.seen, "%+v %s\n", a, a.Document)
	return s.grantsAndRequests.AnswerConsentRequest(ctx, id, challenge, a)
}

func TestTheGeneratedClientIsNoDependencyOfTheLibrary(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".", "./consentapitest", "../../pgstore/...", "../../example-server").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "hydra-client") {
			t.Errorf("linked: %s", line)
		}
	}
}
