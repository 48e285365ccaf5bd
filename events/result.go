package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrResult is wrapped by every error about a result's content.
var ErrResult = errors.New("bad result")

// Result is what one poll or push found: the data of [TypeResult]. A service
// that pushes has to give the status only.
type Result struct {
	Status         Status          `json:"status"`
	Message        string          `json:"message"`
	LatencySeconds float64         `json:"latency_seconds,omitempty"`
	TTL            Duration        `json:"ttl,omitzero"`       // of this push alone
	Document       json.RawMessage `json:"document,omitempty"` // what the service said, untouched; absent where it said nothing
	Origin         string          `json:"origin,omitempty"`   // who pushed it, as far as known

	// Set by workers, meaningless in a push. Reg, Lease and Due order the
	// results of a check: see Order.
	Worker string `json:"worker,omitempty"`
	Pool   string `json:"pool,omitempty"`
	Reg    uint64 `json:"reg,omitempty"`   // position of the registration that was polled
	Lease  uint64 `json:"lease,omitempty"` // epoch of the worker's lease
	Due    int64  `json:"due,omitempty"`   // when the poll was due, Unix milliseconds

	// Suspect is why the result does not count: its worker suspects itself.
	Suspect string `json:"suspect,omitempty"`
}

// Order is what orders the polled results of a check: the position of its
// registration, the epoch of the worker's lease, the time at which the poll was
// due. It must grow from result to result; one that does not is a duplicate, a
// zombie's, late, or of a registration that was replaced.
type Order struct {
	Reg   uint64 `json:"reg,omitempty"`
	Lease uint64 `json:"lease,omitempty"`
	Due   int64  `json:"due,omitempty"`
}

// Order returns the order key of a polled result.
func (r Result) Order() Order { return Order{r.Reg, r.Lease, r.Due} }

// After reports whether o comes after p.
func (o Order) After(p Order) bool {
	switch {
	case o.Reg != p.Reg:
		return o.Reg > p.Reg
	case o.Lease != p.Lease:
		return o.Lease > p.Lease
	}
	return o.Due > p.Due
}

// NoMessage is the original's text for a document that has no message.
func NoMessage(s Status) string { return "Detected " + s.String() + " state [no message specified]" }

// UnmarshalJSON reads a result as a service may write it: the status is
// required; a message of null is none, one that is no string becomes compact
// JSON. The error wraps [ErrResult] or [ErrStatus].
func (r *Result) UnmarshalJSON(b []byte) error {
	type plain Result
	in := struct {
		Status  *json.RawMessage `json:"status"`
		Message *json.RawMessage `json:"message"`
		*plain
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("%w: %w", ErrResult, err)
	}
	if in.Status == nil {
		return fmt.Errorf("%w: it has no status; give one of OK, Unknown, Warning, Critical", ErrResult)
	}
	if err := json.Unmarshal(*in.Status, &r.Status); err != nil {
		return fmt.Errorf("%w: status %s: %w", ErrResult, Cut(string(*in.Status), 64), ErrStatus)
	}
	r.Message = NoMessage(r.Status)
	if in.Message != nil {
		if text, ok := MessageText(*in.Message); ok {
			r.Message = text
		}
	}
	r.Message = Cut(r.Message, MaxMessage)
	if len(r.Document) > MaxDocument {
		return fmt.Errorf("%w: its document has %d bytes, %d are allowed", ErrResult, len(r.Document), MaxDocument)
	}
	if Deeper(r.Document, MaxDepth) {
		return fmt.Errorf("%w: its document is nested more than %d levels deep", ErrResult, MaxDepth)
	}
	return nil
}

// MessageText reads the message of a status document: a string as it is,
// anything else as compact JSON; null is no message.
func MessageText(v json.RawMessage) (text string, ok bool) {
	if len(v) == 0 || string(v) == "null" {
		return "", false
	}
	if v[0] == '"' && json.Unmarshal(v, &text) == nil {
		return text, true
	}
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return string(v), true
	}
	return b.String(), true
}

// Cut shortens s to at most n bytes, at the start of a character, and marks the cut.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "..."
	end := max(n-len(mark), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.ToValidUTF8(s[:end], "") + mark
}
