package pollers_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * soon); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// receive waits for what comes by a channel.
func receive[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(2 * soon):
		t.Fatalf("did not happen: %s", what)
	}
	return v
}

// A thousand who ask for a poll at the same time get one, and all of them what
// it found; so does who asks within the next second.
func TestWorkerPollsOnceForAThousand(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	w, stop := f.worker(pollers.Config{})
	var polls atomic.Int64
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if polls.Add(1) > 1 {
			<-gate
		}
		io.WriteString(w, okDocument)
	})
	t.Cleanup(open) // the service ends only when it has answered
	f.register(events.Registration{ID: "c", URL: quoted(s.URL), Interval: never})
	f.wait(soon, func(all []bus.Incoming) bool { return len(all) == 1 })
	until(t, "the poll is over", func() bool { return w.Stats().Running == 0 }) // else some would be told what it found

	conn, _ := f.connect(f.server.URL())
	nc, inbox := conn.NATS(), bus.RoleInbox+".askers"
	replies := make(chan *nats.Msg, 1100)
	_, err := nc.ChanSubscribe(inbox, replies)
	is.NoErr(err)
	order, err := json.Marshal(events.PollOrder{Host: "web01", Check: "c"})
	is.NoErr(err)
	ask := func() {
		subject := events.PollSubject(events.DefaultPool, events.PoolPartition(events.DefaultPool, "web01", "c"))
		is.NoErr(nc.PublishMsg(&nats.Msg{Subject: subject, Reply: inbox, Data: order}))
	}
	for range 1000 {
		ask()
	}
	until(t, "all wait", func() bool { return w.Waiting() == 1000 && polls.Load() == 2 }) // that of the registration, and this one
	open()
	read := func() (r events.PollReply) {
		t.Helper()
		is.NoErr(json.Unmarshal(receive(t, replies, "an answer").Data, &r))
		return r
	}
	first := read()
	is.Equal(first.Refused, "")
	is.Equal(first.Worker, "w1")
	for range 999 {
		is.Equal(read(), first)
	}
	ask()
	is.Equal(read(), first) // a second has not passed
	is.Equal(polls.Load(), int64(2))
	all := f.wait(soon, func(all []bus.Incoming) bool { return len(all) == 2 })
	is.Equal(all[1].Position, first.Position)
	f.growing()

	until(t, "another poll after a second", func() bool { ask(); return read().Position > first.Position })
	is.Equal(polls.Load(), int64(3))

	stop() // nobody has the check now, and who asks is told so at once
	_, err = conn.PollNow(t.Context(), events.DefaultPool, events.PollOrder{Host: "web01", Check: "c"})
	is.True(errors.Is(err, bus.ErrNoService))
}

// An order for what is not known, or no order at all, is answered.
func TestWorkerRefusesOrders(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.worker(pollers.Config{Host: "web01"})
	s := serve(t, text(okDocument))
	f.register(events.Registration{ID: "c", URL: quoted(s.URL), Interval: never})
	f.wait(soon, func(all []bus.Incoming) bool { return len(all) == 1 })
	conn, _ := f.connect(f.server.URL())
	r, err := conn.PollNow(t.Context(), events.DefaultPool, events.PollOrder{Host: "web01", Check: "unknown"})
	is.NoErr(err)
	is.True(r.Again && r.Refused != "") // its registration may be on its way
	until(t, "the host's own pool has a worker", func() bool {
		r, err = conn.PollNow(t.Context(), "@web01", events.PollOrder{Host: "web01", Check: "c"})
		return err == nil
	})
	is.True(r.Again && r.Refused != "") // of another pool
	m, err := conn.NATS().Request(events.PollSubject("@web01", 0), []byte("hello"), soon)
	is.NoErr(err)
	is.True(strings.Contains(string(m.Data), "an order is JSON"))
}
