package pollers

import (
	"math"
	"time"

	"github.com/looprock/megaphone/bus"
)

// debt is a poll that the next holder has to make if this one does not end it:
// of its last renewal alone that could not be told.
type debt uint8

const (
	noPoll    debt = iota
	duePoll        // it was due before the lease began
	firstPoll      // nobody may have polled the check yet
)

// owe notes a debt of a task, whose due time is that of the poll, in a slot that
// is held.
func (s *slot) owe(t *task, d debt) {
	safe := handover{polled: math.MaxInt64, known: math.MaxInt64}
	if d == duePoll {
		safe.polled = t.due - 1
	} else {
		safe.known = t.stored - 1
	}
	h := s.held
	if h.owing > 0 {
		safe = safe.and(h.safe)
	}
	h.owing, h.safe, t.owed = h.owing+1, safe, d
}

// settle notes that a poll is not owed any more, if it was.
func (s *slot) settle(t *task) {
	if t.owed != noPoll && s.held != nil {
		s.held.owing--
	}
	t.owed = noPoll
}

// mark is what renewals of a lease tell for the case that this process dies:
// nothing where all that was due until then has been polled.
func (w *Worker) mark(pool string, lease bus.Lease) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now().UnixMilli()
	s := w.slots[slotKey{pool, lease.Partition}]
	if s == nil || s.held == nil { // not yet opened, or closed: as if nothing had been polled
		return handedOver(lease, now).text()
	}
	all := handover{polled: now, known: now}
	safe := all
	if s.held.owing > 0 {
		safe = safe.and(s.held.safe)
	}
	if behind := w.agenda.behind(now); behind > takeoverMargin {
		safe.polled = min(safe.polled, now-behind.Milliseconds()-1)
	}
	if s.due < len(s.tasks) { // some wait for their target, or are being polled
		for t := range s.tasks {
			if t.index < 0 && t.owed != firstPoll && t.due < now-takeoverMargin.Milliseconds() {
				safe.polled = min(safe.polled, t.due-1)
			}
		}
	}
	if safe == all {
		return ""
	}
	return safe.text()
}
