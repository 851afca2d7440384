package consentapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// Config is what an API needs to know of its host. The three addresses and Secrets have no default. An
// address is absolute, without a fragment, and https; or http, of a loopback interface.
type Config struct {
	// ConsentURL is the page of the consent application. The browser is sent there with the parameter
	// consent_challenge. Required.
	ConsentURL string

	// AuthorizationURL is the host's authorization endpoint, as browsers reach it: where a request that can no longer
	// be answered is made again. Required.
	AuthorizationURL string

	// ResumeURL is where the browser comes back to, with the parameter consent_verifier; the host
	// calls [API.Resume] there. On the scheme and host of AuthorizationURL, for it needs its cookie. Required.
	ResumeURL string

	// Secrets returns the secrets that verifiers are derived from, each of at least 32 random bytes: the first one
	// for new answers, all of them for answers that were given before. fosite's GlobalSecret and
	// RotatedGlobalSecrets will do: keys of our own are derived from them. It is called on every use and must be safe for concurrent use.
	// Required.
	Secrets func(context.Context) ([][]byte, error)

	// Lifespan is how long a consent request may take, from the redirect to the application until the browser is
	// back. Never longer than the gate's PromptLifespan, and in whole seconds. Defaults to that.
	Lifespan time.Duration

	// AskAlways sends the browser to the application also if nobody needs to be asked, because remembered
	// consents cover the request or the host has pre-approved it, as Hydra does: skip is true then, and nothing passes unless the
	// application accepts. Not with prompt=none, which allows no page. Defaults to false: such a request gets to the
	// application only if that has put something into the tokens when it was approved, so that it says what it puts into these.
	AskAlways bool

	// RememberOfflineAccess has a remembered consent stand for offline_access, too: [fositeconsent.Remember].
	// Hydra's API cannot say so for one answer. Defaults to false: whoever asks for it is asked every time.
	RememberOfflineAccess bool

	// DescribeClient adds to what the application is told of a client, which is at first what fosite
	// knows: the name and the logo, for instance. An error refuses. Defaults to none.
	DescribeClient func(context.Context, fosite.Client, *Client) error

	// DescribeLogin adds to what the application is told of the login, which is at first what the ID token claims of
	// the session and the gate's LoginSession say. An error refuses. Defaults to none.
	DescribeLogin func(context.Context, fosite.AuthorizeRequester, fosite.Session, *Login) error

	// GetClient finds the clients of the consents that are listed. An error of fosite.ErrNotFound's kind, a nil client, or no
	// GetClient at all leaves the client's ID as all that is told of it. Defaults to none.
	GetClient func(ctx context.Context, id string) (fosite.Client, error)

	// Authenticate returns nil for requests to [API.Handler] that are the application's or an operator's. It must be safe for concurrent
	// use and compare secrets in constant time, as [BearerToken] does. Defaults to none: whoever can connect is let
	// in, which is as good as the listener is private. See [PublicAddress].
	Authenticate func(*http.Request) error

	// Logger is told of what the API answers with a status of 500 or more. Defaults to slog.Default().
	Logger *slog.Logger
}

// API is the consent API of one gate. It is safe for concurrent use.
type API struct {
	gate    *fositeconsent.Gate
	storage RequestStorage
	config  Config

	consentURL, authorizationURL, resumeURL url.URL
	secure                                  bool // cookies only over https
}

