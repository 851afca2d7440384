package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The steps of a flow. Following the redirect after signing in is part of the page that it leads to.
const (
	stepLoginPage = iota
	stepSignIn
	stepConsentPage
	stepApprove
	stepExchange
	steps
)

var stepNames = [steps]string{"login page", "sign in", "consent page", "approve", "exchange"}

const (
	clientID     = "bench"
	clientSecret = "a secret of this benchmark"
	redirectURI  = "https://client.example/callback"
	password     = "correct horse battery staple"
)

// flow is what one flow took.
type flow struct {
	total time.Duration
	steps [steps]time.Duration
}

// browser is one user's browser and the client that it came from, in one. It keeps its
// connection and, for one flow, its cookie. What it reads of a page are the hidden
// fields and the ticked boxes, by searching the text.
type browser struct {
	issuer, user string
	scopes       string
	client       *http.Client
	cookie       string
	requests     int
}

func newBrowser(issuer, user, scopes string) *browser {
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1}
	return &browser{issuer: issuer, user: user, scopes: scopes, client: &http.Client{
		Transport:     transport,
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// send makes one request. It fails unless the response has the status.
func (b *browser) send(ctx context.Context, method, address string, form url.Values, asClient bool, status int) (body, location string, err error) {
	var content io.Reader
	if form != nil {
		content = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return "", "", err
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	switch {
	case asClient:
		r.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(clientSecret))
	case b.cookie != "":
		r.Header.Set("Cookie", b.cookie)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b.requests++
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	if resp.StatusCode != status {
		return "", "", fmt.Errorf("%s %s: status %d instead of %d: %.300s", method, r.URL.Path, resp.StatusCode, status, text)
	}
	if !asClient {
		for _, cookie := range resp.Header["Set-Cookie"] {
			b.cookie, _, _ = strings.Cut(cookie, ";")
		}
	}
	return string(text), resp.Header.Get("Location"), nil
}

// run is one complete flow, from a browser without a cookie to the tokens.
func (b *browser) run(ctx context.Context) (f flow, err error) {
	b.cookie = ""
	verifier, state, nonce := rand.Text()+rand.Text(), rand.Text(), rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	request := url.Values{
		"client_id": {clientID}, "redirect_uri": {redirectURI}, "response_type": {"code"}, "scope": {b.scopes}, "state": {state},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}
	openid := strings.Contains(b.scopes, "openid")
	if openid {
		request.Set("nonce", nonce)
	}

	start := time.Now()
	last := start
	lap := func(step int) {
		now := time.Now()
		f.steps[step] = now.Sub(last)
		last = now
	}
	page, _, err := b.send(ctx, http.MethodGet, b.issuer+"/oauth2/auth?"+request.Encode(), nil, false, http.StatusOK)
	if err != nil {
		return f, err
	}
	form, err := formOf(page, "/login")
	if err != nil {
		return f, err
	}
	lap(stepLoginPage)

	form.Set("username", b.user)
	form.Set("password", password)
	_, location, err := b.send(ctx, http.MethodPost, b.issuer+"/login", form, false, http.StatusSeeOther)
	if err != nil {
		return f, err
	}
	lap(stepSignIn)

	if page, _, err = b.send(ctx, http.MethodGet, b.issuer+location, nil, false, http.StatusOK); err != nil {
		return f, err
	}
	if form, err = formOf(page, "/consent"); err != nil {
		return f, err
	}
	lap(stepConsentPage)

	form.Set("decision", "approve")
	if _, location, err = b.send(ctx, http.MethodPost, b.issuer+"/consent", form, false, http.StatusSeeOther); err != nil {
		return f, err
	}
	back, err := url.Parse(location)
	if err != nil {
		return f, err
	}
	query := back.Query()
	if !strings.HasPrefix(location, redirectURI+"?") || query.Get("code") == "" || query.Get("state") != state {
		return f, fmt.Errorf("there is no code: error %q, %q", query.Get("error"), query.Get("error_description"))
	}
	lap(stepApprove)

	body, _, err := b.send(ctx, http.MethodPost, b.issuer+"/oauth2/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {query.Get("code")}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
	}, true, http.StatusOK)
	if err != nil {
		return f, err
	}
	var tokens struct {
		AccessToken string `json:"access_token"`
		IDToken     string `json:"id_token"`
		Scope       string `json:"scope"`
	}
	if err := json.Unmarshal([]byte(body), &tokens); err != nil {
		return f, err
	}
	lap(stepExchange)
	f.total = last.Sub(start)
	if tokens.AccessToken == "" || tokens.Scope != b.scopes || (tokens.IDToken != "") != openid {
		return f, fmt.Errorf("other tokens than asked for: scope %q", tokens.Scope)
	}
	return f, nil
}

// formOf returns the fields that a browser would post with the page's form.
func formOf(page, action string) (url.Values, error) {
	_, rest, found := strings.Cut(page, `<form method="post" action="`+action+`"`)
	rest, _, closed := strings.Cut(rest, "</form>")
	if !found || !closed {
		return nil, fmt.Errorf("the page has no form for %s: %.300s", action, page)
	}
	values := url.Values{}
	for {
		var field string
		if _, rest, found = strings.Cut(rest, "<input "); !found {
			break
		}
		if field, rest, found = strings.Cut(rest, ">"); !found {
			return nil, errors.New("the page is cut off")
		}
		name, value := attribute(field, "name"), attribute(field, "value")
		if name != "" && (strings.Contains(field, `type="hidden"`) || strings.HasSuffix(field, " checked") || strings.Contains(field, " checked ")) {
			values.Add(name, value)
		}
	}
	return values, nil
}

func attribute(field, name string) string {
	_, rest, _ := strings.Cut(" "+field, " "+name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return html.UnescapeString(value)
}

// load is what some workers did.
type load struct {
	flows    []flow
	requests int
	elapsed  time.Duration
}

// drive has the workers run flows, each one after the other, until the time is over;
// a flow that has begun is finished. At least one flow is run by each.
func drive(ctx context.Context, issuer string, users []string, scopes string, workers int, d time.Duration) (load, error) {
	loads := make([]load, workers)
	errs := make([]error, workers)
	start := time.Now()
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			b := newBrowser(issuer, users[i%len(users)], scopes)
			defer b.client.CloseIdleConnections()
			for first := true; first || time.Since(start) < d; first = false {
				f, err := b.run(ctx)
				if err != nil {
					errs[i] = err
					return
				}
				loads[i].flows = append(loads[i].flows, f)
			}
			loads[i].requests = b.requests
		})
	}
	all.Wait()
	sum := load{elapsed: time.Since(start)}
	for _, l := range loads {
		sum.flows = append(sum.flows, l.flows...)
		sum.requests += l.requests
	}
	return sum, errors.Join(errs...)
}
