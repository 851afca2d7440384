package consenttest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func foundExactly(p *consentProbe) {
	l := p.open(Options{})
	consent := newConsent()
	consent.Subject += "Zoe\u0308"
	l.approve(consent)
	l.wantFound(consent, consent.ID)

	once := another(consent)
	once.Remembered = false
	l.approve(once)
	l.wantFound(consent, consent.ID)

	for name, field := range map[string]func(*fositeconsent.Consent) *string{
		"issuer":  func(c *fositeconsent.Consent) *string { return &c.Issuer },
		"subject": func(c *fositeconsent.Consent) *string { return &c.Subject },
		"client":  func(c *fositeconsent.Consent) *string { return &c.ClientID },
	} {
		right := *field(consent)
		for _, wrong := range []string{
			"", " ", "%", "_", "*", "NULL", rand.Text(), right + " ", " " + right, right + "/", right + "\t", right[:len(right)-1], right[1:],
			strings.ToUpper(right), strings.ToLower(right), "%" + right[1:], "_" + right[1:], strings.Replace(right, "e\u0308", "\u00eb", 1) + "x",
			consent.Issuer, consent.Subject, consent.ClientID,
		} {
			if wrong == right {
				continue
			}
			like := another(consent)
			*field(like) = wrong
			if found, _ := l.findIn(l.ctx, like.Issuer, like.Subject, like.ClientID); len(found) > 0 {
				l.Errorf("FindConsents found a consent by the %s %q, which is of %q", name, wrong, right)
			}
		}
	}
	if found, _ := l.findIn(l.ctx, "", "", ""); len(found) > 0 {
		l.Error("FindConsents found a consent of nobody")
	}
	l.wantFound(consent, consent.ID)
}

func newestFoundFirst(p *consentProbe) {
	l, clock := p.openWithClock()
	consent := newConsent()
	ids := newIDs(5)
	var requestIDs []string
	for i, id := range ids {
		c := another(consent)
		c.ID = id
		if i == 2 {
			c.Lifespan = 3 * time.Minute
		}
		requestIDs = append(requestIDs, l.approve(c))
		clock.advance(time.Minute)
	}
	l.wantFound(consent, ids[4], ids[3], ids[1], ids[0])
	second := fositeconsent.Selection{Issuer: consent.Issuer, Subject: consent.Subject, ConsentID: ids[1]}
	l.wantRevoked(second, 1, requestIDs[1])
	l.wantFound(consent, ids[4], ids[3], ids[0])
}

func unknownResponse(p *consentProbe) {
	l := p.open(Options{})
	requestID := l.approve(newConsent())
	for _, unknown := range []string{"", " ", "%", rand.Text(), requestID + " ", requestID[1:], strings.ToLower(requestID), "%" + requestID[1:]} {
		l.wantCheck(unknown, succeeded)
	}
	consent := newConsent()
	requestID = l.approve(consent)
	l.wantRevoked(only(consent), 1, requestID)
	for _, unknown := range []string{"", " ", "%", rand.Text(), requestID + " ", requestID[1:], strings.ToLower(requestID), "%" + requestID[1:]} {
		l.wantCheck(unknown, succeeded)
	}
	l.wantCheck(requestID, consentRevoked)
}

// asGoodAsEach tries every combination of what two consents can be.
func asGoodAsEach(p *consentProbe) {
	const (
		live             = "live"
		revoked          = "revoked"
		expired          = "expired"
		revokedAndLater  = "revoked before it expired"
		expiredAndRecent = "revoked after it expired"
	)
	l, clock := p.openWithClock()
	states := []string{live, revoked, expired, revokedAndLater, expiredAndRecent}
	for _, first := range states {
		for _, second := range states {
			l.step("one "+first+" and one "+second, func(l *ledger) {
				mine, other := newConsent(), newConsent()
				of := map[*fositeconsent.Consent]string{mine: first, other: second}
				for c, state := range of {
					if state == expired || state == revokedAndLater || state == expiredAndRecent {
						c.Lifespan = time.Minute
					}
					l.approve(c)
				}
				alone, both, turned := l.pass(mine.ID), l.pass(mine.ID, other.ID), l.pass(other.ID, mine.ID)
				for c, state := range of {
					if state == revoked || state == revokedAndLater {
						l.end(c)
					}
				}
				clock.advance(time.Minute)
				for c, state := range of {
					if state == expiredAndRecent {
						l.end(c)
					}
				}
				want := func(states ...string) outcome {
					says := succeeded
					for _, state := range states {
						switch {
						case state == expired && says == succeeded:
							says = consentExpired
						case state != expired && state != live:
							says = consentRevoked
						}
					}
					return says
				}
				l.wantCheck(alone, want(first))
				l.wantCheck(both, want(first, second))
				l.wantCheck(turned, want(first, second))
			})
		}
	}
}

