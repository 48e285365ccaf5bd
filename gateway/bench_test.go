package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/events"
)

// sinkWriter is a ResponseWriter that costs as little as possible.
type sinkWriter struct{ h http.Header }

func (w *sinkWriter) Header() http.Header         { return w.h }
func (w *sinkWriter) WriteHeader(int)             {}
func (w *sinkWriter) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkView is what following costs a host with many checks: a result that
// changes nothing, and a check that flips, with an answer each. Neither grows with
// the number of checks that do not change.
func BenchmarkView(b *testing.B) {
	for _, checks := range servedSizes {
		regs := newRegs()
		for i := range checks {
			regs.add("web01", fmt.Sprintf("c%04d", i), 1, false)
		}
		v := NewView(regs, 10*time.Second)
		v.RefreshRegistration("", "")
		for i := range checks {
			s := live("web01", fmt.Sprintf("c%04d", i), 1, events.OK, "all is well", 1)
			s.V, s.Number = 1, 1
			v.ApplyCheck(s, true)
		}
		n := uint64(2) // grows: what is not newer would not count
		b.Run(fmt.Sprintf("%d/quiet", checks), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				in := polledAt(n, int64(n), events.OK, "all is well")
				in.Check = "c0050"
				v.ApplyResult(in)
				v.root("web01")
				n++
			}
		})
		b.Run(fmt.Sprintf("%d/flip", checks), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s := live("web01", "c0050", 1, events.Statuses()[n%4], "as told", n)
				s.V, s.Number = 1, n
				v.ApplyCheck(s, false)
				v.root("web01")
				n++
			}
		})
	}
}

// BenchmarkFlip is how long after the publishing of a transition began GET / of
// its host says so, through the bus: the slowest hundredth.
func BenchmarkFlip(b *testing.B) {
	for _, checks := range servedSizes {
		b.Run(strconv.Itoa(checks), func(b *testing.B) {
			r := start(b)
			r.manyChecks(checks)
			req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
			says := func(status events.Status) bool {
				rec := httptest.NewRecorder()
				r.ServeHTTP(rec, req)
				return strings.HasPrefix(rec.Body.String(), `{"status": "`+status.String()+`"`)
			}
			e, _ := r.reg.Check("web01", "c0000")
			var took []time.Duration
			for b.Loop() {
				status := []events.Status{events.Warning, events.Critical}[len(took)%2]
				began := time.Now()
				r.commit(live("web01", "c0000", e.Position, status, "flipped", uint64(len(took)+2)))
				for !says(status) {
					time.Sleep(20 * time.Microsecond)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		})
	}
}

// manyChecks registers checks of the local host, all of which are well.
func (r *rig) manyChecks(n int) {
	r.tb.Helper()
	var g errgroup.Group
	g.SetLimit(maxCalls)
	for i := range n {
		g.Go(func() error {
			_, err := r.reg.Register(r.tb.Context(), events.Registration{Host: "web01", ID: fmt.Sprintf("c%04d", i), URL: []byte(`"http://x/"`)})
			return err
		})
	}
	must(r.tb, g.Wait())
	r.view.RefreshRegistration("", "")
	for i := range n {
		s := live("web01", fmt.Sprintf("c%04d", i), 1, events.OK, "all is well", 1)
		s.V = events.RecordVersion
		r.view.ApplyCheck(s, true)
	}
}

// BenchmarkIdleStreams is what 10,000 readers of events cost who are told
// nothing: memory of this process, and its processor time. They are in another.
func BenchmarkIdleStreams(b *testing.B) {
	r := start(b)
	c := newLoad(b)
	for b.Loop() {
		before := memory()
		c.ask(holdWord, strings.TrimPrefix(r.url, "http://"))
		r.eventuallyIn(time.Minute, "all are read to", func() bool { return r.streams.Load() == maxStreams })
		b.ReportMetric((memory()-before)/maxStreams/1024, "KiB/client")
		spentBefore, began := spent(), time.Now()
		time.Sleep(20 * time.Second) // what is measured is that nothing happens
		b.ReportMetric(100*float64(spent()-spentBefore)/float64(time.Since(began)), "%-of-a-processor")
	}
	b.ReportMetric(0, "ns/op")
}

// memory is what the heap and the stacks take, in bytes.
func memory() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse + m.StackInuse)
}

// BenchmarkRollup is what a look at 10,000 hosts costs, half of which are chosen.
func BenchmarkRollup(b *testing.B) {
	r := start(b)
	const hosts = 10_000
	v := NewView(nil, time.Minute) // no bus changes it
	for i := range hosts {
		h := v.host(fmt.Sprintf("web%05d", i))
		h.record = &events.HostRecord{Labels: map[string]string{"env": []string{"prod", "test"}[i%2], "tier": "web"}}
	}
	p, err := parseRollup("rollup:host=web*,env=prod,tier=web")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if worst, looked := r.lookAt(v, p, time.Now()); worst != degraded || looked != hosts {
			b.Fatal(worst, looked)
		}
	}
}
