package fositeconsent

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/ory/fosite"
)

// requestOf builds what fosite would have parsed from these parameters.
func requestOf(clientID string, form url.Values) *fosite.AuthorizeRequest {
	ar := fosite.NewAuthorizeRequest()
	ar.Client = &fosite.DefaultClient{ID: clientID}
	ar.Form = form
	ar.RedirectURI, _ = url.Parse(form.Get("redirect_uri"))
	if ar.RedirectURI == nil {
		ar.RedirectURI = &url.URL{}
	}
	ar.State = form.Get("state")
	ar.ResponseTypes = fosite.RemoveEmpty(bytesSplit(form.Get("response_type")))
	ar.ResponseMode = fosite.ResponseModeType(form.Get("response_mode"))
	ar.SetDefaultResponseMode(fosite.ResponseModeQuery)
	ar.SetRequestedScopes(fosite.RemoveEmpty(bytesSplit(form.Get("scope"))))
	ar.SetRequestedAudience(fosite.GetAudiences(form))
	return ar
}

func bytesSplit(s string) []string {
	var list []string
	for _, part := range bytes.Split([]byte(s), []byte(" ")) {
		list = append(list, string(part))
	}
	return list
}

// fullForm has every parameter that a specification names, and two that none does.
func fullForm() url.Values {
	return url.Values{
		"client_id":             {"app"},
		"redirect_uri":          {"https://app.example/cb"},
		"response_type":         {"code id_token"},
		"response_mode":         {"fragment"},
		"scope":                 {"openid photos offline_access"},
		"audience":              {"https://api.example https://other.example"},
		"state":                 {"a state that is long"},
		"nonce":                 {"a nonce that is long"},
		"code_challenge":        {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"},
		"code_challenge_method": {"S256"},
		"resource":              {"https://api.example/a", "https://api.example/b"},
		"claims":                {`{"id_token":{"email":null}}`},
		"authorization_details": {`[{"type":"payment","amount":"1.00"}]`},
		"acr_values":            {"urn:mace:incommon:iap:silver"},
		"dpop_jkt":              {"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"},
		"max_age":               {"3600"},
		"id_token_hint":         {"eyJhbGciOiJSUzI1NiJ9.e30.c2ln"},
		"request_uri":           {"urn:ietf:params:oauth:request_uri:abc"},
		"registration":          {"{}"},
		"purpose":               {"an extension"},
		"vendor_parameter":      {"an extension of nobody's"},
		"prompt":                {"login"},
		"ui_locales":            {"de"},
		"claims_locales":        {"de"},
		"display":               {"page"},
		"login_hint":            {"peter"},
		"request":               {"eyJhbGciOiJub25lIn0.e30."},
		"client_secret":         {"a client secret"},
		"client_assertion":      {"eyJ"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	}
}

func clone(form url.Values) url.Values {
	out := url.Values{}
	for name, values := range form {
		out[name] = slices.Clone(values)
	}
	return out
}

func fullInput() bindingInput {
	login := "a login session"
	return bindingInput{issuer: "https://as.example", subject: "peter", loginSession: &login}
}

func TestEveryParameterIsBoundExceptTheListed(t *testing.T) {
	t.Parallel()
	base := fullInput().digest(requestOf("app", fullForm()))

	changes := map[string]func(url.Values, string){
		"another value":  func(f url.Values, name string) { f.Set(name, f.Get(name)+"x") },
		"empty":          func(f url.Values, name string) { f.Set(name, "") },
		"dropped":        func(f url.Values, name string) { delete(f, name) },
		"doubled":        func(f url.Values, name string) { f[name] = append(f[name], f[name][0]) },
		"one more value": func(f url.Values, name string) { f.Add(name, "more") },
		"no values":      func(f url.Values, name string) { f[name] = []string{} },
	}
	for name := range fullForm() {
		for change, apply := range changes {
			form := fullForm()
			apply(form, name)
			got := fullInput().digest(requestOf("app", form))
			unbound := slices.Contains(UnboundParameters(), name)
			switch {
			case unbound && got != base:
				t.Errorf("%s is in UnboundParameters, and %s changed the digest", name, change)
			case !unbound && got == base && !parsedAway(name, change):
				t.Errorf("%s is bound, and %s did not change the digest", name, change)
			}
		}
	}
	// Parameters that nobody has thought of yet.
	for _, name := range []string{"new_parameter", "", "state ", "Scope", "STATE", "resource[]", "\x00"} {
		form := fullForm()
		form.Set(name, "")
		if fullInput().digest(requestOf("app", form)) == base {
			t.Errorf("adding %q did not change the digest", name)
		}
	}
}

// parsedAway reports changes that fosite's own parsing undoes: a second value of
// these is never read. checkParameters refuses the request before it is bound.
func parsedAway(name, change string) bool {
	second := change == "doubled" || change == "one more value"
	return second && (name == "scope" || name == "response_type" || name == "response_mode")
}

func TestParametersSentTwiceAreRefused(t *testing.T) {
	t.Parallel()
	if err := checkParameters(fullForm()); err != nil {
		t.Fatalf("a request with every parameter once is refused: %v", err)
	}
	for name := range fullForm() {
		form := fullForm()
		form[name] = []string{form.Get(name), form.Get(name)}
		err := checkParameters(form)
		if repeatable := name == "resource" || name == "audience"; repeatable != (err == nil) {
			t.Errorf("%s sent twice: %v", name, err)
		}
	}
	if checkParameters(url.Values{"unknown": {"a", "b"}}) == nil {
		t.Error("an unknown parameter sent twice is accepted")
	}
}

func TestTextThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"\xff", "a\x00b", "\xed\xa0\x80"} {
		if checkParameters(url.Values{"audience": {"https://api.example", value}}) == nil {
			t.Errorf("%q is accepted", value)
		}
	}
}

