package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5"
)

// keys are what all processes on one database share, made by the first of them. They
// are as safe as the database is; a server with more to lose keeps them elsewhere.
type keys struct {
	secret  []byte           // seals tickets and signs codes and tokens
	signing *jose.JSONWebKey // signs ID tokens

	// Of the demo only, where they are shown to everybody anyway.
	demoPassword, demoClientSecret string
}

const signingKeySize = 3072 // bits; NIST SP 800-57 Part 1, Table 2: 128 bits of security

// loadKeys reads the keys and makes those that are missing. The caller holds the lock.
func loadKeys(ctx context.Context, tx pgx.Tx, withDemo bool) (*keys, error) {
	var k keys
	var err error
	if k.secret, err = keep(ctx, tx, "secret", randomBytes(32)); err != nil {
		return nil, err
	}
	if len(k.secret) < 32 {
		return nil, errors.New("the secret in example_server_keys is shorter than 32 bytes")
	}
	der, err := keep(ctx, tx, "id-token-signing-key", newSigningKey)
	if err != nil {
		return nil, err
	}
	if k.signing, err = parseSigningKey(der); err != nil {
		return nil, err
	}
	if withDemo {
		password, err := keep(ctx, tx, "demo-password", randomText(6))
		if err != nil {
			return nil, err
		}
		secret, err := keep(ctx, tx, "demo-client-secret", randomText(32))
		if err != nil {
			return nil, err
		}
		k.demoPassword, k.demoClientSecret = string(password), string(secret)
	}
	return &k, nil
}

// keep returns the value of the name, which create makes if there is none yet.
func keep(ctx context.Context, tx pgx.Tx, name string, create func() ([]byte, error)) (value []byte, err error) {
	err = tx.QueryRow(ctx, "SELECT value FROM example_server_keys WHERE name = $1", name).Scan(&value)
	if !errors.Is(err, pgx.ErrNoRows) {
		return value, err
	}
	if value, err = create(); err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "INSERT INTO example_server_keys (name, value) VALUES ($1, $2)", name, value)
	return value, err
}

func randomBytes(n int) func() ([]byte, error) {
	return func() ([]byte, error) {
		b := make([]byte, n)
		_, _ = rand.Read(b) // never fails
		return b, nil
	}
}

// randomText returns text from n random bytes.
func randomText(n int) func() ([]byte, error) {
	return func() ([]byte, error) {
		b, err := randomBytes(n)()
		return []byte(base64.RawURLEncoding.EncodeToString(b)), err
	}
}

func newSigningKey() ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, signingKeySize)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// parseSigningKey returns the key with its thumbprint (RFC 7638) as its id. It is an
// RSA key for RS256, which every OpenID Connect client knows.
func parseSigningKey(der []byte) (*jose.JSONWebKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the signing key in example_server_keys is no PKCS #8 key")
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the signing key in example_server_keys is a %T, expected RSA", parsed)
	}
	key := &jose.JSONWebKey{Key: private, Algorithm: string(jose.RS256), Use: "sig"}
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	key.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	return key, nil
}
