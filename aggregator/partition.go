package aggregator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors that end a partition's tenure.
var (
	errLease   = errors.New("the lease is no longer certain")
	errVersion = errors.New("a record is of a later version of the program")
	errAway    = errors.New("the bus is away")
	errStalled = errors.New("a tick was stored and did not come back")
)

// lease is what a partition needs of a [bus.Lease].
type lease interface{ Valid() bool }

// partition is the state of one partition of hosts between two takeovers. It is
// used by one goroutine. What it says of the streams is true only as long as its
// fences are the last ones: every write says so, and is refused else.
type partition struct {
	a     *Aggregator
	n     int
	lease lease
	log   *slog.Logger
	box   *mailbox

	created    time.Time // of CHANGES
	fence      uint64    // position of the fence in CHANGES
	stateFence uint64    // and in STATE

	hosts  map[string]*host
	agenda agenda
	leapt  time.Time // end of the last leap of the clock that was applied

	reader  *reader    // of RESULTS; nil while the seat is enough
	seat    *seat      // at the intake, once the partition is live; nil for none
	live    bool       // ticks are read; else results that waited come first
	outages []outageAt // not yet applied, before the partition is live

	results  uint64    // position up to which RESULTS is consumed
	storedAt time.Time // when the result there was stored; zero if unknown
	lost     bool      // the end of RESULTS is lost
	replay   uint64    // ticks up to here were answered by the owner before
	changes  uint64    // position up to which the transitions of the partition are known
	now      time.Time // the newest bus time seen

	dirty   map[record]struct{} // to be written before the next checkpoint
	saved   events.Checkpoint   // the last that was written
	behind  bool                // something moved since
	upkeep  upkeep
	cleared map[uint64]bool  // positions of overrides whose end was told already
	looked  map[place]uint64 // see levelLast
	tick    uint64           // position of a tick of one's own that is on its way; 0: none
	ticked  time.Time        // when it was published, by this process's clock
}

// record is what has a record in STATE: a check or a host.
type record interface {
	name() (host, check string)
	value() any
	gone() bool
	written()
}

// host is a host of the partition with its checks, ordered by id.
type host struct {
	label   string // its name
	state   events.HostState
	set     time.Time // bus time of its override
	why     cause     // of the last change of a check, after a takeover
	checks  []*check
	states  []*events.CheckState // of checks, for events.Summarize
	onAgend slot
}

type check struct {
	state   events.CheckState
	with    Settings
	stored  uint64 // the position that is applied in the record in STATE
	onAgend slot
}

func (c *check) next() time.Time        { return NextDeadline(c.state, c.with) }
func (c *check) slot() *slot            { return &c.onAgend }
func (c *check) name() (string, string) { return c.state.Host, c.state.Check }
func (c *check) value() any             { return c.state }
func (c *check) gone() bool             { return c.state.Phase == events.Gone }
func (c *check) written()               { c.stored = c.state.Applied }
func (h *host) next() time.Time         { return NextHostDeadline(h.state) }
func (h *host) slot() *slot             { return &h.onAgend }
func (h *host) name() (string, string)  { return h.label, "" }
func (h *host) value() any              { return h.state }
func (h *host) gone() bool              { return h.state.Phase == events.Gone }
func (h *host) written()                {}

// check returns a check of the host; nil if it was never seen.
func (h *host) check(id string) *check {
	if i, ok := h.find(id); ok {
		return h.checks[i]
	}
	return nil
}

func (h *host) find(id string) (int, bool) {
	return slices.BinarySearchFunc(h.checks, id, func(c *check, id string) int { return strings.Compare(c.state.Check, id) })
}

func (h *host) add(id string, c *check) {
	i, _ := h.find(id)
	c.state.Host, c.state.Check = h.label, id
	h.checks = slices.Insert(h.checks, i, c)
	h.states = slices.Insert(h.states, i, &c.state)
}

func (p *partition) host(name string) *host {
	h := p.hosts[name]
	if h == nil {
		h = &host{label: name}
		p.hosts[name] = h
	}
	return h
}

