package storagetest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ory/fosite"
)

// newTokensOf issues the tokens of a request, as a grant without a code does.
func (s *checked) newTokensOf(r *fosite.Request) tokens {
	s.Helper()
	t := newTokens()
	s.must("issuing tokens", s.issue(s.ctx, r, t))
	return t
}

func deletedTokens(p *probe) {
	s := p.open()
	t, other := s.newTokensOf(s.newRequest()), s.newTokensOf(s.newRequest())
	s.must("DeleteAccessTokenSession", s.deleteAccess(s.ctx, t.access))
	s.wantDeadAccess("after the deletion", t.access)
	_, err := s.getRefresh(s.ctx, t.refresh, s.config.NewSession())
	s.want("reading the refresh token beside a deleted access token", err, succeeded)
	s.must("DeleteRefreshTokenSession", s.deleteRefresh(s.ctx, t.refresh))
	s.wantDeadRefresh("after the deletion", t.refresh)
	s.wantLive("after the deletion of others", other)
}

func revokedTokens(p *probe) {
	s := p.open()
	r := s.newRequest()
	t := s.newTokensOf(r)
	s.want("RevokeRefreshToken", s.revokeRefresh(s.ctx, r.ID), succeeded)
	s.wantDeadRefresh("after RevokeRefreshToken", t.refresh)
	s.want("RevokeAccessToken", s.revokeAccess(s.ctx, r.ID), succeeded, notFound) // the first may have ended it
	s.wantDead("after both", t)

	r = s.newRequest()
	t = s.newTokensOf(r)
	s.want("RevokeAccessToken", s.revokeAccess(s.ctx, r.ID), succeeded)
	s.wantDeadAccess("after RevokeAccessToken", t.access)
	s.want("RevokeRefreshToken", s.revokeRefresh(s.ctx, r.ID), succeeded, notFound)
	s.wantDead("after both", t)

	// A grant without a refresh token.
	r = s.newRequest()
	access := newAccess()
	s.must("storing an access token", s.createAccess(s.ctx, access, r))
	s.must("the revocation", s.revoke(s.ctx, r.ID))
	s.wantDeadAccess("after the revocation", access)
}

// revokedAccessTokens: the hybrid flow issues an access token at each endpoint.
func revokedAccessTokens(p *probe) {
	s := p.open()
	r, front, implicit := s.newRequest(), newAccess(), newAccess()
	s.must("storing an access token", s.createAccess(s.ctx, front, r))
	t := s.newTokensOf(r)
	s.must("storing an access token", s.createAccess(s.ctx, implicit, r))
	s.must("the revocation", s.revoke(s.ctx, r.ID))
	s.wantDead("after the revocation", t)
	s.wantDeadAccess("after the revocation, of the first", front)
	s.wantDeadAccess("after the revocation, of the last", implicit)
}

func revokedRefreshTokens(p *probe) {
	s := p.open()
	r := s.newRequest()
	all := []tokens{s.newTokensOf(r), s.newTokensOf(r), s.newTokensOf(r)}
	s.must("the revocation", s.revoke(s.ctx, r.ID))
	for i, t := range all {
		s.wantDead(fmt.Sprintf("after the revocation, of pair %d", i+1), t)
	}
}

func revokedOnlyItsOwn(p *probe) {
	s := p.open()
	r, other := s.newRequest(), s.newRequest()
	other.ID = r.ID + " "
	upper := s.newRequest()
	upper.ID = strings.ToUpper(r.ID)
	t, others, uppers := s.newTokensOf(r), newTokens(), newTokens()
	// Not every storage takes any text for an ID.
	tookOther, tookUpper := s.issue(s.ctx, other, others) == nil, s.issue(s.ctx, upper, uppers) == nil
	same := s.newRequest() // of the same subject and client
	same.Session = r.Session.Clone()
	sames := s.newTokensOf(same)
	s.must("the revocation", s.revoke(s.ctx, r.ID))
	s.must("the revocation of an unknown request", s.revoke(s.ctx, newID()))
	s.must("the revocation of no request", s.revoke(s.ctx, ""))
	s.must("the revocation of a pattern", s.revoke(s.ctx, "%"))
	s.wantDead("after the revocation", t)
	s.wantLive("after the revocation of another request of the same subject", sames)
	if tookOther {
		s.wantLive("after the revocation of a similar request", others)
	}
	if tookUpper && upper.ID != r.ID {
		s.wantLive("after the revocation of a request in lower case", uppers)
	}
}

func revokedAgain(p *probe) {
	s := p.open()
	r := s.newRequest()
	t := s.newTokensOf(r)
	for range 3 {
		s.want("the revocation", s.revoke(s.ctx, r.ID), succeeded)
		s.wantDead("after the revocation", t)
	}
}

