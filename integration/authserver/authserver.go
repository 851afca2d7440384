// Package authserver runs the example server for tests: the binary that a user
// gets, as a process of its own, on a database that the test brings.
//
//	site := authserver.New(t, authserver.Config{DatabaseURL: pgtest.Database(t), …})
//	server := site.Start()
//
// A process is stopped with SIGTERM at the test's end, has to exit with 0, and its
// log, which is in the test's output when that has failed, may hold no error that
// the test does not expect and none of the secrets that it has been told.
package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Time limits that no test comes near on a machine that works.
const (
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

// program is the built server, one for each test process.
var program struct {
	once      sync.Once
	dir, path string
	err       error
}

// Binary builds the server, with the race detector if the test has it, and returns
// its path.
func Binary(t testing.TB) string {
	t.Helper()
	program.once.Do(func() {
		//nolint:usetesting // it outlives the test that happens to need it first
		if program.dir, program.err = os.MkdirTemp("", "fosite-consent-server-"); program.err != nil {
			return
		}
		program.path = filepath.Join(program.dir, "example-server")
		if runtime.GOOS == "windows" {
			program.path += ".exe"
		}
		args := []string{"build", "-o", program.path}
		if Race {
			args = append(args, "-race")
		}
		args = append(args, "github.com/fosite-consent/fosite-consent/example-server")
		if out, err := exec.CommandContext(context.Background(), "go", args...).CombinedOutput(); err != nil {
			program.err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	})
	if program.err != nil {
		t.Fatalf("authserver: build the example server: %v", program.err)
	}
	return program.path
}

// RemoveBinary is for the end of TestMain.
func RemoveBinary() {
	if program.dir != "" {
		_ = os.RemoveAll(program.dir)
	}
}

// Client is a client's registration, as in the server's -clients file.
type Client struct {
	ID                      string          `json:"client_id"`
	Secret                  string          `json:"client_secret,omitempty"`
	Name                    string          `json:"client_name,omitempty"`
	RedirectURIs            []string        `json:"redirect_uris,omitempty"`
	GrantTypes              []string        `json:"grant_types,omitempty"`
	ResponseTypes           []string        `json:"response_types,omitempty"`
	ResponseModes           []string        `json:"response_modes,omitempty"`
	Scope                   string          `json:"scope,omitempty"`
	Audience                []string        `json:"audience,omitempty"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty"`
	URI                     string          `json:"client_uri,omitempty"`
	LogoURI                 string          `json:"logo_uri,omitempty"`
	PolicyURI               string          `json:"policy_uri,omitempty"`
	TOSURI                  string          `json:"tos_uri,omitempty"`
	JWKS                    json.RawMessage `json:"jwks,omitempty"`
	JWKSURI                 string          `json:"jwks_uri,omitempty"`
	RequestObjectSigningAlg string          `json:"request_object_signing_alg,omitempty"`
	RequestURIs             []string        `json:"request_uris,omitempty"`
	RequirePushedRequests   bool            `json:"require_pushed_authorization_requests,omitempty"`
}

// Config is what the processes of a Site have in common.
type Config struct {
	// DatabaseURL is required.
	DatabaseURL string
	// Clients and Users, user name to password. Without either the server runs its demo; without users, they
	// are those of the application that a flag names.
	Clients []Client
	Users   map[string]string
	// Issuer is the URL that browsers know the server by. With https a proxy is
	// pretended that ends TLS: see [Server.Transport]. Defaults to the address of
	// the first process.
	Issuer string
	// Flags are further flags.
	Flags []string
	// AllowErrors lets the server log errors.
	AllowErrors bool
}

// Site is one authorization server that any number of processes make up.
type Site struct {
	t      testing.TB
	config Config
	args   []string

	mu      sync.Mutex
	issuer  string
	secrets map[string]string // to what they are
	servers []*Server
}

// New prepares a site. It starts nothing.
func New(t testing.TB, config Config) *Site {
	t.Helper()
	s := &Site{t: t, config: config, issuer: config.Issuer, secrets: map[string]string{}}
	s.args = append(s.args, "-log-format", "json")
	if len(config.Clients) > 0 || len(config.Users) > 0 {
		hashes := map[string]string{}
		for name, password := range config.Users {
			hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
			if err != nil {
				t.Fatal(err)
			}
			hashes[name] = string(hash)
			s.Forbid("a password", password)
		}
		for _, client := range config.Clients {
			s.Forbid("a client secret", client.Secret)
		}
		dir := t.TempDir()
		s.args = append(s.args, "-clients", writeJSON(t, dir, "clients.json", config.Clients))
		if len(config.Users) > 0 {
			s.args = append(s.args, "-users", writeJSON(t, dir, "users.json", hashes))
		}
	}
	s.args = append(s.args, config.Flags...)
	t.Cleanup(s.check)
	return s
}

func writeJSON(t testing.TB, dir, name string, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Forbid names a text that no process may log. Texts too short to be told from
// others are not looked for.
func (s *Site) Forbid(what, secret string) {
	if len(secret) < 8 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[secret] = what
}

// forbidden are the prefixes of what may never be logged by anybody.
var forbidden = map[string]string{
	"fcg_":               "a consent token",
	"fct_":               "a consent page's ticket",
	"fcc_":               "a consent challenge",
	"fcv_":               "a consent verifier",
	"fcb_":               "the cookie of a consent request",
	"ory_at_":            "an access token",
	"ory_rt_":            "a refresh token",
	"ory_ac_":            "an authorization code",
	"WARNING: DATA RACE": "a data race",
	`"msg":"panic"`:      "a panic",
	"panic: ":            "a panic",
}

// check looks through the logs when all processes have ended.
func (s *Site) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, server := range s.servers {
		log := server.log.String()
		for _, list := range []map[string]string{forbidden, s.secrets} {
			for text, what := range list {
				if at := strings.Index(log, text); at >= 0 {
					s.t.Errorf("the log of process %d has %s:\n%s", i, what, around(log, at))
				}
			}
		}
		for _, line := range server.log.lines() {
			if line.Level == "ERROR" && !s.config.AllowErrors {
				s.t.Errorf("process %d logged an error: %s", i, line.Text)
			}
			if line.Level == "" && line.Text != "" {
				s.t.Errorf("process %d wrote something that is no line of its log: %s", i, line.Text)
			}
		}
		if s.t.Failed() {
			s.t.Logf("log of process %d, %s:\n%s", i, server.Addr, tail(log, 60))
		}
	}
}

// tail returns the last lines.
func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	if left := len(all) - lines; left > 0 {
		return fmt.Sprintf("(%d lines left out)\n", left) + strings.Join(all[left:], "")
	}
	return text
}

func around(text string, at int) string {
	return text[strings.LastIndexByte(text[:at], '\n')+1 : at+strings.IndexByte(text[at:]+"\n", '\n')]
}

// Server is a process.
type Server struct {
	// URL is the issuer: how browsers and clients know the server.
	URL string
	// Addr is the host and port that this process listens on.
	Addr string

	site      *Site
	process   *exec.Cmd
	log       *logBuffer
	exited    chan struct{} // closed when the process has ended
	exitError error
	stopping  sync.Once
}

// Start starts a process and returns when it listens.
func (s *Site) Start() *Server {
	s.t.Helper()
	server, err := s.start()
	if err != nil {
		s.t.Fatalf("authserver: %v", err)
	}
	return server
}

func (s *Site) start() (*Server, error) {
	args := append([]string{"-listen", "127.0.0.1:0"}, s.args...)
	s.mu.Lock()
	if s.issuer != "" {
		args = append(args, "-issuer", s.issuer)
	}
	s.mu.Unlock()

	server := &Server{site: s, log: newLogBuffer(), exited: make(chan struct{})}
	server.process = exec.Command(Binary(s.t), args...) //nolint:noctx // it is told to stop, which killing would hide
	server.process.Env = append(os.Environ(), "DATABASE_URL="+s.config.DatabaseURL)
	server.process.Stderr = server.log
	server.process.Stdout = new(bytes.Buffer) // the demo's greeting
	server.process.SysProcAttr = attributes()
	if err := server.process.Start(); err != nil {
		return nil, err
	}
	go func() {
		server.exitError = server.process.Wait()
		close(server.exited)
	}()
	s.mu.Lock()
	s.servers = append(s.servers, server)
	s.mu.Unlock()
	s.t.Cleanup(server.Stop)

	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case line := <-server.log.listening:
		server.Addr, server.URL = line.Addr, line.Issuer
	case <-server.exited:
		return nil, fmt.Errorf("the server ended when it was started: %w\n%s", server.exitError, server.log)
	case <-limit.C:
		return nil, fmt.Errorf("the server did not listen within %v\n%s", startTimeout, server.log)
	}
	s.mu.Lock()
	s.issuer = server.URL
	s.mu.Unlock()
	return server, nil
}

