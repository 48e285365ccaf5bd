package aggregator

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"
)

// The models here are written from DESIGN.md, not from the code: they know
// neither positions nor epochs nor records, and never see what must not count.

// shown is what is told of a check or a host.
type shown struct {
	status events.Status
	phase  events.Phase
}

// modelCheck is a check as a user understands it. Every transition is noted.
type modelCheck struct {
	polled     bool
	registered bool
	basis      events.Phase // of what is told without the override
	reported   events.Status
	override   *events.Override
	told       []shown // transitions, in order
}

func newModelCheck(polled bool) *modelCheck {
	return &modelCheck{polled: polled, basis: events.Pending, reported: events.Unknown}
}

func (m *modelCheck) now() shown {
	switch o := m.override; {
	case m.basis == events.Gone:
		return shown{events.Unknown, events.Gone}
	case o != nil && o.Maintenance && m.registered:
		return shown{m.reported, events.Maintenance}
	case o != nil && m.registered:
		return shown{*o.Status, events.Overridden}
	}
	return shown{m.reported, m.basis}
}

func (m *modelCheck) was() shown {
	if len(m.told) == 0 {
		return shown{events.Unknown, events.Pending}
	}
	return m.told[len(m.told)-1]
}

// tell notes a transition if something else holds than was told.
func (m *modelCheck) tell() {
	if now := m.now(); now != m.was() {
		m.told = append(m.told, now)
	}
}

func (m *modelCheck) register(anew bool) {
	if !m.registered || anew {
		m.registered, m.basis, m.reported = true, events.Pending, events.Unknown
	}
	m.tell()
}

func (m *modelCheck) deregister() {
	if m.registered {
		m.registered, m.basis, m.reported = false, events.Gone, events.Unknown
	}
	m.tell()
}

func (m *modelCheck) result(s events.Status) {
	if !m.polled && m.override != nil && m.override.UntilPush {
		m.override = nil
	}
	m.basis, m.reported = events.Live, s
	m.tell()
}

// later is two hours without anything: longer than every ttl, three intervals,
// and every override with an end.
func (m *modelCheck) later() {
	if !m.registered {
		return
	}
	if m.override != nil && !m.override.Until.IsZero() {
		m.override = nil
	}
	if m.basis == events.Pending || m.basis == events.Live {
		m.basis, m.reported = events.Stale, events.Critical
		if m.polled {
			m.reported = events.Unknown
		}
	}
	m.tell()
}

// modelHost is the worst of its checks that count.
func modelHost(checks map[string]*modelCheck) shown {
	out := shown{events.Unknown, events.Gone}
	for _, phase := range []events.Phase{events.Pending, events.Maintenance, events.Stale, events.Live} {
		for _, m := range checks {
			p := m.now().phase
			if p == events.Overridden {
				p = events.Live
			}
			if (m.registered || p == events.Gone) && p == phase {
				out.phase = phase
			}
		}
	}
	if out.phase != events.Live && out.phase != events.Stale {
		return out
	}
	out.status = events.OK
	for _, m := range checks {
		if s := m.now(); m.registered && s.phase != events.Pending && s.phase != events.Maintenance {
			out.status = events.Worse(out.status, s.status)
		}
	}
	return out
}

// mortal is the lease of an owner that dies right before a write; negative: never.
// To die after a write whose acknowledgement is lost is to die before the next.
type mortal struct{ writes int }

func (m *mortal) Valid() bool {
	if m.writes > 0 {
		m.writes--
		return true
	}
	return m.writes < 0
}

// world is a host with its owner, its former owners, and the model.
type world struct {
	t      *rapid.T
	f      *field
	host   string
	n      int
	owner  *partition
	dead   []*partition
	checks map[string]*modelCheck
	addr   map[string]int // changes of the address
	last   map[string]events.Result
	stored uint64 // position of the last result
	lease  uint64
	due    int64
}

