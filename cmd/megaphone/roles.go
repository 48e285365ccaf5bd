package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/aggregator"
	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
	"github.com/looprock/megaphone/gateway"
	"github.com/looprock/megaphone/pollers"
)

func newPoller() *cobra.Command {
	return longRunning("poller", "Poll checks, on a bus elsewhere", parts{worker: true},
		"Poll a share of the checks on the bus that --bus names. Any number of pollers share the work of a pool.")
}

func newAggregator() *cobra.Command {
	return longRunning("aggregator", "Reduce results to statuses, on a bus elsewhere", parts{aggregator: true},
		"Reduce results to statuses on the bus that --bus names. Any number of aggregators share the hosts.")
}

func newGateway() *cobra.Command {
	return longRunning("gateway", "Serve HTTP, on a bus elsewhere", parts{gateway: true},
		"Answer over HTTP what is on the bus that --bus names, and take in registrations and pushes. --host \"\" serves\n"+
			"no host of its own.")
}

// startRegistry fills this process's copy of what is registered, and makes the
// aggregator, which is told of invalid events from the first one on.
func (p *instance) startRegistry(ctx context.Context) error {
	o := bus.RegistryOptions{File: p.data.file("registrations.jsonl"), Local: p.host, Logger: p.log}
	if p.parts.gateway {
		o.Cache = p.cfg.Cache
	}
	var agg *aggregator.Aggregator
	if p.parts.aggregator {
		o.Invalid = func(subject string, position uint64, reason string, data []byte) {
			agg.Invalid(subject, position, reason, data)
		}
	}
	p.reg = bus.NewRegistry(p.conn, o)
	if p.parts.aggregator {
		agg = aggregator.New(aggregator.Config{
			Conn: p.conn, Registry: p.reg, Name: p.name, Holder: p.data.id,
			Interval: p.cfg.Interval, Version: version(), Logger: p.log,
		})
	}
	p.actors.start("registrations", p.reg.Run)
	if agg != nil {
		p.actors.start("aggregator", agg.Run)
	}
	if p.away {
		return nil
	}
	return p.actors.wait(ctx, p.reg.Ready())
}

func (p *instance) startWorker(context.Context) error {
	if !p.parts.worker {
		return nil
	}
	c := pollers.Config{
		Conn: p.conn, Registry: p.reg, Name: p.name, Holder: p.data.id,
		Pool: p.cfg.Pool, Host: p.host, Interval: p.cfg.Interval, Timeout: p.cfg.Timeout,
		Concurrency: p.cfg.Concurrency, PerHost: p.cfg.PerHost, Canaries: p.cfg.Canaries, SelfCheck: p.server == nil, Version: version(), Logger: p.log,
		Deny: p.cfg.PollDeny, Credentials: p.cfg.Credentials,
	}
	if len(p.cfg.PollAllow) > 0 {
		c.Networks = p.cfg.PollAllow
	}
	c.Local, c.Discovery = p.localCheck, p.found
	p.worker = pollers.New(c)
	p.actors.start("worker", p.worker.Run)
	return nil
}

// lastViewFile is where the gateway keeps its view, in the data directory.
const lastViewFile = "view.json"

// localCheck returns what this process's own configuration registers as a check.
func (p *instance) localCheck(host, check string) (r events.Registration, ok bool) {
	if p.local != nil {
		r, ok = p.local.Get(host, check)
	}
	if !ok && p.found != nil {
		r, ok = p.found.Check(host, check)
	}
	return r, ok
}

// never is a wait that is over at once; to the gateway, zero is "not given".
const never = time.Nanosecond

// startGateway returns once the gateway answers. Until then its port is closed:
// a prober must not take a start for a failure.
func (p *instance) startGateway(ctx context.Context) error {
	if !p.parts.gateway {
		return nil
	}
	wait := p.cfg.RegisterWait
	if wait == 0 {
		wait = never
	}
	certificates, err := serverTLS(p.cfg, p.log)
	if err != nil {
		return err
	}
	c := gateway.Config{
		Conn: p.conn, Registry: p.reg, Host: p.host, Name: p.name,
		Guard: gateway.GuardOptions{
			TokenFile: p.cfg.TokenFile, WriteFrom: p.cfg.WriteFrom, HTTPNames: p.cfg.HTTPNames,
			ReadToken: p.cfg.Read == readToken,
		},
		PushTokens: p.cfg.PushTokens,
		TLS:        certificates, RegisterWait: wait, Interval: p.cfg.Interval, Timeout: p.cfg.Timeout,
		Logger: p.log, Version: version(),
	}
	if p.server == nil { // an embedded bus comes and goes with the gateway
		c.ViewFile = p.data.file(lastViewFile)
	}
	if p.worker != nil {
		c.Metrics = append(c.Metrics, p.worker)
	}
	l, opened := newLateListener(p.cfg.Listen, p.cfg.Port), []*lateListener{}
	agent := lateListenerAt("agent-check", p.cfg.AgentCheck)
	if agent != nil {
		c.AgentCheck, opened = agent, append(opened, agent)
	}
	calls := lateListenerAt("grpc", p.cfg.GRPC)
	if calls != nil {
		c.GRPC, opened = calls, append(opened, calls)
	}
	g := gateway.New(c)
	p.actors.start("gateway", func(ctx context.Context) error { return g.Run(ctx, l) })
	waits := []<-chan struct{}{l.opened}
	if !p.away {
		waits = append(waits, g.Ready())
	}
	for _, other := range opened {
		waits = append(waits, other.opened)
	}
	for _, ready := range waits {
		if err := p.actors.wait(ctx, ready); err != nil {
			return err
		}
	}
	scheme := "http"
	if certificates != nil {
		scheme = "https"
	}
	p.ready.HTTP = httpURL(scheme, p.cfg.Listen, l.Addr())
	if agent != nil {
		p.ready.Agent = agent.Addr().String()
	}
	if calls != nil {
		p.ready.GRPC = calls.Addr().String()
	}
	return nil
}
