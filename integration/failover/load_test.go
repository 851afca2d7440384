package failover_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

const (
	// workers act at the same time, shared out to the nodes.
	workers = 8
	// ahead is how many approvals a worker has made and not yet presented: what is
	// consumed just before a failover was minted well before.
	ahead = 4
)

// story is one resource owner's authorization, and what was acknowledged of it. It is
// one of three kinds, by its number: a grant that is minted, and later consumed by the
// response; a decision that is minted by the response; and a grant that is minted and
// consumed with no transaction around it, as by a gate without one.
type story struct {
	number   int
	approval approval
	grant    *fositeconsent.Grant // of the third kind

	minted  bool     // the mint was acknowledged
	codes   []string // of acknowledged responses; of the third kind, the attempts that have won
	tokens  []string // of acknowledged exchanges
	unknown bool     // somebody was told that the outcome cannot be found out
}

func (s *story) subject() string { return "user-" + strconv.Itoa(s.number) }

// contested says that two exchange the same code. Who loses ends what the other got
// (RFC 6749, Section 4.1.2).
func (s *story) contested() bool { return s.number%2 == 0 }

// begin makes the approval.
func (s *story) begin(ctx context.Context, n *node) (err error) {
	if s.number%3 == 2 {
		s.grant = newGrant(s.subject())
		err = n.grants.CreateConsentGrant(ctx, s.grant)
	} else {
		s.approval, err = n.approve(ctx, s.subject(), s.number%3 == 0)
	}
	s.minted = err == nil && s.approval.ticket == ""
	return err
}

// present presents the approval once.
func (s *story) present(ctx context.Context, n *node) (string, error) {
	if s.grant == nil {
		return n.respond(ctx, s.approval)
	}
	p := present(s.grant)
	_, err := n.grants.ConsumeConsentGrant(ctx, p)
	return text(p.Attempt), err
}

// outcomeUnknown reports whether the error is that of a commit of which nobody knows.
// After any other one of a response nothing was committed.
func outcomeUnknown(err error) bool {
	var state interface{ SQLState() string }
	return errors.As(err, &state) && state.SQLState() == "40003" // statement_completion_unknown
}

// load is a number of workers that approve, present and exchange.
type load struct {
	t       *testing.T
	nodes   []*node
	stop    chan struct{}
	done    chan struct{} // one for each story that was acknowledged to its end
	running sync.WaitGroup

	mu      sync.Mutex // of the stories' lists, too
	stories []*story
}

// startLoad starts the load. It ends with the test, or with verify.
func startLoad(t *testing.T, nodes ...*node) *load {
	l := &load{t: t, nodes: nodes, stop: make(chan struct{}), done: make(chan struct{}, 1<<16)}
	ctx := testContext(t)
	for i := range workers {
		l.running.Go(func() { l.work(ctx, i) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.running.Wait()
}

// reach returns when so many more stories have been acknowledged to their end.
func (l *load) reach(n int) {
	l.t.Helper()
	for range len(l.done) {
		<-l.done
	}
	ctx := testContext(l.t)
	for range n {
		select {
		case <-l.done:
		case <-ctx.Done():
			l.t.Fatal("nothing moves")
		}
	}
}

func (l *load) work(ctx context.Context, worker int) {
	var approved []*story
	for ctx.Err() == nil {
		select {
		case <-l.stop:
			return
		default:
		}
		s := l.add()
		_ = s.begin(ctx, l.nodes[worker%len(l.nodes)]) // what failed may be there all the same
		if approved = append(approved, s); len(approved) > ahead {
			l.run(ctx, approved[0], worker)
			approved = approved[1:]
		}
	}
}

func (l *load) add() *story {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &story{number: len(l.stories)}
	l.stories = append(l.stories, s)
	return s
}

// run presents an approval twice at the same time, and once more if nobody got through;
// and exchanges the code.
func (l *load) run(ctx context.Context, s *story, worker int) {
	if s.approval.subject == "" && s.grant == nil {
		return // it got no page
	}
	together(2, func(i int) { l.presented(ctx, s, worker+i) })
	if len(s.codes) == 0 {
		l.presented(ctx, s, worker)
	}
	if len(s.codes) == 0 {
		return
	}
	if s.grant == nil {
		rivals := 1
		if s.contested() {
			rivals = 2
		}
		together(rivals, func(i int) { l.exchanged(ctx, s, worker+i) })
		if len(s.tokens) == 0 {
			return
		}
	}
	l.done <- struct{}{}
}

func together(n int, do func(int)) {
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { do(i) })
	}
	running.Wait()
}

func (l *load) presented(ctx context.Context, s *story, worker int) {
	code, err := s.present(ctx, l.nodes[worker%len(l.nodes)])
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		s.codes = append(s.codes, code)
	}
	s.unknown = s.unknown || outcomeUnknown(err)
}