// hold works on a partition until ctx ends, the lease is no longer certain, or
// the partition holds what this program cannot read.
func (a *Aggregator) hold(ctx context.Context, l bus.Lease) { a.work(ctx, l.Partition, l) }

func (a *Aggregator) work(ctx context.Context, n int, l lease) {
	box := a.open(n)
	defer a.closeBox(n)
	log := a.log.With("partition", n)
	pause := 50 * time.Millisecond
	for ctx.Err() == nil && l.Valid() {
		held, err := a.tenure(ctx, n, l, box, log)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errVersion):
			log.Error("partition is left to a later version of the program", "error", err)
			return
		}
		if held > 10*time.Second {
			pause = 50 * time.Millisecond
		}
		if !a.cfg.Conn.NATS().IsConnected() {
			log.Debug("partition waits for the bus", "error", err)
			sleep(ctx, 50*time.Millisecond)
			continue
		}
		log.Warn("partition is taken over again", "error", err)
		sleep(ctx, pause)
		pause = min(2*pause, 2*time.Second)
	}
}

// tenure takes a partition over and works on it until something is in doubt. It
// returns for how long it did, without the takeover.
func (a *Aggregator) tenure(ctx context.Context, n int, l lease, box *mailbox, log *slog.Logger) (held time.Duration, err error) {
	p := &partition{
		a: a, n: n, lease: l, log: log, box: box, hosts: map[string]*host{}, dirty: map[record]struct{}{}, cleared: map[uint64]bool{},
	}
	defer p.close()
	tctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.mu.Lock()
	a.cutOff[n] = func() { cancel(errAway) }
	a.mu.Unlock()
	if err := p.takeOver(tctx); err != nil {
		return 0, fmt.Errorf("take over: %w", err)
	}
	began := time.Now()
	err = p.run(tctx)
	if ctx.Err() != nil && l.Valid() {
		p.farewell(ctx)
	}
	return time.Since(began), err
}

// close ends the reading of RESULTS, if it has not ended.
func (p *partition) close() {
	if p.reader != nil {
		p.reader.close()
		p.reader = nil
	}
	if p.seat != nil {
		p.a.intake.leave(p.n, p.seat)
		p.seat = nil
	}
}

// farewell leaves a checkpoint, so that whoever comes next has little to read.
func (p *partition) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := p.checkpoint(ctx); err != nil {
		p.log.Debug("last checkpoint", "error", err)
	}
}

// run consumes the partition's results, changes of the registry and time.
func (p *partition) run(ctx context.Context) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	// Spread, so that not all partitions do it at once.
	first := p.a.first.Load()
	p.upkeep = upkeep{due: time.Now().Add(upkeepEvery + time.Duration(p.n)*time.Second/2), first: first, half: first}
	for {
		var err error
		own, failed, given := p.sources()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-own:
			err = p.settle(ctx, m)
		case err = <-failed:
		case m, ok := <-given:
			err = p.take(ctx, m, ok)
		case <-p.box.wake:
			err = p.changed(ctx)
		case <-alarm.C:
			err = p.ring(ctx)
		case now := <-second.C:
			if err = p.checkpoint(ctx); err == nil && p.upkeep.needed(now, p.a.first.Load()) {
				err = p.keepUp(ctx)
			}
		}
		if err != nil {
			return err
		}
		p.arm(alarm)
	}
}

// sources are where messages come from: the partition's own reader until the
// seat goes on from where that is, and then the seat.
func (p *partition) sources() (own <-chan jetstream.Msg, failed <-chan error, given <-chan jetstream.Msg) {
	switch {
	case p.reader != nil:
		return p.reader.out, p.reader.failed, nil
	case p.seat != nil:
		return nil, nil, p.seat.out
	}
	return nil, nil, nil
}

