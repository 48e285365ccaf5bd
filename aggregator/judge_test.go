package aggregator

import (
	"reflect"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"pgregory.net/rapid"
)

// story is what one pushed check went through since it was registered, in the words
// of DESIGN.md. judge says from all of it, each time from the beginning, what is to
// be shown: it is the model that the reducer, which remembers a few fields, is held
// against.
type story []chapter

// chapter is one of three: a registration, a push, or a moment that was looked at.
type chapter struct {
	at         time.Duration // since the first registration
	registered *events.Registration
	pushed     *events.Status
}

const storyTTL = 20 * time.Second

func (s story) judge() (events.Status, events.Phase) {
	reg, started := s[0].registered, s[0].at
	heard, spared := started, time.Duration(0)
	var said []events.Status // what counts since the check was last pending or stale
	shown, phase := events.Unknown, events.Pending
	deadline := func() time.Duration {
		d := max(heard+storyTTL, spared)
		if phase == events.Pending {
			d = max(d, started+reg.StartPeriod.D())
		}
		return d
	}
	for _, c := range s[1:] {
		switch {
		case c.registered != nil:
			if reflect.DeepEqual(c.registered, reg) {
				continue // nothing changes
			}
			reg = c.registered
			if phase == events.Live {
				said = []events.Status{shown}
			}
			if phase != events.Stale && c.at >= deadline() { // not condemned for the time before
				spared = c.at + storyTTL
			}
		case c.pushed != nil:
			heard, spared = c.at, 0
			if phase == events.Pending && *c.pushed != events.OK && c.at < started+reg.StartPeriod.D() {
				continue
			}
			if phase != events.Live {
				said = nil
			}
			said = append(said, *c.pushed)
			shown, phase = believed(said, reg.Rise, reg.Fall), events.Live
		case phase != events.Stale && c.at >= deadline():
			shown, phase = reg.Silence(), events.Stale
		}
	}
	return shown, phase
}

// believed is what a series of results amounts to: the first at once; another only
// after rise results in a row that are all better, or fall that are all worse.
func believed(said []events.Status, rise, fall int) events.Status {
	holds, since := said[0], 0
	for i := range said {
		worse, better := 0, 0
		for j := i; j > since && said[j].Severity() > holds.Severity(); j-- {
			worse++
		}
		for j := i; j > since && said[j].Severity() < holds.Severity(); j-- {
			better++
		}
		if worse > 0 && worse >= fall || better > 0 && better >= rise {
			holds, since = said[i], i
		}
	}
	return holds
}

func drawStory(t *rapid.T) story {
	draw := func() *events.Registration {
		return &events.Registration{
			Host: "web01", ID: "db", TTL: events.Duration(storyTTL),
			Rise: rapid.IntRange(0, 4).Draw(t, "rise"), Fall: rapid.IntRange(0, 4).Draw(t, "fall"),
			StartPeriod: events.Duration(time.Duration(rapid.IntRange(0, 40).Draw(t, "start period")) * time.Second),
			OnSilence:   ptr(rapid.SampledFrom(events.Statuses()).Draw(t, "on silence")),
		}
	}
	at := time.Duration(0)
	s := story{{registered: draw()}}
	for range rapid.IntRange(1, 60).Draw(t, "chapters") {
		at += time.Duration(rapid.IntRange(1, 9000).Draw(t, "ms")) * time.Millisecond
		if rapid.IntRange(0, 9).Draw(t, "pause") == 0 {
			at += storyTTL
		}
		c := chapter{at: at}
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			c.registered = draw()
		case 1, 2, 3:
		default:
			c.pushed = ptr(rapid.SampledFrom(events.Statuses()).Draw(t, "status"))
		}
		s = append(s, c)
	}
	return s
}

// TestReduce_AgainstAJudge holds rise, fall, start_period, ttl and on_silence against
// a model that has the whole story before it.
func TestReduce_AgainstAJudge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, b := drawStory(t), new(bench)
		for i, c := range s {
			switch {
			case c.registered != nil:
				b.levels(Levels{Registration: c.registered, Position: uint64(i + 1)}, c.at.Seconds())
			case c.pushed != nil:
				b.push(*c.pushed, 0, c.at.Seconds())
			default:
				b.apply(Tick{}, zero.Add(c.at))
			}
			status, phase := s[:i+1].judge()
			if b.s.Phase != phase || phase != events.Pending && b.s.Status != status {
				t.Fatalf("after chapter %d (%+v) it is %s %s, not %s %s", i, c, b.s.Phase, b.s.Status, phase, status)
			}
		}
	})
}
