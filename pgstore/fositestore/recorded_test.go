package fositestore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// consentOf is one that the answer leaves.
func (a *answers) consentOf(id fositeconsent.ID) *fositeconsent.Consent {
	return &fositeconsent.Consent{ID: id, Issuer: "https://as.example", Subject: "user", ClientID: "app", Scopes: []string{"photos"}, RememberedScopes: []string{"photos"}, Remembered: true}
}

// pass does in a transaction what Protect does for a request that remembered consents cover.
func (a *answers) pass(n int, between func(context.Context) error, ids ...fositeconsent.ID) error {
	ctx, err := a.store.BeginTX(testContext(a))
	a.ok(err)
	err = func() error {
		if err := a.grants.RecordResponse(ctx, &fositeconsent.Response{RequestID: a.r.ID, ConsentIDs: ids}); err != nil {
			return err
		}
		if err := between(ctx); err != nil {
			return err
		}
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

// What is issued is sent with the record of it, and nothing of it is stored if that is refused.
func TestWhatIsIssuedDependsOnItsRecord(t *testing.T) {
	t.Parallel()
	r := &tracer{args: map[string][]any{}}
	a := newAnswersAt(t, pgstore.Config{}, func(c *pgxpool.Config) { c.ConnConfig.Tracer = r })
	nothing := func(context.Context) error { return nil }
	for name, c := range map[string]struct {
		between func(context.Context) error
		trips   int
	}{
		"in one round trip": {nothing, 1},
		"in a transaction that was begun": {func(ctx context.Context) error {
			_, err := a.store.DB(ctx).Exec(ctx, "SELECT")
			return err
		}, 3},
	} {
		issued := 0
		want := func(what string, n int) {
			t.Helper()
			if codes, tokens := a.responses(); codes-issued != n || tokens-issued != n {
				t.Fatalf("%s, %s: %d codes and %d tokens, want %d", name, what, codes-issued, tokens-issued, n)
			}
			issued += n
		}
		issued, _ = a.responses()
		_, _ = rand.Read(a.id[:])
		n := int(a.id[0])<<8 + int(a.id[1])
		r.reset()
		a.ok(a.answer(n, func(ctx context.Context) error {
			err := a.grants.RecordResponse(ctx, &fositeconsent.Response{RequestID: a.r.ID, Approval: a.consentOf(a.id)})
			return errors.Join(err, c.between(ctx))
		}))
		if trips, _, _ := r.counts(); trips > c.trips {
			t.Errorf("%s, an approval: %d round trips\n%s", name, trips, r.text())
		}
		want("an approval", 1)

		r.reset()
		a.ok(a.pass(n+1<<16, c.between, a.id))
		if trips, _, _ := r.counts(); trips > c.trips {
			t.Errorf("%s, a silent response: %d round trips\n%s", name, trips, r.text())
		}
		want("a silent response", 1)

		if err := a.pass(n+2<<16, c.between, a.id, fositeconsent.ID{1}); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
			t.Errorf("%s, a consent that nobody gave: %v", name, err)
		}
		want("a consent that nobody gave", 0)

		// It was recorded before, under the same RequestID, and is revoked since.
		_, err := a.grants.RevokeConsents(testContext(t), fositeconsent.Selection{Issuer: "https://as.example", Subject: "user"},
			func(context.Context, fositeconsent.Ended) error { return nil })
		a.ok(err)
		if err := a.pass(n+3<<16, c.between, a.id); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
			t.Errorf("%s, a revoked consent: %v", name, err)
		}
		want("a revoked consent", 0)

		// A host that approves by itself has no grant, and two responses under one ID.
		policy := fositeconsent.ID{2, a.id[0], a.id[1]}
		approve := func(n int, requestID string) error {
			ctx, err := a.store.BeginTX(testContext(t))
			a.ok(err)
			a.ok(a.grants.RecordResponse(ctx, &fositeconsent.Response{RequestID: requestID, Approval: a.consentOf(policy)}))
			a.ok(a.store.CreateAuthorizeCodeSession(ctx, fmt.Sprint("code ", n), a.r))
			a.ok(a.store.CreateAccessTokenSession(ctx, fmt.Sprint("access of ", n), a.r))
			return errors.Join(a.store.Commit(ctx), a.store.Rollback(ctx))
		}
		a.ok(approve(n+4<<16, a.r.ID))
		want("a host's approval", 1)
		if err := approve(n+5<<16, "another"); err == nil {
			t.Errorf("%s: one approval has led to two responses", name)
		}
		want("the same approval again", 0)

		// Also what comes before it, and depends on nothing.
		ctx, err := a.store.BeginTX(testContext(t))
		a.ok(err)
		a.ok(a.store.CreateAuthorizeCodeSession(ctx, fmt.Sprint("code ", n+6<<16), a.r))
		a.ok(a.store.CreateAccessTokenSession(ctx, fmt.Sprint("access of ", n+6<<16), a.r))
		a.ok(a.grants.RecordResponse(ctx, &fositeconsent.Response{RequestID: "another", Approval: a.consentOf(policy)}))
		if err := errors.Join(a.store.Commit(ctx), a.store.Rollback(ctx)); err == nil {
			t.Errorf("%s: one approval has led to two responses", name)
		}
		want("what was queued before", 0)
	}
}

// An approval that is minted, consumed and recorded in one transaction is not there before that has
// ended: to a revocation it is a new one, that can be listed and revoked.
func TestAnApprovalInOneStepComesAfterARevocation(t *testing.T) {
	t.Parallel()
	a := newAnswersAt(t, pgstore.Config{}, func(*pgxpool.Config) {})
	selection := fositeconsent.Selection{Issuer: "https://as.example", Subject: "user"}
	revoke := func(want int) {
		t.Helper()
		n, err := a.grants.RevokeConsents(testContext(t), selection, revokes(a.store))
		if n != want || err != nil {
			t.Errorf("%d consents were revoked, want %d: %v", n, want, err)
		}
	}
	_, _ = rand.Read(a.id[:])
	a.ok(a.answer(1, func(ctx context.Context) error {
		err := a.grants.RecordResponse(ctx, &fositeconsent.Response{RequestID: a.r.ID, Approval: a.consentOf(a.id)})
		if _, sent := a.store.DB(ctx).Exec(ctx, "SELECT"); sent != nil {
			return errors.Join(err, sent)
		}
		revoke(0)
		return err
	}))
	a.ok(a.grants.CheckResponse(testContext(t), a.r.ID))
	if list, err := a.grants.ListConsents(testContext(t), selection, fositeconsent.ID{}, 2); len(list) != 1 || err != nil {
		t.Errorf("listed %v, %v", list, err)
	}
	revoke(1)
	if err := a.grants.CheckResponse(testContext(t), a.r.ID); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
		t.Errorf("after the second revocation: %v", err)
	}
}
