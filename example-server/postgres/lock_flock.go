//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// temporaryPrefix begins the name of every temporary directory.
const temporaryPrefix = "fosite-consent-postgres-"

// errLocked says that another process holds a lock.
var errLocked = errors.New("locked by another process")

// fileLock is an exclusive lock on a file. It lasts until every process that has
// the file open, by handTo or by inheritance from there, has closed it or ended.
type fileLock struct{ file *os.File }

// lockFile takes the lock or returns errLocked at once.
func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &fileLock{f}, nil
}

// handTo makes a program hold the lock as well.
func (l *fileLock) handTo(cmd *exec.Cmd) { cmd.ExtraFiles = append(cmd.ExtraFiles, l.file) }

// Close lets go of the lock on this process's part.
func (l *fileLock) Close() error { return l.file.Close() }

// endOrphan waits until no server of an earlier owner runs on the directory, and
// asks one that does to shut down. The caller holds the owner's lock, so that such
// a server belongs to nobody.
func endOrphan(ctx context.Context, dir string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	asked := false
	for {
		lock, err := lockFile(filepath.Join(dir, serverLockName))
		if err == nil {
			return lock.Close()
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		if !asked {
			// Its process id cannot have passed to another process while the lock is held.
			if b, err := os.ReadFile(filepath.Join(dir, dataName, "postmaster.pid")); err == nil {
				first, _, _ := strings.Cut(string(b), "\n")
				if pid, err := strconv.Atoi(strings.TrimSpace(first)); err == nil && pid > 1 {
					asked = syscall.Kill(pid, syscall.SIGINT) == nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a server that was left behind in %s does not end: %w", dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// removeAbandoned removes temporary directories whose owner ended without Stop.
func removeAbandoned() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*")) // the pattern is well-formed
	for _, dir := range dirs {
		// Anybody can make such a name in /tmp: only a folder of this user's is touched.
		self, err := os.Lstat(dir)
		if err != nil || !self.IsDir() || self.Mode().Perm()&0o022 != 0 {
			continue
		}
		if owner, ok := self.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		// A directory that is only just being made has no lock yet, or one nobody
		// has got to take.
		info, err := os.Lstat(filepath.Join(dir, ownerLockName))
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		owner, err := lockFile(filepath.Join(dir, ownerLockName))
		if err != nil {
			continue
		}
		if server, err := lockFile(filepath.Join(dir, serverLockName)); err == nil {
			_ = os.RemoveAll(dir) // whatever of it is left, the next start tries again
			_ = server.Close()
		}
		_ = owner.Close()
	}
}
