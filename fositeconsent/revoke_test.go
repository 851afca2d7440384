package fositeconsent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/storage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func TestRevokeEndsWhatIsSelected(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t, func(_ *host, config *fositeconsent.Config) {
		config.LoginSession = func(_ context.Context, s fosite.Session) (string, error) { return "login of " + s.GetSubject(), nil }
	})
	web := params("client_id", "web", "redirect_uri", "https://web.example/cb")
	for name, c := range map[string]struct {
		selection func(first fositeconsent.ID) fositeconsent.Selection
		alice     []string // of which clients alice is asked again
		bob       bool     // whether bob is asked again for app
	}{
		"by subject": {func(fositeconsent.ID) fositeconsent.Selection { return fositeconsent.Selection{Subject: "alice"} }, []string{"app", "web"}, false},
		"by subject and client": {func(fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: "alice", ClientID: "web"}
		}, []string{"web"}, false},
		"by client": {func(fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{ClientID: "app", EverySubject: true}
		}, []string{"app"}, true},
		"by ID": {func(id fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: "alice", ConsentID: id}
		}, []string{"app"}, false},
		"by somebody else's ID": {func(id fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: "bob", ConsentID: id}
		}, nil, false},
		"by login": {func(fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{ClientID: "app", EverySubject: true, LoginSession: "login of bob"}
		}, nil, true},
		"by an issuer that is not the gate's": {func(fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Issuer: "https://elsewhere.example", Subject: "bob"}
		}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			offline := func(d *fositeconsent.Decision) { d.Remember.OfflineAccess = true }
			first := h.remember(params(), "alice", offline)
			h.remember(web, "alice", offline)
			h.remember(params(), "bob", offline)
			want := len(c.alice)
			if c.bob {
				want++
			}
			n, err := h.gate.Revoke(t.Context(), c.selection(first))
			if n != want || err != nil {
				t.Errorf("Revoke: %d, %v, want %d", n, err, want)
			}
			if e := h.event(); e.Action != fositeconsent.ActionRevoke || e.Refused() || e.Revoked != want {
				t.Errorf("the event is %+v", e)
			}
			for client, form := range map[string]map[string][]string{"app": params(), "web": web} {
				if slices.Contains(c.alice, client) {
					h.isAsked(form, "alice")
				} else {
					h.passes(form, "alice")
				}
			}
			if c.bob {
				h.isAsked(params(), "bob")
			} else {
				h.passes(params(), "bob")
			}
			for _, subject := range []string{"alice", "bob"} { // for the next one
				if _, err := h.gate.Revoke(t.Context(), fositeconsent.Selection{Subject: subject}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestRevokeEndsAnApprovalUnderWay: one that nobody has used yet, and the response to one that is
// being made.
func TestRevokeEndsAnApprovalUnderWay(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	token := h.approve(params(), "alice")
	revoke := func() {
		if _, err := h.gate.Revoke(t.Context(), everything); err != nil {
			t.Errorf("Revoke: %v", err)
		}
	}
	revoke()
	if _, err := h.answer(params(), "alice", token); !errors.Is(err, fositeconsent.ErrGrantRevoked) || !errors.Is(err, fosite.ErrAccessDenied) {
		t.Errorf("an approval that was revoked: %v", cause(err))
	}

	token = h.approve(params(), "alice")
	h.consents.onRecord = func(context.Context, *fositeconsent.Response) error {
		revoke() // it is consumed, and not recorded
		return nil
	}
	if _, err := h.answer(params(), "alice", token); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
		t.Errorf("an approval that was revoked when it had been consumed: %v", cause(err))
	}
	if h.stored() != 0 {
		t.Error("something was stored")
	}
}

// slowTokens is a storage that is interrupted before it stores an access token.
type slowTokens struct {
	*storage.MemoryStore
	before func()
}

func (s *slowTokens) CreateAccessTokenSession(ctx context.Context, signature string, r fosite.Requester) error {
	s.before()
	return s.MemoryStore.CreateAccessTokenSession(ctx, signature, r)
}

// TestRevokeEndsATokenOfTheFrontChannel: it is stored when the revocation has looked for it.
func TestRevokeEndsATokenOfTheFrontChannel(t *testing.T) {
	t.Parallel()
	for _, responseType := range []string{"token", "id_token token", "code token"} {
		for _, remembered := range []bool{false, true} {
			for _, unknown := range []bool{false, true} {
				t.Run(fmt.Sprint(responseType, remembered, unknown), func(t *testing.T) {
					t.Parallel()
					store := &slowTokens{before: func() {}}
					h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) { store.MemoryStore, h.composed = h.store, store })
					form := web("response_type", responseType)
					if remembered {
						h.remember(form, "alice")
					}
					p := h.prompt(form, "alice")
					ctx := t.Context()
					if !remembered {
						ctx = fositeconsent.WithDecision(ctx, p.Ticket, all(p))
					}
					tokens := 0 // that may be left: none if all is revoked
					reason, label := fositeconsent.ErrConsentRevoked, "consent_revoked"
					store.before = func() {
						if unknown {
							h.consents.onCheck = func(int, string) error { return errors.New("connection refused") }
							return
						}
						if n, err := h.gate.Revoke(t.Context(), everything); n != 1 || err != nil {
							t.Errorf("Revoke: %d, %v", n, err)
						}
					}
					if unknown {
						tokens, reason, label = len(h.store.AccessTokens), fositeconsent.ErrStorage, "storage"
					}
					resp, err := h.provider.NewAuthorizeResponse(ctx, h.parse(form), h.login("alice"))
					if resp != nil || !errors.Is(err, reason) {
						t.Errorf("a response %v, error %v", resp, cause(err))
					}
					if e := h.event(); e.Reason != label {
						t.Errorf("the event is %+v", e)
					}
					if n := len(h.store.AccessTokens); n != tokens {
						t.Errorf("%d access tokens are left, expected %d", n, tokens)
					}
				})
			}
		}
	}
}

