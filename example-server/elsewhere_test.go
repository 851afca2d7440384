package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"
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
