package gateway

import (
	"time"

	"github.com/looprock/megaphone/events"
)

// hostSight is a host as probers see it, kept for a while: a host may have
// thousands of checks, and load balancers ask often.
type hostSight struct {
	sight
	till time.Time
}

// sightTime is how long the times in a sight of a host may be behind, for each of
// its checks: a second for 10,000 of them. Its status, phase and message never are.
const sightTime = 100 * time.Microsecond

// clusterLabel names the label of a host that Envoy is told as the cluster.
const clusterLabel = "cluster"

// sightHost returns a host as probers see it; false where nothing is registered of it.
func (v *View) sightHost(name string, now time.Time) (sight, bool) {
	v.mu.RLock()
	h := v.hosts[name]
	if h == nil || !h.registered() {
		v.mu.RUnlock()
		return sight{}, false
	}
	till := now.Add(time.Duration(len(h.order)) * sightTime)
	seen := h.seen.Load()
	switch {
	case seen == nil:
		v.mu.RUnlock()
		return v.makeSight(h, till), true
	case now.Before(seen.till):
		v.mu.RUnlock()
		return seen.sight, true
	}
	defer v.mu.RUnlock()
	renewed := &hostSight{seen.sight, till}
	if h.seen.CompareAndSwap(seen, renewed) { // one looks at the times; others go on with what was
		f := h.freshness(v.interval)
		fresh := *renewed
		fresh.observed, fresh.next, fresh.late = f.observed, f.next, f.late
		fresh.texts = newSightTexts(&fresh.sight)
		h.seen.CompareAndSwap(renewed, &fresh)
		return fresh.sight, true
	}
	return seen.sight, true
}

func (v *View) makeSight(h *hostEntry, till time.Time) sight {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := h.sight(v.interval)
	s.texts = newSightTexts(&s)
	h.seen.Store(&hostSight{s, till})
	return s
}

// sight is made under View.mu, held for writing.
func (h *hostEntry) sight(interval time.Duration) sight {
	told, phase, _ := h.summary().Apply(h.holds())
	f := h.freshness(interval)
	return sight{
		host: h.name, status: told, phase: phase, message: h.message(), number: h.state.Number, since: h.state.Since,
		observed: f.observed, next: f.next, late: f.late, cluster: h.cluster(),
	}
}

func (h *hostEntry) cluster() string {
	if h.record == nil {
		return ""
	}
	return h.record.Labels[clusterLabel]
}

// sightCheck returns a check as probers see it; false where it is not registered.
func (v *View) sightCheck(host, id string) (sight, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return sight{}, false
	}
	c := h.checks[id]
	if c == nil || c.entry == nil {
		return sight{}, false
	}
	return v.sightOf(h, c), true
}

// sightOf is for the caller that holds mu.
func (v *View) sightOf(h *hostEntry, c *checkEntry) sight {
	s := c.shown()
	return sight{
		host: h.name, check: c.id, status: s.Status, phase: s.Phase, message: s.Text(), number: s.Number, since: s.Since,
		observed: s.Observed, next: c.due(v.interval), late: c.lateAt(v.interval), latency: s.LatencySeconds, cluster: h.cluster(),
	}
}

// sightChecks returns all checks of a host, by id.
func (v *View) sightChecks(host string) []sight {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return nil
	}
	checks := make([]sight, len(h.order))
	for i, c := range h.order {
		checks[i] = v.sightOf(h, c)
	}
	return checks
}

// freshness tells how current a host's checks are.
type freshness struct {
	observed time.Time // of its oldest live check
	next     time.Time // the first result that is expected
	late     time.Time // when the last of its live checks is late; zero where one never is
}

// freshness reads only: mu may be held for reading.
func (h *hostEntry) freshness(interval time.Duration) freshness {
	var f freshness
	never := false
	for _, c := range h.order {
		s := &c.state
		if !c.known() || s.Basis != events.Live || s.Phase == events.Maintenance {
			continue
		}
		if !s.Observed.IsZero() {
			f.observed = earlier(f.observed, s.Observed)
		}
		due := c.due(interval)
		if due.IsZero() {
			never = true
			continue
		}
		late := c.lateAfter(due)
		f.next = earlier(f.next, due)
		if late.After(f.late) {
			f.late = late
		}
	}
	if never {
		f.late = time.Time{}
	}
	return f
}

// earlier is the earlier of two times, of which the first may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// sight returns a host, or with a check that, as probers see it; false for one
// that is not there. Before the view is complete everything may be there.
func (s *Server) sight(host, check string, now time.Time) (sight, bool) {
	var seen sight
	var ok bool
	if check == "" {
		seen, ok = s.seen().sightHost(host, now)
	} else {
		seen, ok = s.seen().sightCheck(host, check)
	}
	if ok {
		return seen, true
	}
	seen = sight{host: host, check: check, status: events.Unknown}
	select {
	case <-s.follower.Ready():
		seen.phase, seen.message = events.Gone, events.TextNoChecks
		return seen, check == "" && host == s.local
	default:
		seen.phase, seen.message = events.Pending, textNoState
		return seen, true
	}
}

// textNoState is what is told of a gateway that starts without the bus.
const textNoState = "Megaphone starts and has no state yet"

// missing is the refusal for what sight does not find.
func missing(host, check string) error {
	if check == "" {
		return noHost(host)
	}
	return noCheck(host, check)
}
