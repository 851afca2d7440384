package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"
)

// unread is the scope that goes to fosite beside a request object, which fosite would
// ignore without openid there (OpenID Connect Core 1.0, Section 6.1). Once fosite has
// verified an object and taken its claims over, it writes the scope anew, and then no
// space is left at its end: so a form with this scope shows an object that was not read.
const unread = "openid "

// NewAuthorizeRequest implements fosite.OAuth2Provider. It reads the request as fosite
// does, but for the following.
//
//   - Of a request with a pushed request's request_uri, fosite gets the client_id and the
//     request_uri, and of one with a request object the client_id and the object. All that
//     stands beside them changes nothing (RFC 9126, Section 4; RFC 9101, Section 6.3), not even
//     where an error goes.
//   - The claims of a request object are parameters that mean what they say there: numbers and
//     booleans as JSON writes them, objects and lists as the JSON that was sent, null as no
//     parameter; a list of resource is that parameter several times (RFC 8707, Section 2). The claims
//     that speak of the object itself, such as exp, are none. What fosite would have misread is refused.
//   - A request object is never passed over without a word: its scope has to contain openid, and
//     is openid if it has none.
//   - A client_id, request or request_uri that is there twice is refused.
//   - A pushed request is held against the client's registration as it is now, which
//     the returned request then has (RFC 9126, Section 4).
//
// The parameters of r are parsed, as fosite would, and r is otherwise left alone: what is
// effective is in the form of the returned request. That request is never nil, and with an error
// it is what WriteAuthorizeError needs.
func (p *protected) NewAuthorizeRequest(ctx context.Context, r *http.Request) (fosite.AuthorizeRequester, error) {
	form, err := sentParameters(r)
	if err != nil {
		return refusedRequest(nil), err
	}
	clientID, object, location := form.Get("client_id"), form.Get("request"), form.Get("request_uri")
	switch {
	case object != "" && location != "":
		return refusedRequest(nil), fosite.ErrInvalidRequest.WithHint("The parameters 'request' and 'request_uri' must not be used together.")
	case p.isPushed(ctx, location):
		return p.newPushedRequest(ctx, r, url.Values{"client_id": {clientID}, "request_uri": {location}})
	case location != "":
		return p.newReferredRequest(ctx, r, url.Values{"client_id": {clientID}, "request_uri": {location}})
	case object != "":
		return p.newObjectRequest(ctx, r, url.Values{"client_id": {clientID}, "request": {object}}, object)
	}
	return p.fosite.NewAuthorizeRequest(ctx, withForm(r, form))
}

// sentParameters returns a copy of the request's parameters, in which nobody else's
// changes show. Without a client_id, request and request_uri that can only be one there is
// no telling who asks for what.
func sentParameters(r *http.Request) (url.Values, error) {
	if err := r.ParseMultipartForm(1 << 20); err != nil && !errors.Is(err, http.ErrNotMultipart) { //nolint:gosec // G120: as fosite does; the host bounds the body
		return nil, fosite.ErrInvalidRequest.WithHint("Unable to parse the parameters of the request.").WithWrap(err)
	}
	for _, name := range []string{"client_id", "request", "request_uri"} {
		if len(r.Form[name]) > 1 { // RFC 6749, Section 3.1
			return nil, fosite.ErrInvalidRequest.WithHintf("The parameter '%s' must not be sent more than once.", name)
		}
	}
	form := make(url.Values, len(r.Form))
	for name, values := range r.Form {
		form[name] = slices.Clone(values)
	}
	return form, nil
}

// withForm returns r with other parameters for fosite, which reads r.Form and nothing
// else if it is there.
func withForm(r *http.Request, form url.Values) *http.Request {
	r = r.WithContext(r.Context())
	r.Form = form
	return r
}

// refusedRequest is a request for an error that no client must hear of by a redirect.
func refusedRequest(form url.Values) *fosite.AuthorizeRequest {
	ar := fosite.NewAuthorizeRequest()
	if form != nil {
		ar.Form = form
	}
	return ar
}

// pushConfig returns what the configuration says of pushed requests, nil if nothing.
func (p *protected) pushConfig() fosite.PushedAuthorizeRequestConfigProvider {
	config, _ := p.fosite.Config.(fosite.PushedAuthorizeRequestConfigProvider)
	return config
}

