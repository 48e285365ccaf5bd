package bus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Msg is what a CloudEvent is read from: a jetstream.Msg, or [Plain].
type Msg interface {
	Subject() string
	Headers() nats.Header
	Data() []byte
}

// Plain makes a message of a core subscription a [Msg].
func Plain(m *nats.Msg) Msg { return plain{m} }

type plain struct{ m *nats.Msg }

func (p plain) Subject() string      { return p.m.Subject }
func (p plain) Headers() nats.Header { return p.m.Header }
func (p plain) Data() []byte         { return p.m.Data }

// errBare says that a message is no CloudEvent at all, but may be bare data.
var errBare = errors.New("no CloudEvent: neither content type nor ce- headers")

// ReadEvent reads a CloudEvent in any content mode of the NATS binding:
// structured (a content type application/cloudevents+json, or none), or binary
// (ce- headers, percent-encoded; names in any case). It validates what it reads,
// and never panics. The error wraps events.ErrEvent.
func ReadEvent(m Msg) (event.Event, error) {
	h := headers(m.Headers())
	switch ct := strings.ToLower(h["content-type"]); {
	case strings.HasPrefix(ct, "application/cloudevents"):
		if media, _, _ := strings.Cut(ct, ";"); strings.TrimSpace(media) != events.ContentType {
			return event.Event{}, fmt.Errorf("%w: content type %q is not read, use %s", events.ErrEvent, ct, events.ContentType)
		}
		return events.Decode(m.Data())
	case h["ce-specversion"] != "":
		return readBinary(h, m.Data())
	case ct == "" && bytes.Contains(m.Data(), []byte(`"specversion"`)):
		return events.Decode(m.Data()) // version 1.0.2 of the binding knew no other mode
	}
	return event.Event{}, fmt.Errorf("%w: %w", events.ErrEvent, errBare)
}

// headers folds names to lower case: they are case-insensitive in the binding.
func headers(in nats.Header) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		if len(v) > 0 {
			out[strings.ToLower(k)] = v[0]
		}
	}
	return out
}

func readBinary(h map[string]string, data []byte) (e event.Event, err error) {
	if len(data) > events.MaxEvent {
		return e, fmt.Errorf("%w: %d bytes, %d are allowed", events.ErrEvent, len(data), events.MaxEvent)
	}
	if v := h["ce-specversion"]; v != event.CloudEventsVersionV1 {
		return e, fmt.Errorf("%w: specversion %q, only 1.0 is read", events.ErrEvent, events.Cut(v, 32))
	}
	e = event.New()
	e.DataEncoded = data
	for name, value := range h {
		name, ok := strings.CutPrefix(name, "ce-")
		if !ok {
			continue
		}
		value, err := url.PathUnescape(value)
		if err != nil || !utf8.ValidString(value) {
			return e, fmt.Errorf("%w: header ce-%s is not percent-encoded UTF-8", events.ErrEvent, name)
		}
		if err := setAttribute(&e, name, value); err != nil {
			return e, err
		}
	}
	if e.DataContentType() == "" {
		e.SetDataContentType(event.ApplicationJSON)
	}
	return e, events.Validate(e)
}

func setAttribute(e *event.Event, name, value string) error {
	switch name {
	case "specversion":
	case "id":
		e.SetID(value)
	case "source":
		e.SetSource(value)
	case "type":
		e.SetType(value)
	case "subject":
		e.SetSubject(value)
	case "datacontenttype":
		e.SetDataContentType(value)
	case "dataschema":
		e.SetDataSchema(value)
	case "time":
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return fmt.Errorf("%w: time %q is not RFC 3339", events.ErrEvent, events.Cut(value, 64))
		}
		e.SetTime(t)
	default:
		e.SetExtension(name, value)
	}
	return nil
}

// Incoming is a result as it lies in the stream RESULTS.
type Incoming struct {
	Host     string
	Check    string
	Polled   bool      // by a worker; else pushed
	Position uint64    // in RESULTS
	Stored   time.Time // bus time: it alone decides
	Observed time.Time // when its sender says that it was observed: shown, never compared
	ID       string    // of the event
	Result   events.Result
}