// settle applies a message of the partition's own reader, and sees whether the
// seat can go on from there. It can once the reader has given everything up to
// where the seat begins: its messages come in order.
func (p *partition) settle(ctx context.Context, m jetstream.Msg) error {
	if err := p.consume(ctx, m); err != nil || !p.live {
		return err
	}
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read a result: %w", err)
	}
	if p.seat == nil && meta.NumPending == 0 {
		p.seat = p.a.intake.join(p.n)
	}
	if p.seat != nil && p.results >= p.seat.after {
		p.reader.close()
		p.reader = nil
	}
	return nil
}

// take applies a message that the intake gave. Where there comes no more, and
// that is no fault, the partition reads on by itself.
func (p *partition) take(ctx context.Context, m jetstream.Msg, ok bool) error {
	if ok {
		return p.consume(ctx, m)
	}
	err := p.seat.err
	p.seat = nil
	if err == nil {
		p.reader, err = p.readFrom(ctx, events.PartitionResults(p.n)...)
	}
	return err
}

// consume applies a message of RESULTS. Only what puts the partition in doubt is
// an error; a message that cannot be used is refused, and the next one comes.
func (p *partition) consume(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read a result: %w", err)
	}
	position, now := meta.Sequence.Stream, meta.Timestamp
	if position <= p.results {
		return nil // it came both ways
	}
	p.now = later(p.now, now)
	p.passed(position)
	switch subject := m.Subject(); {
	case bus.IsReport(subject):
		err = p.report(ctx, m, position, now)
	case subject == events.TickAll:
		p.outage(m, now)
	case subject == events.TickSubject(p.n):
		err = p.tickAt(ctx, position, now)
	default:
		err = p.result(ctx, m, position, now)
	}
	if err != nil {
		return err
	}
	p.results, p.storedAt, p.behind = position, now, true
	if !p.live && (meta.NumPending == 0 || position >= p.replay) {
		return p.goLive(ctx)
	}
	return nil
}

func (p *partition) result(ctx context.Context, m jetstream.Msg, position uint64, now time.Time) error {
	in, err := bus.ReadStoredResult(m, position, now)
	if err != nil {
		p.a.stats.results.Add(1)
		p.reject(ctx, m, in.Host, in.Check, err.Error())
		return nil
	}
	return p.count(ctx, m, in, now)
}

// report applies the results of a report in their order. One that puts the
// partition in doubt ends it: the whole report is read again, and what was counted
// is known by its position then.
func (p *partition) report(ctx context.Context, m jetstream.Msg, position uint64, now time.Time) error {
	results, err := bus.ReadReport(m, position, now)
	if err != nil {
		p.reject(ctx, m, "", "", err.Error())
		return nil
	}
	for _, in := range results {
		if err := p.count(ctx, m, in, now); err != nil {
			return err
		}
	}
	return nil
}

// count reduces a result; a first push registers its check before.
func (p *partition) count(ctx context.Context, m jetstream.Msg, in bus.Incoming, now time.Time) error {
	p.a.stats.results.Add(1)
	r := resultOf(in)
	for attempt := 0; ; attempt++ {
		if err := p.catchUp(ctx, r); err != nil {
			return err
		}
		out, err := p.fold(ctx, r, now)
		switch {
		case err != nil:
			return err
		case out.Reject != "" && attempt == 0 && in.Position > p.looked[place{r.Host, r.Check}]:
			// Perhaps for what has been replaced: a push may be faster than its registration.
			if err := p.levelLast(ctx, r.Host, r.Check); err != nil {
				return err
			}
			continue
		case out.Reject != "":
			p.reject(ctx, m, in.Host, in.Check, out.Reject)
			return nil
		case out.Register == nil:
			return nil
		}
		reason, err := p.registerPushed(ctx, *out.Register, now)
		if err != nil {
			return err
		}
		if reason == "" && attempt == 3 {
			reason = "the check could not be registered, because others registered and deregistered it"
		}
		if reason != "" {
			p.reject(ctx, m, in.Host, in.Check, reason)
			return nil
		}
	}
}

func resultOf(in bus.Incoming) Result {
	return Result{
		Host: in.Host, Check: in.Check, Polled: in.Polled, Position: in.Position, Observed: in.Observed, ID: in.ID, Result: in.Result,
	}
}

