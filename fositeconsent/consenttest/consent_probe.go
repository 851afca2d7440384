package consenttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// mostAtOnce is how many responses a revocation may hand over in one call.
const mostAtOnce = 1000

type consentStorage interface {
	fositeconsent.GrantStorage
	fositeconsent.ConsentStorage
}

// consentProbe is one test's view of the storages it asks for.
type consentProbe struct {
	*testing.T
	newStorage func(testing.TB, Options) consentStorage
}

// open asks for a storage.
func (p *consentProbe) open(o Options) *ledger {
	p.Helper()
	storage := p.newStorage(p, o)
	if storage == nil {
		p.Fatal("newStorage returned nil")
	}
	grants := &probe{T: p.T, newStorage: func(testing.TB, Options) fositeconsent.GrantStorage { return storage }}
	return &ledger{checked: grants.open(o), consents: storage}
}

// openWithClock returns a storage and the clock that it was told to ask.
func (p *consentProbe) openWithClock() (*ledger, *clock) {
	p.Helper()
	c := newClock()
	return p.open(Options{Now: c.Now}), c
}

// ledger passes calls on to a storage and checks of each of them what holds for all.
type ledger struct {
	*checked
	consents fositeconsent.ConsentStorage
}

// step runs a sub-test that uses the same storage.
func (l *ledger) step(sentence string, test func(l *ledger)) {
	l.Helper()
	l.checked.step(sentence, func(s *checked) { test(&ledger{checked: s, consents: l.consents}) })
}

// onlyConsents checks that the reason is one that such a call may have.
func (l *ledger) onlyConsents(call string, err error) {
	l.Helper()
	l.inspect(call, err)
	switch says := outcomeOf(err); says {
	case succeeded, consentRevoked, consentExpired, failed:
	default:
		l.Errorf("%s returned a reason for which only a call on grants may be refused: %v", call, err)
	}
}

// noReason checks that there is none.
func (l *ledger) noReason(call string, err error) {
	l.Helper()
	l.inspect(call, err)
	if says := outcomeOf(err); says != succeeded && says != failed {
		l.Errorf("%s returned a reason for which it cannot be refused: %v", call, err)
	}
}

func (l *ledger) record(response *fositeconsent.Response) error {
	l.Helper()
	return l.recordIn(l.ctx, response)
}

func (l *ledger) recordIn(ctx context.Context, response *fositeconsent.Response) error {
	l.Helper()
	err := l.consents.RecordResponse(ctx, response)
	l.onlyConsents("RecordResponse", err)
	return err
}

func (l *ledger) wantRecord(response *fositeconsent.Response, want outcome) {
	l.Helper()
	l.compare("RecordResponse", l.record(response), want)
}

// approve records a consent with a response of its own, or ends the test, and returns the
// response's RequestID.
func (l *ledger) approve(consent *fositeconsent.Consent) string {
	l.Helper()
	requestID := rand.Text()
	if err := l.record(&fositeconsent.Response{RequestID: requestID, Approval: consent}); err != nil {
		l.Fatalf("RecordResponse: got %v, want success", err)
	}
	return requestID
}

// pass records a silent response or ends the test.
func (l *ledger) pass(on ...fositeconsent.ID) string {
	l.Helper()
	requestID := rand.Text()
	if err := l.record(&fositeconsent.Response{RequestID: requestID, ConsentIDs: on}); err != nil {
		l.Fatalf("RecordResponse: got %v, want success", err)
	}
	return requestID
}

func (l *ledger) checkIn(ctx context.Context, requestID string) error {
	l.Helper()
	err := l.consents.CheckResponse(ctx, requestID)
	l.onlyConsents("CheckResponse", err)
	return err
}

func (l *ledger) wantCheck(requestID string, want outcome) {
	l.Helper()
	l.compare("CheckResponse", l.checkIn(l.ctx, requestID), want)
}

func (l *ledger) findIn(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	l.Helper()
	found, err := l.consents.FindConsents(ctx, issuer, subject, clientID)
	l.noReason("FindConsents", err)
	if err != nil && len(found) > 0 {
		l.Errorf("FindConsents returned consents with the error %v", err)
	}
	return found, err
}

// find looks for what covers a request like that of the consent.
func (l *ledger) find(like *fositeconsent.Consent) []fositeconsent.Consent {
	l.Helper()
	found, err := l.findIn(l.ctx, like.Issuer, like.Subject, like.ClientID)
	if err != nil {
		l.Errorf("FindConsents: got %v, want success", err)
	}
	return found
}

// wantFound looks for what covers a request like that of the first consent.
func (l *ledger) wantFound(like *fositeconsent.Consent, want ...fositeconsent.ID) {
	l.Helper()
	l.wantIDs("FindConsents", l.find(like), want)
}

