package pollers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/bus/bustest"
	"github.com/looprock/megaphone/pollers"
	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/grpc"
	grpccred "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// grpcServer is a server of the library's, with or without its health service.
func grpcServer(t testing.TB, h healthpb.HealthServer, opts ...grpc.ServerOption) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := grpc.NewServer(opts...)
	if h != nil {
		healthpb.RegisterHealthServer(s, h)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// hanging answers no health request, or says who asked.
type hanging struct {
	healthpb.UnimplementedHealthServer
}

func (hanging) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if r.Service == "who" {
		md, _ := metadata.FromIncomingContext(ctx)
		return nil, fmt.Errorf("you are %v", md["authorization"])
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestGRPC(t *testing.T) {
	h := health.NewServer()
	h.SetServingStatus("shop.Cart", healthpb.HealthCheckResponse_SERVING)
	h.SetServingStatus("shop.Pay", healthpb.HealthCheckResponse_NOT_SERVING)
	h.SetServingStatus("shop.Odd", healthpb.HealthCheckResponse_UNKNOWN)
	s := grpcServer(t, h)
	a := newAuthority(t)
	secure := grpcServer(t, h, grpc.Creds(grpccred.NewTLS(tlsOf(a, 10))))
	none, slow := grpcServer(t, nil), grpcServer(t, hanging{})
	conf := pollers.Config{Credentials: secretsDir(t, map[string]string{
		"ca.pem": string(a.pem()), "token": `{"for":["grpc://` + slow + `"],"bearer":"tok"}`, "other": `{"for":["grpc://h:1"],"bearer":"hush"}`,
		"secure": `{"for":["grpcs://` + secure + `"],"bearer":"hush"}`,
	})}
	for name, tt := range map[string]struct {
		url  any
		want string
	}{
		"the server":        {"grpc://" + s, "OK " + s + " is SERVING"},
		"a service":         {"grpc://" + s + "/shop.Cart", "OK shop.Cart at " + s + " is SERVING"},
		"not serving":       {"grpc://" + s + "/shop.Pay", "Critical shop.Pay at " + s + " is NOT_SERVING"},
		"unknown status":    {"grpc://" + s + "/shop.Odd", "Unknown shop.Odd at " + s + " is UNKNOWN"},
		"unknown service":   {"grpc://" + s + "/shop.None", `Critical ` + s + ` knows no service "shop.None"`},
		"no health service": {"grpc://" + none, "has no health service"},
		"over TLS":          {object{"addr": "grpcs://" + secure, "ca": "ca.pem", "cert_warning_days": 5}, "OK " + secure + " is SERVING"},
		"expires":           {object{"addr": "grpcs://" + secure, "ca": "ca.pem"}, "Warning the certificate expires in 10 days"},
		"unknown authority": {"grpcs://" + secure, "unknown authority"},
		"TLS without":       {"grpc://" + secure, "Critical " + secure + ": "},
		"nobody":            {"grpc://127.0.0.1:1", "connection refused"},
		"no answer":         {"grpc://" + slow, "no answer in time"},
		"credentials":       {object{"addr": "grpc://" + slow + "/who", "credentials": "token"}, "you are [Bearer tok]"},
		"other's":           {object{"addr": "grpc://" + slow + "/who", "credentials": "other"}, "may not be sent to"},
		"other name":        {object{"addr": "grpcs://" + secure, "ca": "ca.pem", "credentials": "secure", "server_name": "web01.example.com"}, "may not be sent to grpcs://web01.example.com:"},
		"not gRPC":          {"grpc://" + listen(t, func(c net.Conn) { c.Write([]byte("hello\r\n")) }), "Critical "},
		"metadata":          {"grpc://169.254.169.254:80", "address is not polled"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := lookAs(t, conf, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
			is.Equal(errors.Is(f.Err, pollers.ErrDenied), name == "metadata")
			is.True(!strings.Contains(says(f), "hush"))
		})
	}
}

func TestNATS(t *testing.T) {
	s := bustest.Start(t)
	conn, err := bus.Connect(t.Context(), s.URL(), bus.WithCreds(s.CredsPath()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	services := bustest.Connect(t, s)
	for range 3 {
		svc, err := micro.AddService(services, micro.Config{Name: "orders", Version: "1.2.3"})
		must(t, err)
		t.Cleanup(func() { svc.Stop() })
	}
	reply := func(subject string, f func(*nats.Msg)) {
		_, err := services.Subscribe(subject, f)
		must(t, err)
	}
	reply("shop.status", func(m *nats.Msg) { m.Respond([]byte(`{"status":"Warning","message":"queue is long"}`)) })
	reply("shop.echo", func(m *nats.Msg) { m.Respond(append([]byte("echo "), m.Data...)) })
	reply("shop.error", func(m *nats.Msg) {
		m.RespondMsg(&nats.Msg{Header: nats.Header{micro.ErrorHeader: {"out of stock"}, micro.ErrorCodeHeader: {"500"}}})
	})
	reply("shop.silent", func(*nats.Msg) {})
	forged := make(chan *nats.Msg, 10)
	reply("megaphone.commit.>", func(m *nats.Msg) { forged <- m })
	must(t, services.Flush())
	creds, err := os.ReadFile(s.CredsPath())
	must(t, err)
	user, password, _ := strings.Cut(strings.TrimSpace(string(creds)), ":")
	address := strings.TrimPrefix(s.URL(), "nats://")
	conf := pollers.Config{Conn: conn, Credentials: secretsDir(t, map[string]string{
		"bus": fmt.Sprintf(`{"for":["nats://%s"],"username":%q,"password":%q}`, address, user, password),
	})}
	own := "nats:///"
	for name, tt := range map[string]struct {
		url  any
		want string
	}{
		"a micro service":     {own + "$SRV.PING.orders", "OK orders 1.2.3 answers on $SRV.PING.orders"},
		"three of them":       {object{"addr": own + "$SRV.PING.orders", "min_count": 3}, "OK orders 1.2.3 answers"},
		"no fourth":           {object{"addr": own + "$SRV.PING.orders", "min_count": 4}, "Critical 3 of at least 4 answer on $SRV.PING.orders"},
		"nobody":              {own + "$SRV.PING.none", "Critical nobody answers on $SRV.PING.none"},
		"a status document":   {own + "shop.status", "Warning queue is long"},
		"a path":              {object{"addr": own + "shop.status", "jsonpath": "status"}, "Warning Status from path status: Warning"},
		"an answer":           {object{"addr": own + "shop.echo", "body": "hi", "expect_body": "^echo hi$"}, "OK 1 answer on shop.echo"},
		"another answer":      {object{"addr": own + "shop.echo", "expect_body": "^no"}, `Critical the answer on shop.echo does not match "^no"`},
		"an error":            {own + "shop.error", "Critical answer on shop.error: error 500: out of stock"},
		"silence":             {own + "shop.silent", "Critical no answer on shop.silent in time"},
		"elsewhere":           {object{"addr": "nats://" + address + "/shop.echo", "credentials": "bus"}, "OK 1 answer on shop.echo"},
		"elsewhere, unknown":  {"nats://" + address + "/shop.echo", "Critical no answer on shop.echo in time"}, // anonymous clients may not
		"elsewhere, no peer":  {"nats://127.0.0.1:1/shop.echo", "Critical connect to 127.0.0.1:1: "},
		"elsewhere, metadata": {"nats://169.254.169.254:4222/shop.echo", "address is not polled"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f := lookAs(t, conf, tt.url)
			t.Log(says(f), string(f.Document))
			is.True(strings.Contains(says(f), tt.want))
		})
	}
	t.Run("not with the worker's rights", func(t *testing.T) {
		is := is.New(t)
		kinds, done := pollers.KindsOf(conf)
		defer done()
		for _, subject := range []string{"megaphone.commit.host.web01", "$JS.API.STREAM.DELETE.CHANGES", "$KV.LEASES.a.1", "_INBOXR.x", "a.>"} {
			f := kinds.Check(t.Context(), target(own+subject)) // as a raw event would have it
			is.True(f.Err != nil && strings.HasPrefix(f.Message, "bad registration"))
		}
		must(t, services.Flush())
		is.Equal(len(forged), 0)
	})
}

func TestICMP(t *testing.T) {
	is := is.New(t)
	f := look(t, "icmp://127.0.0.1")
	t.Log(says(f), string(f.Document))
	if strings.Contains(f.Message, "forbids") {
		is.True(strings.HasPrefix(says(f), "Unknown this system forbids echo requests without privileges: sysctl "))
		t.Skip(f.Message)
	}
	is.Equal(says(f), "OK 127.0.0.1 answers")
	f = look(t, object{"addr": "icmp://localhost", "count": 3})
	is.True(strings.Contains(string(f.Document), `"sent":3,"received":3`))
	start := time.Now()
	f = look(t, object{"addr": "icmp://240.0.0.1", "count": 2}) // reserved: nobody has it
	t.Log(says(f))
	is.True(strings.HasPrefix(says(f), "Critical "))
	is.True(time.Since(start) < 3*time.Second)
	f = look(t, "icmp://169.254.169.254")
	is.True(errors.Is(f.Err, pollers.ErrDenied))
	f = look(t, "icmp://no-such-name.invalid")
	is.True(strings.HasPrefix(says(f), "Critical ping no-such-name.invalid: "))
}
