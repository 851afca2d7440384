package pgtest

import (
	"context"
	"os"
	"path/filepath"

	"github.com/fosite-consent/fosite-consent/example-server/postgres"
)

// localServer is a server that runs from programs on this machine.
type localServer struct {
	*postgres.Server
	kind string
	dir  string // empty: a temporary one that cannot be started again
}

// startLocal starts a server on a directory, "" for a temporary one, from the
// programs of this machine or from downloaded ones.
func startLocal(ctx context.Context, kind, dir string) (*localServer, error) {
	s := &localServer{kind: kind, dir: dir}
	return s, s.start(ctx)
}

// start starts the server, also one that was stopped or killed. Its port is a new one.
func (s *localServer) start(ctx context.Context) error {
	o := postgres.Options{Dir: s.dir, InsecureNoSync: true, Settings: settings, Origin: postgres.Installed}
	if s.kind == kindEmbedded {
		o.Origin = postgres.Downloaded
	} else {
		limited, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		ctx = limited
	}
	started, err := postgres.Start(ctx, o)
	if err == nil {
		s.Server = started
	}
	return err
}

func (s *localServer) url() string                     { return s.URL() }
func (s *localServer) source() string                  { return s.Source() }
func (s *localServer) address() string                 { return s.Addr() }
func (s *localServer) stop(ctx context.Context) error  { return s.Stop(ctx) }
func (s *localServer) close(ctx context.Context) error { return s.Stop(ctx) }

// kill ends the server as a crash would: all of it, at once.
func (s *localServer) kill(ctx context.Context) error {
	if err := s.killProcesses(ctx); err != nil {
		return err
	}
	<-s.Done()
	_ = s.Stop(ctx) // it says that the server ended by itself; and gives the directory back
	return nil
}

// dedicatedServer is a localServer on a directory that outlives the server, for a
// test that stops and starts it, and goes when the test ends.
type dedicatedServer struct{ *localServer }

func startDedicatedLocal(ctx context.Context, kind string) (*dedicatedServer, error) {
	dir, err := newDedicatedDir()
	if err != nil {
		return nil, err
	}
	return startDedicatedIn(ctx, kind, dir)
}

// newDedicatedDir returns the path of a directory for a server, in a new temporary one.
func newDedicatedDir() (string, error) {
	dir, err := os.MkdirTemp("", "fosite-consent-pgtest-")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "postgres"), os.Chmod(dir, 0o711) // as root, the server is another user
}

// startDedicatedIn starts a server in a directory from newDedicatedDir, and removes
// that if it cannot.
func startDedicatedIn(ctx context.Context, kind, dir string) (*dedicatedServer, error) {
	s, err := startLocal(ctx, kind, dir)
	if err != nil {
		_ = os.RemoveAll(filepath.Dir(dir))
		return nil, err
	}
	return &dedicatedServer{s}, nil
}

func (s *dedicatedServer) close(ctx context.Context) error {
	select {
	case <-s.Done(): // the test has stopped it
	default:
		_ = s.unpause(ctx) // most often it is not paused
		if err := s.Stop(ctx); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Dir(s.dir))
}
