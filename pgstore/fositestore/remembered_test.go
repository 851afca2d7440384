package fositestore_test

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore"
)

// remembering is a host whose gate remembers, all of it in one database.
type remembering struct {
	*host
	gate *fositeconsent.Gate
}

// taking calls meanwhile after each look for consents.
type taking struct {
	*pgstore.Store
	meanwhile func(context.Context)
}

func (s *taking) FindConsents(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	found, err := s.Store.FindConsents(ctx, issuer, subject, clientID)
	if s.meanwhile != nil {
		s.meanwhile(ctx)
	}
	return found, err
}

func (h *remembering) respond(ctx context.Context, scope string, prompts string, decide func(context.Context, fosite.AuthorizeRequester, fosite.Session) context.Context) (string, error) {
	h.Helper()
	ar, err := h.provider.NewAuthorizeRequest(ctx, request(url.Values{
		"client_id": {"app"}, "redirect_uri": {redirect}, "response_type": {"code"}, "scope": {scope}, "prompt": {prompts},
		"state": {"0123456789abcdef"}, "nonce": {"fedcba9876543210"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}))
	if err != nil {
		h.Fatal(cause(err))
	}
	session := openid.NewDefaultSession()
	session.Subject, session.Claims.Subject = "alice", "alice"
	if decide != nil {
		ctx = decide(ctx, ar, session)
	}
	response, err := h.provider.NewAuthorizeResponse(ctx, ar, session)
	if err != nil {
		return "", err
	}
	return h.learn(response.GetCode()), nil
}

// remember is a decision on all that is requested, for later requests, too.
func (h *remembering) remember(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) context.Context {
	prompt, err := h.gate.Prompt(ctx, ar, session)
	if err != nil {
		h.Fatal(cause(err))
	}
	return fositeconsent.WithDecision(ctx, prompt.Ticket, fositeconsent.Decision{Scopes: prompt.Scopes, Remember: &fositeconsent.Remember{OfflineAccess: true}})
}

// skip approves what is remembered, as an application does that has no page to show.
func (h *remembering) skip(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) context.Context {
	prompt, err := h.gate.Prompt(ctx, ar, session)
	if err != nil {
		h.Fatal(cause(err))
	}
	return fositeconsent.WithDecision(ctx, prompt.Ticket, fositeconsent.Decision{Scopes: prompt.Scopes, Unasked: true})
}

// A silent pass costs one look more than an approval, which stays one round trip; and a consent that
// is taken back between the look and the commit is seen by the database.
func TestWhatIsRememberedInOneDatabase(t *testing.T) {
	t.Parallel()
	pool, sent := traced(t)
	h := &remembering{host: newHost(t, pool)}
	grants, err := pgstore.New(pool, pgstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	consents := &taking{Store: grants}
	h.gate, err = fositeconsent.NewGate(grants, fositeconsent.Config{
		Issuer: "https://as.example", Consents: consents,
		DescribeClient: func(context.Context, fosite.Client) ([]string, error) { return []string{"an application"}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	config := &fosite.Config{GlobalSecret: []byte("a global secret of at least 32 bytes"), IDTokenIssuer: "https://as.example"}
	h.provider, err = h.gate.Protect(compose.Compose(config, h.store, &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(func(context.Context) (interface{}, error) { return signingKey(), nil }, config),
	}, h.gate.Factory, compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2RefreshTokenGrantFactory, compose.OpenIDConnectExplicitFactory, compose.OAuth2PKCEFactory))
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	if _, err := h.respond(ctx, "openid offline photos", "", nil); !fositeconsent.NeedsConsent(err) {
		t.Fatalf("nothing was approved: %v", cause(err))
	}
	if _, err := h.respond(ctx, "openid offline photos", "", func(ctx context.Context, ar fosite.AuthorizeRequester, session fosite.Session) context.Context {
		ctx = h.remember(ctx, ar, session)
		sent.reset()
		return ctx
	}); err != nil {
		t.Fatal(cause(err))
	}
	if trips, _, _ := sent.counts(); trips != 1 {
		t.Errorf("an approval is %d round trips:\n%s", trips, sent.text())
	}
	for _, c := range []struct {
		scope, prompt string
		trips         int
		passes        bool
	}{{"openid offline photos", "", 2, true}, {"photos", "none", 2, true}, {"openid offline photos", "consent", 0, false}} {
		sent.reset()
		_, err := h.respond(ctx, c.scope, c.prompt, nil)
		if trips, _, _ := sent.counts(); trips != c.trips || (err == nil) != c.passes {
			t.Errorf("%q with prompt=%q: %d round trips, %v\n%s", c.scope, c.prompt, trips, cause(err), sent.text())
		}
	}
	consents.meanwhile = func(ctx context.Context) {
		if n, err := grants.RevokeConsents(ctx, fositeconsent.Selection{Issuer: "https://as.example", Subject: "alice"}, func(context.Context, fositeconsent.Ended) error { return nil }); err != nil || n != 1 {
			t.Errorf("%d revoked: %v", n, err)
		}
	}
	var before, after int
	count := func(n *int) {
		if err := pool.QueryRow(ctx, "SELECT count(*) FROM consent_codes").Scan(n); err != nil {
			t.Fatal(err)
		}
	}
	count(&before)
	if _, err := h.respond(ctx, "openid photos", "", nil); !errors.Is(err, fositeconsent.ErrConsentRevoked) || !fositeconsent.NeedsConsent(err) {
		t.Errorf("revoked after the look: %v", cause(err))
	}
	if count(&after); after != before {
		t.Errorf("%d codes were stored", after-before)
	}
	consents.meanwhile = nil
	if _, err := h.respond(ctx, "photos", "", nil); !errors.Is(err, fositeconsent.ErrConsentRequired) {
		t.Errorf("revoked before: %v", cause(err))
	}
}
