package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Polls that a reader asks for.
const (
	freshest     = time.Second            // a result that is not older is as good as a poll
	pollMargin   = 5 * time.Second        // beyond the check's timeout, until who asks is told that there is no answer
	handOverTime = 3 * time.Second        // how long a partition may be without a worker before that is told
	askAgain     = 200 * time.Millisecond // between two attempts meanwhile
	showTime     = time.Second            // until what was found shows in the view, at most
)

// flights are the polls that are asked for now: all who ask for the same one at
// the same time wait for one answer. The zero value is ready.
type flights struct {
	mu  sync.Mutex
	now map[string]*flight // by host, check and position of the registration
}

type flight struct {
	landed chan struct{}
	reply  events.PollReply
	err    error
}

// join waits for the answer of the flight of a key, which it makes with fly
// unless there is one. fly has to return in time: nobody who asks ends it.
func (f *flights) join(ctx context.Context, key string, fly func() (events.PollReply, error)) (events.PollReply, error) {
	f.mu.Lock()
	if there := f.now[key]; there != nil {
		f.mu.Unlock()
		select {
		case <-there.landed:
			return there.reply, there.err
		case <-ctx.Done():
			return events.PollReply{}, ctx.Err()
		}
	}
	own := &flight{landed: make(chan struct{})}
	if f.now == nil {
		f.now = map[string]*flight{}
	}
	f.now[key] = own
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.now, key)
		f.mu.Unlock()
		close(own.landed)
	}()
	own.reply, own.err = fly()
	return own.reply, own.err
}

// freshen returns once the view has a result of a check that is not older than
// fresh, or than a second; polled says that it had to be asked for. It asks the
// worker that polls the check, which takes no longer than a poll of it may.
func (s *Server) freshen(ctx context.Context, host, check string, fresh time.Duration) (polled bool, err error) {
	e, ok := s.reg.Check(host, check)
	switch {
	case !ok:
		return false, noCheck(host, check)
	case e.Registration.Push():
		return false, refuse(http.StatusConflict, "check %q of %s is pushed: nobody can poll it", check, host)
	case s.view.newerThan(host, check, e.Position, max(fresh, freshest), time.Now()):
		return false, nil
	}
	if s.waiters.Add(1) > maxWaiters {
		s.waiters.Add(-1)
		return false, refuse(http.StatusServiceUnavailable, "%d readers wait already; ask without fresh, or try again later", maxWaiters)
	}
	defer s.waiters.Add(-1)
	key := host + "\n" + check + "\n" + strconv.FormatUint(e.Position, 10) // another address is another poll
	reply, err := s.flights.join(ctx, key, func() (events.PollReply, error) { return s.order(ctx, e.Registration) })
	if err != nil {
		return false, err
	}
	if reply.Suspect != "" {
		return true, refuse(http.StatusServiceUnavailable, "the worker %s suspects itself, so that what it found does not count: %s", reply.Worker, reply.Suspect)
	}
	s.view.Shown(ctx, host, check, reply.Position, showTime)
	return true, nil
}

// order asks the worker of a check to poll it. Between two workers it asks again.
func (s *Server) order(ctx context.Context, r events.Registration) (events.PollReply, error) {
	ctx, stop := s.untilStop(context.WithoutCancel(ctx))
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.pollTime(r))
	defer cancel()
	pool, began := r.PoolName(), time.Now()
	for {
		reply, err := s.conn.PollNow(ctx, pool, events.PollOrder{Host: r.Host, Check: r.ID})
		nobody := errors.Is(err, bus.ErrNoService)
		switch {
		case errors.Is(err, context.Canceled):
			return reply, refuse(http.StatusServiceUnavailable, "this gateway is stopping: ask again")
		case errors.Is(err, context.DeadlineExceeded):
			return reply, refuse(http.StatusGatewayTimeout, "the worker of pool %q did not answer within %s: its host may be gone, then another takes over within %s",
				pool, events.Duration(s.pollTime(r)), events.Duration(bus.LeaseTTL))
		case err != nil && !nobody:
			return reply, err
		case !nobody && reply.Refused == "":
			return reply, nil
		case !nobody && !reply.Again:
			return reply, refuse(http.StatusServiceUnavailable, "the worker %s did not poll check %q: %s", reply.Worker, r.ID, reply.Refused)
		}
		if time.Since(began) > handOverTime {
			return reply, refuse(http.StatusServiceUnavailable, "no worker of the pool %q polls check %q of %s now: start one with --pool, or see `megaphone workers`", pool, r.ID, r.Host)
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done(): // which the next attempt tells
		}
	}
}

// pollTime is how long a poll that is asked for may take at most.
func (s *Server) pollTime(r events.Registration) time.Duration {
	if r.Timeout > 0 {
		return min(r.Timeout.D(), maxWait) + pollMargin
	}
	return s.cfg.Timeout + pollMargin
}

// newerThan reports whether the registration at a position has a result that was
// stored less than age before now. A stamp of another clock that is far in the
// future is not new.
func (v *View) newerThan(host, check string, reg uint64, age time.Duration, now time.Time) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil || h.checks[check] == nil {
		return false
	}
	c := h.checks[check]
	return c.known() && c.reg >= reg && now.Sub(c.state.Seen).Abs() < age
}

// Shown waits until a result stored at a position is visible in this view, for
// some time at most.
func (v *View) Shown(ctx context.Context, host, check string, position uint64, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	v.wait(ctx, host, check, func(c *checkEntry) bool { return c.settled(position) })
}

// awaitFresh polls the check where ?fresh= asks for a newer result than there is.
func (s *Server) awaitFresh(w http.ResponseWriter, r *http.Request, host, check string) error {
	if r.URL.RawQuery == "" || r.Method == http.MethodHead {
		return nil
	}
	q := r.URL.Query()
	if !q.Has("fresh") {
		return nil
	}
	fresh, err := events.ParseDuration(q.Get("fresh"))
	if err != nil {
		return err
	}
	// More than the usual time to write: the answer comes after the poll. Not
	// every ResponseWriter has deadlines; those of net/http have.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxWait + pollMargin + writeTime))
	_, err = s.freshen(r.Context(), host, check, fresh.D())
	return err
}

// callPoll polls a check now.
func (s *Server) callPoll(ctx context.Context, body []byte) (any, error) {
	var q events.PollQuery
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, refuse(http.StatusBadRequest, "the request: %v", err)
	}
	host, err := s.hostOr(q.Host)
	if err != nil {
		return nil, err
	}
	if q.Check, err = events.ParseCheck(q.Check); err != nil {
		return nil, err
	}
	polled, err := s.freshen(ctx, host, q.Check, q.Fresh.D())
	if err != nil {
		return nil, err
	}
	view, ok := s.view.Check(host, q.Check, time.Now())
	if !ok {
		return nil, noCheck(host, q.Check)
	}
	return events.PollAnswer{Polled: polled, Check: view}, nil
}
