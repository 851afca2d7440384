package storagetest

import (
	"net/url"
	"time"

	"github.com/ory/fosite"
)

// newPushed returns a pushed request that expires a while from now.
func (s *checked) newPushed(lifespan time.Duration) *fosite.AuthorizeRequest {
	r := s.sample(kinds[len(kinds)-1])
	r.Session.SetExpiresAt(fosite.PushedAuthorizeRequestContext, s.instant().Add(lifespan))
	return pushed(r)
}

func (s *checked) wantPushedRead(what, requestURI string, want *fosite.AuthorizeRequest) {
	s.Helper()
	got, err := s.getPushed(s.ctx, requestURI)
	s.want(what, err, succeeded)
	if err == nil {
		s.wantSame(what, got, want)
		s.wantPushed(got, want)
	}
}

// wantNotPushed wants an error without a request: fosite makes the same of any.
func (s *checked) wantNotPushed(what, requestURI string) {
	s.Helper()
	got, err := s.getPushed(s.ctx, requestURI)
	s.wantRefused(what, err)
	if err != nil && got != nil {
		s.Errorf("%s: a request came with the error %v", what, err)
	}
}

// pushedStaysReadable: fosite deletes a pushed request when it first reads it, before it
// compares the client, and long before the user has signed in and consented
// (RFC 9126, Sections 4 and 7.3: the same user agent may come again).
func pushedStaysReadable(p *probe) {
	s := p.open()
	r, uri := s.newPushed(10*time.Minute), newRequestURI()
	s.must("CreatePARSession", s.push(s.ctx, uri, r))
	for range 3 {
		s.wantPushedRead("reading the pushed request", uri, r)
		s.want("DeletePARSession", s.deletePushed(s.ctx, uri), succeeded)
	}
	s.wantPushedRead("reading the pushed request at last", uri, r)
	s.wantNotPushed("reading an unknown pushed request", newRequestURI())
}

// pushedExpired: fosite does not look at when a pushed request expires (RFC 9126, Section 4).
func pushedExpired(p *probe) {
	s := p.open()
	for _, ago := range []time.Duration{30 * time.Minute, 48 * time.Hour, 10000 * time.Hour} {
		r, uri := s.newPushed(-ago), newRequestURI()
		if err := s.push(s.ctx, uri, r); err != nil {
			s.want("CreatePARSession of what has expired", err, failed)
		}
		s.wantNotPushed("reading a pushed request that has expired", uri)
	}
}

func pushedExpiresByClock(p *probe) {
	s, clock := p.openWithClock()
	const lifespan = 90 * time.Second
	r, uri := s.newPushed(lifespan), newRequestURI()
	s.must("CreatePARSession", s.push(s.ctx, uri, r))
	s.want("DeletePARSession", s.deletePushed(s.ctx, uri), succeeded)
	clock.advance(lifespan - time.Second)
	s.wantPushedRead("reading the pushed request a second before it expires", uri, r)
	clock.advance(time.Second)
	s.wantNotPushed("reading the pushed request when it expires", uri)
	clock.advance(24 * time.Hour)
	s.wantNotPushed("reading the pushed request a day later", uri)
}

// pushedWithoutExpiry: fosite sets the expiry on the session, if the host has given one.
func pushedWithoutExpiry(p *probe) {
	s, clock := p.openWithClock()
	for _, session := range []fosite.Session{nil, s.config.NewSession()} {
		r, uri := s.newPushed(0), newRequestURI()
		r.Session = session
		if err := s.push(s.ctx, uri, r); err != nil {
			s.want("CreatePARSession without an expiry", err, failed)
			continue
		}
		clock.advance(24 * time.Hour)
		s.wantNotPushed("reading a pushed request without an expiry a day later", uri)
	}
}

// pushedWithoutCredentials: the form is the one by which the client authenticated itself.
func pushedWithoutCredentials(p *probe) {
	s := p.open()
	secret := newKey("").whole
	s.learn(key{whole: secret})
	r, uri := s.newPushed(10*time.Minute), newRequestURI()
	plain := with(&r.Request, nil)
	r.Form = with(&r.Request, url.Values{
		"client_secret":         {secret, "twice"},
		"client_assertion":      {secret},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	}).Form
	before := clone(&r.Request)
	s.must("CreatePARSession", s.push(s.ctx, uri, r))
	s.wantForm("the caller's request", r.Form, before.Form, before.Form) // fosite is not done with it
	got, err := s.getPushed(s.ctx, uri)
	s.must("GetPARSession", err)
	s.wantForm("the pushed request", got.GetRequestForm(), plain.Form, plain.Form)
}
