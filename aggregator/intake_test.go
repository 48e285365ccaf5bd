package aggregator

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// step lets a partition have what comes next, from wherever it comes.
func (f *field) step(p *partition) error {
	f.tb.Helper()
	own, failed, given := p.sources()
	select {
	case m := <-own:
		return p.settle(f.tb.Context(), m)
	case err := <-failed:
		return err
	case m, ok := <-given:
		return p.take(f.tb.Context(), m, ok)
	case <-time.After(20 * time.Second):
		f.tb.Fatal("the results do not come")
		return nil
	}
}

func TestIntake(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	reg := f.register(web("db"))
	p := f.partition("p", n)
	p.a.intake = newIntake(f.conn, p.a.log, func() int { return events.Partitions })
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.a.intake.run(ctx) }()
	defer func() { cancel(); <-done }()

	polls := uint64(0)
	poll := func(times int) {
		for range times {
			f.poll("web01", "db", reg, events.Warning)
			polls++
		}
	}
	// It comes once the partition has read up to where the intake began.
	seated := func() {
		for p.reader != nil {
			poll(1)
			is.NoErr(f.step(p))
		}
	}
	seated()
	before := p.a.stats.results.Load()
	f.push("elsewhere", "x", events.OK, 0) // of another partition
	poll(seatRoom / 2)
	for p.a.stats.results.Load() < polls {
		is.NoErr(f.step(p))
	}
	is.Equal(p.reader, nil)
	is.True(p.a.stats.results.Load() > before) // given by the intake

	// A partition that is too slow misses nothing.
	poll(seatRoom + 50)
	end := f.last(bus.StreamResults)
	eventually(t, "the intake has given everything", func() bool {
		p.a.intake.mu.Lock()
		defer p.a.intake.mu.Unlock()
		return p.a.intake.position >= end
	})
	slow := false
	for p.a.stats.results.Load() < polls {
		is.NoErr(f.step(p))
		slow = slow || p.reader != nil
	}
	is.True(slow)                                 // it read by itself
	is.Equal(p.a.stats.results.Load(), polls)     // each once
	is.Equal(p.a.stats.dropped.Load(), uint64(0)) // in order
	seated()

	// A fault of the intake is one of its partitions.
	for p.a.stats.results.Load() < polls {
		is.NoErr(f.step(p))
	}
	p.a.intake.end(errGap)
	is.True(errors.Is(f.step(p), errGap))
}

// Where few partitions are held each reads by itself.
func TestIntake_EndsWithTheWork(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	p.a.intake.running = true
	p.seat = p.a.intake.join(p.n)
	p.reader.close()
	p.reader = nil
	p.a.intake.end(errFew)
	is.NoErr(f.step(p))
	is.True(p.reader != nil)
	is.Equal(p.a.intake.join(p.n), nil) // it does not run
}

func TestPartitionOf(t *testing.T) {
	for _, p := range []int{0, 7, events.Partitions - 1} {
		for _, subject := range []string{
			events.TickSubject(p), "megaphone.polled." + strconv.Itoa(p) + ".web01.db", "megaphone.result." + strconv.Itoa(p) + ".web01.db",
		} {
			t.Run(subject, func(t *testing.T) {
				is := is.New(t)
				got, ok := partitionOf(subject)
				is.True(ok)
				is.Equal(got, p)
			})
		}
	}
	is := is.New(t)
	_, ok := partitionOf(events.TickAll)
	is.True(!ok)
}
