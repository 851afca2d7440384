package consentapitest

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
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consenttest"
)

// patience bounds one test, so that a call that never returns is reported by the name of the test that it hangs in.
const patience = time.Minute

// callers is how many calls race each other.
const callers = 64

// errFailed stands for every error that is none of the sentinels.
var errFailed = errors.New("an error that is none of the sentinels")

var sentinels = []error{
	consentapi.ErrRequestNotFound, consentapi.ErrRequestAnswered, consentapi.ErrRequestUsed, consentapi.ErrRequestRevoked, consentapi.ErrRequestExpired,
}

// outcome is the sentinel that an error is, errFailed if it is none, and nil for success.
func outcome(err error) error {
	if err == nil {
		return nil
	}
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			return sentinel
		}
	}
	return errFailed
}

// probe is one test's view of the storages it asks for.
type probe struct {
	*testing.T
	newStorage func(testing.TB, consenttest.Options) consentapi.RequestStorage
}

// open asks for a storage.
func (p *probe) open(o consenttest.Options) *checked {
	p.Helper()
	s := &checked{T: p.T, under: p.newStorage(p, o)}
	if s.under == nil {
		p.Fatal("newStorage returned nil")
	}
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	p.Cleanup(cancel)
	s.ctx = ctx
	return s
}

func (p *probe) openWithClock() (*checked, *clock) {
	p.Helper()
	start := time.Now().Add(25*time.Hour + 17*time.Minute).Truncate(time.Second).Add(123 * time.Millisecond)
	c := &clock{start: start.In(time.FixedZone("", -(3*60+30)*60))}
	return p.open(consenttest.Options{Now: c.Now}), c
}

// clock stands still until it is moved.
type clock struct {
	start  time.Time
	offset atomic.Int64
}

func (c *clock) Now() time.Time          { return c.start.Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// checked passes calls on to a storage and checks of each of them that its error is at most one sentinel, comes with
// nothing else, and holds no hash.
type checked struct {
	*testing.T
	ctx   context.Context
	under consentapi.RequestStorage
}

// want compares the outcome of a call, and reports whether it is right.
func (s *checked) want(call string, err, want error) bool {
	s.Helper()
	if got := outcome(err); got != want { //nolint:errorlint // one of ours
		s.Errorf("%s: got %v, want %v", call, err, want)
		return false
	}
	return true
}

func (s *checked) check(call string, err error, hashes ...consentapi.Hash) {
	s.Helper()
	if err == nil {
		return
	}
	said := 0
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			said++
		}
	}
	if said > 1 {
		s.Errorf("%s: the error %v is %d sentinels at once", call, err, said)
	}
	if said > 0 && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		s.Errorf("%s: the error %v is a sentinel and a context that is over", call, err)
	}
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for _, h := range hashes {
		if h == (consentapi.Hash{}) {
			continue
		}
		for _, form := range []string{hex.EncodeToString(h[:]), base64.StdEncoding.EncodeToString(h[:]), base64.RawURLEncoding.EncodeToString(h[:]), string(h[:]), fmt.Sprint(h[:])} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				s.Errorf("%s: the error holds a hash", call)
			}
		}
	}
}

func (s *checked) checkRequest(call string, r *consentapi.Request, err error) {
	s.Helper()
	if (r == nil) != (err != nil) {
		s.Errorf("%s returned a request (%v) and the error %v", call, r != nil, err)
	}
}

func (s *checked) createIn(ctx context.Context, r *consentapi.Request) error {
	s.Helper()
	err := s.under.CreateConsentRequest(ctx, r)
	s.check("CreateConsentRequest", err, r.Challenge, r.Browser)
	return err
}

func (s *checked) create(r *consentapi.Request) *consentapi.Request {
	s.Helper()
	if err := s.createIn(s.ctx, r); err != nil {
		s.Fatalf("CreateConsentRequest: %v", err)
	}
	return r
}

func (s *checked) findIn(ctx context.Context, id fositeconsent.ID, challenge consentapi.Hash) (*consentapi.Request, error) {
	s.Helper()
	r, err := s.under.FindConsentRequest(ctx, id, challenge)
	s.check("FindConsentRequest", err, challenge)
	s.checkRequest("FindConsentRequest", r, err)
	return r, err
}

func (s *checked) answeredIn(ctx context.Context, id fositeconsent.ID, verifier, browser consentapi.Hash) (*consentapi.Request, error) {
	s.Helper()
	r, err := s.under.FindAnsweredConsentRequest(ctx, id, verifier, browser)
	s.check("FindAnsweredConsentRequest", err, verifier, browser)
	s.checkRequest("FindAnsweredConsentRequest", r, err)
	return r, err
}

func (s *checked) answerIn(ctx context.Context, r *consentapi.Request, a *consentapi.Answer) (*consentapi.Request, error) {
	s.Helper()
	got, err := s.under.AnswerConsentRequest(ctx, r.ID, r.Challenge, a)
	s.check("AnswerConsentRequest", err, r.Challenge)
	s.checkRequest("AnswerConsentRequest", got, err)
	return got, err
}

// answer gives an answer that is taken, and compares what is returned.
func (s *checked) answer(r *consentapi.Request, a *consentapi.Answer) *consentapi.Answer {
	s.Helper()
	got, err := s.answerIn(s.ctx, r, a)
	if err != nil {
		s.Fatalf("AnswerConsentRequest: %v", err)
	}
	s.wantSame(got, r, a)
	return a
}

