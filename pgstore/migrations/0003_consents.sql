-- +goose Up
-- Consents: what is remembered, listed and revoked. Runs in one transaction: goose, tern
-- and pgstore.Migrate open it, psql needs --single-transaction.

SELECT pg_catalog.pg_advisory_xact_lock(7377854308561284724);

-- Columns that may be NULL: no row is rewritten. What a revocation writes is in no index.
ALTER TABLE "public"."consent_grants"
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN shown      bytea,
    ADD COLUMN remember   jsonb;

-- It holds for the release before, too, which does not know revoked_at. NOT VALID: no row
-- has one yet, and none is read to find that out.
ALTER TABLE "public"."consent_grants"
    ADD CONSTRAINT revoked_never_consumed CHECK (consumed_at <= revoked_at) NOT VALID;

CREATE TABLE "public"."consent_consents" (
    id             uuid        NOT NULL,
    decided_at     timestamptz NOT NULL,
    expires_at     timestamptz,
    revoked_at     timestamptz,
    remembered     boolean     NOT NULL,
    issuer         text        NOT NULL,
    subject        text        NOT NULL,
    client_id      text        NOT NULL,
    login_session  text        NOT NULL,
    scopes         text[]      NOT NULL,
    audience       text[]      NOT NULL,
    response_types text[]      NOT NULL,
    details        text[]      NOT NULL,
    shown          bytea       NOT NULL,
    request_id     text,
    data           bytea,
    remembered_scopes text[],
    CONSTRAINT "consent_consents_pkey" PRIMARY KEY (id)
);

-- Each has what a statement compares, and then the order in which it reads. Revoked
-- consents are in none of them, so that they do not slow the others down.
CREATE INDEX "consent_consents_subject_idx" ON "public"."consent_consents" (subject, id) WHERE revoked_at IS NULL;
CREATE INDEX "consent_consents_client_idx" ON "public"."consent_consents" (client_id, id) WHERE revoked_at IS NULL;
CREATE INDEX "consent_consents_find_idx" ON "public"."consent_consents" (subject, client_id, id)
    WHERE remembered AND revoked_at IS NULL;

CREATE TABLE "public"."consent_responses" (
    consent_id uuid        NOT NULL,
    issued_at  timestamptz NOT NULL,
    request_id text        NOT NULL,
    CONSTRAINT "consent_responses_pkey" PRIMARY KEY (request_id, consent_id)
);

CREATE INDEX "consent_responses_consent_idx" ON "public"."consent_responses" (consent_id, issued_at);

COMMENT ON COLUMN "public"."consent_grants".revoked_at IS
    'When the approval was taken back; NULL otherwise. Also of a grant that was consumed and whose response nobody had recorded. Never in an index.';
COMMENT ON COLUMN "public"."consent_grants".shown IS
    'Digest of what the page showed of the client; NULL where no consents are kept.';
COMMENT ON COLUMN "public"."consent_grants".remember IS
    'For how long, in nanoseconds, and for what the approval stands for later requests; NULL if it does not.';
COMMENT ON TABLE "public"."consent_consents" IS
    'One row for each approval that led to a response. Those that are remembered let later requests pass. Revoking marks a row, and never deletes it.';
COMMENT ON COLUMN "public"."consent_consents".id IS
    'That of the grant, a UUIDv7: the order of the list.';
COMMENT ON COLUMN "public"."consent_consents".decided_at IS
    'When the consent was recorded, by this database''s clock.';
COMMENT ON COLUMN "public"."consent_consents".expires_at IS
    'The first moment at which it is no longer live; NULL if it lasts until it is revoked.';
COMMENT ON COLUMN "public"."consent_consents".revoked_at IS
    'When it was taken back; NULL until then.';
COMMENT ON COLUMN "public"."consent_consents".remembered IS
    'Whether it covers later requests.';
COMMENT ON COLUMN "public"."consent_consents".issuer IS
    'The authorization server that it was given at.';
COMMENT ON COLUMN "public"."consent_consents".subject IS
    'The resource owner who decided (sub).';
COMMENT ON COLUMN "public"."consent_consents".client_id IS
    'The client that may do it.';
COMMENT ON COLUMN "public"."consent_consents".login_session IS
    'The login in which it was decided; empty where the host binds none.';
COMMENT ON COLUMN "public"."consent_consents".scopes IS
    'What was granted.';
COMMENT ON COLUMN "public"."consent_consents".remembered_scopes IS
    'Those of the scopes that may be granted again; NULL if there are none.';
COMMENT ON COLUMN "public"."consent_consents".audience IS
    'What was granted and, if it is remembered, may be granted again.';
COMMENT ON COLUMN "public"."consent_consents".response_types IS
    'The parts of the approved response type.';
COMMENT ON COLUMN "public"."consent_consents".details IS
    'The other parameters that say what is granted, as name=value.';
COMMENT ON COLUMN "public"."consent_consents".shown IS
    'Digest of what the page showed of the client.';
COMMENT ON COLUMN "public"."consent_consents".request_id IS
    'The response that the approval led to, by which a repeated call is recognised. Which others rest on the consent is in the table of responses.';
COMMENT ON COLUMN "public"."consent_consents".data IS
    'The host''s own data for the session, opaque here; NULL when there is none.';
COMMENT ON TABLE "public"."consent_responses" IS
    'Which responses rest on which consents. Who issues locks the consents; who revokes ends those first, and then looks here.';
COMMENT ON COLUMN "public"."consent_responses".consent_id IS
    'The consent. A response rests on one or more.';
COMMENT ON COLUMN "public"."consent_responses".issued_at IS
    'When the response was recorded, by this database''s clock. The last one is when the consent was last used.';
COMMENT ON COLUMN "public"."consent_responses".request_id IS
    'fosite''s id of the request, under which codes and tokens are kept.';

INSERT INTO "public"."consent_migrations" (version, name) VALUES (3, '0003_consents');
