package pollers_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// found makes a kind of check that finds the status that is set; OK at first.
func found() (status *atomic.Int32, kinds pollers.Kinds) {
	status = new(atomic.Int32)
	status.Store(int32(events.OK))
	return status, pollers.Kinds{"found": func(context.Context, events.Target) pollers.Finding {
		s := events.Status(status.Load())
		return pollers.Finding{Reading: pollers.Reading{Status: s, Message: s.String()}}
	}}
}

// together are the results that came in reports.
func (f *field) together(all []bus.Incoming) (out []bus.Incoming) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range all {
		if f.reports[r.Position] {
			out = append(out, r)
		}
	}
	return out
}

// last is the position of the last result stored.
func (f *field) last() uint64 {
	s, err := f.conn.JetStream().Stream(f.tb.Context(), bus.StreamResults)
	must(f.tb, err)
	return s.CachedInfo().State.LastSeq
}

// What is as it was travels with others; the first result of a check, and every
// change, travels alone.
func TestWorkerReports(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	status, kinds := found()
	f.worker(pollers.Config{Kinds: kinds})
	const checks, each = 20, 5
	for i := range checks {
		f.register(events.Registration{ID: fmt.Sprint(i), URL: quoted("found://web01/"), Interval: events.Duration(time.Second)})
	}
	enough := func(all []bus.Incoming) bool {
		for i := range checks {
			if len(of(all, fmt.Sprint(i))) < each {
				return false
			}
		}
		return true
	}
	all := f.wait(3*soon, enough)
	positions := map[uint64]bool{}
	for i := range checks {
		own := of(all, fmt.Sprint(i))
		is.Equal(len(f.together(own[:1])), 0)          // the first one is news
		is.Equal(len(f.together(own[1:])), len(own)-1) // the others are not
		for _, r := range own[1:] {
			positions[r.Position] = true
			is.Equal(r.Result.Worker, "w1")
			is.Equal(r.Result.Message, "OK")
			is.True(time.Since(r.Observed) < time.Minute && r.Result.Lease > 0 && r.Result.Reg > 0)
		}
	}
	is.True(len(positions) < len(all)/2) // they are together, indeed
	f.growing()

	status.Store(int32(events.Critical))
	all = f.wait(soon, func(all []bus.Incoming) bool { return len(bad(all)) >= 2*checks })
	for i := range checks {
		is.Equal(len(f.together(of(bad(all), fmt.Sprint(i))[:1])), 0) // told at once
	}
	f.growing()
}

// bad are the results that are Critical.
func bad(all []bus.Incoming) (out []bus.Incoming) {
	for _, r := range all {
		if r.Result.Status == events.Critical {
			out = append(out, r)
		}
	}
	return out
}

// While a change is still being counted, nothing of it waits.
func TestWorkerReportsNothingThatCounts(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	status, kinds := found()
	f.worker(pollers.Config{Kinds: kinds})
	f.register(events.Registration{ID: "a", URL: quoted("found://web01/"), Interval: events.Duration(time.Second), Fall: 3})
	f.wait(soon, func(all []bus.Incoming) bool { return len(all) >= 4 })
	status.Store(int32(events.Critical))
	all := bad(f.wait(2*soon, func(all []bus.Incoming) bool { return len(bad(all)) >= 4 }))
	is.Equal(len(f.together(all[:3])), 0)
	is.Equal(len(f.together(all[3:])), len(all)-3)
}

// What has to be known as soon as possible, is large or rare travels alone.
func TestWorkerReportsOthersAlone(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	large := func(context.Context, events.Target) pollers.Finding {
		return pollers.Finding{Reading: pollers.Reading{Status: events.OK, Document: quoted(strings.Repeat("x", 40<<10))}}
	}
	f.worker(pollers.Config{Kinds: pollers.Kinds{"large": large}})
	f.register(events.Registration{ID: "large", URL: quoted("large://web01/"), Interval: events.Duration(500 * time.Millisecond)})
	all := f.wait(soon, func(all []bus.Incoming) bool { return len(all) >= 4 })
	is.Equal(len(f.together(all)), 0)
}

// A worker that stops has told everything that it found out: the next one polls
// nothing again.
func TestWorkerReportsBeforeItLeaves(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	var looked sync.Map // check: when it was looked at last
	var looks atomic.Int64
	look := func(_ context.Context, target events.Target) pollers.Finding {
		looked.Store(strings.TrimPrefix(target.Addr, "look://web01/"), time.Now().Truncate(time.Millisecond))
		looks.Add(1)
		return pollers.Finding{Reading: pollers.Reading{Status: events.OK}}
	}
	w, stop := f.worker(pollers.Config{Kinds: pollers.Kinds{"look": look}})
	for i := range 50 {
		f.register(events.Registration{ID: fmt.Sprint(i), URL: quoted(fmt.Sprintf("look://web01/%d", i)), Interval: events.Duration(time.Second)})
	}
	f.wait(soon, func(all []bus.Incoming) bool { return len(all) > 200 })
	n := looks.Load() // a report has just been sent; something is to wait for the next one
	until(t, "more is looked at", func() bool { return looks.Load() >= n+3 })
	stop()
	end := f.last() // what is stored now is all there will be
	all := f.wait(soon, func(all []bus.Incoming) bool { return len(all) > 0 && all[len(all)-1].Position >= end })
	looked.Range(func(check, at any) bool {
		own := of(all, check.(string))
		is.True(!own[len(own)-1].Observed.Before(at.(time.Time)))
		return true
	})
	is.Equal(w.Stats().Lost+w.Stats().Discarded, uint64(0))
}

// Somebody who asks for a poll gets what it found, also where that is no news.
func TestWorkerReportsToWhoAsks(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	_, kinds := found()
	f.worker(pollers.Config{Kinds: kinds})
	f.register(events.Registration{ID: "a", URL: quoted("found://web01/"), Interval: events.Duration(10 * time.Second)})
	f.wait(soon, func(all []bus.Incoming) bool { return len(all) > 0 })
	conn, _ := f.connect(f.server.URL())
	r, err := conn.PollNow(t.Context(), events.DefaultPool, events.PollOrder{Host: "web01", Check: "a"})
	is.NoErr(err)
	is.True(r.Position > 0)
	all := f.wait(soon, func(all []bus.Incoming) bool { return all[len(all)-1].Position >= r.Position })
	is.Equal(all[len(all)-1].Position, r.Position)
	is.Equal(len(f.together(all)), 0)
}