// takeOver makes a new owner, perhaps one that will not live long.
func (w *world) takeOver(patience int) {
	if w.owner != nil {
		w.dead = append(w.dead, w.owner)
	}
	l := &mortal{writes: -1}
	if patience > 0 && rapid.Bool().Draw(w.t, "mortal") {
		l.writes = rapid.IntRange(0, 12).Draw(w.t, "writes")
	}
	w.owner = w.f.partition("owner", w.n)
	w.owner.lease = l
}

// do has an owner do something; where it dies, the next takes over and tries
// again, from what is stored.
func (w *world) do(act func(p *partition) error) {
	for patience := 3; ; patience-- {
		var err error
		if w.owner.reader == nil {
			err = w.owner.takeOver(w.f.tb.Context())
		}
		if err == nil {
			if err = act(w.owner); err == nil {
				return
			}
		}
		if !errors.Is(err, errLease) {
			w.t.Fatalf("an owner that lives: %v", err)
		}
		w.takeOver(patience)
	}
}

// consume has the owner read all results that are stored.
func (w *world) consume() { w.do(w.read) }

func (w *world) read(p *partition) error {
	for p.results < w.stored {
		select {
		case m := <-p.reader.out:
			if err := p.consume(w.f.tb.Context(), m); err != nil {
				return err
			}
		case err := <-p.reader.failed:
			return err
		case <-time.After(20 * time.Second):
			w.t.Fatalf("results up to %d do not come after %d", w.stored, p.results)
		}
	}
	return nil
}

// level tells the owner that something changed among the registrations.
func (w *world) level(id string) {
	w.do(func(p *partition) error {
		p.box.put(bus.RegistryChange{Position: w.f.reg.Position(), Stored: time.Now(), Host: w.host, Check: id})
		return p.changed(w.f.tb.Context())
	})
}

func (w *world) fatal(err error) {
	if err != nil {
		w.t.Fatal(err)
	}
}

// drawCheck chooses a check.
func (w *world) drawCheck() (string, *modelCheck) {
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(w.checks))).Draw(w.t, "check")
	return id, w.checks[id]
}

func (w *world) register() {
	id, m := w.drawCheck()
	r := events.Registration{Host: w.host, ID: id, TTL: events.Duration(30 * time.Minute)}
	anew := false
	if m.polled {
		if anew = m.registered && rapid.Bool().Draw(w.t, "moved"); anew {
			w.addr[id]++
		}
		r.TTL, r.URL = 0, json.RawMessage(fmt.Sprintf(`"http://a/%d"`, w.addr[id]))
	}
	_, err := w.f.reg.Register(w.f.tb.Context(), r)
	w.fatal(err)
	delete(w.last, id)
	m.register(anew)
	w.level(id)
}

func (w *world) deregister() {
	id, m := w.drawCheck()
	_, _, err := w.f.reg.Deregister(w.f.tb.Context(), w.host, id, "test")
	w.fatal(err)
	delete(w.last, id)
	m.deregister()
	w.level(id)
}

func (w *world) setOverride() {
	id, m := w.drawCheck()
	o := events.Override{Host: w.host, Check: id, Reason: "model"}
	switch rapid.IntRange(0, 2).Draw(w.t, "end") {
	case 0:
		o.Until = events.At(time.Now().Add(time.Hour))
	case 1:
		o.Forever = true
	case 2:
		o.UntilPush = true
	}
	if o.Maintenance = rapid.Bool().Draw(w.t, "maintenance"); !o.Maintenance {
		o.Status = ptr(rapid.SampledFrom(events.Statuses()).Draw(w.t, "status"))
	}
	_, err := w.f.reg.SetOverride(w.f.tb.Context(), o)
	w.fatal(err)
	m.override = &o
	m.tell()
	w.level(id)
}

func (w *world) clearOverride() {
	id, m := w.drawCheck()
	_, _, err := w.f.reg.ClearOverride(w.f.tb.Context(), w.host, id, "")
	w.fatal(err)
	m.override = nil
	m.tell()
	w.level(id)
}

