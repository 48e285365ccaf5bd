package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Registrations is what the view needs of the process's copy of what is
// registered; [bus.Registry] is one. It alone says which checks exist.
type Registrations interface {
	Check(host, id string) (bus.Entry, bool)
	HostChecks(host string) []bus.Entry
	Hosts() []string
	Host(host string) (events.HostRecord, bool)
	Labels(e bus.Entry) map[string]string
	Override(host, check string) (bus.OverrideEntry, bool)
}

// View is everything that readers may ask for, in memory. It is fed with state
// records, transitions, results and changes of registrations, in any order
// between those four; the newer state wins, by number and then by the position
// of the last result counted. It has no goroutine and reads no clock. It is safe
// for concurrent use, and no reader waits for anything but memory.
type View struct {
	reg      Registrations
	interval time.Duration // between polls, where a registration says none

	mu    sync.RWMutex
	hosts map[string]*hostEntry
	names []string // of hosts of which something is registered, sorted; nil: to be made anew
	all   []string // of all hosts, likewise

	over    bool          // it was the last view, and another has taken its place
	changes atomic.Uint64 // counts what was applied

	strays int // entries made for what is not registered, since the last sweep
	most   int // bytes that documents may have together
	fresh  int // bytes of documents that came since they were last counted
}

// maxDocuments is how many bytes of documents are kept: anybody may push one of 64 KiB
// for each check that there is. Half as many may come before they are counted again.
const maxDocuments = 256 << 20

// maxStrays is how many checks are remembered that are not registered: anybody
// may push for a name that the aggregator then refuses.
const maxStrays = 10_000

// hostEntry is a host and its checks, guarded by View.mu.
type hostEntry struct {
	name     string
	state    events.HostState
	record   *events.HostRecord
	override *bus.OverrideEntry
	checks   map[string]*checkEntry
	order    []*checkEntry // those that are registered, by id
	tally    tally
	sum      *events.Summary
	watch    chan struct{} // closed at the next change, if somebody waits
	root     atomic.Pointer[rootAnswer]
	seen     atomic.Pointer[hostSight]
	list     atomic.Pointer[[]byte] // GET /checks
}

// checkEntry is a check. Its state is the newest record, brought up to date by
// the results that came after it.
type checkEntry struct {
	id      string
	entry   *bus.Entry // nil where it is not registered
	state   events.CheckState
	number  uint64 // of the newest record
	applied uint64 // of the newest record; state.Applied counts the results after it too
	dropped uint64 // position of the newest result that does not count
	reg     uint64 // highest position of a registration of which a poll has told

	last     events.Result // the newest that counts, its document included
	lastAt   uint64        // its position
	early    []bus.Incoming
	watch    chan struct{}
	answer   atomic.Pointer[pyAnswer] // GET /checks/{id}
	counted  share
	pendings events.CheckState // shown while nothing is known
}

// maxEarly is how many results are kept that came before the first record of
// their check.
const maxEarly = 2

// NewView makes an empty view; interval is that of polls whose registration
// says none. reg may be nil for one that is only read.
func NewView(reg Registrations, interval time.Duration) *View {
	return &View{reg: reg, interval: interval, hosts: map[string]*hostEntry{}, most: maxDocuments}
}

// host returns the entry of a host, and makes it if need be. The caller holds mu.
func (v *View) host(name string) *hostEntry {
	h := v.hosts[name]
	if h == nil {
		h = &hostEntry{name: name, checks: map[string]*checkEntry{}}
		v.hosts[name], v.all = h, nil
	}
	return h
}

func (h *hostEntry) check(id string) *checkEntry {
	c := h.checks[id]
	if c == nil {
		c = &checkEntry{id: id, pendings: events.CheckState{Host: h.name, Check: id, Phase: events.Pending, Basis: events.Pending}}
		h.checks[id] = c
	}
	return c
}

// shown is the state that counts for readers: pending where nothing is known of
// a check that is registered.
func (c *checkEntry) shown() *events.CheckState {
	if c.known() {
		return &c.state
	}
	return &c.pendings
}

