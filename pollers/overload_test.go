package pollers_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// Hosts that hang take no place from others, however many there are: their polls
// have places of their own once they take long.
func TestWorkerSlowHosts(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	var now atomic.Int64
	hang := func(ctx context.Context, target events.Target) pollers.Finding {
		now.Add(1)
		defer now.Add(-1)
		<-ctx.Done()
		return pollers.Finding{Reading: pollers.Missing(target), Err: ctx.Err()}
	}
	f.worker(pollers.Config{Timeout: 30 * time.Second, Concurrency: 10, Kinds: pollers.Kinds{"slow": hang}})
	for i := range 40 { // as many as there are places for slow polls
		f.register(events.Registration{ID: fmt.Sprintf("slow-%d", i), URL: quoted(fmt.Sprintf("slow://host%d/", i)), Interval: events.Duration(40 * time.Second)})
	}
	fast := serve(t, text(okDocument))
	f.register(events.Registration{ID: "fast", URL: quoted(fast.URL), Interval: events.Duration(20 * time.Millisecond)})
	before := len(f.wait(2*soon, func([]bus.Incoming) bool { return now.Load() == 40 }))
	f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "fast")) >= before+50 })
	is.Equal(now.Load(), int64(40)) // all of them still hang: none of the 50 had to wait for one
}

// A worker with more to do than it can says by how much it is late, to everybody.
func TestWorkerSaysHowLateItIs(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	work := func(context.Context, events.Target) pollers.Finding {
		time.Sleep(100 * time.Millisecond) // it is what is measured: how long a poll takes
		return pollers.Finding{Reading: pollers.Reading{Status: events.OK, Message: "done"}}
	}
	told := make(chan events.Heartbeat, 100)
	beats, err := bus.Connect(t.Context(), f.server.URL(), bus.WithCreds(f.server.CredsPath()))
	must(t, err)
	t.Cleanup(func() { beats.NATS().Close() })
	listening, err := beats.Heartbeats(pollers.Role, func(b events.Heartbeat) { told <- b })
	must(t, err)
	t.Cleanup(func() { listening.Close() })
	f.worker(pollers.Config{Concurrency: 1, Kinds: pollers.Kinds{"work": work}})
	for i := range 20 { // two seconds of work each half second
		f.register(events.Registration{ID: fmt.Sprintf("c%d", i), URL: quoted(fmt.Sprintf("work://h%d/", i)), Interval: events.Duration(500 * time.Millisecond)})
	}
	timeout := time.After(3 * soon)
	for {
		select {
		case b := <-told:
			if b.Work == nil || b.Work.Checks < 20 || b.Work.Dropped < 20 {
				continue
			}
			t.Logf("heartbeat: %+v", *b.Work)
			is.True(b.Work.LateSeconds > 0.5) // a whole interval at least
			is.Equal(b.Work.Partitions[events.DefaultPool], events.Partitions)
			is.True(b.Work.PollsPerSecond > 0 && b.Work.PollsPerSecond < 10.5)
			is.Equal(b.Work.ErrorShare, 0.0)
			return
		case <-timeout:
			t.Fatal("nobody says that polls are dropped")
		}
	}
}
