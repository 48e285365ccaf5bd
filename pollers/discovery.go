package pollers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"golang.org/x/sync/errgroup"
)

const (
	// LookInterval is between two looks, and so how soon something is discovered.
	// After a look that took long the pause is lookShare times as long, so that a
	// fifth of the time is spent looking at most, up to maxPause.
	LookInterval = time.Second
	lookShare    = 4
	maxPause     = 5 * time.Second
	idlePause    = 30 * time.Second // while there are no rules

	lookTimeout  = 5 * time.Second        // of one look at all sources
	wakePause    = 100 * time.Millisecond // between two looks, whoever wakes
	writesAtOnce = 64                     // that share one write to the disk
)

// Registrar is the part of a [bus.Registry] that discovery needs.
type Registrar interface {
	Check(host, id string) (bus.Entry, bool)
	HostChecks(host string) []bus.Entry
	Register(context.Context, events.Registration) (uint64, error)
	Deregister(ctx context.Context, host, check, reason string) (bool, uint64, error)
}

// DiscoveryConfig is what a [Discovery] needs. Registry and Host are required.
type DiscoveryConfig struct {
	Conn     *bus.Conn // on which services are looked for; nil finds none
	Registry Registrar
	Host     string
	// Remembered is what Remember was given last, by an earlier process; nil for
	// nothing. Both bridge a restart: what vanishes in between is known to be gone.
	Remembered []byte
	Remember   func([]byte) error // nil: nothing is remembered
	Logger     *slog.Logger       // nil discards
}

// Discovery registers what rules find on this host. Its [Worker] runs it while it
// polls the checks of its own host, so that one process does so for each host.
// Its exported methods are safe for concurrent use.
type Discovery struct {
	conf      DiscoveryConfig
	log       *slog.Logger
	processes processes
	pinger    *pinger
	wake      chan struct{}

	told       faults // at the last look
	remembered []byte

	mu   sync.Mutex
	set  ruleSet
	have ledger
}

// NewDiscovery returns one without rules.
func NewDiscovery(c DiscoveryConfig) *Discovery {
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler)).With("component", "discovery")
	d := &Discovery{conf: c, log: c.Logger, wake: make(chan struct{}, 1), told: faults{}, remembered: c.Remembered}
	d.pinger = &pinger{wake: d.rouse, known: map[string]instance{}}
	if c.Conn != nil {
		d.pinger.conn = c.Conn.NATS()
	}
	var err error
	if d.have, err = readLedger(c.Remembered, c.Host); err != nil {
		d.log.Error("what was discovered before is not known", "error", err)
	}
	return d
}

// SetRules replaces the rules. complete says that these are all there are: while it
// is false nothing is deregistered because its rule is not there. An error, which
// wraps [ErrRule], changes nothing: a rule is not valid, a name is there twice, or
// there are more than [MaxRules].
func (d *Discovery) SetRules(rules []Rule, complete bool) error {
	if len(rules) > MaxRules {
		return wrong("%d rules, %d are allowed", len(rules), MaxRules)
	}
	set := ruleSet{complete: complete}
	for _, r := range rules {
		one, err := compile(r, d.conf.Host)
		if err != nil {
			return err
		}
		if set.index(r.Name) >= 0 {
			return wrong("rule %s is there twice", r.Name)
		}
		set.rules = append(set.rules, one)
	}
	d.mu.Lock()
	d.set = set
	d.mu.Unlock()
	d.rouse()
	return nil
}

// Check returns what this process itself discovered under a host and an id.
// Nothing that is known from the bus alone is here.
func (d *Discovery) Check(host, id string) (events.Registration, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.have[id]
	if f == nil || f.adopted || f.yields || host != d.conf.Host {
		return events.Registration{}, false
	}
	return f.Registration, true
}

// rouse makes run look soon.
func (d *Discovery) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// begin looks once without registering anything, so that [Discovery.Check] knows
// what the worker is about to poll. What is registered as discovered and not
// known, because another worker of this host did or the memory was lost, is taken
// over: it has vanished until it is found.
func (d *Discovery) begin(ctx context.Context) {
	entries := d.conf.Registry.HostChecks(d.conf.Host)
	d.mu.Lock()
	for _, e := range entries {
		rule, ok := strings.CutPrefix(e.Registration.Origin, events.OriginDiscovered)
		if ok && d.have[e.Registration.ID] == nil {
			d.have[e.Registration.ID] = &discovered{Rule: rule, Registration: e.Registration, adopted: true}
		}
	}
	d.mu.Unlock()
	d.look(ctx)
}