func (l *ledger) listIn(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	l.Helper()
	list, err := l.consents.ListConsents(ctx, selection, before, limit)
	l.noReason("ListConsents", err)
	if err != nil && len(list) > 0 {
		l.Errorf("ListConsents returned consents with the error %v", err)
	}
	return list, err
}

func (l *ledger) list(selection fositeconsent.Selection, before fositeconsent.ID, limit int) []fositeconsent.Consent {
	l.Helper()
	list, err := l.listIn(l.ctx, selection, before, limit)
	if err != nil {
		l.Errorf("ListConsents: got %v, want success", err)
	}
	return list
}

// wantListed compares the first page with the right one.
func (l *ledger) wantListed(selection fositeconsent.Selection, want ...fositeconsent.ID) {
	l.Helper()
	l.wantIDs("ListConsents", l.list(selection, fositeconsent.ID{}, len(want)+10), want)
}

func (l *ledger) wantIDs(call string, got []fositeconsent.Consent, want []fositeconsent.ID) {
	l.Helper()
	ids := make([]fositeconsent.ID, len(got))
	for i := range got {
		ids[i] = got[i].ID
	}
	if !slices.Equal(ids, want) {
		l.Errorf("%s returned the consents %v, want %v", call, ids, want)
	}
}

type callersKey struct{}

// handed collects what revocations hand over.
type handed struct {
	l   *ledger
	mu  sync.Mutex
	ids map[string]bool
	// Consents, by how often they came.
	consents map[fositeconsent.ID]int
	calls    int
	// Most that came in one call.
	most int
	// of are the consents that there are, as they were recorded; nil if nobody compares them.
	of map[fositeconsent.ID]*fositeconsent.Consent
}

func (l *ledger) collector() *handed {
	return &handed{l: l, ids: make(map[string]bool), consents: make(map[fositeconsent.ID]int)}
}

// take is what a revocation calls.
func (h *handed) take(ctx context.Context, ended fositeconsent.Ended) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Value(callersKey{}) != "the caller's" {
		h.l.Error("RevokeConsents called revoke without the values of its context")
	}
	h.calls++
	h.most = max(h.most, len(ended.RequestIDs))
	for _, id := range ended.RequestIDs {
		h.ids[id] = true
	}
	for i := range ended.Consents {
		c := &ended.Consents[i]
		h.consents[c.ID]++
		if recorded := h.of[c.ID]; recorded != nil {
			h.l.wantSameConsent(c, recorded)
		} else if h.of != nil {
			h.l.Errorf("RevokeConsents handed over the consent %v, which is not among those that were recorded", c.ID)
		}
	}
	return nil
}

// want compares what was handed over.
func (h *handed) want(want ...string) {
	h.l.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	got := slices.Sorted(maps.Keys(h.ids))
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		h.l.Errorf("RevokeConsents handed over the responses %q, want %q", got, want)
	}
}

func (l *ledger) revokeIn(ctx context.Context, selection fositeconsent.Selection, revoke func(context.Context, fositeconsent.Ended) error) (int, error) {
	l.Helper()
	n, err := l.consents.RevokeConsents(context.WithValue(ctx, callersKey{}, "the caller's"), selection, revoke)
	l.noReason("RevokeConsents", err)
	return n, err
}

// wantRevoked revokes and compares how many consents that ended and what was handed over.
func (l *ledger) wantRevoked(selection fositeconsent.Selection, n int, requestIDs ...string) {
	l.Helper()
	l.wantRevokedOf(nil, selection, n, requestIDs...)
}

// wantRevokedOf also compares the consents that are handed over with those that there are.
func (l *ledger) wantRevokedOf(of map[fositeconsent.ID]*fositeconsent.Consent, selection fositeconsent.Selection, n int, requestIDs ...string) {
	l.Helper()
	h := l.collector()
	h.of = of
	got, err := l.revokeIn(l.ctx, selection, h.take)
	if err != nil {
		l.Errorf("RevokeConsents: got %v, want success", err)
	}
	if got != n {
		l.Errorf("RevokeConsents ended %d consents, want %d", got, n)
	}
	h.want(requestIDs...)
	h.wantConsents(n)
}

// wantConsents compares how many consents were handed over, each of which has to come once.
func (h *handed) wantConsents(n int) {
	h.l.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.consents) != n {
		h.l.Errorf("RevokeConsents handed over %d consents, want %d", len(h.consents), n)
	}
	for id, times := range h.consents {
		if times != 1 {
			h.l.Errorf("RevokeConsents handed the consent %v over %d times, want once", id, times)
		}
	}
}

// end revokes one consent, whatever rests on it.
func (l *ledger) end(consent *fositeconsent.Consent) {
	l.Helper()
	if n, err := l.revokeIn(l.ctx, only(consent), l.collector().take); n != 1 || err != nil {
		l.Errorf("RevokeConsents: got %d, %v, want 1 and success", n, err)
	}
}

