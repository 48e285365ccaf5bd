package pollers

import "time"

// window counts what happened in the last minute, in slots of five seconds. The
// zero value is empty. It has no clock: times are Unix milliseconds.
type window struct {
	began int64 // of the first count; 0 for none
	slots [windowSlots]windowSlot
}

const (
	windowSlots = 12
	slotLength  = 5000 // milliseconds of one slot
)

type windowSlot struct {
	number   int64 // time divided by the slot's length
	polls    uint64
	failures uint64 // found nothing out
	dropped  uint64 // were due again before they were begun
	late     int64  // milliseconds after its due time that the latest one began
}

// at is the slot of now, emptied of what was counted a minute ago.
func (w *window) at(now int64) *windowSlot {
	if w.began == 0 {
		w.began = now
	}
	n := now / slotLength
	s := &w.slots[n%windowSlots]
	if s.number != n {
		*s = windowSlot{number: n}
	}
	return s
}

// sum is what was counted in the minute before now, and its length so far.
func (w *window) sum(now int64) (sum windowSlot, length time.Duration) {
	for _, s := range w.slots {
		if s.number > now/slotLength-windowSlots && s.number <= now/slotLength {
			sum.polls += s.polls
			sum.failures += s.failures
			sum.dropped += s.dropped
			sum.late = max(sum.late, s.late)
		}
	}
	since := max(w.began, (now/slotLength-windowSlots+1)*slotLength)
	if w.began == 0 {
		since = now
	}
	return sum, time.Duration(max(now-since, 0)) * time.Millisecond
}
