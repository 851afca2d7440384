package consenttest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

type (
	appendFunc    = func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error
	decisionsFunc = func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error)
	eraseFunc     = func(s *Storage, ctx context.Context, issuer, subject string) (int, error)
)

// decisionFlaw is one way to break the contract of the log. Its hooks stand in for the methods of
// [Storage]; nil ones are as they should be.
type decisionFlaw struct {
	name     string
	caughtBy string

	add    appendFunc
	list   decisionsFunc
	erase  eraseFunc
	broken fositeconsent.DecisionLog // what is left of it when its backend is gone
	clock  bool                      // it asks its own
}

func (f decisionFlaw) newStorage(_ testing.TB, o Options) fositeconsent.DecisionLog {
	if o.Broken {
		if f.broken != nil {
			return f.broken
		}
		return unreachable{}
	}
	if f.clock {
		o.Now = nil
	}
	return &flawedDecisions{Storage: NewStorage(o.Now), flaw: f}
}

type flawedDecisions struct {
	*Storage
	flaw decisionFlaw
}

func (f *flawedDecisions) AppendDecision(ctx context.Context, r *fositeconsent.DecisionRecord) error {
	if f.flaw.add != nil {
		return f.flaw.add(f.Storage, ctx, r)
	}
	return f.Storage.AppendDecision(ctx, r)
}

func (f *flawedDecisions) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	if f.flaw.list != nil {
		return f.flaw.list(f.Storage, ctx, selection, after, limit)
	}
	return f.Storage.ListDecisions(ctx, selection, after, limit)
}

func (f *flawedDecisions) EraseDecisions(ctx context.Context, issuer, subject string) (int, error) {
	if f.flaw.erase != nil {
		return f.flaw.erase(f.Storage, ctx, issuer, subject)
	}
	return f.Storage.EraseDecisions(ctx, issuer, subject)
}

// forgetful is a log without a backend that says that all is well.
type forgetful struct{ unreachable }

func (forgetful) AppendDecision(context.Context, *fositeconsent.DecisionRecord) error { return nil }

// vacant is one that finds nothing.
type vacant struct{ unreachable }

func (vacant) ListDecisions(context.Context, fositeconsent.DecisionSelection, fositeconsent.ID, int) ([]fositeconsent.DecisionRecord, error) {
	return nil, nil
}

var decisionOddities = []decisionFlaw{
	{name: "no flaw in the log"},
	{name: "text of records that is well-formed only", add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
		text := strings.Join(slices.Concat([]string{string(r.Outcome), r.Reason, string(r.Basis), r.Issuer, r.Subject, r.ClientID}, r.RequestedScopes, r.RequestedAudience, r.Scopes, r.Audience), "")
		if strings.ToValidUTF8(text, "") != text || strings.Contains(text, "\x00") {
			return errInvalid
		}
		return s.AppendDecision(ctx, r)
	}},
}

