package pollers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nuid"
)

// poll looks at a check once and publishes what it found, while the lease holds.
func (w *Worker) poll(h *held, t *task) {
	if !w.pollOnce(h, t) {
		w.done(t)
	}
}

// pollOnce is poll, and true where the poll has been ended.
func (w *Worker) pollOnce(h *held, t *task) (ended bool) {
	if !h.lease.Valid() { // this process was stopped for a while: others may poll by now
		w.spare(t)
		return false
	}
	w.counts.polls.Add(1)
	start := time.Now()
	ctx := &pollContext{Context: h.ctx, deadline: start.Add(t.timeout)}
	f := w.look(ctx, t)
	latency := time.Since(start)
	ctx.end()
	wanted := w.fetched(t, f.Err)
	if w.conf.Logger.Enabled(ctx, slog.LevelDebug) {
		w.conf.Logger.Debug("polled", "host", t.host, "check", t.check, "status", f.Status, "latency", latency, "error", f.Err)
	}
	if h.ctx.Err() != nil || !wanted { // an interrupted poll says nothing about its check
		w.counts.discarded.Add(1)
		t.interrupted = true
		return false
	}
	end := start.Add(latency)
	result := events.Result{
		Status: f.Status, Message: f.Message, Document: f.Document, LatencySeconds: microseconds(latency),
		Worker: w.conf.Name, Pool: t.slot.pool, Reg: t.reg, Lease: h.lease.Epoch, Due: t.key,
		Suspect: w.canary.verdict(h.ctx, start, end, f.Err == nil && f.Status == events.OK),
	}
	if w.postpone(h, t, result, end) {
		return true
	}
	w.tell(t, w.publish(h, t, result, end))
	return false
}

// spare gives the target of a poll free that is not begun.
func (w *Worker) spare(t *task) {
	w.counts.discarded.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	t.interrupted = true
	w.agenda.fetched(t, time.Now().UnixMilli())
	w.rouse()
}

// look runs the check of t. One of a local kind has to be what this process's own
// files say: whatever came by the bus, its origin included, can be forged.
func (w *Worker) look(ctx context.Context, t *task) Finding {
	if t.local == nil {
		return w.kinds.Check(ctx, t.target)
	}
	if w.conf.Local != nil {
		if own, ok := w.conf.Local(t.host, t.check); ok && t.host == w.conf.Host && own.Equal(*t.local) {
			return w.kinds.Check(ctx, t.target)
		}
	}
	err := fmt.Errorf("not looked at: a check of kind %s is taken %w", events.Scheme(t.target.Addr), events.ErrLocal)
	if events.Scheme(t.target.Addr) == "file" {
		return missing(t.target, err) // the original's text: its clients register those
	}
	return failed(t.target, err)
}

// fetched gives the target free for the next poll. It reports whether the
// result is still wanted: not where the check is gone or now looks elsewhere.
func (w *Worker) fetched(t *task, err error) (wanted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		t.failures = -1
	case t.failures >= 0:
		t.failures++
	}
	at := time.Now().UnixMilli()
	if err != nil {
		w.counts.failures.Add(1)
		w.recent.at(at).failures++
	}
	w.agenda.fetched(t, at)
	w.rouse()
	if !t.removed {
		return true
	}
	now := w.tasks[name{t.host, t.check}]
	return now != nil && now.target == t.target && now.slot == t.slot
}

func (w *Worker) done(t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended(t, time.Now().UnixMilli())
}

// ended says that a poll is over. The caller holds mu.
func (w *Worker) ended(t *task, now int64) {
	if !t.interrupted {
		t.slot.settle(t)
	}
	dropped := w.agenda.done(t, now)
	if !t.interrupted && w.orders.wanted(t) { // by somebody who came after the answer
		w.agenda.hurry(t, now)
	}
	w.counts.dropped.Add(dropped)
	w.recent.at(now).dropped += uint64(dropped)
	w.rouse()
}

// A result is published again this often, with pauses that double.
const (
	publishTries = 4
	publishPause = 50 * time.Millisecond
)

var errLease = errors.New("the lease has ended")

// publish stores a result that travels alone while the lease is valid. A second
// copy of one whose acknowledgement was lost does no harm: its key does not grow.
func (w *Worker) publish(h *held, t *task, result events.Result, at time.Time) events.PollReply {
	header := events.Header{Type: events.TypeResult, Source: w.source(), ID: nuid.Next(), Host: t.host, Check: t.check, Time: at}
	var err error
	for n := range publishTries {
		if n > 0 && !sleep(h.ctx, publishPause<<(n-1)) {
			break
		}
		if !h.lease.Valid() {
			err = errors.Join(err, errLease)
			break
		}
		var position uint64
		if position, err = w.conf.Conn.PublishResult(h.ctx, t.host, t.check, header, result); err == nil {
			t.noted(result, true)
			return events.PollReply{Position: position, Suspect: result.Suspect}
		}
	}
	t.noted(result, false)
	if h.ctx.Err() != nil || errors.Is(err, errLease) {
		w.counts.discarded.Add(1) // whoever has the lease now polls the check
		t.interrupted = true
		return moved
	}
	w.lost(t, err)
	return events.PollReply{Refused: "the result could not be stored: " + err.Error()}
}

// source is that of the worker's events.
func (w *Worker) source() string { return "urn:megaphone:worker:" + events.Token(w.conf.Name) }

// lost counts a result that could not be published, and logs it at most once a
// second: where one is lost, all are.
func (w *Worker) lost(t *task, err error) {
	n := w.counts.lost.Add(1)
	now, last := time.Now().Unix(), w.counts.warned.Load()
	if now > last && w.counts.warned.CompareAndSwap(last, now) {
		w.conf.Logger.Warn("publish result", "host", t.host, "check", t.check, "error", err, "lost", n)
	}
}

// microseconds rounds to them and returns seconds, so that the number is short.
func microseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e6 }

// sleep reports whether it was not interrupted.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
