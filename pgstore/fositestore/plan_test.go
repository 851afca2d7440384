package fositestore_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// everything makes each call of the store that sends something of its own.
func (h *host) everything() {
	h.Helper()
	ctx, s := testContext(h), h.store
	must := func(err error) {
		h.Helper()
		if err != nil {
			h.Fatal(err)
		}
	}
	tokens := h.must(h.exchange(h.authorize("openid offline photos"), verifier))
	h.must(h.refresh(refreshToken(tokens)))
	_, _ = h.refresh(refreshToken(tokens)) // deletes and revokes
	_ = h.live(tokens.GetAccessToken())

	r := fosite.NewAuthorizeRequest()
	r.Client, r.Session = &fosite.DefaultClient{ID: "app"}, newSession()
	must(s.CreateAuthorizeCodeSession(ctx, "code", r))
	must(s.CreatePKCERequestSession(ctx, "code", r))
	must(s.CreateOpenIDConnectSession(ctx, "x.code", r))
	must(s.InvalidateAuthorizeCodeSession(ctx, "code"))
	if err := s.InvalidateAuthorizeCodeSession(ctx, "code"); !errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) {
		h.Error(err)
	}
	must(s.DeleteAccessTokenSession(ctx, "none"))
	must(s.RevokeRequests(ctx, []string{r.ID, "none"}))
	if err := s.RotateRefreshToken(ctx, "none", "none"); !errors.Is(err, fosite.ErrNotFound) {
		h.Error(err)
	}
	must(s.CreatePARSession(ctx, "urn:1", r))
	if _, err := s.GetPARSession(ctx, "urn:1"); err != nil {
		h.Error(err)
	}
	must(s.ClaimPushedAuthorizeRequest(ctx, "urn:1"))
	if err := s.ClaimPushedAuthorizeRequest(ctx, "urn:1"); !errors.Is(err, fositeconsent.ErrRequestURIUsed) {
		h.Error(err)
	}
	must(s.SetClientAssertionJWT(ctx, "jti", time.Now().Add(time.Hour)))
	must(s.MarkJWTUsedForTime(ctx, "jti", time.Now().Add(time.Hour)))
	if used, err := s.IsJWTUsed(ctx, "jti"); !used || err != nil {
		h.Error(used, err)
	}
	nonce, err := s.NewNonce(ctx, "token", time.Now().Add(time.Hour))
	must(err)
	must(s.IsNonceValid(ctx, "token", nonce))

	key := jose.JSONWebKey{Key: &signingKey().PublicKey, KeyID: "1"}
	must(s.SetIssuerKey(ctx, "iss", "sub", key, []string{"photos"}))
	if scopes, err := s.GetPublicKeyScopes(ctx, "iss", "sub", "1"); !slices.Equal(scopes, []string{"photos"}) || err != nil {
		h.Error(scopes, err)
	}
	if keys, err := s.GetPublicKeys(ctx, "iss", "sub"); err != nil || len(keys.Keys) != 1 || keys.Keys[0].KeyID != "1" {
		h.Error(keys, err)
	}
	if got, err := s.GetPublicKey(ctx, "iss", "sub", "1"); err != nil || !got.Valid() || !got.IsPublic() {
		h.Error(got, err)
	}
	must(s.DeleteIssuerKey(ctx, "iss", "sub", "1"))
	for _, err := range []error{
		func() error { _, err := s.GetPublicKey(ctx, "iss", "sub", "1"); return err }(),
		func() error { _, err := s.GetPublicKeys(ctx, "iss", "sub"); return err }(),
		func() error { _, err := s.GetPublicKeyScopes(ctx, "iss", "sub", "1"); return err }(),
	} {
		if !errors.Is(err, fosite.ErrNotFound) {
			h.Error(err)
		}
	}
	if err := s.SetIssuerKey(ctx, "iss", "sub", jose.JSONWebKey{Key: signingKey(), KeyID: "1"}, nil); err == nil {
		h.Error("a private key was stored")
	}

	client := &fosite.DefaultClient{ID: "another"}
	must(s.CreateClient(ctx, client))
	if err := s.CreateClient(ctx, client); !errors.Is(err, fositestore.ErrClientExists) {
		h.Error(err)
	}
	client.Public = true
	if got, err := s.GetClient(ctx, "another"); err != nil || got.IsPublic() {
		h.Error(got, err)
	}
	must(s.UpdateClient(ctx, client))
	if got, err := s.GetClient(ctx, "another"); err != nil || !got.IsPublic() {
		h.Error(got, err)
	}
	must(s.DeleteClient(ctx, "another"))
	for _, err := range []error{
		s.DeleteClient(ctx, "another"), s.UpdateClient(ctx, client),
		func() error { _, err := s.GetClient(ctx, "another"); return err }(),
	} {
		if !errors.Is(err, fosite.ErrNotFound) {
			h.Error(err)
		}
	}
}

