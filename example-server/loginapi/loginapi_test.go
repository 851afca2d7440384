package loginapi

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// newAPI returns one on the pool, which may be nil.
func newAPI(t testing.TB, pool *pgxpool.Pool, secret string) *API {
	t.Helper()
	a, err := New(pool, Config{
		LoginURL: "https://accounts.example/login?tenant=1", ResumeURL: "https://as.example/back", AuthorizationURL: "https://as.example/auth",
		Secret: []byte(secret), Lifespan: time.Hour, Secure: true,
		Logger: slog.New(slog.NewTextHandler(failing{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// failing is where the API logs: it has no reason to.
type failing struct{ testing.TB }

func (f failing) Write(text []byte) (int, error) {
	f.Errorf("the API logs %s", text)
	return len(text), nil
}

const secret = "a secret of thirty-two bytes, or more"

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := pgtest.PoolAt(t, pgtest.Database(t))
	for range 2 { // once made, it stays
		if _, err := pool.Exec(t.Context(), Schema); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pool.Exec(t.Context(), CheckTable); err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestAHandleIsOfOneKindAndOneSecret(t *testing.T) {
	a, other := newAPI(t, nil, secret), newAPI(t, nil, "another "+secret)
	const id = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	handle := a.handle(kindChallenge, id)
	if got, ok := a.idOf(kindChallenge, handle); !ok || got != id {
		t.Errorf("its own handle is that of %q, %t", got, ok)
	}
	for name, text := range map[string]string{
		"another kind":         a.handle(kindVerifier, id),
		"the cookie's":         a.handle(kindBrowser, id),
		"another secret":       other.handle(kindChallenge, id),
		"another request":      "BBCDEFGHIJKLMNOPQRSTUVWXYZ" + handle[idSize:],
		"one character more":   handle + "A",
		"one character less":   handle[:len(handle)-1],
		"nothing":              "",
		"the id alone":         id,
		"another last bit":     handle[:len(handle)-1] + string(handle[len(handle)-1]^1),
		"the id, and no code":  id + strings.Repeat("A", codeSize),
		"in other letters":     strings.ToLower(handle),
		"the code of nobody's": a.handle(kindChallenge, ""),
	} {
		if _, ok := a.idOf(kindChallenge, text); ok {
			t.Errorf("%s passes", name)
		}
	}
}

// visit is a browser on its way: the cookies that it was given.
type visit struct {
	t       *testing.T
	a       *API
	cookies map[string]string
}

func (v *visit) send(request *Request) (challenge string) {
	v.t.Helper()
	w := httptest.NewRecorder()
	if err := v.a.Send(w, v.request("https://as.example/auth"), request); err != nil {
		v.t.Fatal(err)
	}
	response := w.Result()
	for _, c := range response.Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-login-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			v.t.Errorf("the cookie %+v", c)
		}
		if c.MaxAge < 0 {
			delete(v.cookies, c.Name)
		} else {
			v.cookies[c.Name] = c.Value
		}
	}
	to, err := response.Location()
	if err != nil || to.Host != "accounts.example" || to.Query().Get("tenant") != "1" || response.StatusCode != http.StatusSeeOther {
		v.t.Fatalf("sent to %v with %d, %v", to, response.StatusCode, err)
	}
	return to.Query().Get("login_challenge")
}

func (v *visit) request(address string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, address, nil)
	for name, value := range v.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	return r
}

func (v *visit) call(method, path, challenge, body string) (status int, answer map[string]any) {
	v.t.Helper()
	w := httptest.NewRecorder()
	v.a.Handler().ServeHTTP(w, httptest.NewRequest(method, Path+path+"?"+url.Values{"login_challenge": {challenge}}.Encode(), strings.NewReader(body)))
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		v.t.Fatalf("%s %s: status %d, %q", method, path, w.Code, w.Body)
	}
	return w.Code, answer
}

func TestALoginRequest(t *testing.T) {
	pool := database(t)
	v := &visit{t, newAPI(t, pool, secret), map[string]string{}}
	challenge := v.send(&Request{Query: "client_id=web", Client: &consentapi.Client{ClientID: "web"}, Scopes: []string{"openid"}, SessionID: "s"})
	if status, answer := v.call(http.MethodGet, "", challenge, ""); status != http.StatusOK || answer["challenge"] != challenge || answer["request_url"] != "https://as.example/auth?client_id=web" {
		t.Errorf("status %d, %v", status, answer)
	}
	if _, err := v.a.Resume(v.request("https://as.example/back?login_verifier=" + v.a.handle(kindVerifier, challenge[:idSize]))); err == nil {
		t.Error("an answer that nobody has given")
	}
	for name, body := range map[string]string{
		"nothing":                  ``,
		"no object":                `[]`,
		"no subject":               `{}`,
		"a subject of no text":     `{"subject":7}`,
		"a subject with a NUL":     `{"subject":"a\u0000"}`,
		"a subject with a newline": `{"subject":"a\nb"}`,
		"a subject that is long":   `{"subject":"` + strings.Repeat("a", 256) + `"}`,
		"an unknown member":        `{"subject":"alice","admin":true}`,
		"two subjects":             `{"subject":"alice","subject":"mallory"}`,
		"a subject in capitals":    `{"subject":"alice","SUBJECT":"mallory"}`,
		"too many levels":          `{"subject":"alice","context":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`,
		"two objects":              `{"subject":"alice"}{"subject":"bob"}`,
		"one brace more":           `{"subject":"alice"}}`,
		"remembered until before":  `{"subject":"alice","remember":true,"remember_for":-1}`,
		"remembered for ever more": `{"subject":"alice","remember":true,"remember_for":9223372036854775807}`,
		"remembered for too long":  `{"subject":"alice","remember":true,"remember_for":9223372037}`, // in nanoseconds it would be negative
		"another name for clients": `{"subject":"alice","force_subject_identifier":"bob"}`,
		"a large context":          `{"subject":"alice","context":"` + strings.Repeat("a", maxContext) + `"}`,
		"a larger body":            `{"subject":"alice","context":"` + strings.Repeat("a", maxBody) + `"}`,
		"a long amr":               `{"subject":"alice","amr":["` + strings.Repeat("a", maxText+1) + `"]}`,
		"no UTF-8":                 `{"subject":"alice","acr":"` + "\xff" + `"}`,
		"a NUL in a text":          `{"subject":"alice","acr":"\u0000"}`,
		"a long acr":               `{"subject":"alice","acr":"` + strings.Repeat("a", maxText+1) + `"}`,
	} {
		if status, answer := v.call(http.MethodPut, "/accept", challenge, body); status != http.StatusBadRequest || answer["error"] != "invalid_request" {
			t.Errorf("accepted with %s: status %d, %v", name, status, answer)
		}
	}
	for name, body := range map[string]string{
		"an error in quotes":  `{"error":"a\"b"}`,
		"a newline":           `{"error":"a\nb"}`,
		"a long error":        `{"error":"` + strings.Repeat("a", maxText+1) + `"}`,
		"a long hint":         `{"error":"a","error_hint":"` + strings.Repeat("a", maxText+1) + `"}`,
		"a long description":  `{"error":"a","error_description":"` + strings.Repeat("a", maxText+1) + `"}`,
		"an unknown member":   `{"redirect_to":"https://evil.example"}`,
		"a status of no kind": `{"status_code":"400"}`,
	} {
		if status, _ := v.call(http.MethodPut, "/reject", challenge, body); status != http.StatusBadRequest {
			t.Errorf("rejected with %s: status %d", name, status)
		}
	}
	// None of these has answered it.
	status, answer := v.call(http.MethodPut, "/accept", challenge, `{"subject":"alice","amr":["pwd"],"context":{"b":1,"a":2},"identity_provider_session_id":"x"}`)
	to, _ := answer["redirect_to"].(string)
	if status != http.StatusOK || !strings.HasPrefix(to, "https://as.example/back?login_verifier=") {
		t.Fatalf("status %d, %v", status, answer)
	}
	if status, answer := v.call(http.MethodPut, "/accept", challenge, `{"context":{"a":2,"b":1},"amr":["pwd"],"subject":"alice","force_subject_identifier":"alice"}`); status != http.StatusOK || answer["redirect_to"] != to {
		t.Errorf("the same answer: status %d, %v", status, answer)
	}
	if status, answer := v.call(http.MethodGet, "", challenge, ""); status != http.StatusGone || answer["redirect_to"] != "https://as.example/auth?client_id=web" {
		t.Errorf("answered: status %d, %v", status, answer)
	}
	for _, body := range []string{`{"subject":"bob"}`, `{"subject":"alice"}`} {
		if status, _ := v.call(http.MethodPut, "/accept", challenge, body); status != http.StatusConflict {
			t.Errorf("another answer: status %d", status)
		}
	}
	if status, _ := v.call(http.MethodPut, "/reject", challenge, ``); status != http.StatusConflict {
		t.Errorf("a rejection after it was accepted: status %d", status)
	}
	if _, err := v.a.Resume(httptest.NewRequest(http.MethodGet, to, nil)); err != ErrForeign { //nolint:errorlint // it is returned as it is
		t.Errorf("another browser gets %v", err)
	}
	look := v.request(to)
	look.Method = http.MethodHead
	if _, err := v.a.Resume(look); err != ErrForeign { //nolint:errorlint // as above
		t.Errorf("a look at where it leads: %v", err)
	}
	resumed, err := v.a.Resume(v.request(to))
	if err != nil || resumed.Answer.Subject != "alice" || resumed.Challenge != challenge || resumed.Request.Query != "client_id=web" {
		t.Fatalf("brought back: %+v, %v", resumed, err)
	}
	if again, err := v.a.Resume(v.request(to)); err != ErrEnded || again.Answer != nil || again.Request.Query != "client_id=web" { //nolint:errorlint // as above
		t.Errorf("brought back again: %+v, %v", again, err)
	}
	if status, answer := v.call(http.MethodGet, "", challenge, ""); status != http.StatusGone || answer["redirect_to"] != "https://as.example/auth?client_id=web" {
		t.Errorf("used: status %d, %v", status, answer)
	}
}

func TestOneChallengeIsAskedFor(t *testing.T) {
	v := &visit{t, newAPI(t, database(t), secret), map[string]string{}}
	challenge := v.send(&Request{Query: "client_id=web"})
	for query, want := range map[string]int{
		"": http.StatusBadRequest, "login_challenge=": http.StatusBadRequest, "login_challenge=" + challenge + "&login_challenge=" + challenge: http.StatusBadRequest,
		"login_challenge=" + v.a.handle(kindChallenge, strings.Repeat("A", idSize)): http.StatusNotFound, "login_challenge=x": http.StatusNotFound,
		"login_challenge=" + challenge: http.StatusOK,
	} {
		w := httptest.NewRecorder()
		v.a.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, Path+"?"+query, nil))
		if w.Code != want {
			t.Errorf("%q: status %d, want %d", query, w.Code, want)
		}
	}
}

func TestOnlyWhoIsSignedInIsConfirmed(t *testing.T) {
	v := &visit{t, newAPI(t, database(t), secret), map[string]string{}}
	challenge := v.send(&Request{Query: "client_id=web", Skip: true, Subject: "alice"})
	if status, _ := v.call(http.MethodPut, "/accept", challenge, `{"subject":"bob"}`); status != http.StatusBadRequest {
		t.Errorf("another subject: status %d", status)
	}
	if status, _ := v.call(http.MethodPut, "/reject", challenge, `{}`); status != http.StatusOK {
		t.Errorf("a rejection: status %d", status)
	}
}

// All that the parser lets through can be stored, and comes back as it is.
func TestALoginRequestHoldsAnyText(t *testing.T) {
	pool := database(t)
	for name, test := range map[string]struct{ context, want string }{
		"half a character":        {`"\ud800"`, "\"\ufffd\""},
		"a number beyond numeric": {`[1e400000]`, `[1e400000]`},
		"a number of many digits": {`[1e100000]`, `[1e100000]`},
		"many levels":             {strings.Repeat("[", 31) + strings.Repeat("]", 31), strings.Repeat("[", 31) + strings.Repeat("]", 31)},
		"members in any order":    {`{"b" : 1, "a":2 }`, `{"a":2,"b":1}`},
		"null":                    {`null`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			v := &visit{t, newAPI(t, pool, secret), map[string]string{}}
			challenge := v.send(&Request{Query: "client_id=web", LoginHint: "a\x00b", Scopes: []string{"\x00"}, Display: "\xff"})
			if status, answer := v.call(http.MethodGet, "", challenge, ""); status != http.StatusOK || fmt.Sprint(answer["requested_scope"]) != "[\x00]" {
				t.Fatalf("status %d, %v", status, answer)
			}
			var to string
			for range 2 {
				status, answer := v.call(http.MethodPut, "/accept", challenge, `{"subject":"alice","context":`+test.context+`}`)
				if to, _ = answer["redirect_to"].(string); status != http.StatusOK {
					t.Fatalf("status %d, %v", status, answer)
				}
			}
			if resumed, err := v.a.Resume(v.request(to)); err != nil || string(resumed.Answer.Context) != test.want {
				t.Errorf("brought back: %.100v, %v", resumed, err)
			}
		})
	}
}

