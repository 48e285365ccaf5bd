package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// real finds an outside program. Tests with such programs are run by .ci/run,
// which sets MEGAPHONE_REAL; there a missing program is a failure.
func real(t *testing.T, program string) string {
	t.Helper()
	if os.Getenv("MEGAPHONE_REAL") == "" {
		t.Skipf("needs %s; .ci/run, which installs it, runs this test (MEGAPHONE_REAL=1)", program)
	}
	for _, path := range []string{program, "/usr/sbin/" + program, "/usr/lib/nagios/plugins/" + program} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Fatalf("%s is missing", program)
	return ""
}

func natsCLI(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("NATS_CLI"); path != "" && os.Getenv("MEGAPHONE_REAL") != "" {
		return path
	}
	return real(t, "nats")
}

// run runs a program to its end and returns its exit code and what it printed.
func runProgram(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir()) // no settings of the developer's
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// background runs a program until the test ends.
func background(t *testing.T, args ...string) (*exec.Cmd, *syncBuffer) {
	t.Helper()
	out := &syncBuffer{}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s printed:\n%s", args[0], out)
		}
	})
	return cmd, out
}

// cloudEvents returns the events that a program printed, each valid against the
// schema of CloudEvents.
func cloudEvents(t *testing.T, out string) (got []events.Transition) {
	t.Helper()
	f, err := os.Open("../../events/testdata/cloudevents.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("cloudevents.json", doc); err != nil {
		t.Fatal(err)
	}
	schema := c.MustCompile("cloudevents.json")
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, "{") {
			continue
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		e, err := events.Decode([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		var tr events.Transition
		if err := events.DataAs(e, &tr); err != nil {
			t.Fatal(err)
		}
		got = append(got, tr)
	}
	return got
}

// The plain nats tool, without any code of ours, sees a service turn Critical:
// one transition of the check and one of the host.
func TestNATSToolSubscribes(t *testing.T) {
	is := is.New(t)
	nats := natsCLI(t)
	svc := newServices(t)
	svc.Set("db", events.OK)
	p := serve(t, t.TempDir(), "--interval", "1s")
	p.must("POST", "/checks", `{"id":"db","url":"`+svc.URL+`/db"}`, http.StatusOK)

	_, out := background(t, nats, "--server", p.Ready.Bus, "sub", "megaphone.status.>")
	eventually(t, 20*time.Second, "the tool subscribes", func() error {
		if !strings.Contains(out.String(), "Subscribing") {
			return errNotYet
		}
		return nil
	})
	code, text := runProgram(t, nats, "--server", p.Ready.Bus, "rtt") // the subscription is with the server by now
	is.Equal(code, 0)
	_ = text
	svc.Set("db", events.Critical)
	var got []events.Transition
	eventually(t, 20*time.Second, "two transitions", func() error {
		if got = cloudEvents(t, out.String()); len(got) < 2 {
			return errNotYet
		}
		return nil
	})
	is.Equal(len(got), 2)
	check, host := got[0], got[1]
	is.Equal(check.Check, "db")
	is.Equal(check.Number, uint64(2)) // the first was OK
	is.Equal(*check.Current.Status, events.Critical)
	is.Equal(*check.Previous.Status, events.OK)
	is.Equal(host.Check, "")
	is.Equal(host.Number, uint64(2))
	is.Equal(*host.Current.Status, events.Critical)
}

// A durable consumer of the plain tool, killed and started again, misses nothing.
func TestNATSToolResumes(t *testing.T) {
	is := is.New(t)
	nats := natsCLI(t)
	p := serve(t, t.TempDir())
	p.must("PUT", "/hosts/web01/checks/q", `{"ttl":"1h"}`, http.StatusCreated)
	code, out := runProgram(t, nats, "--server", p.Ready.Bus, "consumer", "add", "CHANGES", "drain",
		"--filter", "megaphone.status.check.web01.q", "--pull", "--deliver", "all", "--ack", "explicit", "--defaults")
	t.Log(out)
	is.Equal(code, 0)
	const flips = 6
	push := func(n int) {
		p.must("PUT", "/hosts/web01/checks/q/status", fmt.Sprintf(`{"status":%q}`, events.Statuses()[n%2*3]), http.StatusNoContent)
	}
	var numbers []uint64
	next := func(count int) {
		code, out := runProgram(t, nats, "--server", p.Ready.Bus, "consumer", "next", "CHANGES", "drain", "--raw", "--ack", "--count", fmt.Sprint(count))
		is.Equal(code, 0)
		for _, tr := range cloudEvents(t, out) {
			numbers = append(numbers, tr.Number)
		}
	}
	for n := range flips / 2 {
		push(n)
	}
	next(2) // stops here; what comes now is for its next run
	for n := flips / 2; n < flips; n++ {
		push(n)
	}
	next(flips - 2)
	is.Equal(numbers, []uint64{1, 2, 3, 4, 5, 6})
}

// A shell is enough to push, and not enough to forge or to delete.
func TestNATSToolPushes(t *testing.T) {
	is := is.New(t)
	nats := natsCLI(t)
	p := serve(t, t.TempDir())
	code, out := runProgram(t, nats, "--server", p.Ready.Bus, "pub", "-J", "megaphone.result.web01.queue", `{"status":"OK","ttl":"60s"}`)
	t.Log(out)
	is.Equal(code, 0)
	eventually(t, 10*time.Second, "the push shows", func() error {
		var v events.HostView
		getJSON(t, p, "/hosts/web01", &v)
		if v.Status != events.OK || v.Checks.OK != 1 {
			return errNotYet
		}
		return nil
	})
	is.Equal(p.check("queue").Origin, "push")
	last := lastChange(t, p)
	for _, subject := range []string{"megaphone.status.host.web01", "megaphone.commit.host.web01"} {
		_, out := runProgram(t, nats, "--server", p.Ready.Bus, "pub", subject, "forged")
		t.Log(out)
		is.True(strings.Contains(out, "ermissions")) // refused
	}
	is.Equal(lastChange(t, p), last)
	code, out = runProgram(t, nats, "--server", p.Ready.Bus, "stream", "rm", "CHANGES", "--force")
	t.Log(out)
	is.True(code != 0) // refused
	is.Equal(lastChange(t, p), last)
}

// HAProxy, with httpchk on GET / and the body compared, takes a server out and
// in again as the status changes.
func TestHAProxyFollows(t *testing.T) {
	is := is.New(t)
	haproxy := real(t, "haproxy")
	svc := newServices(t)
	svc.Set("app", events.OK)
	p := serve(t, t.TempDir(), "--interval", "1s")
	p.must("POST", "/checks", `{"id":"app","url":"`+svc.URL+`/app"}`, http.StatusOK)

	sample, err := os.ReadFile("../../deploy/haproxy.cfg")
	is.NoErr(err)
	front := freeAddress(t)
	cfg := strings.NewReplacer(
		"bind :80", "bind "+front, "check port 18001 inter 2s", "check port "+port(t, p.Ready.HTTP)+" inter 200ms",
		"192.0.2.11:8080", strings.TrimPrefix(svc.URL, "http://"),
	).Replace(string(sample))
	cfg = strings.Replace(cfg, "  server web02 192.0.2.12:8080\n", "", 1) // one server, so that "out" shows as 503
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	is.NoErr(os.WriteFile(file, []byte(cfg), 0o600))
	background(t, haproxy, "-db", "-f", file)
	answers := func(want int) {
		t.Helper()
		eventually(t, 20*time.Second, fmt.Sprintf("HAProxy answers %d", want), func() error {
			res, err := http.Get("http://" + front + "/app")
			if err != nil {
				return err
			}
			res.Body.Close()
			if res.StatusCode != want {
				return fmt.Errorf("it answers %d", res.StatusCode)
			}
			return nil
		})
	}
	answers(http.StatusOK)
	svc.Set("app", events.Critical)
	answers(http.StatusServiceUnavailable)
	svc.Set("app", events.OK)
	answers(http.StatusOK)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func port(t *testing.T, base string) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// check_http of the monitoring plugins and megaphone nagios agree.
func TestNagiosPluginsAgree(t *testing.T) {
	is := is.New(t)
	checkHTTP := real(t, "check_http")
	p := serve(t, t.TempDir())
	p.must("PUT", "/hosts/web01/checks/q", `{"ttl":"1h"}`, http.StatusCreated)
	for status, want := range map[events.Status]struct{ http, nagios int }{
		events.OK:       {0, 0},
		events.Warning:  {2, 1}, // check_http knows found and not found only
		events.Critical: {2, 2},
		events.Unknown:  {2, 3},
	} {
		p.must("PUT", "/hosts/web01/checks/q/status", fmt.Sprintf(`{"status":%q,"message":"m|m"}`, status), http.StatusNoContent)
		eventually(t, 20*time.Second, "the push shows", func() error { // a 204 waits 100 ms for that, no longer
			if got := p.check("q").Status; got != status {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
		code, out := runProgram(t, checkHTTP, "-H", "127.0.0.1", "-p", port(t, p.Ready.HTTP), "-u", "/", "-s", `"status": "OK"`)
		t.Log(out)
		is.Equal(code, want.http)
		code, out = runProgram(t, "megaphone", "nagios", "-H", "127.0.0.1", "-p", port(t, p.Ready.HTTP), "--host", "web01")
		t.Log(out)
		is.Equal(code, want.nagios)
		is.Equal(strings.Count(out, "|"), 1) // perfdata, and no other bar
	}
}

// The push examples register, push and say good-bye.
func TestPushExamples(t *testing.T) {
	for _, example := range [][]string{
		{"curl", "sh", "../../deploy/examples/push.sh"},
		{"python3", "python3", "../../deploy/examples/push.py"},
	} {
		t.Run(example[0], func(t *testing.T) {
			is := is.New(t)
			real(t, example[0])
			p := serve(t, t.TempDir())
			marker := filepath.Join(t.TempDir(), "marker")
			is.NoErr(os.WriteFile(marker, nil, 0o600))
			cmd, _ := background(t, append(example[1:], p.Ready.HTTP, "web01", "queue/depth", "6s", "test", "-e", marker)...)
			shows := func(want events.Status) {
				t.Helper()
				eventually(t, 20*time.Second, "it shows "+want.String(), func() error {
					var v events.CheckView
					code, text := p.call("GET", "/hosts/web01/checks/queue%2Fdepth", "")
					if code != http.StatusOK {
						return fmt.Errorf("%d %s", code, text)
					}
					if err := json.Unmarshal([]byte(text), &v); err != nil || v.Status != want || v.Phase != events.Live {
						return fmt.Errorf("%s %s %w", v.Status, v.Phase, errNotYet)
					}
					return nil
				})
			}
			shows(events.OK)
			is.NoErr(os.Remove(marker))
			shows(events.Warning) // test -e exits with 1
			is.NoErr(cmd.Process.Signal(syscall.SIGTERM))
			eventually(t, 20*time.Second, "good-bye", func() error {
				if code, text := p.call("GET", "/hosts/web01/checks/queue%2Fdepth", ""); code != http.StatusNotFound {
					return fmt.Errorf("%d %s", code, text)
				}
				return nil
			})
			is.True(!bytes.Contains([]byte(p.must("GET", "/", "", 200)), []byte("Critical"))) // no alarm
		})
	}
}
