package storagetest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/fositeconsent/internal/flawtest"
)

// memoryFails is every test that fosite's in-memory storage fails. The package's
// documentation has the same list, with reasons.
var memoryFails = []string{
	"a stored request is independent of the object that it was stored from",
	"a returned request is the caller's to modify",
	"the session that is passed with a code is filled with what is stored",
	"an invalidated code cannot be invalidated again",
	"of many redemptions of one code one wins and only its tokens are stored",
	"a replay that races with the redemption leaves no live token",
	"PKCE data outlive a failed verifier",
	"a revocation ends every access token of a request",
	"a revocation ends every refresh token of a request",
	"a rotated refresh token cannot be rotated again",
	"a revoked refresh token cannot be rotated",
	"a rotation for another request is refused and changes nothing",
	"a rotation of an unknown refresh token is refused and changes nothing",
	"of many rotations of one refresh token one wins and only its tokens are stored",
	"a revocation that races with a rotation leaves no live token",
	"a pushed request stays readable although it is deleted",
	"a pushed request that has expired is refused",
	"a pushed request is kept without the credentials of its client",
	"a write whose context has ended is an error and changes nothing",
	"a read whose context has ended is no answer",
}

// TestMemoryStore runs the suite on fosite's in-memory storage, in a process of its
// own, and expects just the tests to fail that memoryFails lists.
func TestMemoryStore(t *testing.T) {
	if flawtest.Inside() {
		Run(t, Config{
			New: func(testing.TB, Options) Storage { return storage.NewMemoryStore() },
			AddClient: func(_ testing.TB, s Storage, client fosite.Client) {
				s.(*storage.MemoryStore).Clients[client.GetID()] = client
			},
			Without: []Part{Nonces, Transactions, Clock, Outage},
		})
		return
	}
	t.Parallel()
	results, out := flawtest.Run(t)
	for _, c := range suite {
		want := "PASS"
		switch {
		case slices.ContainsFunc(c.needs, func(p Part) bool { return p == Nonces || p == Transactions || p == Clock || p == Outage }):
			want = ""
		case slices.Contains(memoryFails, c.name):
			want = "FAIL"
		}
		if got := results["Storage/"+flawtest.Name(c.name)]; got != want {
			t.Errorf("%q: got %q, want %q", c.name, got, want)
		}
	}
	for _, name := range memoryFails {
		if !slices.ContainsFunc(suite, func(c test) bool { return c.name == name }) {
			t.Errorf("%q is no test of the suite", name)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// TestDocumentationNamesWhatMemoryStoreFails compares the list with the one in the
// package's documentation.
func TestDocumentationNamesWhatMemoryStoreFails(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^//   - (.+): `).FindAllStringSubmatch(strings.ReplaceAll(string(text), "\n//     ", " "), -1) {
		documented = append(documented, m[1])
	}
	if !slices.Equal(documented, memoryFails) {
		t.Errorf("the documentation names\n%s\nwant\n%s", strings.Join(documented, "\n"), strings.Join(memoryFails, "\n"))
	}
}
