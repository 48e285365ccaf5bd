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
