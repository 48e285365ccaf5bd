package aggregator

import (
	"fmt"
	"time"

	"github.com/looprock/megaphone/events"
)

// maxInterval keeps three of them within a time.Duration.
const maxInterval = 90 * 365 * 24 * time.Hour

// maxGrace is how long after an outage of our own nobody is condemned.
const maxGrace = time.Minute

// NextDeadline is the bus time at which a tick would change the check: its
// silence, the end of its override, or its deregistration. The zero time: never.
func NextDeadline(s events.CheckState, with Settings) time.Time {
	next := silenceDeadline(s, with)
	if s.Override != nil {
		next = sooner(next, s.Override.Until.Time)
	}
	return sooner(next, retirement(s, with))
}

// sooner returns the earlier of two times of which the zero one means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due reports whether a deadline has come at now.
func due(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

// silenceDeadline is when a check without a further result becomes stale; zero: never.
func silenceDeadline(s events.CheckState, with Settings) time.Time {
	if with.Registration == nil || s.Basis != events.Pending && s.Basis != events.Live {
		return time.Time{}
	}
	d := span(s, with)
	if d <= 0 {
		return time.Time{}
	}
	deadline := later(s.Started, s.Seen).Add(d)
	if s.Basis == events.Pending {
		deadline = later(deadline, s.Started.Add(with.Registration.StartPeriod.D()))
	}
	return later(deadline, s.Grace)
}

// span is how long a check may be silent: of a polled one [events.CheckState.Patience]; of a
// pushed one the ttl of its last push, else that of its registration, unless that
// was made by a push; 0: for ever.
func span(s events.CheckState, with Settings) time.Duration {
	switch r := with.Registration; {
	case !r.Push():
		return s.Patience(min(interval(with), maxInterval))
	case s.TTL > 0:
		return max(s.TTL.D(), events.MinDuration)
	case r.Origin == OriginPush:
		return 0
	default:
		return r.TTL.D()
	}
}

func interval(with Settings) time.Duration {
	switch {
	case with.Registration.Interval > 0:
		return with.Registration.Interval.D()
	case with.Interval > 0:
		return with.Interval
	}
	return DefaultInterval
}

// retirement is when a check that was registered by a push is deregistered; zero:
// never, or not before its silence has been told.
func retirement(s events.CheckState, with Settings) time.Time {
	if with.Registration == nil || with.Registration.Origin != OriginPush || s.Basis == events.Gone || !silenceDeadline(s, with).IsZero() {
		return time.Time{}
	}
	return later(s.Started, s.Seen).Add(PushKept)
}

func reduceTick(s events.CheckState, with Settings, now time.Time) (events.CheckState, Outcome) {
	before, out, cause := s, Outcome{}, events.Cause("")
	if due(silenceDeadline(s, with), now) {
		s, cause = silence(s, with, now)
	}
	if s.Override != nil && due(s.Override.Until.Time, now) {
		out.Ended, out.EndedPos, cause = s.Override, s.OverPos, events.CauseExpired
		s.Ended, s.Override, s.OverPos = max(s.Ended, s.OverPos), nil, 0
	}
	if due(retirement(s, with), now) {
		out.Deregister = "no push for " + PushKept.String()
	}
	if cause == "" {
		return s, out
	}
	return settle(before, s, cause, now, out)
}

// silence makes a check stale whose deadline has come.
func silence(s events.CheckState, with Settings, now time.Time) (events.CheckState, events.Cause) {
	cause, r, ago := events.CauseSilence, with.Registration, now.Sub(later(s.Started, s.Seen))
	switch {
	case !r.Push():
		cause, s.Reported = events.CauseAway, events.Unknown
		if s.Suspect != "" {
			s.Message = events.Cut(fmt.Sprintf("no result that counts for %s (interval %s): %s", seconds(ago), seconds(interval(with)), s.Suspect), events.MaxMessage)
			break
		}
		s.Message = fmt.Sprintf("not polled for %s (interval %s): no worker of the pool %q is at work",
			seconds(ago), seconds(interval(with)), r.PoolName())
	case s.Basis == events.Pending && s.Seen.Before(s.Started): // a first push is older than its registration
		s.Reported = r.Silence()
		s.Message = fmt.Sprintf("no push since it was registered %s ago (ttl %s)", seconds(ago), seconds(span(s, with)))
	default:
		s.Reported = r.Silence()
		s.Message = fmt.Sprintf("no push for %s (ttl %s)", seconds(ago), seconds(span(s, with)))
	}
	s.Basis, s.Grace = events.Stale, time.Time{}
	s.Candidate, s.Streak = events.Unknown, 0
	return s, cause
}

// seconds writes a span for people: whole seconds above ten, else tenths.
func seconds(d time.Duration) string {
	unit := time.Second
	if d < 10*time.Second {
		unit = 100 * time.Millisecond
	}
	if d < unit {
		return events.Duration(d).String()
	}
	return events.Duration(d.Truncate(unit)).String()
}

// reduceOutage puts off a deadline that was still to come when the outage began.
func reduceOutage(s events.CheckState, with Settings, in Outage) (events.CheckState, Outcome) {
	deadline := silenceDeadline(s, with)
	if deadline.IsZero() || !deadline.After(in.From) {
		return s, Outcome{}
	}
	grace := in.To.Add(min(span(s, with), maxGrace)).UTC()
	if !grace.After(deadline) {
		return s, Outcome{}
	}
	s.Grace = grace
	return s, Outcome{Dirty: true}
}
