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
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite/token/jwt"
)

// What the processes on one database agree on about the keys of their ID tokens. All
// times are the database's.
const (
	idTokenLifespan = time.Hour
	jwksMaxAge      = 5 * time.Minute // for how long clients may keep the JWKS
	keyReload       = time.Minute
	// What was read of the keys longer ago is not used: a process that cannot read them
	// neither signs nor publishes.
	maxKeyAge = 5 * time.Minute
	// A key signs nothing before it has been in every JWKS that anybody still has: one
	// that a process answered with the oldest knowledge it may use, and a client kept.
	keySettles = maxKeyAge + jwksMaxAge
	// A key stays in the JWKS after its successor has begun to sign, until no ID token
	// of it is valid any more.
	keyRetention = idTokenLifespan + 5*time.Minute
	// Below this the keys of a day would make a long JWKS.
	minKeyRotation = time.Hour
)

// signingKeySize is in bits: the least that RS256 may have (RFC 7518, Section 3.3), for a key that
// signs for a month what is good for an hour (NIST SP 800-57 Part 1, Table 4, has it until the
// end of 2030). With 3072, a signature takes 2.4 times as long, and it is what an exchange with
// openid spends most of its time on.
const signingKeySize = 2048

// signingKey is a key of ID tokens.
type signingKey struct {
	*jose.JSONWebKey
	created time.Time
}

// keyState is what one look into the database has shown.
type keyState struct {
	keys []signingKey // the newest first, at least one
	asOf time.Time    // by the database's clock
	read time.Time    // the same, by this process's
}

// signing returns the key that signs at a time: the newest that everybody knows. Every
// process comes to the same.
func (s *keyState) signing(at time.Time) *jose.JSONWebKey {
	for _, k := range s.keys {
		if !at.Before(k.created.Add(keySettles)) {
			return k.JSONWebKey
		}
	}
	return s.keys[len(s.keys)-1].JSONWebKey // the first of all, which no other precedes
}

// outdated reports whether a new key is to be made.
func (s *keyState) outdated(rotation time.Duration) bool {
	return len(s.keys) == 0 || !s.asOf.Before(s.keys[0].created.Add(rotation))
}

// spent returns how many keys at the end of the list no valid ID token was signed with.
func (s *keyState) spent() int {
	for i := 1; i < len(s.keys); i++ {
		if s.asOf.After(s.keys[i-1].created.Add(keySettles + keyRetention)) {
			return len(s.keys) - i
		}
	}
	return 0
}

// signingKeys are the keys of ID tokens, which all processes on one database share and
// take turns in replacing. Signing asks for no connection: it may happen while a
// transaction holds one.
type signingKeys struct {
	pool     *pgxpool.Pool
	rotation time.Duration
	log      *slog.Logger
	now      func() time.Time // this process's clock
	// at stands in for the database's clock in tests; nil asks the database.
	at    func() *time.Time
	state atomic.Pointer[keyState]
}

func newSigningKeys(pool *pgxpool.Pool, rotation time.Duration, log *slog.Logger) *signingKeys {
	return &signingKeys{pool: pool, rotation: rotation, log: log, now: time.Now, at: func() *time.Time { return nil }}
}

var errKeysUnknown = errors.New("the signing keys could not be read for too long")

// current returns what is known of the keys, and the database's time of now.
func (k *signingKeys) current() (*keyState, time.Time, error) {
	s := k.state.Load()
	if s == nil {
		return nil, time.Time{}, errKeysUnknown
	}
	age := k.now().Sub(s.read)
	if age < 0 || age > maxKeyAge {
		return nil, time.Time{}, errKeysUnknown
	}
	return s, s.asOf.Add(age), nil
}

// signing returns the key to sign with now.
func (k *signingKeys) signing() (*jose.JSONWebKey, error) {
	s, at, err := k.current()
	if err != nil {
		return nil, err
	}
	return s.signing(at), nil
}

// published returns the JWKS (RFC 7517): the key that signs, those that have signed what
// is still valid, and the one that will sign next.
func (k *signingKeys) published() (jose.JSONWebKeySet, error) {
	s, _, err := k.current()
	if err != nil {
		return jose.JSONWebKeySet{}, err
	}
	var set jose.JSONWebKeySet
	for _, key := range s.keys {
		set.Keys = append(set.Keys, key.Public())
	}
	return set, nil
}

// byID returns the key that a token names.
func (k *signingKeys) byID(id string) (*jose.JSONWebKey, error) {
	s, _, err := k.current()
	if err != nil {
		return nil, err
	}
	for _, key := range s.keys {
		if key.KeyID == id {
			return key.JSONWebKey, nil
		}
	}
	return nil, errors.New("the token was not signed with a key of this server's, or with one that is gone")
}

// run reads the keys again and again, and replaces them when it is time, until the
// context ends.
func (k *signingKeys) run(ctx context.Context) error {
	tick := time.NewTicker(keyReload)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		passCtx, cancel := context.WithTimeout(ctx, keyReload)
		if err := k.refresh(passCtx); err != nil && ctx.Err() == nil {
			k.log.Warn("signing keys could not be read", "error", err)
		}
		cancel()
	}
}

