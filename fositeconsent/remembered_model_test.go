package fositeconsent_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// What a request asks for, as the model sees it. The model knows nothing of the package: it
// is what the documentation says, written down once more, in other words.
type asking struct {
	user, client, look       string
	scopes, audience, types  []string
	resource, claims, vendor []string // the values of these parameters
	mode                     string   // form_post, or "" for the default
	prompt                   string
}

// An approval that led to a response, as the model sees it.
type approved struct {
	asking           // what was granted
	id               fositeconsent.ID
	data             string
	remembered       bool
	remembersOffline bool
	ends             time.Time // zero if never
	taken            bool      // back
}

// form writes a request down, with what differs from one to the next.
func (a asking) form(n int) url.Values {
	at := map[string]string{"web": "https://web.example/cb", "other": "https://other.example/cb", "app": "https://app.example/cb", "native": "com.example.app:/cb"}
	form := params("client_id", a.client, "redirect_uri", at[a.client], "response_type", strings.Join(a.types, " "),
		"scope", strings.Join(a.scopes, " "), "audience", strings.Join(a.audience, " "), "prompt", a.prompt, "response_mode", a.mode,
		"state", fmt.Sprintf("state-%08d", n), "nonce", fmt.Sprintf("nonce-%08d", n))
	for name, values := range map[string][]string{"resource": a.resource, "claims": a.claims, "vendor": a.vendor} {
		if len(values) > 0 {
			form[name] = values
		}
	}
	return form
}

// allows says what one approval contributes to a request, for the given data.
func (a approved) counts(q asking, data string, now time.Time) bool {
	return a.remembered && !a.taken && (a.ends.IsZero() || now.Before(a.ends)) &&
		a.user == q.user && a.client == q.client && a.look == q.look && a.data == data
}

// covered is the rule: there is one kind of data such that the live approvals with that data which
// have everything else have all the scopes, or all the audience, between them.
func covered(q asking, all []approved, data string, now time.Time) bool {
	for _, word := range strings.Fields(q.prompt) {
		if word != "none" && word != "login" && word != "select_account" {
			return false
		}
	}
	if q.client == "native" { // public, and not at a claimed https redirect URI
		return false
	}
	var scopes, audience, scopesOfThose, audienceOfThose []string // of those that have all the audience, and all the scopes
	some, someOfThose := false, false
	for _, a := range all {
		if !a.counts(q, data, now) || !within(q.types, a.types) || a.mode != q.mode ||
			!within(q.resource, a.resource) || (len(q.resource) == 0) != (len(a.resource) == 0) ||
			!within(q.claims, a.claims) || !within(q.vendor, a.vendor) || !within(a.vendor, q.vendor) ||
			len(q.audience) == 0 && len(a.audience) > 0 {
			continue
		}
		granted := slices.DeleteFunc(slices.Clone(a.scopes), func(scope string) bool {
			return (scope == "offline_access" || scope == "offline") && !a.remembersOffline
		})
		if within(q.audience, a.audience) {
			some, scopes, audience = true, append(scopes, granted...), append(audience, a.audience...)
		}
		if within(q.scopes, granted) {
			someOfThose, scopesOfThose, audienceOfThose = true, append(scopesOfThose, granted...), append(audienceOfThose, a.audience...)
		}
	}
	return some && within(q.scopes, scopes) && within(q.audience, audience) ||
		someOfThose && within(q.scopes, scopesOfThose) && within(q.audience, audienceOfThose)
}

func within(list, of []string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !slices.Contains(of, s) })
}

// modelled is a host whose answers are held against the model's.
type modelled struct {
	*consentHost
	n       int
	all     []approved
	applied []string // the data that reached the session
}

func newModelled(t *testing.T) *modelled {
	m := &modelled{}
	m.consentHost = newConsentHost(t, func(_ *host, c *fositeconsent.Config) {
		c.ApplyData = func(_ context.Context, _ fosite.AuthorizeRequester, data []byte) error {
			m.applied = append(m.applied, string(data))
			return nil
		}
	})
	return m
}

