package consenttest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/internal/flawtest"
)

// TestSuiteCatchesEveryFlaw runs the suite on storages that each break the
// contract in one way, in a process of its own, and expects the test that is
// named beside the flaw to fail; and on storages that keep the contract in
// unusual ways, which have to pass all of it. Run it with -v to see what caught what.
func TestSuiteCatchesEveryFlaw(t *testing.T) {
	if flawtest.Inside() {
		runFlaws(t)
		return
	}
	t.Parallel()
	caughtBy := make(map[string]string)
	var odd []string
	for _, f := range flaws {
		caughtBy[f.name] = f.caughtBy
	}
	for _, f := range consentFlaws {
		caughtBy[f.name] = f.caughtBy
	}
	for _, f := range decisionFlaws {
		caughtBy[f.name] = f.caughtBy
	}
	for _, f := range oddities {
		odd = append(odd, f.name)
	}
	for _, f := range decisionOddities {
		odd = append(odd, f.name)
	}
	for _, f := range consentOddities {
		odd = append(odd, f.name)
	}
	flawtest.Want(t, caughtBy, odd)
}

// TestEveryTestOfTheSuiteCatchesSomething fails for a test that no flaw is known for.
func TestEveryTestOfTheSuiteCatchesSomething(t *testing.T) {
	t.Parallel()
	names := make(map[string]int)
	for _, f := range flaws {
		names["flaw: "+f.name]++
	}
	for _, c := range suite {
		names["test: "+c.name]++
		if !slices.ContainsFunc(flaws, func(f flaw) bool { return f.caughtBy == c.name }) {
			t.Errorf("%q catches no flaw", c.name)
		}
	}
	for _, f := range decisionFlaws {
		names["flaw: "+f.name]++
	}
	for _, c := range decisionSuite {
		names["test: "+c.name]++
		if !slices.ContainsFunc(decisionFlaws, func(f decisionFlaw) bool { return f.caughtBy == c.name }) {
			t.Errorf("%q catches no flaw", c.name)
		}
	}
	for _, f := range consentFlaws {
		names["flaw: "+f.name]++
	}
	for _, c := range consentSuite {
		names["test: "+c.name]++
		if !slices.ContainsFunc(consentFlaws, func(f consentFlaw) bool { return f.caughtBy == c.name }) {
			t.Errorf("%q catches no flaw", c.name)
		}
	}
	for name, n := range names {
		if n > 1 {
			t.Errorf("%q is there %d times", name, n)
		}
	}
}

func runFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range suite {
				if c.name == f.caughtBy {
					t.Run(c.name, func(t *testing.T) { c.test(&probe{T: t, newStorage: f.newStorage}) })
				}
			}
		})
	}
	for _, f := range oddities {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			Run(t, f.newStorage)
		})
	}
	for _, f := range consentFlaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range consentSuite {
				if c.name == f.caughtBy {
					t.Run(c.name, func(t *testing.T) { c.test(&consentProbe{T: t, newStorage: f.newStorage}) })
				}
			}
		})
	}
	for _, f := range consentOddities {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			RunConsents(t, f.newStorage)
		})
	}
	for _, f := range decisionFlaws {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for _, c := range decisionSuite {
				if c.name == f.caughtBy {
					t.Run(c.name, func(t *testing.T) { c.test(&decisionProbe{T: t, newStorage: f.newStorage}) })
				}
			}
		})
	}
	for _, f := range decisionOddities {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			RunDecisions(t, f.newStorage)
		})
	}
}

// flaw is one way to break the contract. Its hooks replace parts of [flawed];
// nil ones are as they should be.
type flaw struct {
	name     string
	caughtBy string

	// How two values are compared, and what rows are kept under.
	sameSecret, sameBinding func(a, b [32]byte) bool
	sameAttempt             func(stored, presented fositeconsent.Attempt) bool
	key                     func(fositeconsent.ID) fositeconsent.ID
	expired                 func(now, decidedAt time.Time, lifespan time.Duration) bool

	// order is the order of reasons: Not found (which is unknown or Denied),
	// Mismatch, Own attempt (success), Consumed by another (consumed by anyOne),
	// Expired. A letter that is missing is not checked.
	order string

	valid       func(*fositeconsent.Grant) bool                 // whether a grant may be created
	overwrites  func(old *row, grant *fositeconsent.Grant) bool // whether a create replaces what is there
	retries     func(old *row, grant *fositeconsent.Grant) bool // whether it is taken for a repeated one
	afterRetry  func(old *row, grant *fositeconsent.Grant)
	afterRefuse func(f *flawed, r *row, reason error) // with the lock held
	afterSpend  func(f *flawed, r *row)               // with the lock held

	stored, returned func(*fositeconsent.Grant) // change content
	clock            func(explicit func() time.Time) func() time.Time

	// Around whole calls.
	create  func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error
	consume func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error)
	broken  func(create bool) (*fositeconsent.Grant, error)
}

