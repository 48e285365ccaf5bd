package aggregator

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/looprock/megaphone/bus"
)

func BenchmarkReduce(b *testing.B) {
	t := new(bench).levels(Levels{Registration: polledAt(url), Position: 5}, 0)
	b.ReportAllocs()
	for b.Loop() {
		t.pos++
		r := t.polled(events.OK, float64(t.pos))
		t.s, _ = Reduce(t.s, t.with, r, at(float64(t.pos)))
	}
}

// BenchmarkAggregator reduces results that are stored already, of 1,000 checks on
// 100 hosts: results/s and CPU microseconds per result of everything in this
// process, the server included. flips=0: no status changes; flips=100: each does.
func BenchmarkAggregator(b *testing.B) {
	for _, flips := range []int{0, 1, 100} {
		b.Run(fmt.Sprintf("flips=%d%%", flips), func(b *testing.B) { benchmarkAggregator(b, flips) })
	}
}

func benchmarkAggregator(b *testing.B, flips int) {
	f := newField(b)
	var regs []uint64
	for i := range 1000 {
		r := web(fmt.Sprint("c", i/100))
		r.Host = fmt.Sprint("h", i%100)
		regs = append(regs, f.register(r))
	}
	a, stop := f.aggregator("before") // every partition has a checkpoint
	f.held(a, events.Partitions)
	stop()
	acks := make([]jetstream.PubAckFuture, 0, 4096)
	for n := range b.N {
		i := n % 1000
		status := events.OK
		if flips > 0 && n/1000%2 == 1 && n%100 < flips {
			status = events.Critical
		}
		host, check := fmt.Sprint("h", i%100), fmt.Sprint("c", i/100)
		body, err := events.Encode(
			events.Header{Type: events.TypeResult, Source: "urn:megaphone:worker:w", ID: nuid.Next(), Host: host, Check: check, Time: time.Now()},
			events.Result{Status: status, Message: "polled", Reg: regs[i], Lease: 1, Due: int64(n + 1), Worker: "w", Pool: "default"})
		if err != nil {
			b.Fatal(err)
		}
		ack, err := f.conn.JetStream().PublishMsgAsync(bus.Message(events.PolledSubject(host, check), body))
		if err != nil {
			b.Fatal(err)
		}
		if acks = append(acks, ack); len(acks) == cap(acks) || n == b.N-1 {
			for _, ack := range acks {
				select {
				case <-ack.Ok():
				case err := <-ack.Err():
					b.Fatal(err)
				}
			}
			acks = acks[:0]
		}
	}
	b.ResetTimer()
	before := cpu(b)
	a, _ = f.aggregator("a1")
	for a.Stats().Results < uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "results/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/result")
	b.ReportMetric(float64(a.Stats().Transitions), "transitions")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
