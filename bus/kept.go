package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Place is where a message lies in a stream, and when it was stored there: only
// both together tell it from another. After a power cut the server gives positions
// that it lost to others.
type Place struct {
	Position uint64
	Stored   time.Time // zero where it is not known
}

// Kept returns up to where a stream still is what it was when a message lay at the
// place known: known.Position if nothing is lost, else a lower position, after which
// everything was stored later. What is older than all that is kept counts as there;
// where known.Stored is zero, another message at its position is not noticed. s must
// have been asked for just now. It costs a question to the server, and two more where
// that message is no longer there.
func Kept(ctx context.Context, s jetstream.Stream, known Place) (uint64, error) {
	state := s.CachedInfo().State
	if known.Position == 0 || known.Position < state.FirstSeq {
		return known.Position, nil
	}
	if known.Stored.IsZero() {
		return min(known.Position, state.LastSeq), nil
	}
	if known.Position <= state.LastSeq {
		m, err := s.GetMsg(ctx, known.Position)
		switch {
		case err == nil && m.Time.Equal(known.Stored):
			return known.Position, nil
		case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound): // it may have been replaced by a later one
			return 0, fmt.Errorf("read the message at %d: %w", known.Position, err)
		}
	}
	first, err := firstAfter(ctx, s, known.Stored)
	if err != nil {
		return 0, fmt.Errorf("look for the first message after %s: %w", known.Stored, err)
	}
	if first == 0 {
		return min(known.Position, state.LastSeq), nil
	}
	return min(known.Position, first-1), nil
}

// firstAfter returns the position of the first message that was stored after a
// time; 0 if there is none.
func firstAfter(ctx context.Context, s jetstream.Stream, t time.Time) (uint64, error) {
	from := t.Add(1)
	cons, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil || cons.CachedInfo().NumPending == 0 {
		return 0, err
	}
	m, err := cons.Next(jetstream.FetchMaxWait(4 * time.Second))
	if err != nil {
		return 0, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return 0, err
	}
	return meta.Sequence.Stream, nil
}
