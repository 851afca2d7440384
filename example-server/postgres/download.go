package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// downloads are the versions that can be downloaded, the preferred first.
var downloads = []embeddedpostgres.PostgresVersion{
	embeddedpostgres.V17, embeddedpostgres.V18, embeddedpostgres.V16, embeddedpostgres.V15, embeddedpostgres.V14,
}

// download returns the programs that github.com/fergusstrange/embedded-postgres
// downloads, from the cache if they are there already.
//
// Only that library's download is used. It cannot start a server as root, keeps
// it on when this process dies, and has passwords sent in the clear.
func download(ctx context.Context, o Options, major, dir string, a *account) (programs, error) {
	var version embeddedpostgres.PostgresVersion
	for _, v := range downloads {
		if major == "" || strings.HasPrefix(string(v), major+".") {
			version = v
			break
		}
	}
	if version == "" {
		return programs{}, fmt.Errorf("no download has the version %s that the data in %s needs", major, filepath.Join(dir, dataName))
	}
	cache, err := cacheDir(o)
	if err != nil {
		return programs{}, err
	}
	target := filepath.Join(cache, "postgresql-"+string(version))
	if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
		if err := fetch(ctx, o, version, cache, target); err != nil {
			return programs{}, fmt.Errorf("PostgreSQL %s cannot be downloaded: %w", version, err)
		}
	} else if err != nil {
		return programs{}, err
	}
	p, err := inspect(ctx, filepath.Join(target, "bin"), major, dir, a)
	p.downloaded = true
	return p, err
}

// cacheDir returns the folder for downloaded programs. As root it must be one that
// the server's user can get to, which root's own cache folder is not.
func cacheDir(o Options) (string, error) {
	dir := o.CacheDir
	switch {
	case dir != "":
	case os.Geteuid() == 0:
		dir = "/var/cache/fosite-consent"
	default:
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "fosite-consent")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755) //nolint:gosec // G301: another user runs the programs in it
}

// fetch downloads and unpacks the programs into target, which appears only when it
// is complete: several processes may be doing the same.
func fetch(ctx context.Context, o Options, version embeddedpostgres.PostgresVersion, cache, target string) error {
	work, err := os.MkdirTemp(cache, ".download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	unpacked, blocker := filepath.Join(work, "programs"), filepath.Join(work, "blocker")
	if err := os.WriteFile(blocker, nil, 0o600); err != nil {
		return err
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	// The library has no call that only downloads. Its Start downloads, unpacks and
	// then clears the data folder; one that lies below a regular file cannot be
	// cleared, so that Start always ends there.
	config := embeddedpostgres.DefaultConfig().
		Version(version).
		Port(uint32(port)).
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(unpacked).
		DataPath(filepath.Join(blocker, "data")).
		Logger(io.Discard)
	if o.DownloadURL != "" {
		config = config.BinaryRepositoryURL(o.DownloadURL)
	}
	ended := embeddedpostgres.NewDatabase(config).Start()
	p := programs{dir: filepath.Join(unpacked, "bin")}
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(p.path(name)); err != nil {
			if ended != nil {
				return ended
			}
			return err
		}
	}
	if err := os.Chmod(unpacked, 0o755); err != nil { //nolint:gosec // G302: as for the folder around it
		return err
	}
	if err := os.Rename(unpacked, target); err != nil {
		if _, there := os.Stat(target); there == nil {
			return nil // another process was faster
		}
		return err
	}
	return nil
}
