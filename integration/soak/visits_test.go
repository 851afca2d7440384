package soak_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	random "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

const redirect = "https://app.example/cb"

var decision = fositeconsent.Decision{Scopes: []string{"openid", "offline", "photos"}}

// patience bounds what is never waited for when things work.
const patience = 30 * time.Second

// visit is one resource owner with one authorization request, who may come to another
// instance with each step.
type visit struct {
	instances []*instance
	subject   string
	verifier  string
	params    url.Values
}

func newVisit(instances []*instance) *visit {
	v := &visit{instances: instances, subject: "user " + rand.Text(), verifier: rand.Text() + rand.Text()}
	challenge := sha256.Sum256([]byte(v.verifier))
	v.params = url.Values{
		"client_id": {"app"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {strings.Join(decision.Scopes, " ")},
		"state": {rand.Text()}, "nonce": {rand.Text()},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}
	return v
}

// kinds are what visits are for. Each returns an error for what should not have happened.
var kinds = []struct {
	name string
	do   func(*visit, context.Context) error
}{
	{"abandoned page", func(v *visit, ctx context.Context) error {
		_, err := v.page(ctx)
		return err
	}},
	{"denial", (*visit).denial},
	{"abandoned grant", func(v *visit, ctx context.Context) error {
		_, err := v.mint(ctx)
		return err
	}},
	{"replayed grant", (*visit).replayedGrant},
	{"raced grant", (*visit).racedGrant},
	{"raced page", (*visit).racedPage},
	{"pushed request", (*visit).pushedRequest},
	{"abandoned code", func(v *visit, ctx context.Context) error {
		_, err := v.code(ctx)
		return err
	}},
	{"wrong verifier", (*visit).wrongVerifier},
	{"reused code", (*visit).reusedCode},
	{"raced code", (*visit).racedCode},
	{"refreshes and revocation", (*visit).refreshes},
	{"reused refresh token", (*visit).reusedRefreshToken},
	{"raced refresh token", (*visit).racedRefreshToken},
}

// denial: a page that was denied is not approved afterwards.
func (v *visit) denial(ctx context.Context) error {
	ticket, err := v.page(ctx)
	if err != nil {
		return err
	}
	in, ar, err := v.request(ctx)
	if err != nil {
		return err
	}
	if err := in.gate.Deny(ctx, ar, v.session(), ticket); err != nil {
		return err
	}
	_, err = v.approve(ctx, ticket)
	if err := refused("approving what was denied", err, fositeconsent.ErrAlreadyDecided); err != nil {
		return err
	}
	_, err = v.respond(fositeconsent.WithDecision(ctx, ticket, decision))
	return refused("approving what was denied", err, fositeconsent.ErrAlreadyDecided)
}

// replayedGrant: a grant is good for its own request, once.
func (v *visit) replayedGrant(ctx context.Context) error {
	token, err := v.mint(ctx)
	if err != nil {
		return err
	}
	inside := fositeconsent.WithToken(ctx, token)
	state := v.params.Get("state")
	v.params.Set("state", "another "+state)
	_, err = v.respond(inside)
	v.params.Set("state", state)
	if err := refused("another request", err, fositeconsent.ErrBindingMismatch); err != nil {
		return err
	}
	if _, err := v.respond(inside); err != nil {
		return err
	}
	_, err = v.respond(inside)
	return refused("a second response", err, fositeconsent.ErrGrantConsumed)
}

func (v *visit) racedGrant(ctx context.Context) error {
	token, err := v.mint(ctx)
	if err != nil {
		return err
	}
	return oneWins("a grant", 3, func() error {
		_, err := v.respond(fositeconsent.WithToken(ctx, token))
		return err
	}, fositeconsent.ErrGrantConsumed)
}

func (v *visit) racedPage(ctx context.Context) error {
	ticket, err := v.page(ctx)
	if err != nil {
		return err
	}
	return oneWins("a page", 2, func() error {
		_, err := v.respond(fositeconsent.WithDecision(ctx, ticket, decision))
		return err
	}, fositeconsent.ErrAlreadyDecided, fositeconsent.ErrGrantConsumed)
}

// pushedRequest: of two pages for one request_uri one leads to a code.
func (v *visit) pushedRequest(ctx context.Context) error {
	in := v.instance()
	pushed, err := in.provider.NewPushedAuthorizeRequest(ctx, post(v.params))
	if err != nil {
		return err
	}
	response, err := in.provider.NewPushedAuthorizeResponse(ctx, pushed, openid.NewDefaultSession())
	if err != nil {
		return err
	}
	v.params = url.Values{"client_id": {"app"}, "request_uri": {response.GetRequestURI()}}
	return oneWins("a pushed request", 2, func() error {
		ticket, err := v.page(ctx)
		if err == nil {
			_, err = v.respond(fositeconsent.WithDecision(ctx, ticket, decision))
		}
		return err
	}, fositeconsent.ErrRequestURIUsed, fosite.ErrInvalidRequestURI)
}

func (v *visit) wrongVerifier(ctx context.Context) error {
	code, err := v.code(ctx)
	if err != nil {
		return err
	}
	verifier := v.verifier
	v.verifier = "not the " + verifier
	_, err = v.exchange(ctx, code)
	if err := refused("a wrong verifier", err, fosite.ErrInvalidGrant); err != nil {
		return err
	}
	v.verifier = verifier
	_, err = v.exchange(ctx, code)
	return err
}

// reusedCode: who comes with a code that was used ends what was issued for it (RFC 6749,
// Section 4.1.2).
func (v *visit) reusedCode(ctx context.Context) error {
	code, err := v.code(ctx)
	if err != nil {
		return err
	}
	t, err := v.exchange(ctx, code)
	if err != nil {
		return err
	}
	if err := v.introspect(ctx, t.access); err != nil {
		return err
	}
	_, err = v.exchange(ctx, code)
	if err := refused("a code that was used", err, fosite.ErrInvalidGrant); err != nil {
		return err
	}
	return v.ended(ctx, t)
}

func (v *visit) racedCode(ctx context.Context) error {
	code, err := v.code(ctx)
	if err != nil {
		return err
	}
	return oneWins("a code", 2, func() error {
		_, err := v.exchange(ctx, code)
		return err
	}, fosite.ErrInvalidGrant, fosite.ErrInvalidatedAuthorizeCode)
}

// refreshes: a chain of refresh tokens, of which the last one is revoked.
func (v *visit) refreshes(ctx context.Context) error {
	t, err := v.tokens(ctx)
	if err != nil {
		return err
	}
	for range 3 {
		if t, err = v.refresh(ctx, t.refresh); err != nil {
			return err
		}
	}
	if err := v.instance().provider.NewRevocationRequest(ctx, post(url.Values{"token": {t.refresh}, "client_id": {"app"}})); err != nil {
		return err
	}
	return v.ended(ctx, t)
}

// reusedRefreshToken: who comes with a refresh token that was rotated ends its family
// (RFC 9700, Section 4.14.2).
func (v *visit) reusedRefreshToken(ctx context.Context) error {
	first, err := v.tokens(ctx)
	if err != nil {
		return err
	}
	second, err := v.refresh(ctx, first.refresh)
	if err != nil {
		return err
	}
	_, err = v.refresh(ctx, first.refresh)
	if err := refused("a refresh token that was rotated", err, fosite.ErrInvalidGrant); err != nil {
		return err
	}
	return v.ended(ctx, second)
}

func (v *visit) racedRefreshToken(ctx context.Context) error {
	t, err := v.tokens(ctx)
	if err != nil {
		return err
	}
	return oneWins("a refresh token", 2, func() error {
		_, err := v.refresh(ctx, t.refresh)
		return err
	}, fosite.ErrInvalidGrant, fosite.ErrInvalidRequest)
}

// The steps.

func (v *visit) instance() *instance { return v.instances[random.IntN(len(v.instances))] }

func (v *visit) session() fosite.Session {
	s := openid.NewDefaultSession()
	s.Subject, s.Claims.Subject = v.subject, v.subject
	s.Claims.RequestedAt = time.Now().UTC().Add(-time.Minute)
	s.Claims.AuthTime = s.Claims.RequestedAt
	return s
}

func (v *visit) request(ctx context.Context) (*instance, fosite.AuthorizeRequester, error) {
	in := v.instance()
	ar, err := in.provider.NewAuthorizeRequest(ctx, httptest.NewRequest(http.MethodGet, "/?"+v.params.Encode(), nil))
	return in, ar, err
}

// page returns the ticket of a consent page.
func (v *visit) page(ctx context.Context) (string, error) {
	in, ar, err := v.request(ctx)
	if err != nil {
		return "", err
	}
	prompt, err := in.gate.Prompt(ctx, ar, v.session())
	if err != nil {
		return "", err
	}
	return prompt.Ticket, nil
}

func (v *visit) approve(ctx context.Context, ticket string) (token fositeconsent.Token, err error) {
	in, ar, err := v.request(ctx)
	if err != nil {
		return token, err
	}
	return in.gate.Mint(ctx, ar, v.session(), ticket, decision)
}

func (v *visit) mint(ctx context.Context) (token fositeconsent.Token, err error) {
	ticket, err := v.page(ctx)
	if err != nil {
		return token, err
	}
	return v.approve(ctx, ticket)
}

// respond returns the code of an authorization response.
func (v *visit) respond(ctx context.Context) (string, error) {
	in, ar, err := v.request(ctx)
	if err != nil {
		return "", err
	}
	response, err := in.provider.NewAuthorizeResponse(ctx, ar, v.session())
	if err != nil {
		return "", err
	}
	return response.GetCode(), nil
}

func (v *visit) code(ctx context.Context) (string, error) {
	ticket, err := v.page(ctx)
	if err != nil {
		return "", err
	}
	return v.respond(fositeconsent.WithDecision(ctx, ticket, decision))
}

// tokens are what the token endpoint issues.
type tokens struct{ access, refresh string }

func (v *visit) tokens(ctx context.Context) (t tokens, err error) {
	code, err := v.code(ctx)
	if err != nil {
		return t, err
	}
	return v.exchange(ctx, code)
}

func (v *visit) exchange(ctx context.Context, code string) (tokens, error) {
	return v.token(ctx, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {v.verifier},
	})
}

