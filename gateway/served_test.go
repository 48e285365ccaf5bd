package gateway

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
)

// What a request costs over TCP, beside a bare net/http handler that writes the
// same bytes with the same headers: in the same run, on connections that are
// kept, asked by a process of its own, so that what this process spends is what
// serving costs. docs/probes.md has the figures.

// servedSizes are how many checks the host has.
var servedSizes = []int{100, 10_000}

func BenchmarkServed(b *testing.B) {
	c := newLoad(b)
	for _, checks := range servedSizes {
		s := serverOf(b, checks)
		for _, path := range []string{"/", "/lb/web01", "/checks/c0042"} {
			b.Run(fmt.Sprintf("%d%s", checks, path), func(b *testing.B) { c.compare(b, s, path) })
		}
	}
}

// compare asks the gateway and a bare handler in turns, the latter on a server that
// has no limits of any kind, and on one with the gateway's: time-outs have a price.
func (c *load) compare(b *testing.B, s *Server, path string) {
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil))
	body, header := rec.Body.Bytes(), rec.Header()
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		_, _ = w.Write(body)
	})
	var ours, theirs, limited served
	ourAddr := listenFor(b, func(ln *crowd) *http.Server { return s.httpServer(ln) })
	theirAddr := listenFor(b, func(*crowd) *http.Server { return &http.Server{Handler: bare} })
	limitedAddr := listenFor(b, func(ln *crowd) *http.Server {
		srv := s.httpServer(ln)
		srv.Handler = bare
		return srv
	})
	contest := fasthttpOf(b, header, body)
	for b.Loop() {
		theirs.add(c.ask(theirAddr, path))
		limited.add(c.ask(limitedAddr, path))
		ours.add(c.ask(ourAddr, path))
		if contest != nil {
			contest.add(c.ask(contest.addr, path))
		}
	}
	b.ReportMetric(0, "ns/op") // a round, which says nothing
	b.ReportMetric(ours.cpu(), "cpu-µs/req")
	b.ReportMetric(theirs.cpu(), "bare-cpu-µs/req")
	b.ReportMetric(inTurn(&theirs, &ours, round.each), "of-bare")
	b.ReportMetric(inTurn(&limited, &ours, round.each), "of-limited")
	b.ReportMetric(inTurn(&ours, &theirs, func(r round) float64 { return float64(r.p99) }), "p99-to-bare")
	if contest != nil {
		cpu := contest.end(b)
		b.ReportMetric(cpu, "fasthttp-cpu-µs/req")
	}
}

// serverOf is a gateway, without a bus, whose host web01 has so many checks.
func serverOf(tb testing.TB, checks int) *Server {
	tb.Helper()
	r := start(tb)
	regs := newRegs()
	for i := range checks {
		regs.add("web01", fmt.Sprintf("c%04d", i), 1, false)
	}
	v := NewView(regs, 10*time.Second)
	v.RefreshRegistration("", "")
	for i := range checks {
		id, status, message := fmt.Sprintf("c%04d", i), events.OK, "all is well"
		if i < 5 {
			status, message = events.Warning, "the disk is nearly full"
		}
		s := live("web01", id, 1, status, message, 1)
		s.V, s.Number = 1, 1
		v.ApplyCheck(s, true)
		in := polledAt(2, 2, status, message)
		in.Check, in.Result.Reg = id, 1
		in.Result.Document = []byte(`{"status":"` + status.String() + `","message":"` + message + `","queue":17,"load":[0.5,0.25,1.0]}`)
		v.ApplyResult(in)
	}
	r.view = v
	return r.Server
}

// listenFor serves as [Server.Run] does.
func listenFor(tb testing.TB, server func(*crowd) *http.Server) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	crowd := newCrowd(ln, maxConns)
	srv := server(crowd)
	var ended sync.WaitGroup
	ended.Go(func() { _ = srv.Serve(crowd) })
	tb.Cleanup(func() {
		_ = srv.Close()
		ended.Wait()
	})
	return ln.Addr().String()
}

// round is what one round of requests took.
type round struct {
	requests int
	cpu      time.Duration // of this process
	p99      time.Duration
}

type served struct{ rounds []round }

func (s *served) add(r round) { s.rounds = append(s.rounds, r) }

// each is the processor time of a request in microseconds.
func (r round) each() float64 { return float64(r.cpu.Nanoseconds()) / 1000 / float64(r.requests) }

// cpu is the median of the rounds, in microseconds per request.
func (s *served) cpu() float64 {
	all := make([]float64, len(s.rounds))
	for i, r := range s.rounds {
		all[i] = r.each()
	}
	return median(all)
}

