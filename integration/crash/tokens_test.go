package crash_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/go-jose/go-jose/v3/jwt"
	"github.com/jackc/pgx/v5"
	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/openid"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// call is a request of the client's to one of the endpoints that it calls itself.
type call struct {
	Endpoint string // token, revocation, push
	Form     url.Values
}

// answer is what the client learns.
type answer struct{ Access, Refresh, RequestURI string }

// authenticated returns the call with a new assertion of the client's (RFC 7523, Section
// 2.2), of which the server keeps the ID.
func (c call) authenticated() call {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: signingKey, KeyID: "key"}}, nil)
	if err != nil {
		panic(err)
	}
	assertion, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: "app", Subject: "app", Audience: jwt.Audience{tokenURL}, ID: rand.Text(),
		Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).CompactSerialize()
	if err != nil {
		panic(err)
	}
	c.Form = maps.Clone(c.Form)
	c.Form.Set("client_id", "app")
	c.Form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	c.Form.Set("client_assertion", assertion)
	return c
}

func exchange(code string) call {
	return call{"token", url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {"https://app.example/cb"},
		"code_verifier": {"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"},
	}}.authenticated()
}

func refresh(token string) call {
	return call{"token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}}.authenticated()
}

func revocation(token string) call {
	return call{"revocation", url.Values{"token": {token}}}.authenticated()
}

func push(subject string) call { return call{"push", params(subject)}.authenticated() }

// call answers as the endpoint does.
func (s *server) call(ctx context.Context, c call) (answer, error) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.Form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	switch c.Endpoint {
	case "token":
		ar, err := s.provider.NewAccessRequest(ctx, r, openid.NewDefaultSession())
		if err != nil {
			return answer{}, err
		}
		response, err := s.provider.NewAccessResponse(ctx, ar)
		// As fositestore's documentation says.
		if errors.Is(err, fosite.ErrInvalidatedAuthorizeCode) || errors.Is(err, fosite.ErrInactiveToken) {
			err = fosite.ErrInvalidGrant.WithWrap(err)
		}
		if err != nil {
			return answer{}, err
		}
		token, _ := response.GetExtra("refresh_token").(string)
		if id, _ := response.GetExtra("id_token").(string); id == "" || token == "" || response.GetAccessToken() == "" {
			return answer{}, errors.New("a token is missing in the response")
		}
		return answer{Access: response.GetAccessToken(), Refresh: token}, nil
	case "revocation":
		return answer{}, s.provider.NewRevocationRequest(ctx, r)
	case "push":
		ar, err := s.provider.NewPushedAuthorizeRequest(ctx, r)
		if err != nil {
			return answer{}, err
		}
		response, err := s.provider.NewPushedAuthorizeResponse(ctx, ar, openid.NewDefaultSession())
		if err != nil {
			return answer{}, err
		}
		return answer{RequestURI: response.GetRequestURI()}, nil
	}
	return answer{}, fmt.Errorf("no such endpoint: %q", c.Endpoint)
}

func (s *server) good(accessToken string) bool {
	_, _, err := s.provider.IntrospectToken(context.Background(), accessToken, fosite.AccessToken, openid.NewDefaultSession())
	return err == nil
}

// family is what the database has of one subject's tokens.
type family struct{ access, liveAccess, refresh, liveRefresh int }

func (s *site) family(t *testing.T, subject string) (f family) {
	t.Helper()
	if err := s.healthy.pool.QueryRow(context.Background(), `
SELECT (SELECT count(*) FROM consent_access_tokens WHERE subject = $1),
       (SELECT count(*) FROM consent_access_tokens WHERE subject = $1 AND ended_at IS NULL),
       (SELECT count(*) FROM consent_refresh_tokens WHERE subject = $1),
       (SELECT count(*) FROM consent_refresh_tokens WHERE subject = $1 AND ended_at IS NULL)`, subject).
		Scan(&f.access, &f.liveAccess, &f.refresh, &f.liveRefresh); err != nil {
		t.Fatal(err)
	}
	return f
}

