package fositeconsent

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// ErrNotAtomic is what [Gate.Check] returns when the grant and the response are not
// stored in one transaction. A grant is spent once all the same; but if a handler
// after the gate fails, or the process dies, it is spent for nothing, and the
// resource owner has to be asked again.
var ErrNotAtomic = errors.New("fositeconsent: the end of the grant and the response are not stored in one transaction")

// Check tries, on the storages of the protected provider, whether consuming a grant
// and storing a code happen in one transaction. It is for a host's start-up: the
// types of the storages cannot tell. It stores a denial and, where the provider's
// storage has CreateAuthorizeCodeSession, a code that nobody knows, and with [Config.Consents] and [Config.Decisions] a consent and a record; and rolls all of it
// back: nothing remains if the storages do what is asked of them. The client, one that
// the storage knows, and the session are what the code is stored with; they are not
// changed.
//
// The error is [ErrNotAtomic] with what was found and what to do; [ErrMisconfigured]
// before [Gate.Protect]; or whatever the storages returned, when it could not be tried.
func (g *Gate) Check(ctx context.Context, client fosite.Client, session fosite.Session) error {
	provider := g.provider.Load()
	if provider == nil {
		return fmt.Errorf("%w: Check was called before Protect: %w", ErrMisconfigured, errNotProtected)
	}
	if provider.transactions == nil {
		return fmt.Errorf("%w: the storage %T that was given to compose.Compose has no methods BeginTX, Commit and Rollback: use pgstore/fositestore, or embed a *pgstore.Transactions in it", ErrNotAtomic, provider.fosite.Store)
	}
	if err := g.checkGrants(ctx, provider.transactions); err != nil {
		return err
	}
	if g.config.Consents != nil {
		if err := g.checkConsents(ctx, provider.transactions); err != nil {
			return err
		}
	}
	if g.config.Decisions != nil {
		if err := g.checkDecisions(ctx, provider.transactions); err != nil {
			return err
		}
	}
	codes, ok := provider.fosite.Store.(codeStorage)
	if !ok {
		return nil // nothing is stored for a response but the grant's end
	}
	return checkCodes(ctx, provider.transactions, codes, client, session)
}

// checkGrants stores a denial, takes it back, and looks whether its id is free.
func (g *Gate) checkGrants(ctx context.Context, tx transactional) error {
	id := newID(time.Now())
	create := func(ctx context.Context) error {
		denial := Grant{
			ID: id, SecretHash: newToken(id).secretHash(), Binding: Digest{1}, Subject: "fositeconsent.Check", ClientID: "fositeconsent.Check",
			Denied: true, Lifespan: MinGrantLifespan,
		}
		if err := g.storage.CreateConsentGrant(ctx, &denial); err != nil {
			return err
		}
		// The storage may have put that off; to look for the grant it has to be sent.
		_, err := g.storage.ConsumeConsentGrant(ctx, Presentation{ID: id, SecretHash: denial.SecretHash, Binding: denial.Binding, Attempt: newAttempt()})
		switch {
		case err == nil:
			return fmt.Errorf("%w: a denial could be consumed", ErrStorage)
		case errors.Is(err, ErrGrantNotFound):
			return nil
		}
		return err
	}
	const op = "fositeconsent: check the grants' storage: %w"
	if err := andBack(ctx, tx, create); err != nil {
		return fmt.Errorf(op, err)
	}
	err := andBack(ctx, tx, create)
	if errors.Is(err, ErrAlreadyDecided) {
		return fmt.Errorf("%w: what the grants' storage %T stored outlived a rollback of %T: give both the same pool", ErrNotAtomic, g.storage, tx)
	}
	if err != nil {
		return fmt.Errorf(op, err)
	}
	return nil
}

// checkConsents records a response, and looks whether it outlives a rollback.
func (g *Gate) checkConsents(ctx context.Context, tx transactional) error {
	consent := Consent{ID: newID(time.Now()), Issuer: g.config.Issuer, Subject: "fositeconsent.Check", ClientID: "fositeconsent.Check"}
	selection := Selection{Issuer: consent.Issuer, Subject: consent.Subject, ConsentID: consent.ID}
	outlived, err := outlives(ctx, tx, func(ctx context.Context) error {
		return g.config.Consents.RecordResponse(ctx, &Response{RequestID: consent.ID.String(), Approval: &consent})
	}, func(ctx context.Context) (bool, error) {
		list, err := g.config.Consents.ListConsents(ctx, selection, ID{}, 1)
		return len(list) > 0, err
	})
	switch {
	case err != nil:
		return fmt.Errorf("fositeconsent: check the consents' storage: %w", err)
	case outlived:
		return fmt.Errorf("%w: what the consents' storage %T recorded outlived a rollback of %T: give both the same pool", ErrNotAtomic, g.config.Consents, tx)
	}
	return nil
}

