package fositeconsent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxRequestObject bounds a request object, in bytes, before anything decodes it:
// fosite decodes the claims before it has verified them, and as deep as they are nested.
const maxRequestObject = 64 << 10

// jwtClaims say something of the request object itself and of no authorization request
// (RFC 7519, Section 4.1), so that they are no parameters of the effective one. Nothing
// that is issued depends on them.
var jwtClaims = []string{"aud", "exp", "iat", "iss", "jti", "nbf", "sub"}

// readByFosite are the parameters that fosite itself reads when it parses a request,
// as the text that it made of the claim: right if the claim is a string, and nonsense if not.
var readByFosite = []string{
	"audience", "client_id", "redirect_uri", "registration", "response_mode", "response_type", "scope", "state",
}

// objectParameters returns the parameters that are in a request object (RFC 9101,
// Section 4) as what they say there: fosite makes "%!s(float64=60)" of a number and the
// text of a Go map of a JSON object. It verifies nothing, and is for objects that fosite
// has verified. With an error it returns those that are clear all the same.
func objectParameters(object string) (url.Values, error) {
	payload, err := objectPayload(object)
	if err != nil {
		return url.Values{}, err
	}
	return claimParameters(payload)
}

// objectPayload returns the payload of a JWS in compact serialization. It takes only the
// one spelling that base64url has for it, so that there is no second reading of what was verified.
func objectPayload(object string) ([]byte, error) {
	parts := strings.Split(object, ".")
	if len(parts) != 3 {
		return nil, errors.New("it is no JWS in compact serialization")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || base64.RawURLEncoding.EncodeToString(payload) != parts[1] {
		return nil, errors.New("its payload is no base64url")
	}
	return payload, nil
}

// claimParameters is objectParameters for the payload.
func claimParameters(payload []byte) (url.Values, error) {
	params := url.Values{}
	claims, err := parseClaims(payload)
	if err != nil {
		return params, err
	}
	for _, c := range claims {
		values, problem := c.values()
		if problem != nil {
			// Which is the first depends on the object alone.
			if err == nil {
				err = fmt.Errorf("its claim %q %w", c.name, problem)
			}
		} else if len(values) > 0 {
			params[c.name] = values
		}
	}
	return params, err
}

// claim is one member of a request object.
type claim struct {
	name string
	raw  json.RawMessage
}

// parseClaims reads the members of a request object, in order.
func parseClaims(payload []byte) ([]claim, error) {
	// Valid bounds how deep values are nested, too.
	if !utf8.Valid(payload) || !json.Valid(payload) {
		return nil, errors.New("its payload is no JSON")
	}
	if err := checkNames(json.NewDecoder(bytes.NewReader(payload))); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("its payload is no JSON object")
	}
	var claims []claim
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		c := claim{}
		c.name, _ = token.(string) // a member's name is a string
		if err := dec.Decode(&c.raw); err != nil {
			return nil, err
		}
		claims = append(claims, c)
	}
	return claims, nil
}

// checkNames refuses a JSON value in which, at any depth, an object has two members of
// one name: what it says depends on who reads it (RFC 8259, Section 4).
func checkNames(dec *json.Decoder) error {
	dec.UseNumber() // or it would refuse a number for its size
	token, err := dec.Token()
	if err != nil {
		return err
	}
	object := token == json.Delim('{')
	if !object && token != json.Delim('[') {
		return nil
	}
	seen := map[any]bool{}
	for dec.More() {
		if object {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			if seen[name] {
				return fmt.Errorf("it has two members named %q", name)
			}
			seen[name] = true
		}
		if err := checkNames(dec); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// values returns the claim as the values of the parameter of its name, none if it is
// none. The error goes on after the claim's name.
func (c claim) values() ([]string, error) {
	switch {
	case strings.ContainsRune(c.name, utf8.RuneError):
		return nil, errors.New("has no valid name")
	case c.name == "request" || c.name == "request_uri": // RFC 9101, Section 4
		return nil, errors.New("must not be in a request object")
	case slices.Contains(jwtClaims, c.name):
		return nil, c.checkTime()
	case c.raw[0] != '"' && slices.Contains(readByFosite, c.name):
		return nil, errors.New("is no string")
	}
	switch c.raw[0] {
	case '"':
		text, err := c.text()
		return []string{text}, err
	case 'n': // as if it were not there
		return nil, nil
	case 't', 'f':
		return []string{string(c.raw)}, nil
	case '[':
		// Several values of one parameter have no other way to be said in JSON, which has no
		// two members of one name.
		if c.name == "resource" {
			return c.texts()
		}
		fallthrough
	case '{':
		var compact bytes.Buffer
		if err := json.Compact(&compact, c.raw); err != nil {
			return nil, err
		}
		return []string{compact.String()}, nil
	}
	// A number. Only a whole number has one spelling; 6e1 and 60.0 are refused rather than
	// understood by one reader as 60 and by another not at all.
	if digits := strings.TrimPrefix(string(c.raw), "-"); strings.Trim(digits, "0123456789") != "" || string(c.raw) == "-0" {
		return nil, errors.New("is a number that is not written as a whole number")
	}
	return []string{string(c.raw)}, nil
}

// text returns the string that the claim is.
func (c claim) text() (text string, err error) {
	if err := json.Unmarshal(c.raw, &text); err != nil {
		return "", err
	}
	// What JSON decoders make of half of a surrogate pair. It stands for text that is lost.
	if strings.ContainsRune(text, utf8.RuneError) {
		return "", errors.New("has text that is not Unicode")
	}
	return text, nil
}

// texts returns the strings of the list that the claim is.
func (c claim) texts() ([]string, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(c.raw, &list); err != nil {
		return nil, err
	}
	texts := make([]string, 0, len(list))
	for _, raw := range list {
		if raw[0] != '"' {
			return nil, errors.New("is a list of something else than strings")
		}
		text, err := claim{c.name, raw}.text()
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// checkTime refuses what fosite takes for no limit at all: a time that is no number, or
// none that fits, and an expiry in 1970 (RFC 7519, Sections 4.1.4 to 4.1.6).
func (c claim) checkTime() error {
	if !slices.Contains([]string{"exp", "iat", "nbf"}, c.name) || string(c.raw) == "null" {
		return nil
	}
	seconds, err := strconv.ParseFloat(string(c.raw), 64)
	if err != nil || seconds < 0 || seconds >= 1<<53 || c.name == "exp" && seconds < 1 {
		return errors.New("is no time")
	}
	return nil
}
