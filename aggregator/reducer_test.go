package aggregator

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// zero is when the checks of these tests are registered.
var zero = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// bench folds inputs into one check, as the shell does: positions grow by
// themselves, and settings come from the last levels.
type bench struct {
	s     events.CheckState
	with  Settings
	pos   uint64
	lease uint64
	told  []events.Transition
	last  Outcome
}

func at(seconds float64) time.Time { return zero.Add(time.Duration(seconds * float64(time.Second))) }

func (b *bench) apply(in Input, now time.Time) *bench {
	b.s, b.last = Reduce(b.s, b.with, in, now)
	if l, ok := in.(Levels); ok {
		b.with.Registration, b.with.OverrideSet = l.Registration, l.OverrideSet
	}
	if b.last.Transition != nil {
		b.told = append(b.told, *b.last.Transition)
	}
	return b
}

func (b *bench) levels(l Levels, seconds float64) *bench {
	l.Host, l.Check = "web01", "db"
	if l.Registration != nil {
		r := *l.Registration
		r.Host, r.ID = "web01", "db"
		l.Registration = &r
	}
	if l.Stored.IsZero() {
		l.Stored = at(seconds)
	}
	return b.apply(l, at(seconds))
}

func (b *bench) push(s events.Status, ttl time.Duration, seconds float64) *bench {
	b.pos += 10
	r := events.Result{Status: s, Message: "pushed " + s.String(), TTL: events.Duration(ttl)}
	return b.apply(Result{Host: "web01", Check: "db", Position: b.pos, Observed: at(seconds), Result: r}, at(seconds))
}

func (b *bench) poll(s events.Status, seconds float64) *bench {
	b.pos += 10
	return b.apply(b.polled(s, seconds), at(seconds))
}

func (b *bench) polled(s events.Status, seconds float64) Result {
	return Result{Host: "web01", Check: "db", Polled: true, Position: b.pos, Observed: at(seconds), Result: events.Result{
		Status: s, Message: "polled " + s.String(), Reg: b.s.Reg, Lease: max(b.lease, 1), Due: at(seconds).UnixMilli(),
	}}
}

func (b *bench) tick(seconds float64) *bench { return b.apply(Tick{}, at(seconds)) }

func pushed(ttl time.Duration) *events.Registration {
	return &events.Registration{TTL: events.Duration(ttl)}
}

func polledAt(url string) *events.Registration {
	return &events.Registration{URL: json.RawMessage(`"` + url + `"`)}
}

const url = "http://example.com/status"

// summary is a state in a word or two, for tables.
func (b *bench) summary() string { return b.s.Status.String() + " " + string(b.s.Phase) }

func ptr[T any](v T) *T { return &v }

func TestReduce_Status(t *testing.T) {
	rising := polledAt(url)
	rising.Rise, rising.Fall = 2, 3
	for name, tt := range map[string]struct {
		reg    *events.Registration
		in     []events.Status
		want   string
		number uint64
	}{
		"a check without a result is pending":           {polledAt(url), nil, "Unknown pending", 0},
		"the first result makes it live":                {polledAt(url), []events.Status{events.OK}, "OK live", 1},
		"the first result may be a failure":             {rising, []events.Status{events.Critical}, "Critical live", 1},
		"Unknown is a result like others":               {polledAt(url), []events.Status{events.Unknown}, "Unknown live", 1},
		"one result changes at once":                    {polledAt(url), []events.Status{events.OK, events.Warning, events.OK}, "OK live", 3},
		"equal results change nothing":                  {polledAt(url), []events.Status{events.OK, events.OK, events.OK}, "OK live", 1},
		"two of three failures are too few":             {rising, []events.Status{events.OK, events.Critical, events.Critical}, "OK live", 1},
		"three failures are enough":                     {rising, []events.Status{events.OK, events.Critical, events.Critical, events.Critical}, "Critical live", 2},
		"failures of several kinds count, the last won": {rising, []events.Status{events.OK, events.Critical, events.Unknown, events.Warning}, "Warning live", 2},
		"a success between starts anew":                 {rising, []events.Status{events.OK, events.Critical, events.Critical, events.OK, events.Critical, events.Critical}, "OK live", 1},
		"better needs rise":                             {rising, []events.Status{events.Critical, events.OK}, "Critical live", 1},
		"better comes after rise":                       {rising, []events.Status{events.Critical, events.OK, events.OK}, "OK live", 2},
		"better and worse are counted apart":            {rising, []events.Status{events.Warning, events.OK, events.Critical, events.OK}, "Warning live", 1},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := new(bench).levels(Levels{Registration: tt.reg, Position: 5}, 0)
			is.True(b.last.Write) // a new check is kept
			for i, s := range tt.in {
				b.poll(s, float64(i+1))
			}
			is.Equal(b.summary(), tt.want)
			is.Equal(b.s.Number, tt.number)
		})
	}
}