func (f flaw) newStorage(_ testing.TB, o Options) fositeconsent.GrantStorage {
	s := &flawed{flaw: f, rows: make(map[fositeconsent.ID]*row), unreachable: o.Broken, now: o.Now}
	if f.clock != nil {
		s.now = f.clock(o.Now)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// row is what flawed keeps.
type row struct {
	fositeconsent.Grant
	spentBy fositeconsent.Attempt
}

// flawed keeps the contract as far as its flaw lets it.
type flawed struct {
	flaw
	now         func() time.Time
	unreachable bool

	mu   sync.Mutex
	rows map[fositeconsent.ID]*row
}

var errInvalid = errors.New("invalid")

func (f *flawed) CreateConsentGrant(ctx context.Context, g *fositeconsent.Grant) error {
	if f.unreachable {
		if f.broken != nil {
			_, err := f.broken(true)
			return err
		}
		return errUnreachable
	}
	if f.create != nil {
		return f.create(f, ctx, g)
	}
	return f.doCreate(ctx, g)
}

func (f *flawed) ConsumeConsentGrant(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	if f.unreachable {
		if f.broken != nil {
			return f.broken(false)
		}
		return nil, errUnreachable
	}
	if f.consume != nil {
		return f.consume(f, ctx, p)
	}
	return f.doConsume(ctx, p)
}

func (f *flawed) doCreate(ctx context.Context, g *fositeconsent.Grant) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !f.accepts(g) {
		return errInvalid
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.insert(g)
}

func (f *flawed) accepts(g *fositeconsent.Grant) bool {
	if f.valid != nil {
		return f.valid(g)
	}
	return check(g) == nil
}

func (f *flawed) insert(g *fositeconsent.Grant) error {
	old := f.find(g.ID)
	if old != nil && (f.overwrites == nil || !f.overwrites(old, g)) {
		retries := old.SecretHash == g.SecretHash
		if f.retries != nil {
			retries = f.retries(old, g)
		}
		if !retries {
			return fositeconsent.ErrAlreadyDecided
		}
		if f.afterRetry != nil {
			f.afterRetry(old, g)
		}
		return nil
	}
	r := &row{Grant: clone(g)}
	r.DecidedAt = f.now()
	if f.stored != nil {
		f.stored(&r.Grant)
	}
	f.rows[f.keyOf(g.ID)] = r
	return nil
}

func (f *flawed) keyOf(id fositeconsent.ID) fositeconsent.ID {
	if f.key != nil {
		return f.key(id)
	}
	return id
}

func (f *flawed) find(id fositeconsent.ID) *row { return f.rows[f.keyOf(id)] }

func (f *flawed) doConsume(ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p.Attempt == (fositeconsent.Attempt{}) {
		return nil, errInvalid
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.spend(p)
}

func (f *flawed) spend(p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	r := f.find(p.ID)
	if err := f.reason(r, p); err != nil {
		if f.afterRefuse != nil && r != nil {
			f.afterRefuse(f, r, err)
		}
		return nil, err
	}
	if r.spentBy == (fositeconsent.Attempt{}) {
		r.spentBy = p.Attempt
		if f.afterSpend != nil {
			f.afterSpend(f, r)
		}
	}
	return f.give(r), nil
}

func (f *flawed) give(r *row) *fositeconsent.Grant {
	g := clone(&r.Grant)
	g.Lifespan = 0
	if f.returned != nil {
		f.returned(&g)
	}
	return &g
}

// reason returns why a presentation is refused, or nil.
func (f *flawed) reason(r *row, p fositeconsent.Presentation) error {
	if r == nil {
		return fositeconsent.ErrGrantNotFound
	}
	sameSecret, sameBinding := equal, equal
	if f.sameSecret != nil {
		sameSecret = f.sameSecret
	}
	if f.sameBinding != nil {
		sameBinding = f.sameBinding
	}
	own := r.spentBy == p.Attempt
	if f.sameAttempt != nil {
		own = f.sameAttempt(r.spentBy, p.Attempt)
	}
	spent := r.spentBy != fositeconsent.Attempt{}
	expired := !f.now().Before(r.DecidedAt.Add(r.Lifespan))
	if f.flaw.expired != nil {
		expired = f.flaw.expired(f.now(), r.DecidedAt, r.Lifespan)
	}
	order := f.order
	if order == "" {
		order = "NDMOCE"
	}
	for _, step := range order {
		switch {
		case step == 'N' && !sameSecret(r.SecretHash, p.SecretHash), step == 'D' && r.Denied:
			return fositeconsent.ErrGrantNotFound
		case step == 'M' && !sameBinding(r.Binding, p.Binding):
			return fositeconsent.ErrBindingMismatch
		case step == 'O' && spent && own:
			return nil
		case step == 'C' && spent && !own, step == '1' && spent:
			return fositeconsent.ErrGrantConsumed
		case step == 'E' && expired:
			return fositeconsent.ErrGrantExpired
		}
	}
	return nil
}

func equal(a, b [32]byte) bool { return a == b }

// pause stands for a round trip between two steps that should have been one. It is
// part of a flaw that the suite must find, and no test waits by it.
func pause() { time.Sleep(2 * time.Millisecond) }

// underWay waits for the context to end, but not for long.
func underWay(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-time.After(time.Millisecond):
	}
	return ctx.Err()
}

// oddities keep the contract. The first one shows that it is their flaws for
// which the others are refused.
var oddities = []flaw{
	{name: "no flaw at all"},
	{
		name: "every error is wrapped",
		create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if err := f.doCreate(ctx, g); err != nil {
				return fmt.Errorf("creating grant %s: %w", g.ID, err)
			}
			return nil
		},
		consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("consuming grant %s: %w", p.ID, err)
			}
			return g, nil
		},
	},
	{
		name: "a slow backend with few connections",
		create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			time.Sleep(100 * time.Microsecond) // the slowness itself; nothing waits for it
			if err := ctx.Err(); err != nil {
				return err
			}
			if !f.accepts(g) {
				return errInvalid
			}
			return f.insert(g)
		},
	},
	{
		name: "a text column that takes only well-formed text without zero bytes",
		valid: func(g *fositeconsent.Grant) bool {
			text := g.Subject + g.ClientID + strings.Join(g.Scopes, "") + strings.Join(g.Audience, "")
			return check(g) == nil && strings.ToValidUTF8(text, "") == text && !strings.Contains(text, "\x00")
		},
	},
	{name: "a clock of whole milliseconds", clock: func(explicit func() time.Time) func() time.Time {
		if explicit == nil {
			explicit = time.Now
		}
		return func() time.Time { return explicit().UTC().Truncate(time.Millisecond) }
	}},
	{
		name: "an interrupted call that was carried out all the same",
		create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if err := f.doCreate(ctx, g); err != nil {
				return err
			}
			return ctx.Err()
		},
		consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if err == nil && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return g, err
		},
	},
}

var flaws = slices.Concat(contentFlaws, createFlaws, consumeFlaws, raceFlaws, failureFlaws)

