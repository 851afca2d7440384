package fositeconsent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTokenRoundTrip(t *testing.T) {
	t.Parallel()
	token := newToken(newID(time.Now()))
	text := token.Reveal()
	if len(text) != tokenLength || !strings.HasPrefix(text, "fcg_") {
		t.Fatalf("Reveal returned %d characters: %.4s…", len(text), text)
	}
	if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Fatal("the token's text is not URL-safe")
	}
	parsed, err := ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Reveal() != text || parsed.ID() != token.ID() || parsed.secretHash() != token.secretHash() {
		t.Fatal("the parsed token is another one")
	}
}

func TestTokensAreRandom(t *testing.T) {
	t.Parallel()
	const n = 1000
	seen := map[[secretSize]byte]bool{}
	var ones [secretSize * 8]int
	for range n {
		token := newToken(ID{1})
		secret := token.secret.reveal()
		seen[secret] = true
		for bit := range ones {
			ones[bit] += int(secret[bit/8] >> (bit % 8) & 1)
		}
	}
	if len(seen) != n {
		t.Fatalf("%d different secrets among %d", len(seen), n)
	}
	for bit, count := range ones { // ten standard deviations around one half
		if count < n/2-158 || count > n/2+158 {
			t.Fatalf("bit %d of the secret was 1 in %d of %d tokens", bit, count, n)
		}
	}
}

func TestTokenNeverPrintsItself(t *testing.T) {
	t.Parallel()
	token := newToken(newID(time.Now()))
	text, secret := token.Reveal(), token.secret.reveal()
	holder := struct {
		Token   Token
		Pointer *Token
		Any     any
		hidden  Token // fmt asks no method of this one
		pointer *Token
		list    []Token
	}{token, &token, token, token, &token, []Token{token}}

	printed := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%e", "%t", "%20.3v"} {
		printed[verb] = fmt.Sprintf(verb, token)
		printed["pointer "+verb] = fmt.Sprintf(verb, &token)
		printed["struct "+verb] = fmt.Sprintf(verb, holder)
	}
	printed["Sprint"] = fmt.Sprint(token, &token)
	printed["String"] = token.String()
	printed["GoString"] = token.GoString()
	asJSON, err := json.Marshal(map[string]any{"token": token, "pointer": &token, "holder": holder})
	if err != nil {
		t.Fatal(err)
	}
	printed["JSON"] = string(asJSON)
	asKey, err := json.Marshal(map[Token]int{token: 1})
	if err != nil {
		t.Fatal(err)
	}
	printed["JSON key"] = string(asKey)
	var logged bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&logged, nil), slog.NewTextHandler(&logged, nil)} {
		slog.New(h).Info("m", "token", token, "pointer", &token, "holder", holder)
	}
	printed["slog"] = logged.String()
	printed["error"] = fmt.Errorf("with %v and %x", token, token).Error()

	forms := []string{
		text, text[len(text)-20:], fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret[:8]),
		fmt.Sprint(secret[:6])[1:], fmt.Sprintf("%#v", secret[:4])[7:], string(secret[:]),
	}
	for how, output := range printed {
		if !strings.Contains(output, "redacted") {
			t.Errorf("%s printed no placeholder: %s", how, output)
		}
		for _, form := range forms {
			if strings.Contains(output, strings.Trim(form, "[]{}")) {
				t.Errorf("%s printed the secret", how)
			}
		}
	}
}

