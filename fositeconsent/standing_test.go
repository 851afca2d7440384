package fositeconsent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// inTransactions composes fosite with a storage that has transactions.
func inTransactions(h *host, _ *fositeconsent.Config) { h.composed = &txStorage{MemoryStore: h.store} }

func (h *consentHost) tx() *txStorage { return h.composed.(*txStorage) }

func TestWhoPresentsSomethingIsJudgedByThatAlone(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
		c.PreApproved = func(_ context.Context, ar fosite.AuthorizeRequester, _ string) (bool, error) {
			return ar.GetClient().GetID() == "other", nil
		}
	})
	h.remember(web(), "peter")
	stale := h.prompt(web("state", "another state"), "peter").Ticket
	other := h.approve(web("state", "another state"), "peter")
	for _, form := range []url.Values{web(), web("client_id", "other", "redirect_uri", "https://other.example/cb")} {
		if _, err := h.ask(form, "peter"); err != nil { // it would pass
			t.Fatal(cause(err))
		}
		rows := h.stored()
		for reason, ctx := range map[error]context.Context{
			fositeconsent.ErrMalformedToken:  fositeconsent.WithToken(t.Context(), fositeconsent.Token{}),
			fositeconsent.ErrBindingMismatch: fositeconsent.WithToken(t.Context(), other),
			fositeconsent.ErrInvalidTicket:   fositeconsent.WithDecision(t.Context(), "", fositeconsent.Decision{}),
		} {
			if _, err := h.provider.NewAuthorizeResponse(ctx, h.parse(form), h.login("peter")); !errors.Is(err, reason) || h.stored() != rows {
				t.Errorf("%v, expected %v", cause(err), reason)
			}
		}
		_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), stale, fositeconsent.Decision{Scopes: []string{"openid"}}), h.parse(form), h.login("peter"))
		if !errors.Is(err, fositeconsent.ErrBindingMismatch) || h.stored() != rows {
			t.Errorf("a ticket for another request: %v", cause(err))
		}
	}
}

func TestWhatAPassCosts(t *testing.T) {
	t.Parallel()
	clients := &countingClients{}
	h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) {
		clients.txStorage = &txStorage{MemoryStore: h.store}
		h.composed = clients
	})
	h.remember(web(), "peter")
	for _, c := range []struct {
		form   url.Values
		user   string
		log    []string
		looks  int
		loaded int32
	}{
		{web(), "paul", nil, 1, 0},
		{web("scope", "openid contacts"), "peter", nil, 1, 0},
		{web("prompt", "none"), "paul", nil, 1, 0},
		{web("prompt", "consent"), "peter", nil, 0, 0},
		{web(), "peter", []string{"begin", "code", "commit"}, 1, 1},
	} {
		ar := h.parse(c.form)
		clients.log, h.consents.found = nil, 0
		clients.loaded.Store(0)
		_, err := h.provider.NewAuthorizeResponse(t.Context(), ar, h.login(c.user))
		if (err == nil) != (c.log != nil) {
			t.Errorf("%v: %v", c.form, cause(err))
		}
		if !slices.Equal(clients.log, c.log) || h.consents.found != c.looks || clients.loaded.Load() != c.loaded {
			t.Errorf("%v for %s: %d looks, %d clients, and the storage saw %v", c.form, c.user, h.consents.found, clients.loaded.Load(), clients.log)
		}
	}
}

// An approval has the client loaded once as well, for the policy and for what the page showed.
func TestWhatAnApprovalCosts(t *testing.T) {
	t.Parallel()
	clients := &countingClients{}
	h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) {
		clients.txStorage = &txStorage{MemoryStore: h.store}
		h.composed = clients
	})
	p, ar := h.prompt(web(), "peter"), h.parse(web())
	clients.loaded.Store(0)
	h.consents.found = 0
	if _, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, all(p)), ar, h.login("peter")); err != nil {
		t.Fatal(cause(err))
	}
	if clients.loaded.Load() != 1 || h.consents.found != 0 || !slices.Equal(clients.log, []string{"begin", "code", "commit"}) {
		t.Errorf("%d clients, %d looks, and the storage saw %v", clients.loaded.Load(), h.consents.found, clients.log)
	}
}

