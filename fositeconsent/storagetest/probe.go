package storagetest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
)

// patience bounds one test, so that a call that never returns is reported by the
// name of the test that it hangs in, as far as the storage obeys its context.
const patience = 2 * time.Minute

// presenters is how many calls race each other, and rounds how often they do.
const (
	presenters = 32
	rounds     = 4
)

var tokenTypes = []fosite.TokenType{
	fosite.AuthorizeCode, fosite.AccessToken, fosite.RefreshToken, fosite.IDToken, fosite.PushedAuthorizeRequestContext,
}

// outcome is what a call said: that it succeeded, something that fosite's handlers
// act on, or that it failed and nothing is known.
type outcome string

const (
	succeeded   outcome = "success"
	notFound    outcome = "fosite.ErrNotFound"
	invalidated outcome = "fosite.ErrInvalidatedAuthorizeCode"
	inactive    outcome = "fosite.ErrInactiveToken"
	jtiKnown    outcome = "fosite.ErrJTIKnown"
	conflict    outcome = "fosite.ErrSerializationFailure"
	failed      outcome = "another error"
)

// sentinels are the errors by which a storage claims to know something.
var sentinels = []struct {
	err  error
	says outcome
}{
	{fosite.ErrNotFound, notFound},
	{fosite.ErrInvalidatedAuthorizeCode, invalidated},
	{fosite.ErrInactiveToken, inactive},
	{fosite.ErrJTIKnown, jtiKnown},
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
	if errors.Is(err, fosite.ErrSerializationFailure) {
		return conflict
	}
	return failed
}

// probe is one test's view of the storages it asks for.
type probe struct {
	*testing.T
	config Config
}

// open asks for a storage, and registers a client with it.
func (p *probe) open() *checked {
	p.Helper()
	return p.openWith(Options{})
}

// openWithClock returns a storage and the clock that it was told to ask.
func (p *probe) openWithClock() (*checked, *clock) {
	p.Helper()
	c := newClock()
	s := p.openWith(Options{Now: c.Now})
	s.now = c.Now
	return s, c
}

func (p *probe) openWith(o Options) *checked {
	p.Helper()
	under := p.config.New(p, o)
	if under == nil {
		p.Fatal("storagetest: Config.New returned nil")
	}
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	p.Cleanup(cancel)
	s := &checked{T: p.T, config: p.config, ctx: ctx, under: under, now: time.Now, seen: newSeen()}
	if !p.config.lacks(PKCE) {
		s.pkce, _ = under.(pkceStorage)
	}
	if !p.config.lacks(OpenIDConnect) {
		s.openid, _ = under.(openIDStorage)
	}
	if !p.config.lacks(PAR) {
		s.par, _ = under.(fosite.PARStorage)
	}
	if !p.config.lacks(JWTBearer) {
		s.jwts, _ = under.(jwtBearerStorage)
	}
	if !p.config.lacks(Nonces) {
		s.nonces, _ = under.(nonceStorage)
	}
	if !p.config.lacks(Transactions) {
		s.tx, _ = under.(transactional)
	}
	s.client = newClient()
	if !o.Broken {
		p.config.AddClient(p, under, s.client)
	}
	return s
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

// checked passes calls on to a storage and checks of each of them that it returns
// what its error promises, and that no error holds a secret.
type checked struct {
	*testing.T
	config Config
	ctx    context.Context
	under  Storage
	client fosite.Client
	now    func() time.Time
	seen   *seen

	// The parts, nil if they are left out.
	pkce   pkceStorage
	openid openIDStorage
	par    fosite.PARStorage
	jwts   jwtBearerStorage
	nonces nonceStorage
	tx     transactional
}

// step runs a sub-test that uses the same storage.
func (s *checked) step(sentence string, test func(s *checked)) {
	s.Helper()
	s.Run(sentence, func(t *testing.T) {
		step := *s
		step.T = t
		test(&step)
	})
}

// key is a code or a token. Most methods get the signature alone.
type key struct{ whole, signature string }

// newKey returns a key in the form of fosite's HMAC strategy: a prefix, the secret, a
// dot, the signature.
func newKey(prefix string) key {
	random := func() string {
		var b [32]byte
		_, _ = rand.Read(b[:])
		return base64.RawURLEncoding.EncodeToString(b[:])
	}
	signature := random()
	return key{whole: prefix + random() + "." + signature, signature: signature}
}

func newCode() key    { return newKey("ory_ac_") }
func newAccess() key  { return newKey("ory_at_") }
func newRefresh() key { return newKey("ory_rt_") }

// tokens is what one redemption or rotation issues.
type tokens struct{ access, refresh key }

func newTokens() tokens { return tokens{access: newAccess(), refresh: newRefresh()} }

// newID returns a request ID as fosite makes them: a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newClient() *fosite.DefaultClient {
	return &fosite.DefaultClient{
		ID:            "client-" + rand.Text(),
		Secret:        []byte("$2a$10$" + rand.Text()),
		RedirectURIs:  []string{"https://client.example/callback?a=1&b=%2F", "com.example.app:/callback"},
		GrantTypes:    []string{"authorization_code", "refresh_token", "implicit"},
		ResponseTypes: []string{"code", "code id_token token"},
		Scopes:        []string{"openid", "offline", "photos.read", "photos.*"},
		Audience:      []string{"https://photos.example/api", "https://albums.example/"},
	}
}

