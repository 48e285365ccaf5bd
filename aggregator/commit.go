package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reduce calls [Reduce]. A panic in it concerns one input, which then does not count.
func (p *partition) reduce(c *check, in Input, now time.Time) (s events.CheckState, out Outcome) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("an input is skipped: the reducer panicked", "host", c.state.Host, "check", c.state.Check, "panic", r)
			s, out = c.state, Outcome{Dropped: true}
		}
	}()
	return Reduce(c.state, c.with, in, now)
}

// apply reduces an input of a check and stores what follows, before anything in
// memory changes. causation is the id of the event that caused it, if any.
func (p *partition) apply(ctx context.Context, c *check, in Input, now time.Time, causation string) (Outcome, error) {
	s, out := p.reduce(c, in, now)
	switch {
	case out.Transition != nil:
		if err := p.commit(ctx, out.Transition, s, causation, now); err != nil {
			return out, err
		}
		p.dirty[c] = struct{}{}
	case out.Write:
		err := p.store(ctx, s.Host, s.Check, s, s.Phase == events.Gone)
		switch {
		case errors.Is(err, errNoRoom): // until there is, the result is read again
			p.dirty[c] = struct{}{}
		case err != nil:
			return out, err
		default:
			c.stored = s.Applied
		}
	case out.Dirty:
		p.dirty[c] = struct{}{}
	}
	c.state = s
	p.agenda.put(c)
	if out.Ended != nil {
		p.tellEnd(ctx, out.Ended, out.EndedPos)
	}
	if out.Deregister != "" {
		return out, p.retire(ctx, c, out.Deregister)
	}
	return out, nil
}

// derive reduces a host after its checks, or by an input of its own.
func (p *partition) derive(ctx context.Context, h *host, in HostInput, why cause, now time.Time) error {
	s, out := ReduceHost(h.state, h.label, h.states, in, why.why, now)
	switch {
	case out.Transition != nil:
		if err := p.commit(ctx, out.Transition, s, why.id, now); err != nil {
			return err
		}
		p.dirty[h] = struct{}{}
	case out.Write:
		err := p.store(ctx, h.label, "", s, s.Phase == events.Gone)
		if errors.Is(err, errNoRoom) {
			p.dirty[h], err = struct{}{}, nil
		}
		if err != nil {
			return err
		}
	}
	h.state = s
	p.agenda.put(h)
	if out.Ended != nil {
		p.tellEnd(ctx, out.Ended, out.EndedPos)
	}
	return nil
}

// commit stores a transition with the complete state after it. It is seen by
// subscribers only then, and only if no other owner came.
func (p *partition) commit(ctx context.Context, t *events.Transition, state any, causation string, now time.Time) error {
	header := events.Header{
		Type: events.TypeCheckChanged, Source: events.TransitionSource(p.created, t.Host, t.Check), ID: t.ID(),
		Host: t.Host, Check: t.Check, Time: now, Sequence: events.Sequence(t.Number), Causation: causation,
	}
	if t.Check == "" {
		header.Type = events.TypeHostChanged
	}
	if len(causation) > maxCausation { // an event that is too large is read by nobody
		header.Causation = ""
	}
	body, err := events.Encode(header, t)
	if err != nil {
		return fmt.Errorf("encode a transition: %w", err)
	}
	b, err := stateHeader(state)
	if err != nil {
		return fmt.Errorf("encode a state: %w", err)
	}
	msg := bus.Message(events.CommitSubject(t.Host, t.Check), body)
	msg.Header.Set(events.StateHeader, string(b))
	position, err := p.write(ctx, msg, jetstream.WithExpectLastSequenceForSubject(p.fence, events.FenceSubject(p.n)))
	if err != nil {
		return err
	}
	p.changes, p.behind = max(p.changes, position), true
	p.a.stats.transitions.Add(1)
	return nil
}

// maxCausation is how long the id of an event may be that a transition names.
const maxCausation = 1 << 10

// maxStateHeader is how long a state in a header may be: a server takes 64 KiB of
// headers in all.
const maxStateHeader = 60 << 10

