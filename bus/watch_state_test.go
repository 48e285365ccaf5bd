package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// push sets the status of a push check and returns once it is stored.
func push(t *testing.T, c *bus.Conn, host, check string, s events.Status) {
	t.Helper()
	if _, err := c.Push(t.Context(), host, check, events.Result{Status: s}); err != nil {
		t.Fatal(err)
	}
}

// until reads changes until f is content.
func until(t *testing.T, c *bus.Conn, o bus.WatchOptions, f func(bus.Change) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for ch, err := range c.Watch(ctx, o) {
		if err != nil {
			t.Fatal(err)
		}
		if f(ch) {
			return
		}
	}
	t.Fatal("the watch ended")
}

// shows waits until the gateway shows the n-th transition of a host.
func shows(t *testing.T, c *bus.Conn, host string, n uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for {
		a, err := c.Status(ctx, events.StatusQuery{Host: host})
		if err == nil && a.Hosts[0].Number == n {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not show %d: %v %v", host, n, a, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestWatchState(t *testing.T) {
	is := is.New(t)
	url, stop := megaphone()
	defer stop()
	c, err := bus.Connect(t.Context(), url)
	is.NoErr(err)
	defer c.Close()
	_, err = c.Register(t.Context(), events.Registration{Host: "web02", ID: "waits", TTL: events.Duration(time.Hour), Labels: map[string]string{"env": "prod"}})
	is.NoErr(err)
	for i, check := range []string{"db", "queue/depth"} {
		push(t, c, "web01", check, []events.Status{events.OK, events.Critical}[i])
		shows(t, c, "web01", uint64(i+1))
	}

	// What is, by name, and then where that ends.
	state := func(o bus.WatchOptions, then func()) (got []string, position uint64) {
		t.Helper()
		o.State = true
		until(t, c, o, func(ch bus.Change) bool {
			tr := ch.Transition
			switch {
			case ch.Complete:
				position = ch.Position
				if then == nil {
					return true
				}
				then()
				return false
			case !ch.Present:
				got = append(got, "then "+ch.Event.ID())
				return true
			}
			is.Equal(tr.Cause, events.CausePresent)
			is.Equal(tr.Previous, tr.Current)
			is.Equal(ch.Event.ID(), tr.ID()+".present")
			status := "-"
			if tr.Current.Status != nil {
				status = tr.Current.Status.String()
			}
			got = append(got, fmt.Sprintf("%s %s %s", tr.ID(), status, tr.Current.Phase))
			return false
		})
		return got, position
	}
	got, position := state(bus.WatchOptions{}, nil)
	is.Equal(got, []string{"web01#2 Critical live", "web01.db#1 OK live", "web01.queue%2Fdepth#1 Critical live", "web02#0 - pending", "web02.waits#0 - pending"})

	for name, tt := range map[string]struct {
		filter events.Filter
		want   []string
	}{
		"a host and its checks": {events.Filter{Host: "WEB01"}, got[:3]},
		"hosts":                 {events.Filter{Hosts: true}, []string{got[0], got[3]}},
		"checks by pattern":     {events.Filter{Check: "*/*"}, got[2:3]},
		"what is Critical":      {events.Filter{Least: new(events.Critical)}, []string{got[0], got[2]}},
		"by label":              {events.Filter{Labels: []string{"env=prod"}}, got[4:]},
		"nothing":               {events.Filter{Host: "web03"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			some, _ := state(bus.WatchOptions{Filter: tt.filter}, nil)
			is.Equal(some, tt.want)
		})
	}

	// Then what changes; and who resumes gets no state where nothing is missing.
	some, _ := state(bus.WatchOptions{Filter: events.Filter{Check: "db"}}, func() { push(t, c, "web01", "db", events.Warning) })
	is.Equal(some, []string{got[1], "then web01.db#2"})
	resumed, _ := state(bus.WatchOptions{Filter: events.Filter{Check: "db"}, After: position}, nil)
	is.Equal(resumed, []string{"then web01.db#2"})

	// A position that is no longer kept: the gap, then the present state.
	var all []string
	for ch, err := range c.Watch(t.Context(), bus.WatchOptions{State: true, After: 7, Filter: events.Filter{Host: "web01", Hosts: true}}) {
		var gap *bus.GapError
		switch {
		case errors.As(err, &gap):
			all = append(all, fmt.Sprint("gap from ", gap.From))
			continue
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, ch.Event.ID())
		if ch.Complete {
			break
		}
	}
	is.Equal(all, []string{"gap from 8", "web01#2.present", ""})
}

// Watches that begin with the present state while everything flips: of each name
// the numbers go on where the state was, without gap or repeat.
func TestWatchStateJoinsWithoutGap(t *testing.T) {
	is := is.New(t)
	url, stop := megaphone()
	defer stop()
	c, err := bus.Connect(t.Context(), url)
	is.NoErr(err)
	defer c.Close()
	const checks, flips, watches = 20, 30, 6
	name := func(i int) string { return fmt.Sprintf("c%02d", i) }
	for i := range checks {
		push(t, c, "web01", name(i), events.OK)
	}

	flipped := make(chan error, 1)
	go func() {
		for n := range flips {
			for i := range checks {
				if _, err := c.Push(t.Context(), "web01", name(i), events.Result{Status: events.Statuses()[(n+1)%2*3]}); err != nil {
					flipped <- err
					return
				}
			}
		}
		flipped <- nil
	}()
	results := make(chan error, watches)
	for range watches {
		go func() { results <- joins(t.Context(), c, checks, flips+1) }()
		until(t, c, bus.WatchOptions{}, func(bus.Change) bool { return true }) // the next one begins a little later
	}
	for range watches {
		is.NoErr(<-results)
	}
	is.NoErr(<-flipped)
}

// joins watches from the present state on until every check has had its last
// transition.
func joins(ctx context.Context, c *bus.Conn, checks int, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	number, done, complete := map[string]uint64{}, 0, false
	for ch, err := range c.Watch(ctx, bus.WatchOptions{State: true}) {
		t := ch.Transition
		switch had, ok := number[t.Check]; {
		case err != nil:
			return err
		case ch.Complete:
			complete = true
			continue
		case ch.Present == complete:
			return fmt.Errorf("%s: state and changes are mixed", t.ID())
		case !ch.Present && ok && t.Number != had+1:
			return fmt.Errorf("%s follows number %d", t.ID(), had)
		case !ch.Present && !ok && t.Number != 1:
			return fmt.Errorf("%s comes first, and was not in the state", t.ID())
		}
		number[t.Check] = t.Number
		if t.Check != "" && t.Number == last {
			done++
		}
		if done == checks {
			return nil
		}
	}
	return fmt.Errorf("the watch ended; %v", number)
}

// A filter by status or label hides transitions; that is no gap.
func TestWatchFilterTellsNoGaps(t *testing.T) {
	is := is.New(t)
	c := open(t)
	for n := range uint64(12) { // OK, Unknown, Warning, Critical, OK ...
		commit(t, c, "web01", "db", n+4)
	}
	got, _ := take(t, c, bus.WatchOptions{FromStart: true, Filter: events.Filter{Host: "web*", Least: new(events.Critical)}}, 3)
	is.Equal(got, []string{"web01.db#7", "web01.db#11", "web01.db#15"}) // commit has no previous status
	commit(t, c, "web01", "db", 19)                                     // 16 to 18 were never written
	got, _ = take(t, c, bus.WatchOptions{FromStart: true, Filter: events.Filter{Least: new(events.Critical)}}, 5)
	is.Equal(got[2:], []string{"web01.db#15", "gap 16-18", "web01.db#19"})
}

// Mark tells where what was stored ends, also where the filter chooses nothing of it.
func TestWatchMark(t *testing.T) {
	is := is.New(t)
	c := open(t)
	commit(t, c, "web01", "db", 1)
	last := commit(t, c, "web02", "db", 1)
	for host, want := range map[string][]string{"web01": {"web01.db#1", ""}, "web02": {"web02.db#1", ""}, "web03": {""}} {
		var got []string
		until(t, c, bus.WatchOptions{FromStart: true, Mark: true, Filter: events.Filter{Host: host}}, func(ch bus.Change) bool {
			got = append(got, ch.Event.ID())
			if ch.Complete {
				is.Equal(ch.Position, last) // nothing up to there concerns it any more
			}
			return ch.Complete
		})
		is.Equal(got, want)
	}
}

// The bus lost what was stored last, as by a power cut: a subscriber that has
// read it is told, and misses nothing of what comes in its place.
func TestWatchTellsLostTail(t *testing.T) {
	is := is.New(t)
	c := open(t)
	last := commit(t, c, "web01", "db", 1)
	got := make(chan string, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	go func() {
		defer close(got)
		for ch, err := range c.Watch(ctx, bus.WatchOptions{After: last + 5}) {
			var gap *bus.GapError
			switch {
			case errors.As(err, &gap):
				got <- fmt.Sprintf("%d-%d, on after %d", gap.From, gap.Until, gap.Resume)
				continue
			case err != nil:
				return
			}
			got <- ch.Event.ID()
			return
		}
	}()
	is.Equal(<-got, fmt.Sprintf("%d-%d, on after %d", last+1, last+5, last))
	commit(t, c, "web01", "db", 2)
	is.Equal(<-got, "web01.db#2")
}

// A caller that is slow for longer than the server keeps its consumer, here
// because it is deleted meanwhile, misses nothing and holds nobody up.
func TestWatchSlowCaller(t *testing.T) {
	is := is.New(t)
	c := open(t)
	const n = 3 * 256
	for i := range uint64(n) {
		commit(t, c, "web01", "db", i+1)
	}
	stream, err := c.JetStream().Stream(t.Context(), bus.StreamChanges)
	is.NoErr(err)
	var got []uint64
	until(t, c, bus.WatchOptions{FromStart: true}, func(ch bus.Change) bool {
		got = append(got, ch.Transition.Number)
		if len(got)%300 == 1 {
			for name := range stream.ConsumerNames(t.Context()).Name() {
				is.NoErr(stream.DeleteConsumer(t.Context(), name))
			}
			fast, _ := take(t, c, bus.WatchOptions{FromStart: true}, n) // another reader meanwhile
			is.Equal(len(fast), n)
		}
		return len(got) == n
	})
	is.True(slices.IsSorted(got))
	is.Equal(got[n-1], uint64(n))
}
