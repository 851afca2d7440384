package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
)

// client is a registered client: what fosite asks of one, and what the consent
// page shows of it.
type client struct {
	*fosite.DefaultOpenIDConnectClient
	responseModes []fosite.ResponseModeType
	mustPush      bool // its authorization requests have to be pushed (RFC 9126, Section 6)

	name, uri, logoURI, policyURI, tosURI string
}

var (
	_ fosite.OpenIDConnectClient = (*client)(nil)
	_ fosite.ResponseModeClient  = (*client)(nil)
)

// GetResponseModes implements fosite.ResponseModeClient.
func (c *client) GetResponseModes() []fosite.ResponseModeType { return c.responseModes }

// displayName is what the resource owner knows the client by.
func (c *client) displayName() string {
	if c.name != "" {
		return c.name
	}
	return c.ID
}

// getClient returns a client as fosite asks for it.
func (s *server) getClient(_ context.Context, id string) (fosite.Client, error) {
	if c, ok := s.clients[id]; ok {
		return c, nil
	}
	return nil, fosite.ErrNotFound
}

// registration is a client's metadata (RFC 7591, Section 2; OpenID Connect
// Dynamic Client Registration 1.0, Section 2; RFC 9126, Section 6), with the extensions
// response_modes and audience.
type registration struct {
	ClientID                 string
	ClientSecret             string
	RedirectURIs             []string
	GrantTypes               []string
	ResponseTypes            []string
	Scope                    string
	TokenEndpointAuthMethod  string
	TokenEndpointAuthAlg     string
	ClientName               string
	ClientURI                string
	LogoURI                  string
	PolicyURI                string
	TOSURI                   string
	JWKS                     json.RawMessage
	JWKSURI                  string
	RequestObjectSigningAlg  string
	RequestURIs              []string
	RequirePushedRequests    bool
	ResponseModes, Audiences []string
}

// members says where each name goes.
func (r *registration) members() map[string]any {
	return map[string]any{
		"client_id":                             &r.ClientID,
		"client_secret":                         &r.ClientSecret,
		"redirect_uris":                         &r.RedirectURIs,
		"grant_types":                           &r.GrantTypes,
		"response_types":                        &r.ResponseTypes,
		"scope":                                 &r.Scope,
		"token_endpoint_auth_method":            &r.TokenEndpointAuthMethod,
		"token_endpoint_auth_signing_alg":       &r.TokenEndpointAuthAlg,
		"client_name":                           &r.ClientName,
		"client_uri":                            &r.ClientURI,
		"logo_uri":                              &r.LogoURI,
		"policy_uri":                            &r.PolicyURI,
		"tos_uri":                               &r.TOSURI,
		"jwks":                                  &r.JWKS,
		"jwks_uri":                              &r.JWKSURI,
		"request_object_signing_alg":            &r.RequestObjectSigningAlg,
		"request_uris":                          &r.RequestURIs,
		"require_pushed_authorization_requests": &r.RequirePushedRequests,
		"response_modes":                        &r.ResponseModes,
		"audience":                              &r.Audiences,
	}
}

// readClients reads a JSON array of clients.
func readClients(path string) ([]*client, error) {
	f, err := openJSON(path)
	if err != nil {
		return nil, err
	}
	return parseClients(f)
}

