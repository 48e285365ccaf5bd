package pollers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// large has a body that does not pass through the buffer of a connection: what
// comes after it is still in the kernel.
var large = "HTTP/1.1 200 OK\r\nContent-Length: 12000\r\n\r\n" + strings.Repeat(" ", 12000-15) + `{"status":"OK"}`

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
		"103 twenty times first":   {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20) + answerOK(""), false, events.OK},
		"only 103":                 {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5000), true, events.Critical},
		"99":                       {"HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n", false, events.Critical},
		"101":                      {"HTTP/1.1 101 Switching Protocols\r\n\r\n", true, events.Critical},
		"an answer too many":       {answerOK("") + answerOK(""), false, events.OK},
		"more than the length":     {answerOK("") + "more", false, events.OK},
		"more after a large body":  {large + "more", false, events.OK},
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

// scripted is a service that answers each request with the next of its answers,
// whatever the connection, and closes the connection after the last.
type scripted struct {
	answers []string
	asked   atomic.Int64
	conns   sync.WaitGroup
}

// dial makes a pair of sockets: what is tested looks below net.Conn.
func (s *scripted) dial(context.Context, string, string) (net.Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	s.conns.Go(func() { s.serve(ends[1]) })
	return ends[0], nil
}

func (s *scripted) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		i := int(s.asked.Add(1)) - 1
		if i >= len(s.answers) {
			return
		}
		if _, err := io.WriteString(c, s.answers[i]); err != nil || i == len(s.answers)-1 {
			return
		}
	}
}

// FuzzDirect demands of any bytes that a service may answer what net/http's
// Transport makes of them, and that nothing of them is taken for the answer to
// the next request.
func FuzzDirect(f *testing.F) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, answer := range []string{
		answerOK(""), answerOK("Connection: close\r\n"), answerOK("") + "more", large + "more", answerOK("") + answerOK(""), "HTTP/1.0 200 OK\r\n\r\n{}",
		chunked + "5\r\n12345\r\n0\r\n\r\n", chunked + "2;x=y\r\n{}\r\n0\r\nX: y\r\n\r\n", chunked + "fffffffffffffffff\r\n", chunked + "2\r\n{}\r\n0\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n" + answerOK(""), strings.Repeat("HTTP/1.1 103 Hints\r\n\r\n", 9) + answerOK(""), "HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nx", "HTTP/1.1 204 No\r\n\r\nx", "HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 99999999999\n\nx", "HTTP/2.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "SSH-2.0-x\r\n", "",
	} {
		f.Add(answer)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		got, body, err := askDirect(t, 1, answer)
		if errors.Is(err, errNotPlain) {
			return
		}
		want, wantBody, wantErr := askTransport(t, answer)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, the Transport: %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if got.Status != want.Status || got.StatusCode != want.StatusCode || got.ContentLength != want.ContentLength || !reflect.DeepEqual(got.Header, want.Header) {
			t.Fatalf("%+v, the Transport: %+v", got, want)
		}
		if got.StatusCode == http.StatusSwitchingProtocols {
			return // what follows is no body
		}
		if !bytes.Equal(body, wantBody) || len(body) > events.MaxDocument+1 {
			t.Fatalf("%q, the Transport: %q", body, wantBody)
		}
		// What fits into the buffer of a socket is all there when the next request is sent.
		if ends := got.ContentLength >= 0 || len(got.TransferEncoding) > 0; !ends || len(answer) > 16<<10 {
			return
		}
		_, body, err = askDirect(t, 2, answer, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
		if err != nil || string(body) != "second" {
			t.Fatalf("the second answer: %q, %v", body, err)
		}
	})
}

// FuzzSend demands that a plain URL is asked for as net/http does it.
func FuzzSend(f *testing.F) {
	for _, addr := range []string{
		"http://web01/status", "http://web01", "http://web01:8080?a=b c#d", "http://[::1]:80/a%20b/%2f", "http://web01:/", "http://a_b.c-d.E./é?ü",
		"http://a\"b/", "http://wéb/", "http://[::1]/?", "http://10.0.0.1:081//x//", "http://[fe80::1%25lo]/", "http://a;b/", "http:///x",
	} {
		f.Add(addr)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		u, err := url.Parse(addr)
		if err != nil {
			return
		}
		at, ok := plainAddr(u)
		if !ok {
			return
		}
		req, err := http.NewRequest(http.MethodGet, addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("User-Agent", "megaphone/1")
		var got, want bytes.Buffer
		if err := req.Write(&want); err != nil {
			t.Fatal(err)
		}
		if err := (&wire{out: bufio.NewWriter(&got)}).send(u, "megaphone/1"); err != nil || got.String() != want.String() {
			t.Fatalf("%q, %v, net/http: %q", got.String(), err, want.String())
		}
		port := u.Port()
		if port == "" {
			port = "80"
		}
		if like := net.JoinHostPort(u.Hostname(), port); at != like {
			t.Fatalf("asks %q, net/http %q", at, like)
		}
	})
}

// askDirect returns the last of so many answers of a service.
func askDirect(t *testing.T, times int, answers ...string) (resp *http.Response, body []byte, err error) {
	s := &scripted{answers: answers}
	d := &direct{dial: s.dial}
	defer s.conns.Wait()
	defer d.close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range times {
		resp, body, err = d.get(ctx, &url.URL{Scheme: "http", Host: "web01", Path: "/"})
	}
	return resp, body, err
}

func askTransport(t *testing.T, answers ...string) (*http.Response, []byte, error) {
	s := &scripted{answers: answers}
	transport := newTransport(newNetwork("1", guard{}, ""), nil)
	transport.DialContext = s.dial
	defer s.conns.Wait()
	defer transport.CloseIdleConnections()
	return fetch(&http.Client{Transport: transport}, request(t))
}

func request(t *testing.T) *http.Request {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web01/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
