package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/example-server/loginapi"
)

// With a login application elsewhere, each authorization request is confirmed by it: where somebody is signed in, without a
// page (skip). What it says is kept for that request alone, and, if it has it remembered, as the browser's
// login, which is what the next request is confirmed for.

// loginRequestLifespan is how long a login may take.
const loginRequestLifespan = time.Hour

// newLoginAPI has users sign in at the application at -login-url.
func (s *server) newLoginAPI(pool *pgxpool.Pool) (*loginapi.API, error) {
	return loginapi.New(pool, loginapi.Config{
		LoginURL:         s.config.loginURL,
		ResumeURL:        s.issuer + pathLoginBack,
		AuthorizationURL: s.issuer + pathAuthorize,
		Secret:           s.keys.secret,
		Lifespan:         loginRequestLifespan,
		Secure:           isHTTPS(s.issuer),
		Logger:           s.log,
	})
}

// credentialElsewhere stands for the credential of a user whose password is none of ours.
const credentialElsewhere = "elsewhere"

// confirmedLogin is a login as the application has confirmed it for one authorization request.
type confirmedLogin struct {
	Request   string          `json:"request"` // requestKey
	Until     int64           `json:"until"`   // microseconds
	Username  string          `json:"username"`
	SessionID string          `json:"session_id"`
	At        int64           `json:"at"` // microseconds: when the user signed in, not when it was confirmed
	ACR       string          `json:"acr,omitempty"`
	AMR       []string        `json:"amr,omitempty"`
	Context   json.RawMessage `json:"context,omitempty"`
	Challenge string          `json:"challenge"`
}

// sessionConfirmed holds JSON of []confirmedLogin in the session.
const sessionConfirmed = "confirmed_logins"

// maxConfirmed is how many a session holds; the oldest have to be confirmed again.
const maxConfirmed = 8

func (s *server) confirmedLogins(ctx context.Context) []confirmedLogin {
	var list []confirmedLogin
	if text := s.sessions.GetString(ctx, sessionConfirmed); text != "" {
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil // then it is confirmed once more
		}
	}
	now := time.Now().UnixMicro()
	return slices.DeleteFunc(list, func(c confirmedLogin) bool { return c.Until <= now })
}

func (s *server) setConfirmedLogins(ctx context.Context, list []confirmedLogin) {
	text, err := json.Marshal(list[max(0, len(list)-maxConfirmed):])
	if err != nil {
		panic(err) // what the context of the application is, was parsed
	}
	s.sessions.Put(ctx, sessionConfirmed, string(text))
}

// withLoginFor has the request go on with the login that counts for this authorization request: the browser's; or, with a login
// application, what that has confirmed for it. Where no page may be shown (prompt=none), the browser's login has to do.
func (s *server) withLoginFor(r *http.Request, form url.Values, query string) *http.Request {
	if s.logins == nil {
		return r
	}
	ctx := r.Context()
	key := requestKey(query)
	for _, c := range s.confirmedLogins(ctx) {
		if c.Request == key {
			return r.WithContext(withLogin(ctx, &login{username: c.Username, sessionID: c.SessionID, at: time.UnixMicro(c.At).UTC(), confirmed: c}))
		}
	}
	if hasPrompt(form, "none") {
		return r
	}
	return r.WithContext(withLogin(ctx, nil))
}

// forgetConfirmed is forgetRequest for what the login application has confirmed.
func (s *server) forgetConfirmed(ctx context.Context, query string) {
	key := requestKey(query)
	list := s.confirmedLogins(ctx)
	if rest := slices.DeleteFunc(slices.Clone(list), func(c confirmedLogin) bool { return c.Request == key }); len(rest) != len(list) {
		s.setConfirmedLogins(ctx, rest)
	}
}

// sendToLogin sends the browser to the login application.
func (s *server) sendToLogin(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, query string) {
	ctx := r.Context()
	form := ar.GetRequestForm()
	request := &loginapi.Request{
		Query: query, Client: s.describeForPages(ar.GetClient()), Scopes: ar.GetRequestedScopes(), Audience: ar.GetRequestedAudience(),
		ACRValues: strings.Fields(form.Get("acr_values")), Display: form.Get("display"), LoginHint: form.Get("login_hint"), UILocales: strings.Fields(form.Get("ui_locales")),
		SessionID: rand.Text(),
	}
	fresh, maxAge := loginDemand(form)
	if l := s.readLogin(ctx); l != nil && !fresh && (maxAge == 0 || time.Since(l.at) <= maxAge) {
		request.Skip, request.Subject, request.SessionID = true, l.username, l.sessionID
	}
	if err := s.logins.Send(w, r, request); err != nil {
		s.unavailable(w, r, "login request could not be stored", err)
	}
}

