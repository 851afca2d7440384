package main

import (
	"context"
	"runtime"

	"golang.org/x/crypto/bcrypt"
)

// users checks passwords. A user name is the subject of the user's tokens (sub),
// so a name must never pass to another person.
type users struct {
	hashes map[string][]byte
	absent []byte        // compared with for a name that is not there, so that both take equally long
	slots  chan struct{} // bcrypt is slow on purpose: it must not take all processors
}

// maxBcryptCost is where checking a password takes several seconds.
const maxBcryptCost = 16

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
		if err != nil || len(hash) != 60 {
			return f.errorAt(hashAt, "user %q: expected a bcrypt hash, 60 characters that begin with $2", name) // never the text: it may be a password
		}
		if cost > maxBcryptCost {
			return f.errorAt(hashAt, "user %q: the hash has cost %d: use at most %d", name, cost, maxBcryptCost)
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

// has reports whether there is such a user.
func (u *users) has(name string) bool { _, ok := u.hashes[name]; return ok }

// authenticate reports whether the password is the user's. It takes equally long
// for users that there are and that there are not. It does not limit how often
// somebody may try: a server on the Internet needs that too, in front or here. An
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
