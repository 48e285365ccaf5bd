package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	ns "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server is a running embedded NATS server. Its methods may be called
// concurrently.
type Server struct {
	ns            *ns.Server
	gate          *nats.Conn
	localPassword string
	url           string
	scheme        string
	creds         string
	dir           string
	log           *slog.Logger
	close         func()
}

// Start runs a server and returns once it takes connections; ctx bounds the
// start alone. The caller closes the server, and lets [Server.Run] watch over it. Every error is one line that says
// what is wrong and, where there is something to choose, which flag chooses it.
func Start(ctx context.Context, o Options) (*Server, error) {
	o = o.withDefaults()
	s := &Server{
		localPassword: rand.Text(), creds: filepath.Join(o.Dir, CredsFile), scheme: "nats://", dir: o.Dir, log: o.Logger,
	}
	if o.TLS != nil {
		s.scheme = "tls://"
	}
	no, err := o.nats(s.localPassword)
	if err != nil {
		return nil, err
	}
	if s.ns, err = ns.NewServer(no); err != nil {
		return nil, fmt.Errorf("bus server: %w", err)
	}
	s.close = sync.OnceFunc(s.shutdown)
	l := &logger{log: o.Logger}
	s.ns.SetLoggerV2(l, false, false, false)
	s.ns.Start()
	if err := s.ready(ctx, l); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ready waits until the server takes connections, and opens the gate.
func (s *Server) ready(ctx context.Context, l *logger) error {
	for {
		if err := l.err(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("bus server: not ready: %w", err)
		}
		if s.ns.ReadyForConnections(100 * time.Millisecond) {
			break
		}
	}
	s.url = s.scheme + s.ns.Addr().String()
	var err error
	if s.gate, err = s.Connect(nats.Name("megaphone gate")); err != nil {
		return err
	}
	_, err = Gate(s.gate)
	return err
}

// URL is where clients connect: nats://127.0.0.1:4222, or whichever free port
// was found; tls:// where it speaks TLS.
func (s *Server) URL() string { return s.url }

// CredsPath is the file with the role user's credentials, see [CredsFile].
func (s *Server) CredsPath() string { return s.creds }

// Connect returns a connection of the role user that does not leave the
// process. The caller closes it, before the server.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	local := []nats.Option{nats.InProcessServer(s.ns), nats.UserInfo(localUser, s.localPassword)}
	nc, err := nats.Connect("", append(local, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the bus in this process: %w", err)
	}
	return nc, nil
}

// Close stops the server and returns once it has stopped: its streams are on
// disk then. Calls after the first one do nothing.
func (s *Server) Close() { s.close() }

func (s *Server) shutdown() {
	if s.gate != nil {
		s.gate.Close()
	}
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
