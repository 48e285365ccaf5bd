package pollers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"
)

// field is a bus with a registry and everything that workers published on it.
type field struct {
	tb       testing.TB
	server   *server.Server
	conn     *bus.Conn
	registry *bus.Registry

	mu      sync.Mutex
	results []bus.Incoming
	reports map[uint64]bool // positions of results that came in reports
	moved   chan struct{}
}

func newField(tb testing.TB) *field { return newFieldOn(tb, bustest.Start(tb)) }

func newFieldOn(tb testing.TB, s *server.Server) *field {
	f := &field{tb: tb, server: s, reports: map[uint64]bool{}, moved: make(chan struct{})}
	f.conn, f.registry = f.connect(s.URL())
	f.collect(f.conn)
	return f
}

// connect returns what a process has: its connection and registry.
func (f *field) connect(url string) (*bus.Conn, *bus.Registry) {
	conn, err := bus.Connect(f.tb.Context(), url, bus.WithCreds(f.server.CredsPath()))
	must(f.tb, err)
	f.tb.Cleanup(func() { conn.NATS().Close() })
	must(f.tb, conn.Setup(f.tb.Context(), bus.StreamOptions{}))
	registry := bus.NewRegistry(conn, bus.RegistryOptions{})
	start(f.tb, registry.Run)
	<-registry.Ready()
	return conn, registry
}

// collect keeps all polled results, in their order.
func (f *field) collect(conn *bus.Conn) {
	stream, err := conn.JetStream().Stream(f.tb.Context(), bus.StreamResults)
	must(f.tb, err)
	consumer, err := stream.OrderedConsumer(f.tb.Context(), jetstream.OrderedConsumerConfig{})
	must(f.tb, err)
	reading, err := consumer.Consume(func(m jetstream.Msg) {
		in, err := bus.ReadResults(m)
		if err != nil {
			f.tb.Errorf("read %s: %v", m.Subject(), err)
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.results = append(f.results, in...)
		if bus.IsReport(m.Subject()) {
			f.reports[in[0].Position] = true
		}
		close(f.moved)
		f.moved = make(chan struct{})
	})
	must(f.tb, err)
	f.tb.Cleanup(func() { reading.Stop(); <-reading.Closed() })
}

// wait returns the results once they satisfy enough.
func (f *field) wait(within time.Duration, enough func([]bus.Incoming) bool) []bus.Incoming {
	f.tb.Helper()
	timeout := time.After(within)
	for {
		f.mu.Lock()
		results, moved := f.results, f.moved
		f.mu.Unlock()
		if enough(results) {
			return results
		}
		select {
		case <-moved:
		case <-timeout:
			f.tb.Fatalf("not within %s; %d results: %v", within, len(results), tail(results))
		}
	}
}

func tail(results []bus.Incoming) (out []string) {
	for _, r := range results[max(len(results)-20, 0):] {
		out = append(out, fmt.Sprintf("%s/%s %s %q by %s", r.Host, r.Check, r.Result.Status, r.Result.Message, r.Result.Worker))
	}
	return out
}

// of are the results of one check.
func of(results []bus.Incoming, check string) (out []bus.Incoming) {
	for _, r := range results {
		if r.Check == check {
			out = append(out, r)
		}
	}
	return out
}

func (f *field) register(r events.Registration) uint64 {
	f.tb.Helper()
	if r.Host == "" {
		r.Host = "web01"
	}
	if r.Pool == "" {
		r.Pool = events.DefaultPool // the targets of tests are on a loopback address
	}
	position, err := f.registry.Register(f.tb.Context(), r)
	must(f.tb, err)
	return position
}

// worker runs a worker until the test ends, or stop is called.
func (f *field) worker(c pollers.Config) (w *pollers.Worker, stop func()) {
	return f.workerAt(f.server.URL(), c)
}

// workerAt is worker with another way to the bus.
func (f *field) workerAt(url string, c pollers.Config) (w *pollers.Worker, stop func()) {
	c.Conn, c.Registry = f.connect(url)
	if c.Name == "" {
		c.Name = "w1"
	}
	c.Holder = "holder-" + c.Name
	w = pollers.New(c)
	return w, start(f.tb, w.Run)
}

// start runs something until the test ends, or stop is called.
func start(tb testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("run: %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func quoted(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string is never refused
	return b
}

const (
	never = events.Duration(time.Hour) // an interval in which no test ends
	soon  = 10 * time.Second           // more than anything takes on a slow machine
)

func TestWorkerPublishesWhatItFound(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.worker(pollers.Config{Name: "w1", Version: "9"})
	s := serve(t, text(`{"status": "Warning", "message": "disk <91%>", "n": 1.50}`))
	before := time.Now()
	position := f.register(events.Registration{ID: "a/b é", URL: quoted(s.URL), Interval: never})
	got := f.wait(soon, func(all []bus.Incoming) bool { return len(all) > 0 })[0]
	is.True(got.Polled)
	is.Equal(got.Host, "web01")
	is.Equal(got.Check, "a/b é")
	r := got.Result
	is.Equal(r.Status, events.Warning)
	is.Equal(r.Message, "disk <91%>")
	is.Equal(string(r.Document), `{"status":"Warning","message":"disk <91%>","n":1.50}`)
	is.Equal(r.Worker, "w1")
	is.Equal(r.Pool, events.DefaultPool)
	is.Equal(r.Reg, position)
	is.True(r.Lease > 0)
	is.True(r.Due >= before.UnixMilli() && r.Due <= time.Now().UnixMilli()) // at once, not in an hour
	is.True(r.LatencySeconds > 0 && r.LatencySeconds < 5)
	is.True(!got.Observed.Before(before.Truncate(time.Millisecond)))
}

func TestWorkerFollowsRegistrations(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.worker(pollers.Config{})
	var polls, others atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			others.Add(1)
		}
		polls.Add(1)
		io.WriteString(w, okDocument)
	})
	r := events.Registration{ID: "c", URL: quoted(s.URL), Interval: never}
	first := f.register(r)
	f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "c")) == 1 })
	second := f.register(r) // an equal one: polled at once again
	all := f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "c")) == 2 })
	is.Equal(all[0].Result.Reg, first)
	is.Equal(all[1].Result.Reg, second)

	r.Interval = events.Duration(20 * time.Millisecond) // a shorter interval holds at once
	f.register(r)
	f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "c")) >= 10 })
	r.URL = quoted(s.URL + "/other")
	f.register(r)
	f.wait(soon, func([]bus.Incoming) bool { return others.Load() > 2 })

	found, _, err := f.registry.Deregister(t.Context(), "web01", "c", "test")
	is.NoErr(err)
	is.True(found)
	f.register(events.Registration{ID: "later", URL: quoted(s.URL), Interval: never})
	f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "later")) == 1 })
	stopped := polls.Load()
	f.register(events.Registration{ID: "last", URL: quoted(s.URL), Interval: never})
	f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "last")) == 1 })
	is.True(polls.Load()-stopped <= 2) // "last", and one of "c" that had begun before
	f.growing()
}

