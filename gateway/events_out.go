package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Limits of GET /events.
const (
	maxStreams   = 10_000           // clients
	maxCatchUps  = 64               // clients that read the stream at the same time
	streamBeat   = 15 * time.Second // between two comment lines where nothing happens
	streamWrite  = 10 * time.Second // for one write; who takes less in that time is cut off
	streamChunk  = 256              // transitions in one write
	retryAdvised = 2 * time.Second  // before a client asks again
)

// Events that are not transitions: what follows them in the stream of a client.
const (
	eventGap    = "gap"    // positions that are no longer kept
	eventClosed = "closed" // the reason why the gateway ends the stream
)

// streamFilter chooses transitions.
type streamFilter struct {
	host, check, kind string
}

func (f streamFilter) matches(fr frame) bool {
	return (f.host == "" || f.host == fr.host) && (f.check == "" || f.check == fr.check) && (f.kind == "" || f.kind == fr.kind)
}

// subjects are those of the stream on which the transitions lie.
func (f streamFilter) subjects() []string {
	switch {
	case f.host == "":
		return []string{events.StatusSubjects}
	case f.check != "":
		return []string{events.StatusSubject(f.host, f.check)}
	}
	return []string{events.StatusSubject(f.host, ""), "megaphone.status.check." + events.Token(f.host) + ".*"}
}

// getEvents tells transitions as they happen, as server-sent events.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	filter, after, resume, err := streamQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		s.fail(w, r, refuse(http.StatusServiceUnavailable, "%d clients read events already; subscribe to the bus, or try again later", maxStreams))
		return
	}
	defer s.streams.Add(-1)
	position, begun := s.hub.last()
	if !begun {
		s.fail(w, r, refuse(http.StatusServiceUnavailable, "the gateway has not reached the bus yet"))
		return
	}
	if resume {
		position = after
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	out := &eventStream{w: w, rc: http.NewResponseController(w), filter: filter, position: position}
	if reason := s.stream(r.Context(), out); reason != "" {
		out.special(eventClosed, map[string]any{"reason": reason})
		out.flush()
	}
}

// streamQuery reads where to begin and what to tell.
func streamQuery(r *http.Request) (f streamFilter, after uint64, resume bool, err error) {
	q := r.URL.Query()
	if host := q.Get("host"); host != "" {
		if f.host, err = events.ParseHost(host); err != nil {
			return f, 0, false, err
		}
	}
	f.check, f.kind = q.Get("check"), q.Get("type")
	if f.check != "" && f.host == "" {
		return f, 0, false, refuse(http.StatusBadRequest, "?check= needs ?host=: an id is unique on its host only")
	}
	if kinds := []string{"", events.TypeCheckChanged, events.TypeHostChanged}; !slices.Contains(kinds, f.kind) {
		return f, 0, false, refuse(http.StatusBadRequest, "?type= may be %s or %s", kinds[1], kinds[2])
	}
	text := r.Header.Get("Last-Event-ID") // a browser that reconnects sends both: this one is newer
	if text == "" {
		text = q.Get("after")
	}
	if text == "" {
		return f, 0, false, nil
	}
	if after, err = strconv.ParseUint(text, 10, 64); err != nil {
		return f, 0, false, refuse(http.StatusBadRequest, "after and Last-Event-ID must be a position: the id of an event, or 0 for the oldest kept")
	}
	return f, after, true, nil
}