// refresh reads the keys, and makes and deletes what it is time for.
func (k *signingKeys) refresh(ctx context.Context) error {
	read := k.now() // before it is asked: what is known is never taken for younger than it is
	s, err := k.read(ctx, k.pool)
	if err != nil {
		return err
	}
	var made *signingKey
	if s.outdated(k.rotation) || s.spent() > 0 {
		err := pgx.BeginTxFunc(ctx, k.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(schemaLock)); err != nil {
				return err
			}
			read = k.now()
			s, made, err = k.replace(ctx, tx)
			return err
		})
		if err != nil {
			return err
		}
	}
	if made != nil { // and committed
		k.log.InfoContext(ctx, "signing key made", "kid", made.KeyID, "created_at", made.created)
	}
	s.read = read
	k.state.Store(s)
	return nil
}

// replace makes a new key and deletes old ones, if it is time. The caller holds the lock.
func (k *signingKeys) replace(ctx context.Context, tx pgx.Tx) (s *keyState, made *signingKey, err error) {
	if s, err = k.read(ctx, tx); err != nil {
		return nil, nil, err
	}
	if s.outdated(k.rotation) {
		key, der, err := newSigningKey()
		if err != nil {
			return nil, nil, err
		}
		// The time after the key was made: nobody may take it for older than it is.
		err = tx.QueryRow(ctx, `INSERT INTO example_server_signing_keys (id, private_key, created_at)
			VALUES ($1, $2, coalesce($3::timestamptz, clock_timestamp())) RETURNING created_at`, key.KeyID, der, k.at()).Scan(&s.asOf)
		if err != nil {
			return nil, nil, err
		}
		made = &signingKey{key, s.asOf}
		s.keys = append([]signingKey{*made}, s.keys...)
	}
	for range s.spent() {
		last := len(s.keys) - 1
		if _, err := tx.Exec(ctx, "DELETE FROM example_server_signing_keys WHERE id = $1", s.keys[last].KeyID); err != nil {
			return nil, nil, err
		}
		s.keys = s.keys[:last]
	}
	return s, made, nil
}

// read reads the keys.
func (k *signingKeys) read(ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) (*keyState, error) {
	// The time comes also when there is no key.
	rows, err := db.Query(ctx, `SELECT coalesce($1::timestamptz, statement_timestamp()), private_key, created_at
		FROM (SELECT) AS now LEFT JOIN example_server_signing_keys ON true ORDER BY created_at DESC, id`, k.at())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var s keyState
	for rows.Next() {
		var der []byte
		var created *time.Time
		if err := rows.Scan(&s.asOf, &der, &created); err != nil {
			return nil, err
		}
		if created == nil {
			continue
		}
		key, err := parseSigningKey(der)
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, signingKey{key, *created})
	}
	return &s, rows.Err()
}

func newSigningKey() (*jose.JSONWebKey, []byte, error) {
	private, err := rsa.GenerateKey(rand.Reader, signingKeySize)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseSigningKey(der)
	return key, der, err
}

// parseSigningKey returns the key with its thumbprint (RFC 7638) as its id. It is an
// RSA key for RS256, which every OpenID Connect client knows.
func parseSigningKey(der []byte) (*jose.JSONWebKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("a key in example_server_signing_keys is no PKCS #8 key")
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key in example_server_signing_keys is a %T, expected RSA", parsed)
	}
	key := &jose.JSONWebKey{Key: private, Algorithm: string(jose.RS256), Use: "sig"}
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	key.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	return key, nil
}

// tokenSigner signs with the key of now and names it in the token, and reads what any
// of the keys has signed: id_token_hint may be older than the key of now.
type tokenSigner struct {
	*jwt.DefaultSigner
	keys *signingKeys
}

var _ jwt.Signer = tokenSigner{}

func newTokenSigner(keys *signingKeys) tokenSigner {
	return tokenSigner{&jwt.DefaultSigner{GetPrivateKey: func(context.Context) (interface{}, error) { return keys.signing() }}, keys}
}

// Decode implements jwt.Signer.
func (s tokenSigner) Decode(ctx context.Context, token string) (*jwt.Token, error) {
	verifier, err := s.signerOf(token)
	if err != nil {
		return nil, err
	}
	return verifier.Decode(ctx, token)
}

// Validate implements jwt.Signer.
func (s tokenSigner) Validate(ctx context.Context, token string) (string, error) {
	verifier, err := s.signerOf(token)
	if err != nil {
		return "", err
	}
	return verifier.Validate(ctx, token)
}

// signerOf returns a signer with the key that the token names.
func (s tokenSigner) signerOf(token string) (*jwt.DefaultSigner, error) {
	parsed, err := jose.ParseSigned(token)
	if err != nil || len(parsed.Signatures) != 1 {
		return nil, errors.New("it is no signed token")
	}
	key, err := s.keys.byID(parsed.Signatures[0].Header.KeyID)
	if err != nil {
		return nil, err
	}
	return &jwt.DefaultSigner{GetPrivateKey: func(context.Context) (interface{}, error) { return key, nil }}, nil
}
