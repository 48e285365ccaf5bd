package gateway

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// plainH2 is a client that begins with HTTP/2, without TLS.
func plainH2(t *testing.T) *http.Client {
	t.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// A graceful stop ends what waits at once, and lets what is under way end: over
// HTTP/1 and HTTP/2, requests, long polls and readers of events.
func TestStopDrains(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.RegisterWait = maxWait })
	r.pushed("web01", "q", events.OK, "fine")
	h2 := plainH2(t)
	open := func(path string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, r.url+path, nil)
		is.NoErr(err)
		res, err := h2.Do(req)
		is.NoErr(err)
		is.Equal(res.ProtoMajor, 2)
		return res
	}
	is.Equal(open("/hosts/web01").StatusCode, http.StatusOK)
	stream := open("/events")
	defer stream.Body.Close()
	old := r.watch("")

	number := r.num[events.CommitSubject("web01", "q")]
	polled := make(chan answer, 1)
	go func() { polled <- r.get("/hosts/web01/checks/q?wait=60s&after_number=" + events.Sequence(number)) }()
	registered := make(chan answer, 1)
	go func() { registered <- r.do("POST", "/checks", `{"id": "a", "url": "http://x/"}`) }()
	r.eventually("all are under way", func() bool {
		_, there := r.reg.Check("web01", "a")
		return there && r.waiters.Load() == 1 && r.streams.Load() == 2
	})
	r.polled("a", events.Result{Status: events.OK}) // ends the wait of the registration, perhaps after the stop began
	r.stop()

	is.Equal((<-polled).code, http.StatusOK)
	is.Equal((<-registered).code, http.StatusOK)
	text, err := io.ReadAll(stream.Body)
	is.NoErr(err) // to its end, not cut off
	is.True(strings.Contains(string(text), "event: "+eventClosed))
	last := old.next()
	for last.event != eventClosed {
		last = old.next()
	}
	is.True(strings.Contains(last.data, "stops"))
}

// Nor does a graceful stop wait for polls that last: who asked for one over HTTP or
// the bus is told, and what was registered is.
func TestStopEndsPolls(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.RegisterWait = maxWait })
	is.Equal(r.do("POST", "/checks?wait=0", `{"id": "slow", "url": "http://x/"}`).code, http.StatusOK)
	is.Equal(r.do("POST", "/checks?wait=0", `{"id": "slower", "url": "http://x/"}`).code, http.StatusOK)
	var orders atomic.Int64
	for _, id := range []string{"slow", "slower"} {
		_, err := r.conn.NATS().Subscribe(events.PollSubject(events.DefaultPool, events.PoolPartition(events.DefaultPool, "web01", id)), func(*nats.Msg) {
			orders.Add(1) // and no answer
		})
		is.NoErr(err)
	}
	c := r.anonymous()
	asked, registered, called := make(chan answer, 1), make(chan answer, 1), make(chan error, 1)
	go func() {
		defer close(asked) // where it is cut off the test ends there
		asked <- r.get("/hosts/web01/checks/slow?fresh=1s")
	}()
	go func() {
		defer close(registered)
		registered <- r.do("POST", "/checks", `{"id": "a", "url": "http://x/"}`)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		_, err := c.Poll(ctx, "web01", "slower", time.Second)
		called <- err
	}()
	r.eventually("all are under way", func() bool {
		_, there := r.reg.Check("web01", "a")
		return there && orders.Load() == 2
	})
	r.stop() // says so where requests were cut off
	(<-asked).problem(t, http.StatusServiceUnavailable)
	is.Equal((<-registered).code, http.StatusOK)
	is.True(strings.Contains((<-called).Error(), "stopping"))
}

// A reader of events over HTTP/2 is told as one over HTTP/1 is.
func TestEventsOverHTTP2(t *testing.T) {
	is := is.New(t)
	r := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/events", nil)
	is.NoErr(err)
	res, err := plainH2(t).Do(req)
	is.NoErr(err)
	defer res.Body.Close()
	is.Equal(res.ProtoMajor, 2)
	r.commit(live("web01", "a", 1, events.OK, "", 1))
	scan := bufio.NewScanner(res.Body)
	for scan.Scan() && !strings.HasPrefix(scan.Text(), "event: ") { // what comes before it is of no concern
	}
	is.Equal(scan.Text(), "event: "+events.TypeCheckChanged)
}
