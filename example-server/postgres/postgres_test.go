package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ownerEnv makes the test binary start a server on the folder it names and wait to
// be killed.
const ownerEnv = "POSTGRES_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerEnv); dir != "" {
		s, err := Start(context.Background(), Options{Dir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		conn, err := pgx.Connect(context.Background(), s.URL())
		if err == nil {
			_, err = conn.Exec(context.Background(), "CREATE TABLE kept AS SELECT 42 AS n")
		}
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println("pid", s.PID())
		select {}
	}
	os.Exit(m.Run())
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// openDir returns a new folder that every user can get to. As root the server is
// another user, and the folder around those of t.TempDir is closed to it.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postgres-test-") //nolint:usetesting // as said above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts a server that is stopped at the end of the test at the latest.
func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil && !t.Failed() {
			select {
			case <-s.Done():
			default:
				t.Error(err)
			}
		}
	})
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// query runs one statement with one result.
func query(t *testing.T, s *Server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var result string
	if err := conn.QueryRow(testContext(t), sql).Scan(&result); err != nil {
		t.Fatal(err)
	}
	return result
}

func TestDataAndPasswordOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "new")
	first := start(t, Options{Dir: dir, Database: "example"})
	query(t, first, "WITH x AS (SELECT 1) SELECT current_database()::text")
	conn, err := pgx.Connect(testContext(t), first.URL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(testContext(t), "CREATE TABLE kept AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	stop(t, first) // with a client still connected

	second := start(t, Options{Dir: dir, Database: "example"})
	if got := query(t, second, "SELECT n::text || current_database() FROM kept"); got != "7example" {
		t.Errorf("after the restart: %q", got)
	}
	if got := query(t, second, "SELECT current_setting('fsync') || current_setting('full_page_writes')"); got != "onon" {
		t.Errorf("fsync, full_page_writes: %q", got)
	}
	if first.password != second.password {
		t.Error("the password changed")
	}
	info, err := os.Stat(filepath.Join(dir, passwordName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, pwfileName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("initdb's password file is left: %v", err)
	}
}

func TestTemporaryServerLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, Options{InsecureNoSync: true, Settings: map[string]string{"max_connections": "17"}})
	if got := query(t, s, "SELECT current_setting('fsync') || current_setting('max_connections')"); got != "off17" {
		t.Errorf("settings: %q", got)
	}
	if got := query(t, s, "SELECT current_setting('listen_addresses') || current_setting('unix_socket_directories')"); got != "127.0.0.1" {
		t.Errorf("listens on %q", got)
	}
	if !strings.HasPrefix(s.Source(), "PostgreSQL ") || !strings.HasSuffix(s.Source(), "temporary data in "+filepath.Join(s.dir, dataName)) {
		t.Errorf("source: %s", s.Source())
	}
	stop(t, s)
	stop(t, s) // again: the same answer
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", s.dir, err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("Done is open after Stop")
	}
}

func TestServerEndsWithItsOwnerAndTheNextOneFindsTheData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "d")
	owner := exec.CommandContext(testContext(t), os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"="+dir)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, found := strings.CutPrefix(strings.TrimSpace(line), "pid ")
	if err != nil || !found {
		t.Fatalf("the owner said %q, %v", line, err)
	}

	if _, err := Start(testContext(t), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second server on the directory: %v", err)
	}

	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // "signal: killed"

	s := start(t, Options{Dir: dir})
	if strconv.Itoa(s.PID()) == pid {
		t.Error("the old server still runs")
	}
	if got := query(t, s, "SELECT n::text FROM kept"); got != "42" {
		t.Errorf("after the crash: %q", got)
	}
}

func TestServerThatCrashedIsRestartable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "d")
	first := start(t, Options{Dir: dir})
	query(t, first, "SELECT 'a query'")
	if err := first.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.Done()
	if err := first.Stop(testContext(t)); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("Stop after a crash: %v", err)
	}
	second := start(t, Options{Dir: dir})
	query(t, second, "SELECT 'a query'")
}

