package fositestore

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

func nonceHash(accessToken, nonce string) hash {
	token := hashOf(accessToken)
	return hashOf("nonce\x00" + string(token[:]) + nonce)
}

// NewNonce implements fosite's handler/verifiable.NonceManager: 128 random bits or more.
func (s *Store) NewNonce(ctx context.Context, accessToken string, expiresAt time.Time) (string, error) {
	nonce := rand.Text()
	h := nonceHash(accessToken, nonce)
	lifespan := s.lifespan(expiresAt)
	err := s.read(ctx, func(db tx.DB) error {
		_, err := db.Exec(ctx, s.sql.createNonce, h[:], lifespan, s.clock())
		return err
	})
	if err != nil {
		return "", mapError(ctx, "create nonce", err)
	}
	return nonce, nil
}

// IsNonceValid implements fosite's handler/verifiable.NonceManager. A nonce that is
// unknown, expired, or for another access token is fosite.ErrNotFound. It can be used
// until it expires.
func (s *Store) IsNonceValid(ctx context.Context, accessToken, nonce string) error {
	h := nonceHash(accessToken, nonce)
	var valid bool
	err := s.read(ctx, func(db tx.DB) error { return db.QueryRow(ctx, s.sql.nonceValid, h[:], s.clock()).Scan(&valid) })
	if err == nil && !valid {
		err = fosite.ErrNotFound
	}
	return mapError(ctx, "look for a nonce", err)
}