var contentFlaws = func() []flaw {
	const caughtBy = "a grant is returned as it was stored"
	return []flaw{
		{name: "scopes are sorted", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { slices.Sort(g.Scopes) }},
		{name: "a repeated scope is dropped", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) {
			slices.Sort(g.Scopes)
			g.Scopes = slices.Compact(g.Scopes)
		}},
		{name: "scopes are joined by commas", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Scopes = strings.Split(strings.Join(g.Scopes, ","), ",") }},
		{name: "the audience is joined by spaces", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Audience = strings.Fields(strings.Join(g.Audience, " ")) }},
		{name: "quotes are dropped from the audience", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) {
			for i, a := range g.Audience {
				g.Audience[i] = strings.ReplaceAll(a, `"`, "")
			}
		}},
		{name: "a list ends at 255 elements", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Scopes = g.Scopes[:min(255, len(g.Scopes))] }},
		{name: "the audience is forgotten", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Audience = nil }},
		{name: "what is to be remembered is forgotten", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Remember = nil }},
		{name: "for how long is forgotten", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) {
			if g.Remember != nil {
				g.Remember.Lifespan = 0
			}
		}},
		{name: "that offline access is remembered is forgotten", caughtBy: caughtBy, returned: func(g *fositeconsent.Grant) {
			if g.Remember != nil {
				g.Remember.OfflineAccess = false
			}
		}},
		{name: "every approval is remembered", caughtBy: caughtBy, returned: func(g *fositeconsent.Grant) {
			if g.Remember == nil {
				g.Remember = &fositeconsent.Remember{}
			}
		}},
		{name: "an empty wish is none", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) {
			if g.Remember != nil && *g.Remember == (fositeconsent.Remember{}) {
				g.Remember = nil
			}
		}},
		{name: "what was shown is forgotten", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Shown = fositeconsent.Digest{} }},
		{name: "data is text", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Data = bytes.ToValidUTF8(g.Data, []byte("?")) }},
		{name: "data ends at a zero byte", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Data, _, _ = bytes.Cut(g.Data, []byte{0}) }},
		{name: "data ends at 64 KiB less one byte", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Data = g.Data[:min(1<<16-1, len(g.Data))] }},
		{name: "data loses its spaces", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Data = bytes.ReplaceAll(g.Data, []byte(" "), nil) }},
		{name: "subjects are in lower case", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Subject = strings.ToLower(g.Subject) }},
		{name: "subjects are trimmed", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Subject = strings.TrimSpace(g.Subject) }},
		{name: "subjects are composed", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) {
			g.Subject = strings.ReplaceAll(g.Subject, "e\u0308", "\u00eb")
		}},
		{name: "subjects end at 254 characters", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.Subject = g.Subject[:min(254, len(g.Subject))] }},
		{name: "client IDs end at 255 characters", caughtBy: caughtBy, stored: func(g *fositeconsent.Grant) { g.ClientID = g.ClientID[:min(255, len(g.ClientID))] }},
		{name: "the secret's hash is not returned", caughtBy: caughtBy, returned: func(g *fositeconsent.Grant) { g.SecretHash = fositeconsent.SecretHash{} }},
		{name: "the lifespan is returned", caughtBy: caughtBy, returned: func(g *fositeconsent.Grant) { g.Lifespan = time.Minute }},
		{name: "the date is not returned", caughtBy: caughtBy, returned: func(g *fositeconsent.Grant) { g.DecidedAt = time.Time{} }},
		{name: "neither a grant nor an error is returned", caughtBy: caughtBy, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			_, err := f.doConsume(ctx, p)
			return nil, err
		}},
		{name: "no scopes come back as one empty scope", caughtBy: "nil and empty lists and data are the same", stored: func(g *fositeconsent.Grant) {
			g.Scopes = strings.Split(strings.Join(g.Scopes, "\x00"), "\x00")
		}},
		{name: "an empty list is no value", caughtBy: "nil and empty lists and data are the same", valid: func(g *fositeconsent.Grant) bool {
			return check(g) == nil && g.Scopes != nil
		}},
		{name: "text ends at a zero byte", caughtBy: "text is kept exactly or refused", stored: func(g *fositeconsent.Grant) { g.Subject, _, _ = strings.Cut(g.Subject, "\x00") }},
		{name: "text that is not well-formed is mended", caughtBy: "text is kept exactly or refused", stored: func(g *fositeconsent.Grant) {
			for i, scope := range g.Scopes {
				g.Scopes[i] = strings.ToValidUTF8(scope, "\ufffd")
			}
		}},
		{name: "text that is not well-formed is refused after the key was taken", caughtBy: "text is kept exactly or refused", create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			if err == nil && strings.ToValidUTF8(g.Subject, "") != g.Subject {
				return errInvalid
			}
			return err
		}},
		{name: "the caller dates the grant", caughtBy: "the grant is dated by the explicit clock", create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			f.mu.Lock()
			defer f.mu.Unlock()
			if r := f.find(g.ID); r != nil {
				r.DecidedAt = g.DecidedAt
			}
			return err
		}},
		{name: "the grant is dated when it is consumed", caughtBy: "the grant is dated by the explicit clock", consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if g != nil {
				g.DecidedAt = f.now()
			}
			return g, err
		}},
		{name: "the explicit clock is not asked", caughtBy: "the grant is dated by the explicit clock", clock: func(func() time.Time) func() time.Time { return time.Now }},
		{name: "dates lose their time zone", caughtBy: "the grant is dated by the explicit clock", returned: func(g *fositeconsent.Grant) {
			d := g.DecidedAt
			g.DecidedAt = time.Date(d.Year(), d.Month(), d.Day(), d.Hour(), d.Minute(), d.Second(), d.Nanosecond(), time.UTC)
		}},
		{name: "dates are whole seconds", caughtBy: "the grant is dated by the explicit clock", returned: func(g *fositeconsent.Grant) { g.DecidedAt = g.DecidedAt.Truncate(time.Second) }},
		{name: "the storage's own clock is in another time zone", caughtBy: "the grant is dated by the storage's own clock", clock: func(explicit func() time.Time) func() time.Time {
			if explicit == nil {
				return func() time.Time { return time.Now().Add(-30 * time.Minute) }
			}
			return explicit
		}},
	}
}()

