package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// login is one sign-in of a user, from the password to the sign-out.
type login struct {
	username  string    // the subject
	sessionID string    // random, not the cookie's value
	at        time.Time // when the password was checked

	confirmed confirmedLogin // what the login application has said of it, if there is one
}

// What the session holds.
const (
	sessionUsername    = "username"
	sessionLoginID     = "login_id"
	sessionAuthTime    = "auth_time"    // microseconds
	sessionCredential  = "credential"   // credential when the password was checked
	sessionLoginUntil  = "login_until"  // microseconds, if the login ends before the session
	sessionFreshLogins = "fresh_logins" // JSON of []freshLogin
)

type loginKey struct{}

func withLogin(ctx context.Context, l *login) context.Context {
	return context.WithValue(ctx, loginKey{}, l)
}

// loginFrom returns the login of the request, nil if nobody is signed in.
func loginFrom(ctx context.Context) *login {
	l, _ := ctx.Value(loginKey{}).(*login)
	return l
}

// loginSession is the gate's Config.LoginSession.
func loginSession(ctx context.Context, _ fosite.Session) (string, error) {
	if l := loginFrom(ctx); l != nil {
		return l.sessionID, nil
	}
	return "", errors.New("nobody is signed in")
}

// readLogin returns the login that the session holds, nil if there is none.
func (s *server) readLogin(ctx context.Context) *login {
	at, err := strconv.ParseInt(s.sessions.GetString(ctx, sessionAuthTime), 10, 64)
	if err != nil {
		return nil
	}
	l := &login{
		username:  s.sessions.GetString(ctx, sessionUsername),
		sessionID: s.sessions.GetString(ctx, sessionLoginID),
		at:        time.UnixMicro(at).UTC(),
	}
	if text := s.sessions.GetString(ctx, sessionLoginUntil); text != "" {
		if until, err := strconv.ParseInt(text, 10, 64); err != nil || until <= time.Now().UnixMicro() {
			return nil
		}
	}
	credential := s.credential(l.username)
	if l.username == "" || l.sessionID == "" || credential == "" || s.sessions.GetString(ctx, sessionCredential) != credential {
		return nil
	}
	return l
}

// credential returns what a login is good for no longer than it is the same, "" for a user that there is not.
func (s *server) credential(username string) string {
	if s.logins != nil {
		return credentialElsewhere
	}
	return s.users.credential(username)
}

// A request with prompt=login, prompt=select_account or max_age may need a new
// login although somebody is signed in (OpenID Connect Core 1.0, Section 3.1.2.1),
// once. To tell before from after, the session remembers when such a request was
// first seen.
type freshLogin struct {
	Request string `json:"request"` // requestKey
	Seen    int64  `json:"seen"`    // microseconds
}

const (
	maxFreshLogins      = 16
	freshLoginRetention = time.Hour
)

// requestKey names an authorization request in the session.
func requestKey(query string) string {
	sum := sha256.Sum256([]byte(query))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (s *server) freshLogins(ctx context.Context) []freshLogin {
	var list []freshLogin
	if text := s.sessions.GetString(ctx, sessionFreshLogins); text != "" {
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil // then the login is asked for once more
		}
	}
	return slices.DeleteFunc(list, func(f freshLogin) bool {
		return time.Since(time.UnixMicro(f.Seen)) > freshLoginRetention
	})
}

func (s *server) setFreshLogins(ctx context.Context, list []freshLogin) {
	if over := len(list) - maxFreshLogins; over > 0 {
		list = list[over:]
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err) // there is nothing in it that can fail
	}
	s.sessions.Put(ctx, sessionFreshLogins, string(text))
}

// firstSeen returns when the request was first seen, if that is known.
func (s *server) firstSeen(ctx context.Context, query string) (time.Time, bool) {
	key := requestKey(query)
	for _, f := range s.freshLogins(ctx) {
		if f.Request == key {
			return time.UnixMicro(f.Seen).UTC(), true
		}
	}
	return time.Time{}, false
}

// rememberRequest notes that the request was seen now.
func (s *server) rememberRequest(ctx context.Context, query string) {
	s.setFreshLogins(ctx, append(s.freshLogins(ctx), freshLogin{requestKey(query), time.Now().UnixMicro()}))
}

