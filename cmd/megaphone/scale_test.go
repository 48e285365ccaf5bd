package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
)

// What BenchmarkScale registers, on hosts of a hundred checks.
const (
	scaleChecks = 100_000
	scaleNew    = 10_000
)

// BenchmarkScale tells, of a `megaphone poller` as a process of its own, on a bus
// that holds 100,000 registrations of checks that are polled once an hour:
//   - start-s: from its start to its first poll, counted at the target, and
//     start-cpu-s, the CPU time that it used until then;
//   - rss-bytes/check: the resident memory that each of them takes, once all have
//     been polled and it is idle, over what a poller without any takes;
//   - new-s: from the acknowledgement of the last of 10,000 new registrations to
//     the first poll of the last of them.
//
// Use -benchtime 1x; a round takes a minute or two.
func BenchmarkScale(b *testing.B) {
	for b.Loop() {
		scaleRound(b)
	}
}

func scaleRound(b *testing.B) {
	t := startTarget(b)
	defer t.stop()
	empty := rssOf(b, startPoller(b, scaleBus(b)))

	dir := scaleBus(b)
	t.registerMany(b, dir, 0, scaleChecks)
	began := time.Now()
	p := startPoller(b, dir)
	polled := func(n int64) func() error {
		return func() error {
			if got, _ := t.count(b); got < n {
				return fmt.Errorf("%d of %d", got, n)
			}
			return nil
		}
	}
	eventually(b, time.Minute, "the first poll", polled(1))
	start, startCPU := time.Since(began), cpuOf(b, p)
	eventually(b, 10*time.Minute, "each is polled once", polled(scaleChecks))
	idle := rssOf(b, p)

	t.registerMany(b, dir, scaleChecks, scaleNew)
	began = time.Now()
	eventually(b, 5*time.Minute, "the new ones are polled", polled(scaleChecks+scaleNew))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(start.Seconds(), "start-s")
	b.ReportMetric(startCPU.Seconds(), "start-cpu-s")
	b.ReportMetric(float64(idle-empty)/scaleChecks, "rss-bytes/check")
	b.ReportMetric(time.Since(began).Seconds(), "new-s")
	b.Logf("resident: %d MB with %d checks, %d MB with none", idle>>20, scaleChecks, empty>>20)
}

// scaleBus runs a bus without a worker, and returns its data directory, which
// holds its address, too.
func scaleBus(b *testing.B) (dir string) {
	dir = b.TempDir()
	s := bustest.StartIn(b, dir, "127.0.0.1:0")
	if err := connected(b, s).Setup(b.Context(), bus.StreamOptions{}); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "url"), []byte(s.URL()), 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}

func connected(b *testing.B, s *server.Server) *bus.Conn {
	c, err := bus.New(bustest.Connect(b, s))
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func busURL(b *testing.B, dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, "url"))
	if err != nil {
		b.Fatal(err)
	}
	return string(raw)
}

func startPoller(b *testing.B, dir string) *process {
	return launch(b, nil, "poller", "--data", b.TempDir(), "--host", "poller1", "--config", os.DevNull,
		"--bus", busURL(b, dir), "--bus-creds", filepath.Join(dir, server.CredsFile))
}

// registerMany stores registrations on the bus, and returns once all are.
func (t *target) registerMany(b *testing.B, dir string, from, n int) {
	c, err := bus.Connect(b.Context(), busURL(b, dir), bus.WithCreds(filepath.Join(dir, server.CredsFile)))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var acks []jetstream.PubAckFuture
	for i := from; i < from+n; i++ {
		host, check := "host"+strconv.Itoa(i/100), "check"+strconv.Itoa(i%100)
		body, err := events.Encode(events.Header{
			Type: events.TypeRegistered, Source: "urn:megaphone:client:scale", ID: strconv.Itoa(i), Host: host, Check: check, Time: time.Now(),
		}, events.Registration{
			ID: check, Host: host, URL: fmt.Appendf(nil, `"%sstatus"`, t.URLs[i%len(t.URLs)]), Interval: events.Duration(time.Hour),
			Pool: events.DefaultPool,
		})
		if err != nil {
			b.Fatal(err)
		}
		ack, err := c.JetStream().PublishMsgAsync(bus.Message(events.RegistrationSubject(host, check), body))
		if err != nil {
			b.Fatal(err)
		}
		if acks = append(acks, ack); len(acks) == 1000 || i == from+n-1 {
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
}

// rssOf waits until the resident memory of a process no longer falls, and returns
// it: what a burst has left behind is given back little by little.
func rssOf(b *testing.B, p *process) (bytes int64) {
	if !p.becomesReady() {
		b.Fatal("megaphone ended")
	}
	least, since := int64(1)<<62, time.Now()
	for time.Since(since) < 10*time.Second {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(raw), "VmRSS:")
		var kb int64
		if _, err := fmt.Sscan(rest, &kb); err != nil {
			b.Fatal(err)
		}
		if kb<<10 < least-least/50 {
			least, since = kb<<10, time.Now()
		}
		time.Sleep(250 * time.Millisecond)
	}
	return least
}

// cpuOf is the CPU time that a process has used, to a hundredth of a second.
func cpuOf(b *testing.B, p *process) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	// After the name, which is in brackets, utime and stime are the 12th and 13th.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	var ticks time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}
