package pgstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi/consentapitest"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

func requestStorages(db pgstore.DB) func(testing.TB, consenttest.Options) consentapi.RequestStorage {
	return func(t testing.TB, o consenttest.Options) consentapi.RequestStorage { return consentStorages(db)(t, o) }
}

func TestStoreKeepsTheContractOfConsentRequestsInEveryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			consentapitest.Run(t, requestStorages(migrated(t, pgstore.Config{}, withMode(mode), withConns(16))))
		})
	}
}

func newRequest() *consentapi.Request {
	r := &consentapi.Request{ID: newID(), Subject: "alice", ClientID: "photo-printer", LoginSession: "login", Document: []byte(`{"ticket":"…"}`), Lifespan: time.Minute}
	fill(r.Challenge[:])
	fill(r.Browser[:])
	return r
}

// accepted creates a request that is accepted.
func accepted(t testing.TB, store *pgstore.Store) (*consentapi.Request, *consentapi.Answer) {
	t.Helper()
	r, a := newRequest(), &consentapi.Answer{Accepted: true, Document: []byte("{}")}
	fill(a.Digest[:])
	fill(a.Verifier[:])
	if err := store.CreateConsentRequest(testContext(t), r); err != nil {
		t.Fatal(err)
	}
	if _, err := store.AnswerConsentRequest(testContext(t), r.ID, r.Challenge, a); err != nil {
		t.Fatal(err)
	}
	return r, a
}

