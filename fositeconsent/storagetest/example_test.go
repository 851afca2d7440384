package storagetest_test

import (
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent/storagetest"
)

// A storage proves itself in a test of its own package. Here fosite's storage in memory
// stands where yours would; it fails a good part of the suite.
func ExampleRun() {
	_ = func(t *testing.T) { // func TestMyStorage(t *testing.T)
		storagetest.Run(t, storagetest.Config{
			New: func(t testing.TB, o storagetest.Options) storagetest.Storage {
				return storage.NewMemoryStore() // yours: with the clock o.Now; if o.Broken, with a pool that is closed
			},
			AddClient: func(t testing.TB, s storagetest.Storage, client fosite.Client) {
				s.(*storage.MemoryStore).Clients[client.GetID()] = client
			},
			Without: []storagetest.Part{
				storagetest.Nonces, storagetest.Transactions, storagetest.Clock, storagetest.Outage,
			},
		})
	}
	// Output:
}
