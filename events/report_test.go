package events

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// aReport has n results as workers send them.
func aReport(n int) Report {
	r := Report{Worker: "w1", Pool: "default", Results: []PollResult{}}
	for i := range n {
		p := PollResult{Host: "web01.example.com", Check: "disk /var", Time: At(leanHeader.Time.Add(time.Duration(i))), Result: leanResult}
		p.Result.Worker, p.Result.Pool = "", ""
		r.Results = append(r.Results, p)
	}
	return r
}

var reportHeader = Header{Type: TypeReport, Source: "urn:megaphone:worker:w1", ID: "CTN2Nq3jR1vmFhQvEm6hPr", Time: leanHeader.Time}

func TestReportIsEncodedAsByTheSDK(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Report)
		lean   bool
	}{
		"as workers send it":    {func(*Report) {}, true},
		"names to escape":       {func(r *Report) { r.Results[1].Check, r.Worker = "é \"<", "w\\" }, true},
		"nothing in it":         {func(r *Report) { r.Results = []PollResult{} }, true},
		"no list":               {func(r *Report) { r.Results = nil }, false},
		"a result without time": {func(r *Report) { r.Results[1].Time = Time{} }, false},
		"an unusual result":     {func(r *Report) { r.Results[1].Result.Suspect = "x" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := aReport(3)
			tt.change(&r)
			got, err := Encode(reportHeader, r)
			is.NoErr(err)
			want, err := viaSDK(reportHeader, r)
			is.NoErr(err)
			is.Equal(string(got), string(want))
			_, lean := encodeLean(reportHeader, r)
			is.Equal(lean, tt.lean)
		})
	}
}

func TestDecodeReport(t *testing.T) {
	is := is.New(t)
	sent := aReport(2)
	b, err := Encode(reportHeader, sent)
	is.NoErr(err)
	id, got, err := DecodeReport(b)
	is.NoErr(err)
	is.Equal(id, reportHeader.ID)
	for i := range sent.Results { // the worker is said once
		sent.Results[i].Result.Worker, sent.Results[i].Result.Pool = "w1", "default"
	}
	is.Equal(got, sent)

	for name, tt := range map[string]struct {
		change func(*Report)
		want   error
	}{
		"a host that is none":  {func(r *Report) { r.Results[1].Host = "WEB01" }, ErrName},
		"a check that is none": {func(r *Report) { r.Results[1].Check = "" }, ErrName},
		"a document that is huge": {func(r *Report) {
			r.Results[1].Result.Document = json.RawMessage(`"` + strings.Repeat("x", MaxDocument) + `"`)
		}, ErrResult},
	} {
		r := aReport(2)
		tt.change(&r)
		b, err := Encode(reportHeader, r)
		is.NoErr(err)
		if _, got, err := DecodeReport(b); !errors.Is(err, tt.want) || got.Results != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, err = Encode(leanHeader, leanResult)
	is.NoErr(err)
	_, _, err = DecodeReport(b)
	is.True(errors.Is(err, ErrResult)) // of another type
}

// FuzzReport: what the short way reads, the SDK and encoding/json read with equal
// values; and what it writes they write.
func FuzzReport(f *testing.F) {
	for _, n := range []int{0, 1, 3} {
		b, err := viaSDK(reportHeader, aReport(n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var v view
		var lean Report
		if !v.parse(in) || string(v.kind) != TypeReport || !parseReport(v.data, &lean) {
			_, _, _ = DecodeReport(in) // does not panic
			return
		}
		id, r, err := decodeReport(in)
		if err != nil || id != string(v.id) || !reflect.DeepEqual(r, lean) {
			t.Fatalf("%s\nlean: %+v\nSDK: %s %+v %v", in, lean, id, r, err)
		}
		if b, ok := encodeLean(reportHeader, lean); ok {
			if want, err := viaSDK(reportHeader, lean); err != nil || string(b) != string(want) {
				t.Fatalf("lean: %s\nSDK: %s %v", b, want, err)
			}
		}
	})
}

func BenchmarkReport(b *testing.B) {
	const n = 40
	r := aReport(n)
	in, err := Encode(reportHeader, r)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Encode(reportHeader, r); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/result")
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := DecodeReport(in); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/result")
	})
}
