package consentapi

import (
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// TestTheVerifierIsThatOfEveryRelease pins how a verifier is made, which several releases may do side by side:
// HMAC-SHA256 of the ID and the digest, under HKDF-SHA256 of the secret, computed with Python's hmac.
func TestTheVerifierIsThatOfEveryRelease(t *testing.T) {
	t.Parallel()
	a := &API{config: Config{Secrets: func(context.Context) ([][]byte, error) {
		return [][]byte{[]byte("a global secret of at least 32 bytes")}, nil
	}}}
	for _, c := range []struct {
		id     fositeconsent.ID
		digest Hash
		want   string
	}{
		{fositeconsent.ID{1}, Hash{2}, "673ab7a333f3e0daffcf0a0363c84470e6ddbc857dc528716ea216e793134959"},
		{fositeconsent.ID{3}, Hash{2}, "637dbdc80778573d8fd3bfcafee910a1e1de24d617484cfe864d41d61d011e2c"},
		{fositeconsent.ID{1}, Hash{4}, "a935fbad3e06ff3d4e0c14ba4c21003bbcba3d61df9d2e7aeb816de03d438035"},
	} {
		got, err := a.verifiers(t.Context(), c.id, c.digest)
		if err != nil || len(got) != 1 || hex.EncodeToString(got[0][:]) != c.want {
			t.Errorf("%x, %v, want %s", got, err, c.want)
		}
	}
	failure := errors.New("no secrets today")
	a.config.Secrets = func(context.Context) ([][]byte, error) {
		return [][]byte{[]byte("a global secret of at least 32 bytes")}, failure
	}
	if got, err := a.verifiers(t.Context(), fositeconsent.ID{1}, Hash{2}); got != nil || !errors.Is(err, failure) {
		t.Errorf("%x, %v", got, err)
	}
	for _, selection := range []fositeconsent.Selection{{LoginSession: "login"}, {ClientID: "app"}, {EverySubject: true}, {Subject: "alice", EverySubject: true}} {
		if _, err := a.Revoke(t.Context(), selection); !errors.Is(err, fositeconsent.ErrMisconfigured) { // and the storage, which is none, was not asked
			t.Errorf("a revocation of everybody: %+v, %v", selection, err)
		}
	}
}
