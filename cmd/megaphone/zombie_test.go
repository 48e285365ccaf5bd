package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"golang.org/x/sync/errgroup"
)

// signal sends a signal to the process, as the kernel would.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// zoo is a bus with roles of its own processes around it.
type zoo struct {
	t    *testing.T
	srv  *server.Server
	conn *bus.Conn
}

func newZoo(t *testing.T) *zoo {
	t.Helper()
	z := &zoo{t: t, srv: bustest.Start(t)}
	var err error
	if z.conn, err = bus.Connect(t.Context(), z.srv.URL(), bus.WithCreds(z.srv.CredsPath())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { z.conn.Close() })
	return z
}

func (z *zoo) role(name string, args ...string) *process {
	z.t.Helper()
	return start(z.t, append([]string{
		name, "--bus", z.srv.URL(), "--bus-creds", z.srv.CredsPath(), "--data", filepath.Join(z.t.TempDir(), "d"), "--config", "/dev/null",
	}, args...)...)
}

// transitions reads all transitions of a check that are stored now.
func (z *zoo) transitions(host, check string) (out []bus.Change) {
	z.t.Helper()
	s, err := z.conn.JetStream().Stream(z.t.Context(), bus.StreamChanges)
	if err != nil {
		z.t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(z.t.Context(), events.StatusSubject(host, check))
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(z.t.Context(), 30*time.Second)
	defer cancel()
	for ch, err := range z.conn.Watch(ctx, bus.WatchOptions{Filter: events.Filter{Host: host, Check: check}, FromStart: true}) {
		if err != nil {
			z.t.Fatal(err)
		}
		if out = append(out, ch); ch.Position >= m.Sequence {
			break
		}
	}
	return out
}

func (z *zoo) await(host, check string, s events.Status, p events.Phase) {
	z.t.Helper()
	eventually(z.t, 60*time.Second, fmt.Sprint(check, " is ", s, " ", p), func() error {
		all := z.transitions(host, check)
		if len(all) == 0 {
			return errNotYet
		}
		if c := all[len(all)-1].Transition.Current; *c.Status != s || c.Phase != p {
			return fmt.Errorf("%s %s", *c.Status, c.Phase)
		}
		return nil
	})
}

// An aggregator is stopped past its leases, and deadlines that it knows pass
// meanwhile; services that it has not heard went on pushing to its successor. When
// it goes on it says nothing: neither that they are silent nor anything else.
func TestZombieAggregatorSaysNothing(t *testing.T) {
	t.Parallel() // it waits most of the time
	is := is.New(t)
	z := newZoo(t)
	zombie := z.role("aggregator")
	const checks, ttl = 50, 4 * time.Second
	pushAll := func() {
		for i := range checks {
			_, err := z.conn.Push(t.Context(), fmt.Sprint("h", i), "queue", events.Result{Status: events.OK, TTL: events.Duration(ttl)})
			is.NoErr(err)
		}
	}
	pushAll()
	for i := range checks {
		z.await(fmt.Sprint("h", i), "queue", events.OK, events.Live)
	}
	pushAll() // what it knows ends a ttl from here
	zombie.signal(syscall.SIGSTOP)
	successor := z.role("aggregator")
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(ttl / 8) {
		pushAll()
	}
	zombie.signal(syscall.SIGCONT)
	for end := time.Now().Add(ttl); time.Now().Before(end); time.Sleep(ttl / 8) {
		pushAll()
	}
	for i := range checks {
		is.Equal(len(z.transitions(fmt.Sprint("h", i), "queue")), 1) // it became OK, and nothing else was ever said
	}
	// Both live, and silence is told once.
	for i := range checks {
		z.await(fmt.Sprint("h", i), "queue", events.Critical, events.Stale)
		is.Equal(len(z.transitions(fmt.Sprint("h", i), "queue")), 2)
	}
	successor.Stop()
	zombie.Stop()
}

// A worker is stopped in the middle of a poll, and another one polls meanwhile;
// the answer that it gets when it goes on is not heard.
func TestZombieWorkerSaysNothing(t *testing.T) {
	t.Parallel() // it waits most of the time
	is := is.New(t)
	z := newZoo(t)
	var hang atomic.Bool
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	service := newHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hang.Load() {
			fmt.Fprint(w, `{"status":"OK","message":"at once"}`)
			return
		}
		asked <- struct{}{}
		select {
		case <-answer:
			fmt.Fprint(w, `{"status":"Critical","message":"to the zombie"}`)
		case <-r.Context().Done():
		}
	}))
	z.role("aggregator")
	zombie := z.role("poller")
	gateway := z.role("gateway", "--listen", "127.0.0.1", "--port", "0", "--host", "web01", "--register-wait", "0")
	gateway.must("PUT", "/hosts/web01/checks/db", `{"url":"`+service+`","pool":"default","interval":"5s","timeout":"60s"}`, http.StatusCreated)
	z.await("web01", "db", events.OK, events.Live)
	hang.Store(true)
	<-asked // the zombie waits for this answer
	zombie.signal(syscall.SIGSTOP)
	hang.Store(false)
	before := z.results()
	z.role("poller")
	heard := func(n int) []events.Result {
		var got []events.Result
		eventually(t, 60*time.Second, fmt.Sprint(n, " results"), func() error {
			if got = z.polled(before); len(got) < n {
				return errNotYet
			}
			return nil
		})
		return got
	}
	successor := heard(1)[0].Worker
	close(answer) // it waits in the zombie's socket
	zombie.signal(syscall.SIGCONT)
	for _, r := range heard(4) {
		is.Equal(r.Status, events.OK)
		if r.Lease == 0 || successor == "" {
			t.Errorf("a result without lease or worker: %+v", r)
		}
	}
	is.Equal(len(z.transitions("web01", "db")), 1)
	lines := strings.Count(zombie.log.String(), "leases lost")
	t.Logf("%d lines say that leases were lost", lines)
	is.True(1 <= lines && lines <= 8) // not one for each of 64 partitions
}

