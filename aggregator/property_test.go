package aggregator

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"pgregory.net/rapid"
)

// step is an input with its bus time.
type step struct {
	in  Input
	now time.Time
}

// history draws what may happen to one check: results of several workers, pushes,
// registrations, overrides, ticks and outages, in the order of the bus.
func history(t *rapid.T) []step {
	status := rapid.SampledFrom(events.Statuses())
	now, pos, reg, over := zero, uint64(0), uint64(1), uint64(0)
	var out []step
	levels := Levels{Host: "web01", Check: "db", Registration: drawRegistration(t), Position: 1, Stored: now}
	out = append(out, step{levels, now})
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		now = now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
		pos += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
		r := Result{Host: "web01", Check: "db", Position: pos, Observed: now, Result: events.Result{Status: status.Draw(t, "status"), Message: "m"}}
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0, 1, 2, 3:
			r.Polled = true
			r.Result.Reg, r.Result.Lease, r.Result.Due = reg, uint64(rapid.IntRange(1, 3).Draw(t, "lease")), now.UnixMilli()
			out = append(out, step{r, now})
		case 4, 5, 6:
			r.Result.TTL = events.Duration(time.Duration(rapid.IntRange(0, 30).Draw(t, "ttl")) * time.Second)
			out = append(out, step{r, now})
		case 7:
			out = append(out, step{Tick{}, now})
		case 8:
			reg++
			over++
			levels = drawLevels(t, levels, reg, over, now)
			out = append(out, step{levels, now})
		case 9:
			out = append(out, step{Outage{From: now.Add(-20 * time.Second), To: now}, now})
		}
	}
	return out
}

func drawRegistration(t *rapid.T) *events.Registration {
	r := &events.Registration{ID: "db", Host: "web01", TTL: events.Duration(20 * time.Second)}
	if rapid.Bool().Draw(t, "polled") {
		r.URL = json.RawMessage(rapid.SampledFrom([]string{`"http://a/"`, `"http://b/"`}).Draw(t, "url"))
	}
	r.Rise, r.Fall = rapid.IntRange(0, 3).Draw(t, "rise"), rapid.IntRange(0, 3).Draw(t, "fall")
	r.StartPeriod = events.Duration(time.Duration(rapid.IntRange(0, 30).Draw(t, "start")) * time.Second)
	return r
}

func drawLevels(t *rapid.T, l Levels, reg, over uint64, now time.Time) Levels {
	switch rapid.IntRange(0, 4).Draw(t, "levels") {
	case 0:
		l.Registration = nil
	case 1, 2:
		l.Registration, l.Position, l.Stored = drawRegistration(t), reg, now
	case 3:
		l.Override, l.OverridePos, l.OverrideSet = drawOverride(t, now), over, now
	case 4:
		l.Override, l.OverridePos = nil, 0
	}
	return l
}

func drawOverride(t *rapid.T, now time.Time) *events.Override {
	o := &events.Override{UntilPush: rapid.Bool().Draw(t, "until push")}
	if rapid.Bool().Draw(t, "maintenance") {
		o.Maintenance = true
	} else {
		o.Status = ptr(rapid.SampledFrom(events.Statuses()).Draw(t, "override"))
	}
	if !o.UntilPush {
		o.Until = events.At(now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "until")) * time.Second))
	}
	return o
}

func fold(steps []step) *bench {
	b := new(bench)
	for _, s := range steps {
		b.apply(s.in, s.now)
	}
	return b
}

func TestReduce_NumbersWithoutGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		previous := events.Moment{Phase: events.Pending}
		for i, tr := range fold(history(t)).told {
			if tr.Number != uint64(i+1) {
				t.Fatalf("transition %d has number %d", i+1, tr.Number)
			}
			if !reflect.DeepEqual(tr.Previous, previous) {
				t.Fatalf("transition %d leads from %v, not from %v", i+1, tr.Previous, previous)
			}
			if tr.Previous.Phase == tr.Current.Phase && reflect.DeepEqual(tr.Previous.Status, tr.Current.Status) {
				t.Fatalf("transition %d changes nothing", i+1)
			}
			previous = tr.Current
		}
	})
}

func TestReduce_TellsWhatHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := new(bench)
		for _, s := range history(t) {
			b.apply(s.in, s.now)
			status, phase := told(b.s)
			if b.s.Phase != "" && (status != b.s.Status || phase != b.s.Phase) {
				t.Fatalf("%v %v is shown where %v %v holds", b.s.Status, b.s.Phase, status, phase)
			}
			if b.s.Basis == events.Gone && b.s.Override != nil {
				t.Fatal("a check that is gone has an override")
			}
		}
	})
}

