package consenttest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// TestRevocationIsWaitedFor holds a revocation open in its callback and sees that
// nobody consumes, records or checks before it is over; and that a failed one leaves
// everything as it was.
func TestRevocationIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := NewStorage(nil)
	grant := newGrant()
	if err := s.CreateConsentGrant(t.Context(), grant); err != nil {
		t.Fatal(err)
	}
	consent := &fositeconsent.Consent{ID: newID(), Issuer: "https://issuer.example", Subject: grant.Subject, ClientID: grant.ClientID}
	if err := s.RecordResponse(t.Context(), &fositeconsent.Response{RequestID: "first", Approval: consent}); err != nil {
		t.Fatal(err)
	}
	selection := fositeconsent.Selection{Issuer: consent.Issuer, Subject: grant.Subject}
	refused := errors.New("refused")
	n, err := s.RevokeConsents(t.Context(), selection, func(context.Context, fositeconsent.Ended) error {
		for call, try := range map[string]func(context.Context) error{
			"CheckResponse": func(ctx context.Context) error { return s.CheckResponse(ctx, "first") },
			"RecordResponse": func(ctx context.Context) error {
				return s.RecordResponse(ctx, &fositeconsent.Response{RequestID: "second", ConsentIDs: []fositeconsent.ID{consent.ID}})
			},
			"ConsumeConsentGrant": func(ctx context.Context) error {
				_, err := s.ConsumeConsentGrant(ctx, present(grant))
				return err
			},
			"RevokeConsents": func(ctx context.Context) error {
				_, err := s.RevokeConsents(ctx, selection, func(context.Context, fositeconsent.Ended) error { return nil })
				return err
			},
		} {
			soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if err := try(soon); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s during a revocation: got %v, want that it waits", call, err)
			}
			cancel()
		}
		return refused
	})
	if n != 0 || !errors.Is(err, refused) {
		t.Errorf("got %d, %v, want 0 and what the callback returned", n, err)
	}
	if err := s.CheckResponse(t.Context(), "first"); err != nil {
		t.Errorf("after a revocation that failed: %v", err)
	}
	if _, err := s.ConsumeConsentGrant(t.Context(), present(grant)); err != nil {
		t.Errorf("after a revocation that failed: %v", err)
	}
}
