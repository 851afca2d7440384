package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// loggedDecision is a line of the log, as far as it is looked at here.
type loggedDecision struct {
	Subject  string   `json:"pii_principal_id"`
	Clients  []string `json:"recipient_third_parties"`
	Purposes []string `json:"purposes"`
	Shown    string   `json:"privacy_notice"`
	Event    struct {
		Time   time.Time `json:"event_time"`
		State  string    `json:"event_state"`
		Type   string    `json:"event_type"`
		Reason string    `json:"reason"`
	} `json:"event"`
}

func (o *operator) decisions(query string) (list []loggedDecision) {
	o.t.Helper()
	a := o.do(http.MethodGet, pathAdminDecisions+"?"+query)
	if a.StatusCode != http.StatusOK {
		o.t.Fatalf("%s: %s %s", query, a.Status, a.body)
	}
	for line := range strings.Lines(a.body) {
		var d loggedDecision
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			o.t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

func states(list []loggedDecision) (all []string) {
	for _, d := range list {
		all = append(all, strings.TrimSpace(d.Subject+" "+d.Event.State+" "+d.Event.Reason))
	}
	return all
}

func TestOperatorExportsAndErasesWhatWasDecided(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	o := ts.operator()
	if list := o.decisions(""); len(list) != 0 {
		t.Errorf("before anything was decided: %v", list)
	}
	before := time.Now().Add(-time.Second)
	form := ts.signIn(ts.authorize(codeRequest()), "alice").form()
	ts.post(pathConsent, remember(form)).toClient(t)
	ts.authorize(codeRequest("scope", "openid photos.read")).toClient(t) // silently
	ts.post(pathConsent, remember(form))                                 // once more
	o.revoke("subject=alice")
	list := o.decisions("subject=alice&client_id=web&since=" + url.QueryEscape(before.UTC().Format(time.RFC3339)))
	if got, want := states(list), []string{"alice given", "alice given", "alice invalid already_decided", "alice withdrawn"}; !slices.Equal(got, want) {
		t.Fatalf("recorded %q, want %q", got, want)
	}
	if d := list[0]; !slices.Equal(d.Clients, []string{"web"}) || !slices.Contains(d.Purposes, "photos.read") || !strings.HasPrefix(d.Shown, "sha-256:") || d.Event.Type != "explicit" || d.Event.Time.Before(before) {
		t.Errorf("%+v", d)
	}
	if list[1].Event.Type != "remembered" {
		t.Errorf("%+v", list[1])
	}
	if none := o.decisions("until=" + url.QueryEscape(before.UTC().Format(time.RFC3339))); len(none) != 0 {
		t.Errorf("of before: %v", none)
	}
	if none := o.decisions("subject=bob"); len(none) != 0 {
		t.Errorf("of somebody else: %v", none)
	}

	form = ts.authorize(codeRequest()).form()
	ts.post(pathConsent, remember(form)).toClient(t)
	for _, want := range []string{`{"erased":6}`, `{"erased":0}`} {
		if a := o.do(http.MethodDelete, pathAdminDecisions+"?subject=alice"); a.StatusCode != http.StatusOK || strings.TrimSpace(a.body) != want {
			t.Errorf("%s %s, want %s", a.Status, a.body, want)
		}
	}
	if left := o.decisions(""); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if names := o.names("subject=alice"); len(names) != 0 {
		t.Errorf("still allowed: %v", names)
	}
	if strings.Contains(ts.log.String(), "erased by the operator") && strings.Contains(lineWith(ts.log.String(), "erased by the operator"), "alice") {
		t.Error("the log says who was erased")
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// An export may take longer than other requests.
func TestAnExportHasATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	var slow slowLog
	ts := newTestServer(t, func(s *server, c *providerConfig) {
		s.config.requestTimeout = time.Millisecond
		slow.DecisionLog = c.decisions
		c.decisions = &slow
	})
	o := ts.operator()
	if a := o.do(http.MethodGet, pathAdminDecisions); a.StatusCode != http.StatusOK {
		t.Errorf("%s %s", a.Status, a.body)
	}
	if slow.listed != 1 {
		t.Fatalf("listed %d times", slow.listed)
	}
	resp, err := http.DefaultTransport.RoundTrip(o.request(http.MethodHead, pathAdminDecisions, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || slow.listed != 1 {
		t.Errorf("HEAD: %s, after %d looks", resp.Status, slow.listed)
	}
}

// slowLog takes longer than any request may.
type slowLog struct {
	fositeconsent.DecisionLog
	listed int
}

func (l *slowLog) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	l.listed++
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return l.DecisionLog.ListDecisions(ctx, selection, after, limit)
	}
}

// What is broken off is not taken for the whole.
func TestAnExportThatFailsOnItsWayIsBrokenOff(t *testing.T) {
	t.Parallel()
	var broken brokenLog
	ts := newTestServer(t, func(_ *server, c *providerConfig) {
		broken.DecisionLog = c.decisions
		c.decisions = &broken
	})
	for i := range 1000 {
		if err := broken.AppendDecision(t.Context(), &fositeconsent.DecisionRecord{ID: fositeconsent.ID{1, 14: byte(i >> 8), 15: byte(i)}, Outcome: fositeconsent.OutcomeDenied, Issuer: ts.server.issuer, Subject: "alice"}); err != nil {
			t.Fatal(err)
		}
	}
	o := ts.operator()
	resp, err := http.DefaultTransport.RoundTrip(o.request(http.MethodGet, pathAdminDecisions, ""))
	if err != nil { // it may come before the first of it
		return
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the export ended as if it were whole")
	}
}

// brokenLog fails on its second page.
type brokenLog struct{ fositeconsent.DecisionLog }

func (b *brokenLog) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	if !after.IsZero() {
		return nil, errors.New("the database is down")
	}
	return b.DecisionLog.ListDecisions(ctx, selection, after, limit)
}
