package aggregator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// field is a bus with what a test needs of it: a connection of a worker, and a
// registry to register with.
type field struct {
	tb     testing.TB
	server *server.Server
	conn   *bus.Conn
	reg    *bus.Registry
	due    int64
}

func logger() *slog.Logger {
	if os.Getenv("MEGAPHONE_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newField(tb testing.TB) *field { return newFieldOn(tb, bustest.Start(tb)) }

func newFieldOn(tb testing.TB, s *server.Server) *field {
	tb.Helper()
	f := &field{tb: tb, server: s, due: time.Now().UnixMilli()}
	f.conn = f.connect()
	if err := f.conn.Setup(tb.Context(), bus.StreamOptions{}); err != nil {
		tb.Fatal(err)
	}
	f.reg = f.registry(f.conn, nil)
	return f
}

func (f *field) connect() *bus.Conn {
	f.tb.Helper()
	c, err := bus.New(bustest.Connect(f.tb, f.server), bus.WithName("test"), bus.WithLogger(logger()))
	if err != nil {
		f.tb.Fatal(err)
	}
	return c
}

// registry runs a registry until the test ends.
func (f *field) registry(c *bus.Conn, invalid func(string, uint64, string, []byte)) *bus.Registry {
	f.tb.Helper()
	r := bus.NewRegistry(c, bus.RegistryOptions{Invalid: invalid, Logger: logger()})
	background(f.tb, func(ctx context.Context) error {
		if err := r.Run(ctx); !errors.Is(err, nats.ErrConnectionClosed) {
			return err
		}
		return nil // some tests close connections
	})
	select {
	case <-r.Ready():
	case <-time.After(time.Minute):
		f.tb.Fatal("the registry is not ready")
	}
	return r
}

// background runs f until the returned function is called, or the test ends.
func background(tb testing.TB, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

// aggregator runs an aggregator until stop is called, or the test ends.
func (f *field) aggregator(name string) (a *Aggregator, stop func()) {
	f.tb.Helper()
	a = New(Config{Conn: f.conn, Registry: f.reg, Name: name, Holder: name, Interval: time.Minute, Logger: logger()})
	return a, background(f.tb, a.Run)
}

func (f *field) register(r events.Registration) uint64 {
	f.tb.Helper()
	position, err := f.reg.Register(f.tb.Context(), r)
	if err != nil {
		f.tb.Fatal(err)
	}
	return position
}

func (f *field) push(host, check string, s events.Status, ttl time.Duration) uint64 {
	f.tb.Helper()
	position, err := f.conn.Push(f.tb.Context(), host, check, events.Result{Status: s, Message: "pushed", TTL: events.Duration(ttl)})
	if err != nil {
		f.tb.Fatal(err)
	}
	return position
}

// poll stores the result of a poll by the registration at the position reg.
func (f *field) poll(host, check string, reg uint64, s events.Status) {
	f.tb.Helper()
	f.due++
	f.result(host, check, events.Result{Status: s, Message: "polled", Reg: reg, Lease: 1, Due: f.due})
}

func (f *field) result(host, check string, r events.Result) {
	f.tb.Helper()
	h := events.Header{Type: events.TypeResult, Source: "urn:megaphone:worker:w", ID: nuid.Next(), Host: host, Check: check, Time: time.Now()}
	if _, err := f.conn.PublishResult(f.tb.Context(), host, check, h, r); err != nil {
		f.tb.Fatal(err)
	}
}

// watch collects all transitions of the bus, from the beginning.
type watch struct {
	tb   testing.TB
	next chan bus.Change
	seen []bus.Change
}

func (f *field) watch() *watch {
	w := &watch{tb: f.tb, next: make(chan bus.Change, 10_000)}
	conn := f.connect()
	background(f.tb, func(ctx context.Context) error {
		for ch, err := range conn.Watch(ctx, bus.WatchOptions{FromStart: true}) {
			if err != nil {
				return err
			}
			w.next <- ch
		}
		return nil
	})
	return w
}

// until waits for a transition that ok likes, and returns it.
func (w *watch) until(what string, ok func(t events.Transition) bool) bus.Change {
	w.tb.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case ch := <-w.next:
			w.seen = append(w.seen, ch)
			if ok(ch.Transition) {
				return ch
			}
		case <-deadline:
			for _, ch := range w.seen {
				w.tb.Logf("%s: %s %d %v %s", ch.Event.ID(), ch.Transition.Cause, ch.Transition.Number, ch.Transition.Current, ch.Transition.Message)
			}
			w.tb.Fatalf("no transition came: %s", what)
		}
	}
}

// state waits until a check, or with an empty one its host, is told to be in a
// status and phase, if that is not what was told last.
func (w *watch) state(host, check string, s events.Status, p events.Phase) bus.Change {
	w.tb.Helper()
	for _, ch := range slices.Backward(w.seen) {
		if t := ch.Transition; t.Host == host && t.Check == check {
			if *t.Current.Status == s && t.Current.Phase == p {
				return ch
			}
			break
		}
	}
	return w.until(fmt.Sprintf("%s %s %s %s", host, check, s, p), func(t events.Transition) bool {
		return t.Host == host && t.Check == check && *t.Current.Status == s && t.Current.Phase == p
	})
}

// numbered fails the test unless the transitions seen are numbered without gap or
// repeat, and lead from each to the next. It returns how many there are of each.
func (w *watch) numbered() map[string]uint64 {
	w.tb.Helper()
	last := map[string]events.Transition{}
	counts := map[string]uint64{}
	for _, ch := range w.seen {
		t := ch.Transition
		key := events.SubjectName(t.Host, t.Check)
		if t.Number != counts[key]+1 {
			w.tb.Fatalf("%s: number %d after %d", key, t.Number, counts[key])
		}
		was, _ := json.Marshal(last[key].Current)
		from, _ := json.Marshal(t.Previous)
		if t.Number > 1 && string(was) != string(from) {
			w.tb.Fatalf("%s: %d leads from %s, not from %s", key, t.Number, from, was)
		}
		if ch.Event.ID() != t.ID() {
			w.tb.Fatalf("%s: id %s", key, ch.Event.ID())
		}
		counts[key], last[key] = t.Number, t
	}
	return counts
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("it never came: %s", what)
		}
	}
}

