package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"
	"pgregory.net/rapid"

	"github.com/looprock/megaphone/events"
)

// Whatever happens to the checks of a host, in whatever order, the tally that is
// kept amounts to what all of them do.
func TestTallyIsTheSummary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		is := is.New(t)
		regs := newRegs()
		v := NewView(regs, 10*time.Second)
		number := uint64(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			number++
			id := fmt.Sprintf("c%d", rapid.IntRange(0, 5).Draw(t, "check"))
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				delete(regs.checks["web01"], id)
				v.RefreshRegistration("web01", id)
			case 1, 2:
				regs.add("web01", id, number, false)
				v.RefreshRegistration("web01", id)
			case 3:
				v.RefreshRegistration("", "")
			case 4:
				if rapid.IntRange(0, 3).Draw(t, "reset") == 0 {
					v.Reset()
				}
			default:
				s := live("web01", id, number, rapid.SampledFrom(events.Statuses()).Draw(t, "status"), fmt.Sprint(number), number)
				s.V, s.Number = events.RecordVersion, number
				s.Phase = rapid.SampledFrom([]events.Phase{events.Live, events.Stale, events.Pending, events.Maintenance, events.Overridden, events.Gone}).Draw(t, "phase")
				if s.Phase == events.Gone {
					s.Basis = events.Gone
				}
				v.ApplyCheck(s, false)
			}
			h := v.hosts["web01"]
			if h == nil {
				continue
			}
			var states []*events.CheckState
			for _, c := range h.order {
				states = append(states, c.shown())
			}
			is.Equal(h.summary(), events.Summarize(states))
		}
	})
}
