package bus_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// open starts a server, connects as a role and sets the streams up.
func open(t testing.TB) *bus.Conn {
	t.Helper()
	c, err := bus.New(bustest.Connect(t, bustest.Start(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Setup(t.Context(), bus.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSetupByManyAtOnce(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		c, err := bus.New(bustest.Connect(t, s))
		is.NoErr(err)
		wg.Go(func() { errs[i] = c.Setup(t.Context(), bus.StreamOptions{}) })
	}
	wg.Wait()
	for _, err := range errs {
		is.NoErr(err)
	}
}

// Sequences begin with the time of creation, so that they grow across loss of all data.
func TestFirstSequences(t *testing.T) {
	is := is.New(t)
	before := uint64(time.Now().Add(-time.Minute).UnixMicro())
	c := open(t)
	for _, name := range []string{"REGISTRATIONS", "RESULTS", "CHANGES", "STATE", "REJECTED", "KV_LEASES"} {
		s, err := c.JetStream().Stream(t.Context(), name)
		is.NoErr(err)
		is.True(s.CachedInfo().State.FirstSeq > before) // microseconds of now
	}
}

// The server's partition of a stored result is the one that the program computes.
func TestStoredSubjects(t *testing.T) {
	is := is.New(t)
	c := open(t)
	for i := range 100 {
		host := fmt.Sprintf("web%02d.example.com", i)
		pos, err := c.Push(t.Context(), host, "a b", events.Result{Status: events.OK})
		is.NoErr(err)
		m := get(t, c, bus.StreamResults, pos)
		is.Equal(m.Subject, fmt.Sprintf("megaphone.result.%d.%s.a%%20b", events.Partition(host), events.Token(host)))
	}
	pos, err := c.Store(t.Context(), bus.Message(events.TickSubject(7), []byte(`{}`)))
	is.NoErr(err)
	is.Equal(get(t, c, bus.StreamResults, pos).Subject, "megaphone.tick.7") // ticks stay as they are, and so do reports
	pos, err = c.PublishReport(t.Context(), 7, events.Header{Type: events.TypeReport, Source: "urn:x", ID: "1", Time: time.Now()}, events.Report{Worker: "w.1", Pool: "@web01"})
	is.NoErr(err)
	is.Equal(get(t, c, bus.StreamResults, pos).Subject, "megaphone.report.7.%40web01.w%2E1")
}

func get(t *testing.T, c *bus.Conn, stream string, position uint64) *jetstream.RawStreamMsg {
	t.Helper()
	s, err := c.JetStream().Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(t.Context(), position)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A push whose acknowledgement was lost is not stored twice.
func TestPushOnce(t *testing.T) {
	is := is.New(t)
	c := open(t)
	h := events.Header{Type: events.TypeResult, Source: "urn:x", ID: "1", Host: "web01", Check: "db", Time: time.Now()}
	a, err := c.PushEvent(t.Context(), h, events.Result{Status: events.OK})
	is.NoErr(err)
	b, err := c.PushEvent(t.Context(), h, events.Result{Status: events.OK})
	is.NoErr(err)
	is.Equal(a, b)
}

// Live subscribers see a transition only once it is stored: not one whose
// expectation of the fence failed.
func TestRefusedCommitIsNotSeen(t *testing.T) {
	is := is.New(t)
	c := open(t)
	sub, err := c.NATS().SubscribeSync(events.StatusSubjects)
	is.NoErr(err)
	is.NoErr(c.NATS().Flush())
	fence, err := c.Store(t.Context(), &nats.Msg{Subject: events.FenceSubject(3)})
	is.NoErr(err)
	commit := func(expect uint64, body string) error {
		m := &nats.Msg{Subject: events.CommitSubject("web01", ""), Data: []byte(body), Header: nats.Header{
			"Nats-Expected-Last-Subject-Sequence":         {fmt.Sprint(expect)},
			"Nats-Expected-Last-Subject-Sequence-Subject": {events.FenceSubject(3)},
		}}
		_, err := c.Store(t.Context(), m)
		return err
	}
	is.True(commit(fence-1, "zombie") != nil) // refused
	is.NoErr(commit(fence, "owner"))
	m, err := sub.NextMsg(5 * time.Second)
	is.NoErr(err)
	is.Equal(string(m.Data), "owner") // and nothing before it
	is.Equal(m.Subject, "megaphone.status.host.web01")
	is.True(m.Header.Get("Nats-Sequence") != "") // its position
}

// A client program must not carry the embedded server: 9 MB instead of 25.
func TestClientsDoNotCarryTheServer(t *testing.T) {
	is := is.New(t)
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").CombinedOutput()
	is.NoErr(err)
	for line := range strings.Lines(string(out)) {
		is.True(!strings.Contains(line, "nats-server")) // imported by package bus
	}
}

func TestReject(t *testing.T) {
	is := is.New(t)
	c := open(t)
	for range 3 {
		c.Reject(context.Background(), "result", "megaphone.result.web01.db", "web01", "db", "no status", []byte("{}"))
	}
	s, err := c.JetStream().Stream(t.Context(), bus.StreamRejected)
	is.NoErr(err)
	is.Equal(s.CachedInfo().State.Msgs, uint64(1)) // one a second and subject
	m, err := s.GetLastMsgForSubject(t.Context(), "megaphone.rejected.result.web01.db")
	is.NoErr(err)
	e, err := events.Decode(m.Data)
	is.NoErr(err)
	var r events.Rejection
	is.NoErr(events.DataAs(e, &r))
	is.Equal(r.Reason, "no status")

	// A reason that quotes a value of 256 KiB is told, too.
	c.Reject(context.Background(), "result", "megaphone.result.web01.x", "web01", "x", strings.Repeat(`\x00`, events.MaxEvent), nil)
	_, err = s.GetLastMsgForSubject(t.Context(), "megaphone.rejected.result.web01.x")
	is.NoErr(err)
}
