package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// keys are what all processes on one database share, made by the first of them. They
// are as safe as the database is; a server with more to lose keeps them elsewhere.
type keys struct {
	secret  []byte       // seals tickets and signs codes and tokens
	signing *signingKeys // sign ID tokens, and are replaced

	// Of the demo only, where they are shown to everybody anyway.
	demoPassword, demoClientSecret string
}

// loadKeys reads the keys and makes those that are missing. The caller holds the lock.
//
// The keys are one issuer's, the first that asked for them. Another one with the same
// database and the same keys would redeem codes that its neighbour has issued, and say in
// the ID token that it was asked itself.
func loadKeys(ctx context.Context, tx pgx.Tx, issuer string, withDemo bool) (*keys, error) {
	var k keys
	owner, err := keep(ctx, tx, "issuer", func() ([]byte, error) { return []byte(issuer), nil })
	if err != nil {
		return nil, err
	}
	if string(owner) != issuer {
		return nil, fmt.Errorf("its keys, codes and tokens are those of the issuer %s, and this one is %s: give all processes the same -issuer, "+
			"or this one another database. To rename the server, stop all processes and DELETE FROM example_server_keys WHERE name IN ('issuer', 'secret'), "+
			"which ends all codes and tokens", owner, issuer)
	}
	if k.secret, err = keep(ctx, tx, "secret", randomBytes(32)); err != nil {
		return nil, err
	}
	if len(k.secret) < 32 {
		return nil, errors.New("the secret in example_server_keys is shorter than 32 bytes")
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
