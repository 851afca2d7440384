package consentapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/internal/exactjson"
)

// maxBody bounds the body of a request to the API, in bytes: what a decision may carry, and the rest.
const maxBody = fositeconsent.MaxDataSize + 32<<10

// member reads one member, if it is there and not null.
func member[T any](members map[string]json.RawMessage, name string, to *T) error {
	raw := members[name]
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("%s is of the wrong type", name)
	}
	return nil
}

// names reads a list of texts. A null in it names nothing: the list of a form with one box, not ticked, becomes [null] in JavaScript.
func names(members map[string]json.RawMessage, name string, to *[]string) error {
	var list []*string
	if err := member(members, name, &list); err != nil {
		return err
	}
	for _, text := range list {
		if text != nil {
			*to = append(*to, *text)
		}
	}
	return nil
}

// value reads any JSON, nil if there is none.
func value(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return exactjson.Numbers(v)
}

// checkNumbers refuses a whole number that would be rounded: it may be the name of something, and would be that of something else.
func checkNumbers(body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errors.New("the body is not well-formed JSON")
		}
		if number, ok := token.(json.Number); ok && !strings.ContainsAny(number.String(), ".eE") {
			settled, err := exactjson.Numbers(number)
			if _, rounded := settled.(float64); err != nil || rounded {
				return errors.New("the body has a whole number of more than 64 bits: write it as a text")
			}
		}
	}
}

// object reads a JSON object, nil if there is none or null.
func object(raw json.RawMessage) (map[string]any, error) {
	v, err := value(raw)
	if v == nil || err != nil {
		return nil, err
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it is no object")
	}
	return o, nil
}

// parseAccept reads the body of an accept of the request.
func parseAccept(body []byte, request *document) (*answerDocument, error) {
	members, err := exactjson.Object(body, "context", "grant_access_token_audience", "grant_scope", "handled_at", "remember", "remember_for", "session")
	if err != nil {
		return nil, err
	}
	if err := checkNumbers(body); err != nil {
		return nil, err
	}
	a := &answerDocument{Accepted: true}
	var handledAt time.Time // ours is what counts
	if err := errors.Join(
		names(members, "grant_scope", &a.Scopes),
		names(members, "grant_access_token_audience", &a.Audience),
		member(members, "remember", &a.Remember),
		member(members, "remember_for", &a.RememberFor),
		member(members, "handled_at", &handledAt),
	); err != nil {
		return nil, err
	}
	if a.RememberFor < 0 || a.RememberFor > int64(math.MaxInt64/time.Second) {
		return nil, errors.New("remember_for is not a number of seconds of 0 or more that can be kept")
	}
	if !a.Remember {
		a.RememberFor = 0
	}
	d := data{Version: dataVersion}
	if raw := members["session"]; len(raw) > 0 && string(raw) != "null" {
		parts, err := exactjson.Object(raw, "access_token", "id_token")
		if err != nil {
			return nil, fmt.Errorf("session: %w", err)
		}
		if d.Session.AccessToken, err = object(parts["access_token"]); err != nil {
			return nil, fmt.Errorf("session.access_token: %w", err)
		}
		if d.Session.IDToken, err = object(parts["id_token"]); err != nil {
			return nil, fmt.Errorf("session.id_token: %w", err)
		}
		if err := d.Session.check(); err != nil {
			return nil, err
		}
		if !d.Session.isEmpty() {
			d.For = madeFor(a.Scopes, a.Audience, request.Further)
		}
	}
	if d.Context, err = value(members["context"]); err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	if a.Data, err = json.Marshal(d); err != nil {
		return nil, err
	}
	return a, nil
}

// defaultError is what the client is told if the application does not say (RFC 6749, Section 4.1.2.1).
const (
	defaultError       = "access_denied"
	defaultDescription = "The resource owner denied the request."
)

// maxText bounds what the application says in a rejection: it travels in a URL.
const maxText = 1024

// parseReject reads the body of a reject. Nothing at all is a rejection without a reason.
func parseReject(body []byte, _ *document) (*answerDocument, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	members, err := exactjson.Object(body, "error", "error_debug", "error_description", "error_hint", "status_code")
	if err != nil {
		return nil, err
	}
	r := &rejection{StatusCode: 400}
	var debug string // for the logs of Hydra; not for the client, and we keep it nowhere
	if err := errors.Join(
		member(members, "error", &r.Error),
		member(members, "error_description", &r.Description),
		member(members, "error_hint", &r.Hint),
		member(members, "error_debug", &debug),
		member(members, "status_code", &r.StatusCode),
	); err != nil {
		return nil, err
	}
	if r.Error == "" {
		r.Error = defaultError
		if r.Description == "" {
			r.Description = defaultDescription
		}
	}
	if r.StatusCode == 0 {
		r.StatusCode = 400
	}
	if r.StatusCode < 400 || r.StatusCode > 599 {
		return nil, errors.New("status_code is not that of an error, 400 to 599")
	}
	for name, text := range map[string]string{"error": r.Error, "error_description": r.Description, "error_hint": r.Hint} {
		if len(text) > maxText {
			return nil, fmt.Errorf("%s is longer than %d bytes", name, maxText)
		}
	}
	// An error code has a narrower set than a description, in which applications write every language all the same.
	if strings.ContainsFunc(r.Error, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
		return nil, errors.New("error has a character that RFC 6749, Section 4.1.2.1 does not allow")
	}
	return &answerDocument{Rejection: r}, nil
}
