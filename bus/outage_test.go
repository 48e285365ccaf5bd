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

// An outage is found in what is remembered, although somebody wrote since, and
// whatever the clock did.
func TestGap(t *testing.T) {
	now := time.Now()
	ago := func(seconds ...int) (out []time.Time) {
		for _, s := range seconds {
			out = append(out, now.Add(-time.Duration(s)*time.Second))
		}
		return out
	}
	for name, tt := range map[string]struct {
		signs    []time.Time
		from, to time.Time
	}{
		"nothing is known":                 {nil, time.Time{}, now},
		"all is well":                      {ago(3, 1, 2), now, now},
		"nobody is there":                  {ago(63, 62, 61), ago(61)[0], now},
		"what was under way came since":    {ago(63, 62, 0, 1), ago(62)[0], ago(1)[0]},
		"the last of two":                  {ago(90, 60, 59, 20, 19, 10), ago(59)[0], ago(20)[0]},
		"ten seconds are none":             {ago(10), now, now},
		"the clock was set back meanwhile": {ago(-3600, -3599, 1), now, now},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			from, to := gap(tt.signs, now, OutageAfter)
			is.Equal(from, tt.from)
			is.Equal(to, tt.to)
		})
	}
}

// A process that stood still, or whose clock was set, has no pulse: it looks for
// an outage before it holds anything again.
func TestPulse(t *testing.T) {
	is := is.New(t)
	var p pulse
	now := time.Now()
	is.True(p.missed(now, OutageAfter)) // at the start
	p.beat(now)
	is.True(!p.missed(now.Add(10*time.Second), OutageAfter))
	is.True(p.missed(now.Add(11*time.Second), OutageAfter))      // both clocks
	is.True(p.missed(now.Round(0).Add(time.Hour), OutageAfter))  // the wall clock alone
	is.True(p.missed(now.Round(0).Add(-time.Hour), OutageAfter)) // or set back
}

// Whoever holds leases gives a sign of life each second, each under a key of its own.
// One that missed its own for too long gives none, which would hide an outage, and
// neither takes nor renews a lease until it has looked for one.
func TestSignsOfLife(t *testing.T) {
	is := is.New(t)
	c, err := New(bustest.Connect(t, bustest.Start(t)))
	is.NoErr(err)
	is.NoErr(c.Setup(t.Context(), StreamOptions{}))
	l := NewLeases(c, LeaseOptions{Group: "a", Partitions: 1, Holder: "h", Name: "n"})
	lease := &tenure{l: l}
	count := func() int {
		signs, err := c.lifeSigns(t.Context())
		is.NoErr(err)
		return len(signs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	is.Equal(l.signs(ctx), errNoPulse)
	is.Equal(lease.put(ctx, &validity{}, 0), errNoPulse)
	is.Equal(count(), 0)

	l.pulse.beat(time.Now())
	for range 2 {
		is.NoErr(l.sign(ctx))
	}
	is.Equal(count(), 2)
	sctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- l.signs(sctx) }()
	for count() < 3 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	is.NoErr(<-done)
	is.True(count() >= 3)
	is.NoErr(lease.put(ctx, &validity{}, 0))
}

// A hold that returns at once again and again rests for longer and longer; one
// that lasted begins anew.
func TestLeaseRests(t *testing.T) {
	is := is.New(t)
	m := &leaseManager{rests: map[int]time.Duration{}}
	now := time.Now()
	for _, want := range []time.Duration{time.Second, 8 * time.Second, 64 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		is.Equal(m.rest(&tenure{partition: 7, returned: true, began: now}, now), now.Add(want))
	}
	is.Equal(m.rest(&tenure{partition: 8, returned: true, began: now}, now), now.Add(time.Second))
	is.Equal(m.rest(&tenure{partition: 7, returned: true, began: now.Add(-time.Minute)}, now), now.Add(time.Second))
	is.Equal(m.rest(&tenure{partition: 7, again: now}, now), now) // released
	is.Equal(m.rest(&tenure{partition: 7, returned: true, began: now}, now), now.Add(time.Second))
}
