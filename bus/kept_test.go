package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

// unsafeBus is a bus that loses what it stored last.
type unsafeBus struct {
	t    *testing.T
	dir  string // its data
	safe string // the data as they were when keep was called
	addr string
	stop ends
}

func newUnsafeBus(t *testing.T) *unsafeBus {
	b := &unsafeBus{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	c := b.start()
	if err := c.Setup(t.Context(), bus.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// start runs the bus at its address and returns a connection of the role user.
func (b *unsafeBus) start() *bus.Conn {
	b.t.Helper()
	s := bustest.StartIn(b.t, b.dir, b.addr)
	b.addr = strings.TrimPrefix(s.URL(), "nats://")
	nc := bustest.Connect(b.t, s)
	c, err := bus.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	b.stop = append(b.stop, s.Close, nc.Close)
	return c
}

// keep makes sure that what is stored now survives cut, and restarts the bus.
func (b *unsafeBus) keep() *bus.Conn {
	b.t.Helper()
	b.stop.end()
	b.safe = b.t.TempDir()
	if err := os.CopyFS(b.safe, os.DirFS(b.dir)); err != nil {
		b.t.Fatal(err)
	}
	return b.start()
}

// cut takes away what was stored since keep, has others store something in its
// place before anybody who waits for the bus can see it, and starts it again.
func (b *unsafeBus) cut(others func(c *bus.Conn)) *bus.Conn {
	b.t.Helper()
	b.stop.end()
	b.dir, b.safe = b.safe, b.dir
	addr := b.addr
	b.addr = "127.0.0.1:0"
	others(b.start())
	b.stop.end()
	b.addr = addr
	return b.start()
}

func (b *unsafeBus) connect() *bus.Conn {
	b.t.Helper()
	c, err := bus.Connect(b.t.Context(), "nats://"+b.addr, bus.WithCreds(b.dir+"/bus.creds"), bus.WithNATS(nats.ReconnectWait(20*time.Millisecond)))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() }) // at worst it is closed
	return c
}

// The bus lost what a subscriber has read, and stored other things at those
// positions before the subscriber is back: it is told, and gets those.
func TestWatchTellsReplacedTail(t *testing.T) {
	is := is.New(t)
	b := newUnsafeBus(t)
	c := b.keep()
	first := commit(t, c, "web01", "db", 1)
	c = b.keep()
	watcher := b.connect()
	got := make(chan string, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	go func() {
		defer close(got)
		for ch, err := range watcher.Watch(ctx, bus.WatchOptions{After: first - 1}) {
			var gap *bus.GapError
			switch {
			case errors.As(err, &gap):
				got <- fmt.Sprintf("%d-%d, on after %d", gap.From-first, gap.Until-first, gap.Resume-first)
			case err != nil:
				return
			default:
				got <- ch.Event.ID()
			}
		}
	}()
	is.Equal(<-got, "web01.db#1")
	commit(t, c, "web01", "db", 2)
	is.Equal(<-got, "web01.db#2")
	b.cut(func(c *bus.Conn) {
		commit(t, c, "web02", "db", 5)
		commit(t, c, "web01", "db", 2)
		commit(t, c, "web01", "db", 3)
	})
	is.Equal(<-got, "1-1, on after 0")
	is.Equal(<-got, "web02.db#5")
	is.Equal(<-got, "web01.db#2")
	is.Equal(<-got, "web01.db#3")
}

// The bus lost a registration, and stored others at its position before anybody
// who knows it is back: it is put back, and the others stay.
func TestRegistryRefillsReplacedTail(t *testing.T) {
	for _, lives := range []bool{true, false} {
		t.Run(fmt.Sprint("the registry lives on: ", lives), func(t *testing.T) {
			is := is.New(t)
			b := newUnsafeBus(t)
			b.keep()
			o := bus.RegistryOptions{File: t.TempDir() + "/registrations.jsonl", Local: "web01"}
			r := run(t, b.connect(), o)
			put := func(r *bus.Registry, id, url string) {
				t.Helper()
				_, err := r.Register(t.Context(), events.Registration{Host: "web01", ID: id, URL: []byte(`"http://localhost:1/` + url + `"`)})
				is.NoErr(err)
			}
			put(r.Registry, "lost", "a")
			put(r.Registry, "both", "a")
			if !lives {
				r.stop()
			}
			b.cut(func(c *bus.Conn) {
				other := run(t, c, bus.RegistryOptions{})
				defer other.stop()
				put(other.Registry, "both", "b")
				put(other.Registry, "new", "b")
				put(other.Registry, "newer", "b")
			})
			if !lives {
				r = run(t, b.connect(), o)
			}
			url := func(id string) string {
				e, _ := r.Check("web01", id)
				return string(e.Registration.URL)
			}
			eventually(t, "the registrations are complete", func() bool {
				return url("lost") != "" && url("new") != "" && url("newer") != ""
			})
			is.Equal(url("lost"), `"http://localhost:1/a"`)
			is.Equal(url("both"), `"http://localhost:1/b"`)
		})
	}
}
