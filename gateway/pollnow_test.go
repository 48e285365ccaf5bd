package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/events"
)

// worker takes orders for the checks of a pool and partition; the test says what
// is answered.
func (r *rig) worker(pool, host, check string, answer func(events.PollOrder) events.PollReply) (stop func()) {
	r.tb.Helper()
	sub, err := r.conn.NATS().Subscribe(events.PollSubject(pool, events.PoolPartition(pool, host, check)), func(m *nats.Msg) {
		var o events.PollOrder
		if err := json.Unmarshal(m.Data, &o); err != nil {
			r.tb.Error(err)
		}
		b, _ := json.Marshal(answer(o))
		_ = m.Respond(b) // the test waits for it
	})
	must(r.tb, err)
	must(r.tb, r.conn.NATS().Flush())
	return func() { must(r.tb, sub.Unsubscribe()) }
}

// A thousand readers at the same time cause one order.
func TestFreshAsksOnce(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("db", `"http://db.example/"`, events.Result{Status: events.OK, Message: "fine"})
	var orders atomic.Int64
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open) // the worker ends only when it has answered
	r.worker(events.DefaultPool, "web01", "db", func(o events.PollOrder) events.PollReply {
		is.Equal(o, events.PollOrder{Host: "web01", Check: "db"})
		orders.Add(1)
		<-gate
		e, _ := r.reg.Check("web01", "db")
		return events.PollReply{Worker: "w1", Position: r.poll("web01", "db", events.Result{
			Status: events.OK, Message: "fresh", Reg: e.Position, Lease: 1, Due: time.Now().UnixMilli() + 1,
		})}
	})
	r.eventually("the first result is older than a second", func() bool {
		e, _ := r.reg.Check("web01", "db")
		return !r.view.newerThan("web01", "db", e.Position, freshest, time.Now())
	})
	const askers = 1000
	answers := make(chan *httptest.ResponseRecorder, askers)
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() {
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest("GET", "/hosts/web01/checks/db?fresh=1s", nil))
			answers <- w
		})
	}
	r.eventually("all wait", func() bool { return r.waiters.Load() == askers })
	is.Equal(orders.Load(), int64(1))
	open()
	wg.Wait()
	close(answers)
	for a := range answers {
		is.Equal(a.Code, http.StatusOK)
		is.True(strings.Contains(a.Body.String(), `"message":"fresh"`)) // what the poll found
	}
	is.Equal(orders.Load(), int64(1))
	is.Equal(r.get("/hosts/web01/checks/db?fresh=60s").code, http.StatusOK)
	is.Equal(orders.Load(), int64(1)) // what is there is fresh enough
	is.Equal(r.waiters.Load(), int64(0))
}

// Who asks for a poll of what was registered just now gets none of what was registered
// before, also where others still wait for that.
func TestFreshOfANewRegistration(t *testing.T) {
	is := is.New(t)
	r := start(t)
	is.Equal(r.do("PUT", "/hosts/web01/checks/db", `{"url":"http://old.example/"}`).code, http.StatusCreated)
	old, _ := r.reg.Check("web01", "db")
	var orders atomic.Int64
	gate := make(chan struct{})
	// Workers answer side by side, which one subscription does not.
	_, err := r.conn.NATS().Subscribe(events.PollSubject(events.DefaultPool, events.PoolPartition(events.DefaultPool, "web01", "db")), func(m *nats.Msg) {
		n, reg := orders.Add(1), old.Position
		if e, _ := r.reg.Check("web01", "db"); n > 1 {
			reg = e.Position
		}
		go func() {
			if n == 1 {
				<-gate
			}
			reply := events.PollReply{Worker: "w1", Position: r.poll("web01", "db", events.Result{
				Status: events.OK, Message: fmt.Sprintf("poll %d", n), Reg: reg, Lease: 1, Due: time.Now().UnixMilli() + n,
			})}
			_ = m.Respond(encode(reply)) // the test waits for it
		}()
	})
	is.NoErr(err)
	is.NoErr(r.conn.NATS().Flush())
	first := make(chan answer, 1)
	go func() {
		defer close(first)
		first <- r.get("/hosts/web01/checks/db?fresh=1s")
	}()
	r.eventually("the first poll is under way", func() bool { return orders.Load() == 1 })
	is.Equal(r.do("PUT", "/hosts/web01/checks/db", `{"url":"http://new.example/"}`).code, http.StatusOK)
	second := make(chan answer, 1)
	go func() {
		defer close(second)
		second <- r.get("/hosts/web01/checks/db?fresh=1s")
	}()
	r.eventually("the second poll is asked for", func() bool { return orders.Load() == 2 })
	is.Equal((<-second).code, http.StatusOK)
	close(gate)
	is.Equal((<-first).code, http.StatusOK)
}

func TestFreshIsRefused(t *testing.T) {
	is := is.New(t)
	r := start(t)
	put := func(path, body string) { is.Equal(r.do("PUT", path, body).code, http.StatusCreated) }
	put("/hosts/web01/checks/queue", `{"ttl":"1m"}`)
	put("/hosts/web01/checks/lost", `{"url":"http://db.example/","pool":"zone-b"}`)
	put("/hosts/web01/checks/doubt", `{"url":"http://db.example/","pool":"zone-c"}`)
	put("/hosts/web01/checks/slow", `{"url":"http://db.example/","pool":"zone-d"}`)
	r.worker("zone-c", "web01", "doubt", func(events.PollOrder) events.PollReply {
		return events.PollReply{Worker: "w7", Position: 1, Suspect: "http://canary/ does not answer"}
	})
	r.worker("zone-d", "web01", "slow", func(events.PollOrder) events.PollReply {
		return events.PollReply{Worker: "w8", Refused: "too many polls are asked for; ask again later"}
	})
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"none?fresh=1":    {http.StatusNotFound, "no check"},
		"queue?fresh=1":   {http.StatusConflict, "is pushed"},
		"lost?fresh=soon": {http.StatusBadRequest, "soon"},
		"lost?fresh=2s":   {http.StatusServiceUnavailable, `no worker of the pool "zone-b"`},
		"doubt?fresh=2s":  {http.StatusServiceUnavailable, "w7 suspects itself, so that what it found does not count: http://canary/ does not answer"},
		"slow?fresh=2s":   {http.StatusServiceUnavailable, "w8 did not poll check \"slow\": too many"},
	} {
		t.Run(path, func(t *testing.T) {
			is := is.New(t)
			is.True(strings.Contains(r.get("/hosts/web01/checks/"+path).problem(t, want.code), want.text))
		})
	}
	_, err := r.anonymous().Poll(t.Context(), "web01", "queue", 0)
	is.True(err != nil && strings.Contains(err.Error(), "is pushed")) // the same by the bus
	r.waiters.Store(maxWaiters)
	is.True(strings.Contains(r.get("/hosts/web01/checks/lost?fresh=2s").problem(t, http.StatusServiceUnavailable), "wait already"))
	r.waiters.Store(0)
}
