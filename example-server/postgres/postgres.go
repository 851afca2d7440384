// Package postgres runs a private PostgreSQL server on a directory.
//
// It is what the example server stores its data in when it is given no
// database, and what the tests use on a machine without a container engine. The
// server is a real one: the PostgreSQL programs installed on this machine, else
// the ones that github.com/fergusstrange/embedded-postgres downloads. It listens
// on a free port of 127.0.0.1 only, asks for a random password (SCRAM), survives
// restarts and crashes of its owner, and ends when its owner ends.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// superuser is the database role that a private server is initialised with.
const superuser = "postgres"

// Names of what Start keeps in the directory.
const (
	dataName       = "data"
	newDataName    = "data.new"
	passwordName   = "password"
	pwfileName     = "password.initdb"
	logName        = "postgres.log"
	oldLogName     = "postgres.log.1"
	ownerLockName  = "owner.lock"
	serverLockName = "server.lock"
)

// madeHere lists every name that Start creates in a directory.
var madeHere = []string{
	dataName, newDataName, passwordName, pwfileName, logName, oldLogName, ownerLockName, serverLockName,
}

// Origin says where the PostgreSQL programs may come from.
type Origin int

const (
	// InstalledOrDownloaded takes the programs of this machine, and downloads them
	// where there are none.
	InstalledOrDownloaded Origin = iota
	// Installed takes the programs of this machine or fails.
	Installed
	// Downloaded downloads the programs, or takes what was downloaded before.
	Downloaded
)

// Options configures Start. The zero value is a durable server on a temporary
// directory.
type Options struct {
	// Dir is the directory that holds the data, the password and the server's log.
	// It is created if it is missing; one that exists must be empty or have been
	// made by Start. Its contents stay when the server stops. As root, the server
	// runs as another user, so every folder above Dir must be open to all users.
	// Defaults to a temporary directory that Stop removes.
	Dir string

	// Database is the name of the database that URL leads to; it is created if it
	// is missing. Defaults to "postgres".
	Database string

	// Origin says where the PostgreSQL programs come from.
	// Defaults to InstalledOrDownloaded.
	Origin Origin

	// InsecureNoSync turns fsync and full_page_writes off: a crash of the machine
	// (not of the server alone) may then destroy the data. For tests.
	// Defaults to false.
	InsecureNoSync bool

	// Settings are further server settings by name, as in postgresql.conf.
	// Defaults to none.
	Settings map[string]string

	// CacheDir is where downloaded programs are kept. Defaults to a folder
	// in os.UserCacheDir, and as root to /var/cache/fosite-consent.
	CacheDir string

	// DownloadURL is the Maven repository that programs are downloaded from.
	// Defaults to the one of github.com/fergusstrange/embedded-postgres.
	DownloadURL string
}

// Server is a running private PostgreSQL server. Its methods may be called from
// several goroutines.
type Server struct {
	dir       string
	temporary bool
	programs  programs
	database  string
	password  string
	port      int
	source    string
	locks     []io.Closer

	process *os.Process
	done    chan struct{} // closed when the server process has ended
	exit    error         // why; to be read after done is closed

	stopping sync.Mutex
	stopped  bool
	stopErr  error
}

// Start starts a server and returns when it answers. The context bounds the
// start only; the server then runs until Stop, or until this process ends.
//
// It fails when no PostgreSQL programs can be had, when the directory is in use by
// another process, holds the data of a major version whose programs are not
// here, or cannot be reached by the user that the server has to run as.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{database: o.Database}
	if s.database == "" {
		s.database = "postgres"
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("private PostgreSQL: %w", err), s.release())
		}
	}()

	if err := s.claimDirectory(ctx, o); err != nil {
		return nil, err
	}
	data := filepath.Join(s.dir, dataName)
	major, err := dataVersion(data)
	if err != nil {
		return nil, err
	}
	account, err := serverAccount(data)
	if err != nil {
		return nil, err
	}
	if s.programs, err = findPrograms(ctx, o, major, s.dir, account); err != nil {
		return nil, err
	}
	if s.password, err = s.readPassword(major != ""); err != nil {
		return nil, err
	}
	if major == "" {
		if err := s.initialise(ctx, o, account); err != nil {
			return nil, err
		}
	}

	where := "data in " + data
	if s.temporary {
		where = "temporary " + where
	}
	s.source = fmt.Sprintf("PostgreSQL %s %s, %s", s.programs.version, s.programs.origin(), where)

	// The port is chosen before the server binds it, so that another process may
	// come in between; the server then says so and the next port is tried.
	for try := 1; ; try++ {
		err := s.launch(ctx, o, account)
		if err == nil {
			break
		}
		if !errors.Is(err, errPortTaken) || try == 5 {
			return nil, err
		}
	}
	if err := s.createDatabase(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, s.Stop(stopCtx))
	}
	return s, nil
}

