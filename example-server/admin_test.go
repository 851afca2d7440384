package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

const testAdminToken = "operator-0123456789abcdef0123456789abcdef"

// operator sends requests to the operator's listener, and holds every one that is fulfilled and
// every answer against the document.
type operator struct {
	t        *testing.T
	base     string
	document *openapi3.T
	router   routers.Router
	answered map[string]bool // "GET /admin/consents 200"
}

func newOperator(t *testing.T, base string) *operator {
	t.Helper()
	document, err := openapi3.NewLoader().LoadFromData(adminDocument)
	if err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(document) // which validates it
	if err != nil {
		t.Fatal(err)
	}
	return &operator{t, base, document, router, map[string]bool{}}
}

// operator starts the listener of a test server.
func (ts *testServer) operator() *operator {
	ts.t.Helper()
	credential, err := readAdminCredential(tokenFile(ts.t, testAdminToken))
	if err != nil {
		ts.t.Fatal(err)
	}
	listener := httptest.NewServer(ts.server.adminHandler(credential))
	ts.t.Cleanup(listener.Close)
	return newOperator(ts.t, listener.URL)
}

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (o *operator) request(method, target, body string) *http.Request {
	o.t.Helper()
	r, err := http.NewRequestWithContext(o.t.Context(), method, o.base+target, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testAdminToken)
	return r
}

// send sends the request and holds the answer against the document.
func (o *operator) send(r *http.Request) answer {
	o.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r) // no redirect is followed
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	a := answer{resp, string(body)}
	what := fmt.Sprintf("%s %s: %s %s", r.Method, r.URL, a.Status, a.body)
	contentType := "application/json"
	if a.StatusCode == http.StatusOK && r.Method == http.MethodGet && r.URL.Path == pathAdminDecisions {
		contentType = "application/x-ndjson"
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Content-Security-Policy": defaultPolicy, "Content-Type": contentType,
	} {
		if got := a.Header.Get(name); got != want {
			o.t.Errorf("%s: %s is %q", what, name, got)
		}
	}
	for name := range a.Header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" {
			o.t.Errorf("%s: it has %s", what, name)
		}
	}

	route, params, err := o.router.FindRoute(r)
	if err != nil || route.Path != r.URL.Path { // of a path or a method that is not there
		if a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusNotFound && a.StatusCode != http.StatusMethodNotAllowed {
			o.t.Errorf("%s: it is not in the document", what)
		}
		var value any
		if err := json.Unmarshal(body, &value); err != nil {
			o.t.Errorf("%s: %v", what, err)
		}
		if err := o.document.Components.Schemas["Error"].Value.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
			o.t.Errorf("%s: %v", what, err)
		}
		return a
	}
	o.answered[fmt.Sprint(r.Method, " ", route.Path, " ", a.StatusCode)] = true
	options := &openapi3filter.Options{
		IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true,
		RejectWhenRequestBodyNotSpecified: true,
	}
	input := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	if a.StatusCode == http.StatusOK {
		if err := openapi3filter.ValidateRequest(o.t.Context(), input); err != nil {
			o.t.Errorf("%s: the request is not in the document: %v", what, err)
		}
	}
	if contentType != "application/json" { // each line by itself
		for line := range strings.Lines(a.body) {
			var value any
			if err := json.Unmarshal([]byte(line), &value); err != nil || !strings.HasSuffix(line, "\n") {
				o.t.Errorf("%s: the line %q: %v", what, line, err)
			}
			if err := o.document.Components.Schemas["Decision"].Value.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
				o.t.Errorf("%s: %v", what, err)
			}
		}
	}
	err = openapi3filter.ValidateResponse(o.t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: a.StatusCode, Header: a.Header, Body: io.NopCloser(bytes.NewReader(body)), Options: options,
	})
	if err != nil {
		o.t.Errorf("%s: %v", what, err)
	}
	return a
}

func (o *operator) do(method, target string) answer {
	o.t.Helper()
	return o.send(o.request(method, target, ""))
}

