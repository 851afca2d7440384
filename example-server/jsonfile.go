package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"
)

// maxFileSize bounds what is read from a configuration file.
const maxFileSize = 16 << 20

// jsonFile reads a configuration file strictly: encoding/json alone would pass
// over repeated names, names in another case and null, and says of unknown names not where.
type jsonFile struct {
	name string
	text []byte
	dec  *json.Decoder
}

func openJSON(path string) (*jsonFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileSize {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxFileSize)
	}
	return newJSON(filepath.Base(path), text)
}

func newJSON(name string, text []byte) (*jsonFile, error) {
	f := &jsonFile{name: name, text: text, dec: json.NewDecoder(bytes.NewReader(text))}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return nil, f.errorAt(int64(i), "not valid UTF-8")
		}
		i += size
	}
	// Of the whole text at once, since only then an offset is the file's. After this
	// no token can be malformed.
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, f.errorAt(max(syntax.Offset-1, 0), "not valid JSON: %s", syntax)
		}
		return nil, f.errorAt(0, "not valid JSON: %s", err)
	}
	return f, nil
}

// errorAt returns an error with the file's name, the line and the column.
func (f *jsonFile) errorAt(offset int64, format string, args ...any) error {
	before := f.text[:min(offset, int64(len(f.text)))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("%s:%d:%d: %w", f.name, line, column, fmt.Errorf(format, args...))
}

// next returns where the next token begins.
func (f *jsonFile) next() int64 {
	offset := f.dec.InputOffset()
	for offset < int64(len(f.text)) && bytes.IndexByte([]byte(" \t\r\n:,"), f.text[offset]) >= 0 {
		offset++
	}
	return offset
}

// open reads the opening bracket of an array or an object.
func (f *jsonFile) open(delim json.Delim, what string) error {
	at := f.next()
	if token, err := f.dec.Token(); err != nil || token != delim {
		return f.errorAt(at, "expected %s", what)
	}
	return nil
}

// array calls element for each element of an array, with where it begins.
func (f *jsonFile) array(what string, element func(at int64) error) error {
	if err := f.open('[', what); err != nil {
		return err
	}
	for f.dec.More() {
		if err := element(f.next()); err != nil {
			return err
		}
	}
	_, err := f.dec.Token()
	return err
}

// object calls member for each member of an object, after its name was read.
func (f *jsonFile) object(what string, member func(name string, at int64) error) error {
	if err := f.open('{', what); err != nil {
		return err
	}
	seen := map[string]bool{}
	for f.dec.More() {
		at := f.next()
		token, err := f.dec.Token()
		if err != nil {
			return f.errorAt(at, "%s", err)
		}
		name, _ := token.(string)
		if seen[name] {
			return f.errorAt(at, "%q is there twice", name)
		}
		seen[name] = true
		if err := member(name, at); err != nil {
			return err
		}
	}
	_, err := f.dec.Token()
	return err
}

// value reads a value into target, which says what is expected.
func (f *jsonFile) value(name string, target any) error {
	at := f.next()
	var raw json.RawMessage
	if err := f.dec.Decode(&raw); err != nil {
		return f.errorAt(at, "%q: %s", name, err)
	}
	expected := "another type"
	switch target.(type) {
	case *string:
		expected = "a string"
	case *[]string:
		expected = "an array of strings"
	case *bool:
		expected = "true or false"
	}
	err := json.Unmarshal(raw, target)
	if list, ok := target.(*[]string); ok && err == nil {
		var elements []*string // null among the elements would become ""
		if err = json.Unmarshal(raw, &elements); err == nil && len(elements) == len(*list) {
			for _, e := range elements {
				if e == nil {
					err = errors.New("null")
				}
			}
		}
	}
	var wrongType *json.UnmarshalTypeError
	switch {
	case bytes.Equal(raw, []byte("null")), errors.As(err, &wrongType), err != nil && expected != "another type":
		return f.errorAt(at, "%q: expected %s", name, expected)
	case err != nil:
		return f.errorAt(at, "%q: %s", name, err)
	}
	return nil
}
