package server_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/matryer/is"
	ns "github.com/nats-io/nats-server/v2/server"

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