// fosite writes both of these claims as [map[amount:1 note:a:b]].
func TestRequestObjectsThatFositeMergesAlikeDiffer(t *testing.T) {
	t.Parallel()
	digest := func(requestObject string) Digest {
		form := fullForm()
		form.Set("authorization_details", "[map[amount:1 note:a:b]]")
		form.Set("request", requestObject)
		return fullInput().digest(requestOf("app", form))
	}
	if digest(`{"authorization_details":[{"amount":"1 note:a:b"}]}`) == digest(`{"authorization_details":[{"amount":"1","note":"a:b"}]}`) {
		t.Error("two request objects are one")
	}
}

func TestOrderOfSetsDoesNotMatter(t *testing.T) {
	t.Parallel()
	base := fullInput().digest(requestOf("app", fullForm()))
	for name, value := range map[string][]string{
		"scope":         {"offline_access photos  openid photos"},
		"response_type": {"id_token code"},
		"audience":      {"https://other.example https://api.example"},
	} {
		form := fullForm()
		form[name] = value
		if fullInput().digest(requestOf("app", form)) != base {
			t.Errorf("the order of %s changed the digest", name)
		}
	}
	form := fullForm()
	form["audience"] = []string{"https://other.example", "https://api.example"}
	if fullInput().digest(requestOf("app", form)) != base {
		t.Error("audience as two parameters changed the digest")
	}
	// Where the order has a meaning it is kept: RFC 9396, Section 2.
	for _, name := range []string{"resource"} {
		form := fullForm()
		slices.Reverse(form[name])
		if fullInput().digest(requestOf("app", form)) == base {
			t.Errorf("the order of %s did not change the digest", name)
		}
	}
}

func TestDefaultsThatAreSpelledOutAreNoOtherRequest(t *testing.T) {
	t.Parallel()
	plain := fullForm()
	plain.Set("code_challenge_method", "plain")
	none := clone(plain)
	none.Del("code_challenge_method")
	empty := clone(plain)
	empty.Set("code_challenge_method", "")
	want := fullInput().digest(requestOf("app", plain))
	for name, form := range map[string]url.Values{"absent": none, "empty": empty} {
		if fullInput().digest(requestOf("app", form)) != want {
			t.Errorf("an %s code_challenge_method is not plain", name)
		}
	}
}

