package storagetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// jtis is how a JWT's ID is asked for, and marked as used (RFC 7523, Section 3).
type jtis struct {
	used func(s *checked, ctx context.Context, jti string) (bool, error)
	mark func(s *checked, ctx context.Context, jti string, exp time.Time) error
}

var (
	clientJTIs = jtis{
		used: func(s *checked, ctx context.Context, jti string) (bool, error) {
			s.Helper()
			err := s.inspect("ClientAssertionJWTValid", s.under.ClientAssertionJWTValid(ctx, jti))
			if outcomeOf(err) == jtiKnown {
				return true, nil
			}
			return false, err
		},
		mark: func(s *checked, ctx context.Context, jti string, exp time.Time) error {
			s.Helper()
			return s.inspect("SetClientAssertionJWT", s.under.SetClientAssertionJWT(ctx, jti, exp))
		},
	}
	bearerJTIs = jtis{
		used: func(s *checked, ctx context.Context, jti string) (bool, error) {
			s.Helper()
			used, err := s.jwts.IsJWTUsed(ctx, jti)
			return used, s.inspect("IsJWTUsed", err)
		},
		mark: func(s *checked, ctx context.Context, jti string, exp time.Time) error {
			s.Helper()
			return s.inspect("MarkJWTUsedForTime", s.jwts.MarkJWTUsedForTime(ctx, jti, exp))
		},
	}
)

func clientJWTOnce(p *probe)           { jwtOnce(p, clientJTIs) }
func bearerJWTOnce(p *probe)           { jwtOnce(p, bearerJTIs) }
func manyClientJWTs(p *probe)          { manyJWTs(p, clientJTIs) }
func manyBearerJWTs(p *probe)          { manyJWTs(p, bearerJTIs) }
func clientJWTExpired(p *probe)        { jwtExpired(p, clientJTIs) }
func bearerJWTExpired(p *probe)        { jwtExpired(p, bearerJTIs) }
func clientJWTExpiresByClock(p *probe) { jwtExpiresByClock(p, clientJTIs) }
func bearerJWTExpiresByClock(p *probe) { jwtExpiresByClock(p, bearerJTIs) }
func clientJWTExact(p *probe)          { jwtExact(p, clientJTIs) }
func bearerJWTExact(p *probe)          { jwtExact(p, bearerJTIs) }

func (s *checked) wantJTI(what string, of jtis, jti string, want bool) {
	s.Helper()
	used, err := of.used(s, s.ctx, jti)
	s.want(what, err, succeeded)
	if err == nil && used != want {
		s.Errorf("%s: used is %t, want %t", what, used, want)
	}
}

func jwtOnce(p *probe, of jtis) {
	s := p.open()
	jti, other := rand.Text(), rand.Text()
	exp := s.now().Add(time.Hour).Truncate(time.Second) // as fosite has it
	for range 2 {
		s.wantJTI("asking for a new ID", of, jti, false)
	}
	s.want("marking a new ID", of.mark(s, s.ctx, jti, exp), succeeded)
	for _, again := range []time.Time{exp, exp.Add(time.Hour), exp.Add(-time.Minute), s.now().Add(-time.Hour)} {
		s.wantJTI("asking for a used ID", of, jti, true)
		s.want("marking a used ID", of.mark(s, s.ctx, jti, again), jtiKnown)
	}
	s.wantJTI("asking for a used ID at last", of, jti, true)
	s.wantJTI("asking for another ID", of, other, false)
	s.want("marking another ID", of.mark(s, s.ctx, other, exp), succeeded)
}

func manyJWTs(p *probe, of jtis) {
	s := p.open()
	for range rounds {
		jti, exp := rand.Text(), s.now().Add(time.Hour)
		errs := race(presenters, func(int) error { return of.mark(s, s.ctx, jti, exp) })
		winner := s.winner("presentations of one JWT", errs)
		for i, err := range errs {
			if i != winner && err != nil {
				s.want("presenting a JWT that somebody else presents too", err, jtiKnown)
			}
		}
		s.wantJTI("asking for the used ID", of, jti, true)
	}
}

// jwtExpired: an expired JWT is refused without the storage, so that its ID may come
// again. A storage that never forgot one would grow for ever.
func jwtExpired(p *probe, of jtis) {
	s := p.open()
	for _, ago := range []time.Duration{30 * time.Minute, 1000 * time.Hour} {
		jti := rand.Text()
		s.want("marking an ID that has expired", of.mark(s, s.ctx, jti, s.now().Add(-ago)), succeeded)
		s.wantJTI("asking for an ID that has expired", of, jti, false)
		s.want("marking it again", of.mark(s, s.ctx, jti, s.now().Add(time.Hour)), succeeded)
		s.wantJTI("asking for it again", of, jti, true)
		s.want("marking it once more", of.mark(s, s.ctx, jti, s.now().Add(time.Hour)), jtiKnown)
	}
}

