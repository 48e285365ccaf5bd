// Package bustest starts the embedded bus for tests: the real server, with its
// real users and permissions, on a free port and in a temporary directory.
//
// [Start] and [Connect] are what most tests want. Never call them inside a
// synctest bubble: nats.go shares its timers between tests.
package bustest

import (
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus/server"
)

// Start runs a server that is closed, and its data removed, when the test ends.
func Start(tb testing.TB) *server.Server {
	tb.Helper()
	return StartIn(tb, tb.TempDir(), "127.0.0.1:0")
}

// StartIn runs a server on a data directory and an address of the test's own,
// so that the test may close it and start another one there. The server is
// closed when the test ends, if it was not before.
func StartIn(tb testing.TB, dir, listen string) *server.Server {
	tb.Helper()
	s, err := server.Start(tb.Context(), server.Options{Dir: dir, Listen: listen})
	if err != nil {
		tb.Fatalf("start the bus: %v", err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Connect returns a connection of the role user within the process, closed when
// the test ends.
func Connect(tb testing.TB, s *server.Server) *nats.Conn {
	tb.Helper()
	nc, err := s.Connect()
	return closing(tb, nc, err)
}

// ConnectAnonymous returns a connection without credentials over TCP, closed
// when the test ends.
func ConnectAnonymous(tb testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := nats.Connect(s.URL(), opts...)
	return closing(tb, nc, err)
}

// ConnectRole returns a connection of the role user over TCP, by the server's
// credentials file, closed when the test ends.
func ConnectRole(tb testing.TB, s *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	data, err := os.ReadFile(s.CredsPath())
	if err != nil {
		tb.Fatal(err)
	}
	user, password, _ := strings.Cut(strings.TrimSpace(string(data)), ":")
	nc, err := nats.Connect(s.URL(), append(opts, nats.UserInfo(user, password))...)
	return closing(tb, nc, err)
}

func closing(tb testing.TB, nc *nats.Conn, err error) *nats.Conn {
	tb.Helper()
	if err != nil {
		tb.Fatalf("connect to the bus: %v", err)
	}
	tb.Cleanup(nc.Close)
	return nc
}