func wantRequestState(t testing.TB, store *pgstore.Store, r *consentapi.Request, want consentapi.State) {
	t.Helper()
	got, err := store.FindConsentRequest(testContext(t), r.ID, r.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != want {
		t.Errorf("the state is %q, want %q", got.State, want)
	}
}

func TestAUseIsAPartOfTheTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	store := newStore(t, pool, pgstore.Config{})
	transactions, err := pgstore.NewTransactions(pool, pgstore.TransactionConfig{})
	if err != nil {
		t.Fatal(err)
	}
	begin := func(t *testing.T) context.Context {
		ctx, err := transactions.BeginTX(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		return ctx
	}
	t.Run("one that is rolled back was none", func(t *testing.T) {
		r, a := accepted(t, store)
		ctx := begin(t)
		if err := store.UseConsentRequest(ctx, r.ID, a.Verifier, r.Browser); err != nil {
			t.Fatal(err)
		}
		if err := transactions.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		wantRequestState(t, store, r, consentapi.StateAccepted)
		if err := store.UseConsentRequest(testContext(t), r.ID, a.Verifier, r.Browser); err != nil {
			t.Error(err)
		}
	})
	t.Run("a second one waits, and wins if the first is rolled back", func(t *testing.T) {
		r, a := accepted(t, store)
		ctx := begin(t)
		if err := store.UseConsentRequest(ctx, r.ID, a.Verifier, r.Browser); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() { second <- store.UseConsentRequest(testContext(t), r.ID, a.Verifier, r.Browser) }()
		waiting(t, pool, 1)
		if err := transactions.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
	t.Run("a second one waits, and loses if the first is committed", func(t *testing.T) {
		r, a := accepted(t, store)
		ctx := begin(t)
		if err := store.UseConsentRequest(ctx, r.ID, a.Verifier, r.Browser); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() { second <- store.UseConsentRequest(testContext(t), r.ID, a.Verifier, r.Browser) }()
		waiting(t, pool, 1)
		if err := transactions.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-second; !errors.Is(err, consentapi.ErrRequestUsed) {
			t.Error(err)
		}
	})
	t.Run("a revocation waits for one that is under way", func(t *testing.T) {
		for _, commit := range []bool{true, false} {
			r, a := accepted(t, store)
			ctx := begin(t)
			if err := store.UseConsentRequest(ctx, r.ID, a.Verifier, r.Browser); err != nil {
				t.Fatal(err)
			}
			type revoked struct {
				n   int
				err error
			}
			done := make(chan revoked, 1)
			go func() {
				n, err := store.RevokeConsentRequests(testContext(t), fositeconsent.Selection{Subject: r.Subject, ConsentID: r.ID})
				done <- revoked{n, err}
			}()
			waiting(t, pool, 1)
			end, want, state := transactions.Rollback, 1, consentapi.StateRevoked
			if commit {
				end, want, state = transactions.Commit, 0, consentapi.StateUsed
			}
			if err := end(ctx); err != nil {
				t.Fatal(err)
			}
			if got := <-done; got.n != want || got.err != nil {
				t.Errorf("committed %v: revoked %d, %v, want %d", commit, got.n, got.err, want)
			}
			wantRequestState(t, store, r, state)
		}
	})
	t.Run("one of a lost race under snapshot isolation is an error and no reason", func(t *testing.T) {
		r, a := accepted(t, store)
		conn, err := pool.Acquire(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		exec(t, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ")
		exec(t, conn, "SELECT count(*) FROM public.consent_requests") // the snapshot
		if err := store.UseConsentRequest(testContext(t), r.ID, a.Verifier, r.Browser); err != nil {
			t.Fatal(err)
		}
		inside := newStore(t, conn, pgstore.Config{})
		err = inside.UseConsentRequest(testContext(t), r.ID, a.Verifier, r.Browser)
		for _, reason := range []error{nil, consentapi.ErrRequestNotFound, consentapi.ErrRequestUsed, consentapi.ErrRequestExpired} {
			if errors.Is(err, reason) {
				t.Errorf("got %v", err)
			}
		}
		exec(t, conn, "ROLLBACK")
	})
}

func TestConsentRequestsAreSweptAfterTheirRetention(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	store := newStore(t, pool, config)
	sweeper, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{Tables: config, BatchSize: 3})
	if err != nil {
		t.Fatal(err)
	}
	var abandoned []*consentapi.Request
	for range 10 {
		r := newRequest()
		if err := store.CreateConsentRequest(testContext(t), r); err != nil {
			t.Fatal(err)
		}
		abandoned = append(abandoned, r)
	}
	done, a := accepted(t, store)
	if err := store.UseConsentRequest(testContext(t), done.ID, a.Verifier, done.Browser); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Minute + minRetention - time.Millisecond)
	if n, err := sweeper.Sweep(testContext(t)); n != 0 || err != nil {
		t.Errorf("before the retention is over: swept %d, %v", n, err)
	}
	wantRequestState(t, store, abandoned[0], consentapi.StateExpired)
	wantRequestState(t, store, done, consentapi.StateUsed)
	clock.advance(time.Millisecond)
	if n, err := sweeper.Sweep(testContext(t)); n != 11 || err != nil {
		t.Errorf("swept %d, %v, want 11", n, err)
	}
	if _, err := store.FindConsentRequest(testContext(t), done.ID, done.Challenge); !errors.Is(err, consentapi.ErrRequestNotFound) {
		t.Error(err)
	}
}

func TestNoIndexHoldsWhatIsWrittenToAConsentRequestLater(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	var indexed bool
	err := pool.QueryRow(testContext(t), `
SELECT EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
               WHERE i.indrelid = 'public.consent_requests'::regclass
                 AND (a.attname IN ('answered_at', 'accepted', 'answer_digest', 'verifier_hash', 'answer', 'used_at', 'revoked_at') OR i.indpred IS NOT NULL))`).Scan(&indexed)
	if err != nil || indexed {
		t.Errorf("an index holds what is written later, or depends on it: %v, %v", indexed, err)
	}
}

// Whoever revokes consents, by whatever way, also ends the answers that have not led to a response.
func TestARevocationEndsAnswersThatWereNotUsed(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	ctx := testContext(t)
	for _, c := range []struct {
		name  string
		of    func(*consentapi.Request) fositeconsent.Selection
		fails error
		want  consentapi.State
	}{
		{"by subject", func(r *consentapi.Request) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: r.Subject}
		}, nil, consentapi.StateRevoked},
		{"by client", func(r *consentapi.Request) fositeconsent.Selection {
			return fositeconsent.Selection{ClientID: r.ClientID}
		}, nil, consentapi.StateRevoked},
		{"of another client", func(r *consentapi.Request) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: r.Subject, ClientID: "another"}
		}, nil, consentapi.StateAccepted},
		{"of another ID", func(r *consentapi.Request) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: r.Subject, ConsentID: newID()}
		}, nil, consentapi.StateAccepted},
		{"that fails", func(r *consentapi.Request) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: r.Subject}
		}, errUndone, consentapi.StateAccepted},
	} {
		r, _ := accepted(t, store)
		consent := newConsent() // so that revoke is called, and can fail
		consent.Subject, consent.ClientID = r.Subject, r.ClientID
		record(t, store, approval(consent))
		selection := c.of(r)
		selection.Issuer = consent.Issuer
		_, err := store.RevokeConsents(ctx, selection, func(context.Context, fositeconsent.Ended) error { return c.fails })
		if !errors.Is(err, c.fails) {
			t.Errorf("%s: %v", c.name, err)
		}
		if wantRequestState(t, store, r, c.want); t.Failed() {
			t.Fatalf("so it was with one %s", c.name)
		}
		if _, err := store.RevokeConsents(ctx, fositeconsent.Selection{Issuer: consent.Issuer, Subject: r.Subject}, func(context.Context, fositeconsent.Ended) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
}
