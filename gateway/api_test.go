package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
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

// A gateway that has not read what is registered answers nothing on the bus: it would
// say that nothing is there, and take what belongs to a file for nobody's.
func TestBusServiceWaitsForTheView(t *testing.T) {
	is := is.New(t)
	r := start(t)
	owned := events.Registration{Host: "web02", ID: "db", URL: json.RawMessage(`"http://db.example/"`), Origin: events.OriginFile + "a.json"}
	_, err := r.reg.Register(t.Context(), owned)
	is.NoErr(err)
	r.stop()

	c := r.anonymous()
	gateways, err := c.Heartbeats(roleName, nil)
	is.NoErr(err)
	defer gateways.Close()
	is.NoErr(c.NATS().Flush())
	reg := bus.NewRegistry(r.conn, bus.RegistryOptions{Local: "web01"})
	later := New(Config{Conn: r.conn, Registry: reg, Host: "web01"})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = later.Run(ctx, ln) })
	r.eventually("the other gateway runs", func() bool { return len(gateways.Live()) == 1 })
	for range 20 {
		_, err = c.Status(t.Context(), events.StatusQuery{Host: "web02"})
		is.True(errors.Is(err, bus.ErrNoService))
	}
	over, end := context.WithCancel(t.Context())
	end()
	is.True(later.owned(over, "web02", "db") != nil) // nor does it say so over HTTP

	wg.Go(func() { _ = reg.Run(ctx) })
	r.eventually("it answers", func() bool {
		a, err := c.Status(t.Context(), events.StatusQuery{Host: "web02"})
		is.True(err == nil || errors.Is(err, bus.ErrNoService))
		return err == nil && len(a.Checks) == 1
	})
	mine := owned
	mine.Origin = ""
	_, err = c.Register(t.Context(), mine)
	is.True(err != nil && strings.Contains(err.Error(), "belongs to the file a.json"))
}

func TestSemver(t *testing.T) {
	is := is.New(t)
	is.Equal(semver("v1.2.3"), "1.2.3")
	is.Equal(semver("1.2.3-rc.1+x"), "1.2.3-rc.1+x")
	is.Equal(semver("(devel)"), "0.0.0")
	is.Equal(semver(""), "0.0.0")
}
