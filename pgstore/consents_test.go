package pgstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

const issuer = "https://as.example"

// newConsent is one of a subject of its own.
func newConsent() *fositeconsent.Consent {
	return &fositeconsent.Consent{
		ID: newID(), Issuer: issuer, Subject: rand.Text(), ClientID: "photo-printer",
		Scopes: []string{"photos.read"}, RememberedScopes: []string{"photos.read"}, ResponseTypes: []string{"code"}, Shown: fositeconsent.Digest{1}, Remembered: true,
	}
}

// grantOf is a grant of the same resource owner, client and ID.
func grantOf(c *fositeconsent.Consent) *fositeconsent.Grant {
	g := newGrant()
	g.ID, g.Subject, g.ClientID = c.ID, c.Subject, c.ClientID
	return g
}

// another is a second consent of the same resource owner.
func another(c *fositeconsent.Consent) *fositeconsent.Consent {
	d := *c
	d.ID = newID()
	return &d
}

func of(c *fositeconsent.Consent) fositeconsent.Selection {
	return fositeconsent.Selection{Issuer: c.Issuer, Subject: c.Subject}
}

func approval(c *fositeconsent.Consent) *fositeconsent.Response {
	return &fositeconsent.Response{RequestID: rand.Text(), Approval: c}
}

func silent(consents ...*fositeconsent.Consent) *fositeconsent.Response {
	r := &fositeconsent.Response{RequestID: rand.Text()}
	for _, c := range consents {
		r.ConsentIDs = append(r.ConsentIDs, c.ID)
	}
	return r
}

func record(t testing.TB, store *pgstore.Store, r *fositeconsent.Response) string {
	t.Helper()
	if err := store.RecordResponse(testContext(t), r); err != nil {
		t.Fatal(err)
	}
	return r.RequestID
}

