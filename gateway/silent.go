package gateway

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// silentTime is how long, once the server is to stop, a client may take to send
// the first request on a connection that it has opened already.
const silentTime = 250 * time.Millisecond

// silent knows the connections on which no request has come yet: load balancers
// that check a port alone, browsers that connect in advance. The HTTP server
// would wait five seconds for each, and so miss its own end. The zero value
// knows none; it is safe for concurrent use.
type silent struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// state is an http.Server's ConnState.
func (s *silent) state(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		delete(s.conns, c)
		return
	}
	if s.conns == nil {
		s.conns = map[net.Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
}

// hangUp closes them.
func (s *silent) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close() // the server notices, and forgets it
	}
}
