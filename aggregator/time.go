package aggregator

import (
	"context"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nuid"
)

// clock guesses the time of the bus, by the monotonic clock of this process and
// what messages of the bus last said. It is right to within the time that a
// message needs; only ticks decide, the guess says when to publish one. All
// partitions share one. It is safe for concurrent use.
type clock struct {
	mu    sync.Mutex
	local time.Time // of the last observation, with a monotonic reading
	bus   time.Time // at that time
	leaps []Outage
}

// maxLeaps is how many leaps are remembered; a partition that slept longer than
// that was taken over anew.
const maxLeaps = 100

// set learns the time of the bus between two times of this process. If it is much
// later than it should be, somebody set the clock, or the machine was suspended:
// the time between did not pass for the services. It reports such a leap.
func (c *clock) set(before, after, stored time.Time) (leapt bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	local := before.Add(after.Sub(before) / 2)
	if expected := c.bus.Add(local.Sub(c.local)); !c.bus.IsZero() && stored.Sub(expected) > bus.OutageAfter {
		leapt = true
		c.leaps = append(c.leaps, Outage{From: expected, To: stored})
		if len(c.leaps) > maxLeaps {
			c.leaps = c.leaps[1:]
		}
	}
	if local.After(c.local) {
		c.local, c.bus = local, stored
	}
	return leapt
}

// until is how long it is to a bus time.
func (c *clock) until(t time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.Sub(c.bus) - time.Since(c.local)
}

// since returns the leaps that ended after a bus time.
func (c *clock) since(t time.Time) (out []Outage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.leaps {
		if o.To.After(t) {
			out = append(out, o)
		}
	}
	return out
}

// tickPatience is after how long a tick should have come back.
const tickPatience = 5 * time.Second

// arm sets the alarm to the next deadline.
func (p *partition) arm(alarm *time.Timer) {
	next := p.agenda.first()
	switch {
	case !p.live:
		alarm.Stop()
	case p.tick != 0:
		alarm.Reset(time.Until(p.ticked.Add(tickPatience)))
	case next.IsZero():
		alarm.Stop()
	default:
		// A little later, lest a tick that is a moment early has to be repeated.
		alarm.Reset(p.a.clock.until(next) + 2*time.Millisecond)
	}
}

// ring publishes a tick, because a deadline is due by the guess.
func (p *partition) ring(ctx context.Context) error {
	if !p.live {
		return nil
	}
	if p.tick != 0 {
		if time.Since(p.ticked) < tickPatience {
			return nil
		}
		return errStalled
	}
	if next := p.agenda.first(); next.IsZero() || p.a.clock.until(next) > 0 {
		return nil
	}
	p.a.stats.ticks.Add(1)
	return p.publishTick(ctx)
}

// publishTick stores a tick.
func (p *partition) publishTick(ctx context.Context) error {
	b, err := events.Encode(events.Header{Type: events.TypeTick, Source: p.a.source, ID: nuid.Next(), Time: time.Now()}, events.Tick{})
	if err != nil {
		return err
	}
	p.ticked = time.Now()
	p.tick, err = p.write(ctx, bus.Message(events.TickSubject(p.n), b))
	return err
}

// tickAt lets everything happen whose deadline has come at the bus time now.
func (p *partition) tickAt(ctx context.Context, position uint64, now time.Time) error {
	if p.tick != 0 && position >= p.tick {
		if position == p.tick {
			p.observe(p.ticked, p.ticked, now)
		}
		p.tick = 0
	}
	if position <= p.replay {
		// The owner before answered it, or did not come to do so. Results from
		// before the checkpoint are not all remembered while they are read
		// again: a tick of one's own comes when they are.
		return nil
	}
	p.leap(now)
	touched := map[*host]cause{}
	for _, t := range p.agenda.due(now) {
		switch t := t.(type) {
		case *check:
			h := p.hosts[t.state.Host]
			out, err := p.apply(ctx, t, Tick{}, now, "")
			if err != nil {
				return err
			}
			if c := causeOf(out); c.why != "" || touched[h].why == "" {
				touched[h] = c
			}
		case *host:
			if _, ok := touched[t]; !ok {
				touched[t] = cause{}
			}
		}
	}
	for h, why := range touched {
		if err := p.derive(ctx, h, Tick{}, why, now); err != nil {
			return err
		}
	}
	return nil
}

// observe takes note of the time that the bus had between two times of this process.
func (p *partition) observe(before, after, stored time.Time) {
	if p.a.clock.set(before, after, stored) {
		p.log.Warn("the clock of the bus was set forward, or the machine slept: deadlines are put off", "time", stored)
	}
}

// leap puts deadlines off for each time that the clock of the bus was set forward.
func (p *partition) leap(now time.Time) {
	for _, o := range p.a.clock.since(p.leapt) {
		p.putOff(o, now)
		p.leapt = o.To
	}
}