func (f *field) held(a *Aggregator, n uint64) {
	f.tb.Helper()
	eventually(f.tb, "all partitions are held", func() bool { return a.Stats().Takeovers >= n })
}

func web(id string) events.Registration {
	return events.Registration{Host: "web01", ID: id, URL: json.RawMessage(`"http://example.com/"`)}
}

func TestAggregator_TellsTransitions(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	start := time.Now()
	a, _ := f.aggregator("a1")
	f.held(a, events.Partitions)
	t.Logf("64 partitions were taken over in %s", time.Since(start).Round(time.Millisecond))
	w := f.watch()

	reg := f.register(web("db"))
	f.poll("web01", "db", reg, events.OK)
	up := w.state("web01", "", events.OK, events.Live)
	is.Equal(up.Transition.Number, uint64(1))
	is.Equal(up.Transition.Previous, events.Moment{Phase: events.Pending})
	is.Equal(up.Event.Extensions()["sequence"], events.Sequence(1))
	is.Equal(up.Event.Extensions()["partitionkey"], "web01")
	is.Equal(up.Event.Extensions()["causationid"], "web01.db#1") // by the check's transition
	created, err := f.conn.Created(t.Context())
	is.NoErr(err)
	is.Equal(up.Event.Source(), events.TransitionSource(created, "web01", ""))

	f.poll("web01", "db", reg, events.Critical)
	down := w.state("web01", "db", events.Critical, events.Live)
	is.Equal(down.Transition.Message, "polled")
	var s events.CheckState
	is.NoErr(json.Unmarshal(down.State, &s))
	is.Equal(s.Number, uint64(2))
	is.Equal(s.Status, events.Critical)
	hostDown := w.state("web01", "", events.Critical, events.Live)
	is.Equal(hostDown.Transition.Checks, []string{"db"})
	is.Equal(hostDown.Transition.Message, "db:Critical:polled")

	_, _, err = f.reg.Deregister(t.Context(), "web01", "db", "test")
	is.NoErr(err)
	gone := w.state("web01", "", events.Unknown, events.Gone)
	is.Equal(gone.Transition.Cause, events.CauseRegistration)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 3, "hosts/web01/checks/db": 3})
	eventually(t, "the tombstone is kept", func() bool { return f.stored("web01", "db").Phase == events.Gone })
	is.Equal(f.stored("web01", "db").Number, uint64(3))
}

func TestAggregator_RestartKeepsEverything(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	f := newFieldOn(t, s)
	_, stop := f.aggregator("a1")
	w := f.watch()
	for i := range 100 {
		host := fmt.Sprintf("h%d", i%10)
		r := events.Registration{Host: host, ID: fmt.Sprint("c", i), TTL: events.Duration(time.Hour), Fall: 2}
		f.register(r)
		f.push(host, r.ID, events.OK, 0)
	}
	for i := range 10 {
		w.state(fmt.Sprint("h", i), "", events.OK, events.Live)
	}
	eventually(t, "the transition is kept", func() bool { return f.stored("h3", "c3").Number == 1 }) // by a checkpoint, after which nothing is left to be written
	f.push("h3", "c3", events.Critical, 0)                                                           // the first of two
	eventually(t, "the count is kept", func() bool { return f.stored("h3", "c3").Streak == 1 })
	stop()

	a, _ := f.aggregator("a2")
	f.held(a, events.Partitions)
	f.push("h3", "c3", events.Critical, 0)
	w.state("h3", "", events.Critical, events.Live)
	counts := w.numbered()
	is.Equal(counts["hosts/h3/checks/c3"], uint64(2)) // without a false transition
	is.Equal(counts["hosts/h4"], uint64(1))
	is.Equal(counts["hosts/h3"], uint64(2))
}

