package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// Config is what a gateway needs. Conn and Registry are required, and the caller
// runs the registry.
type Config struct {
	Conn     *bus.Conn
	Registry *bus.Registry
	Host     string // the local host, of which /, /checks and /metrics speak; empty for none
	Name     string // of this process, unique among running ones; default the connection's

	Guard GuardOptions
	// PushTokens is a file with a line "token host check [ttl]" for each check to
	// which the routes below /compat push. It is read again when it changes. Empty: none.
	PushTokens string
	// ViewFile is where the view is kept for a start while the bus is away. Empty:
	// nowhere. Nobody else may write there.
	ViewFile string

	TLS *tls.Config // nil serves plain HTTP

	// AgentCheck is where HAProxy's agent-check is answered, in plain text and
	// without any guard; nil for nowhere. Run closes it.
	AgentCheck net.Listener
	// GRPC is where gRPC's health protocol is answered, in plain text, guarded as
	// reads are; nil for nowhere. Run closes it.
	GRPC net.Listener

	// RegisterWait is how long POST /checks waits for the first result; default
	// Timeout and 0.2 s.
	RegisterWait time.Duration
	Interval     time.Duration // of polls whose registration says none; default 10 s
	Timeout      time.Duration // of polls whose registration says none; default 10 s

	Logger  *slog.Logger           // nil discards
	Version string                 // of the program
	Metrics []prometheus.Collector // of other parts of this process, shown on /metrics
}

func (c Config) withDefaults() Config {
	if c.Interval <= 0 {
		c.Interval = 10 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.RegisterWait <= 0 {
		c.RegisterWait = c.Timeout + 200*time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Name == "" {
		c.Name = c.Conn.Name()
	}
	return c
}

// Server answers over HTTP and on the bus. Make it with [New].
type Server struct {
	cfg      Config
	conn     *bus.Conn
	reg      *bus.Registry
	local    string
	log      *slog.Logger
	view     *View
	last     atomic.Pointer[View] // from the disk, answered from until view is complete; else nil
	follower *Follower
	hub      *hub
	guard    *guard
	routes   *node

	pushTokens *pushTokenFile
	jobs       jobs // that healthchecks' pings told of

	metrics http.Handler // of /metrics
	fleet   http.Handler // of /metrics/hosts

	started  time.Time
	ready    chan struct{}
	offered  chan struct{} // closed once requests on the bus are answered
	stopping chan struct{}
	streams  atomic.Int64 // clients of GET /events
	presents atomic.Int64 // those of them that are told the present state
	waiters  atomic.Int64 // clients that wait for a transition, or a poll
	rollups  rollups
	flights  flights
	catchUps chan struct{} // a place for each client that reads the stream
	date     atomic.Pointer[dateText]
}

// New makes a server; [Server.Run] does the work.
func New(c Config) *Server {
	c = c.withDefaults()
	log := c.Logger.With("component", "gateway")
	s := &Server{
		cfg: c, conn: c.Conn, reg: c.Registry, local: c.Host, log: log, view: NewView(c.Registry, c.Interval),
		hub: newHub(), guard: newGuard(c.Guard, log), pushTokens: newPushTokenFile(c.PushTokens, log), started: time.Now(),
		ready: make(chan struct{}), offered: make(chan struct{}), stopping: make(chan struct{}), catchUps: make(chan struct{}, maxCatchUps),
	}
	s.follower = NewFollower(c.Conn, c.Registry, s.view, log)
	s.follower.tell = s.hub
	s.routes = newRoutes(s.table())
	s.routes.at("/lb/{host}").kept = func(w http.ResponseWriter, r *http.Request, p []param) bool {
		return s.writeKept(w, r, p[0].value)
	}
	s.metrics, s.fleet = s.newMetrics()
	return s
}

// Ready is closed once the server answers from a complete view.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// View is what the server answers from.
func (s *Server) View() *View { return s.view }

// Limits of the HTTP server.
const (
	headerTime  = 5 * time.Second // to send a request's header
	idleTime    = 2 * time.Minute // between two requests of a connection
	writeTime   = 30 * time.Second
	maxHeader   = 16 << 10 // bytes; net/http takes 4 KiB more
	maxRequests = 100      // at the same time on one connection, with HTTP/2
	pingTime    = time.Minute
	maxWait     = time.Minute
	stopTime    = 4 * time.Second // to end the requests that are under way
	startupTime = 5 * time.Second // to load the view, beside the first polls
)

// Run serves on the listener, which it closes, until ctx ends; it then lets the
// requests under way end, for four seconds at most, and returns nil. It answers
// once its view is complete, or, where the bus does not let it, a little later
// without one. Call it once.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if s.cfg.AgentCheck != nil {
		defer s.cfg.AgentCheck.Close()
	}
	if s.cfg.GRPC != nil {
		defer s.cfg.GRPC.Close()
	}
	if err := s.valid(); err != nil {
		return err
	}
	s.restoreView()
	// The view and the bus stay until the last request has been answered.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return s.follower.Run(inner) })
	g.Go(func() error { return s.serveBus(inner) })
	g.Go(func() error {
		s.beat(inner)
		return nil
	})
	if s.cfg.ViewFile != "" {
		g.Go(func() error {
			s.keepView(inner)
			return nil
		})
	}

	serving, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(inner, stop)() // a part that fails ends the whole
	err := s.serve(serving, ln)
	cancel()
	if partErr := g.Wait(); partErr != nil && !errors.Is(partErr, context.Canceled) {
		err = errors.Join(partErr, err)
	}
	return err
}

