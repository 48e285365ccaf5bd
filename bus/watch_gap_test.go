package bus

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A reader that was handed number 6 after number 1, whatever lost those between,
// yields what the stream has of them, in order, and a gap for what it has not.
func TestWatchFillsGaps(t *testing.T) {
	is := is.New(t)
	c, err := New(bustest.Connect(t, bustest.Start(t)))
	is.NoErr(err)
	is.NoErr(c.Setup(t.Context(), StreamOptions{}))
	subject := events.StatusSubject("web01", "db")
	positions := map[uint64]uint64{}
	for _, n := range []uint64{1, 2, 4, 6} {
		status := events.Statuses()[n%4]
		tr := events.Transition{Host: "web01", Check: "db", Number: n, Current: events.Moment{Status: &status, Phase: events.Live}}
		b, err := events.Encode(events.Header{Type: events.TypeCheckChanged, Source: "urn:test", ID: tr.ID(), Time: time.Now()}, tr)
		is.NoErr(err)
		positions[n], err = c.Store(t.Context(), Message(events.CommitSubject("web01", "db"), b))
		is.NoErr(err)
	}
	s, err := c.js.Stream(t.Context(), StreamChanges)
	is.NoErr(err)
	for name, tt := range map[string]struct {
		filter events.Filter
		want   []string
	}{
		"all":      {events.Filter{}, []string{"2", "gap 3-3", "4", "gap 5-5", "6"}},
		"a status": {events.Filter{Least: new(events.Warning)}, []string{"2", "gap 3-3", "gap 5-5", "6"}},
		"others":   {events.Filter{Check: "*x"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var got []string
			w := watcher{c: c, o: WatchOptions{Filter: tt.filter}, seen: map[string]seen{subject: {1, positions[1]}}, yield: func(ch Change, err error) bool {
				var gap *GapError
				if errors.As(err, &gap) {
					got = append(got, fmt.Sprintf("gap %d-%d", gap.From, gap.Until))
				} else {
					got = append(got, fmt.Sprint(ch.Transition.Number))
				}
				return true
			}}
			six, err := w.readFrom(t.Context(), s, subject, positions[6])
			is.NoErr(err)
			is.NoErr(w.tell(t.Context(), subject, six))
			is.Equal(got, tt.want)
			is.NoErr(w.tell(t.Context(), subject, six)) // repeated
			is.Equal(len(got), len(tt.want))
		})
	}
}

// A check that is gone is forgotten: it may come back after so long that its numbers
// begin again, and most never do.
func TestWatchForgetsWhatIsGone(t *testing.T) {
	is := is.New(t)
	var got []uint64
	w := watcher{seen: map[string]seen{}, yield: func(ch Change, err error) bool {
		is.NoErr(err)
		got = append(got, ch.Transition.Number)
		return true
	}}
	for i, now := range []struct {
		number uint64
		phase  events.Phase
	}{{6, events.Live}, {7, events.Gone}, {1, events.Live}, {2, events.Gone}} {
		ch := Change{Position: uint64(i + 1), Transition: events.Transition{Host: "web01", Check: "db", Number: now.number, Current: events.Moment{Phase: now.phase}}}
		is.NoErr(w.tell(t.Context(), events.StatusSubject("web01", "db"), ch))
	}
	is.Equal(got, []uint64{6, 7, 1, 2})
	is.Equal(len(w.seen), 0)
}