// expiry is how long after now the sample's tokens expire.
var expiry = map[fosite.TokenType]time.Duration{
	fosite.AuthorizeCode:                 10 * time.Minute,
	fosite.AccessToken:                   time.Hour,
	fosite.RefreshToken:                  720 * time.Hour,
	fosite.IDToken:                       61 * time.Minute,
	fosite.PushedAuthorizeRequestContext: 5 * time.Minute,
}

// newSession returns a session with everything in it.
func (s *checked) newSession(subject string) fosite.Session {
	session := s.config.NewSession()
	s.config.FillSession(session, subject)
	for kind, after := range expiry {
		session.SetExpiresAt(kind, s.instant().Add(after))
	}
	return session
}

// instant is now, to the millisecond: what a storage has to keep of a time.
func (s *checked) instant() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

// newRequest returns a request like any other, with a form of what is kept of every request.
func (s *checked) newRequest() *fosite.Request {
	r := &fosite.Request{
		ID:                newID(),
		RequestedAt:       s.instant().Add(-time.Second),
		Client:            s.client,
		RequestedScope:    fosite.Arguments{"openid", "offline", "photos.read"},
		GrantedScope:      fosite.Arguments{"photos.read", "openid", "offline"},
		RequestedAudience: fosite.Arguments{"https://photos.example/api", "https://albums.example/"},
		GrantedAudience:   fosite.Arguments{"https://photos.example/api"},
		Session:           s.newSession("subject-" + rand.Text()),
		Form: url.Values{
			"client_id":     {s.client.GetID()},
			"response_type": {"code"},
			"scope":         {"openid offline photos.read"},
		},
	}
	_ = r.Lang.UnmarshalText([]byte("de-AT"))
	return r
}

// with returns a request of the same authorization with other parameters added, as
// fosite's Sanitize leaves them to one handler. It shares the rest with r.
func with(r *fosite.Request, form url.Values) *fosite.Request {
	c := *r
	c.Form = cloneForm(r.Form)
	maps.Copy(c.Form, cloneForm(form))
	return &c
}

func cloneForm(form url.Values) url.Values {
	c := make(url.Values, len(form))
	for name, values := range form {
		c[name] = slices.Clone(values)
	}
	return c
}

// What fosite stores with a code beyond every request's parameters.
var (
	codeForm   = url.Values{"redirect_uri": {"https://client.example/callback?a=1&b=%2F"}}
	pkceForm   = url.Values{"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"}}
	openIDForm = url.Values{"nonce": {"n-0S6_WzA2Mj"}, "max_age": {"3600"}, "prompt": {"login consent"}, "acr_values": {"b a"}}
)

// clone shares nothing with the original.
func clone(r *fosite.Request) *fosite.Request {
	c := *r
	c.RequestedScope, c.GrantedScope = slices.Clone(r.RequestedScope), slices.Clone(r.GrantedScope)
	c.RequestedAudience, c.GrantedAudience = slices.Clone(r.RequestedAudience), slices.Clone(r.GrantedAudience)
	c.Form = cloneForm(r.Form)
	if r.Session != nil {
		c.Session = r.Session.Clone()
	}
	return &c
}

