package bus_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/aggregator"
	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/server"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/gateway"
)

// megaphone runs what `megaphone serve` runs, less the worker, and returns the
// URL of its bus, and what ends it.
func megaphone() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := server.Start(ctx, server.Options{Dir: dir, Listen: "127.0.0.1:0"})
	check(err)
	nc, err := srv.Connect()
	check(err)
	c, err := bus.New(nc)
	check(err)
	check(c.Setup(ctx, bus.StreamOptions{}))
	registry := bus.NewRegistry(c, bus.RegistryOptions{Local: "web01"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	gw := gateway.New(gateway.Config{Conn: c, Registry: registry, Host: "web01"})
	var g errgroup.Group
	g.Go(func() error { return registry.Run(ctx) })
	g.Go(func() error {
		return aggregator.New(aggregator.Config{Conn: c, Registry: registry, Name: "example", Holder: "example"}).Run(ctx)
	})
	g.Go(func() error { return gw.Run(ctx, l) })
	<-gw.Ready()
	return srv.URL(), func() {
		cancel()
		check(g.Wait())
		nc.Close()
		srv.Close()
		check(os.RemoveAll(dir))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A program that reacts: it sees every transition once, in order, and can go on
// where it stopped.
func ExampleConn_Watch() {
	url, stop := megaphone()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := bus.Connect(ctx, url)
	check(err)
	defer c.Close()

	for _, status := range []events.Status{events.OK, events.Critical} {
		_, err = c.Push(ctx, "web01", "queue", events.Result{Status: status, Message: "as pushed"})
		check(err)
	}
	var position uint64 // to be kept by a program that wants to resume after a restart
	for change, err := range c.Watch(ctx, bus.WatchOptions{Filter: events.Filter{Host: "web01", Hosts: true}, FromStart: true}) {
		check(err)
		t := change.Transition
		fmt.Printf("%s is %s (%s), change %d\n", t.Host, t.Current.Status, t.Cause, t.Number)
		position = change.Position
		if *t.Current.Status == events.Critical {
			break
		}
	}
	fmt.Println("resume after it:", position > 0)
	// Output:
	// web01 is OK (result), change 1
	// web01 is Critical (result), change 2
	// resume after it: true
}

// A service registers a check that a worker polls.
func ExampleConn_Register() {
	url, stop := megaphone()
	defer stop()
	ctx := context.Background()
	c, err := bus.Connect(ctx, url)
	check(err)
	defer c.Close()

	_, err = c.Register(ctx, events.Registration{Host: "web01", ID: "db", URL: []byte(`"http://localhost:8080/status"`)})
	check(err)
	answer, err := c.Status(ctx, events.StatusQuery{Host: "web01", Check: "db"})
	check(err)
	fmt.Println(answer.Checks[0].Check, answer.Checks[0].Phase)
	_, err = c.Register(ctx, events.Registration{Host: "web01", ID: "db"})
	fmt.Println(err)
	// Output:
	// db pending
	// refused: bad registration: db needs a url to poll, or a ttl if its service pushes
}

// A service pushes its status once.
func ExampleConn_Push() {
	url, stop := megaphone()
	defer stop()
	ctx := context.Background()
	c, err := bus.Connect(ctx, url)
	check(err)
	defer c.Close()

	position, err := c.Push(ctx, "web01", "backup", events.Result{
		Status: events.Warning, Message: "took two hours", TTL: events.Duration(25 * time.Hour),
	})
	check(err)
	fmt.Println("stored:", position > 0)
	// Output:
	// stored: true
}

// An operator sets a status by hand, for an hour.
func ExampleConn_SetOverride() {
	url, stop := megaphone()
	defer stop()
	ctx := context.Background()
	c, err := bus.Connect(ctx, url)
	check(err)
	defer c.Close()

	ok := events.OK
	check(c.SetOverride(ctx, events.Override{
		Host: "web01", Status: &ok, Reason: "known, see ticket 7", By: "ops", Until: events.At(time.Now().Add(time.Hour)),
	}))
	for change, err := range c.Watch(ctx, bus.WatchOptions{Filter: events.Filter{Host: "web01"}, FromStart: true}) {
		check(err)
		fmt.Println(change.Transition.Current.Status, change.Transition.Current.Phase, change.Transition.Message)
		break
	}
	check(c.ClearOverride(ctx, "web01", ""))
	// Output:
	// OK overridden overridden by ops: known, see ticket 7
}

// A service tells how it is for as long as it runs.
func ExampleReporter() {
	url, stop := megaphone()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := bus.Connect(ctx, url)
	check(err)
	defer c.Close()

	r := bus.NewReporter(c, events.Registration{Host: "web01", ID: "queue", TTL: events.Duration(time.Minute)})
	r.Set(events.OK, "empty")
	running, end := context.WithCancel(ctx)
	defer end()
	done := make(chan error)
	go func() { done <- r.Run(running) }()

	for change, err := range c.Watch(ctx, bus.WatchOptions{Filter: events.Filter{Host: "web01", Check: "queue"}, FromStart: true}) {
		check(err)
		t := change.Transition
		fmt.Println(t.Current.Status, t.Current.Phase, t.Message)
		switch {
		case t.Number == 1:
			r.Set(events.Critical, "930 waiting")
		case t.Number == 2:
			end() // the service stops: it says good-bye
			check(<-done)
		}
		if t.Current.Phase == events.Gone {
			break
		}
	}
	// Output:
	// OK live empty
	// Critical live 930 waiting
	// Unknown gone deregistered
}
