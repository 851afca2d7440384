package fositestore

import (
	"strings"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
)

// statements are what is sent, with the names of the tables. Where one has {if}, that is
// what its transaction has claimed (tx.Unit.Require).
type statements struct {
	createCode, sameCode, readCode, useCode, codeUsedBy, codeExists string
	setPKCE, setOpenID                                              string
	createAccess, sameToken, readAccess, endAccess, accessExists    string
	createRefresh, readRefresh, endRefresh, refreshExists           string
	rotate, rotatedBy, endAccessOf, reusedCode, reusedToken         string
	lockRequests, revokeCodes, revokeAccess, revokeRefresh          string
	push, readPushed, claimPushed                                   string
	useJTI, jtiUsed                                                 string
	createNonce, nonceValid                                         string
	readClient, createClient, updateClient, deleteClient            string
	readKey, readKeys, setKey, deleteKey                            string
	sweepConsents                                                   string
}

// Who issues and who revokes take their locks in this order, so that none waits for another
// in a circle:
//
//  1. the consents that the request rests on, in the order of their IDs,
//  2. the family of tokens that the request led to, in the order of the lock's keys,
//  3. the code or the refresh token that is claimed, or what is ended: codes, refresh tokens,
//     access tokens, each in the order of their keys.
//
// What is being issued while a revocation starts is either seen by that, or sees it: both take a
// lock, and only then look at rows, in a statement that begins after the wait. A
// revocation that starts with the consents (RevokeRequests) need not lock the families:
// whoever issued for them had the consent, and nobody gets it any more.

// lock is of the family of tokens that one request led to. Who issues takes it shared,
// who revokes takes it alone.
const lock = `hashtextextended(request_id, 7377854308561284724)`

// lockRevoking is a statement of its own: the next one's snapshot is taken after the wait.
const lockRevoking = `SELECT pg_advisory_xact_lock(hashtextextended($1::text, 7377854308561284724))`

// claimable locks the consents of the row t's request, then its family, and holds where each
// consent is live: also where there is none, since not every host keeps them, but not where
// one is gone. CASE keeps the order. A consent that somebody is revoking is waited for, and
// looked at again. All of them are locked whatever they are, since bool_and wants to see all.
//
// FOR SHARE would do for that. But who only shares a row passes those that wait to change it: a
// client that refreshes all the time would keep a revocation waiting for as long as it likes.
const claimable = `CASE WHEN (
	SELECT bool_and(held.live IS TRUE)
	FROM (SELECT consent_id FROM {responses} WHERE request_id = t.request_id ORDER BY consent_id) AS r
	LEFT JOIN LATERAL (
		SELECT c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > coalesce({now}::timestamptz, statement_timestamp())) AS live
		FROM {consents} AS c WHERE c.id = r.consent_id FOR NO KEY UPDATE
	) AS held ON true
) IS NOT FALSE THEN pg_advisory_xact_lock_shared(` + lock + `) IS NOT NULL END`

// consentOf says whether the consents of the row t's request are live (0), or one of them has
// expired (1), or was revoked or is gone (2).
const consentOf = `coalesce((
	SELECT max(coalesce((
		SELECT CASE WHEN c.revoked_at IS NOT NULL THEN 2 WHEN c.expires_at <= coalesce({now}::timestamptz, statement_timestamp()) THEN 1 ELSE 0 END
		FROM {consents} AS c WHERE c.id = r.consent_id
	), 2))
	FROM {responses} AS r WHERE r.request_id = t.request_id
), 0)`