// ReadResults reads a message of the stream RESULTS that is no tick: the one
// result or, of a report, the several that it holds. A result is a CloudEvent, or
// a bare JSON object with a status. Where there is an error, what could be read of
// one is there. Documents are parts of the message.
func ReadResults(m jetstream.Msg) ([]Incoming, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, fmt.Errorf("read a stored result: %w", err)
	}
	if IsReport(m.Subject()) {
		return ReadReport(m, meta.Sequence.Stream, meta.Timestamp)
	}
	in, err := ReadStoredResult(m, meta.Sequence.Stream, meta.Timestamp)
	return []Incoming{in}, err
}

// ReadStoredResult reads a message that holds one result, whose position and bus
// time are known. Where the error is not nil, the fields that could be read are set.
func ReadStoredResult(m Msg, position uint64, stored time.Time) (Incoming, error) {
	in := Incoming{Position: position, Stored: stored, Observed: stored}
	addr, err := events.ParseSubject(m.Subject())
	in.Host, in.Check, in.Polled = addr.Host, addr.Check, addr.Kind == "polled"
	if err != nil {
		return in, err
	}
	id, at, r, err := readResult(m)
	if errors.Is(err, errBare) {
		in.ID = fmt.Sprintf("%s.%d", StreamResults, in.Position)
		return in, bareResult(m.Data(), &in.Result)
	}
	in.ID, in.Result = id, r
	if !at.IsZero() {
		in.Observed = at
	}
	return in, err
}

// IsReport reports whether a subject is that of a report.
func IsReport(subject string) bool { return strings.HasPrefix(subject, reportPrefix) }

var reportPrefix = strings.TrimSuffix(events.ReportSubjects, "*.*.*")

// ReadReport is [ReadStoredResult] for a report of a worker: its results have its
// position, bus time and id. All hosts are of the partition in its subject.
func ReadReport(m Msg, position uint64, stored time.Time) ([]Incoming, error) {
	if ct := m.Headers()["Content-Type"]; len(ct) != 1 || ct[0] != events.ContentType {
		return nil, fmt.Errorf("%w: a report has the content type %s", events.ErrEvent, events.ContentType)
	}
	// A subject of another form gives a partition of which no host is.
	partition, _, _ := strings.Cut(strings.TrimPrefix(m.Subject(), reportPrefix), ".")
	id, r, err := events.DecodeReport(m.Data())
	if err != nil {
		return nil, err
	}
	in := make([]Incoming, 0, len(r.Results))
	for _, p := range r.Results {
		if strconv.Itoa(events.Partition(p.Host)) != partition {
			return nil, fmt.Errorf("%w: host %s is not of partition %s", events.ErrResult, p.Host, partition)
		}
		in = append(in, Incoming{
			Host: p.Host, Check: p.Check, Polled: true, Position: position, Stored: stored, Observed: p.Time.Time, ID: id, Result: p.Result,
		})
	}
	return in, nil
}

// readResult reads the event of a result. Our own processes send it with one
// header, in one form.
func readResult(m Msg) (id string, at time.Time, r events.Result, err error) {
	if ct := m.Headers()["Content-Type"]; len(ct) == 1 && ct[0] == events.ContentType {
		return events.DecodeResult(m.Data())
	}
	e, err := ReadEvent(m)
	if err != nil {
		return "", at, r, err
	}
	return events.ResultOf(e)
}

func bareResult(data []byte, r *events.Result) error {
	if len(data) > events.MaxEvent {
		return fmt.Errorf("%w: %d bytes, %d are allowed", events.ErrResult, len(data), events.MaxEvent)
	}
	if err := json.Unmarshal(data, r); err != nil {
		return fmt.Errorf("%w: neither a CloudEvent nor a JSON object with a status: %w", events.ErrResult, err)
	}
	return nil
}