// world has a consent of everybody for everything.
type world struct {
	consents  []*fositeconsent.Consent // by ID
	responses map[fositeconsent.ID][]string
}

func newWorld() *world {
	var issuers, subjects, clients, logins [2]string
	for i := range 2 {
		issuers[i], subjects[i], clients[i], logins[i] = "https://"+rand.Text()+".example", rand.Text(), rand.Text(), rand.Text()
	}
	w := &world{responses: make(map[fositeconsent.ID][]string)}
	for i, id := range newIDs(16) {
		bit := func(n int) int { return i >> n & 1 }
		c := newConsent()
		c.ID, c.Issuer, c.Subject, c.ClientID, c.LoginSession, c.Remembered =
			id, issuers[bit(0)], subjects[bit(1)], clients[bit(2)], logins[bit(3)], bits.OnesCount(uint(i))%2 == 0
		w.consents = append(w.consents, c)
	}
	return w
}

// record has two responses for each of them.
func (w *world) record(l *ledger) {
	l.Helper()
	for _, i := range disorder(len(w.consents)) {
		c := w.consents[i]
		w.responses[c.ID] = []string{l.approve(c), l.pass(c.ID)}
	}
}

// disorder returns the numbers below n, which 7 does not divide, not in their order.
func disorder(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = (7*i + 3) % n
	}
	return numbers
}

// choice is a selection and, said again, what it selects.
type choice struct {
	fositeconsent.Selection
	sentence string
	has      func(*fositeconsent.Consent) bool
}

// selections are all that can be made of one consent of the world, and some of nothing.
func (w *world) selections() []choice {
	var all []choice
	mine := w.consents[0]
	for i := range 16 {
		bySubject, byClient, byID, byLogin := i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0
		if !bySubject && !byClient {
			continue
		}
		c := choice{Selection: fositeconsent.Selection{Issuer: mine.Issuer}, sentence: "by"}
		if bySubject {
			c.Subject = mine.Subject
			c.sentence += " subject"
		}
		if byClient {
			c.ClientID = mine.ClientID
			c.sentence += " client"
		}
		if byID {
			c.ConsentID = mine.ID
			c.sentence += " ID"
		}
		if byLogin {
			c.LoginSession = mine.LoginSession
			c.sentence += " login"
		}
		c.has = func(of *fositeconsent.Consent) bool {
			return of.Issuer == mine.Issuer && !(bySubject && of.Subject != mine.Subject) && !(byClient && of.ClientID != mine.ClientID) &&
				!(byID && of.ID != mine.ID) && !(byLogin && of.LoginSession != mine.LoginSession)
		}
		all = append(all, c)
	}
	for sentence, change := range map[string]func(*fositeconsent.Selection){
		"another subject's ID": func(s *fositeconsent.Selection) { s.Subject = w.consents[2].Subject },
		"another client's ID":  func(s *fositeconsent.Selection) { s.ClientID = w.consents[4].ClientID },
		"another issuer's ID":  func(s *fositeconsent.Selection) { s.Issuer = w.consents[1].Issuer },
		"another login's ID":   func(s *fositeconsent.Selection) { s.LoginSession = w.consents[8].LoginSession },
		"an unknown ID":        func(s *fositeconsent.Selection) { s.ConsentID = newID() },
		"an unknown issuer": func(s *fositeconsent.Selection) {
			s.Issuer, s.ConsentID = "https://unknown.example", fositeconsent.ID{}
		},
		"an unknown subject": func(s *fositeconsent.Selection) { s.Subject, s.ConsentID = rand.Text(), fositeconsent.ID{} },
		"a subject that is a client": func(s *fositeconsent.Selection) {
			s.Subject, s.ClientID, s.ConsentID = s.ClientID, "", fositeconsent.ID{}
		},
		"any text": func(s *fositeconsent.Selection) { s.Subject, s.ConsentID = "%", fositeconsent.ID{} },
	} {
		c := choice{Selection: only(mine), sentence: "by " + sentence, has: func(*fositeconsent.Consent) bool { return false }}
		change(&c.Selection)
		all = append(all, c)
	}
	return all
}

