package server_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/bus/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStartAndClose(t *testing.T) {
	is := is.New(t)
	dir := filepath.Join(t.TempDir(), "made", "when", "absent")
	s := bustest.StartIn(t, dir, "127.0.0.1:0")

	info, err := os.Stat(filepath.Join(dir, server.CredsFile))
	is.NoErr(err)
	is.Equal(info.Mode().Perm(), os.FileMode(0o600)) // mode of the credentials
	is.Equal(s.CredsPath(), filepath.Join(dir, server.CredsFile))
	is.True(bustest.ConnectRole(t, s).IsConnected())

	_, err = nats.Connect(s.URL(), nats.UserInfo(server.RoleUser, "guessed"))
	is.True(err != nil) // a wrong password is not anonymous, but refused
	_, err = nats.Connect(s.URL(), nats.UserInfo("megaphone-local", ""))
	is.True(err != nil) // the local user over TCP

	s.Close()
	s.Close() // does nothing
	_, err = nats.Connect(s.URL())
	is.True(err != nil) // closed
}

func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, server.CredsFile), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	const external = ": the embedded bus has neither users nor TLS for other machines; " +
		"keep --bus-listen on a loopback address, give --bus-tls-cert, --bus-tls-key and --bus-tls-ca, or use an external NATS server with --bus URL"
	for name, tt := range map[string]struct {
		opts server.Options
		want string
	}{
		"a taken port": {
			server.Options{Dir: t.TempDir(), Listen: taken.Addr().String()},
			"listen " + taken.Addr().String() + ": address already in use; choose another with --bus-listen",
		},
		// A file in the path stands for every unwritable directory: it stops root too.
		"an unwritable directory": {
			server.Options{Dir: filepath.Join(file, "data"), Listen: "127.0.0.1:0"},
			"data directory " + filepath.Join(file, "data") + " cannot be written: not a directory; choose another with --data",
		},
		"no directory":        {server.Options{Listen: "127.0.0.1:0"}, "bus server: no data directory given; choose one with --data"},
		"all interfaces":      {server.Options{Dir: t.TempDir(), Listen: "0.0.0.0:0"}, "listen 0.0.0.0:0" + external},
		"no address":          {server.Options{Dir: t.TempDir(), Listen: ":0"}, "listen :0" + external},
		"a host name":         {server.Options{Dir: t.TempDir(), Listen: "db.example.com:0"}, "listen db.example.com:0" + external},
		"no port":             {server.Options{Dir: t.TempDir(), Listen: "127.0.0.1"}, "listen 127.0.0.1: want ADDR:PORT; choose another with --bus-listen"},
		"no number":           {server.Options{Dir: t.TempDir(), Listen: "127.0.0.1:nats"}, "listen 127.0.0.1:nats: the port must be a number from 0 to 65535"},
		"broken credentials":  {server.Options{Dir: broken, Listen: "127.0.0.1:0"}, broken + `/bus.creds holds no line "megaphone:<password>"; delete it to have a new one made`},
		"a negative max size": {server.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", MaxStore: -1}, "bus server: max store -1 and sync interval 1s must be positive"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			_, err := server.Start(t.Context(), tt.opts)
			is.True(err != nil)
			is.Equal(err.Error(), tt.want)
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	is := is.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := server.Start(ctx, server.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	is.True(err != nil)
	is.True(strings.Contains(err.Error(), "not ready")) // says that it is the start
}

func TestRestartKeepsStreamsAndCredentials(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	s := bustest.StartIn(t, dir, "127.0.0.1:0")
	creds, err := os.ReadFile(s.CredsPath())
	is.NoErr(err)
	createStreams(t, bustest.Connect(t, s))
	commit(t, bustest.Connect(t, s), "host.web01", "one")
	s.Close()

	again := bustest.StartIn(t, dir, strings.TrimPrefix(s.URL(), "nats://"))
	is.Equal(again.URL(), s.URL()) // the same port at once
	kept, err := os.ReadFile(again.CredsPath())
	is.NoErr(err)
	is.Equal(string(kept), string(creds)) // credentials
	js, err := jetstream.New(bustest.Connect(t, again))
	is.NoErr(err)
	stream, err := js.Stream(t.Context(), "CHANGES")
	is.NoErr(err)
	msg, err := stream.GetLastMsgForSubject(t.Context(), "megaphone.status.host.web01")
	is.NoErr(err)
	is.Equal(string(msg.Data), "one") // stored before the restart
}
