package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// answers plays a gateway's answers to requests on a subject, one after another and
// then the last one again; asked counts them.
func answers(t *testing.T, c *bus.Conn, subject string, list ...nats.Msg) (asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	sub, err := c.NATS().Subscribe(subject, func(m *nats.Msg) {
		a := list[min(int(asked.Add(1)), len(list))-1]
		_ = m.RespondMsg(&a) // the test waits for it
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return asked
}

func fault(code, text string) nats.Msg {
	return nats.Msg{Header: nats.Header{micro.ErrorHeader: {text}, micro.ErrorCodeHeader: {code}}}
}

// What a gateway cannot do now is tried again; nothing was wrong with it.
func TestReporterTriesAgain(t *testing.T) {
	is := is.New(t)
	c := open(t)
	asked := answers(t, c, events.RegisterRequest, fault("507", "the bus has no room for more"), fault("503", "the bus is away"), nats.Msg{Data: []byte(`{"position":7}`)})
	ended := answers(t, c, events.DeregisterRequest, nats.Msg{Data: []byte(`{}`)})
	pushed, err := c.NATS().SubscribeSync("megaphone.result.>")
	is.NoErr(err)
	r := bus.NewReporter(c, events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(50 * time.Millisecond)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	_, err = pushed.NextMsg(20 * time.Second)
	is.NoErr(err)
	is.Equal(asked.Load(), int64(3))
	cancel()
	is.NoErr(<-done)
	is.Equal(ended.Load(), int64(1))
}

// Whose registration is refused deregisters nothing: another's check has that name.
func TestReporterRefused(t *testing.T) {
	is := is.New(t)
	c := open(t)
	answers(t, c, events.RegisterRequest, fault("409", "check queue belongs to the file a.json"))
	ended := answers(t, c, events.DeregisterRequest, nats.Msg{Data: []byte(`{}`)})
	err := bus.NewReporter(c, events.Registration{Host: "web01", ID: "queue"}).Run(t.Context())
	is.True(errors.Is(err, bus.ErrRefused))
	is.Equal(err.Error(), "refused: check queue belongs to the file a.json")
	is.Equal(ended.Load(), int64(0))
}

// A gateway that reads the bus anew says so; a watch that asks it for the present
// state asks again.
func TestWatchStateAsksAgain(t *testing.T) {
	is := is.New(t)
	c := open(t)
	position := commit(t, c, "web01", "db", 1)
	page, err := json.Marshal(events.PresentAnswer{Position: position, Events: []json.RawMessage{}})
	is.NoErr(err)
	answers(t, c, events.PresentRequest, fault("503", "the gateway reads the bus anew; try again"), nats.Msg{Data: page})
	until(t, c, bus.WatchOptions{State: true}, func(ch bus.Change) bool {
		is.True(ch.Complete)
		is.Equal(ch.Position, position)
		return true
	})
}
