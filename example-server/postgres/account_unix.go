//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user that the server runs as; nil is this process's own.
type account struct {
	name     string
	uid, gid uint32
}

// String names the account for messages.
func (a *account) String() string {
	if a == nil {
		return "this user"
	}
	return "user " + a.name
}

// serverAccount returns the user for the server. PostgreSQL refuses to run as
// root; then it is the owner of the data, else user postgres, else nobody.
func serverAccount(data string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if info, err := os.Stat(data); err == nil {
		owner, ok := info.Sys().(*syscall.Stat_t)
		if ok && owner.Uid != 0 {
			return &account{name: "#" + strconv.Itoa(int(owner.Uid)), uid: owner.Uid, gid: owner.Gid}, nil
		}
	}
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		a, err := lookup(name)
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no other user for it: %w", errors.Join(errs...))
}

func lookup(name string) (*account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
}

// own gives files to the account.
func (a *account) own(paths ...string) error {
	if a == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Chown(path, int(a.uid), int(a.gid)); err != nil {
			return err
		}
	}
	return nil
}

// attributes makes a program run as the account and in a process group of its
// own: Ctrl-C in a terminal goes to the whole group of the foreground process, and
// whoever started the server wants to end its own work first.
func (a *account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

// requestShutdown asks for a fast shutdown (PostgreSQL documentation, "Shutting
// Down the Server").
func (s *Server) requestShutdown(context.Context) error {
	return s.process.Signal(syscall.SIGINT)
}

// requestAbort asks for an immediate shutdown, which the next start recovers from.
func (s *Server) requestAbort() {
	_ = s.process.Signal(syscall.SIGQUIT) // it has ended: all the better
}
