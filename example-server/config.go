package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// config is what the flags and the environment say.
type config struct {
	listen         string
	issuer         string // "" until the listener's address is known
	databaseURL    string // "" for a private server; a secret
	clientsFile    string // "" for the demo
	usersFile      string // "" for the demo
	adminListen    string // "" for no operator
	adminTokenFile string
	consentURL     string // "" for a consent page of its own
	loginURL       string // "" for a login page of its own
	apiListen      string // "" without pages elsewhere
	apiTokenFile   string // "" for an internal listener that lets everybody in
	grantLifespan  time.Duration
	keyRotation    time.Duration
	requestTimeout time.Duration

	decisionRetention time.Duration // 0 for ever

	pkcePlain bool
	logFormat string
}

// demo reports whether the server brings its own clients and its own user.
func (c config) demo() bool { return c.clientsFile == "" }

// pagesElsewhere reports whether an application has the consent page, or the login page, or both.
func (c config) pagesElsewhere() bool { return c.consentURL != "" || c.loginURL != "" }

const usageIntro = `An OAuth 2.0 and OpenID Connect authorization server built on fosite that issues
nothing without a consent grant in PostgreSQL.

Usage: example-server [flags]

Without flags it starts a PostgreSQL server of its own and a demo to click through.
Every flag can also be set by the environment variable named in brackets; a flag
has precedence.

`

// parseConfig reads the flags and, for those that are not given, the environment.
// With -h it prints what each one means to output and returns flag.ErrHelp.
func parseConfig(args []string, getenv func(string) string, output io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("example-server", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints errors, once
	fs.StringVar(&c.listen, "listen", "127.0.0.1:9096", "`address` to listen on; port 0 picks a free one, which is logged")
	fs.StringVar(&c.issuer, "issuer", "", "issuer `URL`: https://host[:port], or http:// on a loopback address; required\n"+
		"when the server does not listen on a loopback address (default http://<listen>)")
	fs.StringVar(&c.databaseURL, "database-url", "", "PostgreSQL connection `URL`; better set in the environment, where other users of\n"+
		"this machine cannot read its password; PgBouncer in transaction mode will do\n"+
		"(default: start a private PostgreSQL)")
	fs.StringVar(&c.clientsFile, "clients", "", "`file` with the clients: a JSON array of objects with the names of RFC 7591 and\n"+
		"client_id and client_secret; needs -users; example-server/samples has one\n"+
		"(default: two demo clients)")
	fs.StringVar(&c.usersFile, "users", "", "`file` with the users: a JSON object of user name to bcrypt hash; needs -clients;\n"+
		"example-server/samples has one (default: a demo user)")
	fs.StringVar(&c.adminListen, "admin-listen", "", "second `address`, on which an operator lists and revokes consents; needs\n"+
		"-admin-token-file; it has no TLS: a loopback address, or one that only a proxy\n"+
		"with TLS reaches (default: there is none)")
	fs.StringVar(&c.adminTokenFile, "admin-token-file", "", "`file` with the operator's token, such as that of openssl rand -hex 32; needs\n"+
		"-admin-listen")
	fs.StringVar(&c.consentURL, "consent-url", "", "`URL` of the consent page of an application that was written for Ory Hydra; needs\n"+
		"-api-listen (default: the server's own page)")
	fs.StringVar(&c.loginURL, "login-url", "", "`URL` of the login page of such an application, which then has the users; needs\n"+
		"-api-listen (default: the server's own page)")
	fs.StringVar(&c.apiListen, "api-listen", "", "internal `address`, on which the application asks and answers, and decides for\n"+
		"everybody; it has no TLS: a loopback address, or one that only the application\n"+
		"reaches (default: there is none)")
	fs.StringVar(&c.apiTokenFile, "api-token-file", "", "`file` with the application's token, which it sends as Authorization: Bearer\n"+
		"(default: whoever reaches -api-listen is let in)")
	fs.DurationVar(&c.grantLifespan, "grant-lifespan", time.Minute, "longest `time` between an approval and the response it leads to")
	fs.DurationVar(&c.keyRotation, "key-rotation", 30*24*time.Hour, "`time` after which a new key is made for ID tokens, 1h or more; days are written\n"+
		"in hours")
	fs.DurationVar(&c.decisionRetention, "decision-retention", 0, "`time` for which the log of decisions is kept, 24h or more; 0 is for ever")
	fs.DurationVar(&c.requestTimeout, "request-timeout", 10*time.Second, "longest `time` that one HTTP request may take, the database included")
	fs.BoolVar(&c.pkcePlain, "pkce-plain", false, "also accept the PKCE method plain, for old clients: whoever reads the\n"+
		"authorization request can then redeem the code (RFC 7636, Section 7.2)")
	fs.StringVar(&c.logFormat, "log-format", "text", "format of the log on standard error, `text|json`")

	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(output, usageIntro)
		fs.VisitAll(func(f *flag.Flag) {
			kind, usage := flag.UnquoteUsage(f)
			if f.DefValue != "" && f.DefValue != "false" {
				usage += " (default " + f.DefValue + ")"
			}
			_, _ = fmt.Fprintf(output, "  -%s %s  [%s]\n        %s\n", f.Name, kind, environmentName(f.Name), strings.ReplaceAll(usage, "\n", "\n        "))
		})
		return config{}, err
	}
	if err != nil {
		return config{}, err
	}
	if fs.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	fs.VisitAll(func(f *flag.Flag) {
		value := getenv(environmentName(f.Name))
		if err != nil || given[f.Name] || value == "" {
			return
		}
		if setErr := fs.Set(f.Name, value); setErr != nil {
			err = fmt.Errorf("environment variable %s: %w", environmentName(f.Name), setErr)
		}
	})
	if err != nil {
		return config{}, err
	}
	return c, c.check()
}

