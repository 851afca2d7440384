package fositestore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// answers is one page that is answered, each time with a code of its own.
type answers struct {
	*family
	grants *pgstore.Store
	id     fositeconsent.ID
}

func newAnswers(t *testing.T) *answers { return newAnswersAt(t, pgstore.Config{}) }

func newAnswersAt(t *testing.T, tables pgstore.Config, configure ...func(*pgxpool.Config)) *answers {
	configure = append([]func(*pgxpool.Config){withConns(8)}, configure...)
	a := &answers{family: newFamilyAt(t, migrated(t, tables, configure...), tables)}
	var err error
	a.grants, err = pgstore.New(a.pool, tables)
	a.ok(err)
	_, _ = rand.Read(a.id[:])
	return a
}

// answer does in a transaction what Protect does for an approval. What between does comes after
// the grant was consumed.
func (a *answers) answer(n int, between func(context.Context) error) error {
	ctx, err := a.store.BeginTX(testContext(a))
	a.ok(err)
	g := &fositeconsent.Grant{
		ID: a.id, Binding: fositeconsent.Digest{1}, Subject: "user", ClientID: "app", Scopes: []string{"photos"}, Lifespan: time.Minute,
	}
	_, _ = rand.Read(g.SecretHash[:])
	var attempt fositeconsent.Attempt
	_, _ = rand.Read(attempt[:])
	err = func() error {
		if err := a.grants.CreateConsentGrant(ctx, g); err != nil {
			return err
		}
		if _, err := a.grants.ConsumeConsentGrant(ctx, fositeconsent.Presentation{ID: g.ID, SecretHash: g.SecretHash, Binding: g.Binding, Attempt: attempt}); err != nil {
			return err
		}
		if err := between(ctx); err != nil {
			return err
		}
		// The kinds of response, with a code and with a token.
		if err := a.store.CreateAuthorizeCodeSession(ctx, fmt.Sprint("code ", n), a.r); err != nil {
			return err
		}
		if err := a.store.CreatePKCERequestSession(ctx, fmt.Sprint("code ", n), a.r); err != nil {
			return err
		}
		if err := a.store.CreateAccessTokenSession(ctx, fmt.Sprint("access of ", n), a.r); err != nil {
			return err
		}
		return a.store.Commit(ctx)
	}()
	return errors.Join(err, a.store.Rollback(ctx))
}

func (a *answers) responses() (codes, tokens int) {
	a.Helper()
	a.ok(a.pool.QueryRow(testContext(a), `SELECT (SELECT count(*) FROM public.consent_codes), (SELECT count(*) FROM public.consent_access_tokens)`).
		Scan(&codes, &tokens))
	return codes - 1, tokens - 1 // without the family's own
}

// However often a page is answered at once, one answer is the first, and what was to be
// issued for the others is not stored.
func TestOneAnswerIsTheFirst(t *testing.T) {
	t.Parallel()
	const n = 12
	for name, between := range map[string]func(*answers) func(context.Context) error{
		"in one round trip": func(*answers) func(context.Context) error {
			return func(context.Context) error { return nil }
		},
		"in a transaction that was begun": func(a *answers) func(context.Context) error {
			return func(ctx context.Context) error {
				_, err := a.store.DB(ctx).Exec(ctx, "SELECT")
				return err
			}
		},
		"with a statement that does not depend on it": func(a *answers) func(context.Context) error {
			return func(ctx context.Context) error { return a.store.CreatePKCERequestSession(ctx, "code", a.r) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAnswers(t)
			results := make(chan error, n)
			var ready, start sync.WaitGroup
			start.Add(1)
			for i := range n {
				ready.Add(1)
				go func() {
					ready.Done()
					start.Wait()
					results <- a.answer(i, between(a))
				}()
			}
			ready.Wait()
			start.Done()
			won := 0
			for range n {
				switch err := <-results; {
				case err == nil:
					won++
				case !errors.Is(err, fositeconsent.ErrAlreadyDecided):
					t.Error(err)
				}
			}
			if codes, tokens := a.responses(); won != 1 || codes != 1 || tokens != 1 {
				t.Errorf("%d answers were accepted, with %d codes and %d tokens", won, codes, tokens)
			}
		})
	}
}

// A transaction in which a mint came second is not committed, whoever it was that was told
// and did not mind.
func TestASecondAnswerIsNotForgotten(t *testing.T) {
	t.Parallel()
	a := newAnswers(t)
	exec(t, a.pool, "CREATE TABLE public.responses (n int)")
	respond := func(n int) error {
		return a.answer(n, func(ctx context.Context) error {
			_, _ = a.store.DB(ctx).Exec(ctx, "SELECT")
			_, err := a.store.DB(ctx).Exec(ctx, "INSERT INTO public.responses VALUES ($1)", n) // a storage of the host's
			a.ok(err)
			return a.store.Commit(ctx)
		})
	}
	_ = respond(1) // committed, after which answer can do nothing more
	if err := respond(2); !errors.Is(err, fositeconsent.ErrAlreadyDecided) {
		t.Errorf("the second answer: %v", err)
	}
	var n int
	a.ok(a.pool.QueryRow(testContext(t), "SELECT count(*) FROM public.responses").Scan(&n))
	if n != 1 {
		t.Errorf("%d responses, want 1", n)
	}
}

// What is committed at once is all or nothing, also what does not depend on what has lost.
func TestWhatLosesTakesEverythingAlong(t *testing.T) {
	t.Parallel()
	a := newAnswers(t)
	a.ok(a.redeem(testContext(t)))
	other := *a.r
	other.ID = "of another family, which a reuse does not end"
	for name, do := range map[string]func(context.Context) error{
		"before": func(ctx context.Context) error {
			return errors.Join(a.store.CreateAccessTokenSession(ctx, "before", &other), a.redeem(ctx))
		},
		"beside": func(ctx context.Context) error {
			return errors.Join(a.store.CreatePKCERequestSession(ctx, "none", a.r), a.store.CreateAccessTokenSession(ctx, "beside", &other))
		},
	} {
		ctx, err := a.store.BeginTX(testContext(t))
		a.ok(err)
		a.ok(do(ctx))
		if err := a.store.Commit(ctx); err == nil {
			t.Errorf("%s: it was committed", name)
		}
		if _, err := a.store.GetAccessTokenSession(testContext(t), name, nil); !errors.Is(err, fosite.ErrNotFound) {
			t.Errorf("the token %s what failed: %v", name, err)
		}
	}
}

// The mint is put off in a transaction, and Check has to have tried the table all the same.
func TestCheckTriesTheGrantsTable(t *testing.T) {
	t.Parallel()
	a := newAnswers(t)
	gate, err := fositeconsent.NewGate(a.grants, fositeconsent.Config{Issuer: "https://as.example"})
	a.ok(err)
	config := &fosite.Config{GlobalSecret: []byte("a secret of this test, of 32 bytes")}
	strategy := &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(config)}
	_, err = gate.Protect(compose.Compose(config, a.store, strategy, gate.Factory, compose.OAuth2AuthorizeExplicitFactory))
	a.ok(err)
	a.ok(gate.Check(testContext(t), a.r.Client, a.r.Session))
	_, err = a.pool.Exec(testContext(t), "DROP TABLE consent_grants")
	a.ok(err)
	if err := gate.Check(testContext(t), a.r.Client, a.r.Session); err == nil || errors.Is(err, fositeconsent.ErrNotAtomic) {
		t.Errorf("without its table: %v", err)
	}
}
