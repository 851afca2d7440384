package consenttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

type (
	revokeFunc  = func(context.Context, fositeconsent.Ended) error
	revokesFunc = func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error)
	recordFunc  = func(s *Storage, ctx context.Context, r *fositeconsent.Response) error
	findFunc    = func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error)
	listFunc    = func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error)
	checkFunc   = func(s *Storage, ctx context.Context, requestID string) error
	consumeFunc = func(s *Storage, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error)
	createFunc  = func(s *Storage, ctx context.Context, g *fositeconsent.Grant) error
)

// consentFlaw is one way to break the contract of consents. Its hooks stand in for the
// methods of [Storage]; nil ones are as they should be.
type consentFlaw struct {
	name     string
	caughtBy string

	stored, returned func(*fositeconsent.Consent) // change content
	clock            func(explicit func() time.Time) func() time.Time

	find    findFunc
	record  recordFunc
	check   checkFunc
	list    listFunc
	revoke  revokesFunc
	consume consumeFunc
	create  createFunc

	// What is left of it when its backend is gone.
	broken consentStorage
}

func (f consentFlaw) newStorage(_ testing.TB, o Options) consentStorage {
	if o.Broken {
		if f.broken != nil {
			return f.broken
		}
		return unreachable{}
	}
	if f.clock != nil {
		o.Now = f.clock(o.Now)
	}
	return &flawedConsents{Storage: NewStorage(o.Now), flaw: f}
}

// flawedConsents keeps the contract as far as its flaw lets it.
type flawedConsents struct {
	*Storage
	flaw consentFlaw
}

func (f *flawedConsents) give(list []fositeconsent.Consent, err error) ([]fositeconsent.Consent, error) {
	if f.flaw.returned != nil {
		for i := range list {
			f.flaw.returned(&list[i])
		}
	}
	return list, err
}

func (f *flawedConsents) FindConsents(ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
	if f.flaw.find != nil {
		return f.flaw.find(f.Storage, ctx, issuer, subject, clientID)
	}
	return f.give(f.Storage.FindConsents(ctx, issuer, subject, clientID))
}

func (f *flawedConsents) RecordResponse(ctx context.Context, r *fositeconsent.Response) error {
	if f.flaw.stored != nil && r.Approval != nil {
		c := cloneConsent(r.Approval)
		f.flaw.stored(&c)
		r = &fositeconsent.Response{RequestID: r.RequestID, Approval: &c, ConsentIDs: r.ConsentIDs}
	}
	if f.flaw.record != nil {
		return f.flaw.record(f.Storage, ctx, r)
	}
	return f.Storage.RecordResponse(ctx, r)
}

func (f *flawedConsents) CheckResponse(ctx context.Context, requestID string) error {
	if f.flaw.check != nil {
		return f.flaw.check(f.Storage, ctx, requestID)
	}
	return f.Storage.CheckResponse(ctx, requestID)
}

func (f *flawedConsents) ListConsents(ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
	if f.flaw.list != nil {
		return f.flaw.list(f.Storage, ctx, selection, before, limit)
	}
	return f.give(f.Storage.ListConsents(ctx, selection, before, limit))
}

func (f *flawedConsents) RevokeConsents(ctx context.Context, selection fositeconsent.Selection, revoke func(context.Context, fositeconsent.Ended) error) (int, error) {
	if f.flaw.revoke != nil {
		return f.flaw.revoke(f.Storage, ctx, selection, revoke)
	}
	return f.Storage.RevokeConsents(ctx, selection, revoke)
}

func (f *flawedConsents) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	if f.flaw.consume != nil {
		return f.flaw.consume(f.Storage, ctx, p)
	}
	return f.Storage.ConsumeConsentGrant(ctx, p)
}

func (f *flawedConsents) CreateConsentGrant(ctx context.Context, g *fositeconsent.Grant) error {
	if f.flaw.create != nil {
		return f.flaw.create(f.Storage, ctx, g)
	}
	return f.Storage.CreateConsentGrant(ctx, g)
}

// with does something under the lock.
func with(s *Storage, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// matching returns live consents that are wanted, the newest first.
func matching(ctx context.Context, s *Storage, wanted func(*consent) bool) (found []fositeconsent.Consent, err error) {
	with(s, func() {
		if err = ctx.Err(); err == nil {
			found = s.page(wanted)
		}
	})
	return found, err
}

// findBy finds what is wanted instead of what is asked for.
func findBy(wanted func(c *consent, issuer, subject, clientID string) bool) findFunc {
	return func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
		return matching(ctx, s, func(c *consent) bool { return wanted(c, issuer, subject, clientID) })
	}
}

// widened asks for something else than was selected.
func widened(change func(*fositeconsent.Selection)) listFunc {
	return func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
		change(&selection)
		return s.ListConsents(ctx, selection, before, limit)
	}
}

// revokesWidened revokes something else than was selected.
func revokesWidened(change func(*fositeconsent.Selection)) revokesFunc {
	return func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
		change(&selection)
		return s.RevokeConsents(ctx, selection, revoke)
	}
}

