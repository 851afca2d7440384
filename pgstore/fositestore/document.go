package fositestore

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ory/fosite"
)

// documentVersion is the form of what is stored. Another one is refused: to read it
// in this form might drop what limits it.
const documentVersion = 1

// undetermined is the language tag of a request without a language.
const undetermined = "und"

// document is a request as it is stored, but for its ID and its client, which are
// columns. In what belongs to a code, absent means as with the code itself.
type document struct {
	Version         int                 `json:"v"`
	At              time.Time           `json:"at,omitzero"`
	Scopes          []string            `json:"scopes,omitzero"`
	GrantedScopes   []string            `json:"granted,omitzero"`
	Audience        []string            `json:"aud,omitzero"`
	GrantedAudience []string            `json:"grantedAud,omitzero"`
	Form            map[string][]string `json:"form,omitzero"`
	Session         json.RawMessage     `json:"session,omitzero"`
	Lang            string              `json:"lang,omitempty"`
	// Code is the hash of the whole code that an OpenID Connect session is for.
	Code []byte `json:"code,omitempty"`
	// Pushed is what a pushed request has besides.
	Pushed *pushedDocument `json:"pushed,omitempty"`
}

type pushedDocument struct {
	ResponseTypes []string `json:"types,omitempty"`
	Handled       []string `json:"handled,omitempty"`
	RedirectURI   *string  `json:"redirect,omitempty"`
	State         string   `json:"state,omitempty"`
	Mode          string   `json:"mode,omitempty"`
	DefaultMode   string   `json:"defaultMode,omitempty"`
}

// documentOf takes from a request what is stored of it, now: the caller goes on to
// change it.
func documentOf(r fosite.Requester) (document, error) {
	d := document{
		Version:         documentVersion,
		At:              r.GetRequestedAt().UTC(),
		Scopes:          notEmpty(r.GetRequestedScopes()),
		GrantedScopes:   notEmpty(r.GetGrantedScopes()),
		Audience:        notEmpty(r.GetRequestedAudience()),
		GrantedAudience: notEmpty(r.GetGrantedAudience()),
	}
	if form := r.GetRequestForm(); len(form) > 0 {
		d.Form = make(map[string][]string, len(form))
		for name, values := range form {
			d.Form[name] = append([]string{}, values...)
		}
	}
	if session := r.GetSession(); session != nil {
		text, err := json.Marshal(session)
		if err != nil {
			return document{}, ownError("the session cannot be encoded as JSON")
		}
		if string(text) != "null" {
			d.Session = text
		}
	}
	if r, ok := r.(fosite.G11NContext); ok {
		d.Lang = r.GetLang().String()
	}
	if d.Lang == undetermined {
		d.Lang = ""
	}
	for _, texts := range [][]string{d.Scopes, d.GrantedScopes, d.Audience, d.GrantedAudience} {
		if !storable(texts...) {
			return document{}, errText
		}
	}
	for name, values := range d.Form {
		if !storable(name) || !storable(values...) {
			return document{}, errText
		}
	}
	return d, nil
}

const errText = ownError("a text has invalid UTF-8 or a NUL byte, which Postgres cannot store")

// storable reports whether Postgres, and JSON, keep the texts as they are.
func storable(texts ...string) bool {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
			return false
		}
	}
	return true
}

func notEmpty(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}

