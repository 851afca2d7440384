// Package readme holds the code of README.md, so that it compiles and runs.
package readme

import (
	"context"
	"html"
	"html/template"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// The server that the README's reader has.
type server struct {
	provider fosite.OAuth2Provider
	gate     *fositeconsent.Gate
}

const issuer = "https://as.example"

func openStore(ctx context.Context, pool *pgxpool.Pool) (*pgstore.Store, error) {
	// README: store
	if err := pgstore.Migrate(ctx, pool, pgstore.Config{}); err != nil {
		return nil, err
	}
	store, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		return nil, err
	}
	// README: end
	return store, nil
}

func newServer(store fositeconsent.GrantStorage, config *fosite.Config, fositeStore, strategy any) (*server, error) {
	// README: construct
	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{
		Issuer: issuer,
		OnEvent: func(ctx context.Context, e fositeconsent.Event) {
			slog.InfoContext(ctx, "consent", "gate", e) // who, which client, what, and why not
		},
	})
	if err != nil {
		return nil, err
	}
	provider := compose.Compose(config, fositeStore, strategy,
		gate.Factory, // first, before everything that issues
		compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2PKCEFactory,
		// … and whatever else you compose
	)
	provider, err = gate.Protect(provider) // fails if the gate is missing or not first
	if err != nil {
		return nil, err
	}
	// README: end
	return &server{provider: provider, gate: gate}, nil
}

// README: authorize
func (s *server) authorize(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The request could not be read.", http.StatusBadRequest)
		return
	}
	params := r.Form.Encode() // before fosite merges a request object into them
	ar, err := s.provider.NewAuthorizeRequest(ctx, r)
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, ar, err)
		return
	}
	session := s.session(r) // the signed-in user, as before
	resp, err := s.provider.NewAuthorizeResponse(ctx, ar, session)
	if fositeconsent.NeedsConsent(err) {
		prompt, err := s.gate.Prompt(ctx, ar, session)
		if err != nil {
			s.provider.WriteAuthorizeError(ctx, w, ar, err)
			return
		}
		s.consentPage(w, prompt, params) // shows the prompt; its form carries prompt.Ticket and params
		return
	}
	s.answer(ctx, w, ar, resp, err)
}

// README: end

// README: decide
func (s *server) decide(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	// The request that the page was for, and nothing of the form besides it: the
	// ticket knows whether it is the one that was shown.
	params, ticket := r.PostFormValue("params"), r.PostFormValue("ticket")
	original := &http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: params}}
	ar, err := s.provider.NewAuthorizeRequest(ctx, original)
	decision := r.PostForm["decision"]
	if err != nil || len(decision) != 1 {
		http.Error(w, "This form was changed.", http.StatusBadRequest)
		return
	}
	session := s.session(r)

	var resp fosite.AuthorizeResponder
	switch decision[0] {
	case "approve":
		var token fositeconsent.Token
		token, err = s.gate.Mint(ctx, ar, session, ticket, fositeconsent.Decision{
			Scopes:   r.PostForm["scope"], // what was ticked
			Audience: ar.GetRequestedAudience(),
		})
		if err == nil {
			resp, err = s.provider.NewAuthorizeResponse(fositeconsent.WithToken(ctx, token), ar, session)
		}
	case "deny":
		if err = s.gate.Deny(ctx, ar, session, ticket); err == nil {
			err = fosite.ErrAccessDenied
		}
	default:
		http.Error(w, "This form was changed.", http.StatusBadRequest)
		return
	}
	if fositeconsent.NeedsConsent(err) { // a double click, the back button, a changed form: ask again
		http.Redirect(w, r, "/oauth2/auth?"+params, http.StatusSeeOther)
		return
	}
	s.answer(ctx, w, ar, resp, err)
}

func (s *server) answer(ctx context.Context, w http.ResponseWriter, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder, err error) {
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, ar, err)
		return
	}
	s.provider.WriteAuthorizeResponse(ctx, w, ar, resp)
}

// README: end

func (s *server) session(*http.Request) *openid.DefaultSession {
	session := openid.NewDefaultSession()
	session.Subject = "peter"
	return session
}

var consentTemplate = template.Must(template.New("consent").Parse(
	// README: page
	`<form method="post" action="/consent">
  <input type="hidden" name="ticket" value="{{.Prompt.Ticket}}">
  <input type="hidden" name="params" value="{{.Params}}">
  {{range .Prompt.RequiredScopes}}<input type="hidden" name="scope" value="{{.}}">{{end}}
  {{range .Optional}}<label><input type="checkbox" name="scope" value="{{.}}" checked> {{.}}</label>{{end}}
  <button name="decision" value="approve">Allow</button>
  <button name="decision" value="deny">Deny</button>
</form>`,
	// README: end
))

func (s *server) consentPage(w http.ResponseWriter, prompt *fositeconsent.Prompt, params string) {
	var optional []string
	for _, scope := range prompt.Scopes {
		if !slices.Contains(prompt.RequiredScopes, scope) {
			optional = append(optional, scope)
		}
	}
	_ = consentTemplate.Execute(w, map[string]any{"Prompt": prompt, "Params": params, "Optional": optional})
}

