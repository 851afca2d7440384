package fositeconsent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func TestEveryStepSendsOneEventAndOneSpan(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	ctx, root := tracer.Start(t.Context(), "root")
	h := newHost(t)

	p, err := h.gate.Prompt(ctx, h.parse(params()), h.login("peter"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := h.gate.Mint(ctx, h.parse(params()), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: []string{"openid"}})
	if err != nil {
		t.Fatal(err)
	}
	_, twice := h.gate.Mint(ctx, h.parse(params()), h.login("peter"), p.Ticket, fositeconsent.Decision{Scopes: []string{"openid"}})
	deny := h.gate.Deny(ctx, h.parse(params()), h.login("peter"), p.Ticket)
	_, without := h.provider.NewAuthorizeResponse(ctx, h.parse(params()), h.login("peter"))
	ctx = fositeconsent.WithToken(ctx, token)
	if _, err := h.provider.NewAuthorizeResponse(ctx, h.parse(params()), h.login("peter")); err != nil {
		t.Fatal(cause(err))
	}
	_, again := h.provider.NewAuthorizeResponse(ctx, h.parse(params()), h.login("peter"))
	root.End()

	want := []struct {
		action  fositeconsent.Action
		reason  string
		err     error
		named   bool
		granted []string
	}{
		{fositeconsent.ActionPrompt, "", nil, true, nil},
		{fositeconsent.ActionMint, "", nil, true, []string{"openid"}},
		{fositeconsent.ActionMint, "already_decided", twice, true, nil},
		{fositeconsent.ActionDeny, "already_decided", deny, true, nil},
		{fositeconsent.ActionConsume, "consent_required", without, false, nil},
		{fositeconsent.ActionConsume, "", nil, true, []string{"openid"}},
		{fositeconsent.ActionConsume, "consumed", again, true, nil},
	}
	var ours []sdktrace.ReadOnlySpan
	for _, s := range spans.Ended() {
		if strings.HasPrefix(s.Name(), "Gate.") {
			ours = append(ours, s)
		}
	}
	if len(h.events) != len(want) || len(ours) != len(want) {
		t.Fatalf("%d events and %d spans, expected %d", len(h.events), len(ours), len(want))
	}
	for i, w := range want {
		e := h.events[i]
		if e.Action != w.action || e.Reason != w.reason || !errors.Is(e.Err, w.err) || e.Refused() != (w.reason != "") ||
			e.Subject != "peter" || e.ClientID != "app" || !slices.Equal(e.GrantedScopes, w.granted) ||
			!slices.Equal(e.RequestedScopes, []string{"openid", "photos", "offline_access"}) || (e.GrantID == p.ID) != w.named || e.Duration <= 0 {
			t.Errorf("event %d is %+v", i, e)
		}
		attributes := map[string]string{}
		for _, a := range ours[i].Attributes() {
			attributes[string(a.Key)] = a.Value.AsString()
		}
		status := codes.Unset
		if w.reason != "" {
			status = codes.Error
		}
		if ours[i].Name() != "Gate."+string(w.action) || attributes["fositeconsent.reason"] != w.reason || attributes["fositeconsent.client_id"] != "app" ||
			ours[i].Status().Code != status || ours[i].Status().Description != w.reason || ours[i].Parent().SpanID() != root.SpanContext().SpanID() {
			t.Errorf("span %d is %s with %s and %v", i, ours[i].Name(), attributes, ours[i].Status())
		}
		if consumed := w.action == fositeconsent.ActionConsume && w.err == nil; e.Consumed != consumed {
			t.Errorf("event %d: consumed is %v", i, e.Consumed)
		}
	}
}

func TestEventLogsItself(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, err := h.answer(params(), "peter", h.approve(params("state", "another state"), "peter"))
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("consent", "event", h.event())
	var line struct {
		Event map[string]any `json:"event"`
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	e := line.Event
	if e["action"] != "consume" || e["reason"] != "binding_mismatch" || e["error"] != fositeconsent.ErrBindingMismatch.Error() || e["subject"] != "peter" ||
		e["client_id"] != "app" || e["grant_id"] != h.event().GrantID.String() {
		t.Errorf("%v logs %s", err, out.String())
	}
}

// What did not return is not reported as a success.
func TestPanicIsNoSuccess(t *testing.T) {
	t.Parallel()
	during := func(h *host, do func()) fositeconsent.Event {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		do()
		return fositeconsent.Event{}
	}
	h := newHost(t)
	h.grants.onCreate = func(*fositeconsent.Grant) error { panic("storage") }
	p := h.prompt(params(), "peter")
	during(h, func() { _, _ = h.gate.Mint(t.Context(), h.parse(params()), h.login("peter"), p.Ticket, all(p)) })
	if e := h.event(); e.Reason != "panic" || e.Err == nil || e.GrantedScopes != nil {
		t.Errorf("the event of a mint is %+v", e)
	}
	h = newHost(t)
	token := h.approve(params(), "peter")
	h.config.AuthorizeEndpointHandlers = append(h.config.AuthorizeEndpointHandlers, &meddler{
		func(context.Context, fosite.AuthorizeRequester, fosite.AuthorizeResponder) error { panic("handler") },
	})
	during(h, func() { _, _ = h.answer(params(), "peter", token) })
	if e := h.event(); e.Reason != "panic" || e.Err == nil || !e.Consumed {
		t.Errorf("the event of a response is %+v", e)
	}
}

func TestReasonsAreAFixedSetOfLabels(t *testing.T) {
	t.Parallel()
	labels := fositeconsent.Reasons()
	unique := slices.Compact(slices.Sorted(slices.Values(labels)))
	if len(unique) != len(labels) {
		t.Errorf("a label stands for two reasons: %v", labels)
	}
	for _, label := range labels {
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("%q is no label", label)
		}
	}
}

// No secret in what is said about a flow, whether it ends well or not.
func TestTokenAndTicketAppearNowhere(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	ctx, root := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test").Start(t.Context(), "root")
	h := newHost(t)
	var said bytes.Buffer
	say := func(what any) { fmt.Fprintf(&said, "%v %+v %#v %s\n", what, what, what, what) }

	p, err := h.gate.Prompt(ctx, h.parse(params()), h.login("peter"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := h.gate.Mint(ctx, h.parse(params()), h.login("peter"), p.Ticket, all(p))
	if err != nil {
		t.Fatal(err)
	}
	withToken := fositeconsent.WithToken(ctx, token)
	say(withToken)
	say(token)
	respond := func(form ...string) {
		_, err := h.provider.NewAuthorizeResponse(withToken, h.parse(params(form...)), h.login("peter"))
		say(err)
		say(cause(err))
		if err != nil {
			say(fosite.ErrorToRFC6749Error(err).WithExposeDebug(true).ToValues())
		}
	}
	respond("state", "another state")
	respond()
	respond()
	h.advance(time.Hour)
	respond()
	h.grants.onConsume = func(*fositeconsent.Grant, error) (*fositeconsent.Grant, error) { return nil, errors.New("down") }
	respond()
	_, err = h.gate.Mint(ctx, h.parse(params()), h.login("mallory"), p.Ticket, all(p))
	say(err)
	_, err = h.gate.Mint(ctx, h.parse(params()), h.login("peter"), p.Ticket+"x", all(p))
	say(err)
	_, err = fositeconsent.ParseToken(token.Reveal() + "x")
	say(err)
	root.End()

	logger := slog.New(slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, e := range h.events {
		say(e)
		logger.LogAttrs(context.Background(), slog.LevelDebug, "event", slog.Any("event", e))
	}
	for _, s := range spans.Ended() {
		say(s.Attributes())
		say(s.Events())
		say(s.Status())
	}
	text := said.String()
	if len(h.events) < 8 || !strings.Contains(text, "binding_mismatch") || !strings.Contains(text, "redacted") {
		t.Fatalf("the test did not see what it is to search: %d events", len(h.events))
	}
	for i := 4; i+12 < len(token.Reveal()); i++ {
		if i > 26 && strings.Contains(text, token.Reveal()[i:i+12]) { // past the id, which is no secret
			t.Fatal("a part of the token was printed")
		}
	}
	if strings.Contains(text, p.Ticket[40:80]) {
		t.Fatal("a part of the ticket was printed")
	}
}
