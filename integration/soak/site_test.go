package soak_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

const (
	issuer = "https://as.example"
	// lifespan is that of everything that is issued, and retention how long it stays after
	// that, so that all of it comes and goes many times.
	lifespan, retention = 3 * time.Second, time.Second
	sweepInterval       = 500 * time.Millisecond
	connections         = 4
)

// instance is an authorization server as a host builds one: with a pool of its own, and
// nothing in common with the others but the database and the secrets.
type instance struct {
	pool     *pgxpool.Pool
	gate     *fositeconsent.Gate
	provider fosite.OAuth2Provider
	sweepers []interface{ Run(context.Context) error }
}

// secrets are what all instances have.
type secrets struct {
	global []byte
	key    *ecdsa.PrivateKey
}

func newSecrets() (s secrets, err error) {
	s.global = []byte(rand.Text() + rand.Text())
	s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return s, err
}

// newInstance makes one, whose sweepers say to log what fails.
func newInstance(ctx context.Context, databaseURL string, s secrets, log *slog.Logger) (*instance, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns = connections, connections // each has caches, which are not to grow later
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	in := &instance{pool: pool}
	if err := in.compose(s, log); err != nil {
		pool.Close()
		return nil, err
	}
	return in, nil
}

func (in *instance) compose(s secrets, log *slog.Logger) error {
	grants, err := pgstore.New(in.pool, pgstore.Config{})
	if err != nil {
		return err
	}
	client := &fosite.DefaultOpenIDConnectClient{DefaultClient: &fosite.DefaultClient{
		ID: "app", Public: true, RedirectURIs: []string{redirect}, ResponseTypes: []string{"code"},
		GrantTypes: []string{"authorization_code", "refresh_token"}, Scopes: decision.Scopes,
	}, TokenEndpointAuthMethod: "none"}
	store, err := fositestore.New(in.pool, fositestore.Config{
		NewSession: func() fosite.Session { return openid.NewDefaultSession() },
		GetClient: func(_ context.Context, id string) (fosite.Client, error) {
			if id != client.ID {
				return nil, fosite.ErrNotFound
			}
			return client, nil
		},
		PushedRequestLifespan: lifespan,
	})
	if err != nil {
		return err
	}
	if in.gate, err = fositeconsent.NewGate(grants, fositeconsent.Config{Issuer: issuer, GrantLifespan: lifespan}); err != nil {
		return err
	}
	config := &fosite.Config{
		GlobalSecret: s.global, IDTokenIssuer: issuer, EnforcePKCE: true,
		// Where these are left out, fosite sets its defaults while they are in use.
		ScopeStrategy: fosite.ExactScopeStrategy, AudienceMatchingStrategy: fosite.ExactAudienceMatchingStrategy,
		AuthorizeCodeLifespan: lifespan, AccessTokenLifespan: lifespan, RefreshTokenLifespan: lifespan, PushedAuthorizeContextLifespan: lifespan,
	}
	key := func(context.Context) (any, error) { return s.key, nil }
	if in.provider, err = in.gate.Protect(compose.Compose(config, store,
		&compose.CommonStrategy{
			CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
			OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(key, config),
		},
		in.gate.Factory, compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2RefreshTokenGrantFactory,
		compose.OpenIDConnectExplicitFactory, compose.OpenIDConnectRefreshFactory, compose.OAuth2TokenIntrospectionFactory,
		compose.OAuth2TokenRevocationFactory, compose.OAuth2PKCEFactory, compose.PushedAuthorizeHandlerFactory,
	)); err != nil {
		return err
	}
	// Grants are kept for a day at least. A sweeper whose clock is ahead by that finds them
	// past it as early as the rest.
	const ahead = 2*fositeconsent.MaxPromptLifespan - retention
	ofGrants, err := pgstore.NewSweeper(in.pool, pgstore.SweeperConfig{
		Tables: pgstore.Config{TestClock: func() time.Time { return time.Now().Add(ahead) }}, Interval: sweepInterval, Logger: log,
	})
	if err != nil {
		return err
	}
	ofStore, err := fositestore.NewSweeper(in.pool, fositestore.SweeperConfig{Retention: retention, Interval: sweepInterval, Logger: log})
	in.sweepers = append(in.sweepers, ofGrants, ofStore)
	return err
}

// sweep runs the sweepers until ctx ends.
func (in *instance) sweep(ctx context.Context) {
	var running sync.WaitGroup
	for _, s := range in.sweepers {
		running.Go(func() {
			if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
				panic(err) // it promises nothing else
			}
		})
	}
	running.Wait()
}