func TestParseTokenRefusesEverythingElse(t *testing.T) {
	t.Parallel()
	text := newToken(newID(time.Now())).Reveal()
	cases := map[string]string{
		"empty":                      "",
		"blank":                      strings.Repeat(" ", tokenLength),
		"the prefix alone":           "fcg_",
		"no prefix":                  text[4:],
		"another prefix":             "fct_" + text[4:],
		"another case of the prefix": "FCG_" + text[4:],
		"one character short":        text[:len(text)-1],
		"one character long":         text + "A",
		"padding":                    text[:len(text)-1] + "=",
		"a space in front":           " " + text[:len(text)-1],
		"a line break at the end":    text[:len(text)-1] + "\n",
		"line breaks inside":         text[:20] + "\r\n\r\n" + text[24:],
		"the standard alphabet":      text[:20] + "+" + text[21:],
		"a NUL":                      text[:20] + "\x00" + text[21:],
		"not ASCII":                  text[:20] + "é" + text[22:],
		"the placeholder":            redacted,
		"zero":                       "fcg_" + strings.Repeat("A", tokenLength-4),
		"a zero id":                  "fcg_" + tokenEncoding.EncodeToString(append(make([]byte, idSize), "a secret of thirty-two bytes, yes"[:secretSize]...)),
		"a zero secret":              "fcg_" + tokenEncoding.EncodeToString(append([]byte{1}, make([]byte, idSize+secretSize-1)...)),
		"a token twice":              text + text,
		"a URL with a token":         "https://as.example/?t=" + text,
	}
	for name, bad := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, err := ParseToken(bad)
			if !errors.Is(err, ErrMalformedToken) || token != (Token{}) {
				t.Fatalf("ParseToken returned %v and %v", token.ID(), err)
			}
			if err.Error() != ErrMalformedToken.Error() {
				t.Fatalf("the error says more than that the token is malformed: %v", err)
			}
		})
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(newToken(newID(time.Now())).Reveal())
	f.Add("")
	f.Add("fcg_")
	f.Add("fcg_" + strings.Repeat("A", tokenLength-4))
	f.Add("fcg_" + strings.Repeat("-", tokenLength-4))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			if token != (Token{}) || !errors.Is(err, ErrMalformedToken) {
				t.Fatalf("a failure came with a token or with another error: %v", err)
			}
			return
		}
		if token.Reveal() != text {
			t.Fatal("two spellings of one token were accepted")
		}
	})
}

func TestZeroTokenIsNone(t *testing.T) {
	t.Parallel()
	if (Token{}).valid() || (Token{}).Reveal() != "" || (Token{id: ID{1}}).valid() {
		t.Fatal("a token that nobody minted counts as one")
	}
}

func TestIDIsATimeOrderedUUID(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(0x0123456789ab)
	id := newID(at)
	if text := id.String(); len(text) != 36 || text[:13] != "01234567-89ab" || text[14] != '7' || !strings.ContainsRune("89ab", rune(text[19])) {
		t.Fatalf("%s is no UUID of version 7 of %v", text, at)
	}
	for _, d := range []time.Duration{time.Millisecond, 250 * time.Nanosecond, 999_750 * time.Nanosecond} {
		if later := newID(at.Add(d)); later.String() <= id.String() {
			t.Errorf("%v is not after %v, %v earlier", later, id, d)
		}
	}
	if later := newID(at.Add(time.Millisecond)); later.String() <= id.String() {
		t.Fatalf("%s of a later millisecond does not come after %s", later, id)
	}
	if first, second := newID(at), newID(at); first == second {
		t.Fatal("two ids of one millisecond are equal")
	}
	text, err := json.Marshal(id)
	if err != nil || string(text) != `"`+id.String()+`"` {
		t.Fatalf("in JSON: %s, %v", text, err)
	}
}

func TestAnIDHasOneSpelling(t *testing.T) {
	id := newID(time.Now())
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("%v: %v, %v", id, got, err)
	}
	text := id.String()
	for _, other := range []string{
		"", "-", "null", strings.ToUpper(text), strings.ReplaceAll(text, "-", ""), text + " ", " " + text, text + "00", text[:35],
		"{" + text + "}", strings.Replace(text, "-", "_", 1), text[:8] + "--" + text[9:13] + text[14:], text[:35] + "g",
	} {
		if got, err := ParseID(other); err == nil || !got.IsZero() {
			t.Errorf("%q: %v, %v", other, got, err)
		}
	}
}
