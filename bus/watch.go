package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// WatchOptions choose what [Conn.Watch] yields. The zero value yields every
// transition from now on.
type WatchOptions struct {
	Filter events.Filter

	// Where to begin, the first that is set: after a position, where an earlier
	// Watch stopped; at a time; with the oldest that is kept; else with what
	// comes next.
	After     uint64
	Since     time.Time
	FromStart bool

	// State yields first what is, then what changes, without a gap between: a
	// [Change] with Present for every host and check that the filter chooses, by
	// name, then one with Complete. With After it does so only where that position
	// is no longer kept: the present state is what can be known then. It is asked
	// of a gateway; Since and FromStart have no meaning with it.
	State bool

	// Mark yields a [Change] with Complete once all is told that was stored when
	// Watch began.
	Mark bool
}

// Change is a transition as a subscriber gets it.
type Change struct {
	Position   uint64    // in CHANGES; give it as After to resume
	Stored     time.Time // bus time
	Event      event.Event
	Transition events.Transition
	State      []byte // JSON of the complete state after it: an events.CheckState or events.HostState

	// Present says that this is no transition but how a check or host is, see
	// [events.Present]; Position, Stored and State are not set.
	Present bool
	// Complete says that what was there has been told: only Position is set. What
	// is resumed after it misses nothing.
	Complete bool
}

// Watch yields transitions in the order in which they were stored, each once,
// until ctx ends or the caller breaks off. It reads the stream CHANGES: a lost
// connection is resumed where it stopped, and for ever. Numbers of each check
// and host are compared, whatever else the filter says; what is missing is read
// from the stream, and what is no longer kept there is yielded as a [*GapError],
// after which Watch goes on. Any other error is the last thing that it yields.
// Nothing starts before the iterator is ranged over.
//
// A slow caller holds nobody up: the server sends what is asked for, [watchAhead]
// at a time. Watch remembers a number per check and host that it has seen and that is not gone.
func (c *Conn) Watch(ctx context.Context, o WatchOptions) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w := watcher{c: c, o: o, yield: yield, next: o.After + 1, resume: o.After > 0, mark: o.Mark, seen: map[string]seen{}}
		for {
			err := w.session(ctx)
			if errors.Is(err, errBroken) || ctx.Err() != nil {
				return
			}
			if w.permanent(err) {
				yield(Change{}, err)
				return
			}
			c.log.Info("watch is interrupted", "error", err, "position", w.next)
			select {
			case <-ctx.Done():
				return
			case <-time.After(watchPause):
			}
		}
	}
}

const (
	watchPause = 250 * time.Millisecond // before a new attempt
	watchAhead = 256                    // transitions that wait in memory for a slow caller
	watchIdle  = time.Minute            // without a transition, after which the position is brought up to date
)

// errBroken ends a reading because the caller broke off.
var errBroken = errors.New("the caller broke off")

// permanent reports whether trying again would end the same way. Once there was a
// stream or a gateway there will be one again.
func (w *watcher) permanent(err error) bool {
	for _, known := range []error{
		jetstream.ErrJetStreamNotEnabled, events.ErrName, nats.ErrConnectionClosed, nats.ErrPermissionViolation,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	missing := errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, ErrNoService)
	return forGood(err) || missing && !w.began
}

// watcher is one Watch. Its methods return errBroken once yield was told so.
type watcher struct {
	c      *Conn
	o      WatchOptions
	yield  func(Change, error) bool
	next   uint64 // position to go on with
	resume bool   // next is to be used
	last   Place  // of the last message read; zero before the first
	mark   bool   // Complete is to be told
	began  bool   // the stream was there, or a gateway has answered
	target uint64 // the last position when the reading began
	seen   map[string]seen
}

type seen struct{ number, position uint64 }

// say yields and reports as an error that the caller broke off.
func (w *watcher) say(ch Change, err error) error {
	if !w.yield(ch, err) {
		return errBroken
	}
	return nil
}

// session reads until something is in doubt: also until a lost connection is back,
// because the server may have lost some of the stream.
func (w *watcher) session(ctx context.Context) error {
	ctx, stop := w.c.untilReconnect(ctx)
	defer stop()
	err := w.read(ctx)
	if ctx.Err() == nil || errors.Is(err, errBroken) {
		return err
	}
	return context.Cause(ctx)
}

// read yields until reading fails.
func (w *watcher) read(ctx context.Context) error {
	if err := w.o.Filter.Validate(); err != nil {
		return err
	}
	if w.o.State && !w.resume {
		if err := w.present(ctx); err != nil {
			return err
		}
	}
	if err := w.place(ctx); err != nil {
		return err
	}
	cons, err := w.c.js.OrderedConsumer(ctx, StreamChanges, w.config())
	if err != nil {
		return fmt.Errorf("read the stream %s: %w", StreamChanges, err)
	}
	if info := cons.CachedInfo(); info != nil && info.NumPending == 0 {
		if err := w.reached(w.target); err != nil {
			return err
		}
	}
	msgs, err := cons.Messages(jetstream.PullMaxMessages(watchAhead), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return fmt.Errorf("read the stream %s: %w", StreamChanges, err)
	}
	defer msgs.Stop()
	return w.follow(ctx, cons, msgs)
}