// refused checks the status and the name of an error, and that it says so.
func (o *operator) refused(a answer, status int, name, says string) {
	o.t.Helper()
	var e adminError
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || a.StatusCode != status || e.Error != name || !strings.Contains(e.Description, says) {
		o.t.Errorf("%s %s: %s %s, want %d %s %q", a.Request.Method, a.Request.URL, a.Status, a.body, status, name, says)
	}
}

// list returns the consents of a page, and where the next one begins.
func (o *operator) list(query string) (consents []adminConsent, next string) {
	o.t.Helper()
	var page struct {
		Consents []struct {
			adminConsent
			ConsentID string `json:"consent_id"`
		} `json:"consents"`
		Next string `json:"next"`
	}
	a := o.do(http.MethodGet, pathAdminConsents+"?"+query)
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.StatusCode != http.StatusOK {
		o.t.Fatalf("%s: %s %s", query, a.Status, a.body)
	}
	for _, c := range page.Consents {
		id, err := fositeconsent.ParseID(c.ConsentID)
		if err != nil {
			o.t.Fatal(err)
		}
		c.adminConsent.ConsentID = id
		consents = append(consents, c.adminConsent)
	}
	return consents, page.Next
}

// names returns whose consents these are, and for which clients.
func (o *operator) names(query string) []string {
	o.t.Helper()
	consents, _ := o.list(query)
	names := make([]string, 0, len(consents))
	for _, c := range consents {
		names = append(names, c.Subject+" "+c.ClientID)
	}
	return names
}

func (o *operator) revoke(query string) int {
	o.t.Helper()
	var done struct{ Revoked int }
	a := o.do(http.MethodDelete, pathAdminConsents+"?"+query)
	if err := json.Unmarshal([]byte(a.body), &done); err != nil || a.StatusCode != http.StatusOK {
		o.t.Fatalf("%s: %s %s", query, a.Status, a.body)
	}
	return done.Revoked
}

// Each status of each operation in the document is one that the server answers with, and
// there is no other.
func TestOperatorsDocumentSaysWhatTheServerDoes(t *testing.T) {
	t.Parallel()
	var faulty faultyConsents
	ts := newTestServer(t, func(_ *server, c *providerConfig) {
		faulty.Storage = c.consents.(*consenttest.Storage)
		c.consents, c.decisions = &faulty, &faulty
	})
	o := ts.operator()
	id := ts.seed(1, "alice", "photo-printer", func(c *fositeconsent.Consent) {
		c.LoginSession, c.Lifespan = "a-login-session", time.Hour
		c.Audience, c.Details = []string{"https://api.example"}, []string{"claims=%7B%7D"}
	})
	ts.seed(2, "alice", "web", nil)
	first, _ := o.list("subject=alice&limit=1")
	if len(first) != 1 {
		t.Fatalf("%v", first)
	}

	// With the examples of all parameters.
	for path, item := range o.document.Paths.Map() {
		for method, operation := range item.Operations() {
			query := url.Values{}
			var names []string
			for _, p := range operation.Parameters {
				if p.Value.In != "query" || p.Value.Example == nil {
					t.Errorf("%s %s: %s has no example", method, path, p.Value.Name)
				}
				names = append(names, p.Value.Name)
				query.Set(p.Value.Name, fmt.Sprint(p.Value.Example))
			}
			if a := o.do(method, path+"?"+query.Encode()); a.StatusCode != http.StatusOK {
				t.Errorf("%s %s: with all parameters: %s %s", method, path, a.Status, a.body)
			}
			taken := map[string][]string{"GET " + pathAdminConsents: listParams, "DELETE " + pathAdminConsents: revokeParams, "GET " + pathAdminDecisions: exportParams, "DELETE " + pathAdminDecisions: eraseParams}[method+" "+path]
			if !slices.Equal(names, taken) {
				t.Errorf("%s %s: the parameters are %q, the server takes %q", method, path, names, taken)
			}
			o.refused(o.send(strangers(o.request(method, path, ""))), http.StatusUnauthorized, "invalid_token", "Authorization: Bearer")
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		query := pathAdminConsents + "?subject=alice&client_id=photo-printer&consent_id=" + id.String()
		if a := o.do(method, query); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s", method, a.Status, a.body)
		}
		o.refused(o.do(method, pathAdminConsents), http.StatusBadRequest, "invalid_request", "set subject or client_id")
		faulty.err = errors.New("a secret of the database")
		says := "Please try again"
		if method == http.MethodDelete {
			says = "Repeat the request until it succeeds"
		}
		o.refused(o.do(method, query), http.StatusServiceUnavailable, "temporarily_unavailable", says)
		faulty.err, faulty.panics = nil, true
		o.refused(o.do(method, query), http.StatusInternalServerError, "server_error", "A revocation or an erasure has to be repeated")
		faulty.panics = false
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		query, says, wrong := pathAdminDecisions+"?subject=alice", "Please try again", pathAdminDecisions+"?since=yesterday"
		if method == http.MethodDelete {
			says, wrong = "Repeat the request until it succeeds", pathAdminDecisions
		}
		o.refused(o.do(method, wrong), http.StatusBadRequest, "invalid_request", "")
		faulty.err = errors.New("a secret of the database")
		o.refused(o.do(method, query), http.StatusServiceUnavailable, "temporarily_unavailable", says)
		faulty.err, faulty.panics = nil, true
		o.refused(o.do(method, query), http.StatusInternalServerError, "server_error", "A revocation or an erasure has to be repeated")
		faulty.panics = false
	}
	if a := o.do(http.MethodGet, pathAdminDocument); a.body != string(adminDocument) {
		t.Error("it is not the document that is served")
	}

	for path, item := range o.document.Paths.Map() {
		for method, operation := range item.Operations() {
			for status := range operation.Responses.Map() {
				if what := method + " " + path + " " + status; !o.answered[what] {
					t.Errorf("%s: nothing was answered so", what)
				}
			}
		}
	}
}

