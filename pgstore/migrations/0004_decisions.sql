-- +goose Up
-- The log of decisions. Runs in one transaction: goose, tern and pgstore.Migrate open it,
-- psql needs --single-transaction.

SELECT pg_catalog.pg_advisory_xact_lock(7377854308561284724);

-- Rows are added and never changed: give nobody who serves requests UPDATE or DELETE.
CREATE TABLE "public"."consent_decisions" (
    id                 uuid        NOT NULL,
    recorded_at        timestamptz NOT NULL,
    outcome            text        NOT NULL,
    reason             text,
    basis              text,
    issuer             text        NOT NULL,
    subject            text        NOT NULL,
    client_id          text        NOT NULL,
    requested_scopes   text[],
    requested_audience text[],
    scopes             text[],
    audience           text[],
    consent_ids        uuid[],
    shown              bytea,
    CONSTRAINT "consent_decisions_pkey" PRIMARY KEY (id)
);

-- What a resource owner can ask for, and have erased. The key is ordered by time, and serves for
-- everything else.
CREATE INDEX "consent_decisions_subject_idx" ON "public"."consent_decisions" (subject, id);

COMMENT ON TABLE "public"."consent_decisions" IS
    'The log of decisions: one row for each. Rows are added, and deleted when their retention ends or their subject is erased, and never changed.';
COMMENT ON COLUMN "public"."consent_decisions".id IS
    'The row''s own, a UUIDv7 by the clock of the process that decided: the order of the log.';
COMMENT ON COLUMN "public"."consent_decisions".recorded_at IS
    'When it was decided, by this database''s clock.';
COMMENT ON COLUMN "public"."consent_decisions".outcome IS
    'approved, denied, passed, refused or revoked.';
COMMENT ON COLUMN "public"."consent_decisions".reason IS
    'Why it was refused; NULL otherwise.';
COMMENT ON COLUMN "public"."consent_decisions".basis IS
    'By what it passed: grant, remembered or pre_approved; NULL otherwise.';
COMMENT ON COLUMN "public"."consent_decisions".issuer IS
    'The authorization server that it was decided at.';
COMMENT ON COLUMN "public"."consent_decisions".subject IS
    'The resource owner (sub). Erasing goes by it.';
COMMENT ON COLUMN "public"."consent_decisions".client_id IS
    'The client that it is about.';
COMMENT ON COLUMN "public"."consent_decisions".requested_scopes IS
    'What was asked for; NULL for nothing, as everywhere here.';
COMMENT ON COLUMN "public"."consent_decisions".requested_audience IS
    'What was asked for.';
COMMENT ON COLUMN "public"."consent_decisions".scopes IS
    'What was granted, or is not any more.';
COMMENT ON COLUMN "public"."consent_decisions".audience IS
    'What was granted, or is not any more.';
COMMENT ON COLUMN "public"."consent_decisions".consent_ids IS
    'The consents that it rests on; of an approval that of the grant.';
COMMENT ON COLUMN "public"."consent_decisions".shown IS
    'Digest of what the page showed of the client; NULL where nobody was shown anything.';

INSERT INTO "public"."consent_migrations" (version, name) VALUES (4, '0004_decisions');
