package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// agentRig is a gateway with an agent-check listener, and its address.
func agentRig(t *testing.T) (*rig, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return start(t, func(c *Config, _ *bus.RegistryOptions) { c.AgentCheck = ln }), ln.Addr().String()
}

// agent asks as HAProxy does.
func agent(t *testing.T, address, send string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(c, send)
	must(t, err)
	b, err := io.ReadAll(c)
	must(t, err)
	return string(b)
}

func TestAgentCheck(t *testing.T) {
	is := is.New(t)
	r, address := agentRig(t)
	r.pushed("web01", "a/b", events.OK, "fine")
	r.pushed("web02", "db", events.Critical, "no\r\nänswer # 5")
	ask := func(send, want string) {
		t.Helper()
		is.Helper()
		is.Equal(agent(t, address, send), want+"\n")
	}
	ask("web01\n", "up ready 100%")
	ask("WEB01\r\nmore\n", "up ready 100%")
	ask("", "up ready 100%") // the local host, after a while
	ask("\n", "up ready 100%")
	ask("web01/a/b\n", "up ready 100%")
	ask("web01/a%2Fb?stale=closed\n", "up ready 100%")
	ask("web01", "up ready 100%") // no line end: what has come within the time
	ask("web02\n", "ready down #db:Critical:no   nswer   5")
	ask("web02/db?stale=last", "ready down #no   nswer   5")
	ask("nope\n", "fail #nothing is registered of host nope")
	ask("web02/nope\n", `fail #no check "nope" is registered of web02`)
	ask("web02?stale=maybe\n", `fail #?stale= may be last, open or closed, not "maybe"`)
	ask("we b\n", `fail #bad name: host "we b" may hold a-z 0-9 . _ - : only, not ' '`)
	ask(strings.Repeat("x", 5000), "fail #the line has more than 1024 bytes")
	r.pushed("web02", "db", events.Warning, "slow")
	ask("web02\n", "up ready 50%")
	ask("web02?weight=100\n", "up ready 100%")
	ask("web02?warning=fail\n", "ready down #db:Warning:slow")
	is.Equal(r.do("PUT", "/hosts/web02/override", `{"maintenance": true, "until": "2h"}`).code, 200)
	ask("web02\n", "maint")
	ask("web02?maintenance=drain\n", "up drain")
	is.Equal(r.do("DELETE", "/hosts/web02/override", "").code, 204)
	ask("web02\n", "up ready 50%") // complete: ready again
}

// Connections that say nothing, and never go away, are answered, cut off, and do
// not stop others or the end.
func TestAgentCheckBounded(t *testing.T) {
	is := is.New(t)
	r, address := agentRig(t)
	r.pushed("web01", "a", events.OK, "fine")
	const many = agentConns + 100
	conns := make([]net.Conn, many)
	for i := range conns {
		c, err := net.Dial("tcp", address)
		is.NoErr(err)
		defer c.Close()
		conns[i] = c
	}
	is.Equal(agent(t, address, "web01\n"), "up ready 100%\n")
	for _, c := range conns {
		is.NoErr(c.SetReadDeadline(time.Now().Add(10 * time.Second)))
		b, err := io.ReadAll(c)
		is.NoErr(err)
		is.Equal(string(b), "up ready 100%\n")
	}
	begin := time.Now()
	r.stop()
	is.True(time.Since(begin) < 4*time.Second)
	_, err := net.Dial("tcp", address)
	is.True(err != nil)
}

func FuzzAgentLine(f *testing.F) {
	for _, seed := range []string{"", "web01", "web01/a/b?stale=open", "?weight=5", "a/%zz", "\x00", "web01/?x", strings.Repeat("a", 2000)} {
		f.Add(seed)
	}
	s := &Server{local: "web01", view: NewView(newRegs(), time.Second), follower: &Follower{ready: make(chan struct{})}}
	f.Fuzz(func(t *testing.T, line string) {
		answer := s.agentAnswer(readAgentLine(strings.NewReader(line)), time.Unix(0, 0))
		if strings.ContainsFunc(answer, func(r rune) bool { return r < ' ' || r > '~' }) || len(answer) > agentReason+20 || answer == "" {
			t.Fatalf("%q: %q", line, answer)
		}
		if strings.Count(answer, "#") > 1 {
			t.Fatalf("%q: %q", line, answer)
		}
	})
}

// A listener that cannot listen is told; what is wrong with one connection passes.
func TestServeConnsTells(t *testing.T) {
	is := is.New(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer taken.Close()
	_, cannot := net.Listen("tcp", taken.Addr().String())
	is.True(cannot != nil)
	passes := &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l := &faultyListener{Listener: taken, faults: []error{passes, passes, cannot}}
	is.True(errors.Is(serveConns(ctx, l, 1, func(net.Conn) {}), syscall.EADDRINUSE))
	is.Equal(len(l.faults), 0)
}

// faultyListener has some faults, and then connections.
type faultyListener struct {
	net.Listener
	faults []error
}

func (l *faultyListener) Accept() (net.Conn, error) {
	if len(l.faults) == 0 {
		return l.Listener.Accept()
	}
	err := l.faults[0]
	l.faults = l.faults[1:]
	return nil, err
}
