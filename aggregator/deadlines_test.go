package aggregator

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// slowness measures, until it is asked, how long the bus takes to store a message:
// what a machine that is busy with other things adds to every delay.
func (f *field) slowness() (most func() time.Duration) {
	stop := make(chan struct{})
	var worst time.Duration
	var wg sync.WaitGroup
	conn := f.connect()
	wg.Go(func() {
		for {
			planned := time.Now().Add(50 * time.Millisecond)
			select {
			case <-stop:
				return
			case <-time.After(time.Until(planned)):
			}
			if _, err := conn.Push(f.tb.Context(), "elsewhere", "probe", events.Result{Status: events.OK}); err != nil {
				return
			}
			worst = max(worst, time.Since(planned))
		}
	})
	return func() time.Duration {
		close(stop)
		wg.Wait()
		return worst
	}
}

// silent is a check whose silence is to be told at a deadline.
type silent struct {
	reg      events.Registration
	deadline time.Time
}

// pushedBefore registers a check and stores its state as if its last push was so
// long ago that its ttl ends at the deadline: what an owner before would have left.
func (f *field) pushedBefore(s silent, applied uint64) {
	f.tb.Helper()
	position := f.register(s.reg)
	e, _ := f.reg.Check(s.reg.Host, s.reg.ID)
	seen := s.deadline.Add(-s.reg.TTL.D()).UTC()
	f.put(events.StateSubject(s.reg.Host, s.reg.ID), events.CheckState{
		V: 1, Host: s.reg.Host, Check: s.reg.ID, Number: 1, Status: events.OK, Phase: events.Live, Since: seen,
		Reported: events.OK, Basis: events.Live, Started: seen.Add(-time.Hour), Reg: position, Spec: Fingerprint(e.Registration),
		Applied: applied, Seen: seen,
	})
}

// 1,000 checks with ttls from 2 s to 25 h, whose deadlines come within ten
// seconds; in the middle the aggregator is restarted. The silence of each is told
// once, not before its deadline, and within a second after it, or after the
// partitions are held again.
func TestAggregator_ThousandDeadlines(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	f := newField(t)
	applied := f.push("elsewhere", "probe", events.OK, 0)
	const checks = 1000
	start := time.Now().Add(6 * time.Second)
	all := map[string]silent{}
	for i := range checks {
		// From 2 s to 25 h, most of them far longer than RESULTS keeps anything.
		part := float64(i) / (checks - 1)
		ttl := 2*time.Second + time.Duration(part*part*float64(25*time.Hour-2*time.Second))
		s := silent{
			reg:      events.Registration{Host: fmt.Sprint("h", i%100), ID: fmt.Sprint("c", i), TTL: events.Duration(ttl)},
			deadline: start.Add(time.Duration(i*7%checks) * 10 * time.Second / checks),
		}
		f.pushedBefore(s, applied)
		all[s.reg.ID] = s
	}
	for n := range events.Partitions {
		f.put(events.CheckpointSubject(n), events.Checkpoint{V: 1, Results: applied, Changes: f.last(bus.StreamChanges), Time: events.At(time.Now())})
	}
	is.True(time.Now().Before(start)) // else the machine is too slow for this test

	slowest := f.slowness()
	w := f.watch()
	a, stop := f.aggregator("a1")
	f.held(a, events.Partitions)
	held := time.Now()
	eventually(t, "half of the deadlines", func() bool { return time.Now().After(start.Add(5 * time.Second)) })
	stop()
	a, _ = f.aggregator("a1")
	f.held(a, events.Partitions)
	again := time.Now()

	told := map[string]bool{}
	var latest, after time.Duration
	for len(told) < checks {
		ch := w.until("the silence of all", func(tr events.Transition) bool { return tr.Check != "" && tr.Check != "probe" })
		s, tr := all[ch.Transition.Check], ch.Transition
		is.Equal(tr.Current.Phase, events.Stale)
		is.Equal(tr.Number, uint64(2))
		is.True(!told[tr.Check]) // once
		told[tr.Check] = true
		is.True(!ch.Stored.Before(s.deadline)) // not before its time
		switch {
		case s.deadline.Before(held):
			after = max(after, ch.Stored.Sub(held))
		case ch.Stored.Before(again) && s.deadline.Before(again) && ch.Stored.Sub(s.deadline) <= time.Second:
			latest = max(latest, ch.Stored.Sub(s.deadline))
		case s.deadline.Before(again):
			after = max(after, ch.Stored.Sub(again))
		default:
			latest = max(latest, ch.Stored.Sub(s.deadline))
		}
	}
	slow := slowest()
	t.Logf("told at most %s after the deadline, %s after a restart; storing a message took up to %s", latest, after, slow)
	is.True(latest < time.Second+slow)
	is.True(after < time.Second+slow)
}

// Nobody reduces for longer than every ttl, and 1,000 services go on pushing: their
// pushes wait, and count before any deadline.
func TestAggregator_LagCondemnsNobody(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	f := newField(t)
	const checks = 1000
	a, stop := f.aggregator("a1")
	f.held(a, events.Partitions)
	for i := range checks {
		f.register(events.Registration{Host: fmt.Sprint("h", i%100), ID: fmt.Sprint("c", i), TTL: events.Duration(time.Hour)})
	}
	began := time.Now()
	f.pushMany(checks, time.Hour)
	eventually(t, "all are live", func() bool { return a.Stats().Transitions >= checks+100 })
	ttl := max(3*time.Second, 5*time.Since(began)) // by what this machine can do
	began = time.Now()
	f.pushMany(checks, ttl)
	pushAll := func() {
		before := began
		began = time.Now()
		f.pushMany(checks, ttl)
		is.True(time.Since(before) < ttl) // else they were silent
	}
	eventually(t, "all are read", func() bool { return a.Stats().Results >= 2*checks })
	stop()
	for end := time.Now().Add(ttl + time.Second); time.Now().Before(end); time.Sleep(ttl / 8) {
		pushAll()
	}
	a, _ = f.aggregator("a2")
	for a.Stats().Takeovers < events.Partitions || a.Stats().Results < 5*checks {
		pushAll()
		time.Sleep(ttl / 8)
	}
	is.Equal(a.Stats().Transitions, uint64(0)) // no false alarm
}

// pushMany pushes OK for that many checks on 100 hosts, and returns when all are stored.
func (f *field) pushMany(checks int, ttl time.Duration) {
	f.tb.Helper()
	acks := make([]jetstream.PubAckFuture, checks)
	for i := range checks {
		var err error
		m := &nats.Msg{
			Subject: events.ResultSubject(fmt.Sprint("h", i%100), fmt.Sprint("c", i)), Header: nats.Header{},
			Data: fmt.Appendf(nil, `{"status":"OK","ttl":%q}`, ttl),
		}
		if acks[i], err = f.conn.JetStream().PublishMsgAsync(m); err != nil {
			f.tb.Fatal(err)
		}
	}
	f.acked(acks)
}

// acked waits for acknowledgements.
func (f *field) acked(acks []jetstream.PubAckFuture) {
	f.tb.Helper()
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			f.tb.Fatal(err)
		}
	}
}
