package events_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestEncodeDecode(t *testing.T) {
	is := is.New(t)
	at := time.Date(2026, 11, 22, 10, 0, 0, 123456789, time.UTC)
	b, err := events.Encode(events.Header{
		Type: events.TypeResult, Source: "urn:megaphone:worker:w1", ID: "1", Host: "web01", Check: "a/b <é>", Time: at,
	}, events.Result{Status: events.Warning, Message: "<x> & y", Document: json.RawMessage(`{"a":"<&>"}`)})
	is.NoErr(err)
	is.True(strings.Contains(string(b), `"data":{"status":"Warning"`)) // readable, not base64
	e, err := events.Decode(b)
	is.NoErr(err)
	is.Equal(e.Subject(), "hosts/web01/checks/a/b <é>")
	is.Equal(e.Time(), at.Truncate(time.Millisecond))
	is.Equal(e.Extensions()["partitionkey"], "web01")
	var r events.Result
	is.NoErr(events.DataAs(e, &r))
	is.Equal(r.Message, "<x> & y")
	is.Equal(string(r.Document), `{"a":"<&>"}`) // untouched
	again, err := events.Marshal(e)
	is.NoErr(err)
	is.Equal(string(again), string(b))
}

// The first two made version 2.16.2 of the SDK panic; keep them after any upgrade.
func TestDecodeRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"the SDK's nil dereference":     `{"datacontentencoding":"","specversion":"0.3","id":"1","source":"a","type":"t"}`,
		"the SDK's slice out of bounds": `{"data_base64":5,"specversion":"1.0","id":"1","source":"a","type":"t"}`,
		"data_base64 before its type":   `{"specversion":"1.0","data_base64":5,"id":"1","source":"a","type":"t"}`,
		"an empty member":               `{"specversion":"1.0","":1,"id":"1","source":"a","type":"t"}`,
		"a repeated member":             `{"specversion":"1.0","id":"1","id":"2","source":"a","type":"t"}`,
		"bytes after it":                `{"specversion":"1.0","id":"1","source":"a","type":"t"} x`,
		"no type":                       `{"specversion":"1.0","id":"1","source":"a"}`,
		"an old version":                `{"specversion":"0.3","id":"1","source":"a","type":"t"}`,
		"a list":                        `[]`,
		"nothing":                       ``,
		"both kinds of data":            `{"specversion":"1.0","id":"1","source":"a","type":"t","data":1,"data_base64":"aGk="}`,
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			_, err := events.Decode([]byte(in))
			is.True(errors.Is(err, events.ErrEvent)) // refused with a reason
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"a","type":"t","data":{"status":"OK"}}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"a","type":"t","data_base64":"aGk="}`))
	f.Add([]byte(`{"datacontentencoding":"","specversion":"0.3","id":"1","source":"a","type":"t"}`))
	f.Add([]byte(`{"data_base64":5,"specversion":"1.0","id":"1","source":"a","type":"t"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := events.Decode(in)
		if err != nil {
			return
		}
		first, err := events.Marshal(e)
		if err != nil {
			return // an event may hold data that is no JSON
		}
		e2, err := events.Decode(first)
		if err != nil {
			t.Fatalf("decodes once only: %v\n%s", err, first)
		}
		second, err := events.Marshal(e2)
		if err != nil || string(first) != string(second) {
			t.Fatalf("unstable: %v\n%s\n%s", err, first, second)
		}
	})
}