var createFlaws = func() []flaw {
	const (
		once       = "a prompt is decided once whatever the second answer is"
		forEver    = "a spent or expired grant can be neither minted again nor denied"
		repeated   = "a repeated create succeeds and changes nothing"
		incomplete = "an incomplete grant is refused and nothing is stored"
		short      = "a lifespan that is too short is refused and nothing is stored"
		callers    = "the caller's grant is neither kept nor modified"
	)
	yes := func(*row, *fositeconsent.Grant) bool { return true }
	no := func(*row, *fositeconsent.Grant) bool { return false }
	// without accepts what is valid once the field is filled.
	without := func(fill func(*fositeconsent.Grant)) func(*fositeconsent.Grant) bool {
		return func(g *fositeconsent.Grant) bool {
			filled := clone(g)
			fill(&filled)
			return check(&filled) == nil
		}
	}
	lifespan := func(accept func(time.Duration) bool) func(*fositeconsent.Grant) bool {
		return func(g *fositeconsent.Grant) bool {
			filled := clone(g)
			filled.Lifespan = time.Hour
			return check(&filled) == nil && accept(g.Lifespan)
		}
	}
	return []flaw{
		{name: "the last decision counts", caughtBy: once, overwrites: yes},
		{name: "a denial overrules a mint", caughtBy: once, overwrites: func(_ *row, g *fositeconsent.Grant) bool { return g.Denied }},
		{name: "a mint overrules a denial", caughtBy: once, overwrites: func(old *row, _ *fositeconsent.Grant) bool { return old.Denied }},
		{name: "a second decision is dropped without a word", caughtBy: once, retries: yes},
		{name: "a decision of the same kind is taken for a repeated one", caughtBy: once, retries: func(old *row, g *fositeconsent.Grant) bool { return old.Denied == g.Denied }},
		{name: "a decision with the same binding is taken for a repeated one", caughtBy: once, retries: func(old *row, g *fositeconsent.Grant) bool { return old.Binding == g.Binding }},
		{name: "a second decision spoils the first", caughtBy: once, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			if errors.Is(err, fositeconsent.ErrAlreadyDecided) {
				f.mu.Lock()
				f.find(g.ID).Denied = true
				f.mu.Unlock()
			}
			return err
		}},
		{name: "a denied prompt is not found by a second decision", caughtBy: once, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			r := f.find(g.ID)
			f.mu.Unlock()
			if r != nil && r.Denied {
				return fositeconsent.ErrGrantNotFound
			}
			return f.doCreate(ctx, g)
		}},
		{name: "a spent grant can be minted again", caughtBy: forEver, overwrites: func(old *row, _ *fositeconsent.Grant) bool {
			return old.spentBy != fositeconsent.Attempt{}
		}},
		{name: "a spent grant is deleted", caughtBy: forEver, afterSpend: func(f *flawed, r *row) { delete(f.rows, r.ID) }},
		{name: "an expired grant can be denied", caughtBy: forEver, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			if old := f.find(g.ID); old != nil && g.Denied && f.now().After(old.DecidedAt.Add(old.Lifespan-1)) {
				delete(f.rows, g.ID)
			}
			f.mu.Unlock()
			return f.doCreate(ctx, g)
		}},
		{name: "a repeated create is refused", caughtBy: repeated, retries: no},
		{name: "a create is repeated by its content", caughtBy: repeated, retries: func(old *row, g *fositeconsent.Grant) bool {
			return old.SecretHash == g.SecretHash && old.Subject == g.Subject && slices.Equal(old.Scopes, g.Scopes)
		}},
		{name: "a repeated create is refused once the grant is spent", caughtBy: repeated, retries: func(old *row, g *fositeconsent.Grant) bool {
			return old.SecretHash == g.SecretHash && old.spentBy == fositeconsent.Attempt{}
		}},
		{name: "a repeated denial is refused", caughtBy: repeated, retries: func(old *row, g *fositeconsent.Grant) bool {
			return old.SecretHash == g.SecretHash && !old.Denied
		}},
		{name: "a repeated create brings new scopes", caughtBy: repeated, afterRetry: func(old *row, g *fositeconsent.Grant) { old.Scopes = slices.Clone(g.Scopes) }},
		{name: "a repeated create is remembered after all", caughtBy: repeated, afterRetry: func(old *row, g *fositeconsent.Grant) { old.Remember = clone(g).Remember }},
		{name: "a repeated create shows something else", caughtBy: repeated, afterRetry: func(old *row, g *fositeconsent.Grant) { old.Shown = g.Shown }},
		{name: "a repeated create brings a new binding", caughtBy: repeated, afterRetry: func(old *row, g *fositeconsent.Grant) { old.Binding = g.Binding }},
		{name: "a repeated create brings a new lifespan", caughtBy: repeated, afterRetry: func(old *row, g *fositeconsent.Grant) { old.Lifespan = g.Lifespan }},
		{name: "a repeated create turns a denial into an approval", caughtBy: repeated, afterRetry: func(old *row, g *fositeconsent.Grant) { old.Denied = g.Denied }},
		{name: "a repeated create gives a spent grant back", caughtBy: repeated, afterRetry: func(old *row, _ *fositeconsent.Grant) { old.spentBy = fositeconsent.Attempt{} }},
		{name: "a repeated create starts the lifespan anew", caughtBy: repeated, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			f.mu.Lock()
			defer f.mu.Unlock()
			if r := f.find(g.ID); r != nil && r.SecretHash == g.SecretHash {
				r.DecidedAt = f.now()
			}
			return err
		}},
		{name: "a grant may lack an ID", caughtBy: incomplete, valid: without(func(g *fositeconsent.Grant) { g.ID = newID() })},
		{name: "a grant may lack a secret", caughtBy: incomplete, valid: without(func(g *fositeconsent.Grant) { g.SecretHash = random32() })},
		{name: "a grant may lack a binding", caughtBy: incomplete, valid: without(func(g *fositeconsent.Grant) { g.Binding = random32() })},
		{name: "a grant may lack a subject", caughtBy: incomplete, valid: without(func(g *fositeconsent.Grant) { g.Subject = "subject" })},
		{name: "a grant may lack a client", caughtBy: incomplete, valid: without(func(g *fositeconsent.Grant) { g.ClientID = "client" })},
		{name: "a denial may lack everything", caughtBy: incomplete, valid: func(g *fositeconsent.Grant) bool { return g.Denied || check(g) == nil }},
		{name: "an incomplete grant takes its key", caughtBy: incomplete, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.find(g.ID) == nil && check(g) != nil {
				_ = f.insert(g)
				return errInvalid
			}
			return f.insert(g)
		}},
		{name: "a grant without a secret is already decided", caughtBy: incomplete, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if err := f.doCreate(ctx, g); errors.Is(err, errInvalid) {
				return fositeconsent.ErrAlreadyDecided
			} else if err != nil {
				return err
			}
			return nil
		}},
		{name: "a lifespan of zero is accepted", caughtBy: short, valid: lifespan(func(d time.Duration) bool { return d == 0 || d >= fositeconsent.MinGrantLifespan })},
		{name: "a negative lifespan is accepted", caughtBy: short, valid: lifespan(func(d time.Duration) bool { return d < 0 || d >= fositeconsent.MinGrantLifespan })},
		{name: "a lifespan of less than a millisecond is accepted", caughtBy: short, valid: lifespan(func(d time.Duration) bool { return d > 0 })},
		{name: "a denial may have any lifespan", caughtBy: short, valid: func(g *fositeconsent.Grant) bool {
			return check(g) == nil || g.Denied && lifespan(func(time.Duration) bool { return true })(g)
		}},
		{name: "a lifespan that is too short takes the key", caughtBy: short, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.find(g.ID) == nil && g.Lifespan < fositeconsent.MinGrantLifespan {
				_ = f.insert(g)
				return errInvalid
			}
			return f.insert(g)
		}},
		{name: "the caller's slices are kept", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			f.mu.Lock()
			defer f.mu.Unlock()
			if r := f.find(g.ID); r != nil && r.SecretHash == g.SecretHash {
				r.Scopes = g.Scopes
			}
			return err
		}},
		{name: "the caller's wish to remember is kept", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			f.mu.Lock()
			defer f.mu.Unlock()
			if r := f.find(g.ID); r != nil && r.SecretHash == g.SecretHash {
				r.Remember = g.Remember
			}
			return err
		}},
		{name: "the caller's data is kept", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			f.mu.Lock()
			defer f.mu.Unlock()
			if r := f.find(g.ID); r != nil && r.SecretHash == g.SecretHash {
				r.Data = g.Data
			}
			return err
		}},
		{name: "the caller's grant is dated", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			g.DecidedAt = f.now()
			return f.doCreate(ctx, g)
		}},
		{name: "the caller's scopes are sorted", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			slices.Sort(g.Scopes)
			return err
		}},
		{name: "something is written behind the caller's scopes", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			_ = append(g.Scopes, "scratch")
			return f.doCreate(ctx, g)
		}},
		{name: "a refused grant is blanked", caughtBy: callers, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			if err != nil {
				g.SecretHash = fositeconsent.SecretHash{}
			}
			return err
		}},
	}
}()