// strangers makes it a request of somebody else.
func strangers(r *http.Request) *http.Request {
	r.Header.Del("Authorization")
	return r
}

// faultyConsents is a storage of consents that fails in the way it is told.
type faultyConsents struct {
	*consenttest.Storage
	err    error
	panics bool
}

func (f *faultyConsents) fault() error {
	if f.panics {
		panic("a secret of the program")
	}
	return f.err
}

func (f *faultyConsents) ListConsents(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return f.Storage.ListConsents(ctx, selection, before, limit)
}

func (f *faultyConsents) RevokeConsents(ctx context.Context, selection fositeconsent.Selection, revoke func(context.Context, fositeconsent.Ended) error) (int, error) {
	if err := f.fault(); err != nil {
		return 0, err
	}
	return f.Storage.RevokeConsents(ctx, selection, revoke)
}

func (f *faultyConsents) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return f.Storage.ListDecisions(ctx, selection, after, limit)
}

func (f *faultyConsents) EraseDecisions(ctx context.Context, issuer, subject string) (int, error) {
	if err := f.fault(); err != nil {
		return 0, err
	}
	return f.Storage.EraseDecisions(ctx, issuer, subject)
}

func TestOperatorSeesWhatWasAllowed(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	o := ts.operator()
	before := time.Now()
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	ts.post(pathConsent, remember(form, fieldRememberFor, "30-days", fieldRememberOffline, ticked)).toClient(t)
	consents, next := o.list("subject=alice")
	if len(consents) != 1 || next != "" {
		t.Fatalf("%v, next %q", consents, next)
	}
	c := consents[0]
	if c.Subject != "alice" || c.ClientID != "web" || !slices.Equal(c.Scopes, []string{"openid", "photos.read", "offline_access"}) || !slices.Equal(c.Audience, []string{"https://api.example"}) ||
		!slices.Equal(c.ResponseTypes, []string{"code"}) || !c.Remembered || c.LoginSession == "" || c.ConsentID.IsZero() ||
		c.DecidedAt.Before(before.Add(-time.Second)) || c.LastUsedAt.Before(c.DecidedAt) || !c.ExpiresAt.Equal(c.DecidedAt.Add(30*24*time.Hour)) {
		t.Errorf("%+v", c)
	}
	if body := o.do(http.MethodGet, pathAdminConsents+"?subject=nobody").body; body != `{"consents":[]}`+"\n" {
		t.Errorf("nobody has allowed %s", body)
	}
	ts.seed(1, "bob", "web", nil) // until it is revoked
	if body := o.do(http.MethodGet, pathAdminConsents+"?subject=bob").body; strings.Contains(body, "expires_at") || strings.Contains(body, "login_session") || strings.Contains(body, "next") {
		t.Errorf("what is not there is shown: %s", body)
	}
	r := o.request(http.MethodHead, pathAdminConsents+"?subject=alice", "")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("HEAD: %s", resp.Status)
	}
}