// approve has the resource owner grant a part of a request.
func (m *modelled) approve(q asking, granted, audience []string, remember *fositeconsent.Remember, data string) {
	m.t.Helper()
	m.n++
	q.look, q.prompt = m.looks[q.client], ""
	_, err := m.decide(q.form(m.n), q.user, func(d *fositeconsent.Decision) {
		d.Scopes, d.Audience, d.Remember, d.Data = granted, audience, remember, []byte(data)
	})
	if err != nil {
		m.t.Fatalf("%+v could not be approved: %v", q, cause(err))
	}
	a := approved{asking: q, id: m.event().GrantID, data: data}
	a.scopes, a.audience = granted, audience
	if remember != nil {
		a.remembered, a.remembersOffline = true, remember.OfflineAccess
		if remember.Lifespan > 0 {
			a.ends = m.now().Add(remember.Lifespan)
		}
	}
	m.all = append(m.all, a)
}

// check asks, and compares. It reports whether the request passed.
func (m *modelled) check(q asking) bool {
	m.t.Helper()
	m.n++
	q.look = m.looks[q.client]
	now := m.now()
	var possible []string // data
	for _, a := range m.all {
		if !slices.Contains(possible, a.data) && covered(q, m.all, a.data, now) {
			possible = append(possible, a.data)
		}
	}
	if len(possible) == 0 {
		m.isAsked(q.form(m.n), q.user)
		return false
	}
	m.applied = nil
	ar := m.passes(q.form(m.n), q.user)
	if m.t.Failed() {
		m.t.Fatalf("asked for %+v with data %q of\n%+v", q, possible, m.all)
	}
	if !equalSets(ar.GetGrantedScopes(), q.scopes) || !equalSets(ar.GetGrantedAudience(), q.audience) {
		m.t.Fatalf("granted %v for %v to %+v", ar.GetGrantedScopes(), ar.GetGrantedAudience(), q)
	}
	// What it rests on is enough, with this data, and each of it counts.
	data := strings.Join(m.applied, "")
	var used []approved
	for _, id := range m.event().ConsentIDs {
		i := slices.IndexFunc(m.all, func(a approved) bool { return a.id == id && a.counts(q, data, now) })
		if i < 0 {
			m.t.Fatalf("%+v rests on %v", q, id)
		}
		used = append(used, m.all[i])
	}
	if !covered(q, used, data, now) {
		m.t.Fatalf("%+v rests on %+v, which does not cover it", q, used)
	}
	return true
}

// subsets returns all subsets of the list.
func subsets(list ...string) (all [][]string) {
	for bits := range 1 << len(list) {
		var one []string
		for i, s := range list {
			if bits&(1<<i) != 0 {
				one = append(one, s)
			}
		}
		all = append(all, one)
	}
	return all
}

// Every subset of the scopes was approved, and every one is asked for: equal, less, more,
// overlapping and disjoint; the same of the audience.
func TestEveryCombinationOfScopesAndAudience(t *testing.T) {
	t.Parallel()
	scopes, audiences := subsets("openid", "photos", "offline_access"), subsets("https://api.example", "https://other.example")
	for _, offline := range []bool{false, true} {
		for _, granted := range scopes[1:] {
			for _, audience := range audiences {
				t.Run(fmt.Sprint(granted, audience, offline), func(t *testing.T) {
					t.Parallel()
					m := newModelled(t)
					base := asking{user: "peter", client: "web", types: []string{"code"}}
					q := base
					q.scopes, q.audience = granted, audience
					m.approve(q, granted, audience, &fositeconsent.Remember{OfflineAccess: offline}, "")
					passed := 0
					for _, q.scopes = range scopes[1:] {
						for _, q.audience = range audiences {
							if m.check(q) {
								passed++
							}
						}
					}
					if passed == 0 && (offline || !slices.Contains(granted, "offline_access")) || passed == 28 {
						t.Errorf("%d requests passed", passed)
					}
				})
			}
		}
	}
}

// Two approvals of parts add up in their scopes or in their audiences, and to no more: what one
// allows is not good for where only the other one reaches.
func TestApprovalsAddUp(t *testing.T) {
	t.Parallel()
	scopes := subsets("openid", "photos", "contacts")
	for _, first := range scopes[1:] {
		for _, second := range scopes[1:] {
			t.Run(fmt.Sprint(first, second), func(t *testing.T) {
				t.Parallel()
				m := newModelled(t)
				q := asking{user: "peter", client: "web", types: []string{"code"}}
				q.scopes, q.audience = first, []string{"https://api.example"}
				m.approve(q, first, q.audience, &fositeconsent.Remember{}, "")
				q.scopes, q.audience = second, []string{"https://other.example"}
				m.approve(q, second, q.audience, &fositeconsent.Remember{}, "")
				for _, q.scopes = range scopes[1:] {
					for _, q.audience = range subsets("https://api.example", "https://other.example") {
						m.check(q)
					}
				}
			})
		}
	}
}