func TestReduce_WritesWhatCountsOnly(t *testing.T) {
	is := is.New(t)
	reg := polledAt(url)
	reg.Fall = 2
	b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0).poll(events.OK, 1)
	is.True(b.last.Transition != nil && b.last.Dirty) // a new lease is kept, too
	b.poll(events.OK, 2)
	is.Equal(b.last, Outcome{}) // an equal result costs no write
	b.poll(events.Critical, 3)
	is.Equal(b.last, Outcome{Write: true}) // a count in progress is written
	b.poll(events.OK, 4)
	is.Equal(b.last, Outcome{Write: true})
	b.lease = 7
	b.poll(events.OK, 5)
	is.Equal(b.last, Outcome{Dirty: true})
	is.Equal(b.s.Message, "polled OK")
}

func TestReduce_StartPeriod(t *testing.T) {
	is := is.New(t)
	reg := polledAt(url)
	reg.StartPeriod = events.Duration(60 * time.Second)
	b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0)
	b.poll(events.Critical, 10).poll(events.Warning, 59)
	is.Equal(b.summary(), "Unknown pending") // failures within it are no failures
	is.Equal(b.s.Text(), "no result yet")
	is.Equal(len(b.told), 0)
	is.Equal(b.s.Applied, uint64(20)) // but they were counted
	b.poll(events.Critical, 60)
	is.Equal(b.summary(), "Critical live")

	b = new(bench).levels(Levels{Registration: reg, Position: 5}, 0).poll(events.OK, 10).poll(events.Critical, 20)
	is.Equal(b.summary(), "Critical live") // it had started

	silent := pushed(time.Second)
	silent.StartPeriod = events.Duration(60 * time.Second)
	b = new(bench).levels(Levels{Registration: silent, Position: 5}, 0)
	is.Equal(NextDeadline(b.s, b.with), at(60)) // silence within it is none either
}

