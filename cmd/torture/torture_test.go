package main

import (
	"cmp"
	"context"
	"os"
	"testing"
	"time"
)

// shortSeeds plan, where a disk can be made full, that an aggregator and a poller
// are killed while another aggregator is stopped and another poller is parted or
// deaf; and that the bus meets a full disk, or is killed and flooded.
var shortSeeds = map[string]uint64{embedded: 12144, external: 14743}

// A short attack on a bus of each kind that a gate's machine can bear. The long
// ones are run by `task torture`.
func TestTortureShort(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	for kind, seed := range shortSeeds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // both wait most of the time
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			ok, err := torture(ctx, options{
				Bus: kind, Seed: seed, Duration: 10 * time.Second, Checks: 60,
				Interval: 2 * time.Second, TTL: 6 * time.Second, Pace: time.Second, Dir: t.TempDir(),
				NATS: cmp.Or(os.Getenv("NATS_CLI"), without), // .ci/run builds it
			}, t.Output())
			if err != nil || !ok {
				t.Fatal(err)
			}
		})
	}
}
