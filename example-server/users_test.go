package main

import (
	"context"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func parseUsersText(text string) (map[string][]byte, error) {
	f, err := newJSON("users.json", []byte(text))
	if err != nil {
		return nil, err
	}
	return parseUsers(f)
}

func bcryptHash(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func TestUsersSignInWithTheirPasswordOnly(t *testing.T) {
	long := strings.Repeat("x", maxPassword)
	hashes, err := parseUsersText(`{"alice": "` + bcryptHash(t, "wonderland") + `", "bob": "` + bcryptHash(t, long) + `"}`)
	if err != nil {
		t.Fatal(err)
	}
	u, err := newUsers(hashes)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, password string
		want           bool
	}{
		{"alice", "wonderland", true},
		{"alice", "Wonderland", false},
		{"alice", "", false},
		{"Alice", "wonderland", false},
		{"alice ", "wonderland", false},
		{"", "", false},
		{"carol", "no password has this hash", false},
		{"bob", long, true},
		{"bob", long + "y", false}, // bcrypt itself looks no further
		{"bob", long[1:], false},
	} {
		if got, err := u.authenticate(t.Context(), test.name, test.password); err != nil || got != test.want {
			t.Errorf("%q with %q: %v, %v", test.name, test.password, got, err)
		}
	}
}

func TestSignInWaitsForItsTurnNoLongerThanItsContext(t *testing.T) {
	u, err := newUsers(map[string][]byte{"alice": []byte(bcryptHash(t, "wonderland"))})
	if err != nil {
		t.Fatal(err)
	}
	for range cap(u.slots) {
		u.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, err := u.authenticate(ctx, "alice", "wonderland"); ok || err == nil {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestUsersFileErrorsNameThePlace(t *testing.T) {
	hash := bcryptHash(t, "x")
	for name, test := range map[string]struct{ text, want string }{
		"no users":            {"{}", "nobody could sign in"},
		"a list":              {"[]", "users.json:1:1: expected a JSON object"},
		"a user twice":        {`{"a": "` + hash + `", "a": "` + hash + `"}`, `"a" is there twice`},
		"a password":          {"{\n  \"a\": \"secret\"}", "users.json:2:8: user \"a\": expected a bcrypt hash"},
		"null":                {`{"a": null}`, "expected a string"},
		"a hash that is long": {`{"a": "` + hash + `x"}`, "expected a bcrypt hash"},
		"a hash that costs":   {`{"a": "` + strings.Replace(hash, "$04$", "$31$", 1) + `"}`, "cost 31"},
		"a name with a space": {`{"a b": "` + hash + `"}`, "without a space"},
		"a name that is long": {`{"` + strings.Repeat("a", 256) + `": "` + hash + `"}`, "255"},
		"no name":             {`{"": "` + hash + `"}`, "1 to 255"},
		"not JSON":            {`{"a"}`, "users.json:1:5: not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseUsersText(test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "users.json:") {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("what may be a password is in the error: %v", err)
			}
		})
	}
}

// FuzzUsersFile looks for a panic, and for a user whom nobody could be.
func FuzzUsersFile(f *testing.F) {
	f.Add([]byte(`{"alice": "$2a$04$VATUxDR2GWT/tM3gmHiv2e.sB/nGpXZCWh1hqVKFjMVoBXvppKfd2"}`))
	f.Add([]byte(`{"": "", "a": null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := newJSON("users.json", text)
		if err != nil {
			return
		}
		hashes, err := parseUsers(file)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "users.json:") {
				t.Errorf("the error has no place: %v", err)
			}
			return
		}
		for name, hash := range hashes {
			if cost, err := bcrypt.Cost(hash); !isIdentifier(name) || err != nil || cost > maxBcryptCost {
				t.Errorf("user %q with %q", name, hash)
			}
		}
	})
}
