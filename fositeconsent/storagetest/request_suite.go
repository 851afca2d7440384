package storagetest

import (
	"context"
	"crypto/rand"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// kind is one kind of stored request.
type kind struct {
	name string
	here func(s *checked) bool
	// form is what fosite stores of this kind beyond every request's parameters.
	form url.Values
	// key returns a new key, in the form in which fosite makes them.
	key func() key
	// create stores a request, and before it whatever fosite stores before.
	create func(s *checked, ctx context.Context, k key, r *fosite.Request) error
	read   func(s *checked, ctx context.Context, k key, session fosite.Session) (fosite.Requester, error)
}

var kinds = []kind{
	{
		name:   "code",
		here:   func(*checked) bool { return true },
		form:   codeForm,
		key:    newCode,
		create: func(s *checked, ctx context.Context, k key, r *fosite.Request) error { return s.createCode(ctx, k, r) },
		read:   (*checked).getCode,
	},
	{
		name: "PKCE data",
		here: func(s *checked) bool { return s.pkce != nil },
		form: pkceForm,
		key:  newCode,
		create: func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			if err := s.createCode(ctx, k, sibling(r, pkceForm)); err != nil {
				return err
			}
			return s.createPKCE(ctx, k, r)
		},
		read: (*checked).getPKCE,
	},
	{
		name: "OpenID Connect session",
		here: func(s *checked) bool { return s.openid != nil },
		form: openIDForm,
		key:  newCode,
		create: func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			if err := s.createCode(ctx, k, sibling(r, openIDForm)); err != nil {
				return err
			}
			return s.createOpenID(ctx, k, r)
		},
		read: (*checked).getOpenID,
	},
	{
		name: "access token",
		here: func(*checked) bool { return true },
		key:  newAccess,
		create: func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			return s.createAccess(ctx, k, r)
		},
		read: (*checked).getAccess,
	},
	{
		name: "refresh token",
		here: func(*checked) bool { return true },
		key:  newRefresh,
		create: func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			access := newAccess()
			if err := s.createAccess(ctx, access, r); err != nil {
				return err
			}
			return s.createRefresh(ctx, tokens{access: access, refresh: k}, r)
		},
		read: (*checked).getRefresh,
	},
	{
		name: "pushed request",
		here: func(s *checked) bool { return s.par != nil },
		form: url.Values{
			"redirect_uri": codeForm["redirect_uri"], "code_challenge": pkceForm["code_challenge"], "state": {"a state, with 東京"},
			"claims": {`{"id_token":{"acr":{"essential":true}}}`}, "resource": {"https://b.example/", "https://a.example/"}, "display": {""},
		},
		key: func() key { uri := newRequestURI(); return key{whole: uri, signature: uri} },
		create: func(s *checked, ctx context.Context, k key, r *fosite.Request) error {
			return s.push(ctx, k.whole, pushed(r))
		},
		read: func(s *checked, ctx context.Context, k key, _ fosite.Session) (fosite.Requester, error) {
			r, err := s.getPushed(ctx, k.whole)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	},
}

// sibling returns the request that fosite stored with the code, given the one with
// another handler's parameters.
func sibling(r *fosite.Request, parameters url.Values) *fosite.Request {
	c := with(r, codeForm)
	for name := range parameters {
		delete(c.Form, name)
	}
	return c
}

// forEachKind runs a step with each kind that the storage has.
func (s *checked) forEachKind(test func(s *checked, k kind)) {
	s.Helper()
	for _, k := range kinds {
		if k.here(s) {
			s.step(k.name, func(s *checked) { test(s, k) })
		}
	}
}

// sample returns a request with the form of its kind.
func (s *checked) sample(k kind) *fosite.Request { return with(s.newRequest(), k.form) }

// put stores a request or ends the test.
func (s *checked) put(k kind, r *fosite.Request) key {
	s.Helper()
	under := k.key()
	s.must("storing a "+k.name, k.create(s, s.ctx, under, r))
	return under
}

// wantStored reads a request and compares it with what was stored.
func (s *checked) wantStored(k kind, under key, want *fosite.Request) {
	s.Helper()
	got, err := k.read(s, s.ctx, under, s.config.NewSession())
	s.want("reading a "+k.name, err, succeeded)
	if err != nil {
		return
	}
	s.wantSameButForm(k.name, got, want)
	allowed := want.Form
	switch k.name {
	case "code", "PKCE data", "OpenID Connect session":
		allowed = with(with(want, codeForm), k.form).Form
		for name, values := range want.Form {
			allowed[name] = values
		}
	}
	s.wantForm(k.name, got.GetRequestForm(), want.Form, allowed)
	if pushedBack, ok := got.(fosite.AuthorizeRequester); ok && k.name == "pushed request" {
		s.wantPushed(pushedBack, pushed(want))
	}
}

