// Package useragent is a browser without a screen: it keeps cookies, follows the
// redirects within the authorization server, finds the forms on a page and submits
// exactly the fields that they have. What goes to a client it hands to the test.
package useragent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
)

// patience is how long a person looks at a white page; longer than any server under
// test may take.
const patience = 60 * time.Second

// Agent is one browser profile: its cookies are its own. Its methods may be called
// from several goroutines, each a tab.
type Agent struct {
	// OnResponse, if set, sees each response with its body.
	OnResponse func(*http.Response, []byte)

	t      testing.TB
	site   *authserver.Site
	origin *url.URL
	client *http.Client
}

// New returns a browser with an empty profile that talks to the server.
func New(t testing.TB, server *authserver.Server) *Agent {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{t: t, site: server.Site(), client: &http.Client{
		Jar:           jar,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if a.origin, err = url.Parse(server.URL); err != nil {
		t.Fatal(err)
	}
	a.Use(server)
	return a
}

// Use leads what comes to another process of the site, as a load balancer would.
func (a *Agent) Use(server *authserver.Server) { a.client.Transport = server.Transport() }

// At returns the same profile, whose requests go to another process of the site.
func (a *Agent) At(server *authserver.Server) *Agent {
	b := *a
	client := *a.client
	client.Transport = server.Transport()
	b.client = &client
	return &b
}

// CloneProfile returns a browser with a copy of the cookies of now.
func (a *Agent) CloneProfile() *Agent {
	b := *a
	client := *a.client
	jar, err := cookiejar.New(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	jar.SetCookies(a.origin, a.client.Jar.Cookies(a.origin))
	client.Jar = jar
	b.client = &client
	return &b
}

// Cookies returns what is sent to the server.
func (a *Agent) Cookies() []*http.Cookie { return a.client.Jar.Cookies(a.origin) }

// URL returns a URL of the server.
func (a *Agent) URL(path string) string { return a.origin.String() + path }

// Hop is one exchange on the way to a page.
type Hop struct {
	Method string
	URL    *url.URL
	Status int
	Header http.Header
}

// Page is what the browser came to: a page of the server, or the way back to a client.
type Page struct {
	// URL, Status, Header and Body are those of the last response of the server.
	URL    *url.URL
	Status int
	Header http.Header
	Body   string
	// Hops are all exchanges, this one included.
	Hops []Hop
	// Forms are the page's.
	Forms []*Form
	// Location is where the browser was sent that is not the server, nil if it wasn't.
	Location *url.URL

	agent *Agent
	doc   *html.Node
}

// Request is one that may be anything.
type Request struct {
	Method, URL string
	Body        string // of a posted form
	Header      http.Header
}

// Open goes to a URL, as when a client's page has led there.
func (a *Agent) Open(target string) *Page {
	a.t.Helper()
	return a.must(a.Do(Request{Method: http.MethodGet, URL: target, Header: http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}}}))
}

// Post posts a form from a page of the server.
func (a *Agent) Post(target, body string) *Page {
	a.t.Helper()
	return a.must(a.Do(Request{Method: http.MethodPost, URL: target, Body: body, Header: a.SameOrigin()}))
}

// SameOrigin are the headers with which a browser says that a form is on a page of
// the server's own.
func (a *Agent) SameOrigin() http.Header {
	return http.Header{"Origin": {a.origin.String()}, "Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
}

func (a *Agent) must(p *Page, err error) *Page {
	a.t.Helper()
	if err != nil {
		a.t.Fatalf("useragent: %v", err)
	}
	return p
}

// Do carries a request out and follows the redirects within the server.
func (a *Agent) Do(r Request) (*Page, error) { return a.DoContext(context.Background(), r) }

// DoContext is Do, until the context ends: the browser's stop button.
func (a *Agent) DoContext(ctx context.Context, r Request) (*Page, error) {
	var hops []Hop
	target, err := a.origin.Parse(r.URL)
	if err != nil {
		return nil, err
	}
	for {
		request, err := http.NewRequestWithContext(ctx, r.Method, target.String(), strings.NewReader(r.Body))
		if err != nil {
			return nil, err
		}
		for name, values := range r.Header {
			request.Header[name] = values
		}
		if r.Method == http.MethodPost && request.Header.Get("Content-Type") == "" {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		response, err := a.client.Do(request)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			return nil, err
		}
		a.examine(response, body)
		hops = append(hops, Hop{Method: r.Method, URL: target, Status: response.StatusCode, Header: response.Header})
		p := &Page{agent: a, URL: target, Status: response.StatusCode, Header: response.Header, Body: string(body), Hops: hops}
		if location := response.Header.Get("Location"); location != "" && response.StatusCode/100 == 3 {
			next, err := target.Parse(location)
			if err != nil {
				return nil, fmt.Errorf("a redirect to %q: %w", location, err)
			}
			if next.Scheme != a.origin.Scheme || next.Host != a.origin.Host {
				p.Location = next
				return p, nil
			}
			if len(hops) > 10 {
				return nil, fmt.Errorf("more than %d redirects, the last one to %s", len(hops)-1, next)
			}
			if response.StatusCode != http.StatusTemporaryRedirect && response.StatusCode != http.StatusPermanentRedirect {
				r.Method, r.Body = http.MethodGet, ""
			}
			r.Header = http.Header{"Sec-Fetch-Site": r.Header["Sec-Fetch-Site"], "Sec-Fetch-Mode": {"navigate"}}
			target = next
			continue
		}
		return p, p.parse()
	}
}

// examine holds every response against what no response may have.
func (a *Agent) examine(response *http.Response, body []byte) {
	a.t.Helper()
	var header bytes.Buffer
	_ = response.Header.Write(&header)
	for where, text := range map[string][]byte{"header": header.Bytes(), "body": body} {
		if bytes.Contains(text, []byte("fcg_")) {
			a.t.Errorf("the %s of the response to %s %s has a consent token", where, response.Request.Method, response.Request.URL.Path)
		}
	}
	for _, cookie := range response.Cookies() {
		a.site.Forbid("a cookie", cookie.Value)
	}
	if a.OnResponse != nil {
		a.OnResponse(response, body)
	}
}

// Field is one control of a form.
type Field struct {
	Name, Value, Type string
	Checked, Disabled bool
}

// Form is a form on a page. A test may change its fields.
type Form struct {
	Action string
	Method string
	Fields []Field

	page *Page
}

func (p *Page) parse() error {
	if mediaType, _, _ := strings.Cut(p.Header.Get("Content-Type"), ";"); mediaType != "text/html" {
		return nil
	}
	var err error
	if p.doc, err = html.Parse(strings.NewReader(p.Body)); err != nil {
		return err
	}
	for n := range p.doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == "form" {
			action, err := p.URL.Parse(Attribute(n, "action"))
			if err != nil {
				return err
			}
			form := &Form{Action: action.String(), Method: strings.ToUpper(Attribute(n, "method")), page: p}
			for field := range n.Descendants() {
				if field.Type == html.ElementNode && field.Data == "select" {
					form.Fields = append(form.Fields, Field{Name: Attribute(field, "name"), Value: chosen(field), Type: "select", Disabled: has(field, "disabled")})
				}
				if field.Type == html.ElementNode && (field.Data == "input" || field.Data == "button") {
					form.Fields = append(form.Fields, Field{
						Name: Attribute(field, "name"), Value: Attribute(field, "value"), Type: Attribute(field, "type"),
						Checked: has(field, "checked"), Disabled: has(field, "disabled"),
					})
				}
			}
			p.Forms = append(p.Forms, form)
			if action.Host == p.URL.Host {
				for _, f := range form.Fields {
					if f.Name == "ticket" {
						p.agent.site.Forbid("a ticket", f.Value)
					}
				}
			}
		}
	}
	return nil
}

// Attribute returns the value of an element's attribute, "" if there is none.
func Attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

// chosen returns the value of the option that a list begins with.
func chosen(list *html.Node) (value string) {
	first := true
	for n := range list.Descendants() {
		if n.Type == html.ElementNode && n.Data == "option" && (first || has(n, "selected")) {
			value, first = Attribute(n, "value"), false
		}
	}
	return value
}

// Form returns the form that posts to a path of the server, nil if there is none.
func (p *Page) Form(path string) *Form {
	for _, f := range p.Forms {
		if u, err := url.Parse(f.Action); err == nil && u.Path == path && u.Host == p.URL.Host {
			return f
		}
	}
	return nil
}

// Elements returns the page's elements of one name.
func (p *Page) Elements(name string) []*html.Node {
	var list []*html.Node
	if p.doc == nil {
		return nil
	}
	for n := range p.doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == name {
			list = append(list, n)
		}
	}
	return list
}

