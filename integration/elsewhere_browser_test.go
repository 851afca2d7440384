package integration_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/browser"
)

// The example server with the pages of example-server/consent-app, in a real browser. The client and the server are on
// 127.0.0.1, the application is on localhost, which is another site: three origins, and cookies that have
// to come along when one site redirects to the other.

const appPassword = "a password of the application's"

// pages is where the application is, whose address the server has to know before the application can know the server's.
type pages struct {
	url    string // on localhost
	target atomic.Pointer[url.URL]
}

func newPages(t *testing.T) *pages {
	p := new(pages)
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(p.target.Load())
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(proxy.Close)
	p.url = strings.Replace(proxy.URL, "127.0.0.1", "localhost", 1)
	return p
}

// at returns the server's configuration.
func (p *pages) at(c *authserver.Config) {
	c.Users = nil
	c.Flags = append(c.Flags, "-login-url", p.url+"/login", "-consent-url", p.url+"/consent", "-api-listen", "127.0.0.1:0")
}

// leadTo has the pages be the application's.
func (p *pages) leadTo(t *testing.T, address string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p.target.Store(u)
}

// startConsentApp runs example-server/consent-app and returns its address.
func startConsentApp(t *testing.T, api string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "consent-app")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/fosite-consent/fosite-consent/example-server/consent-app").CombinedOutput(); err != nil {
		t.Fatalf("build the application: %v\n%s", err, out)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	app := exec.Command(program, "-listen", "127.0.0.1:0", "-api-url", api)
	app.Env = append(os.Environ(), "PASSWORD="+appPassword)
	app.Stderr = writer
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	listening := make(chan string, 1)
	ended := make(chan string, 1)
	go func() {
		var log strings.Builder
		heard := false
		buffer := make([]byte, 4096)
		for {
			n, err := reader.Read(buffer)
			log.Write(buffer[:n])
			if _, rest, found := strings.Cut(log.String(), "msg=listening addr="); found && strings.Contains(rest, "\n") && !heard {
				listening <- rest[:strings.IndexByte(rest, '\n')]
				heard = true
			}
			if err != nil {
				ended <- log.String()
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := app.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("the application had ended by itself: %v", err)
		}
		log := <-ended
		if err := app.Wait(); err != nil {
			t.Errorf("the application ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the application:\n%s", log)
		}
		if strings.Contains(log, appPassword) {
			t.Error("the application logs the password")
		}
	})
	select {
	case addr := <-listening:
		return "http://" + addr
	case log := <-ended:
		t.Fatalf("the application does not listen:\n%s", log)
	}
	return ""
}

