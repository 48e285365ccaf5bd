package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrDuration is wrapped by every error about a duration.
var ErrDuration = errors.New("bad duration")

// Duration is a span of time that is read as "60s" (Go's form) or as a number
// of seconds, and written as seconds with the unit: "60s", "0.5s".
type Duration time.Duration

// ParseDuration reads "90s", "1h30m" or a bare number of seconds, "0.5".
// Negative spans are refused. The error wraps [ErrDuration].
func ParseDuration(s string) (Duration, error) {
	s = strings.TrimSpace(s)
	if seconds, err := strconv.ParseFloat(s, 64); err == nil {
		return fromSeconds(seconds)
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%w: %q; write it as \"60s\" or as a number of seconds", ErrDuration, Cut(s, 64))
	}
	if d > maxSeconds*time.Second { // the longest of all are written as what no time.Duration holds
		return 0, fmt.Errorf("%w: %q; it must be 0 to %d seconds", ErrDuration, s, maxSeconds)
	}
	return Duration(d), nil
}

// ParseSince reads a time (RFC 3339), or a span before now. The error wraps
// [ErrDuration].
func ParseSince(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	d, err := ParseDuration(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w, or a time as in 2026-11-22T10:00:00Z", err)
	}
	return now.Add(-d.D()), nil
}

const maxSeconds = 100 * 365 * 24 * 3600 // a hundred years: far inside what a time.Duration holds

func fromSeconds(seconds float64) (Duration, error) {
	if !(seconds >= 0 && seconds <= maxSeconds) {
		return 0, fmt.Errorf("%w: %v seconds; it must be 0 to %d", ErrDuration, seconds, maxSeconds)
	}
	return Duration(seconds * float64(time.Second)), nil
}

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String writes seconds with the unit, as in "60s".
func (d Duration) String() string {
	return strconv.FormatFloat(time.Duration(d).Seconds(), 'f', -1, 64) + "s"
}

// MarshalJSON writes d as a string, as in "60s".
func (d Duration) MarshalJSON() ([]byte, error) { return []byte(`"` + d.String() + `"`), nil }

// UnmarshalJSON reads a string ("60s", "60") or a number of seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	text := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	v, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*d = v
	return nil
}

const milliLayout = "2006-01-02T15:04:05.000Z"

// Time is an instant as Megaphone writes it: RFC 3339, UTC, milliseconds. The
// zero Time is written as null and, with omitzero, left out.
type Time struct{ time.Time }

// At returns t in UTC, cut to milliseconds.
func At(t time.Time) Time {
	if t.IsZero() {
		return Time{}
	}
	return Time{t.UTC().Truncate(time.Millisecond)}
}

// writable reports whether RFC 3339 has an instant in UTC: of some that it has in
// other zones the year has five digits, or a sign.
func writable(t time.Time) bool {
	year := t.UTC().Year()
	return 0 <= year && year <= 9999
}

// MarshalJSON writes the instant with exactly three decimals.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return []byte(`"` + t.UTC().Format(milliLayout) + `"`), nil
}

// String writes t as MarshalJSON does, without quotes.
func (t Time) String() string { return t.UTC().Format(milliLayout) }
