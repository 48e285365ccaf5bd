package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// ServiceName is the name of the NATS micro service.
const ServiceName = "megaphone"

// maxCalls is how many requests of one endpoint are carried out at the same time,
// those for polls aside, which do little but wait.
const maxCalls = 64

// offerTime bounds the wait for the bus to know that requests are answered.
const offerTime = 5 * time.Second

// call is a request of the bus service, carried out.
type call func(ctx context.Context, body []byte) (answer any, err error)

// serveBus answers requests on the bus until ctx ends. Any number of gateways
// share the work: one that knows nothing yet leaves it to the others.
func (s *Server) serveBus(ctx context.Context) error {
	select {
	case <-s.follower.Ready():
	case <-ctx.Done():
		return nil
	}
	svc, err := micro.AddService(s.conn.NATS(), micro.Config{
		Name: ServiceName, Version: semver(s.cfg.Version), Description: "Registrations, overrides and statuses of hosts and checks.",
		Metadata: map[string]string{"gateway": s.cfg.Name, "host": s.local, "version": s.cfg.Version},
	})
	if err != nil {
		return fmt.Errorf("offer the service %s on the bus: %w", ServiceName, err)
	}
	var calls sync.WaitGroup
	defer calls.Wait()
	defer func() {
		if err := svc.Stop(); err != nil {
			s.log.Debug("stop the service on the bus", "error", err)
		}
	}()
	for _, e := range []struct {
		name, subject string
		most          int // requests at the same time; others wait in the subscription
		run           call
	}{
		{"register", events.RegisterRequest, maxCalls, s.callRegister},
		{"deregister", events.DeregisterRequest, maxCalls, s.callDeregister},
		{"override", events.OverrideRequest, maxCalls, s.callOverride},
		{"status", events.StatusRequest, maxCalls, s.callStatus},
		{"present", events.PresentRequest, maxCalls, s.callPresent},
		{"poll", events.PollRequest, maxWaiters, s.callPoll},
	} {
		err := svc.AddEndpoint(e.name, s.endpoint(ctx, &calls, e.most, e.run), micro.WithEndpointSubject(e.subject))
		if err != nil {
			return fmt.Errorf("offer %s on the bus: %w", e.subject, err)
		}
	}
	if err := s.conn.NATS().FlushTimeout(offerTime); err != nil {
		s.log.Debug("offer the service on the bus", "error", err) // it is offered when the bus is back
	}
	close(s.offered)
	<-ctx.Done()
	return nil
}

var semverForm = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// semver makes a version fit for a micro service, which takes no other.
func semver(v string) string {
	if v = strings.TrimPrefix(v, "v"); semverForm.MatchString(v) {
		return v
	}
	return "0.0.0"
}

// endpoint runs each request in a goroutine of its own: a write waits for the disk.
func (s *Server) endpoint(ctx context.Context, calls *sync.WaitGroup, most int, run call) micro.Handler {
	places := make(chan struct{}, most)
	return micro.HandlerFunc(func(r micro.Request) {
		places <- struct{}{}
		calls.Go(func() {
			defer func() { <-places }()
			s.answer(ctx, r, run)
		})
	})
}

// answer carries out a request and replies. It replies by the connection and not
// by the request's own methods: those note a failure in a field that the micro
// library reads as soon as its handler has returned, which ours does at once.
func (s *Server) answer(ctx context.Context, r micro.Request, run call) {
	reply := &nats.Msg{Subject: r.Reply()}
	answer, err := run(ctx, r.Data())
	if err == nil {
		reply.Data = encode(answer)
		if most := s.conn.NATS().MaxPayload(); int64(len(reply.Data)) > most {
			err = refuse(http.StatusRequestEntityTooLarge, "the answer has %d bytes, the bus carries %d: ask the gateway over HTTP", len(reply.Data), most)
			reply.Data = nil
		}
	}
	if err != nil {
		code, detail := codeOf(err)
		if code >= 500 {
			s.log.Warn("request on the bus was not carried out", "subject", r.Subject(), "error", err)
		}
		reply.Header = nats.Header{micro.ErrorHeader: {detail}, micro.ErrorCodeHeader: {strconv.Itoa(code)}}
	}
	if err := s.conn.NATS().PublishMsg(reply); err != nil {
		s.log.Debug("answer on the bus", "subject", r.Subject(), "error", err) // nobody waits, or the bus is away
	}
}

// hostOr is a host that a request names, or the local one.
func (s *Server) hostOr(name string) (string, error) {
	if name == "" && s.local != "" {
		return s.local, nil
	}
	return events.ParseHost(name)
}

func (s *Server) callRegister(ctx context.Context, body []byte) (any, error) {
	var reg events.Registration
	if err := decodeObject(body, &reg); err != nil {
		return nil, err
	}
	host, err := s.hostOr(reg.Host)
	if err != nil {
		return nil, err
	}
	reg.Host = host
	if reg.Origin == "" || events.LocalOrigin(reg.Origin) {
		reg.Origin = "nats" // those are the configuration's alone
	}
	if err := reg.ValidateStrict(); err != nil {
		return nil, err
	}
	position, _, err := s.register(ctx, reg)
	return bus.Stored{Position: position}, err
}

func (s *Server) callDeregister(ctx context.Context, body []byte) (any, error) {
	var d events.Deregistration
	if err := decodeObject(body, &d); err != nil {
		return nil, err
	}
	host, err := s.hostOr(d.Host)
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.deregister(ctx, host, d.Check, d.Reason)
}

func (s *Server) callOverride(ctx context.Context, body []byte) (any, error) {
	var o bus.OverrideRequest
	if err := decodeObject(body, &o); err != nil {
		return nil, err
	}
	if o.Name == "" {
		host, err := s.hostOr(o.Host)
		if err != nil {
			return nil, err
		}
		o.Host = host
	}
	if o.Clear {
		return struct{}{}, s.clearOverride(ctx, o.Host, o.Check, o.Name)
	}
	o.Global = nil
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return struct{}{}, s.setOverride(ctx, o.Override)
}

// callStatus answers from memory: all hosts, or a host with its checks, or a
// check; the zero query is about the local host without its checks.
func (s *Server) callStatus(_ context.Context, body []byte) (any, error) {
	var q events.StatusQuery
	if len(body) > 0 {
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, refuse(http.StatusBadRequest, "the request: %v", err)
		}
	}
	now := time.Now()
	a := events.StatusAnswer{Local: s.local}
	if q.Host == "" && (q.All || s.local == "") {
		a.Hosts, _ = s.seen().Hosts(HostFilter{}, now)
		return a, nil
	}
	host, err := s.hostOr(q.Host)
	if err != nil {
		return nil, err
	}
	if q.Check != "" {
		view, ok := s.seen().Check(host, q.Check, now)
		if !ok {
			return nil, noCheck(host, q.Check)
		}
		a.Checks = []events.CheckView{view}
		return a, nil
	}
	view, err := s.hostView(host)
	if err != nil {
		return nil, err
	}
	a.Hosts = []events.HostView{view}
	if q.Host != "" { // who only asks for the local host's name gets a short answer
		a.Checks, _ = s.seen().Checks(host, now)
	}
	return a, nil
}
