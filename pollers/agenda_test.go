package pollers

import (
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"
	"pgregory.net/rapid"
)

func testTask(check, target string, interval time.Duration) *task {
	return &task{host: "h", check: check, endpoint: newEndpoint(target, ""), schedule: NewSchedule("h", check, interval), index: -1, failures: -1}
}

func TestAgendaOrder(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{2, 0, 16, 16})
	for i, check := range []string{"c", "a", "b"} {
		a.put(testTask(check, "x", time.Second), []int64{30, 10, 20}[i])
	}
	due, ok := a.next()
	is.True(ok)
	is.Equal(due, int64(10))
	first, _ := a.take(25)
	second, _ := a.take(25)
	is.Equal(first.check+second.check, "ab") // the one due first, first
	third, _ := a.take(100)
	is.Equal(third, nil) // two at once
	_, ok = a.next()
	is.True(!ok) // only the end of a poll helps
	a.fetched(first, 10)
	is.Equal(a.done(first, 40), int64(0))
	third, _ = a.take(100)
	is.Equal(third.check, "c")
}

func TestAgendaTargetLimit(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{10, 10, 1, 1})
	for i, check := range []string{"a", "b", "c"} {
		a.put(testTask(check, "busy", time.Second), int64(i))
	}
	a.put(testTask("other", "idle", time.Second), 3)
	first, _ := a.take(10)
	is.Equal(first.check, "a")
	other, _ := a.take(10)
	is.Equal(other.check, "other") // a busy target does not hold up others
	waiting := a.ports[newEndpoint("busy", "").port].waiting
	is.Equal(len(waiting), 2)
	a.remove(waiting[0])
	a.fetched(first, 10)
	next, _ := a.take(10)
	is.Equal(next.check, "c") // in turn; what was removed is skipped
	a.fetched(next, 10)
	a.fetched(other, 10)
	is.Equal(len(a.ports)+len(a.hosts), 0) // nothing is kept of idle targets
}

func TestAgendaDropsLatePolls(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{1, 1, 1, 1})
	late := testTask("late", "x", time.Second)
	start := late.schedule.Next(0)
	a.put(late, start)
	got, dropped := a.take(start + 3500)
	is.Equal(dropped, int64(3))
	is.Equal(got.key, start+3000) // the last one that is due is polled
	a.fetched(got, start+5100)
	is.Equal(a.done(got, start+5100), int64(2)) // fell into the poll
	is.Equal(got.due, start+6000)
}

func TestAgendaRetriesAFirstFailure(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{1, 1, 1, 1})
	c := testTask("c", "x", time.Hour)
	now := c.schedule.Next(0)
	a.put(c, now)
	var last int64
	for n, pause := range []int64{250, 500, 1000, 2000} {
		got, _ := a.take(now)
		is.True(got.key > last) // keys grow
		last = got.key
		c.failures = n + 1
		a.fetched(got, now)
		a.done(got, now)
		is.Equal(c.due, now+pause)
		now = c.due
	}
	got, _ := a.take(now)
	c.failures = -1 // it answered
	a.fetched(got, now)
	a.done(got, now)
	is.Equal(c.due, c.schedule.Next(now))
}

// A clock that steps back neither silences checks nor repeats a key.
func TestAgendaClockStepsBack(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{1, 1, 1, 1})
	c := testTask("c", "x", time.Second)
	due := c.schedule.Next(1e9)
	a.put(c, due)
	got, _ := a.take(due)
	a.fetched(got, due)
	a.done(got, due)
	back := due - 3_600_000
	a.rebase(back)
	is.Equal(c.due, c.schedule.Next(back))
	again, _ := a.take(c.due)
	is.Equal(again.key, due+1)
}

