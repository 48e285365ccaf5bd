package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"pgregory.net/rapid"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// regs is a registry in memory.
type regs struct {
	checks    map[string]map[string]bus.Entry
	hosts     map[string]events.HostRecord
	overrides map[string]bus.OverrideEntry
}

func newRegs() *regs {
	return &regs{map[string]map[string]bus.Entry{}, map[string]events.HostRecord{}, map[string]bus.OverrideEntry{}}
}

func (r *regs) add(host, id string, position uint64, push bool) {
	reg := events.Registration{Host: host, ID: id, URL: json.RawMessage(`"http://x/"`)}
	if push {
		reg.URL, reg.TTL = nil, events.Duration(time.Minute)
	}
	if r.checks[host] == nil {
		r.checks[host] = map[string]bus.Entry{}
	}
	r.checks[host][id] = bus.Entry{Registration: reg, Position: position}
}

func (r *regs) Check(host, id string) (bus.Entry, bool) { e, ok := r.checks[host][id]; return e, ok }

func (r *regs) HostChecks(host string) (out []bus.Entry) {
	for _, e := range r.checks[host] {
		out = append(out, e)
	}
	return out
}

func (r *regs) Hosts() (out []string) {
	for h := range r.checks {
		out = append(out, h)
	}
	for h := range r.hosts {
		out = append(out, h)
	}
	return out
}

func (r *regs) Host(host string) (events.HostRecord, bool) { h, ok := r.hosts[host]; return h, ok }

func (r *regs) Labels(e bus.Entry) map[string]string { return e.Registration.Labels }

func (r *regs) Override(host, check string) (bus.OverrideEntry, bool) {
	o, ok := r.overrides[host+"/"+check]
	return o, ok
}

// viewOf is a view of one registered check, web01/a.
func viewOf(push bool) (*View, *regs) {
	r := newRegs()
	r.add("web01", "a", 1, push)
	v := NewView(r, 10*time.Second)
	v.RefreshRegistration("", "")
	return v, r
}

func record(number, applied uint64, status events.Status, message string) events.CheckState {
	s := live("web01", "a", 1, status, message, applied)
	s.V, s.Number = events.RecordVersion, number
	return s
}

// polledAt is a poll of web01/a stored at a position.
func polledAt(position uint64, due int64, status events.Status, message string) bus.Incoming {
	now := time.Now()
	return bus.Incoming{
		Host: "web01", Check: "a", Polled: true, Position: position, Stored: now, Observed: now,
		Result: events.Result{Status: status, Message: message, Reg: 1, Lease: 1, Due: due, Document: json.RawMessage(fmt.Sprintf(`{"n":%d}`, position))},
	}
}

func (v *View) a(tb testing.TB) events.CheckView {
	tb.Helper()
	c, ok := v.Check("web01", "a", time.Now())
	if !ok {
		tb.Fatal("web01/a is not there")
	}
	return c
}

func TestViewPending(t *testing.T) {
	is := is.New(t)
	v, r := viewOf(false)
	is.Equal(v.a(t).Phase, events.Pending)
	h, ok := v.Host("web01", time.Now())
	is.True(ok)
	is.Equal(h.Phase, events.Pending)
	is.Equal(h.Checks.Pending, 1)
	is.Equal(string(v.root("web01").after), `", "message": "a:Unknown:no result yet"}`)

	// A state without a registration is nothing to readers.
	v.ApplyCheck(live("web02", "x", 1, events.OK, "", 1), true)
	_, ok = v.Host("web02", time.Now())
	is.True(!ok)
	_, ok = v.Check("web02", "x", time.Now())
	is.True(!ok)
	hosts, _ := v.Hosts(HostFilter{}, time.Now())
	is.Equal(len(hosts), 1)

	delete(r.checks["web01"], "a")
	v.RefreshRegistration("web01", "a")
	_, ok = v.Check("web01", "a", time.Now())
	is.True(!ok)
	_, ok = v.Host("web01", time.Now())
	is.True(!ok)
}

