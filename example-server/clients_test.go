package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v3"
)

func parseClientsText(t testing.TB, text string) ([]*client, error) {
	t.Helper()
	f, err := newJSON("clients.json", []byte(text))
	if err != nil {
		return nil, err
	}
	return parseClients(f)
}

func keySet(t testing.TB, private bool, use string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: use}
	if private {
		jwk.Key = key
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestClientsAreReadWithTheirDefaults(t *testing.T) {
	clients, err := parseClientsText(t, `[
		{"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["https://a.example/cb"]},
		{"client_id": "b", "token_endpoint_auth_method": "none", "client_name": "B", "scope": "openid  x", "require_pushed_authorization_requests": true,
		 "redirect_uris": ["com.example.b:/cb", "http://127.0.0.1/cb"], "response_modes": ["form_post"], "audience": ["api"],
		 "grant_types": ["authorization_code", "implicit"], "response_types": ["id_token code", "token"]},
		{"client_id": "c", "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials"],
		 "jwks": `+keySet(t, false, "sig")+`, "token_endpoint_auth_signing_alg": "ES256"}
	]`)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := clients[0], clients[1], clients[2]
	if a.IsPublic() || a.TokenEndpointAuthMethod != "client_secret_basic" || !slices.Equal(a.GetResponseTypes(), []string{"code"}) ||
		len(a.GetResponseModes()) != 3 || a.displayName() != "a" || strings.Contains(string(a.Secret), "0123") {
		t.Errorf("a: %+v", a.DefaultOpenIDConnectClient.DefaultClient)
	}
	if err := (secretHasher{}).Compare(t.Context(), a.GetHashedSecret(), []byte("0123456789abcdef")); err != nil {
		t.Error(err)
	}
	if !b.IsPublic() || b.displayName() != "B" || !slices.Equal(b.GetScopes(), []string{"openid", "x"}) || len(b.GetResponseModes()) != 1 || len(b.Secret) != 0 {
		t.Errorf("b: %+v", b.DefaultOpenIDConnectClient.DefaultClient)
	}
	if err := (secretHasher{}).Compare(t.Context(), b.GetHashedSecret(), nil); err == nil {
		t.Error("a client without a secret has one: the empty one")
	}
	if a.mustPush || !b.mustPush || c.mustPush { // by default a client need not (RFC 9126, Section 6)
		t.Errorf("they have to push: %v, %v, %v", a.mustPush, b.mustPush, c.mustPush)
	}
	if c.IsPublic() || c.JSONWebKeys == nil || c.GetTokenEndpointAuthSigningAlgorithm() != "ES256" {
		t.Errorf("c: %+v", c.DefaultOpenIDConnectClient)
	}
}

func TestClientsFileErrorsNameThePlace(t *testing.T) {
	const ok = `"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["https://a.example/cb"]`
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                             {"", "clients.json:1:1: not valid JSON"},
		"a comma too many":                    {"[\n  {" + ok + "},\n]", "clients.json:3:1: not valid JSON"},
		"something after the end":             {"[{" + ok + "}] x", "clients.json:1:"},
		"not UTF-8":                           {"[\n\"\xff\"]", "clients.json:2:2: not valid UTF-8"},
		"an object":                           {"{}", "clients.json:1:1: expected a JSON array"},
		"no clients":                          {"[]", "no clients"},
		"a client that is text":               {`["a"]`, "clients.json:1:2: expected a client"},
		"an unknown name":                     {"[{\n" + ok + ",\n \"redirect_uri\": \"x\"}]", `clients.json:3:2: unknown client metadata "redirect_uri"`},
		"a name in another case":              {`[{"Client_ID": "a"}]`, `unknown client metadata "Client_ID"`},
		"a name twice":                        {`[{"client_id": "a", "client_id": "b"}]`, `clients.json:1:21: "client_id" is there twice`},
		"null":                                {`[{"client_id": null}]`, `clients.json:1:16: "client_id": expected a string`},
		"a number":                            {`[{"client_id": 1}]`, `"client_id": expected a string`},
		"text for yes or no":                  {`[{"client_id": "a", "require_pushed_authorization_requests": "true"}]`, `expected true or false`},
		"text for a list":                     {`[{"client_id": "a", "redirect_uris": "x"}]`, `clients.json:1:38: "redirect_uris": expected an array of strings`},
		"null in a list":                      {`[{"client_id": "a", "redirect_uris": [null]}]`, `"redirect_uris": expected an array of strings`},
		"a client twice":                      {"[{" + ok + "},\n{" + ok + "}]", `clients.json:2:15: client "a" is there twice`},
		"no client_id":                        {`[{"client_secret": "0123456789abcdef"}]`, "client_id"},
		"a client_id with a space":            {`[{"client_id": "a b", "token_endpoint_auth_method": "none"}]`, "without a space"},
		"no secret":                           {`[{"client_id": "a", "redirect_uris": ["https://a.example/cb"]}]`, "client_secret: required"},
		"a short secret":                      {`[{"client_id": "a", "client_secret": "short"}]`, "at least 16"},
		"a secret for a public client":        {`[{` + ok + `, "token_endpoint_auth_method": "none"}]`, "client_secret"},
		"another method":                      {`[{` + ok + `, "token_endpoint_auth_method": "magic"}]`, `"magic": expected one of`},
		"another grant type":                  {`[{` + ok + `, "grant_types": ["password"]}]`, `"password"`},
		"client credentials without a secret": {`[{"client_id": "a", "token_endpoint_auth_method": "none", "grant_types": ["client_credentials"]}]`, "client_credentials"},
		"another response type":               {`[{` + ok + `, "response_types": ["none"]}]`, `"none"`},
		"a response type twice":               {`[{` + ok + `, "response_types": ["code code"]}]`, `"code code"`},
		"no response type":                    {`[{` + ok + `, "response_types": [""]}]`, "response_types"},
		"a type without its grant":            {`[{` + ok + `, "response_types": ["token"]}]`, `needs "implicit"`},
		"another response mode":               {`[{` + ok + `, "response_modes": ["jwt"]}]`, `"jwt"`},
		"a wildcard":                          {`[{` + ok + `, "scope": "photos.*"}]`, `"photos.*"`},
		"an audience with a space":            {`[{` + ok + `, "audience": ["a b"]}]`, `"a b"`},
		"no redirect URI":                     {`[{"client_id": "a", "client_secret": "0123456789abcdef"}]`, "redirect_uris: required"},
		"a redirect URI over plain http":      {`[{"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["http://a.example/cb"]}]`, "redirect_uris"},
		"a redirect URI with a fragment":      {`[{"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["https://a.example/cb#"]}]`, "redirect_uris"},
		"a redirect URI that runs":            {`[{"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["javascript:alert(1)"]}]`, "redirect_uris"},
		"a relative redirect URI":             {`[{"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["/cb"]}]`, "redirect_uris"},
		"a site that runs":                    {`[{` + ok + `, "client_uri": "javascript:alert(1)"}]`, "client_uri"},
		"a logo over plain http":              {`[{` + ok + `, "logo_uri": "http://a.example/l.png"}]`, "logo_uri"},
		"a logo with a password":              {`[{` + ok + `, "logo_uri": "https://u:p@a.example/l.png"}]`, "logo_uri"},
		"keys twice":                          {`[{` + ok + `, "jwks_uri": "https://a.example/j", "jwks": ` + keySet(t, false, "sig") + `}]`, "jwks_uri"},
		"no keys":                             {`[{` + ok + `, "jwks": {"keys": []}}]`, "no keys"},
		"something else for keys":             {`[{` + ok + `, "jwks": "x"}]`, "JWK Set"},
		"a private key":                       {`[{` + ok + `, "jwks": ` + keySet(t, true, "sig") + `}]`, "no public key"},
		"a symmetric key":                     {`[{` + ok + `, "jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "use": "sig"}]}}]`, "no public key"},
		"a key for encryption":                {`[{` + ok + `, "jwks": ` + keySet(t, false, "enc") + `}]`, `"use"`},
		"a key that is needed":                {`[{"client_id": "a", "token_endpoint_auth_method": "private_key_jwt", "grant_types": ["client_credentials"]}]`, "jwks"},
		"another algorithm":                   {`[{` + ok + `, "request_object_signing_alg": "HS256"}]`, "HS256"},
		"an algorithm without its method":     {`[{` + ok + `, "token_endpoint_auth_signing_alg": "ES256"}]`, "token_endpoint_auth_signing_alg"},
		"a request over plain http":           {`[{` + ok + `, "request_uris": ["http://a.example/r"]}]`, "request_uris"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseClientsText(t, test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "clients.json:") {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "0123456789abcdef") {
				t.Errorf("the secret is in the error: %v", err)
			}
		})
	}
}

