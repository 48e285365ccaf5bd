package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
)

// Long polling: a reader says which transition it knows, and is answered when
// there is another.

// maxWaiters is how many readers wait at the same time.
const maxWaiters = 10_000

// headerNumber is the number of the state that is answered: what to give as
// ?after_number= for the next one.
const headerNumber = "Megaphone-Number"

// awaitNumber waits, where the query asks for it, until the number of the host
// or check is another one than the reader knows, but not longer than it says and
// a minute at most. Who waited is answered with what there is then.
func (s *Server) awaitNumber(w http.ResponseWriter, r *http.Request, host, check string) error {
	if r.URL.RawQuery == "" || r.Method == http.MethodHead {
		return nil
	}
	q := r.URL.Query()
	if !q.Has("after_number") {
		return nil
	}
	known, err := strconv.ParseUint(q.Get("after_number"), 10, 64)
	if err != nil {
		return refuse(http.StatusBadRequest, "?after_number= must be the number of a transition, not %q", events.Cut(q.Get("after_number"), 64))
	}
	wait := maxWait
	if text := q.Get("wait"); text != "" {
		d, err := events.ParseDuration(text)
		if err != nil {
			return err
		}
		wait = min(d.D(), maxWait)
	}
	if s.waiters.Add(1) > maxWaiters {
		s.waiters.Add(-1)
		return refuse(http.StatusServiceUnavailable, "%d readers wait already; ask without after_number, or try again later", maxWaiters)
	}
	defer s.waiters.Add(-1)
	// More than the usual time to write: the answer comes after the wait. Not
	// every ResponseWriter has deadlines; those of net/http have.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + writeTime))
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	s.seen().waitNumber(ctx, s.stopping, host, check, known)
	return nil
}

// waitNumber waits until the number is another than known, the host or check is
// gone, ctx ends or stop is closed. What is not there is not waited for.
func (v *View) waitNumber(ctx context.Context, stop <-chan struct{}, host, check string, known uint64) {
	for {
		changed := v.unlessMoved(host, check, known)
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// unlessMoved returns what is closed at the next change, nil where the number is
// another than known already.
func (v *View) unlessMoved(host, check string, known uint64) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.hosts[host]
	if h == nil || v.over {
		return nil
	}
	if check == "" {
		if !h.registered() || h.state.Number != known {
			return nil
		}
		return watched(&h.watch)
	}
	c := h.checks[check]
	if c == nil || c.entry == nil || c.shown().Number != known {
		return nil
	}
	return watched(&c.watch)
}
