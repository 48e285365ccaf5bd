package pollers

import (
	"strconv"
	"strings"
	"time"

	"github.com/looprock/megaphone/bus"
)

// handover is what the holder of a partition knows of its former one. Times are
// Unix milliseconds.
type handover struct {
	polled int64 // what was due until then was polled
	known  int64 // what was registered until then was known
}

// takeoverMargin is how long before the last sign of life of a partition's
// former holder polls may have been due that it did not live to publish, and
// registrations stored that it had not heard of.
const takeoverMargin = time.Second

// handedOver reads what is known of the former holder of a lease. One that
// released the partition left a note, so that no poll is missing or made twice.
// Of one that died only the last renewal tells: polls of the last second of its
// life are made again, and those that it still owed by then.
func handedOver(lease bus.Lease, now int64) handover {
	margin := takeoverMargin.Milliseconds()
	if left, ok := readHandover(lease.Note); ok {
		// Due times are the same for all workers, but not their clocks.
		left.polled = min(left.polled, now+margin)
		left.known = min(left.known, left.polled-margin)
		return left
	}
	if lease.Previous.IsZero() {
		return handover{}
	}
	since := lease.Previous.UnixMilli() - margin
	from := handover{polled: min(since, now-margin), known: since} // the clock of the bus may be ahead of this one, by which polls are due
	if lease.Mark == "" {
		return from
	}
	safe, _ := readHandover(lease.Mark) // one that cannot be read says that there is something: all are polled
	return from.and(safe)
}

// and is what is known where both say so.
func (h handover) and(o handover) handover {
	return handover{polled: min(h.polled, o.polled), known: min(h.known, o.known)}
}

// text is a handover in notes and marks: polled, and known where it is not
// polled less the margin, as releases before marks have it.
func (h handover) text() string {
	polled := strconv.FormatInt(h.polled, 10)
	if h.known == h.polled-takeoverMargin.Milliseconds() {
		return polled
	}
	return polled + " " + strconv.FormatInt(h.known, 10)
}

func readHandover(text string) (h handover, ok bool) {
	first, second, both := strings.Cut(text, " ")
	polled, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return handover{}, false
	}
	known := polled - takeoverMargin.Milliseconds()
	if both {
		if known, err = strconv.ParseInt(second, 10, 64); err != nil {
			return handover{}, false
		}
	}
	return handover{polled: polled, known: known}, true
}

// drainTime is how long polls may go on while their partition is handed over;
// those that need longer are made again by the next holder.
const drainTime = time.Second

// drain waits until the polls under way have ended, which they are told to do
// after drainTime, or as soon as the lease is not valid.
func (h *held) drain() {
	idle := make(chan struct{})
	go func() {
		h.polls.Wait()
		close(idle)
	}()
	defer func() {
		h.cancel()
		<-idle
	}()
	limit := time.NewTimer(drainTime)
	defer limit.Stop()
	look := time.NewTicker(drainTime / 20)
	defer look.Stop()
	for h.lease.Valid() {
		select {
		case <-idle:
			return
		case <-limit.C:
			return
		case <-look.C:
		}
	}
}
