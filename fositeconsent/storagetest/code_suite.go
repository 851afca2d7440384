package storagetest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/ory/fosite"
)

// codeFlow is every call of the authorization code flow, one after the other.
func codeFlow(p *probe) {
	s := p.open()
	r, code, first, second := s.newRequest(), newCode(), newTokens(), newTokens()
	s.must("the authorize endpoint", s.authorize(s.ctx, code, r))

	// The token endpoint.
	got, err := s.getCode(s.ctx, code, s.config.NewSession())
	s.must("reading the code", err)
	s.wantSameButForm("the code", got, r)
	if redirect := got.GetRequestForm().Get("redirect_uri"); redirect != codeForm.Get("redirect_uri") {
		s.Errorf("the code's redirect URI is %q, want %q", redirect, codeForm.Get("redirect_uri"))
	}
	if s.pkce != nil {
		got, err := s.getPKCE(s.ctx, code, s.config.NewSession())
		s.must("reading the PKCE data", err)
		s.wantForm("PKCE data", got.GetRequestForm(), pkceForm, s.everyParameter(r))
		s.must("deleting the PKCE data", s.deletePKCE(s.ctx, code))
	}
	_, err = s.getCode(s.ctx, code, s.config.NewSession())
	s.must("reading the code again", err)
	s.must("the redemption", s.redeem(s.ctx, code, r, first))
	if s.openid != nil {
		got, err := s.getOpenID(s.ctx, code, s.config.NewSession())
		s.must("reading the OpenID Connect session", err)
		s.wantSameButForm("the OpenID Connect session", got, r)
		s.wantForm("OpenID Connect session", got.GetRequestForm(), openIDForm, s.everyParameter(r))
		s.must("deleting the OpenID Connect session", s.deleteOpenID(s.ctx, code))
	}
	s.wantLive("after the redemption", first)

	// A refresh.
	got, err = s.getRefresh(s.ctx, first.refresh, s.config.NewSession())
	s.must("reading the refresh token", err)
	s.wantSame("the refresh token", got, r)
	s.must("the rotation", s.rotate(s.ctx, r, first.refresh, second))
	s.wantLive("after the rotation", second)
	s.wantDead("after the rotation", first)
}

// newCodeOf stores a code, with what belongs to it, of a request.
func (s *checked) newCodeOf(r *fosite.Request) key {
	s.Helper()
	code := newCode()
	s.must("storing a code", s.authorize(s.ctx, code, r))
	return code
}

func invalidatedCode(p *probe) {
	s := p.open()
	r := s.newRequest()
	code := s.newCodeOf(r)
	s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(s.ctx, code))
	for range 2 {
		got, err := s.getCode(s.ctx, code, s.config.NewSession())
		s.want("reading the invalidated code", err, invalidated)
		s.wantID("the invalidated code", got, r)
	}
}

// invalidatedOnce: fosite reads the code and invalidates it in separate calls, and
// relies on the second to see who was first (RFC 6749, Section 4.1.2).
func invalidatedOnce(p *probe) {
	s := p.open()
	r, t := s.newRequest(), newTokens()
	code := s.newCodeOf(r)
	s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(s.ctx, code))
	s.wantRefused("invalidating a code again", s.invalidateCode(s.ctx, code))
	s.wantRefused("redeeming an invalidated code", s.redeem(s.ctx, code, r, t))
	s.wantNothing("after the refused redemption", t)
	got, err := s.getCode(s.ctx, code, s.config.NewSession())
	s.want("reading the invalidated code", err, invalidated)
	s.wantID("the invalidated code", got, r)
}

func unknownCodeInvalidated(p *probe) {
	s := p.open()
	for _, unknown := range []key{newCode(), {}} {
		s.wantRefused("invalidating an unknown code", s.invalidateCode(s.ctx, unknown))
		_, err := s.getCode(s.ctx, unknown, s.config.NewSession())
		s.want("reading an unknown code", err, notFound)
	}
}

