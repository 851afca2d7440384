package flawtest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// first is where the process of the first run leaves a note for that of the second one.
const first = "FLAWTEST_FIRST"

func TestRunTellsWhatFailed(t *testing.T) {
	if Inside() {
		t.Run("one that fails", func(t *testing.T) { t.Run("in a part", func(t *testing.T) { t.Error("as it has to") }) })
		t.Run("one that passes", func(*testing.T) {})
		return
	}
	want := Results{"one_that_fails": "FAIL", "one_that_fails/in_a_part": "FAIL", "one_that_passes": "PASS"}
	if got, out := Run(t); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v\n%s", got, want, out)
	}
}

// A flaw that shows in the second run only is caught; the flaws that show in the first one are not run again.
func TestWantRunsOnceMoreWhatWasNotCaught(t *testing.T) {
	if Inside() {
		again := os.Mkdir(os.Getenv(first), 0o700) != nil
		t.Run("always", func(t *testing.T) {
			t.Run("test", func(t *testing.T) {
				if !again {
					t.Error("caught")
				}
			})
		})
		t.Run("now and then", func(t *testing.T) {
			t.Run("test", func(t *testing.T) {
				if again {
					t.Error("caught")
				}
			})
		})
		t.Run("odd", func(*testing.T) {})
		return
	}
	t.Setenv(first, filepath.Join(t.TempDir(), "was"))
	Want(t, map[string]string{"always": "test", "now and then": "test"}, []string{"odd"})
}

func TestWhatIsNotAsWanted(t *testing.T) {
	t.Parallel()
	caughtBy := map[string]string{"a flaw": "a test"}
	odd := []string{"an oddity"}
	for name, c := range map[string]struct {
		results Results
		want    []string
	}{
		"as wanted":            {Results{"a_flaw/a_test": "FAIL", "an_oddity": "PASS"}, nil},
		"not caught":           {Results{"a_flaw/a_test": "PASS", "an_oddity": "PASS"}, []string{`"a flaw" was not caught by "a test"`}},
		"caught by another":    {Results{"a_flaw": "FAIL", "a_flaw/another": "FAIL", "an_oddity": "PASS"}, []string{`"a flaw" was not tested by "a test"`}},
		"an oddity is refused": {Results{"a_flaw/a_test": "FAIL", "an_oddity": "FAIL"}, []string{`"an oddity" keeps the contract and was refused`}},
		"nothing was run":      {nil, []string{`"a flaw" was not tested by "a test"`, `"an oddity" was not tested`}},
	} {
		if got := c.results.problems(caughtBy, odd); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
