package pgtest

import (
	"context"
	"net/url"
	"os"
	"testing"
	"time"
)

// controlled is a server that a test may do anything to.
type controlled interface {
	server
	// address is the host and port it listens on now.
	address() string
	// stop shuts it down in good order; kill crashes it; start starts it again.
	stop(ctx context.Context) error
	kill(ctx context.Context) error
	start(ctx context.Context) error
	// pause keeps it from doing anything, until unpause.
	pause(ctx context.Context) error
	unpause(ctx context.Context) error
	// standby starts a copy of the server that streams from it. The server may be
	// restarted for that.
	standby(ctx context.Context) (controlled, error)
}

// Server is a PostgreSQL server that belongs to one test, behind a Proxy with an
// address that stays the same when the server is started again. Its methods fail
// the test when they do not succeed, and so are to be called from the test's own
// goroutine.
type Server struct {
	t      testing.TB
	server controlled
	proxy  *Proxy
}

// Dedicated starts a server for this test alone, which ends with it. It is chosen
// as the shared one is, except that a server of TEST_DATABASE_URL is nobody's to
// stop: a container or a local server is started then too.
func Dedicated(t testing.TB) *Server {
	t.Helper()
	own := startDedicated(t, onDisk)
	return &Server{t: t, server: own, proxy: NewProxy(t, own.address())}
}

// startDedicated starts a server that ends with the test.
func startDedicated(t testing.TB, where storage) controlled {
	t.Helper()
	pinned := os.Getenv("TEST_POSTGRES")
	if pinned == "url" {
		pinned = ""
	}
	own, err := startOwn(context.Background(), pinned, func(ctx context.Context, kind string) (controlled, error) {
		if kind == kindDocker {
			return nilIfFailed(startDocker(ctx, where))
		}
		return nilIfFailed(startDedicatedLocal(ctx, kind))
	})
	if err != nil {
		t.Fatal(err)
	}
	endWith(t, own)
	return own
}

// endWith ends the server with the test.
func endWith(t testing.TB, own controlled) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		if err := own.close(ctx); err != nil {
			t.Errorf("pgtest: end the test's server: %v", err)
		}
	})
}

// nilIfFailed keeps a nil pointer from becoming an interface that is not nil.
func nilIfFailed[S controlled](s S, err error) (controlled, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// URL returns the connection URL, through the proxy, of the server's maintenance
// database as its superuser. It stays the same for the server's life.
func (s *Server) URL() string { return s.proxy.URL(s.server.url()) }

// DirectURL is URL without the proxy. It changes with every Start.
func (s *Server) DirectURL() string { return s.server.url() }

// Database creates an empty database and returns its URL, through the proxy. It
// lasts as long as the server.
func (s *Server) Database() string {
	s.t.Helper()
	name := uniqueName(s.t)
	if err := execute(s.server.url(), "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		s.t.Fatalf("pgtest: create a database: %v", err)
	}
	return edit(s.t, s.URL(), func(u *url.URL) { u.Path = "/" + name })
}

// Proxy returns the proxy in front of the server.
func (s *Server) Proxy() *Proxy { return s.proxy }

// Source describes the server in one line.
func (s *Server) Source() string { return s.server.source() }

// Stop shuts the server down in good order: clients get an error, and later ones no
// connection.
func (s *Server) Stop() { s.t.Helper(); s.do("stop", s.server.stop) }

// Kill ends the server as a crash would (SIGKILL). What was committed is there
// after Start.
func (s *Server) Kill() { s.t.Helper(); s.do("kill", s.server.kill) }

// Start starts a server that was stopped or killed, and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.do("start", s.server.start)
	s.proxy.SetTarget(s.server.address())
}

// Restart stops the server and starts it.
func (s *Server) Restart() { s.t.Helper(); s.Stop(); s.Start() }

// Pause keeps every process of the server from running: connections stay open, new
// ones are accepted by the operating system alone, and nothing is answered.
func (s *Server) Pause() { s.t.Helper(); s.do("pause", s.server.pause) }

// Unpause ends a Pause; the server then carries out what was sent meanwhile.
func (s *Server) Unpause() { s.t.Helper(); s.do("unpause", s.server.unpause) }

func (s *Server) do(what string, f func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f(ctx); err != nil {
		s.t.Fatalf("pgtest: %s the test's server: %v", what, err)
	}
}
