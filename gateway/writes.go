package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// The writes, the same for HTTP, events and the bus service. Each returns once
// what it wrote is stored, and readers of this gateway see it.

// writeTimeout bounds a write. The client's going away does not end it: what was
// begun is finished.
const writeTimeout = 10 * time.Second

func (s *Server) writing(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if !s.conn.NATS().IsConnected() {
		return nil, nil, refuse(http.StatusServiceUnavailable, "the bus is away: nothing was stored, try again")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	return ctx, cancel, nil
}

// owned refuses to touch a check that belongs to a file. Until the registrations are
// read nobody knows.
func (s *Server) owned(ctx context.Context, host, check string) error {
	select {
	case <-s.reg.Ready():
	case <-ctx.Done():
		return fmt.Errorf("wait for the registrations: %w", ctx.Err())
	}
	e, ok := s.reg.Check(host, check)
	if file, owned := strings.CutPrefix(e.Registration.Origin, events.OriginFile); ok && owned {
		return refuse(http.StatusConflict, "check %q of %s belongs to the file %s: change it there", check, host, file)
	}
	return nil
}

// register registers a check. Its host must be a valid name.
func (s *Server) register(ctx context.Context, reg events.Registration) (position uint64, created bool, err error) {
	ctx, cancel, err := s.writing(ctx)
	if err != nil {
		return 0, false, err
	}
	defer cancel()
	if err := s.owned(ctx, reg.Host, reg.ID); err != nil {
		return 0, false, err
	}
	_, there := s.reg.Check(reg.Host, reg.ID)
	position, err = s.reg.Register(ctx, reg)
	if err != nil {
		return 0, false, err
	}
	s.view.RefreshRegistration(reg.Host, reg.ID)
	return position, !there, nil
}

func (s *Server) deregister(ctx context.Context, host, check, reason string) error {
	ctx, cancel, err := s.writing(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := s.owned(ctx, host, check); err != nil {
		return err
	}
	found, _, err := s.reg.Deregister(ctx, host, check, reason)
	if err != nil {
		return err
	}
	s.view.RefreshRegistration(host, check)
	if !found {
		return refuse(http.StatusNotFound, "no check %q is registered of %s", check, host)
	}
	return nil
}

// setOverride sets an override and waits a little until it shows.
func (s *Server) setOverride(ctx context.Context, o events.Override) error {
	waiting := ctx
	ctx, cancel, err := s.writing(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	position, err := s.reg.SetOverride(ctx, o)
	if err != nil {
		return err
	}
	s.overrideChanged(waiting, o.Host, o.Check, position)
	return nil
}

func (s *Server) clearOverride(ctx context.Context, host, check, name string) error {
	waiting := ctx
	ctx, cancel, err := s.writing(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	found, _, err := s.reg.ClearOverride(ctx, host, check, name)
	if err != nil {
		return err
	}
	s.overrideChanged(waiting, host, check, 0)
	if !found {
		return refuse(http.StatusNotFound, "no override is set there")
	}
	return nil
}

func (s *Server) overrideChanged(ctx context.Context, host, check string, position uint64) {
	if host == "" {
		return // it selects by label: whatever it concerns follows by itself
	}
	s.view.RefreshRegistration(host, check)
	s.view.WaitOverride(ctx, host, check, position)
}

// pushed is a push as it is stored.
type pushed struct {
	host, check string
	result      events.Result
	body        []byte // the event
	id          string // by which a repetition is recognised
}

// push stores the status that a service tells of itself. With visible it waits a
// little until readers see it.
func (s *Server) push(ctx context.Context, p pushed, visible bool) error {
	if e, ok := s.reg.Check(p.host, p.check); ok && !e.Registration.Push() {
		return refuse(http.StatusConflict, "check %q of %s is polled, so that nobody can push its status: register it without a url", p.check, p.host)
	}
	waiting := ctx
	ctx, cancel, err := s.writing(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	shows := s.view.Shows(p.host, p.check, p.result)
	position, err := s.conn.Store(ctx, bus.Message(events.ResultSubject(p.host, p.check), p.body), jetstream.WithMsgID(p.id))
	if err != nil {
		return err
	}
	if visible && !shows {
		s.view.Settled(waiting, p.host, p.check, position)
	}
	return nil
}

// pushResult is push for data without an event around it.
func (s *Server) pushResult(ctx context.Context, host, check string, r events.Result) error {
	h := events.Header{
		Type: events.TypeResult, Source: "urn:megaphone:gateway:" + events.Token(s.cfg.Name), ID: nuid.Next(),
		Host: host, Check: check, Time: time.Now(),
	}
	body, err := events.Encode(h, r)
	if err != nil {
		return err
	}
	return s.push(ctx, pushed{host, check, r, body, h.Source + " " + h.ID}, true)
}

// readResult reads the body of a push. What only workers say is left out.
func readResult(b []byte) (events.Result, error) {
	var r events.Result
	if t := bytes.TrimLeft(b, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return r, refuse(http.StatusBadRequest, `the body must be a JSON object such as {"status":"OK","message":"all is well"}`)
	}
	if err := r.UnmarshalJSON(b); err != nil {
		return r, err
	}
	r.Worker, r.Pool, r.Reg, r.Lease, r.Due, r.Suspect = "", "", 0, 0, 0, ""
	return r, nil
}
