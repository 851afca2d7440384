// Package integration_test drives the example server as a built binary, with
// clients and browsers that know nothing of it, and the library with fosite's own
// handlers and a real PostgreSQL. Nothing in it waits for time to pass, and nothing
// is skipped.
package integration_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/integration/authserver"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/integration/useragent"
)

func TestMain(m *testing.M) {
	code := pgtest.Run(m)
	authserver.RemoveBinary()
	os.Exit(code)
}

// The users, and their passwords.
var users = map[string]string{"alice": "correct horse battery", "bob": "staple and more of it"}

const (
	callback      = "https://client.example/callback"
	otherCallback = "https://client.example/other"
	api           = "https://api.example"
	otherAPI      = "https://other-api.example"
	clientSecret  = "a secret that only a test may have"
	allScopes     = "openid profile offline_access photos.read photos.write"
)

// The clients. All of them may do the same and have the same redirect URIs, so that
// it is never the registration that refuses an exchange of one for another.
var (
	responseTypes = []string{"code", "token", "id_token", "id_token token", "code id_token", "code token", "code id_token token"}
	clients       = []authserver.Client{
		testClient("web", nil),
		testClient("mallory", nil),
		testClient("app", func(c *authserver.Client) { c.Secret, c.TokenEndpointAuthMethod = "", "none" }),
		testClient("app2", func(c *authserver.Client) { c.Secret, c.TokenEndpointAuthMethod = "", "none" }),
	}
)

func testClient(id string, change func(*authserver.Client)) authserver.Client {
	c := authserver.Client{
		ID: id, Secret: clientSecret + " " + id, Name: "The client " + id,
		RedirectURIs: []string{callback, otherCallback}, Scope: allScopes, Audience: []string{api, otherAPI},
		GrantTypes:    []string{"authorization_code", "implicit", "refresh_token"},
		ResponseTypes: responseTypes,
	}
	if change != nil {
		change(&c)
	}
	return c
}

// A code verifier and its challenge, and another pair.
const (
	verifier      = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	otherVerifier = "M25iVXpKU3puUjFaYWg3T1NDTDQtcW1ROUY5YXlwalNoc0hhakxifmZHag"
)

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authorization returns a request for a code. The pairs change its parameters; ""
// leaves one out.
func authorization(clientID string, pairs ...string) url.Values {
	return with(url.Values{
		"client_id": {clientID}, "redirect_uri": {callback}, "response_type": {"code"},
		"scope": {"openid offline_access photos.read"}, "audience": {api},
		"state": {"the state of this request"}, "nonce": {"the nonce of this request"},
		"code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"},
	}, pairs...)
}

// with returns a copy with changes.
func with(values url.Values, pairs ...string) url.Values {
	c := clone(values)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			c.Del(pairs[i])
		} else {
			c.Set(pairs[i], pairs[i+1])
		}
	}
	return c
}

func clone(values url.Values) url.Values {
	c := url.Values{}
	for name, list := range values {
		c[name] = slices.Clone(list)
	}
	return c
}

// suite is the example server on a database of the test's own.
type suite struct {
	t        testing.TB
	database string
	pool     *pgxpool.Pool // to look into the database past the server
	site     *authserver.Site
	server   *authserver.Server
	clients  map[string]authserver.Client
}

// newSuite starts the server.
func newSuite(t testing.TB, configure ...func(*authserver.Config)) *suite {
	t.Helper()
	s := &suite{t: t, clients: map[string]authserver.Client{}}
	config := authserver.Config{Clients: clients, Users: users}
	for _, f := range configure {
		f(&config)
	}
	if config.DatabaseURL == "" {
		config.DatabaseURL = pgtest.Database(t)
	}
	for _, c := range config.Clients {
		s.clients[c.ID] = c
	}
	s.database = config.DatabaseURL
	s.pool = pgtest.PoolAt(t, s.database)
	s.site = authserver.New(t, config)
	s.server = s.site.Start()
	return s
}

func withFlags(flags ...string) func(*authserver.Config) {
	return func(c *authserver.Config) { c.Flags = append(c.Flags, flags...) }
}

func withClients(more ...authserver.Client) func(*authserver.Config) {
	return func(c *authserver.Config) { c.Clients = append(slices.Clone(c.Clients), more...) }
}