func clientReturned(p *probe) {
	s := p.open()
	confidential, public, other := newClient(), newClient(), newClient()
	public.Public, public.Secret, public.Audience = true, nil, nil
	other.ID = "https://client.example/" + rand.Text() + "?a='1'&b=東京"
	other.Scopes = []string{"b", "a", "", "it's {\"c\"}"}
	other.RotatedSecrets = [][]byte{[]byte("$2a$10$" + rand.Text()), []byte("$2a$10$" + rand.Text())}
	for _, client := range []*fosite.DefaultClient{confidential, public, other} {
		s.config.AddClient(s, s.under, client)
	}
	for _, want := range []*fosite.DefaultClient{confidential, public, other} {
		got, err := s.under.GetClient(s.ctx, want.ID)
		s.must("GetClient", s.inspect("GetClient", err))
		s.wantSameClient("GetClient", got, want)
		if rotating, ok := got.(fosite.ClientWithSecretRotation); !ok {
			s.Errorf("GetClient returned a client without its rotated secrets")
		} else if !slices.EqualFunc(rotating.GetRotatedHashes(), want.RotatedSecrets, slices.Equal) {
			s.Errorf("the client's rotated secrets are %q, want %q", rotating.GetRotatedHashes(), want.RotatedSecrets)
		}
	}
	for _, unknown := range []string{"", newClient().ID, strings.ToLower(confidential.ID), confidential.ID + " ", confidential.ID[:len(confidential.ID)-1]} {
		_, err := s.under.GetClient(s.ctx, unknown)
		s.want("GetClient of an unknown ID", s.inspect("GetClient", err), notFound)
	}
}

// returnedAsStored: fosite copies every field of a stored request into what it issues.
func returnedAsStored(p *probe, name string) {
	s := p.open()
	k := kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
	many := make(fosite.Arguments, 300)
	for i := range many {
		many[i] = rand.Text()
	}
	odd := fosite.Arguments{"NULL", "null", "{a,b}", "a,b", "it's", "--", "$1", "%s", "photos.*", "[0]", "", " ", `"quoted"`, `back\slash`, "tab\there", "new\nline", "zürich/東京"}
	for _, c := range []struct {
		sentence string
		set      func(*fosite.Request)
	}{
		{"an ordinary request", func(*fosite.Request) {}},
		{"no scopes and no audience", func(r *fosite.Request) {
			r.RequestedScope, r.GrantedScope, r.RequestedAudience, r.GrantedAudience = fosite.Arguments{}, fosite.Arguments{}, fosite.Arguments{}, fosite.Arguments{}
		}},
		{"lists that are nil", func(r *fosite.Request) {
			r.RequestedScope, r.GrantedScope, r.RequestedAudience, r.GrantedAudience = nil, nil, nil, nil
		}},
		{"each list different", func(r *fosite.Request) {
			r.RequestedScope, r.GrantedScope = fosite.Arguments{"c", "b", "a"}, fosite.Arguments{"d"}
			r.RequestedAudience, r.GrantedAudience = fosite.Arguments{"z", "y"}, fosite.Arguments{"x", "w", "v"}
		}},
		{"hundreds of scopes", func(r *fosite.Request) { r.RequestedScope, r.GrantedScope = many, many[:200] }},
		{"text that means something to a query language", func(r *fosite.Request) {
			r.RequestedScope, r.GrantedScope, r.RequestedAudience, r.GrantedAudience = odd, odd[1:], odd[2:], odd[3:]
		}},
		{"parameters without a value, with two, and with odd ones", func(r *fosite.Request) {
			r.Form = with(r, url.Values{"scope": {"b", "a", "b"}, "client_id": {""}, "grant_type": {"it's \"a\\b\"\n東京"}}).Form
		}},
		{"a parameter of 16 KiB", func(r *fosite.Request) { r.Form = with(r, url.Values{"scope": {strings.Repeat("s", 16<<10)}}).Form }},
		{"a subject in many scripts", func(r *fosite.Request) {
			s.config.FillSession(r.Session, "Ünïcødé|Ελένη|Дмитрий|东京|🦊|עברית")
		}},
		{"a subject in decomposed Unicode with spaces around it", func(r *fosite.Request) { s.config.FillSession(r.Session, " Zoe\u0308 ") }},
		{"a subject of the greatest length", func(r *fosite.Request) { s.config.FillSession(r.Session, strings.Repeat("s", 254)+"T") }},
		{"a session with nothing in it but what fosite always sets", func(r *fosite.Request) {
			r.Session = s.config.NewSession()
			r.Session.SetExpiresAt(fosite.AuthorizeCode, s.instant().Add(time.Minute))
			r.Session.SetExpiresAt(fosite.PushedAuthorizeRequestContext, s.instant().Add(time.Minute))
		}},
		{"an old request whose tokens live for ever", func(r *fosite.Request) {
			r.RequestedAt = time.Date(1999, 12, 31, 23, 59, 59, 7e6, time.UTC)
			for _, kind := range tokenTypes {
				r.Session.SetExpiresAt(kind, time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC))
			}
		}},
		{"a time in another zone", func(r *fosite.Request) { r.RequestedAt = r.RequestedAt.In(time.FixedZone("", 5*3600+45*60)) }},
	} {
		s.step(c.sentence, func(s *checked) {
			r := s.sample(k)
			c.set(r)
			under := s.put(k, r)
			s.wantStored(k, under, r)
			s.wantStored(k, under, r)
		})
	}
}

