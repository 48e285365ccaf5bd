package gateway

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// grpcRig is a gateway with a gRPC listener, and a client of it.
func grpcRig(t *testing.T, change ...func(*Config, *bus.RegistryOptions)) (*rig, health.HealthClient) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := start(t, append(change, func(c *Config, _ *bus.RegistryOptions) { c.GRPC = ln })...)
	c, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return r, health.NewHealthClient(c)
}

func TestGRPCCheck(t *testing.T) {
	is := is.New(t)
	r, client := grpcRig(t)
	r.pushed("web01", "a/b", events.OK, "fine")
	r.pushed("web02", "db", events.Critical, "no answer")
	r.pushed("web03", "q", events.Warning, "slow")
	is.Equal(r.do("PUT", "/hosts/web04/checks/new", `{"ttl": "60s"}`).code, 201)
	r.pushed("web05", "q", events.OK, "fine")
	is.Equal(r.do("PUT", "/hosts/web05/override", `{"maintenance": true, "until": "2h"}`).code, 200)
	for service, want := range map[string]any{
		"":                        health.HealthCheckResponse_SERVING, // the local host
		"web01":                   health.HealthCheckResponse_SERVING,
		"web01/a/b":               health.HealthCheckResponse_SERVING,
		"web02":                   health.HealthCheckResponse_NOT_SERVING,
		"WEB02/db":                health.HealthCheckResponse_NOT_SERVING,
		"web03":                   health.HealthCheckResponse_SERVING,
		"web03?warning=fail":      health.HealthCheckResponse_NOT_SERVING,
		"web04":                   health.HealthCheckResponse_SERVING,
		"web04?unknown=fail":      health.HealthCheckResponse_NOT_SERVING,
		"web05":                   health.HealthCheckResponse_NOT_SERVING,
		"web05/q":                 health.HealthCheckResponse_SERVING,
		"nope":                    codes.NotFound,
		"web02/nope":              codes.NotFound,
		"we b":                    codes.InvalidArgument,
		"web01?stale=maybe":       codes.InvalidArgument,
		strings.Repeat("x", 1200): codes.InvalidArgument,
		strings.Repeat("x", 9000): codes.ResourceExhausted,
	} {
		got, err := client.Check(t.Context(), &health.HealthCheckRequest{Service: service})
		if code, ok := want.(codes.Code); ok {
			is.Equal(status.Code(err), code)
			continue
		}
		is.NoErr(err)
		is.Equal(got.GetStatus(), want)
	}
	list, err := client.List(t.Context(), &health.HealthListRequest{})
	is.NoErr(err)
	is.Equal(len(list.GetStatuses()), 1+5+5)
	is.Equal(list.GetStatuses()["web02/db"].GetStatus(), health.HealthCheckResponse_NOT_SERVING)
	is.Equal(list.GetStatuses()[""].GetStatus(), health.HealthCheckResponse_SERVING)
	for i := range 50 {
		is.Equal(r.do("PUT", fmt.Sprintf("/hosts/x%d/checks/new", i), `{"ttl": "60s"}`).code, 201)
	}
	_, err = client.List(t.Context(), &health.HealthListRequest{})
	is.Equal(status.Code(err), codes.ResourceExhausted)
}

func TestGRPCWatch(t *testing.T) {
	is := is.New(t)
	r, client := grpcRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch := func(name string) (grpc.ServerStreamingClient[health.HealthCheckResponse], func(want health.HealthCheckResponse_ServingStatus)) {
		stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: name})
		is.NoErr(err)
		return stream, func(want health.HealthCheckResponse_ServingStatus) {
			t.Helper()
			is.Helper()
			got, err := stream.Recv()
			is.NoErr(err)
			is.Equal(got.GetStatus(), want)
		}
	}
	hosts, host := watch("web02")
	_, check := watch("web02/db")
	host(health.HealthCheckResponse_SERVICE_UNKNOWN) // it may come yet
	check(health.HealthCheckResponse_SERVICE_UNKNOWN)
	r.pushed("web02", "db", events.Critical, "no answer")
	for { // it may be seen while it is pending
		got, err := hosts.Recv()
		is.NoErr(err)
		if got.GetStatus() == health.HealthCheckResponse_NOT_SERVING {
			break
		}
		is.Equal(got.GetStatus(), health.HealthCheckResponse_SERVING)
	}
	r.pushed("web02", "db", events.Warning, "slow")
	r.pushed("web02", "db", events.OK, "fine") // serving still: nothing is told
	host(health.HealthCheckResponse_SERVING)
	is.Equal(r.do("PUT", "/hosts/web02/override", `{"maintenance": true, "until": "2h"}`).code, 200)
	host(health.HealthCheckResponse_NOT_SERVING)
	is.Equal(r.do("DELETE", "/hosts/web02", "").code, 204)
	host(health.HealthCheckResponse_SERVICE_UNKNOWN)

	stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: "web01"})
	is.NoErr(err)
	_, err = stream.Recv()
	is.NoErr(err)
	begin := time.Now()
	r.stop()
	is.True(time.Since(begin) < 4*time.Second) // those who watch do not delay the end
	_, err = stream.Recv()
	is.Equal(status.Code(err), codes.Unavailable)
}

// Where reads need a token, gRPC does too.
func TestGRPCGuarded(t *testing.T) {
	is := is.New(t)
	file := filepath.Join(t.TempDir(), "tokens")
	is.NoErr(os.WriteFile(file, []byte("lb:s3cret\n"), 0o600))
	_, client := grpcRig(t, func(c *Config, _ *bus.RegistryOptions) { c.Guard = GuardOptions{TokenFile: file, ReadToken: true} })
	_, err := client.Check(t.Context(), &health.HealthCheckRequest{})
	is.Equal(status.Code(err), codes.Unauthenticated)
	stream, err := client.Watch(t.Context(), &health.HealthCheckRequest{})
	is.NoErr(err)
	_, err = stream.Recv()
	is.Equal(status.Code(err), codes.Unauthenticated)
	_, err = client.Check(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer s3cret"), &health.HealthCheckRequest{})
	is.NoErr(err)
}

// Connections beyond the limit wait until one closes.
func TestLimitListener(t *testing.T) {
	is := is.New(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	ln := limitListener(inner, 1)
	for range 2 {
		c, err := net.Dial("tcp", inner.Addr().String())
		is.NoErr(err)
		defer c.Close()
	}
	first, err := ln.Accept()
	is.NoErr(err)
	second := make(chan error, 2)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			err = c.Close()
		}
		second <- err
		_, err = ln.Accept()
		second <- err
	}()
	select {
	case <-second:
		t.Fatal("accepted beyond the limit")
	case <-time.After(50 * time.Millisecond):
	}
	is.NoErr(first.Close())
	_ = first.Close() // again: only one place was its own
	is.NoErr(<-second)
	is.NoErr(ln.Close())
	is.True(<-second != nil)
}
