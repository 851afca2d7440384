package consentapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/token/jwt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// Client is what the consent application is told of a client: fields of the JSON object that
// Hydra has for one, under its names. There is no secret among them.
type Client struct {
	ClientID                string          `json:"client_id"`
	ClientName              string          `json:"client_name,omitempty"`
	ClientURI               string          `json:"client_uri,omitempty"`
	LogoURI                 string          `json:"logo_uri,omitempty"`
	PolicyURI               string          `json:"policy_uri,omitempty"`
	TermsOfServiceURI       string          `json:"tos_uri,omitempty"`
	Owner                   string          `json:"owner,omitempty"`
	Contacts                []string        `json:"contacts,omitempty"`
	RedirectURIs            []string        `json:"redirect_uris,omitempty"`
	GrantTypes              []string        `json:"grant_types,omitempty"`
	ResponseTypes           []string        `json:"response_types,omitempty"`
	Scope                   string          `json:"scope,omitempty"` // separated by spaces
	Audience                []string        `json:"audience,omitempty"`
	SubjectType             string          `json:"subject_type,omitempty"`
	TokenEndpointAuthMethod string          `json:"token_endpoint_auth_method,omitempty"`
	SkipConsent             *bool           `json:"skip_consent,omitempty"`
	Metadata                json.RawMessage `json:"metadata,omitempty"` // any JSON
	CreatedAt               *time.Time      `json:"created_at,omitempty"`
	UpdatedAt               *time.Time      `json:"updated_at,omitempty"`
}

// Login is what the consent application is told of the login.
type Login struct {
	// SessionID is the id of the login: that of [fositeconsent.Config.LoginSession], if the gate has it, and else the host's.
	SessionID string
	// Challenge is the handle that a login application had, if the host has one.
	Challenge string
	// ACR and AMR say how the resource owner signed in (OpenID Connect Core 1.0, Section 2).
	ACR string
	AMR []string
	// Context is any JSON that a login application has for the consent application.
	Context json.RawMessage
}

// oidcContext is Hydra's object for the parameters that say how the pages should be.
type oidcContext struct {
	ACRValues []string `json:"acr_values,omitempty"`
	Display   string   `json:"display,omitempty"`
	LoginHint string   `json:"login_hint,omitempty"`
	UILocales []string `json:"ui_locales,omitempty"`
}

// document is what a storage keeps of a request, [Request.Document].
type document struct {
	Ticket         string          `json:"ticket"`
	Query          string          `json:"query"` // of the authorization request
	Scopes         []string        `json:"scopes"`
	Audience       []string        `json:"audience"`
	Further        string          `json:"further"` // a digest of what else was asked for
	Rememberable   bool            `json:"rememberable"`
	Skip           bool            `json:"skip"`
	Client         *Client         `json:"client"`
	OIDC           oidcContext     `json:"oidc"`
	LoginChallenge string          `json:"login_challenge,omitempty"`
	ACR            string          `json:"acr,omitempty"`
	AMR            []string        `json:"amr,omitempty"`
	Context        json.RawMessage `json:"context,omitempty"`
}

func (r *Request) document() (*document, error) {
	var d document
	if err := json.Unmarshal(r.Document, &d); err != nil || d.Ticket == "" || d.Client == nil {
		return nil, fmt.Errorf("%w: the document of the consent request %s cannot be read", fositeconsent.ErrStorage, r.ID)
	}
	return &d, nil
}

// answerDocument is what a storage keeps of an answer, [Answer.Document].
type answerDocument struct {
	Accepted    bool            `json:"accepted"`
	Scopes      []string        `json:"scopes,omitempty"`
	Audience    []string        `json:"audience,omitempty"`
	Remember    bool            `json:"remember,omitempty"`
	RememberFor int64           `json:"remember_for,omitempty"` // seconds, 0 is until it is revoked
	Data        json.RawMessage `json:"data,omitempty"`         // Decision.Data
	Rejection   *rejection      `json:"rejection,omitempty"`
}