func parseClients(f *jsonFile) ([]*client, error) {
	var clients []*client
	ids := map[string]bool{}
	err := f.array("a JSON array of clients", func(at int64) error {
		var r registration
		members := r.members()
		places := map[string]int64{}
		err := f.object("a client, a JSON object", func(name string, nameAt int64) error {
			target, ok := members[name]
			if !ok {
				return f.errorAt(nameAt, "unknown client metadata %q", name)
			}
			places[name] = f.next()
			return f.value(name, target)
		})
		if err != nil {
			return err
		}
		c, field, err := r.client()
		if err != nil {
			if place, ok := places[field]; ok {
				at = place
			}
			return f.errorAt(at, "client %q: %s: %w", r.ClientID, field, err)
		}
		if ids[c.ID] {
			return f.errorAt(places["client_id"], "client %q is there twice", c.ID)
		}
		ids[c.ID] = true
		clients = append(clients, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(clients) == 0 {
		return nil, f.errorAt(0, "no clients")
	}
	return clients, nil
}

const (
	grantCode              = "authorization_code"
	grantImplicit          = "implicit"
	grantRefresh           = "refresh_token"
	grantClientCredentials = "client_credentials"
)

var (
	grantTypes    = []string{grantCode, grantImplicit, grantRefresh, grantClientCredentials}
	authMethods   = []string{"client_secret_basic", "client_secret_post", "private_key_jwt", "none"}
	responseModes = []string{"query", "fragment", "form_post"}
	signingAlgs   = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}
)

// minClientSecret is how many characters a random secret of 96 bits has in base64.
const minClientSecret = 16

// secretHasher hashes client secrets with SHA-256. That is enough for what a machine
// has made at random, as client secrets have to be (RFC 6749, Section 10.10), and, unlike
// bcrypt, does not let anybody keep the processors busy at the token endpoint. It is
// not for passwords.
type secretHasher struct{}

var _ fosite.Hasher = secretHasher{}

// Hash implements fosite.Hasher.
func (secretHasher) Hash(_ context.Context, secret []byte) ([]byte, error) {
	return hashSecret(secret), nil
}

// Compare implements fosite.Hasher.
func (secretHasher) Compare(_ context.Context, hash, secret []byte) error {
	if len(hash) == 0 || subtle.ConstantTimeCompare(hash, hashSecret(secret)) != 1 {
		return errors.New("the client secret is wrong")
	}
	return nil
}

func hashSecret(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return sum[:]
}

// client fills in the defaults of a registration, checks it, and makes a client of it.
// Beside an error stands the metadata that it is about.
func (r *registration) client() (_ *client, field string, err error) {
	if r.TokenEndpointAuthMethod == "" {
		r.TokenEndpointAuthMethod = "client_secret_basic"
	}
	if r.GrantTypes == nil {
		r.GrantTypes = []string{grantCode}
	}
	if r.ResponseTypes == nil && slices.Contains(r.GrantTypes, grantCode) {
		r.ResponseTypes = []string{"code"}
	}
	if r.ResponseModes == nil {
		r.ResponseModes = responseModes
	}
	public := r.TokenEndpointAuthMethod == "none"
	needsSecret := strings.HasPrefix(r.TokenEndpointAuthMethod, "client_secret_")

	for _, check := range []struct {
		field string
		err   error
	}{
		{"client_id", when(!isIdentifier(r.ClientID), "expected 1 to 255 printable ASCII characters without a space")},
		{"token_endpoint_auth_method", oneOf(authMethods, r.TokenEndpointAuthMethod)},
		{"client_secret", when(!needsSecret && r.ClientSecret != "", "a client with token_endpoint_auth_method %q has none", r.TokenEndpointAuthMethod)},
		{"client_secret", when(needsSecret && r.ClientSecret == "", "required with token_endpoint_auth_method %q; a public client has \"none\"", r.TokenEndpointAuthMethod)},
		{"client_secret", when(needsSecret && len(r.ClientSecret) < minClientSecret, "has %d characters: use a random text of at least %d", len(r.ClientSecret), minClientSecret)},
		{"token_endpoint_auth_signing_alg", when(r.TokenEndpointAuthAlg != "" && r.TokenEndpointAuthMethod != "private_key_jwt", "only with token_endpoint_auth_method \"private_key_jwt\"")},
		{"token_endpoint_auth_signing_alg", oneOf(signingAlgs, optional(r.TokenEndpointAuthAlg)...)},
		{"grant_types", oneOf(grantTypes, r.GrantTypes...)},
		{"grant_types", when(public && slices.Contains(r.GrantTypes, grantClientCredentials), "a public client cannot have %q", grantClientCredentials)},
		{"response_types", checkResponseTypes(r.ResponseTypes, r.GrantTypes)},
		{"response_modes", oneOf(responseModes, r.ResponseModes...)},
		{"scope", checkScope(r.Scope)},
		{"audience", each(r.Audiences, func(s string) error {
			return when(s == "" || strings.ContainsAny(s, " \t\r\n"), "expected values without spaces")
		})},
		{"redirect_uris", when(len(r.ResponseTypes) > 0 && len(r.RedirectURIs) == 0, "required: the browser has to be sent somewhere")},
		{"redirect_uris", each(r.RedirectURIs, checkRedirectURI)},
		{"client_uri", checkURLs(optional(r.ClientURI)...)},
		{"logo_uri", checkURLs(optional(r.LogoURI)...)},
		{"policy_uri", checkURLs(optional(r.PolicyURI)...)},
		{"tos_uri", checkURLs(optional(r.TOSURI)...)},
		{"jwks_uri", checkURLs(optional(r.JWKSURI)...)},
		{"jwks_uri", when(r.JWKSURI != "" && r.JWKS != nil, "not together with jwks")},
		{"jwks", when(r.TokenEndpointAuthMethod == "private_key_jwt" && r.JWKS == nil && r.JWKSURI == "", "jwks or jwks_uri is required with token_endpoint_auth_method \"private_key_jwt\"")},
		{"request_uris", checkURLs(r.RequestURIs...)},
		{"request_object_signing_alg", oneOf(append([]string{"none"}, signingAlgs...), optional(r.RequestObjectSigningAlg)...)},
	} {
		if check.err != nil {
			return nil, check.field, check.err
		}
	}
	keys, err := parseKeySet(r.JWKS)
	if err != nil {
		return nil, "jwks", err
	}
	var hash []byte
	if needsSecret {
		hash = hashSecret([]byte(r.ClientSecret))
	}
	c := &client{
		DefaultOpenIDConnectClient: &fosite.DefaultOpenIDConnectClient{
			DefaultClient: &fosite.DefaultClient{
				ID:            r.ClientID,
				Secret:        hash,
				RedirectURIs:  r.RedirectURIs,
				GrantTypes:    r.GrantTypes,
				ResponseTypes: r.ResponseTypes,
				Scopes:        strings.Fields(r.Scope),
				Audience:      r.Audiences,
				Public:        public,
			},
			JSONWebKeysURI:                    r.JWKSURI,
			JSONWebKeys:                       keys,
			TokenEndpointAuthMethod:           r.TokenEndpointAuthMethod,
			TokenEndpointAuthSigningAlgorithm: r.TokenEndpointAuthAlg,
			RequestURIs:                       r.RequestURIs,
			RequestObjectSigningAlgorithm:     r.RequestObjectSigningAlg,
		},
		mustPush: r.RequirePushedRequests,
		name:     r.ClientName, uri: r.ClientURI, logoURI: r.LogoURI, policyURI: r.PolicyURI, tosURI: r.TOSURI,
	}
	for _, mode := range r.ResponseModes {
		c.responseModes = append(c.responseModes, fosite.ResponseModeType(mode))
	}
	return c, "", nil
}

func when(wrong bool, format string, args ...any) error {
	if wrong {
		return fmt.Errorf(format, args...)
	}
	return nil
}

func optional(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func each(list []string, check func(string) error) error {
	for _, s := range list {
		if err := check(s); err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
	}
	return nil
}

func oneOf(allowed []string, values ...string) error {
	return each(values, func(s string) error {
		return when(!slices.Contains(allowed, s), "expected one of %s", strings.Join(allowed, ", "))
	})
}

// checkResponseTypes wants every combination of code, id_token and token that is
// listed to be allowed by the grant types (RFC 7591, Section 2.1).
func checkResponseTypes(types, grants []string) error {
	return each(types, func(t string) error {
		parts := strings.Fields(t)
		slices.Sort(parts)
		if len(parts) == 0 || len(slices.Compact(slices.Clone(parts))) != len(parts) {
			return fmt.Errorf("expected a combination of code, id_token and token")
		}
		for _, part := range parts {
			needs := grantImplicit
			switch part {
			case "code":
				needs = grantCode
			case "id_token", "token":
			default:
				return fmt.Errorf("expected a combination of code, id_token and token")
			}
			if !slices.Contains(grants, needs) {
				return fmt.Errorf("needs %q among grant_types", needs)
			}
		}
		return nil
	})
}

// checkScope refuses what a scope-token cannot be (RFC 6749, Section 3.3), and
// wildcards, which this server never matches.
func checkScope(scope string) error {
	return each(strings.Fields(scope), func(s string) error {
		for i := range len(s) {
			if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' || s[i] == '*' {
				return fmt.Errorf("has a character that a scope cannot have")
			}
		}
		return nil
	})
}

// checkRedirectURI accepts https, http on a loopback address, and the private-use
// schemes of native apps (RFC 8252, Section 7.1), which have a dot in them.
func checkRedirectURI(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || !fosite.IsValidRedirectURI(u) || strings.Contains(s, "#"):
		return fmt.Errorf("expected an absolute URI without a fragment")
	case u.Scheme == "https" && u.Hostname() != "" && u.User == nil:
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()) && u.User == nil:
		return nil
	case u.Scheme != "http" && u.Scheme != "https" && strings.Contains(u.Scheme, "."):
		return nil
	}
	return fmt.Errorf("expected https, http on a loopback address, or a private-use scheme such as com.example.app")
}

// checkURLs accepts what the consent page may link to and what the server may fetch.
func checkURLs(list ...string) error {
	return each(list, func(s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" || u.User != nil || (u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()))) {
			return fmt.Errorf("expected an https URL, or http on a loopback address")
		}
		return nil
	})
}

// parseKeySet reads a JWK Set of public keys for signatures.
func parseKeySet(text json.RawMessage) (*jose.JSONWebKeySet, error) {
	if text == nil {
		return nil, nil
	}
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&set); err != nil {
		return nil, fmt.Errorf("expected a JWK Set") // not the cause: it could print a private key
	}
	if len(set.Keys) == 0 {
		return nil, fmt.Errorf("the JWK Set has no keys")
	}
	for i, key := range set.Keys {
		if !key.Valid() || !key.IsPublic() {
			return nil, fmt.Errorf("key %d of the JWK Set is no public key", i+1)
		}
		if key.Use != "sig" {
			return nil, fmt.Errorf("key %d of the JWK Set needs \"use\": \"sig\", or fosite passes over it", i+1)
		}
	}
	return &set, nil
}
