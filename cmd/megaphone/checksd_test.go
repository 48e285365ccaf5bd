package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// registrations is a registry in memory.
type registrations struct {
	mu     sync.Mutex
	have   map[checkName]events.Registration
	writes int
	err    error
}

func (r *registrations) Check(host, id string) (bus.Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reg, ok := r.have[checkName{host, id}]
	return bus.Entry{Registration: reg}, ok
}

func (r *registrations) Checks() (list []bus.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, reg := range r.have {
		list = append(list, bus.Entry{Registration: reg})
	}
	return list
}

func (r *registrations) Register(_ context.Context, reg events.Registration) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	if r.err == nil {
		r.have[checkName{reg.Host, reg.ID}] = reg
	}
	return 0, r.err
}

func (r *registrations) Deregister(_ context.Context, host, check, _ string) (bool, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	delete(r.have, checkName{host, check})
	return true, 0, nil
}

// names lists host/id of all that is registered, ordered.
func (r *registrations) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for n := range maps.Keys(r.have) {
		names = append(names, n.host+"/"+n.id)
	}
	slices.Sort(names)
	return names
}

// checksD is a directory with its registry and log.
type checksD struct {
	*checksDir
	t   *testing.T
	reg *registrations
	out *bytes.Buffer
}

func newChecksD(t *testing.T, alone bool) checksD {
	t.Helper()
	reg, out := &registrations{have: map[checkName]events.Registration{}}, &bytes.Buffer{}
	d := newChecksDir(t.TempDir(), "web01", alone, reg, slog.New(slog.NewTextHandler(out, nil)))
	return checksD{d, t, reg, out}
}

func (d checksD) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d checksD) sync(want ...string) {
	d.t.Helper()
	d.Sync(d.t.Context())
	is.New(d.t).Equal(d.reg.names(), want)
}

func TestChecksD(t *testing.T) {
	is := is.New(t)
	d := newChecksD(t, false)
	d.write("a.json", `[{"id":"x","ttl":"9s"},{"id":"y","host":"DB01","url":"http://localhost/"}]`)
	d.write("b.json", `{"id":"z","ttl":9}`)
	d.write(".c.json.swp", `{"id":"no","ttl":9}`)
	d.write(".c.json", `{"id":"no","ttl":9}`)
	d.write("notes.txt", `{"id":"no","ttl":9}`)
	d.sync("db01/y", "web01/x", "web01/z")
	e, _ := d.reg.Check("web01", "z")
	is.Equal(e.Registration.Origin, "file:b.json")

	writes := d.reg.writes
	d.sync("db01/y", "web01/x", "web01/z")
	is.Equal(d.reg.writes, writes) // what is equal is not written again

	d.write("a.json", `{"id":"x","ttl":"10s"}`)
	d.sync("web01/x", "web01/z") // gone from the file
	e, _ = d.reg.Check("web01", "x")
	is.Equal(e.Registration.TTL.D(), 10*time.Second)

	is.NoErr(os.Remove(filepath.Join(d.path, "b.json")))
	d.sync("web01/x") // gone with the file
	is.NoErr(os.RemoveAll(d.path))
	d.sync([]string(nil)...)
}

func TestChecksDBrokenFile(t *testing.T) {
	is := is.New(t)
	for name, text := range map[string]string{
		"no JSON":                `{"id":`,
		"a member that is none":  `{"id":"x","ttl":9,"intervall":3}`,
		"two values":             `{"id":"x","ttl":9} {"id":"y","ttl":9}`,
		"neither url nor ttl":    `[{"id":"x","ttl":9},{"id":"y"}]`,
		"no kind of check":       `{"id":"x","url":"ftp://h/x"}`,
		"another host's machine": `{"id":"x","host":"db01","url":"exec:/bin/true"}`,
		"a host that is no name": `{"id":"x","ttl":9,"host":"a b"}`,
		"empty":                  ``,
	} {
		t.Run(name, func(t *testing.T) {
			d := newChecksD(t, false)
			d.write("a.json", `[{"id":"x","ttl":9},{"id":"w","ttl":9}]`)
			d.sync("web01/w", "web01/x")
			d.write("a.json", text)
			d.sync("web01/w", "web01/x") // as before
			d.sync("web01/w", "web01/x")
			is.Equal(strings.Count(d.out.String(), "file=a.json"), 1) // told once
			d.write("a.json", `{"id":"x","ttl":9}`)
			d.sync("web01/x")
		})
	}
}

