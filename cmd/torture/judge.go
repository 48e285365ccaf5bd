package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/looprock/megaphone/events"
)

// verdict counts what went wrong, and says the first cases of each kind.
type verdict struct {
	Flips, Transitions, HostTransitions int

	Lost, Repeated, Gaps, Wrong, FalseAlarms int
	MissingPushes, MissingRegistrations      int
	Subscribers                              int // those that got another list

	// Not faults: checks that were stale with right, and their return.
	Silent, Away, Returned int
	Latest                 time.Duration // how long after its deadline silence was told at most, by bus time
	LatestOf               string        // of which check, when

	Cases []string
}

// ok reports whether all promises held.
func (v *verdict) ok() bool {
	return v.Lost+v.Repeated+v.Gaps+v.Wrong+v.FalseAlarms+v.MissingPushes+v.MissingRegistrations+v.Subscribers == 0
}

// note counts a fault, and keeps its case unless there are many already.
func (v *verdict) note(count *int, format string, args ...any) {
	if *count++; *count <= casesKept {
		v.Cases = append(v.Cases, fmt.Sprintf(format, args...))
	}
}

const casesKept = 8

// judge compares what happened with what should have.
func judge(e evidence) *verdict {
	v := &verdict{}
	transitions := map[name][]change{}
	ids := map[string]uint64{}
	for _, c := range e.Changes {
		if at, twice := ids[c.ID]; twice {
			v.note(&v.Repeated, "repeated: %s is at %d and %d", c.ID, at, c.Position)
		}
		ids[c.ID] = c.Position
		transitions[c.name()] = append(transitions[c.name()], c)
	}
	results := map[name][]result{}
	for _, r := range e.Results {
		results[r.Name] = append(results[r.Name], r)
	}
	for _, n := range sortedNames(e.Registered) {
		script, isPolled := e.Script[n]
		if !isPolled {
			script = pushed(results[n])
		}
		j := &checkJudge{v: v, e: &e, name: n, script: script, results: counting(results[n]), polled: isPolled}
		j.judge(transitions[n])
	}
	judgeHosts(v, e.Changes)
	judgeAcks(v, &e, results)
	for _, who := range sortedKeys(e.Subscribers) {
		judgeSubscriber(v, who, e.Subscribers[who], e.Changes, e.Last)
	}
	return v
}

// pushed is the script of a check that is pushed: what was stored, in its order.
func pushed(results []result) (script []told) {
	for _, r := range results {
		if len(script) == 0 || script[len(script)-1].Status != r.Status {
			script = append(script, told{r.Status, r.Stored})
		}
	}
	return script
}

// counting leaves out polls that came late or twice: they are no sign of life.
func counting(results []result) (some []result) {
	var last events.Order
	for _, r := range results {
		if r.Polled {
			if !r.Order.After(last) {
				continue
			}
			last = r.Order
		}
		some = append(some, r)
	}
	return some
}

// chain checks numbers and links of one subject's transitions.
func chain(v *verdict, n name, list []change) {
	for i, c := range list {
		t := c.Transition
		if i == 0 {
			if t.Number != 1 {
				v.note(&v.Gaps, "gap: %s begins with number %d at %d", n, t.Number, c.Position)
			}
			if t.Previous.Status != nil || t.Previous.Phase != events.Pending {
				v.note(&v.Wrong, "wrong: %s begins after %s", n, moment(t.Previous))
			}
			continue
		}
		before := list[i-1].Transition
		switch {
		case t.Number <= before.Number:
			v.note(&v.Repeated, "repeated: %s has number %d after %d at %d", n, t.Number, before.Number, c.Position)
		case t.Number > before.Number+1:
			v.note(&v.Gaps, "gap: %s has number %d after %d at %d", n, t.Number, before.Number, c.Position)
		}
		if moment(t.Previous) != moment(before.Current) {
			v.note(&v.Wrong, "wrong: %s number %d leads from %s, before was %s", n, t.Number, moment(t.Previous), moment(before.Current))
		}
	}
}

func moment(m events.Moment) string {
	status := "-"
	if m.Status != nil {
		status = m.Status.String()
	}
	return fmt.Sprintf("%s/%s/%s", status, m.Phase, m.Since.UTC().Format(time.RFC3339Nano))
}

// checkJudge walks along the transitions of one check.
type checkJudge struct {
	v       *verdict
	e       *evidence
	name    name
	script  []told
	results []result
	polled  bool
	at      int // index in script of the last flip that was seen; -1: none
}

func (j *checkJudge) judge(list []change) {
	v := j.v
	v.Flips += len(j.script)
	v.Transitions += len(list)
	chain(v, j.name, list)
	j.at = -1
	for i, c := range list {
		switch c.Transition.Current.Phase {
		case events.Live:
			j.live(c, i > 0 && list[i-1].Transition.Current.Phase != events.Live)
		case events.Stale:
			j.stale(c)
		default:
			v.note(&v.Wrong, "wrong: %s number %d has the phase %s", j.name, c.Transition.Number, c.Transition.Current.Phase)
		}
	}
	for _, t := range j.script[j.at+1:] {
		v.note(&v.Lost, "lost: %s became %s at %s, no transition tells it", j.name, t.Status, clock(t.At))
	}
	j.final(list)
}