func TestOperatorsListComesInPages(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	o := ts.operator()
	var want []fositeconsent.ID
	for n := 1; n <= 3*defaultLimit; n++ {
		id := ts.seed(10*n, "alice", fmt.Sprintf("client-%d", n%7), nil)
		ts.seed(10*n+1, "bob", fmt.Sprintf("client-%d", n%7), nil)
		want = append(want, id)
	}
	slices.Reverse(want)
	for limit, pages := range map[string]int{"": 3, "&limit=1": 150, "&limit=7": 22, "&limit=149": 2, "&limit=150": 1, "&limit=200": 1} {
		var got []fositeconsent.ID
		n := 0
		for next := "start"; next != "" && n < 1000; n++ {
			query := "subject=alice" + limit
			if n > 0 {
				query += "&before=" + next
			}
			var consents []adminConsent
			consents, next = o.list(query)
			for _, c := range consents {
				got = append(got, c.ConsentID)
			}
		}
		if n != pages || !slices.Equal(got, want) {
			t.Errorf("limit %q: %d pages with %d consents, want %d with %d", limit, n, len(got), pages, len(want))
		}
	}

	// What comes and goes meanwhile moves no other from one page to another.
	first, next := o.list("subject=alice")
	ts.seed(9000, "alice", "web", nil)
	if n := o.revoke("subject=alice&consent_id=" + first[3].ConsentID.String()); n != 1 {
		t.Fatalf("%d revoked", n)
	}
	if n := o.revoke("subject=alice&consent_id=" + next); n != 1 { // the last of the first page
		t.Fatalf("%d revoked", n)
	}
	second, _ := o.list("subject=alice&before=" + next)
	if len(second) != defaultLimit || second[0].ConsentID != want[defaultLimit] || second[defaultLimit-1].ConsentID != want[2*defaultLimit-1] {
		t.Errorf("the second page has moved: %v", second)
	}
}

func TestOperatorRevokesNobodyElses(t *testing.T) {
	t.Parallel()
	const all = "bob web, bob app, alice web, alice app"
	ids := map[string]fositeconsent.ID{}
	for _, test := range []struct{ query, left string }{
		{"subject=alice", "bob web, bob app"},
		{"client_id=web", "bob app, alice app"},
		{"subject=alice&client_id=web", "bob web, bob app, alice app"},
		{"subject=alice&consent_id={alice app}", "bob web, bob app, alice web"},
		{"client_id=app&consent_id={alice app}", "bob web, bob app, alice web"},
		{"subject=bob&consent_id={alice app}", all},
		{"client_id=web&consent_id={alice app}", all},
		{"subject=alice&login_session=phone", "bob web, bob app, alice web"},
		{"subject=bob&login_session=phone", "bob web, alice web, alice app"},
		{"subject=alice&login_session=nowhere", all},
		{"subject=Alice", all},
		{"subject=alic%25", all},
		{"client_id=we", all},
		{"subject=web&client_id=alice", all},
	} {
		ts := newTestServer(t)
		o := ts.operator()
		for n, name := range []string{"alice app", "alice web", "bob app", "bob web"} {
			subject, client, _ := strings.Cut(name, " ")
			ids["{"+name+"}"] = ts.seed(n+1, subject, client, func(c *fositeconsent.Consent) {
				c.LoginSession = map[string]string{"app": "phone", "web": "desk"}[client]
			})
		}
		query := regexp.MustCompile(`{.*}`).ReplaceAllStringFunc(test.query, func(name string) string { return ids[name].String() })
		listed := o.names(query)
		revoked := o.revoke(query)
		left := slices.Concat(o.names("client_id=web"), o.names("client_id=app"))
		want := strings.Split(test.left, ", ")
		slices.Sort(left)
		slices.Sort(want)
		if !slices.Equal(left, want) || revoked != 4-len(want) || len(listed) != revoked {
			t.Errorf("%s: %d listed, %d revoked, and left are %q", query, len(listed), revoked, left)
		}
		if again := o.revoke(query); again != 0 {
			t.Errorf("%s: again %d revoked", query, again)
		}
		if log := ts.log.String(); strings.Count(log, `"msg":"revoked by the operator"`) != 2 || strings.Contains(log, testAdminToken) ||
			!regexp.MustCompile(fmt.Sprintf(`"revoked by the operator".*"remote_addr":"127\.0\.0\.1:\d+".*"consents":%d`, revoked)).MatchString(log) {
			t.Errorf("%s: who has revoked how much is not in the log, or the token is:\n%s", query, log)
		}
	}
}

