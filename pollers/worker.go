package pollers

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"golang.org/x/sync/errgroup"
)

// Worker polls its share of the checks of its pools. Make it with [New], and run
// it once. Its other methods are safe for concurrent use.
type Worker struct {
	conf  Config
	kinds Kinds
	http  *HTTP
	wake  chan struct{} // holds one: dispatch is worth calling
	hands *hands        // that poll

	mu      sync.Mutex
	tasks   map[name]*task
	slots   map[slotKey]*slot
	agenda  *agenda
	until   int64 // when the scheduler wakes by itself, Unix milliseconds
	last    int64 // when it dispatched last
	recent  window
	orders  orders
	reports map[reportKey]*report // that wait to be sent
	canary  *canaries             // nil without any

	counts counts
}

type name struct{ host, check string }

type slotKey struct {
	pool      string
	partition int
}

// slot is a partition of a pool: what one lease is about.
type slot struct {
	slotKey
	tasks map[*task]struct{}
	due   int   // how many of them are in the heap; the others wait for their target, or are being polled
	held  *held // nil while somebody else has the lease
}

// held is a slot during one lease.
type held struct {
	ctx    context.Context // of its polls; ends with the lease
	cancel context.CancelFunc
	lease  bus.Lease
	polls  sync.WaitGroup // and results that wait to be reported; grows only while the slot is held

	owing int      // tasks of which a poll is owed
	safe  handover // what holds in spite of these, and of those since there were none
}

// New returns a worker that does nothing before Run.
func New(c Config) *Worker {
	c = c.withDefaults()
	c.Logger = c.Logger.With("component", "poller", "worker", c.Name)
	n := newNetwork(c.Version, guard{allow: c.Networks, deny: c.Deny}, c.Credentials)
	h := newHTTP(n, c.TLS)
	kinds := n.kinds()
	kinds["http"], kinds["https"] = h.Check, h.Check
	kinds["nats"] = optioned(natsKind{n, c.connection()}.check)
	for scheme, check := range c.Kinds {
		kinds[strings.ToLower(scheme)] = check
	}
	return &Worker{
		canary: newCanaries(c.Canaries, kinds.Check, c.Logger),
		conf:   c, kinds: kinds, http: h, wake: make(chan struct{}, 1), hands: newHands(),
		tasks: map[name]*task{}, slots: map[slotKey]*slot{}, reports: map[reportKey]*report{},
		agenda: newAgenda(c.limits()), until: math.MaxInt64,
	}
}

// Run waits for the registry and polls until ctx ends; then it ends its polls,
// gives up its leases and returns nil. A bus that is away is waited for: without
// a lease nothing is polled. An error means that the connection was closed.
func (w *Worker) Run(ctx context.Context) error {
	defer w.http.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-w.conf.Registry.Ready():
	}
	changes, cancel := w.conf.Registry.Subscribe()
	defer cancel()
	for _, e := range w.conf.Registry.Checks() {
		w.register(e)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { w.follow(ctx, changes); return nil })
	if w.conf.SelfCheck && w.conf.Host != "" {
		g.Go(func() error { w.sayAlive(ctx); return nil })
	}
	if w.canary != nil {
		g.Go(func() error { w.canary.run(ctx); return nil })
	}
	g.Go(func() error { w.schedule(ctx); return nil })
	var shared []*bus.Leases
	for _, pool := range w.conf.pools() {
		leases := w.leases(pool)
		shared = append(shared, leases)
		g.Go(func() error { return w.share(ctx, leases, pool) })
	}
	g.Go(func() error { return w.beat(ctx, shared) })
	return g.Wait()
}

// share polls the part of a pool that this worker gets.
func (w *Worker) share(ctx context.Context, leases *bus.Leases, pool string) error {
	return leases.Run(ctx, func(ctx context.Context, lease bus.Lease) {
		discovery := w.conf.discovery(pool)
		if discovery != nil {
			discovery.begin(ctx)
		}
		s := w.open(ctx, pool, lease)
		hangUp := w.listen(s)
		if discovery != nil {
			discovery.run(ctx)
		}
		<-ctx.Done()
		w.close(s)
		hangUp()
	})
}

// Role is what workers call themselves in heartbeats.
const Role = "poller"

