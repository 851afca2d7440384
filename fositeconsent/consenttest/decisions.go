package consenttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

var _ fositeconsent.DecisionLog = (*Storage)(nil)

// AppendDecision implements [fositeconsent.DecisionLog].
func (s *Storage) AppendDecision(ctx context.Context, r *fositeconsent.DecisionRecord) error {
	if err := checkDecision(r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(s.decisions, func(d fositeconsent.DecisionRecord) bool { return d.ID == r.ID }) {
		return nil // the call that added it, once more
	}
	record := cloneDecision(r)
	record.RecordedAt = s.now()
	s.decisions = append(s.decisions, record)
	return nil
}

// ListDecisions implements [fositeconsent.DecisionLog].
func (s *Storage) ListDecisions(ctx context.Context, selection fositeconsent.DecisionSelection, after fositeconsent.ID, limit int) ([]fositeconsent.DecisionRecord, error) {
	switch {
	case selection.Issuer == "":
		return nil, errors.New("consenttest: the selection has no Issuer")
	case limit < 1:
		return nil, fmt.Errorf("consenttest: a page of %d records", limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return nil, err
	}
	var list []fositeconsent.DecisionRecord
	for i := range s.decisions {
		if r := &s.decisions[i]; bytes.Compare(r.ID[:], after[:]) > 0 && selectedDecision(selection, r) {
			list = append(list, cloneDecision(r))
		}
	}
	slices.SortFunc(list, func(a, b fositeconsent.DecisionRecord) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list[:min(limit, len(list))], nil
}

// EraseDecisions implements [fositeconsent.DecisionLog].
func (s *Storage) EraseDecisions(ctx context.Context, issuer, subject string) (int, error) {
	if issuer == "" || subject == "" {
		return 0, errors.New("consenttest: there is no issuer or no subject whose records are to be erased")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := interrupted(ctx); err != nil {
		return 0, err
	}
	before := len(s.decisions)
	s.decisions = slices.DeleteFunc(s.decisions, func(r fositeconsent.DecisionRecord) bool { return r.Issuer == issuer && r.Subject == subject })
	return before - len(s.decisions), nil
}

func selectedDecision(selection fositeconsent.DecisionSelection, r *fositeconsent.DecisionRecord) bool {
	return r.Issuer == selection.Issuer &&
		(selection.Subject == "" || r.Subject == selection.Subject) &&
		(selection.ClientID == "" || r.ClientID == selection.ClientID) &&
		(selection.Since.IsZero() || !r.RecordedAt.Before(selection.Since)) &&
		(selection.Until.IsZero() || r.RecordedAt.Before(selection.Until))
}

// checkDecision refuses what no log may have.
func checkDecision(r *fositeconsent.DecisionRecord) error {
	switch {
	case r.ID.IsZero():
		return errors.New("consenttest: the record has no ID")
	case r.Outcome == "":
		return errors.New("consenttest: the record has no Outcome")
	case r.Issuer == "":
		return errors.New("consenttest: the record has no Issuer")
	case r.Subject == "":
		return errors.New("consenttest: the record has no Subject")
	}
	return nil
}

// cloneDecision shares nothing with the original.
func cloneDecision(original *fositeconsent.DecisionRecord) fositeconsent.DecisionRecord {
	r := *original
	for _, list := range []*[]string{&r.RequestedScopes, &r.RequestedAudience, &r.Scopes, &r.Audience} {
		*list = slices.Clone(*list)
	}
	r.ConsentIDs = slices.Clone(r.ConsentIDs)
	return r
}
