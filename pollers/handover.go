package pollers

import (
	"strconv"
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
// life are made again.
func handedOver(lease bus.Lease, now int64) handover {
	margin := takeoverMargin.Milliseconds()
	if polled, err := strconv.ParseInt(lease.Note, 10, 64); err == nil {
		// Due times are the same for all workers, but not their clocks.
		polled = min(polled, now+margin)
		return handover{polled: polled, known: polled - margin}
	}
	if lease.Previous.IsZero() {
		return handover{}
	}
	since := lease.Previous.UnixMilli() - margin
	return handover{polled: since, known: since}
}

// leaveNote is what a holder leaves that has begun all polls that were due until
// a time.
func leaveNote(polled int64) string { return strconv.FormatInt(polled, 10) }

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
