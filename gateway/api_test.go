package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/micro"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

func TestBusService(t *testing.T) {
	is := is.New(t)
	r := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := r.anonymous()
	pos, err := c.Register(ctx, events.Registration{Host: "web02", ID: "q", TTL: events.Duration(time.Minute), Origin: "cli"})
	is.NoErr(err)
	e, ok := r.reg.Check("web02", "q")
	is.True(ok)
	is.Equal(e.Position, pos)
	is.Equal(e.Registration.Origin, "cli")

	_, err = c.Register(ctx, events.Registration{ID: "local", URL: json.RawMessage(`"http://x/"`), Origin: "file:forged"})
	is.NoErr(err)
	e, ok = r.reg.Check("web01", "local")
	is.True(ok)
	is.Equal(e.Registration.Origin, "nats")

	_, err = c.Register(ctx, events.Registration{Host: "web02", ID: "x"})
	is.True(errors.Is(err, bus.ErrRefused))
	is.True(strings.Contains(err.Error(), "ttl")) // says what to do

	critical := events.Critical
	is.NoErr(c.SetOverride(ctx, events.Override{Host: "web02", Status: &critical, Forever: true}))
	a, err := c.Status(ctx, events.StatusQuery{Host: "web02"})
	is.NoErr(err)
	is.Equal(a.Local, "web01")
	is.Equal(a.Hosts[0].Status, events.Critical)
	is.Equal(a.Checks[0].Check, "q")
	is.NoErr(c.ClearOverride(ctx, "web02", ""))
	is.True(errors.Is(c.ClearOverride(ctx, "web02", ""), bus.ErrRefused))
	a, err = c.Status(ctx, events.StatusQuery{All: true})
	is.NoErr(err)
	is.Equal(len(a.Hosts), 2)
	a, err = c.Status(ctx, events.StatusQuery{})
	is.NoErr(err)
	is.Equal(a.Hosts[0].Host, "web01")
	a, err = c.Status(ctx, events.StatusQuery{Host: "web02", Check: "q"})
	is.NoErr(err)
	is.Equal(a.Checks[0].Registration.TTL.D(), time.Minute)
	_, err = c.Status(ctx, events.StatusQuery{Host: "web02", Check: "none"})
	is.True(errors.Is(err, bus.ErrRefused))

	is.NoErr(c.Deregister(ctx, "web02", "q"))
	is.True(errors.Is(c.Deregister(ctx, "web02", "q"), bus.ErrRefused))

	// What is no request is refused too, and the service is found by its name.
	m, err := c.NATS().RequestWithContext(ctx, events.OverrideRequest, []byte("hello"))
	is.NoErr(err)
	is.Equal(m.Header.Get(micro.ErrorCodeHeader), "400")
	m, err = c.NATS().RequestWithContext(ctx, "$SRV.INFO."+ServiceName, nil)
	is.NoErr(err)
	is.True(strings.Contains(string(m.Data), events.RegisterRequest))
}

func TestSemver(t *testing.T) {
	is := is.New(t)
	is.Equal(semver("v1.2.3"), "1.2.3")
	is.Equal(semver("1.2.3-rc.1+x"), "1.2.3-rc.1+x")
	is.Equal(semver("(devel)"), "0.0.0")
	is.Equal(semver(""), "0.0.0")
}
