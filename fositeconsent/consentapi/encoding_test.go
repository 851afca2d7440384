package consentapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

func decodeJSON(t testing.TB, part string) (claims map[string]any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// swapID returns the verifier's secret under the name of another handle.
func swapID(verifier, other string) string {
	decode := func(text string) []byte {
		raw, err := base64.RawURLEncoding.DecodeString(text[strings.Index(text, "_")+1:])
		if err != nil {
			panic(err)
		}
		return raw
	}
	return "fcv_" + base64.RawURLEncoding.EncodeToString(append(decode(other)[:16:16], decode(verifier)[16:]...))
}
