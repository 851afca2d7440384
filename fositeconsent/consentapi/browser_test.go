package consentapi_test

import (
	"errors"
	"html/template"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	chrome "github.com/fosite-consent/fosite-consent/integration/browser"
)

// application is a consent application as one for Hydra is written: all that it knows is the generated client.
type application struct {
	t      *testing.T
	hydra  *hydra.OAuth2APIService
	server *httptest.Server
}

var applicationPage = template.Must(template.New("").Parse(`<!doctype html><title>Consent</title>
<h1>{{.Client.GetClientName}} asks {{.GetSubject}}</h1>
<form method="post"><input type="hidden" name="challenge" value="{{.Challenge}}">
{{range .RequestedScope}}<p class="scope">{{.}}</p><input type="hidden" name="scope" value="{{.}}">{{end}}
<button name="decision" value="accept">Allow</button> <button name="decision" value="reject">Deny</button></form>`))

// on returns the server's address under the name localhost: another site than 127.0.0.1.
func onLocalhost(s *httptest.Server) string {
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/consent" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	ctx := r.Context()
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodPost {
		var to *hydra.OAuth2RedirectTo
		var err error
		challenge := r.PostFormValue("challenge")
		if r.PostFormValue("decision") == "accept" {
			to, _, err = a.hydra.AcceptOAuth2ConsentRequest(ctx).ConsentChallenge(challenge).AcceptOAuth2ConsentRequest(hydra.AcceptOAuth2ConsentRequest{GrantScope: r.PostForm["scope"]}).Execute()
		} else {
			to, _, err = a.hydra.RejectOAuth2ConsentRequest(ctx).ConsentChallenge(challenge).RejectOAuth2Request(hydra.RejectOAuth2Request{Error: hydra.PtrString("access_denied")}).Execute()
		}
		if err != nil {
			http.Error(w, bodyOf(err), http.StatusBadGateway)
			return
		}
		http.Redirect(w, r, to.RedirectTo, http.StatusSeeOther)
		return
	}
	asked, _, err := a.hydra.GetOAuth2ConsentRequest(ctx).ConsentChallenge(r.URL.Query().Get("consent_challenge")).Execute()
	if gone, ok := modelOf(err).(hydra.OAuth2RedirectTo); ok { // as Hydra's documentation has it: send the browser there
		http.Redirect(w, r, gone.RedirectTo, http.StatusSeeOther)
		return
	}
	if err != nil {
		http.Error(w, bodyOf(err), http.StatusBadGateway)
		return
	}
	if err := applicationPage.Execute(w, asked); err != nil {
		a.t.Error(err)
	}
}

func modelOf(err error) any {
	var generic *hydra.GenericOpenAPIError
	if errors.As(err, &generic) {
		return generic.Model()
	}
	return nil
}

// relyingParty notes what comes back.
type relyingParty struct {
	mu       sync.Mutex
	arrivals []url.Values
}

func (c *relyingParty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/cb" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrivals = append(c.arrivals, r.URL.Query())
	_, _ = w.Write([]byte("<!doctype html><title>Client</title><p>Back."))
}

func (c *relyingParty) last(t *testing.T, n int) url.Values {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.arrivals) != n {
		t.Fatalf("the client heard %v, want %d answers", c.arrivals, n)
	}
	return c.arrivals[n-1]
}

// TestBrowser walks over three origins on two sites: the client and the application on localhost, and the authorization server
// on 127.0.0.1, so that its cookie has to come along when another site redirects to it.
func TestBrowser(t *testing.T) {
	t.Parallel()
	chromium := chrome.Start(t)
	party := &relyingParty{}
	client := httptest.NewServer(party)
	t.Cleanup(client.Close)
	app := &application{t: t}
	app.server = httptest.NewServer(app)
	t.Cleanup(app.server.Close)
	callback, pages := onLocalhost(client)+"/cb", onLocalhost(app.server)+"/consent"
	h := newHost(t, options{application: pages, callback: callback, api: func(c *consentapi.Config) { c.Lifespan = 10 * time.Minute }})
	app.hydra = h.client()
	profile := chromium.Profile(t)
	start := func(state string) string {
		return h.server.URL + "/oauth2/auth?" + url.Values{
			"client_id": {"browser"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid photos"}, "state": {state}, "nonce": {"a nonce that is long enough"},
		}.Encode()
	}
	const allow, deny = "button[value=accept]", "button[value=reject]"

	tab := profile.Tab()
	tab.Open(start("state of the first tab"))
	tab.Arrive(pages)
	if text := tab.Text("h1"); text != "The browser asks alice" {
		t.Errorf("the page says %q", text)
	}
	tab.Reload() // the page can be loaded as often as one likes
	tab.Arrive(pages)
	if n := tab.Count(".scope"); n != 2 {
		t.Errorf("%d scopes", n)
	}

	second := profile.Tab()
	second.Open(start("state of the second tab"))
	second.Arrive(pages)
	second.Click(allow)
	second.Arrive(callback)
	if got := party.last(t, 1); got.Get("state") != "state of the second tab" || got.Get("code") == "" {
		t.Errorf("the client heard %v", got)
	}
	tab.Click(allow)
	tab.Arrive(callback)
	if got := party.last(t, 2); got.Get("state") != "state of the first tab" || got.Get("code") == "" {
		t.Errorf("the client heard %v", got)
	}

	// The back button: the request was used, and the application, told where to go, leads to a new one.
	tab.Back()
	if arrived := tab.Arrive(pages); arrived.Back {
		tab.Reload()
		tab.Arrive(pages)
	}
	tab.Click(deny)
	tab.Arrive(callback)
	if got := party.last(t, 3); got.Get("error") != "access_denied" || got.Get("code") != "" || got.Get("state") != "state of the first tab" {
		t.Errorf("the client heard %v", got)
	}

	// An abandoned page that is found again when its time is over.
	late := profile.Tab()
	late.Open(start("state of the late tab"))
	late.Arrive(pages)
	h.clock.Store(int64(10 * time.Minute))
	late.Reload()
	late.Arrive(pages)
	late.Click(allow)
	late.Arrive(callback)
	if got := party.last(t, 4); got.Get("code") == "" {
		t.Errorf("the client heard %v", got)
	}

	// Another browser, to which the address of the way back has leaked.
	var to string
	{
		leaked := profile.Tab()
		leaked.Open(start("state of the leaked tab"))
		leaked.Arrive(pages)
		to = h.accept(leaked.Value("input[name=challenge]"), &hydra.AcceptOAuth2ConsentRequest{GrantScope: []string{"openid"}})
		other := chromium.Profile(t).Tab()
		other.Open(to)
		if arrived := other.Arrive(h.server.URL + "/oauth2/resume"); arrived.Status != http.StatusBadRequest {
			t.Errorf("another browser gets %d", arrived.Status)
		}
		h.wantNoted(consentapi.ErrForeignBrowser)
		leaked.Reload() // answered, which the application is told, but not how: asked anew
		leaked.Arrive(pages)
		leaked.Click(allow)
		leaked.Arrive(callback)
		if got := party.last(t, 5); got.Get("code") == "" || got.Get("state") != "state of the leaked tab" {
			t.Errorf("the client heard %v", got)
		}
	}
}
