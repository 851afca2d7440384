//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package postgres

import (
	"context"
	"errors"
	"os/exec"
)

// temporaryPrefix begins the name of every temporary directory.
const temporaryPrefix = "fosite-consent-postgres-"

// errLocked says that another process holds a lock.
var errLocked = errors.New("locked by another process")

// fileLock does nothing here: the server's own postmaster.pid keeps a second one
// out of its data.
type fileLock struct{}

func lockFile(string) (fileLock, error) { return fileLock{}, nil }

func (fileLock) handTo(*exec.Cmd) {}

// Close does nothing.
func (fileLock) Close() error { return nil }

func endOrphan(context.Context, string) error { return nil }

func removeAbandoned() {}
