package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/looprock/megaphone/pollers/systemdtest"
	"github.com/matryer/is"
)

// discoverD is a directory of rules with those that were taken last, and its log.
type discoverD struct {
	*discoverDir
	t        *testing.T
	names    string
	complete bool
	out      *bytes.Buffer
}

func newDiscoverD(t *testing.T) *discoverD {
	out := &bytes.Buffer{}
	d := &discoverD{discoverDir: newDiscoverDir(t.TempDir(), "web01", nil, slog.New(slog.NewTextHandler(out, nil))), t: t, out: out}
	d.rules = d
	return d
}

// SetRules is what the directory calls.
func (d *discoverD) SetRules(rules []pollers.Rule, complete bool) error {
	d.names, d.complete = "", complete
	for _, r := range rules {
		d.names += " " + r.Name
	}
	return nil
}

func (d *discoverD) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *discoverD) sync(want string, complete bool) {
	d.t.Helper()
	d.Sync(d.t.Context())
	is.New(d.t).Equal(d.names, want)
	is.New(d.t).Equal(d.complete, complete)
}

func aRule(name string) string {
	return `{"rule":"` + name + `","unit":"a","register":{"id":"{unit}","url":"systemd:{unit}"}}`
}

func TestDiscoverD(t *testing.T) {
	is := is.New(t)
	d := newDiscoverD(t)
	d.write("a.json", aRule("a"))
	d.write("b.json", "["+aRule("b1")+","+aRule("b2")+"]")
	d.write("notes.txt", "no")
	d.sync(" a b1 b2", true)
	is.Equal(d.out.String(), "")

	d.write("a.json", strings.Replace(aRule("a"), `"unit"`, `"units"`, 1))
	d.sync(" a b1 b2", false) // as it was
	d.sync(" a b1 b2", false)
	is.Equal(strings.Count(d.out.String(), "file=a.json"), 1) // told once, in one line
	is.True(strings.Contains(d.out.String(), `not a rule or a list of them: json: unknown field \"units\"`))

	d.write("a.json", strings.Replace(aRule("a"), "systemd", "ftp", 1))
	d.sync(" a b1 b2", false)
	is.True(strings.Contains(d.out.String(), `rule 1: bad rule: register: bad registration: `))

	d.write("a.json", aRule("b2"))
	d.sync(" b2 b1", true) // the first by name has it
	is.True(strings.Contains(d.out.String(), `file=b.json error="rule b2 is also in a.json, which has it"`))

	is.NoErr(os.Remove(filepath.Join(d.path, "a.json")))
	d.sync(" b1 b2", true)

	var many []string
	for i := range pollers.MaxRules {
		many = append(many, aRule(fmt.Sprintf("m%02d", i)))
	}
	d.write("a.json", "["+strings.Join(many, ",")+"]")
	d.Sync(t.Context())
	is.Equal(strings.Count(d.names, " "), pollers.MaxRules)
	is.Equal(d.complete, false)
	is.True(strings.Contains(d.out.String(), `file=b.json error="there are more than 64 rules: b1 and those after it are not taken"`))
}

// shows waits until a check of web01 has a status, a message that holds a text,
// and an origin.
func (p *process) shows(id string, status events.Status, message, origin string) {
	p.t.Helper()
	eventually(p.t, 30*time.Second, fmt.Sprintf("%s is %s %s", id, status, message), func() error {
		code, text := p.call("GET", "/hosts/web01/checks/"+id, "")
		var v events.CheckView
		if code != http.StatusOK || unmarshal(text, &v) != nil {
			return fmt.Errorf("%d %s", code, text)
		}
		if v.Status != status || !strings.Contains(v.Message, message) || v.Origin != origin {
			return fmt.Errorf("%s %s %s", v.Status, v.Message, v.Origin)
		}
		return nil
	})
}

// ends waits until a check is not registered.
func (p *process) ends(id string) {
	p.t.Helper()
	eventually(p.t, 30*time.Second, id+" is deregistered", func() error {
		if text := p.must("GET", "/checks", "", http.StatusOK); strings.Contains(text, `"`+id+`"`) {
			return errors.New(text)
		}
		return nil
	})
}

