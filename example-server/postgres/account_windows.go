package postgres

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
)

// account is the user that the server runs as; it is always this process's own.
type account struct{}

// String names the account for messages.
func (*account) String() string { return "this user" }

func serverAccount(string) (*account, error) { return nil, nil }

func (*account) own(...string) error { return nil }

// attributes puts a program into a process group of its own, which keeps Ctrl-C
// from it.
func (*account) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// endWithParent does nothing: a server that is left behind keeps its data to itself
// until it is stopped.
func endWithParent(*syscall.SysProcAttr) {}

// requestShutdown asks for a fast shutdown. Windows has no signals: pg_ctl knows
// how the server listens for its own.
func (s *Server) requestShutdown(ctx context.Context) error {
	var a *account
	out, err := a.command(ctx, s.dir, s.programs.path("pg_ctl"),
		"stop", "--mode=fast", "--no-wait", "--pgdata="+filepath.Join(s.dir, dataName)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_ctl stop: %w: %s", err, lastLines(out))
	}
	return nil
}

// requestAbort ends the server at once, which the next start recovers from.
func (s *Server) requestAbort() { _ = s.process.Kill() }

// removeStalePIDFile leaves the file to the server's own judgement.
func removeStalePIDFile(string) {}