// New returns the API for a gate. The storage has to be the one of the gate's grants, or to take part in the same transactions. It opens no connection and starts nothing. The error says
// which field of the config cannot be used.
func New(gate *fositeconsent.Gate, storage RequestStorage, config Config) (*API, error) {
	if gate == nil {
		return nil, fmt.Errorf("%w: consentapi.New needs a gate", fositeconsent.ErrMisconfigured)
	}
	if isNil(storage) {
		return nil, fmt.Errorf("%w: consentapi.New needs a RequestStorage, for instance the pgstore.Store that keeps the grants", fositeconsent.ErrMisconfigured)
	}
	if config.Secrets == nil {
		return nil, fmt.Errorf("%w: Config.Secrets is not set: return fosite's GlobalSecret and RotatedGlobalSecrets", fositeconsent.ErrMisconfigured)
	}
	if config.Lifespan < 0 || config.Lifespan > fositeconsent.MaxPromptLifespan || config.Lifespan%time.Second != 0 {
		return nil, fmt.Errorf("%w: Config.Lifespan is %v: use whole seconds up to %v", fositeconsent.ErrMisconfigured, config.Lifespan, fositeconsent.MaxPromptLifespan)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	a := &API{gate: gate, storage: storage, config: config}
	for _, address := range []struct {
		field, text string
		to          *url.URL
	}{
		{"ConsentURL", config.ConsentURL, &a.consentURL},
		{"AuthorizationURL", config.AuthorizationURL, &a.authorizationURL},
		{"ResumeURL", config.ResumeURL, &a.resumeURL},
	} {
		u, err := url.Parse(address.text)
		if err != nil || u.Host == "" || u.User != nil || strings.Contains(address.text, "#") || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return nil, fmt.Errorf("%w: Config.%s is no absolute https URL without a fragment: http is for loopback addresses only", fositeconsent.ErrMisconfigured, address.field)
		}
		*address.to = *u
	}
	if a.resumeURL.Scheme != a.authorizationURL.Scheme || !strings.EqualFold(a.resumeURL.Host, a.authorizationURL.Host) {
		return nil, fmt.Errorf("%w: Config.ResumeURL is on another host than Config.AuthorizationURL: the browser's cookie would not get there", fositeconsent.ErrMisconfigured)
	}
	a.secure = a.authorizationURL.Scheme == "https"
	return a, nil
}

// at returns the address with one more parameter.
func at(u url.URL, name, value string) string {
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = query.Encode()
	return u.String()
}

// restart returns the address at which the authorization request is made again. Its parameters include those that
// AuthorizationURL has itself (RFC 6749, Section 3.1), and a parameter that is there twice would be refused.
func (a *API) restart(query string) string {
	u := a.authorizationURL
	u.RawQuery = query
	return u.String()
}

// Revoke takes back what [fositeconsent.Gate.Revoke] does, and before that the answers that were accepted and have not led to a response
// yet. When it has returned, nothing that was accepted before is good any more. Call it instead of the gate's, everywhere; where one
// storage keeps requests and consents, as pgstore's does, the gate's does the same.
// A call that failed is to be repeated. It returns how many consents it ended. The errors are those of the gate.
func (a *API) Revoke(ctx context.Context, selection fositeconsent.Selection) (int, error) {
	if (selection.Subject == "") != selection.EverySubject || selection.Subject == "" && selection.ClientID == "" {
		return 0, fmt.Errorf("%w: expected a selection with a Subject, or with a ClientID and EverySubject", fositeconsent.ErrMisconfigured)
	}
	// First of all: a response that is under way is waited for, and has left its consent behind then.
	if _, err := a.storage.RevokeConsentRequests(ctx, selection); err != nil {
		return 0, fmt.Errorf("%w: %w", fositeconsent.ErrStorage, err)
	}
	return a.gate.Revoke(ctx, selection)
}

// isNil also finds the nil pointer that an ignored error leaves behind.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	rv := reflect.ValueOf(v)
	return rv.Kind() == reflect.Pointer && rv.IsNil()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// PublicAddress reports whether a listener on this address ("host:port", as net.Listen takes it) can be reached from other machines, as far as
// the address tells: it is neither a loopback address, nor localhost, nor the path of a Unix socket. For what it cannot read the
// answer is true.
func PublicAddress(address string) bool {
	if strings.HasPrefix(address, "/") || strings.HasPrefix(address, "@") { // a Unix socket
		return false
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	host, _, _ = strings.Cut(host, "%") // the zone of an IPv6 address
	return !isLoopback(host)
}

// WarnIfPublic is for the host's start-up: it logs a warning if the API is about to listen on an address that is public ([PublicAddress])
// and has no [Config.Authenticate], and reports whether it did.
func (a *API) WarnIfPublic(ctx context.Context, address string) bool {
	if a.config.Authenticate != nil || !PublicAddress(address) {
		return false
	}
	a.config.Logger.WarnContext(ctx, "the consent API listens on an address that others can reach, and lets everybody in: set consentapi.Config.Authenticate, or listen on a loopback address",
		slog.String("address", address))
	return true
}
