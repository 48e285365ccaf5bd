package bus

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
)

// record is a message of the stream REGISTRATIONS, read and valid. At most one
// of check, host and override is set; none for what ends one of them.
type record struct {
	subject  string
	addr     events.Address
	position uint64
	stored   time.Time
	check    *events.Registration
	host     *events.HostRecord
	override *events.Override
}

// errAddress says that an event names another host or check than its subject.
var errAddress = errors.New("the event is about something else than its subject")

// readRecord reads a message of REGISTRATIONS, and returns its event where
// [eventJSON] needs that. The address in the subject wins: data may leave it out,
// but not say another.
func readRecord(m Msg, position uint64, stored time.Time) (record, event.Event, error) {
	r := record{subject: m.Subject(), position: position, stored: stored}
	var err error
	if r.addr, err = events.ParseSubject(m.Subject()); err != nil {
		return r, event.Event{}, err
	}
	if events.Deeper(m.Data(), events.MaxDepth) { // a line of the file, which is around it, could not be written
		return r, event.Event{}, fmt.Errorf("%w: nested more than %d levels deep", events.ErrEvent, events.MaxDepth)
	}
	kind := r.addr.Kind
	if kind == "registration" && r.addr.Check != "" && structured(m.Headers()) {
		if reg, ok := events.PlainRegistration(m.Data()); ok {
			return r, event.Event{}, r.takeCheck(reg)
		}
	}
	e, err := ReadEvent(m)
	if err != nil {
		return r, e, err
	}
	switch t := e.Type(); {
	case kind == "registration" && r.addr.Check != "" && t == events.TypeRegistered:
		err = r.readCheck(e)
	case kind == "registration" && r.addr.Check == "" && t == events.TypeHostRegistered:
		err = r.readHost(e)
	case kind == "override" && t == events.TypeOverrideSet:
		err = r.readOverride(e)
	case kind == "registration" && r.addr.Check != "" && t == events.TypeDeregistered,
		kind == "registration" && r.addr.Check == "" && t == events.TypeHostDeregistered,
		kind == "override" && t == events.TypeOverrideCleared:
		err = r.readEnd(e)
	default:
		err = fmt.Errorf("%w: an event of type %s does not belong on %s", events.ErrEvent, t, r.subject)
	}
	return r, e, err
}

// structured reports whether a message says so in the one way in which our own
// processes do.
func structured(h nats.Header) bool {
	ct := h["Content-Type"]
	return len(ct) == 1 && ct[0] == events.ContentType && !binary(h)
}

// binary reports whether a message has the attributes of an event as headers.
func binary(h nats.Header) bool {
	for name := range h {
		if strings.EqualFold(name, "ce-specversion") {
			return true
		}
	}
	return false
}

func (r *record) readCheck(e event.Event) error {
	var reg events.Registration
	if err := events.DataAs(e, &reg); err != nil {
		return err
	}
	return r.takeCheck(reg)
}

func (r *record) takeCheck(reg events.Registration) error {
	if err := r.sameAddress(reg.Host, reg.ID, ""); err != nil {
		return err
	}
	reg.Host, reg.ID = r.addr.Host, r.addr.Check
	r.check = &reg
	return reg.Validate()
}

func (r *record) readHost(e event.Event) error {
	var h events.HostRecord
	if err := events.DataAs(e, &h); err != nil {
		return err
	}
	if err := r.sameAddress(h.Host, "", ""); err != nil {
		return err
	}
	h.Host = r.addr.Host
	r.host = &h
	return validHost(h)
}

// validHost applies the limits of a registration's labels to a host's.
func validHost(h events.HostRecord) error {
	if _, err := events.ParseHost(h.Host); err != nil {
		return err
	}
	if len(h.Address) > events.MaxHost {
		return fmt.Errorf("%w: address has %d bytes, %d are allowed", events.ErrRegistration, len(h.Address), events.MaxHost)
	}
	return events.Registration{ID: "-", URL: []byte(`"-"`), Labels: h.Labels}.Validate()
}