func (w *watcher) follow(ctx context.Context, cons jetstream.Consumer, msgs jetstream.MessagesContext) error {
	for {
		next, cancel := context.WithTimeout(ctx, watchIdle)
		m, err := msgs.Next(jetstream.NextContext(next))
		idle := next.Err() != nil
		cancel()
		switch {
		case err == nil:
			err = w.take(ctx, m)
		case ctx.Err() != nil:
			return ctx.Err()
		case idle:
			err = w.advance(ctx, cons)
		case errors.Is(err, jetstream.ErrNoHeartbeat) && w.c.nc.IsConnected():
			continue // the client asks again by itself
		}
		if err != nil {
			return fmt.Errorf("read the stream %s: %w", StreamChanges, err)
		}
	}
}

// take yields what a message of the stream tells.
func (w *watcher) take(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	ch, err := newChange(m, meta.Sequence.Stream, meta.Timestamp)
	if err != nil {
		w.c.log.Warn("a stored transition is unreadable", "subject", m.Subject(), "error", err)
	} else if err := w.tell(ctx, m.Subject(), ch); err != nil {
		return err
	}
	w.next, w.resume, w.last = meta.Sequence.Stream+1, true, Place{meta.Sequence.Stream, meta.Timestamp}
	if meta.NumPending > 0 && w.next <= w.target {
		return nil
	}
	return w.reached(max(w.target, meta.Sequence.Stream))
}

// reached notes that all up to a position has been yielded, and tells it once if
// asked to.
func (w *watcher) reached(position uint64) error {
	w.next, w.resume = max(w.next, position+1), true
	if !w.mark {
		return nil
	}
	w.mark = false
	return w.say(Change{Complete: true, Position: w.next - 1}, nil)
}

// advance brings the position up to date where nothing that the filter chooses
// has come for long: else resuming would tell a gap of others' transitions.
func (w *watcher) advance(ctx context.Context, cons jetstream.Consumer) error {
	s, err := w.c.js.Stream(ctx, StreamChanges)
	if err != nil {
		return err
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return err
	}
	if info.NumPending == 0 && info.Delivered.Stream < w.next {
		w.next = max(w.next, s.CachedInfo().State.LastSeq+1)
	}
	return nil
}

func (w *watcher) config() jetstream.OrderedConsumerConfig {
	// The client tries a lost consumer once, not for ever: it would do so past the end
	// of its context, and say nothing of a stream that is gone.
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: w.o.Filter.Subjects(), InactiveThreshold: time.Minute, MaxResetAttempts: 1}
	switch {
	case w.resume:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, w.next
	case !w.o.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &w.o.Since
	default:
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	return cfg
}

// place decides at which position reading begins. "From now on" becomes a
// position, so that nothing is missed if the connection is lost before the first
// change. Where the position to resume after is older than the oldest that is
// kept, or newer than the newest, a gap is yielded.
func (w *watcher) place(ctx context.Context) error {
	s, err := w.changes(ctx)
	if err != nil {
		return err
	}
	state := s.CachedInfo().State
	w.target, w.began = state.LastSeq, true
	switch {
	case !w.resume && (w.o.FromStart || !w.o.Since.IsZero()):
		return nil
	case !w.resume:
		w.next, w.resume = state.LastSeq+1, true
		return nil
	case w.next < state.FirstSeq:
		clear(w.seen) // in a stream that was made anew numbers begin again
		return w.gap(ctx, &GapError{After: w.next - 1, Resume: state.FirstSeq - 1, From: w.next, Until: state.FirstSeq - 1})
	}
	kept, err := w.kept(ctx, s)
	if err != nil || kept == w.next-1 {
		return err
	}
	// What was stored last is gone, with its numbers: they are used again.
	clear(w.seen)
	w.last = Place{}
	return w.gap(ctx, &GapError{After: w.next - 1, Resume: kept, From: kept + 1, Until: w.next - 1})
}

// kept returns up to where the stream still is what was read, at most w.next-1.
func (w *watcher) kept(ctx context.Context, s jetstream.Stream) (uint64, error) {
	if w.last.Position > 0 {
		kept, err := Kept(ctx, s, w.last)
		if err != nil || kept < w.last.Position {
			return kept, err
		}
	}
	return min(w.next-1, s.CachedInfo().State.LastSeq), nil
}

// gap tells that positions are missing, and goes on after them.
func (w *watcher) gap(ctx context.Context, gap *GapError) error {
	if err := w.say(Change{}, gap); err != nil {
		return err
	}
	w.next = gap.Resume + 1
	if !w.o.State {
		return nil
	}
	if err := w.present(ctx); err != nil {
		w.resume = false // the present state is still to be told
		return err
	}
	return nil
}

// changes asks for the stream. Right after another node of a cluster took over, it
// may know less than what was read before; that passes.
func (w *watcher) changes(ctx context.Context) (jetstream.Stream, error) {
	for try := 0; ; try++ {
		s, err := w.c.js.Stream(ctx, StreamChanges)
		if err != nil {
			return nil, fmt.Errorf("ask for the stream %s: %w", StreamChanges, err)
		}
		if !w.resume || w.next <= s.CachedInfo().State.LastSeq+1 || try == behindTries {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(watchPause):
		}
	}
}

const behindTries = 8 // of watchPause each

func newChange(m Msg, position uint64, stored time.Time) (Change, error) {
	e, err := ReadEvent(m)
	if err != nil {
		return Change{}, err
	}
	ch := Change{Position: position, Stored: stored, Event: e, State: []byte(m.Headers().Get(events.StateHeader))}
	return ch, events.DataAs(e, &ch.Transition)
}