// textIsExact: not every backend can keep every text, but one that is kept in
// another form would be another subject's, scope's or client's.
func textIsExact(p *probe) {
	s := p.open()
	s.forEachKind(func(s *checked, k kind) {
		for _, text := range []string{"a\x00b", "\x00", "\xff\xfe", "cut off \xe6\x9d", "\xed\xa0\x80"} {
			for _, set := range []func(*fosite.Request){
				func(r *fosite.Request) { r.ID += text },
				func(r *fosite.Request) { r.RequestedScope = fosite.Arguments{"openid", text} },
				func(r *fosite.Request) { r.GrantedScope = fosite.Arguments{text} },
				func(r *fosite.Request) { r.RequestedAudience = fosite.Arguments{text} },
				func(r *fosite.Request) { r.GrantedAudience = fosite.Arguments{"https://photos.example/api", text} },
				func(r *fosite.Request) { r.Form = with(r, url.Values{"scope": {"openid", text}}).Form },
				func(r *fosite.Request) { r.Form = with(r, url.Values{"state": {text}}).Form },
				func(r *fosite.Request) { r.Form = with(r, url.Values{"p" + text: {"value"}}).Form },
				func(r *fosite.Request) { s.config.FillSession(r.Session, text) },
			} {
				r, under := s.sample(k), k.key()
				set(r)
				switch says := outcomeOf(k.create(s, s.ctx, under, r)); says {
				case succeeded:
					s.wantStored(k, under, r)
				case failed:
					_, err := k.read(s, s.ctx, under, s.config.NewSession())
					s.want("reading what was refused", err, notFound)
				default:
					s.Errorf("a %s with the text %q was refused by %s", k.name, text, says)
				}
			}
		}
	})
	// An ID that is no UUID, of which a host may have made its own.
	for _, id := range []string{"1", strings.Repeat("i", 255), "Request/東京 '1'"} {
		s.forEachKind(func(s *checked, k kind) {
			r := s.sample(k)
			r.ID = id + rand.Text()
			under := k.key()
			if err := k.create(s, s.ctx, under, r); err == nil {
				s.wantStored(k, under, r)
			}
		})
	}
}

// callersRequestIsTheCallers: fosite goes on to use the session that it has stored, by
// pointer: it sets the expiry of the next token on it, and hashes in its claims.
func callersRequestIsTheCallers(p *probe) {
	p.open().forEachKind(func(s *checked, k kind) {
		r := s.sample(k)
		before := clone(r)
		under := s.put(k, r)
		s.wantSame("the caller's request after a create", r, before)
		overwrite(s, r)
		s.wantStored(k, under, before)
	})
}

func returnedRequestIsTheCallers(p *probe) {
	p.open().forEachKind(func(s *checked, k kind) {
		r := s.sample(k)
		before := clone(r)
		under := s.put(k, r)
		for range 2 {
			got, err := k.read(s, s.ctx, under, s.config.NewSession())
			s.must("reading a "+k.name, err)
			overwriteReturned(s, got)
		}
		s.wantStored(k, under, before)
	})
}

// overwrite changes all of a request, in place wherever that is possible.
func overwrite(s *checked, r *fosite.Request) {
	overwriteReturned(s, r)
	r.RequestedAt = r.RequestedAt.Add(time.Hour)
	r.Client = newClient()
	r.Form = url.Values{"overwritten": {""}}
	r.Session = s.newSession("overwritten as well")
}

