package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// registry is a running registry, and how to stop it before the test ends.
type registry struct {
	*bus.Registry
	stop func()
}

// run starts a registry and waits until it is ready.
func run(t testing.TB, c *bus.Conn, o bus.RegistryOptions) registry {
	t.Helper()
	r := bus.NewRegistry(c, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run the registry: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-r.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the registry is not ready")
	}
	return registry{r, stop}
}

// box is a data directory with the bus, as one machine has it, that can lose
// either of its halves.
type box struct {
	t    testing.TB
	dir  string
	bus  string // directory of the bus
	stop ends
}

// ends are what is to be called in the end, the last first.
type ends []func()

func (e *ends) end() {
	for _, f := range slices.Backward(*e) {
		f()
	}
	*e = nil
}

func newBox(t testing.TB) *box {
	b := &box{t: t, dir: t.TempDir(), bus: t.TempDir()}
	t.Cleanup(b.end)
	return b
}

func (b *box) options() bus.RegistryOptions {
	return bus.RegistryOptions{
		File: filepath.Join(b.dir, "registrations.jsonl"), Cache: filepath.Join(b.dir, "cache.json"), Local: "web01",
	}
}

// start runs the bus and a registry on the directories.
func (b *box) start() (*bus.Conn, registry) {
	b.t.Helper()
	c := b.connect()
	r := run(b.t, c, b.options())
	b.stop = append(b.stop, r.stop)
	return c, r
}

func (b *box) connect() *bus.Conn {
	b.t.Helper()
	s := bustest.StartIn(b.t, b.bus, "127.0.0.1:0")
	nc, err := s.Connect()
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := bus.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := c.Setup(b.t.Context(), bus.StreamOptions{}); err != nil {
		b.t.Fatal(err)
	}
	b.stop = append(b.stop, s.Close, nc.Close)
	return c
}

// end stops what start started; loseBus forgets the bus's data.
func (b *box) end() { b.stop.end() }

func (b *box) loseBus() { b.bus = b.t.TempDir() }

func (b *box) read(name string) string {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(content)
}

func (b *box) write(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func polled(host, id string) events.Registration {
	return events.Registration{Host: host, ID: id, URL: json.RawMessage(`"http://localhost:1/` + id + `"`)}
}

func ids(entries []bus.Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Registration.Host+"/"+e.Registration.ID)
	}
	return strings.Join(out, " ")
}

func TestRegistryReadsItsOwnWrites(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	_, r := b.start()
	pos, err := r.Register(ctx, polled("Web01", "db/x é"))
	is.NoErr(err)
	e, ok := r.Check("web01", "db/x é")
	is.True(ok)
	is.Equal(e.Position, pos)
	is.Equal(e.Registration.Host, "web01") // folded
	is.Equal(string(e.Registration.URL), `"http://localhost:1/db/x é"`)

	_, err = r.Register(ctx, events.Registration{Host: "web02", ID: "q", TTL: events.Duration(time.Minute), Labels: map[string]string{"tier": "own"}})
	is.NoErr(err)
	_, err = r.SetHost(ctx, events.HostRecord{Host: "web02", Address: "10.0.0.2", Labels: map[string]string{"tier": "host", "dc": "a"}})
	is.NoErr(err)
	e, _ = r.Check("web02", "q")
	is.Equal(r.Labels(e), map[string]string{"tier": "own", "dc": "a"})
	is.Equal(r.Hosts(), []string{"web01", "web02"})
	is.Equal(ids(r.Checks()), "web01/db/x é web02/q")

	warning := events.Warning
	over := events.Override{Name: "n", Select: map[string]string{"dc": "a"}, Status: &warning, Forever: true}
	_, err = r.SetOverride(ctx, over)
	is.NoErr(err)
	o, ok := r.Override("web02", "q")
	is.True(ok) // it selects by the host's label
	is.Equal(o.Override.Name, "n")
	_, err = r.SetOverride(ctx, events.Override{Host: "web02", Check: "q", Maintenance: true, Forever: true})
	is.NoErr(err)
	o, _ = r.Override("web02", "q")
	is.True(o.Override.Maintenance) // its own wins
	is.Equal(len(r.Overrides()), 2)
	found, _, err := r.ClearOverride(ctx, "web02", "q", "")
	is.NoErr(err)
	is.True(found)
	found, _, err = r.ClearOverride(ctx, "web02", "q", "")
	is.NoErr(err)
	is.True(!found) // the selecting one is another
	_, ok = r.Override("web02", "")
	is.True(!ok)

	found, _, err = r.Deregister(ctx, "web02", "q", "test")
	is.NoErr(err)
	is.True(found)
	found, _, err = r.Deregister(ctx, "web02", "q", "test")
	is.NoErr(err)
	is.True(!found)
	deleted, err := r.DeleteHost(ctx, "web02")
	is.NoErr(err)
	is.True(deleted)
	is.Equal(r.Hosts(), []string{"web01"})
}