var consumeFlaws = func() []flaw {
	const (
		unknown   = "blank and unknown presentations are not found"
		token     = "an ID or a secret that differs in one bit is not found"
		binding   = "a binding that differs in one bit is a mismatch and spends nothing"
		once      = "a grant is spent once"
		winner    = "the attempt that won may ask again"
		attempt   = "a presentation without an attempt never succeeds"
		first     = "the first of several reasons is returned"
		end       = "a grant expires at the end of its lifespan and not before"
		ownClock  = "a grant expires by the storage's own clock"
		retention = "what was created is recognised until twice the longest prompt lifespan has passed"
		returned  = "a returned grant is the caller's to modify"
	)
	// halves compares all but the end of a value.
	halves := func(a, b [32]byte) bool { return [16]byte(a[:]) == [16]byte(b[:]) }
	// unchecked is a consume that does not look at its attempt.
	unchecked := func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.spend(p)
	}
	// forget deletes what is older than that, when somebody looks.
	forget := func(after time.Duration) func(*flawed, context.Context, *fositeconsent.Grant) error {
		return func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			if old := f.find(g.ID); old != nil && f.now().Sub(old.DecidedAt) >= after {
				delete(f.rows, g.ID)
			}
			f.mu.Unlock()
			return f.doCreate(ctx, g)
		}
	}
	return []flaw{
		{name: "the secret is not compared", caughtBy: unknown, order: "DMOCE"},
		{name: "a blank secret fits every grant", caughtBy: unknown, sameSecret: func(a, b [32]byte) bool { return a == b || b == [32]byte{} }},
		{name: "a grant is found by its secret alone", caughtBy: unknown, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			for _, r := range f.rows {
				if r.SecretHash == p.SecretHash {
					p.ID = r.ID
				}
			}
			f.mu.Unlock()
			return f.doConsume(ctx, p)
		}},
		{name: "a blank presentation is invalid", caughtBy: unknown, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if p.ID.IsZero() {
				return nil, errInvalid
			}
			return f.doConsume(ctx, p)
		}},
		{name: "a denial can be consumed", caughtBy: unknown, order: "NMOCE"},
		{name: "a denial has a reason of its own", caughtBy: unknown, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			r := f.find(p.ID)
			f.mu.Unlock()
			if r != nil && r.Denied && r.SecretHash == p.SecretHash {
				return nil, fositeconsent.ErrGrantConsumed
			}
			return f.doConsume(ctx, p)
		}},
		{name: "what is not found is an unknown error", caughtBy: unknown, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantNotFound) {
				err = errors.New(err.Error()) // the text is not the error
			}
			return g, err
		}},
		{name: "half of the secret is compared", caughtBy: token, sameSecret: halves},
		{name: "the last byte of the ID is not compared", caughtBy: token, key: func(id fositeconsent.ID) fositeconsent.ID {
			id[15] = 0
			return id
		}},
		{name: "IDs are compared without regard to case", caughtBy: token, key: func(id fositeconsent.ID) fositeconsent.ID {
			return fositeconsent.ID(bytes.Map(func(r rune) rune { return r &^ 0x20 }, fmt.Appendf(nil, "%x", id[:]))[8:])
		}},
		{name: "a wrong secret locks the grant", caughtBy: token, afterRefuse: func(_ *flawed, r *row, reason error) {
			if errors.Is(reason, fositeconsent.ErrGrantNotFound) {
				r.Denied = true
			}
		}},
		{name: "the binding is not compared", caughtBy: binding, order: "NDOCE"},
		{name: "half of the binding is compared", caughtBy: binding, sameBinding: halves},
		{name: "a blank binding fits every grant", caughtBy: binding, sameBinding: func(a, b [32]byte) bool { return a == b || b == [32]byte{} }},
		{name: "a mismatch spends the grant", caughtBy: binding, afterRefuse: func(_ *flawed, r *row, _ error) { r.spentBy = newAttempt() }},
		{name: "a mismatch deletes the grant", caughtBy: binding, afterRefuse: func(f *flawed, r *row, _ error) { delete(f.rows, r.ID) }},
		{name: "three mismatches lock the grant", caughtBy: binding, afterRefuse: func(_ *flawed, r *row, _ error) {
			if r.Data = append(r.Data, 0); bytes.HasSuffix(r.Data, []byte{0, 0, 0}) {
				r.Denied = true
			}
		}},
		{name: "a mismatch is not found", caughtBy: binding, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrBindingMismatch) {
				err = fositeconsent.ErrGrantNotFound
			}
			return g, err
		}},
		{name: "a mismatch returns the grant all the same", caughtBy: binding, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrBindingMismatch) {
				g = f.give(f.find(p.ID))
			}
			return g, err
		}},
		{name: "a grant is never spent", caughtBy: once, afterSpend: func(_ *flawed, r *row) { r.spentBy = fositeconsent.Attempt{} }},
		{name: "a grant can be spent twice", caughtBy: once, afterSpend: func(_ *flawed, r *row) {
			if len(r.Data) > 0 {
				r.Data, r.spentBy = nil, fositeconsent.Attempt{}
			}
		}},
		{name: "a spent grant is spent again after its lifespan", caughtBy: once, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			if r := f.find(p.ID); r != nil && f.now().After(r.DecidedAt.Add(r.Lifespan-1)) {
				r.spentBy, r.DecidedAt = fositeconsent.Attempt{}, f.now()
			}
			f.mu.Unlock()
			return f.doConsume(ctx, p)
		}},
		{name: "a spent grant is not found", caughtBy: once, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantConsumed) {
				err = fositeconsent.ErrGrantNotFound
			}
			return g, err
		}},
		{name: "reasons are several at once", caughtBy: once, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantConsumed) {
				err = errors.Join(err, fositeconsent.ErrGrantExpired)
			}
			return g, err
		}},
		{name: "the attempt is ignored", caughtBy: winner, order: "NDM1E"},
		{name: "an expired grant is nobody's", caughtBy: winner, order: "NDMEOC"},
		{name: "the winner may leave out the binding", caughtBy: winner, order: "NDOMCE"},
		{name: "the winner may leave out the secret", caughtBy: winner, order: "ONDMCE"},
		{name: "half of the attempt is compared", caughtBy: winner, sameAttempt: func(a, b fositeconsent.Attempt) bool { return [8]byte(a[:]) == [8]byte(b[:]) }},
		{name: "the winner may ask again once", caughtBy: winner, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			if r := f.find(p.ID); r != nil && r.spentBy == p.Attempt {
				defer func() { r.spentBy = newAttempt(); f.mu.Unlock() }()
				return f.spend(p)
			}
			f.mu.Unlock()
			return f.doConsume(ctx, p)
		}},
		{name: "an attempt that has won once wins every grant", caughtBy: winner, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, r := range f.rows {
				if own := f.find(p.ID); own != nil && r.spentBy == p.Attempt && errors.Is(f.reason(own, p), fositeconsent.ErrGrantConsumed) {
					return f.give(own), nil
				}
			}
			return f.spend(p)
		}},
		{name: "no attempt is an attempt", caughtBy: attempt, consume: unchecked},
		{name: "no attempt is everybody's", caughtBy: attempt, consume: unchecked, sameAttempt: func(a, b fositeconsent.Attempt) bool {
			return a == b || b == fositeconsent.Attempt{}
		}},
		{name: "no attempt revives an expired grant", caughtBy: attempt, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			if r := f.find(p.ID); r != nil && !r.Denied && p.Attempt == r.spentBy && f.now().After(r.DecidedAt.Add(r.Lifespan-1)) {
				defer f.mu.Unlock()
				return f.give(r), nil
			}
			f.mu.Unlock()
			return f.doConsume(ctx, p)
		}},
		{name: "no attempt means consumed", caughtBy: attempt, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if (p.Attempt == fositeconsent.Attempt{}) {
				return nil, fositeconsent.ErrGrantConsumed
			}
			return f.doConsume(ctx, p)
		}},
		{name: "no attempt spends the grant and is an error", caughtBy: attempt, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if (p.Attempt == fositeconsent.Attempt{}) {
				p.Attempt = newAttempt()
				_, _ = f.doConsume(ctx, p)
				return nil, errInvalid
			}
			return f.doConsume(ctx, p)
		}},
		{name: "expired comes before consumed", caughtBy: first, order: "NDMOEC"},
		{name: "expired comes before mismatch", caughtBy: first, order: "NDEMOC"},
		{name: "consumed comes before mismatch", caughtBy: first, order: "NDOCME"},
		{name: "mismatch comes last", caughtBy: first, order: "NDOCEM"},
		{name: "mismatch comes before not found", caughtBy: first, order: "MNDOCE"},
		{name: "consumed comes before not found", caughtBy: first, order: "1NDMOCE"},
		{name: "expired comes before not found", caughtBy: first, order: "ENDMOC"},
		{name: "a denial is found when the binding is wrong", caughtBy: first, order: "NMDOCE"},
		{name: "an expired denial is expired", caughtBy: first, order: "NMOCED"},
		{name: "an expired grant is not found", caughtBy: first, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantExpired) {
				err = fositeconsent.ErrGrantNotFound
			}
			return g, err
		}},
		{name: "asking for an expired grant spends it", caughtBy: first, afterRefuse: func(_ *flawed, r *row, reason error) {
			if errors.Is(reason, fositeconsent.ErrGrantExpired) {
				r.spentBy = newAttempt()
			}
		}},
		{name: "a grant is good at its very end", caughtBy: end, expired: func(now, decidedAt time.Time, lifespan time.Duration) bool {
			return now.After(decidedAt.Add(lifespan))
		}},
		{name: "a grant expires a little early", caughtBy: end, expired: func(now, decidedAt time.Time, lifespan time.Duration) bool {
			return !now.Before(decidedAt.Add(lifespan - fositeconsent.MinGrantLifespan))
		}},
		{name: "a grant never expires", caughtBy: end, order: "NDMOC"},
		{name: "lifespans are whole seconds", caughtBy: end, expired: func(now, decidedAt time.Time, lifespan time.Duration) bool {
			return !now.Before(decidedAt.Add(lifespan.Truncate(time.Second)))
		}},
		{name: "the clock counts seconds", caughtBy: end, expired: func(now, decidedAt time.Time, lifespan time.Duration) bool {
			return now.Unix() >= decidedAt.Add(lifespan).Unix()
		}},
		{name: "two clocks decide", caughtBy: end, expired: func(_, decidedAt time.Time, lifespan time.Duration) bool {
			return !time.Now().Before(decidedAt.Add(lifespan))
		}},
		{name: "a grant is good for a day at most", caughtBy: end, stored: func(g *fositeconsent.Grant) { g.Lifespan = min(g.Lifespan, 24*time.Hour) }},
		{name: "the storage's own clock stands still", caughtBy: ownClock, clock: func(explicit func() time.Time) func() time.Time {
			if explicit == nil {
				start := time.Now()
				return func() time.Time { return start }
			}
			return explicit
		}},
		{name: "grants are forgotten after the longest prompt lifespan", caughtBy: retention, create: forget(fositeconsent.MaxPromptLifespan)},
		{name: "grants are forgotten a moment too early", caughtBy: retention, create: forget(2*fositeconsent.MaxPromptLifespan - fositeconsent.MinGrantLifespan)},
		{name: "grants are forgotten although their lifespan is not over", caughtBy: retention, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			if r := f.find(p.ID); r != nil && f.now().Sub(r.DecidedAt) >= 2*fositeconsent.MaxPromptLifespan {
				delete(f.rows, p.ID)
			}
			f.mu.Unlock()
			return f.doConsume(ctx, p)
		}},
		{name: "the storage's own slices are returned", caughtBy: returned, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if g != nil {
				g.Audience = f.find(p.ID).Audience
			}
			return g, err
		}},
		{name: "the storage's own data is returned", caughtBy: returned, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if g != nil {
				g.Data = f.find(p.ID).Data
			}
			return g, err
		}},
	}
}()

