package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// providerConfig is what the authorization server proper is made of.
type providerConfig struct {
	issuer        string
	keys          *keys
	grants        fositeconsent.GrantStorage
	consents      fositeconsent.ConsentStorage // that of the grants
	decisions     fositeconsent.DecisionLog    // that of the grants, too
	storage       any                          // fosite's, whose transactions the grants join if it has any
	grantLifespan time.Duration
	pkcePlain     bool
	onEvent       func(context.Context, fositeconsent.Event)
}

// newProvider puts fosite together, with the gate in front of whatever issues
// something.
func newProvider(c providerConfig) (fosite.OAuth2Provider, *fositeconsent.Gate, *fosite.Config, error) {
	fetch := newFetcher()
	// A fosite.Config belongs to one provider: compose.Compose adds handlers to it.
	config := &fosite.Config{
		GlobalSecret:                   c.keys.secret,
		IDTokenIssuer:                  c.issuer,
		AccessTokenIssuer:              c.issuer,
		TokenURL:                       c.issuer + pathToken,
		AccessTokenLifespan:            time.Hour,
		IDTokenLifespan:                idTokenLifespan,
		RefreshTokenLifespan:           30 * 24 * time.Hour,
		AuthorizeCodeLifespan:          time.Minute, // RFC 6749, Section 4.1.2: 10 minutes at most
		ClientSecretsHasher:            secretHasher{},
		ScopeStrategy:                  fosite.ExactScopeStrategy, // fosite's default takes an asterisk for a pattern
		AudienceMatchingStrategy:       fosite.ExactAudienceMatchingStrategy,
		AllowedPromptValues:            prompts,
		RedirectSecureChecker:          fosite.IsRedirectURISecure,
		EnforcePKCEForPublicClients:    true,
		EnablePKCEPlainChallengeMethod: c.pkcePlain,
		FormPostHTMLTemplate:           formPostTemplate,
		HTTPClient:                     fetch,
		JWKSFetcherStrategy:            fosite.NewDefaultJWKSFetcherStrategy(fosite.JWKSFetcherWithHTTPClient(fetch)),

		PushedAuthorizeRequestURIPrefix: requestURIPrefix,
		PushedAuthorizeContextLifespan:  pushedLifespan,
	}
	// Where a client asserts who it is, this server has three names (RFC 9126, Section 2).
	names := fosite.Fosite{Config: assertionAudience{config, []string{c.issuer, c.issuer + pathToken, c.issuer + pathPush}}}
	names.Store, _ = c.storage.(fosite.Storage)
	config.ClientAuthenticationStrategy = names.DefaultClientAuthenticationStrategy
	signer := newTokenSigner(c.keys.signing)
	strategy := &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: &openid.DefaultStrategy{Signer: signer, Config: config},
		Signer:                     signer, // reads id_token_hint
	}
	gate, err := fositeconsent.NewGate(c.grants, fositeconsent.Config{
		Issuer:         c.issuer,
		GrantLifespan:  c.grantLifespan,
		LoginSession:   loginSession,
		Consents:       c.consents,
		Decisions:      c.decisions,
		DescribeClient: shownOfClient,
		ApplyData:      consentapi.ApplyData, // of decisions that a consent application has made, also if there is none any more
		OnEvent:        noteEvent(c.onEvent),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	provider := compose.Compose(config, c.storage, strategy,
		gate.Factory, // first, always

		compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2AuthorizeImplicitFactory,
		compose.OAuth2RefreshTokenGrantFactory,
		compose.OAuth2ClientCredentialsGrantFactory,

		compose.OpenIDConnectExplicitFactory,
		compose.OpenIDConnectImplicitFactory,
		compose.OpenIDConnectHybridFactory,
		compose.OpenIDConnectRefreshFactory,

		compose.OAuth2TokenIntrospectionFactory,
		compose.OAuth2TokenRevocationFactory,

		compose.OAuth2PKCEFactory,
		compose.PushedAuthorizeHandlerFactory,
	)
	if provider, err = gate.Protect(provider); err != nil {
		return nil, nil, nil, err
	}
	return provider, gate, config, nil
}

// assertionAudience is the configuration with all that a client assertion may have in
// "aud"; fosite's own has the token endpoint alone.
type assertionAudience struct {
	*fosite.Config
	names []string
}

// GetTokenURLs implements fosite.TokenURLProvider.
func (a assertionAudience) GetTokenURLs(context.Context) []string { return a.names }

type eventKey struct{}

// withEvent returns a context, and the place to which [noteEvent] brings what the gate
// says of what is done with it.
func withEvent(ctx context.Context) (context.Context, *fositeconsent.Event) {
	var e fositeconsent.Event
	return context.WithValue(ctx, eventKey{}, &e), &e
}

// noteEvent returns a Config.OnEvent that fills the place of withEvent.
func noteEvent(next func(context.Context, fositeconsent.Event)) func(context.Context, fositeconsent.Event) {
	return func(ctx context.Context, e fositeconsent.Event) {
		if told, ok := ctx.Value(eventKey{}).(*fositeconsent.Event); ok {
			*told = e
		}
		next(ctx, e)
	}
}

// newFetcher returns the client for the request_uris and jwks_uris that are
// registered: bounded in time and size, since a browser waits for them.
func newFetcher() *retryablehttp.Client {
	fetch := retryablehttp.NewClient()
	fetch.Logger = nil // it would print whole URLs
	fetch.RetryMax = 1
	fetch.RetryWaitMax = 500 * time.Millisecond
	fetch.HTTPClient = &http.Client{
		Timeout:   5 * time.Second,
		Transport: limitedTransport{http.DefaultTransport},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // what was registered is what is fetched
		},
	}
	return fetch
}

const maxFetch = 1 << 20

type limitedTransport struct{ next http.RoundTripper }

func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxFetch), resp.Body}
	return resp, nil
}

// logEvents returns the gate's Config.OnEvent: every decision is logged. An event
// holds no secret.
func logEvents(log *slog.Logger) func(context.Context, fositeconsent.Event) {
	return func(ctx context.Context, e fositeconsent.Event) {
		level := slog.LevelInfo
		switch e.Reason {
		case "":
		case "consent_required": // every flow begins so
			level = slog.LevelDebug
		case "storage", "misconfigured", "error", "response_failed", "panic":
			level = slog.LevelError
		default:
			level = slog.LevelWarn
		}
		log.LogAttrs(ctx, level, "consent", slog.Any("gate", e))
	}
}

// logOAuthError logs what fosite refused, without its debug text, and the cause only where it is this server's.
func (s *server) logOAuthError(ctx context.Context, what, clientID string, err error) {
	rfc := fosite.ErrorToRFC6749Error(err)
	attrs := []slog.Attr{slog.String("client_id", clientID), slog.String("error", rfc.ErrorField), slog.String("hint", rfc.HintField)}
	level := slog.LevelInfo
	if rfc.CodeField >= http.StatusInternalServerError {
		level = slog.LevelError
		if cause := rfc.Unwrap(); cause != nil {
			attrs = append(attrs, slog.String("cause", fmt.Sprint(cause)))
		}
	}
	s.log.LogAttrs(ctx, level, what, attrs...)
}
