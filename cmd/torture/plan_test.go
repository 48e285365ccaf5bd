package main

import (
	"slices"
	"testing"
	"time"

	"github.com/matryer/is"
)

var busNodes = []string{"nats1", "nats2", "nats3"}

// planned has every kind of target.
var planned = setting{
	Roles: []string{"aggregator1", "aggregator2", "poller1", "gateway1"}, Bus: busNodes,
	Disks: busNodes, Streams: []string{"CHANGES"}, Relays: []string{"watch"}, Watch: []string{"watch"}, Pace: 4 * time.Second,
}

func TestPlanIsTheSeeds(t *testing.T) {
	is := is.New(t)
	is.Equal(plan(7, time.Hour, planned), plan(7, time.Hour, planned))
	is.True(!slices.Equal(plan(7, time.Hour, planned), plan(8, time.Hour, planned)))
}

func TestPlanHoldsBounds(t *testing.T) {
	is := is.New(t)
	for seed := range uint64(50) {
		busy := map[string]time.Duration{}
		seen := map[act]int{}
		for _, f := range plan(seed, time.Hour, planned) {
			seen[f.Act]++
			is.True(f.At+f.Hold <= time.Hour)
			is.True(f.Hold <= 20*time.Second)
			if f.Act == stepDown || f.Act == cut || f.Act == flood {
				continue
			}
			key, rest := f.Target, recovery
			if f.Target == anyBus || slices.Contains(busNodes, f.Target) {
				key, rest = "any of the bus", busRecovery
			}
			is.True(f.At >= busy[key]) // only one at a time, and after it recovered
			busy[key] = f.At + f.Hold + rest
		}
		is.Equal(len(seen), 11) // every act comes up
	}
}
