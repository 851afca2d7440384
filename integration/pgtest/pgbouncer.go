package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// PgBouncerOrigin says where a PgBouncer comes from, and so of which kind it is.
type PgBouncerOrigin int

const (
	// InstalledPgBouncer is the program of this machine. In CI it is version 1.18,
	// from before PgBouncer knew prepared statements.
	InstalledPgBouncer PgBouncerOrigin = iota
	// ContainerPgBouncer is the program in the image TEST_POSTGRES_IMAGE, in a
	// container that shares this machine's network. In CI it is version 1.24.
	ContainerPgBouncer
)

// String names the origin as a test's name does.
func (o PgBouncerOrigin) String() string {
	if o == ContainerPgBouncer {
		return "in a container"
	}
	return "installed"
}

// PgBouncerOrigins are all of them.
var PgBouncerOrigins = []PgBouncerOrigin{InstalledPgBouncer, ContainerPgBouncer}

// Bouncer is a PgBouncer in transaction mode in front of a database server.
type Bouncer struct {
	addr    string
	version [2]int
}

// admin is the database in which PgBouncer itself answers.
const admin = "pgbouncer"

// minPrepared is the first version that keeps track of prepared statements.
var minPrepared = [2]int{1, 21}

// errNoPgBouncer says that this machine has no such PgBouncer.
var errNoPgBouncer = errors.New("no PgBouncer")

// PgBouncer starts a PgBouncer in front of the server of databaseURL, for the role
// named there. It has at most connections of them to the server for each database,
// is open to this machine only, and ends with the test. From 1.21 on it keeps track
// of up to 100 prepared statements.
//
// Without such a PgBouncer the test is skipped, and in CI it fails.
func PgBouncer(t testing.TB, from PgBouncerOrigin, databaseURL string, connections int) *Bouncer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	b, end, err := startPgBouncer(ctx, from, databaseURL, connections)
	if errors.Is(err, errNoPgBouncer) && os.Getenv("CI") == "" {
		t.Skipf("pgtest: PgBouncer %s: %v", from, err)
	} else if err != nil {
		t.Fatalf("pgtest: PgBouncer %s: %v", from, err)
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Errorf("pgtest: end PgBouncer: %v", err)
		}
	})
	return b
}

// URL returns the connection URL of one of the server's databases through PgBouncer.
// It panics if the text is not a URL.
func (b *Bouncer) URL(databaseURL string) string {
	u, err := changed(databaseURL, func(u *url.URL) {
		u.Host = b.addr
		query := u.Query()
		query.Set("sslmode", "disable")
		u.RawQuery = query.Encode()
	})
	if err != nil {
		panic("pgtest: " + err.Error())
	}
	return u
}

// KnowsPreparedStatements tells whether this PgBouncer keeps track of them, so that
// a client may prepare them in transaction mode.
func (b *Bouncer) KnowsPreparedStatements() bool {
	return b.version[0] > minPrepared[0] || b.version[0] == minPrepared[0] && b.version[1] >= minPrepared[1]
}

// Version returns the version as "1.24".
func (b *Bouncer) Version() string { return fmt.Sprintf("%d.%d", b.version[0], b.version[1]) }

// bouncerProcess is a PgBouncer that has been started, of either origin.
type bouncerProcess interface {
	running(ctx context.Context) (bool, error)
	log() string
	end() error
}

func startPgBouncer(ctx context.Context, from PgBouncerOrigin, databaseURL string, connections int) (*Bouncer, func() error, error) {
	server, err := url.Parse(databaseURL)
	if err != nil || server.Hostname() == "" || server.User == nil {
		return nil, nil, errors.New("the database's address is not of the form postgres://user:password@host:port/name")
	}
	// The port is chosen before PgBouncer binds it: another process may be faster.
	for try := 1; ; try++ {
		port, err := freePort(ctx)
		if err != nil {
			return nil, nil, err
		}
		b := &Bouncer{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
		start := startInstalledPgBouncer
		if from == ContainerPgBouncer {
			start = startContainerPgBouncer
		}
		ini, users := bouncerConfig(server, port, connections)
		process, err := start(ctx, ini, users)
		if err != nil {
			return nil, nil, err
		}
		if err = b.ready(ctx, process, databaseURL); err == nil {
			return b, process.end, nil
		}
		taken := strings.Contains(process.log(), "ddress already in use")
		if endErr := process.end(); !taken || try == 5 {
			return nil, nil, errors.Join(err, endErr)
		}
	}
}

// bouncerConfig returns the configuration and the list of users, without the latter's
// place. See https://www.pgbouncer.org/config.html.
func bouncerConfig(server *url.URL, port, connections int) (ini, users string) {
	password, _ := server.User.Password()
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	serverPort, sslmode := server.Port(), server.Query().Get("sslmode")
	if serverPort == "" {
		serverPort = "5432"
	}
	if sslmode == "" {
		sslmode = "prefer"
	}
	lines := []string{
		"[databases]",
		"* = host=" + server.Hostname() + " port=" + serverPort,
		"[pgbouncer]",
		"pool_mode = transaction",
		"default_pool_size = " + strconv.Itoa(connections),
		"max_client_conn = 1000",
		"listen_addr = 127.0.0.1",
		"listen_port = " + strconv.Itoa(port),
		"unix_socket_dir =",
		"auth_type = scram-sha-256",
		"server_tls_sslmode = " + sslmode,
		"admin_users = " + server.User.Username(),
		// A server that was away is tried again soon; the default is 15 seconds.
		"server_login_retry = 0.1",
		"",
	}
	return strings.Join(lines, "\n"), quote(server.User.Username()) + " " + quote(password) + "\n"
}

// ready waits until PgBouncer answers, asks for its version, and has it keep track
// of prepared statements if it can.
func (b *Bouncer) ready(ctx context.Context, process bouncerProcess, databaseURL string) error {
	address, err := changed(b.URL(databaseURL), func(u *url.URL) { u.Path = "/" + admin })
	if err != nil {
		return err
	}
	// It speaks the simple protocol, and knows none of the statements that pgx sends
	// besides its caller's.
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	for {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			defer conn.Close(ctx)
			return b.ask(ctx, conn)
		}
		if running, err := process.running(ctx); err != nil {
			return err
		} else if !running {
			return fmt.Errorf("it has ended: %s", process.log())
		}
		if wait(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("it does not answer: %w: %s", err, process.log())
		}
	}
}

