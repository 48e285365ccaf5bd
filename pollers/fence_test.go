package pollers

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A worker whose lease is over, and which nothing told so, as after it was stopped for
// a while, begins no poll and publishes nothing of one that it began before.
func TestWorkerFencesItself(t *testing.T) {
	is := is.New(t)
	server := bustest.Start(t)
	conn, err := bus.Connect(t.Context(), server.URL(), bus.WithCreds(server.CredsPath()))
	is.NoErr(err)
	defer conn.Close()
	is.NoErr(conn.Setup(t.Context(), bus.StreamOptions{}))
	var looks atomic.Int64
	w := New(Config{Conn: conn, Name: "w1", Kinds: Kinds{"known": func(context.Context, events.Target) Finding {
		looks.Add(1)
		return Finding{Reading: Reading{Status: events.OK}}
	}}})
	defer w.http.Close()
	r := events.Registration{Host: "web01", ID: "db", URL: json.RawMessage(`"known://web01"`), Pool: events.DefaultPool}
	w.register(bus.Entry{Registration: r, Position: 1})
	over := bus.Lease{Partition: events.PoolPartition(r.Pool, r.Host, r.ID)}
	h := w.open(t.Context(), r.Pool, over).held
	defer h.cancel()
	w.dispatch()
	h.polls.Wait()
	is.Equal(looks.Load(), int64(0))
	is.Equal(w.Stats().Discarded, uint64(1)) // it was due

	reply := w.publish(h, w.tasks[name{r.Host, r.ID}], events.Result{Status: events.Critical}, time.Now())
	is.Equal(reply, moved)
	s, err := conn.JetStream().Stream(t.Context(), bus.StreamResults)
	is.NoErr(err)
	is.Equal(s.CachedInfo().State.Msgs, uint64(0))
}
