package main

import (
	"fmt"
	"time"

	"github.com/looprock/megaphone/events"
)

// stale judges that a check was told to be silent: a tick must have come at or
// past its deadline by bus time, outages of the bus taken off as DESIGN.md says.
func (j *checkJudge) stale(c change) {
	v, limit := j.v, j.e.TTL
	if j.polled {
		limit = 3 * j.e.Interval
		v.Away++
	} else {
		v.Silent++
	}
	alarm := func(format string, args ...any) {
		what := fmt.Sprintf(format, args...)
		v.note(&v.FalseAlarms, "false alarm: %s number %d is stale at %s, %s", j.name, c.Transition.Number, clock(c.Decided), what)
	}
	now, ok := j.e.tickOf(c)
	if !ok {
		alarm("without a tick")
		return
	}
	var last time.Time // stays zero if it was never heard of: its registration counts
	for _, r := range j.results {
		if r.Position < now.Position {
			last = r.Stored
		}
	}
	deadline := last.Add(limit)
	for _, t := range j.e.Ticks {
		grace := t.Outage.To.Add(min(limit, time.Minute))
		if t.Partition < 0 && t.Position < now.Position && deadline.After(t.Outage.From) && grace.After(deadline) {
			deadline = grace
		}
	}
	if now.Stored.Before(deadline) && !last.IsZero() {
		alarm("its deadline is %s", clock(deadline))
		return
	}
	for _, o := range silences(j.e.Results, 10*time.Second) {
		if !j.e.recorded(o, now.Position) && o.To.After(last) && o.From.Before(now.Stored) && now.Stored.Before(o.To.Add(min(limit, time.Minute)-early)) {
			alarm("but the bus was away from %s to %s", clock(o.From), clock(o.To))
			return
		}
	}
	if late := now.Stored.Sub(deadline); !last.IsZero() && !j.polled && late > v.Latest {
		v.Latest, v.LatestOf = late, fmt.Sprintf("%s at %s", j.name, clock(now.Stored))
	}
	if j.polled && v.Away <= casesKept {
		v.Cases = append(v.Cases, fmt.Sprintf("stale with right: %s number %d at %s, heard last at %s", j.name, c.Transition.Number, clock(c.Decided), clock(last)))
	}
}

// tickOf finds the tick at which a transition was decided.
func (e *evidence) tickOf(c change) (tick, bool) {
	for _, t := range e.Ticks {
		if t.Partition == events.Partition(c.Transition.Host) && t.Stored.Sub(c.Decided).Abs() < time.Millisecond {
			return t, true
		}
	}
	return tick{}, false
}

// recorded reports whether an outage was recorded before a position. It then ended
// when it was noticed, a little before the first result came.
func (e *evidence) recorded(o span, before uint64) bool {
	for _, t := range e.Ticks {
		if t.Partition < 0 && t.Position < before && t.Outage.From.Before(o.To) && t.Outage.To.After(o.From) {
			return true
		}
	}
	return false
}

// silences are the times in which the bus stored no result at all.
func silences(results []result, longer time.Duration) (list []span) {
	for i := 1; i < len(results); i++ {
		if from, to := results[i-1].Stored, results[i].Stored; to.Sub(from) > longer {
			list = append(list, span{from, to})
		}
	}
	return list
}