// stored is a record of STATE.
func (f *field) stored(host, check string) (s events.CheckState) {
	f.tb.Helper()
	st, err := f.conn.JetStream().Stream(f.tb.Context(), bus.StreamState)
	if err != nil {
		f.tb.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(f.tb.Context(), events.StateSubject(host, check))
	if err != nil {
		return s
	}
	if err := json.Unmarshal(m.Data, &s); err != nil {
		f.tb.Fatal(err)
	}
	return s
}

func TestAggregator_CutOffOwnerIsReplaced(t *testing.T) {
	f := newField(t)
	w := f.watch()
	own := f.connect() // the first one's own connection
	first := New(Config{Conn: own, Registry: f.registry(own, nil), Name: "a1", Holder: "a1", Logger: logger()})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- first.Run(ctx) }()
	f.held(first, events.Partitions)

	const checks, flips = 20, 30
	var regs []uint64
	for i := range checks {
		r := web(fmt.Sprint("c", i))
		r.Host = fmt.Sprint("h", i)
		regs = append(regs, f.register(r))
	}
	second, _ := f.aggregator("a2")
	for n := range flips {
		status := events.OK
		if n%2 == 1 {
			status = events.Critical
		}
		for i, reg := range regs {
			f.poll(fmt.Sprint("h", i), fmt.Sprint("c", i), reg, status)
		}
		if n == flips/2 {
			own.NATS().Close() // without a word: its leases have to end by themselves
		}
	}
	for i := range checks {
		w.number(fmt.Sprint("h", i), "", flips)
	}
	counts := w.numbered()
	for i := range checks {
		for _, subject := range []string{fmt.Sprint("hosts/h", i), fmt.Sprintf("hosts/h%d/checks/c%d", i, i)} {
			if counts[subject] != flips {
				t.Errorf("%s has %d transitions of %d", subject, counts[subject], flips)
			}
		}
	}
	eventually(t, "the second one has everything", func() bool { return second.Stats().Partitions == events.Partitions })
	cancel()
	<-done // that its connection is closed is an error here, and none of the test's
}

// number waits until the n-th transition of a check, or with an empty one of a
// host, was seen.
func (w *watch) number(host, check string, n uint64) {
	w.tb.Helper()
	is := func(t events.Transition) bool { return t.Host == host && t.Check == check && t.Number >= n }
	if !slices.ContainsFunc(w.seen, func(ch bus.Change) bool { return is(ch.Transition) }) {
		w.until(fmt.Sprintf("%s %s number %d", host, check, n), is)
	}
}

// Partitions change hands while results come.
func TestAggregator_HandOver(t *testing.T) {
	f := newField(t)
	w := f.watch()
	first, stopFirst := f.aggregator("a1")
	f.held(first, events.Partitions)
	const checks, flips = 20, 40
	var regs []uint64
	for i := range checks {
		r := web(fmt.Sprint("c", i))
		r.Host = fmt.Sprint("h", i)
		regs = append(regs, f.register(r))
	}
	flip := func(from, to int) {
		for n := from; n < to; n++ {
			for i, reg := range regs {
				f.poll(fmt.Sprint("h", i), fmt.Sprint("c", i), reg, events.Statuses()[n%2*3])
			}
		}
	}
	flip(0, 10)
	second, _ := f.aggregator("a2")
	flip(10, 20)
	eventually(t, "they share", func() bool { return second.Stats().Partitions == events.Partitions/2 })
	flip(20, 30)
	go stopFirst()
	flip(30, flips)
	for i := range checks {
		w.number(fmt.Sprint("h", i), "", flips)
	}
	for subject, n := range w.numbered() {
		if n != flips {
			t.Errorf("%s has %d transitions of %d", subject, n, flips)
		}
	}
	stopFirst()
}

// Silence that an outage of the bus explains is not told at once.
func TestAggregator_OutagePutsDeadlinesOff(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	a, _ := f.aggregator("a1")
	f.held(a, events.Partitions)
	w := f.watch()
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Second)})
	f.push("web01", "queue", events.OK, 0)
	up := w.state("web01", "queue", events.OK, events.Live)
	f.outage(-time.Second, 2*time.Second)
	silent := w.state("web01", "queue", events.Critical, events.Stale)
	is.True(silent.Stored.Sub(up.Stored) > 2500*time.Millisecond) // the end of the outage and a ttl
}

// outage stores a record of an outage between two times from now.
func (f *field) outage(from, to time.Duration) {
	f.tb.Helper()
	now := time.Now()
	b, err := events.Encode(events.Header{Type: events.TypeTick, Source: "urn:x", ID: nuid.Next(), Time: now},
		events.Tick{Outage: &events.Outage{From: events.At(now.Add(from)), To: events.At(now.Add(to))}})
	if err != nil {
		f.tb.Fatal(err)
	}
	if _, err := f.conn.Store(f.tb.Context(), bus.Message(events.TickAll, b)); err != nil {
		f.tb.Fatal(err)
	}
}

