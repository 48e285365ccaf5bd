package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
)

func TestMain(m *testing.M) {
	if os.Getenv(loadEnv) != "" { // see BenchmarkServed
		if err := runLoad(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// rig is a gateway on a real bus. The test plays worker and aggregator.
type rig struct {
	*Server
	tb   testing.TB
	bus  *server.Server
	conn *bus.Conn
	url  string
	num  map[string]uint64 // transitions per subject
	stop func()            // ends the gateway and waits
}

// start runs a gateway whose local host is web01; change alters its configuration.
func start(tb testing.TB, change ...func(*Config, *bus.RegistryOptions)) *rig {
	tb.Helper()
	srv := bustest.Start(tb)
	return startOn(tb, srv, change...)
}

func startOn(tb testing.TB, srv *server.Server, change ...func(*Config, *bus.RegistryOptions)) *rig {
	tb.Helper()
	conn, err := bus.New(bustest.Connect(tb, srv), bus.WithName("gw-test"))
	must(tb, err)
	must(tb, conn.Setup(tb.Context(), bus.StreamOptions{MaxBytes: 256 << 20}))
	c := Config{Conn: conn, Host: "web01", RegisterWait: 50 * time.Millisecond, Version: "1.2.3"}
	o := bus.RegistryOptions{Local: "web01"}
	for _, f := range change {
		f(&c, &o)
	}
	o.Local = c.Host
	c.Registry = bus.NewRegistry(conn, o)
	r := &rig{Server: New(c), tb: tb, bus: srv, conn: conn, num: map[string]uint64{}}
	r.run(c.Registry)
	return r
}

func (r *rig) run(reg *bus.Registry) { r.runUntil(reg, r.Ready()) }

// runUntil runs the gateway and waits for something.
func (r *rig) runUntil(reg *bus.Registry, ready <-chan struct{}) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(r.tb, err)
	r.url = "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- r.Run(ctx, ln) }()
	go func() { done <- reg.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				r.tb.Errorf("run: %v", err)
			}
		}
	}
	r.tb.Cleanup(r.stop)
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		r.tb.Fatal("the gateway does not become ready")
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// answer is what a request got.
type answer struct {
	code   int
	header http.Header
	body   string
}

// client keeps no connections: goleak counts them.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error {
	return http.ErrUseLastResponse
}}

