package storagetest

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/ory/fosite"
)

// state is what there is for calls to change or to read.
type state struct {
	r       *fosite.Request
	code    key
	tokens  tokens
	pushed  *fosite.AuthorizeRequest
	uri     string
	usedJTI string
	token   string // with a nonce
	nonce   string
}

func (s *checked) newState() *state {
	s.Helper()
	st := &state{r: s.newRequest()}
	st.code, st.tokens = s.newCodeOf(st.r), s.newTokensOf(st.r)
	if s.par != nil {
		st.pushed, st.uri = s.newPushed(10*time.Minute), newRequestURI()
		s.must("CreatePARSession", s.push(s.ctx, st.uri, st.pushed))
	}
	st.usedJTI = rand.Text()
	s.must("SetClientAssertionJWT", clientJTIs.mark(s, s.ctx, st.usedJTI, s.now().Add(time.Hour)))
	if s.nonces != nil {
		st.token = newAccess().whole
		st.nonce = s.newNonce(st.token, s.now().Add(time.Hour))
	}
	return st
}

// unchanged checks that all of it is as it was.
func (s *checked) unchanged(st *state) {
	s.Helper()
	s.wantFresh("afterwards", st.code, st.r)
	s.wantLive("afterwards", st.tokens)
	if s.par != nil {
		s.wantPushedRead("reading the pushed request afterwards", st.uri, st.pushed)
	}
}

// call is one call that a context may interrupt.
type call struct {
	name string
	here func(*checked) bool
	call func(s *checked, ctx context.Context, st *state) error
	// after checks what a write would have added.
	after func(s *checked, st *state)
}

func always(*checked) bool       { return true }
func withPKCE(s *checked) bool   { return s.pkce != nil }
func withOpenID(s *checked) bool { return s.openid != nil }
func withPAR(s *checked) bool    { return s.par != nil }
func withJWTs(s *checked) bool   { return s.jwts != nil }
func withNonces(s *checked) bool { return s.nonces != nil }
func withTX(s *checked) bool     { return s.tx != nil }

// writes returns every call that changes something, under new keys.
func writes() []call {
	code, bare, t := newCode(), newCode(), newTokens()
	uri, jti := newRequestURI(), rand.Text()
	absent := func(read func(s *checked, ctx context.Context, k key, session fosite.Session) (fosite.Requester, error), k key) func(*checked, *state) {
		return func(s *checked, _ *state) {
			_, err := read(s, s.ctx, k, s.config.NewSession())
			s.want("reading what was not stored", err, notFound)
		}
	}
	// The code to which the PKCE data and the OpenID Connect session would belong.
	within := func(write func(s *checked, ctx context.Context, k key, r *fosite.Request) error) func(*checked, context.Context, *state) error {
		return func(s *checked, ctx context.Context, st *state) error {
			_ = s.createCode(s.ctx, bare, with(st.r, codeForm))
			return write(s, ctx, bare, st.r)
		}
	}
	return []call{
		{"CreateAuthorizeCodeSession", always, func(s *checked, ctx context.Context, st *state) error {
			return s.createCode(ctx, code, with(st.r, codeForm))
		}, absent((*checked).getCode, code)},
		{"CreatePKCERequestSession", withPKCE, within(func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			return s.createPKCE(ctx, k, with(r, pkceForm))
		}), absent((*checked).getPKCE, bare)},
		{"CreateOpenIDConnectSession", withOpenID, within(func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			return s.createOpenID(ctx, k, with(r, openIDForm))
		}), absent((*checked).getOpenID, bare)},
		{"CreateAccessTokenSession", always, func(s *checked, ctx context.Context, st *state) error {
			return s.createAccess(ctx, t.access, st.r)
		}, absent((*checked).getAccess, t.access)},
		{"CreateRefreshTokenSession", always, func(s *checked, ctx context.Context, st *state) error {
			return s.createRefresh(ctx, tokens{access: st.tokens.access, refresh: t.refresh}, st.r)
		}, absent((*checked).getRefresh, t.refresh)},
		{"CreatePARSession", withPAR, func(s *checked, ctx context.Context, st *state) error {
			return s.push(ctx, uri, st.pushed)
		}, func(s *checked, _ *state) { s.wantNotPushed("reading what was not stored", uri) }},
		{"SetClientAssertionJWT", always, func(s *checked, ctx context.Context, _ *state) error {
			return clientJTIs.mark(s, ctx, jti, s.now().Add(time.Hour))
		}, func(s *checked, _ *state) { s.wantJTI("asking for what was not marked", clientJTIs, jti, false) }},
		{"SetClientAssertionJWT of a used ID", always, func(s *checked, ctx context.Context, st *state) error {
			return clientJTIs.mark(s, ctx, st.usedJTI, s.now().Add(time.Hour))
		}, func(s *checked, st *state) {
			s.wantJTI("asking for what was marked before", clientJTIs, st.usedJTI, true)
		}},
		{"MarkJWTUsedForTime", withJWTs, func(s *checked, ctx context.Context, _ *state) error {
			return bearerJTIs.mark(s, ctx, jti+"b", s.now().Add(time.Hour))
		}, func(s *checked, _ *state) { s.wantJTI("asking for what was not marked", bearerJTIs, jti+"b", false) }},
		{"InvalidateAuthorizeCodeSession", always, func(s *checked, ctx context.Context, st *state) error {
			return s.invalidateCode(ctx, st.code)
		}, nil},
		{"DeleteAccessTokenSession", always, func(s *checked, ctx context.Context, st *state) error {
			return s.deleteAccess(ctx, st.tokens.access)
		}, nil},
		{"DeleteRefreshTokenSession", always, func(s *checked, ctx context.Context, st *state) error {
			return s.deleteRefresh(ctx, st.tokens.refresh)
		}, nil},
		{"RotateRefreshToken", always, func(s *checked, ctx context.Context, st *state) error {
			return s.rotateRefresh(ctx, st.r.ID, st.tokens.refresh)
		}, nil},
		{"RevokeRefreshToken", always, func(s *checked, ctx context.Context, st *state) error {
			return s.revokeRefresh(ctx, st.r.ID)
		}, nil},
		{"RevokeAccessToken", always, func(s *checked, ctx context.Context, st *state) error {
			return s.revokeAccess(ctx, st.r.ID)
		}, nil},
		{"a redemption", always, func(s *checked, ctx context.Context, st *state) error {
			return s.redeem(ctx, st.code, st.r, t)
		}, func(s *checked, _ *state) { s.wantNothing("afterwards", t) }},
		{"NewNonce", withNonces, func(s *checked, ctx context.Context, st *state) error {
			_, err := s.nonces.NewNonce(ctx, st.token, s.now().Add(time.Hour))
			return s.inspect("NewNonce", err)
		}, nil},
		{"BeginTX", withTX, func(s *checked, ctx context.Context, st *state) error {
			return s.inTX(ctx, func(ctx context.Context) error { return s.issue(ctx, st.r, t) })
		}, func(s *checked, _ *state) { s.wantNothing("afterwards", t) }},
	}
}

