package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
)

// A gateway that is restarted while the bus is away answers every reader from
// its last view, as stale and with its age, and goes over to the present one
// when the bus is back.
func TestRestartWithoutBus(t *testing.T) {
	is := is.New(t)
	file := filepath.Join(t.TempDir(), "view.json")
	dir := t.TempDir()
	srv := bustest.StartIn(t, dir, "127.0.0.1:0")
	listen := strings.TrimPrefix(srv.URL(), "nats://")
	keep := func(c *Config, _ *bus.RegistryOptions) { c.ViewFile = file }
	r := startOn(t, srv, keep)
	is.Equal(r.do("PUT", "/hosts/web01", `{"labels":{"zone":"b","cluster":"x"}}`).code, 201)
	r.registered("a", `"http://x/"`, events.Result{Status: events.Warning, Message: "w", Document: []byte(`{"x": 1.0, "<": "&"}`)})
	e, _ := r.reg.Check("web01", "a")
	want := r.get("/checks/a").body
	list := r.get("/checks").body
	r.stop() // writes the view
	srv.Close()

	// The bus is away: nothing listens.
	nc, err := nats.Connect("nats://"+listen, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		roleCredentials(t, srv.CredsPath()), nats.CustomInboxPrefix(bus.RoleInbox))
	is.NoErr(err)
	t.Cleanup(nc.Close)
	conn, err := bus.New(nc, bus.WithName("gw-test"))
	is.NoErr(err)
	reg := bus.NewRegistry(conn, bus.RegistryOptions{Local: "web01"})
	r = &rig{Server: New(Config{Conn: conn, Registry: reg, Host: "web01", ViewFile: file}), tb: t, conn: conn, num: r.num}
	r.runUnready(reg)

	r.eventually("it answers", func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	root := r.get("/")
	is.Equal(undated(root.body), `{"status": "Warning", "date": D, "message": "a:Warning:w"}`)
	_, err = strconv.Atoi(root.header.Get("Age"))
	is.NoErr(err) // it says how old it is
	is.Equal(r.get("/checks/a").body, want)
	is.Equal(r.get("/checks").body, list)
	host := r.get("/hosts/web01").object(t)
	is.Equal(host["status"], "Warning")
	is.Equal(host["phase"], "stale")
	check := r.get("/hosts/web01/checks/a").object(t)
	is.Equal(check["phase"], "stale")
	is.Equal(check["labels"], map[string]any{"zone": "b", "cluster": "x"})
	is.True(check["age_seconds"] != nil)
	is.Equal(r.get("/lb/web01").code, 200)
	is.Equal(r.get("/lb/web01?stale=closed").code, 503)
	is.True(strings.Contains(r.get("/metrics/hosts").body, `megaphone_check_stale{check="a",host="web01"} 1`))
	is.True(strings.Contains(r.get("/sd").body, `"web01"`))
	is.Equal(r.get("/readyz").code, 503)
	is.Equal(r.get("/hosts/other").code, 404)
	is.Equal(r.get("/lb/other").code, 200) // it may be there: Unknown, pending
	r.get("/hosts/web01/override").problem(t, 503)
	r.get("/events").problem(t, 503)
	r.do("PUT", "/hosts/web01/checks/b", `{"ttl":60}`).problem(t, 503)
	waited := make(chan answer, 1)
	go func() {
		waited <- r.get(fmt.Sprintf("/hosts/web01/checks/a?wait=60s&after_number=%v", check["number"]))
	}()

	r.bus = bustest.StartIn(t, dir, listen)
	r.eventually("the bus is back", func() bool { return r.get("/readyz").code == 200 })
	is.Equal((<-waited).code, 200) // who waits is not left behind
	is.Equal(r.get("/hosts/web01/checks/a").object(t)["phase"], "live")
	r.commit(live("web01", "a", e.Position, events.Critical, "down", 1<<60))
	r.eventually("it follows", func() bool { return r.get("/hosts/web01").object(t)["status"] == "Critical" })
}

// runUnready is run without waiting until the view is complete.
func (r *rig) runUnready(reg *bus.Registry) {
	wait := make(chan struct{})
	close(wait)
	r.runUntil(reg, wait)
}

func roleCredentials(t *testing.T, file string) nats.Option {
	t.Helper()
	user, password, err := bus.ReadCreds(file)
	must(t, err)
	return nats.UserInfo(user, password)
}

// lastOf is a view of hosts, each with two checks that have documents.
func lastOf(hosts int) *View {
	regs := newRegs()
	for i := range hosts {
		name := fmt.Sprintf("h%02d", i)
		regs.add(name, "a", 1, false)
		regs.add(name, "b", 2, false)
	}
	v := NewView(regs, 10*time.Second)
	v.RefreshRegistration("", "")
	for i := range hosts {
		for n, id := range []string{"a", "b"} {
			s := live(fmt.Sprintf("h%02d", i), id, uint64(n+1), events.Critical, "down", 1)
			s.V, s.Number = 1, 7
			v.ApplyCheck(s, true)
			in := polledAt(2, 2, events.Critical, "down")
			in.Host, in.Check, in.Result.Reg = s.Host, id, s.Reg
			in.Result.Document = json.RawMessage(`{"status":"Critical","x":"` + strings.Repeat("x", 2000) + `"}`)
			v.ApplyResult(in)
		}
	}
	return v
}

func TestLastViewIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		most                        int
		allHosts, someHosts         bool // of 20 that are in the file
		allDocuments, someDocuments bool // of their 40 checks
	}{
		"room for all":       {1 << 20, true, true, true, true},
		"documents go first": {60_000, true, true, false, true},
		"then whole hosts":   {16_000, false, true, false, true},
		"room for nothing":   {1200, false, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var b bytes.Buffer
			heard := time.Now().Add(-time.Hour)
			is.NoErr(writeView(&b, lastOf(20), heard, tt.most))
			is.True(b.Len() <= tt.most)
			v, at, err := readView(&b, 10*time.Second)
			is.NoErr(err)
			is.True(at.Equal(heard))
			documents := 0
			hosts, _ := v.Hosts(HostFilter{}, time.Now())
			for _, h := range hosts {
				is.Equal(h.Phase, events.Stale)
				is.Equal(h.Checks.Critical, 2) // never half a host
				for _, id := range []string{"a", "b"} {
					c, ok := v.Check(h.Host, id, time.Now())
					is.True(ok)
					is.Equal(c.Number, uint64(7))
					if len(c.Document) > 0 {
						documents++
					}
				}
			}
			is.Equal(len(hosts) == 20, tt.allHosts)
			is.Equal(len(hosts) > 0, tt.someHosts)
			is.Equal(documents == 40, tt.allDocuments)
			is.Equal(documents > 0, tt.someDocuments)
		})
	}
}

