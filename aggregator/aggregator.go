package aggregator

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
)

// Config says what an aggregator works with.
type Config struct {
	Conn     *bus.Conn     // of the role user
	Registry *bus.Registry // whose Run is running
	Name     string        // of the process, unique among running ones
	Holder   string        // an id that survives restarts of the process
	Interval time.Duration // of polls where a registration says nothing; 0 means DefaultInterval
	Version  string        // of the program, told in heartbeats
	Logger   *slog.Logger  // nil discards
}

// Group is the group of leases that aggregators share.
const Group = "a"

// takeovers is how many partitions are taken over at once: more would only wait
// for each other.
const takeovers = 12

// Aggregator reduces the results of its share of all hosts. Make it with [New];
// [Aggregator.Run] does the work. Its methods are safe for concurrent use.
type Aggregator struct {
	cfg    Config
	log    *slog.Logger
	source string        // of the events that it publishes in its own name
	slots  chan struct{} // one for each takeover that may go on
	leases *bus.Leases
	intake *intake // of the results of partitions that are up to date
	clock  clock

	mu      sync.Mutex
	boxes   map[int]*mailbox // of the partitions that are held
	cutOff  map[int]func()   // ends a partition's tenure, because the connection was lost
	invalid map[string]invalidEvent

	first     atomic.Uint64 // position that RESULTS holds; 0: not known yet
	stateUsed atomic.Int64  // percent of STATE
	stats     stats
}

// stats are counted by all partitions.
type stats struct {
	results, dropped, rejected, transitions, takeovers, ticks atomic.Uint64
}

// Stats are what an aggregator did since it was made, for metrics.
type Stats struct {
	Partitions  int    // held now
	Results     uint64 // consumed
	Dropped     uint64 // of these: duplicates, late ones and those of superseded workers
	Rejected    uint64 // of these: refused
	Transitions uint64 // committed
	Takeovers   uint64 // of partitions, at start and after any doubt
	Ticks       uint64 // published, because a deadline was due
}

// New makes an aggregator.
func New(cfg Config) *Aggregator {
	log := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)).With("component", "aggregator")
	a := &Aggregator{
		cfg: cfg, log: log, source: "urn:megaphone:aggregator:" + events.Token(cfg.Name),
		slots: make(chan struct{}, takeovers), boxes: map[int]*mailbox{}, cutOff: map[int]func(){}, invalid: map[string]invalidEvent{},
		leases: bus.NewLeases(cfg.Conn, bus.LeaseOptions{
			Group: Group, Partitions: events.Partitions, Holder: cfg.Holder, Name: cfg.Name, Role: Role, Logger: cfg.Logger,
		}),
	}
	a.intake = newIntake(cfg.Conn, log, a.leases.Count)
	return a
}

// Role is the role of an aggregator in heartbeats.
const Role = "aggregator"

// Stats returns the counters.
func (a *Aggregator) Stats() Stats {
	s := &a.stats
	return Stats{
		Partitions: a.leases.Count(), Results: s.results.Load(), Dropped: s.dropped.Load(), Rejected: s.rejected.Load(),
		Transitions: s.transitions.Load(), Takeovers: s.takeovers.Load(), Ticks: s.ticks.Load(),
	}
}

// Run waits for the registry, takes a fair share of the partitions and reduces
// their results until ctx ends. Then it writes checkpoints, releases its
// partitions and returns nil. A bus that is away is waited for. It returns an
// error only if the connection was closed.
func (a *Aggregator) Run(ctx context.Context) error {
	select {
	case <-a.cfg.Registry.Ready():
	case <-ctx.Done():
		return nil
	}
	changes, stop := a.cfg.Registry.Subscribe()
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { a.route(rctx, changes) })
	wg.Go(func() { a.beat(rctx) })
	wg.Go(func() { a.watchConnection(rctx) })
	wg.Go(func() { a.watchStreams(rctx) })
	wg.Go(func() { a.intake.run(rctx) })
	return a.leases.Run(ctx, a.hold)
}

// watchConnection ends all tenures when the connection is lost: whether a write
// that was under way was stored is not known, and will not be by waiting.
func (a *Aggregator) watchConnection(ctx context.Context) {
	nc := a.cfg.Conn.NATS()
	lost := nc.StatusChanged(nats.RECONNECTING)
	defer nc.RemoveStatusListener(lost)
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-lost:
			if !ok {
				return // closed for good
			}
			a.mu.Lock()
			for _, end := range a.cutOff {
				end()
			}
			a.mu.Unlock()
		}
	}
}

// beat tells the other aggregators that this one is there, so that they leave
// it its share.
func (a *Aggregator) beat(ctx context.Context) {
	started := events.At(time.Now())
	for {
		err := bus.RunHeartbeat(ctx, a.cfg.Conn, func() events.Heartbeat {
			return events.Heartbeat{
				Role: Role, Name: a.cfg.Name, Version: a.cfg.Version, Started: started, Leases: a.leases.Count(),
			}
		})
		if ctx.Err() != nil || a.cfg.Conn.NATS().IsClosed() {
			return
		}
		a.log.Debug("heartbeat", "error", err)
		if !sleep(ctx, bus.HeartbeatInterval) {
			return
		}
	}
}

// route tells the partitions that are held what changed in the registry.
func (a *Aggregator) route(ctx context.Context, changes <-chan bus.RegistryChange) {
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-changes:
			if !ok {
				return
			}
			a.deliver(c)
		}
	}
}

func (a *Aggregator) deliver(c bus.RegistryChange) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Host != "" {
		if b := a.boxes[events.Partition(c.Host)]; b != nil {
			b.put(c)
		}
		return
	}
	for _, b := range a.boxes { // an override that selects by label
		b.put(c)
	}
}

func (a *Aggregator) open(partition int) *mailbox {
	b := &mailbox{wake: make(chan struct{}, 1), changes: map[place]bus.RegistryChange{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.boxes[partition] = b
	return b
}

func (a *Aggregator) closeBox(partition int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.boxes, partition)
	delete(a.cutOff, partition)
}

// place names what changed: a check, or with an empty check a host.
type place struct{ host, check string }

// mailbox collects what changed in the registry for one partition. Since the
// registry is read as it is, the last change of each check is enough.
type mailbox struct {
	wake chan struct{} // something is in it

	mu      sync.Mutex
	changes map[place]bus.RegistryChange
	invalid []invalidEvent
}

func (b *mailbox) put(c bus.RegistryChange) {
	b.mu.Lock()
	b.changes[place{c.Host, c.Check}] = c
	b.mu.Unlock()
	b.signal()
}

func (b *mailbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the box.
func (b *mailbox) take() (map[place]bus.RegistryChange, []invalidEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changes, invalid := b.changes, b.invalid
	b.changes, b.invalid = map[place]bus.RegistryChange{}, nil
	return changes, invalid
}

// sleep pauses, and reports false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
