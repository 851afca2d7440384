package loginapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/internal/exactjson"
)

// Path is that of Hydra's API for a login request. "/accept" and "/reject" are below it.
const Path = "/admin/oauth2/auth/requests/login"

// Sizes, in bytes. An answer is kept in the browser's session.
const (
	maxBody    = 64 << 10
	maxContext = 16 << 10
	maxText    = 1024
)

// Handler returns the internal API. The caller sees to it that nobody but the application gets there.
//
//	GET /admin/oauth2/auth/requests/login?login_challenge=
//	PUT /admin/oauth2/auth/requests/login/accept?login_challenge=
//	PUT /admin/oauth2/auth/requests/login/reject?login_challenge=
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET " + Path:             a.get,
		"PUT " + Path + "/accept": func(w http.ResponseWriter, r *http.Request) error { return a.decide(w, r, parseAccept) },
		"PUT " + Path + "/reject": func(w http.ResponseWriter, r *http.Request) error { return a.decide(w, r, parseReject) },
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := serve(w, r); err != nil {
				a.writeError(w, r, err)
			}
		})
	}
	return mux
}

// apiError is what the application is told, in Hydra's shape.
type apiError struct {
	Name        string `json:"error"`
	Description string `json:"error_description"`
	Status      int    `json:"status_code"`
	RedirectTo  string `json:"redirect_to,omitempty"`
}

func (e *apiError) Error() string { return e.Description }

func badRequest(err error) error {
	return &apiError{Name: "invalid_request", Description: "The request is invalid: " + err.Error() + ".", Status: http.StatusBadRequest}
}

func (a *API) writeError(w http.ResponseWriter, r *http.Request, err error) {
	var known *apiError
	if !errors.As(err, &known) {
		a.config.Logger.ErrorContext(r.Context(), "login API", "error", err)
		known = &apiError{Name: "server_error", Description: "The authorization server failed. What became of the call is not known: repeat it.", Status: http.StatusInternalServerError}
	}
	writeJSON(w, known.Status, known)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who is gone need not be told
}

// requested returns the request of the challenge that is in the address.
func (a *API) requested(r *http.Request) (challenge, id string, request *Request, s state, err error) {
	values := r.URL.Query()["login_challenge"]
	if len(values) != 1 || values[0] == "" {
		return "", "", nil, "", badRequest(errors.New("expected the parameter login_challenge, once"))
	}
	id, ok := a.idOf(kindChallenge, values[0])
	if ok {
		request, s, err = a.find(r.Context(), id)
	}
	if err == nil && request == nil {
		err = &apiError{Name: "not_found", Description: "There is no login request with this login_challenge.", Status: http.StatusNotFound}
	}
	return values[0], id, request, s, err
}

// requestJSON is Hydra's object for a login request.
type requestJSON struct {
	Challenge      string             `json:"challenge"`
	RequestedScope []string           `json:"requested_scope"`
	RequestedAud   []string           `json:"requested_access_token_audience"`
	Skip           bool               `json:"skip"`
	Subject        string             `json:"subject"`
	OIDCContext    oidcContext        `json:"oidc_context"`
	Client         *consentapi.Client `json:"client"`
	RequestURL     string             `json:"request_url"`
	SessionID      string             `json:"session_id"`
}

type oidcContext struct {
	ACRValues []string `json:"acr_values,omitempty"`
	Display   string   `json:"display,omitempty"`
	LoginHint string   `json:"login_hint,omitempty"`
	UILocales []string `json:"ui_locales,omitempty"`
}

func (a *API) get(w http.ResponseWriter, r *http.Request) error {
	challenge, _, request, s, err := a.requested(r)
	if err != nil {
		return err
	}
	if s != statePending {
		// Also if the answer is still on its way: the challenge may be another browser's, in which somebody was sent to the
		// page of the application with it, to sign in for that one. The way back is for who has given the answer.
		return a.gone(request, s)
	}
	writeJSON(w, http.StatusOK, requestJSON{
		Challenge: challenge, RequestedScope: notNil(request.Scopes), RequestedAud: notNil(request.Audience), Skip: request.Skip, Subject: request.Subject,
		OIDCContext: oidcContext{request.ACRValues, request.Display, request.LoginHint, request.UILocales},
		Client:      request.Client, RequestURL: a.again(request), SessionID: request.SessionID,
	})
	return nil
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// again is where the authorization request is made once more.
func (a *API) again(request *Request) string { return a.config.AuthorizationURL + "?" + request.Query }

func (a *API) gone(request *Request, s state) error {
	return &apiError{"gone", fmt.Sprintf("The login request is %s. At redirect_to the browser makes the authorization request again.", s), http.StatusGone, a.again(request)}
}

// decide takes an answer, and says where the browser goes with it.
func (a *API) decide(w http.ResponseWriter, r *http.Request, parse func([]byte) (*Answer, error)) error {
	_, id, request, _, err := a.requested(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return badRequest(fmt.Errorf("the body could not be read, or is larger than %d bytes", maxBody))
	}
	answer, err := parse(body)
	if err != nil {
		return badRequest(err)
	}
	if answer.Rejection == nil && request.Skip && answer.Subject != request.Subject {
		return badRequest(errors.New("subject is not who is signed in: with skip the login can be confirmed, or rejected"))
	}
	same, s, err := a.answer(r.Context(), id, answer)
	switch {
	case err != nil:
		return err
	case s == stateExpired:
		return a.gone(request, s)
	case !same:
		return &apiError{Name: "conflict", Description: "The login request was answered differently before, and that stands.", Status: http.StatusConflict}
	}
	to, err := at(a.config.ResumeURL, "login_verifier", a.handle(kindVerifier, id))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"redirect_to": to})
	return nil
}

