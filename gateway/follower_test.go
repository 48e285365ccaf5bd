package gateway

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
)

// startAway runs a gateway that is connected over TCP to a server which the test
// may stop and start again at the same address.
func startAway(t *testing.T) (r *rig, dir, listen string) {
	t.Helper()
	dir = t.TempDir()
	srv := bustest.StartIn(t, dir, "127.0.0.1:0")
	listen = srv.URL()[len("nats://"):]
	if _, _, err := net.SplitHostPort(listen); err != nil {
		t.Fatal(err)
	}
	conn, err := bus.New(bustest.ConnectRole(t, srv, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)), bus.WithName("gw-test"))
	must(t, err)
	must(t, conn.Setup(t.Context(), bus.StreamOptions{MaxBytes: 256 << 20}))
	c := Config{Conn: conn, Host: "web01", RegisterWait: 50 * time.Millisecond, Registry: bus.NewRegistry(conn, bus.RegistryOptions{Local: "web01"})}
	r = &rig{Server: New(c), tb: t, bus: srv, conn: conn, num: map[string]uint64{}}
	r.run(c.Registry)
	return r, dir, listen
}

// The gateway goes on answering while the bus is away, says how old its answer
// is, refuses writes with a reason, and follows again when the bus is back.
func TestBusAway(t *testing.T) {
	is := is.New(t)
	r, dir, listen := startAway(t)
	r.registered("a", `"http://x/"`, events.Result{Status: events.Warning, Message: "w"})
	watch := r.watch("")
	r.bus.Close()
	r.eventually("the loss is noticed", func() bool { return r.get("/readyz").code == 503 && r.get("/").header.Get("Age") != "" })
	root := r.get("/")
	is.Equal(root.code, 200)
	is.Equal(undated(root.body), `{"status": "Warning", "date": D, "message": "a:Warning:w"}`)
	age, err := strconv.Atoi(root.header.Get("Age"))
	is.NoErr(err)
	is.True(age >= 0)
	is.Equal(r.get("/livez").code, 200)
	is.Equal(r.get("/hosts/web01").object(t)["status"], "Warning")
	got := r.do("PUT", "/hosts/web01/checks/b", `{"url": "http://x/"}`)
	got.problem(t, 503)
	is.Equal(got.header.Get("Retry-After"), "1")
	is.Equal(r.do("POST", "/checks", `{"id": "b", "url": "http://x/"}`).code, 503)

	r.bus = bustest.StartIn(t, dir, listen)
	r.eventually("the bus is back", func() bool { return r.get("/readyz").code == 200 })
	is.Equal(r.get("/").header.Get("Age"), "")
	e, _ := r.reg.Check("web01", "a")
	r.commit(live("web01", "a", e.Position, events.Critical, "down", 1<<60))
	r.eventually("the view follows", func() bool { return r.get("/hosts/web01").object(t)["status"] == "Critical" })
	is.Equal(watch.next().event, events.TypeCheckChanged) // the stream of the client went on
}

// Streams that were made anew, with numbers that begin again, replace the view.
func TestBusLosesEverything(t *testing.T) {
	is := is.New(t)
	r, dir, listen := startAway(t)
	r.registered("a", `"http://x/"`, events.Result{Status: events.Warning, Message: "old"})
	r.polled("a", events.Result{Status: events.Critical, Message: "older"})
	is.Equal(r.get("/hosts/web01/checks/a").object(t)["number"], 2.0)
	r.bus.Close()
	creds, err := os.ReadFile(r.bus.CredsPath())
	is.NoErr(err)
	is.NoErr(os.RemoveAll(dir))
	is.NoErr(os.MkdirAll(dir, 0o700))
	is.NoErr(os.WriteFile(r.bus.CredsPath(), creds, 0o600)) // else the role user could not come back
	r.bus = bustest.StartIn(t, dir, listen)
	r.eventually("it is connected", func() bool { return r.conn.NATS().IsConnected() })
	r.eventually("streams", func() bool { return r.conn.Setup(t.Context(), bus.StreamOptions{MaxBytes: 256 << 20}) == nil })
	r.eventually("the old state is forgotten", func() bool {
		v, ok := r.view.Check("web01", "a", time.Now())
		return !ok || v.Phase == events.Pending
	})
	r.num = map[string]uint64{}
	r.eventually("a registration", func() bool { return r.do("POST", "/checks?wait=0", `{"id": "a", "url": "http://x/"}`).code == 200 })
	r.polled("a", events.Result{Status: events.Warning, Message: "new"})
	is.Equal(r.get("/hosts/web01/checks/a").object(t)["number"], 1.0)
	is.Equal(undated(r.get("/").body), `{"status": "Warning", "date": D, "message": "a:Warning:new"}`)
}

