// Package fositeconsent makes an authorization server that is built on
// github.com/ory/fosite issue an authorization response only for exactly what the
// resource owner approved, exactly once.
//
// A consent grant is the stored, single-use, short-lived result of one decision on
// one prompt. It is bound to the whole authorization request and to the subject:
//
//	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{Issuer: issuer})
//	provider := compose.Compose(config, fositeStore, strategy, gate.Factory, …)
//	provider, err = gate.Protect(provider)
//
// At the authorization endpoint, [Gate.Prompt] prepares the consent page wherever
// [NeedsConsent] is true of the error of provider.NewAuthorizeResponse. When the page
// is answered, [Gate.Mint] or [Gate.Deny] records the decision; the token of a mint
// goes by [WithToken] to NewAuthorizeResponse, where the gate, which comes before
// all other handlers, consumes the grant and grants on the request what was decided.
//
// With [Config.Consents] a decision can stand for later requests that ask for no more:
// [Decision.Remember]. What was approved can then be listed, [Gate.ListConsents], and taken
// back, [Gate.Revoke]. With [Config.Decisions] everything that was decided is recorded:
// [Gate.ExportDecisions], [Gate.EraseSubject].
//
// Grants are kept by a [GrantStorage]: package pgstore has one on Postgres, package
// consenttest one in memory, for tests, and the suite that any other must pass.
//
// What is not here is the host's: login, sessions, client registration, the look of
// the consent page and its protection against cross-site requests, and the policy of
// when to ask.
package fositeconsent