// acceptJSON is Hydra's.
type acceptJSON struct {
	Subject     string          `json:"subject"`
	Remember    bool            `json:"remember"`
	RememberFor int64           `json:"remember_for"`
	Extend      bool            `json:"extend_session_lifespan"`
	ACR         string          `json:"acr"`
	AMR         []string        `json:"amr"`
	Context     json.RawMessage `json:"context"`
	// For pairwise subjects, which this server does not have.
	ForceSubject string `json:"force_subject_identifier"`
	// For the logout at the application, which this server has no part in.
	ProviderSession string `json:"identity_provider_session_id"`
}

func parseAccept(body []byte) (*Answer, error) {
	var j acceptJSON
	if err := object(body, &j, "subject", "remember", "remember_for", "extend_session_lifespan", "acr", "amr", "context", "force_subject_identifier", "identity_provider_session_id"); err != nil {
		return nil, err
	}
	switch {
	case !isSubject(j.Subject):
		return nil, errors.New("expected a subject of 1 to 255 printable ASCII characters (OpenID Connect Core 1.0, Section 2)")
	case j.ForceSubject != "" && j.ForceSubject != j.Subject:
		return nil, errors.New("force_subject_identifier is another one than subject, and there are no pairwise subjects here")
	case j.RememberFor < 0 || j.RememberFor > int64(math.MaxInt64/time.Second):
		return nil, errors.New("remember_for is not a number of seconds of 0 or more that can be kept")
	case len(j.ACR) > maxText || len(strings.Join(j.AMR, " ")) > maxText:
		return nil, fmt.Errorf("acr or amr is longer than %d bytes", maxText)
	case len(j.Context) > maxContext:
		return nil, fmt.Errorf("context is longer than %d bytes", maxContext)
	}
	data, err := canonical(j.Context)
	if err != nil {
		return nil, err
	}
	return &Answer{Subject: j.Subject, Remember: j.Remember, RememberFor: j.RememberFor, Extend: j.Extend, ACR: j.ACR, AMR: j.AMR, Context: data}, nil
}

// canonical writes JSON so that two answers that are the same are the same text. What is null is nothing.
func canonical(text json.RawMessage) (json.RawMessage, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var value any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // as it was written, whatever its size
	if err := dec.Decode(&value); err != nil || value == nil {
		return nil, err
	}
	return json.Marshal(value)
}

func isSubject(s string) bool {
	return len(s) > 0 && len(s) <= 255 && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// rejectJSON is Hydra's.
type rejectJSON struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Hint        string `json:"error_hint"`
	Debug       string `json:"error_debug"` // for Hydra's log
	Status      int    `json:"status_code"` // for where there is no redirect, as there always is here
}

func parseReject(body []byte) (*Answer, error) {
	var j rejectJSON
	if len(bytes.TrimSpace(body)) > 0 {
		if err := object(body, &j, "error", "error_description", "error_hint", "error_debug", "status_code"); err != nil {
			return nil, err
		}
	}
	if j.Error == "" {
		j.Error = "access_denied"
	}
	if max(len(j.Error), len(j.Description), len(j.Hint)) > maxText {
		return nil, fmt.Errorf("error, error_description and error_hint may have %d bytes each", maxText)
	}
	if strings.ContainsFunc(j.Error, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
		return nil, errors.New("error has a character that RFC 6749, Section 4.1.2.1 does not allow")
	}
	return &Answer{Rejection: &Rejection{j.Error, j.Description, j.Hint}}, nil
}

// object reads a body that is one JSON object with none but these members. A NUL is not for whoever gets the texts.
func object(body []byte, to any, members ...string) error {
	if bytes.Contains(body, []byte(`\u0000`)) {
		return errors.New("the body has a NUL")
	}
	if _, err := exactjson.Object(body, members...); err != nil {
		return err
	}
	if err := json.Unmarshal(body, to); err != nil {
		return errors.New("the body is not the JSON object that was expected: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
