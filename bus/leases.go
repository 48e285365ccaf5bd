package bus

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/events"
)

// Times of leases.
const (
	LeaseTTL   = 3 * time.Second // after its last renewal the server forgets a lease
	leaseRenew = time.Second     // between two renewals
	leaseSpare = time.Second     // how long before the server its holder lets go
)

// LeaseOptions say which partitions are shared, and by whom.
type LeaseOptions struct {
	Group      string // "a" for aggregators, "w." and the token of a pool for its workers
	Partitions int    // how many there are, numbered from 0
	Holder     string // an id that survives restarts of the process, and that no other process has
	Name       string // of the process, as in its heartbeats

	// Role are the processes whose heartbeats are listened to, so that members
	// without a lease have their share too; empty for none. Member, if not nil,
	// says which of them share the group. A process that counts must run Leases.
	Role   string
	Member func(events.Heartbeat) bool

	// Mark, if not nil, says what whoever takes a partition is told if its holder
	// dies: each renewal bears what it returned right before. So does the
	// acquisition; then the lease has no epoch yet.
	Mark func(Lease) string

	Logger *slog.Logger // nil discards
}

// Lease is the right to work on a partition for a while.
type Lease struct {
	Partition int
	Epoch     uint64    // grows with every holder; it stays the same while the lease is renewed
	Previous  time.Time // bus time of the last renewal by the holder before; zero if unknown
	Note      string    // what the holder before left, if it released the partition; empty if it died
	Mark      string    // what its last renewal bore
	valid     *validity
	leave     func(note string)
}

// Leave leaves a note for whoever takes the partition next. It may be called
// until hold returns, the last note counts, and it is lost where the lease is.
func (l Lease) Leave(note string) { l.leave(note) }

// Valid reports whether the lease certainly is still its holder's: by the
// monotonic and by the wall clock it was renewed less than [LeaseTTL] minus a
// second ago. It becomes valid again if a late renewal succeeds. A holder asks
// right before whatever may happen only once.
func (l Lease) Valid() bool { return l.valid.holds(time.Now()) }

type validity struct {
	mu    sync.Mutex
	until time.Time // with a monotonic reading
}

// renewed notes a renewal that began at start: the server cannot have counted
// from an earlier time.
func (v *validity) renewed(start time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until = start.Add(LeaseTTL - leaseSpare)
}

func (v *validity) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until = time.Time{}
}

func (v *validity) left() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Until(v.until)
}

func (v *validity) holds(now time.Time) bool {
	if v == nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	// The monotonic clock stands still while the machine is suspended, the wall
	// clock may be set back: only together they can be trusted.
	return now.Before(v.until) && now.Round(0).Before(v.until.Round(0))
}

// Leases divides the partitions of a group evenly among the processes that take
// part. There is no leader: every member sees who holds what, takes what is free
// up to its share, and gives up what it has above it. A partition whose holder
// died is free after [LeaseTTL]; two processes never hold a valid lease of one
// partition at the same time. Make it with [NewLeases].
type Leases struct {
	c           *Conn
	o           LeaseOptions
	log         *slog.Logger
	table       *leaseTable
	nudge       chan struct{} // something is to be decided
	count       atomic.Int64
	outageAfter time.Duration // [OutageAfter]; tests have less time
	pulse       pulse
	signed      int64 // the second of the next sign of life; used by the session alone
}

// NewLeases prepares to take part; [Leases.Run] does.
func NewLeases(c *Conn, o LeaseOptions) *Leases {
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	l := &Leases{c: c, o: o, log: log.With("component", "leases", "group", o.Group), nudge: make(chan struct{}, 1), outageAfter: OutageAfter}
	l.table = newLeaseTable(o.Partitions, l.wake)
	return l
}

// Count is how many partitions are held now.
func (l *Leases) Count() int { return int(l.count.Load()) }

func (l *Leases) wake() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// Run takes part until ctx ends: for each partition that it gets it runs hold in
// a goroutine of its own. The context of hold ends when the partition is to be
// released, when it is lost, or when it could not be renewed in time; hold should
// then return at once, and the partition is released when it did. If hold returns
// before that, the partition is released too, and not taken again for a second.
// When ctx ends, everything is released, and Run returns nil. A bus that is away
// is waited for. Run returns an error only if the connection was closed.
func (l *Leases) Run(ctx context.Context, hold func(ctx context.Context, lease Lease)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beats *Heartbeats
	if l.o.Role != "" {
		var err error
		if beats, err = l.c.Heartbeats(l.o.Role, l.heard); err != nil {
			return err
		}
		defer beats.Close() // at worst a closed connection: nothing is left to stop
	}
	failed := make(chan error, 1)
	m := &leaseManager{l: l, hold: hold, beats: beats, tenures: map[int]*tenure{}, again: map[int]time.Time{}, rests: map[int]time.Duration{}, ended: make(chan *tenure, l.o.Partitions)}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		failed <- l.c.sessions(ctx, l.log, "leases", "no other is taken until they are", l.session)
	})
	m.run(ctx)
	cancel()
	return <-failed
}