func TestRegistryRefuses(t *testing.T) {
	is := is.New(t)
	_, r := newBox(t).start()
	for name, reg := range map[string]events.Registration{
		"no id":     {Host: "web01", URL: json.RawMessage(`"x"`)},
		"no url":    {Host: "web01", ID: "a"},
		"bad host":  {Host: "a b", ID: "a", URL: json.RawMessage(`"x"`)},
		"--global":  {ID: events.GlobalID, URL: json.RawMessage(`"x"`)},
		"no string": {ID: "a", URL: json.RawMessage(`5`)},
	} {
		_, err := r.Register(t.Context(), reg)
		if err == nil {
			t.Errorf("%s was registered", name)
		}
	}
	_, err := r.SetOverride(t.Context(), events.Override{Host: "web01", Forever: true})
	is.True(errors.Is(err, events.ErrOverride))
	is.Equal(len(r.Checks()), 0)
}

// What others publish is followed, also without a data that names host and check;
// what is invalid is told, and leaves what was valid.
func TestRegistryFollows(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c := b.connect()
	type refused struct{ subject, reason string }
	invalid := make(chan refused, 10)
	o := b.options()
	o.Invalid = func(subject string, _ uint64, reason string, _ []byte) { invalid <- refused{subject, reason} }
	r := run(t, c, o)
	defer r.stop()
	changes, cancel := r.Subscribe()
	defer cancel()

	publish := func(subject, kind string, data any) uint64 {
		body, err := events.Encode(events.Header{Type: kind, Source: "urn:x", ID: fmt.Sprint(time.Now().UnixNano()), Time: time.Now()}, data)
		is.NoErr(err)
		pos, err := c.Store(ctx, bus.Message(subject, body))
		is.NoErr(err)
		is.NoErr(r.WaitFor(ctx, pos))
		return pos
	}
	pos := publish("megaphone.registration.web03.db", events.TypeRegistered, map[string]any{"url": "http://x"})
	e, ok := r.Check("web03", "db")
	is.True(ok)
	is.Equal(e.Position, pos)
	ch := <-changes
	is.Equal(ch.Host+" "+ch.Check, "web03 db")

	for _, bad := range []struct {
		subject, kind string
		data          any
	}{
		{"megaphone.registration.web03.db", events.TypeRegistered, map[string]any{"url": 5}},
		{"megaphone.registration.web03.db", events.TypeRegistered, map[string]any{"url": "http://x", "host": "other"}},
		{"megaphone.registration.web03.db", events.TypeRegistered, map[string]any{"url": "http://x", "id": "other"}},
		{"megaphone.registration.web03.db", events.TypeResult, map[string]any{"status": "OK"}},
		{"megaphone.registration.Web03.db", events.TypeRegistered, map[string]any{"url": "http://x"}},
		{"megaphone.registration.web03.db.more", events.TypeRegistered, map[string]any{"url": "http://x"}},
		{"megaphone.override.web03", events.TypeOverrideSet, map[string]any{"status": "OK"}},
	} {
		publish(bad.subject, bad.kind, bad.data)
		is.Equal((<-invalid).subject, bad.subject)
	}
	_, err := c.Store(ctx, &nats.Msg{Subject: "megaphone.registration.web03.db", Data: []byte("garbage")})
	is.NoErr(err)
	bad := <-invalid
	is.True(strings.Contains(bad.reason, "CloudEvent"))
	e, ok = r.Check("web03", "db")
	is.True(ok)
	is.Equal(e.Position, pos) // the former valid one

	publish("megaphone.registration.web03.db", events.TypeDeregistered, map[string]any{})
	_, ok = r.Check("web03", "db")
	is.True(!ok)
	ch = <-changes
	is.Equal(ch.Host+" "+ch.Check, "web03 db")
}

