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

// BenchmarkAggregator reduces the results of 1,000 checks on 100 hosts while they
// are stored, or, as a backlog, after they were: results/s and CPU microseconds
// per result of everything in this process, the server and (unless it is a
// backlog) the publisher included. flips: of how many results in a hundred the
// status is another than before.
func BenchmarkAggregator(b *testing.B) {
	for _, flips := range []int{0, 1, 100} {
		b.Run(fmt.Sprintf("live/flips=%d", flips), func(b *testing.B) { benchmarkAggregator(b, flips, false) })
	}
	b.Run("backlog/flips=1", func(b *testing.B) { benchmarkAggregator(b, 1, true) })
}

func benchmarkAggregator(b *testing.B, flips int, backlog bool) {
	f := newField(b)
	var regs []uint64
	for i := range 1000 {
		r := web(fmt.Sprint("c", i/100))
		r.Host = fmt.Sprint("h", i%100)
		regs = append(regs, f.register(r))
	}
	a, stop := f.aggregator("a1")
	f.held(a, events.Partitions)
	if backlog {
		stop()
		f.flood(b, regs, flips)
		a, _ = f.aggregator("a2")
		b.ResetTimer()
	}
	before := cpu(b)
	b.ResetTimer()
	if !backlog {
		f.flood(b, regs, flips)
	}
	for a.Stats().Results < uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "results/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/result")
	b.ReportMetric(float64(a.Stats().Transitions), "transitions")
}

// flood stores b.N results, many at a time.
func (f *field) flood(b *testing.B, regs []uint64, flips int) {
	b.Helper()
	acks := make([]jetstream.PubAckFuture, 0, 1024)
	for n := range b.N {
		i := n % len(regs)
		status := events.OK
		if flips > 0 && n/len(regs)%2 == 1 && n%100 < flips {
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
		if acks = append(acks, ack); len(acks) < cap(acks) && n < b.N-1 {
			continue
		}
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

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