// What one approval allows does not go where only another one reaches, and less is not what has fewer
// parameters.
func TestApprovalsDoNotCross(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first, second, asked []string
	}{
		"a scope of a code in a token": {
			[]string{"scope", "photos"}, []string{"scope", "contacts", "response_type", "token"}, []string{"scope", "photos", "response_type", "token"},
		},
		"a code and a token in one response": {
			[]string{"scope", "photos"}, []string{"scope", "photos", "response_type", "token"}, []string{"scope", "photos", "response_type", "code token"},
		},
		"a scope for another's audience": {
			[]string{"scope", "photos"}, []string{"scope", "contacts", "audience", "https://other.example"}, []string{"scope", "photos", "audience", "https://other.example"},
		},
		"a scope for another's lack of an audience": {
			[]string{"scope", "photos"}, []string{"scope", "contacts", "audience", ""}, []string{"scope", "photos", "audience", ""},
		},
		"a scope for another's resource": {
			[]string{"scope", "photos", "resource", "https://a.example"}, []string{"scope", "contacts", "resource", "https://b.example"}, []string{"scope", "photos", "resource", "https://b.example"},
		},
		"a scope with another's authorization details": {
			[]string{"scope", "photos"}, []string{"scope", "contacts", "authorization_details", "[]"}, []string{"scope", "photos", "authorization_details", "[]"},
		},
		"a scope in another's response mode": {
			[]string{"scope", "photos"}, []string{"scope", "contacts", "response_mode", "form_post"}, []string{"scope", "photos", "response_mode", "form_post"},
		},
		"all accounts for one": {
			[]string{"scope", "photos", "account", "1"}, []string{"scope", "contacts", "account", "2"}, []string{"scope", "photos"},
		},
		"another account": {
			[]string{"scope", "photos", "account", "1"}, []string{"scope", "contacts", "account", "2"}, []string{"scope", "photos", "account", "2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newConsentHost(t)
			h.remember(web(c.first...), "peter")
			h.remember(web(c.second...), "peter")
			h.passes(web(c.first...), "peter")
			h.passes(web(c.second...), "peter")
			h.isAsked(web(c.asked...), "peter")
		})
	}
}

func TestEveryPromptWithEveryKindOfCover(t *testing.T) {
	t.Parallel()
	for _, prompt := range []string{"", "none", "login", "consent", "select_account", "login consent", "select_account login", "consent login", "Consent", "create", "consent\t", "login create"} {
		for _, scopes := range [][]string{{"openid", "photos"}, {"photos"}, {"openid", "contacts"}} {
			m := newModelled(t)
			q := asking{user: "peter", client: "web", scopes: []string{"openid", "photos"}, types: []string{"code"}, audience: []string{"https://api.example"}}
			m.approve(q, q.scopes, q.audience, &fositeconsent.Remember{}, "")
			q.scopes, q.prompt = scopes, prompt
			if m.check(q) == strings.Contains(strings.ToLower(prompt), "consent") && slices.Contains(scopes, "photos") && !strings.Contains(prompt, "create") {
				t.Errorf("prompt=%q for %v", prompt, scopes)
			}
		}
	}
}

// An approval of one kind of response covers only its parts.
func TestEveryResponseTypeAgainstEveryOther(t *testing.T) {
	t.Parallel()
	kinds := subsets("code", "id_token", "token")[1:]
	for _, granted := range kinds {
		t.Run(fmt.Sprint(granted), func(t *testing.T) {
			t.Parallel()
			m := newModelled(t)
			q := asking{user: "peter", client: "web", scopes: []string{"openid", "photos"}, audience: []string{"https://api.example"}, types: granted}
			m.approve(q, q.scopes, q.audience, &fositeconsent.Remember{}, "")
			for _, q.types = range kinds {
				for _, q.mode = range []string{"", "form_post"} {
					m.check(q)
				}
			}
			q.types, q.mode = []string{"code"}, "form_post"
			m.approve(q, q.scopes, q.audience, &fositeconsent.Remember{}, "")
			for _, q.types = range kinds {
				for _, q.mode = range []string{"", "form_post"} {
					m.check(q)
				}
			}
		})
	}
}

