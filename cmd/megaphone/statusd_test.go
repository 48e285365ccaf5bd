package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// statusdName is a service that tests start and stop as a process of its own.
const statusdName = "statusd"

// statusd runs until its standard input ends. "http PATH BODY" answers GETs of a
// path on a free port, whose address it prints; "nats URL NAME" is a NATS micro
// service of that name.
func statusd(args []string) int {
	var err error
	switch {
	case len(args) == 3 && args[0] == "http":
		err = statusdHTTP(args[1], args[2])
	case len(args) == 3 && args[0] == "nats":
		err = statusdNATS(args[1], args[2])
	default:
		err = fmt.Errorf("%s: %q", statusdName, args)
	}
	if err != nil {
		return problem(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it, it has ended
	return 0
}

func statusdHTTP(path, body string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	go http.Serve(l, mux) //nolint:errcheck // ends with the process
	fmt.Println(l.Addr())
	return nil
}

func statusdNATS(url, name string) error {
	nc, err := nats.Connect(url, nats.ReconnectWait(100*time.Millisecond), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	_, err = micro.AddService(nc, micro.Config{Name: name, Version: "1.2.3"})
	fmt.Println(name)
	return err
}

// service is a running statusd.
type service struct {
	cmd  *exec.Cmd
	said string // its first line
}

// startService starts statusd and waits until it answers.
func startService(t testing.TB, args ...string) *service {
	t.Helper()
	cmd := exec.Command(statusdName, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &service{cmd: cmd}
	t.Cleanup(s.Stop)
	b := make([]byte, 256)
	n, err := out.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	s.said = strings.TrimSpace(string(b[:n]))
	return s
}

// Stop kills the service and waits for its end. It may be called again.
func (s *service) Stop() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	_ = s.cmd.Wait()
}
