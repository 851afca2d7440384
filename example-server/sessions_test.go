package main

import (
	"maps"
	"testing"
	"time"
)

func TestSessionsAreStoredAsTheyWere(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	values := map[string]any{"name": "東京 \x7f", "empty": ""}
	text, err := jsonCodec{}.Encode(at, values)
	if err != nil {
		t.Fatal(err)
	}
	deadline, got, err := jsonCodec{}.Decode(text)
	if err != nil || !deadline.Equal(at) || !maps.Equal(got, values) {
		t.Errorf("%v, %v, %v", deadline, got, err)
	}
	if _, err := (jsonCodec{}).Encode(at, map[string]any{"number": 1}); err == nil {
		t.Error("a number is stored, which would come back as nothing")
	}
	for _, text := range []string{"", "{", `{"deadline":1}`, `{"values":{"a":1}}`} {
		if _, _, err := (jsonCodec{}).Decode([]byte(text)); err == nil {
			t.Errorf("%q is a session", text)
		}
	}
}