// Many results that wait are read another way; what lies between them counts.
func TestAggregator_Backlog(t *testing.T) {
	const ttl = 4 * time.Second // not over before the first aggregator ends
	is := is.New(t)
	f := newField(t)
	_, stop := f.aggregator("a1")
	w := f.watch()
	reg := f.register(web("db"))
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(ttl)})
	f.push("web01", "queue", events.OK, 0)
	f.poll("web01", "db", reg, events.OK)
	up := w.state("web01", "queue", events.OK, events.Live)
	w.state("web01", "db", events.OK, events.Live)
	stop()

	const flips = 2 * fewResults
	for n := range flips {
		f.poll("web01", "db", reg, events.Statuses()[(n+1)%2*3])
		if n == flips/2 {
			f.outage(-10*time.Second, 2*time.Second)
		}
	}
	f.aggregator("a2")
	w.number("web01", "db", flips+1)
	silent := w.state("web01", "queue", events.Critical, events.Stale)
	is.True(silent.Stored.Sub(up.Stored) > ttl+1500*time.Millisecond) // put off
	is.Equal(w.numbered()["hosts/web01/checks/db"], uint64(flips+1))
}

// The bus dies in the middle, and comes back with its data.
func TestAggregator_BusRestarts(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	u, err := neturl.Parse(s.URL())
	is.NoErr(err)
	listen := u.Host
	role := func() *bus.Conn {
		c, err := bus.New(bustest.ConnectRole(t, s, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)), bus.WithLogger(logger()))
		is.NoErr(err)
		return c
	}
	f := &field{tb: t, server: s, due: time.Now().UnixMilli(), conn: role()}
	is.NoErr(f.conn.Setup(t.Context(), bus.StreamOptions{}))
	f.reg = f.registry(f.conn, nil)
	a, _ := f.aggregator("a1")
	f.held(a, events.Partitions)

	const checks, flips = 10, 30
	var regs []uint64
	for i := range checks {
		r := web(fmt.Sprint("c", i))
		r.Host = fmt.Sprint("h", i)
		regs = append(regs, f.register(r))
	}
	for n := range flips {
		if n == flips/2 {
			s.Close()
			s = bustest.StartIn(t, dir, listen)
			eventually(t, "the connection is back", f.conn.NATS().IsConnected)
		}
		for i, reg := range regs {
			f.poll(fmt.Sprint("h", i), fmt.Sprint("c", i), reg, events.Statuses()[n%2*3])
		}
	}
	f.server = s
	w := f.watch()
	for i := range checks {
		w.number(fmt.Sprint("h", i), "", flips)
	}
	for subject, n := range w.numbered() {
		if n != flips {
			t.Errorf("%s has %d transitions of %d", subject, n, flips)
		}
	}
}

// always is a lease that its holder believes in, whatever happens.
type always struct{}

func (always) Valid() bool { return true }

func (f *field) partition(name string, n int) *partition {
	a := New(Config{Conn: f.conn, Registry: f.reg, Name: name, Holder: name, Logger: logger()})
	return &partition{
		a: a, n: n, lease: always{}, log: a.log, box: a.open(n), hosts: map[string]*host{},
		dirty: map[record]struct{}{}, cleared: map[uint64]bool{},
	}
}

func TestPartition_ZombieCannotWrite(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	reg := f.register(web("db"))
	zombie := f.partition("zombie", n)
	is.NoErr(zombie.takeOver(t.Context()))
	defer zombie.close()

	owner := f.partition("owner", n)
	is.NoErr(owner.takeOver(t.Context()))
	defer owner.close()
	f.poll("web01", "db", reg, events.OK)

	// Both are given the same result, the zombie first: its lease is over, and it
	// does not know.
	var wrong *jetstream.APIError
	err := zombie.consume(t.Context(), <-zombie.reader.out)
	is.True(errors.As(err, &wrong)) // the fence
	is.Equal(wrong.ErrorCode, jetstream.JSErrCodeStreamWrongLastSequence)
	is.Equal(zombie.hosts["web01"].check("db").state.Number, uint64(0)) // nor did its memory change
	is.True(errors.As(zombie.checkpoint(t.Context()), &wrong))
	is.Equal(wrong.ErrorCode, jetstream.JSErrCodeStreamWrongLastSequence)
	c := zombie.hosts["web01"].check("db")
	is.True(errors.As(zombie.store(t.Context(), "web01", "db", c.state, false), &wrong)) // nor is a record of STATE stored
	is.Equal(wrong.ErrorCode, jetstream.JSErrCodeStreamWrongLastSequence)

	is.NoErr(owner.consume(t.Context(), <-owner.reader.out))
	is.NoErr(owner.checkpoint(t.Context()))
	w := f.watch()
	w.state("web01", "", events.OK, events.Live)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 1, "hosts/web01/checks/db": 1})
}

// A fence is stored without an expectation, and so is a tick: whoever is not sure of its
// lease would end the rights of the owner that came after it.
func TestPartition_WritesNothingWithoutItsLease(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	p := f.partition("late", n)
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	changes, states, results := f.last(bus.StreamChanges), f.last(bus.StreamState), f.last(bus.StreamResults)
	p.lease = &mortal{} // from here on it is not valid
	is.True(errors.Is(p.setFences(t.Context()), errLease))
	is.True(errors.Is(p.publishTick(t.Context()), errLease))
	is.True(errors.Is(p.checkpoint(t.Context()), errLease))
	is.Equal(f.last(bus.StreamChanges), changes)
	is.Equal(f.last(bus.StreamState), states)
	is.Equal(f.last(bus.StreamResults), results)
}

