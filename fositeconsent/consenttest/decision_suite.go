package consenttest

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// decisionProbe is one test's view of the logs it asks for.
type decisionProbe struct {
	*testing.T
	newStorage func(testing.TB, Options) fositeconsent.DecisionLog
}

// journal passes calls on to a log and checks of each of them what holds for all.
type journal struct {
	*testing.T
	ctx context.Context
	log fositeconsent.DecisionLog
}

func (p *decisionProbe) open(o Options) *journal {
	p.Helper()
	log := p.newStorage(p, o)
	if log == nil {
		p.Fatal("newStorage returned nil")
	}
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	p.Cleanup(cancel)
	return &journal{p.T, ctx, log}
}

// inspect checks that an error claims to know nothing.
func (j *journal) inspect(call string, err error) {
	j.Helper()
	if says := outcomeOf(err); says != succeeded && says != failed {
		j.Errorf("%s returned a reason for which it cannot be refused: %v", call, err)
	}
}

func (j *journal) append(ctx context.Context, r *fositeconsent.DecisionRecord) error {
	j.Helper()
	err := j.log.AppendDecision(ctx, r)
	j.inspect("AppendDecision", err)
	return err
}

// add appends the record or ends the test.
func (j *journal) add(r *fositeconsent.DecisionRecord) {
	j.Helper()
	if err := j.append(j.ctx, r); err != nil {
		j.Fatalf("AppendDecision: got %v, want success", err)
	}
}

func (j *journal) listIn(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	j.Helper()
	list, err := j.log.ListDecisions(ctx, selection, after, limit)
	j.inspect("ListDecisions", err)
	if err != nil && len(list) > 0 {
		j.Errorf("ListDecisions returned records with the error %v", err)
	}
	return list, err
}

func (j *journal) list(selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) []fositeconsent.DecisionRecord {
	j.Helper()
	list, err := j.listIn(j.ctx, selection, after, limit)
	if err != nil {
		j.Errorf("ListDecisions: got %v, want success", err)
	}
	return list
}

func (j *journal) eraseIn(ctx context.Context, issuer, subject string) (int, error) {
	j.Helper()
	n, err := j.log.EraseDecisions(ctx, issuer, subject)
	j.inspect("EraseDecisions", err)
	return n, err
}

// wantListed compares the IDs of what is listed.
func (j *journal) wantListed(selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int, want ...*fositeconsent.DecisionRecord) {
	j.Helper()
	list := j.list(selection, after, limit)
	var got, wanted []fositeconsent.ID
	for i := range list {
		got = append(got, list[i].ID)
	}
	for _, r := range want {
		wanted = append(wanted, r.ID)
	}
	if !slices.Equal(got, wanted) {
		j.Errorf("ListDecisions returned the records %v, want %v", got, wanted)
	}
}

// wantRecord lists the one record of its people, and compares it.
func (j *journal) wantRecord(appended *fositeconsent.DecisionRecord) fositeconsent.DecisionRecord {
	j.Helper()
	list := j.list(peopleOf(appended), fositeconsent.ID{}, 2)
	if len(list) != 1 {
		j.Errorf("ListDecisions returned %d records, want 1", len(list))
		return fositeconsent.DecisionRecord{}
	}
	got := list[0]
	differs := func(field string, got, want any) {
		j.Helper()
		j.Errorf("the returned record's %s is %#v, want %#v", field, got, want)
	}
	if got.ID != appended.ID {
		differs("ID", got.ID.String(), appended.ID.String())
	}
	for _, f := range []struct{ field, got, want string }{
		{"Outcome", string(got.Outcome), string(appended.Outcome)},
		{"Reason", got.Reason, appended.Reason},
		{"Basis", string(got.Basis), string(appended.Basis)},
		{"Issuer", got.Issuer, appended.Issuer},
		{"Subject", got.Subject, appended.Subject},
		{"ClientID", got.ClientID, appended.ClientID},
	} {
		if f.got != f.want {
			differs(f.field, f.got, f.want)
		}
	}
	for _, f := range []struct {
		field     string
		got, want []string
	}{
		{"RequestedScopes", got.RequestedScopes, appended.RequestedScopes},
		{"RequestedAudience", got.RequestedAudience, appended.RequestedAudience},
		{"Scopes", got.Scopes, appended.Scopes},
		{"Audience", got.Audience, appended.Audience},
	} {
		if !slices.Equal(f.got, f.want) {
			differs(f.field, f.got, f.want)
		}
	}
	if !slices.Equal(got.ConsentIDs, appended.ConsentIDs) {
		differs("ConsentIDs", got.ConsentIDs, appended.ConsentIDs)
	}
	if got.Shown != appended.Shown {
		differs("Shown", got.Shown, appended.Shown)
	}
	if got.RecordedAt.IsZero() {
		j.Error("the returned record's RecordedAt is not set")
	}
	return got
}

