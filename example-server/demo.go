package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/oauth2"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// demo is what the server brings along when it is given no clients and no users: two
// clients, a user, and a relying party at / that shows what happens. The relying
// party lives in the same process and talks to the server as any other would, with
// golang.org/x/oauth2 and go-oidc over HTTP; only what it tells about the gate comes
// from inside.
type demo struct {
	server   *server
	login    *demoLogin          // nil with a login page elsewhere
	sessions *scs.SessionManager // the relying party's own
	http     *http.Client

	mu      sync.Mutex
	answers recent[string, demoAnswer]            // by state
	passes  recent[string, demoEvent]             // by state: those that nobody was asked about
	events  recent[fositeconsent.ID, []demoEvent] // by grant
}

// demoLogin is the account that everybody may use.
type demoLogin struct{ Username, Password string }

// demoAnswer is a consent page as it was sent, for sending it again.
type demoAnswer struct {
	grant fositeconsent.ID
	form  url.Values // nil if the page was elsewhere
}

// demoEvent is what the gate said, for showing.
type demoEvent struct {
	At             time.Time
	Action, Reason string
	Detail         string
}

const (
	demoUser         = "alice"
	demoConfidential = "demo-web"
	demoPublic       = "demo-app"
	demoScopes       = "openid profile photos.read photos.write offline_access"

	pathDemoStart    = "/demo/start"
	pathDemoCallback = "/demo/callback"
	pathDemoResult   = "/demo/result"
	pathDemoReplay   = "/demo/replay"
	pathDemoRefresh  = "/demo/refresh"
	pathDemoPrivacy  = "/demo/privacy"
)

// demoRequest is what the relying party asks for: not all that it could.
var demoRequest = []string{oidc.ScopeOpenID, "profile", "photos.read", "offline_access"}

// demoMore is the scope that the replay slips in, and that the relying party asks for besides.
const demoMore = "photos.write"

// How the relying party asks: with a page if need be, without one (prompt=none), for more.
const (
	demoAskAgain = "again"
	demoAskNone  = "none"
	demoAskMore  = "more"
)

func newDemo(s *server) (*demo, []*client, *users, error) {
	d := &demo{
		server:   s,
		sessions: newSessions(s.sessions.Store, "demo", isHTTPS(s.issuer)),
		http: &http.Client{
			Timeout:       10 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		answers: recent[string, demoAnswer]{limit: 256},
		passes:  recent[string, demoEvent]{limit: 256},
		events:  recent[fositeconsent.ID, []demoEvent]{limit: 256},
	}
	var accounts *users
	if s.config.loginURL == "" {
		d.login = &demoLogin{demoUser, s.keys.demoPassword}
		var err error
		if accounts, err = d.login.users(); err != nil {
			return nil, nil, nil, err
		}
	}
	redirectURIs := []string{s.issuer + pathDemoCallback}
	var clients []*client
	for _, r := range []*registration{
		{
			ClientID: demoConfidential, ClientSecret: s.keys.demoClientSecret, ClientName: "Photo Printer",
			LogoURI: s.issuer + pathAssets + "demo-logo.svg", ClientURI: s.issuer, PolicyURI: s.issuer + pathDemoPrivacy,
			RedirectURIs: redirectURIs, GrantTypes: []string{grantCode, grantRefresh}, Scope: demoScopes,
		},
		{
			ClientID: demoPublic, TokenEndpointAuthMethod: "none", ClientName: "Pocket Album",
			RedirectURIs: redirectURIs, GrantTypes: []string{grantCode, grantRefresh}, Scope: demoScopes,
		},
	} {
		c, field, err := r.client()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("demo client %s: %s: %w", r.ClientID, field, err)
		}
		clients = append(clients, c)
	}
	return d, clients, accounts, nil
}

// users returns the one that there is.
func (l *demoLogin) users() (*users, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(l.Password), bcrypt.DefaultCost)
	if err != nil {
		return nil, err
	}
	accounts, err := newUsers(map[string][]byte{l.Username: hash})
	if err != nil {
		return nil, err
	}
	// The hash has another salt in every process, and the password is the same.
	sum := sha256.Sum256([]byte("demo " + l.Password))
	accounts.fixed = map[string]string{l.Username: base64.RawURLEncoding.EncodeToString(sum[:])}
	return accounts, nil
}

