package integration_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/tracelog"
	"github.com/ory/fosite"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// wire is everything that passes between a client and PostgreSQL, in both directions.
type wire struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.Write(p)
}

func (w *wire) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.String()
}

// record starts a proxy that notes everything, and returns the database's URL through it.
// Whatever PostgreSQL can log, it has got over this connection; and it is told to log
// every statement with its parameters and to send what it logs to its client, too.
func record(t testing.TB, databaseURL string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := pgx.Connect(context.Background(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"log_statement = 'all'", "log_min_duration_statement = 0", "log_parameter_max_length = -1", "log_parameter_max_length_on_error = -1", "client_min_messages = 'log'"} {
		if _, err := admin.Exec(context.Background(), "ALTER DATABASE "+pgx.Identifier{strings.TrimPrefix(u.Path, "/")}.Sanitize()+" SET "+setting); err != nil {
			t.Fatal(err)
		}
	}
	_ = admin.Close(context.Background())

	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w, target := new(wire), u.Host
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(context.Background(), "tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, server)
			mu.Unlock()
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				all.Go(func() {
					_, _ = io.Copy(way[1], io.TeeReader(way[0], w))
					_ = way[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	u.Host = listener.Addr().String()
	return w, u.String()
}

// The whole server, with everything that goes to the database and everything that
// PostgreSQL logs. What the processes log, and what they answer, is looked through in
// every test of this package.
func TestNoSecretReachesTheDatabaseOrALog(t *testing.T) {
	t.Parallel()
	direct := pgtest.Database(t)
	w, address := record(t, direct)
	s := newSuite(t, func(c *authserver.Config) { c.DatabaseURL, c.AllowErrors = address, true })
	s.pool = pgtest.PoolAt(t, direct)
	alice := s.signIn("alice")
	params := authorization("web")

	page := s.consentPage(alice, params)
	got := s.approve(page)
	answer := s.redeem(s.server, "web", got.code, callback, verifier)
	s.nothingIssued(page.Form("/consent").Submit("approve"))
	s.nothingIssued(s.consentPage(alice, params).Form("/consent").Submit("deny"))
	pushed := s.push(params)
	s.approve(s.consentPage(alice, pushed))
	hybrid := s.approve(s.consentPage(alice, with(params, "response_type", "code id_token token")))
	for _, sql := range []string{ // errors that PostgreSQL itself describes
		"ALTER TABLE consent_grants ADD CONSTRAINT no_insert CHECK (false) NOT VALID",
		"ALTER TABLE consent_grants DROP CONSTRAINT no_insert, ADD CONSTRAINT no_update CHECK (consumed_at IS NULL) NOT VALID",
		"ALTER TABLE consent_grants DROP CONSTRAINT no_update",
	} {
		if _, err := s.pool.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
		_ = s.consentPage(alice, params).Form("/consent").Submit("approve")
	}

	text := w.String()
	for _, expected := range []string{"INSERT INTO", "consent_grants", "execute stmtcache", "parameters", "no_insert"} { // or the recording does not work
		if !strings.Contains(text, expected) {
			t.Errorf("%q did not pass between the server and its database", expected)
		}
	}
	for secret, what := range map[string]string{
		"fcg_": "a consent token", "fct_": "a ticket", page.Form("/consent").Values("")["ticket"][0][4:]: "a ticket",
		users["alice"]: "a password", s.clients["web"].Secret: "a client secret", alice.Cookies()[0].Value: "a session's token",
		got.code: "a code", answer.AccessToken: "an access token", answer.RefreshToken: "a refresh token", hybrid.idToken: "an ID token",
		"urn:ietf:params:oauth:request_uri:": "a request_uri", url.QueryEscape(pushed.Get("request_uri")): "a request_uri",
		"ory_ac_": "a code", "ory_at_": "an access token", verifier: "a code verifier",
	} {
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("%s passed between the server and its database: %q", what, text[max(0, at-80):min(len(text), at+80)])
		}
	}
}

// spellings are the ways in which a token may appear.
func spellings(token fositeconsent.Token) []string {
	text := token.Reveal()
	raw := must(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, "fcg_")))
	secret := raw[16:]
	return []string{
		text, text[4:], string(secret), hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)),
		base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
		fmt.Sprint(secret), fmt.Sprintf("%#v", secret), strings.ReplaceAll(fmt.Sprint(secret), " ", ", "), text[30:],
	}
}