// encode returns the document as JSON. encoding/json writes \ufffd for what was not
// UTF-8, and jsonb refuses \u0000; both can only be in the session by now.
func (d document) encode() (string, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return "", ownError("the request cannot be encoded as JSON")
	}
	for _, escape := range []string{`\ufffd`, `\u0000`} {
		for rest := text; ; {
			i := bytes.Index(rest, []byte(escape))
			if i < 0 {
				break
			}
			backslashes := len(rest[:i]) - len(bytes.TrimRight(rest[:i], `\`))
			if backslashes%2 == 0 { // not the text `\ufffd`, of which the backslash is escaped
				return "", errText
			}
			rest = rest[i+1:]
		}
	}
	return string(text), nil
}

// without leaves out what is as in the code's document.
func (d document) without(base document) document {
	only := func(own, base []string) []string {
		if slices.Equal(own, base) {
			return nil
		}
		return append([]string{}, own...)
	}
	form := make(map[string][]string, len(d.Form))
	for name, values := range d.Form {
		form[name] = values
		if of, ok := base.Form[name]; ok && slices.Equal(of, values) {
			form[name] = nil
		}
	}
	d.Form = form
	d.Scopes, d.GrantedScopes = only(d.Scopes, base.Scopes), only(d.GrantedScopes, base.GrantedScopes)
	d.Audience, d.GrantedAudience = only(d.Audience, base.Audience), only(d.GrantedAudience, base.GrantedAudience)
	if d.At.Equal(base.At) {
		d.At = time.Time{}
	}
	if bytes.Equal(d.Session, base.Session) {
		d.Session = nil
	} else if d.Session == nil {
		d.Session = json.RawMessage("null")
	}
	if d.Lang == base.Lang {
		d.Lang = ""
	} else if d.Lang == "" {
		d.Lang = undetermined
	}
	return d
}

// explicit leaves nothing out.
func (d document) explicit() document {
	for _, list := range []*[]string{&d.Scopes, &d.GrantedScopes, &d.Audience, &d.GrantedAudience} {
		*list = append([]string{}, *list...)
	}
	if d.Session == nil {
		d.Session = json.RawMessage("null")
	}
	if d.Lang == "" {
		d.Lang = undetermined
	}
	return d
}

// over is the inverse of without and of explicit.
func (d document) over(base document) document {
	either := func(own, base []string) []string {
		if own == nil {
			return base
		}
		return own
	}
	d.Scopes, d.GrantedScopes = either(d.Scopes, base.Scopes), either(d.GrantedScopes, base.GrantedScopes)
	d.Audience, d.GrantedAudience = either(d.Audience, base.Audience), either(d.GrantedAudience, base.GrantedAudience)
	for name, values := range d.Form {
		if values == nil {
			d.Form[name] = base.Form[name]
		}
	}
	if d.At.IsZero() {
		d.At = base.At
	}
	if d.Session == nil {
		d.Session = base.Session
	}
	if d.Lang == "" {
		d.Lang = base.Lang
	}
	return d
}

func decode(text string) (document, error) {
	var d document
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return document{}, ownError("a stored request cannot be decoded")
	}
	if d.Version != documentVersion {
		return document{}, ownError("a stored request has a form that this version does not know")
	}
	return d, nil
}

// request makes a request of what is stored. It shares nothing with any other.
func (s *Store) request(ctx context.Context, d document, id, clientID string) (*fosite.Request, error) {
	client, err := s.GetClient(ctx, clientID)
	if err != nil {
		return nil, err
	}
	r := &fosite.Request{
		ID:                id,
		RequestedAt:       d.At,
		Client:            client,
		RequestedScope:    append(fosite.Arguments{}, d.Scopes...),
		GrantedScope:      append(fosite.Arguments{}, d.GrantedScopes...),
		RequestedAudience: append(fosite.Arguments{}, d.Audience...),
		GrantedAudience:   append(fosite.Arguments{}, d.GrantedAudience...),
		Form:              make(url.Values, len(d.Form)),
	}
	for name, values := range d.Form {
		r.Form[name] = append([]string{}, values...)
	}
	if d.Session != nil && string(d.Session) != "null" {
		session := s.config.NewSession()
		if err := unmarshalSession(d.Session, session); err != nil {
			return nil, ownError("a stored session cannot be decoded into what Config.NewSession returns")
		}
		r.Session = session
	}
	if d.Lang != "" && d.Lang != undetermined {
		if err := r.Lang.UnmarshalText([]byte(d.Lang)); err != nil {
			return nil, ownError("a stored language cannot be decoded")
		}
	}
	return r, nil
}

// fill fills the session that a handler passed, for those that go on with it rather
// than with the returned one. One that has been filled before is left alone: its
// handler, and the host, may have changed it since.
func fill(session, stored fosite.Session, d document, kind fosite.TokenType) error {
	if v := reflect.ValueOf(session); stored == nil || v.Kind() != reflect.Pointer || v.IsNil() ||
		session.GetSubject() == stored.GetSubject() && session.GetExpiresAt(kind).Equal(stored.GetExpiresAt(kind)) {
		return nil
	}
	if err := unmarshalSession(d.Session, session); err != nil {
		return ownError("a stored session cannot be decoded into the one that was passed")
	}
	return nil
}

// row is what the tables of codes and tokens have in common, ready to be stored.
type row struct {
	hash                         hash
	requestID, clientID, subject string
	lifespan                     *int64 // in microseconds; nil for ever
	document                     document
	text                         string // of the document
}

func (s *Store) rowOf(secret string, r fosite.Requester, kind fosite.TokenType) (*row, error) {
	d, err := documentOf(r)
	if err != nil {
		return nil, err
	}
	w := &row{hash: hashOf(secret), requestID: r.GetID(), document: d}
	if client := r.GetClient(); client != nil {
		w.clientID = client.GetID()
	}
	if session := r.GetSession(); d.Session != nil {
		w.subject = session.GetSubject()
		if at := session.GetExpiresAt(kind); !at.IsZero() {
			lifespan := s.lifespan(at)
			w.lifespan = &lifespan
		}
	}
	if !storable(w.requestID, w.clientID, w.subject) {
		return nil, errText
	}
	w.text, err = d.encode()
	return w, err
}
