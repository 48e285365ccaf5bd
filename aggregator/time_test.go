package aggregator

import (
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// The bus's time may differ from the process's by as much as it likes, and be
// learned late; only if it goes forward where this process's does not, time leapt.
func TestClock(t *testing.T) {
	is := is.New(t)
	var c clock
	start := time.Now()
	far := start.Add(1000 * time.Hour) // the bus's clock
	is.True(!c.set(start, start, far))
	is.True(!c.set(start.Add(time.Hour), start.Add(time.Hour+4*time.Second), far.Add(time.Hour)))
	is.True(!c.set(start.Add(2*time.Hour), start.Add(2*time.Hour), far.Add(time.Hour))) // set back
	is.Equal(len(c.since(time.Time{})), 0)

	is.True(c.set(start.Add(3*time.Hour), start.Add(3*time.Hour), far.Add(4*time.Hour)))
	is.Equal(c.since(far), []Outage{{From: far.Add(2 * time.Hour), To: far.Add(4 * time.Hour)}})
	is.Equal(len(c.since(far.Add(4*time.Hour))), 0)
	until := c.until(far.Add(4 * time.Hour).Add(time.Minute)) // three hours and a minute from start
	is.True(until > 3*time.Hour && until <= 3*time.Hour+time.Minute)
}

// Somebody sets the clock of the bus forward by an hour: whoever goes on pushing
// is not condemned, and who does not is, a grace later.
func TestPartition_ClockLeaps(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	for _, id := range []string{"alive", "silent"} {
		f.register(events.Registration{Host: "web01", ID: id, TTL: events.Duration(20 * time.Second)})
	}
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	f.push("web01", "silent", events.OK, 0)
	pushed := f.push("web01", "alive", events.OK, 0)
	f.drain(p, func() bool { return p.results >= pushed })

	// The next tick bears a time an hour later than this process would think.
	leapt := p.now.Add(time.Hour)
	p.tick, p.ticked = pushed+10, time.Now()
	is.NoErr(p.tickAt(t.Context(), p.tick, leapt))
	alive, silent := p.hosts["web01"].check("alive"), p.hosts["web01"].check("silent")
	is.Equal(silent.state.Phase, events.Live)
	is.Equal(NextDeadline(alive.state, alive.with), leapt.Add(20*time.Second).UTC())
	_, err := p.apply(t.Context(), alive, Result{Host: "web01", Check: "alive", Position: pushed + 20}, leapt.Add(19*time.Second), "")
	is.NoErr(err)
	is.NoErr(p.tickAt(t.Context(), pushed+30, leapt.Add(20*time.Second)))
	is.Equal(alive.state.Phase, events.Live)
	is.Equal(silent.state.Phase, events.Stale)
}
