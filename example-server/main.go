// Command example-server is a small but complete OAuth 2.0 and OpenID Connect
// authorization server on fosite, in which nothing is issued without a consent
// grant: sign-in, consent page, all of fosite's response types, introspection,
// revocation, discovery. It is meant to be read and pasted from.
//
//	go run ./example-server        # a PostgreSQL of its own, and a demo to click through
//	go run ./example-server -h     # what can be set
//
// # What is where
//
// Consent grants, browser sessions and keys are in PostgreSQL, so that several
// processes on one database accept each other's pages and logins. Codes and tokens
// are still in fosite's in-memory storage: a code has to be redeemed at the process
// that issued it, and a restart ends all tokens; until then none is removed.
//
// Without a database URL, a private PostgreSQL is started on a temporary directory,
// which is removed when the server stops.
//
// # What it does not do
//
// It does not limit how often a password may be tried, and terminates no TLS: put it
// behind a proxy that does both, and that passes the Host header on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fosite-consent/fosite-consent/example-server/postgres"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

const (
	startTimeout = 2 * time.Minute  // a private PostgreSQL may have to be downloaded
	stopTimeout  = 15 * time.Second // for requests that are under way, and again for the database
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program. It returns the exit code: 0 after a clean stop, 2 for wrong
// flags or files, 1 for everything else.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	config, err := parseConfig(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "example-server: %v\nRun it with -h to see what can be set.\n", err)
		return 2
	}
	var clients []*client
	var accounts *users
	if !config.demo() {
		if clients, err = readClients(config.clientsFile); err == nil {
			accounts, err = readUsers(config.usersFile)
		}
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "example-server: %v\n", err)
			return 2
		}
	}
	log := newLogger(config.logFormat, stderr)
	err = serve(ctx, config, clients, accounts, log, stdout)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) { // asked to stop while still starting
		return 0
	}
	if err != nil {
		log.Error("stopped", "error", err)
		return 1
	}
	return 0
}

func newLogger(format string, w io.Writer) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// serve runs the server until the context ends, and then takes everything down in
// the opposite order: requests, background work, connections, PostgreSQL.
func serve(ctx context.Context, config config, clients []*client, accounts *users, log *slog.Logger, stdout io.Writer) (err error) {
	// First of all, since it is what fails when another process has the port.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", config.listen)
	if err != nil {
		return fmt.Errorf("%w: choose another address with -listen, 127.0.0.1:0 for any free port", err)
	}
	defer func() { _ = listener.Close() }() // the HTTP server closes it first, if it is ever started
	issuer := config.issuer
	if issuer == "" {
		issuer = "http://" + listener.Addr().String()
	}

	startCtx, cancelStart := context.WithTimeout(ctx, startTimeout)
	defer cancelStart()
	var postgresDone <-chan struct{}
	databaseURL := config.databaseURL
	if databaseURL == "" {
		private, err := postgres.Start(startCtx, postgres.Options{Database: "example_server"})
		if err != nil {
			return err
		}
		log.Info("private PostgreSQL started", "source", private.Source())
		postgresDone = private.Done()
		databaseURL = private.URL()
		defer func() {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			if stopErr := private.Stop(stopCtx); stopErr != nil {
				err = errors.Join(err, stopErr)
				return
			}
			log.Info("private PostgreSQL stopped")
		}()
	}
	pool, keys, err := openDatabase(startCtx, databaseURL, config.demo())
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		return err
	}
	sweeper, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{Logger: log})
	if err != nil {
		return err
	}

	s := &server{
		config: config, issuer: issuer, log: log, keys: keys, users: accounts,
		sessions: newSessions(sessionStore{pool}, "session", isHTTPS(issuer)),
		ready:    func(ctx context.Context) error { return checkTables(ctx, pool, store) },
	}
	onEvent := logEvents(log)
	if config.demo() {
		if s.demo, clients, s.users, err = newDemo(s); err != nil {
			return err
		}
		onEvent = s.demo.watch(onEvent)
	}
	s.provider, s.gate, s.fositeConfig, err = newProvider(providerConfig{ //nolint:contextcheck // Protect looks at a configuration only
		issuer: issuer, clients: clients, keys: keys, grants: store,
		grantLifespan: config.grantLifespan, pkcePlain: config.pkcePlain, onEvent: onEvent,
	})
	if err != nil {
		return err
	}
	s.clients = map[string]*client{}
	for _, c := range clients {
		s.clients[c.ID] = c
	}
	handler, err := s.handler()
	if err != nil {
		return err
	}
	httpServer := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      config.requestTimeout + 15*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    128 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}

	// Background work outlives the signal until the last request is answered.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var work errgroup.Group
	work.Go(func() error { return sweeper.Run(workCtx) })
	work.Go(func() error { return sessionStore{pool}.sweep(workCtx, log) })

	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(listener) }()
	log.Info("listening", "addr", listener.Addr().String(), "issuer", issuer)
	if s.demo != nil {
		s.demo.announce(stdout)
	}

	select {
	case <-ctx.Done():
		log.Info("stopping")
	case err = <-served:
		return errors.Join(err, stopAndWait(stopWork, &work))
	case <-postgresDone:
		err = errors.New("the private PostgreSQL has ended")
	}
	stopCtx, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancelStop()
	if stopErr := httpServer.Shutdown(stopCtx); stopErr != nil {
		err = errors.Join(err, stopErr, httpServer.Close())
	}
	return errors.Join(err, stopAndWait(stopWork, &work))
}

// stopAndWait ends the background work.
func stopAndWait(stop context.CancelFunc, work *errgroup.Group) error {
	stop()
	if err := work.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
