package events_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestResultAsPushed(t *testing.T) {
	for in, want := range map[string]string{
		`{"status":"OK"}`:                                 "Detected OK state [no message specified]",
		`{"status":"Warning","message":null}`:             "Detected Warning state [no message specified]",
		`{"status":"Warning","message":""}`:               "",
		`{"status":"Warning","message":{"a": [1, true]}}`: `{"a":[1,true]}`,
		`{"status":"Critical","message":"l1\nl2"}`:        "l1\nl2",
	} {
		t.Run(in, func(t *testing.T) {
			is := is.New(t)
			var r events.Result
			is.NoErr(json.Unmarshal([]byte(in), &r))
			is.Equal(r.Message, want)
		})
	}
	for _, in := range []string{`{}`, `{"status":"ok"}`, `{"status":1}`, `{"status":null}`, `[]`, `"OK"`, `{"status":"OK","ttl":"x"}`} {
		t.Run("refused "+in, func(t *testing.T) {
			is := is.New(t)
			var r events.Result
			is.True(json.Unmarshal([]byte(in), &r) != nil)
		})
	}
}

func TestResultLimits(t *testing.T) {
	is := is.New(t)
	var r events.Result
	is.NoErr(json.Unmarshal([]byte(`{"status":"OK","message":"`+strings.Repeat("é", 4000)+`"}`), &r))
	is.True(len(r.Message) <= events.MaxMessage && utf8.ValidString(r.Message)) // cut at a character
	err := json.Unmarshal([]byte(`{"status":"OK","document":"`+strings.Repeat("x", events.MaxDocument)+`"}`), &r)
	is.True(err != nil) // too large
}

func TestOrder(t *testing.T) {
	is := is.New(t)
	rising := []events.Order{{}, {1, 1, 1}, {1, 1, 2}, {1, 2, 1}, {2, 1, 1}}
	for i, a := range rising {
		for j, b := range rising {
			is.Equal(a.After(b), i > j)
		}
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"status":"OK","message":{"a":1},"ttl":"60s","document":{"x":[1]}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r, again events.Result
		if json.Unmarshal(in, &r) != nil {
			return
		}
		first, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(first, &again); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		second, err := json.Marshal(again)
		if err != nil || string(first) != string(second) {
			t.Fatalf("unstable: %v\n%s\n%s", err, first, second)
		}
	})
}

// Whoever shows a document puts something around it, which is to be JSON for all
// readers: it is not nested as deeply as these allow.
func TestResultDeepDocument(t *testing.T) {
	is := is.New(t)
	for n, ok := range map[int]bool{events.MaxDepth: true, events.MaxDepth + 1: false, 9_990: false} {
		data := `{"status":"OK","document":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
		var r events.Result
		is.Equal(json.Unmarshal([]byte(data), &r) == nil, ok)
		_, _, _, err := events.DecodeResult([]byte(`{"specversion":"1.0","type":"megaphone.check.result.v1","source":"urn:x","id":"1","data":` + data + `}`))
		is.Equal(err == nil, ok)
	}
	is.True(!events.Deeper([]byte(`"`+strings.Repeat(`[\"`, events.MaxDepth)+`"`), events.MaxDepth)) // that is text
}