// A revocation of less than was meant can be repeated; one of more cannot be undone.
func TestOperatorsRequestsAreNeverGuessed(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	o := ts.operator()
	ts.seed(1, "alice", "web", nil)
	id := ts.seed(2, "alice", "app", nil).String()
	zero := fositeconsent.ID{}.String()
	for query, says := range map[string]string{
		"":                                 "set subject or client_id",
		"consent_id=" + id:                 "set subject or client_id",
		"login_session=x":                  "set subject or client_id",
		"subject=":                         "subject is empty",
		"subject":                          "subject is empty",
		"subject=alice&client_id=":         "client_id is empty",
		"subject=alice&client=web":         `no parameter "client"`,
		"subject=alice&clientid=web":       `no parameter "clientid"`,
		"subject=alice&Client_id=web":      `no parameter "Client_id"`,
		"subject=alice&client_id%20=web":   `no parameter "client_id "`,
		"sub=alice&client_id=web":          `no parameter "sub"`,
		"subject=alice&subject=alice":      "subject is there more than once",
		"subject=alice&subject=bob":        "subject is there more than once",
		"subject=alice;client_id=web":      "malformed",
		"subject=alice&client_id=%zz":      "malformed",
		"subject=alice&client_id=%ff":      "client_id is no text",
		"subject=alice&client_id=web%00":   "client_id is no text",
		"subject=alice&consent_id=":        "consent_id is empty",
		"subject=alice&consent_id=1":       "consent_id: expected",
		"subject=alice&consent_id=" + zero: "consent_id: expected",
		"subject=alice&consent_id=" + strings.ToUpper("0100000a-0000-7000-8000-00000000000a"): "consent_id: expected",
		"subject=alice&consent_id=" + id + "%20":                                              "consent_id: expected",
		"subject=alice&login_session=":                                                        "login_session is empty",
		"subject=alice&before=" + zero:                                                        "before",
		"subject=alice&limit=0":                                                               "limit",
		"subject=alice&limit=201":                                                             "limit",
		"subject=alice&limit=-1":                                                              "limit",
		"subject=alice&limit=%2B1":                                                            "limit",
		"subject=alice&limit=1e1":                                                             "limit",
		"subject=alice&limit=01":                                                              "limit",
		"subject=alice&limit=99999999999999999999":                                            "limit",
		"subject=alice&limit=":                                                                "limit",
		"subject=alice&limit=1&limit=1":                                                       "limit",
	} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			o.refused(o.do(method, pathAdminConsents+"?"+query), http.StatusBadRequest, "invalid_request", says)
		}
	}
	for _, query := range []string{"subject=alice&before=" + id, "subject=alice&limit=1"} { // which are a list's
		o.refused(o.do(http.MethodDelete, pathAdminConsents+"?"+query), http.StatusBadRequest, "invalid_request", "there is no parameter")
	}
	for _, body := range []string{`{"client_id":"web"}`, "client_id=web", strings.Repeat("x", 1<<20)} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			o.refused(o.send(o.request(method, pathAdminConsents+"?subject=alice", body)), http.StatusBadRequest, "invalid_request", "the request has a body")
			unknown := o.request(method, pathAdminConsents+"?subject=alice", body)
			unknown.ContentLength, unknown.Body = -1, io.NopCloser(strings.NewReader(body))
			o.refused(o.send(unknown), http.StatusBadRequest, "invalid_request", "the request has a body")
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodOptions, "REVOKE"} {
		a := o.do(method, pathAdminConsents+"?subject=alice")
		o.refused(a, http.StatusMethodNotAllowed, "method_not_allowed", "DELETE, GET, HEAD")
		if a.Header.Get("Allow") != "DELETE, GET, HEAD" {
			t.Errorf("%s: Allow is %q", method, a.Header.Get("Allow"))
		}
	}
	if a := o.do(http.MethodDelete, pathAdminDocument); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%s, %q", a.Status, a.Header.Get("Allow"))
	}
	for _, path := range []string{"/", "/admin", pathAdminConsents + "/", pathAdminConsents + "/" + id, "/healthz", pathAuthorize, pathToken} {
		o.refused(o.do(http.MethodGet, path), http.StatusNotFound, "not_found", pathAdminDocument)
	}
	if left := o.names("subject=alice"); len(left) != 2 {
		t.Errorf("one of these has revoked something: left are %q", left)
	}
}

