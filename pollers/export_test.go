package pollers

import (
	"context"
	"time"
)

// PollContext returns a context as workers make it, and what ends it.
func PollContext(lease context.Context, timeout time.Duration) (ctx context.Context, end func()) {
	c := &pollContext{Context: lease, deadline: time.Now().Add(timeout)}
	return c, c.end
}

// ErrDenied is for tests.
var ErrDenied = errDenied

// KindsOf returns the checks of a worker with c, without a worker, and what ends
// the connections that they keep.
func KindsOf(c Config) (k Kinds, done func()) {
	w := New(c)
	return w.kinds, w.http.Close
}

// Recognise is for tests.
func Recognise(contentType string, body []byte, name string) (Reading, bool) {
	return recognise(answer{contentType, body}, name)
}

// Waiting is how many wait for a poll that they asked for.
func (w *Worker) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.orders.waiting
}