// URL returns the connection URL of the database, with the superuser's name and
// password: a secret, to be handed to a driver and to nothing that is read.
func (s *Server) URL() string { return s.url(s.database) }

func (s *Server) url(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, s.password),
		Host:     s.Addr(),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Addr returns the host and port that the server listens on.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Source describes the server in one line: its version, where its programs come
// from and where its data is. It holds no secret.
func (s *Server) Source() string { return s.source }

// LogFile returns the path of the file that the server logs to. The previous
// run's log is beside it, with ".1" appended.
func (s *Server) LogFile() string { return filepath.Join(s.dir, logName) }

// PID returns the process id of the server's main process.
func (s *Server) PID() int { return s.process.Pid }

// Done returns a channel that is closed when the server process has ended, by
// Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.done }

// Format prints Source for every verb, so that a Server in a log line or an
// error does not give its password away.
func (s *Server) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.source) }

// LogValue implements slog.LogValuer with what Source says.
func (s *Server) LogValue() slog.Value { return slog.StringValue(s.source) }

// MarshalText implements encoding.TextMarshaler with what Source says.
func (s *Server) MarshalText() ([]byte, error) { return []byte(s.source), nil }

// Stop shuts the server down: open transactions are rolled back, data is written
// out, and a temporary directory is removed. When the context ends first, the
// server is made to end without a clean shutdown and the context's error is
// returned; nothing that was committed is lost then either. Later calls return
// what the first one returned.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	if s.stopped {
		return s.stopErr
	}
	s.stopped = true
	s.stopErr = errors.Join(s.shutdown(ctx), s.release())
	return s.stopErr
}

// shutdown ends the server process and says whether it ended in good order.
func (s *Server) shutdown(ctx context.Context) error {
	select {
	case <-s.done:
		return fmt.Errorf("private PostgreSQL ended by itself: %w", s.failure(s.exit))
	default:
	}
	asked := s.requestShutdown(ctx)
	if asked == nil {
		select {
		case <-s.done:
			if s.exit != nil {
				return fmt.Errorf("private PostgreSQL did not shut down cleanly: %w", s.failure(s.exit))
			}
			return nil
		case <-ctx.Done():
			asked = ctx.Err()
		}
	}
	s.requestAbort()
	abort := time.NewTimer(5 * time.Second)
	defer abort.Stop()
	select {
	case <-s.done:
	case <-abort.C:
		_ = s.process.Kill()
		<-s.done
	}
	return fmt.Errorf("private PostgreSQL did not shut down in time: %w", asked)
}

// release gives the directory back, and removes it if it is temporary.
func (s *Server) release() error {
	var errs []error
	if s.temporary && s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	for _, l := range s.locks {
		errs = append(errs, l.Close())
	}
	s.locks = nil
	return errors.Join(errs...)
}

// claimDirectory makes the directory, takes its lock, and sees to it that no
// server of an owner that crashed still runs there.
func (s *Server) claimDirectory(ctx context.Context, o Options) error {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // the server runs as another user and has to get to its data
	}
	if o.Dir == "" {
		removeAbandoned()
		dir, err := os.MkdirTemp("", temporaryPrefix)
		if err != nil {
			return err
		}
		s.dir, s.temporary = dir, true
		if err := os.Chmod(dir, mode); err != nil {
			return err
		}
	} else {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return err
		}
		_, missing := os.Stat(dir)
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		if missing != nil {
			if err := os.Chmod(dir, mode); err != nil { // whatever the umask
				return err
			}
		}
		s.dir = dir
		if err := checkOurs(dir); err != nil {
			return err
		}
	}

	owner, err := lockFile(filepath.Join(s.dir, ownerLockName))
	if errors.Is(err, errLocked) {
		return fmt.Errorf("%s is in use by another process", s.dir)
	} else if err != nil {
		return err
	}
	s.locks = append(s.locks, owner)
	return endOrphan(ctx, s.dir)
}

// checkOurs refuses a directory with files that Start did not make.
func checkOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != "lost+found" && !slices.Contains(madeHere, name) {
			return fmt.Errorf("%s is not empty and was not made by this program (it holds %s): name an empty or a new directory", dir, name)
		}
	}
	return nil
}

