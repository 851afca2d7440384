// Command example-server is a small but complete OAuth 2.0 and OpenID Connect
// authorization server on fosite, in which nothing is issued without a consent
// grant: sign-in, consent page, a page on which users take back what they have allowed, all
// of fosite's response types, introspection, revocation, discovery. It is meant to be read
// and pasted from.
//
//	go run ./example-server        # a PostgreSQL of its own, and a demo to click through
//	go run ./example-server -h     # what can be set
//
// With -login-url and -consent-url its pages are an application's, elsewhere: docs/hydra.md.
//
// # What is where
//
// Everything is in PostgreSQL: consent grants, what is remembered of them, codes and tokens, browser sessions, keys.
// Any number of processes behind one address share one database and nothing else, and
// any of them can be killed at any moment. Clients and users are read from the files at
// the start, so all processes need the same; and they have one issuer, which the database
// remembers.
//
// Without a database URL, a private PostgreSQL is started on a temporary directory,
// which is removed when the server stops.
//
// # What it does not do
//
// It does not limit how often a password may be tried or a request pushed, which costs a
// row until it expires, and terminates no TLS: put it behind a proxy that does these, and
// that passes the Host header on.
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
	"runtime/debug"
	"syscall"
	"time"

	"github.com/ory/fosite"
	"golang.org/x/sync/errgroup"

	"github.com/fosite-consent/fosite-consent/example-server/postgres"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

const (
	startTimeout = 2 * time.Minute  // a private PostgreSQL may have to be downloaded
	stopTimeout  = 15 * time.Second // for requests that are under way, and again for the database
)