func TestChecksDSharedBus(t *testing.T) {
	d := newChecksD(t, false)
	other := events.Registration{ID: "o", Host: "db01", TTL: events.Duration(time.Minute), Origin: "file:a.json"}
	own := events.Registration{ID: "x", Host: "web01", TTL: events.Duration(time.Minute), Origin: "file:old.json"}
	posted := events.Registration{ID: "p", Host: "web01", TTL: events.Duration(time.Minute), Origin: "http"}
	for _, r := range []events.Registration{other, own, posted} {
		d.reg.have[checkName{r.Host, r.ID}] = r
	}
	// Another host's file of any name is not ours; a file of ours went while we were away.
	d.sync("db01/o", "web01/p")

	d.alone = true
	d.sync("web01/p")
}

func TestChecksDSameCheckTwice(t *testing.T) {
	is := is.New(t)
	d := newChecksD(t, false)
	d.write("a.json", `{"id":"x","ttl":1}`)
	d.write("b.json", `{"id":"x","ttl":2}`)
	d.sync("web01/x")
	e, _ := d.reg.Check("web01", "x")
	is.Equal(e.Registration.Origin, "file:a.json") // the first by name
	is.True(strings.Contains(d.out.String(), "file=b.json"))
}

func TestChecksDTriesAgain(t *testing.T) {
	d := newChecksD(t, false)
	d.reg.err = errors.New("the bus is away")
	d.write("a.json", `{"id":"x","ttl":1}`)
	d.sync([]string(nil)...)
	d.reg.err = nil
	d.sync("web01/x")
}

// waitFor waits until ok is true.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func TestChecksDFollows(t *testing.T) {
	d := newChecksD(t, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	written := time.Time{}
	waitFor(t, "the watch begins", func() bool {
		if time.Since(written) > 3*jsonDirSettle { // again: it may have begun after the first time
			d.write("a.json", `{"id":"x","ttl":1}`)
			written = time.Now()
		}
		return slices.Equal(d.reg.names(), []string{"web01/x"})
	})
	d.write("new.tmp", `{"id":"y","ttl":1}`)
	if err := os.Rename(filepath.Join(d.path, "new.tmp"), filepath.Join(d.path, "a.json")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a renamed file", func() bool { return slices.Equal(d.reg.names(), []string{"web01/y"}) })
	if err := os.Remove(filepath.Join(d.path, "a.json")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a file that is gone", func() bool { return len(d.reg.names()) == 0 })
	waitFor(t, "one beside a file that changes all the time", func() bool { // each look writes it
		d.write("a.json", `{"id":"z","ttl":1}`)
		return slices.Equal(d.reg.names(), []string{"web01/z"})
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A pipe among the files has no end that could be waited for: neither the start
// nor the other files wait.
func TestChecksDPipe(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	pipe := filepath.Join(dir, "a.json")
	is.NoErr(syscall.Mkfifo(pipe, 0o600))
	is.NoErr(os.WriteFile(filepath.Join(dir, "b.json"), []byte(`{"id":"db","url":"file:/tmp/x"}`), 0o600))
	d := newChecksDir(dir, "web01", true, nil, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() { defer close(done); d.Sync(t.Context()) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("it waits for the pipe")
		writer, err := os.OpenFile(pipe, os.O_RDWR, 0) // whoever waits goes on
		is.NoErr(err)
		is.NoErr(writer.Close())
		<-done
	}
	_, ok := d.local.Get("web01", "db")
	is.True(ok)
}
