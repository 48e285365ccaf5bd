package bus

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/matryer/is"
)

// What is written without looking at the event reads as what encoding/json writes.
func TestAppendLine(t *testing.T) {
	stored := time.Date(2026, 11, 26, 1, 2, 3, 456_789_000, time.UTC)
	for name, l := range map[string]journalLine{
		"plain":              {1795655314280832, "megaphone.registration.web01.db", stored, []byte(`{"specversion": "1.0","data":{"url":"http://a/?b&c=<d>"}}`)},
		"pretty":             {2, "megaphone.registration.web01.db", stored, []byte("{\n  \"specversion\": \"1.0\"\r\n}")},
		"a subject to quote": {3, "megaphone.registration.\"\\é.db", stored, []byte(`{}`)},
		"no event":           {5, "a", stored, nil},
		"whole seconds":      {4, "a", stored.Truncate(time.Second), []byte(`null`)},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			got, err := appendLine([]byte("before"), l)
			is.NoErr(err)
			got, kept := bytes.CutPrefix(got, []byte("before"))
			is.True(kept)
			is.Equal(bytes.IndexByte(got, '\n'), len(got)-1)
			want, err := appendAnyLine(nil, l)
			is.NoErr(err)
			var a, b bytes.Buffer
			is.NoErr(json.Compact(&a, got))
			is.NoErr(json.Compact(&b, want))
			is.Equal(a.String(), b.String())
		})
	}
}

// FuzzDecodeLine: what is read as a plain line is read by encoding/json with
// equal values.
func FuzzDecodeLine(f *testing.F) {
	const head = `{"position":7,"subject":"megaphone.registration.web01.db","stored":"2026-11-22T10:00:01.5Z","event":`
	for _, line := range []string{
		head + `{"a": 1}}`, head + "null}", head + ` [] } `, head + `1,"more":1}`, head + `{"a":}}`, `{"position":07` + head[len(`{"position":7`):] + "1}",
		`{"position":-1,"subject":"é","stored":"2026-11-22T10:00:01+01:00","event":"x"}`, `{"subject":"","position":1}`, "{}", "",
		`{"position":99999999999999999999` + head[len(`{"position":7`):] + "1}",
	} {
		f.Add([]byte(line + "\n"))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := decodePlainLine(line)
		if !ok {
			return
		}
		var want journalLine
		if err := json.Unmarshal(line, &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\nread as %+v\nwant    %+v %v", line, got, want, err)
		}
	})
}

// What is written is read again, and in the short way.
func TestDecodePlainLine(t *testing.T) {
	is := is.New(t)
	want := journalLine{1795655314280832, "megaphone.registration.web01.db", time.Date(2026, 11, 26, 1, 2, 3, 456_789_000, time.UTC), []byte(`{"specversion": "1.0"}`)}
	b, err := appendLine(nil, want)
	is.NoErr(err)
	got, ok := decodePlainLine(b)
	is.True(ok)
	is.Equal(got, want)
}
