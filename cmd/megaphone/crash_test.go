package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func newHTTPServer(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// 2,000 acknowledged registrations and pushes, kill -9 of serve in the middle,
// start again: all that was acknowledged is there.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	data := t.TempDir()
	p := serve(t, data, "--register-wait", "0")

	const writers, each = 8, 250
	var acked [writers]int // how many registrations and pushes of a writer were acknowledged
	var total atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				path := fmt.Sprintf("/hosts/web01/checks/c-%d-%d", w, n)
				if code, _ := p.call("PUT", path, `{"ttl":"1h"}`); code != http.StatusCreated {
					return
				}
				if code, _ := p.call("PUT", path+"/status", `{"status":"Warning","message":"n`+fmt.Sprint(n)+`"}`); code != http.StatusNoContent {
					return
				}
				acked[w] = n + 1
				total.Add(2)
			}
		})
	}
	eventually(t, 120*time.Second, "1,000 acknowledgements", func() error {
		if n := total.Load(); n < 1000 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	p.Kill() // in the middle of the rest
	wg.Wait()
	t.Logf("%d registrations and pushes were acknowledged before the kill", total.Load())

	p = serve(t, data)
	for w := range writers {
		for n := range acked[w] {
			id := fmt.Sprintf("c-%d-%d", w, n)
			var v events.CheckView
			eventually(t, 30*time.Second, id, func() error {
				if v = p.check(id); v.Status != events.Warning {
					return fmt.Errorf("%s %s", v.Status, v.Phase)
				}
				return nil
			})
			is.Equal(v.Message, fmt.Sprintf("n%d", n)) // the push
			is.Equal(v.Number, uint64(1))              // counted once
		}
	}
}

// A restart with 1,000 checks: statuses, overrides, deadlines and numbers are
// as before, and no transition is made.
func TestRestartLeavesThingsWhole(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	data := t.TempDir()
	svc := newServices(t)
	p := serve(t, data, "--register-wait", "0", "--interval", "2s")
	const checks = 1000
	for i := range checks {
		id, path := fmt.Sprintf("c%03d", i), fmt.Sprintf("/hosts/web01/checks/c%03d", i)
		status := events.Statuses()[i%4]
		if i%2 == 0 {
			svc.Set(id, status)
			p.must("PUT", path, `{"url":"`+svc.URL+`/`+id+`"}`, http.StatusCreated)
			continue
		}
		p.must("PUT", path, `{"ttl":"2h"}`, http.StatusCreated)
		p.must("PUT", path+"/status", `{"status":"`+status.String()+`"}`, http.StatusNoContent)
	}
	p.must("PUT", "/hosts/web01/checks/c001/override", `{"status":"OK","reason":"known","until":"1h"}`, http.StatusOK)
	p.must("PUT", "/hosts/web01/checks/c002/override", `{"maintenance":true,"reason":"disk","until":"forever"}`, http.StatusOK)
	settled := func(p *process) (views map[string]events.CheckView) {
		eventually(t, 60*time.Second, "every check has a result", func() error {
			views = map[string]events.CheckView{}
			for i := range checks {
				v := p.check(fmt.Sprintf("c%03d", i))
				if v.Phase == events.Pending {
					return fmt.Errorf("%s is pending", v.Check)
				}
				views[v.Check] = v
			}
			if views["c001"].Phase != events.Overridden || views["c002"].Phase != events.Maintenance {
				return errors.New("the overrides do not show yet")
			}
			return nil
		})
		return views
	}
	before := settled(p)
	stopAt := lastChange(t, p)
	p.Stop()
	p = serve(t, data, "--interval", "2s")
	after := settled(p)
	for id, b := range before {
		a := after[id]
		is.Equal(a.Status, b.Status)
		is.Equal(a.Phase, b.Phase)
		is.Equal(a.Number, b.Number) // no transition
		is.Equal(a.Since, b.Since)
		is.Equal(a.Override, b.Override)
	}
	// two intervals later every service was polled again, and nothing was told
	polled := before["c000"].Observed.Time
	eventually(t, 30*time.Second, "a poll after the restart", func() error {
		if !p.check("c000").Observed.After(polled.Add(4 * time.Second)) {
			return errors.New("not yet")
		}
		return nil
	})
	is.Equal(lastChange(t, p), stopAt) // CHANGES grew by nothing but fences
}

// lastChange returns the position of the last transition in CHANGES.
func lastChange(t *testing.T, p *process) (position uint64) {
	t.Helper()
	c, err := bus.Connect(t.Context(), p.Ready.Bus)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.JetStream().Stream(t.Context(), bus.StreamChanges)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), events.StatusSubjects)
	if err != nil {
		t.Fatal(err)
	}
	return m.Sequence
}

// SIGTERM ends serve within five seconds, with readers and pushers connected.
func TestStopsWithinFiveSeconds(t *testing.T) {
	is := is.New(t)
	svc := newServices(t)
	p := serve(t, t.TempDir())
	svc.Set("a", events.OK)
	p.must("POST", "/checks", `{"id":"a","url":"`+svc.URL+`/a"}`, http.StatusOK)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", p.Ready.HTTP+"/events?after=0", nil)
	is.NoErr(err)
	res, err := http.DefaultClient.Do(req) // an SSE client that stays
	is.NoErr(err)
	defer res.Body.Close()
	u, err := url.Parse(p.Ready.HTTP)
	is.NoErr(err)
	conn, err := net.Dial("tcp", u.Host) // a client that says nothing
	is.NoErr(err)
	defer conn.Close()
	began := time.Now()
	p.Stop()
	is.True(time.Since(began) < 5*time.Second) // clean end
}