var raceFlaws = func() []flaw {
	const (
		consumers   = "of many consumers one wins"
		repeated    = "of many attempts that are each made several times one wins each time"
		oneAttempt  = "one attempt made many times at once always succeeds"
		wrong       = "presenters of a wrong binding do not disturb the winner"
		mints       = "of many mints of one prompt one wins"
		oneMint     = "one mint made many times at once always succeeds"
		denials     = "of mints and denials of one prompt one wins"
		create      = "a consume that races the create finds the grant or does not"
		independent = "grants are independent of each other"
	)
	// readThenSpend asks first and spends afterwards.
	readThenSpend := func(f *flawed, _ context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
		f.mu.Lock()
		r := f.find(p.ID)
		err := f.reason(r, p)
		f.mu.Unlock()
		if err != nil {
			return nil, err
		}
		pause()
		f.mu.Lock()
		defer f.mu.Unlock()
		r.spentBy = p.Attempt
		return f.give(r), nil
	}
	// readThenInsert asks first and inserts afterwards.
	readThenInsert := func(f *flawed, _ context.Context, g *fositeconsent.Grant) error {
		f.mu.Lock()
		old := f.find(g.ID)
		f.mu.Unlock()
		if old != nil {
			return fositeconsent.ErrAlreadyDecided
		}
		pause()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.rows, g.ID)
		return f.insert(g)
	}
	busy := errors.New("could not serialize access")
	return []flaw{
		{name: "a consume is two steps", caughtBy: consumers, consume: readThenSpend},
		{name: "a consume that lost looks as if it had not found the grant", caughtBy: consumers, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			before := f.reason(f.find(p.ID), p)
			f.mu.Unlock()
			pause()
			g, err := f.doConsume(ctx, p)
			if before == nil && err != nil {
				err = fositeconsent.ErrGrantNotFound
			}
			return g, err
		}},
		{name: "a consume that lost says so as an unknown error", caughtBy: consumers, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if !f.mu.TryLock() {
				return nil, busy
			}
			defer f.mu.Unlock()
			pause()
			return f.spend(p)
		}},
		{name: "nobody wins a race", caughtBy: consumers, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if err == nil {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.find(p.ID).spentBy = newAttempt()
				return nil, fositeconsent.ErrGrantConsumed
			}
			return g, err
		}},
		{name: "the last attempt is remembered", caughtBy: consumers, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantConsumed) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.find(p.ID).spentBy = p.Attempt
			}
			return g, err
		}},
		{name: "the attempt is remembered a moment later", caughtBy: repeated, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			r := f.find(p.ID)
			if err := f.reason(r, p); err != nil {
				f.mu.Unlock()
				return nil, err
			}
			if r.spentBy == p.Attempt {
				f.mu.Unlock()
				return f.give(r), nil
			}
			r.spentBy = newAttempt() // claimed, but for nobody yet
			f.mu.Unlock()
			pause()
			f.mu.Lock()
			defer f.mu.Unlock()
			r.spentBy = p.Attempt
			return f.give(r), nil
		}},
		{name: "an attempt that is under way is consumed", caughtBy: oneAttempt, order: "NDM1E"},
		{name: "one attempt shares one grant", caughtBy: oneAttempt, consume: func() func(*flawed, context.Context, fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			var mu sync.Mutex
			shared := make(map[fositeconsent.Attempt]*fositeconsent.Grant)
			return func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
				g, err := f.doConsume(ctx, p)
				if err != nil {
					return nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				if first, ok := shared[p.Attempt]; ok {
					// As if somebody had overwritten it: sharing itself would be a data race.
					g.Scopes = append(first.Scopes, "overwritten")
					return g, nil
				}
				shared[p.Attempt] = &fositeconsent.Grant{Scopes: slices.Clone(g.Scopes)}
				return g, nil
			}
		}()},
		{name: "a mismatch claims the grant for a moment", caughtBy: wrong, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			r := f.find(p.ID)
			if err := f.reason(r, p); !errors.Is(err, fositeconsent.ErrBindingMismatch) || r.spentBy != (fositeconsent.Attempt{}) {
				f.mu.Unlock()
				return f.doConsume(ctx, p)
			}
			r.spentBy = p.Attempt
			f.mu.Unlock()
			pause()
			f.mu.Lock()
			defer f.mu.Unlock()
			r.spentBy = fositeconsent.Attempt{}
			return nil, fositeconsent.ErrBindingMismatch
		}},
		{name: "a presenter of the wrong binding waits and is told the grant is consumed", caughtBy: wrong, order: "NDOCME"},
		{name: "a create is two steps", caughtBy: mints, create: readThenInsert},
		{name: "a create that lost says so as an unknown error", caughtBy: mints, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if !f.mu.TryLock() {
				return busy
			}
			defer f.mu.Unlock()
			pause()
			return f.insert(g)
		}},
		{name: "a repeated create that races the first is refused", caughtBy: oneMint, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			old := f.find(g.ID)
			f.mu.Unlock()
			if old != nil {
				return f.doCreate(ctx, g)
			}
			pause()
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.find(g.ID) != nil {
				return fositeconsent.ErrAlreadyDecided
			}
			return f.insert(g)
		}},
		{name: "denials are kept elsewhere", caughtBy: denials, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			elsewhere := func(id fositeconsent.ID) fositeconsent.ID { id[0] ^= 0xff; return id }
			f.mu.Lock()
			other := f.rows[elsewhere(g.ID)]
			if !g.Denied {
				other = f.find(g.ID)
			}
			f.mu.Unlock()
			if other != nil {
				return fositeconsent.ErrAlreadyDecided
			}
			pause()
			f.mu.Lock()
			defer f.mu.Unlock()
			kept := clone(g)
			if g.Denied {
				kept.ID = elsewhere(g.ID)
			}
			return f.insert(&kept)
		}},
		{name: "a grant is seen before it is complete", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			if f.find(g.ID) != nil {
				defer f.mu.Unlock()
				return f.insert(g)
			}
			empty := clone(g)
			empty.Scopes, empty.Audience, empty.Data = nil, nil, nil
			if err := f.insert(&empty); err != nil {
				f.mu.Unlock()
				return err
			}
			r := f.find(g.ID)
			f.mu.Unlock()
			pause()
			f.mu.Lock()
			defer f.mu.Unlock()
			r.Grant = clone(g)
			r.DecidedAt = f.now()
			return nil
		}},
		{name: "whoever asks too early is remembered", caughtBy: create, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantNotFound) {
				f.mu.Lock()
				defer f.mu.Unlock()
				if f.find(p.ID) == nil {
					f.rows[p.ID] = &row{Grant: fositeconsent.Grant{ID: p.ID}}
				}
			}
			return g, err
		}, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			pause() // for the others to come first
			return f.doCreate(ctx, g)
		}},
		{name: "a create takes effect a moment later", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			kept := clone(g)
			time.AfterFunc(50*time.Millisecond, func() { _ = f.doCreate(context.WithoutCancel(ctx), &kept) })
			return nil
		}},
		{name: "grants are mixed up under load", caughtBy: independent, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			pause()
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, r := range f.rows { // whichever comes first
				if g != nil {
					g.Subject = r.Subject
				}
				break
			}
			return g, err
		}},
		{name: "one lock is for one grant at a time", caughtBy: independent, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if !f.mu.TryLock() {
				return nil, fositeconsent.ErrGrantConsumed
			}
			defer f.mu.Unlock()
			pause()
			return f.spend(p)
		}},
	}
}()

