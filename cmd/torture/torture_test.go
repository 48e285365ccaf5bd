package main

import (
	"context"
	"testing"
	"time"
)

// shortSeed plans that the bus, an aggregator and a poller are killed while another
// aggregator is stopped and another poller parted from the bus.
const shortSeed = 89

// A short attack on a bus of each kind that a gate's machine can bear. The long
// ones are run by `task torture`.
func TestTortureShort(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	for _, kind := range []string{embedded, external} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // both wait most of the time
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			ok, err := torture(ctx, options{
				Bus: kind, Seed: shortSeed, Duration: 10 * time.Second, Checks: 60,
				Interval: 2 * time.Second, TTL: 6 * time.Second, Pace: time.Second, Dir: t.TempDir(),
			}, t.Output())
			if err != nil || !ok {
				t.Fatal(err)
			}
		})
	}
}