// browser returns one in which nobody is signed in.
func (s *suite) browser() *useragent.Agent { return useragent.New(s.t, s.server) }

// signIn returns a browser in which the user has signed in.
func (s *suite) signIn(user string) *useragent.Agent {
	s.t.Helper()
	a := s.browser()
	s.signInAt(a.Open(a.URL("/login")), user)
	return a
}

// signInAt fills the login page in.
func (s *suite) signInAt(page *useragent.Page, user string) *useragent.Page {
	s.t.Helper()
	form := page.Form("/login")
	if form == nil {
		s.t.Fatalf("no login page but status %d, %s", page.Status, page.Text())
	}
	return form.Set("username", user).Set("password", users[user]).Submit("")
}

// authorize leads the browser to the authorization endpoint.
func (s *suite) authorize(a *useragent.Agent, params url.Values) *useragent.Page {
	s.t.Helper()
	return a.Open(a.URL("/oauth2/auth?" + params.Encode()))
}

// consentPage is authorize for a request that leads to the consent page.
func (s *suite) consentPage(a *useragent.Agent, params url.Values) *useragent.Page {
	s.t.Helper()
	page := s.authorize(a, params)
	if page.Status != http.StatusOK || page.Form("/consent") == nil {
		s.t.Fatalf("no consent page but status %d, delivery %+v, %s", page.Status, page.Delivery(), page.Text())
	}
	return page
}

// approve answers the page and expects that something is issued.
func (s *suite) approve(page *useragent.Page) *issued {
	s.t.Helper()
	answer := page.Form("/consent").Submit("approve")
	i := s.issued(answer)
	if i == nil {
		s.t.Fatalf("nothing was issued: status %d, delivery %+v, %s", answer.Status, answer.Delivery(), answer.Text())
	}
	return i
}

// issued is what a client got at the redirect URI.
type issued struct {
	*useragent.Delivery
	code, accessToken, idToken string
}

// issued returns what the page brings to the client, nil if that is nothing that
// could be used.
func (s *suite) issued(page *useragent.Page) *issued {
	d := page.Delivery()
	if d == nil {
		return nil
	}
	i := &issued{d, d.Values.Get("code"), d.Values.Get("access_token"), d.Values.Get("id_token")}
	for what, secret := range map[string]string{"a code": i.code, "an access token": i.accessToken, "an ID token": i.idToken} {
		s.site.Forbid(what, secret)
	}
	if i.code == "" && i.accessToken == "" && i.idToken == "" {
		return nil
	}
	return i
}

// clientFor returns an HTTP client that reaches this process at the issuer's URL.
func clientFor(server *authserver.Server) *http.Client {
	return &http.Client{Transport: server.Transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// tokens is a token response, or an error (RFC 6749, Sections 5.1 and 5.2).
type tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	Scope        string `json:"scope"`
	Error        string `json:"error"`
	status       int
}

// redeem exchanges a code at the token endpoint of a process. An empty verifier is
// not sent.
func (s *suite) redeem(server *authserver.Server, clientID, code, redirectURI, verifier string) tokens {
	s.t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}}
	if redirectURI != "" {
		form.Set("redirect_uri", redirectURI)
	}
	if verifier != "" {
		form.Set("code_verifier", verifier)
	}
	return s.tokenRequest(server, clientID, form)
}

func (s *suite) tokenRequest(server *authserver.Server, clientID string, form url.Values) tokens {
	s.t.Helper()
	var answer tokens
	answer.status = s.post(server, "/oauth2/token", clientID, form, &answer)
	if answer.AccessToken == "" && answer.Error == "" {
		s.t.Fatalf("the token endpoint answered with status %d and neither a token nor an error", answer.status)
	}
	s.site.Forbid("an access token", answer.AccessToken)
	s.site.Forbid("a refresh token", answer.RefreshToken)
	s.site.Forbid("an ID token", answer.IDToken)
	return answer
}