// results stores some, with what must not count between them, and has them read.
func (w *world) results() {
	for range rapid.IntRange(1, 5).Draw(w.t, "results") {
		id, m := w.drawCheck()
		if !m.registered {
			continue
		}
		s := rapid.SampledFrom(events.Statuses()).Draw(w.t, "status")
		if !m.polled {
			position, err := w.f.conn.Push(w.f.tb.Context(), w.host, id, events.Result{Status: s, Message: "pushed"})
			w.fatal(err)
			w.stored = position
			m.result(s)
			continue
		}
		e, ok := w.f.reg.Check(w.host, id)
		if !ok {
			w.t.Fatalf("%s is not registered", id)
		}
		w.junk(id)
		w.due++
		if rapid.IntRange(0, 4).Draw(w.t, "new worker") == 0 {
			w.lease++
		}
		r := events.Result{Status: s, Message: "polled", Reg: e.Position, Lease: w.lease, Due: w.due}
		w.poll(id, r)
		w.last[id] = r
		m.result(s)
	}
	w.consume()
}

func (w *world) poll(id string, r events.Result) {
	h := events.Header{Type: events.TypeResult, Source: "urn:megaphone:worker:w", ID: fmt.Sprint(time.Now().UnixNano()), Host: w.host, Check: id, Time: time.Now()}
	position, err := w.f.conn.PublishResult(w.f.tb.Context(), w.host, id, h, r)
	w.fatal(err)
	w.stored = position
}

// junk stores what the model does not see: a repetition, a superseded worker's
// result, a late one, one of a registration that was replaced.
func (w *world) junk(id string) {
	r, ok := w.last[id]
	if !ok {
		return
	}
	r.Status = rapid.SampledFrom(events.Statuses()).Draw(w.t, "junk")
	switch rapid.IntRange(0, 5).Draw(w.t, "kind of junk") {
	case 0: // the same again
	case 1:
		r.Lease--
		r.Due += 1000
	case 2:
		r.Due--
	case 3:
		r.Reg--
		r.Lease, r.Due = r.Lease+1000, r.Due+1000
	default:
		return
	}
	w.poll(id, r)
}

// later is a tick two hours from now, which comes after all results.
func (w *world) later() {
	now := time.Now().Add(2 * time.Hour)
	w.do(func(p *partition) error {
		if err := w.read(p); err != nil {
			return err
		}
		return p.tickAt(w.f.tb.Context(), math.MaxUint64, now)
	})
	for _, m := range w.checks {
		m.later()
	}
}

func (w *world) checkpoint() {
	w.do(func(p *partition) error { return p.checkpoint(w.f.tb.Context()) })
}

func (w *world) handOver() { w.takeOver(1) }

// haunt has a former owner go on as if nothing had happened: it may read, and
// must not be able to write.
func (w *world) haunt() {
	if len(w.dead) == 0 {
		return
	}
	p := w.dead[rapid.IntRange(0, len(w.dead)-1).Draw(w.t, "zombie")]
	if p.reader == nil {
		return
	}
	p.lease = always{}
	if !w.owned() {
		return // nobody took over yet: it is no zombie
	}
	ctx := w.f.tb.Context()
	var err error
	switch rapid.IntRange(0, 3).Draw(w.t, "what it does") {
	case 0:
		select {
		case m := <-p.reader.out:
			err = p.consume(ctx, m)
		default:
		}
	case 1:
		err = p.checkpoint(ctx)
	case 2:
		err = p.tickAt(ctx, math.MaxUint64, time.Now().Add(2*time.Hour))
	case 3:
		err = p.levelAll(ctx)
	}
	var refused *jetstream.APIError
	if err != nil && (!errors.As(err, &refused) || refused.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence) {
		w.t.Fatalf("a zombie: %v", err)
	}
}