func TestOperatorIsWhoHasTheToken(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	o := ts.operator()
	ts.seed(1, "alice", "web", nil)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	access, _, _ := ts.tokens(codeForm(ts.post(pathConsent, approve(form)).toClient(t)))
	for name, values := range map[string][]string{
		"nothing":             nil,
		"no token":            {"Bearer"},
		"an empty token":      {"Bearer "},
		"a part of it":        {"Bearer " + testAdminToken[:len(testAdminToken)-1]},
		"more than it":        {"Bearer " + testAdminToken + "0"},
		"a space more":        {"Bearer  " + testAdminToken},
		"in another case":     {"Bearer " + strings.ToUpper(testAdminToken)},
		"by another scheme":   {"Basic " + testAdminToken},
		"by none":             {testAdminToken},
		"twice":               {"Bearer " + testAdminToken, "Bearer " + testAdminToken},
		"beside another":      {"Bearer x", "Bearer " + testAdminToken},
		"a user's token":      {"Bearer " + access},
		"two in one":          {"Bearer " + testAdminToken + ", Bearer " + testAdminToken},
		"in the wrong header": nil,
	} {
		for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPost} {
			for _, path := range []string{pathAdminConsents + "?subject=alice", pathAdminConsents, pathAdminDocument, "/nothing"} {
				r := o.request(method, path, "")
				r.Header["Authorization"] = values
				if name == "in the wrong header" {
					r.Header.Set("Cookie", "access_token="+testAdminToken)
					r.URL.RawQuery += "&access_token=" + testAdminToken
				}
				a := o.send(r)
				o.refused(a, http.StatusUnauthorized, "invalid_token", "Authorization: Bearer")
				want := `Bearer realm="operator"`
				if values != nil {
					want += `, error="invalid_token"`
				}
				if a.Header.Get("WWW-Authenticate") != want {
					t.Errorf("%s: %q", name, a.Header.Get("WWW-Authenticate"))
				}
			}
		}
	}
	if left := o.names("subject=alice"); len(left) != 2 {
		t.Errorf("somebody else has revoked something: left are %q", left)
	}
	r := o.request(http.MethodGet, pathAdminConsents+"?subject=alice", "")
	r.Header.Set("Authorization", "bearer "+testAdminToken) // a scheme is without case
	if a := o.send(r); a.StatusCode != http.StatusOK {
		t.Errorf("%s %s", a.Status, a.body)
	}
	nobody := httptest.NewServer(ts.server.adminHandler(adminCredential{}))
	defer nobody.Close()
	for _, token := range []string{"", testAdminToken} {
		r := newOperator(t, nobody.URL).request(http.MethodGet, pathAdminConsents+"?subject=alice", "")
		r.Header.Set("Authorization", "Bearer "+token)
		o.refused(o.send(r), http.StatusUnauthorized, "invalid_token", "")
	}

	// On the listener for everybody there is nothing of it.
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		for _, path := range []string{pathAdminConsents + "?subject=alice", pathAdminDocument, "/admin", "/x/.." + pathAdminConsents, "/" + pathAdminConsents} {
			r := ts.request(method, path, nil)
			r.Header.Set("Authorization", "Bearer "+testAdminToken)
			a := ts.do(r)
			if a.StatusCode >= 300 && a.StatusCode < 400 {
				r = ts.request(method, a.Header.Get("Location"), nil)
				r.Header.Set("Authorization", "Bearer "+testAdminToken)
				a = ts.do(r)
			}
			if a.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s for everybody: %s %s", method, path, a.Status, a.body)
			}
		}
	}
	if log := ts.log.String(); strings.Contains(log, testAdminToken) || !strings.Contains(log, "refused to somebody who is not the operator") {
		t.Errorf("the token is in the log, or that it was wrong is not:\n%s", log)
	}
}

