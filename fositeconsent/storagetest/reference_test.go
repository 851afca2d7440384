package storagetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"
)

// reference is a storage in memory that keeps the whole contract, as far as its flaw
// lets it.
//
// A transaction works on a copy and is repeated on the original when it is committed:
// what has changed in between makes it fail.
type reference struct {
	flaw
	newSession  func() fosite.Session
	now         func() time.Time
	unreachable bool

	mu      sync.Mutex
	clients map[string]fosite.Client
	data    *data
}

var errUnreachable = errors.New("connection refused")

// newReference returns a storage with a flaw, for a session type.
func newReference(f flaw, newSession func() fosite.Session, o Options) *reference {
	s := &reference{
		flaw: f, newSession: newSession, now: o.Now, unreachable: o.Broken,
		clients: make(map[string]fosite.Client),
		data: &data{
			rows: make(map[rowKey]row), jtis: make(map[string]time.Time), nonces: make(map[string]nonce), revoked: make(map[string]bool),
		},
	}
	if f.clock != nil {
		s.now = f.clock(o.Now)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

func addToReference(_ testing.TB, s Storage, client fosite.Client) {
	r := s.(interface{ reference() *reference }).reference()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[client.GetID()] = client
}

func (s *reference) reference() *reference { return s }

// data is what a storage keeps. Rows are never modified, but replaced.
type data struct {
	rows    map[rowKey]row
	jtis    map[string]time.Time
	nonces  map[string]nonce
	revoked map[string]bool // by request ID
	serial  int
}

type rowKey struct{ kind, key string }

type nonce struct {
	token     [32]byte
	expiresAt time.Time
}

// row is a stored request.
type row struct {
	request   fosite.AuthorizeRequest // without its session
	session   []byte
	requestID string
	signature string
	inactive  bool
	access    string // the access token that was issued with this refresh token
	serial    int    // counts rows as they are stored

	// What only the flaws need.
	original fosite.Requester
	returned *fosite.Requester
}

func (d *data) clone() *data {
	return &data{
		rows: maps.Clone(d.rows), jtis: maps.Clone(d.jtis), nonces: maps.Clone(d.nonces), revoked: maps.Clone(d.revoked), serial: d.serial,
	}
}

// transaction is what a context carries from BeginTX on.
type transaction struct {
	data     *data
	calls    []func(*data) error
	revoking []func(*data) error
	over     bool
	doomed   bool
}

type (
	txKey  struct{}
	handle struct {
		tx    *transaction
		inner bool
	}
)

func (s *reference) BeginTX(ctx context.Context) (context.Context, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.interrupted(ctx); err != nil {
		return nil, err
	}
	if h, ok := ctx.Value(txKey{}).(handle); ok && !h.tx.over && !s.nestedIsApart {
		return context.WithValue(ctx, txKey{}, handle{tx: h.tx, inner: !s.nestedIsOuter}), nil
	}
	return context.WithValue(ctx, txKey{}, handle{tx: &transaction{data: s.data.clone()}}), nil
}

func (s *reference) Commit(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := ctx.Value(txKey{}).(handle)
	if !ok || h.tx.over {
		if s.commitsNothing {
			return nil
		}
		return errors.New("there is no transaction")
	}
	if err := s.interrupted(ctx); err != nil {
		if s.commitsLate {
			_ = s.apply(h.tx)
		}
		if s.commitEnds {
			h.tx.over = true
		}
		return err
	}
	if h.inner {
		return nil
	}
	if h.tx.doomed {
		return errors.New("a transaction inside was rolled back")
	}
	return s.apply(h.tx)
}

// apply repeats a transaction's calls on the original.
func (s *reference) apply(tx *transaction) error {
	if s.refusesCommit != nil && s.refusesCommit(s, tx) {
		return fosite.ErrSerializationFailure
	}
	next := s.data.clone()
	for _, call := range tx.calls {
		if err := call(next); err != nil && !s.commitsTheRest {
			return fosite.ErrSerializationFailure
		}
	}
	if s.forgetsCommit == nil || !s.forgetsCommit(tx) {
		s.data = next
	}
	tx.over, tx.revoking = true, nil
	return nil
}

func (s *reference) Rollback(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rollbackInterrupted && ctx.Err() != nil {
		return ctx.Err()
	}
	if s.rollbackFails {
		return errOther
	}
	h, ok := ctx.Value(txKey{}).(handle)
	if !ok {
		if s.rollbackOfNothing {
			s.data = &data{rows: make(map[rowKey]row), jtis: make(map[string]time.Time), nonces: make(map[string]nonce), revoked: make(map[string]bool)}
		}
		return nil
	}
	if h.tx.over && s.rollbackTwice {
		return errors.New("the transaction is over")
	}
	if h.inner {
		h.tx.doomed = !s.innerRollbackIgnored
		return nil
	}
	if !s.revocationRolledBack {
		for _, call := range h.tx.revoking {
			_ = call(s.data) // it has succeeded before, and on all there is
		}
	}
	if s.rollbackCommits != nil && s.rollbackCommits(ctx) {
		return s.apply(h.tx)
	}
	h.tx.over, h.tx.revoking = true, nil
	return nil
}

// interrupted is asked under the lock, so that whoever gave up while waiting for
// it changes nothing.
func (s *reference) interrupted(ctx context.Context) error {
	if s.unreachable {
		if s.outage != nil {
			return s.outage()
		}
		return errUnreachable
	}
	return ctx.Err()
}

// do runs a call that changes something, inside the context's transaction if there is one.
func (s *reference) do(ctx context.Context, name string, call func(*data) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.interrupted(ctx); err != nil {
		switch {
		case s.late != nil && s.late(name):
			_ = call(s.data)
		case s.ignoresContext != nil && s.ignoresContext(name):
			return call(s.data)
		}
		return err
	}
	h, ok := ctx.Value(txKey{}).(handle)
	if !ok || s.outside != nil && s.outside(name) {
		return call(s.data)
	}
	if h.tx.over {
		return errors.New("the transaction is over")
	}
	if err := call(h.tx.data); err != nil {
		return err
	}
	h.tx.calls = append(h.tx.calls, call)
	if strings.HasPrefix(name, "Revoke") {
		h.tx.revoking = append(h.tx.revoking, call)
	}
	return nil
}

// view runs a call that changes nothing.
func (s *reference) view(ctx context.Context, name string, call func(*data) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.interrupted(ctx); err != nil {
		if s.ignoresContext != nil && s.ignoresContext(name) {
			return call(s.data)
		}
		if s.readsNothing != nil && s.readsNothing(name) {
			return fosite.ErrNotFound
		}
		return err
	}
	d := s.data
	if h, ok := ctx.Value(txKey{}).(handle); ok && !h.tx.over && !s.readsOutside {
		d = h.tx.data
	}
	return call(d)
}

func (s *reference) keyOf(kind, key string) rowKey {
	if s.sameKinds && kind != "PAR" {
		kind = "token"
	}
	if s.key != nil {
		key = s.key(kind, key)
	}
	return rowKey{kind, key}
}

// create stores a request. The key is told to the flaws that cannot keep a secret.
func (s *reference) create(ctx context.Context, name, kind, key, access string, r fosite.Requester) error {
	kept, err := s.freeze(kind, r)
	if err != nil {
		return s.tell(name, key, err)
	}
	kept.access, kept.signature = access, key
	return s.tell(name, key, s.do(ctx, name, func(d *data) error {
		if (kind == "access" || kind == "refresh") && d.revoked[kept.requestID] && !s.storesRevoked {
			return fosite.ErrInactiveToken
		}
		d.serial++
		kept.serial = d.serial
		if s.folded && (kind == "PKCE" || kind == "OpenID") {
			return s.fold(d, kind, key, kept)
		}
		if s.whenStored != nil {
			s.whenStored(d, kind, &kept)
		}
		d.rows[s.keyOf(kind, key)] = kept
		return nil
	}))
}

// fold keeps PKCE data and OpenID Connect sessions beside the code, and what the
// request shares with the code only there.
func (s *reference) fold(d *data, kind, key string, kept row) error {
	signature := key[strings.LastIndex(key, ".")+1:]
	code, ok := d.rows[s.keyOf("code", signature)]
	if !ok {
		return fosite.ErrNotFound
	}
	form := maps.Clone(code.request.Form)
	maps.Copy(form, kept.request.Form)
	kept.request = code.request
	kept.request.Form = form
	d.rows[s.keyOf(kind, key)] = kept
	return nil
}

// read returns a stored request in the caller's session.
func (s *reference) read(ctx context.Context, name, kind, key string, session fosite.Session) (found fosite.Requester, err error) {
	err = s.tell(name, key, s.view(ctx, name, func(d *data) error {
		at := s.keyOf(kind, key)
		kept, ok := d.rows[at]
		if !ok && s.unknownIn != nil {
			kept, ok = s.unknownIn(s, d, kind)
		}
		switch {
		case !ok:
			return fosite.ErrNotFound
		case kind == "PAR" && !s.now().Before(s.expiry(kept)):
			return fosite.ErrNotFound
		}
		if found, err = s.thaw(kind, &kept, session); err != nil {
			return err
		}
		d.rows[at] = kept
		if kind == "code" && kept.inactive {
			return fosite.ErrInvalidatedAuthorizeCode
		}
		if kind == "refresh" && kept.inactive {
			return fosite.ErrInactiveToken
		}
		return nil
	}))
	if s.answered != nil {
		found, err = s.answered(kind, found, err)
	}
	return found, err
}

func (s *reference) expiry(pushed row) time.Time {
	session := s.newSession()
	if pushed.session != nil {
		_ = readSession(pushed.session, session)
	}
	at := session.GetExpiresAt(fosite.PushedAuthorizeRequestContext)
	if at.IsZero() {
		at = pushed.request.RequestedAt.Add(time.Hour)
		if s.forEver {
			at = at.Add(1e6 * time.Hour)
		}
	}
	if s.expires != nil {
		at = s.expires("PAR", at)
	}
	return at
}

// freeze returns a copy of a request that shares nothing with it.
func (s *reference) freeze(kind string, r fosite.Requester) (row, error) {
	kept := row{requestID: r.GetID(), original: r}
	kept.request.Request = fosite.Request{
		ID: r.GetID(), RequestedAt: r.GetRequestedAt(), Client: r.GetClient(),
		RequestedScope: slices.Clone(r.GetRequestedScopes()), GrantedScope: slices.Clone(r.GetGrantedScopes()),
		RequestedAudience: slices.Clone(r.GetRequestedAudience()), GrantedAudience: slices.Clone(r.GetGrantedAudience()),
		Form: make(url.Values),
	}
	if r, ok := r.(fosite.G11NContext); ok {
		kept.request.Lang = r.GetLang()
	}
	for name, values := range r.GetRequestForm() {
		kept.request.Form[name] = slices.Clone(values)
	}
	if r, ok := r.(*fosite.AuthorizeRequest); ok {
		kept.request.ResponseTypes = slices.Clone(r.ResponseTypes)
		kept.request.HandledResponseTypes = slices.Clone(r.HandledResponseTypes)
		kept.request.State, kept.request.ResponseMode, kept.request.DefaultResponseMode = r.State, r.ResponseMode, r.DefaultResponseMode
		if r.RedirectURI != nil {
			redirect := *r.RedirectURI
			kept.request.RedirectURI = &redirect
		}
	}
	if kind == "PAR" {
		for _, credential := range []string{"client_secret", "client_assertion", "client_assertion_type"} {
			if !slices.Contains(s.keepsCredentials, credential) {
				delete(kept.request.Form, credential)
			}
		}
	}
	if session := r.GetSession(); session != nil {
		encoded, err := json.Marshal(session)
		if err != nil {
			return row{}, err
		}
		if !s.takesAnyText && !valid(session.GetSubject(), session.GetUsername()) {
			return row{}, errNoText
		}
		kept.session = encoded
	}
	if !s.takesAnyText && !valid(words(kept.request)...) {
		return row{}, errNoText
	}
	if s.refuses != nil && s.refuses(append(words(kept.request), string(kept.session))) {
		return row{}, errNoText
	}
	if s.stored != nil {
		s.stored(kind, &kept)
	}
	return kept, nil
}

var errNoText = errors.New("that is no text")

func words(r fosite.AuthorizeRequest) []string {
	all := slices.Concat([]string{r.ID, r.State}, r.RequestedScope, r.GrantedScope, r.RequestedAudience, r.GrantedAudience)
	for name, values := range r.Form {
		all = append(append(all, name), values...)
	}
	return all
}

func valid(texts ...string) bool {
	return !slices.ContainsFunc(texts, func(text string) bool { return !utf8.ValidString(text) })
}

// anyOf returns some row of a kind, for what was not found.
func (s *reference) anyOf(d *data, kind, of string) (row, bool) {
	for at, kept := range d.rows {
		if kind == of && at.kind == of {
			return kept, true
		}
	}
	return row{}, false
}

// thaw returns a copy of what was stored, in the caller's session.
func (s *reference) thaw(kind string, kept *row, session fosite.Session) (fosite.Requester, error) {
	if s.aliasesStored {
		again, err := s.freeze(kind, kept.original)
		if err != nil {
			return nil, err
		}
		again.inactive, again.access, again.serial = kept.inactive, kept.access, kept.serial
		again.requestID, again.signature = kept.requestID, kept.signature
		*kept = again
	}
	if s.aliasesReturned {
		if kept.returned != nil {
			return *kept.returned, nil
		}
	}
	request := kept.request
	request.RequestedScope, request.GrantedScope = slices.Clone(request.RequestedScope), slices.Clone(request.GrantedScope)
	request.RequestedAudience, request.GrantedAudience = slices.Clone(request.RequestedAudience), slices.Clone(request.GrantedAudience)
	request.Form = make(url.Values)
	for name, values := range kept.request.Form {
		request.Form[name] = slices.Clone(values)
	}
	if session == nil && s.needsSession {
		return nil, errors.New("there is no session to fill")
	}
	if session == nil || s.fillsItsOwn {
		session = s.newSession()
	}
	if s.thawed != nil {
		s.thawed(kind, session)
	}
	if kept.session != nil {
		if err := readSession(kept.session, session); err != nil {
			return nil, err
		}
	}
	request.Session = session
	var found fosite.Requester = &request.Request
	if kind == "PAR" {
		request.ResponseTypes, request.HandledResponseTypes = slices.Clone(request.ResponseTypes), slices.Clone(request.HandledResponseTypes)
		if request.RedirectURI != nil {
			redirect := *request.RedirectURI
			request.RedirectURI = &redirect
		}
		found = &request
	}
	kept.returned = &found
	return found, nil
}

// tell lets a flaw put a secret into an error.
func (s *reference) tell(name, secret string, err error) error {
	if err != nil && s.tells != nil {
		return s.tells(name, secret, err)
	}
	return err
}

func (s *reference) GetClient(ctx context.Context, id string) (client fosite.Client, err error) {
	err = s.view(ctx, "GetClient", func(*data) error {
		var ok bool
		if client, ok = s.clients[s.keyOf("client", id).key]; !ok {
			return cmp(s.unknownClient, fosite.ErrNotFound)
		}
		if s.client != nil {
			client = s.client(client)
		}
		return nil
	})
	return client, err
}

// cmp returns the first of two errors.
func cmp(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (s *reference) jti(kind, jti string) string {
	if s.jtiKey != nil {
		jti = s.jtiKey(jti)
	}
	return kind + jti
}

func (s *reference) live(exp time.Time) bool {
	if s.expires != nil {
		exp = s.expires("JTI", exp)
	}
	return s.now().Before(exp.Add(time.Second)) // fosite takes it to the end of that second
}

func (s *reference) knows(ctx context.Context, name, kind, jti string) error {
	return s.view(ctx, name, func(d *data) error {
		if exp, ok := d.jtis[s.jti(kind, jti)]; ok && s.live(exp) && !s.forgetsJTIs {
			return fosite.ErrJTIKnown
		}
		return nil
	})
}

func (s *reference) mark(ctx context.Context, name, kind, jti string, exp time.Time) error {
	if s.refuses != nil && s.refuses([]string{jti}) {
		return errNoText
	}
	if s.racesJTIs {
		if err := s.knows(ctx, name, kind, jti); err != nil {
			return err
		}
		pause()
	}
	return s.do(ctx, name, func(d *data) error {
		if at, ok := d.jtis[s.jti(kind, jti)]; ok && s.live(at) && !s.racesJTIs && !s.overwritesJTIs {
			return cmp(s.jtiError, fosite.ErrJTIKnown)
		}
		d.jtis[s.jti(kind, jti)] = exp
		return nil
	})
}

// readSession keeps whole numbers as they are, which json.Unmarshal rounds.
func readSession(text []byte, session fosite.Session) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(session); err != nil {
		return err
	}
	claims := map[string]any{}
	switch s := session.(type) {
	case *fosite.DefaultSession:
		claims = s.Extra
	case *openid.DefaultSession:
		if s.Claims != nil {
			claims = s.Claims.Extra
		}
	}
	for name, value := range claims {
		number, ok := value.(json.Number)
		if !ok {
			continue
		}
		if whole, err := number.Int64(); err == nil {
			claims[name] = whole
		} else if claims[name], err = number.Float64(); err != nil {
			return err
		}
	}
	return nil
}

// pause stands for a round trip between two steps that should have been one. It is
// part of a flaw that the suite must find, and no test waits by it.
func pause() { time.Sleep(2 * time.Millisecond) }

func (s *reference) ClientAssertionJWTValid(ctx context.Context, jti string) error {
	return s.knows(ctx, "ClientAssertionJWTValid", "client ", jti)
}

func (s *reference) SetClientAssertionJWT(ctx context.Context, jti string, exp time.Time) error {
	return s.mark(ctx, "SetClientAssertionJWT", "client ", jti, exp)
}

func (s *reference) IsJWTUsed(ctx context.Context, jti string) (bool, error) {
	err := s.knows(ctx, "IsJWTUsed", "bearer ", jti)
	if errors.Is(err, fosite.ErrJTIKnown) {
		return true, nil
	}
	if s.unsureIsUnused {
		return false, nil
	}
	return false, err
}

func (s *reference) MarkJWTUsedForTime(ctx context.Context, jti string, exp time.Time) error {
	return s.mark(ctx, "MarkJWTUsedForTime", "bearer ", jti, exp)
}

func (s *reference) NewNonce(ctx context.Context, token string, exp time.Time) (string, error) {
	text := rand.Text()
	if s.nonce != nil {
		text = s.nonce(token)
	}
	return text, s.tell("NewNonce", token, s.do(ctx, "NewNonce", func(d *data) error {
		d.nonces[text] = nonce{token: sha256.Sum256([]byte(token)), expiresAt: exp}
		return nil
	}))
}

func (s *reference) IsNonceValid(ctx context.Context, token, text string) error {
	return s.tell("IsNonceValid", token, s.view(ctx, "IsNonceValid", func(d *data) error {
		n, ok := d.nonces[text]
		if s.expires != nil {
			n.expiresAt = s.expires("nonce", n.expiresAt)
		}
		if !ok || n.token != sha256.Sum256([]byte(token)) && !s.nonceForAny || !s.now().Before(n.expiresAt) {
			return errors.New("the nonce is not valid")
		}
		return nil
	}))
}

func (s *reference) CreateAuthorizeCodeSession(ctx context.Context, signature string, r fosite.Requester) error {
	return s.create(ctx, "CreateAuthorizeCodeSession", "code", signature, "", r)
}

func (s *reference) GetAuthorizeCodeSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	return s.read(ctx, "GetAuthorizeCodeSession", "code", signature, session)
}

func (s *reference) InvalidateAuthorizeCodeSession(ctx context.Context, signature string) error {
	const name = "InvalidateAuthorizeCodeSession"
	if s.racesCodes {
		if _, err := s.GetAuthorizeCodeSession(ctx, signature, nil); err != nil {
			return err
		}
		pause()
	}
	return s.tell(name, signature, s.do(ctx, name, func(d *data) error {
		at := s.keyOf("code", signature)
		code, ok := d.rows[at]
		switch {
		case !ok && s.invalidatesUnknown:
			return nil
		case !ok:
			return fosite.ErrNotFound
		case code.inactive && !s.invalidatesTwice && !s.racesCodes:
			return fosite.ErrInvalidatedAuthorizeCode
		}
		code.inactive = true
		if s.forgetsCodes {
			delete(d.rows, at)
			return nil
		}
		d.rows[at] = code
		for at := range d.rows {
			if at.kind == "OpenID" && s.openIDEndsWithCode && strings.HasSuffix(at.key, signature) {
				delete(d.rows, at)
			}
		}
		return nil
	}))
}

func (s *reference) CreatePKCERequestSession(ctx context.Context, signature string, r fosite.Requester) error {
	return s.create(ctx, "CreatePKCERequestSession", "PKCE", signature, "", r)
}

func (s *reference) GetPKCERequestSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	if s.codeIsPKCE {
		return s.read(ctx, "GetPKCERequestSession", "code", signature, session)
	}
	return s.read(ctx, "GetPKCERequestSession", "PKCE", signature, session)
}

