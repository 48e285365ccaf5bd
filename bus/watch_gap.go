package bus

import (
	"context"
	"errors"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tell yields a change, and before it what is missing by number. Numbers are
// followed for every name that the filter may choose: a change that is not
// chosen for its status or labels is no gap.
func (w *watcher) tell(ctx context.Context, subject string, ch Change) error {
	if !w.o.Filter.MatchName(ch.Transition.Host, ch.Transition.Check) {
		return nil
	}
	last, n := w.seen[subject], ch.Transition.Number
	if n <= last.number {
		return nil // seen before
	}
	if last.number > 0 && n > last.number+1 {
		if err := w.fill(ctx, subject, last, ch); err != nil {
			return err
		}
	}
	w.seen[subject] = seen{n, ch.Position}
	if ch.Transition.Current.Phase == events.Gone {
		delete(w.seen, subject) // many never come back, and what does so late begins again with 1
	}
	return w.choose(ch)
}

// choose yields a change if the filter does choose it.
func (w *watcher) choose(ch Change) error {
	if !w.o.Filter.Match(ch.Transition) {
		return nil
	}
	return w.say(ch, nil)
}

// fill yields the transitions between last and ch, and a gap where they are gone.
func (w *watcher) fill(ctx context.Context, subject string, last seen, ch Change) error {
	s, err := w.c.js.Stream(ctx, StreamChanges)
	if err != nil {
		return err
	}
	for last.number+1 < ch.Transition.Number {
		missing, err := w.readFrom(ctx, s, subject, last.position+1)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
		if err != nil || missing.Position >= ch.Position {
			break
		}
		last.position = missing.Position
		if missing.Transition.Number <= last.number {
			continue
		}
		if err := w.hole(subject, last, missing.Transition.Number); err != nil {
			return err
		}
		last.number = missing.Transition.Number
		w.seen[subject] = last
		if err := w.choose(missing); err != nil {
			return err
		}
	}
	return w.hole(subject, last, ch.Transition.Number)
}

// hole yields a gap where numbers are missing between last and the one before n.
func (w *watcher) hole(subject string, last seen, n uint64) error {
	if last.number+1 >= n {
		return nil
	}
	return w.say(Change{}, &GapError{Subject: subject, After: last.position, Resume: last.position, From: last.number + 1, Until: n - 1})
}

// readFrom reads the first transition of a subject at a position or after it.
// One that is unreadable has its position only.
func (w *watcher) readFrom(ctx context.Context, s jetstream.Stream, subject string, from uint64) (Change, error) {
	raw, err := s.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
	if err != nil {
		return Change{}, err
	}
	ch, err := newChange(rawMsg{raw}, raw.Sequence, raw.Time)
	if err != nil {
		w.c.log.Warn("a stored transition is unreadable", "subject", subject, "error", err)
		return Change{Position: raw.Sequence}, nil
	}
	return ch, nil
}

type rawMsg struct{ m *jetstream.RawStreamMsg }

func (r rawMsg) Subject() string      { return r.m.Subject }
func (r rawMsg) Headers() nats.Header { return r.m.Header }
func (r rawMsg) Data() []byte         { return r.m.Data }