func TestReduce_Deadline(t *testing.T) {
	warn := pushed(10 * time.Second)
	warn.OnSilence = ptr(events.Warning)
	fast := polledAt(url)
	fast.Interval, fast.Pool = events.Duration(2*time.Second), "edge"
	for name, tt := range map[string]struct {
		reg      *events.Registration
		fold     func(b *bench)
		deadline time.Time
		want     string
		cause    events.Cause
		text     string
	}{
		"of a push": {
			pushed(10 * time.Second), func(b *bench) { b.push(events.OK, 0, 3) }, at(13),
			"Critical stale", events.CauseSilence, "no push for 10s (ttl 10s)",
		},
		"before the first push": {
			warn, func(*bench) {}, at(10),
			"Warning stale", events.CauseSilence, "no push since it was registered 10s ago (ttl 10s)",
		},
		"by the ttl of the push": {
			warn, func(b *bench) { b.push(events.OK, 2*time.Second, 3) }, at(5),
			"Warning stale", events.CauseSilence, "no push for 2s (ttl 2s)",
		},
		"the ttl of a push is that push's alone": {
			warn, func(b *bench) { b.push(events.OK, 2*time.Second, 3); b.push(events.Warning, 0, 4) }, at(14),
			"Warning stale", events.CauseSilence, "no push for 10s (ttl 10s)",
		},
		"a failure is a sign of life": {
			warn, func(b *bench) { b.push(events.Critical, 0, 8) }, at(18),
			"Warning stale", events.CauseSilence, "no push for 10s (ttl 10s)",
		},
		"three intervals without a poll": {
			fast, func(b *bench) { b.poll(events.OK, 4) }, at(10),
			"Unknown stale", events.CauseAway, `not polled for 6s (interval 2s): no worker of the pool "edge" is at work`,
		},
		"three times what a worker that is late took last": {
			fast, func(b *bench) { b.poll(events.OK, 4); b.poll(events.OK, 12) }, at(36),
			"Unknown stale", events.CauseAway, `not polled for 24s (interval 2s): no worker of the pool "edge" is at work`,
		},
		"of which 15 s count": {
			fast, func(b *bench) { b.poll(events.OK, 4); b.poll(events.OK, 100) }, at(145),
			"Unknown stale", events.CauseAway, `not polled for 45s (interval 2s): no worker of the pool "edge" is at work`,
		},
		"not where it was another worker": {
			fast, func(b *bench) { b.poll(events.OK, 4); b.lease = 2; b.poll(events.OK, 12) }, at(18),
			"Unknown stale", events.CauseAway, `not polled for 6s (interval 2s): no worker of the pool "edge" is at work`,
		},
		"half as long once it is in time again": {
			fast, func(b *bench) { b.poll(events.OK, 4); b.poll(events.OK, 12); b.poll(events.OK, 14) }, at(26),
			"Unknown stale", events.CauseAway, `not polled for 12s (interval 2s): no worker of the pool "edge" is at work`,
		},
		"three default intervals without the first poll": {
			polledAt("http://localhost/"), func(*bench) {}, at(60),
			"Unknown stale", events.CauseAway, `not polled for 60s (interval 20s): no worker of the pool "@web01" is at work`,
		},
		"after an outage, a short ttl": {
			pushed(10 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).apply(Outage{From: at(5), To: at(100)}, at(101))
			}, at(110),
			"Critical stale", events.CauseSilence, "no push for 107s (ttl 10s)",
		},
		"after an outage, a long ttl": {
			pushed(500 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).apply(Outage{From: at(5), To: at(490)}, at(491))
			}, at(550),
			"Critical stale", events.CauseSilence, "no push for 547s (ttl 500s)",
		},
		"an outage before it does not matter": {
			pushed(500 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).apply(Outage{From: at(5), To: at(100)}, at(101))
			}, at(503),
			"Critical stale", events.CauseSilence, "no push for 500s (ttl 500s)",
		},
		"a deadline before the outage stays": {
			pushed(10 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).apply(Outage{From: at(13), To: at(100)}, at(101))
			}, at(13),
			"Critical stale", events.CauseSilence, "no push for 10s (ttl 10s)",
		},
		"the grace ends with the next push": {
			pushed(10 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).apply(Outage{From: at(5), To: at(100)}, at(101)).push(events.OK, time.Second, 102)
			}, at(103),
			"Critical stale", events.CauseSilence, "no push for 1s (ttl 1s)",
		},
		"a shorter ttl does not condemn for the past": {
			pushed(500 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).levels(Levels{Registration: pushed(10 * time.Second), Position: 6}, 100)
			}, at(110),
			"Critical stale", events.CauseSilence, "no push for 107s (ttl 10s)",
		},
		"a changed ttl counts from the last push": {
			pushed(500 * time.Second), func(b *bench) {
				b.push(events.OK, 0, 3).levels(Levels{Registration: pushed(10 * time.Second), Position: 6}, 5)
			}, at(13),
			"Critical stale", events.CauseSilence, "no push for 10s (ttl 10s)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := &bench{with: Settings{Interval: 20 * time.Second}}
			b.levels(Levels{Registration: tt.reg, Position: 5}, 0)
			tt.fold(b)
			is.Equal(NextDeadline(b.s, b.with), tt.deadline)
			before := b.s
			if !tt.deadline.Before(before.Since) {
				b.apply(Tick{}, tt.deadline.Add(-time.Millisecond))
				is.Equal(b.s, before) // too early: nothing
			}
			b.apply(Tick{}, tt.deadline)
			is.Equal(b.summary(), tt.want)
			is.Equal(b.last.Transition.Cause, tt.cause)
			is.Equal(b.last.Transition.Message, tt.text)
			is.True(NextDeadline(b.s, b.with).IsZero()) // told once
			after := b.s
			b.apply(Tick{}, tt.deadline.Add(time.Hour))
			is.Equal(b.s, after)
		})
	}
}

