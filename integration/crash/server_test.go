package crash_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

const (
	issuer   = "https://as.example"
	tokenURL = issuer + "/token"
)

// signingKey is the server's, and the client's as well. It is the same in every process.
var signingKey = func() *ecdsa.PrivateKey {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), []byte("a key of the crash tests, public"))
	if err != nil {
		panic(err)
	}
	return key
}()

// patience bounds what is never waited for when things work.
const patience = 30 * time.Second

// impatience is how long a server asks what became of a commit where nobody answers.
const impatience = 500 * time.Millisecond

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	pgtest.Main(m)
}

// server is an authorization server as a host builds one.
type server struct {
	pool     *pgxpool.Pool
	store    *fositestore.Store
	gate     *fositeconsent.Gate
	provider fosite.OAuth2Provider
}

// injector fails a call of the storages.
type injector interface {
	fail(call string) error
}

func newServer(pool *pgxpool.Pool, fault injector, commitTimeout time.Duration) (*server, error) {
	grants, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		return nil, err
	}
	client := &fosite.DefaultOpenIDConnectClient{
		DefaultClient: &fosite.DefaultClient{
			ID: "app", RedirectURIs: []string{"https://app.example/cb"}, ResponseTypes: []string{"code"},
			GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: []string{"openid", "offline", "photos"},
		},
		TokenEndpointAuthMethod:           "private_key_jwt",
		TokenEndpointAuthSigningAlgorithm: "ES256",
		JSONWebKeys:                       &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signingKey.Public(), KeyID: "key", Use: "sig", Algorithm: "ES256"}}},
	}
	store, err := fositestore.New(pool, fositestore.Config{
		NewSession: func() fosite.Session { return openid.NewDefaultSession() },
		GetClient: func(_ context.Context, id string) (fosite.Client, error) {
			if id != client.ID {
				return nil, fosite.ErrNotFound
			}
			return client, nil
		},
		Transactions: pgstore.TransactionConfig{CommitTimeout: commitTimeout},
	})
	if err != nil {
		return nil, err
	}
	s := &server{pool: pool, store: store}
	faulty := faultyGrants{grants, fault}
	s.gate, err = fositeconsent.NewGate(faulty, fositeconsent.Config{
		Issuer: issuer, Consents: faulty, Decisions: faulty,
		DescribeClient: func(context.Context, fosite.Client) ([]string, error) { return []string{"An application"}, nil },
	})
	if err != nil {
		return nil, err
	}
	config := &fosite.Config{GlobalSecret: []byte("a secret of the crash tests, 32 bytes"), IDTokenIssuer: issuer, TokenURL: tokenURL}
	key := func(context.Context) (any, error) { return signingKey, nil }
	provider := compose.Compose(config, &faultyStore{store, fault}, &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(key, config),
	},
		s.gate.Factory, compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2RefreshTokenGrantFactory,
		compose.OpenIDConnectExplicitFactory, compose.OpenIDConnectRefreshFactory, compose.OAuth2PKCEFactory,
		compose.OAuth2TokenIntrospectionFactory, compose.OAuth2TokenRevocationFactory, compose.PushedAuthorizeHandlerFactory)
	s.provider, err = s.gate.Protect(provider)
	return s, err
}

// eachForItself is the mode in which nothing is prepared, so that the number of round trips is
// always the same.
const eachForItself = pgx.QueryExecModeExec

// connect opens a pool.
func connect(databaseURL string, w *wire, mode pgx.QueryExecMode) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 4
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // nor one on a slow machine
	config.ConnConfig.DefaultQueryExecMode = mode
	if w != nil {
		config.ConnConfig.DialFunc = w.dial
	}
	return pgxpool.NewWithConfig(context.Background(), config)
}

func params(subject string) url.Values {
	return url.Values{
		"client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"}, "scope": {"openid offline photos"},
		"state": {"state of " + subject}, "nonce": {"nonce of " + subject},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}
}

func session(subject string) fosite.Session {
	s := openid.NewDefaultSession()
	s.Subject, s.Claims.Subject = subject, subject
	s.Claims.RequestedAt = time.Now().UTC().Add(-time.Minute)
	s.Claims.AuthTime = s.Claims.RequestedAt
	return s
}

// approval is what the resource owner has approved: a grant that was minted, or a page
// that is answered with the response.
type approval struct {
	Subject, Token, Ticket string
	RequestURI             string // of a pushed request, or empty
}

