package aggregator

import (
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nuid"
)

// found is a result of a poll by the registration at the position reg.
func (f *field) found(host, check string, reg uint64, s events.Status) events.PollResult {
	f.due++
	return events.PollResult{
		Host: host, Check: check, Time: events.At(time.Now()),
		Result: events.Result{Status: s, Message: "reported " + s.String(), Reg: reg, Lease: 1, Due: f.due},
	}
}

// report stores results of the partition of web01 in one message, and returns its position.
func (f *field) report(results ...events.PollResult) uint64 {
	f.tb.Helper()
	position, err := f.conn.PublishReport(f.tb.Context(), events.Partition("web01"),
		events.Header{Type: events.TypeReport, Source: "urn:megaphone:worker:w", ID: nuid.Next(), Time: time.Now()},
		events.Report{Worker: "w", Pool: "default", Results: results})
	if err != nil {
		f.tb.Fatal(err)
	}
	return position
}

// The results of a report count as if each had come alone.
func TestPartition_Report(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	a, b := f.register(web("a")), f.register(web("b"))
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	f.report(f.found("web01", "a", a, events.OK), f.found("web01", "b", b, events.Warning))
	late := f.found("web01", "a", a, events.Critical)
	last := f.report(f.found("web01", "a", a, events.OK), f.found("web01", "b", b, events.Critical))
	is.True(events.Partition("web03") != events.Partition("web01"))
	f.report(f.found("web01", "b", b, events.OK), f.found("web03", "a", a, events.OK)) // of two partitions
	end := f.report(late, f.found("web01", "none", b, events.OK))                      // one comes too late, one is of nothing
	f.drain(p, func() bool { return p.results >= end })

	w := f.watch()
	w.state("web01", "b", events.Critical, events.Live)
	w.state("web01", "", events.Critical, events.Live)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 3, "hosts/web01/checks/a": 1, "hosts/web01/checks/b": 2}) // OK, Warning, Critical
	for _, id := range []string{"a", "b"} {
		is.Equal(p.hosts["web01"].check(id).state.Applied, last)
	}
	is.Equal(p.a.stats.dropped.Load(), uint64(2))
	is.Equal(p.a.stats.rejected.Load(), uint64(1)) // as a whole: nothing of it counts
}

// What came in reports only is known to the next owner, too: when a check was seen
// last decides when it is stale.
func TestPartition_ReportsAreReadAgain(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	a, b := f.register(web("a")), f.register(web("b"))
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	f.poll("web01", "a", a, events.OK)
	f.poll("web01", "b", b, events.OK)
	f.drain(first, func() bool { return first.hosts["web01"].check("b").state.Number == 1 })
	is.NoErr(first.checkpoint(t.Context())) // writes both; it writes nothing of what follows
	f.report(f.found("web01", "a", a, events.OK))
	end := f.report(f.found("web01", "a", a, events.OK), f.found("web01", "b", b, events.OK))
	f.drain(first, func() bool { return first.results >= end })
	is.NoErr(first.checkpoint(t.Context()))
	first.close()
	later := f.report(f.found("web01", "a", a, events.OK)) // it is not read before its turn comes

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	for _, id := range []string{"a", "b"} {
		had, has := first.hosts["web01"].check(id).state, second.hosts["web01"].check(id).state
		is.Equal(has.Seen, had.Seen)
		is.Equal(has.Order, had.Order)
		is.Equal(has.Applied, end)
		is.Equal(has.Message, "reported OK")
		is.True(has.Observed.Equal(had.Observed))
	}
	f.drain(second, func() bool { return second.results >= later })
	is.Equal(second.hosts["web01"].check("a").state.Applied, later)
}

// An owner that dies within a report leaves the rest of it to the next one.
func TestPartition_ReportCountedHalfWay(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	a, b := f.register(web("a")), f.register(web("b"))
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	defer first.close()
	f.report(f.found("web01", "a", a, events.Critical), f.found("web01", "b", b, events.Critical))
	m := <-first.reader.out
	results, err := bus.ReadResults(m)
	is.NoErr(err)
	is.NoErr(first.count(t.Context(), m, results[0], results[0].Stored)) // and here it dies

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	f.drain(second, func() bool { return second.results >= results[0].Position })
	w := f.watch()
	w.state("web01", "b", events.Critical, events.Live)
	is.Equal(w.numbered(), map[string]uint64{"hosts/web01": 1, "hosts/web01/checks/a": 1, "hosts/web01/checks/b": 1})
}
