package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
)

// sinkWriter is a ResponseWriter that costs as little as possible.
type sinkWriter struct{ h http.Header }

func (w *sinkWriter) Header() http.Header         { return w.h }
func (w *sinkWriter) WriteHeader(int)             {}
func (w *sinkWriter) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkRoot is GET / through the whole handler, and beside it a handler that
// writes the same bytes and does nothing else.
func BenchmarkRoot(b *testing.B) {
	r := start(b)
	for i := range 20 {
		r.registered(fmt.Sprintf("c%02d", i), `"http://x/"`, events.Result{Status: events.Warning, Message: "the disk is nearly full"})
	}
	body := []byte(r.get("/").body)
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(body)
	})
	for name, h := range map[string]http.Handler{"gateway": r.Server, "bare": bare} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
			w := &sinkWriter{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				h.ServeHTTP(w, req)
			}
		})
	}
}

// BenchmarkRootOverTCP is the same over a connection that is kept.
func BenchmarkRootOverTCP(b *testing.B) {
	r := start(b)
	for i := range 20 {
		r.registered(fmt.Sprintf("c%02d", i), `"http://x/"`, events.Result{Status: events.Warning, Message: "the disk is nearly full"})
	}
	body := []byte(r.get("/").body)
	for name, h := range map[string]http.Handler{"gateway": r.Server, "bare": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})} {
		b.Run(name, func(b *testing.B) {
			srv := httptest.NewServer(h)
			defer srv.Close()
			c := srv.Client()
			defer c.CloseIdleConnections()
			buf := make([]byte, 64<<10)
			for b.Loop() {
				res, err := c.Get(srv.URL + "/")
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = res.Body.Read(buf)
				}
				_ = res.Body.Close()
			}
		})
	}
}

// BenchmarkView is what following costs: a result that changes nothing, and one
// that changes the message of a host with many checks, with an answer each.
func BenchmarkView(b *testing.B) {
	regs := newRegs()
	for i := range 1000 {
		regs.add("web01", fmt.Sprintf("c%04d", i), 1, false)
	}
	v := NewView(regs, 10*time.Second)
	v.RefreshRegistration("", "")
	for i := range 1000 {
		s := live("web01", fmt.Sprintf("c%04d", i), 1, events.Warning, "the disk is nearly full", 1)
		s.V, s.Number = 1, 1
		v.ApplyCheck(s, true)
	}
	n := uint64(2) // grows: a result that is not newer would not count
	for name, changed := range map[string]bool{"quiet": false, "changed": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				in := polledAt(n, int64(n), events.Warning, "the disk is nearly full")
				in.Check = "c0500"
				if changed {
					in.Result.Message = strconv.FormatUint(n, 10)
				}
				v.ApplyResult(in)
				v.root("web01")
				n++
			}
		})
	}
}
