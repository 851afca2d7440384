package main

import (
	"bytes"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/alexedwards/scs/v2/memstore"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func newDemoServer(t *testing.T) *testServer {
	t.Helper()
	return newTestServer(t, func(s *server, c *providerConfig) {
		s.sessions = newSessions(memstore.NewWithCleanupInterval(0), "session", false)
		s.keys.demoPassword, s.keys.demoClientSecret = "wonderland", "demo-secret-0123456789"
		var err error
		var clients []*client
		if s.demo, clients, s.users, err = newDemo(s); err != nil {
			t.Fatal(err)
		}
		s.clients = map[string]*client{}
		for _, c := range clients {
			s.clients[c.ID] = c
		}
		c.onEvent = s.demo.watch(c.onEvent)
	})
}

// throughDemo lets the demo's client ask, and answers the consent page.
func (ts *testServer) throughDemo(client string, answer func(url.Values) url.Values) answer {
	ts.t.Helper()
	start := ts.post(pathDemoStart, url.Values{"client": {client}})
	page := ts.get(strings.TrimPrefix(start.Header.Get("Location"), ts.url))
	if !strings.Contains(page.body, `id="decision"`) {
		page = ts.signIn(page, demoUser)
	}
	page.is(ts.t, http.StatusOK, "Allow access?")
	back := ts.post(pathConsent, answer(page.form()))
	return ts.follow(ts.get(strings.TrimPrefix(back.Header.Get("Location"), ts.url)))
}

func TestTheDemoShowsAFlowAndItsReplay(t *testing.T) {
	for _, client := range []string{demoConfidential, demoPublic} {
		t.Run(client, func(t *testing.T) {
			ts := newDemoServer(t)
			home := ts.get("/")
			home.is(t, http.StatusOK, "Consent demo")
			if !strings.Contains(home.body, "wonderland") {
				t.Error("a newcomer does not learn the password")
			}
			result := ts.throughDemo(client, approve)
			result.is(t, http.StatusOK, "Connected")
			for _, want := range []string{"ory_at_", "ory_rt_", `"sub": "alice"`, "approve", "Replay that approval"} {
				if !strings.Contains(html.UnescapeString(result.body), want) {
					t.Errorf("%q is not on the page", want)
				}
			}
			for what, reason := range map[string]string{"page": "already_decided", "request": "binding_mismatch"} {
				result = ts.follow(ts.post(pathDemoReplay, url.Values{"what": {what}}))
				if !strings.Contains(result.body, "409 Conflict") || !strings.Contains(result.body, "<code>"+reason+"</code>") {
					t.Errorf("%s is not on the page:\n%s", reason, result.body)
				}
			}
			if n := ts.events.count(fositeconsent.ActionApprove, ""); n != 1 {
				t.Errorf("%d codes", n)
			}
		})
	}
}

func TestTheDemoShowsADenial(t *testing.T) {
	ts := newDemoServer(t)
	result := ts.throughDemo(demoConfidential, deny)
	result.is(t, http.StatusOK, "Not connected")
	if !strings.Contains(result.body, "access_denied") || strings.Contains(result.body, "Replay that approval") {
		t.Errorf("%s", result.body)
	}
}

func TestTheDemoTakesNoAnswerThatItDidNotAskFor(t *testing.T) {
	ts := newDemoServer(t)
	for _, query := range []string{"", "?code=x", "?code=x&state=x"} {
		ts.get(pathDemoCallback+query).is(t, http.StatusBadRequest, "The application did not expect this answer")
	}
	ts.post(pathDemoStart, url.Values{"client": {demoConfidential}})
	ts.get(pathDemoCallback+"?code=x&state=x").is(t, http.StatusBadRequest, "The application did not expect this answer")
	ts.post(pathDemoReplay, url.Values{"what": {"everything"}}).is(t, http.StatusBadRequest, "This could not be understood")
}

func TestTheDemoIsNotThereForOnesOwnClients(t *testing.T) {
	ts := newTestServer(t)
	for _, path := range []string{pathDemoCallback, pathDemoResult, pathDemoPrivacy} {
		ts.get(path).is(t, http.StatusNotFound, "There is nothing here")
	}
	if a := ts.get(pathLogin); strings.Contains(a.body, "demo") {
		t.Errorf("%s", a.body)
	}
	var out bytes.Buffer
	newDemoServer(t).server.demo.announce(&out)
	if !strings.Contains(out.String(), "alice, password wonderland") {
		t.Errorf("%s", &out)
	}
}

