package events

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// DecodeResult reads a structured CloudEvent of [TypeResult], as [Decode] and
// [DataAs] do, at a fraction of their cost where it is plain, which those of
// workers and of most services are. at is zero where the event has no time. The
// document of the result is a part of b. The error wraps [ErrEvent], [ErrResult]
// or [ErrStatus].
func DecodeResult(b []byte) (id string, at time.Time, r Result, err error) {
	var v view
	if v.parse(b) && string(v.kind) == TypeResult && parseResult(v.data, &r) {
		return string(v.id), v.time, r, nil
	}
	e, err := Decode(b)
	if err != nil {
		return "", at, Result{}, err
	}
	return ResultOf(e)
}

// ResultOf returns id, time and data of an event of [TypeResult]. The error
// wraps [ErrEvent], [ErrResult] or [ErrStatus].
func ResultOf(e event.Event) (id string, at time.Time, r Result, err error) {
	if e.Type() != TypeResult {
		return "", at, r, otherType(e, TypeResult)
	}
	if at = e.Time(); !writable(at) {
		at = time.Time{} // as if it had none
	}
	return e.ID(), at, r, DataAs(e, &r)
}

func otherType(e event.Event, want string) error {
	return fmt.Errorf("%w: its type is %s, here only %s is read", ErrResult, e.Type(), want)
}

// view is what of a plain event matters. Its slices are parts of the bytes that
// were parsed; nothing is allocated.
type view struct {
	id, source, kind, subject []byte
	contentType               []byte
	time                      time.Time // zero for none
	data                      []byte    // valid JSON
	extensions                [3]extension
}

// extension is one of those that are known; its value is nil where it is absent.
type extension struct {
	name  string
	value []byte
}

// event makes an event of the SDK of v, as the SDK itself reads it.
func (v *view) event() (event.Event, bool) {
	source := types.ParseURIRef(string(v.source))
	if source == nil {
		return event.Event{}, false
	}
	c := &event.EventContextV1{ID: string(v.id), Source: *source, Type: string(v.kind)}
	if v.subject != nil {
		subject := string(v.subject)
		c.Subject = &subject
	}
	if v.contentType != nil {
		c.DataContentType = event.StringOfApplicationJSON()
	}
	if !v.time.IsZero() {
		c.Time = &types.Timestamp{Time: v.time}
	}
	for _, x := range v.extensions {
		if x.value == nil {
			continue
		}
		if c.Extensions == nil {
			c.Extensions = make(map[string]any, len(v.extensions))
		}
		c.Extensions[x.name] = string(x.value)
	}
	return event.Event{Context: c, DataEncoded: bytes.Clone(v.data)}, true
}

// parse is false for everything that is not plain, be it valid or not: escapes,
// bytes beyond ASCII in attributes, members that are unknown or given twice,
// binary data, times in another zone. What it takes, the SDK takes with the same
// values; FuzzLeanDecode says so.
func (v *view) parse(b []byte) bool {
	if len(b) > MaxEvent {
		return false
	}
	const specversion, id, source, kind, data = 1, 2, 4, 8, 16
	seen, bit, ok := 0, 0, false
	end := members(b, blank(b, 0), func(name, value []byte) bool {
		text, quoted := plainText(value)
		switch string(name) {
		case "specversion":
			bit, ok = specversion, quoted && string(text) == "1.0"
		case "id":
			bit, ok, v.id = id, quoted && graphic(text), text
		case "source":
			bit, ok, v.source = source, quoted && graphic(text) && urn(text), text
		case "type":
			bit, ok, v.kind = kind, quoted && graphic(text), text
		case "data":
			bit, ok, v.data = data, true, value
		case "subject":
			bit, ok, v.subject = 32, quoted && len(text) > 0 && text[0] != ' ', text
		case "datacontenttype":
			bit, ok, v.contentType = 64, quoted && string(text) == event.ApplicationJSON, text
		case "time":
			bit = 128
			v.time, ok = parseTime(text)
			ok = ok && quoted && !v.time.IsZero()
		case "partitionkey":
			bit, ok, v.extensions[0] = 256, quoted && len(text) > 0, extension{"partitionkey", text}
		case "sequence":
			bit, ok, v.extensions[1] = 512, quoted && len(text) > 0, extension{"sequence", text}
		case "causationid":
			bit, ok, v.extensions[2] = 1024, quoted && len(text) > 0, extension{"causationid", text}
		default:
			return false
		}
		twice := seen&bit != 0
		seen |= bit
		return ok && !twice
	})
	const required = specversion | id | source | kind | data
	return end >= 0 && seen&required == required && len(bytes.TrimLeft(b[end:], " \t\r\n")) == 0
}

