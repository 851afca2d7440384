package fositeconsent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// spyDecisions keeps what is appended, and can be told to fail or to lie.
type spyDecisions struct {
	fositeconsent.DecisionLog
	onAppend func(context.Context, *fositeconsent.DecisionRecord) error
	onList   func([]fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error)
	onErase  func() error

	mu      sync.Mutex
	records []fositeconsent.DecisionRecord
}

func (s *spyDecisions) AppendDecision(ctx context.Context, r *fositeconsent.DecisionRecord) error {
	if s.onAppend != nil {
		if err := s.onAppend(ctx, r); err != nil {
			return err
		}
	}
	if err := s.DecisionLog.AppendDecision(ctx, r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, *r)
	return nil
}

func (s *spyDecisions) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	list, err := s.DecisionLog.ListDecisions(ctx, selection, after, limit)
	if s.onList != nil {
		return s.onList(list)
	}
	return list, err
}

func (s *spyDecisions) EraseDecisions(ctx context.Context, issuer, subject string) (int, error) {
	if s.onErase != nil {
		if err := s.onErase(); err != nil {
			return 0, err
		}
	}
	return s.DecisionLog.EraseDecisions(ctx, issuer, subject)
}

// logHost is a host that keeps a log, beside consents.
type logHost struct {
	*consentHost
	log *spyDecisions
}

func newLogHost(t testing.TB, options ...option) *logHost {
	t.Helper()
	h := &logHost{}
	logging := func(inner *host, c *fositeconsent.Config) {
		h.log = &spyDecisions{DecisionLog: inner.grants.GrantStorage.(*consenttest.Storage)}
		c.Decisions = h.log
	}
	h.consentHost = newConsentHost(t, append([]option{logging}, options...)...)
	return h
}

// wantRecord compares the last record, of how many there have to be then.
func (h *logHost) wantRecord(n int, want fositeconsent.DecisionRecord) {
	h.t.Helper()
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	if len(h.log.records) != n {
		h.t.Errorf("there are %d records, want %d", len(h.log.records), n)
		return
	}
	got := h.log.records[n-1]
	if got.ID.IsZero() || slices.ContainsFunc(h.log.records[:n-1], func(r fositeconsent.DecisionRecord) bool { return r.ID == got.ID }) {
		h.t.Errorf("the record's ID is %v, which is none of its own", got.ID)
	}
	got.ID = fositeconsent.ID{}
	want.Issuer = issuer
	if !reflect.DeepEqual(got, want) {
		h.t.Errorf("recorded\n%+v, want\n%+v", got, want)
	}
}

