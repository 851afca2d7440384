// Package exactjson reads JSON without the liberties that encoding/json takes: of two members of one name it takes the
// last, names it compares without regard to case, and large numbers it rounds.
package exactjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays are nested.
const maxDepth = 32

// Object reads a body that is one JSON object with none but the known members, by their exact names and each once, also further inside:
// two readers of one body could see two answers otherwise. The error is for whoever sent it.
func Object(body []byte, known ...string) (map[string]json.RawMessage, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("the body is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the body has something after the JSON object")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return nil, errors.New("the body is not a JSON object")
	}
	for name := range members {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("the body has the unknown member %q", name)
		}
	}
	return members, nil
}

// checkValue reads one value, and refuses a name that is there twice in one object.
func checkValue(dec *json.Decoder, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return errors.New("the body is not well-formed JSON")
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("the body is nested more than %d deep", maxDepth)
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			token, err := dec.Token()
			name, ok := token.(string)
			if err != nil || !ok {
				return errors.New("the body is not well-formed JSON")
			}
			if seen[name] {
				return fmt.Errorf("the body has the member %q twice", name)
			}
			seen[name] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the end
		return errors.New("the body is not well-formed JSON")
	}
	return nil
}

// Numbers returns what a json.Decoder with UseNumber has made of a value of no particular type, with int64 and uint64 for whole
// numbers of 64 bits, and float64 for others: types that the JSON encoders of JWT libraries know, to which a json.Number is a text.
// It changes objects and arrays in place. What no float64 is near is an error.
func Numbers(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, nil
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, errors.New("a number is out of range")
		}
		return f, nil
	case []any:
		for i := range v {
			if v[i], err = Numbers(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for name := range v {
			if v[name], err = Numbers(v[name]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}
