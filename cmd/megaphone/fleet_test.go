package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// Two pollers, two aggregators and a gateway as five processes on one bus, 500
// checks that flip by a script, kill -9 of a poller and of an aggregator in
// between: statuses stay right, no transition is missing or doubled.
func TestFleetSurvivesKills(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	dir := t.TempDir()
	srv := bustest.StartIn(t, dir, "127.0.0.1:0")
	// Three intervals without a poll are our failure, and told; a lease that has
	// to expire first must fit into them.
	role := func(name string, args ...string) *process {
		args = append([]string{name, "--bus", srv.URL(), "--bus-creds", srv.CredsPath(), "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null", "--interval", "3s"}, args...)
		return start(t, args...)
	}
	gateway := role("gateway", "--listen", "127.0.0.1", "--port", "0", "--host", "web01", "--register-wait", "0")
	aggregators := []*process{role("aggregator"), role("aggregator")}
	pollers := []*process{role("poller", "--host", "p1"), role("poller", "--host", "p2")}

	const checks = 500
	svc := newServices(t)
	script := []events.Status{events.OK, events.Critical, events.Warning, events.OK, events.Critical}
	setAll := func(s events.Status) {
		for i := range checks {
			svc.Set(fmt.Sprintf("c%03d", i), s)
		}
	}
	setAll(script[0])
	for i := range checks {
		id := fmt.Sprintf("c%03d", i)
		gateway.must("PUT", "/hosts/web01/checks/"+id, `{"url":"`+svc.URL+`/`+id+`","pool":"default"}`, http.StatusCreated)
	}
	allShow := func(s events.Status) {
		t.Helper()
		eventually(t, 60*time.Second, "all show "+s.String(), func() error {
			var v events.HostView
			getJSON(t, gateway, "/hosts/web01", &v)
			for status, n := range map[events.Status]int{events.OK: v.Checks.OK, events.Warning: v.Checks.Warning, events.Critical: v.Checks.Critical} {
				if status == s && n != checks {
					return fmt.Errorf("%d of %d, %d pending", n, checks, v.Checks.Pending)
				}
			}
			return nil
		})
	}
	allShow(script[0])
	for i, s := range script[1:] {
		setAll(s)
		switch i {
		case 1:
			pollers[0].Kill() // in the middle of the second flip
		case 2:
			aggregators[0].Kill()
		}
		allShow(s)
	}
	checkNumbers(t, is, srv.URL(), checks, script)
}

// checkNumbers reads all of CHANGES as a program without credentials would, and
// compares it with the script: numbers 1..n, each chained to the one before.
func checkNumbers(t *testing.T, is *is.I, url string, checks int, script []events.Status) {
	t.Helper()
	c, err := bus.Connect(t.Context(), url)
	is.NoErr(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := map[string][]events.Transition{}
	hosts, seen := 0, 0
	for ch, err := range c.Watch(ctx, bus.WatchOptions{Filter: events.Filter{Host: "web01"}, FromStart: true}) {
		is.NoErr(err) // a gap or worse
		id := ch.Transition.Check
		got[id] = append(got[id], ch.Transition)
		if id == "" {
			hosts++
		} else if seen++; seen == checks*len(script) {
			break
		}
	}
	for id, trs := range got {
		for i, tr := range trs {
			is.Equal(tr.Number, uint64(i+1)) // without gap or repeat
			if i > 0 {
				is.Equal(tr.Previous, trs[i-1].Current) // chained
			}
			if id != "" {
				is.Equal(*tr.Current.Status, script[i]) // what the script did, nothing else
			}
		}
	}
	is.Equal(len(got), checks+1)
	t.Logf("%d transitions of checks and %d of the host, each once", seen, hosts)
}

func getJSON(t *testing.T, p *process, path string, v any) {
	t.Helper()
	if err := unmarshal(p.must("GET", path, "", http.StatusOK), v); err != nil {
		t.Fatal(err)
	}
}
