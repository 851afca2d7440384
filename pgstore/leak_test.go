package pgstore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// chain lists err and everything that it wraps.
func chain(err error) []error {
	if err == nil {
		return nil
	}
	all := []error{err}
	switch e := err.(type) { //nolint:errorlint // takes the chain apart
	case interface{ Unwrap() error }:
		all = append(all, chain(e.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			all = append(all, chain(one)...)
		}
	}
	return all
}

// leaks finds the grant's values in every way to print every part of an error.
func leaks(err error, g *fositeconsent.Grant) []string {
	var found []string
	secrets := map[string]string{}
	for name, value := range map[string][]byte{"secret hash": g.SecretHash[:], "binding": g.Binding[:], "data": g.Data} {
		part := value[:8]
		secrets[name+" in hex"] = hex.EncodeToString(part)
		secrets[name+" as a list"] = strings.Trim(fmt.Sprint(part), "[]")
		secrets[name+" as Go source"] = strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", part), "[]byte{"), "}")
		secrets[name+" in base64"] = base64.StdEncoding.EncodeToString(part)[:10]
		secrets[name+" as bytes"] = string(part)
	}
	secrets["subject"], secrets["scopes"] = g.Subject, g.Scopes[0]
	for _, e := range chain(err) {
		for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q"} {
			text := strings.ToLower(fmt.Sprintf(verb, e))
			for name, secret := range secrets {
				if strings.Contains(text, strings.ToLower(secret)) {
					found = append(found, fmt.Sprintf("%s printed with %s shows the %s", fmt.Sprintf("%T", e), verb, name))
				}
			}
		}
	}
	return found
}

func TestNoErrorShowsWhatIsStored(t *testing.T) {
	t.Parallel()
	newSecret := func() *fositeconsent.Grant {
		g := newGrant()
		g.Subject, g.Scopes = "subject-of-the-leak-test", []string{"scope-of-the-leak-test"}
		g.Data = bytes.Repeat([]byte{0xda, 0x7a, 0x5e, 0xc3}, 8)
		return g
	}
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withMode(mode))
			store := newStore(t, pool, pgstore.Config{})

			t.Run("when pgx cannot encode a parameter", func(t *testing.T) {
				broken := pgtest.PoolAt(t, pool.Config().ConnString(), withMode(mode), func(c *pgxpool.Config) {
					c.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
						// A list of texts is no boolean. Bytes it sends as they are, whatever the type.
						conn.TypeMap().RegisterType(&pgtype.Type{Name: "_text", OID: pgtype.TextArrayOID, Codec: pgtype.BoolCodec{}})
						return nil
					}
				})
				g := newSecret()
				store := newStore(t, broken, pgstore.Config{})
				err := store.CreateConsentGrant(testContext(t), g)
				if err == nil || isReason(err) || !strings.Contains(err.Error(), "withheld") {
					t.Errorf("got %v", err)
				}
				if found := leaks(err, g); len(found) > 0 {
					t.Error(found)
				}
			})

			t.Run("when the database prints the row", func(t *testing.T) {
				g := newSecret()
				create(t, store, g)
				exec(t, pool, "ALTER TABLE public.consent_grants ADD CONSTRAINT nothing_more CHECK (consumed_at IS NULL) NOT VALID")
				_, err := store.ConsumeConsentGrant(testContext(t), present(g))
				var pgErr *pgconn.PgError
				if !errors.As(err, &pgErr) || pgErr.ConstraintName != "nothing_more" || pgErr.Detail != "" || isReason(err) {
					t.Errorf("got %v", err)
				}
				if found := leaks(err, g); len(found) > 0 {
					t.Error(found)
				}
				exec(t, pool, "ALTER TABLE public.consent_grants ADD CONSTRAINT nobody CHECK (subject = '') NOT VALID")
				g = newSecret()
				err = store.CreateConsentGrant(testContext(t), g)
				if !errors.As(err, &pgErr) || pgErr.Code != "23514" || isReason(err) {
					t.Errorf("got %v", err)
				}
				if found := leaks(err, g); len(found) > 0 {
					t.Error(found)
				}
			})

			t.Run("when the database prints the statement", func(t *testing.T) {
				exec(t, pool, "ALTER TABLE public.consent_grants RENAME TO gone")
				g := newSecret()
				_, consumeErr := store.ConsumeConsentGrant(testContext(t), present(g))
				for _, err := range []error{store.CreateConsentGrant(testContext(t), g), consumeErr} {
					if err == nil || isReason(err) {
						t.Errorf("got %v", err)
					}
					if found := leaks(err, g); len(found) > 0 {
						t.Error(found)
					}
				}
			})
		})
	}
}

// The test of the tests: what it looks for is what pgx and Postgres print.
func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	g := newGrant()
	g.Subject, g.Data = "subject-of-the-leak-test", bytes.Repeat([]byte{1, 2}, 8)
	for _, err := range []error{
		fmt.Errorf("outer: %w", fmt.Errorf("unable to encode %#v", g.SecretHash[:])),
		errors.Join(errors.New("x"), &pgconn.PgError{Detail: fmt.Sprintf(`Failing row contains (\x%x, …).`, g.Binding)}),
	} {
		if len(leaks(err, g)) == 0 {
			t.Errorf("%v", err)
		}
	}
}

func TestOtherErrorsAreStillRecognised(t *testing.T) {
	t.Parallel()
	// Of a host's own DB: only errors.Is sees through.
	store := newStore(t, &recorder{}, pgstore.Config{})
	if err := store.CreateConsentGrant(testContext(t), newGrant()); !errors.Is(err, errRecorded) || strings.Contains(err.Error(), errRecorded.Error()) {
		t.Errorf("got %v", err)
	}
	pool := unreachable(t)
	store = newStore(t, pool, pgstore.Config{})
	var connect *pgconn.ConnectError
	if _, err := store.ConsumeConsentGrant(testContext(t), present(newGrant())); !errors.As(err, &connect) {
		t.Errorf("got %v", err)
	}
	canceled, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := store.ConsumeConsentGrant(canceled, present(newGrant())); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	pool.Close()
	if _, err := store.ConsumeConsentGrant(testContext(t), present(newGrant())); err == nil || !strings.Contains(err.Error(), "closed pool") {
		t.Errorf("got %v", err)
	}
}
