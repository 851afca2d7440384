package fositeconsent

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const tracerName = "github.com/fosite-consent/fosite-consent/fositeconsent"

// step is one thing that the gate was asked to do, as it is observed.
type step struct {
	gate    *Gate
	action  Action
	start   time.Time
	span    trace.Span
	request request
	id      ID
	grant   *Grant
}

// begin starts a span with the tracer provider of the span in the context, as
// fosite does, so that a host sets tracing up in one place.
func (g *Gate) begin(ctx context.Context, action Action) (context.Context, *step) {
	ctx, span := trace.SpanFromContext(ctx).TracerProvider().Tracer(tracerName).Start(ctx, "Gate."+string(action))
	return ctx, &step{gate: g, action: action, start: time.Now(), span: span}
}

// refuse turns the reason in err into what the client is told.
func (s *step) refuse(err *error) {
	if *err != nil {
		*err = asClientError(*err, s.request.silent)
	}
}

// end ends the span and reports the event.
func (s *step) end(ctx context.Context, err *error) {
	event := Event{
		Action: s.action, Reason: reasonLabel(*err), Err: *err, GrantID: s.id, Subject: s.request.subject,
		Duration: time.Since(s.start),
	}
	if event.Reason == "error" && s.action == ActionConsume && s.grant != nil {
		event.Reason = "response_failed"
	}
	if s.request.AuthorizeRequester != nil {
		event.ClientID = s.request.GetClient().GetID()
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
		if *err != nil {
			s.span.SetStatus(codes.Error, event.Reason)
		}
	}
	s.span.End()
	if s.gate.config.OnEvent != nil {
		s.gate.config.OnEvent(ctx, event)
	}
}
