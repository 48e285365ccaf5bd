package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// programs is a directory of programs that leave a mark when they run.
type programs struct {
	t          testing.TB
	dir, marks string
}

func newPrograms(t testing.TB) programs { return programs{t, t.TempDir(), t.TempDir()} }

func (p programs) make(name string) (path string) {
	p.t.Helper()
	path = filepath.Join(p.dir, name)
	text := fmt.Sprintf("#!/bin/sh\ntouch %s/%s\necho '%s ran | n=1'\n", p.marks, name, name)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p programs) ran() (names []string) {
	p.t.Helper()
	list, err := os.ReadDir(p.marks)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// Nothing that comes over the network runs a program or reads a file.
func TestNetworkRunsNoProgram(t *testing.T) {
	is := is.New(t)
	prog := newPrograms(t)
	checks, data := t.TempDir(), t.TempDir()
	own := prog.make("own")
	is.NoErr(os.WriteFile(filepath.Join(checks, "own.json"), []byte(`{"id":"own","url":"exec:`+own+`"}`), 0o600))
	p := serve(t, data, "--checks-d", checks, "--interval", "1s")
	eventually(t, 20*time.Second, "its own program runs", func() error {
		if v := p.check("own"); v.Status != events.OK || v.Message != "own ran" {
			return fmt.Errorf("%s %s %w", v.Status, v.Message, errNotYet)
		}
		return nil
	})

	evil := prog.make("evil")
	refused := func(code int, text string) {
		t.Helper()
		t.Log(code, strings.TrimSpace(text))
		is.True(code == http.StatusBadRequest || code == http.StatusConflict)
		is.True(strings.Contains(text, "checks.d") || strings.Contains(text, "file:own.json") || strings.Contains(text, "own.json")) // says why
	}
	for _, addr := range []string{"exec:" + evil, "exec://" + evil, "EXEC:" + evil, "process:init", "systemd:ssh.service", "file:/etc/passwd"} {
		for _, url := range []string{fmt.Sprintf("%q", addr), fmt.Sprintf(`{"addr":%q}`, addr)} {
			refused(p.call("PUT", "/hosts/web01/checks/x", `{"url":`+url+`,"origin":"file:own.json"}`))
			refused(p.call("POST", "/events", fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"x","type":%q,"data":{"id":"x","host":"web01","origin":"file:own.json","url":%s}}`, events.TypeRegistered, url)))
			if !strings.HasPrefix(addr, "file:") { // the original took those
				refused(p.call("POST", "/checks", `{"id":"x","url":`+url+`,"origin":"file:own.json"}`))
			}
		}
	}
	code, text := p.call("PUT", "/hosts/web01/checks/own", `{"url":"http://localhost:1/"}`)
	is.Equal(code, http.StatusConflict)
	t.Log(text)
	p.must("POST", "/checks?wait=5s", `{"id":"passwd","url":"file:///etc/passwd"}`, http.StatusOK)
	code, text = runProgram(t, "megaphone", "register", "x", "exec:"+evil, "--bus", p.Ready.Bus)
	is.True(code != 0 && strings.Contains(text, "checks.d"))

	conn, err := bus.Connect(t.Context(), p.Ready.Bus) // a stranger
	is.NoErr(err)
	t.Cleanup(func() { conn.Close() })
	reg := func(id, addr, origin string) events.Registration {
		url, _ := json.Marshal(addr)
		return events.Registration{Host: "web01", ID: id, URL: url, Origin: origin}
	}
	_, err = conn.Register(t.Context(), reg("x", "exec:"+evil, "file:own.json"))
	is.True(err != nil && strings.Contains(err.Error(), "checks.d"))

	// Raw events: with a forged origin even they look like the configuration's.
	storeRaw(t, conn, reg("plain", "exec:"+evil, "http"))
	storeRaw(t, conn, reg("forged", "exec:"+evil, "file:own.json"))
	storeRaw(t, conn, reg("forged-file", "file:/etc/passwd", "file:own.json"))
	storeRaw(t, conn, reg("own", "exec:"+evil, "file:own.json"))
	shows := func(id, want string) {
		t.Helper()
		eventually(t, 20*time.Second, id+" is refused by the worker", func() error {
			code, text := p.call("GET", "/hosts/web01/checks/"+id, "")
			var v events.CheckView
			if code != http.StatusOK || json.Unmarshal([]byte(text), &v) != nil || v.Status != events.Critical || !strings.Contains(v.Message, want) {
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		})
	}
	shows("forged", "only from checks.d on the host itself")
	shows("forged-file", "timeout connecting to file:/etc/passwd")
	shows("own", "only from checks.d on the host itself") // until checks.d is read again
	shows("passwd", "timeout connecting to file:///etc/passwd")
	is.Equal(prog.ran(), []string{"own"})
	code, _ = p.call("GET", "/hosts/web01/checks/plain", "")
	is.Equal(code, http.StatusNotFound)

	p.Stop() // nor after a restart, from whatever was kept
	is.NoErr(os.Remove(filepath.Join(prog.marks, "own")))
	p = serve(t, data, "--checks-d", checks, "--interval", "1s")
	eventually(t, 20*time.Second, "its own program runs again", func() error {
		if v := p.check("own"); v.Message != "own ran" {
			return fmt.Errorf("%s %w", v.Message, errNotYet)
		}
		return nil
	})
	is.Equal(prog.ran(), []string{"own"})
}

// storeRaw puts a registration on the bus as anyone can, past every process.
func storeRaw(t testing.TB, conn *bus.Conn, r events.Registration) {
	t.Helper()
	b, err := events.Encode(events.Header{Type: events.TypeRegistered, Source: "x", ID: r.ID, Host: r.Host, Check: r.ID, Time: time.Now()}, r)
	if err == nil {
		_, err = conn.Store(t.Context(), bus.Message(events.RegistrationSubject(r.Host, r.ID), b))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A poller of its own knows from its host's files what it may run.
func TestPollerReadsItsHostsFiles(t *testing.T) {
	is := is.New(t)
	prog := newPrograms(t)
	checks, none := t.TempDir(), t.TempDir()
	is.NoErr(os.WriteFile(filepath.Join(checks, "own.json"), []byte(`{"id":"own","url":"exec:`+prog.make("own")+`"}`), 0o600))
	srv := bustest.Start(t)
	role := func(name string, args ...string) *process {
		args = append([]string{name, "--bus", srv.URL(), "--bus-creds", srv.CredsPath(), "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null", "--interval", "1s"}, args...)
		return start(t, args...)
	}
	gateway := role("gateway", "--listen", "127.0.0.1", "--port", "0", "--host", "web01", "--register-wait", "0", "--checks-d", checks)
	role("aggregator")
	shows := func(want string) {
		t.Helper()
		eventually(t, 20*time.Second, want, func() error {
			if v := gateway.check("own"); !strings.Contains(v.Message, want) {
				return fmt.Errorf("%s %w", v.Message, errNotYet)
			}
			return nil
		})
	}
	without := role("poller", "--host", "web01", "--checks-d", none)
	shows("only from checks.d on the host itself")
	is.Equal(len(prog.ran()), 0)
	is.Equal(gateway.check("own").Origin, "file:own.json") // it deregistered nothing
	without.Stop()
	role("poller", "--host", "web01", "--checks-d", checks)
	shows("own ran")
}

// --poll-allow and --poll-deny reach the worker.
func TestPollNetworks(t *testing.T) {
	is := is.New(t)
	svc := newServices(t)
	svc.Set("a", events.OK)
	for _, tt := range []struct {
		args []string
		want events.Status
	}{
		{nil, events.OK},
		{[]string{"--poll-allow", "127.0.0.0/8"}, events.OK},
		{[]string{"--poll-allow", "10.0.0.0/8"}, events.Critical},
		{[]string{"--poll-deny", "127.0.0.1"}, events.Critical},
	} {
		p := serve(t, t.TempDir(), tt.args...)
		p.must("POST", "/checks?wait=20s", `{"id":"a","url":{"addr":"`+svc.URL+`/a","dialect":"megaphone"}}`, http.StatusOK)
		v := p.check("a")
		t.Log(tt.args, v.Status, v.Message)
		is.Equal(v.Status, tt.want)
		is.Equal(strings.Contains(v.Message, "address is not polled"), tt.want != events.OK)
		p.Stop()
	}
}
