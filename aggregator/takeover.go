package aggregator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fenceRecord is the content of a fence. Only its position matters; the rest
// tells people who took over when.
type fenceRecord struct {
	V    int    `json:"v"`
	Name string `json:"name"`
}

// takeoverTimeout bounds a takeover: it is tried again after that. One that failed
// keeps its slot for takeoverRest. A bus that cannot answer all in time would be
// asked for more and more else, and never come round.
const (
	takeoverTimeout = 30 * time.Second
	takeoverRest    = time.Second
)

// takeOver is the one way to begin, to be handed a partition, and out of any
// doubt. Behind a new fence no earlier owner's write can be stored any more, so
// that what is read up to the fence is all there is. After it, p.reader gives
// RESULTS from there on.
func (p *partition) takeOver(ctx context.Context) (err error) {
	select {
	case p.a.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func(ctx context.Context) {
		if err != nil {
			sleep(ctx, takeoverRest) // at once over where the connection was lost
		}
		<-p.a.slots
	}(ctx)
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, takeoverTimeout)
	defer cancel()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"set the fences", p.setFences},
		{"read the state", p.readState},
		{"read the transitions since", p.readChanges},
		{"read the last results", p.readResults},
		{"apply the registrations", p.readRegistrations},
		{"consume results", p.follow},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	for _, ev := range p.a.waiting(p.n) {
		p.refuse(ctx, ev)
	}
	p.behind = true // the next one need not read so far
	p.a.stats.takeovers.Add(1)
	p.log.Debug("partition taken over", "fence", p.fence, "hosts", len(p.hosts), "results", p.results,
		"pending", p.reader.pending, "took", time.Since(began))
	return nil
}

// setFences ends the rights of all owners before.
func (p *partition) setFences(ctx context.Context) (err error) {
	b, err := json.Marshal(fenceRecord{V: events.RecordVersion, Name: p.a.cfg.Name})
	if err != nil {
		return err
	}
	msg := func(subject string) *nats.Msg { return &nats.Msg{Subject: subject, Data: b, Header: nats.Header{}} }
	if p.fence, err = p.write(ctx, msg(events.FenceSubject(p.n))); err != nil {
		return err
	}
	p.changes = p.fence
	if p.created, err = p.a.cfg.Conn.Created(ctx); err != nil {
		return err
	}
	p.stateFence, err = p.write(ctx, msg(events.StateFenceSubject(p.n)))
	return err
}

// readState reads all records of the partition, until one's own fence is among
// them: what a lagging replica does not have yet is waited for.
func (p *partition) readState(ctx context.Context) error {
	cfg := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, FilterSubjects: []string{events.StatePartition(p.n)}}
	return readUpTo(ctx, p.a.cfg.Conn, bus.StreamState, cfg, p.stateFence, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		switch m.Subject() {
		case events.CheckpointSubject(p.n):
			var err error
			p.saved, err = decode(p, m.Subject(), m.Data(), func(c events.Checkpoint) int { return c.V })
			return err
		case events.StateFenceSubject(p.n):
			p.now = meta.Timestamp
			return nil
		}
		return p.adopt(m.Subject(), m.Data(), false)
	})
}

// decode reads a record. One of a later version is an error; one that cannot be
// read is left out: the zero T.
func decode[T any](p *partition, subject string, b []byte, version func(T) int) (v T, err error) {
	var none T
	err = json.Unmarshal(b, &v)
	number := version(v)
	if err != nil { // a later version may say the same things in another way
		var head struct {
			V int `json:"v"`
		}
		_ = json.Unmarshal(b, &head) // zero where not even that can be read
		number = head.V
	}
	if number > events.RecordVersion {
		return none, fmt.Errorf("read %s: %w: %d, this one knows %d", subject, errVersion, number, events.RecordVersion)
	}
	if err != nil {
		p.log.Error("a record is unreadable and left out", "subject", subject, "error", err)
		return none, nil
	}
	return v, nil
}

// readChanges adopts the transitions that were committed after the checkpoint,
// up to the fence.
func (p *partition) readChanges(ctx context.Context) error {
	// Without a filter: with two the server looks at all subjects for each message,
	// which costs it far more than the fences of other partitions that come along.
	cfg := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if err := p.shortened(ctx); err != nil {
		return err
	}
	if p.saved.Changes > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, p.saved.Changes+1
	}
	return readUpTo(ctx, p.a.cfg.Conn, bus.StreamChanges, cfg, p.fence, func(m jetstream.Msg, _ *jetstream.MsgMetadata) error {
		a, err := events.ParseSubject(m.Subject())
		if err != nil || events.Partition(a.Host) != p.n {
			return nil // a fence, or of another partition
		}
		if err := p.adopt(m.Subject(), []byte(m.Headers().Get(events.StateHeader)), true); err != nil || a.Check == "" {
			return err
		}
		p.recallCause(a.Host, m)
		return nil
	})
}

