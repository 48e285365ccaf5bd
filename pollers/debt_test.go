package pollers

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestHandedOver(t *testing.T) {
	const now = 1_000_000
	died := time.UnixMilli(now - 3000)
	for name, tt := range map[string]struct {
		lease bus.Lease
		want  handover
	}{
		"nobody had it":                        {},
		"a mark of nobody known":               {lease: bus.Lease{Mark: "5 5"}},
		"it died":                              {lease: bus.Lease{Previous: died}, want: handover{now - 4000, now - 4000}},
		"it died by a clock that is ahead":     {lease: bus.Lease{Previous: time.UnixMilli(now + 3_600_000)}, want: handover{now - 1000, now + 3_599_000}},
		"it died and owed a first poll":        {lease: bus.Lease{Previous: died, Mark: "996500 17"}, want: handover{now - 4000, 17}},
		"it died and owed one that was due":    {lease: bus.Lease{Previous: died, Mark: "17 996500"}, want: handover{17, now - 4000}},
		"it died before it could poll":         {lease: bus.Lease{Previous: died, Mark: "0 0"}},
		"a mark of a margin":                   {lease: bus.Lease{Previous: died, Mark: "5000"}, want: handover{5000, 4000}},
		"a mark that cannot be read":           {lease: bus.Lease{Previous: died, Mark: "x"}},
		"one whose second half cannot be":      {lease: bus.Lease{Previous: died, Mark: "17 x"}},
		"it left":                              {lease: bus.Lease{Previous: died, Note: "999990"}, want: handover{now - 10, now - 1010}},
		"it left with a clock ahead":           {lease: bus.Lease{Note: "2000000"}, want: handover{now + 1000, now}},
		"it left and owed a first poll":        {lease: bus.Lease{Previous: died, Note: "999990 17"}, want: handover{now - 10, 17}},
		"what it left counts more than a mark": {lease: bus.Lease{Previous: died, Note: "999990", Mark: "5 5"}, want: handover{now - 10, now - 1010}},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			got := handedOver(tt.lease, now)
			is.Equal(got, tt.want)
			again, ok := readHandover(got.text())
			is.True(ok)
			is.Equal(again, got)
		})
	}
}

// Whenever a holder dies, what it had not polled by then is polled at once by the
// next one, and what was polled is not once nothing is owed.
func TestWorkerMarksWhatItOwes(t *testing.T) {
	is := is.New(t)
	const checks = 20
	w := New(Config{Interval: time.Hour})
	defer w.http.Close()
	old := time.Now().Add(-3 * time.Hour)
	var part int
	for i, n := 0, 0; n < checks; i++ { // of one partition
		e := bus.Entry{Position: uint64(i + 1), Stored: old, Registration: events.Registration{
			Host: "web01", ID: fmt.Sprintf("c%d", i), URL: json.RawMessage(fmt.Sprintf(`"http://10.0.0.%d/"`, n)), Pool: events.DefaultPool,
		}}
		if s, at := NewSchedule("web01", e.Registration.ID, time.Hour), time.Now().UnixMilli(); s.Last(at-5000) != s.Last(at+60_000) {
			continue // it is due by itself about now
		}
		p := events.PoolPartition(events.DefaultPool, "web01", e.Registration.ID)
		if n == 0 {
			part = p
		}
		if p == part {
			w.register(e)
			n++
		}
	}
	now := func() int64 { return time.Now().UnixMilli() }
	mark := func(l bus.Lease) string { return w.mark(events.DefaultPool, l) }
	open := func(l bus.Lease) {
		s := w.open(t.Context(), events.DefaultPool, l)
		t.Cleanup(s.held.cancel)
	}
	lose := func() {
		s := w.slots[slotKey{events.DefaultPool, part}]
		for x := range s.tasks {
			w.agenda.remove(x)
		}
		s.held = nil
	}
	begin := func(n int) (begun []*task) {
		for range n {
			x, _ := w.agenda.take(now())
			if x == nil {
				break
			}
			begun = append(begun, x)
		}
		return begun
	}
	end := func(all []*task) {
		for _, x := range all {
			w.agenda.fetched(x, now())
			w.ended(x, now())
		}
	}
	waiting := func() (n int) {
		for _, x := range w.agenda.due {
			if x.at <= now() {
				n++
			}
		}
		return n
	}
	after := func(mark string) bus.Lease { // one lease after a holder whose last renewal was just now
		return bus.Lease{Partition: part, Previous: time.Now(), Mark: mark}
	}

	first := bus.Lease{Partition: part}
	is.Equal(mark(first), "0 0") // nothing polled yet: at the acquisition, too
	open(first)
	is.Equal(waiting(), checks)
	end(begin(5))
	under := begin(5) // no result yet
	is.True(mark(first) != "")

	second := after(mark(first))
	lose()
	end(under)
	is.Equal(mark(second), handedOver(second, now()).text()) // before it has begun it tells what it was told
	open(second)
	is.Equal(waiting(), checks) // a poll too many, but none is missing

	end(begin(checks - 1))
	last := begin(1)
	is.True(mark(second) != "")
	last[0].interrupted = true // by a lease that was not valid for a moment
	end(last)
	is.True(mark(second) != "")                             // still owed
	is.True(last[0].due < now()+time.Minute.Milliseconds()) // and made again soon
	w.mu.Lock()
	last[0].interrupted = false
	w.mu.Unlock()
	w.forget(name{last[0].host, last[0].check})
	is.Equal(mark(second), "") // all others have been polled
	again := after(mark(second))
	lose()
	open(again)
	is.Equal(waiting(), 0)

	// One that was registered under the lease is owed, whenever that was.
	w.register(bus.Entry{Position: 1e6, Stored: old, Registration: events.Registration{Host: "web01", ID: last[0].check, URL: json.RawMessage(`"http://10.0.0.1/"`), Pool: events.DefaultPool}})
	known, ok := readHandover(mark(second))
	is.True(ok)
	is.Equal(known.known, old.UnixMilli()-1)
	end(begin(1))
	is.Equal(mark(second), "")

	// Those that were due and late are owed, as long as one of them is.
	lose()
	open(bus.Lease{Partition: part, Previous: time.Now().Add(-2 * time.Hour)})
	is.Equal(waiting(), checks)
	m, ok := readHandover(mark(second))
	is.True(ok)
	is.True(m.polled < now()-time.Minute.Milliseconds())
	end(begin(checks))
	is.Equal(mark(second), "")

	// So is what has become due since, where the worker cannot keep up.
	w.agenda.hurry(w.agenda.due[0].task, now()-5000)
	m, ok = readHandover(mark(second))
	is.True(ok)
	is.True(m.polled < now()-5000)

	s := w.slots[slotKey{events.DefaultPool, part}]
	is.Equal(s.due, len(s.tasks)) // whatever became of them
	lose()
	is.Equal(s.due, 0)
}

