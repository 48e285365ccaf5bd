package pollers_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// A worker that joins, and one that leaves, take over and hand over without a
// double and without a missing poll: each due time of each check is polled once.
func TestWorkersHandOverExactly(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	const checks = 200
	interval := 4 * time.Second
	count := newTally()
	s := serve(t, count.ServeHTTP)
	for i := range checks {
		f.register(events.Registration{ID: fmt.Sprintf("c%d", i), URL: quoted(fmt.Sprintf("%s/c%d", s.URL, i)), Interval: events.Duration(interval)})
	}
	rounds := func(n int) func([]bus.Incoming) bool {
		from := len(f.wait(soon, func([]bus.Incoming) bool { return true }))
		return func(all []bus.Incoming) bool { return len(all) >= from+n*checks }
	}
	a, _ := f.worker(pollers.Config{Name: "a", Version: "a"})
	f.wait(2*soon, rounds(1))
	joined := time.Now()
	b, stop := f.worker(pollers.Config{Name: "b", Version: "b"})
	f.wait(2*soon, func([]bus.Incoming) bool { return b.Stats().Checks > checks/3 })
	t.Logf("the second worker has its share after %s", time.Since(joined))
	is.True(time.Since(joined) < 2*bus.LeaseTTL)
	f.wait(2*soon, rounds(1))
	stop()
	all := f.wait(2*soon, rounds(1))

	missing, last := int64(0), map[string]int64{}
	for _, r := range all {
		if was, ok := last[r.Check]; ok && was%interval.Milliseconds() == r.Result.Due%interval.Milliseconds() {
			n := (r.Result.Due-was)/interval.Milliseconds() - 1
			if n < 0 {
				t.Errorf("%s: due %d polled twice", r.Check, r.Result.Due)
			}
			if n > 0 {
				t.Logf("%s: %d missing before due %d, by %s", r.Check, n, r.Result.Due, r.Result.Worker)
			}
			missing += n
		}
		last[r.Check] = r.Result.Due
	}
	is.True(missing <= int64(a.Stats().Dropped+b.Stats().Dropped)) // none but what a slow machine dropped
	is.True(count.total("a")+count.total("b")-len(all) <= 16)      // nothing was polled but not told, but what ends just now
	f.growing()
}

// backlog are more checks than can be polled within seconds by a worker that takes
// its time, each once in an hour; and how many were polled.
type backlog struct {
	*field
	checks int
}

func newBacklog(t *testing.T) backlog {
	b := backlog{newField(t), 600}
	for i := range b.checks {
		b.register(events.Registration{ID: fmt.Sprintf("c%d", i), Host: fmt.Sprintf("web%d", i), URL: quoted("known://web"), Interval: never})
	}
	time.Sleep(1100 * time.Millisecond) // all are known to whoever lives from now on
	return b
}

// config is of a worker whose polls take so long, four at once.
func (b backlog) config(name string, each time.Duration) pollers.Config {
	return pollers.Config{Name: name, Concurrency: 4, Kinds: pollers.Kinds{"known": func(context.Context, events.Target) pollers.Finding {
		time.Sleep(each)
		return pollers.Finding{Reading: pollers.Reading{Status: events.OK}}
	}}}
}

// half returns once a worker has had its leases renewed and works still.
func (b backlog) half(name string) {
	b.tb.Helper()
	all := b.wait(3*soon, func(all []bus.Incoming) bool { return b.by(all, name) >= b.checks/2 })
	if b.polled(all) == b.checks && name == "a" {
		b.tb.Fatal("it has polled all already")
	}
}

func (b backlog) by(all []bus.Incoming, name string) (n int) {
	for _, r := range all {
		if r.Result.Worker == name {
			n++
		}
	}
	return n
}

func (b backlog) polled(all []bus.Incoming) int {
	checks := map[string]bool{}
	for _, r := range all {
		checks[r.Check] = true
	}
	return len(checks)
}

// What a worker had yet to poll when it died is polled by the next one at once, and
// by the one after that if the next one dies of it too.
func TestWorkersTakeOverABacklog(t *testing.T) {
	b := newBacklog(t)
	for _, name := range []string{"a", "b"} {
		link := newLink(t, b.server)
		b.workerAt(link.url(), b.config(name, 30*time.Millisecond))
		if name == "a" {
			b.half(name)
		} else { // not long enough to make up for the first
			b.wait(soon, func(all []bus.Incoming) bool { return b.by(all, name) >= b.checks/3 })
		}
		link.cut()
	}
	b.worker(b.config("c", 0))
	b.wait(2*soon, func(all []bus.Incoming) bool { return b.by(all, "c") >= b.checks/3 && b.polled(all) == b.checks })
}

// So it is where the first one leaves in good order.
func TestWorkersHandOverABacklog(t *testing.T) {
	is := is.New(t)
	b := newBacklog(t)
	_, stop := b.worker(b.config("a", 30*time.Millisecond))
	b.half("a")
	stop()
	b.worker(b.config("b", 0))
	all := b.wait(soon, func(all []bus.Incoming) bool { return b.polled(all) == b.checks })
	is.True(b.by(all, "b") > 0)
}

// First polls that have to wait for their turn have no other check polled twice where
// their worker leaves.
func TestWorkersHandOverABacklogAlone(t *testing.T) {
	const quick, slow = 60, 400
	f := newField(t)
	for i := range quick {
		f.register(events.Registration{ID: fmt.Sprintf("quick%d", i), URL: quoted(fmt.Sprintf("quick://web%d", i)), Interval: events.Duration(2 * time.Second)})
	}
	for i := range slow {
		f.register(events.Registration{ID: fmt.Sprintf("slow%d", i), URL: quoted("slow://web"), Interval: never})
	}
	time.Sleep(1100 * time.Millisecond) // as in newBacklog
	found := pollers.Finding{Reading: pollers.Reading{Status: events.OK}}
	config := func(name string) pollers.Config {
		return pollers.Config{Name: name, PerHost: 2, Kinds: pollers.Kinds{ // one slow poll at a time
			"quick": func(context.Context, events.Target) pollers.Finding { return found },
			"slow": func(context.Context, events.Target) pollers.Finding {
				time.Sleep(100 * time.Millisecond)
				return found
			},
		}}
	}
	// each reports whether a worker has polled all the quick checks so often.
	each := func(worker string, n int) func([]bus.Incoming) bool {
		return func(all []bus.Incoming) bool {
			times := map[string]int{}
			for _, r := range all {
				if r.Result.Worker == worker && strings.HasPrefix(r.Check, "quick") {
					times[r.Check]++
				}
			}
			return len(times) == quick && slices.Min(slices.Collect(maps.Values(times))) >= n
		}
	}
	_, stop := f.worker(config("a"))
	f.wait(2*soon, each("a", 2)) // at once, and when they were due
	stop()
	f.worker(config("b"))
	all := f.wait(2*soon, each("b", 2))
	polled, slowly := map[string]bool{}, 0
	for _, r := range all {
		if strings.HasPrefix(r.Check, "slow") {
			slowly++
			continue
		}
		due := fmt.Sprintf("%s due %d", r.Check, r.Result.Due)
		if polled[due] {
			t.Errorf("%s is polled twice, the second time by %s", due, r.Result.Worker)
		}
		polled[due] = true
	}
	if slowly == slow {
		t.Error("nothing was left to wait for")
	}
}