// reject tells that a result is refused.
func (p *partition) reject(ctx context.Context, m jetstream.Msg, host, check, reason string) {
	p.a.stats.rejected.Add(1)
	p.log.Debug("result refused", "host", host, "check", check, "reason", reason)
	p.a.cfg.Conn.Reject(ctx, "result", m.Subject(), host, check, reason, m.Data())
}

// catchUp applies the registration that a result is about, if it is newer than
// what was applied.
func (p *partition) catchUp(ctx context.Context, r Result) error {
	var c *check
	if h := p.hosts[r.Host]; h != nil {
		c = h.check(r.Check)
	}
	reg := p.a.cfg.Registry
	switch {
	case r.Polled && (c == nil || r.Result.Reg > c.state.Reg):
		if err := p.await(ctx, r.Result.Reg); err != nil {
			return err
		}
	case !r.Polled && (c == nil || c.with.Registration == nil):
		if _, ok := reg.Check(r.Host, r.Check); !ok {
			return nil
		}
	default:
		return nil
	}
	return p.levelOne(ctx, r.Host, r.Check, p.now)
}

// await waits until this process's copy of the registrations holds a position.
func (p *partition) await(ctx context.Context, position uint64) error {
	reg := p.a.cfg.Registry
	if reg.Position() >= position {
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if reg.WaitFor(wctx, position) == nil {
		return nil
	}
	state, err := p.streamState(ctx, bus.StreamRegistrations)
	if err != nil {
		return err
	}
	if position > state.LastSeq {
		return nil // there is no such registration: the result will not count
	}
	return fmt.Errorf("wait for the registrations up to %d: %w", position, context.DeadlineExceeded)
}

// fold reduces a result, and what it does to its host.
func (p *partition) fold(ctx context.Context, r Result, now time.Time) (Outcome, error) {
	h := p.hosts[r.Host]
	var c *check
	if h != nil {
		c = h.check(r.Check)
	}
	if c == nil { // nothing is known of it
		_, out := p.reduce(&check{}, r, now)
		if out.Dropped {
			p.a.stats.dropped.Add(1)
		}
		return out, nil
	}
	out, err := p.apply(ctx, c, r, now, r.ID)
	if err != nil {
		return out, err
	}
	if out.Dropped {
		p.a.stats.dropped.Add(1)
		return out, nil
	}
	var in HostInput
	if !r.Polled && h.state.Override != nil && h.state.Override.UntilPush && !now.Before(h.set) && out.Reject == "" && out.Register == nil {
		in = Pushed{}
	}
	if out.Transition != nil || in != nil {
		err = p.derive(ctx, h, in, causeOf(out), now)
	}
	return out, err
}

// cause is why a check changed: what its host's transition says, too.
type cause struct {
	why events.Cause
	id  string // of the check's transition
}

func causeOf(out Outcome) cause {
	if out.Transition == nil {
		return cause{}
	}
	return cause{out.Transition.Cause, out.Transition.ID()}
}

// outage puts deadlines off, of everything in the partition.
func (p *partition) outage(m jetstream.Msg, now time.Time) {
	e, err := bus.ReadEvent(m)
	var t events.Tick
	if err == nil {
		err = events.DataAs(e, &t)
	}
	if err != nil || t.Outage == nil {
		p.log.Warn("record of an outage is unreadable", "error", err)
		return
	}
	p.putOff(Outage{From: t.Outage.From.Time, To: t.Outage.To.Time}, now)
}

func (p *partition) putOff(o Outage, now time.Time) {
	n := 0
	for _, h := range p.hosts {
		for _, c := range h.checks {
			s, out := p.reduce(c, o, now)
			if out.Dirty {
				c.state = s
				p.dirty[c] = struct{}{}
				p.agenda.put(c)
				n++
			}
		}
	}
	if n > 0 {
		p.log.Info("deadlines are put off, because the bus was away", "from", o.From, "to", o.To, "checks", n)
	}
}
