package aggregator

import (
	"maps"
	"time"

	"github.com/looprock/megaphone/events"
)

// Settings are how a check is to be treated: what was last applied by [Levels],
// and the defaults of the process. They are not part of the state, because every
// process reads them from its own copy of the registrations.
type Settings struct {
	Registration *events.Registration // nil: not registered
	OverrideSet  time.Time            // bus time of the override that holds
	Interval     time.Duration        // between two polls where the registration says nothing; 0 means DefaultInterval
}

// DefaultInterval is the interval of polls where nothing else is said.
const DefaultInterval = 10 * time.Second

// Input is what may change a check: a [Result], [Levels], a [Tick] or an [Outage].
type Input interface{ input() }

// Result is what one poll or push found, as it lies in the stream RESULTS.
type Result struct {
	Host     string
	Check    string
	Polled   bool // by a worker; else pushed
	Position uint64
	Observed time.Time
	ID       string // of its event
	Result   events.Result
}

// Levels are the registration, labels and override that hold now. They are
// applied as levels: only a difference from the state is an input, so that
// applying them twice, or after any number of missed changes, does no harm.
type Levels struct {
	Host         string
	Check        string
	Registration *events.Registration // nil: none
	Position     uint64               // of the registration
	Stored       time.Time            // bus time of the registration
	Labels       map[string]string    // the host's overlaid with the check's
	Override     *events.Override     // the effective one; nil: none
	OverridePos  uint64
	OverrideSet  time.Time // bus time of the override
}

// Tick says that the time of the bus has come to now, and that everything that
// was stored before has been applied.
type Tick struct{}

// Outage says that the bus stored nothing for a while, so that silence within
// that time proves nothing.
type Outage struct{ From, To time.Time }

func (Result) input() {}
func (Levels) input() {}
func (Tick) input()   {}
func (Outage) input() {}

// Outcome is what follows from an input, beside the new state. The zero value
// means that nothing is to be done.
type Outcome struct {
	Transition *events.Transition   // to be committed
	Write      bool                 // the state counts and has to be stored, although there is no transition
	Dirty      bool                 // the state has to be stored before the next checkpoint
	Dropped    bool                 // the result does not count: a duplicate, late, or a superseded worker's
	Reject     string               // why the result is refused; empty: it is not
	Register   *events.Registration // a first push: register this, then reduce the result again
	Deregister string               // why the check has to be deregistered; empty: it has not
	Ended      *events.Override     // an override that ended by itself
	EndedPos   uint64               // its position
}

// Reduce applies one input to a check. now is the input's bus time. It is pure:
// the same arguments give the same results, and nothing that they point to is
// changed.
func Reduce(s events.CheckState, with Settings, in Input, now time.Time) (events.CheckState, Outcome) {
	switch in := in.(type) {
	case Result:
		return reduceResult(s, with, in, now)
	case Levels:
		return reduceLevels(s, with, in, now)
	case Tick:
		return reduceTick(s, with, now)
	case Outage:
		return reduceOutage(s, with, in)
	}
	return s, Outcome{}
}

// told is what is shown of a check: the status and phase of its basis under the
// override.
func told(s events.CheckState) (events.Status, events.Phase) {
	switch o := s.Override; {
	case s.Basis == events.Gone:
		return events.Unknown, events.Gone
	case o == nil:
		return s.Reported, s.Basis
	case o.Maintenance || o.Status == nil:
		return s.Reported, events.Maintenance
	default:
		return *o.Status, events.Overridden
	}
}

// settle ends the reduction of s, which was before: a change of what is told
// becomes the next transition; one of what counts has to be written.
func settle(before, s events.CheckState, cause events.Cause, now time.Time, out Outcome) (events.CheckState, Outcome) {
	s.Status, s.Phase = told(s)
	if s.Status == before.Status && s.Phase == before.Phase {
		out.Write = out.Write || counts(before, s)
		return s, out
	}
	s.Number++
	s.Since = later(now.UTC(), before.Since)
	out.Transition = &events.Transition{
		Host: s.Host, Check: s.Check, Number: s.Number, Previous: before.Moment(), Current: s.Moment(),
		Message: s.Text(), Labels: s.Labels, Cause: cause,
	}
	out.Write = false // the transition bears the state
	return s, out
}

// counts reports whether two states differ in what a restart must not forget.
// The position of the last result and what comes with it are not among that:
// they are read again from RESULTS. Neither are position and origin of the
// registration, which come with the levels.
func counts(a, b events.CheckState) bool {
	return a.Reported != b.Reported || a.Basis != b.Basis || a.Spec != b.Spec || a.Addr != b.Addr ||
		!a.Started.Equal(b.Started) || a.OverPos != b.OverPos || a.Ended != b.Ended ||
		a.Candidate != b.Candidate || a.Streak != b.Streak || !maps.Equal(a.Labels, b.Labels)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