func TestWhatFositeResolvedIsBound(t *testing.T) {
	t.Parallel()
	base := fullInput().digest(requestOf("app", fullForm()))
	for name, change := range map[string]func(*fosite.AuthorizeRequest){
		"client":        func(ar *fosite.AuthorizeRequest) { ar.Client = &fosite.DefaultClient{ID: "other"} },
		"redirect URI":  func(ar *fosite.AuthorizeRequest) { ar.RedirectURI, _ = url.Parse("https://evil.example/cb") },
		"state":         func(ar *fosite.AuthorizeRequest) { ar.State = "another state" },
		"response mode": func(ar *fosite.AuthorizeRequest) { ar.ResponseMode = fosite.ResponseModeFormPost },
		"response type": func(ar *fosite.AuthorizeRequest) { ar.ResponseTypes = fosite.Arguments{"code"} },
		"scope":         func(ar *fosite.AuthorizeRequest) { ar.AppendRequestedScope("more") },
		"scope's case": func(ar *fosite.AuthorizeRequest) {
			ar.SetRequestedScopes(fosite.Arguments{"openid", "Photos", "offline_access"})
		},
		"audience":        func(ar *fosite.AuthorizeRequest) { ar.AppendRequestedAudience("more") },
		"audience, fewer": func(ar *fosite.AuthorizeRequest) { ar.SetRequestedAudience(nil) },
	} {
		ar := requestOf("app", fullForm())
		change(ar)
		if fullInput().digest(ar) == base {
			t.Errorf("%s is not bound", name)
		}
	}
	for name, change := range map[string]func(*fosite.AuthorizeRequest){
		"id":              func(ar *fosite.AuthorizeRequest) { ar.SetID("another id") },
		"session":         func(ar *fosite.AuthorizeRequest) { ar.SetSession(&fosite.DefaultSession{Subject: "mallory"}) },
		"granted scope":   func(ar *fosite.AuthorizeRequest) { ar.GrantScope("openid") },
		"handled type":    func(ar *fosite.AuthorizeRequest) { ar.SetResponseTypeHandled("code") },
		"requested scope": func(ar *fosite.AuthorizeRequest) { ar.AppendRequestedScope("photos") }, // it is there already
	} {
		ar := requestOf("app", fullForm())
		change(ar)
		if fullInput().digest(ar) != base {
			t.Errorf("%s differs from pass to pass, and is bound", name)
		}
	}
}

func TestWhoDecidesIsBound(t *testing.T) {
	t.Parallel()
	base := fullInput().digest(requestOf("app", fullForm()))
	other, empty := "another login", ""
	for name, change := range map[string]func(*bindingInput){
		"issuer":              func(in *bindingInput) { in.issuer += "/tenant" },
		"subject":             func(in *bindingInput) { in.subject = "mallory" },
		"login session":       func(in *bindingInput) { in.loginSession = &other },
		"no login session":    func(in *bindingInput) { in.loginSession = nil },
		"empty login session": func(in *bindingInput) { in.loginSession = &empty },
	} {
		in := fullInput()
		change(&in)
		if in.digest(requestOf("app", fullForm())) == base {
			t.Errorf("%s is not bound", name)
		}
	}
	in := fullInput()
	in.unbound = []string{"vendor_parameter"}
	form := fullForm()
	form.Set("vendor_parameter", "another value")
	with := in.digest(requestOf("app", form))
	form.Del("vendor_parameter")
	if with != in.digest(requestOf("app", form)) {
		t.Error("a parameter that the host left out is bound")
	}
}

// vector is one known answer. The encodings in testdata were written by a second
// implementation from the description in docs/binding.md.
type vector struct {
	Name         string     `json:"name"`
	Issuer       string     `json:"issuer"`
	Subject      string     `json:"subject"`
	LoginSession *string    `json:"login_session"`
	ClientID     string     `json:"client_id"`
	Form         url.Values `json:"form"`
	Encoding     string     `json:"encoding"`
	Digest       string     `json:"digest"`
}

func TestGoldenVectors(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("testdata/binding.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 4 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			in := bindingInput{issuer: v.Issuer, subject: v.Subject, loginSession: v.LoginSession}
			ar := requestOf(v.ClientID, v.Form)
			if got := hex.EncodeToString(in.encode(ar)); got != v.Encoding {
				t.Errorf("encoding\n%s, expected\n%s", got, v.Encoding)
			}
			if digest := in.digest(ar); hex.EncodeToString(digest[:]) != v.Digest {
				t.Errorf("digest %x, expected %s", digest, v.Digest)
			}
		})
	}
}

