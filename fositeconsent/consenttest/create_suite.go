package consenttest

import (
	"context"
	"crypto/rand"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

func returnedAsStored(p *probe) {
	s := p.open(Options{})
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	large := make([]byte, 1<<16)
	_, _ = rand.Read(large)
	for _, c := range []struct {
		sentence string
		set      func(*fositeconsent.Grant)
	}{
		{"an ordinary grant", func(*fositeconsent.Grant) {}},
		{"scopes in an order of their own, one twice", func(g *fositeconsent.Grant) {
			g.Scopes = []string{"zebra", "openid", "Zebra", "alpha", "zebra"}
		}},
		{"scopes that mean something to a query language", func(g *fositeconsent.Grant) {
			g.Scopes = []string{"NULL", "null", "{a,b}", "a,b", "it's", "--", "$1", "%s", "photos.*", "[0]"}
		}},
		{"an audience with every kind of quote and white space", func(g *fositeconsent.Grant) {
			g.Audience = []string{`"quoted"`, `back\slash`, "two words", " spaces around ", "tab\there", "new\nline", "https://ex.example/?a=1&b={2},3", "zürich/東京"}
		}},
		{"hundreds of scopes", func(g *fositeconsent.Grant) {
			g.Scopes = nil
			for range 300 {
				g.Scopes = append(g.Scopes, rand.Text())
			}
		}},
		{"data of every byte there is", func(g *fositeconsent.Grant) { g.Data = everyByte }},
		{"data that begins and ends with zero bytes", func(g *fositeconsent.Grant) { g.Data = []byte{0, 0, 1, 0, 0} }},
		{"data of one zero byte", func(g *fositeconsent.Grant) { g.Data = []byte{0} }},
		{"data that looks like an escaped text", func(g *fositeconsent.Grant) { g.Data = []byte(`\x6869\\000`) }},
		{"data that is JSON with spaces and a repeated name", func(g *fositeconsent.Grant) { g.Data = []byte(`{ "b": 1.0, "a": 2,  "a": 1e2 }`) }},
		{"data of 64 KiB", func(g *fositeconsent.Grant) { g.Data = large }},
		{"an approval to remember until it is revoked", func(g *fositeconsent.Grant) { g.Remember = &fositeconsent.Remember{} }},
		{"an approval to remember for a time", func(g *fositeconsent.Grant) {
			g.Remember = &fositeconsent.Remember{Lifespan: 90*24*time.Hour + 7*time.Millisecond}
		}},
		{"an approval to remember with offline access", func(g *fositeconsent.Grant) { g.Remember = &fositeconsent.Remember{OfflineAccess: true} }},
		{"an approval to remember for a time with offline access", func(g *fositeconsent.Grant) {
			g.Remember = &fositeconsent.Remember{Lifespan: time.Millisecond, OfflineAccess: true}
		}},
		{"no approval to remember", func(g *fositeconsent.Grant) { g.Remember = nil }},
		{"a digest of what was shown", func(g *fositeconsent.Grant) { g.Shown = random32() }},
		{"a digest of what was shown that ends in zeros", func(g *fositeconsent.Grant) { g.Shown = fositeconsent.Digest{1} }},
		{"a subject in many scripts", func(g *fositeconsent.Grant) {
			g.Subject = "Ünïcødé|Ελένη|Дмитрий|东京|🦊|עברית"
		}},
		{"a subject in composed Unicode", func(g *fositeconsent.Grant) { g.Subject = "Zo\u00eb" }},
		{"a subject in decomposed Unicode", func(g *fositeconsent.Grant) { g.Subject = "Zoe\u0308" }},
		{"a subject with spaces around it", func(g *fositeconsent.Grant) { g.Subject = "  Alice  " }},
		{"a subject of one space", func(g *fositeconsent.Grant) { g.Subject = " " }},
		// OpenID Connect Core 1.0, Section 2: sub has up to 255 characters.
		{"a subject of the greatest length", func(g *fositeconsent.Grant) { g.Subject = strings.Repeat("s", 254) + "T" }},
		{"a client that is named by a long URL", func(g *fositeconsent.Grant) {
			g.ClientID = "https://client.example/" + strings.Repeat("metadata/", 100) + "?v='1'"
		}},
	} {
		s.step(c.sentence, func(s *checked) {
			grant := newGrant()
			c.set(grant)
			s.mint(grant)
			presentation := present(grant)
			s.wantConsumed(presentation, grant)
			s.wantConsumed(presentation, grant)
		})
	}
}

func nilIsEmpty(p *probe) {
	s := p.open(Options{})
	for _, set := range []func(*fositeconsent.Grant){
		func(g *fositeconsent.Grant) { g.Scopes, g.Audience, g.Data = nil, nil, nil },
		func(g *fositeconsent.Grant) { g.Scopes, g.Audience, g.Data = []string{}, []string{}, []byte{} },
	} {
		grant := newGrant()
		set(grant)
		s.mint(grant)
		presentation := present(grant)
		s.wantConsumed(presentation, grant)
		s.wantConsumed(presentation, grant)
	}
}

// textIsExact: not every backend can keep every text, but one that is kept in
// another form would be another subject's, client's or scope's.
func textIsExact(p *probe) {
	s := p.open(Options{})
	for _, text := range []string{"a\x00b", "\x00", "a\x00", "\xff\xfe", "cut off \xe6\x9d", "\xed\xa0\x80"} {
		for _, set := range []func(*fositeconsent.Grant){
			func(g *fositeconsent.Grant) { g.Subject = text },
			func(g *fositeconsent.Grant) { g.ClientID = text },
			func(g *fositeconsent.Grant) { g.Scopes = []string{"openid", text} },
			func(g *fositeconsent.Grant) { g.Audience = []string{text} },
		} {
			grant := newGrant()
			other := again(grant)
			set(grant)
			switch outcomeOf(s.create(grant)) {
			case succeeded:
				s.wantConsumed(present(grant), grant)
			case failed:
				s.wantRefused(present(grant), notFound)
				s.mint(other)
				s.wantConsumed(present(other), other)
			default:
				s.Errorf("a grant with the text %q was refused as already decided", text)
			}
		}
	}
}

func datedByExplicitClock(p *probe) {
	s, clock := p.openWithClock()
	for range 2 {
		grant := newGrant()
		grant.DecidedAt = time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC) // ignored
		decidedAt := clock.Now()
		s.mint(grant)
		presentation := present(grant)
		for range 2 {
			clock.advance(fositeconsent.MinGrantLifespan)
			if got := s.wantConsumed(presentation, grant).DecidedAt; !got.Equal(decidedAt) {
				s.Errorf("DecidedAt is %v, want %v, when the explicit clock saw the create", got, decidedAt)
			}
		}
	}
}

