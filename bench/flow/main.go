// Command flow measures the complete flow of an authorization code with PKCE over HTTP,
// from a browser that is not signed in to the tokens, against the example server:
//
//	go run ./bench/flow
//
// A flow is five requests: the authorization request, which shows the login page; the password; the consent page;
// the approval; the exchange of the code. Server, load and a private PostgreSQL with its default
// durability share the machine. The same server with the gate alone, and without it, which are made at build time (build.go), take turns
// with it, so that all see the same machine; the ratios are those of such turns. What a flow takes of the
// database are PostgreSQL's own counters: pg_stat_statements, transaction ids, and
// pg_walinspect, so it wants PostgreSQL 15 or later with its contributed modules.
//
// Passwords are checked by a hash that costs nothing; what bcrypt adds is printed apart.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/bcrypt"

	"github.com/fosite-consent/fosite-consent/example-server/postgres"
)

func main() {
	debug.SetGCPercent(400) // what the load itself costs is in the way of what is measured
	var b bench
	var workers string
	flag.StringVar(&workers, "c", "1,8,32", "how many flows are under way at once, with commas")
	flag.StringVar(&b.scopes, "scopes", "profile photos.read", "scopes; openid is added by the program")
	flag.DurationVar(&b.duration, "duration", 5*time.Second, "of each measurement")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds; the medians are printed")
	flag.IntVar(&b.pool, "pool", 16, "the server's connections to the database")
	flag.BoolVar(&b.verbose, "v", false, "print each measurement, and the statements and rows of a flow")
	flag.StringVar(&b.profile, "profile", "", "`directory` for processor profiles of the server with the gate, one for each kind of load; takes the place of the table")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	for _, field := range strings.Split(workers, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			fmt.Fprintln(os.Stderr, "flow: -c:", field)
			os.Exit(2)
		}
		b.workers = append(b.workers, n)
	}
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flow:", err)
		os.Exit(1)
	}
}

type bench struct {
	scopes   string
	workers  []int
	duration time.Duration
	rounds   int
	pool     int
	verbose  bool
	profile  string

	users    []string
	postgres *postgres.Server
	admin    *pgx.Conn // to the maintenance database, where no server under test works
}

// scenario is one kind of load.
type scenario struct {
	workers int
	openid  bool
}

// measurement is one run of one server under one load.
type measurement struct {
	load
	used
}

func (b *bench) run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "flow")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := b.writeFiles(dir); err != nil {
		return err
	}
	b.postgres, err = postgres.Start(ctx, postgres.Options{Settings: map[string]string{"shared_preload_libraries": "pg_stat_statements"}})
	if err != nil {
		return err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, b.postgres.Stop(stopCtx))
	}()
	if b.admin, err = pgx.Connect(ctx, b.postgres.URL()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.admin.Close(context.WithoutCancel(ctx))) }()
	for _, extension := range []string{"pg_stat_statements", "pg_walinspect"} {
		if _, err := b.admin.Exec(ctx, "CREATE EXTENSION "+extension); err != nil {
			return fmt.Errorf("expected PostgreSQL 15 or later with its contributed modules: %w", err)
		}
	}

	servers := map[variant]*server{}
	for _, v := range variants {
		if v != shipped && b.profile != "" {
			continue
		}
		s, err := b.start(ctx, dir, v)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		servers[v] = s
		// Connections, caches and prepared statements.
		if _, err := drive(ctx, s.issuer, b.users, b.scopes+" openid", b.pool, time.Second); err != nil {
			return errors.Join(err, s.logTail())
		}
	}
	if b.profile != "" {
		return b.profiles(ctx, servers[shipped])
	}

	results := map[scenario]map[variant][]measurement{}
	for round := range b.rounds {
		for _, s := range b.scenarios() {
			if results[s] == nil {
				results[s] = map[variant][]measurement{}
			}
			// Who goes first takes turns.
			for i := range variants {
				v := variants[(round+i)%len(variants)]
				m, err := b.measure(ctx, servers[v], s)
				if err != nil {
					return err
				}
				results[s][v] = append(results[s][v], m)
				if b.verbose {
					fmt.Fprintf(os.Stderr, "round %d, %+v, %s: %.0f flows/s\n", round+1, s, v, m.rate())
				}
			}
		}
	}
	return b.report(ctx, results)
}

func (b *bench) scenarios() (all []scenario) {
	for _, openid := range []bool{false, true} {
		for _, n := range b.workers {
			all = append(all, scenario{n, openid})
		}
	}
	return all
}

func (b *bench) scopesOf(s scenario) string {
	if s.openid {
		return "openid " + b.scopes
	}
	return b.scopes
}

func (b *bench) measure(ctx context.Context, server *server, s scenario) (m measurement, err error) {
	c, err := b.before(ctx, server)
	if err != nil {
		return m, err
	}
	if m.load, err = drive(ctx, server.issuer, b.users, b.scopesOf(s), s.workers, b.duration); err != nil {
		return m, errors.Join(err, server.logTail())
	}
	m.used, err = b.since(ctx, server, c, len(m.flows))
	return m, err
}