func TestProcessIDOfSomethingElseIsNoServer(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "d")
	first := start(t, Options{Dir: dir})
	stop(t, first)

	// Another process of the server's user has the process id that the file names.
	data := filepath.Join(dir, dataName)
	a, err := serverAccount(data)
	if err != nil {
		t.Fatal(err)
	}
	other := a.command(testContext(t), os.TempDir(), "sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	pidFile := filepath.Join(data, "postmaster.pid")
	if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n%s\n1\n5432\n\n127.0.0.1\n\nready\n", other.Process.Pid, data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.own(pidFile); err != nil {
		t.Fatal(err)
	}
	query(t, start(t, Options{Dir: dir}), "SELECT 'a query'")
	if err := other.Process.Signal(os.Interrupt); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	t.Parallel()
	t.Run("one with other files in it", func(t *testing.T) {
		t.Parallel()
		dir := openDir(t)
		if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Start(testContext(t), Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "thesis.txt") {
			t.Errorf("%v", err)
		}
	})
	t.Run("data of a version that is not here", func(t *testing.T) {
		t.Parallel()
		dir := openDir(t)
		if err := os.Mkdir(filepath.Join(dir, dataName), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, dataName, "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Start(testContext(t), Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "needs 12") && !strings.Contains(err.Error(), "version 12") {
			t.Errorf("%v", err)
		}
	})
	if os.Geteuid() == 0 { // only then is the server's user another one
		t.Run("one that the server's user cannot get to", func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "d") // in a folder with mode 0700
			_, err := Start(testContext(t), Options{Dir: dir})
			if !errors.Is(err, errNoAccess) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("data without its password", func(t *testing.T) {
		t.Parallel()
		dir := openDir(t)
		s := start(t, Options{Dir: dir, InsecureNoSync: true})
		stop(t, s)
		if err := os.Remove(filepath.Join(dir, passwordName)); err != nil {
			t.Fatal(err)
		}
		_, err := Start(testContext(t), Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, passwordName)) {
			t.Errorf("%v", err)
		}
	})
}

func TestStartThatIsCancelledLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := filepath.Join(openDir(t), "d")
	if _, err := Start(ctx, Options{Dir: dir}); err == nil {
		t.Fatal("it started")
	}
	query(t, start(t, Options{Dir: dir, InsecureNoSync: true}), "SELECT 'a query'")
}

func TestPasswordIsInNothingThatIsRead(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	s := start(t, Options{Dir: dir, InsecureNoSync: true, Settings: map[string]string{"log_statement": "all", "log_connections": "on"}})
	query(t, s, "SELECT 'a query'")
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	if len(password) != 64 {
		t.Fatalf("a password of %d characters", len(password))
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(map[string]any{"server": s})
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "server", s)
	for name, text := range map[string]string{
		"source": s.Source(), "%v": fmt.Sprintf("%v", s), "%+v": fmt.Sprintf("%+v", s), "%#v": fmt.Sprintf("%#v", s),
		"%s": fmt.Sprintf("%s", s), "%d": fmt.Sprintf("%d", s), "JSON": string(asJSON), "slog": logged.String(), "server log": string(log),
		"error": s.failure(errors.New("x")).Error(),
	} {
		if strings.Contains(text, password) {
			t.Errorf("%s shows the password", name)
		}
	}
	wrong := strings.Replace(s.URL(), password, "wrong", 1)
	if conn, err := pgx.Connect(testContext(t), wrong); err == nil {
		_ = conn.Close(testContext(t))
		t.Error("a wrong password is accepted")
	}
}

func TestFoldersThatArePassedOver(t *testing.T) {
	t.Parallel()
	partial, broken, good := t.TempDir(), t.TempDir(), t.TempDir()
	write := func(dir, name, script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(partial, "postgres", "echo 'postgres (PostgreSQL) 17.1'")
	for dir, script := range map[string]string{broken: "echo oops; exit 3", good: "echo 'postgres (PostgreSQL) 16.2 (Some 16.2-1)'"} {
		write(dir, "postgres", script)
		write(dir, "initdb", script)
	}
	p, err := installed(testContext(t), []string{partial, broken, good}, "", os.TempDir(), nil)
	if err != nil || p.dir != good || p.version != "16.2" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = installed(testContext(t), []string{partial, broken, good}, "15", os.TempDir(), nil)
	for _, reason := range []string{partial + " has no initdb", "oops", "is version 16.2, and the data"} {
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%v does not say %q", err, reason)
		}
	}
	if numberIn("/usr/lib/postgresql/9/bin") >= numberIn("/usr/lib/postgresql/17/bin") {
		t.Error("9 is newer than 17")
	}
}

func TestDownloadThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	repository := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(repository.Close)
	cache := t.TempDir()
	_, err := Start(testContext(t), Options{Origin: Downloaded, CacheDir: cache, DownloadURL: repository.URL})
	if err == nil || !strings.Contains(err.Error(), "no version found matching 17") {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(cache); len(left) != 0 {
		t.Errorf("left in the cache: %v", left)
	}
}
