package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// ContentType is the media type of a structured CloudEvent in JSON.
const ContentType = "application/cloudevents+json"

// MaxEvent is the size in bytes above which an event is refused: a status
// document, its message and room for attributes.
const MaxEvent = 256 << 10

// MaxDepth is how deeply an event, or a document in one, may be nested. Readers of JSON
// allow ten thousand levels, of which whatever is put around them needs some.
const MaxDepth = 1000

// Deeper reports whether JSON is nested more deeply than so many levels.
func Deeper(b []byte, levels int) bool {
	if len(b) <= levels {
		return false // nearly all
	}
	now, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			if now++; now > levels {
				return true
			}
		case c == '}', c == ']':
			now--
		}
	}
	return false
}

// ErrEvent is wrapped by every error about bytes that are not a CloudEvent.
var ErrEvent = errors.New("bad CloudEvent")

// Header is what Megaphone sets in the envelope of an event.
type Header struct {
	Type      string
	Source    string // an absolute URI
	ID        string // unique per source
	Host      string // the subject names host and check, the partitionkey the host
	Check     string
	Time      time.Time // zero for none
	Sequence  string    // extension; empty for none
	Causation string    // extension causationid: the id of the event that caused it; empty for none
}

// Encode returns the structured CloudEvent of h with data as JSON.
func Encode(h Header, data any) ([]byte, error) {
	if b, ok := encodeLean(h, data); ok {
		return b, nil
	}
	e, err := New(h, data)
	if err != nil {
		return nil, err
	}
	return Marshal(e)
}

// New builds the CloudEvent of h with data as JSON. The error wraps [ErrEvent].
func New(h Header, data any) (event.Event, error) {
	e := event.New()
	e.SetType(h.Type)
	e.SetSource(h.Source)
	e.SetID(h.ID)
	if h.Host != "" {
		e.SetSubject(SubjectName(h.Host, h.Check))
		e.SetExtension("partitionkey", h.Host)
	}
	if h.Sequence != "" {
		e.SetExtension("sequence", h.Sequence)
	}
	if h.Causation != "" {
		e.SetExtension("causationid", h.Causation)
	}
	if !h.Time.IsZero() {
		e.SetTime(h.Time.UTC().Truncate(time.Millisecond))
	}
	body, err := marshal(data)
	if err != nil {
		return e, fmt.Errorf("%w: encode %s: %w", ErrEvent, h.Type, err)
	}
	if err := e.SetData(event.ApplicationJSON, body); err != nil {
		return e, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	e.DataBase64 = false // the SDK takes bytes for binary data; these are JSON, to be read by people too
	if err := e.Validate(); err != nil {
		return e, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	return e, nil
}

// marshal is json.Marshal without the escaping of <, > and &: a document must
// come out as it went in.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Marshal writes a valid CloudEvent as structured JSON. Data that is JSON stands
// in it as such, also where it came as bytes, in binary mode.
func Marshal(e event.Event) ([]byte, error) {
	if e.DataBase64 && e.DataMediaType() == event.ApplicationJSON && json.Valid(e.Data()) {
		e.DataBase64 = false
	}
	b, err := e.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	return b, nil
}

// Decode reads a structured CloudEvent from bytes that anyone may have sent,
// and validates it. It never panics. The error wraps [ErrEvent].
func Decode(b []byte) (event.Event, error) {
	var v view
	if v.parse(b) {
		if e, ok := v.event(); ok {
			return e, nil
		}
	}
	return decodeAny(b)
}

// decodeAny is [Decode] by the SDK, which is guarded here.
func decodeAny(b []byte) (e event.Event, err error) {
	if len(b) > MaxEvent {
		return e, fmt.Errorf("%w: %d bytes, %d are allowed", ErrEvent, len(b), MaxEvent)
	}
	if err := gate(b); err != nil {
		return e, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrEvent, p)
		}
	}()
	if err := e.UnmarshalJSON(b); err != nil {
		return e, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	return e, Validate(e)
}

// Validate checks an event that came by another way than [Decode], such as a
// binary HTTP request. The error wraps [ErrEvent].
func Validate(e event.Event) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrEvent, err)
	}
	if e.SpecVersion() != event.CloudEventsVersionV1 {
		return fmt.Errorf("%w: specversion %q, only 1.0 is read", ErrEvent, e.SpecVersion())
	}
	return nil
}

// gate refuses what the SDK's parser (v2.16.2) panics at, stops at silently or
// reads in two ways: other spec versions, members of older ones, an empty or
// repeated member, a data_base64 that is no string, and bytes after the object.
func gate(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	t, err := dec.Token()
	if err != nil || t != json.Delim('{') {
		return fmt.Errorf("%w: not a JSON object", ErrEvent)
	}
	seen := make(map[string]bool, 12)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrEvent, err)
		}
		name, _ := t.(string) // in an object every other token is one
		if seen[name] {
			return fmt.Errorf("%w: member %q twice", ErrEvent, name)
		}
		seen[name] = true
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return fmt.Errorf("%w: %w", ErrEvent, err)
		}
		if err := gateMember(name, v); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("%w: %w", ErrEvent, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more bytes after the object", ErrEvent)
	}
	if !seen["specversion"] {
		return fmt.Errorf("%w: no specversion", ErrEvent)
	}
	if seen["data"] && seen["data_base64"] {
		return fmt.Errorf("%w: both data and data_base64", ErrEvent)
	}
	return nil
}

func gateMember(name string, v json.RawMessage) error {
	switch name {
	case "", "datacontentencoding", "schemaurl":
		return fmt.Errorf("%w: member %q does not belong into version 1.0", ErrEvent, name)
	case "specversion":
		if string(v) != `"1.0"` {
			return fmt.Errorf("%w: specversion %s, only \"1.0\" is read", ErrEvent, Cut(string(v), 32))
		}
	case "data_base64":
		if v[0] != '"' {
			return fmt.Errorf("%w: data_base64 must be a string", ErrEvent)
		}
	}
	return nil
}

// DataAs reads the data of an event into v, a pointer. The error wraps [ErrEvent].
func DataAs(e event.Event, v any) error {
	if len(e.Data()) == 0 {
		return fmt.Errorf("%w: %s has no data", ErrEvent, e.Type())
	}
	if err := json.Unmarshal(e.Data(), v); err != nil {
		return fmt.Errorf("%w: data of %s: %w", ErrEvent, e.Type(), err)
	}
	return nil
}
