package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/example-server/loginapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// The endpoints.
const (
	pathAuthorize    = "/oauth2/auth"
	pathPush         = "/oauth2/par"
	pathToken        = "/oauth2/token"
	pathIntrospect   = "/oauth2/introspect"
	pathRevoke       = "/oauth2/revoke"
	pathUserinfo     = "/userinfo"
	pathJWKS         = "/.well-known/jwks.json"
	pathLogin        = "/login"
	pathLogout       = "/logout"
	pathLoginBack    = "/login/back"
	pathConsent      = "/consent"
	pathConsentBack  = "/consent/back"
	pathApplications = "/account/applications"
	pathTakeBack     = "/account/applications/revoke"
	pathAssets       = "/assets/"
)

// server answers HTTP requests. Everything in it is safe for concurrent use.
type server struct {
	config       config
	issuer       string
	log          *slog.Logger
	keys         *keys
	users        *users
	clients      map[string]*client // by client_id
	sessions     *scs.SessionManager
	provider     fosite.OAuth2Provider
	gate         *fositeconsent.Gate
	fositeConfig *fosite.Config
	ready        func(context.Context) error
	demo         *demo           // nil with clients and users of one's own
	logins       *loginapi.API   // nil with a login page of one's own; then there are no users
	consents     *consentapi.API // nil with a consent page of one's own
}

// maxBody bounds a request's body: the consent page's form holds the authorization
// request, encoded twice, and the ticket.
const maxBody = 256 << 10

// handler returns the whole server.
func (s *server) handler() (http.Handler, error) {
	// A post from another site to one of these would sign somebody in or out, or
	// approve something (RFC 6749, Section 10.12). The authorization endpoint is not
	// among them: clients may post there.
	protection := http.NewCrossOriginProtection()
	if err := protection.AddTrustedOrigin(s.issuer); err != nil { // also behind a proxy that changes Host
		return nil, err
	}
	protection.SetDenyHandler(http.HandlerFunc(s.crossOrigin))
	decision := func(h http.HandlerFunc) http.Handler { return protection.Handler(s.withSession(h)) }

	mux := http.NewServeMux()
	mux.Handle("GET "+pathAuthorize, s.withSession(s.getAuthorize))
	mux.HandleFunc("POST "+pathAuthorize, s.postAuthorize)
	mux.HandleFunc(pathPush, s.push)
	mux.HandleFunc(pathToken, s.token)
	mux.HandleFunc(pathIntrospect, s.introspect)
	mux.HandleFunc(pathRevoke, s.revoke)
	mux.HandleFunc("GET "+pathUserinfo, s.userinfo)
	mux.HandleFunc("POST "+pathUserinfo, s.userinfo)
	mux.HandleFunc("GET "+pathJWKS, s.jwks)
	mux.HandleFunc("GET /.well-known/openid-configuration", s.discovery)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.discovery)

	mux.Handle("GET "+pathLogin, s.withSession(s.getLogin))
	if s.logins == nil {
		mux.Handle("POST "+pathLogin, decision(s.postLogin))
	} else {
		mux.Handle("GET "+pathLoginBack, s.withSession(s.getLoginBack))
	}
	mux.Handle("POST "+pathLogout, decision(s.postLogout))
	if s.consents == nil {
		mux.Handle("POST "+pathConsent, decision(s.postConsent))
	} else {
		mux.Handle("GET "+pathConsentBack, s.withSession(s.getConsentBack))
	}
	mux.Handle("GET "+pathApplications, s.withSession(s.getApplications))
	mux.Handle("GET "+pathTakeBack, s.withSession(s.getTakeBack))
	mux.Handle("POST "+pathTakeBack, decision(s.postTakeBack))

	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET "+pathAssets+"{name}", s.asset)
	mux.HandleFunc("/", s.notFound)
	if s.demo != nil {
		s.demo.routes(mux, protection)
	} else {
		mux.Handle("GET /{$}", http.RedirectHandler(pathLogin, http.StatusSeeOther))
	}
	return http.MaxBytesHandler(s.observe(s.secure(mux), s.broken), maxBody), nil
}

// readyz says whether the database and its tables are fit for work.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.ready(r.Context()); err != nil {
		s.log.ErrorContext(r.Context(), "not ready", "error", err)
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "unavailable"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// secure sets the headers that every response has; a handler may replace its own.
func (s *server) secure(next http.Handler) http.Handler {
	https := isHTTPS(s.issuer)
	local := isLoopback(hostname(s.issuer))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setSecurityHeaders(w.Header())
		if https {
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		// A site whose name was made to lead to this machine (DNS rebinding) gets nothing.
		if local && !isLoopback(hostname("//"+r.Host)) {
			http.Error(w, http.StatusText(http.StatusMisdirectedRequest), http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// setSecurityHeaders sets those that do not depend on where the server is.
func setSecurityHeaders(h http.Header) {
	h.Set("Content-Security-Policy", defaultPolicy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	// Pages' addresses hold authorization requests: they go to nobody else. Not
	// no-referrer, with which browsers send "Origin: null" with our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// broken answers a request in which something panicked.
func (s *server) broken(w http.ResponseWriter, r *http.Request) {
	w.Header().Del("Location")
	s.renderError(w, r, http.StatusInternalServerError, errorPage{
		Heading: "Something went wrong here", Explanation: "The server could not finish this.", Advice: "Please try again.",
	})
}

// observe bounds a request in time, logs it, and has broken answer after a panic. What is
// logged of the address is the route: queries hold codes and states.
func (s *server) observe(next http.Handler, broken http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(r.Context(), s.config.requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				s.log.ErrorContext(ctx, "panic", "value", v, "stack", string(debug.Stack()))
				if rec.status == 0 {
					broken(rec, r)
				}
			}
			s.log.InfoContext(ctx, "request", "method", r.Method, "route", r.Pattern, "status", rec.status, "bytes", rec.bytes, "duration", time.Since(start))
		}()
		next.ServeHTTP(rec, r)
	})
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// hostname returns the URL's host without the port.
func hostname(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// isHTTPS reports whether the URL's scheme is https.
func isHTTPS(issuer string) bool {
	u, err := url.Parse(issuer)
	return err == nil && u.Scheme == "https"
}