// After a power cut of the bus another registration may have the position of the former.
func TestViewPositionGivenAgain(t *testing.T) {
	is := is.New(t)
	v, r := viewOf(false)
	e := r.checks["web01"]["a"]
	e.Registration.URL, e.Stored = json.RawMessage(`"http://elsewhere/"`), time.Now()
	r.checks["web01"]["a"] = e
	v.RefreshRegistration("web01", "a")
	is.Equal(string(v.a(t).Registration.URL), `"http://elsewhere/"`)
}

// What comes back after its tombstone has ended counts from 1, and shows at once.
func TestViewReturnsAfterLong(t *testing.T) {
	for name, tt := range map[string]struct {
		away   time.Duration
		number uint64
	}{"late": {events.TombstoneKept + time.Hour, 1}, "in time": {time.Hour, 7}} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			v, _ := viewOf(false)
			gone := record(7, 5, events.Unknown, "")
			gone.Phase, gone.Basis, gone.Since = events.Gone, events.Gone, time.Now().Add(-tt.away)
			v.ApplyCheck(gone, true)
			v.ApplyHost(events.HostState{V: events.RecordVersion, Host: "web01", Number: 7, Phase: events.Gone, Since: gone.Since}, true)
			back := record(1, 9, events.Critical, "down")
			back.Since = time.Now()
			v.ApplyCheck(back, false)
			v.ApplyHost(events.HostState{V: events.RecordVersion, Host: "web01", Number: 1, Phase: events.Live, Status: events.Critical, Since: back.Since}, false)
			is.Equal(v.a(t).Number, tt.number)
			h, ok := v.Host("web01", time.Now())
			is.True(ok)
			is.Equal(h.Number, tt.number)
		})
	}
}

// A check that was deregistered and comes back is pending and goes on counting.
func TestViewReturns(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(false)
	gone := record(7, 5, events.OK, "")
	gone.Phase, gone.Basis = events.Gone, events.Gone
	v.ApplyCheck(gone, true)
	got := v.a(t)
	is.Equal(got.Phase, events.Pending)
	is.Equal(got.Number, uint64(7))
	v.ApplyResult(polledAt(9, 1, events.OK, "back"))
	is.Equal(v.a(t).Phase, events.Pending) // the aggregator says when
	v.ApplyCheck(record(8, 9, events.OK, "back"), false)
	got = v.a(t)
	is.Equal(got.Phase, events.Live)
	is.Equal(string(got.Document), `{"n":9}`)
}

func TestViewNewerWins(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(false)
	v.ApplyCheck(record(2, 20, events.Critical, "two"), false)
	v.ApplyCheck(record(1, 10, events.OK, "one"), true) // a snapshot from before
	is.Equal(v.a(t).Message, "two")
	v.ApplyCheck(record(2, 20, events.Critical, "again"), false)
	is.Equal(v.a(t).Message, "two") // the same transition
	v.ApplyCheck(record(2, 20, events.Critical, "detail"), true)
	is.Equal(v.a(t).Message, "detail") // a snapshot tells what makes no transition
	v.ApplyCheck(record(2, 25, events.Critical, "more"), true)
	is.Equal(v.a(t).Message, "more")
	future := record(9, 90, events.OK, "")
	future.V = events.RecordVersion + 1
	v.ApplyCheck(future, true)
	is.Equal(v.a(t).Number, uint64(2)) // not interpreted
}

