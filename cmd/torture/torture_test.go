package main

import (
	"context"
	"testing"
	"time"
)

// A short attack on each kind of bus that one machine of a gate can bear. The long
// ones are run by `task torture`.
func TestTortureShort(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ok, err := torture(ctx, options{
		Bus: embedded, Seed: 5, Duration: 20 * time.Second, Checks: 120,
		Interval: 2 * time.Second, TTL: 20 * time.Second, Pace: 2 * time.Second, Dir: t.TempDir(),
	}, t.Output())
	if err != nil || !ok {
		t.Fatal(err)
	}
}
