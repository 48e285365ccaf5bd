package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
)

// crowded serves at most so many connections; a request for /wait is under way
// until release is called.
func crowded(t *testing.T, most int) (addr string, c *crowd, release func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c = newCrowd(ln, most)
	released := make(chan struct{})
	release = sync.OnceFunc(func() { close(released) })
	srv := &http.Server{ConnState: c.state, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-released
		}
		fmt.Fprint(w, "ok")
	})}
	var ended sync.WaitGroup
	ended.Go(func() { _ = srv.Serve(c) })
	t.Cleanup(func() {
		release()
		_ = srv.Close()
		ended.Wait()
		eventually(t, 10*time.Second, "all connections are forgotten", func() bool { return c.count() == 0 })
	})
	return ln.Addr().String(), c, release
}

func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.guests)
}

// newest is the state of the one that became idle last.
func (c *crowd) newest() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idle.prev.conn
}

// caller is a client with a connection of its own.
type caller struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, addr string) *caller {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	t.Cleanup(func() { _ = c.Close() })
	return &caller{t, c, bufio.NewReader(c)}
}

func (c *caller) send(path string) {
	c.t.Helper()
	_, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	must(c.t, err)
}

func (c *caller) answered() error {
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// Clients that hold connections and ask nothing keep nobody out: of those the
// one that has been quiet for longest goes.
func TestCrowdMakesRoom(t *testing.T) {
	is := is.New(t)
	addr, c, _ := crowded(t, 3)
	first, second := dial(t, addr), dial(t, addr)
	for _, one := range []*caller{first, second} {
		one.send("/")
		is.NoErr(one.answered())
		eventually(t, 10*time.Second, "it is idle", func() bool {
			newest := c.newest()
			return newest != nil && newest.RemoteAddr().String() == one.conn.LocalAddr().String()
		})
	}
	third := dial(t, addr) // has sent nothing yet
	eventually(t, 10*time.Second, "it is in", func() bool { return c.count() == 3 })
	fourth := dial(t, addr)
	fourth.send("/")
	is.NoErr(fourth.answered())
	is.True(first.answered() != nil) // it had to go
	second.send("/")
	is.NoErr(second.answered())
	third.send("/")
	is.NoErr(third.answered())
}

// While all have requests under way others wait, and none of them is lost.
func TestCrowdWaits(t *testing.T) {
	is := is.New(t)
	addr, c, release := crowded(t, 2)
	busy := []*caller{dial(t, addr), dial(t, addr)}
	for _, one := range busy {
		one.send("/wait")
	}
	eventually(t, 10*time.Second, "both are under way", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.guests) == 2 && c.idle.next == &c.idle
	})
	late := dial(t, addr)
	late.send("/")
	release()
	is.NoErr(late.answered())
	for _, one := range busy { // it may have had to go for the late one, after its answer
		is.NoErr(one.answered())
	}
}

// Close ends the wait for a place.
func TestCrowdCloses(t *testing.T) {
	is := is.New(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	c := newCrowd(ln, 1)
	for range 2 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		is.NoErr(err)
		defer conn.Close()
	}
	in, err := c.Accept()
	is.NoErr(err)
	defer in.Close()
	done := make(chan error, 1)
	go func() {
		_, err := c.Accept()
		done <- err
	}()
	is.NoErr(c.Close())
	is.True(errors.Is(<-done, net.ErrClosed))
}

// eventually waits for a condition.
func eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("did not happen: %s", what)
		}
	}
}
