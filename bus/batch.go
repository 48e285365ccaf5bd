package bus

import (
	"context"
	"sync"
	"time"
)

// batcher runs one function for many callers: whoever asks while it runs gets
// the outcome of the next run, which began after the question. That makes one
// write to the disk serve all who wait for one.
type batcher struct {
	run   func() error
	every time.Duration // least pause before a run that nobody waits for

	mu     sync.Mutex
	next   *batch // the run that is due; nil for none
	waited bool   // somebody waits for it
	wake   chan struct{}
}

type batch struct {
	done chan struct{}
	err  error
}

func newBatcher(every time.Duration, run func() error) *batcher {
	return &batcher{run: run, every: every, wake: make(chan struct{}, 1)}
}

// Do returns the outcome of a run that began after the call.
func (b *batcher) Do(ctx context.Context) error {
	next := b.due(true)
	select {
	case <-next.done:
		return next.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kick asks for a run that nobody waits for.
func (b *batcher) Kick() { b.due(false) }

func (b *batcher) due(waited bool) *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	wake := b.next == nil || waited && !b.waited
	if b.next == nil {
		b.next = &batch{done: make(chan struct{})}
	}
	b.waited = b.waited || waited
	if wake {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return b.next
}

// Run makes the runs that are asked for until ctx ends, and then a last one if
// one is due.
func (b *batcher) Run(ctx context.Context) {
	last := time.Time{}
	for {
		select {
		case <-ctx.Done():
			b.one()
			return
		case <-b.wake:
		}
		b.hold(ctx, last)
		b.one()
		last = time.Now()
	}
}

// hold waits until every has passed since the last run, or somebody waits.
func (b *batcher) hold(ctx context.Context, last time.Time) {
	t := time.NewTimer(b.every - time.Since(last))
	defer t.Stop()
	for {
		b.mu.Lock()
		waited := b.waited
		b.mu.Unlock()
		if waited {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-b.wake:
		}
	}
}

func (b *batcher) one() {
	b.mu.Lock()
	cur := b.next
	b.next, b.waited = nil, false
	b.mu.Unlock()
	if cur == nil {
		return
	}
	cur.err = b.run()
	close(cur.done)
}