// leases prepares to share a pool with the other workers that serve it.
func (w *Worker) leases(pool string) *bus.Leases {
	return bus.NewLeases(w.conf.Conn, bus.LeaseOptions{
		Group: "w." + events.Token(pool), Partitions: events.PoolPartitions(pool),
		Holder: w.conf.Holder, Name: w.conf.Name,
		Role:   Role,
		Member: func(h events.Heartbeat) bool { return slices.Contains(h.Pools, pool) },
		Mark:   func(l bus.Lease) string { return w.mark(pool, l) },
		Logger: w.conf.Logger,
	})
}

// beat tells the others that this worker is there: its share depends on it.
func (w *Worker) beat(ctx context.Context, shared []*bus.Leases) error {
	started := events.At(time.Now())
	return bus.RunHeartbeat(ctx, w.conf.Conn, func() events.Heartbeat {
		held := 0
		for _, l := range shared {
			held += l.Count()
		}
		return events.Heartbeat{
			Role: Role, Name: w.conf.Name, Host: w.conf.Host, Pools: w.conf.pools(), Version: w.conf.Version, Started: started, Leases: held,
			Work: w.work(time.Now()),
		}
	})
}

// open begins to poll the checks of a partition: at once those that its former
// holder did not poll, the others when they are due.
func (w *Worker) open(ctx context.Context, pool string, lease bus.Lease) *slot {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.slot(pool, lease.Partition)
	s.held = &held{lease: lease}
	s.held.ctx, s.held.cancel = context.WithCancel(context.WithoutCancel(ctx)) // see close
	now := time.Now().UnixMilli()
	from := handedOver(lease, now)
	old := s.tasks
	s.tasks = make(map[*task]struct{}, len(old))
	for t := range old {
		w.enter(t.again(), from, now)
	}
	w.rouse()
	return s
}

// enter puts a task into its slot, which is held, in place of its former self.
func (w *Worker) enter(t *task, from handover, now int64) {
	w.tasks[name{t.host, t.check}] = t
	t.slot.tasks[t] = struct{}{}
	last := t.schedule.Last(now)
	switch {
	case t.stored > from.known: // nobody may have polled it yet
		t.failures = 0
		t.slot.owe(t, firstPoll)
		w.agenda.put(t, now)
	case last > from.polled:
		t.due = last
		t.slot.owe(t, duePoll)
		w.agenda.put(t, last)
	default:
		w.agenda.put(t, t.schedule.Next(max(now, from.polled)))
	}
}

// close ends the polling of a slot, and keeps its tasks for the next lease.
// While the lease is valid, which is so where it is handed over, polls under way
// have a while to end, and the next holder is told which were begun.
func (w *Worker) close(s *slot) {
	w.mu.Lock()
	h := s.held
	s.held = nil
	done := handover{polled: time.Now().UnixMilli(), known: math.MaxInt64}
	for t := range s.tasks {
		w.agenda.remove(t)
		if !t.running && t.owed != firstPoll {
			done.polled = min(done.polled, t.due-1)
		}
	}
	w.mu.Unlock()
	h.drain()
	var asked []*task
	w.mu.Lock()
	for t := range s.tasks {
		if t.interrupted {
			done.polled = min(done.polled, t.due-1, t.key-1)
		}
		if t.owed == firstPoll {
			done.known = min(done.known, t.stored-1)
		}
		if w.orders.open[name{t.host, t.check}] != nil {
			asked = append(asked, t)
		}
	}
	w.mu.Unlock()
	done.known = min(done.known, done.polled-takeoverMargin.Milliseconds())
	h.lease.Leave(done.text())
	for _, t := range asked {
		w.tell(t, moved)
	}
}

func (w *Worker) slot(pool string, partition int) *slot {
	key := slotKey{pool, partition}
	s := w.slots[key]
	if s == nil {
		s = &slot{slotKey: key, tasks: map[*task]struct{}{}}
		w.slots[key] = s
	}
	return s
}

// follow applies changes of registrations.
func (w *Worker) follow(ctx context.Context, changes <-chan bus.RegistryChange) {
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-changes:
			if !ok {
				return
			}
			if c.Host == "" || c.Check == "" {
				continue // labels and overrides: results do not depend on them
			}
			if e, ok := w.conf.Registry.Check(c.Host, c.Check); ok {
				w.register(e)
			} else {
				w.forget(name{c.Host, c.Check})
			}
		}
	}
}