// revoke revokes and returns what was to be ended.
func revoke(t testing.TB, store *pgstore.Store, selection fositeconsent.Selection) (ended int, requestIDs []string) {
	t.Helper()
	ended, err := store.RevokeConsents(testContext(t), selection, func(_ context.Context, handed fositeconsent.Ended) error {
		requestIDs = append(requestIDs, handed.RequestIDs...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ended, requestIDs
}

// revoking is a revocation that stops where it ends what was issued, if there is any.
type revoking struct {
	*call
	entered chan []string
	end     chan error
	all     []string
}

func startRevoke(t testing.TB, pool *pgxpool.Pool, selection fositeconsent.Selection) *revoking {
	t.Helper()
	r := &revoking{entered: make(chan []string), end: make(chan error)}
	r.call = start(t, pool, "", func(ctx context.Context, s *pgstore.Store) error {
		_, err := s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
			select {
			case r.entered <- ended.RequestIDs:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case err := <-r.end:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return err
	})
	return r
}

// blocked is as for every call. One that is not held up gets as far as ending what was issued.
func (r *revoking) blocked() *revoking {
	r.t.Helper()
	ctx := testContext(r.t)
	for {
		var waits bool
		if err := r.pool.QueryRow(ctx, "SELECT cardinality(pg_blocking_pids($1)) > 0", r.pid).Scan(&waits); err != nil {
			r.t.Fatal(err)
		}
		if waits {
			return r
		}
		select {
		case r.all = <-r.entered:
			r.end <- nil
			r.t.Fatalf("the revocation did not wait, and has seen %v", r.all)
		case err := <-r.result:
			r.result <- err
			r.t.Fatalf("the revocation did not wait: %v", err)
		default:
		}
	}
}

// reached waits until the revocation ends what was issued.
func (r *revoking) reached() *revoking {
	r.t.Helper()
	select {
	case r.all = <-r.entered:
	case err := <-r.result:
		r.result <- err
		r.t.Fatalf("the revocation found nothing that was issued: %v", err)
	}
	return r
}

// finish ends it with the error.
func (r *revoking) finish(err error) {
	r.t.Helper()
	r.end <- err
	if got := r.wait(); !errors.Is(got, err) {
		r.t.Fatalf("the revocation ended with %v, want %v", got, err)
	}
}

var errUndone = errors.New("revoking has failed")

// issuing are the calls that a revocation may meet. Each has what it needs prepared, and then
// is made once.
type issuing struct {
	name string
	// prepare returns the call, and the RequestID that it may lead to.
	prepare func(t testing.TB, pool *pgxpool.Pool, base *fositeconsent.Consent) (do func(context.Context, *pgstore.Store) error, requestID string)
	refused error // by a revocation that came first
	records bool
}

func allIssuing() []issuing {
	return []issuing{
		{"a response under remembered consents", func(t testing.TB, pool *pgxpool.Pool, base *fositeconsent.Consent) (func(context.Context, *pgstore.Store) error, string) {
			r := silent(base)
			return func(ctx context.Context, s *pgstore.Store) error { return s.RecordResponse(ctx, r) }, r.RequestID
		}, fositeconsent.ErrConsentRevoked, true},
		{"a grant of before, consumed and recorded", func(t testing.TB, pool *pgxpool.Pool, base *fositeconsent.Consent) (func(context.Context, *pgstore.Store) error, string) {
			c := another(base)
			g, r := grantOf(c), approval(c)
			create(t, newStore(t, pool, pgstore.Config{}), g)
			return func(ctx context.Context, s *pgstore.Store) error {
				if _, err := s.ConsumeConsentGrant(ctx, present(g)); err != nil {
					return err
				}
				return s.RecordResponse(ctx, r)
			}, r.RequestID
		}, fositeconsent.ErrGrantRevoked, true},
		{"a grant of before, recorded after it was consumed", func(t testing.TB, pool *pgxpool.Pool, base *fositeconsent.Consent) (func(context.Context, *pgstore.Store) error, string) {
			c := another(base)
			g, r := grantOf(c), approval(c)
			store := newStore(t, pool, pgstore.Config{})
			create(t, store, g)
			if _, err := store.ConsumeConsentGrant(testContext(t), present(g)); err != nil {
				t.Fatal(err)
			}
			return func(ctx context.Context, s *pgstore.Store) error { return s.RecordResponse(ctx, r) }, r.RequestID
		}, fositeconsent.ErrConsentRevoked, true},
		{"a check of a response", func(t testing.TB, pool *pgxpool.Pool, base *fositeconsent.Consent) (func(context.Context, *pgstore.Store) error, string) {
			requestID := record(t, newStore(t, pool, pgstore.Config{}), silent(base))
			return func(ctx context.Context, s *pgstore.Store) error { return s.CheckResponse(ctx, requestID) }, requestID
		}, fositeconsent.ErrConsentRevoked, false},
	}
}

// Whatever meets a revocation either is seen by it, or is refused: in every order, at every
// isolation level, and whatever the database's own default is.
func TestWhatMeetsARevocation(t *testing.T) {
	t.Parallel()
	for _, standard := range []string{"read committed", "serializable"} {
		pool := migrated(t, pgstore.Config{}, withConns(40), func(c *pgxpool.Config) {
			c.ConnConfig.RuntimeParams["default_transaction_isolation"] = standard
		})
		store := newStore(t, pool, pgstore.Config{})
		for _, do := range allIssuing() {
			for _, level := range []pgx.TxIsoLevel{"", pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
				name := fmt.Sprintf("%s at level %q of a database at %s", do.name, level, standard)
				isSnapshot := level == pgx.RepeatableRead || level == pgx.Serializable || level == "" && standard == "serializable"
				prepare := func(t *testing.T) (*fositeconsent.Consent, func(context.Context, *pgstore.Store) error, string) {
					t.Helper()
					base := newConsent()
					record(t, store, approval(base))
					f, requestID := do.prepare(t, pool, base)
					return base, f, requestID
				}

				for _, end := range []bool{commit, rollback} {
					if level == "" {
						continue // nothing of it can be held open
					}
					t.Run(fmt.Sprintf("%s, first, commit=%v", name, end), func(t *testing.T) {
						t.Parallel()
						base, f, requestID := prepare(t)
						tx, err := pool.BeginTx(testContext(t), pgx.TxOptions{IsoLevel: level})
						if err != nil {
							t.Fatal(err)
						}
						defer func() { _ = tx.Rollback(context.Background()) }()
						if err := f(testContext(t), newStore(t, tx, pgstore.Config{})); err != nil {
							t.Fatal(err)
						}
						r := startRevoke(t, pool, of(base))
						r.blocked()
						(&holder{t: t, tx: tx}).end(end)
						seen := slices.Contains(r.reached().all, requestID)
						if want := end == commit || !do.records; seen != want {
							t.Errorf("the revocation has seen it: %v, want %v", seen, want)
						}
						r.finish(nil)
						want := fositeconsent.ErrConsentRevoked
						if end == rollback && do.records {
							want = nil // nothing is known of it
						}
						if err := store.CheckResponse(testContext(t), requestID); !errors.Is(err, want) || (err == nil) != (want == nil) {
							t.Errorf("after the revocation it is checked with %v, want %v", err, want)
						}
					})
				}

				for _, end := range []error{nil, errUndone} {
					t.Run(fmt.Sprintf("%s, second, the first ends with %v", name, end), func(t *testing.T) {
						t.Parallel()
						base, f, requestID := prepare(t)
						r := startRevoke(t, pool, of(base)).reached()
						second := start(t, pool, level, f)
						second.blocked()
						r.finish(end)
						switch {
						case end != nil:
							second.want(nil)
							if ended, ids := revoke(t, store, of(base)); ended == 0 || !slices.Contains(ids, requestID) {
								t.Errorf("revoked again, %d consents ended with the responses %v", ended, ids)
							}
						case isSnapshot:
							second.wantSQLState("40001")
						default:
							second.want(do.refused)
						}
						if end == nil {
							// Once more, when there is nothing to wait for.
							start(t, pool, "", f).want(do.refused)
						}
					})
				}

				if level == pgx.RepeatableRead || level == pgx.Serializable {
					t.Run(name+", in a transaction that does not see the revocation", func(t *testing.T) {
						t.Parallel()
						base, f, _ := prepare(t)
						tx, err := pool.BeginTx(testContext(t), pgx.TxOptions{IsoLevel: level})
						if err != nil {
							t.Fatal(err)
						}
						defer func() { _ = tx.Rollback(context.Background()) }()
						old := newStore(t, tx, pgstore.Config{})
						if found, err := old.FindConsents(testContext(t), base.Issuer, base.Subject, base.ClientID); len(found) != 1 || err != nil {
							t.Fatalf("found %v, %v", found, err)
						}
						revoke(t, store, of(base))
						(&call{t: t, err: f(testContext(t), old), done: true}).wantSQLState("40001")
					})
				}
			}
		}
	}
}

// The same in one round trip: what a transaction has queued, and the lock that it waits for.
func TestWhatIsQueuedMeetsARevocation(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(16))
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	for _, do := range allIssuing() {
		for _, begun := range []string{"in one piece", "in a transaction that was begun"} {
			for _, end := range []error{nil, errUndone} {
				t.Run(fmt.Sprintf("%s, %s, the revocation ends with %v", do.name, begun, end), func(t *testing.T) {
					base := newConsent()
					record(t, store, approval(base))
					f, requestID := do.prepare(t, pool, base)
					ctx := begin(t, txs)
					if begun != "in one piece" {
						if _, err := txs.DB(ctx).Exec(ctx, "SELECT"); err != nil {
							t.Fatal(err)
						}
					}
					r := startRevoke(t, pool, of(base)).reached()
					done := make(chan error, 1)
					go func() {
						err := f(ctx, store)
						if err == nil {
							err = txs.Commit(ctx)
						}
						done <- err
					}()
					waiting(t, pool, 1)
					r.finish(end)
					want := do.refused
					if end != nil {
						want = nil
					}
					if err := <-done; !errors.Is(err, want) || (err == nil) != (want == nil) {
						t.Errorf("got %v, want %v", err, want)
					}
					_ = txs.Rollback(ctx)
					if end == nil {
						return
					}
					if ended, ids := revoke(t, store, of(base)); ended == 0 || !slices.Contains(ids, requestID) {
						t.Errorf("revoked again, %d consents ended with the responses %v", ended, ids)
					}
				})
			}
		}
	}
}

// However many come after it, a revocation waits only for those that came before.
func TestARevocationIsNotOvertaken(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	for _, do := range allIssuing() {
		if strings.HasPrefix(do.name, "a grant") {
			continue // each is there for one
		}
		t.Run(do.name, func(t *testing.T) {
			t.Parallel()
			base := newConsent()
			record(t, newStore(t, pool, pgstore.Config{}), approval(base))
			before, _ := do.prepare(t, pool, base)
			after, _ := do.prepare(t, pool, base)
			h := hold(t, pool)
			if err := before(testContext(t), h.store); err != nil {
				t.Fatal(err)
			}
			r := startRevoke(t, pool, of(base))
			r.blocked()
			second := start(t, pool, "", after).blocked()
			h.end(commit)
			r.reached().finish(nil)
			second.want(do.refused)
		})
	}
}

// A consume that waited and lost has one of two reasons, and asks a second time for it.
func TestALoserLearnsWhetherItWasConsumedOrRevoked(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	for name, c := range map[string]struct {
		change func(*holder, *fositeconsent.Grant)
		want   error
	}{
		"consumed": {func(h *holder, g *fositeconsent.Grant) { h.consume(present(g)) }, fositeconsent.ErrGrantConsumed},
		"revoked": {func(h *holder, g *fositeconsent.Grant) {
			h.exec("UPDATE public.consent_grants SET revoked_at = statement_timestamp() WHERE id = $1", g.ID.String())
		}, fositeconsent.ErrGrantRevoked},
		"consumed, and then revoked": {func(h *holder, g *fositeconsent.Grant) {
			h.consume(present(g))
			h.exec("UPDATE public.consent_grants SET revoked_at = statement_timestamp() WHERE id = $1", g.ID.String())
		}, fositeconsent.ErrGrantConsumed},
	} {
		t.Run(name, func(t *testing.T) { // one waits at a time
			g := newGrant()
			create(t, newStore(t, pool, pgstore.Config{}), g)
			h := hold(t, pool)
			c.change(h, g)
			counts := make(chan int, 1)
			waiter := start(t, pool, "", func(ctx context.Context, s *pgstore.Store) error {
				conn, err := pgx.Connect(ctx, pool.Config().ConnString())
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close(context.Background()) }()
				db := &counting{DB: conn}
				_, err = newStore(t, db, pgstore.Config{}).ConsumeConsentGrant(ctx, present(g))
				counts <- db.calls
				return err
			})
			waiting(t, pool, 1)
			h.end(commit)
			waiter.want(c.want)
			if n := <-counts; n != 2 {
				t.Errorf("%d statements, want 2", n)
			}
		})
	}
}

// What comes from nobody's mint, and is minted anew, may come before a revocation or after it.
// What was there before ends.
func TestARevocationUnderLoadLeavesNothingOfBefore(t *testing.T) {
	t.Parallel()
	const each, rounds = 6, 12
	pool := migrated(t, pgstore.Config{}, withConns(24))
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	for range rounds {
		base := newConsent()
		record(t, store, approval(base))
		var mu sync.Mutex
		issued, seen := map[string]bool{}, map[string]bool{}
		note := func(set map[string]bool, ids ...string) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				set[id] = true
			}
		}
		var ready, all sync.WaitGroup
		var begun sync.WaitGroup
		begun.Add(1)
		for range each {
			for _, do := range allIssuing() {
				if !do.records {
					continue
				}
				f, requestID := do.prepare(t, pool, base)
				for _, inTransaction := range []bool{false, true} {
					if inTransaction == (do.name != "a response under remembered consents") {
						continue // a grant can be consumed once
					}
					ready.Add(1)
					all.Go(func() {
						ctx := testContext(t)
						ready.Done()
						begun.Wait()
						var err error
						if inTransaction {
							if ctx, err = txs.BeginTX(ctx); err == nil {
								err = f(ctx, store)
							}
							if err == nil {
								err = txs.Commit(ctx)
							}
							_ = txs.Rollback(ctx)
						} else {
							err = f(ctx, store)
						}
						switch {
						case err == nil:
							note(issued, requestID)
						case !errors.Is(err, fositeconsent.ErrConsentRevoked) && !errors.Is(err, fositeconsent.ErrGrantRevoked):
							t.Error(err)
						}
					})
				}
			}
		}
		ready.Wait()
		all.Go(func() {
			begun.Wait()
			_, err := store.RevokeConsents(testContext(t), of(base), func(_ context.Context, ended fositeconsent.Ended) error { note(seen, ended.RequestIDs...); return nil })
			if err != nil {
				t.Error(err)
			}
		})
		begun.Done()
		all.Wait()
		for requestID := range issued {
			if err := store.CheckResponse(testContext(t), requestID); !seen[requestID] || !errors.Is(err, fositeconsent.ErrConsentRevoked) {
				t.Errorf("a response outlived the revocation: seen by it: %v, checked with %v", seen[requestID], err)
			}
		}
	}
}