// DeletePKCERequestSession leaves them until the code is gone.
func (s *reference) DeletePKCERequestSession(ctx context.Context, signature string) error {
	return s.do(ctx, "DeletePKCERequestSession", func(d *data) error {
		if s.deletesPKCE {
			delete(d.rows, s.keyOf("PKCE", signature))
		}
		return s.deletionError
	})
}

func (s *reference) CreateOpenIDConnectSession(ctx context.Context, code string, r fosite.Requester) error {
	return s.create(ctx, "CreateOpenIDConnectSession", "OpenID", code, "", r)
}

func (s *reference) GetOpenIDConnectSession(ctx context.Context, code string, r fosite.Requester) (fosite.Requester, error) {
	if s.codeIsOpenID {
		return s.read(ctx, "GetOpenIDConnectSession", "code", code[strings.LastIndex(code, ".")+1:], r.GetSession())
	}
	return s.read(ctx, "GetOpenIDConnectSession", "OpenID", code, r.GetSession())
}

func (s *reference) DeleteOpenIDConnectSession(ctx context.Context, code string) error {
	return s.do(ctx, "DeleteOpenIDConnectSession", func(d *data) error {
		delete(d.rows, s.keyOf("OpenID", code))
		return nil
	})
}

func (s *reference) CreatePARSession(ctx context.Context, requestURI string, r fosite.AuthorizeRequester) error {
	if s.pushes != nil {
		s.pushes(r)
	}
	return s.create(ctx, "CreatePARSession", "PAR", requestURI, "", r)
}

