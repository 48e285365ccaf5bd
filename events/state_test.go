package events_test

import (
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func check(id string, s events.Status, p events.Phase, message string) *events.CheckState {
	return &events.CheckState{Check: id, Status: s, Reported: s, Phase: p, Message: message}
}

func TestSummarize(t *testing.T) {
	live, pending, stale, gone := events.Live, events.Pending, events.Stale, events.Gone
	for name, tt := range map[string]struct {
		checks  []*events.CheckState
		status  events.Status
		phase   events.Phase
		message string
	}{
		"nothing registered": {nil, events.Unknown, gone, "No checks are registered!"},
		"all OK":             {[]*events.CheckState{check("a", events.OK, live, "x")}, events.OK, live, "Everything is OK!"},
		"the worst counts": {
			[]*events.CheckState{check("a", events.Unknown, live, "u"), check("b", events.Warning, live, "w|"), check("c", events.OK, live, "")},
			events.Warning, live, "a:Unknown:u|b:Warning:w|",
		},
		"pending does not count": {
			[]*events.CheckState{check("a", events.OK, live, ""), check("b", events.Unknown, pending, "")},
			events.OK, live, "Everything is OK!",
		},
		"only pending": {[]*events.CheckState{check("a", events.Unknown, pending, "")}, events.Unknown, pending, "a:Unknown:no result yet"},
		"all stale":    {[]*events.CheckState{check("a", events.Critical, stale, "silent")}, events.Critical, stale, "a:Critical:silent"},
		"maintenance does not count": {
			[]*events.CheckState{check("a", events.Critical, events.Maintenance, "m"), check("b", events.OK, live, "")},
			events.OK, live, "Everything is OK!",
		},
		"only maintenance": {
			[]*events.CheckState{check("a", events.Critical, events.Maintenance, "m")},
			events.Unknown, events.Maintenance, "a:Critical:m",
		},
		"gone is gone": {[]*events.CheckState{check("a", events.Critical, gone, "m")}, events.Unknown, gone, "No checks are registered!"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			got := events.Summarize(tt.checks)
			is.Equal(got.Status, tt.status)
			is.Equal(got.Phase, tt.phase)
			is.Equal(got.Message, tt.message)
		})
	}
}
