// Package flawtest checks test suites: it runs them on implementations that break the
// contract, in a process of its own, where a test that fails is what is asked for.
package flawtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const inside = "FLAWTEST_INSIDE"

// Inside tells whether this is the process in which tests are to fail.
func Inside() bool { return os.Getenv(inside) != "" }

// Results are how the sub-tests of a test ended, "PASS" or "FAIL", by their names below
// it as [Name] writes them, joined by slashes.
type Results map[string]string

// Run runs the calling test once more, inside, and returns its results and all that
// was written.
func Run(t *testing.T) (Results, []byte) {
	t.Helper()
	return run(t, "")
}

// Want runs the calling test inside, where it has a sub-test for each flaw, which has
// one for each test that is run on it. Each flaw has to be caught by the test that it is
// mapped to, and what is odd, and no flaw, by none.
//
// Of a race, no run is sure to be the one that shows the flaw: what was not caught is
// run once more. What keeps the contract has to pass at once.
func Want(t *testing.T, caughtBy map[string]string, odd []string) {
	t.Helper()
	results, out := run(t, "")
	result := func(flaw string) string { return results[Name(flaw)+"/"+Name(caughtBy[flaw])] }
	var missed []string
	for flaw := range caughtBy {
		if result(flaw) == "PASS" {
			missed = append(missed, regexp.QuoteMeta(Name(flaw)))
		}
	}
	if len(missed) > 0 {
		again, _ := run(t, "/^("+strings.Join(missed, "|")+")$")
		for name, result := range again {
			results[name] = result
		}
	}
	for flaw, test := range caughtBy {
		switch result(flaw) {
		case "FAIL":
			if testing.Verbose() {
				t.Logf("%q was caught by %q", flaw, test)
			}
		case "PASS":
			t.Errorf("%q was not caught by %q, twice", flaw, test)
		default:
			t.Errorf("%q was not tested by %q\n%s", flaw, test, out)
		}
	}
	for _, name := range odd {
		switch results[Name(name)] {
		case "PASS":
		case "FAIL":
			t.Errorf("%q keeps the contract and was refused\n%s", name, out)
		default:
			t.Errorf("%q was not tested\n%s", name, out)
		}
	}
}

func run(t *testing.T, selected string) (Results, []byte) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$"+selected, "-test.v", "-test.timeout=5m")
	command.Env = append(os.Environ(), inside+"=1")
	out, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("running tests that are to fail: %v\n%s", err, out)
	}
	for _, trouble := range []string{"DATA RACE", "panic:", "fatal error:", "--- SKIP", "test timed out"} {
		if bytes.Contains(out, []byte(trouble)) {
			t.Fatalf("a flaw ended in %q, which is not what the suite is to notice\n%s", trouble, out)
		}
	}
	results := make(Results)
	for _, m := range regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): `+t.Name()+`/(\S+) \(`).FindAllSubmatch(out, -1) {
		results[string(m[2])] = string(m[1])
	}
	return results, out
}

// Name returns what package testing makes of the name of a sub-test.
func Name(name string) string { return strings.ReplaceAll(name, " ", "_") }
