package server

import "testing"

// LimitConsumers makes another number of consumers the most, until the test ends.
func LimitConsumers(t *testing.T, n int) {
	before := maxConsumers
	maxConsumers = n
	t.Cleanup(func() { maxConsumers = before })
}
