package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// driver carries the script out: it registers checks, lets services say
// something else, and goes on once a gateway shows it.
type driver struct {
	o        options
	log      *slog.Logger
	conn     *bus.Conn // of a client without credentials
	client   *http.Client
	gateways []string
	services *services
	pushers  *pushers

	random  *rand.Rand // of the seed
	checks  []name
	now     []events.Status // what each check says
	known   int             // how many are registered
	script  map[name][]told // of polled checks
	mute    map[int]bool    // pushed checks that say nothing until that is told
	number  map[name]uint64 // of each check when the last step was shown
	Steps   int
	Overdue int // steps that were not shown within patience
	Slowest time.Duration

	Unregistered atomic.Int64 // registrations that were not acknowledged, and tried again

	mu   sync.Mutex
	acks []ack
}

// patience is how long a step may take to be shown until it is reported: well
// beyond the longest fault.
const patience = time.Minute

// Run goes from step to step until ctx ends, and then waits for the last one to
// be shown for as long as more lives.
func (d *driver) Run(ctx, more context.Context) error {
	d.random = rand.New(rand.NewPCG(d.o.Seed, 0))
	d.checks = names(d.o.Checks)
	d.now = make([]events.Status, len(d.checks))
	d.script, d.mute, d.number = map[name][]told{}, map[int]bool{}, map[name]uint64{}
	if err := d.register(more, len(d.checks)*4/5); err != nil {
		return err
	}
	for {
		if err := d.wait(more); err != nil {
			return err
		}
		over := ctx.Err() != nil
		if err := d.step(more); err != nil {
			return err
		}
		if over && d.known == len(d.checks) && len(d.mute) == 0 {
			return d.wait(more) // a whole step that nobody attacked
		}
	}
}

// step lets checks flip, registers some more, and some again: what is registered
// already must not change by it.
func (d *driver) step(ctx context.Context) error {
	d.Steps++
	d.silence()
	flips := nextStep(d.o.Seed, d.Steps, d.now[:d.known])
	for i := range d.known {
		if status, ok := flips[i]; ok && !d.mute[i] {
			d.tell(i, status)
		}
	}
	for range len(d.checks) / 100 {
		if err := d.registerOne(ctx, d.random.IntN(d.known)); err != nil {
			return err
		}
	}
	return d.register(ctx, min(d.known+len(d.checks)/20+1, len(d.checks)))
}

// muteEvery is how many steps there are between those in which some services
// that push fall silent: such a step takes a ttl at least.
const muteEvery = 4

// silence lets those that were silent speak again, and now and then a few others
// fall silent.
func (d *driver) silence() {
	for i := range d.mute {
		d.pushers.Mute(d.checks[i], false)
	}
	clear(d.mute)
	if d.Steps%muteEvery != 0 {
		return
	}
	for i := range d.known {
		if !polled(i) && d.random.IntN(20) == 0 {
			d.mute[i] = true
			d.pushers.Mute(d.checks[i], true)
		}
	}
}

// tell makes the service of a check say something.
func (d *driver) tell(i int, status events.Status) {
	n, before := d.checks[i], d.now[i]
	d.now[i] = status
	if !polled(i) {
		d.pushers.Say(n, d.burst(before, status)...)
		return
	}
	d.script[n] = append(d.script[n], d.services.Set(n, status))
}

// burst is a way from one status to another: every push that is acknowledged
// counts, however fast the next one comes.
func (d *driver) burst(before, after events.Status) (way []events.Status) {
	for range d.random.IntN(5) {
		if s := events.Statuses()[d.random.IntN(4)]; s != before {
			way, before = append(way, s), s
		}
	}
	if before != after {
		way = append(way, after)
	}
	return way
}

