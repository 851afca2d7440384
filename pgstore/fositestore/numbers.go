package fositestore

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"

	"github.com/fosite-consent/fosite-consent/internal/exactjson"
)

// unmarshalSession is json.Unmarshal into a session, but for the numbers in values of no particular type, as extra
// claims are: whole ones become int64. A float64 is rounded, and 1.7e+09 in a JWT.
// What has an UnmarshalJSON of its own sees to that itself.
func unmarshalSession(text []byte, session any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(session); err != nil {
		return err
	}
	return settle(reflect.ValueOf(session), 0)
}

// maxDepth bounds how deep a session is nested, as encoding/json does. One that is deeper leads back to itself, by
// what it does not store.
const maxDepth = 10_000

// settle leaves no json.Number in an interface: the JSON encoders of JWT libraries take it for a text.
func settle(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return ownError("a session leads back to itself")
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && !decodesItself(v.Type()) {
			return settle(v.Elem(), depth+1)
		}
	case reflect.Interface:
		if v.Elem().Kind() == reflect.Pointer { // it was there before, to decode into
			return settle(v.Elem(), depth+1)
		}
		if v.NumMethod() == 0 && !v.IsNil() && v.CanSet() {
			settled, err := exactjson.Numbers(v.Interface())
			if err != nil {
				return err
			}
			v.Set(reflect.ValueOf(settled))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if (f.IsExported() || f.Anonymous) && f.Tag.Get("json") != "-" && holds(f.Type) {
				if err := settle(v.Field(i), depth+1); err != nil {
					return err
				}
			}
		}
	case reflect.Slice, reflect.Array:
		for i := 0; holds(v.Type().Elem()) && i < v.Len(); i++ {
			if err := settle(v.Index(i), depth+1); err != nil {
				return err
			}
		}
	case reflect.Map:
		if !holds(v.Type().Elem()) || !v.CanInterface() { // of an embedded type that is not exported
			return nil
		}
		for entries := v.MapRange(); entries.Next(); {
			value := reflect.New(v.Type().Elem()).Elem() // what is in a map cannot be set
			value.Set(entries.Value())
			if err := settle(value, depth+1); err != nil {
				return err
			}
			v.SetMapIndex(entries.Key(), value)
		}
	}
	return nil
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

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func decodesItself(t reflect.Type) bool {
	if t.Kind() != reflect.Pointer {
		t = reflect.PointerTo(t)
	}
	return t.Implements(unmarshaler) || t.Implements(textUnmarshaler)
}
