package fositeconsent

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestClaimsAreParametersThatMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]url.Values{
		`{}`:   {},
		` {} `: {},
		`{"client_id":"app","state":"","nonce":"a\u00e9\n\u2028<&>"}`: {"client_id": {"app"}, "state": {""}, "nonce": {"aé\n\u2028<&>"}},
		`{"max_age":60,"a":0,"b":-7,"c":123456789012345678901234567890}`: {
			"max_age": {"60"}, "a": {"0"}, "b": {"-7"}, "c": {"123456789012345678901234567890"}},
		`{"a":true,"b":false,"c":null}`: {"a": {"true"}, "b": {"false"}},
		// The order of members, their escapes and the spelling of numbers are kept.
		`{"claims": { "userinfo" : {"z":null, "a":{"value":"\u003c"}}, "b": 1.50e3 } }`: {"claims": {`{"userinfo":{"z":null,"a":{"value":"\u003c"}},"b":1.50e3}`}},
		`{"authorization_details":[ {"type":"x"}, [] ]}`:                                {"authorization_details": {`[{"type":"x"},[]]`}},
		`{"a":[1e400]}`:            {"a": {"[1e400]"}},
		`{"acr_values":["a","b"]}`: {"acr_values": {`["a","b"]`}},
		`{"resource":["https://b.example","https://a.example"]}`: {"resource": {"https://b.example", "https://a.example"}},
		`{"resource":"https://a.example"}`:                       {"resource": {"https://a.example"}},
		`{"resource":[]}`:                                        {},
		// What the object says of itself.
		`{"iss":"app","aud":["https://as.example"],"sub":null,"exp":1700000000,"nbf":0,"iat":1.7e9,"jti":5}`: {},
		`{"exp":null}`: {},
		// Names are compared as they are.
		`{"a":"1","A":"2","":"3","Exp":"4"}`: {"a": {"1"}, "A": {"2"}, "": {"3"}, "Exp": {"4"}},
	} {
		if got, err := claimParameters([]byte(payload)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v; expected %v", payload, got, err, want)
		}
	}
}