// In a transaction a revocation ends with that, and one that failed is not committed by
// whoever does not mind.
func TestRevokingInATransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	store := newStore(t, pool, pgstore.Config{})
	live := func(t *testing.T, c *fositeconsent.Consent, g *fositeconsent.Grant) bool {
		t.Helper()
		found, err := store.ListConsents(testContext(t), of(c), fositeconsent.ID{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.ConsumeConsentGrant(testContext(t), present(g))
		if (len(found) > 0) != (err == nil) || err != nil && !errors.Is(err, fositeconsent.ErrGrantRevoked) {
			t.Errorf("%d consents are live, and the grant is consumed with %v", len(found), err)
		}
		return len(found) > 0
	}
	prepare := func(t *testing.T) (*fositeconsent.Consent, *fositeconsent.Grant) {
		t.Helper()
		c := newConsent()
		g := grantOf(another(c))
		create(t, store, g)
		record(t, store, approval(c))
		return c, g
	}
	type transaction struct {
		ctx      context.Context
		commit   func() error
		rollback func() error
	}
	for name, open := range map[string]func(*testing.T, pgx.TxIsoLevel) transaction{
		"of Transactions": func(t *testing.T, level pgx.TxIsoLevel) transaction {
			txs := newTransactions(t, pool, pgstore.TransactionConfig{Isolation: level})
			ctx := begin(t, txs)
			return transaction{ctx, func() error { return txs.Commit(ctx) }, func() error { return txs.Rollback(ctx) }}
		},
		"of the host's": func(t *testing.T, level pgx.TxIsoLevel) transaction {
			tx, err := pool.BeginTx(testContext(t), pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
			ctx := testContext(t)
			return transaction{pgstore.WithTx(ctx, tx), func() error { return tx.Commit(ctx) }, func() error { return tx.Rollback(ctx) }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, end := range []bool{commit, rollback} {
				c, g := prepare(t)
				tx := open(t, pgx.ReadCommitted)
				n, err := store.RevokeConsents(tx.ctx, of(c), func(ctx context.Context, handed fositeconsent.Ended) error {
					ids := handed.RequestIDs
					if len(ids) != 1 {
						t.Errorf("the responses %v", ids)
					}
					// In the same transaction, where it is revoked already.
					if err := store.CheckResponse(ctx, ids[0]); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
						t.Errorf("inside of it: %v", err)
					}
					return nil
				})
				if n != 1 || err != nil {
					t.Fatalf("ended %d, %v", n, err)
				}
				if end == commit {
					err = tx.commit()
				} else {
					err = tx.rollback()
				}
				if err != nil {
					t.Fatal(err)
				}
				if live(t, c, g) == (end == commit) {
					t.Errorf("commit=%v has not decided", end)
				}
			}

			for what, revoke := range map[string]func(context.CancelFunc) error{
				"fails":                       func(context.CancelFunc) error { return errUndone },
				"fails, and is given up":      func(cancel context.CancelFunc) error { cancel(); return errUndone },
				"is given up when it is done": func(cancel context.CancelFunc) error { cancel(); return nil },
			} {
				c, g := prepare(t)
				tx := open(t, pgx.ReadCommitted)
				ctx, cancel := context.WithCancel(tx.ctx)
				defer cancel()
				_, err := store.RevokeConsents(ctx, of(c), func(context.Context, fositeconsent.Ended) error { return revoke(cancel) })
				if strings.HasPrefix(what, "fails") && !errors.Is(err, errUndone) {
					t.Errorf("what %s: %v", what, err)
				}
				// By a host that does not mind, and has more to commit.
				if commit := tx.commit(); commit != nil && name == "of the host's" {
					t.Errorf("what %s took everything along: %v", what, commit)
				}
				if live(t, c, g) != (err != nil) {
					t.Errorf("what %s ended with %v, and took effect: %v", what, err, err != nil)
				}
			}

			for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
				c, g := prepare(t)
				tx := open(t, level)
				_, err := store.RevokeConsents(tx.ctx, of(c), func(context.Context, fositeconsent.Ended) error {
					t.Error("it was not refused before")
					return nil
				})
				if err == nil || !strings.Contains(err.Error(), "read committed") {
					t.Errorf("at %s: %v", level, err)
				}
				_ = tx.commit()
				if !live(t, c, g) {
					t.Errorf("at %s it took effect", level)
				}
			}
		})
	}

	t.Run("of another pool is none of this one's", func(t *testing.T) {
		t.Parallel()
		other := pgtest.PoolAt(t, pool.Config().ConnString())
		txs := newTransactions(t, other, pgstore.TransactionConfig{})
		c, g := prepare(t)
		ctx := begin(t, txs)
		if _, err := store.RevokeConsents(ctx, of(c), func(inner context.Context, _ fositeconsent.Ended) error {
			if txs.DB(inner) != pgstore.DB(other) {
				t.Error("the other pool's statements run in a transaction that is not its own")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := txs.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if live(t, c, g) {
			t.Error("it was not revoked")
		}
	})

	t.Run("without a pool", func(t *testing.T) {
		t.Parallel()
		conn, err := pgx.Connect(testContext(t), pool.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		c, g := prepare(t)
		onConn := newStore(t, conn, pgstore.Config{})
		if _, err := onConn.RevokeConsents(testContext(t), of(c), func(context.Context, fositeconsent.Ended) error { return errUndone }); !errors.Is(err, errUndone) {
			t.Error(err)
		}
		if n, ids := revoke(t, onConn, of(c)); n != 1 || len(ids) != 1 {
			t.Errorf("on a connection, ended %d with %v", n, ids)
		}
		if live(t, c, g) {
			t.Error("on a connection, it was not revoked")
		}
		c, g = prepare(t)
		h := hold(t, pool)
		if _, err := h.store.RevokeConsents(testContext(t), of(c), func(context.Context, fositeconsent.Ended) error { return errUndone }); !errors.Is(err, errUndone) {
			t.Error(err)
		}
		h.end(commit)
		h = hold(t, pool)
		if n, ids := revoke(t, h.store, of(c)); n != 1 || len(ids) != 1 {
			t.Errorf("in a transaction, ended %d with %v", n, ids)
		}
		h.end(commit)
		if live(t, c, g) {
			t.Error("in a transaction, it was not revoked")
		}
		if _, err := newStore(t, &recorder{}, pgstore.Config{}).RevokeConsents(testContext(t), of(c), func(context.Context, fositeconsent.Ended) error { return nil }); err == nil {
			t.Error("on something that has no transactions")
		}
	})
}

// Many consents are revoked in several transactions. What a transaction has revoked stays so if
// a later one fails, and what was issued under it has been ended with it.
func TestManyConsentsAreRevokedInParts(t *testing.T) {
	t.Parallel()
	const consents, part = 250, 100
	pool := migrated(t, pgstore.Config{}, withConns(4))
	store := newStore(t, pool, pgstore.Config{})
	client := rand.Text()
	issued := map[string]string{}
	for range consents {
		c := newConsent()
		c.ClientID = client
		issued[record(t, store, approval(c))] = c.ID.String()
	}
	selection := fositeconsent.Selection{Issuer: issuer, ClientID: client}
	left := func() (n int) {
		t.Helper()
		list, err := store.ListConsents(testContext(t), selection, fositeconsent.ID{}, 2*consents)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	calls := 0
	ended, err := store.RevokeConsents(testContext(t), selection, func(_ context.Context, handed fositeconsent.Ended) error {
		ids := handed.RequestIDs
		if calls++; calls == 2 {
			return errUndone
		}
		for _, id := range ids {
			delete(issued, id)
		}
		return nil
	})
	if ended != part || !errors.Is(err, errUndone) || left() != consents-part || len(issued) != consents-part {
		t.Fatalf("ended %d with %v; %d consents and %d responses are left", ended, err, left(), len(issued))
	}
	ended, ids := revoke(t, store, selection)
	for _, id := range ids {
		delete(issued, id)
	}
	if ended != consents-part || left() != 0 || len(issued) != 0 {
		t.Errorf("ended %d; %d consents and %d responses are left", ended, left(), len(issued))
	}
	// One consent, and what rests on it in more than one part.
	c := newConsent()
	record(t, store, approval(c))
	const responses = 1200
	exec(t, pool, "INSERT INTO public.consent_responses SELECT $1::uuid, now(), i::text FROM generate_series(1, $2::int) AS i", c.ID.String(), responses)
	var sizes []int
	if _, err := store.RevokeConsents(testContext(t), of(c), func(_ context.Context, handed fositeconsent.Ended) error {
		ids := handed.RequestIDs
		sizes = append(sizes, len(ids))
		return nil
	}); err != nil || fmt.Sprint(sizes) != "[500 500 201]" {
		t.Errorf("handed over in parts of %v, %v", sizes, err)
	}
}

// What the database takes back because of others is done again, and not for ever.
func TestARevocationThatIsTakenBackIsRepeated(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	for _, c := range []struct {
		times int
		state string
		calls int
		fails bool
	}{{1, "40P01", 2, false}, {4, "40001", 5, false}, {5, "40P01", 5, true}, {1, "55P03", 1, true}} {
		consent := newConsent()
		record(t, store, approval(consent))
		calls := 0
		n, err := store.RevokeConsents(testContext(t), of(consent), func(context.Context, fositeconsent.Ended) error {
			if calls++; calls <= c.times {
				return fmt.Errorf("a storage of the host's: %w", pgError(c.state))
			}
			return nil
		})
		if calls != c.calls || (err != nil) != c.fails || (n == 1) == c.fails {
			t.Errorf("%d times %s: %d calls, ended %d, %v", c.times, c.state, calls, n, err)
		}
	}
}

// A response that is refused takes along what was queued with it.
func TestARefusedResponseFailsItsTransaction(t *testing.T) {
	t.Parallel()
	clock := newClock()
	config := pgstore.Config{TestClock: clock.now}
	pool := migrated(t, config)
	store, txs := newStore(t, pool, config), newTransactions(t, pool, pgstore.TransactionConfig{})
	revoked, expired, known := newConsent(), newConsent(), newConsent()
	expired.Lifespan = time.Minute
	for _, c := range []*fositeconsent.Consent{revoked, expired, known} {
		record(t, store, approval(c))
	}
	revoke(t, store, of(revoked))
	clock.advance(time.Minute)
	for name, c := range map[string]struct {
		response *fositeconsent.Response
		want     error
	}{
		"revoked":          {silent(known, revoked), fositeconsent.ErrConsentRevoked},
		"expired":          {silent(known, expired), fositeconsent.ErrConsentExpired},
		"unknown":          {silent(known, newConsent()), fositeconsent.ErrConsentRevoked},
		"another approval": {approval(known), nil},
	} {
		for what, end := range map[string]func(context.Context) error{
			"the commit": txs.Commit,
			"a statement": func(ctx context.Context) error {
				_, err := txs.DB(ctx).Exec(ctx, "SELECT")
				if commit := txs.Commit(ctx); commit == nil {
					t.Errorf("%s: what a statement refused was committed", name)
				}
				return err
			},
		} {
			ctx, g := begin(t, txs), newGrant()
			if err := store.RecordResponse(ctx, c.response); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := store.CreateConsentGrant(ctx, g); err != nil {
				t.Fatal(err)
			}
			if err := end(ctx); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v, want %v", name, what, err, c.want)
			}
			if err := store.CheckResponse(testContext(t), c.response.RequestID); err != nil {
				t.Errorf("%s, %s: it is recorded: %v", name, what, err)
			}
			if _, err := store.ConsumeConsentGrant(testContext(t), present(g)); !errors.Is(err, fositeconsent.ErrGrantNotFound) {
				t.Errorf("%s, %s: what was queued behind it: %v", name, what, err)
			}
		}
	}
}

// A look costs the transaction nothing, and no second connection where that has one.
// Whoever deletes a consent by hand has taken it back.
func TestAConsentThatIsGoneIsNotLive(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{})
	store := newStore(t, pool, pgstore.Config{})
	first := newConsent()
	second := another(first)
	record(t, store, approval(first))
	record(t, store, approval(second))
	request := silent(first, second)
	record(t, store, request)
	if err := store.CheckResponse(testContext(t), request.RequestID); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, "DELETE FROM public.consent_consents WHERE id = '"+second.ID.String()+"'")
	if err := store.CheckResponse(testContext(t), request.RequestID); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
		t.Errorf("CheckResponse: %v", err)
	}
	for _, r := range []*fositeconsent.Response{request, silent(first, second)} {
		if err := store.RecordResponse(testContext(t), r); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
			t.Errorf("RecordResponse: %v", err)
		}
	}
}