// countingClients counts how often a client is loaded.
type countingClients struct {
	*txStorage
	loaded atomic.Int32
}

func (c *countingClients) GetClient(ctx context.Context, id string) (fosite.Client, error) {
	c.loaded.Add(1)
	return c.txStorage.GetClient(ctx, id)
}

func TestConsentsAreRecordedBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, inTransactions)
	h.consents.onRecord = func(ctx context.Context, _ *fositeconsent.Response) error {
		return h.tx().end(ctx, "record", nil)
	}
	want := []string{"begin", "record", "code", "commit"}
	h.remember(web(), "peter")
	if !slices.Equal(h.tx().log, want) {
		t.Errorf("an approval: the storage saw %v", h.tx().log)
	}
	h.tx().log = nil
	ar, session := h.parse(web()), h.login("peter")
	resp, err := h.provider.NewAuthorizeResponse(t.Context(), ar, session)
	if err != nil {
		t.Fatal(cause(err))
	}
	if !slices.Equal(h.tx().log, want) {
		t.Errorf("a pass: the storage saw %v", h.tx().log)
	}
	if last := h.consents.recorded[len(h.consents.recorded)-1]; last.RequestID != ar.GetID() {
		t.Error("recorded under another ID than the request's")
	}
	w := httptest.NewRecorder()
	h.provider.WriteAuthorizeResponse(t.Context(), w, ar, resp)
	if !strings.Contains(w.Header().Get("Location"), "code=") {
		t.Errorf("the response is not written: %v", w.Header())
	}
	ar.(*fosite.AuthorizeRequest).State = "another"
	w = httptest.NewRecorder()
	h.provider.WriteAuthorizeResponse(t.Context(), w, ar, resp)
	if strings.Contains(w.Header().Get("Location"), "code=") {
		t.Errorf("the response is written for another request: %v", w.Header())
	}
}

// revoking is a revocation that comes between the look and the record.
func TestAConsentThatEndsMeanwhileIsARefusal(t *testing.T) {
	t.Parallel()
	for _, reason := range []error{fositeconsent.ErrConsentRevoked, fositeconsent.ErrConsentExpired} {
		for _, late := range []bool{false, true} {
			for _, prompt := range []string{"", "none"} {
				for _, decided := range []bool{false, true} {
					for _, plain := range []bool{false, true} {
						if late && plain || decided && prompt == "none" {
							continue
						}
						t.Run(fmt.Sprint(reason, late, prompt, decided, plain), func(t *testing.T) {
							t.Parallel()
							options := []option{inTransactions}
							if plain {
								options = nil
							}
							h := newConsentHost(t, options...)
							h.remember(web(), "peter")
							rows := h.stored()
							wrapped := fmt.Errorf("flushed: %w", reason)
							if late {
								h.tx().commit = func(context.Context) error { return wrapped }
							} else {
								h.consents.onRecord = func(context.Context, *fositeconsent.Response) error { return wrapped }
							}
							var err error
							if decided {
								_, err = h.decide(web(), "peter", func(*fositeconsent.Decision) {})
							} else {
								_, err = h.ask(web("prompt", prompt), "peter")
							}
							if !errors.Is(err, reason) || fositeconsent.NeedsConsent(err) != (prompt != "none") || errors.Is(err, fosite.ErrConsentRequired) != (prompt == "none") || errors.Is(err, fositeconsent.ErrStorage) {
								t.Errorf("refused with %v", err)
							}
							if !late && h.stored() != rows {
								t.Error("something was stored")
							}
							label := map[error]string{fositeconsent.ErrConsentRevoked: "consent_revoked", fositeconsent.ErrConsentExpired: "consent_expired"}[reason]
							if e := h.event(); e.Reason != label || e.Consumed && !plain {
								t.Errorf("the event is %+v", e)
							}
						})
					}
				}
			}
		}
	}
}

