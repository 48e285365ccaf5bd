package pollers

import (
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"
	"pgregory.net/rapid"
)

func testTask(check, endpoint string, interval time.Duration) *task {
	return &task{host: "h", check: check, endpoint: endpoint, schedule: NewSchedule("h", check, interval), index: -1, failures: -1}
}

func TestAgendaOrder(t *testing.T) {
	is := is.New(t)
	a := newAgenda(2, 16)
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
	a.fetched(first)
	is.Equal(a.done(first, 40), int64(0))
	third, _ = a.take(100)
	is.Equal(third.check, "c")
}

func TestAgendaTargetLimit(t *testing.T) {
	is := is.New(t)
	a := newAgenda(10, 1)
	for i, check := range []string{"a", "b", "c"} {
		a.put(testTask(check, "busy", time.Second), int64(i))
	}
	a.put(testTask("other", "idle", time.Second), 3)
	first, _ := a.take(10)
	is.Equal(first.check, "a")
	other, _ := a.take(10)
	is.Equal(other.check, "other") // a busy target does not hold up others
	waiting := a.busy["busy"].waiting
	is.Equal(len(waiting), 2)
	a.remove(waiting[0])
	a.fetched(first)
	next, _ := a.take(10)
	is.Equal(next.check, "c") // in turn; what was removed is skipped
	a.fetched(next)
	a.fetched(other)
	is.Equal(len(a.busy), 0) // nothing is kept of idle targets
}

func TestAgendaDropsLatePolls(t *testing.T) {
	is := is.New(t)
	a := newAgenda(1, 1)
	late := testTask("late", "x", time.Second)
	start := late.schedule.Next(0)
	a.put(late, start)
	got, dropped := a.take(start + 3500)
	is.Equal(dropped, int64(3))
	is.Equal(got.key, start+3000) // the last one that is due is polled
	a.fetched(got)
	is.Equal(a.done(got, start+5100), int64(2)) // fell into the poll
	is.Equal(got.due, start+6000)
}

func TestAgendaRetriesAFirstFailure(t *testing.T) {
	is := is.New(t)
	a := newAgenda(1, 1)
	c := testTask("c", "x", time.Hour)
	now := c.schedule.Next(0)
	a.put(c, now)
	var last int64
	for n, pause := range []int64{250, 500, 1000, 2000} {
		got, _ := a.take(now)
		is.True(got.key > last) // keys grow
		last = got.key
		c.failures = n + 1
		a.fetched(got)
		a.done(got, now)
		is.Equal(c.due, now+pause)
		now = c.due
	}
	got, _ := a.take(now)
	c.failures = -1 // it answered
	a.fetched(got)
	a.done(got, now)
	is.Equal(c.due, c.schedule.Next(now))
}

// A clock that steps back neither silences checks nor repeats a key.
func TestAgendaClockStepsBack(t *testing.T) {
	is := is.New(t)
	a := newAgenda(1, 1)
	c := testTask("c", "x", time.Second)
	due := c.schedule.Next(1e9)
	a.put(c, due)
	got, _ := a.take(due)
	a.fetched(got)
	a.done(got, due)
	back := due - 3_600_000
	a.rebase(back)
	is.Equal(c.due, c.schedule.Next(back))
	again, _ := a.take(c.due)
	is.Equal(again.key, due+1)
}

// Whatever happens, limits hold, nothing gets lost, and keys grow.
func TestAgendaProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, perTarget := rapid.IntRange(1, 4).Draw(t, "limit"), rapid.IntRange(1, 3).Draw(t, "per target")
		a := newAgenda(limit, perTarget)
		keys := map[*task]int64{}
		var all, running []*task
		for i := range rapid.IntRange(1, 12).Draw(t, "tasks") {
			c := testTask(fmt.Sprint(i), fmt.Sprint(i%3), time.Duration(rapid.IntRange(1, 50).Draw(t, "interval"))*time.Millisecond)
			a.put(c, c.schedule.Next(0))
			all = append(all, c)
		}
		now := int64(0)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += rapid.Int64Range(0, 30).Draw(t, "passes")
			if len(running) > 0 && rapid.Bool().Draw(t, "ends") {
				i := rapid.IntRange(0, len(running)-1).Draw(t, "which")
				a.fetched(running[i])
				a.done(running[i], now)
				running = append(running[:i], running[i+1:]...)
				continue
			}
			c, _ := a.take(now)
			if c == nil {
				continue
			}
			if c.key <= keys[c] || c.due > now {
				t.Fatalf("key %d after %d, due %d at %d", c.key, keys[c], c.due, now)
			}
			keys[c] = c.key
			running = append(running, c)
			checkLimits(t, a, running)
		}
		count := len(a.due) + len(running)
		for _, q := range a.busy {
			count += len(q.waiting)
		}
		if count != len(all) {
			t.Fatalf("%d of %d tasks are left", count, len(all))
		}
	})
}

func checkLimits(t *rapid.T, a *agenda, running []*task) {
	per := map[string]int{}
	for _, c := range running {
		if per[c.endpoint]++; per[c.endpoint] > a.perTarget {
			t.Fatal("too many polls of one target")
		}
	}
	if len(running) > a.limit {
		t.Fatal("too many polls")
	}
}
