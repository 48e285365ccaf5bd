package aggregator

import (
	"context"
	"errors"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
)

// invalidEvent is what somebody stored among the registrations that is not valid.
type invalidEvent struct {
	subject  string
	position uint64
	reason   string
	data     []byte
}

// maxInvalid bounds how many invalid events wait for a partition to be held; the
// others stay in the stream, where every process ignores them.
const maxInvalid = 1000

// Invalid takes note of an event among the registrations that every process
// ignores: the owner of its host's partition tells the rejection and puts back
// what was valid before. It is to be given as bus.RegistryOptions.Invalid, and
// does not block.
func (a *Aggregator) Invalid(subject string, position uint64, reason string, data []byte) {
	ev := invalidEvent{subject, position, reason, data}
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.boxes[ev.partition()]; b != nil {
		b.mu.Lock()
		if len(b.invalid) < maxInvalid {
			b.invalid = append(b.invalid, ev)
		}
		b.mu.Unlock()
		b.signal()
		return
	}
	if len(a.invalid) < maxInvalid {
		a.invalid[subject] = ev
	}
}

func (ev invalidEvent) partition() int {
	addr, _ := events.ParseSubject(ev.subject) // what cannot be read is the partition's of no name
	return events.Partition(addr.Host)
}

// waiting returns the invalid events that waited for a partition.
func (a *Aggregator) waiting(partition int) []invalidEvent {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []invalidEvent
	for subject, ev := range a.invalid {
		if ev.partition() == partition {
			out = append(out, ev)
			delete(a.invalid, subject)
		}
	}
	return out
}

// refuse tells of an invalid event and mends it, unless somebody stored
// something newer on its subject.
func (p *partition) refuse(ctx context.Context, ev invalidEvent) {
	last, err := p.a.cfg.Conn.JetStream().Stream(ctx, bus.StreamRegistrations)
	var msg *jetstream.RawStreamMsg
	if err == nil {
		msg, err = last.GetLastMsgForSubject(ctx, ev.subject)
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Sequence != ev.position {
		return
	}
	addr, _ := events.ParseSubject(ev.subject)
	of := "registration"
	if addr.Kind == "override" {
		of = "override"
	}
	p.a.stats.rejected.Add(1)
	p.a.cfg.Conn.Reject(ctx, of, ev.subject, addr.Host, addr.Check, ev.reason, ev.data)
	if err := p.a.cfg.Registry.Restore(ctx, ev.subject, ev.position); err != nil {
		p.log.Warn("an invalid event stays in the stream: it is ignored", "subject", ev.subject, "error", err)
	}
}
