package storagetest

import (
	"context"
	"time"

	"github.com/ory/fosite"
)

// Storage is what every storage has to have: fosite.ClientManager, and what the
// package handler/oauth2 names CoreStorage and TokenRevocationStorage. It is
// declared here because that package links test libraries into whoever imports it.
// The rest are parts, by which a storage may have more methods: see [Part].
type Storage interface {
	fosite.ClientManager

	CreateAuthorizeCodeSession(ctx context.Context, signature string, request fosite.Requester) error
	GetAuthorizeCodeSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error)
	InvalidateAuthorizeCodeSession(ctx context.Context, signature string) error

	CreateAccessTokenSession(ctx context.Context, signature string, request fosite.Requester) error
	GetAccessTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error)
	DeleteAccessTokenSession(ctx context.Context, signature string) error

	CreateRefreshTokenSession(ctx context.Context, signature, accessSignature string, request fosite.Requester) error
	GetRefreshTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error)
	DeleteRefreshTokenSession(ctx context.Context, signature string) error
	RotateRefreshToken(ctx context.Context, requestID, signature string) error

	RevokeRefreshToken(ctx context.Context, requestID string) error
	RevokeAccessToken(ctx context.Context, requestID string) error
}

// Part is something that not every storage has. What a storage has is seen by its
// methods or, where there are none, by [Config.Without] alone.
type Part string

const (
	// PKCE is handler/pkce's PKCERequestStorage: CreatePKCERequestSession,
	// GetPKCERequestSession, DeletePKCERequestSession.
	PKCE Part = "PKCE"
	// OpenIDConnect is handler/openid's OpenIDConnectRequestStorage:
	// CreateOpenIDConnectSession, GetOpenIDConnectSession, DeleteOpenIDConnectSession.
	OpenIDConnect Part = "OpenID Connect"
	// PAR is fosite.PARStorage: CreatePARSession, GetPARSession, DeletePARSession.
	PAR Part = "PAR"
	// JWTBearer is the half of handler/rfc7523's RFC7523KeyStorage that remembers
	// which JWTs were used: IsJWTUsed, MarkJWTUsedForTime. The other half, the keys,
	// is not tested.
	JWTBearer Part = "JWT bearer"
	// Nonces is handler/verifiable's NonceManager: NewNonce, IsNonceValid.
	Nonces Part = "nonces"
	// Transactions is fosite/storage's Transactional: BeginTX, Commit, Rollback.
	// Without it, some of the contract can hardly be kept.
	Transactions Part = "transactions"
	// Clock is that the storage asks [Options.Now]. It has no methods.
	Clock Part = "an explicit clock"
	// Outage is that newStorage can return a storage whose backend is gone: see
	// [Options.Broken]. It has no methods.
	Outage Part = "a backend that can be out of reach"
)

type pkceStorage interface {
	CreatePKCERequestSession(ctx context.Context, signature string, request fosite.Requester) error
	GetPKCERequestSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error)
	DeletePKCERequestSession(ctx context.Context, signature string) error
}

type openIDStorage interface {
	CreateOpenIDConnectSession(ctx context.Context, code string, request fosite.Requester) error
	GetOpenIDConnectSession(ctx context.Context, code string, request fosite.Requester) (fosite.Requester, error)
	DeleteOpenIDConnectSession(ctx context.Context, code string) error
}

type jwtBearerStorage interface {
	IsJWTUsed(ctx context.Context, jti string) (bool, error)
	MarkJWTUsedForTime(ctx context.Context, jti string, exp time.Time) error
}

type nonceStorage interface {
	NewNonce(ctx context.Context, accessToken string, expiresAt time.Time) (string, error)
	IsNonceValid(ctx context.Context, accessToken, nonce string) error
}

type transactional interface {
	BeginTX(ctx context.Context) (context.Context, error)
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// parts is every part in the order of the report, with how to see it in a storage:
// nil where it has no methods.
var parts = []struct {
	part   Part
	seenIn func(Storage) bool
}{
	{PKCE, has[pkceStorage]},
	{OpenIDConnect, has[openIDStorage]},
	{PAR, has[fosite.PARStorage]},
	{JWTBearer, has[jwtBearerStorage]},
	{Nonces, has[nonceStorage]},
	{Transactions, has[transactional]},
	{Clock, nil},
	{Outage, nil},
}

func has[T any](s Storage) bool {
	_, ok := s.(T)
	return ok
}