func (s *site) wantFamily(t *testing.T, subject string, want family) {
	t.Helper()
	if got := s.family(t, subject); got != want {
		t.Errorf("the tokens are %+v, expected %+v", got, want)
	}
}

// want makes a call on the healthy server.
func (s *site) want(t *testing.T, c call) answer {
	t.Helper()
	got, err := s.healthy.call(context.Background(), c)
	if err != nil {
		t.Fatal(cause(err))
	}
	return got
}

// wantRefusal makes a call on the healthy server that has to be refused for good.
func (s *site) wantRefusal(t *testing.T, c call) {
	t.Helper()
	if _, err := s.healthy.call(context.Background(), c); !errors.Is(err, fosite.ErrInvalidGrant) {
		t.Errorf("expected invalid_grant, got %v", cause(err))
	}
}

func cause(err error) error {
	var rfc *fosite.RFC6749Error
	if errors.As(err, &rfc) && rfc.Cause() != nil {
		return fmt.Errorf("%s: %w", rfc.ErrorField, rfc.Cause())
	}
	return err
}

// operation is a call that faults are injected into.
type operation struct {
	// prepare prepares one for a subject of its own, and returns what is to be looked at afterwards.
	prepare func(*site, *testing.T) (call, verification)
	// refused says that the call is a reuse, which has to be refused.
	refused bool
	// killed says that the process is killed as well.
	killed bool
}

var operations = map[string]operation{
	"a code":                   {prepare: exchanging, killed: true},
	"a code that was used":     {prepare: reusingCode, refused: true},
	"a refresh token":          {prepare: refreshing, killed: true},
	"a token that was rotated": {prepare: reusingToken, refused: true},
	"a revocation":             {prepare: revoking},
	"a pushed request":         {prepare: pushing},
}

// verification looks at what a call has left, and returns what the client's next try met.
type verification func(t *testing.T, got answer, err error) (outcome string)

const (
	outcomeGood    = "success"
	outcomeCounted = "refused: the first try took effect, unheard"
)