func manyRedemptions(p *probe) {
	s := p.open()
	s.atEachCall("a second", func(s *checked, at int) {
		r := s.newRequest()
		code, mine, others := s.newCodeOf(r), newTokens(), newTokens()
		err, othersErr := s.meanwhile(at, func(func()) error { return s.redeem(s.ctx, code, clone(r), others) }, s.redemption(code, r, mine), func() {})
		s.onlyWinner("redemptions", []error{err, othersErr}, []tokens{mine, others})
	})
	for range rounds {
		r := s.newRequest()
		code := s.newCodeOf(r)
		all := make([]tokens, presenters)
		requests := make([]*fosite.Request, presenters)
		for i := range all {
			all[i], requests[i] = newTokens(), clone(r)
			// Everyone has got so far as to see that the code is good.
			_, err := s.getCode(s.ctx, code, s.config.NewSession())
			s.must("reading the code", err)
		}
		errs := race(presenters, func(i int) error { return s.redeem(s.ctx, code, requests[i], all[i]) })
		s.onlyWinner("redemptions", errs, all)
		_, err := s.getCode(s.ctx, code, s.config.NewSession())
		s.want("reading the redeemed code", err, invalidated)
	}
}

// onlyWinner checks that one call won, and that only what it issued was stored. A
// storage may have ended that too, since somebody else presented the same.
func (s *checked) onlyWinner(what string, errs []error, all []tokens) {
	s.Helper()
	winner := s.winner(what, errs)
	for i, t := range all {
		switch {
		case errs[i] != nil:
			s.wantNothing("after "+what+", of a loser", t)
		case i == winner:
			_, accessErr := s.getAccess(s.ctx, t.access, s.config.NewSession())
			_, refreshErr := s.getRefresh(s.ctx, t.refresh, s.config.NewSession())
			if (accessErr == nil) != (refreshErr == nil) {
				s.Errorf("after %s, one of the winner's tokens is live and one is not: %v, %v", what, accessErr, refreshErr)
			}
		}
	}
}

func independentRedemptions(p *probe) {
	s := p.open()
	s.atEachCall("another", func(s *checked, at int) {
		r, other := s.newRequest(), s.newRequest()
		code, othersCode, mine, others := s.newCodeOf(r), s.newCodeOf(other), newTokens(), newTokens()
		err, othersErr := s.meanwhile(at, func(func()) error { return s.redeem(s.ctx, othersCode, other, others) }, s.redemption(code, r, mine), func() {})
		s.want("a redemption", err, succeeded)
		s.want("a redemption of another code", othersErr, succeeded)
		s.wantLive("after the redemptions", mine)
		s.wantLive("after the redemptions", others)
	})
	codes := make([]key, presenters)
	requests := make([]*fosite.Request, presenters)
	all := make([]tokens, presenters)
	for i := range codes {
		requests[i], all[i] = s.newRequest(), newTokens()
		codes[i] = s.newCodeOf(requests[i])
	}
	for i, err := range race(presenters, func(i int) error { return s.redeem(s.ctx, codes[i], requests[i], all[i]) }) {
		s.want("a redemption among those of other codes", err, succeeded)
		s.wantLive("after it", all[i])
	}
}

func replayedCode(p *probe) {
	s := p.open()
	r, other, first, second, others := s.newRequest(), s.newRequest(), newTokens(), newTokens(), newTokens()
	code, otherCode := s.newCodeOf(r), s.newCodeOf(other)
	s.must("the redemption", s.redeem(s.ctx, code, r, first))
	s.must("the rotation", s.rotate(s.ctx, r, first.refresh, second))
	s.must("the other redemption", s.redeem(s.ctx, otherCode, other, others))
	for range 2 {
		used, err := s.replay(s.ctx, code)
		s.want("presenting a code again", err, succeeded)
		if !used {
			s.Error("a code that was redeemed is not invalidated")
		}
		s.wantDead("after the replay", first)
		s.wantDead("after the replay", second)
	}
	s.wantLive("after the replay of another code", others)
}