// run looks and registers until ctx ends.
func (d *Discovery) run(ctx context.Context) {
	defer d.pinger.stop()
	for ctx.Err() == nil {
		start := time.Now()
		bad, rules := d.look(ctx)
		pause := min(max(LookInterval, lookShare*time.Since(start)), maxPause)
		if rules == 0 {
			pause = idlePause
		}
		d.settle(ctx, bad)
		d.tell(bad)
		if !sleep(ctx, wakePause) {
			return
		}
		timer := time.NewTimer(pause - wakePause)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look enters into the ledger what is there now. It returns what is wrong, and
// how many rules there are.
func (d *Discovery) look(ctx context.Context) (faults, int) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	d.mu.Lock()
	set := d.set
	d.mu.Unlock()
	looks := d.sources(ctx, set.rules)
	if ctx.Err() != nil { // whatever is missing may have had no time to be seen
		for i := range looks {
			looks[i].err = cmp.Or(looks[i].err, fmt.Errorf("the look took more than %s", lookTimeout))
		}
	}
	d.mu.Lock()
	bad, news := d.have.see(time.Now(), set, looks)
	d.mu.Unlock()
	for _, text := range news {
		d.log.Info(text)
	}
	return bad, len(set.rules)
}

// sources looks for each rule, at each source once.
func (d *Discovery) sources(ctx context.Context, rules []*rule) []look {
	looks := make([]look, len(rules))
	of := func(s source, each func(r *rule) look) {
		for i, r := range rules {
			if r.source == s {
				looks[i] = each(r)
			}
		}
	}
	used := map[source]bool{}
	for _, r := range rules {
		used[r.source] = true
	}
	if used[fromProcesses] {
		of(fromProcesses, d.processes.looker(ctx))
	}
	if used[fromUnits] {
		units, err := listUnits(ctx)
		of(fromUnits, func(r *rule) look { return look{unitThings(r, units), err} })
	}
	if !used[fromServices] {
		d.pinger.stop()
		return looks
	}
	there, err := d.pinger.ask(ctx)
	of(fromServices, func(r *rule) look { return look{serviceThings(r, there), err} })
	return looks
}

// settle makes the registry equal to the ledger. What fails is added to what is
// wrong, and tried again after the next look.
func (d *Discovery) settle(ctx context.Context, bad faults) {
	if d.conf.Conn != nil && !d.conf.Conn.NATS().IsConnected() {
		bad["bus"] = errAway
		return
	}
	d.mu.Lock()
	steps := d.have.steps(time.Now(), d.set, func(id string) (events.Registration, bool) {
		e, ok := d.conf.Registry.Check(d.conf.Host, id)
		return e.Registration, ok
	}, bad)
	memory, err := d.have.encode()
	d.mu.Unlock()
	if err == nil {
		err = d.remember(memory)
	}
	if err != nil {
		bad["memory"] = err
	}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(writesAtOnce)
	for _, s := range steps {
		g.Go(func() error {
			if err := d.take(ctx, s); err != nil {
				mu.Lock()
				bad["check "+s.registration.ID] = err
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // always nil: faults are told together
}

// remember keeps the ledger where it has changed.
func (d *Discovery) remember(memory []byte) error {
	if d.conf.Remember == nil || bytes.Equal(memory, d.remembered) {
		return nil
	}
	if err := d.conf.Remember(memory); err != nil {
		return fmt.Errorf("what is discovered will not be known after a restart: %w", err)
	}
	d.remembered = memory
	return nil
}

// take registers or deregisters a check.
func (d *Discovery) take(ctx context.Context, s step) error {
	r := s.registration
	if e, ok := d.conf.Registry.Check(r.Host, r.ID); ok && foreign(e.Registration) {
		return nil // since the look: the next one says so
	}
	log := d.log.With("host", r.Host, "check", r.ID, "origin", r.Origin)
	if s.reason == "" {
		if _, err := d.conf.Registry.Register(ctx, r); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		log.Info("registered")
		return nil
	}
	if _, _, err := d.conf.Registry.Deregister(ctx, r.Host, r.ID, s.reason); err != nil {
		return fmt.Errorf("deregister: %w", err)
	}
	d.mu.Lock()
	delete(d.have, r.ID)
	d.mu.Unlock()
	log.Info("deregistered: " + s.reason)
	return nil
}

// tell logs what is wrong, each thing once until it changes.
func (d *Discovery) tell(bad faults) {
	for _, about := range slices.Sorted(maps.Keys(bad)) {
		err := bad[about]
		if errors.Is(err, context.Canceled) {
			continue
		}
		if last := d.told[about]; last == nil || last.Error() != err.Error() {
			d.log.Error("discovery", "about", about, "error", err)
		}
	}
	d.told = bad
}