// reads returns every call that asks for something, which is there or is not.
func reads() []call {
	of := func(read func(s *checked, ctx context.Context, k key, session fosite.Session) (fosite.Requester, error), k func(*state) key) func(*checked, context.Context, *state) error {
		return func(s *checked, ctx context.Context, st *state) error {
			got, err := read(s, ctx, k(st), s.config.NewSession())
			if err != nil && got != nil {
				s.Errorf("a request came with the error %v", err)
			}
			return err
		}
	}
	code := func(st *state) key { return st.code }
	unknown := func(*state) key { return newCode() }
	access := func(st *state) key { return st.tokens.access }
	refresh := func(st *state) key { return st.tokens.refresh }
	return []call{
		{"GetClient", always, func(s *checked, ctx context.Context, _ *state) error {
			_, err := s.under.GetClient(ctx, s.client.GetID())
			return s.inspect("GetClient", err)
		}, nil},
		{"GetClient of an unknown one", always, func(s *checked, ctx context.Context, _ *state) error {
			_, err := s.under.GetClient(ctx, newClient().ID)
			return s.inspect("GetClient", err)
		}, nil},
		{"GetAuthorizeCodeSession", always, of((*checked).getCode, code), nil},
		{"GetAuthorizeCodeSession of an unknown code", always, of((*checked).getCode, unknown), nil},
		{"GetPKCERequestSession", withPKCE, of((*checked).getPKCE, code), nil},
		{"GetPKCERequestSession of an unknown code", withPKCE, of((*checked).getPKCE, unknown), nil},
		{"GetOpenIDConnectSession", withOpenID, of((*checked).getOpenID, code), nil},
		{"GetOpenIDConnectSession of an unknown code", withOpenID, of((*checked).getOpenID, unknown), nil},
		{"GetAccessTokenSession", always, of((*checked).getAccess, access), nil},
		{"GetAccessTokenSession of an unknown token", always, of((*checked).getAccess, unknown), nil},
		{"GetRefreshTokenSession", always, of((*checked).getRefresh, refresh), nil},
		{"GetRefreshTokenSession of an unknown token", always, of((*checked).getRefresh, unknown), nil},
		{"GetPARSession", withPAR, func(s *checked, ctx context.Context, st *state) error {
			_, err := s.getPushed(ctx, st.uri)
			return err
		}, nil},
		{"ClientAssertionJWTValid", always, func(s *checked, ctx context.Context, _ *state) error {
			return s.inspect("ClientAssertionJWTValid", s.under.ClientAssertionJWTValid(ctx, rand.Text()))
		}, nil},
		{"IsJWTUsed", withJWTs, func(s *checked, ctx context.Context, _ *state) error {
			used, err := bearerJTIs.used(s, ctx, rand.Text())
			if err == nil && used {
				return errors.New("used") // which fosite refuses as well
			}
			return err
		}, nil},
		{"IsNonceValid", withNonces, func(s *checked, ctx context.Context, st *state) error {
			return s.inspect("IsNonceValid", s.nonces.IsNonceValid(ctx, st.token, st.nonce))
		}, nil},
	}
}