// An invalid event replaces a registration in the stream. The registration is
// not lost: not by a restart, and not once somebody restores it.
func TestRegistryRestores(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	_, err := r.Register(ctx, polled("web01", "db"))
	is.NoErr(err)
	for _, subject := range []string{"megaphone.registration.web01.db", "megaphone.registration.web01.never", "megaphone.registration.of.what.is.this"} {
		pos, err := c.Store(ctx, &nats.Msg{Subject: subject, Data: []byte("garbage")})
		is.NoErr(err)
		is.NoErr(r.WaitFor(ctx, pos))
	}
	b.end()

	c = b.connect()
	type refused struct {
		subject  string
		position uint64
	}
	invalid := make(chan refused, 10)
	o := b.options()
	o.Invalid = func(subject string, position uint64, _ string, _ []byte) { invalid <- refused{subject, position} }
	r = run(t, c, o)
	is.Equal(ids(r.Checks()), "web01/db")
	for range 3 {
		bad := <-invalid
		is.NoErr(r.Restore(ctx, bad.subject, bad.position))
	}
	r.stop()
	o.File = "" // now the stream alone knows
	r = run(t, c, o)
	is.Equal(ids(r.Checks()), "web01/db")
	is.Equal(len(invalid), 0) // nothing invalid is left
	r.stop()
}

// A write that was acknowledged is in the registrations file, whatever else is lost.
func TestRegistrySurvivesLossOfTheBus(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() { _, errs[i] = r.Register(ctx, polled("web02", fmt.Sprintf("c%02d", i%25))) })
	}
	wg.Wait()
	is.NoErr(errors.Join(errs...))
	_, _, err := r.Deregister(ctx, "web02", "c03", "test")
	is.NoErr(err)
	maintenance := events.Override{Host: "web02", Maintenance: true, Forever: true, Reason: "a<b>&c"}
	_, err = r.SetOverride(ctx, maintenance)
	is.NoErr(err)
	binary := &nats.Msg{Subject: "megaphone.registration.web02.binary", Data: []byte(`{"url": "http://x"}`), Header: nats.Header{
		"ce-specversion": {"1.0"}, "ce-type": {events.TypeRegistered}, "ce-source": {"urn:x"}, "ce-id": {"1"}, "Content-Type": {"text/plain"},
	}}
	pos, err := c.Store(ctx, binary)
	is.NoErr(err)
	is.NoErr(r.WaitFor(ctx, pos))
	want := ids(r.Checks())
	before := lastEvent(t, c, "megaphone.registration.web02.c07")
	b.end()
	b.loseBus()

	c, r = b.start()
	is.Equal(ids(r.Checks()), want)
	o, ok := r.Override("web02", "")
	is.True(ok)
	is.Equal(o.Override.Reason, maintenance.Reason)
	is.True(!r.FromCache())
	is.Equal(lastEvent(t, c, "megaphone.registration.web02.c07"), before) // the event as it was, id included
	is.True(strings.Contains(lastEvent(t, c, "megaphone.registration.web02.c03"), events.TypeDeregistered))

	// A new life goes on from there.
	_, err = r.Register(ctx, polled("web02", "c03"))
	is.NoErr(err)
	b.end()
	_, r = b.start()
	is.Equal(len(r.Checks()), 26)
	b.end()
}

