package fositestore

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/token/jwt"
)

type claims map[string]any

type embedded struct {
	Promoted any
	list
	table
}

// list and table are not exported, and so not decoded into.
type (
	list  []any
	table map[string]any
)

// exact decodes itself, to whatever it likes.
type exact struct{ Any any }

func (e *exact) UnmarshalJSON(text []byte) error {
	e.Any = json.Number(text)
	return nil
}

// everything is a session with numbers in every kind of place.
type everything struct {
	embedded
	Any      any
	Map      claims
	Lists    [][]any
	Structs  []struct{ Any any }
	ByName   map[string]struct{ Any any }
	Pointers map[string]*embedded
	Array    [2]any
	Arrays   map[string][1]any
	Named    fmt.Stringer
	Number   json.Number
	Float    float64
	Exact    exact
	Exacts   map[string]exact
	At       time.Time
	None     any
	Hidden   any `json:"-"`
	filled   any
	back     *everything
}

func TestNumbersInSessions(t *testing.T) {
	t.Parallel()
	const whole = int64(1)<<53 + 1
	text := `{"Promoted":9007199254740993,"Any":{"a":[9007199254740993,0.5,1.7e9,"9","0x1",null,true,{"b":-1}]},"Map":{"c":9007199254740993,"d":null},
		"Lists":[[9007199254740993],null],"Structs":[{"Any":9007199254740993}],"ByName":{"e":{"Any":9007199254740993}},"Pointers":{"f":{"Promoted":9007199254740993}},
		"Array":[9007199254740993,2],"Arrays":{"h":[9007199254740993]},"Number":9007199254740993,"Float":9007199254740993,"Exact":9007199254740993,"Exacts":{"g":9007199254740993},"At":"2026-02-03T04:05:06Z","None":null}`
	hidden := json.Number("1")
	got := &everything{Hidden: hidden, filled: hidden, Named: hidden, embedded: embedded{list: list{hidden}, table: table{"a": hidden}}}
	got.back = got
	if err := unmarshalSession([]byte(text), got); err != nil {
		t.Fatal(err)
	}
	want := &everything{
		embedded: embedded{Promoted: whole, list: list{hidden}, table: table{"a": hidden}},
		Any:      map[string]any{"a": []any{whole, 0.5, 1.7e9, "9", "0x1", nil, true, map[string]any{"b": int64(-1)}}},
		Map:      claims{"c": whole, "d": nil},
		Lists:    [][]any{{whole}, nil},
		Structs:  []struct{ Any any }{{whole}},
		ByName:   map[string]struct{ Any any }{"e": {whole}},
		Pointers: map[string]*embedded{"f": {Promoted: whole}},
		Array:    [2]any{whole, int64(2)},
		Arrays:   map[string][1]any{"h": {whole}},
		Number:   "9007199254740993", Float: 9007199254740992, Exact: exact{json.Number("9007199254740993")}, Exacts: map[string]exact{"g": {json.Number("9007199254740993")}},
		At: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), Hidden: hidden, filled: hidden, Named: hidden,
	}
	want.back = want
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%#v, want\n%#v", got, want)
	}

	session := openid.NewDefaultSession()
	session.Claims = &jwt.IDTokenClaims{}
	if err := unmarshalSession([]byte(`{"id_token_claims":{"ext":{"account":9007199254740993}},"headers":{"extra":{"n":1}}}`), session); err != nil {
		t.Fatal(err)
	}
	if session.Claims.Extra["account"] != whole || session.Headers.Extra["n"] != int64(1) {
		t.Errorf("fosite's session has %v and %v", session.Claims.Extra, session.Headers.Extra)
	}

	itself := &exact{}
	if err := unmarshalSession([]byte(`1`), itself); err != nil || itself.Any != json.Number("1") {
		t.Errorf("%#v, %v", itself, err)
	}

	var held any = &embedded{} // decoded into, where it is
	holding := &struct{ Held any }{held}
	if err := unmarshalSession([]byte(`{"Held":{"Promoted":9007199254740993}}`), holding); err != nil || holding.Held != held || held.(*embedded).Promoted != whole {
		t.Errorf("%#v, %v", held, err)
	}
}

type loop struct {
	Next *loop `json:",omitempty"`
	Any  any
}

// Two of them, and neither's method is that of whoever embeds both: encoding/json goes by their fields.
type (
	exact2    struct{ Other any }
	ambiguous struct {
		exact
		*exact2
		Own any
	}
)

func (e *exact2) UnmarshalJSON([]byte) error { return nil }

func TestNumbersInFieldsOfAmbiguousMethods(t *testing.T) {
	t.Parallel()
	got := &ambiguous{exact2: &exact2{}}
	if err := unmarshalSession([]byte(`{"Any":1,"Other":2,"Own":3}`), got); err != nil || got.Any != int64(1) || got.Other != int64(2) || got.Own != int64(3) {
		t.Errorf("%+v, %+v, %v", got, got.exact2, err)
	}
}

// What sessions have in common, and no document has, is read at most.
func TestSessionsMayHavePartsInCommon(t *testing.T) {
	t.Parallel()
	type session struct {
		Subject string
		Any     any
		Map     map[string]any             `json:",omitempty"`
		Lists   map[string][]string        `json:",omitempty"`
		Structs map[string]struct{ A any } `json:",omitempty"`
		Loop    *loop                      `json:",omitempty"`
		Held    any                        `json:",omitempty"`
		List    []any                      `json:",omitempty"`
	}
	shared := session{
		Map: map[string]any{"a": 1.5, "b": []any{"c"}}, Lists: map[string][]string{"a": {"b"}}, Structs: map[string]struct{ A any }{"a": {1}},
		Loop: &loop{Any: "x"}, Held: map[string]any{"a": "b"}, List: make([]any, 2),
	}
	shared.Loop.Next = shared.Loop // and back to itself, in every way
	shared.Map["map"], shared.List[1] = shared.Map, shared.List
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 50 {
				got := shared
				if err := unmarshalSession([]byte(`{"Subject":"alice","Any":{"n":1}}`), &got); err != nil || got.Subject != "alice" || got.Any.(map[string]any)["n"] != int64(1) {
					t.Errorf("%+v, %v", got.Any, err)
				}
			}
		})
	}
	running.Wait()
}

func TestNumbersInSessionsThatAreNone(t *testing.T) {
	t.Parallel()
	for text, session := range map[string]any{
		`{"Any":1e999}`:      &loop{},
		`{"Any":[1e999]}`:    &loop{},
		`{"Any":{"a":1e9}`:   &loop{},
		`{"Any":1,"Next":3}`: &loop{},
	} {
		if err := unmarshalSession([]byte(text), session); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

// loose has values that are compared as they are written.
type loose struct {
	Any      any
	Map      claims
	Lists    [][]any
	Structs  []struct{ Any any }
	ByName   map[string]struct{ Any any }
	Pointers map[string]*loop
}

// FuzzNumbersInSessions holds what is read against encoding/json: the same, but for the numbers.
func FuzzNumbersInSessions(f *testing.F) {
	for _, text := range []string{`{}`, `{"Any":1}`, `{"Map":{"a":[1.5,{"b":2}]}}`, `{"Lists":[[null]],"Pointers":{"p":null}}`, `{"Any":1e999}`, `null`, `{"Structs":[{"Any":-0}]}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got, want loose
		plain := json.Unmarshal(text, &want)
		if err := unmarshalSession(text, &got); plain == nil && err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if plain != nil {
			return
		}
		gotText, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var again loose
		if err := json.Unmarshal(gotText, &again); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%s: got %s", text, gotText)
		}
	})
}