// parseResult reads a plain result, and is false for any other.
func parseResult(b []byte, r *Result) bool { return resultAt(b, 0, r) == len(b) }

// resultAt reads the plain result that begins at i, and returns where it ends; -1
// for any other.
func resultAt(b []byte, i int, r *Result) (end int) {
	seen, bit, ok := 0, 0, false
	end = members(b, i, func(name, value []byte) bool {
		switch string(name) {
		case "status":
			bit = 1
			r.Status, ok = plainStatus(value)
		case "message":
			bit = 2
			r.Message, ok = plainMessage(value)
		case "latency_seconds":
			bit = 4
			r.LatencySeconds, ok = plainFloat(value)
		case "document":
			bit, ok, r.Document = 8, string(value) != "null" && len(value) <= MaxDocument && !Deeper(value, MaxDepth), value
		case "worker":
			bit = 16
			r.Worker, ok = plainString(value)
		case "pool":
			bit = 32
			r.Pool, ok = plainPool(value)
		case "reg":
			bit = 64
			r.Reg, ok = plainUint(value)
		case "lease":
			bit = 128
			r.Lease, ok = plainUint(value)
		case "due":
			bit = 256
			var due uint64
			due, ok = plainUint(value)
			r.Due = int64(due)
		default: // a ttl, an origin, or anything else that workers do not set
			return false
		}
		twice := seen&bit != 0
		seen |= bit
		return ok && !twice
	})
	if seen&3 != 3 {
		return -1
	}
	return end
}

func plainStatus(value []byte) (Status, bool) {
	text, ok := plainText(value)
	if !ok {
		return Unknown, false
	}
	for i, name := range statusNames {
		if string(text) == name {
			return Status(i), true
		}
	}
	return Unknown, false
}

// plainMessage reads a string without escapes, in UTF-8.
func plainMessage(value []byte) (string, bool) {
	if value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 || len(value)-2 > MaxMessage || !utf8.Valid(value) {
		return "", false
	}
	return string(value[1 : len(value)-1]), true
}

func plainString(value []byte) (string, bool) {
	text, ok := plainText(value)
	return string(text), ok
}

// plainPool is plainString, without a string of its own for the pool of most checks.
func plainPool(value []byte) (string, bool) {
	if string(value) == `"`+DefaultPool+`"` {
		return DefaultPool, true
	}
	return plainString(value)
}

// plainText is what stands between quotes: ASCII, and no escapes.
func plainText(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	text := value[1 : len(value)-1]
	for _, c := range text {
		if c > '~' || c == '\\' {
			return nil, false
		}
	}
	return text, true
}

// graphic reports whether there is something, and no blank in it.
func graphic(text []byte) bool { return len(text) > 0 && bytes.IndexByte(text, ' ') < 0 }

// plainUint reads digits, few enough for 63 bits.
func plainUint(value []byte) (n uint64, ok bool) {
	if len(value) > 18 {
		return 0, false
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// plainFloat reads a number such as 0.012345.
func plainFloat(value []byte) (float64, bool) {
	if c := value[0]; c < '0' || c > '9' || len(value) > 24 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(value), 64)
	return f, err == nil
}

// parseTime reads a time in UTC as RFC 3339 has it.
func parseTime(b []byte) (t time.Time, ok bool) {
	const form = "2006-01-02T15:04:05"
	last := len(b) - 1
	if last < len(form) || b[last] != 'Z' {
		return t, false
	}
	for i := range len(form) {
		digit := form[i] >= '0' && form[i] <= '9'
		if digit && (b[i] < '0' || b[i] > '9') || !digit && b[i] != form[i] {
			return t, false
		}
	}
	nanos, ok := parseFraction(b[len(form):last])
	two := func(i int) int { return int(b[i]-'0')*10 + int(b[i+1]-'0') }
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, minute, second := two(11), two(14), two(17)
	if !ok || month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59 {
		return t, false
	}
	t = time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	return t, t.Day() == day
}

// parseFraction reads nothing, or a point and up to nine digits, as nanoseconds.
func parseFraction(b []byte) (nanos int, ok bool) {
	if len(b) == 0 {
		return 0, true
	}
	if b[0] != '.' || len(b) < 2 || len(b) > 10 {
		return 0, false
	}
	for i := 1; i < 10; i++ {
		nanos *= 10
		if i < len(b) {
			if b[i] < '0' || b[i] > '9' {
				return 0, false
			}
			nanos += int(b[i] - '0')
		}
	}
	return nanos, true
}
