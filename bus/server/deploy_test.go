package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"
	ns "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus/server"
)

// deploy/nats-permissions.conf is for an external server what the embedded one
// is configured with.
func TestDeployedPermissionsAreTheEmbeddedOnes(t *testing.T) {
	is := is.New(t)
	got, err := os.ReadFile("../../deploy/nats-permissions.conf")
	is.NoErr(err)
	is.Equal(string(got), server.Permissions())
}

// Whoever takes no_auth_user out, as the sample says, shuts everyone out who has
// no credentials.
func TestWithoutNoAuthUserNobodyIsAnonymous(t *testing.T) {
	is := is.New(t)
	shut := strings.Replace(server.Permissions(), "no_auth_user: anonymous", "", 1)
	o := &ns.Options{Host: "127.0.0.1", Port: ns.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	is.NoErr(o.ProcessConfigString("MEGAPHONE_PASSWORD: \"secret\"\n" + shut))
	s, err := ns.NewServer(o)
	is.NoErr(err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	for name, tt := range map[string]struct {
		option nats.Option
		want   error
	}{
		"no credentials":            {option: nats.Name("x"), want: nats.ErrAuthorization},
		"anonymous, empty password": {option: nats.UserInfo("anonymous", ""), want: nats.ErrAuthorization},
		"the role user":             {option: nats.UserInfo(server.RoleUser, "secret")},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			nc, err := nats.Connect(s.ClientURL(), tt.option)
			is.True(errors.Is(err, tt.want))
			if err == nil {
				nc.Close()
			}
		})
	}
}

// deploy/nats-server.conf is one that nats-server takes.
func TestDeployedConfigurationIsValid(t *testing.T) {
	is := is.New(t)
	t.Setenv("MEGAPHONE_PASSWORD", "secret-of-the-test")
	o, err := ns.ProcessConfigFile(filepath.Join("..", "..", "deploy", "nats-server.conf"))
	is.NoErr(err)
	is.Equal(o.NoAuthUser, "anonymous")
	is.True(o.JetStream)
	is.Equal(o.Host, "127.0.0.1") // not beyond loopback as it stands
}

// deploy/fleet/nats-server.conf is one that nats-server takes, and lets nobody
// in without a password.
func TestDeployedClusterIsValid(t *testing.T) {
	is := is.New(t)
	t.Setenv("MEGAPHONE_PASSWORD", "secret-of-the-test")
	t.Setenv("MEGAPHONE_NODE", "bus1")
	o, err := ns.ProcessConfigFile(filepath.Join("..", "..", "deploy", "fleet", "nats-server.conf"))
	is.NoErr(err)
	is.Equal(o.NoAuthUser, "")
	is.Equal(len(o.Routes), 3)
	is.Equal(o.ServerName, "bus1")
	is.True(o.JetStream)
}