// stateHeader encodes a state for a header. One that is too large is [lean] there:
// the record in STATE, which follows soon, has the rest.
func stateHeader(state any) ([]byte, error) {
	b, err := json.Marshal(state)
	if err != nil || len(b) <= maxStateHeader {
		return b, err
	}
	return json.Marshal(lean(state))
}

// lean is a state without what the next owner of the partition knows from elsewhere,
// and what is for people.
func lean(state any) any {
	switch s := state.(type) {
	case events.CheckState:
		s.Labels, s.Origin, s.Message, s.Suspect, s.Override = nil, "", "", "", bare(s.Override)
		return s
	case events.HostState:
		s.Labels, s.Override = nil, bare(s.Override)
		return s
	}
	return state
}

// bare is an override without what may be large.
func bare(o *events.Override) *events.Override {
	if o == nil {
		return nil
	}
	less := *o
	less.Select, less.Reason, less.By, less.Global = nil, "", "", nil
	return &less
}

// store writes a record of STATE. One of what is gone is forgotten at last. The error
// is errNoRoom where STATE is nearly full, which puts nothing in doubt.
func (p *partition) store(ctx context.Context, host, check string, state any, gone bool) error {
	switch used := p.a.stateUsed.Load(); {
	case used > closedAbove && !gone:
		return errNoRoom
	case used > leanAbove:
		state = lean(state)
	}
	b, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode a state: %w", err)
	}
	msg := &nats.Msg{Subject: events.StateSubject(host, check), Data: b, Header: nats.Header{}}
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequenceForSubject(p.stateFence, events.StateFenceSubject(p.n))}
	if gone {
		opts = append(opts, jetstream.WithMsgTTL(events.TombstoneKept))
	}
	_, err = p.write(ctx, msg, opts...)
	if bus.StreamFull(err) {
		return errNoRoom
	}
	return err
}

// write is every write of the owner: one at a time, its acknowledgement read, and
// but for fences and ticks with the expectation of a fence.
func (p *partition) write(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (uint64, error) {
	if !p.lease.Valid() {
		return 0, errLease
	}
	if !p.a.cfg.Conn.NATS().IsConnected() {
		return 0, errAway // the client would keep it, and send it when it is no longer true
	}
	return p.a.cfg.Conn.Store(ctx, msg, opts...)
}

// checkpoint writes what moved since the last one: the states of all that
// changed, and then how far the partition has come.
func (p *partition) checkpoint(ctx context.Context) error {
	if !p.behind && len(p.dirty) == 0 {
		return nil
	}
	for r := range p.dirty {
		host, check := r.name()
		err := p.store(ctx, host, check, r.value(), r.gone())
		if errors.Is(err, errNoRoom) {
			return nil // whoever comes next reads CHANGES and RESULTS from the last checkpoint on
		}
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		r.written()
		delete(p.dirty, r)
	}
	ckpt := events.Checkpoint{V: events.RecordVersion, Results: p.results, Stored: p.storedAt, Changes: p.changes, Time: events.At(p.now)}
	if err := p.storeCheckpoint(ctx, ckpt); bus.StreamFull(err) {
		return nil
	} else if err != nil {
		return err
	}
	p.saved, p.behind = ckpt, false
	return nil
}

func (p *partition) storeCheckpoint(ctx context.Context, ckpt events.Checkpoint) error {
	b, err := json.Marshal(ckpt)
	if err != nil {
		return fmt.Errorf("encode a checkpoint: %w", err)
	}
	msg := &nats.Msg{Subject: events.CheckpointSubject(p.n), Data: b, Header: nats.Header{}}
	if _, err := p.write(ctx, msg, jetstream.WithExpectLastSequenceForSubject(p.stateFence, events.StateFenceSubject(p.n))); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func (p *partition) streamState(ctx context.Context, name string) (jetstream.StreamState, error) {
	s, err := p.stream(ctx, name)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return s.CachedInfo().State, nil
}

// stream asks for a stream as it is now.
func (p *partition) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	before := time.Now()
	s, err := p.a.cfg.Conn.JetStream().Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask for the stream %s: %w", name, err)
	}
	if name == bus.StreamResults { // whose time decides; in a cluster that of others may differ
		p.observe(before, time.Now(), s.CachedInfo().TimeStamp)
	}
	return s, nil
}