func TestEverythingDecidedIsRecorded(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	form := web()
	requested := fositeconsent.DecisionRecord{
		Subject: "peter", ClientID: "web", RequestedScopes: []string{"openid", "photos"}, RequestedAudience: []string{"https://api.example"},
	}
	with := func(change func(*fositeconsent.DecisionRecord)) fositeconsent.DecisionRecord {
		r := requested
		change(&r)
		return r
	}
	granted := func(r *fositeconsent.DecisionRecord) {
		r.Scopes, r.Audience = []string{"openid", "photos"}, []string{"https://api.example"}
	}

	h.isAsked(form, "peter")
	p := h.prompt(form, "peter")
	if len(h.log.records) != 0 {
		t.Fatalf("what was not decided is recorded: %+v", h.log.records)
	}
	if err := h.gate.Deny(t.Context(), h.parse(form), h.login("peter"), p.Ticket); err != nil {
		t.Fatal(cause(err))
	}
	shown := h.log.records[0].Shown
	if shown == (fositeconsent.Digest{}) {
		t.Error("what was shown is not recorded")
	}
	h.wantRecord(1, with(func(r *fositeconsent.DecisionRecord) {
		r.Outcome, r.ConsentIDs, r.Shown = fositeconsent.OutcomeDenied, []fositeconsent.ID{p.ID}, shown
	}))

	// The page is answered again.
	if _, err := h.gate.Mint(t.Context(), h.parse(form), h.login("peter"), p.Ticket, all(p)); !errors.Is(err, fositeconsent.ErrAlreadyDecided) {
		t.Fatal(cause(err))
	}
	h.wantRecord(2, with(func(r *fositeconsent.DecisionRecord) {
		r.Outcome, r.Reason, r.ConsentIDs, r.Shown = fositeconsent.OutcomeRefused, "already_decided", []fositeconsent.ID{p.ID}, shown
	}))

	// In two steps.
	p = h.prompt(form, "peter")
	token, err := h.gate.Mint(t.Context(), h.parse(form), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: []string{"openid"}})
	if err != nil {
		t.Fatal(cause(err))
	}
	h.wantRecord(3, with(func(r *fositeconsent.DecisionRecord) {
		r.Outcome, r.Scopes, r.ConsentIDs, r.Shown = fositeconsent.OutcomeApproved, []string{"openid"}, []fositeconsent.ID{p.ID}, shown
	}))
	if _, err := h.answer(web("state", "another state"), "peter", token); !errors.Is(err, fositeconsent.ErrBindingMismatch) {
		t.Fatal(cause(err))
	}
	h.wantRecord(4, with(func(r *fositeconsent.DecisionRecord) {
		r.Outcome, r.Reason, r.ConsentIDs = fositeconsent.OutcomeRefused, "binding_mismatch", []fositeconsent.ID{p.ID}
	}))
	if _, err := h.answer(form, "peter", token); err != nil {
		t.Fatal(cause(err))
	}
	h.wantRecord(5, with(func(r *fositeconsent.DecisionRecord) {
		r.Outcome, r.Basis, r.Scopes, r.ConsentIDs, r.Shown = fositeconsent.OutcomePassed, fositeconsent.BasisGrant, []string{"openid"}, []fositeconsent.ID{p.ID}, shown
	}))
	if _, err := h.answer(form, "peter", token); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
		t.Fatal(cause(err))
	}
	h.wantRecord(6, with(func(r *fositeconsent.DecisionRecord) {
		r.Outcome, r.Reason, r.ConsentIDs = fositeconsent.OutcomeRefused, "consumed", []fositeconsent.ID{p.ID}
	}))

	// In one, remembered, and passed by that.
	id := h.remember(form, "peter")
	h.wantRecord(7, with(func(r *fositeconsent.DecisionRecord) {
		granted(r)
		r.Outcome, r.ConsentIDs, r.Shown = fositeconsent.OutcomeApproved, []fositeconsent.ID{id}, shown
	}))
	h.passes(form, "peter")
	h.wantRecord(8, with(func(r *fositeconsent.DecisionRecord) {
		granted(r)
		r.Outcome, r.Basis, r.ConsentIDs = fositeconsent.OutcomePassed, fositeconsent.BasisRemembered, []fositeconsent.ID{id}
	}))

	// All of it is taken back: two consents, each with a record.
	if n, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	h.log.mu.Lock()
	ended := map[fositeconsent.ID][]string{}
	for _, r := range h.log.records[8:] {
		if r.Outcome != fositeconsent.OutcomeRevoked || r.Subject != "peter" || r.ClientID != "web" || r.Issuer != issuer || len(r.ConsentIDs) != 1 || r.Shown != shown || r.RequestedScopes != nil {
			t.Errorf("recorded as revoked: %+v", r)
			continue
		}
		ended[r.ConsentIDs[0]] = r.Scopes
	}
	h.log.mu.Unlock()
	if want := map[fositeconsent.ID][]string{p.ID: {"openid"}, id: {"openid", "photos"}}; !reflect.DeepEqual(ended, want) {
		t.Errorf("recorded as revoked: %v, want %v", ended, want)
	}
	h.isAsked(form, "peter")
	if len(h.log.records) != 10 {
		t.Errorf("there are %d records, want 10", len(h.log.records))
	}
}

// A refresh that is refused is a decision, too.
func TestARefusedTokenIsRecorded(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	refresh := h.exchanged(h.exchange(h.code(nil)))
	refresh = h.exchanged(h.refresh(refresh))
	h.mark() // as a storage of somebody else's may, which does not end tokens
	before := len(h.log.records)
	if _, err := h.refresh(refresh); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
		t.Fatal(cause(err))
	}
	h.wantRecord(before+1, fositeconsent.DecisionRecord{Outcome: fositeconsent.OutcomeRefused, Reason: "consent_revoked", Subject: "alice", ClientID: "app"})
}

