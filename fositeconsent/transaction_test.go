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
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// txStorage has fosite's transactions, and writes down what happens to them.
type txStorage struct {
	*storage.MemoryStore
	log      []string
	begin    func(context.Context) error
	commit   func(context.Context) error
	rollback func(context.Context) error
	nothing  bool // BeginTX returns no context, and no error
}

type txKey struct{}

func (s *txStorage) BeginTX(ctx context.Context) (context.Context, error) {
	s.log = append(s.log, "begin")
	if s.begin != nil {
		if err := s.begin(ctx); err != nil {
			return nil, err
		}
	}
	if s.nothing {
		return nil, nil
	}
	return context.WithValue(ctx, txKey{}, true), nil
}

func (s *txStorage) end(ctx context.Context, what string, do func(context.Context) error) error {
	if ctx.Value(txKey{}) == nil {
		what += " outside"
	}
	s.log = append(s.log, what)
	if do != nil {
		return do(ctx)
	}
	return nil
}

func (s *txStorage) Commit(ctx context.Context) error   { return s.end(ctx, "commit", s.commit) }
func (s *txStorage) Rollback(ctx context.Context) error { return s.end(ctx, "rollback", s.rollback) }

func (s *txStorage) CreateAuthorizeCodeSession(ctx context.Context, code string, r fosite.Requester) error {
	_ = s.end(ctx, "code", nil)
	return s.MemoryStore.CreateAuthorizeCodeSession(ctx, code, r)
}

// sqlError is an error of a database.
type sqlError string

func (e sqlError) Error() string    { return "SQLSTATE " + string(e) }
func (e sqlError) SQLState() string { return string(e) }

// last is a handler after all others.
type last func(fosite.AuthorizeRequester) error

func (f last) HandleAuthorizeEndpointRequest(_ context.Context, ar fosite.AuthorizeRequester, _ fosite.AuthorizeResponder) error {
	return f(ar)
}

// newTxHost is a host whose storage has transactions.
func newTxHost(t *testing.T, after last, options ...option) (*host, *txStorage) {
	t.Helper()
	return newTxHostWith(t, after, func(*host, *fositeconsent.Config) {}, options...)
}

// newTxHostWith is one whose gate has another configuration.
func newTxHostWith(t *testing.T, after last, configure option, options ...option) (*host, *txStorage) {
	t.Helper()
	h := newHost(t, options...)
	tx := &txStorage{MemoryStore: h.store}
	h.config = &fosite.Config{GlobalSecret: h.config.GlobalSecret, ScopeStrategy: fosite.ExactScopeStrategy, IDTokenIssuer: issuer}
	config := fositeconsent.Config{Issuer: issuer, OnEvent: func(_ context.Context, e fositeconsent.Event) { h.events = append(h.events, e) }}
	configure(h, &config)
	var err error
	if h.gate, err = fositeconsent.NewGate(h.grants, config); err != nil {
		t.Fatal(err)
	}
	h.gate.SetClock(h.now)
	factories := append([]compose.Factory{h.gate.Factory}, issuingFactories...)
	if after != nil {
		factories = append(factories, func(fosite.Configurator, interface{}, interface{}) interface{} { return after })
	}
	if config.Consents != nil {
		factories = append(factories, h.gate.TokenFactory)
	}
	h.raw = compose.Compose(h.config, tx, &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(h.config)}, factories...)
	if h.provider, err = h.gate.Protect(h.raw); err != nil {
		t.Fatal(err)
	}
	return h, tx
}

