package storagetest

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"
)

// difference returns where two values differ, as a field and what it is and should
// be, or "". Times are the same if they are the same instant, and nil is empty: no
// encoding tells more. Unexported fields are not looked at.
func difference(path string, got, want reflect.Value) string {
	got, want = indirect(got), indirect(want)
	if !got.IsValid() || !want.IsValid() {
		if got.IsValid() == want.IsValid() || isEmpty(got) && isEmpty(want) {
			return ""
		}
		return differs(path, got, want)
	}
	if got.Type() != want.Type() {
		return differs(path, got, want)
	}
	if at, ok := want.Interface().(time.Time); ok {
		if was, ok := got.Interface().(time.Time); ok && was.Equal(at) {
			return ""
		}
		return differs(path, got, want)
	}
	switch want.Kind() {
	case reflect.Struct:
		for i := range want.NumField() {
			field := want.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			if d := difference(path+"."+field.Name, got.Field(i), want.Field(i)); d != "" {
				return d
			}
		}
	case reflect.Slice, reflect.Array:
		if got.Len() != want.Len() {
			return differs(path, got, want)
		}
		for i := range want.Len() {
			if d := difference(fmt.Sprintf("%s[%d]", path, i), got.Index(i), want.Index(i)); d != "" {
				return d
			}
		}
	case reflect.Map:
		keys := append(want.MapKeys(), got.MapKeys()...)
		for _, key := range keys {
			at := fmt.Sprintf("%s[%v]", path, key)
			if !got.MapIndex(key).IsValid() || !want.MapIndex(key).IsValid() {
				return differs(at, got.MapIndex(key), want.MapIndex(key))
			}
			if d := difference(at, got.MapIndex(key), want.MapIndex(key)); d != "" {
				return d
			}
		}
	default:
		if !reflect.DeepEqual(got.Interface(), want.Interface()) {
			return differs(path, got, want)
		}
	}
	return ""
}

// indirect follows pointers and interfaces. What is nil becomes invalid.
func indirect(v reflect.Value) reflect.Value {
	for v.IsValid() && (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) {
		v = v.Elem()
	}
	return v
}

