package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrOverride is wrapped by every error about an override's content.
var ErrOverride = errors.New("bad override")

// MinDuration is the shortest interval, timeout or ttl.
const MinDuration = 10 * time.Millisecond

// Override is a lease on a status: the data of [TypeOverrideSet]. It holds for
// a check, for a host (Check empty), or for all checks that bear the labels of
// Select.
type Override struct {
	Host   string            `json:"host,omitempty"`
	Check  string            `json:"check,omitempty"`
	Name   string            `json:"name,omitempty"`   // of an override that selects by label
	Select map[string]string `json:"select,omitempty"` // all of these labels

	Status      *Status `json:"status,omitempty"`
	Maintenance bool    `json:"maintenance,omitempty"`
	Reason      string  `json:"reason,omitempty"`
	By          string  `json:"by,omitempty"`
	Until       Time    `json:"until,omitzero"`       // when it ends
	Forever     bool    `json:"forever,omitempty"`    // it ends only when cleared
	UntilPush   bool    `json:"until_push,omitempty"` // it ends at the next push of its check

	// Global is the url of the original's --global as posted; absent for every
	// other override.
	Global json.RawMessage `json:"global,omitempty"`
}

// Validate checks an override. The error wraps [ErrOverride] and says what to do.
func (o Override) Validate() error {
	switch {
	case o.Maintenance == (o.Status != nil):
		return fmt.Errorf("%w: give either a status or \"maintenance\":true", ErrOverride)
	case o.Until.IsZero() && !o.Forever && !o.UntilPush:
		return fmt.Errorf("%w: say when it ends: until (a time, or a span such as \"2h\") or \"until\":\"forever\"", ErrOverride)
	case !writable(o.Until.Time):
		return fmt.Errorf("%w: until is a time that UTC has no year for, of four digits", ErrOverride)
	case len(o.Reason) > MaxMessage || len(o.By) > MaxLabelBytes:
		return fmt.Errorf("%w: reason has at most %d bytes, by %d", ErrOverride, MaxMessage, MaxLabelBytes)
	case len(o.Select) > MaxLabels:
		return fmt.Errorf("%w: select has %d labels, %d are allowed", ErrOverride, len(o.Select), MaxLabels)
	case len(o.Global) > MaxURL:
		return fmt.Errorf("%w: global has %d bytes, %d are allowed", ErrOverride, len(o.Global), MaxURL)
	case (o.Name != "") != (len(o.Select) > 0) || o.Name != "" && o.Host+o.Check != "":
		return fmt.Errorf("%w: an override is of a host, of a check, or has a name and select", ErrOverride)
	}
	for k, v := range o.Select {
		if len(k) > MaxLabelBytes || len(v) > MaxLabelBytes {
			return fmt.Errorf("%w: select: keys and values have at most %d bytes", ErrOverride, MaxLabelBytes)
		}
	}
	return nil
}

// Matches reports whether a selecting override holds for a check with these labels.
func (o Override) Matches(labels map[string]string) bool {
	for k, v := range o.Select {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return len(o.Select) > 0
}

// Text is the message of what the override hides.
func (o Override) Text() string {
	word := "overridden"
	if o.Maintenance {
		word = "maintenance"
	}
	switch {
	case o.Reason != "" && o.By != "":
		return word + " by " + o.By + ": " + o.Reason
	case o.Reason != "":
		return word + ": " + o.Reason
	case o.By != "":
		return word + " by " + o.By
	}
	return word
}
