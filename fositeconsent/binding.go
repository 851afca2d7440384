package fositeconsent

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ory/fosite"
)

// Digest is the SHA-256 of a binding: the canonical form of everything in one
// authorization request that changes what is issued, to whom, or how it is
// delivered, together with the subject who decides. Two requests have the same
// Digest exactly if one approval may stand for both.
type Digest [sha256.Size]byte

// The first bytes of every binding. A change to the canonical form needs a new
// version: prompts that are open during the roll-out are then simply shown again.
const (
	bindingVersion = 1
	bindingDomain  = "fosite-consent/binding"
)

// unboundParameters do not change what is issued: they choose how a page looks,
// whether there is one, or how the client authenticates. All others are bound, the
// text of a request object included, beside what it says.
var unboundParameters = []string{
	"client_assertion",      // RFC 7521, Section 4.2: a client credential
	"client_assertion_type", // RFC 7521, Section 4.2
	"client_secret",         // RFC 6749, Section 2.3.1: a client credential
	"claims_locales",        // OpenID Connect Core 1.0, Section 5.2
	"display",               // OpenID Connect Core 1.0, Section 3.1.2.1
	"login_hint",            // OpenID Connect Core 1.0, Section 3.1.2.1
	"prompt",                // OpenID Connect Core 1.0, Section 3.1.2.1: a page shown for it may be gone on the next pass
	"ui_locales",            // OpenID Connect Core 1.0, Section 3.1.2.1
}

// mandatoryParameters can never be left out of the binding, whatever a host asks for.
var mandatoryParameters = []string{
	"acr_values", "audience", "authorization_details", "claims", "client_id",
	"code_challenge", "code_challenge_method", "dpop_jkt", "id_token_hint",
	"max_age", "nonce", "redirect_uri", "request", "request_uri", "resource",
	"response_mode", "response_type", "scope", "state",
}

// repeatableParameters may be sent more than once: RFC 8707, Section 2 says so of
// resource, RFC 8693, Section 2.1 and fosite of audience.
var repeatableParameters = []string{"audience", "resource"}

// parsedParameters are bound in the form that fosite resolved them to, in fields
// of their own: the order of a set does not matter, and a default that is spelled
// out is no different request.
var parsedParameters = []string{
	"audience", "code_challenge", "code_challenge_method", "redirect_uri",
	"response_mode", "response_type", "scope",
}

// UnboundParameters returns the names of the authorization request's parameters
// that are not bound by default, sorted. A host adds to them with
// [Config.UnboundParameters]. Everything else is bound, known or unknown.
func UnboundParameters() []string { return slices.Sorted(slices.Values(unboundParameters)) }

// bindingInput is what a binding is made of besides the request itself.
type bindingInput struct {
	issuer       string
	subject      string
	loginSession *string // nil: the host binds no login session
	unbound      []string
}

// digest computes the binding of a request that checkParameters has passed.
func (in bindingInput) digest(ar fosite.AuthorizeRequester) Digest {
	return sha256.Sum256(in.encode(ar))
}

// encode returns the canonical form. Every value has a fixed place or a name,
// every text its length before it and every list its count, so that no two
// different requests are written alike.
func (in bindingInput) encode(ar fosite.AuthorizeRequester) []byte {
	form := ar.GetRequestForm()
	e := make(encoder, 0, 1024)
	e = append(e, bindingVersion)
	e.text(bindingDomain)

	e.text(in.issuer)
	e.text(in.subject)
	e.optional(in.loginSession)
	e.text(ar.GetClient().GetID())
	e.text(ar.GetRedirectURI().String())
	e.values(form["redirect_uri"]) // sent or not decides what the token endpoint demands: RFC 6749, Section 4.1.3
	e.set(ar.GetResponseTypes())
	e.text(string(ar.GetResponseMode()))
	e.set(ar.GetRequestedScopes())
	e.set(ar.GetRequestedAudience())
	e.text(ar.GetState()) // fosite answers with this one, which need not be the form's
	e.values(form["code_challenge"])
	e.values(codeChallengeMethod(form))

	names := make([]string, 0, len(form))
	for name := range form {
		if !slices.Contains(parsedParameters, name) && !slices.Contains(unboundParameters, name) && !slices.Contains(in.unbound, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	e.count(len(names))
	for _, name := range names {
		e.text(name)
		e.values(form[name])
	}
	return e
}

// codeChallengeMethod spells out the default: a challenge without a method is
// "plain" (RFC 7636, Section 4.3).
func codeChallengeMethod(form url.Values) []string {
	if form.Get("code_challenge") != "" && form.Get("code_challenge_method") == "" {
		return []string{"plain"}
	}
	return form["code_challenge_method"]
}

// checkParameters refuses what has no single meaning: a parameter that was sent
// more than once (RFC 6749, Section 3.1), be it in the query, in the body or in both;
// and text that is none (RFC 6749, Appendix A), which a database may not keep.
func checkParameters(form url.Values) error {
	for name, values := range form {
		if len(values) > 1 && !slices.Contains(repeatableParameters, name) {
			return fmt.Errorf("parameter %q was sent %d times: send it once", name, len(values))
		}
		for _, value := range values {
			if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
				return fmt.Errorf("parameter %q has malformed UTF-8 or a NUL", name)
			}
		}
	}
	return nil
}

// encoder appends to the canonical form.
type encoder []byte

func (e *encoder) count(n int) { *e = binary.BigEndian.AppendUint64(*e, uint64(n)) }

func (e *encoder) text(s string) {
	e.count(len(s))
	*e = append(*e, s...)
}

// optional tells an absent text from an empty one.
func (e *encoder) optional(s *string) {
	if s == nil {
		*e = append(*e, 0)
		return
	}
	*e = append(*e, 1)
	e.text(*s)
}

// values keeps the order. No value and one empty value differ by their count.
func (e *encoder) values(list []string) {
	e.count(len(list))
	for _, s := range list {
		e.text(s)
	}
}

// set forgets order and repetition.
func (e *encoder) set(list []string) {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	e.values(slices.Compact(sorted))
}
