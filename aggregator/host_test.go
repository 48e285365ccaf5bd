package aggregator

import (
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func checkIn(id string, s events.Status, p events.Phase) *events.CheckState {
	return &events.CheckState{Host: "web01", Check: id, Status: s, Phase: p, Reported: s, Basis: p, Message: id + " says"}
}

func TestReduceHost(t *testing.T) {
	ok, down := checkIn("a", events.OK, events.Live), checkIn("b", events.Critical, events.Live)
	pending, gone := checkIn("c", events.Unknown, events.Pending), checkIn("d", events.Unknown, events.Gone)
	for name, tt := range map[string]struct {
		checks []*events.CheckState
		want   string
		told   bool
		text   string
		notOK  []string
	}{
		"of which nothing is known":      {nil, "Unknown pending", false, "", nil},
		"with pending checks alone":      {[]*events.CheckState{pending}, "Unknown pending", false, "", nil},
		"without a live check":           {[]*events.CheckState{gone}, "Unknown gone", true, events.TextNoChecks, nil},
		"where all is well":              {[]*events.CheckState{ok}, "OK live", true, events.TextAllOK, nil},
		"the worst check wins":           {[]*events.CheckState{ok, down, pending, gone}, "Critical live", true, "b:Critical:b says", []string{"b"}},
		"maintenance makes it not worse": {[]*events.CheckState{ok, checkIn("m", events.Critical, events.Maintenance)}, "OK live", true, events.TextAllOK, nil},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h, out := ReduceHost(events.HostState{}, "web01", tt.checks, nil, events.CauseResult, at(1))
			is.Equal(h.Status.String()+" "+string(h.Phase), tt.want)
			is.Equal(out.Transition != nil, tt.told)
			if tt.told {
				is.Equal(out.Transition.Number, uint64(1))
				is.Equal(out.Transition.Previous, events.Moment{Phase: events.Pending})
				is.Equal(out.Transition.Message, tt.text)
				is.Equal(out.Transition.Checks, tt.notOK)
				is.Equal(out.Transition.Cause, events.CauseResult)
			}
			again, out := ReduceHost(h, "web01", tt.checks, nil, events.CauseResult, at(2))
			is.Equal(again, h) // nothing new
			is.Equal(out, Outcome{})
		})
	}
}

func TestReduceHost_Override(t *testing.T) {
	is := is.New(t)
	checks := []*events.CheckState{checkIn("a", events.OK, events.Live)}
	h, _ := ReduceHost(events.HostState{}, "web01", checks, nil, events.CauseResult, at(1))
	o := &events.Override{Status: ptr(events.Critical), Until: events.At(at(10)), By: "--global"}
	h, out := ReduceHost(h, "web01", checks, HostLevels{Override: o, OverridePos: 4}, events.CauseRegistration, at(2))
	is.Equal(out.Transition.Cause, events.CauseOverride)
	is.Equal(out.Transition.Message, "overridden by --global")
	is.Equal(h.Status, events.Critical)
	is.Equal(h.Reported, events.OK)
	is.Equal(NextHostDeadline(h), at(10))

	h, out = ReduceHost(h, "web01", checks, Tick{}, "", at(9))
	is.Equal(out, Outcome{})
	h, out = ReduceHost(h, "web01", checks, Tick{}, "", at(10))
	is.Equal(out.Transition.Cause, events.CauseExpired)
	is.Equal(out.Ended, o)
	is.Equal(h.Number, uint64(3))
	h, out = ReduceHost(h, "web01", checks, HostLevels{Override: o, OverridePos: 4}, "", at(11))
	is.Equal(out, Outcome{}) // it does not come back
	is.Equal(h.Phase, events.Live)

	o = &events.Override{Maintenance: true, UntilPush: true}
	h, _ = ReduceHost(h, "web01", checks, HostLevels{Override: o, OverridePos: 12}, "", at(12))
	is.Equal(h.Phase, events.Maintenance)
	h, out = ReduceHost(h, "web01", checks, Pushed{}, events.CauseResult, at(13))
	is.Equal(out.Transition.Cause, events.CauseExpired)
	is.Equal(h.Phase, events.Live)
}

func TestReduceHost_OverrideWithoutChecks(t *testing.T) {
	is := is.New(t)
	o := &events.Override{Status: ptr(events.Critical), Forever: true}
	h, out := ReduceHost(events.HostState{}, "web01", nil, HostLevels{Override: o, OverridePos: 4}, "", at(2))
	is.Equal(out.Transition.Number, uint64(1))
	is.Equal(h.Phase, events.Overridden)
	h, out = ReduceHost(h, "web01", nil, HostLevels{}, "", at(3))
	is.Equal(out.Transition.Number, uint64(2))
	is.Equal(h.Phase, events.Gone)
}

func TestReduceHost_BoundsWhatItTells(t *testing.T) {
	is := is.New(t)
	var checks []*events.CheckState
	for range 100 {
		c := checkIn("x", events.Critical, events.Live)
		c.Message = strings.Repeat("m", 1000)
		checks = append(checks, c)
	}
	_, out := ReduceHost(events.HostState{}, "web01", checks, nil, events.CauseResult, at(1))
	is.Equal(len(out.Transition.Checks), events.MaxTold)
	is.True(len(out.Transition.Message) <= events.MaxMessage)
}