func TestLoginRequestsEnd(t *testing.T) {
	pool := database(t)
	v := &visit{t, newAPI(t, pool, secret), map[string]string{}}
	expire := func(interval string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), "UPDATE example_server_login_requests SET expires_at = statement_timestamp() - $1::interval", interval); err != nil {
			t.Fatal(err)
		}
	}
	late := v.send(&Request{Query: "client_id=late"})
	answered := v.send(&Request{Query: "client_id=answered"})
	_, answer := v.call(http.MethodPut, "/accept", answered, `{"subject":"alice"}`)
	to, _ := answer["redirect_to"].(string)
	expire("1 second")
	if status, answer := v.call(http.MethodGet, "", late, ""); status != http.StatusGone || answer["redirect_to"] != "https://as.example/auth?client_id=late" {
		t.Errorf("looked up too late: status %d, %v", status, answer)
	}
	if status, answer := v.call(http.MethodPut, "/accept", late, `{"subject":"alice"}`); status != http.StatusGone || answer["redirect_to"] != "https://as.example/auth?client_id=late" {
		t.Errorf("accepted too late: status %d, %v", status, answer)
	}
	if resumed, err := v.a.Resume(v.request(to)); err != ErrEnded || resumed.Request.Query != "client_id=answered" { //nolint:errorlint // it is returned as it is
		t.Errorf("brought back too late: %+v, %v", resumed, err)
	}
	count := func(want int) {
		t.Helper()
		var n int
		if err := v.a.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM example_server_login_requests").Scan(&n); err != nil || n != want {
			t.Errorf("%d requests are there, want %d: %v", n, want, err)
		}
	}
	count(2)
	expire("61 minutes")
	v.send(&Request{Query: "client_id=live"})
	count(1)
}