// FuzzClientsFile looks for a panic, and for a client that has no business in the server.
func FuzzClientsFile(f *testing.F) {
	f.Add([]byte(`[{"client_id": "a", "client_secret": "0123456789abcdef", "redirect_uris": ["https://a.example/cb"], "scope": "openid"}]`))
	f.Add([]byte(`[{"client_id": "b", "token_endpoint_auth_method": "none", "redirect_uris": ["com.example.b:/cb"], "response_types": ["code"]}]`))
	f.Add([]byte(`[{"jwks": {"keys": [{"kty": "oct", "k": "AA"}]}, "logo_uri": "https://a;b/"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := newJSON("clients.json", text)
		if err != nil {
			return
		}
		clients, err := parseClients(file)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "clients.json:") {
				t.Errorf("the error has no place: %v", err)
			}
			return
		}
		for _, c := range clients {
			if c.ID == "" || (!c.IsPublic() && len(c.Secret) == 0 && c.TokenEndpointAuthMethod != "private_key_jwt") {
				t.Errorf("client %+v", c.DefaultClient)
			}
			for _, uri := range slices.Concat(c.RedirectURIs, c.RequestURIs, []string{c.uri, c.logoURI, c.policyURI, c.tosURI}) {
				if scheme, _, _ := strings.Cut(uri, ":"); slices.Contains([]string{"javascript", "data", "file", "vbscript"}, strings.ToLower(scheme)) {
					t.Errorf("URI %q", uri)
				}
			}
			if d, images := describeClient(c, "https://op.example"); strings.ContainsAny(images, ";,'\"") || strings.Count(images, " ") > 1 {
				t.Errorf("logo %q makes the policy %q", d.Logo, images)
			}
			if strings.Contains(fmt.Sprint(c.Scopes), "*") {
				t.Errorf("scopes %q", c.Scopes)
			}
		}
	})
}
