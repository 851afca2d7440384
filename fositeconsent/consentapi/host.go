package consentapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

const (
	// MaxQuerySize bounds the parameters of an authorization request that is sent to the application, in bytes.
	MaxQuerySize = 32 << 10

	// maxCookies bounds how many requests one browser can have open. Of more, the oldest cannot be finished.
	maxCookies = 8
)

// Authorize answers an authorization request, or has it answered by the consent application. Call it at the authorization endpoint
// in place of provider.NewAuthorizeResponse, with the provider that [fositeconsent.Gate.Protect] returned. query
// is the request's own parameters, encoded, as they came and before fosite has merged anything into them; by them the request is
// made again when the browser is back.
//
// If sent is true, the browser has been redirected to the application (with 303), with a cookie of this request, and there is
// nothing more to write. Otherwise the response or the error is to be written to the client. The errors are those of
// [fositeconsent.Gate.Covers], NewAuthorizeResponse and [fositeconsent.Gate.Prompt]. The provider is not asked for a response before the application
// has answered, unless the request passes without: a wrong one is found then.
func (a *API) Authorize(w http.ResponseWriter, r *http.Request, provider fosite.OAuth2Provider, ar fosite.AuthorizeRequester, session fosite.Session, query string) (resp fosite.AuthorizeResponder, sent bool, err error) {
	ctx := r.Context()
	skip := false
	if !isNil(ar) && !isSilent(ar) {
		var data []byte
		if skip, data, err = a.gate.Covers(ctx, ar, session); err != nil {
			return nil, false, err
		}
		if !skip || a.config.AskAlways || saysSomething(data) {
			err = a.send(w, r, ar, session, query, skip)
			return nil, err == nil, err
		}
	}
	if resp, err = provider.NewAuthorizeResponse(ctx, ar, session); !fositeconsent.NeedsConsent(err) {
		return resp, false, err
	}
	err = a.send(w, r, ar, session, query, false) // what covered it has just ended
	return nil, err == nil, err
}

// saysSomething reports whether the application has put something into the tokens of what is remembered. What it says of others it
// is asked: the same may be too much for them, or not true any more. What cannot be read is the gate's to refuse.
func saysSomething(text []byte) bool {
	d, err := parseData(text)
	return err == nil && !d.Session.isEmpty()
}

// isSilent reports whether the client allows no page (OpenID Connect Core 1.0, Section 3.1.2.1).
func isSilent(ar fosite.AuthorizeRequester) bool {
	return slices.Contains(strings.Fields(ar.GetRequestForm().Get("prompt")), "none")
}

// send stores the request and sends the browser to the application.
func (a *API) send(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, session fosite.Session, query string, skip bool) error {
	ctx := r.Context()
	if len(query) > MaxQuerySize {
		return fosite.ErrInvalidRequest.WithHint("The authorization request is too long.")
	}
	if _, err := url.ParseQuery(query); err != nil || !utf8.ValidString(query) {
		return fosite.ErrInvalidRequest.WithHint("The authorization request is not well-formed.")
	}
	prompt, err := a.gate.Prompt(ctx, ar, session)
	if err != nil {
		return err
	}
	request, err := a.newRequest(ctx, ar, session, prompt, query, skip)
	if err != nil {
		return serverError(err)
	}
	challenge, browser := newSecret(), newSecret()
	request.Challenge, request.Browser = challenge.hash(), browser.hash()
	if err := a.storage.CreateConsentRequest(ctx, request); err != nil {
		return serverError(fmt.Errorf("%w: create the consent request: %w", fositeconsent.ErrStorage, err))
	}
	a.setCookie(w, r, request, browser)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, at(a.consentURL, "consent_challenge", handle(challengePrefix, prompt.ID, challenge)), http.StatusSeeOther) // RFC 9700, Section 4.12
	return nil
}

