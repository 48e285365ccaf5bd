package bus

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// A process tells of itself every HeartbeatInterval, and is taken for gone when
// it was not heard for HeartbeatGone.
const (
	HeartbeatInterval = 5 * time.Second
	HeartbeatGone     = 3 * HeartbeatInterval
)

// RunHeartbeat publishes what beat returns, at once, every [HeartbeatInterval] and
// when a lost connection is back, and when ctx ends a last one that says Stopped;
// then it returns nil. Heartbeats are stored nowhere: one that is lost is not
// repeated, and while the bus is away there are none.
func RunHeartbeat(ctx context.Context, c *Conn, beat func() events.Heartbeat) error {
	t := time.NewTicker(HeartbeatInterval)
	defer t.Stop()
	back := c.nc.StatusChanged(nats.CONNECTED)
	defer c.nc.RemoveStatusListener(back)
	for {
		if err := c.heartbeat(beat()); err != nil {
			return err
		}
		select {
		case <-t.C:
		case _, ok := <-back:
			if !ok {
				back = nil // the connection is closed: the next one tells
			}
		case <-ctx.Done():
			last := beat()
			last.Stopped = true
			if err := c.heartbeat(last); err != nil && !c.nc.IsClosed() {
				return err
			}
			return nil
		}
	}
}

func (c *Conn) heartbeat(h events.Heartbeat) error {
	if !c.nc.IsConnected() && !c.nc.IsClosed() {
		return nil // the client would keep them all, until it has no room, and tell them when they are not true any more
	}
	b, err := events.Encode(events.Header{
		Type: events.TypeHeartbeat, Source: "urn:megaphone:" + urnPart(h.Role) + ":" + urnPart(h.Name),
		ID: nuid.Next(), Time: time.Now(),
	}, h)
	if err == nil {
		err = c.nc.PublishMsg(Message(events.ProcessSubject(h.Role, h.Name), b))
	}
	if err != nil {
		return fmt.Errorf("tell a heartbeat: %w", err)
	}
	return nil
}

// Heartbeats remembers which processes were heard of late. Make it with
// [Conn.Heartbeats]; it is safe for concurrent use.
type Heartbeats struct {
	sub   *nats.Subscription
	heard func(events.Heartbeat)

	mu   sync.Mutex
	last map[string]heartbeat // by subject
}

type heartbeat struct {
	events.Heartbeat
	at time.Time
}

// Heartbeats listens to the processes of a role, or of all if role is empty.
// heard, if not nil, is called for each heartbeat, the last one of a process
// included, by one goroutine; it must not block. Close it.
func (c *Conn) Heartbeats(role string, heard func(events.Heartbeat)) (*Heartbeats, error) {
	h := &Heartbeats{heard: heard, last: map[string]heartbeat{}}
	subject := events.ProcessSubjects
	if role != "" {
		subject = "megaphone.process." + events.Token(role) + ".*"
	}
	var err error
	if h.sub, err = c.nc.Subscribe(subject, h.take); err != nil {
		return nil, fmt.Errorf("listen to heartbeats: %w", err)
	}
	return h, nil
}

func (h *Heartbeats) take(m *nats.Msg) {
	e, err := ReadEvent(Plain(m))
	if err != nil || e.Type() != events.TypeHeartbeat {
		return // nobody's heartbeat
	}
	var b events.Heartbeat
	if events.DataAs(e, &b) != nil || events.ProcessSubject(b.Role, b.Name) != m.Subject {
		return
	}
	h.mu.Lock()
	if b.Stopped {
		delete(h.last, m.Subject)
	} else {
		h.last[m.Subject] = heartbeat{b, time.Now()}
	}
	h.mu.Unlock()
	if h.heard != nil {
		h.heard(b)
	}
}

// Live returns the last heartbeats of the processes that are there, ordered by
// role and name.
func (h *Heartbeats) Live() []events.Heartbeat {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []events.Heartbeat
	for subject, b := range h.last {
		if time.Since(b.at) >= HeartbeatGone {
			delete(h.last, subject)
			continue
		}
		out = append(out, b.Heartbeat)
	}
	slices.SortFunc(out, func(a, b events.Heartbeat) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Close stops listening.
func (h *Heartbeats) Close() error {
	if err := h.sub.Unsubscribe(); err != nil && h.sub.IsValid() {
		return fmt.Errorf("stop listening to heartbeats: %w", err)
	}
	return nil
}
