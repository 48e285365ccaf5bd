package events

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

var leanRegistration = Registration{
	ID: "disk /var", Host: "web01.example.com", URL: json.RawMessage(`{"addr": "http://localhost:8080/\u00e9", "team":[1,"é"]}`),
	Interval: Duration(time.Minute), Timeout: Duration(5 * time.Second), TTL: Duration(time.Hour), OnSilence: new(Status),
	Rise: 2, Fall: 3, StartPeriod: Duration(time.Minute), Labels: map[string]string{"team": "db", "": ""}, Pool: "zone1", Origin: "http",
}

func registrationViaSDK(b []byte) (r Registration, err error) {
	e, err := decodeAny(b)
	if err == nil {
		err = DataAs(e, &r)
	}
	return r, err
}

func TestPlainRegistration(t *testing.T) {
	event := func(data string) string {
		return `{"specversion":"1.0","id":"1","source":"urn:x:y","type":"` + TypeRegistered + `","data":` + data + `}`
	}
	whole, err := json.Marshal(leanRegistration)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in   string
		lean bool
	}{
		"one with everything":    {event(string(whole)), true},
		"one with nothing":       {event(`{}`), true},
		"with blanks":            {event(" { \"id\" : \"a\" ,\n\"url\" : { \"addr\" : 1 } , \"labels\" : { \"a\" : \"b\" } } "), true},
		"members twice":          {event(`{"id":"a","labels":{"a":"1","b":"1"},"id":"b","labels":{"a":"2"}}`), true},
		"no labels":              {event(`{"labels":{}}`), true},
		"a url of null":          {event(`{"url":null}`), false},
		"a url that is no JSON":  {event(`{"url":{"a":}}`), false},
		"an id with escapes":     {event(`{"id":"\u0041"}`), false},
		"an id beyond ASCII":     {event(`{"id":"é"}`), false},
		"names in capitals":      {event(`{"id":"a","ID":"b"}`), false},
		"an unknown member":      {event(`{"id":"a","more":1}`), false},
		"a number of seconds":    {event(`{"interval":60}`), false},
		"seconds without a unit": {event(`{"interval":"60"}`), false},
		"half a second":          {event(`{"interval":"0.5s"}`), false},
		"no seconds":             {event(`{"interval":"s"}`), false},
		"too many seconds":       {event(`{"interval":"99999999999s"}`), false},
		"a rise beyond all":      {event(`{"rise":1001}`), false},
		"a fall below all":       {event(`{"fall":-1}`), false},
		"a status that is none":  {event(`{"on_silence":"ok"}`), false},
		"labels that are none":   {event(`{"labels":["a"]}`), false},
		"a label of null":        {event(`{"labels":{"a":null}}`), false},
		"a list":                 {event(`[]`), false},
		"another type":           {strings.Replace(event(`{}`), TypeRegistered, TypeDeregistered, 1), false},
		"another spec version":   {strings.Replace(event(`{}`), "1.0", "0.3", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			sameRegistration(t, []byte(tt.in))
			_, lean := PlainRegistration([]byte(tt.in))
			is.Equal(lean, tt.lean)
		})
	}
}

// sameRegistration fails where the short way takes what the SDK does not, or as
// something else.
func sameRegistration(t *testing.T, in []byte) {
	t.Helper()
	r, ok := PlainRegistration(in)
	if !ok {
		return
	}
	want, err := registrationViaSDK(in)
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Fatalf("%s\nlean: %+v\nSDK: %+v %v", in, r, want, err)
	}
	sameTarget(t, r.URL)
}

// sameTarget fails where a url is read otherwise than by encoding/json.
func sameTarget(t *testing.T, url []byte) {
	t.Helper()
	got, err := Registration{URL: url}.Target()
	var addr string
	if json.Unmarshal(url, &addr) != nil || string(url) == "null" {
		if err == nil && !got.Object && got != (Target{}) {
			t.Fatalf("%q is no string, and is read as %+v", url, got)
		}
		return
	}
	if (err == nil) != (addr != "") || got != (Target{Addr: addr}) {
		t.Fatalf("%q is read as %+v, %v", url, got, err)
	}
}

// FuzzPlainRegistration: what the short way takes, the SDK takes with equal values.
func FuzzPlainRegistration(f *testing.F) {
	h := leanHeader
	h.Type = TypeRegistered
	for _, r := range []Registration{leanRegistration, {ID: "a", URL: json.RawMessage(`"http://x"`)}, {}} {
		b, err := viaSDK(h, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(sameRegistration)
}

// FuzzTarget: a url that is a string is read as encoding/json reads it.
func FuzzTarget(f *testing.F) {
	for _, url := range []string{`"http://x"`, `"a\n"`, ` "a"`, `"é"`, "\"\x01\"", `"a""`, `""`, `null`, `{"addr":"a"}`, `"\ud800"`, `"`} {
		f.Add([]byte(url))
	}
	f.Fuzz(sameTarget)
}

func BenchmarkDecodeRegistration(b *testing.B) {
	h := leanHeader
	h.Type = TypeRegistered
	in, err := Encode(h, Registration{ID: "disk", Host: "web01", URL: json.RawMessage(`"http://web01:8080/status"`), Interval: Duration(time.Minute), Origin: "http"})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("lean", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := PlainRegistration(in); !ok {
				b.Fatal("it is not plain")
			}
		}
	})
	b.Run("sdk", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := registrationViaSDK(in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