// A transition that was committed, but never seen acknowledged, is adopted, and
// what follows from it is made up for.
func TestPartition_CommittedHalfWay(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	reg := f.register(web("db"))
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	defer first.close()
	f.poll("web01", "db", reg, events.Warning)
	m := <-first.reader.out
	meta, err := m.Metadata()
	is.NoErr(err)
	in, err := bus.ReadStoredResult(m, meta.Sequence.Stream, meta.Timestamp)
	is.NoErr(err)
	c := first.hosts["web01"].check("db")
	_, err = first.apply(t.Context(), c, Result{Host: "web01", Check: "db", Polled: true, Position: in.Position, Result: in.Result}, meta.Timestamp, in.ID)
	is.NoErr(err) // and here it dies: its host is not told, no checkpoint is written

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	w := f.watch()
	told := w.state("web01", "", events.Warning, events.Live)
	is.Equal(told.Transition.Cause, events.CauseResult) // that of its check, which the one before knew
	is.Equal(told.Event.Extensions()["causationid"], "web01.db#1")
	if second.reader.pending > 0 {
		is.NoErr(second.consume(t.Context(), <-second.reader.out)) // the same result again
	}
	is.Equal(second.hosts["web01"].check("db").state.Number, uint64(1))
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 1, "hosts/web01/checks/db": 1})
}

// drain gives a partition what its reader has, until ok.
func (f *field) drain(p *partition, ok func() bool) {
	f.tb.Helper()
	for !ok() {
		select {
		case m := <-p.reader.out:
			if err := p.consume(f.tb.Context(), m); err != nil {
				f.tb.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			f.tb.Fatal("the results do not come")
		}
	}
}

func TestPartition_UpkeepOutlivesTheResults(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	p := f.partition("p", n)
	f.register(events.Registration{Host: "web01", ID: "daily", TTL: events.Duration(30 * time.Hour)})
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	first := f.push("web01", "daily", events.OK, 0)
	f.drain(p, func() bool { return p.results >= first })
	is.NoErr(p.checkpoint(t.Context()))
	again := f.push("web01", "daily", events.OK, 0) // changes nothing: is written nowhere
	f.drain(p, func() bool { return p.results >= again })
	is.NoErr(p.checkpoint(t.Context()))
	is.True(f.stored("web01", "daily").Applied < again)
	for range 10 {
		f.push("elsewhere", "x", events.OK, 0)
	}
	is.NoErr(p.keepUp(t.Context()))
	is.NoErr(p.checkpoint(t.Context()))
	is.Equal(f.stored("web01", "daily").Applied, again)
	// The partition itself is idle: a tick moves its checkpoint on.
	f.drain(p, func() bool { return p.tick == 0 })
	is.NoErr(p.checkpoint(t.Context()))
	is.True(p.saved.Results > again+10)
}

func TestPartition_RetiresWhatIsNoLongerPushed(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	pushed := f.push("web01", "queue", events.OK, time.Minute)
	f.drain(p, func() bool { return p.results >= pushed })
	_, ok := f.reg.Check("web01", "queue")
	is.True(ok)
	c := p.hosts["web01"].check("queue")
	is.NoErr(p.tickAt(t.Context(), pushed+100, c.state.Seen.Add(25*time.Hour)))
	_, ok = f.reg.Check("web01", "queue")
	is.True(!ok)
	is.Equal(c.state.Phase, events.Gone)
	w := f.watch()
	w.state("web01", "", events.Unknown, events.Gone)
	is.Equal(w.numbered()["hosts/web01/checks/queue"], uint64(3)) // its silence was told before
}

// An owner that was replaced may never have heard that a check was registered and
// deregistered since: a push that came before the end does not register it again.
func TestPartition_ZombieRegistersNothing(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	zombie := f.partition("zombie", events.Partition("web01"))
	is.NoErr(zombie.takeOver(t.Context()))
	defer zombie.close()
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
	pushed := f.push("web01", "queue", events.OK, 0)
	_, _, err := f.reg.Deregister(t.Context(), "web01", "queue", "test")
	is.NoErr(err)
	f.drain(zombie, func() bool { return zombie.results >= pushed })
	_, ok := f.reg.Check("web01", "queue")
	is.True(!ok)
}

func TestPartition_LeavesLaterVersionsAlone(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	store := func(subject, body string) {
		t.Helper()
		_, err := f.conn.Store(t.Context(), &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}})
		is.NoErr(err)
	}
	store(events.StateSubject("web01", "broken"), "{")
	is.NoErr(p.takeOver(t.Context())) // what cannot be read is left out
	p.close()
	store(events.StateSubject("web01", "db"), `{"v":2,"host":"web01","check":"db","status":{"new":"form"}}`)
	p = f.partition("p", events.Partition("web01"))
	is.True(errors.Is(p.takeOver(t.Context()), errVersion))
	p.close()
}