// So is a poll that was due for a while, and waits for a busy port or is under way.
func TestWorkerMarksWhatWaits(t *testing.T) {
	is := is.New(t)
	w := New(Config{Interval: time.Hour, PerHost: 1})
	defer w.http.Close()
	part := -1
	for i, n := 0, 0; n < 2; i++ { // of one partition
		r := events.Registration{Host: "web01", ID: fmt.Sprintf("c%d", i), URL: json.RawMessage(`"http://10.0.0.1/"`), Pool: events.DefaultPool}
		if p := events.PoolPartition(r.Pool, r.Host, r.ID); part < 0 || p == part {
			part = p
			w.register(bus.Entry{Registration: r, Position: uint64(i + 1), Stored: time.Now().Add(-3 * time.Hour)})
			n++
		}
	}
	now := time.Now().UnixMilli()
	lease := bus.Lease{Partition: part, Note: handover{polled: now, known: now}.text()}
	s := w.open(t.Context(), events.DefaultPool, lease)
	defer s.held.cancel()
	marked := func() int64 {
		h, _ := readHandover(w.mark(events.DefaultPool, lease))
		return h.polled
	}
	is.Equal(marked(), int64(0)) // nothing
	late := now - 5000
	for x := range s.tasks {
		w.agenda.hurry(x, late)
	}
	polled, _ := w.agenda.take(now)
	is.True(polled != nil)
	none, _ := w.agenda.take(now) // it waits
	is.Equal(none, nil)
	is.Equal(len(w.agenda.due), 0)
	is.Equal(s.due, 0)
	is.Equal(marked(), late-1)
	w.agenda.fetched(polled, now)
	w.ended(polled, now)
	waited, _ := w.agenda.take(now)
	is.Equal(marked(), late-1)
	w.agenda.fetched(waited, now)
	w.ended(waited, now)
	is.Equal(s.due, 2)
	is.Equal(marked(), int64(0))

	// A first poll is told as such: for it nobody polls the others twice.
	w.register(bus.Entry{Registration: events.Registration{Host: "web01", ID: waited.check, URL: json.RawMessage(`"http://10.0.0.1/"`), Pool: events.DefaultPool}, Position: 1e6, Stored: time.Now()})
	first, _ := w.agenda.take(time.Now().UnixMilli())
	is.Equal(first.owed, firstPoll)
	first.due = late
	is.True(marked() >= now)
}
