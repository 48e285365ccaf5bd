package pollers

import (
	"context"
	"sync"
	"time"
)

// pollContext is the context of a poll: what context.WithDeadline makes of that of
// its lease, but made only where somebody waits for its end. Most polls do not,
// see interrupt, and to make one and end it cost more than to judge what is found.
type pollContext struct {
	context.Context // of the lease
	deadline        time.Time

	mu     sync.Mutex
	waited context.Context // nil before somebody waits
	cancel context.CancelFunc
}

// ended is what waited is once a poll is over for whose end nobody waited.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// end has to be called once the poll is over.
func (c *pollContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	} else {
		c.waited = ended
	}
}

// interrupt returns what ends with ctx or before, for those who keep its deadline
// themselves.
func interrupt(ctx context.Context) context.Context {
	if c, ok := ctx.(*pollContext); ok {
		return c.Context
	}
	return ctx
}

// Deadline implements [context.Context].
func (c *pollContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements [context.Context].
func (c *pollContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited == nil {
		c.waited, c.cancel = context.WithDeadline(c.Context, c.deadline)
	}
	return c.waited.Done()
}

// Err implements [context.Context].
func (c *pollContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited != nil {
		return c.waited.Err()
	}
	if err := c.Context.Err(); err != nil || time.Now().Before(c.deadline) {
		return err
	}
	return context.DeadlineExceeded
}

// Value implements [context.Context]. Package context finds in it whom to follow.
func (c *pollContext) Value(key any) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited != nil {
		return c.waited.Value(key)
	}
	return c.Context.Value(key)
}
