package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/events"
)

// services is an HTTP server with a status document for each polled check. Some
// answers are slow, so that workers die and stop in the middle of polls.
type services struct {
	listener net.Listener
	Polls    atomic.Int64

	mu     sync.Mutex
	status map[string]events.Status // by path
}

func newServices() (*services, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return &services{listener: l, status: map[string]events.Status{}}, err
}

// Run serves until ctx ends.
func (s *services) Run(ctx context.Context) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the services: %w", err)
	}
	return nil
}

// URL is where the document of a check is.
func (s *services) URL(n name) string {
	return "http://" + s.listener.Addr().String() + "/" + n.Host + "/" + n.Check
}

// Set makes the service of a check say something else from now on.
func (s *services) Set(n name, status events.Status) told {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status["/"+n.Host+"/"+n.Check] = status
	return told{status, time.Now()}
}

func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Polls.Add(1)
	s.mu.Lock()
	status, ok := s.status[r.URL.Path]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if rand.IntN(20) == 0 { // the answer is decided, and late
		sleep(r.Context(), time.Duration(rand.IntN(1000))*time.Millisecond)
	}
	fmt.Fprintf(w, `{"status":%q,"message":"as told"}`, status)
}
