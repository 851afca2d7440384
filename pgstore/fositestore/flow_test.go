package fositestore_test

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

const (
	redirect = "https://app.example/cb"
	verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

// host is fosite with everything that it has, on the store.
type host struct {
	*testing.T
	store    *fositestore.Store
	provider fosite.OAuth2Provider
	secrets  []string // what must not be in the database
}

// newHost returns a host that has registered its client.
func newHost(t *testing.T, pool *pgxpool.Pool) *host {
	h := newHostOn(t, pool)
	if err := h.store.CreateClient(testContext(t), &fosite.DefaultOpenIDConnectClient{DefaultClient: &fosite.DefaultClient{
		ID: "app", Public: true, RedirectURIs: []string{redirect}, ResponseTypes: []string{"code", "code id_token", "code token"},
		GrantTypes: []string{"authorization_code", "refresh_token", "implicit"}, Scopes: []string{"openid", "offline", "photos"},
	}, TokenEndpointAuthMethod: "none"}); err != nil {
		t.Fatal(err)
	}
	return h
}

func newHostOn(t *testing.T, pool *pgxpool.Pool) *host {
	store := newStore(t, pool, fositestore.Config{ClientCacheLifespan: time.Hour})
	config := &fosite.Config{GlobalSecret: []byte("a global secret of at least 32 bytes"), IDTokenIssuer: "https://as.example"}
	return &host{T: t, store: store, provider: compose.ComposeAllEnabled(config, store, signingKey())}
}

func request(form url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func (h *host) learn(token string) string {
	if token == "" {
		h.Helper()
		h.Fatal("fosite issued nothing")
	}
	h.secrets = append(h.secrets, token)
	for part := range strings.SplitSeq(token, ".") {
		h.secrets = append(h.secrets, part)
	}
	return token
}

// authorize returns a code, of a response in one transaction, as the gate's provider makes it.
func (h *host) authorize(scope string) string {
	h.Helper()
	ctx := testContext(h)
	ar, err := h.provider.NewAuthorizeRequest(ctx, request(url.Values{
		"client_id": {"app"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {scope},
		"state": {"0123456789abcdef"}, "nonce": {"fedcba9876543210"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}))
	if err != nil {
		h.Fatal(err)
	}
	for _, scope := range ar.GetRequestedScopes() {
		ar.GrantScope(scope)
	}
	session := openid.NewDefaultSession()
	session.Subject, session.Claims.Subject = "alice", "alice"
	inside, err := h.store.BeginTX(ctx)
	if err != nil {
		h.Fatal(err)
	}
	response, err := h.provider.NewAuthorizeResponse(inside, ar, session)
	if err != nil {
		h.Fatal(cause(err))
	}
	if err := h.store.Commit(inside); err != nil {
		h.Fatal(err)
	}
	return h.learn(response.GetCode())
}

// token is a call of the token endpoint.
func (h *host) token(form url.Values) (fosite.AccessResponder, error) {
	h.Helper()
	ctx := testContext(h)
	form.Set("client_id", "app")
	ar, err := h.provider.NewAccessRequest(ctx, request(form), openid.NewDefaultSession())
	if err != nil {
		return nil, err
	}
	response, err := h.provider.NewAccessResponse(ctx, ar)
	if err != nil {
		return nil, err
	}
	h.learn(response.GetAccessToken())
	if refresh, ok := response.GetExtra("refresh_token").(string); ok {
		h.learn(refresh)
	}
	return response, nil
}

func (h *host) exchange(code, verifier string) (fosite.AccessResponder, error) {
	h.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}}
	if verifier != "" {
		form.Set("code_verifier", verifier)
	}
	return h.token(form)
}

func (h *host) refresh(token string) (fosite.AccessResponder, error) {
	h.Helper()
	return h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

func refreshToken(r fosite.AccessResponder) string {
	token, _ := r.GetExtra("refresh_token").(string)
	return token
}

// live reports whether fosite accepts an access token.
func (h *host) live(token string) bool {
	h.Helper()
	_, ar, err := h.provider.IntrospectToken(testContext(h), token, fosite.AccessToken, newSession())
	if err == nil && ar.GetSession().GetSubject() != "alice" {
		h.Errorf("the access token is for %q", ar.GetSession().GetSubject())
	}
	return err == nil
}

func (h *host) want(what string, err, want error) {
	h.Helper()
	if !errors.Is(err, want) {
		h.Errorf("%s: got %v, want %v", what, cause(err), want)
	}
}

func cause(err error) error {
	if err == nil {
		return nil
	}
	if e := fosite.ErrorToRFC6749Error(err); e.Cause() != nil {
		return e.Cause()
	}
	return err
}

func (h *host) must(r fosite.AccessResponder, err error) fosite.AccessResponder {
	h.Helper()
	if err != nil {
		h.Fatal(cause(err))
	}
	return r
}

func TestCodeFlow(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := migrated(t, pgstore.Config{}, withMode(mode))
			h := newHost(t, pool)
			code := h.authorize("openid offline photos")

			// A wrong verifier neither spends the code nor makes PKCE optional.
			_, err := h.exchange(code, strings.Repeat("x", 43))
			h.want("a wrong verifier", err, fosite.ErrInvalidGrant)
			_, err = h.exchange(code, "")
			h.want("no verifier", err, fosite.ErrInvalidGrant)

			first := h.must(h.exchange(code, verifier))
			if first.GetExtra("id_token") == nil {
				t.Error("no ID token")
			}
			second := h.must(h.refresh(refreshToken(first)))
			if second.GetExtra("id_token") == nil {
				t.Error("no ID token after the refresh")
			}
			if h.live(first.GetAccessToken()) || !h.live(second.GetAccessToken()) {
				t.Error("a refresh replaces the access token")
			}

			// A refresh token that is used again ends the family, and does so again.
			for range 2 {
				_, err = h.refresh(refreshToken(first))
				h.want("a rotated refresh token", err, fosite.ErrInvalidGrant)
				if h.live(second.GetAccessToken()) {
					t.Error("the access token outlives the reuse")
				}
			}
			_, err = h.refresh(refreshToken(second))
			h.want("the latest refresh token after a reuse", err, fosite.ErrInvalidGrant)

			// A code that is used again ends its tokens.
			code = h.authorize("openid offline photos")
			tokens := h.must(h.exchange(code, verifier))
			for range 2 {
				_, err = h.exchange(code, verifier)
				h.want("a used code", err, fosite.ErrInvalidGrant)
			}
			_, err = h.refresh(refreshToken(tokens))
			h.want("a refresh token of a reused code", err, fosite.ErrInvalidGrant)
			if h.live(tokens.GetAccessToken()) {
				t.Error("the access token outlives the code's reuse")
			}

			// Revocation by either token ends both (RFC 7009).
			for _, by := range []func(fosite.AccessResponder) string{refreshToken, fosite.AccessResponder.GetAccessToken} {
				tokens = h.must(h.exchange(h.authorize("openid offline photos"), verifier))
				if err := h.provider.NewRevocationRequest(testContext(t), request(url.Values{"client_id": {"app"}, "token": {by(tokens)}})); err != nil {
					t.Fatal(cause(err))
				}
				_, err = h.refresh(refreshToken(tokens))
				h.want("a revoked refresh token", err, fosite.ErrInvalidGrant)
				if h.live(tokens.GetAccessToken()) {
					t.Error("the access token outlives the revocation")
				}
			}
			h.noSecretAtRest(pool)
		})
	}
}

// noSecretAtRest looks for every code and token, and every part of one, in every row.
func (h *host) noSecretAtRest(pool *pgxpool.Pool) {
	h.Helper()
	dump := dump(h, pool)
	for _, table := range []string{"consent_codes", "consent_access_tokens", "consent_refresh_tokens"} {
		if !strings.Contains(dump, table+": (") {
			h.Errorf("there is nothing in %s", table)
		}
	}
	for _, secret := range h.secrets {
		if len(secret) > 20 && (strings.Contains(dump, secret) || strings.Contains(dump, hexOf(secret))) {
			h.Errorf("%s… is in the database", secret[:10])
		}
	}
}

func hexOf(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte(digits[s[i]>>4])
		b.WriteByte(digits[s[i]&15])
	}
	return b.String()
}

// dump returns every row of every table as text.
func dump(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	ctx := testContext(t)
	rows, err := pool.Query(ctx, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 10 {
		t.Fatal(tables, err)
	}
	var all strings.Builder
	for _, table := range tables {
		rows, err := pool.Query(ctx, "SELECT t::text FROM "+pgx.Identifier{"public", table}.Sanitize()+" AS t")
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			all.WriteString(table + ": " + text + "\n")
		}
	}
	return all.String()
}