func TestEveryStatementGoesByAnIndex(t *testing.T) {
	t.Parallel()
	pool, r := traced(t)
	ctx := testContext(t)
	h := newHost(t, pool)
	h.everything()
	sweeper, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sweeper.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	sent := maps.Clone(r.args)

	// Many rows that nobody looks at.
	for _, table := range []string{"codes", "access_tokens", "refresh_tokens", "pushed_requests", "jtis", "nonces"} {
		key := map[string]string{"pushed_requests": "uri_hash", "jtis": "jti_hash", "nonces": "nonce_hash"}[table]
		columns, values := "expires_at, "+key, "statement_timestamp() + i * interval '1 second', sha256(i::text::bytea)"
		switch table {
		case "codes", "access_tokens", "refresh_tokens":
			columns = "expires_at, signature_hash, request_id, client_id, subject, request"
			values += ", i::text, 'app', 'alice', '{}'"
		case "pushed_requests":
			columns += ", request_id, client_id, request"
			values += ", i::text, 'app', '{}'"
		case "jtis":
			columns += ", attempt"
			values += ", gen_random_uuid()"
		}
		for _, sql := range []string{
			fmt.Sprintf("INSERT INTO public.consent_%s (%s) SELECT %s FROM generate_series(1, 5000) AS i", table, columns, values),
			"ANALYZE public.consent_" + table,
		} {
			if _, err := pool.Exec(ctx, sql); err != nil {
				t.Fatal(sql, err)
			}
		}
	}
	for _, sql := range []string{
		`INSERT INTO public.consent_consents (id, decided_at, remembered, issuer, subject, client_id, login_session, scopes, audience, response_types, details, shown, request_id)
			SELECT gen_random_uuid(), statement_timestamp(), true, 'i', i::text, 'app', '', '{}', '{}', '{}', '{}', sha256(''), '' FROM generate_series(1, 5000) AS i`,
		"INSERT INTO public.consent_responses SELECT id, decided_at, subject FROM public.consent_consents",
		"ANALYZE public.consent_consents", "ANALYZE public.consent_responses",
		"INSERT INTO public.consent_clients SELECT i::text, '{}' FROM generate_series(1, 5000) AS i", "ANALYZE public.consent_clients",
		"INSERT INTO public.consent_issuer_keys SELECT i::text, i::text, '1', '{}', '{}' FROM generate_series(1, 5000) AS i", "ANALYZE public.consent_issuer_keys",
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			t.Fatal(sql, err)
		}
	}

	explained := 0
	for sql, args := range sent {
		if !strings.Contains(sql, `"public"."consent_`) || strings.Contains(sql, "consent_migrations") {
			continue
		}
		explained++
		if strings.Contains(sql, "attempt = gen_random_uuid()") {
			continue // has no index, and says why
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			var lines []string
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "SET LOCAL plan_cache_mode = "+mode); err != nil {
					return err
				}
				rows, err := tx.Query(ctx, "EXPLAIN "+sql, args...)
				if err != nil {
					return err
				}
				lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
				return err
			})
			if err != nil {
				t.Fatal(sql, err)
			}
			if plan := strings.Join(lines, "\n"); strings.Contains(plan, "Seq Scan") {
				t.Errorf("%s\n%s, %s", sql, plan, mode)
			}
		}
	}
	// As many as package fositestore has, with the two variants of each token's INSERT,
	// and the sweeper's.
	if explained < 36 {
		t.Errorf("only %d statements were sent", explained)
	}
}