func TestTheResponseIsMadeInOneTransaction(t *testing.T) {
	t.Parallel()
	h, tx := newTxHost(t, nil)
	token := h.approve(params(), "alice")
	tx.commit = func(context.Context) error {
		if h.grants.consumed.Load() != 1 || len(h.store.PKCES) != 1 {
			t.Error("committed before everything was stored")
		}
		return nil
	}
	ar, session := h.parse(params()), h.login("alice")
	resp, err := h.respond(ar, session, token)
	if err != nil {
		t.Fatal(cause(err))
	}
	if want := []string{"begin", "code", "commit"}; !slices.Equal(tx.log, want) {
		t.Errorf("the storage saw %v, expected %v", tx.log, want)
	}
	if e := h.event(); !e.Consumed || e.Refused() {
		t.Errorf("the event is %+v", e)
	}
	// The host writes the response with its own request.
	w := httptest.NewRecorder()
	h.provider.WriteAuthorizeResponse(context.Background(), w, ar, resp)
	if !strings.Contains(w.Header().Get("Location"), "code=") {
		t.Errorf("the response is not written: %v", w.Header())
	}
	if ar.GetSession() == fosite.Session(session) {
		t.Error("the attempt was made on the host's own session")
	}
	if len(session.ExpiresAt) > 0 {
		t.Error("the host's session was changed")
	}
}

func TestNothingIsBegunForARequestThatIsRefusedAnyway(t *testing.T) {
	t.Parallel()
	h, tx := newTxHost(t, nil)
	_, err := h.provider.NewAuthorizeResponse(context.Background(), h.parse(params()), h.login("alice"))
	if !fositeconsent.NeedsConsent(err) || len(tx.log) > 0 {
		t.Errorf("got %v, and the storage saw %v", cause(err), tx.log)
	}
}

func TestWhateverFailsIsRolledBack(t *testing.T) {
	t.Parallel()
	failure := errors.New("no")
	ended, end := context.WithCancel(context.Background())
	for _, tt := range []struct {
		name    string
		prepare func(*host, *txStorage)
		after   last
		ctx     context.Context
		log     []string
		spent   bool
		is      error
	}{
		{"a handler after the gate", nil, func(fosite.AuthorizeRequester) error { return failure }, nil, []string{"begin", "code", "rollback"}, false, failure},
		{"a handler that grants more", nil, func(ar fosite.AuthorizeRequester) error { ar.GrantScope("contacts"); return nil }, nil, []string{"begin", "code", "rollback"}, false, fositeconsent.ErrMisconfigured},
		{"the gate", func(h *host, _ *txStorage) {
			h.grants.onConsume = func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, failure }
		}, nil, nil, []string{"begin", "rollback"}, false, fositeconsent.ErrStorage},
		{"the commit", func(_ *host, tx *txStorage) { tx.commit = func(context.Context) error { return failure } }, nil, nil, []string{"begin", "code", "commit", "rollback"}, false, failure},
		{"a commit whose outcome is unknown", func(_ *host, tx *txStorage) { tx.commit = func(context.Context) error { return sqlError("40003") } }, nil, nil, []string{"begin", "code", "commit", "rollback"}, true, sqlError("40003")},
		{"the beginning", func(_ *host, tx *txStorage) { tx.begin = func(context.Context) error { return failure } }, nil, nil, []string{"begin"}, false, fositeconsent.ErrStorage},
		{"the handler and the rollback", func(_ *host, tx *txStorage) {
			tx.rollback = func(context.Context) error { return errors.New("nor that") }
		},
			func(fosite.AuthorizeRequester) error { return failure }, nil, []string{"begin", "code", "rollback"}, true, failure},
		{"a handler in a context that ends", func(_ *host, tx *txStorage) {
			tx.rollback = context.Context.Err // which is nil as long as the context is not over
		}, func(fosite.AuthorizeRequester) error { end(); return ended.Err() }, ended, []string{"begin", "code", "rollback"}, false, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, tx := newTxHost(t, tt.after)
			token := h.approve(params(), "alice")
			if tt.prepare != nil {
				tt.prepare(h, tx)
			}
			ctx := tt.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			ar, pristine := h.parse(params()), h.parse(params())
			resp, err := h.provider.NewAuthorizeResponse(fositeconsent.WithToken(ctx, token), ar, h.login("alice"))
			if resp != nil || !errors.Is(err, tt.is) {
				t.Errorf("got %v, %v, expected no response and %v", resp, cause(err), tt.is)
			}
			if !slices.Equal(tx.log, tt.log) {
				t.Errorf("the storage saw %v, expected %v", tx.log, tt.log)
			}
			if e := h.event(); e.Consumed != tt.spent || !e.Refused() {
				t.Errorf("the event has Consumed=%v Reason=%q, expected %v", e.Consumed, e.Reason, tt.spent)
			}
			theirs, _ := ar.(*fosite.AuthorizeRequest)
			before, _ := pristine.(*fosite.AuthorizeRequest)
			theirs.RequestedAt, theirs.ID = before.RequestedAt, before.ID
			if !reflect.DeepEqual(theirs, before) {
				t.Errorf("the request was changed:\n%+v\n%+v", theirs, before)
			}
		})
	}
}