func TestWhatIsNoDecisionIsNotRecorded(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	down := errors.New("the database is down")
	h.isAsked(web(), "peter")
	h.isAsked(web("prompt", "none"), "peter")
	if _, err := h.ask(web(), ""); !errors.Is(err, fositeconsent.ErrLoginRequired) {
		t.Error(cause(err))
	}
	p := h.prompt(web(), "peter")
	h.grants.onCreate = func(*fositeconsent.Grant) error { return down }
	if err := h.gate.Deny(t.Context(), h.parse(web()), h.login("peter"), p.Ticket); !errors.Is(err, fositeconsent.ErrStorage) {
		t.Error(cause(err))
	}
	// Nobody has signed in, and somebody presents a token all the same.
	h.grants.onCreate = nil
	token := h.approve(web(), "peter")
	if _, err := h.answer(web(), "", token); !errors.Is(err, fositeconsent.ErrLoginRequired) {
		t.Error(cause(err))
	}
	if len(h.log.records) != 1 || h.log.records[0].Outcome != fositeconsent.OutcomeApproved {
		t.Errorf("recorded: %+v", h.log.records)
	}
}

// No approval, no denial, no response and no revocation without its record.
func TestWhatCannotBeRecordedDoesNotHappen(t *testing.T) {
	t.Parallel()
	down := errors.New("the log is down")
	refused := func(t *testing.T, h *logHost, err error) {
		t.Helper()
		if !errors.Is(err, fositeconsent.ErrStorage) || !errors.Is(err, down) || fositeconsent.NeedsConsent(err) || !errors.Is(err, fosite.ErrServerError) {
			t.Errorf("got %v, want that the server failed", cause(err))
		}
		if e := h.event(); e.Reason != "storage" {
			t.Errorf("the event is %+v", e)
		}
	}
	fail := func(h *logHost) {
		h.log.onAppend = func(context.Context, *fositeconsent.DecisionRecord) error { return down }
	}
	t.Run("a mint", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t)
		fail(h)
		p := h.prompt(web(), "peter")
		token, err := h.gate.Mint(t.Context(), h.parse(web()), h.login("peter"), p.Ticket, all(p))
		if refused(t, h, err); token != (fositeconsent.Token{}) {
			t.Error("it returned a token")
		}
	})
	t.Run("a denial", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t)
		fail(h)
		p := h.prompt(web(), "peter")
		refused(t, h, h.gate.Deny(t.Context(), h.parse(web()), h.login("peter"), p.Ticket))
	})
	t.Run("an approval in one step", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t)
		fail(h)
		_, err := h.decide(web(), "peter", func(*fositeconsent.Decision) {})
		if refused(t, h, err); h.stored() != 0 {
			t.Error("something was issued")
		}
	})
	t.Run("a response to a token", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t)
		token := h.approve(web(), "peter")
		fail(h)
		_, err := h.answer(web(), "peter", token)
		if refused(t, h, err); h.stored() != 0 {
			t.Error("something was issued")
		}
	})
	t.Run("a silent pass", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t)
		h.remember(web(), "peter")
		stored := h.stored()
		fail(h)
		_, err := h.ask(web(), "peter")
		if refused(t, h, err); h.stored() != stored {
			t.Error("something was issued")
		}
	})
	t.Run("a pre-approved one", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t, func(_ *host, c *fositeconsent.Config) {
			c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return true, nil }
		})
		fail(h)
		_, err := h.ask(web(), "peter")
		if refused(t, h, err); h.stored() != 0 {
			t.Error("something was issued")
		}
	})
	t.Run("a revocation", func(t *testing.T) {
		t.Parallel()
		h := newLogHost(t)
		h.remember(web(), "peter")
		fail(h)
		if n, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"}); n != 0 || !errors.Is(err, down) || !errors.Is(err, fositeconsent.ErrStorage) {
			t.Errorf("got %d, %v", n, err)
		}
		h.log.onAppend = nil
		h.passes(web(), "peter")
	})
}

