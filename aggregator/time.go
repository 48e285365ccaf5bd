package aggregator

import (
	"context"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nuid"
)

// clock guesses the time of the bus. It is right to within the time that a
// message needs; only ticks decide, the guess says when to publish one.
type clock struct{ offset time.Duration }

// set learns from a message that was stored between two times of this process.
func (c *clock) set(before, after, stored time.Time) {
	c.offset = stored.Sub(before.Add(after.Sub(before) / 2))
}

// until is how long it is to a bus time.
func (c clock) until(t time.Time) time.Duration { return time.Until(t) - c.offset }

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
		alarm.Reset(p.clock.until(next) + 2*time.Millisecond)
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
	if next := p.agenda.first(); next.IsZero() || p.clock.until(next) > 0 {
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
			p.clock.set(p.ticked, p.ticked, now)
		}
		p.tick = 0
	}
	if position <= p.replay {
		// The owner before answered it, or did not come to do so. Results from
		// before the checkpoint are not all remembered while they are read
		// again: a tick of one's own comes when they are.
		return nil
	}
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
