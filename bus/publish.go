package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MaxMessage is the size in bytes, headers included, above which no stream takes
// a message: an event and the state in a transition's header.
const MaxMessage = events.MaxEvent + 64<<10

// Message returns a message that carries a structured CloudEvent.
func Message(subject string, event []byte) *nats.Msg {
	return &nats.Msg{Subject: subject, Data: event, Header: nats.Header{"Content-Type": {events.ContentType}}}
}

// Store publishes into the stream that listens on the subject and returns its
// position there once it is stored: it survives the death of any process, but
// on a single machine not a power cut within the server's sync interval.
func (c *Conn) Store(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (position uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ack, err := c.js.PublishMsg(ctx, msg, opts...)
	if err != nil {
		return 0, fmt.Errorf("store on %s: %w", msg.Subject, err)
	}
	return ack.Sequence, nil
}

// PublishResult stores what a poll found and returns its position in RESULTS.
// It needs the role user: a stranger's push can never pass for a poll.
func (c *Conn) PublishResult(ctx context.Context, host, check string, h events.Header, r events.Result) (position uint64, err error) {
	b, err := events.Encode(h, r)
	if err != nil {
		return 0, err
	}
	return c.storeNow(ctx, Message(events.PolledSubject(host, check), b))
}

// PublishReport is [Conn.PublishResult] for several results of hosts of one
// partition. They are all stored, or none is.
func (c *Conn) PublishReport(ctx context.Context, partition int, h events.Header, r events.Report) (position uint64, err error) {
	b, err := events.Encode(h, r)
	if err != nil {
		return 0, err
	}
	return c.storeNow(ctx, Message(events.ReportSubject(partition, r.Pool, r.Worker), b))
}

// storeNow is [Conn.Store] for what is only true now: while the connection is
// away it fails at once. The client would keep the message and send it when the
// bus is back: a worker that lost its lease would speak, and a lease that nobody
// holds would hide for how long the bus was away.
func (c *Conn) storeNow(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (position uint64, err error) {
	if !c.nc.IsConnected() {
		return 0, fmt.Errorf("store on %s: %w", msg.Subject, errAway)
	}
	return c.Store(ctx, msg, opts...)
}

// Push stores a status that a service tells of itself, and returns its position
// in RESULTS. A repeated call is a new push; a call whose acknowledgement was
// lost is not stored twice.
func (c *Conn) Push(ctx context.Context, host, check string, r events.Result) (position uint64, err error) {
	h := events.Header{
		Type: events.TypeResult, Source: c.source(), ID: nuid.Next(), Host: host, Check: check, Time: time.Now(),
	}
	return c.PushEvent(ctx, h, r)
}

// PushEvent is [Conn.Push] with an envelope of the caller's own. Source and ID
// of h recognise a repetition for two minutes.
func (c *Conn) PushEvent(ctx context.Context, h events.Header, r events.Result) (position uint64, err error) {
	if h.Host, err = events.ParseHost(h.Host); err != nil {
		return 0, err
	}
	if _, err = events.ParseCheck(h.Check); err != nil {
		return 0, err
	}
	b, err := events.Encode(h, r)
	if err != nil {
		return 0, err
	}
	return c.Store(ctx, Message(events.ResultSubject(h.Host, h.Check), b), jetstream.WithMsgID(h.Source+" "+h.ID))
}

// Reject tells on megaphone.rejected.> that an event was refused, once a second
// per subject and 100 times in all; the others are counted in the next. of is registration, override
// or result; host and check are empty where they could not be read. It does not
// fail: what cannot be told is logged.
func (c *Conn) Reject(ctx context.Context, of, subject, host, check, reason string, body []byte) {
	more, tell := c.reject.admit(subject, time.Now())
	if !tell {
		return
	}
	b, err := events.Encode(events.Header{
		Type: events.TypeRejected, Source: c.source(), ID: nuid.Next(), Host: host, Check: check, Time: time.Now(),
	}, events.Rejection{Subject: subject, Reason: events.Cut(reason, events.MaxMessage), Event: events.Cut(string(body), 4<<10), More: more})
	if err == nil {
		_, err = c.Store(ctx, Message(events.RejectedSubject(of, host, check), b))
	}
	if err != nil {
		c.log.Warn("tell a rejection", "subject", subject, "reason", reason, "error", err)
	}
}

// Bounds of what is told of refused events: whoever sends them by the thousand, each on
// a subject of its own, is not to keep others waiting while each is stored.
const (
	maxRejected = 10_000 // subjects that are remembered; beyond it all are forgotten
	maxTold     = 100    // in a second, of all subjects
)

func (r *rejections) admit(subject string, now time.Time) (more uint64, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || len(r.last) > maxRejected {
		r.last = map[string]*rejected{}
	}
	if now.Sub(r.began) >= time.Second {
		r.began, r.told = now, 0
	}
	e := r.last[subject]
	if e == nil {
		e = &rejected{}
		r.last[subject] = e
	}
	if now.Sub(e.told) < time.Second || r.told >= maxTold {
		e.more++
		return 0, false
	}
	more = e.more
	e.told, e.more = now, 0
	r.told++
	return more, true
}