// wantSameConsent compares in everything but the times.
func (l *ledger) wantSameConsent(got, recorded *fositeconsent.Consent) {
	l.Helper()
	differs := func(field string, got, want any) {
		l.Helper()
		l.Errorf("the returned consent's %s is %#v, want %#v", field, got, want)
	}
	if got.ID != recorded.ID {
		differs("ID", got.ID.String(), recorded.ID.String())
	}
	for _, f := range []struct{ field, got, want string }{
		{"Issuer", got.Issuer, recorded.Issuer},
		{"Subject", got.Subject, recorded.Subject},
		{"ClientID", got.ClientID, recorded.ClientID},
		{"LoginSession", got.LoginSession, recorded.LoginSession},
	} {
		if f.got != f.want {
			differs(f.field, f.got, f.want)
		}
	}
	for _, f := range []struct {
		field     string
		got, want []string
	}{
		{"Scopes", got.Scopes, recorded.Scopes},
		{"RememberedScopes", got.RememberedScopes, recorded.RememberedScopes},
		{"Audience", got.Audience, recorded.Audience},
		{"ResponseTypes", got.ResponseTypes, recorded.ResponseTypes},
		{"Details", got.Details, recorded.Details},
	} {
		if !slices.Equal(f.got, f.want) {
			differs(f.field, f.got, f.want)
		}
	}
	if got.Shown != recorded.Shown {
		differs("Shown", got.Shown, recorded.Shown)
	}
	if !bytes.Equal(got.Data, recorded.Data) {
		differs("Data", shorten(got.Data), shorten(recorded.Data))
	}
	if got.Remembered != recorded.Remembered {
		differs("Remembered", got.Remembered, recorded.Remembered)
	}
	if got.Lifespan != 0 {
		differs("Lifespan", got.Lifespan.String(), "0s: ExpiresAt says it")
	}
	if got.DecidedAt.IsZero() {
		l.Error("the returned consent's DecidedAt is not set")
	}
	if (recorded.Lifespan == 0) != got.ExpiresAt.IsZero() {
		l.Errorf("the returned consent's ExpiresAt is %v, and its Lifespan was %v", got.ExpiresAt, recorded.Lifespan)
	}
	if got.LastUsedAt.IsZero() {
		l.Error("the returned consent's LastUsedAt is not set")
	}
}

// wantConsent finds one consent, and lists it, and compares it with what was recorded.
func (l *ledger) wantConsent(recorded *fositeconsent.Consent) fositeconsent.Consent {
	l.Helper()
	var last fositeconsent.Consent
	listed := l.list(only(recorded), fositeconsent.ID{}, 2)
	found := listed
	if recorded.Remembered {
		found = l.find(recorded)
	}
	for call, got := range map[string][]fositeconsent.Consent{"ListConsents": listed, "FindConsents": found} {
		if len(got) != 1 {
			l.Errorf("%s returned %d consents, want 1", call, len(got))
			continue
		}
		l.wantSameConsent(&got[0], recorded)
		last = got[0]
	}
	return last
}

// only selects one consent.
func only(c *fositeconsent.Consent) fositeconsent.Selection {
	return fositeconsent.Selection{Issuer: c.Issuer, Subject: c.Subject, ClientID: c.ClientID, ConsentID: c.ID}
}

// newConsent returns a remembered approval like any other, under random keys.
func newConsent() *fositeconsent.Consent {
	return &fositeconsent.Consent{
		ID:               newID(),
		Issuer:           "https://issuer-" + rand.Text() + ".example",
		Subject:          "subject-" + rand.Text(),
		ClientID:         "client-" + rand.Text(),
		LoginSession:     "login-" + rand.Text(),
		Scopes:           []string{"openid", "photos.read"},
		RememberedScopes: []string{"photos.read"},
		Audience:         []string{"https://photos.example/api", "https://albums.example/"},
		ResponseTypes:    []string{"code"},
		Details:          []string{`claims={"userinfo":{"email":null}}`, "resource=https://photos.example/api"},
		Shown:            random32(),
		Data:             []byte(rand.Text()),
		Remembered:       true,
	}
}

// another returns a further approval by the same resource owner for the same client.
func another(of *fositeconsent.Consent) *fositeconsent.Consent {
	c := cloneConsent(of)
	c.ID = newID()
	return &c
}

// newIDs returns IDs in their order.
func newIDs(n int) []fositeconsent.ID {
	ids := make([]fositeconsent.ID, n)
	ms := uint64(time.Now().UnixMilli())
	for k := range ids {
		ids[k] = newID()
		for i := range 6 {
			ids[k][i] = byte((ms + uint64(k)) >> (40 - 8*i))
		}
	}
	return ids
}