// Soft fields follow the results that count, in whatever order records and
// results come.
func TestViewSoftFields(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(false)
	v.ApplyCheck(record(1, 10, events.OK, "first"), false)
	is.Equal(v.a(t).Document, nil)
	v.ApplyResult(polledAt(10, 1, events.OK, "first")) // after its transition
	is.Equal(string(v.a(t).Document), `{"n":10}`)
	second := polledAt(11, 2, events.OK, "second")
	v.ApplyResult(second)
	is.Equal(v.a(t).Message, "second")
	v.ApplyResult(polledAt(12, 2, events.OK, "duplicate"))
	v.ApplyResult(second)
	push := polledAt(13, 0, events.Critical, "a stranger's push")
	push.Polled = false
	v.ApplyResult(push)
	is.Equal(v.a(t).Message, "second") // none of them counts
	is.Equal(string(v.a(t).Document), `{"n":11}`)

	v.ApplyResult(polledAt(14, 4, events.Critical, "down")) // before its transition
	is.Equal(v.a(t).Status, events.OK)
	is.Equal(v.a(t).Message, "second") // of the status that is told
	v.ApplyCheck(record(2, 14, events.Critical, "down"), false)
	is.Equal(v.a(t).Message, "down")
	v.ApplyResult(polledAt(15, 5, events.Critical, "still down"))
	v.ApplyCheck(record(2, 14, events.Critical, "down"), true) // its snapshot, later
	is.Equal(v.a(t).Message, "still down")
	is.Equal(string(v.a(t).Document), `{"n":15}`)
}

// A power cut took the end of RESULTS, and what came next lies at its positions: it
// is shown, whether or not the record that knows the lost positions comes first.
func TestViewPositionsThatWereLost(t *testing.T) {
	old := record(1, 20, events.OK, "before")
	old.Seen, old.Order = time.Now().Add(-time.Minute), events.Order{Lease: 99, Due: 9} // of a lease that is lost, too
	former := record(1, 5, events.OK, "long before")
	former.Seen = old.Seen.Add(-time.Minute)
	again := polledAt(12, 1, events.OK, "after")
	for name, come := range map[string]func(v *View){
		"record, result":                func(v *View) { v.ApplyCheck(old, true); v.ApplyResult(again) },
		"result, record":                func(v *View) { v.ApplyResult(again); v.ApplyCheck(old, true) },
		"former record, result, record": func(v *View) { v.ApplyCheck(former, false); v.ApplyResult(again); v.ApplyCheck(old, true) },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			v, _ := viewOf(false)
			come(v)
			is.Equal(v.a(t).Message, "after")
			v.ApplyResult(again) // no more than once
			v.ApplyResult(polledAt(13, 2, events.OK, "next"))
			is.Equal(v.a(t).Message, "next")
		})
	}
}

func TestViewCachesAnswers(t *testing.T) {
	is := is.New(t)
	v, r := viewOf(true)
	v.ApplyCheck(record(1, 10, events.Warning, "w"), false)
	before := v.root("web01")
	in := polledAt(11, 1, events.Warning, "w")
	in.Polled = false
	v.ApplyResult(in)
	is.True(v.root("web01") == before) // nothing that is shown has changed
	in.Position, in.Result.Message = 12, "x"
	v.ApplyResult(in)
	is.Equal(string(v.root("web01").after), `", "message": "a:Warning:x"}`)
	ok := events.OK
	r.overrides["web01/"] = bus.OverrideEntry{Override: events.Override{Host: "web01", Status: &ok, Forever: true}, Position: 5}
	v.RefreshRegistration("web01", "")
	is.Equal(string(v.root("web01").before), `{"status": "OK", "date": "`)
	v.ApplyHost(events.HostState{V: 1, Host: "web01", Number: 1, Ended: 5}, true) // the override has ended
	is.Equal(string(v.root("web01").before), `{"status": "Warning", "date": "`)
	is.Equal(string(v.legacyList("web01")), `{"a": null}`)
	r.add("web01", "b", 6, false)
	v.RefreshRegistration("web01", "b")
	is.Equal(string(v.legacyList("web01")), `{"a": null, "b": "http://x/"}`)
}

