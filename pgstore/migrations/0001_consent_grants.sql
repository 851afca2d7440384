-- +goose Up
-- Consent grants of fosite-consent. Runs in one transaction: goose, tern and
-- pgstore.Migrate open it, psql needs --single-transaction.

SELECT pg_catalog.pg_advisory_xact_lock(7377854308561284724);

CREATE TABLE "public"."consent_migrations" (
    version    integer     NOT NULL,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT "consent_migrations_pkey" PRIMARY KEY (version),
    CONSTRAINT version_positive CHECK (version > 0)
);

COMMENT ON TABLE "public"."consent_migrations" IS
    'Which migrations of fosite-consent ran here. Each one adds its own row.';

-- Columns of fixed width come first, so that none of them is padded.
CREATE TABLE "public"."consent_grants" (
    id          uuid        NOT NULL,
    decided_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    consumed_at timestamptz,
    attempt     uuid,
    denied      boolean     NOT NULL,
    secret_hash bytea       NOT NULL,
    binding     bytea       NOT NULL,
    subject     text        NOT NULL,
    client_id   text        NOT NULL,
    scopes      text[]      NOT NULL,
    audience    text[]      NOT NULL,
    data        bytea,
    CONSTRAINT "consent_grants_pkey" PRIMARY KEY (id),
    CONSTRAINT id_not_zero CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    CONSTRAINT secret_hash_is_sha256 CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT binding_is_sha256 CHECK (octet_length(binding) = 32),
    CONSTRAINT subject_not_empty CHECK (subject <> ''),
    CONSTRAINT client_id_not_empty CHECK (client_id <> ''),
    CONSTRAINT scopes_without_null CHECK (array_position(scopes, NULL) IS NULL),
    CONSTRAINT audience_without_null CHECK (array_position(audience, NULL) IS NULL),
    CONSTRAINT data_null_when_empty CHECK (octet_length(data) > 0),
    CONSTRAINT expires_after_decided CHECK (expires_at > decided_at),
    CONSTRAINT denied_never_consumed CHECK (NOT (denied AND consumed_at IS NOT NULL)),
    CONSTRAINT consumed_before_expiry CHECK (consumed_at < expires_at),
    CONSTRAINT consumed_by_an_attempt CHECK ((consumed_at IS NULL) = (attempt IS NULL))
) WITH (fillfactor = 70);
-- Each grant is updated once, soon after it was inserted. The free space keeps
-- that update on the row's own page (heap-only). For the same reason no index may
-- ever hold a column that consume writes, nor depend on one in its WHERE clause.

CREATE INDEX "consent_grants_expires_at_idx" ON "public"."consent_grants" (expires_at);

COMMENT ON TABLE "public"."consent_grants" IS
    'One row for each decision of a resource owner on one prompt. A row is spent at most once.';
COMMENT ON COLUMN "public"."consent_grants".id IS
    'The prompt''s id, a UUIDv7. Not a secret and no proof; logs name the grant by it.';
COMMENT ON COLUMN "public"."consent_grants".decided_at IS
    'When the decision was stored, by this database''s clock.';
COMMENT ON COLUMN "public"."consent_grants".expires_at IS
    'The first moment at which the grant can no longer be consumed. Sweeping goes by it.';
COMMENT ON COLUMN "public"."consent_grants".consumed_at IS
    'When the grant was spent; NULL until then. Never in an index.';
COMMENT ON COLUMN "public"."consent_grants".attempt IS
    'The call that spent the grant, so that it can ask again after a lost connection. Never in an index.';
COMMENT ON COLUMN "public"."consent_grants".denied IS
    'The resource owner said no. Such a row is never consumed; it keeps the prompt from being answered again.';
COMMENT ON COLUMN "public"."consent_grants".secret_hash IS
    'SHA-256 of the token''s secret part. The token itself is stored nowhere.';
COMMENT ON COLUMN "public"."consent_grants".binding IS
    'Digest of the authorization request and the subject, as shown to the resource owner. The version of its form is hashed with it.';
COMMENT ON COLUMN "public"."consent_grants".subject IS
    'The resource owner who decided (sub). Covered by the binding.';
COMMENT ON COLUMN "public"."consent_grants".client_id IS
    'The client that the decision is about. Covered by the binding.';
COMMENT ON COLUMN "public"."consent_grants".scopes IS
    'What was granted, a subset of what was requested.';
COMMENT ON COLUMN "public"."consent_grants".audience IS
    'What was granted, a subset of what was requested.';
COMMENT ON COLUMN "public"."consent_grants".data IS
    'The host''s own data for the session, opaque here; NULL when there is none.';

INSERT INTO "public"."consent_migrations" (version, name) VALUES (1, '0001_consent_grants');