// Site returns the site that the process belongs to.
func (s *Server) Site() *Site { return s.site }

// Stop ends the process in good order: SIGTERM, upon which it has to exit with 0.
// It may be called more than once.
func (s *Server) Stop() {
	s.site.t.Helper()
	s.stopping.Do(func() {
		select {
		case <-s.exited:
			s.site.t.Errorf("authserver: the server had ended by itself: %v\n%s", s.exitError, s.log)
			return
		default:
		}
		if err := s.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.site.t.Errorf("authserver: stop the server: %v", err)
		}
		limit := time.NewTimer(stopTimeout)
		defer limit.Stop()
		select {
		case <-s.exited:
		case <-limit.C:
			_ = s.process.Process.Kill()
			<-s.exited
			s.site.t.Errorf("authserver: the server did not end within %v of SIGTERM\n%s", stopTimeout, s.log)
			return
		}
		if s.exitError != nil {
			s.site.t.Errorf("authserver: the server ended with %v\n%s", s.exitError, s.log)
		}
	})
}

// Kill ends the process as a crash would.
func (s *Server) Kill() {
	s.stopping.Do(func() {
		_ = s.process.Process.Kill()
		<-s.exited
	})
}

// API returns the URL of the internal API, for which -api-listen has to be among the flags.
func (s *Server) API() string {
	s.site.t.Helper()
	for _, line := range s.Lines() {
		if strings.HasPrefix(line.Message, "listening for the application") {
			return "http://" + line.Addr
		}
	}
	s.site.t.Fatal("authserver: the server has no internal API")
	return ""
}