func TestReduce_StaleEndsWithTheNextResult(t *testing.T) {
	is := is.New(t)
	reg := pushed(10 * time.Second)
	reg.Rise = 3
	b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0).push(events.OK, 0, 1).tick(11)
	is.Equal(b.summary(), "Critical stale")
	b.push(events.OK, 0, 12)
	is.Equal(b.summary(), "OK live")
	is.Equal(b.s.Text(), "pushed OK")
	is.Equal(b.s.Number, uint64(3))
}

func TestReduce_NoDeadline(t *testing.T) {
	is := is.New(t)
	reg := &events.Registration{TTL: events.Duration(PushKept), Origin: OriginPush}
	b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0).push(events.OK, 0, 1)
	is.Equal(NextDeadline(b.s, b.with), at(1).Add(PushKept)) // a push without ttl: nothing but the end
	b.tick(1 + PushKept.Seconds())
	is.True(b.last.Deregister != "")
	is.Equal(b.last.Transition, nil) // nobody said when it would be silent
	is.Equal(b.summary(), "OK live")

	b = new(bench).levels(Levels{Registration: reg, Position: 5}, 0).push(events.OK, time.Minute, 1).tick(61)
	is.Equal(b.summary(), "Critical stale") // silence is told first
	is.Equal(b.last.Deregister, "")
	b.tick(PushKept.Seconds())
	is.Equal(b.last.Deregister, "")
	b.tick(1 + PushKept.Seconds())
	is.True(b.last.Deregister != "")

	b = new(bench).levels(Levels{Registration: reg, Position: 5}, 0).push(events.OK, 48*time.Hour, 1).tick(1 + 48*3600)
	is.Equal(b.summary(), "Critical stale")
	is.True(b.last.Deregister != "") // told, and then gone
}