func TestFindingIsNoPartOfTheTransaction(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(1))
	store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
	c := newConsent()
	record(t, store, approval(c))
	find := func(ctx context.Context) {
		t.Helper()
		if found, err := store.FindConsents(ctx, c.Issuer, c.Subject, c.ClientID); len(found) != 1 || err != nil {
			t.Fatalf("found %v, %v", found, err)
		}
	}
	ctx := begin(t, txs)
	second := newGrant()
	if err := store.CreateConsentGrant(ctx, second); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ConsumeConsentGrant(ctx, present(second)); err != nil {
		t.Fatal(err)
	}
	find(ctx)
	if pool.Stat().AcquiredConns() != 0 {
		t.Error("the transaction has begun")
	}
	if _, err := txs.DB(ctx).Exec(ctx, "SELECT"); err != nil {
		t.Fatal(err)
	}
	find(ctx) // the pool has no second connection
	if err := txs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
}

// A call that repeats another recognises it, also while that is under way.
func TestARepeatedResponseMeetsItsFirstTry(t *testing.T) {
	t.Parallel()
	pool := migrated(t, pgstore.Config{}, withConns(8))
	store := newStore(t, pool, pgstore.Config{})
	base := newConsent()
	record(t, store, approval(base))
	for name, response := range map[string]func() *fositeconsent.Response{
		"of an approval":  func() *fositeconsent.Response { return approval(newConsent()) },
		"of a silent one": func() *fositeconsent.Response { return silent(base) },
	} {
		for _, end := range []bool{commit, rollback} {
			t.Run(fmt.Sprintf("%s, commit=%v", name, end), func(t *testing.T) {
				t.Parallel()
				r, h := response(), hold(t, pool)
				if err := h.store.RecordResponse(testContext(t), r); err != nil {
					t.Fatal(err)
				}
				again := start(t, pool, "", func(ctx context.Context, s *pgstore.Store) error { return s.RecordResponse(ctx, r) }).blocked()
				h.end(end)
				again.want(nil)
				var n int
				if err := pool.QueryRow(testContext(t), "SELECT count(*) FROM public.consent_responses WHERE request_id = $1", r.RequestID).Scan(&n); err != nil || n != 1 {
					t.Errorf("it is recorded %d times, %v", n, err)
				}
			})
		}
	}
	t.Run("and not one of somebody else", func(t *testing.T) {
		t.Parallel()
		for what, change := range map[string]func(*fositeconsent.Consent){
			"issuer":  func(c *fositeconsent.Consent) { c.Issuer = "https://other.example" },
			"subject": func(c *fositeconsent.Consent) { c.Subject = "bob" },
			"client":  func(c *fositeconsent.Consent) { c.ClientID = "other" },
		} {
			r := approval(newConsent())
			record(t, store, r)
			theirs := *r.Approval
			change(&theirs)
			if err := store.RecordResponse(testContext(t), &fositeconsent.Response{RequestID: r.RequestID, Approval: &theirs}); err == nil || isReason(err) {
				t.Errorf("of another %s: %v", what, err)
			}
		}
	})
	t.Run("and not one of another response", func(t *testing.T) {
		t.Parallel()
		r, h := approval(newConsent()), hold(t, pool)
		if err := h.store.RecordResponse(testContext(t), r); err != nil {
			t.Fatal(err)
		}
		other := approval(r.Approval)
		second := start(t, pool, "", func(ctx context.Context, s *pgstore.Store) error { return s.RecordResponse(ctx, other) }).blocked()
		h.end(commit)
		if err := second.wait(); err == nil || isReason(err) {
			t.Errorf("got %v", err)
		}
		if err := store.CheckResponse(testContext(t), other.RequestID); err != nil {
			t.Error(err)
		}
		if _, ids := revoke(t, store, of(r.Approval)); !slices.Equal(ids, []string{r.RequestID}) {
			t.Errorf("recorded are %v", ids)
		}
	})
}