func peopleOf(r *fositeconsent.DecisionRecord) fositeconsent.DecisionSelection {
	return fositeconsent.DecisionSelection{Issuer: r.Issuer, Subject: r.Subject, ClientID: r.ClientID}
}

// newDecision returns a record like any other, under random keys.
func newDecision() *fositeconsent.DecisionRecord {
	return &fositeconsent.DecisionRecord{
		ID: newID(), Outcome: fositeconsent.OutcomeApproved,
		Issuer: "https://issuer-" + rand.Text() + ".example", Subject: "subject-" + rand.Text(), ClientID: "client-" + rand.Text(),
		RequestedScopes: []string{"openid", "photos.read", "photos.write"}, RequestedAudience: []string{"https://photos.example/api", "https://albums.example/"},
		Scopes: []string{"openid", "photos.read"}, Audience: []string{"https://photos.example/api"},
		ConsentIDs: []fositeconsent.ID{newID()}, Shown: random32(),
	}
}

// decisionsOf returns records of the same people as the first one, in the order of their IDs.
func decisionsOf(n int) []*fositeconsent.DecisionRecord {
	first := newDecision()
	var list []*fositeconsent.DecisionRecord
	for _, id := range newIDs(n) {
		r := newDecision()
		r.ID, r.Issuer, r.Subject, r.ClientID = id, first.Issuer, first.Subject, first.ClientID
		list = append(list, r)
	}
	return list
}

func decisionReturnedAsAppended(p *decisionProbe) {
	j := p.open(Options{})
	odd := []string{"NULL", "null", "{a,b}", "a,b", "it's", "--", "$1", "%s", `"quoted"`, `back\slash`, " spaces around ", "tab\there", "new\nline", "zürich/東京", "zebra", "Zebra", "alpha", "zebra", ""}
	for sentence, set := range map[string]func(*fositeconsent.DecisionRecord){
		"an approval": func(*fositeconsent.DecisionRecord) {},
		"a denial": func(r *fositeconsent.DecisionRecord) {
			r.Outcome, r.Scopes, r.Audience = fositeconsent.OutcomeDenied, nil, nil
		},
		"a silent pass by several consents": func(r *fositeconsent.DecisionRecord) {
			r.Outcome, r.Basis, r.ConsentIDs = fositeconsent.OutcomePassed, fositeconsent.BasisRemembered, newIDs(3)
			slices.Reverse(r.ConsentIDs)
		},
		"a refusal": func(r *fositeconsent.DecisionRecord) {
			r.Outcome, r.Reason, r.Scopes, r.Audience = fositeconsent.OutcomeRefused, "binding_mismatch", nil, nil
		},
		"a refusal of which little is known": func(r *fositeconsent.DecisionRecord) {
			*r = fositeconsent.DecisionRecord{ID: r.ID, Outcome: fositeconsent.OutcomeRefused, Issuer: r.Issuer, Subject: r.Subject}
		},
		"a revocation": func(r *fositeconsent.DecisionRecord) {
			r.Outcome, r.RequestedScopes, r.RequestedAudience = fositeconsent.OutcomeRevoked, nil, nil
		},
		"all that was requested": func(r *fositeconsent.DecisionRecord) { r.Scopes, r.Audience = r.RequestedScopes, r.RequestedAudience },
		"odd lists": func(r *fositeconsent.DecisionRecord) {
			r.Scopes, r.Audience, r.RequestedScopes, r.RequestedAudience = odd, odd[1:], odd[2:], odd[3:]
		},
		"odd people": func(r *fositeconsent.DecisionRecord) {
			r.Issuer, r.Subject, r.ClientID = " https://'東京' "+rand.Text(), "  Zoe\u0308 "+rand.Text(), strings.Repeat("https://client.example/", 50)
		},
		"an outcome, a reason and a basis of later": func(r *fositeconsent.DecisionRecord) {
			r.Outcome, r.Reason, r.Basis = "an outcome of later", "a reason, too", "a basis"
		},
	} {
		r := newDecision()
		set(r)
		j.add(r)
		j.wantRecord(r)
		if j.Failed() {
			j.Fatalf("so it was with %s", sentence)
		}
	}
}

