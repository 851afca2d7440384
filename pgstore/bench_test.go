package pgstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// The harness's own servers do not wait for the disk. Set TEST_POSTGRES=url and
// TEST_DATABASE_URL to measure one that does.

func BenchmarkMint(b *testing.B) {
	benchmark(b, func(b *testing.B, store *pgstore.Store, grants []*fositeconsent.Grant) func(int) error {
		return func(i int) error { return store.CreateConsentGrant(context.Background(), grants[i]) }
	})
}

func BenchmarkConsume(b *testing.B) {
	benchmark(b, func(b *testing.B, store *pgstore.Store, grants []*fositeconsent.Grant) func(int) error {
		parallel(b, 8, func(i int) error { return store.CreateConsentGrant(context.Background(), grants[i]) })
		return func(i int) error {
			_, err := store.ConsumeConsentGrant(context.Background(), present(grants[i]))
			return err
		}
	})
}

// BenchmarkReplay is a presenter of a grant that was spent long ago.
func BenchmarkReplay(b *testing.B) {
	benchmark(b, func(b *testing.B, store *pgstore.Store, grants []*fositeconsent.Grant) func(int) error {
		g := grants[0]
		create(b, store, g)
		if _, err := store.ConsumeConsentGrant(context.Background(), present(g)); err != nil {
			b.Fatal(err)
		}
		return func(int) error {
			if _, err := store.ConsumeConsentGrant(context.Background(), present(g)); err == nil {
				return fmt.Errorf("consumed twice")
			}
			return nil
		}
	})
}

func benchmark(b *testing.B, setUp func(*testing.B, *pgstore.Store, []*fositeconsent.Grant) func(int) error) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			pool := pgtest.Pool(b, withConns(int32(workers)))
			migrate(b, pool, pgstore.Config{})
			store := newStore(b, pool, pgstore.Config{})
			grants := make([]*fositeconsent.Grant, b.N)
			for i := range grants {
				grants[i] = newGrant()
			}
			f := setUp(b, store, grants)
			b.ReportAllocs()
			b.ResetTimer()
			parallel(b, workers, f)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// parallel calls f for each number below b.N, from as many goroutines.
func parallel(b *testing.B, workers int, f func(int) error) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				if err := f(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