// consentOddities keep the contract.
var consentOddities = []consentFlaw{
	{name: "no flaw of consents at all"},
	{
		name: "every error about consents is wrapped",
		record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if err := s.RecordResponse(ctx, r); err != nil {
				return fmt.Errorf("recording: %w", err)
			}
			return nil
		},
		check: func(s *Storage, ctx context.Context, requestID string) error {
			if err := s.CheckResponse(ctx, requestID); err != nil {
				return fmt.Errorf("checking: %w", err)
			}
			return nil
		},
		revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			n, err := s.RevokeConsents(ctx, selection, revoke)
			if err != nil {
				return n, fmt.Errorf("revoking: %w", err)
			}
			return n, nil
		},
	},
	{
		name: "text of consents that is well-formed only, and no lifespan below a millisecond",
		record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			text := r.RequestID
			if c := r.Approval; c != nil {
				text = strings.Join([]string{text, c.Issuer, c.Subject, c.ClientID, c.LoginSession, fmt.Sprint(c.Scopes, c.RememberedScopes, c.Audience, c.ResponseTypes, c.Details)}, "")
				if c.Lifespan > 0 && c.Lifespan < time.Millisecond {
					return errInvalid
				}
			}
			if strings.ToValidUTF8(text, "") != text || strings.Contains(text, "\x00") {
				return errInvalid
			}
			return s.RecordResponse(ctx, r)
		},
	},
	{
		name: "responses that are handed over one by one, and twice",
		revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			return s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				for i := range ended.Consents {
					if err := revoke(ctx, fositeconsent.Ended{Consents: ended.Consents[i : i+1]}); err != nil {
						return err
					}
				}
				for _, id := range append(slices.Clone(ended.RequestIDs), ended.RequestIDs...) {
					if err := revoke(ctx, fositeconsent.Ended{RequestIDs: []string{id}}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	},
	{name: "a clock of whole milliseconds for consents", clock: func(explicit func() time.Time) func() time.Time {
		if explicit == nil {
			explicit = time.Now
		}
		return func() time.Time { return explicit().UTC().Truncate(time.Millisecond) }
	}},
}

var consentFlaws = slices.Concat(recordFlaws, findFlaws, revokeFlaws, consentFailureFlaws)

var recordFlaws = func() []consentFlaw {
	const (
		content  = "a consent is returned as it was recorded"
		empty    = "nil and empty lists and data of a consent are the same"
		text     = "text of a consent is kept exactly or refused"
		dated    = "a consent is dated by the explicit clock"
		ownClock = "a consent is dated by the storage's own clock"
		end      = "a consent expires at the end of its lifespan and not before"
		invalid  = "an incomplete response is refused and nothing is recorded"
		repeated = "a repeated response succeeds and changes nothing"
		once     = "an approval is recorded for one response"
		live     = "a response rests on live consents only"
		callers  = "the caller's response is neither kept nor modified"
		returned = "a returned consent is the caller's to modify"
	)
	// filled records what is invalid as if it were not.
	filled := func(fill func(r *fositeconsent.Response, c *fositeconsent.Consent)) recordFunc {
		return func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			mine := *r
			var c fositeconsent.Consent
			if r.Approval != nil {
				c = cloneConsent(r.Approval)
				mine.Approval = &c
			}
			fill(&mine, &c)
			return s.RecordResponse(ctx, &mine)
		}
	}
	// onlyThose rests a response on those of its consents that are as they should be.
	onlyThose := func(good func(*consent) bool) recordFunc {
		return func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			mine := *r
			if r.Approval == nil {
				mine.ConsentIDs = nil
				with(s, func() {
					for _, id := range r.ConsentIDs {
						if good(s.consents[id]) {
							mine.ConsentIDs = append(mine.ConsentIDs, id)
						}
					}
				})
				if len(mine.ConsentIDs) == 0 {
					return fositeconsent.ErrConsentRevoked
				}
			}
			return s.RecordResponse(ctx, &mine)
		}
	}
	return []consentFlaw{
		{name: "remembered scopes are not kept", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.RememberedScopes = nil }},
		{name: "all scopes are remembered", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.RememberedScopes = slices.Clone(c.Scopes) }},
		{name: "scopes of a consent are sorted", caughtBy: content, stored: func(c *fositeconsent.Consent) { slices.Sort(c.Scopes) }},
		{name: "details of a consent are joined by commas", caughtBy: content, stored: func(c *fositeconsent.Consent) {
			c.Details = strings.Split(strings.Join(c.Details, ","), ",")
		}},
		{name: "a repeated response type is dropped", caughtBy: content, stored: func(c *fositeconsent.Consent) {
			slices.Sort(c.ResponseTypes)
			c.ResponseTypes = slices.Compact(c.ResponseTypes)
		}},
		{name: "the audience of a consent is forgotten", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.Audience = nil }},
		{name: "the login of a consent is forgotten", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.LoginSession = "" }},
		{name: "what the page showed is forgotten", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.Shown = fositeconsent.Digest{} }},
		{name: "data of a consent is text", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.Data = bytes.ToValidUTF8(c.Data, []byte("?")) }},
		{name: "every consent is remembered", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.Remembered = true }},
		{name: "every consent lasts for ever", caughtBy: content, stored: func(c *fositeconsent.Consent) { c.Lifespan = 0 }},
		{name: "the lifespan of a consent is returned", caughtBy: content, returned: func(c *fositeconsent.Consent) { c.Lifespan = time.Hour }},
		{name: "a long detail is cut off", caughtBy: content, stored: func(c *fositeconsent.Consent) {
			for i, detail := range c.Details {
				c.Details[i] = detail[:min(255, len(detail))]
			}
		}},
		{name: "no scopes of a consent come back as one", caughtBy: empty, stored: func(c *fositeconsent.Consent) {
			c.Scopes = strings.Split(strings.Join(c.Scopes, "\x00"), "\x00")
		}},
		{name: "text of a consent ends at a zero byte", caughtBy: text, stored: func(c *fositeconsent.Consent) { c.LoginSession, _, _ = strings.Cut(c.LoginSession, "\x00") }},
		{name: "malformed text of a consent is replaced", caughtBy: text, stored: func(c *fositeconsent.Consent) {
			for i, detail := range c.Details {
				c.Details[i] = strings.ToValidUTF8(detail, "\ufffd")
			}
		}},
		{name: "malformed RequestIDs are replaced", caughtBy: text, record: filled(func(r *fositeconsent.Response, _ *fositeconsent.Consent) {
			r.RequestID = strings.ToValidUTF8(r.RequestID, "\ufffd")
		})},
		{name: "a consent is dated by its caller", caughtBy: dated, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			if err == nil && r.Approval != nil && !r.Approval.DecidedAt.IsZero() {
				with(s, func() { s.consents[r.Approval.ID].DecidedAt = r.Approval.DecidedAt })
			}
			return err
		}},
		{name: "a silent response is no use of a consent", caughtBy: dated, returned: func(c *fositeconsent.Consent) { c.LastUsedAt = c.DecidedAt }},
		{name: "a repeated response is another use", caughtBy: dated, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			with(s, func() {
				for _, id := range r.ConsentIDs {
					if c := s.consents[id]; c != nil && err == nil {
						c.LastUsedAt = s.now()
					}
				}
			})
			return err
		}},
		{name: "the clock of consents is another one", caughtBy: ownClock, clock: func(explicit func() time.Time) func() time.Time {
			if explicit == nil {
				return func() time.Time { return time.Now().Add(-time.Hour) }
			}
			return explicit
		}},
		{name: "a consent is good at its very end", caughtBy: end, stored: func(c *fositeconsent.Consent) {
			if c.Lifespan > 0 {
				c.Lifespan++
			}
		}},
		{name: "a consent expires a little early", caughtBy: end, stored: func(c *fositeconsent.Consent) {
			if c.Lifespan > time.Millisecond {
				c.Lifespan -= time.Millisecond
			}
		}},
		{name: "a very short consent lasts for ever", caughtBy: end, stored: func(c *fositeconsent.Consent) { c.Lifespan = c.Lifespan.Truncate(time.Millisecond) }},
		{name: "an expired consent can be rested on", caughtBy: end, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if err := s.RecordResponse(ctx, r); !errors.Is(err, fositeconsent.ErrConsentExpired) {
				return err
			}
			return nil
		}},
		{name: "an expired consent is good for what was issued before", caughtBy: end, check: func(s *Storage, ctx context.Context, requestID string) error {
			if err := s.CheckResponse(ctx, requestID); !errors.Is(err, fositeconsent.ErrConsentExpired) {
				return err
			}
			return nil
		}},
		{name: "a response may lack a RequestID", caughtBy: invalid, record: filled(func(r *fositeconsent.Response, _ *fositeconsent.Consent) {
			r.RequestID = cmpText(r.RequestID, "unknown")
		})},
		{name: "an approval may lack an ID", caughtBy: invalid, record: filled(func(_ *fositeconsent.Response, c *fositeconsent.Consent) {
			if c.ID.IsZero() {
				c.ID = newID()
			}
		})},
		{name: "an approval may lack an issuer", caughtBy: invalid, record: filled(func(_ *fositeconsent.Response, c *fositeconsent.Consent) { c.Issuer = cmpText(c.Issuer, "issuer") })},
		{name: "an approval may lack a subject", caughtBy: invalid, record: filled(func(_ *fositeconsent.Response, c *fositeconsent.Consent) { c.Subject = cmpText(c.Subject, "subject") })},
		{name: "an approval may lack a client", caughtBy: invalid, record: filled(func(_ *fositeconsent.Response, c *fositeconsent.Consent) { c.ClientID = cmpText(c.ClientID, "client") })},
		{name: "a negative lifespan is none", caughtBy: invalid, record: filled(func(_ *fositeconsent.Response, c *fositeconsent.Consent) { c.Lifespan = max(0, c.Lifespan) })},
		{name: "a response may rest on nothing", caughtBy: invalid, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if r.Approval == nil && len(r.ConsentIDs) == 0 {
				return nil
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "an approval may have other consents", caughtBy: invalid, record: filled(func(r *fositeconsent.Response, _ *fositeconsent.Consent) {
			if r.Approval != nil {
				r.ConsentIDs = nil
			}
		})},
		{name: "a repeated response is refused", caughtBy: repeated, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			known := false
			with(s, func() { known = r.Approval != nil && s.consents[r.Approval.ID] != nil })
			if known {
				return errInvalid
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "a repeated response begins a consent's lifespan anew", caughtBy: repeated, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			with(s, func() {
				if r.Approval != nil && r.Approval.Lifespan > 0 && err == nil {
					s.consents[r.Approval.ID].ExpiresAt = s.now().Add(r.Approval.Lifespan)
				}
			})
			return err
		}},
		{name: "a repeated response of what is revoked succeeds", caughtBy: repeated, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			known := false
			with(s, func() {
				for _, c := range s.consents {
					known = known || slices.Contains(c.requestIDs, r.RequestID)
				}
			})
			if known && errors.Is(err, fositeconsent.ErrConsentRevoked) {
				return nil
			}
			return err
		}},
		{name: "an approval is good for every response", caughtBy: once, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			known := false
			with(s, func() { known = r.Approval != nil && s.consents[r.Approval.ID] != nil })
			if known {
				return s.RecordResponse(ctx, &fositeconsent.Response{RequestID: r.RequestID, ConsentIDs: []fositeconsent.ID{r.Approval.ID}})
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "the last approval counts", caughtBy: once, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if r.Approval != nil {
				with(s, func() { delete(s.consents, r.Approval.ID) })
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "unknown consents are not looked for", caughtBy: live, record: onlyThose(func(c *consent) bool { return c != nil })},
		{name: "one live consent is enough to rest on", caughtBy: live, record: onlyThose(func(c *consent) bool { return c != nil && !c.revoked && c.ExpiresAt.IsZero() })},
		{name: "a refused response is recorded with what is live", caughtBy: live, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			if err != nil {
				with(s, func() {
					for _, id := range r.ConsentIDs {
						if c := s.consents[id]; c != nil {
							c.rests(r.RequestID, c.LastUsedAt)
						}
					}
				})
			}
			return err
		}},
		{name: "a revoked consent can be rested on", caughtBy: live, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if err := s.RecordResponse(ctx, r); !errors.Is(err, fositeconsent.ErrConsentRevoked) {
				return err
			}
			return nil
		}},
		{name: "the caller's approval is kept", caughtBy: callers, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			if r.Approval != nil && err == nil {
				with(s, func() { s.consents[r.Approval.ID].Details = r.Approval.Details })
			}
			return err
		}},
		{name: "the caller's approval is dated", caughtBy: callers, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if r.Approval != nil {
				r.Approval.DecidedAt = s.now()
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "the caller's consents are sorted", caughtBy: callers, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			slices.SortFunc(r.ConsentIDs, func(a, b fositeconsent.ID) int { return bytes.Compare(a[:], b[:]) })
			r.ConsentIDs = slices.Compact(r.ConsentIDs)
			return s.RecordResponse(ctx, r)
		}},
		{name: "something is written behind the caller's audience", caughtBy: callers, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if r.Approval != nil {
				_ = append(r.Approval.Audience, "scratch")
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "the storage's own consents are returned", caughtBy: returned, find: func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
			found, err := s.FindConsents(ctx, issuer, subject, clientID)
			with(s, func() {
				for i := range found {
					found[i].Scopes = s.consents[found[i].ID].Scopes
				}
			})
			return found, err
		}},
		{name: "the storage's own data of a consent is listed", caughtBy: returned, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			found, err := s.ListConsents(ctx, selection, before, limit)
			with(s, func() {
				for i := range found {
					found[i].Data = s.consents[found[i].ID].Data
				}
			})
			return found, err
		}},
	}
}()