// growing checks that the keys of each check grow.
func (f *field) growing() {
	f.tb.Helper()
	last := map[string]events.Order{}
	for _, r := range f.wait(soon, func([]bus.Incoming) bool { return true }) {
		o := r.Result.Order()
		if !o.After(last[r.Check]) {
			f.tb.Fatalf("%s: %v after %v", r.Check, o, last[r.Check])
		}
		last[r.Check] = o
	}
}

func TestWorkerLeavesOthersAlone(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	w, _ := f.worker(pollers.Config{Host: "web01"})
	s := serve(t, text(okDocument))
	f.register(events.Registration{ID: "pushed", TTL: never})
	f.register(events.Registration{ID: "elsewhere", URL: quoted(s.URL), Pool: "zone-b"})
	f.register(events.Registration{ID: "another host's", Host: "web02", URL: quoted(s.URL), Pool: "@web02"})
	own := events.Registration{ID: "own", Host: "web01", URL: quoted(s.URL), Interval: never}
	_, err := f.registry.Register(t.Context(), own) // a loopback address: its own host's pool
	is.NoErr(err)
	f.register(events.Registration{ID: "shared", Host: "web02", URL: quoted(s.URL), Interval: never})
	all := f.wait(soon, func(all []bus.Incoming) bool { return len(of(all, "own")) == 1 && len(of(all, "shared")) == 1 })
	is.Equal(len(all), 2)
	is.Equal(of(all, "own")[0].Result.Pool, "@web01")
	is.Equal(w.Stats().Checks, 2)
}

// Services register shortly before they are ready.
func TestWorkerRepeatsAFirstFailureSoon(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.worker(pollers.Config{})
	var polls atomic.Int64
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if polls.Add(1) <= 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, okDocument)
	})
	f.register(events.Registration{ID: "c", URL: quoted(s.URL), Interval: never})
	all := f.wait(soon, func(all []bus.Incoming) bool { return len(all) >= 4 })
	is.Equal(all[0].Result.Message, "timeout connecting to "+s.URL)
	is.Equal(all[0].Result.Document, nil)
	is.Equal(all[3].Result.Status, events.OK)
	pauses := []int64{250, 500, 1000}
	for i, p := range pauses {
		is.True(all[i+1].Result.Due-all[i].Result.Due >= p) // growing
	}
	f.growing()
}

