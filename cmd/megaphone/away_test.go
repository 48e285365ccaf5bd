package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A gateway on a host of its own goes on answering while the bus is gone, also
// after kill -9 and a restart; with the bus it goes on as if nothing had been.
func TestGatewayRestartsWithoutBus(t *testing.T) {
	is := is.New(t)
	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "d")
	srv := bustest.StartIn(t, dir, "127.0.0.1:0")
	listen, creds := strings.TrimPrefix(srv.URL(), "nats://"), srv.CredsPath()
	gateway := func() *process {
		return start(t, "gateway", "--bus", "nats://"+listen, "--bus-creds", creds, "--data", data, "--config", "/dev/null",
			"--listen", "127.0.0.1", "--port", "0", "--host", "web01")
	}
	aggregator := start(t, "aggregator", "--bus", srv.URL(), "--bus-creds", creds, "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null")
	g := gateway()
	g.must("PUT", "/hosts/web01/checks/a", `{"ttl":"1h"}`, http.StatusCreated)
	g.must("PUT", "/hosts/web01/checks/a/status", `{"status":"Warning","message":"half full"}`, http.StatusNoContent)
	eventually(t, 30*time.Second, "the view is on the disk", func() error {
		if !exists(filepath.Join(data, lastViewFile)) || g.check("a").Status != events.Warning {
			return errNotYet
		}
		return nil
	})
	g.Stop() // writes it once more
	aggregator.Kill()
	srv.Close()

	for range 2 {
		g = gateway()
		is.True(strings.Contains(g.must("GET", "/", "", http.StatusOK), `"message": "a:Warning:half full"`))
		v := g.check("a")
		is.Equal(v.Status, events.Warning)
		is.Equal(v.Phase, events.Stale)
		is.True(v.AgeSeconds != nil)
		g.must("GET", "/readyz", "", http.StatusServiceUnavailable)
		g.must("PUT", "/hosts/web01/checks/b", `{"ttl":"1h"}`, http.StatusServiceUnavailable)
		g.Kill() // writes nothing: what the file says stays
	}

	g = gateway()
	srv = bustest.StartIn(t, dir, listen)
	start(t, "aggregator", "--bus", srv.URL(), "--bus-creds", creds, "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null")
	eventually(t, 60*time.Second, "the gateway has the bus", func() error {
		if code, _ := g.call("GET", "/readyz", ""); code != http.StatusOK || g.check("a").Phase != events.Live {
			return errNotYet
		}
		return nil
	})
	g.must("PUT", "/hosts/web01/checks/b", `{"ttl":"1h"}`, http.StatusCreated)
	g.Stop()
}
