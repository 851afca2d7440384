package consentapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// FuzzAcceptBody sees that what is taken is one object whose meaning does not depend on who reads it.
func FuzzAcceptBody(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `null`, `[]`, `{"grant_scope":["openid"],"remember":true,"remember_for":3600,"session":{"id_token":{"email":"a"},"access_token":{"n":1e3}},"context":{"a":[1]},"handled_at":"2026-01-02T03:04:05Z"}`,
		`{"grant_scope":["a"],"grant_scope":["b"]}`, `{"Grant_Scope":["a"]}`, `{"session":{"id_token":{"sub":"x"}}}`, `{"context":1e999}`, `{"context":[1e20,9.3e18,18446744073709551615,18446744073709551616]}`, `{"session":{"id_token":{"n":1e20}}}`, `{}{}`, `{"remember_for":-1}`, `{"grant_scope":[null,"a",""]}`, "{\"context\":\"\xff\"}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, err := parseAccept(body, &document{})
		if err != nil {
			return
		}
		if !answer.Accepted || answer.Rejection != nil || answer.RememberFor < 0 || !answer.Remember && answer.RememberFor != 0 {
			t.Errorf("%+v", answer)
		}
		var loose struct {
			Scopes   []*string `json:"grant_scope"`
			Audience []*string `json:"grant_access_token_audience"`
			Remember bool      `json:"remember"`
		}
		if err := json.Unmarshal(body, &loose); err != nil {
			t.Fatalf("taken, and no JSON: %v", err)
		}
		named := func(list []*string) (names []string) {
			for _, text := range list {
				if text != nil {
					names = append(names, *text)
				}
			}
			return names
		}
		if !slices.Equal(named(loose.Scopes), answer.Scopes) || !slices.Equal(named(loose.Audience), answer.Audience) || loose.Remember != answer.Remember {
			t.Errorf("two readers see %+v and %+v", loose, answer)
		}
		d, err := parseData(answer.Data)
		if err != nil {
			t.Fatalf("what was taken cannot be read back: %v", err)
		}
		for _, claims := range []map[string]any{d.Session.AccessToken, d.Session.IDToken} {
			for _, reserved := range reservedClaims {
				if _, there := claims[reserved]; there {
					t.Errorf("the claim %q was taken", reserved)
				}
			}
		}
		// It survives the storage, and is the same answer then.
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := (&Answer{Accepted: true, Document: text}).document()
		if err != nil {
			t.Fatal(err)
		}
		before, _ := answer.digest()
		after, err := stored.digest()
		if err != nil || before != after {
			t.Errorf("another answer after it was stored: %s", text)
		}
	})
}

// FuzzRejectBody sees that what is taken can be sent to a client.
func FuzzRejectBody(f *testing.F) {
	for _, body := range []string{``, `{}`, `{"error":"access_denied","error_description":"No.","error_hint":"h","error_debug":"d","status_code":403}`, `{"status_code":200}`, `{"error":"a\"b"}`, `{"error":"a","Error":"b"}`, `null`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, err := parseReject(body, nil)
		if err != nil {
			return
		}
		r := answer.Rejection
		if answer.Accepted || r == nil || r.Error == "" || strings.ContainsAny(r.Error, "\"\\\r\n") || r.StatusCode < 400 || r.StatusCode > 599 || len(r.Description) > maxText || len(r.Hint) > maxText {
			t.Errorf("%+v, %+v", answer, r)
		}
		if len(answer.Scopes) > 0 || len(answer.Data) > 0 || answer.Remember {
			t.Errorf("a rejection that grants: %+v", answer)
		}
	})
}

// FuzzHandle sees that a handle has one spelling, and one kind.
func FuzzHandle(f *testing.F) {
	good := handle(verifierPrefix, fositeconsent.ID{1}, secret{2})
	for _, text := range []string{"", good, good[:len(good)-1], good + "\n", strings.ToUpper(good), handle(challengePrefix, fositeconsent.ID{1}, secret{2}), verifierPrefix + strings.Repeat("A", 64), browserPrefix + strings.Repeat("A", 43), browserPrefix + strings.Repeat("A", 42) + "B", browserPrefix + strings.Repeat("A", 48), browserPrefix + strings.Repeat("A", 43) + "\n", strings.Repeat("A", 43),
		verifierPrefix + strings.Repeat("A", 63) + "\n", verifierPrefix + strings.Repeat("A", 62) + "\r\n", verifierPrefix + strings.Repeat("A", 63) + "*"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		kinds := 0
		for _, prefix := range []string{challengePrefix, verifierPrefix} {
			id, s, err := parseHandle(prefix, text)
			if err != nil {
				if len(text) > len(errHandle.Error())/2 && strings.Contains(err.Error(), text) {
					t.Error("the error holds the text")
				}
				continue
			}
			kinds++
			if handle(prefix, id, s) != text || id.IsZero() || s == (secret{}) {
				t.Errorf("%q has another spelling", text)
			}
		}
		if s, ok := parseBrowser(text); ok {
			kinds++
			if browserPrefix+handleEncoding.EncodeToString(s[:]) != text {
				t.Errorf("%q has another spelling", text)
			}
		}
		if kinds > 1 {
			t.Errorf("%q is of several kinds", text)
		}
	})
}

// FuzzQueries sees that no query means everybody.
func FuzzQueries(f *testing.F) {
	for _, query := range []string{"", "subject=alice", "subject=alice&all=true", "subject=alice&client=app", "client=app&all=true", "subject=&all=true", "subject=alice&page_size=10&page_token=018f0000-0000-7000-8000-000000000000", "subject=a&page_token=1", "%zz", "subject=a;all=true"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.RawQuery = query
		if p, err := parsePage(r); err == nil {
			if p.selection.Subject == "" || p.size < 1 || p.size > maxPageSize {
				t.Errorf("%q: %+v", query, p)
			}
			if !p.before.IsZero() && r.URL.Query().Get("page_token") != p.before.String() {
				t.Errorf("%q: another spelling of the page's token", query)
			}
			link := pageLink(url.Values{"subject": {p.selection.Subject}}, p.size, p.before, "next")
			if strings.ContainsAny(strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`), "<>\"\r\n") {
				t.Errorf("%q: the link %s", query, link)
			}
		}
		if s, err := parseRevocation(r); err == nil {
			one := s.ClientID != "" || !s.ConsentID.IsZero()
			all, _ := flag(r, "all")
			if s.Subject == "" || one == all {
				t.Errorf("%q: %+v", query, s)
			}
		}
	})
}

// FuzzData sees that nothing but what an answer had makes it into a session.
func FuzzData(f *testing.F) {
	for _, text := range []string{`{"consentapi":1,"session":{"id_token":{"email":"a"}},"context":null}`, `{"consentapi":2}`, `{}`, ``, `{"consentapi":1,"session":{"id_token":{"sub":"mallory"}}}`, `{"consentapi":1,"session":{"id_token":[]}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseData(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseData(again)
		if err != nil {
			t.Fatal(err)
		}
		if third, err := json.Marshal(second); err != nil || !bytes.Equal(third, again) {
			t.Errorf("%s became %s, %v", again, third, err)
		}
	})
}
