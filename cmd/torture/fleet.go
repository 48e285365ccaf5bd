package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// programs are the paths of what is started.
type programs struct{ Megaphone, NATSServer, NATS string }

// build makes the programs that are not given.
func build(ctx context.Context, o options) (programs, error) {
	bin := programs{o.Megaphone, filepath.Join(o.Dir, "nats-server"), o.NATS}
	var err error
	if bin.Megaphone == "" {
		bin.Megaphone = filepath.Join(o.Dir, "megaphone")
		err = goBuild(ctx, bin.Megaphone, "github.com/looprock/megaphone/cmd/megaphone")
	}
	if o.Bus != embedded {
		err = errors.Join(err, goBuild(ctx, bin.NATSServer, "github.com/nats-io/nats-server/v2"))
	}
	if bin.NATS == "" {
		bin.NATS = filepath.Join(o.Dir, "nats")
		var root []byte
		root, failed := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/looprock/megaphone").Output()
		mod := filepath.Join(strings.TrimSpace(string(root)), "tools", "nats", "go.mod")
		err = errors.Join(err, failed, goBuild(ctx, bin.NATS, "github.com/nats-io/natscli/nats", "-modfile", mod))
	}
	return bin, err
}

func goBuild(ctx context.Context, out, pkg string, flags ...string) error {
	b, err := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", out}, flags, []string{pkg})...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// How many processes of each role there are.
const (
	aggregators = 3
	pollers     = 3
	gateways    = 2
)

// fleet is a whole Megaphone.
type fleet struct {
	dir      string
	log      *slog.Logger
	Bus      busSetup
	Roles    []*process
	Gateways []string          // base URLs
	Relays   map[string]*relay // of each role and subscriber by its name: to the bus, or of curl to the gateways
	Disks    map[string]*disk  // of processes of the bus, by name; empty where none can be made
	Programs []*process        // that subscribe

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// newFleet prepares all processes; Start starts them.
func newFleet(o options, dir string, bin programs, log *slog.Logger) (f *fleet, err error) {
	f = &fleet{dir: dir, log: log, Relays: map[string]*relay{}, Disks: map[string]*disk{}}
	if f.Bus, err = newBus(o.Bus, dir, bin, func(name, path string, args ...string) *process {
		if path == bin.Megaphone {
			return f.megaphone(name, path, o, args...)
		}
		return f.process(name, path, args...)
	}); err != nil {
		return nil, err
	}
	role := func(role string, n int, args ...string) {
		name := role + strconv.Itoa(n+1)
		r, failed := f.relay(name, f.Bus.Addrs)
		if err = errors.Join(err, failed); err != nil {
			return
		}
		args = append([]string{role, "--bus", r.URL(), "--bus-creds", f.Bus.Creds, "--replicas", strconv.Itoa(f.Bus.Replicas)}, args...)
		f.Roles = append(f.Roles, f.megaphone(name, bin.Megaphone, o, args...))
	}
	for i := range aggregators {
		role("aggregator", i)
	}
	for i := range pollers {
		role("poller", i, "--host", "poller"+strconv.Itoa(i+1))
	}
	var web []string
	for i := range gateways {
		address := freeAddress()
		f.Gateways, web = append(f.Gateways, "http://"+address), append(web, address)
		_, port, _ := strings.Cut(address, ":")
		role("gateway", i, "--host", "", "--listen", "127.0.0.1", "--port", port, "--register-wait", "0")
	}
	for name, to := range map[string][]string{iterator: f.Bus.Addrs, watch: f.Bus.Addrs, plain: f.Bus.Addrs, curl: web} {
		_, failed := f.relay(name, to)
		err = errors.Join(err, failed)
	}
	return f, err
}

// relay makes a way to one of some addresses that can be cut and parted.
func (f *fleet) relay(name string, to []string) (*relay, error) {
	r, err := newRelay(to, len(f.Relays))
	if err != nil {
		return nil, err
	}
	f.Relays[name] = r
	return r, nil
}

// megaphone is a process of the program under attack.
func (f *fleet) megaphone(name, path string, o options, args ...string) *process {
	p := f.process(name, path)
	p.args = append(args, "--data", filepath.Join(f.dir, name), "--config", os.DevNull,
		"--interval", o.Interval.String(), "--timeout", "2s", "--ready-file", p.readyFile())
	if o.Verbose {
		p.args = append(p.args, "--verbose")
	}
	return p
}

func (f *fleet) process(name, path string, args ...string) *process {
	p := &process{Name: name, path: path, args: args, dir: f.dir, log: f.log}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MEGAPHONE_") {
			p.env = append(p.env, e)
		}
	}
	return p
}

// processes are all that there are.
func (f *fleet) processes() []*process { return slices.Concat(f.Bus.Procs, f.Roles, f.Programs) }

// Find returns a process by its name; nil if there is none.
func (f *fleet) Find(name string) *process {
	for _, p := range f.processes() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Start starts everything and waits until it answers. Stop it also after an error.
func (f *fleet) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.makeDisks()
	start := func(list []*process) {
		for _, p := range list {
			f.wg.Go(func() {
				if err := p.Run(run); err != nil {
					f.log.Error("process", "name", p.Name, "error", err)
				}
			})
		}
	}
	for _, r := range f.relays() {
		f.wg.Go(func() { r.Run(run) })
	}
	ctx, done := context.WithTimeout(ctx, time.Minute)
	defer done()
	start(f.Bus.Procs)
	if err := f.Bus.WaitReady(ctx); err != nil {
		return err
	}
	start(f.Roles)
	for _, p := range f.Roles {
		if err := p.WaitReady(ctx); err != nil {
			return fmt.Errorf("%w: %s", err, lastLine(p.logFile()))
		}
	}
	return nil
}

// makeDisks gives each process of the bus a disk that can be full, if this
// machine lets us.
func (f *fleet) makeDisks() {
	for _, p := range f.Bus.Procs {
		d, err := newDisk(filepath.Join(f.dir, p.Name))
		if err != nil {
			f.log.Warn("no disk will be full", "error", err)
			return
		}
		f.Disks[p.Name] = d
	}
}

// relays are all ways to the bus and within it.
func (f *fleet) relays() []*relay {
	all := map[*relay]bool{} // a link has two ends
	for _, r := range f.Relays {
		all[r] = true
	}
	for _, links := range f.Bus.Links {
		for _, r := range links {
			all[r] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// Stop kills everything and waits for its end. keep saves what lies on the disks.
func (f *fleet) Stop(keep bool) {
	if f.cancel != nil {
		f.cancel()
	}
	f.wg.Wait()
	for _, d := range f.Disks {
		if err := d.Close(keep); err != nil {
			f.log.Error("disk", "error", err)
		}
	}
}

// processNames lists the names of processes.
func processNames(list []*process) (all []string) {
	for _, p := range list {
		all = append(all, p.Name)
	}
	return all
}
