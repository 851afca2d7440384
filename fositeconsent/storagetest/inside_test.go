package storagetest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// inside is set in the process in which storages are tested that break the contract:
// a test that fails there is what its parent asks for.
const inside = "STORAGETEST_INSIDE"

// resultsInside runs this test in a process of its own and returns which of its
// sub-tests passed or failed, by their names as package testing writes them, and all
// that was written.
func resultsInside(t *testing.T) (map[string]string, []byte) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	command.Env = append(os.Environ(), inside+"=1")
	out, err := command.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("running the suite on storages that break the contract: %v, want a failure\n%s", err, out)
	}
	for _, trouble := range []string{"DATA RACE", "panic:", "fatal error:", "--- SKIP", "test timed out"} {
		if bytes.Contains(out, []byte(trouble)) {
			t.Fatalf("a storage ended in %q, which is not what the suite is to notice\n%s", trouble, out)
		}
	}
	results := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^ +--- (PASS|FAIL): `+t.Name()+`/(\S+) \(`).FindAllSubmatch(out, -1) {
		results[string(m[2])] = string(m[1])
	}
	return results, out
}

// subtest returns what package testing makes of a name.
func subtest(name string) string { return strings.ReplaceAll(name, " ", "_") }