func (a *API) newRequest(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session, prompt *fositeconsent.Prompt, query string, skip bool) (*Request, error) {
	client, err := a.describeClient(ctx, prompt.Client)
	if err != nil {
		return nil, err
	}
	login, err := a.login(ctx, ar, session, prompt.LoginSession)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(document{
		Ticket: prompt.Ticket, Query: query, Scopes: prompt.Scopes, Audience: prompt.Audience,
		Further: furtherOf(ar.GetRequestForm()), Rememberable: prompt.Rememberable, Skip: skip, Client: client, OIDC: newOIDCContext(ar.GetRequestForm()),
		LoginChallenge: login.Challenge, ACR: login.ACR, AMR: login.AMR, Context: login.Context,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: what DescribeClient or DescribeLogin returned is no JSON: %w", fositeconsent.ErrMisconfigured, err)
	}
	// The ticket ends by this server's clock, and the request by the storage's.
	lifespan := time.Until(prompt.ExpiresAt).Truncate(time.Millisecond)
	if a.config.Lifespan != 0 {
		lifespan = min(lifespan, a.config.Lifespan)
	}
	return &Request{
		ID: prompt.ID, Subject: prompt.Subject, ClientID: prompt.Client.GetID(), LoginSession: login.SessionID, Document: text, Lifespan: lifespan,
	}, nil
}

// cookiePrefix starts the name of each request's cookie. What begins with __Host- is taken by browsers only from this very host, over
// https, and for all of it (RFC 6265bis, Section 4.1.3.2).
func (a *API) cookiePrefix() string {
	if a.secure {
		return "__Host-consent-"
	}
	return "consent-"
}

// cookieName has the request's ID, which is no secret. It begins with the time, so that names are in the order of the requests.
func (a *API) cookieName(id fositeconsent.ID) string {
	return a.cookiePrefix() + hex.EncodeToString(id[:])
}

func (a *API) writeCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever the authorization server is on https
		Name: name, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: a.secure,
		SameSite: http.SameSiteLaxMode, // it has to come along when the application redirects back
	})
}

