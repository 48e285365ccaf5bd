package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

var leanHeader = Header{
	Type: TypeResult, Source: "urn:megaphone:worker:serve-CTN2Nq3jR1vmFhQvEm6hPr", ID: "CTN2Nq3jR1vmFhQvEm6hPr", Host: "web01.example.com",
	Check: "disk /var", Time: time.Date(2026, 11, 22, 10, 0, 0, 120456789, time.UTC),
}

var leanResult = Result{
	Status: OK, Message: "Everything is in order", LatencySeconds: 0.012345,
	Document: json.RawMessage(`{"status":"OK","message":"Everything is in order","n":[1,-2.5e3,true,null,{"a":"\u00e9"}]}`),
	Worker:   "serve-CTN2Nq3jR1vmFhQvEm6hPr", Pool: "default", Reg: 1764021600000001, Lease: 1764021600000002, Due: 1764021600123,
}

// viaSDK is [Encode] without the short way.
func viaSDK(h Header, data any) ([]byte, error) {
	e, err := New(h, data)
	if err != nil {
		return nil, err
	}
	return Marshal(e)
}

func decodeViaSDK(b []byte) (id string, at time.Time, r Result, err error) {
	e, err := decodeAny(b)
	if err != nil {
		return "", at, r, err
	}
	return ResultOf(e)
}

func TestLeanEncodesAsTheSDK(t *testing.T) {
	with := func(f func(*Header, *Result)) func() (Header, Result) {
		return func() (Header, Result) {
			h, r := leanHeader, leanResult
			f(&h, &r)
			return h, r
		}
	}
	for name, tt := range map[string]struct {
		of   func() (Header, Result)
		lean bool
	}{
		"a poll's result":        {with(func(*Header, *Result) {}), true},
		"no document":            {with(func(_ *Header, r *Result) { r.Document = nil }), true},
		"a document with blanks": {with(func(_ *Header, r *Result) { r.Document = json.RawMessage(" { \"a b\" : [ 1 , \"c d\" ] }\n") }), true},
		"a message to escape":    {with(func(_ *Header, r *Result) { r.Message = "<é> \"q\" \\ \n\u2028" }), true},
		"a message not in UTF-8": {with(func(_ *Header, r *Result) { r.Message = "a\xffb" }), true},
		"whole seconds":          {with(func(h *Header, _ *Result) { h.Time = h.Time.Truncate(time.Second) }), true},
		"no host":                {with(func(h *Header, _ *Result) { h.Host, h.Check = "", "" }), true},
		"of a host":              {with(func(h *Header, _ *Result) { h.Check = "" }), true},
		"a transition's header":  {with(func(h *Header, _ *Result) { h.Sequence, h.Causation = Sequence(17), "x#1" }), true},
		"a short latency":        {with(func(_ *Header, r *Result) { r.LatencySeconds = 1e-7 }), false},
		"a ttl":                  {with(func(_ *Header, r *Result) { r.TTL = Duration(time.Minute) }), false},
		"a check beyond ASCII":   {with(func(h *Header, _ *Result) { h.Check = "é<&>" }), false},
		"blanks at the end":      {with(func(h *Header, _ *Result) { h.Check = "a " }), false},
		"another source":         {with(func(h *Header, _ *Result) { h.Source = "https://example.com/%zz" }), false},
		"no id":                  {with(func(h *Header, _ *Result) { h.ID = "" }), false},
		"no time":                {with(func(h *Header, _ *Result) { h.Time = time.Time{} }), false},
		"no JSON":                {with(func(_ *Header, r *Result) { r.Document = json.RawMessage(`{"a":}`) }), false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h, r := tt.of()
			got, err := Encode(h, r)
			want, wantErr := viaSDK(h, r)
			is.Equal(err == nil, wantErr == nil)
			is.Equal(string(got), string(want))
			_, lean := encodeLean(h, r)
			is.Equal(lean, tt.lean)
		})
	}
}

