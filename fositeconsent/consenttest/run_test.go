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