func lastEvent(t *testing.T, c *bus.Conn, subject string) string {
	t.Helper()
	s, err := c.JetStream().Stream(t.Context(), bus.StreamRegistrations)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	return string(m.Data)
}

// A stream that is behind the file, as after a power cut, gets what it lost;
// what it has and the file has not stays.
func TestRegistryRefillsWhatTheStreamLost(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	_, r := b.start()
	for _, id := range []string{"a", "b"} {
		_, err := r.Register(ctx, polled("web02", id))
		is.NoErr(err)
	}
	b.end()
	old := b.t.TempDir()
	is.NoErr(os.CopyFS(old, os.DirFS(b.bus))) // the bus as it was then
	_, r = b.start()
	_, err := r.Register(ctx, polled("web02", "c"))
	is.NoErr(err)
	changed := polled("web02", "a")
	changed.Interval = events.Duration(time.Minute)
	_, err = r.Register(ctx, changed)
	is.NoErr(err)
	_, _, err = r.Deregister(ctx, "web02", "b", "test")
	is.NoErr(err)
	b.end()
	b.bus = old

	_, r = b.start()
	is.Equal(ids(r.Checks()), "web02/a web02/c")
	e, _ := r.Check("web02", "a")
	is.Equal(e.Registration.Interval, changed.Interval)
	b.end()
}

// Two machines put their files back into a new stream: the later version wins,
// whoever comes first.
func TestRegistryRefillByTwo(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	late := bus.RegistryOptions{File: filepath.Join(b.dir, "other.jsonl")}
	r2 := run(t, c, late)
	_, err := r.Register(ctx, polled("web02", "a"))
	is.NoErr(err)
	is.NoErr(r2.WaitFor(ctx, r.Position()))
	r2.stop() // its copy is old from here on
	changed := polled("web02", "a")
	changed.Interval = events.Duration(time.Minute)
	_, err = r.Register(ctx, changed)
	is.NoErr(err)
	b.end()
	for name, first := range map[string]bool{"old file first": true, "new file first": false} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			file := b.read("registrations.jsonl")
			other := b.read("other.jsonl")
			defer func() { b.write("registrations.jsonl", file); b.write("other.jsonl", other) }()
			b.loseBus()
			c := b.connect()
			defer b.end()
			a, z := late, b.options()
			if !first {
				a, z = z, a
			}
			r := run(t, c, a)
			defer r.stop()
			r2 := run(t, c, z)
			defer r2.stop()
			is.NoErr(r.WaitFor(ctx, r2.Position()))
			for _, r := range []registry{r, r2} {
				e, _ := r.Check("web02", "a")
				is.Equal(e.Registration.Interval, changed.Interval)
			}
		})
	}
}

// Otherwise the stream wins over the file.
func TestRegistryStreamWins(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c := b.connect()
	r := run(t, c, b.options())
	_, err := r.Register(ctx, polled("web02", "a"))
	is.NoErr(err)
	r.stop()
	other := run(t, c, bus.RegistryOptions{})
	_, _, err = other.Deregister(ctx, "web02", "a", "while it was away")
	is.NoErr(err)
	_, err = other.Register(ctx, polled("web02", "b"))
	is.NoErr(err)
	other.stop()
	r = run(t, c, b.options())
	is.Equal(ids(r.Checks()), "web02/b")
	r.stop()
}