func TestOperatorsErrorsShowNothingOfTheInside(t *testing.T) {
	t.Parallel()
	var faulty faultyConsents
	ts := newTestServer(t, func(_ *server, c *providerConfig) {
		faulty.Storage = c.consents.(*consenttest.Storage)
		c.consents = &faulty
	})
	o := ts.operator()
	ts.seed(1, "alice", "web", nil)
	for _, fault := range []func(){func() { faulty.err = errors.New("a secret of the database") }, func() { faulty.panics = true }} {
		fault()
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			a := o.do(method, pathAdminConsents+"?subject=alice")
			if a.StatusCode < 500 || strings.Contains(a.body, "secret") {
				t.Errorf("%s: %s %s", method, a.Status, a.body)
			}
		}
	}
	log := ts.log.String()
	if !strings.Contains(log, `"msg":"the operator's revocation failed","subject":"alice"`) || strings.Contains(log, "revoked by the operator") {
		t.Errorf("that it has failed is not in the log:\n%s", log)
	}
	faulty.err, faulty.panics = nil, false
	if left := o.names("subject=alice"); len(left) != 1 {
		t.Errorf("left are %q", left)
	}
}

func TestOperatorsTokenComesFromAFile(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdefghijklmnopqrst-._~+/=="
	want, err := readAdminCredential(tokenFile(t, token))
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"\n", "\r\n"} {
		if got, err := readAdminCredential(tokenFile(t, token+end)); err != nil || got != want {
			t.Errorf("with the line's end %q: %v", end, err)
		}
	}
	if _, err := readAdminCredential(tokenFile(t, strings.Repeat("a", maxAdminToken)+"\r\n")); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "a line's end": "\n", "31 characters": token[:31], "31 and a line's end": token[:31] + "\n", "31 and more ends": token[:31] + "\n\n\n",
		"two lines": token + "\n" + token, "a space": token[:20] + " " + token[20:], "a space before": " " + token, "a quote": `"` + token + `"`, "a NUL": token + "\x00",
		"other letters": token + "é", "too many": strings.Repeat("a", maxAdminToken+1), "far too many": strings.Repeat("a", 1<<20),
	} {
		credential, err := readAdminCredential(tokenFile(t, text))
		if err == nil || credential != (adminCredential{}) || strings.Contains(err.Error(), token[:8]) || !strings.Contains(err.Error(), "openssl rand -hex 32") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readAdminCredential("/nonexistent"); err == nil {
		t.Error("a file that is not there")
	}
}

func TestServerDoesNotStartWithoutTheOperatorsToken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"no file":                   {[]string{"-admin-listen", "127.0.0.1:0"}, "-admin-token-file"},
		"no file, for everybody":    {[]string{"-admin-listen", "0.0.0.0:0"}, "-admin-token-file"},
		"no listener":               {[]string{"-admin-token-file", tokenFile(t, testAdminToken)}, "-admin-listen"},
		"no port":                   {[]string{"-admin-listen", "127.0.0.1", "-admin-token-file", tokenFile(t, testAdminToken)}, "-admin-listen"},
		"a file that is not there":  {[]string{"-admin-listen", "127.0.0.1:0", "-admin-token-file", "/nonexistent"}, "-admin-token-file"},
		"a token that is too short": {[]string{"-admin-listen", "127.0.0.1:0", "-admin-token-file", tokenFile(t, "hunter2")}, "32"},
	} {
		var log bytes.Buffer
		// With a database that cannot be reached, where a server that starts ends with 1.
		code := run(t.Context(), append(test.args, "-listen", "127.0.0.1:0"), environment("DATABASE_URL", "postgres://u@127.0.0.1:1/d?connect_timeout=1"), io.Discard, &log)
		if code != 2 || !strings.Contains(log.String(), test.says) || strings.Contains(log.String(), "hunter2") {
			t.Errorf("%s: code %d:\n%s", name, code, &log)
		}
	}
}