// Nobody but the one who asked for it can say so: a later handler of the host's, without consents,
// may use the names for its own.
func TestWithoutARecordNoLateAnswerIsBelieved(t *testing.T) {
	t.Parallel()
	h, tx := newTxHost(t, nil)
	tx.commit = func(context.Context) error { return fositeconsent.ErrConsentRevoked }
	resp, err := h.answer(params(), "alice", h.approve(params(), "alice"))
	if resp != nil || fositeconsent.NeedsConsent(err) || !errors.Is(err, fositeconsent.ErrStorage) {
		t.Errorf("%v", err)
	}
}

func TestARevocationBetweenPageAndAnswerAndBetweenLookAndRecord(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.remember(web(), "peter")
	h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
		if _, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"}); err != nil {
			t.Error(err)
		}
		return list, nil
	}
	rows := h.stored()
	_, err := h.ask(web(), "peter")
	if !errors.Is(err, fositeconsent.ErrConsentRevoked) || !fositeconsent.NeedsConsent(err) || h.stored() > rows {
		t.Errorf("revoked after the look: %v", cause(err))
	}
	h.consents.onFind = nil
	h.isAsked(web(), "peter")

	token := h.approve(web(), "peter")
	if _, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: "peter"}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.answer(web(), "peter", token); !errors.Is(err, fositeconsent.ErrGrantRevoked) || !fositeconsent.NeedsConsent(err) {
		t.Errorf("a grant that was revoked: %v", cause(err))
	}
}

// What a storage of somebody else's returns is never coverage if it cannot be.
func TestALyingStorageCoversNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lie func(*consentHost, *fositeconsent.Consent)
		err error // ErrConsentRequired: it is passed over
	}{
		"another issuer's":    {func(_ *consentHost, c *fositeconsent.Consent) { c.Issuer = "https://other.example" }, fositeconsent.ErrStorage},
		"another subject's":   {func(_ *consentHost, c *fositeconsent.Consent) { c.Subject = "paul" }, fositeconsent.ErrStorage},
		"another client's":    {func(_ *consentHost, c *fositeconsent.Consent) { c.ClientID = "other" }, fositeconsent.ErrStorage},
		"without an ID":       {func(_ *consentHost, c *fositeconsent.Consent) { c.ID = fositeconsent.ID{} }, fositeconsent.ErrStorage},
		"not remembered":      {func(_ *consentHost, c *fositeconsent.Consent) { c.Remembered = false }, fositeconsent.ErrStorage},
		"expired long ago":    {func(h *consentHost, c *fositeconsent.Consent) { c.ExpiresAt = h.now().Add(-time.Hour) }, fositeconsent.ErrConsentRequired},
		"another description": {func(_ *consentHost, c *fositeconsent.Consent) { c.Shown[0]++ }, fositeconsent.ErrConsentRequired},
		"no description":      {func(_ *consentHost, c *fositeconsent.Consent) { c.Shown = fositeconsent.Digest{} }, fositeconsent.ErrConsentRequired},
		"without scopes":      {func(_ *consentHost, c *fositeconsent.Consent) { c.Scopes, c.RememberedScopes = nil, nil }, fositeconsent.ErrConsentRequired},
		"nothing remembered":  {func(_ *consentHost, c *fositeconsent.Consent) { c.RememberedScopes = nil }, fositeconsent.ErrConsentRequired},
		"more than granted":   {func(_ *consentHost, c *fositeconsent.Consent) { c.Scopes = []string{"openid"} }, fositeconsent.ErrStorage},
		"a wildcard": {func(_ *consentHost, c *fositeconsent.Consent) {
			c.Scopes, c.RememberedScopes = []string{"openid", "*", "pho*"}, []string{"openid", "*", "pho*"}
		}, fositeconsent.ErrConsentRequired},
		"another case": {func(_ *consentHost, c *fositeconsent.Consent) {
			c.Scopes, c.RememberedScopes = []string{"openid", "Photos"}, []string{"openid", "Photos"}
		}, fositeconsent.ErrConsentRequired},
		"scopes in one": {func(_ *consentHost, c *fositeconsent.Consent) {
			c.Scopes, c.RememberedScopes = []string{"openid photos"}, []string{"openid photos"}
		}, fositeconsent.ErrConsentRequired},
		"scopes as audience": {func(_ *consentHost, c *fositeconsent.Consent) {
			c.Scopes, c.RememberedScopes, c.Audience = c.Audience, c.Audience, c.Scopes
		}, fositeconsent.ErrConsentRequired},
		"a longer audience":    {func(_ *consentHost, c *fositeconsent.Consent) { c.Audience = []string{"https://api.example/"} }, fositeconsent.ErrConsentRequired},
		"no response type":     {func(_ *consentHost, c *fositeconsent.Consent) { c.ResponseTypes = nil }, fositeconsent.ErrConsentRequired},
		"data without a hook":  {func(_ *consentHost, c *fositeconsent.Consent) { c.Data = []byte("x") }, fositeconsent.ErrMisconfigured},
		"as clocks may differ": {func(h *consentHost, c *fositeconsent.Consent) { c.ExpiresAt = h.now().Add(-time.Minute) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newConsentHost(t)
			h.remember(web(), "peter")
			h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
				for i := range list {
					c.lie(h, &list[i])
				}
				return list, nil
			}
			rows := h.stored()
			_, err := h.ask(web(), "peter")
			switch {
			case c.err == nil:
				if err != nil {
					t.Errorf("refused: %v", cause(err))
				}
				return
			case !errors.Is(err, c.err) || h.stored() != rows:
				t.Errorf("%v, expected %v", cause(err), c.err)
			}
			p, err := h.gate.Prompt(t.Context(), h.parse(web()), h.login("peter"))
			switch {
			case errors.Is(c.err, fositeconsent.ErrStorage) && (!errors.Is(err, fositeconsent.ErrStorage) || !errors.Is(err, fosite.ErrServerError) || p != nil):
				t.Errorf("a page was made all the same: %v", err)
			case errors.Is(c.err, fositeconsent.ErrConsentRequired) && err != nil:
				t.Errorf("no page: %v", cause(err))
			}
		})
	}
}

