package pollers

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcred "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	grpcmeta "google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// grpcSeen is the document of a gRPC health answer.
type grpcSeen struct {
	Service     string       `json:"service"`
	Status      string       `json:"status"`
	Certificate *certificate `json:"certificate,omitempty"`
}

// grpc asks the health service, version 1, of a server: grpc://host:port/service,
// over TLS with grpcs. Without a service it is the whole server that is asked for.
func (n network) grpc(ctx context.Context, t events.Target, o events.Options) Finding {
	u, err := url.Parse(t.Addr)
	if err != nil {
		return failed(t, fmt.Errorf("%q is not an address", t.Addr))
	}
	secure := strings.EqualFold(u.Scheme, "grpcs")
	opts, err := n.grpcOptions(o, secure)
	if err != nil {
		return failed(t, err)
	}
	if ctx, err = n.grpcCredentials(ctx, o, u); err != nil {
		return failed(t, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+u.Host, opts...)
	if err != nil {
		return failed(t, fmt.Errorf("%s: %w", u.Host, err))
	}
	defer conn.Close()
	service := strings.Trim(u.Path, "/")
	var from grpcpeer.Peer
	answer, err := health.NewHealthClient(conn).Check(ctx, &health.HealthCheckRequest{Service: service}, grpc.Peer(&from))
	if err != nil {
		return failed(t, grpcTrouble(u.Host, service, err))
	}
	var v verdict
	seen := grpcSeen{Service: service, Status: answer.Status.String()}
	if info, ok := from.AuthInfo.(grpcred.TLSInfo); ok {
		seen.Certificate = expiry(&v, &info.State, orDays(o.CertWarningDays, certWarningDays), orDays(o.CertCriticalDays, certCriticalDays), time.Now())
	}
	switch answer.Status {
	case health.HealthCheckResponse_SERVING:
	case health.HealthCheckResponse_UNKNOWN:
		v.say(events.Unknown, "%s", grpcText(u.Host, service, answer.Status.String()))
	default:
		v.say(events.Critical, "%s", grpcText(u.Host, service, answer.Status.String()))
	}
	return found(t, v.status(), v.message(grpcText(u.Host, service, answer.Status.String())), seen)
}

func grpcText(host, service, is string) string {
	if service == "" {
		return host + " is " + is
	}
	return service + " at " + host + " is " + is
}

// grpcOptions are those of one connection that is used once: nothing is tried
// again, and no proxy of the worker's environment is in between.
func (n network) grpcOptions(o events.Options, secure bool) ([]grpc.DialOption, error) {
	opts := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return n.dialer.DialContext(ctx, "tcp", address)
		}),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithUserAgent(n.agent),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(events.MaxDocument)),
	}
	if !secure {
		return append(opts, grpc.WithTransportCredentials(insecure.NewCredentials())), nil
	}
	conf, err := n.secrets.tlsConfig(nil, o)
	if err != nil {
		return nil, err
	}
	return append(opts, grpc.WithTransportCredentials(grpcred.NewTLS(conf))), nil
}

// grpcCredentials adds those that the options name to a call.
func (n network) grpcCredentials(ctx context.Context, o events.Options, u *url.URL) (context.Context, error) {
	if o.Credentials == "" {
		return ctx, nil
	}
	c, err := n.secrets.credentials(o.Credentials, u, o.ServerName) // it is the authority of the call, too
	if err != nil {
		return ctx, err
	}
	return grpcmeta.AppendToOutgoingContext(ctx, "authorization", c.header()), nil
}

func grpcTrouble(host, service string, err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.NotFound:
		return fmt.Errorf("%s knows no service %q", host, service)
	case codes.Unimplemented:
		return fmt.Errorf("%s has no health service (grpc.health.v1)", host)
	case codes.DeadlineExceeded: // the server knows our deadline, and may end the call a moment before we do
		return fmt.Errorf("%s: no answer in time: %s", host, events.Cut(s.Message(), 300))
	}
	if strings.Contains(s.Message(), errDenied.Error()) { // grpc keeps the text alone
		return fmt.Errorf("%s: %w: %s", host, errDenied, s.Message())
	}
	return fmt.Errorf("%s: %s: %s", host, s.Code(), events.Cut(s.Message(), 300))
}
