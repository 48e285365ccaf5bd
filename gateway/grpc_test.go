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

// labelled is a host with labels and one check.
func (r *rig) labelled(host, labels string, s events.Status) {
	r.tb.Helper()
	if got := r.do("PUT", "/hosts/"+host, `{"labels":{`+labels+`}}`); got.code != 201 {
		r.tb.Fatal(got.code, got.body)
	}
	r.pushed(host, "q", s, "m")
}

// A roll-up is as the worst of the hosts that it chooses.
func TestGRPCRollup(t *testing.T) {
	is := is.New(t)
	r, client := grpcRig(t)
	r.labelled("web01", `"env":"prod","tier":"web"`, events.OK)
	r.labelled("web02", `"env":"prod","tier":"web","note":"a,b"`, events.Warning)
	r.labelled("db01", `"env":"prod","tier":"db"`, events.Critical)
	r.labelled("db02", `"env":"test","tier":"db"`, events.OK)
	is.Equal(r.do("PUT", "/hosts/new01/checks/new", `{"ttl": "60s"}`).code, 201)
	r.pushed("off01", "q", events.OK, "fine")
	is.Equal(r.do("PUT", "/hosts/off01/override", `{"maintenance": true, "until": "2h"}`).code, 200)
	is.Equal(r.do("PUT", "/hosts/db02/override", `{"status": "Critical", "until": "2h"}`).code, 200)
	for service, want := range map[string]any{
		"rollup:env=prod":                         health.HealthCheckResponse_NOT_SERVING,
		"rollup:env=prod,tier=web":                health.HealthCheckResponse_SERVING,
		"rollup:env=prod,tier=web?warning=fail":   health.HealthCheckResponse_NOT_SERVING,
		"rollup:tier":                             health.HealthCheckResponse_NOT_SERVING,
		"rollup:host=web*":                        health.HealthCheckResponse_SERVING,
		"rollup:host=WEB0%3F":                     health.HealthCheckResponse_SERVING,
		"rollup:host=web01":                       health.HealthCheckResponse_SERVING,
		"rollup:host=db*,env=test":                health.HealthCheckResponse_NOT_SERVING, // by its override
		"rollup:host=*":                           health.HealthCheckResponse_NOT_SERVING,
		"rollup:note=a%2Cb":                       health.HealthCheckResponse_SERVING,
		"rollup:host=new*":                        health.HealthCheckResponse_SERVING,
		"rollup:host=new*?unknown=fail":           health.HealthCheckResponse_NOT_SERVING,
		"rollup:host=off*":                        health.HealthCheckResponse_NOT_SERVING,
		"rollup:env=prod,tier=nope":               codes.NotFound,
		"rollup:host=nope*":                       codes.NotFound,
		"rollup:":                                 codes.InvalidArgument,
		"rollup:?stale=closed":                    codes.InvalidArgument,
		"rollup:env=prod,":                        codes.InvalidArgument,
		"rollup:host=":                            codes.InvalidArgument,
		"rollup:host=a*,host=b*":                  codes.InvalidArgument,
		"rollup:host=we b":                        codes.InvalidArgument,
		"rollup:env=%zz":                          codes.InvalidArgument,
		"rollup:env=prod?stale=maybe":             codes.InvalidArgument,
		"rollup:" + strings.Repeat("x", 1200):     codes.InvalidArgument,
		"rollup:" + strings.Repeat("x,", 500):     codes.InvalidArgument, // more labels than there can be
		"rollup:host=" + strings.Repeat("*", 600): codes.InvalidArgument,
	} {
		got, err := client.Check(t.Context(), &health.HealthCheckRequest{Service: service})
		if code, ok := want.(codes.Code); ok {
			is.Equal(status.Code(err), code) // of service
			continue
		}
		is.NoErr(err) // of service
		is.Equal(got.GetStatus(), want)
	}
	list, err := client.List(t.Context(), &health.HealthListRequest{})
	is.NoErr(err) // hosts and checks alone: roll-ups have no names to list
	is.Equal(len(list.GetStatuses()), 1+6+6)
}

