package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
)

// What BenchmarkSpeed polls: a target with some ports, each of which a worker
// asks with at most 16 connections. Hosts have ten checks each.
const (
	speedPorts  = 4
	speedConns  = 16 * speedPorts
	speedWarm   = 2 * time.Second
	speedWindow = 5 * time.Second

	speedPerHost = 10
)

// BenchmarkSpeed compares the CPU time of one poll through the whole of
// `megaphone serve` (schedule, poll, interpretation, result stored on the
// embedded bus, reduced, and shown by the gateway) with that of a bare loop of
// net/http that asks the same target over as many connections. Both run in this
// process, one after the other, and are measured by getrusage; the target is a
// process of its own whose CPU time is not counted, and which counts the polls.
// A round is an iteration: -benchtime 5x gives the medians of five. With
// SPEED_PROFILE=FILE the CPU profile of the last round of Megaphone is kept.
//
// In "flat" both make as many polls as they can; the others have a rate, which
// is what a machine with other work to do is compared at.
func BenchmarkSpeed(b *testing.B) {
	b.Run("1000", func(b *testing.B) { benchmarkSpeed(b, 1000, time.Second, 1000) })
	b.Run("10000", func(b *testing.B) { benchmarkSpeed(b, 10_000, time.Second, 10_000) })
	b.Run("13000", func(b *testing.B) { benchmarkSpeed(b, 10_000, time.Second*10/13, 13_000) })
	b.Run("flat", func(b *testing.B) { benchmarkSpeed(b, 10_000, 300*time.Millisecond, 0) })
}

// benchmarkSpeed makes rate polls a second, 0 for as many as it can.
func benchmarkSpeed(b *testing.B, checks int, interval time.Duration, rate int) {
	var bare, whole, targetWhole, ratios, bareRates, rates []float64
	for b.Loop() {
		t := startTarget(b)
		limit := t.window(b, "", func() (stop func()) { return bareLoop(b, t.URLs, rate) })
		got := t.window(b, os.Getenv("SPEED_PROFILE"), func() (stop func()) { return t.megaphone(b, checks, interval) })
		bare, whole = append(bare, limit.cpu), append(whole, got.cpu)
		targetWhole = append(targetWhole, got.target)
		ratios = append(ratios, got.cpu/limit.cpu)
		bareRates, rates = append(bareRates, limit.rate), append(rates, got.rate)
		b.Logf("bare %.1f us, %.0f/s; megaphone %.1f us, %.0f/s: %.2f times; target %.1f and %.1f us",
			limit.cpu, limit.rate, got.cpu, got.rate, got.cpu/limit.cpu, limit.target, got.target)
		t.stop()
	}
	b.ReportMetric(0, "ns/op") // of a round: says nothing
	b.ReportMetric(median(bare), "bare-cpu-us/poll")
	b.ReportMetric(median(whole), "cpu-us/poll")
	b.ReportMetric(median(ratios), "times-bare")
	b.ReportMetric(slices.Max(ratios)-slices.Min(ratios), "spread")
	b.ReportMetric(median(bareRates), "bare-polls/s")
	b.ReportMetric(median(rates), "polls/s")
	b.ReportMetric(median(targetWhole), "target-cpu-us/poll")
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// speedTargetName is what the test binary is called where it stands in for a
// service that is polled.
const speedTargetName = "speed-target"

// speedTarget serves a status document on some ports until its standard input
// ends. /count tells polls and microseconds of CPU.
func speedTarget() int {
	var polls atomic.Int64
	var bad atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) {
		n := polls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		status, message := "OK", "Everything is in order"
		if bad.Load() {
			status, message = "Critical", "Nothing is in order"
		}
		_, _ = fmt.Fprintf(w, `{"status": %q, "message": %q, "served": %d}`, status, message, n) // no two are alike
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%d %d", polls.Load(), selfCPU().Microseconds())
	})
	mux.HandleFunc("/turn", func(http.ResponseWriter, *http.Request) { bad.Store(!bad.Load()) })
	for range speedPorts {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return problem(err)
		}
		fmt.Printf("http://%s/\n", l.Addr())
		go func() { _ = (&http.Server{Handler: mux}).Serve(l) }() // ends with the process
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// target is a running speedTarget.
type target struct {
	URLs []string
	cmd  *exec.Cmd
	in   io.Closer
}