// Log returns what the process has logged so far.
func (s *Server) Log() string { return s.log.String() }

// Line is one line of a log.
type Line struct {
	Level   string `json:"level"`
	Message string `json:"msg"`
	Addr    string `json:"addr"`
	Issuer  string `json:"issuer"`
	Gate    *struct {
		Action  string `json:"action"`
		Reason  string `json:"reason"`
		GrantID string `json:"grant_id"`
	} `json:"gate"`
	Text string `json:"-"`
}

// Lines returns the lines that the process has logged so far.
func (s *Server) Lines() []Line { return s.log.lines() }

// Decisions returns what the gate decided since the log had the given number of
// lines: "approve", "approve binding_mismatch", and so on. A page that was shown is none.
func (s *Server) Decisions(since int) []string {
	var list []string
	for _, line := range s.Lines()[since:] {
		if line.Gate != nil && line.Gate.Action != "prompt" {
			list = append(list, strings.TrimSpace(line.Gate.Action+" "+line.Gate.Reason))
		}
	}
	return list
}

// Transport leads every request to this process, whatever host is in its URL, as a
// proxy in front of it would. For https it pretends that the proxy ends TLS.
func (s *Server) Transport() *http.Transport {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
	}
	transport := &http.Transport{DialContext: dial, DialTLSContext: dial, MaxIdleConnsPerHost: 64}
	s.site.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// logBuffer keeps what a process writes and finds out when it listens.
type logBuffer struct {
	mu        sync.Mutex
	text      bytes.Buffer
	listening chan Line
	scanned   int
	heard     bool
}

func newLogBuffer() *logBuffer { return &logBuffer{listening: make(chan Line, 1)} }

// Write implements io.Writer.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = b.text.Write(p)
	for !b.heard {
		rest := b.text.Bytes()[b.scanned:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		b.scanned += end + 1
		if line := parse(string(rest[:end])); line.Message == "listening" {
			b.heard = true
			b.listening <- line
		}
	}
	return len(p), nil
}

// String returns the whole text.
func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) lines() []Line {
	var list []Line
	for text := range strings.Lines(b.String()) {
		list = append(list, parse(strings.TrimSuffix(text, "\n")))
	}
	return list
}

func parse(text string) Line {
	var line Line
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		line = Line{}
	}
	line.Text = text
	return line
}
