package bus_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

// A subscriber that does not read its socket costs the server its own 64 MiB and
// is then cut off; a watch beside it gets everything.
func TestSlowNATSClientIsCutOff(t *testing.T) {
	is := is.New(t)
	s := bustest.Start(t)
	role, err := bus.New(bustest.Connect(t, s))
	is.NoErr(err)
	is.NoErr(role.Setup(t.Context(), bus.StreamOptions{}))
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "nats://"))
	is.NoErr(err)
	defer conn.Close()
	is.NoErr(conn.(*net.TCPConn).SetReadBuffer(64 << 10))
	_, err = io.WriteString(conn, "CONNECT {\"verbose\":false}\r\nSUB megaphone.status.> 1\r\nPING\r\n")
	is.NoErr(err)
	for in := bufio.NewScanner(conn); in.Scan() && in.Text() != "PONG"; { // it is subscribed then, and reads no more
	}

	const n = 1600 // of 60 KiB: more than the server and the sockets hold
	c, err := bus.Connect(t.Context(), s.URL())
	is.NoErr(err)
	defer c.Close()
	watched := make(chan uint64)
	go func() {
		last := uint64(0)
		for ch, err := range c.Watch(t.Context(), bus.WatchOptions{FromStart: true}) {
			if err != nil || ch.Transition.Number != last+1 {
				break
			}
			if last++; last == n {
				break
			}
		}
		watched <- last
	}()
	text := strings.Repeat("x", 60<<10)
	for i := range uint64(n) {
		tr := events.Transition{Host: "web01", Check: "db", Number: i + 1, Message: text, Current: events.Moment{Status: new(events.OK), Phase: events.Live}}
		b, err := events.Encode(events.Header{Type: events.TypeCheckChanged, Source: "urn:test", ID: tr.ID(), Time: time.Now()}, tr)
		is.NoErr(err)
		_, err = role.Store(t.Context(), bus.Message(events.CommitSubject("web01", "db"), b))
		is.NoErr(err)
	}
	is.Equal(<-watched, uint64(n))
	is.NoErr(conn.(*net.TCPConn).SetReadBuffer(1 << 20))
	is.NoErr(conn.SetReadDeadline(time.Now().Add(60 * time.Second)))
	rest, err := io.ReadAll(conn) // ended or reset, but no time-out
	is.True(!errors.Is(err, os.ErrDeadlineExceeded))
	is.True(len(rest) < n*60<<10)
	t.Logf("it got %d of %d KiB", len(rest)>>10, n*60)
}
