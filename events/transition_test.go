package events_test

import (
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// Source and id together never repeat: numbers begin anew where all data was lost,
// and CHANGES was made anew then.
func TestTransitionSource(t *testing.T) {
	is := is.New(t)
	before, after := time.UnixMicro(1_700_000_000_000_000), time.UnixMicro(1_700_000_000_000_001)
	is.Equal(events.TransitionSource(before, "web01", ""), "urn:megaphone:1700000000000000:web01")
	is.Equal(events.TransitionSource(before, "web01", "db"), "urn:megaphone:1700000000000000:web01:db")
	is.Equal(events.TransitionSource(after, "web01", "db"), "urn:megaphone:1700000000000001:web01:db")
}