// getLoginBack takes what the login application has said, and goes on with the authorization request.
func (s *server) getLoginBack(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	resumed, err := s.logins.Resume(r)
	switch {
	case errors.Is(err, loginapi.ErrEnded): // a reload, or too late: what was confirmed is in the session, or is asked for anew
		http.Redirect(w, r, returnPath(resumed.Request.Query), http.StatusSeeOther)
		return
	case errors.Is(err, loginapi.ErrForeign):
		s.log.WarnContext(ctx, "answer of a login application refused", "error", err)
		s.renderError(w, r, http.StatusForbidden, errorPage{
			Heading:     "This sign-in was not started here",
			Explanation: "This browser is not waiting for it, or has waited for too long. Nobody was signed in.",
			Advice:      "Go back to the application and start again.",
		})
		return
	case err != nil:
		s.unavailable(w, r, "answer of a login application could not be used", err)
		return
	}
	answer := resumed.Answer
	if answer.Rejection != nil {
		s.refuseLogin(w, r, resumed)
		return
	}
	l := &login{username: answer.Subject, sessionID: resumed.Request.SessionID, at: s.signedInAt(ctx, resumed.Request.Query)}
	known := s.readLogin(ctx)
	if resumed.Request.Skip { // a confirmation of the login that the browser had then, and of nothing else
		if known == nil || known.sessionID != resumed.Request.SessionID { // whose user the answer's is
			http.Redirect(w, r, returnPath(resumed.Request.Query), http.StatusSeeOther) // signed out meanwhile
			return
		}
		l.at = known.at
	} else {
		deadline := s.sessions.Deadline(ctx)
		if err := s.sessions.RenewToken(ctx); err != nil { // as in postLogin
			s.unavailable(w, r, "session could not be renewed", err)
			return
		}
		if known != nil { // who stays signed in if this is not remembered, and no longer than before
			s.sessions.SetDeadline(ctx, deadline)
		}
	}
	lifetime := loginLifetime
	if answer.RememberFor > 0 {
		lifetime = time.Duration(answer.RememberFor) * time.Second
	}
	if answer.Remember && (!resumed.Request.Skip || answer.Extend) {
		s.keepLogin(ctx, l, lifetime)
	}
	key := requestKey(resumed.Request.Query)
	// What was confirmed for somebody else, who has left it, is not for whoever is here now.
	others := slices.DeleteFunc(s.confirmedLogins(ctx), func(c confirmedLogin) bool { return c.Request == key || c.Username != l.username })
	s.setConfirmedLogins(ctx, append(others, confirmedLogin{
		Request: key, Until: time.Now().Add(loginRequestLifespan).UnixMicro(), Username: l.username, SessionID: l.sessionID, At: l.at.UnixMicro(),
		ACR: answer.ACR, AMR: answer.AMR, Context: answer.Context, Challenge: resumed.Challenge,
	}))
	if err := s.saveSession(ctx, w); err != nil {
		s.unavailable(w, r, "session could not be stored", err)
		return
	}
	s.log.InfoContext(ctx, "signed in by the login application", "subject", l.username, "skip", resumed.Request.Skip)
	http.Redirect(w, r, returnPath(resumed.Request.Query), http.StatusSeeOther)
}

// refuseLogin tells the client that nobody signs in.
func (s *server) refuseLogin(w http.ResponseWriter, r *http.Request, resumed *loginapi.Resumed) {
	ar, err := s.newAuthorizeRequest(r.Context(), resumed.Request.Query)
	if err == nil {
		_ = s.answerable(r.Context(), ar) // so that no error is sent in a way that it must not; what else it says, nobody has waited for
	}
	s.finish(w, r, resumed.Request.Query)
	rejection := resumed.Answer.Rejection
	s.writeAuthorizeError(w, r, ar, (&fosite.RFC6749Error{
		ErrorField: rejection.Error, DescriptionField: rejection.Description, CodeField: http.StatusForbidden,
	}).WithHint(rejection.Hint))
}

// signInElsewhere is the page for those who come without an authorization request.
func (s *server) signInElsewhere(w http.ResponseWriter, r *http.Request) {
	s.renderError(w, r, http.StatusOK, errorPage{
		Heading:     "You are not signed in",
		Explanation: "Sign-in begins at an application: it sends you here, and you are asked who you are.",
	})
}
