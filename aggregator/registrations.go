package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// changed applies what the registry told since the last time.
func (p *partition) changed(ctx context.Context) error {
	changes, invalid := p.box.take()
	for _, ev := range invalid {
		p.refuse(ctx, ev)
	}
	if _, all := changes[place{}]; all {
		return p.levelAll(ctx)
	}
	hosts := map[*host]cause{} // to be derived after all their checks
	var now time.Time
	for at, c := range changes {
		now = later(now, later(p.now, c.Stored))
		h := p.host(at.host)
		if at.check == "" {
			if err := p.levelHost(ctx, at.host, now); err != nil {
				return err
			}
			continue
		}
		out, err := p.level(ctx, h, at.check, now)
		if err != nil {
			return err
		}
		if why := causeOf(out); why.why != "" || hosts[h].why == "" {
			hosts[h] = why
		}
	}
	for h, why := range hosts {
		if err := p.derive(ctx, h, p.hostLevels(h), why, now); err != nil {
			return err
		}
	}
	return nil
}

// levelAll applies the registry to the whole partition.
func (p *partition) levelAll(ctx context.Context) error {
	names := map[string]bool{}
	for name := range p.hosts {
		names[name] = true
	}
	for _, name := range p.a.cfg.Registry.Hosts() {
		if events.Partition(name) == p.n {
			names[name] = true
		}
	}
	for name := range names {
		if err := p.levelHost(ctx, name, p.now); err != nil {
			return err
		}
	}
	return nil
}

// levelHost applies the registry to a host and all its checks.
func (p *partition) levelHost(ctx context.Context, name string, now time.Time) error {
	h := p.host(name)
	ids := map[string]bool{}
	for _, c := range h.checks {
		ids[c.state.Check] = true
	}
	for _, e := range p.a.cfg.Registry.HostChecks(name) {
		ids[e.Registration.ID] = true
	}
	why := h.why
	h.why = cause{}
	for id := range ids {
		out, err := p.level(ctx, h, id, now)
		if err != nil {
			return err
		}
		if c := causeOf(out); c.why != "" {
			why = c
		}
	}
	return p.derive(ctx, h, p.hostLevels(h), why, now)
}

// levelOne applies the registry to a check, and its host after it.
func (p *partition) levelOne(ctx context.Context, host, id string, now time.Time) error {
	h := p.host(host)
	out, err := p.level(ctx, h, id, now)
	if err != nil {
		return err
	}
	return p.derive(ctx, h, p.hostLevels(h), causeOf(out), now)
}

// levelLast is levelOne with what the stream has of the check now. p.looked has the end
// of RESULTS before that look: pushes up to there need no other. Else a hundred thousand
// that are refused keep the partition for a minute.
func (p *partition) levelLast(ctx context.Context, host, id string) error {
	results, err := p.streamState(ctx, bus.StreamResults)
	if err != nil {
		return err
	}
	if p.looked == nil || len(p.looked) >= maxLooked {
		p.looked = map[place]uint64{}
	}
	p.looked[place{host, id}] = results.LastSeq
	last, _, err := p.lastOn(ctx, events.RegistrationSubject(host, id))
	if err != nil {
		return err
	}
	if err := p.await(ctx, last); err != nil {
		return err
	}
	return p.levelOne(ctx, host, id, p.now)
}

// maxLooked bounds how many checks are remembered that refused a push.
const maxLooked = 1000

// level applies the registry to a check of h.
func (p *partition) level(ctx context.Context, h *host, id string, now time.Time) (Outcome, error) {
	in := p.levels(h.label, id)
	c := h.check(id)
	if c == nil {
		if in.Registration == nil {
			return Outcome{}, nil
		}
		c = &check{}
		h.add(id, c)
	}
	out, err := p.apply(ctx, c, in, now, "")
	if err != nil {
		return out, err
	}
	c.with = Settings{Registration: in.Registration, OverrideSet: in.OverrideSet, Interval: p.a.cfg.Interval}
	p.agenda.put(c)
	return out, nil
}

// levels is what the registry says of a check now.
func (p *partition) levels(host, id string) Levels {
	reg := p.a.cfg.Registry
	in := Levels{Host: host, Check: id}
	e, ok := reg.Check(host, id)
	if !ok {
		return in
	}
	in.Registration, in.Position, in.Stored, in.Labels = &e.Registration, e.Position, e.Stored, reg.Labels(e)
	if o, ok := reg.Override(host, id); ok {
		in.Override, in.OverridePos, in.OverrideSet = &o.Override, o.Position, o.Stored
	}
	return in
}

func (p *partition) hostLevels(h *host) HostLevels {
	var in HostLevels
	if r, ok := p.a.cfg.Registry.Host(h.label); ok {
		in.Labels = r.Labels
	}
	h.set = time.Time{}
	if o, ok := p.a.cfg.Registry.Override(h.label, ""); ok {
		in.Override, in.OverridePos = &o.Override, o.Position
		h.set = o.Stored
	}
	return in
}