// pushed returns a request as fosite pushes it.
func pushed(r *fosite.Request) *fosite.AuthorizeRequest {
	redirect, err := url.Parse(r.Client.GetRedirectURIs()[0])
	if err != nil {
		panic(err)
	}
	return &fosite.AuthorizeRequest{
		ResponseTypes:        fosite.Arguments{"code", "id_token"},
		RedirectURI:          redirect,
		State:                r.Form.Get("state"),
		HandledResponseTypes: fosite.Arguments{"code"},
		ResponseMode:         fosite.ResponseModeFormPost,
		DefaultResponseMode:  fosite.ResponseModeFragment,
		Request:              *r,
	}
}

// newRequestURI returns the name of a pushed request, as fosite makes it.
func newRequestURI() string { return "urn:ietf:params:oauth:request_uri:" + newKey("").signature }

// The calls. Each learns which secrets it was told and inspects the error.

func (s *checked) createCode(ctx context.Context, k key, r fosite.Requester) error {
	s.Helper()
	s.learn(k)
	return s.inspect("CreateAuthorizeCodeSession", s.under.CreateAuthorizeCodeSession(ctx, k.signature, r))
}

func (s *checked) getCode(ctx context.Context, k key, session fosite.Session) (fosite.Requester, error) {
	s.Helper()
	s.learn(k)
	r, err := s.under.GetAuthorizeCodeSession(ctx, k.signature, session)
	return s.got("GetAuthorizeCodeSession", r, err)
}

func (s *checked) invalidateCode(ctx context.Context, k key) error {
	s.Helper()
	s.learn(k)
	return s.inspect("InvalidateAuthorizeCodeSession", s.under.InvalidateAuthorizeCodeSession(ctx, k.signature))
}

func (s *checked) createPKCE(ctx context.Context, k key, r fosite.Requester) error {
	s.Helper()
	s.learn(k)
	return s.inspect("CreatePKCERequestSession", s.pkce.CreatePKCERequestSession(ctx, k.signature, r))
}

func (s *checked) getPKCE(ctx context.Context, k key, session fosite.Session) (fosite.Requester, error) {
	s.Helper()
	s.learn(k)
	r, err := s.pkce.GetPKCERequestSession(ctx, k.signature, session)
	return s.got("GetPKCERequestSession", r, err)
}

func (s *checked) deletePKCE(ctx context.Context, k key) error {
	s.Helper()
	s.learn(k)
	return s.inspect("DeletePKCERequestSession", s.pkce.DeletePKCERequestSession(ctx, k.signature))
}

func (s *checked) createOpenID(ctx context.Context, k key, r fosite.Requester) error {
	s.Helper()
	s.learn(k)
	return s.inspect("CreateOpenIDConnectSession", s.openid.CreateOpenIDConnectSession(ctx, k.whole, r))
}

// getOpenID passes, as fosite does, the token request with its session.
func (s *checked) getOpenID(ctx context.Context, k key, session fosite.Session) (fosite.Requester, error) {
	s.Helper()
	s.learn(k)
	request := fosite.NewAccessRequest(session)
	request.Client = s.client
	request.Form = url.Values{"grant_type": {"authorization_code"}}
	r, err := s.openid.GetOpenIDConnectSession(ctx, k.whole, request)
	return s.got("GetOpenIDConnectSession", r, err)
}

func (s *checked) deleteOpenID(ctx context.Context, k key) error {
	s.Helper()
	s.learn(k)
	return s.inspect("DeleteOpenIDConnectSession", s.openid.DeleteOpenIDConnectSession(ctx, k.whole))
}

func (s *checked) createAccess(ctx context.Context, k key, r fosite.Requester) error {
	s.Helper()
	s.learn(k)
	return s.inspect("CreateAccessTokenSession", s.under.CreateAccessTokenSession(ctx, k.signature, r))
}

func (s *checked) getAccess(ctx context.Context, k key, session fosite.Session) (fosite.Requester, error) {
	s.Helper()
	s.learn(k)
	r, err := s.under.GetAccessTokenSession(ctx, k.signature, session)
	return s.got("GetAccessTokenSession", r, err)
}

func (s *checked) deleteAccess(ctx context.Context, k key) error {
	s.Helper()
	s.learn(k)
	return s.inspect("DeleteAccessTokenSession", s.under.DeleteAccessTokenSession(ctx, k.signature))
}