// A result that is too old is told by the reader's own clock, without a transition.
func TestViewLate(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(true)
	v.ApplyCheck(record(1, 10, events.OK, "fine"), false)
	now := time.Now()
	at := func(d time.Duration) events.CheckView {
		c, _ := v.Check("web01", "a", now.Add(d))
		return c
	}
	is.Equal(at(0).Phase, events.Live)
	is.Equal(at(61*time.Second).Phase, events.Live)
	is.Equal(at(63*time.Second).Phase, events.Stale)
	is.Equal(at(63*time.Second).Status, events.OK)
	is.Equal(*at(50 * time.Second).NextSeconds > 9, true)
	is.Equal(*at(70 * time.Second).NextSeconds, 0.0)

	polled, _ := viewOf(false)
	polled.ApplyCheck(record(1, 10, events.OK, "fine"), false)
	late := func(d time.Duration) events.Phase {
		c, _ := polled.Check("web01", "a", now.Add(d))
		return c.Phase
	}
	is.Equal(late(31*time.Second), events.Live) // three intervals, and a little
	is.Equal(late(33*time.Second), events.Stale)

	slow := record(1, 10, events.OK, "fine")
	slow.Pace = 12_000 // its worker has more to do than it can
	polled.ApplyCheck(slow, true)
	is.Equal(late(37*time.Second), events.Live)
	is.Equal(late(39*time.Second), events.Stale)
}

func TestViewReset(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(false)
	v.ApplyCheck(record(17, 10, events.Critical, "old"), false)
	v.ApplyHost(events.HostState{V: 1, Host: "web01", Number: 9}, true)
	v.Reset()
	is.Equal(v.a(t).Phase, events.Pending)
	v.ApplyCheck(record(1, 5, events.OK, "new"), false) // numbers begin again
	is.Equal(v.a(t).Message, "new")
	h, _ := v.Host("web01", time.Now())
	is.Equal(h.Number, uint64(0))
}

// Results for names that nobody registers are not remembered for ever.
func TestViewForgetsStrays(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(true)
	for i := range 3 * maxStrays {
		in := polledAt(uint64(i), 1, events.OK, "")
		in.Host, in.Check, in.Polled = fmt.Sprintf("h%d", i%7), strconv.Itoa(i), false
		v.ApplyResult(in)
	}
	total := 0
	for _, h := range v.hosts {
		total += len(h.checks)
	}
	is.True(total <= maxStrays+1)
	is.Equal(v.a(t).Phase, events.Pending)
}

func TestSettled(t *testing.T) {
	for name, tt := range map[string]struct {
		before []uint64 // positions of results that came before: of status OK
		after  func(v *View)
		want   bool
	}{
		"nothing came":                  {want: false},
		"the same status":               {after: func(v *View) { v.ApplyResult(polledAt(20, 9, events.OK, "")) }, want: true},
		"another status":                {after: func(v *View) { v.ApplyResult(polledAt(20, 9, events.Critical, "")) }, want: false},
		"its transition":                {after: func(v *View) { v.ApplyCheck(record(2, 20, events.Critical, ""), false) }, want: true},
		"a step towards a transition":   {after: func(v *View) { v.ApplyCheck(record(1, 20, events.OK, ""), true) }, want: true},
		"it does not count":             {after: func(v *View) { v.ApplyResult(polledAt(20, 0, events.Critical, "")) }, want: true},
		"a later one, the same status":  {after: func(v *View) { v.ApplyResult(polledAt(21, 9, events.OK, "")) }, want: true},
		"an earlier one, the same text": {after: func(v *View) { v.ApplyResult(polledAt(19, 9, events.OK, "")) }, want: false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			v, _ := viewOf(false)
			s := record(1, 10, events.OK, "")
			s.Order = events.Order{Reg: 1, Lease: 1, Due: 5}
			v.ApplyCheck(s, false)
			if tt.after != nil {
				tt.after(v)
			}
			is.Equal(v.hosts["web01"].checks["a"].settled(20), tt.want)
		})
	}
}