// overwriteReturned changes what can be changed of a request through its interface.
func overwriteReturned(s *checked, r fosite.Requester) {
	for _, list := range []fosite.Arguments{r.GetRequestedScopes(), r.GetGrantedScopes(), r.GetRequestedAudience(), r.GetGrantedAudience()} {
		for i := range list {
			list[i] = "overwritten"
		}
	}
	r.GrantScope("admin")
	r.GrantAudience("https://elsewhere.example/")
	r.SetID(newID())
	form := r.GetRequestForm()
	for name, values := range form {
		for i := range values {
			values[i] = "overwritten"
		}
		form[name] = append(values, "appended")
	}
	if form != nil {
		form["added"] = []string{"added"}
	}
	if session := r.GetSession(); session != nil {
		for _, kind := range tokenTypes {
			session.SetExpiresAt(kind, s.instant().Add(10000*time.Hour))
		}
		s.config.FillSession(session, "overwritten")
	}
	r.SetSession(nil)
}

// passedSessionIsFilled: HandleTokenEndpointRequest checks whether a code has expired
// on the session that it passed, and for the answer to be invalid_grant (RFC 6749, Section
// 5.2) it has to see that there. The interface says that the method hydrates it.
func passedSessionIsFilled(p *probe) {
	s := p.open()
	r, code := s.newRequest(), newCode()
	s.must("storing a code", s.createCode(s.ctx, code, with(r, codeForm)))
	session := s.config.NewSession()
	_, err := s.getCode(s.ctx, code, session)
	s.must("reading the code", err)
	s.wantSameSession("the session that was passed", session, r.Session)
}

// passedSessionKeepsItsTimes: the handlers of a code set the expiry of the tokens on a
// session, and then read the PKCE data and once more the code with that session. What
// is lost there is the lifespan that the client is configured to have.
func passedSessionKeepsItsTimes(p *probe) {
	s := p.open()
	r := s.newRequest()
	r.Session = s.config.NewSession()
	s.config.FillSession(r.Session, "alice")
	r.Session.SetExpiresAt(fosite.AuthorizeCode, s.instant().Add(time.Minute))
	code := newCode()
	s.must("storing a code", s.authorize(s.ctx, code, r))

	got, err := s.getCode(s.ctx, code, s.config.NewSession())
	s.must("reading the code", err)
	session := got.GetSession()
	want := map[fosite.TokenType]time.Time{
		fosite.AccessToken:  s.instant().Add(7 * time.Minute),
		fosite.RefreshToken: s.instant().Add(8 * time.Hour),
	}
	for kind, at := range want {
		session.SetExpiresAt(kind, at)
	}
	check := func(after string) {
		s.Helper()
		for kind, at := range want {
			if got := session.GetExpiresAt(kind); !got.Equal(at) {
				s.Errorf("after %s with a session, its %s expires at %v, want %v as it was set", after, kind, got, at)
			}
		}
	}
	if s.pkce != nil {
		_, err := s.getPKCE(s.ctx, code, session)
		s.must("reading the PKCE data", err)
		check("reading the PKCE data")
	}
	_, err = s.getCode(s.ctx, code, session)
	s.must("reading the code again", err)
	check("reading the code")
}

// expiredStaysExpired: it is fosite that looks at when a code or a token expires; for one
// whose time is lost, it counts from the request, which may have been long ago or just now.
func expiredStaysExpired(p *probe) {
	p.open().forEachKind(func(s *checked, k kind) {
		for _, ago := range []time.Duration{time.Second, 30 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
			r, under := s.sample(k), k.key()
			for _, kind := range tokenTypes {
				r.Session.SetExpiresAt(kind, s.instant().Add(-ago))
			}
			if err := k.create(s, s.ctx, under, r); err != nil {
				s.want("storing what has expired", err, failed, notFound)
			}
			_, err := k.read(s, s.ctx, under, s.config.NewSession())
			s.want("reading what has expired", err, succeeded, notFound)
			if err == nil {
				s.wantStored(k, under, r)
			}
		}
	})
}

// readWithoutSession: TokenRevocationHandler asks only for the ID and the client.
func readWithoutSession(p *probe) {
	s := p.open()
	r, t := s.newRequest(), newTokens()
	s.must("issuing tokens", s.issue(s.ctx, r, t))
	got, err := s.getAccess(s.ctx, t.access, nil)
	s.want("reading the access token", err, succeeded)
	if err == nil {
		s.wantID("the access token", got, r)
	}
	got, err = s.getRefresh(s.ctx, t.refresh, nil)
	s.want("reading the refresh token", err, succeeded)
	if err == nil {
		s.wantID("the refresh token", got, r)
	}
	s.must("RotateRefreshToken", s.rotateRefresh(s.ctx, r.ID, t.refresh))
	got, err = s.getRefresh(s.ctx, t.refresh, nil)
	s.want("reading the rotated refresh token", err, inactive)
	s.wantID("the rotated refresh token", got, r)
	for _, k := range []key{newAccess(), {}} {
		_, err = s.getAccess(s.ctx, k, nil)
		s.want("reading an unknown access token", err, notFound)
		_, err = s.getRefresh(s.ctx, k, nil)
		s.want("reading an unknown refresh token", err, notFound)
	}
}

