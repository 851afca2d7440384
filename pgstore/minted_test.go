package pgstore_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// A grant that its own transaction minted is consumed as one that the database has: with the
// same answers, whether it was sent already or not.
func TestAGrantOfTheSameTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	for name, mint := range map[string]func(context.Context, *fositeconsent.Grant) error{
		"queued": store.CreateConsentGrant,
		"sent": func(ctx context.Context, g *fositeconsent.Grant) error {
			if err := store.CreateConsentGrant(ctx, g); err != nil {
				return err
			}
			_, err := txs.DB(ctx).Exec(ctx, "SELECT")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := begin(t, txs)
			consume := func(p fositeconsent.Presentation, want error) *fositeconsent.Grant {
				t.Helper()
				got, err := store.ConsumeConsentGrant(ctx, p)
				if !errors.Is(err, want) || (err == nil) != (want == nil) {
					t.Fatalf("got %v, want %v", err, want)
				}
				return got
			}
			changed := func(g *fositeconsent.Grant, change func(*fositeconsent.Presentation)) fositeconsent.Presentation {
				p := present(g)
				change(&p)
				return p
			}
			for what, refused := range map[string]struct {
				change func(*fositeconsent.Grant)
				p      func(*fositeconsent.Presentation)
				want   error
			}{
				"a denial":       {func(g *fositeconsent.Grant) { g.Denied = true }, func(*fositeconsent.Presentation) {}, fositeconsent.ErrGrantNotFound},
				"another secret": {func(*fositeconsent.Grant) {}, func(p *fositeconsent.Presentation) { p.SecretHash[0] ^= 1 }, fositeconsent.ErrGrantNotFound},
				"another id":     {func(*fositeconsent.Grant) {}, func(p *fositeconsent.Presentation) { p.ID = newID() }, fositeconsent.ErrGrantNotFound},
				"another binding": {func(*fositeconsent.Grant) {}, func(p *fositeconsent.Presentation) { p.Binding[0] ^= 1 },
					fositeconsent.ErrBindingMismatch},
			} {
				g := newGrant()
				refused.change(g)
				if err := mint(ctx, g); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				consume(changed(g, refused.p), refused.want)
			}

			g := newGrant()
			g.Scopes, g.Audience, g.Data = []string{"b", "a"}, []string{"api"}, []byte("data")
			scopes := slices.Clone(g.Scopes)
			if err := mint(ctx, g); err != nil {
				t.Fatal(err)
			}
			g.Scopes[0], g.Data[0] = "changed", 'x' // a storage keeps no argument
			p := present(g)
			got := consume(p, nil)
			if !slices.Equal(got.Scopes, scopes) || string(got.Data) != "data" || got.Subject != g.Subject || got.ClientID != g.ClientID || got.Lifespan != 0 {
				t.Errorf("consumed as %+v", got)
			}
			got.Scopes[0] = "changed" // nor what it returned
			again := changed(g, func(q *fositeconsent.Presentation) { q.Attempt = newAttempt() })
			consume(again, fositeconsent.ErrGrantConsumed)
			if got := consume(p, nil); !slices.Equal(got.Scopes, scopes) {
				t.Errorf("asked again, the scopes are %q", got.Scopes)
			}
			if err := txs.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := store.ConsumeConsentGrant(testContext(t), again); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
				t.Errorf("after the commit: %v", err)
			}
		})
	}
}

// A grant that is there already, of the same secret, is not spent by the mint that finds it.
func TestAnEarlierGrantOfTheSameSecretIsNotSpent(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	g := newGrant()
	create(t, store, g)
	ctx := begin(t, txs)
	if err := store.CreateConsentGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
		t.Fatal(err)
	}
	if err := txs.Commit(ctx); !errors.Is(err, fositeconsent.ErrAlreadyDecided) {
		t.Errorf("the commit returned %v", err)
	}
	if consumed(t, store, g) {
		t.Error("the grant was spent")
	}
}

// Whose mint comes second is told by whatever sends it, and nothing of its transaction
// takes effect.
func TestASecondMintFailsWhatItWasSentWith(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	const alone = "the commit, alone"
	for name, end := range map[string]func(context.Context) error{
		alone:        txs.Commit,
		"the commit": txs.Commit,
		"a statement": func(ctx context.Context) error {
			_, err := txs.DB(ctx).Exec(ctx, "CREATE TABLE public.never (i int)")
			return errors.Join(err, txs.Rollback(ctx))
		},
		"another consume": func(ctx context.Context) error {
			_, err := store.ConsumeConsentGrant(ctx, present(newGrant()))
			return errors.Join(err, txs.Rollback(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := newGrant()
			create(t, store, first)
			ctx := begin(t, txs)
			second, other := newGrant(), newGrant()
			second.ID = first.ID
			if err := store.CreateConsentGrant(ctx, second); err != nil {
				t.Fatal(err)
			}
			if name != alone {
				if err := store.CreateConsentGrant(ctx, other); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := store.ConsumeConsentGrant(ctx, present(second)); err != nil {
				t.Fatal(err)
			}
			if err := end(ctx); !errors.Is(err, fositeconsent.ErrAlreadyDecided) {
				t.Errorf("the second mint ended with %v", err)
			}
			if consumed(t, store, first) {
				t.Error("the first grant was spent by the second one's transaction")
			}
			if _, err := store.ConsumeConsentGrant(testContext(t), present(other)); !errors.Is(err, fositeconsent.ErrGrantNotFound) {
				t.Errorf("what was queued behind the second mint: %v", err)
			}
		})
	}
	var never bool
	if err := pool.QueryRow(testContext(t), "SELECT to_regclass('public.never') IS NOT NULL").Scan(&never); err != nil {
		t.Fatal(err)
	}
	if never {
		t.Error("a statement behind the second mint took effect")
	}
}

// A commit whose answer is lost is known by the grant that its own transaction minted, too.
func TestALostCommitIsKnownByTheGrantThatItMinted(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	proxy, through := pgtest.ProxyTo(t, database)
	pool := pgtest.PoolAt(t, through, withConns(1))
	migrate(t, pool, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	ctx, g := begin(t, txs), newGrant()
	if err := store.CreateConsentGrant(ctx, g); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ConsumeConsentGrant(ctx, present(g)); err != nil {
		t.Fatal(err)
	}
	if _, err := txs.DB(ctx).Exec(ctx, "SELECT"); err != nil { // of the host's
		t.Fatal(err)
	}
	cut := proxy.CutAfter(pgtest.ToClient, 0)
	if err := txs.Commit(ctx); err != nil {
		t.Errorf("Commit: %v", err)
	}
	<-cut
	if !consumed(t, store, g) {
		t.Error("the grant is unspent")
	}
}

// A call whose context is over changes nothing, also where it would send nothing.
func TestWhatIsQueuedTooLateIsNotQueued(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	ctx := begin(t, txs)
	over, cancel := context.WithCancel(ctx)
	cancel()
	first, second := newGrant(), newGrant()
	if err := store.CreateConsentGrant(ctx, first); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ConsumeConsentGrant(over, present(first)); !errors.Is(err, context.Canceled) {
		t.Errorf("consume: %v", err)
	}
	if err := store.CreateConsentGrant(over, second); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if err := txs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if consumed(t, store, first) {
		t.Error("the grant was spent")
	}
	if _, err := store.ConsumeConsentGrant(testContext(t), present(second)); !errors.Is(err, fositeconsent.ErrGrantNotFound) {
		t.Errorf("the second grant: %v", err)
	}
}
