package pgtest

import "syscall"

// account is the user that a program runs as; it is always this process's own.
type account struct{}

func unprivileged() (*account, error) { return nil, nil }

func (*account) own(string) error { return nil }

func (*account) attributes() *syscall.SysProcAttr { return nil }