// forgetRequest is called when the request is answered: the same one needs a new
// login when it comes again.
func (s *server) forgetRequest(ctx context.Context, query string) {
	if s.logins != nil {
		s.forgetConfirmed(ctx, query)
	}
	key := requestKey(query)
	list := s.freshLogins(ctx)
	rest := slices.DeleteFunc(slices.Clone(list), func(f freshLogin) bool { return f.Request == key })
	if len(rest) != len(list) {
		s.setFreshLogins(ctx, rest)
	}
}

// standing is what a login is worth for an authorization request.
type standing struct {
	session  *tokenSession // of the user, without a subject if nobody is signed in
	signIn   bool          // the password has to be asked for first
	remember bool          // rememberRequest has to be called before that
}

// stand compares the login with what the request asks of it.
func (s *server) stand(ctx context.Context, form url.Values, query string) standing {
	now := time.Now().UTC()
	l := loginFrom(ctx)
	seen, known := s.firstSeen(ctx, query)
	fresh, maxAge := loginDemand(form)

	var st standing
	switch {
	case l == nil:
		st.signIn = true
	case fresh || (maxAge > 0 && now.Sub(l.at) > maxAge):
		st.signIn = !known || l.at.Before(seen)
	}
	st.remember = st.signIn && !known && (fresh || maxAge > 0)

	requestedAt := now
	if known {
		requestedAt = seen
	}
	st.session = newTokenSession() // the key's id is added to the headers when it signs
	st.session.Claims.RequestedAt, st.session.Claims.Extra = requestedAt, map[string]any{}
	if l != nil {
		st.session.Subject, st.session.Username = l.username, l.username
		st.session.Claims.Subject = l.username
		st.session.Claims.AuthTime = l.at
		st.session.Claims.AuthenticationContextClassReference, st.session.Claims.AuthenticationMethodsReferences = l.confirmed.ACR, l.confirmed.AMR
		if !known && l.at.After(requestedAt) { // signed in at a process whose clock is ahead
			st.session.Claims.RequestedAt = l.at
		}
	}
	return st
}

// loginDemand returns what the request asks of the login: that it be a new one, or
// how old it may be; 0 if it does not say. What max_age means is the gate's to
// check; here it only decides whether the password is asked for first.
func loginDemand(form url.Values) (fresh bool, maxAge time.Duration) {
	fresh = hasPrompt(form, "login") || hasPrompt(form, "select_account")
	seconds, err := strconv.ParseUint(form.Get("max_age"), 10, 31)
	if err != nil {
		return fresh, 0
	}
	if seconds == 0 {
		return true, 0
	}
	return fresh, time.Duration(seconds) * time.Second
}

// hasPrompt reports whether prompt, a list with spaces, has the value.
func hasPrompt(form url.Values, value string) bool {
	return slices.Contains(strings.Fields(form.Get("prompt")), value)
}

// loginPage is what login.html shows.
type loginPage struct {
	page
	AuthorizationRequest string
	Next                 string // where to go on, without an authorization request: nextApplications or ""
	Username             string
	Client               string // who sent the browser here
	Again                bool   // somebody is signed in, and the client wants it anew
	Failed               bool
	Demo                 *demoLogin
}

// nextApplications is the value of the login page's field next that leads to the applications.
const nextApplications = "applications"

// showLogin asks for the password in place of an answer to the authorization request.
func (s *server) showLogin(w http.ResponseWriter, r *http.Request, query, hint string) {
	p := loginPage{Username: hint}
	if l := loginFrom(r.Context()); l != nil {
		p.Again, p.Username = true, l.username
	}
	s.renderLogin(w, r, http.StatusOK, query, p)
}

func (s *server) renderLogin(w http.ResponseWriter, r *http.Request, status int, query string, p loginPage) {
	p.Title = "Sign in"
	p.AuthorizationRequest = query
	if params, err := url.ParseQuery(query); err == nil {
		if c, ok := s.clients[params.Get("client_id")]; ok {
			p.Client = c.displayName()
		}
	}
	if s.demo != nil {
		p.Demo = s.demo.login
	}
	setPolicy(w, loginPolicy)
	s.render(w, r, status, "login", p)
}