func TestRevokeReportsItself(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	ctx, root := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test").Start(t.Context(), "root")
	h := newConsentHost(t)
	id := h.remember(params(), "alice")
	if n, err := h.gate.Revoke(ctx, fositeconsent.Selection{Subject: "alice", ClientID: "app", ConsentID: id}); n != 1 || err != nil {
		t.Fatalf("Revoke: %d, %v", n, err)
	}
	e := h.event()
	if e.Action != fositeconsent.ActionRevoke || e.Subject != "alice" || e.ClientID != "app" || !slices.Equal(e.ConsentIDs, []fositeconsent.ID{id}) || e.Revoked != 1 || e.Refused() {
		t.Errorf("the event is %+v", e)
	}
	if text := slog.AnyValue(e).Resolve().String(); !strings.Contains(text, "revoked=1") || !strings.Contains(text, id.String()) {
		t.Errorf("the event logs itself as %s", text)
	}
	if _, err := h.gate.ListConsents(ctx, everything, fositeconsent.ID{}, 1); err != nil {
		t.Fatal(err)
	}
	root.End()
	var names []string
	for _, span := range spans.Ended() {
		names = append(names, span.Name())
	}
	if !slices.Equal(names, []string{"Gate.revoke", "Gate.list", "root"}) {
		t.Errorf("the spans are %v", names)
	}
}

func TestRevokeAndListSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	plain, h := newHost(t), newConsentHost(t)
	config := fositeconsent.Config{Issuer: issuer, Consents: h.consents, DescribeClient: func(context.Context, fosite.Client) ([]string, error) { return nil, nil }}
	unprotected, err := fositeconsent.NewGate(h.grants, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		gate      *fositeconsent.Gate
		selection fositeconsent.Selection
		limit     int
		revoke    string // "" if it is right
		list      string
	}{
		"right":        {h.gate, everything, 1, "", ""},
		"no consents":  {plain.gate, everything, 1, "set Config.Consents", "set Config.Consents"},
		"no Protect":   {unprotected, everything, 1, "before Protect", ""},
		"nothing":      {h.gate, fositeconsent.Selection{}, 1, "neither a Subject nor a ClientID", "neither a Subject nor a ClientID"},
		"nobody's":     {h.gate, fositeconsent.Selection{ClientID: "app"}, 1, "no Subject", "no Subject"},
		"nobody's ID":  {h.gate, fositeconsent.Selection{ClientID: "app", ConsentID: fositeconsent.ID{1}}, 1, "no Subject", "no Subject"},
		"everything":   {h.gate, fositeconsent.Selection{EverySubject: true}, 1, "neither a Subject nor a ClientID", "neither a Subject nor a ClientID"},
		"two at once":  {h.gate, fositeconsent.Selection{Subject: "alice", ClientID: "app", EverySubject: true}, 1, "say which is meant", "say which is meant"},
		"only an ID":   {h.gate, fositeconsent.Selection{ConsentID: fositeconsent.ID{1}}, 1, "neither a Subject nor a ClientID", "neither a Subject nor a ClientID"},
		"only a login": {h.gate, fositeconsent.Selection{LoginSession: "x"}, 1, "neither a Subject nor a ClientID", "neither a Subject nor a ClientID"},
		"no limit":     {h.gate, everything, 0, "", "a page of 0 consents"},
		"below none":   {h.gate, everything, -1, "", "a page of -1 consents"},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(call string, err error, says string) {
				t.Helper()
				switch {
				case says == "" && err != nil:
					t.Errorf("%s: %v", call, err)
				case says != "" && (!errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), says)):
					t.Errorf("%s: %v, want it to say %q", call, err, says)
				}
			}
			_, err := c.gate.Revoke(t.Context(), c.selection)
			check("Revoke", err, c.revoke)
			_, err = c.gate.ListConsents(t.Context(), c.selection, fositeconsent.ID{}, c.limit)
			check("ListConsents", err, c.list)
		})
	}
}

func TestRevokeFailsWithItsStorages(t *testing.T) {
	t.Parallel()
	t.Run("of consents", func(t *testing.T) {
		t.Parallel()
		h := newConsentHost(t)
		h.remember(params(), "alice")
		for _, failure := range []error{errors.New("connection refused"), fositeconsent.ErrConsentRevoked, context.Canceled} {
			h.consents.onRevoke = func(_ context.Context, s fositeconsent.Selection) error {
				if s.Issuer != issuer {
					t.Errorf("the selection is %+v", s)
				}
				return failure
			}
			n, err := h.gate.Revoke(t.Context(), everything)
			if n != 0 || !errors.Is(err, fositeconsent.ErrStorage) || errors.Is(err, fositeconsent.ErrConsentRevoked) {
				t.Errorf("Revoke: %d, %v, want ErrStorage", n, err)
			}
			if e := h.event(); e.Action != fositeconsent.ActionRevoke || e.Reason != "storage" || e.Revoked != 0 {
				t.Errorf("the event is %+v", e)
			}
		}
		h.passes(params("scope", "openid photos"), "alice")
	})
	t.Run("of tokens", func(t *testing.T) {
		t.Parallel()
		h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) { h.composed = &brokenRevocation{MemoryStore: h.store} })
		refresh := h.exchanged(h.exchange(h.code(nil)))
		n, err := h.gate.Revoke(t.Context(), everything)
		if n != 0 || !errors.Is(err, fositeconsent.ErrStorage) || !errors.Is(err, errBrokenRevocation) {
			t.Errorf("Revoke: %d, %v, want ErrStorage", n, err)
		}
		_ = refresh
		if list, err := h.gate.ListConsents(t.Context(), everything, fositeconsent.ID{}, 10); len(list) != 1 || err != nil {
			t.Errorf("after a revocation that failed: %v, %v", list, err)
		}
	})
	t.Run("which has no tokens to revoke", func(t *testing.T) {
		t.Parallel()
		h := newConsentHost(t, func(h *host, _ *fositeconsent.Config) { h.composed = &absentTokens{h.store} })
		h.code(nil)
		if n, err := h.gate.Revoke(t.Context(), everything); n != 1 || err != nil {
			t.Errorf("Revoke: %d, %v", n, err)
		}
	})
	t.Run("which cannot revoke", func(t *testing.T) {
		t.Parallel()
		h := newConsentHost(t)
		h.config.AuthorizeEndpointHandlers, h.config.TokenEndpointHandlers = nil, nil
		if _, err := h.gate.Protect(h.composeOn(struct{ fosite.Storage }{h.store}, h.gate.Factory, h.gate.TokenFactory)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.gate.Revoke(t.Context(), everything); !errors.Is(err, fositeconsent.ErrMisconfigured) || !strings.Contains(err.Error(), "RevokeRefreshToken") {
			t.Errorf("Revoke: %v", err)
		}
	})
	t.Run("which revokes many at once", func(t *testing.T) {
		t.Parallel()
		h := newConsentHost(t)
		h.config.AuthorizeEndpointHandlers, h.config.TokenEndpointHandlers = nil, nil
		store := &setBased{MemoryStore: h.store}
		var err error
		if h.provider, err = h.gate.Protect(h.composeOn(store, h.gate.Factory, compose.OAuth2AuthorizeExplicitFactory)); err != nil {
			t.Fatal(err)
		}
		h.code(nil)
		h.code(nil)
		n, err := h.gate.Revoke(t.Context(), everything)
		var recorded []string
		for _, r := range h.consents.recorded {
			recorded = append(recorded, r.RequestID)
		}
		if n != 2 || err != nil || !equalSets(store.revoked, recorded) {
			t.Errorf("Revoke: %d, %v, of %v, want %v", n, err, store.revoked, recorded)
		}
	})
}

