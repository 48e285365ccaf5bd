package aggregator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/looprock/megaphone/events"
)

// Fingerprint is a short name for what a registration says, its origin aside: two
// registrations with one fingerprint are equal in the sense of
// [events.Registration.Equal].
func Fingerprint(r events.Registration) string {
	r.Origin = ""
	b, err := json.Marshal(r)
	if err != nil { // a url that is no JSON: never stored, since it is not valid
		b = append([]byte(r.Host+"\n"+r.ID+"\n"), r.URL...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func reduceLevels(s events.CheckState, with Settings, in Levels, now time.Time) (events.CheckState, Outcome) {
	if in.Registration == nil {
		return deregister(s, now)
	}
	before, cause := s, events.CauseRegistration
	if s.Phase == "" { // seen for the first time
		before.Phase = events.Pending
		s.V, s.Host, s.Check, s.Phase = events.RecordVersion, in.Host, in.Check, events.Pending
	}
	s = register(s, with, in, now)
	s.Labels = in.Labels
	override, position := in.Override, in.OverridePos
	if override == nil || hasEnded(s, override, position, now) {
		override, position = nil, 0
	}
	if position != s.OverPos {
		cause = events.CauseOverride
	}
	s.Override, s.OverPos = override, position // also of one that holds: see stateHeader
	return settle(before, s, cause, now, Outcome{})
}

// register applies the registration of a check that is registered.
func register(s events.CheckState, with Settings, in Levels, now time.Time) events.CheckState {
	spec, addr := Fingerprint(*in.Registration), address(*in.Registration)
	anew := s.Spec == "" || s.Basis == events.Gone || addr != s.Addr
	changed := spec != s.Spec
	s.Reg, s.Spec, s.Addr, s.Origin = in.Position, spec, addr, in.Registration.Origin
	switch {
	case anew:
		s.Basis, s.Reported, s.Started = events.Pending, events.Unknown, in.Stored.UTC()
		s.TTL, s.Message, s.Grace = 0, "", time.Time{}
		s.Observed, s.LatencySeconds = time.Time{}, 0
		fallthrough
	case changed:
		s.Candidate, s.Streak = events.Unknown, 0
		s.Order = events.Order{Reg: in.Position} // results of the former registration are late
	}
	if in.Position < s.Order.Reg { // put back into a stream that a power cut made shorter
		s.Order = events.Order{Reg: in.Position}
	}
	if changed && !anew {
		// A shorter interval or ttl does not condemn for the time before it.
		with.Registration = in.Registration
		if d := silenceDeadline(s, with); !d.IsZero() && !d.After(now) {
			s.Grace = now.Add(span(s, with)).UTC()
		}
	}
	return s
}

// address is what a check is recognised by as the same: a registration with
// another one begins anew.
func address(r events.Registration) string {
	t, err := r.Target()
	if err != nil {
		return string(r.URL)
	}
	return t.Addr
}

// TextGone is the message of a check that is gone.
const TextGone = "deregistered"

func deregister(s events.CheckState, now time.Time) (events.CheckState, Outcome) {
	if s.Phase == "" || s.Basis == events.Gone {
		return s, Outcome{}
	}
	before := s
	s.Basis, s.Reported, s.Message = events.Gone, events.Unknown, TextGone
	s.Spec, s.Override, s.OverPos, s.TTL, s.Grace = "", nil, 0, 0, time.Time{}
	s.Candidate, s.Streak = events.Unknown, 0
	return settle(before, s, events.CauseRegistration, now, Outcome{})
}

// hasEnded reports whether an override at a position is over for the check: it
// ended there before, or its time was up before it was ever applied. One that
// holds ends by a tick alone.
func hasEnded(s events.CheckState, o *events.Override, position uint64, now time.Time) bool {
	return overrideOver(o, position, s.OverPos, s.Ended, now)
}

func overrideOver(o *events.Override, position, held, ended uint64, now time.Time) bool {
	switch {
	case position == held:
		return false
	case position == ended, o.UntilPush && position < ended:
		return true
	}
	return !o.Until.IsZero() && !now.Before(o.Until.Time)
}
