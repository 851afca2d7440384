package main

import (
	"net"
	"net/http"

	"github.com/fosite-consent/fosite-consent/example-server/loginapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// apiHandler returns what the internal listener serves: Hydra's API for the pages that are elsewhere, and nothing else. Without
// a token, whoever reaches it is let in.
func (s *server) apiHandler(authenticate func(*http.Request) error) http.Handler {
	mux := http.NewServeMux()
	if s.logins != nil {
		logins := s.logins.Handler()
		mux.Handle(loginapi.Path, logins)
		mux.Handle(loginapi.Path+"/", logins)
	}
	if s.consents != nil {
		mux.Handle("/", s.consents.Handler())
	}
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setSecurityHeaders(w.Header())
		switch {
		// A site whose name was made to lead to this machine (DNS rebinding), of whose GETs browsers do not say where they are from.
		case authenticate == nil && !isLoopback(hostname("//"+r.Host)) && cameOverLoopback(r):
			writeAPIError(w, http.StatusMisdirectedRequest, "misdirected_request", "Without a token, this API is called by a loopback address or as localhost.")
		// An application is a server. What another page has a browser send to this machine says where it is from.
		case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
			writeAPIError(w, http.StatusForbidden, "forbidden", "The request was sent by a browser. This API is for servers.")
		case authenticate != nil && authenticate(r) != nil:
			s.log.WarnContext(r.Context(), "refused to somebody who is not the application", "method", r.Method, "remote_addr", r.RemoteAddr)
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeAPIError(w, http.StatusUnauthorized, "request_unauthorized", "Send the application's token in the header Authorization: Bearer …")
		default:
			mux.ServeHTTP(w, r)
		}
	})
	broken := func(w http.ResponseWriter, _ *http.Request) {
		writeAPIError(w, http.StatusInternalServerError, "server_error", "The server could not finish this. What became of the call is not known: repeat it.")
	}
	return http.MaxBytesHandler(s.observe(guarded, broken), maxBody)
}

// writeAPIError is writeAdminError in Hydra's shape.
func writeAPIError(w http.ResponseWriter, status int, name, description string) {
	writeJSON(w, status, struct {
		adminError
		StatusCode int `json:"status_code"`
	}{adminError{name, description}, status})
}

// cameOverLoopback reports whether the listener's end of the connection is a loopback address.
func cameOverLoopback(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// warnIfPublic says so if anybody may decide for everybody.
func (s *server) warnIfPublic(address string, authenticate func(*http.Request) error) {
	switch {
	case !consentapi.PublicAddress(address):
	case authenticate == nil:
		s.log.Warn("the internal API can be reached from elsewhere, and lets everybody in who decides for everybody: set -api-token-file, or -api-listen to a loopback address", "addr", address)
	default:
		s.log.Warn("the internal API has no TLS and can be reached from elsewhere: let nothing but the application reach it", "addr", address)
	}
}
