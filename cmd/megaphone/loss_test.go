package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/matryer/is"
)

// The whole data directory is gone, and serve starts again on the same host: who
// resumes at an old position is told of the gap, positions go on growing, and no
// event has the source and id of an older one, although numbers start again.
func TestLossOfEverything(t *testing.T) {
	is := is.New(t)
	data := t.TempDir()
	life := func(after uint64) (ids map[string]uint64, last uint64, gap bool) {
		p := serve(t, data, "--register-wait", "0")
		for i := range 10 {
			path := fmt.Sprint("/hosts/web01/checks/c", i)
			p.must("PUT", path, `{"ttl":"1h"}`, http.StatusCreated)
			p.must("PUT", path+"/status", `{"status":"OK"}`, http.StatusNoContent)
		}
		c, err := bus.Connect(t.Context(), p.Ready.Bus)
		is.NoErr(err)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		ids = map[string]uint64{}
		for ch, err := range c.Watch(ctx, bus.WatchOptions{After: after, FromStart: after == 0}) {
			var missing *bus.GapError
			if errors.As(err, &missing) {
				is.Equal(len(ids), 0) // first of all
				gap = true
				continue
			}
			is.NoErr(err)
			ids[ch.Event.Source()+" "+ch.Event.ID()] = ch.Transition.Number
			if last = ch.Position; len(ids) == 11 { // ten checks and their host
				break
			}
		}
		p.Kill()
		return ids, last, gap
	}
	before, position, gap := life(0)
	is.True(!gap)
	is.NoErr(os.RemoveAll(data))
	is.NoErr(os.Mkdir(data, 0o700))
	after, again, gap := life(position)
	is.True(gap)
	is.True(again > position)
	is.Equal(len(after), 11)
	for id, number := range after {
		is.Equal(number, uint64(1)) // from the start
		_, ok := before[id]
		is.True(!ok) // but not the same event
	}
}
