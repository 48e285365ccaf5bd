package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// OutageAfter is how long the bus must have stored nothing for silence to be
// excused. Shorter pauses, such as a restart, excuse nothing.
const OutageAfter = 10 * time.Second

// signSubject are keys without an end in the bucket of leases. One is written each
// second by every process that holds leases: they themselves are forgotten within
// seconds, and would not tell for how long nobody was there. A process takes one
// key after the other, so that what is written right after an outage does not
// hide it at once.
const signSubject = "$KV." + BucketLeases + ".sign."

// signKeys is for how many seconds an outage is remembered: soon after it, it is told.
const signKeys = 64

// errNoPulse ends a session, and refuses leases until the next one: this process
// or the bus stood still, or a clock was set. Whether it was the bus has to be
// found out first.
var errNoPulse = errors.New("no sign of life was stored for too long")

// pulse is when the last sign of life was stored, by this process's clocks. The
// zero value is never.
type pulse struct {
	mu   sync.Mutex
	last time.Time
}

func (p *pulse) beat(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = now
}

// missed reports whether the last one is too long ago. The monotonic clock stands
// still while the machine is suspended, the wall clock leaps when it is set.
func (p *pulse) missed(now time.Time, after time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.last) > after || now.Round(0).Sub(p.last.Round(0)).Abs() > after
}

// signs gives a sign of life each second until ctx ends, or until one was missed.
// While the connection is away none is kept for later: it would hide that the bus
// was away.
func (l *Leases) signs(ctx context.Context) error {
	t := time.NewTicker(leaseRenew)
	defer t.Stop()
	for {
		now := time.Now()
		if l.pulse.missed(now, l.outageAfter) {
			return errNoPulse
		}
		if err := l.sign(ctx); err == nil {
			l.pulse.beat(now)
		} else if ctx.Err() == nil {
			l.log.Debug("sign of life was not stored", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (l *Leases) sign(ctx context.Context) error {
	b, err := json.Marshal(leaseRecord{V: events.RecordVersion, Holder: l.o.Holder, Name: l.o.Name})
	if err != nil {
		return err
	}
	// One key after the other, none left out, and all processes at about the same:
	// so they remember a minute, however many they are.
	if now := time.Now().Unix(); max(now-l.signed, l.signed-now) > 2 {
		l.signed = now
	}
	key := strconv.FormatInt(l.signed%signKeys, 10)
	if _, err = l.c.storeNow(ctx, &nats.Msg{Subject: signSubject + key, Data: b, Header: nats.Header{}}); err == nil {
		l.signed++
	}
	return err
}

// tellOutage stores a record on events.TickAll if nothing was stored for longer
// than after, so that aggregators do not take the silence of that time for that
// of services. It has to be called before the first write after connecting, and
// by every process that writes: otherwise the first write hides the outage.
func (c *Conn) tellOutage(ctx context.Context, after time.Duration) error {
	from, to, err := c.lastGap(ctx, after)
	if err != nil {
		return fmt.Errorf("look for an outage: %w", err)
	}
	if from.IsZero() {
		return nil
	}
	b, err := events.Encode(
		events.Header{Type: events.TypeTick, Source: c.source(), ID: nuid.Next(), Time: to},
		events.Tick{Outage: &events.Outage{From: events.At(from), To: events.At(to)}},
	)
	if err != nil {
		return err
	}
	c.log.Info("the bus was away: deadlines of that time are put off", "from", from, "to", to)
	_, err = c.Store(ctx, Message(events.TickAll, b), jetstream.WithMsgID("outage-"+strconv.FormatInt(from.UnixNano(), 10)))
	return err
}

// lastGap returns the last time for which nobody gave a sign of life for longer
// than after; the zero time where there was none lately.
func (c *Conn) lastGap(ctx context.Context, after time.Duration) (from, to time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var states [3]jetstream.StreamState
	for i, name := range []string{StreamChanges, StreamState, StreamResults} {
		s, err := c.js.Stream(ctx, name)
		if err != nil {
			return from, to, fmt.Errorf("ask for the stream %s: %w", name, err)
		}
		info := s.CachedInfo()
		states[i] = info.State
		if info.TimeStamp.After(to) {
			to = info.TimeStamp
		}
	}
	signs, err := c.lifeSigns(ctx)
	if err != nil {
		return from, to, err
	}
	for _, s := range states[:2] {
		if s.Msgs > 0 {
			signs = append(signs, s.LastTime)
		}
	}
	from, to = gap(signs, to, after)
	result, err := c.lastResult(ctx, states[2], to, after)
	if err != nil {
		return time.Time{}, to, err
	}
	if result.After(from) {
		from = result
	}
	if to.Sub(from) <= after {
		from = time.Time{}
	}
	return from, to, nil
}

// gap returns the last time without signs that is longer than after. Where there is
// none, both times are now; from is zero where there are no signs at all.
func gap(signs []time.Time, now time.Time, after time.Duration) (from, to time.Time) {
	slices.SortFunc(signs, func(a, b time.Time) int { return b.Compare(a) }) // the newest first
	to = now
	known := time.Time{}
	for _, from := range signs {
		if from.After(now) { // the clock was set back
			continue
		}
		if to.Sub(from) > after {
			return from, to
		}
		to, known = from, now
	}
	return known, now
}

// lastResult is when the last result was stored, but for those that clients
// sent at once when the bus came back: they may be faster than this process.
func (c *Conn) lastResult(ctx context.Context, s jetstream.StreamState, now time.Time, after time.Duration) (time.Time, error) {
	if s.Msgs == 0 {
		return time.Time{}, nil
	}
	since := now.Add(-after)
	if s.LastTime.Before(since) {
		return s.LastTime, nil
	}
	stream, err := c.js.Stream(ctx, StreamResults)
	if err != nil {
		return time.Time{}, err
	}
	cons, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: 5 * time.Second,
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("read the stream %s: %w", StreamResults, err)
	}
	m, err := cons.Next(jetstream.FetchMaxWait(2 * time.Second))
	if err != nil {
		return time.Time{}, fmt.Errorf("read the stream %s: %w", StreamResults, err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return time.Time{}, err
	}
	before, err := stream.GetMsg(ctx, meta.Sequence.Stream-1)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return s.LastTime, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read the stream %s: %w", StreamResults, err)
	case meta.Timestamp.Sub(before.Time) > after:
		return before.Time, nil
	}
	return s.LastTime, nil
}

// lifeSigns are the times at which the leases and signs that are kept were written.
// The marks that the server leaves where a lease ended by itself are none.
func (c *Conn) lifeSigns(ctx context.Context) (signs []time.Time, err error) {
	f, err := c.follow(ctx, streamLeases, 0)
	if err != nil {
		return nil, err
	}
	defer f.close()
	for left := f.pending > 0; left; {
		m, meta, err := f.next(ctx)
		if err != nil {
			return nil, err
		}
		if m.Headers().Get(markerReason) == "" {
			signs = append(signs, meta.Timestamp)
		}
		left = meta.NumPending > 0
	}
	return signs, nil
}
