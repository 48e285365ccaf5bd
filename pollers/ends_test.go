package pollers_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// A check ends soon after its lease does, whatever its own deadline is: the partition
// is held until then, and nobody else polls it.
func TestKindsEndWithTheLease(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { udp.Close() })
	tcp, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	must(t, err)
	t.Cleanup(func() { tcp.Close() })
	silent := tcp.Addr().String()
	kinds, done := pollers.KindsOf(pollers.Config{})
	t.Cleanup(done)
	for name, target := range map[string]events.Target{
		"dns":   {Addr: "dns://" + udp.LocalAddr().String() + "/example.com"},
		"grpc":  {Addr: "grpc://" + silent},
		"http":  {Addr: "http://" + silent},
		"https": {Addr: "https://" + silent},
		"icmp":  {Addr: "icmp://240.0.0.1"},
		"nats":  {Addr: "nats://" + silent + "/subject"},
		"tcp":   {Addr: "tcp://" + silent, Options: `{"expect_body":"x"}`},
		"tls":   {Addr: "tls://" + silent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			lease, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctx, end := pollers.PollContext(lease, 20*time.Second)
			defer end()
			time.AfterFunc(50*time.Millisecond, cancel)
			start := time.Now()
			f := kinds.Check(ctx, target)
			t.Log(f.Message, time.Since(start))
			is.True(time.Since(start) < 5*time.Second)
		})
	}
}
