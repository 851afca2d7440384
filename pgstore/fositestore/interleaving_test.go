package fositestore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// node is one node of a server: its gate, fosite and their storage, with connections of its own.
type node struct {
	*remembering
	name    string
	pool    *pgxpool.Pool
	subject string
	client  string
	login   string
}

// newNode returns a node on a database. In pieces, it sends each statement for itself.
func newNode(t *testing.T, database, name string, inPieces bool, configure ...func(*pgxpool.Config)) *node {
	n := &node{name: name, client: "app"}
	n.pool = pgtest.PoolAt(t, database, append(configure, withConns(4), func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = name
	})...)
	store := newStore(t, n.pool, fositestore.Config{
		ClientCacheLifespan: time.Hour, Transactions: pgstore.TransactionConfig{LockTimeout: patience, IdleTimeout: patience, StatementTimeout: patience},
	})
	n.remembering = &remembering{host: &host{T: t, store: store}}
	var storage any = store
	grants, err := pgstore.New(n.pool, pgstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var consents fositeconsent.ConsentStorage = grants
	if inPieces {
		storage, consents = &pieces{store}, &consentsInPieces{grants, store}
	}
	n.gate, err = fositeconsent.NewGate(grants, fositeconsent.Config{
		Issuer: "https://as.example", Consents: consents,
		DescribeClient: func(context.Context, fosite.Client) ([]string, error) { return []string{"an application"}, nil },
		LoginSession:   func(context.Context, fosite.Session) (string, error) { return n.login, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	config := &fosite.Config{GlobalSecret: []byte("a global secret of at least 32 bytes"), IDTokenIssuer: "https://as.example"}
	n.provider, err = n.gate.Protect(compose.Compose(config, storage, &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(func(context.Context) (interface{}, error) { return signingKey(), nil }, config),
	}, n.gate.Factory, compose.OAuth2AuthorizeExplicitFactory, compose.OpenIDConnectHybridFactory,
		compose.OAuth2RefreshTokenGrantFactory, compose.OAuth2PKCEFactory, compose.OAuth2TokenIntrospectionFactory))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// setUp migrates the database and registers clients.
func (n *node) setUp(clients ...string) {
	n.Helper()
	ctx := testContext(n)
	if err := pgstore.Migrate(ctx, n.pool, pgstore.Config{}); err != nil {
		n.Fatal(err)
	}
	for _, id := range clients {
		if err := n.store.CreateClient(ctx, &fosite.DefaultOpenIDConnectClient{DefaultClient: &fosite.DefaultClient{
			ID: id, Public: true, RedirectURIs: []string{redirect}, ResponseTypes: []string{"code token"},
			GrantTypes: []string{"authorization_code", "refresh_token", "implicit"}, Scopes: []string{"offline", "photos"},
		}, TokenEndpointAuthMethod: "none"}); err != nil {
			n.Fatal(err)
		}
	}
}

// pieces sends what is queued after each call.
type pieces struct{ *fositestore.Store }

func (p *pieces) sent(ctx context.Context, err error) error {
	if err == nil {
		_, err = p.DB(ctx).Exec(ctx, "SELECT")
	}
	return err
}

func (p *pieces) CreateAuthorizeCodeSession(ctx context.Context, signature string, r fosite.Requester) error {
	return p.sent(ctx, p.Store.CreateAuthorizeCodeSession(ctx, signature, r))
}

func (p *pieces) CreatePKCERequestSession(ctx context.Context, signature string, r fosite.Requester) error {
	return p.sent(ctx, p.Store.CreatePKCERequestSession(ctx, signature, r))
}

func (p *pieces) InvalidateAuthorizeCodeSession(ctx context.Context, signature string) error {
	return p.sent(ctx, p.Store.InvalidateAuthorizeCodeSession(ctx, signature))
}

func (p *pieces) CreateAccessTokenSession(ctx context.Context, signature string, r fosite.Requester) error {
	return p.sent(ctx, p.Store.CreateAccessTokenSession(ctx, signature, r))
}

func (p *pieces) CreateRefreshTokenSession(ctx context.Context, signature, access string, r fosite.Requester) error {
	return p.sent(ctx, p.Store.CreateRefreshTokenSession(ctx, signature, access, r))
}

func (p *pieces) RotateRefreshToken(ctx context.Context, requestID, signature string) error {
	return p.sent(ctx, p.Store.RotateRefreshToken(ctx, requestID, signature))
}

type consentsInPieces struct {
	*pgstore.Store
	store *fositestore.Store
}

func (c *consentsInPieces) RecordResponse(ctx context.Context, r *fositeconsent.Response) error {
	return (&pieces{c.store}).sent(ctx, c.Store.RecordResponse(ctx, r))
}

// issued is what a client has got.
type issued struct{ codes, refresh, access []string }

func (i *issued) add(o issued) {
	i.codes, i.refresh, i.access = append(i.codes, o.codes...), append(i.refresh, o.refresh...), append(i.access, o.access...)
}

// authorize asks for a code and, in the front channel, a token.
func (n *node) authorize(ctx context.Context, decide func(context.Context, fosite.AuthorizeRequester, fosite.Session) context.Context) (issued, error) {
	n.Helper()
	ar, err := n.provider.NewAuthorizeRequest(ctx, request(map[string][]string{
		"client_id": {n.client}, "redirect_uri": {redirect}, "response_type": {"code token"}, "scope": {"offline photos"},
		"state": {"0123456789abcdef"}, "nonce": {"fedcba9876543210"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}))
	if err != nil {
		n.Fatal(cause(err))
	}
	session := openid.NewDefaultSession()
	session.Subject, session.Claims.Subject = n.subject, n.subject
	if decide != nil {
		ctx = decide(ctx, ar, session)
	}
	response, err := n.provider.NewAuthorizeResponse(ctx, ar, session)
	if err != nil {
		return issued{}, err
	}
	return issued{codes: []string{response.GetCode()}, access: []string{response.GetParameters().Get("access_token")}}, nil
}

// tokens calls the token endpoint.
func (n *node) tokens(ctx context.Context, form map[string][]string) (issued, error) {
	n.Helper()
	form["client_id"] = []string{n.client}
	ar, err := n.provider.NewAccessRequest(ctx, request(form), openid.NewDefaultSession())
	if err != nil {
		return issued{}, err
	}
	response, err := n.provider.NewAccessResponse(ctx, ar)
	if err != nil {
		return issued{}, err
	}
	return issued{refresh: []string{refreshToken(response)}, access: []string{response.GetAccessToken()}}, nil
}

func (n *node) exchange(ctx context.Context, code string) (issued, error) {
	return n.tokens(ctx, map[string][]string{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier},
	})
}

func (n *node) refresh(ctx context.Context, token string) (issued, error) {
	return n.tokens(ctx, map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// usable returns what still is good for something.
func (n *node) usable(ctx context.Context, all issued) (found []string) {
	n.Helper()
	for _, token := range all.access {
		if _, _, err := n.provider.IntrospectToken(ctx, token, fosite.AccessToken, newSession()); err == nil {
			found = append(found, "an access token")
		}
	}
	for _, token := range all.refresh {
		if _, _, err := n.provider.IntrospectToken(ctx, token, fosite.RefreshToken, newSession()); err == nil {
			found = append(found, "a refresh token, by introspection")
		}
		if _, err := n.refresh(ctx, token); err == nil {
			found = append(found, "a refresh token")
		} else if !errors.Is(err, fosite.ErrInvalidGrant) {
			found = append(found, fmt.Sprint("a refresh token, perhaps: ", cause(err)))
		}
	}
	for _, code := range all.codes {
		if _, err := n.exchange(ctx, code); err == nil {
			found = append(found, "a code")
		} else if !errors.Is(err, fosite.ErrInvalidGrant) {
			found = append(found, fmt.Sprint("a code, perhaps: ", cause(err)))
		}
	}
	return found
}

// actor does something, one round trip at a time.
type actor struct {
	name            string
	arrived         chan struct{} // it has something to send
	proceed         chan struct{}
	ended           chan struct{}
	stepping        bool
	ready, finished bool
}

func newActor(name string) *actor {
	return &actor{name: name, arrived: make(chan struct{}), proceed: make(chan struct{})}
}

func (a *actor) step() {
	if a.stepping {
		a.arrived <- struct{}{}
		<-a.proceed
	}
}

func (a *actor) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	a.step()
	return ctx
}
func (*actor) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (a *actor) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	a.step()
	return ctx
}
func (*actor) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*actor) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (a *actor) start(do func()) {
	a.ended, a.stepping, a.ready, a.finished = make(chan struct{}), true, false, false
	go func() {
		defer close(a.ended)
		do()
	}()
}

// schedule lets two actors take turns, in an order that it has not tried yet.
type schedule struct {
	testing.TB
	observer *pgxpool.Pool
	choices  []choice
	at       int
}

type choice struct{ first, both bool }

// next prepares another order, and returns false if there is none left.
func (s *schedule) next() bool {
	s.at = 0
	for len(s.choices) > 0 {
		last := &s.choices[len(s.choices)-1]
		if last.both && last.first {
			last.first = false
			return true
		}
		s.choices = s.choices[:len(s.choices)-1]
	}
	return false
}

// run has both come to their end.
func (s *schedule) run(ctx context.Context, first, second *actor) {
	s.settle(ctx, first)
	s.settle(ctx, second)
	for !first.finished || !second.finished {
		var turn *actor
		switch {
		case first.ready && second.ready:
			if s.at == len(s.choices) {
				s.choices = append(s.choices, choice{true, true})
			}
			c := s.choices[s.at]
			s.at++
			if turn = second; c.first {
				turn = first
			}
		case first.ready:
			turn = first
		case second.ready:
			turn = second
		default:
			s.Fatal("they wait for each other")
		}
		turn.ready = false
		turn.proceed <- struct{}{}
		s.settle(ctx, turn) // which may let go of what the other one waits for
		s.settle(ctx, first)
		s.settle(ctx, second)
	}
}

// settle returns when it is known what an actor waits for: its turn, or a lock that somebody
// holds, or nothing any more.
func (s *schedule) settle(ctx context.Context, a *actor) {
	for !a.ready && !a.finished {
		select {
		case <-a.arrived:
			a.ready = true
			continue
		case <-a.ended:
			a.finished, a.stepping = true, false
			continue
		default:
		}
		var blocked bool
		if err := s.observer.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE NOT granted AND application_name = $1 AND datname = current_database())`, a.name).Scan(&blocked); err != nil {
			s.Fatal(err)
		}
		if blocked {
			return
		}
	}
}

// Whatever is under way while a consent is revoked, and however their statements come
// between each other: when both have ended, nothing works that was issued under it.
func TestNothingOutlivesARevocationInAnyOrder(t *testing.T) {
	t.Parallel()
	selections := map[string]func(*node, fositeconsent.ID) fositeconsent.Selection{
		"subject": func(n *node, _ fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: n.subject}
		},
		"subject and client": func(n *node, _ fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: n.subject, ClientID: "app"}
		},
		"client": func(*node, fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{ClientID: "app", EverySubject: true}
		},
		"consent": func(n *node, id fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: n.subject, ConsentID: id}
		},
		"login": func(n *node, _ fositeconsent.ID) fositeconsent.Selection {
			return fositeconsent.Selection{Subject: n.subject, LoginSession: n.login}
		},
	}
	flows := map[string]func(*node, context.Context, issued) (issued, error){
		"an authorize response": func(n *node, ctx context.Context, _ issued) (issued, error) { return n.authorize(ctx, nil) },
		"a response that nobody was asked for": func(n *node, ctx context.Context, _ issued) (issued, error) {
			return n.authorize(ctx, n.skip)
		},
		"an exchange": func(n *node, ctx context.Context, has issued) (issued, error) {
			return n.exchange(ctx, has.codes[0])
		},
		"a refresh": func(n *node, ctx context.Context, has issued) (issued, error) {
			return n.refresh(ctx, has.refresh[0])
		},
	}
	for by, selection := range selections {
		for name, flow := range flows {
			for _, inPieces := range []bool{false, true} {
				if inPieces && by != "subject" {
					continue // the same statements
				}
				t.Run(fmt.Sprintf("%s, in pieces %t, against one by %s", name, inPieces, by), func(t *testing.T) {
					t.Parallel()
					testOrders(t, flow, selection, inPieces)
				})
			}
		}
	}
}

func testOrders(t *testing.T, flow func(*node, context.Context, issued) (issued, error), selection func(*node, fositeconsent.ID) fositeconsent.Selection, inPieces bool) {
	database := pgtest.Database(t)
	calm := newNode(t, database, "calm", false)
	calm.setUp("app")
	traced := func(a *actor) func(*pgxpool.Config) { return func(c *pgxpool.Config) { c.ConnConfig.Tracer = a } }
	issuing, revoking := newActor("issuing"), newActor("revoking")
	issuer, revoker := newNode(t, database, "issuing", inPieces, traced(issuing)), newNode(t, database, "revoking", false, traced(revoking))
	for _, n := range []*node{issuer, revoker} {
		if _, err := n.store.GetClient(testContext(t), "app"); err != nil {
			t.Fatal(err)
		}
	}
	s := &schedule{TB: t, observer: calm.pool}
	won, lost := 0, 0
	for i := 0; i == 0 || s.next(); i++ {
		ctx := testContext(t)
		for _, n := range []*node{calm, issuer, revoker} {
			n.subject, n.login = fmt.Sprint("user ", i), fmt.Sprint("login ", i)
		}
		// A code that was exchanged, and one that was not.
		has, err := calm.authorize(ctx, calm.remember)
		if err != nil {
			t.Fatal(cause(err))
		}
		tokens, err := calm.exchange(ctx, has.codes[0])
		if err != nil {
			t.Fatal(cause(err))
		}
		silent, err := calm.authorize(ctx, nil)
		if err != nil {
			t.Fatal(cause(err))
		}
		has.codes = nil
		has.add(silent)
		has.add(tokens)
		listed, err := calm.gate.ListConsents(ctx, fositeconsent.Selection{Subject: calm.subject}, fositeconsent.ID{}, 10)
		if err != nil || len(listed) != 1 {
			t.Fatal(listed, err)
		}
		selected := selection(revoker, listed[0].ID)

		var got issued
		var issueErr, revokeErr error
		var revoked int
		issuing.start(func() { got, issueErr = flow(issuer, ctx, has) })
		revoking.start(func() { revoked, revokeErr = revoker.gate.Revoke(ctx, selected) })
		s.run(ctx, issuing, revoking)

		if revoked != 1 || revokeErr != nil {
			t.Errorf("order %v: revoked %d: %v", s.choices, revoked, revokeErr)
		}
		switch {
		case issueErr == nil:
			won++
		case errors.Is(issueErr, fositeconsent.ErrConsentRevoked) && (fositeconsent.NeedsConsent(issueErr) || errors.Is(issueErr, fosite.ErrInvalidGrant)),
			errors.Is(issueErr, fositeconsent.ErrConsentRequired):
			lost++
		default:
			t.Errorf("order %v: %v", s.choices, cause(issueErr))
		}
		has.add(got)
		if found := calm.usable(ctx, has); len(found) > 0 {
			t.Errorf("order %v: it was issued: %t, and still works: %v", s.choices, issueErr == nil, found)
		}
		if t.Failed() {
			return
		}
	}
	if won == 0 || won+lost < 30 {
		t.Errorf("%d came before the revocation, and %d after it", won, lost)
	}
	t.Logf("%d orders, in %d of which it was issued", won+lost, won)
}

// traceable is what an authorization response has led to.
type traceable struct {
	issued
	subject, client string
	before          time.Time // which it had come
	over            bool      // a revocation of its consents has begun since, and returned
}

// As many as like do what they like to some users' consents. What had come before a revocation
// began does not work once that has returned, nor what was made of it, however late; and in the
// end nothing works but under consents that are live.
func TestNothingOutlivesARevocationUnderLoad(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			const workers, steps = 8, 50
			subjects, clients := []string{"alice", "bob"}, []string{"app", "another"}
			shared := newNode(t, pgtest.Database(t), "shared", false, withConns(12))
			shared.setUp(clients...)
			shared.login = "a login"
			var mu sync.Mutex
			var all []*traceable
			var counts [5]int
			work := func(random *rand.Rand) {
				ctx := testContext(t)
				n := *shared
				for range steps {
					n.subject, n.client = subjects[random.IntN(len(subjects))], clients[random.IntN(len(clients))]
					what := random.IntN(len(counts))
					// Something that nobody else has.
					var one *traceable
					var code, refresh string
					take := func(list *[]string) (token string) {
						if len(*list) > 0 {
							token, *list = (*list)[0], (*list)[1:]
						}
						return token
					}
					mu.Lock()
					for _, i := range random.Perm(len(all)) {
						if one = all[i]; what == 2 {
							code = take(&one.codes)
						} else if what == 3 {
							refresh = take(&one.refresh)
						}
						if code != "" || refresh != "" {
							break
						}
					}
					mu.Unlock()
					var got issued
					var err error
					switch {
					case what == 0:
						got, err = n.authorize(ctx, n.remember)
					case what == 1 && random.IntN(2) == 0:
						got, err = n.authorize(ctx, n.skip)
					case what == 1:
						got, err = n.authorize(ctx, nil)
					case code != "":
						n.client = one.client
						got, err = n.exchange(ctx, code)
					case refresh != "":
						n.client = one.client
						got, err = n.refresh(ctx, refresh)
					case what == 4 && random.IntN(4) == 0:
						selection := fositeconsent.Selection{Subject: n.subject, ClientID: n.client}
						switch random.IntN(3) {
						case 0:
							selection.Subject, selection.EverySubject = "", true
						case 1:
							selection.ClientID = ""
						}
						begun := time.Now()
						mu.Lock()
						before := slices.Clone(all)
						mu.Unlock()
						if _, err := n.gate.Revoke(ctx, selection); err != nil {
							t.Errorf("revoke: %v", err)
						}
						for _, r := range before {
							if !r.before.Before(begun) || selection.Subject != "" && selection.Subject != r.subject || selection.ClientID != "" && selection.ClientID != r.client {
								continue
							}
							mu.Lock()
							r.over = true
							is := issued{slices.Clone(r.codes), slices.Clone(r.refresh), slices.Clone(r.access)}
							mu.Unlock()
							n.client = r.client
							if found := n.usable(ctx, is); len(found) > 0 {
								t.Errorf("after %+v: %v", selection, found)
							}
						}
					default:
						continue
					}
					mu.Lock()
					switch {
					case err == nil && (code != "" || refresh != ""):
						one.add(got)
					case err == nil && what < 2:
						all = append(all, &traceable{issued: got, subject: n.subject, client: n.client, before: time.Now()})
					case err == nil, errors.Is(err, fositeconsent.ErrConsentRevoked), errors.Is(err, fositeconsent.ErrConsentRequired):
					case code != "" && errors.Is(err, fosite.ErrInvalidatedAuthorizeCode), refresh != "" && errors.Is(err, fosite.ErrInactiveToken):
						// Who looked whether it works after a revocation was faster.
					default:
						if !errors.Is(err, fosite.ErrInvalidGrant) {
							t.Errorf("%d: %v", what, cause(err))
						}
					}
					if err == nil {
						counts[what]++
					}
					mu.Unlock()
				}
			}
			var done sync.WaitGroup
			for i := range workers {
				done.Go(func() { work(rand.New(rand.NewPCG(seed, uint64(i)))) })
			}
			done.Wait()
			t.Logf("approvals, silent passes, exchanges, refreshes, revocations: %v", counts)
			if slices.Contains(counts[:], 0) {
				t.Error("not everything has happened")
			}
			ctx := testContext(t)
			for _, r := range all {
				if n := *shared; r.over {
					n.client = r.client
					if found := n.usable(ctx, r.issued); len(found) > 0 {
						t.Errorf("in the end: %v", found)
					}
				}
				for _, token := range r.access {
					_, ar, err := shared.provider.IntrospectToken(ctx, token, fosite.AccessToken, newSession())
					if err != nil {
						continue
					}
					var live bool
					if err := shared.pool.QueryRow(ctx, `SELECT bool_and(c.revoked_at IS NULL) FROM consent_responses AS r
						JOIN consent_consents AS c ON c.id = r.consent_id WHERE r.request_id = $1`, ar.GetID()).Scan(&live); err != nil || !live {
						t.Errorf("an access token works under a revoked consent: %v", err)
					}
				}
			}
		})
	}
}
