package pollers

import (
	"context"
	"slices"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nuid"
)

// A result is news until its check was found the same as often in a row as its rise
// and fall ask for; news travel alone, and at once. Every other result says only
// that nothing has changed: it waits for others of its pool and partition of hosts,
// and they travel in one message.
const (
	reportDelay    = 250 * time.Millisecond // so long a result waits at most; a quarter of its interval where that is shorter
	reportAlone    = 32 << 10               // bytes of message and document from which on a result travels alone
	reportPatience = time.Second            // for one answer of the bus
)

// reportKey is what the results of a report have in common.
type reportKey struct {
	pool      string
	partition int // of the hosts, which is not that of the pool
}

// report holds results that wait. It is guarded by the worker's mutex until it is sent.
type report struct {
	reportKey
	due     time.Time
	timer   *time.Timer // sends it
	size    int         // bytes of the results, at most
	results []reported
}

// reported is a result that waits, of a poll that has ended.
type reported struct {
	*held
	*task
	due    int64 // when the poll was
	result events.PollResult
}

// valid reports whether the lease still holds under which the poll was made.
func (r reported) valid() bool { return r.held.ctx.Err() == nil && r.lease.Valid() }

// postpone lets a result that is no news travel in a report, and ends its poll. It
// is false for one that has to travel alone. One of the same check that waits still
// is not sent any more: the new one says all that it said.
func (w *Worker) postpone(h *held, t *task, r events.Result, at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.waits != nil {
		t.waits.remove(t)
	}
	if t.news(r) || w.orders.wanted(t) {
		return false
	}
	r.Worker, r.Pool = "", ""
	now := time.Now()
	rep := w.report(reportKey{t.slot.pool, events.Partition(t.host)}, now.Add(min(reportDelay, t.schedule.Every()/4)))
	h.polls.Add(1) // of what is waited for when the lease is handed over
	rep.add(reported{h, t, t.due, events.PollResult{Host: t.host, Check: t.check, Time: events.At(at), Result: r}})
	if rep.full() {
		delete(w.reports, rep.reportKey)
		rep.timer.Reset(0)
	}
	w.ended(t, now.UnixMilli())
	return true
}

// news reports whether a result has to travel alone.
func (t *task) news(r events.Result) bool {
	return t.same < t.settle || r.Status != t.told || r.Suspect != "" || len(r.Message)+len(r.Document) >= reportAlone || t.schedule.Every() > events.MaxReportInterval
}

// noted notes a result that travelled alone, and was stored or was not.
func (t *task) noted(r events.Result, stored bool) {
	switch {
	case !stored || r.Suspect != "":
		t.same = 0
	case t.same > 0 && t.told == r.Status:
		t.same = min(t.same+1, t.settle)
	default:
		t.told, t.same = r.Status, 1
	}
}

func (r *report) add(x reported) {
	r.results = append(r.results, x)
	r.size += x.result.Size()
	x.waits = r
}

// full reports whether nothing more may be added.
func (r *report) full() bool {
	return len(r.results) >= events.MaxReport || r.size >= events.MaxReportBytes
}

func (r *report) remove(t *task) {
	i := slices.IndexFunc(r.results, func(x reported) bool { return x.task == t })
	x := r.results[i]
	r.results = slices.Delete(r.results, i, i+1)
	r.size -= x.result.Size()
	t.waits = nil
	x.polls.Done()
}

// report returns the report to which a result is added that may wait until due. The
// caller holds mu.
func (w *Worker) report(key reportKey, due time.Time) *report {
	r := w.reports[key]
	switch {
	case r == nil:
		r = &report{reportKey: key, due: due}
		r.timer = time.AfterFunc(time.Until(due), func() { w.send(r) })
		w.reports[key] = r
	case due.Before(r.due):
		r.due = due
		r.timer.Reset(time.Until(due))
	}
	return r
}

// send publishes a report, without those results whose leases have ended.
func (w *Worker) send(r *report) {
	w.mu.Lock()
	if w.reports[r.reportKey] == r {
		delete(w.reports, r.reportKey)
	}
	results := r.results
	r.results = nil // the timer may have been set anew just as it rang
	for _, x := range results {
		x.waits = nil
	}
	w.mu.Unlock()
	if len(results) == 0 {
		return
	}
	header := events.Header{Type: events.TypeReport, Source: w.source(), ID: nuid.Next(), Time: time.Now()}
	var err error
	for n := range publishTries {
		if n > 0 {
			time.Sleep(publishPause << (n - 1)) // not for long: whoever hands over waits
			results = w.stillNew(results)
		}
		if results = w.stillValid(results); len(results) == 0 {
			return
		}
		if err = w.publishReport(r.reportKey, header, results); err == nil {
			break
		}
	}
	for _, r := range results {
		if err != nil {
			w.lost(r.task, err)
		}
		r.polls.Done()
	}
}

func (w *Worker) publishReport(key reportKey, header events.Header, results []reported) error {
	body := events.Report{Worker: w.conf.Name, Pool: key.pool, Results: make([]events.PollResult, len(results))}
	for i, r := range results {
		body.Results[i] = r.result
	}
	ctx, cancel := context.WithTimeout(context.Background(), reportPatience)
	defer cancel()
	_, err := w.conf.Conn.PublishReport(ctx, key.partition, header, body)
	return err
}

// stillValid ends those results that came too late: whoever has the lease now polls
// their checks.
func (w *Worker) stillValid(results []reported) (valid []reported) {
	for _, r := range results {
		if r.valid() {
			valid = append(valid, r)
			continue
		}
		w.counts.discarded.Add(1)
		w.mu.Lock()
		if r.removed { // its due time is read by close; else the agenda has it with its next one
			r.interrupted, r.task.due = true, r.due
		}
		w.mu.Unlock()
		r.polls.Done()
	}
	return valid
}

// stillNew ends those results whose checks have been polled again since: they would
// come after the newer ones, which say more.
func (w *Worker) stillNew(results []reported) (last []reported) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range results {
		if r.key == r.result.Result.Due {
			last = append(last, r)
		} else {
			r.polls.Done()
		}
	}
	return last
}