// dataVersion returns the major version that the data directory was made by, and
// "" if there is none yet.
func dataVersion(data string) (string, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(data); err == nil {
			return "", fmt.Errorf("%s is not a PostgreSQL data directory", data)
		}
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// readPassword returns the superuser's password, making one when there is no data yet.
func (s *Server) readPassword(haveData bool) (string, error) {
	file := filepath.Join(s.dir, passwordName)
	b, err := os.ReadFile(file)
	if err == nil && len(bytes.TrimSpace(b)) > 0 {
		return string(bytes.TrimSpace(b)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if haveData {
		return "", fmt.Errorf("%s is missing or empty, and the data beside it cannot be opened without it", file)
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	password := hex.EncodeToString(random)
	return password, writeSecret(file, password)
}

// writeSecret writes a file that only this user can read, and has it on disk
// before it returns.
func writeSecret(path, secret string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, secret+"\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// initialise makes the data directory. It is made under another name first, so
// that a crash half-way leaves nothing that looks finished.
func (s *Server) initialise(ctx context.Context, o Options, a *account) error {
	fresh, pwfile := filepath.Join(s.dir, newDataName), filepath.Join(s.dir, pwfileName)
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	defer os.Remove(pwfile)
	if err := writeSecret(pwfile, s.password); err != nil {
		return err
	}
	if err := a.own(fresh, pwfile); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + fresh, "--username=" + superuser, "--pwfile=" + pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--no-locale",
	}
	if o.InsecureNoSync {
		args = append(args, "--no-sync")
	}
	out, err := a.command(ctx, s.dir, s.programs.path("initdb"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out))
	}
	return os.Rename(fresh, filepath.Join(s.dir, dataName))
}

// errPortTaken says that another process took the chosen port first.
var errPortTaken = errors.New("the port was taken by another process")

// launch starts the server process on a free port and waits until it is ready.
func (s *Server) launch(ctx context.Context, o Options, a *account) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	s.port = port

	data := filepath.Join(s.dir, dataName)
	removeStalePIDFile(data)
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": "",
		"logging_collector":       "off",
		"log_destination":         "stderr",
	}
	if o.InsecureNoSync {
		settings["fsync"], settings["full_page_writes"] = "off", "off"
	}
	for name, value := range o.Settings {
		settings[name] = value
	}
	args := []string{"-D", data}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}

	logFile := s.LogFile()
	if err := os.Rename(logFile, filepath.Join(s.dir, oldLogName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	// Every server process inherits this lock: it is free when the last one is gone,
	// whatever became of their owner.
	lock, err := lockFile(filepath.Join(s.dir, serverLockName))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()

	// The server outlives the context of its start.
	cmd := a.command(context.WithoutCancel(ctx), s.dir, s.programs.path("postgres"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	lock.handTo(cmd)
	endWithParent(cmd.SysProcAttr)

	started := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// On Linux the kernel ends the server when the thread that started it ends:
		// keep that thread for as long as the server runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.exit = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process, s.done = cmd.Process, done

	if err := s.waitReady(ctx, data); err != nil {
		select {
		case <-s.done:
		default:
			s.requestAbort()
			<-s.done
		}
		return err
	}
	return nil
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

// waitReady returns when the server has written into its data directory that it
// accepts connections, which is how pg_ctl learns it too. Asking the port instead
// could reach somebody else's server.
func (s *Server) waitReady(ctx context.Context, data string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			tail := s.logTail()
			if strings.Contains(tail, "could not bind") || strings.Contains(tail, "could not create any TCP/IP sockets") {
				return errPortTaken
			}
			return fmt.Errorf("the server ended at its start: %w", s.failure(s.exit))
		case <-ctx.Done():
			return fmt.Errorf("the server did not become ready: %w", s.failure(ctx.Err()))
		case <-tick.C:
		}
		b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
		if err != nil {
			continue
		}
		// See PostgreSQL's src/include/utils/pidfile.h: line 1 is the process id,
		// line 8 the state.
		lines := strings.Split(string(b), "\n")
		if len(lines) >= 8 && strings.TrimSpace(lines[0]) == strconv.Itoa(s.process.Pid) && strings.TrimSpace(lines[7]) == "ready" {
			return nil
		}
	}
}

// createDatabase connects once, which proves the password, and creates the
// database if it is missing.
func (s *Server) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if s.database == "postgres" {
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{s.database}.Sanitize())
	var exists *pgconn.PgError
	if errors.As(err, &exists) && exists.Code == "42P04" { // duplicate_database
		return nil
	}
	return err
}

// failure adds the end of the server's log to an error.
func (s *Server) failure(err error) error {
	if err == nil {
		err = errors.New("exit status 0")
	}
	if tail := s.logTail(); tail != "" {
		return fmt.Errorf("%w: %s", err, tail)
	}
	return err
}

func (s *Server) logTail() string {
	b, err := os.ReadFile(s.LogFile())
	if err != nil {
		return ""
	}
	return lastLines(b)
}

// lastLines returns the last few lines of a program's output, on one line.
func lastLines(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if n := len(lines); n > 6 {
		lines = lines[n-6:]
	}
	return strings.Join(lines, " | ")
}

// environment returns the few variables that the programs need. The rest stays
// here: PGDATA and its kind change what they do, and this process's environment
// may hold secrets.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "TMPDIR", "TEMP", "TMP", "SystemRoot", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// command prepares a program to run as the account (nil: as this process's own
// user), in the given folder.
func (a *account) command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = environment()
	cmd.SysProcAttr = a.attributes()
	return cmd
}