func cmpText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

var findFlaws = func() []consentFlaw {
	const (
		exactly   = "a remembered consent is found for its issuer, subject and client alone"
		newest    = "the newest remembered consents are found first"
		unknown   = "of a response that was never recorded nothing is known"
		each      = "a response is as good as each of its consents"
		selection = "consents are listed by what is selected"
		pages     = "consents are listed in pages that others do not move"
		everybody = "a selection that could mean everybody is refused"
	)
	// reasonOf combines the reasons of a response's consents, by their IDs.
	reasonOf := func(combine func([]error) error) checkFunc {
		return func(s *Storage, ctx context.Context, requestID string) error {
			if err := s.await(ctx); err != nil {
				return err
			}
			defer s.done()
			var reasons []error
			with(s, func() {
				var rests []*consent
				for _, c := range s.consents {
					if slices.Contains(c.requestIDs, requestID) {
						rests = append(rests, c)
					}
				}
				slices.SortFunc(rests, func(a, b *consent) int { return bytes.Compare(a.ID[:], b.ID[:]) })
				for _, c := range rests {
					reasons = append(reasons, dead(c, s.now()))
				}
			})
			if len(reasons) == 0 {
				return nil
			}
			return combine(reasons)
		}
	}
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	remembered := func(wanted func(c *consent, issuer, subject, clientID string) bool) findFunc {
		return findBy(func(c *consent, issuer, subject, clientID string) bool {
			return c.Remembered && wanted(c, issuer, subject, clientID)
		})
	}
	return []consentFlaw{
		{name: "what is not remembered is found", caughtBy: exactly, find: findBy(func(c *consent, i, s, cl string) bool {
			return c.Issuer == i && c.Subject == s && c.ClientID == cl
		})},
		{name: "a consent is found for every issuer", caughtBy: exactly, find: remembered(func(c *consent, _, s, cl string) bool { return c.Subject == s && c.ClientID == cl })},
		{name: "a consent is found for every client", caughtBy: exactly, find: remembered(func(c *consent, i, s, _ string) bool { return c.Issuer == i && c.Subject == s })},
		{name: "a consent is found for every subject", caughtBy: exactly, find: remembered(func(c *consent, i, _, cl string) bool { return c.Issuer == i && c.ClientID == cl })},
		{name: "no subject is every subject", caughtBy: exactly, find: remembered(func(c *consent, i, s, cl string) bool {
			return c.Issuer == i && (s == "" || c.Subject == s) && c.ClientID == cl
		})},
		{name: "subjects are compared without regard to case", caughtBy: exactly, find: remembered(func(c *consent, i, s, cl string) bool {
			return c.Issuer == i && strings.EqualFold(c.Subject, s) && c.ClientID == cl
		})},
		{name: "clients are compared without regard to spaces", caughtBy: exactly, find: remembered(func(c *consent, i, s, cl string) bool {
			return c.Issuer == i && c.Subject == s && c.ClientID == strings.TrimRight(cl, " ")
		})},
		{name: "clients are compared by a pattern", caughtBy: exactly, find: remembered(func(c *consent, i, s, cl string) bool {
			return c.Issuer == i && c.Subject == s && (c.ClientID == cl || cl == "%" || strings.HasPrefix(cl, "%") && strings.HasSuffix(c.ClientID, cl[1:]))
		})},
		{name: "the oldest consent is found first", caughtBy: newest, find: func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
			found, err := s.FindConsents(ctx, issuer, subject, clientID)
			slices.Reverse(found)
			return found, err
		}},
		{name: "only the newest consent is found", caughtBy: newest, find: func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
			found, err := s.FindConsents(ctx, issuer, subject, clientID)
			return found[:min(1, len(found))], err
		}},
		{name: "what is revoked is found", caughtBy: newest, find: func(s *Storage, ctx context.Context, issuer, subject, clientID string) (found []fositeconsent.Consent, err error) {
			with(s, func() {
				for _, c := range s.consents {
					if c.Issuer == issuer && c.Subject == subject && c.ClientID == clientID {
						found = append(found, cloneConsent(&c.Consent))
					}
				}
			})
			slices.SortFunc(found, func(a, b fositeconsent.Consent) int { return bytes.Compare(b.ID[:], a.ID[:]) })
			return found, ctx.Err()
		}},
		{name: "an unknown response is revoked", caughtBy: unknown, check: func(s *Storage, ctx context.Context, requestID string) error {
			known := false
			with(s, func() {
				for _, c := range s.consents {
					known = known || slices.Contains(c.requestIDs, requestID)
				}
			})
			if !known {
				return fositeconsent.ErrConsentRevoked
			}
			return s.CheckResponse(ctx, requestID)
		}},
		{name: "an unknown response is an error", caughtBy: unknown, check: func(s *Storage, ctx context.Context, requestID string) error {
			if requestID == "" {
				return errInvalid
			}
			return s.CheckResponse(ctx, requestID)
		}},
		{name: "responses are compared without regard to spaces", caughtBy: unknown, check: func(s *Storage, ctx context.Context, requestID string) error {
			return s.CheckResponse(ctx, strings.TrimSpace(requestID))
		}},
		{name: "a response is as good as the best of its consents", caughtBy: each, check: reasonOf(func(reasons []error) error {
			if slices.Contains(reasons, nil) {
				return nil
			}
			return reasons[0]
		})},
		{name: "a response is as good as the first of its consents", caughtBy: each, check: reasonOf(func(reasons []error) error { return reasons[0] })},
		{name: "expired comes before revoked", caughtBy: each, check: reasonOf(func(reasons []error) error {
			if slices.ContainsFunc(reasons, is(fositeconsent.ErrConsentExpired)) {
				return fositeconsent.ErrConsentExpired
			}
			return errors.Join(reasons...)
		})},
		{name: "a consent that has expired is not revoked", caughtBy: each, check: func(s *Storage, ctx context.Context, requestID string) error {
			err := s.CheckResponse(ctx, requestID)
			with(s, func() {
				for _, c := range s.consents {
					if err != nil && slices.Contains(c.requestIDs, requestID) && !c.ExpiresAt.IsZero() && !s.now().Before(c.ExpiresAt) {
						err = fositeconsent.ErrConsentExpired
					}
				}
			})
			return err
		}},
		{name: "the list ignores the login", caughtBy: selection, list: widened(func(s *fositeconsent.Selection) { s.LoginSession = "" })},
		{name: "the list ignores the ID", caughtBy: selection, list: widened(func(s *fositeconsent.Selection) { s.ConsentID = fositeconsent.ID{} })},
		{name: "the list ignores the client where there is a subject", caughtBy: selection, list: widened(func(s *fositeconsent.Selection) {
			if s.Subject != "" {
				s.ClientID = ""
			}
		})},
		{name: "an ID is enough for the list", caughtBy: selection, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			if selection.ConsentID.IsZero() {
				return s.ListConsents(ctx, selection, before, limit)
			}
			return matching(ctx, s, func(c *consent) bool { return c.ID == selection.ConsentID })
		}},
		{name: "the list ignores the issuer", caughtBy: selection, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			return matching(ctx, s, func(c *consent) bool {
				of := selection
				of.Issuer = c.Issuer
				return selected(of, c)
			})
		}},
		{name: "only what is remembered is listed", caughtBy: selection, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			list, err := s.ListConsents(ctx, selection, before, limit)
			return slices.DeleteFunc(list, func(c fositeconsent.Consent) bool { return !c.Remembered }), err
		}},
		{name: "pages are counted from the first", caughtBy: pages, list: func() listFunc {
			var mu sync.Mutex
			passed := make(map[fositeconsent.Selection]int)
			return func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
				all, err := matching(ctx, s, func(c *consent) bool { return selected(selection, c) })
				mu.Lock()
				defer mu.Unlock()
				if before.IsZero() {
					passed[selection] = 0
				}
				page := all[min(passed[selection], len(all)):]
				page = page[:min(limit, len(page))]
				passed[selection] += len(page)
				return page, err
			}
		}()},
		{name: "a page begins with the last one of the page before", caughtBy: pages, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			all, err := matching(ctx, s, func(c *consent) bool {
				return selected(selection, c) && (before.IsZero() || bytes.Compare(c.ID[:], before[:]) <= 0)
			})
			return all[:min(limit, len(all))], err
		}},
		{name: "a page has one too many", caughtBy: pages, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			return s.ListConsents(ctx, selection, before, limit+1)
		}},
		{name: "consents are listed as they were used last", caughtBy: pages, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			all, err := s.ListConsents(ctx, selection, before, limit)
			slices.SortFunc(all, func(a, b fositeconsent.Consent) int { return b.LastUsedAt.Compare(a.LastUsedAt) })
			return all, err
		}},
		{name: "everybody's consents can be listed", caughtBy: everybody, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, _ fositeconsent.ID, _ int) ([]fositeconsent.Consent, error) {
			return matching(ctx, s, func(c *consent) bool { return selected(selection, c) })
		}},
		{name: "no limit is no end", caughtBy: everybody, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			if limit == 0 {
				limit = 1 << 30
			}
			return s.ListConsents(ctx, selection, before, limit)
		}},
		{name: "everybody's consents can be revoked", caughtBy: everybody, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			if checkSelection(selection) == nil {
				return s.RevokeConsents(ctx, selection, revoke)
			}
			n := 0
			with(s, func() {
				for _, c := range s.consents {
					if selected(selection, c) {
						c.revoked, n = true, n+1
					}
				}
			})
			return n, nil
		}},
		{name: "a revocation of nothing succeeds", caughtBy: everybody, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			if checkSelection(selection) != nil {
				return 0, nil
			}
			return s.RevokeConsents(ctx, selection, revoke)
		}},
	}
}()

