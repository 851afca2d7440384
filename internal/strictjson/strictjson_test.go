package strictjson_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/fosite-consent/fosite-consent/internal/strictjson"
)

func TestObject(t *testing.T) {
	t.Parallel()
	members, err := strictjson.Object([]byte(` {"a": [1, {"x": null}], "b": "c"} `), "a", "b", "c")
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
		if members, err := strictjson.Object([]byte(body), "a", "b", "c"); err == nil || !strings.Contains(err.Error(), want) || members != nil {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
	if _, err := strictjson.Object([]byte(`{"a":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)+`}`), "a"); err != nil {
		t.Errorf("as deep as may be: %v", err)
	}
}

// What is taken is read by encoding/json as the same, and by one that looks at exact names only.
func FuzzObject(f *testing.F) {
	for _, body := range []string{`{}`, `{"a":1}`, `{"a":1,"A":2}`, `{"a":[{"b":{}}],"b":"\u0061"}`, `{"a":1}x`, `null`, "{\"a\":\"\xff\"}"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		members, err := strictjson.Object(body, "a", "b")
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