// absentTokens says of tokens that are not there that they are not there.
type absentTokens struct{ *storage.MemoryStore }

func (absentTokens) RevokeRefreshToken(context.Context, string) error { return fosite.ErrNotFound }
func (absentTokens) RevokeAccessToken(context.Context, string) error  { return fosite.ErrNotFound }

func TestListConsentsReturnsPages(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	var ids []fositeconsent.ID
	for range 5 {
		ids = append(ids, h.remember(params(), "alice"))
	}
	h.remember(params(), "bob")
	slices.SortFunc(ids, func(a, b fositeconsent.ID) int { return strings.Compare(b.String(), a.String()) })
	var before fositeconsent.ID
	var got []fositeconsent.ID
	for {
		page, err := h.gate.ListConsents(t.Context(), everything, before, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			got = append(got, c.ID)
		}
		before = page[len(page)-1].ID
	}
	if !slices.Equal(got, ids) {
		t.Errorf("the pages have %v, want %v", got, ids)
	}
}

func TestListConsentsDoesNotBelieveItsStorage(t *testing.T) {
	t.Parallel()
	h := newConsentHost(t)
	id := h.remember(params(), "alice")
	h.remember(params(), "alice")
	for name, c := range map[string]struct {
		before fositeconsent.ID
		lie    func([]fositeconsent.Consent) ([]fositeconsent.Consent, error)
	}{
		"another subject's": {fositeconsent.ID{}, func(l []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			l[0].Subject = "bob"
			return l, nil
		}},
		"another issuer's": {fositeconsent.ID{}, func(l []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			l[1].Issuer = "https://elsewhere.example"
			return l, nil
		}},
		"not in order": {fositeconsent.ID{}, func(l []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			slices.Reverse(l)
			return l, nil
		}},
		"one of the last page": {id, func(l []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			return []fositeconsent.Consent{{ID: id, Issuer: issuer, Subject: "alice"}}, nil
		}},
		"too many": {fositeconsent.ID{}, func(l []fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			last := l[1]
			last.ID = fositeconsent.ID{1}
			return append(l, last), nil
		}},
		"a reason": {fositeconsent.ID{}, func([]fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			return nil, fositeconsent.ErrGrantNotFound
		}},
		"an unknown": {fositeconsent.ID{}, func([]fositeconsent.Consent) ([]fositeconsent.Consent, error) {
			return nil, errors.New("connection refused")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h.consents.onList = c.lie
			list, err := h.gate.ListConsents(t.Context(), everything, c.before, 2)
			if list != nil || !errors.Is(err, fositeconsent.ErrStorage) || errors.Is(err, fositeconsent.ErrGrantNotFound) {
				t.Errorf("ListConsents: %v, %v, want ErrStorage", list, err)
			}
		})
	}
}