// replayRacesRedemption: what the first redemption has not stored yet when the second
// is noticed must not come alive afterwards.
func replayRacesRedemption(p *probe) {
	s := p.open()
	s.atEachCall("a replay", func(s *checked, at int) {
		for range rounds {
			r, t := s.newRequest(), newTokens()
			code := s.newCodeOf(r)
			redeemed := make(chan struct{})
			noticed := false
			replay := func(turn func()) (err error) {
				for {
					over := s.tx == nil || isClosed(redeemed)
					if noticed, err = s.replay(s.ctx, code); noticed && err == nil || over {
						return err
					}
					turn()
				}
			}
			redeemErr, err := s.meanwhile(at, replay, s.redemption(code, r, t), func() { close(redeemed) })
			if s.tx != nil {
				s.want("the redemption", redeemErr, succeeded)
			}
			if err != nil || !noticed { // it came too early
				noticed, err = s.replay(s.ctx, code)
			}
			s.want("the replay", err, succeeded)
			if !noticed {
				s.Error("a code that was redeemed is not invalidated")
			}
			s.wantDead("after the redemption and the replay", t)
		}
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// meanwhile makes calls in one transaction and has somebody else act after the first n
// of them: at the same time where there are transactions, and else in between. It
// calls over when the calls are, and returns their error and the other's. The other one
// may call turn to say that it has got as far as the calls are to wait for.
func (s *checked) meanwhile(n int, other func(turn func()) error, calls []func(context.Context) error, over func()) (err, othersErr error) {
	s.Helper()
	acted, turned := make(chan error, 1), make(chan struct{})
	turn := sync.OnceFunc(func() { close(turned) })
	acts := 0
	act := func() {
		acts++
		do := func() {
			defer turn()
			acted <- other(turn)
		}
		if s.tx == nil {
			do()
		} else {
			go do()
		}
	}
	err = s.inTX(s.ctx, func(ctx context.Context) error {
		var err error
		for i := range len(calls) + 1 {
			if i == n {
				act()
				// The other one may have to wait for this transaction to end, so
				// this one waits for it no longer than some reads take.
				for reads := 0; reads < 100 && !isClosed(turned); reads++ {
					runtime.Gosched() // for storages whose reads take no time
					if _, err := s.getAccess(ctx, newAccess(), s.config.NewSession()); outcomeOf(err) != notFound {
						return err
					}
				}
			}
			if i < len(calls) && err == nil {
				err = calls[i](ctx)
			}
			if err != nil && s.tx != nil {
				return err
			}
		}
		return err
	})
	over()
	if acts == 0 { // the calls came to an end before
		act()
	}
	select {
	case othersErr = <-acted:
	case <-s.ctx.Done():
		s.Fatal("the other's calls do not return")
	}
	return err, othersErr
}

// redemption is redeem, call by call.
func (s *checked) redemption(code key, r *fosite.Request, t tokens) []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error { return s.invalidateCode(ctx, code) },
		func(ctx context.Context) error { return s.createAccess(ctx, t.access, r) },
		func(ctx context.Context) error { return s.createRefresh(ctx, t, r) },
	}
}

// rotation is rotate, call by call.
func (s *checked) rotation(r *fosite.Request, old key, t tokens) []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error { return s.rotateRefresh(ctx, r.GetID(), old) },
		func(ctx context.Context) error { return s.createAccess(ctx, t.access, r) },
		func(ctx context.Context) error { return s.createRefresh(ctx, t, r) },
	}
}

// atEachCall runs a step for each moment at which somebody else may act.
func (s *checked) atEachCall(what string, test func(s *checked, at int)) {
	s.Helper()
	const calls = 3 // of a redemption or a rotation
	for at := range calls + 1 {
		s.step(fmt.Sprintf("%s after %d of %d calls", what, at, calls), func(s *checked) { test(s, at) })
	}
}

// pkceOutlivesFailure: fosite deletes the PKCE data before it looks at the verifier. If
// they were gone then, a second attempt without any verifier would be one at a code
// that never had PKCE (RFC 9700, Section 2.1.1).
func pkceOutlivesFailure(p *probe) {
	s := p.open()
	r := s.newRequest()
	code := s.newCodeOf(r)
	for range 3 {
		got, err := s.getPKCE(s.ctx, code, s.config.NewSession())
		s.want("reading the PKCE data of a code that is not redeemed", err, succeeded)
		if err == nil {
			s.wantForm("PKCE data", got.GetRequestForm(), pkceForm, s.everyParameter(r))
		}
		s.want("deleting the PKCE data", s.deletePKCE(s.ctx, code), succeeded)
	}
	s.wantFresh("after the failed attempts", code, r)
}