// announce tells whoever has started the server where to click.
func (d *demo) announce(w io.Writer) {
	signIn := "elsewhere, " + d.server.config.loginURL
	if d.login != nil {
		signIn = fmt.Sprintf("as %s, password %s", d.login.Username, d.login.Password)
	}
	_, _ = fmt.Fprintf(w, `
  Open           %s/
  Sign in        %s
  Clients        %s, confidential, secret %s
                 %s, public
  Stop           Ctrl-C

`, d.server.issuer, signIn, demoConfidential, d.server.keys.demoClientSecret, demoPublic)
}

// routes adds the relying party's endpoints.
func (d *demo) routes(mux *http.ServeMux, protection *http.CrossOriginProtection) {
	handle := func(pattern string, h http.HandlerFunc) {
		mux.Handle(pattern, d.oneHost(protection.Handler(d.sessions.LoadAndSave(h))))
	}
	handle("GET /{$}", d.home)
	handle("POST "+pathDemoStart, d.start)
	handle("GET "+pathDemoCallback, d.callback)
	handle("GET "+pathDemoResult, d.result)
	handle("POST "+pathDemoReplay, d.replay)
	handle("POST "+pathDemoRefresh, d.refresh)
	mux.HandleFunc("GET "+pathDemoPrivacy, func(w http.ResponseWriter, r *http.Request) {
		d.server.renderError(w, r, http.StatusOK, errorPage{
			Heading:     "Privacy",
			Explanation: "The demo application prints no photos and keeps nothing once the server is stopped.",
			Link:        "/", LinkText: "To the demo",
		})
	})
}

