package main

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// newConsentAPI has consents decided by the application at -consent-url.
func (s *server) newConsentAPI(storage consentapi.RequestStorage, authenticate func(*http.Request) error) (*consentapi.API, error) {
	return consentapi.New(s.gate, storage, consentapi.Config{
		ConsentURL:       s.config.consentURL,
		AuthorizationURL: s.issuer + pathAuthorize,
		ResumeURL:        s.issuer + pathConsentBack,
		Secrets:          func(context.Context) ([][]byte, error) { return [][]byte{s.keys.secret}, nil },
		DescribeClient: func(_ context.Context, c fosite.Client, to *consentapi.Client) error {
			*to = *s.describeForPages(c)
			return nil
		},
		DescribeLogin: func(ctx context.Context, _ fosite.AuthorizeRequester, _ fosite.Session, to *consentapi.Login) error {
			if l := loginFrom(ctx); l != nil {
				to.Challenge, to.Context = l.confirmed.Challenge, l.confirmed.Context
			}
			return nil
		},
		RememberOfflineAccess: true, // as Hydra does: its applications have one box for all
		GetClient:             s.getClient,
		Authenticate:          authenticate,
		Logger:                s.log,
	})
}

// describeForPages returns what pages elsewhere are told of a client.
func (s *server) describeForPages(c fosite.Client) *consentapi.Client {
	to := &consentapi.Client{
		ClientID: c.GetID(), RedirectURIs: c.GetRedirectURIs(), GrantTypes: c.GetGrantTypes(), ResponseTypes: c.GetResponseTypes(),
		Scope: strings.Join(c.GetScopes(), " "), Audience: c.GetAudience(), SubjectType: "public",
	}
	if own, ok := c.(*client); ok {
		to.ClientName, to.ClientURI, to.LogoURI, to.PolicyURI, to.TermsOfServiceURI = own.displayName(), own.uri, own.logoURI, own.policyURI, own.tosURI
		to.TokenEndpointAuthMethod = own.GetTokenEndpointAuthMethod()
	}
	return to
}

// getConsentBack takes the answer of the consent application, and answers the client.
func (s *server) getConsentBack(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	resumed, err := s.consents.Resume(r)
	if err != nil {
		s.cannotResume(w, r, resumed, err)
		return
	}
	query := resumed.Query
	ar, err := s.provider.NewAuthorizeRequest(ctx, resumed.Request(ctx))
	if err == nil {
		err = s.answerable(ctx, ar)
	}
	if err != nil {
		s.cannotAnswer(w, r, err)
		return
	}
	r = s.withLoginFor(r, ar.GetRequestForm(), query)
	st := s.stand(r.Context(), ar.GetRequestForm(), query)
	if st.signIn { // signed out meanwhile, or signed in too long ago
		http.Redirect(w, r, returnPath(query), http.StatusSeeOther)
		return
	}
	ctx, told := withEvent(r.Context())
	r = r.WithContext(ctx)
	resp, err := resumed.Respond(ctx, s.provider, ar, st.session)
	switch {
	case err == nil:
		if s.demo != nil {
			s.demo.decided(ar.GetState(), told.GrantID)
		}
		s.finish(w, r, query)
		s.writeAuthorizeResponse(w, r, ar, resp)
	case errors.Is(err, fositeconsent.ErrAlreadyDecided), errors.Is(err, fositeconsent.ErrGrantRevoked):
		s.cannotResume(w, r, resumed, err)
	case fositeconsent.NeedsConsent(err): // somebody else is signed in now, or it has expired meanwhile
		http.Redirect(w, r, returnPath(query), http.StatusSeeOther)
	case isServerError(err) && told.Consumed:
		s.unknownOutcome(w, r, query, err)
	case isServerError(err):
		s.unavailable(w, r, "decision could not be carried out", err)
	default: // the application's rejection, or what a handler refuses
		s.finish(w, r, query)
		s.writeAuthorizeError(w, r, ar, err)
	}
}

// cannotResume is the page for an answer that does not count (any more).
func (s *server) cannotResume(w http.ResponseWriter, r *http.Request, resumed *consentapi.Resumed, err error) {
	if errors.Is(err, fositeconsent.ErrStorage) {
		s.unavailable(w, r, "answer of the consent application could not be read", err)
		return
	}
	s.log.WarnContext(r.Context(), "answer of the consent application refused", "error", err)
	p := errorPage{Heading: "Nobody is waiting for this decision", Explanation: "It was not asked for in this browser, or it has led to an answer already. This time nothing happened."}
	status := http.StatusForbidden
	if resumed == nil { // and nobody knows what it was about
		p.Advice = "Go back to the application and start again."
		s.renderError(w, r, status, p)
		return
	}
	status = http.StatusConflict
	switch {
	case errors.Is(err, consentapi.ErrRequestExpired):
		p = errorPage{Heading: "That took too long", Explanation: "The decision has come too late, so nothing was approved."}
	case errors.Is(err, consentapi.ErrRequestRevoked), errors.Is(err, fositeconsent.ErrGrantRevoked):
		p = errorPage{Heading: "This access was taken back", Explanation: "It was taken back after the decision, so nothing was given to the application."}
	default:
		p = errorPage{Heading: "This decision has already been used", Explanation: "A decision counts once. It has led to an answer before, and this time nothing happened."}
	}
	s.startAgain(w, r, status, resumed.Query, p)
}