// owned reports whether the present owner has set its fences.
func (w *world) owned() bool { return w.owner.reader != nil && w.owner.stateFence > 0 }

// verify compares everything that was told with the model.
func (w *world) verify() {
	w.takeOver(0)
	w.do(func(*partition) error { return nil })
	told := map[string][]events.Transition{}
	cfg := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, FilterSubjects: []string{
		events.StatusSubject(w.host, ""), "megaphone.status.check." + events.Token(w.host) + ".*",
	}}
	err := readUpTo(w.f.tb.Context(), w.f.conn, bus.StreamChanges, cfg, 0, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		e, err := bus.ReadEvent(m)
		if err != nil {
			return err
		}
		var tr events.Transition
		if err := events.DataAs(e, &tr); err != nil {
			return err
		}
		told[tr.Check] = append(told[tr.Check], tr)
		return nil
	})
	w.fatal(err)
	for id, m := range w.checks {
		w.chained(id, told[id])
		var got []shown
		for _, tr := range told[id] {
			got = append(got, shown{*tr.Current.Status, tr.Current.Phase})
		}
		if !slices.Equal(got, m.told) {
			w.t.Fatalf("%s: told %v, the model says %v", id, got, m.told)
		}
	}
	w.chained("the host", told[""])
	host := shown{events.Unknown, events.Pending}
	if all := told[""]; len(all) > 0 {
		host = shown{*all[len(all)-1].Current.Status, all[len(all)-1].Current.Phase}
	}
	if want := modelHost(w.checks); host != want && (len(told[""]) > 0 || want.phase != events.Gone) {
		w.t.Fatalf("the host is told as %v, the model says %v", host, want)
	}
}

func (w *world) chained(what string, all []events.Transition) {
	for i, tr := range all {
		if tr.Number != uint64(i+1) {
			w.t.Fatalf("%s: transition %d has number %d", what, i+1, tr.Number)
		}
		if i == 0 {
			continue
		}
		a, _ := json.Marshal(all[i-1].Current)
		b, _ := json.Marshal(tr.Previous)
		if string(a) != string(b) {
			w.t.Fatalf("%s: transition %d leads from %s, not from %s", what, i+1, b, a)
		}
	}
}

// checksOf bounds how often rapid checks something slow, unless -rapid.checks says
// otherwise.
func checksOf(t *testing.T, n string) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	if err := f.Value.Set(n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(f.DefValue) }) // it was valid
}

// Whatever happens to a host and in whatever place its owners die, what is told
// is what the model says, each once and in order. `go test ./aggregator -run Model
// -rapid.checks 1000` looks further.
func TestPartition_AgainstAModel(t *testing.T) {
	checksOf(t, "25")
	f := newField(t)
	hosts := 0
	rapid.Check(t, func(rt *rapid.T) {
		hosts++
		w := &world{
			t: rt, f: f, host: fmt.Sprint("h", hosts), addr: map[string]int{}, last: map[string]events.Result{}, lease: 5, due: 1_000_000,
			checks: map[string]*modelCheck{"c0": newModelCheck(true), "c1": newModelCheck(true), "q0": newModelCheck(false), "q1": newModelCheck(false)},
		}
		w.n = events.Partition(w.host)
		defer func() {
			for _, p := range append(w.dead, w.owner) {
				p.close()
			}
		}()
		w.takeOver(0)
		actions := map[string]func(){
			"register": w.register, "register again": w.register, "deregister": w.deregister, "set an override": w.setOverride,
			"clear an override": w.clearOverride, "results": w.results, "more results": w.results, "later": w.later,
			"checkpoint": w.checkpoint, "hand over": w.handOver, "haunt": w.haunt, "haunt again": w.haunt,
		}
		names := slices.Sorted(maps.Keys(actions))
		for range rapid.IntRange(1, 30).Draw(rt, "actions") {
			actions[rapid.SampledFrom(names).Draw(rt, "action")]()
		}
		w.verify()
	})
}
