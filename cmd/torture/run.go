package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// run is one attack on a fleet that has started.
type run struct {
	o     options
	bin   programs
	fleet *fleet
	log   *slog.Logger

	driver      *driver
	pushers     *pushers
	services    *services
	attacker    *attacker
	subscribers []*subscriber
	recorder    *recorder
	evidence    evidence
	verdict     *verdict
	took        time.Duration
}

// settleTime is how long everything may take, once nothing is attacked any
// more, to show and tell the end of the script.
const settleTime = 90 * time.Second

// gatherTime is how long it may take to read everything back, and subscribers to
// catch up.
const gatherTime = 5 * time.Minute

// attack carries script and plan out side by side, gathers the evidence and
// judges it.
func (r *run) attack(ctx context.Context) (err error) {
	role, err := r.fleet.Bus.Connect(ctx)
	if err != nil {
		return err
	}
	defer role.Close()
	anyone, err := bus.Connect(ctx, r.fleet.Bus.URL())
	if err != nil {
		return err
	}
	defer anyone.Close()
	if err := r.prepare(ctx, role, anyone); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	background := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	background("services", r.services.Run)
	background("pushers", r.pushers.Run)
	background("recorder", r.recorder.Run)
	for _, s := range r.subscribers {
		background(s.Name, s.Run)
	}
	began := time.Now()
	if err := r.drive(ctx); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	r.took = time.Since(began)
	ctx, done := context.WithTimeout(ctx, gatherTime)
	defer done()
	if err := r.gather(ctx, role); err != nil {
		return err
	}
	r.verdict = judge(r.evidence)
	return nil
}

func (r *run) prepare(ctx context.Context, role, anyone *bus.Conn) (err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	if r.services, err = newServices(); err != nil {
		return err
	}
	r.pushers = &pushers{conn: anyone, client: client, gateways: r.fleet.Gateways, every: r.o.TTL / 4, checks: map[name]*pusher{}}
	r.driver = &driver{
		o: r.o, log: r.log, conn: anyone, client: client, gateways: r.fleet.Gateways, services: r.services, pushers: r.pushers,
	}
	r.recorder = &recorder{conn: role}
	r.attacker = &attacker{fleet: r.fleet, conn: role, anyone: anyone, log: r.log, Done: map[act]int{}}
	r.subscribers = []*subscriber{
		watchSubscriber(r.fleet.Relays[iterator].URL(), r.log),
		sseSubscriber("sse 1", r.fleet.Gateways, r.log),
		sseSubscriber("sse 2", []string{r.fleet.Gateways[1], r.fleet.Gateways[0]}, r.log),
		r.fleet.curlSubscriber(),
		r.fleet.watchProgram(r.bin.Megaphone),
	}
	if r.o.Results > 0 {
		if err := limitStream(ctx, role, bus.StreamResults, r.o.Results); err != nil {
			return err
		}
	}
	if r.bin.NATS == without {
		return nil
	}
	s, err := r.fleet.natsSubscriber(ctx, r.bin.NATS)
	r.subscribers = append(r.subscribers, s)
	return err
}

// drive runs the script under attack, and to its end when the attack is over.
func (r *run) drive(ctx context.Context) error {
	attacked, cancel := context.WithTimeout(ctx, r.o.Duration)
	defer cancel()
	more, end := context.WithTimeout(ctx, r.o.Duration+settleTime)
	defer end()
	s := setting{
		Roles: processNames(r.fleet.Roles), Bus: processNames(r.fleet.Bus.Procs), Disks: sortedKeys(r.fleet.Disks),
		Relays: sortedKeys(r.fleet.Relays), Watch: processNames(r.fleet.Programs), Pace: r.o.Pace,
	}
	if r.o.Bus == cluster {
		s.Streams = []string{bus.StreamRegistrations, bus.StreamResults, bus.StreamChanges, bus.StreamState, "KV_" + bus.BucketLeases}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.attacker.Run(attacked, plan(r.o.Seed, r.o.Duration, s)) })
	return r.driver.Run(attacked, more)
}

