package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// maxAuthorizationRequest bounds the parameters of an authorization request, in
// bytes. They travel in the URL and in a field of the pages' forms.
const maxAuthorizationRequest = 32 << 10

// notForTheURL are credentials that have no business at the authorization endpoint.
// A client that posts them all the same must not find them in an address bar.
var notForTheURL = []string{"client_secret", "client_assertion", "client_assertion_type"}

// getAuthorize answers an authorization request (RFC 6749, Section 3.1).
func (s *server) getAuthorize(w http.ResponseWriter, r *http.Request) {
	params, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		s.badAuthorizationRequest(w, r, "The request that brought you here cannot be read: "+err.Error()+".")
		return
	}
	s.answerAuthorization(w, r, params)
}

// postAuthorize takes an authorization request that was posted (OpenID Connect Core
// 1.0, Section 3.1.2.1) and has the browser come again with GET: with a post from
// another site it sends no cookie that is SameSite=Lax.
func (s *server) postAuthorize(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || !isFormPost(r) {
		s.badAuthorizationRequest(w, r, "The request that brought you here cannot be read: it is not a posted form.")
		return
	}
	for _, name := range notForTheURL {
		r.Form.Del(name)
	}
	// The parameters of the body and of the query. One that is in both is there twice
	// now, and refused for that.
	params, err := parseQuery(r.Form.Encode())
	if err == nil && len(params) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		s.badAuthorizationRequest(w, r, "The request that brought you here cannot be read: "+err.Error()+".")
		return
	}
	http.Redirect(w, r, returnPath(params.Encode()), http.StatusSeeOther)
}

// parseQuery reads the parameters of an authorization request.
func parseQuery(query string) (url.Values, error) {
	if len(query) > maxAuthorizationRequest {
		return nil, fmt.Errorf("it is longer than %d characters", maxAuthorizationRequest)
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("it is not well-formed")
	}
	// Beside a pushed request nothing counts (RFC 9126, Section 4), so that nothing else
	// goes through the pages. With a request object there is no telling which is meant.
	if isPushed(params) && !params.Has("request") {
		params = url.Values{"client_id": params["client_id"], "request_uri": params["request_uri"]}
	}
	// Where these two are ambiguous, so is who asks and where the browser would be sent
	// with an error. What else was sent twice is the gate's to refuse.
	for _, name := range []string{"client_id", "redirect_uri"} {
		if len(params[name]) > 1 {
			return nil, fmt.Errorf("the parameter %s is there more than once", name)
		}
	}
	return params, nil
}

// newAuthorizeRequest has fosite read an authorization request that consists of the
// given parameters and of nothing else: fosite would let the body of a posted form
// override the query, and the form of a decision is no authorization request.
func (s *server) newAuthorizeRequest(ctx context.Context, query string) (fosite.AuthorizeRequester, error) {
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: pathAuthorize, RawQuery: query}, Header: http.Header{}, Body: http.NoBody}
	return s.provider.NewAuthorizeRequest(ctx, r.WithContext(ctx))
}

// answerAuthorization leads the browser on: to the password, to the consent page, or
// back to the client.
func (s *server) answerAuthorization(w http.ResponseWriter, r *http.Request, params url.Values) {
	ctx := r.Context()
	query := params.Encode() // before fosite puts a request object's claims into the parameters
	ar, err := s.newAuthorizeRequest(ctx, query)
	if !ar.IsRedirectURIValid() {
		if err == nil {
			err = fosite.ErrInvalidRequest
		}
		s.refuseAuthorization(w, r, err)
		return
	}
	if err == nil {
		err = s.answerable(ctx, ar)
	}

	r = s.withLoginFor(r, ar.GetRequestForm(), query)
	ctx = r.Context()
	st := s.stand(ctx, ar.GetRequestForm(), query)
	// Not even an error goes to the client before somebody has signed in, or anybody
	// could use this server's name to send people to a client's pages (RFC 9700, Section
	// 4.11.2). With prompt=none there is no page to show.
	if st.signIn && !hasPrompt(ar.GetRequestForm(), "none") {
		if st.remember {
			s.rememberRequest(ctx, query)
			if err := s.saveSession(ctx, w); err != nil {
				s.unavailable(w, r, "session could not be stored", err)
				return
			}
		}
		s.askForLogin(w, r, ar, query)
		return
	}
	if err != nil {
		s.writeAuthorizeError(w, r, ar, err)
		return
	}

	passing, told := withEvent(ctx)
	resp, sent, err := s.authorize(w, r.WithContext(passing), ar, st, query)
	switch {
	case sent: // to the consent application
	case err == nil: // a remembered decision covers it
		if s.demo != nil {
			s.demo.passed(ar.GetState(), *told)
		}
		s.finish(w, r, query)
		s.writeAuthorizeResponse(w, r, ar, resp)
	case fositeconsent.NeedsConsent(err):
		s.showConsent(w, r, http.StatusOK, ar, st, query, "")
	default:
		s.writeAuthorizeError(w, r, ar, err)
	}
}

// authorize answers the request if it passes without being asked, or else sends the browser to the consent application, if there is one.
func (s *server) authorize(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, st standing, query string) (resp fosite.AuthorizeResponder, sent bool, err error) {
	if s.consents != nil {
		return s.consents.Authorize(w, r, s.provider, ar, st.session, query)
	}
	resp, err = s.provider.NewAuthorizeResponse(r.Context(), ar, st.session)
	return resp, false, err
}

