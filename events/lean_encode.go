package events

import (
	"strconv"
	"strings"
	"time"
)

// Most events are plain: their attributes are ASCII that JSON does not escape.
// Those are written here, in the order and form of the SDK, byte for byte, at a
// tenth of its cost. Whatever is not plain is left to the SDK: ok is false, and
// nothing is said about whether it is valid.

// encodeLean is [Encode] for a plain event.
func encodeLean(h Header, data any) (b []byte, ok bool) {
	if b, ok = appendHead(make([]byte, 0, sizeOf(data)), h); !ok {
		return nil, false
	}
	switch data := data.(type) {
	case Result:
		b, ok = appendResult(b, data)
	case Report:
		b, ok = appendReport(b, data)
	default:
		var body []byte
		var err error
		if body, err = marshal(data); err == nil {
			b, ok = append(b, body...), true
		}
	}
	return appendTail(b, h), ok
}

// sizeOf is how many bytes most events with such data have at most.
func sizeOf(data any) int {
	const around = 512 // names and attributes
	switch data := data.(type) {
	case Result:
		return around + len(data.Message) + len(data.Document)
	case Report:
		size := around
		for _, p := range data.Results {
			size += around/2 + len(p.Result.Message) + len(p.Result.Document)
		}
		return size
	}
	return around
}

// appendHead appends what comes before the data.
func appendHead(b []byte, h Header) (_ []byte, ok bool) {
	if !dense(h.ID) || !urn(h.Source) || !dense(h.Type) || !plain(h.Host) || !plain(h.Check) || !plain(h.Sequence) || !plain(h.Causation) {
		return b, false
	}
	if name := h.Host + h.Check; strings.HasSuffix(name, " ") || h.Host == "" && name != "" {
		return b, false // the SDK cuts blanks off
	}
	at := h.Time.UTC().Truncate(time.Millisecond)
	if y := at.Year(); h.Time.IsZero() || y < 1 || y > 9999 {
		return b, false
	}
	b = append(b, `{"specversion":"1.0","id":"`...)
	b = append(b, h.ID...)
	b = append(b, `","source":"`...)
	b = append(b, h.Source...)
	b = append(b, `","type":"`...)
	b = append(b, h.Type...)
	if h.Host != "" {
		b = append(b, `","subject":"`...)
		b = appendSubjectName(b, h.Host, h.Check)
	}
	b = append(b, `","datacontenttype":"application/json","time":"`...)
	b = at.AppendFormat(b, time.RFC3339Nano)
	return append(b, `","data":`...), true
}

// appendTail appends what comes after the data.
func appendTail(b []byte, h Header) []byte {
	b = appendExtension(b, "causationid", h.Causation)
	b = appendExtension(b, "partitionkey", h.Host)
	b = appendExtension(b, "sequence", h.Sequence)
	return append(b, '}')
}

func appendExtension(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':', '"')
	b = append(b, value...)
	return append(b, '"')
}

// plain reports whether s is ASCII that stands in JSON as it is, whoever writes
// it: some writers escape what is special in HTML.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// dense is plain, without blanks, and not empty.
func dense(s string) bool { return s != "" && strings.IndexByte(s, ' ') < 0 && plain(s) }

// urn reports whether s is a URN that is certainly written as it is read.
func urn[T string | []byte](s T) bool {
	const scheme = "urn:"
	if len(s) <= len(scheme) || string(s[:len(scheme)]) != scheme {
		return false
	}
	for i := len(scheme); i < len(s); i++ {
		if c := s[i]; !tokenByte(c) && c != ':' && c != '.' {
			return false
		}
	}
	return true
}

// appendResult appends r as [marshal] writes it; ok is false where r is unusual.
func appendResult(b []byte, r Result) (_ []byte, ok bool) {
	if int(r.Status) >= len(statusNames) || r.TTL != 0 || r.Suspect != "" {
		return b, false
	}
	b = append(b, `{"status":"`...)
	b = append(b, statusNames[r.Status]...)
	b = append(b, `","message":`...)
	if b, ok = appendText(b, r.Message); !ok {
		return b, false
	}
	if l := r.LatencySeconds; l != 0 {
		if l < 1e-6 || l >= 1e21 { // written with an exponent, or no number
			return b, false
		}
		b = append(b, `,"latency_seconds":`...)
		b = strconv.AppendFloat(b, l, 'f', -1, 64)
	}
	if len(r.Document) > 0 {
		b = append(b, `,"document":`...)
		if b, ok = appendCompact(b, r.Document); !ok {
			return b, false
		}
	}
	if b, ok = appendMember(b, `,"origin":`, r.Origin); !ok {
		return b, false
	}
	if b, ok = appendMember(b, `,"worker":`, r.Worker); !ok {
		return b, false
	}
	if b, ok = appendMember(b, `,"pool":`, r.Pool); !ok {
		return b, false
	}
	if r.Reg != 0 {
		b = strconv.AppendUint(append(b, `,"reg":`...), r.Reg, 10)
	}
	if r.Lease != 0 {
		b = strconv.AppendUint(append(b, `,"lease":`...), r.Lease, 10)
	}
	if r.Due != 0 {
		b = strconv.AppendInt(append(b, `,"due":`...), r.Due, 10)
	}
	return append(b, '}'), true
}

func appendMember(b []byte, name, value string) (_ []byte, ok bool) {
	if value == "" {
		return b, true
	}
	return appendText(append(b, name...), value)
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) (_ []byte, ok bool) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := marshal(s)
			return append(b, quoted...), err == nil
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), true
}

// appendCompact appends valid JSON without the blanks between its tokens.
func appendCompact(b, doc []byte) (_ []byte, ok bool) {
	end := skipValue(doc, blank(doc, 0), 0)
	if end < 0 || blank(doc, end) != len(doc) {
		return b, false
	}
	for i := blank(doc, 0); i < end; i = blank(doc, i) {
		next := i + 1
		if doc[i] == '"' {
			next = skipString(doc, i)
		}
		b = append(b, doc[i:next]...)
		i = next
	}
	return b, true
}