func (r *record) readOverride(e event.Event) error {
	var o events.Override
	if err := events.DataAs(e, &o); err != nil {
		return err
	}
	if err := r.sameAddress(o.Host, o.Check, o.Name); err != nil {
		return err
	}
	o.Host, o.Check, o.Name = r.addr.Host, r.addr.Check, r.addr.Select
	r.override = &o
	return o.Validate()
}

func (r *record) readEnd(e event.Event) error {
	if len(e.Data()) == 0 {
		return nil // its subject says it all
	}
	var d events.Deregistration
	if err := events.DataAs(e, &d); err != nil {
		return err
	}
	return r.sameAddress(d.Host, d.Check, d.Name)
}

func (r *record) sameAddress(host, check, name string) error {
	switch a := r.addr; {
	case host != "" && strings.ToLower(host) != a.Host:
		return fmt.Errorf("%w: host %q on %s", errAddress, events.Cut(host, 64), r.subject)
	case check != "" && check != a.Check:
		return fmt.Errorf("%w: check %q on %s", errAddress, events.Cut(check, 64), r.subject)
	case name != "" && name != a.Select:
		return fmt.Errorf("%w: name %q on %s", errAddress, events.Cut(name, 64), r.subject)
	}
	return nil
}

// eventJSON is the event of a message as structured JSON.
func eventJSON(m Msg, e event.Event) ([]byte, error) {
	if !binary(m.Headers()) {
		return m.Data(), nil
	}
	e = e.Clone()
	e.SetDataContentType(event.ApplicationJSON) // as which it was read, whatever it said
	return events.Marshal(e)
}

// index is what the stream REGISTRATIONS amounts to. It has no lock. Entries are
// never changed once they are in it, only replaced.
type index struct {
	hosts    map[string]*hostIndex
	selects  []*OverrideEntry  // by name
	ended    map[string]uint64 // subject -> position of the event that ended what was there
	position uint64            // last applied
	stored   time.Time         // when that was stored
}

type hostIndex struct {
	name      string
	record    *hostEntry
	override  *OverrideEntry
	checks    []*Entry         // by id
	overrides []*OverrideEntry // of checks, by id
}

type hostEntry struct {
	record   events.HostRecord
	position uint64
	stored   time.Time
}

func newIndex() *index { return &index{hosts: map[string]*hostIndex{}, ended: map[string]uint64{}} }

func byID(e *Entry, id string) int            { return cmp.Compare(e.Registration.ID, id) }
func byCheck(e *OverrideEntry, id string) int { return cmp.Compare(e.Override.Check, id) }
func byName(e *OverrideEntry, name string) int {
	return cmp.Compare(e.Override.Name, name)
}

// apply takes the records in the order of the stream, whatever their positions:
// a stream that was restored may go back.
func (ix *index) apply(r record) RegistryChange {
	ix.position, ix.stored = r.position, r.stored
	if r.check == nil && r.host == nil && r.override == nil {
		ix.ended[r.subject] = r.position
	} else {
		delete(ix.ended, r.subject)
	}
	change := RegistryChange{Position: r.position, Stored: r.stored, Host: r.addr.Host, Check: r.addr.Check}
	if r.addr.Select != "" {
		ix.selects = put(ix.selects, r.addr.Select, byName, overrideEntry(r))
		return change
	}
	h := ix.hosts[r.addr.Host]
	if h == nil {
		h = &hostIndex{name: r.addr.Host}
		ix.hosts[h.name] = h
	}
	h.apply(r)
	if h.record == nil && h.override == nil && len(h.checks)+len(h.overrides) == 0 {
		delete(ix.hosts, h.name)
	}
	return change
}

// MaxSelects is how many overrides may select by label: each is compared with the
// labels of every check that is looked at.
const MaxSelects = 1000