// introspection is the part of an introspection response that is compared.
type introspection struct {
	Active   bool     `json:"active"`
	Scope    string   `json:"scope"`
	ClientID string   `json:"client_id"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
}

// introspect asks as the confidential client.
func (s *suite) introspect(server *authserver.Server, token string) introspection {
	s.t.Helper()
	var answer introspection
	if status := s.post(server, "/oauth2/introspect", "web", url.Values{"token": {token}}, &answer); status != http.StatusOK {
		s.t.Fatalf("introspection: status %d", status)
	}
	return answer
}

// post sends a form as a client that authenticates itself and reads the JSON answer.
func (s *suite) post(server *authserver.Server, path, clientID string, form url.Values, answer any) int {
	s.t.Helper()
	secret := s.clients[clientID].Secret
	if secret == "" {
		form.Set("client_id", clientID)
	}
	r, err := http.NewRequest(http.MethodPost, server.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		r.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(secret))
	}
	response, err := clientFor(server).Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, answer); err != nil {
			s.t.Fatalf("%s answered with status %d and no JSON: %v", path, response.StatusCode, err)
		}
	}
	return response.StatusCode
}

// idToken verifies an ID token with the server's published keys.
func (s *suite) idToken(server *authserver.Server, clientID, raw string) *oidc.IDToken {
	s.t.Helper()
	ctx := oidc.ClientContext(context.Background(), clientFor(server))
	provider, err := oidc.NewProvider(ctx, server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: clientID}).Verify(ctx, raw)
	if err != nil {
		s.t.Fatalf("the ID token cannot be verified: %v", err)
	}
	return token
}

// grants returns all rows of the table of consent grants as text.
func (s *suite) grants() string { s.t.Helper(); return grantsIn(s.t, s.pool) }

func grantsIn(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	var rows string
	err := pool.QueryRow(context.Background(), `SELECT coalesce(string_agg(g::text, E'\n' ORDER BY id), '') FROM consent_grants AS g`).Scan(&rows)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// count returns how many grants there are that were approved, denied and consumed.
func (s *suite) count() (approved, denied, consumed int) { s.t.Helper(); return countIn(s.t, s.pool) }

func countIn(t testing.TB, pool *pgxpool.Pool) (approved, denied, consumed int) {
	t.Helper()
	err := pool.QueryRow(context.Background(), `SELECT count(*) FILTER (WHERE NOT denied), count(*) FILTER (WHERE denied), count(consumed_at) FROM consent_grants`).
		Scan(&approved, &denied, &consumed)
	if err != nil {
		t.Fatal(err)
	}
	return approved, denied, consumed
}

// wantCount fails the test unless there are so many grants.
func (s *suite) wantCount(approved, denied, consumed int) {
	s.t.Helper()
	if a, d, c := s.count(); a != approved || d != denied || c != consumed {
		s.t.Errorf("%d grants are approved, %d denied and %d consumed, want %d, %d and %d", a, d, c, approved, denied, consumed)
	}
}

// nothingIssued fails the test if the page brings something to the client.
func (s *suite) nothingIssued(page *useragent.Page) {
	s.t.Helper()
	if i := s.issued(page); i != nil {
		s.t.Errorf("something was issued: %s to %s", i.Mode, i.URI)
	}
}

// sorted returns a list with spaces in order.
func sorted(list string) string {
	return strings.Join(slices.Sorted(slices.Values(strings.Fields(list))), " ")
}

// Keys of clients that sign request objects. Making them takes longer than a test.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return key
	})
	ecKey = sync.OnceValue(func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	})
)

// publicKeys is the JWK Set of both.
func publicKeys() json.RawMessage {
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: rsaKey().Public(), KeyID: "rsa", Use: "sig", Algorithm: "RS256"},
		{Key: ecKey().Public(), KeyID: "ec", Use: "sig", Algorithm: "ES256"},
	}})
	if err != nil {
		panic(err)
	}
	return text
}

// requestObject returns the claims as a request object (RFC 9101) signed with RS256
// or ES256, or with alg "none".
func requestObject(t testing.TB, alg string, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	if alg == "none" {
		header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
		return header + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	}
	key := jose.JSONWebKey{Key: rsaKey(), KeyID: "rsa"}
	if alg == "ES256" {
		key = jose.JSONWebKey{Key: ecKey(), KeyID: "ec"}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// must is for what cannot fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("test: ", err))
	}
	return v
}