func startTarget(b *testing.B) *target {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	t := &target{cmd: &exec.Cmd{Path: self, Args: []string{speedTargetName}, Stderr: os.Stderr}}
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := t.cmd.StdoutPipe()
	if err == nil {
		err = t.cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for len(t.URLs) < speedPorts && lines.Scan() {
		t.URLs = append(t.URLs, lines.Text())
	}
	if len(t.URLs) < speedPorts {
		b.Fatal("the target does not start")
	}
	return t
}

func (t *target) stop() {
	t.in.Close()
	_ = t.cmd.Wait()
}

func (t *target) count(b *testing.B) (polls, cpu int64) {
	resp, err := http.Get(t.URLs[0] + "count")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := fmt.Fscan(resp.Body, &polls, &cpu); err != nil {
		b.Fatal(err)
	}
	return polls, cpu
}

// measure is what a poll took.
type measure struct{ cpu, target, rate float64 }

// window measures what start began, and stops it. profile is a file for where
// the CPU time went; empty for none.
func (t *target) window(b *testing.B, profile string, start func() (stop func())) measure {
	stop := start()
	defer stop()
	time.Sleep(speedWarm) // connections are made, and the first polls are over
	if profile != "" {
		w, err := os.Create(profile)
		if err != nil {
			b.Fatal(err)
		}
		defer w.Close()
		if err := pprof.StartCPUProfile(w); err != nil {
			b.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	polls, cpu := t.count(b)
	self, began := selfCPU(), time.Now()
	time.Sleep(speedWindow)
	spent, took := selfCPU()-self, time.Since(began)
	polls1, cpu1 := t.count(b)
	n := float64(polls1 - polls)
	return measure{cpu: float64(spent.Microseconds()) / n, target: float64(cpu1-cpu) / n, rate: n / took.Seconds()}
}

// bareLoop polls with net/http alone, at a rate per second or, where that is 0,
// as fast as it can.
func bareLoop(b *testing.B, urls []string, rate int) (stop func()) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: speedConns / speedPorts}}
	var over atomic.Bool
	var wg sync.WaitGroup
	for i := range speedConns {
		url := urls[i%len(urls)] + "status"
		wg.Go(func() {
			var pause time.Duration
			if rate > 0 {
				pause = time.Second * speedConns / time.Duration(rate)
			}
			due := time.Now().Add(time.Duration(rand.Int64N(int64(pause) + 1)))
			for !over.Load() {
				if pause > 0 {
					time.Sleep(time.Until(due))
					due = due.Add(pause)
				}
				resp, err := client.Get(url)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	return func() {
		over.Store(true)
		wg.Wait()
		client.CloseIdleConnections()
	}
}

// megaphone runs `megaphone serve` in this process with checks of the target, and
// returns once all have a status. Its end checks that these follow the target.
func (t *target) megaphone(b *testing.B, checks int, interval time.Duration) (stop func()) {
	dir := b.TempDir()
	ready := filepath.Join(dir, "ready.json")
	ctx, cancel := context.WithCancel(b.Context())
	log := &syncBuffer{}
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{
			"serve", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1", "--port", "0", "--bus-listen", "127.0.0.1:0",
			"--host", "web01", "--config", os.DevNull, "--ready-file", ready,
		}, strings.NewReader(""), log, log)
	}()
	var at readyFile
	eventually(b, time.Minute, "megaphone is ready", func() error {
		raw, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, &at)
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: speedConns}}
	t.register(b, client, at.HTTP, checks, interval)
	all(b, client, at.HTTP, events.OK, checks)
	return func() {
		resp, err := client.Get(t.URLs[0] + "turn")
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		began := time.Now()
		all(b, client, at.HTTP, events.Critical, checks)
		b.Logf("all %d hosts follow the target within %.1f s", checks/speedPerHost, time.Since(began).Seconds())
		client.CloseIdleConnections()
		cancel()
		if code := <-done; code != 0 {
			b.Fatalf("megaphone ended with %d:\n%s", code, log)
		}
	}
}

func (t *target) register(b *testing.B, client *http.Client, base string, checks int, interval time.Duration) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range speedConns {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(checks); i = next.Add(1) - 1 {
				body := fmt.Sprintf(`{"url": "%sstatus", "pool": "default", "interval": "%s"}`, t.URLs[i%speedPorts], interval)
				req, err := http.NewRequest(http.MethodPut, fmt.Sprintf("%s/hosts/host%d/checks/check%d", base, i/speedPerHost, i%speedPerHost), strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusCreated {
					b.Errorf("register: %s", resp.Status)
					return
				}
			}
		})
	}
	wg.Wait()
}

// all waits until every check was polled since the target had another status: none
// has that any more. Where more polls are asked for than can be made, some are
// Unknown at any time.
func all(b *testing.B, client *http.Client, base string, status events.Status, checks int) {
	eventually(b, 5*time.Minute, "all checks are "+status.String(), func() error {
		resp, err := client.Get(base + "/hosts?limit=1000")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var page struct {
			Hosts []events.HostView `json:"hosts"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
			return err
		}
		n, former := 0, 0
		for _, h := range page.Hosts {
			c := map[events.Status]int{events.OK: h.Checks.OK, events.Critical: h.Checks.Critical, events.Unknown: h.Checks.Unknown}
			n += c[status] + c[events.Unknown]
			former += c[events.OK] + c[events.Critical] - c[status]
		}
		if n < checks || former > 0 {
			return fmt.Errorf("%d are, %d have the former status", n, former)
		}
		return nil
	})
}

// selfCPU is the CPU time that this process has used.
func selfCPU() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
