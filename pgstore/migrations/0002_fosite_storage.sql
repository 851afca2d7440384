-- +goose Up
-- fosite's storage, of pgstore/fositestore. Runs in one transaction: goose, tern and
-- pgstore.Migrate open it, psql needs --single-transaction.

SELECT pg_catalog.pg_advisory_xact_lock(7377854308561284724);

-- No code, token, signature, request_uri or JWT ID is stored: the keys are SHA-256 of
-- them. Requests are JSON objects that say in "v" which form they have.

CREATE TABLE "public"."consent_codes" (
    expires_at     timestamptz NOT NULL,
    used_at        timestamptz,
    attempt        uuid,
    signature_hash bytea       NOT NULL,
    request_id     text        NOT NULL,
    client_id      text        NOT NULL,
    subject        text        NOT NULL,
    request        jsonb       NOT NULL,
    pkce           jsonb,
    openid         jsonb,
    CONSTRAINT "consent_codes_pkey" PRIMARY KEY (signature_hash),
    CONSTRAINT signature_hash_is_sha256 CHECK (octet_length(signature_hash) = 32),
    CONSTRAINT used_by_an_attempt CHECK ((used_at IS NULL) = (attempt IS NULL))
) WITH (fillfactor = 80);
-- A code is updated once, and a token at most once. What that writes is in no index,
-- and the free space keeps it on the row's own page (heap-only).

CREATE INDEX "consent_codes_expires_idx" ON "public"."consent_codes" (expires_at);

CREATE TABLE "public"."consent_access_tokens" (
    expires_at     timestamptz,
    ended_at       timestamptz,
    signature_hash bytea       NOT NULL,
    request_id     text        NOT NULL,
    client_id      text        NOT NULL,
    subject        text        NOT NULL,
    request        jsonb       NOT NULL,
    CONSTRAINT "consent_access_tokens_pkey" PRIMARY KEY (signature_hash),
    CONSTRAINT signature_hash_is_sha256 CHECK (octet_length(signature_hash) = 32)
) WITH (fillfactor = 80);

CREATE INDEX "consent_access_expires_idx" ON "public"."consent_access_tokens" (expires_at);
CREATE INDEX "consent_access_request_idx" ON "public"."consent_access_tokens" (request_id);

CREATE TABLE "public"."consent_refresh_tokens" (
    expires_at     timestamptz,
    ended_at       timestamptz,
    attempt        uuid,
    signature_hash bytea       NOT NULL,
    request_id     text        NOT NULL,
    client_id      text        NOT NULL,
    subject        text        NOT NULL,
    request        jsonb       NOT NULL,
    CONSTRAINT "consent_refresh_tokens_pkey" PRIMARY KEY (signature_hash),
    CONSTRAINT signature_hash_is_sha256 CHECK (octet_length(signature_hash) = 32),
    CONSTRAINT an_attempt_ended_it CHECK (attempt IS NULL OR ended_at IS NOT NULL)
) WITH (fillfactor = 80);

CREATE INDEX "consent_refresh_expires_idx" ON "public"."consent_refresh_tokens" (expires_at);
CREATE INDEX "consent_refresh_request_idx" ON "public"."consent_refresh_tokens" (request_id);

CREATE TABLE "public"."consent_pushed_requests" (
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    attempt    uuid,
    uri_hash   bytea       NOT NULL,
    request_id text        NOT NULL,
    client_id  text        NOT NULL,
    request    jsonb       NOT NULL,
    CONSTRAINT "consent_pushed_requests_pkey" PRIMARY KEY (uri_hash),
    CONSTRAINT uri_hash_is_sha256 CHECK (octet_length(uri_hash) = 32),
    CONSTRAINT used_by_an_attempt CHECK ((used_at IS NULL) = (attempt IS NULL))
) WITH (fillfactor = 80);

CREATE INDEX "consent_pushed_expires_idx" ON "public"."consent_pushed_requests" (expires_at);

CREATE TABLE "public"."consent_jtis" (
    expires_at timestamptz NOT NULL,
    attempt    uuid        NOT NULL,
    jti_hash   bytea       NOT NULL,
    CONSTRAINT "consent_jtis_pkey" PRIMARY KEY (jti_hash),
    CONSTRAINT jti_hash_is_sha256 CHECK (octet_length(jti_hash) = 32)
);

CREATE INDEX "consent_jtis_expires_idx" ON "public"."consent_jtis" (expires_at);

CREATE TABLE "public"."consent_nonces" (
    expires_at timestamptz NOT NULL,
    nonce_hash bytea       NOT NULL,
    CONSTRAINT "consent_nonces_pkey" PRIMARY KEY (nonce_hash),
    CONSTRAINT nonce_hash_is_sha256 CHECK (octet_length(nonce_hash) = 32)
);

CREATE INDEX "consent_nonces_expires_idx" ON "public"."consent_nonces" (expires_at);

CREATE TABLE "public"."consent_clients" (
    id     text  NOT NULL,
    client jsonb NOT NULL,
    CONSTRAINT "consent_clients_pkey" PRIMARY KEY (id),
    CONSTRAINT id_not_empty CHECK (id <> '')
);

CREATE TABLE "public"."consent_issuer_keys" (
    issuer  text   NOT NULL,
    subject text   NOT NULL,
    key_id  text   NOT NULL,
    scopes  text[] NOT NULL,
    key     jsonb  NOT NULL,
    CONSTRAINT "consent_issuer_keys_pkey" PRIMARY KEY (issuer, subject, key_id)
);

COMMENT ON TABLE "public"."consent_codes" IS
    'Authorization codes, each with its PKCE data and OpenID Connect session. A row is used at most once, and stays until it is swept.';
COMMENT ON COLUMN "public"."consent_codes".attempt IS
    'The redemption that used the code: its tokens are stored only where it is, and it can ask again after a lost connection.';
COMMENT ON COLUMN "public"."consent_codes".pkce IS
    'What the PKCE handler stored. What is missing is as in the request.';
COMMENT ON COLUMN "public"."consent_codes".openid IS
    'What the OpenID Connect handler stored. What is missing is as in the request.';
COMMENT ON TABLE "public"."consent_access_tokens" IS
    'Access tokens, also those that were ended before they expired.';
COMMENT ON TABLE "public"."consent_refresh_tokens" IS
    'Refresh tokens. Those that were rotated (attempt is set) or revoked stay until they are swept, so that a reuse is recognised.';
COMMENT ON COLUMN "public"."consent_refresh_tokens".expires_at IS
    'NULL for a token that never expires, which is never swept either.';
COMMENT ON TABLE "public"."consent_pushed_requests" IS
    'Pushed authorization requests (RFC 9126), without the credentials of the client. Readable until they expire; one authorization response each.';
COMMENT ON TABLE "public"."consent_jtis" IS
    'IDs of JWTs that have been used, of client assertions and of authorization grants (RFC 7523), apart from each other.';
COMMENT ON TABLE "public"."consent_nonces" IS
    'Nonces for verifiable credentials, hashed together with the access token that they are for.';
COMMENT ON TABLE "public"."consent_clients" IS
    'OAuth 2.0 clients. Their secrets are what the host stores of them: hashes.';
COMMENT ON TABLE "public"."consent_issuer_keys" IS
    'Public keys of who may issue JWTs as authorization grants (RFC 7523), with the scopes that they may ask for.';

INSERT INTO "public"."consent_migrations" (version, name) VALUES (2, '0002_fosite_storage');