func decisionNilIsEmpty(p *decisionProbe) {
	j := p.open(Options{})
	for _, list := range [][]string{nil, {}} {
		r := newDecision()
		r.Scopes, r.Audience, r.RequestedScopes, r.RequestedAudience, r.ConsentIDs = list, list, list, list, []fositeconsent.ID{}
		j.add(r)
		j.wantRecord(r)
	}
}

func decisionTextIsExact(p *decisionProbe) {
	j := p.open(Options{})
	for _, text := range []string{"a\x00b", "\x00", "\xff\xfe", "cut off \xe6\x9d", "\xed\xa0\x80"} {
		for field, set := range map[string]func(*fositeconsent.DecisionRecord){
			"Outcome":           func(r *fositeconsent.DecisionRecord) { r.Outcome = fositeconsent.Outcome(text) },
			"Reason":            func(r *fositeconsent.DecisionRecord) { r.Reason = text },
			"Basis":             func(r *fositeconsent.DecisionRecord) { r.Basis = fositeconsent.Basis(text) },
			"Issuer":            func(r *fositeconsent.DecisionRecord) { r.Issuer += text },
			"Subject":           func(r *fositeconsent.DecisionRecord) { r.Subject += text },
			"ClientID":          func(r *fositeconsent.DecisionRecord) { r.ClientID += text },
			"RequestedScopes":   func(r *fositeconsent.DecisionRecord) { r.RequestedScopes = []string{text} },
			"RequestedAudience": func(r *fositeconsent.DecisionRecord) { r.RequestedAudience = []string{text} },
			"Scopes":            func(r *fositeconsent.DecisionRecord) { r.Scopes = []string{"openid", text} },
			"Audience":          func(r *fositeconsent.DecisionRecord) { r.Audience = []string{text, "b"} },
		} {
			r := newDecision()
			set(r)
			if err := j.append(j.ctx, r); err == nil {
				j.wantRecord(r)
				continue
			}
			other := newDecision() // the ID is free
			other.ID = r.ID
			j.add(other)
			j.wantRecord(other)
			if j.Failed() {
				j.Fatalf("so it was with the text %q in %s", text, field)
			}
		}
	}
}

func decisionDated(p *decisionProbe) {
	c := newClock()
	j := p.open(Options{Now: c.Now})
	r := newDecision()
	r.RecordedAt = time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC) // ignored
	at := c.Now()
	j.add(r)
	c.advance(time.Hour)
	if got := j.wantRecord(r); !got.RecordedAt.Equal(at) {
		j.Errorf("RecordedAt is %v, want %v", got.RecordedAt, at)
	}
	own := p.open(Options{})
	r = newDecision()
	before := time.Now()
	own.add(r)
	if got := own.wantRecord(r); got.RecordedAt.Before(before.Add(-time.Minute)) || got.RecordedAt.After(time.Now().Add(time.Minute)) {
		j.Errorf("RecordedAt is %v, want now", got.RecordedAt)
	}
}

func incompleteDecisionRefused(p *decisionProbe) {
	j := p.open(Options{})
	for field, set := range map[string]func(*fositeconsent.DecisionRecord){
		"ID":      func(r *fositeconsent.DecisionRecord) { r.ID = fositeconsent.ID{} },
		"Outcome": func(r *fositeconsent.DecisionRecord) { r.Outcome = "" },
		"Issuer":  func(r *fositeconsent.DecisionRecord) { r.Issuer = "" },
		"Subject": func(r *fositeconsent.DecisionRecord) { r.Subject = "" },
	} {
		r := newDecision()
		whole := *r
		set(r)
		if err := j.append(j.ctx, r); err == nil {
			j.Errorf("AppendDecision: a record without %s was accepted", field)
		}
		j.wantListed(fositeconsent.DecisionSelection{Issuer: whole.Issuer}, fositeconsent.ID{}, 10)
	}
	for what, call := range map[string]func() error{
		"listed without an issuer": func() error {
			_, err := j.listIn(j.ctx, fositeconsent.DecisionSelection{Subject: "subject"}, fositeconsent.ID{}, 1)
			return err
		},
		"listed in pages of nothing": func() error {
			_, err := j.listIn(j.ctx, fositeconsent.DecisionSelection{Issuer: "https://issuer.example"}, fositeconsent.ID{}, 0)
			return err
		},
		"erased without an issuer":  func() error { _, err := j.eraseIn(j.ctx, "", "subject"); return err },
		"erased without a subject":  func() error { _, err := j.eraseIn(j.ctx, "https://issuer.example", ""); return err },
		"erased without either one": func() error { _, err := j.eraseIn(j.ctx, "", ""); return err },
	} {
		if call() == nil {
			j.Errorf("decisions were %s", what)
		}
	}
}