// profiles writes a processor profile for each kind of load.
func (b *bench) profiles(ctx context.Context, server *server) error {
	for _, s := range b.scenarios() {
		done := make(chan error, 1)
		go func() {
			_, err := drive(ctx, server.issuer, b.users, b.scopesOf(s), s.workers, b.duration+time.Second)
			done <- err
		}()
		err := b.saveProfile(ctx, server, s)
		if err = errors.Join(err, <-done); err != nil {
			return errors.Join(err, server.logTail())
		}
	}
	return nil
}

func (b *bench) saveProfile(ctx context.Context, server *server, s scenario) error {
	seconds := max(1, int(b.duration.Seconds()))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", server.pprof, seconds), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: status %d: %s", resp.StatusCode, text)
	}
	name := filepath.Join(b.profile, fmt.Sprintf("flow-c%d-openid-%t.pprof", s.workers, s.openid))
	fmt.Println(name)
	return os.WriteFile(name, text, 0o600)
}

// writeFiles writes the client and the users that the servers are given.
func (b *bench) writeFiles(dir string) error {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return err
	}
	users := map[string]string{}
	for i := range 64 {
		b.users = append(b.users, fmt.Sprintf("user-%02d", i))
		users[b.users[i]] = string(hash)
	}
	clients := []map[string]any{{
		"client_id": clientID, "client_secret": clientSecret, "client_name": "Benchmark", "redirect_uris": []string{redirectURI},
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"scope": "openid offline_access profile photos.read photos.write", "token_endpoint_auth_method": "client_secret_basic",
	}}
	for name, content := range map[string]any{"clients.json": clients, "users.json": users} {
		text, err := json.Marshal(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// server is one running example server.
type server struct {
	variant          variant
	issuer, database string
	pprof            string
	log              string
	command          *exec.Cmd
	conn             *pgx.Conn // to its database
}

func (b *bench) start(ctx context.Context, dir string, v variant) (_ *server, err error) {
	program, err := build(ctx, dir, v, b.profile != "")
	if err != nil {
		return nil, err
	}
	s := &server{variant: v, database: "flow_" + v.slug(), log: program + ".log"}
	if _, err := b.admin.Exec(ctx, "CREATE DATABASE "+s.database); err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(b.postgres.URL())
	if err != nil {
		return nil, err
	}
	config.Database = s.database
	database := fmt.Sprintf("postgres://%s:%s@%s/%s?pool_max_conns=%d", config.User, config.Password, b.postgres.Addr(), s.database, b.pool)
	if s.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, err
	}

	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.command = exec.Command(program, "-listen", "127.0.0.1:0", "-log-format", "json", //nolint:noctx // the program that was just built; stop ends it
		"-clients", filepath.Join(dir, "clients.json"), "-users", filepath.Join(dir, "users.json"))
	s.command.Env = append(os.Environ(), "DATABASE_URL="+database)
	if b.profile != "" {
		s.pprof = "127.0.0.1:6061"
		s.command.Env = append(s.command.Env, "BENCH_PPROF="+s.pprof)
	}
	s.command.Stderr = log
	if err := s.command.Start(); err != nil {
		return nil, errors.Join(err, s.conn.Close(ctx))
	}
	if s.issuer, err = s.listening(ctx); err != nil {
		return nil, errors.Join(err, s.logTail(), s.stop())
	}
	return s, nil
}

// listening waits until the log says so, and returns the issuer.
func (s *server) listening(ctx context.Context) (string, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		text, err := os.ReadFile(s.log)
		if err != nil {
			return "", err
		}
		for line := range bytes.Lines(text) {
			var event struct{ Msg, Issuer string }
			if json.Unmarshal(line, &event) == nil && event.Msg == "listening" {
				return event.Issuer, nil
			}
		}
		if err := s.command.Process.Signal(syscall.Signal(0)); err != nil {
			break
		}
	}
	return "", errors.New("the server did not start")
}

// logTail returns the end of the server's log, as an error.
func (s *server) logTail() error {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err
	}
	return fmt.Errorf("the server's log ends with\n%s", text[max(0, len(text)-2000):])
}

func (s *server) stop() error {
	_ = s.command.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(30*time.Second, func() { _ = s.command.Process.Kill() })
	defer kill.Stop()
	return errors.Join(s.command.Wait(), s.conn.Close(context.Background()))
}

// machine says what was measured on.
func (b *bench) machine(ctx context.Context) (string, error) {
	var settings string
	err := b.admin.QueryRow(ctx, `SELECT 'PostgreSQL ' || current_setting('server_version') || ', fsync ' || current_setting('fsync') ||
		', synchronous_commit ' || current_setting('synchronous_commit') || ', full_page_writes ' || current_setting('full_page_writes')`).Scan(&settings)
	return fmt.Sprintf("%s; %d processors, %d connections, %v a measurement, medians of %d rounds", settings, runtime.NumCPU(), b.pool, b.duration, b.rounds), err
}