var revokeFlaws = func() []consentFlaw {
	const (
		selection   = "a revocation ends what is selected and nothing else"
		grants      = "a revocation ends the grants that nobody has consumed"
		first       = "a revoked grant is refused for the first of several reasons"
		before      = "a response of a grant that was consumed before a revocation is refused after it"
		fails       = "a revocation that fails has no effect and can be repeated"
		bounded     = "a revocation hands over a bounded number of responses"
		forEver     = "what is revoked stays revoked and is not revoked again"
		expired     = "an expired consent is revoked too"
		waits       = "nothing is recorded or found to be good while a revocation is under way"
		responses   = "of responses that race a revocation none outlives it"
		grantsRace  = "of grants that race a revocation none leads to a response"
		revocations = "of many revocations one ends each consent"
	)
	// step by step: what is ended, whose responses are handed over, and which grants are.
	type parts struct {
		ends  func(selection fositeconsent.Selection, c *consent) bool
		hands func(c *consent) []string
		// consents are handed over instead of those that were ended.
		consents func(ended []*consent) []*consent
		grants   func(selection fositeconsent.Selection, r *record) bool
		// marksFirst: before revoke is called, and whatever that says.
		marksFirst bool
		// apart: others may come between the look and the mark.
		apart bool
	}
	revokeBy := func(p parts) revokesFunc {
		return func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			if err := checkSelection(selection); err != nil {
				return 0, err
			}
			if err := s.await(ctx); err != nil {
				return 0, err
			}
			if p.apart {
				s.done()
			} else {
				defer s.done()
			}
			if err := interrupted(ctx); err != nil {
				return 0, err
			}
			var ended []*consent
			var handed fositeconsent.Ended
			var requestIDs []string
			mark := func() {
				for _, c := range ended {
					c.revoked = true
				}
				for id, r := range s.grants {
					ends := s.consents[id] == nil && selectedGrant(selection, &r.grant)
					if p.grants != nil {
						ends = p.grants(selection, r)
					}
					r.revoked = r.revoked || ends
				}
			}
			with(s, func() {
				for _, c := range s.consents {
					ends := !c.revoked && selected(selection, c)
					if p.ends != nil {
						ends = p.ends(selection, c)
					}
					if !ends {
						continue
					}
					ended = append(ended, c)
					if p.hands != nil {
						requestIDs = append(requestIDs, p.hands(c)...)
					} else {
						requestIDs = append(requestIDs, c.requestIDs...)
					}
				}
				over := ended
				if p.consents != nil {
					over = p.consents(ended)
				}
				handed = hand(over)
				if p.marksFirst {
					mark()
				}
			})
			for ; len(handed.Consents)+len(requestIDs) > 0; handed = (fositeconsent.Ended{}) {
				n := min(len(requestIDs), revokedAtOnce)
				handed.RequestIDs, requestIDs = requestIDs[:n], requestIDs[n:]
				if err := revoke(ctx, handed); err != nil {
					return 0, err
				}
			}
			if p.apart {
				pause()
			}
			if !p.marksFirst {
				with(s, mark)
			}
			return len(ended), nil
		}
	}
	// unwaiting are calls that do not wait for a revocation under way.
	unwaiting := func(s *Storage) *Storage {
		return &Storage{now: s.now, turn: make(chan struct{}, 1), grants: s.grants, consents: s.consents}
	}
	// consumeBy looks at a revoked grant before it does what it should.
	consumeBy := func(refuse func(s *Storage, r *record, p fositeconsent.Presentation) error) consumeFunc {
		return func(s *Storage, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			var err error
			with(s, func() {
				if r := s.grants[p.ID]; r != nil && r.revoked {
					err = refuse(s, r, p)
				}
			})
			if err != nil {
				return nil, err
			}
			return s.ConsumeConsentGrant(ctx, p)
		}
	}
	return []consentFlaw{
		{name: "a revocation ignores the client", caughtBy: selection, revoke: revokesWidened(func(s *fositeconsent.Selection) {
			if s.Subject != "" {
				s.ClientID = ""
			}
		})},
		{name: "a revocation ignores the subject", caughtBy: selection, revoke: revokesWidened(func(s *fositeconsent.Selection) {
			if s.ClientID != "" {
				s.Subject = ""
			}
		})},
		{name: "a revocation ignores the login", caughtBy: selection, revoke: revokesWidened(func(s *fositeconsent.Selection) { s.LoginSession = "" })},
		{name: "a revocation ignores the ID", caughtBy: selection, revoke: revokesWidened(func(s *fositeconsent.Selection) { s.ConsentID = fositeconsent.ID{} })},
		{name: "an ID is enough for a revocation", caughtBy: selection, revoke: revokeBy(parts{ends: func(s fositeconsent.Selection, c *consent) bool {
			return !c.revoked && (selected(s, c) || c.ID == s.ConsentID)
		}})},
		{name: "a revocation ignores the issuer", caughtBy: selection, revoke: revokeBy(parts{ends: func(s fositeconsent.Selection, c *consent) bool {
			s.Issuer = c.Issuer
			return !c.revoked && selected(s, c)
		}})},
		{name: "what is not remembered is not revoked", caughtBy: selection, revoke: revokeBy(parts{ends: func(s fositeconsent.Selection, c *consent) bool {
			return !c.revoked && c.Remembered && selected(s, c)
		}})},
		{name: "silent responses are not handed over", caughtBy: selection, revoke: revokeBy(parts{hands: func(c *consent) []string { return c.requestIDs[:1] }})},
		{name: "nothing is handed over", caughtBy: selection, revoke: revokeBy(parts{hands: func(*consent) []string { return nil }})},
		{name: "something else is handed over, too", caughtBy: selection, revoke: revokeBy(parts{hands: func(c *consent) []string { return append(slices.Clone(c.requestIDs), "more") }})},
		{name: "no consents are handed over", caughtBy: selection, revoke: revokeBy(parts{consents: func([]*consent) []*consent { return nil }})},
		{name: "consents are handed over twice", caughtBy: selection, revoke: revokeBy(parts{consents: func(ended []*consent) []*consent {
			return slices.Concat(ended, ended)
		}})},
		{name: "one consent is handed over for all", caughtBy: selection, revoke: revokeBy(parts{consents: func(ended []*consent) []*consent {
			return slices.Repeat(ended[:min(1, len(ended))], len(ended))
		}})},
		{name: "other consents are handed over", caughtBy: selection, revoke: revokeBy(parts{consents: func(ended []*consent) []*consent {
			var others []*consent
			for _, c := range ended {
				other := *c
				other.ID = newID()
				others = append(others, &other)
			}
			return others
		}})},
		{name: "consents are handed over without what was granted", caughtBy: selection, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			return s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				for i := range ended.Consents {
					ended.Consents[i].Scopes = nil
				}
				return revoke(ctx, ended)
			})
		}},
		{name: "consents are handed over again with every call", caughtBy: bounded, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			var first fositeconsent.Ended
			return s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				if len(ended.Consents) > 0 {
					first = ended
				}
				ended.Consents = first.Consents
				return revoke(ctx, ended)
			})
		}},
		{name: "a revocation hands over and ends nothing", caughtBy: selection, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (n int, err error) {
			nothing := errors.New("nothing")
			_, err = s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				n++
				return cmp(revoke(ctx, ended), nothing)
			})
			if errors.Is(err, nothing) {
				err = nil
			}
			return n, err
		}},
		{name: "a revocation counts responses", caughtBy: selection, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (n int, err error) {
			_, err = s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				n += len(ended.RequestIDs)
				return revoke(ctx, ended)
			})
			return n, err
		}},
		{name: "grants are not revoked", caughtBy: grants, revoke: revokeBy(parts{grants: func(fositeconsent.Selection, *record) bool { return false }})},
		{name: "grants are revoked by subject alone", caughtBy: grants, revoke: revokeBy(parts{grants: func(s fositeconsent.Selection, r *record) bool { return r.grant.Subject == s.Subject }})},
		{name: "grants are not revoked by an ID", caughtBy: grants, revoke: revokeBy(parts{grants: func(s fositeconsent.Selection, r *record) bool {
			return s.ConsentID.IsZero() && selectedGrant(s, &r.grant)
		}})},
		{name: "every grant of the people is revoked with one ID", caughtBy: grants, revoke: revokeBy(parts{grants: func(s fositeconsent.Selection, r *record) bool {
			s.ConsentID = fositeconsent.ID{}
			return selectedGrant(s, &r.grant)
		}})},
		{name: "a login leaves grants as they are", caughtBy: grants, revoke: revokeBy(parts{grants: func(s fositeconsent.Selection, r *record) bool {
			return s.LoginSession == "" && selectedGrant(s, &r.grant)
		}})},
		{name: "a revoked grant is deleted", caughtBy: grants, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			n, err := s.RevokeConsents(ctx, selection, revoke)
			with(s, func() {
				for id, r := range s.grants {
					if r.revoked {
						delete(s.grants, id)
					}
				}
			})
			return n, err
		}},
		{name: "a denial is revoked", caughtBy: grants, consume: consumeBy(func(_ *Storage, r *record, _ fositeconsent.Presentation) error {
			if r.grant.Denied {
				return fositeconsent.ErrGrantRevoked
			}
			return nil
		})},
		{name: "a consumed grant is revoked", caughtBy: grants, consume: consumeBy(func(_ *Storage, r *record, _ fositeconsent.Presentation) error {
			if r.spentBy != (fositeconsent.Attempt{}) {
				return fositeconsent.ErrGrantRevoked
			}
			return nil
		})},
		{name: "a retried mint gives a revoked grant back", caughtBy: grants, create: func(s *Storage, ctx context.Context, g *fositeconsent.Grant) error {
			err := s.CreateConsentGrant(ctx, g)
			with(s, func() {
				if r := s.grants[g.ID]; r != nil && err == nil {
					r.revoked = false
				}
			})
			return err
		}},
		{name: "a revocation is for the future, too", caughtBy: grants, create: func(s *Storage, ctx context.Context, g *fositeconsent.Grant) error {
			err := s.CreateConsentGrant(ctx, g)
			with(s, func() {
				for _, r := range s.grants {
					if err == nil && r.revoked && r.grant.Subject == g.Subject {
						s.grants[g.ID].revoked = true
					}
				}
			})
			return err
		}},
		{name: "revoked comes before mismatch", caughtBy: first, consume: consumeBy(func(_ *Storage, r *record, p fositeconsent.Presentation) error {
			if r.grant.SecretHash == p.SecretHash {
				return fositeconsent.ErrGrantRevoked
			}
			return nil
		})},
		{name: "revoked comes before not found", caughtBy: first, consume: consumeBy(func(*Storage, *record, fositeconsent.Presentation) error { return fositeconsent.ErrGrantRevoked })},
		{name: "expired comes before revoked of a grant", caughtBy: first, consume: consumeBy(func(s *Storage, r *record, p fositeconsent.Presentation) error {
			if r.grant.SecretHash == p.SecretHash && r.grant.Binding == p.Binding && !s.now().Before(r.expiresAt) {
				return fositeconsent.ErrGrantExpired
			}
			return nil
		})},
		{name: "an expired grant is revoked", caughtBy: first, consume: func(s *Storage, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := s.ConsumeConsentGrant(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantExpired) {
				err = fositeconsent.ErrGrantRevoked
			}
			return g, err
		}},
		{name: "a consumed grant is forgotten by a revocation", caughtBy: before, revoke: revokeBy(parts{grants: func(s fositeconsent.Selection, r *record) bool {
			return r.spentBy == (fositeconsent.Attempt{}) && selectedGrant(s, &r.grant)
		}})},
		{name: "what revoke says is ignored", caughtBy: fails, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			return s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				_ = revoke(ctx, ended)
				return nil
			})
		}},
		{name: "what revoke says is lost", caughtBy: fails, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			n, err := s.RevokeConsents(ctx, selection, revoke)
			if err != nil {
				err = errors.New(err.Error())
			}
			return n, err
		}},
		{name: "revoke is called again when it has failed", caughtBy: fails, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			return s.RevokeConsents(ctx, selection, func(ctx context.Context, ended fositeconsent.Ended) error {
				if revoke(ctx, ended) == nil {
					return nil
				}
				return revoke(ctx, ended)
			})
		}},
		{name: "a revocation is not taken back", caughtBy: fails, revoke: revokeBy(parts{marksFirst: true})},
		{name: "grants stay revoked when a revocation has failed", caughtBy: fails, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			n, err := s.RevokeConsents(ctx, selection, revoke)
			with(s, func() {
				for _, r := range s.grants {
					if err != nil && selectedGrant(selection, &r.grant) {
						r.spentBy = newAttempt()
					}
				}
			})
			return n, err
		}},
		{name: "all is handed over at once", caughtBy: bounded, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			return s.RevokeConsents(ctx, selection, allAtOnce(s, selection, revoke))
		}},
		{name: "only the first responses are handed over", caughtBy: bounded, revoke: revokeBy(parts{hands: func(c *consent) []string { return c.requestIDs[:min(1000, len(c.requestIDs))] }})},
		{name: "what is handed over last is lost if that fails", caughtBy: bounded, revoke: revokeBy(parts{marksFirst: true})},
		{name: "a revocation ends consents that were ended before", caughtBy: forEver, revoke: revokeBy(parts{ends: selected})},
		{name: "a new approval brings back what was revoked", caughtBy: forEver, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			err := s.RecordResponse(ctx, r)
			with(s, func() {
				for _, c := range s.consents {
					if err == nil && r.Approval != nil && c.Subject == r.Approval.Subject {
						c.revoked = false
					}
				}
			})
			return err
		}},
		{name: "a revoked consent is forgotten", caughtBy: forEver, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			n, err := s.RevokeConsents(ctx, selection, revoke)
			with(s, func() {
				for id, c := range s.consents {
					if c.revoked {
						delete(s.consents, id)
					}
				}
			})
			return n, err
		}},
		{name: "an expired consent is not revoked", caughtBy: expired, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			now := s.now()
			return revokeBy(parts{ends: func(selection fositeconsent.Selection, c *consent) bool {
				return dead(c, now) == nil && selected(selection, c)
			}})(s, ctx, selection, revoke)
		}},
		{name: "a check does not wait for a revocation", caughtBy: waits, check: func(s *Storage, ctx context.Context, requestID string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			return unwaiting(s).CheckResponse(ctx, requestID)
		}},
		{name: "a response does not wait for a revocation", caughtBy: waits, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			return unwaiting(s).RecordResponse(ctx, r)
		}},
		{name: "a revocation looks first and ends then", caughtBy: responses, revoke: revokeBy(parts{apart: true})},
		{name: "a response meets the look of a revocation", caughtBy: responses, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if r.Approval != nil {
				return s.RecordResponse(ctx, r)
			}
			if err := s.await(ctx); err != nil {
				return err
			}
			var err error
			with(s, func() {
				for _, id := range r.ConsentIDs {
					err = cmp(err, dead(s.consents[id], s.now()))
				}
			})
			s.done()
			pause()
			with(s, func() {
				for _, id := range r.ConsentIDs {
					if err == nil {
						s.consents[id].rests(r.RequestID, s.now())
					}
				}
			})
			return err
		}},
		{name: "a grant that is consumed meanwhile is forgotten", caughtBy: grantsRace, revoke: revokeBy(parts{grants: func(s fositeconsent.Selection, r *record) bool {
			return r.spentBy == (fositeconsent.Attempt{}) && selectedGrant(s, &r.grant)
		}}), record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			pause()
			return s.RecordResponse(ctx, r)
		}},
		{name: "a grant that is revoked meanwhile is consumed", caughtBy: grantsRace, revoke: revokeBy(parts{apart: true}), consume: func(s *Storage, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := s.ConsumeConsentGrant(ctx, p)
			pause()
			return g, err
		}},
		{name: "each of many revocations counts all", caughtBy: revocations, revoke: revokeBy(parts{apart: true})},
	}
}()