// field is the value of a hidden field of the page.
func field(page *httptest.ResponseRecorder, name string) string {
	match := regexp.MustCompile(`name="` + name + `" value="(.*?)"`).FindStringSubmatch(page.Body.String())
	if match == nil {
		return ""
	}
	return html.UnescapeString(match[1])
}

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestReadmeServer(t *testing.T) {
	t.Parallel()
	config := &fosite.Config{GlobalSecret: []byte("a global secret of at least 32 bytes")}
	fositeStore := storage.NewMemoryStore()
	fositeStore.Clients["app"] = &fosite.DefaultClient{
		ID: "app", Public: true, RedirectURIs: []string{"https://app.example/cb"}, ResponseTypes: []string{"code"},
		GrantTypes: []string{"authorization_code"}, Scopes: []string{"photos", "contacts"},
	}
	store, err := openStore(t.Context(), pgtest.Pool(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(store, config, fositeStore, compose.NewOAuth2HMACStrategy(config))
	if err != nil {
		t.Fatal(err)
	}
	request := url.Values{"client_id": {"app"}, "response_type": {"code"}, "scope": {"photos contacts"}, "state": {"0123456789"}}
	post := func(handler http.HandlerFunc, target string, form url.Values) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		handler(w, r)
		return w
	}
	for name, ask := range map[string]func() *httptest.ResponseRecorder{
		"by GET": func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			s.authorize(w, httptest.NewRequest(http.MethodGet, "/oauth2/auth?"+request.Encode(), nil))
			return w
		},
		"by POST": func() *httptest.ResponseRecorder { return post(s.authorize, "/oauth2/auth", request) },
	} {
		before := len(fositeStore.AuthorizeCodes)
		page := ask()
		if field(page, "ticket") == "" || len(fositeStore.AuthorizeCodes) != before {
			t.Fatalf("%s: there is no consent page: %d %s", name, page.Code, page.Body)
		}
		params := field(page, "params")
		send := func(params string, decision ...string) *httptest.ResponseRecorder {
			return post(s.decide, "/consent", url.Values{"params": {params}, "ticket": {field(page, "ticket")}, "decision": decision, "scope": {"photos"}})
		}
		leads := func(w *httptest.ResponseRecorder) *url.URL {
			location, err := w.Result().Location()
			if err != nil {
				t.Fatalf("%s: %d %s", name, w.Code, w.Body)
			}
			return location
		}
		for _, decision := range [][]string{nil, {""}, {"Approve"}, {"approve", "approve"}, {"approve", "deny"}} {
			if w := send(params, decision...); w.Code != http.StatusBadRequest {
				t.Errorf("%s: decision %q: %d", name, decision, w.Code)
			}
		}
		if u := leads(send(strings.Replace(params, "photos+contacts", "photos", 1), "approve")); u.Path != "/oauth2/auth" {
			t.Errorf("%s: another request than the one shown leads to %s", name, u)
		}
		if u := leads(send(params, "approve")); u.Query().Get("code") == "" || u.Query().Get("scope") != "photos" {
			t.Errorf("%s: an approval leads to %s", name, u)
		}
		for _, decision := range []string{"approve", "deny"} {
			if u := leads(send(params, decision)); u.Path != "/oauth2/auth" || u.Query().Encode() != request.Encode() {
				t.Errorf("%s: a second answer leads to %s", name, u)
			}
		}
		if len(fositeStore.AuthorizeCodes) != before+1 {
			t.Errorf("%s: %d codes were issued", name, len(fositeStore.AuthorizeCodes)-before)
		}
	}
	page := post(s.authorize, "/oauth2/auth", request)
	w := post(s.decide, "/consent", url.Values{"params": {field(page, "params")}, "ticket": {field(page, "ticket")}, "decision": {"deny"}})
	if u, err := w.Result().Location(); err != nil || u.Query().Get("error") != "access_denied" || u.Query().Get("state") != "0123456789" {
		t.Errorf("a denial leads to %s, %v", u, err)
	}
}

// The README's blocks of Go are the marked parts of this file, to the letter.
func TestReadmeShowsThisCode(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?s)\n(\t*)// README: \w+\n(.*?)\n\t*// README: end\n`).FindAllStringSubmatch(string(source), -1)
	if len(parts) != 5 {
		t.Fatalf("%d marked parts", len(parts))
	}
	shown := strings.Count(string(readme), "```go\n")
	for _, part := range parts {
		code := strings.TrimSpace(regexp.MustCompile(`(?m)^`+part[1]).ReplaceAllString(part[2], ""))
		block := "```go\n" + code + "\n```"
		if page, isPage := strings.CutPrefix(code, "`"); isPage {
			block = "```html\n" + strings.TrimSuffix(page, "`,") + "\n```"
			shown++
		}
		if !strings.Contains(string(readme), block) {
			t.Errorf("README.md does not show:\n%s", code)
		}
	}
	if shown != len(parts) {
		t.Errorf("README.md has %d blocks of Go, of which %d run", shown, len(parts))
	}
	// And the statement that it shows is the one that runs.
	store, err := os.ReadFile("pgstore/store.go")
	if err != nil {
		t.Fatal(err)
	}
	sql := regexp.MustCompile("(?s)const consumeSQL = `\n(.*?)`").FindStringSubmatch(string(store))
	if sql == nil {
		t.Fatal("pgstore/store.go has no consumeSQL")
	}
	if want := strings.ReplaceAll(sql[1], "%[1]s", `"public"."consent_grants"`); !strings.Contains(string(readme), "```sql\n"+want+"\n```") {
		t.Errorf("README.md does not show the statement:\n%s", want)
	}
}