func (b *Bouncer) ask(ctx context.Context, conn *pgx.Conn) error {
	var version string
	if err := conn.QueryRow(ctx, "SHOW VERSION").Scan(&version); err != nil {
		return err
	}
	if n, err := fmt.Sscanf(version, "PgBouncer %d.%d", &b.version[0], &b.version[1]); n != 2 {
		return fmt.Errorf("version %q: %w", version, err)
	}
	if !b.KnowsPreparedStatements() {
		return nil
	}
	_, err := conn.Exec(ctx, "SET max_prepared_statements = 100")
	return err
}

// freePort returns a port of 127.0.0.1 that nobody listens on at the moment.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr, _ := l.Addr().(*net.TCPAddr)
	return addr.Port, l.Close()
}

// installedBouncer is a process of this machine.
type installedBouncer struct {
	cmd    *exec.Cmd
	dir    string
	output lockedBuffer
	ended  chan struct{}
}

func startInstalledPgBouncer(ctx context.Context, ini, users string) (_ bouncerProcess, err error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer") // which is on PATH for root only
	}
	if err != nil {
		return nil, fmt.Errorf("%w: install pgbouncer", errNoPgBouncer)
	}
	// It refuses to run as root.
	a, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fosite-consent-pgbouncer-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	iniFile, usersFile := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "users")
	for file, text := range map[string]string{iniFile: ini + "auth_file = " + usersFile + "\n", usersFile: users} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if err := a.own(file); err != nil {
			return nil, err
		}
	}
	b := &installedBouncer{dir: dir, ended: make(chan struct{})}
	b.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, iniFile)
	b.cmd.Dir = dir
	b.cmd.Stdout, b.cmd.Stderr = &b.output, &b.output
	b.cmd.SysProcAttr = a.attributes()
	started := make(chan error, 1)
	go func() {
		defer close(b.ended)
		// On Linux the kernel ends it when the thread that started it ends: keep that one.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := b.cmd.Start()
		started <- err
		if err == nil {
			_ = b.cmd.Wait() // its log says why
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return b, nil
}

func (b *installedBouncer) running(context.Context) (bool, error) {
	select {
	case <-b.ended:
		return false, nil
	default:
		return true, nil
	}
}

func (b *installedBouncer) log() string { return b.output.String() }

// end kills it: it keeps nothing that a good order would be good for.
func (b *installedBouncer) end() error {
	_ = b.cmd.Process.Kill() // it may have ended
	<-b.ended
	return os.RemoveAll(b.dir)
}

// lockedBuffer may be written to and read at the same time.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

// String returns what was written.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// containerBouncer is a container.
type containerBouncer struct{ *dockerServer }

// inContainer writes the files and becomes PgBouncer. The shell ends with a status of
// its own where the image has none.
const inContainer = `command -v pgbouncer >/dev/null || { echo "no pgbouncer in this image"; exit 42; }
umask 077
printf '%s\nauth_file = /tmp/users\n' "$INI" >/tmp/pgbouncer.ini
printf '%s' "$USERS" >/tmp/users
exec pgbouncer /tmp/pgbouncer.ini`

func startContainerPgBouncer(ctx context.Context, ini, users string) (_ bouncerProcess, err error) {
	image := os.Getenv("TEST_POSTGRES_IMAGE")
	if image == "" {
		return nil, fmt.Errorf("%w: TEST_POSTGRES_IMAGE names no image that has one, as the one of make image does", errNoPgBouncer)
	}
	pool, err := engine(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPgBouncer, err)
	}
	b := &containerBouncer{&dockerServer{pool: pool, image: image}}
	repository, tag := docker.ParseRepositoryTag(image)
	name := containerName()
	b.resource, err = pool.RunWithOptions(&dockertest.RunOptions{
		Name:       name,
		Repository: repository,
		Tag:        tag,
		Entrypoint: []string{"sh", "-c", inContainer},
		User:       "65534:65534", // nobody, whether the image has the name or not
		Env:        []string{"INI=" + ini, "USERS=" + users},
		Labels:     map[string]string{containerLabel: "1"},
	}, func(host *docker.HostConfig) {
		// The server may be one that listens on this machine's 127.0.0.1 only.
		host.NetworkMode = "host"
		host.PublishAllPorts = false
	})
	if err != nil {
		_ = pool.RemoveContainerByName(name) // it may never have been made
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	if err := b.resource.Expire(lifetime()); err != nil {
		return nil, errors.Join(err, b.end())
	}
	return b, nil
}

func (b *containerBouncer) running(ctx context.Context) (bool, error) {
	container, err := b.pool.Client.InspectContainerWithContext(b.resource.Container.ID, ctx)
	if err != nil {
		return false, err
	}
	if container.State.ExitCode == 42 {
		return false, fmt.Errorf("%w in the image %s", errNoPgBouncer, b.image)
	}
	return container.State.Running, nil
}

func (b *containerBouncer) end() error { return b.pool.Purge(b.resource) }
