//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package postgres

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Anybody can make a folder of that name in the folder of temporary files, with
// links in it to files that only this user may write.
func TestAbandonedFoldersAreOurs(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	target := filepath.Join(temp, "target")
	folder := func(name string, mode fs.FileMode, link bool) string {
		dir := filepath.Join(temp, temporaryPrefix+name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		lock := filepath.Join(dir, ownerLockName)
		if err := os.WriteFile(lock, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		long := time.Now().Add(-time.Hour)
		if err := os.Chtimes(lock, long, long); err != nil {
			t.Fatal(err)
		}
		if link {
			if err := os.Symlink(target, filepath.Join(dir, serverLockName)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	linked, open, ours := folder("linked", 0o700, true), folder("open", 0o777, false), folder("ours", 0o700, false)
	foreign := ""
	if os.Geteuid() == 0 {
		foreign = folder("foreign", 0o700, false)
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	removeAbandoned()
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link was followed: %v", err)
	}
	for _, dir := range []string{linked, open, foreign} {
		if _, err := os.Lstat(dir); dir != "" && err != nil {
			t.Errorf("somebody else's folder was touched: %v", err)
		}
	}
	if _, err := os.Lstat(ours); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("our own abandoned folder is still there: %v", err)
	}
}
