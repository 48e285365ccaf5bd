package pollers

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// Idle checks cost memory only: no goroutine, no timer, no message each.
func TestWorkerHoldsManyChecks(t *testing.T) {
	is := is.New(t)
	const checks = 100_000
	entries := make([]bus.Entry, checks)
	for i := range entries {
		entries[i] = bus.Entry{Position: uint64(i + 1), Stored: time.Now(), Registration: events.Registration{
			Host: fmt.Sprintf("web%d", i%1000), ID: fmt.Sprintf("c%d", i), URL: fmt.Appendf(nil, `"http://10.0.%d.1:8080/status"`, i%250),
		}}
	}
	goroutines, before := runtime.NumGoroutine(), heapBytes()
	w := New(Config{Interval: time.Hour})
	for _, e := range entries {
		w.register(e)
	}
	start := time.Now()
	later := time.Now().Add(time.Hour) // nothing is due since then
	for p := range events.Partitions {
		w.open(context.Background(), events.DefaultPool, bus.Lease{Partition: p, Previous: later})
	}
	opened := time.Since(start)
	is.Equal(w.Stats().Checks, checks)
	is.Equal(len(w.agenda.due), checks)
	perCheck := (heapBytes() - before) / checks
	t.Logf("%d bytes per check; all partitions taken in %s", perCheck, opened)
	is.True(perCheck < 1000)
	is.Equal(runtime.NumGoroutine(), goroutines)
	runtime.KeepAlive(entries)
	runtime.KeepAlive(w)
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
