package bus_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestReadResultInEveryMode(t *testing.T) {
	c := open(t)
	structured := `{"specversion":"1.0","id":"7","source":"urn:x","type":"megaphone.check.result.v1","time":"2026-11-22T10:00:00Z","data":{"status":"Warning","message":"m"}}`
	for name, m := range map[string]*nats.Msg{
		"structured":                       {Header: nats.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}, Data: []byte(structured)},
		"structured, named in other case":  {Header: nats.Header{"content-type": {"Application/CloudEvents+JSON"}}, Data: []byte(structured)},
		"structured without headers (1.0)": {Data: []byte(structured)},
		"binary": {Header: nats.Header{
			"ce-specversion": {"1.0"}, "CE-ID": {"7"}, "ce-source": {"urn:x"}, "ce-type": {"megaphone.check.result.v1"},
			"ce-time": {"2026-11-22T10:00:00Z"}, "ce-subject": {"Euro%20%E2%82%AC"}, "ce-traceparent": {"x"},
		}, Data: []byte(`{"status":"Warning","message":"m"}`)},
		"bare": {Data: []byte(`{"status":"Warning","message":"m"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			m.Subject = "megaphone.result.web01.db"
			read, err := bus.ReadResults(stored(t, c, m))
			in := read[0]
			is.NoErr(err)
			is.Equal(in.Host, "web01")
			is.Equal(in.Check, "db")
			is.True(!in.Polled)
			is.Equal(in.Result.Status, events.Warning)
			is.Equal(in.Result.Message, "m")
			is.True(in.ID != "" && !in.Stored.IsZero() && !in.Observed.IsZero())
		})
	}
}

func TestReadResultRefuses(t *testing.T) {
	c := open(t)
	ce := nats.Header{"Content-Type": {"application/cloudevents+json"}}
	for name, m := range map[string]*nats.Msg{
		"nothing":               {},
		"not JSON":              {Data: []byte("OK")},
		"no status":             {Data: []byte(`{"message":"x"}`)},
		"an unknown status":     {Data: []byte(`{"status":"fine"}`)},
		"another type":          {Header: ce, Data: []byte(`{"specversion":"1.0","id":"7","source":"urn:x","type":"other","data":{"status":"OK"}}`)},
		"an unknown format":     {Header: nats.Header{"Content-Type": {"application/cloudevents+avro"}}, Data: []byte(`{"status":"OK"}`)},
		"a hostile event":       {Header: ce, Data: []byte(`{"data_base64":5,"specversion":"1.0","id":"1","source":"a","type":"t"}`)},
		"a bad header":          {Header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"%zz"}, "ce-source": {"a"}, "ce-type": {"t"}}},
		"binary, bad time":      {Header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"a"}, "ce-type": {"t"}, "ce-time": {"now"}}},
		"binary, bad name":      {Header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"a"}, "ce-type": {"t"}, "ce-Bad_Name": {"x"}}},
		"binary, old version":   {Header: nats.Header{"ce-specversion": {"0.3"}, "ce-id": {"1"}, "ce-source": {"a"}, "ce-type": {"t"}}},
		"binary, no data":       {Header: nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"a"}, "ce-type": {"megaphone.check.result.v1"}}},
		"a name on the subject": {Subject: "megaphone.result.Web01.db", Data: []byte(`{"status":"OK"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			if m.Subject == "" {
				m.Subject = "megaphone.result.web01.db"
			}
			_, err := bus.ReadResults(stored(t, c, m))
			is.True(errors.Is(err, events.ErrEvent) || errors.Is(err, events.ErrResult) || errors.Is(err, events.ErrSubject)) // refused with a reason
		})
	}
}

// stored publishes m and returns it as a consumer of RESULTS gets it.
func stored(t *testing.T, c *bus.Conn, m *nats.Msg) jetstream.Msg {
	t.Helper()
	pos, err := c.Store(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	cons, err := c.JetStream().CreateConsumer(t.Context(), bus.StreamResults, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: pos, AckPolicy: jetstream.AckNonePolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := cons.Next()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReadReport(t *testing.T) {
	is := is.New(t)
	c := open(t)
	at := time.Now().Add(-time.Second)
	sent := events.Report{Worker: "w1", Pool: "default", Results: []events.PollResult{
		{Host: "web01", Check: "a/b é", Time: events.At(at), Result: events.Result{Status: events.OK, Message: "fine", Reg: 1, Lease: 2, Due: 3}},
		{Host: "web01", Check: "db", Time: events.At(at), Result: events.Result{Status: events.Critical, Document: json.RawMessage(`{"a":1}`)}},
	}}
	partition := events.Partition("web01")
	message := func(partition int, r events.Report) *nats.Msg {
		b, err := events.Encode(events.Header{Type: events.TypeReport, Source: "urn:x", ID: "7", Time: at}, r)
		is.NoErr(err)
		return bus.Message(events.ReportSubject(partition, r.Pool, r.Worker), b)
	}
	got, err := bus.ReadResults(stored(t, c, message(partition, sent)))
	is.NoErr(err)
	is.Equal(len(got), 2)
	for i, in := range got {
		want := sent.Results[i]
		want.Result.Worker, want.Result.Pool = "w1", "default"
		is.Equal(in.Result, want.Result)
		is.Equal([]string{in.Host, in.Check, in.ID}, []string{"web01", want.Check, "7"})
		is.True(in.Polled && in.Observed.Equal(want.Time.Time) && in.Position == got[0].Position && in.Position > 0 && !in.Stored.IsZero())
	}

	bare := message(partition, sent)
	bare.Header = nil
	for name, m := range map[string]*nats.Msg{
		"hosts of another partition": message(partition+1, sent),
		"without content type":       bare,
		"a single result":            {Subject: bare.Subject, Header: message(partition, sent).Header, Data: []byte(`{"specversion":"1.0","id":"7","source":"urn:x","type":"megaphone.check.result.v1","data":{"status":"OK"}}`)},
	} {
		got, err := bus.ReadResults(stored(t, c, m))
		if got != nil || !errors.Is(err, events.ErrEvent) && !errors.Is(err, events.ErrResult) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}