// allAtOnce hands everything over in the first call.
func allAtOnce(s *Storage, selection fositeconsent.Selection, revoke revokeFunc) revokeFunc {
	called := false
	return func(ctx context.Context, ended fositeconsent.Ended) error {
		if called {
			return nil
		}
		called = true
		var all []string
		with(s, func() {
			for _, c := range s.consents {
				if selected(selection, c) {
					all = append(all, c.requestIDs...)
				}
			}
		})
		return revoke(ctx, fositeconsent.Ended{Consents: ended.Consents, RequestIDs: all})
	}
}

var consentFailureFlaws = func() []consentFlaw {
	const (
		cancelled = "a cancelled call on consents is an error and changes nothing"
		broken    = "a backend that cannot be reached knows nothing of consents"
	)
	return []consentFlaw{
		{name: "a look for consents ignores its context", caughtBy: cancelled, find: func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
			return s.FindConsents(context.WithoutCancel(ctx), issuer, subject, clientID)
		}},
		{name: "a cancelled look finds nothing", caughtBy: cancelled, find: func(s *Storage, ctx context.Context, issuer, subject, clientID string) ([]fositeconsent.Consent, error) {
			if ctx.Err() != nil {
				return nil, nil
			}
			return s.FindConsents(ctx, issuer, subject, clientID)
		}},
		{name: "a response ignores its context", caughtBy: cancelled, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			return s.RecordResponse(context.WithoutCancel(ctx), r)
		}},
		{name: "a cancelled response is recorded", caughtBy: cancelled, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			return errors.Join(s.RecordResponse(context.WithoutCancel(ctx), r), ctx.Err())
		}},
		{name: "a cancelled response rests on what is revoked", caughtBy: cancelled, record: func(s *Storage, ctx context.Context, r *fositeconsent.Response) error {
			if ctx.Err() != nil {
				return fositeconsent.ErrConsentRevoked
			}
			return s.RecordResponse(ctx, r)
		}},
		{name: "a check ignores its context", caughtBy: cancelled, check: func(s *Storage, ctx context.Context, requestID string) error {
			return s.CheckResponse(context.WithoutCancel(ctx), requestID)
		}},
		{name: "a cancelled check is good", caughtBy: cancelled, check: func(s *Storage, ctx context.Context, requestID string) error {
			if ctx.Err() != nil {
				return nil
			}
			return s.CheckResponse(ctx, requestID)
		}},
		{name: "a list ignores its context", caughtBy: cancelled, list: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, before fositeconsent.ID, limit int) ([]fositeconsent.Consent, error) {
			return s.ListConsents(context.WithoutCancel(ctx), selection, before, limit)
		}},
		{name: "a cancelled revocation takes place", caughtBy: cancelled, revoke: func(s *Storage, ctx context.Context, selection fositeconsent.Selection, revoke revokeFunc) (int, error) {
			n, err := s.RevokeConsents(context.WithoutCancel(ctx), selection, revoke)
			return n, errors.Join(err, ctx.Err())
		}},
		{name: "a broken backend finds no consents", caughtBy: broken, broken: blind{found: true}},
		{name: "a broken backend records", caughtBy: broken, broken: blind{recorded: true}},
		{name: "a broken backend finds every response good", caughtBy: broken, broken: blind{checked: true}},
		{name: "a broken backend finds every response revoked", caughtBy: broken, broken: blind{checked: true, as: fositeconsent.ErrConsentRevoked}},
		{name: "a broken backend lists nothing", caughtBy: broken, broken: blind{listed: true}},
		{name: "a broken backend revokes", caughtBy: broken, broken: blind{revoked: true}},
	}
}()

// blind is a storage that takes a failure of its backend for an answer.
type blind struct {
	unreachable
	found, recorded, checked, listed, revoked bool
	as                                        error
}

func (b blind) answer(is bool) error {
	if is {
		return b.as
	}
	return errUnreachable
}

func (b blind) FindConsents(context.Context, string, string, string) ([]fositeconsent.Consent, error) {
	return nil, b.answer(b.found)
}
func (b blind) RecordResponse(context.Context, *fositeconsent.Response) error {
	return b.answer(b.recorded)
}
func (b blind) CheckResponse(context.Context, string) error { return b.answer(b.checked) }
func (b blind) ListConsents(context.Context, fositeconsent.Selection, fositeconsent.ID, int) ([]fositeconsent.Consent, error) {
	return nil, b.answer(b.listed)
}
func (b blind) RevokeConsents(context.Context, fositeconsent.Selection, func(context.Context, fositeconsent.Ended) error) (int, error) {
	return 0, b.answer(b.revoked)
}