// datedByOwnClock allows for a clock that is a little off, and for no time zone.
func datedByOwnClock(p *probe) {
	const tolerance = 10 * time.Minute
	s := p.open(Options{})
	grant := newGrant()
	grant.DecidedAt = time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC) // ignored
	s.mint(grant)
	got := s.wantConsumed(present(grant), grant).DecidedAt
	if off := time.Since(got); off.Abs() > tolerance {
		s.Errorf("DecidedAt is %v, which is %v ago: more than a clock is off", got, off)
	}
}

func decidedOnce(p *probe) {
	s := p.open(Options{})
	for _, first := range []bool{false, true} {
		for _, second := range []bool{false, true} {
			s.step(kind(first)+" and then "+kind(second), func(s *checked) {
				grant := newGrant()
				if first {
					grant = newDenial(grant)
				}
				s.mint(grant)

				same := again(grant) // the same decision under another secret
				same.Denied = second
				s.wantCreate(same, alreadyDecided)
				other := newGrant() // another one in everything but the prompt
				other.ID, other.Denied = grant.ID, second
				s.wantCreate(other, alreadyDecided)

				s.wantRefused(present(same), notFound)
				s.wantRefused(present(other), notFound)
				if first {
					s.wantRefused(present(grant), notFound)
				} else {
					s.wantConsumed(present(grant), grant)
				}
			})
		}
	}
}

func kind(denied bool) string {
	if denied {
		return "a denial"
	}
	return "a mint"
}

func decidedForEver(p *probe) {
	s, clock := p.openWithClock()
	spent, expired := newGrant(), newGrant()
	s.mint(spent)
	s.mint(expired)
	winner := present(spent)
	s.wantConsumed(winner, spent)
	for range 2 {
		for _, grant := range []*fositeconsent.Grant{spent, expired} {
			s.wantCreate(again(grant), alreadyDecided)
			s.wantCreate(newDenial(grant), alreadyDecided)
		}
		s.wantConsumed(winner, spent)
		s.wantRefused(present(spent), alreadyConsumed)
		clock.advance(spent.Lifespan)
	}
	s.wantRefused(present(expired), tooLate)
}

