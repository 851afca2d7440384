//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user that a program runs as; nil is this process's own.
type account struct{ uid, gid int }

// unprivileged returns a user for a program that refuses to run as root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		return &account{uid, gid}, errors.Join(uidErr, gidErr)
	}
	return nil, fmt.Errorf("there is no user but root to run it as: %w", errors.Join(errs...))
}

// own gives a file to the account.
func (a *account) own(file string) error {
	if a == nil {
		return nil
	}
	return os.Chown(file, a.uid, a.gid)
}

// attributes makes a program run as the account, and end with this process where the
// system can see to that.
func (a *account) attributes() *syscall.SysProcAttr {
	attr := new(syscall.SysProcAttr)
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	endWithParent(attr)
	return attr
}
