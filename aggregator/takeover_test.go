package aggregator

import (
	"context"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"
)

// forgets has RESULTS forget everything up to a position, as it does with age.
func (f *field) forgets(position uint64) {
	f.tb.Helper()
	s, err := f.conn.JetStream().Stream(f.tb.Context(), bus.StreamResults)
	if err != nil {
		f.tb.Fatal(err)
	}
	if err := s.Purge(f.tb.Context(), jetstream.WithPurgeSequence(position+1)); err != nil {
		f.tb.Fatal(err)
	}
}

// A count of rise or fall that has begun goes on under the next owner, whenever the
// former one died.
func TestPartition_CountsOutliveTheirOwner(t *testing.T) {
	forgotten := func(f *field, first *partition) error {
		f.forgets(first.results)
		return nil
	}
	for name, tt := range map[string]struct {
		told   bool // the transition before it is in STATE too, else in CHANGES alone
		before func(f *field, first *partition) error
	}{
		"after its next checkpoint":                                            {true, func(f *field, first *partition) error { return first.checkpoint(f.tb.Context()) }},
		"before it, so long ago that RESULTS forgot what was counted":          {true, forgotten},
		"before it, and CHANGES tells how the check was before it was counted": {false, forgotten},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := newField(t)
			n := events.Partition("web01")
			f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Hour), Fall: 2})
			push := func(p *partition, s events.Status) {
				pushed := f.push("web01", "queue", s, 0)
				f.drain(p, func() bool { return p.results >= pushed })
			}
			first := f.partition("first", n)
			is.NoErr(first.takeOver(t.Context()))
			is.NoErr(first.checkpoint(t.Context()))
			push(first, events.OK)
			if tt.told {
				is.NoErr(first.checkpoint(t.Context()))
			}
			push(first, events.Critical) // the first of two
			is.NoErr(tt.before(f, first))
			first.close()

			second := f.partition("second", n)
			is.NoErr(second.takeOver(t.Context()))
			defer second.close()
			push(second, events.Critical)
			is.Equal(second.hosts["web01"].check("queue").state.Status, events.Critical)
		})
	}
}

// What RESULTS forgot before anybody consumed it may have been the sign of life of a
// service: silence within that time proves nothing.
func TestPartition_ResultsForgotWhatWasNotConsumed(t *testing.T) {
	const ttl = 20 * time.Second
	for name, forgotten := range map[string]bool{"it is all there": false, "it is forgotten": true} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := newField(t)
			n := events.Partition("web01")
			f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(ttl)})
			first := f.partition("first", n)
			is.NoErr(first.takeOver(t.Context()))
			pushed := f.push("web01", "queue", events.OK, 0)
			f.drain(first, func() bool { return first.results >= pushed })
			is.NoErr(first.checkpoint(t.Context()))
			first.close()
			missed := f.push("web01", "queue", events.OK, 0) // to nobody
			if forgotten {
				f.forgets(missed)
			}

			second := f.partition("second", n)
			is.NoErr(second.takeOver(t.Context()))
			defer second.close()
			c := second.hosts["web01"].check("queue")
			is.Equal(NextDeadline(c.state, c.with).Sub(c.state.Seen) > ttl, forgotten)
		})
	}
}

// What an owner before asked the time for was its own to tell: whoever reads its ticks
// again does not know all results from before the checkpoint yet, because a later one
// of the same check hides them, and would tell a silence that was none.
func TestPartition_TicksOfTheOwnerBefore(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Hour)})
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	pushed := f.push("web01", "queue", events.OK, 0)
	f.drain(first, func() bool { return first.results >= pushed })
	is.NoErr(first.checkpoint(t.Context()))
	s := f.stored("web01", "queue") // as it were if that push had been one of many: they are not stored
	s.Applied, s.Seen, s.Started = pushed-1, s.Seen.Add(-2*time.Hour), s.Started.Add(-3*time.Hour)
	f.put(events.StateSubject("web01", "queue"), s)
	is.NoErr(first.publishTick(t.Context()))
	first.close()
	pushed = f.push("web01", "queue", events.OK, 0)

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	is.True(!second.hosts["web01"].check("queue").next().After(second.now)) // by what it knows now
	f.drain(second, func() bool { return second.results >= pushed })
	is.Equal(second.hosts["web01"].check("queue").state.Number, uint64(1))
}

// An owner whose copy of the registrations is behind judges nothing by it: neither a
// poll of a newer registration, nor at a takeover what is registered at all.
func TestPartition_WaitsForRegistrations(t *testing.T) {
	n := events.Partition("web01")
	behind := func(f *field, name string) (p *partition, read func()) {
		other := *f
		other.reg = bus.NewRegistry(f.conn, bus.RegistryOptions{Logger: logger()})
		return other.partition(name, n), func() {
			background(f.tb, other.reg.Run)
			<-other.reg.Ready()
		}
	}
	soon := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("a poll", func(t *testing.T) {
		is := is.New(t)
		f := newField(t)
		p, read := behind(f, "p")
		is.NoErr(p.takeOver(t.Context())) // nothing is registered yet
		defer p.close()
		reg := f.register(web("db"))
		f.poll("web01", "db", reg, events.OK)
		m := <-p.reader.out
		is.True(p.consume(soon(t), m) != nil) // it is not dropped
		read()
		is.NoErr(p.consume(t.Context(), m)) // nobody told the partition of the registration
		is.Equal(p.hosts["web01"].check("db").state.Status, events.OK)
	})
	t.Run("a takeover", func(t *testing.T) {
		is := is.New(t)
		f := newField(t)
		reg := f.register(web("db"))
		first := f.partition("first", n)
		is.NoErr(first.takeOver(t.Context()))
		f.poll("web01", "db", reg, events.OK)
		is.NoErr(first.consume(t.Context(), <-first.reader.out))
		first.close()

		second, _ := behind(f, "second")
		is.True(second.takeOver(soon(t)) != nil) // it does not deregister what it does not know
		third := f.partition("third", n)
		is.NoErr(third.takeOver(t.Context()))
		defer third.close()
		s := third.hosts["web01"].check("db").state
		is.Equal(s.Phase, events.Live)
		is.Equal(s.Number, uint64(1))
	})
}
