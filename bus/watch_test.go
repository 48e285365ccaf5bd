package bus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

// commit stores the n-th transition of a check, or with an empty check of a
// host, as an aggregator does.
func commit(t *testing.T, c *bus.Conn, host, check string, n uint64) uint64 {
	t.Helper()
	created, err := c.Created(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kind := events.TypeCheckChanged
	if check == "" {
		kind = events.TypeHostChanged
	}
	status := events.Statuses()[n%4]
	tr := events.Transition{
		Host: host, Check: check, Number: n, Previous: events.Moment{Phase: events.Pending},
		Current: events.Moment{Status: &status, Phase: events.Live, Since: events.At(time.Now())}, Cause: events.CauseResult,
	}
	b, err := events.Encode(events.Header{
		Type: kind, Source: events.TransitionSource(created, host, check), ID: tr.ID(), Host: host, Check: check,
		Time: time.Now(), Sequence: events.Sequence(n),
	}, tr)
	if err != nil {
		t.Fatal(err)
	}
	m := bus.Message(events.CommitSubject(host, check), b)
	m.Header.Set(events.StateHeader, `{"v":1}`)
	pos, err := c.Store(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

// take reads n changes or gaps as "host.check#number", and the last position.
func take(t *testing.T, c *bus.Conn, o bus.WatchOptions, n int) (got []string, last uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ch, err := range c.Watch(ctx, o) {
		var gap *bus.GapError
		switch {
		case errors.As(err, &gap):
			got = append(got, fmt.Sprintf("gap %d-%d", gap.From, gap.Until))
		case err != nil:
			t.Fatal(err)
		default:
			got, last = append(got, ch.Event.ID()), ch.Position
		}
		if len(got) == n {
			return got, last
		}
	}
	t.Fatalf("the watch ended after %v", got)
	return nil, 0
}

func TestWatch(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	role, err := bus.New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
	c, err := bus.Connect(t.Context(), s.URL()) // a program without credentials
	is.NoErr(err)
	defer c.Close()

	commit(t, role, "web01", "db", 1)
	first := commit(t, role, "web01", "", 1)
	commit(t, role, "web02", "db", 1)
	commit(t, role, "web02", "", 1)
	commit(t, role, "web01", "db", 2)

	got, _ := take(t, c, bus.WatchOptions{FromStart: true}, 5)
	is.Equal(got, []string{"web01.db#1", "web01#1", "web02.db#1", "web02#1", "web01.db#2"})
	got, _ = take(t, c, bus.WatchOptions{Filter: events.Filter{Hosts: true}, FromStart: true}, 2)
	is.Equal(got, []string{"web01#1", "web02#1"})
	got, _ = take(t, c, bus.WatchOptions{Filter: events.Filter{Host: "web01"}, FromStart: true}, 3)
	is.Equal(got, []string{"web01.db#1", "web01#1", "web01.db#2"})
	got, _ = take(t, c, bus.WatchOptions{Filter: events.Filter{Host: "web02", Check: "db"}, FromStart: true}, 1)
	is.Equal(got, []string{"web02.db#1"})
	got, last := take(t, c, bus.WatchOptions{After: first}, 3) // resumes after where it stopped
	is.Equal(got, []string{"web02.db#1", "web02#1", "web01.db#2"})

	done := make(chan []string)
	go func() { got, _ := take(t, c, bus.WatchOptions{After: last}, 1); done <- got }()
	commit(t, role, "web01", "db", 3)
	is.Equal(<-done, []string{"web01.db#3"}) // live
}

func TestWatchTellsGaps(t *testing.T) {
	is := is.New(t)
	c := open(t)
	first := commit(t, c, "web01", "db", 1)
	second := commit(t, c, "web01", "db", 2)
	commit(t, c, "web01", "db", 4) // never written by an aggregator: what a lost message looks like
	got, _ := take(t, c, bus.WatchOptions{FromStart: true}, 4)
	is.Equal(got, []string{"web01.db#1", "web01.db#2", "gap 3-3", "web01.db#4"})

	s, err := c.JetStream().Stream(t.Context(), bus.StreamChanges)
	is.NoErr(err)
	is.NoErr(s.Purge(t.Context()))
	commit(t, c, "web01", "db", 5)
	got, _ = take(t, c, bus.WatchOptions{After: first}, 2) // older than the oldest kept
	is.Equal(got, []string{fmt.Sprintf("gap %d-%d", first+1, second+1), "web01.db#5"})
}

// The bus goes away and comes back on the same store: nothing is missed.
func TestWatchSurvivesTheServer(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	role, err := bus.New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
	c, err := bus.Connect(t.Context(), s.URL(), bus.WithNATS(nats.ReconnectWait(20*time.Millisecond)))
	is.NoErr(err)
	defer c.Close()

	numbers := make(chan uint64)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	go func() {
		defer close(numbers)
		for ch, err := range c.Watch(ctx, bus.WatchOptions{FromStart: true}) {
			if err != nil {
				return
			}
			numbers <- ch.Transition.Number
			if ch.Transition.Number == 4 {
				return
			}
		}
	}()
	commit(t, role, "web01", "db", 1)
	is.Equal(<-numbers, uint64(1))
	addr := s.URL()[len("nats://"):]
	role.Close()
	s.Close()
	s = bustest.StartIn(t, dir, addr)
	role, err = bus.New(bustest.Connect(t, s))
	is.NoErr(err)
	for n := range uint64(3) {
		commit(t, role, "web01", "db", n+2)
	}
	for want := uint64(2); want <= 4; want++ {
		is.Equal(<-numbers, want)
	}
}

// The bus lost all its data while a subscriber lives: it is told so, and then hears
// the transitions of the new streams, whose numbers begin again.
func TestWatchSurvivesTheLossOfEverything(t *testing.T) {
	is := is.New(t)
	first, second := bustest.Start(t), bustest.Start(t)
	var at atomic.Pointer[server.Server]
	role := func(s *server.Server) *bus.Conn {
		role, err := bus.New(bustest.Connect(t, s))
		is.NoErr(err)
		is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
		return role
	}
	at.Store(first)
	old, missing := role(first), make(logged, 100)
	c, err := bus.Connect(t.Context(), first.URL(), bus.WithLogger(slog.New(slog.NewTextHandler(missing, nil))),
		bus.WithNATS(nats.ReconnectWait(20*time.Millisecond), nats.SetCustomDialer(dialer(func() (net.Conn, error) {
			return net.Dial("tcp", strings.TrimPrefix(at.Load().URL(), "nats://"))
		}))))
	is.NoErr(err)
	defer c.Close()
	got := make(chan string, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	go func() {
		defer close(got)
		for ch, err := range c.Watch(ctx, bus.WatchOptions{FromStart: true}) {
			var gap *bus.GapError
			switch {
			case errors.As(err, &gap):
				got <- "gap"
			case err != nil:
				got <- err.Error()
			default:
				got <- ch.Event.ID()
			}
		}
	}()
	commit(t, old, "web01", "db", 1)
	commit(t, old, "web01", "db", 2)
	is.Equal(<-got, "web01.db#1")
	is.Equal(<-got, "web01.db#2")
	at.Store(second)
	first.Close()
	for known := false; !known; { // until the watch has found no streams there
		select {
		case line := <-missing:
			known = strings.Contains(line, "stream not found")
		case end := <-got:
			t.Fatal(end)
		}
	}
	anew := role(second)
	commit(t, anew, "web01", "db", 1)
	is.Equal(<-got, "gap")
	is.Equal(<-got, "web01.db#1")
	commit(t, anew, "web01", "db", 2)
	is.Equal(<-got, "web01.db#2")
}

// A watch whose stream is gone says so, ends when it is told to, and goes on where
// the stream comes back.
func TestWatchWithoutItsStream(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	role, err := bus.New(bustest.ConnectRole(t, s))
	is.NoErr(err)
	is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
	for _, again := range []bool{false, true} {
		missing := make(logged, 100)
		c, err := bus.Connect(t.Context(), s.URL(), bus.WithLogger(slog.New(slog.NewTextHandler(missing, nil))))
		is.NoErr(err)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got := make(chan string, 10)
		go func() {
			defer close(got)
			for ch, err := range c.Watch(ctx, bus.WatchOptions{FromStart: true}) {
				if err != nil {
					got <- "gap"
					continue
				}
				got <- ch.Event.ID()
			}
		}()
		commit(t, role, "web01", "db", 1)
		is.Equal(<-got, "web01.db#1")
		is.NoErr(role.JetStream().DeleteStream(t.Context(), bus.StreamChanges))
		for line := range missing {
			if strings.Contains(line, "stream not found") {
				break
			}
		}
		if again {
			is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
			commit(t, role, "web01", "db", 1)
			is.Equal(<-got, "gap")
			is.Equal(<-got, "web01.db#1")
		}
		cancel()
		_, more := <-got
		is.True(!more)
		is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
	}
}

// logged takes the lines of a log, as far as there is room.
type logged chan string

func (l logged) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

// dialer makes connections as a function says.
type dialer func() (net.Conn, error)

func (d dialer) Dial(string, string) (net.Conn, error) { return d() }