// gather waits for the subscribers, and reads everything back while services
// still push and workers still poll: silence would be told, too.
func (r *run) gather(ctx context.Context, role *bus.Conn) (err error) {
	for _, p := range r.fleet.Roles {
		if err := p.WaitReady(ctx); err != nil {
			return err
		}
	}
	last, err := lastChange(ctx, role)
	if err != nil {
		return err
	}
	e := evidence{Script: r.driver.script, Interval: r.o.Interval, TTL: r.o.TTL, Subscribers: map[string]subscription{}, Last: last}
	for _, s := range r.subscribers {
		wait, cancel := context.WithTimeout(ctx, settleTime)
		if err := eventually(wait, s.Name+" is complete", func() bool { return s.Last() >= last }); err != nil {
			r.log.Warn("subscriber", "error", err) // the verdict tells
		}
		cancel()
		e.Subscribers[s.Name] = s.Got()
	}
	e.AckedRegs, e.AckedPushes = r.driver.acks, r.pushers.Acks()
	if e.Shown, err = r.driver.Shown(ctx); err != nil {
		return err
	}
	if e.Results, e.Ticks, err = r.recorder.Complete(ctx); err != nil {
		return err
	}
	err = history(ctx, role, &e)
	r.evidence = e
	return err
}

// lastChange is the position of the last transition.
func lastChange(ctx context.Context, c *bus.Conn) (uint64, error) {
	s, err := c.JetStream().Stream(ctx, bus.StreamChanges)
	if err != nil {
		return 0, err
	}
	m, err := s.GetLastMsgForSubject(ctx, events.StatusSubjects)
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// report prints the verdict, or how far the attack came.
func (r *run) report(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	line := func(what string, value any) { fmt.Fprintf(w, "%s\t%v\n", what, value) }
	line("bus", r.o.Bus)
	line("seed", r.o.Seed)
	line("checks", r.o.Checks)
	line("time", r.took.Round(time.Second))
	if r.driver != nil {
		line("steps", fmt.Sprintf("%d, the slowest was shown after %s, %d took longer than %s", r.driver.Steps, r.driver.Slowest.Round(100*time.Millisecond), r.driver.Overdue, patience))
		line("faults", r.attacker.Done)
		line("polls", r.services.Polls.Load())
		line("pushes", fmt.Sprintf("%d acknowledged", len(r.pushers.Acks())))
		if n := r.attacker.Done[flood]; n > 0 {
			line("floods", fmt.Sprintf("%d pushes without acknowledgement, %d of them stored", n*floodSize, r.evidence.stored(flooded)))
		}
		line("registrations", fmt.Sprintf("%d acknowledged", len(r.driver.acks)))
	}
	deaths := map[string]int{}
	for _, p := range r.fleet.processes() {
		for _, d := range p.Deaths() {
			deaths[d]++
		}
	}
	for _, d := range sortedKeys(deaths) {
		line("ended by itself", fmt.Sprintf("%d times: %s", deaths[d], d))
	}
	for _, s := range r.subscribers {
		got := s.Got()
		line("subscriber "+s.Name, fmt.Sprintf("%d transitions, %d gaps, %d lost connections", len(got.Positions), got.Gaps, got.Losses))
	}
	if v := r.verdict; v != nil {
		v.print(line)
	}
	if r.driver != nil {
		line("unacknowledged", fmt.Sprintf("%d pushes, %d registrations: repeated until they were", r.pushers.Unacked.Load(), r.driver.Unregistered.Load()))
	}
}

func (v *verdict) print(line func(string, any)) {
	for _, c := range v.Cases {
		line("case", c)
	}
	line("flips", v.Flips)
	line("transitions", fmt.Sprintf("%d of checks, %d of hosts", v.Transitions, v.HostTransitions))
	line("stale with right", fmt.Sprintf("%d away, %d silent, %d returned to the same status", v.Away, v.Silent, v.Returned))
	line("silence of pushes told", fmt.Sprintf("at most %s after its deadline %s", v.Latest.Round(time.Millisecond), v.LatestOf))
	line("lost", v.Lost)
	line("repeated", v.Repeated)
	line("gaps", v.Gaps)
	line("wrong", v.Wrong)
	line("false alarms", v.FalseAlarms)
	line("acknowledged but missing", fmt.Sprintf("%d pushes, %d registrations", v.MissingPushes, v.MissingRegistrations))
	line("subscribers with another list", v.Subscribers)
}