func (s *site) code(t *testing.T) (subject, code string) {
	t.Helper()
	a := s.approve(t, way{})
	code, err := s.healthy.respond(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	return a.Subject, code
}

// A code is good for one family of tokens, whatever happens.
func exchanging(s *site, t *testing.T) (call, verification) {
	subject, code := s.code(t)
	return exchange(code), func(t *testing.T, got answer, err error) string {
		if err == nil {
			// What the client holds is what the database knows.
			s.wantFamily(t, subject, family{1, 1, 1, 1})
			if !s.healthy.good(got.Access) {
				t.Error("the access token is no good")
			}
			second := s.want(t, refresh(got.Refresh))
			s.wantFamily(t, subject, family{2, 1, 2, 1})
			s.wantRefusal(t, exchange(code))
			s.wantFamily(t, subject, family{2, 0, 2, 0})
			s.wantRefusal(t, refresh(second.Refresh))
			return outcomeGood
		}
		again, err := s.healthy.call(context.Background(), exchange(code))
		if err == nil {
			// Nothing of the first try is there, or ever will be.
			s.wantFamily(t, subject, family{1, 1, 1, 1})
			if !s.healthy.good(again.Access) {
				t.Error("the access token of the next try is no good")
			}
			return outcomeGood
		}
		if !errors.Is(err, fosite.ErrInvalidGrant) {
			t.Errorf("the next try was refused for the wrong reason: %v", cause(err))
		}
		// The tokens that nobody has heard of were stored with the code's use, and have ended with the reuse.
		s.wantFamily(t, subject, family{1, 0, 1, 0})
		return outcomeCounted
	}
}

// Of the old and the new refresh token one is good, until somebody who does not know the
// new one comes with the old one.
func refreshing(s *site, t *testing.T) (call, verification) {
	subject, code := s.code(t)
	old := s.want(t, exchange(code))
	return refresh(old.Refresh), func(t *testing.T, got answer, err error) string {
		if err == nil {
			s.wantFamily(t, subject, family{2, 1, 2, 1})
			if !s.healthy.good(got.Access) || s.healthy.good(old.Access) {
				t.Error("the new access token is no good, or the old one still is")
			}
			s.want(t, refresh(got.Refresh))
			s.wantFamily(t, subject, family{3, 1, 3, 1})
			s.wantRefusal(t, refresh(old.Refresh))
			s.wantFamily(t, subject, family{3, 0, 3, 0})
			return outcomeGood
		}
		if before := s.family(t, subject); before.liveAccess != 1 || before.liveRefresh != 1 {
			t.Errorf("after the fault the tokens are %+v, expected one of each to be good", before)
		}
		again, err := s.healthy.call(context.Background(), refresh(old.Refresh))
		if err == nil {
			s.wantFamily(t, subject, family{2, 1, 2, 1})
			if !s.healthy.good(again.Access) || s.healthy.good(old.Access) {
				t.Error("the access token of the next try is no good, or the old one still is")
			}
			return outcomeGood
		}
		if !errors.Is(err, fosite.ErrInvalidGrant) {
			t.Errorf("the next try was refused for the wrong reason: %v", cause(err))
		}
		s.wantFamily(t, subject, family{2, 0, 2, 0})
		return outcomeCounted
	}
}

// A revocation ends all of a family or nothing, and who is told that it did can rely on it.
func revoking(s *site, t *testing.T) (call, verification) {
	subject, code := s.code(t)
	tokens := s.want(t, exchange(code))
	return revocation(tokens.Refresh), func(t *testing.T, _ answer, err error) string {
		ended := family{1, 0, 1, 0}
		if err == nil {
			s.wantFamily(t, subject, ended)
		} else if f := s.family(t, subject); f != ended && f != (family{1, 1, 1, 1}) {
			t.Errorf("the tokens are %+v: a half of them has ended", f)
		}
		s.want(t, revocation(tokens.Refresh))
		s.wantFamily(t, subject, ended)
		return outcomeGood
	}
}

// A request_uri that the client is told of is good for a response; who is told of none
// pushes again.
func pushing(s *site, t *testing.T) (call, verification) {
	subject := s.subject()
	return push(subject), func(t *testing.T, got answer, err error) string {
		if err != nil {
			got = s.want(t, push(subject))
		}
		for range 2 {
			ar, err := s.healthy.request(context.Background(), approval{Subject: subject, RequestURI: got.RequestURI})
			if err != nil || ar.GetState() != params(subject).Get("state") {
				t.Errorf("the pushed request cannot be read: %v", cause(err))
			}
		}
		return outcomeGood
	}
}

// A code that is used again ends its tokens. fosite says invalid_grant also where it was
// told that they could not be ended: then it is the next use of the code that ends them.
func reusingCode(s *site, t *testing.T) (call, verification) {
	subject, code := s.code(t)
	tokens := s.want(t, exchange(code))
	return exchange(code), func(t *testing.T, _ answer, err error) string {
		if err == nil {
			t.Error("a code was exchanged twice")
		}
		s.wantRefusal(t, exchange(code))
		s.wantFamily(t, subject, family{1, 0, 1, 0})
		s.wantRefusal(t, refresh(tokens.Refresh))
		return outcomeGood
	}
}

// So does a refresh token; and who is told invalid_grant can rely on it.
func reusingToken(s *site, t *testing.T) (call, verification) {
	subject, code := s.code(t)
	old := s.want(t, exchange(code))
	s.want(t, refresh(old.Refresh))
	return refresh(old.Refresh), func(t *testing.T, _ answer, err error) string {
		ended := family{2, 0, 2, 0}
		switch f := s.family(t, subject); {
		case err == nil:
			t.Error("a refresh token was rotated twice")
		case errors.Is(err, fosite.ErrInvalidGrant) && f != ended, f != ended && f != (family{2, 1, 2, 1}):
			t.Errorf("the client was told %v, and the tokens are %+v", cause(err), f)
		}
		s.wantRefusal(t, refresh(old.Refresh))
		s.wantFamily(t, subject, ended)
		return outcomeGood
	}
}

// wantSpent fails the test if the call's client assertion is accepted twice.
func (s *site) wantSpent(t *testing.T, c call, err error) {
	t.Helper()
	uses := 0
	if err == nil {
		uses++
	}
	for range 2 {
		probe := revocation("of.nobody")
		probe.Form.Set("client_assertion", c.Form.Get("client_assertion"))
		_, err := s.healthy.call(context.Background(), probe)
		switch {
		case err == nil:
			uses++
		case !errors.Is(err, fosite.ErrJTIKnown):
			t.Errorf("a client assertion was refused for the wrong reason: %v", cause(err))
		}
	}
	if uses > 1 {
		t.Errorf("a client assertion was accepted %d times", uses)
	}
}

// commit returns the round trip that commits: the one with several statements.
func commit(trips []int) (number int) {
	for i, messages := range trips {
		if messages > trips[number] {
			number = i
		}
	}
	return number
}

// tokenPlans are the points of a call: before and after each statement, and after each answer.
func tokenPlans(trips []int) (list []plan) {
	for _, p := range plans(trips, true) {
		// A statement is four messages, and one more ends the round trip.
		if p.answer || p.messages%4 == 0 || p.messages == trips[p.write] {
			list = append(list, p)
		}
	}
	return list
}

// TestTokenPoints does the same for what clients call: the token endpoint, revocation, and the
// endpoint for pushed requests, by a client that authenticates itself with an assertion.
func TestTokenPoints(t *testing.T) {
	t.Parallel()
	for name, o := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Database(t))
			trips := s.watchCall(t, o, eachForItself)
			t.Logf("messages of each round trip: %v", trips)
			var points []func()
			add := func(name string, do func(t *testing.T)) {
				points = append(points, func() { t.Run(name, do) })
			}
			for _, p := range tokenPlans(trips) {
				add("the connection is cut at "+p.String(), func(t *testing.T) {
					s.lostCall(t, lostOnce, eachForItself, o, trips, p)
				})
				add("the network is gone from "+p.String(), func(t *testing.T) {
					s.lostCall(t, lostForGood, eachForItself, o, trips, p)
				})
			}
			// The next connection has not prepared what this one had.
			prepared := s.watchCall(t, o, pgx.QueryExecModeCacheStatement)
			for _, p := range plans(prepared, false) {
				add("prepared, the connection is cut at "+p.String(), func(t *testing.T) {
					s.lostCall(t, lostOnce, pgx.QueryExecModeCacheStatement, o, prepared, p)
				})
			}
			if o.killed {
				for _, p := range plans(trips, false) {
					add("the process is killed at "+p.String(), func(t *testing.T) {
						c, verify := o.prepare(s, t)
						s.judge(t, "SIGKILL", o, trips, p, c, verify, answer{}, kill(t, childTask{URL: s.url, Call: c}, p))
					})
				}
			}
			together(8, points) // most of the time they wait before they try again
			s.noOrphans(t)
		})
	}
}

