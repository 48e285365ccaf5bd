package pollers

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A worker whose lease is over, and which nothing told so, as after it was stopped for
// a while, begins no poll and publishes nothing of one that it began before.
func TestWorkerFencesItself(t *testing.T) {
	is := is.New(t)
	server := bustest.Start(t)
	conn, err := bus.Connect(t.Context(), server.URL(), bus.WithCreds(server.CredsPath()))
	is.NoErr(err)
	defer conn.Close()
	is.NoErr(conn.Setup(t.Context(), bus.StreamOptions{}))
	var looks atomic.Int64
	w := New(Config{Conn: conn, Name: "w1", Kinds: Kinds{"known": func(context.Context, events.Target) Finding {
		looks.Add(1)
		return Finding{Reading: Reading{Status: events.OK}}
	}}})
	defer w.http.Close()
	r := events.Registration{Host: "web01", ID: "db", URL: json.RawMessage(`"known://web01"`), Pool: events.DefaultPool}
	w.register(bus.Entry{Registration: r, Position: 1})
	over := bus.Lease{Partition: events.PoolPartition(r.Pool, r.Host, r.ID)}
	h := w.open(t.Context(), r.Pool, over).held
	defer h.cancel()
	defer w.hands.end()
	w.dispatch()
	h.polls.Wait()
	is.Equal(looks.Load(), int64(0))
	is.Equal(w.Stats().Discarded, uint64(1)) // it was due

	reply := w.publish(h, w.tasks[name{r.Host, r.ID}], events.Result{Status: events.Critical}, time.Now())
	is.Equal(reply, moved)

	// Nor is published what waited for others.
	w.mu.Lock()
	waits, _ := w.agenda.take(time.Now().Add(time.Hour).UnixMilli())
	w.mu.Unlock()
	w.fetched(waits, nil)
	waits.noted(events.Result{Status: events.OK}, true)
	is.True(w.postpone(h, waits, events.Result{Status: events.OK}, time.Now()))
	h.polls.Wait()
	is.Equal(w.Stats().Discarded, uint64(3))

	s, err := conn.JetStream().Stream(t.Context(), bus.StreamResults)
	is.NoErr(err)
	is.Equal(s.CachedInfo().State.Msgs, uint64(0))
}

func TestNews(t *testing.T) {
	ok, large := events.Result{Status: events.OK}, json.RawMessage(`"`+strings.Repeat("x", reportAlone)+`"`)
	for name, tt := range map[string]struct {
		told     []events.Result // each of which was stored
		lost     bool            // and then one that was not
		fall     int
		interval time.Duration
		found    events.Result
		want     bool
	}{
		"the first one":                 {found: ok, want: true},
		"the same":                      {told: []events.Result{ok}, found: ok},
		"the same with other words":     {told: []events.Result{ok}, found: events.Result{Status: events.OK, Message: "x", Document: json.RawMessage(`1`)}},
		"another":                       {told: []events.Result{ok, ok}, found: events.Result{Status: events.Warning}, want: true},
		"one that is being counted":     {told: []events.Result{ok, ok}, fall: 3, found: ok, want: true},
		"one that was counted":          {told: []events.Result{ok, ok, ok}, fall: 3, found: ok},
		"after one that was lost":       {told: []events.Result{ok, ok}, lost: true, found: ok, want: true},
		"after one that does not count": {told: []events.Result{ok, {Status: events.OK, Suspect: "x"}}, found: ok, want: true},
		"one that does not count":       {told: []events.Result{ok}, found: events.Result{Status: events.OK, Suspect: "x"}, want: true},
		"a large one":                   {told: []events.Result{ok}, found: events.Result{Status: events.OK, Document: large}, want: true},
		"a rare one":                    {told: []events.Result{ok}, interval: events.MaxReportInterval + time.Millisecond, found: ok, want: true},
		"one that is rare enough":       {told: []events.Result{ok}, interval: events.MaxReportInterval, found: ok},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			tk := &task{settle: max(tt.fall, 1), schedule: NewSchedule("web01", "db", max(tt.interval, time.Second))}
			for _, r := range tt.told {
				tk.noted(r, true)
			}
			if tt.lost {
				tk.noted(ok, false)
			}
			is.Equal(tk.news(tt.found), tt.want)
			is.True(tk.again().news(tt.found)) // under another lease everything is
		})
	}
}

// A report has the last result of a check only, and none that a change came after.
func TestReportHoldsTheLast(t *testing.T) {
	is := is.New(t)
	w := New(Config{Name: "w1", Kinds: Kinds{}})
	defer w.http.Close()
	defer w.hands.end()
	w.register(bus.Entry{Registration: events.Registration{
		Host: "web01", ID: "db", URL: json.RawMessage(`"http://web01/"`), Pool: events.DefaultPool, Interval: events.Duration(10 * time.Second),
	}, Position: 1})
	tk := w.tasks[name{"web01", "db"}]
	w.agenda.put(tk, 0)
	tk.noted(events.Result{Status: events.OK}, true)
	h := &held{ctx: t.Context()}
	found := func(s events.Status, due int64) (waits bool) {
		taken, _ := w.agenda.take(time.Now().Add(time.Duration(due) * time.Hour).UnixMilli())
		is.Equal(taken, tk)
		w.fetched(tk, nil)
		if waits = w.postpone(h, tk, events.Result{Status: s, Due: due}, time.Now()); !waits {
			w.done(tk)
		}
		return waits
	}
	is.True(found(events.OK, 1))
	report := tk.waits
	report.timer.Stop()
	is.True(found(events.OK, 2))
	is.Equal(tk.waits, report)
	is.Equal(len(report.results), 1)
	is.Equal(report.results[0].result.Result.Due, int64(2))
	is.True(!found(events.Critical, 3))
	is.Equal(len(report.results), 0)
	h.polls.Wait() // nobody waits for what was taken out
}

// Whatever is in it, a report is no larger than what an event may be.
func TestReportIsNotTooLarge(t *testing.T) {
	check := strings.Repeat("\"", events.MaxCheck)
	for name, r := range map[string]events.Result{
		"small":                {Status: events.Critical},
		"messages to escape":   {Status: events.Critical, Message: strings.Repeat("\x01", events.MaxMessage)},
		"messages not in UTF8": {Status: events.Critical, Message: strings.Repeat("\xff", events.MaxMessage)},
		"documents":            {Status: events.Critical, Document: json.RawMessage(`"` + strings.Repeat("x", reportAlone-3) + `"`)},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r.Reg, r.Lease, r.LatencySeconds, r.Due = 1<<62, 1<<62, 0.123456789012345678, 1<<62
			rep := &report{}
			var body events.Report
			for !rep.full() {
				p := events.PollResult{Host: strings.Repeat("h", events.MaxHost), Check: check, Time: events.At(time.Now()), Result: r}
				rep.add(reported{task: &task{}, result: p})
				body.Results = append(body.Results, p)
			}
			b, err := events.Encode(events.Header{Type: events.TypeReport, Source: "urn:x", ID: "1", Time: time.Now()}, body)
			is.NoErr(err)
			is.True(len(b) <= events.MaxEvent)
			is.True(len(b) <= rep.size+512)
		})
	}
}
