package consenttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// patience bounds one test, so that a call that never returns is reported by the
// name of the test that it hangs in, as far as the storage obeys its context.
const patience = time.Minute

// presenters is how many calls race each other.
const presenters = 64

// outcome is what a call said: that it succeeded, one of the reasons for which a
// storage may refuse, or that it failed and the outcome is unknown.
type outcome string

const (
	succeeded       outcome = "success"
	notFound        outcome = "ErrGrantNotFound"
	mismatched      outcome = "ErrBindingMismatch"
	alreadyConsumed outcome = "ErrGrantConsumed"
	grantRevoked    outcome = "ErrGrantRevoked"
	tooLate         outcome = "ErrGrantExpired"
	alreadyDecided  outcome = "ErrAlreadyDecided"
	consentRevoked  outcome = "ErrConsentRevoked"
	consentExpired  outcome = "ErrConsentExpired"
	failed          outcome = "an error that is none of the sentinels"
)

// sentinels are the errors by which a storage claims to know something.
var sentinels = []struct {
	err  error
	says outcome
}{
	{fositeconsent.ErrGrantNotFound, notFound},
	{fositeconsent.ErrBindingMismatch, mismatched},
	{fositeconsent.ErrGrantConsumed, alreadyConsumed},
	{fositeconsent.ErrGrantRevoked, grantRevoked},
	{fositeconsent.ErrGrantExpired, tooLate},
	{fositeconsent.ErrAlreadyDecided, alreadyDecided},
	{fositeconsent.ErrConsentRevoked, consentRevoked},
	{fositeconsent.ErrConsentExpired, consentExpired},
}

func outcomeOf(err error) outcome {
	if err == nil {
		return succeeded
	}
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel.err) {
			return sentinel.says
		}
	}
	return failed
}

// probe is one test's view of the storages it asks for. It checks of each call
// what holds for all of them.
type probe struct {
	*testing.T
	newStorage func(testing.TB, Options) fositeconsent.GrantStorage
}

// open asks for a storage.
func (p *probe) open(o Options) *checked {
	p.Helper()
	s := &checked{T: p.T, under: p.newStorage(p, o), seen: &seen{secrets: make(map[[32]byte]map[string][]string), texts: make(map[string]bool)}}
	if s.under == nil {
		p.Fatal("newStorage returned nil")
	}
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	p.Cleanup(cancel)
	s.ctx = ctx
	return s
}

// openWithClock returns a storage and the clock that it was told to ask.
func (p *probe) openWithClock() (*checked, *clock) {
	p.Helper()
	c := newClock()
	return p.open(Options{Now: c.Now}), c
}

// clock stands still until it is moved.
type clock struct {
	start  time.Time
	offset atomic.Int64
}

// newClock returns a clock that nobody can mistake for the real one, nor for a
// count of seconds, nor for UTC.
func newClock() *clock {
	start := time.Now().Add(25*time.Hour + 17*time.Minute).Truncate(time.Second).Add(123 * time.Millisecond)
	return &clock{start: start.In(time.FixedZone("", -(3*60+30)*60))}
}

