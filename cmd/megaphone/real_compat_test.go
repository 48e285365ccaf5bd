package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// The push calls of other projects as their documentation writes them, with
// nothing changed but the address, move the check that the token stands for.
func TestDocumentedPushes(t *testing.T) {
	is := is.New(t)
	real(t, "curl")
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	is.NoErr(os.WriteFile(tokens, []byte("5bd7b5b7-3b5e-4f3e-9a3c-1d1a7a5d2f10 web01 backup 26h\nGbIzY3vkQ8 web01 kuma 1m\nmy-check-id web01 consul 1m\n"), 0o600))
	is.NoErr(os.WriteFile(filepath.Join(dir, "payload.json"), []byte("{\n  \"Status\": \"passing\",\n  \"Output\": \"curl reported a failure:\\n\\n...\"\n}\n"), 0o600))
	is.NoErr(os.WriteFile(filepath.Join(dir, "certbot-renew.log"), []byte("renewing\ncertificate is not due\n"), 0o600))
	p := serve(t, t.TempDir(), "--push-tokens", tokens, "--write-from", "192.0.2.0/24", "--read", "open")
	where := strings.NewReplacer(
		"https://hc-ping.com/your-uuid-here", p.Ready.HTTP+"/compat/healthchecks/5bd7b5b7-3b5e-4f3e-9a3c-1d1a7a5d2f10",
		"https://status.example.com", p.Ready.HTTP+"/compat/uptime-kuma", "PUSHTOKEN", "GbIzY3vkQ8",
		"http://127.0.0.1:8500", p.Ready.HTTP+"/compat/consul",
	)
	for _, tt := range []struct {
		script, check, prints string
		status                events.Status
		message               string
	}{
		{`curl -fsS -m 10 --retry 5 https://hc-ping.com/your-uuid-here`, "backup", "OK", events.OK, "success"},
		{`curl --retry 3 -s https://hc-ping.com/your-uuid-here/fail`, "backup", "OK", events.Critical, "fail"},
		{`curl -fsS -m 10 --retry 5 -o /dev/null https://hc-ping.com/your-uuid-here`, "backup", "", events.OK, "success"},
		{`sh -c 'echo broken; exit 7' >out; curl -fsS --data-binary @out https://hc-ping.com/your-uuid-here/7`, "backup", "OK", events.Critical, "exit status 7: broken"},
		{`m=$(cat certbot-renew.log 2>&1); curl -fsS -m 10 --retry 5 --data-raw "$m" https://hc-ping.com/your-uuid-here/$?`, "backup", "OK", events.OK, "exit status 0: certificate is not due"},
		{`curl -fsS -m 10 --retry 5 --data-binary @certbot-renew.log https://hc-ping.com/your-uuid-here/fail`, "backup", "OK", events.Critical, "fail: certificate is not due"},
		{`RID=$(cat /proc/sys/kernel/random/uuid)
curl -fsS -m 10 --retry 5 https://hc-ping.com/your-uuid-here/start?rid=$RID
curl -fsS --data-raw "half way" https://hc-ping.com/your-uuid-here/log?rid=$RID
curl -fsS -m 10 --retry 5 https://hc-ping.com/your-uuid-here?rid=$RID`, "backup", "OKOKOK", events.OK, "success: half way"},
		{`curl -s "https://status.example.com/api/push/PUSHTOKEN?status=down&msg=disk&ping=12"`, "kuma", `{"ok":true}`, events.Critical, "disk"},
		{`curl -s "https://status.example.com/api/push/PUSHTOKEN?status=up&msg=OK&ping="`, "kuma", `{"ok":true}`, events.OK, "OK"},
		{`curl -s --get --data-urlencode "status=down" --data-urlencode "msg=exit-code (exited 1)" https://status.example.com/api/push/PUSHTOKEN`, "kuma", `{"ok":true}`, events.Critical, "exit-code (exited 1)"},
		{`curl -s --request PUT http://127.0.0.1:8500/v1/agent/check/pass/my-check-id`, "consul", "", events.OK, "Detected OK state [no message specified]"},
		{`curl -s --request PUT "http://127.0.0.1:8500/v1/agent/check/warn/my-check-id?note=slow"`, "consul", "", events.Warning, "slow"},
		{`curl -s --request PUT http://127.0.0.1:8500/v1/agent/check/fail/my-check-id`, "consul", "", events.Critical, "Detected Critical state [no message specified]"},
		{`curl -s --request PUT --data @payload.json http://127.0.0.1:8500/v1/agent/check/update/my-check-id`, "consul", "", events.OK, "curl reported a failure:\n\n..."},
	} {
		t.Run(tt.check+" "+tt.status.String(), func(t *testing.T) {
			is := is.New(t)
			cmd := exec.CommandContext(t.Context(), "sh", "-c", where.Replace(tt.script))
			cmd.Dir = dir
			out, err := cmd.Output()
			is.NoErr(err)
			is.Equal(strings.TrimSpace(string(out)), tt.prints)
			eventually(t, 20*time.Second, "the push shows", func() error {
				var v events.CheckView
				code, text := p.call("GET", "/hosts/web01/checks/"+tt.check, "") // a first push may find the aggregator starting
				if err := json.Unmarshal([]byte(text), &v); err != nil || v.Status != tt.status || v.Message != tt.message || v.Phase != events.Live {
					return fmt.Errorf("%d %s %w", code, text, errors.Join(err, errNotYet))
				}
				return nil
			})
		})
	}
	is.True(p.check("backup").LatencySeconds > 0) // the run's duration
	if code, _ := p.call("PUT", "/checks/backup/status", `{"status":"OK"}`); code != http.StatusForbidden {
		t.Fatal(code) // other writes are as guarded as before
	}
}
