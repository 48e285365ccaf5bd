package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"
)

// pollCount counts, at the target, who is polled when.
type pollCount struct {
	mu       sync.Mutex
	last     map[string]time.Time
	longest  time.Duration  // between two polls of a check
	polls    map[string]int // by check
	open     map[string]int // polls of a check under way
	overlaps int            // polls that began while another of the same check was under way
}

func (c *pollCount) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.begin(r.URL.Path)
	time.Sleep(20 * time.Millisecond) // what it takes to answer; else overlaps would hardly show
	c.mu.Lock()
	c.open[r.URL.Path]--
	c.mu.Unlock()
	fmt.Fprint(w, `{"status":"OK","message":"fine"}`)
}

func (c *pollCount) begin(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if last, ok := c.last[path]; ok {
		c.longest = max(c.longest, now.Sub(last))
	}
	c.last[path] = now
	c.polls[path]++
	if c.open[path]++; c.open[path] > 1 {
		c.overlaps++
	}
}

// reset begins to count anew, but for the time of each last poll.
func (c *pollCount) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest, c.polls, c.overlaps = 0, map[string]int{}, 0
}

// least is how often the check was polled that was polled least often.
func (c *pollCount) least(checks int) (least int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	least = 1 << 30
	for i := range checks {
		least = min(least, c.polls[fmt.Sprintf("/c%d", i)])
	}
	return least
}

// owners is how many partitions of a pool each worker holds, as the leases say.
func (z *zoo) owners(pool string) map[string]int {
	z.t.Helper()
	kv, err := z.conn.JetStream().KeyValue(z.t.Context(), bus.BucketLeases)
	if err != nil {
		z.t.Fatal(err)
	}
	w, err := kv.Watch(z.t.Context(), "w."+events.Token(pool)+".*", jetstream.IgnoreDeletes())
	if err != nil {
		z.t.Fatal(err)
	}
	defer w.Stop()
	out := map[string]int{}
	for e := range w.Updates() {
		if e == nil { // all that is there
			break
		}
		var lease struct{ Name string }
		if err := json.Unmarshal(e.Value(), &lease); err != nil {
			z.t.Fatal(err)
		}
		out[lease.Name]++
	}
	return out
}

// even reports whether all parts are within 10 % of an even one.
func even(parts map[string]int) bool {
	all := 0
	for _, n := range parts {
		all += n
	}
	mean := float64(all) / float64(len(parts))
	for _, n := range parts {
		if float64(n) < 0.9*mean || float64(n) > 1.1*mean {
			return false
		}
	}
	return true
}

// Workers as processes, with kill -9 and SIGSTOP, and polls counted at the target:
// 1, 2 and 4 share the work within 10 % of even, no check is polled by two at the
// same time, and none goes without for longer than a lease and its interval.
func TestWorkersUnderAttack(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	z := newZoo(t)
	z.role("aggregator", "--host", "a1")
	gateway := z.role("gateway", "--host", "g1", "--listen", "127.0.0.1", "--port", "0")
	const (
		checks   = 1600
		interval = 4 * time.Second
	)
	count := &pollCount{last: map[string]time.Time{}, open: map[string]int{}}
	count.reset()
	target := newHTTPServer(t, count)
	var wg sync.WaitGroup
	places := make(chan struct{}, 8)
	for i := range checks {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			r := events.Registration{ID: fmt.Sprintf("c%d", i), Host: "web01", Pool: events.DefaultPool, Interval: events.Duration(interval), URL: []byte(fmt.Sprintf(`"%s/c%d"`, target, i))}
			if _, err := z.conn.Register(t.Context(), r); err != nil {
				t.Errorf("register: %v", err)
			}
		})
	}
	wg.Wait()
	beats, err := z.conn.Heartbeats("poller", nil)
	is.NoErr(err)
	defer beats.Close()
	shared := func(n int) {
		t.Helper()
		eventually(t, 60*time.Second, fmt.Sprintf("%d share the work", n), func() error {
			var parts, has []int
			for _, b := range beats.Live() {
				if b.Work != nil && b.Work.Partitions[events.DefaultPool] > 0 {
					parts, has = append(parts, b.Work.Partitions[events.DefaultPool]), append(has, b.Work.Checks)
				}
			}
			if len(parts) != n {
				return fmt.Errorf("partitions %v", parts)
			}
			for i := range parts {
				even := float64(checks) / float64(n)
				if parts[i] < events.Partitions/n || parts[i] > events.Partitions/n+1 || float64(has[i]) < 0.9*even || float64(has[i]) > 1.1*even {
					return fmt.Errorf("partitions %v, checks %v", parts, has)
				}
			}
			t.Logf("%d workers: partitions %v, checks %v", n, parts, has)
			return nil
		})
	}
	round := func(n int) {
		t.Helper()
		count.reset()
		eventually(t, 90*time.Second, "each check is polled", func() error {
			if least := count.least(checks); least < n {
				return fmt.Errorf("%d of %d times", least, n)
			}
			return nil
		})
	}
	// joined waits until n workers have even parts, for two lease times at most, and
	// then looks how many polls each makes in a round.
	joined := func(n int) {
		t.Helper()
		began := time.Now()
		eventually(t, 60*time.Second, fmt.Sprintf("%d share the partitions", n), func() error {
			if parts := z.owners(events.DefaultPool); len(parts) != n || !even(parts) {
				return fmt.Errorf("%v", parts)
			}
			return nil
		})
		took := time.Since(began)
		is.True(took < 2*bus.LeaseTTL)
		before := z.results()
		round(1)
		polls := map[string]int{}
		for _, r := range z.polled(before) {
			polls[r.Worker]++
		}
		t.Logf("%d workers share after %s; polls in a round %v", n, took.Round(time.Millisecond), slices.Collect(maps.Values(polls)))
		is.Equal(len(polls), n)
		is.True(even(polls))
		shared(n)
	}
	calm := func(what string, most time.Duration) {
		t.Helper()
		count.mu.Lock()
		defer count.mu.Unlock()
		t.Logf("%s: a check was without a poll for %s at most; %d overlaps", what, count.longest.Round(time.Millisecond), count.overlaps)
		is.True(count.longest < most)
		is.Equal(count.overlaps, 0)
	}
	const slack = 2 * time.Second // of a slow machine
	var workers []*process
	for i := range 4 {
		workers = append(workers, z.role("poller", "--host", fmt.Sprint("p", i)))
		if i != 2 { // 1, 2, 4
			joined(i + 1)
		}
	}
	round(2)
	calm("joining", interval+slack)

	workers[0].Kill()
	round(2)
	calm("kill -9", interval+bus.LeaseTTL+time.Second+slack)
	is.NoErr(workers[1].cmd.Process.Signal(syscall.SIGSTOP))
	round(2)
	is.NoErr(workers[1].cmd.Process.Signal(syscall.SIGCONT))
	shared(3) // it takes part again
	calm("SIGSTOP", interval+bus.LeaseTTL+time.Second+slack)
	workers[2].Stop()
	round(1)
	calm("a graceful end", interval+slack)
	is.True(!strings.Contains(gateway.must("GET", "/hosts/web01/checks", "", 200), `"phase":"stale"`))
}