// registerPushed registers a check because of its first push, which was stored at
// pushed, unless somebody registered it meanwhile. It looks at the stream: an owner
// that was replaced does not know who deregistered it since. reason says why it is
// refused.
func (p *partition) registerPushed(ctx context.Context, r events.Registration, pushed time.Time) (reason string, err error) {
	if err := r.Validate(); err != nil {
		return err.Error(), nil
	}
	if p.a.stateUsed.Load() > leanAbove {
		return errNoRoom.Error(), nil
	}
	if n := p.a.cfg.Registry.CountChecks(r.Host); n >= bus.MaxChecks {
		return fmt.Sprintf("host %s has %d checks, more are not registered", r.Host, n), nil
	}
	last, ended, err := p.lastOn(ctx, events.RegistrationSubject(r.Host, r.ID))
	if err != nil {
		return "", err
	}
	if pushed.Before(ended.Add(ReturnDelay)) {
		return tooSoon(r.ID, ended), nil
	}
	// It may have been registered since the push was reduced, and this process have
	// heard of it or not: what is registered is not replaced.
	if err := p.await(ctx, last); err != nil {
		return "", err
	}
	if _, ok := p.a.cfg.Registry.Check(r.Host, r.ID); ok {
		return "", nil
	}
	err = p.announce(ctx, events.RegistrationSubject(r.Host, r.ID), events.TypeRegistered, r.Host, r.ID, r, last)
	if bus.StreamFull(err) { // others are not to wait for room
		return bus.ErrFull.Error(), nil
	}
	return "", err
}

// retire deregisters a check whose service went away without a word.
func (p *partition) retire(ctx context.Context, c *check, reason string) error {
	s := c.state
	d := events.Deregistration{Host: s.Host, Check: s.Check, Reason: reason, By: OriginPush}
	err := p.announce(ctx, events.RegistrationSubject(s.Host, s.Check), events.TypeDeregistered, s.Host, s.Check, d, s.Reg)
	if bus.StreamFull(err) { // the event is a little larger than the one that it replaces
		p.log.Warn("a check without pushes stays registered until the next takeover", "host", s.Host, "check", s.Check, "error", err)
		p.agenda.drop(c) // else it would be due again and again
		return nil
	}
	if err != nil {
		return err
	}
	return p.levelOne(ctx, s.Host, s.Check, p.now)
}

// tellEnd clears an override that ended, so that everybody sees it. That is no
// more than tidy: it will not hold again.
func (p *partition) tellEnd(ctx context.Context, o *events.Override, position uint64) {
	if p.cleared[position] || o.Name != "" && !due(o.Until.Time, p.now) {
		return // it goes on for the other checks that it selects
	}
	p.cleared[position] = true
	subject := events.OverrideSubject(o.Host, o.Check)
	if o.Name != "" {
		subject = events.SelectSubject(o.Name)
	}
	d := events.Deregistration{Host: o.Host, Check: o.Check, Name: o.Name, Reason: "ended"}
	if err := p.announce(ctx, subject, events.TypeOverrideCleared, o.Host, o.Check, d, position); err != nil {
		p.log.Warn("an override that ended is still listed", "host", o.Host, "check", o.Check, "error", err)
	}
}

// announce stores an event among the registrations, if the last one on its
// subject still is at the position last, and waits until it was read back. That
// somebody else was faster is no error.
func (p *partition) announce(ctx context.Context, subject, kind, host, check string, data any, last uint64) error {
	b, err := events.Encode(events.Header{
		Type: kind, Source: p.a.source, ID: nuid.Next(), Host: host, Check: check, Time: time.Now(),
	}, data)
	if err != nil {
		return err
	}
	position, err := p.write(ctx, bus.Message(subject, b), jetstream.WithExpectLastSequencePerSubject(last))
	if bus.WrongSequence(err) {
		if position, _, err = p.lastOn(ctx, subject); err != nil {
			return err
		}
		return p.await(ctx, position)
	}
	if err != nil {
		return err
	}
	return p.await(ctx, position)
}

// lastOn is the position of the last message among the registrations on a
// subject, 0 if there is none, and when it was stored if it ended a registration.
func (p *partition) lastOn(ctx context.Context, subject string) (position uint64, ended time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := p.a.cfg.Conn.JetStream().Stream(ctx, bus.StreamRegistrations)
	if err != nil {
		return 0, ended, fmt.Errorf("ask for the stream %s: %w", bus.StreamRegistrations, err)
	}
	m, err := s.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, ended, nil
	case err != nil:
		return 0, ended, fmt.Errorf("read %s: %w", subject, err)
	}
	if e, err := bus.ReadEvent(bus.Plain(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})); err == nil && e.Type() == events.TypeDeregistered {
		ended = m.Time
	}
	return m.Sequence, ended, nil
}