// Nor does it silence what is being polled then, or waits for that.
func TestAgendaClockStepsBackMeanwhile(t *testing.T) {
	for name, l := range map[string]limits{
		"a port": {quick: 3, slow: 3, perHost: 3, perPort: 1},
		"a host": {quick: 3, slow: 3, perHost: 1, perPort: 3},
		"a slow": {quick: 3, slow: 1, perHost: 3, perPort: 3},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			a := newAgenda(l)
			c, waits := testTask("c", "x", time.Second), testTask("w", "x", time.Second)
			c.slow, waits.slow = l.slow == 1, l.slow == 1
			now := int64(1e9)
			a.put(c, now-1)
			a.put(waits, now)
			polled, _ := a.take(now)
			is.Equal(polled, c)
			none, _ := a.take(now)
			is.Equal(none, nil)
			now -= 3_600_000
			a.rebase(now)
			now += 10
			a.fetched(c, now)
			a.done(c, now)
			is.True(c.due <= now+2000) // not in an hour
			next, _ := a.take(now)
			is.Equal(next, waits)
			is.True(waits.due <= now)
		})
	}
}

// A host has its limit, whatever is polled there; each port half of it.
func TestAgendaHostLimit(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{10, 10, 2, 1})
	for i, port := range []string{"1", "1", "2", "3", "1"} {
		c := testTask(fmt.Sprint(i), "h", time.Hour)
		c.endpoint = newEndpoint("h", port)
		a.put(c, int64(i))
	}
	first, _ := a.take(10)
	second, _ := a.take(10)
	is.Equal(first.check+second.check, "02") // one of each port
	third, _ := a.take(10)
	is.Equal(third, nil) // two of the host
	a.fetched(second, 10)
	third, _ = a.take(10)
	is.Equal(third.check, "3") // those of the busy port hold up nobody
	a.fetched(first, 10)
	next, _ := a.take(10)
	is.Equal(next.check, "1")
}

// What is removed holds up nobody, wherever it waits, and nothing is kept of it.
func TestAgendaRemovesWhatWaits(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{10, 10, 1, 1})
	var all []*task
	for i, port := range []string{"1", "2", "1", "1"} {
		c := testTask(fmt.Sprint(i), "h", time.Hour)
		c.endpoint = newEndpoint("h", port)
		a.put(c, int64(i))
		all = append(all, c)
	}
	next := func() *task { c, _ := a.take(10); return c }
	is.Equal(next(), all[0])
	is.Equal(next(), nil) // the others wait: one for the host, two for the port
	a.fetched(all[0], 10)
	is.Equal(next(), all[1])
	is.Equal(next(), nil) // the first of the two was let in, and waits for the host by now
	a.remove(all[2])
	a.fetched(all[1], 10)
	is.Equal(next(), all[3])
	a.fetched(all[3], 10)
	is.Equal(len(a.ports)+len(a.hosts), 0)

	for i := range 3 {
		all[i] = testTask(fmt.Sprint("x", i), "h", time.Hour)
		all[i].endpoint = newEndpoint("h", fmt.Sprint(i))
		a.put(all[i], int64(i))
	}
	is.Equal(next(), all[0])
	is.Equal(next(), nil)
	a.fetched(all[0], 10)
	a.remove(all[1]) // which was let in; the last one is in its place
	a.remove(all[2])
	is.Equal(len(a.ports)+len(a.hosts), 0)
}

