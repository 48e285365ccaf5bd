package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// attacker carries a plan out.
type attacker struct {
	fleet  *fleet
	conn   *bus.Conn // of the role user
	anyone *bus.Conn // without credentials
	log    *slog.Logger
	Done   map[act]int
}

// Run works through the plan, or until ctx ends. When it returns, nothing that
// it stopped is still stopped, and everything it killed is about to start.
func (a *attacker) Run(ctx context.Context, faults []fault) {
	var wg sync.WaitGroup
	defer wg.Wait()
	began := time.Now()
	for _, f := range faults {
		if !sleep(ctx, time.Until(began.Add(f.At))) {
			return
		}
		did := a.inflict(ctx, f, &wg)
		a.log.Info("fault", "plan", f.String(), "done", did)
		if did {
			a.Done[f.Act]++
		}
	}
}

func (a *attacker) inflict(ctx context.Context, f fault, wg *sync.WaitGroup) bool {
	switch f.Act {
	case stepDown:
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return stepDownStream(ctx, a.conn.NATS(), f.Target) == nil
	case cut:
		a.fleet.Relays[f.Target].Cut()
		return true
	case part, deafen:
		a.part(ctx, f, wg, a.fleet.Relays[f.Target])
		return true
	case isolate:
		a.part(ctx, f, wg, a.fleet.Bus.Links[f.Target]...)
		return true
	}
	switch f.Act {
	case flood:
		return a.flood()
	case fill:
		return a.fill(ctx, f, wg)
	case restart:
		return a.restart(f.Hold)
	}
	p := a.fleet.Find(f.Target)
	switch f.Act {
	case kill:
		return p.End(syscall.SIGKILL, f.Hold)
	case stop:
		return p.End(syscall.SIGTERM, f.Hold)
	}
	if !p.Signal(syscall.SIGSTOP) {
		return false
	}
	wg.Go(func() {
		sleep(ctx, f.Hold)
		p.Signal(syscall.SIGCONT)
	})
	return true
}

// part holds back what goes through the relays for the fault's time.
func (a *attacker) part(ctx context.Context, f fault, wg *sync.WaitGroup, relays ...*relay) {
	var joins []func()
	for _, r := range relays {
		joins = append(joins, r.Part(f.Act == deafen))
	}
	wg.Go(func() {
		sleep(ctx, f.Hold)
		for _, join := range joins {
			join()
		}
	})
}

// restart kills all processes of the bus; they start again after hold.
func (a *attacker) restart(hold time.Duration) bool {
	all := true
	for _, p := range a.fleet.Bus.Procs {
		all = p.End(syscall.SIGKILL, hold) && all
	}
	return all
}

// fill makes the disk of a process of the bus full for a while. A nats-server
// does not write again before it was restarted, as its health check tells whoever
// runs it; the one in `megaphone serve` has to see to that itself.
func (a *attacker) fill(ctx context.Context, f fault, wg *sync.WaitGroup) bool {
	d := a.fleet.Disks[f.Target]
	if err := d.Fill(); err != nil {
		a.log.Error("fault", "error", err)
		return false
	}
	wg.Go(func() {
		sleep(ctx, f.Hold)
		if err := d.Free(); err != nil {
			a.log.Error("fault", "error", err)
		}
		if f.Target != serve {
			a.fleet.Find(f.Target).End(syscall.SIGTERM, 0)
		}
	})
	return true
}

// flooded is a check that is pushed by those who read no acknowledgement.
var flooded = name{"host00", "flood"}

const (
	floodSize   = 12_000 // pushes at once
	floodRun    = 1_000  // of these with the same status
	floodStream = bus.StreamResults
)

// flood pushes so fast that a stream which lets few wait refuses some, of others,
// too. What it stored of them counts.
func (a *attacker) flood() bool {
	nc := a.anyone.NATS()
	for i := range floodSize {
		status := events.Statuses()[i/floodRun%len(events.Statuses())]
		if nc.Publish(events.ResultSubject(flooded.Host, flooded.Check), fmt.Appendf(nil, `{"status":%q}`, status)) != nil {
			return false
		}
	}
	return true
}