// early is how much clocks and time stamps may differ.
const early = 100 * time.Millisecond

// live judges a transition to what the service said.
func (j *checkJudge) live(c change, returns bool) {
	v, status := j.v, *c.Transition.Current.Status
	if returns && j.at >= 0 && j.script[j.at].Status == status {
		v.Returned++
		return
	}
	for k := j.at + 1; k < len(j.script) && !j.script[k].At.After(c.Stored.Add(early)); k++ {
		if j.script[k].Status != status {
			continue
		}
		for _, t := range j.script[j.at+1 : k] {
			v.note(&v.Lost, "lost: %s became %s at %s, the next transition is %d at %s", j.name, t.Status, clock(t.At), c.Position, clock(c.Stored))
		}
		j.at = k
		return
	}
	now := "nothing"
	if j.at >= 0 {
		now = j.script[j.at].Status.String()
	}
	v.note(&v.FalseAlarms, "false alarm: %s number %d at %s says %s, the script says %s", j.name, c.Transition.Number, clock(c.Stored), status, now)
}

// final compares what a gateway shows with the end of script and transitions.
func (j *checkJudge) final(list []change) {
	v, shown, ok := j.v, j.e.Shown[j.name], false
	if _, ok = j.e.Shown[j.name]; !ok {
		v.note(&v.Wrong, "wrong: no gateway shows %s", j.name)
		return
	}
	if len(j.script) > 0 && (shown.Phase != events.Live || shown.Status != j.script[len(j.script)-1].Status) {
		v.note(&v.Wrong, "wrong: %s ends as %s %s, the script with %s", j.name, shown.Status, shown.Phase, j.script[len(j.script)-1].Status)
	}
	if len(list) > 0 && shown.Number != list[len(list)-1].Transition.Number {
		v.note(&v.Wrong, "wrong: %s is shown with number %d, its last is %d", j.name, shown.Number, list[len(list)-1].Transition.Number)
	}
}

// judgeHosts checks that each transition of a host tells the worst of what was
// committed of its checks before it.
func judgeHosts(v *verdict, changes []change) {
	hosts := map[string][]change{}
	checks := map[string]map[string]events.Status{}
	for _, c := range changes {
		t := c.Transition
		if t.Check != "" {
			if checks[t.Host] == nil {
				checks[t.Host] = map[string]events.Status{}
			}
			checks[t.Host][t.Check] = *t.Current.Status
			continue
		}
		v.HostTransitions++
		hosts[t.Host] = append(hosts[t.Host], c)
		if worst := worst(checks[t.Host]); *t.Current.Status != worst {
			v.note(&v.Wrong, "wrong: the host %s number %d at %d is %s, its checks are %s", t.Host, t.Number, c.Position, *t.Current.Status, worst)
		}
	}
	for _, host := range sortedKeys(checks) {
		list := hosts[host]
		chain(v, name{host, ""}, list)
		if len(list) == 0 || *list[len(list)-1].Transition.Current.Status != worst(checks[host]) {
			v.note(&v.Wrong, "wrong: the host %s does not end as its checks do, %s", host, worst(checks[host]))
		}
	}
}

func worst(checks map[string]events.Status) events.Status {
	if len(checks) == 0 {
		return events.Unknown
	}
	w := events.OK
	for _, s := range checks {
		w = events.Worse(w, s)
	}
	return w
}

// judgeAcks checks that everything that was acknowledged is there.
func judgeAcks(v *verdict, e *evidence, results map[name][]result) {
	for _, a := range e.AckedRegs {
		if r, ok := e.Registered[a.Name]; !ok || r.Position < a.Position || r.Pushed {
			v.note(&v.MissingRegistrations, "missing: the registration of %s was acknowledged at %d", a.Name, a.Position)
		}
	}
	messages := map[string]uint64{} // of pushes; each is unique
	for _, list := range results {
		for _, r := range list {
			messages[r.Name.String()+r.Message] = r.Position
		}
	}
	for _, a := range e.AckedPushes {
		if at, ok := messages[a.Name.String()+a.Message]; !ok || a.Position > 0 && a.Position != at {
			v.note(&v.MissingPushes, "missing: the push %q of %s was acknowledged at %d, it is at %d", a.Message, a.Name, a.Position, at)
		}
	}
}

// judgeSubscriber checks that a subscriber got what lies in CHANGES.
func judgeSubscriber(v *verdict, who string, s subscription, changes []change, last uint64) {
	var want []uint64
	for _, c := range changes {
		want = append(want, c.Position)
	}
	// What came after the last one that was waited for may have reached it or not.
	later := func(position uint64) bool { return position > last }
	want, got := slices.DeleteFunc(want, later), slices.DeleteFunc(slices.Clone(s.Positions), later)
	if s.Gaps == 0 && slices.Equal(got, want) {
		return
	}
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	v.note(&v.Subscribers, "subscriber %s got %d transitions and %d gaps, there are %d; they differ from index %d on", who, len(got), s.Gaps, len(want), at)
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }
