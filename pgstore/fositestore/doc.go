// Package fositestore is fosite's storage on Postgres, complete: codes, PKCE, OpenID
// Connect sessions, access and refresh tokens, pushed requests, JWT IDs, clients, keys of
// issuers and nonces, for every factory of fosite's package compose.
//
//	err := pgstore.Migrate(ctx, pool, pgstore.Config{})
//	store, err := fositestore.New(pool, fositestore.Config{
//		NewSession: func() fosite.Session { return openid.NewDefaultSession() },
//	})
//	provider := compose.Compose(config, store, strategy, gate.Factory, …)
//
// # What it promises
//
// No code, access or refresh token, signature, request_uri or JWT ID is in the database, only
// SHA-256 of them; and in no error either. What fosite needs of a request is there as it
// was sent, an id_token_hint or a request object among it.
//
// A code is used once, a refresh token rotated once, and a pushed request leads to one code,
// though one that was denied may still be approved until it expires: whatever races with what
// and on how many nodes. Who comes second with a code or a refresh token ends every token of the
// request (RFC 6749, Section 4.1.2; RFC 9700, Section 4.14.2), and that survives the rollback
// that follows. No token that is being issued while its family is revoked outlives the
// revocation, but for those of a code: one that nobody has redeemed is not revoked, as with
// fosite's own storage.
//
// Where consents are kept (fositeconsent.Config.Consents, a pgstore.Store on the same tables), a code
// is used, and a refresh token rotated, only while every consent is live that the response was
// issued under: neither revoked nor expired. Who issues holds these consents until its end, so that
// what is being issued while one is revoked is either ended by that or refused. Then no code, access
// or refresh token of the response works any more, but for access tokens that nobody asks this
// storage about (self-contained ones). Expiry ends no access token. The client is told
// invalid_grant, in a race by the provider that fositeconsent.Gate.Protect returned, and the error
// wraps fositeconsent.ErrConsentRevoked or ErrConsentExpired.
//
// fosite answers who comes second in a race for a code with server_error, and for a refresh
// token with invalid_request. They wrap fosite.ErrInvalidatedAuthorizeCode and
// fosite.ErrInactiveToken. A host that would rather say invalid_grant (RFC 6749, Section 5.2) maps
// them:
//
//	if errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) || errors.Is(err, fosite.ErrInactiveToken) {
//		err = fosite.ErrInvalidGrant.WithWrap(err)
//	}
//	provider.WriteAccessError(ctx, w, accessRequest, err)
//
// A call that has lost its connection is made again on another, and recognises its own first try.
// If there is none to be had it fails, and has taken effect as a whole or not at all. A client
// that was told nothing tries again. Either that succeeds, or the first try took effect: then the
// next one is a reuse, the tokens that nobody has heard of end, and the user has to sign in again.
//
// PKCE data and the OpenID Connect session live in the code's row and go with it: a
// wrong verifier cannot be followed by none, and fosite's calls that delete them do
// nothing. What is used, rotated or revoked stays until it has expired and is swept.
//
// Nothing here is bound to an issuer. Issuers that share a database and a secret need tables
// of their own (Config.Tables), or fosite takes the codes and tokens of one for another's.
//
// # Transactions
//
// BeginTX, Commit and Rollback are those of pgstore.Transactions. A pgstore.Store on
// the same pool joins by itself. Writes are queued: a code with all that belongs to it is one
// INSERT, sent when the transaction is committed; the exchange of a code, or of a refresh token,
// is one round trip, in which each statement depends on that the first one wins. So the error of
// the one that loses is Commit's. Reading sends what is queued first. Where a pgstore.Store mints
// the grant in the same transaction, all of it depends on that mint's being the first.
//
// A revocation in a transaction takes effect after its end, also if it is rolled back. In
// a transaction of the host's (pgstore.WithTx) it is part of that, and lost with it.
//
// Sessions and clients are stored as encoding/json has them. A client is read again
// with each code and token, by its ID; if it is gone, so are they.
//
// # Roles
//
// Besides those of pgstore:
//
//	GRANT SELECT, INSERT, UPDATE (used_at, attempt, pkce, openid) ON public.consent_codes TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (ended_at) ON public.consent_access_tokens TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (ended_at, attempt) ON public.consent_refresh_tokens TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (used_at, attempt) ON public.consent_pushed_requests TO consent_server;
//	GRANT SELECT, INSERT, UPDATE (expires_at, attempt) ON public.consent_jtis TO consent_server;
//	GRANT SELECT, INSERT ON public.consent_nonces TO consent_server;
//	GRANT SELECT ON public.consent_clients, public.consent_issuer_keys TO consent_server;
//	GRANT SELECT, UPDATE (revoked_at) ON public.consent_consents TO consent_server;
//	GRANT SELECT ON public.consent_responses TO consent_server;
//	GRANT SELECT (signature_hash, expires_at), DELETE, UPDATE (attempt) ON public.consent_codes, public.consent_refresh_tokens TO consent_sweeper;
//	GRANT SELECT (signature_hash, expires_at), DELETE, UPDATE (ended_at) ON public.consent_access_tokens TO consent_sweeper;
//	GRANT SELECT (request_id, ended_at) ON public.consent_refresh_tokens, public.consent_access_tokens TO consent_sweeper;
//	GRANT SELECT (id, decided_at, expires_at, revoked_at, remembered), DELETE, UPDATE (revoked_at) ON public.consent_consents TO consent_sweeper;
//	GRANT SELECT, DELETE, UPDATE (issued_at) ON public.consent_responses TO consent_sweeper;
//	GRANT SELECT (uri_hash, expires_at), DELETE, UPDATE (attempt) ON public.consent_pushed_requests TO consent_sweeper;
//	GRANT SELECT (jti_hash, expires_at), DELETE, UPDATE (attempt) ON public.consent_jtis TO consent_sweeper;
//	GRANT SELECT (nonce_hash, expires_at), DELETE, UPDATE (expires_at) ON public.consent_nonces TO consent_sweeper;
//
// Who manages clients and keys needs INSERT, UPDATE and DELETE on consent_clients and
// consent_issuer_keys besides.
package fositestore