// do makes a request; header is pairs of name and value. The path is sent as it is.
func (r *rig) do(method, path, body string, header ...string) answer {
	r.tb.Helper()
	req, err := http.NewRequestWithContext(r.tb.Context(), method, r.url, strings.NewReader(body))
	must(r.tb, err)
	req.URL.Opaque = path
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := client.Do(req)
	must(r.tb, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(r.tb, err)
	return answer{res.StatusCode, res.Header, string(b)}
}

func (r *rig) get(path string) answer {
	r.tb.Helper()
	return r.do("GET", path, "")
}

// poll stores what a poll found and returns its position.
func (r *rig) poll(host, check string, res events.Result) uint64 {
	r.tb.Helper()
	pos, err := r.conn.PublishResult(r.tb.Context(), host, check, events.Header{
		Type: events.TypeResult, Source: "urn:megaphone:worker:w1", ID: fmt.Sprint(time.Now().UnixNano()), Host: host, Check: check, Time: time.Now(),
	}, res)
	must(r.tb, err)
	return pos
}

// commit stores a transition to state s, as the aggregator does.
func (r *rig) commit(s events.CheckState) uint64 {
	r.tb.Helper()
	subject := events.CommitSubject(s.Host, s.Check)
	r.num[subject]++
	s.V, s.Number = events.RecordVersion, r.num[subject]
	if s.Since.IsZero() {
		s.Since = time.Now()
	}
	return r.publish(subject, events.TypeCheckChanged, events.Transition{
		Host: s.Host, Check: s.Check, Number: s.Number, Current: s.Moment(), Message: s.Message, Cause: events.CauseResult,
	}, s)
}

// commitHost stores a transition of a host.
func (r *rig) commitHost(s events.HostState) uint64 {
	r.tb.Helper()
	subject := events.CommitSubject(s.Host, "")
	r.num[subject]++
	s.V, s.Number = events.RecordVersion, r.num[subject]
	return r.publish(subject, events.TypeHostChanged, events.Transition{
		Host: s.Host, Number: s.Number, Current: s.Moment(), Cause: events.CauseResult,
	}, s)
}

func (r *rig) publish(subject, kind string, t events.Transition, state any) uint64 {
	r.tb.Helper()
	pos, err := r.conn.Store(r.tb.Context(), r.message(subject, kind, t, state))
	must(r.tb, err)
	return pos
}

func (r *rig) message(subject, kind string, t events.Transition, state any) *nats.Msg {
	r.tb.Helper()
	body, err := events.Encode(events.Header{
		Type: kind, Source: events.TransitionSource(time.Unix(1, 0), t.Host, t.Check), ID: t.ID(), Host: t.Host, Check: t.Check,
		Time: time.Now(), Sequence: events.Sequence(t.Number),
	}, t)
	must(r.tb, err)
	header, err := json.Marshal(state)
	must(r.tb, err)
	m := bus.Message(subject, body)
	m.Header.Set(events.StateHeader, string(header))
	return m
}

// live is the state of a check after a result at a position.
func live(host, check string, reg uint64, status events.Status, message string, applied uint64) events.CheckState {
	return events.CheckState{
		Host: host, Check: check, Status: status, Reported: status, Phase: events.Live, Basis: events.Live, Spec: "x", Reg: reg,
		Message: message, Applied: applied, Seen: time.Now(), Observed: time.Now(),
	}
}

// address is that of a registration.
func address(tb testing.TB, e bus.Entry) string {
	tb.Helper()
	t, err := e.Registration.Target()
	if err != nil {
		tb.Fatal(err)
	}
	return t.Addr
}

// registered registers a check and plays its first poll: what the worker and the
// aggregator would do.
func (r *rig) registered(id, url string, res events.Result) {
	r.tb.Helper()
	a := r.do("POST", "/checks?wait=0", fmt.Sprintf(`{"id": %q, "url": %s}`, id, url))
	if a.code != 200 || a.body != "" {
		r.tb.Fatalf("POST /checks: %d %s", a.code, a.body)
	}
	r.polled(id, res)
}

// polled plays a poll of a check of the local host and waits until it shows.
func (r *rig) polled(id string, res events.Result) {
	r.tb.Helper()
	e, ok := r.reg.Check("web01", id)
	if !ok {
		r.tb.Fatalf("check %q is not registered", id)
	}
	res.Reg, res.Lease, res.Due = e.Position, 1, time.Now().UnixMilli()
	pos := r.poll("web01", id, res)
	s := live("web01", id, e.Position, res.Status, res.Message, pos)
	s.Addr = address(r.tb, e)
	s.Order = res.Order()
	r.commit(s)
	ctx, cancel := context.WithTimeout(r.tb.Context(), 5*time.Second)
	defer cancel()
	if !r.view.WaitFirst(ctx, "web01", id, e.Position) {
		r.tb.Fatalf("the poll of %q does not show", id)
	}
	r.eventually("the poll of "+id, func() bool {
		v, _ := r.view.Check("web01", id, time.Now())
		return v.Number == r.num[events.CommitSubject("web01", id)]
	})
}

// eventually waits for a condition.
func (r *rig) eventually(what string, ok func() bool) {
	r.tb.Helper()
	eventually(r.tb, 10*time.Second, what, ok)
}

func (r *rig) eventuallyIn(limit time.Duration, what string, ok func() bool) {
	r.tb.Helper()
	eventually(r.tb, limit, what, ok)
}

// anonymous is a client without credentials.
func (r *rig) anonymous() *bus.Conn {
	r.tb.Helper()
	c, err := bus.New(bustest.ConnectAnonymous(r.tb, r.bus, nats.Name("client")), bus.WithName("client"))
	must(r.tb, err)
	return c
}
