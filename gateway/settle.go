package gateway

import (
	"context"
	"time"

	"github.com/looprock/megaphone/events"
)

// settleTime is how long a push waits at most until it is visible.
const settleTime = 100 * time.Millisecond

// Settled waits until a push stored at a position is visible in this view, at
// most 100 ms. What it found before tells whether there is anything to wait for.
func (v *View) Settled(ctx context.Context, host, check string, position uint64) {
	v.Shown(ctx, host, check, position, settleTime)
}

// Shows reports whether a push of r would change nothing that a reader sees but
// its age.
func (v *View) Shows(host, check string, r events.Result) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil || h.checks[check] == nil {
		return false
	}
	c := h.checks[check]
	return c.quiet(r.Status) && c.state.Message == r.Message && len(r.Document)+len(c.last.Document) == 0
}

// WaitFirst waits until the first poll of the registration at position reg has
// told, and its effect is visible, or ctx ends. It reports whether it did.
func (v *View) WaitFirst(ctx context.Context, host, check string, reg uint64) bool {
	if !v.wait(ctx, host, check, func(c *checkEntry) bool { return c.reg >= reg || c.entry == nil }) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*settleTime)
	defer cancel()
	return v.wait(ctx, host, check, func(c *checkEntry) bool {
		newest := c.lastAt
		if n := len(c.early); n > 0 {
			newest = c.early[n-1].Position
		}
		return c.here() && c.settled(max(newest, c.dropped))
	})
}

// here reports whether what is known is of the address that is registered now:
// at another one the check begins anew, and its old state is about to go, even
// if the first result says the same.
func (c *checkEntry) here() bool {
	if c.entry == nil {
		return true
	}
	t, err := c.entry.Registration.Target()
	return err != nil || c.state.Addr == t.Addr
}

// WaitOverride waits until the override at a position has been applied to a
// check, or with an empty check to a host; at most 100 ms. Position 0 is none.
func (v *View) WaitOverride(ctx context.Context, host, check string, position uint64) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if check == "" {
		v.waitHost(ctx, host, func(h *hostEntry) bool { return overridden(h.state.Override, h.state.OverPos, position) })
		return
	}
	v.wait(ctx, host, check, func(c *checkEntry) bool {
		return !c.known() || overridden(c.state.Override, c.state.OverPos, position)
	})
}

func overridden(o *events.Override, at, position uint64) bool {
	if position == 0 {
		return o == nil
	}
	return at >= position
}

// settled reports whether everything that the result at a position changes is
// visible: a record that counts it is there, or it counts and changes no
// status, or it does not count.
func (c *checkEntry) settled(position uint64) bool {
	switch {
	case c.applied >= position || c.dropped >= position:
		return true
	case !c.known() || c.state.Applied < position:
		return false
	}
	return c.quiet(c.last.Status)
}

// quiet reports whether a result with this status makes no transition.
func (c *checkEntry) quiet(s events.Status) bool {
	if o := c.state.Override; o != nil && o.UntilPush {
		return false
	}
	return c.known() && c.state.Basis == events.Live && c.state.Reported == s && c.state.Streak == 0
}

// wait blocks until ok holds for a check, which is asked again after each change
// of it, and reports whether it did before ctx ended.
func (v *View) wait(ctx context.Context, host, check string, ok func(*checkEntry) bool) bool {
	for {
		v.mu.Lock()
		_, c := v.named(host, check)
		if ok(c) {
			v.mu.Unlock()
			return true
		}
		ch := watched(&c.watch)
		v.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		}
	}
}

func (v *View) waitHost(ctx context.Context, host string, ok func(*hostEntry) bool) bool {
	for {
		v.mu.Lock()
		h, _ := v.named(host, "")
		if ok(h) {
			v.mu.Unlock()
			return true
		}
		ch := watched(&h.watch)
		v.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		}
	}
}

func watched(ch *chan struct{}) <-chan struct{} {
	if *ch == nil {
		*ch = make(chan struct{})
	}
	return *ch
}