// together does all of the list, so many at a time.
func together(workers int, list []func()) {
	next := make(chan func())
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for do := range next {
				do()
			}
		})
	}
	for _, do := range list {
		next <- do
	}
	close(next)
	all.Wait()
}

// The kinds of faults.
const (
	lostOnce    = "connection cut"
	lostForGood = "outage"
)

// client returns a server whose connections are watched, and a call that it has not made yet.
// Where it prepares statements it has prepared those of the call.
func (s *site) client(t *testing.T, o operation, mode pgx.QueryExecMode, w *wire) (*server, call, verification) {
	t.Helper()
	commitTimeout := patience // what is lost once is found out, however slow the machine is
	if w.outage {
		commitTimeout = 2 * time.Second
	}
	srv := s.faultyIn(t, mode, commitTimeout, w, nil)
	if mode != eachForItself {
		c, _ := o.prepare(s, t)
		if _, err := srv.call(context.Background(), c); (err != nil) != o.refused {
			t.Fatal(cause(err))
		}
	}
	c, verify := o.prepare(s, t)
	return srv, c, verify
}

// watchCall makes a call that nothing happens to and returns the messages of each of its
// round trips.
func (s *site) watchCall(t *testing.T, o operation, mode pgx.QueryExecMode) []int {
	t.Helper()
	w := &wire{}
	srv, c, verify := s.client(t, o, mode, w)
	w.arm(nil, false, nil)
	got, err := srv.call(context.Background(), c)
	trips, _ := w.disarm()
	if (err != nil) != o.refused || len(trips) < 3 {
		t.Fatalf("%d round trips, error %v", len(trips), cause(err))
	}
	verify(t, got, err)
	return trips
}