// checkDecisions adds a record, and looks whether it outlives a rollback.
func (g *Gate) checkDecisions(ctx context.Context, tx transactional) error {
	record := DecisionRecord{ID: newID(time.Now()), Outcome: OutcomeDenied, Issuer: g.config.Issuer, Subject: "fositeconsent.Check"}
	selection := DecisionSelection{Issuer: record.Issuer, Subject: record.Subject}
	before := record.ID // for the first page to begin with it
	for i := len(before) - 1; i >= 0; i-- {
		if before[i]--; before[i] != 0xff {
			break
		}
	}
	outlived, err := outlives(ctx, tx, func(ctx context.Context) error {
		return g.config.Decisions.AppendDecision(ctx, &record)
	}, func(ctx context.Context) (bool, error) {
		list, err := g.config.Decisions.ListDecisions(ctx, selection, before, 1)
		return len(list) > 0 && list[0].ID == record.ID, err
	})
	switch {
	case err != nil:
		return fmt.Errorf("fositeconsent: check the log of decisions: %w", err)
	case outlived:
		return fmt.Errorf("%w: what the log %T recorded outlived a rollback of %T: give both the same pool", ErrNotAtomic, g.config.Decisions, tx)
	}
	return nil
}

// outlives stores something in a transaction, looks for it, which has it sent, takes it back, and reports
// whether it is there all the same.
func outlives(ctx context.Context, tx transactional, store func(context.Context) error, there func(context.Context) (bool, error)) (bool, error) {
	err := andBack(ctx, tx, func(ctx context.Context) error {
		if err := store(ctx); err != nil {
			return err
		}
		_, err := there(ctx)
		return err
	})
	if err != nil {
		return false, err
	}
	return there(ctx)
}

// codeStorage is a part of fosite's oauth2.AuthorizeCodeStorage.
type codeStorage interface {
	CreateAuthorizeCodeSession(ctx context.Context, code string, request fosite.Requester) error
	GetAuthorizeCodeSession(ctx context.Context, code string, session fosite.Session) (fosite.Requester, error)
}

// checkCodes stores a code, reads it, takes it back, and reads it again.
func checkCodes(ctx context.Context, tx transactional, codes codeStorage, client fosite.Client, session fosite.Session) error {
	if isNil(client) || isNil(session) {
		return fmt.Errorf("%w: Check needs a client and a session to store a code with", ErrMisconfigured)
	}
	var random [32]byte
	_, _ = rand.Read(random[:])
	signature := base64.RawURLEncoding.EncodeToString(random[:])
	request := fosite.NewAuthorizeRequest()
	request.Client, request.Session = client, session.Clone()
	request.RedirectURI = &url.URL{Scheme: "https", Host: "fositeconsent.invalid"}
	request.ResponseTypes = fosite.Arguments{"code"}
	if isNil(request.Session) {
		return fmt.Errorf("%w: the session %T cannot be cloned", ErrMisconfigured, session)
	}
	request.Session.SetExpiresAt(fosite.AuthorizeCode, time.Now().UTC().Add(time.Minute))

	const op = "fositeconsent: check the codes' storage: %w"
	err := andBack(ctx, tx, func(ctx context.Context) error {
		if err := codes.CreateAuthorizeCodeSession(ctx, signature, request); err != nil {
			return err
		}
		_, err := codes.GetAuthorizeCodeSession(ctx, signature, session.Clone())
		return err
	})
	if err != nil {
		return fmt.Errorf(op, err)
	}
	switch _, err := codes.GetAuthorizeCodeSession(ctx, signature, session.Clone()); {
	case errors.Is(err, fosite.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf(op, err)
	}
	return fmt.Errorf("%w: the code that %T stored outlived its rollback: its statements have to run in the transaction that BeginTX puts into the context", ErrNotAtomic, codes)
}

// andBack does something in a transaction and rolls it back.
func andBack(ctx context.Context, tx transactional, do func(context.Context) error) error {
	inner, err := tx.BeginTX(ctx)
	if err != nil {
		return err
	}
	err = do(inner)
	return errors.Join(err, tx.Rollback(context.WithoutCancel(inner)))
}

// errHidden says what to do about transactions that Go has hidden.
func errHidden(storage any, hidden []string) error {
	return fmt.Errorf("%w: the storage %T has no BeginTX although %s, embedded in it, has: Go leaves out a method that two embedded types have. Write BeginTX, Commit and Rollback on %T that call those of the one that keeps the codes",
		ErrMisconfigured, storage, strings.Join(hidden, " and "), storage)
}