func (l *Leases) heard(b events.Heartbeat) {
	if !b.Stopped {
		l.table.alive(b.Name)
	}
	l.wake()
}

// session keeps the table of leases until something ends it; well is called once it does.
func (l *Leases) session(ctx context.Context, well func()) error {
	defer l.table.unready()
	f, err := l.c.follow(ctx, streamLeases, 0, l.subject("*"))
	if err != nil {
		return err
	}
	defer f.close()
	rows := l.table.blank()
	for left := f.pending > 0; left; {
		m, meta, err := f.next(ctx)
		if err != nil {
			return err
		}
		l.table.fill(rows, m, meta)
		left = meta.NumPending > 0
	}
	asked := time.Now()
	if err := l.c.tellOutage(ctx, l.outageAfter); err != nil {
		return err
	}
	l.pulse.beat(asked)
	l.table.become(rows)
	well()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wg.Go(func() { cancel(l.signs(ctx)) })
	for {
		m, meta, err := f.next(ctx)
		if err != nil {
			return err
		}
		l.table.update(m, meta)
	}
}

func (l *Leases) subject(partition string) string {
	return "$KV." + BucketLeases + "." + l.o.Group + "." + partition
}

// Pauses of the one who decides.
const (
	leaseLook   = 250 * time.Millisecond // between two looks when nothing happens
	leaseSettle = 250 * time.Millisecond // how long there must be too many before one is released
	leaseAgain  = 300 * time.Millisecond // after an attempt that failed
	leaseRest   = time.Second            // after hold returned by itself; eight times as long after each time that it does so at once
	leaseRests  = 5 * time.Minute        // at most
	leaseStray  = 5 * time.Second        // a partition that is free for longer is taken above the share
	leaseOffer  = 5 * time.Second        // until the first of those is offered again; doubled after each in vain
	leaseOffers = 5 * time.Minute        // at most
)

// leaseManager decides which partitions to take and which to release. It is used
// by the goroutine of Run alone.
type leaseManager struct {
	l       *Leases
	hold    func(context.Context, Lease)
	beats   *Heartbeats // nil: nobody is listened to
	tenures map[int]*tenure
	again   map[int]time.Time     // when a partition may be tried again
	rests   map[int]time.Duration // the last pause after hold returned by itself
	ended   chan *tenure
	wg      sync.WaitGroup

	lost    int       // tenures that were lost and are not told yet
	losing  time.Time // since when
	members string    // as of the last look
	extra   extras
	above   time.Time // since when there are too many; zero if there are not
}

// extras are the partitions above the share, taken because nobody else took
// them. A member that was only slow gets them after all: one is offered after a
// while, and if another takes anything then, so are all. The zero value is none.
type extras struct {
	n       int
	offered bool // one is offered, and nobody has taken it yet
	others  int  // partitions of others when it was offered
	next    time.Time
	pause   time.Duration
}

// took counts one more partition that nobody else took until now.
func (e *extras) took(now time.Time) {
	e.n++
	if e.pause == 0 {
		e.pause = leaseOffer
	} else if e.offered {
		e.pause = min(2*e.pause, leaseOffers)
	}
	e.offered, e.next = false, now.Add(e.pause)
}

// offer lets go of what another may take by now; others is how many partitions
// others hold.
func (e *extras) offer(others int, now time.Time) {
	switch {
	case e.offered && others > e.others:
		*e = extras{}
	case !e.offered && e.n > 0 && !now.Before(e.next):
		e.n--
		e.offered, e.others = true, others
	}
}

func (m *leaseManager) run(ctx context.Context) {
	defer m.wg.Wait()
	t := time.NewTicker(leaseLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			m.tellLost(time.Now())
			return
		case e := <-m.ended:
			m.over(e, time.Now())
		case <-m.l.nudge:
		case <-t.C:
		}
		now := time.Now()
		m.tellLost(now.Add(-leaseLook))
		m.look(ctx, now)
	}
}

// over takes note of the end of a tenure.
func (m *leaseManager) over(e *tenure, now time.Time) {
	delete(m.tenures, e.partition)
	m.again[e.partition] = m.rest(e, now)
	if !e.lost {
		return
	}
	if m.lost == 0 {
		m.losing = now
	}
	m.lost++
}