func (l *load) exchanged(ctx context.Context, s *story, worker int) {
	token, err := l.nodes[worker%len(l.nodes)].exchange(ctx, s.codes[0])
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		s.tokens = append(s.tokens, token)
	}
}

// The kinds of problems that verify finds.
const (
	lostMint  = "an acknowledged mint is lost"
	lostCode  = "an acknowledged response, or consume, is lost"
	lostToken = "an acknowledged exchange is lost"
	twice     = "one approval led to two codes, or one code to two tokens"
	torn      = "half of a transaction is there"
	undead    = "what is said to have failed was committed"
)

// verify ends the load, compares what was acknowledged with what is there, presents
// everything once more, and returns the problems by their kind.
func (l *load) verify(n *node, databaseURL string) map[string][]string {
	l.t.Helper()
	l.end()
	ctx, final := testContext(l.t), final(l.t, databaseURL)
	var codes, tokens, unknown int
	problems := map[string][]string{}
	for _, s := range l.stories {
		r := final[s.subject()]
		report := func(kind string, found bool) {
			if found {
				problems[kind] = append(problems[kind], fmt.Sprintf("number %d, %d codes, %d tokens; in the end %+v", s.number, len(s.codes), len(s.tokens), r))
			}
		}
		codes, tokens = codes+len(s.codes), tokens+len(s.tokens)
		if s.unknown {
			unknown++
		}
		consumed := r.Winner != ""
		report(lostMint, s.minted && !r.Exists)
		report(torn, consumed != (r.Codes == 1) && s.grant == nil || r.Codes != r.Complete || r.Used != r.Tokens)
		report(torn, r.Exists != consumed && s.approval.ticket != "")
		report(undead, consumed && s.grant == nil && len(s.codes) == 0 && !s.unknown)
		report(twice, len(s.codes) > 1 || len(s.tokens) > 1 || r.Codes > 1 || r.Tokens > 1)
		for _, code := range s.codes {
			report(lostCode, !consumed || s.grant != nil && r.Winner != code)
		}
		for _, token := range s.tokens {
			report(lostToken, r.Tokens != 1 || !s.contested() && !n.live(ctx, token))
		}
		if len(s.codes) > 0 {
			_, err := s.present(ctx, n)
			report(twice, err == nil)
		}
		if len(s.tokens) > 0 {
			_, err := n.exchange(ctx, s.codes[0])
			report(twice, err == nil)
		}
	}
	l.t.Logf("%d authorizations: %d responses or consumes and %d exchanges were acknowledged, %d times nobody could know", len(l.stories), codes, tokens, unknown)
	return problems
}

// remains is what the database has of a story.
type remains struct {
	Subject                       string
	Exists                        bool   // the grant
	Winner                        string // the attempt that has consumed it
	Codes, Complete, Used, Tokens int
}

func final(t *testing.T, databaseURL string) map[string]remains {
	t.Helper()
	rows, err := pgtest.PoolAt(t, databaseURL).Query(testContext(t), `
WITH g AS (SELECT subject, true AS there, attempt FROM consent_grants),
     c AS (SELECT subject, count(*) AS codes, count(used_at) AS used,
                  count(*) FILTER (WHERE pkce IS NOT NULL AND openid IS NOT NULL) AS complete FROM consent_codes GROUP BY 1),
     a AS (SELECT subject, count(*) AS tokens FROM consent_access_tokens GROUP BY 1)
SELECT subject, coalesce(there, false) AS exists, coalesce(attempt::text, '') AS winner,
       coalesce(codes, 0) AS codes, coalesce(complete, 0) AS complete, coalesce(used, 0) AS used, coalesce(tokens, 0) AS tokens
FROM g FULL JOIN c USING (subject) FULL JOIN a USING (subject)`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[remains])
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]remains{}
	for _, r := range list {
		if _, again := found[r.Subject]; again {
			t.Errorf("%s has two grants", r.Subject)
		}
		found[r.Subject] = r
	}
	return found
}