func TestWorkerBadAddresses(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.worker(pollers.Config{})
	for id, url := range map[string]string{
		"none": `{"jsonpath": "a"}`, "empty": `{}`, "scheme": `"gopher://h/"`, "noscheme": `"localhost:1/x"`,
		"override": `{"addr": "http://127.0.0.1:1/", "statusoverride": "OK"}`, "path": `{"addr": "http://127.0.0.1:1/", "jsonpath": "a/b"}`,
	} {
		f.register(events.Registration{ID: id, URL: json.RawMessage(url), Interval: never})
	}
	want := map[string]string{
		"none":     "Critical ERROR: couldn't find addr in url, nothing to check",
		"empty":    "Critical ERROR: couldn't find addr in url, nothing to check",
		"scheme":   "Critical timeout connecting to gopher://h/",
		"noscheme": "Critical timeout connecting to localhost:1/x",
		"override": "OK NOTICE: statusoverride used!",
		"path":     "Critical error collecting results from addr: http://127.0.0.1:1/, jsonpath: a/b",
	}
	all := f.wait(soon, func(all []bus.Incoming) bool {
		for id := range want {
			if len(of(all, id)) == 0 {
				return false
			}
		}
		return true
	})
	for id, text := range want {
		r := of(all, id)[0].Result
		is.Equal(r.Status.String()+" "+r.Message, text)
	}
}

// A target that hangs takes its own polls only, and no more than its share.
func TestWorkerSlowTarget(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	var now, most atomic.Int64
	hang := func(ctx context.Context, target events.Target) pollers.Finding {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-ctx.Done()
		return pollers.Finding{Reading: pollers.Missing(target), Err: ctx.Err()}
	}
	w, _ := f.worker(pollers.Config{Timeout: 500 * time.Millisecond, Concurrency: 20, Kinds: pollers.Kinds{"SLOW": hang}})
	fast := serve(t, text(okDocument))
	for i := range 40 {
		f.register(events.Registration{ID: fmt.Sprintf("slow-%d", i), URL: quoted("slow://target/"), Interval: events.Duration(100 * time.Millisecond)})
	}
	f.register(events.Registration{ID: "fast", URL: quoted(fast.URL), Interval: events.Duration(20 * time.Millisecond)})
	all := f.wait(soon, func(all []bus.Incoming) bool {
		slow := len(all) - len(of(all, "fast"))
		return len(of(all, "fast")) >= 50 && slow >= 40
	})
	for _, r := range all {
		if r.Check != "fast" {
			is.Equal(r.Result.Message, "timeout connecting to slow://target/")
		}
	}
	is.Equal(most.Load(), int64(16))
	is.True(w.Stats().Dropped > 0) // counted
	f.growing()
}

// An interrupted poll says nothing about its check.
func TestWorkerStopsWithoutFalseAlarm(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	w, stop := f.worker(pollers.Config{})
	begun := make(chan struct{}, 100)
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	})
	f.register(events.Registration{ID: "c", URL: quoted(s.URL), Interval: never})
	receive(t, begun, "the poll begins")
	start := time.Now()
	stop()
	is.True(time.Since(start) < 3*time.Second) // does not wait for what it polls
	is.Equal(w.Stats().Discarded, uint64(1))
	next, _ := f.worker(pollers.Config{Name: "w2"})
	receive(t, begun, "the next one polls it at once")
	is.Equal(len(f.wait(soon, func([]bus.Incoming) bool { return true })), 0)
	is.Equal(next.Stats().Checks, 1)
}

// tally counts polls at the target, by who asks and for what.
type tally struct {
	mu   sync.Mutex
	last map[string]time.Time // poll of a check, by path
	gap  map[string]time.Duration
	by   map[string]map[string]time.Time // worker, path
	all  map[string]int                  // polls, by worker
}

func newTally() *tally {
	c := &tally{last: map[string]time.Time{}}
	c.reset()
	return c
}

func (c *tally) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, path := time.Now(), r.URL.Path
	if last, ok := c.last[path]; ok {
		c.gap[path] = max(c.gap[path], now.Sub(last))
	}
	c.last[path] = now
	name := strings.TrimPrefix(r.UserAgent(), "megaphone/")
	if c.by[name] == nil {
		c.by[name] = map[string]time.Time{}
	}
	c.by[name][path] = now
	c.all[name]++
	io.WriteString(w, okDocument)
}

func (c *tally) share(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.by[name])
}

func (c *tally) total(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[name]
}

