package fositeconsent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// The first bytes of what is digested for [Consent.Shown]. A change to the form needs a
// new version: everybody is then asked once more.
const (
	shownVersion = 1
	shownDomain  = "fosite-consent/shown"
)

// perRequestParameters say nothing of what is granted, and differ from one request of a
// client to the next, or are compared on their own: they are not among [Consent.Details], nor
// are those that are not bound. Everything else is, known or unknown.
var perRequestParameters = []string{
	"acr_values",            // OpenID Connect Core 1.0, Section 3.1.2.1: about the login
	"audience",              // compared on its own
	"client_id",             // compared on its own
	"code_challenge",        // RFC 7636: who may redeem this one code
	"code_challenge_method", // RFC 7636
	"dpop_jkt",              // RFC 9449, Section 10: by which key
	"id_token_hint",         // OpenID Connect Core 1.0, Section 3.1.2.1: about the login
	"max_age",               // held against the login
	"nonce",                 // the client's, to recognise the response
	"redirect_uri",          // held against the registration, of which all are compared
	"request",               // its claims are parameters of the effective form
	"request_uri",           // what is found there is in the effective form
	"response_mode",         // compared as it was resolved
	"response_type",         // compared on its own
	"scope",                 // compared on its own
	"state",                 // the client's, to recognise the response
}

// furtherParameters are those whose absence asks for less than their presence. Without any other one, known
// or unknown, a request may be for more, as without resource, or for something else: it is covered
// only by an approval without it. The audience is another such one.
var furtherParameters = []string{"authorization_details", "claims"}

// silentPrompts are the values of prompt that do not ask for a consent page. What is unknown
// may ask for one.
var silentPrompts = []string{"none", "login", "select_account"}

// shown returns the digest of what a page shows of the client, and of what of its registration
// an approval relies on.
func (g *Gate) shown(ctx context.Context, client fosite.Client) (Digest, error) {
	texts, err := g.config.DescribeClient(ctx, client)
	if err != nil {
		return Digest{}, fmt.Errorf("fositeconsent: Config.DescribeClient: %w", err)
	}
	e := make(encoder, 0, 512)
	e = append(e, shownVersion)
	e.text(shownDomain)
	e.text(client.GetID())
	e.set(client.GetRedirectURIs())
	if client.IsPublic() {
		e.count(1)
	} else {
		e.count(0)
	}
	e.values(texts)
	return sha256.Sum256(e), nil
}

// shownNow returns the digest of the request's client as it is registered now, and zero if
// the gate keeps neither consents nor a log.
func (g *Gate) shownNow(ctx context.Context, r *request) (Digest, error) {
	if g.config.Consents == nil && g.config.Decisions == nil {
		return Digest{}, nil
	}
	if r.client == nil {
		provider := g.provider.Load()
		if provider == nil {
			return Digest{}, fmt.Errorf("%w: %w", ErrMisconfigured, errNotProtected)
		}
		var err error
		if r.client, err = provider.currentClient(ctx, r.AuthorizeRequester); err != nil {
			return Digest{}, err
		}
	}
	return g.shown(ctx, r.client)
}

// details returns the request's [Consent.Details], sorted. In a name an equals sign is
// escaped: otherwise a parameter that nobody knows could be approved in place of one that
// everybody knows.
func (g *Gate) details(r request) []string {
	var list []string
	for name, values := range r.GetRequestForm() {
		if slices.Contains(perRequestParameters, name) || slices.Contains(unboundParameters, name) || slices.Contains(g.config.UnboundParameters, name) {
			continue
		}
		for _, value := range values {
			list = append(list, url.QueryEscape(name)+"="+value)
		}
	}
	if mode := r.GetResponseMode(); mode != fosite.ResponseModeDefault && mode != defaultResponseMode(r.GetResponseTypes()) {
		list = append(list, "response_mode="+string(mode))
	}
	slices.Sort(list)
	return slices.Compact(list) // resource may be there often
}

// facet is one of the things that a request asks for, and that an approval allows.
type facet struct{ kind, text string }

