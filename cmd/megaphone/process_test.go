package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
)

// process is a megaphone of its own, as an operator would start it. Kill and
// Stop may be called more than once.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	log   *syncBuffer
	done  chan struct{}
	Ready readyFile

	readyPath string
}

type readyFile struct {
	HTTP  string `json:"http"`
	Bus   string `json:"bus"`
	Agent string `json:"agent_check"`
	GRPC  string `json:"grpc"`
	PID   int    `json:"pid"`
}

// syncBuffer collects what a process prints.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start runs megaphone with args and waits until it says that it is ready. It
// is killed when the test ends; its log is shown if the test failed.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	p := launch(t, nil, args...)
	if !p.becomesReady() {
		t.Fatalf("megaphone %s ended:\n%s", strings.Join(args, " "), p.log)
	}
	return p
}

// launch is start with variables for its environment, and without waiting.
func launch(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, log: &syncBuffer{}, done: make(chan struct{}), readyPath: filepath.Join(t.TempDir(), "ready.json")}
	p.cmd = exec.Command("megaphone", append(args, "--ready-file", p.readyPath)...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MEGAPHONE_") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }() // its exit code is asked for where it matters
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("megaphone %s printed:\n%s", strings.Join(args, " "), p.log)
		}
	})
	return p
}

// becomesReady waits until the process says that it is ready; false where it
// ends instead.
func (p *process) becomesReady() (ok bool) {
	p.t.Helper()
	eventually(p.t, 60*time.Second, "megaphone is ready", func() error {
		select {
		case <-p.done:
			return nil
		default:
		}
		b, err := os.ReadFile(p.readyPath)
		if err != nil {
			return err
		}
		ok = true
		return json.Unmarshal(b, &p.Ready)
	})
	return ok
}

// serve starts `megaphone serve` on free ports.
func serve(t testing.TB, data string, args ...string) *process {
	t.Helper()
	return start(t, append([]string{
		"serve", "--data", data, "--listen", "127.0.0.1", "--port", "0", "--bus-listen", "127.0.0.1:0",
		"--host", "web01", "--config", os.DevNull,
	}, args...)...)
}

// Kill ends the process by SIGKILL and waits for its end.
func (p *process) Kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended by itself
	<-p.done
}

// Stop ends the process by SIGTERM and waits for its end.
func (p *process) Stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.t.Fatal("it does not end within ten seconds of SIGTERM")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("exit code %d after SIGTERM", code)
	}
}

// call makes an HTTP request to the process and returns code and body.
func (p *process) call(method, path, body string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.Ready.HTTP+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// must is call for requests that have to be answered with want.
func (p *process) must(method, path, body string, want int) string {
	p.t.Helper()
	code, text := p.call(method, path, body)
	if code != want {
		p.t.Fatalf("%s %s: %d %s, want %d", method, path, code, text, want)
	}
	return text
}

// check reads the view of a check of web01.
func (p *process) check(id string) (v events.CheckView) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.must("GET", "/hosts/web01/checks/"+id, "", 200)), &v); err != nil {
		p.t.Fatal(err)
	}
	return v
}

// eventually waits for a condition.
func eventually(t testing.TB, limit time.Duration, what string, holds func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %s: %v", limit, what, err)
}

// services is a real HTTP server with many status documents that a test changes.
type services struct {
	URL   string
	mu    sync.Mutex
	docs  map[string]string
	polls map[string]int
}

func newServices(t testing.TB) *services {
	t.Helper()
	s := &services{docs: map[string]string{}, polls: map[string]int{}}
	srv := newHTTPServer(t, s)
	s.URL = srv
	return s
}

func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	doc, ok := s.docs[r.URL.Path]
	s.polls[r.URL.Path]++
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	fmt.Fprint(w, doc)
}

// Set changes the status of a service.
func (s *services) Set(name string, status events.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs["/"+name] = fmt.Sprintf(`{"status":%q,"message":"as set"}`, status)
}

func unmarshal(text string, v any) error { return json.Unmarshal([]byte(text), v) }

var errNotYet = errors.New("not yet")

// skipUnderRace is for tests with many checks in processes of their own: with the
// race detector these are several times slower, and run into deadlines that are
// not about them. They run without it, and their packages' own tests with it.
func skipUnderRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the processes of this test are too slow with the race detector; it runs without it")
	}
}
