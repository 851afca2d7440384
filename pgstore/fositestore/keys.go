package fositestore

import (
	"context"
	"encoding/json"

	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// SetIssuerKey trusts an issuer's public key for JWTs as authorization grants
// (RFC 7523) about a subject, for these scopes. It replaces the one with the same key ID.
func (s *Store) SetIssuerKey(ctx context.Context, issuer, subject string, key jose.JSONWebKey, scopes []string) error {
	const what = "set issuer's key"
	if !key.Valid() || !key.IsPublic() || key.KeyID == "" {
		return mapError(ctx, what, ownError("expected a public key with a key ID"))
	}
	text, err := json.Marshal(key)
	if err != nil {
		return mapError(ctx, what, ownError("the key cannot be encoded as JSON"))
	}
	if !storable(issuer, subject, key.KeyID) || !storable(scopes...) {
		return mapError(ctx, what, errText)
	}
	return mapError(ctx, what, s.read(ctx, func(db tx.DB) error {
		_, err := db.Exec(ctx, s.sql.setKey, issuer, subject, key.KeyID, string(text), append([]string{}, scopes...))
		return err
	}))
}

// DeleteIssuerKey ends the trust in a key. It is no error if there was none.
func (s *Store) DeleteIssuerKey(ctx context.Context, issuer, subject, keyID string) error {
	return mapError(ctx, "delete issuer's key", s.read(ctx, func(db tx.DB) error {
		_, err := db.Exec(ctx, s.sql.deleteKey, issuer, subject, keyID)
		return err
	}))
}

// GetPublicKey implements fosite's handler/rfc7523.RFC7523KeyStorage.
func (s *Store) GetPublicKey(ctx context.Context, issuer, subject, keyID string) (*jose.JSONWebKey, error) {
	key, _, err := s.issuerKey(ctx, issuer, subject, keyID)
	return key, mapError(ctx, "get issuer's key", err)
}

// GetPublicKeyScopes implements fosite's handler/rfc7523.RFC7523KeyStorage.
func (s *Store) GetPublicKeyScopes(ctx context.Context, issuer, subject, keyID string) ([]string, error) {
	_, scopes, err := s.issuerKey(ctx, issuer, subject, keyID)
	return scopes, mapError(ctx, "get scopes of issuer's key", err)
}

func (s *Store) issuerKey(ctx context.Context, issuer, subject, keyID string) (*jose.JSONWebKey, []string, error) {
	if !storable(issuer, subject, keyID) {
		return nil, nil, fosite.ErrNotFound
	}
	var text string
	var scopes []string
	err := s.read(ctx, func(db tx.DB) error {
		return db.QueryRow(ctx, s.sql.readKey, issuer, subject, keyID).Scan(&text, &scopes)
	})
	if isNoRows(err) {
		err = fosite.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	key, err := decodeKey(text)
	return &key, scopes, err
}

func decodeKey(text string) (key jose.JSONWebKey, err error) {
	if json.Unmarshal([]byte(text), &key) != nil || !key.Valid() {
		err = ownError("a stored key cannot be decoded")
	}
	return key, err
}

// GetPublicKeys implements fosite's handler/rfc7523.RFC7523KeyStorage.
func (s *Store) GetPublicKeys(ctx context.Context, issuer, subject string) (*jose.JSONWebKeySet, error) {
	const what = "get issuer's keys"
	if !storable(issuer, subject) {
		return nil, mapError(ctx, what, fosite.ErrNotFound)
	}
	var texts []string
	err := s.read(ctx, func(db tx.DB) error {
		rows, err := db.Query(ctx, s.sql.readKeys, issuer, subject)
		if err != nil {
			return err
		}
		texts, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err == nil && len(texts) == 0 {
		err = fosite.ErrNotFound
	}
	set := new(jose.JSONWebKeySet)
	for _, text := range texts {
		var key jose.JSONWebKey
		if key, err = decodeKey(text); err != nil {
			break
		}
		set.Keys = append(set.Keys, key)
	}
	if err != nil {
		return nil, mapError(ctx, what, err)
	}
	return set, nil
}