func main() {
	// Each request makes much, of which little lives on: at Go's default the collector takes a
	// tenth of the processors to keep a few megabytes free.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
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
		if clients, err = readClients(config.clientsFile); err == nil && config.loginURL == "" {
			accounts, err = readUsers(config.usersFile)
		}
		if err == nil && config.issuer != "" && !isLoopback(hostname(config.issuer)) {
			err = refuseSamples(clients, accounts)
		}
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "example-server: %v\n", err)
			return 2
		}
	}
	var operator adminCredential
	if config.adminListen != "" {
		if operator, err = readAdminCredential(config.adminTokenFile); err != nil {
			_, _ = fmt.Fprintf(stderr, "example-server: -admin-token-file: %v\n", err)
			return 2
		}
	}
	var application func(*http.Request) error // nil: whoever reaches the internal API
	if config.apiTokenFile != "" {
		token, err := readToken(config.apiTokenFile)
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "example-server: -api-token-file: %v\n", err)
			return 2
		}
		application = consentapi.BearerToken(token)
	}
	log := newLogger(config.logFormat, stderr)
	err = serve(ctx, config, clients, accounts, operator, application, log, stdout)
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
func serve(ctx context.Context, config config, clients []*client, accounts *users, operator adminCredential, application func(*http.Request) error, log *slog.Logger, stdout io.Writer) (err error) {
	// First of all, since it is what fails when another process has the port.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", config.listen)
	if err != nil {
		return fmt.Errorf("%w: choose another address with -listen, 127.0.0.1:0 for any free port", err)
	}
	defer func() { _ = listener.Close() }() // the HTTP server closes it first, if it is ever started

	var adminListener net.Listener // nil without an operator
	if config.adminListen != "" {
		if adminListener, err = new(net.ListenConfig).Listen(ctx, "tcp", config.adminListen); err != nil {
			return fmt.Errorf("%w: choose another address with -admin-listen", err)
		}
		defer func() { _ = adminListener.Close() }()
	}

	var apiListener net.Listener // nil with pages of its own
	if config.apiListen != "" {
		if apiListener, err = new(net.ListenConfig).Listen(ctx, "tcp", config.apiListen); err != nil {
			return fmt.Errorf("%w: choose another address with -api-listen", err)
		}
		defer func() { _ = apiListener.Close() }()
	}

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
	pool, keys, err := openDatabase(startCtx, databaseURL, config, issuer, log)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		return err
	}
	sweeper, err := pgstore.NewSweeper(pool, pgstore.SweeperConfig{DecisionRetention: config.decisionRetention, Logger: log})
	if err != nil {
		return err
	}

	s := &server{
		config: config, issuer: issuer, log: log, keys: keys, users: accounts, clients: map[string]*client{},
		sessions: newSessions(sessionStore{pool}, "session", isHTTPS(issuer)),
	}
	storage, err := fositestore.New(pool, fositestore.Config{NewSession: func() fosite.Session { return newTokenSession() }, GetClient: s.getClient})
	if err != nil {
		return err
	}
	storageSweeper, err := fositestore.NewSweeper(pool, fositestore.SweeperConfig{Logger: log})
	if err != nil {
		return err
	}
	if config.loginURL != "" {
		if s.logins, err = s.newLoginAPI(pool); err != nil {
			return err
		}
	}
	s.ready = func(ctx context.Context) error { return checkTables(ctx, pool, store, storage) }
	onEvent := logEvents(log)
	if config.demo() {
		if s.demo, clients, s.users, err = newDemo(s); err != nil {
			return err
		}
		onEvent = s.demo.watch(onEvent)
	}
	s.provider, s.gate, s.fositeConfig, err = newProvider(providerConfig{ //nolint:contextcheck // Protect looks at a configuration only
		issuer: issuer, keys: keys, grants: store, consents: store, decisions: store, storage: storage,
		grantLifespan: config.grantLifespan, pkcePlain: config.pkcePlain, onEvent: onEvent,
	})
	if err != nil {
		return err
	}
	if config.consentURL != "" {
		if s.consents, err = s.newConsentAPI(store, application); err != nil {
			return err
		}
	}
	for _, c := range clients {
		s.clients[c.ID] = c
	}
	if err := s.checkTransaction(startCtx, clients); err != nil {
		return err
	}
	handler, err := s.handler()
	if err != nil {
		return err
	}

	// Background work outlives the signal until the last request is answered.
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var work errgroup.Group
	work.Go(func() error { return sweeper.Run(workCtx) })
	work.Go(func() error { return sweepNowAndThen(workCtx, log, "sessions", sessionStore{pool}.sweep) })
	work.Go(func() error { return storageSweeper.Run(workCtx) })
	work.Go(func() error { return keys.signing.run(workCtx) })
	if s.logins != nil {
		work.Go(func() error { return sweepNowAndThen(workCtx, log, "login requests", s.logins.Sweep) })
	}

	var servers []*http.Server
	served := make(chan error, 3)
	start := func(handler http.Handler, listener net.Listener) {
		server := newHTTPServer(handler, config, log)
		servers = append(servers, server)
		go func() { served <- server.Serve(listener) }()
	}
	start(handler, listener)
	if adminListener != nil {
		start(s.adminHandler(operator), adminListener)
		log.Info("listening for the operator", "addr", adminListener.Addr().String())
		if host, _, err := net.SplitHostPort(adminListener.Addr().String()); err != nil || !isLoopback(host) {
			log.Warn("the operator's listener has no TLS and can be reached from elsewhere: let nothing but a proxy with TLS reach it")
		}
	}
	if apiListener != nil {
		start(s.apiHandler(application), apiListener)
		log.Info("listening for the application that has the pages", "addr", apiListener.Addr().String())
		s.warnIfPublic(apiListener.Addr().String(), application)
	}
	log.Info("listening", "addr", listener.Addr().String(), "issuer", issuer)
	if s.demo != nil {
		s.demo.announce(stdout)
	}

	select {
	case <-ctx.Done():
		log.Info("stopping")
	case err = <-served:
	case <-postgresDone:
		err = errors.New("the private PostgreSQL has ended")
	}
	stopCtx, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancelStop()
	for _, server := range servers {
		if stopErr := server.Shutdown(stopCtx); stopErr != nil {
			err = errors.Join(err, stopErr, server.Close())
		}
	}
	return errors.Join(err, stopAndWait(stopWork, &work))
}

func newHTTPServer(handler http.Handler, config config, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      config.requestTimeout + 15*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    128 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// checkTransaction tries, once, whether the grant and the code really are stored in one
// transaction. If not, the server is not to start.
func (s *server) checkTransaction(ctx context.Context, clients []*client) error {
	if len(clients) == 0 {
		return errors.New("there are no clients")
	}
	trial := newTokenSession()
	trial.Subject = "start-up"
	return s.gate.Check(ctx, clients[0], trial)
}

// stopAndWait ends the background work.
func stopAndWait(stop context.CancelFunc, work *errgroup.Group) error {
	stop()
	if err := work.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
