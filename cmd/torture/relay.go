package main

import (
	"context"
	"net"
	"slices"
	"sync"
)

// relay passes connections on to the first of some addresses that answers. When
// told to, it cuts them, or holds back what they carry, their end included: who
// speaks through it is then parted from the other side, does not hear that a
// connection is closed, and what was said arrives late.
type relay struct {
	listener net.Listener
	to       []string

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	parted chan struct{} // closed when it ends; nil: it passes everything on
	deaf   bool          // only what is said to whom it is for is held back
}

// newRelay makes a relay that prefers the address at an index, modulo their number.
func newRelay(to []string, prefer int) (*relay, error) {
	first := prefer % len(to)
	l, err := net.Listen("tcp", freeAddress())
	return &relay{listener: l, to: slices.Concat(to[first:], to[:first]), conns: map[net.Conn]struct{}{}}, err
}

// URL is where clients of the bus connect to.
func (r *relay) URL() string { return "nats://" + r.listener.Addr().String() }

// HTTP is where clients of a gateway connect to.
func (r *relay) HTTP() string { return "http://" + r.listener.Addr().String() }

// Run accepts connections until ctx ends.
func (r *relay) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { r.listener.Close(); r.Cut() })()
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { r.pass(ctx, c) })
	}
}

func (r *relay) pass(ctx context.Context, c net.Conn) {
	defer c.Close()
	for _, address := range r.to {
		var d net.Dialer
		up, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			continue
		}
		defer up.Close()
		defer r.keep(c, up)()
		if ctx.Err() != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { r.copy(ctx, up, c, false); up.Close() })
		r.copy(ctx, c, up, true)
		c.Close()
		wg.Wait()
		return
	}
}

// copy passes on in one direction until that ends; back is that to whom the relay
// is for.
func (r *relay) copy(ctx context.Context, to, from net.Conn, back bool) {
	buf := make([]byte, 32<<10)
	for {
		n, failed := from.Read(buf)
		r.mu.Lock()
		parted := r.parted
		if r.deaf && !back {
			parted = nil
		}
		r.mu.Unlock()
		if parted != nil {
			select {
			case <-parted:
			case <-ctx.Done():
				return
			}
		}
		if _, err := to.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

// Part holds everything back until join is called; if deaf, only what is said to
// whom the relay is for, who then speaks without hearing an answer.
func (r *relay) Part(deaf bool) (join func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parted, r.deaf = make(chan struct{}), deaf
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		close(r.parted)
		r.parted = nil
	}
}

func (r *relay) keep(conns ...net.Conn) (forget func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.conns[c] = struct{}{}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range conns {
			delete(r.conns, c)
		}
	}
}

// Cut closes all connections.
func (r *relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}