func (c *clock) Now() time.Time          { return c.start.Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// checked passes calls on to a storage and checks of each of them that its error
// is one sentinel or none, comes without a grant, and holds no secret.
type checked struct {
	*testing.T
	ctx   context.Context
	under fositeconsent.GrantStorage
	seen  *seen
}

// seen is what one storage's calls have brought up.
type seen struct {
	mu sync.Mutex
	// secrets are what no error may hold, by the ways to write them, which are
	// nil until they are needed.
	secrets map[[32]byte]map[string][]string
	// texts are the errors' texts that have been looked through. One that comes
	// up again cannot hold what became known in between: that is random.
	texts map[string]bool
}

// step runs a sub-test that uses the same storage.
func (s *checked) step(sentence string, test func(s *checked)) {
	s.Helper()
	s.Run(sentence, func(t *testing.T) {
		test(&checked{T: t, ctx: s.ctx, under: s.under, seen: s.seen})
	})
}

func (s *checked) create(grant *fositeconsent.Grant) error {
	s.Helper()
	return s.createIn(s.ctx, grant)
}

func (s *checked) createIn(ctx context.Context, grant *fositeconsent.Grant) error {
	s.Helper()
	s.seen.learn(grant.SecretHash)
	s.seen.learn(grant.Binding)
	err := s.under.CreateConsentGrant(ctx, grant)
	s.inspect("CreateConsentGrant", err)
	if says := outcomeOf(err); says != succeeded && says != alreadyDecided && says != failed {
		s.Errorf("CreateConsentGrant returned a reason for which only a consume may be refused: %v", err)
	}
	return err
}

func (s *checked) consume(presentation fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	s.Helper()
	return s.consumeIn(s.ctx, presentation)
}

func (s *checked) consumeIn(ctx context.Context, presentation fositeconsent.Presentation) (*fositeconsent.Grant, error) {
	s.Helper()
	s.seen.learn(presentation.SecretHash)
	s.seen.learn(presentation.Binding)
	grant, err := s.under.ConsumeConsentGrant(ctx, presentation)
	s.inspect("ConsumeConsentGrant", err)
	switch {
	case err == nil && grant == nil:
		s.Error("ConsumeConsentGrant returned neither a grant nor an error")
		grant = &fositeconsent.Grant{}
	case err != nil && grant != nil:
		s.Errorf("ConsumeConsentGrant returned a grant with the error %v", err)
	}
	if says := outcomeOf(err); says == alreadyDecided || says == consentRevoked || says == consentExpired {
		s.Errorf("ConsumeConsentGrant returned a reason for which only another call may be refused: %v", err)
	}
	return grant, err
}

// mint stores the grant or ends the test.
func (s *checked) mint(grant *fositeconsent.Grant) {
	s.Helper()
	if err := s.create(grant); err != nil {
		s.Fatalf("CreateConsentGrant: got %v, want success", err)
	}
}

// wantCreate creates and compares the outcome.
func (s *checked) wantCreate(grant *fositeconsent.Grant, want outcome) {
	s.Helper()
	s.compare("CreateConsentGrant", s.create(grant), want)
}

// compare compares the outcome of a call with the right one.
func (s *checked) compare(call string, err error, want outcome) {
	s.Helper()
	switch got := outcomeOf(err); {
	case got == want:
	case got == failed:
		s.Errorf("%s: got the error %v, want %s", call, err, want)
	default:
		s.Errorf("%s: got %s, want %s", call, got, want)
	}
}

// wantRefused consumes and compares the reason.
func (s *checked) wantRefused(presentation fositeconsent.Presentation, want outcome) {
	s.Helper()
	_, err := s.consume(presentation)
	s.compare("ConsumeConsentGrant", err, want)
}

// wantConsumed consumes, compares what comes back with what was created, and
// returns it.
func (s *checked) wantConsumed(presentation fositeconsent.Presentation, created *fositeconsent.Grant) *fositeconsent.Grant {
	s.Helper()
	grant, err := s.consume(presentation)
	if err != nil {
		s.Errorf("ConsumeConsentGrant: got %v, want success", err)
		return &fositeconsent.Grant{}
	}
	s.wantSame(grant, created)
	return grant
}

// wantSame compares a returned grant with the created one in everything but DecidedAt.
func (s *checked) wantSame(got, created *fositeconsent.Grant) {
	s.Helper()
	differs := func(field string, got, want any) {
		s.Helper()
		s.Errorf("the returned grant's %s is %#v, want %#v", field, got, want)
	}
	if got.ID != created.ID {
		differs("ID", got.ID.String(), created.ID.String())
	}
	if got.SecretHash != created.SecretHash {
		s.Error("the returned grant's SecretHash is another one")
	}
	if got.Binding != created.Binding {
		s.Error("the returned grant's Binding is another one")
	}
	if got.Subject != created.Subject {
		differs("Subject", got.Subject, created.Subject)
	}
	if got.ClientID != created.ClientID {
		differs("ClientID", got.ClientID, created.ClientID)
	}
	if !slices.Equal(got.Scopes, created.Scopes) {
		differs("Scopes", got.Scopes, created.Scopes)
	}
	if !slices.Equal(got.Audience, created.Audience) {
		differs("Audience", got.Audience, created.Audience)
	}
	if !bytes.Equal(got.Data, created.Data) {
		differs("Data", shorten(got.Data), shorten(created.Data))
	}
	if r, want := got.Remember, created.Remember; (r == nil) != (want == nil) || r != nil && *r != *want {
		differs("Remember", got.Remember, created.Remember)
	}
	if got.Shown != created.Shown {
		differs("Shown", got.Shown, created.Shown)
	}
	if got.Denied {
		differs("Denied", true, false)
	}
	if got.Lifespan != 0 {
		differs("Lifespan", got.Lifespan.String(), "0s: it tells nothing once the grant is spent")
	}
	if got.DecidedAt.IsZero() {
		s.Error("the returned grant's DecidedAt is not set")
	}
}

func shorten(b []byte) string {
	if len(b) > 64 {
		return fmt.Sprintf("%x… (%d bytes)", b[:64], len(b))
	}
	return fmt.Sprintf("%x", b)
}

// inspect checks what holds for every error.
func (s *checked) inspect(call string, err error) {
	s.Helper()
	if err == nil {
		return
	}
	held := 0
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel.err) {
			held++
		}
	}
	if held > 1 {
		s.Errorf("%s returned an error that is %d sentinels at once: %v", call, held, err)
	}
	if held > 0 && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		s.Errorf("%s reported an interrupted call as one of the sentinels: %v", call, err)
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err)} {
		if spelling := s.seen.search(text); spelling != "" {
			s.Errorf("%s returned an error that holds a secret's hash or a binding as %s: %q", call, spelling, text)
		}
	}
}

