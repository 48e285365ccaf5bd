package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/looprock/megaphone/bus"
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

func (p *instance) invalid(*bus.RegistryOptions) {}

func (p *instance) startAggregator(context.Context) error { return nil }

func (p *instance) startWorker(context.Context) error { return nil }

func (p *instance) startGateway(context.Context) error { return nil }
