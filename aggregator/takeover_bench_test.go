package aggregator

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkTakeover starts an aggregator on a bus where a former one left 100,000
// checks (MEGAPHONE_TAKEOVER says how many), 100 on each host, of which 100 changed
// 20 times after the last checkpoint: seconds until all 64 partitions are held again,
// CPU seconds of everything in this process, and megabytes of heap more than before.
// The registry is filled before.
func BenchmarkTakeover(b *testing.B) {
	checks := 100_000
	if s := os.Getenv("MEGAPHONE_TAKEOVER"); s != "" {
		var err error
		if checks, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	const room = 16 << 30
	s, err := server.Start(b.Context(), server.Options{Dir: b.TempDir(), Listen: "127.0.0.1:0", MaxStore: room})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	f := &field{tb: b, server: s}
	f.conn = f.connect()
	if err := f.conn.Setup(b.Context(), bus.StreamOptions{MaxBytes: room}); err != nil {
		b.Fatal(err)
	}
	f.leave(checks)
	began := time.Now()
	f.reg = f.registry(f.conn, nil)
	b.Logf("the registry of %d checks was read in %s", checks, time.Since(began).Round(time.Millisecond))
	before := heapBytes()
	for b.Loop() {
		used, start := cpu(b), time.Now()
		a, stop := f.aggregator("a1")
		for a.Stats().Takeovers < events.Partitions {
			time.Sleep(5 * time.Millisecond)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s")
		b.ReportMetric((cpu(b) - used).Seconds(), "cpu-s")
		b.ReportMetric(float64(heapBytes()-before)/1e6, "MB")
		if n := a.Stats().Transitions; n != 0 {
			b.Fatalf("%d transitions by a takeover", n)
		}
		stop()
	}
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// leave stores what an aggregator leaves behind of that many checks.
func (f *field) leave(checks int) {
	f.tb.Helper()
	now := time.Now().UTC()
	applied := f.push("elsewhere", "probe", events.OK, 0)
	var acks []jetstream.PubAckFuture
	var moved []events.CheckState
	store := func(m *nats.Msg) {
		ack, err := f.conn.JetStream().PublishMsgAsync(m)
		if err != nil {
			f.tb.Fatal(err)
		}
		if acks = append(acks, ack); len(acks) == 2000 {
			f.acked(acks)
			acks = acks[:0]
		}
	}
	record := func(subject string, v any) {
		body, err := json.Marshal(v)
		if err != nil {
			f.tb.Fatal(err)
		}
		store(bus.Message(subject, body))
	}
	for i := range checks {
		host, id := fmt.Sprint("h", i/100), fmt.Sprint("c", i%100)
		r := events.Registration{Host: host, ID: id, TTL: events.Duration(24 * time.Hour)}
		body, err := events.Encode(events.Header{Type: events.TypeRegistered, Source: "urn:x", ID: fmt.Sprint(i), Host: host, Check: id, Time: now}, r)
		if err != nil {
			f.tb.Fatal(err)
		}
		store(bus.Message(events.RegistrationSubject(host, id), body))
		s := events.CheckState{
			V: 1, Host: host, Check: id, Number: 1, Status: events.OK, Phase: events.Live, Since: now, Reported: events.OK, Basis: events.Live,
			Started: now, Spec: Fingerprint(r), Applied: applied, Seen: now, Message: "all is well",
		}
		record(events.StateSubject(host, id), s)
		if s.Number++; len(moved) < 100 && i%7 == 0 {
			moved = append(moved, s)
		}
		if i%100 == 0 {
			record(events.StateSubject(host, ""), events.HostState{V: 1, Host: host, Number: 1, Status: events.OK, Phase: events.Live, Reported: events.OK, Since: now})
		}
	}
	f.acked(acks)
	acks = nil
	for n := range events.Partitions {
		f.put(events.CheckpointSubject(n), events.Checkpoint{V: 1, Results: applied, Changes: f.last(bus.StreamChanges), Time: events.At(now)})
	}
	for i := range 20 * len(moved) {
		s := moved[i%len(moved)]
		s.Number += uint64(i / len(moved))
		body, err := json.Marshal(s)
		if err != nil {
			f.tb.Fatal(err)
		}
		m := bus.Message(events.CommitSubject(s.Host, s.Check), nil)
		m.Header.Set(events.StateHeader, string(body))
		store(m)
	}
	f.acked(acks)
}
