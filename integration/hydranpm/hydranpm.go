// Package hydranpm runs what npm has for Ory Hydra, unchanged, in tests: the clients
// @ory/hydra-client and @ory/hydra-client-fetch, and the reference application for login and
// consent, hydra-login-consent-logout.
//
// The packages are those of package-lock.json, with their hashes. The first test on a machine that
// needs them installs them (npm ci) into the user's cache folder, once for each lock file; none of
// their scripts is run. Where there is no Node.js, tests are skipped, and in CI they fail.
package hydranpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Time limits that no test comes near on a machine that works.
const (
	installTimeout = 5 * time.Minute
	startTimeout   = time.Minute
)

//go:embed package.json package-lock.json .npmrc
var files embed.FS

// errNoNode says that this machine has no Node.js that could be used.
var errNoNode = errors.New("no Node.js")

// installed is the folder of this process's packages.
var installed = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	if err := look(ctx); err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	contents := map[string][]byte{}
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		if contents[name], err = files.ReadFile(name); err != nil {
			return "", err
		}
	}
	return install(ctx, filepath.Join(cache, "fosite-consent"), contents)
})

// look says whether there are node, with the fetch that it has from version 18 on, and npm.
func look(ctx context.Context) error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: install nodejs and npm: %w", errNoNode, err)
		}
	}
	if out, err := exec.CommandContext(ctx, "node", "--eval", `process.exit(typeof fetch === "function" ? 0 : 1)`).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: it is older than version 18: %w %s", errNoNode, err, out)
	}
	return nil
}

// install returns a folder below cache that has these files, by name, and the node_modules that they ask for. Other processes may do the same at the same time: each fills
// a folder of its own, and the first that has it complete gives it the name by which all find it.
func install(ctx context.Context, cache string, contents map[string][]byte) (string, error) {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		fmt.Fprintf(hash, "%s %d\n%s", name, len(contents[name]), contents[name])
	}
	folder := filepath.Join(cache, fmt.Sprintf("hydranpm-%x", hash.Sum(nil)[:16]))
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	own, err := os.MkdirTemp(cache, "hydranpm-incomplete-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(own) // if it still has this name
	for name, b := range contents {
		if err := os.WriteFile(filepath.Join(own, name), b, 0o600); err != nil {
			return "", err
		}
	}
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts")
	npm.Dir = own
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(own, folder); err != nil {
		if _, there := os.Stat(folder); there != nil {
			return "", err
		}
	}
	return folder, nil
}

// Folder returns a folder whose node_modules has the packages. Without Node.js it skips the test; in CI it fails it. That npm cannot
// install what it has to is a failure everywhere.
func Folder(t testing.TB) string {
	t.Helper()
	folder, err := installed()
	if errors.Is(err, errNoNode) && os.Getenv("CI") == "" {
		t.Skip("hydranpm:", err)
	} else if err != nil {
		t.Fatal("hydranpm:", err)
	}
	return folder
}

// Node returns a command that runs node in Folder, where scripts find the packages, and ends it with ctx. Of this process's environment it has what
// programs need to be found; neither a proxy nor options for Node.js nor anything for Ory's programs, which env adds ("NAME=value").
// It is to be started by [Start].
func Node(ctx context.Context, t testing.TB, args []string, env ...string) *exec.Cmd {
	t.Helper()
	folder := Folder(t)
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = folder
	cmd.SysProcAttr = attributes()
	cmd.Env = []string{}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TEMP", "SYSTEMROOT"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// Start starts the command and returns a channel that gives what its Wait returns.
func Start(cmd *exec.Cmd) (<-chan error, error) {
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// On Linux the kernel ends it when the thread that started it ends: keep that one.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}

// StartReferenceApp starts Hydra's reference application, which asks the admin API at apiURL, and returns its address, http://127.0.0.1:port.
// It ends with the test, whose output has its log when it has failed. env ("NAME=value") is added to its environment; what it knows:
//
//   - BASE_URL, before the addresses of its forms, for a public address that differs from where it listens;
//   - ORY_API_KEY, an access token. Its client sends none to the routes for login, consent and logout: the API has to let it in without;
//   - CONFORMITY_FAKE_CLAIMS=1, which makes it put invented claims into tokens.
//
// By its own choice it listens on all addresses of the machine.
func StartReferenceApp(t testing.TB, apiURL string, env ...string) (baseURL string) {
	t.Helper()
	// The port is chosen before the application binds it: another process may be faster.
	for try := 1; ; try++ {
		port, err := freePort(t.Context())
		if err != nil {
			t.Fatal("hydranpm:", err)
		}
		output := &output{found: make(chan struct{}), text: "Listening on http://0.0.0.0:" + port}
		// The test's context ends before its cleanup: what is still open then may need the application.
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cmd := Node(ctx, t, []string{"node_modules/hydra-login-consent-logout/lib/app.js"}, append([]string{"PORT=" + port, "HYDRA_ADMIN_URL=" + apiURL}, env...)...)
		cmd.Stdout, cmd.Stderr = output, output
		ended, err := Start(cmd)
		if err != nil {
			cancel()
			t.Fatal("hydranpm: the reference application:", err)
		}
		limit := time.NewTimer(startTimeout)
		select {
		case <-output.found:
			limit.Stop()
			t.Cleanup(func() {
				select {
				case err := <-ended:
					t.Errorf("hydranpm: the reference application has ended by itself: %v. It said:\n%s", err, output)
				default:
					cancel()
					err := <-ended
					t.Logf("hydranpm: the reference application was ended: %v. It said:\n%s", err, output)
				}
			})
			return "http://127.0.0.1:" + port
		case err = <-ended:
		case <-limit.C:
			cancel()
			err = fmt.Errorf("it did not listen within %v: %w", startTimeout, <-ended)
		}
		limit.Stop()
		cancel()
		if try == 5 || !strings.Contains(output.String(), "EADDRINUSE") {
			t.Fatalf("hydranpm: the reference application: %v\n%s", err, output)
		}
	}
}

// freePort returns a port on which nobody listens at the moment, on any address.
func freePort(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", ":0")
	if err != nil {
		return "", err
	}
	addr, _ := l.Addr().(*net.TCPAddr)
	return strconv.Itoa(addr.Port), l.Close()
}

// output keeps what a process writes, and says when the text has come.
type output struct {
	mu     sync.Mutex
	buffer bytes.Buffer
	text   string
	found  chan struct{} // closed once text was there
	seen   bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.buffer.Write(p)
	if !o.seen && bytes.Contains(o.buffer.Bytes(), []byte(o.text)) {
		o.seen = true
		close(o.found)
	}
	return n, err
}

// String returns what was written.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String()
}