// prepare makes an approval.
func (s *server) prepare(ctx context.Context, subject string, way way) (approval, error) {
	a := approval{Subject: subject}
	if way.pushed {
		pushed, err := s.call(ctx, push(subject))
		if err != nil {
			return a, err
		}
		a.RequestURI = pushed.RequestURI
	}
	ar, err := s.request(ctx, a)
	if err != nil {
		return a, err
	}
	prompt, err := s.gate.Prompt(ctx, ar, session(subject))
	if err != nil || !way.minted {
		if err == nil {
			a.Ticket = prompt.Ticket
		}
		return a, err
	}
	token, err := s.gate.Mint(ctx, ar, session(subject), prompt.Ticket, decision)
	if err == nil {
		a.Token = token.Reveal()
	}
	return a, err
}

var decision = fositeconsent.Decision{Scopes: []string{"openid", "offline", "photos"}}

func (s *server) request(ctx context.Context, a approval) (fosite.AuthorizeRequester, error) {
	query := params(a.Subject)
	if a.RequestURI != "" {
		query = url.Values{"client_id": {"app"}, "request_uri": {a.RequestURI}}
	}
	return s.provider.NewAuthorizeRequest(ctx, httptest.NewRequest(http.MethodGet, "/?"+query.Encode(), nil))
}

// respond asks for the response, and returns the code.
func (s *server) respond(ctx context.Context, a approval) (string, error) {
	ar, err := s.request(ctx, a)
	if err != nil {
		return "", err
	}
	if a.Token != "" {
		token, err := fositeconsent.ParseToken(a.Token)
		if err != nil {
			return "", err
		}
		ctx = fositeconsent.WithToken(ctx, token)
	} else {
		ctx = fositeconsent.WithDecision(ctx, a.Ticket, decision)
	}
	resp, err := s.provider.NewAuthorizeResponse(ctx, ar, session(a.Subject))
	if err != nil {
		return "", err
	}
	return resp.GetCode(), nil
}

// faultyGrants and faultyStore are the storages, each call of which can fail before
// it is made and after it was.
type faultyGrants struct {
	*pgstore.Store
	fault injector
}

func inject(fault injector, call string, do func() error) error {
	if fault == nil {
		return do()
	}
	if err := fault.fail("before " + call); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return fault.fail("after " + call)
}

func (g faultyGrants) CreateConsentGrant(ctx context.Context, grant *fositeconsent.Grant) error {
	return inject(g.fault, "CreateConsentGrant", func() error { return g.Store.CreateConsentGrant(ctx, grant) })
}

func (g faultyGrants) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (grant *fositeconsent.Grant, err error) {
	err = inject(g.fault, "ConsumeConsentGrant", func() error { grant, err = g.Store.ConsumeConsentGrant(ctx, p); return err })
	if err != nil {
		return nil, err
	}
	return grant, nil
}

func (g faultyGrants) RecordResponse(ctx context.Context, r *fositeconsent.Response) error {
	return inject(g.fault, "RecordResponse", func() error { return g.Store.RecordResponse(ctx, r) })
}

func (g faultyGrants) AppendDecision(ctx context.Context, r *fositeconsent.DecisionRecord) error {
	return inject(g.fault, "AppendDecision", func() error { return g.Store.AppendDecision(ctx, r) })
}

type faultyStore struct {
	*fositestore.Store
	fault injector
}

func (s *faultyStore) BeginTX(ctx context.Context) (context.Context, error) {
	if err := inject(s.fault, "BeginTX", func() error { return nil }); err != nil {
		return nil, err
	}
	return s.Store.BeginTX(ctx)
}

func (s *faultyStore) Commit(ctx context.Context) error {
	return inject(s.fault, "Commit", func() error { return s.Store.Commit(ctx) })
}

func (s *faultyStore) CreateAuthorizeCodeSession(ctx context.Context, code string, r fosite.Requester) error {
	return inject(s.fault, "CreateAuthorizeCodeSession", func() error { return s.Store.CreateAuthorizeCodeSession(ctx, code, r) })
}

func (s *faultyStore) CreatePKCERequestSession(ctx context.Context, code string, r fosite.Requester) error {
	return inject(s.fault, "CreatePKCERequestSession", func() error { return s.Store.CreatePKCERequestSession(ctx, code, r) })
}

func (s *faultyStore) CreateOpenIDConnectSession(ctx context.Context, code string, r fosite.Requester) error {
	return inject(s.fault, "CreateOpenIDConnectSession", func() error { return s.Store.CreateOpenIDConnectSession(ctx, code, r) })
}

func (s *faultyStore) ClaimPushedAuthorizeRequest(ctx context.Context, requestURI string) error {
	return inject(s.fault, "ClaimPushedAuthorizeRequest", func() error { return s.Store.ClaimPushedAuthorizeRequest(ctx, requestURI) })
}

// calls writes down which calls there are, and fails one of them.
type calls struct {
	seen []string
	at   string
}

func (c *calls) fail(call string) error {
	c.seen = append(c.seen, call)
	if call == c.at {
		return fmt.Errorf("crash: %s", call)
	}
	return nil
}