// setCookie sets the cookie of the request, and drops the oldest of those that are too many.
func (a *API) setCookie(w http.ResponseWriter, r *http.Request, request *Request, browser secret) {
	var names []string
	for _, c := range r.Cookies() {
		if id, found := strings.CutPrefix(c.Name, a.cookiePrefix()); found && len(id) == 2*idSize {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names[:max(0, len(names)-maxCookies+1)] {
		a.writeCookie(w, name, "", -1)
	}
	a.writeCookie(w, a.cookieName(request.ID), browserPrefix+handleEncoding.EncodeToString(browser[:]), max(1, int(request.Lifespan/time.Second)))
}

// browserSecret returns what the browser's cookie for this request holds.
func (a *API) browserSecret(r *http.Request, id fositeconsent.ID) (secret, bool) {
	cookies := r.CookiesNamed(a.cookieName(id))
	if len(cookies) != 1 { // of two, one is not ours
		return secret{}, false
	}
	return parseBrowser(cookies[0].Value)
}

func parseBrowser(value string) (secret, bool) {
	text, found := strings.CutPrefix(value, browserPrefix)
	raw, err := handleEncoding.Strict().DecodeString(text)
	if !found || err != nil || len(raw) != secretSize || handleEncoding.EncodeToString(raw) != text {
		return secret{}, false
	}
	return secret(raw), true
}

// The reasons for which [API.Resume] refuses, besides those of the storage.
var (
	// ErrMalformedVerifier: the address has no consent_verifier, or several, or what none looks like; or the request is no GET.
	ErrMalformedVerifier = errors.New("consentapi: no consent verifier of this authorization server came with the request")
	// ErrForeignBrowser: the browser has no cookie of this consent request. It is not the one that was sent to the application, or
	// has forgotten.
	ErrForeignBrowser = errors.New("consentapi: the browser has no cookie of this consent request")
)

// Resumed is an answer that the browser has brought back.
type Resumed struct {
	// Query is the parameters of the authorization request, as [API.Authorize] got them: for a link by which it is made again.
	Query string

	api               *API
	id                fositeconsent.ID
	verifier, browser Hash
	ticket            string
	skip              bool // what the application was told
	answer            *answerDocument
}

// Resume reads the answer that the browser brings back from the application: the consent_verifier of r's address and the cookie. It changes
// nothing; [Resumed.Respond] uses the answer.
//
// The error is one of [ErrMalformedVerifier], [ErrForeignBrowser], [ErrRequestNotFound], [ErrRequestUsed], [ErrRequestRevoked] and
// [ErrRequestExpired], or [fositeconsent.ErrStorage]. Show a page then that says so and how to go on: back to the
// client, which asks again; where Resumed is not nil besides, by a link to the authorization endpoint with its Query.
func (a *API) Resume(r *http.Request) (*Resumed, error) {
	values := r.URL.Query()["consent_verifier"]         // and nothing of a body
	if len(values) != 1 || r.Method != http.MethodGet { // whoever sends a HEAD looks first, and comes again
		return nil, ErrMalformedVerifier
	}
	id, verifier, err := parseHandle(verifierPrefix, values[0])
	if err != nil {
		return nil, ErrMalformedVerifier
	}
	browser, ok := a.browserSecret(r, id)
	if !ok {
		return nil, ErrForeignBrowser
	}
	request, err := a.storage.FindAnsweredConsentRequest(r.Context(), id, verifier.hash(), browser.hash())
	switch {
	case errors.Is(err, ErrRequestNotFound):
		return nil, ErrRequestNotFound
	case err != nil:
		return nil, fmt.Errorf("%w: %w", fositeconsent.ErrStorage, err)
	// What a storage of somebody else's returns is checked, not believed.
	case request == nil || request.ID != id || request.Answer == nil || request.Answer.Verifier != verifier.hash() || request.Browser != browser.hash():
		return nil, fmt.Errorf("%w: FindAnsweredConsentRequest returned another request than was asked for", fositeconsent.ErrStorage)
	}
	document, err := request.document()
	if err != nil {
		return nil, err
	}
	resumed := &Resumed{Query: document.Query, api: a, id: id, verifier: verifier.hash(), browser: browser.hash(), ticket: document.Ticket, skip: document.Skip}
	switch request.State {
	case StateAccepted, StateRejected:
	case StateUsed:
		return resumed, ErrRequestUsed
	case StateRevoked:
		return resumed, ErrRequestRevoked
	case StateExpired:
		return resumed, ErrRequestExpired
	default:
		return nil, fmt.Errorf("%w: a consent request with an answer is in the state %q", fositeconsent.ErrStorage, request.State)
	}
	answer, err := request.Answer.document()
	if err != nil {
		return nil, err
	}
	if answer.Accepted != (request.State == StateAccepted) {
		return nil, fmt.Errorf("%w: a consent request in the state %q has another answer", fositeconsent.ErrStorage, request.State)
	}
	resumed.answer = answer
	return resumed, nil
}

// Request returns the authorization request as it came, for provider.NewAuthorizeRequest: a GET with its parameters, and
// nothing of what the browser sends now.
func (s *Resumed) Request(ctx context.Context) *http.Request {
	u := s.api.authorizationURL
	u.RawQuery = s.Query
	r := &http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Header: http.Header{}, Body: http.NoBody}
	return r.WithContext(ctx)
}

// errUnanswered is about a Resumed that came with an error.
var errUnanswered = fmt.Errorf("%w: Respond was called on what Resume returned with an error", fositeconsent.ErrMisconfigured)

// Respond uses the answer, for the request that provider.NewAuthorizeRequest has made of [Resumed.Request] and the session of who is
// signed in now, and returns the response or the error to write to the client. An acceptance is used in the transaction in
// which the response is issued: once, and if that fails, not at all. For a rejection the error is the application's, and [fositeconsent.Gate.Deny] has made it final.
//
// The browser's cookie stays until the request's time is over, though it is good for nothing more: by it, whoever comes back again by the back button can
// be told so, with a way on.
//
// If [fositeconsent.NeedsConsent] is true of the error, the answer was used, revoked or has expired meanwhile, or is not for this
// request or this session; or the application was told to skip, and what stood for the request then does not any more: send the browser to the authorization endpoint with Query.
func (s *Resumed) Respond(ctx context.Context, provider fosite.OAuth2Provider, ar fosite.AuthorizeRequester, session fosite.Session) (fosite.AuthorizeResponder, error) {
	if s == nil || s.answer == nil {
		return nil, serverError(errUnanswered)
	}
	if !s.answer.Accepted {
		if err := s.api.gate.Deny(ctx, ar, session, s.ticket); err != nil {
			return nil, err
		}
		return nil, s.answer.Rejection.asError()
	}
	use := &use{storage: s.api.storage, id: s.id, verifier: s.verifier, browser: s.browser}
	decision := s.answer.decision(s.api.config.RememberOfflineAccess)
	decision.Unasked = s.skip // the application had no reason to ask anybody
	ctx = fositeconsent.WithDecision(context.WithValue(ctx, useKey{}, use), s.ticket, decision)
	resp, err := provider.NewAuthorizeResponse(ctx, ar, session)
	if err != nil {
		return nil, err
	}
	if !use.done { // nothing may have been issued; if it was, nobody gets it
		return nil, serverError(fmt.Errorf("%w: the gate's Config.ApplyData is not consentapi.ApplyData, nor made by consentapi.ApplyDataWith: answers could be used again", fositeconsent.ErrMisconfigured))
	}
	return resp, nil
}

// asError is what the client is told (RFC 6749, Section 4.1.2.1). The status goes nowhere, since the browser is redirected; one of a server's
// error would have hosts take the application's decision for a failure of theirs.
func (j *rejection) asError() error {
	status := j.StatusCode
	if status >= http.StatusInternalServerError {
		status = http.StatusBadRequest
	}
	return (&fosite.RFC6749Error{ErrorField: j.Error, DescriptionField: j.Description, CodeField: status}).WithHint(j.Hint)
}

// serverError is what the client is told of what is none of its business.
func serverError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fosite.ErrTemporarilyUnavailable.WithWrap(err)
	}
	return fosite.ErrServerError.WithWrap(err)
}