func createRepeated(p *probe) {
	changes := []func(*fositeconsent.Grant){
		func(*fositeconsent.Grant) {},
		func(g *fositeconsent.Grant) { g.Binding = random32() },
		func(g *fositeconsent.Grant) { g.Subject = "somebody else" },
		func(g *fositeconsent.Grant) { g.ClientID = "another client" },
		func(g *fositeconsent.Grant) { g.Scopes = append(slices.Clone(g.Scopes), "photos.delete") },
		func(g *fositeconsent.Grant) { g.Audience = []string{"https://elsewhere.example/"} },
		func(g *fositeconsent.Grant) { g.Data = []byte("something else") },
		func(g *fositeconsent.Grant) { g.Lifespan = fositeconsent.MinGrantLifespan },
		func(g *fositeconsent.Grant) { g.Lifespan = time.Hour },
		func(g *fositeconsent.Grant) {
			g.Remember = &fositeconsent.Remember{Lifespan: time.Hour, OfflineAccess: true}
		},
		func(g *fositeconsent.Grant) { g.Shown = random32() },
		func(g *fositeconsent.Grant) { g.Denied = !g.Denied },
	}
	repeat := func(s *checked, grant *fositeconsent.Grant) {
		s.Helper()
		repeated := clone(grant)
		for _, change := range changes {
			change(&repeated) // one after the other, until nothing is as it was
			s.wantCreate(&repeated, succeeded)
		}
	}
	s, clock := p.openWithClock()
	s.step("a grant stays as it was first created", func(s *checked) {
		grant, decidedAt := newGrant(), clock.Now()
		s.mint(grant)
		repeat(s, grant)
		clock.advance(grant.Lifespan - fositeconsent.MinGrantLifespan)
		repeat(s, grant)
		if got := s.wantConsumed(present(grant), grant).DecidedAt; !got.Equal(decidedAt) {
			s.Errorf("DecidedAt is %v, want %v, when the first create was", got, decidedAt)
		}
	})
	s.step("a spent grant stays spent", func(s *checked) {
		grant := newGrant()
		s.mint(grant)
		winner := present(grant)
		s.wantConsumed(winner, grant)
		for range 2 {
			repeat(s, grant)
			s.wantRefused(present(grant), alreadyConsumed)
			s.wantConsumed(winner, grant)
			clock.advance(grant.Lifespan)
		}
	})
	s.step("an expired grant stays expired", func(s *checked) {
		grant := newGrant()
		s.mint(grant)
		clock.advance(grant.Lifespan)
		repeat(s, grant)
		s.wantRefused(present(grant), tooLate)
	})
	s.step("a denial stays a denial", func(s *checked) {
		denial := newDenial(newGrant())
		s.mint(denial)
		repeat(s, denial)
		s.wantRefused(present(denial), notFound)
		clock.advance(denial.Lifespan)
		repeat(s, denial)
		s.wantRefused(present(denial), notFound)
	})
}

// refuse asks for a create that cannot succeed, and sees that nothing came of it.
func (s *checked) refuse(grant *fositeconsent.Grant) {
	s.Helper()
	s.wantCreate(grant, failed)
	s.wantRefused(present(grant), notFound)
	if grant.ID.IsZero() {
		return
	}
	valid := newGrant()
	valid.ID = grant.ID
	s.mint(valid)
	s.wantConsumed(present(valid), valid)
}

func incompleteRefused(p *probe) {
	s := p.open(Options{})
	for _, c := range []struct {
		field string
		clear func(*fositeconsent.Grant)
	}{
		{"ID", func(g *fositeconsent.Grant) { g.ID = fositeconsent.ID{} }},
		{"SecretHash", func(g *fositeconsent.Grant) { g.SecretHash = fositeconsent.SecretHash{} }},
		{"Binding", func(g *fositeconsent.Grant) { g.Binding = fositeconsent.Digest{} }},
		{"Subject", func(g *fositeconsent.Grant) { g.Subject = "" }},
		{"ClientID", func(g *fositeconsent.Grant) { g.ClientID = "" }},
	} {
		for _, denied := range []bool{false, true} {
			s.step(kind(denied)+" without "+c.field, func(s *checked) {
				grant := newGrant()
				grant.Denied = denied
				c.clear(grant)
				s.refuse(grant)
			})
		}
	}
}