// Wherever the connection is cut, a call learns what became of it.
func TestCallOnConsentsSurvivesACutAfterEveryByte(t *testing.T) {
	t.Parallel()
	for _, where := range bothDirections {
		t.Run(string(where), func(t *testing.T) {
			t.Parallel()
			c := newCutting(t, pgx.QueryExecModeExec)
			direct := newStore(t, c.direct, pgstore.Config{})
			txs := newTransactions(t, c.pool, pgstore.TransactionConfig{})
			base := newConsent()
			checked := record(t, direct, approval(base))
			step := map[direction]int{ofTheStatement: 197, ofTheAnswer: 7}[where]
			rounds := 0
			one := func(what string, response *fositeconsent.Response, do func(context.Context) error) {
				t.Helper()
				for at := 0; ; at += step {
					rounds++
					if response != nil {
						response.RequestID = rand.Text()
						if response.Approval != nil {
							response.Approval.ID = newID()
						}
					}
					var err error
					cuts := c.cut(where, at, 1, func() { err = do(testContext(t)) })
					if err != nil {
						t.Fatalf("%s, cut after byte %d: %v", what, at, err)
					}
					if response != nil {
						var n int
						if err := c.direct.QueryRow(testContext(t), "SELECT count(*) FROM public.consent_responses WHERE request_id = $1", response.RequestID).Scan(&n); err != nil || n != 1 {
							t.Fatalf("%s, cut after byte %d: recorded %d times, %v", what, at, n, err)
						}
					}
					if cuts == 0 {
						return
					}
				}
			}
			queued := func(r *fositeconsent.Response) func(context.Context) error {
				return func(ctx context.Context) error {
					ctx, err := txs.BeginTX(ctx)
					if err != nil {
						return err
					}
					if err := c.store.RecordResponse(ctx, r); err != nil {
						return err
					}
					return txs.Commit(ctx)
				}
			}
			for _, r := range []*fositeconsent.Response{silent(base), approval(newConsent())} {
				one("record", r, func(ctx context.Context) error { return c.store.RecordResponse(ctx, r) })
				one("record in one piece", r, queued(r))
			}
			minted := approval(newConsent())
			one("mint, consume and record in one piece", minted, func(ctx context.Context) error {
				g := grantOf(minted.Approval)
				ctx, err := txs.BeginTX(ctx)
				if err != nil {
					return err
				}
				if err := c.store.CreateConsentGrant(ctx, g); err != nil {
					return err
				}
				if _, err := c.store.ConsumeConsentGrant(ctx, present(g)); err != nil {
					return err
				}
				if err := c.store.RecordResponse(ctx, minted); err != nil {
					return err
				}
				return txs.Commit(ctx)
			})
			one("check", nil, func(ctx context.Context) error { return c.store.CheckResponse(ctx, checked) })
			one("find", nil, func(ctx context.Context) error {
				found, err := c.store.FindConsents(ctx, base.Issuer, base.Subject, base.ClientID)
				if err == nil && len(found) != 1 {
					err = fmt.Errorf("found %d", len(found))
				}
				return err
			})
			if rounds < 50 {
				t.Errorf("%d cuts: too few to be true", rounds)
			}
		})
	}
}

