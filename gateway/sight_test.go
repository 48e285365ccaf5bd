package gateway

import (
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

// What is told of a host is current at once, but for its times, and the clock
// alone makes it stale.
func TestSightOfHost(t *testing.T) {
	is := is.New(t)
	regs := newRegs()
	regs.add("h", "a", 1, false)
	regs.add("h", "b", 1, false)
	v := NewView(regs, 10*time.Second)
	v.RefreshRegistration("", "")
	now := time.Now()
	apply := func(id string, status events.Status, number uint64, seen time.Time) {
		s := live("h", id, 1, status, "m", number)
		s.V, s.Number, s.Seen, s.Observed = events.RecordVersion, number, seen, seen
		v.ApplyCheck(s, false)
	}
	_, ok := v.sightHost("nope", now)
	is.True(!ok)
	s, ok := v.sightHost("h", now)
	is.True(ok)
	is.Equal(s.phase, events.Pending)
	_, known := s.age(now)
	is.True(!known)

	apply("a", events.OK, 1, now.Add(-2*time.Second))
	apply("b", events.OK, 1, now.Add(-5*time.Second))
	s, _ = v.sightHost("h", now)
	is.Equal(s.status, events.OK)
	age, _ := s.age(now)
	is.Equal(age, 5*time.Second) // of the oldest
	next, _ := s.nextIn(now)
	is.Equal(next, 5*time.Second) // of the first
	is.Equal(s.phaseAt(now), events.Live)
	is.Equal(s.phaseAt(now.Add(29*time.Second)), events.Live) // a still counts
	is.Equal(s.phaseAt(now.Add(31*time.Second)), events.Stale)
	host, _ := v.Host("h", now.Add(31*time.Second))
	is.Equal(host.Phase, events.Stale)
	is.Equal(*host.NextSeconds, 0.0)

	apply("b", events.Critical, 2, now)
	s, _ = v.sightHost("h", now) // in the same instant: the status is never kept
	is.Equal(s.status, events.Critical)
	is.Equal(s.message, "b:Critical:m")
	c, ok := v.sightCheck("h", "b")
	is.True(ok)
	is.Equal(c.number, uint64(2))
	_, ok = v.sightCheck("h", "nope")
	is.True(!ok)
}
