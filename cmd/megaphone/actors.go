package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// actors are the long-lived parts of a process, in the order of their start.
// Each has a context of its own, so that they stop one after another in the
// reverse order: whoever uses a part is gone before that part is.
//
// The zero value has none. Only one goroutine may use it.
type actors struct {
	list   []*actor
	failed chan error // the first failure
}

type actor struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

// start runs a part until stop ends it. A part that returns by itself has
// failed, also without an error.
func (a *actors) start(name string, run func(context.Context) error) {
	if a.failed == nil {
		a.failed = make(chan error, 1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &actor{name: name, cancel: cancel, done: make(chan struct{})}
	a.list = append(a.list, p)
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if ctx.Err() != nil {
			return
		}
		if p.err == nil {
			p.err = errors.New("it ended by itself")
		}
		select {
		case a.failed <- fmt.Errorf("%s: %w", name, p.err):
		default: // another one failed first
		}
	}()
}

// onStop adds something to do at its turn while stopping.
func (a *actors) onStop(name string, do func()) {
	a.start(name, func(ctx context.Context) error {
		<-ctx.Done()
		do()
		return nil
	})
}

// wait returns nil when ready is closed, else why that will not happen.
func (a *actors) wait(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case err := <-a.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends all parts, the last one first, and waits for each. What has not
// stopped within the time is named in the error and left behind.
func (a *actors) stop(within time.Duration) error {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	var faults []error
	for _, p := range slices.Backward(a.list) {
		p.cancel()
		select {
		case <-p.done:
			if p.err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", p.name, p.err))
			}
		case <-deadline.C:
			a.abandon()
			return fmt.Errorf("%s did not stop within %s", p.name, within)
		}
	}
	return errors.Join(faults...)
}

func (a *actors) abandon() {
	for _, p := range a.list {
		p.cancel()
	}
}
