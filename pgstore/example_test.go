package pgstore_test

import (
	"context"
	"log"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/pgstore"
)

func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, "postgres://…")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	// Every node may do this; they queue up. Or run the files of pgstore.Migrations
	// with the tool that runs the others.
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		log.Fatal(err)
	}
	store, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		log.Fatal(err)
	}
	// Says which migration or which GRANT is missing.
	if err := store.CheckSchema(ctx); err != nil {
		log.Fatal(err)
	}
	sweeper, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{})
	if err != nil {
		log.Fatal(err)
	}
	go func() { _ = sweeper.Run(ctx) }()

	// The store goes to fositeconsent.NewGate.
}