func TestLeanDecodesAsTheSDK(t *testing.T) {
	event := func(data string) string {
		return `{"specversion":"1.0","id":"1","source":"urn:x:y","type":"` + TypeResult + `","data":` + data + `}`
	}
	for name, tt := range map[string]struct {
		in   string
		lean bool
	}{
		"a status and a message": {event(`{"status":"OK","message":"fine"}`), true},
		"with blanks":            {" {\"specversion\" : \"1.0\",\n\"id\":\"1\",\"source\":\"urn:x:y\",\"type\":\"" + TypeResult + "\",\"data\": { \"status\" : \"OK\" , \"message\":\"é\" } }\n", true},
		"a document of anything": {event(`{"status":"OK","message":"","document":{"a":["\ud800",-1.5e99,"` + "\xff" + `"]}}`), true},
		"a large number":         {event(`{"status":"OK","message":"","document":1e999}`), false},
		"no message":             {event(`{"status":"OK"}`), false},
		"a message with escapes": {event(`{"status":"OK","message":"a\u0041"}`), false},
		"a status that is none":  {event(`{"status":"ok","message":""}`), false},
		"names in capitals":      {event(`{"STATUS":"OK","message":""}`), false},
		"a member twice":         {event(`{"status":"OK","message":"a","message":"b"}`), false},
		"a ttl":                  {event(`{"status":"OK","message":"","ttl":60}`), false},
		"a number with a point":  {event(`{"status":"OK","message":"","reg":1.0}`), false},
		"a document of null":     {event(`{"status":"OK","message":"","document":null}`), false},
		"no JSON in it":          {event(`{"status":"OK","message":"","document":{"a":}}`), false},
		"a fraction of a second": {strings.Replace(event(`{"status":"OK","message":""}`), `"id"`, `"time":"2026-02-28T23:59:59.123456789Z","id"`, 1), true},
		"another time zone":      {strings.Replace(event(`{"status":"OK","message":""}`), `"id"`, `"time":"2026-02-28T23:59:59+01:00","id"`, 1), false},
		"another type":           {strings.Replace(event(`{"status":"OK","message":""}`), "result", "sort", 1), false},
		"another source":         {strings.Replace(event(`{"status":"OK","message":""}`), "urn:x:y", "http://[::1", 1), false},
		"an unknown extension":   {strings.Replace(event(`{"status":"OK","message":""}`), `"id"`, `"Bad-Ext":"x","id"`, 1), false},
		"a member of it twice":   {strings.Replace(event(`{"status":"OK","message":""}`), `"id"`, `"id":"2","id"`, 1), false},
		"an extension of object": {strings.Replace(event(`{"status":"OK","message":""}`), `"id"`, `"sequence":{},"id"`, 1), false},
		"a day that is none":     {strings.Replace(event(`{"status":"OK","message":""}`), `"id"`, `"time":"2026-02-30T00:00:00Z","id"`, 1), false},
		"bytes after it":         {event(`{"status":"OK","message":""}`) + "x", false},
		"cut off":                {event(`{"status":"OK","message":""}`)[:90], false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			sameAsSDK(t, []byte(tt.in))
			var v view
			var r Result
			is.Equal(v.parse([]byte(tt.in)) && string(v.kind) == TypeResult && parseResult(v.data, &r), tt.lean)
		})
	}
}

