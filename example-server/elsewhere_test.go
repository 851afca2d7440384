package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/fosite-consent/fosite-consent/example-server/loginapi"
)

func TestAnInternalAPIThatAnybodyReachesIsWarnedOf(t *testing.T) {
	let := func(*http.Request) error { return nil }
	for name, test := range map[string]struct {
		address      string
		authenticate func(*http.Request) error
		want         string
	}{
		"on all addresses, without a token": {"[::]:9097", nil, "lets everybody in"},
		"on a private one, without a token": {"10.0.0.7:9097", nil, "lets everybody in"},
		"on all addresses, with a token":    {"0.0.0.0:9097", let, "no TLS"},
		"on a loopback address":             {"127.0.0.1:9097", nil, ""},
		"on IPv6's loopback address":        {"[::1]:9097", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := &server{log: slog.New(slog.NewTextHandler(&log, nil))}
			s.warnIfPublic(test.address, test.authenticate)
			if got := log.String(); strings.Contains(got, "level=WARN") != (test.want != "") || !strings.Contains(got, test.want) {
				t.Errorf("the log has %q", got)
			}
		})
	}
}

func TestAConfirmedLoginIsForItsRequestAndForAWhile(t *testing.T) {
	s := &server{sessions: scs.New(), logins: new(loginapi.API)}
	ctx, err := s.sessions.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, pathAuthorize, nil).WithContext(withLogin(ctx, &login{username: "of the browser"}))
	confirm := func(query string, until time.Duration) {
		s.setConfirmedLogins(ctx, append(s.confirmedLogins(ctx), confirmedLogin{Request: requestKey(query), Until: time.Now().Add(until).UnixMicro(), Username: "of " + query}))
	}
	check := func(query string, form url.Values, want string) {
		t.Helper()
		got := ""
		if l := loginFrom(s.withLoginFor(r, form, query).Context()); l != nil {
			got = l.username
		}
		if got != want {
			t.Errorf("%s with %v goes on with the login %q, want %q", query, form, got, want)
		}
	}
	none := url.Values{"prompt": {"none"}}
	confirm("a", time.Minute)
	check("a", nil, "of a")
	check("b", nil, "") // not even the browser's: that is to be confirmed
	check("b", none, "of the browser")
	confirm("late", -time.Microsecond)
	check("late", nil, "")
	s.forgetConfirmed(ctx, "b")
	check("a", nil, "of a")
	s.forgetConfirmed(ctx, "a")
	check("a", nil, "")
	for i := range maxConfirmed + 1 {
		confirm(strconv.Itoa(i), time.Minute)
	}
	check("0", nil, "")
	check("1", nil, "of 1")
	check(strconv.Itoa(maxConfirmed), nil, "of "+strconv.Itoa(maxConfirmed))
	s.sessions.Put(ctx, sessionConfirmed, "[")
	check("1", nil, "")
}
