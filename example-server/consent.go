package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The fields of the consent page's form.
const (
	fieldRequest  = "authorization_request" // the parameters, as they came in
	fieldTicket   = "ticket"
	fieldDecision = "decision"
	fieldScope    = "scope"    // once for each ticked scope
	fieldAudience = "audience" // once for each ticked audience

	fieldRemember        = "remember"         // ticked
	fieldRememberOffline = "remember_offline" // ticked
	fieldRememberFor     = "remember_for"     // always there with the two

	decisionApprove = "approve"
	decisionDeny    = "deny"
	ticked          = "yes"
)

// rememberFor are the values of fieldRememberFor.
var rememberFor = map[string]time.Duration{"always": 0, "30-days": 30 * 24 * time.Hour}

// maxValues is more than a page has checkboxes.
const maxValues = 256

// consentPage is what consent.html shows.
type consentPage struct {
	page
	Notice               string // why the page is here again
	AuthorizationRequest string
	Ticket               string
	Client               consentClient
	Username             string
	Scopes               []consentScope    // what is new
	KnownScopes          []consentScope    // what was allowed before, and is a part of the decision again
	Audience             []consentAudience // what is new first
	Destination          string            // the host, or the app, that the browser is sent to
	DestinationLocal     bool              // it is an app on the user's own device
	Lifetimes            []string
	Rememberable         bool
	Offline              bool // it wants to stay connected
	Applications         string
}

// Again reports whether all that is asked for was allowed before.
func (p consentPage) Again() bool { return len(p.KnownScopes) > 0 && len(p.Scopes) == 0 }

// More reports whether some of it was.
func (p consentPage) More() bool { return len(p.KnownScopes) > 0 && len(p.Scopes) > 0 }

type consentClient struct {
	Name, Initial     string
	Site, SiteName    string
	Logo, Policy, TOS string
	Public            bool
}

type consentScope struct {
	ID                  string // of its checkbox
	Name, Title, Detail string
	Required            bool
	Remembered          bool // on the page of the applications
}

type consentAudience struct {
	Name  string
	Known bool
}

// showConsent shows a new consent page for the request. What is on it and the ticket
// come from the same prompt.
func (s *server) showConsent(w http.ResponseWriter, r *http.Request, status int, ar fosite.AuthorizeRequester, st standing, query, notice string) {
	ctx := r.Context()
	prompt, err := s.gate.Prompt(ctx, ar, st.session)
	if err != nil {
		s.writeAuthorizeError(w, r, ar, err)
		return
	}
	p := consentPage{
		page:                 page{Title: "Allow access?"},
		Notice:               notice,
		AuthorizationRequest: query,
		Ticket:               prompt.Ticket,
		Username:             prompt.Subject,
		Lifetimes:            s.lifetimes(ar),
		Rememberable:         prompt.Rememberable,
		Offline:              isOffline(prompt.Scopes),
		Applications:         pathApplications,
	}
	p.Destination, p.DestinationLocal = destination(prompt.RedirectURI)
	for i, name := range unique(prompt.Scopes) {
		scope := describeScope(name)
		scope.ID = fmt.Sprintf("scope-%d", i)
		scope.Required = slices.Contains(prompt.RequiredScopes, name)
		if slices.Contains(prompt.NewScopes, name) {
			p.Scopes = append(p.Scopes, scope)
		} else {
			p.KnownScopes = append(p.KnownScopes, scope)
		}
	}
	for _, name := range unique(prompt.Audience) {
		p.Audience = append(p.Audience, consentAudience{name, !slices.Contains(prompt.NewAudience, name)})
	}
	slices.SortStableFunc(p.Audience, func(a, b consentAudience) int {
		switch {
		case a.Known == b.Known:
			return 0
		case a.Known:
			return 1
		}
		return -1
	})
	images := ""
	if c, ok := prompt.Client.(*client); ok {
		p.Client, images = describeClient(c, s.issuer)
	}
	setPolicy(w, pagePolicy+"; script-src 'self'; img-src 'self'"+images)
	s.render(w, r, status, "consent", p)
}

