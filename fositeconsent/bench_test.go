package fositeconsent_test

import (
	"testing"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// BenchmarkAuthorizeResponse is fosite's authorize step, on in-memory storages,
// with and without the gate. The difference is what the gate costs besides the
// storage's round trip:
//
//	go test -run '^$' -bench BenchmarkAuthorizeResponse ./fositeconsent
func BenchmarkAuthorizeResponse(b *testing.B) {
	h := newHost(b)
	prepare := func(b *testing.B) ([]fosite.AuthorizeRequester, []fositeconsent.Token) {
		requests := make([]fosite.AuthorizeRequester, b.N)
		tokens := make([]fositeconsent.Token, b.N)
		for i := range requests {
			requests[i] = h.parse(params())
			tokens[i] = h.approve(params(), "peter")
		}
		return requests, tokens
	}
	session := h.login("peter")
	without := newHost(b)
	without.config.AuthorizeEndpointHandlers = without.config.AuthorizeEndpointHandlers[1:]
	b.Run("without the gate", func(b *testing.B) {
		requests, _ := prepare(b)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			for _, scope := range requests[i].GetRequestedScopes() {
				requests[i].GrantScope(scope)
			}
			if _, err := without.raw.NewAuthorizeResponse(b.Context(), requests[i], session); err != nil {
				b.Fatal(cause(err))
			}
		}
	})
	b.Run("with the gate", func(b *testing.B) {
		requests, tokens := prepare(b)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			if _, err := h.respond(requests[i], session, tokens[i]); err != nil {
				b.Fatal(cause(err))
			}
		}
	})
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
	ar, session := h.parse(params()), h.login("peter")
	prompts := make([]*fositeconsent.Prompt, b.N)
	for i := range prompts {
		prompts[i] = h.prompt(params(), "peter")
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := h.gate.Mint(b.Context(), ar, session, prompts[i].Ticket, all(prompts[i])); err != nil {
			b.Fatal(cause(err))
		}
	}
}