func rotatedToken(p *probe) {
	s := p.open()
	r := s.newRequest()
	first, second := s.newTokensOf(r), newTokens()
	s.must("the rotation", s.rotate(s.ctx, r, first.refresh, second))
	for range 2 {
		got, err := s.getRefresh(s.ctx, first.refresh, s.config.NewSession())
		s.want("reading the rotated refresh token", err, inactive)
		s.wantID("the rotated refresh token", got, r)
	}
	s.wantLive("after the rotation", second)
}

func rotationEndsAccess(p *probe) {
	s := p.open()
	r := s.newRequest()
	old := s.newTokensOf(r)
	for range 3 {
		next := newTokens()
		s.must("the rotation", s.rotate(s.ctx, r, old.refresh, next))
		s.wantDead("after the rotation", old)
		s.wantLive("after the rotation", next)
		old = next
	}
}

// wantRotationRefused wants an error of which fosite does not make a server_error.
func (s *checked) wantRotationRefused(what string, err error) {
	s.Helper()
	s.want(what, err, notFound, inactive, conflict)
}

func rotatedOnce(p *probe) {
	s := p.open()
	r := s.newRequest()
	first, second, third := s.newTokensOf(r), newTokens(), newTokens()
	s.must("the rotation", s.rotate(s.ctx, r, first.refresh, second))
	s.wantRotationRefused("rotating a rotated refresh token", s.rotate(s.ctx, r, first.refresh, third))
	s.wantNothing("after the refused rotation", third)
	s.wantDead("after the refused rotation", first)
}

func revokedNotRotated(p *probe) {
	s := p.open()
	for _, end := range []func(*fosite.Request, tokens) error{
		func(r *fosite.Request, _ tokens) error { return s.revoke(s.ctx, r.ID) },
		func(r *fosite.Request, _ tokens) error { return s.revokeRefresh(s.ctx, r.ID) },
		func(_ *fosite.Request, t tokens) error { return s.deleteRefresh(s.ctx, t.refresh) },
	} {
		r := s.newRequest()
		first, second := s.newTokensOf(r), newTokens()
		s.must("ending the refresh token", end(r, first))
		s.wantRotationRefused("rotating a refresh token that was ended", s.rotate(s.ctx, r, first.refresh, second))
		s.wantNothing("after the refused rotation", second)
	}
}

func rotationForAnother(p *probe) {
	s := p.open()
	r, other := s.newRequest(), s.newRequest()
	t, others := s.newTokensOf(r), s.newTokensOf(other)
	for _, wrong := range []string{other.ID, newID(), "", r.ID + " "} {
		s.wantRefused("rotating a refresh token for another request", s.rotateRefresh(s.ctx, wrong, t.refresh))
		s.wantLive("after the refused rotation", t)
		s.wantLive("after the refused rotation, of the other request", others)
	}
}

func rotationOfUnknown(p *probe) {
	s := p.open()
	r := s.newRequest()
	t := s.newTokensOf(r)
	for _, unknown := range []key{newRefresh(), {}, t.access} {
		next := newTokens()
		s.wantRotationRefused("rotating an unknown refresh token", s.rotate(s.ctx, r, unknown, next))
		s.wantNothing("after the refused rotation", next)
		s.wantLive("after the refused rotation, of the request's own tokens", t)
	}
}

func manyRotations(p *probe) {
	s := p.open()
	s.atEachCall("a second", func(s *checked, at int) {
		r := s.newRequest()
		old, mine, others := s.newTokensOf(r), newTokens(), newTokens()
		err, othersErr := s.meanwhile(at, func(func()) error { return s.rotate(s.ctx, clone(r), old.refresh, others) }, s.rotation(r, old.refresh, mine), func() {})
		s.onlyWinner("rotations", []error{err, othersErr}, []tokens{mine, others})
		s.wantDead("after the rotations", old)
	})
	for range rounds {
		r := s.newRequest()
		old := s.newTokensOf(r)
		all := make([]tokens, presenters)
		requests := make([]*fosite.Request, presenters)
		for i := range all {
			all[i], requests[i] = newTokens(), clone(r)
		}
		errs := race(presenters, func(i int) error { return s.rotate(s.ctx, requests[i], old.refresh, all[i]) })
		s.onlyWinner("rotations", errs, all)
		s.wantDead("after the rotations", old)
	}
}