func (v *visit) refresh(ctx context.Context, token string) (tokens, error) {
	return v.token(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

func (v *visit) token(ctx context.Context, form url.Values) (t tokens, err error) {
	in := v.instance()
	form.Set("client_id", "app")
	r, err := in.provider.NewAccessRequest(ctx, post(form), openid.NewDefaultSession())
	if err != nil {
		return t, err
	}
	response, err := in.provider.NewAccessResponse(ctx, r)
	if err != nil {
		return t, err
	}
	t.access = response.GetAccessToken()
	t.refresh, _ = response.GetExtra("refresh_token").(string)
	if t.access == "" || t.refresh == "" || response.GetExtra("id_token") == nil {
		return t, errors.New("a token is missing")
	}
	return t, nil
}

func (v *visit) introspect(ctx context.Context, access string) error {
	_, _, err := v.instance().provider.IntrospectToken(ctx, access, fosite.AccessToken, openid.NewDefaultSession())
	return err
}

// ended returns an error unless neither of the tokens is good for anything.
func (v *visit) ended(ctx context.Context, t tokens) error {
	if err := refused("a revoked access token", v.introspect(ctx, t.access), fosite.ErrInactiveToken, fosite.ErrRequestUnauthorized); err != nil {
		return err
	}
	_, err := v.refresh(ctx, t.refresh)
	return refused("a revoked refresh token", err, fosite.ErrInvalidGrant)
}

func post(form url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

// What should happen.

// violation is what must not happen, however slow the machine is.
type violation struct{ error }

// refused returns an error unless err is one of the reasons to refuse.
func refused(what string, err error, reasons ...error) error {
	if err == nil {
		return violation{errors.New(what + " is accepted")}
	}
	if !isOne(err, reasons) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func isOne(err error, reasons []error) bool {
	for _, reason := range reasons {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// oneWins does something several times at once. It returns an error unless one of them
// succeeds, and the others are refused for one of the reasons.
func oneWins(what string, times int, do func() error, reasons ...error) error {
	errs := make([]error, times)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = do() })
	}
	all.Wait()
	var won int
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !isOne(err, reasons):
			return fmt.Errorf("%s, at once: %w", what, err)
		}
	}
	if won > 1 {
		return violation{fmt.Errorf("%s is used %d times", what, won)}
	}
	if won == 0 {
		return fmt.Errorf("%s is good for none of %d", what, times)
	}
	return nil
}
