package fositeconsent

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// tokenPrefix lets secret scanners find a token that leaked into a repository
// or a log. It stands for "fosite consent grant".
const tokenPrefix = "fcg_"

const (
	idSize     = 16
	secretSize = sha256.Size // 256 random bits; RFC 6749, Section 10.10 asks for 128 and advises 160
)

// tokenLength is the only length a token has: the prefix and 48 bytes in
// base64url, which need no padding.
const tokenLength = len(tokenPrefix) + (idSize+secretSize)/3*4

// tokenEncoding writes 48 bytes as 64 characters without a bit to spare, so that
// one token has one spelling.
var tokenEncoding = base64.RawURLEncoding

// redacted stands wherever a token would otherwise have been printed.
const redacted = tokenPrefix + "[redacted]"

// ErrMalformedToken is returned by [ParseToken], and is the reason of a refusal
// by the gate for a [Token] that no gate has minted, such as the zero one.
// Nothing malformed ever reaches a storage.
var ErrMalformedToken = errors.New("fositeconsent: malformed consent token: expected the text that Token.Reveal returned")

// ID names one prompt and the consent grant that its decision creates. It is a
// UUID of version 7 (RFC 9562, Section 5.7): it starts with the time in
// milliseconds, so that keys made one after the other are neighbours in an index.
// An ID is neither a secret nor a proof; it is what logs and audit trails call
// the grant by.
type ID [idSize]byte

// newID returns a fresh ID. Its order is that of time within a millisecond, too, to a quarter of
// a microsecond: what one process records stays in its order (RFC 9562, Section 6.2, Method 3). That leaves 62 random
// bits. crypto/rand never fails: it ends the program instead.
func newID(now time.Time) ID {
	var id ID
	_, _ = rand.Read(id[8:])
	ms := uint64(now.UnixMilli())
	id[0], id[1], id[2], id[3], id[4], id[5] = byte(ms>>40), byte(ms>>32), byte(ms>>24), byte(ms>>16), byte(ms>>8), byte(ms)
	fraction := uint64(now.Nanosecond()%int(time.Millisecond)) << 12 / uint64(time.Millisecond) // of a millisecond, in 12 bits
	id[6], id[7] = byte(fraction>>8)|0x70, byte(fraction)                                       // version 7
	id[8] = id[8]&0x3f | 0x80                                                                   // variant of RFC 9562
	return id
}

// IsZero reports whether the ID is the zero one, which no prompt ever has.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the 36 characters of the UUID's text form, in lower case.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// MarshalText returns what [ID.String] returns, for JSON and for loggers.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// ParseID reads the text that [ID.String] returned, for instance to list consents from one
// on. Every other text, a different spelling too, is an error.
func ParseID(text string) (ID, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != idSize || ID(raw).String() != text {
		return ID{}, errors.New("fositeconsent: malformed ID: expected the text that ID.String returned")
	}
	return ID(raw), nil
}

// SecretHash is the SHA-256 of a token's secret part: the only trace of a token
// that a [GrantStorage] ever sees. The secret has 256 random bits, so a plain
// hash without salt is enough.
type SecretHash [sha256.Size]byte

// Token is the proof of one decision: the grant's [ID] and its secret. It comes
// from [Gate.Mint] and goes to [WithToken]. A host that consumes in another HTTP
// request than the one that minted keeps what [Token.Reveal] returns on the
// server's side, in the user's session, never in a URL, and reads it back with
// [ParseToken].
//
// Printing a Token, alone or as a part of something else, by fmt, log/slog or
// encoding/json, shows nothing of it. The zero Token is no token. Tokens are values:
// safe to copy and to use concurrently.
type Token struct {
	id     ID
	secret *hidden
}

// hidden keeps the secret where fmt cannot print it: of what stands in an unexported
// field of somebody else's struct it asks no method, but a function it cannot read.
type hidden struct{ reveal func() [secretSize]byte }

func hide(secret [secretSize]byte) *hidden {
	return &hidden{func() [secretSize]byte { return secret }}
}

// newToken returns the token of the grant with this id.
func newToken(id ID) Token {
	var secret [secretSize]byte
	_, _ = rand.Read(secret[:])
	return Token{id: id, secret: hide(secret)}
}

// ParseToken reads the text that [Token.Reveal] returned. Anything else, down to
// a different spelling of the same bytes, is [ErrMalformedToken]; the error never
// holds any part of the text.
func ParseToken(text string) (Token, error) {
	if len(text) != tokenLength || text[:len(tokenPrefix)] != tokenPrefix {
		return Token{}, ErrMalformedToken
	}
	raw := make([]byte, idSize+secretSize)
	// The decoder skips line breaks, which leaves the output short.
	if n, err := tokenEncoding.Decode(raw, []byte(text[len(tokenPrefix):])); err != nil || n != len(raw) {
		return Token{}, ErrMalformedToken
	}
	t := Token{id: ID(raw[:idSize]), secret: hide([secretSize]byte(raw[idSize:]))}
	if !t.valid() {
		return Token{}, ErrMalformedToken
	}
	return t, nil
}

// valid reports whether the token can have been minted at all.
func (t Token) valid() bool {
	return !t.id.IsZero() && t.secret != nil && t.secret.reveal() != [secretSize]byte{}
}

// secretHash returns what a storage keeps of the secret.
func (t Token) secretHash() SecretHash {
	secret := t.secret.reveal()
	return sha256.Sum256(secret[:])
}

// ID returns the name of the grant that the token belongs to. It is no secret.
func (t Token) ID() ID { return t.id }

// Reveal returns the token's text, 68 URL-safe characters, and "" for the zero
// Token. It is the one way to get at the secret.
func (t Token) Reveal() string {
	if !t.valid() {
		return ""
	}
	raw := make([]byte, 0, idSize+secretSize)
	secret := t.secret.reveal()
	raw = append(append(raw, t.id[:]...), secret[:]...)
	return tokenPrefix + tokenEncoding.EncodeToString(raw)
}

// String returns a placeholder.
func (t Token) String() string { return redacted }

// GoString returns a placeholder.
func (t Token) GoString() string { return redacted }

// Format writes a placeholder for every verb, also for those, such as %x and %d,
// that would not ask [Token.String].
func (t Token) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns a placeholder.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a placeholder.
func (t Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns a placeholder.
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
