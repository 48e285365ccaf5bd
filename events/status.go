package events

import (
	"errors"
	"fmt"
)

// Status is the verdict on a check or host, in the words of the original
// Megaphone. The zero value is Unknown, never OK.
type Status uint8

// The statuses. Their severity is OK < Unknown < Warning < Critical.
const (
	Unknown Status = iota
	OK
	Warning
	Critical
)

// ErrStatus is wrapped by every error about a word that is not a status.
var ErrStatus = errors.New("not a status")

var statusNames = [...]string{Unknown: "Unknown", OK: "OK", Warning: "Warning", Critical: "Critical"}

var severities = [...]int{Unknown: 1, OK: 0, Warning: 2, Critical: 3}

// Statuses lists all statuses, least severe first.
func Statuses() []Status { return []Status{OK, Unknown, Warning, Critical} }

// ParseStatus reads a status as the original writes it; case matters.
// The error wraps [ErrStatus].
func ParseStatus(s string) (Status, error) {
	for i, name := range statusNames {
		if s == name {
			return Status(i), nil
		}
	}
	return Unknown, fmt.Errorf("%q is %w: use OK, Unknown, Warning or Critical", s, ErrStatus)
}

// String returns the original's word for s.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// Severity orders statuses: 0 for OK, 1 Unknown, 2 Warning, 3 Critical.
func (s Status) Severity() int { return severities[s] }

// MarshalText writes the word.
func (s Status) MarshalText() ([]byte, error) {
	if int(s) >= len(statusNames) {
		return nil, fmt.Errorf("%d is %w", uint8(s), ErrStatus)
	}
	return []byte(statusNames[s]), nil
}

// UnmarshalText reads the word; the error wraps [ErrStatus].
func (s *Status) UnmarshalText(text []byte) error {
	v, err := ParseStatus(string(text))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// Worse returns the more severe of a and b.
func Worse(a, b Status) Status {
	if b.Severity() > a.Severity() {
		return b
	}
	return a
}

// Phase is a fact beside the status, never a severity. Readers take a phase
// that they do not know as [Live].
type Phase string

// The phases. Where several hold, the first in this order is told.
const (
	Gone        Phase = "gone"        // deregistered
	Maintenance Phase = "maintenance" // set by hand; does not count towards its host
	Overridden  Phase = "overridden"  // its status is set by hand
	Stale       Phase = "stale"       // no result for too long
	Pending     Phase = "pending"     // no result yet
	Live        Phase = "live"        // the status is what the last results said
)

// Phases lists the phases in their order.
func Phases() []Phase { return []Phase{Gone, Maintenance, Overridden, Stale, Pending, Live} }
