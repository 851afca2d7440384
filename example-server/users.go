package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"runtime"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// users checks passwords. A user name is the subject of the user's tokens (sub),
// so a name must never pass to another person.
type users struct {
	hashes map[string][]byte
	absent []byte        // compared with for a name that is not there, so that both take equally long
	slots  chan struct{} // bcrypt is slow on purpose: it must not take all processors

	fixed map[string]string // credentials that are not derived from the hash
}

// maxBcryptCost is where checking a password takes several seconds.
const maxBcryptCost = 16

const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// maxPassword is as far as bcrypt looks.
const maxPassword = 72

// readUsers reads a JSON object of user name to bcrypt hash.
func readUsers(path string) (*users, error) {
	f, err := openJSON(path)
	if err != nil {
		return nil, err
	}
	hashes, err := parseUsers(f)
	if err != nil {
		return nil, err
	}
	return newUsers(hashes)
}

func parseUsers(f *jsonFile) (map[string][]byte, error) {
	hashes := map[string][]byte{}
	first := 0 // user's cost
	err := f.object("a JSON object of user name to bcrypt hash", func(name string, at int64) error {
		if !isIdentifier(name) {
			return f.errorAt(at, "user name %q: expected 1 to 255 printable ASCII characters without a space", name)
		}
		hashAt := f.next()
		var hash string
		if err := f.value(name, &hash); err != nil {
			return err
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil || len(hash) != 60 || strings.Trim(hash[7:], bcryptAlphabet) != "" {
			return f.errorAt(hashAt, "user %q: expected a bcrypt hash, 60 characters that begin with $2", name) // never the text: it may be a password
		}
		if cost > maxBcryptCost {
			return f.errorAt(hashAt, "user %q: the hash has cost %d: use at most %d", name, cost, maxBcryptCost)
		}
		if first == 0 {
			first = cost
		}
		if cost != first { // the time that it takes would tell who there is
			return f.errorAt(hashAt, "user %q: the hash has cost %d, and the first user's has %d: give all of them the same", name, cost, first)
		}
		hashes[name] = []byte(hash)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(hashes) == 0 {
		return nil, f.errorAt(0, "no users: nobody could sign in")
	}
	return hashes, nil
}

// isIdentifier accepts what can be a client_id (RFC 6749, Appendix A.1) and a sub
// (OpenID Connect Core 1.0, Section 2), without spaces, which hide at either end.
func isIdentifier(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func newUsers(hashes map[string][]byte) (*users, error) {
	cost := bcrypt.MinCost
	for _, hash := range hashes {
		c, err := bcrypt.Cost(hash)
		if err != nil {
			return nil, err
		}
		cost = max(cost, c)
	}
	absent, err := bcrypt.GenerateFromPassword([]byte("no password has this hash"), cost)
	if err != nil {
		return nil, err
	}
	return &users{hashes: hashes, absent: absent, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}, nil
}

// credential names the user's present password without telling anything about it,
// and is "" if there is no such user. A login is good for as long as the password that
// it was made with.
func (u *users) credential(name string) string {
	if fixed, ok := u.fixed[name]; ok {
		return fixed
	}
	hash, ok := u.hashes[name]
	if !ok {
		return ""
	}
	sum := sha256.Sum256(hash)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// authenticate reports whether the password is the user's. It takes equally long
// for users that there are and that there are not. It does not limit how often
// somebody may try: a server on the Internet needs that too, in front or here, also
// because a few tries a second are enough to keep everybody else waiting. An
// error means that the context ended before it was this call's turn.
func (u *users) authenticate(ctx context.Context, name, password string) (bool, error) {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	hash, found := u.hashes[name]
	if !found {
		hash = u.absent
	}
	match := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
	return found && match && len(password) <= maxPassword, nil
}
