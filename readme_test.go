// Package readme holds the code of README.md, so that it compiles and runs.
package readme

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
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
	// README: end
	return store, err
}

var _ = openStore

func newServer(store fositeconsent.GrantStorage, config *fosite.Config, fositeStore, strategy any) (*server, error) {
	// README: construct
	gate, err := fositeconsent.NewGate(store, fositeconsent.Config{Issuer: issuer})
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
	query := r.URL.RawQuery // before fosite merges a request object into r.Form
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
		s.consentPage(w, prompt, query) // shows the prompt; its form carries prompt.Ticket and query
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
	original := &http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: r.PostFormValue("query")}}
	ar, err := s.provider.NewAuthorizeRequest(ctx, original)
	if err != nil {
		http.Error(w, "This form was changed.", http.StatusBadRequest)
		return
	}
	session, ticket := s.session(r), r.PostFormValue("ticket")

	switch r.PostFormValue("decision") {
	case "deny":
		if err = s.gate.Deny(ctx, ar, session, ticket); err == nil {
			err = fosite.ErrAccessDenied
		}
		s.answer(ctx, w, ar, nil, err)
	case "approve":
		var token fositeconsent.Token
		var resp fosite.AuthorizeResponder
		token, err = s.gate.Mint(ctx, ar, session, ticket, fositeconsent.Decision{
			Scopes:   r.PostForm["scope"], // what was ticked
			Audience: ar.GetRequestedAudience(),
		})
		if err == nil {
			resp, err = s.provider.NewAuthorizeResponse(fositeconsent.WithToken(ctx, token), ar, session)
		}
		s.answer(ctx, w, ar, resp, err)
	default:
		http.Error(w, "This form was changed.", http.StatusBadRequest)
	}
}

// README: end

func (s *server) answer(ctx context.Context, w http.ResponseWriter, ar fosite.AuthorizeRequester, resp fosite.AuthorizeResponder, err error) {
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, ar, err)
		return
	}
	s.provider.WriteAuthorizeResponse(ctx, w, ar, resp)
}

func (s *server) session(*http.Request) *openid.DefaultSession {
	session := openid.NewDefaultSession()
	session.Subject = "peter"
	return session
}

func (s *server) consentPage(w http.ResponseWriter, prompt *fositeconsent.Prompt, query string) {
	w.Header().Set("Ticket", prompt.Ticket)
	w.Header().Set("Query", query)
}

func TestReadmeServer(t *testing.T) {
	t.Parallel()
	config := &fosite.Config{GlobalSecret: []byte("a global secret of at least 32 bytes")}
	fositeStore := storage.NewMemoryStore()
	fositeStore.Clients["app"] = &fosite.DefaultClient{
		ID: "app", Public: true, RedirectURIs: []string{"https://app.example/cb"}, ResponseTypes: []string{"code"},
		GrantTypes: []string{"authorization_code"}, Scopes: []string{"photos", "contacts"},
	}
	s, err := newServer(consenttest.NewStorage(nil), config, fositeStore, compose.NewOAuth2HMACStrategy(config))
	if err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRecorder()
	s.authorize(page, httptest.NewRequest(http.MethodGet, "/oauth2/auth?client_id=app&response_type=code&scope=photos+contacts&state=0123456789", nil))
	if page.Header().Get("Ticket") == "" || len(fositeStore.AuthorizeCodes) != 0 {
		t.Fatalf("there is no consent page: %d %s", page.Code, page.Body)
	}
	send := func(decision, query string) *url.URL {
		form := url.Values{"query": {query}, "ticket": {page.Header().Get("Ticket")}, "decision": {decision}, "scope": {"photos"}}
		r := httptest.NewRequest(http.MethodPost, "/consent", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.decide(w, r)
		location, err := w.Result().Location()
		if err != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return location
	}
	query := page.Header().Get("Query")
	if u := send("approve", strings.Replace(query, "photos+contacts", "photos", 1)); u.Query().Get("code") != "" || u.Query().Get("error") != "access_denied" {
		t.Errorf("another request than the one shown leads to %s", u)
	}
	if u := send("approve", query); u.Query().Get("code") == "" || u.Query().Get("scope") != "photos" {
		t.Errorf("an approval leads to %s", u)
	}
	for _, decision := range []string{"approve", "deny"} {
		if u := send(decision, query); u.Query().Get("code") != "" || u.Query().Get("error") != "access_denied" {
			t.Errorf("a second answer leads to %s", u)
		}
	}
	if len(fositeStore.AuthorizeCodes) != 1 {
		t.Errorf("%d codes were issued", len(fositeStore.AuthorizeCodes))
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
	if len(parts) != 4 {
		t.Fatalf("%d marked parts", len(parts))
	}
	shown := strings.Count(string(readme), "```go\n")
	for _, part := range parts {
		code := strings.TrimSpace(regexp.MustCompile(`(?m)^`+part[1]).ReplaceAllString(part[2], ""))
		if !strings.Contains(string(readme), "```go\n"+code+"\n```") {
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