// lostCall makes the call with a fault.
func (s *site) lostCall(t *testing.T, kind string, mode pgx.QueryExecMode, o operation, trips []int, p plan) {
	w := &wire{outage: kind == lostForGood}
	srv, c, verify := s.client(t, o, mode, w)
	w.arm(&p, false, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := srv.call(ctx, c)
	if _, fired := w.disarm(); !fired {
		t.Fatal("the point was not reached")
	}
	s.judge(t, kind, o, trips, p, c, verify, got, err)
}

// judge looks at what the client was told, what is left, and what the client's next try meets.
func (s *site) judge(t *testing.T, kind string, o operation, trips []int, p plan, c call, verify verification, got answer, err error) {
	t.Helper()
	refused := errors.Is(err, fosite.ErrInvalidGrant)
	switch {
	case kind == lostOnce && (refused != o.refused || !refused && err != nil):
		// Every statement recognises its own first try, and is sent again.
		t.Errorf("a call that lost its connection once ended with %v", cause(err))
	case refused && !o.refused:
		t.Error("what is not known was taken for a refusal")
	}
	outcome := verify(t, got, err)
	s.wantSpent(t, c, err)
	s.count(kind, outcome)
	if err == nil || !o.killed {
		return
	}
	last := commit(trips)
	switch {
	case p.write < last, p.write == last && !p.answer && p.messages < trips[last]:
		if outcome != outcomeGood {
			t.Error("the next try was refused, and nothing can have been committed")
		}
	case p.write > last, p.answer:
		if outcome != outcomeCounted {
			t.Error("the next try succeeded after the commit")
		}
	}
}

// noOrphans looks at all that the faults have left in the database.
func (s *site) noOrphans(t *testing.T) {
	t.Helper()
	for what, query := range map[string]string{
		"tokens of a code that is not used": `SELECT count(*) FROM (SELECT request_id FROM consent_access_tokens UNION ALL SELECT request_id FROM consent_refresh_tokens) AS t
			WHERE NOT EXISTS (SELECT FROM consent_codes AS c WHERE c.request_id = t.request_id AND c.used_at IS NOT NULL)`,
		"used codes without both tokens": `SELECT count(*) FROM consent_codes AS c WHERE used_at IS NOT NULL AND NOT (
			EXISTS (SELECT FROM consent_access_tokens AS t WHERE t.request_id = c.request_id) AND
			EXISTS (SELECT FROM consent_refresh_tokens AS t WHERE t.request_id = c.request_id))`,
		"families with two good tokens of a kind": `SELECT count(*) FROM (
			SELECT FROM consent_access_tokens WHERE ended_at IS NULL GROUP BY request_id HAVING count(*) > 1 UNION ALL
			SELECT FROM consent_refresh_tokens WHERE ended_at IS NULL GROUP BY request_id HAVING count(*) > 1) AS f`,
		"families of which one kind is good": `SELECT count(*) FROM consent_codes AS c WHERE
			EXISTS (SELECT FROM consent_access_tokens AS t WHERE t.request_id = c.request_id AND ended_at IS NULL) <>
			EXISTS (SELECT FROM consent_refresh_tokens AS t WHERE t.request_id = c.request_id AND ended_at IS NULL)`,
	} {
		var n int
		if err := s.healthy.pool.QueryRow(context.Background(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != 0 {
			t.Errorf("there are %d %s", n, what)
		}
	}
}
