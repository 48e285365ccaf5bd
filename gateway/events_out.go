package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
)

// Limits of GET /events.
const (
	maxStreams   = 10_000           // clients
	streamBeat   = 15 * time.Second // between two comment lines where nothing happens
	streamWrite  = 10 * time.Second // for one write; who takes less in that time is cut off
	streamChunk  = 256              // transitions in one write
	retryAdvised = 2 * time.Second  // before a client asks again
)

// Events that are not transitions: what follows them in the stream of a client.
const (
	eventGap      = "gap"      // what is no longer kept
	eventComplete = "complete" // the present state has been told
	eventClosed   = "closed"   // the reason why the gateway ends the stream
)

// streamStart is what a client asks for.
type streamStart struct {
	filter events.Filter
	state  bool // first what is
	resume bool // after a position; what is only where that is no longer kept
	after  uint64
	since  time.Time // zero: from now on
}

// getEvents tells transitions as they happen, as server-sent events.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	start, err := streamQuery(r, time.Now())
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
	_, losses := s.hub.lost(0)
	position, begun := s.hub.last()
	if !begun {
		s.fail(w, r, refuse(http.StatusServiceUnavailable, "the gateway has not reached the bus yet"))
		return
	}
	if !start.resume {
		start.after = position
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	out := &eventStream{w: w, rc: http.NewResponseController(w), filter: start.filter, position: start.after, losses: losses}
	if reason := s.stream(r.Context(), out, start); reason != "" {
		out.special(eventClosed, map[string]any{"reason": reason})
		out.flush()
	}
}

// streamQuery reads where to begin and what to tell: the same words as the flags
// of `megaphone watch`.
func streamQuery(r *http.Request, now time.Time) (start streamStart, err error) {
	q := r.URL.Query()
	words := events.FilterWords{Host: q.Get("host"), Check: q.Get("check"), Hosts: given(q, "hosts"), Status: q.Get("status"), Labels: q["label"]}
	switch q.Get("type") {
	case "":
	case events.TypeHostChanged:
		words.Hosts = true
	case events.TypeCheckChanged:
		if words.Check == "" {
			words.Check = "*"
		}
	default:
		return start, refuse(http.StatusBadRequest, "?type= may be %s or %s", events.TypeCheckChanged, events.TypeHostChanged)
	}
	if start.filter, err = events.ParseFilter(words); err != nil {
		return start, err
	}
	start.state = given(q, "state")
	text := r.Header.Get("Last-Event-ID") // a browser that reconnects sends both: this one is newer
	if text == "" {
		text = q.Get("after")
	}
	if since := q.Get("since"); text == "" && since != "" {
		start.since, err = events.ParseSince(since, now)
		return start, err
	}
	if text == "" {
		return start, nil
	}
	start.resume = true
	if start.after, err = strconv.ParseUint(text, 10, 64); err != nil {
		return start, refuse(http.StatusBadRequest, "after and Last-Event-ID must be a position: the id of an event, or 0 for the oldest kept")
	}
	return start, nil
}

// given reports whether a word is in a query that needs no value.
func given(q url.Values, word string) bool {
	return q.Has(word) && q.Get(word) != "0" && q.Get(word) != "false"
}

// stream tells until the client is gone or has to be cut off, and returns why,
// "" where there is nobody to tell.
func (s *Server) stream(ctx context.Context, out *eventStream, start streamStart) (reason string) {
	_ = out.rc.SetReadDeadline(time.Time{})
	out.raw(fmt.Sprintf("retry: %d\n\n", retryAdvised.Milliseconds()))
	if !out.flush() {
		return ""
	}
	if err := s.begin(ctx, out, start); err != nil {
		return whyEnded(ctx, err)
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		if err := s.mend(ctx, out, start); err != nil {
			return whyEnded(ctx, err)
		}
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

// whyEnded is what a client is told of an error, "" where it is gone.
func whyEnded(ctx context.Context, err error) (reason string) {
	if ctx.Err() != nil || errors.Is(err, errGone) {
		return ""
	}
	_, reason = codeOf(err)
	return reason
}
