package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Told is a transition as subscribers get it.
type Told struct {
	Position   uint64 // in CHANGES
	Event      event.Event
	Transition events.Transition
}

// Follower keeps a [View] up to date from the bus: it loads the streams STATE,
// CHANGES and RESULTS, the last message of each subject, and follows them and
// the registry. While the bus is away the view stays as it is.
type Follower struct {
	conn *bus.Conn
	reg  *bus.Registry
	view *View
	tell sink // of transitions; nil for none
	log  *slog.Logger

	ready    chan struct{}
	once     sync.Once
	changed  bus.Place    // where the last transition lies that was read; used by its source alone
	heard    atomic.Int64 // Unix nanoseconds of the last sign of life of the bus
	reported atomic.Int64 // the same of the last report that was there at the start; bus time
}

// sink takes transitions in their order, from one goroutine: after begin(p) all
// that are stored after the position p. kept is up to where the stream still is
// what was told before, or keptAll. loaded says that the view holds all that the
// bus has, reset that it is loaded anew.
type sink interface {
	begin(created time.Time, position, kept uint64)
	add(t Told)
	loaded()
	reset()
}

// NewFollower makes a follower; [Follower.Run] does the work.
func NewFollower(conn *bus.Conn, reg *bus.Registry, view *View, log *slog.Logger) *Follower {
	return &Follower{conn: conn, reg: reg, view: view, log: log, ready: make(chan struct{})}
}

// Ready is closed once the view holds everything that the bus had at the start.
func (f *Follower) Ready() <-chan struct{} { return f.ready }

// Age is how long the bus has been away; 0 while it is there.
func (f *Follower) Age(now time.Time) time.Duration {
	heard := f.heard.Load()
	if heard == 0 || f.conn.NATS().IsConnected() && now.UnixNano()-heard < int64(quietTime) {
		return 0
	}
	return max(now.Sub(time.Unix(0, heard)), 0)
}

// lastHeard is the last sign of life of the bus.
func (f *Follower) lastHeard() time.Time {
	if f.conn.NATS().IsConnected() {
		return time.Now()
	}
	return time.Unix(0, f.heard.Load())
}

// quietTime is how long the bus may send nothing, not even the heartbeats of
// consumers, before it counts as away.
const quietTime = 5 * time.Second

// errRecreated ends the following of streams that were made anew, or lost their end:
// numbers begin again, so that nothing of the former view may stay.
var errRecreated = errors.New("a stream was made anew, or is shorter than it was")

var errReconnected = errors.New("the bus connection was lost and is back")

// Run follows until ctx ends, then returns nil. It goes on for ever when the bus
// is lost.
func (f *Follower) Run(ctx context.Context) error {
	changes, cancel := f.reg.Subscribe()
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		f.followRegistry(ctx, changes)
		return nil
	})
	g.Go(func() error {
		for ctx.Err() == nil {
			err := f.followStreams(ctx)
			if ctx.Err() == nil {
				f.log.Warn("the view is loaded anew", "error", err)
				if f.tell != nil {
					f.tell.reset()
				}
				f.view.Reset()
			}
		}
		return nil
	})
	return g.Wait()
}

func (f *Follower) followRegistry(ctx context.Context, changes <-chan bus.RegistryChange) {
	select {
	case <-f.reg.Ready():
	case <-ctx.Done():
		return
	}
	f.view.RefreshRegistration("", "")
	for {
		select {
		case c, ok := <-changes:
			if !ok {
				return
			}
			f.view.RefreshRegistration(c.Host, c.Check)
		case <-ctx.Done():
			return
		}
	}
}

