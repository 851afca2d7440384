// Package failover_test loses the primary database server under load, has its standby
// promoted, and looks at what is left of what was acknowledged. docs/failover.md says
// what that means.
package failover_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// testContext bounds what a test waits for. It is never waited out when things work.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

const (
	issuer   = "https://as.example"
	redirect = "https://app.example/cb"
	verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

var signingKey = sync.OnceValues(func() (any, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })

// node is an authorization server as a host builds one, with a pool of its own.
type node struct {
	pool     *pgxpool.Pool
	grants   *pgstore.Store
	store    *fositestore.Store
	gate     *fositeconsent.Gate
	provider fosite.OAuth2Provider
}

func newNode(t testing.TB, databaseURL string, configure ...func(*pgxpool.Config)) *node {
	t.Helper()
	pool := pgtest.PoolAt(t, databaseURL, append(configure, func(c *pgxpool.Config) { c.MaxConns = workers })...)
	grants, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	client := &fosite.DefaultClient{
		ID: "app", Public: true, RedirectURIs: []string{redirect},
		ResponseTypes: []string{"code"}, GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", "photos"},
	}
	store, err := fositestore.New(pool, fositestore.Config{
		NewSession: func() fosite.Session { return openid.NewDefaultSession() },
		GetClient:  func(context.Context, string) (fosite.Client, error) { return client, nil },
		// What a commit waits for here does come.
		Transactions: pgstore.TransactionConfig{CommitTimeout: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	gate, err := fositeconsent.NewGate(grants, fositeconsent.Config{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	config := &fosite.Config{
		GlobalSecret: []byte("a secret of the failover tests, 32 bytes"), IDTokenIssuer: issuer,
		// fosite sets these on the first request, without a lock.
		ScopeStrategy: fosite.WildcardScopeStrategy, AudienceMatchingStrategy: fosite.DefaultAudienceMatchingStrategy,
	}
	strategy := &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(func(context.Context) (any, error) { return signingKey() }, config),
	}
	provider, err := gate.Protect(compose.Compose(config, store, strategy, gate.Factory,
		compose.OAuth2AuthorizeExplicitFactory, compose.OpenIDConnectExplicitFactory, compose.OAuth2PKCEFactory,
		compose.OAuth2TokenIntrospectionFactory))
	if err != nil {
		t.Fatal(err)
	}
	return &node{pool, grants, store, gate, provider}
}

func session(subject string) fosite.Session {
	s := openid.NewDefaultSession()
	s.Subject, s.Claims.Subject = subject, subject
	s.Claims.RequestedAt = time.Now().UTC().Add(-time.Minute)
	s.Claims.AuthTime = s.Claims.RequestedAt
	return s
}

func (n *node) request(ctx context.Context, subject string) (fosite.AuthorizeRequester, error) {
	return n.provider.NewAuthorizeRequest(ctx, httptest.NewRequest(http.MethodGet, "/?"+url.Values{
		"client_id": {"app"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {"openid photos"},
		"state": {"state of " + subject}, "nonce": {"nonce of " + subject},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}.Encode(), nil))
}

var decision = fositeconsent.Decision{Scopes: []string{"openid", "photos"}}

// approval is what a resource owner has approved: a token if the grant was minted, else a
// page that is answered with the response.
type approval struct {
	subject string
	token   fositeconsent.Token
	ticket  string
}

// approve has a resource owner look at the page, and answer it if mint says so.
func (n *node) approve(ctx context.Context, subject string, mint bool) (approval, error) {
	a := approval{subject: subject}
	ar, err := n.request(ctx, subject)
	if err != nil {
		return a, err
	}
	prompt, err := n.gate.Prompt(ctx, ar, session(subject))
	if err != nil {
		return a, err
	}
	if !mint {
		a.ticket = prompt.Ticket
		return a, nil
	}
	a.token, err = n.gate.Mint(ctx, ar, session(subject), prompt.Ticket, decision)
	return a, err
}

// respond asks for the response, and returns the code.
func (n *node) respond(ctx context.Context, a approval) (string, error) {
	ar, err := n.request(ctx, a.subject)
	if err != nil {
		return "", err
	}
	if a.ticket != "" {
		ctx = fositeconsent.WithDecision(ctx, a.ticket, decision)
	} else {
		ctx = fositeconsent.WithToken(ctx, a.token)
	}
	response, err := n.provider.NewAuthorizeResponse(ctx, ar, session(a.subject))
	if err != nil {
		return "", err
	}
	return response.GetCode(), nil
}

// exchange exchanges a code, and returns the access token.
func (n *node) exchange(ctx context.Context, code string) (string, error) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(url.Values{
		"client_id": {"app"}, "grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier},
	}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request, err := n.provider.NewAccessRequest(ctx, r, openid.NewDefaultSession())
	if err != nil {
		return "", err
	}
	response, err := n.provider.NewAccessResponse(ctx, request)
	if err != nil {
		return "", err
	}
	if response.GetExtra("id_token") == nil {
		return "", errors.New("no ID token")
	}
	return response.GetAccessToken(), nil
}

// live reports whether an access token is accepted.
func (n *node) live(ctx context.Context, token string) bool {
	_, _, err := n.provider.IntrospectToken(ctx, token, fosite.AccessToken, openid.NewDefaultSession())
	return err == nil
}

// cluster starts a cluster with a database on it that has the tables.
func cluster(t testing.TB, replication pgtest.Replication) (c *pgtest.Cluster, databaseURL string) {
	t.Helper()
	c = pgtest.NewCluster(t, replication)
	databaseURL = c.Database()
	if err := pgstore.Migrate(testContext(t), pgtest.PoolAt(t, databaseURL), pgstore.Config{}); err != nil {
		t.Fatal(err)
	}
	c.CatchUp()
	t.Log(c.Source())
	return c, databaseURL
}

// newGrant returns a grant, and present a new attempt to spend it.
func newGrant(subject string) *fositeconsent.Grant {
	g := &fositeconsent.Grant{Subject: subject, ClientID: "app", Scopes: []string{"photos"}, Lifespan: time.Hour}
	for _, b := range [][]byte{g.ID[:], g.SecretHash[:], g.Binding[:]} {
		_, _ = rand.Read(b) // it never fails
	}
	return g
}

func present(g *fositeconsent.Grant) fositeconsent.Presentation {
	p := fositeconsent.Presentation{ID: g.ID, SecretHash: g.SecretHash, Binding: g.Binding}
	_, _ = rand.Read(p.Attempt[:]) // it never fails
	return p
}

// text writes an id as Postgres does.
func text[T ~[16]byte](id T) string { return fmt.Sprint(fositeconsent.ID(id)) }
