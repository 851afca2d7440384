package storagetest

import "context"

// beginOr begins a transaction or ends the test. A test that ends before its
// transaction does leaves none behind.
func (s *checked) beginOr() context.Context {
	s.Helper()
	inside, err := s.begin(s.ctx)
	s.must("BeginTX", err)
	s.Cleanup(func() { _ = s.tx.Rollback(inside) })
	return inside
}

func rolledBack(p *probe) {
	s := p.open()
	r, code, t := s.newRequest(), newCode(), newTokens()
	inside := s.beginOr()
	s.must("storing a code", s.authorize(inside, code, r))
	s.must("issuing tokens", s.issue(inside, r, t))
	s.must("Rollback", s.rollback(inside))
	s.wantNoCode("after the rollback", code)
	s.wantNothing("after the rollback", t)

	// The keys are as free as before.
	s.must("storing a code", s.authorize(s.ctx, code, r))
	s.wantFresh("after the rollback", code, r)
	s.must("issuing tokens", s.issue(s.ctx, r, t))
	s.wantLive("after the rollback", t)
}

func redemptionRolledBack(p *probe) {
	s := p.open()
	r, t := s.newRequest(), newTokens()
	code := s.newCodeOf(r)
	for range 2 {
		inside := s.beginOr()
		s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(inside, code))
		if s.pkce != nil {
			s.must("DeletePKCERequestSession", s.deletePKCE(inside, code))
		}
		if s.openid != nil {
			s.must("DeleteOpenIDConnectSession", s.deleteOpenID(inside, code))
		}
		s.must("issuing tokens", s.issue(inside, r, t))
		s.must("Rollback", s.rollback(inside))
		s.wantFresh("after the rollback", code, r)
		s.wantNothing("after the rollback", t)
	}
	s.must("the redemption", s.redeem(s.ctx, code, r, t))
	s.wantLive("after the redemption", t)
}

func rotationRolledBack(p *probe) {
	s := p.open()
	r, next := s.newRequest(), newTokens()
	t := s.newTokensOf(r)
	for range 2 {
		inside := s.beginOr()
		s.must("RotateRefreshToken", s.rotateRefresh(inside, r.ID, t.refresh))
		s.must("issuing tokens", s.issue(inside, r, next))
		s.must("Rollback", s.rollback(inside))
		s.wantLive("after the rollback", t)
		s.wantNothing("after the rollback", next)
	}
	s.must("the rotation", s.rotate(s.ctx, r, t.refresh, next))
	s.wantLive("after the rotation", next)
}

func seenInsideOnly(p *probe) {
	s := p.open()
	r, old, code, next := s.newRequest(), s.newRequest(), newCode(), newTokens()
	oldCode, t := s.newCodeOf(old), s.newTokensOf(old)
	inside := s.beginOr()
	s.must("storing a code", s.authorize(inside, code, r))
	s.must("issuing tokens", s.issue(inside, r, next))
	s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(inside, oldCode))
	s.must("RotateRefreshToken", s.rotateRefresh(inside, old.ID, t.refresh))

	in := *s // the same, inside
	in.ctx = inside
	in.wantFresh("inside", code, r)
	in.wantLive("inside", next)
	got, err := s.getCode(inside, oldCode, s.config.NewSession())
	s.want("reading the invalidated code inside", err, invalidated)
	s.wantID("the invalidated code", got, old)
	_, err = s.getRefresh(inside, t.refresh, s.config.NewSession())
	s.want("reading the rotated token inside", err, inactive)
	s.must("Rollback", s.rollback(inside))

	// And once more, to look from outside and to commit.
	inside = s.beginOr()
	s.must("storing a code", s.authorize(inside, code, r))
	s.must("issuing tokens", s.issue(inside, r, next))
	s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(inside, oldCode))
	s.must("RotateRefreshToken", s.rotateRefresh(inside, old.ID, t.refresh))
	s.wantNoCode("outside", code)
	s.wantNothing("outside", next)
	s.wantFresh("outside", oldCode, old)
	s.wantLive("outside", t)
	s.must("Commit", s.commit(inside))
	s.wantFresh("after the commit", code, r)
	s.wantLive("after the commit", next)
	_, err = s.getCode(s.ctx, oldCode, s.config.NewSession())
	s.want("reading the invalidated code after the commit", err, invalidated)
	s.wantDead("after the commit", t)
}

