-- +goose Up
-- Consent requests that are answered elsewhere. Runs in one transaction: goose, tern
-- and pgstore.Migrate open it, psql needs --single-transaction.

SELECT pg_catalog.pg_advisory_xact_lock(7377854308561284724);

-- Columns of fixed width come first, so that none of them is padded.
CREATE TABLE "public"."consent_requests" (
    id             uuid        NOT NULL,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    answered_at    timestamptz,
    used_at        timestamptz,
    revoked_at     timestamptz,
    accepted       boolean,
    challenge_hash bytea       NOT NULL,
    browser_hash   bytea       NOT NULL,
    subject        text        NOT NULL,
    client_id      text        NOT NULL,
    login_session  text        NOT NULL,
    document       bytea       NOT NULL,
    answer_digest  bytea,
    verifier_hash  bytea,
    answer         bytea,
    CONSTRAINT "consent_requests_pkey" PRIMARY KEY (id),
    CONSTRAINT id_not_zero CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    CONSTRAINT challenge_hash_is_sha256 CHECK (octet_length(challenge_hash) = 32),
    CONSTRAINT browser_hash_is_sha256 CHECK (octet_length(browser_hash) = 32),
    CONSTRAINT answer_digest_is_sha256 CHECK (octet_length(answer_digest) = 32),
    CONSTRAINT verifier_hash_is_sha256 CHECK (octet_length(verifier_hash) = 32),
    CONSTRAINT subject_not_empty CHECK (subject <> ''),
    CONSTRAINT client_id_not_empty CHECK (client_id <> ''),
    CONSTRAINT document_not_empty CHECK (octet_length(document) > 0),
    CONSTRAINT answer_not_empty CHECK (octet_length(answer) > 0),
    CONSTRAINT expires_after_created CHECK (expires_at > created_at),
    CONSTRAINT answered_before_expiry CHECK (answered_at < expires_at),
    CONSTRAINT answered_as_a_whole CHECK (num_nulls(answered_at, accepted, answer_digest, verifier_hash, answer) IN (0, 5)),
    CONSTRAINT used_only_if_accepted CHECK (used_at IS NULL OR accepted IS TRUE),
    CONSTRAINT used_before_expiry CHECK (used_at < expires_at),
    CONSTRAINT revoked_only_if_accepted CHECK (revoked_at IS NULL OR accepted IS TRUE),
    CONSTRAINT used_or_revoked CHECK (num_nonnulls(used_at, revoked_at) < 2)
) WITH (fillfactor = 70);
-- Each request is updated twice or so, soon after it was inserted. The free space keeps that on the row's own
-- page (heap-only). For the same reason no index may ever hold a column that is written later, nor depend on
-- one in its WHERE clause.

-- What is swept.
CREATE INDEX "consent_requests_expiry_idx" ON "public"."consent_requests" (expires_at);
-- What a revocation looks through.
CREATE INDEX "consent_requests_subject_idx" ON "public"."consent_requests" (subject, expires_at);

COMMENT ON TABLE "public"."consent_requests" IS
    'One row for each prompt that is answered by a consent application. pending until it is answered; then used or revoked, once, or expired.';
COMMENT ON COLUMN "public"."consent_requests".id IS
    'That of the prompt, a UUIDv7, and so that of the grant and of the consent it may lead to.';
COMMENT ON COLUMN "public"."consent_requests".created_at IS
    'By this database''s clock.';
COMMENT ON COLUMN "public"."consent_requests".expires_at IS
    'The first moment at which it can be neither answered nor used any more.';
COMMENT ON COLUMN "public"."consent_requests".answered_at IS
    'When it was answered; NULL until then.';
COMMENT ON COLUMN "public"."consent_requests".used_at IS
    'When the answer led to a response, in whose transaction this is written; NULL until then. Never in an index.';
COMMENT ON COLUMN "public"."consent_requests".revoked_at IS
    'When the answer was taken back before it was used; NULL otherwise. Never in an index.';
COMMENT ON COLUMN "public"."consent_requests".accepted IS
    'What the answer was; NULL until there is one.';
COMMENT ON COLUMN "public"."consent_requests".challenge_hash IS
    'SHA-256 of the handle that the consent application has.';
COMMENT ON COLUMN "public"."consent_requests".browser_hash IS
    'SHA-256 of what the browser''s cookie holds.';
COMMENT ON COLUMN "public"."consent_requests".subject IS
    'The resource owner who is asked (sub).';
COMMENT ON COLUMN "public"."consent_requests".client_id IS
    'The client that asks.';
COMMENT ON COLUMN "public"."consent_requests".login_session IS
    'The login in which they are asked; empty where the host names none.';
COMMENT ON COLUMN "public"."consent_requests".document IS
    'JSON: what the application is shown, the authorization request, and the sealed ticket.';
COMMENT ON COLUMN "public"."consent_requests".answer_digest IS
    'SHA-256 of the answer: the same one may be given again.';
COMMENT ON COLUMN "public"."consent_requests".verifier_hash IS
    'SHA-256 of the handle by which the browser brings the answer.';
COMMENT ON COLUMN "public"."consent_requests".answer IS
    'JSON: what was decided.';

INSERT INTO "public"."consent_migrations" (version, name) VALUES (5, '0005_consent_requests');