func listedBySelection(p *consentProbe) {
	l, clock := p.openWithClock()
	w := newWorld()
	w.record(l)
	expired, revoked := another(w.consents[0]), another(w.consents[0])
	expired.Lifespan = time.Minute
	l.approve(expired)
	l.approve(revoked)
	l.end(revoked)
	clock.advance(time.Minute)
	for _, c := range w.selections() {
		l.step(c.sentence, func(l *ledger) {
			var want []fositeconsent.ID
			for _, consent := range slices.Backward(w.consents) {
				if c.has(consent) {
					want = append(want, consent.ID)
				}
			}
			l.wantListed(c.Selection, want...)
		})
	}
	for _, consent := range w.consents {
		list := l.list(only(consent), fositeconsent.ID{}, 10)
		if len(list) != 1 {
			l.Fatalf("ListConsents returned %d consents for an ID, want 1", len(list))
		}
		l.wantSameConsent(&list[0], consent)
	}
}

// pagesStay reads pages while others are recorded and revoked, older and newer ones: each
// of those that are there all the time is on one page.
func pagesStay(p *consentProbe) {
	l := p.open(Options{})
	for _, size := range []int{1, 7, 60, math.MaxInt32} {
		l.step(fmt.Sprintf("of %d", size), func(l *ledger) {
			like := newConsent()
			ids := newIDs(60)
			consent := func(i int) *fositeconsent.Consent {
				c := another(like)
				c.ID, c.Remembered, c.ClientID = ids[i], i%4 != 0, fmt.Sprint(like.ClientID, i%5)
				return c
			}
			var staying []fositeconsent.ID
			var ending, coming []*fositeconsent.Consent
			for _, i := range disorder(len(ids)) {
				switch c := consent(i); i % 3 {
				case 0:
					l.approve(c)
					staying = append(staying, c.ID)
				case 1:
					l.approve(c)
					ending = append(ending, c)
				case 2:
					coming = append(coming, c)
				}
			}
			newestFirst := func(a, b fositeconsent.ID) int { return bytes.Compare(b[:], a[:]) }
			slices.SortFunc(staying, newestFirst)

			var before fositeconsent.ID
			var seen []fositeconsent.ID
			for {
				page := l.list(fositeconsent.Selection{Issuer: like.Issuer, Subject: like.Subject}, before, size)
				if len(page) > size {
					l.Fatalf("a page has %d consents, want %d at most", len(page), size)
				}
				if len(page) == 0 || len(seen) > len(ids) {
					break
				}
				for i := range page {
					seen = append(seen, page[i].ID)
				}
				before = page[len(page)-1].ID
				if len(ending) > 0 {
					l.end(ending[0])
					ending = ending[1:]
				}
				if len(coming) > 0 {
					l.approve(coming[0])
					coming = coming[1:]
				}
			}
			if !slices.IsSortedFunc(seen, newestFirst) {
				l.Error("the pages are not in order")
			}
			seen = slices.DeleteFunc(seen, func(id fositeconsent.ID) bool { return !slices.Contains(staying, id) })
			if !slices.Equal(seen, staying) {
				l.Errorf("of the consents that stayed %d were on a page, want each once: %d", len(seen), len(staying))
			}
		})
	}
}

// selectionOfEverybody: what would be meant for all is nothing that anybody means.
func selectionOfEverybody(p *consentProbe) {
	l := p.open(Options{})
	consent := newConsent()
	first := l.approve(consent)
	for sentence, selection := range map[string]fositeconsent.Selection{
		"nothing":                 {},
		"an issuer":               {Issuer: consent.Issuer},
		"an ID":                   {Issuer: consent.Issuer, ConsentID: consent.ID},
		"a login":                 {Issuer: consent.Issuer, LoginSession: consent.LoginSession},
		"a subject of any issuer": {Subject: consent.Subject},
		"a client of any issuer":  {ClientID: consent.ClientID},
	} {
		l.step(sentence, func(l *ledger) {
			_, err := l.listIn(l.ctx, selection, fositeconsent.ID{}, 10)
			l.compare("ListConsents", err, failed)
			h := l.collector()
			n, err := l.revokeIn(l.ctx, selection, h.take)
			l.compare("RevokeConsents", err, failed)
			if n != 0 || h.calls != 0 {
				l.Errorf("RevokeConsents ended %d consents and handed responses over %d times, want 0", n, h.calls)
			}
		})
	}
	for _, limit := range []int{0, -1, math.MinInt} {
		_, err := l.listIn(l.ctx, only(consent), fositeconsent.ID{}, limit)
		l.compare("ListConsents", err, failed)
	}
	l.wantConsent(consent)
	l.wantCheck(first, succeeded)
}
