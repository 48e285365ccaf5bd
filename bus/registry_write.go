package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// applyTimeout bounds how long a write waits until this process has read it back.
const applyTimeout = 10 * time.Second

// change is one write to the registry.
type change struct {
	subject string
	kind    string
	host    string
	check   string
	data    any
	cacheID string          // entry of the cache file that it changes; empty for none
	url     json.RawMessage // of that entry; nil takes it out
}

// Register registers a check, or replaces what is registered under its host
// (the local one if it names none) and id. It returns its position once it is
// stored, applied here and on the disk. The error wraps events.ErrRegistration
// and the like where reg is not valid, [ErrCache], [ErrFull] or [ErrTooMany].
func (r *Registry) Register(ctx context.Context, reg events.Registration) (position uint64, err error) {
	if reg.Host == "" {
		reg.Host = r.o.Local
	}
	if reg.Host, err = events.ParseHost(reg.Host); err != nil {
		return 0, err
	}
	if err := reg.Validate(); err != nil {
		return 0, err
	}
	if err := r.await(ctx); err != nil {
		return 0, err
	}
	if err := r.room(reg); err != nil {
		return 0, err
	}
	ch := change{
		subject: events.RegistrationSubject(reg.Host, reg.ID), kind: events.TypeRegistered,
		host: reg.Host, check: reg.ID, data: reg, cacheID: reg.ID, url: reg.URL,
	}
	if reg.Push() {
		ch.url = nil // the original knows no check without a url
	}
	return r.write(ctx, ch)
}

// room refuses one check too many. Registrations at the same time may exceed the
// limit by as many as they are.
func (r *Registry) room(reg events.Registration) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.ix.hosts[reg.Host]
	if h == nil || len(h.checks) < MaxChecks || pick(h.checks, reg.ID, byID) != nil {
		return nil
	}
	return fmt.Errorf("%w: %s has %d", ErrTooMany, reg.Host, len(h.checks))
}

// Deregister ends the registration of a check; found is false where there is
// none. It returns as [Registry.Register] does.
func (r *Registry) Deregister(ctx context.Context, host, check, reason string) (found bool, position uint64, err error) {
	if err := r.await(ctx); err != nil {
		return false, 0, err
	}
	if _, found := r.Check(host, check); !found {
		return false, 0, nil
	}
	position, err = r.write(ctx, change{
		subject: events.RegistrationSubject(host, check), kind: events.TypeDeregistered, host: host, check: check,
		data: events.Deregistration{Host: host, Check: check, Reason: reason}, cacheID: check,
	})
	return true, position, err
}

// SetHost registers the address and labels of a host.
func (r *Registry) SetHost(ctx context.Context, h events.HostRecord) (position uint64, err error) {
	if h.Host, err = events.ParseHost(h.Host); err != nil {
		return 0, err
	}
	if err := validHost(h); err != nil {
		return 0, err
	}
	if err := r.await(ctx); err != nil {
		return 0, err
	}
	return r.write(ctx, change{
		subject: events.RegistrationSubject(h.Host, ""), kind: events.TypeHostRegistered, host: h.Host, data: h,
	})
}

// DeleteHost forgets the address and labels of a host; its checks stay. found is
// false where nothing is registered of it.
func (r *Registry) DeleteHost(ctx context.Context, host string) (found bool, err error) {
	if err := r.await(ctx); err != nil {
		return false, err
	}
	if _, found := r.Host(host); !found {
		return false, nil
	}
	_, err = r.write(ctx, change{
		subject: events.RegistrationSubject(host, ""), kind: events.TypeHostDeregistered, host: host,
		data: events.Deregistration{Host: host},
	})
	return true, err
}

// SetOverride sets an override of a check, of a host, or, where it has a name,
// of all checks that it selects. It replaces the one that is there. Its error is
// as that of [Registry.Register].
func (r *Registry) SetOverride(ctx context.Context, o events.Override) (position uint64, err error) {
	subject, err := overrideSubject(&o)
	if err != nil {
		return 0, err
	}
	if err := o.Validate(); err != nil {
		return 0, err
	}
	if err := r.await(ctx); err != nil {
		return 0, err
	}
	r.mu.RLock()
	err = r.ix.roomFor(record{addr: events.Address{Select: o.Name}, override: &o})
	r.mu.RUnlock()
	if err != nil {
		return 0, err
	}
	ch := change{subject: subject, kind: events.TypeOverrideSet, host: o.Host, check: o.Check, data: o}
	if o.Host != "" && o.Check == "" {
		ch.cacheID, ch.url = events.GlobalID, o.Global
	}
	return r.write(ctx, ch)
}

// ClearOverride ends the override of a check, with an empty check that of a
// host, or by its name one that selects. found is false where there is none.
func (r *Registry) ClearOverride(ctx context.Context, host, check, name string) (found bool, position uint64, err error) {
	o := events.Override{Host: host, Check: check, Name: name}
	subject, err := overrideSubject(&o)
	if err != nil {
		return false, 0, err
	}
	if err := r.await(ctx); err != nil {
		return false, 0, err
	}
	r.mu.RLock()
	_, ended := r.ix.ended[subject]
	found = !ended && r.ix.at(subject) > 0
	r.mu.RUnlock()
	if !found {
		return false, 0, nil
	}
	ch := change{
		subject: subject, kind: events.TypeOverrideCleared, host: o.Host, check: check,
		data: events.Deregistration{Host: o.Host, Check: check, Name: name},
	}
	if check == "" && name == "" {
		ch.cacheID = events.GlobalID
	}
	position, err = r.write(ctx, ch)
	return true, position, err
}