func TestAggregator_TellsSilenceInTime(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
	f.push("web01", "queue", events.OK, 1500*time.Millisecond)
	up := w.state("web01", "queue", events.OK, events.Live)
	silent := w.state("web01", "queue", events.Critical, events.Stale)
	is.Equal(silent.Transition.Cause, events.CauseSilence)
	is.Equal(silent.Transition.Message, "no push for 1.5s (ttl 1.5s)")
	late := silent.Stored.Sub(up.Transition.Current.Since.Time) - 1500*time.Millisecond
	t.Logf("told %s after the deadline", late)
	is.True(late > 0 && late < time.Second)
	w.state("web01", "", events.Critical, events.Stale)
	f.push("web01", "queue", events.OK, 0)
	w.state("web01", "", events.OK, events.Live)
}

// What was stored while nobody reduced counts before any deadline does.
func TestAggregator_SilenceIsToldAfterARestart(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	_, stop := f.aggregator("a1")
	w := f.watch()
	for _, id := range []string{"silent", "alive"} {
		f.register(events.Registration{Host: "web01", ID: id, TTL: events.Duration(time.Minute)})
		f.push("web01", id, events.OK, time.Minute)
		w.state("web01", id, events.OK, events.Live)
	}
	for _, id := range []string{"silent", "alive"} {
		f.push("web01", id, events.OK, time.Second)
	}
	stop()
	f.push("web01", "alive", events.OK, time.Minute)
	deadline := time.Now().Add(1100 * time.Millisecond)
	eventually(t, "the deadline", func() bool { return time.Now().After(deadline) })
	f.aggregator("a2")
	w.state("web01", "silent", events.Critical, events.Stale)
	w.state("web01", "", events.Critical, events.Live)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 2, "hosts/web01/checks/silent": 2, "hosts/web01/checks/alive": 1})
}

func TestAggregator_Duplicates(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	a, _ := f.aggregator("a1")
	w := f.watch()
	reg := f.register(web("db"))
	ok := events.Result{Status: events.OK, Reg: reg, Lease: 5, Due: 1000}
	bad := events.Result{Status: events.Critical, Reg: reg, Lease: 5, Due: 2000}
	f.result("web01", "db", ok)
	f.result("web01", "db", bad)
	f.result("web01", "db", ok)  // stored again
	f.result("web01", "db", bad) // and this one
	late := ok
	late.Lease, late.Due = 4, 9000 // by a worker that was superseded
	f.result("web01", "db", late)
	ok.Due = 3000
	f.result("web01", "db", ok)
	w.number("web01", "", 3)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 3, "hosts/web01/checks/db": 3})
	is.Equal(a.Stats().Dropped, uint64(3))
}

func TestAggregator_OverrideExpires(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	reg := f.register(web("db"))
	f.poll("web01", "db", reg, events.Critical)
	w.state("web01", "", events.Critical, events.Live)
	until := time.Now().Add(time.Second)
	_, err := f.reg.SetOverride(t.Context(), events.Override{Host: "web01", Check: "db", Status: ptr(events.OK), Reason: "known", Until: events.At(until)})
	is.NoErr(err)
	set := w.state("web01", "db", events.OK, events.Overridden)
	is.Equal(set.Transition.Cause, events.CauseOverride)
	is.Equal(set.Transition.Message, "overridden: known")
	w.state("web01", "", events.OK, events.Live)
	over := w.state("web01", "db", events.Critical, events.Live)
	is.Equal(over.Transition.Cause, events.CauseExpired)
	is.True(over.Stored.Sub(until) < time.Second)
	w.state("web01", "", events.Critical, events.Live)
	eventually(t, "it is listed no more", func() bool { return len(f.reg.Overrides()) == 0 })

	_, err = f.reg.SetOverride(t.Context(), events.Override{Host: "web01", Status: ptr(events.OK), Until: events.At(time.Now().Add(time.Second))})
	is.NoErr(err)
	w.state("web01", "", events.OK, events.Overridden)
	over = w.state("web01", "", events.Critical, events.Live)
	is.Equal(over.Transition.Cause, events.CauseExpired)
	eventually(t, "it is listed no more", func() bool { return len(f.reg.Overrides()) == 0 })
	w.numbered()
}

func TestAggregator_FirstPushRegisters(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	anyone, err := bus.New(bustest.ConnectAnonymous(t, f.server))
	is.NoErr(err)
	_, err = anyone.Store(t.Context(), &nats.Msg{Subject: "megaphone.result.web01.queue", Data: []byte(`{"status":"OK","ttl":"1s"}`), Header: nats.Header{}})
	is.NoErr(err)
	w.state("web01", "", events.OK, events.Live)
	e, ok := f.reg.Check("web01", "queue")
	is.True(ok)
	is.Equal(e.Registration.Origin, OriginPush)
	w.state("web01", "", events.Critical, events.Stale) // the ttl of the push

	_, _, err = f.reg.Deregister(t.Context(), "web01", "queue", "test")
	is.NoErr(err)
	w.state("web01", "", events.Unknown, events.Gone)
	rejections := f.rejections(t)
	f.push("web01", "queue", events.OK, 0)
	rejections("was deregistered")
	_, ok = f.reg.Check("web01", "queue")
	is.True(!ok) // not within a minute after it was deregistered
}

