package bus

import (
	"context"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

// outages counts the records of outages.
func outages(t *testing.T, c *Conn) (n uint64, last events.Outage) {
	t.Helper()
	s, err := c.js.Stream(t.Context(), StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), events.TickAll)
	if err != nil {
		return 0, last
	}
	e, err := ReadEvent(rawMsg{m})
	if err != nil {
		t.Fatal(err)
	}
	var tick events.Tick
	if err := events.DataAs(e, &tick); err != nil {
		t.Fatal(err)
	}
	return m.Sequence, *tick.Outage
}

func push(t *testing.T, c *Conn) time.Time {
	t.Helper()
	if _, err := c.Push(t.Context(), "web01", "queue", events.Result{Status: events.OK}); err != nil {
		t.Fatal(err)
	}
	s, err := c.js.Stream(t.Context(), StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.LastTime
}

func TestTellOutage(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	c, err := New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(c.Setup(t.Context(), StreamOptions{}))
	const after = 500 * time.Millisecond

	is.NoErr(c.tellOutage(t.Context(), after))
	n, _ := outages(t, c)
	is.Equal(n, uint64(0)) // a new bus was never away

	last := push(t, c)
	is.NoErr(c.tellOutage(t.Context(), after))
	n, _ = outages(t, c)
	is.Equal(n, uint64(0)) // something was stored just now

	s.Close()
	time.Sleep(2 * after) // the outage itself
	s = bustest.StartIn(t, dir, "127.0.0.1:0")
	c, err = New(bustest.Connect(t, s))
	is.NoErr(err)
	push(t, c) // somebody is faster than we
	other, err := New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(c.tellOutage(t.Context(), after))
	is.NoErr(other.tellOutage(t.Context(), after)) // both saw it
	n, o := outages(t, c)
	is.True(n > 0)
	is.Equal(o.From, events.At(last))
	is.True(o.To.Sub(o.From.Time) >= 2*after)
	is.True(o.To.Sub(o.From.Time) < time.Minute)

	l := NewLeases(c, LeaseOptions{Group: "a", Partitions: 1, Holder: "h", Name: "n"})
	is.NoErr(l.sign(t.Context()))
	is.NoErr(c.tellOutage(t.Context(), after))
	again, _ := outages(t, c)
	is.Equal(again, n) // it was told once, and since then somebody is there
}

// The end of a lease that the server notes by itself is no sign of life.
func TestTellOutage_AfterTheEndOfLeases(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	c, err := New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(c.Setup(t.Context(), StreamOptions{}))
	push(t, c)
	m := &nats.Msg{Subject: "$KV.LEASES.a.1", Header: nats.Header{markerReason: {"MaxAge"}}}
	time.Sleep(300 * time.Millisecond) // the outage itself
	_, err = c.js.PublishMsg(t.Context(), m)
	is.NoErr(err)
	is.NoErr(c.tellOutage(t.Context(), 200*time.Millisecond))
	n, _ := outages(t, c)
	is.True(n > 0)
}

// Whoever takes leases tells the outage first: his own writes would hide it.
func TestLeasesTellAnOutageFirst(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	c, err := New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(c.Setup(t.Context(), StreamOptions{}))
	last := push(t, c)
	time.Sleep(600 * time.Millisecond) // the outage itself
	l := NewLeases(c, LeaseOptions{Group: "a", Partitions: 1, Holder: "h", Name: "n"})
	l.outageAfter = 500 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	told := false
	is.NoErr(l.Run(ctx, func(context.Context, Lease) {
		n, o := outages(t, c)
		told = n > 0 && o.From.Equal(events.At(last).Time)
		cancel()
	}))
	is.True(told) // before the first lease
}
