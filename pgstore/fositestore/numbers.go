package fositestore

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/fosite-consent/fosite-consent/internal/exactjson"
)

// unmarshalSession is json.Unmarshal into a session, but for the numbers in values of no particular type, as extra
// claims are: whole ones of 64 bits become int64, or uint64. A float64 is rounded, and 1.7e+09 in a JWT.
// What has an UnmarshalJSON of its own sees to that itself.
func unmarshalSession(text []byte, session any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(session); err != nil {
		return err
	}
	_, err := make(settler).settle(reflect.ValueOf(session))
	return err
}

// settler leaves no json.Number in an interface: the JSON encoders of JWT libraries take it for a text. It writes nothing else,
// since a session may have parts in common with others, which were not decoded (they should have no json.Number); nor does it mind that
// they lead back.
type settler map[place]bool

// place is a pointer, a map or a slice that it has been at.
type place struct {
	kind reflect.Type
	at   uintptr
	n    int
}

// settle reports whether it has changed the value itself, and not what that leads to.
func (s settler) settle(v reflect.Value) (changed bool, err error) {
	switch v.Kind() {
	case reflect.Interface:
		number, ok := numberIn(v)
		if !ok {
			_, err := s.settle(v.Elem())
			return false, err
		}
		settled, err := exactjson.Numbers(number)
		if err != nil {
			return false, err
		}
		v.Set(reflect.ValueOf(settled))
		return true, nil
	case reflect.Pointer:
		if decodesItself(v.Type()) || s.been(v, 0) {
			return false, nil
		}
		_, err := s.settle(v.Elem())
		return false, err
	case reflect.Map:
		return false, s.settleMap(v)
	case reflect.Slice:
		if !v.CanInterface() || s.been(v, v.Len()) {
			return false, nil
		}
		_, err := s.settleList(v)
		return false, err
	case reflect.Array:
		return s.settleList(v)
	case reflect.Struct:
		return s.settleFields(v)
	default:
		return false, nil
	}
}

// numberIn returns the json.Number that an interface holds, if it can be replaced.
func numberIn(v reflect.Value) (json.Number, bool) {
	if !v.CanSet() || v.NumMethod() > 0 || v.IsNil() {
		return "", false
	}
	number, ok := v.Interface().(json.Number)
	return number, ok
}

func (s settler) been(v reflect.Value, n int) bool {
	at := place{v.Type(), v.Pointer(), n}
	been := s[at] || v.IsNil()
	s[at] = true
	return been
}

func (s settler) settleMap(v reflect.Value) error {
	if !holds(v.Type().Elem()) || !v.CanInterface() || s.been(v, 0) { // the second is of an embedded type that is not exported
		return nil
	}
	for entries := v.MapRange(); entries.Next(); {
		value := reflect.New(v.Type().Elem()).Elem() // what is in a map cannot be set
		value.Set(entries.Value())
		changed, err := s.settle(value)
		if err != nil {
			return err
		}
		if changed {
			v.SetMapIndex(entries.Key(), value)
		}
	}
	return nil
}

func (s settler) settleList(v reflect.Value) (changed bool, err error) {
	for i := 0; holds(v.Type().Elem()) && i < v.Len(); i++ {
		c, err := s.settle(v.Index(i))
		if err != nil {
			return false, err
		}
		changed = changed || c
	}
	return changed, nil
}

func (s settler) settleFields(v reflect.Value) (changed bool, err error) {
	for i := range v.NumField() {
		f, value := v.Type().Field(i), v.Field(i)
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		settle := s.settle
		switch embedded := indirect(f.Type).Kind() == reflect.Struct && f.Anonymous && name == ""; {
		case embedded && value.Kind() == reflect.Pointer && s.been(value, 0), !f.IsExported() && !f.Anonymous, tag == "-":
			continue
		case embedded: // its fields are the struct's own, whatever its methods are
			value, settle = reflect.Indirect(value), s.settleFields
		case !holds(f.Type):
			continue
		}
		c, err := settle(value)
		if err != nil {
			return false, err
		}
		changed = changed || c
	}
	return changed, nil
}

// holds reports whether there may be an interface in the values of a type.
func holds(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Pointer, reflect.Struct, reflect.Slice, reflect.Array, reflect.Map:
		return !decodesItself(t)
	default:
		return false
	}
}

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func decodesItself(t reflect.Type) bool {
	t = reflect.PointerTo(indirect(t))
	return t.Implements(unmarshaler) || t.Implements(textUnmarshaler)
}