// sweepConsents looks at a page of consents. Of each it deletes the responses that have
// nothing left which could be used, but for the last one, by which one knows when the consent was
// used; and the consent itself, with that, when it covers nothing any more. A rotation
// ends a refresh token and issues the next one at once, so that one of them is always seen.
// Scalar sub-selects and LIMIT keep to the indexes whatever the planner knows about the tables.
const sweepConsents = `
WITH page AS MATERIALIZED (
	SELECT id, coalesce($3::timestamptz, statement_timestamp()) - $1::bigint * interval '1 microsecond' AS horizon,
		greatest(CASE WHEN remembered THEN least(revoked_at, expires_at) ELSE decided_at END, revoked_at) AS over_since
	FROM {consents}
	WHERE id > coalesce($4::text, '00000000-0000-0000-0000-000000000000')::uuid
	ORDER BY id LIMIT $2::integer
), unused AS MATERIALIZED (
	SELECT r.place, r.newer, page.id FROM page CROSS JOIN LATERAL (
		SELECT r.ctid AS place, (
			SELECT true FROM {responses} AS n
			WHERE n.consent_id = page.id AND (n.issued_at, n.request_id) > (r.issued_at, r.request_id) LIMIT 1
		) AS newer
		FROM {responses} AS r
		WHERE r.consent_id = page.id AND r.issued_at <= page.horizon
		  AND (SELECT true FROM {access} AS t WHERE t.request_id = r.request_id AND t.ended_at IS NULL LIMIT 1) IS NULL
		  AND (SELECT true FROM {refresh} AS t WHERE t.request_id = r.request_id AND t.ended_at IS NULL LIMIT 1) IS NULL
		ORDER BY r.issued_at LIMIT $2::integer FOR UPDATE OF r SKIP LOCKED
	) AS r LIMIT $2::integer
), over AS MATERIALIZED (
	SELECT c.id FROM {consents} AS c WHERE c.id = ANY (ARRAY(
		SELECT page.id FROM page WHERE over_since <= horizon AND (
			SELECT count(*) FROM (SELECT FROM {responses} AS r WHERE r.consent_id = page.id LIMIT 2) AS r
		) = (SELECT count(*) FROM unused WHERE unused.id = page.id AND newer IS NULL)
	)) FOR UPDATE SKIP LOCKED
), responses AS (
	DELETE FROM {responses} WHERE ctid = ANY (ARRAY(
		SELECT place FROM unused WHERE newer OR id IN (SELECT over.id FROM over)
	)) RETURNING 1
), consents AS (
	DELETE FROM {consents} WHERE id = ANY (ARRAY(SELECT id FROM over)) RETURNING 1
)
SELECT (SELECT count(*) FROM responses) + (SELECT count(*) FROM consents),
	(SELECT id::text FROM page ORDER BY id OFFSET $2::integer - 1)`

// unrecorded are the requests of which nobody knows on which consents they rest.
const unrecorded = `SELECT request_id FROM unnest($1::text[]) AS asked (request_id)
	WHERE NOT EXISTS (SELECT FROM {responses} AS r WHERE r.request_id = asked.request_id)`

