package aggregator

import (
	"cmp"
	"maps"
	"time"

	"github.com/looprock/megaphone/events"
)

// HostInput is what may change a host beside its checks: [HostLevels], a [Tick],
// or [Pushed].
type HostInput interface{ hostInput() }

// HostLevels are the labels and the override of a host that hold now.
type HostLevels struct {
	Labels      map[string]string
	Override    *events.Override // nil: none
	OverridePos uint64
}

// Pushed says that a check of the host was pushed to: it ends an override of
// the host that holds until then.
type Pushed struct{}

func (HostLevels) hostInput() {}
func (Pushed) hostInput()     {}
func (Tick) hostInput()       {}

// ReduceHost derives a host from its checks, which must be ordered by id, after
// an input of its own, or nil. cause is why the checks changed, if they did. now
// is the input's bus time. It is as pure as [Reduce].
func ReduceHost(h events.HostState, host string, checks []*events.CheckState, in HostInput, cause events.Cause, now time.Time) (events.HostState, Outcome) {
	before, out := h, Outcome{}
	if h.Phase == "" {
		before.Phase = events.Pending
		h.V, h.Host, h.Phase = events.RecordVersion, host, events.Pending
	}
	h, out, cause = applyHost(h, in, cause, now, out)
	if h.Number == 0 && len(checks) == 0 && h.Override == nil {
		return h, out // nothing was ever told of it
	}
	h.Status, h.Phase, h.Reported = outline(checks).Apply(h.Override)
	if h.Status == before.Status && h.Phase == before.Phase {
		out.Write = h.OverPos != before.OverPos || h.Ended != before.Ended || !maps.Equal(h.Labels, before.Labels)
		return h, out
	}
	sum := events.Summarize(checks)
	h.Number++
	h.Since = later(now.UTC(), before.Since)
	out.Transition = &events.Transition{
		Host: h.Host, Number: h.Number, Previous: before.Moment(), Current: h.Moment(),
		Message: hostText(h, sum), Labels: h.Labels, Cause: cmp.Or(cause, events.CauseRegistration),
		Checks: sum.NotOK[:min(len(sum.NotOK), events.MaxTold)],
	}
	return h, out
}

// outline is [events.Summarize] without the text, which would cost too much for
// each of the many transitions of a host with many checks.
func outline(checks []*events.CheckState) events.Summary {
	sum := events.Summary{Status: events.OK, Phase: events.Gone}
	rank := 0 // of the phase: one live check makes the host live
	for _, c := range checks {
		phase, n := events.Live, 4
		switch c.Phase {
		case events.Gone:
			continue
		case events.Pending:
			phase, n = events.Pending, 1
		case events.Maintenance:
			phase, n = events.Maintenance, 2
		case events.Stale:
			phase, n = events.Stale, 3
		}
		if n > rank {
			sum.Phase, rank = phase, n
		}
		if n > 2 {
			sum.Status = events.Worse(sum.Status, c.Status)
		}
	}
	if rank <= 2 {
		sum.Status = events.Unknown
	}
	return sum
}

// applyHost applies the host's own input.
func applyHost(h events.HostState, in HostInput, cause events.Cause, now time.Time, out Outcome) (events.HostState, Outcome, events.Cause) {
	switch in := in.(type) {
	case HostLevels:
		h.Labels = in.Labels
		override, position := in.Override, in.OverridePos
		if override == nil || overrideOver(override, position, h.OverPos, h.Ended, now) {
			override, position = nil, 0
		}
		if position != h.OverPos {
			cause = events.CauseOverride
		}
		h.Override, h.OverPos = override, position // also of one that holds: see stateHeader
	case Tick:
		if h.Override != nil && due(h.Override.Until.Time, now) {
			return endHost(h, out)
		}
	case Pushed:
		if h.Override != nil && h.Override.UntilPush {
			return endHost(h, out)
		}
	}
	return h, out, cause
}

func endHost(h events.HostState, out Outcome) (events.HostState, Outcome, events.Cause) {
	out.Ended, out.EndedPos = h.Override, h.OverPos
	h.Ended, h.Override, h.OverPos = max(h.Ended, h.OverPos), nil, 0
	return h, out, events.CauseExpired
}

// hostText is the message of a host's transition.
func hostText(h events.HostState, sum events.Summary) string {
	if h.Override != nil {
		return h.Override.Text()
	}
	return events.Cut(sum.Message, events.MaxMessage)
}

// NextHostDeadline is the bus time at which a tick would change the host by
// itself; zero: never.
func NextHostDeadline(h events.HostState) time.Time {
	if h.Override == nil {
		return time.Time{}
	}
	return h.Override.Until.Time
}