func TestBrowserWithPagesElsewhere(t *testing.T) {
	t.Parallel()
	chromium := browser.Start(t)
	client := newClientSite(t)
	there := newPages(t)
	s := newSuite(t, withClients(), func(c *authserver.Config) {
		for i := range c.Clients {
			c.Clients[i].RedirectURIs = []string{client.callback()}
		}
	}, there.at)
	there.leadTo(t, startConsentApp(t, s.server.API()))
	e := elsewhere{s}
	loginPage, consentPage := there.url+"/login", there.url+"/consent"
	arrivals := 0
	visits := func(t *testing.T) *visit {
		return &visit{suite: s.in(t), t: t, client: client, profile: chromium.Profile(t)}
	}
	// comes is the last that the client has heard.
	comes := func(v *visit, tab *browser.Tab) arrival {
		v.t.Helper()
		tab.Arrive(client.callback())
		arrivals++
		return client.arrived(v.t, arrivals)[arrivals-1]
	}
	signsIn := func(v *visit, tab *browser.Tab) {
		v.t.Helper()
		tab.Arrive(loginPage)
		v.sees(tab, "Sign in")
		tab.Type("#username", "alice")
		tab.Type("#password", appPassword)
		tab.Click("button[value=sign-in]")
		tab.Arrive(consentPage)
	}

	t.Run("every page can be loaded again, and a wrong password is no login", func(t *testing.T) {
		v := visits(t)
		a := v.asks("web", someScopes, oauth2.SetAuthURLParam("audience", api))
		tab := v.profile.Tab()
		tab.Open(a.address)
		tab.Arrive(loginPage)
		v.looks(tab, "elsewhere-login")
		tab.Reload()
		tab.Arrive(loginPage)
		tab.Type("#username", "alice")
		tab.Type("#password", "not her password")
		tab.Click("button[value=sign-in]")
		v.status(tab.Arrive(loginPage), http.StatusForbidden)
		signsInAgain := func() {
			tab.Type("#username", "alice")
			tab.Type("#password", appPassword)
			tab.Click("button[value=sign-in]")
			tab.Arrive(consentPage)
		}
		signsInAgain()
		v.sees(tab, "The client web wants access")
		if text := tab.Text("main"); !strings.Contains(text, "alice") || !strings.Contains(text, "photos.read") || !strings.Contains(text, api) {
			t.Errorf("the page says %q", text)
		}
		v.looks(tab, "elsewhere-consent")
		tab.Reload()
		tab.Arrive(consentPage)
		tab.Click("input[value='photos.read']")
		tab.Click(approveButton)
		v.redeems(a, comes(v, tab), oidc.ScopeOpenID, oidc.ScopeOfflineAccess)
	})

	t.Run("two tabs of one client do not collide", func(t *testing.T) {
		v := visits(t)
		one, two := v.asks("web", someScopes), v.asks("web", someScopes)
		first, second := v.profile.Tab(), v.profile.Tab()
		first.Open(one.address)
		first.Arrive(loginPage)
		second.Open(two.address)
		signsIn(v, second)
		first.Type("#username", "alice")
		first.Type("#password", appPassword)
		first.Click("button[value=sign-in]")
		first.Arrive(consentPage)
		second.Click(approveButton)
		v.redeems(two, comes(v, second), someScopes...)
		first.Click(approveButton)
		v.redeems(one, comes(v, first), someScopes...)
	})

	t.Run("the back button leads on", func(t *testing.T) {
		v := visits(t)
		a := v.asks("web", someScopes)
		tab := v.profile.Tab()
		tab.Open(a.address)
		signsIn(v, tab)
		// Back to the login, which was answered: on to the consent page again.
		tab.Back()
		if d := tab.Arrive(loginPage); d.Back { // kept by the browser: its form is sent once more
			tab.Type("#username", "alice")
			tab.Type("#password", appPassword)
			tab.Click("button[value=sign-in]")
		}
		tab.Arrive(consentPage)
		v.sees(tab, "The client web wants access")
		tab.Click(denyButton)
		if got := comes(v, tab); got.values.Get("error") != "access_denied" || got.values.Has("code") {
			t.Errorf("the client got %v", got.values)
		}
		// Back to the consent page, which was answered: that counts, and the way on is to be asked anew, from the login on.
		tab.Back()
		if d := tab.Arrive(consentPage); d.Back { // kept by the browser
			tab.Click(approveButton)
			v.status(tab.Arrive(consentPage), http.StatusConflict)
			v.looks(tab, "elsewhere-answered")
			tab.Click("main a")
		}
		signsIn(v, tab)
		tab.Click(approveButton)
		v.redeems(a, comes(v, tab), someScopes...)
	})

	t.Run("who comes back late is asked anew", func(t *testing.T) {
		v := visits(t)
		e := e.in(t)
		a := v.asks("web", someScopes)
		tab := v.profile.Tab()
		tab.Open(a.address)
		tab.Arrive(loginPage)
		e.expire("example_server_login_requests", "answer IS NULL")
		tab.Type("#username", "alice")
		tab.Type("#password", appPassword)
		tab.Click("button[value=sign-in]")
		signsIn(v, tab)
		e.expire("consent_requests", "answered_at IS NULL")
		tab.Click(approveButton)
		tab.Arrive(consentPage) // of another request: the login counts still
		tab.Click(approveButton)
		v.redeems(a, comes(v, tab), someScopes...)
	})

	t.Run("a login and a decision that are remembered", func(t *testing.T) {
		v := visits(t)
		tab := v.profile.Tab()
		scopes := []string{oidc.ScopeOpenID, "photos.read"}
		first := v.asks("web", scopes)
		tab.Open(first.address)
		tab.Arrive(loginPage)
		tab.Type("#username", "alice")
		tab.Type("#password", appPassword)
		tab.Click("#remember")
		tab.Click("button[value=sign-in]")
		tab.Arrive(consentPage)
		tab.Click("#remember")
		tab.Click(approveButton)
		v.redeems(first, comes(v, tab), scopes...)
		again := v.asks("web", scopes)
		tab.Open(again.address) // through the login page, which has nothing to ask, to the client
		v.redeems(again, comes(v, tab), scopes...)
		silent := v.asks("web", scopes, oauth2.SetAuthURLParam("prompt", "none"))
		tab.Open(silent.address)
		v.redeems(silent, comes(v, tab), scopes...)
		// It is taken back where it always is.
		tab.Open(v.at("/account/applications"))
		tab.Arrive(v.at("/account/applications"))
		if text := tab.Text("main"); !strings.Contains(text, "The client web") {
			t.Errorf("the applications: %q", text)
		}
	})

	t.Run("a double click counts once, and leads on", func(t *testing.T) {
		v := visits(t)
		a := v.asks("web", someScopes, oauth2.SetAuthURLParam("audience", api))
		tab := v.profile.Tab()
		tab.Open(a.address)
		tab.Arrive(loginPage)
		tab.Type("#username", "alice")
		tab.Type("#password", appPassword)
		tab.Hold("*/login")
		tab.ClickTwice("button[value=sign-in]", func() { tab.AwaitHeld(1) })
		tab.AwaitHeld(2)
		tab.Release()
		tab.Arrive(consentPage)
		tab.Hold("*/consent")
		tab.ClickTwice(approveButton, func() { tab.AwaitHeld(3) }) // it counts on
		tab.AwaitHeld(4)
		tab.Release()
		v.redeems(a, comes(v, tab), someScopes...)
	})

	t.Run("cancelled at the login", func(t *testing.T) {
		v := visits(t)
		tab := v.profile.Tab()
		tab.Open(v.asks("web", someScopes).address)
		tab.Arrive(loginPage)
		tab.Click(denyButton)
		if got := comes(v, tab); got.values.Get("error") != "access_denied" || got.values.Has("code") {
			t.Errorf("the client got %v", got.values)
		}
	})

	t.Run("an address that has leaked is of no use in another browser", func(t *testing.T) {
		v := visits(t)
		e := e.in(t)
		tab := v.profile.Tab()
		a := v.asks("web", someScopes)
		tab.Open(a.address)
		signsIn(v, tab)
		to, _, err := acceptConsent(e.server, tab.Value("input[name=challenge]"), acceptAll(e, tab.Value("input[name=challenge]")))
		if err != nil {
			t.Fatal(err)
		}
		other := chromium.Profile(t).Tab()
		other.Open(to)
		v.status(other.Arrive(v.at("/consent/back")), http.StatusForbidden)
		v.sees(other, "Nobody is waiting for this decision")
		v.looks(other, "elsewhere-refused")
		tab.Reload() // answered, which the application is told, but not how: asked anew
		tab.Arrive(consentPage)
		tab.Click(approveButton)
		v.redeems(a, comes(v, tab), someScopes...)
	})
}