// tellLost logs what was lost up to a moment: a bus that is away, or a process that
// was stopped, loses all of them within a moment, which is one line of the log.
func (m *leaseManager) tellLost(until time.Time) {
	if m.lost > 0 && !m.losing.After(until) {
		m.l.log.Warn("leases lost", "partitions", m.lost)
		m.lost = 0
	}
}

// rest is when a partition may be tried again. One whose hold returned by itself
// again and again is left to others for longer and longer: perhaps they can read
// what this program cannot.
func (m *leaseManager) rest(e *tenure, now time.Time) time.Time {
	if !e.returned {
		delete(m.rests, e.partition)
		return e.again
	}
	pause := leaseRest
	if had := m.rests[e.partition]; had > 0 && now.Sub(e.began) < leaseStray {
		pause = min(8*had, leaseRests)
	}
	m.rests[e.partition] = pause
	return now.Add(pause)
}

// look compares what is held with the share.
func (m *leaseManager) look(ctx context.Context, now time.Time) {
	rows, ready := m.l.table.snapshot()
	if !ready {
		return // what is held is renewed or lost without this
	}
	share := m.share(rows)
	m.extra.offer(m.others(rows), now)
	held := 0
	for _, t := range m.tenures {
		if !t.releasing {
			held++
		}
	}
	want := share + m.extra.n
	if held <= want {
		m.above = time.Time{}
	}
	switch {
	case held > want:
		if m.above.IsZero() {
			m.above = now
		} else if now.Sub(m.above) >= leaseSettle {
			m.release(held - want)
		}
	case held < want:
		m.take(ctx, rows, now, want-held)
	case m.stray(rows, now):
		m.extra.took(now)
		m.take(ctx, rows, now, 1)
	}
}

// others is how many partitions other members hold.
func (m *leaseManager) others(rows []leaseRow) int {
	n := 0
	for _, r := range rows {
		if r.held && r.holder != m.l.o.Holder {
			n++
		}
	}
	return n
}

// share is how many partitions this process should have: an even part. Of what
// cannot be divided, those have one more that have more already.
func (m *leaseManager) share(rows []leaseRow) int {
	o := m.l.o
	holds := map[string]int{o.Name: 0}
	for _, r := range rows {
		if r.held && !m.l.table.isDead(r.name) {
			holds[r.name]++
		}
	}
	if m.beats != nil {
		for _, b := range m.beats.Live() {
			if (o.Member == nil || o.Member(b)) && !m.l.table.isDead(b.Name) {
				holds[b.Name] += 0
			}
		}
	}
	names := slices.Sorted(maps.Keys(holds))
	if all := strings.Join(names, " "); all != m.members {
		m.l.log.Info("partitions are shared", "members", len(names), "partitions", o.Partitions)
		m.members, m.extra = all, extras{}
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(holds[b], holds[a]) })
	share := o.Partitions / len(names)
	if slices.Index(names, o.Name) < o.Partitions%len(names) {
		share++
	}
	return share
}

func (m *leaseManager) release(n int) {
	for _, p := range slices.Backward(slices.Sorted(maps.Keys(m.tenures))) {
		if t := m.tenures[p]; n > 0 && !t.releasing {
			t.releasing = true
			t.release()
			n--
		}
	}
}

// take tries up to n partitions: first what bears this process's own id from its
// last life, then what is free.
func (m *leaseManager) take(ctx context.Context, rows []leaseRow, now time.Time, n int) {
	for _, own := range []bool{true, false} {
		for p, r := range rows {
			if n > 0 && r.takable(m.l.o.Holder, now) && (r.held && r.holder == m.l.o.Holder) == own && m.may(p, now) {
				m.start(ctx, p, r)
				n--
			}
		}
	}
}

func (m *leaseManager) may(p int, now time.Time) bool {
	return m.tenures[p] == nil && !now.Before(m.again[p])
}

// stray reports whether a partition is free for so long that whoever should have
// it evidently does not take it. One that was released here, and whose row does
// not say so yet, is not.
func (m *leaseManager) stray(rows []leaseRow, now time.Time) bool {
	for p, r := range rows {
		if (!r.held || r.overdue(now)) && now.Sub(r.since) > leaseStray && m.may(p, now) {
			return true
		}
	}
	return false
}

func (m *leaseManager) start(ctx context.Context, p int, r leaseRow) {
	release := make(chan struct{})
	t := &tenure{l: m.l, partition: p, row: r, stop: release, release: sync.OnceFunc(func() { close(release) })}
	m.tenures[p] = t
	m.wg.Go(func() {
		t.run(ctx, m.hold)
		m.ended <- t // has room for all partitions
		m.l.wake()
	})
}