// mostChecks is how many checks a host may have that were stored without a look at
// [MaxChecks], or at the same time as others. What follows from a host's checks costs
// as much as there are, at each change of one.
const mostChecks = MaxChecks + MaxChecks/10

// roomFor refuses what is one more than there may be, whoever stored it.
func (ix *index) roomFor(r record) error {
	h := ix.hosts[r.addr.Host]
	switch {
	case r.check != nil && h != nil && len(h.checks) >= mostChecks && pick(h.checks, r.addr.Check, byID) == nil:
		return fmt.Errorf("%w: host %s has %d checks, more are not registered", events.ErrRegistration, r.addr.Host, len(h.checks))
	case r.override != nil && r.addr.Select != "" && len(ix.selects) >= MaxSelects && pick(ix.selects, r.addr.Select, byName) == nil:
		return fmt.Errorf("%w: there are %d that select by label, more are not taken: clear one, or override hosts and checks by name", events.ErrOverride, MaxSelects)
	}
	return nil
}

func (h *hostIndex) apply(r record) {
	switch {
	case r.addr.Kind == "override" && r.addr.Check == "":
		h.override = overrideEntry(r)
	case r.addr.Kind == "override":
		h.overrides = put(h.overrides, r.addr.Check, byCheck, overrideEntry(r))
	case r.addr.Check == "":
		h.record = nil
		if r.host != nil {
			h.record = &hostEntry{*r.host, r.position, r.stored}
		}
	default:
		var e *Entry
		if r.check != nil {
			r.check.Host = h.name                  // one string for all
			r.check.ID = strings.Clone(r.check.ID) // a part of the subject would keep all of it
			e = &Entry{Registration: *r.check, Position: r.position, Stored: r.stored}
		}
		h.checks = put(h.checks, r.addr.Check, byID, e)
	}
}

func overrideEntry(r record) *OverrideEntry {
	if r.override == nil {
		return nil
	}
	return &OverrideEntry{Override: *r.override, Position: r.position, Stored: r.stored}
}

// put replaces, inserts or, where e is nil, removes the entry under key.
func put[E any](list []*E, key string, compare func(*E, string) int, e *E) []*E {
	i, found := slices.BinarySearchFunc(list, key, compare)
	switch {
	case found && e == nil:
		return slices.Delete(list, i, i+1)
	case found:
		list[i] = e
		return list
	case e == nil:
		return list
	}
	return slices.Insert(list, i, e)
}

func pick[E any](list []*E, key string, compare func(*E, string) int) *E {
	i, found := slices.BinarySearchFunc(list, key, compare)
	if !found {
		return nil
	}
	return list[i]
}

func (ix *index) check(host, id string) *Entry {
	h := ix.hosts[host]
	if h == nil {
		return nil
	}
	return pick(h.checks, id, byID)
}

// at returns the position of the record that is kept for a subject; 0 for none.
func (ix *index) at(subject string) uint64 {
	if p, ok := ix.ended[subject]; ok {
		return p
	}
	a, err := events.ParseSubject(subject)
	if err != nil {
		return 0
	}
	if a.Select != "" {
		return positionOf(pick(ix.selects, a.Select, byName))
	}
	h := ix.hosts[a.Host]
	switch {
	case h == nil:
		return 0
	case a.Kind == "override" && a.Check == "":
		return positionOf(h.override)
	case a.Kind == "override":
		return positionOf(pick(h.overrides, a.Check, byCheck))
	case a.Check == "":
		if h.record != nil {
			return h.record.position
		}
	default:
		if e := pick(h.checks, a.Check, byID); e != nil {
			return e.Position
		}
	}
	return 0
}

func positionOf(e *OverrideEntry) uint64 {
	if e == nil {
		return 0
	}
	return e.Position
}

// count returns how many things are registered or set.
func (ix *index) count() int {
	n := len(ix.selects)
	for _, h := range ix.hosts {
		n += len(h.checks) + len(h.overrides)
		if h.record != nil {
			n++
		}
		if h.override != nil {
			n++
		}
	}
	return n
}