func newStatements(n schema.Names) statements {
	names := strings.NewReplacer(
		"{consents}", n.Table("consents"),
		"{responses}", n.Table("responses"),
		"{codes}", n.Table("codes"),
		"{access}", n.Table("access_tokens"),
		"{refresh}", n.Table("refresh_tokens"),
		"{pushed}", n.Table("pushed_requests"),
		"{jtis}", n.Table("jtis"),
		"{nonces}", n.Table("nonces"),
		"{clients}", n.Table("clients"),
		"{keys}", n.Table("issuer_keys"),
	)
	r := names.Replace
	// at has the parameter that replaces the database's clock in what is put in for {…}.
	at := func(now, sql string) string {
		parts := strings.NewReplacer("{claimable}", claimable, "{consent}", consentOf)
		return r(strings.ReplaceAll(parts.Replace(sql), "{now}", now))
	}
	return statements{
		createCode: r(`
INSERT INTO {codes} AS c (signature_hash, request_id, client_id, subject, expires_at, request, pkce, openid)
SELECT $1::bytea, $2::text, $3::text, $4::text,
       coalesce($9::timestamptz, statement_timestamp()) + $5::bigint * interval '1 microsecond',
       $6::text::jsonb, $7::text::jsonb, $8::text::jsonb
WHERE {if}`),
		// The assignment that changes nothing is what recognises a first try of the same
		// call: the row is there, and is of the same request.
		sameCode: r(`
ON CONFLICT (signature_hash) DO UPDATE SET attempt = c.attempt WHERE c.request_id = excluded.request_id`),
		readCode: at("$2", `
SELECT request_id, client_id, used_at IS NOT NULL, {consent}, request::text, pkce::text, openid::text
FROM {codes} AS t WHERE signature_hash = $1::bytea`),
		// Postgres looks again at a row that another transaction has changed meanwhile, also
		// while this one waited for the lock.
		useCode: at("$3", `
UPDATE {codes} AS t SET used_at = coalesce(used_at, $3::timestamptz, statement_timestamp()), attempt = $2::uuid
WHERE signature_hash = $1::bytea
  AND ((used_at IS NULL AND expires_at > coalesce($3::timestamptz, statement_timestamp())) OR attempt = $2::uuid)
  AND {claimable}`),
		codeUsedBy: r(`EXISTS (SELECT FROM {codes} WHERE signature_hash = $1::bytea AND attempt = $2::uuid)`),
		codeExists: r(`EXISTS (SELECT FROM {codes} WHERE signature_hash = $1::bytea)`),
		setPKCE:    r(`UPDATE {codes} SET pkce = $2::text::jsonb WHERE signature_hash = $1::bytea AND used_at IS NULL`),
		setOpenID:  r(`UPDATE {codes} SET openid = $2::text::jsonb WHERE signature_hash = $1::bytea AND used_at IS NULL`),
		reusedCode: at("$3", `
SELECT request_id, used_at IS NOT NULL, attempt IS NOT NULL AND attempt <> $2::uuid, {consent}
FROM {codes} AS t WHERE signature_hash = $1::bytea`),

		createAccess: r(`
INSERT INTO {access} AS t (signature_hash, request_id, client_id, subject, expires_at, request)
SELECT $1::bytea, $2::text, $3::text, $4::text,
       coalesce($7::timestamptz, statement_timestamp()) + $5::bigint * interval '1 microsecond', $6::text::jsonb
WHERE {if}`),
		sameToken: r(`
ON CONFLICT (signature_hash) DO UPDATE SET ended_at = t.ended_at WHERE t.request_id = excluded.request_id`),
		readAccess: r(`
SELECT request_id, client_id, ended_at IS NOT NULL, 0, request::text FROM {access} WHERE signature_hash = $1::bytea`),
		endAccess: r(`
UPDATE {access} SET ended_at = coalesce($2::timestamptz, statement_timestamp())
WHERE signature_hash = $1::bytea AND ended_at IS NULL`),
		accessExists: r(`EXISTS (SELECT FROM {access} WHERE signature_hash = $1::bytea)`),

		createRefresh: r(`
INSERT INTO {refresh} AS t (signature_hash, request_id, client_id, subject, expires_at, request)
SELECT $1::bytea, $2::text, $3::text, $4::text,
       coalesce($7::timestamptz, statement_timestamp()) + $5::bigint * interval '1 microsecond', $6::text::jsonb
WHERE {if}`),
		// One that was rotated is reused, whatever became of its consent.
		readRefresh: at("$2", `
SELECT request_id, client_id, ended_at IS NOT NULL, CASE WHEN attempt IS NULL THEN {consent} ELSE 0 END, request::text
FROM {refresh} AS t WHERE signature_hash = $1::bytea`),
		endRefresh: r(`
UPDATE {refresh} SET ended_at = coalesce($2::timestamptz, statement_timestamp())
WHERE signature_hash = $1::bytea AND ended_at IS NULL`),
		refreshExists: r(`EXISTS (SELECT FROM {refresh} WHERE signature_hash = $1::bytea)`),
		rotate: at("$4", `
UPDATE {refresh} AS t SET ended_at = coalesce(ended_at, $4::timestamptz, statement_timestamp()), attempt = $2::uuid
WHERE signature_hash = $1::bytea AND request_id = $3::text
  AND ((ended_at IS NULL AND (expires_at IS NULL OR expires_at > coalesce($4::timestamptz, statement_timestamp())))
       OR attempt = $2::uuid)
  AND {claimable}`),
		rotatedBy: r(`EXISTS (SELECT FROM {refresh} WHERE signature_hash = $1::bytea AND attempt = $2::uuid)`),
		// Not the tokens that this very rotation issues: when it is repeated, they are there.
		endAccessOf: r(`
UPDATE {access} SET ended_at = coalesce($3::timestamptz, statement_timestamp())
WHERE request_id = $1::text AND ended_at IS NULL AND signature_hash <> ALL ($2::bytea[]) AND {if}`),
		reusedToken: at("$3", `
SELECT request_id, ended_at IS NOT NULL, attempt IS NOT NULL AND attempt <> $2::uuid, {consent}
FROM {refresh} AS t WHERE signature_hash = $1::bytea`),
		lockRequests: r(strings.Replace(`
SELECT current_setting('transaction_isolation'), count(pg_advisory_xact_lock(key)), EXISTS ({unrecorded}) FROM (
	SELECT DISTINCT hashtextextended(request_id, 7377854308561284724) AS key FROM unnest($1::text[]) AS requests (request_id)
	WHERE NOT EXISTS (SELECT FROM {responses} AS r JOIN {consents} AS c ON c.id = r.consent_id
		WHERE r.request_id = requests.request_id AND c.revoked_at IS NOT NULL)
	ORDER BY key
) AS families`, "{unrecorded}", unrecorded, 1)),
		// The only statement that reads a whole table, one in which nothing stays for long: no
		// index on every code for what hardly anybody needs.
		revokeCodes: r(strings.Replace(`
UPDATE {codes} SET used_at = coalesce($2::timestamptz, statement_timestamp()), attempt = gen_random_uuid()
WHERE signature_hash = ANY (ARRAY(
	SELECT signature_hash FROM {codes} WHERE request_id = ANY (ARRAY({unrecorded})) AND used_at IS NULL
	ORDER BY signature_hash FOR NO KEY UPDATE))`, "{unrecorded}", unrecorded, 1)),
		revokeAccess: r(`
UPDATE {access} SET ended_at = coalesce($2::timestamptz, statement_timestamp()) WHERE signature_hash = ANY (ARRAY(
	SELECT signature_hash FROM {access} WHERE request_id = ANY ($1::text[]) AND ended_at IS NULL
	ORDER BY signature_hash FOR NO KEY UPDATE))`),
		revokeRefresh: r(`
UPDATE {refresh} SET ended_at = coalesce($2::timestamptz, statement_timestamp()) WHERE signature_hash = ANY (ARRAY(
	SELECT signature_hash FROM {refresh} WHERE request_id = ANY ($1::text[]) AND ended_at IS NULL
	ORDER BY signature_hash FOR NO KEY UPDATE))`),

		push: r(`
INSERT INTO {pushed} AS p (uri_hash, request_id, client_id, expires_at, request)
VALUES ($1::bytea, $2::text, $3::text,
        coalesce($6::timestamptz, statement_timestamp()) + $4::bigint * interval '1 microsecond', $5::text::jsonb)
ON CONFLICT (uri_hash) DO UPDATE SET attempt = p.attempt WHERE p.request_id = excluded.request_id`),
		readPushed: r(`
SELECT request_id, client_id, request::text FROM {pushed}
WHERE uri_hash = $1::bytea AND expires_at > coalesce($2::timestamptz, statement_timestamp())`),
		// As with consent grants: the UPDATE decides, and the SELECT, which sees what was
		// there before, explains.
		claimPushed: r(`
WITH claimed AS (
	UPDATE {pushed} SET used_at = coalesce(used_at, $3::timestamptz, statement_timestamp()), attempt = $2::uuid
	WHERE uri_hash = $1::bytea
	  AND ((used_at IS NULL AND expires_at > coalesce($3::timestamptz, statement_timestamp())) OR attempt = $2::uuid)
	RETURNING uri_hash
)
SELECT CASE
	WHEN EXISTS (SELECT FROM claimed) THEN 'claimed'
	WHEN p.used_at IS NULL AND p.expires_at <= coalesce($3::timestamptz, statement_timestamp()) THEN 'expired'
	ELSE 'used'
	END
FROM {pushed} AS p WHERE p.uri_hash = $1::bytea`),

		useJTI: r(`
INSERT INTO {jtis} AS j (jti_hash, expires_at, attempt) VALUES ($1::bytea, $2::timestamptz, $3::uuid)
ON CONFLICT (jti_hash) DO UPDATE SET expires_at = excluded.expires_at, attempt = excluded.attempt
WHERE j.expires_at <= coalesce($4::timestamptz, statement_timestamp()) OR j.attempt = excluded.attempt`),
		jtiUsed: r(`
SELECT EXISTS (SELECT FROM {jtis} WHERE jti_hash = $1::bytea AND expires_at > coalesce($2::timestamptz, statement_timestamp()))`),

		createNonce: r(`
INSERT INTO {nonces} (nonce_hash, expires_at)
VALUES ($1::bytea, coalesce($3::timestamptz, statement_timestamp()) + $2::bigint * interval '1 microsecond')
ON CONFLICT (nonce_hash) DO NOTHING`),
		nonceValid: r(`
SELECT EXISTS (SELECT FROM {nonces} WHERE nonce_hash = $1::bytea AND expires_at > coalesce($2::timestamptz, statement_timestamp()))`),

		sweepConsents: r(sweepConsents),

		readClient:   r(`SELECT client::text FROM {clients} WHERE id = $1::text`),
		createClient: r(`INSERT INTO {clients} (id, client) VALUES ($1::text, $2::text::jsonb) ON CONFLICT (id) DO NOTHING`),
		updateClient: r(`UPDATE {clients} SET client = $2::text::jsonb WHERE id = $1::text`),
		deleteClient: r(`DELETE FROM {clients} WHERE id = $1::text`),

		readKey:  r(`SELECT key::text, scopes FROM {keys} WHERE issuer = $1::text AND subject = $2::text AND key_id = $3::text`),
		readKeys: r(`SELECT key::text FROM {keys} WHERE issuer = $1::text AND subject = $2::text ORDER BY key_id`),
		setKey: r(`
INSERT INTO {keys} (issuer, subject, key_id, key, scopes) VALUES ($1::text, $2::text, $3::text, $4::text::jsonb, $5::text[])
ON CONFLICT (issuer, subject, key_id) DO UPDATE SET key = excluded.key, scopes = excluded.scopes`),
		deleteKey: r(`DELETE FROM {keys} WHERE issuer = $1::text AND subject = $2::text AND key_id = $3::text`),
	}
}