// getLogin is the page for those who come without an authorization request.
func (s *server) getLogin(w http.ResponseWriter, r *http.Request) {
	l := loginFrom(r.Context())
	if l == nil {
		s.askWhoIsThere(w, r, "")
		return
	}
	s.render(w, r, http.StatusOK, "account", struct {
		page
		Username     string
		Demo         bool
		Applications string
	}{page{Title: "Signed in"}, l.username, s.demo != nil, pathApplications})
}

// askWhoIsThere asks for the password of somebody who comes without an authorization request.
func (s *server) askWhoIsThere(w http.ResponseWriter, r *http.Request, next string) {
	if s.logins != nil {
		s.signInElsewhere(w, r)
		return
	}
	s.renderLogin(w, r, http.StatusOK, "", loginPage{Next: next})
}

// postLogin checks the password.
func (s *server) postLogin(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	form, err := postedForm(r, "username", "password", "authorization_request", "next")
	if err == nil && form.Has("next") && form.Get("next") != nextApplications {
		err = errors.New("it leads to nowhere")
	}
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	next := form.Get("next")
	query, err := returnQuery(form.Get("authorization_request"))
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	username := strings.TrimSpace(form.Get("username"))
	ok, err := s.users.authenticate(ctx, username, form.Get("password"))
	if err != nil {
		s.unavailable(w, r, "no turn to check a password", err)
		return
	}
	if !ok {
		s.log.InfoContext(ctx, "sign-in refused")
		s.renderLogin(w, r, http.StatusForbidden, query, loginPage{Next: next, Username: username, Failed: true})
		return
	}

	// A new token, so that one that somebody else has planted or seen is worth nothing
	// (session fixation).
	if err := s.sessions.RenewToken(ctx); err != nil {
		s.unavailable(w, r, "session could not be renewed", err)
		return
	}
	s.keepLogin(ctx, &login{username: username, sessionID: rand.Text(), at: s.signedInAt(ctx, query)}, loginLifetime)
	if err := s.saveSession(ctx, w); err != nil {
		s.unavailable(w, r, "session could not be stored", err)
		return
	}
	s.log.InfoContext(ctx, "signed in", "subject", username)
	to := returnPath(query)
	if query == "" && next == nextApplications {
		to = pathApplications
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// signedInAt is the time of a login that was made just now, for the request.
func (s *server) signedInAt(ctx context.Context, query string) time.Time {
	now := time.Now()
	if seen, known := s.firstSeen(ctx, query); known && now.Before(seen) { // noted by a process whose clock is ahead
		return seen
	}
	return now
}

// keepLogin has the browser signed in from now on, for loginLifetime at most.
func (s *server) keepLogin(ctx context.Context, l *login, lifetime time.Duration) {
	s.sessions.Put(ctx, sessionUsername, l.username)
	s.sessions.Put(ctx, sessionCredential, s.credential(l.username))
	s.sessions.Put(ctx, sessionLoginID, l.sessionID)
	s.sessions.Put(ctx, sessionAuthTime, strconv.FormatInt(l.at.UnixMicro(), 10))
	now := time.Now()
	s.sessions.SetDeadline(ctx, now.Add(loginLifetime))
	if lifetime < loginLifetime {
		s.sessions.Put(ctx, sessionLoginUntil, strconv.FormatInt(now.Add(lifetime).UnixMicro(), 10))
	} else {
		s.sessions.Remove(ctx, sessionLoginUntil)
	}
}

// postLogout ends the login, and goes on with the authorization request for
// somebody else ("not you?").
func (s *server) postLogout(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	form, err := postedForm(r, "authorization_request")
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	query, err := returnQuery(form.Get("authorization_request"))
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	if err := s.sessions.Destroy(ctx); err != nil {
		s.unavailable(w, r, "session could not be ended", err)
		return
	}
	if err := s.saveSession(ctx, w); err != nil {
		s.unavailable(w, r, "session could not be ended", err)
		return
	}
	http.Redirect(w, r, returnPath(query), http.StatusSeeOther)
}

// returnQuery reads the authorization request that a form carries, and writes it anew.
func returnQuery(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	params, err := parseQuery(text)
	if err != nil {
		return "", err
	}
	return params.Encode(), nil
}

// returnPath is where the browser goes on after signing in or out: never anywhere
// but to this server's own endpoints.
func returnPath(query string) string {
	if query == "" {
		return pathLogin
	}
	return pathAuthorize + "?" + query
}
