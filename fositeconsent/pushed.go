package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/ory/fosite"
)

// ErrRequestURIUsed is returned when an authorization response has been issued for a
// pushed authorization request before.
var ErrRequestURIUsed = errors.New("fositeconsent: an authorization response has been issued for this request_uri before")

// PushedRequestStorage is what fosite's storage has, the one that was given to
// compose.Compose, if pushed authorization requests (RFC 9126) shall outlive a login and
// a consent page. fosite reads a pushed request with GetPARSession and deletes it with
// DeletePARSession as soon as the browser arrives, so that nobody can come back to it. A
// storage with this method
//
//   - goes on returning a pushed request from GetPARSession until its lifetime is over, also
//     when it has been claimed, so that whoever comes too late can be sent back to the client;
//     the lifetime is the session's GetExpiresAt(fosite.PushedAuthorizeRequestContext), by the
//     storage's own clock, and after it the error is [fosite.ErrNotFound];
//   - does nothing in DeletePARSession;
//   - and gives each request_uri away once, below.
//
// With any other storage, a request_uri is good for one visit, as fosite has it: do not
// use it with pages.
type PushedRequestStorage interface {
	// ClaimPushedAuthorizeRequest makes the caller the one who answers the pushed request.
	// Among any number of calls for one request_uri, in any number of processes, one succeeds.
	// A claim is for good: it outlasts the pushed request, or the request_uri is
	// unknown by then.
	//
	// It is called in the transaction of the context in which the consent grant is
	// consumed, after that, and takes effect with it or not at all: a claim that is rolled
	// back was never made. Without a transaction it takes effect at once. It is not called
	// for a response that is refused before, nor for a denial.
	//
	// The error is [ErrRequestURIUsed] for a request_uri that has been claimed, and
	// [fosite.ErrNotFound] for one that is unknown or whose lifetime is over; when both hold,
	// either. At the very end of its lifetime a pushed request is no longer good. Any other
	// error means that the outcome is unknown, and the response is refused.
	ClaimPushedAuthorizeRequest(ctx context.Context, requestURI string) error
}

// claim makes this response the one that is issued for the pushed request that ar
// came from, if it came from one. Its errors are reasons. No page can mend them: where a
// request_uri is used up, the client has to push anew (RFC 9126, Section 7.3).
func (p *protected) claim(ctx context.Context, ar fosite.AuthorizeRequester) error {
	requestURI := ar.GetRequestForm().Get("request_uri")
	if !p.isPushed(ctx, requestURI) {
		return nil
	}
	storage, ok := p.fosite.Store.(PushedRequestStorage)
	if !ok { // it was deleted when it was read
		return nil
	}
	err := storage.ClaimPushedAuthorizeRequest(ctx, requestURI)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fosite.ErrNotFound):
		return policyError(fosite.ErrInvalidRequestURI, "The pushed authorization request has expired.")
	}
	// Where the transaction has queued the mint, its answer may come with this one.
	return storageError(err, ErrRequestURIUsed, ErrAlreadyDecided)
}

// clientCredentials authenticate a client where it pushes a request, and are no part of that.
var clientCredentials = []string{"client_assertion", "client_assertion_type", "client_secret"}

// NewPushedAuthorizeRequest implements fosite.OAuth2Provider. It reads a pushed request as
// fosite does, but for the following.
//
//   - Beside a request object only the client's credentials are read (RFC 9126, Section 3), and its
//     claims mean what they say, as NewAuthorizeRequest has it.
//   - The client that pushes is the one that has authenticated; fosite compares neither
//     with the client_id of the form.
//   - No credential is left in the form of the returned request, which is what is stored.
//   - A parameter that is there twice is refused at once (RFC 6749, Section 3.1).
//
// The parameters of r are parsed, as fosite would, and r is otherwise left alone.
func (p *protected) NewPushedAuthorizeRequest(ctx context.Context, r *http.Request) (fosite.AuthorizeRequester, error) {
	form, err := sentParameters(r)
	if err != nil {
		return refusedRequest(nil), err
	}
	if err := checkParameters(form); err != nil {
		return refusedRequest(nil), asClientError(fmt.Errorf("%w: %w", ErrInvalidRequest, err), false)
	}
	object := form.Get("request")
	if len(object) > maxRequestObject {
		return refusedRequest(nil), fosite.ErrInvalidRequestObject.WithHintf("The request object is longer than %d bytes.", maxRequestObject)
	}
	if object != "" {
		all := form
		form = url.Values{"scope": {unread}}
		for _, name := range append([]string{"client_id", "request", "request_uri"}, clientCredentials...) {
			if all.Has(name) {
				form[name] = all[name]
			}
		}
	}
	pushed := fosite.Fosite{Store: p.fosite.Store, Config: authenticating{Configurator: p.fosite.Config, fosite: p.fosite}}
	ar, err := pushed.NewPushedAuthorizeRequest(ctx, withForm(r, form))
	if object != "" {
		// Not the form's client_id: that is the object's by now.
		ar, err = mergedRequest(ar, err, url.Values{"client_id": {ar.GetClient().GetID()}, "request": {object}}, object)
	}
	for _, name := range clientCredentials {
		ar.GetRequestForm().Del(name)
	}
	return ar, err
}

// authenticating is the configuration for one pushed request. It is fosite's own but for the
// client's authentication, which must lead to the client that the form names.
type authenticating struct {
	fosite.Configurator
	fosite *fosite.Fosite
}

// GetClientAuthenticationStrategy implements fosite.ClientAuthenticationStrategyProvider.
func (a authenticating) GetClientAuthenticationStrategy(context.Context) fosite.ClientAuthenticationStrategy {
	return func(ctx context.Context, r *http.Request, form url.Values) (fosite.Client, error) {
		client, err := a.fosite.AuthenticateClient(ctx, r, form)
		if err == nil && form.Get("client_id") != "" && form.Get("client_id") != client.GetID() {
			return nil, fosite.ErrInvalidClient.WithHint("The client that authenticated is not the one of the parameter 'client_id'.")
		}
		return client, err
	}
}