// rejection is what the client is told.
type rejection struct {
	Error       string `json:"error"`
	Description string `json:"description,omitempty"`
	Hint        string `json:"hint,omitempty"`
	StatusCode  int    `json:"status_code"`
}

// digest tells one answer from another. The order of what is granted does not.
func (d answerDocument) digest() (Hash, error) {
	d.Scopes, d.Audience = slices.Sorted(slices.Values(d.Scopes)), slices.Sorted(slices.Values(d.Audience))
	text, err := json.Marshal(d)
	if err != nil {
		return Hash{}, err
	}
	return sha256.Sum256(append([]byte("fosite-consent/consent-answer\x00"), text...)), nil
}

// decision is what the gate is told.
func (d answerDocument) decision(rememberOffline bool) fositeconsent.Decision {
	decision := fositeconsent.Decision{Scopes: d.Scopes, Audience: d.Audience, Data: d.Data}
	if d.Remember {
		decision.Remember = &fositeconsent.Remember{Lifespan: time.Duration(d.RememberFor) * time.Second, OfflineAccess: rememberOffline}
	}
	return decision
}

func (a *Answer) document() (*answerDocument, error) {
	var d answerDocument
	if err := json.Unmarshal(a.Document, &d); err != nil || d.Accepted != a.Accepted || d.Accepted != (d.Rejection == nil) {
		return nil, fmt.Errorf("%w: the answer of a consent request cannot be read", fositeconsent.ErrStorage)
	}
	return &d, nil
}

// describeClient returns what the application is told of the client.
func (a *API) describeClient(ctx context.Context, client fosite.Client) (*Client, error) {
	c := &Client{
		ClientID:      client.GetID(),
		RedirectURIs:  slices.Clone(client.GetRedirectURIs()),
		GrantTypes:    slices.Clone(client.GetGrantTypes()),
		ResponseTypes: slices.Clone(client.GetResponseTypes()),
		Scope:         strings.Join(client.GetScopes(), " "),
		Audience:      slices.Clone(client.GetAudience()),
		SubjectType:   "public",
	}
	if oidc, ok := client.(fosite.OpenIDConnectClient); ok {
		c.TokenEndpointAuthMethod = oidc.GetTokenEndpointAuthMethod()
	}
	if c.TokenEndpointAuthMethod == "" && client.IsPublic() {
		c.TokenEndpointAuthMethod = "none"
	}
	if a.config.DescribeClient != nil {
		if err := a.config.DescribeClient(ctx, client, c); err != nil {
			return nil, fmt.Errorf("consentapi: Config.DescribeClient: %w", err)
		}
		c.ClientID = client.GetID()
	}
	return c, nil
}

// login returns what the application is told of the login.
func (a *API) login(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session, id string) (*Login, error) {
	l := &Login{SessionID: id}
	if s, ok := session.(interface{ IDTokenClaims() *jwt.IDTokenClaims }); ok {
		if claims := s.IDTokenClaims(); claims != nil {
			l.ACR, l.AMR = claims.AuthenticationContextClassReference, slices.Clone(claims.AuthenticationMethodsReferences)
		}
	}
	if a.config.DescribeLogin != nil {
		if err := a.config.DescribeLogin(ctx, ar, session, l); err != nil {
			return nil, fmt.Errorf("consentapi: Config.DescribeLogin: %w", err)
		}
		if id != "" { // by which consents are revoked, and so what was accepted has to be
			l.SessionID = id
		}
	}
	return l, nil
}

func newOIDCContext(form url.Values) oidcContext {
	return oidcContext{
		ACRValues: strings.Fields(form.Get("acr_values")),
		Display:   form.Get("display"),
		LoginHint: form.Get("login_hint"),
		UILocales: strings.Fields(form.Get("ui_locales")),
	}
}
