package gateway

import (
	"encoding/json"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/events"
)

// Host returns a host as readers see it at now; false where nothing is
// registered of it.
func (v *View) Host(name string, now time.Time) (events.HostView, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.hosts[name]
	if h == nil || !h.registered() {
		return events.HostView{}, false
	}
	return h.view(v.interval, now), true
}

// LocalHost is Host for one that is there even when nothing is registered of it.
func (v *View) LocalHost(name string, now time.Time) events.HostView {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.host(name).view(v.interval, now)
}

func (h *hostEntry) view(interval time.Duration, now time.Time) events.HostView {
	sum, o := h.summary(), h.holds()
	told, phase, reported := sum.Apply(o)
	out := events.HostView{
		Host: h.name, Status: told, Phase: phase, Message: h.message(), Number: h.state.Number,
		Since: events.At(h.state.Since), Override: o, Checks: sum.Counts,
	}
	if o != nil {
		out.Reported = &reported
	}
	if h.record != nil {
		out.Address, out.Labels = h.record.Address, h.record.Labels
	}
	f := h.freshness(interval)
	out.Observed, out.AgeSeconds, out.NextSeconds = events.At(f.observed), age(f.observed, now), until(f.next, now)
	if phase == events.Live && past(f.late, now) {
		out.Phase = events.Stale
	}
	return out
}

func age(t, now time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	seconds := max(now.Sub(t), 0).Round(time.Millisecond).Seconds()
	return &seconds
}

func until(t, now time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	seconds := max(t.Sub(now), 0).Round(time.Millisecond).Seconds()
	return &seconds
}

// Check returns a check as readers see it at now, with what is registered of it;
// false where it is not registered.
func (v *View) Check(host, id string, now time.Time) (events.CheckView, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return events.CheckView{}, false
	}
	c := h.checks[id]
	if c == nil || c.entry == nil {
		return events.CheckView{}, false
	}
	return v.checkView(c, now), true
}

// Checks returns the checks of a host, by id, without documents; false where
// nothing is registered of it.
func (v *View) Checks(host string, now time.Time) ([]events.CheckView, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil || !h.registered() {
		return []events.CheckView{}, false
	}
	out := make([]events.CheckView, len(h.order))
	for i, c := range h.order {
		out[i] = v.checkView(c, now)
		out[i].Document, out[i].Registration = nil, nil
	}
	return out, true
}

func (v *View) checkView(c *checkEntry, now time.Time) events.CheckView {
	s, reg := c.shown(), c.entry.Registration
	out := events.CheckView{
		Host: s.Host, Check: c.id, Status: s.Status, Phase: s.Phase, Message: s.Text(), Number: s.Number,
		Since: events.At(s.Since), Observed: events.At(s.Observed), AgeSeconds: age(s.Observed, now), LatencySeconds: s.LatencySeconds,
		Labels: v.labels(c), Origin: reg.Origin, Override: s.Override, Document: c.document(), Registration: &reg,
	}
	if s.Phase == events.Overridden || s.Phase == events.Maintenance {
		reported := s.Reported
		out.Reported = &reported
	}
	out.NextSeconds = until(c.due(v.interval), now)
	if s.Phase == events.Live && past(c.lateAt(v.interval), now) {
		out.Phase = events.Stale
	}
	return out
}

// labels are those of a check.
func (v *View) labels(c *checkEntry) map[string]string {
	if v.reg != nil {
		return v.reg.Labels(*c.entry)
	}
	own := c.entry.Registration.Labels
	h := v.hosts[c.entry.Registration.Host]
	if h == nil || h.record == nil || len(h.record.Labels) == 0 {
		return own
	}
	all := maps.Clone(h.record.Labels)
	maps.Copy(all, own)
	return all
}

// due is when the next result is expected; zero for no expectation.
func (c *checkEntry) due(interval time.Duration) time.Time {
	s, reg := c.shown(), c.entry.Registration
	if s.Seen.IsZero() {
		return time.Time{}
	}
	if reg.Push() {
		ttl := s.TTL
		if ttl == 0 {
			ttl = reg.TTL
		}
		if ttl == 0 {
			return time.Time{}
		}
		return s.Seen.Add(ttl.D())
	}
	if reg.Interval > 0 {
		interval = reg.Interval.D()
	}
	return s.Seen.Add(interval)
}

// lateSlack is how long a deadline may be past before a reader is told without
// a transition: the aggregator has the first word.
const lateSlack = 2 * time.Second

// lateAt is when the last result is too old by the reader's own clock, zero for
// never: the aggregator is away then, or gives grace after an outage.
func (c *checkEntry) lateAt(interval time.Duration) time.Time {
	due := c.due(interval)
	if due.IsZero() {
		return due
	}
	return c.lateAfter(due)
}

// lateAfter is lateAt where the next result is due then.
func (c *checkEntry) lateAfter(due time.Time) time.Time {
	if !c.entry.Registration.Push() {
		due = c.state.Seen.Add(c.state.Patience(due.Sub(c.state.Seen)))
	}
	return due.Add(lateSlack)
}

func past(t, now time.Time) bool { return !t.IsZero() && now.After(t) }

