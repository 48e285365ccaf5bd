package pollers_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
)

// BenchmarkPoll compares what one poll costs in CPU time, of which the target's
// own share is the same everywhere: a bare loop of net/http, the check alone,
// a Worker with schedule and stored results (the embedded bus works in this
// process, too), and a Worker whose checks do nothing: what it adds itself.
func BenchmarkPoll(b *testing.B) {
	s := serve(b, text(`{"status": "OK", "message": "Everything is in order"}`))
	target := events.Target{Addr: s.URL + "/status"}
	b.Run("bare", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}
		defer client.CloseIdleConnections()
		loop(b, func() { bare(b, client, target.Addr) })
	})
	b.Run("check", func(b *testing.B) {
		h := newHTTP(b, nil)
		lease, cancel := context.WithCancel(b.Context())
		defer cancel()
		loop(b, func() {
			ctx, end := pollers.PollContext(lease, time.Second)
			h.Check(ctx, target)
			end()
		})
	})
	b.Run("worker", func(b *testing.B) { benchWorker(b, target.Addr, nil) })
	b.Run("worker-nothing-polled", func(b *testing.B) {
		r := pollers.Read(target, []byte(`{"status": "OK", "message": "Everything is in order"}`))
		benchWorker(b, "nothing://", pollers.Kinds{"nothing": func(context.Context, events.Target) pollers.Finding {
			return pollers.Finding{Reading: r}
		}})
	})
}

// atOnce is how many polls one target gets at once.
const atOnce = 16

func bare(b *testing.B, client *http.Client, url string) {
	resp, err := client.Get(url)
	if err != nil {
		b.Error(err)
		return
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

// loop calls f b.N times from as many goroutines as a Worker uses for a target.
func loop(b *testing.B, f func()) {
	var left atomic.Int64
	left.Store(int64(b.N))
	before := cpu()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				f()
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/poll")
}

// benchWorker lets a worker poll as often as it can: more is due than it manages.
func benchWorker(b *testing.B, addr string, kinds pollers.Kinds) {
	f := &field{tb: b, server: bustest.Start(b)}
	_, f.registry = f.connect(f.server.URL())
	const checks = 400
	for i := range checks {
		f.register(events.Registration{ID: fmt.Sprintf("c%d", i), URL: quoted(addr), Interval: events.Duration(events.MinDuration)})
	}
	w, _ := f.worker(pollers.Config{Kinds: kinds})
	for w.Stats().Checks < checks {
		time.Sleep(time.Millisecond)
	}
	start, before := w.Stats().Polls, cpu()
	b.ResetTimer()
	for w.Stats().Polls < start+uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	n := float64(w.Stats().Polls - start)
	b.ReportMetric(float64((cpu()-before).Microseconds())/n, "cpu-us/poll")
	if s := w.Stats(); s.Lost > 0 || s.Failures > 0 {
		b.Fatalf("%+v", s)
	}
}

// cpu is the CPU time that this process has used.
func cpu() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkRead is what it costs to judge a document.
func BenchmarkRead(b *testing.B) {
	for name, body := range map[string]string{
		"small": `{"status": "OK", "message": "Everything is in order"}`,
		"large": `{"status": "OK", "message": "fine", "details": [` + strings.Repeat(`{"name": "disk", "free": 0.91, "well": true}, `, 100) + `null]}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				pollers.Read(events.Target{Addr: addr}, []byte(body))
			}
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/poll")
		})
	}
}
