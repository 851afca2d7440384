package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
)

// maxTokenRequest bounds the body of a token request, in bytes.
const maxTokenRequest = 16 << 10

// addChallenge adds what a response with status 401 has to have (RFC 9110, Section
// 11.6.1; RFC 6749, Section 5.2).
func addChallenge(w http.ResponseWriter, err error) {
	if fosite.ErrorToRFC6749Error(err).CodeField == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Basic")
	}
}

// token is the token endpoint (RFC 6749, Section 3.2).
func (s *server) token(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	r.Body = http.MaxBytesReader(w, r.Body, maxTokenRequest)
	request, err := s.provider.NewAccessRequest(ctx, r, newTokenSession())
	if err != nil {
		s.logTokenError(r, request, err)
		addChallenge(w, err)
		s.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	// No resource owner is involved here, so there is no consent; fosite has checked
	// that the client may have these.
	if request.GetGrantTypes().ExactOne(grantClientCredentials) {
		for _, scope := range request.GetRequestedScopes() {
			request.GrantScope(scope)
		}
		for _, audience := range request.GetRequestedAudience() {
			request.GrantAudience(audience)
		}
	}
	response, err := s.provider.NewAccessResponse(ctx, request)
	// Somebody else has used the code or the refresh token at the same moment, which fosite takes
	// for a failure of this server, or of the request (RFC 6749, Section 5.2).
	if errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) || errors.Is(err, fosite.ErrInactiveToken) {
		err = fosite.ErrInvalidGrant.WithWrap(err)
	}
	if err != nil {
		s.logTokenError(r, request, err)
		s.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	s.provider.WriteAccessResponse(ctx, w, request, response)
}

func (s *server) logTokenError(r *http.Request, request fosite.AccessRequester, err error) {
	var clientID string
	if request != nil && request.GetClient() != nil {
		clientID = request.GetClient().GetID()
	}
	s.logOAuthError(r.Context(), "token request refused", clientID, err)
}

// introspect is the introspection endpoint (RFC 7662).
func (s *server) introspect(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	response, err := s.provider.NewIntrospectionRequest(ctx, r, newTokenSession())
	if err != nil {
		if !errors.Is(err, fosite.ErrInactiveToken) { // which is an answer
			s.logOAuthError(ctx, "introspection refused", "", err)
		}
		addChallenge(w, err)
		s.provider.WriteIntrospectionError(ctx, w, err)
		return
	}
	s.provider.WriteIntrospectionResponse(ctx, w, response)
}

// revoke is the revocation endpoint (RFC 7009).
func (s *server) revoke(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	err := s.provider.NewRevocationRequest(ctx, r)
	if err != nil {
		s.logOAuthError(ctx, "revocation refused", "", err)
		addChallenge(w, err)
	}
	s.provider.WriteRevocationResponse(ctx, w, err)
}

// userinfo is the UserInfo endpoint (OpenID Connect Core 1.0, Section 5.3).
func (s *server) userinfo(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	// Only from the header: a token in a URL ends up in logs.
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_request", "error_description": "An access token is needed in the Authorization header."})
		return
	}
	use, request, err := s.provider.IntrospectToken(ctx, token, fosite.AccessToken, newTokenSession(), "openid")
	if err != nil || use != fosite.AccessToken {
		status, name := http.StatusUnauthorized, "invalid_token"
		if err != nil && fosite.ErrorToRFC6749Error(err).ErrorField == fosite.ErrInvalidScope.ErrorField {
			status, name = http.StatusForbidden, "insufficient_scope"
		}
		w.Header().Set("WWW-Authenticate", `Bearer error="`+name+`"`)
		writeJSON(w, status, map[string]string{"error": name})
		return
	}
	subject := request.GetSession().GetSubject()
	if subject == "" { // a client's own token
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		writeJSON(w, http.StatusForbidden, map[string]string{"error": "insufficient_scope"})
		return
	}
	claims := map[string]string{"sub": subject}
	if slices.Contains(request.GetGrantedScopes(), "profile") {
		claims["preferred_username"] = subject
	}
	writeJSON(w, http.StatusOK, claims)
}

// jwks publishes the keys of the ID tokens (RFC 7517).
func (s *server) jwks(w http.ResponseWriter, r *http.Request) {
	set, err := s.keys.signing.published()
	if err != nil {
		s.log.ErrorContext(r.Context(), "no JWKS", "error", err)
		w.Header().Set("Retry-After", "5")
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"})
		return
	}
	w.Header().Set("Cache-Control", "public, max-age="+strconv.Itoa(int(jwksMaxAge/time.Second)))
	writeJSON(w, http.StatusOK, set)
}

// discovery says where everything is (OpenID Connect Discovery 1.0, Section 4; RFC 8414).
func (s *server) discovery(w http.ResponseWriter, _ *http.Request) {
	challenges := []string{"S256"}
	if s.config.pkcePlain {
		challenges = append(challenges, "plain")
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                           s.issuer,
		"authorization_endpoint":                           s.issuer + pathAuthorize,
		"token_endpoint":                                   s.issuer + pathToken,
		"introspection_endpoint":                           s.issuer + pathIntrospect,
		"revocation_endpoint":                              s.issuer + pathRevoke,
		"pushed_authorization_request_endpoint":            s.issuer + pathPush,
		"require_pushed_authorization_requests":            false, // of some clients
		"userinfo_endpoint":                                s.issuer + pathUserinfo,
		"jwks_uri":                                         s.issuer + pathJWKS,
		"scopes_supported":                                 []string{"openid", "profile", "offline_access"},
		"response_types_supported":                         []string{"code", "id_token", "token", "id_token token", "code id_token", "code token", "code id_token token"},
		"response_modes_supported":                         responseModes,
		"grant_types_supported":                            grantTypes,
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{string(jose.RS256)},
		"request_object_signing_alg_values_supported":      append([]string{"none"}, signingAlgs...),
		"token_endpoint_auth_methods_supported":            authMethods,
		"token_endpoint_auth_signing_alg_values_supported": signingAlgs,
		"code_challenge_methods_supported":                 challenges,
		"prompt_values_supported":                          prompts,
		"claims_supported":                                 []string{"sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "c_hash", "preferred_username"},
		"claims_parameter_supported":                       false,
		"request_parameter_supported":                      true,
		"request_uri_parameter_supported":                  true,
		"require_request_uri_registration":                 true,
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
