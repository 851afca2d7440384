// Package loginapi is the login part of Ory Hydra's admin API, for this example server: the pages on which users sign in
// are an application's, elsewhere, that was written for Hydra. Login is not the library's business, so this is not in it.
//
// The authorization endpoint sends the browser to the application with a login_challenge ([API.Send]). The application asks
// the internal API who wants what ([API.Handler]), and says who the user is, or that nobody signs in. The
// browser comes back with a login_verifier ([API.Resume]), which counts once, and only in the browser that was sent.
package loginapi

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// Config is what an API needs to know of its server. All of it is required but Secure.
type Config struct {
	LoginURL         string // the page of the login application
	ResumeURL        string // where the browser comes back to, on the server
	AuthorizationURL string // where an authorization request is made again
	Secret           []byte // handles are made with a key derived from it
	Lifespan         time.Duration
	Secure           bool // the server is on https
	Logger           *slog.Logger
}

// API keeps login requests and answers for them. It is safe for concurrent use.
type API struct {
	pool   *pgxpool.Pool
	config Config
	key    []byte
}

// New returns the API of a server whose database has the tables of [Schema].
func New(pool *pgxpool.Pool, config Config) (*API, error) {
	key, err := hkdf.Key(sha256.New, config.Secret, nil, "example-server/login-handles", sha256.Size)
	if err != nil {
		return nil, err
	}
	return &API{pool: pool, config: config, key: key}, nil
}

// Request is what the application is told.
type Request struct {
	Query     string             `json:"query"` // of the authorization request, by which it is made again
	Client    *consentapi.Client `json:"client"`
	Scopes    []string           `json:"scopes"`
	Audience  []string           `json:"audience"`
	ACRValues []string           `json:"acr_values,omitempty"`
	Display   string             `json:"display,omitempty"`
	LoginHint string             `json:"login_hint,omitempty"`
	UILocales []string           `json:"ui_locales,omitempty"`

	// Subject is who is signed in already, for whom Skip asks no password: the application only confirms. "" if nobody is.
	Subject string `json:"subject,omitempty"`
	Skip    bool   `json:"skip,omitempty"`
	// SessionID is that of the login that there is, or will be.
	SessionID string `json:"session_id"`
}

// Answer is what the application has said.
type Answer struct {
	Subject     string          `json:"subject,omitempty"`
	Remember    bool            `json:"remember,omitempty"`     // for other requests, too
	RememberFor int64           `json:"remember_for,omitempty"` // seconds, 0 is as long as the server does
	Extend      bool            `json:"extend,omitempty"`       // RememberFor begins anew for a login that there was
	ACR         string          `json:"acr,omitempty"`
	AMR         []string        `json:"amr,omitempty"`
	Context     json.RawMessage `json:"context,omitempty"` // for the consent application

	Rejection *Rejection `json:"rejection,omitempty"` // nil: accepted
}

// Rejection is what the client is told (RFC 6749, Section 4.1.2.1).
type Rejection struct {
	Error       string `json:"error"`
	Description string `json:"description,omitempty"`
	Hint        string `json:"hint,omitempty"`
}

// Resumed is an answer that the browser has brought back.
type Resumed struct {
	Request   Request
	Answer    *Answer
	Challenge string
}

// The handles are the request's id and a code by which the server knows that it has made them, for this one purpose: whoever reads the
// database cannot make any.
const (
	kindChallenge = "challenge" // the application's
	kindVerifier  = "verifier"  // that of the browser on its way back
	kindBrowser   = "browser"   // the cookie's

	idSize = 26 // rand.Text
)

var codeSize = base64.RawURLEncoding.EncodedLen(sha256.Size)

func (a *API) handle(kind, id string) string {
	mac := hmac.New(sha256.New, a.key)
	_, _ = mac.Write([]byte(kind + "\x00" + id))
	return id + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// idOf returns the request's id, if the handle is one of ours and of this kind.
func (a *API) idOf(kind, handle string) (id string, ok bool) {
	if len(handle) != idSize+codeSize {
		return "", false
	}
	id = handle[:idSize]
	return id, hmac.Equal([]byte(handle), []byte(a.handle(kind, id)))
}

// at returns the address with one more parameter.
func at(address, name, value string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// maxCookies is how many logins a browser can have under way. Of more, the oldest cannot be finished.
const maxCookies = 8

func (a *API) cookiePrefix() string {
	if a.config.Secure {
		return "__Host-login-" // RFC 6265bis, Section 4.1.3.2
	}
	return "login-"
}

// timed puts the time first, so that the names of cookies are in the order of the requests.
func timed(id string, now time.Time) string {
	return now.UTC().Format("20060102T150405.000") + "-" + id
}

func (a *API) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever the server is on https
		Name: name, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: a.config.Secure,
		SameSite: http.SameSiteLaxMode, // it has to come along when the application redirects back
	})
}

// cookies returns the names of the browser's cookies, of which the last one is the newest.
func (a *API) cookies(r *http.Request) []string {
	var names []string
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, a.cookiePrefix()) {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Send stores the request and sends the browser to the application. After an error nothing has been written.
func (a *API) Send(w http.ResponseWriter, r *http.Request, request *Request) error {
	id := rand.Text()
	if err := a.create(r.Context(), id, request); err != nil {
		return err
	}
	to, err := at(a.config.LoginURL, "login_challenge", a.handle(kindChallenge, id))
	if err != nil {
		return err
	}
	names := a.cookies(r)
	for _, name := range names[:max(0, len(names)-maxCookies+1)] {
		a.setCookie(w, name, "", -1)
	}
	a.setCookie(w, a.cookiePrefix()+timed(id, time.Now()), a.handle(kindBrowser, id), int(a.config.Lifespan/time.Second))
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// Errors of Resume.
var (
	// ErrForeign: it is no GET with a verifier of ours, or this is not the browser that was sent to the application, or the request is gone.
	ErrForeign = errors.New("no answer of a login application for this browser")
	// ErrEnded: the answer was used before, or has come too late. The request's Query leads on.
	ErrEnded = errors.New("the answer of the login application was used before, or comes too late")
)

// Resume uses the answer that the browser brings back, once, with a GET. With ErrEnded only the Request is set.
func (a *API) Resume(r *http.Request) (*Resumed, error) {
	values := r.URL.Query()["login_verifier"]
	if len(values) != 1 || r.Method != http.MethodGet { // whoever sends a HEAD looks first, and comes again
		return nil, ErrForeign
	}
	id, ok := a.idOf(kindVerifier, values[0])
	if !ok {
		return nil, ErrForeign
	}
	own := slices.IndexFunc(r.Cookies(), func(c *http.Cookie) bool {
		return strings.HasPrefix(c.Name, a.cookiePrefix()) && hmac.Equal([]byte(c.Value), []byte(a.handle(kindBrowser, id)))
	})
	if own < 0 {
		return nil, ErrForeign
	}
	request, answer, err := a.use(r.Context(), id)
	switch {
	case err != nil:
		return nil, err
	case request == nil:
		return nil, ErrForeign
	case answer == nil:
		return &Resumed{Request: *request}, ErrEnded
	}
	return &Resumed{Request: *request, Answer: answer, Challenge: a.handle(kindChallenge, id)}, nil
}
