package gateway

import (
	"context"
	"fmt"
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
