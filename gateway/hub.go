package gateway

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/looprock/megaphone/events"
)

// ringSize is how many transitions the hub keeps: a client that falls further
// behind the live ones is cut off, one that resumes further back reads the
// stream first.
const ringSize = 8192

// hub holds the newest transitions, in the order of the stream, for all clients
// of GET /events together. A client keeps its own place in it, so that a slow
// one costs nothing but its place. It is safe for concurrent use.
type hub struct {
	mu    sync.Mutex
	ring  []frame
	from  uint64 // all transitions after this position are in the ring, or are yet to come
	begun bool
	grown chan struct{} // closed when something is added

	created time.Time // when CHANGES was made
	all     bool      // the view holds all that the bus has
	losses  []uint64  // each time that the bus lost what it stored last: the position up to which it kept all
}

// frame is a transition as it is sent.
type frame struct {
	position   uint64
	kind       string // type of the event
	transition events.Transition
	data       []byte // the CloudEvent on one line
}

func newHub() *hub { return &hub{grown: make(chan struct{})} }

// begin forgets everything: from now on transitions after the position come. Up to
// kept the stream is what it was; [keptAll] if that is certain of all of it.
func (h *hub) begin(created time.Time, position, kept uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring, h.from, h.begun, h.created = nil, position, true, created
	if kept != keptAll {
		h.losses = append(h.losses, kept)
	}
	h.wake()
}

// keptAll says that nothing was lost.
const keptAll = math.MaxUint64

// lost returns up to where the stream is what it was before the losses after the
// first so many, and how many there are now.
func (h *hub) lost(known int) (kept uint64, losses int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept = keptAll
	for _, k := range h.losses[known:] {
		kept = min(kept, k)
	}
	return kept, len(h.losses)
}

// loaded says that the view holds all that the bus has, reset that it does not
// any more.
func (h *hub) loaded() { h.setAll(true) }
func (h *hub) reset()  { h.setAll(false) }

func (h *hub) setAll(all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = all
}

// whole is the position up to which the view certainly holds every transition,
// and when the stream was made; ok is false while the view is being loaded.
func (h *hub) whole() (position uint64, created time.Time, ok bool) {
	position, _ = h.last()
	h.mu.Lock()
	defer h.mu.Unlock()
	return position, h.created, h.all
}

// add appends a transition. Positions grow.
func (h *hub) add(t Told) {
	f, err := newFrame(t)
	if err != nil {
		return // it was read from a valid event
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.ring); n > 0 && f.position <= h.ring[n-1].position {
		return
	}
	if len(h.ring) == ringSize {
		drop := ringSize / 4
		h.from = h.ring[drop-1].position
		h.ring = slices.Clone(h.ring[drop:])
	}
	h.ring = append(h.ring, f)
	h.wake()
}

func (h *hub) wake() {
	close(h.grown)
	h.grown = make(chan struct{})
}

func newFrame(t Told) (frame, error) {
	b, err := events.Marshal(t.Event)
	if err == nil && bytes.IndexByte(b, '\n') >= 0 { // data as its sender wrote it
		var line bytes.Buffer
		err = json.Compact(&line, b)
		b = line.Bytes()
	}
	return frame{position: t.Position, kind: t.Event.Type(), transition: t.Transition, data: b}, err
}

// after returns at most n transitions after a position, and a channel that is
// closed when there are more. ok is false where the hub does not reach back so far.
func (h *hub) after(position uint64, n int) (frames []frame, grown <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.begun || position < h.from {
		return nil, h.grown, false
	}
	i := sort.Search(len(h.ring), func(i int) bool { return h.ring[i].position > position })
	// Frames are never changed and the ring is only appended to or cloned.
	return h.ring[i:min(i+n, len(h.ring))], h.grown, true
}

// last is the position of the newest transition; ok is false before the hub has begun.
func (h *hub) last() (position uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.ring); n > 0 {
		return h.ring[n-1].position, h.begun
	}
	return h.from, h.begun
}
