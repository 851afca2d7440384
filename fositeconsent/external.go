package fositeconsent

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ory/fosite"
)

// Covers reports whether the request passes without a decision on it: whether remembered consents
// cover all of it, or [Config.PreApproved] approves it; and the [Decision.Data] of those consents, nil if they have none. It is for
// a host whose consent page is somewhere
// else and is told of such requests, too. It is a look only: the consents may be revoked a moment later,
// and nothing passes by it. It is safe for concurrent use. It reports an [Event], of [ActionConsume], if it fails, and else none.
//
// The errors are those of the protected provider's NewAuthorizeResponse before anything is issued, but for the one that a
// page is needed. With an error the answer is false, and so it is before [Gate.Protect].
func (g *Gate) Covers(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) (covers bool, data []byte, err error) {
	provider := g.provider.Load()
	if provider == nil {
		return false, nil, nil
	}
	look := &step{}
	var standing *standing
	if isNil(ar) {
		err = fmt.Errorf("%w: there is no authorization request: pass what NewAuthorizeRequest returned", ErrInvalidRequest)
	} else {
		standing, err = provider.findStanding(ctx, look, ar, session)
	}
	switch {
	case errors.Is(err, ErrConsentRequired):
		return false, nil, nil
	case err != nil:
		return false, nil, g.observe(ctx, ActionConsume, func(_ context.Context, step *step) error {
			step.request = look.request
			return asClientError(err, look.request.silent)
		})
	}
	return true, bytes.Clone(standing.data()), nil
}

// Check returns nil if [Gate.Mint] would take the decision on the prompt, and otherwise
// [ErrInvalidDecision], with what is wrong with it in the text. It is for a host that has to say so
// before the browser has come back. It looks at the prompt's Scopes and Audience only, and says nothing of
// whether the prompt may still be answered: Mint makes these checks again, and others. Where
// [Config.ApplyData] or [Config.Consents] is missing that the decision needs, it does not know.
func (p *Prompt) Check(decision Decision) error {
	shown := &fosite.AuthorizeRequest{Request: fosite.Request{RequestedScope: p.Scopes, RequestedAudience: p.Audience}}
	if err := checkDecision(request{AuthorizeRequester: shown}, decision.Scopes, decision.Audience); err != nil {
		return err
	}
	if len(decision.Data) > MaxDataSize {
		return fmt.Errorf("%w: its data has %d bytes: use at most %d", ErrInvalidDecision, len(decision.Data), MaxDataSize)
	}
	return checkRemember(decision)
}