func TestABrowserKeepsAFewLogins(t *testing.T) {
	v := &visit{t, newAPI(t, database(t), secret), map[string]string{"other": "stays"}}
	var first, last string
	for i := range maxCookies + 3 {
		challenge := v.send(&Request{Query: "client_id=web"})
		if i == 0 {
			first = challenge
		}
		last = challenge
	}
	if len(v.cookies) != maxCookies+1 || v.cookies["other"] != "stays" {
		t.Errorf("the browser has %d cookies", len(v.cookies))
	}
	for challenge, want := range map[string]error{first: ErrForeign, last: nil} {
		_, answer := v.call(http.MethodPut, "/accept", challenge, `{"subject":"alice"}`)
		to, _ := answer["redirect_to"].(string)
		if _, err := v.a.Resume(v.request(to)); err != want { //nolint:errorlint // it is returned as it is
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, body := range []string{``, `{}`, `{"subject":"alice"}`, `{"subject":"alice","remember":true,"remember_for":3600,"context":{"a":[1]},"amr":["pwd"]}`, `{"error":"access_denied"}`, `{"subject":"\u0000"}`, `[null]`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if answer, err := parseAccept(body); err == nil {
			if answer.Rejection != nil || !isSubject(answer.Subject) || answer.RememberFor < 0 {
				t.Errorf("%q is accepted as %+v", body, answer)
			}
			if text, err := json.Marshal(answer); err != nil || strings.Contains(string(text), `\u0000`) {
				t.Errorf("%q cannot be stored: %s, %v", body, text, err)
			}
		}
		if answer, err := parseReject(body); err == nil && (answer.Rejection == nil || answer.Rejection.Error == "" || answer.Subject != "") {
			t.Errorf("%q is a rejection as %+v", body, answer)
		}
	})
}

func FuzzHandle(f *testing.F) {
	a := newAPI(f, nil, secret)
	f.Add(a.handle(kindChallenge, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		if id, ok := a.idOf(kindChallenge, text); ok && a.handle(kindChallenge, id) != text {
			t.Errorf("%q passes", text)
		}
	})
}
