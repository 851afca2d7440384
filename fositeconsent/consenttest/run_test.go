package consenttest

import (
	"context"
	"errors"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// unreachable is what is left of a storage when its backend is gone.
type unreachable struct{}

var errUnreachable = errors.New("connection refused")

func (unreachable) CreateConsentGrant(context.Context, *fositeconsent.Grant) error {
	return errUnreachable
}

func (unreachable) ConsumeConsentGrant(context.Context, fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	return nil, errUnreachable
}

func TestStorageKeepsTheContract(t *testing.T) {
	t.Parallel()
	Run(t, func(_ testing.TB, o Options) fositeconsent.GrantStorage {
		if o.Broken {
			return unreachable{}
		}
		return NewStorage(o.Now)
	})
}

func (unreachable) FindConsents(context.Context, string, string, string) ([]fositeconsent.Consent, error) {
	return nil, errUnreachable
}

func (unreachable) RecordResponse(context.Context, *fositeconsent.Response) error {
	return errUnreachable
}

func (unreachable) CheckResponse(context.Context, string) error { return errUnreachable }

func (unreachable) ListConsents(context.Context, fositeconsent.Selection, fositeconsent.ID, int) ([]fositeconsent.Consent, error) {
	return nil, errUnreachable
}

func (unreachable) RevokeConsents(context.Context, fositeconsent.Selection, func(context.Context, fositeconsent.Ended) error) (int, error) {
	return 0, errUnreachable
}

func (unreachable) AppendDecision(context.Context, *fositeconsent.DecisionRecord) error {
	return errUnreachable
}

func (unreachable) ListDecisions(context.Context, fositeconsent.DecisionSelection, fositeconsent.ID, int) ([]fositeconsent.DecisionRecord, error) {
	return nil, errUnreachable
}

func (unreachable) EraseDecisions(context.Context, string, string) (int, error) {
	return 0, errUnreachable
}

func TestStorageKeepsTheContractOfDecisions(t *testing.T) {
	t.Parallel()
	RunDecisions(t, func(_ testing.TB, o Options) fositeconsent.DecisionLog {
		if o.Broken {
			return unreachable{}
		}
		return NewStorage(o.Now)
	})
}

func TestStorageKeepsTheContractOfConsents(t *testing.T) {
	t.Parallel()
	RunConsents(t, func(_ testing.TB, o Options) consentStorage {
		if o.Broken {
			return unreachable{}
		}
		return NewStorage(o.Now)
	})
}