func shortLifespanRefused(p *probe) {
	s := p.open(Options{})
	for _, lifespan := range []time.Duration{
		0, 1, -1, -time.Hour, math.MinInt64, fositeconsent.MinGrantLifespan - 1, -fositeconsent.MinGrantLifespan,
	} {
		for _, denied := range []bool{false, true} {
			s.step(kind(denied)+" for "+lifespan.String(), func(s *checked) {
				grant := newGrant()
				grant.Denied = denied
				grant.Lifespan = lifespan
				s.refuse(grant)
			})
		}
	}
}

func callersGrantIsTheCallers(p *probe) {
	s := p.open(Options{})
	// roomy has slices that a careless append would write behind.
	roomy := func(g *fositeconsent.Grant) *fositeconsent.Grant {
		g.Scopes = append(make([]string, 0, 8), g.Scopes...)
		g.Audience = append(make([]string, 0, 8), g.Audience...)
		g.Data = append(make([]byte, 0, 64), g.Data...)
		g.Remember = &fositeconsent.Remember{Lifespan: time.Hour, OfflineAccess: true}
		return g
	}
	// deep includes what lies behind the slices' ends.
	deep := func(g *fositeconsent.Grant) *fositeconsent.Grant {
		c := *g
		c.Scopes = slices.Clone(g.Scopes[:cap(g.Scopes)])
		c.Audience = slices.Clone(g.Audience[:cap(g.Audience)])
		c.Data = slices.Clone(g.Data[:cap(g.Data)])
		if g.Remember != nil {
			remember := *g.Remember
			c.Remember = &remember
		}
		return &c
	}
	untouched := func(s *checked, call string, grant, before *fositeconsent.Grant) {
		s.Helper()
		now := deep(grant)
		if !slices.Equal(now.Scopes, before.Scopes) || !slices.Equal(now.Audience, before.Audience) || !slices.Equal(now.Data, before.Data) ||
			now.ID != before.ID || now.SecretHash != before.SecretHash || now.Binding != before.Binding || now.Subject != before.Subject ||
			now.ClientID != before.ClientID || now.Shown != before.Shown || (now.Remember == nil) != (before.Remember == nil) ||
			now.Remember != nil && *now.Remember != *before.Remember || now.Denied != before.Denied || now.Lifespan != before.Lifespan || !now.DecidedAt.Equal(before.DecidedAt) {
			s.Errorf("%s modified the caller's grant", call)
		}
	}

	grant := roomy(newGrant())
	stored := clone(grant)
	before := deep(grant)
	s.mint(grant)
	untouched(s, "a create", grant, before)
	s.wantCreate(grant, succeeded)
	untouched(s, "a repeated create", grant, before)

	second := roomy(again(grant))
	before = deep(second)
	s.wantCreate(second, alreadyDecided)
	untouched(s, "a create that came second", second, before)

	refused := roomy(newGrant())
	refused.Lifespan = 0
	before = deep(refused)
	s.wantCreate(refused, failed)
	untouched(s, "a refused create", refused, before)

	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	refused = roomy(newGrant())
	before = deep(refused)
	_ = s.createIn(cancelled, refused)
	untouched(s, "a cancelled create", refused, before)

	// What the caller does with its grant afterwards is nothing to the storage.
	presentation := present(grant)
	overwrite(grant)
	got := s.wantConsumed(presentation, &stored)
	overwrite(got)
	s.wantConsumed(presentation, &stored)
}

// overwrite changes all of a grant, in place wherever that is possible.
func overwrite(g *fositeconsent.Grant) {
	for _, list := range [][]string{g.Scopes, g.Audience} {
		for i := range list {
			list[i] = "overwritten"
		}
	}
	for i := range g.Data {
		g.Data[i] ^= 0xff
	}
	if g.Remember != nil {
		*g.Remember = fositeconsent.Remember{Lifespan: 7 * time.Hour}
	}
	g.Scopes = append(g.Scopes, "appended")
	g.ID, g.SecretHash, g.Binding, g.Shown = newID(), random32(), random32(), random32()
	g.Subject, g.ClientID, g.Denied = "overwritten", "overwritten", !g.Denied
	g.Lifespan, g.DecidedAt = 0, time.Time{}
}
