package consentapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The routes of Hydra's API that there are here.
const (
	pathRequest  = "/admin/oauth2/auth/requests/consent"
	pathAccept   = pathRequest + "/accept"
	pathReject   = pathRequest + "/reject"
	pathSessions = "/admin/oauth2/auth/sessions/consent"
)

// Handler returns the internal API, to be served on a listener of its own that no browser reaches: whoever can call it decides for
// everybody. It has these routes of Hydra's admin API, and no other:
//
//	GET    /admin/oauth2/auth/requests/consent?consent_challenge=
//	PUT    /admin/oauth2/auth/requests/consent/accept?consent_challenge=
//	PUT    /admin/oauth2/auth/requests/consent/reject?consent_challenge=
//	GET    /admin/oauth2/auth/sessions/consent?subject=&login_session_id=&page_size=&page_token=
//	DELETE /admin/oauth2/auth/sessions/consent?subject=&client=&all=&login_session_id=&consent_request_id=
//
// What a page of another site has a browser send is refused, [Config.Authenticate] or not. Without Authenticate a loopback address
// is served only under the name localhost, or that address. The host sets the timeouts of its http.Server.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET " + pathRequest:     a.getRequest,
		"PUT " + pathAccept:      a.accept,
		"PUT " + pathReject:      a.reject,
		"GET " + pathSessions:    a.listSessions,
		"DELETE " + pathSessions: a.revokeSessions,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := serve(w, r); err != nil {
				a.writeError(w, r, err)
			}
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		// Applications are servers. What a page has a browser send to another origin, or to localhost, says where it is from.
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			a.writeError(w, r, &apiError{http.StatusForbidden, "forbidden", "The request was sent by a browser. This API is for servers."})
			return
		}
		if a.config.Authenticate == nil && isRebound(r) {
			a.writeError(w, r, &apiError{http.StatusForbidden, "forbidden", "The request came to a loopback address under another name than localhost, as one that a browser was led astray with. Use localhost, or set Config.Authenticate."})
			return
		}
		if a.config.Authenticate != nil {
			if err := a.config.Authenticate(r); err != nil {
				h.Set("WWW-Authenticate", "Bearer")
				a.writeError(w, r, &apiError{http.StatusUnauthorized, "request_unauthorized", "The request could not be authorized."})
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	})
}

// isRebound reports whether the request came to a loopback address by a name that is none of it. A page can have its own name lead there
// (DNS rebinding), and a browser takes that for the page's own server: with a GET to it over http it sends neither Origin nor Sec-Fetch-Site.
func isRebound(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	host := (&url.URL{Host: r.Host}).Hostname()
	return ok && local.IP.IsLoopback() && !isLoopback(strings.ToLower(host))
}

// BearerToken returns a function for [Config.Authenticate] that lets in who sends the token (RFC 6750, Section 2.1). It compares
// in constant time. With less than 32 bytes it lets nobody in.
func BearerToken(token string) func(*http.Request) error {
	want := sha256.Sum256([]byte(token))
	return func(r *http.Request) error {
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		hash := sha256.Sum256([]byte(got))
		if subtle.ConstantTimeCompare(hash[:], want[:]) != 1 || !strings.EqualFold(scheme, "Bearer") || len(token) < minSecretSize {
			return errors.New("consentapi: no valid bearer token")
		}
		return nil
	}
}

// apiError is what the application is told, in Hydra's shape.
type apiError struct {
	status            int
	name, description string
}

func (e *apiError) Error() string { return "consentapi: " + e.description }

// badRequest is for what the application did wrong. The text goes to it.
func badRequest(err error) error {
	return &apiError{http.StatusBadRequest, "invalid_request", "The request is invalid: " + err.Error() + "."}
}

func badRequestf(format string, args ...any) error { return badRequest(fmt.Errorf(format, args...)) }

var errNotFound = &apiError{http.StatusNotFound, "not_found", "There is no consent request with this consent_challenge."}

// goneError is about a request that cannot be answered any more, and has the way on.
type goneError struct{ redirectTo, description string }

func (e *goneError) Error() string { return "consentapi: " + e.description }