func TestAPanicIsRolledBackAndGoesOn(t *testing.T) {
	t.Parallel()
	h, tx := newTxHost(t, func(fosite.AuthorizeRequester) error { panic("at the disco") })
	token := h.approve(params(), "alice")
	func() {
		defer func() {
			if v := recover(); v != "at the disco" {
				t.Errorf("recovered %v", v)
			}
		}()
		_, _ = h.answer(params(), "alice", token)
		t.Error("the panic was swallowed")
	}()
	if want := []string{"begin", "code", "rollback"}; !slices.Equal(tx.log, want) {
		t.Errorf("the storage saw %v, expected %v", tx.log, want)
	}
	if e := h.event(); e.Reason != "panic" || e.Consumed {
		t.Errorf("the event is %+v", e)
	}
}

func TestATransactionThatTheDatabaseTookBackIsTriedAgainOnCopies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		failures int
		err      error
		tries    int
	}{
		{"a serialization failure", 1, sqlError("40001"), 2},
		{"a deadlock, three times", 3, sqlError("40P01"), 4},
		{"fosite's own error", 1, fosite.ErrServerError.WithWrap(fosite.ErrSerializationFailure), 2},
		{"a commit known not to have happened", 2, sqlError("40000"), 3},
		{"without end", 100, sqlError("40001"), 5},
		{"something else", 1, sqlError("23505"), 1},
		{"an unknown outcome", 1, sqlError("40003"), 1},
		{"an unknown outcome, asked for in vain", 1, fmt.Errorf("%w: %w", fosite.ErrSerializationFailure, sqlError("40003")), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var seen []fosite.AuthorizeRequester
			tries := 0
			h, tx := newTxHost(t, func(ar fosite.AuthorizeRequester) error {
				tries++
				if slices.Contains(seen, ar) {
					t.Error("an attempt got the request of an earlier one")
				}
				if session := ar.GetSession().(*openid.DefaultSession); session.Username != "" {
					t.Error("an attempt got the session of an earlier one")
				} else {
					session.Username = "spoiled"
				}
				seen = append(seen, ar)
				if tries <= tt.failures {
					return fosite.ErrServerError.WithWrap(tt.err)
				}
				return nil
			})
			token := h.approve(params(), "alice")
			h.grants.onConsume = func(g *fositeconsent.Grant, err error) (*fositeconsent.Grant, error) {
				if errors.Is(err, fositeconsent.ErrGrantConsumed) { // this storage cannot take anything back
					return h.grants.lastGranted, nil
				}
				h.grants.lastGranted = g
				return g, err
			}
			resp, err := h.answer(params(), "alice", token)
			if tries != tt.tries {
				t.Errorf("there were %d tries, expected %d", tries, tt.tries)
			}
			if ok := tries > tt.failures; ok != (err == nil) || ok != (resp != nil) {
				t.Errorf("got %v, %v", resp, cause(err))
			}
			if n := strings.Count(strings.Join(tx.log, " "), "rollback"); n != min(tries, tt.failures) {
				t.Errorf("the storage saw %v", tx.log)
			}
		})
	}
}

// hostRequest is a request of the host's own type.
type hostRequest struct{ *fosite.AuthorizeRequest }

func TestARequestThatCannotBeCopiedIsTriedOnce(t *testing.T) {
	t.Parallel()
	tries := 0
	h, _ := newTxHost(t, func(fosite.AuthorizeRequester) error { tries++; return sqlError("40001") })
	token := h.approve(params(), "alice")
	plain, _ := h.parse(params()).(*fosite.AuthorizeRequest)
	if _, err := h.respond(hostRequest{plain}, h.login("alice"), token); err == nil || tries != 1 {
		t.Errorf("%d tries, error %v", tries, cause(err))
	}
}

