package main

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
)

// What `discover` prints can be pasted into a shell, and registers the service.
func TestDiscoverIsPasted(t *testing.T) {
	is := is.New(t)
	p := serve(t, t.TempDir(), "--interval", "1s")
	web := startService(t, "http", "/actuator/health", `{"status":"OUT_OF_SERVICE","details":{"q":{"status":"DOWN"}}}`)
	port := web.said[strings.LastIndex(web.said, ":")+1:]
	code, text := runProgram(t, "megaphone", "discover", "--port", port, "--timeout", "20s")
	t.Log(text)
	is.Equal(code, 0)
	is.Equal(text, fmt.Sprintf(`# localhost:%s, statusd (process %d): actuator at /actuator/health says Critical: OUT_OF_SERVICE: q DOWN
megaphone register statusd http://localhost:%s/actuator/health
# 1 TCP sockets listen here. 1 were asked, over loopback only, by 2 GETs of 20s at most for /health /actuator/health /healthz /status /.
# Nothing was registered.
`, port, web.cmd.Process.Pid, port))

	sh := exec.CommandContext(t.Context(), "sh", "-c", text)
	sh.Env = append(sh.Environ(), "MEGAPHONE_BUS="+p.Ready.Bus)
	out, err := sh.CombinedOutput()
	is.NoErr(err)
	is.Equal(string(out), "registered statusd on web01\n")
	p.shows("statusd", events.Critical, "OUT_OF_SERVICE: q DOWN", "cli")

	code, text = runProgram(t, "megaphone", "discover", "--json", "--port", port, "--timeout", "20s")
	is.Equal(code, 0)
	var s pollers.Survey
	is.NoErr(unmarshal(text, &s))
	is.Equal(len(s.Candidates), 1)
	is.Equal(s.Candidates[0].Dialect, "actuator")
	b := fmt.Sprintf(`{"url":%s}`, s.Candidates[0].Registration.URL)
	p.must("PUT", "/hosts/web01/checks/again", b, http.StatusCreated)
}

// What services and processes say of themselves stays within a comment.
func TestSurveyIsSafeToPaste(t *testing.T) {
	is := is.New(t)
	var b strings.Builder
	reg := &events.Registration{ID: "x", URL: []byte(`{"addr":"http://localhost:1/","expect_code":200}`)}
	is.NoErr(printSurvey(&b, pollers.Survey{Candidates: []pollers.Candidate{
		{Listens: "localhost:1", Process: "a\nreboot", PID: 7, Note: "says OK: a\r\nreboot\u2028\x1b[2J" + strings.Repeat("b", 500), Registration: reg},
		{Listens: "[fd00::1]:2", Note: "no", Registration: &events.Registration{ID: "y", URL: []byte(`"tcp://[fd00::1]:2"`)}},
	}, Sockets: 3, Asked: 1, Left: 1}, time.Second))
	t.Log(b.String())
	var commands []string
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "# ") {
			commands = append(commands, line)
			continue
		}
		is.True(len(line) < 300)
	}
	is.Equal(commands, []string{
		`megaphone register x '{"addr":"http://localhost:1/","expect_code":200}'` + "\n",
		`megaphone register y 'tcp://[fd00::1]:2'` + "\n",
	})
	is.True(!strings.ContainsAny(b.String(), "\r\x1b\u2028"))
	is.True(strings.Contains(b.String(), "# Of 1 the owner is not shown to this user"))
}