func (s *reference) GetPARSession(ctx context.Context, requestURI string) (fosite.AuthorizeRequester, error) {
	r, err := s.read(ctx, "GetPARSession", "PAR", requestURI, s.newSession())
	if err != nil {
		if s.returnsExpired && r == nil {
			return fosite.NewAuthorizeRequest(), err
		}
		return nil, err
	}
	return r.(fosite.AuthorizeRequester), nil
}

// DeletePARSession leaves it until it expires.
func (s *reference) DeletePARSession(ctx context.Context, requestURI string) error {
	return s.do(ctx, "DeletePARSession", func(d *data) error {
		if s.deletesPushed {
			delete(d.rows, s.keyOf("PAR", requestURI))
		}
		return nil
	})
}

func (s *reference) CreateAccessTokenSession(ctx context.Context, signature string, r fosite.Requester) error {
	return s.create(ctx, "CreateAccessTokenSession", "access", signature, "", r)
}

func (s *reference) GetAccessTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	return s.read(ctx, "GetAccessTokenSession", "access", signature, session)
}

func (s *reference) DeleteAccessTokenSession(ctx context.Context, signature string) error {
	return s.do(ctx, "DeleteAccessTokenSession", func(d *data) error {
		if !s.deletesNothing {
			delete(d.rows, s.keyOf("access", signature))
		}
		return nil
	})
}

