package fositestore_test

import (
	"context"
	"log"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, "postgres://…")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		log.Fatal(err)
	}

	// The grants and what fosite stores are on one pool, and so in one transaction.
	grants, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	store, err := fositestore.New(pool, fositestore.Config{
		NewSession: func() fosite.Session { return openid.NewDefaultSession() },
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.CheckSchema(ctx); err != nil {
		log.Fatal(err)
	}
	sweeper, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = sweeper.Run(ctx) }()

	gate, err := fositeconsent.NewGate(grants, fositeconsent.Config{Issuer: "https://as.example"})
	if err != nil {
		log.Fatal(err)
	}
	config := &fosite.Config{GlobalSecret: []byte("…"), EnforcePKCE: true}
	provider, err := gate.Protect(compose.Compose(config, store, compose.NewOAuth2HMACStrategy(config),
		gate.Factory, // first
		compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2RefreshTokenGrantFactory,
		compose.OAuth2TokenIntrospectionFactory,
		compose.OAuth2TokenRevocationFactory,
		compose.OAuth2PKCEFactory,
	))
	if err != nil {
		log.Fatal(err)
	}
	_ = provider // answers the endpoints
}
