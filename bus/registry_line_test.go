package bus

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/matryer/is"
)

// What is written without looking at the event reads as what encoding/json writes.
func TestEncodeLine(t *testing.T) {
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
			got, err := encodeLine(l)
			is.NoErr(err)
			is.Equal(bytes.IndexByte(got, '\n'), len(got)-1)
			want, err := encodeAnyLine(l)
			is.NoErr(err)
			var a, b bytes.Buffer
			is.NoErr(json.Compact(&a, got))
			is.NoErr(json.Compact(&b, want))
			is.Equal(a.String(), b.String())
		})
	}
}
