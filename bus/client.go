package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// OverrideRequest is the body of a request on events.OverrideRequest: an
// override to set, or with Clear the one to end.
type OverrideRequest struct {
	events.Override
	Clear bool `json:"clear,omitempty"`
}

// Stored is the answer to requests that change something.
type Stored struct {
	Position uint64 `json:"position"` // in REGISTRATIONS
}

// Register registers a check, or replaces what is registered under its host and
// id. It returns once the registration is valid, stored and on disk, with its
// position in REGISTRATIONS. The error wraps [ErrRefused] or [ErrNoService].
func (c *Conn) Register(ctx context.Context, r events.Registration) (position uint64, err error) {
	var s Stored
	err = c.request(ctx, events.RegisterRequest, r, &s)
	return s.Position, err
}

// Deregister ends a registration. The error wraps [ErrRefused], also where there
// is none, or [ErrNoService].
func (c *Conn) Deregister(ctx context.Context, host, check string) error {
	return c.request(ctx, events.DeregisterRequest, events.Deregistration{Host: host, Check: check}, nil)
}

// SetOverride sets a status by hand, for a check or a host. It returns once the
// override is valid, stored and on disk. The error wraps [ErrRefused] or [ErrNoService].
func (c *Conn) SetOverride(ctx context.Context, o events.Override) error {
	return c.request(ctx, events.OverrideRequest, OverrideRequest{Override: o}, nil)
}

// ClearOverride ends the override of a check, or with an empty check of a host.
// The error wraps [ErrRefused], also where there is none, or [ErrNoService].
func (c *Conn) ClearOverride(ctx context.Context, host, check string) error {
	o := OverrideRequest{Override: events.Override{Host: host, Check: check}, Clear: true}
	return c.request(ctx, events.OverrideRequest, o, nil)
}

// Status asks a gateway for the present state of hosts or checks, which it
// answers from memory. The error wraps [ErrRefused] or [ErrNoService].
func (c *Conn) Status(ctx context.Context, q events.StatusQuery) (events.StatusAnswer, error) {
	var a events.StatusAnswer
	err := c.request(ctx, events.StatusRequest, q, &a)
	return a, err
}

// Poll has a check polled now and returns its view with what was found. A result
// that is not older than fresh, or than a second, is as good; a poll under way is
// waited for. Give ctx a deadline beyond the check's timeout. The error wraps
// [ErrRefused], also where no worker has the check, or [ErrNoService].
func (c *Conn) Poll(ctx context.Context, host, check string, fresh time.Duration) (events.PollAnswer, error) {
	var a events.PollAnswer
	err := c.request(ctx, events.PollRequest, events.PollQuery{Host: host, Check: check, Fresh: events.Duration(fresh)}, &a)
	return a, err
}

// PollNow asks the worker that holds a check's partition of its pool to poll it.
// It needs the role user. The error wraps [ErrNoService] where nobody holds it.
func (c *Conn) PollNow(ctx context.Context, pool string, o events.PollOrder) (events.PollReply, error) {
	var r events.PollReply
	err := c.request(ctx, events.PollSubject(pool, events.PoolPartition(pool, o.Host, o.Check)), o, &r)
	return r, err
}

// requestTimeout bounds a request whose context has no deadline.
const requestTimeout = 10 * time.Second

func (c *Conn) request(ctx context.Context, subject string, in, out any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode the request %s: %w", subject, err)
	}
	m, err := c.nc.RequestWithContext(ctx, subject, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("request %s: %w", subject, ErrNoService)
	case err != nil:
		return fmt.Errorf("request %s: %w", subject, err)
	}
	if reason := m.Header.Get(micro.ErrorHeader); reason != "" {
		code, err := strconv.Atoi(m.Header.Get(micro.ErrorCodeHeader))
		return &refusal{reason: reason, later: err == nil && code >= http.StatusInternalServerError}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		return fmt.Errorf("read the answer of %s: %w", subject, err)
	}
	return nil
}
