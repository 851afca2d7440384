package main

import (
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The operator's endpoints, on a listener of their own. admin-openapi.json describes them.
const (
	pathAdminConsents  = "/admin/consents"
	pathAdminDecisions = "/admin/decisions"
	pathAdminDocument  = "/admin/openapi.json"
)

//go:embed admin-openapi.json
var adminDocument []byte

// The parameters that say which consents are meant, and those of their list besides.
const (
	paramSubject      = "subject"
	paramClientID     = "client_id"
	paramConsentID    = "consent_id"
	paramLoginSession = "login_session"
	paramBefore       = "before"
	paramLimit        = "limit"
)

var (
	revokeParams = []string{paramSubject, paramClientID, paramConsentID, paramLoginSession}
	listParams   = append(slices.Clip(revokeParams), paramBefore, paramLimit)
)

const (
	defaultLimit = 50
	maxLimit     = 200
)

// adminCredential is the hash of the operator's token. The zero one is nobody's.
type adminCredential [sha256.Size]byte

// Characters of a bearer token (RFC 6750, Section 2.1), and how many it has.
const (
	bearerAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
	minAdminToken  = 32
	maxAdminToken  = 1024
)

// readAdminCredential reads the operator's token from a file.
func readAdminCredential(path string) (adminCredential, error) {
	token, err := readToken(path)
	if err != nil {
		return adminCredential{}, err
	}
	return sha256.Sum256([]byte(token)), nil
}

// readToken reads a token from a file. No error shows any of it.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAdminToken+3)) // a line's end, and one too many
	if err != nil {
		return "", err
	}
	token := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if len(token) < minAdminToken || len(token) > maxAdminToken || strings.Trim(token, bearerAlphabet) != "" {
		return "", fmt.Errorf("%s: expected one line of %d to %d letters, digits and -._~+/= such as that of: openssl rand -hex 32", path, minAdminToken, maxAdminToken)
	}
	return token, nil
}

// adminHandler returns what the operator's listener serves: nothing without the credential.
func (s *server) adminHandler(credential adminCredential) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathAdminConsents, s.adminList)
	mux.HandleFunc("DELETE "+pathAdminConsents, s.adminRevoke)
	mux.HandleFunc(pathAdminConsents, methodNotAllowed("DELETE, GET, HEAD"))
	mux.HandleFunc("GET "+pathAdminDecisions, s.adminExport)
	mux.HandleFunc("DELETE "+pathAdminDecisions, s.adminErase)
	mux.HandleFunc(pathAdminDecisions, methodNotAllowed("DELETE, GET, HEAD"))
	mux.HandleFunc("GET "+pathAdminDocument, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(adminDocument)
	})
	mux.HandleFunc(pathAdminDocument, methodNotAllowed("GET, HEAD"))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeAdminError(w, http.StatusNotFound, "not_found", "There is nothing here. "+pathAdminDocument+" describes what there is.")
	})
	broken := func(w http.ResponseWriter, _ *http.Request) {
		writeAdminError(w, http.StatusInternalServerError, "server_error", "The server could not finish this. A revocation or an erasure has to be repeated: until it has succeeded, tokens may be good and records there.")
	}
	secured := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setSecurityHeaders(w.Header())
		s.operatorOnly(w, r, credential, mux)
	})
	return http.MaxBytesHandler(s.observe(secured, broken), 0) // no request has a body
}

// operatorOnly lets a request pass that has the operator's token, and answers all others alike:
// it is not told which paths there are.
func (s *server) operatorOnly(w http.ResponseWriter, r *http.Request, credential adminCredential, next http.Handler) {
	var scheme, token string
	if values := r.Header.Values("Authorization"); len(values) == 1 {
		scheme, token, _ = strings.Cut(values[0], " ")
	}
	got := sha256.Sum256([]byte(token)) // of one length, whatever it is compared with
	if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], credential[:]) == 1 {
		next.ServeHTTP(w, r)
		return
	}
	challenge := `Bearer realm="operator"`
	if r.Header.Get("Authorization") != "" { // not without an attempt (RFC 6750, Section 3.1)
		challenge += `, error="invalid_token"`
	}
	s.log.WarnContext(r.Context(), "refused to somebody who is not the operator", "method", r.Method, "remote_addr", r.RemoteAddr)
	w.Header().Set("WWW-Authenticate", challenge)
	writeAdminError(w, http.StatusUnauthorized, "invalid_token", "Send the operator's token in the header Authorization: Bearer …")
}

// adminError is the body of every error.
type adminError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func writeAdminError(w http.ResponseWriter, status int, name, description string) {
	writeJSON(w, status, adminError{name, description})
}

func methodNotAllowed(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", allow)
		writeAdminError(w, http.StatusMethodNotAllowed, "method_not_allowed", "The methods are "+allow+".")
	}
}

// adminConsent is a consent as the operator sees it, without what the host and the gate keep
// with it for themselves.
type adminConsent struct {
	ConsentID        fositeconsent.ID `json:"consent_id"`
	Subject          string           `json:"subject"`
	ClientID         string           `json:"client_id"`
	LoginSession     string           `json:"login_session,omitempty"`
	Scopes           []string         `json:"scopes"`
	RememberedScopes []string         `json:"remembered_scopes"`
	Audience         []string         `json:"audience"`
	ResponseTypes    []string         `json:"response_types"`
	Details          []string         `json:"details"`
	Remembered       bool             `json:"remembered"`
	DecidedAt        time.Time        `json:"decided_at"`
	LastUsedAt       time.Time        `json:"last_used_at"`
	ExpiresAt        time.Time        `json:"expires_at,omitzero"`
}