// Without a transaction nothing was taken back, and the grant is gone.
func TestWithoutTransactionsThereIsOneTry(t *testing.T) {
	t.Parallel()
	tries := 0
	h := newHost(t)
	h.config = &fosite.Config{GlobalSecret: h.config.GlobalSecret, ScopeStrategy: fosite.ExactScopeStrategy, IDTokenIssuer: issuer}
	config := fositeconsent.Config{Issuer: issuer, OnEvent: func(_ context.Context, e fositeconsent.Event) { h.events = append(h.events, e) }}
	var err error
	if h.gate, err = fositeconsent.NewGate(h.grants, config); err != nil {
		t.Fatal(err)
	}
	h.gate.SetClock(h.now)
	conflict := last(func(fosite.AuthorizeRequester) error { tries++; return sqlError("40001") })
	h.raw = h.compose(append([]compose.Factory{h.gate.Factory}, append(slices.Clone(issuingFactories),
		func(fosite.Configurator, interface{}, interface{}) interface{} { return conflict })...)...)
	if h.provider, err = h.gate.Protect(h.raw); err != nil {
		t.Fatal(err)
	}
	_, err = h.answer(params(), "alice", h.approve(params(), "alice"))
	if tries != 1 || !errors.Is(err, sqlError("40001")) || errors.Is(err, fositeconsent.ErrGrantConsumed) {
		t.Errorf("%d tries, error %v", tries, cause(err))
	}
	if e := h.event(); e.Reason != "response_failed" || !e.Consumed {
		t.Errorf("the event is %+v", e)
	}
}

func TestADecisionIsMintedAndConsumedInOne(t *testing.T) {
	t.Parallel()
	fail := true
	h, tx := newTxHost(t, func(fosite.AuthorizeRequester) error {
		if fail {
			return errors.New("not now")
		}
		return nil
	})
	respond := func(form, ticket string, d fositeconsent.Decision) (fosite.AuthorizeResponder, error) {
		ar := h.parse(params("state", form))
		return h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), ticket, d), ar, h.login("alice"))
	}
	p := h.prompt(params("state", "0123456789abcdef"), "alice")
	fail = false
	resp, err := respond("0123456789abcdef", p.Ticket, fositeconsent.Decision{Scopes: []string{"openid", "photos"}})
	if err != nil {
		t.Fatal(cause(err))
	}
	if got := resp.GetParameters().Get("scope"); got != "openid photos" {
		t.Errorf("granted %q", got)
	}
	if want := []string{"begin", "code", "commit"}; !slices.Equal(tx.log, want) {
		t.Errorf("the storage saw %v, expected %v", tx.log, want)
	}
	if e := h.event(); e.Action != fositeconsent.ActionApprove || e.GrantID != p.ID || !e.Consumed || !slices.Equal(e.GrantedScopes, []string{"openid", "photos"}) {
		t.Errorf("the event is %+v", e)
	}

	for _, tt := range []struct {
		name     string
		state    string
		ticket   string
		decision fositeconsent.Decision
		is       error
		page     bool
	}{
		{"a page is answered once", "0123456789abcdef", p.Ticket, all(p), fositeconsent.ErrAlreadyDecided, true},
		{"another request is not what was shown", "another state 123", h.prompt(params(), "alice").Ticket, all(p), fositeconsent.ErrBindingMismatch, true},
		{"a ticket of nobody's", "0123456789abcdef", "fct_nonsense", all(p), fositeconsent.ErrInvalidTicket, true},
		{"no ticket", "0123456789abcdef", "", all(p), fositeconsent.ErrInvalidTicket, true},
		{"another user's ticket", "0123456789abcdef", h.prompt(params(), "bob").Ticket, all(p), fositeconsent.ErrForeignTicket, true},
		{"more than was requested", "0123456789abcdef", h.prompt(params(), "alice").Ticket, fositeconsent.Decision{Scopes: []string{"openid", "contacts"}}, fositeconsent.ErrInvalidDecision, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored := h.stored()
			_, err := respond(tt.state, tt.ticket, tt.decision)
			if !errors.Is(err, tt.is) || fositeconsent.NeedsConsent(err) != tt.page {
				t.Errorf("got %v (page: %v), expected %v", cause(err), fositeconsent.NeedsConsent(err), tt.is)
			}
			if h.stored() != stored {
				t.Error("something was stored")
			}
		})
	}
	t.Run("a token beside it is a mistake", func(t *testing.T) {
		token := h.approve(params(), "alice")
		p := h.prompt(params(), "alice")
		ctx := fositeconsent.WithToken(fositeconsent.WithDecision(context.Background(), p.Ticket, all(p)), token)
		if _, err := h.provider.NewAuthorizeResponse(ctx, h.parse(params()), h.login("alice")); !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("got %v", cause(err))
		}
	})
}