func (s *Server) valid() error {
	if s.local != "" {
		if host, err := events.ParseHost(s.local); err != nil || host != s.local {
			return fmt.Errorf("local host %q: %w", s.local, errors.Join(err, events.ErrName))
		}
	}
	return errors.Join(s.guard.tokens.check(), s.pushTokens.check())
}

// serve answers HTTP requests until ctx ends.
func (s *Server) serve(ctx context.Context, ln net.Listener) error {
	complete := s.awaitView(ctx)
	if ctx.Err() != nil {
		return nil
	}
	crowd := newCrowd(ln, maxConns)
	srv := s.httpServer(crowd)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.listen(srv, crowd)
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve HTTP on %s: %w", ln.Addr(), err)
	})
	if agent := s.cfg.AgentCheck; agent != nil {
		g.Go(func() error { return s.serveAgent(ctx, agent) })
	}
	if calls := s.cfg.GRPC; calls != nil {
		g.Go(func() error { return s.serveGRPC(ctx, calls) })
	}
	g.Go(func() error {
		s.announce(ctx, complete)
		<-ctx.Done()
		close(s.stopping)
		defer time.AfterFunc(silentTime, crowd.hangUp).Stop()
		return s.shutDown(srv)
	})
	return g.Wait()
}

// httpServer speaks HTTP/1 and HTTP/2, the latter also without TLS where a client
// begins with it; nothing is upgraded.
func (s *Server) httpServer(crowd *crowd) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: s, ConnState: crowd.state, TLSConfig: s.cfg.TLS, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, WriteTimeout: writeTime,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), Protocols: &protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxRequests, MaxReceiveBufferPerConnection: maxBatchBytes, MaxReceiveBufferPerStream: maxBody,
			SendPingTimeout: pingTime, PingTimeout: headerTime, WriteByteTimeout: streamWrite,
		},
	}
}

func (s *Server) listen(srv *http.Server, ln net.Listener) error {
	if s.cfg.TLS != nil {
		return srv.ServeTLS(ln, "", "")
	}
	return srv.Serve(ln)
}

func (s *Server) shutDown(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("requests were cut off: %w", err), srv.Close())
	}
	return nil
}

// untilStop returns a context that ends, too, when the server lets the requests under
// way end: for what only waits.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); wg.Wait() }
}

// announce closes ready when the view is complete and requests on the bus are
// answered.
func (s *Server) announce(ctx context.Context, complete bool) {
	if !complete {
		select {
		case <-s.follower.Ready():
		case <-ctx.Done():
			return
		}
	}
	s.forgetLast()
	select {
	case <-s.offered:
	case <-ctx.Done():
		return
	}
	close(s.ready)
}