// adminConsents is a page of them.
type adminConsents struct {
	Consents []adminConsent    `json:"consents"`
	Next     *fositeconsent.ID `json:"next,omitempty"` // not on the last page
}

// adminList shows which consents are live.
func (s *server) adminList(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	query, selection, err := adminSelection(r, listParams)
	var before fositeconsent.ID
	limit := defaultLimit
	if err == nil {
		before, err = idParam(query, paramBefore)
	}
	if text := query.Get(paramLimit); err == nil && text != "" {
		limit, err = strconv.Atoi(text)
		if err != nil || limit < 1 || limit > maxLimit || strconv.Itoa(limit) != text {
			err = fmt.Errorf("%s: expected a number from 1 to %d", paramLimit, maxLimit)
		}
	}
	if err != nil {
		writeAdminError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	consents, err := s.gate.ListConsents(ctx, selection, before, limit+1)
	if err != nil {
		s.log.ErrorContext(ctx, "consents could not be listed for the operator", "error", err)
		adminUnavailable(w, "The consents could not be read. Please try again.")
		return
	}
	var list adminConsents
	if len(consents) > limit {
		consents = consents[:limit]
		list.Next = &consents[limit-1].ID
	}
	list.Consents = make([]adminConsent, 0, len(consents)) // never null
	for _, c := range consents {
		list.Consents = append(list.Consents, adminConsent{
			ConsentID: c.ID, Subject: c.Subject, ClientID: c.ClientID, LoginSession: c.LoginSession,
			Scopes: notNull(c.Scopes), RememberedScopes: notNull(c.RememberedScopes), Audience: notNull(c.Audience), ResponseTypes: notNull(c.ResponseTypes), Details: notNull(c.Details),
			Remembered: c.Remembered, DecidedAt: c.DecidedAt.UTC(), LastUsedAt: c.LastUsedAt.UTC(), ExpiresAt: c.ExpiresAt.UTC(),
		})
	}
	writeJSON(w, http.StatusOK, list)
}

func notNull(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// adminRevoke takes consents back, and all that was issued under them.
func (s *server) adminRevoke(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	_, selection, err := adminSelection(r, revokeParams)
	if err != nil {
		writeAdminError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	log := s.log.With("subject", selection.Subject, "client_id", selection.ClientID, "login_session", selection.LoginSession, "remote_addr", r.RemoteAddr)
	if !selection.ConsentID.IsZero() {
		log = log.With("consent_id", selection.ConsentID.String())
	}
	ended, err := s.gate.Revoke(ctx, selection)
	if err != nil {
		log.ErrorContext(ctx, "the operator's revocation failed", "consents", ended, "error", err)
		adminUnavailable(w, "It is not known whether all was revoked. Repeat the request until it succeeds: until then, tokens may be good.")
		return
	}
	log.InfoContext(ctx, "revoked by the operator", "consents", ended)
	writeJSON(w, http.StatusOK, map[string]int{"revoked": ended})
}

func adminUnavailable(w http.ResponseWriter, description string) {
	w.Header().Set("Retry-After", "5")
	writeAdminError(w, http.StatusServiceUnavailable, "temporarily_unavailable", description)
}

// adminQuery reads the parameters of a request. Whatever is not understood is refused and never
// passed over: without it, more would be meant.
func adminQuery(r *http.Request, names []string) (url.Values, error) {
	if r.ContentLength != 0 {
		return nil, errors.New("the request has a body: send all parameters in the query")
	}
	query, err := url.ParseQuery(r.URL.RawQuery) // which says what URL.Query would leave out
	if err != nil {
		return nil, errors.New("the query is malformed: encode each parameter's value, for instance with curl -G --data-urlencode")
	}
	for name, values := range query {
		switch {
		case !slices.Contains(names, name):
			return nil, fmt.Errorf("there is no parameter %q: expected %s", name, strings.Join(names, ", "))
		case len(values) != 1:
			return nil, fmt.Errorf("%s is there more than once", name)
		case values[0] == "":
			return nil, fmt.Errorf("%s is empty", name)
		case !utf8.ValidString(values[0]) || strings.ContainsRune(values[0], 0):
			return nil, fmt.Errorf("%s is no text: expected UTF-8 without a NUL", name)
		}
	}
	return query, nil
}

// adminSelection reads which consents a request is about.
func adminSelection(r *http.Request, names []string) (url.Values, fositeconsent.Selection, error) {
	var none fositeconsent.Selection
	query, err := adminQuery(r, names)
	if err != nil {
		return nil, none, err
	}
	if !query.Has(paramSubject) && !query.Has(paramClientID) {
		return nil, none, fmt.Errorf("set %s or %s, or both: which consents are meant?", paramSubject, paramClientID)
	}
	id, err := idParam(query, paramConsentID)
	return query, fositeconsent.Selection{
		Subject: query.Get(paramSubject), EverySubject: !query.Has(paramSubject), // the operator may mean everybody
		ClientID: query.Get(paramClientID), ConsentID: id, LoginSession: query.Get(paramLoginSession),
	}, err
}

// idParam returns a consent's ID, the zero one only if the parameter is not there.
func idParam(query url.Values, name string) (fositeconsent.ID, error) {
	if !query.Has(name) {
		return fositeconsent.ID{}, nil
	}
	id, err := fositeconsent.ParseID(query.Get(name))
	if err != nil || id.IsZero() {
		return id, fmt.Errorf("%s: expected a consent_id from the list", name)
	}
	return id, nil
}