// roleURL is the bus of p with the credentials of the role user, which a service
// needs to be asked.
func (p *process) roleURL(data string) string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "bus.creds"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Replace(p.Ready.Bus, "nats://", "nats://"+strings.TrimSpace(string(b))+"@", 1)
}

const (
	webRule     = `{"rule":"web","process":{"name":"statusd","command":" http "},"register":{"id":"web-{port}","url":"http://{address}:{port}/health"}}`
	programRule = `{"rule":"program","process":{"name":"statusd","command":" http "},"register":{"id":"{name}","url":"process:{name}"},"gone":"deregister","grace":"3s"}`
	microRule   = `{"rule":"micro","service":"^orders$","register":{"id":"micro/{service}","url":"nats:///$SRV.PING.{service}"},"gone":"deregister","grace":"10s"}`
	unitRule    = `{"rule":"units","unit":"^app-","register":{"id":"{unit}","url":"systemd:{unit}"},"gone":"deregister","grace":"3s"}`
)

// Services that start are registered by themselves, and when they end become
// Critical or leave, as their rules say; across a restart too.
func TestDiscovery(t *testing.T) {
	is := is.New(t)
	rules, data := t.TempDir(), t.TempDir()
	rule := func(name, text string) { is.NoErr(os.WriteFile(filepath.Join(rules, name), []byte(text), 0o600)) }
	rule("web.json", "["+webRule+","+programRule+"]")
	rule("micro.json", microRule)
	address := freeAddress(t) // the service comes back to it after a restart
	run := func() *process {
		return serve(t, data, "--discover-d", rules, "--interval", "1s", "--bus-listen", address)
	}
	p := run()

	web := startService(t, "http", "/health", `{"status":"UP"}`)
	id := "web-" + web.said[strings.LastIndex(web.said, ":")+1:]
	orders := startService(t, "nats", p.roleURL(data), "orders")
	p.shows(id, events.OK, "UP", "discovered:web")
	p.shows("statusd", events.OK, "processes statusd", "discovered:program")
	p.shows("micro%2Forders", events.OK, "orders 1.2.3 answers on $SRV.PING.orders", "discovered:micro")
	checks := p.must("GET", "/checks", "", http.StatusOK)
	t.Log(checks)
	for _, want := range []string{`"` + id + `": "http://localhost:`, `"statusd": "process:statusd"`, `"micro/orders": "nats:///$SRV.PING.orders"`} {
		is.True(strings.Contains(checks, want))
	}
	is.True(strings.Contains(p.must("GET", "/hosts", "", http.StatusOK), `"status":"OK"`))

	p.Stop() // what is still there is not touched by a restart
	p = run()
	p.shows(id, events.OK, "UP", "discovered:web")
	p.shows("statusd", events.OK, "processes statusd", "discovered:program")
	is.True(!strings.Contains(p.log.String(), "component=discovery host=")) // neither registered nor deregistered
	is.True(!strings.Contains(p.log.String(), "cannot be registered"))      // nor from the cache file, which has it too

	orders.Stop()
	p.ends("micro/orders")
	p.Stop()
	web.Stop() // while nobody looks
	p = run()
	p.shows(id, events.Critical, "timeout connecting to http://localhost:", "discovered:web")
	p.ends("statusd")
	p.shows(id, events.Critical, "timeout connecting to http://localhost:", "discovered:web") // it stays

	// Somebody who knows better deregisters it; it does not come back.
	p.must("DELETE", "/hosts/web01/checks/"+id, "", http.StatusNoContent)
	p.ends(id)

	// A broken file changes nothing; a rule that is gone takes its checks along.
	web = startService(t, "http", "/health", `{"status":"DOWN"}`)
	id = "web-" + web.said[strings.LastIndex(web.said, ":")+1:]
	p.shows(id, events.Critical, "DOWN", "discovered:web")
	rule("web.json", strings.Replace(webRule, "process", "processes", 1))
	eventually(t, 20*time.Second, "it is told", func() error {
		if !strings.Contains(p.log.String(), "file=web.json") {
			return errNotYet
		}
		return nil
	})
	is.True(strings.Contains(p.must("GET", "/checks", "", http.StatusOK), id))
	is.NoErr(os.Remove(filepath.Join(rules, "web.json")))
	p.ends(id)
	p.ends("statusd")
}

// Of two pollers on one host one looks; when it dies the other one takes over what
// it discovered, local kinds included.
func TestDiscoveryIsTakenOver(t *testing.T) {
	is := is.New(t)
	rules := t.TempDir()
	is.NoErr(os.WriteFile(filepath.Join(rules, "web.json"), []byte("["+webRule+","+programRule+"]"), 0o600))
	srv := bustest.Start(t)
	role := func(name string, args ...string) *process {
		args = append([]string{name, "--bus", srv.URL(), "--bus-creds", srv.CredsPath(), "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null", "--interval", "1s", "--host", "web01"}, args...)
		return start(t, args...)
	}
	gateway := role("gateway", "--listen", "127.0.0.1", "--port", "0", "--register-wait", "0")
	role("aggregator")
	first := role("poller", "--discover-d", rules)
	web := startService(t, "http", "/health", `{"status":"UP"}`)
	id := "web-" + web.said[strings.LastIndex(web.said, ":")+1:]
	gateway.shows(id, events.OK, "UP", "discovered:web")
	gateway.shows("statusd", events.OK, "processes statusd", "discovered:program")

	second := role("poller", "--discover-d", rules)
	first.Kill()
	orders := startService(t, "http", "/health", `{"status":"UP"}`)
	gateway.shows("web-"+orders.said[strings.LastIndex(orders.said, ":")+1:], events.OK, "UP", "discovered:web") // the second looks
	gateway.shows("statusd", events.OK, "2 processes statusd", "discovered:program")
	is.True(!strings.Contains(second.log.String(), "deregistered"))
	is.True(!strings.Contains(second.log.String(), "check="+id)) // which was there all the time
	web.Stop()
	orders.Stop()
	gateway.shows(id, events.Critical, "timeout connecting", "discovered:web")
	gateway.ends("statusd")
}

// A unit of systemd, by a stand-in on a private bus.
func TestDiscoversUnits(t *testing.T) {
	is := is.New(t)
	manager := systemdtest.Start(t, real(t, "dbus-daemon"), map[string]string{"ssh.service": "active/running", "app-old.service": "inactive/dead"})
	rules := t.TempDir()
	is.NoErr(os.WriteFile(filepath.Join(rules, "units.json"), []byte(unitRule), 0o600))
	p := serve(t, t.TempDir(), "--discover-d", rules, "--interval", "1s")
	manager.Set("app-shop.service", "active/running")
	p.shows("app-shop.service", events.OK, "app-shop.service is active (running)", "discovered:units")
	manager.Set("app-shop.service", "failed/failed")
	p.shows("app-shop.service", events.Critical, "app-shop.service is failed (failed)", "discovered:units")
	is.Equal(p.must("GET", "/checks", "", http.StatusOK), `{"app-shop.service": "systemd:app-shop.service"}`)
	manager.Set("app-shop.service", "") // stopped
	p.ends("app-shop.service")
}

// A registration that claims to be discovered is looked at only where this
// process has discovered it.
func TestDiscoveredIsNotForged(t *testing.T) {
	is := is.New(t)
	prog, rules := newPrograms(t), t.TempDir()
	none := strings.Replace(webRule, `"statusd"`, `"no-such-program"`, 1)
	is.NoErr(os.WriteFile(filepath.Join(rules, "web.json"), []byte(none), 0o600))
	p := serve(t, t.TempDir(), "--discover-d", rules, "--interval", "1s")
	evil := events.Registration{Host: "web01", ID: "evil", URL: []byte(`"exec:` + prog.make("evil") + `"`), Origin: "discovered:web"}
	code, text := p.call("PUT", "/hosts/web01/checks/evil", `{"url":`+string(evil.URL)+`,"origin":"discovered:web"}`)
	is.Equal(code, http.StatusBadRequest)
	is.True(strings.Contains(text, "checks.d"))
	conn, err := bus.Connect(t.Context(), p.Ready.Bus)
	is.NoErr(err)
	t.Cleanup(func() { conn.Close() })
	storeRaw(t, conn, evil)
	p.shows("evil", events.Critical, "not looked at", "discovered:web")
	is.Equal(len(prog.ran()), 0)
}
