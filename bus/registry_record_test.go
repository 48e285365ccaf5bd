package bus

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/events"
)

// FuzzReadRecord: a message is read as the same record in the short way and in
// the long one, which the name of the header in lower case leads to.
func FuzzReadRecord(f *testing.F) {
	const event = `{"specversion":"1.0","id":"1","source":"urn:x","type":"` + events.TypeRegistered + `","data":%s}`
	const subject = "megaphone.registration.web01.db"
	for _, data := range []string{
		`{"id":"db","host":"web01","url":"http://x/","interval":"60s"}`, `{"url":"http://x/"}`, `{"host":"WEB01","id":"db","ttl":"60s"}`,
		`{"id":"other","url":"http://x/"}`, `{"host":"web02","url":"http://x/"}`, `{}`, `{"url":"exec:/bin/true"}`, `{"interval":"0s","url":""}`, `{"more":1}`,
	} {
		f.Add(subject, fmt.Appendf(nil, event, data))
	}
	f.Add("megaphone.registration.web01", fmt.Appendf(nil, event, `{"url":"http://x/"}`))
	f.Add("megaphone.override.web01.db", fmt.Appendf(nil, event, `{"url":"http://x/"}`))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		read := func(header string) (record, string, error) {
			m := Plain(&nats.Msg{Subject: subject, Header: nats.Header{header: {events.ContentType}}, Data: data})
			r, e, err := readRecord(m, 7, time.Unix(1, 0))
			if err != nil {
				return r, "", err
			}
			body, err := eventJSON(m, e)
			return r, string(body), err
		}
		got, gotJSON, gotErr := read("Content-Type")
		want, wantJSON, wantErr := read("content-type")
		if (gotErr == nil) != (wantErr == nil) || gotJSON != wantJSON || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s %s\nshort: %+v %s %v\nlong:  %+v %s %v", subject, data, got, gotJSON, gotErr, want, wantJSON, wantErr)
		}
	})
}
