package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

// haproxyWith runs HAProxy in front of a service, whose one server is checked as
// said, and returns how the server is told in HAProxy's statistics.
func haproxyWith(t *testing.T, service string, backend string) (state func() string, request func() int) {
	t.Helper()
	haproxy := real(t, "haproxy")
	front, stats := freeAddress(t), freeAddress(t)
	cfg := fmt.Sprintf(`defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend www
  bind %s
  default_backend web
frontend stats
  bind %s
  stats enable
  stats uri /
backend web
  balance roundrobin
%s
`, front, stats, strings.ReplaceAll(backend, "SERVER", "server web02 "+strings.TrimPrefix(service, "http://")))
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, haproxy, "-db", "-f", file)
	return func() string { return serverState("http://" + stats + "/;csv") }, func() int {
		res, err := http.Get("http://" + front + "/app")
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
}

// serverState is status and weight of the server in HAProxy's table.
func serverState(url string) string {
	res, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if f := strings.Split(line, ","); len(f) > 18 && f[0] == "web" && f[1] == "web02" {
			return f[17] + " " + f[18]
		}
	}
	return "not in the table"
}

// settled waits for what HAProxy tells of the server and what its clients get.
func settled(t *testing.T, state func() string, request func() int, want string, code int) {
	t.Helper()
	eventually(t, 20*time.Second, "HAProxy tells "+want, func() error {
		if got := state(); got != want {
			return fmt.Errorf("it tells %q", got)
		}
		if got := request(); got != code {
			return fmt.Errorf("it answers %d, not %d", got, code)
		}
		return nil
	})
}

// HAProxy's agent-check follows every state, and each answer leads back from any
// other: the answers are complete.
func TestHAProxyAgentCheck(t *testing.T) {
	svc := newServices(t)
	svc.Set("app", events.OK)
	p := serve(t, t.TempDir(), "--agent-check", "127.0.0.1:0")
	p.must("PUT", "/hosts/web02/checks/q", `{"ttl":"1h"}`, http.StatusCreated)
	push := func(status string) {
		p.must("PUT", "/hosts/web02/checks/q/status", fmt.Sprintf(`{"status":%q,"message":"so it is"}`, status), http.StatusNoContent)
	}
	push("OK")
	port := p.Ready.Agent[strings.LastIndexByte(p.Ready.Agent, ':')+1:]
	for _, maintenance := range []struct{ policy, state string }{{"", "MAINT (agent) 0"}, {"?maintenance=drain", "DRAIN (agent) 0"}} {
		t.Run("maintenance"+maintenance.policy, func(t *testing.T) {
			state, request := haproxyWith(t, svc.URL, "  SERVER weight 100 check inter 500ms agent-check agent-addr 127.0.0.1 agent-port "+port+
				` agent-inter 200ms agent-send "web02`+maintenance.policy+`\n"`)
			up, half, down := "UP 100", "UP 50", "DOWN (agent) 100"
			settled(t, state, request, up, 200)
			for range 2 {
				push("Warning")
				settled(t, state, request, half, 200)
				push("Critical")
				settled(t, state, request, strings.Replace(down, "100", "50", 1), 503)
				push("OK")
				settled(t, state, request, up, 200)
				p.must("PUT", "/hosts/web02/override", `{"maintenance":true,"until":"1h"}`, http.StatusOK)
				eventually(t, 20*time.Second, "maintenance", func() error {
					if got := state(); !strings.HasPrefix(got, maintenance.state[:5]) || request() != 503 {
						return fmt.Errorf("it tells %q", got)
					}
					return nil
				})
				t.Log(state())
				p.must("DELETE", "/hosts/web02/override", "", http.StatusNoContent)
				settled(t, state, request, up, 200)
			}
		})
	}
}

// HAProxy with its HTTP check on /lb, by OPTIONS and HTTP/1.0 as it asks by
// default, and with disable-on-404.
func TestHAProxyHTTPCheckOfLB(t *testing.T) {
	svc := newServices(t)
	svc.Set("app", events.OK)
	p := serve(t, t.TempDir())
	p.must("PUT", "/hosts/web02/checks/q", `{"ttl":"1h"}`, http.StatusCreated)
	push := func(status string) {
		p.must("PUT", "/hosts/web02/checks/q/status", fmt.Sprintf(`{"status":%q}`, status), http.StatusNoContent)
	}
	push("OK")
	state, request := haproxyWith(t, svc.URL, "  option httpchk OPTIONS /lb/web02?drain=404\n  http-check disable-on-404\n"+
		"  SERVER weight 100 check port "+port(t, p.Ready.HTTP)+" inter 200ms")
	settled(t, state, request, "UP 100", 200)
	push("Critical")
	settled(t, state, request, "DOWN 100", 503)
	push("Warning")
	settled(t, state, request, "UP 100", 200)
	p.must("PUT", "/hosts/web02/override", `{"maintenance":true,"until":"1h"}`, http.StatusOK)
	settled(t, state, request, "NOLB 100", 503)
	p.must("DELETE", "/hosts/web02/override", "", http.StatusNoContent)
	settled(t, state, request, "UP 100", 200)
}

// grpc-health-probe, which Kubernetes had before it spoke gRPC itself, agrees.
func TestGRPCHealthProbe(t *testing.T) {
	is := is.New(t)
	probe := real(t, "grpc-health-probe")
	p := serve(t, t.TempDir(), "--grpc", "127.0.0.1:0")
	shown := func(status, service string, want int) {
		t.Helper()
		eventually(t, 30*time.Second, status+" as "+service, func() error {
			if code, out := runProgram(t, probe, "-addr", p.Ready.GRPC, "-service", service); code != want {
				return fmt.Errorf("%d, not %d: %s", code, want, out)
			}
			return nil
		})
	}
	p.must("PUT", "/hosts/web02/checks/q", `{"ttl":"1h"}`, http.StatusCreated)
	for status, want := range map[string]int{"OK": 0, "Warning": 0, "Unknown": 0, "Critical": 4} {
		p.must("PUT", "/hosts/web02/checks/q/status", fmt.Sprintf(`{"status":%q}`, status), http.StatusNoContent)
		for _, service := range []string{"web02", "web02/q?stale=closed"} {
			shown(status, service, want) // 4 is: not serving
		}
	}
	p.must("PUT", "/hosts/web02/checks/q/status", `{"status":"Warning"}`, http.StatusNoContent)
	for service, want := range map[string]int{"rollup:host=web*": 0, "rollup:host=web*?warning=fail": 4, "rollup:env=prod": 3} {
		shown("Warning", service, want)
	}
	code, out := runProgram(t, probe, "-addr", p.Ready.GRPC, "-service", "nope")
	is.Equal(code, 3) // the call failed: NOT_FOUND
	is.True(strings.Contains(out, "NotFound"))
	code, _ = runProgram(t, probe, "-addr", p.Ready.GRPC) // the local host
	is.Equal(code, 0)
}
