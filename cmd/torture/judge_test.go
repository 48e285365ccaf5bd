package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

var (
	began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	web   = name{"web01", "a"}
)

func after(seconds float64) time.Time {
	return began.Add(time.Duration(seconds * float64(time.Second)))
}

// world makes evidence of a run in which one polled check does what the script
// says, and everything is told. Tests break it.
type world struct{ evidence }

func newWorld(statuses ...events.Status) *world {
	w := &world{evidence{
		Script: map[name][]told{}, Registered: map[name]registered{web: {Position: 1}}, Shown: map[name]shown{},
		Subscribers: map[string]subscription{}, Last: 6, Interval: 2 * time.Second, TTL: 6 * time.Second,
	}}
	for i, s := range statuses {
		at := after(float64(i))
		w.Script[web] = append(w.Script[web], told{s, at})
		w.poll(at.Add(100*time.Millisecond), s)
		w.tell(at.Add(200*time.Millisecond), s, events.Live)
	}
	return w
}

// silence commits that the check is stale, at a tick of its own.
func (w *world) silence(at time.Time) {
	w.Ticks = append(w.Ticks, tick{Position: 100, Stored: at, Partition: events.Partition(web.Host)})
	w.tell(at, events.Unknown, events.Stale)
}

func (w *world) poll(at time.Time, s events.Status) {
	n := uint64(len(w.Results) + 1)
	w.Results = append(w.Results, result{Name: web, Position: n, Stored: at, Polled: true, Status: s, Order: events.Order{Reg: 1, Lease: 1, Due: int64(n)}})
}

// tell commits a transition of the check, and of the host if that changes.
func (w *world) tell(at time.Time, s events.Status, phase events.Phase) {
	w.commit(web, at, s, phase)
	w.commit(name{web.Host, ""}, at, s, events.Live)
	w.Shown[web] = shown{s, phase, w.last(web).Number}
}

func (w *world) last(n name) (t events.Transition) {
	for _, c := range w.Changes {
		if c.name() == n {
			t = c.Transition
		}
	}
	return t
}

func (w *world) commit(n name, at time.Time, s events.Status, phase events.Phase) {
	before := w.last(n)
	t := events.Transition{Host: n.Host, Check: n.Check, Number: before.Number + 1, Previous: before.Current}
	if t.Number == 1 {
		t.Previous = events.Moment{Phase: events.Pending}
	}
	t.Current = events.Moment{Status: &s, Phase: phase, Since: events.At(at)}
	w.Changes = append(w.Changes, change{uint64(len(w.Changes) + 1), at, at, t.ID(), t})
}

