package consenttest

import (
	"crypto/rand"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func consentReturnedAsRecorded(p *consentProbe) {
	l := p.open(Options{})
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	odd := []string{
		"NULL", "null", "{a,b}", "a,b", "it's", "--", "$1", "%s", "photos.*", "[0]", `"quoted"`, `back\slash`, "two words", " spaces around ",
		"tab\there", "new\nline", "zürich/東京", "Zo\u00eb", "Zoe\u0308", "zebra", "Zebra", "alpha", "zebra",
	}
	for _, c := range []struct {
		sentence string
		set      func(*fositeconsent.Consent)
	}{
		{"an ordinary consent", func(*fositeconsent.Consent) {}},
		{"one that is not remembered", func(c *fositeconsent.Consent) { c.Remembered = false }},
		{"one for a time", func(c *fositeconsent.Consent) { c.Lifespan = time.Hour }},
		{"one for the longest time", func(c *fositeconsent.Consent) { c.Lifespan = 100 * 365 * 24 * time.Hour }},
		{"one that is not remembered and for a time", func(c *fositeconsent.Consent) { c.Remembered, c.Lifespan = false, time.Hour }},
		{"one of no login", func(c *fositeconsent.Consent) { c.LoginSession = "" }},
		{"one of a page that showed nothing", func(c *fositeconsent.Consent) { c.Shown = fositeconsent.Digest{} }},
		{"odd scopes in an order of their own, one twice", func(c *fositeconsent.Consent) { c.Scopes = odd }},
		{"odd remembered scopes", func(c *fositeconsent.Consent) { c.Scopes, c.RememberedScopes = odd, odd[:len(odd)/2] }},
		{"an odd audience", func(c *fositeconsent.Consent) { c.Audience = odd }},
		{"odd response types", func(c *fositeconsent.Consent) { c.ResponseTypes = odd }},
		{"odd details", func(c *fositeconsent.Consent) { c.Details = odd }},
		{"several response types", func(c *fositeconsent.Consent) { c.ResponseTypes = []string{"token", "code", "id_token"} }},
		{"hundreds of details", func(c *fositeconsent.Consent) {
			c.Details = nil
			for range 300 {
				c.Details = append(c.Details, "resource="+rand.Text())
			}
		}},
		{"a long detail", func(c *fositeconsent.Consent) { c.Details = []string{"claims=" + strings.Repeat("x", 1<<16)} }},
		{"data of every byte there is", func(c *fositeconsent.Consent) { c.Data = everyByte }},
		{"data that is JSON with spaces and a repeated name", func(c *fositeconsent.Consent) { c.Data = []byte(`{ "b": 1.0, "a": 2,  "a": 1e2 }`) }},
		{"an odd issuer", func(c *fositeconsent.Consent) { c.Issuer = " https://Issuer.example/'東京' " + rand.Text() }},
		{"an odd subject", func(c *fositeconsent.Consent) { c.Subject = "  Zoe\u0308 " + rand.Text() }},
		{"a subject of the greatest length", func(c *fositeconsent.Consent) { c.Subject = strings.Repeat("s", 228) + "T" + rand.Text() }},
		{"an odd client", func(c *fositeconsent.Consent) {
			c.ClientID = "https://client.example/" + strings.Repeat("metadata/", 100) + "?v='1'"
		}},
		{"an odd login", func(c *fositeconsent.Consent) { c.LoginSession = ` "%_\` + "\t東京" }},
	} {
		l.step(c.sentence, func(l *ledger) {
			consent := newConsent()
			c.set(consent)
			l.approve(consent)
			l.wantConsent(consent)
		})
	}
}

func consentNilIsEmpty(p *consentProbe) {
	l := p.open(Options{})
	for _, list := range [][]string{nil, {}} {
		consent := newConsent()
		consent.Scopes, consent.RememberedScopes, consent.Audience, consent.ResponseTypes, consent.Details, consent.Data = list, list, list, list, list, []byte(strings.Join(list, ""))
		l.approve(consent)
		l.wantConsent(consent)
	}
}

func consentTextIsExact(p *consentProbe) {
	l := p.open(Options{})
	for _, text := range []string{"a\x00b", "\x00", "a\x00", "\xff\xfe", "cut off \xe6\x9d", "\xed\xa0\x80"} {
		for field, set := range map[string]func(*fositeconsent.Response){
			"RequestID":        func(r *fositeconsent.Response) { r.RequestID += text },
			"Issuer":           func(r *fositeconsent.Response) { r.Approval.Issuer = text },
			"Subject":          func(r *fositeconsent.Response) { r.Approval.Subject = text },
			"ClientID":         func(r *fositeconsent.Response) { r.Approval.ClientID = text },
			"LoginSession":     func(r *fositeconsent.Response) { r.Approval.LoginSession = text },
			"Scopes":           func(r *fositeconsent.Response) { r.Approval.Scopes = []string{"openid", text} },
			"RememberedScopes": func(r *fositeconsent.Response) { r.Approval.RememberedScopes = []string{text} },
			"Audience":         func(r *fositeconsent.Response) { r.Approval.Audience = []string{text} },
			"ResponseTypes":    func(r *fositeconsent.Response) { r.Approval.ResponseTypes = []string{text} },
			"Details":          func(r *fositeconsent.Response) { r.Approval.Details = []string{text, "b=c"} },
		} {
			consent := newConsent()
			response := &fositeconsent.Response{RequestID: rand.Text(), Approval: consent}
			set(response)
			switch err := l.record(response); outcomeOf(err) {
			case succeeded:
				l.wantConsent(consent)
				l.wantRevoked(only(consent), 1, response.RequestID)
			case failed:
				// Nothing came of it: the ID is free.
				other := newConsent()
				other.ID = consent.ID
				l.approve(other)
				l.wantConsent(other)
			default:
				l.Errorf("a response with the text %q in %s was refused with %v", text, field, err)
			}
		}
	}
}

func consentDatedByExplicitClock(p *consentProbe) {
	const tick = time.Millisecond
	l, clock := p.openWithClock()
	long := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	consent := newConsent()
	consent.Lifespan = time.Hour
	consent.DecidedAt, consent.ExpiresAt, consent.LastUsedAt = long, long, long // ignored
	lasting := newConsent()
	lasting.ExpiresAt = long // ignored
	decidedAt := clock.Now()
	first := l.approve(consent)
	l.approve(lasting)

	want := func(usedAt time.Time) {
		l.Helper()
		got := l.wantConsent(consent)
		for _, at := range []struct {
			field     string
			got, want time.Time
		}{
			{"DecidedAt", got.DecidedAt, decidedAt},
			{"ExpiresAt", got.ExpiresAt, decidedAt.Add(time.Hour)},
			{"LastUsedAt", got.LastUsedAt, usedAt},
		} {
			if !at.got.Equal(at.want) {
				l.Errorf("%s is %v, want %v", at.field, at.got, at.want)
			}
		}
	}
	want(decidedAt)
	clock.advance(tick)
	want(decidedAt)
	usedAt := clock.Now()
	silent := l.pass(consent.ID)
	want(usedAt)
	clock.advance(tick)
	l.wantConsent(lasting)
	l.wantRecord(&fositeconsent.Response{RequestID: first, Approval: consent}, succeeded)
	l.wantRecord(&fositeconsent.Response{RequestID: silent, ConsentIDs: []fositeconsent.ID{consent.ID}}, succeeded)
	want(usedAt) // nothing is used by repeating a call
	clock.advance(tick)
	usedAt = clock.Now()
	l.pass(lasting.ID, consent.ID)
	want(usedAt)
	if got := l.wantConsent(lasting).LastUsedAt; !got.Equal(usedAt) {
		l.Errorf("LastUsedAt of the other consent is %v, want %v", got, usedAt)
	}
}

// consentDatedByOwnClock allows for a clock that is a little off, and for no time zone.
func consentDatedByOwnClock(p *consentProbe) {
	const tolerance = 10 * time.Minute
	l := p.open(Options{})
	consent := newConsent()
	consent.Lifespan = 90 * 24 * time.Hour
	l.approve(consent)
	got := l.wantConsent(consent)
	for field, at := range map[string]time.Time{"DecidedAt": got.DecidedAt, "LastUsedAt": got.LastUsedAt, "ExpiresAt": got.ExpiresAt.Add(-consent.Lifespan)} {
		if off := time.Since(at); off.Abs() > tolerance {
			l.Errorf("%s is %v off: more than a clock is", field, off)
		}
	}
}

func consentExpiresAtTheEnd(p *consentProbe) {
	const step = time.Millisecond
	for _, lifespan := range []time.Duration{step, 2 * step, 90*time.Second + 7*step, 25 * time.Hour, 400 * 24 * time.Hour} {
		l, clock := p.openWithClock()
		l.step("of "+lifespan.String(), func(l *ledger) {
			consent := newConsent()
			consent.Lifespan = lifespan
			silent := &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: []fositeconsent.ID{consent.ID}}
			live := func(requestIDs ...string) {
				l.Helper()
				l.wantConsent(consent)
				for _, requestID := range requestIDs {
					l.wantCheck(requestID, succeeded)
				}
			}
			dead := func(requestIDs ...string) {
				l.Helper()
				l.wantFound(consent)
				l.wantListed(only(consent))
				for _, requestID := range requestIDs {
					l.wantCheck(requestID, consentExpired)
				}
				l.wantRecord(&fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: silent.ConsentIDs}, consentExpired)
				l.wantRecord(silent, consentExpired) // although it is repeated
			}
			first := l.approve(consent)
			live(first)
			clock.advance(lifespan - step)
			l.wantRecord(silent, succeeded)
			live(first, silent.RequestID)
			clock.advance(step) // exactly at its end
			dead(first, silent.RequestID)
			clock.advance(step)
			dead(first, silent.RequestID)
			clock.advance(1000 * 24 * time.Hour)
			dead(first, silent.RequestID)
		})
	}

	l, clock := p.openWithClock()
	l.step("of less than a clock can tell", func(l *ledger) {
		consent := newConsent()
		consent.Lifespan = 1
		requestID := rand.Text()
		switch err := l.record(&fositeconsent.Response{RequestID: requestID, Approval: consent}); outcomeOf(err) {
		case succeeded:
			clock.advance(step)
			l.wantCheck(requestID, consentExpired)
			l.wantFound(consent)
		case failed: // as good
			l.wantFound(consent)
		default:
			l.Errorf("RecordResponse: got %v", err)
		}
	})
	l.step("that there is none", func(l *ledger) {
		consent := newConsent()
		first := l.approve(consent)
		clock.advance(10 * 365 * 24 * time.Hour)
		l.wantConsent(consent)
		l.wantCheck(first, succeeded)
		l.wantCheck(l.pass(consent.ID), succeeded)
	})
}

func incompleteResponseRefused(p *consentProbe) {
	l := p.open(Options{})
	for _, c := range []struct {
		sentence string
		set      func(*fositeconsent.Response)
	}{
		{"without RequestID", func(r *fositeconsent.Response) { r.RequestID = "" }},
		{"without ID", func(r *fositeconsent.Response) { r.Approval.ID = fositeconsent.ID{} }},
		{"without Issuer", func(r *fositeconsent.Response) { r.Approval.Issuer = "" }},
		{"without Subject", func(r *fositeconsent.Response) { r.Approval.Subject = "" }},
		{"without ClientID", func(r *fositeconsent.Response) { r.Approval.ClientID = "" }},
		{"for a negative time", func(r *fositeconsent.Response) { r.Approval.Lifespan = -1 }},
		{"for a very negative time", func(r *fositeconsent.Response) { r.Approval.Lifespan = math.MinInt64 }},
	} {
		l.step("an approval "+c.sentence, func(l *ledger) {
			consent := newConsent()
			before := cloneConsent(consent)
			response := &fositeconsent.Response{RequestID: rand.Text(), Approval: consent}
			c.set(response)
			l.wantRecord(response, failed)
			l.wantFound(&before)
			l.wantListed(fositeconsent.Selection{Issuer: before.Issuer, ClientID: before.ClientID})
			l.wantListed(fositeconsent.Selection{Issuer: before.Issuer, Subject: before.Subject})
			l.approve(&before) // its ID is free
			l.wantConsent(&before)
		})
	}
	l.step("a silent one without RequestID", func(l *ledger) {
		consent := newConsent()
		first := l.approve(consent)
		l.wantRecord(&fositeconsent.Response{ConsentIDs: []fositeconsent.ID{consent.ID}}, failed)
		l.wantRevoked(only(consent), 1, first)
	})
	l.step("neither an approval nor consents", func(l *ledger) {
		response := &fositeconsent.Response{RequestID: rand.Text()}
		l.wantRecord(response, failed)
		response.ConsentIDs = []fositeconsent.ID{}
		l.wantRecord(response, failed)
		l.wantCheck(response.RequestID, succeeded)
	})
	l.step("both an approval and consents", func(l *ledger) {
		consent := newConsent()
		first := l.approve(consent)
		second := another(consent)
		l.wantRecord(&fositeconsent.Response{RequestID: rand.Text(), Approval: second, ConsentIDs: []fositeconsent.ID{consent.ID}}, failed)
		l.wantFound(consent, consent.ID)
		l.wantRevoked(only(consent), 1, first)
	})
}

func responseRepeated(p *consentProbe) {
	l, clock := p.openWithClock()
	consent, second := newConsent(), newConsent()
	consent.Lifespan = time.Hour
	approval := &fositeconsent.Response{RequestID: rand.Text(), Approval: consent}
	silent := &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: []fositeconsent.ID{consent.ID, second.ID}}
	l.wantRecord(approval, succeeded)
	l.approve(second)
	l.wantRecord(silent, succeeded)
	before := l.wantConsent(consent)
	for range 3 {
		clock.advance(time.Minute)
		l.wantRecord(approval, succeeded)
		l.wantRecord(silent, succeeded)
	}
	l.wantRecord(&fositeconsent.Response{RequestID: silent.RequestID, ConsentIDs: []fositeconsent.ID{second.ID, consent.ID, second.ID}}, succeeded)
	after := l.wantConsent(consent)
	if !after.DecidedAt.Equal(before.DecidedAt) || !after.ExpiresAt.Equal(before.ExpiresAt) || !after.LastUsedAt.Equal(before.LastUsedAt) {
		l.Errorf("a repeated call changed the times %v, %v, %v to %v, %v, %v",
			before.DecidedAt, before.ExpiresAt, before.LastUsedAt, after.DecidedAt, after.ExpiresAt, after.LastUsedAt)
	}
	l.wantRevoked(only(consent), 1, approval.RequestID, silent.RequestID)

	// Of what is revoked there is no repeating: the response would outlive it.
	l.wantRecord(approval, consentRevoked)
	l.wantRecord(silent, consentRevoked)
	l.wantFound(consent)
}

func approvalRecordedOnce(p *consentProbe) {
	l := p.open(Options{})
	consent := newConsent()
	first := l.approve(consent)
	theirs := newConsent() // somebody else's, under the same ID
	theirs.ID = consent.ID
	for _, approval := range []*fositeconsent.Consent{consent, theirs} {
		l.wantRecord(&fositeconsent.Response{RequestID: rand.Text(), Approval: approval}, failed)
	}
	l.wantFound(theirs)
	l.wantConsent(consent)
	l.wantRevoked(only(consent), 1, first)
}

func restsOnLiveConsents(p *consentProbe) {
	l, clock := p.openWithClock()
	live, revoked, expired := newConsent(), newConsent(), newConsent()
	expired.Lifespan = time.Minute
	first := l.approve(live)
	l.wantRevoked(only(revoked), 1, l.approve(revoked))
	l.approve(expired)
	clock.advance(time.Minute)
	before := l.wantConsent(live)
	for _, c := range []struct {
		sentence string
		want     []outcome
		ids      []fositeconsent.ID
	}{
		{"an unknown one", []outcome{consentRevoked, consentExpired}, []fositeconsent.ID{newID()}},
		{"none", []outcome{consentRevoked, consentExpired}, []fositeconsent.ID{{}}},
		{"a revoked one", []outcome{consentRevoked}, []fositeconsent.ID{revoked.ID}},
		{"an expired one", []outcome{consentExpired}, []fositeconsent.ID{expired.ID}},
		{"a live one and an unknown one", []outcome{consentRevoked, consentExpired}, []fositeconsent.ID{live.ID, newID()}},
		{"a live one and a revoked one", []outcome{consentRevoked}, []fositeconsent.ID{live.ID, revoked.ID}},
		{"a revoked one and a live one", []outcome{consentRevoked}, []fositeconsent.ID{revoked.ID, live.ID}},
		{"a live one and an expired one", []outcome{consentExpired}, []fositeconsent.ID{live.ID, expired.ID}},
		{"an expired one and a revoked one", []outcome{consentRevoked, consentExpired}, []fositeconsent.ID{expired.ID, revoked.ID}},
	} {
		l.step(c.sentence, func(l *ledger) {
			response := &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: c.ids}
			for range 2 {
				if got := outcomeOf(l.record(response)); !slices.Contains(c.want, got) {
					l.Errorf("RecordResponse: got %s, want %v", got, c.want)
				}
			}
			l.wantCheck(response.RequestID, succeeded) // nothing is known of it
		})
	}
	if after := l.wantConsent(live); !after.LastUsedAt.Equal(before.LastUsedAt) {
		l.Errorf("LastUsedAt went from %v to %v by responses that were refused", before.LastUsedAt, after.LastUsedAt)
	}
	l.wantRevoked(only(live), 1, first, l.pass(live.ID), l.pass(live.ID, live.ID)) // and none that was refused
}

func callersResponseIsTheCallers(p *consentProbe) {
	l := p.open(Options{})
	// roomy has slices that a careless append would write behind.
	roomy := func(c *fositeconsent.Consent) *fositeconsent.Consent {
		for _, list := range lists(c) {
			*list = append(make([]string, 0, 8), *list...)
		}
		c.Data = append(make([]byte, 0, 64), c.Data...)
		return c
	}
	// deep includes what lies behind the slices' ends.
	deep := func(r *fositeconsent.Response) *fositeconsent.Response {
		d := *r
		d.ConsentIDs = slices.Clone(r.ConsentIDs[:cap(r.ConsentIDs)])
		if r.Approval != nil {
			c := *r.Approval
			for _, list := range lists(&c) {
				*list = slices.Clone((*list)[:cap(*list)])
			}
			c.Data = slices.Clone(c.Data[:cap(c.Data)])
			d.Approval = &c
		}
		return &d
	}
	untouched := func(call string, r, before *fositeconsent.Response) {
		l.Helper()
		same := r.RequestID == before.RequestID && slices.Equal(deep(r).ConsentIDs, before.ConsentIDs) && (r.Approval == nil) == (before.Approval == nil)
		if same && r.Approval != nil {
			now, then := deep(r).Approval, before.Approval
			theirs := lists(then)
			for i, list := range lists(now) {
				same = same && slices.Equal(*list, *theirs[i])
			}
			same = same && slices.Equal(now.Data, then.Data) && now.ID == then.ID && now.Issuer == then.Issuer && now.Subject == then.Subject &&
				now.ClientID == then.ClientID && now.LoginSession == then.LoginSession && now.Shown == then.Shown && now.Remembered == then.Remembered &&
				now.Lifespan == then.Lifespan && now.DecidedAt.Equal(then.DecidedAt) && now.ExpiresAt.Equal(then.ExpiresAt) && now.LastUsedAt.Equal(then.LastUsedAt)
		}
		if !same {
			l.Errorf("%s modified the caller's response", call)
		}
	}

	consent := roomy(newConsent())
	consent.Lifespan = time.Hour
	recorded := cloneConsent(consent)
	approval := &fositeconsent.Response{RequestID: rand.Text(), Approval: consent}
	before := deep(approval)
	l.wantRecord(approval, succeeded)
	untouched("an approval", approval, before)
	l.wantRecord(approval, succeeded)
	untouched("a repeated approval", approval, before)

	second := roomy(newConsent())
	l.approve(second)
	silent := &fositeconsent.Response{RequestID: rand.Text(), ConsentIDs: append(make([]fositeconsent.ID, 0, 8), second.ID, recorded.ID, second.ID)}
	before = deep(silent)
	l.wantRecord(silent, succeeded)
	untouched("a silent response", silent, before)

	refused := &fositeconsent.Response{RequestID: rand.Text(), Approval: roomy(newConsent())}
	refused.Approval.Subject = ""
	before = deep(refused)
	l.wantRecord(refused, failed)
	untouched("a refused approval", refused, before)

	// What the caller does with it afterwards is nothing to the storage.
	overwriteConsent(consent)
	for i := range silent.ConsentIDs {
		silent.ConsentIDs[i] = newID()
	}
	l.wantConsent(&recorded)
	l.wantRevoked(only(&recorded), 1, approval.RequestID, silent.RequestID)
}

func returnedConsentIsTheCallers(p *consentProbe) {
	l := p.open(Options{})
	consent := newConsent()
	l.approve(consent)
	for range 2 {
		for _, found := range [][]fositeconsent.Consent{l.find(consent), l.list(only(consent), fositeconsent.ID{}, 1)} {
			for i := range found {
				overwriteConsent(&found[i])
			}
			l.wantConsent(consent)
		}
	}
}

// lists are a consent's lists of text.
func lists(c *fositeconsent.Consent) []*[]string {
	return []*[]string{&c.Scopes, &c.RememberedScopes, &c.Audience, &c.ResponseTypes, &c.Details}
}

// overwriteConsent changes all of a consent, in place wherever that is possible.
func overwriteConsent(c *fositeconsent.Consent) {
	for _, list := range lists(c) {
		for i := range *list {
			(*list)[i] = "overwritten"
		}
		*list = append(*list, "appended")
	}
	for i := range c.Data {
		c.Data[i] ^= 0xff
	}
	c.ID, c.Shown, c.Remembered = newID(), random32(), !c.Remembered
	c.Issuer, c.Subject, c.ClientID, c.LoginSession = "overwritten", "overwritten", "overwritten", "overwritten"
	c.Lifespan, c.DecidedAt, c.ExpiresAt, c.LastUsedAt = 0, time.Time{}, time.Time{}, time.Time{}
}
