package pollers_test

import (
	"fmt"
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