// askForLogin shows the login page, or sends the browser to the login application.
func (s *server) askForLogin(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, query string) {
	if s.logins != nil {
		s.sendToLogin(w, r, ar, query)
		return
	}
	s.showLogin(w, r, query, ar.GetRequestForm().Get("login_hint"))
}

// answerable refuses beforehand what fosite would refuse only after the resource
// owner has approved it, or would send in a way that it must not be sent.
func (s *server) answerable(ctx context.Context, ar fosite.AuthorizeRequester) error {
	form := ar.GetRequestForm()
	if c, ok := ar.GetClient().(*client); ok && c.mustPush && !isPushed(form) {
		return fosite.ErrInvalidRequest.WithHint("This client has to push its authorization requests (RFC 9126).")
	}
	return s.issuable(ctx, ar)
}

// issuable is answerable for a request that is only now being pushed.
func (s *server) issuable(ctx context.Context, ar fosite.AuthorizeRequester) error {
	form := ar.GetRequestForm()
	types := ar.GetResponseTypes()
	if ar.GetResponseMode() == fosite.ResponseModeQuery && !types.ExactOne("code") {
		return fosite.ErrUnsupportedResponseMode.WithHint("Tokens are not sent in a query: use response_mode fragment or form_post.")
	}
	if u := ar.GetRedirectURI(); ar.GetResponseMode() == fosite.ResponseModeFormPost && u.Scheme != "https" && u.Scheme != "http" {
		if request, ok := ar.(*fosite.AuthorizeRequest); ok {
			request.ResponseMode = fosite.ResponseModeQuery // for the error
		}
		return fosite.ErrUnsupportedResponseMode.WithHint("A form can only be posted to an https or http address.")
	}
	if types.Has("code") {
		method := form.Get("code_challenge_method")
		switch challenge := form.Get("code_challenge"); {
		case challenge == "" && ar.GetClient().IsPublic():
			return fosite.ErrInvalidRequest.WithHint("A public client has to send a code_challenge (RFC 7636).")
		case challenge == "" && method != "":
			return fosite.ErrInvalidRequest.WithHint("There is a code_challenge_method and no code_challenge.")
		case challenge != "" && (method == "" || method == "plain") && !s.fositeConfig.GetEnablePKCEPlainChallengeMethod(ctx):
			return fosite.ErrInvalidRequest.WithHint("Use the code_challenge_method S256.")
		case method != "" && method != "plain" && method != "S256":
			return fosite.ErrInvalidRequest.WithHint("Use the code_challenge_method S256.")
		}
	}
	if types.Has("id_token") {
		switch {
		case !ar.GetRequestedScopes().Has("openid"):
			return fosite.ErrInvalidScope.WithHint("An ID token needs the scope openid.")
		case form.Get("nonce") == "":
			return fosite.ErrInvalidRequest.WithHint("An ID token in the front channel needs a nonce.")
		}
	}
	if nonce := form.Get("nonce"); nonce != "" && len(nonce) < s.fositeConfig.GetMinParameterEntropy(ctx) {
		return fosite.ErrInsufficientEntropy.WithHint("The nonce is too short to be random.")
	}
	for _, prompt := range strings.Fields(form.Get("prompt")) {
		if !slices.Contains(prompts, prompt) {
			return fosite.ErrInvalidRequest.WithHint("The value of prompt is not known.")
		}
	}
	return nil
}

var prompts = []string{"none", "login", "consent", "select_account"}

// writeAuthorizeResponse sends the browser to the client with what was issued.
func (s *server) writeAuthorizeResponse(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder) {
	if ar.GetResponseMode() == fosite.ResponseModeFormPost {
		setPolicy(w, formPostPolicy)
	}
	s.provider.WriteAuthorizeResponse(r.Context(), w, ar, resp)
}

// writeAuthorizeError sends the browser to the client with an error.
func (s *server) writeAuthorizeError(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, err error) {
	if !ar.IsRedirectURIValid() {
		s.refuseAuthorization(w, r, err)
		return
	}
	s.logOAuthError(r.Context(), "authorization request refused", ar.GetClient().GetID(), err)
	if ar.GetResponseMode() == fosite.ResponseModeFormPost {
		setPolicy(w, formPostPolicy)
	}
	s.provider.WriteAuthorizeError(r.Context(), w, ar, err)
}

// refuseAuthorization shows a page: there is no address that the browser may be sent to.
func (s *server) refuseAuthorization(w http.ResponseWriter, r *http.Request, err error) {
	rfc := fosite.ErrorToRFC6749Error(err)
	s.logOAuthError(r.Context(), "authorization request without a way back refused", "", err)
	if isServerError(err) {
		s.unavailable(w, r, "authorization request could not be read", err)
		return
	}
	explanation := "The request to sign you in is not valid."
	switch {
	case errors.Is(err, fosite.ErrInvalidClient):
		explanation = "The application that sent you here is not registered with this server."
	case strings.Contains(rfc.HintField, "redirect"):
		explanation = "The application wants you to be sent to an address that is not registered for it."
	case errors.Is(err, fosite.ErrInvalidRequestURI):
		explanation = "The request to sign you in is not known to this server, or has expired."
	}
	s.badAuthorizationRequest(w, r, explanation)
}

func (s *server) badAuthorizationRequest(w http.ResponseWriter, r *http.Request, explanation string) {
	s.renderError(w, r, http.StatusBadRequest, errorPage{
		Heading:     "This link does not work",
		Explanation: explanation,
		Advice:      "Nothing was approved, and you were not sent anywhere. Go back to the application and try again; if that does not help, tell the people who run it.",
	})
}