// HostFilter chooses hosts. The zero value chooses all.
type HostFilter struct {
	Status []events.Status // any of these; empty: all
	Labels []string        // all of these: "key=value", or "key" for any value
	After  string          // names after this one
	Limit  int             // at most so many; 0: no limit
}

// Hosts returns the hosts that f chooses, by name, and the name after which to
// go on, empty where there is no more.
func (v *View) Hosts(f HostFilter, now time.Time) (hosts []events.HostView, next string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	hosts = []events.HostView{}
	names := v.sortedNames()
	from, found := slices.BinarySearch(names, f.After)
	if found {
		from++
	}
	for _, name := range names[from:] {
		h := v.hosts[name]
		if !f.matches(h) {
			continue
		}
		if f.Limit > 0 && len(hosts) == f.Limit {
			return hosts, hosts[len(hosts)-1].Host
		}
		hosts = append(hosts, h.view(v.interval, now))
	}
	return hosts, ""
}

func (v *View) sortedNames() []string {
	if v.names == nil {
		v.names = slices.Sorted(maps.Keys(v.hosts))
		v.names = slices.DeleteFunc(v.names, func(name string) bool { return !v.hosts[name].registered() })
	}
	return v.names
}

func (f HostFilter) matches(h *hostEntry) bool {
	if len(f.Status) > 0 {
		told, _, _ := h.summary().Apply(h.holds())
		if !slices.Contains(f.Status, told) {
			return false
		}
	}
	if h.record == nil {
		return len(f.Labels) == 0
	}
	return events.MatchLabels(f.Labels, h.record.Labels)
}

// rootAnswer is the original's answer on / in two pieces, between which the date
// stands, and what the page for people needs.
type rootAnswer struct {
	before, after []byte
	status        events.Status
	message       string
	dated         atomic.Pointer[datedAnswer] // the newest
}

// datedAnswer is the whole answer at one date.
type datedAnswer struct {
	date *dateText
	pyAnswer
}

// on is the answer at a date.
func (a *rootAnswer) on(date *dateText) *pyAnswer {
	d := a.dated.Load()
	if d == nil || d.date != date {
		d = &datedAnswer{date, pyAnswer{kind: headerJSON, body: slices.Concat(a.before, []byte(date.text), a.after)}}
		d.measured()
		a.dated.Store(d)
	}
	return &d.pyAnswer
}

// root returns the answer for a host; an empty host has nothing registered.
func (v *View) root(host string) *rootAnswer {
	v.mu.RLock()
	h := v.hosts[host]
	if h != nil {
		if a := h.root.Load(); a != nil {
			v.mu.RUnlock()
			return a
		}
	}
	v.mu.RUnlock()
	if h == nil {
		return newRootAnswer(events.Unknown, events.TextNoChecks, nil)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	told, _, _ := h.summary().Apply(h.holds())
	var global json.RawMessage
	if o := h.holds(); o != nil {
		global = o.Global
	}
	a := newRootAnswer(told, h.message(), global)
	h.root.Store(a)
	return a
}

// newRootAnswer renders the pieces; raw is the message as JSON where it is no text.
func newRootAnswer(s events.Status, message string, raw json.RawMessage) *rootAnswer {
	a := &rootAnswer{status: s, message: message}
	a.before = append(a.before, `{"status": "`+s.String()+`", "date": "`...)
	a.after = append(a.after, `", "message": `...)
	written, err := appendPy(a.after, raw)
	if len(raw) == 0 || err != nil {
		written = appendPyString(a.after, message)
	}
	a.after = append(written, '}')
	return a
}

// legacyList is the original's list of checks, id to url, by id.
func (v *View) legacyList(host string) []byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return []byte("{}")
	}
	if b := h.list.Load(); b != nil {
		return *b
	}
	list := pyValue{kind: pyObject}
	add := func(id string, url json.RawMessage) {
		doc, err := parsePy(url)
		if err != nil { // a check that is only pushed to has no url
			doc = pyValue{text: "null"}
		}
		list.keys, list.items = append(list.keys, string(appendPyString(nil, id))), append(list.items, doc)
	}
	if o := h.holds(); o != nil && len(o.Global) > 0 {
		add(events.GlobalID, o.Global)
	}
	for _, c := range h.order {
		add(c.id, c.entry.Registration.URL)
	}
	b := list.append(nil)
	h.list.Store(&b)
	return b
}

// legacyCheck is the original's answer on /checks/{id}, rendered once; nil where
// the check is not registered.
func (v *View) legacyCheck(host, id string) *pyAnswer {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return nil
	}
	c := h.checks[id]
	if c == nil || c.entry == nil {
		return nil
	}
	a := c.answer.Load()
	if a == nil {
		a = c.legacyAnswer()
		c.answer.Store(a)
	}
	return a
}

// global returns the url of the original's --global; false where it is not set.
func (v *View) global(host string) (json.RawMessage, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if h := v.hosts[host]; h != nil {
		if o := h.holds(); o != nil && len(o.Global) > 0 {
			return o.Global, true
		}
	}
	return nil, false
}