// fuzzRequest reads a request out of fuzz data: a control byte and a text, again
// and again.
func fuzzRequest(data []byte) (bindingInput, *fosite.AuthorizeRequest) {
	next := func() (byte, string) {
		if len(data) < 2 {
			return 0, ""
		}
		kind, n := data[0], int(data[1])
		data = data[2:]
		n = min(n, len(data))
		text := string(data[:n])
		data = data[n:]
		return kind, text
	}
	in := bindingInput{}
	ar := fosite.NewAuthorizeRequest()
	ar.RedirectURI = &url.URL{}
	client := &fosite.DefaultClient{}
	ar.Client = client
	names := []string{"state", "nonce", "redirect_uri", "code_challenge", "code_challenge_method", "resource", "prompt", "scope", "x"}
	for len(data) >= 2 {
		kind, text := next()
		switch kind % 16 {
		case 0:
			in.issuer = text
		case 1:
			in.subject = text
		case 2:
			in.loginSession = &text
		case 3:
			client.ID = text
		case 4:
			ar.RedirectURI = &url.URL{Opaque: text}
		case 5:
			ar.ResponseTypes = append(ar.ResponseTypes, text)
		case 6:
			ar.ResponseMode = fosite.ResponseModeType(text)
		case 7:
			ar.RequestedScope = append(ar.RequestedScope, text)
		case 8:
			ar.RequestedAudience = append(ar.RequestedAudience, text)
		case 9:
			ar.State = text
		case 10:
			if _, ok := ar.Form[text]; !ok {
				ar.Form[text] = []string{}
			}
		case 11:
			_, value := next()
			ar.Form.Add(text, value)
		default:
			ar.Form.Add(names[int(kind/16)%len(names)], text)
		}
	}
	return in, ar
}

// meaning is what a binding stands for, said once more without any encoding.
func meaning(in bindingInput, ar *fosite.AuthorizeRequest) map[string]any {
	set := func(list []string) map[string]bool {
		m := map[string]bool{}
		for _, s := range list {
			m[s] = true
		}
		return m
	}
	form := map[string][]string{}
	for name, values := range ar.Form {
		switch {
		case slices.Contains(UnboundParameters(), name), name == "scope", name == "audience", name == "response_type", name == "response_mode":
		case len(values) == 0 && (name == "code_challenge" || name == "redirect_uri" || name == "code_challenge_method"):
			// No value and no parameter are the same for those that stand in their own field.
		default:
			form[name] = values
		}
	}
	if ar.Form.Get("code_challenge") != "" && ar.Form.Get("code_challenge_method") == "" {
		form["code_challenge_method"] = []string{"plain"}
	}
	return map[string]any{
		"issuer": in.issuer, "subject": in.subject, "login": in.loginSession, "client": ar.Client.GetID(),
		"redirect": ar.RedirectURI.String(), "types": set(ar.ResponseTypes), "mode": ar.ResponseMode,
		"scopes": set(ar.RequestedScope), "audience": set(ar.RequestedAudience), "state": ar.State, "form": form,
	}
}

func FuzzBindingIsInjective(f *testing.F) {
	f.Add([]byte("\x01\x05peter"), []byte("\x01\x04pete\x03\x01r"))
	f.Add([]byte("\x0b\x01a\x00\x01b\x0b\x01c\x00\x01d"), []byte("\x0b\x01a\x00\x01b\x00\x00\x0b\x01c\x00\x01d"))
	f.Add([]byte("\x07\x01a\x07\x01b"), []byte("\x07\x03a b"))
	f.Add([]byte("\x02\x00"), []byte(""))
	f.Add([]byte("\x0a\x05state"), []byte("\x0b\x05state\x00\x00"))
	f.Add([]byte("\x3c\x01c\x4c\x05plain"), []byte("\x3c\x01c"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		inA, arA := fuzzRequest(a)
		inB, arB := fuzzRequest(b)
		equal := reflect.DeepEqual(meaning(inA, arA), meaning(inB, arB))
		if same := bytes.Equal(inA.encode(arA), inB.encode(arB)); same != equal {
			t.Fatalf("encoded alike: %v, same meaning: %v\n%v\n%v", same, equal, meaning(inA, arA), meaning(inB, arB))
		}
		if !bytes.Equal(inA.encode(arA), inA.encode(arA)) {
			t.Fatal("the encoding of one request varies")
		}
	})
}

func TestUnboundParametersIsACopy(t *testing.T) {
	t.Parallel()
	UnboundParameters()[0] = "state"
	if slices.Contains(UnboundParameters(), "state") {
		t.Fatal("a caller can change what is bound")
	}
	if want := slices.Sorted(maps.Keys(map[string]bool{
		"prompt": true, "ui_locales": true, "claims_locales": true, "display": true, "login_hint": true,
		"client_secret": true, "client_assertion": true, "client_assertion_type": true,
	})); !slices.Equal(UnboundParameters(), want) {
		t.Fatalf("unbound are %v, expected %v", UnboundParameters(), want)
	}
}

func BenchmarkDigest(b *testing.B) {
	ar, in := requestOf("app", fullForm()), fullInput()
	b.ReportAllocs()
	for b.Loop() {
		in.digest(ar)
	}
}