var failureFlaws = func() []flaw {
	const (
		create     = "a cancelled create is an error and stores nothing"
		consume    = "a cancelled consume is an error and spends nothing"
		underway   = "a create that is cancelled under way is settled by repeating it"
		underWay2  = "a consume that is cancelled under way is settled by repeating it"
		broken     = "a backend that cannot be reached is no reason for a refusal"
		binding    = "a binding that differs in one bit is a mismatch and spends nothing"
		unknown    = "blank and unknown presentations are not found"
		incomplete = "an incomplete grant is refused and nothing is stored"
		once       = "a prompt is decided once whatever the second answer is"
	)
	onBroken := func(err error) func(bool) (*fositeconsent.Grant, error) {
		return func(bool) (*fositeconsent.Grant, error) { return nil, err }
	}
	// leak puts something into the error of a mismatch.
	leak := func(text func(p fositeconsent.Presentation) string) func(*flawed, context.Context, fositeconsent.Presentation) (*fositeconsent.Grant, error) {
		return func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrBindingMismatch) {
				err = fmt.Errorf("%w: %s", err, text(p))
			}
			return g, err
		}
	}
	return []flaw{
		{name: "a create ignores its context", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			return f.doCreate(context.WithoutCancel(ctx), g)
		}},
		{name: "a cancelled create is stored", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			return errors.Join(f.doCreate(context.WithoutCancel(ctx), g), ctx.Err())
		}},
		{name: "a cancelled create looks like success", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if ctx.Err() != nil {
				return nil
			}
			return f.doCreate(ctx, g)
		}},
		{name: "a cancelled create looks decided", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if ctx.Err() != nil {
				return fositeconsent.ErrAlreadyDecided
			}
			return f.doCreate(ctx, g)
		}},
		{name: "a passed deadline is not noticed by a create", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return f.doCreate(context.WithoutCancel(ctx), g)
		}},
		{name: "what a create knows already is returned in spite of the context", caughtBy: create, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			f.mu.Lock()
			old := f.find(g.ID)
			f.mu.Unlock()
			if old != nil {
				ctx = context.WithoutCancel(ctx)
			}
			return f.doCreate(ctx, g)
		}},
		{name: "a consume ignores its context", caughtBy: consume, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			return f.doConsume(context.WithoutCancel(ctx), p)
		}},
		{name: "a cancelled consume spends the grant", caughtBy: consume, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(context.WithoutCancel(ctx), p)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return g, err
		}},
		{name: "a cancelled consume is not found", caughtBy: consume, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if ctx.Err() != nil {
				return nil, fositeconsent.ErrGrantNotFound
			}
			return f.doConsume(ctx, p)
		}},
		{name: "a cancelled consume is consumed and cancelled", caughtBy: consume, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if ctx.Err() != nil {
				return nil, errors.Join(ctx.Err(), fositeconsent.ErrGrantConsumed)
			}
			return f.doConsume(ctx, p)
		}},
		{name: "a passed deadline is not noticed by a consume", caughtBy: consume, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			return f.doConsume(context.WithoutCancel(ctx), p)
		}},
		{name: "the winner is answered in spite of the context", caughtBy: consume, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			f.mu.Lock()
			if r := f.find(p.ID); r != nil && r.spentBy == p.Attempt {
				ctx = context.WithoutCancel(ctx)
			}
			f.mu.Unlock()
			return f.doConsume(ctx, p)
		}},
		{name: "a create that is cancelled under way takes the key", caughtBy: underway, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := underWay(ctx)
			if err != nil {
				g = again(g) // nobody's
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			return cmp(err, f.insert(g))
		}},
		{name: "a create that is cancelled under way looks like success", caughtBy: underway, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if underWay(ctx) != nil {
				return nil
			}
			return f.doCreate(ctx, g)
		}},
		{name: "a create that is cancelled under way looks decided", caughtBy: underway, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if underWay(ctx) != nil {
				return fositeconsent.ErrAlreadyDecided
			}
			return f.doCreate(ctx, g)
		}},
		{name: "a consume that is cancelled under way spends the grant for nobody", caughtBy: underWay2, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			err := underWay(ctx)
			if err != nil {
				p.Attempt = newAttempt()
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			g, spendErr := f.spend(p)
			if err != nil {
				return nil, err
			}
			return g, spendErr
		}},
		{name: "a consume that is cancelled under way looks like success", caughtBy: underWay2, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if underWay(ctx) != nil {
				return f.give(f.find(p.ID)), nil
			}
			return f.doConsume(ctx, p)
		}},
		{name: "a consume that is cancelled under way is consumed", caughtBy: underWay2, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if underWay(ctx) != nil {
				return nil, fositeconsent.ErrGrantConsumed
			}
			return f.doConsume(ctx, p)
		}},
		{name: "a broken backend means consumed", caughtBy: broken, broken: func(create bool) (*fositeconsent.Grant, error) {
			if create {
				return nil, errUnreachable
			}
			return nil, fositeconsent.ErrGrantConsumed
		}},
		{name: "a broken backend means not found", caughtBy: broken, broken: func(create bool) (*fositeconsent.Grant, error) {
			if create {
				return nil, errUnreachable
			}
			return nil, fmt.Errorf("%w: %w", fositeconsent.ErrGrantNotFound, errUnreachable)
		}},
		{name: "a broken backend means already decided", caughtBy: broken, broken: func(create bool) (*fositeconsent.Grant, error) {
			if !create {
				return nil, errUnreachable
			}
			return nil, fositeconsent.ErrAlreadyDecided
		}},
		{name: "a broken backend means success", caughtBy: broken, broken: func(create bool) (*fositeconsent.Grant, error) {
			if !create {
				return nil, errUnreachable
			}
			return nil, nil
		}},
		{name: "a broken backend approves everything", caughtBy: broken, broken: func(create bool) (*fositeconsent.Grant, error) {
			if create {
				return nil, errUnreachable
			}
			return newGrant(), nil
		}},
		{name: "a broken backend is broken only now and then", caughtBy: broken, broken: func(bool) (*fositeconsent.Grant, error) {
			if rand.IntN(4) == 0 {
				return nil, fositeconsent.ErrGrantNotFound
			}
			return onBroken(errUnreachable)(true)
		}},

		// Errors that say too much, in the tests in which they would.
		{name: "an error holds the binding in hexadecimal", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return fmt.Sprintf("%x", p.Binding) })},
		{name: "an error holds the binding as numbers", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return fmt.Sprint(p.Binding) })},
		{name: "an error holds the presentation", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return fmt.Sprintf("%+v", p) })},
		{name: "an error holds the presentation in Go's syntax", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return fmt.Sprintf("%#v", p) })},
		{name: "an error holds the secret's hash in base64", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string {
			return base64.StdEncoding.EncodeToString(p.SecretHash[:])
		})},
		{name: "an error holds the secret's hash in base64url", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string {
			return base64.RawURLEncoding.EncodeToString(p.SecretHash[:])
		})},
		{name: "an error holds the secret's hash as it is", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return string(p.SecretHash[:]) })},
		{name: "an error holds the secret's hash quoted", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return fmt.Sprintf("%q", p.SecretHash[:]) })},
		{name: "an error holds the beginning of the secret's hash", caughtBy: binding, consume: leak(func(p fositeconsent.Presentation) string { return fmt.Sprintf("%X…", p.SecretHash[:10]) })},
		{name: "an error holds the stored binding", caughtBy: binding, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrBindingMismatch) {
				err = fmt.Errorf("%w: %x", err, f.find(p.ID).Binding)
			}
			return g, err
		}},
		{name: "the error of an unknown presentation holds it", caughtBy: unknown, consume: func(f *flawed, ctx context.Context, p fositeconsent.Presentation) (*fositeconsent.Grant, error) {
			g, err := f.doConsume(ctx, p)
			if errors.Is(err, fositeconsent.ErrGrantNotFound) {
				err = fmt.Errorf("%w: %v", err, p)
			}
			return g, err
		}},
		{name: "the error of an invalid grant holds it", caughtBy: incomplete, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			if errors.Is(err, errInvalid) {
				err = fmt.Errorf("%w: %v", err, *g)
			}
			return err
		}},
		{name: "the error of a second decision holds its secret's hash", caughtBy: once, create: func(f *flawed, ctx context.Context, g *fositeconsent.Grant) error {
			err := f.doCreate(ctx, g)
			if errors.Is(err, fositeconsent.ErrAlreadyDecided) {
				err = fmt.Errorf("%w: Key (secret_hash)=(\\x%x) already exists", err, g.SecretHash)
			}
			return err
		}},
	}
}()

// cmp returns the first of two errors.
func cmp(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