// isPushed reports whether fosite takes the request_uri for that of a pushed request.
func (p *protected) isPushed(ctx context.Context, requestURI string) bool {
	config := p.pushConfig()
	return config != nil && requestURI != "" && strings.HasPrefix(requestURI, config.GetPushedAuthorizeRequestURIPrefix(ctx))
}

// newPushedRequest takes up a pushed request.
func (p *protected) newPushedRequest(ctx context.Context, r *http.Request, sent url.Values) (fosite.AuthorizeRequester, error) {
	clientID, requestURI := sent.Get("client_id"), sent.Get("request_uri")
	if clientID == "" {
		return refusedRequest(sent), fosite.ErrInvalidRequest.WithHint("The parameter 'client_id' is missing.") // RFC 9126, Section 4
	}
	ar, err := p.fosite.NewAuthorizeRequest(ctx, withForm(r, sent))
	request, ok := ar.(*fosite.AuthorizeRequest)
	if !ok || err != nil && request.GetClient().GetID() != clientID {
		// There is no such request; or fosite has taken over what another client pushed, which
		// is no place to send an error to.
		return refusedRequest(url.Values{"client_id": {clientID}, "request_uri": {requestURI}}), p.notPushed(err)
	}
	// A push could have named these, and they say which request is claimed.
	request.Form.Set("client_id", clientID)
	request.Form.Set("request_uri", requestURI)
	if request.RedirectURI != nil { // fosite writes into it, and a storage may keep it
		u := *request.RedirectURI
		request.RedirectURI = &u
	}
	if err != nil {
		return request, err
	}
	_, err = p.checkPolicy(ctx, request)
	return request, asClientError(err, false)
}

// notPushed is the error for a request_uri of which fosite took nothing over, or something else.
// A storage that could not be asked is no answer, although fosite says that there is
// no such request; and only of a PushedRequestStorage it is known what it says of those.
func (p *protected) notPushed(err error) error {
	if _, ok := p.fosite.Store.(PushedRequestStorage); ok && errors.Is(err, fosite.ErrInvalidRequestURI) && !errors.Is(err, fosite.ErrNotFound) {
		return asClientError(fmt.Errorf("%w: GetPARSession: %w", ErrStorage, err), false)
	}
	return notNil(err)
}

// notNil is for what fosite cannot do.
func notNil(err error) error {
	if err == nil {
		return asClientError(fmt.Errorf("%w: fosite returned another type of request than its own", ErrMisconfigured), false)
	}
	return err
}

// newObjectRequest takes up a request object. What of it was sent is sent, as it shall
// stand in the effective form.
func (p *protected) newObjectRequest(ctx context.Context, r *http.Request, sent url.Values, object string) (fosite.AuthorizeRequester, error) {
	if len(object) > maxRequestObject {
		return refusedRequest(sent), fosite.ErrInvalidRequestObject.WithHintf("The request object is longer than %d bytes.", maxRequestObject)
	}
	ar, err := p.fosite.NewAuthorizeRequest(ctx, withForm(r, url.Values{
		"client_id": sent["client_id"], "request": {object}, "scope": {unread},
	}))
	return mergedRequest(ar, err, sent, object)
}

// newReferredRequest takes up a request object that the client keeps at the location
// of its request_uri (RFC 9101, Section 5.2.2). It is fetched here, since fosite shows nobody what
// it read. The effective form has the location and what the object says, all of which is
// bound; not the object's text, so that a client may sign the same request anew each time.
func (p *protected) newReferredRequest(ctx context.Context, r *http.Request, sent url.Values) (fosite.AuthorizeRequester, error) {
	if location := sent.Get("request_uri"); p.mayRefer(ctx, sent.Get("client_id"), location) {
		object, err := p.fetch(ctx, location)
		if err != nil {
			return refusedRequest(sent), err
		}
		return p.newObjectRequest(ctx, r, sent, object)
	}
	// fosite has an error for each of the reasons; and if not, there is no object whose claims
	// were read, which is an error of its own.
	ar, err := p.fosite.NewAuthorizeRequest(ctx, withForm(r, url.Values{
		"client_id": sent["client_id"], "request_uri": sent["request_uri"], "scope": {unread},
	}))
	return mergedRequest(ar, err, sent, "")
}

