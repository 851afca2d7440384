package main

import (
	"bytes"
	"html"
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
		if s.demo, c.clients, s.users, err = newDemo(s); err != nil {
			t.Fatal(err)
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
			for _, want := range []string{"ory_at_", "ory_rt_", `"sub": "alice"`, "mint", "consume", "Replay that approval"} {
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
			if n := ts.events.count(fositeconsent.ActionConsume, ""); n != 1 {
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
