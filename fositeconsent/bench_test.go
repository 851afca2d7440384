package fositeconsent_test

import (
	"context"
	"testing"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// BenchmarkAuthorizeResponse is fosite's authorize step on its in-memory storage,
// with and without the gate. The gate's storage answers at once with the same grant
// every time, so that the difference is what the gate costs besides the storage's
// round trip:
//
//	go test -run '^$' -bench BenchmarkAuthorizeResponse -count 10 ./fositeconsent
func BenchmarkAuthorizeResponse(b *testing.B) {
	h := newHost(b)
	token := h.approve(params(), "peter")
	var grant *fositeconsent.Grant
	h.grants.onConsume = func(g *fositeconsent.Grant, err error) (*fositeconsent.Grant, error) { grant = g; return g, err }
	if _, err := h.answer(params(), "peter", token); err != nil {
		b.Fatal(cause(err))
	}
	h.grants.GrantStorage = always{grant}
	h.grants.onConsume = nil
	without := newHost(b)
	without.config.AuthorizeEndpointHandlers = without.config.AuthorizeEndpointHandlers[1:]

	session := h.login("peter")
	parsed := *h.parse(params()).(*fosite.AuthorizeRequest)
	granted := parsed
	granted.GrantedScope, granted.GrantedAudience = parsed.RequestedScope, parsed.RequestedAudience
	ctx := fositeconsent.WithToken(b.Context(), token)
	for _, c := range []struct {
		name     string
		provider fosite.OAuth2Provider
		request  fosite.AuthorizeRequest
	}{{"without the gate", without.raw, granted}, {"with the gate", h.provider, parsed}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				request := c.request
				if _, err := c.provider.NewAuthorizeResponse(ctx, &request, session); err != nil {
					b.Fatal(cause(err))
				}
			}
			b.StopTimer()
			clear(h.store.AuthorizeCodes)
			clear(h.store.PKCES)
			clear(h.store.IDSessions)
			h.events, h.grants.attempts = nil, nil
		})
	}
}

// always is a storage that consumes the same grant again and again.
type always struct{ grant *fositeconsent.Grant }

func (always) CreateConsentGrant(context.Context, *fositeconsent.Grant) error { return nil }

func (a always) ConsumeConsentGrant(context.Context, fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	return a.grant, nil
}

func BenchmarkPrompt(b *testing.B) {
	h := newHost(b)
	ar, session := h.parse(params()), h.login("peter")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.gate.Prompt(b.Context(), ar, session); err != nil {
			b.Fatal(cause(err))
		}
	}
}

func BenchmarkMint(b *testing.B) {
	h := newHost(b)
	ar, session, p := h.parse(params()), h.login("peter"), h.prompt(params(), "peter")
	h.grants.GrantStorage = always{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.gate.Mint(b.Context(), ar, session, p.Ticket, all(p)); err != nil {
			b.Fatal(cause(err))
		}
	}
}