// A refusal stands whatever becomes of its record, and also when nobody waits for it any more.
func TestARefusalStandsWithoutItsRecord(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	token := h.approve(web(), "peter")
	down := errors.New("the log is down")
	h.log.onAppend = func(context.Context, *fositeconsent.DecisionRecord) error { return down }
	_, err := h.answer(web("state", "another state"), "peter", token)
	if !errors.Is(err, fositeconsent.ErrBindingMismatch) || !fositeconsent.NeedsConsent(err) || errors.Is(err, down) {
		t.Errorf("refused with %v", cause(err))
	}
	if e := h.event(); e.Reason != "binding_mismatch" || !errors.Is(e.Unrecorded, down) || !strings.Contains(e.LogValue().String(), "unrecorded=") {
		t.Errorf("the event is %+v", e)
	}
	h.log.onAppend = func(ctx context.Context, _ *fositeconsent.DecisionRecord) error {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > time.Minute {
			t.Error("the record may take for ever")
		}
		return ctx.Err()
	}
	over, cancel := context.WithCancel(t.Context())
	ar := h.parse(web("state", "another state"))
	h.grants.onConsume = func(g *fositeconsent.Grant, err error) (*fositeconsent.Grant, error) {
		cancel() // the browser has gone
		return g, err
	}
	before := len(h.log.records)
	if _, err := h.provider.NewAuthorizeResponse(fositeconsent.WithToken(over, token), ar, h.login("peter")); !errors.Is(err, fositeconsent.ErrBindingMismatch) {
		t.Errorf("refused with %v", cause(err))
	}
	if e := h.event(); e.Unrecorded != nil || len(h.log.records) != before+1 {
		t.Errorf("the event is %+v", e)
	}
}

func TestALogNeedsToKnowWhatWasShown(t *testing.T) {
	t.Parallel()
	storage := consenttest.NewStorage(nil)
	_, err := fositeconsent.NewGate(storage, fositeconsent.Config{Issuer: issuer, Decisions: storage})
	if !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), "DescribeClient") {
		t.Errorf("got %v", err)
	}
}

// A host may keep a log and no consents; the log then has what was approved, and what the page has shown.
func TestALogWithoutConsents(t *testing.T) {
	t.Parallel()
	log := &spyDecisions{}
	h := newHost(t, func(h *host, c *fositeconsent.Config) {
		log.DecisionLog = h.grants.GrantStorage.(*consenttest.Storage)
		c.Decisions = log
		c.DescribeClient = func(context.Context, fosite.Client) ([]string, error) { return []string{"An application"}, nil }
	})
	token := h.approve(params(), "peter")
	if _, err := h.answer(params(), "peter", token); err != nil {
		t.Fatal(cause(err))
	}
	if len(log.records) != 2 || log.records[0].Shown == (fositeconsent.Digest{}) || log.records[1].Shown != log.records[0].Shown ||
		len(log.records[1].ConsentIDs) != 1 || log.records[1].ConsentIDs[0] != token.ID() {
		t.Errorf("recorded %+v", log.records)
	}
	if n, err := h.gate.EraseSubject(t.Context(), "peter"); n != 2 || err != nil {
		t.Errorf("erased %d, %v", n, err)
	}
}

func (h *logHost) export(selection fositeconsent.DecisionSelection) (n int, text string, err error) {
	h.t.Helper()
	var b bytes.Buffer
	n, err = h.gate.ExportDecisions(h.t.Context(), &b, selection)
	return n, b.String(), err
}