func decisionRepeated(p *decisionProbe) {
	c := newClock()
	j := p.open(Options{Now: c.Now})
	r := newDecision()
	at := c.Now()
	j.add(r)
	c.advance(time.Minute)
	j.add(r)
	other := newDecision()
	other.ID = r.ID
	j.add(other)
	if got := j.wantRecord(r); !got.RecordedAt.Equal(at) {
		j.Errorf("RecordedAt is %v after a repeated call, want %v", got.RecordedAt, at)
	}
	j.wantListed(peopleOf(other), fositeconsent.ID{}, 10)
}

func decisionsListed(p *decisionProbe) {
	c := newClock()
	j := p.open(Options{Now: c.Now})
	list := decisionsOf(6)
	start := c.Now()
	for i, r := range list {
		c.offset.Store(int64(time.Duration(i) * time.Hour))
		switch i {
		case 1:
			r.Subject = "subject-" + rand.Text()
		case 2:
			r.ClientID = "client-" + rand.Text()
		case 3:
			r.Issuer = "https://issuer-" + rand.Text() + ".example"
		}
		j.add(r)
	}
	all := peopleOf(list[0])
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Hour) }
	for _, s := range []struct {
		sentence  string
		selection fositeconsent.DecisionSelection
		want      []*fositeconsent.DecisionRecord
	}{
		{"of an issuer", fositeconsent.DecisionSelection{Issuer: all.Issuer}, []*fositeconsent.DecisionRecord{list[0], list[1], list[2], list[4], list[5]}},
		{"of another one", fositeconsent.DecisionSelection{Issuer: list[3].Issuer}, list[3:4]},
		{"of a subject", fositeconsent.DecisionSelection{Issuer: all.Issuer, Subject: all.Subject}, []*fositeconsent.DecisionRecord{list[0], list[2], list[4], list[5]}},
		{"of a client", fositeconsent.DecisionSelection{Issuer: all.Issuer, ClientID: all.ClientID}, []*fositeconsent.DecisionRecord{list[0], list[1], list[4], list[5]}},
		{"of both", all, []*fositeconsent.DecisionRecord{list[0], list[4], list[5]}},
		{"of nobody there", fositeconsent.DecisionSelection{Issuer: all.Issuer, Subject: list[1].Subject, ClientID: list[2].ClientID}, nil},
		{"from a moment on", fositeconsent.DecisionSelection{Issuer: all.Issuer, Since: at(4)}, list[4:]},
		{"from just after it on", fositeconsent.DecisionSelection{Issuer: all.Issuer, Since: at(4).Add(time.Millisecond)}, list[5:]},
		{"before a moment", fositeconsent.DecisionSelection{Issuer: all.Issuer, Until: at(1)}, list[:1]},
		{"before just after it", fositeconsent.DecisionSelection{Issuer: all.Issuer, Until: at(1).Add(time.Millisecond)}, list[:2]},
		{"between two moments", fositeconsent.DecisionSelection{Issuer: all.Issuer, Since: at(1), Until: at(3)}, list[1:3]},
	} {
		j.wantListed(s.selection, fositeconsent.ID{}, 10, s.want...)
		if j.Failed() {
			j.Fatalf("so it was with those %s", s.sentence)
		}
	}
}

func decisionPages(p *decisionProbe) {
	j := p.open(Options{})
	list := decisionsOf(7)
	for _, i := range disorder(len(list) - 1) {
		j.add(list[i])
	}
	all := peopleOf(list[0])
	j.wantListed(all, fositeconsent.ID{}, 3, list[:3]...)
	j.add(list[6]) // newer than all
	j.wantListed(all, list[2].ID, 3, list[3:6]...)
	j.wantListed(all, list[5].ID, 3, list[6])
	j.wantListed(all, list[6].ID, 3)
	j.wantListed(fositeconsent.DecisionSelection{Issuer: all.Issuer}, list[4].ID, 1, list[5])
}

