package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

const partitions = 64

// spans records when which member saw its lease of a partition as valid.
type spans struct {
	mu  sync.Mutex
	all []span
}

type span struct {
	member    string
	partition int
	epoch     uint64
	previous  time.Time
	from, to  time.Time
}

func (s *spans) add(v span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, v)
}

// check fails where two members were sure of one partition at the same time, or
// an epoch did not grow.
func (s *spans) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.all, func(a, b span) int { return a.from.Compare(b.from) })
	last := map[int]span{}
	for _, v := range s.all {
		if was, ok := last[v.partition]; ok {
			if v.from.Before(was.to) {
				t.Errorf("partition %d: %s held it until %s, %s from %s", v.partition, was.member, was.to, v.member, v.from)
			}
			if v.epoch <= was.epoch {
				t.Errorf("partition %d: epoch %d after %d", v.partition, v.epoch, was.epoch)
			}
			if v.previous.IsZero() {
				t.Errorf("partition %d: the holder before is unknown", v.partition)
			}
		}
		last[v.partition] = v
	}
}

// member is a process that takes part.
type member struct {
	*bus.Leases
	nc    *nats.Conn
	stop  func() // gracefully
	mu    sync.Mutex
	holds map[int]uint64 // partition -> epoch, while hold runs
}

func (m *member) held() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []int
	for p := range m.holds {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func join(t *testing.T, s *server.Server, name string, rec *spans) *member {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{nc: nc, holds: map[int]uint64{}, Leases: bus.NewLeases(c, bus.LeaseOptions{
		Group: "w.default", Partitions: partitions, Holder: "id-" + name, Name: name, Role: "poller",
		Member: func(b events.Heartbeat) bool { return slices.Contains(b.Pools, "default") },
	})}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx, func(ctx context.Context, l bus.Lease) { m.hold(ctx, l, name, rec) }) })
	wg.Go(func() {
		bus.RunHeartbeat(ctx, c, func() events.Heartbeat {
			return events.Heartbeat{Role: "poller", Name: name, Pools: []string{"default"}, Leases: m.Count()}
		})
	})
	m.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		nc.Close()
	})
	t.Cleanup(m.stop)
	return m
}

// hold looks at its lease all the time, for as long as it lasts, and notes when
// it was sure of it.
func (m *member) hold(ctx context.Context, l bus.Lease, name string, rec *spans) {
	m.mu.Lock()
	m.holds[l.Partition] = l.Epoch
	m.mu.Unlock()
	v := span{member: name, partition: l.Partition, epoch: l.Epoch, previous: l.Previous}
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for done := false; !done; {
		now := time.Now()
		if l.Valid() {
			if v.from.IsZero() {
				v.from = now
			}
			v.to = now
		}
		select {
		case <-ctx.Done():
			done = true
		case <-t.C:
		}
	}
	if !v.from.IsZero() {
		rec.add(v)
	}
	m.mu.Lock()
	delete(m.holds, l.Partition)
	m.mu.Unlock()
}