func (s *reference) CreateRefreshTokenSession(ctx context.Context, signature, access string, r fosite.Requester) error {
	return s.create(ctx, "CreateRefreshTokenSession", "refresh", signature, access, r)
}

func (s *reference) GetRefreshTokenSession(ctx context.Context, signature string, session fosite.Session) (fosite.Requester, error) {
	return s.read(ctx, "GetRefreshTokenSession", "refresh", signature, session)
}

// DeleteRefreshTokenSession leaves it recognisable.
func (s *reference) DeleteRefreshTokenSession(ctx context.Context, signature string) error {
	return s.do(ctx, "DeleteRefreshTokenSession", func(d *data) error {
		at := s.keyOf("refresh", signature)
		kept, ok := d.rows[at]
		if ok && kept.inactive && s.deletesOnce {
			return fosite.ErrNotFound
		}
		if kept.inactive = true; ok && !s.deletesNothing {
			d.rows[at] = kept
		}
		return nil
	})
}

func (s *reference) RotateRefreshToken(ctx context.Context, requestID, signature string) error {
	const name = "RotateRefreshToken"
	if s.racesRotations {
		if _, err := s.GetRefreshTokenSession(ctx, signature, nil); err != nil {
			return err
		}
		pause()
	}
	first := true
	return s.tell(name, signature, s.do(ctx, name, func(d *data) error {
		at := s.keyOf("refresh", signature)
		old, ok := d.rows[at]
		for other, kept := range d.rows {
			if s.rotatesByRequest && other.kind == "refresh" && kept.requestID == requestID {
				at, old, ok = other, kept, true
			}
		}
		again := s.rotationsUnchecked && !first
		first = false
		switch {
		case !ok && s.rotatesUnknown, again:
			return nil
		case !ok:
			return cmp(s.rotationError, fosite.ErrNotFound)
		case old.requestID != requestID && !s.rotatesForAny:
			return fosite.ErrNotFound
		case old.inactive && !s.rotatesTwice && !s.racesRotations:
			return cmp(s.rotationError, fosite.ErrInactiveToken)
		}
		old.inactive = true
		if !s.keepsRotated {
			d.rows[at] = old
		}
		if s.forgetsRotated {
			delete(d.rows, at)
		}
		if !s.keepsAccess {
			delete(d.rows, s.keyOf("access", old.access))
		}
		if s.rotationEndsAll {
			s.end(d, "access", func(r row) bool { return r.requestID == requestID })
		}
		if s.rotationEndsFirst {
			s.end(d, "access", func(r row) bool { return r.serial == 1 })
		}
		return nil
	}))
}

