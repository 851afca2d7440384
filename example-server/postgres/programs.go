package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// oldest is the oldest major version that is used.
const oldest = 14

// programs is a folder with the PostgreSQL server's programs.
type programs struct {
	dir        string
	version    string // such as "15.18"
	downloaded bool
}

// path returns the path of one of the programs.
func (p programs) path(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(p.dir, name)
}

// origin says in words where the programs are from.
func (p programs) origin() string {
	if p.downloaded {
		return "downloaded to " + p.dir
	}
	return "from " + p.dir
}

// findPrograms returns programs of the given major version ("": of any), with the
// reasons for what was passed over when there are none.
func findPrograms(ctx context.Context, o Options, major, dir string, a *account) (programs, error) {
	var reasons []error
	if o.Origin != Downloaded {
		p, err := installed(ctx, candidates(), major, dir, a)
		if err == nil {
			return p, nil
		}
		if errors.Is(err, errNoAccess) {
			return programs{}, err // other programs would get no further
		}
		reasons = append(reasons, err)
	}
	if o.Origin != Installed {
		p, err := download(ctx, o, major, dir, a)
		if err == nil {
			return p, nil
		}
		reasons = append(reasons, err)
	}
	return programs{}, errors.Join(reasons...)
}

// candidates lists the folders in which this machine may have the programs, the
// preferred first.
func candidates() []string {
	var dirs []string
	// A command on PATH may be a link to one program without its neighbours: the
	// folder that counts is the one it leads to.
	if found, err := exec.LookPath("postgres"); err == nil {
		if target, err := filepath.EvalSymlinks(found); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	var known []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",                               // Debian, Ubuntu
		"/usr/libexec/postgresql*",                                // Alpine
		"/usr/pgsql-*/bin",                                        // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin",                      // macOS, Homebrew
		"/usr/local/opt/postgresql@*/bin",                         // macOS on Intel, Homebrew
		"/Applications/Postgres.app/Contents/Versions/[0-9]*/bin", // macOS
		`C:\Program Files\PostgreSQL\*\bin`,                       // Windows
	} {
		found, _ := filepath.Glob(pattern) // the patterns are well-formed
		known = append(known, found...)
	}
	slices.SortStableFunc(known, func(x, y string) int { return numberIn(y) - numberIn(x) })
	for _, dir := range known {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

var lastNumber = regexp.MustCompile(`([0-9]+)[^0-9]*$`)

// numberIn returns the last number in a path: the major version in all of the
// patterns above.
func numberIn(path string) int {
	m := lastNumber.FindStringSubmatch(path)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// installed returns the first of the folders whose programs are complete, run and
// fit the data.
func installed(ctx context.Context, dirs []string, major, dir string, a *account) (programs, error) {
	var reasons []string
	for _, d := range dirs {
		p, err := inspect(ctx, d, major, dir, a)
		if err == nil {
			return p, nil
		}
		if errors.Is(err, errNoAccess) {
			return programs{}, err
		}
		reasons = append(reasons, err.Error())
	}
	if len(reasons) == 0 {
		return programs{}, errors.New("no PostgreSQL server programs (postgres, initdb) are installed on this machine, neither on PATH nor where packages put them")
	}
	return programs{}, fmt.Errorf("none of the PostgreSQL programs on this machine can be used: %s", strings.Join(reasons, "; "))
}

// errNoAccess says that the user for the server cannot get to a folder.
var errNoAccess = errors.New("no access")

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (([0-9]+)\S*)`)

// inspect runs the server program once, as the user and in the folder that it will
// have to run as and in.
func inspect(ctx context.Context, bin, major, dir string, a *account) (programs, error) {
	p := programs{dir: bin}
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(p.path(name)); err != nil {
			return p, fmt.Errorf("%s has no %s", bin, name)
		}
	}
	out, err := a.command(ctx, dir, p.path("postgres"), "--version").CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		return p, fmt.Errorf("%w: %s cannot run %s in %s: every folder above both must be open to that user", errNoAccess, a, p.path("postgres"), dir)
	} else if err != nil {
		return p, fmt.Errorf("%s does not run: %w: %s", p.path("postgres"), err, lastLines(out))
	}
	m := versionPattern.FindStringSubmatch(string(out))
	if m == nil {
		return p, fmt.Errorf("%s is not PostgreSQL's server", p.path("postgres"))
	}
	p.version = m[1]
	if n, _ := strconv.Atoi(m[2]); n < oldest {
		return p, fmt.Errorf("%s is version %s, and %d is the oldest that is supported", bin, p.version, oldest)
	}
	if major != "" && m[2] != major {
		return p, fmt.Errorf("%s is version %s, and the data in %s needs %s", bin, p.version, filepath.Join(dir, dataName), major)
	}
	return p, nil
}
