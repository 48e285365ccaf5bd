package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// gRPC's health protocol, version 1, for hosts, checks and roll-ups. The name of a
// service is what the line of agent-check is: host[/check][?policy], or that of a
// roll-up; the empty one is the local host.

// Limits of the gRPC listener.
const (
	grpcConns   = 1024             // connections at the same time; others wait in the kernel
	grpcStreams = 100              // calls of one connection at the same time
	grpcMessage = 4 << 10          // bytes of a request
	grpcHeader  = 8 << 10          // bytes of its headers
	grpcHello   = 5 * time.Second  // to say that it speaks HTTP/2
	grpcIdle    = 5 * time.Minute  // without a call
	grpcPing    = time.Minute      // between two questions whether the other side is there
	grpcPong    = 20 * time.Second // to answer one
	grpcLook    = time.Second      // between two looks at what changes by the clock alone
	grpcStop    = 2 * time.Second  // to end what is under way
	grpcList    = 100              // services that List tells at most; the protocol says so
)

// serveGRPC answers on the listener, which it closes, until ctx ends.
func (s *Server) serveGRPC(ctx context.Context, ln net.Listener) error {
	srv := grpc.NewServer(
		grpc.MaxConcurrentStreams(grpcStreams), grpc.MaxRecvMsgSize(grpcMessage), grpc.MaxHeaderListSize(grpcHeader), grpc.ConnectionTimeout(grpcHello),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: grpcIdle, Time: grpcPing, Timeout: grpcPong}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := s.admitCall(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, st grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := s.admitCall(st.Context()); err != nil {
				return err
			}
			return next(srv, st)
		}),
	)
	health.RegisterHealthServer(srv, &healthService{s: s})
	var ended sync.WaitGroup
	defer ended.Wait()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	ended.Go(func() {
		<-serving.Done()
		defer time.AfterFunc(grpcStop, srv.Stop).Stop()
		srv.GracefulStop()
	})
	if err := srv.Serve(limitListener(ln, grpcConns)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", ln.Addr(), err)
	}
	return nil
}

// admitCall asks the guard whether a call may read.
func (s *Server) admitCall(ctx context.Context) error {
	r := &http.Request{Header: http.Header{}}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		r.Header["Authorization"] = md.Get("authorization")
	}
	if err := s.guard.read(r); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	return nil
}

// healthService answers from the view.
type healthService struct {
	health.UnimplementedHealthServer
	s *Server
}

type servingStatus = health.HealthCheckResponse_ServingStatus

// Check tells how a service is; one that is not there is NOT_FOUND.
func (h *healthService) Check(_ context.Context, req *health.HealthCheckRequest) (*health.HealthCheckResponse, error) {
	w, err := h.watched(req.GetService())
	if err != nil {
		return nil, err
	}
	now := w.status(time.Now())
	if now == health.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Error(codes.NotFound, w.missing().Error())
	}
	return &health.HealthCheckResponse{Status: now}, nil
}

// Watch tells how a service is, and again whenever that changes. A slow reader
// misses what was true only in between.
func (h *healthService) Watch(req *health.HealthCheckRequest, stream grpc.ServerStreamingServer[health.HealthCheckResponse]) error {
	w, err := h.watched(req.GetService())
	if err != nil {
		return err
	}
	if h.s.waiters.Add(1) > maxWaiters {
		h.s.waiters.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d readers wait already", maxWaiters)
	}
	defer h.s.waiters.Add(-1)
	if w.rollup != nil {
		leave, err := h.s.rollups.watch(w.rollup)
		if err != nil {
			return status.Error(codes.ResourceExhausted, err.Error())
		}
		defer leave()
	}
	look := time.NewTicker(grpcLook)
	defer look.Stop()
	told := servingStatus(-1)
	for {
		changed := w.changes() // before the look at it: what comes in between is not missed
		if now := w.status(time.Now()); now != told {
			if err := stream.Send(&health.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			told = now
		}
		select {
		case <-changed:
		case <-look.C:
		case <-h.s.stopping:
			return status.Error(codes.Unavailable, "the gateway stops")
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// List tells all services, hosts and checks, by the default policy. There may be
// 100 at most, else it is RESOURCE_EXHAUSTED.
func (h *healthService) List(context.Context, *health.HealthListRequest) (*health.HealthListResponse, error) {
	now := time.Now()
	all := map[string]*health.HealthCheckResponse{"": {Status: (&service{s: h.s, host: h.s.local}).status(now)}}
	hosts, _ := h.s.seen().Hosts(HostFilter{Limit: grpcList}, now)
	for i := range hosts {
		add := append(h.s.seen().sightChecks(hosts[i].Host), sight{host: hosts[i].Host})
		if len(all)+len(add) > grpcList {
			return nil, status.Errorf(codes.ResourceExhausted, "there are more than %d hosts and checks: ask for one by Check or Watch", grpcList)
		}
		for j := range add {
			one := service{s: h.s, host: add[j].host, check: add[j].check}
			all[add[j].name()] = &health.HealthCheckResponse{Status: one.status(now)}
		}
	}
	return &health.HealthListResponse{Statuses: all}, nil
}

// service is what a name of the health protocol means.
type service struct {
	s           *Server
	host, check string
	policy      policy
	rollup      *rollup // instead of a host
}

func (h *healthService) watched(name string) (*service, error) {
	if name == "" && h.s.local == "" {
		return &service{s: h.s}, nil
	}
	if strings.HasPrefix(name, rollupPrefix) {
		r, err := parseRollup(name)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return &service{s: h.s, rollup: r}, nil
	}
	host, check, p, err := parseAgentLine(name, h.s.local)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &service{s: h.s, host: host, check: check, policy: p}, nil
}

// status is that of the service at now; a gateway without a local host is as
// well as one can be.
func (w *service) status(now time.Time) servingStatus {
	var v verdict
	switch {
	case w.rollup != nil:
		v = w.s.rolledUp(w.rollup, now)
	case w.host == "":
		return health.HealthCheckResponse_SERVING
	default:
		v = absent
		if seen, ok := w.s.sight(w.host, w.check, now); ok {
			v = w.policy.decide(&seen, now)
		}
	}
	switch {
	case v == absent:
		return health.HealthCheckResponse_SERVICE_UNKNOWN
	case v.works():
		return health.HealthCheckResponse_SERVING
	}
	return health.HealthCheckResponse_NOT_SERVING
}

// changes is closed at the next change; nil, which is never, of what is not there,
// and of a roll-up: most changes would be of other hosts.
func (w *service) changes() <-chan struct{} {
	if w.rollup != nil {
		return nil
	}
	return w.s.seen().watch(w.host, w.check)
}

// missing is the refusal of what is not there.
func (w *service) missing() error {
	if w.rollup != nil {
		return refuse(http.StatusNotFound, "%s chooses no host", w.rollup.name)
	}
	return missing(w.host, w.check)
}

// over is closed.
var over = func() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// watch returns what is closed at the next change of a host or check, nil for
// one that is not registered.
func (v *View) watch(host, check string) <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.hosts[host]
	switch {
	case v.over:
		return over
	case h == nil || !h.registered():
		return nil
	}
	if check == "" {
		return watched(&h.watch)
	}
	if c := h.checks[check]; c != nil && c.entry != nil {
		return watched(&c.watch)
	}
	return nil
}

// limited is a listener with at most so many connections open; Accept waits for
// one to close.
type limited struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limitListener(ln net.Listener, most int) net.Listener {
	return &limited{Listener: ln, places: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for a place, then for a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, leave: func() { <-l.places }}, nil
}

// Close ends Accept.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close gives the place to another.
func (c *limitedConn) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}