// nestedTransactions: a host that runs fosite inside a transaction of its own meets the
// one that fosite begins.
func nestedTransactions(p *probe) {
	s := p.open()
	nest := func(s *checked) (outer, inner context.Context) {
		s.Helper()
		outer = s.beginOr()
		inner, err := s.begin(outer)
		s.must("BeginTX inside a transaction", err)
		return outer, inner
	}
	s.step("an inner commit is not final", func(s *checked) {
		before, within, after := newTokens(), newTokens(), newTokens()
		outer, inner := nest(s)
		s.must("issuing tokens", s.issue(outer, s.newRequest(), before))
		s.must("issuing tokens", s.issue(inner, s.newRequest(), within))
		s.must("the inner commit", s.commit(inner))
		s.must("issuing tokens", s.issue(outer, s.newRequest(), after))
		s.wantNothing("outside after the inner commit", within)
		s.must("the outer rollback", s.rollback(outer))
		for _, t := range []tokens{before, within, after} {
			s.wantNothing("after the outer rollback", t)
		}
	})
	s.step("an outer commit stores what both did", func(s *checked) {
		before, within, after := newTokens(), newTokens(), newTokens()
		outer, inner := nest(s)
		s.must("issuing tokens", s.issue(outer, s.newRequest(), before))
		s.must("issuing tokens", s.issue(inner, s.newRequest(), within))
		s.must("the inner commit", s.commit(inner))
		s.must("issuing tokens", s.issue(outer, s.newRequest(), after))
		s.must("the outer commit", s.commit(outer))
		for _, t := range []tokens{before, within, after} {
			s.wantLive("after the outer commit", t)
		}
	})
	s.step("an inner rollback is never committed", func(s *checked) {
		before, within := newTokens(), newTokens()
		outer, inner := nest(s)
		s.must("issuing tokens", s.issue(outer, s.newRequest(), before))
		s.must("issuing tokens", s.issue(inner, s.newRequest(), within))
		s.must("the inner rollback", s.rollback(inner))
		if s.commit(outer) == nil {
			s.wantLive("after an outer commit", before)
		} else { // both are one, and that is rolled back
			s.must("the outer rollback", s.rollback(outer))
			s.wantNothing("after the outer commit failed", before)
		}
		s.wantNothing("after the inner rollback", within)
	})
}

func failedCommit(p *probe) {
	s := p.open()
	r, t := s.newRequest(), newTokens()
	code := s.newCodeOf(r)
	for range 3 {
		ctx, cancel := context.WithCancel(s.ctx)
		inside, err := s.begin(ctx)
		s.must("BeginTX", err)
		s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(inside, code))
		s.must("issuing tokens", s.issue(inside, r, t))
		cancel()
		s.want("Commit when the context has ended", s.commit(inside), failed)
		s.must("Rollback after a failed commit", s.rollback(inside))
		s.wantFresh("after the failed commit", code, r)
		s.wantNothing("after the failed commit", t)
	}
	s.must("the redemption", s.redeem(s.ctx, code, r, t))
	s.wantLive("after the redemption", t)
}