type errorJSON struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	StatusCode  int    `json:"status_code"`
	RedirectTo  string `json:"redirect_to,omitempty"`
}

func (a *API) writeError(w http.ResponseWriter, r *http.Request, err error) {
	answer := errorJSON{"server_error", "The authorization server failed. What became of the call is not known: repeat it.", http.StatusInternalServerError, ""}
	var known *apiError
	var gone *goneError
	switch {
	case errors.As(err, &known):
		answer = errorJSON{known.name, known.description, known.status, ""}
	case errors.As(err, &gone):
		answer = errorJSON{"gone", gone.description, http.StatusGone, gone.redirectTo}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		answer.Error, answer.StatusCode = "temporarily_unavailable", http.StatusServiceUnavailable
	}
	if answer.StatusCode >= http.StatusInternalServerError {
		a.config.Logger.ErrorContext(r.Context(), "consent API", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	writeJSON(w, answer.StatusCode, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who is gone need not be told
}

// single returns a parameter that may be there once, "" if it is not. A query that cannot be read as a whole is an error: of a
// parameter that was dropped, nobody knew that it narrows what is asked for.
func single(r *http.Request, name string) (string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", badRequestf("the parameters are not well-formed")
	}
	switch values := query[name]; len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", badRequestf("the parameter %s is there more than once", name)
	}
}

// challenge reads the handle.
func (a *API) challenge(r *http.Request) (text string, id fositeconsent.ID, hash Hash, err error) {
	text, err = single(r, "consent_challenge")
	if err != nil {
		return "", id, hash, err
	}
	if text == "" {
		return "", id, hash, badRequestf("the parameter consent_challenge is missing")
	}
	id, s, err := parseHandle(challengePrefix, text)
	if err != nil {
		return "", id, hash, errNotFound // which no handle of this text is
	}
	return text, id, s.hash(), nil
}

// find returns the consent request of the handle.
func (a *API) find(r *http.Request) (text string, request *Request, d *document, err error) {
	text, id, hash, err := a.challenge(r)
	if err != nil {
		return "", nil, nil, err
	}
	request, err = a.storage.FindConsentRequest(r.Context(), id, hash)
	switch {
	case errors.Is(err, ErrRequestNotFound):
		return "", nil, nil, errNotFound
	case err != nil:
		return "", nil, nil, fmt.Errorf("%w: %w", fositeconsent.ErrStorage, err)
	case request == nil || request.ID != id || request.Challenge != hash:
		return "", nil, nil, fmt.Errorf("%w: FindConsentRequest returned another request than was asked for", fositeconsent.ErrStorage)
	}
	d, err = request.document()
	return text, request, d, err
}

// requestJSON is Hydra's object for a consent request.
type requestJSON struct {
	Challenge        string          `json:"challenge"`
	ConsentRequestID string          `json:"consent_request_id"`
	Subject          string          `json:"subject"`
	Client           *Client         `json:"client"`
	RequestedScope   []string        `json:"requested_scope"`
	RequestedAud     []string        `json:"requested_access_token_audience"`
	Skip             bool            `json:"skip"`
	RequestURL       string          `json:"request_url,omitempty"`
	OIDCContext      *oidcContext    `json:"oidc_context,omitempty"`
	LoginChallenge   string          `json:"login_challenge,omitempty"`
	LoginSessionID   string          `json:"login_session_id,omitempty"`
	ACR              string          `json:"acr,omitempty"`
	AMR              []string        `json:"amr"`
	Context          json.RawMessage `json:"context,omitempty"`
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (a *API) getRequest(w http.ResponseWriter, r *http.Request) error {
	challenge, request, d, err := a.find(r)
	if err != nil {
		return err
	}
	switch request.State {
	case StatePending:
	case StateAccepted, StateRejected:
		if request.Answer == nil {
			return fmt.Errorf("%w: the consent request %s is %s and has no answer", fositeconsent.ErrStorage, request.ID, request.State)
		}
		// Not where the answer leads: the challenge may be another browser's, which has sent somebody else to the application's page with it. The way
		// back is for who has given the answer.
		return a.gone(request.State, d)
	case StateUsed, StateRevoked, StateExpired:
		return a.gone(request.State, d)
	default:
		return unknownState(request)
	}
	writeJSON(w, http.StatusOK, requestJSON{
		Challenge: challenge, ConsentRequestID: request.ID.String(), Subject: request.Subject, Client: d.Client,
		RequestedScope: notNil(d.Scopes), RequestedAud: notNil(d.Audience), Skip: d.Skip, RequestURL: a.restart(d.Query),
		OIDCContext: &d.OIDC, LoginChallenge: d.LoginChallenge, LoginSessionID: request.LoginSession, ACR: d.ACR, AMR: notNil(d.AMR), Context: d.Context,
	})
	return nil
}

func unknownState(request *Request) error {
	return fmt.Errorf("%w: the consent request %s is in the unknown state %q", fositeconsent.ErrStorage, request.ID, request.State)
}

func (a *API) gone(state State, d *document) error {
	return &goneError{a.restart(d.Query), fmt.Sprintf("The consent request is %s. At redirect_to the browser makes the authorization request again.", state)}
}

func (a *API) accept(w http.ResponseWriter, r *http.Request) error {
	return a.answer(w, r, parseAccept)
}

func (a *API) reject(w http.ResponseWriter, r *http.Request) error {
	return a.answer(w, r, parseReject)
}

// answer takes an answer, and says where the browser goes with it.
func (a *API) answer(w http.ResponseWriter, r *http.Request, parse func([]byte, *document) (*answerDocument, error)) error {
	ctx := r.Context()
	_, request, d, err := a.find(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &apiError{http.StatusRequestEntityTooLarge, "invalid_request", fmt.Sprintf("The body is larger than %d bytes.", tooLarge.Limit)}
	}
	if err != nil {
		return badRequestf("the body could not be read")
	}
	answer, err := parse(body, d)
	if err != nil {
		return badRequest(err)
	}
	if answer.Accepted {
		// What cannot be remembered is not: the resource owner is asked again, which takes nothing from anybody. Nor is what was skipped,
		// as in Hydra: nobody was asked for how long, and it would never end.
		answer.Remember = answer.Remember && d.Rememberable && !d.Skip
		if !answer.Remember {
			answer.RememberFor = 0
		}
		prompt := &fositeconsent.Prompt{Scopes: d.Scopes, Audience: d.Audience}
		if err := prompt.Check(answer.decision(a.config.RememberOfflineAccess)); err != nil {
			return badRequest(errors.New(strings.TrimPrefix(err.Error(), "fositeconsent: ")))
		}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	digest, err := answer.digest()
	if err != nil {
		return err
	}
	verifiers, err := a.verifiers(ctx, request.ID, digest)
	if err != nil {
		return err
	}
	given := &Answer{Accepted: answer.Accepted, Digest: digest, Verifier: verifiers[0].hash(), Document: text}
	answered, err := a.storage.AnswerConsentRequest(ctx, request.ID, request.Challenge, given)
	switch {
	case errors.Is(err, ErrRequestNotFound):
		return errNotFound
	case errors.Is(err, ErrRequestAnswered):
		return &apiError{http.StatusConflict, "conflict", "The consent request was answered differently before, and that stands."}
	case errors.Is(err, ErrRequestExpired):
		return a.gone(StateExpired, d)
	case err != nil:
		return fmt.Errorf("%w: %w", fositeconsent.ErrStorage, err)
	case answered == nil || answered.ID != request.ID || answered.Answer == nil || answered.Answer.Digest != digest || answered.Answer.Accepted != answer.Accepted:
		return fmt.Errorf("%w: AnswerConsentRequest returned another answer than was given", fositeconsent.ErrStorage)
	}
	verifier, err := a.verifierOf(ctx, answered)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"redirect_to": at(a.resumeURL, "consent_verifier", verifier)})
	return nil
}

// flag reads a parameter that is true or false, false if it is not there.
func flag(r *http.Request, name string) (bool, error) {
	text, err := single(r, name)
	if err != nil || text == "" {
		return false, err
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequestf("the parameter %s is neither true nor false", name)
	}
	return value, nil
}
