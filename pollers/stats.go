package pollers

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/events"
)

// Stats is what a worker has done since it was made.
type Stats struct {
	Polls     uint64 // that were begun
	Failures  uint64 // that found no status document
	Dropped   uint64 // that were due but not begun: others took too long
	Discarded uint64 // found out too late: the lease or the registration had ended
	Lost      uint64 // that could not be published
	Running   int    // now
	Checks    int    // in the leases held now
}

type counts struct {
	polls, failures, discarded, lost atomic.Uint64
	dropped                          atomic.Int64
	warned                           atomic.Int64 // when a lost result was logged last, Unix seconds
}

// Stats returns what the worker has done so far.
func (w *Worker) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Stats{
		Polls: w.counts.polls.Load(), Failures: w.counts.failures.Load(), Dropped: uint64(w.counts.dropped.Load()),
		Discarded: w.counts.discarded.Load(), Lost: w.counts.lost.Load(), Running: w.agenda.running + w.agenda.slowly,
	}
	for _, slot := range w.slots {
		if slot.held != nil {
			s.Checks += len(slot.tasks)
		}
	}
	return s
}

// begun counts a poll, and those of its check that were dropped before it. The
// caller holds mu.
func (w *Worker) begun(t *task, dropped, now int64) {
	w.counts.dropped.Add(dropped)
	s := w.recent.at(now)
	s.polls++
	s.dropped += uint64(dropped)
	s.late = max(s.late, now-t.due+dropped*t.schedule.interval)
}

// work is how the worker gets on, for its heartbeat and metrics.
func (w *Worker) work(at time.Time) *events.Work {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := at.UnixMilli()
	sum, length := w.recent.sum(now)
	out := &events.Work{
		Partitions: map[string]int{}, Dropped: sum.dropped, Running: w.agenda.running + w.agenda.slowly, Slow: w.agenda.slowly, Suspect: w.canary.suspect(),
		LateSeconds: max(time.Duration(sum.late)*time.Millisecond, w.agenda.behind(now)).Seconds(),
	}
	for _, slot := range w.slots {
		if slot.held != nil {
			out.Partitions[slot.pool]++
			out.Checks += len(slot.tasks)
		}
	}
	if sum.polls > 0 {
		out.ErrorShare = rounded(min(float64(sum.failures)/float64(sum.polls), 1))
		out.PollsPerSecond = rounded(float64(sum.polls) / max(length.Seconds(), 1))
	}
	return out
}

// rounded cuts a number to what people read.
func rounded(x float64) float64 { return math.Round(x*1000) / 1000 }