// overrideSubject checks whom an override is of, and folds the host's name.
func overrideSubject(o *events.Override) (subject string, err error) {
	if o.Name != "" {
		if len(o.Name) > events.MaxHost {
			return "", fmt.Errorf("%w: its name has %d bytes, %d are allowed", events.ErrOverride, len(o.Name), events.MaxHost)
		}
		return events.SelectSubject(o.Name), nil
	}
	if o.Host, err = events.ParseHost(o.Host); err != nil {
		return "", err
	}
	if o.Check != "" {
		if _, err := events.ParseCheck(o.Check); err != nil {
			return "", err
		}
	}
	return events.OverrideSubject(o.Host, o.Check), nil
}

// await waits until writes can be taken.
func (r *Registry) await(ctx context.Context) error {
	select {
	case <-r.ready:
	case <-ctx.Done():
		return fmt.Errorf("wait for the registrations: %w", ctx.Err())
	}
	if err := r.journal.broken(); err != nil {
		return fmt.Errorf("registrations file cannot be written: %w", err)
	}
	return nil
}

// write makes a change in the order in which a fault does the least harm: the
// cache file first, because nothing may be registered that it cannot hold; then
// the bus; then, once the change came back, the registrations file.
func (r *Registry) write(ctx context.Context, ch change) (position uint64, err error) {
	undo := func() {}
	if ch.cacheID != "" && ch.host == r.o.Local {
		if undo, err = r.cache.stage(ctx, ch.cacheID, ch.url); err != nil {
			return 0, err
		}
	}
	defer undo()
	position, err = r.publish(ctx, ch.subject, ch.kind, ch.host, ch.check, ch.data)
	if _, ends := ch.data.(events.Deregistration); ends && errors.Is(stored(err), ErrFull) {
		position, err = r.publishEnd(ctx, ch)
	}
	if err != nil {
		return 0, stored(err)
	}
	actx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	if err := r.WaitFor(actx, position); err != nil {
		return position, fmt.Errorf("stored at %d, but not yet read back: %w", position, err)
	}
	return position, r.journal.wait(actx, position)
}

// publishEnd stores the end of something in as few bytes as can be: where there is no
// room the server takes only what is smaller than what it replaces. The subject says
// it all.
func (r *Registry) publishEnd(ctx context.Context, ch change) (position uint64, err error) {
	b, err := events.Encode(events.Header{Type: ch.kind, Source: "urn:megaphone:registry", ID: nuid.Next()}, nil)
	if err != nil {
		return 0, err
	}
	return r.c.Store(ctx, Message(ch.subject, b))
}

// Error codes of the server that say that there is no room.
const (
	codeAccountResources = 10002
	codeNoResources      = 10023
	codeStorageExceeded  = 10047
	codeStoreFailed      = 10077
)

// stored tells a full bus from other faults.
func stored(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeAccountResources, codeNoResources, codeStorageExceeded, codeStoreFailed:
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	return err
}

// StreamFull reports whether a stream refused a write because it is as large as it may
// be. That a disk cannot be written to is something else.
func StreamFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == codeStorageExceeded || api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, "maximum"))
}

// Restore puts back what was valid on a subject before the invalid event at a
// position; where nothing was, it ends the subject, so that the invalid event is
// gone. It does nothing if something else was stored on the subject since. One
// process should do so for each subject: the one that tells the rejection.
func (r *Registry) Restore(ctx context.Context, subject string, invalid uint64) error {
	a, err := events.ParseSubject(subject)
	if err != nil {
		return r.discard(ctx, invalid)
	}
	kind, data := r.former(subject, a)
	_, err = r.publish(ctx, subject, kind, a.Host, a.Check, data, jetstream.WithExpectLastSequencePerSubject(invalid))
	if err != nil && !WrongSequence(err) {
		return fmt.Errorf("restore %s: %w", subject, stored(err))
	}
	return nil
}

// discard takes an event out of the stream by which nobody can be meant: it would stay
// for ever, and a few hundred of the largest leave no room for registrations.
func (r *Registry) discard(ctx context.Context, position uint64) error {
	s, err := r.c.js.Stream(ctx, StreamRegistrations)
	if err == nil {
		err = s.DeleteMsg(ctx, position)
	}
	if err != nil {
		return fmt.Errorf("discard the event at %d: %w", position, err)
	}
	return nil
}

// former is the valid content of a subject, as an event's type and data.
func (r *Registry) former(subject string, a events.Address) (kind string, data any) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	end := events.Deregistration{Host: a.Host, Check: a.Check, Name: a.Select, Reason: "an invalid event was here"}
	_, ended := r.ix.ended[subject]
	there := !ended && r.ix.at(subject) > 0
	switch {
	case a.Kind == "override" && !there:
		return events.TypeOverrideCleared, end
	case a.Select != "":
		return events.TypeOverrideSet, pick(r.ix.selects, a.Select, byName).Override
	case a.Kind == "override" && a.Check == "":
		return events.TypeOverrideSet, r.ix.hosts[a.Host].override.Override
	case a.Kind == "override":
		return events.TypeOverrideSet, pick(r.ix.hosts[a.Host].overrides, a.Check, byCheck).Override
	case a.Check == "" && !there:
		return events.TypeHostDeregistered, end
	case a.Check == "":
		return events.TypeHostRegistered, r.ix.hosts[a.Host].record.record
	case !there:
		return events.TypeDeregistered, end
	}
	return events.TypeRegistered, r.ix.check(a.Host, a.Check).Registration
}