func TestRegistryFileOfABadDisk(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	_, r := b.start()
	for _, id := range []string{"a", "b", "c"} {
		_, err := r.Register(ctx, polled("web02", id))
		is.NoErr(err)
	}
	b.end()
	lines := strings.SplitAfter(b.read("registrations.jsonl"), "\n")
	is.Equal(len(lines), 5) // head, three, and nothing after the last newline
	for name, content := range map[string]string{
		"a bad line":       lines[0] + "rubbish\n" + lines[1] + lines[3],
		"a bad first line": "rubbish\n" + lines[1] + lines[3],
		"a cut last line":  lines[0] + lines[1] + lines[3] + lines[2][:20],
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b.write("registrations.jsonl", content)
			os.Remove(filepath.Join(b.dir, "cache.json"))
			b.loseBus()
			_, r := b.start()
			defer b.end()
			is.Equal(ids(r.Checks()), "web02/a web02/c")
		})
	}
}

// A registrations file that cannot be written refuses writes, keeps answering,
// and mends itself.
func TestRegistryFileCannotBeWritten(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c := b.connect()
	r := run(t, c, bus.RegistryOptions{})
	_, err := r.Register(ctx, polled("web02", "a"))
	is.NoErr(err)
	r.stop()

	o := bus.RegistryOptions{File: filepath.Join(b.dir, "later", "registrations.jsonl")}
	r = run(t, c, o)
	is.Equal(ids(r.Checks()), "web02/a")
	_, err = r.Register(ctx, polled("web02", "b"))
	is.True(err != nil)
	is.NoErr(os.Mkdir(filepath.Join(b.dir, "later"), 0o755))
	eventually(t, "the file is written", func() bool {
		_, err := r.Register(ctx, polled("web02", "b"))
		return err == nil
	})
	is.True(strings.Contains(b.read("later/registrations.jsonl"), "megaphone.registration.web02.b"))
	r.stop()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("it does not happen that %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Replaced lines are taken out of the file in time.
func TestRegistryFileIsCompacted(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	_, r := b.start()
	big := polled("web02", "a")
	big.URL = json.RawMessage(`"http://x/` + strings.Repeat("x", 8000) + `"`)
	for i := range 400 {
		big.Rise = 1 + i%2
		_, err := r.Register(ctx, big)
		is.NoErr(err)
	}
	_, err := r.Register(ctx, polled("web02", "b"))
	is.NoErr(err)
	is.True(len(b.read("registrations.jsonl")) < 2<<20) // of more than 3 MB written
	b.end()
	b.loseBus()
	_, r = b.start()
	is.Equal(ids(r.Checks()), "web02/a web02/b")
	e, _ := r.Check("web02", "a")
	is.Equal(e.Registration.Rise, 2)
	b.end()
}

// The registry follows through a restart of the bus, and answers meanwhile.
func TestRegistryReconnects(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	listen := strings.TrimPrefix(s.URL(), "nats://")
	nc := bustest.ConnectRole(t, s, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	c, err := bus.New(nc)
	is.NoErr(err)
	is.NoErr(c.Setup(ctx, bus.StreamOptions{}))
	r := run(t, c, bus.RegistryOptions{File: filepath.Join(t.TempDir(), "r.jsonl")})
	_, err = r.Register(ctx, polled("web02", "a"))
	is.NoErr(err)
	s.Close()
	eventually(t, "the connection is lost", func() bool { return !nc.IsConnected() })
	is.Equal(ids(r.Checks()), "web02/a") // while it is away
	bustest.StartIn(t, dir, listen)
	eventually(t, "a check can be registered again", func() bool {
		_, err := r.Register(ctx, polled("web02", "b"))
		return err == nil
	})
	is.Equal(ids(r.Checks()), "web02/a web02/b")
	r.stop()
}

// When the bus comes back without its data, a running process gives it back.
func TestRegistryRefillsWhileRunning(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	_, err := r.Register(ctx, polled("web02", "a"))
	is.NoErr(err)
	is.NoErr(c.JetStream().DeleteStream(ctx, bus.StreamRegistrations))
	is.NoErr(c.Setup(ctx, bus.StreamOptions{}))
	eventually(t, "the stream is filled", func() bool {
		s, err := c.JetStream().Stream(ctx, bus.StreamRegistrations)
		return err == nil && s.CachedInfo().State.Msgs == 1
	})
	_, err = r.Register(ctx, polled("web02", "b"))
	is.NoErr(err)
	is.Equal(ids(r.Checks()), "web02/a web02/b")
	b.end()
}

// A subscriber that does not read stops nobody, and loses nothing.
func TestRegistrySubscribe(t *testing.T) {
	is := is.New(t)
	_, r := newBox(t).start()
	changes, cancel := r.Subscribe()
	_, never := r.Subscribe()
	const n = 300 // more than the channel holds
	for i := range n {
		_, err := r.Register(t.Context(), polled("web02", fmt.Sprintf("c%03d", i)))
		is.NoErr(err)
	}
	last := uint64(0)
	for i := range n {
		ch := <-changes
		is.Equal(ch.Check, fmt.Sprintf("c%03d", i))
		is.True(ch.Position > last)
		last = ch.Position
	}
	is.Equal(last, r.Position())
	cancel()
	cancel()
	_, open := <-changes
	is.True(!open)
	never() // although nobody took what waits
}

func TestRegistryFull(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	s, err := c.JetStream().Stream(ctx, bus.StreamRegistrations)
	is.NoErr(err)
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 2000
	_, err = c.JetStream().UpdateStream(ctx, cfg)
	is.NoErr(err)
	n := 0
	for ; n < 100; n++ {
		if _, err = r.Register(ctx, polled("web01", fmt.Sprintf("c%d", n))); err != nil {
			break
		}
	}
	is.True(errors.Is(err, bus.ErrFull))
	is.Equal(len(r.Checks()), n)
	var urls map[string]string
	eventually(t, "the refused check leaves the cache", func() bool {
		is.NoErr(json.Unmarshal([]byte(b.read("cache.json")), &urls))
		defer clear(urls)
		return len(urls) == n
	})
	found, _, err := r.Deregister(ctx, "web01", "c0", "test")
	is.NoErr(err) // what makes room is still taken
	is.True(found)
	b.end()
}

// Anybody may set overrides that select by label, and each is looked at for every
// check: of more than there may be, the later ones are refused.
func TestRegistryLimitsSelects(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	selects := func(n int) events.Override {
		return events.Override{Name: fmt.Sprint("n", n), Select: map[string]string{"dc": "a"}, Maintenance: true, Forever: true}
	}
	var last uint64
	for n := range bus.MaxSelects + 10 {
		data, err := events.Encode(events.Header{Type: events.TypeOverrideSet, Source: "urn:x", ID: "1", Time: time.Now()}, selects(n))
		is.NoErr(err)
		last, err = c.Store(ctx, bus.Message(events.SelectSubject(selects(n).Name), data))
		is.NoErr(err)
	}
	is.NoErr(r.WaitFor(ctx, last))
	is.Equal(len(r.Overrides()), bus.MaxSelects)
	_, err := r.SetOverride(ctx, selects(bus.MaxSelects))
	is.True(errors.Is(err, events.ErrOverride)) // and is not stored
	b.end()
	_, r = b.start()
	is.Equal(len(r.Overrides()), bus.MaxSelects)
	_, err = r.SetOverride(ctx, selects(0))
	is.NoErr(err) // replaces one
	b.end()
}

// Nor has a host more checks than it may, by far, because they were stored by
// themselves.
func TestRegistryLimitsChecks(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	for n := range bus.MaxChecks + bus.MaxChecks/10 {
		_, err := c.JetStream().PublishMsgAsync(&nats.Msg{
			Subject: fmt.Sprint("megaphone.registration.web01.c", n), Data: []byte(`{"specversion":"1.0","type":"megaphone.check.registered.v1","source":"x","id":"1","data":{"ttl":60}}`),
		}, jetstream.WithStallWait(time.Minute))
		is.NoErr(err)
	}
	<-c.JetStream().PublishAsyncComplete()
	more, err := c.Store(ctx, bus.Message("megaphone.registration.web01.more", []byte(`{"specversion":"1.0","type":"megaphone.check.registered.v1","source":"x","id":"1","data":{"ttl":60}}`)))
	is.NoErr(err)
	is.NoErr(r.WaitFor(ctx, more))
	_, ok := r.Check("web01", "more")
	is.True(!ok)
	_, err = r.Register(ctx, polled("web01", "c7"))
	is.NoErr(err) // replaces one
	is.Equal(len(r.HostChecks("web01")), bus.MaxChecks+bus.MaxChecks/10)
	b.end()
}

// Where there is no room, what is registered can be deregistered, which makes room.
func TestRegistryFullCanBeEmptied(t *testing.T) {
	is := is.New(t)
	c := open(t)
	r := run(t, c, bus.RegistryOptions{Local: "web01"})
	defer r.stop()
	_, err := r.Register(t.Context(), polled("web01", "db"))
	is.NoErr(err)
	_, err = r.Register(t.Context(), events.Registration{Host: "web01", ID: "q", TTL: events.Duration(time.Minute)})
	is.NoErr(err)
	_, err = r.SetHost(t.Context(), events.HostRecord{Host: "web01"})
	is.NoErr(err)
	_, err = r.SetOverride(t.Context(), events.Override{Host: "web01", Maintenance: true, Forever: true})
	is.NoErr(err)
	s, err := c.JetStream().Stream(t.Context(), bus.StreamRegistrations)
	is.NoErr(err)
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = int64(s.CachedInfo().State.Bytes)
	_, err = c.JetStream().UpdateStream(t.Context(), cfg)
	is.NoErr(err)
	_, err = r.Register(t.Context(), polled("web01", "another"))
	is.True(errors.Is(err, bus.ErrFull))

	for _, id := range []string{"db", "q"} {
		found, _, err := r.Deregister(t.Context(), "web01", id, "its host was deregistered")
		is.NoErr(err)
		is.True(found)
	}
	_, _, err = r.ClearOverride(t.Context(), "web01", "", "")
	is.NoErr(err)
	_, err = r.DeleteHost(t.Context(), "web01")
	is.NoErr(err)
	is.Equal(len(r.Hosts()), 0) // nothing is left of it
}

// However deeply the data of an event is nested, in what nobody reads: neither the copy
// nor the file stop there.
func TestRegistryDeepEvents(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	b := newBox(t)
	c, r := b.start()
	deep := func(n int) string { return `{"ttl":60,"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}" }
	for i, n := range []int{100, 9_997, 9_998, 9_999, 10_001} {
		body := `{"specversion":"1.0","type":"megaphone.check.registered.v1","source":"x","id":"1",` + "\n" + `"data":` + deep(n) + "}"
		_, err := c.Store(ctx, bus.Message(fmt.Sprint("megaphone.registration.web01.s", i), []byte(body)))
		is.NoErr(err)
		_, err = c.Store(ctx, &nats.Msg{Subject: fmt.Sprint("megaphone.registration.web01.b", i), Data: []byte("\n" + deep(n)), Header: nats.Header{
			"ce-specversion": {"1.0"}, "ce-type": {events.TypeRegistered}, "ce-source": {"urn:x"}, "ce-id": {"1"},
		}})
		is.NoErr(err)
	}
	_, err := r.Register(ctx, polled("web01", "after"))
	is.NoErr(err)
	want := ids(r.Checks())
	is.True(strings.Contains(want, "web01/b0") && strings.Contains(want, "web01/s0"))
	b.end()
	b.loseBus() // and the file has all that is registered
	_, r = b.start()
	is.Equal(ids(r.Checks()), want)
	b.end()
}
