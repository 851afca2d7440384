// Package strictjson reads the JSON of an answer that decides something.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays are nested.
const maxDepth = 32

// Object reads a body that is one JSON object with none but the known members, by their exact names. encoding/json would take the last of two
// members of one name, and compare names without regard to case: two readers of one body could see two answers. The error is for
// whoever sent it.
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