func TestWhatFailsIsNoPermission(t *testing.T) {
	t.Parallel()
	failure := errors.New("out of order")
	lookFails := func(err error) func(*consentHost) {
		return func(h *consentHost) {
			h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) { return list, err }
		}
	}
	recordFails := func(err error) func(*consentHost) {
		return func(h *consentHost) {
			h.consents.onRecord = func(context.Context, *fositeconsent.Response) error { return err }
		}
	}
	for name, c := range map[string]struct {
		breakIt        func(*consentHost)
		is, client     error
		page, decision bool // fail as well
	}{
		"the look":                         {lookFails(failure), fositeconsent.ErrStorage, fosite.ErrServerError, true, false},
		"the look, in time":                {lookFails(context.DeadlineExceeded), fositeconsent.ErrStorage, fosite.ErrTemporarilyUnavailable, true, false},
		"the look, with a refusal":         {lookFails(fositeconsent.ErrConsentRevoked), fositeconsent.ErrStorage, fosite.ErrServerError, true, false},
		"the record":                       {recordFails(failure), fositeconsent.ErrStorage, fosite.ErrServerError, false, true},
		"the record, in time":              {recordFails(context.Canceled), fositeconsent.ErrStorage, fosite.ErrTemporarilyUnavailable, false, true},
		"the record, with another refusal": {recordFails(fositeconsent.ErrGrantExpired), fositeconsent.ErrStorage, fosite.ErrServerError, false, true},
		"the description":                  {func(h *consentHost) { h.looks["fail"] = "yes" }, failure, fosite.ErrServerError, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h *consentHost
			h = newConsentHost(t, inTransactions, func(_ *host, config *fositeconsent.Config) {
				describe := config.DescribeClient
				config.DescribeClient = func(ctx context.Context, client fosite.Client) ([]string, error) {
					if h.looks["fail"] != "" {
						return []string{client.GetID(), ""}, failure
					}
					return describe(ctx, client)
				}
			})
			h.remember(web(), "peter")
			p := h.prompt(web(), "peter")
			c.breakIt(h)
			rows := h.stored()
			resp, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web()), h.login("peter"))
			if resp != nil || !errors.Is(err, c.is) || !errors.Is(err, c.client) || fositeconsent.NeedsConsent(err) || h.stored() != rows {
				t.Errorf("a pass: %v", err)
			}
			if p, err := h.gate.Prompt(t.Context(), h.parse(web()), h.login("peter")); (err != nil) != c.page || (p == nil) != c.page {
				t.Errorf("a page: %v", err)
			}
			resp, err = h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(t.Context(), p.Ticket, all(p)), h.parse(web()), h.login("peter"))
			if (err != nil) != c.decision || (resp == nil) != c.decision || c.decision && fositeconsent.NeedsConsent(err) {
				t.Errorf("a decision: %v", err)
			}
		})
	}
}