// The library by itself, in every mode of pgx, with the tokens known: queries that
// are traced with their arguments, spans, events, errors in every spelling, fosite's
// storage, and the wire.
func TestTokenAppearsNowhere(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			var log lockedBuffer
			logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 8}))
			w, address := record(t, pgtest.Database(t))
			pool := pgtest.PoolAt(t, address, func(c *pgxpool.Config) {
				c.ConnConfig.DefaultQueryExecMode = mode
				c.ConnConfig.Tracer = &tracelog.TraceLog{LogLevel: tracelog.LogLevelTrace, Logger: tracelog.LoggerFunc(func(ctx context.Context, _ tracelog.LogLevel, msg string, data map[string]any) {
					logger.InfoContext(ctx, "query", "msg", msg, "data", fmt.Sprintf("%v %+v %#v", data, data, data))
					fmt.Fprintf(&log, "%v %x %X\n", data, fmt.Sprint(data["args"]), data["args"])
				})}
				c.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { fmt.Fprintf(&log, "%+v\n", *n) }
			})
			spans := tracetest.NewSpanRecorder()
			tracing := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			h := newHost(t, pool, func(c *fositeconsent.Config) {
				c.OnEvent = func(ctx context.Context, e fositeconsent.Event) {
					logger.InfoContext(ctx, "event", "event", e, "any", slog.AnyValue(e), "text", fmt.Sprintf("%v %+v %#v", e, e, e), "error", e.Err)
					_ = json.NewEncoder(&log).Encode(e.GrantID)
				}
			})
			h.config.SendDebugMessagesToClients = true // the host may have that
			ctx, root := tracing.Tracer("test").Start(context.Background(), "test")
			params := authorization("app")

			var tokens []fositeconsent.Token
			mint := func() fositeconsent.Token {
				p := h.prompt(params, "alice")
				token, err := h.gate.Mint(ctx, h.request(params), login("alice", time.Minute), p.Ticket, everythingOf(p))
				if err != nil {
					t.Fatal(explain(err))
				}
				logger.Info("token", "token", token, "text", fmt.Sprintf("%v %+v %#v %s %q %x %d", token, token, token, token, token, token, token), "pointer", &token)
				_ = json.NewEncoder(&log).Encode(map[string]any{"token": token, "list": []any{token, &token}})
				tokens = append(tokens, token)
				return token
			}
			present := func(ctx context.Context, params url.Values, token fositeconsent.Token) error {
				ar := h.request(params)
				resp, err := h.provider.NewAuthorizeResponse(fositeconsent.WithToken(ctx, token), ar, login("alice", time.Minute))
				recorder := httptest.NewRecorder()
				if err != nil {
					h.provider.WriteAuthorizeError(ctx, recorder, ar, err)
					for e := err; e != nil; e = unwrap(e) {
						fmt.Fprintf(&log, "%v %+v %#v %q\n", e, e, e, e)
						logger.Info("refused", "error", e)
					}
					rfc := fosite.ErrorToRFC6749Error(err)
					fmt.Fprintln(&log, rfc.GetDescription(), rfc.DebugField, rfc.HintField, rfc.Debug(), rfc.Reason())
				} else {
					h.provider.WriteAuthorizeResponse(ctx, recorder, ar, resp)
				}
				fmt.Fprintln(&log, recorder.Header(), recorder.Body, ar.GetRequestForm(), ar.GetSession())
				return err
			}
			wantErr := func(what string, err error) {
				t.Helper()
				if err == nil {
					t.Errorf("%s: no error", what)
				}
			}
			token := mint()
			wantErr("another request", present(ctx, with(params, "state", others["state"]), token))
			if err := present(ctx, params, token); err != nil {
				t.Fatal(explain(err))
			}
			wantErr("again", present(ctx, params, token))
			over, cancel := context.WithCancel(ctx)
			cancel()
			wantErr("cancelled", present(over, params, mint()))
			if _, err := pool.Exec(context.Background(), "UPDATE consent_grants SET decided_at = decided_at - interval '1 hour', expires_at = decided_at - interval '1 minute' WHERE consumed_at IS NULL"); err != nil {
				t.Fatal(err)
			}
			wantErr("expired", present(ctx, params, tokens[len(tokens)-1]))
			for _, sql := range []string{
				"ALTER TABLE consent_grants ADD CONSTRAINT no_update CHECK (consumed_at IS NULL) NOT VALID",
				"ALTER TABLE consent_grants DROP CONSTRAINT no_update, ALTER COLUMN attempt TYPE text",
			} {
				token := mint()
				if _, err := pool.Exec(context.Background(), sql); err != nil {
					t.Fatal(err)
				}
				wantErr(sql, present(ctx, params, token))
			}
			memory := fmt.Sprintf("%+v %+v %+v %+v %+v", h.store.AuthorizeCodes, h.store.AccessTokens, h.store.RefreshTokens, h.store.PKCES, h.store.IDSessions)
			for _, r := range h.store.AuthorizeCodes {
				memory += fmt.Sprintf("%+v %+v %q", r.GetRequestForm(), r.GetSession(), r.GetSession().GetSubject())
			}
			root.End()
			var traced strings.Builder
			for _, span := range spans.Ended() {
				fmt.Fprintf(&traced, "%s %v %v %+v\n", span.Name(), span.Attributes(), span.Events(), span.Status())
			}

			// What is found here shows that the places are looked at.
			for where, place := range map[string]struct{ text, expected string }{
				"the log": {log.String(), "consume consent grant"}, "the spans": {traced.String(), "binding_mismatch"},
				"the wire": {w.String(), "LOG"}, "fosite's storage": {memory, "alice"},
			} {
				if !strings.Contains(place.text, place.expected) {
					t.Errorf("%s does not have %q: it is not looked at as it is meant to be", where, place.expected)
				}
				for i, token := range tokens {
					for _, spelling := range spellings(token) {
						if at := strings.Index(place.text, spelling); at >= 0 {
							t.Errorf("%s has token %d: %q", where, i, place.text[max(0, at-80):min(len(place.text), at+80)])
						}
					}
				}
			}
			if !strings.Contains(log.String(), "fcg_[redacted]") {
				t.Error("the tokens were not printed at all")
			}
		})
	}
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return nil
}

// lockedBuffer is a buffer that several goroutines write to.
type lockedBuffer = wire