func TestJudge(t *testing.T) {
	ok, crit, warn := events.OK, events.Critical, events.Warning
	drop := func(w *world, i int) { w.Changes = append(w.Changes[:i:i], w.Changes[i+1:]...) }
	for what, tt := range map[string]struct {
		spoil func(w *world)
		want  string // counts that are not zero
	}{
		"all is well": {func(*world) {}, ""},
		"a flip that nobody told": {func(w *world) {
			w.Script[web] = append(w.Script[web], told{warn, after(9)})
		}, "lost 1 wrong 1"},
		"a flip that was skipped": {func(w *world) {
			w.Script[web] = []told{{ok, after(0)}, {warn, after(0.5)}, {crit, after(1)}, {ok, after(2)}}
		}, "lost 1"},
		"a transition is missing":      {func(w *world) { drop(w, 2) }, "lost 1 gaps 1 wrong 2"}, // and the chain, and its host
		"a transition came twice":      {func(w *world) { w.Changes = append(w.Changes, w.Changes[len(w.Changes)-1]) }, "repeated 2 wrong 1"},
		"the number of a subject grew": {func(w *world) { w.Changes[4].Transition.Number++ }, "gaps 1 wrong 1"},
		"a broken chain":               {func(w *world) { w.Changes[2].Transition.Previous.Status = &warn }, "wrong 1"},
		"nobody said so": {func(w *world) {
			w.tell(after(5), crit, events.Live)
			w.tell(after(6), ok, events.Live)
		}, "alarms 2"},
		"told before it was said": {func(w *world) { w.Script[web][2].At = after(7) }, "lost 1 alarms 1"},
		"stale with right": {func(w *world) {
			w.silence(after(8.2))
			w.tell(after(9), ok, events.Live)
		}, "away 1 returned 1"},
		"stale too early": {func(w *world) {
			w.silence(after(7.9))
			w.tell(after(9), ok, events.Live)
		}, "alarms 1 away 1 returned 1"},
		"stale although an outage was recorded": {func(w *world) {
			w.Ticks = []tick{{Position: 7, Stored: after(8), Partition: -1, Outage: span{after(3), after(8)}}}
			w.silence(after(8.2))
			w.tell(after(9), ok, events.Live)
		}, "alarms 1 away 1 returned 1"},
		"stale after an outage that was not recorded": {func(w *world) {
			w.poll(after(2.2), ok)
			w.Results = append(w.Results, result{Name: name{"web02", "b"}, Position: 8, Stored: after(15), Polled: true})
			w.silence(after(15.1))
			w.tell(after(16), ok, events.Live)
		}, "alarms 1 away 1 returned 1"},
		"stale after the grace of an outage": {func(w *world) {
			w.poll(after(2.2), ok)
			w.Ticks = []tick{{Position: 7, Stored: after(14.8), Partition: -1, Outage: span{after(2.2), after(14.8)}}}
			w.Results = append(w.Results, result{Name: name{"web02", "b"}, Position: 8, Stored: after(15), Polled: true})
			w.silence(after(20.8))
			w.tell(after(21), ok, events.Live)
		}, "away 1 returned 1"},
		"stale before the outage was recorded": {func(w *world) {
			w.silence(after(8.2))
			w.tell(after(9), ok, events.Live)
			w.Ticks = append(w.Ticks, tick{Position: 101, Stored: after(9), Partition: -1, Outage: span{after(3), after(8)}})
		}, "away 1 returned 1"},
		"stale without a tick": {func(w *world) {
			w.tell(after(8.2), events.Unknown, events.Stale)
			w.tell(after(9), ok, events.Live)
		}, "alarms 1 away 1 returned 1"},
		"late polls are no sign of life": {func(w *world) {
			w.Results = append(w.Results, result{Name: web, Position: 8, Stored: after(5), Polled: true})
			w.silence(after(8.2))
			w.tell(after(9), ok, events.Live)
		}, "away 1 returned 1"},
		"stale at the end":       {func(w *world) { w.silence(after(8.2)) }, "wrong 1 away 1"},
		"no gateway shows it":    {func(w *world) { clear(w.Shown) }, "wrong 1"},
		"an old number is shown": {func(w *world) { w.Shown[web] = shown{ok, events.Live, 2} }, "wrong 1"},
		"a host that is better than its check": {func(w *world) {
			w.Changes[3].Transition.Current.Status = &warn
			w.Changes[5].Transition.Previous.Status = &warn
		}, "wrong 1"},
		"a host that does not follow": {func(w *world) { drop(w, 5) }, "wrong 1"},
		"acknowledged registrations": {func(w *world) {
			w.AckedRegs = []ack{{Name: web}, {Name: web, Position: 1}, {Name: web, Position: 2}, {Name: name{"web01", "b"}}}
		}, "registrations 2"},
		"a registration that a first push replaced": {func(w *world) {
			w.AckedRegs, w.Registered[web] = []ack{{Name: web, Position: 1}}, registered{2, true}
		}, "registrations 1"},
		"subscribers": {func(w *world) {
			w.Subscribers["good"] = subscription{Positions: []uint64{1, 2, 3, 4, 5, 6}}
			w.Subscribers["heard what came later, too"] = subscription{Positions: []uint64{1, 2, 3, 4, 5, 6, 7}}
			w.Subscribers["told of a gap"] = subscription{Positions: []uint64{1, 2, 3, 4, 5, 6}, Gaps: 1}
			w.Subscribers["missed one"] = subscription{Positions: []uint64{1, 2, 4, 5, 6}}
			w.Subscribers["got one twice"] = subscription{Positions: []uint64{1, 2, 2, 3, 4, 5, 6}}
		}, "subscribers 3"},
	} {
		t.Run(what, func(t *testing.T) {
			is := is.New(t)
			w := newWorld(ok, crit, ok)
			tt.spoil(w)
			v := judge(w.evidence)
			is.Equal(v.counts(), tt.want)
			is.Equal(v.ok(), tt.want == "" || strings.HasPrefix(tt.want, "away"))
		})
	}
}

func TestJudgePushes(t *testing.T) {
	is := is.New(t)
	w := newWorld()
	for i, s := range []events.Status{events.OK, events.OK, events.Critical, events.OK} {
		at := after(float64(i))
		w.Results = append(w.Results, result{Name: web, Position: uint64(i + 1), Stored: at, Status: s, Message: fmt.Sprint("m", i)})
		if i != 1 {
			w.tell(at.Add(time.Millisecond), s, events.Live)
		}
	}
	delete(w.Script, web)
	w.AckedPushes = []ack{{web, 0, "m0"}, {web, 3, "m2"}}
	v := judge(w.evidence)
	is.Equal(v.counts(), "")
	is.Equal(v.Flips, 3)
	w.AckedPushes = []ack{{web, 0, "m9"}, {web, 4, "m2"}}
	is.Equal(judge(w.evidence).counts(), "pushes 2") // one is not there, one elsewhere
	w.Results = append(w.Results, result{Name: web, Position: 5, Stored: after(5), Status: events.Warning})
	is.Equal(judge(w.evidence).counts(), "lost 1 wrong 1 pushes 2")
}

// counts says which counts are not zero.
func (v *verdict) counts() string {
	var b strings.Builder
	for _, c := range []struct {
		word string
		n    int
	}{
		{"lost", v.Lost},
		{"repeated", v.Repeated},
		{"gaps", v.Gaps},
		{"wrong", v.Wrong},
		{"alarms", v.FalseAlarms},
		{"pushes", v.MissingPushes},
		{"registrations", v.MissingRegistrations},
		{"subscribers", v.Subscribers},
		{"away", v.Away},
		{"silent", v.Silent},
		{"returned", v.Returned},
	} {
		if c.n > 0 {
			fmt.Fprintf(&b, "%s %d ", c.word, c.n)
		}
	}
	return strings.TrimSpace(b.String())
}
