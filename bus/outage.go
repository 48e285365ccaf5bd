package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// OutageAfter is how long the bus must have stored nothing for silence to be
// excused. Shorter pauses, such as a restart, excuse nothing.
const OutageAfter = 10 * time.Second

// signSubject is a key without an end in the bucket of leases. It is written
// each second by every process that holds leases: they themselves are forgotten
// within seconds, and would not tell for how long nobody was there.
const signSubject = "$KV." + BucketLeases + ".sign"

// signs gives a sign of life each second until ctx ends. While the connection is
// away none is kept for later: it would hide that the bus was away.
func (l *Leases) signs(ctx context.Context) {
	t := time.NewTicker(leaseRenew)
	defer t.Stop()
	for {
		if err := l.sign(ctx); err != nil && ctx.Err() == nil {
			l.log.Debug("sign of life was not stored", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (l *Leases) sign(ctx context.Context) error {
	b, err := json.Marshal(leaseRecord{V: events.RecordVersion, Holder: l.o.Holder, Name: l.o.Name})
	if err != nil {
		return err
	}
	_, err = l.c.storeNow(ctx, &nats.Msg{Subject: signSubject, Data: b, Header: nats.Header{}})
	return err
}

// tellOutage stores a record on events.TickAll if nothing was stored for longer
// than after, so that aggregators do not take the silence of that time for that
// of services. It has to be called before the first write after connecting, and
// by every process that writes: otherwise the first write hides the outage.
func (c *Conn) tellOutage(ctx context.Context, after time.Duration) error {
	from, to, err := c.lastSign(ctx, after)
	if err != nil {
		return fmt.Errorf("look for an outage: %w", err)
	}
	if from.IsZero() || to.Sub(from) <= after {
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

// lastSign returns the bus time of the last sign of life before now, which is to.
func (c *Conn) lastSign(ctx context.Context, after time.Duration) (from, to time.Time, err error) {
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
	note := func(t time.Time) {
		if t.After(from) {
			from = t
		}
	}
	for _, s := range states[:2] {
		if s.Msgs > 0 {
			note(s.LastTime)
		}
	}
	t, err := c.lastResult(ctx, states[2], to, after)
	if err != nil {
		return from, to, err
	}
	note(t)
	t, err = c.lastLease(ctx)
	note(t)
	return from, to, err
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

// lastLease is when somebody last wrote a lease or a sign of life. The marks that
// the server leaves where a lease ended by itself are none.
func (c *Conn) lastLease(ctx context.Context) (last time.Time, err error) {
	f, err := c.follow(ctx, streamLeases, 0)
	if err != nil {
		return last, err
	}
	defer f.close()
	for left := f.pending > 0; left; {
		m, meta, err := f.next(ctx)
		if err != nil {
			return last, err
		}
		if m.Headers().Get(markerReason) == "" && meta.Timestamp.After(last) {
			last = meta.Timestamp
		}
		left = meta.NumPending > 0
	}
	return last, nil
}