// sameAsSDK fails where the two ways of reading a result differ in anything but
// the text of an error.
func sameAsSDK(t *testing.T, in []byte) {
	t.Helper()
	id, at, r, err := DecodeResult(in)
	id2, at2, r2, err2 := decodeViaSDK(in)
	if (err == nil) != (err2 == nil) || err == nil && (id != id2 || !at.Equal(at2) || !reflect.DeepEqual(r, r2)) {
		t.Fatalf("%s\nlean: %s %s %+v %v\nSDK: %s %s %+v %v", in, id, at, r, err, id2, at2, r2, err2)
	}
	for _, e := range []error{ErrEvent, ErrResult, ErrStatus} {
		if errors.Is(err, e) != errors.Is(err2, e) {
			t.Fatalf("%s\nlean: %v\nSDK: %v", in, err, err2)
		}
	}
	var v view
	if !v.parse(in) {
		return
	}
	e, err := decodeAny(in)
	if err != nil {
		t.Fatalf("%s\nonly the short way takes it: %v", in, err)
	}
	e.DataEncoded = bytes.TrimSpace(e.DataEncoded) // the SDK keeps blanks before it
	lean, ok := v.event()
	if !ok || !reflect.DeepEqual(lean.Context, e.Context) || string(lean.Data()) != string(e.Data()) || lean.DataBase64 != e.DataBase64 {
		t.Fatalf("%s\nlean: %s\nSDK: %s", in, lean, e)
	}
	a, err := Marshal(lean)
	b, err2 := Marshal(e)
	if err != nil || err2 != nil || string(a) != string(b) {
		t.Fatalf("%s\nlean: %s %v\nSDK: %s %v", in, a, err, b, err2)
	}
}

// FuzzLeanDecode: what the short way takes, the SDK takes with equal values.
func FuzzLeanDecode(f *testing.F) {
	for _, h := range []Header{leanHeader, {Type: TypeResult, Source: "urn:x", ID: "1"}} {
		h.Time, h.Sequence, h.Causation = leanHeader.Time, Sequence(1), "c"
		for _, r := range []Result{leanResult, {Status: Critical, Message: "é"}, {TTL: Duration(time.Minute), Origin: "o"}} {
			b, err := viaSDK(h, r)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"urn:a","type":"` + TypeResult + `","data":{"a":}}`))
	f.Fuzz(sameAsSDK)
}

// FuzzLeanEncode: what the short way writes, the SDK writes byte for byte.
func FuzzLeanEncode(f *testing.F) {
	f.Add("t", "urn:a", "1", "web01", "disk", "1", "c", int64(1764021600123), "all is <well>", 0.0125, `{"a": "b"}`, "w", uint64(1), int64(-2))
	f.Fuzz(func(t *testing.T, kind, source, id, host, check, sequence, causation string, at int64, message string, latency float64, document, worker string, reg uint64, due int64) {
		h := Header{Type: kind, Source: source, ID: id, Host: host, Check: check, Sequence: sequence, Causation: causation, Time: time.UnixMilli(at)}
		r := Result{
			Status: Status(reg % 5), Message: message, LatencySeconds: latency, Document: json.RawMessage(document),
			Worker: worker, Origin: causation, Pool: sequence, Reg: reg, Lease: reg / 3, Due: due,
		}
		got, ok := encodeLean(h, r)
		if !ok {
			return
		}
		want, err := viaSDK(h, r)
		if err != nil || string(got) != string(want) {
			t.Fatalf("lean: %s\nSDK:  %s %v", got, want, err)
		}
	})
}

// The short ways allocate nothing but what they return.
func TestLeanAllocates(t *testing.T) {
	is := is.New(t)
	b, err := Encode(leanHeader, leanResult)
	is.NoErr(err)
	var v view
	is.Equal(testing.AllocsPerRun(100, func() { v.parse(b) }), 0.0)
	is.True(testing.AllocsPerRun(100, func() { _, _, _, _ = DecodeResult(b) }) <= 3) // id, message, worker
	var data any = leanResult
	is.True(testing.AllocsPerRun(100, func() { _, _ = Encode(leanHeader, data) }) <= 1) // the event
}

func BenchmarkEncodeResult(b *testing.B) {
	for name, f := range map[string]func(Header, any) ([]byte, error){"lean": Encode, "sdk": viaSDK} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var data any = leanResult
			for b.Loop() {
				if _, err := f(leanHeader, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeResult(b *testing.B) {
	in, err := Encode(leanHeader, leanResult)
	if err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]func([]byte) (string, time.Time, Result, error){"lean": DecodeResult, "sdk": decodeViaSDK} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := f(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
