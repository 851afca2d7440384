package consenttest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// A storage proves itself in a test of its own package. Here the storage in memory
// stands where yours would.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestMyStorage(t *testing.T)
		consenttest.Run(t, func(t testing.TB, o consenttest.Options) fositeconsent.GrantStorage {
			if o.Broken {
				return broken{} // yours: a pool that is closed
			}
			return consenttest.NewStorage(o.Now)
		})
	}
	// Output:
}

// broken is a storage whose backend is gone.
type broken struct{}

func (broken) CreateConsentGrant(context.Context, *fositeconsent.Grant) error {
	return errors.New("connection refused")
}

func (broken) ConsumeConsentGrant(context.Context, fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	return nil, errors.New("connection refused")
}

// A host's test moves the clock instead of waiting for a grant to expire.
func ExampleNewStorage() {
	now := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	storage := consenttest.NewStorage(func() time.Time { return now })

	ctx := context.Background()
	grant := &fositeconsent.Grant{
		ID:         fositeconsent.ID{1},
		SecretHash: fositeconsent.SecretHash{2},
		Binding:    fositeconsent.Digest{3},
		Subject:    "alice",
		ClientID:   "photos",
		Scopes:     []string{"openid"},
		Lifespan:   time.Minute,
	}
	fmt.Println(storage.CreateConsentGrant(ctx, grant))

	now = now.Add(time.Minute)
	_, err := storage.ConsumeConsentGrant(ctx, fositeconsent.Presentation{
		ID:         grant.ID,
		SecretHash: grant.SecretHash,
		Binding:    grant.Binding,
		Attempt:    fositeconsent.Attempt{4},
	})
	fmt.Println(errors.Is(err, fositeconsent.ErrGrantExpired))
	// Output:
	// <nil>
	// true
}
