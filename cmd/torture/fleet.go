package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// programs are the paths of what is started.
type programs struct{ Megaphone, NATSServer string }

// build makes the programs that are not given.
func build(ctx context.Context, dir, megaphone, kind string) (programs, error) {
	bin := programs{megaphone, filepath.Join(dir, "nats-server")}
	var err error
	if bin.Megaphone == "" {
		bin.Megaphone = filepath.Join(dir, "megaphone")
		err = goBuild(ctx, bin.Megaphone, "github.com/looprock/megaphone/cmd/megaphone")
	}
	if kind != embedded {
		err = errors.Join(err, goBuild(ctx, bin.NATSServer, "github.com/nats-io/nats-server/v2"))
	}
	return bin, err
}

func goBuild(ctx context.Context, out, pkg string) error {
	b, err := exec.CommandContext(ctx, "go", "build", "-o", out, pkg).CombinedOutput()
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
	Relays   map[string]*relay // to the bus: of each role by its name, and of the subscriber

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// newFleet prepares all processes; Start starts them.
func newFleet(o options, dir string, bin programs, log *slog.Logger) (f *fleet, err error) {
	f = &fleet{dir: dir, log: log, Relays: map[string]*relay{}}
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
		r, failed := f.relay(name)
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
	for i := range gateways {
		address := freeAddress()
		f.Gateways = append(f.Gateways, "http://"+address)
		_, port, _ := strings.Cut(address, ":")
		role("gateway", i, "--host", "", "--listen", "127.0.0.1", "--port", port, "--register-wait", "0")
	}
	_, failed := f.relay(watcher)
	return f, errors.Join(err, failed)
}

// watcher is the name of the subscriber that has a relay.
const watcher = "watch"

// relay makes a way to the bus that can be cut and parted.
func (f *fleet) relay(name string) (*relay, error) {
	r, err := newRelay(f.Bus.Addrs, len(f.Relays))
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

// Find returns a process by its name; nil if there is none.
func (f *fleet) Find(name string) *process {
	for _, p := range append(f.Bus.Procs, f.Roles...) {
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
	start := func(list []*process) {
		for _, p := range list {
			f.wg.Go(func() {
				if err := p.Run(run); err != nil {
					f.log.Error("process", "name", p.Name, "error", err)
				}
			})
		}
	}
	for _, r := range f.Relays {
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

// Stop kills everything and waits for its end.
func (f *fleet) Stop() {
	if f.cancel != nil {
		f.cancel()
	}
	f.wg.Wait()
}

// processNames lists the names of processes.
func processNames(list []*process) (all []string) {
	for _, p := range list {
		all = append(all, p.Name)
	}
	return all
}