// end ends tokens of a kind.
func (s *reference) end(d *data, kind string, which func(row) bool) (ended int) {
	last := 0
	for at, kept := range d.rows {
		if at.kind == s.keyOf(kind, "").kind && which(kept) && kept.serial > last {
			last = kept.serial
		}
	}
	for at, kept := range d.rows {
		if at.kind != s.keyOf(kind, "").kind || !which(kept) || s.endsLastOnly == kind && kept.serial != last {
			continue
		}
		ended++
		if kind == "access" {
			delete(d.rows, at)
			continue
		}
		kept.inactive = true
		d.rows[at] = kept
	}
	return ended
}

func (s *reference) revoke(ctx context.Context, name, kind, requestID string) error {
	return s.do(ctx, name, func(d *data) error {
		if s.revokes != nil && !s.revokes(kind) {
			return nil
		}
		if d.revoked[requestID] && s.revokesOnce {
			return errors.New("revoked before")
		}
		d.revoked[requestID] = true
		ended := s.end(d, kind, func(r row) bool {
			switch {
			case s.sameRequest != nil:
				return s.sameRequest(r, requestID)
			case s.sameRequestIn != nil:
				return s.sameRequestIn(d, r, requestID)
			}
			return r.requestID == requestID
		})
		if ended == 0 && s.nothingToRevoke {
			return fosite.ErrNotFound
		}
		return nil
	})
}

func (s *reference) RevokeRefreshToken(ctx context.Context, requestID string) error {
	return s.revoke(ctx, "RevokeRefreshToken", "refresh", requestID)
}

func (s *reference) RevokeAccessToken(ctx context.Context, requestID string) error {
	return s.revoke(ctx, "RevokeAccessToken", "access", requestID)
}
