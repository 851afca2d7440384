// Command consent-app is a login and consent application of the kind that is written for Ory Hydra: a program apart from the
// authorization server, which knows nothing of OAuth but Hydra's API, through Hydra's own generated client.
//
//	go run ./example-server -api-listen 127.0.0.1:9097 \
//	    -login-url http://127.0.0.1:9098/login -consent-url http://127.0.0.1:9098/consent
//	go run ./example-server/consent-app -api-url http://127.0.0.1:9097
//
// It keeps nothing: what is being asked is asked of the API each time, and what was answered is there.
package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"
)

//go:embed pages
var pageFiles embed.FS

var pages = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// maxBody bounds a form, in bytes.
const maxBody = 64 << 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program. It returns the exit code: 0 after a clean stop, 2 for wrong flags, 1 for everything else.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("consent-app", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:9098", "`address` to listen on")
	apiURL := flags.String("api-url", "http://127.0.0.1:9097", "`URL` of the authorization server's internal API (-api-listen)")
	tokenFile := flags.String("api-token-file", "", "`file` with the token that the API asks for (-api-token-file)")
	username := flags.String("username", "alice", "`name` of the one user that there is; the password is in the environment variable\nPASSWORD, or made up and shown")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	a := &application{log: slog.New(slog.NewTextHandler(stderr, nil)), username: *username, password: getenv("PASSWORD")}
	var token string
	if *tokenFile != "" {
		text, err := os.ReadFile(*tokenFile)
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "consent-app: -api-token-file: %v\n", err)
			return 2
		}
		token = strings.TrimSpace(string(text))
	}
	if u, err := url.Parse(*apiURL); err != nil || u.Host == "" || flags.NArg() > 0 {
		_, _ = fmt.Fprintln(stderr, "consent-app: expected -api-url http://host:port and nothing beside the flags; -h shows them")
		return 2
	}
	a.api = newClient(*apiURL, token)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "consent-app: %v: choose another address with -listen\n", err)
		return 1
	}
	if a.password == "" {
		a.password = rand.Text()[:10]
		_, _ = fmt.Fprintf(stdout, "\n  Sign in as %s, password %s\n\n", a.username, a.password)
	}
	a.log.Info("listening", "addr", listener.Addr().String())
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(stopCtx) // what is not finished then is done again by a reload
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("stopped", "error", err)
		return 1
	}
	return 0
}

// newClient returns Hydra's client for an API at the URL.
func newClient(apiURL, token string) hydra.OAuth2API {
	config := hydra.NewConfiguration()
	config.Servers = hydra.ServerConfigurations{{URL: apiURL}}
	config.HTTPClient = &http.Client{Timeout: 10 * time.Second}
	if token != "" {
		config.DefaultHeader["Authorization"] = "Bearer " + token
	}
	return hydra.NewAPIClient(config).OAuth2API
}

// application is safe for concurrent use.
type application struct {
	api                hydra.OAuth2API
	log                *slog.Logger
	username, password string
}

func (a *application) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", a.getLogin)
	mux.HandleFunc("POST /login", a.postLogin)
	mux.HandleFunc("GET /consent", a.getConsent)
	mux.HandleFunc("POST /consent", a.postConsent)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, pageFiles, "pages/style.css") })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		a.render(w, http.StatusNotFound, "error.html", errorPage{Text: "There is nothing here."})
	})
	// A form of another site would sign somebody in, or approve (RFC 6749, Section 10.12).
	protected := http.NewCrossOriginProtection().Handler(mux)
	return http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		// No form-action: browsers apply it to the redirects that follow, which lead to the client.
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // the challenge is in the address
		h.Set("Cache-Control", "no-store")
		protected.ServeHTTP(w, r)
	}), maxBody)
}

func (a *application) render(w http.ResponseWriter, status int, page string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := pages.ExecuteTemplate(w, page, data); err != nil {
		a.log.Error("page", "name", page, "error", err)
	}
}

type errorPage struct{ Text, Link string }

// failed answers when the API has refused. If that knows how the browser goes on, there it goes: after the back button, for
// instance, to the authorization request once more.
func (a *application) failed(w http.ResponseWriter, r *http.Request, err error) {
	var refused *hydra.GenericOpenAPIError
	if errors.As(err, &refused) {
		var gone hydra.OAuth2RedirectTo // of which the client has no Model where the answer is put
		if strings.HasPrefix(refused.Error(), "410") && json.Unmarshal(refused.Body(), &gone) == nil && gone.RedirectTo != "" {
			http.Redirect(w, r, gone.RedirectTo, http.StatusSeeOther)
			return
		}
		if strings.HasPrefix(refused.Error(), "409") {
			// The page itself leads on now: the API says where.
			link := r.URL.Path + "?" + url.Values{strings.TrimPrefix(r.URL.Path, "/") + "_challenge": {r.PostFormValue("challenge")}}.Encode()
			a.render(w, http.StatusConflict, "error.html", errorPage{"This page was answered differently before, and that answer counts.", link})
			return
		}
	}
	a.log.ErrorContext(r.Context(), "the API refused", "error", err)
	a.render(w, http.StatusBadGateway, "error.html", errorPage{Text: "Nothing was approved. Go back to the application and start again."})
}

type loginPage struct {
	Request *hydra.OAuth2LoginRequest
	Failed  bool
}