// shortened looks whether a power cut took the end of CHANGES: the fence lies
// before what the checkpoint knows. Nobody could own the partition since, and STATE
// has all transitions up to the checkpoint. It is written anew at once: what comes
// next has positions that it would take for known.
func (p *partition) shortened(ctx context.Context) error {
	if p.saved.Changes < p.fence {
		return nil
	}
	p.log.Warn("the end of CHANGES is lost, as by a power cut: subscribers miss some transitions, the state has them",
		"known", p.saved.Changes, "fence", p.fence)
	p.saved.Changes = p.fence - 1
	return p.storeCheckpoint(ctx, p.saved)
}

// recallCause notes why a check of a host changed, lest the host is still to be told.
func (p *partition) recallCause(name string, m jetstream.Msg) {
	e, err := bus.ReadEvent(m)
	var t events.Transition
	if err == nil {
		err = events.DataAs(e, &t)
	}
	if h := p.hosts[name]; err == nil && h != nil {
		h.why = cause{t.Cause, t.ID()}
	}
}

// adopt takes a state as it was stored, if its number is higher than what is
// known. changed says that it comes from a transition: STATE does not have it.
func (p *partition) adopt(subject string, b []byte, changed bool) error {
	// The record of a host has the same fields, but for the check.
	s, err := decode(p, subject, b, func(s events.CheckState) int { return s.V })
	if err != nil || s.Host == "" {
		return err
	}
	h := p.host(s.Host)
	if s.Check == "" {
		p.adoptHost(h, s, changed)
		return nil
	}
	c := h.check(s.Check)
	if c == nil {
		c = &check{}
		h.add(s.Check, c)
	}
	if c.state.Phase != "" && s.Number <= c.state.Number {
		return nil
	}
	c.state = s
	if changed {
		p.dirty[c] = struct{}{}
	} else {
		c.stored = s.Applied
	}
	return nil
}

func (p *partition) adoptHost(h *host, s events.CheckState, changed bool) {
	if h.state.Phase != "" && s.Number <= h.state.Number {
		return
	}
	h.state = events.HostState{
		V: s.V, Host: s.Host, Number: s.Number, Status: s.Status, Phase: s.Phase, Reported: s.Reported, Since: s.Since,
		Labels: s.Labels, Override: s.Override, OverPos: s.OverPos, Ended: s.Ended,
	}
	if changed {
		p.dirty[h] = struct{}{}
	}
}

// readResults finds out what the last results were: what is not written with
// each of them is read again. Those after the checkpoint will be consumed.
func (p *partition) readResults(ctx context.Context) error {
	s, err := p.stream(ctx, bus.StreamResults)
	if err != nil {
		return err
	}
	if err := p.forget(ctx, s); err != nil {
		return err
	}
	state := s.CachedInfo().State
	p.results, p.storedAt, p.replay = p.saved.Results, p.saved.Stored, state.LastSeq
	if p.saved.V == 0 { // the partition was never held
		p.results = max(state.FirstSeq, 1) - 1
		return nil
	}
	cfg := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: events.PartitionResults(p.n)[:2]}
	err = readUpTo(ctx, p.a.cfg.Conn, bus.StreamResults, cfg, 0, p.recall)
	if err == nil {
		err = p.readReports(ctx)
	}
	if err != nil {
		return err
	}
	if p.saved.Results+1 < state.FirstSeq { // what came meanwhile is no longer kept
		p.results, p.storedAt = state.FirstSeq-1, time.Time{}
	}
	return nil
}

// readReports is readResults for what came in reports, which are not kept for each
// check. Who was in none of the last ones was silent for so long that it was told.
func (p *partition) readReports(ctx context.Context) error {
	from := p.saved.Stored
	if from.IsZero() {
		from = p.saved.Time.Time
	}
	from = from.Add(-events.ReportWindow)
	cfg := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from, FilterSubjects: []string{events.PartitionReports(p.n)},
	}
	return readUpTo(ctx, p.a.cfg.Conn, bus.StreamResults, cfg, 0, p.recall)
}

