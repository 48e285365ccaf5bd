package bus_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkRegister is a synced write, one after another, and by many at once.
func BenchmarkRegister(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := open(b)
			r := run(b, c, bus.RegistryOptions{File: filepath.Join(b.TempDir(), "r.jsonl")})
			defer r.stop()
			var wg sync.WaitGroup
			next := make(chan int)
			for range writers {
				wg.Go(func() {
					for i := range next {
						if _, err := r.Register(context.Background(), polled(fmt.Sprintf("web%d", i/1000), fmt.Sprint(i%1000))); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := 0; b.Loop(); i++ {
				next <- i
			}
			close(next)
			wg.Wait()
		})
	}
}

// BenchmarkRegistryLoad is a start with many registrations in the stream.
func BenchmarkRegistryLoad(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("checks=%d", n), func(b *testing.B) {
			c := open(b)
			fill(b, c, n)
			file := filepath.Join(b.TempDir(), "r.jsonl")
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				r := run(b, c, bus.RegistryOptions{File: file})
				runtime.GC()
				runtime.ReadMemStats(&after)
				if got := len(r.Checks()); got != n {
					b.Fatalf("%d checks of %d", got, n)
				}
				r.stop()
			}
			b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(n), "heapB/check")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "us/check")
		})
	}
}

func fill(b *testing.B, c *bus.Conn, n int) {
	b.Helper()
	var acks []jetstream.PubAckFuture
	for i := range n {
		reg := polled(fmt.Sprintf("web%d", i/100), fmt.Sprint(i%100))
		body, err := events.Encode(events.Header{
			Type: events.TypeRegistered, Source: "urn:x", ID: fmt.Sprint(i), Host: reg.Host, Check: reg.ID, Time: time.Now(),
		}, reg)
		if err != nil {
			b.Fatal(err)
		}
		ack, err := c.JetStream().PublishMsgAsync(bus.Message(events.RegistrationSubject(reg.Host, reg.ID), body))
		if err != nil {
			b.Fatal(err)
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			b.Fatal(err)
		}
	}
}

// BenchmarkLeases reports what it costs to keep all partitions: CPU per second is
// that of server and client together.
func BenchmarkLeases(b *testing.B) {
	s := bustest.Start(b)
	c, err := bus.New(bustest.Connect(b, s))
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Setup(b.Context(), bus.StreamOptions{}); err != nil {
		b.Fatal(err)
	}
	l := bus.NewLeases(c, bus.LeaseOptions{Group: "a", Partitions: partitions, Holder: "h", Name: "n"})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Run(ctx, func(ctx context.Context, _ bus.Lease) { <-ctx.Done() })
	}()
	eventually(b, "it holds all", func() bool { return l.Count() == partitions })
	for b.Loop() {
		before := cpu()
		time.Sleep(3 * time.Second) // what is measured is idling
		b.ReportMetric(float64(cpu()-before)/3e6, "cpu-ms/s")
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// cpu is what this process has used, in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