// isOffline reports whether the scopes let a client stay connected.
func isOffline(scopes []string) bool {
	return slices.Contains(scopes, "offline_access") || slices.Contains(scopes, "offline")
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// describeClient returns what the page says of a client, and the addition to the
// page's policy that lets its logo be loaded.
func describeClient(c *client, issuer string) (d consentClient, images string) {
	d = consentClient{
		Name: c.displayName(), Public: c.IsPublic(),
		Site: c.uri, Policy: c.policyURI, TOS: c.tosURI,
	}
	for _, r := range d.Name {
		d.Initial = strings.ToUpper(string(r))
		break
	}
	if u, err := url.Parse(c.uri); err == nil {
		d.SiteName = u.Host
	}
	if u, err := url.Parse(c.logoURI); err == nil && c.logoURI != "" && isPolicyHost(u.Host) {
		d.Logo = c.logoURI
		if origin := u.Scheme + "://" + u.Host; origin != issuer {
			images = " " + origin
		}
	}
	return d, images
}

// shownOfClient is the gate's Config.DescribeClient: all that describeClient puts on the
// page. When any of it changes, what was remembered counts no longer.
func shownOfClient(_ context.Context, c fosite.Client) ([]string, error) {
	client, ok := c.(*client)
	if !ok {
		return nil, fmt.Errorf("a client of type %T", c)
	}
	kind := "confidential"
	if client.IsPublic() {
		kind = "public"
	}
	return []string{client.displayName(), client.logoURI, client.uri, client.policyURI, client.tosURI, kind}, nil
}

// isPolicyHost reports whether the host and port can stand in a
// Content-Security-Policy, where a space or a semicolon would begin something else.
func isPolicyHost(host string) bool {
	if host == "" {
		return false
	}
	for i := range len(host) {
		switch b := host[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '.', b == '-', b == ':':
		default:
			return false
		}
	}
	return true
}

// describeScope puts a scope into words.
func describeScope(name string) consentScope {
	words := map[string][2]string{
		"openid":         {"Know who you are", "Confirm that it is you, with an identifier that this server has for you."},
		"profile":        {"See your profile", "Your user name."},
		"email":          {"See your email address", ""},
		"address":        {"See your postal address", ""},
		"phone":          {"See your phone number", ""},
		"offline_access": {"Stay connected", "Keep this access when you are not using the application."},
		"offline":        {"Stay connected", "Keep this access when you are not using the application."},
		"photos.read":    {"See your photos", "Look at and download them."},
		"photos.write":   {"Add photos", "Upload new photos and change those that are there."},
	}
	scope := consentScope{Name: name}
	if w, ok := words[name]; ok {
		scope.Title, scope.Detail = w[0], w[1]
	} else {
		scope.Title, scope.Detail = "“"+name+"”", "A permission that the application asks for by this name."
	}
	return scope
}

// destination names where a redirect URI leads in the words of a person.
func destination(redirectURI string) (name string, local bool) {
	u, err := url.Parse(redirectURI)
	switch {
	case err != nil:
		return redirectURI, false
	case u.Scheme != "https" && u.Scheme != "http":
		return u.Scheme, true
	}
	return u.Host, isLoopback(u.Hostname())
}

// lifetimes says for how long access is given (RFC 6749, Section 10.2).
func (s *server) lifetimes(ar fosite.AuthorizeRequester) []string {
	c := s.fositeConfig
	access := humanDuration(c.AccessTokenLifespan)
	lines := []string{"Access lasts for " + access + "."}
	if ar.GetResponseTypes().Has("code") && ar.GetClient().GetGrantTypes().Has(grantRefresh) && isOffline(ar.GetRequestedScopes()) {
		lines = append(lines, "With “Stay connected” the application can renew it by itself, as long as it does so at least once in "+humanDuration(c.RefreshTokenLifespan)+".")
	}
	return lines
}

// humanDuration writes a duration of whole units.
func humanDuration(d time.Duration) string {
	unit, n := "second", int64(d/time.Second)
	switch {
	case d >= 48*time.Hour && d%(24*time.Hour) == 0:
		unit, n = "day", int64(d/(24*time.Hour))
	case d%time.Hour == 0:
		unit, n = "hour", int64(d/time.Hour)
	case d%time.Minute == 0:
		unit, n = "minute", int64(d/time.Minute)
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// decision is the resource owner's answer to one consent page.
type decision struct {
	query            string // the authorization request
	ticket           string
	approved         bool
	scopes, audience []string
	remember         *fositeconsent.Remember // nil: not to be remembered
}

// parseDecision reads the consent page's form. Only the exact value approves, and
// what is unclear is an error.
func parseDecision(form url.Values) (decision, error) {
	var d decision
	for name, values := range form {
		switch name {
		case fieldScope, fieldAudience:
			if len(values) > maxValues {
				return d, fmt.Errorf("there are too many values of %q", name)
			}
			if len(unique(values)) != len(values) {
				return d, fmt.Errorf("a value of %q is there twice", name)
			}
		case fieldRemember, fieldRememberOffline:
			if len(values) != 1 || values[0] != ticked {
				return d, fmt.Errorf("%q is not a tick", name)
			}
		case fieldRequest, fieldTicket, fieldDecision, fieldRememberFor:
			if len(values) != 1 || values[0] == "" {
				return d, fmt.Errorf("expected exactly one %q", name)
			}
		default:
			return d, errors.New("there is a field that the page does not have")
		}
	}
	for _, name := range []string{fieldRequest, fieldTicket, fieldDecision} {
		if !form.Has(name) {
			return d, fmt.Errorf("there is no %q", name)
		}
	}
	switch form.Get(fieldDecision) {
	case decisionApprove:
		d.approved = true
	case decisionDeny:
	default:
		return d, errors.New("the decision is neither approve nor deny")
	}
	query, err := returnQuery(form.Get(fieldRequest))
	if err != nil {
		return d, err
	}
	d.query, d.ticket = query, form.Get(fieldTicket)
	d.scopes, d.audience = form[fieldScope], form[fieldAudience]
	if !form.Has(fieldRemember) { // whatever is said of how
		return d, nil
	}
	lifespan, ok := rememberFor[form.Get(fieldRememberFor)]
	if !ok {
		return d, errors.New("it does not say for how long it is to be remembered")
	}
	d.remember = &fositeconsent.Remember{Lifespan: lifespan, OfflineAccess: form.Has(fieldRememberOffline)}
	return d, nil
}

// postConsent takes the resource owner's decision and answers the client. The
// authorization request is read anew, and the ticket tells whether it is the one
// that the page showed.
func (s *server) postConsent(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	form, err := posted(r)
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	d, err := parseDecision(form)
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	ar, err := s.newAuthorizeRequest(ctx, d.query)
	if err == nil {
		err = s.answerable(ctx, ar)
	}
	if err == nil && hasPrompt(ar.GetRequestForm(), "none") {
		err = fosite.ErrInvalidRequest.WithHint("There was no page for prompt=none.")
	}
	if err != nil {
		s.cannotAnswer(w, r, err)
		return
	}
	r = s.withLoginFor(r, ar.GetRequestForm(), d.query)
	ctx = r.Context()
	st := s.stand(ctx, ar.GetRequestForm(), d.query)
	if st.signIn { // signed out meanwhile, or signed in too long ago
		http.Redirect(w, r, returnPath(d.query), http.StatusSeeOther)
		return
	}

	if !d.approved {
		if err := s.gate.Deny(ctx, ar, st.session, d.ticket); err != nil {
			s.refuseDecision(w, r, ar, st, d, fositeconsent.Event{}, err)
			return
		}
		s.finish(w, r, d.query)
		s.writeAuthorizeError(w, r, ar, fosite.ErrAccessDenied.WithDescription("The resource owner denied the request.").WithHint(""))
		return
	}

	// An approval of nothing would be a code without a scope, which surprises both sides.
	if len(d.scopes) == 0 && len(ar.GetRequestedScopes()) > 0 {
		s.showConsent(w, r, http.StatusBadRequest, ar, st, d.query, "No permission was ticked, so nothing was approved. Tick something, or deny.")
		return
	}

	// The decision goes to the gate with the request that it is about: the grant is
	// stored, and spent for the response, in one transaction.
	ctx, told := withEvent(ctx)
	ctx = fositeconsent.WithDecision(ctx, d.ticket, fositeconsent.Decision{Scopes: d.scopes, Audience: d.audience, Remember: d.remember})
	resp, err := s.provider.NewAuthorizeResponse(ctx, ar, st.session)
	if err != nil {
		s.refuseDecision(w, r, ar, st, d, *told, err)
		return
	}
	if s.demo != nil {
		s.demo.approved(ar.GetState(), told.GrantID, form)
	}
	s.finish(w, r, d.query)
	s.writeAuthorizeResponse(w, r, ar, resp)
}

// cannotAnswer is the page for a decision on a request that is not good, or not good any more.
func (s *server) cannotAnswer(w http.ResponseWriter, r *http.Request, err error) {
	if isServerError(err) {
		s.unavailable(w, r, "authorization request could not be read", err)
		return
	}
	// It may have been changed on the way, or be a signed one that has expired meanwhile.
	// A page all the same: nobody here has seen that this client asks.
	s.log.WarnContext(r.Context(), "decision on a request that cannot be answered", "error", fosite.ErrorToRFC6749Error(err).ErrorField)
	s.renderError(w, r, http.StatusBadRequest, errorPage{
		Heading:     "This request can no longer be answered",
		Explanation: "It is not valid, or not valid any more. Nothing was approved.",
		Advice:      "Go back to the application and start again.",
	})
}

// finish forgets the login that was made for the request, when the client is about to
// get its answer: not before, since whoever gets none comes again with the same request.
// If it cannot be forgotten, the answer, which counts already, is not lost for that.
func (s *server) finish(w http.ResponseWriter, r *http.Request, query string) {
	s.forgetRequest(r.Context(), query)
	if err := s.saveSession(r.Context(), w); err != nil {
		s.log.ErrorContext(r.Context(), "session could not be stored after the answer", "error", err)
	}
}

// refuseDecision answers a decision that came to nothing. The event is what the gate
// said of it, if it was an approval.
func (s *server) refuseDecision(w http.ResponseWriter, r *http.Request, ar fosite.AuthorizeRequester, st standing, d decision, told fositeconsent.Event, err error) {
	switch {
	case errors.Is(err, fositeconsent.ErrAlreadyDecided):
		s.startAgain(w, r, http.StatusConflict, d.query, errorPage{
			Heading:     "This page has already been answered",
			Explanation: "A decision counts once. It was taken when this page was sent for the first time, and this time nothing happened.",
		})
	case errors.Is(err, fositeconsent.ErrInvalidDecision):
		s.badForm(w, r, errors.New("it approves something that was not asked for"))
	case errors.Is(err, fositeconsent.ErrTicketExpired):
		s.showConsent(w, r, http.StatusConflict, ar, st, d.query, "The page had been open for too long, so nothing was approved. Please decide again.")
	case fositeconsent.NeedsConsent(err):
		s.showConsent(w, r, http.StatusConflict, ar, st, d.query, "This is not the request that you were shown, or you signed in again meanwhile. Nothing was approved. Please look at it and decide again.")
	case isServerError(err) && told.Consumed:
		s.unknownOutcome(w, r, d.query, err)
	case isServerError(err):
		s.unavailable(w, r, "decision could not be carried out", err)
	default:
		s.finish(w, r, d.query)
		s.writeAuthorizeError(w, r, ar, err)
	}
}

// unknownOutcome is the page for when the database was lost in the middle of the commit. If it
// did commit, the decision is spent, for a response that nobody has.
func (s *server) unknownOutcome(w http.ResponseWriter, r *http.Request, query string, err error) {
	s.log.ErrorContext(r.Context(), "decision with an unknown outcome", "error", err)
	w.Header().Set("Retry-After", "5")
	s.renderError(w, r, http.StatusServiceUnavailable, errorPage{
		Heading:     "This is not working right now",
		Explanation: "The server has a problem, and cannot tell whether your decision was stored. The application has got nothing.",
		Advice:      "Please try again in a moment: you will be asked anew.",
		Link:        returnPath(query), LinkText: "Try again",
	})
}

// startAgain is a page about a decision that does not count (any more), with a way on.
func (s *server) startAgain(w http.ResponseWriter, r *http.Request, status int, query string, p errorPage) {
	p.Advice, p.Link, p.LinkText = "If the application did not continue, start again: you will be asked anew.", returnPath(query), "Start again"
	if params, err := url.ParseQuery(query); err != nil || isPushed(params) { // which may have been used up: only the client can push another
		p.Advice, p.Link, p.LinkText = "If the application did not continue, go back to it and start again.", "", ""
	}
	s.renderError(w, r, status, p)
}

// isServerError reports whether the fault is this server's and may pass. Then the page
// says so: the person can try again here, and a client could only give up.
func isServerError(err error) bool {
	return fosite.ErrorToRFC6749Error(err).CodeField >= http.StatusInternalServerError
}
