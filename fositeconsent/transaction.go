package fositeconsent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/ory/fosite"
)

// transactional is what fosite looks for on a storage (fosite/storage.Transactional):
// BeginTX puts a transaction into the context, where the storage's other methods and
// the two that end it find it.
type transactional interface {
	BeginTX(ctx context.Context) (context.Context, error)
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// maxAttempts bounds how often one response is tried when the database rolls it back
// because of others.
const maxAttempts = 5

// respond makes the response: everything that is stored for it, the grant's end
// included, in one transaction, and that again, on fresh copies, as long as the
// database takes it back for a reason that lies in others.
func (p *protected) respond(ctx context.Context, step *step, ar fosite.AuthorizeRequester, session fosite.Session) (fosite.AuthorizeResponder, error) {
	var client fosite.Client
	var standing *standing
	var err error
	switch {
	case presents(ctx):
		// Before a connection is taken, since clients may be kept in the same database.
		if client, err = p.checkPolicy(ctx, ar); err != nil {
			step.request.AuthorizeRequester = ar
			if !isNil(session) {
				step.request.subject = session.GetSubject()
			}
			return nil, asClientError(err, false)
		}
		if d, _ := ctx.Value(decisionKey{}).(presentedDecision); d.decision.Unasked {
			if standing, err = p.findStanding(ctx, step, ar, session); err != nil {
				return nil, asClientError(err, step.request.silent)
			}
		}
	case p.gate.mayStand():
		// What is presented never comes here: a refused decision falls back on nothing.
		if standing, err = p.findStanding(ctx, step, ar, session); err != nil {
			return nil, asClientError(err, step.request.silent)
		}
	default: // the gate will refuse it, and nothing will be stored
		return p.run(ctx, &passage{provider: p, requester: ar, step: step}, session)
	}
	for attempt := 1; ; attempt++ {
		step.forget()
		pass := &passage{provider: p, requester: ar, client: client, standing: standing, step: step}
		attemptSession := session
		mine, copied := copyRequest(ar, session)
		if copied {
			pass.requester, attemptSession = mine, mine.Session
		}
		resp, err := p.inTransaction(ctx, pass, attemptSession)
		if err == nil {
			if err := p.checkIssued(ctx, pass, resp); err != nil {
				return nil, err
			}
		}
		switch {
		case err == nil && copied:
			pass.adopt(ar)
			return resp, nil
		case err == nil:
			return resp, nil
		case p.transactions == nil || !copied || attempt == maxAttempts || ctx.Err() != nil || !retryable(err):
			return nil, err
		}
	}
}

// checkIssued refuses a response with an access token whose consent was revoked while it was being
// issued, and ends that. A storage of tokens that is not the consents' own may have stored the token
// after the revocation had looked for it; of a code, the token endpoint asks.
func (p *protected) checkIssued(ctx context.Context, pass *passage, resp fosite.AuthorizeResponder) error {
	if _, ok := p.fosite.Store.(requestsRevoker); ok || pass.recordedAs == "" || resp.GetParameters().Get("access_token") == "" {
		return nil
	}
	if err := p.gate.config.Consents.CheckResponse(ctx, pass.recordedAs); err != nil {
		reason := storageError(err, ErrConsentRevoked, ErrConsentExpired)
		return asClientError(p.gate.tokenHandler.end(ctx, pass.recordedAs, reason), pass.request.silent)
	}
	return nil
}

// inTransaction runs the handlers between BeginTX and Commit, and lets nothing out
// before that has succeeded. Whatever else happens, a panic included, is rolled back.
func (p *protected) inTransaction(ctx context.Context, pass *passage, session fosite.Session) (_ fosite.AuthorizeResponder, err error) {
	if p.transactions == nil {
		return p.run(ctx, pass, session)
	}
	inner, err := p.transactions.BeginTX(ctx)
	if err == nil && inner == nil {
		err = errors.New("BeginTX returned no context")
	}
	if err != nil {
		return nil, asClientError(fmt.Errorf("%w: begin the transaction: %w", ErrStorage, err), false)
	}
	committed := false
	defer func() {
		if committed {
			return
		}
		// The context may be over, and the transaction must end all the same.
		rollback := p.transactions.Rollback(context.WithoutCancel(inner))
		switch {
		case rollback != nil && err != nil:
			err = &rollbackError{err, rollback}
		case rollback == nil && !outcomeUnknown(err):
			pass.consumed = false // it was given back
		}
	}()
	resp, err := p.run(inner, pass, session)
	if err == nil {
		if err = p.transactions.Commit(inner); err == nil {
			committed = true
			return resp, nil
		}
		err = asClientError(fmt.Errorf("%w: commit the transaction: %w", ErrStorage, err), false)
	}
	if late := pass.lateAnswer(err); late != nil {
		err = asClientError(late, pass.request.silent)
	}
	return nil, err
}

// lateAnswer returns the reason in an error that answers an earlier call for this very
// response, which a storage may queue in a transaction: the mint, or the record of the
// response. Otherwise it returns nil.
func (pass *passage) lateAnswer(err error) error {
	switch {
	case pass.provider.transactions == nil:
	case pass.action == ActionApprove && errors.Is(err, ErrAlreadyDecided):
		return ErrAlreadyDecided
	case pass.recordedAs == "":
	case errors.Is(err, ErrConsentRevoked):
		return ErrConsentRevoked
	case errors.Is(err, ErrConsentExpired):
		return ErrConsentExpired
	}
	return nil
}

// run has fosite's handlers make the response, the gate first, and holds the result
// against what was decided.
func (p *protected) run(ctx context.Context, pass *passage, session fosite.Session) (fosite.AuthorizeResponder, error) {
	resp, err := p.OAuth2Provider.NewAuthorizeResponse(context.WithValue(ctx, passageKey{}, pass), pass.requester, session)
	if err != nil {
		return nil, err
	}
	if pass.grant == nil {
		return nil, asClientError(fmt.Errorf("%w: a response was made without the gate: %w", ErrMisconfigured, errNotProtected), false)
	}
	if err := p.gate.checkGranted(ctx, pass.request, pass.grant); err != nil {
		return nil, asClientError(err, false)
	}
	if pass.recordedAs != "" && pass.requester.GetID() != pass.recordedAs {
		return nil, asClientError(errRenamed, false)
	}
	return &response{AuthorizeResponder: resp, pass: pass}, nil
}

// rollbackError is an error after which the rollback failed as well.
type rollbackError struct{ err, rollback error }

func (e *rollbackError) Error() string   { return e.err.Error() + "; rollback: " + e.rollback.Error() }
func (e *rollbackError) Unwrap() []error { return []error{e.err, e.rollback} }

// The SQLSTATEs that matter here, of PostgreSQL and of the SQL standard.
const (
	stateRolledBack           = "40000" // transaction_rollback
	stateSerializationFailure = "40001"
	stateDeadlock             = "40P01"
	stateOutcomeUnknown       = "40003" // statement_completion_unknown
)

func sqlState(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState()
	}
	return ""
}