func facets(scopes, audience, responseTypes, details []string) []facet {
	list := make([]facet, 0, len(scopes)+len(audience)+len(responseTypes)+len(details)+1)
	add := func(kind string, texts []string) {
		for _, text := range texts {
			list = append(list, facet{kind, text})
		}
	}
	add("scope", scopes)
	add("audience", audience)
	add("response type", responseTypes)
	add("detail", details)
	if len(audience) == 0 {
		list = append(list, facet{kind: "no audience"})
	}
	return list
}

func (g *Gate) asks(r request) []facet {
	return facets(r.GetRequestedScopes(), r.GetRequestedAudience(), r.GetResponseTypes(), g.details(r))
}

// offer is what one consent has of all that is asked for.
type offer struct {
	has   map[facet]struct{}
	lacks map[string]int // how many, by their kinds
}

func (c *Consent) offer(asked map[facet]struct{}, kinds map[string]int, named map[string]bool) offer {
	o := offer{map[facet]struct{}{}, maps.Clone(kinds)}
	for _, f := range facets(c.RememberedScopes, c.Audience, c.ResponseTypes, c.Details) {
		_, wanted := asked[f]
		if _, again := o.has[f]; wanted && !again {
			o.has[f] = struct{}{}
			o.lacks[f.kind]--
		}
	}
	for _, detail := range c.Details {
		if name := nameOf(detail); !named[name] && !slices.Contains(furtherParameters, name) {
			o.lacks["without"]++
		}
	}
	return o
}

// lacksOnly reports whether it has everything that is not of the kind.
func (o offer) lacksOnly(kind string) bool {
	for k, n := range o.lacks {
		if k != kind && n > 0 {
			return false
		}
	}
	return true
}

func nameOf(detail string) string {
	name, _, _ := strings.Cut(detail, "=")
	return name
}

// partial are the kinds of things of which the resource owner can approve a part.
var partial = []string{"scope", "audience"}

// cover returns those of the consents, the newest first, that together allow all that is asked
// for, none if they do not. Approvals add up in their scopes, or in their audiences, if each has
// everything else that is asked for: otherwise the scope that one allows would be good for the
// audience, or go the way, that only another one allows, and nobody has approved that. And
// they add up as long as they have the same data for the session.
func cover(asked []facet, consents []Consent) []Consent {
	all, kinds, named := map[facet]struct{}{}, map[string]int{}, map[string]bool{}
	for _, f := range asked {
		if _, again := all[f]; again {
			continue
		}
		all[f] = struct{}{}
		kinds[f.kind]++
		if f.kind == "detail" {
			named[nameOf(f.text)] = true
		}
	}
	offers := make([]offer, len(consents))
	for i := range consents {
		offers[i] = consents[i].offer(all, kinds, named)
	}
	for i := range consents {
		data := consents[i].Data
		if slices.ContainsFunc(consents[:i], func(c Consent) bool { return bytes.Equal(c.Data, data) }) {
			continue // it was tried
		}
		for _, kind := range partial {
			missing, got := kinds[kind], map[facet]struct{}{}
			var used []Consent
			for j := i; j < len(consents); j++ {
				if !offers[j].lacksOnly(kind) || !bytes.Equal(consents[j].Data, data) {
					continue
				}
				before := len(got)
				for f := range offers[j].has {
					if f.kind == kind {
						got[f] = struct{}{}
					}
				}
				if len(got) > before || missing == 0 {
					used = append(used, consents[j])
				}
				if len(got) == missing {
					return used
				}
			}
		}
	}
	return nil
}

// staleAfter is how long after a consent's end a storage cannot take it for live, whatever
// the clocks say.
const staleAfter = time.Hour

// findConsents returns the remembered consents of the request's subject for its client,
// the newest first. What a storage of somebody else's returns is checked, not believed.
func (g *Gate) findConsents(ctx context.Context, r request) ([]Consent, error) {
	clientID := r.GetClient().GetID()
	found, err := g.config.Consents.FindConsents(ctx, g.config.Issuer, r.subject, clientID)
	if err != nil {
		return nil, storageError(err)
	}
	consents := make([]Consent, 0, len(found))
	for _, c := range found {
		if c.ID.IsZero() || c.Issuer != g.config.Issuer || c.Subject != r.subject || c.ClientID != clientID || !c.Remembered || !subset(c.RememberedScopes, c.Scopes) {
			return nil, fmt.Errorf("%w: FindConsents returned a consent that is not remembered, or is another subject's or client's", ErrStorage)
		}
		if c.ExpiresAt.IsZero() || g.now().Before(c.ExpiresAt.Add(staleAfter)) {
			consents = append(consents, c)
		}
	}
	slices.SortStableFunc(consents, func(a, b Consent) int { return bytes.Compare(b.ID[:], a.ID[:]) })
	return consents, nil
}