// endedTransactions: more of them than a storage has connections.
func endedTransactions(p *probe) {
	s := p.open()
	r := s.newRequest()
	code, old := s.newCodeOf(r), s.newTokensOf(r)
	for i := range 40 {
		t := newTokens()
		ctx, cancel := context.WithCancel(s.ctx)
		inside, err := s.begin(ctx)
		s.must("BeginTX", err)
		s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(inside, code)) // they would wait for each other
		s.must("RotateRefreshToken", s.rotateRefresh(inside, r.ID, old.refresh))
		s.must("issuing tokens", s.issue(inside, r, t))
		cancel()
		if i%2 == 0 {
			s.want("a write when the context has ended", s.createAccess(inside, newAccess(), r), failed)
		}
		s.must("Rollback when the context has ended", s.rollback(inside))
		if i%10 == 0 {
			s.wantNothing("after the rollback", t)
		}
	}
	s.wantFresh("at last", code, r)
	t := newTokens()
	s.must("the rotation", s.rotate(s.ctx, r, old.refresh, t))
	s.wantLive("after the rotation", t)
}

// commitWithoutTransaction: who has lost the context must not take that for success.
func commitWithoutTransaction(p *probe) {
	s := p.open()
	s.wantRefused("Commit without a transaction", s.commit(s.ctx))
	t := newTokens()
	s.must("issuing tokens", s.issue(s.ctx, s.newRequest(), t))
	_ = s.rollback(s.ctx) // an error or not; but without a transaction, nothing is undone
	s.wantLive("after a rollback without a transaction", t)
}

// revocationSurvivesRollback: whoever notices a replay answers with an error, and a
// host that runs fosite in its own transaction rolls that back on an error.
func revocationSurvivesRollback(p *probe) {
	s := p.open()
	s.step("of a revocation", func(s *checked) {
		r, other := s.newRequest(), s.newRequest()
		all, others := s.generations(r), s.newTokensOf(other)
		inside := s.beginOr()
		s.must("the revocation", s.revoke(inside, r.ID))
		s.must("Rollback", s.rollback(inside))
		for _, t := range all {
			s.wantDead("after the rollback", t)
		}
		s.wantLive("after the rollback, of another request", others)
	})
	s.step("of a replayed code", func(s *checked) {
		r, t := s.newRequest(), newTokens()
		code := s.newCodeOf(r)
		s.must("the redemption", s.redeem(s.ctx, code, r, t))
		inside := s.beginOr()
		used, err := s.replay(inside, code)
		s.must("the replay", err)
		if !used {
			s.Error("a code that was redeemed is not invalidated")
		}
		s.must("Rollback", s.rollback(inside))
		s.wantDead("after the rollback", t)
	})
	s.step("of a reused refresh token", func(s *checked) {
		r := s.newRequest()
		all := s.generations(r)
		inside := s.beginOr()
		_, err := s.getRefresh(inside, all[0].refresh, s.config.NewSession())
		s.want("reading the refresh token that is presented again", err, inactive)
		s.must("answering the reuse", s.reuse(inside, all[0].refresh, r.ID))
		s.must("Rollback", s.rollback(inside))
		for _, t := range all {
			s.wantDead("after the rollback", t)
		}
	})
	s.step("when the context has ended", func(s *checked) {
		r := s.newRequest()
		t := s.newTokensOf(r)
		ctx, cancel := context.WithCancel(s.ctx)
		inside, err := s.begin(ctx)
		s.must("BeginTX", err)
		s.must("the revocation", s.revoke(inside, r.ID))
		cancel()
		s.must("Rollback when the context has ended", s.rollback(inside))
		s.wantDead("after the rollback", t)
	})
	s.step("and other writes do not", func(s *checked) {
		r, other, next := s.newRequest(), s.newRequest(), newTokens()
		t, others := s.newTokensOf(r), s.newTokensOf(other)
		code := s.newCodeOf(other)
		inside := s.beginOr()
		s.must("InvalidateAuthorizeCodeSession", s.invalidateCode(inside, code))
		s.must("RotateRefreshToken", s.rotateRefresh(inside, other.ID, others.refresh))
		s.must("issuing tokens", s.issue(inside, other, next))
		s.must("the revocation", s.revoke(inside, r.ID))
		s.must("Rollback", s.rollback(inside))
		s.wantDead("after the rollback", t)
		s.wantFresh("after the rollback", code, other)
		s.wantLive("after the rollback", others)
		s.wantNothing("after the rollback", next)
	})
}