func TestThePolicyOfTodayHoldsForWhatIsRemembered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*consentHost)
		is     error
	}{
		"the client is gone":              {func(h *consentHost) { delete(h.store.Clients, "web") }, fosite.ErrInvalidClient},
		"a scope is not allowed any more": {func(h *consentHost) { h.store.Clients["web"].(*client).Scopes = []string{"openid"} }, fosite.ErrInvalidScope},
		"no response type":                {func(h *consentHost) { h.store.Clients["web"].(*client).ResponseTypes = []string{"token"} }, fosite.ErrUnsupportedResponseType},
	} {
		h := newConsentHost(t)
		h.remember(web(), "peter")
		kept := h.parse(web())
		fresh := *h.store.Clients["web"].(*client).DefaultClient
		h.store.Clients["web"] = &client{DefaultClient: &fresh}
		c.change(h)
		rows := h.stored()
		resp, err := h.provider.NewAuthorizeResponse(t.Context(), kept, h.login("peter"))
		if resp != nil || !errors.Is(err, c.is) || h.stored() != rows {
			t.Errorf("%s: %v", name, cause(err))
		}
	}
}

func TestTheLoginHasToSuitARequestThatPasses(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.remember(web(), "peter")
	old := h.login("peter")
	old.Claims.AuthTime = h.now().Add(-time.Hour)
	for _, prompt := range []string{"", "none"} {
		if _, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web("max_age", "60", "prompt", prompt)), old); !errors.Is(err, fositeconsent.ErrLoginRequired) || !errors.Is(err, fosite.ErrLoginRequired) {
			t.Errorf("max_age with prompt=%q: %v", prompt, cause(err))
		}
	}
	if _, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web("prompt", "login")), old); !errors.Is(err, fositeconsent.ErrLoginRequired) {
		t.Errorf("prompt=login: %v", cause(err))
	}
	if _, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web()), h.login("")); !errors.Is(err, fositeconsent.ErrLoginRequired) {
		t.Errorf("nobody: %v", cause(err))
	}
	if _, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web("prompt", "none consent")), h.login("peter")); !errors.Is(err, fositeconsent.ErrInvalidRequest) {
		t.Errorf("prompt=none consent: %v", cause(err))
	}
	h.passes(web("max_age", "60", "prompt", "none"), "peter")
	h.isAsked(web("prompt", "none", "scope", "openid contacts"), "peter")
}

