package pollers

import (
	"hash/fnv"
	"time"

	"github.com/looprock/megaphone/events"
)

// Schedule says when a check is due: at phase + k x interval, in Unix
// milliseconds. It is derived from host, check and interval alone, so that every
// worker has the same, and checks of one interval spread over it.
type Schedule struct {
	interval, phase int64 // milliseconds; interval at least 1
}

// NewSchedule returns the schedule of a check. Intervals of less than a
// millisecond count as one.
func NewSchedule(host, check string, interval time.Duration) Schedule {
	h := fnv.New64a()
	h.Write([]byte(events.Token(host) + "." + events.Token(check))) // never fails
	ms := max(interval.Milliseconds(), 1)
	return Schedule{interval: ms, phase: int64(mix(h.Sum64()) % uint64(ms))}
}

// mix spreads all bits of x over its lower ones (the finalizer of MurmurHash3):
// those of FNV hardly differ between names that differ in their end.
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Every returns the interval.
func (s Schedule) Every() time.Duration { return time.Duration(s.interval) * time.Millisecond }

// Next returns the first due time after t.
func (s Schedule) Next(t int64) int64 { return s.Last(t) + s.interval }

// Last returns the last due time that is not after t.
func (s Schedule) Last(t int64) int64 {
	past := (t - s.phase) % s.interval
	if past < 0 {
		past += s.interval
	}
	return t - past
}

// Missed returns how many due times there are after from, up to and including to.
func (s Schedule) Missed(from, to int64) int64 {
	return max((s.Last(to)-s.Last(from))/s.interval, 0)
}

// firstRetry is the pause after the first poll of a check, if that fails.
const firstRetry = 250 * time.Millisecond

// RetryPause is how long to wait after a check has failed n times in a row, at
// least once, and never answered: most services register shortly before they
// are ready. It doubles from 0.25 s up to the interval.
func RetryPause(n int, interval time.Duration) time.Duration {
	pause := firstRetry
	for range min(n-1, 32) {
		if pause *= 2; pause >= interval {
			break
		}
	}
	return min(pause, interval)
}
