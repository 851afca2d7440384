package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestConfigDefaultsToADemoOnLoopback(t *testing.T) {
	c, err := parseConfig(nil, environment("UNKNOWN", "ignored"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := config{listen: "127.0.0.1:9096", grantLifespan: time.Minute, keyRotation: 30 * 24 * time.Hour, requestTimeout: 10 * time.Second, logFormat: "text"}
	if c != want || !c.demo() {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

func TestConfigTakesFlagsBeforeTheEnvironment(t *testing.T) {
	c, err := parseConfig([]string{"-grant-lifespan", "5s", "-pkce-plain"},
		environment("GRANT_LIFESPAN", "9s", "LISTEN", "[::1]:0", "LOG_FORMAT", "json", "DATABASE_URL", "postgres://x"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if c.grantLifespan != 5*time.Second || c.listen != "[::1]:0" || c.logFormat != "json" || c.databaseURL != "postgres://x" || !c.pkcePlain {
		t.Errorf("got %+v", c)
	}
}

func TestConfigRefusesWhatCannotWork(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  []string
		want string
	}{
		"an unknown flag":                {args: []string{"-nope"}, want: "-nope"},
		"an argument":                    {args: []string{"serve"}, want: `"serve"`},
		"a flag of the wrong type":       {args: []string{"-grant-lifespan", "soon"}, want: "-grant-lifespan"},
		"an environment variable, too":   {env: []string{"REQUEST_TIMEOUT", "soon"}, want: "REQUEST_TIMEOUT"},
		"an address without a port":      {args: []string{"-listen", "localhost"}, want: "-listen"},
		"all addresses and no issuer":    {args: []string{"-listen", ":9096"}, want: "-issuer"},
		"another log format":             {args: []string{"-log-format", "xml"}, want: "text or json"},
		"clients without users":          {args: []string{"-clients", "f"}, want: "-users"},
		"users without clients":          {args: []string{"-users", "f"}, want: "-clients"},
		"an operator without a token":    {args: []string{"-admin-listen", "127.0.0.1:0"}, want: "-admin-token-file"},
		"a token without an operator":    {env: []string{"ADMIN_TOKEN_FILE", "f"}, want: "-admin-listen"},
		"an operator without a port":     {args: []string{"-admin-listen", "localhost", "-admin-token-file", "f"}, want: "-admin-listen"},
		"pages elsewhere and no API":     {args: []string{"-consent-url", "https://a.example/consent"}, want: "-api-listen"},
		"a login elsewhere and no API":   {args: []string{"-login-url", "https://a.example/login"}, want: "-api-listen"},
		"an API and no pages elsewhere":  {args: []string{"-api-listen", "127.0.0.1:0"}, want: "-consent-url"},
		"an API without a port":          {args: []string{"-api-listen", "localhost", "-consent-url", "https://a.example/consent"}, want: "-api-listen"},
		"a token without an API":         {args: []string{"-api-token-file", "f"}, want: "-api-listen"},
		"pages over plain http":          {args: []string{"-api-listen", "127.0.0.1:0", "-consent-url", "http://a.example/consent"}, want: "-consent-url"},
		"pages with a fragment":          {args: []string{"-api-listen", "127.0.0.1:0", "-login-url", "https://a.example/login#x"}, want: "-login-url"},
		"pages with a password":          {args: []string{"-api-listen", "127.0.0.1:0", "-login-url", "https://u:hunter2@a.example/"}, want: "-login-url: expected"},
		"pages without a host":           {args: []string{"-api-listen", "127.0.0.1:0", "-login-url", "/login"}, want: "-login-url"},
		"users of two kinds":             {args: []string{"-api-listen", "127.0.0.1:0", "-login-url", "https://a.example/login", "-clients", "f", "-users", "f"}, want: "exclude each other"},
		"clients without anybody":        {args: []string{"-api-listen", "127.0.0.1:0", "-consent-url", "https://a.example/consent", "-clients", "f"}, want: "-users"},
		"a grant that never ends":        {args: []string{"-grant-lifespan", "100h"}, want: "-grant-lifespan"},
		"keys for a moment":              {args: []string{"-key-rotation", "59m"}, want: "-key-rotation"},
		"no time for a request":          {args: []string{"-request-timeout", "0s"}, want: "-request-timeout"},
		"an issuer over plain http":      {args: []string{"-issuer", "http://example.com"}, want: "https"},
		"an issuer with a path":          {args: []string{"-issuer", "https://example.com/"}, want: "slash"},
		"an issuer with a query":         {args: []string{"-issuer", "https://example.com?a"}, want: "-issuer"},
		"an issuer with a password":      {args: []string{"-issuer", "https://a:b@example.com"}, want: "-issuer"},
		"an issuer without a host":       {args: []string{"-issuer", "https://"}, want: "-issuer"},
		"an issuer that is not one":      {args: []string{"-issuer", "example.com"}, want: "-issuer"},
		"an issuer in capital letters":   {args: []string{"-issuer", "HTTPS://example.com"}, want: "canonical"},
		"an issuer for another protocol": {args: []string{"-issuer", "ftp://example.com"}, want: "-issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseConfig(test.args, environment(test.env...), io.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestConfigTakesPagesElsewhere(t *testing.T) {
	c, err := parseConfig([]string{"-api-listen", "127.0.0.1:0", "-login-url", "https://a.example/login?tenant=1", "-consent-url", "http://localhost:3000/consent", "-clients", "f"}, environment(), io.Discard)
	if err != nil || !c.pagesElsewhere() || c.demo() {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestRunRefusesAnAPITokenThatAnybodyCanGuess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	code := run(t.Context(), []string{"-listen", "127.0.0.1:0", "-api-listen", "127.0.0.1:0", "-consent-url", "https://a.example/consent", "-api-token-file", file}, environment(), io.Discard, &errOut)
	if code != 2 || !strings.Contains(errOut.String(), "-api-token-file") || strings.Contains(errOut.String(), "short") {
		t.Errorf("code %d, %q", code, &errOut)
	}
}

func TestConfigErrorsDoNotPrintTheDatabasePassword(t *testing.T) {
	_, err := parseConfig([]string{"-listen", "x"}, environment("DATABASE_URL", "postgres://u:hunter2@h/d"), io.Discard)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestHelpExplainsEveryFlagAndItsVariable(t *testing.T) {
	var out bytes.Buffer
	if _, err := parseConfig([]string{"-h"}, environment(), &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "for ID tokens, 1h or more") {
		t.Errorf("the least -key-rotation is missing in:\n%s", &out)
	}
	for _, name := range []string{"listen", "issuer", "database-url", "clients", "users", "admin-listen", "admin-token-file", "consent-url", "login-url", "api-listen", "api-token-file", "grant-lifespan", "key-rotation", "request-timeout", "pkce-plain", "log-format"} {
		if !strings.Contains(out.String(), "\n  -"+name+" ") || !strings.Contains(out.String(), "["+environmentName(name)+"]") {
			t.Errorf("-%s or %s is missing in:\n%s", name, environmentName(name), &out)
		}
	}
}

func TestRunEndsWithTwoForWrongFlagsAndFiles(t *testing.T) {
	for _, args := range [][]string{{"-nope"}, {"-clients", "/nonexistent", "-users", "/nonexistent"}} {
		var errOut bytes.Buffer
		if code := run(t.Context(), args, environment(), io.Discard, &errOut); code != 2 || errOut.Len() == 0 {
			t.Errorf("%v: code %d, %q", args, code, &errOut)
		}
	}
	if code := run(t.Context(), []string{"-h"}, environment(), io.Discard, io.Discard); code != 0 {
		t.Errorf("-h: code %d", code)
	}
}

// Whoever has read the samples could redeem the clients' codes, or sign in as alice.
func TestPublishedSecretsAreRefusedOffThisMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("samples", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const first, last = `"client_id": "photo-printer",
    "client_secret": "replace this with a random text"`, `"client_id": "photo-vault",
    "client_secret": "replace this with a random text"`
	onlyLast := strings.Replace(read("clients.json"), first, `"client_id": "photo-printer", "client_secret": "0123456789abcdef"`, 1)
	neither := strings.Replace(onlyLast, last, `"client_id": "photo-vault", "client_secret": "0123456789abcdef"`, 1)
	ownUsers := write("users.json", fmt.Sprintf(`{"alice": %q}`, bcryptHash(t, "wonderland")))
	// The database is one that cannot be reached, where the server ends with 1.
	const nowhere = "postgres://u@127.0.0.1:1/d?connect_timeout=1"
	for name, test := range map[string]struct {
		issuer, clients, users string
		want                   int
		says                   string
	}{
		"the samples":                   {"https://as.example", "samples/clients.json", "samples/users.json", 2, `client "photo-printer"`},
		"the secret of the last client": {"https://as.example", write("last.json", onlyLast), ownUsers, 2, `client "photo-vault"`},
		"the password":                  {"https://as.example", write("neither.json", neither), "samples/users.json", 2, `user "alice"`},
		"neither":                       {"https://as.example", write("neither.json", neither), ownUsers, 1, "database"},
		"the samples, on this machine":  {"http://localhost:9096", "samples/clients.json", "samples/users.json", 1, "database"},
		"and without an issuer":         {"", "samples/clients.json", "samples/users.json", 1, "database"},
	} {
		var log bytes.Buffer
		args := []string{"-listen", "127.0.0.1:0", "-issuer", test.issuer, "-clients", test.clients, "-users", test.users}
		code := run(t.Context(), args, environment("DATABASE_URL", nowhere), io.Discard, &log)
		if code != test.want || !strings.Contains(log.String(), test.says) || strings.Contains(log.String(), sampleClientSecret) {
			t.Errorf("%s: code %d, want %d:\n%s", name, code, test.want, &log)
		}
	}
}

func TestSampleFilesCanBeUsedAsTheyAre(t *testing.T) {
	t.Parallel()
	clients, err := readClients("samples/clients.json")
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := readUsers("samples/users.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(clients) != 3 || clients[0].IsPublic() || !clients[1].IsPublic() || !clients[2].mustPush {
		t.Errorf("expected a confidential client, a public one and one that has to push, got %d", len(clients))
	}
	if ok, err := accounts.authenticate(t.Context(), "alice", "correct horse battery staple"); err != nil || !ok {
		t.Errorf("alice cannot sign in with the password of samples/README.md: %v", err)
	}
}