// followStreams ends with errRecreated, or when ctx does.
func (f *Follower) followStreams(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	sources := []*source{
		{
			stream: bus.StreamState, subjects: []string{"megaphone.state.*.check.>", "megaphone.state.*.host.>"},
			policy: jetstream.DeliverAllPolicy, apply: f.applyState,
		},
		{
			stream: bus.StreamChanges, subjects: []string{events.StatusSubjects},
			policy: jetstream.DeliverLastPerSubjectPolicy, apply: f.applyChange,
		},
		{
			// Ticks are read along: with two filters the server looks at all subjects
			// for each message, which costs it several times as much.
			stream: bus.StreamResults, subjects: []string{">"},
			policy: jetstream.DeliverLastPerSubjectPolicy, apply: f.applyResult,
		},
	}
	if f.tell != nil {
		sources[1].begin = f.tell.begin
	}
	for _, s := range sources {
		s.f, s.loaded = f, make(chan struct{})
		g.Go(func() error { return s.run(ctx) })
	}
	g.Go(func() error {
		for _, s := range sources {
			select {
			case <-s.loaded:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-f.reg.Ready():
		case <-ctx.Done():
			return nil
		}
		f.readReports(ctx)
		// The subscription may lag behind; what readers see first must not.
		f.view.RefreshRegistration("", "")
		if f.tell != nil {
			f.tell.loaded()
		}
		f.once.Do(func() { close(f.ready) })
		return nil
	})
	return g.Wait()
}

// reportPatience bounds [Follower.readReports].
const reportPatience = 10 * time.Second

// readReports reads the last reports of workers, of which the stream keeps none for
// each check. What it cannot read the next poll of each check tells.
func (f *Follower) readReports(ctx context.Context) {
	last := f.reported.Load()
	if last == 0 {
		return
	}
	from := time.Unix(0, last).Add(-events.ReportWindow)
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	cons, err := f.conn.JetStream().OrderedConsumer(ctx, bus.StreamResults, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{events.ReportSubjects}, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from, MaxResetAttempts: 1,
	})
	if err != nil {
		f.log.Debug("the last reports are not read", "error", err)
		return
	}
	msgs, err := messages(cons)
	if err != nil {
		f.log.Debug("the last reports are not read", "error", err)
		return
	}
	defer msgs.Stop()
	for n := cons.CachedInfo().NumPending; n > 0; n-- {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			f.log.Debug("the last reports are not all read", "left", n, "error", err)
			return
		}
		if meta, err := m.Metadata(); err == nil {
			f.applyResult(m, meta, true)
		}
	}
}

// tickPrefix is that of the subjects of ticks, which lie among the results.
var tickPrefix = strings.TrimSuffix(events.TickSubjects, "*")

// source reads one stream, for ever.
type source struct {
	f        *Follower
	stream   string
	subjects []string
	policy   jetstream.DeliverPolicy // of the first reading
	apply    func(m jetstream.Msg, meta *jetstream.MsgMetadata, live bool)

	begin func(created time.Time, position, kept uint64) // told when what was there has been read; may be nil
	kept  uint64                                         // for begin

	created time.Time
	next    uint64    // position to go on with
	last    bus.Place // of the last message read; zero before the first
	live    bool      // what was there at the start has been read
	loaded  chan struct{}
}

func (s *source) run(ctx context.Context) error {
	for {
		err := s.read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errRecreated):
			return fmt.Errorf("stream %s: %w", s.stream, err)
		}
		s.f.log.Debug("the view lost its stream and asks again", "stream", s.stream, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// read follows the stream until that fails.
func (s *source) read(ctx context.Context) error {
	nc := s.f.conn.NATS()
	reconnects := nc.Stats().Reconnects // before the first look: a server that is another by now may have lost what is seen
	stream, err := s.f.conn.JetStream().Stream(ctx, s.stream)
	if err != nil {
		return err
	}
	if s.created.IsZero() {
		s.created = stream.CachedInfo().Created
	}
	kept, err := bus.Kept(ctx, stream, s.last)
	switch {
	case err != nil:
		return err
	case !s.created.Equal(stream.CachedInfo().Created), kept != s.last.Position:
		return errRecreated
	}
	if s.begin != nil && !s.live {
		if s.kept, err = s.f.keptChanges(ctx, stream); err != nil {
			return err
		}
	}
	if first := stream.CachedInfo().State.FirstSeq; s.live && s.begin != nil && s.next < first {
		s.begin(s.created, first-1, keptAll) // what lies between is no longer kept: subscribers are to be told
	}
	cons, err := stream.OrderedConsumer(ctx, s.config())
	if err != nil {
		return err
	}
	msgs, err := messages(cons)
	if err != nil {
		return err
	}
	defer msgs.Stop()
	if info := cons.CachedInfo(); info != nil && info.NumPending == 0 {
		s.goLive(stream.CachedInfo().State.LastSeq)
	}
	return s.pull(ctx, msgs, nc, reconnects)
}

// keptChanges is up to where CHANGES still is what was read of it by the source
// before this one, keptAll if nothing is missing. What subscribers got beyond the
// end of the stream is lost in any case.
func (f *Follower) keptChanges(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	if f.changed.Position == 0 {
		return keptAll, nil
	}
	kept, err := bus.Kept(ctx, stream, f.changed)
	if err == nil && kept == f.changed.Position {
		kept = max(kept, stream.CachedInfo().State.LastSeq)
	}
	return kept, err
}

func (s *source) config() jetstream.OrderedConsumerConfig {
	// One attempt: for ever, as by default, is past the end of any context.
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: s.subjects, DeliverPolicy: s.policy, InactiveThreshold: time.Minute, MaxResetAttempts: 1}
	if s.next > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.next
	}
	return cfg
}