// forget draws positions back to the end of RESULTS: a power cut may have taken
// some of it, and what is stored at those positions, perhaps already, must count.
// The services were heard in what is lost: their deadlines are put off, as after an
// outage.
func (p *partition) forget(ctx context.Context, results jetstream.Stream) error {
	known := bus.Place{Position: p.saved.Results, Stored: p.saved.Stored}
	for _, h := range p.hosts {
		for _, c := range h.checks {
			if c.state.Applied > known.Position {
				known = bus.Place{Position: c.state.Applied, Stored: c.state.Seen}
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	last, err := bus.Kept(ctx, results, known)
	if err != nil || known.Position == last {
		return err
	}
	p.log.Warn("the end of RESULTS is lost, as by a power cut: deadlines are put off", "known", known.Position, "last", last)
	p.lost, p.behind = true, true
	if p.saved.Results > last {
		p.saved.Results, p.saved.Stored = last, time.Time{}
	}
	for _, h := range p.hosts {
		for _, c := range h.checks {
			if c.state.Applied > last {
				c.state.Applied = last
				// The lease may be lost too, and the next one have a lower epoch.
				c.state.Order = events.Order{Reg: c.state.Order.Reg}
				p.dirty[c] = struct{}{}
			}
		}
	}
	return nil
}

// recall notes results whose effects are in the state as the last ones. Those after
// the checkpoint are not, and unreadable ones were refused: neither is an error.
func (p *partition) recall(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
	if meta.Sequence.Stream > p.saved.Results {
		return nil
	}
	results, err := bus.ReadResults(m)
	if err != nil {
		return nil
	}
	for _, in := range results {
		if h := p.hosts[in.Host]; h != nil {
			h.check(in.Check).recall(in)
		}
	}
	return nil
}

func (c *check) recall(in bus.Incoming) {
	// Polls have an address to go to, pushes have none.
	if c == nil || in.Polled != (c.state.Addr != "") || !c.state.FreshResult(in.Result, in.Polled, in.Position) {
		return
	}
	if in.Polled && in.Result.Suspect != "" { // the last that counted is not read: it may have been a moment before
		c.state.Doubt(in.Result)
		c.state.Seen = later(c.state.Seen, in.Stored)
		return
	}
	c.state = Remember(c.state, resultOf(in), in.Stored)
}

// readRegistrations applies registrations and overrides as levels, at least as
// they are now, derives the hosts, and puts deadlines off if results were lost.
func (p *partition) readRegistrations(ctx context.Context) error {
	state, err := p.streamState(ctx, bus.StreamRegistrations)
	if err != nil {
		return err
	}
	if state.Msgs > 0 { // else its last position is nobody's
		if err := p.await(ctx, state.LastSeq); err != nil {
			return err
		}
	}
	p.bury()
	if err := p.levelAll(ctx); err != nil {
		return err
	}
	if p.saved.V > 0 && (p.results > p.saved.Results || p.lost) {
		p.putOff(Outage{From: p.saved.Time.Time, To: p.now}, p.now)
	}
	if p.lost { // at once: results are being stored at the positions that are known
		return p.checkpoint(ctx)
	}
	return nil
}

// bury forgets what is gone for so long that its record has ended.
func (p *partition) bury() {
	for name, h := range p.hosts {
		kept := h.checks[:0]
		for _, c := range h.checks {
			if c.gone() && c.state.Since.Add(events.TombstoneKept).Before(p.now) {
				delete(p.dirty, c)
				continue
			}
			kept = append(kept, c)
		}
		h.checks = kept
		h.states = h.states[:0]
		for _, c := range kept {
			h.states = append(h.states, &c.state)
		}
		if len(kept) == 0 && h.gone() && h.state.Since.Add(events.TombstoneKept).Before(p.now) {
			delete(p.dirty, h)
			delete(p.hosts, name)
		}
	}
}

// fewResults is how many results may wait for a partition to be read along with
// its ticks. For more, the server would look at far too many messages of other
// partitions again and again: it is an order of magnitude faster with one filter.
const fewResults = 200

// follow begins to consume RESULTS after the checkpoint.
func (p *partition) follow(ctx context.Context) error {
	r, err := p.readFrom(ctx, events.PartitionResults(p.n)...)
	if err != nil {
		return err
	}
	if r.pending <= fewResults {
		if r.pending == 0 {
			// Nothing came for this partition up to the end as it was before.
			if p.replay > p.results {
				p.results, p.storedAt = p.replay, time.Time{}
			}
		}
		p.reader, p.live = r, true
		return nil
	}
	r.close()
	if err := p.readOutages(ctx); err != nil {
		return err
	}
	p.reader, err = p.readFrom(ctx, backlogSubjects(p.n))
	return err
}

func (p *partition) readFrom(ctx context.Context, filters ...string) (*reader, error) {
	return read(ctx, p.a.cfg.Conn, bus.StreamResults, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: p.results + 1, FilterSubjects: filters,
	})
}

// outageAt is a record of an outage with its position in RESULTS.
type outageAt struct {
	position uint64
	msg      jetstream.Msg
	stored   time.Time
}

// readOutages reads the records of outages among the results that wait: while
// these are read, nothing else is.
func (p *partition) readOutages(ctx context.Context) error {
	cfg := jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: p.results + 1, FilterSubjects: []string{events.TickAll},
	}
	return readUpTo(ctx, p.a.cfg.Conn, bus.StreamResults, cfg, 0, func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		p.outages = append(p.outages, outageAt{meta.Sequence.Stream, m, meta.Timestamp})
		return nil
	})
}

// passed applies the outages before a position of the results that wait.
func (p *partition) passed(position uint64) {
	for len(p.outages) > 0 && p.outages[0].position < position {
		o := p.outages[0]
		p.outages = p.outages[1:]
		p.outage(o.msg, o.stored)
	}
}

// goLive ends the reading of what waited: from here on ticks are read, too.
func (p *partition) goLive(ctx context.Context) error {
	p.close()
	p.passed(p.results)
	p.outages = nil // the others come with the ticks
	r, err := p.readFrom(ctx, events.PartitionResults(p.n)...)
	if err != nil {
		return err
	}
	p.reader, p.live = r, true
	return nil
}

// backlogSubjects is the pattern of a partition's results, pushed and polled,
// as they are stored. Ticks have no token for a host and do not match.
func backlogSubjects(p int) string { return fmt.Sprintf("megaphone.*.%d.>", p) }
