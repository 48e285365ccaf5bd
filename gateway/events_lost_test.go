package gateway

import (
	"fmt"
	"os"
	"testing"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
)

// The bus lost what it stored last, and its positions are given again, while a
// client reads on: it is told a gap, and misses nothing that came in its place.
func TestGetEventsLosesTailMeanwhile(t *testing.T) {
	is := is.New(t)
	r, dir, listen := startAway(t)
	restart := func() {
		r.eventually("the loss is noticed", func() bool { return !r.conn.NATS().IsConnected() })
		r.bus = bustest.StartIn(t, dir, listen)
		r.eventually("the bus is back", func() bool { return r.get("/readyz").code == 200 })
	}
	before := r.commit(live("web01", "a", 1, events.OK, "", 1))
	r.bus.Close()
	saved := t.TempDir()
	is.NoErr(os.CopyFS(saved, os.DirFS(dir)))
	restart()

	w := r.watch("")
	for n := range 3 {
		last := r.commit(live("web01", "a", 1, events.Statuses()[n], "", uint64(n+2)))
		is.Equal(w.next().id, fmt.Sprint(last))
	}
	r.bus.Close()
	is.NoErr(os.RemoveAll(dir))
	is.NoErr(os.CopyFS(dir, os.DirFS(saved)))
	restart()

	r.num[events.CommitSubject("web01", "a")] = 1
	again := r.commit(live("web01", "a", 1, events.Critical, "", 2))
	gap, id := w.told()
	is.Equal(id, eventGap)
	is.Equal(gap.id, fmt.Sprint(before))
	is.Equal(w.next().id, fmt.Sprint(again))
	again = r.commit(live("web01", "a", 1, events.OK, "", 3))
	is.Equal(w.next().id, fmt.Sprint(again))
}
