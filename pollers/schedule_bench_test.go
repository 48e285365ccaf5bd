package pollers

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// BenchmarkAgenda is the schedule alone: what it costs to take a poll that is
// due, and to enter the next one of its check. It grows with the logarithm of the
// number of checks.
func BenchmarkAgenda(b *testing.B) {
	for _, checks := range []int{10_000, 100_000, 1_000_000} {
		for name, ports := range map[string]int{"few": 4, "own": checks} {
			b.Run(fmt.Sprintf("checks=%d/ports=%s", checks, name), func(b *testing.B) { benchmarkAgenda(b, checks, ports) })
		}
	}
}

// benchmarkAgenda always has eight polls under way.
func benchmarkAgenda(b *testing.B, checks, ports int) {
	a := newAgenda(limits{quick: 8, slow: 8, perHost: 8, perPort: 8})
	now := int64(0)
	for i := range checks {
		s := NewSchedule(fmt.Sprint("host", i/100), fmt.Sprint("check", i%100), time.Minute)
		a.put(&task{endpoint: newEndpoint(fmt.Sprint("target", i%ports), "80"), schedule: s, index: -1, failures: -1}, s.Next(0))
	}
	var running []*task
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		if due, ok := a.next(); ok {
			now = max(now, due)
		}
		t, _ := a.take(now)
		if running = append(running, t); len(running) < 8 {
			continue
		}
		a.fetched(running[0], now)
		a.done(running[0], now)
		running = append(running[:0], running[1:]...)
	}
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/poll")
}

// cpuTime is the CPU time that this process has used: unlike time it does not
// count what other processes took.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