// reset forgets what was counted, but not when each check was polled last.
func (c *tally) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gap, c.by, c.all = map[string]time.Duration{}, map[string]map[string]time.Time{}, map[string]int{}
}

// Two workers share the checks of a pool; when one is cut off from the bus, it
// stops to poll, and the other goes on with all within a lease and a second.
func TestWorkersShareAndTakeOver(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	const checks = 100
	interval := 200 * time.Millisecond
	count := newTally()
	s := serve(t, count.ServeHTTP)
	for i := range checks {
		f.register(events.Registration{ID: fmt.Sprintf("c%d", i), URL: quoted(fmt.Sprintf("%s/c%d", s.URL, i)), Interval: events.Duration(interval)})
	}
	f.worker(pollers.Config{Name: "a", Version: "a"})
	link := newLink(t, f.server)
	cut, _ := f.workerAt(link.url(), pollers.Config{Name: "b", Version: "b"})
	half := func(n int) bool { return n > checks/4 && n < checks*3/4 }
	f.wait(2*soon, func([]bus.Incoming) bool { return half(count.share("b")) && cut.Stats().Checks > checks/4 })
	count.reset()
	f.wait(soon, func([]bus.Incoming) bool { return half(count.share("a")) && half(count.share("b")) })
	count.reset()

	link.cut()
	f.wait(2*soon, func([]bus.Incoming) bool { return count.share("a") == checks })
	settled := time.Now()
	f.wait(soon, func([]bus.Incoming) bool { return count.total("a") > 8*checks }) // look on for a while
	count.mu.Lock()
	defer count.mu.Unlock()
	longest := time.Duration(0)
	for _, gap := range count.gap {
		longest = max(longest, gap)
	}
	t.Logf("longest pause of a check: %s", longest)
	is.Equal(len(count.last), checks)
	is.True(longest < bus.LeaseTTL+time.Second+interval)
	is.Equal(cut.Stats().Checks, 0) // it knows that it holds nothing
	for path, at := range count.by["b"] {
		is.True(at.Before(settled)) // the one cut off polls no more
		is.True(count.by["a"][path].After(at))
	}
	f.growing()
}

// After a restart of the bus everything goes on by itself.
func TestWorkerOutlivesTheBus(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	f := newFieldOn(t, s)
	w, _ := f.worker(pollers.Config{})
	target := serve(t, text(okDocument))
	f.register(events.Registration{ID: "c", URL: quoted(target.URL), Interval: events.Duration(50 * time.Millisecond)})
	f.wait(soon, func(all []bus.Incoming) bool { return len(all) > 5 })
	s.Close()
	bustest.StartIn(t, dir, strings.TrimPrefix(s.URL(), "nats://"))
	restart := time.Now()
	before := len(f.wait(soon, func([]bus.Incoming) bool { return true }))
	all := f.wait(2*soon, func(all []bus.Incoming) bool { return len(all) > before+5 })
	t.Logf("polled again %s after the restart", time.Since(restart))
	is.Equal(all[len(all)-1].Result.Status, events.OK)
	is.Equal(w.Stats().Checks, 1)
	f.growing()
}

// link is a way to the bus that can be cut as a broken network is: nothing
// passes any more, and nobody is told.
type link struct {
	tb       testing.TB
	server   *server.Server
	listener net.Listener
	severed  chan struct{}
	cut      func()
}

func newLink(tb testing.TB, s *server.Server) *link {
	l := &link{tb: tb, server: s, severed: make(chan struct{})}
	l.cut = sync.OnceFunc(func() { close(l.severed) })
	var err error
	l.listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	var wg sync.WaitGroup
	end := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := l.listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { l.pass(c, end) })
		}
	})
	tb.Cleanup(func() { l.listener.Close(); close(end); wg.Wait() })
	return l
}

// pass copies both ways until either side or the test ends.
func (l *link) pass(client net.Conn, end <-chan struct{}) {
	defer client.Close()
	up, err := net.Dial("tcp", strings.TrimPrefix(l.server.URL(), "nats://"))
	if err != nil {
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	closed := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, up}, {up, client}} {
		wg.Go(func() { io.Copy(way[1], valve{way[0], l.severed}); closed <- struct{}{} })
	}
	select {
	case <-closed:
	case <-end:
	}
	client.Close()
	up.Close()
}

// valve reads until it is severed; from then on it swallows.
type valve struct {
	net.Conn
	severed <-chan struct{}
}

func (v valve) Read(p []byte) (int, error) {
	for {
		n, err := v.Conn.Read(p)
		select {
		case <-v.severed:
			if err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

func (l *link) url() string { return "nats://" + l.listener.Addr().String() }