// stream tells until the client is gone or has to be cut off, and returns why,
// "" where there is nobody to tell.
func (s *Server) stream(ctx context.Context, out *eventStream) (reason string) {
	_ = out.rc.SetReadDeadline(time.Time{})
	out.raw(fmt.Sprintf("retry: %d\n\n", retryAdvised.Milliseconds()))
	if !out.flush() {
		return ""
	}
	if err := s.catchUp(ctx, out); err != nil {
		if ctx.Err() != nil {
			return ""
		}
		_, reason = codeOf(err)
		return reason
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		frames, grown, ok := s.hub.after(out.position, streamChunk)
		switch {
		case !ok:
			return "the client is too slow: it fell behind by more than the gateway keeps; resume with Last-Event-ID"
		case len(frames) > 0:
			out.tell(frames)
			if !out.flush() {
				return ""
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ""
		case <-s.stopping:
			return "the gateway stops"
		case <-grown:
		case <-beat.C:
			out.raw(": still here\n\n")
			if !out.flush() {
				return ""
			}
		}
	}
}

// catchUp reads the stream until the hub can go on.
func (s *Server) catchUp(ctx context.Context, out *eventStream) error {
	if _, _, ok := s.hub.after(out.position, 1); ok {
		return nil
	}
	select {
	case s.catchUps <- struct{}{}:
		defer func() { <-s.catchUps }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		if err := s.readPast(ctx, out); err != nil {
			return err
		}
		if _, _, ok := s.hub.after(out.position, 1); ok {
			return nil
		}
	}
}

// readPast tells what the stream holds after the position of out, up to where it
// ended when the reading began.
func (s *Server) readPast(ctx context.Context, out *eventStream) error {
	stream, err := s.conn.JetStream().Stream(ctx, bus.StreamChanges)
	if err != nil {
		return fmt.Errorf("ask for the stream %s: %w", bus.StreamChanges, err)
	}
	state := stream.CachedInfo().State
	if out.position > 0 && out.position+1 < state.FirstSeq {
		out.gap(out.position+1, state.FirstSeq-1)
	}
	out.position = max(out.position, state.FirstSeq-1)
	if out.position >= state.LastSeq {
		return nil
	}
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: out.filter.subjects(), InactiveThreshold: 30 * time.Second,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: out.position + 1,
	})
	if err != nil {
		return fmt.Errorf("read the stream %s: %w", bus.StreamChanges, err)
	}
	if info := cons.CachedInfo(); info != nil && info.NumPending == 0 {
		out.position = state.LastSeq
		return nil
	}
	msgs, err := cons.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return fmt.Errorf("read the stream %s: %w", bus.StreamChanges, err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read the stream %s: %w", bus.StreamChanges, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		out.past(m, meta.Sequence.Stream)
		if !out.full() && meta.NumPending > 0 {
			continue
		}
		if !out.flush() {
			return errGone
		}
		if meta.NumPending == 0 {
			out.position = max(out.position, state.LastSeq)
			return nil
		}
	}
}

var errGone = errors.New("the client is gone")

// eventStream writes server-sent events to one client, and knows its place.
type eventStream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	filter   streamFilter
	position uint64 // all up to here has been told
	buf      []byte
}

// past tells a transition read from the stream.
func (o *eventStream) past(m jetstream.Msg, position uint64) {
	o.position = position
	e, err := bus.ReadEvent(m)
	if err != nil {
		return
	}
	addr, err := events.ParseSubject(m.Subject())
	if err != nil {
		return
	}
	if f, err := newFrame(Told{Position: position, Event: e, Host: addr.Host, Check: addr.Check}); err == nil {
		o.tell([]frame{f})
	}
}

func (o *eventStream) tell(frames []frame) {
	for _, f := range frames {
		o.position = f.position
		if !o.filter.matches(f) {
			continue
		}
		o.buf = append(o.buf, "id: "...)
		o.buf = strconv.AppendUint(o.buf, f.position, 10)
		o.buf = append(o.buf, "\nevent: "...)
		o.buf = append(o.buf, f.kind...)
		o.buf = append(o.buf, "\ndata: "...)
		o.buf = append(o.buf, f.data...)
		o.buf = append(o.buf, '\n', '\n')
	}
}

// gap tells that positions are missing, and lets the client resume after them.
func (o *eventStream) gap(from, until uint64) {
	o.raw("id: " + strconv.FormatUint(until, 10) + "\n")
	o.special(eventGap, map[string]any{
		"from": from, "until": until, "reason": "these positions are no longer kept: read the present state by GET /hosts",
	})
}

func (o *eventStream) special(name string, data any) {
	o.raw("event: " + name + "\ndata: ")
	o.raw(string(encode(data)) + "\n") // encode ends the line
}

func (o *eventStream) raw(text string) { o.buf = append(o.buf, text...) }

func (o *eventStream) full() bool { return len(o.buf) > 64<<10 }

// flush sends what is written and reports whether the client took it in time.
func (o *eventStream) flush() bool {
	if len(o.buf) == 0 {
		return true
	}
	// A ResponseWriter without deadlines, as in tests, takes what it gets.
	_ = o.rc.SetWriteDeadline(time.Now().Add(streamWrite))
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	return err == nil && o.rc.Flush() == nil
}