type otherTx struct{}

func (otherTx) BeginTX(ctx context.Context) (context.Context, error) { return ctx, nil }
func (otherTx) Commit(context.Context) error                         { return nil }
func (otherTx) Rollback(context.Context) error                       { return nil }

func TestTransactionsThatGoHidesAreFound(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ambiguous := struct {
		*txStorage
		otherTx
	}{txStorage: &txStorage{MemoryStore: h.store}}
	config := &fosite.Config{GlobalSecret: h.config.GlobalSecret}
	gate, err := fositeconsent.NewGate(h.grants, fositeconsent.Config{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	provider := compose.Compose(config, ambiguous, &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(config)}, gate.Factory, compose.OAuth2AuthorizeExplicitFactory)
	if _, err := gate.Protect(provider); !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), "BeginTX") || !strings.Contains(err.Error(), "otherTx") {
		t.Errorf("got %v", err)
	}
}

func TestCheckTriesWhetherTheStoragesShareATransaction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("before Protect", func(t *testing.T) {
		t.Parallel()
		gate, err := fositeconsent.NewGate(&spyStorage{}, fositeconsent.Config{Issuer: issuer})
		if err != nil {
			t.Fatal(err)
		}
		if err := gate.Check(ctx, nil, nil); !errors.Is(err, fositeconsent.ErrMisconfigured) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a storage without transactions", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		if err := h.gate.Check(ctx, h.store.Clients["app"], h.login("x")); !errors.Is(err, fositeconsent.ErrNotAtomic) || !strings.Contains(err.Error(), "MemoryStore") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a grants' storage that does not take part", func(t *testing.T) {
		t.Parallel()
		h, _ := newTxHost(t, nil)
		if err := h.gate.Check(ctx, h.store.Clients["app"], h.login("x")); !errors.Is(err, fositeconsent.ErrNotAtomic) || !strings.Contains(err.Error(), "spyStorage") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a codes' storage that does not take part", func(t *testing.T) {
		t.Parallel()
		h, _ := newTxHost(t, nil)
		h.grants.onCreate = func(*fositeconsent.Grant) error { return errAllBack }
		if err := h.gate.Check(ctx, h.store.Clients["app"], h.login("x")); !errors.Is(err, fositeconsent.ErrNotAtomic) || !strings.Contains(err.Error(), "txStorage") {
			t.Errorf("got %v", err)
		}
	})
	for name, part := range map[string]func(*fositeconsent.Config, *consenttest.Storage){
		"a log":    func(c *fositeconsent.Config, s *consenttest.Storage) { c.Decisions = s },
		"consents": func(c *fositeconsent.Config, s *consenttest.Storage) { c.Consents = s },
	} {
		t.Run("a storage of "+name+" that does not take part", func(t *testing.T) {
			t.Parallel()
			h, _ := newTxHostWith(t, nil, func(_ *host, c *fositeconsent.Config) {
				part(c, consenttest.NewStorage(nil))
				c.DescribeClient = func(context.Context, fosite.Client) ([]string, error) { return nil, nil }
			})
			h.grants.onCreate = func(*fositeconsent.Grant) error { return errAllBack }
			if err := h.gate.Check(ctx, h.store.Clients["app"], h.login("x")); !errors.Is(err, fositeconsent.ErrNotAtomic) || !strings.Contains(err.Error(), "consenttest.Storage") {
				t.Errorf("got %v", err)
			}
		})
	}
	down := errors.New("down")
	for name, fail := range map[string]func(*host, *txStorage){
		"a transaction that cannot be begun":       func(_ *host, tx *txStorage) { tx.begin = func(context.Context) error { return down } },
		"a transaction that cannot be rolled back": func(_ *host, tx *txStorage) { tx.rollback = func(context.Context) error { return down } },
		"a grant that cannot be stored":            func(h *host, _ *txStorage) { h.grants.onCreate = func(*fositeconsent.Grant) error { return down } },
		"a grant that cannot be looked for": func(h *host, _ *txStorage) {
			h.grants.onCreate = func(*fositeconsent.Grant) error { return errAllBack }
			h.grants.onConsume = func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, down }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, tx := newTxHost(t, nil)
			fail(h, tx)
			if err := h.gate.Check(ctx, h.store.Clients["app"], h.login("x")); !errors.Is(err, down) || errors.Is(err, fositeconsent.ErrNotAtomic) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("a denial that can be consumed", func(t *testing.T) {
		t.Parallel()
		h, _ := newTxHost(t, nil)
		h.grants.onCreate = func(*fositeconsent.Grant) error { return errAllBack }
		h.grants.onConsume = func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return new(fositeconsent.Grant), nil }
		if err := h.gate.Check(ctx, h.store.Clients["app"], h.login("x")); !errors.Is(err, fositeconsent.ErrStorage) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnAttemptKnowsNothingOfTheOneBefore(t *testing.T) {
	t.Parallel()
	h, _ := newTxHost(t, func(fosite.AuthorizeRequester) error { return sqlError("40001") })
	token := h.approve(params(), "alice")
	// The first attempt passes the gate and is rolled back; the second is refused.
	if _, err := h.answer(params(), "alice", token); !errors.Is(err, fositeconsent.ErrGrantConsumed) {
		t.Fatal(cause(err))
	}
	if e := h.event(); e.Reason != "consumed" || e.Consumed || e.GrantedScopes != nil || e.GrantedAudience != nil {
		t.Errorf("the event is %+v", e)
	}
}

func TestPolicyIsCheckedAgainAtIssue(t *testing.T) {
	t.Parallel()
	h, tx := newTxHost(t, nil)
	token := h.approve(params(), "alice")
	app := h.store.Clients["app"].(*client)
	allowed := app.Scopes
	app.Scopes = []string{"openid"}
	if _, err := h.answer2(params(), token); !errors.Is(err, fositeconsent.ErrInvalidRequest) || !errors.Is(err, fosite.ErrInvalidRequest) && !errors.Is(err, fosite.ErrInvalidScope) {
		t.Errorf("got %v", cause(err))
	}
	if len(tx.log) > 0 || h.stored() > 0 {
		t.Errorf("the storage saw %v", tx.log)
	}
	app.Scopes = allowed
	if _, err := h.answer(params(), "alice", token); err != nil {
		t.Errorf("the approval was lost: %v", cause(err))
	}
}

// answer2 is answer for a request that was parsed when it was still allowed.
func (h *host) answer2(form url.Values, token fositeconsent.Token) (fosite.AuthorizeResponder, error) {
	app := h.store.Clients["app"].(*client)
	now := app.Scopes
	app.Scopes = []string{"openid", "photos", "offline_access"}
	ar := h.parse(form)
	app.Scopes = now
	return h.respond(ar, h.login("alice"), token)
}

// claimStorage gives each request_uri away once.
type claimStorage struct {
	*txStorage
	claimed map[string]bool
	failure error
}

func (s *claimStorage) ClaimPushedAuthorizeRequest(ctx context.Context, uri string) error {
	_ = s.end(ctx, "claim", nil)
	if s.failure != nil {
		return s.failure
	}
	if s.claimed[uri] {
		return fositeconsent.ErrRequestURIUsed
	}
	s.claimed[uri] = true
	return nil
}

func TestAPushedRequestIsClaimedInTheTransactionThatConsumesTheGrant(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	store := &claimStorage{txStorage: &txStorage{MemoryStore: h.store}, claimed: map[string]bool{}}
	h.config = &fosite.Config{GlobalSecret: h.config.GlobalSecret, ScopeStrategy: fosite.ExactScopeStrategy}
	var err error
	if h.gate, err = fositeconsent.NewGate(h.grants, fositeconsent.Config{Issuer: issuer}); err != nil {
		t.Fatal(err)
	}
	h.gate.SetClock(h.now)
	h.provider, err = h.gate.Protect(compose.Compose(h.config, store, &compose.CommonStrategy{CoreStrategy: compose.NewOAuth2HMACStrategy(h.config)},
		h.gate.Factory, compose.OAuth2AuthorizeExplicitFactory, compose.OAuth2PKCEFactory))
	if err != nil {
		t.Fatal(err)
	}
	pushed := func() fosite.AuthorizeRequester {
		ar := h.parse(params())
		ar.GetRequestForm().Set("request_uri", "urn:ietf:params:oauth:request_uri:one")
		return ar
	}
	respond := func() error {
		p, err := h.gate.Prompt(context.Background(), pushed(), h.login("alice"))
		if err != nil {
			t.Fatal(cause(err))
		}
		_, err = h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), p.Ticket, all(p)), pushed(), h.login("alice"))
		return err
	}
	// A storage may find out that the page was answered before when it sends the mint: with
	// the claim, or with the commit.
	late := fmt.Errorf("insert: %w", fositeconsent.ErrAlreadyDecided)
	store.failure = late
	if err := respond(); !errors.Is(err, fositeconsent.ErrAlreadyDecided) || !fositeconsent.NeedsConsent(err) {
		t.Errorf("an answer that came late, with the claim: %v", cause(err))
	}
	store.failure, store.commit = nil, func(context.Context) error { return late }
	if err := respond(); !errors.Is(err, fositeconsent.ErrAlreadyDecided) || !fositeconsent.NeedsConsent(err) {
		t.Errorf("an answer that came late, with the commit: %v", cause(err))
	}
	clear(store.claimed) // was rolled back
	store.log, store.commit = nil, nil
	if err := respond(); err != nil {
		t.Fatal(cause(err))
	}
	if want := []string{"begin", "claim", "code", "commit"}; !slices.Equal(store.log, want) {
		t.Errorf("the storage saw %v, expected %v", store.log, want)
	}
	store.log = nil
	if err := respond(); !errors.Is(err, fositeconsent.ErrRequestURIUsed) || fositeconsent.NeedsConsent(err) {
		t.Errorf("the second tab got %v", cause(err))
	}
	if want := []string{"begin", "claim", "rollback"}; !slices.Equal(store.log, want) {
		t.Errorf("the storage saw %v, expected %v", store.log, want)
	}
}

// That a page was answered before is believed late only where the mint can have been put off:
// in a transaction, of a response that mints.
func TestALateAnswerIsBelievedOnlyOfAMint(t *testing.T) {
	t.Parallel()
	late := fmt.Errorf("insert: %w", fositeconsent.ErrAlreadyDecided)
	check := func(t *testing.T, h *host, err error) {
		t.Helper()
		if !errors.Is(err, fositeconsent.ErrStorage) || fositeconsent.NeedsConsent(err) {
			t.Errorf("got %v", cause(err))
		}
		if e := h.event(); e.Reason != "storage" {
			t.Errorf("the event is %+v", e)
		}
	}
	t.Run("with a token", func(t *testing.T) {
		t.Parallel()
		h, tx := newTxHost(t, nil)
		token := h.approve(params(), "alice")
		tx.commit = func(context.Context) error { return late }
		_, err := h.answer(params(), "alice", token)
		check(t, h, err)
	})
	t.Run("without transactions", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		p := h.prompt(params(), "alice")
		h.grants.onConsume = func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, late }
		_, err := h.provider.NewAuthorizeResponse(fositeconsent.WithDecision(context.Background(), p.Ticket, all(p)), h.parse(params()), h.login("alice"))
		check(t, h, err)
	})
}