// A revocation whose connection was lost is an error, and is repeated.
func TestALostRevocationIsRepeated(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	proxy, through := pgtest.ProxyTo(t, database)
	direct := pgtest.PoolAt(t, database)
	migrate(t, direct, pgstore.Config{})
	store := newStore(t, pgtest.PoolAt(t, through, withConns(1)), pgstore.Config{})
	for _, at := range []string{"statement", "commit"} {
		c := newConsent()
		requestID := record(t, newStore(t, direct, pgstore.Config{}), approval(c))
		var cut <-chan struct{}
		if at == "statement" {
			cut = proxy.CutAfter(pgtest.ToClient, 0)
		}
		ended, err := store.RevokeConsents(testContext(t), of(c), func(context.Context, fositeconsent.Ended) error {
			cut = proxy.CutAfter(pgtest.ToClient, 0)
			return nil
		})
		if err == nil || isReason(err) || ended != 0 {
			t.Errorf("at the %s: ended %d, %v", at, ended, err)
		}
		if at == "commit" && state(err) != "40003" {
			t.Errorf("whether it was committed is not known, and yet: %v", err)
		}
		<-cut
		ended, ids := revoke(t, store, of(c))
		if at == "statement" && (ended != 1 || !slices.Equal(ids, []string{requestID})) {
			t.Errorf("at the %s, repeated: ended %d, %v", at, ended, ids)
		}
		if err := store.CheckResponse(testContext(t), requestID); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
			t.Errorf("at the %s, repeated: %v", at, err)
		}
	}
}

