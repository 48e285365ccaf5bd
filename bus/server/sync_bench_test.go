package server_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	ns "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkSync is the price of the sync interval: a message of 500 bytes, stored
// in a file and acknowledged, one at a time and 256 in flight. It runs the NATS
// server as it is: ours has no way to sync always. docs/adr/0006 has the figures.
func BenchmarkSync(b *testing.B) {
	for _, every := range []time.Duration{0, time.Second, 2 * time.Minute} {
		name := every.String()
		if every == 0 {
			name = "always"
		}
		for _, window := range []int{1, 256} {
			b.Run(fmt.Sprintf("%s/window=%d", name, window), func(b *testing.B) { benchmarkSync(b, every, window) })
		}
	}
}

func benchmarkSync(b *testing.B, every time.Duration, window int) {
	s, err := ns.NewServer(&ns.Options{
		JetStream: true, StoreDir: b.TempDir(), SyncInterval: every, SyncAlways: every == 0, DontListen: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Storage: jetstream.FileStorage}); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 500)
	acks := make(chan jetstream.PubAckFuture, window)
	await := func(ack jetstream.PubAckFuture) {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			b.Fatal(err)
		}
	}
	used := cpuTime(b)
	for n := 0; b.Loop(); n++ {
		if len(acks) == cap(acks) {
			await(<-acks)
		}
		ack, err := js.PublishMsgAsync(&nats.Msg{Subject: fmt.Sprint("s.", n%1000), Data: body})
		if err != nil {
			b.Fatal(err)
		}
		acks <- ack
	}
	for len(acks) > 0 {
		await(<-acks)
	}
	b.ReportMetric(float64((cpuTime(b)-used).Microseconds())/float64(b.N), "cpu-us/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