// A gateway that starts later knows everything that the bus knows: records from
// STATE, transitions that are only in CHANGES, and the last results.
func TestLateStart(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("a", `"http://x/"`, events.Result{Status: events.Warning, Message: "w", Document: []byte(`{"x":1.0}`)})
	e, _ := r.reg.Check("web01", "a")
	r.poll("web01", "a", events.Result{Status: events.Warning, Message: "w2", Reg: e.Position, Lease: 2, Document: []byte(`{"x":2.0}`)})
	is.Equal(r.do("PUT", "/hosts/web02/checks/b", `{"ttl": 60}`).code, 201)
	s := live("web02", "b", 1, events.Critical, "silent", 1)
	s.V, s.Number = events.RecordVersion, 5
	_, err := r.conn.Store(t.Context(), &nats.Msg{Subject: events.StateSubject("web02", "b"), Data: encode(s)})
	is.NoErr(err)

	r2 := startOn(t, r.bus)
	is.Equal(undated(r2.get("/").body), `{"status": "Warning", "date": D, "message": "a:Warning:w2"}`)
	is.Equal(r2.get("/checks/a").body, `{"x": 2.0}`)
	check := r2.get("/hosts/web02/checks/b").object(t)
	is.Equal(check["number"], 5.0)
	is.Equal(check["status"], "Critical")
}

// With a wait of less than two heartbeats a gateway never noticed that its
// consumer had died with a node of the cluster, and told nothing any more
// (cmd/torture, a cluster whose node is killed).
func TestLostConsumersAreNoticed(t *testing.T) {
	is := is.New(t)
	is.True(pullWait > 2*pullHeartbeat)
	is.True(pullWait < quietTime) // asking for a sign of life in between
}

// What came in reports shows, and a gateway that starts later knows it, too: the
// stream keeps none of it for each check.
func TestReports(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("a", `"http://x/"`, events.Result{Status: events.OK, Message: "alone"})
	e, _ := r.reg.Check("web01", "a")
	for n := range 3 {
		at := time.Now()
		_, err := r.conn.PublishReport(t.Context(), events.Partition("web01"),
			events.Header{Type: events.TypeReport, Source: "urn:megaphone:worker:w1", ID: strconv.Itoa(n), Time: at},
			events.Report{Worker: "w1", Pool: "default", Results: []events.PollResult{{Host: "web01", Check: "a", Time: events.At(at), Result: events.Result{
				Status: events.OK, Message: "together " + strconv.Itoa(n), Reg: e.Position, Lease: 1 << 40, Due: at.UnixMilli() + int64(n),
				Document: json.RawMessage(`{"status":"OK","n":` + strconv.Itoa(n) + `}`),
			}}}})
		is.NoErr(err)
	}
	// A report of which the last one of its subject says nothing about the check.
	_, err := r.conn.PublishReport(t.Context(), events.Partition("web01"),
		events.Header{Type: events.TypeReport, Source: "urn:megaphone:worker:w1", ID: "last", Time: time.Now()},
		events.Report{Worker: "w1", Pool: "default", Results: []events.PollResult{}})
	is.NoErr(err)
	shown := func(r *rig) bool {
		v := r.get("/hosts/web01/checks/a").object(t)
		return v["message"] == "together 2" && v["document"].(map[string]any)["n"] == 2.0
	}
	r.eventually("the reports are shown", func() bool { return shown(r) })
	later := startOn(t, r.bus)
	is.True(shown(later)) // at once: it was read before the gateway was ready
}