func TestReduce_Registration(t *testing.T) {
	other := polledAt("http://example.com/other")
	fussy := polledAt(url)
	fussy.Fall = 3
	same := polledAt(url)
	same.Origin = "file:web.json"
	for name, tt := range map[string]struct {
		fold   func(b *bench)
		want   string
		number uint64
		causes []events.Cause
	}{
		"an equal one changes nothing": {
			func(b *bench) { b.levels(Levels{Registration: same, Position: 9}, 5) }, "OK live", 1, []events.Cause{"result"},
		},
		"a changed one keeps status and number": {
			func(b *bench) { b.levels(Levels{Registration: fussy, Position: 9}, 5) }, "OK live", 1, []events.Cause{"result"},
		},
		"another address is pending again": {
			func(b *bench) { b.levels(Levels{Registration: other, Position: 9}, 5) }, "Unknown pending", 2, []events.Cause{"result", "registration"},
		},
		"no address is another one": {
			func(b *bench) { b.levels(Levels{Registration: pushed(time.Minute), Position: 9}, 5) }, "Unknown pending", 2, []events.Cause{"result", "registration"},
		},
		"deregistering is a transition": {
			func(b *bench) { b.levels(Levels{}, 5) }, "Unknown gone", 2, []events.Cause{"result", "registration"},
		},
		"deregistering twice is one": {
			func(b *bench) { b.levels(Levels{}, 5).levels(Levels{}, 6) }, "Unknown gone", 2, []events.Cause{"result", "registration"},
		},
		"a check that returns counts on": {
			func(b *bench) {
				b.levels(Levels{}, 5).levels(Levels{Registration: polledAt(url), Position: 9}, 6).poll(events.OK, 7)
			}, "OK live", 4, []events.Cause{"result", "registration", "registration", "result"},
		},
		"results after the end do not count": {
			func(b *bench) { b.levels(Levels{}, 5).poll(events.Critical, 6) }, "Unknown gone", 2, []events.Cause{"result", "registration"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := new(bench).levels(Levels{Registration: polledAt(url), Position: 5}, 0).poll(events.OK, 1)
			tt.fold(b)
			is.Equal(b.summary(), tt.want)
			is.Equal(b.s.Number, tt.number)
			var causes []events.Cause
			for _, tr := range b.told {
				causes = append(causes, tr.Cause)
			}
			is.Equal(causes, tt.causes)
		})
	}
}

func TestReduce_EqualRegistrationIsNotWritten(t *testing.T) {
	is := is.New(t)
	b := new(bench).levels(Levels{Registration: polledAt(url), Position: 5}, 0).poll(events.OK, 1)
	b.levels(Levels{Registration: polledAt(url), Position: 9}, 5)
	is.Equal(b.last, Outcome{})
	is.Equal(b.s.Reg, uint64(9))
	is.Equal(b.s.Started, at(0))
	b.poll(events.OK, 6) // of the new position
	is.True(!b.last.Dropped)
}

func TestReduce_ChangedRegistrationStartsTheCountAnew(t *testing.T) {
	is := is.New(t)
	reg := polledAt(url)
	reg.Fall = 2
	b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0).poll(events.OK, 1).poll(events.Critical, 2)
	late := b.polled(events.Critical, 3)
	late.Position += 5
	slower := *reg
	slower.Timeout = events.Duration(time.Second)
	b.levels(Levels{Registration: &slower, Position: 9}, 3)
	is.True(b.last.Write)
	is.Equal(b.s.Streak, 0)
	b.apply(late, at(4))
	is.True(b.last.Dropped) // polled by the former registration
	is.Equal(b.s.Streak, 0)
	b.poll(events.Critical, 5)
	is.Equal(b.summary(), "OK live")
}

func TestReduce_UnknownChecks(t *testing.T) {
	is := is.New(t)
	b := new(bench).push(events.OK, 30*time.Second, 1)
	is.Equal(b.last.Register.Validate(), nil) // what a first push registers is valid
	is.Equal(b.last.Register.Origin, OriginPush)
	is.Equal(b.s, events.CheckState{}) // nothing else happens
	b.poll(events.OK, 2)
	is.Equal(b.last, Outcome{Dropped: true}) // a poll registers nothing

	b = new(bench).levels(Levels{Registration: pushed(time.Minute), Position: 5}, 0).push(events.OK, 0, 1).levels(Levels{}, 10)
	b.push(events.OK, 0, 69)
	is.True(b.last.Register == nil && b.last.Reject != "") // the last words of a service that goes
	b.push(events.OK, 0, 70)
	is.True(b.last.Register != nil)

	b = new(bench).levels(Levels{Registration: polledAt(url), Position: 5}, 0).push(events.OK, 0, 1)
	is.True(b.last.Reject != "") // a push to a polled check
	is.Equal(b.summary(), "Unknown pending")

	b = new(bench).levels(Levels{Registration: pushed(time.Minute), Position: 5}, 0).poll(events.OK, 1)
	is.True(b.last.Dropped)
}

