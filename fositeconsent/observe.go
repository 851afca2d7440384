package fositeconsent

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const tracerName = "github.com/fosite-consent/fosite-consent/fositeconsent"

// step is one thing that the gate was asked to do, as it is observed.
type step struct {
	gate     *Gate
	action   Action
	start    time.Time
	span     trace.Span
	request  request
	id       ID
	consumed bool
	grant    *Grant

	basis      Basis
	consentIDs []ID
	clientID   string // where there is no authorization request
	revoked    int
	shown      Digest // of the page that was answered
}

// forget is for another attempt.
func (s *step) forget() {
	s.request, s.id, s.consumed, s.grant, s.basis, s.consentIDs, s.shown = request{}, ID{}, false, nil, "", nil, Digest{}
}

// errPanicked is what is reported of a step that did not return.
var errPanicked = errors.New("fositeconsent: panicked")

// observe does one step inside a span of the tracer provider of the context's span,
// as fosite has it, so that a host sets tracing up in one place; and reports it.
func (g *Gate) observe(ctx context.Context, action Action, do func(context.Context, *step) error) error {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracerName).Start(ctx, "Gate."+string(action))
	s := &step{gate: g, action: action, start: time.Now(), span: span}
	err := errPanicked
	defer func() { s.end(ctx, err) }()
	err = do(ctx, s)
	return err
}

// end ends the span and reports the event.
func (s *step) end(ctx context.Context, err error) {
	event := Event{
		Action: s.action, Reason: reasonLabel(err), Err: err, GrantID: s.id, Consumed: s.consumed,
		Subject: s.request.subject, ClientID: s.clientID, Basis: s.basis, ConsentIDs: s.consentIDs, Revoked: s.revoked, Duration: time.Since(s.start),
	}
	if event.Reason == "error" && (s.action == ActionConsume || s.action == ActionApprove) && s.grant != nil {
		event.Reason = "response_failed"
	}
	if s.request.AuthorizeRequester != nil {
		if client := s.request.GetClient(); !isNil(client) {
			event.ClientID = client.GetID()
		}
		event.RequestedScopes = s.request.GetRequestedScopes()
	}
	if s.grant != nil {
		event.GrantedScopes, event.GrantedAudience = s.grant.Scopes, s.grant.Audience
	}
	if s.span.IsRecording() {
		s.span.SetAttributes(
			attribute.String("fositeconsent.reason", event.Reason),
			attribute.String("fositeconsent.grant_id", event.GrantID.String()),
			attribute.String("fositeconsent.client_id", event.ClientID))
		if event.Basis != "" {
			s.span.SetAttributes(
				attribute.String("fositeconsent.basis", string(event.Basis)),
				attribute.StringSlice("fositeconsent.consent_ids", idTexts(event.ConsentIDs)))
		}
		if err != nil {
			s.span.SetStatus(codes.Error, event.Reason)
		}
	}
	s.gate.appendRefusal(ctx, s, &event)
	s.span.End()
	if s.gate.config.OnEvent != nil {
		s.gate.config.OnEvent(ctx, event)
	}
}
