package main

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ory/fosite"
)

const (
	// requestURIPrefix is what tells the request_uri of a pushed request from the URL of a
	// request object (RFC 9126, Section 2.2).
	requestURIPrefix = "urn:ietf:params:oauth:request_uri:"

	// pushedLifespan is long enough for a sign-in and for the consent page to be read.
	pushedLifespan = 10 * time.Minute
)

// isPushed reports whether the parameters are those of a pushed request.
func isPushed(params url.Values) bool {
	return strings.HasPrefix(params.Get("request_uri"), requestURIPrefix)
}

// push is the pushed authorization request endpoint (RFC 9126, Section 2). What is pushed
// is refused at once for whatever it would be refused for at the authorization endpoint.
func (s *server) push(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	var ar fosite.AuthorizeRequester = fosite.NewAuthorizeRequest()
	err := readPush(w, r)
	if err == nil {
		ar, err = s.provider.NewPushedAuthorizeRequest(ctx, r)
	}
	if err == nil {
		err = s.issuable(ctx, ar)
	}
	var response fosite.PushedAuthorizeResponder
	if err == nil {
		response, err = s.provider.NewPushedAuthorizeResponse(ctx, ar, newTokenSession())
	}
	if err != nil {
		s.logOAuthError(ctx, "pushed request refused", ar.GetClient().GetID(), err)
		addChallenge(w, err)
		s.provider.WritePushedAuthorizeError(ctx, w, ar, err)
		return
	}
	s.provider.WritePushedAuthorizeResponse(ctx, w, ar, response)
}

// readPush reads the body, which has all the parameters, and answers with the status
// codes of RFC 9126, Section 2.3.
func readPush(w http.ResponseWriter, r *http.Request) error {
	refused := func(status int, hint string) error {
		err := fosite.ErrInvalidRequest.WithHint(hint)
		err.CodeField = status
		return err
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refused(http.StatusMethodNotAllowed, "An authorization request is pushed with POST.")
	}
	if !isFormPost(r) || r.URL.RawQuery != "" {
		return refused(http.StatusBadRequest, "Send all parameters in the body, as application/x-www-form-urlencoded.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxAuthorizationRequest)
	err := r.ParseForm()
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return refused(http.StatusRequestEntityTooLarge, "The request is too long.")
	}
	if err != nil {
		return refused(http.StatusBadRequest, "The body is not well-formed.")
	}
	return nil
}
