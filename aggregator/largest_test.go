package aggregator

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// However much a state holds, it can be told.
func TestAggregator_LargestState(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	_, stop := f.aggregator("a1")
	w := f.watch()
	awkward := func(n int) string { return strings.Repeat("<", n) }
	labels := func(who string) map[string]string {
		all := map[string]string{}
		for i := range events.MaxLabels {
			key := fmt.Sprint(who, i)
			all[key+awkward(events.MaxLabelBytes-len(key))] = awkward(events.MaxLabelBytes)
		}
		return all
	}
	_, err := f.reg.SetHost(t.Context(), events.HostRecord{Host: "web01", Labels: labels("h")})
	is.NoErr(err)
	id := awkward(events.MaxCheck)
	f.register(events.Registration{Host: "web01", ID: id, TTL: events.Duration(time.Minute), Labels: labels("c")})
	for _, check := range []string{id, ""} {
		_, err = f.reg.SetOverride(t.Context(), events.Override{
			Host: "web01", Check: check, Maintenance: true, Forever: true, Reason: awkward(events.MaxMessage), By: awkward(events.MaxLabelBytes),
			Global: json.RawMessage(`"` + awkward(events.MaxURL-2) + `"`),
		})
		is.NoErr(err)
		w.state("web01", check, events.Unknown, events.Maintenance)
	}
	_, err = f.conn.Push(t.Context(), "web01", id, events.Result{Status: events.OK, Message: awkward(events.MaxMessage)})
	is.NoErr(err)
	f.push("web01", "other", events.OK, 0)
	w.state("web01", "other", events.OK, events.Live)

	stop() // and whoever is next has all of it, whether the last checkpoint was written or not
	p := f.partition("p", events.Partition("web01"))
	is.NoErr(p.takeOver(t.Context()))
	defer p.close()
	h := p.hosts["web01"]
	is.Equal(len(h.check(id).state.Labels), 2*events.MaxLabels)
	is.Equal(len(h.check(id).state.Message), events.MaxMessage)
	is.Equal(len(h.check(id).state.Override.Reason), events.MaxMessage)
	is.Equal(len(h.state.Override.Reason), events.MaxMessage)
}

// A transition names the event that caused it where that has a name, not a novel:
// readers take no event that is larger than one may be.
func TestAggregator_LongestID(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
	b, err := events.Encode(events.Header{
		Type: events.TypeResult, Source: "urn:x", ID: strings.Repeat("x", events.MaxEvent-400), Host: "web01", Check: "queue", Time: time.Now(),
	}, events.Result{Status: events.Warning})
	is.NoErr(err)
	is.True(len(b) <= events.MaxEvent)
	_, err = f.conn.Store(t.Context(), bus.Message(events.ResultSubject("web01", "queue"), b))
	is.NoErr(err)
	w.state("web01", "queue", events.Warning, events.Live)
}

// A time at the end of all times, as another zone has it, is a time.
func TestAggregator_FarthestTime(t *testing.T) {
	for _, far := range []string{"9999-12-31T23:59:59-14:00", "0000-01-01T00:00:00+14:00"} {
		t.Run(far, func(t *testing.T) {
			is := is.New(t)
			f := newField(t)
			_, stop := f.aggregator("a1")
			w := f.watch()
			f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
			event := func(kind, data string) []byte {
				return []byte(`{"specversion":"1.0","type":"` + kind + `","source":"urn:x","id":"1","subject":"hosts/web01/checks/queue","time":"` + far + `","data":` + data + `}`)
			}
			_, err := f.conn.Store(t.Context(), bus.Message(events.ResultSubject("web01", "queue"), event(events.TypeResult, `{"status":"Warning"}`)))
			is.NoErr(err)
			w.state("web01", "queue", events.Warning, events.Live)
			set, err := f.conn.Store(t.Context(), bus.Message(events.OverrideSubject("web01", "queue"),
				event(events.TypeOverrideSet, `{"host":"web01","check":"queue","status":"OK","until":"`+far+`"}`)))
			is.NoErr(err)
			is.NoErr(f.reg.WaitFor(t.Context(), set)) // it is refused
			f.push("web01", "queue", events.Critical, 0)
			w.number("web01", "queue", 2)
			stop()
			p := f.partition("p", events.Partition("web01"))
			is.NoErr(p.takeOver(t.Context()))
			defer p.close()
			is.Equal(p.hosts["web01"].check("queue").state.Number, uint64(2)) // its record can be read
		})
	}
}

// Nor does it matter who says that a check is registered: that is refused where it is
// a novel.
func TestAggregator_LongestOrigin(t *testing.T) {
	is := is.New(t)
	f := newField(t)
	f.aggregator("a1")
	w := f.watch()
	b, err := events.Encode(events.Header{Type: events.TypeRegistered, Source: "urn:x", ID: "1", Host: "web01", Check: "a", Time: time.Now()},
		events.Registration{Host: "web01", ID: "a", TTL: events.Duration(time.Minute), Origin: strings.Repeat("<", 100<<10)})
	is.NoErr(err)
	set, err := f.conn.Store(t.Context(), bus.Message(events.RegistrationSubject("web01", "a"), b))
	is.NoErr(err)
	is.NoErr(f.reg.WaitFor(t.Context(), set))
	f.register(events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
	f.push("web01", "queue", events.OK, 0)
	w.state("web01", "queue", events.OK, events.Live)
	eventually(t, "a checkpoint", func() bool { return f.stored("web01", "queue").Status == events.OK })
}