// jwtExpiresByClock: fosite compares whole seconds, and takes a JWT to the end of the one in
// which it expires. A storage may remember for some time more, for clocks that differ.
func jwtExpiresByClock(p *probe, of jtis) {
	s, clock := p.openWithClock()
	jti := rand.Text()
	const lifespan = 40 * time.Second
	s.want("marking an ID", of.mark(s, s.ctx, jti, s.now().Add(lifespan)), succeeded)
	clock.advance(lifespan + time.Second - time.Microsecond)
	s.wantJTI("asking for it in the second in which it expires", of, jti, true)
	s.want("marking it in the second in which it expires", of.mark(s, s.ctx, jti, s.now().Add(time.Hour)), jtiKnown)
	clock.advance(10 * time.Minute)
	s.wantJTI("asking for it long after it has expired", of, jti, false)
	s.want("marking it again", of.mark(s, s.ctx, jti, s.now().Add(lifespan)), succeeded)
	s.want("marking it once more", of.mark(s, s.ctx, jti, s.now().Add(lifespan)), jtiKnown)
}

// jwtExact: what cannot be remembered must be refused, and what differs is another ID.
func jwtExact(p *probe, of jtis) {
	s := p.open()
	exp := s.now().Add(time.Hour)
	base := rand.Text()
	long := strings.Repeat("x", 4000) + base
	for _, jti := range []string{
		base, strings.ToLower(base), base + " ", " " + base, base[:len(base)-1] + "_", base + "%",
		base + "é", base + "e\u0301", base + "'; --", `"` + base + `"`,
		long, long + "y",
		base + "\x00", base + "\x00y", base + "\xff", base + "\xfe", base + "\ufffd",
	} {
		switch says := outcomeOf(of.mark(s, s.ctx, jti, exp)); says {
		case succeeded:
			s.want(fmt.Sprintf("marking %.40q again", jti), of.mark(s, s.ctx, jti, exp), jtiKnown)
			s.wantJTI(fmt.Sprintf("asking for %.40q", jti), of, jti, true)
		case failed:
			if used, err := of.used(s, s.ctx, jti); err == nil && used {
				s.Errorf("%.40q was refused and is used", jti)
			}
		default:
			s.Errorf("marking %.40q: got %s, for it was taken for another ID", jti, says)
		}
	}
}

// Nonces of handler/verifiable.

func (s *checked) newNonce(token string, exp time.Time) string {
	s.Helper()
	s.learn(key{whole: token})
	nonce, err := s.nonces.NewNonce(s.ctx, token, exp)
	s.must("NewNonce", s.inspect("NewNonce", err))
	if len(nonce) < 22 { // 128 bits in base64
		s.Errorf("a nonce has %d characters, which anybody can guess", len(nonce))
	}
	if strings.Contains(nonce, token) {
		s.Error("a nonce, which is no secret, holds its access token")
	}
	return nonce
}

func (s *checked) nonceValid(token, nonce string) error {
	s.Helper()
	s.learn(key{whole: token})
	return s.inspect("IsNonceValid", s.nonces.IsNonceValid(s.ctx, token, nonce))
}

func nonceForItsToken(p *probe) {
	s := p.open()
	token, other := newAccess().whole, newAccess().whole
	exp := s.now().Add(time.Hour)
	first, second, others := s.newNonce(token, exp), s.newNonce(token, exp), s.newNonce(other, exp)
	if first == second || first == others {
		s.Error("two nonces are the same")
	}
	s.want("IsNonceValid", s.nonceValid(token, first), succeeded)
	s.want("IsNonceValid", s.nonceValid(token, second), succeeded)
	s.want("IsNonceValid", s.nonceValid(other, others), succeeded)
	for _, wrong := range []struct{ token, nonce string }{
		{other, first},
		{token, others},
		{newAccess().whole, first},
		{token, rand.Text() + rand.Text()},
		{token, ""},
		{"", first},
		{"", ""},
		{token, first + " "},
		{token, first[:len(first)-1]},
		{token, strings.ToUpper(first) + "x"},
	} {
		s.wantRefused("IsNonceValid of another token's or an unknown nonce", s.nonceValid(wrong.token, wrong.nonce))
	}
}

func nonceExpired(p *probe) {
	s := p.open()
	token := newAccess().whole
	nonce := s.newNonce(token, s.now().Add(-30*time.Minute))
	s.wantRefused("IsNonceValid of an expired nonce", s.nonceValid(token, nonce))
}

func nonceExpiresByClock(p *probe) {
	s, clock := p.openWithClock()
	const lifespan = 40 * time.Second
	token := newAccess().whole
	nonce := s.newNonce(token, s.now().Add(lifespan))
	clock.advance(lifespan - time.Second)
	s.want("IsNonceValid a second before it expires", s.nonceValid(token, nonce), succeeded)
	clock.advance(2 * time.Second)
	s.wantRefused("IsNonceValid a second after it has expired", s.nonceValid(token, nonce))
}