func TestGRPCWatchRollup(t *testing.T) {
	is := is.New(t)
	r, client := grpcRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: "rollup:env=prod?unknown=fail"})
	is.NoErr(err)
	told := func(want health.HealthCheckResponse_ServingStatus) {
		t.Helper()
		is.Helper()
		got, err := stream.Recv()
		for err == nil && got.GetStatus() != want && got.GetStatus() == health.HealthCheckResponse_NOT_SERVING {
			got, err = stream.Recv() // seen while it was pending
		}
		is.NoErr(err)
		is.Equal(got.GetStatus(), want)
	}
	told(health.HealthCheckResponse_SERVICE_UNKNOWN) // hosts may come yet
	r.labelled("web01", `"env":"prod"`, events.OK)
	told(health.HealthCheckResponse_SERVING)
	r.labelled("web02", `"env":"prod"`, events.Critical)
	told(health.HealthCheckResponse_NOT_SERVING)
	is.Equal(r.do("DELETE", "/hosts/web02", "").code, 204)
	told(health.HealthCheckResponse_SERVING)

	for i := range maxRollups - 1 {
		_, err := r.rollups.watch(&rollup{name: fmt.Sprint(i)})
		is.NoErr(err)
	}
	other, err := client.Watch(ctx, &health.HealthCheckRequest{Service: "rollup:env=test"})
	is.NoErr(err)
	_, err = other.Recv()
	is.Equal(status.Code(err), codes.ResourceExhausted)
	same, err := client.Watch(ctx, &health.HealthCheckRequest{Service: "rollup:env=prod?unknown=fail"})
	is.NoErr(err)
	got, err := same.Recv()
	is.NoErr(err)
	is.Equal(got.GetStatus(), health.HealthCheckResponse_SERVING)
	cancel()
	for r.waiters.Load() > 0 { // both have left
		time.Sleep(time.Millisecond)
	}
	leave, err := r.rollups.watch(&rollup{name: "another"})
	is.NoErr(err)
	leave()
}

// Answers about roll-ups are shared for as long as many hosts make them cost.
func TestRollupsAreShared(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.labelled("web01", `"env":"prod"`, events.OK)
	p, err := parseRollup("rollup:env=prod")
	is.NoErr(err)
	now := time.Now()
	is.Equal(r.rolledUp(p, now), passes)
	k := r.rollups.kept[p.name]
	is.Equal(k.until, now.Add(rollupTime)) // one host was looked at
	k.worst = fails
	r.rollups.kept[p.name] = k
	is.Equal(r.rolledUp(p, now), fails)
	is.Equal(r.rolledUp(p, now.Add(rollupTime)), passes)
	for i := range 2 * maxRollups {
		r.rollups.keep(fmt.Sprint(i), keptRollup{until: now.Add(time.Hour)}, now)
	}
	is.Equal(len(r.rollups.kept), maxRollups)
}

// More hosts than are looked at with the view locked once.
func TestRollupPages(t *testing.T) {
	is := is.New(t)
	const hosts = 2*rollupScan + 1
	v := NewView(nil, time.Minute)
	for i := range hosts {
		v.host(fmt.Sprintf("web%05d", i)).record = &events.HostRecord{}
	}
	chosen, all, after := 0, 0, ""
	for more := true; more; more = after != "" {
		names, looked, next := v.chooseHosts(events.Filter{Host: "web*1"}, after)
		is.True(looked <= rollupScan)
		chosen, all, after = chosen+len(names), all+looked, next
	}
	is.Equal(all, hosts)
	is.Equal(chosen, 205)
}

// FuzzRollup demands that what is read can be meant, and nothing panics.
func FuzzRollup(f *testing.F) {
	for _, name := range []string{"rollup:env=prod,tier", "rollup:host=web*?stale=closed", "rollup:host=a%3F,b=%2C", "rollup:", "rollup:,,", "rollup:%", "rollup:a?b?c"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r, err := parseRollup(name)
		if err != nil {
			return
		}
		if err := r.filter.Validate(); err != nil || r.filter.Host == "" && len(r.filter.Labels) == 0 {
			t.Fatalf("%q: %+v, %v", name, r.filter, err)
		}
		r.filter.MatchName("web01", "")
	})
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
