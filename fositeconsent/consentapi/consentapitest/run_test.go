package consentapitest

import (
	"context"
	"errors"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// unreachable is what is left of a storage when its backend is gone.
type unreachable struct{}

var errUnreachable = errors.New("connection refused")

func (unreachable) CreateConsentRequest(context.Context, *consentapi.Request) error {
	return errUnreachable
}

func (unreachable) FindConsentRequest(context.Context, fositeconsent.ID, consentapi.Hash) (*consentapi.Request, error) {
	return nil, errUnreachable
}

func (unreachable) AnswerConsentRequest(context.Context, fositeconsent.ID, consentapi.Hash, *consentapi.Answer) (*consentapi.Request, error) {
	return nil, errUnreachable
}

func (unreachable) FindAnsweredConsentRequest(context.Context, fositeconsent.ID, consentapi.Hash, consentapi.Hash) (*consentapi.Request, error) {
	return nil, errUnreachable
}

func (unreachable) UseConsentRequest(context.Context, fositeconsent.ID, consentapi.Hash, consentapi.Hash) error {
	return errUnreachable
}

func (unreachable) RevokeConsentRequests(context.Context, fositeconsent.Selection) (int, error) {
	return 0, errUnreachable
}

func TestStorageKeepsTheContract(t *testing.T) {
	t.Parallel()
	Run(t, func(_ testing.TB, o consenttest.Options) consentapi.RequestStorage {
		if o.Broken {
			return unreachable{}
		}
		return NewStorage(o.Now)
	})
}