// The client notices a consumer that is lost, as with the node of a cluster that
// it lived on, when two heartbeats are missing, but only while it waits for one
// message: a shorter wait would never notice.
const (
	pullHeartbeat = 500 * time.Millisecond
	pullWait      = 3 * pullHeartbeat
)

func messages(cons jetstream.Consumer) (jetstream.MessagesContext, error) {
	return cons.Messages(jetstream.PullExpiry(4*time.Second), jetstream.PullHeartbeat(pullHeartbeat))
}

// pull applies messages. A consumer that is silent is made anew after a while: a
// server that lost it does not say so. So is everything once the connection was lost
// since there were so many reconnects.
func (s *source) pull(ctx context.Context, msgs jetstream.MessagesContext, nc *nats.Conn, reconnects uint64) error {
	for {
		next, cancel := context.WithTimeout(ctx, pullWait)
		m, err := msgs.Next(jetstream.NextContext(next))
		quiet := next.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case nc.Stats().Reconnects != reconnects:
			return errReconnected // the server may have lost what it had
		case err == nil:
			s.one(m)
			continue
		case quiet && nc.IsConnected() && s.f.alive(nc):
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return err
	}
}

// alive asks the bus for a sign of life.
func (f *Follower) alive(nc *nats.Conn) bool {
	if nc.FlushTimeout(2*time.Second) != nil {
		return false
	}
	f.heard.Store(time.Now().UnixNano())
	return true
}

func (s *source) one(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		s.f.log.Warn("a stored message is unreadable", "stream", s.stream, "error", err)
		return
	}
	s.f.heard.Store(time.Now().UnixNano())
	s.apply(m, meta, s.live)
	s.next, s.last = meta.Sequence.Stream+1, bus.Place{Position: meta.Sequence.Stream, Stored: meta.Timestamp}
	if s.begin != nil {
		s.f.changed = s.last
	}
	if meta.NumPending == 0 {
		s.goLive(meta.Sequence.Stream)
	}
}

func (s *source) goLive(position uint64) {
	if !s.live {
		s.live = true
		if s.begin != nil {
			s.begin(s.created, position, s.kept)
		}
		s.f.heard.Store(time.Now().UnixNano())
		close(s.loaded)
	}
}

func (f *Follower) applyState(m jetstream.Msg, _ *jetstream.MsgMetadata, _ bool) {
	if len(m.Data()) == 0 { // a delete marker: a tombstone has expired
		return
	}
	f.applyRecord(m.Subject(), m.Data(), true)
}

// applyRecord reads a state record by what it holds: only a check's names one.
func (f *Follower) applyRecord(subject string, data []byte, snapshot bool) {
	var check events.CheckState
	if err := json.Unmarshal(data, &check); err != nil {
		f.log.Warn("a state record is unreadable", "subject", subject, "error", err)
		return
	}
	if check.Check != "" {
		f.view.ApplyCheck(check, snapshot)
		return
	}
	var host events.HostState
	if err := json.Unmarshal(data, &host); err != nil || host.Host == "" {
		f.log.Warn("a state record is unreadable", "subject", subject, "error", err)
		return
	}
	f.view.ApplyHost(host, snapshot)
}

func (f *Follower) applyChange(m jetstream.Msg, meta *jetstream.MsgMetadata, live bool) {
	if state := m.Headers().Get(events.StateHeader); state != "" {
		f.applyRecord(m.Subject(), []byte(state), false)
	}
	if !live || f.tell == nil {
		return
	}
	e, err := bus.ReadEvent(m)
	if err != nil {
		f.log.Warn("a stored transition is unreadable", "subject", m.Subject(), "error", err)
		return
	}
	told := Told{Position: meta.Sequence.Stream, Event: e}
	if err := events.DataAs(e, &told.Transition); err != nil {
		f.log.Warn("a stored transition is unreadable", "subject", m.Subject(), "error", err)
		return
	}
	f.tell.add(told)
}

func (f *Follower) applyResult(m jetstream.Msg, meta *jetstream.MsgMetadata, live bool) {
	if strings.HasPrefix(m.Subject(), tickPrefix) {
		return
	}
	if bus.IsReport(m.Subject()) {
		results, err := bus.ReadReport(m, meta.Sequence.Stream, meta.Timestamp)
		if err != nil {
			return // the aggregator tells of it
		}
		if !live {
			f.reported.Store(meta.Timestamp.UnixNano())
		}
		for _, in := range results {
			f.view.ApplyResult(in)
		}
		return
	}
	in, err := bus.ReadStoredResult(m, meta.Sequence.Stream, meta.Timestamp)
	if err == nil {
		f.view.ApplyResult(in)
	}
}