// Slow polls leave the places of quick ones, and begin in their own from then on.
func TestAgendaSlowPolls(t *testing.T) {
	is := is.New(t)
	a := newAgenda(limits{quick: 1, slow: 2, perHost: 9, perPort: 9})
	now := int64(1e9)
	hour := func(check string) *task { return testTask(check, check, time.Hour) }
	for i, check := range []string{"a", "b", "c"} {
		a.put(hour(check), now+int64(i))
	}
	first, _ := a.take(now + 5)
	is.Equal(first.check, "a")
	none, _ := a.take(now + 6)
	is.Equal(none, nil)
	due, ok := a.next()
	is.True(ok)
	is.Equal(due, now+5+1000) // then it counts as slow
	second, _ := a.take(due)
	is.Equal(second.check, "b")
	third, _ := a.take(due + 1000)
	is.Equal(third.check, "c")
	is.Equal(a.running+a.slowly, 3)
	due, ok = a.next()
	is.True(!ok && due == 0) // nobody waits

	a.fetched(first, now+3000)
	a.done(first, now+3000)
	is.True(first.slow)
	a.put(hour("quick"), now+3000)
	none, _ = a.take(now + 3010) // c is slow by now, in the place of a
	is.Equal(none.check, "quick")
	a.remove(first)
	again := first.again()
	again.slow = true
	a.put(again, now+3010)
	a.fetched(none, now+3011)
	a.done(none, now+3011)
	none, _ = a.take(now + 3012)
	is.Equal(none, nil) // what was slow waits for a slow one to end
	a.fetched(second, now+3013)
	a.done(second, now+3013)
	back, _ := a.take(now + 3014)
	is.Equal(back, again)
	is.Equal(a.slowly, 2)
}

// Whatever happens, limits hold, nothing gets lost, and keys grow.
func TestAgendaProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(most int, what string) int { return rapid.IntRange(1, most).Draw(t, what) }
		a := newAgenda(limits{draw(4, "quick"), draw(3, "slow"), draw(4, "per host"), draw(3, "per port")})
		keys := map[*task]int64{}
		var all, running []*task
		for i := range draw(16, "tasks") {
			c := testTask(fmt.Sprint(i), fmt.Sprint(i%2), time.Duration(draw(5000, "interval"))*time.Millisecond)
			c.endpoint = newEndpoint(fmt.Sprint(i%2), fmt.Sprint(i%4))
			a.put(c, c.schedule.Next(0))
			all = append(all, c)
		}
		now, removed := int64(0), 0
		for range draw(150, "steps") {
			now += rapid.Int64Range(0, 2500).Draw(t, "passes")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				if len(running) > 0 {
					i := rapid.IntRange(0, len(running)-1).Draw(t, "which")
					a.fetched(running[i], now)
					a.done(running[i], now)
					running = append(running[:i], running[i+1:]...)
				}
				continue
			case 2:
				if c := all[rapid.IntRange(0, len(all)-1).Draw(t, "gone")]; !c.removed {
					a.remove(c)
					removed++
				}
				continue
			}
			c, _ := a.take(now)
			if c == nil {
				continue
			}
			if c.removed || c.key <= keys[c] || c.due > now {
				t.Fatalf("key %d after %d, due %d at %d, removed %t", c.key, keys[c], c.due, now, c.removed)
			}
			keys[c] = c.key
			running = append(running, c)
			checkLimits(t, a, running)
		}
		// Once everything has ended, all that was not removed is polled again.
		for _, c := range running {
			a.fetched(c, now)
			a.done(c, now)
		}
		polled := map[*task]bool{}
		for now += 10_000; len(polled) < len(all)-removed; {
			c, _ := a.take(now)
			if c == nil {
				t.Fatalf("%d of %d are polled", len(polled), len(all)-removed)
			}
			polled[c] = true
			a.fetched(c, now)
			a.done(c, now)
		}
		if len(a.ports)+len(a.hosts) > 0 {
			t.Fatal("idle targets are kept")
		}
	})
}

func checkLimits(t *rapid.T, a *agenda, running []*task) {
	ports, hosts, slow := map[uint64]int{}, map[uint64]int{}, 0
	for _, c := range running {
		ports[c.endpoint.port]++
		hosts[c.endpoint.host]++
		if ports[c.endpoint.port] > a.perPort || hosts[c.endpoint.host] > a.perHost {
			t.Fatal("too many polls of one target")
		}
		if c.slowly {
			slow++
		}
	}
	if slow > a.slow || slow != a.slowly || len(running)-slow > a.quick || len(running)-slow != a.running {
		t.Fatal("too many polls")
	}
}