// learn remembers a value that no error may hold.
func (s *seen) learn(secret [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.secrets[secret]; !known && secret != ([32]byte{}) {
		s.secrets[secret] = nil
	}
}

// search returns how a secret is written in the text, or "".
func (s *seen) search(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.texts[text] {
		return ""
	}
	s.texts[text] = true
	for secret, written := range s.secrets {
		if written == nil {
			written = spellings(secret[:])
			s.secrets[secret] = written
		}
		for spelling, pieces := range written {
			if slices.ContainsFunc(pieces, func(piece string) bool { return strings.Contains(text, piece) }) {
				return spelling
			}
		}
	}
	return ""
}

// spellings returns the ways in which bytes usually end up in a text, cut into
// pieces of which each is telling, so that an abbreviation is found as well.
func spellings(b []byte) map[string][]string {
	all := map[string]string{
		"raw bytes":             string(b),
		"quoted bytes":          strings.Trim(fmt.Sprintf("%q", b), `"`),
		"hexadecimal":           hex.EncodeToString(b),
		"upper-case hex":        strings.ToUpper(hex.EncodeToString(b)),
		"hexadecimal list":      strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}"),
		"base64":                base64.RawStdEncoding.EncodeToString(b),
		"base64url":             base64.RawURLEncoding.EncodeToString(b),
		"decimal numbers":       strings.Trim(fmt.Sprint(b), "[]"),
		"a list of decimals":    strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ", "),
		"a JSON array":          strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ","),
		"octal escapes":         octal(b),
		"a list of hex numbers": strings.Trim(fmt.Sprintf("% x", b), "[]"),
	}
	pieces := make(map[string][]string, len(all))
	for spelling, text := range all {
		for n := len(text) / 4; len(text) >= n; text = text[n:] {
			pieces[spelling] = append(pieces[spelling], text[:n])
		}
	}
	return pieces
}

// octal spells bytes as PostgreSQL's escape format does, all of them escaped.
func octal(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\%03o`, c)
	}
	return s.String()
}

// tally counts outcomes.
type tally map[outcome]int

// wantTally compares the outcomes of a race, exactly.
func (s *checked) wantTally(got, want tally) {
	s.Helper()
	for _, o := range []outcome{
		succeeded, notFound, mismatched, alreadyConsumed, grantRevoked, tooLate, alreadyDecided, consentRevoked, consentExpired, failed,
	} {
		if got[o] != want[o] {
			s.Errorf("%d calls ended in %s, want %d", got[o], o, want[o])
		}
	}
}

// race runs n calls at once, as far as the machine can, and counts their outcomes.
func (s *checked) race(n int, call func(i int) error) tally {
	s.Helper()
	outcomes := make([]error, n)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-start
			outcomes[i] = call(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	counts := make(tally)
	for _, err := range outcomes {
		counts[outcomeOf(err)]++
	}
	return counts
}

// newGrant returns an approval like any other, under random keys.
func newGrant() *fositeconsent.Grant {
	return &fositeconsent.Grant{
		ID:         newID(),
		SecretHash: random32(),
		Binding:    random32(),
		Subject:    "subject-" + rand.Text(),
		ClientID:   "client-" + rand.Text(),
		Scopes:     []string{"openid", "photos.read", "offline_access"},
		Audience:   []string{"https://photos.example/api", "https://albums.example/"},
		Data:       []byte(rand.Text()),
		Lifespan:   10 * time.Minute,
	}
}

// newDenial returns a denial of the same prompt.
func newDenial(of *fositeconsent.Grant) *fositeconsent.Grant {
	denial := again(of)
	denial.Denied = true
	denial.Scopes, denial.Audience, denial.Data = nil, nil, nil
	return denial
}

// again returns another decision on the same prompt: the same request, another secret.
func again(of *fositeconsent.Grant) *fositeconsent.Grant {
	grant := clone(of)
	grant.SecretHash = random32()
	return &grant
}

// present returns a new attempt of the right presenter.
func present(grant *fositeconsent.Grant) fositeconsent.Presentation {
	return fositeconsent.Presentation{ID: grant.ID, SecretHash: grant.SecretHash, Binding: grant.Binding, Attempt: newAttempt()}
}

func newID() (id fositeconsent.ID) {
	_, _ = rand.Read(id[:])
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

func newAttempt() (a fositeconsent.Attempt) {
	_, _ = rand.Read(a[:])
	return a
}

func random32() (b [32]byte) {
	_, _ = rand.Read(b[:])
	return b
}