// Text is what a person reads on the page, with single spaces.
func (p *Page) Text() string {
	if p.doc == nil {
		return ""
	}
	var words []string
	for n := range p.doc.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "script" && n.Parent.Data != "style" && n.Parent.Data != "title" {
			words = append(words, strings.Fields(n.Data)...)
		}
	}
	return strings.Join(words, " ")
}

// Delivery is what a client receives.
type Delivery struct {
	Mode   string // query, fragment or form_post
	URI    string // without what was added to it
	Values url.Values
}

// Delivery returns what the page brings to a client, nil if it brings nothing. A
// parameter of the redirect URI's own query counts as delivered in it.
func (p *Page) Delivery() *Delivery {
	if p.Location != nil {
		u := *p.Location
		if u.Fragment != "" || u.RawFragment != "" {
			values, err := url.ParseQuery(u.EscapedFragment())
			if err != nil {
				p.agent.t.Fatalf("useragent: the fragment is malformed: %v", err)
			}
			u.Fragment, u.RawFragment = "", ""
			return &Delivery{"fragment", u.String(), values}
		}
		values := u.Query()
		u.RawQuery = ""
		return &Delivery{"query", u.String(), values}
	}
	for _, f := range p.Forms {
		if u, err := url.Parse(f.Action); err == nil && u.Host != p.URL.Host {
			return &Delivery{"form_post", f.Action, f.Values("")}
		}
	}
	return nil
}