func (s *checked) useIn(ctx context.Context, r *consentapi.Request, a *consentapi.Answer) error {
	s.Helper()
	err := s.under.UseConsentRequest(ctx, r.ID, a.Verifier, r.Browser)
	s.check("UseConsentRequest", err, a.Verifier, r.Browser)
	return err
}

func (s *checked) use(r *consentapi.Request, a *consentapi.Answer) error {
	s.Helper()
	return s.useIn(s.ctx, r, a)
}

func (s *checked) revoke(selection fositeconsent.Selection) int {
	s.Helper()
	n, err := s.under.RevokeConsentRequests(s.ctx, selection)
	s.want("RevokeConsentRequests", err, nil)
	return n
}

// wantState looks at the request by both of its handles.
func (s *checked) wantState(r *consentapi.Request, a *consentapi.Answer, want consentapi.State) {
	s.Helper()
	got, err := s.findIn(s.ctx, r.ID, r.Challenge)
	if s.want("FindConsentRequest", err, nil) {
		s.wantSame(got, r, a)
		if got.State != want {
			s.Errorf("FindConsentRequest: the state is %q, want %q", got.State, want)
		}
	}
	if a == nil {
		return
	}
	got, err = s.answeredIn(s.ctx, r.ID, a.Verifier, r.Browser)
	if s.want("FindAnsweredConsentRequest", err, nil) {
		s.wantSame(got, r, a)
		if got.State != want {
			s.Errorf("FindAnsweredConsentRequest: the state is %q, want %q", got.State, want)
		}
	}
}

// wantSame compares a request in everything but its times and its state.
func (s *checked) wantSame(got, created *consentapi.Request, answer *consentapi.Answer) {
	s.Helper()
	if got.ID != created.ID || got.Challenge != created.Challenge || got.Browser != created.Browser || got.Subject != created.Subject ||
		got.ClientID != created.ClientID || got.LoginSession != created.LoginSession || !bytes.Equal(got.Document, created.Document) {
		s.Errorf("the returned request differs from the one that was created: %s of %q for %q in %q", got.ID, got.Subject, got.ClientID, got.LoginSession)
	}
	if got.Lifespan != 0 || got.CreatedAt.IsZero() || !got.ExpiresAt.After(got.CreatedAt) {
		s.Errorf("the returned request has the Lifespan %v, CreatedAt %v and ExpiresAt %v", got.Lifespan, got.CreatedAt, got.ExpiresAt)
	}
	switch {
	case (got.Answer == nil) != (answer == nil):
		s.Errorf("the returned request has an answer: %v, want %v", got.Answer != nil, answer != nil)
	case answer == nil:
	case got.Answer.Accepted != answer.Accepted || got.Answer.Digest != answer.Digest || got.Answer.Verifier != answer.Verifier || !bytes.Equal(got.Answer.Document, answer.Document):
		s.Error("the returned answer differs from the one that was given")
	case got.Answer.AnsweredAt.IsZero():
		s.Error("the returned answer's AnsweredAt is not set")
	}
}

// race makes n calls at once and counts their outcomes.
func (s *checked) race(n int, call func(i int) error) map[error]int {
	s.Helper()
	outcomes := make([]error, n)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-start
			outcomes[i] = outcome(call(i))
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	counts := make(map[error]int)
	for _, o := range outcomes {
		counts[o]++
	}
	return counts
}

func (s *checked) wantTally(got map[error]int, want map[error]int) {
	s.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Errorf("got the outcomes %v, want %v", got, want)
	}
}

// overContexts runs the test with contexts that are over.
func (s *checked) overContexts(test func(over context.Context)) {
	s.Helper()
	over, cancel := context.WithCancel(s.ctx)
	cancel()
	test(over)
	late, cancelLate := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
	defer cancelLate()
	test(late)
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

func newHash() (h consentapi.Hash) {
	_, _ = rand.Read(h[:])
	return h
}

// newRequest returns a request like any other, under random keys.
func newRequest() *consentapi.Request {
	return &consentapi.Request{
		ID: newID(), Challenge: newHash(), Browser: newHash(),
		Subject: "subject-" + rand.Text(), ClientID: "client-" + rand.Text(), LoginSession: "login-" + rand.Text(),
		Document: []byte(`{"ticket":"` + rand.Text() + `"}`), Lifespan: 10 * time.Minute,
	}
}

func newAnswer(accepted bool) *consentapi.Answer {
	return &consentapi.Answer{Accepted: accepted, Digest: newHash(), Verifier: newHash(), Document: []byte(rand.Text())}
}

// flipped returns copies that differ in one bit each.
func flipped[T ~[16]byte | ~[32]byte](from T, size int) []T {
	var list []T
	for bit := range size * 8 {
		b := slices.Clone(asBytes(from))
		b[bit/8] ^= 1 << (bit % 8)
		list = append(list, asArray[T](b))
	}
	return list
}

func asBytes[T ~[16]byte | ~[32]byte](from T) []byte {
	switch v := any(from).(type) {
	case fositeconsent.ID:
		return v[:]
	case consentapi.Hash:
		return v[:]
	}
	return nil
}

func asArray[T ~[16]byte | ~[32]byte](b []byte) (t T) {
	switch v := any(&t).(type) {
	case *fositeconsent.ID:
		copy(v[:], b)
	case *consentapi.Hash:
		copy(v[:], b)
	}
	return t
}