func (a *application) getLogin(w http.ResponseWriter, r *http.Request) {
	request, err := call(a.api.GetOAuth2LoginRequest(r.Context()).LoginChallenge(r.URL.Query().Get("login_challenge")))
	if err != nil {
		a.failed(w, r, err)
		return
	}
	if request.Skip { // who is signed in already needs no password
		a.acceptLogin(w, r, request.Challenge, hydra.AcceptOAuth2LoginRequest{Subject: request.Subject})
		return
	}
	a.render(w, http.StatusOK, "login.html", loginPage{Request: request})
}

func (a *application) postLogin(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	challenge := r.PostFormValue("challenge")
	if r.PostFormValue("decision") == "deny" {
		a.follow(w, r, a.api.RejectOAuth2LoginRequest(ctx).LoginChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{
			Error: hydra.PtrString("access_denied"), ErrorDescription: hydra.PtrString("Nobody signed in."),
		}))
		return
	}
	same := func(got, want string) int { return subtle.ConstantTimeCompare([]byte(got), []byte(want)) }
	if same(r.PostFormValue("username"), a.username)&same(r.PostFormValue("password"), a.password) != 1 {
		request, err := call(a.api.GetOAuth2LoginRequest(ctx).LoginChallenge(challenge))
		if err != nil {
			a.failed(w, r, err)
			return
		}
		a.render(w, http.StatusForbidden, "login.html", loginPage{request, true})
		return
	}
	// Without a look at the request: after a double click that is answered, and the same answer leads on.
	a.acceptLogin(w, r, challenge, hydra.AcceptOAuth2LoginRequest{
		Subject: a.username, Amr: []string{"pwd"}, // RFC 8176
		Remember: hydra.PtrBool(r.PostFormValue("remember") == "yes"), RememberFor: hydra.PtrInt64(3600),
	})
}

func (a *application) acceptLogin(w http.ResponseWriter, r *http.Request, challenge string, answer hydra.AcceptOAuth2LoginRequest) {
	a.follow(w, r, a.api.AcceptOAuth2LoginRequest(r.Context()).LoginChallenge(challenge).AcceptOAuth2LoginRequest(answer))
}

// follow gives the answer, and sends the browser where the API says.
func (a *application) follow(w http.ResponseWriter, r *http.Request, answer interface {
	Execute() (*hydra.OAuth2RedirectTo, *http.Response, error)
}) {
	to, err := call(answer)
	if err != nil {
		a.failed(w, r, err)
		return
	}
	http.Redirect(w, r, to.RedirectTo, http.StatusSeeOther)
}

// call does one request of the generated client.
func call[T any](request interface {
	Execute() (*T, *http.Response, error)
}) (*T, error) {
	value, response, err := request.Execute()
	if response != nil {
		_ = response.Body.Close() // the client has read it
	}
	return value, err
}

// consentPage is what consent.html shows.
type consentPage struct {
	Request *hydra.OAuth2ConsentRequest
	Client  string
	Notice  string
}

func (a *application) getConsent(w http.ResponseWriter, r *http.Request) {
	request, err := call(a.api.GetOAuth2ConsentRequest(r.Context()).ConsentChallenge(r.URL.Query().Get("consent_challenge")))
	if err != nil {
		a.failed(w, r, err)
		return
	}
	if request.GetSkip() { // what was remembered covers it
		a.acceptConsent(w, r, request.Challenge, request.RequestedScope, request.RequestedAccessTokenAudience, false)
		return
	}
	a.showConsent(w, http.StatusOK, request, "")
}

func (a *application) showConsent(w http.ResponseWriter, status int, request *hydra.OAuth2ConsentRequest, notice string) {
	client := request.GetClient()
	name := client.GetClientName()
	if name == "" {
		name = client.GetClientId()
	}
	a.render(w, status, "consent.html", consentPage{request, name, notice})
}

func (a *application) postConsent(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	challenge := r.PostFormValue("challenge")
	// Without a look at the request: after a double click that is answered, and the same answer leads on. What the form says beyond
	// what was requested, the API refuses.
	switch decision := r.PostFormValue("decision"); {
	case decision == "deny":
		a.follow(w, r, a.api.RejectOAuth2ConsentRequest(ctx).ConsentChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{
			Error: hydra.PtrString("access_denied"), ErrorDescription: hydra.PtrString("The resource owner denied the request."),
		}))
	case decision == "approve" && (len(r.PostForm["scope"]) > 0 || r.PostFormValue("scopes") == "0"):
		a.acceptConsent(w, r, challenge, r.PostForm["scope"], r.PostForm["audience"], r.PostFormValue("remember") == "yes")
	default:
		request, err := call(a.api.GetOAuth2ConsentRequest(ctx).ConsentChallenge(challenge))
		if err != nil {
			a.failed(w, r, err)
			return
		}
		a.showConsent(w, http.StatusBadRequest, request, "No permission was ticked, or it was neither yes nor no. Nothing was approved.")
	}
}

func (a *application) acceptConsent(w http.ResponseWriter, r *http.Request, challenge string, scopes, audience []string, remember bool) {
	session := hydra.AcceptOAuth2ConsentRequestSession{}
	if slices.Contains(scopes, "profile") { // what an application knows of its users, of which this one has a single one
		session.IdToken = map[string]any{"preferred_username": a.username}
		session.AccessToken = map[string]any{"department": "Photography"}
	}
	a.follow(w, r, a.api.AcceptOAuth2ConsentRequest(r.Context()).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(hydra.AcceptOAuth2ConsentRequest{
		GrantScope: scopes, GrantAccessTokenAudience: audience, Session: &session, Remember: &remember, RememberFor: hydra.PtrInt64(0),
	}))
}