// overContexts runs a step with each kind of context that is over before the call.
func (s *checked) overContexts(test func(s *checked, over context.Context)) {
	s.Helper()
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	withCause, cancelCause := context.WithCancelCause(s.ctx)
	cancelCause(errors.New("the client went away"))
	late, cancelLate := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancelLate()
	s.step("by the caller", func(s *checked) { test(s, cancelled) })
	s.step("by the caller with a cause", func(s *checked) { test(s, withCause) })
	s.step("by a deadline that is passed", func(s *checked) { test(s, late) })
}

func interruptedWrites(p *probe) {
	p.open().overContexts(func(s *checked, over context.Context) {
		st := s.newState()
		for _, c := range writes() {
			if !c.here(s) {
				continue
			}
			s.step(c.name, func(s *checked) {
				s.want(c.name, c.call(s, over, st), failed, conflict)
				s.unchanged(st)
				if c.after != nil {
					c.after(s, st)
				}
			})
		}
	})
}

// interruptedReads: of PKCE data that are not found, fosite asks no verifier; of an
// OpenID Connect session, it issues no ID token; of a JWT's ID, it accepts the JWT.
func interruptedReads(p *probe) {
	p.open().overContexts(func(s *checked, over context.Context) {
		st := s.newState()
		for _, c := range reads() {
			if c.here(s) {
				s.want(c.name, c.call(s, over, st), failed, conflict)
			}
		}
		s.unchanged(st)
	})
}

func brokenBackend(p *probe) {
	s := p.openWith(Options{Broken: true})
	st := &state{
		r: s.newRequest(), code: newCode(), tokens: newTokens(), uri: newRequestURI(),
		usedJTI: rand.Text(), token: newAccess().whole, nonce: rand.Text(),
	}
	st.pushed = pushed(st.r)
	var calls []call
	for _, c := range append(writes(), reads()...) {
		if c.here(s) {
			calls = append(calls, c)
		}
	}
	// All at once: a storage that tries again takes its time over each of them.
	for i, err := range race(len(calls), func(i int) error { return calls[i].call(s, s.ctx, st) }) {
		s.want(calls[i].name, err, failed, conflict)
	}
}

// errorsTellNothing provokes every error that there is. What is told is looked for in
// every call of every other test, too.
func errorsTellNothing(p *probe) {
	s := p.open()
	r, t := s.newRequest(), newTokens()
	code := s.newCodeOf(r)
	s.must("the redemption", s.redeem(s.ctx, code, r, t))
	s.must("the rotation", s.rotateRefresh(s.ctx, r.ID, t.refresh))
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	type reader func(s *checked, ctx context.Context, k key, session fosite.Session) (fosite.Requester, error)
	readers := []reader{(*checked).getCode, (*checked).getAccess, (*checked).getRefresh}
	if s.pkce != nil {
		readers = append(readers, (*checked).getPKCE)
	}
	if s.openid != nil {
		readers = append(readers, (*checked).getOpenID)
	}
	for _, ctx := range []context.Context{s.ctx, cancelled} {
		for _, k := range []key{code, t.access, t.refresh, newCode(), newAccess(), newRefresh()} {
			for _, read := range readers {
				_, _ = read(s, ctx, k, s.config.NewSession())
			}
			_ = s.invalidateCode(ctx, k)
			_ = s.rotateRefresh(ctx, r.ID, k)
			_ = s.rotateRefresh(ctx, newID(), k)
			_ = s.deleteAccess(ctx, newAccess())
			_ = s.deleteRefresh(ctx, newRefresh())
		}
		// What is stored already, or is no text.
		odd := key{whole: newCode().whole + "\x00\xff", signature: newCode().signature + "\x00\xff"}
		for _, k := range []key{code, odd} {
			_ = s.createCode(ctx, k, with(r, codeForm))
			if s.pkce != nil {
				_ = s.createPKCE(ctx, k, with(r, pkceForm))
			}
			if s.openid != nil {
				_ = s.createOpenID(ctx, k, with(r, openIDForm))
			}
			for _, read := range readers {
				_, _ = read(s, ctx, k, s.config.NewSession())
			}
		}
		for _, k := range []tokens{t, {access: odd, refresh: odd}} {
			_ = s.createAccess(ctx, k.access, r)
			_ = s.createRefresh(ctx, k, r)
		}
		if s.nonces != nil {
			for _, token := range []string{newAccess().whole, odd.whole} {
				s.learn(key{whole: token})
				_ = s.nonceValid(token, rand.Text())
				_, err := s.nonces.NewNonce(cancelled, token, s.now().Add(time.Hour))
				_ = s.inspect("NewNonce", err)
			}
		}
	}
}
