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
	Host  string // only this host and its checks
	Check string // only this check of Host
	Hosts bool   // only transitions of hosts, none of checks

	// Where to begin, the first that is set: after a position, where an earlier
	// Watch stopped; at a time; with the oldest that is kept; else with what
	// comes next.
	After     uint64
	Since     time.Time
	FromStart bool
}

// Change is a transition as a subscriber gets it.
type Change struct {
	Position   uint64    // in CHANGES; give it as After to resume
	Stored     time.Time // bus time
	Event      event.Event
	Transition events.Transition
	State      []byte // JSON of the complete state after it: an events.CheckState or events.HostState
}

// Watch yields transitions in the order in which they were stored, each once,
// until ctx ends or the caller breaks off. It reads the stream CHANGES: a lost
// connection is resumed where it stopped, and for ever. Numbers of each check
// and host are compared; what is missing is read from the stream, and what is
// no longer kept there is yielded as a [*GapError], after which Watch goes on.
// Any other error is the last thing that it yields. Nothing starts before the
// iterator is ranged over. It remembers a number per check and host seen.
func (c *Conn) Watch(ctx context.Context, o WatchOptions) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w := watcher{c: c, o: o, next: o.After + 1, resume: o.After > 0, seen: map[string]seen{}}
		for {
			more, err := w.read(ctx, yield)
			if !more || ctx.Err() != nil {
				return
			}
			if permanent(err) {
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

const watchPause = 250 * time.Millisecond

// permanent reports whether trying again would end the same way.
func permanent(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, events.ErrName) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, jetstream.ErrJetStreamNotEnabled)
}

type watcher struct {
	c      *Conn
	o      WatchOptions
	next   uint64 // position to go on with
	resume bool   // next is to be used
	seen   map[string]seen
}

type seen struct{ number, position uint64 }

// read yields until the caller breaks off (more is false) or reading fails.
func (w *watcher) read(ctx context.Context, yield func(Change, error) bool) (more bool, err error) {
	if more, err := w.place(ctx, yield); !more || err != nil {
		return more, err
	}
	cfg, err := w.config()
	if err != nil {
		return true, err
	}
	cons, err := w.c.js.OrderedConsumer(ctx, StreamChanges, cfg)
	if err != nil {
		return true, fmt.Errorf("read the stream %s: %w", StreamChanges, err)
	}
	msgs, err := cons.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return true, fmt.Errorf("read the stream %s: %w", StreamChanges, err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrNoHeartbeat) && ctx.Err() == nil && w.c.nc.IsConnected() {
			continue // the client asks again by itself
		}
		if err != nil {
			return true, fmt.Errorf("read the stream %s: %w", StreamChanges, err)
		}
		ch, err := readChange(m)
		if err != nil {
			w.c.log.Warn("a stored transition is unreadable", "subject", m.Subject(), "error", err)
			continue
		}
		if !w.tell(ctx, m.Subject(), ch, yield) {
			return false, nil
		}
	}
}

func (w *watcher) config() (jetstream.OrderedConsumerConfig, error) {
	subjects, err := w.o.subjects()
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: subjects, InactiveThreshold: time.Minute}
	switch {
	case w.resume:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, w.next
	case !w.o.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &w.o.Since
	default:
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	return cfg, err
}

func (o WatchOptions) subjects() ([]string, error) {
	if o.Host == "" {
		if o.Check != "" {
			return nil, fmt.Errorf("%w: a check is named without its host", events.ErrName)
		}
		if o.Hosts {
			return []string{events.StatusHostSubjects}, nil
		}
		return []string{events.StatusSubjects}, nil
	}
	host, err := events.ParseHost(o.Host)
	switch {
	case err != nil:
		return nil, err
	case o.Check != "":
		return []string{events.StatusSubject(host, o.Check)}, nil
	case o.Hosts:
		return []string{events.StatusSubject(host, "")}, nil
	}
	return []string{events.StatusSubject(host, ""), "megaphone.status.check." + events.Token(host) + ".*"}, nil
}

// place decides at which position reading begins. "From now on" becomes a
// position, so that nothing is missed if the connection is lost before the first
// change. Where the position to resume after is older than the oldest that is
// kept, a gap is yielded.
func (w *watcher) place(ctx context.Context, yield func(Change, error) bool) (more bool, err error) {
	if !w.resume && (w.o.FromStart || !w.o.Since.IsZero()) {
		return true, nil
	}
	s, err := w.c.js.Stream(ctx, StreamChanges)
	if err != nil {
		return true, fmt.Errorf("ask for the stream %s: %w", StreamChanges, err)
	}
	if !w.resume {
		w.next, w.resume = s.CachedInfo().State.LastSeq+1, true
		return true, nil
	}
	first := s.CachedInfo().State.FirstSeq
	if w.next >= first {
		return true, nil
	}
	gap := &GapError{After: w.next - 1, From: w.next, Until: first - 1}
	w.next = first
	return yield(Change{}, gap), nil
}

// tell yields a change, and before it what is missing by number.
func (w *watcher) tell(ctx context.Context, subject string, ch Change, yield func(Change, error) bool) bool {
	last, n := w.seen[subject], ch.Transition.Number
	if last.number > 0 && n <= last.number {
		return true // seen before
	}
	if last.number > 0 && n > last.number+1 && !w.fill(ctx, subject, last, ch, yield) {
		return false
	}
	w.seen[subject] = seen{n, ch.Position}
	w.next, w.resume = ch.Position+1, true
	return yield(ch, nil)
}

// fill yields the transitions between last and ch, or a gap where they are gone.
func (w *watcher) fill(ctx context.Context, subject string, last seen, ch Change, yield func(Change, error) bool) bool {
	s, err := w.c.js.Stream(ctx, StreamChanges)
	for err == nil && last.number+1 < ch.Transition.Number {
		var raw *jetstream.RawStreamMsg
		if raw, err = s.GetMsg(ctx, last.position+1, jetstream.WithGetMsgSubject(subject)); err != nil {
			break
		}
		var missing Change
		if missing, err = newChange(rawMsg{raw}, raw.Sequence, raw.Time); err != nil || raw.Sequence >= ch.Position {
			break
		}
		if missing.Transition.Number > last.number+1 {
			gap := &GapError{Subject: subject, After: last.position, From: last.number + 1, Until: missing.Transition.Number - 1}
			if !yield(Change{}, gap) {
				return false
			}
		}
		last = seen{missing.Transition.Number, missing.Position}
		if !yield(missing, nil) {
			return false
		}
	}
	if last.number+1 < ch.Transition.Number {
		return yield(Change{}, &GapError{Subject: subject, After: last.position, From: last.number + 1, Until: ch.Transition.Number - 1})
	}
	return true
}

func readChange(m jetstream.Msg) (Change, error) {
	meta, err := m.Metadata()
	if err != nil {
		return Change{}, err
	}
	return newChange(m, meta.Sequence.Stream, meta.Timestamp)
}

func newChange(m Msg, position uint64, stored time.Time) (Change, error) {
	e, err := ReadEvent(m)
	if err != nil {
		return Change{}, err
	}
	ch := Change{Position: position, Stored: stored, Event: e, State: []byte(m.Headers().Get(events.StateHeader))}
	return ch, events.DataAs(e, &ch.Transition)
}

type rawMsg struct{ m *jetstream.RawStreamMsg }

func (r rawMsg) Subject() string      { return r.m.Subject }
func (r rawMsg) Headers() nats.Header { return r.m.Header }
func (r rawMsg) Data() []byte         { return r.m.Data }
