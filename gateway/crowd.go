package gateway

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConns is how many HTTP connections are open at the same time: those of
// maxStreams and maxWaiters, and some more.
const maxConns = maxStreams + maxWaiters + 4096

// silentTime is how long, once the server is to stop, a client may take to send
// the first request on a connection that it has opened already.
const silentTime = 250 * time.Millisecond

// crowd is a listener with at most so many connections open. Where one more
// comes, the one on which no request has been under way for the longest time is
// closed for it, so that nobody keeps others out by doing nothing; only while
// there is none of that kind others wait in the kernel. It has to be told what
// the HTTP server does with its connections. It is safe for concurrent use.
type crowd struct {
	net.Listener
	places chan struct{}
	gone   chan struct{} // closed by Close
	once   sync.Once

	mu     sync.Mutex
	guests map[net.Conn]*guest
	idle   guest // the ring of those without a request: its next has been so for longest
}

// guest is a connection.
type guest struct {
	conn       net.Conn
	state      http.ConnState
	prev, next *guest // in the ring of the idle; nil outside
}

func newCrowd(ln net.Listener, most int) *crowd {
	c := &crowd{Listener: ln, places: make(chan struct{}, most), gone: make(chan struct{}), guests: map[net.Conn]*guest{}}
	c.idle.prev, c.idle.next = &c.idle, &c.idle
	return c
}

// Accept waits for a connection, then for a place for it.
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !c.enter() {
		_ = conn.Close() // it has asked nothing
		return nil, net.ErrClosed
	}
	return &limitedConn{Conn: conn, leave: func() { <-c.places }}, nil
}

func (c *crowd) enter() bool {
	for {
		select {
		case c.places <- struct{}{}:
			return true
		case <-c.gone:
			return false
		default:
		}
		if c.makeRoom() {
			continue
		}
		select {
		case c.places <- struct{}{}:
			return true
		case <-c.gone:
			return false
		case <-time.After(crowdLook):
		}
	}
}

// crowdLook is how often a full crowd looks for somebody who has become idle.
const crowdLook = 50 * time.Millisecond

// makeRoom closes the connection that has been idle for longest, if there is one.
func (c *crowd) makeRoom() bool {
	c.mu.Lock()
	g := c.idle.next
	if g == &c.idle {
		c.mu.Unlock()
		return false
	}
	g.leaveRing()
	c.mu.Unlock()
	_ = g.conn.Close() // the server notices, and forgets it
	return true
}

// Close ends Accept.
func (c *crowd) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Listener.Close()
}

// state is an http.Server's ConnState.
func (c *crowd) state(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.guests[conn]
	if g == nil {
		g = &guest{conn: conn}
		c.guests[conn] = g
	}
	g.state = state
	g.leaveRing()
	switch state {
	case http.StateNew, http.StateIdle:
		g.prev, g.next = c.idle.prev, &c.idle
		g.prev.next, g.next.prev = g, g
	case http.StateClosed, http.StateHijacked:
		delete(c.guests, conn)
	}
}

func (g *guest) leaveRing() {
	if g.next != nil {
		g.prev.next, g.next.prev = g.next, g.prev
		g.prev, g.next = nil, nil
	}
}

// hangUp closes the connections on which no request has come yet: those of load
// balancers that check a port alone, of browsers that connect in advance. The
// HTTP server would wait five seconds for each, and so miss its own end.
func (c *crowd) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.guests {
		if g.state == http.StateNew {
			_ = g.conn.Close() // as in makeRoom
		}
	}
}