// What else a request says of what is granted has to have been approved word for word.
func TestEveryCombinationOfDetails(t *testing.T) {
	t.Parallel()
	values := func(list ...string) [][]string { return subsets(list...) }
	resources, claims, vendors := values("https://a.example", "https://b.example"), [][]string{nil, {`{"id_token":{}}`}, {`{"userinfo":{}}`}}, [][]string{nil, {"x"}}
	for _, resource := range resources {
		for _, claim := range claims {
			t.Run(fmt.Sprint(resource, claim), func(t *testing.T) {
				t.Parallel()
				m := newModelled(t)
				q := asking{user: "peter", client: "web", scopes: []string{"openid", "photos"}, audience: []string{"https://api.example"}, types: []string{"code"}, resource: resource, claims: claim}
				m.approve(q, q.scopes, q.audience, &fositeconsent.Remember{}, "")
				for _, q.resource = range resources {
					for _, q.claims = range claims {
						for _, q.vendor = range vendors {
							m.check(q)
						}
					}
				}
			})
		}
	}
}

// Two users and two clients that have allowed different things.
func TestUsersAndClientsDoNotCross(t *testing.T) {
	t.Parallel()
	m := newModelled(t)
	q := asking{types: []string{"code"}, audience: []string{"https://api.example"}}
	for i, c := range []struct{ user, client string }{{"peter", "web"}, {"peter", "other"}, {"paul", "web"}} {
		q.user, q.client = c.user, c.client
		q.scopes = []string{"openid", []string{"photos", "contacts", "contacts"}[i]}
		m.approve(q, q.scopes, q.audience, &fositeconsent.Remember{}, "")
	}
	passed := 0
	for _, q.user = range []string{"peter", "paul", "Peter", "peter "} {
		for _, q.client = range []string{"web", "other", "app"} {
			for _, q.scopes = range subsets("openid", "photos", "contacts")[1:] {
				if m.check(q) {
					passed++
				}
			}
		}
	}
	if passed != 9 { // three, each with three subsets of two scopes
		t.Errorf("%d requests passed", passed)
	}
}

// Approvals whose data for the session differ do not add up, and the data that is
// applied is that of those that do.
func TestDifferentDataDoNotAddUp(t *testing.T) {
	t.Parallel()
	m := newModelled(t)
	q := asking{user: "peter", client: "web", types: []string{"code"}, audience: []string{"https://api.example"}}
	for _, c := range []struct{ scope, data string }{{"photos", "a"}, {"contacts", "b"}, {"openid", "a"}, {"openid", "b"}, {"openid", ""}} {
		q.scopes = []string{c.scope}
		m.approve(q, q.scopes, q.audience, &fositeconsent.Remember{}, c.data)
	}
	expected := map[string]string{"openid": "a b ", "openid photos": "a", "openid contacts": "b", "photos": "a", "contacts": "b"}
	for _, q.scopes = range subsets("openid", "photos", "contacts")[1:] {
		want, ok := expected[strings.Join(q.scopes, " ")]
		if m.check(q) != ok {
			t.Errorf("%v was decided otherwise", q.scopes)
		}
		if ok && !strings.Contains(want, strings.Join(m.applied, "")) {
			t.Errorf("%v got the data %q", q.scopes, m.applied)
		}
	}
}