// The whole program on PostgreSQL: what the operator revokes is over for the client.
func TestOperatorEndsAClientsAccess(t *testing.T) {
	t.Parallel()
	_, address := migrated(t)
	base, started, wait := launch(t, address, "-admin-listen", "127.0.0.1:0", "-admin-token-file", tokenFile(t, testAdminToken))
	found := regexp.MustCompile(`msg="listening for the operator" addr=(\S+)`).FindStringSubmatch(started)
	if base == "" || found == nil {
		t.Fatalf("the server does not start:\n%s", started)
	}
	o := newOperator(t, "http://"+found[1])
	const callback = "https://printer.example/callback"
	request := codeRequest("client_id", "photo-printer", "redirect_uri", callback, "audience", "https://photos.example")
	alice := newBrowser(t, base)
	tokens := func(form url.Values) (refresh string, status int) {
		r := alice.request(http.MethodPost, pathToken, form)
		r.SetBasicAuth("photo-printer", url.QueryEscape(sampleClientSecret))
		a := alice.do(r)
		return jsonText(a.body, "refresh_token"), a.StatusCode
	}
	exchange := func(params url.Values) (refresh string, status int) {
		form := codeForm(params)
		form.Set("redirect_uri", callback)
		return tokens(form)
	}
	issued := func(a answer) url.Values {
		to, err := a.Location()
		if err != nil || !strings.HasPrefix(to.String(), callback+"?code=") {
			t.Fatalf("%s to %v, not to the client: %s", a.Status, to, a.body)
		}
		return to.Query()
	}
	form := alice.signIn(alice.authorize(request), "alice").form()
	refresh, status := exchange(issued(alice.post(pathConsent, remember(form, fieldRememberOffline, ticked))))
	if status != http.StatusOK || refresh == "" {
		t.Fatalf("an exchange before: status %d", status)
	}
	if refresh, status = tokens(refreshForm(refresh)); status != http.StatusOK || refresh == "" {
		t.Fatalf("a refresh before: status %d", status)
	}
	pending := issued(alice.authorize(request)) // silently

	consents, next := o.list("subject=alice")
	if len(consents) != 1 || next != "" || consents[0].ClientID != "photo-printer" || !consents[0].Remembered {
		t.Fatalf("%v", consents)
	}
	if n := o.revoke("subject=alice&client_id=pocket-album"); n != 0 {
		t.Errorf("of another client %d were revoked", n)
	}
	if n := o.revoke("subject=bob"); n != 0 {
		t.Errorf("of another user %d were revoked", n)
	}
	if refresh, status = tokens(refreshForm(refresh)); status != http.StatusOK {
		t.Fatalf("a refresh after others' was revoked: status %d", status)
	}
	if n := o.revoke("subject=alice&client_id=photo-printer"); n != 1 {
		t.Errorf("%d were revoked", n)
	}
	if _, status = tokens(refreshForm(refresh)); status != http.StatusBadRequest {
		t.Errorf("a refresh afterwards: status %d", status)
	}
	if _, status = exchange(pending); status != http.StatusBadRequest {
		t.Errorf("an exchange afterwards: status %d", status)
	}
	alice.authorize(request).is(t, http.StatusOK, "Allow access?")
	if left := o.names("client_id=photo-printer"); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
	if a := newOperator(t, base).request(http.MethodGet, pathAdminConsents+"?subject=alice", ""); alice.do(a).StatusCode != http.StatusNotFound {
		t.Error("the operator's endpoints are there for everybody")
	}
	code, log := wait()
	if code != 0 || strings.Contains(log, testAdminToken) {
		t.Errorf("it ends with %d, or has logged the token:\n%s", code, log)
	}
	if resp, err := http.DefaultTransport.RoundTrip(o.request(http.MethodGet, pathAdminDocument, "")); err == nil {
		resp.Body.Close()
		t.Error("it still listens for the operator")
	}
}
