package pollers

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// await has somebody wait for the poll of a task, as accept does.
func (w *Worker) await(t *task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orders.open = map[name]*order{{t.host, t.check}: {waiting: []string{""}}}
	w.orders.pending, w.orders.waiting = 1, 1
	w.agenda.hurry(t, time.Now().UnixMilli())
}

// Who asks for a poll when one has just been told, and is not over yet, gets another.
func TestOrderComesAfterTheAnswer(t *testing.T) {
	is := is.New(t)
	w := New(Config{Interval: time.Hour})
	defer w.http.Close()
	r := events.Registration{Host: "web01", ID: "db", URL: json.RawMessage(`"http://10.0.0.1/"`), Pool: events.DefaultPool}
	w.register(bus.Entry{Registration: r, Position: 1, Stored: time.Now()})
	s := w.open(t.Context(), r.Pool, bus.Lease{Partition: events.PoolPartition(r.Pool, r.Host, r.ID)})
	defer s.held.cancel()
	tk, _ := w.agenda.take(time.Now().UnixMilli())
	w.fetched(tk, nil)
	w.tell(tk, events.PollReply{Position: 1}) // nobody waits
	w.await(tk)
	w.done(tk)
	is.True(tk.due <= time.Now().UnixMilli()) // not in an hour
}

// Who waits for the poll of a check that is moved to a pool, of which another worker
// may have the partition, is told so.
func TestOrderOfWhatMoves(t *testing.T) {
	is := is.New(t)
	w := New(Config{Interval: time.Hour, Host: "web01"})
	defer w.http.Close()
	r := events.Registration{Host: "web01", ID: "db", URL: json.RawMessage(`"http://10.0.0.1/"`), Pool: events.DefaultPool}
	w.register(bus.Entry{Registration: r, Position: 1, Stored: time.Now()})
	s := w.open(t.Context(), r.Pool, bus.Lease{Partition: events.PoolPartition(r.Pool, r.Host, r.ID)})
	defer s.held.cancel()
	w.await(w.tasks[name{r.Host, r.ID}])
	r.Pool = "@web01"
	w.register(bus.Entry{Registration: r, Position: 2, Stored: time.Now()})
	is.Equal(w.Waiting(), 0)
	is.Equal(w.orders.pending, 0) // else there is less and less room for others
	is.Equal(len(w.orders.open), 0)
}