func TestReduce_IsDeterministicAndPure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := history(t)
		before, err := json.Marshal(steps)
		if err != nil {
			t.Fatal(err)
		}
		a, b := fold(steps), fold(steps)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v, then %+v", a, b)
		}
		if after, _ := json.Marshal(steps); string(after) != string(before) {
			t.Fatal("inputs were changed")
		}
	})
}

// What was applied may be applied again, wherever it comes from.
func TestReduce_IgnoresWhatItHasSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := history(t)
		b := fold(steps)
		again := rapid.SampledFrom(steps).Draw(t, "again")
		if r, ok := again.in.(Result); !ok || !r.Polled {
			return
		} else {
			// Stored a second time, as a retry without its acknowledgement is, or
			// overtaken by the results after it.
			r.Position = b.s.Applied + 1
			again.in = r
		}
		if again.in.(Result).Result.Order().After(b.s.Order) {
			return // it did not count the first time, and may now
		}
		want := b.s
		b.apply(again.in, steps[len(steps)-1].now)
		if !reflect.DeepEqual(b.s, want) || b.last.Transition != nil {
			t.Fatalf("%+v became %+v", want, b.s)
		}
	})
}

// A replay begins at a checkpoint with a state that went through JSON, and meets
// results that are in it already. It does not reach back beyond a change of the
// registration: a push that was refused before may count after it.
func TestReduce_ReplayFromAnyPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := history(t)
		cut := rapid.IntRange(1, len(steps)).Draw(t, "cut")
		from := rapid.IntRange(0, cut).Draw(t, "from")
		for i, s := range steps[:cut] {
			if _, levels := s.in.(Levels); levels {
				from = max(from, i+1)
			}
		}
		whole, part := fold(steps), fold(steps[:cut])
		stored, err := json.Marshal(part.s)
		if err != nil {
			t.Fatal(err)
		}
		part.s = events.CheckState{}
		if err := json.Unmarshal(stored, &part.s); err != nil {
			t.Fatal(err)
		}
		for i, s := range steps[from:] {
			if _, result := s.in.(Result); from+i < cut && !result {
				continue // levels and time are not replayed
			}
			part.apply(s.in, s.now)
		}
		a, _ := json.Marshal(whole.s)
		b, _ := json.Marshal(part.s)
		if string(a) != string(b) {
			t.Fatalf("replayed\n%s, else\n%s", b, a)
		}
	})
}

// A tick at the next deadline does something; one before it does nothing.
func TestNextDeadline_IsWhenSomethingHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := fold(history(t))
		next := NextDeadline(b.s, b.with)
		if next.IsZero() {
			next = zero.Add(1000 * time.Hour)
		} else {
			s, out := Reduce(b.s, b.with, Tick{}, next)
			if reflect.DeepEqual(s, b.s) && out == (Outcome{}) {
				t.Fatal("nothing happened at the deadline")
			}
		}
		s, out := Reduce(b.s, b.with, Tick{}, next.Add(-time.Nanosecond))
		if !reflect.DeepEqual(s, b.s) || out != (Outcome{}) {
			t.Fatalf("something happened before the deadline: %+v", out)
		}
	})
}

func TestReduceHost_IsTheWorst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := new(bench)
		var h events.HostState
		for n, s := range history(t) {
			b.apply(s.in, s.now)
			var out Outcome
			before := h
			h, out = ReduceHost(h, "web01", []*events.CheckState{&b.s}, nil, "result", s.now)
			want := events.Summarize([]*events.CheckState{&b.s})
			if h.Status != want.Status || h.Phase != want.Phase {
				t.Fatalf("step %d: %v %v, its checks say %v %v", n, h.Status, h.Phase, want.Status, want.Phase)
			}
			if changed := before.Phase != "" && (before.Status != h.Status || before.Phase != h.Phase); changed != (h.Number > before.Number) && before.Phase != "" {
				t.Fatalf("step %d: number %d after %d", n, h.Number, before.Number)
			}
			if out.Transition != nil && out.Transition.Number != before.Number+1 {
				t.Fatalf("step %d: transition %d after %d", n, out.Transition.Number, before.Number)
			}
		}
	})
}

func TestOutline_IsTheSummary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var checks []*events.CheckState
		for range rapid.IntRange(0, 6).Draw(t, "checks") {
			checks = append(checks, checkIn("c", rapid.SampledFrom(events.Statuses()).Draw(t, "status"),
				rapid.SampledFrom(append(events.Phases(), "unheard of")).Draw(t, "phase")))
		}
		got, want := outline(checks), events.Summarize(checks)
		if got.Status != want.Status || got.Phase != want.Phase {
			t.Fatalf("%v %v, the summary is %v %v", got.Status, got.Phase, want.Status, want.Phase)
		}
	})
}
