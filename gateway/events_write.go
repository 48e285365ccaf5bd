package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// eventStream writes server-sent events to one client, and knows its place.
type eventStream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	filter   events.Filter
	position uint64    // all up to here has been told
	since    time.Time // where to begin instead of position; zero for none
	missed   bool      // positions were missing: what the client has is not what is
	losses   int       // of the bus, that the client knows of
	buf      []byte

	// Numbers of the present state that was told, for transitions that come after
	// it and that it holds already. Forgotten at the position until.
	told  map[events.Name]uint64
	until uint64
}

// tell writes those of the frames that the client chose.
func (o *eventStream) tell(frames []frame) {
	for _, f := range frames {
		o.position = f.position
		number, told := o.told[events.Name{Host: f.transition.Host, Check: f.transition.Check}]
		if told && f.transition.Number <= number || !o.filter.Match(f.transition) {
			continue
		}
		o.event(f.position, f.kind, f.data)
	}
	o.forget()
}

// complete tells that the present state was told, and that the client may resume
// after position. newest is the position of the last transition that it can hold.
func (o *eventStream) complete(position, newest uint64) {
	o.id(position)
	o.special(eventComplete, map[string]any{"position": position, "events": len(o.told)})
	o.position, o.until = position, newest
	o.forget()
}

func (o *eventStream) forget() {
	if o.position >= o.until {
		o.told = nil
	}
}

// gap tells what is missing, and lets the client resume after it.
func (o *eventStream) gap(g *bus.GapError) {
	data := map[string]any{"from": g.From, "until": g.Until, "reason": g.Error()}
	if g.Subject != "" {
		data["subject"] = g.Subject
	} else {
		o.id(g.Resume)
		o.position = g.Resume
	}
	o.special(eventGap, data)
}

// event writes an event; position 0 gives it no id.
func (o *eventStream) event(position uint64, kind string, data []byte) {
	if position > 0 {
		o.id(position)
	}
	o.buf = append(o.buf, "event: "...)
	o.buf = append(o.buf, kind...)
	o.buf = append(o.buf, "\ndata: "...)
	o.buf = append(o.buf, data...)
	o.buf = append(o.buf, '\n', '\n')
}

func (o *eventStream) id(position uint64) {
	o.buf = append(o.buf, "id: "...)
	o.buf = strconv.AppendUint(o.buf, position, 10)
	o.buf = append(o.buf, '\n')
}

func (o *eventStream) special(name string, data any) {
	b := encode(data)
	o.event(0, name, b[:len(b)-1]) // encode ends the line
}

func (o *eventStream) raw(text string) { o.buf = append(o.buf, text...) }

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