func TestWaitFirst(t *testing.T) {
	is := is.New(t)
	v, r := viewOf(false)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	is.True(!v.WaitFirst(short, "web01", "a", 1))
	done := make(chan bool, 1)
	go func() { done <- v.WaitFirst(t.Context(), "web01", "a", 1) }()
	v.ApplyResult(polledAt(10, 1, events.Critical, "down"))
	select {
	case <-done:
		t.Fatal("before the transition")
	case <-time.After(5 * time.Millisecond):
	}
	first := record(1, 10, events.Critical, "down")
	first.Addr = "http://x/"
	v.ApplyCheck(first, false)
	is.True(<-done)

	// At another address the check begins anew, even if it says the same there:
	// it is pending for a moment, which is not to be seen.
	e := r.checks["web01"]["a"]
	e.Registration.URL, e.Position = json.RawMessage(`{"addr":"http://y/"}`), 2
	r.checks["web01"]["a"] = e
	v.RefreshRegistration("web01", "a")
	go func() { done <- v.WaitFirst(t.Context(), "web01", "a", 2) }()
	again := polledAt(20, 2, events.Critical, "down")
	again.Result.Reg = 2
	v.ApplyResult(again)
	pending := record(2, 10, events.Unknown, "")
	pending.Basis, pending.Phase, pending.Addr, pending.Order = events.Pending, events.Pending, "http://y/", events.Order{Reg: 2}
	for _, apply := range []func(){func() {}, func() { v.ApplyCheck(pending, false) }} {
		apply()
		select {
		case <-done:
			t.Fatal("before the transition at the new address")
		case <-time.After(5 * time.Millisecond):
		}
	}
	second := record(3, 20, events.Critical, "down")
	second.Addr = "http://y/"
	v.ApplyCheck(second, false)
	is.True(<-done)
	is.True(v.WaitFirst(t.Context(), "nowhere", "a", 1)) // not registered: nothing to wait for
}

// Whatever comes in whatever order between the streams, the view ends as the
// last record and the results after it say.
func TestViewConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// What the aggregator did: results in a row, a transition at each change.
		statuses := rapid.SliceOfN(rapid.SampledFrom(events.Statuses()), 1, 12).Draw(t, "statuses")
		var results []bus.Incoming
		var records []events.CheckState
		number := uint64(0)
		for i, status := range statuses {
			in := polledAt(uint64(100+i), int64(i+1), status, fmt.Sprintf("m%d", i))
			results = append(results, in)
			if i == 0 || status != statuses[i-1] {
				number++
				s := record(number, in.Position, status, in.Result.Message)
				s.Order = in.Result.Order()
				records = append(records, s)
			}
		}
		v, _ := viewOf(false)
		// Each stream is in order; between them anything may happen, and records
		// come twice, by CHANGES and by STATE.
		var queues [3]func() bool
		queues[0] = feed(&results, func(in bus.Incoming) { v.ApplyResult(in) })
		states, changes := slices.Clone(records), slices.Clone(records)
		queues[1] = feed(&states, func(s events.CheckState) { v.ApplyCheck(s, true) })
		queues[2] = feed(&changes, func(s events.CheckState) { v.ApplyCheck(s, false) })
		last := len(statuses) - 1
		for left := true; left; {
			first := rapid.IntRange(0, 2).Draw(t, "stream")
			left = false
			for i := range 3 {
				if queues[(first+i)%3]() {
					left = true
					break
				}
			}
		}
		got, _ := v.Check("web01", "a", time.Now())
		want := fmt.Sprintf("%d %s m%d", number, statuses[last], last)
		if have := fmt.Sprintf("%d %s %s", got.Number, got.Status, got.Message); have != want {
			t.Fatalf("%s, not %s", have, want)
		}
		if doc := fmt.Sprintf(`{"n":%d}`, 100+last); string(got.Document) != doc {
			t.Fatalf("document %s, not %s", got.Document, doc)
		}
		if root := string(v.root("web01").before); !strings.Contains(root, statuses[last].String()) {
			t.Fatalf("an old answer is kept: %s", root)
		}
	})
}

// feed returns a function that applies the next of a list, and false at its end.
func feed[T any](list *[]T, apply func(T)) func() bool {
	return func() bool {
		if len(*list) == 0 {
			return false
		}
		apply((*list)[0])
		*list = (*list)[1:]
		return true
	}
}
