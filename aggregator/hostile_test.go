package aggregator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// room leaves so many bytes among the states.
func (f *field) room(bytes int64) {
	f.tb.Helper()
	s, err := f.conn.JetStream().Stream(f.tb.Context(), bus.StreamState)
	if err == nil {
		cfg := s.CachedInfo().Config
		cfg.MaxBytes = int64(s.CachedInfo().State.Bytes) + bytes
		_, err = f.conn.JetStream().UpdateStream(f.tb.Context(), cfg)
	}
	if err != nil {
		f.tb.Fatal(err)
	}
}

// Whoever fills STATE, with messages as long as they may be, puts no partition in
// doubt: what cannot be recorded is in CHANGES and RESULTS.
func TestAggregator_NoRoomForStates(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	f.push("web01", "a", events.OK, 0)
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	flood := func(status events.Status) (last uint64) {
		for i := range 10 {
			var err error
			last, err = f.conn.Push(t.Context(), "web01", fmt.Sprint("c", i), events.Result{Status: status, Message: strings.Repeat("<", events.MaxMessage)})
			is.NoErr(err)
		}
		return last
	}
	last := flood(events.Warning)
	f.drain(p, func() bool { return p.results >= last })
	before := p.saved.Results
	f.room(55_000)
	is.NoErr(p.checkpoint(t.Context())) // not all fits
	is.True(len(p.dirty) > 0)
	is.Equal(p.saved.Results, before)
	last = f.push("web01", "a", events.Critical, 0)
	f.drain(p, func() bool { return p.results >= last })

	next := f.partition("q", events.Partition("web01")) // knows all of it
	is.NoErr(next.takeOver(t.Context()))
	defer next.close()
	f.drain(next, func() bool { return next.results >= last })
	for id, c := range map[string]events.Status{"a": events.Critical, "c0": events.Warning, "c9": events.Warning} {
		is.Equal(next.hosts["web01"].check(id).state.Status, c)
	}

	next.a.noteRoom(next.a.ask(t.Context(), bus.StreamState))
	is.True(next.a.stateUsed.Load() > leanAbove)
	refused := f.rejections(t)
	last = f.push("web01", "new", events.OK, 0)
	f.drain(next, func() bool { return next.results >= last })
	refused("no room for states")
	f.room(9_000)
	next.a.noteRoom(next.a.ask(t.Context(), bus.StreamState))
	is.True(next.a.stateUsed.Load() <= closedAbove)
	is.NoErr(next.checkpoint(t.Context()))
	is.Equal(len(next.dirty), 0) // records say less, and fit
	is.Equal(f.stored("web01", "c9").Status, events.Warning)
}

// Whoever is refused again and again costs one look at the stream, not one each.
func TestAggregator_RefusedFlood(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	f.register(web("db"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	looks, err := f.conn.NATS().SubscribeSync("$JS.API.DIRECT.GET.REGISTRATIONS.>")
	is.NoErr(err)
	var last uint64
	for range 100 {
		last = f.push("web01", "db", events.OK, 0)
	}
	f.drain(p, func() bool { return p.results >= last })
	is.Equal(p.a.stats.rejected.Load(), uint64(100))
	is.NoErr(f.conn.NATS().Flush())
	n, _, err := looks.Pending()
	is.NoErr(err)
	is.Equal(n, 1)

	// But a push after that looks again: the check may be pushed to by now.
	f.register(events.Registration{Host: "web01", ID: "db", TTL: events.Duration(time.Minute)})
	last = f.push("web01", "db", events.Critical, 0)
	f.drain(p, func() bool { return p.results >= last })
	is.Equal(p.hosts["web01"].check("db").state.Status, events.Critical)
}