// inTurn is the median of a over b, of rounds that followed each other: what else
// the machine does changes from second to second.
func inTurn(a, b *served, of func(round) float64) float64 {
	all := make([]float64, len(a.rounds))
	for i := range all {
		all[i] = of(a.rounds[i]) / of(b.rounds[i])
	}
	return median(all)
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// load is a process that asks.
type load struct {
	tb  testing.TB
	in  io.Writer
	out *bufio.Reader
}

const (
	loadEnv      = "MEGAPHONE_BENCH_LOAD" // makes the test binary that process
	loadConns    = 4
	loadRequests = 2000 // of a round
)

func newLoad(tb testing.TB) *load {
	tb.Helper()
	self, err := os.Executable()
	must(tb, err)
	cmd := exec.Command(self)
	cmd.Env, cmd.Stderr = append(os.Environ(), loadEnv+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	must(tb, err)
	out, err := cmd.StdoutPipe()
	must(tb, err)
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = in.Close()
		must(tb, cmd.Wait())
	})
	return &load{tb, in, bufio.NewReader(out)}
}

// ask makes a round of requests.
func (c *load) ask(addr, path string) round {
	c.tb.Helper()
	before := spent()
	_, err := fmt.Fprintln(c.in, addr, path)
	must(c.tb, err)
	line, err := c.out.ReadString('\n')
	must(c.tb, err)
	p99, err := time.ParseDuration(strings.TrimSpace(line))
	must(c.tb, err)
	return round{loadRequests, spent() - before, p99}
}

// spent is the processor time that this process has used.
func spent() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it cannot fail for ourselves
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// runLoad is the process that asks: for each line with an address and a path it
// makes a round of requests and prints the time that the slowest hundredth took.
func runLoad(in io.Reader, out io.Writer) error {
	scan := bufio.NewScanner(in)
	for scan.Scan() {
		addr, path, _ := strings.Cut(scan.Text(), " ")
		if addr == holdWord {
			if err := hold(path); err != nil {
				return err
			}
			fmt.Fprintln(out, "0s")
			continue
		}
		took, err := askMany(addr, path)
		if err != nil {
			return err
		}
		slices.Sort(took)
		fmt.Fprintln(out, took[len(took)*99/100])
	}
	return scan.Err()
}

// holdWord is a line's first word instead of an address: what follows is one, to
// which as many readers of events are to be opened as a gateway takes.
const holdWord = "hold"

// hold opens them. They are closed when the process ends.
func hold(addr string) error {
	for range maxStreams {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		held = append(held, c) // else the garbage collector would close it
		if _, err := io.WriteString(c, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
	}
	return nil
}

var held []net.Conn

func askMany(addr, path string) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var fault error
	var wg sync.WaitGroup
	for range loadConns {
		wg.Go(func() {
			took, err := askInTurn(addr, path, loadRequests/loadConns)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil {
				fault = err
			}
		})
	}
	wg.Wait()
	return all, fault
}

// askInTurn makes requests on one connection, and reads no more of the answers
// than their lengths: what it costs itself is not what is measured.
func askInTurn(addr, path string, n int) ([]time.Duration, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if _, err := c.Write(request); err != nil {
			return nil, err
		}
		if err := skipAnswer(in); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return took, nil
}

func skipAnswer(in *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		text := strings.TrimSpace(string(line))
		if first && !strings.Contains(text, " 200 ") {
			return fmt.Errorf("answered %q", text)
		}
		if text == "" {
			_, err := in.Discard(length)
			return err
		}
		if name, value, _ := strings.Cut(text, ": "); strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(value); err != nil {
				return err
			}
		}
	}
}

// fasthttpEnv names the built program of tools/fasthttp, which then is asked in
// the same rounds.
const fasthttpEnv = "MEGAPHONE_BENCH_FASTHTTP"

// contest is a server of fasthttp that writes the same bytes.
type contest struct {
	served
	addr string
	cmd  *exec.Cmd
	in   io.Closer
}

func fasthttpOf(b *testing.B, header http.Header, body []byte) *contest {
	b.Helper()
	path := os.Getenv(fasthttpEnv)
	if path == "" {
		return nil
	}
	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	for name, values := range header {
		fmt.Fprintf(in, "%s: %s\r\n", name, values[0])
	}
	fmt.Fprintf(in, "\r\n%s\x00", body)
	addr, err := bufio.NewReader(out).ReadString('\n')
	must(b, err)
	return &contest{addr: strings.TrimSpace(addr), cmd: cmd, in: in}
}

// end stops it and returns the processor time of a request in microseconds.
func (c *contest) end(b *testing.B) float64 {
	b.Helper()
	_ = c.in.Close()
	must(b, c.cmd.Wait())
	used := c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
	return float64(used.Microseconds()) / float64(loadRequests*len(c.rounds))
}