func (z *zoo) results() uint64 {
	z.t.Helper()
	s, err := z.conn.JetStream().Stream(z.t.Context(), bus.StreamResults)
	if err != nil {
		z.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// polled reads the results of polls after a position.
func (z *zoo) polled(after uint64) (out []events.Result) {
	z.t.Helper()
	s, err := z.conn.JetStream().Stream(z.t.Context(), bus.StreamResults)
	if err != nil {
		z.t.Fatal(err)
	}
	for n := after + 1; n <= s.CachedInfo().State.LastSeq; n++ {
		m, err := s.GetMsg(z.t.Context(), n)
		if err != nil {
			z.t.Fatal(err)
		}
		msg := bus.Plain(bus.Message(m.Subject, m.Data))
		if bus.IsReport(m.Subject) {
			results, err := bus.ReadReport(msg, n, m.Time)
			if err != nil {
				z.t.Fatal(err)
			}
			for _, in := range results {
				out = append(out, in.Result)
			}
		} else if in, err := bus.ReadStoredResult(msg, n, m.Time); err == nil && in.Polled { // not a tick
			out = append(out, in.Result)
		}
	}
	return out
}

// The whole of serve stands still for longer than an outage needs to be one, as a
// machine does that is suspended: its services went on, and could not be heard. None
// is condemned, and who is silent after it is.
func TestStoppedServeCondemnsNobody(t *testing.T) {
	t.Parallel() // it waits most of the time
	skipUnderRace(t)
	is := is.New(t)
	p := serve(t, t.TempDir(), "--register-wait", "0")
	const ttl = 8 * time.Second
	checks, outage := 20, bus.OutageAfter+ttl/2
	if os.Getenv("MEGAPHONE_LONG") != "" { // the rule is the same
		checks, outage = 1000, time.Minute
	}
	push := func(id string) (err error) {
		for range 20 { // a connection whose deadlines passed while all stood still is closed
			code, text := p.call("PUT", "/hosts/web01/checks/"+id+"/status", `{"status":"OK","ttl":"8s"}`)
			if code/100 == 2 {
				return nil
			}
			if err = errors.New(text); code != 0 {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return err
	}
	pushAll := func() {
		var g errgroup.Group
		g.SetLimit(8)
		for i := range checks {
			g.Go(func() error { return push(fmt.Sprint("c", i)) })
		}
		is.NoErr(g.Wait())
	}
	eventually(t, 30*time.Second, "a first push", func() error { return push("silent") })
	pushAll()
	for i := range checks {
		id := fmt.Sprint("c", i)
		eventually(t, 30*time.Second, id, func() error { // its push may not have registered it yet
			if _, text := p.call("GET", "/hosts/web01/checks/"+id, ""); !strings.Contains(text, `"phase":"live"`) {
				return errors.New(text)
			}
			return nil
		})
	}
	pushAll()
	is.NoErr(push("silent"))
	p.signal(syscall.SIGSTOP)
	stopped := time.Now()
	for time.Since(stopped) < outage {
		time.Sleep(100 * time.Millisecond) // this is the outage itself
	}
	p.signal(syscall.SIGCONT)
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(ttl / 8) {
		pushAll()
	}
	for i := range checks {
		v := p.check(fmt.Sprint("c", i))
		is.Equal(v.Phase, events.Live)
		is.Equal(v.Number, uint64(1)) // nothing was told of it
	}
	eventually(t, 30*time.Second, "real silence", func() error {
		if v := p.check("silent"); v.Phase != events.Stale {
			return errNotYet
		}
		return nil
	})
}

// The bus is away for longer than an outage needs to be one; aggregators and
// services live. Who pushes again when it is back is not condemned.
func TestOutageOfTheBusCondemnsNobody(t *testing.T) {
	t.Parallel() // it waits most of the time
	is := is.New(t)
	dir := t.TempDir()
	z := &zoo{t: t, srv: bustest.StartIn(t, dir, "127.0.0.1:0")}
	z.role("aggregator")
	connect := func() {
		var err error
		z.conn, err = bus.Connect(t.Context(), z.srv.URL(), bus.WithCreds(z.srv.CredsPath()))
		is.NoErr(err)
		t.Cleanup(func() { z.conn.Close() })
	}
	connect()
	const checks, ttl = 50, 6 * time.Second
	pushAll := func() {
		for i := range checks {
			_, err := z.conn.Push(t.Context(), "web01", fmt.Sprint("c", i), events.Result{Status: events.OK, TTL: events.Duration(ttl)})
			is.NoErr(err)
		}
	}
	pushAll()
	for i := range checks {
		z.await("web01", fmt.Sprint("c", i), events.OK, events.Live)
	}
	pushAll()
	u, err := url.Parse(z.srv.URL())
	is.NoErr(err)
	z.conn.Close()
	z.srv.Close()
	closed := time.Now()
	for time.Since(closed) < bus.OutageAfter+2*time.Second {
		time.Sleep(100 * time.Millisecond) // this is the outage itself
	}
	z.srv = bustest.StartIn(t, dir, u.Host)
	connect()
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(ttl / 8) {
		pushAll()
	}
	for i := range checks {
		is.Equal(len(z.transitions("web01", fmt.Sprint("c", i))), 1)
	}
}
