package bus

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/matryer/is"
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

// Another registration at the position of one that a power cut took from the stream is
// a change, like one at another position.
func TestIndexChangesAtAPositionGivenAgain(t *testing.T) {
	is := is.New(t)
	made := func(stored time.Time) *index {
		ix := newIndex()
		for i, subject := range []string{events.RegistrationSubject("web01", ""), events.RegistrationSubject("web01", "a"), events.OverrideSubject("web01", ""), events.OverrideSubject("web01", "a")} {
			addr, err := events.ParseSubject(subject)
			is.NoErr(err)
			r := record{subject: subject, addr: addr, position: uint64(i + 7), stored: stored}
			switch {
			case addr.Kind == "override":
				r.override = &events.Override{Host: "web01", Check: addr.Check, Forever: true}
			case addr.Check == "":
				r.host = &events.HostRecord{Host: "web01"}
			default:
				r.check = &events.Registration{Host: "web01", ID: "a"}
			}
			ix.apply(r)
		}
		return ix
	}
	old := made(time.Unix(1, 0))
	is.Equal(len(made(time.Unix(1, 0).UTC()).changes(old)), 0)
	is.Equal(len(made(time.Unix(2, 0)).changes(old)), 4)
	is.Equal(len(newIndex().changes(old)), 4)
}
