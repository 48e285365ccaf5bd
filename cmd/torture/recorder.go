package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus"
)

// recorder reads RESULTS all the time: where the stream is full, its beginning is
// gone at the end. Its methods are safe for concurrent use.
type recorder struct {
	conn *bus.Conn // of the role user

	mu     sync.Mutex
	got    evidence // Results and Ticks
	next   uint64   // position that comes next; 0 before the first
	missed uint64   // messages that were gone before they were read
}

// Run reads until ctx ends.
func (r *recorder) Run(ctx context.Context) error {
	for {
		// A bus that is away is tried again: Complete says if that was in vain.
		_ = r.read(ctx)
		if !sleep(ctx, 250*time.Millisecond) {
			return nil
		}
	}
}

func (r *recorder) read(ctx context.Context) error {
	s, err := r.conn.JetStream().Stream(ctx, bus.StreamResults)
	if err != nil {
		return err
	}
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if next := r.position(); next > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, next
	}
	cons, err := s.OrderedConsumer(ctx, cfg)
	if err != nil {
		return err
	}
	msgs, err := cons.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return err
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err == nil {
			err = r.take(m)
		}
		if err != nil {
			return err
		}
	}
}

func (r *recorder) position() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

func (r *recorder) take(m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	position := meta.Sequence.Stream
	if position < r.next {
		return nil
	}
	if r.next > 0 {
		r.missed += position - r.next
	}
	r.next = position + 1
	return r.got.takeResult(m, position)
}

// Complete waits until all that is in RESULTS now was read, and returns it.
func (r *recorder) Complete(ctx context.Context) (results []result, ticks []tick, err error) {
	s, err := r.conn.JetStream().Stream(ctx, bus.StreamResults)
	if err != nil {
		return nil, nil, err
	}
	last := s.CachedInfo().State.LastSeq
	if err := eventually(ctx, "all results are read", func() bool { return r.position() > last }); err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missed > 0 {
		return nil, nil, fmt.Errorf("%d results were gone before they were read: nothing can be judged", r.missed)
	}
	return r.got.Results, r.got.Ticks, nil
}