// changes lists where ix differs from an older index, by position.
func (ix *index) changes(old *index) []RegistryChange {
	var out []RegistryChange
	note := func(host, check string, position uint64, stored time.Time) {
		position = cmp.Or(position, ix.position) // of what is gone
		out = append(out, RegistryChange{Position: position, Stored: stored, Host: host, Check: check})
	}
	for name, h := range ix.hosts {
		was := old.hosts[name]
		if was == nil {
			was = &hostIndex{}
		}
		h.changes(was, note)
	}
	gone := &hostIndex{}
	for name, was := range old.hosts {
		if ix.hosts[name] == nil {
			gone.name = name
			gone.changes(was, note)
		}
	}
	if !slices.EqualFunc(ix.selects, old.selects, func(a, b *OverrideEntry) bool { return a.place() == b.place() }) {
		note("", "", ix.position, time.Time{})
	}
	slices.SortFunc(out, func(a, b RegistryChange) int { return cmp.Compare(a.Position, b.Position) })
	return out
}

// changes compares by place: an equal registration that was published again is a
// change too, which readers compare by content, and so is another one at a position
// that a power cut took from the first.
func (h *hostIndex) changes(old *hostIndex, note func(host, check string, position uint64, stored time.Time)) {
	if h.record.place() != old.record.place() {
		note(h.name, "", h.record.place().Position, time.Time{})
	}
	if h.override.place() != old.override.place() {
		note(h.name, "", positionOf(h.override), time.Time{})
	}
	for _, e := range h.checks {
		if was := pick(old.checks, e.Registration.ID, byID); was == nil || was.place() != e.place() {
			note(h.name, e.Registration.ID, e.Position, e.Stored)
		}
	}
	for _, was := range old.checks {
		if pick(h.checks, was.Registration.ID, byID) == nil {
			note(h.name, was.Registration.ID, 0, time.Time{})
		}
	}
	for _, o := range h.overrides {
		if pick(old.overrides, o.Override.Check, byCheck).place() != o.place() {
			note(h.name, o.Override.Check, o.Position, o.Stored)
		}
	}
	for _, was := range old.overrides {
		if pick(h.overrides, was.Override.Check, byCheck) == nil {
			note(h.name, was.Override.Check, 0, time.Time{})
		}
	}
}

// The places of nothing are zero. In UTC times can be compared as they are.

func (e *hostEntry) place() Place {
	if e == nil {
		return Place{}
	}
	return Place{e.position, e.stored.UTC()}
}

func (e *OverrideEntry) place() Place {
	if e == nil {
		return Place{}
	}
	return Place{e.Position, e.Stored.UTC()}
}

func (e *Entry) place() Place { return Place{e.Position, e.Stored.UTC()} }

// labels are those of a check's host, overlaid with its own.
func (ix *index) labels(r events.Registration) map[string]string {
	h := ix.hosts[r.Host]
	if h == nil || h.record == nil || len(h.record.record.Labels) == 0 {
		return r.Labels
	}
	if len(r.Labels) == 0 {
		return h.record.record.Labels
	}
	out := maps.Clone(h.record.record.Labels)
	maps.Copy(out, r.Labels)
	return out
}

// override is the one that holds for a check, or with an empty check for a host.
func (ix *index) override(host, check string) *OverrideEntry {
	h := ix.hosts[host]
	if h == nil {
		return nil
	}
	if check == "" {
		return h.override
	}
	if o := pick(h.overrides, check, byCheck); o != nil {
		return o
	}
	if len(ix.selects) == 0 {
		return nil
	}
	e := pick(h.checks, check, byID)
	if e == nil {
		return nil
	}
	labels := ix.labels(e.Registration)
	for _, o := range ix.selects {
		if o.Override.Matches(labels) {
			return o
		}
	}
	return nil
}