// register makes the first n checks known. Their services speak from the first
// moment on; half of those that push do not wait until they are registered.
func (d *driver) register(ctx context.Context, n int) error {
	var wg sync.WaitGroup
	next := make(chan int)
	var failed atomic.Pointer[error]
	for range 8 {
		wg.Go(func() {
			for i := range next {
				if err := d.registerOne(ctx, i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	for i := d.known; i < n; i++ {
		d.now[i] = events.Statuses()[i%4]
		switch {
		case polled(i):
			d.tell(i, d.now[i])
		case hasty(i):
			d.pushers.Add(d.checks[i], d.now[i])
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	for i := d.known; i < n; i++ {
		if !polled(i) && !hasty(i) {
			d.pushers.Add(d.checks[i], d.now[i])
		}
	}
	d.known = n
	return nil
}

// registerOne tries until a registration is acknowledged.
func (d *driver) registerOne(ctx context.Context, i int) error {
	r := events.Registration{Host: d.checks[i].Host, ID: d.checks[i].Check}
	if polled(i) {
		r.URL, r.Interval, r.Pool = json.RawMessage(fmt.Sprintf("%q", d.services.URL(d.checks[i]))), events.Duration(d.o.Interval), events.DefaultPool
	} else {
		r.TTL = events.Duration(d.o.TTL)
	}
	for over := i; ; over++ {
		position, err := d.tryRegister(ctx, r, over%(len(d.gateways)+1))
		if err == nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.acks = append(d.acks, ack{Name: d.checks[i], Position: position})
			return nil
		}
		d.Unregistered.Add(1)
		if errors.Is(err, bus.ErrRefused) {
			d.log.Warn("registration is refused", "check", d.checks[i], "error", err)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return fmt.Errorf("register %s: %w", d.checks[i], err)
		}
	}
}

func (d *driver) tryRegister(ctx context.Context, r events.Registration, over int) (position uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if over == len(d.gateways) {
		return d.conn.Register(ctx, r)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	code, text, err := send(ctx, d.client, http.MethodPut, d.gateways[over]+"/hosts/"+r.Host+"/checks/"+r.ID, string(body))
	if err == nil && code != http.StatusCreated && code != http.StatusOK {
		err = fmt.Errorf("%d: %s", code, text)
	}
	return 0, err
}

// wait waits until a gateway shows what all checks say.
func (d *driver) wait(ctx context.Context) error {
	began, told := time.Now(), false
	open := map[string]string{} // hosts that do not show it yet, and the first such check
	for _, n := range d.checks[:d.known] {
		open[n.Host] = ""
	}
	for len(open) > 0 {
		if took := time.Since(began); took > patience && !told {
			told = true
			d.Overdue++
			d.log.Warn("a step is not shown", "step", d.Steps, "after", took, "hosts", open)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return fmt.Errorf("wait for step %d, %v: %w", d.Steps, open, context.Cause(ctx))
		}
		for host := range open {
			views, err := d.views(ctx, host)
			if open[host] = fmt.Sprint(err); err != nil {
				continue
			}
			if open[host] = d.differs(host, views); open[host] == "" {
				delete(open, host)
				for n, v := range views {
					d.number[n] = v.Number
				}
			}
		}
	}
	d.Slowest = max(d.Slowest, time.Since(began))
	return nil
}

// differs tells the first check of a host that does not show what it says.
func (d *driver) differs(host string, views map[name]events.CheckView) string {
	for i, n := range d.checks[:d.known] {
		v := views[n]
		switch {
		case n.Host != host:
		case d.mute[i] && (v.Phase != events.Stale || v.Number <= d.number[n]): // a gateway's own clock is not enough
			return fmt.Sprintf("%s is %s %s number %d, not silent", n, v.Status, v.Phase, v.Number)
		case !d.mute[i] && (v.Phase != events.Live || v.Status != d.now[i]):
			return fmt.Sprintf("%s is %s %s number %d, not %s", n, v.Status, v.Phase, v.Number, d.now[i])
		}
	}
	return ""
}

// views asks one of the gateways.
func (d *driver) views(ctx context.Context, host string) (map[name]events.CheckView, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	code, text, err := send(ctx, d.client, http.MethodGet, d.gateways[rand.IntN(len(d.gateways))]+"/hosts/"+host+"/checks", "")
	if err != nil {
		return nil, err
	}
	var answer struct{ Checks []events.CheckView }
	if code != http.StatusOK {
		return nil, fmt.Errorf("%d: %s", code, text)
	}
	views := map[name]events.CheckView{}
	err = json.Unmarshal([]byte(text), &answer)
	for _, v := range answer.Checks {
		views[name{v.Host, v.Check}] = v
	}
	return views, err
}

// Shown returns the final view of all checks.
func (d *driver) Shown(ctx context.Context) (map[name]shown, error) {
	all := map[name]shown{}
	for _, n := range d.checks[:d.known] {
		if _, ok := all[n]; ok {
			continue
		}
		views, err := d.views(ctx, n.Host)
		if err != nil {
			return nil, fmt.Errorf("ask for the final view of %s: %w", n.Host, err)
		}
		for n, v := range views {
			all[n] = shown{v.Status, v.Phase, v.Number}
		}
	}
	return all, nil
}