func (c *checkEntry) known() bool { return c.state.Spec != "" && c.state.Basis != events.Gone }

// face is what a check contributes to its host.
type face struct {
	status events.Status
	phase  events.Phase
	text   string
}

func (c *checkEntry) face() face {
	s := c.shown()
	return face{s.Status, s.Phase, s.Text()}
}

// change runs f and takes note of what it changed.
func (h *hostEntry) change(c *checkEntry, f func()) {
	before := c.face()
	f()
	if c.entry != nil && c.face() != before {
		h.tally.recount(c)
		h.changed()
	}
	c.moved()
}

// moved forgets what was derived from the check.
func (c *checkEntry) moved() {
	c.answer.Store(nil)
	wake(&c.watch)
}

// changed forgets what was derived from the host's checks.
func (h *hostEntry) changed() {
	h.sum = nil
	h.root.Store(nil)
	h.seen.Store(nil)
	wake(&h.watch)
}

func wake(ch *chan struct{}) {
	if *ch != nil {
		close(*ch)
		*ch = nil
	}
}

// ApplyCheck takes the state of a check from the stream STATE (snapshot) or from
// the header of a transition.
func (v *View) ApplyCheck(s events.CheckState, snapshot bool) {
	if s.V > events.RecordVersion {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes.Add(1)
	h := v.host(s.Host)
	c := h.check(s.Check)
	if !newer(s.Number, c.number, s.Applied, c.applied, snapshot) && c.state.V > 0 && !buried(c.state.Phase, c.state.Since, s.Since) {
		return
	}
	h.change(c, func() { c.adopt(s) })
}

// newer compares a record with the one that is there. Of equals the snapshot
// wins: it tells details that make no transition.
func newer(number, had, applied, hadApplied uint64, snapshot bool) bool {
	order := cmp.Or(cmp.Compare(number, had), cmp.Compare(applied, hadApplied))
	return order > 0 || order == 0 && snapshot
}

// buried reports whether what had this phase since a time was forgotten before another
// time, so that its numbers begin again.
func buried(phase events.Phase, since, by time.Time) bool {
	return phase == events.Gone && by.Sub(since) > events.TombstoneKept
}

// adopt takes a record and puts the results that came after it on top again.
func (c *checkEntry) adopt(s events.CheckState) {
	had := c.state
	c.state, c.number, c.applied = s, s.Number, s.Applied
	c.pendings.Number = s.Number
	if after(had.Applied, had.Seen, s) && c.known() {
		c.state.Applied, c.state.Seen = had.Applied, had.Seen
		c.state.Observed, c.state.LatencySeconds = had.Observed, had.LatencySeconds
		if had.Applied <= s.Applied || had.Order.After(s.Order) {
			c.state.Order, c.state.Pace = had.Order, had.Pace
		}
		if c.last.Status == s.Reported {
			c.state.Message = c.last.Message
		}
	}
	early := c.early
	c.early = nil
	for _, in := range early {
		c.count(in)
	}
}

// ApplyHost takes the state of a host itself, as [View.ApplyCheck] does.
func (v *View) ApplyHost(s events.HostState, snapshot bool) {
	if s.V > events.RecordVersion {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes.Add(1)
	h := v.host(s.Host)
	if !newer(s.Number, h.state.Number, 0, 0, snapshot) && h.state.V > 0 && !buried(h.state.Phase, h.state.Since, s.Since) {
		return
	}
	h.state = s
	h.changed()
}

// ApplyResult takes a result as it lies in the stream RESULTS. What does not
// count, by the same rule as the aggregator's, changes nothing.
func (v *View) ApplyResult(in bus.Incoming) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes.Add(1)
	h, c := v.named(in.Host, in.Check)
	h.change(c, func() { c.count(modest(in)) })
	if v.fresh += len(in.Result.Document); v.fresh > v.most/2 {
		v.lighten()
	}
}

// modest is a result without what anybody may push at any length and nobody is shown.
func modest(in bus.Incoming) bus.Incoming {
	in.ID = ""
	if !in.Polled {
		in.Result.Worker, in.Result.Pool, in.Result.Suspect = "", "", ""
		in.Result.Origin = events.Cut(in.Result.Origin, events.MaxOrigin)
	}
	return in
}

// lighten drops the oldest documents until half of what they may have is left, where
// they have more.
func (v *View) lighten() {
	v.fresh = 0
	var with []*checkEntry
	total := 0
	for _, h := range v.hosts {
		for _, c := range h.checks {
			if n := c.weight(); n > 0 {
				with, total = append(with, c), total+n
			}
		}
	}
	if total <= v.most {
		return
	}
	slices.SortFunc(with, func(a, b *checkEntry) int { return cmp.Compare(a.lastAt, b.lastAt) })
	for _, c := range with {
		if total <= v.most/2 {
			return
		}
		total -= c.weight()
		c.last.Document = nil
		for i := range c.early {
			c.early[i].Result.Document = nil
		}
	}
}

// weight is how many bytes the documents of a check have.
func (c *checkEntry) weight() int {
	n := len(c.last.Document)
	for _, in := range c.early {
		n += len(in.Result.Document)
	}
	return n
}

// named returns the entry of a host and, unless it is empty, of a check, for names
// that anybody may choose. The caller holds mu.
func (v *View) named(host, check string) (h *hostEntry, c *checkEntry) {
	if h = v.hosts[host]; h == nil || check != "" && h.checks[check] == nil {
		if v.strays++; v.strays > maxStrays {
			v.sweep()
		}
	}
	if h = v.host(host); check != "" {
		c = h.check(check)
	}
	return h, c
}

// sweep forgets checks of which there is nothing but results, or who waits for them:
// that one looks again.
func (v *View) sweep() {
	v.strays = 0
	for name, h := range v.hosts {
		for id, c := range h.checks {
			if c.entry == nil && c.state.V == 0 {
				wake(&c.watch)
				delete(h.checks, id)
			}
		}
		if !h.registered() && h.override == nil && h.state.V == 0 && len(h.checks) == 0 {
			wake(&h.watch)
			delete(v.hosts, name)
			v.all = nil
		}
	}
}

// after reports whether a result came after the last one that a state counts: also
// where its position is lower but it was stored later, because a power cut took the
// end of RESULTS and its positions are given again.
func after(position uint64, stored time.Time, s events.CheckState) bool {
	return position > s.Applied || !s.Seen.IsZero() && stored.After(s.Seen)
}

func (c *checkEntry) count(in bus.Incoming) {
	if in.Position <= c.state.Applied && after(in.Position, in.Stored, c.state) {
		c.state.Applied, c.state.Order = in.Position-1, events.Order{Reg: c.state.Order.Reg} // as the aggregator does
	}
	if in.Polled {
		c.reg = max(c.reg, in.Result.Reg)
	}
	refused := !in.Polled && c.entry != nil && !c.entry.Registration.Push()
	switch {
	case in.Polled && in.Result.Suspect != "": // kept, but it does not count
		if c.state.FreshResult(in.Result, true, in.Position) {
			c.state.Doubt(in.Result)
		}
		c.dropped = max(c.dropped, in.Position)
	case !refused && c.state.FreshResult(in.Result, in.Polled, in.Position):
		c.state.Refresh(in.Result, in.Observed)
		c.state.Applied, c.state.Seen, c.state.TTL = in.Position, in.Stored, in.Result.TTL
		if in.Polled {
			c.state.Polled(in.Result.Order())
		}
		c.keep(in)
	case in.Position == c.applied && c.known(): // its transition came first
		c.keep(in)
	case !c.known() && !refused:
		if len(c.early) == maxEarly {
			c.early = c.early[1:]
		}
		in.Result.Document = bytes.Clone(in.Result.Document)
		c.early = append(c.early, in)
	default:
		c.dropped = max(c.dropped, in.Position)
	}
}

// keep notes the newest result that counts. Its document is a part of a message,
// which is not kept.
func (c *checkEntry) keep(in bus.Incoming) {
	had := c.last.Document
	c.last, c.lastAt = in.Result, in.Position
	switch {
	case bytes.Equal(had, in.Result.Document):
		c.last.Document = had
	default:
		c.last.Document = bytes.Clone(in.Result.Document)
	}
}

// RefreshRegistration looks at what is registered of a check; with an empty
// check at the host and all its checks; with an empty host at everything.
func (v *View) RefreshRegistration(host, check string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes.Add(1)
	switch {
	case host == "":
		v.refreshAll()
	case check == "":
		v.refreshHost(host)
	default:
		h := v.host(host)
		v.register(h, check)
		v.forgetName(h)
	}
}

func (v *View) refreshAll() {
	for _, h := range v.hosts {
		v.refreshHost(h.name)
	}
	for _, name := range v.reg.Hosts() {
		if v.hosts[name] == nil {
			v.refreshHost(name)
		}
	}
}

func (v *View) refreshHost(name string) {
	h := v.host(name)
	h.record, h.override = nil, nil
	if r, ok := v.reg.Host(name); ok {
		h.record = &r
	}
	if o, ok := v.reg.Override(name, ""); ok {
		h.override = &o
	}
	there := map[string]bool{}
	for _, e := range v.reg.HostChecks(name) {
		there[e.Registration.ID] = true
		h.set(h.check(e.Registration.ID), &e)
	}
	for _, c := range slices.Clone(h.order) {
		if !there[c.id] {
			h.set(c, nil)
		}
	}
	h.list.Store(nil)
	h.changed()
	v.forgetName(h)
}

func (v *View) register(h *hostEntry, id string) {
	if e, ok := v.reg.Check(h.name, id); ok {
		h.set(h.check(id), &e)
		return
	}
	if c := h.checks[id]; c != nil {
		h.set(c, nil)
	}
}

// set notes the registration of a check, nil for none.
func (h *hostEntry) set(c *checkEntry, e *bus.Entry) {
	if c.entry != nil && e != nil && c.entry.Position == e.Position && c.entry.Stored.Equal(e.Stored) {
		return
	}
	h.order = among(h.order, c, e != nil)
	c.entry = e
	if e == nil {
		c.last, c.lastAt, c.early = events.Result{}, 0, nil
	}
	h.tally.recount(c)
	h.list.Store(nil)
	h.changed()
	c.moved()
}

// forgetName has the list of names made anew, and drops a host of which nothing
// is known any more.
func (v *View) forgetName(h *hostEntry) {
	v.names = nil
	if !h.registered() && h.override == nil && h.state.V == 0 && len(h.checks) == 0 {
		delete(v.hosts, h.name)
		v.all = nil
	}
}

func (h *hostEntry) registered() bool { return h.record != nil || len(h.order) > 0 }

// Reset forgets everything but the registrations: the streams were made anew.
func (v *View) Reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, h := range v.hosts {
		h.state = events.HostState{}
		for id, c := range h.checks {
			c.moved()
			if c.entry == nil {
				delete(h.checks, id)
				continue
			}
			c.state, c.number, c.applied, c.dropped, c.reg = events.CheckState{}, 0, 0, 0, 0
			c.pendings.Number = 0
			c.last, c.lastAt, c.early = events.Result{}, 0, nil
			h.tally.recount(c)
		}
		h.changed()
	}
}

// summary is what the host's checks amount to. The caller holds mu for writing.
func (h *hostEntry) summary() events.Summary {
	if h.sum == nil {
		sum := h.tally.summary()
		h.sum = &sum
	}
	return *h.sum
}

// holds is the host's override, nil where there is none or it has ended.
func (h *hostEntry) holds() *events.Override {
	if h.override == nil || h.override.Position <= h.state.Ended {
		return nil
	}
	return &h.override.Override
}

// message is the host's: its override's, else that of its checks.
func (h *hostEntry) message() string {
	o := h.holds()
	switch {
	case o == nil:
		return h.summary().Message
	case len(o.Global) > 0:
		text, _ := events.MessageText(o.Global)
		return text
	}
	return o.Text()
}

// document is what the service said with the last result that counts.
func (c *checkEntry) document() json.RawMessage { return c.last.Document }
