package pollers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/looprock/megaphone/events"
)

// direct asks for documents over plain HTTP/1.1 in the goroutine of the poll.
// What is sent is what net/http would, and answers are read by it; only its
// Transport is left out, which hands each request to two goroutines of the
// connection and back: half of what a poll costs. Everything but the plain case is
// errNotPlain, and is asked for with the Transport. It is safe for concurrent use.
type direct struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	agent string // says who asks

	mu    sync.Mutex
	idle  map[string][]*wire // by address, the one used last at the end
	kept  int                // in idle
	swept time.Time          // when idle was last looked through
	other map[string]bool    // URLs whose answers are not plain
}

// wire is a connection.
type wire struct {
	net.Conn
	in    *bufio.Reader
	out   *bufio.Writer
	limit io.LimitedReader // what in may still read
	since time.Time        // when it became idle

	raw  syscall.RawConn  // nil where the connection has none
	peek func(fd uintptr) // sets came
	came error            // EAGAIN: there is nothing to be read
}

// errNotPlain says that the Transport has to ask.
var errNotPlain = errors.New("not a plain answer")

const (
	maxOther      = 10_000 // URLs that are remembered not to be plain; beyond it all are forgotten
	sweepInterval = 10 * time.Second
)

// get returns the answer to a GET and its body, of a too large one the first
// events.MaxDocument + 1 bytes.
func (d *direct) get(ctx context.Context, u *url.URL) (*http.Response, []byte, error) {
	addr, ok := plainAddr(u)
	if !ok || d.isOther(u) {
		return nil, nil, errNotPlain
	}
	for {
		w, used, err := d.take(ctx, addr)
		if err != nil {
			return nil, nil, err
		}
		resp, body, again, err := w.ask(ctx, u, d.agent)
		switch {
		case err == nil && isRedirect(resp.StatusCode):
			w.Close()
			d.setOther(u)
			return nil, nil, errNotPlain
		case err == nil && again && (!used || resp.StatusCode != http.StatusRequestTimeout):
			d.put(addr, w)
			return resp, body, nil
		}
		w.Close()
		gone := errors.Is(err, errUnused) || err == nil && resp.StatusCode == http.StatusRequestTimeout
		if used && gone && ctx.Err() == nil {
			continue // the other side was tired of waiting for this request
		}
		return resp, body, err
	}
}

// plainAddr returns the address of a URL that has nothing special.
func plainAddr(u *url.URL) (addr string, ok bool) {
	if u.Scheme != "http" || u.User != nil || u.Opaque != "" || u.Hostname() == "" || strings.ContainsFunc(u.Host, isSpecial) {
		return "", false
	}
	switch {
	case u.Port() != "":
		return u.Host, true
	case strings.HasSuffix(u.Host, ":"): // is not sent
		return "", false
	}
	return u.Host + ":80", true
}

// isSpecial reports whether a host with this character is not sent as it is.
func isSpecial(c rune) bool {
	letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	return !letter && !strings.ContainsRune("-._:[]", c)
}

func isRedirect(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// errUnused says that a connection ended before anything of an answer came.
var errUnused = errors.New("the connection was closed")

// ask sends a request and reads the answer. again says that the connection can
// be used again.
func (w *wire) ask(ctx context.Context, u *url.URL, agent string) (resp *http.Response, body []byte, again bool, err error) {
	deadline, _ := ctx.Deadline() // zero: none
	if err := w.SetDeadline(deadline); err != nil {
		return nil, nil, false, fmt.Errorf("%w: %w", errUnused, err)
	}
	stop := context.AfterFunc(interrupt(ctx), func() { _ = w.SetDeadline(time.Unix(1, 0)) }) // what waits returns
	defer func() {
		if !stop() {
			again = false
		}
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
	}()
	if err = w.send(u, agent); err != nil {
		return nil, nil, false, fmt.Errorf("%w: %w", errUnused, err)
	}
	if resp, err = w.answer(); err != nil {
		return nil, nil, false, err
	}
	body, whole, err := readBody(resp)
	if err != nil {
		return nil, nil, false, fmt.Errorf("read answer: %w", err)
	}
	again = whole && !resp.Close && resp.StatusCode >= http.StatusOK && w.in.Buffered() == 0
	return resp, body, again, nil
}

// send asks for a plain URL with what [http.Request.Write] would write. To make a
// Request for that were ten allocations.
func (w *wire) send(u *url.URL, agent string) error {
	for _, s := range [...]string{"GET ", u.RequestURI(), " HTTP/1.1\r\nHost: ", u.Host, "\r\nUser-Agent: ", agent, "\r\n\r\n"} {
		_, _ = w.out.WriteString(s) // Flush returns the error
	}
	return w.out.Flush()
}

// answer reads the head of an answer. Answers 1xx before it count towards what its
// headers may have, as in net/http.
func (w *wire) answer() (*http.Response, error) {
	w.limit.N = maxHeaders
	if _, err := w.in.Peek(1); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnused, err)
	}
	for {
		resp, err := http.ReadResponse(w.in, nil) // to a GET
		switch {
		case err != nil && w.limit.N <= 0:
			return nil, fmt.Errorf("the headers of the answer are larger than %d bytes", maxHeaders)
		case err != nil:
			return nil, err
		case !isInformal(resp.StatusCode):
			w.limit.N = math.MaxInt64
			return resp, nil
		}
	}
}