var decisionFlaws = func() []decisionFlaw {
	const (
		content    = "a record is returned as it was appended"
		nilIsEmpty = "nil and empty lists of a record are the same"
		text       = "text of a record is kept exactly or refused"
		dated      = "a record is dated by the storage's clock"
		incomplete = "an incomplete call on the log is refused and nothing is added"
		repeated   = "a repeated record changes nothing"
		listed     = "records are listed by what is selected and the oldest first"
		pages      = "records are listed in pages"
		erased     = "the records of one subject are erased"
		callers    = "the caller's record is neither kept nor modified"
		atOnce     = "records that are appended at once are all there"
		cancelled  = "a cancelled call on the log is an error and changes nothing"
		broken     = "a backend that cannot be reached knows of no records"
	)
	changed := func(change func(*fositeconsent.DecisionRecord)) appendFunc {
		return func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			c := cloneDecision(r)
			change(&c)
			return s.AppendDecision(ctx, &c)
		}
	}
	widened := func(widen func(*fositeconsent.DecisionSelection)) decisionsFunc {
		return func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
			if selection.Issuer != "" {
				widen(&selection)
			}
			return s.ListDecisions(ctx, selection, after, limit)
		}
	}
	// whatever calls a method as if nothing had ended.
	whatever := context.Background()
	return []decisionFlaw{
		{name: "the reason is not kept", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { r.Reason = "" })},
		{name: "the basis is not kept", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { r.Basis = "" })},
		{name: "every outcome is an approval", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) {
			if r.Outcome != "" {
				r.Outcome = fositeconsent.OutcomeApproved
			}
		})},
		{name: "the digest is not kept", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { r.Shown = fositeconsent.Digest{} })},
		{name: "what was requested is what was granted", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { r.RequestedScopes = r.Scopes })},
		{name: "the requested audience is not kept", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { r.RequestedAudience = nil })},
		{name: "lists of a record are sorted", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { slices.Sort(r.Scopes) })},
		{name: "one consent is kept", caughtBy: content, add: changed(func(r *fositeconsent.DecisionRecord) { r.ConsentIDs = r.ConsentIDs[:min(1, len(r.ConsentIDs))] })},
		{name: "a record with an empty list is refused", caughtBy: nilIsEmpty, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			if r.Scopes != nil && len(r.Scopes) == 0 {
				return errInvalid
			}
			return s.AppendDecision(ctx, r)
		}},
		{name: "text of a record is cut at a NUL byte", caughtBy: text, add: changed(func(r *fositeconsent.DecisionRecord) { r.ClientID, _, _ = strings.Cut(r.ClientID, "\x00") })},
		{name: "text of a record is repaired", caughtBy: text, add: changed(func(r *fositeconsent.DecisionRecord) {
			for i := range r.Audience {
				r.Audience[i] = strings.ToValidUTF8(r.Audience[i], "?")
			}
		})},
		{name: "a record is refused after its ID was taken", caughtBy: text, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			err := s.AppendDecision(ctx, r)
			if strings.ToValidUTF8(r.Subject, "") != r.Subject {
				return cmp(errInvalid, err)
			}
			return err
		}},
		{name: "the log asks its own clock", caughtBy: dated, clock: true},
		{name: "the caller's date is kept", caughtBy: dated, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			err := s.AppendDecision(ctx, r)
			with(s, func() { s.decisions[len(s.decisions)-1].RecordedAt = r.RecordedAt })
			return err
		}},
		{name: "a record of nobody is accepted", caughtBy: incomplete, add: changed(func(r *fositeconsent.DecisionRecord) {
			if r.Subject == "" {
				r.Subject = "nobody"
			}
		})},
		{name: "a record without an ID gets one", caughtBy: incomplete, add: changed(func(r *fositeconsent.DecisionRecord) {
			if r.ID.IsZero() {
				r.ID = newID()
			}
		})},
		{name: "every issuer's records are listed for none", caughtBy: incomplete, list: func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
			if selection.Issuer == "" {
				return nil, nil
			}
			return s.ListDecisions(ctx, selection, after, limit)
		}},
		{name: "nobody is erased without a complaint", caughtBy: incomplete, erase: func(s *Storage, ctx context.Context, issuer, subject string) (int, error) {
			if subject == "" {
				return 0, nil
			}
			return s.EraseDecisions(ctx, issuer, subject)
		}},
		{name: "a repeated record is an error", caughtBy: repeated, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			before := 0
			with(s, func() { before = len(s.decisions) })
			err := s.AppendDecision(ctx, r)
			with(s, func() {
				if err == nil && len(s.decisions) == before {
					err = errInvalid
				}
			})
			return err
		}},
		{name: "a repeated record replaces the first", caughtBy: repeated, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			with(s, func() {
				s.decisions = slices.DeleteFunc(s.decisions, func(d fositeconsent.DecisionRecord) bool { return d.ID == r.ID })
			})
			return s.AppendDecision(ctx, r)
		}},
		{name: "a repeated record is there twice", caughtBy: repeated, add: func(s *Storage, _ context.Context, r *fositeconsent.DecisionRecord) error {
			if err := checkDecision(r); err != nil {
				return err
			}
			with(s, func() { s.decisions = append(s.decisions, cloneDecision(r)) })
			return nil
		}},
		{name: "the log is listed for every client", caughtBy: listed, list: widened(func(s *fositeconsent.DecisionSelection) { s.ClientID = "" })},
		{name: "the log is listed for every subject", caughtBy: listed, list: widened(func(s *fositeconsent.DecisionSelection) { s.Subject = "" })},
		{name: "the beginning is not in the log", caughtBy: listed, list: widened(func(s *fositeconsent.DecisionSelection) {
			if !s.Since.IsZero() {
				s.Since = s.Since.Add(1)
			}
		})},
		{name: "the end is in the log", caughtBy: listed, list: widened(func(s *fositeconsent.DecisionSelection) {
			if !s.Until.IsZero() {
				s.Until = s.Until.Add(1)
			}
		})},
		{name: "the newest are listed first", caughtBy: pages, list: func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
			list, err := s.ListDecisions(ctx, selection, after, limit)
			slices.Reverse(list)
			return list, err
		}},
		{name: "the page begins with the last one again", caughtBy: pages, list: func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
			if !after.IsZero() {
				after[15]--
			}
			return s.ListDecisions(ctx, selection, after, limit)
		}},
		{name: "a page is longer than it was asked to be", caughtBy: pages, list: func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
			if limit > 0 {
				limit++
			}
			return s.ListDecisions(ctx, selection, after, limit)
		}},
		{name: "every issuer forgets the subject", caughtBy: erased, erase: func(s *Storage, _ context.Context, issuer, subject string) (n int, err error) {
			if issuer == "" || subject == "" {
				return 0, errInvalid
			}
			with(s, func() {
				before := len(s.decisions)
				s.decisions = slices.DeleteFunc(s.decisions, func(r fositeconsent.DecisionRecord) bool { return r.Subject == subject })
				n = before - len(s.decisions)
			})
			return n, nil
		}},
		{name: "the first thousand records are erased", caughtBy: erased, erase: func(s *Storage, ctx context.Context, issuer, subject string) (n int, err error) {
			if issuer == "" || subject == "" {
				return 0, errInvalid
			}
			with(s, func() {
				before := len(s.decisions)
				s.decisions = slices.DeleteFunc(s.decisions, func(r fositeconsent.DecisionRecord) bool {
					n++
					return r.Issuer == issuer && r.Subject == subject && n <= 1000
				})
				n = before - len(s.decisions)
			})
			return n, ctx.Err()
		}},
		{name: "nothing is erased", caughtBy: erased, erase: func(s *Storage, ctx context.Context, issuer, subject string) (int, error) {
			if issuer == "" || subject == "" {
				return 0, errInvalid
			}
			list, err := s.ListDecisions(ctx, fositeconsent.DecisionSelection{Issuer: issuer, Subject: subject}, fositeconsent.ID{}, 10_000)
			return len(list), err
		}},
		{name: "the caller's lists are kept", caughtBy: callers, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			err := s.AppendDecision(ctx, r)
			with(s, func() {
				if err == nil {
					s.decisions[len(s.decisions)-1].Scopes = r.Scopes
				}
			})
			return err
		}},
		{name: "the date is written into the caller's record", caughtBy: callers, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			defer func() { r.RecordedAt = s.now() }()
			return s.AppendDecision(ctx, r)
		}},
		{name: "what is returned is what is kept", caughtBy: callers, list: func(s *Storage, ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
			list, err := s.ListDecisions(ctx, selection, after, limit)
			with(s, func() {
				for i := range list {
					for j := range s.decisions {
						if s.decisions[j].ID == list[i].ID {
							list[i].ConsentIDs = s.decisions[j].ConsentIDs
						}
					}
				}
			})
			return list, err
		}},
		{name: "one of many records is lost", caughtBy: atOnce, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			err := s.AppendDecision(ctx, r)
			// Afterwards, and of what is there then: whoever looked before might look too
			// early, and lose none.
			with(s, func() { s.decisions = s.decisions[:min(len(s.decisions), presenters-1)] })
			return err
		}},
		{name: "a cancelled record is added", caughtBy: cancelled, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			return cmp(s.AppendDecision(whatever, r), ctx.Err())
		}},
		{name: "a cancelled record is taken for added", caughtBy: cancelled, add: func(s *Storage, ctx context.Context, r *fositeconsent.DecisionRecord) error {
			if err := s.AppendDecision(ctx, r); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}},
		{name: "a cancelled erasure erases", caughtBy: cancelled, erase: func(s *Storage, ctx context.Context, issuer, subject string) (int, error) {
			n, err := s.EraseDecisions(whatever, issuer, subject)
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return n, err
		}},
		{name: "a broken backend takes every record", caughtBy: broken, broken: forgetful{}},
		{name: "a broken backend finds no records", caughtBy: broken, broken: vacant{}},
	}
}()