// A push that counted is read again where its owner died. Its check may have changed
// since, or be gone: that is no reason to refuse it.
func TestReduce_PushReadAgain(t *testing.T) {
	for name, since := range map[string]Levels{
		"its check is polled by now": {Registration: polledAt(url), Position: 6},
		"its check is gone":          {},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := new(bench).levels(Levels{Registration: pushed(time.Minute), Position: 5}, 0).push(events.OK, 0, 1).levels(since, 10)
			before := b.s
			b.pos -= 10
			b.push(events.Critical, 0, 1)
			is.Equal(b.last, Outcome{Dropped: true})
			is.Equal(b.s, before)
		})
	}
}

func TestReduce_OrderOfPolls(t *testing.T) {
	for name, change := range map[string]func(r *Result){
		"a duplicate":                   func(*Result) {},
		"a repetition, stored again":    func(r *Result) { r.Position++ },
		"one that was due before":       func(r *Result) { r.Position++; r.Result.Due-- },
		"one of a superseded worker":    func(r *Result) { r.Position++; r.Result.Lease--; r.Result.Due += 1000 },
		"one of a former registration":  func(r *Result) { r.Position++; r.Result.Reg--; r.Result.Lease++ },
		"one that was stored long ago":  func(r *Result) { r.Position = 1; r.Result.Due += 1000 },
		"one without any order, stored": func(r *Result) { r.Position++; r.Result.Reg, r.Result.Lease, r.Result.Due = 0, 0, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := &bench{lease: 4}
			b.levels(Levels{Registration: polledAt(url), Position: 5}, 0).poll(events.OK, 1)
			before, r := b.s, b.polled(events.Critical, 1)
			change(&r)
			b.apply(r, at(2))
			is.Equal(b.last, Outcome{Dropped: true})
			is.Equal(b.s, before)
		})
	}
}

func TestReduce_Override(t *testing.T) {
	ok := func(o events.Override) *events.Override { o.Status = ptr(events.OK); return &o }
	until := ok(events.Override{Until: events.At(at(10)), Reason: "moving", By: "ann"})
	for name, tt := range map[string]struct {
		fold   func(b *bench, reg *events.Registration)
		want   string
		causes []events.Cause // after the first result
	}{
		"a status hides the reported one": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{Forever: true}), OverridePos: 7}, 2).push(events.Warning, 0, 3)
			}, "OK overridden", []events.Cause{"override"},
		},
		"maintenance keeps it": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: &events.Override{Maintenance: true, Forever: true}, OverridePos: 7}, 2)
			}, "Critical maintenance", []events.Cause{"override"},
		},
		"cleared, what is reported shows": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{Forever: true}), OverridePos: 7}, 2)
				b.push(events.Warning, 0, 3).levels(Levels{Registration: reg, Position: 5}, 4)
			}, "Warning live", []events.Cause{"override", "override"},
		},
		"it ends by a tick": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 2).push(events.Critical, 0, 11).tick(12)
			}, "Critical live", []events.Cause{"override", "expired"},
		},
		"it does not end without one": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 2).push(events.Critical, 0, 11)
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 12)
			}, "OK overridden", []events.Cause{"override"},
		},
		"one that ended does not come back": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 2).tick(10)
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 11)
			}, "Critical live", []events.Cause{"override", "expired"},
		},
		"one that is over when it is seen never held": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 10)
			}, "Critical live", nil,
		},
		"until the next push": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{UntilPush: true}), OverridePos: 7, OverrideSet: at(2)}, 2)
				b.tick(100000).push(events.Warning, 0, 100001)
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{UntilPush: true}), OverridePos: 7, OverrideSet: at(2)}, 100002)
			}, "Warning live", []events.Cause{"override", "expired"},
		},
		"a push that was stored before does not end it": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{UntilPush: true}), OverridePos: 7, OverrideSet: at(5)}, 6)
				b.push(events.Warning, 0, 4)
			}, "OK overridden", []events.Cause{"override"},
		},
		"silence below it is not told": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{Forever: true}), OverridePos: 7}, 2).tick(100000)
			}, "OK overridden", []events.Cause{"override"},
		},
		"silence and the end of it are one transition": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: until, OverridePos: 7}, 2).tick(100000)
			}, "Critical stale", []events.Cause{"override", "expired"},
		},
		"another status of it is a transition": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{Forever: true}), OverridePos: 7}, 2)
				b.levels(Levels{Registration: reg, Position: 5, Override: &events.Override{Status: ptr(events.Warning), Forever: true}, OverridePos: 8}, 3)
			}, "Warning overridden", []events.Cause{"override", "override"},
		},
		"deregistered under it": {
			func(b *bench, reg *events.Registration) {
				b.levels(Levels{Registration: reg, Position: 5, Override: ok(events.Override{Forever: true}), OverridePos: 7}, 2)
				b.levels(Levels{Override: ok(events.Override{Forever: true}), OverridePos: 7}, 3)
			}, "Unknown gone", []events.Cause{"override", "registration"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			reg := pushed(time.Hour)
			b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0).push(events.Critical, 0, 1)
			tt.fold(b, reg)
			is.Equal(b.summary(), tt.want)
			var causes []events.Cause
			for _, tr := range b.told[1:] {
				causes = append(causes, tr.Cause)
			}
			is.Equal(causes, tt.causes)
		})
	}
}