func TestScopesThatNobodyCanGrantAreNotGrantedSilently(t *testing.T) {
	t.Parallel()
	for _, approving := range []bool{false, true} {
		h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
			if approving {
				c.PreApproved = func(context.Context, fosite.AuthorizeRequester, string) (bool, error) { return true, nil }
			}
		})
		h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			scopes := []string{"openid", "photos.*", "OPENID", "openİd", "Offline", "pho\"tos"}
			return []fositeconsent.Consent{{
				ID: fositeconsent.ID{1}, Issuer: issuer, Subject: "peter", ClientID: "app", Scopes: scopes, RememberedScopes: scopes,
				Audience: []string{"https://api.example"}, ResponseTypes: []string{"code"}, Remembered: true,
			}}, nil
		}
		for _, scope := range []string{"openid photos.*", "OPENID", "openid openİd", "openid Offline", "openid pho\"tos"} {
			h.isAsked(params("scope", scope), "peter")
		}
	}
}

func TestTheHostsOwnApproval(t *testing.T) {
	t.Parallel()
	for _, keeping := range []bool{false, true} {
		t.Run(fmt.Sprint("with consents: ", keeping), func(t *testing.T) {
			t.Parallel()
			var fail error
			var asked []string
			h := newConsentHost(t, inTransactions, func(_ *host, c *fositeconsent.Config) {
				if !keeping {
					c.Consents, c.DescribeClient = nil, nil
				}
				c.PreApproved = func(_ context.Context, ar fosite.AuthorizeRequester, subject string) (bool, error) {
					asked = append(asked, subject)
					return ar.GetClient().(*client).ID != "other", fail
				}
			})
			form := web("scope", "openid photos offline_access", "claims", "{}")
			for _, prompt := range []string{"", "none", "login"} {
				form.Set("prompt", prompt)
				ar, err := h.ask(form, "peter")
				if err != nil {
					t.Fatalf("prompt=%q: %v", prompt, cause(err))
				}
				if !equalSets(ar.GetGrantedScopes(), []string{"openid", "photos", "offline_access"}) || !equalSets(ar.GetGrantedAudience(), []string{"https://api.example"}) {
					t.Errorf("granted %v for %v", ar.GetGrantedScopes(), ar.GetGrantedAudience())
				}
				e := h.event()
				if e.Basis != fositeconsent.BasisPreApproved || e.Consumed || !e.GrantID.IsZero() || (len(e.ConsentIDs) == 1) != keeping {
					t.Errorf("the event is %+v", e)
				}
				if keeping {
					got := h.consents.recorded[len(h.consents.recorded)-1]
					if a := got.Approval; got.RequestID != ar.GetID() || a == nil || a.Remembered || a.ID.IsZero() || a.ID != e.ConsentIDs[0] || a.Subject != "peter" || a.ClientID != "web" || a.Issuer != issuer ||
						!slices.Equal(a.Scopes, []string{"openid", "photos", "offline_access"}) || !slices.Equal(a.Details, []string{"claims={}"}) || a.Shown == (fositeconsent.Digest{}) {
						t.Errorf("recorded as %+v", got)
					}
				}
			}
			if keeping {
				list, err := h.gate.ListConsents(t.Context(), fositeconsent.Selection{Subject: "peter"}, fositeconsent.ID{}, 10)
				if err != nil || len(list) != 3 || h.consents.found != 0 {
					t.Errorf("listed %d after %d looks, %v", len(list), h.consents.found, err)
				}
			}
			asked = nil
			h.isAsked(web("prompt", "consent"), "peter")
			h.isAsked(web("prompt", "login consent"), "peter")
			h.isAsked(params("client_id", "native", "redirect_uri", "com.example.app:/cb", "scope", "openid"), "peter")
			if len(asked) != 0 {
				t.Error("the host was asked for what needs a page")
			}
			h.isAsked(web("client_id", "other", "redirect_uri", "https://other.example/cb"), "peter")

			// It is asked about the client as it is now.
			kept := h.parse(web())
			fresh := *h.store.Clients["web"].(*client).DefaultClient
			fresh.ID = "web"
			fresh.Scopes = []string{"openid"}
			h.store.Clients["web"] = &client{DefaultClient: &fresh}
			if _, err := h.provider.NewAuthorizeResponse(t.Context(), kept, h.login("peter")); !errors.Is(err, fosite.ErrInvalidScope) {
				t.Errorf("a client of before: %v", cause(err))
			}
			fail = errors.New("out of order")
			rows := h.stored()
			resp, err := h.provider.NewAuthorizeResponse(t.Context(), h.parse(web("scope", "openid")), h.login("peter"))
			if resp != nil || !errors.Is(err, fail) || !errors.Is(err, fosite.ErrServerError) || fositeconsent.NeedsConsent(err) || h.stored() != rows {
				t.Errorf("a hook that fails: %v", err)
			}
		})
	}
}

func TestWhatTheHostGrantedBeforehandIsNotPassed(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	h.remember(web("scope", "openid photos contacts"), "peter")
	ar := h.parse(web())
	ar.GrantScope("contacts") // which was allowed, and not asked for
	if _, err := h.provider.NewAuthorizeResponse(t.Context(), ar, h.login("peter")); !errors.Is(err, fositeconsent.ErrMisconfigured) {
		t.Errorf("%v", cause(err))
	}
}

func TestALaterHandlerCannotWidenWhatPassed(t *testing.T) {
	t.Parallel()
	for name, meddle := range map[string]func(*fosite.AuthorizeRequest){
		"a scope more":       func(ar *fosite.AuthorizeRequest) { ar.GrantScope("contacts") },
		"a scope less":       func(ar *fosite.AuthorizeRequest) { ar.GrantedScope = nil },
		"another subject":    func(ar *fosite.AuthorizeRequest) { ar.Session = nil },
		"another state":      func(ar *fosite.AuthorizeRequest) { ar.State = "another" },
		"another request ID": func(ar *fosite.AuthorizeRequest) { ar.ID = "another" },
	} {
		h := newConsentHost(t)
		h.remember(web("scope", "openid photos contacts"), "peter")
		token := h.approve(web(), "peter")
		h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, &meddler{
			func(_ context.Context, ar fosite.AuthorizeRequester, _ fosite.AuthorizeResponder) error {
				meddle(ar.(*fosite.AuthorizeRequest))
				return nil
			},
		})
		if _, err := h.ask(web(), "peter"); !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("%s: %v", name, cause(err))
		}
		if _, err := h.answer(web(), "peter", token); !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("%s, with a grant: %v", name, cause(err))
		}
	}
}

func TestAPassIsTriedAgainOnCopies(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, inTransactions)
	h.remember(web(), "peter")
	h.tx().log = nil
	tries := 0
	h.tx().commit = func(context.Context) error {
		if tries++; tries < 3 {
			return sqlError("40001")
		}
		return nil
	}
	h.consents.found = 0
	ar := h.passes(web(), "peter")
	if tries != 3 || h.consents.found != 1 || len(h.event().ConsentIDs) != 1 {
		t.Errorf("%d tries, %d looks, event %+v", tries, h.consents.found, h.event())
	}
	if last := h.consents.recorded[len(h.consents.recorded)-1]; last.RequestID != ar.GetID() {
		t.Error("recorded under another ID than the request's")
	}
	h.tx().commit = func(context.Context) error { return errors.New("no") }
	before := h.parse(web())
	after := h.parse(web())
	if _, err := h.provider.NewAuthorizeResponse(t.Context(), after, h.login("peter")); !errors.Is(err, fositeconsent.ErrStorage) {
		t.Errorf("%v", cause(err))
	}
	theirs, pristine := after.(*fosite.AuthorizeRequest), before.(*fosite.AuthorizeRequest)
	theirs.ID, theirs.RequestedAt = pristine.ID, pristine.RequestedAt
	if !reflect.DeepEqual(theirs, pristine) {
		t.Errorf("the request was changed:\n%+v\n%+v", theirs, pristine)
	}
}

// A hook that changes what is asked for after it was looked at gets a page.
func TestARequestThatChangesAfterTheLookIsAskedAgain(t *testing.T) {
	t.Parallel()
	login := "login"
	h := newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
		c.LoginSession = func(context.Context, fosite.Session) (string, error) { return login, nil }
	})
	h.remember(web(), "peter")
	h.passes(web(), "peter")
	h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
		login = "another"
		return list, nil
	}
	h.isAsked(web(), "peter")
}

func TestAPushedRequestThatPassesIsUsedUp(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, keepingPushes)
	h.remember(params("scope", "openid photos", "resource", "https://r.example"), "peter")
	push := func(pairs ...string) url.Values {
		return url.Values{"client_id": {"app"}, "request_uri": {h.push(params(append([]string{"scope", "openid photos", "resource", "https://r.example"}, pairs...)...))}}
	}
	form := push()
	h.passes(form, "peter")
	rows := h.stored()
	if _, err := h.ask(form, "peter"); !errors.Is(err, fositeconsent.ErrRequestURIUsed) || h.stored() != rows {
		t.Errorf("once more: %v", cause(err))
	}
	h.isAsked(push("resource", "https://another.example"), "peter")
}

// The claims of a request object are compared, and not how they came.
func TestSignedRequestsPassByWhatTheySay(t *testing.T) {
	t.Parallel()
	for name, carry := range carriers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var spy *spyConsents
			inner, l := newSignerHost(t, keepingPushes, func(h *host, c *fositeconsent.Config) {
				spy = &spyConsents{ConsentStorage: h.grants.GrantStorage.(*consenttest.Storage)}
				c.Consents = spy
				c.DescribeClient = func(context.Context, fosite.Client) ([]string, error) { return nil, nil }
			})
			h := &consentHost{host: inner, consents: spy}
			h.remember(params("client_id", "signer", "claims", `{"id_token":{}}`, "scope", "openid photos"), "peter")
			object := func(pairs ...any) url.Values {
				return carry(inner, l, sign(t, claims(append([]any{"scope", "openid photos", "claims", map[string]any{"id_token": map[string]any{}}}, pairs...)...)))
			}
			h.passes(object(), "peter")
			h.passes(object("state", "another-state", "exp", time.Now().Add(time.Hour).Unix()), "peter")
			h.isAsked(object("claims", map[string]any{"userinfo": map[string]any{}}), "peter")
			h.isAsked(object("scope", "openid contacts"), "peter")
			h.isAsked(object("resource", "https://r.example"), "peter")
		})
	}
}

func TestBasisInSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	ctx, root := tracer.Start(t.Context(), "root")
	h := newConsentHost(t)
	id := h.remember(web(), "peter")
	if _, err := h.provider.NewAuthorizeResponse(ctx, h.parse(web()), h.login("peter")); err != nil {
		t.Fatal(cause(err))
	}
	root.End()
	for _, s := range spans.Ended() {
		if s.Name() != "Gate.consume" {
			continue
		}
		attributes := map[string]string{}
		for _, a := range s.Attributes() {
			attributes[string(a.Key)] = a.Value.String()
		}
		if attributes["fositeconsent.basis"] != "remembered" || attributes["fositeconsent.consent_ids"] != `["`+id.String()+`"]` {
			t.Errorf("the span has %v", attributes)
		}
		return
	}
	t.Error("there is no span")
}

// It rests on the newest consents that are enough, in whatever order the storage returns them.
func TestAPassRestsOnTheNewestConsents(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	var ids []fositeconsent.ID
	for _, scope := range []string{"openid photos", "openid photos", "contacts", "contacts offline", "photos"} {
		ids = append(ids, h.remember(web("scope", scope), "peter"))
		h.advance(time.Second) // the order of one millisecond is anyone's
	}
	for _, reversed := range []bool{false, true} {
		h.consents.onFind = func(list []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			if reversed {
				slices.Reverse(list)
			}
			return list, nil
		}
		for scope, want := range map[string][]fositeconsent.ID{
			"photos": {ids[4]}, "openid": {ids[1]},
			"openid photos contacts": {ids[4], ids[3], ids[1]},
		} {
			h.passes(web("scope", scope), "peter")
			if got := h.event().ConsentIDs; !slices.Equal(got, want) {
				t.Errorf("%q rests on %v, expected %v", scope, got, want)
			}
		}
	}
}
