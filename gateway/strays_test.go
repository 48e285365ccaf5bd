package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Whatever anybody asks to end, or pushes to, what is remembered of names of which
// nothing is known is bounded.
func TestViewForgetsWhatWasWaitedFor(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for name, ask := range map[string]func(v *View, host string){
		"override of a host":  func(v *View, host string) { v.WaitOverride(t.Context(), host, "", 0) },
		"override of a check": func(v *View, host string) { v.WaitOverride(t.Context(), host, "c", 0) },
		"push":                func(v *View, host string) { v.Shown(ended, host, "c", 1<<60, time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			v, _ := viewOf(false)
			for i := range 3 * maxStrays {
				ask(v, fmt.Sprintf("h%d", i))
			}
			is.True(len(v.hosts) <= maxStrays+2)
			is.Equal(v.a(t).Phase, events.Pending) // what is registered stays
		})
	}
}

// The override of a host of which nothing is registered yet is none of them.
func TestViewKeepsOverrides(t *testing.T) {
	is := is.New(t)
	v, r := viewOf(false)
	critical := events.Critical
	r.overrides["web02/"] = bus.OverrideEntry{Override: events.Override{Host: "web02", Status: &critical, Forever: true}, Position: 5}
	v.RefreshRegistration("web02", "")
	v.sweep()
	r.add("web02", "a", 6, false)
	v.RefreshRegistration("web02", "a")
	h, ok := v.Host("web02", time.Now())
	is.True(ok)
	is.Equal(h.Status, events.Critical)
}

// Anybody may push the largest document for each check there is, and for those that are
// not: together they have a bound, and the newest stay.
func TestViewBoundsDocuments(t *testing.T) {
	is := is.New(t)
	v, _ := viewOf(false)
	v.most = 100 << 10
	long := strings.Repeat("x", 1<<10)
	push := func(host, check string, position uint64) {
		v.ApplyResult(bus.Incoming{Host: host, Check: check, Position: position, Stored: time.Unix(int64(position), 0), ID: long, Result: events.Result{
			Status: events.OK, Document: fmt.Appendf(nil, `"%d%s"`, position, long), Worker: long, Pool: long, Suspect: long, Origin: long,
		}})
	}
	held := func() (documents, others int) {
		for _, h := range v.hosts {
			for _, c := range h.checks {
				documents += c.weight()
				for _, in := range c.early {
					others += len(in.ID) + len(in.Result.Worker) + len(in.Result.Pool) + len(in.Result.Suspect) + len(in.Result.Origin)
				}
			}
		}
		return documents, others
	}
	for i := range uint64(1000) {
		push("h", fmt.Sprint("c", i/2), i+1) // each of them twice
	}
	documents, others := held()
	is.True(documents <= v.most+v.most/2+2<<10)
	is.True(others <= 1000*events.MaxOrigin)
	is.True(documents > 0)
}
