package main

import (
	"context"
	"testing"
	"time"
)

// A short attack on a bus of each kind that a gate's machine can bear. The long
// ones are run by `task torture`.
func TestTortureShort(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes most of a minute")
	}
	for _, kind := range []string{embedded, external} {
		t.Run(kind, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			ok, err := torture(ctx, options{
				Bus: kind, Seed: 5, Duration: 8 * time.Second, Checks: 80,
				Interval: 2 * time.Second, TTL: 20 * time.Second, Pace: 2 * time.Second, Dir: t.TempDir(),
			}, t.Output())
			if err != nil || !ok {
				t.Fatal(err)
			}
		})
	}
}