func decisionsErased(p *decisionProbe) {
	j := p.open(Options{})
	list := decisionsOf(5)
	list[1].ClientID = "client-" + rand.Text()
	list[2].Subject = "subject-" + rand.Text()
	list[3].Issuer = "https://issuer-" + rand.Text() + ".example"
	for _, r := range list {
		j.add(r)
	}
	for i, want := range []int{3, 0} {
		if n, err := j.eraseIn(j.ctx, list[0].Issuer, list[0].Subject); n != want || err != nil {
			j.Errorf("EraseDecisions, call %d: got %d, %v, want %d and success", i+1, n, err, want)
		}
		j.wantListed(fositeconsent.DecisionSelection{Issuer: list[0].Issuer}, fositeconsent.ID{}, 10, list[2])
		j.wantListed(fositeconsent.DecisionSelection{Issuer: list[3].Issuer}, fositeconsent.ID{}, 10, list[3])
	}
	many := decisionsOf(2500)
	errs := race(len(many), func(i int) error { return j.log.AppendDecision(j.ctx, many[i]) })
	if err := errors.Join(errs...); err != nil {
		j.Fatal(err)
	}
	if n, err := j.eraseIn(j.ctx, many[0].Issuer, many[0].Subject); n != len(many) || err != nil {
		j.Errorf("EraseDecisions: got %d, %v, want %d and success", n, err, len(many))
	}
	j.wantListed(peopleOf(many[0]), fositeconsent.ID{}, 10)
}

func callersDecisionIsTheCallers(p *decisionProbe) {
	j := p.open(Options{})
	r := newDecision()
	kept := cloneDecision(r)
	j.add(r)
	if !slices.Equal(r.Scopes, kept.Scopes) || r.RecordedAt != kept.RecordedAt || r.ID != kept.ID {
		j.Error("AppendDecision changed the caller's record")
	}
	for range 2 {
		got := j.wantRecord(&kept)
		for _, changed := range []*fositeconsent.DecisionRecord{r, &got} {
			for _, list := range [][]string{changed.Scopes, changed.Audience, changed.RequestedScopes, changed.RequestedAudience} {
				for i := range list {
					list[i] = "changed"
				}
			}
			for i := range changed.ConsentIDs {
				changed.ConsentIDs[i] = newID()
			}
		}
	}
}

func decisionsAppendedAtOnce(p *decisionProbe) {
	j := p.open(Options{})
	list := decisionsOf(presenters)
	// Each of them twice.
	for i, err := range race(2*len(list), func(i int) error { return j.log.AppendDecision(j.ctx, list[i/2]) }) {
		if err != nil {
			j.Errorf("AppendDecision %d: %v", i, err)
		}
	}
	j.wantListed(peopleOf(list[0]), fositeconsent.ID{}, 10*presenters, list...)
}

// race makes n calls, presenters of them at a time, and returns their errors.
func race(n int, call func(i int) error) []error {
	errs := make([]error, n)
	next := make(chan int)
	done := make(chan struct{})
	for range presenters {
		go func() {
			for i := range next {
				errs[i] = call(i)
			}
			done <- struct{}{}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range presenters {
		<-done
	}
	return errs
}

func cancelledDecisions(p *decisionProbe) {
	j := p.open(Options{})
	over, cancel := context.WithCancel(j.ctx)
	cancel()
	there := newDecision()
	j.add(there)
	r := newDecision()
	r.Issuer, r.Subject, r.ClientID = there.Issuer, there.Subject, there.ClientID
	for call, err := range j.callAll(over, r) {
		if err == nil {
			j.Errorf("%s succeeded although its context was over", call)
		}
	}
	j.wantRecord(there)
}

func brokenDecisions(p *decisionProbe) {
	j := p.open(Options{Broken: true})
	for call, err := range j.callAll(j.ctx, newDecision()) {
		if err == nil {
			j.Errorf("%s succeeded without a backend", call)
		}
	}
}

func (j *journal) callAll(ctx context.Context, r *fositeconsent.DecisionRecord) map[string]error {
	j.Helper()
	_, listed := j.listIn(ctx, peopleOf(r), fositeconsent.ID{}, 10)
	n, erased := j.eraseIn(ctx, r.Issuer, r.Subject)
	if n != 0 {
		j.Errorf("EraseDecisions erased %d records, want 0", n)
	}
	return map[string]error{"AppendDecision": j.append(ctx, r), "ListDecisions": listed, "EraseDecisions": erased}
}
