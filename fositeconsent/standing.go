package fositeconsent

import (
	"context"
	"fmt"
	"slices"

	"github.com/ory/fosite"
)

// standing is the reason for which a request passes without a decision on it, or with one that
// nobody was asked for.
type standing struct {
	basis    Basis
	binding  Digest    // of the request that it was found for
	consents []Consent // the remembered ones that it rests on
	shown    Digest    // of the client, if the host has approved it
}

// mayStand reports whether any request may pass without a decision on it.
func (g *Gate) mayStand() bool { return g.config.Consents != nil || g.config.PreApproved != nil }

// findStanding returns why the request may pass without a decision on it. It costs no
// transaction, and for a request that leads to a page one look for consents. Its errors are
// reasons, ErrConsentRequired if there is nothing that the request may pass by.
func (p *protected) findStanding(ctx context.Context, step *step, ar fosite.AuthorizeRequester, session fosite.Session) (*standing, error) {
	g := p.gate
	r, err := g.inspect(ctx, ar, session)
	step.request = r
	if err != nil {
		return nil, err
	}
	for _, prompt := range prompts(ar) {
		if !slices.Contains(silentPrompts, prompt) {
			return nil, ErrConsentRequired
		}
	}
	if checkDecision(r, r.GetRequestedScopes(), r.GetRequestedAudience()) != nil {
		return nil, ErrConsentRequired // nobody can approve all of it
	}
	if g.config.PreApproved != nil {
		s, err := p.preApproved(ctx, &r)
		if s != nil || err != nil {
			return s, err
		}
	}
	if g.config.Consents == nil {
		return nil, ErrConsentRequired
	}
	return p.remembered(ctx, &r)
}

// preApproved asks the host, about the client as it is registered now.
func (p *protected) preApproved(ctx context.Context, r *request) (*standing, error) {
	var err error
	if r.client, err = p.checkPolicy(ctx, r.AuthorizeRequester); err != nil {
		return nil, err
	}
	if !r.isAssured() {
		return nil, nil
	}
	approved, err := p.gate.config.PreApproved(ctx, r.AuthorizeRequester, r.subject)
	if err != nil {
		return nil, fmt.Errorf("fositeconsent: Config.PreApproved: %w", err)
	}
	if !approved {
		return nil, nil
	}
	s := &standing{basis: BasisPreApproved, binding: r.binding}
	s.shown, err = p.gate.shownNow(ctx, r)
	return s, err
}

// remembered looks for consents that cover all that is requested.
func (p *protected) remembered(ctx context.Context, r *request) (*standing, error) {
	consents, err := p.gate.findConsents(ctx, *r)
	if err != nil {
		return nil, err
	}
	p.gate.looks.keep(*r, consents, p.gate.now())
	asked := p.gate.asks(*r)
	if cover(asked, consents) == nil {
		return nil, ErrConsentRequired // the client need not be loaded anew to know that
	}
	if r.client == nil {
		if r.client, err = p.checkPolicy(ctx, r.AuthorizeRequester); err != nil {
			return nil, err
		}
	}
	if !r.isAssured() {
		return nil, ErrConsentRequired
	}
	shown, err := p.gate.shownNow(ctx, r)
	if err != nil {
		return nil, err
	}
	if consents = cover(asked, shownAs(consents, shown)); consents == nil {
		return nil, ErrConsentRequired
	}
	return &standing{basis: BasisRemembered, binding: r.binding, consents: consents}, nil
}

// grant is what the request gets by it: all that it asks for. It is nobody's to consume, and
// has no ID.
func (s *standing) grant(r request) *Grant {
	return &Grant{
		Binding: r.binding, Subject: r.subject, ClientID: r.GetClient().GetID(),
		Scopes: unique(r.GetRequestedScopes()), Audience: unique(r.GetRequestedAudience()), Shown: s.shown, Data: s.data(),
	}
}

// data is the host's, with the consents: the same with each of them.
func (s *standing) data() []byte {
	if len(s.consents) == 0 {
		return nil
	}
	return s.consents[0].Data
}

// record tells the consents' storage of the response, before anything is stored for it. Its
// errors are reasons.
func (g *Gate) record(ctx context.Context, pass *passage, r request, grant *Grant) error {
	if g.config.Consents == nil {
		return nil
	}
	response := &Response{RequestID: r.GetID()}
	if response.RequestID == "" {
		return fmt.Errorf("%w: the request has no ID, by which what is issued for it could be revoked", ErrMisconfigured)
	}
	var ids []ID
	if pass.standing != nil && pass.standing.basis == BasisRemembered {
		for _, c := range pass.standing.consents {
			ids = append(ids, c.ID)
		}
		response.ConsentIDs = slices.Clone(ids)
	} else {
		response.Approval = g.consent(ctx, r, grant)
		ids = []ID{response.Approval.ID}
	}
	pass.recordedAs = response.RequestID
	err := g.config.Consents.RecordResponse(ctx, response)
	if err == nil {
		pass.consentIDs = ids
		return nil
	}
	if late := pass.lateAnswer(err); late != nil {
		return late
	}
	return storageError(err, ErrConsentRevoked, ErrConsentExpired)
}

// errRenamed is about a request whose response could not be found to revoke it.
var errRenamed = fmt.Errorf("%w: the request's ID was changed after the response had been recorded by it", ErrMisconfigured)