// A registration that was acknowledged is never replaced by that of a first
// push, even if the push overtakes it on its way to the aggregator.
func TestAggregator_FirstPushReplacesNothing(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	for i := range 20 {
		id := fmt.Sprint("q", i)
		b, err := events.Encode(events.Header{Type: events.TypeRegistered, Source: "urn:x", ID: id, Host: "web01", Check: id, Time: time.Now()},
			events.Registration{ID: id, TTL: events.Duration(time.Minute), Origin: "nats"})
		is.NoErr(err)
		_, err = f.conn.Store(t.Context(), bus.Message(events.RegistrationSubject("web01", id), b))
		is.NoErr(err)
		f.push("web01", id, events.OK, 0)
	}
	for i := range 20 {
		id := fmt.Sprint("q", i)
		w.state("web01", id, events.OK, events.Live)
		e, ok := f.reg.Check("web01", id)
		is.True(ok)
		is.Equal(e.Registration.Origin, "nats")
	}
}

// A check that is registered between the look at a push and the registration for
// it keeps what it was registered as.
func TestPartition_FirstPushComesSecond(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	_, out := p.reduce(&check{}, Result{Host: "web01", Check: "queue", Position: 1}, time.Now())
	is.True(out.Register != nil)
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute), Origin: "nats"})
	reason, err := p.registerPushed(t.Context(), *out.Register, time.Now())
	is.NoErr(err)
	is.Equal(reason, "") // the push is looked at again
	e, ok := f.reg.Check("web01", "queue")
	is.True(ok)
	is.Equal(e.Registration.Origin, "nats")
	is.Equal(e.Registration.TTL.D(), time.Minute)
}

// A push is not refused for a registration that has been replaced, although the
// partition, or this process, has not heard of the new one yet.
func TestPartition_PushOvertakesItsRegistration(t *testing.T) {
	for name, heard := range map[string]bool{"the partition": true, "the process": false} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := newField(t)
			f.register(web("db"))
			p := f.partition("p", events.Partition("web01"))
			is.NoErr(p.takeOver(t.Context()))
			defer p.close()
			now := events.Registration{Host: "web01", ID: "db", TTL: events.Duration(time.Minute)}
			if heard {
				f.register(now)
			} else {
				b, err := events.Encode(events.Header{Type: events.TypeRegistered, Source: "urn:x", ID: "1", Host: "web01", Check: "db", Time: time.Now()}, now)
				is.NoErr(err)
				_, err = f.conn.Store(t.Context(), bus.Message(events.RegistrationSubject("web01", "db"), b))
				is.NoErr(err)
			}
			f.push("web01", "db", events.Warning, 0)
			is.NoErr(f.step(p))
			s := p.hosts["web01"].check("db").state
			is.Equal(s.Phase, events.Live)
			is.Equal(s.Status, events.Warning)
			is.Equal(p.a.Stats().Rejected, uint64(0))
		})
	}
}

// An override that selects goes on for the others when a push ends it for one check.
func TestPartition_SelectedUntilPush(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	for _, id := range []string{"a", "b"} {
		f.register(events.Registration{Host: "web01", ID: id, TTL: events.Duration(time.Minute), Labels: map[string]string{"app": "shop"}})
	}
	_, err := f.reg.SetOverride(t.Context(), events.Override{
		Name: "deploy", Select: map[string]string{"app": "shop"}, Maintenance: true, UntilPush: true, Until: events.At(time.Now().Add(time.Hour)),
	})
	is.NoErr(err)
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	f.push("web01", "a", events.OK, 0)
	is.NoErr(f.step(p))
	is.Equal(p.hosts["web01"].check("a").state.Phase, events.Live)
	is.Equal(p.hosts["web01"].check("b").state.Phase, events.Maintenance)
	is.Equal(len(f.reg.Overrides()), 1)
}

// Who holds a partition for months forgets what is gone for as long as its records are
// kept, as one who takes it over does.
func TestPartition_UpkeepBuries(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.register(web("db"))
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	_, _, err := f.reg.Deregister(t.Context(), "web01", "db", "test")
	is.NoErr(err)
	is.NoErr(p.levelAll(t.Context()))
	is.NoErr(p.keepUp(t.Context()))
	is.Equal(p.hosts["web01"].check("db").state.Phase, events.Gone)
	p.now = p.now.Add(events.TombstoneKept + time.Hour)
	is.NoErr(p.keepUp(t.Context()))
	is.Equal(p.hosts["web01"].check("db"), nil)
	is.Equal(len(p.hosts["web01"].checks), 1)
	is.Equal(len(p.hosts["web01"].states), 1)
}

