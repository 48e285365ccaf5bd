package pollers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

// raw answers each request on a connection with what answer says, and closes the
// connection where that says so.
func raw(tb testing.TB, answer func(connection, request int) (text string, last bool)) *url.URL {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for connection := 0; ; connection++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for request := 0; ; request++ {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					text, last := answer(connection, request)
					if _, err := io.WriteString(c, text); err != nil || last {
						return
					}
				}
			}()
		}
	}()
	return &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/"}
}

func answerOK(headers string) string {
	const doc = `{"status":"OK","message":"fine"}`
	return fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", headers, len(doc), doc)
}

// What is found does not depend on who asks: this or net/http's Transport.
func TestDirectFindsWhatTheTransportFinds(t *testing.T) {
	const doc = `{"status":"OK","message":"fine"}`
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, tt := range map[string]struct {
		answer string
		last   bool // and the connection is closed
		status events.Status
	}{
		"with a length":            {answerOK(""), false, events.OK},
		"and closed":               {answerOK(""), true, events.OK},
		"told to close":            {answerOK("Connection: close\r\n"), false, events.OK},
		"without a length":         {"HTTP/1.1 200 OK\r\n\r\n" + doc, true, events.OK},
		"HTTP/1.0":                 {"HTTP/1.0 200 OK\r\n\r\n" + doc, true, events.OK},
		"in chunks":                {chunked + "5\r\n" + doc[:5] + "\r\n1b\r\n" + doc[5:] + "\r\n0\r\n\r\n", false, events.OK},
		"in chunks with a trailer": {chunked + "20\r\n" + doc + "\r\n0\r\nX: y\r\n\r\n", false, events.OK},
		"a chunk too long":         {chunked + "30\r\n" + doc + "\r\n0\r\n\r\n", true, events.Critical},
		"the last chunk missing":   {chunked + "20\r\n" + doc + "\r\n", true, events.Critical},
		"100 first":                {"HTTP/1.1 100 Continue\r\n\r\n" + answerOK(""), false, events.OK},
		"103 first":                {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answerOK(""), false, events.OK},
		"only 103":                 {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20), true, events.Critical},
		"101":                      {"HTTP/1.1 101 Switching Protocols\r\n\r\n", true, events.Critical},
		"an answer too many":       {answerOK("") + answerOK(""), false, events.OK},
		"lines that end in LF":     {strings.ReplaceAll(answerOK(""), "\r", ""), false, events.OK},
		"cut off":                  {answerOK("")[:60], true, events.Critical},
		"no HTTP":                  {"SSH-2.0-OpenSSH_9\r\n", true, events.Critical},
		"nothing":                  {"", true, events.Critical},
		"204":                      {"HTTP/1.1 204 No Content\r\n\r\n", false, events.Critical},
		"408":                      {"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", true, events.Critical},
		"500 with a document":      {strings.Replace(answerOK(""), "200 OK", "500 Oh", 1), false, events.Critical},
		"two lengths":              {answerOK("Content-Length: 7\r\n"), true, events.Critical},
		"large headers":            {answerOK(strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 100)), true, events.Critical},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			u := raw(t, func(int, int) (string, bool) { return tt.answer, tt.last })
			direct, transport := NewHTTP("1", nil, nil), NewHTTP("1", nil, nil)
			defer direct.Close()
			defer transport.Close()
			transport.direct.setOther(u)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for range 3 { // also over a connection that was used before
				got, want := direct.Check(ctx, events.Target{Addr: u.String()}), transport.Check(ctx, events.Target{Addr: u.String()})
				is.Equal(got.Reading, want.Reading)
				is.Equal(got.Err == nil, want.Err == nil)
				is.Equal(got.Status, tt.status)
			}
			is.True(!direct.direct.isOther(u))
		})
	}
}

// A connection that the service ended between two polls is no failure of it.
func TestDirectAsksAgain(t *testing.T) {
	for name, second := range map[string]string{
		"closed":      "",
		"closed, 408": "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var connections atomic.Int64
			u := raw(t, func(connection, request int) (string, bool) {
				connections.Store(int64(connection + 1))
				if request == 1 {
					return second, true
				}
				return answerOK(""), false
			})
			h := NewHTTP("1", nil, nil)
			defer h.Close()
			for range 3 {
				f := h.Check(t.Context(), events.Target{Addr: u.String()})
				is.NoErr(f.Err)
				is.Equal(f.Status, events.OK)
			}
			is.Equal(connections.Load(), int64(3))
		})
	}
}

func TestDirectLeavesTheRest(t *testing.T) {
	is := is.New(t)
	s := httptest.NewServer(http.RedirectHandler("/elsewhere", http.StatusFound))
	defer s.Close()
	h := NewHTTP("1", nil, nil)
	defer h.Close()
	u, err := url.Parse(s.URL + "/x")
	is.NoErr(err)
	h.Check(t.Context(), events.Target{Addr: u.String()})
	is.True(h.direct.isOther(u)) // is not asked twice again
	for addr, want := range map[string]string{
		"http://web01/x": "web01:80", "http://[::1]:8080/x": "[::1]:8080", "https://web01/x": "", "http://me@web01/x": "", "http://wéb/x": "",
		"http://[fe80::1%25lo]/x": "", "http:opaque": "",
	} {
		u, err := url.Parse(addr)
		is.NoErr(err)
		got, ok := plainAddr(u)
		is.Equal(got, want) // of addr
		is.Equal(ok, want != "")
	}
}

// Connections that nobody uses are closed, and so are those beyond the bound.
func TestDirectBoundsConnections(t *testing.T) {
	is := is.New(t)
	var d direct
	closed := 0
	add := func(addr string) *wire {
		w := &wire{Conn: counted{closed: &closed}}
		d.put(addr, w)
		return w
	}
	for range perTarget + 1 {
		add("a:80")
	}
	is.Equal(closed, 1)
	is.Equal(d.kept, perTarget)
	d.idle["a:80"][0].since = time.Now().Add(-2 * idleTimeout)
	d.swept = time.Time{}
	add("b:80")
	is.Equal(closed, 2)
	is.Equal(d.kept, perTarget)
	d.close()
	is.Equal(closed, perTarget+2)
	is.Equal(d.kept, 0)
	is.Equal(len(d.idle), 0)
}

type counted struct {
	net.Conn
	closed *int
}

func (c counted) Close() error { *c.closed++; return nil }
