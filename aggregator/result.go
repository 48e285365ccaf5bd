package aggregator

import (
	"fmt"
	"time"

	"github.com/looprock/megaphone/events"
)

// Times of checks that were registered by a push, and of those that went.
const (
	PushKept    = 24 * time.Hour   // since its last push, then it is deregistered
	ReturnDelay = 60 * time.Second // after a deregistration a push does not register again
)

// OriginPush is the origin of a registration that was made by a first push.
const OriginPush = "push"

func reduceResult(s events.CheckState, with Settings, in Result, now time.Time) (events.CheckState, Outcome) {
	if with.Registration == nil || s.Spec == "" || s.Basis == events.Gone {
		return s, unknown(s, in, now)
	}
	push := with.Registration.Push()
	switch {
	case in.Polled && push, !s.FreshResult(in.Result, in.Polled, in.Position):
		return s, Outcome{Dropped: true}
	case in.Polled && in.Result.Reg > s.Reg: // of a registration that a power cut took from the stream
		return s, Outcome{Dropped: true}
	case !in.Polled && !push:
		return s, Outcome{Reject: fmt.Sprintf("check %s is polled at %s: a push to it is refused; push under another id, or register it without url", s.Check, s.Addr)}
	}
	if in.Polled && in.Result.Suspect != "" {
		spent := s.Order
		s.Doubt(in.Result)
		return s, Outcome{Dirty: s.Order.Lease != spent.Lease || s.Order.Reg != spent.Reg}
	}
	before, out, cause := s, Outcome{}, events.CauseResult
	if !in.Polled && endsByPush(s, with, now) {
		out.Ended, out.EndedPos, cause = s.Override, s.OverPos, events.CauseExpired
		s.Ended, s.Override, s.OverPos = max(s.Ended, s.OverPos), nil, 0
	}
	s = count(s, with, in.Result, now)
	s = Remember(s, in, now)
	// A superseded worker must stay superseded after a restart, too.
	out.Dirty = in.Polled && (s.Order.Lease != before.Order.Lease || s.Order.Reg != before.Order.Reg)
	return settle(before, s, cause, now, out)
}

// unknown is about a result of a check that is not registered.
func unknown(s events.CheckState, in Result, now time.Time) Outcome {
	switch {
	case in.Polled || in.Position <= s.Applied:
		return Outcome{Dropped: true}
	case s.Basis == events.Gone && now.Before(s.Since.Add(ReturnDelay)):
		return Outcome{Reject: tooSoon(in.Check, s.Since)}
	}
	return Outcome{Register: &events.Registration{
		// A registration without url needs a ttl. It is no deadline for this
		// origin (see span): only the ttl in a push is one.
		ID: in.Check, Host: in.Host, TTL: events.Duration(PushKept), Origin: OriginPush,
	}}
}

// tooSoon says why a push does not register a check.
func tooSoon(check string, ended time.Time) string {
	return fmt.Sprintf("check %s was deregistered at %s: a push registers it again only after %s; register it", check, events.At(ended), ReturnDelay)
}

// count folds a result that counts into the reported status.
func count(s events.CheckState, with Settings, r events.Result, now time.Time) events.CheckState {
	reg := with.Registration
	switch {
	case s.Basis == events.Pending && r.Status != events.OK && reg.StartPeriod > 0 && now.Before(s.Started.Add(reg.StartPeriod.D())):
		return s // still starting: no failure yet. A first push is older than the registration that it makes
	case s.Basis != events.Live:
		// What was reported before, if anything, no longer holds: the first
		// result is believed at once.
		return adopt(s, r.Status)
	case r.Status == s.Reported:
		s.Candidate, s.Streak = events.Unknown, 0
		return s
	}
	// Results that are worse, or better, than what is reported are counted
	// together, and the last of them is believed.
	worse := r.Status.Severity() > s.Reported.Severity()
	if s.Streak > 0 && worse != (s.Candidate.Severity() > s.Reported.Severity()) {
		s.Streak = 0
	}
	s.Candidate, s.Streak = r.Status, s.Streak+1
	need := reg.Rise
	if worse {
		need = reg.Fall
	}
	if s.Streak >= need {
		return adopt(s, r.Status)
	}
	return s
}

func adopt(s events.CheckState, status events.Status) events.CheckState {
	s.Basis, s.Reported = events.Live, status
	s.Candidate, s.Streak = events.Unknown, 0
	return s
}

// Remember notes a result that counts as the last one, without judging its
// status. A takeover uses it for results whose effects are in the state already.
// now is the result's bus time.
func Remember(s events.CheckState, in Result, now time.Time) events.CheckState {
	s.Applied, s.Seen, s.Grace = in.Position, now.UTC(), time.Time{}
	if in.Polled {
		s.Polled(in.Result.Order())
	} else {
		s.TTL = in.Result.TTL
	}
	s.Refresh(in.Result, in.Observed.UTC())
	return s
}

// endsByPush reports whether the override that holds ends by a push that was
// stored at now: not by one that was stored before the override was set.
func endsByPush(s events.CheckState, with Settings, now time.Time) bool {
	return s.Override != nil && s.Override.UntilPush && !now.Before(with.OverrideSet)
}