// isInformal reports whether another answer follows one with this code.
func isInformal(code int) bool {
	return code >= http.StatusContinue && code < http.StatusOK && code != http.StatusSwitchingProtocols
}

// readBody reads the body, and whether that was all of it.
func readBody(resp *http.Response) (body []byte, whole bool, err error) {
	if n := resp.ContentLength; n >= 0 && n <= events.MaxDocument {
		body = make([]byte, n)
		_, err = io.ReadFull(resp.Body, body)
		return body, err == nil, err
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, events.MaxDocument+1)); err != nil {
		return nil, false, err
	}
	// Of a body without a length the end comes after the last byte.
	if len(body) <= events.MaxDocument {
		if n, err := resp.Body.Read(make([]byte, 1)); n == 0 && errors.Is(err, io.EOF) {
			return body, true, nil
		}
	}
	return body, false, nil
}

// take returns an idle connection, used, or a new one.
func (d *direct) take(ctx context.Context, addr string) (w *wire, used bool, err error) {
	for w := d.idleAt(addr); w != nil; w = d.idleAt(addr) {
		if w.isQuiet() {
			return w, true, nil
		}
		w.Close()
	}
	c, err := d.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, false, err
	}
	return newWire(c), false, nil
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c, out: bufio.NewWriter(c)}
	w.limit.R = c
	w.in = bufio.NewReader(&w.limit)
	if s, ok := c.(syscall.Conn); ok {
		w.raw, w.came = s.SyscallConn()
	}
	one := make([]byte, 1)
	w.peek = func(fd uintptr) { // not Conn.Read, for which the deadline of the last request counts
		_, w.came = syscall.Read(int(fd), one)
	}
	return w
}

// isQuiet reports whether nothing came since the last answer: not the end of the
// connection, nor anything that nobody asked for, which would be taken for the
// answer to the next request.
func (w *wire) isQuiet() bool {
	if w.raw == nil {
		return w.came == nil
	}
	return w.raw.Control(w.peek) == nil && errors.Is(w.came, syscall.EAGAIN)
}

// idleAt returns the connection to addr that was used last, nil for none.
func (d *direct) idleAt(addr string) *wire {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.idle[addr]
	if len(list) == 0 {
		return nil
	}
	last := len(list) - 1
	w := list[last]
	list[last] = nil
	d.idle[addr] = list[:last]
	d.kept--
	return w
}

// put keeps a connection for the next poll, and ends those that nobody used.
func (d *direct) put(addr string, w *wire) {
	now := time.Now()
	w.since = now
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kept >= maxIdle || len(d.idle[addr]) >= perTarget {
		w.Close()
		return
	}
	if d.idle == nil {
		d.idle = map[string][]*wire{}
	}
	d.idle[addr] = append(d.idle[addr], w)
	d.kept++
	if now.Sub(d.swept) >= sweepInterval {
		d.swept = now
		d.sweep(now.Add(-idleTimeout))
	}
}

// sweep closes what has been idle since before. The caller holds mu.
func (d *direct) sweep(before time.Time) {
	for addr, list := range d.idle {
		old := 0
		for old < len(list) && !list[old].since.After(before) {
			list[old].Close()
			old++
		}
		d.kept -= old
		if d.idle[addr] = append([]*wire(nil), list[old:]...); old == len(list) {
			delete(d.idle, addr)
		}
	}
}

// close closes what is idle.
func (d *direct) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweep(time.Now())
}

func (d *direct) isOther(u *url.URL) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.other) > 0 && d.other[u.String()]
}

func (d *direct) setOther(u *url.URL) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.other == nil || len(d.other) >= maxOther {
		d.other = map[string]bool{}
	}
	d.other[u.String()] = true
}