// Whatever users approve, take back and let expire, and however clients change: a request
// passes if, and only if, live approvals cover all of it.
func TestNothingPassesThatNoLiveApprovalCovers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModelled(t)
			r := rand.New(rand.NewPCG(seed, 4))
			pick := func(list ...string) string { return list[r.IntN(len(list))] }
			some := func(list ...string) (part []string) {
				for _, s := range list {
					if r.IntN(2) == 0 {
						part = append(part, s)
					}
				}
				return part
			}
			maybe := func(s string) []string {
				if r.IntN(4) > 0 {
					return nil
				}
				return []string{s}
			}
			request := func() asking {
				q := asking{
					user: pick("peter", "peter", "paul"), client: pick("web", "web", "other", "app", "native"),
					scopes: some("photos", "contacts", "offline_access"), audience: some("https://api.example"),
					types: []string{pick("code", "code", "token")}, resource: maybe(pick("https://a.example", "https://b.example")), claims: maybe(pick(`{"id_token":{}}`, `{"userinfo":{}}`)),
					prompt: pick("", "", "", "none", "login", "consent"),
				}
				if r.IntN(2) == 0 || len(q.scopes) == 0 {
					q.scopes = append(q.scopes, "openid")
				}
				if slices.Contains(q.scopes, "openid") && r.IntN(4) == 0 {
					q.types = append(q.types, "id_token")
				}
				if r.IntN(6) == 0 {
					q.mode = "form_post"
				}
				return q
			}
			// near is a request for what has been approved, but for one thing.
			near := func() asking {
				q, other := m.all[r.IntN(len(m.all))].asking, request()
				if len(q.scopes) == 0 {
					return other
				}
				switch r.IntN(12) {
				case 0:
					q.user = other.user
				case 1:
					q.client = other.client
				case 2:
					if slices.Contains(other.types, "id_token") == slices.Contains(q.types, "id_token") {
						q.types = other.types
					}
				case 3:
					q.audience = other.audience
				case 4:
					q.resource = other.resource
				case 5:
					q.claims = other.claims
				case 6:
					q.mode = other.mode
				case 7:
					q.prompt = other.prompt
				case 8, 9:
					if !slices.Contains(q.scopes, "contacts") {
						q.scopes = append(slices.Clone(q.scopes), "contacts")
					}
				case 10:
					if slices.Contains(q.scopes, "openid") {
						q.scopes = []string{"openid"}
					}
				}
				return q
			}
			passed, asked, end := 0, 0, m.now().Add(50*time.Minute)
			for range 250 {
				switch action := r.IntN(100); {
				case action < 60:
					q := request()
					if len(m.all) > 0 && r.IntN(3) > 0 {
						q = near()
					}
					if m.check(q) {
						passed++
					} else {
						asked++
					}
				case action < 84:
					q := request()
					granted := some(q.scopes...)
					if slices.Contains(q.scopes, "openid") && !slices.Contains(granted, "openid") {
						granted = append(granted, "openid")
					}
					var remember *fositeconsent.Remember
					if r.IntN(4) > 0 {
						remember = &fositeconsent.Remember{OfflineAccess: r.IntN(2) == 0, Lifespan: time.Duration(r.IntN(2)*(1+r.IntN(5))) * time.Minute}
					}
					m.approve(q, granted, some(q.audience...), remember, pick("", "", "", "x"))
				case action < 87 && len(m.all) > 0:
					m.takeBack(r)
				case action < 94:
					client := pick("web", "other", "app")
					m.looks[client] = pick("", "", "a new name")
				case m.now().Before(end):
					m.advance(time.Duration(1+r.IntN(90)) * time.Second)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			if passed < 5 || asked < 20 {
				t.Errorf("%d passed and %d were asked: this says little", passed, asked)
			}
		})
	}
}

// takeBack revokes some approvals in one of the ways there are.
func (m *modelled) takeBack(r *rand.Rand) {
	m.t.Helper()
	one := m.all[r.IntN(len(m.all))]
	selection := []fositeconsent.Selection{
		{Subject: one.user, ConsentID: one.id}, {ClientID: one.client, EverySubject: true}, {Subject: one.user, ClientID: one.client}, {Subject: one.user, ConsentID: one.id},
		{Subject: one.user, ConsentID: one.id}, {ClientID: one.client, EverySubject: true, ConsentID: one.id},
	}[r.IntN(6)]
	if _, err := m.gate.Revoke(context.Background(), selection); err != nil && !errors.Is(err, fosite.ErrNotFound) {
		m.t.Fatal(err)
	}
	for i := range m.all {
		a := &m.all[i]
		if (selection.Subject == "" || selection.Subject == a.user) && (selection.ClientID == "" || selection.ClientID == a.client) &&
			(selection.ConsentID.IsZero() || selection.ConsentID == a.id) {
			a.taken = true
		}
	}
}
