// Package flawtest checks test suites: it runs them on implementations that break the
// contract, in a process of its own, where a test that fails is what is asked for.
package flawtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
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
	var missed []string
	for flaw, test := range caughtBy {
		if results.of(flaw, test) == "PASS" {
			missed = append(missed, regexp.QuoteMeta(Name(flaw)))
		}
	}
	if len(missed) > 0 {
		again, _ := run(t, "/^("+strings.Join(missed, "|")+")$")
		maps.Copy(results, again)
	}
	if testing.Verbose() {
		for flaw, test := range caughtBy {
			t.Logf("%q is for %q to catch: %s", flaw, test, results.of(flaw, test))
		}
	}
	problems := results.problems(caughtBy, odd)
	if len(problems) > 0 {
		t.Logf("%s", out)
	}
	for _, problem := range problems { // at the end, where they are seen
		t.Error(problem)
	}
}

// of returns how a test ended on a flaw, "" if it was not run.
func (r Results) of(flaw, test string) string { return r[Name(flaw)+"/"+Name(test)] }

// problems says what is not as [Want] wants it.
func (r Results) problems(caughtBy map[string]string, odd []string) (problems []string) {
	for flaw, test := range caughtBy {
		switch r.of(flaw, test) {
		case "FAIL":
		case "PASS":
			problems = append(problems, fmt.Sprintf("%q was not caught by %q", flaw, test))
		default:
			problems = append(problems, fmt.Sprintf("%q was not tested by %q", flaw, test))
		}
	}
	for _, name := range odd {
		switch r[Name(name)] {
		case "PASS":
		case "FAIL":
			problems = append(problems, fmt.Sprintf("%q keeps the contract and was refused", name))
		default:
			problems = append(problems, fmt.Sprintf("%q was not tested", name))
		}
	}
	return problems
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
