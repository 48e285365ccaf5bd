package events_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// What an override holds is part of states, and those have to be told.
func TestOverrideIsNotTooLarge(t *testing.T) {
	long := strings.Repeat("x", events.MaxLabelBytes+1)
	for name, o := range map[string]events.Override{
		"a long url":   {Host: "web01", Global: json.RawMessage(`"` + strings.Repeat("x", events.MaxURL) + `"`)},
		"a long key":   {Name: "n", Select: map[string]string{long: "x"}},
		"a far until":  {Host: "web01", Until: events.Time{Time: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -14*3600))}},
		"a long value": {Name: "n", Select: map[string]string{"x": long}},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			o.Maintenance, o.Forever = true, true
			is.True(errors.Is(o.Validate(), events.ErrOverride))
		})
	}
}