func TestDecisionsAreExportedAsJSONLines(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	h.remember(web(), "peter")
	h.remember(web(), "paul")
	h.passes(web(), "peter")
	_, _ = h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"})
	n, text, err := h.export(fositeconsent.DecisionSelection{Subject: "peter", Issuer: "is set by the gate"})
	if n != 3 || err != nil {
		t.Fatalf("exported %d: %v\n%s", n, err, text)
	}
	list, err := h.log.DecisionLog.ListDecisions(t.Context(), fositeconsent.DecisionSelection{Issuer: issuer, Subject: "peter"}, fositeconsent.ID{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	for i, line := range lines {
		r := list[i]
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"schema_version": "fosite-consent/decision/1", "record_id": r.ID.String(), "pii_principal_id": "peter",
			"pii_controllers": []any{issuer}, "recipient_third_parties": []any{"web"},
			"purposes": []any{"openid", "photos"}, "services": []any{"https://api.example"}, "consent_ids": []any{r.ConsentIDs[0].String()},
			"event": map[string]any{"event_time": r.RecordedAt.UTC().Format(time.RFC3339Nano), "event_type": []string{"explicit", "remembered", "explicit"}[i], "event_state": []string{"given", "given", "withdrawn"}[i]},
		}
		if r.Shown != (fositeconsent.Digest{}) {
			want["privacy_notice"] = fmt.Sprintf("sha-256:%x", r.Shown)
		}
		if i < 2 {
			want["requested_purposes"], want["requested_services"] = []any{"openid", "photos"}, []any{"https://api.example"}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("line %d is\n%v, want\n%v", i, got, want)
		}
	}
	if _, all, _ := h.export(fositeconsent.DecisionSelection{}); strings.Count(all, "\n") != 4 {
		t.Errorf("all of it is\n%s", all)
	}
	if _, none, err := h.export(fositeconsent.DecisionSelection{Subject: "mary"}); none != "" || err != nil {
		t.Errorf("%q, %v", none, err)
	}
}

func TestEveryOutcomeHasAState(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[fositeconsent.Outcome]string{
		fositeconsent.OutcomeApproved: `"event_type":"explicit","event_state":"given"`,
		fositeconsent.OutcomeDenied:   `"event_type":"explicit","event_state":"refused"`,
		fositeconsent.OutcomePassed:   `"event_type":"pre_approved","event_state":"given"`,
		fositeconsent.OutcomeRefused:  `"event_type":"none","event_state":"invalid","reason":"consumed"`,
		fositeconsent.OutcomeRevoked:  `"event_type":"explicit","event_state":"withdrawn"`,
		"of a later release":          `"event_type":"none","event_state":"unknown"`,
	} {
		r := fositeconsent.DecisionRecord{Outcome: outcome}
		switch outcome {
		case fositeconsent.OutcomePassed:
			r.Basis = fositeconsent.BasisPreApproved
		case fositeconsent.OutcomeRefused:
			r.Reason = "consumed"
		}
		text, err := json.Marshal(r)
		if err != nil || !bytes.Contains(text, []byte(want)) {
			t.Errorf("%s is %s, %v, want %s", outcome, text, err, want)
		}
		if bytes.Contains(text, []byte("null")) {
			t.Errorf("%s has a null: %s", outcome, text)
		}
	}
}

// More than one page, a storage that lies, and a writer that fails.
func TestExportsAreComplete(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	for i := range 2001 {
		r := fositeconsent.DecisionRecord{ID: fositeconsent.ID{1: 1, 14: byte(i >> 8), 15: byte(i)}, Outcome: fositeconsent.OutcomeDenied, Issuer: issuer, Subject: "peter", ClientID: "web"}
		if err := h.log.DecisionLog.AppendDecision(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
	}
	if n, text, err := h.export(fositeconsent.DecisionSelection{}); n != 2001 || strings.Count(text, "\n") != 2001 || err != nil {
		t.Errorf("exported %d of 2001, in %d lines: %v", n, strings.Count(text, "\n"), err)
	}
	full := errors.New("the disk is full")
	if n, err := h.gate.ExportDecisions(t.Context(), writer(func([]byte) (int, error) { return 0, full }), fositeconsent.DecisionSelection{}); n != 0 || !errors.Is(err, full) {
		t.Errorf("got %d, %v", n, err)
	}
	for name, lie := range map[string]func([]fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error){
		"another issuer's": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			l[0].Issuer = "https://other.example"
			return l[:1], nil
		},
		"another subject's": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			l[0].Subject = "paul"
			return l[:1], nil
		},
		"another client's": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			l[0].ClientID = "other"
			return l[:1], nil
		},
		"one of before": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			l[0].RecordedAt = time.Unix(1, 0)
			return l[:1], nil
		},
		"one of after": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			l[0].RecordedAt = time.Unix(1<<40, 0)
			return l[:1], nil
		},
		"the same page again": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			return slices.Repeat(l[:1], 2), nil
		},
		"too many": func(l []fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			return slices.Repeat(l, 2), nil
		},
		"an error": func([]fositeconsent.DecisionRecord) ([]fositeconsent.DecisionRecord, error) {
			return nil, fositeconsent.ErrGrantConsumed
		},
	} {
		h.log.onList = lie
		_, _, err := h.export(fositeconsent.DecisionSelection{Subject: "peter", ClientID: "web", Since: time.Unix(1000, 0), Until: time.Unix(1<<39, 0)})
		if !errors.Is(err, fositeconsent.ErrStorage) {
			t.Errorf("%s was exported: %v", name, err)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestASubjectIsErased(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	h.remember(web(), "peter")
	h.remember(web(), "paul")
	down := errors.New("the database is down")
	h.log.onErase = func() error { return down }
	if n, err := h.gate.EraseSubject(t.Context(), "peter"); n != 0 || !errors.Is(err, down) || !errors.Is(err, fositeconsent.ErrStorage) {
		t.Errorf("got %d, %v", n, err)
	}
	h.log.onErase = nil
	h.isAsked(web(), "peter") // taken back all the same
	if n, err := h.gate.EraseSubject(t.Context(), "peter"); n != 2 || err != nil {
		t.Errorf("erased %d records, %v, want the approval and what took it back", n, err)
	}
	if n, _, err := h.export(fositeconsent.DecisionSelection{}); n != 1 || err != nil {
		t.Errorf("%d records are left, %v, want 1", n, err)
	}
	h.passes(web(), "paul")
	h.consents.onRevoke = func(context.Context, fositeconsent.Selection) error { return down }
	if n, err := h.gate.EraseSubject(t.Context(), "paul"); n != 0 || !errors.Is(err, down) {
		t.Errorf("got %d, %v", n, err)
	}
	if n, _, _ := h.export(fositeconsent.DecisionSelection{Subject: "paul"}); n != 2 {
		t.Errorf("%d records are left of somebody who still has consents, want 2", n)
	}
	if _, err := h.gate.EraseSubject(t.Context(), ""); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutALog(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	if _, err := h.gate.ExportDecisions(t.Context(), &bytes.Buffer{}, fositeconsent.DecisionSelection{}); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("got %v", err)
	}
	if _, err := h.gate.EraseSubject(t.Context(), "peter"); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("got %v", err)
	}
	var none *spyDecisions
	h = newConsentHost(t, func(_ *host, c *fositeconsent.Config) { c.Decisions = none })
	h.remember(web(), "peter")
}

// newTxLogHost is a host with transactions that keeps a log, which writes down whether it is told in one.
func newTxLogHost(t *testing.T, after last) (*host, *txStorage, *spyDecisions) {
	t.Helper()
	log := &spyDecisions{}
	var tx *txStorage
	h, tx := newTxHostWith(t, after, func(h *host, c *fositeconsent.Config) {
		log.DecisionLog = h.grants.GrantStorage.(*consenttest.Storage)
		log.onAppend = func(ctx context.Context, _ *fositeconsent.DecisionRecord) error { return tx.end(ctx, "append", nil) }
		c.Decisions = log
		c.DescribeClient = func(context.Context, fosite.Client) ([]string, error) { return []string{"An application"}, nil }
	})
	return h, tx, log
}

// The answer to a page and its record are stored in one transaction, which whatever fails takes back.
func TestAnAnswerAndItsRecordAreOneTransaction(t *testing.T) {
	t.Parallel()
	down := errors.New("the database is down")
	over, end := context.WithCancel(context.Background())
	for name, c := range map[string]struct {
		prepare func(*host, *txStorage, *spyDecisions)
		ctx     context.Context
		log     []string
		is      error
		label   string
	}{
		"nothing fails": {log: []string{"begin", "append", "commit"}},
		"the beginning": {func(_ *host, tx *txStorage, _ *spyDecisions) { tx.begin = func(context.Context) error { return down } },
			nil, []string{"begin"}, down, "storage"},
		"a beginning without a context": {func(_ *host, tx *txStorage, _ *spyDecisions) { tx.nothing = true },
			nil, []string{"begin"}, fositeconsent.ErrStorage, "storage"},
		"the grant": {func(h *host, _ *txStorage, _ *spyDecisions) {
			h.grants.onCreate = func(*fositeconsent.Grant) error { return down }
		},
			nil, []string{"begin", "rollback"}, down, "storage"},
		"the record": {func(_ *host, _ *txStorage, log *spyDecisions) {
			log.onAppend = func(context.Context, *fositeconsent.DecisionRecord) error { return down }
		}, nil, []string{"begin", "rollback"}, down, "storage"},
		"the commit": {func(_ *host, tx *txStorage, _ *spyDecisions) { tx.commit = func(context.Context) error { return down } },
			nil, []string{"begin", "append", "commit", "rollback"}, down, "storage"},
		"a commit that tells of another answer": {func(_ *host, tx *txStorage, _ *spyDecisions) {
			tx.commit = func(context.Context) error { return fmt.Errorf("commit: %w", fositeconsent.ErrAlreadyDecided) }
		}, nil, []string{"begin", "append", "commit", "rollback", "append outside"}, fositeconsent.ErrAlreadyDecided, "already_decided"},
		"the record and the rollback": {func(_ *host, tx *txStorage, log *spyDecisions) {
			log.onAppend = func(context.Context, *fositeconsent.DecisionRecord) error { return errors.New("no") }
			tx.rollback = func(context.Context) error { return down }
		}, nil, []string{"begin", "rollback"}, down, "storage"},
		"a record in a context that ends": {func(_ *host, tx *txStorage, log *spyDecisions) {
			log.onAppend = func(context.Context, *fositeconsent.DecisionRecord) error { end(); return over.Err() }
			tx.rollback = func(ctx context.Context) error {
				if ctx.Err() != nil {
					return down
				}
				return nil
			}
		}, over, []string{"begin", "rollback"}, context.Canceled, "storage"},
	} {
		for _, deny := range []bool{false, true} {
			if deny && c.ctx != nil {
				continue // it is over by now
			}
			t.Run(fmt.Sprintf("%s, a denial: %t", name, deny), func(t *testing.T) {
				h, tx, log := newTxLogHost(t, nil)
				p := h.prompt(params(), "alice")
				if c.prepare != nil {
					c.prepare(h, tx, log)
				}
				ctx := c.ctx
				if ctx == nil {
					ctx = t.Context()
				}
				tx.log = nil
				var err error
				if deny {
					err = h.gate.Deny(ctx, h.parse(params()), h.login("alice"), p.Ticket)
				} else {
					_, err = h.gate.Mint(ctx, h.parse(params()), h.login("alice"), p.Ticket, all(p))
				}
				if !errors.Is(err, c.is) || c.label == "storage" && (!errors.Is(err, fositeconsent.ErrStorage) || errors.Is(err, down) != errors.Is(c.is, down)) {
					t.Errorf("got %v, want %v", cause(err), c.is)
				}
				if c.label == "already_decided" && (errors.Is(err, fositeconsent.ErrStorage) || !fositeconsent.NeedsConsent(err)) {
					t.Errorf("got %v, which is no answer to act on", cause(err))
				}
				if e := h.event(); e.Reason != c.label {
					t.Errorf("the event is %+v", e)
				}
				if !slices.Equal(tx.log, c.log) {
					t.Errorf("the storage saw %q, want %q", tx.log, c.log)
				}
			})
		}
	}
}

// A record that sends what was put off may be told what became of that.
func TestALateAnswerMayComeWithTheRecord(t *testing.T) {
	t.Parallel()
	h, _, log := newTxLogHost(t, nil)
	p := h.prompt(params(), "alice")
	log.onAppend = func(_ context.Context, r *fositeconsent.DecisionRecord) error {
		if r.Outcome == fositeconsent.OutcomeApproved {
			return fmt.Errorf("sent: %w", fositeconsent.ErrAlreadyDecided)
		}
		return nil
	}
	_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, all(p)), h.parse(params()), h.login("alice"))
	if !errors.Is(err, fositeconsent.ErrAlreadyDecided) || errors.Is(err, fositeconsent.ErrStorage) || !fositeconsent.NeedsConsent(err) {
		t.Errorf("got %v", cause(err))
	}
}