// retryable reports whether the database has taken the transaction back as a whole
// for what others did meanwhile.
func retryable(err error) bool {
	switch sqlState(err) {
	case stateRolledBack, stateSerializationFailure, stateDeadlock:
		return true
	case stateOutcomeUnknown: // whatever else it was
		return false
	}
	return errors.Is(err, fosite.ErrSerializationFailure)
}

func outcomeUnknown(err error) bool { return sqlState(err) == stateOutcomeUnknown }

// copyRequest returns a request for one attempt. A failed one leaves granted scopes,
// handled response types and claims behind. What is not fosite's own type, or has a
// session that cannot be cloned, is not copied.
func copyRequest(ar fosite.AuthorizeRequester, session fosite.Session) (*fosite.AuthorizeRequest, bool) {
	original, ok := ar.(*fosite.AuthorizeRequest)
	if !ok || isNil(session) {
		return nil, false
	}
	clone := session.Clone()
	if isNil(clone) || reflect.TypeOf(clone) != reflect.TypeOf(session) || clone.GetSubject() != session.GetSubject() {
		return nil, false
	}
	mine := *original
	mine.Session = clone
	for _, list := range []*fosite.Arguments{
		&mine.ResponseTypes, &mine.HandledResponseTypes, &mine.RequestedScope, &mine.GrantedScope, &mine.RequestedAudience, &mine.GrantedAudience,
	} {
		*list = slices.Clone(*list)
	}
	mine.Form = maps.Clone(original.Form)
	for name, values := range mine.Form {
		mine.Form[name] = slices.Clone(values)
	}
	if original.RedirectURI != nil {
		u := *original.RedirectURI
		mine.RedirectURI = &u
	}
	return &mine, true
}

// adopt makes the host's request what the successful attempt has made of its copy,
// since the host writes the response with it.
func (pass *passage) adopt(ar fosite.AuthorizeRequester) {
	theirs, _ := ar.(*fosite.AuthorizeRequest)
	mine, ok := pass.requester.(*fosite.AuthorizeRequest)
	if !ok || theirs == nil {
		return
	}
	*theirs = *mine
	pass.requester, pass.request.AuthorizeRequester = theirs, theirs
}

// hiddenTransactions returns the types that are embedded in a storage and have
// transactions which the storage itself has not: Go takes no method of two that are
// embedded side by side under one name, and says nothing.
func hiddenTransactions(storage any) []string {
	if _, ok := storage.(transactional); ok || storage == nil {
		return nil
	}
	var found []string
	begins := reflect.TypeFor[interface {
		BeginTX(ctx context.Context) (context.Context, error)
	}]()
	var look func(t reflect.Type, depth int)
	look = func(t reflect.Type, depth int) {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || depth > 8 {
			return
		}
		for i := range t.NumField() {
			field := t.Field(i)
			if !field.Anonymous {
				continue
			}
			if field.Type.Implements(begins) || field.Type.Kind() != reflect.Interface && reflect.PointerTo(field.Type).Implements(begins) {
				found = append(found, field.Type.String())
				continue
			}
			look(field.Type, depth+1)
		}
	}
	look(reflect.TypeOf(storage), 0)
	return found
}