func TestLastViewDamaged(t *testing.T) {
	is := is.New(t)
	var b bytes.Buffer
	is.NoErr(writeView(&b, lastOf(3), time.Now(), maxLastBytes))
	whole := b.String()
	lines := strings.SplitAfter(whole, "\n")
	for name, text := range map[string]string{
		"empty":              "",
		"cut in a line":      whole[:len(whole)/2],
		"cut after a line":   strings.Join(lines[:2], ""),
		"a host is missing":  lines[0] + strings.Join(lines[2:], ""),
		"another version":    strings.Replace(whole, `"v":1`, `"v":2`, 1),
		"a host of no name":  strings.Replace(whole, `"host":"h01"`, `"host":"h 01"`, 1),
		"a check of no name": strings.Replace(whole, `"id":"a"`, `"id":""`, 1),
		"something else":     "[]",
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			file := filepath.Join(t.TempDir(), "view.json")
			is.NoErr(os.WriteFile(file, []byte(text), 0o600))
			_, _, err := loadView(file, time.Second)
			is.True(err != nil)
		})
	}
	v, _, err := loadView(filepath.Join(t.TempDir(), "none"), time.Second)
	is.NoErr(err)
	is.True(v == nil)
}

// The file is replaced as a whole; a directory that cannot be written is told of.
func TestSaveView(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "view.json")
	for range 2 {
		is.NoErr(saveView(file, lastOf(2), time.Now()))
		names, err := os.ReadDir(dir)
		is.NoErr(err)
		is.Equal(len(names), 1) // nothing is left beside it
	}
	info, err := os.Stat(file)
	is.NoErr(err)
	is.Equal(info.Mode().Perm(), os.FileMode(0o600))
	is.True(saveView(filepath.Join(dir, "none", "view.json"), lastOf(1), time.Now()) != nil)
}

// FuzzLastView: what is read is written and read again as the same.
func FuzzLastView(f *testing.F) {
	var b bytes.Buffer
	if err := writeView(&b, lastOf(1), time.Unix(1, 0), maxLastBytes); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"v":1}{"host":"a","checks":[{"entry":{"Registration":{"id":"x"}},"state":{}}]}{"end":true,"hosts":1}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, heard, err := readView(bytes.NewReader(in), time.Second)
		if err != nil {
			return
		}
		hosts, _ := v.Hosts(HostFilter{}, time.Now())
		for _, h := range hosts {
			v.root(h.Host)
			v.legacyList(h.Host)
			v.sightChecks(h.Host)
			v.Checks(h.Host, time.Now())
		}
		var once, twice bytes.Buffer
		must(t, writeView(&once, v, heard, maxLastBytes))
		again, heard, err := readView(bytes.NewReader(once.Bytes()), time.Second)
		must(t, err)
		must(t, writeView(&twice, again, heard, maxLastBytes))
		if !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("%s\nthen\n%s", once.Bytes(), twice.Bytes())
		}
	})
}