func TestClaimsThatAreNotClearAreRefused(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		``, `null`, `[]`, `"a"`, `1`, `{`, `{}{}`, `{} x`, `{"a"}`, `{"a":}`, "{\"a\":\"\xff\"}", "{\"a\":{\"b\":\"\xff\"}}", "\xef\xbb\xbf{}",
		`{"a":"1","a":"1"}`, `{"a":"1","\u0061":"2"}`, `{"claims":{"b":1,"b":1}}`, `{"a":[[{"b":{"c":1,"c":2}}]]}`, `{"iss":{"b":1,"b":1}}`,
		`{"max_age":60.0}`, `{"max_age":6e1}`, `{"max_age":6E1}`, `{"max_age":1.5}`, `{"max_age":-0}`, `{"a":1e400}`,
		`{"a":"\ud800"}`, `{"a":"\udc00\ud800"}`, `{"\ud800":"a"}`, `{"a":"` + "\ufffd" + `"}`,
		`{"request":"e30.e30."}`, `{"request":null}`, `{"request_uri":"urn:x"}`, `{"request_uri":""}`, `{"request_uri":null}`,
		`{"audience":["a"]}`, `{"client_id":1}`, `{"redirect_uri":null}`, `{"registration":{}}`, `{"response_mode":true}`,
		`{"response_type":["code"]}`, `{"scope":["openid"]}`, `{"scope":null}`, `{"state":12345678}`,
		`{"resource":["a",null]}`, `{"resource":["a",["b"]]}`, `{"resource":["\ud800"]}`, `{"resource":1.5}`,
		`{"exp":"1700000000"}`, `{"exp":0}`, `{"exp":0.5}`, `{"exp":-1}`, `{"exp":1e300}`, `{"exp":1e400}`, `{"exp":[]}`, `{"exp":true}`,
		`{"nbf":"0"}`, `{"nbf":-1}`, `{"nbf":1e300}`, `{"iat":{}}`, `{"iat":9007199254740992}`,
		strings.Repeat(`{"a":`, 20000) + `1` + strings.Repeat(`}`, 20000),
	} {
		got, err := claimParameters([]byte(payload))
		if err == nil {
			t.Errorf("%.80s is read as %v", payload, got)
		}
		if len(got) > 1 {
			t.Errorf("%.80s: %v", payload, got)
		}
	}
	// What is clear is there all the same, for the error's sake.
	got, err := claimParameters([]byte(`{"max_age":1.5,"state":"a state","scope":[]}`))
	if err == nil || !strings.Contains(err.Error(), "max_age") || !reflect.DeepEqual(got, url.Values{"state": {"a state"}}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRequestObjectHasOneSpelling(t *testing.T) {
	t.Parallel()
	const payload = `{"a":"1?>"}` // its base64url has a "-", and bits to spare in the last character
	spelled := base64.RawURLEncoding.EncodeToString([]byte(payload))
	if got, err := objectParameters("e30." + spelled + ".c2ln"); err != nil || got.Get("a") != "1?>" {
		t.Fatalf("%v, %v", got, err)
	}
	for _, object := range []string{
		"", ".", spelled, "e30." + spelled, "e30." + spelled + ".c2ln.", "e30.." + "c2ln",
		"e30." + spelled + "=.c2ln", "e30." + spelled + "\n.c2ln", "e30." + spelled[:4] + "\r\n" + spelled[4:] + ".c2ln",
		"e30. " + spelled + ".c2ln", "e30." + base64.RawStdEncoding.EncodeToString([]byte(payload)) + ".c2ln",
		"e30." + spelled[:len(spelled)-1] + "1" + ".c2ln",
		`{"payload":"` + spelled + `","protected":"e30","signature":"c2ln"}`,
	} {
		if got, err := objectParameters(object); err == nil {
			t.Errorf("%q is read as %v", object, got)
		}
	}
}

// What fosite read of an object and went by has to be what is in the form.
func TestObjectIsReadInOneWay(t *testing.T) {
	t.Parallel()
	params := func() url.Values {
		return url.Values{
			"client_id": {"app"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"}, "response_mode": {"query"},
			"scope": {"openid photos"}, "state": {"a state"}, "audience": {"https://api.example"}, "max_age": {"60"},
		}
	}
	read := params()
	read.Set("max_age", "%!s(int64=60)")
	if err := checkMerge(read, params(), "app"); err != nil {
		t.Fatal(err)
	}
	for _, name := range readByFosite {
		if name == "registration" { // which fosite refuses
			continue
		}
		other := params()
		other.Set(name, other.Get(name)+" x")
		if err := checkMerge(read, other, "app"); err == nil {
			t.Errorf("%s was read in two ways", name)
		}
	}
	read.Set("scope", "photos")
	without := params()
	without.Set("scope", "photos")
	if err := checkMerge(read, without, "app"); err == nil {
		t.Error("an object without openid is good")
	}
}

// FuzzClaimParameters compares with what encoding/json makes of the same object.
func FuzzClaimParameters(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"max_age":60,"claims":{"userinfo":{"email":null}},"scope":"openid","state":"a state"}`,
		`{"a":"1","a":"2"}`, `{"a":{"b":1,"b":2}}`, `{"a":"\ud83d\ude00"}`, `{"a":"\ud83d"}`, `{"a":-0,"b":1e2,"c":1.0}`,
		`{"resource":["a","b"],"audience":["a"]}`, `{"request":null,"exp":1e300}`, ` { "a" : [ 1 , true ] } `, `[{}]`, `{"":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := claimParameters(payload)
		again, errAgain := claimParameters(payload)
		if !reflect.DeepEqual(got, again) || (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("it is read in two ways: %v, %v and %v, %v", got, err, again, errAgain)
		}
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(payload, &members); err != nil {
			t.Fatalf("encoding/json does not read it: %v", err)
		}
		for name := range got {
			if _, ok := members[name]; !ok {
				t.Errorf("%q is not in the object", name)
			}
		}
		for name, raw := range members {
			var want any
			dec := json.NewDecoder(strings.NewReader(string(raw)))
			dec.UseNumber()
			if err := dec.Decode(&want); err != nil {
				t.Fatal(err)
			}
			values, there := got[name]
			list, isList := want.([]any)
			switch text, isText := want.(string); {
			case want == nil || slices.Contains(jwtClaims, name) || name == "resource" && isList && len(list) == 0:
				if there {
					t.Errorf("%q is a parameter: %q", name, values)
				}
			case name == "resource" && isList:
				if len(values) != len(list) {
					t.Errorf("resource has %d values, expected %d", len(values), len(list))
				}
				for i, value := range values {
					if list[i] != value {
						t.Errorf("resource %d is %q, expected %v", i, value, list[i])
					}
				}
			case len(values) != 1:
				t.Errorf("%q is %q", name, values)
			case isText:
				if values[0] != text {
					t.Errorf("%q is %q, expected %q", name, values[0], text)
				}
			default: // it is the JSON that was sent
				var have any
				dec := json.NewDecoder(strings.NewReader(values[0]))
				dec.UseNumber()
				if err := dec.Decode(&have); err != nil || !reflect.DeepEqual(have, want) {
					t.Errorf("%q is %q, expected %s: %v", name, values[0], raw, err)
				}
			}
		}
		if slices.ContainsFunc([]string{"request", "request_uri"}, got.Has) {
			t.Errorf("an object within an object: %v", got)
		}
	})
}