func leaseServer(t *testing.T) *server.Server {
	t.Helper()
	s := bustest.Start(t)
	c, err := bus.New(bustest.Connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Setup(t.Context(), bus.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// shared reports whether the members hold every partition, each an even part.
func shared(members ...*member) bool {
	sum := 0
	for _, m := range members {
		n := len(m.held())
		if n < partitions/len(members) || n > (partitions+len(members)-1)/len(members) {
			return false
		}
		sum += n
	}
	return sum == partitions
}

func TestLeasesAreShared(t *testing.T) {
	is := is.New(t)
	s := leaseServer(t)
	rec := &spans{}
	a := join(t, s, "a", rec)
	eventually(t, "one holds all", func() bool { return shared(a) && a.Count() == partitions })
	b := join(t, s, "b", rec)
	eventually(t, "two share", func() bool { return shared(a, b) })
	c := join(t, s, "c", rec)
	eventually(t, "three share", func() bool { return shared(a, b, c) })
	start := time.Now()
	b.stop()
	is.Equal(b.Count(), 0)
	eventually(t, "two share again", func() bool { return shared(a, c) })
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a graceful end was noticed after %s", took) // without waiting for the TTL
	}
	a.stop()
	c.stop()
	rec.check(t)
}

// Members that start at the same time come to terms too.
func TestLeasesStartTogether(t *testing.T) {
	s := leaseServer(t)
	rec := &spans{}
	var all []*member
	for i := range 5 {
		all = append(all, join(t, s, fmt.Sprint("m", i), rec))
	}
	eventually(t, "five share", func() bool { return shared(all...) })
	for _, m := range all {
		m.stop()
	}
	rec.check(t)
}

// The partitions of a member that dies are taken one lease later; the dead one
// has let go before.
func TestLeasesOfTheDead(t *testing.T) {
	is := is.New(t)
	s := leaseServer(t)
	rec := &spans{}
	a, b := join(t, s, "a", rec), join(t, s, "b", rec)
	eventually(t, "two share", func() bool { return shared(a, b) })
	b.nc.Close() // it can neither renew nor release nor say good-bye
	start := time.Now()
	eventually(t, "the other holds all", func() bool { return shared(a) })
	took := time.Since(start)
	t.Logf("taken after %s", took)
	if took > bus.LeaseTTL+2*time.Second {
		t.Errorf("the partitions of the dead were taken after %s", took)
	}
	is.Equal(len(b.held()), 0)
	b.stop()
	a.stop()
	rec.check(t)
}

// A process that comes back after kill -9 knows its own id and does not wait.
func TestLeasesOfOnesOwn(t *testing.T) {
	is := is.New(t)
	s := leaseServer(t)
	rec := &spans{}
	a := join(t, s, "a", rec)
	eventually(t, "it holds all", func() bool { return shared(a) })
	a.mu.Lock()
	before := a.holds[7]
	a.mu.Unlock()
	a.nc.Close()
	start := time.Now()
	again := join(t, s, "a", rec)
	eventually(t, "it holds all again", func() bool { return shared(again) })
	took := time.Since(start)
	t.Logf("taken again after %s", took)
	is.True(took < bus.LeaseTTL) // at once
	again.mu.Lock()
	is.True(again.holds[7] > before) // a new epoch
	again.mu.Unlock()
	a.stop()
	again.stop()
}

// A bus that is away fences every holder; when it is back they go on.
func TestLeasesAndTheBus(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	listen := s.URL()[len("nats://"):]
	nc := bustest.ConnectRole(t, s, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	c, err := bus.New(nc)
	is.NoErr(err)
	is.NoErr(c.Setup(t.Context(), bus.StreamOptions{}))
	rec := &spans{}
	m := &member{holds: map[int]uint64{}, Leases: bus.NewLeases(c, bus.LeaseOptions{Group: "a", Partitions: 8, Holder: "h", Name: "n"})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, func(ctx context.Context, l bus.Lease) { m.hold(ctx, l, "n", rec) }) }()
	eventually(t, "it holds all", func() bool { return len(m.held()) == 8 })
	s.Close()
	start := time.Now()
	eventually(t, "it lets go", func() bool { return len(m.held()) == 0 })
	is.True(time.Since(start) < bus.LeaseTTL) // before the server would
	bustest.StartIn(t, dir, listen)
	eventually(t, "it holds all again", func() bool { return len(m.held()) == 8 })
	cancel()
	is.NoErr(<-done)
	rec.check(t)
}

// A hold that returns by itself gives its partition up; it is tried again later.
func TestLeasesGivenUp(t *testing.T) {
	is := is.New(t)
	s := leaseServer(t)
	c, err := bus.New(bustest.Connect(t, s))
	is.NoErr(err)
	l := bus.NewLeases(c, bus.LeaseOptions{Group: "w.%40web01", Partitions: 1, Holder: "h", Name: "n"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	epochs := make(chan uint64, 10)
	go func() { done <- l.Run(ctx, func(_ context.Context, l bus.Lease) { epochs <- l.Epoch }) }()
	first := <-epochs
	is.True(<-epochs > first)
	cancel()
	is.NoErr(<-done)
}

// Who releases a partition can tell the next holder something; who dies cannot.
func TestLeaseNotes(t *testing.T) {
	is := is.New(t)
	s := leaseServer(t)
	hold := func(holder, note string) (got chan string, stop func()) {
		nc := bustest.Connect(t, s)
		c, err := bus.New(nc)
		is.NoErr(err)
		l := bus.NewLeases(c, bus.LeaseOptions{Group: "w.notes", Partitions: 1, Holder: holder, Name: holder})
		ctx, cancel := context.WithCancel(context.Background())
		got, done := make(chan string, 1), make(chan error, 1)
		go func() {
			done <- l.Run(ctx, func(ctx context.Context, l bus.Lease) {
				got <- l.Note
				<-ctx.Done()
				l.Leave(note)
			})
		}()
		stop = sync.OnceFunc(func() { cancel(); is.NoErr(<-done); nc.Close() })
		t.Cleanup(stop)
		return got, stop
	}
	first, stop := hold("a", "until 17")
	is.Equal(<-first, "")
	stop()
	second, _ := hold("b", "never told")
	is.Equal(<-second, "until 17")
	third, _ := hold("b", "") // the same process after kill -9: the lease is not free
	is.Equal(<-third, "")
}

// Who dies has told the next holder something with its last renewal, or with the
// acquisition if it lived no longer.
func TestLeaseMarks(t *testing.T) {
	is := is.New(t)
	s := leaseServer(t)
	hold := func(holder string, mark func(bus.Lease) string) (got chan bus.Lease, nc *nats.Conn, stop func()) {
		nc = bustest.Connect(t, s)
		c, err := bus.New(nc)
		is.NoErr(err)
		l := bus.NewLeases(c, bus.LeaseOptions{Group: "w.marks", Partitions: 1, Holder: holder, Name: holder, Mark: mark})
		ctx, cancel := context.WithCancel(context.Background())
		got, done := make(chan bus.Lease, 1), make(chan struct{})
		go func() {
			defer close(done)
			_ = l.Run(ctx, func(ctx context.Context, l bus.Lease) { // of the dead: their connections are closed
				got <- l
				<-ctx.Done()
			})
		}()
		stop = sync.OnceFunc(func() { cancel(); <-done; nc.Close() })
		t.Cleanup(stop)
		return got, nc, stop
	}
	acquired := func(text string) func(bus.Lease) string {
		return func(l bus.Lease) string { return text + " after " + l.Mark }
	}
	first, nc, _ := hold("a", acquired("one"))
	is.Equal((<-first).Mark, "")
	nc.Close()
	second, nc, _ := hold("a", acquired("two")) // the same process after kill -9: at once
	is.Equal((<-second).Mark, "one after ")
	nc.Close()
	var renewals atomic.Int64
	third, nc, _ := hold("a", func(l bus.Lease) string {
		if l.Epoch == 0 {
			return l.Mark
		}
		return fmt.Sprint("renewed ", renewals.Add(1))
	})
	is.Equal((<-third).Mark, "two after one after ")
	eventually(t, "it is renewed", func() bool { return renewals.Load() >= 2 })
	nc.Close()
	fourth, _, stop := hold("b", nil) // another one: after the server has forgotten the lease
	l := <-fourth
	is.True(strings.HasPrefix(l.Mark, "renewed "))
	is.Equal(l.Note, "")
	stop()
	fifth, _, _ := hold("c", nil)
	is.Equal((<-fifth).Mark, "") // of a holder that said nothing
}

func TestLeaseWithoutHolder(t *testing.T) {
	is := is.New(t)
	is.True(!bus.Lease{}.Valid())
}

// While the bus is away a process has nobody to tell that it is there: that is no
// fault, however long it lasts, and nothing is kept to be told later.
func TestHeartbeatsWhileTheBusIsAway(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	c, err := bus.Connect(t.Context(), s.URL(), bus.WithCreds(s.CredsPath()), bus.WithNATS(nats.ReconnectBufSize(-1))) // as if it were full
	is.NoErr(err)
	t.Cleanup(func() { c.Close() })
	s.Close()
	eventually(t, "the connection is lost", func() bool { return !c.NATS().IsConnected() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is.NoErr(bus.RunHeartbeat(ctx, c, func() events.Heartbeat { return events.Heartbeat{Role: "poller", Name: "p"} }))
}

// Once the bus is back all tell it at once: others take what nobody seems to have.
func TestHeartbeatOnceTheBusIsBack(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	c, err := bus.Connect(t.Context(), s.URL(), bus.WithCreds(s.CredsPath()), bus.WithNATS(nats.ReconnectWait(20*time.Millisecond)))
	is.NoErr(err)
	t.Cleanup(func() { c.Close() })
	heard := make(chan events.Heartbeat, 10)
	h, err := c.Heartbeats("", func(b events.Heartbeat) { heard <- b })
	is.NoErr(err)
	defer h.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		done <- bus.RunHeartbeat(ctx, c, func() events.Heartbeat { return events.Heartbeat{Role: "poller", Name: "p"} })
	}()
	<-heard
	s.Close()
	bustest.StartIn(t, dir, strings.TrimPrefix(s.URL(), "nats://"))
	eventually(t, "the connection is back", c.NATS().IsConnected)
	back := time.Since(began)
	<-heard
	if late := time.Since(began); back < bus.HeartbeatInterval/2 {
		is.True(late < bus.HeartbeatInterval) // not with the next regular one
	}
	cancel()
	is.NoErr(<-done)
}

// Who was heard is there for fifteen seconds, or until it says that it stops.
func TestHeartbeats(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	c, err := bus.New(bustest.Connect(t, s))
	is.NoErr(err)
	heard := make(chan events.Heartbeat, 10)
	h, err := c.Heartbeats("", func(b events.Heartbeat) { heard <- b })
	is.NoErr(err)
	defer h.Close()
	is.NoErr(c.NATS().Publish("megaphone.process.poller.x", []byte("garbage")))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- bus.RunHeartbeat(ctx, c, func() events.Heartbeat { return events.Heartbeat{Role: "gateway", Name: "g.1"} })
	}()
	is.Equal((<-heard).Name, "g.1") // at once
	is.Equal(len(h.Live()), 1)
	cancel()
	is.NoErr(<-done)
	is.True((<-heard).Stopped)
	is.Equal(len(h.Live()), 0)
}