// shownAs returns the consents that were given when the page showed the client like this.
func shownAs(consents []Consent, shown Digest) []Consent {
	return slices.DeleteFunc(slices.Clone(consents), func(c Consent) bool { return c.Shown != shown })
}

// isAssured reports whether what is issued reaches nobody who passes for the client (RFC 6749,
// Section 10.2): it is at a redirect URI that it has claimed (RFC 8252, Section 8.6), or has to prove
// itself for whatever it gets, which a response with tokens in it does not ask for. Otherwise the
// resource owner is asked as if nobody had been before.
func (r request) isAssured() bool {
	return isClaimed(r.GetRedirectURI()) || !r.client.IsPublic() && r.GetResponseTypes().ExactOne("code")
}

// isClaimed reports whether the URI leads to somebody who has shown that the host is theirs: by
// https, and to a name of the public DNS. A loopback interface is everybody's on the machine
// (RFC 8252, Section 8.3), and browsers know it by many names: numbers in several notations,
// and what IDNA maps to one.
func isClaimed(u *url.URL) bool {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	dot := strings.LastIndexByte(host, '.')
	if u.Scheme != "https" || dot < 0 || strings.ContainsFunc(host, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
	}) {
		return false
	}
	top := host[dot+1:]
	return top != "" && top != "localhost" && top != "localdomain" && (top[0] < '0' || top[0] > '9')
}

// checkRemember refuses what cannot be meant.
func checkRemember(decision Decision) error {
	remember := decision.Remember
	if remember != nil && decision.Unasked {
		return fmt.Errorf("%w: nobody was asked, and so nobody has said that it is to be remembered", ErrInvalidDecision)
	}
	// What is shorter might be rounded to none, which would last until it is revoked.
	if remember != nil && remember.Lifespan != 0 && remember.Lifespan < MinGrantLifespan {
		return fmt.Errorf("%w: it is to be remembered for %v: use %v at least, or 0 for until it is revoked", ErrInvalidDecision, remember.Lifespan, MinGrantLifespan)
	}
	return nil
}

// consent is what remains of an approval that leads to a response.
func (g *Gate) consent(ctx context.Context, r request, grant *Grant) *Consent {
	c := &Consent{
		ID: grant.ID, Issuer: g.config.Issuer, Subject: r.subject, ClientID: r.GetClient().GetID(),
		Scopes: unique(grant.Scopes), Audience: unique(grant.Audience), ResponseTypes: unique(r.GetResponseTypes()), Details: g.details(r),
		Shown: grant.Shown, Data: grant.Data,
	}
	if c.ID.IsZero() { // nobody was asked
		c.ID = newID(g.now())
	}
	if r.loginSession != nil {
		c.LoginSession = *r.loginSession
	}
	if grant.Remember != nil {
		c.Remembered, c.Lifespan, c.RememberedScopes = true, grant.Remember.Lifespan, slices.Clone(c.Scopes)
		if !grant.Remember.OfflineAccess {
			offline := g.offlineScopes(ctx)
			c.RememberedScopes = slices.DeleteFunc(c.RememberedScopes, func(scope string) bool { return slices.Contains(offline, strings.ToLower(scope)) })
		}
	}
	return c
}

// offlineScopes are those for which refresh tokens are issued, in lower case, as fosite compares them.
func (g *Gate) offlineScopes(ctx context.Context) []string {
	scopes := []string{"offline", "offline_access"}
	if config := g.composed.Load(); config != nil {
		for _, scope := range (*config).GetRefreshTokenScopes(ctx) {
			scopes = append(scopes, strings.ToLower(scope))
		}
	}
	return scopes
}

// unique returns a copy of the list without repetitions.
func unique(list []string) []string {
	var once []string
	for _, s := range list {
		if !slices.Contains(once, s) {
			once = append(once, s)
		}
	}
	return once
}
