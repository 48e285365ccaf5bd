package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
)

// The samples of a fleet with a zone, as they stand but for the addresses: an
// aggregator, two hosts with a worker and a gateway each, and a poller of a zone.
func TestFleetAndZones(t *testing.T) {
	skipUnderRace(t)
	is := is.New(t)
	srv := bustest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	role := func(sample, host, name string, args ...string) *process {
		p := launch(t, []string{
			"MEGAPHONE_BUS=" + srv.URL(), "MEGAPHONE_BUS_CREDS=" + srv.CredsPath(), "MEGAPHONE_REPLICAS=1", "MEGAPHONE_HOST=" + host,
			"MEGAPHONE_DATA=" + filepath.Join(t.TempDir(), "d"), "MEGAPHONE_LISTEN=127.0.0.1", "MEGAPHONE_PORT=0",
		}, append([]string{name, "--config", filepath.Join("..", "..", "deploy", sample)}, args...)...)
		is.True(p.becomesReady())
		return p
	}
	role("fleet/bus.conf", "bus1", "aggregator")
	svc := newServices(t)
	gateways := map[string]*process{}
	for host, says := range map[string]events.Status{"web01": events.OK, "web02": events.Critical} {
		role("fleet/host.conf", host, "poller")
		gateways[host] = role("fleet/host.conf", host, "gateway")
		svc.Set(host, says)
		gateways[host].must("POST", "/checks", fmt.Sprintf(`{"id":"app","url":"%s/%s"}`, svc.URL, host), http.StatusOK)
	}
	shows := func(asked, host string, want events.Status) {
		t.Helper()
		eventually(t, 60*time.Second, asked+" shows that "+host+" is "+want.String(), func() error {
			var v events.HostView
			if code, text := gateways[asked].call("GET", "/hosts/"+host, ""); code != http.StatusOK || unmarshal(text, &v) != nil || v.Status != want {
				return fmt.Errorf("%d %s", code, text)
			}
			return nil
		})
	}
	for asked := range gateways {
		shows(asked, "web01", events.OK)
		shows(asked, "web02", events.Critical)
	}
	is.True(strings.Contains(gateways["web01"].must("GET", "/", "", http.StatusOK), `"status": "OK"`)) // each answers for its own host
	is.True(strings.Contains(gateways["web02"].must("GET", "/", "", http.StatusOK), `"status": "Critical"`))

	svc.Set("inside", events.Warning)
	gateways["web01"].must("PUT", "/hosts/web01/checks/inside", fmt.Sprintf(`{"url":"%s/inside","pool":"zone-a"}`, svc.URL), http.StatusCreated)
	eventually(t, 30*time.Second, "the check waits for its zone", func() error {
		if v := checkOf(t, gateways["web01"], "web01", "inside"); v.Phase != events.Pending {
			return fmt.Errorf("%s %s", v.Status, v.Phase)
		}
		return nil
	})
	role("zones/poller.conf", "zone1", "poller")
	shows("web02", "web01", events.Warning)
}

func checkOf(t *testing.T, p *process, host, id string) (v events.CheckView) {
	t.Helper()
	if err := unmarshal(p.must("GET", "/hosts/"+host+"/checks/"+id, "", http.StatusOK), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// systemd takes both units, and finds little that they may do.
func TestUnits(t *testing.T) {
	is := is.New(t)
	analyze := real(t, "systemd-analyze")
	megaphone, err := exec.LookPath("megaphone")
	is.NoErr(err)
	for _, unit := range []string{"megaphone.service", "megaphone@.service"} {
		t.Run(unit, func(t *testing.T) {
			is := is.New(t)
			b, err := os.ReadFile(filepath.Join("..", "..", "deploy", unit))
			is.NoErr(err)
			file := filepath.Join(t.TempDir(), unit)
			is.NoErr(os.WriteFile(file, []byte(strings.ReplaceAll(string(b), "/usr/bin/megaphone", megaphone)), 0o600))
			code, out := runProgram(t, analyze, "verify", "--man=no", file)
			is.Equal(out, "") // nothing to complain about
			is.Equal(code, 0)
			if code, out = runProgram(t, analyze, "security", "--offline=true", "--no-pager", "--threshold=20", file); code != 0 {
				t.Fatalf("its exposure is above 2.0 of 10:\n%s", out)
			}
		})
	}
}
