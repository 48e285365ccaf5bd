package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// The network of a worker is cut off: its canary and all that it polls fail
// together. None of a thousand hosts becomes Critical by that.
func TestHiccupAtAWorker(t *testing.T) {
	t.Parallel() // it waits most of the time
	skipUnderRace(t)
	is := is.New(t)
	var cut atomic.Bool
	var failed atomic.Int64
	network := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !cut.Load() {
				h(w, r)
				return
			}
			if r.URL.Path != "/canary" {
				failed.Add(1)
			}
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
	}
	target := newHTTPServer(t, network(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"OK","message":"fine"}`) }))
	canary := newHTTPServer(t, network(http.NotFound)) // any answer will do
	p := serve(t, t.TempDir(), "--canary", canary+"/canary", "--interval", "6s")
	conn, err := bus.Connect(t.Context(), p.Ready.Bus)
	is.NoErr(err)
	defer conn.Close()
	const hosts = 1000
	var wg sync.WaitGroup
	places := make(chan struct{}, 32)
	for i := range hosts {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			host := fmt.Sprintf("h%03d", i)
			if _, err := conn.Register(t.Context(), events.Registration{ID: "c", Host: host, Pool: events.DefaultPool, URL: []byte(`"` + target + "/" + host + `"`)}); err != nil {
				t.Errorf("register: %v", err)
			}
		})
	}
	wg.Wait()
	all := func(status events.Status) func() error {
		return func() error {
			if n := strings.Count(p.must("GET", "/metrics/hosts", "", 200), `,status="`+strings.ToLower(status.String())+`"} 1`); n < hosts {
				return fmt.Errorf("%d of %d", n, hosts)
			}
			return nil
		}
	}
	eventually(t, 120*time.Second, "all are OK", all(events.OK))

	cut.Store(true)
	eventually(t, 60*time.Second, "each has failed", func() error {
		if n := failed.Load(); n < hosts {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	is.True(strings.Contains(p.must("GET", "/metrics", "", 200), "megaphone_worker_suspect 1"))
	cut.Store(false)
	back := time.Now()
	eventually(t, 60*time.Second, "all are polled again", func() error {
		for i := range hosts {
			if i%50 != 0 {
				continue
			}
			var v events.CheckView
			getJSON(t, p, fmt.Sprintf("/hosts/h%03d/checks/c", i), &v)
			if !v.Observed.After(back.Add(time.Second)) || v.Status != events.OK || v.Phase != events.Live {
				return fmt.Errorf("%s %s, observed %s", v.Status, v.Phase, v.Observed)
			}
		}
		return nil
	})
	is.True(strings.Contains(p.must("GET", "/metrics", "", 200), "megaphone_worker_suspect 0"))
	is.Equal(strings.Count(p.log.String(), "this worker suspects itself"), 1) // told once
	is.Equal(strings.Count(p.log.String(), "this worker trusts itself again"), 1)

	// Its results are kept, with the mark; and nobody was told that anything is Critical.
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	last := lastChange(t, p)
	for ch, err := range conn.Watch(ctx, bus.WatchOptions{FromStart: true}) {
		is.NoErr(err)
		if s := ch.Transition.Current.Status; s != nil && *s == events.Critical {
			t.Fatalf("%s became Critical: %s", ch.Transition.Host, ch.Transition.Message)
		}
		if ch.Position >= last {
			break
		}
	}
}
