package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Limits of what GET /events tells before it goes on live.
const (
	maxCatchUps = 64               // clients for which the stream is read at the same time; others wait
	maxPresents = 64               // clients that are told the present state at the same time; others are refused
	pieceBytes  = 128 << 10        // read from the stream for one client before another one's turn
	pieceTime   = 10 * time.Second // for that; the bus is away otherwise
)

var errGone = errors.New("the client is gone")

// begin tells what comes before the live transitions, until the hub goes on.
func (s *Server) begin(ctx context.Context, out *eventStream, start streamStart) error {
	switch {
	case start.resume:
		newest, _ := s.hub.last()
		if out.position <= newest {
			break
		}
		// Another gateway was ahead of this one, or the bus has lost data: it knows.
		if err := s.readPiece(ctx, out); err != nil {
			return err
		}
	case start.state:
		if err := s.tellPresent(ctx, out); err != nil {
			return err
		}
	case !start.since.IsZero():
		out.since = start.since
	}
	for {
		if out.missed && start.state {
			if err := s.tellPresent(ctx, out); err != nil {
				return err
			}
		}
		if !out.flush() {
			return errGone
		}
		if _, _, ok := s.hub.after(out.position, 1); ok && out.since.IsZero() {
			return nil
		}
		if err := s.readPiece(ctx, out); err != nil {
			return err
		}
	}
}

// mend tells a gap where the bus has lost some of what the client got: positions are
// given again, so that nothing of what comes would lie after the client's.
func (s *Server) mend(ctx context.Context, out *eventStream, start streamStart) error {
	kept, losses := s.hub.lost(out.losses)
	out.losses = losses
	if out.position <= kept {
		return nil
	}
	out.gap(&bus.GapError{After: out.position, Resume: kept, From: kept + 1, Until: out.position})
	out.missed, out.told = true, nil
	return s.begin(ctx, out, streamStart{resume: true, state: start.state})
}

// readPiece reads what the stream holds after the client's position: all, or as
// much as is written at once. While a client takes it, others have their turn: a
// slow one holds no place.
func (s *Server) readPiece(ctx context.Context, out *eventStream) error {
	select {
	case s.catchUps <- struct{}{}:
		defer func() { <-s.catchUps }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, stop := s.untilStop(ctx)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, pieceTime)
	defer cancel()
	o := bus.WatchOptions{Filter: out.filter, After: out.position, Since: out.since, FromStart: true, Mark: true}
	if !out.since.IsZero() {
		o.After = 0
	}
	for ch, err := range s.conn.Watch(ctx, o) {
		if done, err := out.past(ch, err); done || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// past tells a transition read from the stream, and reports whether that was
// enough for now.
func (o *eventStream) past(ch bus.Change, err error) (done bool, _ error) {
	var gap *bus.GapError
	switch {
	case errors.As(err, &gap):
		o.gap(gap)
		o.missed = o.missed || gap.Subject == ""
		return o.missed, nil
	case err != nil:
		return true, err
	case ch.Complete:
		o.position, o.since = ch.Position, time.Time{}
		return true, nil
	}
	f, err := newFrame(Told{Position: ch.Position, Event: ch.Event, Transition: ch.Transition})
	if err != nil {
		return true, fmt.Errorf("write a transition: %w", err)
	}
	o.since = time.Time{}
	o.tell([]frame{f})
	return len(o.buf) >= pieceBytes, nil
}

// tellPresent tells how everything is that the client chose, and places it so
// that what follows joins it: [bus.Conn.Watch] does the same.
func (s *Server) tellPresent(ctx context.Context, out *eventStream) error {
	if s.presents.Add(1) > maxPresents {
		s.presents.Add(-1)
		return refuse(http.StatusServiceUnavailable, "%d clients read the present state now; try again", maxPresents)
	}
	defer s.presents.Add(-1)
	out.told, out.missed = map[events.Name]uint64{}, false
	position := uint64(math.MaxUint64)
	for after := (*events.Name)(nil); ; {
		page, list, err := s.presentPage(out.filter, after)
		if err != nil {
			return err
		}
		position = min(position, page.Position)
		for i, t := range list {
			out.told[events.Name{Host: t.Host, Check: t.Check}] = t.Number
			out.event(0, presentType(t), page.Events[i])
		}
		if !out.flush() {
			return errGone
		}
		if after = page.Next; after == nil {
			break
		}
	}
	out.complete(position, s.newest(ctx))
	return nil
}

func presentType(t events.Transition) string {
	if t.Check == "" {
		return events.TypeHostPresent
	}
	return events.TypeCheckPresent
}

// newest is the position of the newest transition, the highest possible where the
// bus does not say.
func (s *Server) newest(ctx context.Context) uint64 {
	stream, err := s.conn.JetStream().Stream(ctx, bus.StreamChanges)
	if err != nil {
		return math.MaxUint64
	}
	m, err := stream.GetLastMsgForSubject(ctx, events.StatusSubjects)
	if err != nil {
		return math.MaxUint64
	}
	return m.Sequence
}