func (s *checked) createRefresh(ctx context.Context, t tokens, r fosite.Requester) error {
	s.Helper()
	s.learn(t.access)
	s.learn(t.refresh)
	return s.inspect("CreateRefreshTokenSession", s.under.CreateRefreshTokenSession(ctx, t.refresh.signature, t.access.signature, r))
}

func (s *checked) getRefresh(ctx context.Context, k key, session fosite.Session) (fosite.Requester, error) {
	s.Helper()
	s.learn(k)
	r, err := s.under.GetRefreshTokenSession(ctx, k.signature, session)
	return s.got("GetRefreshTokenSession", r, err)
}

func (s *checked) deleteRefresh(ctx context.Context, k key) error {
	s.Helper()
	s.learn(k)
	return s.inspect("DeleteRefreshTokenSession", s.under.DeleteRefreshTokenSession(ctx, k.signature))
}

func (s *checked) rotateRefresh(ctx context.Context, requestID string, k key) error {
	s.Helper()
	s.learn(k)
	return s.inspect("RotateRefreshToken", s.under.RotateRefreshToken(ctx, requestID, k.signature))
}

func (s *checked) revokeRefresh(ctx context.Context, requestID string) error {
	s.Helper()
	return s.inspect("RevokeRefreshToken", s.under.RevokeRefreshToken(ctx, requestID))
}

func (s *checked) revokeAccess(ctx context.Context, requestID string) error {
	s.Helper()
	return s.inspect("RevokeAccessToken", s.under.RevokeAccessToken(ctx, requestID))
}

func (s *checked) push(ctx context.Context, requestURI string, r fosite.AuthorizeRequester) error {
	s.Helper()
	return s.inspect("CreatePARSession", s.par.CreatePARSession(ctx, requestURI, r))
}

func (s *checked) getPushed(ctx context.Context, requestURI string) (fosite.AuthorizeRequester, error) {
	s.Helper()
	r, err := s.par.GetPARSession(ctx, requestURI)
	_ = s.inspect("GetPARSession", err)
	if err == nil && r == nil {
		s.Error("GetPARSession returned neither a request nor an error")
		r = fosite.NewAuthorizeRequest()
	}
	return r, err
}

func (s *checked) deletePushed(ctx context.Context, requestURI string) error {
	s.Helper()
	return s.inspect("DeletePARSession", s.par.DeletePARSession(ctx, requestURI))
}

func (s *checked) begin(ctx context.Context) (context.Context, error) {
	s.Helper()
	inside, err := s.tx.BeginTX(ctx)
	if err == nil && inside == nil {
		s.Error("BeginTX returned neither a context nor an error")
		inside = ctx
	}
	return inside, s.inspect("BeginTX", err)
}

func (s *checked) commit(ctx context.Context) error {
	s.Helper()
	return s.inspect("Commit", s.tx.Commit(ctx))
}

func (s *checked) rollback(ctx context.Context) error {
	s.Helper()
	return s.inspect("Rollback", s.tx.Rollback(ctx))
}

// got checks that a request comes with success, and with the error of this call of
// which fosite uses the request. Another call may fail for what was done before it in the
// same transaction.
func (s *checked) got(call string, r fosite.Requester, err error) (fosite.Requester, error) {
	s.Helper()
	_ = s.inspect(call, err)
	says := outcomeOf(err)
	if r == nil && (says == succeeded || says == invalidated && call == "GetAuthorizeCodeSession" || says == inactive && call == "GetRefreshTokenSession") {
		s.Errorf("%s returned %s without a request", call, says)
		r = fosite.NewRequest()
	}
	return r, err
}

// inspect checks what holds for every error, and returns it.
func (s *checked) inspect(call string, err error) error {
	s.Helper()
	if err == nil {
		return nil
	}
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel.err) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			s.Errorf("%s reported an interrupted call as %s: %v", call, sentinel.says, err)
		}
	}
	if spelling := s.seen.search(texts(err)); spelling != "" {
		s.Errorf("%s returned an error that holds a code, a token or a signature, %s", call, spelling)
	}
	return err
}

