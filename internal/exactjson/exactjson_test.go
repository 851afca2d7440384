package exactjson_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fosite-consent/fosite-consent/internal/exactjson"
)

func TestObject(t *testing.T) {
	t.Parallel()
	members, err := exactjson.Object([]byte(` {"a": [1, {"x": null}], "b": "c"} `), "a", "b", "c")
	if err != nil || len(members) != 2 || string(members["a"]) != `[1, {"x": null}]` || string(members["b"]) != `"c"` {
		t.Errorf("%s, %v", members, err)
	}
	for body, want := range map[string]string{
		``: "not well-formed", `{`: "not well-formed", `{"a"}`: "not well-formed", `{"a":1,}`: "not well-formed", `{"a":[1}`: "not well-formed",
		`null`: "not a JSON object", `[]`: "not a JSON object", `"a"`: "not a JSON object", `1`: "not a JSON object",
		`{} {}`: "something after", `{}x`: "something after",
		`{"d":1}`: "unknown member \"d\"", `{"A":1}`: "unknown member \"A\"", `{"":1}`: "unknown member \"\"",
		`{"a":1,"a":1}`: "\"a\" twice", `{"a":1,"\u0061":1}`: "\"a\" twice", `{"a":{"x":1,"x":2}}`: "\"x\" twice", `{"a":[{"x":1,"x":2}]}`: "\"x\" twice",
		"{\"a\":\"\xff\"}": "not valid UTF-8",
		`{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`: "more than 32 deep",
	} {
		if members, err := exactjson.Object([]byte(body), "a", "b", "c"); err == nil || !strings.Contains(err.Error(), want) || members != nil {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
	if _, err := exactjson.Object([]byte(`{"a":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)+`}`), "a"); err != nil {
		t.Errorf("as deep as may be: %v", err)
	}
}

// What is taken is read by encoding/json as the same, and by one that looks at exact names only.
func FuzzObject(f *testing.F) {
	for _, body := range []string{`{}`, `{"a":1}`, `{"a":1,"A":2}`, `{"a":[{"b":{}}],"b":"\u0061"}`, `{"a":1}x`, `null`, "{\"a\":\"\xff\"}"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		members, err := exactjson.Object(body, "a", "b")
		if err != nil {
			return
		}
		var plain struct{ A, B json.RawMessage }
		if err := json.Unmarshal(body, &plain); err != nil {
			t.Fatalf("%q is taken and no JSON: %v", body, err)
		}
		if string(plain.A) != string(members["a"]) || string(plain.B) != string(members["b"]) || len(slices.Collect(maps.Keys(members))) > 2 {
			t.Errorf("%q is read as %s, and as %s", body, members, plain)
		}
	})
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	read := func(text string) any {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for text, want := range map[string]any{
		`9007199254740993`: int64(1)<<53 + 1, `-9223372036854775808`: int64(-1) << 63, `9223372036854775808`: uint64(1) << 63, `-0`: int64(0),
		`18446744073709551616`: float64(1 << 64), `1.0`: 1.0, `1e3`: 1e3, `"9"`: "9", `null`: nil, `true`: true,
		`[1,[2.5],{"a":3}]`: []any{int64(1), []any{2.5}, map[string]any{"a": int64(3)}},
	} {
		if got, err := exactjson.Numbers(read(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %T(%v), %v, want %T(%v)", text, got, got, err, want, want)
		}
	}
	for _, text := range []string{`1e999`, `[-1e999]`, `{"a":[1e999]}`} {
		if got, err := exactjson.Numbers(read(text)); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}
