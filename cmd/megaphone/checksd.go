package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

const checksDAtOnce = 256 // registrations under way

// registrar is the part of a registry that checks.d needs.
type registrar interface {
	Check(host, id string) (bus.Entry, bool)
	Checks() []bus.Entry
	Register(context.Context, events.Registration) (uint64, error)
	Deregister(ctx context.Context, host, check, reason string) (bool, uint64, error)
}

// checksDir keeps what is registered equal to a directory of JSON files. A file
// holds one registration or a list of them, and owns them: what is gone from it
// is deregistered. A file that cannot be read changes nothing.
type checksDir struct {
	jsonDir
	host  string // of registrations that name none
	alone bool   // nobody else registers from files on this bus
	reg   registrar

	local      *localChecks
	registered map[checkName]string // by this process: its origin
}

type checkName struct{ host, id string }

// newChecksDir makes one that does nothing before Run. alone says that no other
// process registers from files of its own on this bus, so that all checks that
// files own are those of this directory. Without a registrar nothing is
// registered: a worker on its own needs to know what its host's files say.
func newChecksDir(path, host string, alone bool, reg registrar, log *slog.Logger) *checksDir {
	return &checksDir{
		jsonDir: newJSONDir(path, "checks.d", "its checks stay as they were", log),
		host:    host, alone: alone, reg: reg, local: &localChecks{}, registered: map[checkName]string{},
	}
}

// Run follows the directory until ctx ends, then returns nil. The caller has
// called Sync once.
func (d *checksDir) Run(ctx context.Context) error { return d.follow(ctx, d.Sync) }

// Sync makes the registry equal to the files once. What fails is logged and
// tried again by Run.
func (d *checksDir) Sync(ctx context.Context) {
	names, err := d.files()
	if err != nil {
		d.fault(d.path, err)
		return // as it was: a directory that cannot be read says nothing
	}
	wanted, broken := map[checkName]events.Registration{}, map[string]bool{}
	for _, name := range names {
		list, err := d.read(name)
		if err != nil {
			broken[events.OriginFile+name] = true
			d.fault(name, err)
			continue
		}
		d.collect(name, list, wanted)
	}
	d.local.set(wanted, broken)
	if d.reg == nil {
		return
	}
	var g errgroup.Group // whose writes share one write to the disk
	g.SetLimit(checksDAtOnce)
	for name, r := range wanted {
		d.registered[name] = r.Origin
		g.Go(func() error { d.register(ctx, name, r); return nil })
	}
	_ = g.Wait() // always nil: each has logged
	d.forget(ctx, wanted, broken)
}

// collect adds the checks of a file. Of two files with the same check the first
// by name has it.
func (d *checksDir) collect(file string, list []events.Registration, wanted map[checkName]events.Registration) {
	var fault error
	for _, r := range list {
		name := checkName{r.Host, r.ID}
		if first, ok := wanted[name]; ok {
			fault = fmt.Errorf("check %s is also in %s, which has it", named(r.ID, r.Host), strings.TrimPrefix(first.Origin, events.OriginFile))
			continue
		}
		wanted[name] = r
	}
	d.fault(file, fault)
}

// read returns the registrations of a file, complete and valid.
func (d *checksDir) read(name string) ([]events.Registration, error) {
	list, err := readList[events.Registration](&d.jsonDir, name, "registration")
	if err != nil {
		return nil, err
	}
	for i := range list {
		r := &list[i]
		if r.Host == "" {
			r.Host = d.host
		}
		r.Origin = events.OriginFile + name
		if r.Host, err = events.ParseHost(r.Host); err == nil {
			err = r.ValidateStrict()
		}
		if err == nil && r.Local() && r.Host != d.host {
			err = fmt.Errorf("check %s looks at the machine itself: it can be one of %s only", named(r.ID, r.Host), d.host)
		}
		if err != nil {
			return nil, fmt.Errorf("registration %d: %w", i+1, err)
		}
	}
	return list, nil
}

// register publishes a registration unless the registry has it already.
func (d *checksDir) register(ctx context.Context, name checkName, r events.Registration) {
	had, ok := d.reg.Check(name.host, name.id)
	if ok && had.Registration.Origin == r.Origin && had.Registration.Equal(r) {
		return
	}
	if _, err := d.reg.Register(ctx, r); err != nil {
		if ctx.Err() == nil {
			d.log.Error("register from checks.d", "host", name.host, "check", name.id, "origin", r.Origin, "error", err)
		}
		return
	}
	d.log.Debug("registered", "host", name.host, "check", name.id, "origin", r.Origin)
}

// forget deregisters what the files owned and have no longer.
func (d *checksDir) forget(ctx context.Context, wanted map[checkName]events.Registration, broken map[string]bool) {
	for _, e := range d.reg.Checks() {
		r := e.Registration
		name := checkName{r.Host, r.ID}
		_, stays := wanted[name]
		if stays || broken[r.Origin] || !d.owns(name, r.Origin) {
			continue
		}
		if _, _, err := d.reg.Deregister(ctx, r.Host, r.ID, "gone from "+strings.TrimPrefix(r.Origin, events.OriginFile)); err != nil {
			if ctx.Err() == nil {
				d.log.Error("deregister from checks.d", "host", r.Host, "check", r.ID, "error", err)
			}
			continue
		}
		delete(d.registered, name)
		d.log.Info("deregistered: gone from its file", "host", r.Host, "check", r.ID, "origin", r.Origin)
	}
}

// owns reports whether a check that some file owns is one of this directory's:
// other hosts on the bus have files of the same names.
func (d *checksDir) owns(name checkName, origin string) bool {
	if !strings.HasPrefix(origin, events.OriginFile) {
		return false
	}
	return d.alone || name.host == d.host || d.registered[name] == origin
}
