package aggregator

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// newer stands for an aggregator of a later version: it can read every record, and
// all that it does is to hold partitions.
type newer struct {
	mu    sync.Mutex
	since map[int]time.Time
}

func (n *newer) run(f *field) {
	conn := f.connect()
	leases := bus.NewLeases(conn, bus.LeaseOptions{Group: Group, Partitions: events.Partitions, Holder: "newer", Name: "newer", Role: Role})
	background(f.tb, func(ctx context.Context) error {
		return leases.Run(ctx, func(ctx context.Context, l bus.Lease) {
			n.mu.Lock()
			n.since[l.Partition] = time.Now()
			n.mu.Unlock()
			<-ctx.Done()
			n.mu.Lock()
			delete(n.since, l.Partition)
			n.mu.Unlock()
		})
	})
	background(f.tb, func(ctx context.Context) error {
		return bus.RunHeartbeat(ctx, conn, func() events.Heartbeat { return events.Heartbeat{Role: Role, Name: "newer", Leases: leases.Count()} })
	})
}

func (n *newer) holds(p int) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	since, ok := n.since[p]
	return time.Since(since), ok
}

func (n *newer) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.since)
}

// Beside a newer process an older one leaves a partition alone that holds records of
// the later version: it does not interpret them, and the newer one gets it, although
// it has its share, and keeps it.
func TestUpgrade_TheNewerOneServes(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	old, _ := f.aggregator("old")
	n := &newer{since: map[int]time.Time{}}
	n.run(f)
	eventually(t, "they share", func() bool { return n.count() == events.Partitions/2 && old.Stats().Partitions == events.Partitions/2 })

	host := ""
	for _, name := range []string{"h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10", "h11"} {
		if _, ok := n.holds(events.Partition(name)); !ok {
			host = name
		}
	}
	is.True(host != "")
	p := events.Partition(host)
	w := f.watch()
	f.put(events.StateSubject(host, "db"), map[string]any{"v": 2, "host": host, "check": "db", "number": 7, "status": map[string]any{"new": "form"}})
	f.put(events.FenceSubject(p), fenceRecord{V: 2, Name: "newer"}) // it was the newer one's for a while
	f.put(events.StateFenceSubject(p), fenceRecord{V: 2, Name: "newer"})
	f.push(host, "other", events.OK, 0) // the old one notices that it was replaced
	eventually(t, "the newer one has it, and keeps it", func() bool { d, ok := n.holds(p); return ok && d > 4*time.Second })
	for len(w.next) > 0 {
		ch := <-w.next
		is.True(ch.Transition.Host != host) // nothing was said of it
	}
}