func TestNoErrorShowsWhatIsStoredOfConsents(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withMode(mode))
			store, txs := newStore(t, pool, pgstore.Config{}), newTransactions(t, pool, pgstore.TransactionConfig{})
			c := newConsent()
			g := grantOf(c)
			g.Subject, g.Scopes, g.Data = "subject-of-the-leak-test", []string{"scope-of-the-leak-test"}, []byte{0xda, 0x7a, 0x5e, 0xc3, 0xda, 0x7a, 0x5e, 0xc3}
			c.Subject, c.Scopes, c.Data, c.LoginSession = g.Subject, g.Scopes, g.Data, g.Subject
			c.Details, c.Shown = []string{"claims=" + g.Subject}, g.Binding
			r := approval(c)
			r.RequestID = g.Subject + rand.Text()
			calls := map[string]func() error{
				"record": func() error { return store.RecordResponse(testContext(t), r) },
				"record in a transaction": func() error {
					ctx := begin(t, txs)
					return errors.Join(store.RecordResponse(ctx, r), txs.Commit(ctx))
				},
				"record silently": func() error {
					return store.RecordResponse(testContext(t), &fositeconsent.Response{RequestID: r.RequestID, ConsentIDs: []fositeconsent.ID{c.ID}})
				},
				"check": func() error { return store.CheckResponse(testContext(t), r.RequestID) },
				"find": func() error {
					_, err := store.FindConsents(testContext(t), issuer, c.Subject, c.ClientID)
					return err
				},
				"list": func() error {
					_, err := store.ListConsents(testContext(t), of(c), fositeconsent.ID{}, 1)
					return err
				},
				"revoke": func() error {
					_, err := store.RevokeConsents(testContext(t), of(c), func(context.Context, fositeconsent.Ended) error { return nil })
					return err
				},
			}
			shows := func(when string, broken ...string) {
				t.Helper()
				for _, name := range broken {
					err := calls[name]()
					if err == nil || isReason(err) {
						t.Errorf("%s, %s: %v", when, name, err)
					}
					if found := leaks(err, g); len(found) > 0 {
						t.Errorf("%s, %s: %v", when, name, found)
					}
				}
			}
			exec(t, pool, "ALTER TABLE public.consent_consents ADD CONSTRAINT nobody CHECK (subject = '') NOT VALID")
			shows("when the database prints the row", "record", "record in a transaction")
			exec(t, pool, "ALTER TABLE public.consent_consents DROP CONSTRAINT nobody")
			record(t, store, r)
			exec(t, pool, "ALTER TABLE public.consent_consents ADD CONSTRAINT nobody CHECK (revoked_at IS NULL) NOT VALID")
			shows("when the database prints the changed row", "revoke")
			exec(t, pool, "UPDATE public.consent_consents SET shown = 'x'")
			shows("when what is stored cannot be", "find", "list")
			exec(t, pool, "ALTER TABLE public.consent_consents RENAME TO gone")
			shows("when the database prints the statement", "record", "record in a transaction", "record silently", "check", "find", "list", "revoke")
		})
	}
}