// Every reason is one that is recorded, or one that is known not to be.
func TestWhichRefusalsAreRecorded(t *testing.T) {
	t.Parallel()
	recorded := map[string]bool{
		"malformed_token": true, "not_found": true, "binding_mismatch": true, "consumed": true, "revoked": true, "expired": true,
		"consent_revoked": true, "consent_expired": true, "already_decided": true, "invalid_ticket": true, "ticket_expired": true,
		"foreign_ticket": true, "invalid_decision": true, "request_uri_used": true, "invalid_request": true,
		"consent_required": false, "login_required": false, "misconfigured": false, "storage": false, "panic": false,
	}
	for _, label := range fositeconsent.Reasons() {
		want, known := recorded[label]
		if got := fositeconsent.Recorded(label); !known || got != want {
			t.Errorf("%s: recorded: %t, want %t (known: %t)", label, got, want, known)
		}
	}
	for _, label := range []string{"", "error", "response_failed"} {
		if fositeconsent.Recorded(label) {
			t.Errorf("%q is recorded", label)
		}
	}
}

// Whoever is signed in is named, however early they are refused.
func TestEarlyRefusalsAreRecorded(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	form := web()
	p := h.prompt(form, "peter")
	ar := h.parse(form)
	ar.GetRequestForm().Add("state", "twice")
	if _, err := h.gate.Mint(t.Context(), ar, h.login("peter"), p.Ticket, all(p)); !errors.Is(err, fositeconsent.ErrInvalidRequest) {
		t.Fatal(cause(err))
	}
	want := fositeconsent.DecisionRecord{
		Outcome: fositeconsent.OutcomeRefused, Reason: "invalid_request", Subject: "peter", ClientID: "web",
		RequestedScopes: []string{"openid", "photos"}, RequestedAudience: []string{"https://api.example"},
	}
	h.wantRecord(1, want)
	token := h.approve(form, "peter")
	ar = h.parse(form)
	delete(h.store.Clients, "web")
	if _, err := h.respond(ar, h.login("peter"), token); !errors.Is(err, fositeconsent.ErrInvalidRequest) {
		t.Fatal(cause(err))
	}
	h.wantRecord(3, want)
	// A page that is refused is no decision.
	if _, err := h.gate.Prompt(t.Context(), ar, h.login("peter")); err == nil {
		t.Fatal("there is a page for a client that is gone")
	}
	if h.event().Unrecorded != nil || len(h.log.records) != 3 {
		t.Errorf("recorded %+v", h.log.records)
	}
}

// Many refusals at a time neither hold each other up for long, nor take the database from others.
func TestRefusalsAreRecordedAFewAtATime(t *testing.T) {
	t.Parallel()
	h := newLogHost(t)
	token := h.approve(web(), "peter")
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	var most, now atomic.Int32
	h.log.onAppend = func(ctx context.Context, _ *fositeconsent.DecisionRecord) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		entered <- struct{}{}
		select {
		case <-leave:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var done sync.WaitGroup
	for range 40 {
		ar := h.parse(web("state", "another state"))
		done.Go(func() {
			if _, err := h.respond(ar, h.login("peter"), token); !errors.Is(err, fositeconsent.ErrBindingMismatch) {
				t.Errorf("refused with %v", cause(err))
			}
		})
	}
	for range 16 {
		<-entered
	}
	close(leave)
	done.Wait()
	if most.Load() > 16 {
		t.Errorf("%d refusals were recorded at a time", most.Load())
	}
}