func TestReduce_OverrideText(t *testing.T) {
	is := is.New(t)
	o := &events.Override{Status: ptr(events.OK), Forever: true, Reason: "moving", By: "ann"}
	reg := pushed(time.Hour)
	b := new(bench).levels(Levels{Registration: reg, Position: 5}, 0).push(events.Critical, 0, 1)
	b.levels(Levels{Registration: reg, Position: 5, Override: o, OverridePos: 7}, 2)
	is.Equal(b.last.Transition.Message, "overridden by ann: moving")
	b.push(events.Warning, 0, 3)
	is.True(b.last.Write) // what it hides counts
	b.levels(Levels{Registration: reg, Position: 5}, 4)
	is.Equal(b.last.Transition.Message, "pushed Warning")
}

func TestReduce_ToldTransition(t *testing.T) {
	is := is.New(t)
	labels := map[string]string{"site": "ams"}
	b := new(bench).levels(Levels{Registration: polledAt(url), Position: 5, Labels: labels}, 0).poll(events.OK, 1).poll(events.Critical, 2)
	is.Equal(b.told, []events.Transition{
		{
			Host: "web01", Check: "db", Number: 1, Previous: events.Moment{Phase: events.Pending},
			Current: events.Moment{Status: ptr(events.OK), Phase: events.Live, Since: events.At(at(1))},
			Message: "polled OK", Labels: labels, Cause: events.CauseResult,
		},
		{
			Host: "web01", Check: "db", Number: 2,
			Previous: events.Moment{Status: ptr(events.OK), Phase: events.Live, Since: events.At(at(1))},
			Current:  events.Moment{Status: ptr(events.Critical), Phase: events.Live, Since: events.At(at(2))},
			Message:  "polled Critical", Labels: labels, Cause: events.CauseResult,
		},
	})
}

func TestFingerprint(t *testing.T) {
	is := is.New(t)
	a, b := *polledAt(url), *polledAt(url)
	b.Origin = "http"
	is.Equal(Fingerprint(a), Fingerprint(b)) // who registered it does not matter
	b.Interval = events.Duration(time.Second)
	is.True(Fingerprint(a) != Fingerprint(b))
	is.Equal(Fingerprint(a) == Fingerprint(b), a.Equal(b))
}
