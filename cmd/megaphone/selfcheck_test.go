package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// In a fleet each host with a worker has a check of its own: Critical when the
// worker is silent, Unknown when it stopped in good order. A single serve has none.
func TestBuiltInCheck(t *testing.T) {
	t.Parallel() // it waits most of the time
	is := is.New(t)
	srv := bustest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	role := func(name string, args ...string) *process {
		return start(t, append([]string{name, "--bus", srv.URL(), "--bus-creds", srv.CredsPath(), "--data", filepath.Join(t.TempDir(), "d"), "--config", "/dev/null"}, args...)...)
	}
	gateway := role("gateway", "--listen", "127.0.0.1", "--port", "0", "--host", "")
	role("aggregator")
	dead, stopped := role("poller", "--host", "p1"), role("poller", "--host", "p2")
	shows := func(host string, status events.Status, message string) {
		t.Helper()
		eventually(t, 60*time.Second, host+" is "+status.String(), func() error {
			code, text := gateway.call("GET", "/hosts/"+host+"/checks/megaphone", "")
			var v events.CheckView
			if code != 200 || unmarshal(text, &v) != nil || v.Status != status || !strings.Contains(v.Message, message) {
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		})
	}
	shows("p1", events.OK, "at work")
	shows("p2", events.OK, "at work")
	stopped.Stop()
	killed := time.Now()
	dead.Kill()
	shows("p2", events.Unknown, "stopped")
	shows("p1", events.Critical, "no push for 15s (ttl 15s)")
	took := time.Since(killed)
	t.Logf("told %s after kill -9", took)
	is.True(took > 9*time.Second) // not before three heartbeats
	shows("p2", events.Unknown, "stopped")

	alone := serve(t, t.TempDir())
	is.Equal(alone.must("GET", "/checks", "", 200), "{}")
}
