package aggregator

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

// put stores a record among the states, as an owner before would have.
func (f *field) put(subject string, v any) {
	f.tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		f.tb.Fatal(err)
	}
	if _, err := f.conn.Store(f.tb.Context(), &nats.Msg{Subject: subject, Data: b, Header: nats.Header{}}); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *field) last(stream string) uint64 {
	f.tb.Helper()
	s, err := f.conn.JetStream().Stream(f.tb.Context(), stream)
	if err != nil {
		f.tb.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// served has an owner count a push of queue on web01, leave a checkpoint, and go. It
// returns the push's position.
func (f *field) served(n int) (pushed uint64) {
	f.tb.Helper()
	is := is.New(f.tb)
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(20 * time.Second)})
	first := f.partition("first", n)
	is.NoErr(first.takeOver(f.tb.Context()))
	pushed = f.push("web01", "queue", events.OK, 0)
	f.drain(first, func() bool { return first.results >= pushed })
	is.NoErr(first.checkpoint(f.tb.Context()))
	first.close()
	return pushed
}

// A power cut took the end of CHANGES: the checkpoint knows positions that are
// still to come. The partition is taken over all the same, and what is committed
// at those positions is seen by the next owner.
func TestPartition_ChangesAreShorterThanTheCheckpoint(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	reg := f.register(web("db"))
	f.push("elsewhere", "x", events.OK, 0) // RESULTS has an end
	f.put(events.CheckpointSubject(n), events.Checkpoint{
		V: 1, Results: f.last(bus.StreamResults), Changes: f.last(bus.StreamChanges) + 100, Time: events.At(time.Now()),
	})
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	f.poll("web01", "db", reg, events.Critical)
	is.NoErr(first.consume(t.Context(), <-first.reader.out))
	first.close() // it dies before its first checkpoint

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	is.Equal(second.hosts["web01"].check("db").state.Number, uint64(1))
	w := f.watch()
	w.state("web01", "", events.Critical, events.Live)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 1, "hosts/web01/checks/db": 1})
}

// A power cut took the end of RESULTS: what is stored at its positions counts,
// and nobody is condemned for a push that is lost.
func TestPartition_ResultsAreShorterThanTheState(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	f.served(n)
	s := f.stored("web01", "queue") // with a position that the stream no longer has
	s.Applied += 1000
	f.put(events.StateSubject("web01", "queue"), s)

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	c := second.hosts["web01"].check("queue")
	is.True(NextDeadline(c.state, c.with).Sub(s.Seen) > 20*time.Second) // put off
	pushed := f.push("web01", "queue", events.Critical, 0)
	f.drain(second, func() bool { return second.results >= pushed })
	is.Equal(c.state.Status, events.Critical)
}

// A power cut took the end of RESULTS, and results were stored at its positions
// before the partition was taken over. They count all the same.
func TestPartition_ResultsLieAtPositionsThatWereLost(t *testing.T) {
	n := events.Partition("web01")
	inState := func(f *field, lost uint64, at time.Time) {
		s := f.stored("web01", "queue")
		s.Applied, s.Seen = lost, at
		f.put(events.StateSubject("web01", "queue"), s)
	}
	inCheckpoint := func(f *field, lost uint64, at time.Time) {
		f.put(events.CheckpointSubject(n), events.Checkpoint{
			V: 1, Results: lost, Stored: at, Changes: f.last(bus.StreamChanges), Time: events.At(at),
		})
	}
	for name, test := range map[string]struct {
		know func(f *field, lost uint64, at time.Time)
		lost uint64
	}{
		"a state knows them":                 {inState, 3},
		"a state knows them and more":        {inState, 30},
		"the checkpoint knows them":          {inCheckpoint, 3},
		"the checkpoint knows them and more": {inCheckpoint, 30},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := newField(t)
			pushed := f.served(n)
			seen := f.stored("web01", "queue").Seen
			test.know(f, pushed+test.lost, seen.Add(time.Microsecond))
			after := f.push("web01", "queue", events.Critical, 0)
			for range 5 {
				f.push("elsewhere", "x", events.OK, 0)
			}
			is.True(after <= pushed+test.lost)

			second := f.partition("second", n)
			is.NoErr(second.takeOver(t.Context()))
			c := second.hosts["web01"].check("queue")
			is.True(NextDeadline(c.state, c.with).Sub(seen) > 20*time.Second) // put off
			second.close()                                                    // it dies before its first checkpoint

			third := f.partition("third", n)
			is.NoErr(third.takeOver(t.Context()))
			defer third.close()
			f.drain(third, func() bool { return third.results >= after })
			is.Equal(third.hosts["web01"].check("queue").state.Status, events.Critical)
		})
	}
}

// A power cut took the last results, and the lease by which they were polled: the
// next lease may have a lower epoch, and its polls count.
func TestPartition_LeaseThatWasLost(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	reg := f.register(web("db"))
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	f.result("web01", "db", events.Result{Status: events.OK, Reg: reg, Lease: 200, Due: 1})
	f.drain(first, func() bool { return first.results >= f.last(bus.StreamResults) })
	is.NoErr(first.checkpoint(t.Context()))
	first.close()
	s := f.stored("web01", "db")
	is.Equal(s.Order.Lease, uint64(200))
	s.Applied += 1000
	f.put(events.StateSubject("web01", "db"), s)

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	second.close() // it dies at once
	third := f.partition("third", n)
	is.NoErr(third.takeOver(t.Context()))
	defer third.close()
	f.result("web01", "db", events.Result{Status: events.Critical, Reg: reg, Lease: 100, Due: 2})
	f.drain(third, func() bool { return third.results >= f.last(bus.StreamResults) })
	is.Equal(third.hosts["web01"].check("db").state.Status, events.Critical)
}

// A registration that was put back has another position, perhaps a lower one;
// polls by it count, and those by the one that is lost do not.
func TestReduce_RegistrationPutBack(t *testing.T) {
	is := is.New(t)
	b := new(bench).levels(Levels{Registration: polledAt(url), Position: 110}, 0)
	poll := func(s events.Status, reg, lease uint64) {
		b.pos++
		b.apply(Result{Host: "web01", Check: "db", Polled: true, Position: b.pos, Result: events.Result{Status: s, Reg: reg, Lease: lease, Due: int64(b.pos)}}, at(float64(b.pos)))
	}
	poll(events.OK, 110, 7)
	is.Equal(b.s.Status, events.OK)
	b.levels(Levels{Registration: polledAt(url), Position: 109}, 10)
	poll(events.Warning, 110, 7) // of the one that is lost
	is.True(b.last.Dropped)
	poll(events.Critical, 109, 7)
	is.Equal(b.s.Status, events.Critical)
	is.Equal(b.s.Number, uint64(2))
}
