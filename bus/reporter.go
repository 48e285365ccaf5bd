package bus

import (
	"context"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// Reporter tells the bus how a service is: it registers the check, pushes its
// status at once, at each change and every third of the ttl, and says good-bye
// at the end. Make it with [NewReporter]; Set is safe for concurrent use.
type Reporter struct {
	c   *Conn
	reg events.Registration

	mu   sync.Mutex
	now  events.Result
	wake chan struct{} // one signal is enough: the newest status counts
}

// DefaultTTL is the ttl of a reporter whose registration has none.
const DefaultTTL = time.Minute

// NewReporter makes a reporter for the check of r, which needs a host and an id.
// The status is Unknown until Set is called.
func NewReporter(c *Conn, r events.Registration) *Reporter {
	if r.TTL == 0 {
		r.TTL = events.Duration(DefaultTTL)
	}
	if r.Origin == "" {
		r.Origin = "reporter"
	}
	return &Reporter{
		c: c, reg: r, wake: make(chan struct{}, 1),
		now: events.Result{Status: events.Unknown, Message: "starting"},
	}
}

// Set changes what is told, and tells it soon.
func (r *Reporter) Set(s events.Status, message string) {
	r.mu.Lock()
	r.now = events.Result{Status: s, Message: message}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // a signal is waiting already
	}
}

// Run registers and pushes until ctx ends, then deregisters, for which it takes
// two seconds at most, and returns nil. What cannot be told now is logged and
// told again with the next beat; a registration that is refused for good ends Run
// with that error, which wraps [ErrRefused], and deregisters nothing: what is there
// by that name is somebody else's.
func (r *Reporter) Run(ctx context.Context) error {
	beat := time.NewTicker(max(r.reg.TTL.D()/3, time.Millisecond))
	defer beat.Stop()
	registered := false
	for {
		if !registered {
			_, err := r.c.Register(ctx, r.reg)
			if forGood(err) {
				return err
			}
			registered = err == nil
			r.note(ctx, "register", err)
		}
		if registered {
			r.mu.Lock()
			now := r.now
			r.mu.Unlock()
			_, err := r.c.Push(ctx, r.reg.Host, r.reg.ID, now)
			r.note(ctx, "push", err)
		}
		select {
		case <-ctx.Done():
			r.goodbye()
			return nil
		case <-r.wake:
		case <-beat.C:
		}
	}
}

func (r *Reporter) note(ctx context.Context, act string, err error) {
	if err != nil && ctx.Err() == nil {
		r.c.log.Warn(act+" will be tried again with the next beat", "host", r.reg.Host, "check", r.reg.ID, "error", err)
	}
}

// goodbye ends the registration: the service stops by its own will, no alarm.
func (r *Reporter) goodbye() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := r.c.Deregister(ctx, r.reg.Host, r.reg.ID)
	r.note(ctx, "deregister", err)
}