// environmentName returns the variable for a flag: DATABASE_URL for database-url.
func environmentName(flagName string) string {
	return strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

func (c config) check() error {
	host, _, err := net.SplitHostPort(c.listen)
	if err != nil {
		return fmt.Errorf("-listen %q: expected host:port: %w", c.listen, err)
	}
	switch {
	case c.issuer == "" && !isLoopback(host):
		return fmt.Errorf("-listen %s can be reached from elsewhere: set -issuer to the URL under which browsers know this server", c.listen)
	case c.issuer != "":
		if err := checkIssuer(c.issuer); err != nil {
			return fmt.Errorf("-issuer %q: %w", c.issuer, err)
		}
	}
	if c.adminListen != "" {
		if _, _, err := net.SplitHostPort(c.adminListen); err != nil {
			return fmt.Errorf("-admin-listen %q: expected host:port: %w", c.adminListen, err)
		}
	}
	if err := c.checkPages(); err != nil {
		return err
	}
	switch {
	case (c.adminListen == "") != (c.adminTokenFile == ""):
		return errors.New("-admin-listen and -admin-token-file go together: nobody is an operator without a token")
	case c.loginURL == "" && (c.clientsFile == "") != (c.usersFile == ""):
		return errors.New("-clients and -users go together: give both, or neither for the demo")
	case c.demo() && c.issuer != "" && !isLoopback(hostname(c.issuer)):
		return fmt.Errorf("-issuer %s is not this machine alone, and the demo shows its password to everybody: give -clients and -users", c.issuer)
	case c.grantLifespan < fositeconsent.MinGrantLifespan || c.grantLifespan > fositeconsent.MaxPromptLifespan:
		return fmt.Errorf("-grant-lifespan %v: expected %v to %v", c.grantLifespan, fositeconsent.MinGrantLifespan, fositeconsent.MaxPromptLifespan)
	case c.keyRotation < minKeyRotation:
		return fmt.Errorf("-key-rotation %v: expected %v or more", c.keyRotation, minKeyRotation)
	case c.decisionRetention != 0 && c.decisionRetention < 24*time.Hour:
		return fmt.Errorf("-decision-retention %v: expected 24h or more, or 0 for ever", c.decisionRetention)
	case c.requestTimeout < 10*time.Millisecond:
		return fmt.Errorf("-request-timeout %v: expected 10ms or more", c.requestTimeout)
	case c.logFormat != "text" && c.logFormat != "json":
		return fmt.Errorf("-log-format %q: expected text or json", c.logFormat)
	}
	return nil
}

// checkPages is check for the flags of pages that are elsewhere.
func (c config) checkPages() error {
	for flag, address := range map[string]string{"-consent-url": c.consentURL, "-login-url": c.loginURL} {
		if address == "" {
			continue
		}
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.User != nil || strings.Contains(address, "#") || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return fmt.Errorf("%s: expected https://host[:port]/path, or http:// on a loopback address", flag)
		}
	}
	if c.apiListen != "" {
		if _, _, err := net.SplitHostPort(c.apiListen); err != nil {
			return fmt.Errorf("-api-listen %q: expected host:port: %w", c.apiListen, err)
		}
	}
	switch {
	case c.pagesElsewhere() != (c.apiListen != ""):
		return errors.New("-consent-url and -login-url need -api-listen, where the application answers, and that is for nothing else")
	case c.apiTokenFile != "" && c.apiListen == "":
		return errors.New("-api-token-file needs -api-listen")
	case c.loginURL != "" && c.usersFile != "":
		return errors.New("-users and -login-url exclude each other: the users are the login application's")
	}
	return nil
}

// checkIssuer accepts what RFC 8414, Section 2 does, and plain http on a loopback
// address besides, for development. All endpoints are at the root, so a path has no place.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil {
		return errors.New("not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "", u.Hostname() == "":
		return errors.New("expected https://host[:port]")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("http is for loopback addresses only: use https")
	case u.User != nil, u.Path != "", u.RawQuery != "", u.ForceQuery, u.Fragment != "", u.Opaque != "":
		return errors.New("expected nothing after the host and port, not even a slash")
	case u.String() != issuer:
		return fmt.Errorf("expected the canonical form %s", u)
	}
	return nil
}

// isLoopback reports whether only this machine can reach the host.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