// register begins to poll a check, at once if its partition is held.
func (w *Worker) register(e bus.Entry) {
	id := name{e.Registration.Host, e.Registration.ID}
	t, ok := w.newTask(e)
	if !ok {
		w.forget(id)
		return
	}
	if !w.replace(id, t, e.Registration.PoolName()) {
		w.tell(t, moved)
	}
}

// replace puts a task in place of what there is of its check. It is false where its
// partition is not held.
func (w *Worker) replace(id name, t *task, pool string) (held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.tasks[id]; old != nil && old.reg == t.reg {
		return true
	}
	w.drop(id)
	t.slot = w.slot(pool, events.PoolPartition(pool, t.host, t.check))
	t.slot.tasks[t] = struct{}{}
	w.tasks[id] = t
	if t.slot.held == nil {
		return false
	}
	t.slot.owe(t, firstPoll)
	w.agenda.put(t, time.Now().UnixMilli())
	w.rouse()
	return true
}

// newTask is false for a check that this worker does not poll.
func (w *Worker) newTask(e bus.Entry) (*task, bool) {
	r := e.Registration
	if r.Push() || !w.serves(r.PoolName()) {
		return nil, false
	}
	target, err := r.Target()
	if err != nil {
		w.conf.Logger.Warn("registration cannot be polled", "host", r.Host, "check", r.ID, "error", err)
		return nil, false
	}
	interval, timeout := r.Interval.D(), r.Timeout.D()
	if interval <= 0 {
		interval = w.conf.Interval
	}
	if timeout <= 0 {
		timeout = w.conf.Timeout
	}
	var local *events.Registration
	if r.Local() {
		local = &r
	} else { // anybody registers those: a thousand polls without end would leave no place for others
		timeout = min(timeout, max(MaxTimeout, w.conf.Timeout))
	}
	return &task{
		local: local,
		host:  r.Host, check: r.ID, reg: e.Position, stored: e.Stored.UnixMilli(), target: target,
		endpoint: endpointOf(target.Addr), schedule: NewSchedule(r.Host, r.ID, interval), timeout: timeout, settle: max(r.Rise, r.Fall, 1), index: -1,
	}, true
}

func (w *Worker) serves(pool string) bool {
	return slices.Contains(w.conf.pools(), pool)
}

func (w *Worker) forget(id name) {
	w.mu.Lock()
	t := w.tasks[id]
	w.drop(id)
	w.mu.Unlock()
	if t != nil {
		w.tell(t, events.PollReply{Refused: "it is not registered any more"})
	}
}

// drop ends the polling of a check. A poll under way ends by itself.
func (w *Worker) drop(id name) {
	t := w.tasks[id]
	if t == nil {
		return
	}
	delete(w.tasks, id)
	delete(t.slot.tasks, t)
	t.slot.settle(t)
	w.agenda.remove(t)
}

// schedule starts polls when they are due, until ctx ends. Then it waits for those
// under way.
func (w *Worker) schedule(ctx context.Context) {
	defer w.hands.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(w.dispatch())
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.wake:
		}
	}
}

// maxSleep bounds how long a step of the clock goes unnoticed.
const maxSleep = 10 * time.Second

// dispatch starts what is due and returns how long to sleep.
func (w *Worker) dispatch() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now().UnixMilli()
	if now < w.last-time.Second.Milliseconds() {
		w.conf.Logger.Warn("clock stepped back", "milliseconds", w.last-now)
		w.agenda.rebase(now)
	}
	w.last = now
	for {
		t, dropped := w.agenda.take(now)
		if t == nil {
			break
		}
		w.begun(t, dropped, now)
		h := t.slot.held
		h.polls.Add(1)
		w.hands.do(func() {
			defer h.polls.Done()
			w.poll(h, t)
		})
	}
	w.until = now + maxSleep.Milliseconds()
	if due, ok := w.agenda.next(); ok {
		w.until = min(w.until, due)
	}
	return time.Duration(max(w.until-now, 0)) * time.Millisecond
}

// rouse wakes the scheduler if there is something to do before it wakes by
// itself. The caller holds mu.
func (w *Worker) rouse() {
	if due, ok := w.agenda.next(); !ok || due >= w.until {
		return
	}
	w.until = math.MinInt64 // once is enough
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