// connect has the demo's client ask, without an answer to any page.
func (ts *testServer) connect(client, ask string) answer {
	ts.t.Helper()
	start := ts.post(pathDemoStart, url.Values{"client": {client}, "ask": {ask}})
	page := ts.get(strings.TrimPrefix(start.Header.Get("Location"), ts.url))
	for page.StatusCode == http.StatusSeeOther {
		page = ts.get(strings.TrimPrefix(page.Header.Get("Location"), ts.url))
	}
	return page
}

func TestTheDemoConnectsWithoutAPageUntilAccessIsTakenBack(t *testing.T) {
	ts := newDemoServer(t)
	ts.throughDemo(demoConfidential, func(form url.Values) url.Values { return remember(form, fieldRememberOffline, ticked) })
	for _, ask := range []string{demoAskAgain, demoAskNone} {
		result := ts.connect(demoConfidential, ask)
		result.is(t, http.StatusOK, "Connected")
		if !strings.Contains(result.body, "You were not asked") || !strings.Contains(result.body, "ory_rt_") || !strings.Contains(result.body, "Nobody was asked") || strings.Contains(result.body, "Replay that approval") {
			t.Errorf("%s: %s", ask, result.body)
		}
	}
	if n := ts.events.count(fositeconsent.ActionPrompt, ""); n != 1 {
		t.Errorf("%d pages", n)
	}
	more := ts.connect(demoConfidential, demoAskMore)
	more.is(t, http.StatusOK, "Allow access?")
	if !strings.Contains(more.body, "It also wants to") || len(more.form()[fieldScope]) != len(demoRequest)+1 {
		t.Errorf("%s", more.body)
	}

	ts.connect(demoConfidential, demoAskAgain)
	first := ts.follow(ts.post(pathDemoRefresh, nil))
	second := ts.follow(ts.post(pathDemoRefresh, nil))
	if refreshToken(first) == "" || refreshToken(first) == refreshToken(second) || strings.Count(second.body, "Renewed at") != 2 {
		t.Errorf("the tokens were not renewed:\n%s", second.body)
	}
	ts.takeBack(demoConfidential)
	lost := ts.follow(ts.post(pathDemoRefresh, nil))
	lost.is(t, http.StatusOK, "Not connected")
	if !strings.Contains(lost.body, "invalid_grant") || !strings.Contains(lost.body, "is not connected any more") || strings.Contains(lost.body, "ory_") || strings.Contains(lost.body, pathDemoRefresh) {
		t.Errorf("%s", lost.body)
	}
	ts.post(pathDemoRefresh, nil).is(t, http.StatusBadRequest, "This could not be understood")
	none := ts.connect(demoConfidential, demoAskNone)
	none.is(t, http.StatusOK, "Not connected")
	if !strings.Contains(none.body, "consent_required") {
		t.Errorf("%s", none.body)
	}
	ts.connect(demoConfidential, demoAskAgain).is(t, http.StatusOK, "Allow access?")
	ts.post(pathDemoStart, url.Values{"client": {demoConfidential}, "ask": {"politely"}}).is(t, http.StatusBadRequest, "This could not be understood")
}

func refreshToken(page answer) string {
	_, rest, _ := strings.Cut(page.body, "<pre>ory_rt_")
	token, _, _ := strings.Cut(rest, "<")
	return token
}

// Where a process fails, the tokens may well be good still.
func TestTheDemoKeepsItsTokensWhenItGetsNoAnswer(t *testing.T) {
	ts := newDemoServer(t)
	ts.throughDemo(demoConfidential, approve)
	ts.server.demo.http.Transport = failingRefresh{}
	a := ts.post(pathDemoRefresh, nil)
	a.is(t, http.StatusServiceUnavailable, "This is not working right now")
	ts.server.demo.http.Transport = nil
	if result := ts.follow(ts.post(pathDemoRefresh, nil)); !strings.Contains(result.body, "Renewed at") {
		t.Errorf("%s", result.body)
	}
}

// failingRefresh answers the requests to the token endpoint, with nothing of use.
type failingRefresh struct{}

func (failingRefresh) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != pathToken {
		return http.DefaultTransport.RoundTrip(r)
	}
	return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(`{"error":"temporarily_unavailable"}`)), Request: r}, nil
}
