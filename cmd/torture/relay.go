package main

import (
	"context"
	"io"
	"net"
	"sync"
)

// relay passes connections on to the first of some addresses that answers, and
// cuts them when told to.
type relay struct {
	listener net.Listener
	to       []string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newRelay(to []string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return &relay{listener: l, to: to, conns: map[net.Conn]struct{}{}}, err
}

// URL is where clients of the bus connect to.
func (r *relay) URL() string { return "nats://" + r.listener.Addr().String() }

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
		wg.Go(func() { _, _ = io.Copy(up, c); up.Close() }) // its end is all that matters
		_, _ = io.Copy(c, up)
		c.Close()
		wg.Wait()
		return
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