// oneHost sends a browser that came by another name of this machine to the one that
// the issuer has: the cookies of 127.0.0.1 and localhost are not the same.
func (d *demo) oneHost(next http.Handler) http.Handler {
	issuer, _ := url.Parse(d.server.issuer)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := url.URL{Host: r.Host}
		if r.Method == http.MethodGet && r.Host != issuer.Host && isLoopback(host.Hostname()) && isLoopback(issuer.Hostname()) {
			http.Redirect(w, r, d.server.issuer+"/", http.StatusSeeOther)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// demoRun is one flow of the relying party, in its session.
type demoRun struct {
	Client, ClientName        string
	State, Verifier, Nonce    string
	Requested, Granted        []string
	Answered                  bool
	Error, ErrorDescription   string
	AccessToken, RefreshToken string
	Expires                   time.Time
	Claims                    json.RawMessage // of the ID token
	Refreshes                 []demoRefresh
	Lost                      bool // a refresh was refused: nothing that it has is good any more
	Replays                   []demoReplay
}

// demoRefresh is what came of using the refresh token.
type demoRefresh struct {
	At    time.Time
	Error string // "" if there are new tokens
}

// demoReplay is what came of sending the page again.
type demoReplay struct {
	What                                   string
	Status, PageTitle, Reason, Explanation string
}

const demoRunKey = "run"

func (d *demo) run(ctx context.Context) *demoRun {
	var run demoRun
	if json.Unmarshal([]byte(d.sessions.GetString(ctx, demoRunKey)), &run) != nil {
		return nil
	}
	return &run
}

func (d *demo) keep(ctx context.Context, run *demoRun) {
	text, err := json.Marshal(run)
	if err != nil {
		panic(err) // there is nothing in it that can fail
	}
	d.sessions.Put(ctx, demoRunKey, string(text))
}

// relyingParty returns what the relying party knows of the server and of itself.
func (d *demo) relyingParty(ctx context.Context, clientID string) (*oidc.Provider, *oauth2.Config, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, d.http), d.server.issuer)
	if err != nil {
		return nil, nil, err
	}
	config := &oauth2.Config{
		ClientID: clientID, Endpoint: provider.Endpoint(), RedirectURL: d.server.issuer + pathDemoCallback, Scopes: demoRequest,
	}
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has only its id
	if clientID == demoConfidential {
		config.ClientSecret = d.server.keys.demoClientSecret
		config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	return provider, config, nil
}

func (d *demo) home(w http.ResponseWriter, r *http.Request) {
	run := d.run(r.Context())
	d.server.render(w, r, http.StatusOK, "demo", struct {
		page
		Login        *demoLogin
		Elsewhere    bool // the consent page
		HasRun       bool
		Applications string
	}{page{Title: "Consent demo"}, d.login, d.server.consents != nil, run != nil && run.Answered, pathApplications})
}

// start sends the browser to the authorization endpoint.
func (d *demo) start(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	form, err := postedForm(r, "client", "ask")
	c, ok := d.server.clients[form.Get("client")]
	ask := form.Get("ask")
	if err != nil || !ok || (form.Has("ask") && ask != demoAskAgain && ask != demoAskNone && ask != demoAskMore) {
		d.server.badForm(w, r, errors.New("no such demo client"))
		return
	}
	_, config, err := d.relyingParty(ctx, c.ID)
	if err != nil {
		d.server.unavailable(w, r, "demo: discovery failed", err)
		return
	}
	run := &demoRun{
		Client: c.ID, ClientName: c.displayName(), Requested: demoRequest,
		State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(),
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(run.Nonce), oauth2.S256ChallengeOption(run.Verifier)}
	switch ask {
	case demoAskNone:
		options = append(options, oauth2.SetAuthURLParam("prompt", "none"))
	case demoAskMore:
		run.Requested = append(slices.Clone(demoRequest), demoMore)
		config.Scopes = run.Requested
	}
	d.keep(ctx, run)
	http.Redirect(w, r, config.AuthCodeURL(run.State, options...), http.StatusSeeOther)
}

// callback is the relying party's redirect URI.
func (d *demo) callback(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	run := d.run(ctx)
	// The state ties the answer to the browser that asked (RFC 6749, Section 10.12).
	if run == nil || run.State == "" || r.FormValue("state") != run.State || run.Answered {
		d.server.renderError(w, r, http.StatusBadRequest, errorPage{
			Heading:     "The application did not expect this answer",
			Explanation: "It has had the answer to its last request already, or never asked with this state. It takes nothing from it.",
			Link:        "/", LinkText: "Start again",
		})
		return
	}
	run.Answered = true
	if code := r.FormValue("error"); code != "" {
		run.Error, run.ErrorDescription = code, r.FormValue("error_description")
	} else if err := d.redeem(ctx, run, r.FormValue("code")); err != nil {
		d.server.log.WarnContext(ctx, "demo: code could not be redeemed")
		run.Error, run.ErrorDescription = "no tokens", err.Error()
	}
	d.keep(ctx, run)
	http.Redirect(w, r, pathDemoResult, http.StatusSeeOther) // away from the address with the code in it
}

// redeem exchanges the code for tokens and verifies the ID token.
func (d *demo) redeem(ctx context.Context, run *demoRun, code string) error {
	provider, config, err := d.relyingParty(ctx, run.Client)
	if err != nil {
		return errors.New("the server could not be asked")
	}
	token, err := config.Exchange(oidc.ClientContext(ctx, d.http), code, oauth2.VerifierOption(run.Verifier))
	if err != nil {
		return errors.New("the token endpoint refused the code")
	}
	raw, _ := token.Extra("id_token").(string)
	idToken, err := provider.VerifierContext(oidc.ClientContext(ctx, d.http), &oidc.Config{ClientID: run.Client}).Verify(ctx, raw)
	if err != nil {
		return errors.New("the ID token is not valid")
	}
	if idToken.Nonce != run.Nonce {
		return errors.New("the ID token has another nonce")
	}
	if err := idToken.Claims(&run.Claims); err != nil {
		return errors.New("the ID token has no claims")
	}
	scope, _ := token.Extra("scope").(string)
	run.Granted = strings.Fields(scope)
	run.AccessToken, run.RefreshToken, run.Expires = token.AccessToken, token.RefreshToken, token.Expiry
	return nil
}

// refresh has the relying party use its refresh token, which is what it would do by itself
// when the access token has expired.
func (d *demo) refresh(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	_, err := postedForm(r)
	run := d.run(ctx)
	if err != nil || run == nil || run.RefreshToken == "" {
		d.server.badForm(w, r, errors.New("nothing to refresh"))
		return
	}
	_, config, err := d.relyingParty(ctx, run.Client)
	if err != nil {
		d.server.unavailable(w, r, "demo: discovery failed", err)
		return
	}
	token, err := config.TokenSource(oidc.ClientContext(ctx, d.http), &oauth2.Token{RefreshToken: run.RefreshToken}).Token()
	result := demoRefresh{At: time.Now()}
	var refused *oauth2.RetrieveError
	switch {
	case err == nil:
		run.AccessToken, run.RefreshToken, run.Expires = token.AccessToken, token.RefreshToken, token.Expiry
	case errors.As(err, &refused) && refused.ErrorCode == "invalid_grant": // RFC 6749, Section 5.2
		run.AccessToken, run.RefreshToken, run.Lost = "", "", true
		result.Error = refused.ErrorCode
	default: // which says nothing of the token
		d.server.unavailable(w, r, "demo: tokens could not be refreshed", errors.New("the token endpoint gave no answer of use"))
		return
	}
	run.Refreshes = append([]demoRefresh{result}, run.Refreshes...)
	run.Refreshes = run.Refreshes[:min(len(run.Refreshes), 4)]
	d.keep(ctx, run)
	http.Redirect(w, r, pathDemoResult+"#next", http.StatusSeeOther)
}

// demoScope is a row of the table of what was asked and what was given.
type demoScope struct {
	Name, Title string
	Granted     bool
}

func (d *demo) result(w http.ResponseWriter, r *http.Request) {
	run := d.run(r.Context())
	if run == nil || !run.Answered {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	var scopes []demoScope
	for _, name := range run.Requested {
		scopes = append(scopes, demoScope{name, describeScope(name).Title, slices.Contains(run.Granted, name)})
	}
	answer, answered := d.answer(run.State)
	events := d.eventsOf(answer.grant)
	silent, passed := d.pass(run.State)
	if passed {
		events = []demoEvent{silent}
	}
	title := "Connected"
	if run.Error != "" || run.Lost {
		title = "Not connected"
	}
	var claims bytes.Buffer
	if err := json.Indent(&claims, run.Claims, "", "  "); err != nil {
		claims.Reset()
	}
	d.server.render(w, r, http.StatusOK, "demo_result", struct {
		page
		*demoRun
		Scopes       []demoScope
		ClaimsText   string
		GrantID      string
		Events       []demoEvent
		Approved     bool
		CanReplay    bool
		Silent       bool
		More         string
		MoreTitle    string
		HasMore      bool
		Applications string
	}{
		page{title}, run, scopes, claims.String(), answer.grant.String(), events, answered, answer.form != nil, passed,
		demoMore, describeScope(demoMore).Title, slices.Contains(run.Requested, demoMore), pathApplications,
	})
}

// replay sends the consent page that was answered once more, as a thief of the page
// or a second click would: as it was, or with another request in it.
func (d *demo) replay(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	form, err := postedForm(r, "what")
	run := d.run(ctx)
	what := form.Get("what")
	if err != nil || run == nil || (what != "page" && what != "request") {
		d.server.badForm(w, r, errors.New("nothing to replay"))
		return
	}
	answer, ok := d.answer(run.State)
	if !ok || answer.form == nil {
		http.Redirect(w, r, pathDemoResult, http.StatusSeeOther)
		return
	}
	fields := url.Values{}
	for name, values := range answer.form {
		fields[name] = slices.Clone(values)
	}
	if what == "request" {
		request, err := url.ParseQuery(fields.Get(fieldRequest))
		if err != nil {
			d.server.badForm(w, r, err)
			return
		}
		request.Set("scope", request.Get("scope")+" "+demoMore)
		fields.Set(fieldRequest, request.Encode())
		fields.Add(fieldScope, demoMore)
	}
	before := len(d.eventsOf(answer.grant))
	result, err := d.send(ctx, r, fields)
	if err != nil {
		d.server.unavailable(w, r, "demo: page could not be sent again", err)
		return
	}
	result.What = what
	if events := d.eventsOf(answer.grant); len(events) > before {
		result.Reason = events[len(events)-1].Reason
	}
	switch result.Reason {
	case "already_decided":
		result.Explanation = "The id of the page is the key of its grant in the database. A grant with that key is there, spent, so the page can bring forth no other."
	case "binding_mismatch":
		result.Explanation = "The page carries a sealed digest of the request that was on your screen. The request that came with it now is another one, so your approval does not fit it. You would be asked anew."
	case "":
		result.Explanation = "The gate was not even asked. You may have signed out."
	}
	run.Replays = append([]demoReplay{result}, run.Replays...)
	run.Replays = run.Replays[:min(len(run.Replays), 4)]
	d.keep(ctx, run)
	http.Redirect(w, r, pathDemoResult+"#replay", http.StatusSeeOther)
}

var titlePattern = regexp.MustCompile(`<title>([^<]*)</title>`)

// send posts the consent page's form with the browser's own login.
func (d *demo) send(ctx context.Context, r *http.Request, fields url.Values) (demoReplay, error) {
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, d.server.issuer+pathConsent, strings.NewReader(fields.Encode()))
	if err != nil {
		return demoReplay{}, err
	}
	post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if cookie, err := r.Cookie(d.server.sessions.Cookie.Name); err == nil {
		post.Header.Set("Cookie", cookie.Name+"="+cookie.Value)
	}
	resp, err := d.http.Do(post)
	if err != nil {
		return demoReplay{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return demoReplay{}, err
	}
	result := demoReplay{Status: resp.Status}
	if title := titlePattern.FindSubmatch(body); title != nil {
		result.PageTitle = string(title[1])
	}
	return result, nil
}

// approved remembers a page that was approved.
func (d *demo) approved(state string, grant fositeconsent.ID, form url.Values) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers.put(state, demoAnswer{grant, form})
}

// decided remembers a request that was approved on a page elsewhere.
func (d *demo) decided(state string, grant fositeconsent.ID) { d.approved(state, grant, nil) }

// passed remembers a request that was answered without a page.
func (d *demo) passed(state string, e fositeconsent.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.passes.put(state, demoEvent{time.Now(), string(e.Action), e.Reason, explainEvent(e)})
}

func (d *demo) pass(state string) (demoEvent, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passes.get(state)
}

func (d *demo) answer(state string) (demoAnswer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.answers.get(state)
}

// watch returns an observer of the gate that remembers what it says of each grant.
func (d *demo) watch(next func(context.Context, fositeconsent.Event)) func(context.Context, fositeconsent.Event) {
	return func(ctx context.Context, e fositeconsent.Event) {
		next(ctx, e)
		if e.GrantID.IsZero() {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		list, _ := d.events.get(e.GrantID)
		if len(list) < 50 {
			d.events.put(e.GrantID, append(slices.Clone(list), demoEvent{time.Now(), string(e.Action), e.Reason, explainEvent(e)}))
		}
	}
}

func (d *demo) eventsOf(grant fositeconsent.ID) []demoEvent {
	d.mu.Lock()
	defer d.mu.Unlock()
	list, _ := d.events.get(grant)
	return list
}

// explainEvent says what an event means to somebody who sees one for the first time.
func explainEvent(e fositeconsent.Event) string {
	if e.Refused() {
		return "Refused. Nothing was stored and nothing was issued."
	}
	switch e.Action {
	case fositeconsent.ActionConsume:
		return "Nobody was asked: what you had told the server to remember covers all of the request. The response was recorded under it, so that taking it back ends this one as well."
	case fositeconsent.ActionPrompt:
		return "The consent page was shown. Nothing is approved yet."
	case fositeconsent.ActionApprove:
		return "You approved: the grant was stored, for " + strings.Join(e.GrantedScopes, ", ") + ", spent, and only then the code was made, all in one transaction."
	case fositeconsent.ActionDeny:
		return "You denied. That is final for this page."
	}
	return ""
}

// recent is a map that forgets the oldest keys.
type recent[K comparable, V any] struct {
	limit int
	order []K
	m     map[K]V
}

func (c *recent[K, V]) get(key K) (V, bool) { v, ok := c.m[key]; return v, ok }

func (c *recent[K, V]) put(key K, value V) {
	if c.m == nil {
		c.m = map[K]V{}
	}
	if _, ok := c.m[key]; !ok {
		c.order = append(c.order, key)
		if len(c.order) > c.limit {
			delete(c.m, c.order[0])
			c.order = c.order[1:]
		}
	}
	c.m[key] = value
}