// wantID checks what fosite needs of a request in order to end its tokens.
func (s *checked) wantID(what string, got fosite.Requester, want *fosite.Request) {
	s.Helper()
	if got == nil {
		s.Errorf("%s: there is no request", what)
		return
	}
	if got.GetID() != want.ID {
		s.Errorf("%s: the request's ID is %q, want %q", what, got.GetID(), want.ID)
	}
	if got.GetClient() == nil || got.GetClient().GetID() != want.Client.GetID() {
		s.Errorf("%s: the request is not that client's: %v", what, got.GetClient())
	}
}

// unknownNotFound: for an error that is not fosite.ErrNotFound, fosite answers
// server_error; and of PKCE data and OpenID Connect sessions it is an ordinary answer.
func unknownNotFound(p *probe) {
	p.open().forEachKind(func(s *checked, k kind) {
		s.put(k, s.sample(k))
		for _, unknown := range []key{
			k.key(),
			{},                             // the signature of what is no token
			{whole: "garbage"},             // that, as OpenID Connect gets it
			{whole: "a.b", signature: "b"}, // short
			{whole: "a." + strings.Repeat("b", 5000), signature: strings.Repeat("b", 5000)},
			{whole: "it's.東京", signature: "東京"},
		} {
			_, err := k.read(s, s.ctx, unknown, s.config.NewSession())
			s.want("reading what is unknown", err, notFound)
		}
		for _, odd := range []key{{whole: "a.\x00", signature: "\x00"}, {whole: "a.\xff", signature: "\xff"}} {
			_, err := k.read(s, s.ctx, odd, s.config.NewSession())
			s.want("reading a key that is no text", err, notFound, failed)
		}
	})
}

// keysAreExact: a comparison that folds case or spaces makes keys that much shorter.
func keysAreExact(p *probe) {
	p.open().forEachKind(func(s *checked, k kind) {
		under, r := k.key(), s.sample(k)
		cut := len(under.signature) - 8
		under = key{whole: under.whole[:len(under.whole)-8] + "aAbBcCdD", signature: under.signature[:cut] + "aAbBcCdD"}
		s.must("storing a "+k.name, k.create(s, s.ctx, under, r))
		change := func(f func(string) string) key {
			signature := f(under.signature)
			return key{whole: strings.TrimSuffix(under.whole, under.signature) + signature, signature: signature}
		}
		for _, other := range []key{
			change(func(k string) string { return k[:cut] + "AaBbCcDd" }),
			change(func(k string) string { return k + " " }),
			change(func(k string) string { return " " + k }),
			change(func(k string) string { return k + "a" }),
			change(func(k string) string { return k[:len(k)-1] }),
			change(func(k string) string { return k[1:] }),
			change(func(k string) string { return k[:8] + "%" }),
			change(func(k string) string { return k[:len(k)-1] + "_" }),
		} {
			_, err := k.read(s, s.ctx, other, s.config.NewSession())
			s.want("reading by a similar key", err, notFound)
		}
		s.wantStored(k, under, r)

		// A signature of a JWT that a host has asked for may have a thousand letters.
		long := change(func(k string) string { return strings.Repeat("x", 1000) + k })
		longer := change(func(k string) string { return strings.Repeat("x", 1000) + k + "y" })
		r = s.sample(k)
		s.must("storing a "+k.name+" under a long key", k.create(s, s.ctx, long, r))
		s.wantStored(k, long, r)
		_, err := k.read(s, s.ctx, longer, s.config.NewSession())
		s.want("reading by a similar long key", err, notFound)
	})
}

// kindsAreApart: otherwise a code would be an access token.
func kindsAreApart(p *probe) {
	s := p.open()
	s.forEachKind(func(s *checked, stored kind) {
		under := s.put(stored, s.sample(stored))
		for _, k := range kinds {
			ofTheCode := stored.name == "PKCE data" || stored.name == "OpenID Connect session"
			if !k.here(s) || k.name == stored.name || ofTheCode && k.name == "code" {
				continue
			}
			_, err := k.read(s, s.ctx, under, s.config.NewSession())
			s.want("reading a "+stored.name+" as a "+k.name, err, notFound)
		}
	})
}
