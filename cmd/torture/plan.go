package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// act is what is done to a process or stream.
type act string

const (
	kill     act = "kill"     // SIGKILL, and start again after Hold
	stop     act = "stop"     // SIGTERM, and start again after Hold
	pause    act = "pause"    // SIGSTOP, and SIGCONT after Hold
	stepDown act = "stepdown" // the leader of a stream hands over
	part     act = "part"     // what it says to the bus and hears from it is held back for Hold
	deafen   act = "deafen"   // what it hears from the bus is held back for Hold, but not what it says
	cut      act = "cut"      // its connections to the bus are cut
	restart  act = "restart"  // all processes of the bus are killed at once
	fill     act = "fill"     // its disk is full for Hold
	flood    act = "flood"    // more is pushed at once than the stream of a nats-server lets wait
	isolate  act = "isolate"  // what this node and the others of a cluster say to each other is held back for Hold
)

// fault is one act of the plan.
type fault struct {
	At     time.Duration // since the start
	Act    act
	Target string // name of a process, of a stream, or of who has a relay
	Hold   time.Duration
}

func (f fault) String() string {
	s := fmt.Sprintf("%s %s %s", f.At.Round(10*time.Millisecond), f.Act, f.Target)
	if f.Hold > 0 {
		s += " for " + f.Hold.Round(10*time.Millisecond).String()
	}
	return s
}

// recovery is how long a process is left alone after it was started again; a
// node of the bus longer, so that at most one node of a cluster is behind.
const (
	recovery    = 3 * time.Second
	busRecovery = 12 * time.Second
)

// setting is what a plan is made for.
type setting struct {
	Roles   []string // processes that are no bus
	Bus     []string // processes of the bus
	Streams []string // whose leaders may step down; empty but in a cluster
	Disks   []string // processes of the bus whose disk may be full
	Relays  []string
	Watch   []string      // programs that subscribe
	Pace    time.Duration // between two faults, on average
}

// plan decides all faults of a run by the seed. A process is not touched again
// before it has recovered, and only one process of the bus is at a time.
func plan(seed uint64, length time.Duration, s setting) []fault {
	p := &planner{r: rand.New(rand.NewPCG(seed, 1)), set: s, free: map[string]time.Duration{}}
	for at := s.Pace; ; at += s.Pace/4 + time.Duration(p.r.Int64N(int64(s.Pace)*3/2)) {
		if at >= length {
			break
		}
		p.next(at)
	}
	slices.SortStableFunc(p.list, func(a, b fault) int { return int(a.At - b.At) })
	return slices.DeleteFunc(p.list, func(f fault) bool { return f.At+f.Hold > length })
}

type planner struct {
	r    *rand.Rand
	set  setting
	free map[string]time.Duration // when a target may be touched again
	list []fault
}

// anyBus is the key of free for all processes of the bus together.
const anyBus = "bus"

func (p *planner) next(at time.Duration) {
	switch n := p.r.IntN(100); {
	case n < 50:
		p.role(at, p.pick(p.set.Roles))
	case n < 58 && len(p.set.Watch) > 0:
		p.role(at, p.pick(p.set.Watch))
	case n < 60:
		p.add(fault{at, flood, floodStream, 0})
	case n < 75:
		p.bus(at)
	case n < 88: // the bus dies while a partition is handed over
		p.role(at, p.pick(only(p.set.Roles, "aggregator")))
		p.bus(at + p.between(0, 4*time.Second))
	case n < 95 && len(p.set.Streams) > 0:
		p.add(fault{at, stepDown, p.pick(p.set.Streams), 0})
	default:
		p.add(fault{at, cut, p.pick(p.set.Relays), 0})
	}
}

func (p *planner) role(at time.Duration, target string) {
	if at < p.free[target] {
		return
	}
	f := fault{at, kill, target, p.between(100*time.Millisecond, 6*time.Second)}
	switch n := p.r.IntN(10); {
	case n < 4: // longer than a lease
		f.Act, f.Hold = pause, p.between(3500*time.Millisecond, 9*time.Second)
	case n < 5:
		f.Act = stop
	case n < 7: // its clock goes on, and it may know that it is alone
		f.Act, f.Hold = part, p.between(3500*time.Millisecond, 12*time.Second)
		if n == 5 { // all that it writes is stored, and it hears of nothing
			f.Act = deafen
		}
	}
	p.free[target] = at + f.Hold + recovery
	p.add(f)
}

// bus spares outages of about 10 s: just below, silence may be told with right
// (see DESIGN.md on outages), and neither telling it nor not would be wrong.
func (p *planner) bus(at time.Duration) {
	if at < p.free[anyBus] {
		return
	}
	f := fault{at, kill, p.pick(p.set.Bus), p.between(100*time.Millisecond, 4*time.Second)}
	switch n := p.r.IntN(20); {
	case n < 4:
		f.Hold = p.between(12*time.Second, 20*time.Second)
	case n < 8:
		f.Act, f.Hold = pause, p.between(500*time.Millisecond, 5*time.Second)
	case n < 10:
		f.Act = stop
	case n < 13 && len(p.set.Disks) > 0: // and restarted after it
		f.Act, f.Target, f.Hold = fill, p.pick(p.set.Disks), p.between(time.Second, 4*time.Second)
	case n < 16 && len(p.set.Bus) > 1: // long enough for the others to choose leaders without it
		f.Act, f.Hold = isolate, p.between(2*time.Second, 15*time.Second)
	case n < 18 && len(p.set.Bus) > 1:
		f.Act, f.Target = restart, anyBus
	}
	p.free[anyBus] = at + f.Hold + busRecovery
	p.add(f)
}

func (p *planner) add(f fault) { p.list = append(p.list, f) }

func (p *planner) pick(of []string) string { return of[p.r.IntN(len(of))] }

func (p *planner) between(a, b time.Duration) time.Duration {
	return a + time.Duration(p.r.Int64N(int64(b-a)))
}

func only(list []string, prefix string) (some []string) {
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			some = append(some, s)
		}
	}
	return some
}
