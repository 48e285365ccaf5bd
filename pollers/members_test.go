package pollers

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/looprock/megaphone/events"
)

// FuzzMembers demands of any object what encoding/json makes of it.
func FuzzMembers(f *testing.F) {
	for _, doc := range []string{
		`{}`, `{ }`, `{"a":1}`, "\t{\"a\" :\n1 , \"b\"\r: true}", `{"a":{"b":[1,{"c":"}"}]},"d":"\\\"","e":null}`, `{"a":1,"a":"2"}`, `{"":[]}`,
		`{"\u0061":-1.5e3,"a\n":"x\"","\ud800":"\ud83d\ude00"}`, `{"a":"` + "\u2028" + `"}`, `[{"a":1}]`, `{"status" : "OK", "x":[ ] , "y":{ } }`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		doc, ok := clean(body)
		if !ok || doc[0] != '{' {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(doc, &want); err != nil {
			t.Fatal(err)
		}
		got := map[string]json.RawMessage{}
		for key, value := range members(doc) {
			got[string(key)] = value
		}
		if !maps.EqualFunc(got, want, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Fatalf("%q, encoding/json: %q", got, want)
		}
		for key, value := range want {
			if v, ok := member(doc, key); !ok || string(v) != string(value) {
				t.Fatalf("%q: %q, encoding/json: %q", key, v, value)
			}
			text, ok := messageText(value)
			if like, likeOK := events.MessageText(value); text != like || ok != likeOK {
				t.Fatalf("%q, %t: %q, %t", text, ok, like, likeOK)
			}
		}
	})
}