// Values returns what a browser would send when the button with that value is
// pressed, or without one.
func (f *Form) Values(button string) url.Values {
	values := url.Values{}
	for _, field := range f.Fields {
		switch {
		case field.Name == "" || field.Disabled:
		case field.Type == "submit" && field.Value != button:
		case field.Type == "checkbox" && !field.Checked:
		default:
			values.Add(field.Name, field.Value)
		}
	}
	return values
}

// Agent returns the browser that shows the form.
func (f *Form) Agent() *Agent { return f.page.agent }

// Set fills a field in. It fails the test if there is not exactly one.
func (f *Form) Set(name, value string) *Form {
	f.page.agent.t.Helper()
	found := 0
	for i := range f.Fields {
		if f.Fields[i].Name == name {
			f.Fields[i].Value = value
			found++
		}
	}
	if found != 1 {
		f.page.agent.t.Fatalf("useragent: the form has %d fields %q", found, name)
	}
	return f
}

// Untick clears the checkbox of that name and value.
func (f *Form) Untick(name, value string) *Form {
	f.page.agent.t.Helper()
	for i, field := range f.Fields {
		if field.Type == "checkbox" && field.Name == name && field.Value == value && !field.Disabled {
			f.Fields[i].Checked = false
			return f
		}
	}
	f.page.agent.t.Fatalf("useragent: the form has no checkbox %s=%s", name, value)
	return f
}

// Tick ticks the checkbox of that name.
func (f *Form) Tick(name string) *Form {
	f.page.agent.t.Helper()
	for i, field := range f.Fields {
		if field.Type == "checkbox" && field.Name == name && !field.Disabled && !field.Checked {
			f.Fields[i].Checked = true
			return f
		}
	}
	f.page.agent.t.Fatalf("useragent: the form has no empty checkbox %s", name)
	return f
}

// Submit presses the button with that value; "" is the Enter key.
func (f *Form) Submit(button string) *Page {
	f.page.agent.t.Helper()
	if button != "" && !slices.ContainsFunc(f.Fields, func(field Field) bool { return field.Type == "submit" && field.Value == button }) {
		f.page.agent.t.Fatalf("useragent: the form has no button %q", button)
	}
	return f.page.agent.Post(f.Action, f.Values(button).Encode())
}
