package aggregator

import (
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// What a worker finds that suspects itself is no news, whatever it is; but no
// result of a worker that it superseded counts after it, and when nothing counts
// for three intervals the check is stale and says why.
func TestReduceSuspect(t *testing.T) {
	is := is.New(t)
	at := func(s int) time.Time { return time.Date(2026, 11, 22, 10, 0, s, 0, time.UTC) }
	reg := events.Registration{ID: "db", Host: "web01", URL: []byte(`"http://db.example/"`), Interval: events.Duration(10 * time.Second)}
	with := Settings{Registration: &reg}
	s, _ := Reduce(events.CheckState{Host: "web01", Check: "db"}, with, Levels{Host: "web01", Check: "db", Registration: &reg, Position: 7, Stored: at(0)}, at(0))
	position := uint64(100)
	result := func(status events.Status, lease uint64, due int64, suspect string) Result {
		position++
		return Result{Host: "web01", Check: "db", Polled: true, Position: position, Observed: at(1), Result: events.Result{
			Status: status, Message: "m", Worker: "w1", Reg: 7, Lease: lease, Due: due, Suspect: suspect,
		}}
	}
	s, out := Reduce(s, with, result(events.OK, 1, 1, ""), at(1))
	is.True(out.Transition != nil)
	was := s
	s, out = Reduce(s, with, result(events.Critical, 2, 2, "no canary answers"), at(11))
	is.Equal(out, Outcome{Dirty: true}) // a new lease must not be forgotten
	is.Equal(s.Status, events.OK)
	is.Equal(s.Seen, was.Seen)
	is.Equal(s.Message, was.Message)
	_, out = Reduce(s, with, result(events.Critical, 1, 3, ""), at(12))
	is.True(out.Dropped) // of a worker that was superseded

	s, out = Reduce(s, with, result(events.OK, 2, 4, "no canary answers"), at(21))
	is.Equal(out, Outcome{})
	stale, out := Reduce(s, with, Tick{}, at(31))
	is.True(out.Transition != nil)
	is.Equal(stale.Status, events.Unknown)
	is.Equal(stale.Phase, events.Stale)
	is.True(strings.Contains(stale.Message, "no result that counts for 30s (interval 10s): the worker w1 suspects itself: no canary answers"))
	back, out := Reduce(stale, with, result(events.OK, 2, 5, ""), at(32))
	is.True(out.Transition != nil)
	is.Equal(back.Phase, events.Live)
	is.Equal(back.Suspect, "")
}

// Where the last result of a check is one of a worker that suspects itself, a takeover
// cannot read the last that counted: it may have come right before, so that nobody is
// told yet that the check is not polled.
func TestPartition_TakesOverWhatIsSuspect(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	n := events.Partition("web01")
	reg := f.register(web("db"))
	first := f.partition("first", n)
	is.NoErr(first.takeOver(t.Context()))
	f.poll("web01", "db", reg, events.OK)
	is.NoErr(first.consume(t.Context(), <-first.reader.out))
	is.NoErr(first.checkpoint(t.Context()))
	s := f.stored("web01", "db") // as it were if that poll had been one of many: they are not stored
	f.result("web01", "db", events.Result{Status: events.Critical, Reg: reg, Lease: 1, Due: f.due + 1, Worker: "w", Suspect: "no canary answers"})
	is.NoErr(first.consume(t.Context(), <-first.reader.out))
	is.NoErr(first.checkpoint(t.Context()))
	first.close()
	s.Seen, s.Started = s.Seen.Add(-2*time.Hour), s.Started.Add(-3*time.Hour)
	f.put(events.StateSubject("web01", "db"), s)

	second := f.partition("second", n)
	is.NoErr(second.takeOver(t.Context()))
	defer second.close()
	c := second.hosts["web01"].check("db")
	is.True(c.state.Suspect != "")
	is.True(c.next().After(second.now))
}
