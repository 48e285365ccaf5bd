package main

import (
	"context"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/looprock/megaphone/bus"
)

// attacker carries a plan out.
type attacker struct {
	fleet *fleet
	conn  *bus.Conn // of the role user
	log   *slog.Logger
	Done  map[act]int
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
	case part:
		join := a.fleet.Relays[f.Target].Part()
		wg.Go(func() {
			sleep(ctx, f.Hold)
			join()
		})
		return true
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