func isEmpty(v reflect.Value) bool {
	return !v.IsValid() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

func differs(path string, got, want reflect.Value) string {
	return fmt.Sprintf("%s is %s, want %s", path, shown(got), shown(want))
}

func shown(v reflect.Value) string {
	if !v.IsValid() {
		return "nothing"
	}
	text := fmt.Sprintf("%#v", v.Interface())
	if at, ok := v.Interface().(time.Time); ok {
		text = at.Format(time.RFC3339Nano)
	}
	if len(text) > 200 {
		text = text[:200] + fmt.Sprintf("… (%d bytes)", len(text))
	}
	return text
}

// wantSame compares all that a stored request tells with what was stored.
func (s *checked) wantSame(what string, got, want fosite.Requester) {
	s.Helper()
	s.wantSameButForm(what, got, want)
	s.wantForm(what, got.GetRequestForm(), want.GetRequestForm(), want.GetRequestForm())
}

// wantSameButForm compares all that a stored request tells but its form.
func (s *checked) wantSameButForm(what string, got, want fosite.Requester) {
	s.Helper()
	compare := func(field string, got, want any) {
		s.Helper()
		if d := difference(field, reflect.ValueOf(got), reflect.ValueOf(want)); d != "" {
			s.Errorf("%s: %s", what, d)
		}
	}
	compare("ID", got.GetID(), want.GetID())
	compare("RequestedAt", got.GetRequestedAt(), want.GetRequestedAt())
	compare("RequestedScopes", got.GetRequestedScopes(), want.GetRequestedScopes())
	compare("GrantedScopes", got.GetGrantedScopes(), want.GetGrantedScopes())
	compare("RequestedAudience", got.GetRequestedAudience(), want.GetRequestedAudience())
	compare("GrantedAudience", got.GetGrantedAudience(), want.GetGrantedAudience())
	s.wantSameClient(what, got.GetClient(), want.GetClient())
	s.wantSameSession(what, got.GetSession(), want.GetSession())

	// A language is not kept by every storage, but no other one may come of it.
	lang := func(r fosite.Requester) string {
		if r, ok := r.(fosite.G11NContext); ok {
			return r.GetLang().String()
		}
		return "und"
	}
	if got := lang(got); got != "und" && got != lang(want) {
		s.Errorf("%s: Lang is %s, want %s", what, got, lang(want))
	}
}

// wantSameSession compares sessions, by their fields and by what fosite sees of them.
func (s *checked) wantSameSession(what string, got, want fosite.Session) {
	s.Helper()
	if want == nil {
		return // some storages return an empty one
	}
	if got == nil || reflect.ValueOf(got).Kind() == reflect.Pointer && reflect.ValueOf(got).IsNil() {
		s.Errorf("%s: there is no session", what)
		return
	}
	if d := difference("Session", reflect.ValueOf(got), reflect.ValueOf(want)); d != "" {
		s.Errorf("%s: %s", what, d)
	}
	if got.GetSubject() != want.GetSubject() {
		s.Errorf("%s: the session's subject is %q, want %q", what, got.GetSubject(), want.GetSubject())
	}
	if got.GetUsername() != want.GetUsername() {
		s.Errorf("%s: the session's user name is %q, want %q", what, got.GetUsername(), want.GetUsername())
	}
	for _, kind := range tokenTypes {
		if got, want := got.GetExpiresAt(kind), want.GetExpiresAt(kind); !got.Equal(want) {
			s.Errorf("%s: the session's %s expires at %v, want %v", what, kind, got, want)
		}
	}
}

// wantSameClient compares what fosite asks a client.
func (s *checked) wantSameClient(what string, got, want fosite.Client) {
	s.Helper()
	if got == nil {
		s.Errorf("%s: there is no client", what)
		return
	}
	compare := func(field string, got, want any) {
		s.Helper()
		if d := difference(field, reflect.ValueOf(got), reflect.ValueOf(want)); d != "" {
			s.Errorf("%s: the client's %s", what, d)
		}
	}
	compare("ID", got.GetID(), want.GetID())
	compare("HashedSecret", got.GetHashedSecret(), want.GetHashedSecret())
	compare("RedirectURIs", got.GetRedirectURIs(), want.GetRedirectURIs())
	compare("GrantTypes", got.GetGrantTypes(), want.GetGrantTypes())
	compare("ResponseTypes", got.GetResponseTypes(), want.GetResponseTypes())
	compare("Scopes", got.GetScopes(), want.GetScopes())
	compare("Audience", got.GetAudience(), want.GetAudience())
	compare("IsPublic", got.IsPublic(), want.IsPublic())
}

// wantForm checks that all of want is there, in its order, and nothing that is not
// in allowed: a form is sanitized before it is stored.
func (s *checked) wantForm(what string, got, want, allowed url.Values) {
	s.Helper()
	for name, values := range want {
		if !slices.Equal(got[name], values) {
			s.Errorf("%s: the form's %q is %q, want %q", what, name, shortened(got[name]), shortened(values))
		}
	}
	for name, values := range got {
		if _, ok := allowed[name]; !ok || !slices.Equal(values, allowed[name]) {
			s.Errorf("%s: the form has %q, which was not stored with it", what, name)
		}
	}
}

// wantPushed compares what a pushed request tells beyond other requests.
func (s *checked) wantPushed(got, want fosite.AuthorizeRequester) {
	s.Helper()
	compare := func(field string, got, want any) {
		s.Helper()
		if d := difference(field, reflect.ValueOf(got), reflect.ValueOf(want)); d != "" {
			s.Errorf("pushed request: %s", d)
		}
	}
	compare("ResponseTypes", got.GetResponseTypes(), want.GetResponseTypes())
	compare("State", got.GetState(), want.GetState())
	compare("ResponseMode", got.GetResponseMode(), want.GetResponseMode())
	compare("DefaultResponseMode", got.GetDefaultResponseMode(), want.GetDefaultResponseMode())
	compare("DidHandleAllResponseTypes", got.DidHandleAllResponseTypes(), want.DidHandleAllResponseTypes())
	compare("IsRedirectURIValid", got.IsRedirectURIValid(), want.IsRedirectURIValid())
	uri := func(u *url.URL) string {
		if u == nil {
			return "nothing"
		}
		return u.String()
	}
	compare("RedirectURI", uri(got.GetRedirectURI()), uri(want.GetRedirectURI()))
}

func shortened(values []string) []string {
	short := slices.Clone(values)
	for i, value := range short {
		if len(value) > 64 {
			short[i] = strings.ToValidUTF8(value[:64], "") + "…"
		}
	}
	return short
}