// fill leaves no room among the registrations.
func (f *field) fill() {
	f.tb.Helper()
	s, err := f.conn.JetStream().Stream(f.tb.Context(), bus.StreamRegistrations)
	if err == nil {
		cfg := s.CachedInfo().Config
		cfg.MaxBytes = int64(s.CachedInfo().State.Bytes)
		_, err = f.conn.JetStream().UpdateStream(f.tb.Context(), cfg)
	}
	if err != nil {
		f.tb.Fatal(err)
	}
}

// Where there is no room for another registration, a first push is refused, and the
// partition goes on.
func TestAggregator_NoRoomForAFirstPush(t *testing.T) {
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	reg := f.register(web("db"))
	f.fill()
	refused := f.rejections(t)
	f.push("web01", "new", events.OK, 0)
	refused("no room for registrations")
	f.poll("web01", "db", reg, events.OK)
	w.state("web01", "db", events.OK, events.Live)
}

// Nor is there room for the end of one that is larger than the registration was: the
// check stays, and nothing else waits for it.
func TestPartition_NoRoomToDeregister(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(PushKept), Origin: OriginPush})
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	f.fill()
	c := p.hosts["web01"].check("queue")
	due := c.state.Started.Add(PushKept)
	is.True(p.agenda.first().Equal(due))
	is.NoErr(p.tickAt(t.Context(), p.replay+1, due))
	is.Equal(p.agenda.first(), time.Time{}) // not due again at once
	_, ok := f.reg.Check("web01", "queue")
	is.True(ok)
}

// rejections returns a function that waits for a rejection with a text in it.
func (f *field) rejections(t *testing.T) (wait func(text string)) {
	t.Helper()
	sub, err := f.conn.NATS().SubscribeSync(events.RejectedSubjects)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.conn.NATS().Flush(); err != nil {
		t.Fatal(err)
	}
	return func(text string) {
		t.Helper()
		for {
			m, err := sub.NextMsg(10 * time.Second)
			if err != nil {
				t.Fatalf("no rejection %q: %v", text, err)
			}
			e, err := bus.ReadEvent(bus.Plain(m))
			if err != nil {
				t.Fatal(err)
			}
			var r events.Rejection
			if err := events.DataAs(e, &r); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(r.Reason, text) {
				return
			}
		}
	}
}

func TestAggregator_RefusesBadResults(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	reg := f.register(web("db"))
	wait := f.rejections(t)
	raw := func(subject, body string) {
		t.Helper()
		_, err := f.conn.Store(t.Context(), &nats.Msg{Subject: subject, Data: []byte(body), Header: nats.Header{}})
		is.NoErr(err)
	}
	raw("megaphone.result.web01.x1", `{"status":"fine"}`)
	wait("not a status")
	raw("megaphone.result.web01.x2", `{"specversion":"1.0","id":""}`)
	wait("CloudEvent")
	raw("megaphone.result.WEB01.x3", `{"status":"OK"}`)
	wait("lower case")
	raw("megaphone.result.web01.db", `{"status":"OK"}`)
	wait("is polled")
	f.poll("web01", "db", reg, events.OK) // the partition goes on
	w.state("web01", "", events.OK, events.Live)
}

func TestAggregator_MendsInvalidRegistrations(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	var a *Aggregator
	ready := make(chan struct{})
	reg := f.registry(f.connect(), func(subject string, position uint64, reason string, data []byte) {
		<-ready
		a.Invalid(subject, position, reason, data)
	})
	a = New(Config{Conn: f.conn, Registry: reg, Name: "a1", Holder: "a1", Logger: logger()})
	close(ready)
	background(t, a.Run)
	f.held(a, events.Partitions)
	wait := f.rejections(t)
	f.register(web("db"))
	// The stream keeps the last event of a subject only: what this process never
	// saw it cannot put back.
	eventually(t, "the registration", func() bool { _, ok := reg.Check("web01", "db"); return ok })
	subject := events.RegistrationSubject("web01", "db")
	b, err := events.Encode(events.Header{Type: events.TypeRegistered, Source: "urn:x", ID: "1", Host: "web01", Check: "db", Time: time.Now()}, map[string]any{"id": "db"})
	is.NoErr(err)
	position, err := f.conn.Store(t.Context(), bus.Message(subject, b))
	is.NoErr(err)
	wait("needs a url to poll")
	eventually(t, "the former one is back", func() bool {
		e, ok := reg.Check("web01", "db")
		return ok && e.Position > position && e.Registration.URL != nil
	})
}

func TestAggregator_ManyFlips(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	var regs []uint64
	for i := range 50 {
		regs = append(regs, f.register(web(fmt.Sprint("c", i))))
	}
	for n := range 10 {
		status := events.OK
		if n%2 == 1 {
			status = events.Critical
		}
		for i, reg := range regs {
			f.poll("web01", fmt.Sprint("c", i), reg, status)
		}
	}
	w.number("web01", "c49", 10)
	w.state("web01", "", events.Critical, events.Live)
	counts := w.numbered()
	total := uint64(0)
	for i := range regs {
		total += counts[fmt.Sprint("hosts/web01/checks/c", i)]
	}
	is.Equal(total, uint64(500))
}