// mayRefer reports whether the client has registered the location and may use it.
func (p *protected) mayRefer(ctx context.Context, clientID, location string) bool {
	if config := p.pushConfig(); config != nil && config.EnforcePushedAuthorize(ctx) {
		return false
	}
	client, err := p.fosite.Store.GetClient(ctx, clientID)
	if err != nil {
		return false
	}
	oidc, ok := client.(fosite.OpenIDConnectClient)
	return ok && slices.Contains(oidc.GetRequestURIs(), location)
}

// fetch returns the request object at a location that the client has registered.
func (p *protected) fetch(ctx context.Context, location string) (string, error) {
	failed := func(err error) (string, error) {
		return "", fosite.ErrInvalidRequestURI.WithHint("The request object could not be fetched from the 'request_uri'.").WithWrap(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location, http.NoBody)
	if err != nil {
		return failed(err)
	}
	client := p.fosite.Config.GetHTTPClient(ctx).StandardClient()
	// Whether to follow redirects is for the configured client below this one to say.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return failed(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failed(fmt.Errorf("its server answered %s", resp.Status))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRequestObject+1))
	if err != nil {
		return failed(err)
	}
	if len(body) > maxRequestObject {
		return failed(fmt.Errorf("it is longer than %d bytes", maxRequestObject))
	}
	return string(body), nil
}

// mergedRequest makes the request that fosite returned for a request object say what the
// object says, no more and no less; or says why it cannot. The form is built anew, of
// what was sent and of the object's parameters.
func mergedRequest(ar fosite.AuthorizeRequester, err error, sent url.Values, object string) (fosite.AuthorizeRequester, error) {
	request, ok := ar.(*fosite.AuthorizeRequest)
	if !ok {
		return refusedRequest(sent), notNil(err)
	}
	read := request.Form
	request.Form = make(url.Values, len(read))
	for name, values := range sent {
		request.Form[name] = values
	}
	if read.Get("scope") == unread {
		return request, notRead(request, err)
	}

	params, invalid := objectParameters(object)
	for name, values := range params {
		request.Form[name] = values
	}
	request.State = params.Get("state") // also for an error's sake
	if !params.Has("scope") {
		request.Form.Set("scope", "openid")
	}
	if invalid == nil {
		invalid = checkMerge(read, params, sent.Get("client_id"))
	}
	if invalid != nil {
		return request, fosite.ErrInvalidRequestObject.WithHintf("The request object cannot be used: %s.", invalid).WithWrap(invalid)
	}
	return request, err
}

// notRead is the error for an object of which fosite took nothing over.
func notRead(request *fosite.AuthorizeRequest, err error) error {
	if err == nil {
		return fosite.ErrInvalidRequestObject.WithHint("The request object was not read.")
	}
	// What fosite's JWT library has against an object's claims, such as that it has expired,
	// comes as it is, and would look like a failure of this server. Before there is a
	// client, it may be one.
	if rfc := (*fosite.RFC6749Error)(nil); !errors.As(err, &rfc) && request.GetClient().GetID() != "" {
		return fosite.ErrInvalidRequestObject.WithHint("The request object's claims are not valid, or not any more.").WithWrap(err)
	}
	return err
}

// checkMerge holds the parameters of a request object against what fosite read there
// and went by.
func checkMerge(read, params url.Values, clientID string) error {
	if params.Has("client_id") && params.Get("client_id") != clientID { // RFC 9101, Section 5
		return errors.New("its client_id is not the one of the request")
	}
	words := []string{"openid"}
	if params.Has("scope") {
		words = fosite.RemoveEmpty(strings.Split(params.Get("scope"), " "))
	}
	if !slices.Contains(words, "openid") {
		return errors.New("its scope does not contain openid")
	}
	if strings.Join(words, " ") != read.Get("scope") {
		return errors.New("its scope was read in two ways")
	}
	for _, name := range readByFosite {
		if name != "scope" && params.Has(name) && params.Get(name) != read.Get(name) {
			return fmt.Errorf("its claim %q was read in two ways", name)
		}
	}
	return nil
}