func independentRotations(p *probe) {
	s := p.open()
	s.atEachCall("another", func(s *checked, at int) {
		r, other := s.newRequest(), s.newRequest()
		old, othersOld, mine, others := s.newTokensOf(r), s.newTokensOf(other), newTokens(), newTokens()
		err, othersErr := s.meanwhile(at, func(func()) error { return s.rotate(s.ctx, other, othersOld.refresh, others) }, s.rotation(r, old.refresh, mine), func() {})
		s.want("a rotation", err, succeeded)
		s.want("a rotation of another token", othersErr, succeeded)
		s.wantLive("after the rotations", mine)
		s.wantLive("after the rotations", others)
	})
	requests := make([]*fosite.Request, presenters)
	olds, all := make([]tokens, presenters), make([]tokens, presenters)
	for i := range requests {
		requests[i], all[i] = s.newRequest(), newTokens()
		olds[i] = s.newTokensOf(requests[i])
	}
	for i, err := range race(presenters, func(i int) error { return s.rotate(s.ctx, requests[i], olds[i].refresh, all[i]) }) {
		s.want("a rotation among those of other tokens", err, succeeded)
		s.wantLive("after it", all[i])
		s.wantDead("after it", olds[i])
	}
}

// generations issues tokens and rotates them twice. It returns all of them.
func (s *checked) generations(r *fosite.Request) []tokens {
	s.Helper()
	all := []tokens{s.newTokensOf(r), newTokens(), newTokens()}
	s.must("the first rotation", s.rotate(s.ctx, r, all[0].refresh, all[1]))
	s.must("the second rotation", s.rotate(s.ctx, r, all[1].refresh, all[2]))
	return all
}

// reusedToken: RFC 9700, Section 4.14.2.
func reusedToken(p *probe) {
	s := p.open()
	for presented := range 2 {
		r, other := s.newRequest(), s.newRequest()
		all, others := s.generations(r), s.newTokensOf(other)
		s.wantLive("before the reuse", all[2])
		got, err := s.getRefresh(s.ctx, all[presented].refresh, s.config.NewSession())
		s.want("reading the refresh token that is presented again", err, inactive)
		s.wantID("the refresh token that is presented again", got, r)
		s.must("answering the reuse", s.reuse(s.ctx, all[presented].refresh, r.ID))
		for i, t := range all {
			s.wantDead(fmt.Sprintf("after the reuse, of generation %d", i), t)
		}
		s.wantLive("after the reuse of another request's token", others)
	}
}

func reusedAgain(p *probe) {
	s := p.open()
	r := s.newRequest()
	all := s.generations(r)
	for range 2 {
		for _, t := range all {
			got, err := s.getRefresh(s.ctx, t.refresh, s.config.NewSession())
			if errors.Is(err, fosite.ErrNotFound) {
				continue // deleted by the answer before
			}
			if t != all[2] {
				s.want("reading a refresh token that is presented again", err, inactive)
			}
			s.wantID("the refresh token that is presented again", got, r)
			s.must("answering the reuse", s.reuse(s.ctx, t.refresh, r.ID))
		}
		for _, t := range all {
			s.wantDead("after the reuse", t)
		}
	}
}

// revocationRacesRotation: what the rotation has not stored yet when the revocation
// looks for the request's tokens must not come alive afterwards.
func revocationRacesRotation(p *probe) {
	s := p.open()
	revocations := []struct {
		sentence string
		revoke   func(s *checked, r *fosite.Request, oldest key) error
	}{
		{"a revocation", func(s *checked, r *fosite.Request, _ key) error { return s.revoke(s.ctx, r.ID) }},
		{"a replay of the code", func(s *checked, r *fosite.Request, _ key) error {
			if err := s.revokeAccess(s.ctx, r.ID); err != nil && !errors.Is(err, fosite.ErrNotFound) {
				return err
			}
			return s.revokeRefresh(s.ctx, r.ID)
		}},
		{"a reuse of an older token", func(s *checked, r *fosite.Request, oldest key) error { return s.reuse(s.ctx, oldest, r.ID) }},
	}
	for _, c := range revocations {
		s.atEachCall(c.sentence, func(s *checked, at int) {
			for range rounds {
				r := s.newRequest()
				oldest, old, next := s.newTokensOf(r), newTokens(), newTokens()
				s.must("the first rotation", s.rotate(s.ctx, r, oldest.refresh, old))
				_, err := s.meanwhile(at, func(func()) error { return c.revoke(s, r, oldest.refresh) }, s.rotation(r, old.refresh, next), func() {})
				// Where the two disturb each other, fosite asks the client to try again.
				for tries := 0; err != nil && tries < 5; tries++ {
					err = s.revoke(s.ctx, r.ID)
				}
				s.want("the revocation", err, succeeded, notFound)
				for _, t := range []tokens{oldest, old, next} {
					s.wantDead("after the revocation and the rotation", t)
				}
			}
		})
	}
}
