package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/aggregator"
	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// history reads registrations and transitions back into evidence.
func history(ctx context.Context, c *bus.Conn, e *evidence) error {
	e.Registered = map[name]registered{}
	for _, read := range []struct {
		stream string
		take   func(m jetstream.Msg, position uint64) error
	}{
		{bus.StreamRegistrations, e.takeRegistration},
		{bus.StreamChanges, e.takeChange},
	} {
		if err := readAll(ctx, c, read.stream, read.take); err != nil {
			return fmt.Errorf("read back the stream %s: %w", read.stream, err)
		}
	}
	return nil
}

// readAll calls take with every message that is in a stream now.
func readAll(ctx context.Context, c *bus.Conn, stream string, take func(jetstream.Msg, uint64) error) error {
	s, err := c.JetStream().Stream(ctx, stream)
	if err != nil {
		return err
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	msgs, err := cons.Messages()
	if err != nil {
		return err
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err == nil {
			err = take(m, meta.Sequence.Stream)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.Subject(), err)
		}
		if meta.Sequence.Stream >= state.LastSeq || meta.NumPending == 0 {
			return nil
		}
	}
}

// builtIn is the check of a worker's host: pollers.SelfCheck.
const builtIn = "megaphone"

func (e *evidence) takeRegistration(m jetstream.Msg, position uint64) error {
	a, err := events.ParseSubject(m.Subject())
	// The built-in checks of the workers' hosts are no part of the script: what they
	// say follows the kills.
	if err != nil || a.Kind != "registration" || a.Check == "" || a.Check == builtIn {
		return err
	}
	event, err := bus.ReadEvent(m)
	if err != nil {
		return err
	}
	var r events.Registration
	if err := event.DataAs(&r); err != nil {
		return err
	}
	e.Registered[name{a.Host, a.Check}] = registered{position, r.Origin == aggregator.OriginPush}
	return nil
}

func (e *evidence) takeResult(m jetstream.Msg, position uint64) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	t := tick{Position: position, Stored: meta.Timestamp, Partition: -1}
	if m.Subject() == events.TickAll {
		t.Outage, err = readOutage(m)
		e.Ticks = append(e.Ticks, t)
		return err
	}
	if p, ok := strings.CutPrefix(m.Subject(), strings.TrimSuffix(events.TickSubjects, "*")); ok {
		t.Partition, err = strconv.Atoi(p)
		e.Ticks = append(e.Ticks, t)
		return err
	}
	read, err := bus.ReadResults(m)
	for _, in := range read {
		e.Results = append(e.Results, result{
			Name: name{in.Host, in.Check}, Position: position, Stored: in.Stored, Polled: in.Polled,
			Status: in.Result.Status, Message: in.Result.Message, Order: in.Result.Order(),
		})
	}
	return err
}

func readOutage(m jetstream.Msg) (span, error) {
	ev, err := bus.ReadEvent(m)
	if err != nil {
		return span{}, err
	}
	var t events.Tick
	if err := events.DataAs(ev, &t); err != nil || t.Outage == nil {
		return span{}, err
	}
	return span{t.Outage.From.Time, t.Outage.To.Time}, nil
}

func (e *evidence) takeChange(m jetstream.Msg, position uint64) error {
	if a, err := events.ParseSubject(m.Subject()); err != nil || a.Kind != "status" {
		return nil // a fence
	}
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	ev, err := bus.ReadEvent(m)
	if err != nil {
		return err
	}
	c := change{Position: position, Stored: meta.Timestamp, Decided: ev.Time(), ID: ev.Source() + " " + ev.ID()}
	err = events.DataAs(ev, &c.Transition)
	e.Changes = append(e.Changes, c)
	return err
}