// awaitView waits until the view is complete; after a start from the original's
// cache file alone, until each check of the local host has its first result.
func (s *Server) awaitView(ctx context.Context) (complete bool) {
	patience := startupTime
	if s.last.Load() != nil && !s.conn.NATS().IsConnected() {
		patience = 0 // there is something to answer, and nothing to wait for
	}
	loading, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-s.follower.Ready():
		s.forgetLast()
	case <-loading.Done():
		s.log.Warn("the view is not complete yet; answers say so")
		return false
	}
	if !s.reg.FromCache() || s.local == "" {
		return true
	}
	polling, cancel := context.WithTimeout(ctx, s.cfg.Timeout+firstMargin)
	defer cancel()
	for _, e := range s.reg.HostChecks(s.local) {
		if !e.Registration.Push() && !s.awaitFirst(polling, e.Registration.ID, e.Position) {
			s.log.Info("checks without a first result are pending", "check", e.Registration.ID)
			break
		}
	}
	return true
}

// firstMargin is how long beyond a poll's timeout its result may take to show.
const firstMargin = time.Second

// awaitFirst waits until the first result of the registration of a local check
// at a position shows, or ctx ends. It is more patient than View.WaitFirst: the
// aggregator may be starting too, or busy.
func (s *Server) awaitFirst(ctx context.Context, id string, position uint64) bool {
	for !s.view.WaitFirst(ctx, s.local, id, position) {
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// beat tells the bus that this gateway is there, also after a time in which it
// could not.
func (s *Server) beat(ctx context.Context) {
	for ctx.Err() == nil {
		if err := bus.RunHeartbeat(ctx, s.conn, s.heartbeat); err != nil {
			s.log.Debug("heartbeat", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(bus.HeartbeatInterval):
		}
	}
}

// heartbeat tells of this gateway.
func (s *Server) heartbeat() events.Heartbeat {
	return events.Heartbeat{Role: roleName, Name: s.cfg.Name, Host: s.local, Version: s.cfg.Version, Started: events.At(s.started)}
}

const roleName = "gateway"

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["X-Content-Type-Options"] = headerNosniff
	h["Content-Security-Policy"] = headerPolicy
	if age := s.follower.Age(time.Now()); age > 0 {
		h.Set("Age", strconv.Itoa(int(age.Seconds()))) // the answer is from before the bus went away
	}
	if r.ContentLength != 0 {
		// Until somebody reads it. Not every ResponseWriter has deadlines; those of net/http have.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadTime))
	}
	if len(r.TransferEncoding) > 0 {
		// Where a proxy before us saw a Content-Length too, what follows could be
		// its next client's request, or one that was smuggled past it.
		h["Connection"] = headerClose
	}
	n, params := s.routes.find(r.URL.EscapedPath())
	if n == nil || len(n.methods) == 0 {
		s.notFound(w, r)
		return
	}
	rt := n.methods[r.Method]
	if rt == nil && r.Method == http.MethodHead {
		rt = n.methods[http.MethodGet]
	}
	if rt == nil {
		h.Set("Allow", n.allow)
		s.refuseRoute(w, r, n.legacy, http.StatusMethodNotAllowed, "Method not allowed.")
		return
	}
	if err := s.admit(&r, rt); err != nil {
		if n.legacy {
			s.failLegacy(w, r, "", err)
		} else {
			s.fail(w, r, err)
		}
		return
	}
	if n.kept != nil && n.kept(w, r, params) {
		return
	}
	for _, p := range params {
		r.SetPathValue(p.name, p.value)
	}
	rt.handle(w, r)
}

var (
	headerClose   = []string{"close"}
	headerNosniff = []string{"nosniff"}
	headerPolicy  = []string{"default-src 'none'; frame-ancestors 'none'; sandbox"}
)

type writerKey struct{}

// admit asks the guard; who writes is kept in the request.
func (s *Server) admit(r **http.Request, rt *route) error {
	switch {
	case rt.open:
		return nil
	case rt.method == http.MethodGet || rt.method == http.MethodOptions:
		return s.guard.read(*r)
	}
	by, err := s.guard.write(*r)
	if err == nil && by != "" {
		*r = (*r).WithContext(context.WithValue((*r).Context(), writerKey{}, by))
	}
	return err
}

// writer is the name of the token or certificate of a write; may be empty.
func writer(r *http.Request) string {
	by, _ := r.Context().Value(writerKey{}).(string)
	return by
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.refuseRoute(w, r, !newPath(r.URL.Path) && !probePath(r.URL.Path), http.StatusNotFound, "Not found: "+r.URL.Path)
}

func (s *Server) refuseRoute(w http.ResponseWriter, r *http.Request, legacy bool, code int, text string) {
	if legacy {
		writeErrorPage(w, code, text)
		return
	}
	s.fail(w, r, refuse(code, "%s", text))
}