// texts is all that an error can tell, to a log or, by fosite, to a client.
func texts(err error) string {
	var all strings.Builder
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		fmt.Fprintf(&all, "%s\n%+v\n", err.Error(), err)
		var rfc *fosite.RFC6749Error
		if errors.As(err, &rfc) {
			fmt.Fprintf(&all, "%s\n%s\n%s\n", rfc.DescriptionField, rfc.HintField, rfc.DebugField)
			if cause := rfc.Cause(); cause != nil && cause != err {
				fmt.Fprintf(&all, "%+v\n", cause)
			}
		}
		if several, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range several.Unwrap() {
				walk(err)
			}
			return
		}
		walk(errors.Unwrap(err))
	}
	walk(err)
	return all.String()
}

// seen is what one storage was told and must not tell.
type seen struct {
	mu sync.Mutex
	// secrets are what no error may hold, by the ways to write them, which are nil
	// until they are needed.
	secrets map[string]map[string][]string
	// texts are the errors' texts that have been looked through. One that comes
	// up again cannot hold what became known in between: that is random.
	texts map[string]bool
}

func newSeen() *seen {
	return &seen{secrets: make(map[string]map[string][]string), texts: make(map[string]bool)}
}

// learn remembers a code or a token, which no error may hold. What is too short to
// be one, a test's odd key, is not looked for.
func (s *checked) learn(k key) {
	s.seen.learn(k.signature)
	if whole, ok := strings.CutSuffix(k.whole, "."+k.signature); ok {
		s.seen.learn(whole)
	} else {
		s.seen.learn(k.whole)
	}
}

func (s *seen) learn(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.secrets[secret]; !known && len(secret) >= 32 {
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
			written = spellings(secret)
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

// spellings returns the ways in which a text usually ends up in another, cut into
// pieces of which each is telling, so that an abbreviation is found as well.
func spellings(text string) map[string][]string {
	bytes := []byte(text)
	all := map[string]string{
		"as it is":           text,
		"quoted":             strings.Trim(fmt.Sprintf("%q", text), `"`),
		"in hexadecimal":     hex.EncodeToString(bytes),
		"in upper-case hex":  strings.ToUpper(hex.EncodeToString(bytes)),
		"in base64":          base64.RawStdEncoding.EncodeToString(bytes),
		"in base64url":       base64.RawURLEncoding.EncodeToString(bytes),
		"as decimal numbers": strings.Trim(fmt.Sprint(bytes), "[]"),
	}
	pieces := make(map[string][]string, len(all))
	for spelling, text := range all {
		for n := len(text) / 3; len(text) >= n; text = text[n:] {
			pieces[spelling] = append(pieces[spelling], text[:n])
		}
	}
	return pieces
}

// want compares the outcome of a call with those that are right.
func (s *checked) want(call string, err error, want ...outcome) {
	s.Helper()
	got := outcomeOf(err)
	switch {
	case slices.Contains(want, got):
	case got == failed:
		s.Errorf("%s: got the error %v, want %s", call, err, list(want))
	default:
		s.Errorf("%s: got %s, want %s", call, got, list(want))
	}
}

// must ends the test if a call did not succeed that the rest of it depends on.
func (s *checked) must(call string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: got %s, %v, want success", call, outcomeOf(err), err)
	}
}

// wantRefused wants any error.
func (s *checked) wantRefused(call string, err error) {
	s.Helper()
	if err == nil {
		s.Errorf("%s succeeded, want an error", call)
	}
}

func list(outcomes []outcome) string {
	texts := make([]string, len(outcomes))
	for i, o := range outcomes {
		texts[i] = string(o)
	}
	return strings.Join(texts, " or ")
}

// race runs n calls at once, as far as the machine can, and returns their errors.
func race(n int, call func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-start
			errs[i] = call(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	return errs
}

// winner returns the only call that succeeded, or -1.
func (s *checked) winner(what string, errs []error) int {
	s.Helper()
	winner, wins := -1, 0
	for i, err := range errs {
		if err == nil {
			winner, wins = i, wins+1
		}
	}
	if wins != 1 {
		first := slices.IndexFunc(errs, func(err error) bool { return err != nil })
		var example error
		if first >= 0 {
			example = errs[first]
		}
		s.Errorf("%d of %d %s succeeded, want 1; an error was: %v", wins, len(errs), what, example)
		return -1
	}
	return winner
}