func noPKCEData(p *probe) {
	s := p.open()
	r, code, other := s.newRequest(), newCode(), newCode()
	s.must("storing a code", s.createCode(s.ctx, code, with(r, codeForm)))
	if s.openid != nil {
		s.must("storing its OpenID Connect session", s.createOpenID(s.ctx, code, with(r, openIDForm)))
	}
	s.must("storing a code that has some", s.authorize(s.ctx, other, s.newRequest()))
	_, err := s.getPKCE(s.ctx, code, s.config.NewSession())
	s.want("reading the PKCE data of a code without", err, notFound)
}

func noOpenIDSession(p *probe) {
	s := p.open()
	r, code, other := s.newRequest(), newCode(), newCode()
	s.must("storing a code", s.createCode(s.ctx, code, with(r, codeForm)))
	if s.pkce != nil {
		s.must("storing its PKCE data", s.createPKCE(s.ctx, code, with(r, pkceForm)))
	}
	s.must("storing a code that has one", s.authorize(s.ctx, other, s.newRequest()))
	_, err := s.getOpenID(s.ctx, code, s.config.NewSession())
	s.want("reading the OpenID Connect session of a code without", err, notFound)
}

// openIDByWholeCode: the one method that fosite gives the whole code, and no signature.
func openIDByWholeCode(p *probe) {
	s := p.open()
	r := s.newRequest()
	code := s.newCodeOf(r)
	got, err := s.getOpenID(s.ctx, code, s.config.NewSession())
	s.must("reading the OpenID Connect session", err)
	s.wantSameButForm("the OpenID Connect session", got, r)
	for _, wrong := range []string{
		code.signature,
		newCode().whole,
		strings.TrimSuffix(newCode().whole, newCode().signature) + code.signature, // another secret under this signature
		strings.TrimPrefix(code.whole, "ory_ac_"),
		strings.TrimSuffix(code.whole, code.signature),
		strings.ToUpper(code.whole),
		code.whole + ".",
	} {
		_, err := s.getOpenID(s.ctx, key{whole: wrong}, s.config.NewSession())
		s.want("reading by a part of the code", err, notFound)
	}
}

func openIDOutlivesRedemption(p *probe) {
	s := p.open()
	r, t := s.newRequest(), newTokens()
	code := s.newCodeOf(r)
	s.must("the redemption", s.redeem(s.ctx, code, r, t))
	got, err := s.getOpenID(s.ctx, code, s.config.NewSession())
	s.want("reading the OpenID Connect session of a redeemed code", err, succeeded)
	if err == nil {
		s.wantSameButForm("the OpenID Connect session", got, r)
		s.wantForm("OpenID Connect session", got.GetRequestForm(), openIDForm, s.everyParameter(r))
	}
	s.want("deleting it", s.deleteOpenID(s.ctx, code), succeeded)
}

// openIDSessionOfItsOwn: in the hybrid flow, fosite sets a claim on the session between
// storing the code and storing this (OpenID Connect Core 1.0, Section 3.3.2.11).
func openIDSessionOfItsOwn(p *probe) {
	s := p.open()
	r, code := s.newRequest(), newCode()
	changed := clone(r)
	s.config.FillSession(changed.Session, "changed in between")
	changed.Session.SetExpiresAt(fosite.IDToken, s.instant().Add(3*time.Minute))
	s.must("storing a code", s.createCode(s.ctx, code, with(r, codeForm)))
	s.must("storing its OpenID Connect session", s.createOpenID(s.ctx, code, with(changed, openIDForm)))
	got, err := s.getOpenID(s.ctx, code, s.config.NewSession())
	s.must("reading the OpenID Connect session", err)
	s.wantSameButForm("the OpenID Connect session", got, changed)
	got, err = s.getCode(s.ctx, code, s.config.NewSession())
	s.must("reading the code", err)
	s.wantSameButForm("the code", got, r)
}
